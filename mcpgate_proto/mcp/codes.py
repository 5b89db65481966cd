"""Failures without an era, and the codes and statuses by which each era spells them.

Owns: the numbers of JSON-RPC and MCP, `Fault`, and the tables that turn a peer's error into a fault and a
fault into an error body. Must never: emit a code that a revision has retired or reserved for others, relay an
upstream's HTTP status, or pass a failure of our own off as a peer's.

Rules A10-A15, C12, C13 and the table of L8.
"""

from __future__ import annotations

import enum

import msgspec

from mcpgate_proto.mcp.revisions import LATEST_LEGACY, REVISIONS, Revision
from mcpgate_proto.wire.jsonrpc import (
    INVALID_REQUEST,
    PARSE_ERROR,
    JsonFault,
    Raw,
    encode_object,
    members,
    text,
    to_raw,
)

__all__ = [
    "HEADER_MISMATCH",
    "INTERNAL_ERROR",
    "INVALID_PARAMS",
    "INVALID_REQUEST",
    "METHOD_NOT_FOUND",
    "MISSING_CAPABILITY",
    "PARSE_ERROR",
    "RESOURCE_NOT_FOUND",
    "SAMPLING_REJECTED",
    "UNSUPPORTED_VERSION",
    "URL_ELICITATION_REQUIRED",
    "ErrorBody",
    "Fault",
    "FaultKind",
    "broken",
    "from_legacy_error",
    "from_modern_error",
    "http_status",
    "method_not_found",
    "missing_capability",
    "peer",
    "rate_limited",
    "resource_not_found",
    "to_legacy",
    "to_modern",
    "unknown_name",
    "url_elicitation",
]

# -- standard (A10; the other two are in wire/jsonrpc.py)
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
# -- modern (A11)
HEADER_MISMATCH = -32020
MISSING_CAPABILITY = -32021
UNSUPPORTED_VERSION = -32022
# -- legacy (A15)
RESOURCE_NOT_FOUND = -32002
URL_ELICITATION_REQUIRED = -32042
SAMPLING_REJECTED = -1

# The band that JSON-RPC leaves to servers. Modern receivers see of it only what A11 defines, and that from
# us alone (A12, A13); legacy ones see the part in which SDKs of their time picked codes of their own (L8).
_SERVER_BAND = range(-32099, -31999)
_LEGACY_BAND = range(-32019, -31999)
# Codes beyond what every JSON reader can hold (A21) are no codes.
_SAFE_INTEGER = 2**53 - 1
_ABSENT = Raw(b"")


class FaultKind(enum.Enum):
    """What went wrong. The values are stable words: they stand in `data.reason` and in the log."""

    METHOD_NOT_FOUND = "method_not_found"
    RESOURCE_NOT_FOUND = "resource_not_found"
    # No tool or prompt of that name (H5, H16).
    UNKNOWN_NAME = "unknown_name"
    INVALID_PARAMS = "invalid_params"
    # The client did not declare what the server needs; `data` is the ClientCapabilities object.
    MISSING_CAPABILITY = "missing_capability"
    # The user has to open URLs first; `data` has `elicitations` (L3).
    URL_ELICITATION = "url_elicitation"
    TIMEOUT = "timeout"
    UPSTREAM_DOWN = "upstream_down"
    OVERLOADED = "overloaded"
    # The caller asked for more than it may; `wait_ms` says when to try again.
    RATE_LIMITED = "rate_limited"
    DENIED = "denied"
    CANCELLED = "cancelled"
    # A sealed `requestState` or cursor that is not ours, or too old (H19, L1.10).
    BAD_STATE = "bad_state"
    INTERNAL = "internal"
    # What one era cannot carry for the other (L26).
    UNSUPPORTED = "unsupported"
    # An error of a peer that means nothing more to us: `code`, `message` and `data` are its own.
    PEER = "peer"


class Fault(msgspec.Struct, frozen=True):
    """One failure. `code` counts for PEER only, `uri` for RESOURCE_NOT_FOUND, `wait_ms` for RATE_LIMITED;
    `data` as its kind says. `detail` is for the log alone, where `error_id` finds it; peers never see it.
    `denied`: a rule is behind it, which the client is not told; the audit stream is."""

    kind: FaultKind
    message: str
    code: int = 0
    data: Raw = Raw(b"")
    uri: str = ""
    detail: str = ""
    error_id: str = ""
    wait_ms: int = 0
    denied: bool = False


class ErrorBody(msgspec.Struct, frozen=True):
    """The `error` member of a reply, and the status of the HTTP response it may be alone in."""

    code: int
    message: str
    data: Raw = Raw(b"")
    http_status: int = 200
    # For `Retry-After`; 0: none.
    retry_after_s: int = 0


# -- constructors for the kinds that need more than a message


def method_not_found(method: str) -> Fault:
    """The method does not exist here."""
    return Fault(FaultKind.METHOD_NOT_FOUND, f"method not found: {method[:128]}")


def resource_not_found(uri: str) -> Fault:
    """No server has the resource `uri`, as the client named it."""
    return Fault(FaultKind.RESOURCE_NOT_FOUND, "resource not found", uri=uri)


def unknown_name(what: str, name: str) -> Fault:
    """There is no `what` (tool, prompt) of that name."""
    return Fault(FaultKind.UNKNOWN_NAME, f"unknown {what}: {name[:128]}")


def missing_capability(required: Raw) -> Fault:
    """The client did not declare `required`, a ClientCapabilities object such as `{"sampling":{}}`."""
    needed = _object(required)
    # An extension is named by its id: that the client lacks "extensions" would tell nobody anything.
    # Whoever asks for forms only did declare "elicitation"; it is "elicitation.url" that is missing.
    plain = [
        f"{name}.{part}" if part else name
        for name, raw in needed.items()
        if name != "extensions"
        for part in _object(raw) or [""]
    ]
    listed = [*plain, *_object(needed.get("extensions", _ABSENT))]
    names = ", ".join(name[:64] for name in listed[:8])
    told = f"the client did not declare a capability that is needed: {names}"
    return Fault(FaultKind.MISSING_CAPABILITY, told, data=required)


def url_elicitation(message: str, data: Raw) -> Fault:
    """`data` is an object with `elicitations`, as -32042 carries it."""
    return Fault(FaultKind.URL_ELICITATION, message, data=data)


def rate_limited(wait_ms: int) -> Fault:
    """The caller is to wait `wait_ms` before it asks again."""
    return Fault(FaultKind.RATE_LIMITED, "too many requests; wait before the next one", wait_ms=wait_ms)


def broken(error_id: str) -> ErrorBody:
    """A defect of ours: a fixed text, and where the log has the rest."""
    fault = Fault(FaultKind.INTERNAL, "internal error", error_id=error_id)
    return ErrorBody(INTERNAL_ERROR, fault.message, _own(fault), 500)


def peer(code: int, message: str, data: Raw = _ABSENT) -> Fault:
    """A peer's error as it came. A code that is no safe integer becomes -32603."""
    if not -_SAFE_INTEGER <= code <= _SAFE_INTEGER:
        code = INTERNAL_ERROR
    return Fault(FaultKind.PEER, message, code=code, data=data)


# -- faults to codes

# Kinds that both eras spell with the same code, and that keep their data.
_SHARED = {
    FaultKind.METHOD_NOT_FOUND: METHOD_NOT_FOUND,
    FaultKind.UNKNOWN_NAME: INVALID_PARAMS,
    FaultKind.INVALID_PARAMS: INVALID_PARAMS,
    FaultKind.BAD_STATE: INVALID_PARAMS,
}
# C12, C13; what is not here goes with 200.
_STATUS = {
    PARSE_ERROR: 400,
    INVALID_REQUEST: 400,
    METHOD_NOT_FOUND: 404,
    INVALID_PARAMS: 400,
    HEADER_MISMATCH: 400,
    MISSING_CAPABILITY: 400,
    UNSUPPORTED_VERSION: 400,
}
_URL_CAPABILITY = Raw(b'{"elicitation":{"url":{}}}')


def http_status(code: int) -> int:
    """The HTTP status of a modern error reply with `code` (C12, C13). Legacy replies have 200 (C36)."""
    return _STATUS.get(code, 200)


def to_legacy(fault: Fault, revision: Revision | str, *, elicitation_url: bool = True) -> ErrorBody:
    """Spell `fault` for a legacy peer of `revision` (or its version); the status is always 200 (C36).

    `elicitation_url` says whether this client declared `elicitation.url`: without it, and before 2025-11-25,
    -32042 means nothing to it (L8).
    """
    kind = fault.kind
    if kind in _SHARED:
        return ErrorBody(_SHARED[kind], fault.message, fault.data)
    if kind is FaultKind.RESOURCE_NOT_FOUND:
        return ErrorBody(RESOURCE_NOT_FOUND, fault.message, _data_of_uri(fault))
    if kind is FaultKind.MISSING_CAPABILITY:
        # Legacy has no code for it; the message names the capability.
        return ErrorBody(INTERNAL_ERROR, fault.message, _wrapped("requiredCapabilities", fault.data))
    if kind is FaultKind.URL_ELICITATION:
        if isinstance(revision, str):
            revision = REVISIONS.get(revision, REVISIONS[LATEST_LEGACY])
        if revision.elicitation_ids and elicitation_url:
            return ErrorBody(URL_ELICITATION_REQUIRED, fault.message, fault.data)
        # Not the URLs: those are for clients that can show them safely (I7).
        return ErrorBody(INTERNAL_ERROR, fault.message, _upstream(URL_ELICITATION_REQUIRED, Raw(b"")))
    if kind is FaultKind.PEER:
        return _peer_body(fault, fault.code in _SERVER_BAND and fault.code not in _LEGACY_BAND)
    return ErrorBody(INTERNAL_ERROR, fault.message, _own(fault))


def to_modern(fault: Fault) -> ErrorBody:
    """Spell `fault` for a modern client, with the status that its HTTP response has (C12, C13)."""
    body = _to_modern(fault)
    if fault.kind is FaultKind.RATE_LIMITED:
        # RFC 6585 section 4; the code has no status of its own (C13).
        return msgspec.structs.replace(body, http_status=429, retry_after_s=-(-fault.wait_ms // 1000))
    return msgspec.structs.replace(body, http_status=http_status(body.code))


def _to_modern(fault: Fault) -> ErrorBody:
    kind = fault.kind
    if kind in _SHARED:
        return ErrorBody(_SHARED[kind], fault.message, fault.data)
    if kind is FaultKind.RESOURCE_NOT_FOUND:
        return ErrorBody(INVALID_PARAMS, fault.message, _data_of_uri(fault))
    if kind is FaultKind.MISSING_CAPABILITY:
        return ErrorBody(MISSING_CAPABILITY, fault.message, _wrapped("requiredCapabilities", fault.data))
    if kind is FaultKind.URL_ELICITATION:
        # As an error it gets here only when the client has no URL mode; otherwise it became a question (L3).
        return ErrorBody(MISSING_CAPABILITY, fault.message, _wrapped("requiredCapabilities", _URL_CAPABILITY))
    if kind is FaultKind.PEER:
        return _peer_body(fault, fault.code in _SERVER_BAND)
    return ErrorBody(INTERNAL_ERROR, fault.message, _own(fault))


def _peer_body(fault: Fault, remap: bool) -> ErrorBody:
    if remap:
        return ErrorBody(INTERNAL_ERROR, fault.message, _upstream(fault.code, fault.data))
    return ErrorBody(fault.code, fault.message, fault.data)


def _own(fault: Fault) -> Raw:
    """A14: our own failure says so. No code of A11-A15 means any of these, so the reason is a word."""
    told: dict[str, str | int] = {"origin": "gateway", "reason": fault.kind.value}
    if fault.wait_ms:
        told["retryAfterMs"] = fault.wait_ms
    if fault.error_id:
        told["errorId"] = fault.error_id
    return to_raw(told)


def _upstream(code: int, data: Raw) -> Raw:
    return encode_object({"upstreamCode": to_raw(code), "upstreamData": data})


def _wrapped(name: str, value: Raw) -> Raw:
    return encode_object({name: value if bytes(value) else Raw(b"{}")})


def _data_of_uri(fault: Fault) -> Raw:
    # The relay may have given the URI its shown form, so it is written anew and never copied (H11).
    return to_raw({"uri": fault.uri})


# -- codes to faults

_BY_URI = ("resources/read", "resources/subscribe")


def from_legacy_error(code: int, message: str, data: Raw, method: str, params: dict[str, Raw]) -> Fault:
    """What a legacy server's error to `method` with `params` means; `data` is `Raw(b"")` when absent.

    A legacy server that says -32021 in full can only mean what modern means by it (L1.14).
    """
    if code == MISSING_CAPABILITY:
        return from_modern_error(code, message, data, method, params)
    return _from_error(code, message, data, method, params)


def from_modern_error(code: int, message: str, data: Raw, method: str, params: dict[str, Raw]) -> Fault:
    """What a modern server's error to `method` with `params` means; `data` is `Raw(b"")` when absent.

    -32020 and -32022 come out as PEER: whoever sent the request has its own answer to them (D5, F9) and
    passes them on only when that failed, whereupon they are spelled -32603.
    """
    if code == MISSING_CAPABILITY:
        required = _object(data).get("requiredCapabilities")
        if required is not None and bytes(required)[:1] == b"{":
            return missing_capability(required)
    return _from_error(code, message, data, method, params)


def _from_error(code: int, message: str, data: Raw, method: str, params: dict[str, Raw]) -> Fault:
    """The part that both eras share. Retired codes are understood from a modern server, too (A12)."""
    if method in _BY_URI:
        asked = text(params.get("uri", Raw(b"")))
        # -32602 with the very URI that was asked for is "not found" (L8); any other is about the params.
        named = text(_object(data).get("uri", Raw(b""))) if code == INVALID_PARAMS else None
        if asked is not None and (code == RESOURCE_NOT_FOUND or named == asked):
            return Fault(FaultKind.RESOURCE_NOT_FOUND, message, uri=asked)
    if code == METHOD_NOT_FOUND:
        return Fault(FaultKind.METHOD_NOT_FOUND, message, data=data)
    if code == INVALID_PARAMS:
        return Fault(FaultKind.INVALID_PARAMS, message, data=data)
    if code == URL_ELICITATION_REQUIRED and bytes(_object(data).get("elicitations", Raw(b"")))[:1] == b"[":
        return url_elicitation(message, data)
    return peer(code, message, data)


def _object(raw: Raw) -> dict[str, Raw]:
    """The members of an object, or none for anything else."""
    try:
        return members(raw)
    except JsonFault:
        return {}
