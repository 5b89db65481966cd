"""The server lists of MCP clients: `mcpServers` (Claude, Cursor, others) and `servers` (VS Code), in JSON.

Owns: what their keys mean here, and names that fit.
Must never: refuse a file for keys that only its client uses.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from mcpgate.expand import ExpandError
from mcpgate.inline import is_harmless, is_secret_name
from mcpgate.tables import Problems, Table

__all__ = ["fit_name", "server_tables"]

# `type` as clients write it -> our transport.
TYPES = {
    "stdio": "stdio",
    "local": "stdio",
    "http": "http",
    "streamable-http": "http",
    "streamableHttp": "http",
    "streamable_http": "http",
    "remote": "http",
    "sse": "sse",
    "ws": "websocket",
    "websocket": "websocket",
}
# Read from a client's entry; all else there is the client's own business.
KEYS = ("command", "args", "env", "cwd", "url", "headers")


def fit_name(name: str, taken: set[str], problem_of: Callable[[str], str | None]) -> str:
    """A valid server name as near to `name` as can be, and not in `taken`."""
    fitted = re.sub(r"_{2,}", "_", re.sub(r"[^A-Za-z0-9_.-]+", "-", name)).strip("_-.")[:32].strip("_-.")
    if not fitted or problem_of(fitted) is not None:
        fitted = "server"
    unique, number = fitted, 2
    while unique in taken:
        unique = f"{fitted[:28]}-{number}"
        number += 1
    return unique


def server_tables(
    root: Table, problems: Problems, problem_of: Callable[[str], str | None]
) -> list[tuple[str, dict[str, Any]]]:
    """(key path, entry as a `[[server]]` table would have it) of each server of a client's file."""
    key = "mcpServers" if "mcpServers" in root.values else "servers"
    entries = root.values.get(key)
    if not isinstance(entries, dict):
        problems.error(key, "is not a table of servers", 'write {"mcpServers": {"name": {"command": "..."}}}')
        return []
    found: list[tuple[str, dict[str, Any]]] = []
    taken: set[str] = set()
    for name, entry in entries.items():
        path = f"{key}.{name}"
        if not isinstance(entry, dict):
            problems.error(path, "is not a table", 'write {"command": "...", "args": []}')
            continue
        shown = fit_name(name, taken, problem_of)
        if shown != name:
            problems.warn(path, "the name does not fit and was changed", f"it is called {shown!r} here")
        taken.add(shown)
        found.append((path, _server(shown, path, entry, root, problems)))
    return found


def _server(name: str, path: str, entry: dict[str, Any], root: Table, problems: Problems) -> dict[str, Any]:
    server: dict[str, Any] = {"name": name}
    for key in KEYS:
        if key in ("env", "headers") and isinstance(entry.get(key), dict):
            _report_inline(entry[key], f"{path}.{key}", root, problems)
        if entry.get(key) is not None:
            server[key] = _expanded(entry[key], f"{path}.{key}", root, problems)
    if entry.get("envFile") is not None:
        mend = "write its variables in env, as ${env:NAME} or ${file:/path}"
        problems.warn(f"{path}.envFile", "is not read here: the server lacks its variables", mend)
    kind = entry.get("type", entry.get("transport"))
    if kind is None:
        server["transport"] = "http" if "url" in entry and "command" not in entry else "stdio"
    elif isinstance(kind, str) and kind in TYPES:
        server["transport"] = TYPES[kind]
    else:
        problems.error(f"{path}.type", f"{kind!r} is not known", "write stdio or http")
    if entry.get("disabled") is True or entry.get("enabled") is False:
        server["enabled"] = False
    return server


def _report_inline(values: dict[str, Any], where: str, root: Table, problems: Problems) -> None:
    """The client put the secret there, so that is no error; but whoever reads the file has it."""
    for name, value in values.items():
        secret = isinstance(value, str) and is_secret_name(str(name)) and not is_harmless(value)
        if secret and not root.expander.is_client_reference(value):
            problems.inline.append(f"{where}.{name}")
            mend = "write ${NAME}, and set that variable"
            problems.warn(f"{where}.{name}", "holds a secret as it is", mend)


def _expanded(value: Any, where: str, root: Table, problems: Problems) -> Any:
    """Expand the clients' spelling of references; what comes out is shielded from a second expansion."""
    if isinstance(value, str):
        try:
            return root.expander.expand_client(value).replace("${", "$${")
        except ExpandError as error:
            problems.error(where, error.problem, error.mend)
            return ""
        finally:
            root.take_complaints(where)
    if isinstance(value, list):
        return [_expanded(item, f"{where}[{n}]", root, problems) for n, item in enumerate(value)]
    if isinstance(value, dict):
        return {key: _expanded(item, f"{where}.{key}", root, problems) for key, item in value.items()}
    # Clients take numbers in `env`; ours are texts.
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
