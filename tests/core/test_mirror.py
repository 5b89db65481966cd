"""Mirrored headers: what a schema asks for, what is sent, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgate_proto.mcp.mirror import (
    MAX_ENTRIES,
    HeaderEntry,
    HeaderPlan,
    PlanFault,
    check_standard,
    compile_plan,
    decode_value,
    encode_value,
    generate,
    standard_headers,
    verify,
)
from mcpgate_proto.wire.jsonrpc import Raw


def raw(value: Any) -> Raw:
    return Raw(json.dumps(value).encode())


def plan_of(properties: dict[str, Any]) -> HeaderPlan:
    plan = compile_plan(raw({"type": "object", "properties": properties}))
    assert isinstance(plan, HeaderPlan), plan
    return plan


REGION = {"type": "string", "x-mcp-header": "Region"}


# -- values

# The examples of 2026-07-28 streamable-http.mdx, "Value Encoding", and what D2 adds to them.
ENCODED = [
    ("us-west1", "us-west1"),
    ("Hello, \u4e16\u754c", "=?base64?SGVsbG8sIOS4lueVjA==?="),
    (" padded ", "=?base64?IHBhZGRlZCA=?="),
    ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
    ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
    ("a\tb", "=?base64?YQli?="),
    ("\x7f", "=?base64?fw==?="),
    ("", ""),
    ("two words", "two words"),
    ("=?base64?half", "=?base64?half"),
    ("half?=", "half?="),
    ("=?BASE64?eA==?=", "=?BASE64?eA==?="),
]


@pytest.mark.parametrize(("value", "header"), ENCODED)
def test_encoding(value: str, header: str) -> None:
    assert encode_value(value) == header
    assert decode_value(header) == value


@pytest.mark.parametrize(
    "header",
    [
        "=?base64?!!!?=",
        "=?base64?YQ?=",  # no padding
        "=?base64?YR==?=",  # stray bits
        "=?base64?YQ==YQ==?=",
        "=?base64? YQ==?=",
        "=?base64?/w==?=",  # no UTF-8
        "=?base64?7aCA?=",  # an encoded surrogate
        "=?base64?\u00e9?=",
        "=?base64?=",  # the markers share a character
    ],
)
def test_undecodable(header: str) -> None:
    assert decode_value(header) is None


@given(st.text())
def test_every_text_survives_and_is_safe(value: str) -> None:
    header = encode_value(value)
    assert decode_value(header) == value
    assert all(" " <= char <= "~" for char in header) and header == header.strip()


def test_a_lone_surrogate_does_not_raise() -> None:
    assert decode_value(encode_value("\ud800")) == "?"


# -- plans


def test_plan_of_nested_properties_in_order() -> None:
    plan = plan_of(
        {
            "region": REGION,
            "options": {
                "type": "object",
                "properties": {"limit": {"type": "integer", "x-mcp-header": "Limit"}},
            },
            "confirm": {"type": ["boolean", "null"], "x-mcp-header": "Confirm"},
            "query": {"type": "string"},
        }
    )
    assert plan.entries == (
        HeaderEntry("Region", ("region",), "string"),
        HeaderEntry("Limit", ("options", "limit"), "integer"),
        HeaderEntry("Confirm", ("confirm",), "boolean"),
    )


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object"},
        {"properties": {"a": {"type": "string"}}},
        # A property that is called so is no annotation, and data is none either.
        {"properties": {"x-mcp-header": {"type": "string"}}},
        {"properties": {"a": {"default": {"x-mcp-header": "A"}, "enum": [{"x-mcp-header": 1}]}}},
        {"properties": True},
        {"properties": {"a": True}, "description": "x-mcp-header"},
        {"description": "x-mcp-header"},
    ],
)
def test_no_annotation(schema: Any) -> None:
    assert compile_plan(raw(schema)) == HeaderPlan()


BAD_SUFFIXES: list[Any] = ["", "a b", "a\r\nb", "a:b", "\u00e9", 1, None, True, ["A"], "x" * 129]
BAD_TYPES: list[Any] = ["number", "object", "array", "null", ["string", "integer"], [], ["null"], {}, None]


def wrapped(keyword: str, value: Any) -> dict[str, Any]:
    return {"properties": {"a": {keyword: value}}}


@pytest.mark.parametrize(
    "schema",
    [
        *({"properties": {"a": {"type": "string", "x-mcp-header": bad}}} for bad in BAD_SUFFIXES),
        *({"properties": {"a": {"type": bad, "x-mcp-header": "A"}}} for bad in BAD_TYPES),
        {"properties": {"a": {"x-mcp-header": "A"}}},
        {"properties": {"a": REGION, "b": {"type": "string", "x-mcp-header": "REGION"}}},
        {"type": "string", "x-mcp-header": "Root"},
        *(
            wrapped(keyword, REGION)
            for keyword in ("items", "not", "if", "then", "else", "additionalProperties")
        ),
        *(wrapped(keyword, [REGION]) for keyword in ("oneOf", "anyOf", "allOf", "items", "prefixItems")),
        *(wrapped(keyword, {"k": REGION}) for keyword in ("$defs", "patternProperties", "dependentSchemas")),
        {"$defs": {"r": {"properties": {"region": REGION}}}},
        {"allOf": [{"properties": {"region": REGION}}]},
        {"properties": {"a": {"items": {"properties": {"b": REGION}}}}},
        {
            "properties": {
                f"p{n}": {"type": "string", "x-mcp-header": f"P{n}"} for n in range(MAX_ENTRIES + 1)
            }
        },
    ],
    ids=lambda schema: json.dumps(schema)[:70],
)
def test_invalid_annotations(schema: Any) -> None:
    assert isinstance(compile_plan(raw(schema)), PlanFault)


@pytest.mark.parametrize(
    "text",
    [
        b'{"properties":{"a":{"type":"string","x-mcp-header":"A","x-mcp-header":"B"}}}',
        b'{"properties":{"a":{"type":"number","type":"string","x-mcp-header":"A"}}}',
        b'{"properties":{"a":{"type":"number","x-mcp-heade\\u0072":"A"}}}',
        b'"x-mcp-header"',
        b'{"x-mcp-header"',
        b'["x-mcp-header"]',
    ],
)
def test_texts_that_can_be_read_in_two_ways(text: bytes) -> None:
    assert isinstance(compile_plan(Raw(text)), PlanFault)


def test_an_escaped_annotation_counts() -> None:
    plan = compile_plan(Raw(b'{"properties":{"a":{"type":"string","x-mcp-heade\\u0072":"A"}}}'))
    assert plan == HeaderPlan((HeaderEntry("A", ("a",), "string"),))


def test_deep_and_wide_schemas_are_refused_and_do_not_raise() -> None:
    deep: Any = REGION
    for _ in range(100):
        deep = {"properties": {"a": deep}}
    assert isinstance(compile_plan(raw(deep)), PlanFault)
    wide = {"properties": {f"p{n}": {} for n in range(25_000)}, "x": "x-mcp-header"}
    assert isinstance(compile_plan(raw(wide)), PlanFault)


# -- arguments

PLAN = plan_of(
    {
        "region": REGION,
        "limit": {"type": "integer", "x-mcp-header": "Limit"},
        "confirm": {"type": "boolean", "x-mcp-header": "Confirm"},
        "options": {"type": "object", "properties": {"depth": {"type": "string", "x-mcp-header": "Depth"}}},
    }
)


@pytest.mark.parametrize(
    ("arguments", "headers"),
    [
        ({}, []),
        ({"region": None, "options": {"depth": None}}, []),
        ({"region": ""}, [("Mcp-Param-Region", "")]),
        ({"region": "a\r\nEvil: 1"}, [("Mcp-Param-Region", "=?base64?YQ0KRXZpbDogMQ==?=")]),
        ({"limit": -7}, [("Mcp-Param-Limit", "-7")]),
        ({"limit": 42.0}, [("Mcp-Param-Limit", "42")]),
        ({"limit": 2**53}, []),
        ({"limit": 1.5}, []),
        (
            {"confirm": True, "options": {"depth": "x"}},
            [("Mcp-Param-Confirm", "true"), ("Mcp-Param-Depth", "x")],
        ),
        ({"options": "no object"}, []),
        ({"region": ["list"]}, []),
    ],
)
def test_generate(arguments: Any, headers: list[tuple[str, str]]) -> None:
    assert generate(PLAN, raw(arguments)) == headers


REGION_HEADER = "mcp-param-region"


@pytest.mark.parametrize(
    ("headers", "arguments", "fine"),
    [
        ([(REGION_HEADER, "eu")], {"region": "eu"}, True),
        ([(REGION_HEADER, " eu\t")], {"region": "eu"}, True),
        ([(REGION_HEADER, "=?base64?ZXU=?=")], {"region": "eu"}, True),
        ([(REGION_HEADER, "EU")], {"region": "eu"}, False),
        ([(REGION_HEADER, "us")], {"region": "eu"}, False),
        ([], {"region": "eu"}, False),
        ([], {}, True),
        ([], {"region": None}, True),
        ([(REGION_HEADER, "eu")], {}, False),
        ([(REGION_HEADER, "")], {"region": None}, False),
        ([(REGION_HEADER, "")], {"region": ""}, True),
        ([], {"region": ""}, False),
        ([(REGION_HEADER, "eu"), (REGION_HEADER, "eu")], {"region": "eu"}, False),
        ([(REGION_HEADER, "=?base64?!?=")], {"region": "eu"}, False),
        ([(REGION_HEADER, "\u00e9")], {"region": "\u00e9"}, False),
        ([(REGION_HEADER, "a\x01b")], {"region": "a\x01b"}, False),
        ([(REGION_HEADER, "eu"), ("mcp-param-other", "x")], {"region": "eu"}, True),
        ([("mcp-param-limit", "42.0")], {"limit": 42}, True),
        ([("mcp-param-limit", "42")], {"limit": 42.0}, True),
        ([("mcp-param-limit", "-0")], {"limit": 0}, True),
        ([("mcp-param-limit", "042")], {"limit": 42}, False),
        ([("mcp-param-limit", "42.5")], {"limit": 42}, False),
        ([("mcp-param-limit", "1e999999999")], {"limit": 42}, False),
        ([("mcp-param-limit", "9007199254740992")], {"limit": 2**53}, False),
        ([], {"limit": 2**53}, False),
        ([("mcp-param-limit", "1")], {"limit": True}, False),
        ([("mcp-param-confirm", "true")], {"confirm": True}, True),
        ([("mcp-param-confirm", "True")], {"confirm": True}, False),
        ([("mcp-param-confirm", "1")], {"confirm": True}, False),
        ([], {"region": ["eu"]}, False),
    ],
)
def test_verify(headers: list[tuple[str, str]], arguments: Any, fine: bool) -> None:
    problem = verify(PLAN, headers, raw(arguments))
    assert (problem is None) is fine
    assert problem is None or problem.startswith("Mcp-Param-")


def test_verify_without_arguments_and_with_broken_ones() -> None:
    assert verify(PLAN, [], Raw(b"")) is None
    assert verify(PLAN, [(REGION_HEADER, "x")], Raw(b"")) is not None
    assert verify(PLAN, [(REGION_HEADER, "a")], Raw(b'{"region":"a","region":"b"}')) is not None
    assert generate(PLAN, Raw(b'{"region":"a","region":"b"}')) == []
    assert verify(HeaderPlan(), [(REGION_HEADER, "x")], Raw(b"")) is None


scalars = st.one_of(st.none(), st.booleans(), st.integers(-(2**53) + 1, 2**53 - 1), st.text())
arguments_of_plan = st.fixed_dictionaries(
    {},
    optional={
        "region": scalars,
        "limit": scalars,
        "confirm": scalars,
        "options": st.one_of(scalars, st.fixed_dictionaries({}, optional={"depth": scalars})),
        "more": scalars,
    },
)


@given(arguments_of_plan, st.data())
def test_what_is_generated_verifies_and_nothing_else_does(arguments: Any, data: st.DataObject) -> None:
    headers = [(name.lower(), value) for name, value in generate(PLAN, raw(arguments))]
    assert verify(PLAN, headers, raw(arguments)) is None
    if not headers:
        return
    at = data.draw(st.integers(0, len(headers) - 1))
    assert verify(PLAN, headers[:at] + headers[at + 1 :], raw(arguments)) is not None
    assert verify(PLAN, [*headers, headers[at]], raw(arguments)) is not None
    other = encode_value((decode_value(headers[at][1]) or "") + "x")
    assert (
        verify(PLAN, [*headers[:at], (headers[at][0], other), *headers[at + 1 :]], raw(arguments)) is not None
    )


# -- standard headers

VERSION = "2026-07-28"


@pytest.mark.parametrize(
    ("method", "params", "name"),
    [
        ("tools/call", {"name": "get_weather"}, "get_weather"),
        ("prompts/get", {"name": "\u4e16"}, "=?base64?5LiW?="),
        ("resources/read", {"uri": "file:///a"}, "file:///a"),
        ("tasks/get", {"taskId": "t"}, "t"),
        ("tasks/update", {"taskId": "t"}, "t"),
        ("tasks/cancel", {"taskId": "t"}, "t"),
        ("tools/list", {"name": "x"}, None),
        ("tools/call", {}, None),
        ("tools/call", {"name": 7}, None),
        ("tools/call", {"name": "=?base64?x?="}, "=?base64?PT9iYXNlNjQ/eD89?="),
    ],
)
def test_standard_headers(method: str, params: dict[str, Any], name: str | None) -> None:
    members = {key: raw(value) for key, value in params.items()}
    headers = standard_headers(method, members, VERSION)
    expected = [("MCP-Protocol-Version", VERSION), ("Mcp-Method", method)]
    assert headers == expected + ([("Mcp-Name", name)] if name is not None else [])
    assert check_standard([(key.lower(), value) for key, value in headers], method, members, VERSION) is None


def test_a_method_that_fits_no_header_is_left_out() -> None:
    assert standard_headers("a\r\nb", {}, VERSION) == [("MCP-Protocol-Version", VERSION)]


V, M, N = ("mcp-protocol-version", VERSION), ("mcp-method", "tools/call"), ("mcp-name", "add")


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ([V, M, N], None),
        ([V, M, ("mcp-name", "  add ")], None),
        ([V, M, ("mcp-name", "=?base64?YWRk?=")], None),
        ([V, M, N, ("x-other", "1"), ("x-other", "2")], None),
        ([M, N], "MCP-Protocol-Version"),
        ([("mcp-protocol-version", "2025-11-25"), M, N], "MCP-Protocol-Version"),
        ([V, N], "Mcp-Method"),
        ([V, ("mcp-method", "Tools/Call"), N], "Mcp-Method"),
        ([V, ("mcp-method", "=?base64?dG9vbHMvY2FsbA==?="), N], "Mcp-Method"),
        ([V, M], "Mcp-Name"),
        ([V, M, ("mcp-name", "ADD")], "Mcp-Name"),
        ([V, M, ("mcp-name", "=?base64?YWRk")], "Mcp-Name"),
        ([V, M, ("mcp-name", "=?BASE64?YWRk?=")], "Mcp-Name"),
        ([V, M, ("mcp-name", "=?base64?*?=")], "Mcp-Name"),
        ([V, M, ("mcp-name", "add\x00")], "Mcp-Name"),
        ([V, M, N, N], "Mcp-Name"),
        ([V, V, M, N], "MCP-Protocol-Version"),
        ([V, M, M, N], "Mcp-Method"),
    ],
)
def test_check_standard(headers: list[tuple[str, str]], named: str | None) -> None:
    problem = check_standard(headers, "tools/call", {"name": raw("add")}, VERSION)
    assert problem is None if named is None else problem is not None and problem.startswith(named)


def test_the_body_lacks_the_name() -> None:
    """A19: missing params are found later; a header that mirrors nothing is a mismatch now."""
    assert check_standard([V, M], "tools/call", {}, VERSION) is None
    assert check_standard([V, M, N], "tools/call", {}, VERSION) is not None
    assert check_standard([V, M, N], "tools/call", {"name": raw(1)}, VERSION) is not None
