"""Peers that send exactly the bytes they are given, on virtual time, and what comes back to them.

Owns: `scene_of`, `Raw` (a client's connection), `ask` (a connection of its own for some bytes), `serves`
(the gateway still works for others), and servers that answer a call with given bytes. Must never: read
leniently; an answer that is not HTTP by the book fails the test.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fuzz.sim import http
from fuzz.sim.scene import Scene
from fuzz.sim.servers import HttpConn
from fuzz.sim.sockets import FrameReader, frame
from fuzz.sim.streams import Stream
from fuzz.sim.talk import META, MODERN, Message
from mcpgate_proto.effects import Effect, Write

__all__ = [
    "DUAL",
    "HOST",
    "LEGACY",
    "MODERN_ERA",
    "Raw",
    "Response",
    "Wiretap",
    "answering_with",
    "ask",
    "body_of",
    "call_head",
    "call_of",
    "chunk",
    "handshake",
    "header_lines",
    "legacy_session",
    "post",
    "scene_of",
    "serves",
    "ws_open",
]

HOST = "127.0.0.1:8080"
LEGACY, MODERN_ERA, DUAL = ("legacy",), ("modern",), ("legacy", "modern")
MASK = b"\x11\x22\x33\x44"
WS_HEADERS = (
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
)


def scene_of(eras: tuple[str, ...] = DUAL, transport: str = "stdio", **options: Any) -> Scene:
    """One server, and every way in over TCP."""
    options.setdefault("sockets", True)
    return Scene({"one": (transport, eras)}, **options).start()


class Response:
    """One response: `status`, `headers` (names in lower case), `body`."""

    def __init__(self, status: int, headers: http.Headers) -> None:
        self.status = status
        self.headers = headers
        self.body = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def messages(self) -> list[Message]:
        """The messages of a body, JSON or event stream."""
        if not self.headers.get("content-type", "").startswith("text/event-stream"):
            return [self.json] if self.body else []
        found: list[Message] = []
        reader = http.EventReader(lambda event: found.append(json.loads(event.data)) if event.data else None)
        reader.feed(self.body)
        return found


class Raw:
    """A client's connection. `sent_back` is all that came, `responses` what it means as HTTP, `lines` what it
    means on a pipe, `frames` on a WebSocket after its 101; `ended`: the gateway has closed its side."""

    stream: Stream

    def __init__(self, scene: Scene, listener: str = "http", kind: str = "tcp") -> None:
        self.scene = scene
        self.sent_back = bytearray()
        self.responses: list[Response] = []
        self.interim: list[int] = []
        self.frames: list[tuple[int, bytes]] = []
        self.ended = False
        self._mode = "http" if listener.startswith("http") else "lines"
        self._reader = http.MessageReader(self._opened, self._body, lambda: None, requests=False)
        self._frames = FrameReader(from_client=False)
        self.refused = not scene.net.connect(listener, self, kind)

    # -- what the network calls

    def opened(self) -> None:
        pass

    def data(self, data: bytes) -> None:
        self.sent_back += data
        if self._mode == "http":
            self._reader.feed(data)
            if self._mode == "ws":
                data = bytes(self._reader.take())
        if self._mode == "ws" and data:
            self.frames += self._frames.feed(data)

    def eof(self) -> None:
        self.ended = True

    def gone(self) -> None:
        self.ended = True

    def _opened(self, start: str, headers: http.Headers) -> None:
        status = int(start.split(" ")[1])
        if status == 101:
            self._mode = "ws"
        if status < 200:
            self.interim.append(status)
        else:
            self.responses.append(Response(status, headers))

    def _body(self, data: bytes) -> None:
        self.responses[-1].body += data

    # -- for tests

    def send(self, data: bytes, wait_s: float = 0.5) -> Raw:
        self.stream.send(data)
        self.scene.run(wait_s)
        return self

    def half_close(self, wait_s: float = 0.5) -> Raw:
        self.stream.send_eof()
        self.scene.run(wait_s)
        return self

    def frame(self, kind: int, body: bytes, wait_s: float = 0.5) -> Raw:
        return self.send(frame(kind, body, MASK), wait_s)

    @property
    def statuses(self) -> list[int]:
        return [response.status for response in self.responses]

    @property
    def last(self) -> Response:
        return self.responses[-1]

    @property
    def lines(self) -> list[Message]:
        return [json.loads(line) for line in bytes(self.sent_back).split(b"\n") if line]

    @property
    def texts(self) -> list[Message]:
        """The messages in the text frames of a WebSocket."""
        return [json.loads(body) for kind, body in self.frames if kind == 1]

    @property
    def close_code(self) -> int | None:
        """What a WebSocket was closed with."""
        codes = [int.from_bytes(body[:2], "big") for kind, body in self.frames if kind == 8]
        return codes[0] if codes else None


def ask(scene: Scene, data: bytes, *, wait_s: float = 0.5, listener: str = "http", kind: str = "tcp") -> Raw:
    """Send `data` on a connection of its own."""
    return Raw(scene, listener, kind).send(data, wait_s)


def serves(scene: Scene) -> bool:
    """Whether somebody else's call still works."""
    client = scene.modern()
    call = scene.done(client.tool("echo"))
    client.leave()
    return call.text == call.nonce


def header_lines(headers: list[tuple[str, str]]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in headers)


def post(
    body: bytes, more: list[tuple[str, str]] | None = None, *, path: str = "/mcp", host: str = HOST
) -> bytes:
    """A POST of JSON with everything that a client sends."""
    headers = [
        ("Host", host),
        ("Content-Type", "application/json"),
        ("Accept", "application/json, text/event-stream"),
        *(more or []),
        ("Content-Length", str(len(body))),
    ]
    return f"POST {path} HTTP/1.1\r\n{header_lines(headers)}\r\n".encode() + body


def body_of(method: str = "tools/call", id: Any = 1, modern: bool = True, **params: Any) -> Message:
    """A request, with the members that each modern one has."""
    if modern:
        params["_meta"] = {META + "protocolVersion": MODERN, META + "clientCapabilities": {}}
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


def call_head(tool: str = "echo") -> list[tuple[str, str]]:
    """What the head of a modern tools/call says of it."""
    return [("MCP-Protocol-Version", MODERN), ("Mcp-Method", "tools/call"), ("Mcp-Name", tool)]


def call_of(tool: str = "echo", id: Any = 1, **arguments: Any) -> bytes:
    """A whole modern tools/call over HTTP."""
    told = json.dumps(body_of(id=id, name=tool, arguments=arguments)).encode()
    return post(told, call_head(tool))


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%b\r\n%b\r\n" % (len(data), extension, data)


def handshake(version: str = "2025-11-25") -> bytes:
    """An initialize of a client that can do nothing."""
    told = body_of("initialize", modern=False, protocolVersion=version, capabilities={}, clientInfo={})
    return json.dumps(told).encode()


def legacy_session(scene: Scene, version: str = "2025-11-25") -> list[tuple[str, str]]:
    """The headers of a session that has shaken hands."""
    client = scene.legacy(version=version)
    assert client.session is not None
    return [("Mcp-Session-Id", client.session), ("MCP-Protocol-Version", version)]


def ws_open(scene: Scene, more: list[tuple[str, str]] | None = None, path: str = "/mcp") -> Raw:
    """An upgrade, with `more` in the place of headers of the same name."""
    given = {name.lower() for name, _ in more or []}
    headers = [("Host", HOST), *WS_HEADERS]
    headers = [one for one in headers if one[0].lower() not in given] + (more or [])
    return ask(scene, f"GET {path} HTTP/1.1\r\n{header_lines(headers)}\r\n".encode())


class Wiretap:
    """All that the gateway writes to servers, from now on."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self.written = bytearray()
        scene.world.watchers.append(self._look)

    def _look(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Write):
                stream = self._scene.net.streams.get(effect.conn)
                if stream is not None and (stream.child or hasattr(stream.peer, "server")):
                    self.written += b"".join(effect.chunks)


def answering_with(answer: Callable[[Any], bytes], *, then_close: bool = False) -> type[HttpConn]:
    """Connections of an HTTP server that answers each tools/call with `answer(id)`, as it is."""

    class Answering(HttpConn):
        def _ended(self) -> None:
            message = json.loads(b"".join(self._parts)) if self._parts else {}
            if message.get("method") != "tools/call":
                super()._ended()
                return
            self.server.requests.append((self._method, self._headers, message))
            self.stream.send(answer(message["id"]))
            if then_close:
                self.stream.close()

    return Answering
