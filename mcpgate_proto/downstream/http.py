"""One HTTP connection of a client.

Owns: the order of checks up to the method (head syntax, Host, Origin, preflight, path, method, content
type, Accept, body), the timers of a connection (head, body rate, keep-alive, SSE comment), the bytes of
responses. What a request means is the `Endpoint`'s business.
Must never: parse JSON; hold a response open that nobody will end; let a header decide without its check.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mcpgate_proto.downstream.admission import Admission, Lease
from mcpgate_proto.downstream.http_headers import (
    ALLOWED_METHODS,
    EVENTS,
    JSON,
    REQUEST_METHOD,
    RETRY_SOON,
    STREAM_HEADERS,
    accepts,
    cors,
    preflight,
)
from mcpgate_proto.downstream.pace import DENIED, Pace, refused_body
from mcpgate_proto.effects import Peer, TlsFacts
from mcpgate_proto.hub import Connection, Hub
from mcpgate_proto.mcp import codes
from mcpgate_proto.security.address import NOWHERE, Source
from mcpgate_proto.security.door import Door
from mcpgate_proto.security.gate import Gate, Pending, Refusal
from mcpgate_proto.security.principal import Grant, Principal
from mcpgate_proto.security.rate import Limited
from mcpgate_proto.timers import Timer
from mcpgate_proto.wire import http1_server as http1
from mcpgate_proto.wire import jsonrpc, sse
from mcpgate_proto.wire import websocket_handshake as handshake

__all__ = ["Endpoint", "HttpClient", "Open", "Reply"]


class Reply(Protocol):
    """The response under way on a connection, as the connection sees it. `owed`: somebody waits for its end,
    which a shutdown should let come."""

    owed: bool

    def client_gone(self, closed: bool) -> None:
        """The client's end of stream (`closed` false: it may still read), or the end of the connection."""

    def client_pressed(self, high: bool) -> None: ...

    def expired(self) -> None:
        """The credentials are no longer good (J10): what goes on and on ends, a call gets its answer."""


class Open(Protocol):
    """What is behind a path that needs no credentials: something to read, and nothing else."""

    def get(self, http: HttpClient, head: http1.RequestHead) -> None: ...


class Endpoint(Open, Protocol):
    """What is behind a path. It refuses the methods that it does not have."""

    def post(self, http: HttpClient, head: http1.RequestHead, body: bytes) -> None: ...
    def delete(self, http: HttpClient, head: http1.RequestHead) -> None: ...


class HttpClient:
    """One connection. Implements `hub.Handler`."""

    def __init__(
        self,
        hub: Hub,
        door: Door,
        gate: Gate,
        pace: Pace,
        peer: Peer,
        routes: dict[str, Endpoint],
        open_routes: dict[str, Open],
        gone: Callable[[HttpClient], None],
        upgrade: Callable[[HttpClient, bytes], None] | None = None,
    ) -> None:
        self.hub = hub
        # Of the request under way; before its gate, what is known of the connection.
        self.grant: Grant = gate.by_peer(peer)
        self.gate = gate
        self._pace = pace
        # Where the connection comes from, and the request under way; and the limit that it has run into.
        self.came_from: Source = NOWHERE
        self.source: Source = NOWHERE
        self._limited: Limited | None = None
        self._peer = peer
        self._door = door
        # Exact, undecoded paths (threats.md 3); the open ones need no credentials.
        self._routes = routes
        self._open = open_routes
        self._gone = gone
        # Takes the connection over for WebSocket, with what has arrived beyond the request.
        self._upgrade = upgrade
        self._codec = http1.HttpServerCodec(hub.limits)
        self.conn: Connection | None = None
        self.reply: Reply | None = None
        self.head: http1.RequestHead | None = None
        self._cors: list[tuple[str, str]] = []
        self._timer: Timer | None = None
        self._comment: Timer | None = None
        self._lease: Lease | None = None
        self._written_at = 0.0
        self._body_since = 0.0
        self.body_bytes = 0
        self._eof = False

    @property
    def principal(self) -> Principal:
        return self.grant.principal

    def attach(self, conn: Connection) -> None:
        self.conn = conn
        self._arm(self.hub.limits.head_timeout_s, "http head", self._head_late)

    # -- Handler

    def connected(self, peer: Peer, tls: TlsFacts | None) -> None:
        """Accepted, not dialled."""

    def connect_failed(self, reason: str) -> None:
        """Accepted, not dialled."""

    def received_stderr(self, data: bytes) -> None:
        """Not a child."""

    def exited(self, status: int) -> None:
        """Not a child."""

    def received(self, data: bytes) -> None:
        self._handle(self._codec.receive(data))
        self._after_input()

    def received_eof(self) -> None:
        self._eof = True
        self._handle(self._codec.receive_eof())
        if self.reply is None and self._codec.phase in (
            http1.Phase.HEAD,
            http1.Phase.CLOSED,
            http1.Phase.CLOSING,
        ):
            self.close()

    def _after_input(self) -> None:
        """Timers follow the phase; more than one request's worth is not read while one is answered."""
        conn = self.conn
        if conn is None:
            return
        phase = self._codec.phase
        if phase is http1.Phase.RESPOND:
            self._disarm()
            if self._codec.buffered:
                conn.hold("pipelined")
        elif phase is http1.Phase.CLOSING and self._codec.discarded > self.hub.limits.discard_bytes:
            self.close()
        if not conn.weigh(self._codec.held) and self.reply is None:
            self.hub.count("refused_memory")
            self.refuse(503, "too much is being received; try again", [RETRY_SOON], close=True)
            conn.weigh(self._codec.held)

    def pressed(self, high: bool) -> None:
        if self.reply is not None:
            self.reply.client_pressed(high)
        elif not high:
            self._go_on()

    def closed(self, reason: str) -> None:
        self.conn = None
        self._disarm()
        self._end_comments()
        self._end_lease()
        reply, self.reply = self.reply, None
        if reply is not None:
            reply.client_gone(True)
        self._gone(self)

    def drop_reply(self) -> None:
        """The response under way will not be finished: its client is gone."""
        self.reply = None
        self._end_lease()
        self._end_comments()
        self.close()

    def close(self) -> None:
        if self.conn is not None:
            self.conn.close()

    # -- timers

    def _arm(self, delay_s: float, reason: str, callback: Callable[[], None]) -> None:
        self._disarm()
        self._timer = self.hub.after(delay_s, reason, callback)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _idle(self) -> None:
        """Between requests: a short time once bytes have come, the keep-alive time otherwise."""
        self._timer = None
        if self._codec.head_started:
            self._arm(self.hub.limits.head_timeout_s, "http head", self._head_late)
        else:
            self.close()

    def _head_late(self) -> None:
        self._timer = None
        if not self._codec.head_started:
            self.close()
            return
        self.hub.count("http_slow_heads")
        self.refuse(408, "the request head took too long", close=True)

    def _body_slow(self) -> None:
        """After a first grace, a body keeps a least rate (threats.md 3, slowloris)."""
        self._timer = None
        limits = self.hub.limits
        spent = self.hub.now - self._body_since
        if self._codec.body_bytes < limits.body_rate_bytes_s * (spent - limits.body_grace_s / 2):
            self.hub.count("http_slow_bodies")
            self.refuse(408, "the request body came too slowly", close=True)
        else:
            self._arm(limits.body_grace_s, "http body", self._body_slow)

    # -- requests

    def _handle(self, events: list[http1.ServerEvent]) -> None:
        for event in events:
            kind = type(event)
            if kind is http1.RequestHead:
                self._opened(event)  # type: ignore[arg-type]
            elif kind is http1.RequestBody:
                if self.head is None:
                    continue  # refused at its head already
                if isinstance(self.reply, Admission):
                    self.reply.body = event.data  # type: ignore[union-attr]
                    continue
                self._complete(event.data)  # type: ignore[union-attr]
            elif kind is http1.Refused:
                self.hub.count("http_refused")
                self._cors = []
                if isinstance(self.reply, Admission):
                    self.reply.client_gone(True)
                self.refuse(event.status, event.reason, close=True)  # type: ignore[union-attr]
            else:
                self._peer_closed(kind is http1.Aborted)

    def _peer_closed(self, aborted: bool) -> None:
        if self.reply is not None and aborted and isinstance(self.reply, Admission):
            self.stop()  # the rest of the request will not come
        elif self.reply is not None:
            self.reply.client_gone(False)
        else:
            self.close()

    def _opened(self, head: http1.RequestHead) -> None:
        """The order of checks of design.md, each with one status: the door, then who it is, then where to."""
        self._disarm()
        self.head = head
        self._cors = []
        self._limited = None
        source = self._pace.requesting(self.came_from, self._peer, head.headers)
        if source is None:
            self.refuse(403, DENIED)
            return
        self.source = source
        wrong = self._knock(head)
        if wrong is not None:
            self._pace.unknown(source, wrong, head.headers)
            self.refuse(403, wrong)
        elif (limited := self._pace.rates.address(source)) is not None:
            self._wait(limited, head)
        elif head.method == "OPTIONS" and self._cors and REQUEST_METHOD in head.headers:
            self._preflight(head)
        elif head.path in self._open:
            self._open_to_all(head)
        else:
            self._admit(head)

    def _knock(self, head: http1.RequestHead) -> str | None:
        """Host and Origin (C2). Why the request may not come in, or None."""
        headers = head.headers
        host = headers.get("host")
        wrong = self._door.check_host(host)
        if wrong is not None:
            return wrong
        origins = headers.get_all("origin")
        if len(origins) > 1:
            return "the Origin header is repeated"
        origin = origins[0] if origins else None
        wrong = self._door.check_origin(origin, host)
        if wrong is None and origin is not None:
            self._cors = cors(origin)
        return wrong

    def _open_to_all(self, head: http1.RequestHead) -> None:
        if head.method not in ("GET", "HEAD") or head.has_body:
            self.not_allowed("GET, HEAD")
        else:
            self._open[head.path].get(self, head)

    def _admit(self, head: http1.RequestHead, body: bytes | None = None) -> None:
        """Who is asking (J10). Nothing about routes is told before that is known. `body` came meanwhile."""
        tls = self.conn.tls if self.conn is not None else None
        verdict = self.gate.judge(self._peer, tls, head.headers, self.source.text)
        if isinstance(verdict, Pending):
            again = self.gate.authenticator.wait(verdict, self._judge_again)
            if not isinstance(again, Refusal):
                self.reply = Admission(again, body)
                if self.conn is not None:
                    self.conn.hold("authentication")
                return
            verdict = again
        if isinstance(verdict, Refusal):
            self._turn_away(verdict)
            return
        self.grant = verdict
        self._route(head)
        if body is not None and self.head is head:
            self._complete(body)

    def _judge_again(self, late: bool) -> None:
        """The keys are there, or will not come in time."""
        waited, self.reply = self.reply, None
        head = self.head
        if self.conn is None or head is None or not isinstance(waited, Admission):
            return
        self.conn.release("authentication")
        if late:
            self._turn_away(self.gate.authenticator.late())
        else:
            self._admit(head, waited.body)

    def _turn_away(self, refusal: Refusal) -> None:
        if refusal.why and refusal.status < 500:
            self._pace.rates.failed_authentication(self.source)
        self.hub.audit(
            "auth_refused",
            address=self.source.text,
            status=refusal.status,
            reason=refusal.why or refusal.reason,
        )
        self.refuse(refusal.status, refusal.reason, list(refusal.headers))

    def _wait(self, limited: Limited, head: http1.RequestHead) -> None:
        """Too soon: 429 at once, or when the body is read that has come along and names the request."""
        self._limited = limited
        if head.method != "POST" or not head.has_body or self._codec.phase is not http1.Phase.RESPOND:
            self._too_soon(limited, b"")

    def _too_soon(self, limited: Limited, body: bytes) -> None:
        told = refused_body(limited, body, self.hub)
        headers = [("Content-Type", JSON), ("Retry-After", str(limited.retry_after_s))]
        self.respond(429, headers, told)

    def _route(self, head: http1.RequestHead) -> None:
        if head.path not in self._routes:
            self._nowhere()
        elif head.method == "OPTIONS":
            self._preflight(head)
        elif head.method not in ("GET", "POST", "DELETE"):
            self.not_allowed(ALLOWED_METHODS)
        elif (limited := self._pace.rates.principal(self.principal)) is not None:
            self._wait(limited, head)
        elif head.method == "POST":
            self._post_opened(head)
        elif head.upgrade and head.method == "GET" and self._upgrade is not None and self._upgradable():
            self._upgrade_opened(head, self._upgrade)
        elif not head.has_body:
            self._dispatch(b"")
        else:
            self._await_body()  # one that nobody needs; `_complete` goes on

    def _nowhere(self) -> None:
        self.refuse(404, "there is nothing here; the MCP endpoint has another path")

    def _preflight(self, head: http1.RequestHead) -> None:
        self.respond(204, [("Allow", ALLOWED_METHODS), *(preflight(head.headers) if self._cors else [])])

    def _post_opened(self, head: http1.RequestHead) -> None:
        kind = (head.headers.get("content-type") or "").split(";", 1)[0].strip().lower()
        if kind != JSON:
            self.refuse(415, "Content-Type must be application/json")
        elif not accepts(head.headers.get("accept"), JSON) and not accepts(
            head.headers.get("accept"), EVENTS
        ):
            self.refuse(406, "Accept must allow application/json or text/event-stream")
        elif not head.has_body:
            self._dispatch(b"")
        else:
            if head.expects_continue:
                self._write(self._codec.continue_())
            self._await_body()

    def _upgradable(self) -> bool:
        """Upgrades happen at the MCP endpoint, the first of the routes."""
        return self.head is not None and self.head.path == next(iter(self._routes))

    def _upgrade_opened(self, head: http1.RequestHead, upgrade: Callable[[HttpClient, bytes], None]) -> None:
        found = handshake.check_upgrade(head)
        if isinstance(found, handshake.Refusal):
            self.refuse(found.status, found.reason, list(found.headers))
            return
        self._disarm()
        trailing = self._codec.take_trailing()
        if self.conn is not None:
            self.conn.release("pipelined")  # what came along is taken
        self._write([found.response])
        upgrade(self, trailing)

    def _await_body(self) -> None:
        self._body_since = self.hub.now
        self._arm(self.hub.limits.body_grace_s, "http body", self._body_slow)

    def _complete(self, body: bytes) -> None:
        self._disarm()
        self.body_bytes = len(body)
        expires = self.grant.expires_wall
        if self._limited is not None:
            self._too_soon(self._limited, body)
        elif self.head is not None and expires is not None and not self.hub.wall < expires:
            self._admit(self.head, body)  # the credentials have expired while the body came
        else:
            self._dispatch(body)

    def _dispatch(self, body: bytes) -> None:
        head = self.head
        assert head is not None
        endpoint = self._routes.get(head.path)
        if endpoint is None:
            self._nowhere()  # a reload has moved it while the body came
        elif head.method == "POST":
            endpoint.post(self, head, body)
        elif head.method == "GET":
            endpoint.get(self, head)
        else:
            endpoint.delete(self, head)
        if self.reply is not None and self.grant.expires_wall is not None:
            self._lease = Lease(self.hub, self.grant.expires_wall, self._expired)

    # -- the end of credentials

    def _expired(self) -> None:
        self._lease = None
        if self.reply is not None:
            self.hub.count("credentials_expired")
            self.reply.expired()

    def clock(self) -> None:
        """The time of day was told; it may have been set."""
        if self._lease is not None:
            self._lease.check()

    def _end_lease(self) -> None:
        if self._lease is not None:
            self._lease.cancel()
            self._lease = None

    # -- responses

    def _write(self, chunks: list[bytes]) -> None:
        if self.conn is not None:
            self._written_at = self.hub.now
            self.conn.write(chunks)

    def refuse(
        self, status: int, reason: str, headers: list[tuple[str, str]] | None = None, *, close: bool = False
    ) -> None:
        """An answer without a call behind it: an id-less JSON-RPC error as its body (C2, A7)."""
        body = jsonrpc.encode_error(None, jsonrpc.INVALID_REQUEST, reason)
        self.respond(status, [("Content-Type", JSON), *(headers or [])], body, close=close)

    def not_allowed(self, methods: str) -> None:
        """The path has only `methods`."""
        self.refuse(405, "the method is not allowed here", [("Allow", methods)])

    def respond(
        self, status: int, headers: list[tuple[str, str]], body: bytes = b"", *, close: bool = False
    ) -> None:
        if self.conn is None:
            return
        self.reply = None
        self._write(self._codec.respond(status, [*headers, *self._cors], body, close=close))
        self._answered()

    def begin_stream(self, headers: list[tuple[str, str]]) -> None:
        if self.conn is None:
            return
        self._write(self._codec.begin(200, [*STREAM_HEADERS, *headers, *self._cors]))
        self._comment = self.hub.after(self.hub.limits.sse_comment_s, "sse comment", self._keep_alive)

    def stream(self, event: bytes) -> None:
        if self.conn is not None:
            self._write(self._codec.data(event))

    def end_stream(self) -> None:
        self._end_comments()
        if self.conn is not None:
            self.reply = None
            self._write(self._codec.end())
            self._answered()

    def _keep_alive(self) -> None:
        """A comment when the stream was quiet for `sse_comment_s` (C7)."""
        period_s = self.hub.limits.sse_comment_s
        if self.hub.now >= self._written_at + period_s:
            if not self.pressed_now:
                self.stream(sse.COMMENT)
            self._written_at = self.hub.now
        self._comment = self.hub.at(self._written_at + period_s, "sse comment", self._keep_alive)

    def _end_comments(self) -> None:
        if self._comment is not None:
            self._comment.cancel()
            self._comment = None

    @property
    def pressed_now(self) -> bool:
        return self.conn is not None and self.conn.pressed

    def _answered(self) -> None:
        """The response is complete: the next request, or write, half-close, bounded discard, close."""
        conn = self.conn
        self._end_lease()
        if conn is None:
            return
        self.head = None
        if self._codec.must_close:
            if self._eof or self._codec.phase is http1.Phase.CLOSED:
                conn.close()
            else:
                conn.shutdown_write()
                conn.release("pipelined")
                self._arm(self.hub.limits.discard_timeout_s, "http discard", self.close)
            return
        self._arm(self.hub.limits.keep_alive_s, "http keep-alive", self._idle)
        if self._codec.buffered or self._eof:
            # Not from within the answer: a pipeline of refusals must not recurse.
            self.hub.after(0.0, "http pipeline", self._go_on)

    def _go_on(self) -> None:
        if self.conn is not None and self.reply is None and not self.conn.pressed:
            # A client that does not read its answers gets no more of them.
            self.conn.release("pipelined")
            self._handle(self._codec.next())
            self._after_input()

    def broken(self, body: codes.ErrorBody) -> None:
        """A defect of ours: 500, where no answer has begun."""
        reply = self.reply
        if self.head is None or self._comment is not None:
            return
        told = jsonrpc.encode_error(None, body.code, body.message, body.data)
        self.respond(body.http_status, [("Content-Type", JSON)], told, close=True)
        if reply is not None:
            reply.client_gone(True)

    def stop(self) -> None:
        """The gateway stops: an idle connection ends now, one with a response once that is finished."""
        if self.reply is not None:
            self.reply.client_gone(True)
        self.close()

    def expel(self) -> None:
        """What is under way was opened with credentials that are gone; the next request is judged anew."""
        if self.reply is not None or self.head is not None:
            self.stop()

    @property
    def busy(self) -> bool:
        return self.reply is not None and self.reply.owed
