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
    check_text,
    command_of,
    config_option,
    era_option,
    fail,
    insecure_option,
    is_insecure,
    log_level_option,
    login_options,
    no_browser_option,
    record_option,
    root_option,
    runner_option,
    settings_of,
    step_down,
)

if TYPE_CHECKING:
    from mcpgate_proto.config import GatewayConfig
    from mcpgate_proto.effects import Address

__all__ = ["main"]

DEFAULT_PORT = 8080
# Commands in files of their own, imported when they are called for: name -> (module, attribute).
ELSEWHERE: dict[str, tuple[str, str]] = {
    "doctor": ("mcpgate.doctor", "doctor"),
    "key": ("mcpgate.keys", "key"),
    "lock": ("mcpgate.locking", "lock"),
    "login": ("mcpgate.login_cli", "login"),
    "logout": ("mcpgate.login_cli", "logout"),
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
    from mcpgate_proto.security.address import is_loopback

    if not behind_proxy and not is_loopback(host):
        raise fail(
            f"--host {host} is not a loopback address: everybody could use the server, or read what is said",
            "leave --host out, or add --behind-proxy where a proxy in front authenticates, or use "
            "`mcpgate serve` with [auth] and TLS",
        )


# -- running


@cli.command()
@config_option
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the first HTTP listener; 0: a free one.")
@runner_option
@record_option
@root_option
@no_browser_option
def serve(
    config: Path | None,
    port: int | None,
    runner: str | None,
    record: str,
    allow_root: bool,
    no_browser: bool,
) -> int:
    """Run the gateway that a config describes.

    Without -c it takes ./mcpgate.toml, then mcpgate/mcpgate.toml in the XDG config folder. The file is
    TOML, or the `mcpServers` JSON of an MCP client. SIGHUP reads it again.
    """
    import msgspec

    from mcpgate.login_cli import browse_with
    from mcpgate.program import Plan, run_plan, tell
    from mcpgate.service import Rights

    settings = settings_of(config)
    for warning in settings.warnings:
        tell(f"warning: {warning}")
    tell(f"config: {settings.path}")

    def adjusted(gateway: GatewayConfig) -> GatewayConfig:
        # Whoever started it at a terminal is there to log in.
        gateway = msgspec.structs.replace(gateway, attended=sys.stderr.isatty())
        listeners = list(gateway.listeners)
        first = next((n for n, listener in enumerate(listeners) if listener.kind == "http"), None)
        if port is None or first is None:
            return gateway
        listeners[first] = msgspec.structs.replace(listeners[first], port=port)
        return msgspec.structs.replace(gateway, listeners=tuple(listeners))

    if port is not None and not any(listener.kind == "http" for listener in settings.gateway.listeners):
        raise fail("--port: the config has no HTTP listener", 'add [[listen]] with kind = "http"')
    return run_plan(
        Plan(
            adjusted(settings.gateway),
            log_file=settings.log_file,
            runner=runner or settings.runner,
            record=record,
            settings=settings,
            adjust=adjusted,
            browse=browse_with(no_browser),
            rights=Rights(root=allow_root, insecure=is_insecure()),
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
@click.option("--host", default="localhost", show_default=True, help="Address to listen on.")
@click.option("--path", default="/mcp", show_default=True, help="Path of the endpoint.")
@click.option("--behind-proxy", is_flag=True, help="Clients come through a proxy that authenticates them.")
@click.option(
    "--auth-key-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Let in only who presents the key in FILE (mcpgate key new > FILE).",
)
@click.option(
    "-e", "--env", "env", multiple=True, metavar="NAME[=VALUE]", help="Give the server this variable too."
)
@era_option
@log_level_option
@runner_option
@record_option
@root_option
@insecure_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND [ARGS]...")
def run(
    port: int,
    host: str,
    path: str,
    behind_proxy: bool,
    auth_key_file: Path | None,
    env: tuple[str, ...],
    era: str,
    log_level: str,
    runner: str | None,
    record: str,
    allow_root: bool,
    command: tuple[str, ...],
) -> int:
    """Put one stdio server on HTTP, no config needed.

    The server sees a few harmless variables (HOME, PATH, LANG and such) and those given with -e.
    """
    from mcpgate.clients import fit_name
    from mcpgate.launch import child_env
    from mcpgate.program import Plan, run_plan
    from mcpgate.service import Rights
    from mcpgate.tables import path_problem
    from mcpgate_proto.config import AuthConfig, GatewayConfig, ListenConfig, ServerConfig
    from mcpgate_proto.relay.names import server_name_problem

    _check_host(host, behind_proxy)
    if problem := path_problem(path):
        raise fail(f"--path {problem[0]}", problem[1])
    own = dict(item.partition("=")[::2] for item in env if "=" in item)
    if "" in own:
        raise fail("--env: a variable without a name", "write it as NAME=VALUE")
    whole_env = child_env((item for item in env if "=" not in item), own)
    program = command_of(command[0], whole_env, "PATH" in own)
    server = ServerConfig(
        name=fit_name(Path(command[0]).stem, set(), server_name_problem),
        command=program,
        args=command[1:],
        env=whole_env,
        era=era,  # type: ignore[arg-type]
    )
    listener = ListenConfig(name="http", host=host, port=port, path=path, behind_proxy=behind_proxy)
    auth = AuthConfig()
    if auth_key_file is not None:
        from mcpgate.keys import key_from_file

        auth = AuthConfig(keys=(key_from_file(auth_key_file),))
    config = GatewayConfig(
        servers=(server,),
        listeners=(listener,),
        auth=auth,
        transparent=True,
        log_level=log_level,  # type: ignore[arg-type]
        version=__version__,
    )
    rights = Rights(root=allow_root)
    return run_plan(Plan(config, runner=runner or "asyncio", record=record, rights=rights))


@cli.command()
@click.option("--header", "-H", "headers", multiple=True, metavar="'NAME: VALUE'", help="Send this header.")
@click.option("--ca-file", type=click.Path(exists=True, dir_okay=False), help="Trust this CA instead.")
@era_option
@log_level_option
@runner_option
@record_option
@login_options
@click.argument("url")
def connect(
    url: str,
    headers: tuple[str, ...],
    ca_file: str | None,
    era: str,
    log_level: str,
    runner: str | None,
    record: str,
    **login: Any,
) -> int:
    """Speak stdio to a client, and HTTP or WebSocket (wss://) to the server at URL.

    A header may refer to a secret: -H 'Authorization: Bearer ${env:TOKEN}'. Without that header, a server
    that wants a login gets one: a browser opens, and the tokens are kept for the next time.
    """
    import msgspec

    from mcpgate.login_cli import browse_with
    from mcpgate.program import Plan, run_plan
    from mcpgate_proto.config import ListenConfig

    config = _remote(url, _headers(headers), ca_file, era, login)
    listeners = (ListenConfig(name="stdio", kind="stdio"),)
    config = msgspec.structs.replace(config, listeners=listeners, log_level=log_level, attended=True)
    browse = browse_with(login["no_browser"])
    return run_plan(Plan(config, runner=runner or "asyncio", record=record, browse=browse))


def _headers(lines: tuple[str, ...]) -> dict[str, str]:
    from mcpgate.expand import Expander, ExpandError
    from mcpgate.secret_settings import header_problem

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
        if problem := header_problem(name.strip(), found[name.strip()]):
            raise fail(f"--header {name.strip()!r} {problem}", "write it as HTTP has it")
    return found


def _remote(
    url: str, headers: dict[str, str], ca_file: str | None, era: str, login: dict[str, Any] | None = None
) -> GatewayConfig:
    from mcpgate.login_cli import remote_server
    from mcpgate_proto.config import GatewayConfig

    server = remote_server(url, headers, ca_file, era, login)
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
    settings = settings_of(config)
    step_down(settings)
    return settings.gateway


def _connected(config: GatewayConfig, work: Callable[[Any], Any]) -> Any:
    from mcpgate.client import CallError, connected
    from mcpgate.logs import escaped

    try:
        return connected(config, work)
    except CallError as error:
        # The words may be a server's.
        raise fail(f"the gateway answered {error.code}: {escaped(str(error))}", code=EXIT_FAILURE) from None
    except OSError as error:
        raise fail(f"the gateway could not be used: {escaped(str(error))}", code=EXIT_FAILURE) from None


@cli.command()
@config_option
@_url
@_header
@click.option("--json", "as_json", is_flag=True, help="The whole definitions, as JSON.")
def tools(config: Path | None, url: str | None, headers: tuple[str, ...], as_json: bool) -> int:
    """List the tools that a client would see."""
    from mcpgate.client import absent, all_tools

    config_of = _either(config, url, headers)
    found, missing = _connected(config_of, lambda faces: (all_tools(faces), absent(faces)))
    from mcpgate import show

    show.tools([tool for tool, _ in found], as_json)
    for name, state in missing:
        click.echo(f"mcpgate: warning: server '{name}' is {state}; its tools are not listed", err=True)
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

    check_text("NAME", name)
    check_text("JSON", arguments)
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
@click.option("--pins", is_flag=True, help="Start the servers too, and show what differs from the lock.")
def check(config: Path | None, pins: bool) -> int:
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
    if pins:
        from mcpgate.locking import report

        return report(settings)
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
