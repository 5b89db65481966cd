"""The `_meta` member: which keys belong to one hop, which travel from end to end.

Owns: the reserved key names, the reading of a modern request's metadata (A18, F8), the split (L0.1).
Must never: let a hop's facts (versions, identities, tokens, log levels) cross to the other hop.
"""

from __future__ import annotations

import msgspec

from mcpgate_proto.wire import jsonrpc, values
from mcpgate_proto.wire.jsonrpc import Raw

__all__ = [
    "CLIENT_CAPABILITIES",
    "CLIENT_INFO",
    "LOG_LEVEL",
    "PROTOCOL_VERSION",
    "RELATED_TASK",
    "SERVER_INFO",
    "SUBSCRIPTION_ID",
    "RequestMeta",
    "bare",
    "declared_in",
    "declaring",
    "end_to_end",
    "read",
    "version_in",
]

_NS = "io.modelcontextprotocol/"
PROTOCOL_VERSION = _NS + "protocolVersion"
CLIENT_CAPABILITIES = _NS + "clientCapabilities"
CLIENT_INFO = _NS + "clientInfo"
LOG_LEVEL = _NS + "logLevel"
SUBSCRIPTION_ID = _NS + "subscriptionId"
SERVER_INFO = _NS + "serverInfo"
RELATED_TASK = _NS + "related-task"

HOP_KEYS = frozenset(
    {
        "progressToken",
        PROTOCOL_VERSION,
        CLIENT_CAPABILITIES,
        CLIENT_INFO,
        LOG_LEVEL,
        SUBSCRIPTION_ID,
        SERVER_INFO,
        RELATED_TASK,
    }
)


class RequestMeta(msgspec.Struct, frozen=True):
    """What a modern request says of itself."""

    version: str
    capabilities: dict[str, Raw]
    progress_token: Raw | None
    log_level: Raw | None
    rest: dict[str, Raw]


def end_to_end(members: dict[str, Raw]) -> dict[str, Raw]:
    """What passes from hop to hop: vendor keys and trace context (L0.1, M2)."""
    return {key: raw for key, raw in members.items() if key not in HOP_KEYS}


def bare(message: dict[str, Raw], *kept: str) -> dict[str, Raw]:
    """Params or a result with what of their `_meta` is end to end, and the keys in `kept`; the same dict if
    nothing has to change. A `_meta` that is no object, or that parsers may read differently, is dropped."""
    if "_meta" not in message:
        return message
    told = values.object_or_empty(message["_meta"])
    left = {key: raw for key, raw in told.items() if key not in HOP_KEYS or key in kept}
    if left and len(left) == len(told):
        return message
    rest = values.without(message, "_meta")
    return {**rest, "_meta": jsonrpc.encode_object(left)} if left else rest


def version_in(params: dict[str, Raw]) -> str | None:
    """The protocol version that a request's `_meta` names, if any: the selector of eras (C40)."""
    raw = params.get("_meta")
    return None if raw is None else values.text_of(values.object_or_empty(raw), PROTOCOL_VERSION)


def declaring(capabilities: Raw) -> Raw:
    """A `_meta` that says no more than what is declared."""
    return jsonrpc.encode_object({CLIENT_CAPABILITIES: capabilities})


def declared_in(params: dict[str, Raw]) -> Raw:
    """What `declaring` put there."""
    told = values.object_or_empty(params.get("_meta", values.EMPTY))
    return told.get(CLIENT_CAPABILITIES, values.EMPTY)


def read(params: dict[str, Raw]) -> RequestMeta | str:
    """The metadata of a modern request, or what is wrong with it (A18: answered -32602)."""
    raw = params.get("_meta")
    if raw is None:
        return "params._meta is missing"
    try:
        meta = jsonrpc.members(raw)
    except jsonrpc.JsonFault:
        return "params._meta is not an object"
    version = values.text_of(meta, PROTOCOL_VERSION)
    if version is None:
        return f"params._meta lacks {PROTOCOL_VERSION}"
    declared = meta.get(CLIENT_CAPABILITIES)
    if declared is None:
        return f"params._meta lacks {CLIENT_CAPABILITIES}"
    try:
        capabilities = jsonrpc.members(declared)
    except jsonrpc.JsonFault:
        return f"params._meta.{CLIENT_CAPABILITIES} is not an object"
    return RequestMeta(
        version, capabilities, meta.get("progressToken"), meta.get(LOG_LEVEL), end_to_end(meta)
    )
