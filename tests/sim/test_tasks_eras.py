"""Tools of a legacy server that must be called as tasks, for modern clients that take tasks (L22 row 5)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fuzz.sim.clients import FORM
from fuzz.sim.talk import META, Message
from tests.schemas import check
from tests.sim.legacy_tasks_model import (
    EXTENDED,
    QUESTION,
    TAKES,
    LegacyWork,
    begun,
    get,
    one,
    opened,
)
from tests.sim.tasks_model import (
    BOTH,
    METHODS,
    MODERN,
    WITH_TASKS,
    ask,
    at_rest,
    call,
    heard,
    listening,
    modern,
)


@BOTH
@pytest.mark.parametrize("transparent", [True, False])
def test_such_a_tool_is_a_task_for_a_client_that_takes_tasks(transport: str, transparent: bool) -> None:
    scene, server = one(transport, transparent=transparent)
    client = modern(scene, TAKES)
    found = ask(scene, client, "server/discover").result["capabilities"]
    assert {"extensions": found["extensions"]} == EXTENDED and "tasks" not in found
    tools = ask(scene, client, "tools/list").result["tools"]
    assert not any("execution" in tool for tool in tools)  # L20
    made = begun(scene, client)
    assert made.result["resultType"] == "task"
    id, work = made.result["taskId"], server.work
    assert work.id not in str(made.answer)
    assert {name: made.result[name] for name in ("status", "ttlMs", "pollIntervalMs", "createdAt")} == {
        "status": "working",
        "ttlMs": 3_600_000,
        "pollIntervalMs": 1000,
        "createdAt": work.told["createdAt"],
    }
    assert work.asked_ttl == 24 * 3600 * 1000
    work.message = "half way"
    work.move("working")
    assert get(scene, client, id)["statusMessage"] == "half way"
    work.complete()
    told = get(scene, client, id)
    assert (told["status"], told["taskId"], told["resultType"]) == ("completed", id, "complete")
    assert told["result"]["content"] == [{"type": "text", "text": made.nonce}]
    assert told["result"]["_meta"] == {"x.example/kept": 1}  # L22: related-task only toward legacy
    assert get(scene, client, id) == told  # idempotent (N3)
    at_rest(scene)


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (LegacyWork.complete, {"status": "completed"}),
        (LegacyWork.fail_tool, {"status": "completed", "isError": True}),
        (lambda work: work.fail(-5, "bad"), {"status": "failed", "error": {"code": -5, "message": "bad"}}),
        (
            lambda work: work.fail(-32602, "bad"),
            {"status": "failed", "error": {"code": -32602, "message": "bad"}},
        ),
        (
            lambda work: work.lose_result("it broke"),
            {"status": "failed", "error": {"code": -32603, "message": "it broke"}},
        ),
        (LegacyWork.cancel, {"status": "cancelled"}),
    ],
)
def test_how_a_task_ends(end: Callable[[LegacyWork], None], told: Message) -> None:
    """L22: a legacy `failed` because of `isError` is `completed`; one by an error is `failed` with it."""
    scene, server, client, id = opened()
    end(server.work)
    found = get(scene, client, id)
    assert found["status"] == told["status"]
    assert found.get("error") == told.get("error")
    assert ("result" in found) is (told["status"] == "completed")
    if "isError" in told:
        assert found["result"]["isError"] is True
    at_rest(scene)


@BOTH
def test_questions_stand_in_the_task_until_they_are_answered(transport: str) -> None:
    """`tasks/result` is opened for them once; answers go back one by one, each but once."""
    scene, server, client, id = opened(transport)
    work = server.work
    work.put(
        ("elicitation/create", {**QUESTION, "mode": "form"}),
        ("elicitation/create", {**QUESTION, "message": "and?"}),
    )
    told = get(scene, client, id)
    asked = told["inputRequests"]
    assert told["status"] == "input_required"
    check(MODERN, "InputRequests", asked)
    assert [one["params"]["message"] for one in asked.values()] == ["name?", "and?"]
    assert "related-task" not in str(told)
    first, second = asked
    yes = {"action": "accept", "content": {"answer": "x"}}
    part = {first: yes, "unknown": yes}
    assert (
        ask(scene, client, "tasks/update", taskId=id, inputResponses=part).result["resultType"] == "complete"
    )
    scene.run(0.1)
    assert [one["result"]["content"] for one in work.replies] == [{"answer": "x"}]
    assert list(get(scene, client, id)["inputRequests"]) == [second]
    rest = {first: yes, second: {"action": "decline"}}
    ask(scene, client, "tasks/update", taskId=id, inputResponses=rest)
    scene.run(0.1)
    assert [one["result"]["action"] for one in work.replies] == ["accept", "decline"]
    assert get(scene, client, id)["status"] == "working"
    work.ask("later")  # the stream is still open
    assert [one["params"]["message"] for one in get(scene, client, id)["inputRequests"].values()] == ["later"]
    work.complete()
    assert get(scene, client, id)["status"] == "completed"
    assert len(server.asked("tasks/result")) == 2  # for the questions, and for the outcome
    at_rest(scene)


def test_input_required_without_a_question_is_work_in_progress() -> None:
    """What a modern client is told asks for something, always."""
    scene, server, client, id = opened()
    server.work.move("input_required")
    assert get(scene, client, id)["status"] == "working"
    at_rest(scene)


def test_an_answer_of_the_wrong_shape_is_refused() -> None:
    scene, server, client, id = opened()
    server.work.ask("a")
    (key,) = get(scene, client, id)["inputRequests"]
    for bad in (5, "x", None, []):
        assert ask(scene, client, "tasks/update", taskId=id, inputResponses={key: bad}).code == -32602
        assert ask(scene, client, "tasks/update", taskId=id, inputResponses=bad).code == -32602
    assert server.work.replies == []
    assert list(get(scene, client, id)["inputRequests"]) == [key]


def test_nobody_is_told_of_questions_that_it_did_not_declare() -> None:
    """G6: on this very request."""
    scene, server, client, id = opened()
    server.work.ask("a")
    assert get(scene, client, id)["status"] == "input_required"
    client.capabilities = WITH_TASKS
    told = ask(scene, client, "tasks/get", taskId=id)
    assert (told.code, told.error["data"]) == (-32021, {"requiredCapabilities": {"elicitation": {}}})
    # A server that asks a session which declares nothing is refused at once (L0.2).
    scene, server, client, id = opened(capabilities=WITH_TASKS)
    server.work.ask("a")
    assert get(scene, client, id)["status"] == "working"
    assert server.work.replies[0]["error"]["code"] == -32601


@BOTH
def test_a_question_that_comes_before_the_task_is_the_task_s(transport: str) -> None:
    """It is put to the client at once, as that of the call; the task comes with the retry (N3)."""
    scene, server = one(transport)
    server.making_s = 1.0
    client = modern(scene, TAKES)
    client.answer_after = None
    made = client.tool("must")
    scene.until(lambda: server.works, 5)
    work = server.work
    job = server.job(made.nonce)
    assert job is not None
    told = {**QUESTION, "_meta": {META + "related-task": {"taskId": work.id}}}
    work.open[work.talk.ask(job, "elicitation/create", told, job.out, work.replied)] = told
    scene.until(lambda: made.over, 5)
    assert made.result["resultType"] == "input_required"
    scene.run(3.0)  # the task is there, and nobody has come back yet
    (key,) = made.result["inputRequests"]
    again = client.retry(made, {key: {"action": "decline"}})
    scene.until(lambda: again.over, 5)
    id = again.result["taskId"]
    # The answer came too late for the call; the question stands in the task (L1.7).
    (key,) = get(scene, client, id)["inputRequests"]
    ask(scene, client, "tasks/update", taskId=id, inputResponses={key: {"action": "decline"}})
    scene.run(0.1)
    assert [one["result"]["action"] for one in work.replies] == ["decline"]
    at_rest(scene)


def test_a_retry_that_declares_less_gets_no_task() -> None:
    """N3: never to a request that did not declare it."""
    scene, server = one()
    server.making_s = 1.0
    client = modern(scene, TAKES)
    client.answer_after = None
    made = client.tool("must")
    scene.until(lambda: server.works, 5)
    job = server.job(made.nonce)
    assert job is not None
    job.ask("elicitation/create", QUESTION)
    scene.until(lambda: made.over, 5)
    scene.run(2.0)
    client.capabilities = FORM
    again = client.retry(made, {})
    scene.until(lambda: again.over, 5)
    assert (again.code, again.error["data"]) == (-32021, {"requiredCapabilities": WITH_TASKS})


# ------------------------------------------------------------------------------------------- whose


@BOTH
def test_ids_are_good_for_one_principal_and_nothing_else_opens(transport: str) -> None:
    scene, server, client, id = opened(transport, listeners=("http", "stdio"))
    local = scene.modern_pipe(capabilities=TAKES)  # another principal
    for method in METHODS:
        foreign = local.request(method, {"taskId": id, "inputResponses": {}})
        scene.until(lambda foreign=foreign: foreign.over)  # type: ignore[misc]
        assert foreign.code == -32602
    for bad in (server.work.id, "", id[:-2], 5, None):
        for method in METHODS:
            assert ask(scene, client, method, taskId=bad, inputResponses={}).code in (-32602, -32020)
    assert server.work.polled == [] and server.work.cancels == 0
    bare = modern(scene)
    for method in METHODS:
        told = ask(scene, bare, method, taskId=id, inputResponses={})
        assert (told.code, told.error["data"]) == (-32021, {"requiredCapabilities": WITH_TASKS})
    for method in ("tasks/result", "tasks/list"):
        told = ask(scene, client, method, taskId=id)
        assert (told.code, told.status) == (-32601, 404)  # M


def test_every_request_goes_to_the_session_that_made_the_task() -> None:
    """Tasks live in sessions, and a pool has several."""
    scene, server = one("stdio")
    client = modern(scene, TAKES)
    client.answer_after = None
    tasks = []
    for number in range(3):
        call(scene, client, "ask", nonce=f"{client.name}/q{number}")  # parked: it holds its channel (L0.4)
        made = begun(scene, client)
        tasks.append((made.result["taskId"], made.nonce))
    assert len({id(work.talk) for work in server.works.values()}) > 1
    for work in server.works.values():
        work.complete()
    for task, nonce in reversed(tasks):
        told = get(scene, client, task)
        assert told["result"]["content"][0]["text"] == nonce


# ---------------------------------------------------------------------------------------- cancelling


@BOTH
def test_a_cancelled_task_is_cancelled_at_its_server(transport: str) -> None:
    scene, server, client, id = opened(transport)
    work = server.work
    work.ask("a")
    assert get(scene, client, id)["status"] == "input_required"
    done = ask(scene, client, "tasks/cancel", taskId=id).result
    assert {name for name in done if name != "_meta"} == {"resultType"}  # an empty acknowledgement
    assert (work.cancels, work.status) == (1, "cancelled")
    scene.run(0.1)
    assert work.replies == []  # it has stopped asking
    assert get(scene, client, id)["status"] == "cancelled"
    assert ask(scene, client, "tasks/cancel", taskId=id).result["resultType"] == "complete"
    assert work.cancels == 1
    at_rest(scene)


def test_what_has_ended_is_acknowledged_all_the_same() -> None:
    """L22: a terminal cancel is -32602 in legacy, an acknowledgement here."""
    scene, server, client, id = opened()
    server.work.complete()
    assert ask(scene, client, "tasks/cancel", taskId=id).result["resultType"] == "complete"
    assert server.work.cancels == 1
    assert get(scene, client, id)["status"] == "completed"
    server.works.clear()
    assert (
        ask(scene, client, "tasks/cancel", taskId=id).result["resultType"] == "complete"
    )  # known to have ended
    scene, server, client, id = opened()
    server.works.clear()
    assert ask(scene, client, "tasks/cancel", taskId=id).code == -32602
    assert ask(scene, client, "tasks/get", taskId=id).code == -32602


def test_a_server_that_cannot_cancel_is_not_asked_to() -> None:
    scene, server = one()
    server.declares = {"requests": {"tools": {"call": {}}}}
    server.crash()
    scene.run(5.0)
    client = modern(scene, TAKES)
    id = begun(scene, client).result["taskId"]
    assert ask(scene, client, "tasks/cancel", taskId=id).result["resultType"] == "complete"
    assert server.asked("tasks/cancel") == []


# --------------------------------------------------------------------------------------------- pace


def test_the_server_is_asked_once_for_everybody_and_not_faster_than_it_likes() -> None:
    scene, server, client, id = opened()
    server.work.interval_ms = 2000
    server.delays["tasks/get"] = 0.5
    scene.run(1.0)
    calls = [client.request("tasks/get", {"taskId": id}) for _ in range(10)]
    scene.until(lambda: all(one.over for one in calls), 5)
    assert len(server.work.polled) == 1
    for _ in range(20):
        assert ask(scene, client, "tasks/get", taskId=id).result["status"] == "working"
        scene.run(0.05)
    assert len(server.work.polled) == 1
    scene.run(2.0)
    ask(scene, client, "tasks/get", taskId=id)
    assert len(server.work.polled) == 2
    # What may have changed it is not hidden by what was known before.
    ask(scene, client, "tasks/cancel", taskId=id)
    assert ask(scene, client, "tasks/get", taskId=id).result["status"] == "cancelled"


def test_a_notification_is_as_good_as_asking() -> None:
    scene, server, client, id = opened()
    assert ask(scene, client, "tasks/get", taskId=id).result["status"] == "working"
    server.work.complete()
    assert ask(scene, client, "tasks/get", taskId=id).result["status"] == "working"  # within the interval
    server.notify(server.work)
    scene.run(0.05)
    assert ask(scene, client, "tasks/get", taskId=id).result["status"] == "completed"


# -------------------------------------------------------------------------------------- subscriptions


@BOTH
@pytest.mark.parametrize("notifies", [True, False])
def test_a_subscription_hears_of_its_tasks_whether_the_server_notifies_or_not(
    transport: str, notifies: bool
) -> None:
    """1125 tasks: notifications are optional, and must not be relied on; those of the extension are."""
    scene, server, client, id = opened(transport)
    other = modern(scene, TAKES)
    second = begun(scene, other).result["taskId"]
    mine, theirs = server.works.values()
    stream = listening(scene, client, id, "forged", theirs.id, toolsListChanged=True)
    assert heard(stream, "notifications/subscriptions/acknowledged")[0]["notifications"] == {
        "toolsListChanged": True,
        "taskIds": [id],
    }
    beside = listening(scene, other, second)
    scene.run(3.0)
    assert [told["status"] for told in heard(stream)] == ["working"]  # once, however often it is asked for
    steps: list[Callable[[], None]] = [lambda: mine.ask("a"), mine.complete]
    for step in steps:
        step()
        if notifies:
            server.notify(mine)
            scene.run(0.2)
        else:
            scene.run(3.0)
    told = heard(stream)
    assert [one["status"] for one in told] == ["working", "input_required", "completed"]
    assert {one["taskId"] for one in told} == {id}
    assert all(one["_meta"] == {META + "subscriptionId": stream.id} for one in told)
    assert [one["params"]["message"] for one in told[1]["inputRequests"].values()] == ["a"]
    assert told[2]["result"]["_meta"] == {"x.example/kept": 1}
    assert [one["status"] for one in heard(beside)] == ["working"]
    for made in (stream, beside):
        client.cancel(made)
    scene.run(1.0)
    asked = len(server.asked("tasks/get"))
    scene.run(30.0)
    assert len(server.asked("tasks/get")) == asked  # nobody listens any more
    at_rest(scene)


def test_the_tasks_of_several_sessions_are_heard_of_on_one_stream() -> None:
    scene, server = one("stdio")
    client = modern(scene, TAKES)
    client.answer_after = None
    ids = []
    for number in range(2):
        call(scene, client, "ask", nonce=f"{client.name}/q{number}")
        ids.append(begun(scene, client).result["taskId"])
    assert len({id(work.talk) for work in server.works.values()}) == 2
    stream = listening(scene, client, *ids)
    assert sorted(
        heard(stream, "notifications/subscriptions/acknowledged")[0]["notifications"]["taskIds"]
    ) == sorted(ids)
    for work in server.works.values():
        work.complete()
    scene.run(3.0)
    assert sorted(told["taskId"] for told in heard(stream) if told["status"] == "completed") == sorted(ids)


def test_a_listener_that_did_not_declare_the_question_is_not_told_of_it() -> None:
    scene, server, client, id = opened()
    client.capabilities = WITH_TASKS
    stream = listening(scene, client, id)
    scene.run(0.5)
    server.work.ask("a")
    scene.run(3.0)
    assert [told["status"] for told in heard(stream)] == ["working"]
