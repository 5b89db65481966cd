"""Processes, row by row (docs/threats.md, 5), as far as the core decides: what a child may say and how it
may end. What the operating system does is in tests/runner and tests/cli.

Must never: trust a server's output to be messages.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from fuzz.sim.scene import Scene
from fuzz.sim.servers import Process, ServerModel
from mcpgate_proto.limits import Limits
from tests.threats.raw import DUAL, LEGACY, MODERN_ERA, serves


def scene_of(eras: tuple[str, ...] = DUAL, **options: Any) -> Scene:
    return Scene({"one": ("stdio", eras)}, **options)


class Noisy(Process):
    """Writes `noise` before anything else, and `between` in front of every message."""

    noise = b""
    between = b""

    def opened(self) -> None:
        if self.noise:
            self.stream.send(self.noise)
        super().opened()

    def _send(self, message: Any) -> None:
        if self.alive:
            self.stream.send(self.between + json.dumps(message).encode() + b"\n")


def noisy(scene: Scene, noise: bytes, between: bytes = b"") -> Scene:
    kind = type("Noise", (Noisy,), {"noise": noise, "between": between})

    def spawn(server: ServerModel) -> Process:
        process: Process = kind(server)
        server.processes.append(process)
        return process

    scene.net.programs["/bin/one"] = lambda effect: spawn(scene.only)
    return scene.start()


@pytest.mark.parametrize(
    ("noise", "between"),
    [
        (b"Welcome to the server!\n", b""),
        (b"npm notice new version\n\n\n  \n", b""),
        (b"\xef\xbb\xbfstarting\r\n", b"\r\n"),
        (b"\x1b[32mready\x1b[0m\n", b"debug: x\n"),
        (b"\xff\xfe\n", b"\xc3\x28\n"),
        (b"{}\n[]\n1\nnull\n" + b'{"jsonrpc":"2.0"}\n', b'{"jsonrpc":"2.0","id":null,"result":{}}\n'),
        (b"[" * 5000 + b"\n", b"[1,\n"),
    ],
)
@pytest.mark.parametrize("eras", [LEGACY, MODERN_ERA])
def test_t5_10_stdout_pollution(eras: tuple[str, ...], noise: bytes, between: bytes) -> None:
    """Skipped, never forwarded, and in the log a few times, cut."""
    scene = noisy(scene_of(eras), noise, between)
    client = scene.legacy()
    for _ in range(20):
        call = scene.done(client.tool("echo"))
        assert call.text == call.nonce
    lines = scene.world.logged("server_line_not_json")
    assert 1 <= len(lines) <= 5 * len(scene.net.spawned) and all(len(line["line"]) <= 2000 for line in lines)
    assert scene.problems() == [] and client.notes == []


def test_t5_10_a_server_that_never_speaks_mcp_fails_its_start() -> None:
    scene = noisy(scene_of(), b"this is no server\n" * (Limits().garbage_lines + 5))
    scene.run(10.0)
    told = scene.world.logged("server_line_not_json")
    assert told[0]["line"] == "this is no server" and len(told) <= 5 * len(scene.net.spawned)
    assert scene.world.snapshot().servers[0].state != "connected"


def test_t5_10_answers_to_nothing_reach_nobody() -> None:
    noise = b'{"jsonrpc":"2.0","id":999,"result":{"content":[]}}\n'
    noise += b'{"jsonrpc":"2.0","id":"1","error":{"code":1,"message":"x"}}\n'
    scene = noisy(scene_of(LEGACY), b"", noise)
    client = scene.legacy()
    call = scene.done(client.tool("echo"))
    assert call.text == call.nonce and scene.problems() == []


def test_t5_9_a_line_without_end() -> None:
    """Bounded: the child that writes it is ended and started anew, its calls are told at once."""
    scene = Scene(
        {"one": ("stdio", LEGACY)}, limits=Limits(message_bytes=100_000, restart_first_s=0.1)
    ).start()
    scene.only.script("endless", lambda job: job.talk.raw(b"x" * 200_000))
    client = scene.legacy()
    call = scene.done(client.tool("endless"), within=5)
    assert call.error["data"]["origin"] == "gateway"
    again = scene.done(client.tool("echo"), within=30)
    assert again.text == again.nonce


@pytest.mark.parametrize("eras", [LEGACY, MODERN_ERA])
def test_t5_11_a_write_to_a_child_that_is_gone(eras: tuple[str, ...]) -> None:
    """Every pending call is told, with a code that is no peer's, and the next ones reach a new child."""
    scene = scene_of(eras).start()
    client = scene.modern()
    calls = [client.tool("silent") for _ in range(5)]
    scene.until(lambda: len(scene.only.calls) == 5, 30)
    scene.only.crash()
    late = client.tool("echo")
    scene.done(*calls, within=2)
    for call in calls:
        assert call.code == -32603 and call.error["data"]["origin"] == "gateway"
    scene.done(late, within=60)
    assert serves(scene)


def test_t5_13_a_child_that_closes_its_output_is_dead() -> None:
    scene = scene_of(LEGACY).start()
    client = scene.legacy()
    call = client.tool("silent")
    scene.until(lambda: scene.only.calls, 30)
    scene.only.processes[-1].stream.send_eof()
    scene.done(call, within=2)
    assert call.code == -32603
    scene.run(Limits().stop_wait_s + Limits().term_wait_s + 2)
    assert not scene.only.processes[0].alive
    assert serves(scene)


class Failing(Process):
    """Says why on stderr, and exits before it answers."""

    def opened(self) -> None:
        self.stream.stderr(b"panic: cannot open /home/someone/.config/secret-file\n")
        self.server.world.after(0.05, lambda: self.exit(3))


@pytest.mark.parametrize("kind", ["legacy", "modern"])
@pytest.mark.parametrize("transparent", [False, True])
def test_t5_14_exit_before_the_first_answer(transparent: bool, kind: str) -> None:
    """Status and last words are for the log; a client is told that there is no such tool, or, where there is
    nothing but this server, that it is not available."""
    scene = scene_of(MODERN_ERA, transparent=transparent)

    def spawn(effect: object) -> Process:
        process = Failing(scene.only)
        scene.only.processes.append(process)
        return process

    scene.net.programs["/bin/one"] = spawn
    scene.start()
    client = scene.modern() if kind == "modern" else scene.legacy()
    call = client.tool("echo")
    scene.done(call, within=60)
    assert call.error["message"] == ("server 'one' is not available" if transparent else "unknown tool: echo")
    told = json.dumps(call.answer)
    assert "panic" not in told and "/home" not in told and "exit" not in told
    records = json.dumps([[record.event, list(record.fields)] for record in scene.world.records])
    assert "panic: cannot open" in records and "exit code 3" in records


def test_t5_16_restarts_back_off() -> None:
    scene = scene_of(LEGACY)
    scene.only.dies_at_start = True
    scene.start()
    scene.run(600.0)
    first = len(scene.net.spawned)
    scene.run(600.0)
    assert 10 < first < 50 and 10 < len(scene.net.spawned) - first < 25
