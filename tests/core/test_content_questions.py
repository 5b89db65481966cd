"""Questions in the middle of a call and their answers between revisions, judged by the target's schema."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgate_proto.mcp import content
from mcpgate_proto.mcp.codes import FaultKind, peer
from mcpgate_proto.mcp.content import Refused
from mcpgate_proto.mcp.revisions import LEGACY_VERSIONS, MODERN, REVISIONS
from mcpgate_proto.wire.jsonrpc import Raw
from tests.schemas import check, check_message

ELICIT = "elicitation/create"
SAMPLE = "sampling/createMessage"
ROOTS = "roots/list"

Members = dict[str, Raw]


def raw(value: Any) -> Raw:
    return Raw(json.dumps(value).encode())


def members(value: dict[str, Any]) -> Members:
    return {name: raw(part) for name, part in value.items()}


def plain(value: Members | Raw) -> Any:
    if isinstance(value, Raw):
        return json.loads(bytes(value))
    return {name: json.loads(bytes(part)) for name, part in value.items()}


ALL = {"elicitation": {"form": {}, "url": {}}, "sampling": {"tools": {}, "context": {}}, "roots": {}}


def put(method: str, params: Any, version: str, declared: Any = None, **options: Any) -> Any:
    """The params as they go to the client, valid there and stable, or the refusal."""
    capabilities = members(ALL if declared is None else declared)
    told = content.down_question(method, members(params), REVISIONS[version], capabilities, "e-1", **options)
    if isinstance(told, Refused):
        assert (told.result is None) != (told.fault is None)
        return told
    check_message(version, "server", {"jsonrpc": "2.0", "id": 1, "method": method, "params": plain(told)})
    again = content.down_question(method, told, REVISIONS[version], capabilities, "e-1", **options)
    assert not isinstance(again, Refused) and plain(again) == plain(told)
    assert all(again[name] is told[name] for name in again if name != "elicitationId")
    return plain(told)


def lacks(told: Any, required: Any) -> bool:
    """Whether a question was refused for want of a capability."""
    return (
        isinstance(told, Refused)
        and told.fault is not None
        and told.fault.kind is FaultKind.MISSING_CAPABILITY
        and plain(told.fault.data) == required
    )


def unsupported(told: Any) -> bool:
    return isinstance(told, Refused) and told.fault is not None and told.fault.kind is FaultKind.UNSUPPORTED


# -- elicitation


def form(**properties: Any) -> dict[str, Any]:
    return {"message": "Well?", "requestedSchema": {"type": "object", "properties": properties}}


PLAIN = form(a={"type": "string", "format": "email"}, b={"type": "boolean", "default": True})


def test_the_mode_is_added_where_the_revision_has_it_and_dropped_where_not() -> None:
    assert put(ELICIT, PLAIN, "2025-11-25") == {"mode": "form", **PLAIN}
    assert put(ELICIT, {**PLAIN, "mode": "form"}, "2025-11-25") == {"mode": "form", **PLAIN}
    assert put(ELICIT, {**PLAIN, "mode": "form"}, "2025-06-18") == PLAIN


def test_a_form_that_needs_nothing_keeps_its_objects() -> None:
    params = members({**PLAIN, "mode": "form"})
    for version in ("2025-06-18", "2025-11-25"):
        told = content.down_question(ELICIT, params, REVISIONS[version], members({"elicitation": {}}), "e")
        assert not isinstance(told, Refused)
        assert all(told[name] is params[name] for name in told)


def test_titled_options_become_enum_and_names() -> None:
    options = [{"const": "r", "title": "Red"}, {"const": "g", "title": "Green"}]
    asked = form(c={"type": "string", "title": "Colour", "oneOf": options, "default": "r"})
    check(MODERN, "ElicitRequestFormParams", asked)
    told = put(ELICIT, asked, "2025-06-18")
    assert told["requestedSchema"]["properties"]["c"] == {
        "type": "string",
        "title": "Colour",
        "enum": ["r", "g"],
        "enumNames": ["Red", "Green"],
    }
    assert put(ELICIT, asked, "2025-11-25")["requestedSchema"] == asked["requestedSchema"]


@pytest.mark.parametrize(
    "field",
    [
        {"type": "string", "default": "x", "minLength": 1},
        {"type": "number", "default": 1.5, "maximum": 2},
        {"type": "integer", "default": 1},
        {"type": "string", "enum": ["a"], "enumNames": ["A"], "default": "a"},
    ],
)
def test_defaults_that_2025_06_18_does_not_know_are_dropped(field: Any) -> None:
    told = put(ELICIT, form(a=field, b={"type": "boolean", "default": False}), "2025-06-18")
    left = {name: value for name, value in field.items() if name != "default"}
    assert told["requestedSchema"]["properties"] == {"a": left, "b": {"type": "boolean", "default": False}}
    assert put(ELICIT, form(a=field), "2025-11-25")["requestedSchema"]["properties"] == {"a": field}


MULTI = [
    {"type": "array", "items": {"type": "string", "enum": ["a"]}},
    {"type": "array", "items": {"anyOf": [{"const": "a", "title": "A"}]}, "default": ["a"]},
]


@pytest.mark.parametrize("field", MULTI)
def test_multi_select_is_declined_before_2025_11_25(field: Any) -> None:
    told = put(ELICIT, form(a={"type": "string"}, m=field), "2025-06-18")
    assert isinstance(told, Refused) and told.result is not None
    check(MODERN, "ElicitResult", plain(told.result))
    assert plain(told.result) == {"action": "decline"}
    assert put(ELICIT, form(m=field), "2025-11-25")["requestedSchema"]["properties"] == {"m": field}


@pytest.mark.parametrize("field", [{"type": "object"}, {}, 5, {"type": "string", "oneOf": [{"enum": ["a"]}]}])
def test_fields_that_nobody_knows_are_declined(field: Any) -> None:
    told = put(ELICIT, form(a=field), "2025-06-18")
    assert isinstance(told, Refused) and told.result is not None


URL = {"mode": "url", "message": "Sign in", "url": "https://a.example/%7Ex?y=\u00fc"}


def test_a_url_gets_the_minted_id() -> None:
    asked = members({**URL, "elicitationId": "of another hop"})
    told = content.down_question(ELICIT, asked, REVISIONS["2025-11-25"], members(ALL), "e-1")
    assert not isinstance(told, Refused)
    assert told["url"] is asked["url"] and told["mode"] is asked["mode"]
    assert put(ELICIT, URL, "2025-11-25") == {**URL, "elicitationId": "e-1"}


@pytest.mark.parametrize(
    ("version", "declared"),
    [
        ("2025-11-25", {"elicitation": {}}),
        ("2025-11-25", {"elicitation": {"form": {}}}),
        ("2025-11-25", {"elicitation": {"url": None}}),
        ("2025-11-25", {}),
        ("2025-06-18", {"elicitation": {"url": {}}}),
        ("2025-03-26", ALL),
    ],
)
def test_a_url_needs_a_client_that_has_declared_it(version: str, declared: Any) -> None:
    assert lacks(put(ELICIT, URL, version, declared), {"elicitation": {"url": {}}})


def test_a_form_needs_a_client_that_has_declared_it() -> None:
    assert lacks(
        put(ELICIT, PLAIN, "2025-11-25", {"elicitation": {"url": {}}}), {"elicitation": {"form": {}}}
    )
    assert put(ELICIT, PLAIN, "2025-06-18", {"elicitation": {"url": {}}}) == PLAIN
    for version, declared in (("2025-11-25", {}), ("2025-06-18", {"sampling": {}}), ("2025-03-26", ALL)):
        assert lacks(put(ELICIT, PLAIN, version, declared), {"elicitation": {}})


@pytest.mark.parametrize(
    "params",
    [
        {**PLAIN, "mode": "voice"},
        {**PLAIN, "mode": 5},
        {"message": "m"},
        {"requestedSchema": {"type": "object", "properties": {}}},
        {"mode": "url", "message": "m"},
        {**PLAIN, "requestedSchema": 5},
    ],
)
def test_questions_that_are_none_are_refused(params: Any) -> None:
    assert unsupported(put(ELICIT, params, "2025-11-25"))


# -- sampling


def sample(*contents: Any, **params: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": part} for part in contents], "maxTokens": 9, **params}


TEXT = {"type": "text", "text": "hi"}
AUDIO = {"type": "audio", "data": "UklGRg==", "mimeType": "audio/wav", "annotations": {"priority": 1}}
USE = {"type": "tool_use", "id": "1", "name": "t", "input": {}}
RESULT = {"type": "tool_result", "toolUseId": "1", "content": [], "structuredContent": [1]}
OLD = ["2024-11-05", "2025-03-26", "2025-06-18"]


@pytest.mark.parametrize("version", LEGACY_VERSIONS)
def test_plain_sampling_keeps_its_objects(version: str) -> None:
    params = members(sample(TEXT, includeContext="thisServer", temperature=0.5))
    told = content.down_question(SAMPLE, params, REVISIONS[version], members({"sampling": {}}), "")
    assert not isinstance(told, Refused)
    assert all(told[name] is params[name] for name in params)
    put(SAMPLE, plain(params), version)


@pytest.mark.parametrize("version", OLD)
def test_a_list_of_one_block_becomes_the_block(version: str) -> None:
    assert put(SAMPLE, sample([TEXT], TEXT), version) == sample(TEXT, TEXT)


@pytest.mark.parametrize("version", OLD)
@pytest.mark.parametrize("blocks", [[TEXT, TEXT], []])
def test_lists_of_other_lengths_are_refused(version: str, blocks: Any) -> None:
    assert unsupported(put(SAMPLE, sample(blocks), version))


def test_lists_stay_from_2025_11_25_on() -> None:
    assert put(SAMPLE, sample([TEXT, AUDIO]), "2025-11-25", {"sampling": {}}) == sample([TEXT, AUDIO])


def test_audio_is_a_note_before_2025_03_26() -> None:
    told = put(SAMPLE, sample([AUDIO]), "2024-11-05")["messages"][0]["content"]
    assert told["type"] == "text" and "audio/wav" in told["text"] and told["annotations"] == {"priority": 1}
    assert put(SAMPLE, sample(AUDIO), "2025-03-26") == sample(AUDIO)


@pytest.mark.parametrize(
    "asked",
    [
        sample(TEXT, tools=[]),
        sample(TEXT, toolChoice={"mode": "auto"}),
        sample([USE]),
        sample(RESULT),
    ],
)
def test_tools_in_sampling_need_a_client_that_has_them(asked: Any) -> None:
    for version in OLD:
        assert lacks(put(SAMPLE, asked, version), {"sampling": {"tools": {}}})
    assert lacks(put(SAMPLE, asked, "2025-11-25", {"sampling": {}}), {"sampling": {"tools": {}}})
    check(MODERN, "CreateMessageRequestParams", asked)
    put(SAMPLE, asked, "2025-11-25")


def test_results_and_tools_in_sampling_are_converted_like_any() -> None:
    tool = {"name": "t", "inputSchema": {"type": "object"}, "outputSchema": {"type": "array"}}
    told = put(SAMPLE, sample([USE], [RESULT], tools=[tool]), "2025-11-25")
    assert told["tools"] == [{"name": "t", "inputSchema": {"type": "object"}}]
    [block] = told["messages"][1]["content"]
    assert "structuredContent" not in block and block["content"] == [{"type": "text", "text": "[1]"}]


def test_sampling_needs_to_be_declared() -> None:
    assert lacks(put(SAMPLE, sample(TEXT), "2025-11-25", {"roots": {}}), {"sampling": {}})
    assert unsupported(put(SAMPLE, {"maxTokens": 5}, "2025-11-25"))


@pytest.mark.parametrize("told", ["thisServer", "allServers"])
def test_context_is_narrowed_where_servers_are_aggregated(told: str) -> None:
    asked = sample(TEXT, includeContext=told)
    assert put(SAMPLE, asked, "2025-11-25")["includeContext"] == told
    assert put(SAMPLE, asked, "2025-11-25", aggregated=True)["includeContext"] == "none"
    assert plain(content.up_question(SAMPLE, members(asked), aggregated=True))["includeContext"] == "none"
    assert "includeContext" not in put(SAMPLE, sample(TEXT), "2025-11-25", aggregated=True)


# -- roots, and what is neither


@pytest.mark.parametrize("version", LEGACY_VERSIONS)
def test_roots_are_asked_of_clients_that_have_declared_them(version: str) -> None:
    assert put(ROOTS, {}, version) == {}
    assert lacks(put(ROOTS, {}, version, {"sampling": {}}), {"roots": {}})
    assert unsupported(content.down_question("odd/ask", {}, REVISIONS[version], members(ALL), ""))


def test_facts_of_the_hop_stay_behind() -> None:
    asked = {**PLAIN, "task": {"ttl": 1}, "_meta": {"progressToken": 1, "a.example/k": 2}}
    told = put(ELICIT, asked, "2025-11-25")
    assert told["_meta"] == {"a.example/k": 2} and "task" not in told


# -- towards a modern client


@pytest.mark.parametrize(
    ("method", "version", "params"),
    [
        (ELICIT, "2025-06-18", PLAIN),
        (ELICIT, "2025-06-18", form(a={"type": "string", "enum": ["a"], "enumNames": ["A"]})),
        (ELICIT, "2025-11-25", {**PLAIN, "mode": "form", "task": {"ttl": 1}}),
        (ELICIT, "2025-11-25", form(m=MULTI[0], n=MULTI[1])),
        (ELICIT, "2025-11-25", {**URL, "elicitationId": "x", "_meta": {"progressToken": 1}}),
        (SAMPLE, "2024-11-05", sample(TEXT, metadata={"a": 1})),
        (SAMPLE, "2025-03-26", sample(AUDIO)),
        (SAMPLE, "2025-11-25", sample([USE], [{**RESULT, "structuredContent": {}}], toolChoice={})),
        (ROOTS, "2025-11-25", {"_meta": {"progressToken": 1}}),
    ],
)
def test_a_legacy_question_is_embedded(method: str, version: str, params: Any) -> None:
    check_message(version, "server", {"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    given_params = members(params)
    told = content.up_question(method, given_params)
    asked = {"method": method, "params": plain(told)}
    check(MODERN, "InputRequest", asked)
    check(MODERN, "InputRequiredResult", {"resultType": "input_required", "inputRequests": {"k": asked}})
    assert not {"task", "elicitationId", "_meta"} & set(told)
    assert all(told[name] is given_params[name] for name in told)


def test_tools_of_an_embedded_question_are_modern_ones() -> None:
    tool = {"name": "t", "inputSchema": {"type": "object"}}
    tools = [{**tool, "execution": {"taskSupport": "optional"}}, {"name": "bad", "inputSchema": {}}, tool]
    told = plain(content.up_question(SAMPLE, members(sample(TEXT, tools=tools))))
    check(MODERN, "CreateMessageRequestParams", told)
    assert told["tools"] == [tool, tool]


def test_metadata_of_vendors_is_embedded() -> None:
    meta = {"_meta": {"a.example/k": 1}}
    params = members({**PLAIN, **meta})
    assert content.up_question(ELICIT, params)["_meta"] is params["_meta"]


# -- answers

ANSWERS = [
    (ELICIT, "ElicitResult", {"action": "accept", "content": {"a": "x", "n": 1, "b": True}}),
    (ELICIT, "ElicitResult", {"action": "decline"}),
    (SAMPLE, "CreateMessageResult", {"role": "assistant", "model": "m", "content": TEXT}),
    (ROOTS, "ListRootsResult", {"roots": [{"uri": "file:///a", "name": "a"}]}),
]


@pytest.mark.parametrize(("method", "definition", "answer"), ANSWERS)
def test_answers_lose_what_results_carry(method: str, definition: str, answer: Any) -> None:
    same = raw(answer)
    assert content.answer_for_modern(method, same) is same
    assert content.bare_answer(same) is same
    full = raw({**answer, "_meta": {"a.example/k": 1}, "resultType": "complete"})
    assert plain(content.answer_for_modern(method, full)) == answer
    check(MODERN, definition, answer)
    check(MODERN, "InputResponses", {"k": answer})
    for version in LEGACY_VERSIONS:
        assert content.answer_for_legacy(method, same, REVISIONS[version]) is same
        if method != ELICIT or REVISIONS[version].elicitation:
            told = content.answer_for_legacy(method, full, REVISIONS[version])
            assert isinstance(told, Raw)
            frame = {"jsonrpc": "2.0", "id": 1, "result": plain(told)}
            check_message(version, "client", frame, request_method=method)


def test_a_null_content_of_a_decline_goes() -> None:
    told = plain(content.answer_for_modern(ELICIT, raw({"action": "decline", "content": None})))
    check(MODERN, "ElicitResult", told)
    assert told == {"action": "decline"}


def test_sampling_answers_for_older_servers() -> None:
    answer = {"role": "assistant", "model": "m"}
    for version in OLD:
        one = content.answer_for_legacy(SAMPLE, raw({**answer, "content": [AUDIO]}), REVISIONS[version])
        assert isinstance(one, Raw)
        check(version, "CreateMessageResult", plain(one))
        for blocks in ([TEXT, TEXT], [], [USE], USE):
            told = content.answer_for_legacy(SAMPLE, raw({**answer, "content": blocks}), REVISIONS[version])
            assert unsupported(told)
    rich = raw({**answer, "content": [TEXT, USE]})
    assert content.answer_for_legacy(SAMPLE, rich, REVISIONS["2025-11-25"]) is rich
    check("2025-11-25", "CreateMessageResult", plain(rich))


def test_errors_cancel_elicitation_and_end_the_rest() -> None:
    told = content.error_answer(ELICIT, peer(-32603, "no"))
    assert told is not None and plain(told) == {"action": "cancel"}
    check(MODERN, "ElicitResult", plain(told))
    assert content.error_answer(SAMPLE, peer(-1, "rejected")) is None
    assert content.error_answer(ROOTS, peer(-32601, "none")) is None


# -- whatever comes

words = st.text(max_size=6)
options = st.lists(st.fixed_dictionaries({"const": words, "title": words}), max_size=3)
described = {"title": words, "description": words}
fields = st.one_of(
    st.fixed_dictionaries({"type": st.just("string")}, optional={**described, "default": words}),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["number", "integer"])}, optional={**described, "default": st.integers()}
    ),
    st.fixed_dictionaries({"type": st.just("boolean")}, optional={**described, "default": st.booleans()}),
    st.fixed_dictionaries(
        {"type": st.just("string"), "enum": st.lists(words, max_size=2)},
        optional={"enumNames": st.lists(words, max_size=2), "default": words},
    ),
    st.fixed_dictionaries({"type": st.just("string"), "oneOf": options}, optional={"default": words}),
    st.sampled_from(MULTI),
)
forms = st.dictionaries(words, fields, max_size=4).map(lambda found: form(**found))
block = st.sampled_from([TEXT, AUDIO, USE, RESULT])
samples = st.lists(block | st.lists(block, max_size=2), max_size=3).map(lambda found: sample(*found))
declared = st.sampled_from(
    [ALL, {}, {"elicitation": {}, "sampling": {}, "roots": {}}, {"elicitation": {"url": {}}}]
)
versions = st.sampled_from(LEGACY_VERSIONS)


@given(forms, versions, declared)
def test_every_form_is_put_or_refused(asked: Any, version: str, told: Any) -> None:
    check(MODERN, "ElicitRequestFormParams", asked)
    put(ELICIT, asked, version, told)


@given(samples, versions, declared, st.booleans())
def test_every_sampling_request_is_put_or_refused(
    asked: Any, version: str, told: Any, aggregated: bool
) -> None:
    check(MODERN, "CreateMessageRequestParams", asked)
    put(SAMPLE, asked, version, told, aggregated=aggregated)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(
    ["mode", "url", "message", "requestedSchema", "messages", "tools", "_meta", "includeContext", "content"]
)


@given(st.sampled_from([ELICIT, SAMPLE, ROOTS]), st.dictionaries(names, values), values, versions)
def test_no_value_makes_anything_raise(method: str, params: Any, value: Any, version: str) -> None:
    revision = REVISIONS[version]
    content.down_question(method, members(params), revision, members(ALL), "e")
    content.down_question(method, members(params), revision, {"sampling": raw(value)}, "e", aggregated=True)
    content.up_question(method, members(params), aggregated=True)
    for answer in (raw(value), raw(params)):
        content.answer_for_modern(method, answer)
        content.answer_for_legacy(method, answer, revision)
