"""Content blocks and structured content, as an older revision can take them.

Owns: the conversion of one block, of a list of blocks and of `structuredContent` (protocol.md L5, H7). Must
never: touch a block that the revision knows, or lose what it removes without a word in its place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TypeAlias

from mcpgate_proto.mcp.revisions import Revision
from mcpgate_proto.wire import jsonrpc, values
from mcpgate_proto.wire.jsonrpc import Raw

__all__ = [
    "Members",
    "down_block",
    "down_blocks",
    "down_structured",
    "is_array",
    "is_object",
    "mapped",
    "sampling_note",
    "text_block",
]

Members: TypeAlias = dict[str, Raw]

# What a block has beside its annotations, `_meta` and members that we do not know: gone with its kind.
_AUDIO_OWN = ("type", "data", "mimeType")
_LINK_OWN = ("type", "uri", "name", "title", "description", "mimeType", "size", "icons")


def is_object(raw: Raw) -> bool:
    """Whether the value is a JSON object."""
    return bytes(memoryview(raw)[:1]) == b"{"


def is_array(raw: Raw) -> bool:
    """Whether the value is a JSON array."""
    return bytes(memoryview(raw)[:1]) == b"["


def mapped(array: Raw, convert: Callable[[int, Raw], Raw | None]) -> Raw:
    """The array with each element converted, None meaning "left out"; the same object if nothing changed.

    `convert` gets the position, from 1. What is no array stays as it is.
    """
    elements = values.items(array)
    if elements is None:
        return array
    found = [convert(number, element) for number, element in enumerate(elements, 1)]
    if all(new is old for new, old in zip(found, elements, strict=True)):
        return array
    return jsonrpc.to_raw([new for new in found if new is not None])


def text_block(text: str, kept: Mapping[str, Raw] | None = None) -> Raw:
    """A text block; `kept` are members of the block in whose place it stands."""
    told = {"type": Raw(b'"text"'), "text": jsonrpc.to_raw(text)}
    return jsonrpc.encode_object({**(kept or {}), **told})


# ----------------------------------------------------------------------------------- blocks of results


def down_blocks(content: Raw, revision: Revision) -> Raw:
    """A list of blocks of a tool's result."""
    if revision.audio and revision.resource_links:
        return content
    return mapped(content, lambda number, block: down_block(block, revision, number))


def down_block(block: Raw, revision: Revision, number: int) -> Raw:
    """One block of a tool's result or a prompt (L5). `number` tells the blocks of one result apart."""
    if revision.audio and revision.resource_links:
        return block
    members = values.object_or_empty(block)
    kind = values.text_of(members, "type")
    if kind == "audio" and not revision.audio:
        return _embedded_audio(members, number)
    if kind == "resource_link" and not revision.resource_links:
        return _told_link(members)
    return block


def sampling_note(block: Raw, revision: Revision) -> Raw:
    """One block of a sampling message: these never hold resources, so audio becomes a note (L5)."""
    if revision.audio:
        return block
    members = values.object_or_empty(block)
    if values.text_of(members, "type") != "audio":
        return block
    return _audio_note(members)


def _embedded_audio(members: Members, number: int) -> Raw:
    data = members.get("data")
    if data is None or jsonrpc.text(data) is None:
        return _audio_note(members)
    # The schema wants a URI. This one names a place in the result and can be read nowhere.
    resource = {"uri": jsonrpc.to_raw(f"urn:mcpgate:audio:{number}"), "blob": data}
    if values.text_of(members, "mimeType") is not None:
        resource["mimeType"] = members["mimeType"]
    kept = values.without(members, *_AUDIO_OWN)
    return jsonrpc.encode_object(
        {**kept, "type": Raw(b'"resource"'), "resource": jsonrpc.encode_object(resource)}
    )


def _audio_note(members: Members) -> Raw:
    what = values.text_of(members, "mimeType") or "unknown type"
    note = f"[audio ({what}), which this revision of the protocol cannot carry]"
    return text_block(note, values.without(members, *_AUDIO_OWN))


def _told_link(members: Members) -> Raw:
    """The URI is the point of a link; its names and description are for whoever reads it."""
    name = values.text_of(members, "title") or values.text_of(members, "name")
    uri = values.text_of(members, "uri") or ""
    lines = [f"{name}: {uri}" if name else uri]
    description = values.text_of(members, "description")
    if description:
        lines.append(description)
    return text_block("\n".join(lines), values.without(members, *_LINK_OWN))


# ---------------------------------------------------------------------------------- structured content


def down_structured(members: Members, revision: Revision) -> Members:
    """A tool's result, or a `tool_result` block: `structuredContent` goes where the revision cannot carry it.

    Before 2025-06-18 there is none, before 2026-07-28 only objects (L5, sep/2106). The value then has to
    stand in the content as text: it is added unless the server has already said it there, as H7 asks of it.
    """
    value = members.get("structuredContent")
    if value is None or revision.structured_any or (revision.structured_content and is_object(value)):
        return members
    kept = values.without(members, "structuredContent")
    content = kept.get("content")
    blocks = [] if content is None else values.items(content)
    if blocks is not None and not _is_told(blocks, value):
        blocks.append(text_block(str(bytes(value), "utf-8", "replace")))
        kept["content"] = jsonrpc.to_raw(blocks)
    return kept


def _is_told(blocks: list[Raw], value: Raw) -> bool:
    """Whether the text blocks say what `value` says.

    Besides the serialized value itself that is what SDK servers send: a string as it is, a list one text for
    each element, and `{"result": value}` for what is no object. `null` adds nothing to any text.
    """
    texts = [text for text in map(_text_in, blocks) if text is not None]
    if not texts or bytes(value) == b"null":
        return bool(texts)
    if _say(texts, value):
        return True
    wrapped = values.object_or_empty(value)
    return len(wrapped) == 1 and "result" in wrapped and _say(texts, wrapped["result"])


def _text_in(block: Raw) -> str | None:
    members = values.object_or_empty(block)
    return values.text_of(members, "text") if values.text_of(members, "type") == "text" else None


def _say(texts: list[str], value: Raw) -> bool:
    plain = _canonical(bytes(value))
    own = jsonrpc.text(value)
    if any(text == own or (plain is not None and _canonical(text.encode()) == plain) for text in texts):
        return True
    parts = values.items(value)
    if parts is None or len(parts) != len(texts):
        return False
    return all(
        text == jsonrpc.text(part) or _canonical(text.encode()) == (_canonical(bytes(part)) or "")
        for text, part in zip(texts, parts, strict=True)
    )


def _canonical(data: bytes) -> str | None:
    """One spelling for equal values; None for what is no JSON."""
    try:
        return json.dumps(jsonrpc.plain(data), sort_keys=True)
    except (jsonrpc.JsonFault, ValueError, RecursionError):
        return None
