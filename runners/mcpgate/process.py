"""Children: starting, signalling and reaping them, each with all that it started in turn.

Owns: one process group (and session) per child, the pin of what is executed, resource limits, and the hunt
for descendants that left the group.
Must never: run anything in the forked child before exec (threads may hold locks), use a shell, pass on a
descriptor or a variable that was not asked for, or reap a process that is not its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

from mcpgate.fd import PipeStream, reason_of
from mcpgate_proto.effects import ProcessLimits, Spawn

__all__ = ["Child", "SpawnError", "become_subreaper", "end_elsewhere", "reap_adopted", "spawn"]

PR_SET_CHILD_SUBREAPER = 36
# Processes that others in this program have started and collect themselves: not adopted ones. The lock is
# held from before their start until they are in the list.
ELSEWHERE: set[int] = set()
ELSEWHERE_LOCK = threading.Lock()
# Between fork and the server's own code: sets limits, then becomes the server. `resource` is not safe to use
# between fork and exec when there are threads, so a fresh interpreter does it. LC_CTYPE is what Python adds
# to the environment of a C locale; a child must see the environment that it was given.
LIMITER = """
import os, resource as r, sys
memory, files, cpu, keep_ctype, command, *rest = sys.argv[1:]
for what, value in ((r.RLIMIT_AS, memory), (r.RLIMIT_NOFILE, files), (r.RLIMIT_CPU, cpu)):
    if value:
        soft = int(value)
        hard = r.getrlimit(what)[1]
        soft = soft if hard == r.RLIM_INFINITY else min(soft, hard)
        r.setrlimit(what, (soft, soft))
if not keep_ctype:
    os.environ.pop("LC_CTYPE", None)
os.execv(command, rest)
"""


class SpawnError(Exception):
    """Why a child could not be started, in words for the log."""


class Child:
    """A running child. `pid` leads its group and session until it is reaped."""

    def __init__(self, popen: subprocess.Popen[bytes], stream: PipeStream, stderr_fd: int) -> None:
        self.popen = popen
        self.pid = popen.pid
        self.stream = stream
        self.stderr_fd = stderr_fd
        self.status: int | None = None
        self.pidfd = _open_pidfd(self.pid)
        self._seen: dict[int, str] = {}

    def signal(self, number: int) -> None:
        """Signal the group, and every descendant that has left it."""
        if self.status is not None:
            return
        self.note_descendants()
        _kill_group(self.pid, number)
        for pid in self._strays():
            _kill(pid, number)

    def note_descendants(self) -> None:
        """Remember who descends from the child now; once their parents are gone, nothing shows it."""
        table = _process_table()
        family = {self.pid}
        grown = True
        while grown:
            grown = False
            for pid, (parent, _, _) in table.items():
                if parent in family and pid not in family:
                    family.add(pid)
                    grown = True
        for pid, (_, session, started) in table.items():
            if pid != self.pid and (pid in family or session == self.pid):
                self._seen[pid] = started

    def _strays(self) -> list[int]:
        """Noted descendants that still run. A number that was given to another process does not count."""
        if not self._seen:
            return []
        table = _process_table()
        return [pid for pid, started in self._seen.items() if pid in table and table[pid][2] == started]

    def reap(self) -> int:
        """The child has ended: end what it left behind, then collect it. Returns its status."""
        if self.status is None:
            # While the child is a zombie its number is taken, so these can hit nobody else.
            for pid, (_, session, started) in _process_table().items():
                if session == self.pid and pid != self.pid:
                    self._seen[pid] = started
            _kill_group(self.pid, signal.SIGKILL)
            for pid in self._strays():
                _kill(pid, signal.SIGKILL)
            self.status = self.popen.wait()
            self._close_pidfd()
        return self.status

    def wait_ended(self) -> None:
        """Block until the child has ended, without collecting it where the system can do that."""
        try:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        except (AttributeError, OSError):
            self.popen.wait()

    def close(self) -> None:
        """Kill, collect, and close every descriptor: for the end of the runner."""
        self.signal(signal.SIGKILL)
        self.reap()
        self.stream.close()
        self.close_stderr()

    def close_stderr(self) -> None:
        fd, self.stderr_fd = self.stderr_fd, -1
        if fd >= 0:
            os.close(fd)

    def _close_pidfd(self) -> None:
        fd, self.pidfd = self.pidfd, -1
        if fd >= 0:
            os.close(fd)


def spawn(effect: Spawn) -> Child:
    """Start `effect.argv` with exactly `effect.env`. Raises `SpawnError`."""
    command = effect.argv[0]
    argv = list(effect.argv)
    pinned = -1
    pipes: _Pipes | None = None
    popen: subprocess.Popen[bytes] | None = None
    try:
        executable = command
        if effect.pin:
            pinned = _open_pinned(command, effect.pin)
            executable = _path_of(pinned, command)
        if effect.limits is not None:
            if not os.access(executable, os.X_OK):
                raise SpawnError(f"cannot start {command}: not executable")
            argv = _limited(effect.limits, executable, argv, effect.env)
            executable = sys.executable
        pipes = _Pipes()
        popen = subprocess.Popen(
            argv,
            executable=executable,
            stdin=pipes.theirs[0],
            stdout=pipes.theirs[1],
            stderr=pipes.theirs[2],
            cwd=effect.cwd,
            env=effect.env,
            close_fds=True,
            # Interpreters of scripts open the pinned file by the number that exec was given.
            pass_fds=(pinned,) if pinned >= 0 and executable != command else (),
            start_new_session=True,
        )
    except OSError as error:
        what = effect.cwd if effect.cwd and error.filename == effect.cwd else command
        raise SpawnError(f"cannot start {what}: {reason_of(error)}") from error
    except ValueError as error:
        raise SpawnError(f"cannot start {command}: a NUL byte in its command line or environment") from error
    finally:
        if pinned >= 0:
            os.close(pinned)
        if pipes is not None and popen is None:
            pipes.close()
    assert pipes is not None
    return pipes.adopted(popen)


class _Pipes:
    """The three pipes of a child. All that can fail for want of descriptors comes before the fork."""

    def __init__(self) -> None:
        self._open: list[int] = []
        try:
            for _ in range(3):
                self._open += os.pipe()
        except OSError:
            self.close()
            raise
        (stdin, self._write), (self._read, stdout), (self._error, stderr) = zip(
            self._open[::2], self._open[1::2], strict=True
        )
        self.theirs = (stdin, stdout, stderr)

    def close(self) -> None:
        for end in self._open:
            os.close(end)

    def adopted(self, popen: subprocess.Popen[bytes]) -> Child:
        for end in self.theirs:
            os.close(end)
        os.set_blocking(self._error, False)
        return Child(popen, PipeStream(self._read, self._write), self._error)


def _open_pinned(command: str, pin: str) -> int:
    """Open the file, and check what was opened, not what the path may name a moment later."""
    wanted = pin.removeprefix("sha256:").lower()
    try:
        fd = os.open(command, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SpawnError(f"cannot read {command} to check its pin: {reason_of(error)}") from error
    with open(fd, "rb", closefd=False) as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wanted:
        os.close(fd)
        raise SpawnError(f"{command} is not the pinned file: its sha256 is {found}")
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _path_of(fd: int, command: str) -> str:
    """The opened file's own path. Without /proc the path is used again: a weaker check."""
    path = f"/proc/self/fd/{fd}"
    return path if os.path.exists(path) else command


def _limited(limits: ProcessLimits, executable: str, argv: list[str], env: dict[str, str]) -> list[str]:
    values = (limits.memory_bytes, limits.open_files, limits.cpu_seconds)
    texts = ["" if value is None else str(value) for value in values]
    keep_ctype = "1" if "LC_CTYPE" in env else ""
    return [sys.executable, "-I", "-S", "-c", LIMITER, *texts, keep_ctype, executable, *argv]


def _open_pidfd(pid: int) -> int:
    """A descriptor that becomes readable when the child ends, or -1 where there is none."""
    opener = getattr(os, "pidfd_open", None)
    if opener is None:
        return -1
    try:
        return int(opener(pid))
    except OSError:
        return -1


def _kill_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        # Nobody is left, or (macOS) only a zombie is.
        pass


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _process_table() -> dict[int, tuple[int, int, str]]:
    """pid -> (parent, session, start time). Empty where there is no /proc."""
    table: dict[int, tuple[int, int, str]] = {}
    try:
        names = os.listdir("/proc")
    except OSError:
        return table
    for name in names:
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                # The name, in parentheses, may hold anything; what follows its last ")" is fields 3 and on.
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if fields and fields[0] != b"Z":
            table[int(name)] = (int(fields[1]), int(fields[3]), fields[19].decode())
    return table


def become_subreaper() -> bool:
    """Ask that descendants whose parents die become our children, so that they can be found and ended.

    For a process that is nothing but the gateway: it changes whose children they are for the whole process.
    """
    if sys.platform != "linux":
        return False
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        return bool(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def end_elsewhere() -> None:
    """End what others in this program have started and still wait for: nobody will."""
    with ELSEWHERE_LOCK:
        for pid in ELSEWHERE:
            _kill_group(pid, signal.SIGKILL)


def reap_adopted(own: set[int], *, kill: bool) -> None:
    """Collect adopted processes that have ended; with `kill`, end the others first. `own` are not touched."""
    give_up = time.monotonic() + 2.0
    while True:
        with ELSEWHERE_LOCK:
            table = _process_table()
            ours = own | ELSEWHERE
            adopted = [pid for pid in table if table[pid][0] == os.getpid() and pid not in ours]
            if kill:
                for pid in adopted:
                    _kill(pid, signal.SIGKILL)
            _collect(ours)
        if not kill or not adopted or time.monotonic() > give_up:
            return
        time.sleep(0.005)


def _collect(own: set[int]) -> None:
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in own:
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if fields and fields[0] == b"Z" and int(fields[1]) == os.getpid():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(int(name), os.WNOHANG)
