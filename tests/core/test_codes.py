"""Faults to codes and back: the table of L8, row by row, and what must never be emitted."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgate_proto.mcp.codes import (
    ErrorBody,
    Fault,
    FaultKind,
    from_legacy_error,
    from_modern_error,
    http_status,
    method_not_found,
    missing_capability,
    peer,
    rate_limited,
    resource_not_found,
    to_legacy,
    to_modern,
    unknown_name,
    url_elicitation,
)
from mcpgate_proto.mcp.revisions import LEGACY_VERSIONS, REVISIONS
from mcpgate_proto.wire.jsonrpc import Raw

NEWEST = REVISIONS["2025-11-25"]
URI = "file:///a"
READ = {"uri": Raw(b'"file:///a"')}
URLS = {"elicitations": [{"mode": "url", "url": "https://x.example"}]}


def raw(value: Any) -> Raw:
    return Raw(json.dumps(value, separators=(",", ":")).encode())


def spelled(body: ErrorBody) -> tuple[int, Any]:
    return body.code, json.loads(bytes(body.data)) if bytes(body.data) else None


GATEWAY = [
    FaultKind.TIMEOUT,
    FaultKind.UPSTREAM_DOWN,
    FaultKind.OVERLOADED,
    FaultKind.DENIED,
    FaultKind.CANCELLED,
    FaultKind.INTERNAL,
    FaultKind.UNSUPPORTED,
]

# (fault, to 2025-11-25, to modern, status to modern)
TABLE: list[tuple[Fault, Any, Any, int]] = [
    (method_not_found("x/y"), (-32601, None), (-32601, None), 404),
    (resource_not_found(URI), (-32002, {"uri": URI}), (-32602, {"uri": URI}), 400),
    (unknown_name("tool", "x"), (-32602, None), (-32602, None), 400),
    (Fault(FaultKind.INVALID_PARAMS, "m", data=raw([1])), (-32602, [1]), (-32602, [1]), 400),
    (Fault(FaultKind.BAD_STATE, "start over"), (-32602, None), (-32602, None), 400),
    (
        missing_capability(raw({"sampling": {}})),
        (-32603, {"requiredCapabilities": {"sampling": {}}}),
        (-32021, {"requiredCapabilities": {"sampling": {}}}),
        400,
    ),
    (
        url_elicitation("the user has to open a URL first", raw(URLS)),
        (-32042, URLS),
        (-32021, {"requiredCapabilities": {"elicitation": {"url": {}}}}),
        400,
    ),
    *(
        (
            Fault(kind, "m"),
            (-32603, {"origin": "gateway", "reason": kind.value}),
            (-32603, {"origin": "gateway", "reason": kind.value}),
            200,
        )
        for kind in GATEWAY
    ),
    # Peers' own: what passes, and what is remapped on which side.
    (peer(-32603, "m", raw({"a": 1})), (-32603, {"a": 1}), (-32603, {"a": 1}), 200),
    (peer(-32600, "m"), (-32600, None), (-32600, None), 400),
    (peer(42, "m"), (42, None), (42, None), 200),
    (peer(-1, "m"), (-1, None), (-1, None), 200),
    (peer(-32001, "m"), (-32001, None), (-32603, {"upstreamCode": -32001}), 200),
    (
        peer(-32000, "m", raw("d")),
        (-32000, "d"),
        (-32603, {"upstreamCode": -32000, "upstreamData": "d"}),
        200,
    ),
    (peer(-32002, "m"), (-32002, None), (-32603, {"upstreamCode": -32002}), 200),
    (peer(-32019, "m"), (-32019, None), (-32603, {"upstreamCode": -32019}), 200),
    *(
        (peer(code, "m"), (-32603, {"upstreamCode": code}), (-32603, {"upstreamCode": code}), 200)
        for code in (-32020, -32021, -32022, -32023, -32042, -32099)
    ),
    (peer(-32100, "m"), (-32100, None), (-32100, None), 200),
    (peer(10**30, "m"), (-32603, None), (-32603, None), 200),
]


@pytest.mark.parametrize(("fault", "legacy", "modern", "status"), TABLE, ids=lambda value: str(value)[:40])
def test_table(fault: Fault, legacy: Any, modern: Any, status: int) -> None:
    assert spelled(to_legacy(fault, NEWEST)) == legacy
    assert spelled(to_modern(fault)) == modern
    assert to_modern(fault).http_status == status == http_status(modern[0])
    assert to_legacy(fault, NEWEST).http_status == 200
    assert to_legacy(fault, "2025-11-25") == to_legacy(fault, NEWEST)
    assert to_modern(fault).message == to_legacy(fault, NEWEST).message == fault.message


def test_the_table_has_every_kind() -> None:
    assert {row[0].kind for row in TABLE} | {FaultKind.RATE_LIMITED} == set(FaultKind)


@pytest.mark.parametrize(("wait_ms", "wait_s"), [(1, 1), (1000, 1), (1001, 2), (59_500, 60)])
def test_a_rate_limit_says_when_to_come_back(wait_ms: int, wait_s: int) -> None:
    """RFC 6585 section 4, with a code of JSON-RPC itself: none of A11-A15 means it."""
    fault = rate_limited(wait_ms)
    data = {"origin": "gateway", "reason": "rate_limited", "retryAfterMs": wait_ms}
    assert spelled(to_legacy(fault, NEWEST)) == spelled(to_modern(fault)) == (-32603, data)
    assert (to_modern(fault).http_status, to_modern(fault).retry_after_s) == (429, wait_s)
    assert (to_legacy(fault, NEWEST).http_status, to_legacy(fault, NEWEST).retry_after_s) == (200, 0)


def test_what_is_told_of_a_failure_is_its_message_and_its_id_and_no_more() -> None:
    fault = Fault(FaultKind.UPSTREAM_DOWN, "m", detail="/home/x exited with 1", error_id="abc", denied=True)
    data = {"origin": "gateway", "reason": "upstream_down", "errorId": "abc"}
    for body in (to_legacy(fault, NEWEST), to_modern(fault)):
        assert spelled(body) == (-32603, data) and body.message == "m"


@pytest.mark.parametrize("version", LEGACY_VERSIONS)
def test_url_elicitation_is_for_those_who_know_it(version: str) -> None:
    fault = url_elicitation("the user has to open a URL first", raw(URLS))
    expected = -32042 if version == "2025-11-25" else -32603
    assert to_legacy(fault, REVISIONS[version]).code == expected
    body = to_legacy(fault, REVISIONS[version], elicitation_url=False)
    assert body.code == -32603 and b"x.example" not in bytes(body.data)


def test_the_message_names_the_capability() -> None:
    body = to_legacy(missing_capability(raw({"sampling": {}, "roots": {}})), NEWEST)
    assert "sampling, roots" in body.message
    assert missing_capability(Raw(b"broken")).kind is FaultKind.MISSING_CAPABILITY


@pytest.mark.parametrize("read", [from_legacy_error, from_modern_error])
@pytest.mark.parametrize(
    ("code", "data", "method", "kind"),
    [
        (-32601, None, "tools/call", FaultKind.METHOD_NOT_FOUND),
        (-32602, None, "tools/call", FaultKind.INVALID_PARAMS),
        (-32602, {"uri": URI}, "tools/call", FaultKind.INVALID_PARAMS),
        (-32602, {"uri": URI}, "resources/read", FaultKind.RESOURCE_NOT_FOUND),
        (-32602, {"uri": "file:///other"}, "resources/read", FaultKind.INVALID_PARAMS),
        (-32602, [URI], "resources/read", FaultKind.INVALID_PARAMS),
        (-32002, None, "resources/read", FaultKind.RESOURCE_NOT_FOUND),
        (-32002, {"uri": "else"}, "resources/read", FaultKind.RESOURCE_NOT_FOUND),
        (-32002, None, "tools/call", FaultKind.PEER),
        (-32042, URLS, "tools/call", FaultKind.URL_ELICITATION),
        (-32042, {"elicitations": 1}, "tools/call", FaultKind.PEER),
        (-32042, None, "tools/call", FaultKind.PEER),
        (-32603, None, "tools/call", FaultKind.PEER),
        (-32020, None, "tools/call", FaultKind.PEER),
        (-32022, {"supported": []}, "tools/call", FaultKind.PEER),
        (-1, None, "sampling/createMessage", FaultKind.PEER),
    ],
)
def test_reading(read: Any, code: int, data: Any, method: str, kind: FaultKind) -> None:
    fault = read(code, "their words", raw(data) if data is not None else Raw(b""), method, READ)
    assert fault.kind is kind and fault.message == "their words"
    if kind is FaultKind.PEER:
        assert fault.code == code
    if kind is FaultKind.RESOURCE_NOT_FOUND:
        assert fault.uri == URI


def test_the_part_of_a_capability_that_is_missing_is_named() -> None:
    """A client that shows forms did declare elicitation."""
    told = missing_capability(raw({"elicitation": {"url": {}}, "sampling": {}})).message
    assert told.endswith("that is needed: elicitation.url, sampling")


def test_missing_capability_means_the_same_from_either_era_when_it_is_whole() -> None:
    data = raw({"requiredCapabilities": {"roots": {}}})
    for read in (from_modern_error, from_legacy_error):
        assert read(-32021, "m", data, "tools/call", {}) == missing_capability(raw({"roots": {}}))
    for broken in (Raw(b""), raw({}), raw({"requiredCapabilities": ["roots"]}), raw([])):
        assert from_modern_error(-32021, "m", broken, "tools/call", {}).kind is FaultKind.PEER


@pytest.mark.parametrize(("code", "legacy", "modern"), [(-32002, -32002, -32602), (-32602, -32002, -32602)])
def test_resource_not_found_crosses_both_ways(code: int, legacy: int, modern: int) -> None:
    for read in (from_legacy_error, from_modern_error):
        fault = read(code, "gone", raw({"uri": URI}), "resources/read", READ)
        assert to_legacy(fault, NEWEST).code == legacy
        assert spelled(to_modern(fault)) == (modern, {"uri": URI})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(
    st.one_of(st.integers(-32800, -31900), st.integers(), st.sampled_from([-32002, -32042, -32021, -32602])),
    st.none() | json_values,
    st.sampled_from(["tools/call", "resources/read", "resources/subscribe", "x"]),
    st.sampled_from([READ, {}, {"uri": Raw(b"7")}]),
    st.sampled_from([from_legacy_error, from_modern_error]),
)
def test_no_error_of_a_peer_becomes_a_forbidden_code(
    code: int, data: Any, method: str, params: Any, read: Any
) -> None:
    fault = read(code, "m", raw(data) if data is not None else Raw(b""), method, params)
    modern = to_modern(fault)
    assert modern.code not in range(-32099, -31999) or modern.code == -32021
    if modern.code == -32021:
        assert isinstance(json.loads(bytes(modern.data))["requiredCapabilities"], dict)
    for version in LEGACY_VERSIONS:
        body = to_legacy(fault, REVISIONS[version])
        assert body.code not in range(-32099, -32019) or (body.code == -32042 and version == "2025-11-25")
        json.loads(bytes(body.data) or b"null")  # data is JSON, or not there
        # A14: a peer's failure is never passed off as our own.
        assert b'"origin":"gateway"' not in bytes(body.data) or b"gateway" in bytes(raw(data))
