"""The seam: one pure state machine that a runner feeds with facts and drains of effects.

The contract. Feed one input, drain `effects()` until it is empty, read `deadline()` again. The first
drain holds only `Listen`; nothing is spawned or dialled before `started`. **No peer input can make any
method raise**: a peer's fault becomes an error reply, a closed connection and a counter.
`LocalProtocolError` means that the runner misused the core. Connection ids are never reused; late inputs
for one that is gone are ignored. A child's `exited` and `received_eof` come in either order, `closed`
after both. A failed spawn is `connect_failed`, and nothing follows it. Effects are put into
per-connection queues, in order, without another input between `effects()` and the queue.

Owns: the connection table and the dispatch of inputs.
Must never: do I/O, read a clock, draw randomness, or know what MCP messages mean.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from mcpgate_proto.config import GatewayConfig, ListenConfig
from mcpgate_proto.downstream.http import Endpoint, HttpClient
from mcpgate_proto.downstream.http_sse import SseMessages, SseOpen
from mcpgate_proto.downstream.modern import ModernFace
from mcpgate_proto.downstream.stream import PipeClient
from mcpgate_proto.downstream.streamable_http import McpEndpoint, Sessions
from mcpgate_proto.effects import (
    Address,
    Effect,
    Listen,
    PauseAccept,
    Peer,
    ResumeAccept,
    Stopped,
    TlsFacts,
    Unlisten,
)
from mcpgate_proto.errors import LocalProtocolError
from mcpgate_proto.hub import Connection, Hub
from mcpgate_proto.relay.ports import ServerStatus
from mcpgate_proto.relay.relay import Relay
from mcpgate_proto.security.door import Door
from mcpgate_proto.security.principal import ANONYMOUS, LOCAL, Principal
from mcpgate_proto.timers import Timer
from mcpgate_proto.upstream.pool import UpstreamServer

__all__ = ["Gateway", "Snapshot"]

ACCEPT_PAUSE_S = 0.5


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What is going on, as plain data: for status, metrics and tests. Counts of things that live now,
    and `counters` of what has happened since the start."""

    servers: list[ServerStatus]
    listeners: dict[str, str]
    connections: int
    clients: int
    sessions: int
    calls: int
    upstream_calls: int
    streams: int
    subscriptions: int
    parked: int
    interests: int
    timers: int
    unsent: int
    counters: dict[str, int]


class Listener:
    """One configured listener and the clients that came in through it."""

    def __init__(self, config: ListenConfig) -> None:
        self.config = config
        self.address: Address | None = None
        self.door: Door | None = None
        self.routes: dict[str, Endpoint] = {}
        self.sse: SseOpen | None = None
        self.failed = False


class Gateway:
    """The whole gateway. The contract is at the top of this file; a runner needs nothing else.

    `now` is in monotonic seconds of the runner's choice, `wall` in Unix seconds; `seed` is at least 32
    fresh random bytes. Raises `LocalProtocolError` for misuse, never for anything a peer did.
    """

    # A defect of our own must not take everybody down: it costs the connection it happened on. Tests and
    # fuzzers switch this off, so that there it is seen.
    trap_errors = True

    def __init__(self, config: GatewayConfig, *, now: float, wall: float, seed: bytes) -> None:
        self._hub = Hub(config, now=now, wall=wall, seed=seed)
        self._relay = Relay(self._hub)
        self._modern = ModernFace(self._hub, self._relay)
        self._sessions = Sessions(self._hub, self._relay)
        self._servers: dict[str, UpstreamServer] = {}
        self._clients: dict[HttpClient | PipeClient, None] = {}
        self._listeners: dict[str, Listener] = {}
        self._started = False
        self._stopping = False
        self._stopped = False
        self._failure: str | None = None
        self._grace: Timer | None = None
        for server in config.servers:
            self._add_server(server.name)
        for listen in config.listeners:
            self._listeners[listen.name] = Listener(listen)
            self._hub.put(_listen(listen))

    def _add_server(self, name: str) -> None:
        config = next(one for one in self._hub.config.servers if one.name == name)
        server = UpstreamServer(self._hub, config, self._relay)
        self._servers[name] = server
        self._relay.add(server)

    # -- inputs: life

    def _enter(self, now: float) -> None:
        if now < self._hub.now:
            raise LocalProtocolError("now went back")
        self._hub.now = now

    def started(self, now: float) -> None:
        """Every listener is bound (or has failed) and privileges are dropped: servers may be started."""
        self._enter(now)
        if self._started:
            raise LocalProtocolError("started twice")
        self._started = True
        failed = [name for name, one in self._listeners.items() if one.failed]
        if failed:
            self._stop_all()
            return
        for server in self._servers.values():
            server.start()

    def clock(self, now: float, wall: float) -> None:
        """The time of day, at least each minute and on wake; only expiry dates are judged by it."""
        self._enter(now)
        self._hub.wall = wall

    def listening(self, now: float, listener: str, address: Address) -> None:
        self._enter(now)
        one = self._listener(listener)
        one.address = address
        one.door = Door(one.config, address)
        one.routes = {one.config.path: McpEndpoint(self._hub, self._relay, self._modern, self._sessions)}
        if one.config.sse:
            one.sse = SseOpen(self._hub, self._relay, one.config.messages_path)
            one.routes[one.config.sse_path] = one.sse
            one.routes[one.config.messages_path] = SseMessages(one.sse)
        self._hub.emit("info", "listening", listener=listener, kind=one.config.kind, address=str(address))

    def listen_failed(self, now: float, listener: str, reason: str) -> None:
        self._enter(now)
        self._listener(listener).failed = True
        self._failure = f"cannot listen ({listener}): {reason}"
        self._hub.emit("error", "listen_failed", listener=listener, reason=reason)
        if self._started:
            self._stop_all()

    def _listener(self, name: str) -> Listener:
        found = self._listeners.get(name)
        if found is None:
            raise LocalProtocolError(f"unknown listener {name!r}")
        return found

    # -- inputs: connections

    def accepted(self, now: float, listener: str, peer: Peer) -> int:
        """A client came in. Returns the id of its connection."""
        self._enter(now)
        one = self._listener(listener)
        if one.door is None or not self._started:
            raise LocalProtocolError("accepted before listening and started")
        client: HttpClient | PipeClient
        if one.config.kind != "http":
            who = LOCAL if one.config.kind == "stdio" else _principal(peer)
            client = PipeClient(self._hub, self._relay, self._modern, who, self._client_gone)
        else:
            upgrade = self._upgrade if one.config.websocket else None
            client = HttpClient(self._hub, one.door, one.routes, _principal(peer), self._client_gone, upgrade)
        conn = self._hub.accept(client)
        client.conn = conn
        if self._stopping or len(self._clients) >= self._hub.limits.connections:
            self._hub.count("connections_refused")
            conn.abort()
            return conn.id
        self._clients[client] = None
        if isinstance(client, PipeClient):
            client.is_stdio = one.config.kind == "stdio"
        client.attach(conn)
        return conn.id

    def _upgrade(self, http: HttpClient, trailing: bytes) -> None:
        """A connection goes over from HTTP to WebSocket."""
        # wsproto costs time and memory at start: it is loaded where it is used.
        from mcpgate_proto.downstream.websocket import WebSocketClient

        conn = http.conn
        if conn is None:
            return
        client = WebSocketClient(self._hub, self._relay, self._modern, http.principal, self._client_gone)
        self._clients.pop(http, None)
        self._clients[client] = None
        http.conn = None
        conn.handler = client
        client.attach(conn)
        if trailing:
            client.received(trailing)

    def accept_failed(self, now: float, listener: str, reason: str) -> None:
        """Out of descriptors, most likely: accept no more for a moment; what is open goes on."""
        self._enter(now)
        self._listener(listener)
        self._hub.count("accepts_failed")
        self._hub.emit("error", "accept_failed", listener=listener, reason=reason)
        self._hub.put(PauseAccept(listener))
        self._hub.after(ACCEPT_PAUSE_S, "accept again", lambda: self._hub.put(ResumeAccept(listener)))

    def secured(self, now: float, conn: int, tls: TlsFacts) -> None:
        self._enter(now)
        found = self._hub.connections.get(conn)
        if found is not None:
            found.tls = tls

    def resolved(self, now: float, lookup: int, addresses: list[Address]) -> None:
        self._enter(now)
        self._guard(None, lambda: self._hub.looked_up(lookup, list(addresses), ""))

    def resolve_failed(self, now: float, lookup: int, reason: str) -> None:
        self._enter(now)
        self._guard(None, lambda: self._hub.looked_up(lookup, None, reason))

    def connected(self, now: float, conn: int, peer: Peer, tls: TlsFacts | None = None) -> None:
        self._enter(now)
        found = self._hub.connections.get(conn)
        if found is not None:
            found.open = True
            found.tls = tls
            self._guard(found, lambda: found.handler.connected(peer, tls))

    def connect_failed(self, now: float, conn: int, reason: str) -> None:
        self._enter(now)
        found = self._hub.connections.get(conn)
        if found is not None:
            self._hub.forget(conn)
            self._guard(None, lambda: found.handler.connect_failed(reason))
            self._settle()

    def received(self, now: float, conn: int, data: bytes) -> None:
        self._enter(now)
        found = self._hub.connections.get(conn)
        if found is not None and not found.gone and data:
            self._guard(found, lambda: found.handler.received(data))

    def received_eof(self, now: float, conn: int) -> None:
        self._enter(now)
        found = self._hub.connections.get(conn)
        if found is not None and not found.gone:
            self._guard(found, found.handler.received_eof)

    def received_stderr(self, now: float, conn: int, data: bytes) -> None:
        self._enter(now)
        found = self._hub.connections.get(conn)
        if found is not None and data:
            self._guard(found, lambda: found.handler.received_stderr(data))

    def flushed(self, now: float, conn: int, count: int) -> None:
        """`count` bytes of what was written have gone out: the only word on backpressure."""
        self._enter(now)
        if count < 0:
            raise LocalProtocolError("flushed a negative count")
        found = self._hub.connections.get(conn)
        if found is not None:
            self._guard(found, lambda: found.flushed(count))

    def exited(self, now: float, conn: int, status: int) -> None:
        self._enter(now)
        found = self._hub.connections.get(conn)
        if found is not None:
            self._guard(found, lambda: found.handler.exited(status))

    def closed(self, now: float, conn: int, reason: str) -> None:
        """The connection is gone; nothing of it follows."""
        self._enter(now)
        found = self._hub.connections.get(conn)
        if found is not None:
            self._hub.forget(conn)
            self._guard(None, lambda: found.handler.closed(reason))
            self._settle()

    def timed_out(self, now: float) -> None:
        """Run what is due. Harmless when early."""
        self._enter(now)
        for timer in self._hub.timers.due(now):
            self._guard(None, timer.run)
        self._settle()

    def _guard(self, conn: Connection | None, act: Callable[[], None]) -> None:
        if not self.trap_errors:
            act()
            return
        try:
            act()
        except Exception as defect:  # every defect of ours ends here: see `trap_errors`
            self._hub.count("defects")
            where = _where(defect)
            self._hub.emit("critical", "defect", kind=type(defect).__name__, where=where)
            if conn is not None:
                conn.abort()

    # -- commands

    def reload(self, now: float, config: GatewayConfig) -> None:
        """Take over changed servers and limits; what did not change keeps its sessions and children.
        Listeners stay as they are."""
        self._enter(now)
        hub = self._hub
        old = {name: server.config for name, server in self._servers.items()}
        hub.config = config
        hub.limits = config.limits
        kept = {one.name for one in config.servers if old.get(one.name) == one}
        for name, server in self._servers.items():
            if name not in kept:
                server.stop()
        servers, self._servers = self._servers, {}
        self._relay.forget_servers()
        for one in config.servers:
            if one.name in kept:
                self._servers[one.name] = servers[one.name]
                self._relay.add(servers[one.name])
            else:
                self._add_server(one.name)
                if self._started and not self._stopping:
                    self._servers[one.name].start()
        if [one.config for one in self._listeners.values()] != list(config.listeners):
            hub.emit("warning", "listeners_kept", mend="changed [[listen]] tables need a restart")
        self._relay.watch_again({name for name in self._servers if name not in kept})
        for kind in ("tools", "prompts", "resources"):
            self._relay.interests.changed(None, kind)
        hub.emit("notice", "reloaded", servers=len(self._servers), kept=len(kept))

    def shutdown(self, now: float, grace_s: float) -> None:
        """Stop in good order: no new clients, calls in flight may finish within `grace_s`. A second call
        ends everything at once."""
        self._enter(now)
        if self._stopped:
            return
        if self._stopping:
            self._kill_all()
            return
        self._stopping = True
        self._hub.emit("notice", "stopping", grace_s=grace_s, calls=len(self._relay.live))
        for name, one in self._listeners.items():
            if one.address is not None:
                self._hub.put(Unlisten(name))
        self._modern.stop()
        if grace_s > 0 and (self._relay.live or any(client.busy for client in self._clients)):
            self._grace = self._hub.after(grace_s, "shutdown grace", self._stop_all)
        else:
            self._stop_all()

    def _stop_all(self) -> None:
        self._stopping = True
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
        self._sessions.stop()
        for one in self._listeners.values():
            if one.sse is not None:
                one.sse.stop()
        for client in list(self._clients):
            client.stop()
        for server in self._servers.values():
            server.stop()
        self._hub.after(self._hub.limits.close_timeout_s, "close timeout", self._abort_clients)
        self._settle()

    def _abort_clients(self) -> None:
        for client in list(self._clients):
            if client.conn is not None:
                client.conn.abort()

    def _kill_all(self) -> None:
        self._stop_all()
        for conn in list(self._hub.connections.values()):
            if conn.child:
                conn.signal("KILL")
            conn.abort()

    def _client_gone(self, client: HttpClient | PipeClient) -> None:
        self._clients.pop(client, None)
        if isinstance(client, PipeClient) and client.is_stdio and not self._stopping:
            # The end of a stdio listener starts the shutdown.
            self.shutdown(self._hub.now, self._hub.limits.eof_grace_s)

    def _settle(self) -> None:
        """While stopping: on when calls have finished, and stopped when nothing is left."""
        if not self._stopping or self._stopped:
            return
        if self._grace is not None:
            if not self._relay.live and not any(client.busy for client in self._clients):
                self._stop_all()
            return
        if not self._hub.connections:
            self._stopped = True
            self._hub.put(Stopped(self._failure))

    # -- outputs

    def effects(self) -> list[Effect]:
        """What is to be done, in order. Drain until it is empty."""
        if self._grace is not None:
            self._settle()
        return self._hub.drain()

    def deadline(self) -> float | None:
        """When `timed_out` is due; None: not before the next input."""
        return None if self._stopped else self._hub.timers.next_deadline()

    def snapshot(self) -> Snapshot:
        statuses = [server.status() for server in self._servers.values()]
        return Snapshot(
            servers=statuses,
            listeners={
                name: str(one.address) for name, one in self._listeners.items() if one.address is not None
            },
            connections=len(self._hub.connections),
            clients=len(self._clients),
            sessions=len(self._sessions)
            + sum(len(one.sse.streams) for one in self._listeners.values() if one.sse is not None)
            + sum(1 for one in self._clients if isinstance(one, PipeClient) and one.session),
            calls=len(self._relay.live),
            upstream_calls=sum(one.calls for one in statuses),
            streams=self._sessions.open_streams,
            subscriptions=len(self._modern.listening),
            parked=len(self._modern.parking),
            interests=len(self._relay.interests),
            timers=len(self._hub.timers),
            unsent=sum(conn.unsent for conn in self._hub.connections.values()),
            counters=dict(sorted(self._hub.counters.items())),
        )


def _listen(config: ListenConfig) -> Listen:
    if config.kind == "stdio":
        return Listen(listener=config.name, kind="stdio")
    if config.socket_path:
        path, mode = config.socket_path, config.socket_mode
        return Listen(listener=config.name, kind="unix", path=path, mode=mode, tls=config.tls)
    return Listen(listener=config.name, kind="tcp", host=config.host, port=config.port, tls=config.tls)


def _principal(peer: Peer) -> Principal:
    """Without authentication a Unix peer of our own user is local, anyone else nobody in particular."""
    return LOCAL if peer.kind == "unix" and peer.same_user else ANONYMOUS


def _where(defect: BaseException) -> str:
    """The innermost place in our own code, for the log."""
    trace = defect.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    code = trace.tb_frame.f_code
    return f"{code.co_name}:{trace.tb_lineno}"
