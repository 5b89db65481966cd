"""The fuzz target of the whole gateway: an input is a schedule of what its peers and its clock do.

Two bytes choose the servers and how helpful they are; then each step is an operation, a peer, an argument:
bytes cut from the input, a well-formed message from a dictionary (whole or in part), time, ends, failures.
What the gateway asks for is carried out at once, as a runner would.

Owns: the schedule, the dictionary, and what must hold whatever comes: no method raises, effects keep the
contract, pipes carry whole JSON lines, and the gateway stops when it is told to.
Must never: use a clock or a generator; let one input depend on the one before (`COUNTS` is for looking on).
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

from fuzz.sim.words import DONE, META, MODERN, SAID, TOLD, Message, frame, helpful, unframe, upgraded
from mcpgate_proto import Gateway, GatewayConfig, Limits, ListenConfig, ServerConfig
from mcpgate_proto import effects as fx
from mcpgate_proto.config import Names, RuleConfig
from mcpgate_proto.effects import Address, Effect, Peer

__all__ = ["COUNTS", "fuzz_gateway", "schedule"]

# Of all inputs together: answers of tools that reached a client, and other things worth knowing.
COUNTS: dict[str, int] = {}

# Rules that keep something of each kind from somebody.
RULES = (
    RuleConfig(principals=("anonymous",), tools=Names(deny=("*x*",)), prompts=Names(allow=("a*",))),
    RuleConfig(resources=Names(deny=("file:///etc/*", "*?x*")), arguments={"x": Names(deny=("-*",))}),
)
LIMITS = Limits(
    message_bytes=2000,
    json_depth=8,
    batch_messages=4,
    head_bytes=1200,
    head_fields=24,
    body_chunks=8,
    replay_events=6,
    replay_bytes=2000,
    unsent_high_bytes=1500,
    unsent_low_bytes=300,
    unsent_hard_bytes=6000,
    garbage_lines=4,
    connections=8,
    sessions=4,
    calls_per_session=6,
    calls=12,
    streams_per_session=6,
    subscriptions_per_session=3,
    asks_per_call=3,
    rounds_per_call=3,
    parked_calls=4,
    parked_calls_per_principal=2,
    upstream_sessions=6,
    upstream_sessions_per_server=3,
    http_connections_per_server=4,
    catalog_pages=3,
    catalog_items=20,
    startup_wait_s=1.0,
    probe_timeout_s=2.0,
    handshake_timeout_s=3.0,
    lease_wait_s=2.0,
    park_ttl_s=20.0,
    call_ceiling_s=60.0,
)
SEED = bytes(range(32))
TIMES = (0.0, 0.001, 0.03, 0.1, 0.6, 1.5, 4.0, 16.0, 61.0, 400.0)
TRANSPORTS: tuple[Literal["http", "sse", "websocket", "unix"], ...] = ("http", "sse", "websocket", "unix")
LISTENERS = ("http", "unix", "stdio")
MAX_STEPS = 200


def count(what: str) -> None:
    COUNTS[what] = COUNTS.get(what, 0) + 1


class Far:
    """The far end of one connection, as far as the schedule needs to know it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind  # "http", "line": a client; "child", "out": a server
        self.closing = False
        self.shut = False
        self.paused = False
        self.eof = False
        self.ending = False
        self.unsent = 0
        self.last_id = 1
        self.waiting: list[Message] = []
        self.lines = kind == "line"
        self.framed = False  # speaks WebSocket by now
        self.data = bytearray()


class Rig:
    """A gateway and its surroundings."""

    def __init__(self, choice: int, help: int) -> None:
        self.now = 100.0
        era: Literal["auto", "legacy", "modern"] = ("auto", "legacy", "modern", "auto")[choice % 4]
        transport = TRANSPORTS[choice // 4 % 4]
        self.help = bool(help & 1)
        self.flush = bool(help & 2)
        self.modern = bool(help & 4)
        self.config = self.config_of(era, transport, help)
        self.gateway = Gateway(self.config, now=self.now, wall=1.7e9, seed=SEED)
        self.gateway.trap_errors = False
        self.far: dict[int, Far] = {}
        self.dials: list[int] = []
        self.lookups: list[int] = []
        self.listening: dict[str, None] = {}
        self.session = "none"
        self.state = "none"
        self.stopped = False
        self.todo: deque[Callable[[], None]] = deque()
        self.working = False
        self.take()
        for name in LISTENERS:
            self.feed("listening", name, Address(host="127.0.0.1", port=8080))
        self.feed("started")

    def config_of(self, era: Any, transport: Any, help: int) -> GatewayConfig:
        where: dict[str, Any] = (
            {"socket_path": "/s"} if transport == "unix" else {"url": "http://127.0.0.1:9/mcp"}
        )
        if transport == "websocket":
            where["url"] = "ws://127.0.0.1:9/mcp"
        servers = (
            ServerConfig(
                name="a", command="/bin/a", era=era, timeout=5.0, health_s=20.0 if help & 8 else 0.0
            ),
            ServerConfig(name="b", transport=transport, era=era, timeout=5.0, **where),
        )
        listeners = (
            ListenConfig(name="http", websocket=True, sse=True),
            ListenConfig(name="unix", kind="unix", socket_path="/u"),
            ListenConfig(name="stdio", kind="stdio"),
        )
        guarded: dict[str, Any] = {"rules": RULES, "hidden_text": "strip", "pins": "report"}
        return GatewayConfig(
            servers=servers,
            listeners=listeners,
            limits=LIMITS,
            page_size=2,
            **(guarded if help & 16 else {}),
        )

    # -- the runner's side

    def feed(self, method: str, *args: Any) -> Any:
        told = getattr(self.gateway, method)(self.now, *args)
        self.take()
        return told

    def take(self) -> None:
        """Carry out what is asked; what that leads to is done in turn."""
        effects = self.gateway.effects()
        assert not self.gateway.effects(), "a second drain without an input"
        written: dict[int, None] = {}
        for effect in effects:
            if isinstance(effect, fx.Write):
                assert effect.conn not in written, "two writes in one drain"
                written[effect.conn] = None
            act = self.carry_out(effect)
            if act is not None:
                self.todo.append(act)
        if not self.working:
            self.working = True
            while self.todo:
                self.todo.popleft()()
            self.working = False

    def carry_out(self, effect: Effect) -> Callable[[], None] | None:
        if isinstance(effect, fx.Emit):
            return None
        assert not self.stopped, "an effect after Stopped"
        if isinstance(effect, fx.Listen):
            self.listening[effect.listener] = None
        elif isinstance(effect, fx.Unlisten):
            del self.listening[effect.listener]
        elif isinstance(effect, fx.Resolve):
            self.lookups.append(effect.lookup)
        elif isinstance(effect, fx.Stopped):
            assert not self.far and not self.dials, "Stopped with connections open"
            self.stopped = True
        elif isinstance(effect, fx.Connect | fx.Spawn):
            self.dials.append(effect.conn)
            kind = "child" if isinstance(effect, fx.Spawn) else "out"
            self.far[effect.conn] = Far(kind)
            # Whole messages in lines: a child's pipes, and Unix sockets.
            self.far[effect.conn].lines = isinstance(effect, fx.Spawn) or bool(effect.address.path)
            if self.help:
                return lambda: self.dialled(0, True)
        elif isinstance(effect, fx.PauseAccept | fx.ResumeAccept):
            assert effect.listener in LISTENERS
        else:
            return self.on_connection(effect)
        return None

    def on_connection(self, effect: Any) -> Callable[[], None] | None:
        conn: int = effect.conn
        far = self.far[conn]  # anything else is for a connection that is not open
        if isinstance(effect, fx.Write):
            assert not (far.closing or far.shut), "a write after the end"
            return self.wrote(conn, far, b"".join(effect.chunks))
        if isinstance(effect, fx.ShutdownWrite):
            assert not (far.closing or far.shut), "a second end"
            far.shut = True
        elif isinstance(effect, fx.PauseRead | fx.ResumeRead):
            assert far.paused is not isinstance(effect, fx.PauseRead), "paused or resumed twice"
            far.paused = isinstance(effect, fx.PauseRead)
        elif isinstance(effect, fx.Signal):
            assert far.kind == "child"
            if effect.which == "KILL":
                return lambda: self.end(conn, "exited")
        else:
            far.closing = True
            return lambda: self.end(conn, "closed")
        return None

    def wrote(self, conn: int, far: Far, data: bytes) -> Callable[[], None] | None:
        far.unsent += len(data)
        if far.kind != "http":
            far.data += data
        assert far.unsent <= LIMITS.unsent_hard_bytes + 4 * LIMITS.message_bytes + 2000, "unbounded"
        if far.kind in ("http", "line"):
            self.look(data)
        if far.kind == "out":
            self.read_out(conn, far)
        elif far.kind != "http":
            self.check_lines(far)
        return lambda: self.after_write(conn)

    def look(self, data: bytes) -> None:
        """What a client learns: its session, a state, the answer of a tool."""
        found = re.search(rb"Mcp-Session-Id: (\S+)", data) or re.search(rb"session=(\S+)", data)
        if found is not None:
            self.session = found.group(1).decode()
            count("sessions")
        state = re.search(rb'"(?:requestState|nextCursor)":"([^"]+)"', data)
        if state is not None:
            self.state = state.group(1).decode()
            count("states")
        if b'"text":"' + DONE.encode() in data and b'"result"' in data:
            count("completed")
        if b"101 Switching" in data:
            count("websockets")

    def check_lines(self, far: Far) -> None:
        while (at := far.data.find(b"\n")) >= 0:
            line = bytes(far.data[:at])
            del far.data[: at + 1]
            told = json.loads(line)
            assert isinstance(told, dict | list)
            if isinstance(told, dict) and "method" in told and "id" in told and far.kind != "line":
                self.note(far, told)

    def read_out(self, conn: int, far: Far) -> None:
        """What a server behind a socket is sent: requests over HTTP, frames, or lines."""
        head = bytes(far.data)
        if far.framed:
            while (payload := unframe(far.data)) is not None:
                self.note_request(far, payload)
        elif head.startswith(b"GET") and b"Sec-WebSocket-Key: " in head and b"\r\n\r\n" in head:
            key = head.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0].decode()
            far.data.clear()
            if self.help:
                far.framed = True
                self.todo.append(lambda: self.receive(conn, upgraded(key)))
        elif far.lines:
            self.check_lines(far)
        else:
            self.read_posts(far)

    def read_posts(self, far: Far) -> None:
        while (at := far.data.find(b"\r\n\r\n")) >= 0:
            found = re.search(rb"Content-Length: (\d+)", far.data[:at])
            size = int(found.group(1)) if found is not None else 0
            if len(far.data) < at + 4 + size:
                return
            body = bytes(far.data[at + 4 : at + 4 + size])
            del far.data[: at + 4 + size]
            if body:
                self.note_request(far, body)

    def note_request(self, far: Far, body: bytes) -> None:
        if body.startswith((b"{", b"[")):
            told = json.loads(body)
            if "method" in told and "id" in told:
                self.note(far, told)

    def note(self, far: Far, told: Message) -> None:
        far.waiting.append(told)
        far.last_id = told["id"]

    def after_write(self, conn: int) -> None:
        far = self.far.get(conn)
        if far is None:
            return
        if self.flush:
            self.flushed(conn, far, far.unsent)
        waiting, far.waiting = far.waiting, []
        for message in waiting if self.help else []:
            if self.modern is (META in str(message)):
                answer = helpful(message)
            else:
                told = {"code": -32601, "message": "method not found"}
                answer = {"jsonrpc": "2.0", "id": message["id"], "error": told}
            if answer is not None:
                body = json.dumps(answer).encode()
                framed = frame(body, masked=False) if far.framed else self.response(body, 0)
                self.receive(conn, body + b"\n" if far.lines else framed)

    # -- facts

    def flushed(self, conn: int, far: Far, size: int) -> None:
        size = min(size, far.unsent)
        far.unsent -= size
        if size and conn in self.far:
            self.feed("flushed", conn, size)

    def receive(self, conn: int, data: bytes) -> None:
        far = self.far.get(conn)
        if far is not None and conn not in self.dials and data and not (far.paused or far.eof or far.closing):
            self.feed("received", conn, data)

    def dialled(self, number: int, worked: bool) -> None:
        if not self.dials:
            return
        conn = self.dials.pop(number % len(self.dials))
        far = self.far[conn]
        if far.closing:
            del self.far[conn]
            self.feed("closed", conn, "aborted")
        elif worked:
            peer = Peer(kind="child", pid=5) if far.kind == "child" else Peer(kind="tcp")
            self.feed("connected", conn, peer, None)
        else:
            del self.far[conn]
            self.feed("connect_failed", conn, "refused")

    def end(self, conn: int, reason: str) -> None:
        """The connection is over; of a child its exit and the end of its output come first."""
        far = self.far.get(conn)
        if far is None or far.ending:
            return
        far.ending = True
        if conn in self.dials:
            self.dials.remove(conn)
        elif far.kind == "child":
            if not far.eof:
                far.eof = True
                self.feed("received_eof", conn)
            self.feed("exited", conn, 0)
        if self.far.pop(conn, None) is not None:
            self.feed("closed", conn, reason)

    def open(self, which: int) -> None:
        name = LISTENERS[which % 3]
        if name not in self.listening or len(self.far) > 24:
            return
        peer = Peer(kind="tcp", address=Address(host="127.0.0.1", port=5))
        if name != "http":
            peer = (
                Peer(kind="stdio") if name == "stdio" else Peer(kind="unix", uid=1, same_user=bool(which & 4))
            )
        conn = self.gateway.accepted(self.now, name, peer)
        self.far[conn] = Far("http" if name == "http" else "line")
        self.take()

    def wait(self, seconds: float) -> None:
        """Time goes on, with each timer at its moment."""
        until = self.now + seconds
        for _ in range(400):
            deadline = self.gateway.deadline()
            if deadline is None or deadline > until:
                break
            self.now = max(self.now, deadline)
            self.feed("timed_out")
        self.now = max(self.now, until)
        self.feed("timed_out")

    # -- messages

    def fragment(self, conn: int, number: int) -> bytes:
        """A message of the dictionary as it goes to this peer."""
        far = self.far[conn]
        words = SAID if far.kind in ("http", "line") else TOLD
        message = words[number % len(words)]
        text = json.dumps(message, separators=(",", ":")).replace('"{ID}"', str(far.last_id))
        body = text.replace("{STATE}", self.state).encode()
        if far.framed:
            return frame(body, masked=far.kind == "http")
        if far.lines:
            return body + b"\n"
        if far.kind == "http":
            return self.post(far, message, body, number // len(words))
        return self.response(body, number // len(words))

    def post(self, far: Far, message: Any, body: bytes, way: int) -> bytes:
        host = "Host: 127.0.0.1:8080\r\n"
        session = f"Mcp-Session-Id: {self.session}\r\nMCP-Protocol-Version: 2025-11-25\r\n"
        if way == 1:
            told = f"{host}{session}Accept: text/event-stream\r\nLast-Event-ID: 1-1\r\n\r\n"
            return b"GET /mcp HTTP/1.1\r\n" + told.encode()
        if way == 2:
            return f"GET /mcp HTTP/1.1\r\n{host}{session}Accept: text/event-stream\r\n\r\n".encode()
        if way == 3:
            return f"DELETE /mcp HTTP/1.1\r\n{host}{session}\r\n".encode()
        if way == 4:
            far.framed = True
            upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            upgrade += "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mcp\r\n"
            return f"GET /mcp HTTP/1.1\r\n{host}{upgrade}\r\n".encode()
        if way == 5:
            return f"GET /sse HTTP/1.1\r\n{host}Accept: text/event-stream\r\n\r\n".encode()
        path = f"/messages?session={self.session}" if way == 6 else "/mcp"
        base = f"POST {path} HTTP/1.1\r\n{host}Content-Type: application/json\r\n"
        base += "Accept: application/json, text/event-stream\r\n" + self.era_headers(message, session)
        if way == 7:
            chunked = f"{base}Transfer-Encoding: chunked\r\n\r\n".encode()
            return chunked + b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
        return f"{base}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def era_headers(self, message: Any, session: str) -> str:
        params = message.get("params", {}) if isinstance(message, dict) else {}
        if META + "protocolVersion" in params.get("_meta", {}):
            told = f"MCP-Protocol-Version: {MODERN}\r\nMcp-Method: {message['method']}\r\n"
            name = params.get("name") or params.get("uri")
            return told + (f"Mcp-Name: {name}\r\n" if name else "")
        return "" if isinstance(message, dict) and message.get("method") == "initialize" else session

    def response(self, body: bytes, way: int) -> bytes:
        """As a server answers over HTTP, WebSocket or plain lines."""
        if way == 1:
            event = b"id: 4\ndata: " + body + b"\n\n"
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            return head + b"%x\r\n" % len(event) + event + b"\r\n"
        if way == 2:
            return b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
        if way == 3:
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        if way == 4:
            return body + b"\n"
        if way == 5:
            event = b"event: endpoint\ndata: /m?s=1\n\n"
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
            return head + event
        if way == 6:
            return frame(body, masked=False)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nMcp-Session-Id: s1\r\n"
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


OPERATIONS = 16


def step(rig: Rig, operation: int, peer: int, argument: int, rest: Callable[[int], bytes]) -> None:
    """One step. `rest` takes bytes from the input."""
    # The upper half of the byte means servers, in the order in which they were dialled.
    wanted = ("child", "out") if peer & 128 else ("http", "line")
    conns = [conn for conn, far in rig.far.items() if far.kind in wanted]
    conn = conns[(peer & 127) % len(conns)] if conns else 0
    operation %= OPERATIONS
    if operation == 0:
        rig.open(argument)
    elif operation == 1:
        rig.wait(TIMES[argument % len(TIMES)])
    elif operation == 2:
        rig.dialled(peer, bool(argument & 1))
    elif operation == 3 and rig.lookups:
        rig.feed("resolved", rig.lookups.pop(0), [Address(host="127.0.0.1")] * (argument % 3))
    elif operation == 4:
        rig.feed("shutdown", float(argument % 3))
    elif operation == 5:
        rig.feed("reload", rig.config if argument & 1 else rig.config_of("auto", "http", argument))
    elif operation == 6:
        rig.feed("clock", 1.7e9 + argument * 1000.0 - 50_000.0)
    elif conn:
        on_peer(rig, conn, operation, argument, rest)


def on_peer(rig: Rig, conn: int, operation: int, argument: int, rest: Callable[[int], bytes]) -> None:
    far = rig.far[conn]
    if operation == 7:
        rig.receive(conn, rest(argument))
    elif operation in (8, 9, 10):
        rig.receive(conn, rig.fragment(conn, argument))
    elif operation == 11:
        data = rig.fragment(conn, argument)
        at = (rest(1) or b"\x00")[0] * len(data) // 256
        rig.receive(conn, data[:at])
        if argument & 1:
            rig.receive(conn, data[at:])
    elif operation == 12 and conn not in rig.dials and not far.eof:
        far.eof = True
        rig.feed("received_eof", conn)
    elif operation == 13:
        rig.end(conn, "reset")
    elif operation == 14:
        rig.flushed(conn, far, argument * 64)
    elif operation == 15 and far.kind == "child" and conn not in rig.dials:
        rig.feed("received_stderr", conn, rest(argument % 40) or b"oops\n")


def finish(rig: Rig) -> None:
    """It stops when it is told to, whatever has happened; by the second word at the latest."""
    rig.feed("shutdown", 1.0)
    rig.wait(2.0)
    if not rig.stopped:
        rig.feed("shutdown", 0.0)
    for _ in range(20):
        if rig.stopped:
            break
        for conn in list(rig.far):
            rig.end(conn, "gone")
        rig.wait(30.0)
    assert rig.stopped, "it does not stop"


def fuzz_gateway(data: bytes) -> None:
    """Any schedule whatsoever."""
    if len(data) < 2:
        return
    at = 2

    def rest(size: int) -> bytes:
        nonlocal at
        taken = data[at : at + size]
        at += len(taken)
        return taken

    rig = Rig(data[0], data[1])
    for _ in range(MAX_STEPS):
        if at >= len(data) or rig.stopped:
            break
        operation, peer, argument = (rest(1) or b"\x00")[0], (rest(1) or b"\x00")[0], (rest(1) or b"\x00")[0]
        step(rig, operation, peer, argument, rest)
    if not rig.stopped:
        finish(rig)


def schedule(choice: int, help: int, *steps: tuple[int, int, int] | bytes) -> bytes:
    """An input by hand: three bytes for each step, and bytes for what a step takes from the rest."""
    return bytes([choice, help]) + b"".join(bytes(one) if isinstance(one, tuple) else one for one in steps)
