"""What one revision cannot carry for another: results and definitions, converted where they must be.

Owns: pure conversions of members between the client's revision and the server's (protocol.md L5, L6, L20,
L21), and the one place from which all of them are imported: blocks are in `content_blocks`, tools in
`content_tools`, questions and answers in `content_questions`. Must never: touch what needs no conversion
(unchanged parts are the same `Raw` objects), raise for a peer's value, or know of connections and sessions.

"Down" is towards a legacy client or server, "up" towards a modern one.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from mcpgate_proto.mcp import meta
from mcpgate_proto.mcp.content_blocks import (
    Members,
    down_block,
    down_blocks,
    down_structured,
    is_object,
    mapped,
)
from mcpgate_proto.mcp.content_questions import (
    Refused,
    answer_for_legacy,
    answer_for_modern,
    bare_answer,
    declares,
    down_question,
    error_answer,
    lacking,
    up_question,
)
from mcpgate_proto.mcp.content_tools import down_tool, up_tool, with_support
from mcpgate_proto.mcp.revisions import Revision
from mcpgate_proto.wire import jsonrpc, values
from mcpgate_proto.wire.jsonrpc import Raw

__all__ = [
    "ItemKind",
    "Members",
    "Refused",
    "answer_for_legacy",
    "answer_for_modern",
    "bare_answer",
    "declares",
    "down_item",
    "down_params",
    "down_question",
    "down_result",
    "error_answer",
    "lacking",
    "tool_failure",
    "up_item",
    "up_question",
    "up_result",
    "with_support",
]

ItemKind: TypeAlias = Literal["tools", "prompts", "resources", "templates"]

# Members of modern results that no legacy revision has (L5); a modern face sets its own.
_MODERN_ONLY = ("resultType", "ttlMs", "cacheScope")
# More values than this are no valid completion in a modern schema; older ones only say so in prose (H17).
_COMPLETIONS = 100


# --------------------------------------------------------------------------------------------- results


def down_result(method: str, result: Members, revision: Revision) -> Members:
    """The result of `method` for a legacy client of `revision` (L5); the same dict if nothing has to change.

    The elements of lists are converted one by one, by `down_item`.
    """
    if revision.result_type:
        return result
    kept = _without_modern_members(result)
    # `related-task` is for peers with tasks (L22).
    kept = meta.bare(kept, meta.RELATED_TASK) if revision.tasks else meta.bare(kept)
    if method == "tools/call":
        kept = down_structured(kept, revision)
        if "content" in kept:
            kept = _replaced(kept, "content", down_blocks(kept["content"], revision))
    elif method == "prompts/get" and "messages" in kept and not (revision.audio and revision.resource_links):
        messages = mapped(kept["messages"], lambda n, message: _down_message(message, revision, n))
        kept = _replaced(kept, "messages", messages)
    return kept


def up_result(method: str, result: Members) -> Members:
    """A legacy server's result of `method` for a modern client; the same dict if nothing has to change.

    Whoever sends it adds `resultType` (L6) and, for what can be cached, `ttlMs` and `cacheScope` (H22): what
    a legacy server may have put there is not meant so.
    """
    kept = meta.bare(_without_modern_members(result))
    if method == "completion/complete" and "completion" in kept:
        kept = _replaced(kept, "completion", _up_completion(kept["completion"]))
    return kept


def down_params(method: str, params: Members, revision: Revision) -> Members:
    """The params of a request for a legacy server of `revision`; the same dict if nothing has to change."""
    if method == "completion/complete" and "context" in params and not revision.completion_context:
        return values.without(params, "context")  # L21
    return params


def tool_failure(text: str) -> Members:
    """The result of a tool that the gateway itself kept from running: the model is to read why (H5)."""
    return {"content": jsonrpc.to_raw([{"type": "text", "text": text}]), "isError": Raw(b"true")}


def _without_modern_members(result: Members) -> Members:
    if "resultType" in result or "ttlMs" in result or "cacheScope" in result:
        return values.without(result, *_MODERN_ONLY)
    return result


def _replaced(members: Members, name: str, value: Raw) -> Members:
    return members if members[name] is value else {**members, name: value}


def _down_message(message: Raw, revision: Revision, number: int) -> Raw:
    """One message of a prompt: its content is one block."""
    members = values.object_or_empty(message)
    content = members.get("content")
    if content is None:
        return message
    block = down_block(content, revision, number)
    return message if block is content else jsonrpc.encode_object({**members, "content": block})


def _up_completion(completion: Raw) -> Raw:
    members = values.object_or_empty(completion)
    told = members.get("values")
    found = None if told is None else values.items(told)
    if found is None or len(found) <= _COMPLETIONS:
        return completion
    cut = {**members, "values": jsonrpc.to_raw(found[:_COMPLETIONS]), "hasMore": Raw(b"true")}
    return jsonrpc.encode_object(cut)


# ----------------------------------------------------------------------------------------- definitions


def down_item(kind: ItemKind, raw: Raw, revision: Revision) -> Raw:
    """A definition for a legacy client of `revision`; the same object if nothing has to change.

    Only tools have parts that an older revision cannot carry: titles, icons, annotations and sizes are
    harmless extras to it (L5).
    """
    if kind != "tools" or revision.structured_any:
        return raw
    return down_tool(raw, revision)


def up_item(kind: ItemKind, raw: Raw) -> Raw | None:
    """A legacy server's definition for a modern client, or None if it cannot be shown to one (L20)."""
    if not is_object(raw):
        return None
    return up_tool(raw) if kind == "tools" else raw
