"""What the commands share: how errors are told, and the options that several of them have.

Owns: `fail` and the exceptions behind it, `settings_of` a config, the common options.
Must never: hold a command; import what one command alone needs.
"""

from __future__ import annotations

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
    "config_option",
    "era_option",
    "fail",
    "log_level_option",
    "record_option",
    "runner_option",
    "settings_of",
]

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
RUNNERS = ("asyncio", "trio", "curio", "blocking")
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
        return load(path or find_config())
    except SettingsError as error:
        problems: list[Problem] = error.problems
        raise _refused(problems) from None


record_option = click.option(
    "--record", metavar="FILE", default="", help="Record the run, for `mcpgate replay` (holds secrets)."
)
runner_option = click.option(
    "--runner",
    type=click.Choice(RUNNERS),
    help="What carries the connections; asyncio if nothing is said.",
)
config_option = click.option(
    "-c", "--config", "config", metavar="FILE", type=click.Path(path_type=Path), help="The config file."
)
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
