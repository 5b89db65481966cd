"""Headers of the HTTP face: fixed ones, those for browsers of other origins (CORS), and what `Accept` allows.

Owns: these words and pure functions over them. Must never: name a wildcard as an origin (threats.md row 34).
"""

from __future__ import annotations

from mcpgate_proto.wire.http1_grammar import Headers

__all__ = [
    "ALLOWED_METHODS",
    "EVENTS",
    "JSON",
    "REQUEST_METHOD",
    "RETRY_SOON",
    "STREAM_HEADERS",
    "accepts",
    "cors",
    "preflight",
]

JSON = "application/json"
EVENTS = "text/event-stream"
STREAM_HEADERS = [("Content-Type", EVENTS), ("Cache-Control", "no-cache"), ("X-Accel-Buffering", "no")]
ALLOWED_METHODS = "GET, POST, DELETE, OPTIONS"
# C8: wildcards do not cover Authorization; `Mcp-Param-*` is reflected from what was asked for.
ALLOWED_HEADERS = (
    "Accept, Authorization, Content-Type, Last-Event-ID, MCP-Protocol-Version",
    "Mcp-Method, Mcp-Name, Mcp-Session-Id",
)
RETRY_SOON = ("Retry-After", "2")
EXPOSED_HEADERS = "Mcp-Session-Id, WWW-Authenticate"
# What tells a preflight from other OPTIONS.
REQUEST_METHOD = "access-control-request-method"


def cors(origin: str) -> list[tuple[str, str]]:
    """For an origin that passed the door; never a wildcard (threats.md row 34)."""
    return [
        ("Access-Control-Allow-Origin", origin),
        ("Access-Control-Expose-Headers", EXPOSED_HEADERS),
        ("Vary", "Origin"),
    ]


def preflight(headers: Headers) -> list[tuple[str, str]]:
    """What a page of an origin that may call is allowed to send; nothing where it is no preflight."""
    if not headers.get(REQUEST_METHOD):
        return []
    asked = headers.get("access-control-request-headers") or ""
    params = [name.strip() for name in asked.split(",") if name.strip().lower().startswith("mcp-param-")]
    return [
        ("Access-Control-Allow-Methods", ALLOWED_METHODS),
        ("Access-Control-Allow-Headers", ", ".join([*ALLOWED_HEADERS, *params[:32]])),
        ("Access-Control-Max-Age", "600"),
    ]


def accepts(value: str | None, kind: str) -> bool:
    """Whether an Accept header allows `kind` (C6: `*/*` and q-values honoured; absent means anything)."""
    if value is None or not value.strip():
        return True
    family = kind.split("/", 1)[0]
    for part in value.lower().split(","):
        name, *params = [piece.strip() for piece in part.split(";")]
        if name in (kind, f"{family}/*", "*/*") and "q=0" not in params and "q=0.0" not in params:
            return True
    return False
