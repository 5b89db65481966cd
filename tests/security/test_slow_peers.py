"""Peers that are slow on purpose, or many of them at once: what they cost is bounded, and others are served
(threats.md sections 3 and 4; `limits.py`).

Must never: wait in real time, or judge by the connection alone: the gateway's accounts have to be even in the
end.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from fuzz.sim.scene import FAST, Scene
from fuzz.sim.sockets import frame
from tests.threats.raw import DUAL, HOST, MASK, Raw, body_of, call_of, post, serves, ws_open

KB = 1024
HEAD = f"POST /mcp HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"


def scene_of(**limits: Any) -> Scene:
    bounds = msgspec.structs.replace(FAST, **limits)
    listeners = ("http", "unix", "unix-2000")
    scene = Scene({"one": ("stdio", DUAL)}, limits=bounds, listeners=listeners, sockets=True).start()
    scene.run(1.0)
    return scene


def even(scene: Scene) -> bool:
    hub = scene.world.gateway._hub
    return hub.unread == sum(one.unread for one in hub.connections.values()) and hub.unsent == sum(
        one.unsent for one in hub.connections.values()
    )


def count(scene: Scene, name: str) -> int:
    return scene.world.snapshot().counters.get(name, 0)


# -- a message that trickles

LONG = json.dumps(body_of(name="echo", arguments={"pad": "x" * 20_000})).encode()


def trickle(scene: Scene, raw: Raw, data: bytes, rate_bytes_s: float, times: int) -> None:
    piece = int(rate_bytes_s / 2)
    for at in range(0, min(len(data), piece * times), piece):
        if not raw.ended:
            raw.send(data[at : at + piece], 0.5)


@pytest.mark.parametrize("kind", ["unix", "websocket"])
def test_a_message_that_trickles_ends_the_connection(kind: str) -> None:
    scene = scene_of()
    raw = ws_open(scene) if kind == "websocket" else Raw(scene, "unix-2000", "unix other")
    data = frame(1, LONG, MASK) if kind == "websocket" else LONG + b"\n"
    trickle(scene, raw, data, 100, 60)
    scene.run(1.0)
    assert raw.ended and count(scene, "slow_messages") == 1
    if kind == "websocket":
        assert raw.close_code == 1008
    else:
        assert raw.lines[-1]["error"]["code"] == -32600
    assert serves(scene) and even(scene)


@pytest.mark.parametrize("kind", ["unix", "websocket"])
def test_a_message_that_keeps_the_rate_is_waited_for(kind: str) -> None:
    """20 kB at 1.2 kB a second."""
    scene = scene_of()
    raw = ws_open(scene) if kind == "websocket" else Raw(scene, "unix-2000", "unix other")
    data = frame(1, LONG, MASK) if kind == "websocket" else LONG + b"\n"
    trickle(scene, raw, data, 1200, 100)
    scene.run(1.0)
    assert not raw.ended and count(scene, "slow_messages") == 0
    answers = raw.texts if kind == "websocket" else raw.lines
    assert len(answers) == 1 and "result" in answers[0]
    assert even(scene)


def test_each_message_has_its_own_time() -> None:
    """Small messages that are cut anywhere, one after the other for a minute: none of them is slow."""
    scene = scene_of()
    raw = Raw(scene, "unix-2000", "unix other")
    line = json.dumps(body_of(name="echo", arguments={})).encode() + b"\n"
    raw.send(line[:20], 0.5)
    for _ in range(120):
        raw.send(line[20:] + line[:20], 0.5)
    assert not raw.ended and len(raw.lines) == 120


def test_between_messages_there_is_all_the_time_in_the_world() -> None:
    scene = scene_of()
    raw = Raw(scene, "unix-2000", "unix other")
    raw.send(json.dumps(body_of(name="echo", arguments={})).encode() + b"\n", 600.0)
    assert not raw.ended


def test_a_person_may_type_on_the_own_socket() -> None:
    scene = scene_of()
    raw = Raw(scene, "unix", "unix")
    line = json.dumps(body_of(name="echo", arguments={})).encode() + b"\n"
    for at in range(0, len(line), 5):
        raw.send(line[at : at + 5], 1.0)
    assert len(raw.lines) == 1 and "result" in raw.lines[0]


# -- many messages that do not end


def test_together_large_messages_are_bounded_and_small_ones_pass() -> None:
    scene = scene_of(unread_all_bytes=200 * KB, unread_free_bytes=8 * KB)
    raws = [Raw(scene) for _ in range(5)]
    for raw in raws:
        raw.send(f"{HEAD}Content-Length: 90000\r\n\r\n".encode() + b"x" * 70 * KB, 0.1)
    statuses = [raw.statuses for raw in raws]
    assert statuses == [[], [], [503], [503], [503]]
    assert raws[2].last.headers["retry-after"] == "2"
    assert count(scene, "refused_memory") == 3
    assert serves(scene), "a small one has room"
    for raw in raws:
        if not raw.ended:
            raw.stream.close()
    scene.run(5.0)
    assert scene.world.snapshot().unread == 0 and even(scene)
    assert Raw(scene).send(post(b"x" * 150 * KB)).last.status == 400, "there is room again"


def test_small_messages_pass_however_many_there_are() -> None:
    scene = scene_of(unread_all_bytes=100 * KB, unread_free_bytes=8 * KB)
    raws = [
        Raw(scene).send(f"{HEAD}Content-Length: 9000\r\n\r\n".encode() + b"x" * 7 * KB, 0.01)
        for _ in range(30)
    ]
    assert scene.world.snapshot().unread > 200 * KB
    large = Raw(scene).send(f"{HEAD}Content-Length: 90000\r\n\r\n".encode() + b"x" * 20 * KB, 0.1)
    assert large.statuses == [503]
    assert serves(scene)
    assert not any(raw.ended or raw.responses for raw in raws)


@pytest.mark.parametrize("kind", ["unix", "websocket"])
def test_on_sockets_too(kind: str) -> None:
    scene = scene_of(unread_all_bytes=100 * KB, unread_free_bytes=8 * KB)
    data = frame(1, b"x" * 90 * KB, MASK)[: 80 * KB] if kind == "websocket" else b"x" * 80 * KB
    raws = [
        ws_open(scene) if kind == "websocket" else Raw(scene, "unix-2000", "unix other") for _ in range(2)
    ]
    for raw in raws:
        raw.send(data, 0.1)
    assert not raws[0].ended and raws[1].ended
    assert kind != "websocket" or raws[1].close_code == 1013
    assert serves(scene)
    raws[0].stream.close()
    scene.run(5.0)
    assert scene.world.snapshot().unread == 0 and even(scene)


def test_a_body_that_is_complete_weighs_nothing_any_more() -> None:
    scene = scene_of(unread_all_bytes=100 * KB, unread_free_bytes=1 * KB)
    raw = Raw(scene)
    for number in range(20):
        body = json.dumps(body_of(id=number, name="echo", arguments={"pad": "x" * 90 * KB})).encode()
        more = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", "echo")]
        raw.send(post(body, more))
        assert raw.last.status == 200
        assert scene.world.snapshot().unread == 0


# -- many readers that do not read


def test_together_readers_that_do_not_read_are_bounded() -> None:
    scene = scene_of(unsent_all_bytes=1000 * KB)
    deaf = []
    for number in range(8):
        raw = Raw(scene)
        raw.stream.read(False)
        raw.stream.send(call_of("big", id=number, size=250 * KB))
        scene.run(0.2)
        deaf.append(raw)
        assert scene.world.gateway._hub.unsent <= 1000 * KB
    assert count(scene, "dropped_over_budget") >= 3
    assert serves(scene) and even(scene)
    scene.run(60.0)
    assert count(scene, "dropped_stalled") + count(scene, "dropped_over_budget") == 8
    assert scene.world.gateway._hub.unsent == 0 and even(scene)


def test_who_takes_least_is_dropped_not_who_comes_last() -> None:
    scene = scene_of(unsent_all_bytes=290 * KB)
    greedy = Raw(scene)
    greedy.stream.read(False)
    greedy.stream.send(call_of("big", size=280 * KB))
    scene.run(0.2)
    assert not greedy.ended
    for _ in range(5):
        other = Raw(scene)
        other.stream.send(call_of("big", size=100 * KB))
        scene.run(0.5)
        assert other.last.status == 200
    assert greedy.ended and count(scene, "dropped_over_budget") == 1


# -- what has no head at all


def test_a_connection_without_a_byte_is_closed_without_a_word() -> None:
    scene = scene_of()
    raw = Raw(scene)
    scene.run(FAST.head_timeout_s + 0.5)
    assert raw.ended and raw.sent_back == b""


def test_a_websocket_peer_that_only_sends_headers_of_frames_is_cut_by_its_silence() -> None:
    scene = scene_of()
    raw = ws_open(scene)
    raw.send(b"\x81", 60.0)
    assert raw.ended and count(scene, "ws_silent") == 1
