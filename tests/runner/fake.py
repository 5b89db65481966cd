"""A core that knows no protocol, and a harness that runs it: what a runner must do, seen from inside.

Owns: the record of every fact a runner told, waiting for the next one, and the count of what a run leaves.
Must never: import the real core, or know which runner it is; the tests that use this hold for any.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mcpgate.control import Control, Options, Outcome
from mcpgate_proto import effects as fx
from mcpgate_proto.effects import Address, Listen, Record, Spawn

PATIENCE_S = 20.0
MB = 1024 * 1024
INPUTS = (
    "started clock listening listen_failed accept_failed secured resolved resolve_failed connected "
    "connect_failed claimed received received_eof received_stderr flushed exited closed "
    "timed_out reload shutdown"
).split()
# How to run a gateway to its end; the fixture `runner` gives one for each runner.
Run = Callable[[Any, Options], Outcome]


class FakeGateway:
    """Records every input; a test scripts what comes of it with `hooks` or `Harness.put`."""

    def __init__(self, *listens: Listen) -> None:
        self.facts: list[tuple[Any, ...]] = []
        self.hooks: dict[str, Callable[..., None]] = {}
        self.at: float | None = None
        self.changed = threading.Condition()
        self.last_now = 0.0
        self._out: list[Any] = list(listens)
        self._next = 100
        self._inside = threading.Lock()

    def put(self, *effects: Any) -> None:
        self._out.extend(effects)

    def note(self, name: str, now: float, *args: Any) -> None:
        assert self._inside.acquire(blocking=False), "two threads were in the core at once"
        try:
            assert now >= self.last_now, "time went back"
            assert not self._out or name == "started", f"{name} came before the effects were drained"
            self.last_now = now
            self.facts.append((name, *args))
            if hook := self.hooks.get(name):
                hook(*args)
        finally:
            self._inside.release()
        with self.changed:
            self.changed.notify_all()

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
        return [fact[1:] for fact in list(self.facts) if fact[0] == name]

    def data(self, conn: int, name: str = "received") -> bytes:
        return b"".join(args[1] for args in self.all(name) if args[0] == conn)

    def until(self, true: Callable[[], Any]) -> Any:
        give_up = time.monotonic() + PATIENCE_S
        with self.changed:
            while not (value := true()):
                self.changed.wait(0.5)
                assert time.monotonic() < give_up, f"waited in vain; the facts: {self.facts[-20:]}"
        return value

    def first(self, name: str) -> tuple[Any, ...]:
        found: list[tuple[Any, ...]] = self.until(lambda: self.all(name))
        return found[0]


class Harness:
    """A run around a fake gateway, in a thread of its own."""

    def __init__(self, gateway: FakeGateway, run: Run, **options: Any) -> None:
        self.gateway = gateway
        self.control: Control = options.setdefault("control", Control())
        self.addresses: dict[str, Address] = {}
        self.records: list[Record] = []
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None
        # Clients' sockets that are to be open when the run ends.
        self.held: list[socket.socket] = []
        self.ready = threading.Event()
        options = {"sink": self.records.append, "ready": self._on_ready, "signals": False} | options
        self._options = Options(**options)
        self._run = run
        self.thread = threading.Thread(target=self._work, name="the run")

    def _work(self) -> None:
        try:
            self.outcome = self._run(self.gateway, self._options)
        except BaseException as error:
            self.error = error
        finally:
            self.ready.set()

    def _on_ready(self, addresses: dict[str, Address]) -> None:
        self.addresses = addresses
        self.ready.set()

    def put(self, *effects: Any) -> None:
        """Have the effects carried out, and wait until they are."""
        self.do(lambda: self.gateway.put(*effects))

    def alarm(self, at: float) -> None:
        self.do(lambda: setattr(self.gateway, "at", at))

    def do(self, act: Callable[[], None]) -> None:
        done = threading.Event()

        def inside(body: Any) -> None:
            act()
            body.turn()
            done.set()

        self.control.call(inside)
        give_up = time.monotonic() + PATIENCE_S
        while not done.wait(0.05) and self.thread.is_alive():
            assert time.monotonic() < give_up, "the runner does not do what it is asked"

    def join(self) -> Outcome:
        self.thread.join(3 * PATIENCE_S)
        assert not self.thread.is_alive(), "the run does not end"
        if self.error is not None:
            raise self.error
        assert self.outcome is not None
        return self.outcome


@contextmanager
def running(gateway: FakeGateway, run: Run, **options: Any) -> Iterator[Harness]:
    """Run until the block ends; then nothing may be left: no descriptor, thread or process."""
    before = Left()
    harness = Harness(gateway, run, **options)
    harness.thread.start()
    try:
        assert harness.ready.wait(PATIENCE_S)
        if harness.error is not None:
            raise harness.error
        yield harness
    finally:
        harness.control.call(lambda body: (gateway.put(fx.Stopped()), body.turn()) if not body.done else None)
        harness.join()
        for sock in harness.held:
            sock.close()
    before.check()


class Left:
    """What this process holds; `check` says what has come since and not gone."""

    def __init__(self) -> None:
        self.fds, self.threads, self.children = open_fds(), set(threading.enumerate()), children_of_us()

    def check(self) -> None:
        # The other ends belong to threads of the tests, which may need a moment.
        give_up = time.monotonic() + PATIENCE_S
        while left := [
            *(open_fds() - self.fds),
            *(set(threading.enumerate()) - self.threads),
            *(children_of_us() - self.children),
        ]:
            assert time.monotonic() < give_up, f"left behind: {left}"
            time.sleep(0.01)


def open_fds() -> set[tuple[int, str]]:
    """Sockets, pipes and the like of this process, by number and what they are."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target.startswith(("socket:", "pipe:", "anon_inode:")) or target.endswith((".lock", ".sock")):
            found.add((int(name), target))
    return found


def processes() -> dict[int, tuple[int, str]]:
    """pid -> (parent, state) of everything that runs."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except (OSError, UnicodeDecodeError):
                continue
            found[int(name)] = (int(fields[1]), fields[0])
    return found


def children_of_us() -> set[int]:
    return {pid for pid, (parent, _) in processes().items() if parent == os.getpid()}


def alive(pid: int) -> bool:
    """The process runs (a zombie does not)."""
    return processes().get(pid, (0, "X"))[1] not in "ZX"


def gone(*pids: int) -> None:
    """Wait for processes that are not our children to end; their end tells nobody, so this must look."""
    give_up = time.monotonic() + PATIENCE_S
    for pid in pids:
        while alive(pid):
            assert time.monotonic() < give_up, f"{pid} still runs"
            time.sleep(0.01)


# -- what most tests need


def tcp(name: str = "tcp", host: str = "127.0.0.1", **more: Any) -> Listen:
    return Listen(listener=name, kind="tcp", host=host, **more)


def echoing(*listens: Listen) -> FakeGateway:
    """What comes in goes out; an end is answered by a close."""
    gateway = FakeGateway(*listens)
    gateway.hooks["received"] = lambda conn, data: gateway.put(fx.Write(conn, [data]))
    gateway.hooks["received_eof"] = lambda conn: gateway.put(fx.Close(conn))
    return gateway


def dial(harness: Harness, name: str = "tcp") -> socket.socket:
    address = harness.addresses[name]
    if address.path:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE_S)
        sock.connect(address.path)
        return sock
    return socket.create_connection((address.host, address.port), PATIENCE_S)


def read_all(sock: socket.socket) -> bytes:
    parts = []
    while part := sock.recv(MB):
        parts.append(part)
    return b"".join(parts)


def child(conn: int, code: str, *args: str, env: dict[str, str] | None = None, **more: Any) -> Spawn:
    return Spawn(conn=conn, argv=(sys.executable, "-I", "-S", "-c", code, *args), env=env or {}, **more)
