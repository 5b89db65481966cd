"""Where logins are kept between runs: one file for each, readable by its owner only.

Owns: the folder ($XDG_STATE_HOME/mcpgate/logins) and its files, the checks on what was opened, replacement in
one step, the locks by which several processes do a thing once.
Must never: know what a record holds; read a file that another user can read or could have written; follow a
symlink inside the folder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

__all__ = ["TokenStore", "Unsafe", "default_folder"]

NAME = re.compile(r"[a-z0-9-]{1,64}")
# A record is a few KiB: clients and tokens of one server.
RECORD_BYTES = 1024 * 1024
FILE_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Unsafe(OSError):
    """Somebody else can read or change what is kept here. The text names the mend."""

    def __init__(self, path: str, problem: str, mend: str) -> None:
        super().__init__(errno.EPERM, f"{path} {problem}; {mend}")


def default_folder(env: Mapping[str, str] | None = None) -> Path:
    """Where logins are kept unless somebody says otherwise."""
    env = os.environ if env is None else env
    state = env.get("XDG_STATE_HOME", "")
    base = Path(state) if os.path.isabs(state) else Path(os.path.expanduser("~/.local/state"))
    return base / "mcpgate" / "logins"


class TokenStore:
    """The records in one folder. Every method raises `OSError` (of which `Unsafe` is one)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._locks: dict[str, int] = {}

    def _open_folder(self) -> int:
        """A descriptor of the folder; it is made if there is none."""
        folder = self.folder
        if not folder.is_dir():
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o700)
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _check(os.fstat(opened), str(folder), "chmod 700")
        except OSError:
            os.close(opened)
            raise
        return opened

    # -- locks

    def lock(self, name: str) -> bool:
        """Take the lock of a record. False while another process has it, or this one has already."""
        if name in self._locks:
            return False
        folder = self._open_folder()
        try:
            fd = _locked(f"{_proper(name)}.lock", folder)
        finally:
            os.close(folder)
        if fd is not None:
            self._locks[name] = fd
        return fd is not None

    def unlock(self, name: str) -> None:
        """Let the lock go; of a record that there is not, nothing stays behind."""
        fd = self._locks.pop(name, None)
        if fd is None:
            return
        with contextlib.suppress(OSError):
            folder = self._open_folder()
            try:
                if not os.path.exists(self.folder / f"{name}.json"):
                    # Whoever waits for it notices: see `_locked`.
                    os.unlink(f"{name}.lock", dir_fd=folder)
            finally:
                os.close(folder)
        os.close(fd)

    def close(self) -> None:
        for name in list(self._locks):
            self.unlock(name)

    # -- records

    def read(self, name: str) -> bytes:
        """A record, or nothing where there is none."""
        folder = self._open_folder()
        try:
            path = f"{_proper(name)}.json"
            fd = os.open(path, os.O_RDONLY | FILE_FLAGS, dir_fd=folder)
        except FileNotFoundError:
            return b""
        finally:
            os.close(folder)
        with open(fd, "rb") as file:
            _check(os.fstat(fd), str(self.folder / path), "chmod 600, or remove it and log in again")
            data = file.read(RECORD_BYTES + 1)
        if len(data) > RECORD_BYTES:
            raise Unsafe(str(self.folder / path), "is no record", "remove it and log in again")
        return data

    def write(self, name: str, data: bytes) -> None:
        """Put a record in place of what was there, in one step; an empty one removes it."""
        folder = self._open_folder()
        try:
            path = f"{_proper(name)}.json"
            if not data:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path, dir_fd=folder)
                return
            made = f"{name}.new-{os.getpid()}"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(made, dir_fd=folder)
            fd = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | FILE_FLAGS, 0o600, dir_fd=folder)
            with open(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(fd)
            os.rename(made, path, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)
        finally:
            os.close(folder)

    def names(self) -> list[str]:
        """The records that there are."""
        folder = self._open_folder()
        try:
            found = os.listdir(folder)
        finally:
            os.close(folder)
        return sorted(one.removesuffix(".json") for one in found if one.endswith(".json"))


def _locked(path: str, folder: int) -> int | None:
    """A descriptor with the lock at `path`; None while another process has it, or just removed it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | FILE_FLAGS, 0o600, dir_fd=folder)
    try:
        found = os.fstat(fd)
        if found.st_nlink:
            _check(found, path, "remove it")
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A lock on a file that is no longer there locks nobody out.
        if os.path.samestat(os.fstat(fd), os.stat(path, dir_fd=folder, follow_symlinks=False)):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _proper(name: str) -> str:
    if NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is no name of a record")
    return name


def _check(found: os.stat_result, path: str, mend: str) -> None:
    """Ours alone, and what it should be; judged on what was opened, never on the path."""
    if found.st_uid != os.geteuid():
        raise Unsafe(path, "belongs to another user", "log in as yourself, or set XDG_STATE_HOME")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise Unsafe(path, f"is open to other users (mode {stat.S_IMODE(found.st_mode):04o})", mend)
    if not (stat.S_ISDIR(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink == 1)):
        raise Unsafe(path, "is not a file of its own", "remove it")
