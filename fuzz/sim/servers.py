"""Model servers on their transports: child processes, and Streamable HTTP.

Owns: `ServerModel` (one configured server, with its options and its record), the process and the HTTP
connection that carry its conversations.
Must never: share anything between two conversations that a real server would not.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fuzz.sim import http
from fuzz.sim.streams import Stream
from fuzz.sim.talk import MODERN, TOOLS, Job, Message, Talk
from mcpgate_proto.effects import Spawn

if TYPE_CHECKING:
    from fuzz.sim.world import World

__all__ = ["HttpConn", "Process", "ServerModel"]

LEGACY_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")


class ServerModel:
    """One server, however many processes or connections it has. Options are plain attributes."""

    def __init__(self, world: World, name: str, *eras: str) -> None:
        self.world = world
        self.name = name
        self.eras = eras
        self.delay: tuple[float, float] = (0.0, 0.0)
        self.delays: dict[str, float] = {}
        self.mute: dict[str, None] = {}
        self.names_versions = True
        self.tools: tuple[str, ...] = TOOLS
        # Tools and prompts of a test's own; the rest of their definitions is in `definitions`.
        self.scripts: dict[str, Callable[[Job], None]] = {}
        self.definitions: dict[str, Message] = {}
        self.reader: Callable[[Job], None] | None = None
        self.lister: Callable[[Job], None] | None = None
        self.completer: Callable[[Job], None] | None = None
        self.list_changed = True
        self.prompts: tuple[str, ...] = ()
        self.resources: tuple[str, ...] = ()
        self.templates: tuple[str, ...] = ()
        self.page_size = 1000
        self.ttl_ms = 5000
        self.scope = "public"
        self.refuse_listen = False
        # Processes
        self.start_delay = 0.0
        self.cannot_start = ""
        self.dies_at_start = False
        self.exit_delay = 0.01
        self.ignores_eof = False
        self.ignores_term = False
        # HTTP
        self.up = True
        self.streams_answers = False
        self.event_ids = False
        self.get_stream = True
        self.leaves_streams_open = False
        self.never_acknowledges = False
        self.forgets: dict[str, None] = {}  # methods that it answers as if the session were unknown
        self.sessions: dict[str, Talk] = {}
        self.gets: dict[str, HttpConn] = {}
        self._minted = 0
        # The record
        self.talks: list[Talk] = []
        self.processes: list[Process] = []
        self.conns: list[HttpConn] = []
        self.calls: list[Job] = []
        self.cancels: list[tuple[Talk, Any, Job | None]] = []
        self.closed_streams: list[Job] = []
        self.answered = 0
        self.requests: list[tuple[str, http.Headers, Message | None]] = []
        self.replies: list[tuple[float, Message]] = []
        self.heard: list[tuple[float, Message]] = []
        self.problems: list[str] = []

    def script(self, name: str, act: Callable[[Job], None], *, prompt: bool = False) -> None:
        """A tool (or prompt) of the test's own."""
        self.scripts[name] = act
        if prompt:
            self.prompts = (*self.prompts, name)
        else:
            self.tools = (*self.tools, name)

    @property
    def capabilities(self) -> Message:
        told: Message = {"tools": {"listChanged": True} if self.list_changed else {}, "logging": {}}
        if self.prompts:
            told["prompts"] = {"listChanged": True}
            told["completions"] = {}
        if self.resources or self.templates:
            told["resources"] = {"listChanged": True, "subscribe": True}
        return told

    def items(self, method: str) -> list[Message]:
        if method == "tools/list":
            return [
                {"name": one, "inputSchema": {"type": "object"}, **self.definitions.get(one, {})}
                for one in self.tools
            ]
        if method == "prompts/list":
            return [{"name": one} for one in self.prompts]
        if method == "resources/list":
            return [{"uri": one, "name": one} for one in self.resources]
        return [{"uriTemplate": one, "name": one} for one in self.templates]

    def resource(self, uri: str) -> str | None:
        known = uri in self.resources or any(uri.startswith(one.split("{")[0]) for one in self.templates)
        return f"{self.name}:{uri}" if known else None

    # -- the record

    def talk(self, send: Any, **options: Any) -> Talk:
        made = Talk(self, send, **options)
        self.talks.append(made)
        return made

    def check_message(self, talk: Talk, message: Message) -> None:
        self.heard.append((self.world.now, message))
        if message.get("jsonrpc") != "2.0":
            self.problems.append(f"{self.name}: not JSON-RPC 2.0: {message}")

    def began(self, talk: Talk, job: Job) -> None:
        if job.id in talk.live:
            self.problems.append(f"{self.name}: id {job.id} is live twice on one channel (I3)")
        if job.method == "tools/call":
            self.calls.append(job)

    def finished(self, job: Job) -> None:
        if job.method == "tools/call":
            self.answered += 1

    def cancelled(self, talk: Talk, id: Any, job: Job | None) -> None:
        self.cancels.append((talk, id, job))

    def job(self, nonce: str) -> Job | None:
        return next((job for job in self.calls if job.nonce == nonce), None)

    def told(self, method: str) -> list[Message]:
        """The params of all messages of one method, in the order in which they came."""
        return [message.get("params") or {} for _, message in self.heard if message.get("method") == method]

    def seen(self, method: str) -> int:
        return sum(talk.seen.count(method) for talk in self.talks)

    def changed(self, kind: str = "tools") -> None:
        for talk in self.talks:
            if not talk.over:
                talk.changed(kind)

    def updated(self, uri: str) -> None:
        for talk in self.talks:
            if not talk.over:
                talk.updated(uri)

    # -- transports

    def spawn(self, effect: Spawn) -> Process | str:
        if self.cannot_start:
            return self.cannot_start
        process = Process(self)
        self.processes.append(process)
        return process

    def connection(self, kind: type[HttpConn] | None = None) -> HttpConn | None:
        if not self.up:
            return None
        conn = (kind or HttpConn)(self)
        self.conns.append(conn)
        return conn

    def socket(self, kind: type[Process]) -> Process | None:
        """A connection that carries one conversation."""
        if not self.up:
            return None
        conn = kind(self)
        self.processes.append(conn)
        return conn

    def mint(self) -> str:
        self._minted += 1
        return f"{self.name}-session-{self._minted}"

    def crash(self) -> None:
        """Every process ends at once, every connection breaks, every session is forgotten."""
        for process in self.processes:
            process.exit(-11)
        for conn in list(self.conns):
            conn.stream.reset()
        for talk in self.sessions.values():
            talk.end()
        self.sessions.clear()


class Process:
    """A child: lines on its pipes."""

    stream: Stream

    def __init__(self, server: ServerModel) -> None:
        self.server = server
        self.alive = True
        self._data = bytearray()
        self._ready = False
        self.talk = server.talk(self._send)
        self.talk.on_end = lambda: self.exit(1)
        self.talk.raw = lambda data: self.stream.send(data)

    def opened(self) -> None:
        if self.server.dies_at_start:
            self.exit(3)
        elif self.server.start_delay:
            self.server.world.after(self.server.start_delay, self._started)
        else:
            self._ready = True

    def _started(self) -> None:
        self._ready = True
        self._read()

    def _send(self, message: Message) -> None:
        if self.alive:
            self.stream.send(json.dumps(message).encode() + b"\n")

    def data(self, data: bytes) -> None:
        self._data += data
        self._read()

    def _read(self) -> None:
        while self._ready and self.alive and (at := self._data.find(b"\n")) >= 0:
            line = bytes(self._data[:at])
            del self._data[: at + 1]
            self.talk.message(json.loads(line))

    def eof(self) -> None:
        if self.alive and not self.server.ignores_eof:
            self.server.world.after(self.server.exit_delay, lambda: self.exit(0))

    def signalled(self, which: str) -> None:
        if which == "KILL":
            self.exit(-9)
        elif not self.server.ignores_term:
            self.server.world.after(self.server.exit_delay, lambda: self.exit(-15))

    def gone(self) -> None:
        self.alive = False
        self.talk.end()

    def exit(self, status: int) -> None:
        if self.alive:
            self.alive = False
            self.talk.end()
            self.stream.exit(status)


class HttpConn:
    """One connection to an HTTP server: requests one after the other."""

    stream: Stream

    def __init__(self, server: ServerModel) -> None:
        self.server = server
        self._reader = http.MessageReader(self._opened, self._body, self._ended, requests=True)
        self._method = self._path = ""
        self._headers: http.Headers = {}
        self._parts: list[bytes] = []
        # What is being answered here.
        self.job: Job | None = None
        self.talk: Talk | None = None
        self._answering = False
        self._streaming = False
        self._event = 0
        self._over = False

    # -- peer

    def opened(self) -> None:
        pass

    def data(self, data: bytes) -> None:
        self._reader.feed(data)

    def eof(self) -> None:
        self._stop()
        self.stream.close()

    def gone(self) -> None:
        self._stop()

    def _stop(self) -> None:
        """The client has closed: for a modern request that is its cancellation."""
        if self._over:
            return
        self._over = True
        if self in self.server.conns:
            self.server.conns.remove(self)
        for session, conn in list(self.server.gets.items()):
            if conn is self:
                del self.server.gets[session]
        if self.job is not None and not self.job.done:
            self.server.closed_streams.append(self.job)
            if self.job.talk.modern:
                self.job.stop()
        if self.talk is not None and self.talk.modern:
            self.talk.end()

    # -- requests

    def _opened(self, start: str, headers: http.Headers) -> None:
        self._method, self._path = start.split(" ")[:2]
        self._headers = headers
        self._parts = []

    def _body(self, data: bytes) -> None:
        self._parts.append(data)

    def _ended(self) -> None:
        body = b"".join(self._parts)
        message: Message | None = json.loads(body) if body else None
        server = self.server
        server.requests.append((self._method, self._headers, message))
        self._answering, self._streaming, self.job, self.talk = True, False, None, None
        version = self._headers.get("mcp-protocol-version", "")
        if "modern" in server.eras and (version == MODERN or "legacy" not in server.eras):
            self._modern(message)
        else:
            self._legacy(message)

    def _modern(self, message: Message | None) -> None:
        if self._method != "POST" or message is None:
            self._refuse(405)
        elif message.get("method") == "initialize":
            told = {"code": -32601, "message": "method not found"}
            self._json({"jsonrpc": "2.0", "id": message["id"], "error": told}, "404 Not Found")
        elif "id" not in message:
            self._refuse(202)
        elif message["method"] == "subscriptions/listen" and self.server.refuse_listen:
            told = {"code": -32601, "message": "method not found"}
            self._json({"jsonrpc": "2.0", "id": message["id"], "error": told}, "404 Not Found")
        else:
            self.talk = self.server.talk(self._reply, pinned="modern")
            self.talk.on_end = self.stream.reset
            self.talk.message(message, self._reply)
            self.job = self.talk.live.get(message["id"])

    def _legacy(self, message: Message | None) -> None:
        server = self.server
        id = self._headers.get("mcp-session-id")
        talk = server.sessions.get(id) if id is not None else None
        if self._method == "DELETE":
            if id is not None and talk is not None:
                talk.end()
                del server.sessions[id]
            self._refuse(200 if talk is not None else 404)
        elif id is not None and (talk is None or (message or {}).get("method") in server.forgets):
            self._refuse(404)
        elif self._method == "GET":
            self._get(id)
        elif message is None:
            self._refuse(400)
        elif "id" not in message or "method" not in message:
            if talk is not None:
                talk.message(message)
            if not server.never_acknowledges:
                self._refuse(202)
        elif talk is None and message["method"] != "initialize":
            # Also what a probe of the other era gets.
            self._refuse(400)
        else:
            self._request(talk, message)

    def _request(self, talk: Talk | None, message: Message) -> None:
        server = self.server
        if talk is None:
            talk = server.talk(lambda told: None, pinned="legacy")
            id = server.mint()
            server.sessions[id] = talk
            self._headers["minted"] = id
            talk.send = lambda told: self._on_get(id, told)
        talk.on_end = self.stream.reset
        self.talk = talk
        talk.message(message, self._reply)
        self.job = talk.live.get(message["id"])

    def _on_get(self, session: str, message: Message) -> None:
        conn = self.server.gets.get(session)
        if conn is not None:
            conn._send_event(message)

    def _get(self, id: str | None) -> None:
        if not self.server.get_stream or id is None:
            self._refuse(400 if self.server.get_stream else 405)
            return
        self.server.gets[id] = self
        self._begin_stream()

    # -- answers

    def _write(self, data: bytes) -> None:
        if not self._over:
            self.stream.send(data)

    def _refuse(self, status: int) -> None:
        reasons = {
            200: "OK",
            202: "Accepted",
            400: "Bad Request",
            404: "Not Found",
            405: "Method Not Allowed",
        }
        self._answering = False
        self._write(http.head(f"HTTP/1.1 {status} {reasons[status]}", []))

    def _json(self, message: Message, status: str = "200 OK") -> None:
        headers = [("Content-Type", "application/json")]
        if "minted" in self._headers:
            headers.append(("Mcp-Session-Id", self._headers["minted"]))
        self._answering = False
        self._write(http.head(f"HTTP/1.1 {status}", headers, json.dumps(message).encode()))

    def _begin_stream(self) -> None:
        headers = [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")]
        if "minted" in self._headers:
            headers.append(("Mcp-Session-Id", self._headers["minted"]))
        self._streaming = True
        self._write(http.head("HTTP/1.1 200 OK", headers, None))

    def _send_event(self, message: Message) -> None:
        self._event += 1
        id = f"{id_of(self.stream)}-{self._event}" if self.server.event_ids else None
        self._write(http.chunk(http.event(json.dumps(message).encode(), id)))

    def _reply(self, message: Message) -> None:
        """A message on the stream of the request that is being answered here."""
        final = "method" not in message
        if not self._answering:
            return
        if final and not self._streaming and not self.server.streams_answers:
            self._json(message)
            return
        if not self._streaming:
            self._begin_stream()
        self._send_event(message)
        own = self.job.id if self.job is not None else None
        if final and message.get("id") == own and not self.server.leaves_streams_open:
            self._answering = False
            self._write(http.chunk(b""))


def id_of(stream: Stream) -> str:
    return f"s{stream.conn}"
