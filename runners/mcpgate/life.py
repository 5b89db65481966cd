"""One run from beginning to end, whatever the runner; and the choice of the runner.

Owns: the order of begin and end (signals before the first child, everything closed before they go), and the
names of the runners.
Must never: import a runner that was not chosen.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

from mcpgate.body import Body, Loop
from mcpgate.control import RUNNERS, Options, Outcome
from mcpgate_proto.config import GatewayConfig

__all__ = ["RunnerMissing", "new_gateway", "run_gateway", "serving"]

SEED_BYTES = 32
# Each module has `run_<name>(gateway, options) -> Outcome`.
MODULES = {
    "asyncio": "mcpgate.asyncio_",
    "trio": "mcpgate.asyncio_",
    "curio": "mcpgate.curio_",
    "blocking": "mcpgate.blocking",
}


class RunnerMissing(ImportError):
    """The chosen runner needs a library that is not installed."""


def new_gateway(config: GatewayConfig, *, seed: bytes | None = None) -> Any:
    """A `Gateway` at the present time with a fresh seed."""
    from mcpgate_proto.gateway import Gateway

    return Gateway(config, now=time.monotonic(), wall=time.time(), seed=seed or os.urandom(SEED_BYTES))


def run_gateway(gateway: Any, runner: str, options: Options) -> Outcome:
    """Run `gateway` until it has stopped. Nothing of the run is left when this returns.

    Raises `RunnerMissing`, and `ValueError` for a name that no runner has.
    """
    if runner not in MODULES:
        raise ValueError(f"{runner!r} is no runner; choose one of: {', '.join(RUNNERS)}")
    try:
        module = importlib.import_module(MODULES[runner])
        if runner == "trio":
            importlib.import_module("trio")
    except ModuleNotFoundError as error:
        raise RunnerMissing(f"the {runner} runner needs {error.name}: pip install {error.name}") from None
    outcome: Outcome = getattr(module, f"run_{runner}")(gateway, options)
    return outcome


@contextlib.contextmanager
def serving(gateway: Any, loop: Loop, options: Options, *, most_clients: int | None = None) -> Iterator[Body]:
    """A body that has been started, and whose `commanded` is to be called whenever `options.control` is
    readable. At the end everything it holds is closed, however the block ends."""
    signals: list[int] = []
    if options.signals:
        signals = [signal.SIGINT, signal.SIGTERM]
        # Without anything to read again, a lost terminal ends us as it ends other programs.
        signals += [signal.SIGHUP] if options.reload is not None else []
    with options.control.open(signals):
        body = Body(gateway, loop, options, most_clients=most_clients)
        try:
            body.start()
            yield body
        finally:
            body.close()
