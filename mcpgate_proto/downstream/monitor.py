"""What mcpgate tells monitoring systems: `/healthz`, `/readyz`, `/metrics` (docs/operations.md).

Owns: these three endpoints and the names of all metrics. `/healthz` says only that the process answers, and
so needs no credentials; the others stand behind the gate.
Must never: name a principal, an address, a tool or anything else of which there is no end; rename a metric.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from mcpgate_proto.config import MonitorConfig
from mcpgate_proto.downstream.http import HttpClient
from mcpgate_proto.downstream.http_headers import JSON
from mcpgate_proto.relay.ports import ServerStatus
from mcpgate_proto.relay.tally import BOUNDS_S, Tally
from mcpgate_proto.wire import http1_server as http1
from mcpgate_proto.wire import jsonrpc

__all__ = ["Facts", "Health", "Metrics", "Ready", "metrics_text"]

# Prometheus text format 0.0.4.
TEXT = "text/plain; version=0.0.4; charset=utf-8"
PLAIN = "text/plain; charset=utf-8"
NO_STORE = ("Cache-Control", "no-store")
USABLE = ("connected", "idle")
STATES = ("connected", "connecting", "idle", "down", "disabled")

# Attribute of the snapshot, name, meaning.
GAUGES = (
    ("connections", "connections", "Connections that are open, of clients and to servers."),
    ("clients", "clients", "Clients that are connected."),
    ("sessions", "sessions", "Sessions of clients of the legacy era."),
    ("calls", "calls_in_flight", "Calls of clients without an outcome."),
    ("upstream_calls", "upstream_calls_in_flight", "Requests that servers have not answered."),
    ("streams", "streams", "Event streams that are kept for clients."),
    ("subscriptions", "subscriptions", "Subscriptions of clients of the modern era."),
    ("parked", "parked_calls", "Calls that wait for the answers of stateless clients."),
    ("interests", "interests", "Clients that are told of changes."),
    ("timers", "timers", "Deadlines that are armed."),
    ("unsent", "unsent_bytes", "Bytes that peers have not taken yet."),
    ("unread", "unread_bytes", "Bytes of messages that have not arrived in full."),
)
# Counters whose names would not say it. The others are explained by what they are called.
MEANINGS = {
    "accepts_failed": "Clients that could not be accepted, for want of descriptors most likely.",
    "auth_refused": "Requests without credentials that are good.",
    "calls": "Calls of clients that went to a server.",
    "calls_timed_out": "Calls that took too long.",
    "connections_refused": "Connections beyond limits.connections.",
    "credentials_expired": "Streams and connections that ended with the credentials they were opened with.",
    "defects": "Errors in mcpgate itself; each is recorded with its place.",
    "denied": "Calls that a rule or a pin does not let through.",
    "door_refused": "Requests whose Host or Origin is not served here.",
    "dropped_not_draining": "Peers dropped with too much unsent.",
    "dropped_stalled": "Peers dropped because they took nothing for too long.",
    "dropped_over_budget": "Peers dropped because all together had too much unsent.",
    "http_refused": "Requests that are not valid HTTP, or too large.",
    "http_slow_bodies": "Requests whose body came too slowly.",
    "http_slow_heads": "Requests whose head came too slowly.",
    "malformed_messages": "Messages that are no JSON-RPC.",
    "messages_too_long": "Messages beyond limits.message_bytes.",
    "parking_refused": "Calls that could not wait for their client's answers, for there were too many.",
    "peers_refused": "Users that may not connect to a Unix socket.",
    "refused_address": "Connections and requests from networks that may not call.",
    "refused_cap_calls": "Calls beyond [rate] concurrent_calls.",
    "refused_cap_connections": "Connections beyond [rate] connections_per_address.",
    "refused_calls": "Calls beyond limits.calls.",
    "refused_memory": "Messages refused because all together held too much memory.",
    "refused_rate_address": "Requests beyond [rate] address.",
    "refused_rate_principal": "Messages beyond [rate] principal.",
    "refused_rate_server": "Calls beyond the rate of their server.",
    "refused_rate_tool": "Calls beyond the rate of their tool.",
    "requests_refused": "Requests on pipes and sockets beyond limits.calls_per_session.",
    "sessions_refused": "Sessions beyond limits.sessions and limits.sessions_per_principal.",
    "slow_messages": "Messages on sockets that came too slowly.",
}


class Facts(Protocol):
    """What the gateway knows of itself: `gateway.Snapshot`, as far as it is needed here."""

    @property
    def servers(self) -> list[ServerStatus]: ...
    @property
    def counters(self) -> dict[str, int]: ...
    @property
    def stopping(self) -> bool: ...


class Health:
    """The process is there and answers. Implements `http.Open`."""

    def get(self, http: HttpClient, head: http1.RequestHead) -> None:
        http.respond(200, [("Content-Type", PLAIN), NO_STORE], b"ok\n")


class _Read:
    """Something to read. Implements `http.Endpoint`."""

    def get(self, http: HttpClient, head: http1.RequestHead) -> None:
        raise NotImplementedError

    def post(self, http: HttpClient, head: http1.RequestHead, body: bytes) -> None:
        http.not_allowed("GET, OPTIONS")

    def delete(self, http: HttpClient, head: http1.RequestHead) -> None:
        http.not_allowed("GET, OPTIONS")


class Ready(_Read):
    """Whether work may be sent here: 200, or 503 while stopping, or while too few servers are usable."""

    def __init__(self, facts: Callable[[], Facts], config: Callable[[], MonitorConfig]) -> None:
        self._facts = facts
        self._config = config

    def get(self, http: HttpClient, head: http1.RequestHead) -> None:
        facts = self._facts()
        enabled = [one for one in facts.servers if one.enabled]
        usable = sum(1 for one in enabled if one.state in USABLE)
        wanted = len(enabled) if self._config().ready == "all" else min(1, len(enabled))
        ready = usable >= wanted and not facts.stopping
        told = {"ready": ready, "servers": {one.name: one.state for one in facts.servers}}
        body = bytes(jsonrpc.to_raw(told))
        http.respond(200 if ready else 503, [("Content-Type", JSON), NO_STORE], body)


class Metrics(_Read):
    """Everything that is counted, in the text format of Prometheus."""

    def __init__(
        self, facts: Callable[[], Facts], tallies: Callable[[], Mapping[str, Tally]], version: str
    ) -> None:
        self._facts = facts
        self._tallies = tallies
        self._version = version

    def get(self, http: HttpClient, head: http1.RequestHead) -> None:
        body = metrics_text(self._facts(), self._tallies(), self._version)
        http.respond(200, [("Content-Type", TEXT), NO_STORE], body)


def metrics_text(facts: Facts, tallies: Mapping[str, Tally], version: str) -> bytes:
    """One scrape."""
    return "".join(f"{line}\n" for line in _lines(facts, tallies, version)).encode()


def _lines(facts: Facts, tallies: Mapping[str, Tally], version: str) -> Iterator[str]:
    yield from _head("build_info", "gauge", "The version, as a label; always 1.")
    yield f"mcpgate_build_info{_labels(version=version)} 1"
    yield from _head("stopping", "gauge", "1 once mcpgate has been told to stop.")
    yield f"mcpgate_stopping {int(facts.stopping)}"
    for attribute, name, meaning in GAUGES:
        yield from _head(name, "gauge", meaning)
        yield f"mcpgate_{name} {getattr(facts, attribute)}"
    yield from _servers(facts.servers)
    yield from _calls(tallies)
    for name, count in sorted(facts.counters.items()):
        told = MEANINGS.get(name, f"Count of {name.replace('_', ' ')}.")
        # `calls` and the calls by server are of one family otherwise.
        name = "calls_started" if name == "calls" else name
        yield from _head(f"{name}_total", "counter", told)
        yield f"mcpgate_{name}_total {count}"


def _servers(servers: list[ServerStatus]) -> Iterator[str]:
    yield from _head(
        "server_up", "gauge", "1 while a server is usable: connected, or idle until it is needed."
    )
    for one in servers:
        yield f"mcpgate_server_up{_labels(server=one.name)} {int(one.state in USABLE)}"
    yield from _head("server_state", "gauge", "1 for the state that a server is in, 0 for the others.")
    for one in servers:
        for state in STATES:
            yield f"mcpgate_server_state{_labels(server=one.name, state=state)} {int(one.state == state)}"
    yield from _head("server_sessions", "gauge", "Sessions with a server.")
    for one in servers:
        yield f"mcpgate_server_sessions{_labels(server=one.name)} {one.sessions}"
    yield from _head("server_calls_in_flight", "gauge", "Requests that a server has not answered.")
    for one in servers:
        yield f"mcpgate_server_calls_in_flight{_labels(server=one.name)} {one.calls}"
    yield from _head("server_restarts_total", "counter", "How often a server was started or dialled again.")
    for one in servers:
        yield f"mcpgate_server_restarts_total{_labels(server=one.name)} {one.restarts}"


def _calls(tallies: Mapping[str, Tally]) -> Iterator[str]:
    yield from _head("calls_total", "counter", "Calls that are over, by server and outcome.")
    for server, tally in tallies.items():
        for outcome, count in tally.outcomes.items():
            yield f"mcpgate_calls_total{_labels(server=server, outcome=outcome)} {count}"
    name = "call_duration_seconds"
    yield from _head(name, "histogram", "How long calls took, questions to the client included.")
    for server, tally in tallies.items():
        seen = 0
        for bound, count in zip((*BOUNDS_S, None), tally.buckets, strict=True):
            seen += count
            le = "+Inf" if bound is None else f"{bound:g}"
            yield f"mcpgate_{name}_bucket{_labels(server=server, le=le)} {seen}"
        yield f"mcpgate_{name}_sum{_labels(server=server)} {tally.seconds:.6f}"
        yield f"mcpgate_{name}_count{_labels(server=server)} {seen}"


def _head(name: str, kind: str, meaning: str) -> tuple[str, str]:
    return f"# HELP mcpgate_{name} {meaning}", f"# TYPE mcpgate_{name} {kind}"


def _labels(**labels: str) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
