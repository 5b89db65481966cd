"""What a legacy and a modern session with a server have in common.

Owns: request ids of this hop (a counter: A4, A5), which also serve as progress tokens; the table of
calls in flight; the gateway's own requests with their time limits; the lease of a channel that cannot
tell which call a server's request belongs to (L0.4).
Must never: choose who may use a session (the pool does), or keep a call after its outcome.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from mcpgate_proto.hub import Hub
from mcpgate_proto.mcp.codes import Fault, FaultKind
from mcpgate_proto.mcp.revisions import Era
from mcpgate_proto.relay.exchange import Audience, Client, Exchange, Members
from mcpgate_proto.timers import Timer
from mcpgate_proto.upstream.keys import PoolKey
from mcpgate_proto.upstream.link import Link, Loss, Outgoing
from mcpgate_proto.wire import jsonrpc, values
from mcpgate_proto.wire.jsonrpc import Raw

__all__ = ["FORGOTTEN", "RETIRED", "Done", "Host", "UpstreamSession"]

Done = Callable[[Members | Fault], None]

EMPTY = values.EMPTY
# Why a session is over when its server has forgotten it: no failure, and what was refused for it was not
# carried out (D10).
FORGOTTEN = "it no longer knows our session"
# A channel that may still carry a question of a cancelled call, and whose client is gone.
RETIRED = "its channel cannot be lent again"
LIST_CHANGED = {
    "notifications/tools/list_changed": "tools",
    "notifications/prompts/list_changed": "prompts",
    "notifications/resources/list_changed": "resources",
}


class Host(Protocol):
    """What a session tells the pool."""

    def session_ready(self, session: UpstreamSession) -> None: ...
    def session_over(self, session: UpstreamSession, reason: str, fault: Fault | None) -> None: ...
    def session_freed(self, session: UpstreamSession) -> None: ...
    def refused(self, session: UpstreamSession, status: int) -> Fault | None:
        """What to tell of an HTTP refusal that is about credentials (J9)."""

    def list_changed(self, session: UpstreamSession, kind: str) -> None: ...
    def resource_updated(self, session: UpstreamSession, params: Members) -> None: ...
    def replan(self, exchange: Exchange, done: Callable[[], None]) -> None: ...
    def place(self, exchange: Exchange) -> None: ...
    def may_hold(self, session: UpstreamSession) -> bool:
        """Whether it may stay for its tasks, however long they take: its principal leaves room for others."""

    def doubts(self, era: Era) -> bool:
        """Nobody knows yet whether the server speaks it."""

    def cannot_notify(self, session: UpstreamSession) -> None:
        """It declares changes but cannot tell of them: its lists have to be polled (H25)."""


class Own(msgspec.Struct, frozen=True):
    """A request of the gateway's own."""

    done: Done
    method: str
    timer: Timer


class UpstreamSession:
    """One session with one server. `LegacySession` and `ModernSession` speak."""

    era: Era

    def __init__(self, hub: Hub, host: Host, name: str, key: PoolKey, link: Link) -> None:
        self.hub = hub
        self.host = host
        self.server = name
        self.key = key
        self.link = link
        link.owner = self
        self.ready = False
        self.was_ready = False
        self.over = False
        self.forgotten = False
        self.tag = ""  # by which tasks name the session that they live in
        self.began_at = hub.now
        self.capabilities: Members = {}
        self.instructions: str = ""
        self.server_info: Raw = EMPTY
        self.calls: dict[int, Exchange] = {}
        self._ids: dict[Exchange, int] = {}
        self._own: dict[int, Own] = {}
        self._next = 1
        # The client whose interactive calls hold the channel, and how many.
        self.lease: str | None = None
        # The one client that the channel stays with, because a cancelled call of it was never answered.
        self.kept_for = ""
        self._leased = 0
        # Clients that have used this session, for what a server says outside a call.
        self.users: dict[str, Audience] = {}
        # Calls were made here by somebody who is not in `users`: one without a name, or one who has left.
        self.strangers = False
        self.watches: dict[str, None] = {}
        self.used_at = hub.now
        self._slow: dict[Exchange, None] = {}

    # -- ids and requests

    def _id(self) -> int:
        number = self._next
        self._next += 1
        return number

    def request(self, method: str, params: Members, done: Done, timeout_s: float | None = None) -> int:
        """A request of the gateway's own; `done` gets the result's members or a fault, exactly once."""
        if self.over:
            done(Fault(FaultKind.UPSTREAM_DOWN, "the server is not available"))
            return 0
        number = self._id()
        limit = timeout_s if timeout_s is not None else self.hub.limits.handshake_timeout_s
        timer = self.hub.after(limit, f"own {method}", lambda: self._own_timeout(number))
        self._own[number] = Own(done, method, timer)
        self.link.request(self.compose(number, method, params, None))
        return number

    def compose(self, number: int, method: str, params: Members, exchange: Exchange | None) -> Outgoing:
        raise NotImplementedError

    def whose(self, exchange: Exchange | None) -> str:
        """The principal that a request counts for. What the gateway asks itself, its health checks above all,
        must not wait until calls of that principal are over."""
        return (self.key.principal or "") if exchange is not None else ""

    def check_health(self, timeout_s: float) -> None:
        """End the session if the server does not answer in time; any answer will do."""

        def answered(answer: Members | Fault) -> None:
            if isinstance(answer, Fault) and answer.kind is FaultKind.TIMEOUT:
                self.end("it does not answer health checks", None)

        self.request("ping" if self.era is Era.LEGACY else "server/discover", {}, answered, timeout_s)

    def watch(self, uri: str, done: Callable[[Fault | None], None]) -> None:
        """Have changes of a resource told; `done` gets None, or why that cannot be."""
        raise NotImplementedError

    def unwatch(self, uri: str) -> None:
        raise NotImplementedError

    def _own_timeout(self, number: int) -> None:
        own = self._own.pop(number, None)
        if own is not None:
            self.link.abandon(number)
            own.done(Fault(FaultKind.TIMEOUT, f"the server did not answer {own.method}"))

    def _own_answer(self, number: int, answer: Members | Fault) -> bool:
        own = self._own.pop(number, None)
        if own is None:
            return False
        own.timer.cancel()
        own.done(answer)
        return True

    # -- the Target port

    def begin(self, exchange: Exchange) -> None:
        if self.link.full():
            # Not written: a child that reads slowly must not lose everybody's calls over one more.
            if exchange.operation.interactive:
                self.untake()
            exchange.fail(Fault(FaultKind.OVERLOADED, "the server does not take more requests for now"))
            return
        number = self._id()
        self.calls[number] = exchange
        self._ids[exchange] = number
        self.used_at = self.hub.now
        operation = exchange.operation
        outgoing = self.compose(number, operation.method, operation.params, exchange)
        if operation.forwarded:
            outgoing = msgspec.structs.replace(outgoing, forwarded=operation.forwarded)
        self.link.request(outgoing)
        if exchange.throttled:
            self.link.throttle(number, True)
        if self.link.congested():
            self._slow[exchange] = None
            exchange.caller.congested(True)

    def throttle(self, exchange: Exchange, on: bool) -> None:
        number = self._ids.get(exchange)
        if number is not None:
            self.link.throttle(number, on)

    def unsent(self, exchange: Exchange) -> bool:
        number = self._ids.get(exchange)
        return number is not None and self.link.unsent(number)

    def link_pressed(self, high: bool) -> None:
        """The server takes less than it is sent: hold those who feed it, and nobody else."""
        for exchange in list(self.calls.values()) if high else list(self._slow):
            if high:
                self._slow[exchange] = None
            exchange.caller.congested(high)
        if not high:
            self._slow.clear()

    def drop(self, exchange: Exchange, *, keep_lease: bool = False) -> int | None:
        """Forget a call; returns its id. `keep_lease`: the channel stays with its client for now."""
        number = self._ids.pop(exchange, None)
        if number is None:
            return None
        self.calls.pop(number, None)
        self.used_at = self.hub.now
        if exchange in self._slow:
            del self._slow[exchange]
            exchange.caller.congested(False)
        if exchange.operation.interactive and not keep_lease:
            self.untake()
        self.host.session_freed(self)
        return number

    # -- leases

    @property
    def exclusive(self) -> bool:
        return self.link.single_channel and self.era is Era.LEGACY

    def available(self, client: Client, interactive: bool) -> bool:
        """Whether a call of `client` may start now without its server's questions being ambiguous."""
        if not interactive or not self.exclusive:
            return True
        return self.lease is None or (client.key != "" and self.lease == client.key)

    def take(self, client: Client, interactive: bool) -> None:
        self.used_at = self.hub.now
        if interactive:
            self.lease = client.key or "*"
            self._leased += 1
        if client.audience is not None and client.key not in self.users:
            self.users[client.key] = client.audience
        self.strangers = self.strangers or (interactive and client.audience is None)

    def leave(self, client: Client) -> None:
        """The client will not be back; what the server may still say to it is for nobody else."""
        if self.users.pop(client.key, None) is not None:
            self.strangers = True

    def untake(self) -> None:
        """One interactive call less; the last one gives the channel back."""
        if self._leased:
            self._leased -= 1
            if not self._leased:
                self.lease = None

    @property
    def busy(self) -> bool:
        return bool(self.calls or self._own)

    @property
    def can_go(self) -> bool:
        """Another client may have its place: nothing is under way."""
        return not self.busy

    # -- from the link

    def link_up(self) -> None:
        """The link can carry requests: introduce ourselves."""
        raise NotImplementedError

    def link_message(self, message: jsonrpc.Message, origin: int | None) -> None:
        if isinstance(message, jsonrpc.Notification):
            self._notification(message, origin)
        elif isinstance(message, jsonrpc.Request):
            self._asked(message, origin)
        elif not isinstance(message.id, int):
            self.hub.count("upstream_unknown_responses")
        elif isinstance(message, jsonrpc.ErrorReply):
            self._error(message.id, message)
        else:
            try:
                result = jsonrpc.members(message.result)
            except jsonrpc.JsonFault:
                self._finish(message.id, Fault(FaultKind.INTERNAL, "the server's result is not an object"))
            else:
                self._result(message.id, result)

    def _notification(self, message: jsonrpc.Notification, origin: int | None) -> None:
        raise NotImplementedError

    def _asked(self, message: jsonrpc.Request, origin: int | None) -> None:
        """The server sends a request of its own."""
        raise NotImplementedError

    def _error(self, number: int, message: jsonrpc.ErrorReply) -> None:
        raise NotImplementedError

    def _result(self, number: int, result: Members) -> None:
        raise NotImplementedError

    def _finish(self, number: int, outcome: Members | Fault) -> None:
        """A request has its answer."""
        raise NotImplementedError

    def link_lost(self, request: int, loss: Loss, status: int) -> None:
        if loss is Loss.SESSION_GONE:
            self._forgotten(request)
            return
        why = {
            Loss.UNSENT: "the server could not be reached",
            Loss.BROKEN: "the server's answer broke off; the call may have been carried out",
            Loss.REFUSED: "the server refused the request",
        }[loss]
        fault = Fault(FaultKind.UPSTREAM_DOWN, why)
        if loss is Loss.REFUSED:
            fault = Fault(FaultKind.UPSTREAM_DOWN, why, code=status, detail=f"HTTP {status}")
            fault = self.host.refused(self, status) or fault
        if self._own_answer(request, fault):
            return
        exchange = self.calls.get(request)
        if exchange is not None:
            self.drop(exchange)
            exchange.fail(fault)

    def _forgotten(self, request: int) -> None:
        """404 for our session: the request that met it was not carried out, so it alone may go again, once,
        on a new session; the others may have been, and are lost."""
        exchange = self.calls.get(request)
        if exchange is not None:
            self.drop(exchange)
        self.end(FORGOTTEN, None)
        if exchange is None:
            return
        if exchange.operation.replaced:
            exchange.lost(False)
        else:
            exchange.operation.replaced = True
            self.host.place(exchange)

    def link_down(self, reason: str) -> None:
        self.end(reason, None)

    def end(self, reason: str, fault: Fault | None) -> None:
        """Over, for whatever reason. Every call hears of it; the pool forgets the session first, so
        that nobody who hears of it is sent here again."""
        if self.over:
            return
        self.over = True
        self.ready = False
        self.forgotten = reason == FORGOTTEN
        self.host.session_over(self, reason, fault)
        self.link.stop()
        for number in list(self._own):
            gone = Fault(FaultKind.UPSTREAM_DOWN, "the server is not available", detail=reason)
            self._own_answer(number, gone)
        calls, self.calls = self.calls, {}
        self._ids.clear()
        self._slow.clear()
        for exchange in calls.values():
            exchange.lost(True, reason)

    # -- what both eras read alike

    def progressed(self, params: Members) -> None:
        """`progressToken` is the id we gave the request."""
        token = jsonrpc.integer(params.get("progressToken", EMPTY))
        value = values.number(params.get("progress", EMPTY))
        told = values.without(params, "progressToken", "_meta")
        if token is None or value is None or not self.pass_progress(token, value, told):
            self.hub.count("upstream_stray_progress")

    def pass_progress(self, token: int, value: float, told: Members) -> bool:
        """Tell whom it belongs to; false where that is nobody."""
        exchange = self.calls.get(token)
        if exchange is not None:
            exchange.progress(value, told)
        return exchange is not None

    def log_owner(self, origin: int | None) -> Exchange | None:
        """The call that a log message belongs to, where that is certain enough to tell its client."""
        if origin is not None:
            return self.calls.get(origin)
        if len(self.calls) == 1:
            return next(iter(self.calls.values()))
        keys = {exchange.operation.client.key for exchange in self.calls.values()}
        if len(keys) == 1 and "" not in keys:
            return next(iter(self.calls.values()))
        return None
