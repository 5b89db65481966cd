"""A gateway, a server that wants tokens, an authorization server and a person with a browser.

Owns: `LoginScene`, which puts the models of `fuzz/sim/logins.py` together, and what a login comes to.
Must never: reach into the gateway.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fuzz.sim.clients import Call, ModernPipe
from fuzz.sim.http_clients import ModernHttp
from fuzz.sim.logins import AuthServer, Browser, Guard, Store
from fuzz.sim.servers import ServerModel
from fuzz.sim.world import World
from mcpgate_proto.config import GatewayConfig, ListenConfig, OAuthConfig, ServerConfig
from mcpgate_proto.limits import Limits

URL = "https://mcp.example/mcp"
ISSUER = "https://as.example"
# Where the model servers are: public addresses, so that no rule has to be loosened for them.
MCP_HOST, AS_HOST, OTHER_HOST = "8.8.8.1", "8.8.8.2", "8.8.8.3"


class LoginScene:
    """`oauth`: members of `OAuthConfig`. The client is `connect`'s: on stdio, and so local."""

    def __init__(
        self,
        *,
        url: str = URL,
        issuer: str = ISSUER,
        eras: tuple[str, ...] = ("modern",),
        attended: bool = True,
        transparent: bool = True,
        listeners: tuple[str, ...] = ("stdio",),
        records: dict[str, bytes] | None = None,
        oauth: dict[str, Any] | None = None,
        seed: int = 1,
        limits: dict[str, Any] | None = None,
        trace: Callable[[str], None] | None = None,
        servers: int = 1,
        auth: Any = None,
        **server: Any,
    ) -> None:
        wants = OAuthConfig(**(oauth or {}))
        self._seed, self._trace, self._eras, self._issuer = seed, trace, eras, issuer
        configs = []
        for number in range(servers):
            place = url if not number else url.replace("mcp.example", f"mcp{number + 1}.example")
            name = f"s{number + 1}"
            configs.append(ServerConfig(name=name, transport="http", url=place, oauth=wants, **server))
        more = {} if auth is None else {"auth": auth}
        self.config = GatewayConfig(
            servers=tuple(configs),
            listeners=tuple(_listener(name) for name in listeners),
            attended=attended,
            transparent=transparent,
            limits=Limits(**(limits or {})),
            log_level="debug",
            **more,
        )
        self._build(self.config, records)

    def remade(self, config: GatewayConfig) -> LoginScene:
        """The same scene around a gateway with another config."""
        self.config = config
        self._build(config, self.store.records)
        return self

    def _build(self, config: GatewayConfig, records: dict[str, bytes] | None) -> None:
        url, issuer, eras = config.servers[0].url, self._issuer, self._eras
        self.world = World(config, seed=self._seed, trace=self._trace)
        local = url.startswith("http://127.0.0.1")
        self.auth = AuthServer(self.world, issuer, "127.0.0.1" if local else AS_HOST)
        self.browser = Browser(self.world, self.auth)
        self.store = Store(self.world, records)
        self.world.net.desk = lambda effect: self.store.perform(effect, self.browser)
        self.models: list[ServerModel] = []
        self.guards: list[Guard] = []
        for number, server in enumerate(config.servers):
            model = ServerModel(self.world, server.name, *eras)
            guard = Guard(model, [self.auth], server.url)
            host = f"8.8.7.{number + 1}" if number else MCP_HOST
            if local:
                guard.place("127.0.0.1", int(server.url.split(":")[2].split("/")[0]))
            else:
                guard.place(host, 443)
                self.world.net.names[server.url.split("/")[2]] = [host]
            self.models.append(model)
            self.guards.append(guard)
        self.model, self.guard = self.models[0], self.guards[0]
        self._names = 0

    def start(self) -> LoginScene:
        self.world.start()
        return self

    # -- clients

    def pipe(self) -> ModernPipe:
        self._names += 1
        made = ModernPipe(self.world, f"c{self._names}")
        made.open()
        return made

    def http(self, **options: Any) -> ModernHttp:
        self._names += 1
        return ModernHttp(self.world, f"c{self._names}", **options)

    # -- time

    def run(self, seconds: float) -> None:
        self.world.run(seconds)

    def until(self, true: Callable[[], Any], within: float = 60.0, what: str = "") -> Any:
        return self.world.until(true, within, what)

    def done(self, *calls: Call, within: float = 120.0) -> Call:
        self.world.until(lambda: all(call.settled for call in calls), within, "answers")
        return calls[0]

    # -- verdicts

    def logged(self, event: str) -> list[dict[str, Any]]:
        return self.world.logged(event)

    def sound(self) -> None:
        """Nobody found anything wrong, and nothing is left locked or open."""
        assert not self.auth.problems, self.auth.problems
        for guard, model in zip(self.guards, self.models, strict=True):
            assert not guard.problems, guard.problems
            assert not model.problems, model.problems
        assert not self.store.locked, self.store.locked
        left = [name for name in self.world.net.listens if name.startswith("login")]
        assert not left, left
        told = "\n".join(repr(record) for record in self.world.records)
        for secret in (*self.auth.tokens, *self.auth.refresh, *self.auth.codes):
            assert secret not in told, "a secret is in the log"


def _listener(name: str) -> ListenConfig:
    if name == "stdio":
        return ListenConfig(name=name, kind="stdio")
    if name == "unix":
        return ListenConfig(name=name, kind="unix", socket_path="/run/unix")
    return ListenConfig(name=name)


def asked(scene: LoginScene) -> dict[str, str]:
    """The one authorization request."""
    (url,) = scene.browser.shown
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def logged_in(scene: LoginScene) -> LoginScene:
    """A call comes through, after one login."""
    scene.start()
    call = scene.done(scene.pipe().tool("echo"))
    assert call.result is not None, call.answer
    assert len(scene.browser.shown) == 1 and len(scene.logged("login_done")) == 1
    scene.sound()
    return scene


def refused(scene: LoginScene, reason: str = "") -> dict[str, Any]:
    """A call fails, in words of our own; the log has `reason`."""
    call = scene.done(scene.pipe().tool("echo"))
    assert call.error is not None, call.answer
    told = call.error["message"]
    assert "s1" in told and "Bearer" not in told and "as.example" not in told, told
    said = [dict(record.fields).get("reason", "") for record in scene.world.records]
    assert any(reason in str(one) for one in said), said
    return call.error
