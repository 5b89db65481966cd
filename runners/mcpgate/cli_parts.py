"""What the commands share: how errors are told, and the options that several of them have.

Owns: `fail` and the exceptions behind it, `settings_of` a config, `step_down` from root, the common options.
Must never: hold a command; import what one command alone needs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mcpgate.settings import Settings
    from mcpgate.tables import Problem

__all__ = [
    "EXIT_FAILURE",
    "EXIT_INTERRUPTED",
    "EXIT_USAGE",
    "RUNNERS",
    "check_text",
    "command_of",
    "config_option",
    "era_option",
    "fail",
    "insecure_option",
    "is_insecure",
    "log_level_option",
    "login_options",
    "no_browser_option",
    "record_option",
    "root_option",
    "runner_option",
    "settings_of",
    "step_down",
]

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
RUNNERS = ("asyncio", "trio", "curio", "blocking")
# Where the context of a command keeps that `--insecure-config` was given.
INSECURE = "mcpgate.insecure"
LEVELS = ("debug", "info", "notice", "warning", "error")


class _Refused(click.ClickException):
    """What was asked for cannot be done as asked."""

    exit_code = EXIT_USAGE

    def show(self, file: Any = None) -> None:
        click.echo(f"mcpgate: {self.message}", err=True)


class _Failed(_Refused):
    """It was tried, and did not work."""

    exit_code = EXIT_FAILURE


def fail(text: str, mend: str = "", code: int = EXIT_USAGE) -> click.ClickException:
    """What to raise: `text` says what is wrong, `mend` what to do."""
    whole = f"{text}\n    mend: {mend}" if mend else text
    return _Refused(whole) if code == EXIT_USAGE else _Failed(whole)


def _refused(problems: list[Problem]) -> click.ClickException:
    return fail(f"{len(problems)} problem(s) in the config\n" + "\n".join(f"  {p}" for p in problems))


def settings_of(path: Path | None) -> Settings:
    """The settings in the file at `path`, or in the first of the usual places."""
    from mcpgate.settings import SettingsError, find_config, load

    try:
        return load(path or find_config(), insecure=is_insecure())
    except SettingsError as error:
        problems: list[Problem] = error.problems
        raise _refused(problems) from None


def check_text(told: str, text: str) -> None:
    """`text`, which `told` gave, is UTF-8; a shell passes on what is not. Nothing else goes to a server."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise fail(
            f"{told} is not UTF-8", "write it in UTF-8, as the terminal of most systems does"
        ) from None


def command_of(given: str, env: dict[str, str], own_path: bool) -> str:
    """`given` as an absolute path. `env["PATH"]` is searched, and gets its folder unless it is `own_path`."""
    import os

    from mcpgate.process_settings import INSECURE_MEND, ProcessSettings
    from mcpgate.tables import Problems

    path = env.get("PATH", "")
    problems = Problems("")
    processes = ProcessSettings(insecure=is_insecure(), outer_path=os.environ.get("PATH", ""))
    found = processes.command("", given, env, Path.cwd(), problems, True)
    for problem in problems.errors:
        raise fail(problem.problem, problem.mend.replace(INSECURE_MEND, "add --insecure-config"))
    for problem in problems.warnings:
        click.echo(f"mcpgate: warning: {problem.problem}\n    mend: {problem.mend}", err=True)
    if own_path:
        env["PATH"] = path
    return found


record_option = click.option(
    "--record", metavar="FILE", default="", help="Record the run, for `mcpgate replay` (holds secrets)."
)
root_option = click.option("--allow-root", is_flag=True, help="Serve other machines as root all the same.")


def _note_insecure(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    context.meta[INSECURE] = value


insecure_option = click.option(
    "--insecure-config",
    is_flag=True,
    expose_value=False,
    callback=_note_insecure,
    help="Use a config, secrets and commands that other users can read or change.",
)


def is_insecure() -> bool:
    """`--insecure-config` was given."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(INSECURE))


runner_option = click.option(
    "--runner",
    type=click.Choice(RUNNERS),
    help="What carries the connections; asyncio if nothing is said.",
)
_LOGIN_OPTIONS = (
    click.option("--client-id", metavar="ID", help="For a login: the client that was registered by hand."),
    click.option("--client-secret", metavar="SECRET", help="Its secret, as '${env:NAME}'."),
    click.option("--issuer", metavar="URL", help="Whose secret that is: its authorization server."),
    click.option("--client-metadata-url", metavar="URL", help="A client id metadata document of yours."),
    click.option("--scope", "scopes", multiple=True, help="Ask for this scope, not for the usual ones."),
    click.option(
        "--callback-port", type=click.IntRange(0, 65535), default=0, help="Where the browser comes back to."
    ),
    click.option("--allow-plain-http", is_flag=True, help="Let plain http leave this machine."),
)
no_browser_option = click.option(
    "--no-browser", is_flag=True, help="Print the address to log in at; open nothing."
)


def login_options(command: Any) -> Any:
    """How a client is known to an authorization server, where there is no config to say so."""
    command = no_browser_option(command)
    for option in reversed(_LOGIN_OPTIONS):
        command = option(command)
    return command


_config_option = click.option(
    "-c", "--config", "config", metavar="FILE", type=click.Path(path_type=Path), help="The config file."
)


def config_option(command: Any) -> Any:
    """`-c`, and what goes with reading a config."""
    return _config_option(insecure_option(command))


log_level_option = click.option(
    "--log-level", type=click.Choice(LEVELS), default="info", show_default=True, help="Least level to log."
)
era_option = click.option(
    "--era",
    type=click.Choice(["auto", "legacy", "modern"]),
    default="auto",
    show_default=True,
    help="What the server speaks: found out, up to 2025-11-25, or 2026-07-28.",
)


def step_down(settings: Settings) -> None:
    """Where root runs a command that starts servers: be `[gateway] user` first, as the gateway is."""
    from mcpgate.privileges import PrivilegeError, become

    account = settings.processes.account
    if account is not None and os.geteuid() == 0:
        try:
            become(account)
        except PrivilegeError as error:
            raise fail(str(error), code=EXIT_FAILURE) from None
