"""One channel that many requests share: a pipe, a socket, an event stream.

Owns: which requests are open on it, and whether it should be read: it is paused only while nobody else
waits for it, for one slow client must not stop another's answers. What it alone asked for is then bounded
by its own connection's hard bound. And `ChannelLink`, what links over one connection have in common.
Must never: know what is sent.
"""

from __future__ import annotations

from collections.abc import Callable

from mcpgate_proto.hub import Connection
from mcpgate_proto.upstream.link import Outgoing

__all__ = ["ChannelLink", "OpenRequests"]


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


class ChannelLink:
    """The part of `upstream.link.Link` that is the same on every connection which carries all messages:
    there is no stream per request, no version and no session id beside the channel itself."""

    single_channel = True

    def __init__(self) -> None:
        self.pid: int | None = None
        self.last_stderr: list[str] = []
        self.failure = ""
        self._conn: Connection | None = None
        self._open = OpenRequests(self._pause)

    def notify(self, message: bytes) -> None:
        raise NotImplementedError

    def request(self, outgoing: Outgoing) -> None:
        if not outgoing.pinned:
            self._open.add(outgoing.id)  # a listen waits for nothing in particular
        self.notify(outgoing.message)

    def introduce(self, message: bytes, done: Callable[[], None]) -> None:
        self.notify(message)
        done()

    def reply(self, message: bytes, origin: int | None) -> None:
        self.notify(message)

    def unsent(self, request: int) -> bool:
        return False

    def abandon(self, request: int) -> None:
        self._open.done(request)

    def throttle(self, request: int, on: bool) -> None:
        self._open.throttle(request, on)

    def _pause(self, on: bool) -> None:
        if self._conn is None:
            return
        if on:
            self._conn.hold("clients are slow")
        else:
            self._conn.release("clients are slow")

    def congested(self) -> bool:
        return self._conn is not None and self._conn.pressed

    def full(self) -> bool:
        return self._conn is not None and self._conn.full

    def knock(self, done: Callable[[int], None]) -> None:
        """Only a message tells what there is at the other end."""
        done(0)

    def expect_session(self) -> None:
        """The connection is the session."""

    def speak(self, version: str) -> None:
        """The connection carries no version."""

    def listen(self, done: Callable[[], None]) -> None:
        """One channel, already open."""
        done()
