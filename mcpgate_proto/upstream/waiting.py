"""Who waits for a session of a server.

Owns: the queue of waiters in order of arrival, their time limits.
Must never: choose a session (the pool does), or keep a waiter past its time.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from mcpgate_proto.hub import Hub
from mcpgate_proto.mcp.codes import Fault
from mcpgate_proto.relay.exchange import Client
from mcpgate_proto.timers import Timer
from mcpgate_proto.upstream.legacy import LegacySession
from mcpgate_proto.upstream.modern import ModernSession

__all__ = ["Got", "Session", "Waiter", "WaitingRoom"]

Session = LegacySession | ModernSession
Got = Callable[[Session | Fault], None]


class Waiter(msgspec.Struct, eq=False):
    """Someone who needs a session. `wanted` is false once that is no longer so."""

    client: Client
    interactive: bool
    got: Got
    wanted: Callable[[], bool]
    # For a request of the gateway's own, not a client's call.
    own: bool = False
    # Not in a session that was told of features: the calls of its client are not made there.
    strict: bool = False
    timer: Timer | None = None
    # More time than usual, given once; `rest` stops the clock of its call for as long.
    more_s: float = 0.0
    rest: Callable[[float], None] | None = None


class WaitingRoom:
    """The waiters of one server. `serve` gives a waiter its session or its refusal, if that can be done;
    `why_not` is the refusal once its time is up."""

    def __init__(self, hub: Hub, serve: Callable[[Waiter], bool], why_not: Callable[[Waiter], Fault]) -> None:
        self._hub = hub
        self._serve = serve
        self._why_not = why_not
        self._all: dict[Waiter, None] = {}
        self._pumping = False

    def __len__(self) -> int:
        return len(self._all)

    def add(self, waiter: Waiter, wait_s: float) -> None:
        self._arm(waiter, waiter.more_s or wait_s)
        self._all[waiter] = None

    def _arm(self, waiter: Waiter, wait_s: float) -> None:
        if waiter.timer is not None:
            waiter.timer.cancel()
        waiter.timer = self._hub.after(wait_s, "session wait", lambda: self._late(waiter))

    def extend(self, waiter: Waiter, wait_s: float) -> None:
        """From now on `waiter` may wait for `wait_s`: it takes a person."""
        if waiter.more_s:
            return
        waiter.more_s = wait_s
        if waiter.rest is not None:
            waiter.rest(wait_s)
        if waiter.timer is not None:
            self._arm(waiter, wait_s)

    def _late(self, waiter: Waiter) -> None:
        waiter.timer = None
        if waiter in self._all:
            del self._all[waiter]
            waiter.got(self._why_not(waiter))

    def pump(self) -> None:
        """Serve whoever can be served now, in order of arrival."""
        if self._pumping or not self._all:
            return
        self._pumping = True
        try:
            for waiter in list(self._all):
                if waiter in self._all and (not waiter.wanted() or self._serve(waiter)):
                    self._leave(waiter)
        finally:
            self._pumping = False

    def _leave(self, waiter: Waiter) -> None:
        if waiter.timer is not None:
            waiter.timer.cancel()
        self._all.pop(waiter, None)

    def refuse_all(self, fault: Fault) -> None:
        waiting, self._all = self._all, {}
        for waiter in waiting:
            if waiter.timer is not None:
                waiter.timer.cancel()
            waiter.got(fault)
