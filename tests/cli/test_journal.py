"""Recording and replay around a fake core: what is written down, and what a difference looks like.

Must never: need the real core; that its runs replay is shown where they are made.
"""

from __future__ import annotations

import builtins
import datetime
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mcpgate.journal import FORMAT, Header, Recorder, replay, tripwires
from mcpgate_proto.config import GatewayConfig, ServerConfig
from mcpgate_proto.effects import Address, Effect, Emit, Peer, Record, Write


class Core:
    """Answers each input with its own arguments, or with what a fault says."""

    fault = ""

    def __init__(self, config: GatewayConfig, *, now: float, wall: float, seed: bytes) -> None:
        self.config = config
        self._out: list[Effect] = []

    def accepted(self, now: float, listener: str, peer: Peer) -> int:
        assert isinstance(peer, Peer) and isinstance(peer.address, Address)
        self._out.append(Emit(Record("info", listener)))
        return 7

    def received(self, now: float, conn: int, data: bytes) -> None:
        if self.fault == "clock":
            time.monotonic()
        self._out.append(Write(conn, [data, self.fault.encode()]))

    def resolved(self, now: float, lookup: int, addresses: list[Address]) -> None:
        assert all(isinstance(address, Address) for address in addresses)

    def reload(self, now: float, config: GatewayConfig) -> None:
        assert config == self.config

    def effects(self) -> list[Effect]:
        out, self._out = self._out, []
        return out

    def deadline(self) -> float | None:
        return 12.5


def faulty(fault: str) -> Any:
    return type("Faulty", (Core,), {"fault": fault})


@pytest.fixture
def recording(tmp_path: Path) -> str:
    path = tmp_path / "rec"
    config = GatewayConfig(servers=(ServerConfig(name="a", metadata={"x": [1, None]}),))
    header = Header(FORMAT, "1", config, 1.0, 2.0, b"s" * 32)
    recorder = Recorder(Core(config, now=1.0, wall=2.0, seed=b""), path.open("wb"), header)
    assert recorder.accepted(1.5, "l", Peer(kind="tcp", address=Address(host="::1", port=3))) == 7
    assert len(recorder.effects()) == 1 and recorder.effects() == []
    recorder.received(2.0, 7, b"\x00data")
    recorder.effects()
    recorder.resolved(3.0, 1, [Address(host="127.0.0.1")])
    recorder.reload(4.0, config)
    assert recorder.deadline() == 12.5
    recorder.close()
    return str(path)


@pytest.mark.parametrize("guard", [False, True])
def test_equal_runs_replay(recording: str, guard: bool) -> None:
    report = replay(recording, guard=guard, make=Core)
    assert (report.inputs, report.effects, report.difference) == (4, 2, "")


def test_a_difference_is_told(recording: str) -> None:
    report = replay(recording, make=faulty("other"))
    assert "after input 2" in report.difference and "Write" in report.difference


def test_the_guard_catches_a_clock(recording: str) -> None:
    assert replay(recording, make=faulty("clock")).difference
    with pytest.raises(AssertionError, match=r"time\.monotonic"):
        replay(recording, guard=True, make=faulty("clock"))


def test_a_torn_end_is_no_difference(recording: str) -> None:
    data = Path(recording).read_bytes()
    for cut in (1, 2, 30):
        Path(recording).write_bytes(data[:-cut])
        assert not replay(recording, make=Core).difference


def test_tripwires_cover_the_world_and_go_away() -> None:
    calls: list[Callable[[], object]] = [
        lambda: time.time(),
        lambda: time.monotonic(),
        lambda: os.urandom(1),
        lambda: builtins.open(os.devnull).close(),
        lambda: datetime.datetime.now(),
        lambda: random.random(),
    ]
    with tripwires():
        for call in calls:
            with pytest.raises(AssertionError, match="the core called"):
                call()
    for call in calls:
        call()
