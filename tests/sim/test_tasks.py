"""Tasks across the gateway, on virtual time (N3, L22): between modern peers, and driven for clients without
them."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest

from fuzz.sim.clients import FORM, Call
from fuzz.sim.scene import FAST, Scene
from fuzz.sim.talk import META, MODERN, Message
from tests.sim.tasks_model import (
    BOTH,
    METHODS,
    TASKS,
    WITH_TASKS,
    LegacyClient,
    ModernClient,
    TaskServer,
    ask,
    call,
    heard,
    legacy,
    listening,
    modern,
    one,
    scene_of,
    told_upstream,
)


@BOTH
@pytest.mark.parametrize("transparent", [True, False])
def test_a_task_passes_through_under_a_sealed_id(transport: str, transparent: bool) -> None:
    """N3, L22 row 2, C15."""
    scene, server = one(transport, transparent=transparent)
    client = modern(scene, {**WITH_TASKS, **FORM})
    made = call(scene, client, "task")
    id = made.result["taskId"]
    assert made.result["resultType"] == "task" and "one-task" not in id
    told = ask(scene, client, "tasks/get", taskId=id).result
    assert (told["taskId"], told["status"], told["resultType"]) == (id, "working", "complete")
    server.work.ask("first", "second")
    told = ask(scene, client, "tasks/get", taskId=id).result
    assert list(told["inputRequests"]) == ["first", "second"]  # keys are kept
    given = {"first": {"action": "accept", "content": {}}, "second": {"action": "decline"}}
    done = ask(scene, client, "tasks/update", taskId=id, inputResponses=given).result
    assert done["resultType"] == "complete"
    assert server.work.updates == [given]
    told = ask(scene, client, "tasks/get", taskId=id).result
    assert told["status"] == "completed"
    assert told["result"]["_meta"] == {"x.example/kept": 1}  # nothing of the other hop (L0.1)
    assert ask(scene, client, "tasks/cancel", taskId=id).result["resultType"] == "complete"
    assert server.work.cancels == 1
    for method in METHODS:
        sent = server.asked(method)[-1]
        assert sent["params"]["taskId"] == server.work.id
        assert sent["params"]["_meta"][META + "clientCapabilities"] == {**WITH_TASKS, **FORM}
    if transport == "http":
        names = [head["mcp-name"] for _, head, one in server.requests if one and one.get("method") in METHODS]
        assert set(names) == {server.work.id}
    assert scene.problems() == [] and scene.at_rest() == []


def test_ids_are_good_for_one_principal_and_nothing_else_opens() -> None:
    """N3, G7."""
    scene, server = one("http", listeners=("http", "stdio"))
    client = modern(scene, WITH_TASKS)
    id = call(scene, client, "task").result["taskId"]
    again = call(scene, client, "task").result["taskId"]
    assert id != again
    local = scene.modern_pipe(capabilities=WITH_TASKS)  # another principal
    foreign = local.request("tasks/get", {"taskId": id})
    scene.until(lambda: foreign.over)
    assert foreign.code == -32602
    for bad in (server.work.id, "", id[:-2], id + "A", "0.", "x" * 9000, 5, None):
        for method in METHODS:
            assert ask(scene, client, method, taskId=bad, inputResponses={}).code in (-32602, -32020)
    missing = ask(scene, client, "tasks/get")
    assert missing.code in (-32602, -32020)
    assert ask(scene, client, "tasks/update", taskId=id).code == -32602
    assert ask(scene, client, "tasks/update", taskId=id, inputResponses=[]).code == -32602
    assert server.asked("tasks/update") == []
    assert server.asked("tasks/cancel") == []
    server.works.clear()
    assert ask(scene, client, "tasks/get", taskId=id).code == -32602  # the server is the judge


def test_a_header_that_names_another_task_is_refused() -> None:
    """C15."""
    scene, server = one("http")
    client = modern(scene, WITH_TASKS)
    id = call(scene, client, "task").result["taskId"]
    made = Call(client, 77, "tasks/get", {"taskId": id, "_meta": client.base_meta()})
    message = {"jsonrpc": "2.0", "id": 77, "method": "tasks/get", "params": made.params}
    headers = [("MCP-Protocol-Version", MODERN), ("Mcp-Method", "tasks/get"), ("Mcp-Name", "x")]
    client.post(message, headers, made)
    scene.until(lambda: made.over)
    assert (made.code, made.status) == (-32020, 400)


def test_a_client_that_does_not_declare_tasks_is_told_so() -> None:
    """G21, A19: -32021 comes before the params are looked at; 404 where nobody has tasks."""
    scene, server = one("http")
    id = call(scene, modern(scene, WITH_TASKS), "task").result["taskId"]
    client = modern(scene)
    for method in METHODS:
        told = ask(scene, client, method, taskId=id)
        assert (told.code, told.status) == (-32021, 400)
        assert told.error["data"] == {"requiredCapabilities": WITH_TASKS}
    told = ask(scene, client, "subscriptions/listen", notifications={"taskIds": [id]})
    assert (told.code, told.error["data"]) == (-32021, {"requiredCapabilities": WITH_TASKS})
    scene = scene_of({"one": ("http", ("modern",))})
    plain = scene.only
    assert isinstance(plain, TaskServer)
    plain.extensions = {}
    scene.start().run(1.0)
    told = ask(scene, modern(scene, WITH_TASKS), "tasks/get", taskId=id)
    assert (told.code, told.status) == (-32601, 404)


def test_a_task_nobody_asked_for_is_an_invalid_answer() -> None:
    """A25, L6, N3."""
    scene, server = one("http", drive_tasks=False)
    assert call(scene, modern(scene), "rude").code == -32603
    assert call(scene, legacy(scene), "rude").code == -32603
    assert scene.at_rest() == []


def test_the_task_member_of_2025_is_ignored() -> None:
    """L22: it means nothing to a modern server, nor where no tasks are declared."""
    for eras in (("modern",), ("legacy",)):
        scene, server = one("http", *eras)
        for client in (modern(scene), legacy(scene)):
            params = {"name": "echo", "arguments": {"nonce": "n"}, "task": {"ttl": 1}}
            made = client.request("tools/call", params)
            scene.until(lambda made=made: made.over)
            assert made.text == "n"
        assert all("task" not in one["params"] for one in server.asked("tools/call"))


# ------------------------------------------------------------------------------- notifications


@BOTH
def test_task_notifications_reach_the_right_subscription_in_the_client_s_form(transport: str) -> None:
    """N3, G15, G16."""
    scene, server = one(transport)
    client, other = modern(scene, WITH_TASKS), modern(scene, WITH_TASKS)
    id, second = (call(scene, client, "task").result["taskId"] for _ in range(2))
    first_work, second_work = server.works.values()
    stream = listening(scene, client, id, "forged", second_work.id, toolsListChanged=True)
    assert heard(stream, "notifications/subscriptions/acknowledged")[0]["notifications"] == {
        "toolsListChanged": True,
        "taskIds": [id],
    }
    beside = listening(scene, other, second)
    nobody = listening(scene, other, "forged")
    assert heard(nobody, "notifications/subscriptions/acknowledged")[0]["notifications"] == {}
    for work in (first_work, second_work):
        work.complete()
        server.notify(work)
    scene.run(1.0)
    for made, shown in ((stream, id), (beside, second)):
        (told,) = heard(made)
        assert (told["taskId"], told["status"]) == (shown, "completed")
        assert told["_meta"] == {META + "subscriptionId": made.id}
        assert told["result"]["_meta"] == {"x.example/kept": 1}
    assert heard(nobody) == []
    for made in (stream, beside, nobody):
        made.client.cancel(made)  # type: ignore[attr-defined]
    scene.run(1.0)
    assert scene.at_rest() == [] and scene.problems() == []
    assert sum(len(talk.listens) for talk in server.talks if not talk.over) <= 1  # the gateway's own


@BOTH
def test_a_task_subscription_is_taken_up_again(transport: str) -> None:
    """G20: the client's stream stays; what the server lost is asked for once more."""
    scene, server = one(transport)
    client = modern(scene, WITH_TASKS)
    id = call(scene, client, "task").result["taskId"]
    stream = listening(scene, client, id)
    server.crash()
    scene.run(30.0)
    server.work.complete()
    server.notify(server.work)
    scene.run(1.0)
    assert [told["status"] for told in heard(stream)] == ["completed"]
    client.cancel(stream)
    scene.run(1.0)
    assert scene.at_rest() == []


def test_streams_to_a_server_are_capped_per_principal() -> None:
    """What has no place is not honoured; who comes later finds what others have left."""
    limits = msgspec.structs.replace(FAST, http_connections_per_principal=4)
    scene, server = one("http", limits=limits)
    client = modern(scene, WITH_TASKS)
    id = call(scene, client, "task").result["taskId"]
    streams = [listening(scene, client, id) for _ in range(6)]
    scene.run(10.0)
    agreed = [heard(one, "notifications/subscriptions/acknowledged")[0]["notifications"] for one in streams]
    assert agreed == [{"taskIds": [id]}] * 4 + [{}] * 2
    assert sum(len(talk.listens) for talk in server.talks if not talk.over) == 5, "with the gateway's own"
    client.cancel(streams[0])
    scene.run(1.0)
    later = listening(scene, client, id)
    scene.run(1.0)
    assert heard(later, "notifications/subscriptions/acknowledged")[0]["notifications"] == {"taskIds": [id]}


def test_a_server_that_says_nothing_does_not_withhold_the_acknowledgement() -> None:
    scene, server = one("http")
    client = modern(scene, WITH_TASKS)
    id = call(scene, client, "task").result["taskId"]
    server.mute["subscriptions/listen"] = None
    stream = listening(scene, client, id)
    assert heard(stream, "notifications/subscriptions/acknowledged")[0]["notifications"] == {}
    client.cancel(stream)
    scene.run(1.0)
    assert scene.at_rest() == []


def test_a_stopping_gateway_ends_task_subscriptions_in_good_order() -> None:
    """G19."""
    scene, server = one("http")
    client = modern(scene, WITH_TASKS)
    stream = listening(scene, client, call(scene, client, "task").result["taskId"])
    scene.world.feed("shutdown", 5.0)
    scene.until(lambda: scene.world.stopped, 60)
    assert stream.result["resultType"] == "complete"


# ---------------------------------------------------------------------------------- driven tasks

Either = ModernClient | LegacyClient


def driven(scene: Scene, modern_client: bool, capabilities: Message | None = None) -> Either:
    return modern(scene, capabilities) if modern_client else legacy(scene, capabilities)


EITHER = pytest.mark.parametrize("modern_client", [True, False])


@BOTH
@EITHER
def test_a_client_without_tasks_gets_the_result(transport: str, modern_client: bool) -> None:
    """L22 rows 3 and 4; the pace is the server's."""
    scene, server = one(transport)
    client = driven(scene, modern_client)
    made = client.tool("task")
    scene.run(11.0)
    assert not made.over
    polled = server.work.polled
    assert len(polled) == 5
    assert all(later - earlier >= 2.0 for earlier, later in pairwise(polled))
    server.work.complete()
    scene.until(lambda: made.over, 5)
    assert made.text == made.nonce and "taskId" not in made.result
    assert made.result.get("_meta", {}).get("x.example/kept") == 1
    assert told_upstream(server, "tools/call") == {TASKS: {}}
    assert scene.problems() == [] and scene.at_rest() == []


@EITHER
def test_a_driven_task_outlasts_the_idle_clock(modern_client: bool) -> None:
    scene, server = one("http", options={"one": {"timeout": 5.0}})
    server.interval_ms = 20_000
    made = driven(scene, modern_client).tool("task")
    scene.run(100.0)
    assert not made.over
    server.work.complete()
    scene.until(lambda: made.over, 30)
    assert made.text == made.nonce


@BOTH
@EITHER
def test_questions_of_a_driven_task_reach_the_client(transport: str, modern_client: bool) -> None:
    """L22: as `input_required` or as requests; the answers go to `tasks/update`, each key once."""
    scene, server = one(transport)
    server.forgets_slowly = True  # the same keys are still listed for a while
    client = driven(scene, modern_client, FORM)
    made = client.tool("task")
    scene.run(1.0)
    server.work.ask("a", "b")
    scene.until(lambda: len(client.questions) == 2, 20)
    scene.until(lambda: made.settled, 60)
    assert made.text == f"{made.nonce}|accept|accept"
    assert len(client.questions) == 2
    assert [sorted(one) for one in server.work.updates] == [["a", "b"]]
    assert scene.at_rest() == []
    assert len(server.asked("tools/call")) == 1, "the tool is not run again"


def test_a_task_that_asks_twice_is_answered_twice() -> None:
    scene, server = one("http")
    client = modern(scene, FORM)
    made = client.tool("task")
    scene.run(1.0)
    server.work.ask("a")
    scene.until(lambda: server.work.status == "completed", 20)
    server.work.more = {}
    server.work.ask("b")
    scene.until(lambda: made.settled, 60)
    assert [sorted(one) for one in server.work.updates] == [["a"], ["b"]]
    assert len(server.asked("tools/call")) == 1


def test_the_state_of_a_driven_task_is_bound_like_any_other() -> None:
    """G7: another request, another principal, a changed byte."""
    scene, server = one("http", listeners=("http", "stdio"))
    client = modern(scene, FORM)
    client.answer_after = None
    made = client.tool("task")
    scene.run(1.0)
    server.work.ask("a")
    scene.until(lambda: made.over, 20)
    assert made.result["resultType"] == "input_required"
    state = made.result["requestState"]
    params = {name: value for name, value in made.params.items() if name != "_meta"}
    given = {"inputResponses": {"a": {"action": "accept", "content": {}}}, "requestState": state}
    for bad in (
        {**params, "name": "echo", **given},
        {**params, "arguments": {"nonce": "other"}, **given},
        {**params, **given, "requestState": state[:-2]},
    ):
        assert ask(scene, client, "tools/call", **bad).code == -32602
    local = scene.modern_pipe(capabilities=FORM)
    foreign = local.request("tools/call", {**params, **given})
    scene.until(lambda: foreign.over)
    assert foreign.code == -32602
    assert server.work.updates == []
    # A round without its answers is asked again (G10).
    again = ask(scene, client, "tools/call", **params, requestState=state, inputResponses={"zzz": {}})
    assert again.result["resultType"] == "input_required"
    last = ask(scene, client, "tools/call", **params, **given)
    assert last.text == f"{made.nonce}|accept"
    assert len(server.asked("tools/call")) == 1


@BOTH
@EITHER
def test_a_cancelled_call_cancels_its_task(transport: str, modern_client: bool) -> None:
    """G22: by `tasks/cancel`; between two polls and while the client is being asked."""
    for asking in (False, True):
        scene, server = one(transport)
        client = driven(scene, modern_client, FORM)
        client.answer_after = None
        made = client.tool("task")
        scene.run(1.0)
        if asking:
            if modern_client:
                continue  # its round is over by then
            server.work.ask("a")
            scene.until(lambda client=client: client.questions, 20)
        client.cancel(made)
        scene.run(5.0)
        assert server.work.cancels == 1
        assert server.asked("tasks/cancel")[0]["params"]["taskId"] == server.work.id
        assert scene.at_rest() == [] and scene.problems() == []


@EITHER
@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"status": "failed", "error": {"code": -5, "message": "no luck"}}, None),
        ({"status": "failed", "error": {}}, -32603),
        ({"status": "cancelled"}, -32603),
        ({"status": "strange"}, -32603),
        ({"status": "input_required", "inputRequests": {"k": 5}}, -32603),
        ({"taskId": "another"}, -32603),
    ],
)
def test_a_driven_task_that_ends_badly_is_an_error(
    modern_client: bool, more: Message, code: int | None
) -> None:
    scene, server = one("http")
    made = driven(scene, modern_client).tool("task")
    scene.run(0.5)
    server.work.more = more
    scene.until(lambda: made.over, 20)
    assert made.code == (code or -5)
    assert scene.at_rest() == []


def test_a_task_that_its_server_forgot_is_an_error() -> None:
    scene, server = one("stdio")
    made = modern(scene).tool("task")
    scene.run(0.5)
    server.works.clear()
    scene.until(lambda: made.over, 20)
    assert made.code == -32603


@BOTH
@EITHER
def test_a_driven_task_outlives_its_connection(transport: str, modern_client: bool) -> None:
    """A task is durable (N3): it is asked for again, and the tool is not called again."""
    scene, server = one(transport)
    made = driven(scene, modern_client).tool("task")
    scene.run(5.0)
    server.crash()
    scene.run(5.0)
    server.delays["tasks/get"] = 1.0
    scene.until(lambda: any(talk.live for talk in server.talks if not talk.over), 30)
    scene.until(
        lambda: any(job.method == "tasks/get" for talk in server.talks for job in talk.live.values()), 30
    )
    server.crash()
    server.work.complete()
    scene.until(lambda: made.over, 60)
    assert made.text == made.nonce
    assert len(server.asked("tools/call")) == 1
    assert scene.at_rest() == []


def test_a_driven_task_is_given_up_when_its_server_stays_away() -> None:
    scene, server = one("http")
    made = modern(scene).tool("task")
    scene.run(1.0)
    server.up = False
    server.crash()
    scene.until(lambda: made.over, 120)
    assert made.code == -32603
    scene.run(60.0)
    assert scene.at_rest() == []


@EITHER
def test_without_driving_the_server_answers_as_it_does_without_tasks(modern_client: bool) -> None:
    """L22: not declared, it answers at once, or says what it needs."""
    scene, server = one("http", drive_tasks=False)
    client = driven(scene, modern_client)
    assert call(scene, client, "task").text
    assert TASKS not in str(server.asked("tools/call"))
    server.insists = True
    refused = call(scene, client, "task")
    assert refused.code == (-32021 if modern_client else -32603)
    assert TASKS in refused.error["message"]
    assert server.works == {}


def test_an_orphaned_task_is_cancelled() -> None:
    """The call was cancelled while its answer, a task, was on the way."""
    scene, server = one("stdio")
    client = modern(scene)
    server.delays["tools/call"] = 0.0
    made = client.tool("task")
    scene.net.faults = scene.net.faults
    scene.until(lambda: server.works, 5)
    client.cancel(made)
    scene.run(5.0)
    assert server.work.cancels == 1
    assert scene.at_rest() == []


@EITHER
def test_a_stopping_gateway_does_not_wait_for_driven_tasks(modern_client: bool) -> None:
    scene, server = one("stdio")
    made = driven(scene, modern_client).tool("task")
    scene.run(3.0)
    scene.world.feed("shutdown", 0.0)
    scene.until(lambda: scene.world.stopped, 30)
    assert made.answers <= 1 and len(server.asked("tools/call")) == 1


def test_a_server_that_turns_legacy_is_not_asked_for_its_tasks() -> None:
    """L1.10: the tool is never run again in silence, and a legacy server has no such task."""
    scene, server = one("stdio", limits=msgspec.structs.replace(FAST, request_state_ttl_s=1e6))
    client = modern(scene, {**WITH_TASKS, **FORM})
    id = call(scene, client, "task").result["taskId"]
    server.eras = ("legacy",)
    server.crash()
    scene.run(120.0)
    assert ask(scene, client, "tasks/get", taskId=id).code in (-32601, -32602, -32603)
    assert server.asked("tasks/get") == []
