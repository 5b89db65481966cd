"""A server over HTTP+SSE of 2024-11-05: one event stream in, POSTs out.

Owns: the stream, the endpoint it announces (same origin only: E3), the POSTs.
Must never: post to another origin than the stream's, resume (there is no such thing: E5).
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urljoin, urlsplit

from mcpgate_proto.config import ServerConfig
from mcpgate_proto.hub import Hub
from mcpgate_proto.security.forward import pick
from mcpgate_proto.timers import Timer
from mcpgate_proto.upstream.channel import OpenRequests
from mcpgate_proto.upstream.http_pool import HttpRequest, Origin, Pool, Sent, base_headers
from mcpgate_proto.upstream.link import LinkOwner, Loss, Outgoing, note_redirect
from mcpgate_proto.wire import jsonrpc, sse
from mcpgate_proto.wire.http1_grammar import Headers

__all__ = ["SseLink"]

EVENTS = "text/event-stream"


class SseLink:
    """One session's way. Implements `upstream.link.Link`, and `http_pool.Receiver` for its stream."""

    single_channel = True

    def __init__(self, hub: Hub, config: ServerConfig, owner: LinkOwner, pool: Pool) -> None:
        self._hub = hub
        self._config = config
        self.owner = owner
        self.pid: int | None = None
        self.last_stderr: list[str] = []
        self.failure = ""
        self._pool = pool
        self._version: str | None = None
        self._base = base_headers(hub, pool.origin)
        self._stream: Sent | None = None
        self._events: sse.SseDecoder | None = None
        self._endpoint: str | None = None
        self._forwarding = [name.lower() for name in config.forward_headers]
        self._open = OpenRequests(self._pause)
        self._posts: dict[Posted, None] = {}
        self._timer: Timer | None = None
        self._gone = False

    def start(self) -> None:
        self._timer = self._hub.after(self._hub.limits.handshake_timeout_s, "sse endpoint", self._late)
        headers = [*self._base, *self._pool.headers, ("Accept", EVENTS)]
        wanted = HttpRequest("GET", self._pool.origin.target, headers, pinned=True)
        self._stream = self._pool.send(self, wanted)

    def _late(self) -> None:
        self._timer = None
        self._down("it announced no endpoint in time")

    # -- the stream

    def response_head(self, status: int, headers: Headers) -> None:
        if 300 <= status < 400:
            note_redirect(self._hub, self._config.name, status)
        if status != 200 or headers.media_type != EVENTS:
            self._down(f"its event stream was refused (HTTP {status})")
            return
        self._events = sse.SseDecoder(self._hub.limits.sse_event_bytes)

    def response_data(self, data: bytes) -> None:
        if self._events is None:
            return
        for event in self._events.receive(data):
            if isinstance(event, sse.SseTooLong):
                self._down("it sent an event larger than limits.sse_event_bytes")
                return
            if event.event == "endpoint" and self._endpoint is None:
                self._announced(event.data)
            elif event.event in ("message", "") and event.data and self._endpoint is not None:
                self._messages(event.data)

    def _announced(self, data: bytes) -> None:
        """E3: relative to the stream's URL, and never another origin, which would get our credentials."""
        told = data.decode("utf-8", "replace").strip()
        try:
            url = urljoin(self._config.url, told)
            parts = urlsplit(url)
            target = Origin.parse(url)
        except ValueError:
            self._down("it announced an endpoint that is no URL")
            return
        mine = self._pool.origin
        same = (target.tls, target.host, target.port) == (mine.tls, mine.host, mine.port)
        plain = all(0x21 <= ord(char) <= 0x7E for char in target.target)
        if not same or parts.username is not None or not plain:
            self._down("it announced an endpoint of another origin")
            return
        self._endpoint = target.target
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.owner.link_up()

    def _messages(self, data: bytes) -> None:
        for message in jsonrpc.decode(data, self._hub.limits, allow_batch=True):
            if isinstance(message, jsonrpc.Malformed):
                self._hub.count("upstream_garbage_messages")
                continue
            if isinstance(message, jsonrpc.Result | jsonrpc.ErrorReply) and isinstance(message.id, int):
                self._open.done(message.id)
            if not self._gone:
                self.owner.link_message(message, None)

    def response_end(self) -> None:
        self._down("its event stream ended")

    def response_failed(self, sent: bool, reason: str) -> None:
        self._down(reason)

    # -- requests

    def _post(
        self,
        message: bytes,
        request: int | None,
        done: Callable[[], None] | None = None,
        extra: tuple[tuple[str, str], ...] = (),
    ) -> None:
        if self._gone or self._endpoint is None:
            return
        headers = [*self._base, *self._pool.headers, ("Content-Type", "application/json")]
        headers += [("Accept", "application/json"), *extra]
        if self._version is not None:
            headers.append(("MCP-Protocol-Version", self._version))
        posted = Posted(self, request, done)
        posted.ticket = self._pool.send(posted, HttpRequest("POST", self._endpoint, headers, message))
        posted.timer = self._hub.after(self._hub.limits.notify_timeout_s, "sse post", posted.expire)
        self._posts[posted] = None

    def request(self, outgoing: Outgoing) -> None:
        self._open.add(outgoing.id)
        self._post(outgoing.message, outgoing.id, extra=pick(outgoing.forwarded, self._forwarding))

    def notify(self, message: bytes) -> None:
        self._post(message, None)

    def introduce(self, message: bytes, done: Callable[[], None]) -> None:
        self._post(message, None, done)

    def reply(self, message: bytes, origin: int | None) -> None:
        self._post(message, None)

    def refused(self, request: int, loss: Loss, status: int) -> None:
        if request in self._open:
            self._open.done(request)
            self.owner.link_lost(request, loss, status)

    def unsent(self, request: int) -> bool:
        return any(
            posted.request == request and posted.ticket is not None and not posted.ticket.sent
            for posted in self._posts
        )

    def abandon(self, request: int) -> None:
        self._open.done(request)
        for posted in list(self._posts):
            if posted.request == request:
                posted.drop()

    def posted(self, posted: Posted) -> None:
        self._posts.pop(posted, None)

    def throttle(self, request: int, on: bool) -> None:
        self._open.throttle(request, on)

    def _pause(self, on: bool) -> None:
        if self._stream is not None:
            self._stream.throttle(on)

    def congested(self) -> bool:
        return False

    def full(self) -> bool:
        return len(self._posts) >= self._hub.limits.http_connections_per_server

    def knock(self, done: Callable[[int], None]) -> None:
        """The stream is open: there are sessions."""
        done(0)

    def expect_session(self) -> None:
        """The stream is the session."""

    def speak(self, version: str) -> None:
        self._version = version

    def listen(self, done: Callable[[], None]) -> None:
        """The stream carries everything."""
        done()

    def stop(self) -> None:
        self._down("stopped")

    def _down(self, reason: str) -> None:
        if self._gone:
            return
        self._gone = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._stream is not None:
            self._stream.abandon()
        for posted in list(self._posts):
            posted.drop()
        self.owner.link_down(reason)


class Posted:
    """The response to one POST: 2xx says that it arrived, the answer comes on the stream."""

    def __init__(self, link: SseLink, request: int | None, done: Callable[[], None] | None) -> None:
        self._link = link
        self._done = done
        self.request = request
        self.ticket: Sent | None = None
        self.timer: Timer | None = None
        self._status = 0

    def drop(self) -> None:
        """Nobody waits for it any more."""
        if self.timer is not None:
            self.timer.cancel()
        if self.ticket is not None:
            self.ticket.abandon()
        self._link.posted(self)
        done, self._done = self._done, None
        if done is not None:
            done()

    def expire(self) -> None:
        self.drop()
        self._tell(Loss.BROKEN)

    def response_head(self, status: int, headers: Headers) -> None:
        self._status = status

    def response_data(self, data: bytes) -> None:
        """Some servers say "Accepted"."""

    def response_end(self) -> None:
        self.drop()
        if not 200 <= self._status < 300:
            self._tell(Loss.REFUSED)

    def response_failed(self, sent: bool, reason: str) -> None:
        self.drop()
        self._tell(Loss.BROKEN if sent else Loss.UNSENT)

    def _tell(self, loss: Loss) -> None:
        if self.request is not None:
            self._link.refused(self.request, loss, self._status)
