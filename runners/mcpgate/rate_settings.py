"""How much callers may ask for, and from where: `[rate]`, the rates of servers, the networks of listeners.

Owns: what these keys mean, and the checks of them.
Must never: let a network that cannot be read count as none.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from mcpgate.tables import Problems, Table
from mcpgate_proto.config import OFF, ListenConfig, Rate, RateConfig
from mcpgate_proto.security.address import UNIX, network_problem

__all__ = ["NETWORK_KEYS", "read_networks", "read_rates", "read_server_rates"]

NETWORK_KEYS = ("allow_cidrs", "deny_cidrs", "trusted_proxies", "forwarded_header")
HEADERS = ("x-forwarded-for", "forwarded")
# Slower than one in three hours is a mistake, and faster than this is no limit.
LEAST_PER_S, MOST = 0.0001, 1_000_000


def read_rates(root: Table, problems: Problems) -> RateConfig:
    """The table `[rate]`."""
    root.known.append("rate")
    table = Table(root.values.get("rate", {}), "rate", problems, root.expander)
    found = RateConfig(
        principal=_rate(table, "principal"),
        address=_rate(table, "address"),
        tool=_rate(table, "tool"),
        concurrent_calls=_cap(table, "concurrent_calls"),
        connections_per_address=_cap(table, "connections_per_address"),
    )
    table.finish()
    return found


def read_server_rates(table: Table) -> dict[str, Any]:
    """The keys `rate` and `tool_rates` of a server, as fields of `ServerConfig`."""
    named = table.any_map("tool_rates")
    tools = Table(named, table.key("tool_rates"), table.problems, table.expander)
    rates = {name: _rate(tools, name) for name in named}
    whole = _rate(table, "rate")
    return {"rate": whole, "tool_rates": {name: one for name, one in rates.items() if one is not None}}


def _cap(table: Table, name: str) -> int | None:
    value = table.whole(name, 0, most=MOST)
    return value if name in table.values else None


def _rate(table: Table, name: str) -> Rate | None:
    """`{ per_s = 50, burst = 100 }` or "off"; None where there is nothing."""
    table.known.append(name)
    value = table.values.get(name)
    if value is None:
        return None
    if value == "off":
        return OFF
    if not isinstance(value, dict):
        mend = f'write {name} = {{ per_s = 50, burst = 100 }}, or "off"'
        table.problems.error(table.key(name), "is no rate", mend)
        return None
    inner = Table(value, table.key(name), table.problems, table.expander)
    if "per_s" not in value:
        table.problems.error(inner.key("per_s"), "is missing", "write how many a second are let through")
    per_s = inner.number("per_s", 1.0, least=LEAST_PER_S, most=MOST)
    burst = inner.whole("burst", max(1, math.ceil(2 * per_s)), least=1, most=2 * MOST)
    inner.finish()
    return Rate(per_s, burst)


def read_networks(table: Table, listener: ListenConfig) -> ListenConfig:
    """The networks of a listener."""
    found = msgspec.structs.replace(
        listener,
        allow_cidrs=table.texts("allow_cidrs"),
        deny_cidrs=table.texts("deny_cidrs"),
        trusted_proxies=table.texts("trusted_proxies"),
        forwarded_header=table.text("forwarded_header", HEADERS[0], HEADERS),
    )
    good = {
        key: tuple(entry for number, entry in enumerate(entries) if _is_network(table, key, number, entry))
        for key, entries in (
            ("allow_cidrs", found.allow_cidrs),
            ("deny_cidrs", found.deny_cidrs),
            ("trusted_proxies", found.trusted_proxies),
        )
    }
    if listener.socket_path:
        for key in ("allow_cidrs", "deny_cidrs"):
            if good[key] and UNIX not in found.trusted_proxies:
                mend = 'add trusted_proxies = ["unix"] where a proxy connects here, or remove the key'
                table.problems.error(table.key(key), "means nothing on a Unix socket", mend)
    if "forwarded_header" in table.values and not found.trusted_proxies:
        mend = "name the networks of your proxies in trusted_proxies, or remove the key"
        table.problems.error(table.key("forwarded_header"), "is read from trusted proxies only", mend)
    return msgspec.structs.replace(found, **good)


def _is_network(table: Table, key: str, number: int, entry: str) -> bool:
    if key == "trusted_proxies" and entry == UNIX:
        return True
    problem = network_problem(entry)
    if problem:
        mend = "write a network such as 10.0.0.0/8, or an address"
        table.problems.error(f"{table.key(key)}[{number}]", problem, mend)
    return not problem
