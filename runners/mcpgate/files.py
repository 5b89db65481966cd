"""Files that decide what runs and what is sent: opened once, and judged by what was opened.

Owns: the rules for owners, modes and folders (threats.md section 0 "Config files 0600", section 5 "config
read"), the symlinks that are followed, and files of our own that nobody else may read.
Must never: judge a path and then open it again, or decide what a complaint costs: the caller does.
"""

from __future__ import annotations

import enum
import errno
import functools
import os
import re
import stat
import sys
from collections import deque
from typing import NamedTuple

from mcpgate.fd import Unusable

__all__ = [
    "ONLY_US",
    "Complaint",
    "Trust",
    "chain_complaint",
    "open_checked",
    "open_key",
    "open_private",
    "open_to_others",
    "read_most",
]

# As many as the kernel follows (path_resolution(7)).
MOST_LINKS = 40
# What whoever started us handed over: `-c <(sops -d config)` is /dev/fd/63.
HANDED = re.compile(r"/(?:dev/(?:fd/\d+|stdin|stdout|stderr)|proc/self/fd/\d+)\Z")
# macOS gives its administrators a group; they can become root anyway.
ROOT_GROUPS = (0, 80) if sys.platform == "darwin" else (0,)
OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
# A folder may let us pass and not list it; O_PATH needs neither.
OPEN_FOLDER = os.O_CLOEXEC | os.O_DIRECTORY | getattr(os, "O_PATH", os.O_RDONLY)


class Privacy(enum.Enum):
    """Who may read a file besides root and its owner."""

    NONE = "everybody"
    # A group, if the file is root's: so certificates' keys are shared between servers.
    KEY = "a group that root chose"
    # The same, if it is a group of ours: there is no other way for us to read what is root's.
    SECRET = "a group of ours that root chose"


class Complaint(NamedTuple):
    """What is unsafe about a file, and how to mend it."""

    problem: str
    mend: str


class Trust(NamedTuple):
    """Who may own and share files besides root and the user we are: the account that we are going to be."""

    uids: tuple[int, ...] = ()
    gids: tuple[int, ...] = ()

    def owner(self, uid: int) -> bool:
        return uid in (0, os.geteuid(), *self.uids)

    def shared_with_us(self, gid: int) -> bool:
        return gid in (os.getegid(), *os.getgroups(), *self.gids)


ONLY_US = Trust()


def open_checked(path: str, *, secret: bool, trust: Trust = ONLY_US) -> tuple[int, list[Complaint]]:
    """A descriptor to read `path`, and what is unsafe about it. Raises `OSError`.

    Nobody but root and we may change the file or exchange it for another; of a `secret` one, nobody else may
    read it. A symlink is followed silently only if it is root's, as in the volumes of Kubernetes.
    """
    return _opened(path, Privacy.SECRET if secret else Privacy.NONE, trust)


def open_key(path: str, trust: Trust = ONLY_US) -> tuple[int, list[Complaint]]:
    """The same for the private key of a certificate, which root may share with a group."""
    return _opened(path, Privacy.KEY, trust)


def _opened(path: str, privacy: Privacy, trust: Trust) -> tuple[int, list[Complaint]]:
    complaints: list[Complaint] = []
    if "\0" in path:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))  # no file has such a name
    if HANDED.match(path):
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC), complaints
    for _ in range(MOST_LINKS):
        try:
            # A FIFO without a writer would hold us for ever.
            fd = os.open(path, OPEN | os.O_NONBLOCK)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EMLINK):
                raise
            link = os.lstat(path)
            if link.st_uid != 0:
                mend = f"name the file itself: {os.path.realpath(path)}"
                complaints.append(Complaint(f"{path} is a symlink that is not root's", mend))
            path = os.path.join(os.path.dirname(path), os.readlink(path))
            continue
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            os.close(fd)
            raise Unusable("it is not a file")
        complaints += _file_complaints(path, found, privacy, trust)
        complaints += _folder_complaints(os.path.dirname(path) or ".", trust)
        return fd, complaints
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def _file_complaints(path: str, found: os.stat_result, privacy: Privacy, trust: Trust) -> list[Complaint]:
    if not trust.owner(found.st_uid):
        return [Complaint(f"{path} belongs to {_user(found.st_uid)}", f"chown it to root or {_self()}")]
    mode = stat.S_IMODE(found.st_mode)
    if privacy is not Privacy.NONE and mode & 0o077:
        # What is root's can only be read by others through a group; ssl-cert is one.
        shared = found.st_uid == 0 and found.st_gid != 0 and mode & 0o077 == 0o040
        if not (shared and (privacy is Privacy.KEY or trust.shared_with_us(found.st_gid))):
            doing = "change" if mode & 0o022 else "read"
            return [Complaint(f"other users can {doing} {path} (mode {mode:04o})", f"chmod 600 {path}")]
    if open_to_others(found):
        return [Complaint(f"other users can change {path} (mode {mode:04o})", f"chmod go-w {path}")]
    return []


def _folder_complaints(path: str, trust: Trust) -> list[Complaint]:
    folder = os.open(path, OPEN_FOLDER)
    try:
        found = os.fstat(folder)
    finally:
        os.close(folder)
    complaint = _shared_folder(path, found, trust)
    return [complaint] if complaint is not None else []


def _shared_folder(path: str, found: os.stat_result, trust: Trust) -> Complaint | None:
    if not trust.owner(found.st_uid):
        mend = f"move it to a folder of your own, or chown {path}"
        return Complaint(f"the folder {path} belongs to {_user(found.st_uid)}", mend)
    # In a sticky folder others can add files, but not exchange ours.
    if open_to_others(found) and not found.st_mode & stat.S_ISVTX:
        return Complaint(f"other users can exchange files in the folder {path}", f"chmod go-w {path}")
    return None


def open_to_others(found: os.stat_result) -> bool:
    """Others than its owner, root and we can write to it."""
    if found.st_mode & stat.S_IWOTH:
        return True
    return bool(found.st_mode & stat.S_IWGRP) and not _nobody_else_in(found.st_gid, found.st_uid)


@functools.lru_cache(maxsize=64)
def _nobody_else_in(gid: int, uid: int) -> bool:
    """The group has no member but root, us and `uid`, the owner: the group of one user, or an empty one."""
    import grp
    import pwd

    if gid in ROOT_GROUPS:
        return True
    trusted = {0, os.geteuid(), uid}
    try:
        named = grp.getgrgid(gid).gr_mem
    except KeyError:
        return False
    users = {user.pw_name: user for user in pwd.getpwall()}
    members = [users[name].pw_uid if name in users else -1 for name in named]
    members += [user.pw_uid for user in users.values() if user.pw_gid == gid]
    return trusted.issuperset(members)


def chain_complaint(path: str, trust: Trust = ONLY_US) -> Complaint | None:
    """How another user could change what `path`, an absolute one, stands for: by the file, by a folder on the
    way, or by those on the way of a symlink."""
    done, links = "/", 0
    todo = deque(path.split("/"))
    while todo:
        part = todo.popleft()
        if part == "..":
            done = os.path.dirname(done)
        here = os.path.join(done, part)
        if part in ("", ".", ".."):
            continue
        try:
            found = os.lstat(here)
            if stat.S_ISLNK(found.st_mode):
                links += 1
                target = os.readlink(here)
                if links > MOST_LINKS:
                    return None  # The kernel will say so.
                if not trust.owner(found.st_uid):
                    return Complaint(f"{here} belongs to {_user(found.st_uid)}", "name a file of your own")
                done = "/" if target.startswith("/") else done
                todo.extendleft(reversed(target.split("/")))
                continue
        except OSError:
            return None  # What cannot be seen cannot be run either.
        folder = stat.S_ISDIR(found.st_mode)
        complaints = [_shared_folder(here, found, trust)] if folder else []
        complaints += [] if folder else _file_complaints(here, found, Privacy.NONE, trust)
        if complaints and complaints[0] is not None:
            return complaints[0]
        done = here
    return None


def open_private(path: str, flags: int, most_mode: int = 0o640) -> int:
    """A descriptor to write a file that only its owner may read; made if there is none. Raises `OSError`.

    Of an existing one's mode, `most_mode` is what may stay: of a log, a group's right to read. Devices and
    pipes stay as they are.
    """
    follow = 0 if HANDED.match(path) else os.O_NOFOLLOW
    fd = os.open(path, flags | os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | follow, 0o600)
    try:
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode) and not HANDED.match(path):
            if found.st_uid != os.geteuid():
                raise Unusable(f"it belongs to {_user(found.st_uid)}")
            if stat.S_IMODE(found.st_mode) & ~most_mode:
                os.fchmod(fd, found.st_mode & most_mode | 0o600)
    except BaseException:
        os.close(fd)
        raise
    return fd


def read_most(fd: int, most: int) -> bytes:
    """What `fd` gives until its end, one byte more than `most` at the most. Closes it. Raises `OSError`."""
    with open(fd, "rb") as file:
        return file.read(most + 1)


def _user(uid: int) -> str:
    import pwd

    try:
        return f"the user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"the user {uid}"


def _self() -> str:
    return _user(os.geteuid()).removeprefix("the user ")
