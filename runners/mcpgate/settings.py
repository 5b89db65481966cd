"""Settings from files: TOML, or the JSON that MCP clients use, into the core's `GatewayConfig`.

Owns: where a config is looked for, what its keys mean, and the report of everything that is wrong with it.
Must never: start anything, or hand a setting on that was not checked.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from mcpgate import __version__
from mcpgate.clients import server_tables
from mcpgate.control import RUNNERS
from mcpgate.expand import Expander
from mcpgate.launch import CommandError, child_env, resolve_command
from mcpgate.listen_settings import (
    DEFAULT_PORT,
    absolute,
    default_listener,
    is_loopback,
    read_listener,
    socket_problem,
)
from mcpgate.tables import Problem, Problems, Table
from mcpgate_proto.config import GatewayConfig, ListenConfig, ServerConfig
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
CONFIG_BYTES = 4 * 1024 * 1024
LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
TRANSPORTS = ("stdio", "http", "sse", "websocket", "unix")


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
        if place.exists():
            return place
    looked = ", ".join(str(place) for place in places)
    mend = "write one, name one with -c FILE, or try `mcpgate demo`"
    raise SettingsError([Problem(str(places[0]), "", f"there is no config; looked for {looked}", mend)])


def load(path: Path, env: Mapping[str, str] | None = None) -> Settings:
    """Read and check `path`. Raises `SettingsError` with every problem at once."""
    problems = Problems(str(path))
    values = _read(path, problems)
    if problems.errors:
        raise SettingsError(problems.errors)
    base = path.absolute().parent
    root = Table(values, "", problems, Expander(base, env))
    reader = _Reader(root, problems, base, env)
    settings = reader.read_client_file(path) if _is_client_file(values) else reader.read(path)
    if problems.errors:
        raise SettingsError(problems.errors)
    return settings


def _is_client_file(values: Any) -> bool:
    return isinstance(values, dict) and ("mcpServers" in values or isinstance(values.get("servers"), dict))


def _read(path: Path, problems: Problems) -> Any:
    try:
        with open(path, "rb") as file:
            data = file.read(CONFIG_BYTES + 1)
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno else "unreadable"
        problems.error("", f"cannot be read: {reason}", "correct the path or its permissions")
        return None
    if len(data) > CONFIG_BYTES:
        problems.error("", f"is longer than {CONFIG_BYTES} bytes", "name the config file, not its data")
        return None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problems.error("", f"is not UTF-8 (byte {error.start})", "save it as UTF-8")
        return None
    try:
        if path.suffix == ".json" or (path.suffix != ".toml" and text.lstrip().startswith("{")):
            return msgspec.json.decode(text)
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problems.error("", f"is not TOML: {error}", "correct the line; texts need quotes")
    except (msgspec.DecodeError, RecursionError) as error:
        problems.error("", f"is not JSON: {error}", "correct it; JSON has no comments and no trailing commas")
    return None


class _Reader:
    """One pass over one file."""

    def __init__(self, root: Table, problems: Problems, base: Path, env: Mapping[str, str] | None) -> None:
        self.root = root
        self.problems = problems
        self.base = base
        self.env = os.environ if env is None else env

    def table(self, values: Any, path: str) -> Table:
        return Table(values, path, self.problems, self.root.expander)

    def read(self, path: Path) -> Settings:
        root = self.root
        root.known += ["gateway", "server", "listen", "limits"]
        root.finish()
        limits = self._limits(root.values.get("limits", {}))
        gateway = self.table(root.values.get("gateway", {}), "gateway")
        limits = msgspec.structs.replace(
            limits, startup_wait_s=gateway.number("startup_wait_s", limits.startup_wait_s, most=3600)
        )
        config = GatewayConfig(
            servers=self._servers(self._each("server")),
            listeners=self._listeners(),
            limits=limits,
            log_level=gateway.text("log_level", "info", LEVELS),  # type: ignore[arg-type]
            prefix=gateway.text("prefix", "auto", ("auto", "always", "never")),  # type: ignore[arg-type]
            name_chars=gateway.whole("name_chars", 64, least=16, most=128),
            page_size=gateway.whole("page_size", 1000, least=1, most=10_000),
            drive_tasks=gateway.flag("drive_tasks", True),
            legacy_tasks=gateway.flag("legacy_tasks", False),
            sealing_key=self._sealing_key(gateway.text("sealing_key")),
            sealing_key_id=gateway.text("sealing_key_id", "0"),
            version=__version__,
        )
        log_file = gateway.text("log_file")
        runner = gateway.text("runner", "asyncio", RUNNERS)
        gateway.finish()
        if log_file:
            log_file = str(self.base / os.path.expanduser(log_file))
        return Settings(config, path, log_file, runner, self.problems.warnings)

    def read_client_file(self, path: Path) -> Settings:
        entries = server_tables(self.root, self.problems, server_name_problem)
        config = GatewayConfig(
            servers=self._servers(entries), listeners=(default_listener(),), version=__version__
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

    def _each(self, name: str) -> list[tuple[str, Any]]:
        """The tables of an array of tables, by their own names where they have one."""
        values = self.root.values.get(name, [])
        if not isinstance(values, list):
            self.problems.error(name, "is one table", f"write [[{name}]], with two brackets, for each")
            return []
        found = []
        for number, value in enumerate(values):
            label = value.get("name") if isinstance(value, dict) else None
            found.append(
                (f"{name}.{label}" if isinstance(label, str) and label else f"{name}[{number}]", value)
            )
        return found

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
        if not entries and not any(problem.key == "server" for problem in self.problems.errors):
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
        enabled = table.flag("enabled", True)
        pass_env, own_env = table.texts("pass_env"), table.text_map("env")
        env = child_env(pass_env, own_env, self.env)
        command, url, socket_path = table.text("command"), table.text("url"), table.text("socket_path")
        cwd = table.text("cwd")
        if transport == "stdio":
            command = self._command(path, command, env, enabled)
        elif transport == "unix":
            socket_path = self._socket(path, socket_path)
        else:
            self._url(path, url, transport)
            if socket_path:
                socket_path = self._socket(path, socket_path)
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
            headers=table.text_map("headers"),
            ca_file=self._file(f"{path}.ca_file", table.text("ca_file")),
            socket_path=socket_path,
            timeout=table.number("timeout", 30.0, least=0.001, most=86_400),
            health_s=table.number("health_s", 0.0, most=86_400),
            metadata=table.any_map("metadata"),
            era=table.text("era", "auto", ("auto", "legacy", "modern")),  # type: ignore[arg-type]
            rename=table.text_map("rename"),
            isolation=table.text(  # type: ignore[arg-type]
                "isolation", "principal", ("principal", "session", "shared")
            ),
        )
        table.finish()
        self._out_of_place(path, table, transport)
        return server

    def _out_of_place(self, path: str, table: Table, transport: str) -> None:
        """Keys that say something to another transport only: most likely `transport` itself is wrong."""
        only = {
            "stdio": ("command", "args", "env", "pass_env", "cwd", "pin", "process_limits"),
            "http": ("url", "headers", "ca_file"),
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
        if not command and f"{path}.command" in {problem.key for problem in self.problems.errors}:
            return ""
        try:
            return resolve_command(command, env.get("PATH"), self.base)
        except CommandError as error:
            # A server that is switched off may well not be installed.
            note = self.problems.error if enabled else self.problems.warn
            note(f"{path}.command", error.problem, error.mend)
            return command

    def _url(self, path: str, url: str, transport: str) -> None:
        if not url and f"{path}.url" in {problem.key for problem in self.problems.errors}:
            return
        plain, secure = schemes = SCHEMES[transport]
        problem = url_problem(url, schemes)
        if problem:
            self.problems.error(f"{path}.url", problem, f"write it as {secure}://host/path")
        elif url.startswith(f"{plain}://") and not is_loopback(urlsplit(url).hostname or ""):
            self.problems.warn(f"{path}.url", f"everybody on the way can read plain {plain}", f"use {secure}")

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
        if not full.is_dir():
            self.problems.error(key, f"there is no folder {full}", "create it, or correct the path")
        return str(full)

    def _file(self, key: str, name: str) -> str | None:
        if not name:
            return None
        full = self.base / os.path.expanduser(name)
        if not full.is_file():
            self.problems.error(key, f"there is no file {full}", "correct the path")
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
        entries = self._each("listen")
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
            found.append(listener)
        return tuple(found)

    def _listener(self, path: str, values: Any, number: int) -> ListenConfig:
        return read_listener(self.table(values, path), self.problems, number, self.base, self.env)


# Without and with TLS.
SCHEMES = {"http": ("http", "https"), "sse": ("http", "https"), "websocket": ("ws", "wss")}


def url_problem(url: str, schemes: tuple[str, ...] = SCHEMES["http"]) -> str:
    """What is wrong with the address of a server, or nothing."""
    if not url:
        return "is missing"
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
