"""A server over Streamable HTTP: each message a POST, answers as JSON or as an event stream.

Owns: the requests to one endpoint in one era: headers, both answer shapes, resumption of a legacy
stream (D9), the legacy GET stream (D12), the reading of statuses (D6, D10).
Must never: know what the messages mean, retry a request, follow a redirect, relay a 401's challenge.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from mcpgate_proto.config import ServerConfig
from mcpgate_proto.hub import Hub
from mcpgate_proto.security.forward import pick
from mcpgate_proto.timers import Timer
from mcpgate_proto.upstream.http_pool import HttpRequest, Pool, Sent, base_headers
from mcpgate_proto.upstream.knock import Knock
from mcpgate_proto.upstream.link import LinkOwner, Loss, Outgoing, note_redirect
from mcpgate_proto.wire import jsonrpc, sse
from mcpgate_proto.wire.http1_grammar import Headers

__all__ = ["HttpLink"]

JSON = "application/json"
EVENTS = "text/event-stream"
RESUMES = 5  # attempts to resume one stream without a new event in between
RETRY_FIRST_S = 1.0
RETRY_LAST_S = 30.0
GET_WAIT_S = 1.0
# A server that says `retry: 0` does not mean a hot loop.
RETRY_LEAST_S = 0.1


class Post:
    """The response to one POST, and what becomes of its stream. `request` None: a notification."""

    def __init__(self, link: HttpLink, request: int | None, done: Callable[[], None] | None = None) -> None:
        self.link = link
        self.request = request
        self.ticket: Sent | None = None
        self.answered = request is None
        self.status = 0
        self.retry_ms: int | None = None
        self.last_id: str | None = None
        self._attempts = 0
        self._events: sse.SseDecoder | None = None
        self._body: list[bytes] = []
        self._size = 0
        self._json = False
        self._timer: Timer | None = None
        self.abandoned = False
        # Called once the server has taken the message, or never will.
        self.done = done

    # -- Receiver

    def response_head(self, status: int, headers: Headers) -> None:
        self.status = status
        kind = headers.media_type
        self._events = sse.SseDecoder(self.link.hub.limits.sse_event_bytes) if kind == EVENTS else None
        self._json = kind == JSON
        self._body = []
        self._size = 0
        if status == 200:
            self.link.headers_of(self, headers)
        elif 300 <= status < 400:
            note_redirect(self.link.hub, self.link.name, status)

    def response_data(self, data: bytes) -> None:
        if self._events is None:
            self._size += len(data)
            if self._size > self.link.hub.limits.message_bytes:
                self._over("its answer is larger than limits.message_bytes")
                return
            self._body.append(data)
            return
        for event in self._events.receive(data):
            if isinstance(event, sse.SseTooLong):
                self._over("it sent an event larger than limits.sse_event_bytes")
                return
            self._event(event)

    def _event(self, event: sse.SseEvent) -> None:
        if event.id is not None:
            self.last_id = event.id if _usable(event.id) else None
        if event.retry_ms is not None:
            self.retry_ms = event.retry_ms
        # Priming events have an id and empty data (C34): nothing to decode.
        if not event.data or event.event not in ("message", ""):
            return
        self._attempts = 0
        self.link.body(self, event.data)
        if self.answered and self.request is not None and self._timer is None and not self.abandoned:
            # S: the stream ends after the answer. One that does not would keep its connection for ever.
            wait_s = self.link.hub.limits.close_timeout_s
            self._timer = self.link.hub.after(wait_s, "answered stream", self._close_answered)

    def _close_answered(self) -> None:
        self._timer = None
        if self.ticket is not None:
            self.ticket.abandon()
        self.link.finished(self)

    def _over(self, reason: str) -> None:
        self.link.hub.count("upstream_messages_too_long")
        self.link.hub.emit("error", "server_answer_too_large", server=self.link.name, reason=reason)
        if self.ticket is not None:
            self.ticket.abandon()
        self._lose(Loss.BROKEN)

    def response_end(self) -> None:
        if self._events is not None:
            self._stream_ended()
            return
        body = b"".join(self._body)
        self._body = []
        if self.status in (200, 202, 204) and (self.request is None or not body):
            if not self.answered:
                self._lose(Loss.BROKEN)
            self.link.finished(self)
            return
        # D6: a JSON-RPC error in the body of any status speaks before the status.
        if self._json and body and self.link.body(self, body):
            if not self.answered:
                self._lose(Loss.BROKEN)
            self.link.finished(self)
            return
        self._lose(self._refusal())

    def _refusal(self) -> Loss:
        if self.status == 404 and self.link.session is not None:
            return Loss.SESSION_GONE
        return Loss.REFUSED

    def response_failed(self, sent: bool, reason: str) -> None:
        self.link.failure = reason
        self.link.hub.emit("debug", "http_request_failed", server=self.link.name, reason=reason)
        if self._events is not None or (self.last_id is not None and not self.answered):
            self._stream_ended()
            return
        self._lose(Loss.BROKEN if sent else Loss.UNSENT)

    # -- the end of a stream

    def _stream_ended(self) -> None:
        """An unanswered legacy stream with event ids is resumed, never asked again (D9)."""
        self._events = None
        if self.answered or self.abandoned:
            self.link.finished(self)
            return
        if self.last_id is None or not self.link.resumable or self._attempts >= RESUMES:
            self._lose(Loss.BROKEN)
            return
        self._attempts += 1
        delay = (
            self.retry_ms / 1000 if self.retry_ms is not None else self.link.hub.entropy.jitter(RETRY_FIRST_S)
        )
        self._timer = self.link.hub.after(
            min(max(delay, RETRY_LEAST_S), RETRY_LAST_S), "stream resume", self._resume
        )

    def _resume(self) -> None:
        self._timer = None
        if not self.abandoned and self.last_id is not None:
            self.ticket = self.link.get(self, self.last_id)

    def _lose(self, loss: Loss) -> None:
        self.link.finished(self)
        if not self.answered and self.request is not None:
            self.answered = True
            self.link.owner.link_lost(self.request, loss, self.status)
        elif self.request is None and loss in (Loss.SESSION_GONE, Loss.REFUSED):
            self.link.hub.emit("warning", "server_refused_message", server=self.link.name, status=self.status)

    def expire(self, after_s: float) -> None:
        """Nobody waits for the response to a notification; it must not hold a connection either."""
        if self._timer is None:
            self._timer = self.link.hub.after(after_s, "notification", self._close_answered)

    def settle(self) -> None:
        """Nothing more is waited for."""
        done, self.done = self.done, None
        if done is not None:
            self.link.hub.after(0.0, "introduced", done)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def abandon(self) -> None:
        self.abandoned = True
        self.answered = True
        if self._timer is not None:
            self._timer.cancel()
        if self.ticket is not None:
            self.ticket.abandon()


def _means_this(post: Post, error: jsonrpc.ErrorReply) -> bool:
    """Whether an error is about the POST that it answers: without an id (A7), or with whatever id on a
    refusal, for servers that refuse before they read the body make one up."""
    return error.id is None or post.status != 200


def _usable(id: str) -> bool:
    """An event id goes back in a header: visible ASCII and short, or the stream cannot be resumed."""
    return 0 < len(id) <= 256 and all(0x20 < ord(char) < 0x7F for char in id)


class GetStream:
    """The legacy server's own stream (D12): kept open, reopened with its last event id; 405 means none."""

    def __init__(self, link: HttpLink, opened: Callable[[], None]) -> None:
        self.link = link
        self._opened: Callable[[], None] | None = opened
        # A server that begins its response with the first event must not hold everything up.
        self._patience = link.hub.after(GET_WAIT_S, "stream open", self._settled)
        self.ticket: Sent | None = None
        self._events: sse.SseDecoder | None = None
        self._status = 0
        self._last_id: str | None = None
        self._retry_s = RETRY_FIRST_S
        self._timer: Timer | None = None
        self._stopped = False

    def _settled(self) -> None:
        opened, self._opened = self._opened, None
        self._patience.cancel()
        if opened is not None:
            opened()

    def open(self) -> None:
        self._timer = None
        if not self._stopped:
            self.ticket = self.link.get(self, self._last_id)

    def response_head(self, status: int, headers: Headers) -> None:
        self._status = status
        if status == 200 and headers.media_type == EVENTS:
            self._events = sse.SseDecoder(self.link.hub.limits.sse_event_bytes)
        self._settled()

    def response_data(self, data: bytes) -> None:
        if self._events is None:
            return
        for event in self._events.receive(data):
            if isinstance(event, sse.SseTooLong):
                continue
            if event.id is not None:
                self._last_id = event.id if _usable(event.id) else None
            if event.retry_ms is not None:
                self._retry_s = min(max(event.retry_ms / 1000, RETRY_LEAST_S), RETRY_LAST_S)
            if event.data and event.event in ("message", ""):
                self.link.body(None, event.data)

    def response_end(self) -> None:
        if self._events is None and self._status != 200:
            if self._status == 404 and self.link.session is not None:
                self.link.owner.link_lost(-1, Loss.SESSION_GONE, 404)
            return  # 405 and the like: there is no such stream, and asking again would be a loop (D12)
        self._again()

    def response_failed(self, sent: bool, reason: str) -> None:
        self._settled()
        self._again()

    def _again(self) -> None:
        self._events = None
        if not self._stopped:
            delay = self.link.hub.entropy.jitter(self._retry_s)
            self._retry_s = min(max(self._retry_s, RETRY_FIRST_S) * 2, RETRY_LAST_S)
            self._timer = self.link.hub.after(delay, "stream reopen", self.open)

    def stop(self) -> None:
        self._stopped = True
        self._patience.cancel()
        if self._timer is not None:
            self._timer.cancel()
        if self.ticket is not None:
            self.ticket.abandon()


class HttpLink:
    """One endpoint, one era: requests in flight by id."""

    single_channel = False

    def __init__(self, hub: Hub, config: ServerConfig, owner: LinkOwner, pool: Pool) -> None:
        self.hub = hub
        self.name = config.name
        self.owner = owner
        self.session: str | None = None
        self.resumable = False
        self.pid: int | None = None
        self.last_stderr: list[str] = []
        self.failure = ""
        self._pool = pool
        self._version: str | None = None
        self._minting = False
        self._target = pool.origin.target
        self._base = base_headers(hub, pool.origin)
        self._forwarding = [name.lower() for name in config.forward_headers]
        self._posts: dict[int, Post] = {}
        self._others: dict[Post, None] = {}
        self._get: GetStream | None = None
        self._knock: Knock | None = None
        self._stopped = False

    def start(self) -> None:
        """HTTP has nothing to open; the first request tells whether the server is there."""
        self.hub.after(0.0, "link up", self._up)

    def _up(self) -> None:
        if not self._stopped:
            self.owner.link_up()

    # -- requests

    def _headers(self, extra: tuple[tuple[str, str], ...], accept: str) -> list[tuple[str, str]]:
        headers = [*self._base, *self._pool.headers, ("Accept", accept), *extra]
        if self._version is not None:
            headers.append(("MCP-Protocol-Version", self._version))
        if self.session is not None:
            headers.append(("Mcp-Session-Id", self.session))
        return headers

    def _post(
        self,
        post: Post,
        message: bytes,
        extra: tuple[tuple[str, str], ...],
        pinned: bool = False,
        whose: str = "",
        brief: bool = True,
    ) -> None:
        headers = self._headers(extra, f"{JSON}, {EVENTS}")
        headers.append(("Content-Type", JSON))
        request = HttpRequest("POST", self._target, headers, message, pinned, whose=whose, brief=brief)
        post.ticket = self._pool.send(post, request)

    def request(self, outgoing: Outgoing) -> None:
        post = Post(self, outgoing.id)
        self._posts[outgoing.id] = post
        headers = (*outgoing.headers, *pick(outgoing.forwarded, self._forwarding))
        self._post(post, outgoing.message, headers, outgoing.pinned, outgoing.whose, outgoing.brief)

    def notify(self, message: bytes) -> None:
        self._tell(message, None)

    def introduce(self, message: bytes, done: Callable[[], None]) -> None:
        self._tell(message, done)

    def _tell(self, message: bytes, done: Callable[[], None] | None) -> None:
        post = Post(self, None, done)
        self._others[post] = None
        self._post(post, message, ())
        post.expire(self.hub.limits.notify_timeout_s)

    def reply(self, message: bytes, origin: int | None) -> None:
        self.notify(message)

    def get(self, receiver: Post | GetStream, last_id: str | None) -> Sent:
        extra = (("Last-Event-ID", last_id),) if last_id else ()
        request = HttpRequest("GET", self._target, self._headers(extra, EVENTS), pinned=True)
        return self._pool.send(receiver, request)

    def body(self, post: Post | None, data: bytes) -> bool:
        """One body or event: hand its messages on. False when it is none."""
        known = False
        origin = post.request if post is not None else None
        for message in jsonrpc.decode(data, self.hub.limits, allow_batch=True):
            if isinstance(message, jsonrpc.Malformed):
                self.hub.count("upstream_garbage_messages")
                continue
            known = True
            if isinstance(message, jsonrpc.Result | jsonrpc.ErrorReply):
                if post is None or post.answered:
                    continue  # a response belongs to the stream of its request (C30)
                if isinstance(message, jsonrpc.ErrorReply) and origin is not None:
                    if _means_this(post, message):
                        message = msgspec.structs.replace(message, id=origin)
                if message.id != origin:
                    self.hub.count("upstream_unknown_responses")
                    continue
                post.answered = True
                self._posts.pop(post.request or 0, None)
            self.owner.link_message(message, origin)
        return known

    def headers_of(self, post: Post, headers: Headers) -> None:
        """A session id comes on the response that carries InitializeResult (C27)."""
        told = headers.get("mcp-session-id")
        if told is not None and self._minting and 0 < len(told) <= 256:
            if all(0x21 <= ord(char) <= 0x7E for char in told):
                self.session = told

    def finished(self, post: Post) -> None:
        post.settle()
        self._others.pop(post, None)
        if post.request is not None and self._posts.get(post.request) is post:
            del self._posts[post.request]

    def unsent(self, request: int) -> bool:
        post = self._posts.get(request)
        return post is not None and post.ticket is not None and not post.ticket.sent

    def abandon(self, request: int) -> None:
        post = self._posts.pop(request, None)
        if post is not None:
            post.abandon()

    def throttle(self, request: int, on: bool) -> None:
        post = self._posts.get(request)
        if post is not None and post.ticket is not None:
            post.ticket.throttle(on)

    def congested(self) -> bool:
        return False

    def full(self) -> bool:
        return False

    def knock(self, done: Callable[[int], None]) -> None:
        self._knock = Knock(self.hub, done)
        request = HttpRequest("GET", self._target, self._headers((), EVENTS))
        self._knock.sent = self._pool.send(self._knock, request)

    def expect_session(self) -> None:
        self._minting = True

    def speak(self, version: str) -> None:
        self._minting = False
        self._version = version
        self.resumable = True

    def listen(self, done: Callable[[], None]) -> None:
        if self._get is None and not self._stopped:
            self._get = GetStream(self, done)
            self._get.open()

    def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        if self._get is not None:
            self._get.stop()
        if self._knock is not None:
            self._knock.stop()
        if self.session is not None:
            # S: DELETE when done (D10). Nobody waits for its answer.
            request = HttpRequest("DELETE", self._target, self._headers((), JSON), farewell=True)
            self._pool.send(Farewell(), request)
        for post in list(self._posts.values()):
            post.abandon()
        self._posts.clear()
        self.owner.link_down("stopped")


class Farewell:
    """The response to DELETE, which changes nothing."""

    def response_head(self, status: int, headers: Headers) -> None: ...
    def response_data(self, data: bytes) -> None: ...
    def response_end(self) -> None: ...
    def response_failed(self, sent: bool, reason: str) -> None: ...
