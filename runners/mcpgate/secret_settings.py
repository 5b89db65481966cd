"""`[gateway]` keys that say what references may do, and the search for secrets that stand in the config.

Owns: `allow_inline_secrets`, `allow_commands`, `command_env`, `command_timeout_s`, `insecure_files`; the
warnings of what looks like a secret outside secret-typed keys.
Must never: repeat a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mcpgate.expand import Access, Expander, Inline
from mcpgate.inline import argv_secrets, looks_secret, suspects
from mcpgate.launch import child_env
from mcpgate.process_settings import ProcessSettings, read_processes
from mcpgate.redact import too_short
from mcpgate.tables import Problems, Table, labelled

__all__ = ["client_access", "header_problem", "read_guard", "read_headers", "warn_of_secrets"]

MOST_TIMEOUT_S = 120.0
# RFC 9110, 5.6.2 and 5.5; what a codec or a session sets is not for a config.
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
HEADER_VALUE = re.compile(r"(?:[!-~](?:[\t -~]*[!-~])?)?\Z")
OWN_HEADERS = frozenset(
    "accept accept-encoding connection content-length content-type expect host keep-alive last-event-id "
    "mcp-protocol-version mcp-session-id te trailer transfer-encoding upgrade".split()
)
IN_ARGV = "every user of this machine can read it in the list of processes"
IN_ARGV_MEND = "give it to the server in env, or in a file"
ALIKE = "looks like a secret that stands in the config as it is"
ALIKE_MEND = "write ${env:NAME} or ${file:/path}"
SHORT = "a secret has fewer than 8 characters: in logs it cannot be told from other words"


def read_guard(
    gateway: Table, problems: Problems, env: Mapping[str, str], *, insecure: bool
) -> ProcessSettings:
    """What references may do from now on, and what the `[gateway]` table says about processes. To be asked
    before anything that may hold a reference is read."""
    insecure = gateway.flag("insecure_files", False) or insecure
    processes = read_processes(gateway, problems, env, insecure=insecure)
    inline = gateway.flag("allow_inline_secrets", False)
    outer = processes.environment(env)
    gateway.expander.access = Access(
        inline=Inline.ALLOW if inline else Inline.REFUSE,
        insecure=insecure,
        commands=gateway.flag("allow_commands", False),
        command_env=child_env(gateway.texts("command_env"), None, outer),
        command_timeout_s=gateway.number("command_timeout_s", 10.0, least=0.1, most=MOST_TIMEOUT_S),
        trust=processes.trust,
    )
    return processes


def client_access(expander: Expander, *, insecure: bool) -> None:
    """For the files of MCP clients: their secrets are reported by `clients.py`, and no command is run."""
    expander.access = Access(inline=Inline.JUDGED, insecure=insecure)


def header_problem(name: str, value: str) -> str:
    """Why a request cannot carry this header, or nothing. The value is not repeated."""
    if not HEADER_NAME.match(name):
        return "is not the name of a header"
    if name.lower() in OWN_HEADERS:
        return "is a header that mcpgate sets itself"
    if not HEADER_VALUE.match(value):
        return "has a value with a line break, or with what is not ASCII"
    return ""


def read_headers(table: Table) -> dict[str, str]:
    """`headers` of a server."""
    found = table.secret_map("headers")
    for name, value in found.items():
        if problem := header_problem(name, value):
            mend = "write it as HTTP has it; a secret's file holds one line"
            table.problems.error(f"{table.key('headers')}.{name}", problem, mend)
    return found


def warn_of_secrets(values: Any, problems: Problems, expander: Expander) -> None:
    """Warn of what looks like a secret elsewhere: by itself, or by its place on a command line."""
    noted = {*problems.inline, *(problem.key for problem in (*problems.errors, *problems.warnings))}
    for path, text in suspects(values):
        # A reference may be long and look random too; sealing keys and the like were judged by their type.
        if path not in noted and looks_secret(expander.literal(text)):
            problems.warn(path, ALIKE, ALIKE_MEND)
            problems.inline.append(path)
    for path, server in _servers(values):
        args = [arg for arg in server.get("args") or () if isinstance(arg, str)]
        if len(args) == len(server.get("args") or ()):
            for number in argv_secrets(args):
                problems.warn(f"{path}.args[{number}]", IN_ARGV, IN_ARGV_MEND)
    if too_short(expander.secrets):
        problems.warn("", SHORT, "use a longer one")


def _servers(values: Any) -> list[tuple[str, dict[str, Any]]]:
    """(key path, table) of each server, in our own spelling or in that of a client."""
    if not isinstance(values, dict):
        return []
    found = labelled("server", values.get("server"))
    for key in ("mcpServers", "servers"):
        if isinstance(theirs := values.get(key), dict):
            found += [(f"{key}.{name}", one) for name, one in theirs.items()]
    return [(path, one) for path, one in found if isinstance(one, dict) and isinstance(one.get("args"), list)]
