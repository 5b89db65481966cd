"""The runner on anyio: persistent readiness callbacks on asyncio, a task per watched descriptor on trio.

Owns: the event loop side of a run: readiness, the timer, name lookups, signals, and the end of it all.
Must never: hold protocol knowledge, or leave a task, descriptor or child behind, however it ends.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread

from mcpgate import process
from mcpgate.body import Body, Sink
from mcpgate.fd import reason_of
from mcpgate_proto.config import GatewayConfig
from mcpgate_proto.effects import Address

__all__ = ["Outcome", "Options", "new_gateway", "serve"]

CLOCK_S = 30.0
SEED_BYTES = 32
DEFAULT_GRACE_S = 5.0


@dataclass
class Options:
    """How to run. `stdio` gives the descriptors of stdio listeners by name, in place of the process's own."""

    sink: Sink = lambda record: None
    stop: anyio.Event | None = None
    signals: bool = True
    grace_s: float = DEFAULT_GRACE_S
    # Called on SIGHUP; returns the new config, or `None` to keep the old one.
    reload: Callable[[], GatewayConfig | None] | None = None
    # Called once clients are let in: the bound address of each listener.
    ready: Callable[[dict[str, Address]], None] = lambda addresses: None
    stdio: dict[str, tuple[int, int]] = field(default_factory=dict)
    # The process is nothing but the gateway: adopt and end what children leave behind.
    own_process: bool = False


@dataclass
class Outcome:
    """How a run ended: why it could not go on, and the signal that asked for the end, if any."""

    failure: str | None = None
    signal: int | None = None
    listen_failures: dict[str, str] = field(default_factory=dict)


def new_gateway(config: GatewayConfig, *, seed: bytes | None = None) -> Any:
    """A `Gateway` at the present time with a fresh seed."""
    from mcpgate_proto.gateway import Gateway

    return Gateway(config, now=time.monotonic(), wall=time.time(), seed=seed or os.urandom(SEED_BYTES))


class AnyioLoop:
    """`body.Loop` for any backend of anyio: a task for each watched descriptor."""

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self._tasks = tasks
        self._scopes: dict[tuple[int, bool], anyio.CancelScope] = {}
        self._deadline = math.inf
        self._earlier = anyio.Event()
        self.body: Body

    def watch(self, fd: int, write: bool, ready: Callable[[], None], pollable: bool = True) -> None:
        if (fd, write) in self._scopes:
            return
        scope = self._scopes[fd, write] = anyio.CancelScope()
        self._tasks.start_soon(self._watch, fd, write, ready, pollable, scope)

    async def _watch(
        self, fd: int, write: bool, ready: Callable[[], None], pollable: bool, scope: anyio.CancelScope
    ) -> None:
        # What is always ready still gives the others their turn.
        wait: Callable[[], Awaitable[Any]] = anyio.lowlevel.checkpoint
        if pollable:
            wait = partial(anyio.wait_writable if write else anyio.wait_readable, fd)
        with scope:
            while self._scopes.get((fd, write)) is scope:
                try:
                    await wait()
                except (anyio.ClosedResourceError, anyio.BusyResourceError):
                    return
                if self._scopes.get((fd, write)) is scope:
                    ready()

    def unwatch(self, fd: int, write: bool) -> None:
        scope = self._scopes.pop((fd, write), None)
        if scope is not None:
            scope.cancel()

    def later(self, delay_s: float, call: Callable[[], None]) -> None:
        async def wait() -> None:
            await anyio.sleep(delay_s)
            call()

        self._tasks.start_soon(wait)

    def arm(self, deadline: float | None) -> None:
        self._deadline = math.inf if deadline is None else deadline
        self._earlier.set()

    async def timer(self) -> None:
        """Wait for the armed deadline, and again whenever an earlier one is armed."""
        while True:
            self._earlier = anyio.Event()
            left = self._deadline - time.monotonic()
            with anyio.move_on_after(left if left > 0 else 0):
                await self._earlier.wait()
                continue
            self._deadline = math.inf
            self.body.timed_out()

    def resolve(self, host: str, done: Callable[[list[Address], str], None]) -> None:
        async def look_up() -> None:
            found: dict[str, None] = {}
            reason = "the name has no address"
            try:
                infos = await anyio.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
                found = {str(info[4][0]): None for info in infos}
            except (OSError, UnicodeError) as error:
                reason = reason_of(error) if isinstance(error, OSError) else "not a host name"
            done([Address(host=address) for address in found], reason)

        self._tasks.start_soon(look_up)

    def in_thread(self, work: Callable[[], None], done: Callable[[], None]) -> None:
        async def run() -> None:
            await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
            done()

        self._tasks.start_soon(run)

    def stopped(self) -> None:
        self._tasks.cancel_scope.cancel()

    def close(self) -> None:
        for fd, write in list(self._scopes):
            self.unwatch(fd, write)


class AsyncioLoop(AnyioLoop):
    """On asyncio, descriptors stay registered and callbacks run the body: a third of the wait's cost."""

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        super().__init__(tasks)
        self._loop = asyncio.get_running_loop()
        self._alarm: asyncio.TimerHandle | None = None
        self._watched: set[tuple[int, bool]] = set()

    def watch(self, fd: int, write: bool, ready: Callable[[], None], pollable: bool = True) -> None:
        if not pollable:
            return super().watch(fd, write, ready, pollable)
        if (fd, write) not in self._watched:
            self._watched.add((fd, write))
            (self._loop.add_writer if write else self._loop.add_reader)(fd, self._guarded, ready)

    def unwatch(self, fd: int, write: bool) -> None:
        if (fd, write) in self._watched:
            self._watched.discard((fd, write))
            (self._loop.remove_writer if write else self._loop.remove_reader)(fd)
        else:
            super().unwatch(fd, write)

    def _guarded(self, call: Callable[[], None]) -> None:
        """The loop would log an exception of a callback and go on; a broken runner must end instead."""
        try:
            call()
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        async def fail() -> None:
            raise error

        self._tasks.start_soon(fail)

    def arm(self, deadline: float | None) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if deadline is not None:
            delay = deadline - time.monotonic()
            self._alarm = self._loop.call_later(max(0.0, delay), self._guarded, self.body.timed_out)

    async def timer(self) -> None:
        """The loop's own timers do this."""

    def close(self) -> None:
        self.arm(None)
        for fd, write in list(self._watched):
            self.unwatch(fd, write)
        super().close()


def _loop_for(tasks: anyio.abc.TaskGroup) -> AnyioLoop:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return AnyioLoop(tasks)
    return AsyncioLoop(tasks)


async def serve(gateway: Any, options: Options | None = None) -> Outcome:
    """Run `gateway` until it says that it has stopped. Nothing of the run is left when this returns."""
    options = options or Options()
    outcome = Outcome()
    adopts = options.own_process and process.become_subreaper()
    async with anyio.create_task_group() as tasks:
        loop = _loop_for(tasks)
        body = Body(gateway, loop, options.sink, dict(options.stdio))
        loop.body = body
        async with _signals(options) as caught:
            try:
                body.start()
                outcome.listen_failures = body.failures
                if not body.done:
                    options.ready(body.addresses)
                    tasks.start_soon(loop.timer)
                    tasks.start_soon(_clock, body, adopts)
                    if caught is not None:
                        tasks.start_soon(_commands, body, options, caught, outcome)
                    if options.stop is not None:
                        tasks.start_soon(_stop_on_event, body, options.stop, options.grace_s)
                    await anyio.sleep_forever()
            finally:
                body.close()
                loop.close()
                if adopts:
                    process.reap_adopted(set(), kill=True)
                tasks.cancel_scope.cancel()
    outcome.failure = body.failure
    return outcome


async def _clock(body: Body, adopts: bool) -> None:
    while True:
        await anyio.sleep(CLOCK_S)
        body.tick()
        if adopts:
            process.reap_adopted(body.child_pids(), kill=False)


@asynccontextmanager
async def _signals(options: Options) -> AsyncIterator[AsyncIterator[int] | None]:
    """From before the first child until after the last: a signal in between must not end us half-way."""
    if not options.signals:
        yield None
        return
    wanted = [signal.SIGINT, signal.SIGTERM]
    if options.reload is not None:
        wanted.append(signal.SIGHUP)
    with anyio.open_signal_receiver(*wanted) as caught:
        yield caught


async def _commands(body: Body, options: Options, caught: AsyncIterator[int], outcome: Outcome) -> None:
    """Turn signals into commands."""
    async for number in caught:
        if number == signal.SIGHUP and options.reload is not None:
            config = options.reload()
            if config is not None:
                body.tell(body.gateway.reload, config)
        elif outcome.signal is None:
            outcome.signal = number
            body.tell(body.gateway.shutdown, options.grace_s)
        else:
            # Asked twice: no more patience, whatever the gateway still waits for.
            body.tell(body.gateway.shutdown, 0.0)
            body.loop.stopped()


async def _stop_on_event(body: Body, stop: anyio.Event, grace_s: float) -> None:
    await stop.wait()
    body.tell(body.gateway.shutdown, grace_s)
