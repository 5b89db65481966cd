"""A core that knows no protocol, and a harness that runs it: what a runner must do, seen from inside.

Owns: the record of every fact a runner told, and waiting for the next one.
Must never: import the real core; the tests that use this hold for any runner.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from mcpgate import asyncio_
from mcpgate.body import Body
from mcpgate_proto import effects as fx
from mcpgate_proto.effects import Address, Listen, Record

PATIENCE_S = 20.0
INPUTS = (
    "started clock listening listen_failed accept_failed resolved resolve_failed connected connect_failed "
    "received received_eof received_stderr flushed exited closed timed_out reload shutdown"
).split()


class FakeGateway:
    """Records every input; a test scripts what comes of it with `on` or `put`."""

    def __init__(self, *listens: Listen) -> None:
        self.facts: list[tuple[Any, ...]] = []
        self.hooks: dict[str, Callable[..., None]] = {}
        self.at: float | None = None
        self.changed = anyio.Event()
        self.last_now = 0.0
        self._out: list[Any] = list(listens)
        self._next = 100
        self.drained_empty = True

    def put(self, *effects: Any) -> None:
        self._out.extend(effects)

    def note(self, name: str, now: float, *args: Any) -> None:
        assert now >= self.last_now, "time went back"
        assert not self._out or name == "started", f"{name} came before the effects were drained"
        self.last_now = now
        self.facts.append((name, *args))
        if hook := self.hooks.get(name):
            hook(*args)
        self.changed.set()

    def __getattr__(self, name: str) -> Any:
        if name not in INPUTS:
            raise AttributeError(name)
        return lambda now, *args: self.note(name, now, *args)

    def accepted(self, now: float, listener: str, peer: fx.Peer) -> int:
        self._next += 1
        self.note("accepted", now, listener, peer, self._next)
        return self._next

    def effects(self) -> list[Any]:
        out, self._out = self._out, []
        return out

    def deadline(self) -> float | None:
        return self.at

    # -- what tests ask

    def all(self, name: str) -> list[tuple[Any, ...]]:
        return [fact[1:] for fact in self.facts if fact[0] == name]

    def data(self, conn: int, name: str = "received") -> bytes:
        return b"".join(args[1] for args in self.all(name) if args[0] == conn)

    async def until(self, true: Callable[[], Any]) -> Any:
        with anyio.fail_after(PATIENCE_S):
            while not (value := true()):
                self.changed = anyio.Event()
                await self.changed.wait()
            return value

    async def first(self, name: str) -> tuple[Any, ...]:
        found: list[tuple[Any, ...]] = await self.until(lambda: self.all(name))
        return found[0]


class Harness:
    """A running `serve` around a fake gateway."""

    def __init__(self, gateway: FakeGateway) -> None:
        self.gateway = gateway
        self.body: Body
        self.ready = anyio.Event()
        self.addresses: dict[str, Address] = {}
        self.records: list[Record] = []
        self.outcome: asyncio_.Outcome | None = None

    def put(self, *effects: Any) -> None:
        self.gateway.put(*effects)
        self.body.turn()

    def alarm(self, at: float) -> None:
        self.gateway.at = at
        self.body.turn()

    def on_ready(self, addresses: dict[str, Address]) -> None:
        self.addresses = addresses
        self.ready.set()


@asynccontextmanager
async def running(gateway: FakeGateway, **options: Any) -> AsyncIterator[Harness]:
    """Serve until the block ends; then the run must have left nothing behind."""
    harness = Harness(gateway)
    fds = open_fds()

    class Seen(Body):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            harness.body = self

    async def run() -> None:
        harness.outcome = await asyncio_.serve(
            gateway,
            asyncio_.Options(sink=harness.records.append, ready=harness.on_ready, signals=False, **options),
        )

    names = vars(asyncio_)
    original, names["Body"] = names["Body"], Seen
    try:
        with anyio.fail_after(3 * PATIENCE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                await harness.ready.wait()
                yield harness
                if not harness.body.done:
                    harness.put(fx.Stopped())
    finally:
        names["Body"] = original
    # The other ends belong to threads of the tests, which may need a moment.
    give_up = time.monotonic() + PATIENCE_S
    while (left := open_fds() - fds) and time.monotonic() < give_up:
        await anyio.sleep(0.01)
    assert not left, f"descriptors left: {left}"


def open_fds() -> set[tuple[int, str]]:
    """Sockets, pipes and process descriptors of this process, by number and what they are."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target.startswith(("socket:", "pipe:", "anon_inode:")):
            found.add((int(name), target))
    return found


def alive(pid: int) -> bool:
    """The process runs (a zombie does not)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (OSError, UnicodeDecodeError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


async def gone(pid: int) -> None:
    """Wait for a process that is not our child to end; its end tells nobody, so this must look."""
    give_up = time.monotonic() + PATIENCE_S
    while alive(pid):
        assert time.monotonic() < give_up, f"{pid} still runs"
        await anyio.sleep(0.01)


def tcp(name: str = "tcp", host: str = "127.0.0.1") -> Listen:
    return Listen(listener=name, kind="tcp", host=host)
