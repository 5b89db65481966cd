"""What a child may see and which file is run: decided once, when settings are read.

Owns: the environment allow-list, the folders where commands are looked for, the resolution of a command to
an absolute path, and who else could change what runs (threats.md section 0 "Command validation", "Path
safety").
Must never: pass on a variable that is neither on the list nor asked for, leave a name for later, or look for
a command in a folder that another user can write to.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from mcpgate.files import ONLY_US, Complaint, Trust, chain_complaint

__all__ = [
    "CommandError",
    "beside",
    "child_env",
    "command_complaint",
    "is_variable",
    "resolve_command",
    "safe_path",
]

# What programs need to find themselves, their user and their language; nothing that could be a secret.
ALLOWED = ("HOME", "PATH", "LANG", "TMPDIR", "USER", "LOGNAME", "SHELL", "TERM")
ALLOWED_PREFIX = "LC_"
# What a service manager says to one process (sd_listen_fds(3), sd_notify(3)): never passed on.
OURS_ONLY = {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"}
# Where nothing better is known (confstr's _CS_PATH, and what an administrator installs).
PLAIN_PATH = "/usr/local/bin:/usr/bin:/bin"


class CommandError(ValueError):
    """A command that cannot be run: `problem` names it, `mend` says what to do."""

    def __init__(self, problem: str, mend: str) -> None:
        super().__init__(f"{problem} ({mend})")
        self.problem = problem
        self.mend = mend


def safe_path(path: str | None, trust: Trust = ONLY_US) -> str:
    """The folders of `path` that nobody else can write to, without relative ones. They are where commands
    are looked for, and the `PATH` of children."""
    folders = dict.fromkeys(folder for folder in (path or "").split(os.pathsep) if os.path.isabs(folder))
    good = [folder for folder in folders if chain_complaint(folder, trust) is None]
    return os.pathsep.join(good) or PLAIN_PATH


def beside(command: str, path: str) -> str:
    """`path` with the folder of `command` in front, unless it is on it: `npx` looks for its `node` there."""
    folder = os.path.dirname(command)
    folders = path.split(os.pathsep)
    return path if not os.path.isabs(folder) or folder in folders else os.pathsep.join((folder, *folders))


def is_variable(name: str) -> bool:
    """A process can have a variable of this name (environ(7))."""
    return bool(name) and "=" not in name and "\0" not in name


def child_env(
    pass_env: Iterable[str] = (), own: Mapping[str, str] | None = None, outer: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The whole environment of a child: the allow-list and `pass_env` from `outer`, then `own` over them.

    Of `PATH` it gets the folders that are safe."""
    outer = os.environ if outer is None else outer
    wanted = {*ALLOWED, *pass_env} - OURS_ONLY
    env = {k: v for k, v in sorted(outer.items()) if k in wanted or k.startswith(ALLOWED_PREFIX)}
    env["PATH"] = safe_path(env.get("PATH"))
    env.update(own or {})
    return env


def command_complaint(command: str, trust: Trust = ONLY_US) -> Complaint | None:
    """Who else could change what runs as `command`, an absolute path. It may do all that we may."""
    return chain_complaint(command, trust)


def resolve_command(command: str, path: str | None, base: Path) -> str:
    """The absolute path of `command`; one with a slash is taken from `base`. Raises `CommandError`."""
    if not command:
        raise CommandError("no command is given", "name the program that runs the server")
    expanded = os.path.expanduser(command)
    if "/" in expanded:
        full = Path(expanded) if os.path.isabs(expanded) else base / expanded
        if not os.path.exists(full):
            raise CommandError(f"there is no file {full}", "correct the path, or install the server")
        if os.path.isdir(full):
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
