"""HTTP/1.1 for both roles: the public names of `http1_grammar`, `http1_server` and `http1_client`.

Owns: nothing of its own. Must never: hold behaviour.
"""

from __future__ import annotations

from mcpgate_proto.wire.http1_client import (
    ClientEvent,
    Failed,
    HttpClientCodec,
    ResponseData,
    ResponseEnd,
    ResponseHead,
)
from mcpgate_proto.wire.http1_grammar import Headers
from mcpgate_proto.wire.http1_server import (
    Aborted,
    HttpServerCodec,
    PeerClosed,
    Phase,
    Refused,
    RequestBody,
    RequestHead,
    ServerEvent,
)

__all__ = [
    "Aborted",
    "ClientEvent",
    "Failed",
    "Headers",
    "HttpClientCodec",
    "HttpServerCodec",
    "PeerClosed",
    "Phase",
    "Refused",
    "RequestBody",
    "RequestHead",
    "ResponseData",
    "ResponseEnd",
    "ResponseHead",
    "ServerEvent",
]
