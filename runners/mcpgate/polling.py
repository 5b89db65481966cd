"""A `body.Loop` for a framework that can wait for one descriptor until some time: trio and curio can.

Owns: a selector that holds every watched descriptor and is itself a descriptor that becomes readable when
one of them is ready, and the alarms. One wait of the framework serves all that is ready by then.
Must never: wait itself.
"""

from __future__ import annotations

import heapq
import selectors
import time
from collections.abc import Callable
from typing import TypeAlias

__all__ = ["Alarms", "PollLoop"]

Call: TypeAlias = Callable[[], None]
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Alarms:
    """Calls that wait for their time, and the one deadline."""

    def __init__(self, timed_out: Call) -> None:
        self._timed_out = timed_out
        self._heap: list[tuple[float, int, Call]] = []
        self._count = 0
        self._deadline: float | None = None

    def later(self, delay_s: float, call: Call) -> None:
        self._count += 1
        heapq.heappush(self._heap, (time.monotonic() + delay_s, self._count, call))

    def arm(self, deadline: float) -> None:
        self._deadline = deadline

    def next(self) -> float | None:
        times = [at for at in (self._deadline, self._heap[0][0] if self._heap else None) if at is not None]
        return min(times, default=None)

    def left(self) -> float | None:
        """Seconds until the next is due; `None` if nothing is planned."""
        at = self.next()
        return None if at is None else max(0.0, at - time.monotonic())

    def run_due(self) -> None:
        now = time.monotonic()
        while self._heap and self._heap[0][0] <= now:
            heapq.heappop(self._heap)[2]()
        if self._deadline is not None and self._deadline <= now:
            self._deadline = None
            self._timed_out()


class PollLoop:
    """Wait until `fileno` is readable, for `left` seconds at most; then `turn`; until it is `over`."""

    def __init__(self) -> None:
        self.over = False
        # What the kernel cannot tell of (regular files): always ready.
        self.always: dict[tuple[int, bool], Call] = {}
        self._selector = selectors.DefaultSelector()
        self._calls: dict[tuple[int, bool], Call] = {}
        self.alarms = Alarms(lambda: self.timed_out())
        self.timed_out: Call = lambda: None

    def fileno(self) -> int:
        # The selectors of Linux and macOS have a descriptor; the interface does not promise one.
        found: int = self._selector.fileno()
        return found

    def watch(self, fd: int, write: bool, ready: Call, pollable: bool = True) -> None:
        key = (fd, write)
        if key in self._calls or key in self.always:
            return
        if not pollable:
            self.always[key] = ready
            return
        mask = WRITE if write else READ
        if (fd, not write) in self._calls:
            self._selector.modify(fd, READ | WRITE)
        else:
            self._selector.register(fd, mask)
        self._calls[key] = ready

    def unwatch(self, fd: int, write: bool) -> None:
        if self._calls.pop((fd, write), None) is None:
            self.always.pop((fd, write), None)
        elif (fd, not write) in self._calls:
            self._selector.modify(fd, READ if write else WRITE)
        else:
            self._selector.unregister(fd)

    def later(self, delay_s: float, call: Call) -> None:
        self.alarms.later(delay_s, call)

    def arm(self, deadline: float) -> None:
        self.alarms.arm(deadline)

    def stopped(self) -> None:
        self.over = True

    def turn(self) -> None:
        """Serve everything that is ready and due, each once."""
        ready = [(key.fd, mask) for key, mask in self._selector.select(0)]
        for fd, mask in ready:
            for bit, write in ((READ, False), (WRITE, True)):
                # An earlier callback may have closed it meanwhile.
                if mask & bit and (call := self._calls.get((fd, write))) is not None:
                    call()
        for key in list(self.always):
            if (call := self.always.get(key)) is not None:
                call()
        self.alarms.run_due()

    def close(self) -> None:
        self._selector.close()
