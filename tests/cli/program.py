"""Running the real command as a process, and talking to it.

Owns: start, waiting for a line with a bound, stop. Must never: leave a process behind.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

PATIENCE_S = 30.0
ROOT = Path(__file__).parents[2]
LEGACY_SERVER = str(ROOT / "runners" / "mcpgate" / "demo_legacy.py")
MODERN_SERVER = str(ROOT / "runners" / "mcpgate" / "demo_modern.py")


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'runners'}", **more}


def mcpgate(*args: str, given: str | None = "", cwd: Path | None = None, **env: str) -> tuple[int, str, str]:
    """Run to the end: exit code, stdout, stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "mcpgate", *args],
        input=given,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        cwd=cwd,
        env=environment(**env),
    )
    return done.returncode, done.stdout, done.stderr


class Running:
    """A command that goes on until it is stopped. Lines of stderr are read as they come."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self.popen = popen
        self.seen: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        assert popen.stderr
        threading.Thread(target=self._read, args=(popen.stderr,), daemon=True).start()

    def _read(self, stderr: IO[str]) -> None:
        for line in stderr:
            self._lines.put(line)
        self._lines.put("")

    def until(self, text: str) -> str:
        """The next line on stderr that holds `text`."""
        while True:
            line = self._lines.get(timeout=PATIENCE_S)
            self.seen.append(line)
            if text in line:
                return line.rstrip("\n")
            assert line, f"no {text!r} in {self.seen}"

    def url(self) -> str:
        return self.until("mcpgate: listening on").split()[-1]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.popen.send_signal(number)
        return self.popen.wait(PATIENCE_S)


@contextmanager
def running(
    *args: str, cwd: Path | None = None, module: bool = True, pass_fds: tuple[int, ...] = (), **env: str
) -> Iterator[Running]:
    with subprocess.Popen(
        [sys.executable, *(("-m", "mcpgate") if module else ()), *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=environment(**env),
        pass_fds=pass_fds,
    ) as popen:
        try:
            yield Running(popen)
        finally:
            popen.kill()
