"""The tasks of 2025-11-25 between legacy peers, behind `legacy_tasks` (L22 row 1)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fuzz.sim.clients import FORM, Call
from fuzz.sim.http_clients import LegacyHttp
from fuzz.sim.scene import FAST, Scene
from fuzz.sim.talk import Message
from tests.sim.legacy_tasks_model import AGREED, QUESTION, RELATED, LegacyTaskServer, begun, one
from tests.sim.tasks_model import BOTH, WITH_TASKS, LegacyClient, ask, call, legacy, modern

TASK: Message = {"ttl": 1000}


def carried(transport: str = "http", **config: Any) -> tuple[Scene, LegacyTaskServer]:
    return one(transport, **{"legacy_tasks": True, **config})


def made_by(scene: Scene, client: LegacyClient, name: str = "may", **more: Any) -> str:
    return str(begun(scene, client, name, task=TASK, **more).result["task"]["taskId"])


def waiting(client: LegacyClient, id: str) -> Call:
    return client.request("tasks/result", {"taskId": id})


@BOTH
@pytest.mark.parametrize("transparent", [True, False])
def test_a_task_passes_through_under_a_sealed_id(transport: str, transparent: bool) -> None:
    scene, server = carried(transport, transparent=transparent)
    client = legacy(scene, FORM)
    assert client.hello.result["capabilities"]["tasks"] == AGREED  # no list
    tools = {tool["name"]: tool for tool in ask(scene, client, "tools/list").result["tools"]}
    assert tools["may"]["execution"] == {"taskSupport": "optional"} and "execution" not in tools["echo"]
    made = begun(scene, client, "may", task=TASK)
    id = made.result["task"]["taskId"]
    assert "one-task" not in id
    told = ask(scene, client, "tasks/get", taskId=id).result
    assert {**server.work.told, "taskId": id} == told
    result = waiting(client, id)
    scene.run(100.0)
    assert not result.over  # it waits for as long as the task takes
    server.work.complete()
    scene.until(lambda: result.over, 5)
    assert result.text == made.nonce
    assert result.result["_meta"] == {RELATED: {"taskId": id}, "x.example/kept": 1}
    assert ask(scene, client, "tasks/cancel", taskId=id).code == -32602  # it has ended
    assert [one["params"]["task"] for one in server.asked("tools/call")] == [TASK]
    assert scene.problems() == [] and scene.at_rest() == []


def test_a_task_is_cancelled() -> None:
    scene, server = carried()
    client = legacy(scene)
    id = made_by(scene, client)
    told = ask(scene, client, "tasks/cancel", taskId=id).result
    assert (told["taskId"], told["status"], server.work.cancels) == (id, "cancelled", 1)
    assert ask(scene, client, "tasks/result", taskId=id).code == -32603


@BOTH
def test_questions_of_a_task_name_it_in_the_client_s_form(transport: str) -> None:
    """1125 tasks: `related-task` on what belongs to a task, both ways (the model checks the way back)."""
    scene, server = carried(transport)
    client = legacy(scene, FORM)
    id = made_by(scene, client)
    client.answer_after = None
    server.work.put(("elicitation/create", QUESTION))
    result = waiting(client, id)
    scene.until(lambda: client.questions, 10)
    question = client.questions[0]
    assert question["params"]["_meta"] == {RELATED: {"taskId": id}}
    told = {"action": "accept", "content": {}, "_meta": {RELATED: {"taskId": id}}}
    client.reply({"jsonrpc": "2.0", "id": question["id"], "result": told})
    scene.until(lambda: server.work.replies, 10)
    server.work.complete()
    scene.until(lambda: result.over, 10)
    assert scene.problems() == []


@BOTH
def test_a_question_stands_open_until_the_client_waits_again(transport: str) -> None:
    """A server puts it once; the request that it came on may be given up, and the client even come anew."""
    scene, server = carried(transport)
    client = legacy(scene, FORM)
    client.answer_after = None
    id = made_by(scene, client)
    first = waiting(client, id)
    scene.run(0.5)
    server.work.put(("elicitation/create", QUESTION))
    scene.until(lambda: client.questions, 10)
    client.cancel(first)
    scene.run(1.0)
    assert server.work.replies == []
    client.leave()
    again = legacy(scene, FORM)
    result = waiting(again, id)
    scene.until(lambda: server.work.replies, 10)
    assert server.work.replies[0]["result"]["action"] == "accept"
    server.work.complete()
    scene.until(lambda: result.over, 10)
    assert scene.problems() == []


def test_a_task_s_question_on_the_channel_waits_for_its_client() -> None:
    """1125: a client expects them on any stream; here they keep to `tasks/result`, of the right task."""
    scene, server = carried("stdio")
    clients = [legacy(scene, FORM) for _ in range(2)]
    ids = [made_by(scene, client) for client in clients]
    works = list(server.works.values())
    assert works[0].talk is works[1].talk
    told = {**QUESTION, "_meta": {RELATED: {"taskId": works[0].id}}}
    works[0].open[
        works[0].talk.ask(None, "elicitation/create", told, works[0].talk.send, works[0].replied)
    ] = told
    results = [waiting(client, id) for client, id in zip(clients, ids, strict=True)]
    scene.until(lambda: works[0].replies, 10)
    assert (len(clients[0].questions), len(clients[1].questions)) == (1, 0)
    for work in works:
        work.complete()
    scene.until(lambda: all(one.over for one in results), 10)
    assert scene.problems() == []


@pytest.mark.parametrize("related", [{"taskId": "one-task-9"}, {"taskId": 5}])
def test_a_question_of_an_unknown_task_is_put_to_nobody(related: Message) -> None:
    """I2, L0.4: not to whoever happens to hold the channel."""
    scene, server = carried("stdio")
    client = legacy(scene, FORM)
    made_by(scene, client)
    busy = [legacy(scene, FORM).tool("silent"), client.tool("silent")]
    scene.run(1.0)
    told = {**QUESTION, "_meta": {RELATED: related}}
    replies: list[Message] = []
    server.work.talk.ask(None, "elicitation/create", told, server.work.talk.send, replies.append)
    scene.until(lambda: replies, 10)
    assert replies[0]["error"]["code"] == -32602
    assert all(not one.over for one in busy)


def test_ids_are_good_for_one_principal() -> None:
    scene, server = carried(listeners=("http", "stdio"))
    id = made_by(scene, legacy(scene))
    local = scene.legacy_pipe()
    for method in ("tasks/get", "tasks/result", "tasks/cancel"):
        foreign = local.request(method, {"taskId": id})
        scene.until(lambda foreign=foreign: foreign.over)  # type: ignore[misc]
        assert foreign.code == -32602
    client = legacy(scene)
    for bad in (server.work.id, "", 5, None, id + "A"):
        assert ask(scene, client, "tasks/get", taskId=bad).code == -32602
    assert server.asked("tasks/get") == []
    assert ask(scene, client, "tasks/list").code == -32601
    # Another session of the same principal may well have it.
    assert ask(scene, client, "tasks/get", taskId=id).result["status"] == "working"


def test_every_request_goes_to_the_session_that_made_the_task() -> None:
    scene, server = carried("stdio")
    clients = [legacy(scene, FORM) for _ in range(3)]
    tasks = []
    for client in clients:
        tasks.append((made_by(scene, client), server.work))
        client.tool("silent")  # it holds the channel, so the next one has another (L0.4)
        scene.run(1.0)
    assert len({id(work.talk) for _, work in tasks}) > 1
    for id_, work in reversed(tasks):
        assert ask(scene, clients[0], "tasks/get", taskId=id_).result["status"] == "working"
        assert work.polled


def test_a_task_is_lost_with_its_session() -> None:
    scene, server = carried("stdio")
    client = legacy(scene)
    id = made_by(scene, client)
    result = waiting(client, id)
    scene.run(0.5)
    server.crash()
    server.works.clear()
    scene.until(lambda: result.over, 20)
    assert result.code == -32603
    scene.run(5.0)
    made_by(scene, client)  # the server gives the same id again
    told = ask(scene, client, "tasks/get", taskId=id)
    assert told.code == -32602 and "lost" in told.error["message"]
    assert server.work.polled == []


def test_the_session_stays_for_as_long_as_the_task() -> None:
    limits = msgspec.structs.replace(FAST, upstream_idle_s=20.0, session_idle_s=20.0)
    scene, server = carried("stdio", limits=limits)
    id = made_by(scene, legacy(scene))
    server.work.ttl = 300_000
    assert ask(scene, legacy(scene), "tasks/get", taskId=id).result["ttl"] == 300_000
    scene.run(200.0)
    assert ask(scene, legacy(scene), "tasks/get", taskId=id).result["status"] == "working"
    scene.run(300.0)
    assert not any(one.alive for one in server.processes)
    assert ask(scene, legacy(scene), "tasks/get", taskId=id).code == -32602


def test_a_session_of_its_own_is_its_own() -> None:
    """`isolation = "session"`: what lives in it is not for another session, be it of the same principal."""
    scene, server = carried(options={"one": {"isolation": "session"}})
    owner, other = legacy(scene, FORM), legacy(scene, FORM)
    id = made_by(scene, owner)
    assert ask(scene, owner, "tasks/get", taskId=id).result["status"] == "working"
    assert ask(scene, other, "tasks/get", taskId=id).code == -32602


def test_a_place_that_is_needed_is_given_up_by_tasks_that_have_ended() -> None:
    """Not by those that have not: nothing is lost for the sake of another client."""
    limits = msgspec.structs.replace(FAST, upstream_sessions_per_server=2, lease_wait_s=5.0)
    scene, server = carried("stdio", limits=limits)
    first, second = legacy(scene, FORM), legacy(scene, {"roots": {}})
    id = made_by(scene, first)
    made_by(scene, second)  # its session takes the place of the one for lists
    third = legacy(scene, {"sampling": {}})
    assert call(scene, third, "echo").code == -32603
    server.works["one-task-1"].complete()
    assert ask(scene, first, "tasks/get", taskId=id).result["status"] == "completed"
    assert call(scene, third, "echo").text
    assert ask(scene, first, "tasks/get", taskId=id).code == -32602


def test_one_principal_s_tasks_leave_sessions_to_others() -> None:
    limits = msgspec.structs.replace(FAST, task_sessions_per_principal=2)
    scene, server = carried("stdio", limits=limits)
    clients = [legacy(scene, {name: {}}) for name in ("elicitation", "roots", "sampling")]
    answers = [begun(scene, client, "may", task=TASK) for client in clients]
    assert [one.code for one in answers] == [None, None, -32603]
    assert begun(scene, clients[0], "may", task=TASK).code is None
    assert call(scene, clients[2], "may").text
    list(server.works.values())[0].complete()
    list(server.works.values())[2].complete()
    for made in (answers[0], begun(scene, clients[0], "may", task=TASK)):
        ask(scene, clients[0], "tasks/get", taskId=made.result["task"]["taskId"])
    scene.until(lambda: scene.at_rest() == [], 5)


def test_a_server_that_is_just_starting_is_waited_for() -> None:
    """What becomes of `task` depends on what it declares."""
    scene, server = carried("stdio")
    client = legacy(scene, FORM)
    id = made_by(scene, client)
    server.start_delay = 2.0
    server.crash()
    scene.run(0.2)
    made = client.request("tools/call", {"name": "may", "arguments": {"nonce": client.fresh()}, "task": TASK})
    lost = client.request("tasks/get", {"taskId": id})
    scene.until(lambda: made.over and lost.over, 20)
    assert made.result["task"]["status"] == "working"
    assert lost.code == -32602


def test_what_waits_for_a_server_that_is_just_starting_is_bounded() -> None:
    limits = msgspec.structs.replace(FAST, calls_bytes=400_000, unread_free_bytes=8_000)
    scene, server = carried("stdio", limits=limits)
    client = legacy(scene)
    made_by(scene, client)
    server.start_delay = 2.0
    server.crash()
    scene.run(0.2)
    asked = {"name": "may", "task": TASK}
    pads = ({"nonce": client.fresh(), "pad": "x" * 90_000} for _ in range(5))
    calls = [client.request("tools/call", {**asked, "arguments": pad}) for pad in pads]
    scene.run(0.5)
    assert [call.over for call in calls] == [False] * 3 + [True] * 2
    scene.done(*calls)
    assert [call.code for call in calls] == [None] * 3 + [-32603] * 2


# ------------------------------------------------------------------------- outside answers


def heard(client: LegacyClient, method: str) -> list[Message]:
    return [one["params"] for _, one in client.notes if one["method"] == method]


@BOTH
def test_its_owner_hears_how_a_task_is_and_nobody_else(transport: str) -> None:
    """1125: `notifications/tasks/status` for the client that made the task, under its own id."""
    scene, server = carried(transport)
    owner, other = legacy(scene), legacy(scene)
    for client in (owner, other):
        LegacyHttp.listen(client)
    scene.run(0.1)
    id = made_by(scene, owner)
    server.work.message = "half way"
    server.notify(server.work)
    server.works["foreign"] = server.work
    scene.run(0.5)
    (told,) = heard(owner, "notifications/tasks/status")
    assert told == {**server.work.told, "taskId": id}
    assert heard(other, "notifications/tasks/status") == []
    server.work.id = "of nobody"
    server.notify(server.work)
    scene.run(0.5)
    assert len(heard(owner, "notifications/tasks/status")) == 1
    assert scene.world.snapshot().counters["upstream_stray_task_status"] == 1
    assert scene.problems() == []


@BOTH
def test_progress_goes_on_for_as_long_as_the_task(transport: str) -> None:
    """G26: the token of the call is good until the task ends, rising only, for its owner."""
    scene, server = carried(transport)
    owner, other = legacy(scene), legacy(scene)
    for client in (owner, other):
        LegacyHttp.listen(client)
    scene.run(0.1)
    params = {"name": "may", "arguments": {"nonce": owner.fresh()}, "task": TASK}
    made = owner.request("tools/call", params, meta={"progressToken": "t"})
    scene.until(lambda: made.over, 10)
    for value in (1, 3, 2, 4):
        server.progress(server.work, value)
    scene.run(0.5)
    told = heard(owner, "notifications/progress")
    assert [(one["progressToken"], one["progress"]) for one in told] == [("t", 1), ("t", 3), ("t", 4)]
    server.work.complete()
    server.notify(server.work)
    scene.run(0.5)
    server.progress(server.work, 9)
    scene.run(0.5)
    assert len(heard(owner, "notifications/progress")) == 3
    assert heard(other, "notifications/progress") == [] and scene.problems() == []


def test_a_modern_client_of_the_same_principal_may_look_after_it() -> None:
    """The id is the principal's, whatever it speaks."""
    scene, server = carried()
    id = made_by(scene, legacy(scene))
    client = modern(scene, WITH_TASKS)
    assert ask(scene, client, "tasks/get", taskId=id).result["status"] == "working"
    server.work.complete()
    scene.run(1.5)
    assert ask(scene, client, "tasks/get", taskId=id).result["status"] == "completed"
    assert scene.problems() == []


@pytest.mark.parametrize("why", ["off", "older", "undeclared", "modern"])
def test_where_tasks_are_not_carried_the_call_is_an_ordinary_one(why: str) -> None:
    """M, 1125 tasks: a receiver that declares none ignores `task`."""
    scene, server = carried(legacy_tasks=why != "off")
    if why == "undeclared":
        server.declares = None
        server.crash()
        scene.run(5.0)
    client: Any
    if why == "modern":
        client = modern(scene)
    else:
        client = legacy(scene, version="2025-06-18" if why == "older" else "2025-11-25")
        assert "tasks" not in client.hello.result["capabilities"]
        assert ask(scene, client, "tasks/get", taskId="x").code == -32601
        assert not any("execution" in tool for tool in ask(scene, client, "tools/list").result["tools"])
    made = client.request("tools/call", {"name": "may", "arguments": {"nonce": "n"}, "task": TASK})
    scene.until(lambda: made.over, 30)
    assert made.text == "n"
    assert server.works == {}
    assert call(scene, client, "echo").text
