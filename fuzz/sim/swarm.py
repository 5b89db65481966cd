"""Random runs: a seed chooses servers, clients, faults and what everybody does.

Owns: the options of a run (`Options.of`), its two phases: faults on, where only safety counts; then
everything heals, and within a bounded time all must be answered, a fresh call served, nothing left behind.
Must never: draw from anything but the world's generator once the run has begun.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec

from fuzz.sim.checkers import Checkers
from fuzz.sim.clients import FORM, Call, LegacyPipe, ModernPipe
from fuzz.sim.http_clients import HttpClient, LegacyHttp, ModernHttp
from fuzz.sim.scene import AnyClient, Scene
from fuzz.sim.servers import ServerModel
from fuzz.sim.sockets import LegacySse, LegacyWs, ModernWs, Ws
from fuzz.sim.streams import Faults
from fuzz.sim.world import Stuck, Violation
from mcpgate_proto import Limits

__all__ = ["LIMITS", "Options", "Outcome", "Run", "run"]

LIMITS = Limits(
    startup_wait_s=2.0,
    probe_timeout_s=4.0,
    handshake_timeout_s=6.0,
    lease_wait_s=8.0,
    restart_last_s=8.0,
    call_ceiling_s=60.0,
    park_ttl_s=20.0,
    unsent_high_bytes=64 * 1024,
    unsent_low_bytes=16 * 1024,
    unsent_hard_bytes=512 * 1024,
    unsent_stall_s=10.0,
    message_bytes=1024 * 1024,
    session_idle_s=600.0,
    upstream_idle_s=120.0,
    dial_timeout_s=4.0,
    sse_commit_s=3.0,
)
TIMEOUT_S = 10.0
# From the end of all faults until everything must be answered: longer than any clock of a call.
QUIET_S = 150.0
# A fresh call must be served within this: a whole backoff, a start, a handshake.
FRESH_S = 45.0
ERAS = (("legacy",), ("modern",), ("legacy", "modern"))
TOOLS = (
    "echo",
    "echo",
    "echo",
    "slow",
    "slow",
    "ask",
    "ask",
    "big",
    "fail",
    "twice",
    "wrong",
    "garbage",
    "stray",
)
TRANSPORTS = ("stdio", "stdio", "http", "http", "websocket", "unix", "sse")
CLIENTS: dict[str, type[AnyClient]] = {
    "legacy http": LegacyHttp,
    "modern http": ModernHttp,
    "legacy ws": LegacyWs,
    "modern ws": ModernWs,
    "legacy sse": LegacySse,
    "legacy unix": LegacyPipe,
    "modern unix": ModernPipe,
    "legacy pipe": LegacyPipe,
    "modern pipe": ModernPipe,
}
# Most of what comes is over HTTP.
KINDS = ("legacy http", "modern http") * 3 + tuple(kind for kind in CLIENTS if "pipe" not in kind)[2:]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a seed stands for."""

    servers: dict[str, tuple[str, tuple[str, ...]]]
    clients: tuple[str, ...]
    faults: Faults
    seconds: float
    pace: tuple[float, float]
    crashes: float  # probability of a crash per second and server
    deadly: float  # share of calls that kill or starve
    fickle: float  # share of calls that are cancelled
    slow_readers: float
    equal_ids: bool
    prefix: str
    reloads: float  # probability of a changed config per second
    jumps: float  # probability of a set time of day per second

    @classmethod
    def of(cls, seed: int) -> Options:
        draw = random.Random(seed * 2 + 1)
        servers: dict[str, tuple[str, tuple[str, ...]]] = {
            f"s{number}": _server(draw.choice(TRANSPORTS), draw.choice(ERAS))
            for number in range(draw.randint(1, 3))
        }
        pipe = draw.random() < 0.4
        clients = [draw.choice(KINDS) for _ in range(draw.randint(2, 4))]
        if pipe:
            clients.append(draw.choice(("legacy pipe", "modern pipe")))
        kind = draw.random() < 0.25
        faults = Faults(
            cuts=draw.choice(((65536,), (1500,), (64, 1500), (7, 64), (1, 7, 64, 1500, 65536))),
            delay=draw.choice(((0.0, 0.0), (0.0005, 0.005), (0.001, 0.2))),
            stall=0.0 if kind else draw.choice((0.0, 0.002, 0.02)),
            reset=0.0 if kind else draw.choice((0.0, 0.0, 0.002, 0.01)),
            refuse=0.0 if kind else draw.choice((0.0, 0.0, 0.1)),
            exit_first=draw.choice((0.0, 0.5, 1.0)),
        )
        return cls(
            servers=servers,
            clients=tuple(clients),
            faults=faults,
            seconds=draw.choice((20.0, 40.0, 60.0)),
            pace=draw.choice(((0.05, 0.5), (0.2, 3.0))),
            crashes=0.0 if kind else draw.choice((0.0, 0.01, 0.05)),
            deadly=0.0 if kind else draw.choice((0.0, 0.02, 0.1)),
            fickle=draw.choice((0.0, 0.1, 0.4)),
            slow_readers=draw.choice((0.0, 0.0, 0.02)),
            equal_ids=draw.random() < 0.5,
            prefix=draw.choice(("auto", "always")),
            reloads=0.0 if kind else draw.choice((0.0, 0.0, 0.03)),
            jumps=0.0 if kind else draw.choice((0.0, 0.03)),
        )


def _server(transport: str, eras: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    return transport, ("legacy",) if transport == "sse" else eras


class Outcome(msgspec.Struct, frozen=True):
    """What a run came to."""

    seed: int
    digest: str
    seconds: float
    facts: int
    calls: int
    completed: int
    counts: dict[str, int]
    counters: dict[str, int]


class Run:
    """One seed. `go` raises `Violation` or `Stuck`, or returns the outcome."""

    def __init__(
        self,
        seed: int,
        trace: Callable[[str], None] | None = None,
        options: Options | None = None,
        tolerate: tuple[str, ...] = (),
    ) -> None:
        self.seed = seed
        self.options = options or Options.of(seed)
        pipes = ("stdio",) if any("pipe" in kind for kind in self.options.clients) else ()
        self.scene = Scene(
            self.options.servers,
            seed=seed,
            limits=LIMITS,
            listeners=("http", "unix", *pipes),
            sockets=True,
            trace=trace,
            options={name: {"timeout": TIMEOUT_S} for name in self.options.servers},
            prefix=self.options.prefix,
        )
        self.world = self.scene.world
        self.checkers = Checkers(self.scene, tolerate)
        self.wild = True
        self._serial = 0

    # -- the run

    def go(self) -> Outcome:
        self._prepare()
        self.scene.start()
        for kind in self.options.clients:
            self._arrive(kind)
        for server in self.scene.servers.values():
            self._fate(server)
        self._meddle()
        self.scene.run(self.options.seconds)
        self.checkers.look()
        self._heal()
        self.scene.run(QUIET_S)
        self.checkers.finish()
        self._fresh()
        self._rest()
        self._stop()
        return self._outcome()

    def _prepare(self) -> None:
        """How the servers are, this time."""
        draw = self.world.random
        self.scene.net.faults = self.options.faults
        for server in self.scene.servers.values():
            server.delay = draw.choice(((0.0, 0.0), (0.0, 0.05), (0.0, 2.0)))
            server.start_delay = draw.choice((0.0, 0.0, 0.2, 3.0))
            server.streams_answers = draw.random() < 0.5
            server.event_ids = draw.random() < 0.5
            server.get_stream = draw.random() < 0.7
            server.page_size = draw.choice((1000, 3))
            server.refuse_listen = draw.random() < 0.2
            server.ignores_eof = draw.random() < 0.2
            server.ignores_term = draw.random() < 0.2
            server.resources = (f"res://{server.name}/a", "res://shared/b")

    def _heal(self) -> None:
        self.wild = False
        if self.options.reloads:
            self.world.feed("reload", self.scene.config)
        self.scene.net.heal()
        for server in self.scene.servers.values():
            server.up = True
            server.start_delay = 0.0
            server.delay = (0.0, 0.01)
            server.mute.clear()
        for client in self.scene.clients:
            client.answer_after = 0.0

    def _fresh(self) -> None:
        """Liveness: a new client of each kind has each server answer a call."""
        for name in self.options.servers:
            for kind in ("legacy http", "modern http"):
                client = self._client(kind)
                if isinstance(client, LegacyHttp):
                    client.open()
                    self.world.until(lambda c=client: c.hello.over, FRESH_S, "a fresh handshake")  # type: ignore[misc]
                client.prefix = self._prefix(name)
                limit = self.world.now + FRESH_S
                while True:
                    call = client.tool("echo")
                    self.world.until(lambda c=call: c.settled, FRESH_S, f"a fresh call to {name}")  # type: ignore[misc]
                    if call.answer is not None and "result" in call.answer:
                        break
                    if self.world.now > limit:
                        raise Stuck(
                            f"{name} does not serve a {kind} client after all has healed: {call.answer}"
                        )
                    self.scene.run(1.0)

    def _rest(self) -> None:
        """Everybody leaves; nothing may stay (I4)."""
        for client in self.scene.clients:
            if isinstance(client, HttpClient | Ws):
                client.leave()
            elif client.listener == "unix" and not client.dead:
                client.stream.close()
        self.scene.run(LIMITS.park_ttl_s + TIMEOUT_S + 15.0)
        self.checkers.at_rest()

    def _stop(self) -> None:
        self.world.feed("shutdown", 1.0)
        limits = LIMITS
        within = (
            2.0 + limits.stop_wait_s + limits.term_wait_s + limits.close_timeout_s + limits.unsent_stall_s
        )
        self.world.until(lambda: self.world.stopped, within, "Stopped")

    def _outcome(self) -> Outcome:
        calls = [
            call for client in self.scene.clients for call in client.calls if call.method == "tools/call"
        ]
        completed = sum(1 for call in calls if call.answer is not None and "result" in call.answer)
        return Outcome(
            self.seed,
            self.world.digest(),
            self.world.elapsed,
            self.world.facts,
            len(calls),
            completed,
            dict(sorted(self.world.counts.items())),
            self.world.snapshot().counters,
        )

    # -- servers

    def _fate(self, server: ServerModel) -> None:
        if not self.wild:
            return
        if self.world.chance(self.options.crashes):
            self.world.count("crash")
            server.crash()
            if self.world.random.random() < 0.3:
                server.up = False
                self.world.after(self.world.uniform((0.5, 10.0)), lambda: setattr(server, "up", True))
        if self.world.random.random() < 0.05:
            server.changed("tools")
        self.world.after(1.0, lambda: self._fate(server))

    def _meddle(self) -> None:
        """The operator changes the config, or the time of day."""
        if not self.wild:
            return
        if self.world.chance(self.options.jumps):
            self.world.count("jump")
            self.world.jump(self.world.uniform((-40_000.0, 90_000.0)))
        if self.world.chance(self.options.reloads):
            self.world.count("reload")
            self._reload()
        self.world.after(1.0, self._meddle)

    def _reload(self) -> None:
        """One server changes, goes, or comes back; the others stay as they are."""
        draw = self.world.random
        servers = list(self.scene.config.servers)
        at = draw.randrange(len(servers))
        if draw.random() < 0.3 and len(servers) > 1:
            del servers[at]
        else:
            servers[at] = msgspec.structs.replace(servers[at], timeout=TIMEOUT_S + draw.randint(0, 2))
        self.world.feed("reload", msgspec.structs.replace(self.scene.config, servers=tuple(servers)))

    def _prefix(self, name: str) -> str:
        many = len(self.options.servers) > 1
        return f"{name}__" if many or self.options.prefix == "always" else ""

    # -- clients

    def _client(self, kind: str) -> AnyClient:
        capabilities = FORM if self.world.random.random() < 0.7 else {}
        listener = {"unix": "unix", "pipe": "stdio"}.get(kind.split()[1], "http")
        made = CLIENTS[kind](self.world, self.scene._name(None), listener, capabilities=capabilities)
        self.scene.clients.append(made)
        return made

    def _arrive(self, kind: str) -> None:
        client = self._client(kind)
        client.answer_after = self.world.random.choice((0.0, 0.0, 1.0, None))
        if not isinstance(client, ModernHttp):
            client.version = self.world.random.choice(("2025-03-26", "2025-06-18", "2025-11-25"))  # type: ignore[union-attr]
            client.open()
        self._act(client, kind)

    def _act(self, client: AnyClient, kind: str) -> None:
        """One thing that a client does, and then the next."""
        if not self.wild:
            return
        draw = self.world.random
        if client.dead:
            if kind in ("legacy ws", "modern ws", "legacy sse", "legacy unix", "modern unix"):
                self._arrive(kind)  # its connection broke, and with it all it had
            return
        if isinstance(client, LegacyHttp) and client.session is None:
            if client.hello.over:
                client.dead = True  # the handshake was lost: another one comes in its place
                self._arrive(kind)
                return
        elif draw.random() < 0.9:
            self._ask(client)
        else:
            self._look_around(client)
        self.world.after(self.world.uniform(self.options.pace), lambda: self._act(client, kind))

    def _ask(self, client: AnyClient) -> None:
        draw = self.world.random
        if sum(1 for call in client.calls[-40:] if not call.settled) > 12:
            return
        client.prefix = self._prefix(draw.choice(sorted(self.options.servers)))
        tool = (
            draw.choice(("die", "silent")) if self.world.chance(self.options.deadly) else draw.choice(TOOLS)
        )
        id = (
            draw.randint(1, 3)
            if self.options.equal_ids and isinstance(client, LegacyHttp | ModernHttp)
            else None
        )
        call = client.tool(tool, id=id, token=draw.choice((None, 1, "t")), every=0.5, steps=4, size=200_000)
        if self.world.chance(self.options.fickle):
            self.world.after(self.world.uniform((0.0, 3.0)), lambda: self._give_up(client, call))

    def _give_up(self, client: AnyClient, call: Call) -> None:
        if call.over or call.cancelled or client.dead:
            return
        self.world.count("cancel")
        if isinstance(client, LegacyHttp) and self.world.random.random() < 0.5:
            client.vanish(call)
        elif self.options.equal_ids and isinstance(client, LegacyHttp):
            client.vanish(call)  # a cancellation by id would mean any of the equal ones
        else:
            client.cancel(call)

    def _look_around(self, client: AnyClient) -> None:
        draw = self.world.random
        what = draw.choice(("tools/list", "resources/list", "resources/read", "listen", "slow"))
        if what == "listen":
            if isinstance(client, LegacyHttp) and (client.get is None or client.get.dead):
                client.listen()
            elif isinstance(client, ModernHttp):
                wanted = {"toolsListChanged": True, "resourceSubscriptions": ["res://shared/b"]}
                call = client.request("subscriptions/listen", {"notifications": wanted})
                self.world.after(self.world.uniform((1.0, 20.0)), lambda: client.cancel(call))
        elif what == "slow":
            if self.world.chance(self.options.slow_readers * 10) and isinstance(client, HttpClient):
                self._fall_asleep(client)
        elif what == "resources/read":
            client.request(what, {"uri": draw.choice(("res://shared/b", "res://nobody/c"))})
        else:
            client.request(what)

    def _fall_asleep(self, client: HttpClient) -> None:
        self.world.count("slow reader")
        for wire in client.wires:
            if not wire.dead:
                wire.stream.read(False)
                self.world.after(self.world.uniform((1.0, 20.0)), lambda w=wire: w.stream.read(True))  # type: ignore[misc]


def run(seed: int, trace: Callable[[str], None] | None = None, tolerate: tuple[str, ...] = ()) -> Outcome:
    """One seed, from start to stop. Raises with the seed in its text."""
    made = Run(seed, trace, tolerate=tolerate)
    try:
        return made.go()
    except (Violation, Stuck, AssertionError) as problem:
        raise type(problem)(f"seed {seed} at {made.world.elapsed:.3f} s: {problem}") from problem
