"""What a child may see and which file is run: decided once, when settings are read.

Owns: the environment allow-list and the resolution of a command to an absolute path.
Must never: pass on a variable that is neither on the list nor asked for, or leave a name for later.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = ["CommandError", "child_env", "resolve_command"]

# What programs need to find themselves, their user and their language; nothing that could be a secret.
ALLOWED = ("HOME", "PATH", "LANG", "TMPDIR", "USER", "LOGNAME", "SHELL", "TERM")
ALLOWED_PREFIX = "LC_"


class CommandError(ValueError):
    """A command that cannot be run: `problem` names it, `mend` says what to do."""

    def __init__(self, problem: str, mend: str) -> None:
        super().__init__(f"{problem} ({mend})")
        self.problem = problem
        self.mend = mend


def child_env(
    pass_env: Iterable[str] = (), own: Mapping[str, str] | None = None, outer: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The whole environment of a child: the allow-list and `pass_env` from `outer`, then `own` over them."""
    outer = os.environ if outer is None else outer
    wanted = {*ALLOWED, *pass_env}
    env = {k: v for k, v in sorted(outer.items()) if k in wanted or k.startswith(ALLOWED_PREFIX)}
    env.update(own or {})
    return env


def resolve_command(command: str, path: str | None, base: Path) -> str:
    """The absolute path of `command`; one with a slash is taken from `base`. Raises `CommandError`."""
    if not command:
        raise CommandError("no command is given", "name the program that runs the server")
    expanded = os.path.expanduser(command)
    if "/" in expanded:
        full = Path(expanded) if os.path.isabs(expanded) else base / expanded
        if not full.exists():
            raise CommandError(f"there is no file {full}", "correct the path, or install the server")
        if full.is_dir():
            raise CommandError(f"{full} is a folder", "name the program itself")
        if not os.access(full, os.X_OK):
            raise CommandError(f"{full} is not executable", f"chmod +x {full}, or run it by its interpreter")
        # Not resolved through symlinks: environments and multi-call programs go by the name they were called.
        return os.path.abspath(full)
    found = shutil.which(expanded, path=path)
    if found is None:
        raise CommandError(
            f"there is no command {command!r} on the PATH",
            "install it, or write its absolute path",
        )
    return os.path.abspath(found)
