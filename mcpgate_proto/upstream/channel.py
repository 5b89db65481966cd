"""One channel that many requests share: a pipe, a socket, an event stream.

Owns: which requests are open on it, and whether it should be read: it is paused only while nobody else
waits for it, for one slow client must not stop another's answers. What it alone asked for is then bounded
by its own connection's hard bound.
Must never: know what is sent.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["OpenRequests"]


class OpenRequests:
    """The requests that wait for an answer on one channel. `pause` is told whether to stop reading it."""

    def __init__(self, pause: Callable[[bool], None]) -> None:
        self._pause = pause
        self._open: dict[int, None] = {}
        self._throttled: dict[int, None] = {}

    def __contains__(self, request: object) -> bool:
        return request in self._open

    def add(self, request: int) -> None:
        self._open[request] = None
        self._balance()

    def done(self, request: int) -> None:
        self._open.pop(request, None)
        self._throttled.pop(request, None)
        self._balance()

    def throttle(self, request: int, on: bool) -> None:
        if on and request in self._open:
            self._throttled[request] = None
        else:
            self._throttled.pop(request, None)
        self._balance()

    def clear(self) -> None:
        self._open.clear()
        self._throttled.clear()

    def _balance(self) -> None:
        self._pause(bool(self._throttled) and len(self._throttled) == len(self._open))
