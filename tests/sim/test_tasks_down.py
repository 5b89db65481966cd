"""Legacy clients (2025-11-25) that ask for tasks, and servers with the extension, behind `legacy_tasks` (L22
row 4)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from fuzz.sim.clients import FORM, Call
from fuzz.sim.scene import FAST, Scene
from fuzz.sim.talk import Job, Message, text
from tests.sim.legacy_tasks_model import AGREED, RELATED
from tests.sim.tasks_model import (
    BOTH,
    STAMP,
    TASKS,
    LegacyClient,
    TaskServer,
    Work,
    ask,
    at_rest,
    legacy,
    told_upstream,
)
from tests.sim.tasks_model import one as one_modern

TASK: Message = {"ttl": 60_000}
TWO: Message = {"elicitation": {}, "sampling": {}}


def carried(transport: str = "http", **config: Any) -> tuple[Scene, TaskServer]:
    return one_modern(transport, **{"legacy_tasks": True, **config})


def begun(scene: Scene, client: LegacyClient, name: str = "task", task: Any = TASK, **args: Any) -> Call:
    args.setdefault("nonce", client.fresh())
    made = client.request("tools/call", {"name": name, "arguments": args, "task": task})
    scene.until(lambda: made.over, 30)
    return made


def opened(
    transport: str = "http", capabilities: Message | None = None, **config: Any
) -> tuple[Scene, TaskServer, LegacyClient, str]:
    scene, server = carried(transport, **config)
    client = legacy(scene, FORM if capabilities is None else capabilities)
    return scene, server, client, str(begun(scene, client).result["task"]["taskId"])


def waiting(scene: Scene, client: LegacyClient, id: str) -> Call:
    made = client.request("tasks/result", {"taskId": id})
    scene.run(0.2)
    return made


@BOTH
@pytest.mark.parametrize("transparent", [True, False])
def test_a_task_of_a_modern_server_is_one_of_2025(transport: str, transparent: bool) -> None:
    scene, server = carried(transport, transparent=transparent)
    client = legacy(scene, FORM)
    assert client.hello.result["capabilities"]["tasks"] == AGREED
    assert TASKS not in str(client.hello.answer)  # M: never the extension at 2025-11-25
    tools = ask(scene, client, "tools/list").result["tools"]
    assert {str(tool["execution"]["taskSupport"]) for tool in tools} == {"optional"}
    made = begun(scene, client)
    assert set(made.result) == {"task"} or set(made.result) == {"task", "_meta"}
    task = made.result["task"]
    id = task["taskId"]
    assert server.work.id not in str(made.answer)
    assert task == {
        "taskId": id,
        "status": "working",
        "createdAt": STAMP,
        "lastUpdatedAt": STAMP,
        "ttl": 60_000,
        "pollInterval": 2000,
    }
    assert told_upstream(server, "tools/call") == {TASKS: {}}
    assert "task" not in server.asked("tools/call")[0]["params"]
    assert ask(scene, client, "tasks/get", taskId=id).result == task
    result = client.request("tasks/result", {"taskId": id})
    scene.run(20.0)
    assert not result.over
    polled = server.work.polled[1:]
    assert all(later - earlier >= 2.0 for earlier, later in pairwise(polled))
    server.work.complete()
    scene.until(lambda: result.over, 5)
    assert result.text == made.nonce
    assert result.result["_meta"] == {RELATED: {"taskId": id}, "x.example/kept": 1}
    assert ask(scene, client, "tasks/result", taskId=id).result == result.result
    told = ask(scene, client, "tasks/get", taskId=id).result
    assert told == {**task, "status": "completed"}
    assert ask(scene, client, "tasks/list").code == -32601
    at_rest(scene)


def broken(work: Work) -> None:
    work.status, work.more = "failed", {"error": {"code": -5, "message": "no luck"}}


def failed(work: Work) -> None:
    work.complete()
    work.more["result"]["isError"] = True


def cancelled(work: Work) -> None:
    work.status = "cancelled"


@pytest.mark.parametrize(
    ("end", "status", "message", "code"),
    [
        (Work.complete, "completed", None, None),
        (failed, "failed", "the tool reported an error", None),
        (broken, "failed", "no luck", -5),
        (cancelled, "cancelled", None, -32603),
    ],
)
def test_how_a_task_ends(
    end: Callable[[Work], None], status: str, message: str | None, code: int | None
) -> None:
    """L22: completed + isError is `failed`; `tasks/result` is what the call would have been answered."""
    scene, server, client, id = opened()
    end(server.work)
    told = ask(scene, client, "tasks/get", taskId=id).result
    assert (told["status"], told.get("statusMessage")) == (status, message)
    result = ask(scene, client, "tasks/result", taskId=id)
    if code is None:
        assert result.result.get("isError") is (status == "failed")
    else:
        assert result.code == code
    at_rest(scene)


@pytest.mark.parametrize("fails", [False, True])
def test_a_call_of_which_the_server_makes_no_task_is_one_all_the_same(fails: bool) -> None:
    """1125, Result Retrieval 1: the result of a call with `task` is a task, always."""
    scene, server = carried()

    def act(job: Job) -> None:
        job.answer({**text(job.nonce), "isError": fails})

    server.script("plain", act)
    client = legacy(scene)
    made = begun(scene, client, "plain", {"ttl": 5000})
    task = made.result["task"]
    assert (task["status"], task["ttl"]) == ("working", 5000)
    id = task["taskId"]
    told = ask(scene, client, "tasks/get", taskId=id).result
    assert told["status"] == ("failed" if fails else "completed")
    for _ in range(2):
        result = ask(scene, client, "tasks/result", taskId=id)
        assert (result.text, result.result["isError"]) == (made.nonce, fails)
        assert result.result["_meta"] == {RELATED: {"taskId": id}}
    assert ask(scene, client, "tasks/cancel", taskId=id).code == -32602
    assert not any(method.startswith("tasks/") for method in [one.get("method", "") for one in server.got])
    scene.run(6.0)
    assert ask(scene, client, "tasks/get", taskId=id).code == -32602  # its time is over
    at_rest(scene)


def test_an_error_of_a_call_with_task_is_an_error() -> None:
    scene, server = carried()
    client = legacy(scene)
    assert begun(scene, client, "fail").code == -32603
    assert begun(scene, client, "nothing").code == -32602
    at_rest(scene)


def test_results_that_are_kept_are_bounded_per_principal() -> None:
    limits = msgspec.structs.replace(FAST, kept_tasks_per_principal=2)
    scene, server = carried(limits=limits, listeners=("http", "stdio"))
    client = legacy(scene)
    local = scene.legacy_pipe()
    theirs = local.request("tools/call", {"name": "echo", "arguments": {"nonce": "n"}, "task": TASK})
    scene.until(lambda: theirs.over)
    ids = [begun(scene, client, "echo").result["task"]["taskId"] for _ in range(4)]
    codes = [ask(scene, client, "tasks/get", taskId=id).code for id in ids]
    assert codes == [-32602, -32602, None, None]
    kept = local.request("tasks/get", {"taskId": theirs.result["task"]["taskId"]})
    scene.until(lambda: kept.over)
    assert kept.result["status"] == "completed"  # nobody takes another's room


def test_a_result_for_which_there_is_no_room_is_an_error_that_says_so() -> None:
    limits = msgspec.structs.replace(FAST, kept_tasks_bytes=1000)
    scene, server = carried(limits=limits)
    client = legacy(scene)
    told = begun(scene, client, "big")
    assert told.code == -32603 and "carried out" in told.error["message"]
    assert begun(scene, client, "echo").result["task"]
    at_rest(scene)


@pytest.mark.parametrize(
    "task", [{}, {"ttl": None}, {"ttl": -5}, {"ttl": 10**15}, {"ttl": 10**399}, {"ttl": "x"}]
)
def test_a_time_to_live_is_within_reason(task: Any) -> None:
    scene, server = carried()
    client = legacy(scene)
    assert begun(scene, client, "echo", task).result["task"]["ttl"] == 3_600_000


@pytest.mark.parametrize("task", [5, None, [], "x", True])
def test_what_asks_for_a_task_is_an_object(task: Any) -> None:
    scene, server = carried()
    assert begun(scene, legacy(scene), "echo", task).code == -32602
    assert server.asked("tools/call") == []


# --------------------------------------------------------------------------------- questions


@BOTH
def test_what_a_task_asks_for_is_asked_while_its_result_is_waited_for(transport: str) -> None:
    """L22: as requests with `related-task` on the stream of `tasks/result`; answered with `tasks/update`."""
    scene, server, client, id = opened(transport, TWO)
    server.forgets_slowly = True
    server.tells_answers = False
    message = {"role": "user", "content": {"type": "text", "text": "?"}}
    server.work.ask("a")
    server.work.asking["b"] = {
        "method": "sampling/createMessage",
        "params": {"messages": [message], "maxTokens": 5},
    }
    told = ask(scene, client, "tasks/get", taskId=id).result
    assert told["status"] == "input_required" and "inputRequests" not in told
    assert client.questions == []
    result = client.request("tasks/result", {"taskId": id})
    scene.until(lambda: len(client.questions) == 2, 10)
    assert [one["method"] for one in client.questions] == ["elicitation/create", "sampling/createMessage"]
    assert all(one["params"]["_meta"] == {RELATED: {"taskId": id}} for one in client.questions)
    scene.until(lambda: server.work.updates, 10)
    (given,) = server.work.updates
    assert (given["a"]["action"], given["b"]["role"]) == ("accept", "assistant")
    assert "_meta" not in str(given)
    scene.run(10.0)
    assert len(client.questions) == 2  # each but once, though the server forgets slowly
    server.work.complete()
    scene.until(lambda: result.over, 10)
    at_rest(scene)


def test_the_latest_request_for_a_result_is_asked_and_all_are_answered() -> None:
    """One polling, and no question twice at one time; whoever gives up leaves the others waiting."""
    scene, server, client, id = opened()
    client.answer_after = None
    server.tells_answers = False
    first = waiting(scene, client, id)
    server.work.ask("a")
    scene.until(lambda: len(client.questions) == 1, 10)
    second = waiting(scene, client, id)
    scene.until(lambda: len(client.questions) == 2, 10)
    assert any(one["method"] == "notifications/cancelled" for _, one in first.notes)
    third = waiting(scene, client, id)
    scene.until(lambda: len(client.questions) == 3, 10)
    client.cancel(third)
    scene.until(lambda: len(client.questions) == 4, 10)
    polls = len(server.work.polled)
    last = client.questions[-1]
    client.reply({"jsonrpc": "2.0", "id": last["id"], "result": {"action": "accept", "content": {}}})
    scene.until(lambda: server.work.updates, 10)
    scene.until(lambda: first.over and second.over, 10)
    assert first.result == second.result and not third.answers
    assert [sorted(one) for one in server.work.updates] == [["a"]]
    assert len(server.work.polled) <= polls + 2
    assert server.work.cancels == 0
    at_rest(scene)


def test_the_errors_of_a_task_reach_all_that_wait() -> None:
    scene, server, client, id = opened()
    results = [waiting(scene, client, id) for _ in range(3)]
    broken(server.work)
    scene.until(lambda: all(one.over for one in results), 10)
    assert [one.code for one in results] == [-5, -5, -5]
    at_rest(scene)


def test_a_client_that_cannot_answer_ends_its_waiting_and_not_the_task() -> None:
    """L4: a sampling error cannot stand in `inputResponses`."""
    scene, server, client, id = opened(capabilities=TWO)
    client.answer_after = None
    server.work.ask()
    server.work.asking = {
        "b": {"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 5}}
    }
    result = waiting(scene, client, id)
    scene.until(lambda: client.questions, 10)
    told = {"jsonrpc": "2.0", "id": client.questions[0]["id"], "error": {"code": -1, "message": "no"}}
    client.reply(told)
    scene.until(lambda: result.over, 10)
    assert result.code == -32603
    scene.run(5.0)
    assert server.work.cancels == 0
    assert ask(scene, client, "tasks/get", taskId=id).result["status"] == "input_required"
    at_rest(scene)


@BOTH
def test_giving_up_the_wait_does_not_cancel_the_task(transport: str) -> None:
    scene, server, client, id = opened(transport)
    for asking in (False, True):
        client.answer_after = None
        result = waiting(scene, client, id)
        if asking:
            server.work.ask("a")
            scene.until(lambda: client.questions, 10)
        client.cancel(result)
        scene.run(5.0)
        assert server.work.cancels == 0
        assert scene.at_rest() == []
    polls = len(server.work.polled)
    scene.run(30.0)
    assert len(server.work.polled) == polls


def test_the_answer_is_good_for_another_session_of_the_same_principal() -> None:
    """The task lives on its server, and its id is sealed: nothing of it is kept here."""
    scene, server, client, id = opened()
    result = waiting(scene, client, id)
    client.delete()
    scene.run(1.0)
    assert result.over
    again = legacy(scene, FORM)
    server.work.ask("a")
    result = waiting(scene, again, id)
    scene.until(lambda: result.over, 10)
    assert len(again.questions) == 1
    assert server.work.cancels == 0


# ---------------------------------------------------------------------------------- cancelling


@BOTH
@pytest.mark.parametrize("stops", [True, False])
def test_a_cancelled_task_stays_cancelled(transport: str, stops: bool) -> None:
    """1125, Task Cancellation 2 and 3; the server of the extension need not stop."""
    scene, server, client, id = opened(transport)
    work = server.work
    result = waiting(scene, client, id)
    if not stops:
        server.ignores_cancel = True
    told = ask(scene, client, "tasks/cancel", taskId=id).result
    assert (told["taskId"], told["status"], work.cancels) == (id, "cancelled", 1)
    if not stops:
        work.complete()
    assert ask(scene, client, "tasks/get", taskId=id).result["status"] == "cancelled"
    assert ask(scene, client, "tasks/result", taskId=id).code == -32603
    assert ask(scene, client, "tasks/cancel", taskId=id).code == -32602
    assert work.cancels == 1
    scene.until(lambda: result.over, 10)
    at_rest(scene)


def test_what_has_ended_cannot_be_cancelled() -> None:
    """1125, Task Cancellation 1."""
    scene, server, client, id = opened()
    server.work.complete()
    told = ask(scene, client, "tasks/cancel", taskId=id)
    assert told.code == -32602 and "completed" in told.error["message"]
    assert server.work.cancels == 0
    assert ask(scene, client, "tasks/get", taskId=id).result["status"] == "completed"


def test_a_server_that_forgets_what_it_cancels() -> None:
    scene, server, client, id = opened()
    server.forgets_cancelled = True
    assert ask(scene, client, "tasks/cancel", taskId=id).result["status"] == "cancelled"
    assert ask(scene, client, "tasks/get", taskId=id).result["status"] == "cancelled"
    scene.run(61.0)
    assert ask(scene, client, "tasks/get", taskId=id).code == -32602
    at_rest(scene)


# ------------------------------------------------------------------------------- whose, and losses


def test_ids_are_good_for_one_principal_and_nothing_else_opens() -> None:
    scene, server, client, id = opened(listeners=("http", "stdio"))
    kept = begun(scene, client, "echo").result["task"]["taskId"]
    local = scene.legacy_pipe()
    for method in ("tasks/get", "tasks/result", "tasks/cancel"):
        for one in (id, kept):
            foreign = local.request(method, {"taskId": one})
            scene.until(lambda foreign=foreign: foreign.over)  # type: ignore[misc]
            assert foreign.code == -32602
        for bad in (server.work.id, "", id[:-2], 5, None):
            assert ask(scene, client, method, taskId=bad).code == -32602
    assert server.work.polled == [] and server.work.cancels == 0
    server.works.clear()
    for method in ("tasks/get", "tasks/result", "tasks/cancel"):
        assert ask(scene, client, method, taskId=id).code == -32602  # the server is the judge
    at_rest(scene)


@BOTH
def test_a_task_outlives_the_connection_to_its_server(transport: str) -> None:
    scene, server, client, id = opened(transport)
    result = waiting(scene, client, id)
    scene.run(5.0)
    server.crash()
    scene.run(5.0)
    server.work.complete()
    scene.until(lambda: result.over, 90)
    assert result.text
    assert ask(scene, client, "tasks/get", taskId=id).result["status"] == "completed"
    at_rest(scene)


def test_a_server_that_turns_legacy_has_no_such_task() -> None:
    """Its id would mean another task there, if any."""
    scene, server, client, id = opened("stdio")
    server.eras = ("legacy",)
    server.crash()
    scene.run(120.0)
    for method in ("tasks/get", "tasks/result", "tasks/cancel"):
        assert ask(scene, client, method, taskId=id).code in (-32601, -32602, -32603)
    assert server.asked("tasks/get") == [] and server.asked("tasks/result") == []


def test_a_task_that_makes_no_sense_is_an_error() -> None:
    for more in ({"taskId": "another"}, {"status": "strange"}):
        scene, server, client, id = opened()
        server.work.more = more
        for method in ("tasks/get", "tasks/result", "tasks/cancel"):
            assert ask(scene, client, method, taskId=id).code == -32603
        assert server.work.cancels == 0
        at_rest(scene)


@pytest.mark.parametrize("why", ["off", "older", "undeclared"])
def test_where_no_tasks_were_agreed_the_call_is_an_ordinary_one(why: str) -> None:
    """Driven, that is (row 4, without `task`)."""
    scene, server = carried("stdio", legacy_tasks=why != "off")
    if why == "undeclared":
        server.extensions = {}
        server.crash()
        scene.run(5.0)
    client = legacy(scene, version="2025-06-18" if why == "older" else "2025-11-25")
    assert "tasks" not in client.hello.result["capabilities"]
    assert not any("execution" in tool for tool in ask(scene, client, "tools/list").result["tools"])
    made = client.request("tools/call", {"name": "task", "arguments": {"nonce": "n"}, "task": TASK})
    scene.run(3.0)
    for work in server.works.values():
        work.complete()
    scene.until(lambda: made.over, 10)
    assert made.text == "n"
    assert ask(scene, client, "tasks/get", taskId="x").code == -32601
    at_rest(scene)


def test_a_round_comes_before_the_task() -> None:
    """N3: what the server asks before it makes a task is asked on the stream of the call."""
    scene, server = carried()

    def act(job: Job) -> None:
        if not (job.params.get("inputResponses") or {}):
            job.want({"q": {"method": "elicitation/create", "params": QUESTION_OF_CALL}}, "s")
        else:
            job.finish(
                {
                    "jsonrpc": "2.0",
                    "id": job.id,
                    "result": {"resultType": "task", **server.make(job.nonce).told},
                }
            )

    server.script("late", act)
    client = legacy(scene, FORM)
    made = begun(scene, client, "late")
    assert made.result["task"]["status"] == "working"
    assert len(client.questions) == 1 and RELATED not in str(client.questions)
    at_rest(scene)


QUESTION_OF_CALL: Message = {
    "mode": "form",
    "message": "?",
    "requestedSchema": {"type": "object", "properties": {}},
}
