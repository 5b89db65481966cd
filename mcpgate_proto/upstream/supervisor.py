"""When a failed server is tried again, and whether it still lives.

Owns: the count of failures in a row, backoff with jitter, the circuit (open after the second failure:
callers are told at once), the health checks of ready sessions.
Must never: know sessions' protocols; give up for good.
"""

from __future__ import annotations

from collections.abc import Callable

from mcpgate_proto.hub import Hub
from mcpgate_proto.timers import Timer

__all__ = ["Supervisor"]


class Supervisor:
    """The fate of one server. `again` is called when it is time to try."""

    def __init__(self, hub: Hub, server: str, again: Callable[[], None]) -> None:
        self._hub = hub
        self._server = server
        self._again = again
        self._timer: Timer | None = None
        self._up_since: float | None = None
        self.failures = 0
        self.restarts = 0
        self.reason = ""

    @property
    def waiting(self) -> bool:
        """A retry is due later."""
        return self._timer is not None

    @property
    def circuit_open(self) -> bool:
        """The first failure may be an accident, and callers wait for the restart; from the second on they
        are told at once."""
        return self._timer is not None and self.failures > 1

    def failed(self, reason: str) -> None:
        limits = self._hub.limits
        if self._timer is not None:
            return  # the same trouble, seen by another session
        if self._up_since is not None and self._hub.now - self._up_since >= limits.restart_last_s:
            self.failures = 0
        self._up_since = None
        self.failures += 1
        self.restarts += 1
        self.reason = reason
        delay = min(limits.restart_first_s * 2 ** min(self.failures - 1, 16), limits.restart_last_s)
        delay = self._hub.entropy.jitter(delay)
        retry_in_s = round(delay, 3)
        self._hub.emit("warning", "server_down", server=self._server, reason=reason, retry_in_s=retry_in_s)
        self._timer = self._hub.after(delay, "server restart", self._due)

    def _due(self) -> None:
        self._timer = None
        self._again()

    def recovered(self) -> None:
        """It works again. Only after it has done so for a while do earlier failures no longer count: a server
        that greets and then dies must not be restarted at full speed."""
        if self._up_since is None:
            self._up_since = self._hub.now
        self.reason = ""

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
