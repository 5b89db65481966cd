"""How a run is set up, told what to do from outside, and how it ended: the same for every runner.

Owns: `Options`, `Outcome`, and `Control`, through which signals and other threads reach a running gateway.
Must never: do anything itself in a signal handler or in a foreign thread; it only leaves word and wakes the
runner.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mcpgate_proto.config import GatewayConfig
from mcpgate_proto.effects import Address, Record

if TYPE_CHECKING:
    from mcpgate.body import Body

__all__ = ["DEFAULT_GRACE_S", "RUNNERS", "Control", "Options", "Outcome"]

RUNNERS = ("asyncio", "trio", "curio", "blocking")
DEFAULT_GRACE_S = 5.0
# One byte on the wake socket: a signal's number, or this for "look at the calls".
LOOK = b"\0"


class Control:
    """A handle on one run, for any thread. What is asked before the run begins is done when it does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: deque[Callable[[Body], None]] = deque()
        self._wake: tuple[socket.socket, socket.socket] | None = None

    def stop(self, grace_s: float = DEFAULT_GRACE_S) -> None:
        """Stop in good order; asked a second time, at once."""
        self.call(lambda body: body.tell(body.gateway.shutdown, grace_s))

    def reload(self, config: GatewayConfig) -> None:
        """Take over changed settings; what did not change goes on."""
        self.call(lambda body: body.tell(body.gateway.reload, config))

    def call(self, act: Callable[[Body], None]) -> None:
        """Have the runner do `act` between two facts."""
        with self._lock:
            self._calls.append(act)
            self._send()

    def wake(self) -> None:
        """Make the runner look at its clock again."""
        with self._lock:
            self._send()

    def _send(self) -> None:
        if self._wake is not None:
            # Full means that a byte is waiting already.
            with contextlib.suppress(BlockingIOError):
                self._wake[1].send(LOOK)

    # -- the runner's side

    @contextlib.contextmanager
    def open(self, signals: list[int]) -> Iterator[None]:
        """While this lasts, `fileno` becomes readable when there is word, and `signals` are caught."""
        wake = socket.socketpair()
        for sock in wake:
            sock.setblocking(False)
        with self._lock:
            self._wake = wake
            if self._calls:
                self._send()
        try:
            with _caught(signals, wake[1].fileno()):
                yield
        finally:
            with self._lock:
                self._wake = None
                self._calls.clear()
            for sock in wake:
                sock.close()

    def fileno(self) -> int:
        assert self._wake is not None, "there is no run"
        return self._wake[0].fileno()

    def take(self) -> tuple[list[int], list[Callable[[Body], None]]]:
        """Signals and calls that have come since, in their order."""
        assert self._wake is not None, "there is no run"
        data = b""
        with contextlib.suppress(BlockingIOError):
            data = self._wake[0].recv(4096)
        with self._lock:
            calls = list(self._calls)
            self._calls.clear()
        return [number for number in data if number], calls


@contextlib.contextmanager
def _caught(signals: list[int], fd: int) -> Iterator[None]:
    """The interpreter's own C handler writes the number to `fd`: no signal is lost, whatever we wait in."""
    if not signals:
        yield
        return
    earlier = {number: signal.signal(number, lambda *_: None) for number in signals}
    woken = signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
    try:
        yield
    finally:
        # Ours may have been replaced meanwhile by a loop's; it is the loop that puts back what it found.
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        for number, handler in earlier.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


@dataclass
class Options:
    """How to run. `stdio` gives the descriptors of stdio listeners by name, in place of the process's own."""

    sink: Callable[[Record], None] = lambda record: None
    control: Control = field(default_factory=Control)
    # SIGTERM and SIGINT stop, SIGHUP reloads. Only a run in the main thread can have them.
    signals: bool = True
    grace_s: float = DEFAULT_GRACE_S
    # Called on SIGHUP, in a thread; returns the new config, or `None` to keep the old one.
    reload: Callable[[], GatewayConfig | None] | None = None
    # Called once listeners are bound, before anybody is let in: to give up rights. What it raises ends all.
    bound: Callable[[], None] = lambda: None
    # Called when a signal asks for the end.
    stopping: Callable[[], None] = lambda: None
    # (seconds, what to do so often): it may ask the body for a reload.
    chores: tuple[tuple[float, Callable[[Body], None]], ...] = ()
    # Called once clients are let in: the bound address of each listener.
    ready: Callable[[dict[str, Address]], None] = lambda addresses: None
    stdio: dict[str, tuple[int, int]] = field(default_factory=dict)
    # Where logins are kept; None: the usual folder. How somebody is shown where to log in (server, address);
    # None: on stderr.
    tokens: Path | None = None
    browse: Callable[[str, str], None] | None = None
    # The process is nothing but the gateway: adopt and end what children leave behind.
    own_process: bool = False


@dataclass
class Outcome:
    """How a run ended: why it could not go on, and the signal that asked for the end, if any."""

    failure: str | None = None
    signal: int | None = None
    listen_failures: dict[str, str] = field(default_factory=dict)
