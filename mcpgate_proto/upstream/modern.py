"""Speaking to a modern server (2026-07-28): stateless requests, over any link.

Owns: the `_meta` of every request (F8), mirrored headers (D2, D3), results by their type (A25), MRTR
rounds (G8: `requestState` goes back byte for byte), the one `subscriptions/listen` that carries list
changes and watched resources.
Must never: keep anything of a round after it ended.
"""

from __future__ import annotations

from collections.abc import Callable

from mcpgate_proto.hub import Hub
from mcpgate_proto.mcp import codes, meta, mirror
from mcpgate_proto.mcp.codes import Fault, FaultKind
from mcpgate_proto.mcp.revisions import MODERN, Era
from mcpgate_proto.relay.exchange import Answer, Ask, Carry, Exchange, Members, Phase
from mcpgate_proto.timers import Timer
from mcpgate_proto.upstream.keys import PoolKey
from mcpgate_proto.upstream.link import Link, Loss, Outgoing
from mcpgate_proto.upstream.session import EMPTY, LIST_CHANGED, Host, UpstreamSession
from mcpgate_proto.wire import jsonrpc, values
from mcpgate_proto.wire.jsonrpc import Raw

__all__ = ["ModernSession"]

LISTEN = "subscriptions/listen"
LISTEN_RETRY_S = 2.0
CHANGES = {"tools": "toolsListChanged", "prompts": "promptsListChanged", "resources": "resourcesListChanged"}
Watched = Callable[[Fault | None], None]


class ModernSession(UpstreamSession):
    """See the head of this file. "Session" only in the sense of the pool: the server keeps nothing."""

    era = Era.MODERN

    def __init__(self, hub: Hub, host: Host, name: str, key: PoolKey, link: Link) -> None:
        super().__init__(hub, host, name, key, link)
        self._listen: int | None = None
        self._old_listen: int | None = None
        self._acknowledged: Members = {}
        self._watchers: list[tuple[str, Watched]] = []
        self.polled = False  # it cannot notify: lists are polled by their ttl
        self._listen_failures = 0
        self._relisten_timer: Timer | None = None
        self._patience: Timer | None = None

    def link_up(self) -> None:
        self.request("server/discover", {}, self.discovered)

    def discovered(self, answer: Members | Fault) -> None:
        if isinstance(answer, Fault):
            self.end(f"it refused server/discover: {answer.message[:200]}", answer)
            return
        self.capabilities = values.object_or_empty(answer.get("capabilities", EMPTY))
        self.instructions = values.text_of(answer, "instructions") or ""
        told = values.object_or_empty(answer.get("_meta", EMPTY)).get(meta.SERVER_INFO)
        self.server_info = jsonrpc.detach(told) if told is not None else EMPTY
        self.ready = self.was_ready = True
        self.host.session_ready(self)
        self._relisten()

    # -- requests out

    def compose(self, number: int, method: str, params: Members, exchange: Exchange | None) -> Outgoing:
        head: Members = {
            meta.PROTOCOL_VERSION: jsonrpc.to_raw(MODERN),
            meta.CLIENT_CAPABILITIES: EMPTY,
            meta.CLIENT_INFO: jsonrpc.to_raw({"name": "mcpgate", "version": self.hub.config.version}),
        }
        if exchange is not None:
            operation = exchange.operation
            head[meta.CLIENT_CAPABILITIES] = operation.client.capabilities
            if operation.log_level is not None:
                head[meta.LOG_LEVEL] = jsonrpc.to_raw(operation.log_level)
            if operation.wants_progress:
                head["progressToken"] = Raw(b"%d" % number)
            head.update(operation.meta)
            params = dict(params)
            if operation.answers:
                params["inputResponses"] = operation.answers
            if operation.carry is not None and operation.carry.state:
                params["requestState"] = operation.carry.state
        message = jsonrpc.encode_request(number, method, {**params, "_meta": jsonrpc.encode_object(head)})
        if self.link.single_channel:
            return Outgoing(number, message, pinned=method == LISTEN)
        headers = mirror.standard_headers(method, params, MODERN)
        if exchange is not None and exchange.operation.plan is not None:
            headers.extend(mirror.generate(exchange.operation.plan, params.get("arguments", EMPTY)))
        return Outgoing(number, message, tuple(headers), pinned=method == LISTEN)

    def resume(self, exchange: Exchange, answers: dict[str, Answer], carry: Carry | None) -> None:
        """The client's answers make a new request: same params, the state as it came (G8, G14)."""
        given: Members = {}
        for key, answer in answers.items():
            if answer.fault is None:
                given[key] = answer.result
        operation = exchange.operation
        operation.answers = jsonrpc.encode_object(given) if given else Raw(b"")
        operation.carry = carry
        if self.over:
            self.host.place(exchange)  # between two rounds nothing is held: any session will do
        else:
            self.begin(exchange)

    def cancel(self, exchange: Exchange, reason: str) -> None:
        """L15: over HTTP the stream is closed; on a pipe the server is told."""
        number = self.drop(exchange)
        if number is not None and not self.over:
            self._stop_request(number, reason)

    def _stop_request(self, number: int, reason: str) -> None:
        if self.link.single_channel:
            params = {"requestId": Raw(b"%d" % number)}
            if reason:
                params["reason"] = jsonrpc.to_raw(reason[:200])
            self.link.notify(jsonrpc.encode_notification("notifications/cancelled", params))
        self.link.abandon(number)

    # -- messages in

    def link_message(self, message: jsonrpc.Message, origin: int | None) -> None:
        kind = type(message)
        if kind is jsonrpc.Result:
            self._result(message)  # type: ignore[arg-type]
        elif kind is jsonrpc.Notification:
            self._notification(message, origin)  # type: ignore[arg-type]
        elif kind is jsonrpc.ErrorReply:
            self._error(message)  # type: ignore[arg-type]
        else:
            # B8: a modern server never asks by request. It gets no answer on a pipe that knows none.
            self.hub.count("upstream_requests_refused")

    def _error(self, message: jsonrpc.ErrorReply) -> None:
        if not isinstance(message.id, int):
            self.hub.count("upstream_unknown_responses")
            return
        exchange = self.calls.get(message.id)
        if message.code == codes.HEADER_MISMATCH and exchange is not None and self._replan(exchange):
            return
        method, params = (exchange.operation.method, exchange.operation.params) if exchange else ("", {})
        fault = codes.from_modern_error(message.code, message.message, message.data, method, params)
        self._finish(message.id, fault)

    def _replan(self, exchange: Exchange) -> bool:
        """D5: read the tool's definition again and send the call once more; it was refused, not executed."""
        operation = exchange.operation
        if operation.method != "tools/call" or operation.replanned or self.link.single_channel:
            return False
        operation.replanned = True
        self.drop(exchange)

        def planned() -> None:
            if exchange.phase is Phase.RUNNING:
                if self.over:
                    exchange.lost(False)
                else:
                    self.begin(exchange)

        self.host.replan(exchange, planned)
        return True

    def _result(self, message: jsonrpc.Result) -> None:
        number = message.id
        if not isinstance(number, int):
            self.hub.count("upstream_unknown_responses")
            return
        try:
            result = jsonrpc.members(message.result)
        except jsonrpc.JsonFault:
            self._finish(number, Fault(FaultKind.INTERNAL, "the server's result is not an object"))
            return
        told = result.pop("resultType", None)
        kind = "complete" if told is None else jsonrpc.text(told)
        if kind == "input_required" and number in self.calls:
            self._input_required(number, result)
        elif kind == "complete" or (kind is not None and self._extension(number, kind, told, result)):
            self._finish(number, result)
        else:
            # A25: an unknown type is an invalid response, never forwarded.
            self._finish(number, Fault(FaultKind.INTERNAL, "the server answered with an unknown resultType"))

    def _extension(self, number: int, kind: str, told: Raw | None, result: Members) -> bool:
        """Types owned by extensions come with the crossing of extensions; none is known yet."""
        return False

    def _input_required(self, number: int, result: Members) -> None:
        exchange = self.calls[number]
        self.drop(exchange)
        asks: list[Ask] = []
        for key, raw in values.object_or_empty(result.get("inputRequests", EMPTY)).items():
            wanted = values.object_or_empty(raw)
            method = values.text_of(wanted, "method")
            if method is None:
                exchange.fail(Fault(FaultKind.INTERNAL, "the server's inputRequests are malformed"))
                return
            asks.append(Ask(key, method, values.object_or_empty(wanted.get("params", EMPTY))))
        state = result.get("requestState", Raw(b""))
        if not asks and not state:
            exchange.fail(Fault(FaultKind.INTERNAL, "the server asked for input without saying which"))
            return
        exchange.ask(asks, Carry(state))

    def _finish(self, number: int, outcome: Members | Fault) -> None:
        if number in (self._listen, self._old_listen):
            self._listen_ended(number, outcome)
            return
        if self._own_answer(number, outcome):
            return
        exchange = self.calls.get(number)
        if exchange is None:
            self.hub.count("upstream_late_responses")
            return
        self.drop(exchange)
        if isinstance(outcome, Fault):
            exchange.fail(outcome)
            return
        if "_meta" in outcome:
            kept = meta.end_to_end(values.object_or_empty(outcome["_meta"]))
            outcome = values.without(outcome, "_meta")
            if kept:
                outcome["_meta"] = jsonrpc.encode_object(kept)
        exchange.complete(outcome)

    def link_lost(self, request: int, loss: Loss, status: int) -> None:
        if request in (self._listen, self._old_listen):
            refused = loss is Loss.REFUSED and status in (400, 404, 405, 501)
            kind = FaultKind.UNSUPPORTED if refused else FaultKind.UPSTREAM_DOWN
            self._listen_ended(request, Fault(kind, "the stream could not be kept"))
            return
        super().link_lost(request, loss, status)

    def _notification(self, message: jsonrpc.Notification, origin: int | None) -> None:
        method, params = message.method, message.params
        if method == "notifications/progress":
            self.progressed(params)
        elif method == "notifications/message":
            exchange = self.log_owner(origin)
            if exchange is not None:
                exchange.log(params)
        elif method in LIST_CHANGED:
            if self._of_listen(params, origin):
                self.host.list_changed(self, LIST_CHANGED[method])
        elif method == "notifications/resources/updated":
            if self._of_listen(params, origin):
                self.host.resource_updated(self, values.without(params, "_meta"))
        elif method == "notifications/subscriptions/acknowledged":
            self._acknowledge(params, origin)
        elif method == "notifications/cancelled":
            number = jsonrpc.integer(params.get("requestId", EMPTY))
            if number is not None and number == self._listen:
                self._listen_ended(number, {})  # G24: only ever the end of a listen
        else:
            self.hub.count("upstream_unknown_notifications")

    # -- the listen

    def _of_listen(self, params: Members, origin: int | None) -> bool:
        """G15: every notification of a subscription names it."""
        number = self._subscription(params)
        return number is not None and number in (self._listen, self._old_listen) and origin in (None, number)

    def _subscription(self, params: Members) -> int | None:
        told = values.object_or_empty(params.get("_meta", EMPTY)).get(meta.SUBSCRIPTION_ID)
        return None if told is None else jsonrpc.integer(told)

    def _wanted(self) -> dict[str, object]:
        wanted: dict[str, object] = {}
        for kind, member in CHANGES.items():
            declared = values.object_or_empty(self.capabilities.get(kind, EMPTY))
            if declared.get("listChanged") == Raw(b"true"):
                wanted[member] = True
        if self.watches:
            wanted["resourceSubscriptions"] = list(self.watches)
        return wanted

    def _relisten(self) -> None:
        """Filters are immutable: a new listen with the whole set, then the old one goes (L11)."""
        if self.over or not self.ready:
            return
        if self._old_listen is not None:
            self._stop_request(self._old_listen, "")
        self._old_listen, self._listen = self._listen, None
        wanted = self._wanted()
        if not wanted or self.polled:
            self._drop_old_listen()
            return
        self._listen = number = self._id()
        self.link.request(self.compose(number, LISTEN, {"notifications": jsonrpc.to_raw(wanted)}, None))

    def _drop_old_listen(self) -> None:
        if self._old_listen is not None:
            self._stop_request(self._old_listen, "")
            self._old_listen = None

    def _acknowledge(self, params: Members, origin: int | None) -> None:
        number = self._subscription(params)
        if number is None or number != self._listen or origin not in (None, number):
            return
        self._listen_failures = 0
        self._drop_old_listen()
        self._acknowledged = values.object_or_empty(params.get("notifications", EMPTY))
        agreed = values.items(self._acknowledged.get("resourceSubscriptions", EMPTY)) or []
        uris = {jsonrpc.text(one) for one in agreed}
        watchers, self._watchers = self._watchers, []
        for uri, done in watchers:
            if uri in uris:
                done(None)
            else:
                self.watches.pop(uri, None)
                done(Fault(FaultKind.UNSUPPORTED, "the server does not notify of changes to this resource"))

    def _listen_ended(self, number: int, outcome: Members | Fault) -> None:
        if number == self._old_listen:
            self._old_listen = None
            return
        self._listen = None
        self._refuse_watchers()
        if self.over:
            return
        if isinstance(outcome, Fault) and outcome.kind in (
            FaultKind.METHOD_NOT_FOUND,
            FaultKind.PEER,
            FaultKind.UNSUPPORTED,
        ):
            # It declares changes and cannot notify of them: its ttl tells when to look (H25).
            self.polled = True
            self.hub.emit("notice", "server_cannot_listen", server=self.server)
            self.host.cannot_notify(self)
            return
        # G20: reconnect with jitter; lists are read again, since changes may have been missed.
        self._listen_failures += 1
        delay = min(LISTEN_RETRY_S * 2 ** min(self._listen_failures, 6), 60.0)
        self.hub.after(self.hub.entropy.jitter(delay), "listen again", self._listen_again)

    def _listen_again(self) -> None:
        if not self.over and self._listen is None:
            for kind in CHANGES:
                self.host.list_changed(self, kind)
            self._relisten()

    # -- resource subscriptions

    def watch(self, uri: str, done: Watched) -> None:
        held = uri in self.watches
        declared = values.object_or_empty(self.capabilities.get("resources", EMPTY))
        if not held and (declared.get("subscribe") != Raw(b"true") or self.polled):
            done(Fault(FaultKind.UNSUPPORTED, "the server does not notify of changes to this resource"))
            return
        if held and all(uri != waiting for waiting, _ in self._watchers):
            done(None)
            return
        self.watches[uri] = None
        self._watchers.append((uri, done))
        self._relisten_soon()

    def _relisten_soon(self) -> None:
        """Several watches at one time make one new listen."""
        if self._relisten_timer is None:
            self._relisten_timer = self.hub.after(0.0, "listen", self._relisten_now)

    def _relisten_now(self) -> None:
        self._relisten_timer = None
        self._relisten()
        if self._patience is None and self._watchers:
            # A server that says nothing must not withhold a client's acknowledgement.
            self._patience = self.hub.after(self.hub.limits.startup_wait_s, "watch", self._out_of_patience)

    def _out_of_patience(self) -> None:
        self._patience = None
        self._refuse_watchers()

    def _refuse_watchers(self) -> None:
        watchers, self._watchers = self._watchers, []
        for uri, done in watchers:
            self.watches.pop(uri, None)
            done(Fault(FaultKind.UNSUPPORTED, "the server does not notify of changes to this resource"))

    def end(self, reason: str, fault: Fault | None) -> None:
        super().end(reason, fault)
        for timer in (self._relisten_timer, self._patience):
            if timer is not None:
                timer.cancel()
        self._refuse_watchers()

    def unwatch(self, uri: str) -> None:
        if self.watches.pop(uri, self) is None:
            self._relisten_soon()

    def roots_changed(self) -> None:
        """Modern roots have no such notification (L17)."""
