"""A gateway as a process: its log, its ready line, its exit code.

Owns: what a person sees of a run on stderr, recording, reload on SIGHUP.
Must never: write to stdout, which may belong to the protocol.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from mcpgate import __version__
from mcpgate.fd import reason_of
from mcpgate.logs import audit_sink, escaped, json_sink, text_sink, with_audit
from mcpgate.privileges import PrivilegeError
from mcpgate.redact import Redactor
from mcpgate.service import Rights, Service
from mcpgate_proto.config import GatewayConfig, ListenConfig
from mcpgate_proto.effects import Address, Record

if TYPE_CHECKING:
    from mcpgate.settings import Settings

__all__ = ["EXIT_FAILURE", "EXIT_INTERRUPTED", "EXIT_OK", "EXIT_USAGE", "Plan", "run_plan", "tell"]

# mallopt(3).
M_MMAP_THRESHOLD = -3
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
    # Those of a config file: read again on SIGHUP, and when a secret's file changes.
    settings: Settings | None = None
    # What is changed in `settings.gateway`, also when it is read again.
    adjust: Callable[[GatewayConfig], GatewayConfig] = lambda config: config
    rights: Rights = Rights()
    # Called with the addresses once clients are let in; `None` prints the usual lines.
    ready: Callable[[dict[str, Address]], None] | None = None
    # How somebody is shown where to log in; see `Options.browse`.
    browse: Callable[[str, str], None] | None = None


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


def _return_memory() -> None:
    """Large texts have memory of their own, and give it back: glibc would come to keep up to twice the
    largest one for itself (mallopt(3))."""
    import ctypes

    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 20)


def run_plan(plan: Plan) -> int:
    """Run until told to stop; returns the exit code."""
    from mcpgate.control import Options
    from mcpgate.life import RunnerMissing, new_gateway, run_gateway

    service = Service(plan.config, plan.settings, plan.rights)
    if refusal := service.root_refusal():
        tell(refusal)
        return EXIT_USAGE
    if warning := service.root_warning():
        tell(warning)
    try:
        sink = json_sink(plan.log_file) if plan.log_file else text_sink()
    except OSError as error:
        tell(f"cannot write the log file {plan.log_file}: {reason_of(error)}; correct [gateway] log_file")
        return EXIT_USAGE
    audit = plan.settings.audit if plan.settings is not None else ""
    try:
        sink = with_audit(sink, audit_sink(audit)) if audit else sink
    except OSError as error:
        tell(f"cannot write the audit file {audit}: {reason_of(error)}; correct [gateway] audit")
        return EXIT_USAGE
    sink = service.redactor.sink(sink)
    recorder = None
    gateway: Any
    if plan.record:
        from mcpgate.journal import Recorder

        try:
            recorder = Recorder.start(plan.config, plan.record, version=__version__)
        except OSError as error:
            tell(f"cannot write the recording {plan.record}: {reason_of(error)}")
            return EXIT_USAGE
        except UnicodeEncodeError:
            tell("a recording cannot hold an argument or a variable that is not UTF-8; leave --record out")
            return EXIT_USAGE
        tell(f"warning: the recording {plan.record} holds secrets as they are; keep it as you keep them")
        gateway = recorder
    else:
        gateway = new_gateway(plan.config)
    options = Options(
        sink=sink,
        bound=service.bound,
        ready=partial(_ready, plan, service),
        stopping=service.stopping,
        chores=service.chores,
        own_process=True,
        browse=plan.browse,
        reload=partial(_reload, plan, service, sink) if plan.settings is not None else None,
    )
    _return_memory()
    try:
        outcome = run_gateway(gateway, plan.runner, options)
    except RunnerMissing as error:
        tell(str(error))
        return EXIT_USAGE
    except PrivilegeError as error:
        tell(f"stopped: {error}")
        return EXIT_FAILURE
    except BrokenPipeError as error:
        # Whoever calls takes it for the end of our own stdout (`| head`), and would say nothing.
        raise RuntimeError("a connection has ended the gateway: this is a defect of mcpgate") from error
    finally:
        if recorder is not None:
            recorder.close()
    return _exit_code(plan.config, outcome, service.redactor)


def _ready(plan: Plan, service: Service, addresses: dict[str, Address]) -> None:
    (plan.ready or partial(_print_ready, plan.config))(addresses)
    service.ready()


def _print_ready(config: GatewayConfig, addresses: dict[str, Address]) -> None:
    for listener in config.listeners:
        address = addresses.get(listener.name)
        if address is None:
            continue
        if listener.kind != "stdio":
            tell(f"listening on {endpoint(listener, address)}")
        else:
            tell("speaking MCP on stdin and stdout")


def _exit_code(config: GatewayConfig, outcome: Any, redactor: Redactor) -> int:
    for listener in config.listeners:
        if (reason := outcome.listen_failures.get(listener.name)) is not None:
            where = Address(host=listener.host, port=listener.port, path=listener.socket_path)
            mend = "; choose another port (--port 0 takes a free one)" if not where.path else ""
            tell(f"cannot listen on {where}: {reason}{mend if reason == IN_USE else ''}")
    if outcome.failure is not None:
        tell(f"stopped: {escaped(redactor.text(outcome.failure))}")
        return EXIT_FAILURE
    return EXIT_INTERRUPTED if outcome.signal == signal.SIGINT else EXIT_OK


def _reload(plan: Plan, service: Service, sink: Callable[[Record], None]) -> GatewayConfig | None:
    config = service.reload(sink)
    return None if config is None else plan.adjust(config)
