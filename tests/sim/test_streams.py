"""Event streams of legacy clients: replay, the session's stream, batches, comments, and the end of sessions.

Must never: let a client of the simulation resume by a way that a real one has not (GET and Last-Event-ID).
"""

from __future__ import annotations

import json

import msgspec
import pytest

from fuzz.sim.clients import Call
from fuzz.sim.http_clients import LegacyHttp, Wire
from fuzz.sim.scene import FAST, Scene
from fuzz.sim.talk import Job, text

LEGACY, MODERN = ("legacy",), ("modern",)


def one(eras: tuple[str, ...] = LEGACY, **limits: float) -> Scene:
    return Scene({"one": ("stdio", eras)}, limits=msgspec.structs.replace(FAST, **limits)).start()


def values(call: Call) -> list[int]:
    return [note["params"]["progress"] for _, note in call.notes if "progress" in note["method"]]


def resume(scene: Scene, client: LegacyHttp, call: Call, last_id: str) -> Wire:
    wire = client.listen(last_id, call=call)
    scene.run(0.1)
    return wire


@pytest.mark.parametrize("eras", [LEGACY, MODERN], ids=["legacy", "modern"])
def test_a_broken_answer_stream_is_resumed_where_it_broke(eras: tuple[str, ...]) -> None:
    """C32, C33: nothing is lost and nothing comes twice."""
    scene = one(eras)
    client = scene.legacy()
    call = client.tool("slow", token="t", steps=6, every=1.0)
    scene.until(lambda: len(values(call)) == 2, 20)
    last = call.event_ids[-1]
    client.vanish(call)
    scene.run(2.5)
    assert values(call) == [1, 2]
    resume(scene, client, call, last)
    assert values(call) == [1, 2, 3, 4]
    scene.run(5.0)
    assert values(call) == [1, 2, 3, 4, 5, 6]
    assert call.text == call.nonce
    assert scene.only.answered == 1
    assert scene.problems() == []


def test_a_finished_stream_can_be_resumed_for_a_while() -> None:
    scene = one(replay_ttl_s=60.0)
    client = scene.legacy()
    call = client.tool("slow", token="t", steps=3, every=0.5)
    scene.until(lambda: values(call), 20)
    last = call.event_ids[-1]
    client.vanish(call)
    scene.run(20.0)
    assert scene.only.answered == 1
    resume(scene, client, call, last)
    assert call.text == call.nonce
    assert values(call) == [1, 2, 3]
    assert call.answers == 1


def test_what_was_replayed_ends_with_the_stream() -> None:
    """A response that carries the rest of a finished stream is over after it."""
    scene = one()
    client = scene.legacy()
    call = client.tool("slow", token="t", steps=2, every=0.5)
    scene.until(lambda: values(call), 20)
    last = call.event_ids[-1]
    client.vanish(call)
    scene.run(10.0)
    wire = resume(scene, client, call, last)
    assert not wire.busy


def test_only_the_events_of_the_same_stream_are_replayed() -> None:
    """C33."""
    scene = one()
    client = scene.legacy()
    client.listen()
    first = client.tool("slow", token=1, steps=4, every=1.0)
    second = client.tool("slow", token=2, steps=4, every=1.0)
    scene.until(lambda: values(first) and values(second), 20)
    last = first.event_ids[-1]
    client.vanish(first)
    scene.only.changed("tools")
    scene.run(8.0)
    resume(scene, client, first, last)
    assert {note["params"].get("progressToken") for _, note in first.notes} == {1}
    assert first.text == first.nonce and second.text == second.nonce
    ids = [*first.event_ids, *second.event_ids]
    assert len(set(first.event_ids) & set(second.event_ids)) == 0 and ids


@pytest.mark.parametrize("last_id", ["99-1", "0-77", "x", "", "1", "1-1-1", "-1", "9" * 40 + "-1"])
def test_an_event_id_that_names_nothing_is_refused(last_id: str) -> None:
    scene = one()
    client = scene.legacy()
    wire = client.wire()
    call = Call(client, 1, "GET", {})
    headers = [("Accept", "text/event-stream"), *client._base(), ("Last-Event-ID", last_id)]
    wire.send("GET", headers, None, call)
    scene.run(0.1)
    assert wire.status in (400, 404)


def test_another_sessions_event_id_replays_nothing() -> None:
    scene = one()
    mine, other = scene.legacy(), scene.legacy()
    call = mine.tool("slow", token="t", steps=3, every=0.5)
    scene.until(lambda: values(call), 20)
    stolen = Call(other, 1, "GET", {})
    other.listen(call.event_ids[-1], call=stolen)
    scene.run(10.0)
    assert not stolen.notes and stolen.code is not None
    assert call.text == call.nonce


def test_the_sessions_own_stream_is_resumed_without_loss() -> None:
    scene = one()
    client = scene.legacy()
    wire = client.listen()
    scene.run(0.1)
    scene.only.changed("tools")
    scene.run(1.0)
    last = [event.id for event in client.main if event.id][-1]
    wire.close()
    scene.run(1.0)
    scene.only.changed("tools")
    scene.run(1.0)
    again = client.listen(last)
    scene.run(1.0)
    assert again.status == 200
    assert [note["method"] for _, note in client.notes] == ["notifications/tools/list_changed"] * 2


def test_a_second_stream_of_a_session_is_refused() -> None:
    """C31: each message goes to one stream; a second one must not take it over unseen."""
    scene = one()
    client = scene.legacy()
    first = client.listen()
    scene.run(0.1)
    second = client.listen()
    scene.run(0.1)
    assert (first.status, second.status) == (200, 409)
    scene.only.changed("tools")
    scene.run(1.0)
    assert len(client.notes) == 1 and not first.dead


def test_delete_ends_a_session() -> None:
    scene = one()
    client = scene.legacy()
    stream = client.listen()
    scene.run(0.1)
    wire = client.delete()
    scene.run(0.1)
    assert wire.status in (200, 204)
    assert not stream.busy, "its stream ends with it"
    late = scene.done(client.request("tools/list"))
    assert late.status == 404, "so that the client initializes again"
    again = client.delete()
    scene.run(0.1)
    assert again.status == 404
    assert scene.world.snapshot().sessions == 0


@pytest.mark.parametrize("accept", ["application/json, text/event-stream", "application/json"])
def test_a_batch_is_answered_as_a_whole(accept: str) -> None:
    """A9, L24: requests, notifications and a malformed one in one body; each request gets its answer."""
    scene = one()
    client = scene.legacy(version="2025-03-26")
    client.accept = accept
    wire = client.wire()
    ids = []
    got: dict[object, dict[str, object]] = {}
    client.plain_message = lambda wire, message: got.__setitem__(message.get("id"), message)  # type: ignore[method-assign]
    client.stream_message = client.plain_message  # type: ignore[method-assign]
    batch: list[object] = []
    for number, (tool, wait) in enumerate((("echo", 2.0), ("slow", 0.0), ("fail", 0.0), ("echo", 0.0))):
        params = {"name": tool, "arguments": {"nonce": f"n{number}", "after": wait, "steps": 1, "every": 0.5}}
        batch.append({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params})
        ids.append(number)
    batch.insert(1, {"jsonrpc": "2.0", "method": "notifications/initialized"})
    batch.append({"jsonrpc": "2.0", "id": "p", "method": "ping"})
    batch.append(17)
    client.post(batch, client._base(), None)
    scene.run(10.0)
    assert set(got) == {*ids, "p", None}
    assert [got[number]["result"]["content"][0]["text"] for number in (0, 1, 3)] == ["n0", "n1", "n3"]  # type: ignore[index]
    assert got[2]["error"] and got["p"]["result"] == {}
    assert got[None]["error"]["code"] == -32600  # type: ignore[index]
    assert not wire.busy


@pytest.mark.parametrize("version", ["2025-06-18", "2025-11-25"])
def test_later_revisions_have_no_batches(version: str) -> None:
    scene = one()
    client = scene.legacy(version=version)
    wire = client.post([{"jsonrpc": "2.0", "id": 1, "method": "ping"}], client._base(), None)
    scene.run(0.1)
    assert wire.status == 400


@pytest.mark.parametrize("body", [[], [{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}]])
def test_an_empty_batch_and_one_with_initialize_are_refused(body: list[object]) -> None:
    """A9."""
    scene = one()
    client = scene.legacy(version="2025-03-26")
    told: list[dict[str, object]] = []
    client.plain_message = lambda wire, message: told.append(message)  # type: ignore[method-assign]
    client.post(body, client._base(), None)
    scene.run(1.0)
    assert len(told) == 1 and "error" in told[0]
    assert scene.world.snapshot().sessions == 1


def test_a_batch_of_answers_is_accepted() -> None:
    scene = one()

    def where(job: Job) -> None:
        job.ask("roots/list", {}, lambda told: job.answer(text(told["result"]["roots"][0]["uri"])))

    scene.only.script("where", where)
    client = scene.legacy(version="2025-03-26", capabilities={"roots": {}})
    client.answer_after = None
    calls = [client.tool("where"), client.tool("where")]
    scene.until(lambda: len(client.questions) == 2, 10)
    told = [
        {"jsonrpc": "2.0", "id": question["id"], "result": {"roots": [{"uri": f"file:///{number}"}]}}
        for number, question in enumerate(client.questions)
    ]
    wire = client.post(told, client._base(), None)
    scene.done(*calls)
    assert wire.status == 202
    assert [call.text for call in calls] == ["file:///0", "file:///1"]


@pytest.mark.parametrize("version", ["2025-03-26", "2025-06-18", "2025-11-25"])
def test_only_the_newest_legacy_revision_has_priming_events(version: str) -> None:
    """C34: older clients choke on empty data."""
    scene = one()
    client = scene.legacy(version=version)
    client.listen()
    scene.run(0.1)
    primed = [event for event in client.main if event.data == b""]
    assert bool(primed) is (version == "2025-11-25")
    assert all(event.id for event in primed)


@pytest.mark.parametrize("what", ["call of a legacy client", "call of a modern client", "stream", "listen"])
def test_quiet_streams_have_a_comment_every_fifteen_seconds(what: str) -> None:
    scene = Scene({"one": ("stdio", LEGACY)}, options={"one": {"timeout": 300.0}}).start()
    at: list[float] = []
    if what == "stream":
        client = scene.legacy()
        wire = client.listen()
        wire.on_event = lambda event: at.append(scene.world.now)
    else:
        client_of = scene.modern() if what != "call of a legacy client" else scene.legacy()
        if what == "listen":
            call = client_of.request("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
        else:
            call = client_of.tool("silent")
        at = call.comments
    began = scene.world.now
    scene.run(130.0)
    moments = [began, *at, scene.world.now]
    gaps = [later - earlier for earlier, later in zip(moments, moments[1:], strict=False)]
    assert len(at) >= 7
    # A call's response may be uncommitted at first, so that mandated statuses stay possible (C14).
    assert max(gaps) <= FAST.sse_comment_s + FAST.sse_commit_s + 0.1
    assert max(gaps[1:]) <= FAST.sse_comment_s + 0.1


def test_a_busy_stream_has_no_comments() -> None:
    scene = one()
    client = scene.legacy()
    call = client.tool("slow", token="t", steps=60, every=1.0)
    scene.done(call, within=90)
    assert call.comments == [] and len(values(call)) == 60


def test_a_refusal_of_a_call_still_has_its_status() -> None:
    """C14: no stream is begun before the verdict is known."""
    scene = one(MODERN)
    client = scene.modern()
    call = scene.done(client.request("tools/nothing"))
    assert (call.status, call.code) == (404, -32601)
    quick = scene.done(client.tool("echo"))
    assert quick.headers["content-type"] == "application/json"
    assert json.dumps(quick.result)
