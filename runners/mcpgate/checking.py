"""Advice on a config that can be used but may surprise.

Owns: what `mcpgate check` says beyond errors. Must never: start or dial a server.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from mcpgate.locking import approved_oddities
from mcpgate.tables import Problem

if TYPE_CHECKING:
    from mcpgate.settings import Settings

__all__ = ["advice"]

# Programs that fetch what they run: what was checked yesterday is not what runs today.
LAUNCHERS = {"npx", "uvx", "bunx", "pnpx", "pipx"}
# ... unless one version is named: `package@1.2.3`, `package==1.2.3`.
PINNED = re.compile(r"[^@=]+(?:@|==)v?\d")
PACKAGE_OPTIONS = ("--package", "-p", "--from", "--spec")
# Interpreters, and the letters of options that take code.
INLINE = {"python": "c", "sh": "c", "bash": "c", "dash": "c", "zsh": "c"}
INLINE |= {"node": "ep", "deno": "", "bun": "ep", "ruby": "e", "perl": "eE"}
# Options of these that take a word, which is no code.
WITH_WORD = {"python": ("-W", "-X"), "node": ("-r",), "bun": ("-r",), "ruby": ("-r", "-I"), "perl": ("-I",)}


def advice(settings: Settings) -> list[Problem]:
    """Warnings, in the order of the config."""
    file = str(settings.path)
    config = settings.gateway
    found = []
    enabled = [server for server in config.servers if server.enabled]
    if len(config.servers) == 1 and config.prefix == "auto":
        found.append(
            Problem(
                file,
                "gateway.prefix",
                "with one server names have no prefix; a second server would change them",
                'write prefix = "always" or "never"',
            )
        )
    for server in enabled:
        key = f"server.{server.name}"
        program = os.path.basename(server.command)
        if program in LAUNCHERS and not _names_version(server.args):
            mend = "name a version (package@1.2.3), or install the server and run it directly"
            found.append(Problem(file, f"{key}.command", f"{program} fetches what it runs", mend))
        if _has_code(program, server.args):
            mend = "put the code into a file"
            found.append(Problem(file, f"{key}.args", "code on the command line is hard to review", mend))
    found += approved_oddities(settings)
    return found


def _names_version(args: tuple[str, ...]) -> bool:
    """What a launcher is to fetch is one version of a package: of the one that is named, or of the first."""
    words = list(args)
    for number, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in PACKAGE_OPTIONS:
            package = value if equals else "".join(words[number + 1 : number + 2])
            return PINNED.match(package.lstrip("@")) is not None
    plain = [word for word in words if not word.startswith("-") and word != "run"]
    return bool(plain) and PINNED.match(plain[0].lstrip("@")) is not None


def _has_code(program: str, args: tuple[str, ...]) -> bool:
    """An interpreter gets its program on the command line, not from a file."""
    kind = program.split(".")[0].rstrip("0123456789")
    if kind not in INLINE:
        return False
    words = iter(args)
    for word in words:
        if not word.startswith("-"):
            return kind == "deno" and word == "eval"
        if word.startswith("--"):
            if word.split("=")[0] in ("--eval", "--print"):
                return True
        elif word in WITH_WORD.get(kind, ()):
            next(words, None)
        elif word[:2] not in WITH_WORD.get(kind, ()) and set(word[1:]) & set(INLINE[kind]):
            return True
    return False
