"""The runner without a loop: one gateway's connections, driven by readiness callbacks.

Owns: feeding facts to the gateway one at a time, draining its effects, and the state of each connection until
its `closed` is told. Listeners, dials and children live in modules of their own and meet here. Every method
returns at once; what has to wait is asked of a `Loop`. Not thread-safe: a runner with threads holds one lock
around every call.
Must never: know what the bytes mean, write past a full kernel buffer, or leave a descriptor or child behind.
"""

from __future__ import annotations

import signal
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from mcpgate import fd
from mcpgate.control import Options, Outcome
from mcpgate.process import Child
from mcpgate.tls import TlsStream, tls_reason
from mcpgate.watch import Reloader
from mcpgate_proto import effects as fx

if TYPE_CHECKING:
    from mcpgate.logins import Logins

__all__ = ["Body", "Channel", "Loop"]

Fact = tuple[Any, ...]
CLOCK_S = 30.0
# A client that does not finish its TLS handshake holds a connection; browsers and proxies wait about as long.
HANDSHAKE_S = 10.0


class Loop(Protocol):
    """What the body needs of an event loop. A callback that raises ends the run."""

    def watch(self, fd: int, write: bool, ready: Callable[[], None], pollable: bool = True) -> None:
        """Call `ready` whenever `fd` can be read (or written), until it is unwatched. Raises `OSError`.

        What is not `pollable` is always ready, but must give the others their turn.
        """

    def unwatch(self, fd: int, write: bool) -> None:
        """Stop; harmless if it is not watched. Comes before the descriptor is closed."""

    def later(self, delay_s: float, call: Callable[[], None]) -> None: ...
    def arm(self, deadline: float) -> None:
        """Call `Body.timed_out` once at `deadline`; forget the deadline before."""

    def stopped(self) -> None:
        """The gateway has nothing left to do."""


class Channel:
    """One connection: its stream, what waits to go out, and how far it has come."""

    def __init__(self, conn: int, stream: fd.Stream, child: Child | None = None) -> None:
        self.conn = conn
        self.stream = stream
        self.child = child
        self.out: fd.Chunks = deque()
        # The TLS handshake of a client, until it is done.
        self.shaking: TlsStream | None = None
        self.paused = False
        self.eof = False
        # After what is queued has gone out: "shutdown" or "close".
        self.then = ""
        self.write_shut = False
        self.watching_write = False
        self.last_read = 0.0


class Body:
    """Feeds one gateway and carries out what it asks for."""

    def __init__(
        self, gateway: Any, loop: Loop, options: Options, *, most_clients: int | None = None
    ) -> None:
        from mcpgate.children import Children
        from mcpgate.dials import Dials
        from mcpgate.doors import Doors

        self.gateway = gateway
        self.loop = loop
        self.options = options
        self.outcome = Outcome()
        self.done = False
        self.channels: dict[int, Channel] = {}
        self._turning = False
        self._facts: deque[Fact] = deque()
        self._armed: float | None = None
        self._reloader = Reloader(self, options.reload) if options.reload is not None else None
        self._logins: Logins | None = None
        self.doors = Doors(self, most_clients)
        self.dials = Dials(self)
        self.children = Children(self)
        self._perform: dict[type, Callable[[Any], None]] = {
            fx.Write: self._write,
            fx.Emit: lambda effect: options.sink(effect.record),
            fx.PauseRead: self._pause_read,
            fx.ResumeRead: self._resume_read,
            fx.ShutdownWrite: self._shutdown_write,
            fx.Close: self._close,
            fx.Abort: self._abort,
            fx.Connect: self.dials.connect,
            fx.Resolve: self.dials.resolve,
            fx.Spawn: self.children.spawn,
            fx.Signal: self.children.signal,
            fx.Listen: self.doors.listen,
            fx.Unlisten: self.doors.unlisten,
            fx.PauseAccept: self.doors.pause,
            fx.ResumeAccept: self.doors.resume,
            fx.Claim: lambda effect: self._logging_in().claim(effect),
            fx.Keep: lambda effect: self._logging_in().keep(effect),
            fx.Release: lambda effect: self._logging_in().release(effect),
            fx.Browse: lambda effect: self._logging_in().browse(effect),
            fx.Stopped: self._stopped,
        }

    # -- facts in, effects out

    def start(self) -> None:
        """Open the listeners, say so, and only then let clients in."""
        self.turn()
        if not self.done:
            self.options.bound()
        self.tell(self.gateway.started)
        self.doors.open_all()
        if not self.done:
            self.options.ready(self.doors.addresses)
            self.loop.later(CLOCK_S, self._tick)
            for every_s, chore in self.options.chores:
                self._plan(every_s, chore)

    def _plan(self, every_s: float, chore: Callable[[Body], None]) -> None:
        def due() -> None:
            chore(self)
            self._plan(every_s, chore)

        self.loop.later(every_s, due)

    def note(self, method: Callable[..., object], *args: object) -> None:
        """Feed one fact at the next turn."""
        self._facts.append((method, *args))

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

    def _tick(self) -> None:
        """Some times a minute: the wall clock, and processes that became ours."""
        self.tell(self.gateway.clock, time.time())
        self.children.reap_adopted()
        self.loop.later(CLOCK_S, self._tick)

    def commanded(self) -> None:
        """There is word from a signal handler or another thread."""
        numbers, calls = self.options.control.take()
        for act in calls:
            act(self)
        for number in numbers:
            self._signalled(number)

    def reload(self) -> None:
        """Have the settings read again, if there is a way, and take them over."""
        if self._reloader is not None:
            self._reloader.ask()

    def _signalled(self, number: int) -> None:
        if number == signal.SIGHUP:
            self.reload()
        elif number in (signal.SIGINT, signal.SIGTERM):
            again = self.outcome.signal is not None
            self.outcome.signal = self.outcome.signal or number
            self.options.stopping()
            self.tell(self.gateway.shutdown, 0.0 if again else self.options.grace_s)
            if again:
                # Asked twice: no more patience, whatever the gateway still waits for.
                self.loop.stopped()

    def _logging_in(self) -> Logins:
        # Loaded where it is used: most runs have no logins.
        from mcpgate.logins import Logins

        if self._logins is None:
            self._logins = Logins(self)
        return self._logins

    def _stopped(self, effect: fx.Stopped) -> None:
        self.done = True
        self.outcome.failure = effect.failure
        self.loop.stopped()

    # -- connections

    def open(self, channel: Channel) -> bool:
        """Take a new connection over; false if it could not even be watched (it is closed then)."""
        self.channels[channel.conn] = channel
        return self._watch_read(channel)

    def _watch_read(self, channel: Channel) -> bool:
        stream = channel.stream
        return self.watch(channel, stream.read_fd, False, lambda: self.readable(channel), stream.pollable)

    def watch(
        self, channel: Channel, fileno: int, write: bool, ready: Callable[[], None], pollable: bool = True
    ) -> bool:
        """Watch for `channel`. Where the system has nothing left to watch with, that costs the connection."""
        try:
            self.loop.watch(fileno, write, ready, pollable)
        except OSError as error:
            self.finish(channel, fd.reason_of(error), drop=True)
            return False
        return True

    def readable(self, channel: Channel) -> None:
        if channel.shaking is not None:
            return self._shake(channel, channel.shaking)
        try:
            data = channel.stream.read()
        except OSError as error:
            self.finish(channel, reason_of(error), drop=True)
            return self.turn()
        channel.last_read = time.monotonic()
        if data:
            self.tell(self.gateway.received, channel.conn, data)
        if data == b"" or (channel.stream.ended and not channel.eof):
            self.end_read(channel)
            self.turn()
        if channel.stream.pending and not channel.watching_write:
            self._flush(channel)

    def _shake(self, channel: Channel, stream: TlsStream) -> None:
        """A step of a client's handshake; nothing of the client is told before it is done."""
        try:
            if not stream.handshake():
                return
        except OSError as error:
            self.finish(channel, reason_of(error))
            return self.turn()
        channel.shaking = None
        self.tell(self.gateway.secured, channel.conn, stream.tls.facts())
        if self.channels.get(channel.conn) is channel:
            self._flush(channel)
            self.turn()
        self.read_inside(channel)

    def read_inside(self, channel: Channel) -> None:
        """What came with a handshake's last step is inside TLS already: no descriptor will tell of it."""
        if self.channels.get(channel.conn) is channel and not channel.paused and channel.then != "close":
            self.readable(channel)

    def end_read(self, channel: Channel) -> None:
        """The peer sends no more. A child's connection ends here if it has exited; others may half-close."""
        if channel.eof or self.channels.get(channel.conn) is not channel:
            return
        channel.eof = True
        self.loop.unwatch(channel.stream.read_fd, False)
        self.note(self.gateway.received_eof, channel.conn)
        if channel.child is not None:
            if channel.child.status is not None:
                self.finish(channel, "exited")
        elif channel.write_shut:
            self.finish(channel, "both sides have ended")

    def _pause_read(self, effect: fx.PauseRead) -> None:
        channel = self.channels.get(effect.conn)
        if channel is not None and not channel.paused:
            channel.paused = True
            if not channel.eof:
                self.loop.unwatch(channel.stream.read_fd, False)

    def _resume_read(self, effect: fx.ResumeRead) -> None:
        channel = self.channels.get(effect.conn)
        if channel is not None and channel.paused:
            channel.paused = False
            if not channel.eof and channel.then != "close" and self._watch_read(channel):
                if channel.stream.buffered:
                    # The descriptor may never become ready for what is inside already.
                    self.loop.later(0.0, lambda: self.read_inside(channel))

    def _write(self, effect: fx.Write) -> None:
        channel = self.channels.get(effect.conn)
        if channel is None or channel.write_shut:
            return
        channel.out.extend(effect.chunks)
        if not channel.watching_write:
            self._flush(channel)

    def _flush(self, channel: Channel) -> None:
        """Send what the kernel takes; wait for it only when it is full."""
        stream = channel.stream
        if channel.shaking is not None:
            if channel.then == "close":
                self.finish(channel, "closed")
            return
        try:
            count = stream.write(channel.out)
        except OSError as error:
            return self._write_failed(channel, error)
        if count:
            self.note(self.gateway.flushed, channel.conn, count)
        if channel.out or stream.pending:
            if not channel.watching_write:
                channel.watching_write = True
                pollable = getattr(stream, "write_pollable", True)
                self.watch(channel, stream.write_fd, True, lambda: self._writable(channel), pollable)
            return
        self._unwatch_write(channel)
        if channel.then == "close":
            self.finish(channel, "closed")
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
            return self.finish(channel, reason_of(error))
        if channel.child is not None and channel.then == "close":
            return self.finish(channel, "closed")
        self._unwatch_write(channel)
        # These bytes will never be sent; for the gateway's accounts they are gone.
        count = sum(len(chunk) for chunk in channel.out)
        channel.out.clear()
        channel.write_shut = True
        if count:
            self.note(self.gateway.flushed, channel.conn, count)
        if channel.child is not None:
            channel.stream.shutdown_write()

    def _shutdown_write(self, effect: fx.ShutdownWrite) -> None:
        channel = self.channels.get(effect.conn)
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
            self.finish(channel, "both sides have ended")

    def _close(self, effect: fx.Close) -> None:
        channel = self.channels.get(effect.conn)
        if channel is None:
            return self.dials.drop(effect.conn)
        channel.then = "close"
        if not channel.eof and not channel.paused and channel.child is None:
            self.loop.unwatch(channel.stream.read_fd, False)
        if channel.write_shut:
            self.finish(channel, "closed")
        elif not channel.watching_write:
            self._flush(channel)

    def _abort(self, effect: fx.Abort) -> None:
        channel = self.channels.get(effect.conn)
        if channel is None:
            return self.dials.drop(effect.conn)
        self.finish(channel, "aborted", drop=True)

    def finish(self, channel: Channel, reason: str, *, drop: bool = False) -> None:
        """Close, and say so last. A child is ended and collected first."""
        if self.channels.pop(channel.conn, None) is None:
            return
        channel.out.clear()
        self._unwatch_write(channel)
        if not channel.eof:
            self.loop.unwatch(channel.stream.read_fd, False)
        if channel.child is not None:
            self.children.end(channel, channel.child)
        channel.stream.close(drop=drop)
        self.doors.gone(channel.conn)
        self.note(self.gateway.closed, channel.conn, reason)

    # -- the end

    def close(self) -> None:
        """Close and end everything, whatever state it is in. The gateway is told no more."""
        self.done = self._turning = True
        self.doors.close()
        self.dials.close()
        for channel in list(self.channels.values()):
            self.finish(channel, "stopped", drop=True)
        self.children.close()
        if self._logins is not None:
            self._logins.close()


def reason_of(error: OSError) -> str:
    return tls_reason(error) if isinstance(error, ssl.SSLError) else fd.reason_of(error)
