"""What the process may do, made less: before the first client comes, and for good.

Owns: the change from root to another user (threats.md section 0, "not root"), the refusal to serve other
machines as root, and what protects secrets in memory (section 5, "core dumps, ptrace").
Must never: go on with more rights than it was told to, or change anything before the listeners are bound.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from mcpgate.auth_settings import is_networked
from mcpgate.process_settings import Account
from mcpgate_proto.config import ListenConfig

__all__ = ["PrivilegeError", "become", "forbid_new_privileges", "hide_memory", "root_problem", "unreadable"]

# prctl(2).
PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 4, 38
# What is imported later, and the interpreter that ends what a killed gateway leaves.
NEEDED = (os.__file__, __file__)


class PrivilegeError(Exception):
    """The process could not be made what it was told to be: it must not go on."""


def root_problem(listeners: Iterable[ListenConfig], account: Account | None) -> tuple[str, bool]:
    """What is to be said of a start as root, or nothing; and whether other machines could come in."""
    if os.geteuid() != 0 or account is not None:
        return "", False
    for one in filter(is_networked, listeners):
        return f"listener {one.name}: other machines could reach a gateway that runs as root", True
    if any(one.kind != "stdio" for one in listeners):
        return "it runs as root, and so does every server that it starts", False
    return "", False


def become(account: Account) -> None:
    """Be `account` from now on, in all threads, without a way back. Raises `PrivilegeError`.

    Whoever is that user already must have no more rights than it; but for root, nobody else can become it.
    """
    if os.geteuid() == account.uid and os.getuid() == account.uid:
        _verify(account)
        return
    if os.geteuid() != 0:
        raise PrivilegeError(f"only root can become {account.name}; start it as root, or as {account.name}")
    try:
        os.setgroups(list(account.groups))
        os.setgid(account.gid)
        os.setuid(account.uid)
    except OSError as error:
        raise PrivilegeError(f"cannot become {account.name}: {(error.strerror or '').lower()}") from None
    _verify(account)
    for file in NEEDED:
        if not os.access(file, os.R_OK):
            raise PrivilegeError(f"{account.name} cannot read {file}; install Python where every user can")
    # Paths with `~` and the children's defaults are the new user's when settings are read again.
    os.environ.update(USER=account.name, LOGNAME=account.name, HOME=account.home, SHELL=account.shell)


def unreadable(account: Account, files: Iterable[str] = NEEDED, top: Path | None = None) -> str:
    """The first of `files` that `account` will not be able to read, going by owners and modes (of what is
    below `top`, where that is given); or nothing."""
    for file in files:
        path = Path(file).resolve()
        for place in (path, *path.parents):
            if place == top:
                break
            try:
                found = place.stat()
            except OSError:
                return file
            if found.st_uid == account.uid:
                mode = found.st_mode >> 6
            else:
                mode = found.st_mode >> 3 if found.st_gid in account.groups else found.st_mode
            if not mode & (4 if place is path else 1):
                return file
    return ""


def _verify(account: Account) -> None:
    """Trust no call that says it worked, a container's rules may have made it something else; nor whoever
    started us as that user."""
    name = account.name
    if {os.getuid(), os.geteuid()} != {account.uid}:
        raise PrivilegeError(f"it did not become {name}")
    if {os.getgid(), os.getegid()} != {account.gid} or set(os.getgroups()) - set(account.groups):
        mend = f"start it as root, or with the groups of {name} only"
        raise PrivilegeError(f"it runs as {name} with other groups than {name} has; {mend}")
    back: tuple[Callable[[int], None], ...] = (os.setuid, os.seteuid, os.setgid, os.setegid)
    for call in back:
        if _works(call, 0):
            raise PrivilegeError(f"it runs as {name}, but could become root again")
    if _effective_capabilities():
        raise PrivilegeError(f"it runs as {name}, but with capabilities of root; start it without them")


def _works(call: Callable[[int], None], number: int) -> bool:
    try:
        call(number)
    except OSError:  # where there are namespaces of users, not only for want of permission
        return False
    return True


def _effective_capabilities() -> int:
    try:
        with open("/proc/self/status", "rb") as file:
            for line in file:
                if line.startswith(b"CapEff:"):
                    return int(line.split()[1], 16)
    except OSError:
        pass
    return 0


def hide_memory() -> None:
    """Secrets are in memory: leave no core, and let no other process of this user read them. Children start
    with what they set themselves; the limit on cores they inherit."""
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    _prctl(PR_SET_DUMPABLE, 0)


def forbid_new_privileges() -> bool:
    """No program that is started from here gains rights (setuid, file capabilities); false where the system
    has no such thing. For the main thread, before any other is started."""
    return _prctl(PR_SET_NO_NEW_PRIVS, 1)


def _prctl(what: int, value: int) -> bool:
    if sys.platform != "linux":
        return False
    try:
        return bool(ctypes.CDLL(None, use_errno=True).prctl(what, value, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False
