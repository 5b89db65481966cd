"""A gateway without servers, and visitors who say to it byte for byte what a test wants said.

Owns: the runner's side for accepted connections and for fetches, a virtual clock, reading of answers.
Must never: say anything of its own accord.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

from fuzz.sim.http import MessageReader
from mcpgate_proto import Gateway, GatewayConfig, ListenConfig
from mcpgate_proto import effects as fx
from mcpgate_proto.config import AuthConfig, KeyConfig
from mcpgate_proto.effects import Address, Peer, Record, TlsFacts
from mcpgate_proto.security.keys import hash_secret
from tests.security.tokens import WALL

__all__ = ["CI", "KEY", "OPS", "Answer", "Porch", "Visitor", "bearer", "configured", "initialize", "modern"]

TCP = Peer(kind="tcp", address=Address(host="192.0.2.7", port=50000))
# Two holders of keys.
KEY = {"ci": "mcpg_ci_" + "c" * 43, "ops": "mcpg_ops_" + "o" * 43}
CI = [("Authorization", f"Bearer {KEY['ci']}")]
OPS = [("Authorization", f"Bearer {KEY['ops']}")]
HOST = "127.0.0.1:8080"
LEGACY, MODERN = "2025-11-25", "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
Headers = list[tuple[str, str]]
# Of a WebSocket (RFC 6455 section 5.5), empty; a client's is masked.
PING, PONG = b"\x89\x00", b"\x8a\x80\x00\x00\x00\x00"


def bearer(token: str) -> Headers:
    return [("Authorization", f"Bearer {token}")]


def configured(*names: str, **expires: float) -> tuple[KeyConfig, ...]:
    """The keys of these holders, as the settings have them."""
    found = []
    for name in names or ("ci", "ops"):
        secret = KEY[name].rsplit("_", 1)[1]
        found.append(KeyConfig(id=name, hash=hash_secret(secret, b"s" * 16), expires_wall=expires.get(name)))
    return tuple(found)


def initialize() -> bytes:
    params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}).encode()


def modern(method: str, **params: Any) -> tuple[Headers, bytes]:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": META}}
    headers = [("MCP-Protocol-Version", MODERN), ("Mcp-Method", method)]
    return headers, json.dumps(body).encode()


class Answer:
    """One response, as far as it has come."""

    def __init__(self, start: str, headers: dict[str, str]) -> None:
        self.status = int(start.split(" ")[1])
        self.headers = headers
        self.body = b""
        self.ended = False

    @property
    def message(self) -> Any:
        return json.loads(self.body)


class Visitor:
    """One connection."""

    def __init__(self, porch: Porch, conn: int) -> None:
        self.porch = porch
        self.conn = conn
        self.raw = b""
        self.answers: list[Answer] = []
        self.closed = False
        self._upgraded = False
        self._reader = MessageReader(self._opened, self._body, self._ended, requests=False)

    def _opened(self, start: str, headers: dict[str, str]) -> None:
        self.answers.append(Answer(start, headers))
        self._upgraded = self.answers[-1].status == 101

    def _body(self, data: bytes) -> None:
        self.answers[-1].body += data

    def _ended(self) -> None:
        self.answers[-1].ended = True

    def got(self, data: bytes) -> None:
        self.raw += data
        if not self._upgraded:
            self._reader.feed(data)
        elif data[:2] == PING:
            self.porch.pinged.append(self)

    def send(self, data: bytes) -> None:
        self.porch.feed("received", self.conn, data)

    def eof(self) -> None:
        self.porch.feed("received_eof", self.conn)

    def leave(self) -> None:
        self.porch.gone(self.conn, "reset")

    def ask(self, method: str, path: str, headers: Headers = [], body: bytes | None = None) -> Answer:  # noqa: B006
        """A request, and the answer to it: to be there at once, or to come (status 0 until then)."""
        before = len(self.answers)
        # Over a socket there is no port to name.
        host = "localhost" if self.porch.config.listeners[0].socket_path else HOST
        self.send(request(method, path, headers, body, host))
        return self.answers[before] if len(self.answers) > before else Answer("HTTP/1.1 0", {})

    def post(self, path: str, headers: Headers, body: bytes) -> Answer:
        return self.ask("POST", path, headers, body)

    def last(self) -> Answer:
        return self.answers[-1]


def request(method: str, path: str, headers: Headers, body: bytes | None, host: str = HOST) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}"]
    told = {name.lower() for name, _ in headers}
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
        if "content-type" not in told:
            lines.append("Content-Type: application/json")
        if "accept" not in told:
            lines.append("Accept: application/json, text/event-stream")
    lines += [f"{name}: {value}" for name, value in headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b"")


class Porch:
    """See the head of this file. `mode` and `listen` are fields of the one listener, called `http`."""

    def __init__(
        self,
        auth: AuthConfig | None = None,
        *,
        mode: Literal["auto", "required", "none"] = "auto",
        config: dict[str, Any] | None = None,
        **listen: Any,
    ) -> None:
        listener = ListenConfig(name="http", auth=mode, **listen)
        auth = AuthConfig(keys=configured()) if auth is None else auth
        self.config = GatewayConfig(listeners=(listener,), auth=auth, log_level="debug", **(config or {}))
        self.now, self.jump = 100.0, 0.0
        self.records: list[Record] = []
        self.visitors: dict[int, Visitor] = {}
        self.paused: dict[int, None] = {}
        self.pinged: list[Visitor] = []
        # What a fetch gets: None refuses the connection.
        self.served: Callable[[str], bytes | None] = lambda path: None
        self.fetched: list[str] = []
        self.stalls = False
        self._fetches: dict[int, bytes] = {}
        self.gateway = Gateway(self.config, now=self.now, wall=self.wall, seed=bytes(range(32)))
        self.gateway.trap_errors = False
        self.gateway.effects()
        where = (
            Address(path=listener.socket_path)
            if listener.socket_path
            else Address(host="127.0.0.1", port=8080)
        )
        self.feed("listening", "http", where)
        self.feed("started")

    @property
    def wall(self) -> float:
        return WALL + (self.now - 100.0) + self.jump

    def feed(self, name: str, *args: Any) -> Any:
        found = getattr(self.gateway, name)(self.now, *args)
        while effects := self.gateway.effects():
            for effect in effects:
                self._perform(effect)
        return found

    def _perform(self, effect: Any) -> None:
        conn = getattr(effect, "conn", 0)
        match effect:
            case fx.Emit():
                self.records.append(effect.record)
            case fx.Write() if conn in self._fetches:
                self._fetches[conn] += b"".join(effect.chunks)
                self._serve(conn)
            case fx.Write():
                data = b"".join(effect.chunks)
                if conn in self.visitors:
                    self.visitors[conn].got(data)
                self.gateway.flushed(self.now, conn, len(data))
            case fx.Close() | fx.Abort():
                self.gone(conn, "closed")
            case fx.PauseRead():
                self.paused[conn] = None
            case fx.ResumeRead():
                self.paused.pop(conn, None)
            case fx.Connect():
                self._fetches[conn] = b""
                peer = Peer(kind="tcp", address=effect.address)
                self.gateway.connected(self.now, conn, peer, None)

    def _serve(self, conn: int) -> None:
        if self.stalls or b"\r\n\r\n" not in self._fetches[conn]:
            return
        path = self._fetches[conn].split(b" ")[1].decode()
        self.fetched.append(path)
        body = self.served(path)
        if body is None:
            self.gone(conn, "reset")
            return
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        self.gateway.received(self.now, conn, head + body)

    def serve_now(self) -> None:
        """What was stalled is answered."""
        self.stalls = False
        for conn in list(self._fetches):
            self._serve(conn)
        self.feed("timed_out")

    def gone(self, conn: int, reason: str) -> None:
        visitor = self.visitors.pop(conn, None)
        if visitor is not None:
            visitor.closed = True
        self._fetches.pop(conn, None)
        self.gateway.closed(self.now, conn, reason)

    # -- who comes

    def visit(self, peer: Peer = TCP, tls: TlsFacts | None = None) -> Visitor:
        conn = self.gateway.accepted(self.now, "http", peer)
        visitor = self.visitors[conn] = Visitor(self, conn)
        if tls is not None:
            self.gateway.secured(self.now, conn, tls)
        self.feed("timed_out")
        return visitor

    def ask(self, method: str, path: str, headers: Headers = [], body: bytes | None = None) -> Answer:  # noqa: B006
        """On a connection of its own."""
        return self.visit().ask(method, path, headers, body)

    def session(self, credentials: Headers) -> str:
        """A legacy session; its id."""
        answer = self.ask("POST", "/mcp", credentials, initialize())
        assert answer.status == 200, answer.body
        return answer.headers["mcp-session-id"]

    # -- time

    def run(self, seconds: float) -> None:
        """Time passes, told every minute."""
        until = self.now + seconds
        told = self.now
        while True:
            due = self.gateway.deadline()
            at = min(until, told + 60.0, due if due is not None else until)
            self.now = max(self.now, at)
            if at >= told + 60.0:
                told = at
                self.feed("clock", self.wall)
            self.feed("timed_out")
            pinged, self.pinged = self.pinged, []
            for visitor in pinged:
                visitor.send(PONG)
            if self.now >= until and (due is None or due > until):
                return

    def set_clock(self, seconds: float) -> None:
        """The time of day jumps."""
        self.jump += seconds
        self.feed("clock", self.wall)

    def reload(self, auth: AuthConfig) -> None:
        import msgspec

        self.config = msgspec.structs.replace(self.config, auth=auth)
        self.feed("reload", self.config)

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [dict(record.fields) for record in self.records if record.event == event]
