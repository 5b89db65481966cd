"""`mcpgate lock` and `mcpgate check --pins`: what servers define now, against what was approved.

Owns: the walk over the lists of all servers in both eras, the readable diff, and the command.
Must never: approve what nobody was shown, or let a definition steer the terminal.
"""

from __future__ import annotations

import difflib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcpgate.cli_parts import EXIT_FAILURE, config_option, fail, settings_of, step_down
from mcpgate.fd import reason_of
from mcpgate.lockfile import Change, Lock, LockError, differences, lock_path, read, write
from mcpgate.names import name_problems, visible
from mcpgate.tables import Problem
from mcpgate_proto.security.hidden import findings

if TYPE_CHECKING:
    from mcpgate.client import Face
    from mcpgate.settings import Settings
    from mcpgate_proto.config import GatewayConfig
    from mcpgate_proto.limits import Limits

__all__ = ["approved_oddities", "compare", "lock", "report", "survey", "told"]

# Launchers download before they speak: so long, and so often, a server is waited for that may still come.
LOOK_S = 5.0
LOOKS = 24
# A diff is for reading; a line that is longer hides the rest.
LINE_CHARS = 4000


# -- what servers define


def survey(config: GatewayConfig) -> tuple[Lock, list[str]]:
    """Every definition of the enabled servers of `config`, in each era that they have, and what could not be
    learned. Raises `ConnectionError` when a server does not answer."""
    import msgspec

    from mcpgate.client import connected
    from mcpgate_proto.security.pins import digest, pinned_part
    from mcpgate_proto.wire.jsonrpc import to_raw

    # Of what the servers define nothing may be hidden or altered here.
    plain = msgspec.structs.replace(
        config, rules=(), pins="off", hidden_text="off", transparent=False, limits=_patient(config.limits)
    )
    found = Lock()
    odd: list[str] = []

    def work(faces: list[Face]) -> None:
        for face in faces:
            for one in _definitions(face):
                part = pinned_part(one["kind"], to_raw(one["definition"]))
                if part is None or digest(part) != one["digest"]:
                    name = visible(one["name"])
                    odd.append(f"{one['server']}: the definition of {name} can be read in two ways")
                else:
                    found.add((one["server"], one["kind"], one["name"]), part, one["era"])

    connected(plain, work)
    for server in plain.servers:
        if server.enabled:
            found.servers[server.name] = None
    return found, list(dict.fromkeys(odd))


def _patient(limits: Limits) -> Limits:
    import msgspec

    return msgspec.structs.replace(limits, startup_wait_s=LOOK_S)


def _definitions(face: Face) -> list[dict[str, Any]]:
    """All tools and prompts as one kind of client finds them. Raises `ConnectionError` for a server that does
    not start, or takes too long."""
    for _ in range(LOOKS):
        for method in ("tools/list", "prompts/list"):
            face.request(method, {})  # reads all of it, however much is shown at once
        told = face.request("gateway/definitions", {})
        if not told["unread"]:
            break
        states = {one["name"]: one["state"] for one in face.request("gateway/list_servers", {})["servers"]}
        if any(states[name] == "down" for name in told["unread"]):
            break
    if told["unread"]:
        raise ConnectionError(f"no list could be read from: {', '.join(told['unread'])}")
    definitions: list[dict[str, Any]] = told["definitions"]
    return definitions


# -- for people


def told(change: Change) -> list[str]:
    """One change as lines: what it is, and a unified diff of the definitions."""
    server, kind, name = change.key
    lines = [f"{change.what}: {kind.removesuffix('s')} {visible(name)} of {server}"]
    before = [_lines(part) for part in change.before]
    after = [_lines(part) for part in change.after if part not in change.before]
    if not change.after:
        return lines
    # Where the eras of a server differ there are two of each; a new one is shown against the likest.
    for new in after:
        old = max(before, key=lambda one: difflib.SequenceMatcher(None, one, new).ratio(), default=[])
        diff = difflib.unified_diff(old, new, "approved", "now", lineterm="", n=3)
        lines += [f"  {visible(line, LINE_CHARS)}" for line in diff]
    return lines


def _lines(part: dict[str, Any]) -> list[str]:
    """A definition in lines that a person can read: texts as they are, the rest as JSON."""
    lines: list[str] = []
    for name, value in part.items():
        if isinstance(value, str):
            text = value.split("\n")
            lines += (
                [f"{name}: {text[0]}"] if len(text) == 1 else [f"{name}:", *(f"    {one}" for one in text)]
            )
        else:
            lines.append(f"{name}:")
            told = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
            lines += [f"    {one}" for one in told.split("\n")]
    return lines


def compare(settings: Settings, only: tuple[str, ...] = ()) -> tuple[Lock, Lock, list[Change]]:
    """What is approved, what the servers (or `only` those) define now, and how the two differ.

    Raises `ClickException` with the mend.
    """
    import msgspec

    approved = _approved(settings)
    config = settings.gateway
    names = [server.name for server in config.servers if server.enabled]
    for name in only:
        if name not in names:
            raise fail(
                f"--server {name}: there is no enabled server of that name", f"choose of: {', '.join(names)}"
            )
    if only:
        chosen = tuple(one for one in config.servers if one.name in only)
        config = msgspec.structs.replace(config, servers=chosen)
    try:
        found, odd = survey(config)
    except OSError as error:
        mend = "see that it can be started, or name the others with --server"
        raise fail(f"the servers could not be asked: {error}", mend, EXIT_FAILURE) from None
    for line in odd:
        click.echo(f"warning: {line}: it cannot be pinned", err=True)
    changes = differences(approved, found)
    if not only:
        known = {server.name for server in settings.gateway.servers}
        changes += _gone(approved, [name for name in approved.servers if name not in known])
    return approved, found, changes


def _approved(settings: Settings) -> Lock:
    assert settings.path is not None
    path = lock_path(settings.path)
    try:
        return read(path)[0]
    except FileNotFoundError:
        return Lock()
    except LockError as error:
        raise fail(f"{path} {error.problem}", error.mend) from None


def _gone(approved: Lock, servers: list[str]) -> list[Change]:
    """What was approved of servers that the config does not have any more."""
    gone = [(key, known) for key, known in approved.entries.items() if key[0] in servers]
    return [Change(key, "missing", [one.part for one in known], []) for key, known in gone]


def report(settings: Settings) -> int:
    """What `mcpgate check --pins` says, on stdout; the exit code."""
    assert settings.path is not None
    path = lock_path(settings.path)
    if not path.exists():
        raise fail(f"there is no {path}", "write it with `mcpgate lock`", EXIT_FAILURE)
    step_down(settings)
    _, found, changes = compare(settings)
    for problem in oddities(settings, found):
        click.echo(f"warning: {problem}")
    for change in changes:
        for line in told(change):
            click.echo(line)
    if changes:
        click.echo(f"{path}: {len(changes)} definition(s) differ; `mcpgate lock --accept` approves them")
        return EXIT_FAILURE
    click.echo(f"{path}: every definition is as it was approved")
    return 0


def oddities(settings: Settings, lock: Lock) -> list[Problem]:
    """Names that may be taken for others, and texts that hide something."""
    file = str(settings.path)
    found = []
    names = list(dict.fromkeys((server, name) for server, _, name in lock.entries))
    for server, name, problem in name_problems(names):
        mend = "see that it is what you think; [[server]] rename gives it another name, [[rule]] hides it"
        found.append(Problem(file, f"server.{server}", f"the name {visible(name)} {problem}", mend))
    for (server, _, name), known in lock.entries.items():
        for one in known:
            for odd in findings(one.part, settings.gateway.limits.description_chars):
                problem = f"{visible(name)}: {visible(odd.where)} {odd.what}"
                mend = "read it; [[rule]] hides the tool, [gateway] hidden_text hides or cleans all of them"
                found.append(Problem(file, f"server.{server}", problem, mend))
    return list(dict.fromkeys(found))


def approved_oddities(settings: Settings) -> list[Problem]:
    """The same for what the lock has, without starting anything."""
    renames = Lock()
    for server in settings.gateway.servers:
        for shown in server.rename.values():
            renames.entries[server.name, "tools", shown] = []
    try:
        lock = read(lock_path(settings.path))[0] if settings.path is not None else Lock()
    except (FileNotFoundError, LockError):
        lock = Lock()
    renames.entries |= lock.entries
    return oddities(settings, renames)


# -- the command


@click.command()
@config_option
@click.option("--server", "servers", multiple=True, metavar="NAME", help="This server only; may be repeated.")
@click.option("--accept", is_flag=True, help="Approve what has changed.")
def lock(config: Path | None, servers: tuple[str, ...], accept: bool) -> int:
    """Approve the tools and prompts that the servers define now.

    Starts every enabled server, reads its lists, and writes the definitions to the file beside the config
    that has its name, with .lock. What differs from an older lock is shown first, and taken over only with
    --accept.
    """
    settings = settings_of(config)
    assert settings.path is not None
    path = lock_path(settings.path)
    fresh = not path.exists()
    account = settings.processes.account
    if account is not None and os.geteuid() == 0:
        # The lock stands where only root may write.
        click.echo(f"warning: the servers run as root here, not as {account.name}", err=True)
        click.echo("    mend: run it as that user with a copy of the config, and install the lock", err=True)
    approved, found, changes = compare(settings, servers)
    # What is approved of a server for the first time takes nothing back.
    asked = [change for change in changes if change.key[0] in approved.servers]
    for change in asked:
        for line in told(change):
            click.echo(line)
    if asked and not accept:
        raise fail(
            f"{len(asked)} definition(s) differ from {path}; nothing was written",
            "read them, then run it again with --accept",
            EXIT_FAILURE,
        )
    for name in found.servers:
        approved.take(found, name)
    if not servers:
        known = {server.name for server in settings.gateway.servers}
        for name in [name for name in approved.servers if name not in known]:
            approved.drop(name)
    try:
        write(path, approved)
    except OSError as error:
        raise fail(f"{path} cannot be written: {reason_of(error)}", code=EXIT_FAILURE) from None
    for name in found.servers:
        counts = {
            kind: sum(key[:2] == (name, kind) for key in found.entries) for kind in ("tools", "prompts")
        }
        click.echo(f"{name}: {counts['tools']} tool(s), {counts['prompts']} prompt(s) approved")
    click.echo(f"{path}: {'written' if fresh or changes else 'unchanged'}")
    return 0
