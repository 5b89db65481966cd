"""The world around one gateway: a virtual clock, one heap of events, one seeded generator.

Owns: the order in which facts reach the gateway, the draining of its effects, the digest of all of them.
Must never: call the gateway from within a call to it; use wall time; let a dictionary order or a hash
decide anything.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from hashlib import blake2b
from heapq import heappop, heappush
from typing import Any

from fuzz.sim.net import Network
from mcpgate_proto import Gateway, GatewayConfig, Snapshot
from mcpgate_proto.effects import Effect, Emit, Record

__all__ = ["Event", "Stuck", "Violation", "World"]

START = 1000.0
WALL = 1_790_000_000.0
# Timers that fire without time going on: more than this at one instant is a loop.
BUSY_LIMIT = 20_000


class Violation(AssertionError):
    """The gateway broke a promise."""


class Stuck(AssertionError):
    """Something that had to happen did not happen in time."""


class Event:
    """One thing that will happen; `cancel` makes it nothing."""

    __slots__ = ("act", "at")

    def __init__(self, at: float, act: Callable[[], None]) -> None:
        self.at = at
        self.act: Callable[[], None] | None = act

    def cancel(self) -> None:
        self.act = None


class World:
    """One run. Everything in it hangs off one seed."""

    def __init__(
        self, config: GatewayConfig, *, seed: int = 0, trace: Callable[[str], None] | None = None
    ) -> None:
        self.random = random.Random(seed)
        self.now = START
        self.wall_jump = 0.0
        self.trace = trace
        self.config = config
        self.records: list[Record] = []
        self.stopped = False
        self.failure: str | None = None
        self.steps = 0
        self.facts = 0
        self.counts: dict[str, int] = {}
        # Called after every fact, with its effects: the checkers.
        self.watchers: list[Callable[[list[Effect]], None]] = []
        self._order = 0
        self._heap: list[tuple[float, int, Event]] = []
        self._digest = blake2b(digest_size=16)
        self._inside = False
        self._busy = 0
        # Real clocks go on while a core spins; switch off to see that it does.
        self.nudge = True
        key = blake2b(seed.to_bytes(8, "big", signed=True), digest_size=32).digest()
        self.gateway = Gateway(config, now=self.now, wall=self.wall, seed=key)
        self.gateway.trap_errors = False
        self.net = Network(self)

    @property
    def wall(self) -> float:
        return WALL + (self.now - START) + self.wall_jump

    @property
    def elapsed(self) -> float:
        return self.now - START

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def digest(self) -> str:
        """Of every fact and effect so far."""
        return self._digest.hexdigest()

    def say(self, text: str) -> None:
        if self.trace is not None:
            self.trace(f"{self.elapsed:10.4f} {text}")

    # -- events

    def after(self, delay_s: float, act: Callable[[], None]) -> Event:
        event = Event(self.now + max(0.0, delay_s), act)
        self._order += 1
        heappush(self._heap, (event.at, self._order, event))
        return event

    def uniform(self, span: tuple[float, float]) -> float:
        low, high = span
        return low if low == high else self.random.uniform(low, high)

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.random.random() < probability

    # -- the gateway

    def start(self) -> None:
        """Drain the listeners, bind them, start."""
        first = self.gateway.effects()
        self._note("first", first)
        self.net.perform(first)
        self.net.bind()
        self.feed("started")
        self.after(60.0, self._clock)

    def _clock(self) -> None:
        if not self.stopped:
            self.feed("clock", self.wall)
            self.after(60.0, self._clock)

    def jump(self, seconds: float) -> None:
        """The time of day is set; what is monotonic goes on as before."""
        self.wall_jump += seconds
        self.feed("clock", self.wall)

    def feed(self, method: str, *args: Any) -> Any:
        """One fact, then all its effects."""
        if self._inside:
            raise AssertionError("the world fed the gateway from within a call to it")
        self._inside = True
        try:
            self.facts += 1
            self._note(method, args)
            result = getattr(self.gateway, method)(self.now, *args)
            effects = self.gateway.effects()
            rest = self.gateway.effects()
            if rest:
                raise Violation(f"a second drain without an input was not empty: {rest[:3]}")
        finally:
            self._inside = False
        self._take(effects)
        return result

    def _take(self, effects: list[Effect]) -> None:
        for effect in effects:
            self._note("", effect)
            if isinstance(effect, Emit):
                self.records.append(effect.record)
        self.net.perform(effects)
        for watcher in self.watchers:
            watcher(effects)

    def _note(self, label: str, what: Any) -> None:
        text = f"{self.now:.6f} {label} {what!r}"
        self._digest.update(text.encode())
        if self.trace is not None:
            self.say(f"{label or '  <-'} {repr(what)[:260]}")

    # -- running

    def step(self, until: float) -> bool:
        """The next event or timer that is not after `until`. False when there is none."""
        while self._heap and self._heap[0][2].act is None:
            heappop(self._heap)
        deadline = None if self.stopped else self.gateway.deadline()
        at = self._heap[0][0] if self._heap else None
        if deadline is not None and (at is None or deadline < at):
            if deadline > until:
                return False
            self._advance(deadline)
            if self.nudge and self._busy > 20:
                # A timer that is armed for this very instant, over and over: a real clock would go on.
                self.count("nudge")
                self.now += 1e-6
            self.feed("timed_out")
            return True
        if at is None or at > until:
            return False
        event = heappop(self._heap)[2]
        self._advance(at)
        act, event.act = event.act, None
        if act is not None:
            act()
        return True

    def _advance(self, at: float) -> None:
        self.steps += 1
        self._busy = 0 if at > self.now else self._busy + 1
        if self._busy > BUSY_LIMIT:
            raise Stuck("time does not go on: something fires again and again at one instant")
        self.now = max(self.now, at)

    def run(self, seconds: float) -> None:
        """Let `seconds` pass."""
        until = self.now + seconds
        while self.step(until):
            pass
        self.now = max(self.now, until)

    def until(self, true: Callable[[], Any], within: float = 60.0, what: str = "") -> Any:
        """Run until `true`; `Stuck` when that takes longer than `within`. The result of `true`."""
        limit = self.now + within
        while True:
            found = true()
            if found:
                return found
            if not self.step(limit):
                raise Stuck(f"not within {within:g} s: {what or 'what was waited for'}")

    def snapshot(self) -> Snapshot:
        return self.gateway.snapshot()

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The fields of all records of one kind."""
        return [dict(record.fields) for record in self.records if record.event == event]
