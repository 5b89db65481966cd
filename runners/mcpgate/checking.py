"""Advice on a config that can be used but may surprise.

Owns: what `mcpgate check` says beyond errors. Must never: start or dial a server.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mcpgate.tables import Problem

if TYPE_CHECKING:
    from mcpgate.settings import Settings

__all__ = ["advice"]

# Programs that fetch what they run: what was checked yesterday is not what runs today.
LAUNCHERS = {"npx", "uvx", "bunx", "pnpx", "pipx"}
INTERPRETERS = {"python", "node", "deno", "bun", "ruby", "perl", "sh", "bash", "zsh"}
INLINE = {"-c", "-e", "--eval"}


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
        if program in LAUNCHERS:
            mend = "name a version (package@1.2.3), or install the server and run it directly"
            found.append(Problem(file, f"{key}.command", f"{program} fetches what it runs", mend))
        if INLINE & set(server.args) and program.split(".")[0].rstrip("0123456789") in INTERPRETERS:
            mend = "put the code into a file"
            found.append(Problem(file, f"{key}.args", "code on the command line is hard to review", mend))
    return found
