"""Task ids, the steps of a driven task, and what of a peer's extensions is carried (N1, N2, N3, L22)."""

from __future__ import annotations

from typing import Any

import pytest

from mcpgate_proto import GatewayConfig, Limits
from mcpgate_proto.hub import Hub
from mcpgate_proto.mcp import extensions
from mcpgate_proto.mcp.codes import Fault, FaultKind
from mcpgate_proto.mcp.revisions import REVISIONS
from mcpgate_proto.relay import tasks
from mcpgate_proto.relay.exchange import Client, Operation, TaskState
from mcpgate_proto.relay.tasks import Asked, Finished, Handle, TaskIds, Working
from mcpgate_proto.security.principal import LOCAL
from mcpgate_proto.wire import jsonrpc
from mcpgate_proto.wire.jsonrpc import Raw

SEED = bytes(range(32))
LIMITS = Limits()
STATE = TaskState("t", answered=("old",))


def hub(seed: bytes = SEED, wall: float = 1e9) -> Hub:
    return Hub(GatewayConfig(), now=0.0, wall=wall, seed=seed)


def members(**told: Any) -> dict[str, Raw]:
    return {name: jsonrpc.to_raw(value) for name, value in told.items()}


@pytest.mark.parametrize("own", ["t-1", "", "ä/\x00", "x" * 1000])
def test_ids_open_for_their_principal_alone_and_outlive_the_process(own: str) -> None:
    ids = TaskIds(hub())
    shown = ids.seal("alice", "one", own)
    assert shown == ids.seal("alice", "one", own)  # one task, one id
    assert own == "" or own not in shown
    assert ids.open("alice", shown) == Handle("one", own)
    assert TaskIds(hub(wall=9e9)).open("alice", shown) == Handle("one", own)  # a restart, much later
    assert ids.open("bob", shown) is None
    assert TaskIds(hub(bytes(32))).open("alice", shown) is None


def test_what_is_no_id_does_not_open() -> None:
    ids = TaskIds(hub())
    shown = ids.seal("alice", "one", "t")
    other = hub().sealer.seal("cursor", "alice", b"x", 2e9)
    strange = hub().sealer.seal("task", "alice", b"\xc1", 2e9)
    for bad in (None, "", "t", shown[:-1], shown + "A", "0." + "A" * 9000, other, strange, "\ud800"):
        assert ids.open("alice", bad) is None


@pytest.mark.parametrize(
    ("told", "wait_s"),
    [(None, LIMITS.task_poll_s), (0, 0.25), (-5, 0.25), (3000, 3.0), (10**9, 60.0), ("x", 1.0), (1.5, 1.0)],
)
def test_the_interval_is_the_server_s_within_bounds(told: Any, wait_s: float) -> None:
    task = members(pollIntervalMs=told) if told is not None else {}
    assert tasks.interval_s(task, LIMITS) == wait_s


def test_what_a_task_says() -> None:
    def read(**told: Any) -> Any:
        return tasks.read(members(taskId="t", **told), STATE, LIMITS)

    assert read(status="working", pollIntervalMs=500) == Working(0.5)
    asks = {"old": {"method": "roots/list"}, "new": {"method": "elicitation/create", "params": {"a": 1}}}
    found = read(status="input_required", inputRequests=asks)
    assert isinstance(found, Asked)
    assert [(one.key, one.method, one.params) for one in found.asks] == [
        ("new", "elicitation/create", {"a": Raw(b"1")})
    ]
    assert read(status="input_required", inputRequests={"old": asks["old"]}) == Working(LIMITS.task_poll_s)
    assert read(status="input_required") == Working(LIMITS.task_poll_s)
    assert read(status="completed", result={"resultType": "complete", "content": []}) == Finished(
        {"content": Raw(b"[]")}
    )
    failed = read(status="failed", error={"code": -5, "message": "no", "data": 1})
    assert (failed.kind, failed.code, failed.message) == (FaultKind.PEER, -5, "no")
    for odd in ({}, {"status": 5}, {"status": "cancelled"}, {"status": "failed", "error": 3}):
        assert isinstance(read(**odd), Fault)
    assert isinstance(tasks.read(members(taskId="u", status="working"), STATE, LIMITS), Fault)


def test_answers_go_first_and_are_not_asked_again() -> None:
    client = Client(principal=LOCAL, era=REVISIONS["2026-07-28"].era, revision="2026-07-28")
    operation = Operation(method="tools/call", params={}, meta={}, client=client)
    assert tasks.following(operation, STATE) == ("tasks/get", members(taskId="t"))
    asked = TaskState("t", asked=("a", "b"), answered=("old",))
    assert tasks.expected(Raw(b'{"b":{},"zzz":{},"old":{}}'), asked) == Raw(b'{"b":{}}')
    assert tasks.expected(Raw(b'{"zzz":{}}'), asked) == tasks.expected(Raw(b""), asked) == Raw(b"")
    operation.answers = Raw(b'{"b":{}}')
    method, params = tasks.following(operation, asked)
    assert (method, params) == ("tasks/update", members(taskId="t", inputResponses={"b": {}}))
    assert tasks.answered(operation, asked) == TaskState("t", answered=("old", "b"))


@pytest.mark.parametrize("told", [{}, {"taskId": ""}, {"taskId": 5}, {"taskId": "x" * 2000}])
def test_a_task_that_cannot_be_asked_for_is_none(told: dict[str, Any]) -> None:
    assert tasks.created(members(**told)) is None


# ------------------------------------------------------------------------------------- extensions


def carried(declared: Any, revision: str = "2026-07-28", transparent: bool = False) -> list[str]:
    found = extensions.carried(members(extensions=declared), REVISIONS[revision], transparent=transparent)
    return list(found)


def test_what_is_carried() -> None:
    told: dict[str, Any] = {
        "z.example/x": {},
        extensions.UI: {"mimeTypes": ["a"]},
        extensions.TASKS: {},
        "io.modelcontextprotocol/oauth-client-credentials": {},
        "io.modelcontextprotocol/enterprise-managed-authorization": {},
    }
    assert carried(told) == [extensions.TASKS, extensions.UI]
    assert carried(told, transparent=True) == [extensions.TASKS, extensions.UI, "z.example/x"]
    # L22: the extension never enables tasks at 2025-11-25.
    assert carried(told, "2025-11-25") == [extensions.UI]
    assert carried(told, "2025-11-25", transparent=True) == [extensions.UI, "z.example/x"]


@pytest.mark.parametrize(
    "odd", [None, 5, [], "x", {"x": {}}, {"/x": {}}, {"a.b/": {}}, {"a b/c": {}}, {"a/b": 1}]
)
def test_what_is_malformed_is_not_there(odd: Any) -> None:
    assert carried(odd, transparent=True) == []
    assert extensions.carried({}, REVISIONS["2026-07-28"], transparent=True) == {}


def test_declaring_for_a_client_keeps_what_it_declared() -> None:
    told = jsonrpc.to_raw({"sampling": {}, "extensions": {"a.b/c": {"x": 1}}})
    kept = jsonrpc.plain(extensions.having(told, extensions.TASKS))
    assert kept == {"sampling": {}, "extensions": {"a.b/c": {"x": 1}, extensions.TASKS: {}}}
    assert jsonrpc.plain(extensions.having(Raw(b"{}"), extensions.TASKS)) == {
        "extensions": {extensions.TASKS: {}}
    }


@pytest.mark.parametrize(
    ("tool", "uri"),
    [
        ({"_meta": {"ui": {"resourceUri": "ui://a"}}}, "ui://a"),
        ({"_meta": {"ui/resourceUri": "ui://b"}}, "ui://b"),
        ({"_meta": {"ui": {"resourceUri": 5}, "x": "ui://"}}, None),
        ({"description": "ui://a"}, None),
        ({"_meta": ["ui://"]}, None),
        ({}, None),
    ],
)
def test_the_resource_of_a_tool(tool: dict[str, Any], uri: str | None) -> None:
    assert extensions.ui_resource(jsonrpc.to_raw(tool)) == uri
