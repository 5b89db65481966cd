"""What one revision cannot carry for another: results, questions and answers, converted where they must be.

Owns: pure conversions of members (protocol.md L2, L5). Must never: touch what needs no conversion.
"""

from __future__ import annotations

from mcpgate_proto.mcp import meta
from mcpgate_proto.wire import jsonrpc, values
from mcpgate_proto.wire.jsonrpc import Raw

__all__ = ["bare_answer", "embedded"]

# Members of a legacy request that an embedded question must not have (L1.3).
_LEGACY_ONLY = ("task", "elicitationId")


def embedded(method: str, params: dict[str, Raw]) -> dict[str, Raw]:
    """The params of a question as they stand inside `inputRequests`."""
    kept = values.without(params, *_LEGACY_ONLY)
    if "_meta" in kept:
        rest = meta.end_to_end(values.object_or_empty(kept["_meta"]))
        kept = values.without(kept, "_meta")
        if rest:
            kept["_meta"] = jsonrpc.encode_object(rest)
    return kept


def bare_answer(answer: Raw) -> Raw:
    """A client's answer as a legacy server expects it: a bare object, without what results carry elsewhere."""
    members = values.object_or_empty(answer)
    if "_meta" not in members and "resultType" not in members:
        return answer
    return jsonrpc.encode_object(values.without(members, "_meta", "resultType"))
