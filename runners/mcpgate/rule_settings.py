"""What may be called: `[[rule]]` tables, the short form of them in `[[server]]`, and pins.

Owns: the meaning of these keys, and the warnings for rules that cannot mean what they say.
Must never: take a rule that is half understood, or a lock that may have been changed by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from mcpgate.lockfile import LockError, lock_path, read
from mcpgate.tables import Problems, Table, labelled
from mcpgate_proto.config import Names, Pin, RuleConfig
from mcpgate_proto.security.globs import Glob

__all__ = ["HIDDEN", "SERVER_KEYS", "PinSettings", "read_pins", "read_rules"]

# Filters of one server, in its own table.
SERVER_KEYS = ("tools", "prompts", "resources")
Mode = Literal["off", "report", "block"]
MODES: tuple[Mode, ...] = ("off", "report", "block")
# What becomes of text in definitions that people do not see.
HIDDEN = ("off", "report", "strip", "block")
# How the ids of principals begin, and those that are whole (security/principal.py).
PRINCIPALS = ("key:", "jwt:", "unix:", "cert:")
WHOLE = ("local", "anonymous")


@dataclass(frozen=True)
class PinSettings:
    """What is pinned, and what becomes of the rest."""

    mode: Mode = "off"
    pinned: tuple[Pin, ...] = ()


def read_pins(gateway: Table | None, problems: Problems, path: Path, *, insecure: bool) -> PinSettings:
    """`[gateway] pins`, and the lock of the config at `path`. Without the key, definitions are reported where
    there is a lock."""
    mode = gateway.text("pins", "", MODES) if gateway is not None else ""
    if mode == "off":
        return PinSettings()
    place = lock_path(path)
    try:
        lock, complaints = read(place)
    except FileNotFoundError:
        if mode:
            # With "block" nothing is approved, so nothing is let through; but `mcpgate lock` has to start.
            problems.warn("gateway.pins", f"there is no {place}", "write it with `mcpgate lock`")
        return PinSettings(cast(Mode, mode or "off"))
    except LockError as error:
        problems.error("gateway.pins", f"{place} {error.problem}", error.mend)
        return PinSettings()
    for problem, mend in complaints:
        (problems.warn if insecure else problems.error)("gateway.pins", problem, mend)
    return PinSettings(cast(Mode, mode or "report"), lock.pins())


def read_rules(root: Table, problems: Problems) -> tuple[RuleConfig, ...]:
    """All rules of a config: those in the tables of servers first, then `[[rule]]`; each in its order."""
    told = labelled("server", root.values.get("server"))
    servers = [(path, value) for path, value in told if isinstance(value, dict)]
    names = [str(value.get("name")) for _, value in servers]
    found = []
    for path, value in servers:
        if any(key in value for key in SERVER_KEYS):
            # A server's name holds no character that is special in a glob.
            table = Table(value, path, problems, root.expander)
            found.append(RuleConfig(servers=(str(value.get("name")),), **_filters(table, names)))
    for path, value in root.each("rule", ""):
        found.append(_rule(Table(value, path, problems, root.expander), names))
    return tuple(found)


def _rule(table: Table, servers: Sequence[str]) -> RuleConfig:
    rule = RuleConfig(
        principals=_some(table, "principals"),
        except_principals=table.texts("except_principals"),
        servers=_some(table, "servers"),
        **_filters(table, servers),
        rename=table.text_map("rename"),
        arguments=_arguments(table),
        only_tools=_some(table, "only_tools"),
    )
    table.finish()
    if not set(table.values) & {*SERVER_KEYS, "rename", "arguments"}:
        mend = "add tools, prompts, resources, rename or arguments"
        table.problems.error(table.path, "says nothing", mend)
    if "only_tools" in table.values and not rule.arguments:
        mend = "write tools = { allow = [...] } to let only some tools through"
        table.problems.error(table.key("only_tools"), "goes with arguments", mend)
    for glob in rule.servers:
        if not any(Glob(glob).matches(server) for server in servers):
            mend = f"the servers are: {', '.join(servers)}"
            table.problems.warn(table.key("servers"), f"{glob!r} fits no server", mend)
    for key in ("principals", "except_principals"):
        for text in getattr(rule, key):
            if not (text in WHOLE or text.startswith((*PRINCIPALS, "*", "?"))):
                mend = "ids are: local, anonymous, key:ID, jwt:ISSUER#SUBJECT, unix:UID, cert:SUBJECT"
                table.problems.warn(table.key(key), f"{text!r} fits nobody", mend)
    return rule


def _some(table: Table, name: str) -> tuple[str, ...]:
    """Globs of which there has to be one; `*` where the key is missing."""
    if name not in table.values:
        table.known.append(name)
        return ("*",)
    found = table.texts(name)
    if not found and isinstance(table.values[name], list):
        table.problems.error(
            table.key(name), "is empty: the rule would never apply", "remove the key or the rule"
        )
    return found


def _filters(table: Table, servers: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Names | None] = {}
    for key in SERVER_KEYS:
        table.known.append(key)
        found[key] = None
        if key in table.values:
            names = found[key] = _names(table, key)
            for glob in (*(names.allow or ()), *names.deny):
                prefix = glob.partition("__")[0]
                if "__" in glob and prefix in servers and key != "resources":
                    mend = f"things are named as their server names them: {glob.partition('__')[2]!r}"
                    table.problems.warn(table.key(key), f"{glob!r} begins with the prefix of a server", mend)
    return found


def _names(table: Table, key: str) -> Names:
    told = Table(table.values[key], table.key(key), table.problems, table.expander)
    allow = told.texts("allow") if "allow" in told.values else None
    found = Names(allow=allow, deny=told.texts("deny"))
    told.known.append("allow")
    told.finish()
    if isinstance(table.values[key], dict) and not table.values[key]:
        told.problems.error(told.path, "says nothing", 'write { allow = ["..."] } or { deny = ["..."] }')
    return found


def _arguments(table: Table) -> dict[str, Names]:
    values = table.any_map("arguments")
    told = Table(values, table.key("arguments"), table.problems, table.expander)
    return {name: _names(told, name) for name in values}
