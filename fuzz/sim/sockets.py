"""WebSocket and HTTP+SSE of 2024-11-05 for model peers, and servers and clients on plain sockets.

Owns: the client `Ws` (either era), `LegacySse`, the servers `SocketConn` (lines), `WsConn` and `SseConn`.
Must never: share code with the gateway's own WebSocket: a slip of both would not be seen.
"""

from __future__ import annotations

import json
from base64 import b64encode
from typing import TYPE_CHECKING, Any

from fuzz.sim import http
from fuzz.sim.clients import Call, LegacyPipe, ModernPipe, PipeClient, forsake, key
from fuzz.sim.http_clients import HttpClient, Wire
from fuzz.sim.servers import HttpConn, Process
from fuzz.sim.talk import Message, Talk
from fuzz.sim.words import upgraded

if TYPE_CHECKING:
    from fuzz.sim.servers import ServerModel
    from fuzz.sim.world import World

__all__ = ["LegacySse", "LegacyWs", "ModernWs", "SocketConn", "SseConn", "WsConn"]

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


def frame(kind: int, body: bytes, mask: bytes = b"") -> bytes:
    """One whole frame, masked when a mask is given."""
    bit = 128 if mask else 0
    if len(body) < 126:
        size = bytes([bit | len(body)])
    elif len(body) < 65536:
        size = bytes([bit | 126]) + len(body).to_bytes(2, "big")
    else:
        size = bytes([bit | 127]) + len(body).to_bytes(8, "big")
    return bytes([128 | kind]) + size + mask + (masked(body, mask) if mask else body)


def masked(body: bytes, mask: bytes) -> bytes:
    whole = (mask * (len(body) // 4 + 1))[: len(body)]
    return (int.from_bytes(body, "big") ^ int.from_bytes(whole, "big")).to_bytes(len(body), "big")


class FrameReader:
    """Takes frames, and messages out of fragments."""

    def __init__(self, *, from_client: bool) -> None:
        self._data = bytearray()
        self._parts: list[bytes] = []
        self._from_client = from_client
        self.taken = 0

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        self._data += data
        found = []
        while (one := self._take()) is not None:
            final, kind, body = one
            if kind >= CLOSE:
                found.append((kind, body))
                continue
            self._parts.append(body)
            if final:
                found.append((TEXT, b"".join(self._parts)))
                self._parts = []
        return found

    def _take(self) -> tuple[bool, int, bytes] | None:
        data = self._data
        if len(data) < 2:
            return None
        assert bool(data[1] & 128) is self._from_client, "masked on the wrong side"
        size, at = data[1] & 127, 2
        if size >= 126:
            at = 4 if size == 126 else 10
            size = int.from_bytes(data[2:at], "big")
        end = at + 4 * self._from_client + size
        if len(data) < end:
            return None
        body = bytes(data[end - size : end])
        if self._from_client:
            body = masked(body, bytes(data[at : at + 4]))
        final, kind = bool(data[0] & 128), data[0] & 15
        del data[:end]
        self.taken += end
        return final, kind, body


# -- clients


class Ws(PipeClient):
    """Messages in text frames, after an upgrade."""

    principal = "anonymous"

    def _start(self) -> None:
        self._frames = FrameReader(from_client=False)
        self._head = bytearray()
        self._up = False
        if not self.world.net.connect(self.listener, self, "tcp"):
            self.dead = True
            return
        word = b64encode(self.world.random.randbytes(16)).decode()
        upgrade = [
            ("Host", "127.0.0.1:8080"),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", word),
            ("Sec-WebSocket-Protocol", "mcp"),
        ]
        self.stream.send(http.head("GET /mcp HTTP/1.1", upgrade, None))

    def encode(self, message: Message) -> bytes:
        return frame(TEXT, json.dumps(message).encode(), self.world.random.randbytes(4))

    def data(self, data: bytes) -> None:
        if not self._up:
            self._head += data
            at = self._head.find(b"\r\n\r\n")
            if at < 0:
                return
            if self._head.startswith(b"HTTP/1.1 408 "):
                # The upgrade stalled on its way for longer than a gateway waits.
                self._lost()
                self.stream.close()
                return
            assert self._head.startswith(b"HTTP/1.1 101 "), bytes(self._head[:80])
            self._up = True
            data = bytes(self._head[at + 4 :])
            self._base_at = at + 4
        for kind, body in self._frames.feed(data):
            self.got_at = self._base_at + self._frames.taken
            if kind == TEXT:
                told = json.loads(body)
                for message in told if isinstance(told, list) else [told]:
                    self._message(message)
            elif kind == PING:
                self.stream.send(frame(PONG, body, self.world.random.randbytes(4)))
            elif kind == CLOSE:
                self._lost()
                self.stream.close()

    def leave(self) -> None:
        self._lost()
        if not self.stream.over:
            self.stream.close()


class LegacyWs(Ws, LegacyPipe):
    """A legacy client over WebSocket."""


class ModernWs(Ws, ModernPipe):
    """A modern client over WebSocket."""


class LegacySse(HttpClient):
    """HTTP+SSE of 2024-11-05: posts go to the announced endpoint, everything comes on the one stream."""

    version = "2024-11-05"

    def __init__(self, world: World, name: str, listener: str = "http", **options: Any) -> None:
        super().__init__(world, name, listener, **options)
        self.endpoint = ""
        self._open: dict[str, list[Call]] = {}
        self._hello: Message = {}
        self.hello: Call

    def open(self) -> LegacySse:
        # Sent once the endpoint is known.
        self.hello = self.introduce()
        self.main = Wire(self)
        self.wires.append(self.main)
        self.main.on_end = self._lost
        self.main.send("GET", [("Accept", "text/event-stream")], None, None, path="/sse")
        return self

    def send_request(self, call: Call, message: Message) -> None:
        self._open.setdefault(key(call.id), []).append(call)
        if call.method == "initialize" and not self.endpoint:
            self._hello = message
        else:
            self._say(message, call)

    def _say(self, message: Message, call: Call | None = None) -> None:
        if self.dead:
            return
        wire = self.wire()
        wire.on_end = lambda: self._posted(wire, call)
        headers = [("Content-Type", "application/json"), ("Accept", self.accept)]
        wire.send("POST", headers, json.dumps(message).encode(), None, path=self.endpoint)

    def _posted(self, wire: Wire, call: Call | None) -> None:
        """A post that broke, or was refused, may have no answer; if it has one, that is fine too."""
        wire.on_end = lambda: None
        if wire.status != 202 and call is not None and not call.over:
            call.closed = True

    def reply(self, message: Message) -> None:
        self._say(message)

    def stream_event(self, event: http.Event) -> bool:
        if event.name == "endpoint" and event.data is not None:
            self.endpoint = event.data.decode()
            self._say(self._hello, self.hello)
            return True
        return False

    def stream_message(self, wire: Wire, message: Message) -> None:
        if "method" in message:
            super().stream_message(wire, message)
            return
        waiting = self._open.get(key(message.get("id")))
        if not waiting:
            self.problem(f"an answer to nothing that was asked: {message} (I1)")
            return
        call = waiting.pop(0)
        self.answered(call, message)
        if call.method == "initialize":
            self._say({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def plain_message(self, wire: Wire, message: Message) -> None:
        """A refused post; its request has no other answer."""

    def cancel(self, call: Call, reason: str = "changed my mind") -> None:
        call.cancelled = True
        params = {"requestId": call.id, "reason": reason}
        self._say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})

    def _lost(self) -> None:
        self.dead = True
        forsake(self._open)
        for wire in list(self.wires):
            wire.close()

    def leave(self) -> None:
        super().leave()
        self._lost()


# -- servers


class SocketConn(Process):
    """A server at the end of a socket: lines, and a session as long as the connection."""

    def eof(self) -> None:
        self.gone()
        self.stream.close()

    def signalled(self, which: str) -> None:
        raise AssertionError("a signal for what is no child")

    def exit(self, status: int) -> None:
        if self.alive:
            self.alive = False
            self.talk.end()
            self.stream.reset()


class WsConn(SocketConn):
    """A server that speaks WebSocket."""

    def __init__(self, server: ServerModel) -> None:
        super().__init__(server)
        self._frames = FrameReader(from_client=True)
        self._up = False
        self.talk.raw = lambda data: self._write(TEXT, data.decode("utf-8", "replace").encode())

    def _write(self, kind: int, body: bytes) -> None:
        if self.alive:
            self.stream.send(frame(kind, body))

    def _send(self, message: Message) -> None:
        self._write(TEXT, json.dumps(message).encode())

    def _read(self) -> None:
        if not self._ready or not self.alive:
            return
        if not self._up:
            at = self._data.find(b"\r\n\r\n")
            if at < 0:
                return
            word = bytes(self._data[:at]).split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
            del self._data[: at + 4]
            self._up = True
            self.stream.send(upgraded(word.decode()))
        data = bytes(self._data)
        self._data.clear()
        for kind, body in self._frames.feed(data):
            if kind == TEXT:
                self.talk.message(json.loads(body))
            elif kind == PING:
                self._write(PONG, body)
            elif kind == CLOSE:
                self._write(CLOSE, body[:2])
                self.gone()
                self.stream.close()


class SseConn(HttpConn):
    """A server of 2024-11-05: a GET opens the stream, posts name it."""

    def _ended(self) -> None:
        body = b"".join(self._parts)
        message: Message | None = json.loads(body) if body else None
        server = self.server
        server.requests.append((self._method, self._headers, message))
        self._answering, self._streaming, self.job = True, False, None
        if self._method == "GET":
            self._open_stream()
            return
        talk = server.sessions.get(self._path.partition("session=")[2])
        if message is None or talk is None:
            self._refuse(404)
            return
        self._refuse(202)
        talk.message(message)

    def _open_stream(self) -> None:
        server = self.server
        id = server.mint()
        talk = self.talk = server.talk(self._send_event, pinned="legacy")
        talk.on_end = self.stream.reset
        server.sessions[id] = talk
        self._begin_stream()
        self._write(http.chunk(f"event: endpoint\ndata: /messages?session={id}\n\n".encode()))

    def _stop(self) -> None:
        if not self._over and self.talk is not None:
            self.talk.end()
            self._forget(self.talk)
        super()._stop()

    def _forget(self, talk: Talk) -> None:
        sessions = self.server.sessions
        for id in [id for id, one in sessions.items() if one is talk]:
            del sessions[id]
