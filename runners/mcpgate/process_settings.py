"""`[gateway]` keys about processes: which commands may run, as whom, and with which `PATH`.

Owns: `strict_commands`, `allowed_commands`, `path`, `user`, `group`, `no_new_privs`.
Must never: change anything about the process; `privileges.py` does.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from mcpgate.accounts import find_group, find_user
from mcpgate.files import Trust, chain_complaint
from mcpgate.launch import CommandError, beside, command_complaint, resolve_command, safe_path
from mcpgate.tables import Problems, Table
from mcpgate_proto.config import ListenConfig

__all__ = ["INSECURE_MEND", "Account", "ProcessSettings", "read_processes"]

INSECURE_MEND = "set [gateway] insecure_files = true"


@dataclass(frozen=True)
class Account:
    """Whom the gateway becomes once its listeners are bound."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    shell: str


@dataclass(frozen=True)
class ProcessSettings:
    """How the gateway and its children run."""

    account: Account | None = None
    no_new_privs: bool = False
    strict: bool = False
    allowed: tuple[str, ...] = ()
    # The configured `PATH`; none: the safe part of the gateway's own.
    path: str = ""
    outer_path: str = ""
    insecure: bool = False

    @property
    def trust(self) -> Trust:
        account = self.account
        return Trust() if account is None else Trust((account.uid,), account.groups)

    def environment(self, env: Mapping[str, str]) -> dict[str, str]:
        """`env` as children are to see it: with the folders that are searched, and the user that they are."""
        found = {**env, "PATH": self.path or safe_path(env.get("PATH"), self.trust)}
        if (account := self.account) is not None:
            found |= {"USER": account.name, "LOGNAME": account.name}
            found |= {"HOME": account.home, "SHELL": account.shell}
        return found

    def owned(self, listener: ListenConfig) -> ListenConfig:
        """`listener` with its socket given to the account, so that this user's programs can connect."""
        account = self.account
        if account is None or not listener.socket_path or listener.fd or listener.socket_uid != -1:
            return listener
        gid = account.gid if listener.socket_gid == -1 else listener.socket_gid
        return msgspec.structs.replace(listener, socket_uid=account.uid, socket_gid=gid)

    def command(
        self, key: str, given: str, env: dict[str, str], base: Path, problems: Problems, enabled: bool
    ) -> str:
        """`given` as an absolute path, with what is wrong with it noted; `env["PATH"]` gets its folder."""
        # A server that is switched off may well not be installed.
        note = problems.error if enabled else problems.warn
        try:
            found = resolve_command(given, env.get("PATH"), base)
        except CommandError as error:
            unsafe = shutil.which(given, path=self.outer_path) if "/" not in given and given else None
            complaint = command_complaint(os.path.abspath(unsafe), self.trust) if unsafe else None
            if complaint is not None:
                note(key, f"{unsafe} is not used: {complaint.problem}", complaint.mend)
            else:
                note(key, error.problem, error.mend)
            return given
        if self.strict and not os.path.isabs(given) and not {given, found} & set(self.allowed):
            mend = f"write {found!r}, or add {given!r} to [gateway] allowed_commands"
            note(key, "is not an absolute path, and strict_commands is set", mend)
        complaint = command_complaint(found, self.trust)
        if complaint is not None and (self.insecure or not enabled):
            problems.warn(key, complaint.problem, complaint.mend)
        elif complaint is not None:
            problems.error(key, complaint.problem, f"{complaint.mend}; or {INSECURE_MEND}")
        env["PATH"] = beside(found, env["PATH"]) if env.get("PATH") else env.get("PATH", "")
        return found


def read_processes(
    gateway: Table, problems: Problems, env: Mapping[str, str], *, insecure: bool
) -> ProcessSettings:
    """The keys of the `[gateway]` table that are about processes."""
    account = _account(gateway, problems)
    found = ProcessSettings(
        account=account,
        no_new_privs=gateway.flag("no_new_privs", False),
        strict=gateway.flag("strict_commands", False),
        allowed=gateway.texts("allowed_commands"),
        insecure=insecure,
        outer_path=env.get("PATH", ""),
    )
    return replace(found, path=_path(gateway, problems, found))


def _path(gateway: Table, problems: Problems, processes: ProcessSettings) -> str:
    folders = []
    for number, folder in enumerate(gateway.texts("path")):
        key = f"{gateway.key('path')}[{number}]"
        full = os.path.expanduser(folder)
        if not os.path.isabs(full):
            problems.error(key, "is not an absolute path", f"write {os.path.abspath(full)!r}")
            continue
        complaint = chain_complaint(full, processes.trust)
        if complaint is not None and not processes.insecure:
            problems.error(key, complaint.problem, f"{complaint.mend}; or {INSECURE_MEND}")
            continue
        if complaint is not None:
            problems.warn(key, complaint.problem, complaint.mend)
        folders.append(full)
    return os.pathsep.join(folders)


def _account(gateway: Table, problems: Problems) -> Account | None:
    """The user (and group) to become."""
    user, group = gateway.text("user"), gateway.text("group")
    if group and not user:
        problems.error(gateway.key("group"), "goes with a user", "write user too")
    if not user:
        return None
    found = find_user(user)
    if found is None:
        mend = "name a user of this system; useradd --system makes one"
        problems.error(gateway.key("user"), f"there is no user {user!r}", mend)
        return None
    gid = found.pw_gid
    if group:
        if (known := find_group(group)) is not None:
            gid = known.gr_gid
        else:
            problems.error(
                gateway.key("group"), f"there is no group {group!r}", "name a group of this system"
            )
    if found.pw_uid == 0:
        problems.error(gateway.key("user"), "is root itself", "name a user of its own for the gateway")
        return None
    groups = tuple(sorted({gid, *os.getgrouplist(found.pw_name, gid)}))
    return Account(found.pw_name, found.pw_uid, gid, groups, found.pw_dir, found.pw_shell or "/bin/sh")
