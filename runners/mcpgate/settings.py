"""Settings from files: TOML, or the JSON that MCP clients use, into the core's `GatewayConfig`.

Owns: where a config is looked for, what its keys mean, and the report of everything that is wrong with it.
Must never: start anything, or hand a setting on that was not checked.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from mcpgate import __version__
from mcpgate.auth_settings import read_auth
from mcpgate.clients import server_tables
from mcpgate.config_file import read_config
from mcpgate.control import RUNNERS
from mcpgate.expand import Expander, Inline
from mcpgate.launch import child_env, is_variable
from mcpgate.listen_settings import (
    DEFAULT_PORT,
    absolute,
    default_listener,
    read_listener,
    socket_problem,
)
from mcpgate.monitor_settings import read_audit, read_monitor
from mcpgate.process_settings import ProcessSettings
from mcpgate.rate_settings import read_rates, read_server_rates
from mcpgate.redact import Redactor, secrets_of
from mcpgate.rule_settings import HIDDEN, SERVER_KEYS, read_pins, read_rules
from mcpgate.secret_settings import client_access, read_guard, read_headers, warn_of_secrets
from mcpgate.tables import Problem, Problems, Table
from mcpgate.upstream_auth_settings import UPSTREAM_AUTH_KEYS, read_upstream_auth
from mcpgate.watch import Signature
from mcpgate_proto.config import AuthConfig, GatewayConfig, ListenConfig, ServerConfig
from mcpgate_proto.effects import ProcessLimits
from mcpgate_proto.limits import Limits
from mcpgate_proto.relay.names import server_name_problem

__all__ = [
    "DEFAULT_PORT",
    "SCHEMES",
    "Problem",
    "Settings",
    "SettingsError",
    "config_places",
    "find_config",
    "load",
    "url_problem",
]

CONFIG_NAME = "mcpgate.toml"
LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
TRANSPORTS = ("stdio", "http", "sse", "websocket", "unix")


# The tables of our own config; rules are read, and known, apart.
OWN_TABLES = ("auth", "gateway", "server", "listen", "limits", "rate", "monitor", "rule")


class SettingsError(Exception):
    """A config that cannot be used, with all its `problems`."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


@dataclass(frozen=True)
class Settings:
    """A config that can be used: the core's part, and the program's own."""

    gateway: GatewayConfig
    path: Path | None = None
    log_file: str = ""
    runner: str = "asyncio"
    warnings: list[Problem] = field(default_factory=list)
    processes: ProcessSettings = field(default_factory=ProcessSettings)
    # What no log may show, and the files that some of it came from.
    secrets: tuple[str, ...] = ()
    secret_files: dict[str, Signature] = field(default_factory=dict)
    # "stderr", a file, or nothing.
    audit: str = ""
    inline_secrets: bool = False


def config_places(env: Mapping[str, str] | None = None) -> list[Path]:
    """Where a config is looked for, in this order."""
    env = os.environ if env is None else env
    home = env.get("XDG_CONFIG_HOME", "")
    folder = Path(home) if os.path.isabs(home) else Path(os.path.expanduser("~/.config"))
    return [Path.cwd() / CONFIG_NAME, folder / "mcpgate" / CONFIG_NAME]


def find_config(env: Mapping[str, str] | None = None) -> Path:
    """The first config there is. Raises `SettingsError`, which says what was looked for."""
    places = config_places(env)
    for place in places:
        if os.path.exists(place):
            return place
    looked = ", ".join(str(place) for place in places)
    mend = "write one, name one with -c FILE, or try `mcpgate demo`"
    raise SettingsError([Problem(str(places[0]), "", f"there is no config; looked for {looked}", mend)])


def load(path: Path, env: Mapping[str, str] | None = None, *, insecure: bool = False) -> Settings:
    """Read and check `path`. Raises `SettingsError` with every problem at once.

    `insecure`: what other users can read or change costs a warning, not an error.
    """
    problems = Problems(str(path))
    file = read_config(path, problems, insecure=insecure)
    if problems.errors:
        raise SettingsError(problems.errors)
    base = path.absolute().parent
    expander = Expander(base, env)
    root = Table(file.values, "", problems, expander)
    reader = _Reader(root, problems, base, env, insecure)
    settings = reader.read_client_file(path) if file.is_client_file else reader.read(path)
    warn_of_secrets(file.values, problems, expander)
    file.check_mode(problems, insecure=insecure)
    secrets = tuple(dict.fromkeys((*expander.secrets, *secrets_of(settings.gateway))))
    redactor = Redactor(secrets)
    if problems.errors:
        raise SettingsError([redactor.problem(one) for one in problems.errors])
    return replace(
        settings,
        warnings=[redactor.problem(one) for one in problems.warnings],
        processes=reader.processes,
        secrets=secrets,
        secret_files=expander.files,
        inline_secrets=expander.access.inline is Inline.ALLOW,
    )


class _Reader:
    """One pass over one file."""

    def __init__(
        self, root: Table, problems: Problems, base: Path, env: Mapping[str, str] | None, insecure: bool
    ) -> None:
        self.root = root
        self.problems = problems
        self.base = base
        self.insecure = insecure
        self.processes = ProcessSettings(insecure=insecure)
        # Until the settings of processes are known; then as children are to see it.
        self.env = os.environ if env is None else env
        self.auth = AuthConfig()

    def table(self, values: Any, path: str) -> Table:
        return Table(values, path, self.problems, self.root.expander)

    def read(self, path: Path) -> Settings:
        root = self.root
        root.known += OWN_TABLES
        rules = read_rules(root, self.problems)
        root.finish()
        limits = self._limits(root.values.get("limits", {}))
        gateway = self.table(root.values.get("gateway", {}), "gateway")
        self.processes = read_guard(gateway, self.problems, self.env, insecure=self.insecure)
        self.env = self.processes.environment(self.env)
        self.auth = read_auth(root, self.problems, self.base)
        limits = msgspec.structs.replace(
            limits, startup_wait_s=gateway.number("startup_wait_s", limits.startup_wait_s, most=3600)
        )
        pins = read_pins(gateway, self.problems, path, insecure=self.insecure)
        listeners = self._listeners()
        audit, arguments = read_audit(gateway, self.base)
        config = GatewayConfig(
            rules=rules,
            pins=pins.mode,
            pinned=pins.pinned,
            hidden_text=gateway.text("hidden_text", "report", HIDDEN),  # type: ignore[arg-type]
            servers=self._servers(root.each("server")),
            listeners=listeners,
            auth=self.auth,
            limits=limits,
            rate=read_rates(root, self.problems),
            monitor=read_monitor(root, self.problems, listeners),
            audit=bool(audit),
            audit_arguments=arguments,
            log_level=gateway.text("log_level", "info", LEVELS),  # type: ignore[arg-type]
            prefix=gateway.text("prefix", "auto", ("auto", "always", "never")),  # type: ignore[arg-type]
            name_chars=gateway.whole("name_chars", 64, least=16, most=128),
            page_size=gateway.whole("page_size", 1000, least=1, most=10_000),
            drive_tasks=gateway.flag("drive_tasks", True),
            legacy_tasks=gateway.flag("legacy_tasks", False),
            sealing_key=self._sealing_key(gateway.secret("sealing_key")),
            sealing_key_id=gateway.text("sealing_key_id", "0"),
            version=__version__,
        )
        log_file = gateway.text("log_file")
        runner = gateway.text("runner", "asyncio", RUNNERS)
        gateway.finish()
        if log_file:
            log_file = str(self.base / os.path.expanduser(log_file))
        return Settings(config, path, log_file, runner, self.problems.warnings, audit=audit)

    def read_client_file(self, path: Path) -> Settings:
        for name in OWN_TABLES:
            if name in self.root.values:
                told = "would be ignored: this file is the list of servers of an MCP client"
                self.problems.error(
                    name, told, "write [[server]] tables in place of `servers` or `mcpServers`"
                )
        client_access(self.root.expander, insecure=self.insecure)
        self.env = self.processes.environment(self.env)
        entries = server_tables(self.root, self.problems, server_name_problem)
        pins = read_pins(None, self.problems, path, insecure=self.insecure)
        config = GatewayConfig(
            servers=self._servers(entries),
            listeners=(default_listener(),),
            pins=pins.mode,
            pinned=pins.pinned,
            version=__version__,
        )
        return Settings(config, path, warnings=self.problems.warnings)

    def _sealing_key(self, told: str) -> bytes:
        """64 hexadecimal digits; most likely from a file that replicas share."""
        try:
            key = bytes.fromhex(told.strip())
        except ValueError:
            key = b"?"
        if len(key) not in (0, 32):
            mend = (
                "write 64 hexadecimal digits, such as `openssl rand -hex 32` prints, or ${file:/path} of them"
            )
            self.problems.error("gateway.sealing_key", "is not a key of 32 bytes", mend)
            return b""
        return key

    def _limits(self, values: Any) -> Limits:
        table = self.table(values, "limits")
        defaults = Limits()
        found: dict[str, Any] = {}
        for name in Limits.__struct_fields__:
            default = getattr(defaults, name)
            if isinstance(default, int):
                found[name] = table.whole(name, default, least=1)
            else:
                found[name] = table.number(name, default)
        table.finish()
        return Limits(**found)

    # -- servers

    def _servers(self, entries: list[tuple[str, Any]]) -> tuple[ServerConfig, ...]:
        servers: list[ServerConfig] = []
        names: set[str] = set()
        for path, values in entries:
            server = self._server(path, values)
            if server is None:
                continue
            if server.name in names:
                self.problems.error(f"{path}.name", "is the name of another server too", "give each its own")
            names.add(server.name)
            servers.append(server)
        if not entries:
            self.problems.error("server", "no server is configured", "add a [[server]] with name and command")
        if servers and not any(server.enabled for server in servers):
            self.problems.warn("server", "every server is disabled", "set enabled = true for one")
        return tuple(servers)

    def _server(self, path: str, values: Any) -> ServerConfig | None:
        table = self.table(values, path)
        if not table.values:
            return None
        name = table.text("name")
        problem = server_name_problem(name) if name else "is missing"
        if problem:
            self.problems.error(f"{path}.name", problem, "give it a short name, such as files")
        transport = table.text("transport", "stdio", TRANSPORTS)
        self._out_of_place(path, table, transport)
        enabled = table.flag("enabled", True)
        pass_env, own_env = table.texts("pass_env"), table.secret_map("env")
        for key in own_env:
            if not is_variable(key):
                told = f"{key!r} is not the name of a variable"
                self.problems.error(table.key("env"), told, 'write NAME = "value"')
        env = child_env(pass_env, own_env, self.env)
        command, url, socket_path = table.text("command"), table.text("url"), table.text("socket_path")
        cwd = table.text("cwd")
        if transport == "stdio":
            command = self._command(path, command, env, enabled)
            # What the config says of PATH is the last word.
            env |= {"PATH": own_env["PATH"]} if "PATH" in own_env else {}
        elif transport == "unix":
            socket_path = self._socket(path, socket_path)
        else:
            self._url(path, url, transport)
            if socket_path:
                socket_path = self._socket(path, socket_path)
        way = read_upstream_auth(table, transport, url, self.base)
        server = ServerConfig(
            name=name,
            transport=transport,  # type: ignore[arg-type]
            enabled=enabled,
            command=command,
            args=table.texts("args"),
            env=env if transport == "stdio" else {},
            cwd=self._folder(f"{path}.cwd", cwd) if cwd else None,
            pin=self._pin(path, table.text("pin")),
            process_limits=self._process_limits(table),
            url=url,
            headers=read_headers(table),
            ca_file=table.file("ca_file", self.base),
            allow_plain_http=way.allow_plain_http,
            forward_headers=way.forward_headers,
            oauth=way.oauth,
            socket_path=socket_path,
            timeout=table.number("timeout", 30.0, least=0.001, most=86_400),
            health_s=table.number("health_s", 0.0, most=86_400),
            metadata=table.any_map("metadata"),
            era=table.text("era", "auto", ("auto", "legacy", "modern")),  # type: ignore[arg-type]
            rename=table.text_map("rename"),
            isolation=table.text(  # type: ignore[arg-type]
                "isolation", "principal", ("principal", "session", "shared")
            ),
            **read_server_rates(table),
        )
        table.known += SERVER_KEYS
        table.finish()
        return server

    def _out_of_place(self, path: str, table: Table, transport: str) -> None:
        """Keys that say something to another transport only: most likely `transport` itself is wrong."""
        only = {
            "stdio": ("command", "args", "env", "pass_env", "cwd", "pin", "process_limits"),
            "http": ("url", "headers", "ca_file", *UPSTREAM_AUTH_KEYS),
            "unix": ("socket_path",),
        }
        if transport == "http":
            only["unix"] = ()  # HTTP over a Unix socket has both
        for other, keys in only.items():
            if other == transport or (other == "http" and transport in SCHEMES):
                continue
            for key in keys:
                if key in table.values:
                    mend = f'write transport = "{other}", or remove the key'
                    self.problems.error(f"{path}.{key}", f"means nothing for transport {transport}", mend)

    def _command(self, path: str, command: str, env: dict[str, str], enabled: bool) -> str:
        return self.processes.command(f"{path}.command", command, env, self.base, self.problems, enabled)

    def _url(self, path: str, url: str, transport: str) -> None:
        schemes = SCHEMES[transport]
        problem = url_problem(url, schemes)
        if problem:
            self.problems.error(f"{path}.url", problem, f"write it as {schemes[1]}://host/path")

    def _socket(self, path: str, given: str) -> str:
        key = f"{path}.socket_path"
        if not given:
            self.problems.error(key, "is missing", 'write socket_path = "/path/of/the.sock"')
            return ""
        full = given if given.startswith(("@", "\0")) else absolute(self.base, given)
        if problem := socket_problem(full):
            self.problems.error(key, problem, "name a file with a shorter path")
        return full

    def _folder(self, key: str, name: str) -> str:
        full = self.base / os.path.expanduser(name)
        if not os.path.isdir(full):
            self.problems.error(key, f"there is no folder {full}", "create it, or correct the path")
        return str(full)

    def _pin(self, path: str, pin: str) -> str | None:
        if not pin:
            return None
        digits = pin.removeprefix("sha256:").lower()
        if len(digits) != 64 or set(digits) - set("0123456789abcdef"):
            mend = "write sha256: and the 64 digits that sha256sum prints"
            self.problems.error(f"{path}.pin", "is not a SHA-256 digest", mend)
        return f"sha256:{digits}"

    def _process_limits(self, table: Table) -> ProcessLimits | None:
        values = table.any_map("process_limits")
        if not values:
            return None
        limits = self.table(values, table.key("process_limits"))
        found = {
            name: limits.whole(name, 0, least=1) if name in values else None
            for name in ProcessLimits.__struct_fields__
        }
        limits.known += list(found)
        limits.finish()
        return ProcessLimits(**found)

    # -- listeners

    def _listeners(self) -> tuple[ListenConfig, ...]:
        entries = self.root.each("listen")
        if not entries:
            return (default_listener(),)
        found: list[ListenConfig] = []
        for number, (path, values) in enumerate(entries):
            listener = self._listener(path, values, number)
            if listener.kind == "stdio" and any(other.kind == "stdio" for other in found):
                self.problems.error(
                    path, "there is one stdin, and another listener has it", "keep one of them"
                )
            if any(other.name == listener.name for other in found):
                self.problems.error(
                    f"{path}.name", "is the name of another listener too", "give each its own"
                )
            if listener.socket_path and any(other.socket_path == listener.socket_path for other in found):
                self.problems.error(f"{path}.socket_path", "is another listener's too", "give each its own")
            found.append(self.processes.owned(listener))
        return tuple(found)

    def _listener(self, path: str, values: Any, number: int) -> ListenConfig:
        table = self.table(values, path)
        return read_listener(table, self.problems, number, self.base, self.env, self.auth)


# Without and with TLS.
SCHEMES = {"http": ("http", "https"), "sse": ("http", "https"), "websocket": ("ws", "wss")}


def url_problem(url: str, schemes: tuple[str, ...] = SCHEMES["http"]) -> str:
    """What is wrong with the address of a server, or nothing."""
    if not url:
        return "is missing"
    if not url.isprintable() or " " in url:
        return "holds what no URL can hold"
    try:
        parts = urlsplit(url)
        port_fits = parts.port is None or parts.port > 0
    except ValueError:
        return "is not a URL"
    if parts.scheme not in schemes or not parts.hostname or not port_fits:
        return f"is not an {' or '.join(schemes)} URL" if schemes[0] == "http" else "is not a ws or wss URL"
    if parts.username is not None or parts.password is not None:
        return "holds a user name or password, which would end up in logs"
    if parts.fragment:
        return "has a fragment (#...), which is never sent"
    return ""
