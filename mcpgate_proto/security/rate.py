"""How much callers may ask for: token buckets and caps.

Owns: `Buckets`, one table of token buckets; `Rates`, the limits of a gateway per address, principal, server
and tool, and the caps on calls in flight and on connections.
Must never: hold a request back (it is refused with the time to wait, never queued); forget what a flooder
has used up; refuse a local caller for what only callers from elsewhere are limited in.

A bucket is one number: the moment at which it will be full again (GCRA, ITU-T I.371, as ATM switches count
cells). Taking a token moves that moment on by one interval; a token is there while the moment is no further
away than `burst` intervals. Counted in whole nanoseconds, so nothing drifts, and a full bucket is the same as
none: forgetting it changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Hashable

import msgspec

from mcpgate_proto.config import OFF, GatewayConfig, ListenConfig, Rate, RateConfig, ServerConfig
from mcpgate_proto.hub import Hub
from mcpgate_proto.security.address import Source, is_loopback
from mcpgate_proto.security.notices import Notices
from mcpgate_proto.security.principal import ANONYMOUS, Principal

__all__ = ["Buckets", "Limited", "Rates", "is_exposed"]

_SECOND = 1_000_000_000
# The runner's clock is a float: who waited as long as it was told may seem to be early by so much. It is no
# gain: the token is taken from the time when it is there.
_EARLY = 1000
# A full table is searched for full buckets so often; in between, newcomers share one bucket.
_SWEEP = _SECOND

# A failed authentication costs as much as so many requests: guessing is slower than using.
FAILED_AUTHENTICATION = 20
# Characters of a tool's name that count: a name that nobody has checked may be a megabyte.
NAME = 128


class Limited(msgspec.Struct, frozen=True, gc=False):
    """A refusal. `what` names the limit, for counters and records; `wait_ns` is the least time after which
    the same request would pass, if nothing else came."""

    what: str
    wait_ns: int

    @property
    def retry_after_s(self) -> int:
        """For `Retry-After` (RFC 9110 section 10.2.3), which has whole seconds: never too short."""
        return max(1, -(-self.wait_ns // _SECOND))

    @property
    def wait_s(self) -> float:
        return self.wait_ns / _SECOND

    @property
    def retry_after_ms(self) -> int:
        return max(1, -(-self.wait_ns // 1_000_000))


class Buckets:
    """Token buckets of one rate, by key: at most `most`.

    A full table makes room by dropping buckets that are full again, which is no loss. While there are none,
    all newcomers share one bucket, and who gets a bucket of its own later starts with what the shared one
    has: so nobody passes with more than `burst + per_s * t` in any time `t`, however the table is filled.
    """

    __slots__ = ("_full_at", "_interval", "_most", "_shared", "_swept", "_window")

    def __init__(self, rate: Rate, most: int) -> None:
        # Rounded up: the rate is never exceeded.
        self._interval = max(1, math.ceil(_SECOND / rate.per_s))
        self._window = self._interval * max(1, rate.burst)
        self._most = most
        self._full_at: dict[Hashable, int] = {}
        self._shared = 0
        self._swept = 0

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: Hashable, now: float) -> int:
        """Take one token at `now` (monotonic seconds). 0 when there was one, else the nanoseconds until
        there is; then nothing was taken."""
        at = int(now * _SECOND)
        full_at = self._full_at.get(key)
        own = full_at is not None or self._room(at)
        if full_at is None:
            full_at = self._shared
        taken = (full_at if full_at > at else at) + self._interval
        wait = taken - self._window - at
        if wait > _EARLY:
            return wait
        if own:
            self._full_at[key] = taken
        else:
            self._shared = taken
        return 0

    def spill(self, key: Hashable, now: float, count: int) -> None:
        """Take `count` tokens, or what there is."""
        at = int(now * _SECOND)
        full_at = self._full_at.get(key)
        own = full_at is not None or self._room(at)
        if full_at is None:
            full_at = self._shared
        taken = min(max(full_at, at) + count * self._interval, at + self._window)
        taken = max(taken, full_at)
        if own:
            self._full_at[key] = taken
        else:
            self._shared = taken

    def _room(self, at: int) -> bool:
        """Whether another key can have a bucket of its own."""
        if len(self._full_at) >= self._most and at - self._swept >= _SWEEP:
            self._swept = at
            self._full_at = {key: full_at for key, full_at in self._full_at.items() if full_at > at}
        return len(self._full_at) < self._most


def is_exposed(listen: ListenConfig) -> bool:
    """Whether callers from beyond this machine can reach it: a network address, or a proxy in front."""
    if listen.kind != "http":
        return False
    return listen.behind_proxy or (not listen.socket_path and not is_loopback(listen.host))


class _Bounds(msgspec.Struct, frozen=True, gc=False):
    """What is in force for one kind of caller; a cap of 0 is none."""

    address: Rate = OFF
    principal: Rate = OFF
    tool: Rate = OFF
    calls: int = 0
    connections: int = 0

    def with_(self, told: RateConfig) -> _Bounds:
        """These are the defaults of `told`."""
        return _Bounds(
            address=self.address if told.address is None else told.address,
            principal=self.principal if told.principal is None else told.principal,
            tool=self.tool if told.tool is None else told.tool,
            calls=self.calls if told.concurrent_calls is None else told.concurrent_calls,
            connections=self.connections
            if told.connections_per_address is None
            else told.connections_per_address,
        )


NONE = _Bounds()
# Where nothing is configured and a listener is reached from beyond this machine. Generous: an agent at work
# makes a few calls a second, an office behind one address has many agents.
DEFAULTS = _Bounds(address=Rate(200.0, 1000), principal=Rate(100.0, 500), calls=256, connections=256)


class Rates:
    """The limits of one gateway. Every refusal counts, and is recorded once per caller and interval.

    Local callers (stdio, a Unix socket of the same user) are limited per server and tool only.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.notices = Notices(hub)
        self._tables: dict[str, tuple[Rate, Buckets]] = {}
        # Open connections by the key of their source.
        self._connections: dict[str, int] = {}
        self._config: GatewayConfig | None = None
        self._bounds = (NONE, NONE)

    def _for(self, known: bool) -> _Bounds:
        """For callers that are `known`: an address of their own, an identity. Of others, such as all clients
        of one proxy, many look like one: only what was written down holds for them."""
        config = self._hub.config
        if config is not self._config:
            self._config = config
            defaults = DEFAULTS if any(is_exposed(one) for one in config.listeners) else NONE
            self._bounds = (NONE.with_(config.rate), defaults.with_(config.rate))
        return self._bounds[known]

    # -- buckets

    def _take(self, table: str, rate: Rate, key: Hashable) -> int:
        found = self._tables.get(table)
        if found is None or found[0] != rate:
            found = self._tables[table] = (rate, Buckets(rate, self._hub.limits.rate_buckets))
        return found[1].take(key, self._hub.now)

    def address(self, source: Source) -> Limited | None:
        """One HTTP request from `source`."""
        rate = self._for(source.own).address
        if rate.per_s <= 0 or not source.key:
            return None
        wait = self._take("address", rate, source.key)
        return self._refused("rate_address", wait, source.text, address=source.text) if wait else None

    def failed_authentication(self, source: Source) -> None:
        """What a wrong credential costs the address that it came from, on top of its request."""
        found = self._tables.get("address")
        if source.key and found is not None and found[0] == self._for(source.own).address:
            found[1].spill(source.key, self._hub.now, FAILED_AUTHENTICATION)

    def principal(self, principal: Principal) -> Limited | None:
        """One message of `principal`: a request, a notification, an answer, each part of a batch."""
        if principal.local:
            return None
        rate = self._for(principal != ANONYMOUS).principal
        if rate.per_s <= 0:
            return None
        wait = self._take("principal", rate, principal.id)
        return self._refused("rate_principal", wait, principal.id, principal=principal.id) if wait else None

    def call(self, principal: Principal, server: ServerConfig, tool: str | None) -> Limited | None:
        """One call that goes to `server`; `tool` is its own name where it is a tool's. Who has used up what
        is his own takes nothing of what all share."""
        own = server.tool_rates.get(tool) if tool is not None else OFF
        rate = own if own is not None else self._for(True).tool
        if tool is not None and rate.per_s > 0:
            table = "tool" if own is None else f"tool {server.name} {tool}"
            tool = tool[:NAME]
            wait = self._take(table, rate, (server.name, tool, principal.id))
            if wait:
                told = {"server": server.name, "tool": tool, "principal": principal.id}
                return self._refused("rate_tool", wait, f"{server.name} {tool} {principal.id}", **told)
        if server.rate is not None and server.rate.per_s > 0:
            wait = self._take(f"server {server.name}", server.rate, "")
            if wait:
                return self._refused("rate_server", wait, server.name, server=server.name)
        return None

    # -- caps

    def most_calls(self, principal: Principal) -> int:
        """How many calls `principal` may have in flight; 0: no cap."""
        return 0 if principal.local else self._for(principal != ANONYMOUS).calls

    def too_many_calls(self, principal: Principal) -> Limited:
        return self._refused("cap_calls", _SECOND, principal.id, principal=principal.id)

    def enter(self, source: Source) -> bool:
        """A connection from `source`. False: it has too many; else `leave` follows when this one is gone."""
        if source.key:
            most = self._for(source.own).connections
            held = self._connections.get(source.key, 0)
            if most and held >= most:
                self._refused("cap_connections", _SECOND, source.text, address=source.text)
                return False
            self._connections[source.key] = held + 1
        return True

    def leave(self, source: Source) -> None:
        held = self._connections.pop(source.key, 0)
        if held > 1:
            self._connections[source.key] = held - 1

    # -- refusals

    def _refused(self, what: str, wait_ns: int, subject: str, **fields: str) -> Limited:
        limited = Limited(what, wait_ns)
        self._hub.count(f"refused_{what}")
        self.notices.tell("warning", "rate_limited", f"{what} {subject}", what=what, **fields)
        return limited
