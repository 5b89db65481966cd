"""Model clients on their five transports, with blocking sockets and a thread for each thing that is read.

Owns: `ModelClient` (what a client of either era says and answers, and the record of what it is told) and one
wire for each transport.
Must never: know which runner serves it; retry anything.
"""

from __future__ import annotations

import json
import socket
import threading
from typing import Any, Protocol

from mcpgate_proto.effects import Address
from mcpgate_proto.entropy import SEED_BYTES, Entropy
from mcpgate_proto.wire import sse
from mcpgate_proto.wire.http1_client import Failed, HttpClientCodec, ResponseData, ResponseEnd, ResponseHead
from mcpgate_proto.wire.http1_grammar import Headers
from mcpgate_proto.wire.websocket_handshake import UpgradeReader, check_response, upgrade_request
from tests.matrix.talk import (
    LEGACY,
    LIMITS,
    MODERN,
    PREFIX,
    WAIT_S,
    Conversation,
    Ends,
    Journal,
    LineFraming,
    Message,
    WebSocketFraming,
    begin,
)

__all__ = ["ELICITATION", "ModelClient", "Wire", "connect"]

ELICITATION: Message = {"elicitation": {}}
ANSWER = {"action": "accept", "content": {"value": "the blue one"}}
BOTH = "application/json, text/event-stream"
EVENTS = "text/event-stream"


class Wire(Protocol):
    """How messages travel. `client.heard` gets what comes; `client.journal` the end as ("end", goodbye)."""

    # Whether calls are cancelled when this client vanishes (L15).
    vanishing_cancels: bool
    # What `journal` holds when the gateway ends this connection in good order; None where nothing ends.
    goodbye: str | None

    def begin(self, client: ModelClient) -> None: ...
    def send(self, message: Message) -> None: ...
    def cancel(self, id: Any) -> None: ...
    def vanish(self) -> None: ...
    def leave(self) -> None: ...


class ModelClient:
    """One client. Methods block until what they wait for has come."""

    def __init__(self, era: str, wire: Wire) -> None:
        self.era = era
        self.wire = wire
        self.journal = Journal(f"{era} client")
        self.problems: list[str] = []
        # The server's capabilities.
        self.declared: Message = {}
        self.threads: list[threading.Thread] = []
        self._last = 0
        wire.begin(self)

    # -- from the wire

    def heard(self, message: Message) -> None:
        self.journal.add(("message", message))
        self._check(message)
        if "method" in message and "id" in message:
            if self.era == "modern":
                self.problems.append(f"a request to a modern client: {message}")
            else:
                result = ANSWER if message["method"] == "elicitation/create" else {}
                self.wire.send({"jsonrpc": "2.0", "id": message["id"], "result": result})

    def _check(self, message: Message) -> None:
        """F5: of what was not declared nothing is told."""
        kind, _, what = message.get("method", "").removeprefix("notifications/").partition("/")
        if what == "list_changed" and kind not in self.declared:
            self.problems.append(f"{kind} were not declared: {message}")

    def ended(self, goodbye: str) -> None:
        self.journal.add(("end", goodbye))

    def thread(self, work: Any, name: str) -> None:
        self.threads.append(begin(work, name))

    # -- requests

    def request(self, method: str, features: Message | None = None, **params: Any) -> int:
        """Send a request; its id, which is its progress token too."""
        self._last += 1
        meta: Message = {"progressToken": self._last}
        if self.era == "modern":
            meta[PREFIX + "protocolVersion"] = MODERN
            meta[PREFIX + "clientInfo"] = {"name": "model", "version": "1"}
            meta[PREFIX + "clientCapabilities"] = features or {}
        params["_meta"] = meta
        self.wire.send({"jsonrpc": "2.0", "id": self._last, "method": method, "params": params})
        return self._last

    def notify(self, method: str, **params: Any) -> None:
        self.wire.send({"jsonrpc": "2.0", "method": method, "params": params})

    def answer(self, id: int) -> Message:
        """The response to request `id`."""
        found = self.journal.first(lambda item: _answers(item, id), f"the answer to request {id}")
        return dict(found[1])

    def answers(self, id: int) -> int:
        """How many responses to request `id` have come."""
        return len(self.journal.all(lambda item: _answers(item, id)))

    def ask(self, method: str, **params: Any) -> Message:
        """The result of one request."""
        return self._result(self.request(method, **params))

    def _result(self, id: int) -> Message:
        answer = self.answer(id)
        assert "result" in answer, answer
        return dict(answer["result"])

    def open(self) -> Message:
        if self.era == "modern":
            return self.ask("server/discover")
        told = {"capabilities": ELICITATION, "clientInfo": {"name": "model", "version": "1"}}
        result = self.ask("initialize", protocolVersion=LEGACY, **told)
        self.declared = result["capabilities"]
        self.notify("notifications/initialized")
        return result

    def start(self, tool: str, features: Message | None = None, **arguments: Any) -> int:
        """Call a tool; the id of the call."""
        return self.request("tools/call", features, name=tool, arguments=arguments)

    def call(self, tool: str, **arguments: Any) -> str:
        """Call a tool and answer what it asks; the text of its result."""
        features = ELICITATION if tool == "ask" else None
        result = self._result(self.start(tool, features, **arguments))
        if result.get("resultType") == "input_required":
            answers = dict.fromkeys(result["inputRequests"], ANSWER)
            more = {"inputResponses": answers, "requestState": result["requestState"]}
            result = self._result(
                self.request("tools/call", features, name=tool, arguments=arguments, **more)
            )
        return str(result["content"][0]["text"])

    def progress(self, id: int) -> list[Any]:
        """What has been reported of request `id`."""
        told = self.journal.all(
            lambda item: item[0] == "message" and item[1].get("method") == "notifications/progress"
        )
        return [item[1]["params"]["progress"] for item in told if item[1]["params"]["progressToken"] == id]

    def questions(self) -> int:
        """How many requests have come."""
        return len(self.journal.all(lambda item: item[0] == "message" and {"id", "method"} <= item[1].keys()))

    def goodbye(self) -> str:
        """Wait for the end of the connection; the last word on it."""
        return str(self.journal.first(lambda item: item[0] == "end", "the end of the connection")[1])

    # -- the end

    def join(self) -> None:
        for thread in self.threads:
            thread.join(WAIT_S)
            assert not thread.is_alive(), f"{thread.name} does not end"

    def leave(self) -> None:
        self.wire.leave()
        self.join()

    def vanish(self) -> None:
        self.wire.vanish()
        self.join()


def _answers(item: Any, id: int) -> bool:
    return bool(item[0] == "message" and item[1].get("id") == id and "method" not in item[1])


def _dial(address: Address) -> socket.socket:
    if not address.path:
        return socket.create_connection((address.host, address.port), WAIT_S)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(WAIT_S)
    sock.connect(address.path)
    return sock


def _cancelled(id: Any) -> Message:
    params = {"requestId": id, "reason": "changed my mind"}
    return {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}


class StreamWire:
    """One channel for everything: stdio, a Unix socket, a WebSocket."""

    vanishing_cancels = True
    goodbye: str | None = ""

    def __init__(self, ends: Ends, framing: Any = None, first: bytes = b"") -> None:
        self._ends = ends
        self._framing = framing or LineFraming()
        self._first = first

    def begin(self, client: ModelClient) -> None:
        self._conversation = Conversation(self._ends, self._framing, client.heard, client.ended)
        client.thread(lambda: self._conversation.run(self._first), "client's channel")

    def send(self, message: Message) -> None:
        self._conversation.send(message)

    def cancel(self, id: Any) -> None:
        self.send(_cancelled(id))

    def vanish(self) -> None:
        self._conversation.vanish()

    def leave(self) -> None:
        self._conversation.leave()


class WebSocketWire(StreamWire):
    # RFC 6455 7.4.1: going away.
    goodbye: str | None = "1001"

    def __init__(self, address: Address) -> None:
        ends = Ends(_dial(address))
        host = f"127.0.0.1:{address.port}"
        # Known bytes: what a client draws is not this test's concern.
        request, key = upgrade_request("/mcp", host, Entropy(bytes(SEED_BYTES)))
        ends.write(request)
        reader = UpgradeReader(LIMITS)
        head: ResponseHead | Failed | None = None
        while head is None:
            data = ends.read()
            assert data, "the connection ended before the upgrade"
            head = reader.receive(data)
        assert isinstance(head, ResponseHead), head
        assert check_response(head, key) is None, head
        super().__init__(ends, WebSocketFraming("client"), reader.rest)


class HttpExchange:
    """One request on a connection of its own, and its response as it comes."""

    def __init__(
        self,
        wire: HttpWire | SseWire,
        method: str,
        target: str,
        headers: list[tuple[str, str]],
        message: Message | None = None,
    ) -> None:
        self.method = method
        self._wire = wire
        self._message = message
        self._codec = HttpClientCodec(LIMITS)
        self._events: sse.SseDecoder | None = None
        self._body = b""
        self.status = 0
        self.over = threading.Event()
        self._ends = Ends(_dial(wire.address))
        host = "localhost" if wire.address.path else f"127.0.0.1:{wire.address.port}"
        body = json.dumps(message).encode() if message is not None else b""
        fields = [("Host", host), *headers]
        if body:
            fields.append(("Content-Type", "application/json"))
        self._ends.write(b"".join(self._codec.request(method, target, fields, body)))
        wire.client.thread(self._run, f"{method} {target}")

    def _run(self) -> None:
        try:
            ended = False
            while not ended and (data := self._ends.read()):
                for event in self._codec.receive(data):
                    ended = ended or isinstance(event, ResponseEnd | Failed)
                    self._event(event)
        finally:
            self._ends.close()
            self.over.set()
            self._wire.exchange_over(self)

    def _event(self, event: Any) -> None:
        if isinstance(event, ResponseHead):
            self.status = event.status
            self._wire.head(self._message, event.headers)
            if (event.headers.get("content-type") or "").startswith(EVENTS):
                self._events = sse.SseDecoder(LIMITS.sse_event_bytes)
        elif isinstance(event, ResponseData) and self._events is not None:
            for item in self._events.receive(event.data):
                assert isinstance(item, sse.SseEvent), item
                self._wire.item(item)
        elif isinstance(event, ResponseData):
            self._body += event.data
        elif isinstance(event, Failed):
            self._wire.client.journal.add(("broken", event.reason))
        elif self._body:
            self._wire.client.heard(json.loads(self._body))

    def close(self) -> None:
        self._ends.leave()

    def vanish(self) -> None:
        self._ends.vanish()


class HttpWire:
    """Streamable HTTP: a POST for each message, and for a legacy session a GET stream."""

    goodbye: str | None = None

    def __init__(self, address: Address, era: str) -> None:
        self.address = address
        self.client: ModelClient
        self.vanishing_cancels = era == "modern"
        self._modern = era == "modern"
        self._session: list[tuple[str, str]] = []
        self._posts: dict[Any, HttpExchange] = {}
        self._get: HttpExchange | None = None
        self._lock = threading.Lock()

    def begin(self, client: ModelClient) -> None:
        self.client = client

    def head(self, message: Message | None, headers: Headers) -> None:
        id = headers.get("mcp-session-id")
        if id is not None and message is not None and message.get("method") == "initialize":
            self._session = [("Mcp-Session-Id", id), ("MCP-Protocol-Version", LEGACY)]

    def item(self, event: sse.SseEvent) -> None:
        if event.data:
            self.client.heard(json.loads(event.data))

    def exchange_over(self, exchange: HttpExchange) -> None:
        with self._lock:
            self._posts = {id: one for id, one in self._posts.items() if one is not exchange}

    def send(self, message: Message) -> None:
        headers = [("Accept", BOTH), *self._session]
        if self._modern:
            headers += [("MCP-Protocol-Version", MODERN), ("Mcp-Method", message["method"])]
            if message["method"] == "tools/call":
                headers.append(("Mcp-Name", message["params"]["name"]))
        with self._lock:
            exchange = HttpExchange(self, "POST", "/mcp", headers, message)
            if "id" in message and "method" in message:
                self._posts[message["id"]] = exchange
                return
        if "method" in message:
            # In order with what follows. (Answers are sent by a thread that reads.)
            assert exchange.over.wait(WAIT_S) and exchange.status == 202, exchange.status
            if message["method"] == "notifications/initialized":
                self._get = HttpExchange(self, "GET", "/mcp", [("Accept", EVENTS), *self._session])

    def cancel(self, id: Any) -> None:
        if self._modern:
            self._posts[id].close()
        else:
            self.send(_cancelled(id))

    def _open(self) -> list[HttpExchange]:
        with self._lock:
            return [*self._posts.values(), *([self._get] if self._get is not None else [])]

    def vanish(self) -> None:
        for one in self._open():
            one.vanish()

    def leave(self) -> None:
        if self._session:
            ended = HttpExchange(self, "DELETE", "/mcp", self._session)
            assert ended.over.wait(WAIT_S) and ended.status in (0, 204), ended.status
        for one in self._open():
            one.close()


class SseWire:
    """HTTP+SSE of 2024-11-05: one stream for everything that comes, a POST for each message."""

    vanishing_cancels = True
    goodbye: str | None = ""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.client: ModelClient
        self._endpoint = ""
        self._announced = threading.Event()

    def begin(self, client: ModelClient) -> None:
        self.client = client
        self._stream = HttpExchange(self, "GET", "/sse", [("Accept", EVENTS)])
        assert self._announced.wait(WAIT_S), "no endpoint was announced"

    def head(self, message: Message | None, headers: Headers) -> None:
        """There is no session header (E5)."""

    def item(self, event: sse.SseEvent) -> None:
        if not self._announced.is_set():
            assert event.event == "endpoint", event
            self._endpoint = event.data.decode()
            self._announced.set()
        elif event.event == "message":
            self.client.heard(json.loads(event.data))

    def exchange_over(self, exchange: HttpExchange) -> None:
        if exchange.method == "GET":
            self.client.ended("")

    def send(self, message: Message) -> None:
        posted = HttpExchange(self, "POST", self._endpoint, [("Accept", BOTH)], message)
        if "method" in message:
            assert posted.over.wait(WAIT_S) and posted.status == 202, posted.status

    def cancel(self, id: Any) -> None:
        self.send(_cancelled(id))

    def vanish(self) -> None:
        self._stream.vanish()

    def leave(self) -> None:
        self._stream.close()


def connect(transport: str, era: str, address: Address | None, pipes: tuple[int, int] | None) -> ModelClient:
    """A client of a gateway that listens at `address` or on `pipes`."""
    wire: Wire
    if transport == "stdio":
        assert pipes is not None
        wire = StreamWire(Ends(pipes=pipes))
    else:
        assert address is not None
        if transport == "http":
            wire = HttpWire(address, era)
        elif transport == "sse":
            wire = SseWire(address)
        elif transport == "websocket":
            wire = WebSocketWire(address)
        else:
            wire = StreamWire(Ends(_dial(address)))
    return ModelClient(era, wire)
