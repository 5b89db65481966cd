"""A look at an endpoint of the new era: does it have sessions of the old one as well?

A server that speaks both eras need not say so in `server/discover` (G3), and one that speaks only the new era
should not be sent a handshake (F11, F15). A GET without a session tells them apart without a message: 405 is
what an endpoint without sessions answers (C25), anything else may come from one that has them.

Owns: that one GET. Must never: read more of the answer than its head.
"""

from __future__ import annotations

from collections.abc import Callable

from mcpgate_proto.hub import Hub
from mcpgate_proto.upstream.http_pool import Sent
from mcpgate_proto.wire.http1_grammar import Headers

__all__ = ["NO_SESSIONS", "Knock"]

NO_SESSIONS = 405


class Knock:
    """Implements `http_pool.Receiver`. `done` gets the status, or 0 when there was none in time; once."""

    def __init__(self, hub: Hub, done: Callable[[int], None]) -> None:
        self._done: Callable[[int], None] | None = done
        self._timer = hub.after(hub.limits.startup_wait_s, "knock", lambda: self._over(0))
        self._status = 0
        self.sent: Sent | None = None

    def _over(self, status: int) -> None:
        done, self._done = self._done, None
        self._timer.cancel()
        if done is not None:
            if self.sent is not None:
                self.sent.abandon()
            done(status)

    def stop(self) -> None:
        self._done = None
        self._timer.cancel()
        if self.sent is not None:
            self.sent.abandon()

    # -- Receiver

    def response_head(self, status: int, headers: Headers) -> None:
        self._status = status
        if status == 200:
            self._over(status)  # a stream, perhaps, which has no end

    def response_data(self, data: bytes) -> None:
        """Why it was refused."""

    def response_end(self) -> None:
        self._over(self._status)

    def response_failed(self, sent: bool, reason: str) -> None:
        self._over(0)
