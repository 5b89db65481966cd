"""A scene: a gateway with some model servers behind it, ready for scripted or random play.

Owns: the config that fits the model servers, and short words for what scripts do often.
Must never: decide anything at random.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fuzz.sim.clients import Call, LegacyPipe, ModernPipe
from fuzz.sim.http_clients import LegacyHttp, ModernHttp
from fuzz.sim.servers import ServerModel
from fuzz.sim.sockets import LegacySse, LegacyWs, ModernWs, SocketConn, SseConn, WsConn
from fuzz.sim.world import World
from mcpgate_proto import GatewayConfig, Limits, ListenConfig, ServerConfig

__all__ = ["FAST", "Scene"]

# Shorter times than in real life, so that a run meets all of them.
FAST = Limits(startup_wait_s=5.0, probe_timeout_s=6.0)


AnyClient = LegacyHttp | LegacyPipe | LegacySse | ModernHttp | ModernPipe


def _listener(name: str, sockets: bool, listen: dict[str, Any]) -> ListenConfig:
    """By its name: `stdio...`, `unix...` (`unix-2000`: for that user too), or HTTP, which `listen` is
    about."""
    if name.startswith("stdio"):
        return ListenConfig(name=name, kind="stdio")
    if name.startswith("unix"):
        others = (2000,) if name == "unix-2000" else ()
        return ListenConfig(name=name, kind="unix", socket_path=f"/run/{name}", allow_uids=others)
    return ListenConfig(name=name, websocket=sockets, sse=sockets, **listen)


class Scene:
    """`servers`: name -> (transport, eras). `sockets`: the HTTP listener has WebSocket and HTTP+SSE too."""

    def __init__(
        self,
        servers: dict[str, tuple[str, tuple[str, ...]]],
        *,
        seed: int = 1,
        limits: Limits = FAST,
        listeners: tuple[str, ...] = ("http",),
        trace: Callable[[str], None] | None = None,
        options: dict[str, dict[str, Any]] | None = None,
        host: str = "127.0.0.1",
        sockets: bool = False,
        listen: dict[str, Any] | None = None,
        **config: Any,
    ) -> None:
        options = options or {}
        configs = []
        places: list[tuple[str, str, tuple[str, ...], int]] = []
        for port, (name, (transport, eras)) in enumerate(servers.items(), 9001):
            extra: dict[str, Any] = {"url": f"http://{host}:{port}/mcp"}
            if transport == "stdio":
                extra = {"command": f"/bin/{name}"}
            elif transport == "unix":
                extra = {"socket_path": f"/run/{name}"}
            elif transport == "websocket":
                extra = {"url": f"ws://{host}:{port}/mcp"}
            configs.append(ServerConfig(name=name, transport=transport, **extra, **options.get(name, {})))  # type: ignore[arg-type]
            places.append((name, transport, eras, port))
        self.config = GatewayConfig(
            servers=tuple(configs),
            listeners=tuple(_listener(name, sockets, listen or {}) for name in listeners),
            limits=limits,
            log_level="debug",
            **config,
        )
        self.world = World(self.config, seed=seed, trace=trace)
        self.net = self.world.net
        self.servers: dict[str, ServerModel] = {}
        self.clients: list[AnyClient] = []
        for name, transport, eras, port in places:
            model = self.servers[name] = ServerModel(self.world, name, *eras)
            self._place(model, name, transport, port)
        self._names = 0

    def _place(self, model: ServerModel, name: str, transport: str, port: int) -> None:
        if transport == "stdio":
            self.net.programs[f"/bin/{name}"] = model.spawn
        elif transport == "http":
            self.net.services["127.0.0.1", port] = model.connection
        elif transport == "sse":
            self.net.services["127.0.0.1", port] = lambda: model.connection(SseConn)
        elif transport == "unix":
            self.net.services[f"/run/{name}", 0] = lambda: model.socket(SocketConn)
        else:
            self.net.services["127.0.0.1", port] = lambda: model.socket(WsConn)

    def __getitem__(self, name: str) -> ServerModel:
        return self.servers[name]

    def start(self) -> Scene:
        self.world.start()
        return self

    @property
    def only(self) -> ServerModel:
        return next(iter(self.servers.values()))

    # -- clients

    def _name(self, name: str | None) -> str:
        self._names += 1
        return name or f"c{self._names}"

    def legacy_http(self, name: str | None = None, **options: Any) -> LegacyHttp:
        made = LegacyHttp(self.world, self._name(name), **options)
        self.clients.append(made)
        return made

    def legacy(self, name: str | None = None, *, version: str = "2025-11-25", **options: Any) -> LegacyHttp:
        """A legacy HTTP client that has shaken hands."""
        client = self.legacy_http(name, **options)
        client.version = version
        client.open()
        self.world.until(lambda: client.hello.over, 60, "the handshake")
        self.run(0.05)
        return client

    def modern(self, name: str | None = None, **options: Any) -> ModernHttp:
        made = ModernHttp(self.world, self._name(name), **options)
        self.clients.append(made)
        return made

    def legacy_pipe(
        self, name: str | None = None, *, version: str = "2025-11-25", **options: Any
    ) -> LegacyPipe:
        made = LegacyPipe(self.world, self._name(name), **options)
        made.version = version
        self.clients.append(made)
        made.open()
        self.world.until(lambda: made.hello.over, 60, "the handshake")
        return made

    def modern_pipe(self, name: str | None = None, **options: Any) -> ModernPipe:
        made = ModernPipe(self.world, self._name(name), **options)
        self.clients.append(made)
        made.open()
        return made

    def done(self, *calls: Call, within: float = 60.0) -> Call:
        """Wait until every call has its answer; the first of them."""
        self.world.until(
            lambda: all(call.settled for call in calls), within, f"answers to {len(calls)} calls"
        )
        return calls[0]

    def legacy_ws(self, name: str | None = None, **options: Any) -> LegacyWs:
        made = LegacyWs(self.world, self._name(name), "http", **options)
        self.clients.append(made)
        made.open()
        self.world.until(lambda: made.hello.over, 60, "the handshake")
        return made

    def modern_ws(self, name: str | None = None, **options: Any) -> ModernWs:
        made = ModernWs(self.world, self._name(name), "http", **options)
        self.clients.append(made)
        made.open()
        return made

    def legacy_sse(
        self, name: str | None = None, *, version: str = "2025-06-18", **options: Any
    ) -> LegacySse:
        made = LegacySse(self.world, self._name(name), **options)
        made.version = version
        self.clients.append(made)
        made.open()
        self.world.until(lambda: made.hello.over, 60, "the handshake")
        return made

    # -- time

    def run(self, seconds: float) -> None:
        self.world.run(seconds)

    def until(self, true: Callable[[], Any], within: float = 60.0, what: str = "") -> Any:
        return self.world.until(true, within, what)

    # -- verdicts

    def problems(self) -> list[str]:
        """Everything that a model peer found wrong."""
        found = [problem for client in self.clients for problem in client.problems]
        return found + [problem for server in self.servers.values() for problem in server.problems]

    def at_rest(self) -> list[str]:
        """What the gateway still holds though nothing is under way (I4)."""
        snapshot = self.world.snapshot()
        kept = {
            "calls": snapshot.calls,
            "upstream_calls": snapshot.upstream_calls,
            "streams": snapshot.streams,
            "subscriptions": snapshot.subscriptions,
            "unsent": snapshot.unsent,
        }
        return [f"{name} = {count} at rest (I4)" for name, count in kept.items() if count]
