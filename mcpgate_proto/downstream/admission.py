"""What credentials have to do with a request that is open: the wait for an issuer's keys before it, and the
end of what lives longer than a token (J10).

Owns: `Admission`, a request that is not let in yet, and `Lease`, the time that is left. Must never: decide.
"""

from __future__ import annotations

from collections.abc import Callable

from mcpgate_proto.hub import Hub
from mcpgate_proto.security.gate import Waiter
from mcpgate_proto.timers import Timer

__all__ = ["Admission", "Lease"]


class Admission:
    """Stands where the reply will be. Implements `http.Reply`."""

    owed = True

    def __init__(self, waiter: Waiter, body: bytes | None) -> None:
        # What of the request has arrived meanwhile: little, since nothing more is read.
        self.body = body
        self._waiter = waiter

    def client_gone(self, closed: bool) -> None:
        """A client that has only ended its sending side still gets its answer."""
        if closed:
            self._waiter.cancel()

    def client_pressed(self, high: bool) -> None:
        """Nothing is sent yet."""

    def expired(self) -> None:
        """Nothing was granted yet."""


class Lease:
    """Calls `over` once the time of day has reached `expires_wall`. Timers run on another clock, which nobody
    sets: so `check` is to be called whenever the time of day was told."""

    def __init__(self, hub: Hub, expires_wall: float, over: Callable[[], None]) -> None:
        self._hub = hub
        self._expires_wall = expires_wall
        self._over = over
        self._timer: Timer | None = None
        self._arm()

    def _arm(self) -> None:
        left_s = max(0.0, self._expires_wall - self._hub.wall)
        self._timer = self._hub.after(left_s, "credentials expire", self._due)

    def _due(self) -> None:
        self._timer = None
        if self._hub.wall < self._expires_wall:
            self._arm()
        else:
            self._over()

    def check(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._due()

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
