"""What servers ask of clients in the middle of a call, and the answers, between revisions.

Owns: elicitation, sampling and roots requests towards a client of another revision, and their answers on the
way back (protocol.md I6, I12, L1.3, L2.2, L2.3, L4, L5). Must never: put a question of a kind that the client
has not declared (I4), look at a URL (I7), or make up an answer beyond those that L4 and L5 name.
"""

from __future__ import annotations

import msgspec

from mcpgate_proto.mcp import codes, meta
from mcpgate_proto.mcp.codes import Fault, FaultKind
from mcpgate_proto.mcp.content_blocks import (
    Members,
    down_structured,
    is_array,
    is_object,
    mapped,
    sampling_note,
)
from mcpgate_proto.mcp.content_tools import down_tool, up_tool
from mcpgate_proto.mcp.revisions import Revision
from mcpgate_proto.wire import jsonrpc, values
from mcpgate_proto.wire.jsonrpc import Raw

__all__ = [
    "Refused",
    "answer_for_legacy",
    "answer_for_modern",
    "bare_answer",
    "declares",
    "down_question",
    "error_answer",
    "lacking",
    "up_question",
]

ELICIT = "elicitation/create"
SAMPLE = "sampling/createMessage"
ROOTS = "roots/list"

# Members of a legacy request that an embedded question must not have (L1.3).
_LEGACY_ONLY = ("task", "elicitationId")
_CANCEL = Raw(b'{"action":"cancel"}')
_DECLINE = Raw(b'{"action":"decline"}')
_NONE = Raw(b'"none"')
# Capabilities that a question may need.
_ELICITATION = Raw(b'{"elicitation":{}}')
_URL_MODE = Raw(b'{"elicitation":{"url":{}}}')
_SAMPLING = Raw(b'{"sampling":{}}')
_SAMPLING_TOOLS = Raw(b'{"sampling":{"tools":{}}}')
_ROOTS = Raw(b'{"roots":{}}')
_PRIMITIVES = frozenset({"string", "number", "integer", "boolean"})


class Refused(msgspec.Struct, frozen=True):
    """A question or an answer that the other side cannot be given. One of the two members is set.

    `result` answers whoever asked in place of the client; `fault` says why the call cannot go on.
    """

    result: Raw | None = None
    fault: Fault | None = None


# ------------------------------------------------------------------------------ towards a modern client


def up_question(method: str, params: Members, *, aggregated: bool = False) -> Members:
    """A legacy server's question as it stands inside `inputRequests` (L1.3).

    `aggregated`: more servers than this one are behind the client's endpoint (I12).
    """
    kept = _bare(params)
    if method == SAMPLE:
        if aggregated:
            _narrow_context(kept)
        if "tools" in kept:
            kept["tools"] = mapped(kept["tools"], lambda _, tool: up_tool(tool))
    return kept


def _bare(params: Members) -> Members:
    """A copy without the ids, the task and the facts of the hop that the question came over (L0.1)."""
    return meta.bare(values.without(params, *_LEGACY_ONLY))


def _narrow_context(params: Members) -> None:
    """To the host `thisServer` means all that is behind the gateway: nobody asked for that (I12)."""
    told = params.get("includeContext")
    if told is not None and jsonrpc.text(told) != "none":
        params["includeContext"] = _NONE


# ------------------------------------------------------------------------------ towards a legacy client


def down_question(
    method: str,
    params: Members,
    revision: Revision,
    capabilities: Members,
    elicitation_id: str,
    *,
    aggregated: bool = False,
) -> Members | Refused:
    """A question for a legacy client of `revision` that declared `capabilities` (L2.2, L5).

    `elicitation_id` goes with the URL kind, where the revision requires one; the caller mints it.
    """
    kept = _bare(params)
    if method == ELICIT:
        return _down_elicitation(kept, revision, capabilities, elicitation_id)
    if method == SAMPLE:
        if aggregated:
            _narrow_context(kept)
        return _down_sampling(kept, revision, capabilities)
    if method != ROOTS:
        return _unsupported("the server asked for something that no client of a legacy revision knows")
    return kept if _declared(capabilities, "roots") else _lacking(_ROOTS)


def _declared(capabilities: Members, name: str) -> bool:
    raw = capabilities.get(name)
    return raw is not None and is_object(raw)


def lacking(method: str, params: Members, capabilities: Members) -> Raw | None:
    """What a question of a server needs beyond `capabilities`, in the form of `requiredCapabilities`; None if
    it may be put (I3, I4)."""
    if method == ELICIT:
        return _lacking_mode(values.text_of(params, "mode") == "url", capabilities)
    if method == ROOTS:
        return None if _declared(capabilities, "roots") else _ROOTS
    if not _declared(capabilities, "sampling"):
        return _SAMPLING
    modes = values.object_or_empty(capabilities["sampling"])
    return _SAMPLING_TOOLS if "tools" in params and "tools" not in modes else None


def _lacking_mode(url: bool, capabilities: Members) -> Raw | None:
    if not _declared(capabilities, "elicitation"):
        return _URL_MODE if url else _ELICITATION
    modes = values.object_or_empty(capabilities["elicitation"])
    if url:
        return None if _declared(modes, "url") else _URL_MODE
    # I3: `{}` is form, `{"url":{}}` is not.
    return Raw(b'{"elicitation":{"form":{}}}') if "url" in modes and "form" not in modes else None


def declares(capabilities: Members, required: Members) -> bool:
    """Whether `required`, as a server names it, is all in `capabilities`, down to the modes (L8)."""
    for name, wanted in required.items():
        if name not in capabilities:
            return False
        modes = values.object_or_empty(capabilities[name])
        if name == "elicitation" and not modes:
            modes = {"form": values.EMPTY}  # I3
        if any(mode not in modes for mode in values.object_or_empty(wanted)):
            return False
    return True


def _lacking(required: Raw) -> Refused:
    return Refused(fault=codes.missing_capability(required))


def _unsupported(why: str) -> Refused:
    return Refused(fault=Fault(FaultKind.UNSUPPORTED, why))


# -- elicitation


def _down_elicitation(
    params: Members, revision: Revision, capabilities: Members, elicitation_id: str
) -> Members | Refused:
    mode = values.text_of(params, "mode") if "mode" in params else "form"  # I5
    if mode not in ("form", "url"):
        return _unsupported("the server asked in a mode that is neither form nor url")
    url = mode == "url"
    if not revision.elicitation or (url and not revision.elicitation_url):
        return _lacking(_URL_MODE if url else _ELICITATION)  # L3
    missing = _lacking_mode(url, capabilities)
    # Before 2025-11-25 there are no modes to declare.
    if missing is not None and (revision.elicitation_url or not _declared(capabilities, "elicitation")):
        return _lacking(missing)
    if values.text_of(params, "message") is None:
        return _unsupported("the server's question has no message")
    if url:
        if values.text_of(params, "url") is None:
            return _unsupported("the server's question has no URL")
        return _with_id(params, elicitation_id) if revision.elicitation_ids else params
    if not revision.elicitation_url:
        params = values.without(params, "mode")
    elif "mode" not in params:
        params = {"mode": Raw(b'"form"'), **params}
    return _down_form(params, revision)


def _with_id(params: Members, elicitation_id: str) -> Members:
    return {**params, "elicitationId": jsonrpc.to_raw(elicitation_id)}


def _down_form(params: Members, revision: Revision) -> Members | Refused:
    schema = params.get("requestedSchema")
    if schema is None or not is_object(schema):
        return _unsupported("the server's question has no form")
    if revision.elicitation_rich:
        return params
    form = values.object_or_empty(schema)
    fields = values.object_or_empty(form.get("properties", values.EMPTY))
    told: Members = {}
    for name, field in fields.items():
        legacy = _down_field(field)
        if legacy is None:
            return Refused(result=_DECLINE)  # L5, L26
        told[name] = legacy
    if all(told[name] is field for name, field in fields.items()):
        return params
    narrowed = jsonrpc.encode_object({**form, "properties": jsonrpc.encode_object(told)})
    return {**params, "requestedSchema": narrowed}


def _down_field(field: Raw) -> Raw | None:
    """One field of a form for 2025-06-18 (I6), None if that revision has nothing like it."""
    members = values.object_or_empty(field)
    kind = values.text_of(members, "type")
    if kind not in _PRIMITIVES:
        return None
    kept = members
    if "oneOf" in kept:
        options = _titled_options(kept["oneOf"])
        if kind != "string" or options is None:
            return None
        kept = {**values.without(kept, "oneOf", "default"), **options}
    elif "default" in kept and kind != "boolean":
        kept = values.without(kept, "default")
    return field if kept is members else jsonrpc.encode_object(kept)


def _titled_options(one_of: Raw) -> Members | None:
    """`oneOf` of constants with titles, as `enum` and `enumNames`."""
    options = values.items(one_of)
    if options is None:
        return None
    constants: list[Raw] = []
    titles: list[Raw] = []
    for option in options:
        members = values.object_or_empty(option)
        if values.text_of(members, "const") is None:
            return None
        constants.append(members["const"])
        titles.append(members["title"] if values.text_of(members, "title") is not None else members["const"])
    return {"enum": jsonrpc.to_raw(constants), "enumNames": jsonrpc.to_raw(titles)}


# -- sampling


def _down_sampling(params: Members, revision: Revision, capabilities: Members) -> Members | Refused:
    if not _declared(capabilities, "sampling"):
        return _lacking(_SAMPLING)
    declared = values.object_or_empty(capabilities["sampling"])
    tools = revision.sampling_tools and _declared(declared, "tools")
    if not tools and ("tools" in params or "toolChoice" in params):
        return _lacking(_SAMPLING_TOOLS)  # I4
    messages = values.items(params.get("messages", values.EMPTY))
    if messages is None:
        return _unsupported("the server's question has no messages")
    told: list[Raw] = []
    for message in messages:
        legacy = _down_message(message, revision, tools=tools)
        if isinstance(legacy, Refused):
            return legacy
        told.append(legacy)
    kept = params
    if any(new is not old for new, old in zip(told, messages, strict=True)):
        kept = {**kept, "messages": jsonrpc.to_raw(told)}
    if "tools" in kept:
        # Definitions for this one request: their names are the server's own (I13).
        offered = mapped(kept["tools"], lambda _, tool: down_tool(tool, revision))
        if offered is not kept["tools"]:
            kept = {**kept, "tools": offered}
    return kept


def _down_message(message: Raw, revision: Revision, *, tools: bool) -> Raw | Refused:
    members = values.object_or_empty(message)
    content = members.get("content")
    if content is None:
        return message
    legacy = _down_content(content, revision, tools=tools)
    if isinstance(legacy, Refused):
        return legacy
    return message if legacy is content else jsonrpc.encode_object({**members, "content": legacy})


def _down_content(content: Raw, revision: Revision, *, tools: bool) -> Raw | Refused:
    """The content of a sampling message or answer: one block, or since 2025-11-25 a list of them (I11)."""
    if not is_array(content):
        return _down_sampling_block(content, revision, tools=tools)
    blocks = values.items(content) or []
    if not revision.sampling_tools:
        if len(blocks) != 1:
            return _unsupported(f"a sampling message has one block in revision {revision.version}")
        return _down_sampling_block(blocks[0], revision, tools=tools)
    told: list[Raw] = []
    for block in blocks:
        legacy = _down_sampling_block(block, revision, tools=tools)
        if isinstance(legacy, Refused):
            return legacy
        told.append(legacy)
    same = all(new is old for new, old in zip(told, blocks, strict=True))
    return content if same else jsonrpc.to_raw(told)


def _down_sampling_block(block: Raw, revision: Revision, *, tools: bool) -> Raw | Refused:
    members = values.object_or_empty(block)
    kind = values.text_of(members, "type")
    if kind in ("tool_use", "tool_result"):
        if not tools:
            return _lacking(_SAMPLING_TOOLS)
        if kind == "tool_result":
            kept = down_structured(members, revision)
            return block if kept is members else jsonrpc.encode_object(kept)
    return sampling_note(block, revision)


# --------------------------------------------------------------------------------------------- answers


def bare_answer(answer: Raw) -> Raw:
    """A client's answer as a legacy server expects it: without what results carry elsewhere (L1.5)."""
    members = values.object_or_empty(answer)
    if "_meta" not in members and "resultType" not in members:
        return answer
    return jsonrpc.encode_object(values.without(members, "_meta", "resultType"))


def answer_for_legacy(method: str, answer: Raw, revision: Revision) -> Raw | Refused:
    """A client's answer for a legacy server of `revision`, which may know fewer kinds of content (L5)."""
    bare = bare_answer(answer)
    if method != SAMPLE or (revision.sampling_tools and revision.structured_any):
        return bare
    members = values.object_or_empty(bare)
    if "content" not in members:
        return bare
    legacy = _down_content(members["content"], revision, tools=revision.sampling_tools)
    if isinstance(legacy, Refused):
        return _unsupported(
            f"the client answered with content that revision {revision.version} does not have"
        )
    if legacy is members["content"]:
        return bare
    return jsonrpc.encode_object({**members, "content": legacy})


def answer_for_modern(method: str, answer: Raw) -> Raw:
    """A legacy client's answer as it stands in `inputResponses` (L2.3); the same object if it can stay."""
    members = values.object_or_empty(answer)
    kept = members
    if "_meta" in kept or "resultType" in kept:
        kept = values.without(kept, "_meta", "resultType")
    if method == ELICIT and "content" in kept and bytes(kept["content"]) == b"null":
        # Some clients write the content that a decline does not have; the schema wants an object or nothing.
        kept = values.without(kept, "content")
    return answer if kept is members else jsonrpc.encode_object(kept)


def error_answer(method: str, fault: Fault) -> Raw | None:
    """What stands in `inputResponses` for a client's error, None if the call has to be ended (L4)."""
    return _CANCEL if method == ELICIT else None
