"""Results on stdout, for people on a terminal and for programs behind a pipe.

Owns: tables, plain lines and JSON. Must never: let text of a server steer the terminal, or colour a pipe.
"""

from __future__ import annotations

import json
import platform
import sys
from typing import Any

import click

from mcpgate import __version__
from mcpgate.logs import escaped

__all__ = ["result", "tools", "versions"]

LIBRARIES = ("anyio", "click", "cryptography", "h11", "msgspec", "wsproto", "curio", "trio", "uvloop")
TEXT_CHARS = 1_000_000


def _json(value: Any) -> None:
    if not sys.stdout.isatty():
        click.echo(json.dumps(value, indent=2))
    else:
        # Readable in any script; what JSON lets pass may steer a terminal all the same (C1, bidi).
        click.echo(_harmless(json.dumps(value, indent=2, ensure_ascii=False)))


def _harmless(text: str) -> str:
    return "\n".join(escaped(line, TEXT_CHARS) for line in text.split("\n"))


def tools(found: list[dict[str, Any]], as_json: bool) -> None:
    """Name and first line of each tool, or all of it."""
    if as_json:
        return _json(found)
    rows = [(escaped(str(tool.get("name"))), _summary(tool)) for tool in found]
    if not sys.stdout.isatty():
        for name, summary in rows:
            click.echo(f"{name}\t{summary}")
        return None
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=True, header_style="bold", box=None, pad_edge=False)
    table.add_column("tool", no_wrap=True)
    table.add_column("what it does")
    for name, summary in rows:
        table.add_row(Text(name, style="cyan"), Text(summary))
    Console().print(table if rows else "no tools")
    return None


def _summary(tool: dict[str, Any]) -> str:
    text = str(tool.get("description") or tool.get("title") or "").strip()
    return escaped(text.split("\n", 1)[0], 200)


def result(value: dict[str, Any], as_json: bool) -> None:
    """The texts of a tool's result as they are, other parts as JSON."""
    if as_json or not isinstance(value.get("content"), list):
        return _json(value)
    for part in value["content"]:
        if isinstance(part, dict) and part.get("type") == "text":
            text = str(part.get("text", ""))
            click.echo(_harmless(text) if sys.stdout.isatty() else text)
        else:
            _json(part)
    if value.get("structuredContent") is not None and not value["content"]:
        _json(value["structuredContent"])
    return None


def versions(as_json: bool) -> None:
    """What belongs into a report."""
    import ssl
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as version_of

    found: dict[str, str | None] = {"mcpgate": __version__, "python": platform.python_version()}
    found["platform"] = platform.platform()
    found["openssl"] = ssl.OPENSSL_VERSION
    for name in LIBRARIES:
        try:
            found[name] = version_of(name)
        except PackageNotFoundError:
            found[name] = None
    if as_json:
        return _json(found)
    for name, value in found.items():
        click.echo(f"{name:<13} {value or 'not installed'}")
    return None
