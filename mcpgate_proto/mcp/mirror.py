"""Headers that mirror the body (revision 2026-07-28 over HTTP).

Owns: the standard headers (`Mcp-Method`, `Mcp-Name`, `MCP-Protocol-Version`), the header plan of a tool whose
schema has `x-mcp-header` annotations, and the value encoding of both. Must never: put peer text into a header
other than through `encode_value`, or take a header for anything but a copy that has to agree with the body.

Source: 2026-07-28 basic/transports/streamable-http.mdx, "Request Metadata" (rules C9, C10, C15-C19, D2-D4).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from mcpgate_proto.wire.jsonrpc import JsonFault, Raw, plain, text

__all__ = [
    "HeaderEntry",
    "HeaderPlan",
    "PlanFault",
    "check_standard",
    "compile_plan",
    "decode_value",
    "encode_value",
    "generate",
    "standard_headers",
    "verify",
]

# A head takes 100 fields in all (limits.head_fields); a tool gets at most this many of them.
MAX_ENTRIES = 32
# Longest annotation; real ones are one word.
MAX_SUFFIX_CHARS = 128
# Real schemas stay below 30 levels of JSON; the deepest that is walked.
MAX_DEPTH = 64
# Most subschemas that one tool may have before it is refused unread.
MAX_NODES = 20_000

# JSON numbers beyond this lose digits in JavaScript, and the specification bans them here (A21).
_SAFE_INTEGER = 2**53 - 1
_PREFIX = "=?base64?"
_SUFFIX = "?="

_ANNOTATION = "x-mcp-header"
_TYPES = ("string", "integer", "boolean")
# RFC 9110 section 5.6.2.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# What a field value may hold: visible ASCII, space and tab (RFC 9110 section 5.5).
_VALUE = re.compile(r"[\t\x20-\x7e]*")
# An integer as text. `42.0` is 42 (C17); a leading zero is refused, since some read `010` as eight.
_INTEGER = re.compile(r"(-?(?:0|[1-9][0-9]{0,15}))(?:\.0{1,16})?")

_STANDARD = {
    "mcp-protocol-version": "MCP-Protocol-Version",
    "mcp-method": "Mcp-Method",
    "mcp-name": "Mcp-Name",
}
# Method -> the member of `params` that `Mcp-Name` mirrors (C15).
_NAMED_BY = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}

# Keywords of JSON Schema whose value is one schema, a list of schemas, or a mapping to schemas. What stands
# under any other keyword is data: an annotation there annotates nothing.
_ONE = frozenset(
    "additionalItems additionalProperties contains contentSchema else if items not propertyNames then"
    " unevaluatedItems unevaluatedProperties".split()
)
_MANY = frozenset(("allOf", "anyOf", "items", "oneOf", "prefixItems"))
_MAPPED = frozenset(("$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties"))


class HeaderEntry(NamedTuple):
    """One annotated argument: `Mcp-Param-<suffix>` mirrors the value at `path`, of JSON type `type`."""

    suffix: str
    path: tuple[str, ...]
    type: str


class HeaderPlan(msgspec.Struct, frozen=True):
    """All annotated arguments of one tool, in the order of its schema. Most tools have none."""

    entries: tuple[HeaderEntry, ...] = ()


class PlanFault(msgspec.Struct, frozen=True):
    """The annotations of a tool are invalid, so that the tool must not be shown over HTTP (D4).

    `reason` is our own text and fit for a log line.
    """

    reason: str


class _Invalid(Exception):
    """Carries the reason of a `PlanFault` out of the walk."""


EMPTY_PLAN = HeaderPlan()


# -- values


def encode_value(value: str) -> str:
    """`value` as a header value: itself, or the base64 sentinel where it cannot stand as plain ASCII (D2).

    That is for anything outside of 0x20 to 0x7E, a blank at either end, and what looks like the sentinel.
    """
    plain = value.isascii() and value.isprintable()
    if plain and value == value.strip(" ") and not (value.startswith(_PREFIX) and value.endswith(_SUFFIX)):
        return value
    # A lone surrogate has no UTF-8; strict decoding keeps it out, and a replacement cannot match anything.
    encoded = base64.b64encode(value.encode("utf-8", "replace")).decode("ascii")
    return f"{_PREFIX}{encoded}{_SUFFIX}"


def decode_value(value: str) -> str | None:
    """The text that a header value stands for, or None when its base64 sentinel cannot be decoded (C16).

    The markers count only as written, in lower case and both of them; anything else is literal text. `value`
    has no whitespace around it.
    """
    if not (value.startswith(_PREFIX) and value.endswith(_SUFFIX)):
        return value
    if len(value) < len(_PREFIX) + len(_SUFFIX):
        # `=?base64?=`, whose markers share a character: literal to some readers and empty to others.
        return None
    inner = value[len(_PREFIX) : -len(_SUFFIX)]
    try:
        raw = base64.b64decode(inner.encode("ascii"), validate=True)
        text = raw.decode("utf-8")
    except (UnicodeError, binascii.Error):
        return None
    # One spelling only: stray bits in the last character decode in some libraries and fail in others.
    return text if base64.b64encode(raw).decode("ascii") == inner else None


# -- a tool's plan


def compile_plan(input_schema: Raw) -> HeaderPlan | PlanFault:
    """Read the `x-mcp-header` annotations of a tool's `inputSchema` (D4).

    A plan with no entries when there are none. A fault when any of them is not a token, is there twice but
    for case, is on a type other than string, integer or boolean, or is reached through anything but
    `properties`; also when the schema is no JSON object, has a key twice, or is too large to be walked.
    """
    written = bytes(input_schema)
    if _ANNOTATION.encode() not in written and b"\\u" not in written:
        # No annotation, in no spelling: nearly all tools.
        return EMPTY_PLAN
    try:
        schema = plain(input_schema)
        if not isinstance(schema, dict):
            return PlanFault("the input schema is not a JSON object")
        return _plan_of(schema)
    except JsonFault as fault:
        return PlanFault(f"the input schema: {fault}")
    except _Invalid as fault:
        return PlanFault(str(fault))


def _plan_of(root: dict[str, Any]) -> HeaderPlan:
    entries: list[HeaderEntry] = []
    taken: set[str] = set()
    # A stack and no recursion: (schema, path when reached through `properties` only, depth).
    stack: list[tuple[Any, tuple[str, ...] | None, int]] = [(root, (), 0)]
    nodes = 0
    while stack:
        schema, path, depth = stack.pop()
        if not isinstance(schema, dict):
            continue
        nodes += 1
        if nodes > MAX_NODES or depth > MAX_DEPTH:
            raise _Invalid("the input schema is too large")
        if _ANNOTATION in schema:
            entry = _entry_of(schema, path)
            if entry.suffix.lower() in taken:
                raise _Invalid("two x-mcp-header values are the same but for case")
            taken.add(entry.suffix.lower())
            entries.append(entry)
            if len(entries) > MAX_ENTRIES:
                raise _Invalid("too many x-mcp-header annotations")
        stack.extend([(child, at, depth + 1) for child, at in _children(schema, path)][::-1])
    return HeaderPlan(tuple(entries)) if entries else EMPTY_PLAN


def _children(
    schema: dict[str, Any], path: tuple[str, ...] | None
) -> Iterator[tuple[Any, tuple[str, ...] | None]]:
    """Every subschema, with its property path, or None for one that is not reached by `properties` alone."""
    properties = schema.get("properties")
    if isinstance(properties, dict):
        for name, child in properties.items():
            yield child, None if path is None else (*path, name)
    for keyword, value in schema.items():
        if keyword in _ONE and isinstance(value, dict):
            yield value, None
        elif keyword in _MANY and isinstance(value, list):
            yield from ((child, None) for child in value)
        elif keyword in _MAPPED and isinstance(value, dict):
            yield from ((child, None) for child in value.values())


def _entry_of(schema: dict[str, Any], path: tuple[str, ...] | None) -> HeaderEntry:
    suffix = schema[_ANNOTATION]
    if not isinstance(suffix, str) or _TOKEN.fullmatch(suffix) is None:
        raise _Invalid("an x-mcp-header value is not an HTTP token")
    if len(suffix) > MAX_SUFFIX_CHARS:
        raise _Invalid("an x-mcp-header value is too long")
    if not path:
        raise _Invalid("an x-mcp-header annotation is not reached through properties alone")
    kinds = schema.get("type")
    if isinstance(kinds, list):
        # `["string", "null"]`: null is the way to send no header, not a type of its own here.
        kinds = [kind for kind in kinds if kind != "null"]
        kinds = kinds[0] if len(kinds) == 1 else None
    if kinds not in _TYPES:
        raise _Invalid("an x-mcp-header annotation is on a type other than string, integer and boolean")
    return HeaderEntry(suffix, path, kinds)


# -- arguments and their headers


def generate(plan: HeaderPlan, arguments: Raw) -> list[tuple[str, str]]:
    """The `Mcp-Param-*` headers for a call with `arguments`, an encoded object or nothing (D3).

    None for an absent or null argument, and none for one that has no header form (an object, an array, a
    fraction, an integer beyond 2**53 - 1): the server will complain about that one as it sees fit.
    """
    if not plan.entries:
        return []
    try:
        values = _arguments(arguments)
    except JsonFault:
        return []
    headers = []
    for entry in plan.entries:
        written = _header_text(_at(values, entry.path))
        if written is not None:
            headers.append((f"Mcp-Param-{entry.suffix}", encode_value(written)))
    return headers


def verify(plan: HeaderPlan, headers: Iterable[tuple[str, str]], arguments: Raw) -> str | None:
    """None when every header of the plan agrees with `arguments`, else the reason, which names the header.

    `headers` are (lower-case name, value). A value in the body needs its header, a null or absent one must
    not have it (C17); a header must not repeat (C19). Headers outside of the plan are not looked at (C18).
    """
    if not plan.entries:
        return None
    try:
        values = _arguments(arguments)
    except JsonFault as fault:
        return f"arguments: {fault}"
    given: dict[str, list[str]] = {}
    for name, value in headers:
        if name.startswith("mcp-param-"):
            given.setdefault(name, []).append(value)
    for entry in plan.entries:
        name = f"Mcp-Param-{entry.suffix}"
        problem = _differs(given.get(name.lower(), ()), _at(values, entry.path))
        if problem is not None:
            return f"{name} {problem}"
    return None


def _differs(found: list[str] | tuple[()], value: Any) -> str | None:
    if len(found) > 1:
        return "is repeated"
    if value is None:
        return "is there, but its argument is not" if found else None
    if not found:
        return "is missing"
    read, problem = _read(found[0])
    if read is None:
        return problem
    expected = _header_text(value)
    if expected is None:
        return "cannot mirror its argument"
    if read == expected:
        return None
    if not isinstance(value, (str, bool)):
        match = _INTEGER.fullmatch(read)
        if match is not None and int(match[1]) == int(value):
            return None
    return "does not match its argument"


def _header_text(value: Any) -> str | None:
    """A JSON value as text (Value Encoding, "Type conversion"); None where there is no such form.

    The value's own type decides, whatever the schema says: to judge it is the server's part (H5).
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        # JSON Schema counts 42.0 among the integers.
        value = int(value)
    if isinstance(value, int) and -_SAFE_INTEGER <= value <= _SAFE_INTEGER:
        return str(value)
    return None


def _at(values: Any, path: tuple[str, ...]) -> Any:
    """The value at exactly `path`; None when any step is absent."""
    for name in path:
        if not isinstance(values, dict):
            return None
        values = values.get(name)
    return values


def _arguments(arguments: Raw) -> Any:
    return plain(arguments) if bytes(arguments) else None


# -- standard headers


def standard_headers(method: str, params: dict[str, Raw], version: str) -> list[tuple[str, str]]:
    """The headers that every modern request carries, from its own body (D2, C15).

    `Mcp-Name` is left out when `params` has no such string. `Mcp-Method` and the version are never encoded
    (C16); a method that cannot stand in a header is left out, and the server will refuse it.
    """
    headers = [("MCP-Protocol-Version", version)]
    if encode_value(method) == method:
        headers.append(("Mcp-Method", method))
    name = _name_of(method, params)
    if name is not None:
        headers.append(("Mcp-Name", encode_value(name)))
    return headers


def check_standard(
    headers: Iterable[tuple[str, str]], method: str, params: dict[str, Raw], version: str
) -> str | None:
    """None when the standard headers agree with the body, else the reason, which names the header (C10, C15).

    `headers` are (lower-case name, value), `version` is the one in the body's `_meta`. A repeated header is a
    fault, whatever it says (C19). Where the body itself lacks the name, a missing `Mcp-Name` is left to the
    check of params, which comes later (A19).
    """
    given: dict[str, str] = {}
    for name, value in headers:
        shown = _STANDARD.get(name)
        if shown is None:
            continue
        if shown in given:
            return f"{shown} is repeated"
        given[shown] = value.strip(" \t")
    for shown, expected in (("MCP-Protocol-Version", version), ("Mcp-Method", method)):
        if shown not in given:
            return f"{shown} is missing"
        # Never base64 here: the markers are plain text (C16). Method names count case (C9).
        if given[shown] != expected:
            return f"{shown} does not match the body"
    if method not in _NAMED_BY:
        return None
    name_in_body = _name_of(method, params)
    if "Mcp-Name" not in given:
        return None if name_in_body is None else "Mcp-Name is missing"
    name_in_header, problem = _read(given["Mcp-Name"])
    if name_in_header is None:
        return f"Mcp-Name {problem}"
    return None if name_in_header == name_in_body else "Mcp-Name does not match the body"


def _read(value: str) -> tuple[str | None, str]:
    """The text of a header value, or None and what is wrong with it (C9: blanks around it do not count)."""
    value = value.strip(" \t")
    if _VALUE.fullmatch(value) is None:
        return None, "holds characters that a header must not have"
    return decode_value(value), "has base64 that cannot be decoded"


def _name_of(method: str, params: dict[str, Raw]) -> str | None:
    raw = params.get(_NAMED_BY.get(method, ""))
    return None if raw is None else text(raw)
