"""One byte stream between the gateway and a peer, with a kernel buffer between them.

Owns: the order of bytes and of the end both ways, cuts and delays, pauses, resets, the end of children.
Must never: tell a fact after `closed`, or two ends of one stream.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from fuzz.sim.net import Network

__all__ = ["Faults", "Stream"]

KERNEL_BYTES = 64 * 1024
# A child that has exited leaves its pipe open no longer than this (a runner declares the end).
EOF_GRACE_S = 1.0


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """How bad the network is. Probabilities are per delivery."""

    cuts: tuple[int, ...] = (65536,)
    delay: tuple[float, float] = (0.0005, 0.0005)
    stall: float = 0.0
    stall_s: tuple[float, float] = (0.5, 20.0)
    reset: float = 0.0
    refuse: float = 0.0
    # How often the news of a child's end comes before the last of its output.
    exit_first: float = 0.0


def _nothing() -> None:
    pass


class Stream:
    """See the head of this file. `write` .. `signalled` come from effects, `send` .. `exit` from the peer."""

    def __init__(self, net: Network, conn: int, peer: Any, faults: Faults, *, child: bool = False) -> None:
        self.net = net
        self.world = net.world
        self.conn = conn
        self.peer = peer
        self.faults = faults
        self.child = child
        self.lasting = False  # pipes do not break by themselves
        self.over = False  # `closed` was told, or is about to be
        self.paused = False
        self.pauses = 0
        self.in_bytes = 0  # told to the gateway
        self.out_bytes = 0  # written by the gateway
        self.delivered = 0  # read by the peer
        self._out: deque[bytes] = deque()
        self._kernel = bytearray()
        self._out_armed = False
        self._then = ""
        self._shut = False
        self._in = bytearray()
        self._in_eof = False
        self._eof_told = False
        self._in_armed = False
        self._reading = True
        self._peer_closed = False
        self._aborted = False
        self._status: int | None = None
        self._exit_told = False
        self._sent = 0
        self.queued = 0  # written by the gateway, not taken by the kernel yet
        # Called once, when the gateway has been told that the peer sends no more.
        self.on_ended: Callable[[], None] = _nothing
        self._marks: deque[tuple[int, Callable[[], None]]] = deque()

    # -- effects

    def write(self, chunks: list[bytes]) -> None:
        if self._then or self._shut or self._aborted:
            self.net._broken(f"a write on connection {self.conn} after its end")
        size = sum(len(chunk) for chunk in chunks)
        self.out_bytes += size
        if size:
            self.queued += size
            self.net.most_unsent = max(self.net.most_unsent, self.queued)
            self._out.append(b"".join(chunks))
            self._arm_out()

    def shutdown_write(self) -> None:
        if self._then or self._shut or self._aborted:
            self.net._broken(f"a second end on connection {self.conn}")
        self._then = "shutdown"
        self._arm_out()

    def close_requested(self) -> None:
        if self._then == "close" or self._aborted:
            self.net._broken(f"connection {self.conn} is closed twice")
        self._then = "close"
        self._arm_out()

    def abort_requested(self) -> None:
        if self._aborted:
            self.net._broken(f"connection {self.conn} is aborted twice")
        self._aborted = True
        self._out.clear()
        self.world.after(0.0, lambda: self._finish("aborted", drop=True))

    def pause(self, on: bool) -> None:
        if on is self.paused:
            self.net._broken(f"reading of connection {self.conn} is {'paused' if on else 'resumed'} twice")
        self.paused = on
        self.pauses += on
        if not on:
            self._arm_in()

    def signalled(self, which: str) -> None:
        if self._status is None:
            self.peer.signalled(which)

    # -- out: gateway -> kernel -> peer

    def _delay(self) -> float:
        faults = self.faults
        if self.world.chance(faults.stall):
            self.world.count("stall")
            return self.world.uniform(faults.stall_s)
        return self.world.uniform(faults.delay)

    def _cut(self, size: int) -> int:
        cut = (
            self.faults.cuts[0] if len(self.faults.cuts) == 1 else self.world.random.choice(self.faults.cuts)
        )
        return min(size, max(cut, size // 64))

    def _arm_out(self) -> None:
        if not self._out_armed and not self.over:
            self._out_armed = True
            self.world.after(self._delay(), self._move_out)

    def _gone(self) -> bool:
        """For after a call that may have ended the stream."""
        return self.over

    def _move_out(self) -> None:
        self._out_armed = False
        if self.over:
            return
        if self._out and self._peer_closed and self._eof_told:
            self._finish("broken pipe")
            return
        if not self.lasting and not self.child and self.world.chance(self.faults.reset):
            self.world.count("reset")
            self.reset()
            return
        if self._peer_closed:
            self._kernel.clear()
        room = KERNEL_BYTES - len(self._kernel)
        if self._out and room > 0:
            first = self._out.popleft()
            size = min(room, self._cut(len(first)))
            if size < len(first):
                self._out.appendleft(first[size:])
            self._kernel += first[:size]
            self.queued -= size
            self.world.feed("flushed", self.conn, size)
            if self._gone():
                return
        self._deliver()
        if self._gone():
            return
        if (self._out and len(self._kernel) < KERNEL_BYTES) or (self._kernel and self._reading):
            self._arm_out()
        elif not self._out:
            self._ended_out()

    def _deliver(self) -> None:
        if self._kernel and self._reading and not self._peer_closed:
            data = bytes(self._kernel)
            self._kernel.clear()
            self.delivered += len(data)
            self.peer.data(data)

    def _ended_out(self) -> None:
        if self._then == "close":
            self._finish("closed")
        elif self._then == "shutdown" and not self._shut and not self._kernel:
            self._shut = True
            self._then = ""
            if not self._peer_closed:
                self.peer.eof()
            if self._eof_told and not self.child:
                self._finish("both sides have ended")

    # -- the peer

    def send(self, data: bytes, then: Callable[[], None] | None = None) -> None:
        """`then` is called when the gateway has been told all of it."""
        if not self._in_eof and not self._peer_closed and not self.over:
            self._in += data
            self._sent += len(data)
            if then is not None:
                self._marks.append((self._sent, then))
            self._arm_in()

    @property
    def unread(self) -> int:
        """What the gateway has not been told yet."""
        return len(self._in)

    def send_eof(self) -> None:
        """Half-close: nothing more is sent, what comes is still read."""
        if not self._in_eof:
            self._in_eof = True
            self._arm_in()

    def close(self) -> None:
        """The peer closes: what it sent still arrives."""
        self._peer_closed = True
        self._kernel.clear()
        self.send_eof()

    def reset(self) -> None:
        """The connection breaks, both ways, with all that was under way."""
        if not self.over and not self.child and not self.lasting:
            self._finish("reset", drop=True)

    def read(self, on: bool) -> None:
        """Whether the peer takes what it is sent."""
        self._reading = on
        if on:
            if self.over and self._kernel:
                self._late()
            else:
                self._arm_out()

    def exit(self, status: int) -> None:
        """A child ends: its exit and the end of its output are told in either order."""
        if self._status is not None or self.over:
            return
        self._status = status
        self._peer_closed = True
        self._in_eof = True
        self._kernel.clear()
        if self.world.chance(self.faults.exit_first):
            self.world.after(0.0, self._tell_exit)
        else:
            self.world.after(self.world.uniform(self.faults.delay) * 3, self._tell_exit)
        self._arm_in()
        self.world.after(EOF_GRACE_S, self._declare_eof)

    def _tell_exit(self) -> None:
        if self.over or self._exit_told:
            return
        self._exit_told = True
        assert self._status is not None
        self.world.feed("exited", self.conn, self._status)
        self._settle_child()

    def _declare_eof(self) -> None:
        if not self.over and not self._eof_told:
            self._in.clear()
            self._tell_eof()

    def _settle_child(self) -> None:
        if not self.over and self._exit_told and self._eof_told:
            self._finish("exited")

    # -- in: peer -> gateway

    def _arm_in(self) -> None:
        if self._in_armed or self.over or self.paused or self._aborted:
            return
        if self._in or (self._in_eof and not self._eof_told):
            self._in_armed = True
            self.world.after(self._delay(), self._move_in)

    def _move_in(self) -> None:
        self._in_armed = False
        if self.over or self.paused or self._aborted or self._then == "close":
            return
        if self._in:
            size = self._cut(len(self._in))
            data = bytes(self._in[:size])
            del self._in[:size]
            self.in_bytes += size
            self.world.feed("received", self.conn, data)
            while self._marks and self._marks[0][0] <= self.in_bytes:
                self._marks.popleft()[1]()
        elif self._in_eof and not self._eof_told:
            self._tell_eof()
        if not self.over:
            self._arm_in()

    def _tell_eof(self) -> None:
        self._eof_told = True
        self.world.feed("received_eof", self.conn)
        self._note_end()
        if self.over:
            return
        if self.child:
            self._settle_child()
        elif self._shut:
            self._finish("both sides have ended")

    # -- the end

    def _finish(self, reason: str, *, drop: bool = False) -> None:
        if self.over:
            return
        self.over = True
        self.net.finished(self)
        if drop:
            self._kernel.clear()
        if self.child and self._status is None:
            self._status = -9
            self.peer.signalled("KILL")
        self.world.feed("closed", self.conn, reason)
        self._note_end()
        if self._kernel and not self._peer_closed:
            self.world.after(self.world.uniform(self.faults.delay), self._late)
        else:
            self._peer_gone()

    def _late(self) -> None:
        """What the kernel still held reaches a peer that reads."""
        if self._reading:
            self._deliver()
            self._peer_gone()

    def _peer_gone(self) -> None:
        if not self._shut:
            self._shut = True
            if not self._peer_closed:
                self.peer.eof()
        self._peer_closed = True
        self.peer.gone()

    def _note_end(self) -> None:
        told, self.on_ended = self.on_ended, _nothing
        told()

    def heal(self, faults: Faults) -> None:
        self.faults = faults
        self.read(True)
        self._arm_in()

    def stderr(self, data: bytes) -> None:
        self.world.after(self.world.uniform(self.faults.delay), lambda: self._stderr(data))

    def _stderr(self, data: bytes) -> None:
        if not self.over:
            self.world.feed("received_stderr", self.conn, data)
