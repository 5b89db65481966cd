"""The `mcpgate` command.

Owns: its commands, their help, and how errors are told: what is wrong, and how to mend it.
Must never: import at the top what one command alone needs, or write anything but a result to stdout.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcpgate import __version__
from mcpgate.cli_parts import (
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    config_option,
    era_option,
    fail,
    log_level_option,
    record_option,
    runner_option,
    settings_of,
)

if TYPE_CHECKING:
    from mcpgate_proto.config import GatewayConfig
    from mcpgate_proto.effects import Address

__all__ = ["main"]

DEFAULT_PORT = 8080
# Commands in files of their own, imported when they are called for: name -> (module, attribute).
ELSEWHERE: dict[str, tuple[str, str]] = {
    "doctor": ("mcpgate.doctor", "doctor"),
}


def main() -> None:
    """Entry point of the command and of `python -m mcpgate`."""
    if sys.platform == "win32":
        print("mcpgate: Windows is not supported; run it in WSL", file=sys.stderr)
        sys.exit(EXIT_FAILURE)
    try:
        sys.exit(cli.main(prog_name="mcpgate", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # `mcpgate tools | head`: the reader has seen enough.
        sys.stderr.close()
        sys.exit(EXIT_FAILURE)


class _Group(click.Group):
    """`mcpgate server` is `mcpgate serve`, the name it had before. Finds the commands in `ELSEWHERE`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *ELSEWHERE})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in ELSEWHERE:
            module, attribute = ELSEWHERE[cmd_name]
            found: click.Command = getattr(importlib.import_module(module), attribute)
            return found
        return super().get_command(ctx, "serve" if cmd_name == "server" else cmd_name)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "--version", message="mcpgate %(version)s")
def cli() -> None:
    """One MCP endpoint in front of many MCP servers.

    \b
    mcpgate run -- npx -y some-mcp-server      put one stdio server on HTTP
    mcpgate connect https://example.com/mcp    give a stdio client a remote server
    mcpgate serve -c mcpgate.toml              many servers behind one endpoint
    mcpgate demo                               see it work, nothing to configure
    """


def _check_host(host: str, behind_proxy: bool) -> None:
    from mcpgate.listen_settings import is_loopback

    if not behind_proxy and not is_loopback(host):
        raise fail(
            f"--host {host} is not a loopback address, and there is no authentication yet: "
            "everybody could use the server",
            "leave --host out, or add --behind-proxy where a proxy in front authenticates",
        )


# -- running


@cli.command()
@config_option
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the first HTTP listener; 0: a free one.")
@runner_option
@record_option
def serve(config: Path | None, port: int | None, runner: str | None, record: str) -> int:
    """Run the gateway that a config describes.

    Without -c it takes ./mcpgate.toml, then mcpgate/mcpgate.toml in the XDG config folder. The file is
    TOML, or the `mcpServers` JSON of an MCP client. SIGHUP reads it again.
    """
    import msgspec

    from mcpgate.program import Plan, run_plan, tell

    settings = settings_of(config)
    for warning in settings.warnings:
        tell(f"warning: {warning}")
    tell(f"config: {settings.path}")
    gateway = settings.gateway
    if port is not None:
        listeners = list(gateway.listeners)
        first = next((n for n, listener in enumerate(listeners) if listener.kind == "http"), None)
        if first is None:
            raise fail("--port: the config has no HTTP listener", 'add [[listen]] with kind = "http"')
        listeners[first] = msgspec.structs.replace(listeners[first], port=port)
        gateway = msgspec.structs.replace(gateway, listeners=tuple(listeners))
    return run_plan(
        Plan(
            gateway,
            log_file=settings.log_file,
            runner=runner or settings.runner,
            record=record,
            config_path=settings.path if port is None else None,
        )
    )


@cli.command(context_settings={"allow_interspersed_args": False})
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="0 takes a free one and prints it.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--path", default="/mcp", show_default=True, help="Path of the endpoint.")
@click.option("--behind-proxy", is_flag=True, help="Clients come through a proxy that authenticates them.")
@click.option(
    "-e", "--env", "env", multiple=True, metavar="NAME[=VALUE]", help="Give the server this variable too."
)
@era_option
@log_level_option
@runner_option
@record_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND [ARGS]...")
def run(
    port: int,
    host: str,
    path: str,
    behind_proxy: bool,
    env: tuple[str, ...],
    era: str,
    log_level: str,
    runner: str | None,
    record: str,
    command: tuple[str, ...],
) -> int:
    """Put one stdio server on HTTP, no config needed.

    The server sees a few harmless variables (HOME, PATH, LANG and such) and those given with -e.
    """
    from mcpgate.clients import fit_name
    from mcpgate.launch import CommandError, child_env, resolve_command
    from mcpgate.program import Plan, run_plan
    from mcpgate_proto.config import GatewayConfig, ListenConfig, ServerConfig
    from mcpgate_proto.relay.names import server_name_problem

    _check_host(host, behind_proxy)
    if not path.startswith("/"):
        raise fail(f"--path {path} does not begin with a slash", f"write --path /{path}")
    own = dict(item.partition("=")[::2] for item in env if "=" in item)
    whole_env = child_env((item for item in env if "=" not in item), own)
    try:
        program = resolve_command(command[0], whole_env.get("PATH"), Path.cwd())
    except CommandError as error:
        raise fail(error.problem, error.mend) from None
    server = ServerConfig(
        name=fit_name(Path(command[0]).stem, set(), server_name_problem),
        command=program,
        args=command[1:],
        env=whole_env,
        era=era,  # type: ignore[arg-type]
    )
    listener = ListenConfig(name="http", host=host, port=port, path=path, behind_proxy=behind_proxy)
    config = GatewayConfig(
        servers=(server,),
        listeners=(listener,),
        transparent=True,
        log_level=log_level,  # type: ignore[arg-type]
        version=__version__,
    )
    return run_plan(Plan(config, runner=runner or "asyncio", record=record))


@cli.command()
@click.option("--header", "-H", "headers", multiple=True, metavar="'NAME: VALUE'", help="Send this header.")
@click.option("--ca-file", type=click.Path(exists=True, dir_okay=False), help="Trust this CA instead.")
@era_option
@log_level_option
@runner_option
@record_option
@click.argument("url")
def connect(
    url: str,
    headers: tuple[str, ...],
    ca_file: str | None,
    era: str,
    log_level: str,
    runner: str | None,
    record: str,
) -> int:
    """Speak stdio to a client, and HTTP or WebSocket (wss://) to the server at URL.

    A header may refer to a secret: -H 'Authorization: Bearer ${env:TOKEN}'.
    """
    import msgspec

    from mcpgate.program import Plan, run_plan
    from mcpgate_proto.config import ListenConfig

    config = _remote(url, _headers(headers), ca_file, era)
    listeners = (ListenConfig(name="stdio", kind="stdio"),)
    config = msgspec.structs.replace(config, listeners=listeners, log_level=log_level)
    return run_plan(Plan(config, runner=runner or "asyncio", record=record))


def _headers(lines: tuple[str, ...]) -> dict[str, str]:
    from mcpgate.expand import Expander, ExpandError

    found = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            # The value is not repeated: it may be a secret.
            raise fail(f"--header {name.strip()!r} has no colon", "write it as 'Name: value'")
        try:
            found[name.strip()] = Expander(Path.cwd()).expand(value.strip())
        except ExpandError as error:
            raise fail(f"--header {name.strip()}: {error.problem}", error.mend) from None
    return found


def _remote(url: str, headers: dict[str, str], ca_file: str | None, era: str) -> GatewayConfig:
    from mcpgate.settings import SCHEMES, url_problem
    from mcpgate_proto.config import GatewayConfig, ServerConfig

    transport = "websocket" if url.startswith(("ws://", "wss://")) else "http"
    if problem := url_problem(url, SCHEMES[transport]):
        raise fail(f"the URL {problem}", "write it as https://host/path, or wss://host/path")
    server = ServerConfig(
        name="remote",
        transport=transport,  # type: ignore[arg-type]
        url=url,
        headers=headers,
        ca_file=ca_file,
        era=era,  # type: ignore[arg-type]
    )
    return GatewayConfig(servers=(server,), transparent=True, version=__version__)


@cli.command()
@click.option(
    "--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True, help="0: a free one."
)
@click.option("--check", "checking", is_flag=True, help="Perform the printed calls and compare the results.")
def demo(port: int, checking: bool) -> int:
    """Run the gateway with two small servers of its own, and print calls to copy."""
    from mcpgate import demo as parts
    from mcpgate.client import beside
    from mcpgate.program import Plan, run_plan

    if not checking:

        def ready(found: dict[str, Address]) -> None:
            click.echo(parts.lines_to_copy(found["http"]))

        return run_plan(Plan(parts.demo_config(port), ready=ready))
    differences = beside(parts.demo_config(0), lambda found: parts.check(found["http"]), {})
    for difference in differences:
        click.echo(f"mcpgate: {difference}", err=True)
    if differences:
        return EXIT_FAILURE
    click.echo("demo: the printed calls work in both eras")
    return 0


# -- looking and calling

_url = click.option("--url", help="Look at the server at this address instead of a config.")
_header = click.option("--header", "-H", "headers", multiple=True, metavar="'NAME: VALUE'", help="For --url.")


def _either(config: Path | None, url: str | None, headers: tuple[str, ...]) -> GatewayConfig:
    if url and config:
        raise fail("both -c and --url are given", "name one place to look")
    if url:
        return _remote(url, _headers(headers), None, "auto")
    return settings_of(config).gateway


def _connected(config: GatewayConfig, work: Callable[[Any], Any]) -> Any:
    from mcpgate.client import CallError, connected

    try:
        return connected(config, work)
    except CallError as error:
        raise fail(f"the gateway answered {error.code}: {error}", code=EXIT_FAILURE) from None
    except OSError as error:
        raise fail(f"the gateway could not be used: {error}", code=EXIT_FAILURE) from None


@cli.command()
@config_option
@_url
@_header
@click.option("--json", "as_json", is_flag=True, help="The whole definitions, as JSON.")
def tools(config: Path | None, url: str | None, headers: tuple[str, ...], as_json: bool) -> int:
    """List the tools that a client would see."""
    from mcpgate.client import all_tools

    found = _connected(_either(config, url, headers), lambda faces: [tool for tool, _ in all_tools(faces)])
    from mcpgate import show

    show.tools(found, as_json)
    return 0


@cli.command()
@config_option
@_url
@_header
@click.option("--json", "as_json", is_flag=True, help="The whole result, as JSON.")
@click.argument("name")
@click.argument("arguments", default="{}", metavar="[JSON]")
def call(
    config: Path | None, url: str | None, headers: tuple[str, ...], as_json: bool, name: str, arguments: str
) -> int:
    """Call the tool NAME with the arguments in JSON, an object.

    The exit code is 1 if the tool reports an error.
    """
    import json

    from mcpgate import show
    from mcpgate.client import find_tool

    try:
        values = json.loads(arguments)
    except ValueError as error:
        raise fail(f"the arguments are not JSON: {error}", """write them as '{"name": "value"}'""") from None
    if not isinstance(values, dict):
        raise fail("the arguments are not a JSON object", """write them as '{"name": "value"}'""")

    def work(faces: Any) -> Any:
        return (find_tool(faces, name) or faces[0]).call(name, values)

    result = _connected(_either(config, url, headers), work)
    show.result(result, as_json)
    return EXIT_FAILURE if result.get("isError") else 0


# -- about


@cli.command()
@config_option
def check(config: Path | None) -> int:
    """Read a config and report every problem with its file, key and mend."""
    from mcpgate.checking import advice

    settings = settings_of(config)
    warnings = [*settings.warnings, *advice(settings)]
    for warning in warnings:
        click.echo(f"warning: {warning}")
    servers = settings.gateway.servers
    enabled = sum(server.enabled for server in servers)
    counts = f"{len(servers)} server(s), {enabled} enabled, {len(warnings)} warning(s)"
    click.echo(f"{settings.path}: good; {counts}")
    return 0


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON, for reports.")
def version(as_json: bool) -> int:
    """Show the versions of mcpgate, Python and the libraries."""
    from mcpgate import show

    show.versions(as_json)
    return 0


@cli.command(hidden=True)
@click.option("--guard", is_flag=True, help="Fail if the core touches clock, randomness or files.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
def replay(file: str, guard: bool) -> int:
    """Feed a recording to the core again and compare the effects."""
    from mcpgate.journal import replay as play

    try:
        report = play(file, guard=guard)
    except ValueError as error:
        raise fail(f"{file}: {error}", "name a file that --record wrote") from None
    if report.difference:
        raise fail(f"{file}: {report.difference}", code=EXIT_FAILURE)
    click.echo(f"{file}: {report.inputs} inputs, {report.effects} effects, all equal")
    return 0
