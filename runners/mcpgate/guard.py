"""The end of the children when the gateway itself is killed, even by SIGKILL.

Owns: one small process beside the gateway. It holds the reading end of a pipe, learns over it which process
groups are the gateway's, and ends them when the pipe ends, which only the gateway's own end can cause. A
parent-death signal would reach direct children only, and Linux sends it when the *thread* that forked ends.
Must never: outlive the gateway for longer than its work takes, or touch a group that was taken back.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

__all__ = ["Guard"]

# While the gateway lives this is all that runs: a shell that waits in a read (about 100 KB of its own).
# The groups are stopped first, so that no parent dies and hides its children while the interpreter loads.
WATCH = """
groups=
while read -r sign group; do
    if [ "$sign" = + ]; then groups="$groups $group"; continue; fi
    left=
    for one in $groups; do [ "$one" = "$group" ] || left="$left $one"; done
    groups=$left
done
[ -n "$groups" ] || exit 0
for one in $groups; do kill -s STOP -- "-$one" 2>/dev/null; done
exec "$0" -I -S -c "$1" $groups
"""
# Ends the groups, and whatever descends from them or shares their session.
END = """
import os, signal, sys
groups = {int(number) for number in sys.argv[1:]}
table = {}
for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
    try:
        fields = open(f"/proc/{name}/stat", "rb").read().rpartition(b")")[2].split()
        table[int(name)] = int(fields[1]), int(fields[3])
    except (OSError, ValueError, IndexError):
        pass
family = set(groups)
while True:
    more = {pid for pid, (parent, session) in table.items() if parent in family or session in groups} - family
    if not more:
        break
    family |= more
for kill, number in [*((os.killpg, n) for n in sorted(groups)), *((os.kill, n) for n in sorted(family))]:
    try:
        kill(number, signal.SIGKILL)
    except OSError:
        pass
"""


class Guard:
    """Started with the first child. Where it cannot be started, children still see their stdin end."""

    def __init__(self) -> None:
        self._popen: subprocess.Popen[bytes] | None = None
        self._groups: set[int] = set()
        self._end = -1

    def start(self) -> None:
        """Harmless if it runs. What cannot be started now may be at the next child."""
        if self._popen is not None:
            return
        try:
            theirs, self._end = os.pipe()
        except OSError:
            return
        # A guard that somebody stopped must not stop us.
        os.set_blocking(self._end, False)
        try:
            self._popen = subprocess.Popen(
                ["/bin/sh", "-c", WATCH, sys.executable, END],
                stdin=theirs,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # Its own session: no signal of the terminal reaches it.
                start_new_session=True,
                cwd="/",
                env={},
            )
            for group in self._groups:
                self._say(f"+ {group}\n")
        except OSError:
            self.close()
        finally:
            os.close(theirs)

    def add(self, group: int) -> None:
        self._groups.add(group)
        self._say(f"+ {group}\n")

    def remove(self, group: int) -> None:
        self._groups.discard(group)
        self._say(f"- {group}\n")

    def _say(self, line: str) -> None:
        if self._end >= 0:
            with contextlib.suppress(OSError):
                os.write(self._end, line.encode())

    def pids(self) -> set[int]:
        return {self._popen.pid} if self._popen is not None else set()

    def close(self) -> None:
        """Every group has been taken back, so it has nothing to do but end."""
        end, self._end = self._end, -1
        if end >= 0:
            os.close(end)
        popen, self._popen = self._popen, None
        if popen is not None:
            popen.wait()
