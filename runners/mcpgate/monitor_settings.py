"""What monitoring systems and auditors are told: `[monitor]`, `monitor` of a listener, `[gateway] audit`.

Owns: what these keys mean, and that no two endpoints have one path. Must never: open anything by default.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from mcpgate.logs import STDERR
from mcpgate.tables import Problems, Table, path_problem, suggestion
from mcpgate_proto.config import ListenConfig, MonitorConfig

__all__ = ["read_audit", "read_listener_monitor", "read_monitor"]

KINDS = ("health", "ready", "metrics")


def read_monitor(root: Table, problems: Problems, listeners: Iterable[ListenConfig]) -> MonitorConfig:
    """The table `[monitor]`; its paths must not be those of anything else at a listener that has them."""
    root.known.append("monitor")
    table = Table(root.values.get("monitor", {}), "monitor", problems, root.expander)
    found = MonitorConfig(
        health_path=table.text("health_path", "/healthz"),
        ready_path=table.text("ready_path", "/readyz"),
        metrics_path=table.text("metrics_path", "/metrics"),
        ready=table.text("ready", "any", ("any", "all")),  # type: ignore[arg-type]
    )
    table.finish()
    paths = {"health": found.health_path, "ready": found.ready_path, "metrics": found.metrics_path}
    for kind, path in paths.items():
        key = table.key(f"{kind}_path")
        if problem := path_problem(path):
            problems.error(key, *problem)
        for listener in listeners:
            taken = [listener.path]
            taken += [listener.sse_path, listener.messages_path] if listener.sse else []
            taken += [other for name, other in paths.items() if name != kind and name in listener.monitor]
            if kind in listener.monitor and path in taken:
                problems.error(key, "is the path of something else too", "give each its own")
                break
    return found


def read_listener_monitor(table: Table, listener: ListenConfig) -> ListenConfig:
    """Which endpoints a listener has."""
    wanted = table.texts("monitor")
    for number, one in enumerate(wanted):
        if one not in KINDS:
            near = suggestion(one, KINDS) or f"choose from: {', '.join(KINDS)}"
            table.problems.error(f"{table.key('monitor')}[{number}]", f"{one!r} is nothing to be told", near)
    kept = tuple(one for one in KINDS if one in wanted)
    return msgspec.structs.replace(listener, monitor=kept)


def read_audit(gateway: Table, base: Path) -> tuple[str, bool]:
    """Where the audit stream goes: nowhere, to stderr, or to a file, whose full path this is; and whether it
    has the arguments of calls."""
    told, arguments = gateway.text("audit"), gateway.flag("audit_arguments", False)
    if arguments and not told:
        mend = 'write audit = "audit.jsonl" too, or remove it'
        gateway.problems.error(gateway.key("audit_arguments"), "means nothing without audit", mend)
    return told if told in ("", STDERR) else str(base / os.path.expanduser(told)), arguments
