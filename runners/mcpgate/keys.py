"""`mcpgate key`: API keys for `[[auth.key]]`.

Owns: making a key and its hash; reading one back from a file. Must never: write a key anywhere but to stdout,
take one from the command line (every user of the machine could read it there), or show it twice.
"""

from __future__ import annotations

import datetime
import re
import secrets
import sys
from pathlib import Path
from typing import Any

import click

from mcpgate.cli_parts import EXIT_USAGE, fail
from mcpgate.fd import reason_of
from mcpgate.files import open_checked
from mcpgate_proto.config import KeyConfig
from mcpgate_proto.security.keys import (
    KEY_ID,
    PREFIX,
    SALT_BYTES,
    SECRET_BYTES,
    hash_secret,
    split_key,
)

__all__ = ["key", "key_from_file"]

ID_BYTES = 4
# More than any key has.
KEY_BYTES = 1024
UNITS = {"h": 1, "d": 24, "w": 24 * 7, "y": 24 * 365}
LIFETIME = re.compile(r"([1-9][0-9]{0,4})([hdwy])")
FORM = f"{PREFIX}<id>_<secret>, as `mcpgate key new` prints it"


@click.group()
def key() -> None:
    """Make API keys for [[auth.key]]."""


_name = click.option("--name", default="", metavar="TEXT", help="What the key is for; a note in the config.")
_expires = click.option(
    "--expires", metavar="TIME", help="How long it is good, such as 12h, 90d, 2w, 1y; for ever if left out."
)


class _Remark(click.ClickException):
    """What goes wrong with `key new`, as comments: its stderr is appended to a config, which stays whole."""

    exit_code = EXIT_USAGE

    def show(self, file: Any = None) -> None:
        told = f"mcpgate: {self.message}\nno key was made"
        click.echo("".join(f"# {line}\n" for line in told.splitlines()), err=True, nl=False)


class _New(click.Command):
    def make_context(self, *args: Any, **more: Any) -> click.Context:
        try:
            return super().make_context(*args, **more)
        except click.UsageError as error:
            raise _Remark(error.format_message()) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            raise _Remark(error.format_message()) from None
        except OSError as error:  # of stdout: what could not be printed nobody has
            raise _Remark(f"cannot print the key: {reason_of(error)}") from None


@key.command(cls=_New)
@click.option("--id", "id", metavar="ID", help="Letters, digits and dashes; a random one if left out.")
@_name
@_expires
def new(id: str | None, name: str, expires: str | None) -> int:
    """Make a key: it is printed once, and the block that accepts it.

    The key goes to stdout, the block to stderr: mcpgate key new > ci.key 2>> mcpgate.toml
    """
    _check_name(name)
    if sys.stdout is None:
        raise fail("there is no stdout to print the key to", "write `mcpgate key new > FILE`")
    id = secrets.token_hex(ID_BYTES) if id is None else id
    if KEY_ID.fullmatch(id) is None:
        raise fail(f"--id {id!r} is not 1 to 32 letters, digits and dashes", "leave it out for a random one")
    until = _until(expires)
    secret = secrets.token_urlsafe(SECRET_BYTES)
    block = _block(id, secret, name, until)
    # What goes to stderr may go straight into a config.
    click.echo("# The key, which nobody can show you again:", err=True)
    click.echo(f"{PREFIX}{id}_{secret}")
    click.echo(f"\n# For the config; it holds no secret:\n{block}", err=True)
    return 0


@key.command("hash")
@_name
@_expires
def hash_(name: str, expires: str | None) -> int:
    """Read a key from stdin and print the block that accepts it."""
    _check_name(name)
    until = _until(expires)
    # Bytes, since text may refuse what is no text; there may be no stdin at all.
    line = sys.stdin.buffer.readline(KEY_BYTES) if sys.stdin is not None else b""
    found = _key_in(line)
    if found is None:
        raise fail("stdin holds no key", f"a key is {FORM}")
    click.echo(_block(*found, name, until), nl=False)
    return 0


def _key_in(data: bytes) -> tuple[str, str] | None:
    return split_key(data.decode("ascii", "replace").strip())


def _check_name(name: str) -> None:
    if not name.isprintable():
        raise fail("--name holds control characters", "write a short text")


def _until(expires: str | None) -> datetime.datetime | None:
    if expires is None:
        return None
    match = LIFETIME.fullmatch(expires)
    if match is None:
        raise fail(f"--expires {expires!r} is not a time", "write a number and h, d, w or y, such as 90d")
    hours = int(match[1]) * UNITS[match[2]]
    try:
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours)
    except OverflowError:
        raise fail(f"--expires {expires} is beyond the calendar", "leave it out for ever") from None
    return until.replace(microsecond=0)


def _block(id: str, secret: str, name: str, until: datetime.datetime | None) -> str:
    lines = ["[[auth.key]]", f'id = "{id}"']
    if name:
        # What JSON escapes is as good in TOML.
        import json

        lines.append(f"name = {json.dumps(name, ensure_ascii=False)}")
    lines.append(f'hash = "{hash_secret(secret, secrets.token_bytes(SALT_BYTES))}"')
    if until is not None:
        lines.append(f"expires = {until.isoformat().replace('+00:00', 'Z')}")
    return "\n".join(lines) + "\n"


def key_from_file(path: Path) -> KeyConfig:
    """Accept the key that a file of ours holds, which nobody else can read. Raises what `fail` makes."""
    try:
        fd, complaints = open_checked(str(path), secret=True)
        with open(fd, "rb") as file:
            data = file.read(KEY_BYTES)
    except OSError as error:
        raise fail(f"cannot read {path}: {reason_of(error)}", "correct the path or its permissions") from None
    for complaint in complaints:
        raise fail(complaint.problem, complaint.mend)
    found = _key_in(data)
    if found is None:
        raise fail(f"{path} holds no key", f"a key is {FORM}")
    id, secret = found
    return KeyConfig(id=id, hash=hash_secret(secret, secrets.token_bytes(SALT_BYTES)))
