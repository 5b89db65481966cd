"""Results and definitions between revisions: every row of L5, each judged by the target's own schema."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgate_proto.mcp import content
from mcpgate_proto.mcp.revisions import LEGACY_VERSIONS, MODERN, REVISIONS
from mcpgate_proto.wire.jsonrpc import Raw
from tests.schemas import check

Members = dict[str, Raw]


def raw(value: Any) -> Raw:
    return Raw(json.dumps(value).encode())


def members(value: dict[str, Any]) -> Members:
    return {name: raw(part) for name, part in value.items()}


def plain(value: Members | Raw) -> Any:
    if isinstance(value, Raw):
        return json.loads(bytes(value))
    return {name: json.loads(bytes(part)) for name, part in value.items()}


def down(method: str, result: dict[str, Any], version: str, definition: str) -> Any:
    """Converted, valid in the target revision, and stable: a second time changes nothing at all."""
    once = content.down_result(method, members(result), REVISIONS[version])
    told = plain(once)
    check(version, definition, told)
    assert content.down_result(method, once, REVISIONS[version]) is once
    return told


TEXT = {"type": "text", "text": "hi"}
AUDIO = {
    "type": "audio",
    "data": "UklGRg==",
    "mimeType": "audio/wav",
    "annotations": {"priority": 1},
    "_meta": {"a.example/k": 1},
}
LINK = {
    "type": "resource_link",
    "uri": "file:///a%20b.txt",
    "name": "a",
    "title": "Minutes",
    "description": "of Monday",
    "annotations": {"audience": ["user"]},
}
EMBEDDED = {"type": "resource", "resource": {"uri": "file:///x", "text": "x"}}


# -- blocks


def test_audio_becomes_an_embedded_blob_before_2025_03_26() -> None:
    told = down("tools/call", {"content": [TEXT, AUDIO]}, "2024-11-05", "CallToolResult")
    assert told["content"] == [
        TEXT,
        {
            "type": "resource",
            "resource": {"uri": "urn:mcpgate:audio:2", "mimeType": "audio/wav", "blob": "UklGRg=="},
            "annotations": {"priority": 1},
            "_meta": {"a.example/k": 1},
        },
    ]
    same = down("tools/call", {"content": [AUDIO]}, "2025-03-26", "CallToolResult")
    assert same["content"] == [AUDIO]


def test_audio_without_data_becomes_a_note() -> None:
    told = down("tools/call", {"content": [{"type": "audio", "data": 5}]}, "2024-11-05", "CallToolResult")
    assert told["content"][0]["type"] == "text"


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26"])
def test_a_link_becomes_text_with_its_uri_before_2025_06_18(version: str) -> None:
    told = down("tools/call", {"content": [LINK, EMBEDDED]}, version, "CallToolResult")
    assert told["content"] == [
        {
            "type": "text",
            "text": "Minutes: file:///a%20b.txt\nof Monday",
            "annotations": {"audience": ["user"]},
        },
        EMBEDDED,
    ]


@pytest.mark.parametrize("version", ["2025-06-18", "2025-11-25"])
def test_a_link_stays_from_2025_06_18_on(version: str) -> None:
    result = members({"content": [LINK, AUDIO]})
    assert content.down_result("tools/call", result, REVISIONS[version]) is result


@pytest.mark.parametrize(("block", "kind"), [(AUDIO, "resource"), (LINK, "text"), (TEXT, "text")])
def test_prompts_hold_the_same_blocks(block: Any, kind: str) -> None:
    result = {"messages": [{"role": "user", "content": block}], "resultType": "complete"}
    told = down("prompts/get", result, "2024-11-05", "GetPromptResult")
    assert told["messages"][0]["role"] == "user"
    assert told["messages"][0]["content"]["type"] == kind


def test_untouched_blocks_keep_their_text() -> None:
    odd = b'{"type":"text","text":"\\u0068i","n":1.00,"big":123456789012345678901234567890}'
    result = {"content": Raw(b"[" + odd + b"," + json.dumps(LINK).encode() + b"]")}
    told = content.down_result("tools/call", result, REVISIONS["2025-03-26"])
    assert bytes(told["content"]).startswith(b"[" + odd + b",")


# -- members of results


@pytest.mark.parametrize("version", LEGACY_VERSIONS)
def test_modern_members_of_a_result_go(version: str) -> None:
    contents = {"contents": [{"uri": "file:///x", "text": "x"}]}
    result = members({**contents, "resultType": "complete", "ttlMs": 5, "cacheScope": "public", "vendor": 1})
    told = content.down_result("resources/read", result, REVISIONS[version])
    check(version, "ReadResourceResult", plain(told))
    assert plain(told) == {**contents, "vendor": 1}
    assert told["contents"] is result["contents"]


def test_a_modern_client_gets_its_result_as_it_is() -> None:
    result = members({"content": [], "structuredContent": 5, "resultType": "complete"})
    assert content.down_result("tools/call", result, REVISIONS[MODERN]) is result


@pytest.mark.parametrize("told", [b'{"progressToken":1,"progressToken":2}', b"[]", b"{}"])
def test_metadata_that_cannot_be_read_does_not_pass(told: bytes) -> None:
    result = {"content": Raw(b"[]"), "_meta": Raw(told)}
    for version in LEGACY_VERSIONS:
        assert "_meta" not in content.down_result("tools/call", result, REVISIONS[version])
    assert "_meta" not in content.up_result("tools/call", result)


def test_facts_of_the_hop_leave_the_metadata_and_vendors_stay() -> None:
    server = {"io.modelcontextprotocol/serverInfo": {"name": "s", "version": "1"}}
    task = {"io.modelcontextprotocol/related-task": {"taskId": "t"}}
    vendor = {"a.example/k": 1, "traceparent": "x"}
    both = {"content": [], "_meta": {**server, **task, **vendor}}
    assert down("tools/call", both, "2025-11-25", "CallToolResult")["_meta"] == {**vendor, **task}
    assert down("tools/call", both, "2025-06-18", "CallToolResult")["_meta"] == vendor
    assert "_meta" not in down("tools/call", {"content": [], "_meta": server}, "2025-11-25", "CallToolResult")
    assert plain(content.up_result("tools/call", members(both)))["_meta"] == vendor
    kept = members({"content": [], "_meta": vendor})
    assert content.up_result("tools/call", kept) is kept


# -- structured content


@pytest.mark.parametrize("version", LEGACY_VERSIONS)
@pytest.mark.parametrize("value", [[1, {"a": 2}], "word", 5, 1.5, True, [], None])
def test_values_that_are_no_objects_become_text(version: str, value: Any) -> None:
    told = down("tools/call", {"content": [], "structuredContent": value}, version, "CallToolResult")
    assert "structuredContent" not in told
    assert [json.loads(block["text"]) for block in told["content"]] == [value]


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26"])
def test_objects_become_text_before_2025_06_18(version: str) -> None:
    value = {"a": 1, "b": "\u4e16 <&>"}
    result = {"content": [TEXT], "structuredContent": value, "isError": True}
    told = down("tools/call", result, version, "CallToolResult")
    assert "structuredContent" not in told and told["isError"] is True
    assert told["content"][0] == TEXT and json.loads(told["content"][1]["text"]) == value


@pytest.mark.parametrize("version", ["2025-06-18", "2025-11-25"])
def test_objects_stay_from_2025_06_18_on(version: str) -> None:
    result = members({"content": [], "structuredContent": {"a": 1}})
    assert content.down_result("tools/call", result, REVISIONS[version]) is result


SAID = [
    ({"a": 1, "b": [2]}, ['{ "b": [2], "a": 1 }']),
    ([1, 2], ["[1,2]"]),
    ([1, "x"], ["1", "x"]),
    ("word", ["word"]),
    ("word", ['"word"']),
    ({"result": "word"}, ["word"]),
    ({"result": [1, 2]}, ["1", "2"]),
    ({"result": 5}, ["before", "5"]),
    (None, ["nothing to say"]),
]


@pytest.mark.parametrize(("value", "texts"), SAID)
def test_a_value_that_is_told_already_is_not_told_twice(value: Any, texts: list[str]) -> None:
    blocks = [{"type": "text", "text": text} for text in texts]
    result = {"content": blocks, "structuredContent": value}
    assert down("tools/call", result, "2025-03-26", "CallToolResult") == {"content": blocks}


@pytest.mark.parametrize(("value", "text"), [(1, "true"), (True, "1"), ([1], "1, 2"), ({"a": 1}, '{"a":2}')])
def test_a_value_that_is_not_told_is_added(value: Any, text: str) -> None:
    result = {"content": [{"type": "text", "text": text}], "structuredContent": value}
    assert len(down("tools/call", result, "2025-03-26", "CallToolResult")["content"]) == 2


def test_a_missing_content_is_made_and_a_broken_one_left() -> None:
    told = down("tools/call", {"structuredContent": [1]}, "2025-11-25", "CallToolResult")
    assert told == {"content": [{"type": "text", "text": "[1]"}]}
    broken = content.down_result(
        "tools/call", members({"content": 5, "structuredContent": [1]}), REVISIONS["2025-11-25"]
    )
    assert plain(broken) == {"content": 5}


# -- towards a modern client


def test_stray_modern_members_of_a_legacy_server_go() -> None:
    told = content.up_result("tools/call", members({"content": [TEXT], "resultType": "odd", "ttlMs": -1}))
    assert plain(told) == {"content": [TEXT]}
    check(MODERN, "CallToolResult", {**plain(told), "resultType": "complete"})
    clean = members({"content": [TEXT]})
    assert content.up_result("tools/call", clean) is clean


def test_completions_are_cut_to_what_a_modern_schema_allows() -> None:
    many = {"completion": {"values": [str(n) for n in range(150)], "total": 150}}
    told = plain(content.up_result("completion/complete", members(many)))
    check(MODERN, "CompleteResult", {**told, "resultType": "complete"})
    assert told["completion"]["hasMore"] is True and told["completion"]["total"] == 150
    few = members({"completion": {"values": ["a"]}})
    assert content.up_result("completion/complete", few) is few


def test_completion_context_goes_before_2025_06_18() -> None:
    ref = {"ref": {"type": "ref/prompt", "name": "p"}, "argument": {"name": "a", "value": "b"}}
    params = members({**ref, "context": {"arguments": {}}})
    for version in LEGACY_VERSIONS:
        told = content.down_params("completion/complete", params, REVISIONS[version])
        assert ("context" in told) == (version >= "2025-06-18")
    assert content.down_params("tools/call", params, REVISIONS["2024-11-05"]) is params


# -- definitions

OBJECT = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
TOOL = {"name": "t", "title": "T", "inputSchema": OBJECT, "icons": [{"src": "https://a.example/i.png"}]}


@pytest.mark.parametrize("version", LEGACY_VERSIONS)
def test_output_schemas_go_where_there_are_none(version: str) -> None:
    item = raw({**TOOL, "outputSchema": OBJECT})
    told = content.down_item("tools", item, REVISIONS[version])
    check(version, "Tool", plain(told))
    assert (told is item) == (version >= "2025-06-18")
    assert ("outputSchema" in plain(told)) == (version >= "2025-06-18")


@pytest.mark.parametrize("version", LEGACY_VERSIONS)
@pytest.mark.parametrize("schema", [{"type": "array"}, {"anyOf": [OBJECT]}, {}, {"$ref": "#/$defs/x"}])
def test_output_schemas_that_are_no_objects_go(version: str, schema: Any) -> None:
    told = content.down_item("tools", raw({**TOOL, "outputSchema": schema}), REVISIONS[version])
    check(version, "Tool", plain(told))
    assert plain(told) == TOOL


@pytest.mark.parametrize("version", LEGACY_VERSIONS)
def test_compositions_in_input_schemas_are_forwarded(version: str) -> None:
    schema = {**OBJECT, "oneOf": [{"required": ["a"]}], "$defs": {"x": True}, "additionalProperties": False}
    item = raw({**TOOL, "inputSchema": schema})
    assert content.down_item("tools", item, REVISIONS[version]) is item
    check(version, "Tool", plain(item))


@pytest.mark.parametrize("version", LEGACY_VERSIONS)
def test_boolean_properties_are_written_as_objects(version: str) -> None:
    schema = {"type": "object", "properties": {"any": True, "no": False, "b": {"const": True}}}
    item = raw({**TOOL, "inputSchema": schema, "x-vendor": 1.0})
    check(MODERN, "Tool", plain(item))
    told = content.down_item("tools", item, REVISIONS[version])
    check(version, "Tool", plain(told))
    properties = plain(told)["inputSchema"]["properties"]
    assert properties == {"any": {}, "no": {"not": {}}, "b": {"const": True}}
    assert content.down_item("tools", told, REVISIONS[version]) is told


@pytest.mark.parametrize("version", LEGACY_VERSIONS)
@pytest.mark.parametrize(
    ("kind", "definition", "item"),
    [
        ("prompts", "Prompt", {"name": "p", "title": "P", "arguments": [{"name": "a", "title": "A"}]}),
        ("resources", "Resource", {"name": "r", "uri": "file:///r", "size": 5, "_meta": {"a.example/k": 1}}),
        ("templates", "ResourceTemplate", {"name": "r", "uriTemplate": "file:///{r}", "title": "R"}),
    ],
)
def test_other_definitions_pass_as_they_are(version: str, kind: Any, definition: str, item: Any) -> None:
    told = raw(item)
    assert content.down_item(kind, told, REVISIONS[version]) is told
    assert content.up_item(kind, told) is told
    check(version, definition, item)
    check(MODERN, definition, item)


def test_execution_is_stripped_for_modern_clients() -> None:
    told = content.up_item("tools", raw({**TOOL, "execution": {"taskSupport": "required"}}))
    assert told is not None and plain(told) == TOOL
    check(MODERN, "Tool", plain(told))
    clean = raw({**TOOL, "outputSchema": OBJECT})
    assert content.up_item("tools", clean) is clean


@pytest.mark.parametrize("schema", [None, {}, {"type": "array"}, {"type": ["object"]}, True, 5, "object"])
def test_tools_without_an_object_to_call_with_are_dropped(schema: Any) -> None:
    assert content.up_item("tools", raw({**TOOL, "inputSchema": schema})) is None
    assert content.up_item("tools", raw({"name": "t"})) is None
    assert content.up_item("prompts", raw([1])) is None


# -- whatever comes

annotations = st.fixed_dictionaries({}, optional={"priority": st.just(0.5), "audience": st.just(["user"])})
words = st.text(max_size=8)
blocks = st.one_of(
    st.builds(lambda t: {"type": "text", "text": t}, words),
    st.builds(lambda t: {"type": "text", "text": json.dumps(t)}, st.integers() | st.lists(st.integers())),
    st.builds(lambda a: {**AUDIO, "annotations": a}, annotations),
    st.builds(lambda n, a: {**LINK, "name": n, "annotations": a}, words, annotations),
    st.just(EMBEDDED),
    st.just({"type": "image", "data": "aGk=", "mimeType": "image/png"}),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
results = st.fixed_dictionaries(
    {"content": st.lists(blocks, max_size=3), "resultType": st.just("complete")},
    optional={"structuredContent": json_values, "isError": st.booleans()},
)
versions = st.sampled_from(LEGACY_VERSIONS)


@given(results, versions)
def test_every_modern_result_becomes_a_legacy_one(result: dict[str, Any], version: str) -> None:
    check(MODERN, "CallToolResult", result)
    told = down("tools/call", result, version, "CallToolResult")
    check(
        MODERN, "CallToolResult", {**plain(content.up_result("tools/call", members(told))), "resultType": "x"}
    )


@given(st.lists(blocks, max_size=3), versions)
def test_every_modern_prompt_becomes_a_legacy_one(found: list[Any], version: str) -> None:
    result = {"messages": [{"role": "user", "content": block} for block in found], "resultType": "complete"}
    down("prompts/get", result, version, "GetPromptResult")


subschemas = st.booleans() | st.fixed_dictionaries({}, optional={"type": st.just("string"), "x": json_values})
objects = st.fixed_dictionaries(
    {"type": st.just("object")}, optional={"properties": st.dictionaries(words, subschemas, max_size=3)}
)
any_schemas = objects | st.fixed_dictionaries({}, optional={"type": st.just("array"), "anyOf": json_values})
tools = st.fixed_dictionaries({"name": words, "inputSchema": objects}, optional={"outputSchema": any_schemas})


@given(tools, versions)
def test_every_modern_tool_becomes_a_legacy_one(tool: dict[str, Any], version: str) -> None:
    check(MODERN, "Tool", tool)
    once = content.down_item("tools", raw(tool), REVISIONS[version])
    check(version, "Tool", plain(once))
    assert content.down_item("tools", once, REVISIONS[version]) is once
    assert content.up_item("tools", once) is once


names = st.sampled_from(["content", "structuredContent", "_meta", "messages", "completion", "resultType"])
methods = st.sampled_from(["tools/call", "prompts/get", "resources/read", "completion/complete", "odd"])


@given(methods, st.dictionaries(names, json_values), versions, json_values)
def test_no_value_makes_anything_raise(method: str, result: Any, version: str, item: Any) -> None:
    told = content.down_result(method, members(result), REVISIONS[version])
    assert content.down_result(method, told, REVISIONS[version]) is told
    content.up_result(method, members(result))
    for kind in ("tools", "prompts", "resources", "templates"):
        content.down_item(kind, raw(item), REVISIONS[version])  # type: ignore[arg-type]
        content.up_item(kind, raw(item))  # type: ignore[arg-type]


def test_deep_texts_do_not_raise() -> None:
    for deep in ("[" * 100_000, "[" * 100_000 + "]" * 100_000, '{"a":' * 50_000, "9" * 5000, "1e999"):
        result = members({"content": [{"type": "text", "text": deep}], "structuredContent": [1]})
        assert len(plain(content.down_result("tools/call", result, REVISIONS["2025-11-25"]))["content"]) == 2
