"""Children as connections: their start, stderr, signals and end, as a body sees them.

Owns: the order of a child's last facts (what it said, that it exited, that it is closed), the guard that
ends children when the gateway is killed, and adopted descendants.
Must never: leave stderr unread, or wait for a child.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

from mcpgate import fd, process
from mcpgate.guard import Guard
from mcpgate.process import Child
from mcpgate_proto import effects as fx
from mcpgate_proto.effects import Peer

if TYPE_CHECKING:
    from mcpgate.body import Body, Channel

__all__ = ["Children"]

# A child that has ended may have left its stdout to a process nobody can find: then its end is declared.
EOF_GRACE_S = 1.0
STDERR_LAST_BYTES = 256 * 1024


class Children:
    """All children of one body."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._guard = Guard()
        self._adopts = body.options.own_process and process.become_subreaper()

    # -- effects

    def spawn(self, effect: fx.Spawn) -> None:
        from mcpgate.body import Channel

        body = self._body
        self._guard.start()
        try:
            child = process.spawn(effect)
        except process.SpawnError as error:
            return body.note(body.gateway.connect_failed, effect.conn, str(error))
        self._guard.add(child.pid)
        channel = Channel(effect.conn, child.stream, child)
        body.note(body.gateway.connected, effect.conn, Peer(kind="child", pid=child.pid), None)
        if not body.open(channel):
            return
        if not body.watch(channel, child.stderr_fd, False, lambda: self._hear(channel, child)):
            return
        if child.pidfd >= 0:
            body.watch(channel, child.pidfd, False, lambda: self._exited(channel, child))
        else:
            self._wait_in_thread(channel, child)

    def _wait_in_thread(self, channel: Channel, child: Child) -> None:
        body = self._body

        def wait() -> None:
            child.wait_ended()
            body.options.control.call(lambda _: self._exited(channel, child))

        try:
            threading.Thread(target=wait, name=f"wait for {child.pid}", daemon=True).start()
        except RuntimeError:
            body.finish(channel, "no thread to wait for the child")

    def signal(self, effect: fx.Signal) -> None:
        channel = self._body.channels.get(effect.conn)
        if channel is not None and channel.child is not None:
            channel.child.signal(signal.SIGKILL if effect.which == "KILL" else signal.SIGTERM)

    # -- what a child does

    def _hear(self, channel: Channel, child: Child) -> None:
        self._read_stderr(channel, child)

    def _read_stderr(self, channel: Channel, child: Child) -> bool:
        """Read what is on stderr once; false when no more is there."""
        body = self._body
        try:
            data = os.read(child.stderr_fd, fd.READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if data:
            body.tell(body.gateway.received_stderr, channel.conn, data)
            return True
        body.loop.unwatch(child.stderr_fd, False)
        child.close_stderr()
        return False

    def _exited(self, channel: Channel, child: Child) -> None:
        if child.status is not None:
            return
        body = self._body
        self._collect(channel, child)
        if channel.eof:
            body.finish(channel, "exited")
        else:
            body.loop.later(EOF_GRACE_S, lambda: self._force_eof(channel))
        body.turn()

    def _collect(self, channel: Channel, child: Child) -> None:
        """Reap; what the child said last on stderr is told before its exit."""
        if child.pidfd >= 0:
            self._body.loop.unwatch(child.pidfd, False)
        # Before its number is free for others.
        self._guard.remove(child.pid)
        status = child.reap()
        left = STDERR_LAST_BYTES
        while child.stderr_fd >= 0 and left > 0 and self._read_stderr(channel, child):
            left -= fd.READ_BYTES
        self._body.note(self._body.gateway.exited, channel.conn, status)

    def _force_eof(self, channel: Channel) -> None:
        """The child is gone, but its stdout has not ended: somebody else holds it."""
        body = self._body
        if body.channels.get(channel.conn) is not channel:
            return
        if channel.paused or time.monotonic() - channel.last_read < EOF_GRACE_S:
            return body.loop.later(EOF_GRACE_S, lambda: self._force_eof(channel))
        body.end_read(channel)
        body.turn()

    def end(self, channel: Channel, child: Child) -> None:
        """The connection is being closed: the child goes with it."""
        if child.status is None:
            child.signal(signal.SIGKILL)
            self._collect(channel, child)
        if child.stderr_fd >= 0:
            self._body.loop.unwatch(child.stderr_fd, False)
            child.close_stderr()

    # -- what children leave behind

    def _pids(self) -> set[int]:
        own = {c.child.pid for c in self._body.channels.values() if c.child is not None}
        return own | self._guard.pids()

    def reap_adopted(self) -> None:
        """Collect descendants that became ours when their parents died, and have ended since."""
        if self._adopts:
            process.reap_adopted(self._pids(), kill=False)

    def close(self) -> None:
        if self._body.options.own_process:
            process.end_elsewhere()
        if self._adopts:
            with contextlib.suppress(OSError):
                process.reap_adopted(self._guard.pids(), kill=True)
        self._guard.close()
