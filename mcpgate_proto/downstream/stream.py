"""A client on one byte stream, newline-framed: stdin and stdout, or a Unix socket.

Owns: the framing, the choice of era per message (F19: both may be interleaved on one pipe), the one
legacy session of the connection, backpressure of the shared channel.
Must never: write anything but messages (B2); take the end of the stream for anything but the end of the
session and of every request on it (L15).
"""

from __future__ import annotations

from collections.abc import Callable

from mcpgate_proto.downstream import pace
from mcpgate_proto.downstream.audited import audited
from mcpgate_proto.downstream.live import Live
from mcpgate_proto.downstream.modern import ModernFace
from mcpgate_proto.downstream.outlet import Batch, Outlet
from mcpgate_proto.downstream.partial import Partial
from mcpgate_proto.downstream.session import ClientSession
from mcpgate_proto.effects import Peer, TlsFacts
from mcpgate_proto.hub import Connection, Hub
from mcpgate_proto.mcp import codes, meta
from mcpgate_proto.mcp.revisions import LEGACY_VERSIONS, MODERN_VERSIONS
from mcpgate_proto.relay.relay import Relay
from mcpgate_proto.security.principal import Principal
from mcpgate_proto.security.rate import Limited
from mcpgate_proto.timers import Timer
from mcpgate_proto.wire import jsonrpc, lines, values
from mcpgate_proto.wire.jsonrpc import Raw

__all__ = ["PipeClient"]


class PipeClient:
    """One connection. Implements `hub.Handler` and the session's `Channel`."""

    def __init__(
        self,
        hub: Hub,
        relay: Relay,
        modern: ModernFace,
        principal: Principal,
        gone: Callable[[PipeClient], None],
    ) -> None:
        self.hub = hub
        self._relay = relay
        self._modern = modern
        self.principal = principal
        # For the audit stream; empty where there is none.
        self.address = ""
        self._gone = gone
        self._lines = lines.LineDecoder(hub.limits.message_bytes)
        self.conn: Connection | None = None
        self.session: ClientSession | None = None
        # Requests without an answer. Modern ones by id, which names them in `notifications/cancelled`.
        self._outlets: dict[PipeOutlet, None] = {}
        self._eof: Timer | None = None
        # Of the message in hand, or of the batch that it is part of.
        self._size = 0
        patient = principal.local  # a person may type there
        self._partial = Partial(hub, lambda: self.drop("the message came too slowly"), patient)
        self._ended = False
        self.is_stdio = True
        self.malformed = 0

    def attach(self, conn: Connection) -> None:
        self.conn = conn

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
        found = self._lines.receive(data)
        for line in found:
            self._line(line)
        if not self._partial.note(self.conn, self._lines.buffered, bool(found)):
            self.drop("too much is being received")

    def _line(self, line: bytes | lines.TooLong) -> None:
        if self._ended:
            return
        self._size = len(line) if isinstance(line, bytes) else line.size
        if isinstance(line, lines.TooLong):
            self.hub.count("messages_too_long")
            told = "the message is larger than limits.message_bytes"
            self.send(jsonrpc.encode_error(None, codes.INVALID_REQUEST, told))
            return
        batches = self.session is not None and self.session.revision.batches
        messages = jsonrpc.decode(line, self.hub.limits, allow_batch=batches)
        if batches and jsonrpc.is_batch(line) and not jsonrpc.is_empty_batch(line):
            self._batch(messages)
            return
        for message in messages:
            self._message(message, None)

    def broken(self, body: codes.ErrorBody) -> None:
        """A defect of ours."""
        self.send(jsonrpc.encode_error(None, body.code, body.message, body.data))
        self._end()

    def drop(self, reason: str) -> None:
        """The client did what costs others."""
        self.send(jsonrpc.encode_error(None, codes.INVALID_REQUEST, reason))
        self._end()

    def _batch(self, messages: list[jsonrpc.Message | jsonrpc.Malformed]) -> None:
        expected = sum(1 for one in messages if isinstance(one, jsonrpc.Request | jsonrpc.Malformed))
        batch = Batch(PipeOutlet(self, None), expected) if expected else None
        for message in messages:
            self._message(message, batch)

    def _message(self, message: jsonrpc.Message | jsonrpc.Malformed, batch: Batch | None) -> None:
        kind = type(message)
        limited = self._relay.rates.principal(self.principal)
        if limited is not None and not pace.passes(message):
            self._too_soon(limited, message, batch)
        elif kind is jsonrpc.Malformed:
            self.hub.count("malformed_messages")
            self.malformed += 1
            told = jsonrpc.encode_error(message.id, message.code, message.reason)  # type: ignore[union-attr]
            self._answer(told, batch)
        elif kind is jsonrpc.Request:
            self._request(message, batch)  # type: ignore[arg-type]
        elif kind is jsonrpc.Notification and self._cancels_modern(message):  # type: ignore[arg-type]
            pass
        elif self.session is not None:
            self.session.handle(message, None)  # type: ignore[arg-type]

    def _answer(self, message: bytes, batch: Batch | None) -> None:
        """An answer of our own, alone or in the batch that its request is part of."""
        if batch is None:
            self.send(message)
        else:
            batch.answered(message)

    def _too_soon(
        self, limited: Limited, message: jsonrpc.Message | jsonrpc.Malformed, batch: Batch | None
    ) -> None:
        """Refused; and for a moment nothing more is read, so that refusing does not become the work."""
        told = pace.refused(limited, message)
        if told is not None:
            self._answer(told, batch)
        conn = self.conn
        if conn is not None:
            conn.hold("rate")
            self.hub.after(min(limited.wait_s, 1.0), "rate", lambda: conn.release("rate"))

    def _audited(self, request: jsonrpc.Request, outlet: Outlet) -> Outlet:
        return audited(self.hub, outlet, request, self.principal, self.address, self._size)

    def _request(self, request: jsonrpc.Request, batch: Batch | None) -> None:
        """F19: `initialize` begins legacy semantics; a request with a modern `_meta` stands alone."""
        outlet: Outlet
        if len(self._outlets) >= self.hub.limits.calls_per_session:
            self.hub.count("requests_refused")
            told = jsonrpc.encode_error(request.id, codes.INTERNAL_ERROR, "too many requests are open")
            self._answer(told, batch)
        elif request.method == "initialize" and self.session is None:
            if values.text_of(request.params, "protocolVersion") is None:
                told = jsonrpc.encode_error(
                    request.id, codes.INVALID_PARAMS, "params.protocolVersion is missing"
                )
                self._answer(told, batch)
                return
            if batch is not None:
                told = jsonrpc.encode_error(request.id, codes.INVALID_REQUEST, "initialize in a batch")
                batch.answered(told)
                return
            # One session per connection; its id names it inside the gateway only.
            id = f"pipe {self.conn.id if self.conn is not None else 0}"
            self.session = ClientSession(self.hub, self._relay, id, self.principal, self)
            self.session.initialize(request, self._audited(request, PipeOutlet(self, request.id)))
        elif meta.version_in(request.params) is not None:
            outlet = batch.part() if batch is not None else PipeOutlet(self, request.id)
            track = outlet.track if isinstance(outlet, PipeOutlet) else _untracked
            self._modern.handle(request, self._audited(request, outlet), self.principal, track)
        elif self.session is not None:
            outlet = batch.part() if batch is not None else PipeOutlet(self, request.id)
            self.session.handle(request, self._audited(request, outlet))
        else:
            self._before_handshake(request)

    def _before_handshake(self, request: jsonrpc.Request) -> None:
        """F20: a ping may come first; anything else has to say which revision it speaks."""
        if request.method == "ping":
            self.send(jsonrpc.encode_result(request.id, values.EMPTY))
            return
        if request.method == "server/discover":
            told = "params._meta is missing or incomplete"
            self.send(jsonrpc.encode_error(request.id, codes.INVALID_PARAMS, told))
            return
        data = jsonrpc.to_raw({"supported": [*MODERN_VERSIONS, *LEGACY_VERSIONS]})
        told = "neither initialized nor a request with a protocol version in params._meta"
        self.send(jsonrpc.encode_error(request.id, codes.INVALID_REQUEST, told, data))

    def _cancels_modern(self, message: jsonrpc.Notification) -> bool:
        """B9: on a pipe, a modern request is cancelled by its id."""
        if message.method != "notifications/cancelled":
            return False
        wanted = message.params.get("requestId", Raw(b"null"))
        for outlet in self._outlets:
            if outlet.live is not None and outlet.id is not None and values.same_id(outlet.id, wanted):
                outlet.live.cancel(values.text_of(message.params, "reason") or "")
                return True
        return False

    def received_eof(self) -> None:
        """Answers to what was asked may still go out, for a moment; then everything ends."""
        for line in self._lines.receive_eof():
            self._line(line)
        if self._outlets and self.conn is not None and not self._ended:
            self._eof = self.hub.after(self.hub.limits.eof_grace_s, "end of input", self._end)
        else:
            self._end()

    def settled(self) -> None:
        """A request was answered. After the end of input, the last one ends the connection."""
        if self._eof is not None and not self._outlets:
            self._end()

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._partial.stop()
        if self._eof is not None:
            self._eof.cancel()
            self._eof = None
        for outlet in list(self._outlets):
            if outlet.live is not None:
                outlet.live.cancel("the client is gone")
        if self.session is not None:
            self.session.end("the client is gone")
        self._outlets.clear()
        if self.conn is not None:
            self.conn.close()
        self._gone(self)

    def pressed(self, high: bool) -> None:
        """The client does not read: pause what feeds it, and nobody else; it may ask no more meanwhile."""
        if self.conn is not None:
            if high:
                self.conn.hold("client is slow")
            else:
                self.conn.release("client is slow")
        for outlet in list(self._outlets):
            if outlet.live is not None:
                outlet.live.throttle(high)
        if self.session is not None:
            for call in list(self.session.calls):
                if call.exchange is not None:
                    call.exchange.throttle(high)

    def closed(self, reason: str) -> None:
        self.conn = None
        self._end()

    def stop(self) -> None:
        """The gateway stops: what is under way has had its time."""
        self._end()

    def clock(self) -> None:
        """The time of day was told. Whom the operating system vouches for has no expiry."""

    def expel(self) -> None:
        """The credentials that opened the connection are no longer good."""
        self._end()

    @property
    def busy(self) -> bool:
        return bool(self._outlets)

    # -- Channel

    @property
    def reachable(self) -> bool:
        return self.conn is not None and not self._ended

    def send(self, message: bytes) -> None:
        if self.conn is not None and not self._ended:
            self.conn.write([message, b"\n"])

    # -- for outlets

    def opened(self, outlet: PipeOutlet) -> None:
        self._outlets[outlet] = None

    def answered(self, outlet: PipeOutlet) -> None:
        self._outlets.pop(outlet, None)
        self.settled()


def _untracked(live: Live) -> None:
    """A modern request inside a legacy batch has no stream and no name of its own."""


class PipeOutlet:
    """The way back for one request on a pipe."""

    __slots__ = ("_client", "_serial", "id", "live")

    def __init__(self, client: PipeClient, id: jsonrpc.RequestId | None) -> None:
        self._client = client
        self.id = id
        self._serial = client.hub.serial()
        self.live: Live | None = None
        client.opened(self)

    def track(self, live: Live) -> None:
        self.live = live

    def notify(self, message: bytes) -> None:
        self._client.send(message)

    def finish(self, message: bytes | None, status: int = 200, retry_after_s: int = 0) -> None:
        if message is not None:
            self._client.send(message)
        self._client.answered(self)

    def hold(self, reason: str, on: bool) -> None:
        """The pipe is the only way in: reading stops until the server takes more."""
        conn = self._client.conn
        if conn is None:
            return
        tagged = f"{reason} {self._serial}"
        if on:
            conn.hold(tagged)
        else:
            conn.release(tagged)

    @property
    def shares_channel(self) -> bool:
        return True

    @property
    def can_ask(self) -> bool:
        return True

    @property
    def forwarded(self) -> tuple[tuple[str, str], ...]:
        return ()

    @property
    def pressed(self) -> bool:
        conn = self._client.conn
        return conn is not None and conn.pressed
