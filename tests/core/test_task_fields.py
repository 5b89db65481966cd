"""A task in the form of 2025-11-25 and in that of the extension, table by table (L22)."""

from __future__ import annotations

from typing import Any

import pytest

from mcpgate_proto.mcp import content, task_fields
from mcpgate_proto.mcp.codes import Fault, FaultKind, peer
from mcpgate_proto.wire import jsonrpc
from mcpgate_proto.wire.jsonrpc import Raw
from tests.schemas import check

NOW = "2026-08-01T00:00:00Z"
BASE = {"taskId": "t", "createdAt": "2026-08-01T10:00:00Z", "lastUpdatedAt": "2026-08-01T10:00:01Z"}
MOST_MS = 1_000_000


def members(told: dict[str, Any]) -> dict[str, Raw]:
    return {name: jsonrpc.to_raw(value) for name, value in told.items()}


def plain(told: dict[str, Raw]) -> Any:
    return jsonrpc.plain(jsonrpc.encode_object(told))


@pytest.mark.parametrize(
    ("legacy", "modern"),
    [
        ({"ttl": 5, "pollInterval": 7}, {"ttlMs": 5, "pollIntervalMs": 7}),
        ({"ttl": None}, {"ttlMs": MOST_MS}),
        ({"ttl": 2 * MOST_MS}, {"ttlMs": MOST_MS}),
        ({}, {"ttlMs": MOST_MS}),
        ({"ttl": -1, "pollInterval": "x"}, {"ttlMs": MOST_MS}),
        ({"ttl": 0, "pollInterval": 0}, {"ttlMs": 0, "pollIntervalMs": 0}),
        ({"ttl": 1, "statusMessage": "so far"}, {"ttlMs": 1, "statusMessage": "so far"}),
        ({"ttl": 1, "statusMessage": 5}, {"ttlMs": 1}),
        # What is not of this form is not passed on under a name that means something in the other.
        (
            {"ttl": 1, "result": {}, "error": {}, "inputRequests": {}, "ttlMs": 9, "resultType": "x"},
            {"ttlMs": 1},
        ),
    ],
)
def test_a_legacy_task_in_the_form_of_the_extension(legacy: Any, modern: Any) -> None:
    for status in ("working", "input_required", "completed", "failed", "cancelled"):
        told = task_fields.modern(members({**BASE, "status": status, **legacy}), MOST_MS, NOW)
        assert plain(told) == {**BASE, "status": status, **modern}


def test_missing_dates_are_those_of_now() -> None:
    told = plain(
        task_fields.modern(members({"taskId": "t", "status": "working", "createdAt": 5}), MOST_MS, NOW)
    )
    assert (told["createdAt"], told["lastUpdatedAt"]) == (NOW, NOW)


@pytest.mark.parametrize(
    ("modern", "legacy"),
    [
        (
            {"status": "working", "ttlMs": 5, "pollIntervalMs": 7},
            {"status": "working", "ttl": 5, "pollInterval": 7},
        ),
        ({"status": "working", "ttlMs": None}, {"status": "working", "ttl": None}),
        ({"status": "working"}, {"status": "working", "ttl": None}),
        ({"status": "input_required", "inputRequests": {"a": {}}}, {"status": "input_required", "ttl": None}),
        ({"status": "completed", "result": {"content": []}}, {"status": "completed", "ttl": None}),
        ({"status": "completed", "result": {"isError": False}}, {"status": "completed", "ttl": None}),
        (
            {"status": "completed", "result": {"isError": True}},
            {"status": "failed", "ttl": None, "statusMessage": "the tool reported an error"},
        ),
        (
            {"status": "completed", "result": {"isError": True}, "statusMessage": "why"},
            {"status": "failed", "ttl": None, "statusMessage": "why"},
        ),
        (
            {"status": "failed", "error": {"code": 1, "message": "bad"}},
            {"status": "failed", "ttl": None, "statusMessage": "bad"},
        ),
        ({"status": "cancelled", "ttlMs": 3}, {"status": "cancelled", "ttl": 3}),
    ],
)
def test_a_task_of_the_extension_in_the_legacy_form(modern: Any, legacy: Any) -> None:
    told = plain(task_fields.legacy(members({**BASE, **modern}), NOW))
    assert told == {**BASE, **legacy}
    check("2025-11-25", "GetTaskResult", told)


@pytest.mark.parametrize("odd", ["done", "", None, 5, {}])
def test_a_status_that_no_form_has_is_none(odd: Any) -> None:
    assert task_fields.status_of(members({"status": odd})) is None


def test_texts_of_servers_are_cut() -> None:
    told = task_fields.modern(members({**BASE, "status": "working", "statusMessage": "x" * 9999}), 1, NOW)
    assert len(plain(told)["statusMessage"]) == 4096


@pytest.mark.parametrize(
    ("capabilities", "offered"),
    [
        ({"tasks": {"requests": {"tools": {"call": {}}}}}, True),
        ({"tasks": {"requests": {"tools": {}}}}, False),
        ({"tasks": {"cancel": {}}}, False),
        ({"tasks": 5}, False),
        ({"tasks": {"requests": {"tools": ["call"]}}}, False),
        ({}, False),
    ],
)
def test_whether_a_server_makes_tasks_of_calls(capabilities: Any, offered: bool) -> None:
    assert task_fields.offered(members(capabilities)) is offered


@pytest.mark.parametrize(
    ("tool", "support"),
    [
        ({}, "forbidden"),
        ({"execution": {}}, "forbidden"),
        ({"execution": {"taskSupport": "required"}}, "required"),
        ({"execution": {"taskSupport": "optional"}}, "optional"),
        ({"execution": {"taskSupport": "forbidden"}}, "forbidden"),
        ({"execution": {"taskSupport": "perhaps"}}, "forbidden"),
        ({"execution": "taskSupport"}, "forbidden"),
        ({"description": "taskSupport: required"}, "forbidden"),
    ],
)
def test_what_a_tool_says_of_tasks(tool: Any, support: str) -> None:
    assert task_fields.support(jsonrpc.to_raw({"name": "x", **tool})) == support


@pytest.mark.parametrize(
    ("execution", "support", "shown"),
    [
        (None, "", None),
        (None, "optional", {"taskSupport": "optional"}),
        ({"taskSupport": "required"}, "", None),
        ({"taskSupport": "required"}, "required", {"taskSupport": "required"}),
        ({"taskSupport": "required", "x": 1}, "", {"x": 1}),
        ({"x": 1}, "optional", {"x": 1, "taskSupport": "optional"}),
    ],
)
def test_a_tool_says_of_tasks_what_holds_on_this_hop(execution: Any, support: str, shown: Any) -> None:
    tool = {"name": "x", "inputSchema": {"type": "object"}}
    given = tool if execution is None else {**tool, "execution": execution}
    told = jsonrpc.plain(content.with_support(jsonrpc.to_raw(given), support))
    assert told == (tool if shown is None else {**tool, "execution": shown})


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (peer(-5, "no luck"), -5),
        (peer(-32050, "no luck"), -32603),
        (Fault(FaultKind.INVALID_PARAMS, "no luck"), -32602),
        (Fault(FaultKind.URL_ELICITATION, "no luck"), -32021),
    ],
)
def test_the_error_of_a_failed_task_is_one_that_modern_clients_know(fault: Fault, code: int) -> None:
    told = jsonrpc.plain(task_fields.error_of(fault))
    assert (told["code"], told["message"]) == (code, "no luck")


@pytest.mark.parametrize(
    ("wall", "told"),
    [
        (0.0, "1970-01-01T00:00:00Z"),
        (951_782_399.9, "2000-02-28T23:59:59Z"),
        (951_782_400.0, "2000-02-29T00:00:00Z"),
        (951_868_800.0, "2000-03-01T00:00:00Z"),
        (4_107_542_399.0, "2100-02-28T23:59:59Z"),
        (4_107_542_400.0, "2100-03-01T00:00:00Z"),
        (1_798_761_599.0, "2026-12-31T23:59:59Z"),
        (1_798_761_600.0, "2027-01-01T00:00:00Z"),
    ],
)
def test_time_stamps(wall: float, told: str) -> None:
    assert task_fields.stamp(wall) == told
