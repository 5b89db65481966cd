"""The runner without an event loop: threads that block, and one lock around the core.

Each connection has a reader thread and, from the first time that the kernel takes no more, a writer thread;
each child has one more for its stderr and one for its exit. A thread waits for its descriptor in a blocking
`poll`, takes the lock, does the one read or write that cannot block now, feeds the core, and carries out
what comes of it. The main thread has the signals and the timer. Threads that have nothing to wait for are
kept for the next connection.

Owns: the threads, their descriptors for waking them, and the lock.
Must never: touch the core or a connection without the lock, or wait with it. Nothing here but the standard
library and the core.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from typing import Any

from mcpgate.control import Control, Options, Outcome
from mcpgate.fd import Unusable
from mcpgate.life import serving
from mcpgate.polling import Alarms

__all__ = ["MOST_CLIENTS", "run_blocking", "serve"]

# A client costs a thread or two and two or three descriptors; the usual limit is 1024 descriptors. Those
# beyond are refused: accepted and closed at once, so that they do not hang. The servers' own connections
# come on top; their number is bounded by the core.
MOST_CLIENTS = 256
# Threads without work that are kept.
SPARE = 16


def run_blocking(gateway: Any, options: Options) -> Outcome:
    return serve(gateway, options)


def serve(gateway: Any, options: Options | None = None, *, most_clients: int = MOST_CLIENTS) -> Outcome:
    """Run `gateway` in this thread and others until it has stopped. Nothing of the run is left then."""
    options = options or Options()
    loop = ThreadLoop(options.control)
    loop.lock.acquire()
    try:
        with serving(gateway, loop, options, most_clients=most_clients) as body:
            loop.timed_out = body.timed_out
            loop.main(body.commanded)
        return body.outcome
    finally:
        watchers = loop.end()
        loop.lock.release()
        for watcher in watchers:
            watcher.join()


class ThreadLoop:
    """`body.Loop` with a thread for each watched descriptor and direction. Methods need the lock."""

    def __init__(self, control: Control) -> None:
        self.lock = threading.Lock()
        self.timed_out: Callable[[], None] = lambda: None
        self._control = control
        self._over = False
        self._error: BaseException | None = None
        self._alarms = Alarms(lambda: self.timed_out())
        # Until when the main thread sleeps; 0 while it does not.
        self._asleep_until = 0.0
        self._watchers: dict[tuple[int, bool], Watcher] = {}
        self._spare: list[Watcher] = []
        self._ended: list[Watcher] = []

    def watch(self, fd: int, write: bool, ready: Callable[[], None], pollable: bool = True) -> None:
        if (fd, write) not in self._watchers:
            watcher = self._spare.pop() if self._spare else Watcher(self)
            self._watchers[fd, write] = watcher
            watcher.take(Job(fd, write, ready, pollable))

    def unwatch(self, fd: int, write: bool) -> None:
        watcher = self._watchers.pop((fd, write), None)
        if watcher is None:
            return
        watcher.take(None)
        if len(self._spare) < SPARE:
            self._spare.append(watcher)
        else:
            self._end(watcher)

    def _end(self, watcher: Watcher) -> None:
        watcher.end()
        self._ended = [one for one in self._ended if one.is_alive()]
        self._ended.append(watcher)

    def later(self, delay_s: float, call: Callable[[], None]) -> None:
        self._alarms.later(delay_s, call)
        self._hurry()

    def arm(self, deadline: float) -> None:
        self._alarms.arm(deadline)
        self._hurry()

    def _hurry(self) -> None:
        at = self._alarms.next()
        if at is not None and at < self._asleep_until:
            self._asleep_until = 0.0
            self._control.wake()

    def stopped(self) -> None:
        self._over = True
        self._control.wake()

    def failed(self, error: BaseException) -> None:
        """A callback raised: the run ends with it."""
        self._error = self._error or error
        self.stopped()

    def main(self, commanded: Callable[[], None]) -> None:
        """The main thread's part: signals, commands and time, until the gateway has stopped."""
        poll = select.poll()
        poll.register(self._control.fileno(), select.POLLIN)
        while not self._over:
            self._alarms.run_due()
            left = self._alarms.left()
            self._asleep_until = float("inf") if left is None else time.monotonic() + left
            self.lock.release()
            try:
                # Rounded up: waking before the deadline would be for nothing.
                ready = poll.poll(None if left is None else int(left * 1000) + 1)
            finally:
                self.lock.acquire()
                self._asleep_until = 0.0
            if ready:
                commanded()
        if self._error is not None:
            raise self._error

    def end(self) -> list[Watcher]:
        """Tell all threads to end. They can, once the lock is released."""
        for watcher in [*self._watchers.values(), *self._spare]:
            self._end(watcher)
        return self._ended


class Job:
    """What a thread waits for. Compared by identity: a descriptor's number may come back."""

    def __init__(self, fd: int, write: bool, ready: Callable[[], None], pollable: bool) -> None:
        self.fd = fd
        self.events = select.POLLOUT if write else select.POLLIN
        self.ready = ready
        self.pollable = pollable


class Watcher(threading.Thread):
    """One thread. It waits for its job's descriptor and, beside it, for its own bell."""

    def __init__(self, loop: ThreadLoop) -> None:
        super().__init__(name="mcpgate connection", daemon=True)
        self._loop = loop
        self._job: Job | None = None
        self._ending = False
        self._bell, self._rope = _bell()
        try:
            self.start()
        except RuntimeError as error:
            self._close()
            raise Unusable("no more threads") from error

    def take(self, job: Job | None) -> None:
        """Wait for `job` from now on, or (`None`) for nothing."""
        self._job = job
        if threading.current_thread() is not self:
            os.write(self._rope, RING)

    def end(self) -> None:
        self._ending = True
        self.take(None)

    def run(self) -> None:
        lock = self._loop.lock
        job: Job | None = None
        poll = select.poll()
        while True:
            with lock:
                if self._ending:
                    return self._close()
                if self._job is not job or job is None:
                    job, poll = self._job, select.poll()
                    poll.register(self._bell, select.POLLIN)
                    if job is not None and job.pollable:
                        poll.register(job.fd, job.events)
            events = dict(poll.poll(0 if job is not None and not job.pollable else None))
            if self._bell in events:
                os.read(self._bell, 8)
            with lock:
                # The descriptor may have been closed, and even reused, since: then the job is another.
                if job is not None and self._job is job and (job.fd in events or not job.pollable):
                    try:
                        job.ready()
                    except BaseException as error:
                        self._loop.failed(error)

    def _close(self) -> None:
        for end in {self._bell, self._rope}:
            os.close(end)


RING = (1).to_bytes(8, "little")


def _bell() -> tuple[int, int]:
    """Where to wait and where to write: one descriptor where the system has such. Raises `OSError`."""
    if hasattr(os, "eventfd"):
        bell = os.eventfd(0)
        return bell, bell
    return os.pipe()
