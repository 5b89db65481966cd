"""A gateway as a process: its log, its ready line, its exit code.

Owns: what a person sees of a run on stderr, recording, reload on SIGHUP.
Must never: write to stdout, which may belong to the protocol.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mcpgate import __version__
from mcpgate.logs import escaped, json_sink, text_sink
from mcpgate_proto.config import GatewayConfig, ListenConfig
from mcpgate_proto.effects import Address, Record

__all__ = ["EXIT_FAILURE", "EXIT_INTERRUPTED", "EXIT_OK", "EXIT_USAGE", "Plan", "run_plan", "tell"]

IN_USE = os.strerror(errno.EADDRINUSE).lower()
EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT


@dataclass
class Plan:
    """What to run, and how a person wants to hear of it."""

    config: GatewayConfig
    log_file: str = ""
    runner: str = "asyncio"
    record: str = ""
    # Re-read on SIGHUP.
    config_path: Path | None = None
    # Called with the addresses once clients are let in; `None` prints the usual lines.
    ready: Callable[[dict[str, Address]], None] | None = None


def tell(text: str) -> None:
    """One line for the person at the terminal."""
    print(f"mcpgate: {text}", file=sys.stderr, flush=True)


def endpoint(listener: ListenConfig, address: Address) -> str:
    """Where clients find a listener."""
    if listener.kind == "unix":
        return str(address)
    scheme = "http" if listener.tls is None else "https"
    if address.path:
        return f"{scheme}+{address}:{listener.path}"
    return f"{scheme}://{address}{listener.path}"


def run_plan(plan: Plan) -> int:
    """Run until told to stop; returns the exit code."""
    from mcpgate.control import Options
    from mcpgate.life import RunnerMissing, new_gateway, run_gateway

    try:
        sink = json_sink(plan.log_file) if plan.log_file else text_sink()
    except OSError as error:
        tell(f"cannot write the log file {plan.log_file}: {error.strerror}; correct [gateway] log_file")
        return EXIT_USAGE
    recorder = None
    gateway: Any
    if plan.record:
        from mcpgate.journal import Recorder

        try:
            recorder = Recorder.start(plan.config, plan.record, version=__version__)
        except OSError as error:
            tell(f"cannot write the recording {plan.record}: {error.strerror}")
            return EXIT_USAGE
        gateway = recorder
    else:
        gateway = new_gateway(plan.config)
    options = Options(
        sink=sink,
        ready=plan.ready or (lambda addresses: _print_ready(plan.config, addresses)),
        own_process=True,
        reload=partial(_reload, plan.config_path, sink) if plan.config_path else None,
    )
    try:
        outcome = run_gateway(gateway, plan.runner, options)
    except RunnerMissing as error:
        tell(str(error))
        return EXIT_USAGE
    finally:
        if recorder is not None:
            recorder.close()
    return _exit_code(plan.config, outcome)


def _print_ready(config: GatewayConfig, addresses: dict[str, Address]) -> None:
    for listener in config.listeners:
        address = addresses.get(listener.name)
        if address is None:
            continue
        if listener.kind != "stdio":
            tell(f"listening on {endpoint(listener, address)}")
        else:
            tell("speaking MCP on stdin and stdout")


def _exit_code(config: GatewayConfig, outcome: Any) -> int:
    for listener in config.listeners:
        if (reason := outcome.listen_failures.get(listener.name)) is not None:
            where = Address(host=listener.host, port=listener.port, path=listener.socket_path)
            mend = "; choose another port (--port 0 takes a free one)" if not where.path else ""
            tell(f"cannot listen on {where}: {reason}{mend if reason == IN_USE else ''}")
    if outcome.failure is not None:
        tell(f"stopped: {escaped(outcome.failure)}")
        return EXIT_FAILURE
    return EXIT_INTERRUPTED if outcome.signal == signal.SIGINT else EXIT_OK


def _reload(path: Path, sink: Callable[[Record], None]) -> GatewayConfig | None:
    """The config read again; a bad file leaves the old one and says why."""
    from mcpgate.settings import SettingsError, load

    try:
        return load(path).gateway
    except SettingsError as error:
        for problem in error.problems:
            fields = (("file", problem.file), ("key", problem.key), ("problem", problem.problem))
            sink(Record("error", "config_not_reloaded", fields))
        return None
