"""Where secrets come from: files, systemd's credentials, and commands that print them.

Owns: reading each of them with its checks (threats.md section 0, "Sensitive data", "Secrets management").
Must never: put a value, or what a command printed, into a message; use a shell; give a command more of the
environment than it was granted; hand on an empty text as a secret.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from mcpgate.fd import reason_of
from mcpgate.files import ONLY_US, Complaint, Trust, open_checked, read_most

__all__ = ["ExpandError", "command_line", "command_output", "credential", "file_text"]

# A secret, not a document.
MOST_BYTES = 64 * 1024
# How long a killed command may take to be gone.
KILL_WAIT_S = 5.0
# How to mend what a command does.
PRINT_IT = "have it print the value and nothing else"
SLOW = "make it faster, or raise [gateway] command_timeout_s"


class ExpandError(ValueError):
    """A reference that cannot be resolved. `mend` says what to do."""

    def __init__(self, problem: str, mend: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.mend = mend


def file_text(path: str, trust: Trust = ONLY_US) -> tuple[str, list[Complaint]]:
    """The text of the file, and what is unsafe about it. Raises `ExpandError`."""
    try:
        fd, complaints = open_checked(path, secret=True, trust=trust)
        data = read_most(fd, MOST_BYTES)
    except OSError as error:
        mend = "correct the path or its permissions"
        raise ExpandError(f"cannot read {path}: {reason_of(error)}", mend) from error
    return _text(data, path, "put only the value into it"), complaints


def credential(name: str, env: Mapping[str, str]) -> str:
    """What systemd's `LoadCredential=` or `SetCredential=` gave under `name`. Raises `ExpandError`."""
    folder = env.get("CREDENTIALS_DIRECTORY", "")
    if not os.path.isabs(folder):
        raise ExpandError(
            f"${{cred:{name}}}: CREDENTIALS_DIRECTORY is not set",
            "start it as a systemd unit with LoadCredential=, or write ${file:/path}",
        )
    if not name or "/" in name or name in (".", ".."):
        raise ExpandError(f"${{cred:{name}}} is not the name of a credential", "write the unit's name for it")
    path = os.path.join(folder, name)
    try:
        # The folder is systemd's own; it shows our right to read as a group's (an access control list).
        data = read_most(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), MOST_BYTES)
    except OSError as error:
        raise ExpandError(
            f"cannot read the credential {name}: {reason_of(error)}",
            f"add LoadCredential={name}:/path to the unit",
        ) from error
    return _text(data, f"the credential {name}", "put only the value into it")


def _text(data: bytes, what: str, mend: str) -> str:
    if len(data) > MOST_BYTES:
        raise ExpandError(f"{what} is longer than {MOST_BYTES} bytes", mend)
    try:
        # Editors and secret stores end files with a newline; a header or token never has one.
        text = data.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ExpandError(f"{what} is not UTF-8 text", "write the value as text") from error
    if not text:
        raise ExpandError(f"{what} is empty", mend)
    if "\0" in text:
        raise ExpandError(f"{what} holds a NUL byte", "write the value as text")
    return text


def command_line(
    text: str, env: Mapping[str, str], base: Path, trust: Trust = ONLY_US
) -> tuple[list[str], list[Complaint]]:
    """`text` as words, the first an absolute path, and what is unsafe about it. Raises `ExpandError`.

    It is split as a shell would, but no shell reads it.
    """
    from mcpgate.launch import CommandError, command_complaint, resolve_command

    try:
        argv = shlex.split(text)
    except ValueError as error:
        raise ExpandError("${cmd:...} has a quote that is not closed", "close it, or write \\'") from error
    if not argv:
        raise ExpandError("${cmd:} names no command", "write ${cmd:/path/of/it argument ...}")
    try:
        program = resolve_command(argv[0], env.get("PATH"), base)
    except CommandError as error:
        raise ExpandError(f"{_shown(argv[0])}: {error.problem}", error.mend) from None
    complaint = command_complaint(program, trust)
    return [program, *argv[1:]], [complaint] if complaint is not None else []


def command_output(argv: list[str], env: Mapping[str, str], timeout_s: float) -> str:
    """What `argv` prints. Raises `ExpandError`.

    It gets `env` and nothing else, no stdin, and `timeout_s` seconds. What it says on stderr is dropped: it
    may hold the secret.
    """
    what = _shown(argv[0])
    data, status = _run(argv, env, timeout_s, what)
    if status != 0:
        how = f"signal {-status}" if status < 0 else f"status {status}"
        raise ExpandError(f"{what} ended with {how}", "run it by hand, with the environment that it gets")
    return _text(data, what, PRINT_IT)


def _shown(command: str) -> str:
    """Arguments are not repeated: one of them may be a secret."""
    return f"${{cmd:{command} ...}}"


def _run(argv: list[str], env: Mapping[str, str], timeout_s: float, what: str) -> tuple[bytes, int]:
    from mcpgate import process

    deadline = time.monotonic() + timeout_s
    try:
        # Its end is collected here: whoever looks for adopted processes must know that it is not one.
        with process.ELSEWHERE_LOCK:
            popen = subprocess.Popen(
                argv,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            process.ELSEWHERE.add(popen.pid)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "it cannot be run"
        raise ExpandError(f"{what}: {reason.lower()}", "correct the command") from error
    try:
        assert popen.stdout is not None
        data = _read_until(popen.stdout.fileno(), deadline, timeout_s, what)
        if len(data) > MOST_BYTES:
            raise ExpandError(f"{what} prints more than {MOST_BYTES} bytes", PRINT_IT)
        return data, popen.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise ExpandError(f"{what} took longer than {timeout_s:g} s", SLOW) from None
    finally:
        # After a good end what it left running may go on: `gpg` starts its agent so.
        if popen.returncode is None:
            with contextlib.suppress(OSError):
                os.killpg(popen.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                popen.wait(KILL_WAIT_S)
        process.ELSEWHERE.discard(popen.pid)
        if popen.stdout is not None:
            popen.stdout.close()


def _read_until(fd: int, deadline: float, timeout_s: float, what: str) -> bytes:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    data = b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise ExpandError(f"{what} took longer than {timeout_s:g} s", SLOW)
        part = os.read(fd, MOST_BYTES)
        data += part
        if not part or len(data) > MOST_BYTES:
            return data
