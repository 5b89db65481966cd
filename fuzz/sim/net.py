"""A network between the gateway and its peers: connections, dials, children, and what can go wrong.

Owns: the runner's side of the contract (each effect carried out, each fact told once and in order), the
cutting, delaying, stalling, resetting of streams, and the assertions on what the gateway asks for.
Must never: call a peer and the gateway in one step in a way that a real machine could not; know what
the bytes mean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import msgspec

from fuzz.sim.streams import Faults, Stream
from mcpgate_proto import effects as fx
from mcpgate_proto.effects import Address, Effect, Peer

if TYPE_CHECKING:
    from fuzz.sim.world import World

__all__ = ["Network", "PeerHandler"]


class PeerHandler(Protocol):
    """The far end of a stream."""

    stream: Stream

    def opened(self) -> None: ...
    def data(self, data: bytes) -> None: ...
    def eof(self) -> None: ...
    def gone(self) -> None:
        """The connection is over, both ways."""


class ChildHandler(PeerHandler, Protocol):
    def signalled(self, which: str) -> None: ...


Answering = Callable[[], "PeerHandler | None"]
Spawning = Callable[[fx.Spawn], "ChildHandler | str"]


class Dial:
    """An outgoing connection that is not up yet."""

    def __init__(self, conn: int) -> None:
        self.conn = conn
        self.over = False


class Network:
    """See the head of this file."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.faults = Faults()
        # (host, port), or (path, 0) -> makes the far end of a connection; None refuses. Not there: the same.
        self.services: dict[tuple[str, int], Answering] = {}
        # Names -> numeric hosts; a name that is not there is not found.
        self.names: dict[str, list[str]] = {}
        # Addresses that swallow a dial.
        self.black_holes: dict[str, None] = {}
        # argv[0] -> makes the process, or the reason why it cannot start.
        self.programs: dict[str, Spawning] = {}
        self.streams: dict[int, Stream] = {}
        self.dials: dict[int, Dial] = {}
        self.listens: dict[str, fx.Listen] = {}
        self.spawned: list[fx.Spawn] = []
        self.signals: list[tuple[float, int, str]] = []
        self.paused_accept: dict[str, None] = {}
        self._last_id = 0
        self._lookups: dict[int, None] = {}
        self._pids = 100
        self.most_unsent = 0
        # Carries out what logins need; a model of `fuzz/sim/logins.py`, where a scene has one.
        self.desk: Callable[[Effect], None] = lambda effect: None
        self._bound = False
        # Ports that something else has, and those of listeners that were opened late.
        self.taken: dict[int, None] = {}
        self.ports: dict[int, str] = {}
        self._next_port = 40000
        # Where clients come from.
        self.client_host = "127.0.0.1"

    # -- effects

    def perform(self, effects: list[Effect]) -> None:
        written: dict[int, None] = {}
        for effect in effects:
            if self.world.stopped and not isinstance(effect, fx.Emit):
                self._broken(f"{effect!r} after Stopped")
            if isinstance(effect, fx.Write):
                if effect.conn in written:
                    self._broken(f"two writes for connection {effect.conn} in one drain")
                written[effect.conn] = None
            self._perform(effect)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case fx.Emit():
                pass
            case fx.Write():
                self._stream(effect).write(effect.chunks)
            case fx.ShutdownWrite():
                self._stream(effect).shutdown_write()
            case fx.PauseRead():
                self._stream(effect).pause(True)
            case fx.ResumeRead():
                self._stream(effect).pause(False)
            case fx.Close():
                self._close(effect)
            case fx.Abort():
                self._abort(effect)
            case fx.Signal():
                self._signal(effect)
            case fx.Connect():
                self._fresh(effect.conn)
                self._connect(effect)
            case fx.Spawn():
                self._fresh(effect.conn)
                self._spawn(effect)
            case fx.Resolve():
                self._resolve(effect)
            case fx.Listen():
                self.listens[effect.listener] = effect
                if self._bound:
                    self._listen_late(effect)
            case fx.Browse() | fx.Claim() | fx.Keep() | fx.Release():
                self.desk(effect)
            case fx.Unlisten():
                if self.listens.pop(effect.listener, None) is None:
                    self._broken(f"Unlisten of {effect.listener}, which is not open")
            case fx.PauseAccept():
                self.paused_accept[effect.listener] = None
            case fx.ResumeAccept():
                self.paused_accept.pop(effect.listener, None)
            case fx.Stopped():
                if self.streams or self.dials:
                    self._broken("Stopped with connections open")
                self.world.stopped = True
                self.world.failure = effect.failure

    def _broken(self, told: str) -> None:
        from fuzz.sim.world import Violation

        raise Violation(f"contract: {told}")

    def _stream(self, effect: fx.Write | fx.ShutdownWrite | fx.PauseRead | fx.ResumeRead) -> Stream:
        found = self.streams.get(effect.conn)
        if found is None:
            self._broken(f"{effect!r} for a connection that is not open")
        assert found is not None
        return found

    def _fresh(self, conn: int) -> None:
        if conn <= self._last_id:
            self._broken(f"id {conn} is used again")
        self._last_id = conn

    def _close(self, effect: fx.Close) -> None:
        if effect.conn in self.dials:
            self._drop_dial(effect.conn)
        elif effect.conn in self.streams:
            self.streams[effect.conn].close_requested()
        else:
            self._broken(f"{effect!r} for a connection that is not open")

    def _abort(self, effect: fx.Abort) -> None:
        if effect.conn in self.dials:
            self._drop_dial(effect.conn)
        elif effect.conn in self.streams:
            self.streams[effect.conn].abort_requested()
        else:
            self._broken(f"{effect!r} for a connection that is not open")

    def _signal(self, effect: fx.Signal) -> None:
        found = self.streams.get(effect.conn)
        if found is None or not found.child:
            self._broken(f"{effect!r} for what is no child")
        assert found is not None
        self.signals.append((self.world.now, effect.conn, effect.which))
        self.world.count(f"signal {effect.which}")
        found.signalled(effect.which)

    # -- listeners

    def bind(self) -> None:
        port = 8080
        for name, listen in list(self.listens.items()):
            address = Address() if listen.kind == "stdio" else Address(host="127.0.0.1", port=port)
            port += 1
            self.world.feed("listening", name, address)
        self._bound = True

    def _listen_late(self, effect: fx.Listen) -> None:
        self._next_port += 1
        port = effect.port or self._next_port

        def answer() -> None:
            if port in self.taken:
                self.listens.pop(effect.listener, None)
                self.world.feed("listen_failed", effect.listener, "address already in use")
            else:
                self.ports[port] = effect.listener
                self.world.feed("listening", effect.listener, Address(host=effect.host, port=port))

        self.world.after(0.0, answer)

    def connect(
        self, listener: str, peer: PeerHandler, kind: str = "tcp", *, faults: Faults | None = None
    ) -> bool:
        """A client dials `listener`. False: refused."""
        if listener not in self.listens or self.world.stopped:
            return False
        told = (
            Peer(kind="stdio")
            if kind == "stdio"
            else Peer(kind="tcp", address=Address(host=self.client_host, port=50000))
        )
        if kind == "unix":
            told = Peer(kind="unix", uid=1000, same_user=True)
        elif kind == "unix other":
            told = Peer(kind="unix", uid=2000, gid=2000)
        # The stream has to be there before the effects of being accepted are carried out.
        conn = self.world.gateway.accepted(self.world.now, listener, told)
        self._fresh(conn)
        if kind == "stdio":
            # The end of the only client is the end of the gateway: that is for scripts to try.
            faults = msgspec.structs.replace(faults or self.faults, stall=0.0)
        stream = self._open(conn, peer, faults)
        stream.lasting = kind == "stdio"
        self.world.facts += 1
        self.world._note("accepted", (listener, conn))
        self.world._take(self.world.gateway.effects())
        if not stream.over:
            peer.opened()
        return True

    def _open(
        self, conn: int, peer: PeerHandler, faults: Faults | None = None, *, child: bool = False
    ) -> Stream:
        stream = Stream(self, conn, peer, faults or self.faults, child=child)
        peer.stream = stream
        self.streams[conn] = stream
        return stream

    # -- dials

    def _resolve(self, effect: fx.Resolve) -> None:
        self._fresh(effect.lookup)

        def answer() -> None:
            found = self.names.get(effect.host)
            if found:
                self.world.feed("resolved", effect.lookup, [Address(host=host) for host in found])
            else:
                self.world.feed("resolve_failed", effect.lookup, "name not found")

        self.world.after(self.world.uniform(self.faults.delay), answer)

    def _connect(self, effect: fx.Connect) -> None:
        dial = self.dials[effect.conn] = Dial(effect.conn)
        if effect.address.host in self.black_holes:
            self.world.count("dial swallowed")
            return

        def answer() -> None:
            if dial.over:
                return
            service = self.services.get((effect.address.path or effect.address.host, effect.address.port))
            peer = service() if service is not None and not self.world.chance(self.faults.refuse) else None
            del self.dials[effect.conn]
            if peer is None:
                self.world.count("dial refused")
                self.world.feed("connect_failed", effect.conn, "connection refused")
                return
            self._open(effect.conn, peer)
            peer.opened()
            self.world.feed("connected", effect.conn, Peer(kind="tcp", address=effect.address), None)

        self.world.after(self.world.uniform(self.faults.delay), answer)

    def _drop_dial(self, conn: int) -> None:
        dial = self.dials[conn]
        if dial.over:
            self._broken(f"connection {conn} is given up twice")
        dial.over = True

        def told() -> None:
            self.dials.pop(conn, None)
            self.world.feed("closed", conn, "aborted")

        self.world.after(0.0, told)

    # -- children

    def _spawn(self, effect: fx.Spawn) -> None:
        self.spawned.append(effect)
        dial = self.dials[effect.conn] = Dial(effect.conn)
        self.world.count("spawn")

        def answer() -> None:
            if dial.over:
                return
            del self.dials[effect.conn]
            program = self.programs.get(effect.argv[0])
            made = program(effect) if program is not None else "no such file"
            if isinstance(made, str):
                self.world.feed("connect_failed", effect.conn, made)
                return
            self._open(effect.conn, made, child=True)
            self._pids += 1
            made.opened()
            self.world.feed("connected", effect.conn, Peer(kind="child", pid=self._pids), None)

        self.world.after(self.world.uniform(self.faults.delay), answer)

    # -- facts

    def finished(self, stream: Stream) -> None:
        self.streams.pop(stream.conn, None)

    def heal(self, faults: Faults | None = None) -> None:
        """From now on the network is kind."""
        self.faults = faults or Faults()
        self.black_holes.clear()
        for stream in list(self.streams.values()):
            stream.heal(self.faults)
