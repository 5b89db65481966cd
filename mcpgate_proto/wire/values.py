"""Lenient readings of single members, where anything of the wrong shape means "not there".

Owns: small readers over `Raw`. Must never: be used where a wrong shape has to be refused (`jsonrpc.members`).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from mcpgate_proto.wire import jsonrpc
from mcpgate_proto.wire.jsonrpc import Raw

__all__ = [
    "EMPTY",
    "encode_id",
    "is_object",
    "items",
    "number",
    "object_or_empty",
    "same_id",
    "text_of",
    "without",
]

EMPTY = Raw(b"{}")
_numbers = msgspec.json.Decoder(float)
_lists = msgspec.json.Decoder(list[Raw])


def number(raw: Raw) -> float | None:
    """A JSON number as float, else None."""
    try:
        return _numbers.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def object_or_empty(raw: Raw) -> dict[str, Raw]:
    """An object's members, or none for anything else."""
    try:
        return jsonrpc.members(raw)
    except jsonrpc.JsonFault:
        return {}


def same_id(id: jsonrpc.RequestId, raw: Raw) -> bool:
    """Whether `raw` is this id, however it is spelled in JSON; 1 and "1" differ (A2)."""
    return jsonrpc.text(raw) == id if isinstance(id, str) else jsonrpc.integer(raw) == id


def items(raw: Raw) -> list[Raw] | None:
    """An array's elements, else None."""
    try:
        return _lists.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def is_object(raw: Raw) -> bool:
    """Whether this is a JSON object; nothing is said of its members."""
    return bytes(raw)[:1] == b"{"


def encode_id(id: jsonrpc.RequestId) -> str:
    """A key that keeps the type: 1 and "1" differ (A2)."""
    return bytes(jsonrpc.to_raw(id)).decode("utf-8")


def text_of(members: Mapping[str, Raw], name: str) -> str | None:
    """The string member `name`, else None."""
    raw = members.get(name)
    return None if raw is None else jsonrpc.text(raw)


def without(members: Mapping[str, Raw], *names: str) -> dict[str, Raw]:
    """A copy that lacks `names`."""
    return {name: raw for name, raw in members.items() if name not in names}
