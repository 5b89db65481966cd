"""The runner without a loop: connections, listeners and children, driven by readiness callbacks.

Owns: feeding facts to the gateway one at a time, draining its effects, and the state of each connection until
its `closed` is told. Every method returns at once; what has to wait is asked of a `Loop`.
Must never: know what the bytes mean, write past a full kernel buffer, or leave a descriptor or child behind.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from mcpgate import fd, process
from mcpgate.process import Child
from mcpgate.tls import TlsStream, tls_reason
from mcpgate_proto import effects as fx
from mcpgate_proto.effects import Address, Listen, Peer, Record, TlsOptions

__all__ = ["Body", "Loop", "Sink"]

Sink = Callable[[Record], None]
Fact = tuple[Any, ...]
# Clients taken from one listener before other events get their turn.
ACCEPTS_AT_ONCE = 64
ACCEPT_BACK_OFF_S = 0.25
# A child that has ended may have left its stdout to a process nobody can find: then its end is declared.
EOF_GRACE_S = 1.0
STDERR_LAST_BYTES = 256 * 1024


def _reason(error: OSError) -> str:
    return tls_reason(error) if isinstance(error, ssl.SSLError) else fd.reason_of(error)


class Loop(Protocol):
    """What the body needs of an event loop."""

    def watch(self, fd: int, write: bool, ready: Callable[[], None], pollable: bool = True) -> None:
        """Call `ready` whenever `fd` can be read (or written), until it is unwatched."""

    def unwatch(self, fd: int, write: bool) -> None:
        """Stop; harmless if it is not watched. Comes before the descriptor is closed."""

    def later(self, delay_s: float, call: Callable[[], None]) -> None: ...
    def arm(self, deadline: float | None) -> None:
        """Call `Body.timed_out` once at `deadline`; forget the deadline before."""

    def resolve(self, host: str, done: Callable[[list[Address], str], None]) -> None: ...
    def in_thread(self, work: Callable[[], None], done: Callable[[], None]) -> None: ...
    def stopped(self) -> None:
        """The gateway has nothing left to do."""


class Channel:
    """One connection: its stream, what waits to go out, and how far it has come."""

    def __init__(self, conn: int, stream: fd.Stream, child: Child | None = None) -> None:
        self.conn = conn
        self.stream = stream
        self.child = child
        self.out: fd.Chunks = deque()
        self.paused = False
        self.eof = False
        # After what is queued has gone out: "shutdown" or "close".
        self.then = ""
        self.write_shut = False
        self.watching_write = False
        self.last_read = 0.0


class Body:
    """Feeds one gateway and carries out what it asks for."""

    def __init__(self, gateway: Any, loop: Loop, sink: Sink, stdio: dict[str, tuple[int, int]]) -> None:
        self.gateway = gateway
        self.loop = loop
        self.sink = sink
        self.stdio = stdio
        self.addresses: dict[str, Address] = {}
        self.failures: dict[str, str] = {}
        self.failure: str | None = None
        self.done = False
        self._started = False
        self._turning = False
        self._facts: deque[Fact] = deque()
        self._armed: float | None = None
        self._channels: dict[int, Channel] = {}
        self._dials: dict[int, tuple[socket.socket, TlsOptions | None]] = {}
        self._listeners: dict[str, socket.socket | None] = {}
        self._perform: dict[type, Callable[[Any], None]] = {
            fx.Write: self._write,
            fx.Emit: self._emit,
            fx.PauseRead: self._pause_read,
            fx.ResumeRead: self._resume_read,
            fx.ShutdownWrite: self._shutdown_write,
            fx.Close: self._close,
            fx.Abort: self._abort,
            fx.Connect: self._connect,
            fx.Resolve: self._resolve,
            fx.Spawn: self._spawn,
            fx.Signal: self._signal,
            fx.Listen: self._listen,
            fx.Unlisten: self._unlisten,
            fx.PauseAccept: self._pause_accept,
            fx.ResumeAccept: self._resume_accept,
            fx.Stopped: self._stopped,
        }

    # -- facts in, effects out

    def start(self) -> None:
        """Open the listeners, say so, and only then let clients in."""
        self.turn()
        self._started = True
        self.tell(self.gateway.started)
        for name in list(self._listeners):
            self._let_in(name)

    def tell(self, method: Callable[..., object], *args: object) -> None:
        """Feed one fact (now, or after the effects that are being carried out), and drain."""
        self._facts.append((method, *args))
        self.turn()

    def turn(self) -> None:
        """Feed what waits and carry out all that comes of it."""
        if self._turning:
            return
        self._turning = True
        gateway = self.gateway
        try:
            while True:
                if effects := gateway.effects():
                    for effect in effects:
                        self._perform[type(effect)](effect)
                elif self._facts:
                    method, *args = self._facts.popleft()
                    method(time.monotonic(), *args)
                else:
                    break
        finally:
            self._turning = False
        deadline = gateway.deadline()
        # A later deadline needs no new alarm: waking early is harmless.
        if deadline is not None and (self._armed is None or deadline < self._armed):
            self._armed = deadline
            self.loop.arm(deadline)

    def timed_out(self) -> None:
        self._armed = None
        self.tell(self.gateway.timed_out)

    def tick(self) -> None:
        """Some times a minute: the wall clock, and processes that became ours."""
        self.tell(self.gateway.clock, time.time())

    def _emit(self, effect: fx.Emit) -> None:
        self.sink(effect.record)

    def _stopped(self, effect: fx.Stopped) -> None:
        self.done = True
        self.failure = effect.failure
        self.loop.stopped()

    # -- listeners

    def _listen(self, effect: Listen) -> None:
        name = effect.listener
        try:
            if effect.kind == "stdio":
                if name not in self.stdio:
                    self.stdio[name] = fd.take_stdio()
                self._listeners[name] = None
                address = Address()
            elif effect.kind == "tcp":
                sock = fd.open_listener(effect)
                self._listeners[name] = sock
                address = fd.address_of(sock.getsockname())
            else:
                raise OSError(None, "this runner does not listen on Unix sockets")
        except OSError as error:
            self.failures[name] = fd.reason_of(error)
            self._facts.append((self.gateway.listen_failed, name, self.failures[name]))
            return
        self.addresses[name] = address
        self._facts.append((self.gateway.listening, name, address))
        if self._started:
            self._let_in(name)

    def _let_in(self, name: str) -> None:
        sock = self._listeners.get(name)
        if sock is not None:
            self.loop.watch(sock.fileno(), False, lambda: self._accept(name))
        elif name in self.stdio:
            read_fd, write_fd = self.stdio.pop(name)
            conn = self.gateway.accepted(time.monotonic(), name, Peer(kind="stdio"))
            self._open(Channel(conn, fd.StdioStream(read_fd, write_fd)))
            self.turn()

    def _accept(self, name: str) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            sock = self._listeners.get(name)
            if sock is None:
                return
            try:
                taken = fd.accept(sock)
            except OSError as error:
                # Out of descriptors or memory: the waiting client stays in the kernel's queue.
                self.loop.unwatch(sock.fileno(), False)
                self.loop.later(ACCEPT_BACK_OFF_S, lambda: self._resume_accept(fx.ResumeAccept(name)))
                self.tell(self.gateway.accept_failed, name, fd.reason_of(error))
                return
            if taken is None:
                return
            stream, peer = taken
            conn = self.gateway.accepted(time.monotonic(), name, peer)
            self._open(Channel(conn, stream))
            self.turn()

    def _pause_accept(self, effect: fx.PauseAccept) -> None:
        if (sock := self._listeners.get(effect.listener)) is not None:
            self.loop.unwatch(sock.fileno(), False)

    def _resume_accept(self, effect: fx.ResumeAccept) -> None:
        if self._started and effect.listener in self._listeners:
            self._let_in(effect.listener)

    def _unlisten(self, effect: fx.Unlisten) -> None:
        sock = self._listeners.pop(effect.listener, None)
        if sock is not None:
            self.loop.unwatch(sock.fileno(), False)
            sock.close()

    # -- connections

    def _open(self, channel: Channel) -> None:
        self._channels[channel.conn] = channel
        self._watch_read(channel)

    def _watch_read(self, channel: Channel) -> None:
        stream = channel.stream
        self.loop.watch(stream.read_fd, False, lambda: self._readable(channel), stream.pollable)

    def _readable(self, channel: Channel) -> None:
        try:
            data = channel.stream.read()
        except OSError as error:
            self._finish(channel, _reason(error), drop=True)
            return self.turn()
        channel.last_read = time.monotonic()
        if data:
            self.tell(self.gateway.received, channel.conn, data)
        if data == b"" or (channel.stream.ended and not channel.eof):
            self._end_read(channel)
            self.turn()
        if channel.stream.pending and not channel.watching_write:
            self._flush(channel)

    def _end_read(self, channel: Channel) -> None:
        """The peer sends no more. A child's connection ends here if it has exited; others may half-close."""
        if channel.eof or self._channels.get(channel.conn) is not channel:
            return
        channel.eof = True
        self.loop.unwatch(channel.stream.read_fd, False)
        self._facts.append((self.gateway.received_eof, channel.conn))
        if channel.child is not None:
            if channel.child.status is not None:
                self._finish(channel, "exited")
        elif channel.write_shut:
            self._finish(channel, "both sides have ended")

    def _pause_read(self, effect: fx.PauseRead) -> None:
        channel = self._channels.get(effect.conn)
        if channel is not None and not channel.paused:
            channel.paused = True
            if not channel.eof:
                self.loop.unwatch(channel.stream.read_fd, False)

    def _resume_read(self, effect: fx.ResumeRead) -> None:
        channel = self._channels.get(effect.conn)
        if channel is not None and channel.paused:
            channel.paused = False
            if not channel.eof and channel.then != "close":
                self._watch_read(channel)

    def _write(self, effect: fx.Write) -> None:
        channel = self._channels.get(effect.conn)
        if channel is None or channel.write_shut:
            return
        channel.out.extend(effect.chunks)
        if not channel.watching_write:
            self._flush(channel)

    def _flush(self, channel: Channel) -> None:
        """Send what the kernel takes; wait for it only when it is full."""
        stream = channel.stream
        try:
            count = stream.write(channel.out)
        except OSError as error:
            return self._write_failed(channel, error)
        if count:
            self._facts.append((self.gateway.flushed, channel.conn, count))
        if channel.out or stream.pending:
            if not channel.watching_write:
                channel.watching_write = True
                pollable = getattr(stream, "write_pollable", True)
                self.loop.watch(stream.write_fd, True, lambda: self._writable(channel), pollable)
            return
        self._unwatch_write(channel)
        if channel.then == "close":
            self._finish(channel, "closed")
        elif channel.then == "shutdown":
            self._shut(channel)

    def _writable(self, channel: Channel) -> None:
        self._flush(channel)
        self.turn()

    def _unwatch_write(self, channel: Channel) -> None:
        if channel.watching_write:
            channel.watching_write = False
            self.loop.unwatch(channel.stream.write_fd, True)

    def _write_failed(self, channel: Channel, error: OSError) -> None:
        """The peer takes no more. What it has sent before is still read, unless nobody reads now."""
        if channel.child is None and (channel.paused or channel.eof or channel.then == "close"):
            return self._finish(channel, _reason(error))
        if channel.child is not None and channel.then == "close":
            return self._finish(channel, "closed")
        self._unwatch_write(channel)
        # These bytes will never be sent; for the gateway's accounts they are gone.
        count = sum(len(chunk) for chunk in channel.out)
        channel.out.clear()
        channel.write_shut = True
        if count:
            self._facts.append((self.gateway.flushed, channel.conn, count))
        if channel.child is not None:
            channel.stream.shutdown_write()

    def _shutdown_write(self, effect: fx.ShutdownWrite) -> None:
        channel = self._channels.get(effect.conn)
        if channel is not None and not channel.write_shut:
            channel.then = "shutdown"
            if not channel.watching_write:
                self._flush(channel)

    def _shut(self, channel: Channel) -> None:
        channel.then = ""
        channel.write_shut = True
        if channel.child is not None:
            # The first step of a stop: what descends from the child must be known before it is gone.
            channel.child.note_descendants()
        channel.stream.shutdown_write()
        if channel.eof and channel.child is None:
            self._finish(channel, "both sides have ended")

    def _close(self, effect: fx.Close) -> None:
        channel = self._channels.get(effect.conn)
        if channel is None:
            return self._drop_dial(effect.conn)
        channel.then = "close"
        if not channel.eof and not channel.paused and channel.child is None:
            self.loop.unwatch(channel.stream.read_fd, False)
        if channel.write_shut:
            self._finish(channel, "closed")
        elif not channel.watching_write:
            self._flush(channel)

    def _abort(self, effect: fx.Abort) -> None:
        channel = self._channels.get(effect.conn)
        if channel is None:
            return self._drop_dial(effect.conn)
        self._finish(channel, "aborted", drop=True)

    def _finish(self, channel: Channel, reason: str, *, drop: bool = False) -> None:
        """Close, and say so last. A child is ended and collected first."""
        if self._channels.pop(channel.conn, None) is None:
            return
        channel.out.clear()
        self._unwatch_write(channel)
        if not channel.eof:
            self.loop.unwatch(channel.stream.read_fd, False)
        child = channel.child
        if child is not None:
            self._end_child(channel, child)
        channel.stream.close(drop=drop)
        self._facts.append((self.gateway.closed, channel.conn, reason))

    # -- outgoing connections

    def _resolve(self, effect: fx.Resolve) -> None:
        def done(addresses: list[Address], reason: str) -> None:
            if addresses:
                self.tell(self.gateway.resolved, effect.lookup, addresses)
            else:
                self.tell(self.gateway.resolve_failed, effect.lookup, reason)

        self.loop.resolve(effect.host, done)

    def _connect(self, effect: fx.Connect) -> None:
        conn = effect.conn
        try:
            sock = fd.start_connect(effect)
        except OSError as error:
            self._facts.append((self.gateway.connect_failed, conn, fd.reason_of(error)))
            return
        self._dials[conn] = (sock, effect.tls)
        self.loop.watch(sock.fileno(), True, lambda: self._dialled(conn))

    def _dialled(self, conn: int) -> None:
        sock, options = self._dials[conn]
        self.loop.unwatch(sock.fileno(), True)
        try:
            peer = fd.finish_connect(sock)
            if options is None:
                del self._dials[conn]
                self._open(Channel(conn, fd.SocketStream(sock)))
                return self.tell(self.gateway.connected, conn, peer, None)
            stream = TlsStream(fd.SocketStream(sock), options)
        except (OSError, ValueError) as error:
            return self._dial_failed(conn, error)
        self.loop.watch(sock.fileno(), False, lambda: self._shaking(conn, stream, peer))
        self._shaking(conn, stream, peer)

    def _shaking(self, conn: int, stream: TlsStream, peer: Peer) -> None:
        try:
            if not stream.handshake():
                return
        except OSError as error:
            self.loop.unwatch(stream.read_fd, False)
            return self._dial_failed(conn, error)
        self.loop.unwatch(stream.read_fd, False)
        del self._dials[conn]
        channel = Channel(conn, stream)
        self._open(channel)
        self.tell(self.gateway.connected, conn, peer, stream.tls.facts())
        # What came with the last step of the handshake is inside already: no descriptor will tell of it.
        if self._channels.get(conn) is channel and not channel.paused:
            self._readable(channel)

    def _dial_failed(self, conn: int, error: Exception) -> None:
        sock, _ = self._dials.pop(conn)
        sock.close()
        reason = _reason(error) if isinstance(error, OSError) else "the TLS settings cannot be used"
        self.tell(self.gateway.connect_failed, conn, reason)

    def _drop_dial(self, conn: int) -> None:
        sock, _ = self._dials.pop(conn, (None, None))
        if sock is not None:
            self.loop.unwatch(sock.fileno(), True)
            self.loop.unwatch(sock.fileno(), False)
            sock.close()
            self._facts.append((self.gateway.closed, conn, "aborted"))

    # -- children

    def _spawn(self, effect: fx.Spawn) -> None:
        try:
            child = process.spawn(effect)
        except process.SpawnError as error:
            self._facts.append((self.gateway.connect_failed, effect.conn, str(error)))
            return
        channel = Channel(effect.conn, child.stream, child)
        peer = Peer(kind="child", pid=child.pid)
        self._facts.append((self.gateway.connected, effect.conn, peer, None))
        self._open(channel)
        self.loop.watch(child.stderr_fd, False, lambda: self._read_stderr(channel, child))
        if child.pidfd >= 0:
            self.loop.watch(child.pidfd, False, lambda: self._exited(channel, child))
        else:
            self.loop.in_thread(child.wait_ended, lambda: self._exited(channel, child))

    def _read_stderr(self, channel: Channel, child: Child) -> None:
        """It is always drained, or the child would block."""
        self._stderr(channel, child)

    def _stderr(self, channel: Channel, child: Child) -> bool:
        """Read what is on stderr once; false when no more is there."""
        try:
            data = os.read(child.stderr_fd, fd.READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if data:
            self.tell(self.gateway.received_stderr, channel.conn, data)
            return True
        self.loop.unwatch(child.stderr_fd, False)
        child.close_stderr()
        return False

    def _signal(self, effect: fx.Signal) -> None:
        channel = self._channels.get(effect.conn)
        if channel is not None and channel.child is not None:
            channel.child.signal(signal.SIGKILL if effect.which == "KILL" else signal.SIGTERM)

    def _exited(self, channel: Channel, child: Child) -> None:
        if child.status is not None:
            return
        self._collect(channel, child)
        if channel.eof:
            self._finish(channel, "exited")
        else:
            self.loop.later(EOF_GRACE_S, lambda: self._force_eof(channel))
        self.turn()

    def _collect(self, channel: Channel, child: Child) -> None:
        """Reap; what the child said last on stderr is told before its exit."""
        if child.pidfd >= 0:
            self.loop.unwatch(child.pidfd, False)
        status = child.reap()
        left = STDERR_LAST_BYTES
        while child.stderr_fd >= 0 and left > 0 and self._stderr(channel, child):
            left -= fd.READ_BYTES
        self._facts.append((self.gateway.exited, channel.conn, status))

    def _force_eof(self, channel: Channel) -> None:
        """The child is gone, but its stdout has not ended: somebody else holds it."""
        if self._channels.get(channel.conn) is not channel:
            return
        if channel.paused or time.monotonic() - channel.last_read < EOF_GRACE_S:
            return self.loop.later(EOF_GRACE_S, lambda: self._force_eof(channel))
        self._end_read(channel)
        self.turn()

    def _end_child(self, channel: Channel, child: Child) -> None:
        if child.status is None:
            child.signal(signal.SIGKILL)
            self._collect(channel, child)
        if child.stderr_fd >= 0:
            self.loop.unwatch(child.stderr_fd, False)
            child.close_stderr()

    # -- the end

    def close(self) -> None:
        """Close and end everything, whatever state it is in. The gateway is told no more."""
        self.done = self._turning = True
        for name in list(self._listeners):
            self._unlisten(fx.Unlisten(name))
        for read_fd, write_fd in self.stdio.values():
            os.close(read_fd)
            os.close(write_fd)
        self.stdio.clear()
        for conn in list(self._dials):
            self._drop_dial(conn)
        for channel in list(self._channels.values()):
            self._finish(channel, "stopped", drop=True)

    def child_pids(self) -> set[int]:
        return {c.child.pid for c in self._channels.values() if c.child is not None}
