"""JSON-RPC 2.0 envelopes: strict decoding of what a peer sent, and encoding of what we send.

Owns: the one place where bytes become messages (protocol.md A1-A10, A20, A21; threats.md 2), and the
small readers of one JSON value. Params, results and error data stay `Raw`: their text is passed on
unread, so that numbers keep their digits and unknown members survive.
Must never: know what a method means, let a newline through to line framing, accept a text that two
parsers could read differently (duplicate names, lone surrogates, invalid UTF-8), or raise for a peer's
bytes. `decode` answers with `Malformed`; only the readers of a single value raise `JsonFault`.

What msgspec checks in a value that it keeps as `Raw`: the grammar of numbers, literals, escapes and
control characters, and that surrogate escapes come in pairs. What it does not check, and we do: UTF-8,
depth, duplicate names. A `Raw` is a view that keeps the whole message alive: see `detach`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeAlias

import msgspec
from msgspec import UNSET, Raw, UnsetType

from mcpgate_proto.errors import RemoteProtocolError
from mcpgate_proto.limits import Limits
from mcpgate_proto.wire.json_scan import NUMBER_DIGITS, deeper_than, holds_large_number

__all__ = [
    "INVALID_REQUEST",
    "PARSE_ERROR",
    "ErrorReply",
    "JsonFault",
    "Malformed",
    "Message",
    "Notification",
    "Raw",
    "Request",
    "RequestId",
    "Result",
    "boolean",
    "decode",
    "detach",
    "encode_error",
    "encode_notification",
    "encode_object",
    "encode_request",
    "encode_result",
    "integer",
    "is_batch",
    "is_empty_batch",
    "members",
    "plain",
    "text",
    "to_raw",
]

# JSON-RPC 2.0 section 5.1: the two codes that an envelope alone can earn.
PARSE_ERROR = -32700
INVALID_REQUEST = -32600

# A signed 64-bit number has at most 19 digits and an unsigned one 20; nobody counts further (threats.md 2).
ID_DIGITS = 20

RequestId: TypeAlias = int | str


class JsonFault(RemoteProtocolError):
    """A JSON value that is not what its reader expects. The text is ours."""


class Request(msgspec.Struct, frozen=True, gc=False):
    """A call that wants an answer. `id` keeps its type: `1` is not `"1"` (A2). Absent params are `{}`."""

    id: RequestId
    method: str
    params: dict[str, Raw]

    @property
    def weight(self) -> int:
        """About how many bytes it keeps in memory."""
        size = len(self.id) if isinstance(self.id, str) else 0
        return size + sum(map(len, self.params)) + sum(map(len, self.params.values()))


class Notification(msgspec.Struct, frozen=True, gc=False):
    """A message without an id: never answered, not even with an error (A3). Absent params are `{}`."""

    method: str
    params: dict[str, Raw]


class Result(msgspec.Struct, frozen=True, gc=False):
    """The answer to a request. `result` is the text of one JSON object, without newlines."""

    id: RequestId
    result: Raw


class ErrorReply(msgspec.Struct, frozen=True, gc=False):
    """A failure. `id` is None where the sender could not read it (A7); `data` is `Raw(b"")` when absent."""

    id: RequestId | None
    code: int
    message: str
    data: Raw = Raw(b"")


class Malformed(msgspec.Struct, frozen=True, gc=False):
    """A text that is not a message of ours.

    `code` is -32700 (not JSON) or -32600 (JSON, but no valid envelope). `reason` is our own words. `id` is
    the id to answer with, if it could be recovered (A8).
    """

    code: int
    reason: str
    id: RequestId | None = None


Message: TypeAlias = Request | Notification | Result | ErrorReply


class _Envelope(msgspec.Struct, gc=False):
    """What a plain message may hold. Unknown members are dropped and make the text "not plain"."""

    jsonrpc: str = ""
    id: Raw = Raw(b"")
    method: str | UnsetType = UNSET
    params: dict[str, Raw] | UnsetType = UNSET
    result: Raw = Raw(b"")
    error: Raw = Raw(b"")


_MEMBERS = frozenset(_Envelope.__struct_fields__)


class _Call(msgspec.Struct, gc=False, omit_defaults=True):
    """The written form of requests and notifications; members in this order."""

    jsonrpc: str
    id: RequestId | UnsetType
    method: str
    params: dict[str, Raw] | UnsetType = UNSET


class _Answer(msgspec.Struct, gc=False):
    jsonrpc: str
    id: RequestId
    result: dict[str, Raw] | Raw


class _ErrorBody(msgspec.Struct, gc=False):
    code: int
    message: str
    data: Raw | UnsetType = UNSET


class _Failure(msgspec.Struct, gc=False):
    jsonrpc: str
    id: RequestId | UnsetType
    error: _ErrorBody


_envelope = msgspec.json.Decoder(_Envelope).decode
_object = msgspec.json.Decoder(dict[str, Raw]).decode
_array = msgspec.json.Decoder(list[Raw]).decode
_skip = msgspec.json.Decoder(Raw).decode
_id: Callable[[Raw], RequestId] = msgspec.json.Decoder(int | str).decode
_string = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode
_format = msgspec.json.format

_LF = 10
_CR = 13
_NOT_JSON = "not valid JSON"


# ------------------------------------------------------------------------------------------- decoding


def decode(data: bytes, limits: Limits, *, allow_batch: bool = False) -> list[Message | Malformed]:
    """Read one wire message, or one batch where `allow_batch` (2025-03-26 only, A9).

    `data` is a whole HTTP body, line or frame. Bounds: `limits.message_bytes`, `json_depth` and
    `batch_messages`; numbers that no double can hold are refused wherever they stand (threats.md 2). Never
    raises and never returns an empty list. No text that is returned holds a newline, however `data` was
    laid out.
    """
    fault = _scan(data, limits)
    if fault is not None:
        return [fault]
    messages = _decode(data, limits, allow_batch)
    if holds_large_number(data):
        return [_out_of_range(messages)]
    return messages


def _decode(data: bytes, limits: Limits, allow_batch: bool) -> list[Message | Malformed]:
    """The text is of a permitted size and depth, and UTF-8."""
    if _LF in data or _CR in data:
        # B1: one line per message. Laid out text is compacted before any part of it is kept.
        try:
            data = _format(data, indent=-1)
        except (msgspec.DecodeError, RecursionError):
            return [Malformed(PARSE_ERROR, _NOT_JSON)]
    if is_batch(data):
        return _decode_batch(data, limits, allow_batch)
    return [_plain_message(data) or _odd_message(data)]


def is_batch(data: bytes) -> bool:
    """Whether the text is a JSON array, judged by its first character (RFC 8259 section 2)."""
    first = data[:1]
    return first == b"[" or (first != b"{" and data.lstrip(b" \t\r\n")[:1] == b"[")


def is_empty_batch(data: bytes) -> bool:
    """Whether the text is `[]`: no batch at all, answered by one error and not by an array (JSON-RPC 2.0)."""
    return is_batch(data) and b"".join(data[:64].split()) == b"[]"


def _decode_batch(data: bytes, limits: Limits, allow_batch: bool) -> list[Message | Malformed]:
    try:
        parts = _array(data)
    except (msgspec.DecodeError, RecursionError):
        return [Malformed(PARSE_ERROR, _NOT_JSON)]
    if not allow_batch:
        # A9: single messages only, before and after 2025-03-26.
        return [Malformed(INVALID_REQUEST, "batches are not part of this protocol revision")]
    if not parts:
        # JSON-RPC 2.0 section 6: an empty array is an invalid request, answered with one error.
        return [Malformed(INVALID_REQUEST, "the batch is empty")]
    if len(parts) > limits.batch_messages:
        return [Malformed(INVALID_REQUEST, f"a batch may hold {limits.batch_messages} messages")]
    # Each by itself: one that is kept must not keep the others.
    return [_plain_message(part) or _odd_message(part) for part in map(bytes, parts)]


def _scan(data: bytes, limits: Limits) -> Malformed | None:
    """The checks that need no parser, over the whole text once: size, UTF-8, depth."""
    if len(data) > limits.message_bytes:
        return Malformed(INVALID_REQUEST, f"the message is larger than {limits.message_bytes} bytes")
    if not data.isascii():
        try:
            # msgspec leaves the bytes inside a `Raw` unchecked.
            str(data, "utf-8")
        except UnicodeDecodeError:
            return Malformed(PARSE_ERROR, "not valid UTF-8")
    depth = limits.json_depth
    if deeper_than(data, depth):
        return Malformed(INVALID_REQUEST, f"nested deeper than {depth} levels")
    return None


def _out_of_range(messages: list[Message | Malformed]) -> Malformed:
    id = None if len(messages) > 1 or isinstance(messages[0], Notification) else messages[0].id
    return Malformed(INVALID_REQUEST, "a number is out of range", id)


def _plain_message(data: bytes | Raw) -> Message | None:
    """Read a message in its usual form: compact, known members, no escapes in names.

    Then the lengths of the parts add up to the length of the whole, and nothing can hide: no member
    was given twice and none was left out. None means that it takes a closer look.
    """
    try:
        found = _envelope(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if found.jsonrpc != "2.0":
        return None
    method = found.method
    size = 17 + (len(found.id) + 6 if found.id else 0)
    if method is not UNSET:
        params = found.params
        size += len(method) + 12
        if params is UNSET:
            params = {}
        else:
            size += 10 + _object_size(params)
        if size != len(data):
            return None
        if not found.id:
            return Notification(method, params)
        id = _request_id(found.id)
        return None if id is None else Request(id, method, params)
    if found.params is not UNSET or bool(found.result) == bool(found.error):
        return None
    if found.error:
        return _error_reply(found) if size + 9 + len(found.error) == len(data) else None
    if size + 10 + len(found.result) != len(data) or not _is_object(found.result):
        return None
    id = _request_id(found.id)
    return None if id is None else Result(id, found.result)


def _object_size(found: Mapping[str, Raw]) -> int:
    """The length of the compact object with these members, if their names are ASCII and hold no escape."""
    if not found:
        return 2
    size = 1 + 4 * len(found)
    for name, value in found.items():
        size += len(name) + len(value)
    return size


def _error_reply(found: _Envelope) -> ErrorReply | None:
    id = None
    if found.id and bytes(found.id) != b"null":
        id = _request_id(found.id)
        if id is None:
            return None
    try:
        parts = members(found.error)
    except JsonFault:
        return None
    code = integer(parts.get("code", Raw(b"")))
    message = text(parts.get("message", Raw(b"")))
    if code is None or message is None:
        return None
    return ErrorReply(id, code, message, parts.get("data", Raw(b"")))


def _odd_message(data: bytes) -> Message | Malformed:
    """Read a message that is laid out unusually, or say what is wrong with it."""
    try:
        compact = _format(data, indent=-1)
    except (msgspec.DecodeError, RecursionError):
        return Malformed(PARSE_ERROR, _NOT_JSON)
    if len(compact) != len(data):
        message = _plain_message(compact)
        if message is not None:
            return message
    if compact[:1] != b"{":
        return Malformed(INVALID_REQUEST, "a message is a JSON object")
    try:
        found = _object(compact)
        names = _names(compact)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return Malformed(PARSE_ERROR, _NOT_JSON)
    id = _request_id(found["id"]) if names.count("id") == 1 else None
    if len(names) != len(found):
        return Malformed(INVALID_REQUEST, "a member is given twice", id)
    if any(name not in _MEMBERS and name.casefold() in _MEMBERS for name in found):
        # Others are open by design (A17) and fall away here; these are for parsers that fold (CVE-2026-27896)
        return Malformed(INVALID_REQUEST, "a member differs from a known one in its letters' case only", id)
    return _message_of(found, id)


def _message_of(found: dict[str, Raw], id: RequestId | None) -> Message | Malformed:
    """The envelope rules one by one, each with its own words."""
    if text(found.get("jsonrpc", Raw(b""))) != "2.0":
        return Malformed(INVALID_REQUEST, 'the member jsonrpc is not "2.0"', id)
    kinds = ("method" in found) + ("result" in found) + ("error" in found)
    if kinds != 1:
        return Malformed(INVALID_REQUEST, "a message has one of method, result and error", id)
    if "error" in found:
        if id is None and "id" in found and bytes(found["id"]) != b"null":
            return Malformed(INVALID_REQUEST, "the id is neither a string nor an integer")
        reply = _error_reply(_Envelope(id=found.get("id", Raw(b"")), error=found["error"]))
        return reply or Malformed(INVALID_REQUEST, "the error has no integer code and text message", id)
    if id is None and ("id" in found or "result" in found):
        return Malformed(INVALID_REQUEST, "the id is neither a string nor an integer")
    if "result" in found:
        if id is None or not _is_object(found["result"]):
            return Malformed(INVALID_REQUEST, "the result is not an object", id)
        return Result(id, found["result"])
    method = text(found["method"])
    if method is None:
        return Malformed(INVALID_REQUEST, "the method is not a string", id)
    try:
        params = members(found["params"]) if "params" in found else {}
    except JsonFault as fault:
        return Malformed(INVALID_REQUEST, f"params: {fault}", id)
    return Notification(method, params) if id is None else Request(id, method, params)


def _request_id(raw: Raw) -> RequestId | None:
    """An id, or None: A2 allows a string or an integer, so neither null nor `true` nor `1.0` nor `1e2`."""
    try:
        value = _id(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return value if isinstance(value, str) or len(raw) <= ID_DIGITS + (value < 0) else None


def _is_object(raw: Raw) -> bool:
    return bytes(memoryview(raw)[:1]) == b"{"


def _names(data: bytes) -> list[str]:
    """The member names of the outermost object, in order, repeated ones included."""
    names = json.loads(data, object_pairs_hook=_first_of_pairs, parse_int=_nothing, parse_float=_nothing)
    return names if isinstance(names, list) else []


def _first_of_pairs(pairs: list[tuple[str, Any]]) -> list[str]:
    return [name for name, _ in pairs]


def _nothing(_: str) -> None:
    """Numbers are not looked at here: converting long ones is slow, and an error above 4300 digits."""


# -------------------------------------------------------------------------------- readers of one value


def members(raw: Raw | bytes) -> dict[str, Raw]:
    """One level of a JSON object. Raises `JsonFault` if it is no object or a name is given twice.

    Names are compared after their escapes are resolved, by code point: no case folding (CVE-2026-27896).
    The text must have passed `decode`, which has checked UTF-8 and depth.
    """
    data = bytes(raw)
    try:
        if _LF not in data and _CR not in data:
            found = _object(data)
            if _object_size(found) == len(data):
                return found
        compact = _format(data, indent=-1)
        found = _object(compact)
        if _object_size(found) != len(compact) and len(_names(compact)) != len(found):
            raise JsonFault("a member is given twice")
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise JsonFault("not a JSON object") from None
    return found


def text(raw: Raw | bytes) -> str | None:
    """The value of a JSON string, None for anything else."""
    value = bytes(raw)
    if value[:1] != b'"':
        return None
    try:
        return _string(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def integer(raw: Raw | bytes) -> int | None:
    """The value of a JSON number written as an integer; None for anything else, `1.0` and `true` included."""
    value = bytes(raw)
    digits = value[1:] if value[:1] == b"-" else value
    if not digits.isdigit() or len(digits) > NUMBER_DIGITS or (digits[:1] == b"0" and len(digits) > 1):
        return None
    return int(value)


def boolean(raw: Raw | bytes) -> bool | None:
    """The value of `true` or `false`, None for anything else."""
    value = bytes(raw)
    return True if value == b"true" else False if value == b"false" else None


def plain(raw: Raw | bytes) -> Any:
    """The whole value as Python data, strictly: every level is checked for names given twice.

    Raises `JsonFault` also for NaN and Infinity, for numbers that no double can hold (`1e400`) and for
    integers of more than 400 digits. The depth must have been bounded by `decode`.
    """
    try:
        data = bytes(raw)
        # The grammar first: json would take NaN and lone surrogates, msgspec takes neither.
        _skip(data)
        return json.loads(
            str(data, "utf-8"),
            object_pairs_hook=_distinct,
            parse_int=_strict_int,
            parse_float=_finite,
            parse_constant=_no_constant,
        )
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise JsonFault(_NOT_JSON) from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise JsonFault("a member is given twice")
    return found


def _strict_int(digits: str) -> int:
    if len(digits) > NUMBER_DIGITS:
        raise JsonFault("a number is too long")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        # parse_constant is not called for 1e400 (threats.md 2); written again it would be `Infinity`.
        raise JsonFault("a number is out of range")
    return value


def _no_constant(_: str) -> NoReturn:
    raise JsonFault(_NOT_JSON)


def detach(raw: Raw) -> Raw:
    """A copy that does not keep the message alive that it was cut from. For values that are stored."""
    return raw.copy()


# ------------------------------------------------------------------------------------------- encoding


def encode_request(id: RequestId, method: str, params: Mapping[str, Raw]) -> bytes:
    """A request as one compact line, without its newline. Empty params are left out."""
    return _one_line(_encode(_Call("2.0", id, method, _present(params) or UNSET)))


def encode_notification(method: str, params: Mapping[str, Raw]) -> bytes:
    """A notification as one compact line, without its newline. Empty params are left out."""
    return _one_line(_encode(_Call("2.0", UNSET, method, _present(params) or UNSET)))


def encode_result(id: RequestId, result: Raw | Mapping[str, Raw]) -> bytes:
    """The answer to request `id`. `result` is the text of an object, or its members."""
    body = result if isinstance(result, Raw) else _present(result)
    return _one_line(_encode(_Answer("2.0", id, body)))


def encode_error(id: RequestId | None, code: int, message: str, data: Raw | None = None) -> bytes:
    """An error. Without an id the member is left out, never null (A7); so is empty or missing `data`."""
    body = _ErrorBody(code, message, data if data else UNSET)
    return _one_line(_encode(_Failure("2.0", UNSET if id is None else id, body)))


def encode_object(members: Mapping[str, Raw]) -> Raw:
    """An object from its members, in their order. Members whose text is empty are left out."""
    return Raw(_one_line(_encode(_present(members))))


def to_raw(value: Any) -> Raw:
    """The JSON text of plain data of ours: dict, list, str, int, finite float, bool, None, Raw, Struct."""
    return Raw(_one_line(_encode(value)))


def _present(members: Mapping[str, Raw]) -> dict[str, Raw]:
    """The members that have a text: `Raw(b"")` stands for absent and would not be JSON."""
    if all(members.values()) and isinstance(members, dict):
        return members
    return {name: value for name, value in members.items() if value}


def _one_line(data: bytes) -> bytes:
    """Compact a text into which a `Raw` with line breaks was put, so that framing cannot break."""
    if _LF in data or _CR in data:
        data = _format(data, indent=-1)
    return data
