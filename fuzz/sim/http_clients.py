"""Model clients over Streamable HTTP, legacy and modern.

Owns: a client's connections (`Wire`), sessions, the GET stream, resumption, the headers of both eras.
Must never: accept in silence what a gateway must not send: every such thing goes to `problems`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fuzz.sim import http
from fuzz.sim.clients import Call, Client, key
from fuzz.sim.streams import Faults, Stream
from fuzz.sim.talk import MODERN, Message

if TYPE_CHECKING:
    from fuzz.sim.world import World

__all__ = ["HttpClient", "LegacyHttp", "ModernHttp", "Wire"]


class Wire:
    """One HTTP connection of a client, which carries one request at a time."""

    stream: Stream

    def __init__(self, client: HttpClient, faults: Faults | None = None) -> None:
        self.client = client
        self.call: Call | None = None
        self.dead = False
        self.busy = False
        self._told_at: float | None = None
        self.method = ""
        self.on_event: Callable[[http.Event], None] = lambda event: None
        self.on_end: Callable[[], None] = lambda: None
        self.status = 0
        self.headers: http.Headers = {}
        self._reader = http.MessageReader(self._opened, self._body, self._ended, requests=False)
        self._events: http.EventReader | None = None
        self._parts: list[bytes] = []
        self._close_after = False
        self.refused = not client.world.net.connect(client.listener, self, client.kind, faults=faults)
        if self.refused:
            self.dead = True

    def opened(self) -> None:
        pass

    def send(
        self,
        method: str,
        headers: list[tuple[str, str]],
        body: bytes | None,
        call: Call | None,
        path: str = "/mcp",
    ) -> None:
        self.call, self.method, self.busy = call, method, True
        self.status = 0
        host = [("Host", "127.0.0.1:8080"), *headers]
        if self.dead:
            self._lost()
            return
        self._told_at = None
        data = http.head(f"{method} {path} HTTP/1.1", host, body if body is not None else b"")
        self.stream.send(data, self._told)

    def _told(self) -> None:
        self._told_at = self.client.world.now

    def _opened(self, start: str, headers: http.Headers) -> None:
        self.status = int(start.split(" ")[1])
        self.headers = headers
        self._close_after = headers.get("connection", "") == "close"
        self._parts = []
        self._events = None
        if self.status == 200 and headers.get("content-type", "").startswith("text/event-stream"):
            self._events = http.EventReader(self._event)
        if self.call is not None:
            self.call.status = self.status
            self.call.headers = headers
        self.client.headed(self)

    def _body(self, data: bytes) -> None:
        if self._events is not None:
            self._events.feed(data)
        else:
            self._parts.append(data)

    def _event(self, event: http.Event) -> None:
        if self.call is not None:
            if event.data is None:
                self.call.comments.append(self.client.world.now)
            if event.id is not None:
                self.call.event_ids.append(event.id)
        self.on_event(event)
        if event.data and not self.client.stream_event(event):
            self.client.stream_message(self, json.loads(event.data))

    def _ended(self) -> None:
        self.busy = False
        body = b"".join(self._parts)
        if (
            self._events is None
            and body
            and self.headers.get("content-type", "").startswith("application/json")
        ):
            told = json.loads(body)
            for message in told if isinstance(told, list) else [told]:
                self.client.plain_message(self, message)
        call, self.call = self.call, None
        if call is not None and not call.over:
            call.closed = True
        self.on_end()
        if self._close_after:
            self.close()

    def eof(self) -> None:
        self._reader.eof()
        self._lost()
        if not self.stream.over:
            self.stream.close()

    def gone(self) -> None:
        self._lost()

    def _lost(self) -> None:
        self.dead = True
        self.busy = False
        call, self.call = self.call, None
        if call is not None and not call.over:
            call.closed = True
            call.client.on_answer(call)
        self.on_end()
        self.on_end = lambda: None

    def data(self, data: bytes) -> None:
        self._reader.feed(data)

    @property
    def early(self) -> bool:
        """Whether the gateway may have heard of the request only just now, or not yet."""
        now = self.client.world.now
        return self._told_at is None or now - self._told_at <= self.client.world.config.limits.half_close_s

    def close(self) -> None:
        if not self.dead:
            self.dead = True
            self.stream.close()

    def break_off(self) -> None:
        if not self.dead:
            self.dead = True
            self.stream.reset()


class HttpClient(Client):
    """Over Streamable HTTP: a connection for each request that is open, used again when idle."""

    def __init__(
        self,
        world: World,
        name: str,
        listener: str = "http",
        *,
        capabilities: Message | None = None,
        kind: str = "tcp",
    ) -> None:
        super().__init__(world, name, capabilities=capabilities)
        self.listener = listener
        self.kind = kind
        self.principal = "local" if kind == "unix" else "anonymous"
        self.wires: list[Wire] = []
        self.accept = "application/json, text/event-stream"

    def wire(self) -> Wire:
        for wire in self.wires:
            if not wire.dead and not wire.busy:
                return wire
        self.wires = [wire for wire in self.wires if not wire.dead]
        made = Wire(self)
        self.wires.append(made)
        return made

    def post(self, message: Any, headers: list[tuple[str, str]], call: Call | None) -> Wire:
        wire = self.wire()
        base = [("Content-Type", "application/json"), ("Accept", self.accept), *headers]
        if call is not None:
            call.wire = wire
        wire.send("POST", base, json.dumps(message).encode(), call)
        return wire

    def headed(self, wire: Wire) -> None:
        """The head of a response is there."""

    def stream_event(self, event: http.Event) -> bool:
        """Whether the event is no message, and dealt with."""
        return False

    def plain_message(self, wire: Wire, message: Message) -> None:
        self._response(wire, message)

    def stream_message(self, wire: Wire, message: Message) -> None:
        if "method" not in message:
            self._response(wire, message)
        elif "id" in message:
            self.asked(message)
        elif wire.call is not None:
            wire.call.notes.append((self.world.now, message))
        else:
            self.notes.append((self.world.now, message))

    def _response(self, wire: Wire, message: Message) -> None:
        call = wire.call
        if call is None:
            if "result" in message:
                self.problem(f"a result where none was asked for: {message} (I1)")
        elif "error" in message and message.get("id") is None:
            self.answered(call, message)
        elif key(message.get("id")) != key(call.id):
            self.problem(f"asked with id {call.id}, answered with {message.get('id')} (I1)")
        else:
            self.answered(call, message)

    def vanish(self, call: Call) -> None:
        """Close the connection of a call before its answer."""
        if call.wire is not None and call.wire.call is call:
            call.cancelled = self.modern
            call.closed = True
            call.wire.call = None
            call.wire.stream.on_ended = lambda: setattr(call, "cancel_seen", True)
            if call.wire.early:
                # So soon, closing could as well be half-closing; only a broken connection says more.
                call.wire.break_off()
            else:
                call.wire.close()

    def leave(self) -> None:
        for wire in list(self.wires):
            wire.close()
        self.dead = True


class ModernHttp(HttpClient):
    modern = True

    def send_request(self, call: Call, message: Message) -> None:
        headers = [("MCP-Protocol-Version", MODERN), ("Mcp-Method", call.method)]
        name = call.params.get("name") if call.method != "resources/read" else call.params.get("uri")
        if name is not None and call.method in ("tools/call", "prompts/get", "resources/read"):
            headers.append(("Mcp-Name", str(name)))
        self.post(message, headers, call)

    def cancel(self, call: Call) -> None:
        self.vanish(call)


class LegacyHttp(HttpClient):
    version = "2025-11-25"

    def __init__(self, world: World, name: str, listener: str = "http", **options: Any) -> None:
        super().__init__(world, name, listener, **options)
        self.session: str | None = None
        self.get: Wire | None = None
        self.main: list[http.Event] = []

    def open(self) -> LegacyHttp:
        self.hello = self.introduce()
        return self

    def _base(self) -> list[tuple[str, str]]:
        if self.session is None:
            return []
        return [("MCP-Protocol-Version", self.version), ("Mcp-Session-Id", self.session)]

    def headed(self, wire: Wire) -> None:
        if self.session is None and "mcp-session-id" in wire.headers:
            self.session = wire.headers["mcp-session-id"]

    def answered(self, call: Call, message: Message) -> None:
        super().answered(call, message)
        if call.method == "initialize" and "result" in message:
            self.notify("notifications/initialized")

    def send_request(self, call: Call, message: Message) -> None:
        self.post(message, self._base(), call)

    def notify(self, method: str, params: Message | None = None) -> None:
        message: Message = {"jsonrpc": "2.0", "method": method}
        if params is not None:
            message["params"] = params
        self.post(message, self._base(), None)

    def reply(self, message: Message) -> None:
        self.post(message, self._base(), None)

    def cancel(self, call: Call, reason: str = "changed my mind") -> None:
        call.cancelled = True
        self.notify("notifications/cancelled", {"requestId": call.id, "reason": reason})

    def listen(self, last_id: str | None = None, *, call: Call | None = None) -> Wire:
        """Open the GET stream, or resume one; `call` gets what is resumed for it."""
        wire = Wire(self)
        self.wires.append(wire)
        headers = [("Accept", "text/event-stream"), *self._base()]
        if last_id is not None:
            headers.append(("Last-Event-ID", last_id))
        if call is not None:
            call.closed = False
            call.wire = wire
        else:
            self.get = wire
        wire.on_event = self.main.append
        wire.send("GET", headers, None, call)
        return wire

    def delete(self) -> Wire:
        wire = self.wire()
        wire.send("DELETE", self._base(), None, None)
        return wire
