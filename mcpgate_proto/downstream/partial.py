"""A message that has not arrived in full: what it may weigh, and how long it may take.

Owns: `Partial`, for connections where messages follow each other without an envelope of HTTP around each.
Must never: blame a client for its pauses between two messages.
"""

from __future__ import annotations

from collections.abc import Callable

from mcpgate_proto.hub import Connection, Hub
from mcpgate_proto.timers import Timer

__all__ = ["Partial"]


class Partial:
    """Of one connection. `slow` is called when a message does not keep the least rate of an HTTP body
    (limits.body_grace_s, limits.body_rate_bytes_s); never with `patient`."""

    def __init__(self, hub: Hub, slow: Callable[[], None], patient: bool) -> None:
        self._hub = hub
        self._slow = slow
        self._patient = patient
        self._timer: Timer | None = None
        self._since = 0.0
        self._held = 0

    def note(self, conn: Connection | None, held: int, fresh: bool) -> bool:
        """After input: `held` bytes of a message are there, `fresh` if it began with this input. False: there
        is no memory for it."""
        if conn is None:
            return True
        if not held:
            self.stop()
        elif fresh or not self._held:
            self._since = self._hub.now
        self._held = held
        if held and self._timer is None and not self._patient:
            self._timer = self._hub.after(self._hub.limits.body_grace_s, "slow message", self._look)
        if (not held and not conn.unread) or conn.weigh(held):
            return True
        self._hub.count("refused_memory")
        return False

    def _look(self) -> None:
        """Timers are lazy: this one looks at when the message began, which may be a later one."""
        self._timer = None
        limits = self._hub.limits
        spent = self._hub.now - self._since
        if spent < limits.body_grace_s:
            self._timer = self._hub.at(self._since + limits.body_grace_s, "slow message", self._look)
        elif self._held < limits.body_rate_bytes_s * (spent - limits.body_grace_s / 2):
            self._hub.count("slow_messages")
            self._slow()
        else:
            self._timer = self._hub.after(limits.body_grace_s, "slow message", self._look)

    def stop(self) -> None:
        self._held = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
