"""Tools of a legacy server that must be called as tasks, for clients that know no such tasks: the gateway
drives them (L22 row 5). And which calls become tasks at all."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from fuzz.sim.clients import FORM
from fuzz.sim.scene import FAST, Scene
from fuzz.sim.talk import Message
from tests.sim.legacy_tasks_model import QUESTION, TAKES, LegacyTaskServer, LegacyWork, begun, one
from tests.sim.tasks_model import (
    BOTH,
    WITH_TASKS,
    LegacyClient,
    ModernClient,
    TaskServer,
    ask,
    call,
    legacy,
    modern,
    scene_of,
)

Either = ModernClient | LegacyClient
EITHER = pytest.mark.parametrize("modern_client", [True, False])


def client_of(scene: Scene, modern_client: bool, capabilities: Message | None = None) -> Either:
    return modern(scene, capabilities) if modern_client else legacy(scene, capabilities)


def at_rest(scene: Scene, server: LegacyTaskServer) -> None:
    assert scene.problems() == [] and scene.at_rest() == []
    waiting = [job for work in server.works.values() for job in work.waiting]
    assert all(job.cancelled or job.talk.over for job in waiting)  # no answer that nobody wants


# ----------------------------------------------------------------------------- what becomes a task


@BOTH
@pytest.mark.parametrize("kind", ["takes", "modern", "legacy", "old"])
def test_only_what_must_be_a_task_is_one(transport: str, kind: str) -> None:
    """`optional` is called plainly: it works for everybody, and costs one round trip. (The model refuses what
    the text forbids.)"""
    scene, server = one(transport)
    if kind in ("takes", "modern"):
        client: Either = modern(scene, TAKES if kind == "takes" else FORM)
    else:
        client = legacy(scene, FORM, version="2025-11-25" if kind == "legacy" else "2025-06-18")
    for name in ("may", "never", "echo"):
        assert call(scene, client, name).text
    assert server.works == {}
    assert all("task" not in one["params"] for one in server.asked("tools/call"))
    if kind == "old":
        # A session of 2025-06-18 has no tasks, so nothing can be done about the tool (1125: -32601).
        assert call(scene, client, "must").code == -32601
        assert len(server.works) == 0
        return
    made = client.tool("must")
    scene.until(lambda: server.works, 5)
    server.work.complete()
    scene.until(lambda: made.over, 30)
    assert ("taskId" in made.result) is (kind == "takes")
    assert scene.problems() == []


def test_an_older_client_without_features_shares_a_session_that_has_tasks() -> None:
    """L0.2: what declares nothing is served by the session that declares nothing, in our newest revision."""
    scene, server = one()
    client = legacy(scene, version="2024-11-05")
    made = client.tool("must")
    scene.until(lambda: server.works, 5)
    server.work.complete()
    scene.until(lambda: made.over, 10)
    assert made.text == made.nonce
    at_rest(scene, server)


@EITHER
def test_without_driving_a_client_is_told_what_it_lacks(modern_client: bool) -> None:
    """L22: driven, or -32021. A legacy client has no such code (L8)."""
    scene, server = one(drive_tasks=False)
    refused = call(scene, client_of(scene, modern_client, FORM), "must")
    assert refused.code == (-32021 if modern_client else -32603)
    assert refused.error["data"]["requiredCapabilities"] == WITH_TASKS
    assert server.asked("tools/call") == []
    assert begun(scene, modern(scene, TAKES)).result["resultType"] == "task"
    # The channel that the refused call had taken is free again (L0.4).
    scene, server = one("stdio", drive_tasks=False)
    client = client_of(scene, modern_client, FORM)
    for _ in range(10):
        assert call(scene, client, "must").code == refused.code
    assert call(scene, client, "echo").text
    assert len(server.processes) == 2  # for lists, and for this client


def test_a_server_that_declares_no_tasks_is_never_asked_for_one() -> None:
    """1125, Tool-Level Negotiation 1: whatever its tools say."""
    scene, server = one()
    server.declares = None
    server.support = {"must": "required"}
    server.crash()
    scene.run(5.0)
    client = modern(scene, TAKES)
    assert "extensions" not in ask(scene, client, "server/discover").result["capabilities"]
    assert call(scene, client, "must").code == -32601
    assert len(server.asked("tools/call")) == 1
    assert ask(scene, client, "tasks/get", taskId="x").code == -32601


@pytest.mark.parametrize("takes", [True, False])
def test_a_definition_that_is_not_at_hand_is_read_first(takes: bool) -> None:
    """A client of a pipe may call without ever having listed."""
    scene, server = one("http", listeners=("stdio",), transparent=True)
    server.delays["tools/list"] = 0.5
    client = scene.modern_pipe(capabilities=TAKES if takes else FORM)
    made = client.tool("must")
    scene.until(lambda: server.works, 10)
    server.work.complete()
    scene.until(lambda: made.over, 10)
    assert ("taskId" in made.result) is takes
    assert len(server.asked("tools/call")) == 1


@pytest.mark.parametrize("before", ["required", "optional"])
def test_a_definition_that_has_changed_is_read_again(before: str) -> None:
    """-32601 means that the call was not carried out; it goes again, once, as the new definition has it."""
    scene, server = one()
    after = {"required": "forbidden", "optional": "required"}[before]
    server.support["must"] = before
    client = modern(scene, FORM)
    ask(scene, client, "tools/list")
    server.support["must"] = after
    made = client.tool("must")
    if after == "required":
        scene.until(lambda: server.works, 5)
        server.work.complete()
    scene.until(lambda: made.over, 10)
    assert made.text == made.nonce
    assert len(server.asked("tools/call")) == 2
    at_rest(scene, server)


def test_a_definition_that_changes_whenever_it_is_read_is_believed_once() -> None:
    scene, server = one()
    supports = ["forbidden", "required"] * 50
    real = server.items

    def items(method: str) -> list[Message]:
        found = real(method)
        for tool in found:
            if tool.get("name") == "must":
                tool["execution"] = {"taskSupport": supports.pop()}
        return found

    server.items = items  # type: ignore[method-assign]
    server.refuses = True
    client = modern(scene, FORM)
    ask(scene, client, "tools/list")
    assert call(scene, client, "must").code == -32601
    assert ["task" in one["params"] for one in server.asked("tools/call")] == [True, False]


@BOTH
def test_what_is_refused_for_good_is_refused_once_more_at_most(transport: str) -> None:
    scene, server = one(transport)

    def refuse(job: Any) -> None:
        job.finish({"jsonrpc": "2.0", "id": job.id, "error": {"code": -32601, "message": "not now"}})

    server.script("refused", refuse)
    server.loose = (*server.loose, "refused")
    client = modern(scene, FORM)
    for round in (1, 2):
        assert call(scene, client, "refused").code == -32601
        assert len([one for one in server.asked("tools/call") if one["params"]["name"] == "refused"]) == round
    at_rest(scene, server)


def test_a_named_server_s_tool_may_have_to_be_a_task_as_well() -> None:
    """`_server` uses the server's own names, of which no list need have been read."""
    scene, server = one("stdio", listeners=("stdio",))
    client = scene.modern_pipe(capabilities=FORM)
    made = client.request(
        "tools/call", {"name": "must", "arguments": {"nonce": client.fresh()}, "_server": "one"}
    )
    scene.until(lambda: server.works, 10)
    server.work.complete()
    scene.until(lambda: made.over, 10)
    assert made.text == made.nonce


# ------------------------------------------------------------------------------------------ driven


@BOTH
@EITHER
def test_a_client_without_tasks_gets_the_result(transport: str, modern_client: bool) -> None:
    """The pace is the server's; the id is nobody's."""
    scene, server = one(transport, options={"one": {"timeout": 5.0}})
    server.interval_ms = 2000
    client = client_of(scene, modern_client)
    made = client.tool("must")
    scene.run(11.0)
    assert not made.over
    polled = server.work.polled
    assert len(polled) == 5 and all(later - earlier >= 2.0 for earlier, later in pairwise(polled))
    assert server.work.asked_ttl == 3_600_000
    server.interval_ms = server.work.interval_ms = 20_000  # longer than the idle clock (F7)
    scene.run(50.0)
    server.work.complete()
    scene.until(lambda: made.over, 30)
    assert made.text == made.nonce
    assert "task" not in str(made.answer)
    assert made.result["_meta"]["x.example/kept"] == 1
    at_rest(scene, server)
    assert server.cancels == []


@EITHER
@pytest.mark.parametrize(
    ("end", "told"),
    [
        (LegacyWork.fail_tool, None),
        (lambda work: work.fail(-5, "bad"), (-5, "bad")),
        (lambda work: work.lose_result("it broke"), (-32603, "it broke")),
        (LegacyWork.cancel, (-32603, "the server cancelled the task")),
    ],
)
def test_how_a_driven_task_ends(
    modern_client: bool, end: Callable[[LegacyWork], None], told: tuple[int, str] | None
) -> None:
    scene, server = one()
    made = client_of(scene, modern_client).tool("must", nonce="no luck")
    scene.run(1.5)
    end(server.work)
    scene.until(lambda: made.over, 10)
    if told is None:
        assert made.result["isError"] is True and made.text == "no luck"
    else:
        assert (made.code, made.error["message"]) == told
    at_rest(scene, server)


@BOTH
@EITHER
def test_questions_of_a_driven_task_are_those_of_the_call(transport: str, modern_client: bool) -> None:
    """L1: a modern client gets them as rounds, and the call is parked meanwhile; a legacy one as requests."""
    scene, server = one(transport)
    client = client_of(scene, modern_client, FORM)
    client.answer_after = 3.0
    made = client.tool("must")
    scene.run(1.0)
    work = server.work
    work.ask(made.nonce)
    scene.until(lambda: client.questions, 10)
    polls = len(work.polled)
    scene.run(2.5)
    assert len(work.polled) <= polls + 1  # the server waits for the client
    scene.until(lambda: work.replies, 10)
    work.ask(made.nonce)
    scene.until(lambda: len(work.replies) == 2, 20)
    work.complete()
    scene.until(lambda: made.settled, 20)
    assert made.text == made.nonce
    assert len(client.questions) == 2 and "related-task" not in str(client.questions)
    assert [one["result"]["action"] for one in work.replies] == ["accept", "accept"]
    assert len(server.asked("tasks/result")) == 1 and len(server.asked("tools/call")) == 1
    at_rest(scene, server)


def test_a_question_that_its_server_withdraws_is_not_asked_any_more() -> None:
    scene, server = one()
    client = legacy(scene, FORM)
    client.answer_after = None
    made = client.tool("must")
    scene.run(1.0)
    server.work.ask(made.nonce)
    scene.until(lambda: client.questions, 10)
    (number,) = server.work.open
    server.work.waiting[0].withdraw(number)
    scene.run(0.5)
    assert any(one["method"] == "notifications/cancelled" for _, one in made.notes)
    server.work.complete()
    scene.until(lambda: made.over, 10)
    assert made.text == made.nonce


def test_the_result_comes_while_the_client_is_being_asked() -> None:
    """L1.7: it is kept for the retry."""
    scene, server = one()
    client = modern(scene, FORM)
    client.answer_after = None
    made = client.tool("must")
    scene.run(1.0)
    server.work.ask(made.nonce)
    scene.until(lambda: made.over, 10)
    server.work.complete()
    scene.run(5.0)
    again = client.retry(made, {key: {"action": "accept"} for key in made.result["inputRequests"]})
    scene.until(lambda: again.over, 5)
    assert again.text == made.nonce
    at_rest(scene, server)


@pytest.mark.parametrize("can_cancel", [True, False])
def test_a_client_that_never_comes_back_costs_its_task(can_cancel: bool) -> None:
    """L1.9: it is cancelled; a server that cannot do that gets a plain no to its questions."""
    limits = msgspec.structs.replace(FAST, park_ttl_s=30.0)
    scene, server = one("stdio", limits=limits)
    if not can_cancel:
        server.declares = {"requests": {"tools": {"call": {}}}}
        server.crash()
        scene.run(5.0)
    client = modern(scene, FORM)
    client.answer_after = None
    made = client.tool("must")
    scene.run(1.0)
    server.work.ask(made.nonce)
    scene.until(lambda: made.over, 10)
    scene.run(40.0)
    if can_cancel:
        assert (server.work.cancels, server.work.status, server.work.replies) == (1, "cancelled", [])
    else:
        assert [one["result"]["action"] for one in server.work.replies] == ["cancel"]
        assert server.asked("tasks/cancel") == []
    at_rest(scene, server)


def test_many_driven_calls_wait_for_answers_on_one_channel() -> None:
    """Their questions name their tasks, so none of them holds the channel (L0.4)."""
    scene, server = one("stdio")
    client = modern(scene, FORM)
    client.answer_after = None
    made = []
    for number in range(8):
        made.append(client.tool("must"))
        scene.until(lambda number=number: len(server.works) == number + 1, 5)  # type: ignore[misc]
        scene.run(0.1)
    for work in server.works.values():
        work.ask(work.nonce)
    scene.until(lambda: all(one.over for one in made), 20)
    assert len({id(work.talk) for work in server.works.values()}) == 1
    for one_call in reversed(made):
        (key,) = one_call.result["inputRequests"]
        assert one_call.result["inputRequests"][key]["params"]["message"] == one_call.nonce
        again = client.retry(one_call, {key: {"action": "accept", "content": {"answer": one_call.nonce}}})
        work = next(work for work in server.works.values() if work.nonce == one_call.nonce)
        scene.until(lambda work=work: work.replies, 5)  # type: ignore[misc]
        assert work.replies[0]["result"]["content"] == {"answer": one_call.nonce}
        work.complete()
        scene.until(lambda again=again: again.over, 5)  # type: ignore[misc]
        assert again.text == one_call.nonce
    at_rest(scene, server)


@BOTH
@EITHER
@pytest.mark.parametrize("when", ["making", "crossing", "working", "asking"])
def test_a_cancelled_call_cancels_its_task(transport: str, modern_client: bool, when: str) -> None:
    """G22: by `tasks/cancel`; a task that was just being made is cancelled once it is there."""
    if modern_client and when == "asking":
        return  # its round is over by then
    scene, server = one(transport)
    server.making_s = 1.0 if when == "making" else 0.0
    client = client_of(scene, modern_client, FORM)
    client.answer_after = None
    made = client.tool("must")
    scene.until(lambda: server.works, 5)
    if when == "working":
        scene.run(2.5)
    elif when == "asking":
        server.work.ask(made.nonce)
        scene.until(lambda: client.questions, 20)
    client.cancel(made)
    scene.run(5.0)
    if when == "crossing":
        # The answer was on its way; over HTTP its connection may have been closed before it came.
        assert server.work.cancels == 1 or transport == "http"
    elif when != "making":
        assert (server.work.cancels, server.work.status) == (1, "cancelled")
        assert server.cancels == [] or when == "asking"
    elif transport == "stdio":
        assert server.work.cancels == 1 or server.job(made.nonce).cancelled  # type: ignore[union-attr]
    assert scene.at_rest() == [] and scene.problems() == []


@EITHER
def test_progress_of_a_driven_task_is_that_of_the_call(modern_client: bool) -> None:
    """1125: the token is good for as long as the task; it winds the clock (F7)."""
    scene, server = one(options={"one": {"timeout": 5.0}})
    client = client_of(scene, modern_client)
    made = client.tool("must", token="t")
    scene.run(1.0)
    for value in (1, 2, 2, 3):
        server.progress(server.work, value)
        scene.run(1.0)
    told = [one["params"] for _, one in made.notes if one["method"] == "notifications/progress"]
    assert [(one["progressToken"], one["progress"]) for one in told] == [("t", 1), ("t", 2), ("t", 3)]
    server.work.complete()
    scene.until(lambda: made.over, 10)
    count = len(made.notes)
    server.progress(server.work, 9)
    scene.run(1.0)
    assert len(made.notes) == count
    assert scene.problems() == []


@BOTH
@EITHER
def test_a_driven_task_is_lost_with_its_session(transport: str, modern_client: bool) -> None:
    """It may have been carried out, so the tool is not called again in silence (L1.10)."""
    scene, server = one(transport)
    made = client_of(scene, modern_client).tool("must")
    scene.run(2.5)
    server.crash()
    scene.until(lambda: made.over, 60)
    assert made.code == -32603
    assert len(server.asked("tools/call")) == 1
    scene.run(10.0)
    at_rest(scene, server)


@EITHER
def test_a_task_that_its_server_forgot_is_an_error(modern_client: bool) -> None:
    scene, server = one()
    made = client_of(scene, modern_client).tool("must")
    scene.run(1.5)
    server.works.clear()
    scene.until(lambda: made.over, 20)
    assert made.code == -32603 and "lost" in made.error["message"]
    at_rest(scene, server)


@EITHER
def test_a_server_that_answers_nothing_about_its_task_is_given_up(modern_client: bool) -> None:
    scene, server = one(options={"one": {"timeout": 5.0}})
    made = client_of(scene, modern_client).tool("must")
    scene.run(0.5)
    server.mute["tasks/get"] = None
    scene.until(lambda: made.over, 30)
    assert made.code == -32603
    scene.run(70.0)
    assert server.work.cancels == 1
    at_rest(scene, server)


def test_a_server_that_fails_now_and_then_is_asked_again() -> None:
    scene, server = one()
    made = modern(scene).tool("must")
    scene.run(0.5)
    for _ in range(3):
        server.work.more = {"status": "working"}
        scene.run(1.0)
        for conn in list(server.conns):
            if conn.job is not None and conn.job.method == "tasks/get" and not conn.job.done:
                conn.stream.reset()
    server.work.more = {}
    server.work.complete()
    scene.until(lambda: made.over, 60)
    assert made.text == made.nonce


def test_urls_that_a_task_ends_with_are_opened_and_the_call_is_made_again() -> None:
    """L3: -32042 as the outcome of a driven task is that of the call."""
    scene, server = one()
    url: Message = {"mode": "url", "message": "open", "url": "https://x.example/", "elicitationId": "e"}

    def end(work: LegacyWork) -> None:
        work.fail(-32042, "open it")
        work.outcome["data"] = {"elicitations": [url]}

    client = modern(scene, {"elicitation": {"url": {}}})
    client.answer_after = None
    made = client.tool("must")
    scene.run(0.5)
    end(server.work)
    scene.until(lambda: made.over, 10)
    assert made.result["resultType"] == "input_required"
    again = client.retry(made, {key: {"action": "accept"} for key in made.result["inputRequests"]})
    scene.until(lambda: len(server.works) == 2, 10)
    server.work.complete()
    scene.until(lambda: again.over, 10)
    assert again.text == made.nonce


KEY = bytes(range(32))


def test_a_question_of_a_task_of_the_other_kind_is_not_answered_to_a_legacy_server() -> None:
    """L1.10: the server was a modern one when it made the task; the call is not made again in silence."""
    scene = scene_of({"one": ("http", ("modern",))}, sealing_key=KEY).start()
    scene.run(1.0)
    client = modern(scene, FORM)
    client.answer_after = None
    made = client.tool("task")
    scene.run(1.0)
    assert isinstance(scene.only, TaskServer)
    scene.only.work.ask("a")
    scene.until(lambda: made.over, 10)
    state = made.result["requestState"]
    scene, server = one(sealing_key=KEY)
    client = modern(scene, FORM)
    params = {name: value for name, value in made.params.items() if name != "_meta"}
    given = {"inputResponses": {"a": {"action": "accept"}}, "requestState": state}
    assert ask(scene, client, "tools/call", **params, **given).code == -32603
    assert server.asked("tools/call") == []


def test_a_task_of_the_other_kind_is_not_asked_for() -> None:
    """Its id would mean another task there, if any; also where it is not known yet what the server is."""
    scene = scene_of({"one": ("http", ("modern",))}, sealing_key=KEY, legacy_tasks=True).start()
    scene.run(1.0)
    params = {"name": "task", "arguments": {"nonce": "n"}, "task": {}}
    id = ask(scene, legacy(scene), "tools/call", **params).result["task"]["taskId"]
    for wait_s in (0.0, 3.0):
        scene = scene_of(
            {"one": ("stdio", ("legacy",))}, LegacyTaskServer, sealing_key=KEY, legacy_tasks=True
        ).start()
        server = scene.only
        assert isinstance(server, LegacyTaskServer)
        server.start_delay = 10.0 - wait_s * 3
        scene.run(wait_s)
        client = legacy(scene)
        calls = [
            client.request(method, {"taskId": id}) for method in ("tasks/get", "tasks/result", "tasks/cancel")
        ]
        scene.until(lambda calls=calls: all(one.over for one in calls), 30)  # type: ignore[misc]
        assert all(one.code in (-32602, -32603) for one in calls)
        assert not any(server.asked(method) for method in ("tasks/get", "tasks/result", "tasks/cancel"))


@EITHER
def test_a_stopping_gateway_does_not_wait_for_driven_tasks(modern_client: bool) -> None:
    scene, server = one("stdio")
    made = client_of(scene, modern_client, FORM).tool("must")
    scene.run(3.0)
    server.work.put(("elicitation/create", QUESTION))
    scene.run(3.0)
    scene.world.feed("shutdown", 0.0)
    scene.until(lambda: scene.world.stopped, 30)
    assert made.answers <= 1 and len(server.asked("tools/call")) == 1
