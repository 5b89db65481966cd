"""What every part of the core shares: the clock, the timers, the connections and the way out.

Owns: the connection table, byte counts for backpressure, the effect queue, counters. Everything that
leaves the core leaves through here.
Must never: know MCP, JSON or HTTP; call upward except through the `Handler` that owns a connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mcpgate_proto.config import GatewayConfig
from mcpgate_proto.effects import (
    Abort,
    Address,
    Close,
    Connect,
    Effect,
    Emit,
    PauseRead,
    Peer,
    ProcessLimits,
    Record,
    Resolve,
    ResumeRead,
    Scalar,
    ShutdownWrite,
    Signal,
    Spawn,
    TlsFacts,
    TlsOptions,
    Write,
)
from mcpgate_proto.entropy import Entropy
from mcpgate_proto.limits import Limits
from mcpgate_proto.sealing import Sealer
from mcpgate_proto.timers import Timer, Timers

__all__ = ["Connection", "Handler", "Hub"]

# Characters of one text field of a record.
TEXT = 400
SEVERITIES = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")


class Handler(Protocol):
    """What owns a connection. Every method is called from an input and must not raise."""

    def connected(self, peer: Peer, tls: TlsFacts | None) -> None: ...
    def connect_failed(self, reason: str) -> None: ...
    def received(self, data: bytes) -> None: ...
    def received_eof(self) -> None: ...
    def received_stderr(self, data: bytes) -> None: ...
    def exited(self, status: int) -> None: ...
    def pressed(self, high: bool) -> None:
        """More than the high mark is unsent (true), or less than the low mark again (false)."""

    def closed(self, reason: str) -> None: ...


class Connection:
    """One byte stream, as its owner writes to it. Made by `Hub`, known to the runner by `id`."""

    __slots__ = (
        "_high",
        "_holds",
        "_hub",
        "_largest",
        "_stall",
        "_taken_at",
        "aborted",
        "child",
        "closing",
        "gone",
        "handler",
        "id",
        "open",
        "tls",
        "unread",
        "unsent",
    )

    def __init__(self, hub: Hub, conn: int, handler: Handler) -> None:
        self._hub = hub
        self.id = conn
        self.handler = handler
        self.open = False
        self.child = False
        self.closing = False  # no more writes; what is queued still goes out
        self.gone = False  # being closed or aborted; late inputs are ignored
        self.aborted = False
        self.tls: TlsFacts | None = None
        self.unsent = 0
        self.unread = 0
        self._largest = 0  # the largest single write among what is unsent
        self._high = False
        self._holds: dict[str, None] = {}
        self._stall: Timer | None = None
        self._taken_at = 0.0

    def write(self, chunks: list[bytes]) -> None:
        """Queue `chunks`. A peer already over the hard bound is dropped instead."""
        if self.closing or self.gone:
            return
        hub = self._hub
        before = self.unsent
        if self.full:
            hub.count("dropped_not_draining")
            hub.emit("warning", "peer_not_draining", conn=self.id, unsent=before)
            self.abort()
            return
        size = 0
        for chunk in chunks:
            size += len(chunk)
        if not size:
            return
        self.unsent = before + size
        hub.unsent += size
        if size > self._largest:
            self._largest = size
        hub.queue_write(self.id, chunks)
        if not before:
            self._taken_at = hub.now
            if self._stall is None:
                self._stall = hub.after(hub.limits.unsent_stall_s, "unsent stall", self._stalled)
        if not self._high and self.unsent > hub.limits.unsent_high_bytes:
            self._high = True
            self.handler.pressed(True)
        if hub.unsent > hub.limits.unsent_all_bytes:
            hub.shed()

    def _stalled(self) -> None:
        """Timers are lazy: one is armed per busy connection, and looks at when bytes last went out. It runs
        on while the connection is being closed: a peer that takes nothing must not keep it for ever."""
        self._stall = None
        if not self.unsent or self.aborted:
            return
        hub = self._hub
        due = self._taken_at + hub.limits.unsent_stall_s
        if hub.now < due:
            self._stall = hub.at(due, "unsent stall", self._stalled)
            return
        hub.count("dropped_stalled")
        hub.emit("warning", "peer_stalled", conn=self.id, unsent=self.unsent)
        self.abort()

    @property
    def full(self) -> bool:
        """Beyond one whole message, more than the hard bound is unsent."""
        return self.unsent - self._largest > self._hub.limits.unsent_hard_bytes

    def _forget_unsent(self) -> None:
        self._hub.unsent -= self.unsent
        self.unsent = 0

    def weigh(self, unread: int) -> bool:
        """`unread` bytes of a message have arrived that is not there in full. False: all such messages
        together are too much, and this one is not small."""
        hub, limits = self._hub, self._hub.limits
        hub.unread += unread - self.unread
        self.unread = unread
        return hub.unread <= limits.unread_all_bytes or unread <= limits.unread_free_bytes

    def flushed(self, count: int) -> None:
        count = min(count, self.unsent)
        self.unsent -= count
        self._hub.unsent -= count
        if not self.unsent:
            self._largest = 0
        self._taken_at = self._hub.now
        if self._high and self.unsent <= self._hub.limits.unsent_low_bytes:
            self._high = False
            self.handler.pressed(False)

    @property
    def pressed(self) -> bool:
        return self._high

    @property
    def held(self) -> bool:
        """We do not read from it, so its silence says nothing."""
        return bool(self._holds)

    def hold(self, reason: str) -> None:
        """Stop reading for `reason`; reading goes on when every reason is released."""
        if self.gone or reason in self._holds:
            return
        self._holds[reason] = None
        if len(self._holds) == 1:
            self._hub.put(PauseRead(self.id))

    def release(self, reason: str) -> None:
        if reason not in self._holds:
            return
        del self._holds[reason]
        if not self._holds and not self.gone:
            self._hub.put(ResumeRead(self.id))

    def shutdown_write(self) -> None:
        if not self.closing and not self.gone:
            self.closing = True
            self._hub.put(ShutdownWrite(self.id))

    def close(self) -> None:
        """Close once all that was written has gone out."""
        if self.gone:
            return
        self.gone = True
        self.closing = True
        self._hub.put(Close(self.id))

    def abort(self) -> None:
        if self.aborted:
            return
        self.aborted = True
        self.gone = True
        self.closing = True
        self._forget_unsent()
        self._hub.drop_writes(self.id)
        self._hub.put(Abort(self.id))

    def signal(self, which: str) -> None:
        self._hub.put(Signal(self.id, "KILL" if which == "KILL" else "TERMINATE"))

    def ended(self) -> None:
        """The runner has closed it: nothing of it is left but the handler's own state."""
        self.gone = self.closing = self.aborted = True
        self._forget_unsent()
        self.weigh(0)
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None


class Hub:
    """The core's only way to the outside, and its only clock."""

    def __init__(self, config: GatewayConfig, *, now: float, wall: float, seed: bytes) -> None:
        self.config = config
        self.limits: Limits = config.limits
        self.now = now
        self._wall = wall
        self._wall_at = now
        self.entropy = Entropy(seed)
        self.sealer = Sealer(
            config.sealing_key or self.entropy.derive("sealing"),
            key_id=config.sealing_key_id,
            previous=config.sealing_previous,
        )
        self.timers = Timers()
        self.connections: dict[int, Connection] = {}
        self.counters: dict[str, int] = {}
        # Told of every call that is over: server, outcome, seconds. None where nobody reads metrics.
        self.tally: Callable[[str, str, float], None] | None = None
        self._effects: list[Effect] = []
        self._writes: dict[int, list[bytes]] = {}
        # Of all connections together.
        self.unsent = 0
        self.unread = 0
        self._next_id = 1
        self._serial = 0
        # Bytes that calls keep of what clients and servers have said.
        self.called = 0
        self._called_by: dict[str, int] = {}
        # Sessions of all servers together (limits.upstream_sessions).
        self.upstream_sessions = 0
        self._lookups: dict[int, tuple[str, list[Callable[[list[Address] | None, str], None]]]] = {}
        self._least = SEVERITIES.index(config.log_level)

    def keep(self, whose: str, more: int) -> bool:
        """`more` bytes are kept for a call of the principal `whose`, or so many fewer. False: all calls keep
        too much together, or its own leave too little to others; and this is not small."""
        limits = self.limits
        self.called += more
        mine = self._called_by.get(whose, 0) + more
        if mine:
            self._called_by[whose] = mine
        else:
            self._called_by.pop(whose, None)
        within = self.called <= limits.calls_bytes and mine <= limits.calls_bytes * 3 // 4
        if within or more <= limits.unread_free_bytes:
            return True
        self.count("refused_memory")
        return False

    # -- out

    def put(self, effect: Effect) -> None:
        self._effects.append(effect)

    def queue_write(self, conn: int, chunks: list[bytes]) -> None:
        """At most one `Write` per connection and drain: later chunks join the first."""
        queued = self._writes.get(conn)
        if queued is not None:
            queued.extend(chunks)
            return
        queued = list(chunks)
        self._writes[conn] = queued
        self._effects.append(Write(conn, queued))

    def drop_writes(self, conn: int) -> None:
        queued = self._writes.get(conn)
        if queued is not None:
            queued.clear()

    def drain(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        if self._writes:
            self._writes = {}
        return effects

    def emit(self, level: str, event: str, **fields: Scalar) -> None:
        """One record for the log, its fields in the order given. Text is cut: some of it is a peer's."""
        if SEVERITIES.index(level) >= self._least:
            self._effects.append(Emit(Record(level, event, _cut(fields))))

    def audit(self, event: str, arguments: str | None = None, **fields: Scalar) -> None:
        """One record of the audit stream, where there is one: whatever its level, and never suppressed.
        `arguments` is not cut: half of a JSON text cannot be read."""
        if self.config.audit:
            whole = () if arguments is None else (("arguments", arguments),)
            self._effects.append(Emit(Record("info", event, _cut(fields) + whole, "audit")))

    def count(self, name: str) -> None:
        self.counters[name] = self.counters.get(name, 0) + 1

    def shed(self) -> None:
        """All peers together have more unsent than there is memory for: who takes least is dropped."""
        worst = max(self.connections.values(), key=lambda one: one.unsent)
        self.count("dropped_over_budget")
        self.emit("warning", "peer_over_budget", conn=worst.id, unsent=worst.unsent)
        worst.abort()

    # -- time

    @property
    def wall(self) -> float:
        """The time of day in Unix seconds: what `clock` was told last, and what has passed since."""
        return self._wall + (self.now - self._wall_at)

    def set_wall(self, wall: float) -> None:
        self._wall, self._wall_at = wall, self.now

    def after(self, delay_s: float, reason: str, callback: Callable[[], None]) -> Timer:
        return self.timers.after(self.now, delay_s, reason, callback)

    def at(self, deadline: float, reason: str, callback: Callable[[], None]) -> Timer:
        """For timers that run again until a moment has come: comparing with that very moment cannot miss it
        by rounding."""
        return self.timers.at(deadline, reason, callback)

    def serial(self) -> int:
        """A number that was not given before."""
        self._serial += 1
        return self._serial

    # -- connections

    def _new(self, handler: Handler) -> Connection:
        conn = Connection(self, self._next_id, handler)
        self._next_id += 1
        self.connections[conn.id] = conn
        return conn

    def accept(self, handler: Handler) -> Connection:
        conn = self._new(handler)
        conn.open = True
        return conn

    def dial(self, handler: Handler, address: Address, tls: TlsOptions | None) -> Connection:
        conn = self._new(handler)
        self.put(Connect(conn.id, address, tls))
        return conn

    def spawn(
        self,
        handler: Handler,
        argv: tuple[str, ...],
        env: dict[str, str],
        cwd: str | None,
        pin: str | None,
        limits: ProcessLimits | None,
    ) -> Connection:
        conn = self._new(handler)
        conn.child = True
        self.put(Spawn(conn=conn.id, argv=argv, env=env, cwd=cwd, pin=pin, limits=limits))
        return conn

    def forget(self, conn: int) -> None:
        known = self.connections.pop(conn, None)
        if known is not None:
            known.ended()

    # -- names

    def resolve(self, host: str, answer: Callable[[list[Address] | None, str], None]) -> None:
        """Look `host` up; `answer` gets its addresses (port 0), or `None` and the reason; never from within.
        Who asks for a host that is being looked up waits for the same answer."""
        for asked, answers in self._lookups.values():
            if asked == host:
                answers.append(answer)
                return
        if len(self._lookups) >= self.limits.lookups:
            self.after(0.0, "look-up refused", lambda: answer(None, "too many look-ups at one time"))
            return
        lookup = self._next_id
        self._next_id += 1
        self._lookups[lookup] = (host, [answer])
        self.put(Resolve(lookup, host))

    def looked_up(self, lookup: int, addresses: list[Address] | None, reason: str) -> None:
        known = self._lookups.pop(lookup, None)
        for answer in known[1] if known is not None else ():
            answer(addresses, reason)


def _cut(fields: dict[str, Scalar]) -> tuple[tuple[str, Scalar], ...]:
    return tuple((name, one[:TEXT] if isinstance(one, str) else one) for name, one in fields.items())
