"""Tasks of a legacy server for modern clients that take tasks, when things go wrong: losses, silence,
nonsense, time, room (L22 row 5)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fuzz.sim.clients import FORM
from fuzz.sim.scene import FAST
from fuzz.sim.talk import Message
from mcpgate_proto.upstream.stream import ChildLink
from tests.sim.legacy_tasks_model import (
    QUESTION,
    TAKES,
    LegacyTaskServer,
    begun,
    get,
    one,
    opened,
)
from tests.sim.tasks_model import (
    BOTH,
    METHODS,
    ask,
    at_rest,
    call,
    heard,
    legacy,
    listening,
    modern,
    scene_of,
)


@BOTH
def test_a_task_is_lost_with_its_session_and_everybody_is_told(transport: str) -> None:
    """A legacy server's restart: a clear error, never another task of the same name."""
    scene, server, client, id = opened(transport)
    stream = listening(scene, client, id)
    server.delays["tasks/get"] = 5.0
    scene.run(1.0)
    waiting = client.request("tasks/get", {"taskId": id})
    scene.run(0.5)
    server.crash()
    server.works.clear()
    scene.until(lambda: waiting.over, 20)
    # Over HTTP it is not known yet that the server has forgotten more than this request.
    assert waiting.code == (-32602 if transport == "stdio" else -32603)
    scene.run(10.0)
    last = heard(stream)[-1]
    assert (last["status"], last["error"]["code"]) == ("failed", -32602)
    server.delays.clear()
    begun(scene, client)  # the server gives the same id again
    assert list(server.works) == ["one-task-1"]
    for method in METHODS:
        told = ask(scene, client, method, taskId=id, inputResponses={})
        assert told.code == -32602 and "lost" in told.error["message"]
    client.cancel(stream)
    scene.run(1.0)
    at_rest(scene)


def test_ids_do_not_outlive_the_gateway() -> None:
    """The session does not, either; the id of another run opens nothing, though the key is the same."""
    key = bytes(range(32))
    _, _, _, id = opened(sealing_key=key, seed=5)
    scene, server, client, _ = opened(sealing_key=key, seed=6)
    told = ask(scene, client, "tasks/get", taskId=id)
    assert told.code == -32602 and "lost" in told.error["message"]
    assert server.work.polled == []


def test_a_session_stays_for_as_long_as_its_tasks() -> None:
    """N3: nothing expires before its ttl; after it, nothing is held."""
    limits = msgspec.structs.replace(FAST, upstream_idle_s=20.0)
    scene, server, client, id = opened("stdio", limits=limits)
    server.work.ttl = 300_000
    server.work.ask("a")
    assert get(scene, client, id)["ttlMs"] == 300_000
    scene.run(250.0)
    (key,) = get(scene, client, id)["inputRequests"]
    assert len([one for one in server.processes if one.alive]) == 1
    scene.run(100.0)
    told = ask(scene, client, "tasks/get", taskId=id)
    assert told.code == -32602
    assert server.work.replies == [] and server.work.cancels == 0  # the server has let go of it as well
    scene.run(120.0)
    assert [one for one in server.processes if one.alive] == []
    at_rest(scene)


@pytest.mark.parametrize("ttl", [None, 10**12, 10**399])
def test_no_task_is_held_for_longer_than_a_day(ttl: int | None) -> None:
    """L1.9: where its server would hold it for longer, that is told."""
    limits = msgspec.structs.replace(FAST, task_ttl_s=300.0)
    scene, server, client, id = opened(limits=limits)
    server.work.ttl = ttl
    server.work.ask("a")
    assert get(scene, client, id)["ttlMs"] == 300_000
    scene.run(310.0)
    assert (server.work.cancels, server.work.replies) == (1, [])
    assert ask(scene, client, "tasks/get", taskId=id).code == -32602
    at_rest(scene)


def test_a_server_that_is_not_well_is_not_taken_for_one_that_has_forgotten() -> None:
    """Errors other than -32602 are passed on; a subscription gives up after a few."""
    scene, server, client, id = opened()
    stream = listening(scene, client, id)
    server.unwell = -32603
    scene.run(0.5)
    assert ask(scene, client, "tasks/get", taskId=id).code == -32603
    server.unwell = None
    assert get(scene, client, id)["status"] == "working"
    server.unwell = -32603
    assert ask(scene, client, "tasks/cancel", taskId=id).code == -32603
    scene.run(120.0)
    last = heard(stream)[-1]
    assert (last["status"], last["error"]["code"]) == ("failed", -32603)
    client.cancel(stream)
    scene.run(0.5)
    at_rest(scene)


def test_requests_that_failed_do_not_count_against_a_subscription_that_comes_later() -> None:
    scene, server, client, id = opened()
    server.unwell = -32603
    for _ in range(8):
        assert ask(scene, client, "tasks/get", taskId=id).code == -32603
    stream = listening(scene, client, id)
    scene.run(1.0)
    server.unwell = None
    server.work.complete()
    scene.run(60.0)
    assert heard(stream)[-1]["status"] == "completed"
    client.cancel(stream)
    scene.run(0.5)
    at_rest(scene)


def test_a_server_that_takes_no_more_is_asked_later(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, server, client, id = opened("stdio")
    stream = listening(scene, client, id)
    scene.run(1.0)
    polled = len(server.work.polled)
    with monkeypatch.context() as patch:
        patch.setattr(ChildLink, "full", lambda self: True)
        scene.run(2.0)
        assert ask(scene, client, "tasks/get", taskId=id).code == -32603
        assert len(server.work.polled) <= polled + 1
    server.work.complete()
    scene.run(60.0)
    assert heard(stream)[-1]["status"] == "completed"
    client.cancel(stream)
    scene.run(0.5)
    at_rest(scene)


def test_a_question_that_names_no_task_is_known_by_its_stream() -> None:
    """Over HTTP, that is; the model's server forgets what the text demands."""
    scene, server, client, id = opened()
    work = server.work
    work.move("input_required")
    get(scene, client, id)
    (job,) = work.waiting
    replies: list[Message] = []
    work.talk.ask(job, "elicitation/create", QUESTION, job.out, replies.append)
    scene.run(0.5)
    (key,) = get(scene, client, id)["inputRequests"]
    ask(scene, client, "tasks/update", taskId=id, inputResponses={key: {"action": "decline"}})
    scene.run(0.1)
    assert replies[0]["result"]["action"] == "decline"
    at_rest(scene)


@BOTH
def test_a_broken_stream_of_questions_is_opened_again(transport: str) -> None:
    scene, server, client, id = opened(transport)
    work = server.work
    work.move("input_required")
    get(scene, client, id)
    assert len(work.waiting) == 1
    if transport == "http":
        for conn in list(server.conns):
            if conn.job is work.waiting[0]:
                conn.stream.reset()
        work.waiting.clear()
        scene.run(1.0)
    work.ask("a")
    assert [one["params"]["message"] for one in get(scene, client, id)["inputRequests"].values()] == ["a"]


def test_a_server_that_never_answers_tasks_result_keeps_nobody_for_ever() -> None:
    scene, server, client, id = opened(options={"one": {"timeout": 10.0}})
    server.mute["tasks/result"] = None
    server.work.move("input_required")
    assert get(scene, client, id)["status"] == "working"
    server.work.complete()
    scene.run(1.5)
    made = client.request("tasks/get", {"taskId": id})
    scene.until(lambda: made.over, 15)
    assert made.code == -32603
    del server.mute["tasks/result"]
    scene.run(60.0)
    assert get(scene, client, id)["status"] == "completed"
    at_rest(scene)


@pytest.mark.parametrize(
    "more", [{"status": "strange"}, {"taskId": "another"}, {"taskId": 5}, {"status": None}]
)
def test_a_task_that_makes_no_sense_is_an_error(more: Message) -> None:
    scene, server, client, id = opened()
    server.work.more = more
    scene.run(1.5)
    assert ask(scene, client, "tasks/get", taskId=id).code == -32603
    at_rest(scene)


@pytest.mark.parametrize(
    "bad", [{}, {"taskId": ""}, {"taskId": "x" * 2000, "status": "working"}, {"taskId": "t"}, 5]
)
def test_a_call_that_becomes_no_usable_task_is_an_error(bad: Any) -> None:
    scene, server = one()

    class Odd:
        told = bad

    def make_of(job: Any) -> Any:
        return Odd()

    server.make_of = make_of  # type: ignore[method-assign]
    for capabilities in (TAKES, FORM):
        assert call(scene, modern(scene, capabilities), "must").code == -32603
    at_rest(scene)


def test_two_tasks_of_one_name_are_an_error() -> None:
    """Ids are unique among all tasks of the server (1125): else one caller would get the other's."""
    scene, server, client, id = opened()
    first = server.work
    server.works.clear()
    assert call(scene, client, "must").code == -32603
    server.works[first.id] = first
    first.complete()
    assert get(scene, client, id)["result"]["content"][0]["text"] == first.nonce


def test_tasks_are_bounded_and_those_that_ended_give_way() -> None:
    limits = msgspec.structs.replace(FAST, tasks_per_session=3)
    scene, server = one(limits=limits)
    client = modern(scene, TAKES)
    ids = [begun(scene, client).result["taskId"] for _ in range(3)]
    assert call(scene, client, "must").code == -32603
    assert len(server.works) == 3
    list(server.works.values())[1].complete()
    get(scene, client, ids[1])
    assert begun(scene, client).result["resultType"] == "task"
    assert ask(scene, client, "tasks/get", taskId=ids[1]).code == -32602
    assert get(scene, client, ids[0])["status"] == "working"


def test_servers_of_both_eras_behind_one_endpoint() -> None:
    """A client need not know whose task it is."""
    scene = scene_of({"new": ("http", ("modern",)), "old": ("stdio", ("legacy",))})
    made = scene.servers["old"] = LegacyTaskServer(scene.world, "old", "legacy")
    scene.net.programs["/bin/old"] = made.spawn
    scene.start().run(1.0)
    client = modern(scene, TAKES)
    ids = [begun(scene, client, name).result["taskId"] for name in ("new__task", "old__must")]
    stream = listening(scene, client, *ids)
    new = scene["new"]
    new.work.complete()  # type: ignore[attr-defined]
    new.notify(new.work)  # type: ignore[attr-defined]
    made.work.complete()
    scene.run(3.0)
    assert sorted(one["taskId"] for one in heard(stream) if one["status"] == "completed") == sorted(ids)
    for id in ids:
        assert ask(scene, client, "tasks/get", taskId=id).result["status"] == "completed"
        assert ask(scene, client, "tasks/cancel", taskId=id).result["resultType"] == "complete"
    assert scene.problems() == []


def test_a_legacy_client_beside_it_sees_nothing_of_all_this() -> None:
    """L22: no legacy tasks are declared by default, and tools say nothing of them."""
    scene, server, client, id = opened()
    old = legacy(scene, FORM)
    assert "tasks" not in old.hello.result["capabilities"]
    assert not any("execution" in tool for tool in ask(scene, old, "tools/list").result["tools"])
    assert ask(scene, old, "tasks/get", taskId=id).code == -32601
