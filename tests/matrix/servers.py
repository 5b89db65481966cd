"""Model servers on their five transports, in threads of the test's own process.

Owns: listening, one thread per connection, HTTP responses; `die` (every connection breaks, the child is
killed, nobody is let in) and `revive`.
Must never: know what the messages mean: that is `behaviour`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mcpgate_proto.config import ServerConfig
from mcpgate_proto.wire import sse
from mcpgate_proto.wire.http1_server import Aborted, HttpServerCodec, PeerClosed, RequestBody, RequestHead
from mcpgate_proto.wire.websocket_handshake import Accept, check_upgrade
from tests.matrix.behaviour import ModelServer, Session
from tests.matrix.talk import (
    LEGACY,
    LIMITS,
    MODERN,
    Conversation,
    Ends,
    LineFraming,
    Message,
    WebSocketFraming,
    begin,
)

__all__ = ["SERVERS", "HttpUnixUpstream", "Upstream"]

PUMP = Path(__file__).with_name("pump.py")
JSON = [("Content-Type", "application/json")]
EVENTS = [("Content-Type", "text/event-stream"), ("Cache-Control", "no-cache")]


class Upstream:
    """A listening model server. `config` is how the gateway is told of it."""

    unix = False

    def __init__(self, model: ModelServer, folder: Path) -> None:
        self.model = model
        self.path = str(folder / "up.sock")
        if self.unix:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(self.path)
            self._listener.listen(64)
            self.port = 0
        else:
            self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
            self.port = self._listener.getsockname()[1]
        self._down = False
        self._lock = threading.Lock()
        self._open: dict[Ends, int] = {}
        self._threads = [begin(self._accept, "acceptor")]

    def config(self) -> ServerConfig:
        raise NotImplementedError

    def serve(self, ends: Ends) -> None:
        """One connection, to its end; closes it."""
        raise NotImplementedError

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                with self._lock:
                    if self._down:
                        sock.close()
                        continue
                    ends = Ends(sock)
                    self._open[ends] = _peer_pid(sock)
                    self._threads = [one for one in self._threads if one.is_alive()]
                    self._threads.append(begin(lambda ends=ends: self._served(ends), "connection"))  # type: ignore[misc]

    def _served(self, ends: Ends) -> None:
        try:
            self.serve(ends)
        except Exception as error:
            self.model.wrong("the model failed", repr(error))
        finally:
            ends.close()
            with self._lock:
                self._open.pop(ends, None)

    def forget(self) -> None:
        """What the process knew is gone."""

    def die(self) -> None:
        """At once and without a word."""
        with self._lock:
            self._down = True
            dying = list(self._open.items())
        self.forget()
        for ends, pid in dying:
            self.kill(ends, pid)

    def kill(self, ends: Ends, pid: int) -> None:
        ends.vanish()

    def revive(self) -> None:
        with self._lock:
            self._down = False

    def stop(self) -> None:
        self.die()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()


def _peer_pid(sock: socket.socket) -> int:
    if sock.family != socket.AF_UNIX:
        return 0
    return int(struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])


class ChannelReply:
    """One shared channel: everything goes on it."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self.tell = send

    def finish(self, message: Message | None) -> None:
        if message is not None:
            self.tell(message)


class UnixUpstream(Upstream):
    """Newline-framed on a Unix socket."""

    unix = True

    def config(self) -> ServerConfig:
        return ServerConfig(name="model", transport="unix", socket_path=self.path)

    def framing(self, ends: Ends) -> tuple[Any, bytes] | None:
        return LineFraming(), b""

    def serve(self, ends: Ends) -> None:
        framed = self.framing(ends)
        if framed is None:
            return
        session = self.model.session()

        def heard(message: Message) -> None:
            self.model.handle(session, message, reply)

        def ended(goodbye: str) -> None:
            self.model.left(session)

        conversation = Conversation(ends, framed[0], heard, ended)
        reply = ChannelReply(conversation.send)
        conversation.run(framed[1])


class StdioUpstream(UnixUpstream):
    """A child process, whose pipes are carried here by `pump.py`."""

    def config(self) -> ServerConfig:
        args = ("-I", "-S", str(PUMP), self.path)
        return ServerConfig(name="model", transport="stdio", command=sys.executable, args=args)

    def kill(self, ends: Ends, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        ends.vanish()


class WebSocketUpstream(UnixUpstream):
    """One message per text frame."""

    unix = False

    def config(self) -> ServerConfig:
        return ServerConfig(name="model", transport="websocket", url=f"ws://127.0.0.1:{self.port}/mcp")

    def framing(self, ends: Ends) -> tuple[Any, bytes] | None:
        http = HttpServerCodec(LIMITS)
        while data := ends.read():
            for event in http.receive(data):
                verdict = check_upgrade(event) if isinstance(event, RequestHead) else None
                if not isinstance(verdict, Accept):
                    self.model.wrong("no proper upgrade", event)
                    return None
                if verdict.subprotocol != "mcp":
                    self.model.wrong("the subprotocol was not offered", event)
                rest = http.take_trailing()
                ends.write(verdict.response)
                return WebSocketFraming("server"), rest
        return None


class HttpConnection:
    """Requests on one connection, one after the other; `reply` is what the present one will get."""

    def __init__(self, ends: Ends, route: Callable[[HttpConnection, RequestHead, bytes], None]) -> None:
        self._ends = ends
        self._route = route
        self._codec = HttpServerCodec(LIMITS)
        self._lock = threading.Lock()
        self.begun = False
        self.closed = False
        # Called when the client closes before its answer has ended.
        self.on_closed: Callable[[], None] | None = None

    def run(self) -> None:
        head: RequestHead | None = None
        while data := self._ends.read():
            with self._lock:
                events = self._codec.receive(data)
            for event in events:
                if isinstance(event, RequestHead):
                    head = event
                    if not event.has_body:
                        self._route(self, event, b"")
                elif isinstance(event, RequestBody) and head is not None:
                    self._route(self, head, event.data)
                elif not isinstance(event, PeerClosed | Aborted):
                    raise AssertionError(event)
        with self._lock:
            self.closed = True
            on_closed, self.on_closed = self.on_closed, None
        if on_closed is not None:
            on_closed()

    def respond(self, status: int, headers: list[tuple[str, str]], body: bytes = b"") -> None:
        with self._lock:
            self.on_closed = None
            if self.closed:
                return
            self._ends.write(b"".join(self._codec.respond(status, headers, body)))

    def stream(self, message: bytes, event: str = "message") -> None:
        """The next event of a stream, which begins with the first."""
        with self._lock:
            if self.closed:
                return
            chunks = [] if self.begun else list(self._codec.begin(200, EVENTS))
            self.begun = True
            if message:
                chunks += self._codec.data(sse.encode_event(message, event=event))
            self._ends.write(b"".join(chunks))

    def end(self) -> None:
        with self._lock:
            self.on_closed = None
            self.begun = False
            if self.closed:
                return
            self._ends.write(b"".join(self._codec.end()))


class PostReply:
    """The response to one POST: JSON, or a stream from the first message on that is no answer."""

    def __init__(self, http: HttpConnection, session: Session, headers: list[tuple[str, str]]) -> None:
        self.http = http
        self.session = session
        self.headers = headers
        self.request = False

    def tell(self, message: Message) -> None:
        self.http.stream(json.dumps(message).encode())

    def finish(self, message: Message | None) -> None:
        data = json.dumps(message).encode() if message is not None else b""
        if self.http.begun or (message is None and self.request):
            self.http.stream(data)
            self.http.end()
        elif message is None:
            self.http.respond(202, [])
        else:
            self.http.respond(200, [*JSON, *self.headers], data)


class HttpUpstream(Upstream):
    """Streamable HTTP: legacy with sessions and a GET stream, or modern."""

    def __init__(self, model: ModelServer, folder: Path) -> None:
        self._sessions: dict[str, Session] = {}
        super().__init__(model, folder)

    def config(self) -> ServerConfig:
        return ServerConfig(name="model", transport="http", url=f"http://127.0.0.1:{self.port}/mcp")

    def forget(self) -> None:
        self._sessions = {}

    def serve(self, ends: Ends) -> None:
        HttpConnection(ends, self._modern if self.model.era == "modern" else self._legacy).run()

    def _modern(self, http: HttpConnection, head: RequestHead, body: bytes) -> None:
        if head.method != "POST":
            # One GET looks whether there are sessions of the old era here.
            if head.method != "GET" or "mcp-session-id" in head.headers:
                self.model.wrong("a method that a modern server does not have", head.method)
            http.respond(405, [])
            return
        message = json.loads(body)
        told = head.headers.get("mcp-protocol-version"), head.headers.get("mcp-method")
        initialize = message.get("method") == "initialize"
        if told != (MODERN, message.get("method")) and not initialize:
            self.model.wrong("headers that do not mirror the body", (told, message))
        self._post(http, self.model.session(), message, [])

    def _post(
        self, http: HttpConnection, session: Session, message: Message, headers: list[tuple[str, str]]
    ) -> None:
        reply = PostReply(http, session, headers)
        if "id" in message and "method" in message:
            reply.request = True
            http.on_closed = lambda: self.model.closed(session, message["id"])
        self.model.handle(session, message, reply)

    def _legacy(self, http: HttpConnection, head: RequestHead, body: bytes) -> None:
        id = head.headers.get("mcp-session-id")
        session = self._sessions.get(id) if id is not None else None
        if head.method == "POST" and id is None:
            self._hello(http, json.loads(body))
        elif session is None:
            http.respond(404 if id is not None else 400, [])
        elif head.method == "DELETE":
            self._sessions.pop(id or "", None)
            self.model.left(session)
            http.respond(204, [])
        else:
            if head.headers.get("mcp-protocol-version") != LEGACY:
                self.model.wrong("a request without the version of its session", head.method)
            if head.method == "GET":
                http.stream(b"")
            else:
                self._post(http, session, json.loads(body), [])

    def _hello(self, http: HttpConnection, message: Message) -> None:
        if message.get("method") != "initialize":
            http.respond(400, [])  # F12: as servers answer that know nothing of later revisions
            return
        session = self.model.session()
        id = f"session-{session.number}"
        self._sessions[id] = session
        self._post(http, session, message, [("Mcp-Session-Id", id)])


class HttpUnixUpstream(HttpUpstream):
    """The same behind a Unix socket."""

    unix = True

    def config(self) -> ServerConfig:
        url = "http://localhost/mcp"
        return ServerConfig(name="model", transport="http", url=url, socket_path=self.path)


class SseUpstream(Upstream):
    """HTTP+SSE of 2024-11-05."""

    def __init__(self, model: ModelServer, folder: Path) -> None:
        self._streams: dict[str, tuple[Session, HttpConnection]] = {}
        super().__init__(model, folder)

    def config(self) -> ServerConfig:
        return ServerConfig(name="model", transport="sse", url=f"http://127.0.0.1:{self.port}/sse")

    def forget(self) -> None:
        self._streams = {}

    def serve(self, ends: Ends) -> None:
        HttpConnection(ends, self._route).run()

    def _route(self, http: HttpConnection, head: RequestHead, body: bytes) -> None:
        if head.method == "GET" and head.path == "/sse":
            session = self.model.session()
            id = str(session.number)
            self._streams[id] = session, http
            http.on_closed = lambda: self._left(id)
            http.stream(f"/messages?session={id}".encode(), event="endpoint")
            return
        found = self._streams.get(head.query.removeprefix("session="))
        if head.method != "POST" or head.path != "/messages" or found is None:
            http.respond(404, [])
            return
        session, stream = found
        reply = ChannelReply(lambda message: stream.stream(json.dumps(message).encode()))
        # Accepted when it has been taken note of, so that what is sent after that comes after it.
        self.model.handle(session, json.loads(body), reply)
        http.respond(202, [])

    def _left(self, id: str) -> None:
        found = self._streams.pop(id, None)
        if found is not None:
            self.model.left(found[0])


SERVERS: dict[str, type[Upstream]] = {
    "stdio": StdioUpstream,
    "http": HttpUpstream,
    "sse": SseUpstream,
    "websocket": WebSocketUpstream,
    "unix": UnixUpstream,
}
