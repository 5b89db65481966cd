"""Deadlines of the core, and which of them is next.

Owns: `Timers`, a heap of what is near beside a dictionary of what is far, and `Timer`, one deadline with
its reason and its callback. Must never: read a clock (every `now` is given), or run a callback by itself.

Most timers never fire: a call is answered, a peer keeps sending. So to arm and to cancel a far timer is one
dictionary operation each, and nothing of a cancelled one stays behind. A near one is only marked when it is
cancelled; the heap is rebuilt when most of what it holds is marked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heapify, heappop, heappush

from mcpgate_proto.errors import LocalProtocolError

__all__ = ["HORIZON_S", "Timer", "Timers"]

# Width of one far bucket. A power of two, so that dividing a deadline by it is exact.
HORIZON_S = 8.0
# Below this many entries a heap is not worth rebuilding.
_COMPACT_FROM = 64


class Timer:
    """One deadline, in seconds of the monotonic clock, with the reason why it exists.

    `active` is true from arming until it is cancelled or handed out by `Timers.due`. `run` is for whoever
    took it from `due`; a timer that was cancelled in between (by another one's callback) does nothing.
    """

    __slots__ = ("_bucket", "_callback", "_order", "_owner", "deadline", "reason")

    def __init__(
        self, owner: Timers, deadline: float, order: int, reason: str, callback: Callable[[], None]
    ) -> None:
        self.deadline = deadline
        self.reason = reason
        self._owner: Timers | None = owner
        self._order = order
        self._callback: Callable[[], None] | None = callback
        # Key of the far bucket that holds it; None while it is in the heap.
        self._bucket: int | None = None

    @property
    def active(self) -> bool:
        return self._owner is not None

    def cancel(self) -> None:
        """Forget the timer, in constant time. Does nothing when it already fired or was cancelled."""
        # The callback goes at once: what it closes over must not live until the deadline.
        self._callback = None
        owner, self._owner = self._owner, None
        if owner is not None:
            owner._dropped(self)

    def run(self) -> None:
        """Call the callback, once; nothing if `cancel` came first."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()

    def __repr__(self) -> str:
        return f"<Timer {self.reason!r} at {self.deadline} {'active' if self.active else 'done'}>"


class Timers:
    """All deadlines of one gateway. Times are seconds of the monotonic clock, given by the caller."""

    def __init__(self) -> None:
        self._order = 0
        # Near: (deadline, creation order, timer), cancelled ones included until they surface.
        self._heap: list[tuple[float, int, Timer]] = []
        self._dead = 0
        # Far: bucket key -> creation order -> timer. Holds active timers only, and no empty bucket.
        self._far: dict[int, dict[int, Timer]] = {}
        self._far_count = 0
        # A heap of bucket keys; a key whose bucket has emptied stays until it surfaces or is compacted.
        self._keys: list[int] = []
        # Every bucket up to and including this one belongs to the heap.
        self._near: int | None = None

    def __len__(self) -> int:
        """How many timers are active, exactly."""
        return len(self._heap) - self._dead + self._far_count

    def after(self, now: float, delay_s: float, reason: str, callback: Callable[[], None]) -> Timer:
        """Arm a timer `delay_s` seconds after `now`; a delay below zero is due at once.

        Raises `LocalProtocolError` when the deadline is not a finite number.
        """
        if self._near is None and math.isfinite(now):
            self._near = int(now // HORIZON_S) + 1
        return self.at(now + delay_s, reason, callback)

    def at(self, deadline: float, reason: str, callback: Callable[[], None]) -> Timer:
        """Arm a timer for `deadline`. Raises `LocalProtocolError` when that is not a finite number."""
        if not math.isfinite(deadline):
            raise LocalProtocolError("a deadline must be a finite number of seconds")
        self._order += 1
        timer = Timer(self, deadline, self._order, reason, callback)
        key = int(deadline // HORIZON_S)
        if self._near is not None and key <= self._near:
            heappush(self._heap, (deadline, timer._order, timer))
            return timer
        timer._bucket = key
        bucket = self._far.get(key)
        if bucket is None:
            bucket = self._far[key] = {}
            heappush(self._keys, key)
        bucket[timer._order] = timer
        self._far_count += 1
        return timer

    def due(self, now: float) -> list[Timer]:
        """Take out every active timer whose deadline is not after `now`, by deadline, then by creation.

        They are no longer active; the caller runs each with `Timer.run`.
        """
        self._migrate(int(now // HORIZON_S) + 1)
        fired: list[Timer] = []
        heap = self._heap
        while heap and heap[0][0] <= now:
            timer = heappop(heap)[2]
            if timer._owner is None:
                self._dead -= 1
                continue
            timer._owner = None
            fired.append(timer)
        return fired

    def next_deadline(self) -> float | None:
        """When to call `due` again, or None when no timer is active.

        Exact when the next timer is near. When all are far it is the moment from which their first bucket
        belongs to the heap: earlier than the first deadline by at most two bucket widths, never later. To be
        woken then is harmless: `due` finds nothing, and the next answer is exact.
        """
        self._prune()
        if self._heap:
            return self._heap[0][0]
        # `due` takes buckets in one ahead of the current one.
        return (self._keys[0] - 1) * HORIZON_S if self._keys else None

    def next_reason(self) -> str | None:
        """The reason of the timer that is next. For people: it may look through one far bucket."""
        self._prune()
        if self._heap:
            return self._heap[0][2].reason
        if not self._keys:
            return None
        bucket = self._far[self._keys[0]]
        return min(bucket.values(), key=lambda timer: (timer.deadline, timer._order)).reason

    def _prune(self) -> None:
        """Drop what is dead from the tops of both heaps."""
        while self._heap and self._heap[0][2]._owner is None:
            heappop(self._heap)
            self._dead -= 1
        while self._keys and self._keys[0] not in self._far:
            heappop(self._keys)

    def _migrate(self, near: int) -> None:
        """Move every bucket up to `near` into the heap."""
        if self._near is None or near > self._near:
            self._near = near
        while self._keys and self._keys[0] <= self._near:
            bucket = self._far.pop(heappop(self._keys), None)
            if bucket is None:
                continue
            self._far_count -= len(bucket)
            for timer in bucket.values():
                timer._bucket = None
                heappush(self._heap, (timer.deadline, timer._order, timer))

    def _dropped(self, timer: Timer) -> None:
        """`timer` was cancelled while active."""
        if timer._bucket is None:
            self._dead += 1
            # Rebuilding costs what is alive plus what is dead, and is paid for by the cancellations since.
            if len(self._heap) >= _COMPACT_FROM and self._dead * 2 > len(self._heap):
                self._heap = [entry for entry in self._heap if entry[2]._owner is not None]
                heapify(self._heap)
                self._dead = 0
            return
        bucket = self._far[timer._bucket]
        del bucket[timer._order]
        self._far_count -= 1
        if bucket:
            return
        del self._far[timer._bucket]
        if len(self._keys) >= _COMPACT_FROM and len(self._keys) > 2 * len(self._far):
            self._keys = sorted(self._far)
