"""Defects that simulation has found, each in its smallest form. One that is still there carries a strict mark
with its place and cause; a repaired one loses the mark and stays as a test.

Must never: keep a mark on what works.
"""

from __future__ import annotations

import random

import msgspec
import pytest

from fuzz.sim.clients import FORM, LegacyPipe, PipeClient
from fuzz.sim.scene import FAST, Scene
from fuzz.sim.servers import HttpConn
from fuzz.sim.streams import Faults
from fuzz.sim.talk import Job
from fuzz.sim.world import World
from mcpgate_proto.effects import Address, Peer
from mcpgate_proto.errors import LocalProtocolError

LEGACY, MODERN, DUAL = ("legacy",), ("modern",), ("legacy", "modern")


def test_a_question_of_a_cancelled_call_never_goes_to_the_next_client() -> None:
    scene = Scene({"one": ("stdio", LEGACY)}).start()
    scene.only.delays["tools/call"] = 0.5
    first, second = scene.modern(capabilities=FORM), scene.modern(capabilities=FORM)
    asked = first.tool("ask")
    scene.until(lambda: scene.only.calls, 5)
    waiting = second.tool("slow", steps=3, every=1.0)
    scene.net.faults = msgspec.structs.replace(scene.net.faults, delay=(0.6, 0.6))
    for stream in scene.net.streams.values():
        if stream.child:
            stream.faults = scene.net.faults  # a busy server reads its input late
    first.cancel(asked)
    scene.run(20.0)
    assert waiting.settled
    assert not second.questions
    assert scene.problems() == []


def test_a_modern_client_that_leaves_while_its_call_is_being_routed_starts_nothing() -> None:
    """C24, I6."""
    scene = Scene({"one": ("stdio", MODERN)}).start()
    scene.only.delays["tools/list"] = 1.0
    client = scene.modern()
    call = client.tool("echo")
    scene.run(0.5)
    client.vanish(call)
    scene.run(5.0)
    assert scene.only.calls == []


def test_a_modern_call_on_a_pipe_can_be_cancelled_while_it_is_being_routed() -> None:
    """B9, G23."""
    scene = Scene({"one": ("stdio", MODERN)}, listeners=("http", "stdio")).start()
    scene.only.delays["tools/list"] = 1.0
    client = scene.modern_pipe()
    call = client.tool("echo")
    scene.run(0.5)
    client.cancel(call)
    scene.run(5.0)
    assert scene.only.calls == []
    assert call.answer is None


def test_a_legacy_call_can_be_cancelled_while_it_is_being_routed() -> None:
    scene = Scene({"one": ("stdio", LEGACY)}).start()
    client = scene.legacy()
    scene.only.delays["tools/list"] = 1.0
    call = client.tool("echo")
    scene.run(0.5)
    client.cancel(call)
    scene.run(5.0)
    assert scene.only.calls == []
    assert call.over, "the response has to end (G25)"


def test_a_call_that_is_being_routed_ends_with_its_session() -> None:
    """I1: the session is deleted while a call of it waits for a list."""
    scene = Scene({"one": ("stdio", LEGACY)}).start()
    client = scene.legacy()
    scene.only.delays["tools/list"] = 1.0
    call = client.tool("echo")
    scene.run(0.5)
    client.delete()
    scene.run(60.0)
    assert call.over


def test_timers_go_on_with_time() -> None:
    """A timer is never armed again for the very instant at which it fires."""
    scene = Scene({"one": ("stdio", LEGACY)}).start()
    scene.world.nudge = False
    client = scene.legacy()
    client.listen()
    draw = random.Random(7)
    for _ in range(300):
        scene.run(draw.uniform(0.1, 14.0))
        scene.only.changed("tools")
        scene.run(draw.uniform(16.0, 40.0))


def test_a_refused_modern_probe_does_not_make_a_server_one_of_2024() -> None:
    """F13: only a refused `initialize` hints at HTTP+SSE, and never for a server that has answered one."""
    scene = Scene({"one": ("http", LEGACY)})
    model = scene.only
    model.delays["initialize"] = 0.1
    taken = 0

    def some() -> HttpConn | None:
        nonlocal taken
        taken += 1
        return model.connection() if taken == 1 or scene.world.elapsed > 0.05 else None

    scene.net.services["127.0.0.1", 9001] = some
    scene.start()
    client = scene.modern()
    client.tool("echo")
    scene.run(2.0)
    client.tool("echo")
    scene.run(60.0)
    call = client.tool("echo")
    scene.until(lambda: call.settled, 30)
    assert scene.world.logged("server_http_sse") == []
    assert call.text == call.nonce


def test_a_closing_connection_whose_peer_takes_nothing_is_dropped() -> None:
    scene = Scene({"one": ("stdio", LEGACY)}, listeners=("stdio",)).start()
    client = scene.legacy_pipe()
    client.stream.read(False)
    for _ in range(5):
        client.tool("big", size=100_000)
    scene.run(2.0)
    client.leave()
    scene.until(lambda: scene.world.stopped, 120, "Stopped")


def test_a_dial_that_is_given_up_does_not_disturb_the_next_one() -> None:
    """Two addresses, the first of which swallows everything."""
    limits = msgspec.structs.replace(FAST, dial_timeout_s=1.0)
    scene = Scene({"one": ("http", LEGACY)}, host="tools.example", limits=limits).start()
    scene.net.names["tools.example"] = ["10.0.0.1", "127.0.0.1"]
    scene.net.black_holes["10.0.0.1"] = None
    client = scene.legacy()
    scene.run(60.0)
    call = client.tool("echo")
    scene.until(lambda: call.settled, 60)
    assert call.text == call.nonce


def test_a_call_that_is_throttled_while_its_connection_is_dialled_stays_throttled() -> None:
    """Backpressure: what a runner is told of a connection that is not up yet is lost."""
    limits = msgspec.structs.replace(FAST, unsent_high_bytes=4_000, unsent_low_bytes=1_000)
    scene = Scene({"one": ("http", MODERN)}, limits=limits, listeners=("http", "stdio")).start()
    client = scene.modern_pipe()
    warm = client.tool("echo")
    scene.until(lambda: warm.settled, 10)
    client.stream.read(False)
    for _ in range(3):
        client.tool("big", size=30_000)
    scene.run(0.5)
    scene.net.faults = msgspec.structs.replace(scene.net.faults, delay=(0.2, 0.2))
    for _ in range(6):
        client.tool("big", size=30_000)
    scene.run(5.0)  # the network of the scene refuses a pause of what is not open
    assert scene.problems() == []


def test_a_server_over_http_that_was_down_at_the_start_is_probed_again() -> None:
    """D16, F17: no connection teaches nothing of its era."""
    scene = Scene({"one": ("http", MODERN)})
    scene.only.up = False
    scene.only.names_versions = False
    scene.start()
    scene.run(10.0)
    assert scene.world.logged("server_era") == []
    scene.only.up = True
    scene.run(60.0)
    client = scene.modern()
    call = client.tool("echo")
    scene.until(lambda: call.settled, 60)
    assert call.text == call.nonce


def test_a_server_that_never_acknowledges_notifications_does_not_use_up_the_connections() -> None:
    scene = Scene({"one": ("http", LEGACY)}).start()
    client = scene.legacy()
    scene.only.never_acknowledges = True
    for _ in range(70):
        call = client.tool("silent")
        scene.run(0.1)
        client.cancel(call)
        scene.run(0.1)
    scene.run(300.0)
    call = client.tool("echo")
    scene.until(lambda: call.settled, 40)
    assert call.text == call.nonce


@pytest.mark.parametrize("eras", [LEGACY, MODERN], ids=["legacy", "modern"])
def test_a_server_that_leaves_its_answer_streams_open_does_not_use_up_the_connections(
    eras: tuple[str, ...],
) -> None:
    scene = Scene({"one": ("http", eras)}).start()
    scene.only.streams_answers = True
    client = scene.modern()
    call = client.tool("echo")
    scene.until(lambda: call.settled, 10)
    scene.only.leaves_streams_open = True
    for _ in range(70):
        call = client.tool("echo")
        scene.until(lambda c=call: c.settled, 60)  # type: ignore[misc]
    scene.run(60.0)
    call = client.tool("echo")
    scene.until(lambda: call.settled, 60)
    assert call.text == call.nonce


def test_a_listen_is_acknowledged_though_the_server_dies_before_it_says_so() -> None:
    """G15: parked for ever otherwise."""
    scene = Scene({"one": ("stdio", MODERN)})
    scene.only.resources = ("res://a",)
    scene.start()
    client = scene.modern()
    call = client.request("resources/read", {"uri": "res://a"})
    scene.until(lambda: call.settled, 10)
    scene.only.mute["subscriptions/listen"] = None
    heard = client.request("subscriptions/listen", {"notifications": {"resourceSubscriptions": ["res://a"]}})
    scene.run(1.0)
    scene.only.crash()
    scene.run(120.0)
    assert heard.notes, "nothing acknowledged"


def test_a_listen_is_acknowledged_though_the_server_never_says_so() -> None:
    scene = Scene({"one": ("stdio", MODERN)})
    scene.only.resources = ("res://a",)
    scene.only.mute["subscriptions/listen"] = None
    scene.start()
    client = scene.modern()
    heard = client.request("subscriptions/listen", {"notifications": {"resourceSubscriptions": ["res://a"]}})
    scene.run(120.0)
    assert heard.notes, "nothing acknowledged"


@pytest.mark.parametrize("eras", [LEGACY, MODERN], ids=["legacy", "modern"])
def test_a_watched_resource_is_watched_again_after_the_server_was_restarted(eras: tuple[str, ...]) -> None:
    scene = Scene({"one": ("stdio", eras)})
    scene.only.resources = ("res://a",)
    scene.start()
    client = scene.legacy()
    client.listen()
    told = client.request("resources/subscribe", {"uri": "res://a"})
    scene.until(lambda: told.settled, 10)
    scene.only.crash()
    scene.run(30.0)
    scene.only.updated("res://a")
    scene.run(2.0)
    assert [note["method"] for _, note in client.notes].count("notifications/resources/updated") == 1


def test_a_reload_that_removes_a_watched_server_breaks_nobody() -> None:
    scene = Scene({"one": ("stdio", LEGACY), "two": ("stdio", LEGACY)})
    scene["one"].resources = ("res://a",)
    scene.start()
    client, other = scene.legacy(), scene.modern()
    told = client.request("resources/subscribe", {"uri": "res://a"})
    heard = other.request("subscriptions/listen", {"notifications": {"resourceSubscriptions": ["res://a"]}})
    scene.until(lambda: told.settled and heard.notes, 10)
    scene.world.feed("reload", msgspec.structs.replace(scene.config, servers=scene.config.servers[1:]))
    gone = client.request("resources/unsubscribe", {"uri": "res://a"})
    other.vanish(heard)
    scene.run(5.0)
    assert gone.settled


def test_a_reload_that_removes_a_server_answers_what_is_being_routed_to_it() -> None:
    scene = Scene({"one": ("stdio", LEGACY), "two": ("stdio", LEGACY)}).start()
    client = scene.legacy()
    scene["one"].delays["tools/list"] = 2.0
    call = client.tool("one__echo")
    scene.run(0.5)
    scene.world.feed("reload", msgspec.structs.replace(scene.config, servers=scene.config.servers[1:]))
    scene.run(60.0)
    assert call.over


def test_a_client_whose_first_initialize_was_malformed_can_still_initialize() -> None:
    scene = Scene({"one": ("stdio", LEGACY)}, listeners=("stdio",)).start()
    client = LegacyPipe(scene.world, "c1")
    PipeClient.open(client)
    wrong = client.request("initialize", {"capabilities": {}})
    right = client.initialize()
    scene.run(20.0)
    assert wrong.code == -32602
    assert right.answer is not None and "result" in right.answer


def test_a_client_is_not_let_in_before_the_gateway_has_started() -> None:
    """The contract: nothing may be spawned or dialled before `started`, so nobody comes in before it."""
    world = World(Scene({"one": ("stdio", LEGACY)}).config)
    gateway = world.gateway
    gateway.effects()
    gateway.listening(world.now, "http", Address(host="127.0.0.1", port=8080))
    with pytest.raises(LocalProtocolError):
        gateway.accepted(world.now, "http", Peer(kind="tcp"))


def test_shutdown_does_not_wait_for_an_idle_get_stream() -> None:
    scene = Scene({"one": ("stdio", LEGACY)}).start()
    client = scene.legacy()
    client.listen()
    scene.run(1.0)
    begun = scene.world.now
    scene.world.feed("shutdown", 25.0)
    scene.until(lambda: scene.world.stopped, 60, "Stopped")
    assert scene.world.now - begun < 10.0


def test_a_legacy_client_that_stopped_reading_and_left_does_not_stall_its_call() -> None:
    """C32: the work goes on, so its server must be read again."""
    limits = msgspec.structs.replace(FAST, unsent_high_bytes=10_000, unsent_low_bytes=1_000)
    scene = Scene({"one": ("stdio", LEGACY)}, limits=limits, options={"one": {"timeout": 10.0}}).start()
    client = scene.legacy()
    call = client.tool("slow", token="t" * 2000, steps=60, every=0.1)
    scene.until(lambda: call.notes, 10)
    assert call.wire is not None
    call.wire.stream.read(False)
    scene.run(5.0)
    client.vanish(call)
    scene.run(60.0)
    assert scene.only.answered == 1
    child = next(stream for stream in scene.net.streams.values() if stream.child)
    assert not child.paused
    assert scene.world.snapshot().counters.get("calls_timed_out", 0) == 0


def test_upstream_sessions_are_deleted_when_the_gateway_stops() -> None:
    """D10."""
    scene = Scene({"one": ("http", LEGACY)}).start()
    scene.legacy()
    scene.world.feed("shutdown", 0.0)
    scene.until(lambda: scene.world.stopped, 60, "Stopped")
    minted = scene.only.seen("initialize")
    assert [method for method, _, _ in scene.only.requests].count("DELETE") == minted >= 1


def test_reading_the_session_stream_again_does_not_repeat_what_was_delivered() -> None:
    """C31: each message goes to one stream, once; only Last-Event-ID asks for a repetition."""
    scene = Scene({"one": ("stdio", LEGACY)}).start()
    client = scene.legacy()
    wire = client.listen()
    scene.run(0.5)
    scene.only.changed("tools")
    scene.run(1.0)
    assert len(client.notes) == 1
    wire.close()
    scene.run(1.0)
    client.listen()
    scene.run(1.0)
    assert len(client.notes) == 1


def test_a_server_that_cannot_be_asked_does_not_delay_the_resources_of_others() -> None:
    """A dead server breaks only itself."""
    scene = Scene({"sick": ("stdio", LEGACY), "well": ("stdio", LEGACY)})
    scene["well"].templates = ("doc://{name}",)
    scene["sick"].resources = ("res://sick",)
    scene["sick"].mute["resources/list"] = None
    scene.start()
    client = scene.legacy()
    read = client.request("resources/read", {"uri": "doc://x"})
    scene.until(lambda: read.settled, 120)
    assert read.took <= FAST.startup_wait_s + 0.5


def test_a_question_to_a_client_that_takes_no_stream_is_refused() -> None:
    """It cannot be put to it, so the call must not be parked on it."""
    scene = Scene({"one": ("http", LEGACY)}).start()
    client = scene.legacy(capabilities=FORM)
    client.accept = "application/json"
    call = client.tool("ask")
    scene.until(lambda: call.settled, 60)
    assert call.text == f"{call.nonce}|refused"


def test_a_call_continued_after_its_server_died_fails_at_once() -> None:
    """L2: a legacy client's answer to a modern server that has died meanwhile."""
    scene = Scene({"one": ("stdio", MODERN)}).start()
    client = scene.legacy(capabilities=FORM)
    client.answer_after = 5.0
    call = client.tool("ask")
    scene.until(lambda: client.questions, 10)
    scene.only.crash()
    scene.until(lambda: call.settled, 60)
    assert call.took < 12.0, "it hung until the clock of the call ran out"


def test_exit_news_before_the_last_answer_does_not_lose_the_answer() -> None:
    scene = Scene({"one": ("stdio", LEGACY)}).start()
    client = scene.legacy()
    warm = client.tool("echo")
    scene.until(lambda: warm.settled, 10)
    for stream in scene.net.streams.values():
        stream.faults = Faults(exit_first=1.0, delay=(0.01, 0.01))
    call = client.tool("echo")
    process = scene.only.processes[-1]
    scene.until(lambda: scene.only.job(call.nonce) and scene.only.job(call.nonce).done, 10)  # type: ignore[union-attr]
    process.exit(0)
    scene.until(lambda: call.settled, 10)
    assert call.text == call.nonce


def test_a_cancelled_call_whose_request_was_not_sent_yet_is_not_sent() -> None:
    """I6: over HTTP the cancellation would overtake the request, and the server carry it out."""
    scene = Scene({"one": ("http", LEGACY)}, listeners=("http", "stdio")).start()
    client = scene.legacy_pipe()
    scene.only.tools = ("echo", "silent")
    warm = client.tool("silent")
    scene.run(10.0)  # the pool's idle connections are retired meanwhile
    assert not warm.settled
    scene.net.faults = msgspec.structs.replace(scene.net.faults, delay=(1.0, 1.0))
    call = client.tool("echo")
    scene.run(0.1)
    client.cancel(call)
    scene.run(10.0)
    assert [job.nonce for job in scene.only.calls] == [warm.nonce]


def test_a_launcher_starts_once_though_somebody_waits_for_it() -> None:
    """Probed eras are remembered, and the probe's process becomes the first session."""
    scene = Scene({"one": ("stdio", LEGACY)}).start()
    clients = [scene.modern() for _ in range(3)]
    scene.done(*[client.tool("echo") for client in clients])
    assert len(scene.net.spawned) == 1


def test_a_crash_of_a_server_with_two_sessions_is_one_failure() -> None:
    """The first failure may be an accident: callers wait for the restart."""
    scene = Scene({"one": ("stdio", LEGACY)}, listeners=("http", "stdio")).start()
    scene.run(1.0)
    pipe, client = scene.legacy_pipe(), scene.legacy()
    scene.done(pipe.tool("echo"), client.tool("echo"))
    scene.only.crash()
    scene.run(0.1)
    call = scene.done(client.tool("echo"))
    assert call.text == call.nonce


def test_a_modern_server_whose_probe_was_late_comes_up_all_the_same() -> None:
    """F15, F16: taken for legacy, it refuses `initialize` as a modern server does."""
    scene = Scene({"one": ("stdio", MODERN)})
    scene.only.start_delay = FAST.probe_timeout_s + 3.0
    scene.start()
    scene.run(12.0)
    scene.only.start_delay = 0.0
    scene.run(120.0)
    assert scene.world.snapshot().servers[0].state == "connected"


def test_a_legacy_client_hears_of_a_server_once_it_is_known_to_be_modern_only() -> None:
    """Servers that come later appear by list_changed."""
    scene = Scene({"slow": ("stdio", MODERN), "quick": ("stdio", MODERN)}).start()
    scene.run(1.0)
    scene["slow"].start_delay = 8.0  # the trial of the other era takes as long as a start
    client = scene.legacy()
    client.listen()
    scene.done(client.request("tools/list"))
    before = len(client.notes)
    scene.run(60.0)
    assert "notifications/tools/list_changed" in [note["method"] for _, note in client.notes[before:]]


def test_each_question_of_a_cancelled_call_is_taken_back() -> None:
    """L2.5: the client cancels its call while it is being asked twice."""

    def quiz(job: Job) -> None:
        params = {"mode": "form", "message": "?", "requestedSchema": {"type": "object", "properties": {}}}
        job.want({key: {"method": "elicitation/create", "params": params} for key in "ab"}, "state")

    scene = Scene({"one": ("stdio", MODERN)}, listeners=("http", "stdio")).start()
    scene.only.script("quiz", quiz)
    client = scene.legacy_pipe(capabilities=FORM)
    client.answer_after = None
    call = client.tool("quiz")
    scene.until(lambda: len(client.questions) == 2, 10)
    client.cancel(call)
    scene.run(1.0)
    taken = [note["params"]["requestId"] for _, note in client.notes if note["method"].endswith("cancelled")]
    assert sorted(taken) == sorted(question["id"] for question in client.questions)


def test_a_question_that_comes_long_after_its_call_was_cancelled_goes_to_nobody() -> None:
    """L0.4: where it is not certain whose a question is, it is refused. A slow pipe is enough for that."""
    scene = Scene({"one": ("stdio", LEGACY)}).start()
    question = {"message": "for the first", "requestedSchema": {"type": "object", "properties": {}}}

    def late(job: Job) -> None:
        def ask() -> None:
            job.ask("elicitation/create", question)

        scene.world.after(FAST.lease_wait_s + 5.0, ask)  # it does not heed the cancellation

    scene.only.script("late", late)
    first, second = scene.modern(capabilities=FORM), scene.modern(capabilities=FORM)
    call = first.tool("late")
    scene.until(lambda: scene.only.calls, 10)
    first.cancel(call)
    scene.run(FAST.lease_wait_s + 1.0)
    second.tool("slow", token="t", steps=20, every=1.0)
    scene.run(15.0)
    assert second.questions == []


def test_a_cancelled_call_whose_post_was_not_sent_yet_is_not_sent() -> None:
    """I6, over HTTP+SSE."""
    scene = Scene({"one": ("sse", LEGACY)}, listeners=("http", "stdio")).start()
    client = scene.legacy_pipe()
    warm = client.tool("silent")
    scene.run(10.0)  # the pool's idle connections are retired meanwhile
    assert not warm.settled
    scene.net.faults = msgspec.structs.replace(scene.net.faults, delay=(1.0, 1.0))
    call = client.tool("echo")
    scene.run(0.1)
    client.cancel(call)
    scene.run(10.0)
    assert [job.nonce for job in scene.only.calls] == [warm.nonce]
