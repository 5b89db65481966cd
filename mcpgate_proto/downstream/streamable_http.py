"""Streamable HTTP, server side: both eras on one endpoint (C40-C44).

    version header modern or unknown             the modern ladder
    version header legacy, or none               legacy: `initialize` begins a session, else its id names it
    no version header, but a modern `_meta`      the modern ladder (which then misses the header)

Owns: that choice, legacy sessions and their streams, `Last-Event-ID`, DELETE, JSON or event stream per
answer (a stream begins with the first message that is no answer, or after `sse_commit_s`: C14).
Must never: trust a mirrored header of a legacy request (C20); honour a session id on a modern one (C43).
"""

from __future__ import annotations

from collections.abc import Callable

from mcpgate_proto.config import GatewayConfig
from mcpgate_proto.downstream import pace
from mcpgate_proto.downstream.audited import audited, inner
from mcpgate_proto.downstream.http import HttpClient
from mcpgate_proto.downstream.http_headers import EVENTS, JSON, accepts
from mcpgate_proto.downstream.listening import Listening
from mcpgate_proto.downstream.live import Live
from mcpgate_proto.downstream.modern import ModernFace
from mcpgate_proto.downstream.outlet import Outlet
from mcpgate_proto.downstream.replay import EventStream, StreamTable
from mcpgate_proto.downstream.session import ClientSession
from mcpgate_proto.hub import Hub
from mcpgate_proto.mcp import codes, meta
from mcpgate_proto.mcp.revisions import LEGACY_VERSIONS, MODERN_VERSIONS
from mcpgate_proto.relay.relay import Relay
from mcpgate_proto.security import forward
from mcpgate_proto.security.principal import Principal
from mcpgate_proto.timers import Timer
from mcpgate_proto.wire import http1_server as http1
from mcpgate_proto.wire import jsonrpc, sse, values

__all__ = ["HttpSession", "McpEndpoint", "Sessions"]

VERSION = "mcp-protocol-version"
SESSION = "mcp-session-id"


class HttpSession:
    """A legacy session over HTTP: the session, and the streams that its client may come back to."""

    def __init__(self, hub: Hub, relay: Relay, id: str, principal: Principal) -> None:
        limits = hub.limits
        self.streams = StreamTable(
            limits.replay_events, limits.replay_bytes, limits.streams_per_session, limits.replay_ttl_s
        )
        self.session = ClientSession(hub, relay, id, principal, self)
        self.get: GetReply | None = None

    @property
    def reachable(self) -> bool:
        return self.streams.main.attached

    def send(self, message: bytes) -> None:
        """Channel: what belongs to no call goes on the GET stream, to one stream only (C31)."""
        self.streams.main.send(message)

    @property
    def idle(self) -> bool:
        return not self.session.calls and self.get is None


class Sessions:
    """Legacy sessions by id. An id of another principal does not exist (C28)."""

    def __init__(self, hub: Hub, relay: Relay) -> None:
        self._hub = hub
        self._relay = relay
        self._all: dict[str, HttpSession] = {}
        self._sweep: Timer | None = None

    def __len__(self) -> int:
        return len(self._all)

    @property
    def open_streams(self) -> int:
        return sum(
            sum(1 for stream in one.streams.streams.values() if stream.number and not stream.finished)
            for one in self._all.values()
        )

    def find(self, id: str, principal: Principal) -> HttpSession | None:
        found = self._all.get(id)
        return found if found is not None and found.session.principal == principal else None

    def create(self, principal: Principal) -> HttpSession | None:
        """A new session; when there are too many, the longest idle one gives way, or none is made."""
        limits = self._hub.limits
        mine = sum(1 for one in self._all.values() if one.session.principal == principal)
        if (len(self._all) >= limits.sessions or mine >= limits.sessions_per_principal) and not self._evict(
            principal
        ):
            self._hub.count("sessions_refused")
            return None
        # C27, C39: visible ASCII, unguessable; and not authentication.
        id = self._hub.entropy.token(192)
        made = self._all[id] = HttpSession(self._hub, self._relay, id, principal)
        if self._sweep is None:
            self._sweep = self._hub.after(limits.session_idle_s / 4, "session sweep", self._expire)
        return made

    def _evict(self, principal: Principal) -> bool:
        idle = [one for one in self._all.values() if one.idle and one.session.principal == principal]
        if not idle:
            return False
        self.end(min(idle, key=lambda one: one.session.used_at), "it was idle and another took its place")
        return True

    def _expire(self) -> None:
        limits = self._hub.limits
        self._sweep = None
        for one in list(self._all.values()):
            if one.idle and self._hub.now - one.session.used_at >= limits.session_idle_s:
                self.end(one, "it was idle")
        if self._all:
            self._sweep = self._hub.after(limits.session_idle_s / 4, "session sweep", self._expire)

    def end(self, session: HttpSession, reason: str) -> None:
        self._all.pop(session.session.id, None)
        session.session.end(reason)
        if session.get is not None:
            session.get.end()

    def expel(self, lost: Callable[[Principal], bool]) -> None:
        """End the sessions of whoever's credentials are no longer good."""
        for one in list(self._all.values()):
            if lost(one.session.principal):
                self.end(one, "the client's credentials are no longer good")

    def stop(self) -> None:
        for one in list(self._all.values()):
            self.end(one, "mcpgate is stopping")
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None


class McpEndpoint:
    """One MCP endpoint. Implements `downstream.http.Endpoint`."""

    def __init__(self, hub: Hub, relay: Relay, modern: ModernFace, sessions: Sessions) -> None:
        self.hub = hub
        self._relay = relay
        self._modern = modern
        self._sessions = sessions
        self._forwarding: tuple[str, ...] = ()
        self._forwarding_of: GatewayConfig | None = None

    @property
    def forwarding(self) -> tuple[str, ...]:
        """The headers that any server wants to see of its clients."""
        if self._forwarding_of is not self.hub.config:
            self._forwarding_of = self.hub.config
            self._forwarding = forward.names_in(self.hub.config)
        return self._forwarding

    # -- POST

    def post(self, http: HttpClient, head: http1.RequestHead, body: bytes) -> None:
        versions = head.headers.get_all(VERSION)
        # C41: a header that names no legacy version is for the modern ladder to judge.
        modern = bool(versions) and any(version not in LEGACY_VERSIONS for version in versions)
        session_id = None if modern else head.headers.get(SESSION)
        session = self._sessions.find(session_id, http.principal) if session_id is not None else None
        if session_id is not None and session is None:
            # C28: so that the client initializes again; also when the id is another principal's.
            http.refuse(404, "no such session; initialize again")
            return
        batches = session is not None and session.session.revision.batches
        messages = jsonrpc.decode(body, self.hub.limits, allow_batch=batches)
        if batches and jsonrpc.is_batch(body) and not jsonrpc.is_empty_batch(body):
            # A9: 2025-03-26 may send requests and notifications, or responses; `initialize` is never inside.
            assert session is not None
            self._legacy_post(http, session, messages, True)
            return
        message = messages[0]
        if isinstance(message, jsonrpc.Malformed):
            self.hub.count("malformed_messages")
            error = jsonrpc.encode_error(message.id, message.code, message.reason)
            http.respond(400, [("Content-Type", JSON)], error)
        elif modern or (session_id is None and _is_modern(message)):
            self._modern_post(http, head, message)
        elif session is None:
            self._handshake(http, message)
        else:
            self._legacy_post(http, session, [message], False)

    def _modern_post(self, http: HttpClient, head: http1.RequestHead, message: jsonrpc.Message) -> None:
        if isinstance(message, jsonrpc.Notification):
            # C22: ids are not scoped to anything here, so even a cancellation is accepted and dropped.
            http.respond(202, [])
        elif not isinstance(message, jsonrpc.Request):
            http.refuse(400, "a modern client sends no responses")  # C21
        else:
            reply = PostReply(self, http, None, 1, False)
            outlet = self._audited(http, message, reply)
            self._modern.handle(message, outlet, http.principal, reply.track, head.headers)

    def _audited(self, http: HttpClient, request: jsonrpc.Request, reply: PostReply) -> Outlet:
        return audited(self.hub, reply, request, http.principal, http.source.text, http.body_bytes)

    def _handshake(self, http: HttpClient, message: jsonrpc.Message) -> None:
        if not isinstance(message, jsonrpc.Request) or message.method != "initialize":
            known = message.id if isinstance(message, jsonrpc.Request) else None
            told = "Mcp-Session-Id is missing; a session begins with initialize"
            data = jsonrpc.to_raw({"supported": [*MODERN_VERSIONS, *LEGACY_VERSIONS]})
            error = jsonrpc.encode_error(known, codes.INVALID_REQUEST, told, data)
            http.respond(400, [("Content-Type", JSON)], error)
            return
        if values.text_of(message.params, "protocolVersion") is None:
            told = "params.protocolVersion is missing"
            error = jsonrpc.encode_error(message.id, codes.INVALID_PARAMS, told)
            http.respond(200, [("Content-Type", JSON)], error)
            return
        session = self._sessions.create(http.principal)
        if session is None:
            http.refuse(503, "too many sessions are open", [("Retry-After", "10")])
            return
        reply = PostReply(self, http, session, 1, False)
        reply.headers = [("Mcp-Session-Id", session.session.id)]
        session.session.initialize(message, self._audited(http, message, reply))

    def _legacy_post(
        self,
        http: HttpClient,
        session: HttpSession,
        messages: list[jsonrpc.Message | jsonrpc.Malformed] | list[jsonrpc.Message],
        batch: bool,
    ) -> None:
        expected = sum(1 for one in messages if isinstance(one, jsonrpc.Request | jsonrpc.Malformed))
        reply = PostReply(self, http, session, expected, batch) if expected else None
        for number, message in enumerate(messages):
            # The first was counted with its POST.
            limited = self._relay.rates.principal(http.principal) if number else None
            if limited is not None and not pace.passes(message):
                told = pace.refused(limited, message)
                if told is not None and reply is not None:
                    reply.finish(told)
            elif isinstance(message, jsonrpc.Malformed):
                assert reply is not None
                reply.finish(jsonrpc.encode_error(message.id, message.code, message.reason))
            elif isinstance(message, jsonrpc.Request):
                assert reply is not None
                session.session.handle(message, self._audited(http, message, reply))
            else:
                session.session.handle(message, None)
        if reply is None:
            http.respond(202, [])  # C4, C37

    # -- GET and DELETE

    def _session_of(self, http: HttpClient, head: http1.RequestHead) -> HttpSession | None:
        """The session that GET and DELETE name; answers the request itself when there is none (C44)."""
        version = head.headers.get(VERSION)
        if version is not None and version not in LEGACY_VERSIONS:
            http.refuse(405, "modern clients use POST only", [("Allow", "POST, OPTIONS")])  # C25
            return None
        id = head.headers.get(SESSION)
        if id is None:
            http.refuse(400, "Mcp-Session-Id is missing")
            return None
        session = self._sessions.find(id, http.principal)
        if session is None:
            http.refuse(404, "no such session; initialize again")
        return session

    def get(self, http: HttpClient, head: http1.RequestHead) -> None:
        session = self._session_of(http, head)
        if session is None:
            return
        if not accepts(head.headers.get("accept"), EVENTS):
            http.refuse(406, "Accept must allow text/event-stream")
            return
        stream, after = session.streams.main, session.streams.main.delivered
        last_id = head.headers.get("last-event-id")
        if last_id is not None:
            found = session.streams.find(last_id)
            if found is None:
                http.refuse(404, "Last-Event-ID names nothing that is kept; open a new stream")
                return
            stream, after = found
        elif stream.attached:
            # A second stream must not take the first one's place unseen (threats.md row 13).
            http.refuse(409, "the session has its stream already; resume it with Last-Event-ID")
            return
        GetReply(http, session, stream).begin(after)

    def delete(self, http: HttpClient, head: http1.RequestHead) -> None:
        session = self._session_of(http, head)
        if session is not None:
            self._sessions.end(session, "the client ended its session")
            http.respond(204, [])


def _is_modern(message: jsonrpc.Message) -> bool:
    return isinstance(message, jsonrpc.Request) and meta.version_in(message.params) is not None


class PostReply:
    """The response to one POST: JSON as long as it can be, an event stream from the first message on that
    is no answer. Implements `outlet.Outlet` and `http.Reply`."""

    owed = True

    def __init__(
        self, endpoint: McpEndpoint, http: HttpClient, session: HttpSession | None, expected: int, batch: bool
    ) -> None:
        self._hub = endpoint.hub
        self._asked_at = endpoint.hub.now
        self._http: HttpClient | None = http
        self._session = session
        self._left = expected
        self._batch = batch
        self._answers: list[bytes] = []
        self._status = 200
        self._lives: list[Live] = []
        self._events: EventStream | None = None
        self._streaming = False
        self.headers: list[tuple[str, str]] = []
        accept = http.head.headers.get("accept") if http.head is not None else None
        self.forwarded = forward.pick(http.head.headers, endpoint.forwarding) if http.head is not None else ()
        self._json = accepts(accept, JSON)
        self._sse = accepts(accept, EVENTS)
        self._commit_timer: Timer | None = None
        if self._sse:
            self._commit_timer = self._hub.after(self._hub.limits.sse_commit_s, "sse commit", self._commit)
        http.reply = self

    def track(self, live: Live) -> None:
        self._lives.append(live)

    # -- Outlet

    def notify(self, message: bytes) -> None:
        if not self._streaming and not self._sse:
            return  # the client takes JSON only: what belongs to the call is lost, its answer is not
        if not self._streaming:
            self._commit()
        self._send(message)

    def finish(self, message: bytes | None, status: int = 200, retry_after_s: int = 0) -> None:
        self._left -= 1
        if self._streaming or (self._sse and not self._json and message is not None and status == 200):
            self._commit()
            if message is not None:
                self._send(message)
        elif message is not None:
            self._answers.append(message)
            self._status = status
            if retry_after_s:
                self.headers.append(("Retry-After", str(retry_after_s)))
        if self._left <= 0:
            self._end()

    def hold(self, reason: str, on: bool) -> None:
        """One request per connection: there is nothing more to read from it anyway."""

    @property
    def shares_channel(self) -> bool:
        return False

    @property
    def can_ask(self) -> bool:
        return self._sse

    @property
    def pressed(self) -> bool:
        return self._http is not None and self._http.pressed_now

    # -- JSON or stream

    def _commit(self) -> None:
        if self._streaming:
            return
        self._streaming = True
        self._stop_timer()
        http = self._http
        if self._session is not None:
            self._events = self._session.streams.open(self._hub.now)
            self._events.pressure = self._throttle
        if http is None:
            return
        http.begin_stream(self.headers)
        if self._events is not None:
            assert self._session is not None
            if self._session.session.revision.priming_events:
                http.stream(self._events.prime(0))
            self._events.attach(http.stream, 0, http.end_stream)

    def _send(self, message: bytes) -> None:
        if self._events is not None:
            self._events.send(message)
        elif self._http is not None:
            self._http.stream(sse.encode_event(message))

    def _end(self) -> None:
        self._stop_timer()
        http, self._http = self._http, None
        if self._events is not None:
            # Whoever holds the stream now: this response, or one that resumed it.
            self._events.finish(self._hub.now)
        elif self._streaming:
            if http is not None:
                http.end_stream()
        elif http is not None and not self._answers:
            # Cancelled: there is no answer, and the response has to end all the same (G25).
            http.begin_stream(self.headers)
            http.end_stream()
        elif http is not None:
            body = self._answers[0] if not self._batch else b"[" + b",".join(self._answers) + b"]"
            http.respond(self._status, [("Content-Type", JSON), *self.headers], body)

    def _stop_timer(self) -> None:
        if self._commit_timer is not None:
            self._commit_timer.cancel()
            self._commit_timer = None

    # -- Reply

    def client_gone(self, closed: bool) -> None:
        """C24: for a modern client this is cancellation. C32: for a legacy one it is not; one that has only
        ended its sending side still gets its JSON. So does anyone who ends it right behind the request, as
        scripts do: who wants no answer ends it later."""
        early = self._hub.now - self._asked_at <= self._hub.limits.half_close_s
        if not closed and not self._streaming and (early or self._session is not None):
            if self._session is None:
                # It may be gone for good after all, which nothing would tell before we write.
                self._stop_timer()
                wait_s = self._hub.limits.half_close_wait_s
                self._commit_timer = self._hub.after(wait_s, "half close", lambda: self.client_gone(True))
            return
        http, self._http = self._http, None
        self._throttle(False)  # a stream that nobody reads is kept, as far as the budget goes
        if self._events is not None and http is not None:
            self._events.detach(http.stream)
        if self._session is None:
            self._stop_timer()
            lives, self._lives = self._lives, []
            for live in lives:
                live.cancel("the client closed the stream")
        if http is not None:
            http.drop_reply()

    def client_pressed(self, high: bool) -> None:
        self._throttle(high)

    def expired(self) -> None:
        """A call that was let in gets its answer; a subscription ends (J10, G19)."""
        for live in list(self._lives):
            if isinstance(live, Listening):
                live.end()

    def _throttle(self, high: bool) -> None:
        for live in self._lives:
            live.throttle(high)
        if self._session is not None:
            for call in list(self._session.session.calls):
                if inner(call.outlet) is self and call.exchange is not None:
                    call.exchange.throttle(high)


class GetReply:
    """The response to a GET: the session's own stream, or one that is resumed. Implements `http.Reply`."""

    owed = False

    def __init__(self, http: HttpClient, session: HttpSession, stream: EventStream) -> None:
        self._http: HttpClient | None = http
        self._session = session
        self._stream = stream

    def begin(self, after: int) -> None:
        http = self._http
        assert http is not None
        http.reply = self
        if self._stream.number == 0:
            if self._session.get is not None:
                self._session.get.end()
            self._session.get = self
        http.begin_stream([])
        if self._session.session.revision.priming_events:
            http.stream(self._stream.prime(after))
        self._stream.attach(http.stream, after, self.end)
        if self._stream.finished:
            self.end()

    def end(self) -> None:
        http, self._http = self._http, None
        if self._session.get is self:
            self._session.get = None
        if http is not None:
            self._stream.detach(http.stream)
            http.end_stream()

    def client_gone(self, closed: bool) -> None:
        http, self._http = self._http, None
        self._stream.pressure(False)
        if self._session.get is self:
            self._session.get = None
        if http is not None:
            self._stream.detach(http.stream)
            http.drop_reply()

    def expired(self) -> None:
        """The session goes on; the client comes back to its stream with a new token."""
        self.end()

    def client_pressed(self, high: bool) -> None:
        """A resumed stream slows its calls; what the session's own stream carries is small."""
        self._stream.pressure(high)
