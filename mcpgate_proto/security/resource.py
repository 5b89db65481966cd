"""What a client is told of how to get in: challenges (RFC 6750) and protected resource metadata (RFC 9728).

Owns: `Challenges`: the `WWW-Authenticate` value, the metadata document and its paths (J2-J4).
Must never: put anything of a peer into a header, or name an upstream's authorization server (J9).
"""

from __future__ import annotations

from urllib.parse import urlsplit

from mcpgate_proto.config import AuthConfig
from mcpgate_proto.wire import jsonrpc

__all__ = ["WELL_KNOWN", "Challenges"]

WELL_KNOWN = "/.well-known/oauth-protected-resource"


class Challenges:
    """Made from the settings. `paths` is empty where there is no issuer to send anybody to."""

    def __init__(self, config: AuthConfig) -> None:
        parts = urlsplit(config.resource)
        inserted = WELL_KNOWN + (parts.path if parts.path != "/" else "")
        self._metadata_url = f"{parts.scheme}://{parts.netloc}{inserted}" if config.issuers else ""
        # J3: all scopes that a call needs, at once.
        self._scopes = tuple(dict.fromkeys(scope for one in config.issuers for scope in one.scopes))
        # RFC 9728 section 3.1 inserts the well-known path; clients look at the root too.
        self.paths = tuple(dict.fromkeys((inserted, WELL_KNOWN))) if config.issuers else ()
        document: dict[str, object] = {
            "resource": config.resource,
            "authorization_servers": [one.issuer for one in config.issuers],
            "bearer_methods_supported": ["header"],
            "resource_name": "mcpgate",
        }
        if self._scopes:
            document["scopes_supported"] = list(self._scopes)
        self.document = bytes(jsonrpc.to_raw(document))

    def bearer(
        self, error: str = "", description: str = "", scopes: tuple[str, ...] | None = None
    ) -> tuple[str, str]:
        """The header that goes with 400, 401 and 403. `description` is ours and holds no quotes."""
        told = {
            "resource_metadata": self._metadata_url,
            "scope": " ".join(self._scopes if scopes is None else scopes),
            "error": error,
            "error_description": description,
        }
        # RFC 6750 section 3: at least one parameter follows the scheme.
        fields = [f'{name}="{value}"' for name, value in told.items() if value] or ['realm="mcpgate"']
        return ("WWW-Authenticate", "Bearer " + ", ".join(fields))
