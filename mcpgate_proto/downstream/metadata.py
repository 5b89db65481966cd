"""Protected resource metadata (RFC 9728): where a client gets a token for us (J2).

Owns: that one document, as an endpoint that needs no credentials. Must never: tell of anything else.
"""

from __future__ import annotations

from mcpgate_proto.downstream.http import HttpClient
from mcpgate_proto.downstream.http_headers import JSON
from mcpgate_proto.security.gate import Authenticator
from mcpgate_proto.wire import http1_server as http1

__all__ = ["ResourceMetadata"]

# RFC 9728 section 7.10 leaves it open; a new issuer should be seen within the hour.
CACHE = ("Cache-Control", "max-age=3600")


class ResourceMetadata:
    """Implements `http.Open`."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    def get(self, http: HttpClient, head: http1.RequestHead) -> None:
        http.respond(200, [("Content-Type", JSON), CACHE], self._authenticator.challenges.document)
