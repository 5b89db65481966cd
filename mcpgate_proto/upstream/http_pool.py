"""HTTP connections to one origin.

Owns: `Pool`, what links send requests through, and `HttpPool`: looking the host up, dialling its addresses in
turn, TLS options, one request at a time on each connection, reuse of idle ones (retired early), a cap with a
queue; long-lived streams are counted apart, so that they cannot starve calls (D15).
Must never: follow a redirect, send a request twice, or know what the bodies mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import Enum
from ipaddress import ip_address
from typing import Protocol
from urllib.parse import urlsplit

import msgspec

from mcpgate_proto.config import ServerConfig
from mcpgate_proto.effects import Address, Peer, TlsFacts, TlsOptions
from mcpgate_proto.hub import Connection, Hub
from mcpgate_proto.security.egress import permitted, server_reach
from mcpgate_proto.timers import Timer
from mcpgate_proto.wire import http1_client as http1
from mcpgate_proto.wire.http1_grammar import Headers

__all__ = [
    "GivenUp",
    "HttpConnection",
    "HttpPool",
    "HttpRequest",
    "Origin",
    "Owner",
    "Pool",
    "Receiver",
    "Sent",
    "Ticket",
    "base_headers",
    "is_numeric",
]


class Origin(msgspec.Struct, frozen=True):
    """Where a URL points: `tls`, name, port, and the target with its query."""

    tls: bool
    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, url: str) -> Origin:
        parts = urlsplit(url)
        tls = parts.scheme in ("https", "wss")
        target = parts.path or "/"
        if parts.query:
            target += f"?{parts.query}"
        return cls(tls, parts.hostname or "", parts.port or (443 if tls else 80), target)

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


def is_numeric(host: str) -> bool:
    """Whether `host` is an IP address, so that there is nothing to look up."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def base_headers(hub: Hub, origin: Origin) -> list[tuple[str, str]]:
    """What every request of ours begins with."""
    return [
        ("Host", origin.authority),
        ("User-Agent", f"mcpgate/{hub.config.version}"),
        ("Accept-Encoding", "identity"),
    ]


class HttpRequest(msgspec.Struct, frozen=True):
    """What is sent. `pinned`: on a connection of its own, which is not used again. `farewell`: also while the
    pool stops. `whose`: the principal it is for, if it is for one. `brief`: answered at once; calls may be
    waiting for it, so that it does not wait for them."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    pinned: bool = False
    farewell: bool = False
    whose: str = ""
    brief: bool = False


class Receiver(Protocol):
    """Who gets the response of one request."""

    def response_head(self, status: int, headers: Headers) -> None: ...
    def response_data(self, data: bytes) -> None: ...
    def response_end(self) -> None: ...
    def response_failed(self, sent: bool, reason: str) -> None:
        """No (whole) response will come. `sent`: the request may have reached the server."""


class Sent(Protocol):
    """A request under way."""

    @property
    def sent(self) -> bool:
        """The server may have seen it."""

    def abandon(self) -> None: ...
    def throttle(self, on: bool) -> None: ...


class Pool(Protocol):
    """What links send requests through: an `HttpPool`, or one that adds credentials."""

    @property
    def origin(self) -> Origin: ...
    @property
    def headers(self) -> tuple[tuple[str, str], ...]: ...
    def send(self, receiver: Receiver, request: HttpRequest) -> Sent:
        """Send one request. The receiver is not called from within."""


class Owner(Protocol):
    """Whose a connection and its ticket are: a pool's, or a single fetch's."""

    hub: Hub
    tls: TlsOptions | None

    def freed(self, connection: HttpConnection) -> None: ...
    def abandoned(self, ticket: Ticket) -> None: ...


class Ticket:
    """One request and the right to give it up, to slow it down."""

    __slots__ = ("connection", "done", "pool", "receiver", "request", "sent", "throttled")

    def __init__(self, pool: Owner, receiver: Receiver, request: HttpRequest) -> None:
        self.pool = pool
        self.receiver = receiver
        self.request = request
        self.connection: HttpConnection | None = None
        self.done = False
        self.sent = False
        self.throttled = False

    def abandon(self) -> None:
        """Nobody wants the response: close its connection. The receiver hears nothing more."""
        if not self.done:
            self.done = True
            self.pool.abandoned(self)

    def throttle(self, on: bool) -> None:
        self.throttled = on
        if self.connection is not None:
            self.connection.throttle(on)


class Step(Enum):
    DIALLING = "dialling"
    IDLE = "idle"
    BUSY = "busy"
    GONE = "gone"


class GivenUp:
    """The handler of a dial that was given up."""

    def connected(self, peer: Peer, tls: TlsFacts | None) -> None: ...
    def connect_failed(self, reason: str) -> None: ...
    def received(self, data: bytes) -> None: ...
    def received_eof(self) -> None: ...
    def received_stderr(self, data: bytes) -> None: ...
    def exited(self, status: int) -> None: ...
    def pressed(self, high: bool) -> None: ...
    def closed(self, reason: str) -> None: ...


class HttpConnection:
    """One connection of a pool: dialled for a ticket, then reused."""

    def __init__(self, pool: Owner, ticket: Ticket, addresses: list[Address]) -> None:
        self._pool = pool
        self._hub = pool.hub
        self._addresses = addresses
        self.ticket: Ticket | None = ticket
        ticket.connection = self
        self.pinned = ticket.request.pinned
        self.step = Step.DIALLING
        self._codec = http1.HttpClientCodec(pool.hub.limits)
        self._conn: Connection | None = None
        self._timer: Timer | None = None
        self._dial()

    def _dial(self) -> None:
        address = self._addresses.pop(0)
        self._conn = self._hub.dial(self, address, self._pool.tls)
        self._arm(self._hub.limits.dial_timeout_s, "dial", self._dial_timeout)

    def _arm(self, delay_s: float, reason: str, callback: Callable[[], None]) -> None:
        self._disarm()
        self._timer = self._hub.after(delay_s, reason, callback)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _dial_timeout(self) -> None:
        self._timer = None
        if self._conn is not None:
            # What the runner still says of this dial must not be taken for the next one's.
            self._conn.handler = GivenUp()
            self._conn.abort()
        self._dial_next("no answer")

    def _dial_next(self, reason: str) -> None:
        """The next address, if one is left (the core orders addresses and dials the next on failure)."""
        self._conn = None
        if self._addresses and self.ticket is not None and not self.ticket.done:
            self._dial()
            return
        self.fail(f"cannot connect: {reason}", sent=False)

    def connected(self, peer: Peer, tls: TlsFacts | None) -> None:
        self._disarm()
        self.step = Step.BUSY
        self._send()

    def connect_failed(self, reason: str) -> None:
        self._disarm()
        if self.step is Step.DIALLING:
            self._dial_next(reason)

    def take(self, ticket: Ticket) -> None:
        """Reuse: an idle connection gets its next request."""
        self._disarm()
        self.ticket = ticket
        ticket.connection = self
        self.step = Step.BUSY
        self._send()

    def _send(self) -> None:
        ticket = self.ticket
        if ticket is None or ticket.done or self._conn is None:
            self.close()
            return
        ticket.sent = True
        if ticket.throttled:
            self._conn.hold("client is slow")
        request = ticket.request
        self._conn.write(self._codec.request(request.method, request.target, request.headers, request.body))

    def throttle(self, on: bool) -> None:
        if self._conn is not None and self.step is Step.BUSY:  # else `_send` looks at it
            if on:
                self._conn.hold("client is slow")
            else:
                self._conn.release("client is slow")

    def received(self, data: bytes) -> None:
        if self.step is Step.GONE:
            return
        self._handle(self._codec.receive(data))
        if self.step is Step.IDLE and not self._codec.reusable:
            self.close()

    def received_eof(self) -> None:
        if self.step is Step.GONE:
            return
        self._handle(self._codec.receive_eof())
        if not self.gone:
            self.fail("the connection was closed", sent=True)

    def _handle(self, events: list[http1.ClientEvent]) -> None:
        for event in events:
            if self.gone:
                return
            ticket = self.ticket
            receiver = ticket.receiver if ticket is not None and not ticket.done else None
            if isinstance(event, http1.ResponseData):
                if receiver is not None:
                    receiver.response_data(event.data)
            elif isinstance(event, http1.ResponseHead):
                if receiver is not None:
                    receiver.response_head(event.status, event.headers)
            elif isinstance(event, http1.ResponseEnd):
                self._finished()
            else:
                self.fail(event.reason, sent=True)

    def _finished(self) -> None:
        ticket, self.ticket = self.ticket, None
        if self._conn is not None:
            self._conn.release("client is slow")
        if self._codec.reusable and not self.pinned and self._conn is not None:
            self.step = Step.IDLE
            self._arm(self._hub.limits.http_idle_s, "http idle", self.close)
        else:
            self.close()
        if ticket is not None and not ticket.done:
            ticket.done = True
            ticket.receiver.response_end()
        self._pool.freed(self)

    def exited(self, status: int) -> None:
        """Never a child."""

    def received_stderr(self, data: bytes) -> None:
        """Never a child."""

    def pressed(self, high: bool) -> None:
        """One request at a time, bounded by `message_bytes`: nothing feeds this faster than it goes."""

    def closed(self, reason: str) -> None:
        self._conn = None
        if self.step is not Step.GONE:
            self.fail(reason or "the connection was lost", sent=self.step is Step.BUSY)

    def close(self) -> None:
        if self.step is not Step.GONE:
            self.step = Step.GONE
            self._disarm()
            if self._conn is not None:
                self._conn.abort()
            self._pool.freed(self)

    @property
    def gone(self) -> bool:
        return self.step is Step.GONE

    def fail(self, reason: str, *, sent: bool) -> None:
        ticket, self.ticket = self.ticket, None
        self.close()
        if ticket is not None and not ticket.done:
            ticket.done = True
            ticket.receiver.response_failed(sent, reason)


def _lane(request: HttpRequest) -> tuple[str, bool, bool]:
    return request.whose, request.pinned, request.brief


class HttpPool:
    """All connections to the origin of one server."""

    def __init__(self, hub: Hub, config: ServerConfig) -> None:
        self.hub = hub
        self.origin = Origin.parse(config.url)
        self.tls = (
            TlsOptions(server_name=self.origin.host, ca_file=config.ca_file) if self.origin.tls else None
        )
        # Sent with every request; a reload may change them.
        self.headers = tuple(config.headers.items())
        self._reach = server_reach(tls=self.origin.tls, allow_plain_http=config.allow_plain_http)
        # HTTP over a Unix socket has nothing to look up either.
        self._socket_path = config.socket_path
        self._numeric = bool(config.socket_path) or is_numeric(self.origin.host)
        self._open: dict[HttpConnection, None] = {}
        self._idle: list[HttpConnection] = []
        # In order of arrival, each with its number, by what decides who may go (`_lane`): those of one lane
        # may all go or none, so that only the first of each is looked at.
        self._waiting: dict[tuple[str, bool, bool], dict[Ticket, int]] = {}
        self._arrived = 0
        self._resolving: dict[Ticket, None] = {}
        self._stopped = False

    def send(self, receiver: Receiver, request: HttpRequest) -> Ticket:
        ticket = Ticket(self, receiver, request)
        self._arrived += 1
        self._waiting.setdefault(_lane(request), {})[ticket] = self._arrived
        self._pump()
        return ticket

    def _leave(self, ticket: Ticket) -> None:
        """It waits no longer, if it did."""
        place = _lane(ticket.request)
        lane = self._waiting.get(place)
        if lane is not None and lane.pop(ticket, None) is not None and not lane:
            del self._waiting[place]

    def _pump(self) -> None:
        while (ticket := self._next()) is not None:
            self._leave(ticket)
            if self._idle and not ticket.request.pinned:
                self._idle.pop().take(ticket)
            else:
                self._resolve(ticket)

    def _next(self) -> Ticket | None:
        """The first that can go. Calls of one principal that are slow leave some connections to others; and
        it has no more long-lived streams than calls."""
        if not self._waiting:
            return None
        limits = self.hub.limits
        few = min(limits.http_connections_per_server, limits.http_connections_per_principal)
        if len(self._waiting) == 1 and len(self._open) + len(self._resolving) < few:
            (lane,) = self._waiting.values()
            return next(iter(lane))  # as nearly always: so few that nobody can have too many
        under_way = [one.ticket.request for one in self._open if one.ticket is not None]
        under_way += [one.request for one in self._resolving]
        busy, most = sum(1 for one in under_way if not one.pinned), limits.http_connections_per_server
        room, brief_room = busy < most, busy < most + limits.http_connections_brief
        held = Counter((one.whose, one.pinned) for one in under_way if one.whose)
        first: tuple[int, Ticket] | None = None
        for (whose, pinned, brief), lane in self._waiting.items():
            may = held[whose, pinned] < limits.http_connections_per_principal
            if may and (pinned or (brief_room if brief else room)):
                ticket, number = next(iter(lane.items()))
                if first is None or number < first[0]:
                    first = number, ticket
        return first[1] if first is not None else None

    def _resolve(self, ticket: Ticket) -> None:
        self._resolving[ticket] = None
        if self._numeric:
            self._resolved(ticket, [Address(host=self.origin.host)], "")
            return
        self.hub.resolve(self.origin.host, lambda found, reason: self._resolved(ticket, found, reason))

    def _resolved(self, ticket: Ticket, found: list[Address] | None, reason: str) -> None:
        self._resolving.pop(ticket, None)
        if ticket.done or (self._stopped and not ticket.request.farewell):
            self._pump()
            return
        if found and not self._numeric:
            # An address that the operator wrote is meant; what a name leads to is checked (threats.md 38).
            found = permitted(found, self._reach)
            reason = "" if found else "it leads to an address that may not be dialled"
        if not found:
            ticket.done = True
            ticket.receiver.response_failed(
                False, f"cannot find {self.origin.host}: {reason or 'no address'}"
            )
            self._pump()
            return
        port = self.origin.port
        addresses = [Address(host=one.host, port=port) for one in found]
        if self._socket_path:
            addresses = [Address(path=self._socket_path)]
        connection = HttpConnection(self, ticket, addresses)
        self._open[connection] = None

    def freed(self, connection: HttpConnection) -> None:
        if connection.step is Step.GONE:
            self._open.pop(connection, None)
            if connection in self._idle:
                self._idle.remove(connection)
        elif connection.step is Step.IDLE and self._stopped:
            connection.close()  # a farewell has been answered
        elif connection.step is Step.IDLE:
            self._idle.append(connection)
        self._pump()

    def abandoned(self, ticket: Ticket) -> None:
        self._leave(ticket)
        if ticket.connection is not None and ticket.connection.ticket is ticket:
            ticket.connection.close()

    def stop(self) -> None:
        """Close everything but farewells under way, which get a moment; receivers of open requests hear that
        it failed."""
        self._stopped = True
        waiting = [ticket for lane in self._waiting.values() for ticket in lane]
        for ticket in [*waiting, *self._resolving]:
            if not ticket.done and not ticket.request.farewell:
                self._leave(ticket)
                ticket.done = True
                ticket.receiver.response_failed(False, "stopped")
        for connection in list(self._open):
            if connection.ticket is None or not connection.ticket.request.farewell:
                connection.fail("stopped", sent=True)
        self.hub.after(self.hub.limits.discard_timeout_s, "farewell", self._abandon_all)

    def _abandon_all(self) -> None:
        for connection in list(self._open):
            connection.close()
