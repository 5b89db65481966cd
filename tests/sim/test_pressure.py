"""Backpressure: a client that does not read pauses what feeds it, disturbs nobody else, and is dropped at the
bound; a server that does not read likewise.

Must never: let bytes pile up unseen: what is queued is counted by the network of the simulation.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from fuzz.sim.clients import Client
from fuzz.sim.http_clients import HttpClient
from fuzz.sim.scene import FAST, Scene
from fuzz.sim.talk import Job

LEGACY, MODERN = ("legacy",), ("modern",)
ERAS = pytest.mark.parametrize("eras", [LEGACY, MODERN], ids=["legacy", "modern"])
KB = 1024
LIMITS = msgspec.structs.replace(
    FAST,
    unsent_high_bytes=32 * KB,
    unsent_low_bytes=8 * KB,
    unsent_hard_bytes=256 * KB,
    message_bytes=512 * KB,
    unsent_stall_s=20.0,
)


def flood(size: int, every: float, steps: int) -> Callable[[Job], None]:
    """Progress with much text, for as long as the reader of the pipe takes it."""

    def act(job: Job) -> None:
        def step(number: int) -> None:
            if number > steps:
                job.say()
                return
            params = {"progressToken": job.token, "progress": number, "message": "x" * size}
            job.out({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
            job.later(every, lambda: step(number + 1))

        step(1)

    return act


def scene_of(transport: str, eras: tuple[str, ...], **limits: float) -> Scene:
    bounds = msgspec.structs.replace(LIMITS, **limits)
    scene = Scene(
        {"one": (transport, eras)},
        limits=bounds,
        listeners=("http", "stdio"),
        options={"one": {"timeout": 300.0}},
    ).start()
    scene.only.script("flood", flood(4 * KB, 0.01, 5000))
    scene.run(1.0)
    return scene


def feeding(scene: Scene) -> list[int]:
    """How often each stream to a server was paused."""
    streams = scene.net.streams.values()
    return [stream.pauses for stream in streams if stream.child or hasattr(stream.peer, "server")]


def deaf(client: Client) -> None:
    assert isinstance(client, HttpClient)
    for wire in client.wires:
        wire.stream.read(False)


@pytest.mark.parametrize("kind", ["legacy", "modern"])
@ERAS
def test_a_client_that_stops_reading_pauses_its_server_and_is_dropped(
    eras: tuple[str, ...], kind: str
) -> None:
    """Over HTTP upstream only the one response is paused, so nobody else's calls are."""
    scene = scene_of("http", eras)
    slow = scene.legacy() if kind == "legacy" else scene.modern()
    quick = scene.modern()
    call = slow.tool("flood", token="t")
    scene.until(lambda: call.notes, 10)
    deaf(slow)
    took = []
    for _ in range(20):
        other = scene.done(quick.tool("echo"))
        assert other.text == other.nonce
        took.append(other.took)
        scene.run(0.5)
    assert sum(feeding(scene)) >= 1, "what feeds it was never paused"
    assert max(took) < 0.1, "somebody else had to wait"
    scene.run(60.0)
    assert scene.world.snapshot().counters.get("dropped_stalled", 0) == 1
    assert call.closed or call.answer is None
    assert scene.net.most_unsent <= LIMITS.unsent_high_bytes + 64 * KB + LIMITS.unsent_low_bytes
    if kind == "modern":
        scene.run(10.0)
        assert scene.at_rest() == [], "C24: its call is cancelled"


def test_a_client_that_reads_again_gets_everything() -> None:
    scene = scene_of("http", MODERN)
    scene.only.script("short", flood(4 * KB, 0.01, 300))
    client = scene.modern()
    call = client.tool("short", token="t")
    scene.until(lambda: call.notes, 10)
    deaf(client)
    scene.run(10.0)
    assert sum(feeding(scene)) >= 1
    for wire in client.wires:
        wire.stream.read(True)
    scene.done(call)
    assert len(call.notes) == 300
    assert call.code is None


def test_a_shared_pipe_is_paused_only_for_so_long() -> None:
    """One pipe feeds all: the one who does not read is dropped, then the others go on."""
    scene = scene_of("stdio", MODERN, unsent_stall_s=5.0)
    slow, quick = scene.modern(), scene.modern()
    call = slow.tool("flood", token="t")
    scene.until(lambda: call.notes, 10)
    deaf(slow)
    scene.run(3.0)
    other = quick.tool("echo")
    scene.done(other, within=30)
    assert other.text == other.nonce
    assert other.took < 8.0
    assert scene.net.most_unsent <= 1024 * KB


def test_large_results_at_once_are_dropped_at_the_bound() -> None:
    """A client that sends calls and never reads: beyond the bound it is gone."""
    scene = scene_of("stdio", MODERN)
    client = scene.modern_pipe()
    scene.done(client.tool("echo"))
    other = scene.modern()
    client.stream.read(False)
    for _ in range(40):
        client.tool("big", size=100 * KB)
    scene.run(3.0)
    assert scene.done(other.tool("echo")).took < 8.0
    scene.run(60.0)
    counters = scene.world.snapshot().counters
    assert counters.get("dropped_stalled", 0) + counters.get("dropped_not_draining", 0) >= 1
    assert scene.net.most_unsent <= LIMITS.unsent_hard_bytes + LIMITS.message_bytes + KB


@ERAS
def test_a_server_that_does_not_read_is_not_sent_without_end(eras: tuple[str, ...]) -> None:
    scene = scene_of("stdio", eras)
    clients = [scene.legacy() for _ in range(30)]
    scene.done(clients[0].tool("echo"))
    for stream in scene.net.streams.values():
        if stream.child:
            stream.read(False)
    calls = [client.tool("echo", pad="y" * 60 * KB) for client in clients]
    scene.run(120.0)
    assert scene.net.most_unsent <= LIMITS.unsent_hard_bytes + LIMITS.message_bytes + KB
    assert all(call.over for call in calls), "nobody waits for ever"
    assert scene.at_rest() == []


def test_a_result_larger_than_the_marks_arrives_whole() -> None:
    scene = scene_of("stdio", MODERN)
    for client in (scene.legacy(), scene.modern(), scene.legacy_pipe()):
        call = scene.done(client.tool("big", size=400 * KB))
        assert len(call.result["pad"]) == 400 * KB


def test_a_message_beyond_the_limit_fails_only_its_call() -> None:
    scene = scene_of("http", MODERN)
    client, other = scene.modern(), scene.modern()
    waiting = other.tool("slow", steps=3, every=0.5)
    call = scene.done(client.tool("big", size=600 * KB))
    assert call.error["data"]["origin"] == "gateway"
    assert scene.done(waiting).text == waiting.nonce
