"""HTTP+SSE of 2024-11-05, server side: beside the MCP endpoint, off unless configured (E6, E7).

    GET  /sse                    an event stream; its first event `endpoint` names where to post
    POST /messages?session=ID    202; whatever it leads to comes on the stream

Owns: the two routes, one legacy session per stream. Must never: log a session id (it works like a bearer
token, E4); let a session outlive its stream (E5).
"""

from __future__ import annotations

from mcpgate_proto.downstream import pace
from mcpgate_proto.downstream.audited import audited
from mcpgate_proto.downstream.http import HttpClient
from mcpgate_proto.downstream.http_headers import EVENTS, JSON, accepts
from mcpgate_proto.downstream.session import ClientSession
from mcpgate_proto.hub import Hub
from mcpgate_proto.mcp import codes
from mcpgate_proto.relay.relay import Relay
from mcpgate_proto.wire import http1_server as http1
from mcpgate_proto.wire import jsonrpc, sse, values

__all__ = ["SseMessages", "SseOpen"]


class SseStream:
    """One client: its stream and its session. Implements `http.Reply`, the session's `Channel`, and the
    `Outlet` of every request: all share one channel."""

    owed = False

    def __init__(self, endpoint: SseOpen, http: HttpClient, id: str) -> None:
        self._endpoint = endpoint
        self.http: HttpClient | None = http
        self.id = id
        self.session = ClientSession(endpoint.hub, endpoint.relay, id, http.principal, self)
        self.started = False

    @property
    def reachable(self) -> bool:
        return self.http is not None

    def send(self, message: bytes) -> None:
        if self.http is not None:
            self.http.stream(sse.encode_event(message, event="message"))

    # -- Outlet

    def notify(self, message: bytes) -> None:
        self.send(message)

    def finish(self, message: bytes | None, status: int = 200, retry_after_s: int = 0) -> None:
        if message is not None:
            self.send(message)

    def hold(self, reason: str, on: bool) -> None:
        """Posts come on other connections, each with one message."""

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
        return self.http is not None and self.http.pressed_now

    # -- Reply

    def client_gone(self, closed: bool) -> None:
        http, self.http = self.http, None
        self._endpoint.ended(self)
        self.session.end("the client closed its stream")
        if http is not None:
            http.drop_reply()

    def client_pressed(self, high: bool) -> None:
        for call in list(self.session.calls):
            if call.exchange is not None:
                call.exchange.throttle(high)

    def expired(self) -> None:
        """The session lives as long as its stream (E5), so it ends with it; a new token opens another."""
        self.end("the client's credentials have expired")

    def end(self, reason: str) -> None:
        http, self.http = self.http, None
        self._endpoint.ended(self)
        self.session.end(reason)
        if http is not None:
            http.end_stream()


class SseOpen:
    """`GET /sse`. Implements `http.Endpoint`."""

    def __init__(self, hub: Hub, relay: Relay, messages_path: str) -> None:
        self.hub = hub
        self.relay = relay
        self._messages_path = messages_path
        self.streams: dict[str, SseStream] = {}

    def get(self, http: HttpClient, head: http1.RequestHead) -> None:
        if not accepts(head.headers.get("accept"), EVENTS):
            http.refuse(406, "Accept must allow text/event-stream")
            return
        mine = sum(1 for one in self.streams.values() if one.session.principal == http.principal)
        limits = self.hub.limits
        if len(self.streams) >= limits.sessions or mine >= limits.sessions_per_principal:
            http.refuse(503, "too many sessions are open", [("Retry-After", "10")])
            return
        stream = SseStream(self, http, self.hub.entropy.token(192))
        self.streams[stream.id] = stream
        http.reply = stream
        http.begin_stream([])
        target = f"{self._messages_path}?session={stream.id}"
        http.stream(sse.encode_event(target.encode(), event="endpoint"))

    def post(self, http: HttpClient, head: http1.RequestHead, body: bytes) -> None:
        http.not_allowed("GET, OPTIONS")

    def delete(self, http: HttpClient, head: http1.RequestHead) -> None:
        http.not_allowed("GET, OPTIONS")

    def ended(self, stream: SseStream) -> None:
        self.streams.pop(stream.id, None)

    def stop(self) -> None:
        for stream in list(self.streams.values()):
            stream.end("mcpgate is stopping")


class SseMessages:
    """`POST /messages?session=ID`. Implements `http.Endpoint`."""

    def __init__(self, opened: SseOpen) -> None:
        self._opened = opened

    def post(self, http: HttpClient, head: http1.RequestHead, body: bytes) -> None:
        id = head.query.removeprefix("session=")
        stream = self._opened.streams.get(id)
        if stream is None or stream.session.principal != http.principal:
            http.refuse(404, "no such session; open the event stream again")  # E4
            return
        session = stream.session
        batches = session.revision.batches
        messages = jsonrpc.decode(body, self._opened.hub.limits, allow_batch=batches)
        malformed = [one for one in messages if isinstance(one, jsonrpc.Malformed)]
        if malformed:
            self._opened.hub.count("malformed_messages")
            first = malformed[0]
            error = jsonrpc.encode_error(first.id, first.code, first.reason)
            http.respond(400, [("Content-Type", JSON)], error)
            return
        http.respond(202, [])
        for number, message in enumerate(messages):
            # The first was counted with its POST.
            limited = session.relay.rates.principal(http.principal) if number else None
            if limited is not None and not pace.passes(message):
                told = pace.refused(limited, message)
                if told is not None:
                    stream.send(told)
            elif not isinstance(message, jsonrpc.Malformed):
                self._one(http, stream, message)

    def _one(self, http: HttpClient, stream: SseStream, message: jsonrpc.Message) -> None:
        if not isinstance(message, jsonrpc.Request):
            stream.session.handle(message, None)
            return
        outlet = audited(
            stream.session.hub, stream, message, http.principal, http.source.text, http.body_bytes
        )
        if message.method == "initialize" and not stream.started:
            stream.started = values.text_of(message.params, "protocolVersion") is not None
            stream.session.initialize(message, outlet)
        elif not stream.started and message.method != "ping":
            told = "the session is not initialized"
            stream.send(jsonrpc.encode_error(message.id, codes.INVALID_REQUEST, told))
        else:
            stream.session.handle(message, outlet)

    def get(self, http: HttpClient, head: http1.RequestHead) -> None:
        http.not_allowed("POST, OPTIONS")

    def delete(self, http: HttpClient, head: http1.RequestHead) -> None:
        http.not_allowed("POST, OPTIONS")
