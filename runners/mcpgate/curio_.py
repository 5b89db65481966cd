"""The runner on curio.

Owns: the import of curio 1.6 where the interpreter has moved on since, and one task that waits for
everything at once.
Must never: leave anything of that import's help behind, or hold protocol knowledge.
"""

from __future__ import annotations

import importlib
import multiprocessing.connection
import ssl
from types import ModuleType
from typing import Any

from mcpgate.control import Options, Outcome
from mcpgate.life import serving
from mcpgate.polling import PollLoop

__all__ = ["run_curio", "serve"]


def _import_curio() -> ModuleType:
    """Import curio. Its release 1.6 names four things at import time that Python 3.12 renamed or removed;
    it uses none of them for what we do, so they exist for the length of the import only."""
    lent: list[tuple[ModuleType, str]] = []

    def lend(module: ModuleType, name: str, value: object) -> None:
        if not hasattr(module, name):
            setattr(module, name, value)
            lent.append((module, name))

    connection = multiprocessing.connection
    for name in ("CHALLENGE", "WELCOME", "FAILURE"):
        lend(connection, name, getattr(connection, f"_{name}", b""))
    lend(ssl, "wrap_socket", ssl.SSLContext.wrap_socket)
    try:
        return importlib.import_module("curio")
    finally:
        for module, name in lent:
            delattr(module, name)


curio: Any = _import_curio()
traps: Any = importlib.import_module("curio.traps")


def run_curio(gateway: Any, options: Options) -> Outcome:
    outcome: Outcome = curio.run(serve, gateway, options)
    return outcome


async def serve(gateway: Any, options: Options | None = None) -> Outcome:
    """Run `gateway` in the kernel that we are in until it has stopped. Nothing of the run is left then."""
    options = options or Options()
    loop = PollLoop()
    try:
        with serving(gateway, loop, options) as body:
            loop.timed_out = body.timed_out
            loop.watch(options.control.fileno(), False, body.commanded)
            while not loop.over:
                # What is always ready must be asked again at once, but curio's other tasks come first.
                left = 0.0 if loop.always else loop.alarms.left()
                await curio.ignore_after(left, traps._read_wait, loop.fileno())
                loop.turn()
        return body.outcome
    finally:
        # The kernel keeps a descriptor registered until told.
        await traps._io_release(loop.fileno())
        loop.close()
