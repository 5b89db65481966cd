"""The cells of the matrix: which there are, which `make test` runs, a gateway for one, the table of results.

Owns: the names of runners, transports and eras, the pairwise choice, `running` (a gateway in a thread, on any
runner, that must leave nothing behind), `table`.
Must never: choose by the name of a runner.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from mcpgate import asyncio_
from mcpgate.control import RUNNERS, Control, Options
from mcpgate.life import run_gateway
from mcpgate_proto.config import GatewayConfig, ListenConfig
from mcpgate_proto.effects import Address, Record
from mcpgate_proto.entropy import SEED_BYTES
from mcpgate_proto.limits import Limits
from tests.matrix.behaviour import ModelServer
from tests.matrix.clients import ModelClient, connect
from tests.matrix.servers import SERVERS, Upstream
from tests.matrix.talk import WAIT_S, Journal
from tests.runner.fake import Left
from tests.wiretap.hops import Verdicts
from tests.wiretap.tap import tapped

__all__ = ["ALL", "RUNNERS", "TRANSPORTS", "Cell", "Gate", "chosen", "running", "table"]

TRANSPORTS = ("stdio", "http", "sse", "websocket", "unix")
TITLES = {
    "stdio": "stdio",
    "http": "HTTP",
    "sse": "HTTP+SSE",
    "websocket": "WebSocket",
    "unix": "Unix socket",
}
ERAS = ("legacy", "modern")
# A face is a transport in an era. HTTP+SSE is of 2024: modern messages do not travel on it.
FACES = tuple((name, era) for name in TRANSPORTS for era in ERAS if (name, era) != ("sse", "modern"))
# Waits of the gateway's own that a test would only sit out.
LIMITS = Limits(eof_grace_s=0.1, restart_first_s=0.02, restart_last_s=0.1, stop_wait_s=WAIT_S)
# How far each runner's choice of servers is turned against its clients.
TURNS = (0, 2, 5, 7)


@dataclass(frozen=True)
class Cell:
    runner: str
    down: str
    down_era: str
    up: str
    up_era: str

    def __str__(self) -> str:
        return f"{self.runner}: {self.down} ({self.down_era}) to {self.up} ({self.up_era})"

    @property
    def id(self) -> str:
        return f"{self.runner}-{self.down}-{self.down_era}-{self.up}-{self.up_era}"


ALL = tuple(Cell(runner, *down, *up) for runner in RUNNERS for down in FACES for up in FACES)


# The two pairs of transports that do not meet that way.
MORE = (
    Cell("curio", "stdio", "modern", "sse", "legacy"),
    Cell("blocking", "sse", "legacy", "unix", "modern"),
)


def chosen() -> tuple[Cell, ...]:
    """All cells, or (as `make test` has it) so many that every runner meets every face on both sides, and
    every transport every other."""
    if os.environ.get("MCPGATE_MATRIX") == "all":
        return ALL
    turned = (
        Cell(runner, *face, *FACES[(number + turn) % len(FACES)])
        for runner, turn in zip(RUNNERS, TURNS, strict=True)
        for number, face in enumerate(FACES)
    )
    return (*turned, *MORE)


class Gate:
    """A running gateway between one model server and the clients that come."""

    def __init__(self, runner: str, listen: ListenConfig, upstream: Upstream) -> None:
        self.listen = listen
        self.records = Journal("the gateway's log")
        self.control = Control()
        self.address: Address | None = None
        self.failure: str | None = None
        self.error: BaseException | None = None
        self.clients: list[ModelClient] = []
        self._ready = threading.Event()
        # Of a stdio listener: ours to write and to read.
        self._pipes: tuple[int, int] | None = None
        stdio: dict[str, tuple[int, int]] = {}
        if listen.kind == "stdio":
            theirs_in, ours_out = os.pipe()
            ours_in, theirs_out = os.pipe()
            self._pipes = ours_in, ours_out
            stdio[listen.name] = theirs_in, theirs_out
        options = Options(
            sink=self.records.add, control=self.control, signals=False, ready=self._on_ready, stdio=stdio
        )
        server = msgspec.structs.replace(upstream.config(), env={}, timeout=WAIT_S)
        config = GatewayConfig(servers=(server,), listeners=(listen,), limits=LIMITS, transparent=True)
        # What passes on both hops is judged (L0.5); the models behave.
        self.verdicts = Verdicts(("client", "server"))
        gateway = tapped(self.verdicts)(
            config, now=time.monotonic(), wall=time.time(), seed=os.urandom(SEED_BYTES)
        )
        gateway.trap_errors = False
        self._thread = threading.Thread(target=lambda: self._work(gateway, runner, options), name="the run")
        self._thread.start()
        assert self._ready.wait(WAIT_S), "the gateway does not start"
        if self.error is not None:
            raise self.error

    def _work(self, gateway: Any, runner: str, options: Options) -> None:
        try:
            self.failure = run_gateway(gateway, runner, options).failure
        except BaseException as error:
            self.error = error
        finally:
            self._ready.set()

    def _on_ready(self, addresses: dict[str, Address]) -> None:
        self.address = addresses.get(self.listen.name)
        self._ready.set()

    def client(self, transport: str, era: str) -> ModelClient:
        pipes, self._pipes = self._pipes, None
        made = connect(transport, era, self.address, pipes)
        self.clients.append(made)
        return made

    def stop(self, grace_s: float) -> None:
        """Begin to stop, and wait until that has begun."""
        self.control.stop(grace_s)
        self.records.first(lambda record: record.event == "stopping", "the stop")

    def settle(self) -> None:
        """Wait until the runner has done all that it was at."""
        done = threading.Event()
        self.control.call(lambda body: done.set())
        assert done.wait(WAIT_S), "the runner does not do what it is asked"

    def ended(self) -> None:
        """Wait for the run to return, as it should."""
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "the run does not end"
        if self.error is not None:
            raise self.error
        assert self.failure is None, self.failure

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def log(self, *levels: str) -> list[Record]:
        return self.records.all(lambda record: record.level in levels)


def listener(transport: str, folder: Path) -> ListenConfig:
    """Where clients of `transport` come in."""
    if transport == "stdio":
        return ListenConfig(name="in", kind="stdio")
    path = str(folder / "down.sock")
    if transport == "unix":
        return ListenConfig(name="in", kind="unix", socket_path=path)
    if transport == "http-unix":
        return ListenConfig(name="in", kind="http", socket_path=path)
    return ListenConfig(name="in", kind="http", websocket=transport == "websocket", sse=transport == "sse")


def until(true: Callable[[], Any], what: str) -> Any:
    """The first true value, for what can only be asked again and again."""
    give_up = time.monotonic() + WAIT_S
    while not (value := true()):
        assert time.monotonic() < give_up, f"waited in vain for {what}"
        time.sleep(0.01)
    return value


def warm_up() -> None:
    """What libraries open once for the whole process is no leak of a run."""
    factory = asyncio_.uvloop_factory()
    if factory is not None:
        factory().close()


@contextmanager
def running(
    runner: str, listen: str, upstream: Callable[[Path], Upstream]
) -> Iterator[tuple[Gate, Upstream]]:
    """A gateway on `runner`. After it, nothing is left: no descriptor, thread or process."""
    warm_up()
    before = Left()
    # A short path: those of Unix sockets have at most 108 bytes.
    with tempfile.TemporaryDirectory(prefix="mx") as folder:
        server = upstream(Path(folder))
        gate: Gate | None = None
        try:
            gate = Gate(runner, listener(listen, Path(folder)), server)
            yield gate, server
        except BaseException:
            for record in gate.log("error", "warning", "notice", "critical") if gate is not None else []:
                print(record)  # shown with the failure
            raise
        finally:
            if gate is not None:
                if not gate.over:
                    gate.control.stop(0.0)
                    gate.control.stop(0.0)
                for client in gate.clients:
                    client.wire.vanish()
                gate._thread.join(WAIT_S)
            server.stop()
        gate.ended()
        gate.verdicts.check()
        for client in gate.clients:
            client.join()
            assert not client.problems, client.problems
        assert not server.model.problems, server.model.problems
    before.check()


def cell_running(cell: Cell) -> Any:
    """The gateway of a cell and its model server."""
    made = SERVERS[cell.up]
    return running(cell.runner, cell.down, lambda folder: made(ModelServer(cell.up_era), folder))


# -- the table of results


def pairs(down: str, up: str) -> int:
    """How many pairs of eras a cell has."""
    return sum(one[0] == down for one in FACES) * sum(one[0] == up for one in FACES)


def table(results: dict[Cell, str]) -> str:
    """The results in Markdown: for each runner five by five, each with how many of its pairs of eras hold.

    `results` has the step at which a cell failed, or nothing in it.
    """
    lines = []
    for runner in RUNNERS:
        lines += [
            f"## {runner}",
            "",
            "| from \\ to | " + " | ".join(TITLES[up] for up in TRANSPORTS) + " |",
            "| --- |" + " --- |" * len(TRANSPORTS),
        ]
        for down in TRANSPORTS:
            row = []
            for up in TRANSPORTS:
                mine = [cell for cell in results if (cell.runner, cell.down, cell.up) == (runner, down, up)]
                held = sum(not results[cell] for cell in mine)
                row.append(f"{held} of {pairs(down, up)}")
            lines.append(f"| **{TITLES[down]}** | " + " | ".join(row) + " |")
        lines.append("")
    failed = [f"* {cell}: {step}" for cell, step in results.items() if step]
    if failed:
        lines += ["## What does not hold", "", *sorted(failed), ""]
    return "\n".join(lines)
