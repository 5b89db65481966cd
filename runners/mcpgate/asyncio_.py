"""The runner on anyio: asyncio (or uvloop, where it is installed) and trio.

Owns: the event loop's side of a run: readiness, timers, and the end.
Must never: hold protocol knowledge, or leave a task, descriptor or child behind, however it ends.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel

from mcpgate.control import Options, Outcome
from mcpgate.life import serving
from mcpgate.polling import PollLoop

__all__ = ["run_asyncio", "run_trio", "serve"]


def uvloop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes a uvloop, if it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def run_asyncio(gateway: Any, options: Options) -> Outcome:
    with asyncio.Runner(loop_factory=uvloop_factory()) as runner:
        return runner.run(serve(gateway, options))


def run_trio(gateway: Any, options: Options) -> Outcome:
    return anyio.run(serve, gateway, options, backend="trio")


async def serve(gateway: Any, options: Options | None = None) -> Outcome:
    """Run `gateway` in the loop that we are in until it has stopped. Nothing of the run is left then."""
    options = options or Options()
    try:
        loop = AsyncioLoop(asyncio.get_running_loop())
    except RuntimeError:
        return await _serve_polling(gateway, options)
    try:
        with serving(gateway, loop, options) as body:
            loop.timed_out = body.timed_out
            loop.watch(options.control.fileno(), False, body.commanded)
            await loop.wait()
        return body.outcome
    finally:
        loop.close()


async def _serve_polling(gateway: Any, options: Options) -> Outcome:
    loop = PollLoop()
    try:
        with serving(gateway, loop, options) as body:
            loop.timed_out = body.timed_out
            loop.watch(options.control.fileno(), False, body.commanded)
            while not loop.over:
                if loop.always:
                    await anyio.lowlevel.checkpoint()
                else:
                    left = loop.alarms.left()
                    with anyio.move_on_after(left):
                        await anyio.wait_readable(loop.fileno())
                loop.turn()
        return body.outcome
    finally:
        loop.close()


class AsyncioLoop:
    """`body.Loop` on asyncio: descriptors stay registered, and its callbacks run the body."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.timed_out: Callable[[], None] = lambda: None
        self._loop = loop
        self._over = asyncio.Event()
        self._error: BaseException | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._handles: set[asyncio.TimerHandle] = set()
        self._watched: set[tuple[int, bool]] = set()
        self._beside: PollLoop | None = None
        # What the kernel cannot tell of (regular files): the call is put at the end of the queue each time.
        self._always: dict[tuple[int, bool], Callable[[], None]] = {}

    async def wait(self) -> None:
        """Until the gateway has stopped. Raises what a callback raised."""
        await self._over.wait()
        if self._error is not None:
            raise self._error

    def watch(self, fd: int, write: bool, ready: Callable[[], None], pollable: bool = True) -> None:
        key = (fd, write)
        if key in self._watched or key in self._always:
            return
        if pollable and self._would_change(fd):
            self._watch_beside(fd, write, ready)
        elif pollable:
            (self._loop.add_writer if write else self._loop.add_reader)(fd, self._guarded, ready)
            self._watched.add(key)
        else:
            self._always[key] = ready
            self._loop.call_soon(self._again, key, ready)

    def _would_change(self, fd: int) -> bool:
        """libuv makes what it watches non-blocking; what we inherited must stay as it is."""
        return not isinstance(self._loop, asyncio.SelectorEventLoop) and os.get_blocking(fd)

    def _watch_beside(self, fd: int, write: bool, ready: Callable[[], None]) -> None:
        if self._beside is None:
            self._beside = PollLoop()
            self._loop.add_reader(self._beside.fileno(), self._guarded, self._beside.turn)
        self._beside.watch(fd, write, ready)

    def _again(self, key: tuple[int, bool], ready: Callable[[], None]) -> None:
        if self._always.get(key) is ready:
            self._guarded(ready)
            self._loop.call_soon(self._again, key, ready)

    def unwatch(self, fd: int, write: bool) -> None:
        if (fd, write) in self._watched:
            self._watched.discard((fd, write))
            (self._loop.remove_writer if write else self._loop.remove_reader)(fd)
        elif self._always.pop((fd, write), None) is None and self._beside is not None:
            self._beside.unwatch(fd, write)

    def _guarded(self, call: Callable[[], None]) -> None:
        """The loop would log an exception of a callback and go on; a broken runner must end instead."""
        try:
            call()
        except BaseException as error:
            self._error = self._error or error
            self._over.set()

    def later(self, delay_s: float, call: Callable[[], None]) -> None:
        def due() -> None:
            self._handles.discard(handle)
            self._guarded(call)

        handle = self._loop.call_later(delay_s, due)
        self._handles.add(handle)

    def arm(self, deadline: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        delay = max(0.0, deadline - time.monotonic())
        self._alarm = self._loop.call_later(delay, self._guarded, self._due)

    def _due(self) -> None:
        self._alarm = None
        self.timed_out()

    def stopped(self) -> None:
        self._over.set()

    def close(self) -> None:
        for handle in self._handles:
            handle.cancel()
        if self._alarm is not None:
            self._alarm.cancel()
        self._always.clear()
        for fd, write in list(self._watched):
            self.unwatch(fd, write)
        if self._beside is not None:
            self._loop.remove_reader(self._beside.fileno())
            self._beside.close()
