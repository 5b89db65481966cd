"""The seam: one pure state machine that a runner feeds with facts and drains of effects.

The contract. Feed one input, drain `effects()` until it is empty, read `deadline()` again. The first
drain holds only `Listen`; nothing is spawned or dialled before `started`. **No peer input can make any
method raise**: a peer's fault becomes an error reply, a closed connection and a counter.
`LocalProtocolError` means that the runner misused the core. Connection ids are never reused; late inputs
for one that is gone are ignored. A child's `exited` and `received_eof` come in either order, `closed`
after both. A failed spawn is `connect_failed`, and nothing follows it. `Claim` is answered by `claimed`,
unless `Release` comes first; for a login a `Listen` may come at any time. Effects are put into
per-connection queues, in order, without another input between `effects()` and the queue.

Owns: the connection table and the dispatch of inputs.
Must never: do I/O, read a clock, draw randomness, or know what MCP messages mean.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from mcpgate_proto.config import GatewayConfig
from mcpgate_proto.downstream.http import HttpClient
from mcpgate_proto.downstream.listener import Listener
from mcpgate_proto.downstream.modern import ModernFace
from mcpgate_proto.downstream.monitor import Metrics, Ready
from mcpgate_proto.downstream.pace import Pace
from mcpgate_proto.downstream.stream import PipeClient
from mcpgate_proto.downstream.streamable_http import McpEndpoint, Sessions
from mcpgate_proto.effects import (
    Address,
    Effect,
    PauseAccept,
    Peer,
    ResumeAccept,
    Stopped,
    TlsFacts,
    Unlisten,
)
from mcpgate_proto.errors import LocalProtocolError
from mcpgate_proto.hub import Connection, Hub
from mcpgate_proto.mcp import codes
from mcpgate_proto.relay.ports import ServerStatus
from mcpgate_proto.relay.relay import Relay
from mcpgate_proto.relay.tally import Tallies
from mcpgate_proto.security.address import Source
from mcpgate_proto.security.gate import Authenticator, Gate
from mcpgate_proto.security.principal import Principal
from mcpgate_proto.timers import Timer
from mcpgate_proto.upstream.desk import Desk
from mcpgate_proto.upstream.fetch import Fetcher
from mcpgate_proto.upstream.key_sets import fetch_key_set
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
    unread: int
    stopping: bool
    counters: dict[str, int]


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
        self._fetcher = Fetcher(self._hub)
        self._desk = Desk(self._hub)
        self._authenticator = Authenticator(
            self._hub, lambda issuer, done: fetch_key_set(self._fetcher, issuer, done)
        )
        self._relay = Relay(self._hub)
        self._modern = ModernFace(self._hub, self._relay)
        self._sessions = Sessions(self._hub, self._relay)
        self._servers: dict[str, UpstreamServer] = {}
        self._clients: dict[HttpClient | PipeClient, Listener] = {}
        self._listeners: dict[str, Listener] = {}
        # Of each client's connection.
        self._sources: dict[int, Source] = {}
        self._tallies = Tallies()
        if any("metrics" in one.monitor for one in config.listeners):
            self._hub.tally = self._tallies.note
        self._started = False
        self._stopping = False
        self._stopped = False
        self._failure: str | None = None
        self._grace: Timer | None = None
        for server in config.servers:
            self._add_server(server.name)
        for listen in config.listeners:
            gate = Gate(self._hub, listen, self._authenticator)
            pace = Pace(self._hub, self._relay.rates, listen)
            self._listeners[listen.name] = Listener(listen, gate, pace)
            self._hub.put(self._listeners[listen.name].effect())

    def _add_server(self, name: str) -> None:
        config = next(one for one in self._hub.config.servers if one.name == name)
        server = UpstreamServer(self._hub, config, self._relay, self._fetcher, self._desk)
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
        self._authenticator.start()
        for server in self._servers.values():
            server.start()

    def clock(self, now: float, wall: float) -> None:
        """The time of day, at least each minute and on wake; only expiry dates are judged by it."""
        self._enter(now)
        self._hub.set_wall(wall)
        for client in list(self._clients):
            self._guard(client.conn, client.clock)

    def listening(self, now: float, listener: str, address: Address) -> None:
        self._enter(now)
        if self._desk.owns(listener):
            self._guard(None, lambda: self._desk.listening(listener, address))
            return
        one = self._listener(listener)
        if problem := one.exposure(address):
            self.listen_failed(now, listener, problem)
            return
        endpoint = McpEndpoint(self._hub, self._relay, self._modern, self._sessions)
        one.bound(address, endpoint, self._hub, self._relay)
        self._monitor_routes(one)
        self._hub.emit("info", "listening", listener=listener, kind=one.config.kind, address=str(address))

    def _monitor_routes(self, one: Listener) -> None:
        """After the MCP endpoint, which is the first of the routes; the paths may have changed."""
        hub, paths = self._hub, self._hub.config.monitor
        for path in [path for path, there in one.routes.items() if isinstance(there, Metrics | Ready)]:
            del one.routes[path]
        if "ready" in one.config.monitor:
            one.routes[paths.ready_path] = Ready(self.snapshot, lambda: hub.config.monitor)
        if "metrics" in one.config.monitor:
            told = lambda: {name: self._tallies.of(name) for name in self._servers}  # noqa: E731
            one.routes[paths.metrics_path] = Metrics(self.snapshot, told, hub.config.version)

    def listen_failed(self, now: float, listener: str, reason: str) -> None:
        self._enter(now)
        if self._desk.owns(listener):
            self._guard(None, lambda: self._desk.listen_failed(listener, reason))
            return
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
        if self._desk.owns(listener):
            return self._browser(listener)
        one = self._listener(listener)
        if one.door is None or not self._started:
            raise LocalProtocolError("accepted before listening and started")
        client: HttpClient | PipeClient
        if one.config.kind != "http":
            who = one.gate.by_peer(peer).principal
            client = PipeClient(self._hub, self._relay, self._modern, who, self._client_gone)
            # Before it can be refused: only the end of stdin may end the gateway.
            client.is_stdio = one.config.kind == "stdio"
        else:
            upgrade = self._upgrade if one.config.websocket else None
            routes = one.routes, one.open_routes
            asked = one.door, one.gate, one.pace, peer
            client = HttpClient(self._hub, *asked, *routes, self._client_gone, upgrade)
        conn = self._hub.accept(client)
        client.conn = conn
        if self._stopping or len(self._clients) >= self._hub.limits.connections:
            self._hub.count("connections_refused")
            conn.abort()
            return conn.id
        source = one.pace.connecting(peer) if not one.gate.turns_away(peer) else None
        if source is None:
            conn.abort()
            return conn.id
        self._sources[conn.id] = source
        if isinstance(client, HttpClient):
            client.came_from = source
        self._clients[client] = one
        client.attach(conn)
        return conn.id

    def _browser(self, listener: str) -> int:
        """A browser comes back from a login."""
        # Loaded where it is used: most runs have no logins.
        from mcpgate_proto.downstream.callback import CallbackClient

        callback = self._desk.callback(listener)
        bound = callback.address if callback is not None else None
        client = CallbackClient(self._hub, bound or Address(), callback.answered if callback else None)
        conn = self._hub.accept(client)
        if callback is None or not callback.lets_in(conn):
            conn.abort()
        else:
            client.attach(conn)
        return conn.id

    def _upgrade(self, http: HttpClient, trailing: bytes) -> None:
        """A connection goes over from HTTP to WebSocket."""
        # wsproto costs time and memory at start: it is loaded where it is used.
        from mcpgate_proto.downstream.websocket import WebSocketClient

        conn = http.conn
        if conn is None:
            return
        client = WebSocketClient(self._hub, self._relay, self._modern, http.grant, self._client_gone)
        client.address = http.source.text
        self._clients[client] = self._clients.pop(http)
        http.conn = None
        conn.handler = client
        client.attach(conn)
        if trailing:
            client.received(trailing)

    def accept_failed(self, now: float, listener: str, reason: str) -> None:
        """Out of descriptors, most likely: accept no more for a moment; what is open goes on."""
        self._enter(now)
        if not self._desk.owns(listener):
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

    def claimed(self, now: float, name: str, data: bytes | None) -> None:
        """A stored record is locked and read: empty if there is none, None if there is no store for it."""
        self._enter(now)
        self._guard(None, lambda: self._desk.claimed(name, data))

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
            source = self._sources.pop(conn, None)
            if source is not None:
                self._relay.rates.leave(source)
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
            kind, where = type(defect).__name__, _where(defect)
            report = self._relay.incidents.report
            error_id = report("critical", "defect", (kind, where), kind=kind, where=where)
            if conn is not None:
                self._broken(conn, error_id)

    def _broken(self, conn: Connection, error_id: str) -> None:
        """A defect of ours showed on `conn`: a client is told so as well as may be, and it ends."""
        handler = conn.handler
        try:
            if isinstance(handler, HttpClient | PipeClient):
                handler.broken(codes.broken(error_id))
        except Exception:  # what is broken may be the very thing that tells
            self._hub.count("defects")
        if not conn.closing:
            conn.abort()

    # -- commands

    def reload(self, now: float, config: GatewayConfig) -> None:
        """Take over another config; a server that did not change, or only in the headers that it is sent,
        keeps its sessions and children. Listeners stay as they are."""
        self._enter(now)
        hub = self._hub
        hub.config = config
        hub.limits = config.limits
        self._reload_auth(config)
        old = self._servers
        kept = {one.name for one in config.servers if one.name in old and old[one.name].renew(one)}
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
        self._relay.judge_again()
        self._relay.watch_again({name for name in self._servers if name not in kept})
        for kind in ("tools", "prompts", "resources"):
            self._relay.interests.changed(None, kind)
        hub.emit("notice", "reloaded", servers=len(self._servers), kept=len(kept))

    def _reload_auth(self, config: GatewayConfig) -> None:
        """Whose key or issuer is gone, or came in without where that is no longer enough, is out at once."""
        lost = self._authenticator.reload(config.auth)
        for one in self._listeners.values():
            if one.door is not None:
                one.open(config.monitor)
                self._monitor_routes(one)
        for client, one in list(self._clients.items()):
            if lost(client.principal) or one.gate.keeps_out(client.principal):
                client.expel()
        gates = [one.gate for one in self._listeners.values() if one.config.kind == "http"]

        def out(who: Principal) -> bool:
            return lost(who) or (bool(gates) and all(gate.keeps_out(who) for gate in gates))

        self._sessions.expel(out)
        self._modern.parking.expel(out)

    def login(self, now: float, server: str, principal: str) -> None:
        """Have somebody at this machine log in to `server` for `principal`. The records `login_done`,
        `login_failed`, `login_impossible` and `login_unneeded` tell how it went."""
        self._enter(now)
        known = self._servers.get(server)
        if known is None:
            raise LocalProtocolError(f"unknown server {server!r}")
        self._guard(None, lambda: known.login(principal))

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
        for exchange in list(self._relay.live):
            exchange.stop()
        self._sessions.stop()
        for one in self._listeners.values():
            if one.sse is not None:
                one.sse.stop()
        for client in list(self._clients):
            client.stop()
        for server in self._servers.values():
            server.stop()
        self._fetcher.stop()
        self._desk.stop()
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
            unread=self._hub.unread,
            stopping=self._stopping,
            counters=dict(sorted(self._hub.counters.items())),
        )


def _where(defect: BaseException) -> str:
    """The innermost place in our own code, for the log."""
    trace = defect.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    code = trace.tb_frame.f_code
    return f"{code.co_name}:{trace.tb_lineno}"
