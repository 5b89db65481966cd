"""Unix sockets to listen on, made so that nobody else can come in, be shut out, or be robbed of a file.

Owns: the checks of the folder, the lock beside the socket, removal of what a killed gateway left, the mode,
and removal at the end.
Must never: follow a symlink at the socket's place, remove anything but a socket of our own, or change the
umask (it belongs to the whole process).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator

from mcpgate.fd import BACKLOG, Unusable, check_unix_path
from mcpgate.files import open_to_others

__all__ = ["BoundPath", "open_listener"]


class BoundPath:
    """A socket's place in the file system, while we hold it."""

    def __init__(self, folder: int, name: str, lock: int) -> None:
        self._folder = folder
        self._name = name
        self._lock = lock
        self.identity: tuple[int, int] | None = None

    def remove(self) -> None:
        """Remove the socket if it is still the one that was bound, and give the place up."""
        with contextlib.suppress(OSError):
            found = _lstat(self._folder, self._name)
            if found is not None and (found.st_dev, found.st_ino) == self.identity:
                os.unlink(self._name, dir_fd=self._folder)
        # Whoever waits for the lock looks whether the file is still the one at its name: see `_locked`.
        with contextlib.suppress(OSError):
            os.unlink(_lock_name(self._name), dir_fd=self._folder)
        os.close(self._lock)
        os.close(self._folder)


def open_listener(path: str, mode: int, uid: int = -1, gid: int = -1) -> tuple[socket.socket, BoundPath]:
    """Bind and listen at `path`, non-blocking, and give the socket to `uid` and `gid` (-1: not at all).

    Raises `OSError`; ours (`Unusable`) say what is wrong."""
    check_unix_path(path)
    with contextlib.ExitStack() as undo:
        folder = _folder(os.path.dirname(os.path.abspath(path)))
        undo.callback(os.close, folder)
        name = os.path.basename(path)
        lock = _locked(folder, name, path)
        undo.pop_all()
        bound = BoundPath(folder, name, lock)
        undo.callback(bound.remove)
        _clear(folder, name, path, {os.geteuid(), uid})
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        undo.callback(sock.close)
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            # On Linux the file is born with the mode of the descriptor; elsewhere nobody can connect
            # before `listen`, and the mode is set by then.
            os.fchmod(sock.fileno(), mode)
        sock.bind(path)
        found = _lstat(folder, name)
        if found is None or not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
            raise Unusable(f"{path} was changed while it was being made")
        bound.identity = (found.st_dev, found.st_ino)
        # The umask may have taken bits away that were asked for.
        os.chmod(name, mode, dir_fd=folder)
        if (uid, gid) != (-1, -1):
            os.chown(name, uid, gid, dir_fd=folder, follow_symlinks=False)
        sock.listen(BACKLOG)
        undo.pop_all()
    return sock, bound


def _folder(path: str) -> int:
    """The folder, opened, after the check that nobody else can exchange files in it."""
    with contextlib.suppress(FileNotFoundError, FileExistsError):
        if not os.path.exists(path):
            # Only the last step; a longer way that is missing is a slip in the path.
            os.mkdir(path, 0o700)
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Unusable(f"there is no folder {path}") from None
    found = os.fstat(folder)
    problem = ""
    if found.st_uid not in (0, os.geteuid()):
        problem = "belongs to another user"
    elif open_to_others(found) and not found.st_mode & stat.S_ISVTX:
        problem = f"can be written by {'everybody' if found.st_mode & stat.S_IWOTH else 'its group'}"
    if problem:
        os.close(folder)
        raise Unusable(f"the folder {path} {problem}, who could put another socket in its place")
    return folder


def _lstat(folder: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _lock_name(name: str) -> str:
    return f"{name}.lock"


def _locked(folder: int, name: str, path: str) -> int:
    """The lock beside the socket: with it, a socket that nobody answers on was left behind."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    for _ in range(10):
        try:
            lock = os.open(_lock_name(name), flags, 0o600, dir_fd=folder)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise Unusable(f"{path}.lock is a symlink") from None
            raise
        with _closing_on_error(lock):
            opened = os.fstat(lock)
            if not stat.S_ISREG(opened.st_mode) or opened.st_uid != os.geteuid():
                raise Unusable(f"{path}.lock belongs to somebody else")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)) from None
            there = _lstat(folder, _lock_name(name))
            if there is not None and (there.st_dev, there.st_ino) == (opened.st_dev, opened.st_ino):
                return lock
        # Its last holder removed it in between.
        os.close(lock)
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


@contextlib.contextmanager
def _closing_on_error(fd: int) -> Iterator[None]:
    try:
        yield
    except BaseException:
        os.close(fd)
        raise


def _clear(folder: int, name: str, path: str, owners: set[int]) -> None:
    """Remove a socket that was left behind, under the lock. Anything else there is a reason to stop."""
    found = _lstat(folder, name)
    if found is None:
        return
    if stat.S_ISLNK(found.st_mode):
        raise Unusable(f"{path} is a symlink")
    if not stat.S_ISSOCK(found.st_mode):
        raise Unusable(f"{path} is a file, not a socket")
    if found.st_uid not in owners:
        raise Unusable(f"{path} is a socket of another user")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        if probe.connect_ex(path) != errno.ECONNREFUSED:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    os.unlink(name, dir_fd=folder)
