"""Speaking to a modern server (2026-07-28): stateless requests, over any link.

Owns: the `_meta` of every request (F8), mirrored headers (D2, D3), results by their type (A25), MRTR
rounds (G8: `requestState` goes back byte for byte), the one `subscriptions/listen` that carries list
changes and watched resources; tasks, handed to clients that take them and driven for others (L22).
Must never: keep anything of a round after it ended.
"""

from __future__ import annotations

from collections.abc import Callable

from mcpgate_proto.hub import Hub
from mcpgate_proto.mcp import codes, extensions, meta, mirror
from mcpgate_proto.mcp.codes import Fault, FaultKind
from mcpgate_proto.mcp.revisions import MODERN, Era
from mcpgate_proto.relay import tasks
from mcpgate_proto.relay.exchange import Answer, Ask, Carry, Exchange, Members, Operation, Phase, TaskState
from mcpgate_proto.timers import Timer
from mcpgate_proto.upstream.keys import PoolKey
from mcpgate_proto.upstream.link import Link, Loss, Outgoing
from mcpgate_proto.upstream.session import EMPTY, LIST_CHANGED, Host, UpstreamSession
from mcpgate_proto.wire import jsonrpc, values
from mcpgate_proto.wire.jsonrpc import Raw

__all__ = ["ModernSession"]

LISTEN = "subscriptions/listen"
# So often in a row may a driven task be out of reach.
TASK_LOSSES = 5
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
        self._has_tasks = False
        # Calls whose task is asked for again later.
        self._polls: dict[Exchange, Timer] = {}

    def link_up(self) -> None:
        # The era is known; one that does not answer is started afresh rather than waited for.
        self.request("server/discover", {}, self.discovered, self.hub.limits.probe_timeout_s)

    def discovered(self, answer: Members | Fault) -> None:
        if isinstance(answer, Fault):
            self.end(f"it refused server/discover: {answer.message[:200]}", answer)
            return
        self.capabilities = values.object_or_empty(answer.get("capabilities", EMPTY))
        self.instructions = values.text_of(answer, "instructions") or ""
        told = values.object_or_empty(answer.get("_meta", EMPTY)).get(meta.SERVER_INFO)
        self.server_info = jsonrpc.detach(told) if told is not None else EMPTY
        self._has_tasks = extensions.TASKS in extensions.declared(self.capabilities)
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
            if operation.task is not None:
                method, params = tasks.following(operation, operation.task)
            head[meta.CLIENT_CAPABILITIES] = self._told(operation)
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
        elif "_meta" in params:
            # What the gateway asks for a client's sake says what is declared for it (N8).
            head[meta.CLIENT_CAPABILITIES] = meta.declared_in(params)
        message = jsonrpc.encode_request(number, method, {**params, "_meta": jsonrpc.encode_object(head)})
        if self.link.single_channel:
            return Outgoing(number, message, pinned=method == LISTEN)
        headers = mirror.standard_headers(method, params, MODERN)
        if exchange is not None and exchange.operation.plan is not None and method == "tools/call":
            headers.extend(mirror.generate(exchange.operation.plan, params.get("arguments", EMPTY)))
        pinned, whose = method == LISTEN, self.whose(exchange)
        return Outgoing(number, message, tuple(headers), pinned=pinned, whose=whose, brief=exchange is None)

    def _told(self, operation: Operation) -> Raw:
        """The client's capabilities; with tasks where the gateway deals with them in its place (L22)."""
        told = operation.client.capabilities
        # `takes_task`, and requests about tasks: a legacy client's, which has no such declaration.
        wanted = self._driving(operation) or operation.takes_task or operation.method.startswith("tasks/")
        return extensions.having(told, extensions.TASKS) if wanted else told

    def _driving(self, operation: Operation) -> bool:
        if operation.task is not None:
            return True
        wanted = self._has_tasks and self.hub.config.drive_tasks and not operation.takes_task
        return wanted and operation.method == "tools/call"

    def begin(self, exchange: Exchange) -> None:
        operation = exchange.operation
        if operation.carry is not None and operation.carry.task is not None:
            operation.task, operation.carry = operation.carry.task, None
            operation.answers = tasks.expected(operation.answers, operation.task)
        super().begin(exchange)

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
        """L15: over HTTP the stream is closed; on a pipe the server is told. A task has a request for it."""
        number = self.drop(exchange)
        timer = self._polls.pop(exchange, None)
        if timer is not None:
            timer.cancel()
        operation = exchange.operation
        if operation.task is not None and operation.method == "tools/call":
            self._cancel_task(operation.task.id)  # else its client only waits for it no longer
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

    def _asked(self, message: jsonrpc.Request, origin: int | None) -> None:
        """B8: a modern server never asks by request. It gets no answer on a pipe that knows none."""
        self.hub.count("upstream_requests_refused")

    def _error(self, number: int, message: jsonrpc.ErrorReply) -> None:
        exchange = self.calls.get(number)
        if message.code == codes.HEADER_MISMATCH and exchange is not None and self._replan(exchange):
            return
        method, params = (exchange.operation.method, exchange.operation.params) if exchange else ("", {})
        fault = codes.from_modern_error(message.code, message.message, message.data, method, params)
        self._finish(number, fault)

    def _replan(self, exchange: Exchange) -> bool:
        """D5: read the tool's definition again and send the call once more; it was refused, not executed."""
        operation = exchange.operation
        if operation.method != "tools/call" or operation.replanned or self.link.single_channel:
            return False
        operation.replanned = True
        self.drop(exchange)

        def planned() -> None:
            if exchange.phase is Phase.RUNNING and exchange.let():
                if self.over:
                    exchange.lost(False)
                else:
                    self.begin(exchange)

        self.host.replan(exchange, planned)
        return True

    def _result(self, number: int, result: Members) -> None:
        told = result.pop("resultType", None)
        kind = "complete" if told is None else jsonrpc.text(told)
        if kind == "input_required" and self._may_ask(number):
            self._input_required(number, result)
        elif kind == "complete":
            self._finish(number, result)
        elif kind == "task" and self._task_made(number, result):
            pass
        else:
            # A25: an unknown type is an invalid response, never forwarded.
            self._finish(number, Fault(FaultKind.INTERNAL, "the server answered with an unknown resultType"))

    def _may_ask(self, number: int) -> bool:
        """G5: a call, and nothing about a task."""
        exchange = self.calls.get(number)
        return exchange is not None and exchange.operation.task is None

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
        if exchange.operation.task is not None:
            self._task_read(exchange, exchange.operation.task, outcome)
        elif isinstance(outcome, Fault):
            exchange.fail(outcome)
        else:
            exchange.complete(meta.bare(outcome))

    # -- tasks

    def _task_made(self, number: int, result: Members) -> bool:
        """The server made a task of a call. False where it may not (A25, N3)."""
        exchange = self.calls.get(number)
        state = tasks.created(result)
        if exchange is None:
            if state is not None and self._has_tasks:
                self._cancel_task(state.id)  # its call was cancelled meanwhile: nobody will ask for it
            return False
        operation = exchange.operation
        if operation.task is not None or operation.method.startswith("tasks/"):
            self._finish(number, result)  # N4: an old example names what is complete so
            return True
        wanted = operation.takes_task or self._driving(operation)
        if operation.method != "tools/call" or state is None or not wanted:
            return False
        self.drop(exchange)
        if operation.takes_task:
            exchange.complete_with_task(meta.bare(result))
            return True
        operation.task, operation.answers = state, Raw(b"")
        self.hub.count("tasks_driven")
        working = values.text_of(result, "status") == "working"
        self._poll_later(exchange, tasks.interval_s(result, self.hub.limits) if working else 0.0)
        return True

    def _task_read(self, exchange: Exchange, state: TaskState, outcome: Members | Fault) -> None:
        """An answer about a task that is driven."""
        operation = exchange.operation
        limits = self.hub.limits
        if isinstance(outcome, Fault):
            if operation.method == "tools/call":
                told = f"the server lost the task that it made of the call: {outcome.message[:200]}"
                outcome = Fault(FaultKind.INTERNAL, told)
            exchange.fail(outcome)
            return
        operation.losses = 0
        if operation.answers:
            operation.task, operation.answers = tasks.answered(operation, state), Raw(b"")
            self._poll_later(exchange, limits.task_poll_least_s)
            return
        told_of = tasks.read(outcome, state, limits)
        if isinstance(told_of, tasks.Working):
            self._poll_later(exchange, told_of.wait_s)
        elif isinstance(told_of, tasks.Asked):
            operation.task = tasks.asking(state, told_of.asks)
            exchange.ask(told_of.asks, Carry(task=operation.task))
        elif isinstance(told_of, Fault):
            exchange.fail(told_of)
        else:
            exchange.complete(meta.bare(told_of.result))

    def _poll_later(self, exchange: Exchange, wait_s: float) -> None:
        exchange.rest(wait_s)
        self._polls[exchange] = self.hub.after(wait_s, "task poll", lambda: self._poll(exchange))

    def _poll(self, exchange: Exchange) -> None:
        self._polls.pop(exchange, None)
        if exchange.phase is Phase.RUNNING:
            if self.over:
                self.host.place(exchange)
            else:
                self.begin(exchange)

    def _task_lost(self, exchange: Exchange) -> bool:
        """A task outlives the connection over which it was asked for; false when that fails too often."""
        operation = exchange.operation
        operation.losses += 1
        return operation.task is not None and operation.losses <= TASK_LOSSES

    def _poll_after_loss(self, exchange: Exchange) -> None:
        """Give the server time to come back."""
        limits = self.hub.limits
        wait_s = limits.task_poll_s * 2**exchange.operation.losses
        self._poll_later(exchange, min(wait_s, limits.task_poll_most_s))

    def _driven(self) -> list[Exchange]:
        """Take out the calls whose tasks are driven here: they go on elsewhere."""
        driven: list[Exchange] = []
        for number, exchange in list(self.calls.items()):
            if exchange.operation.task is not None and self._task_lost(exchange):
                del self.calls[number], self._ids[exchange]
                driven.append(exchange)
        polls, self._polls = self._polls, {}
        for waiting, timer in polls.items():
            timer.cancel()
            driven.append(waiting)
        return driven

    def _cancel_task(self, id: str) -> None:
        """What comes of it nobody waits for: the server may still finish (N3)."""
        if not self.over:
            params = {"taskId": jsonrpc.to_raw(id), "_meta": meta.declaring(extensions.TASKS_NEEDED)}
            self.request("tasks/cancel", params, lambda answer: None)

    def link_lost(self, request: int, loss: Loss, status: int) -> None:
        if request in (self._listen, self._old_listen):
            refused = loss is Loss.REFUSED and status in (400, 404, 405, 501)
            kind = FaultKind.UNSUPPORTED if refused else FaultKind.UPSTREAM_DOWN
            self._listen_ended(request, Fault(kind, "the stream could not be kept"))
            return
        exchange = self.calls.get(request)
        if exchange is not None and exchange.operation.task is not None and self._task_lost(exchange):
            self.drop(exchange)
            self._poll_after_loss(exchange)
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
        elif method == "notifications/tasks":
            watching = self._watching(self._subscription(params), origin)
            if watching is not None and watching.operation.updates is not None:
                watching.operation.updates.updated(values.without(params, "_meta"))
        elif method == "notifications/cancelled":
            number = jsonrpc.integer(params.get("requestId", EMPTY))
            if number is not None and (number == self._listen or self._watching(number, origin)):
                self._finish(number, {})  # G24: only ever the end of a listen
        else:
            self.hub.count("upstream_unknown_notifications")

    # -- the listen

    def _of_listen(self, params: Members, origin: int | None) -> bool:
        """G15: every notification of a subscription names it."""
        number = self._subscription(params)
        return number is not None and number in (self._listen, self._old_listen) and origin in (None, number)

    def _watching(self, number: int | None, origin: int | None) -> Exchange | None:
        """The client's own subscription that a message is of."""
        exchange = self.calls.get(number) if number is not None else None
        if exchange is None or exchange.operation.updates is None or origin not in (None, number):
            return None
        return exchange

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
        watching = self._watching(number, origin)
        if watching is not None and watching.operation.updates is not None:
            told = values.object_or_empty(params.get("notifications", EMPTY))
            watching.operation.updates.acknowledged(told)
            return
        if number is None or number != self._listen or origin not in (None, number):
            return
        self._listen_failures = 0
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
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
        driven = self._driven() if not self.over else []
        super().end(reason, fault)
        for exchange in driven:
            self._poll_after_loss(exchange)  # the server keeps the task: any session will do
        for timer in (self._relisten_timer, self._patience):
            if timer is not None:
                timer.cancel()
        self._refuse_watchers()

    def unwatch(self, uri: str) -> None:
        if self.watches.pop(uri, self) is None:
            self._relisten_soon()

    def roots_changed(self) -> None:
        """Modern roots have no such notification (L17)."""
