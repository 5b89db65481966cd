"""Tasks, passed through under sealed ids (N3, L22): between peers of one era, and those of legacy servers to
modern clients.

Owns: the routing of `tasks/get`, `tasks/update` and `tasks/cancel` by the opened id, the client's form of ids
in what comes back, and `TaskWatch`, the part of a `subscriptions/listen` that is about tasks of one server.
Must never: let a server's own id reach a client, or a notification another subscription than the one that
asked for it.
"""

from __future__ import annotations

from collections.abc import Callable

from mcpgate_proto.downstream.rounds import (
    Answerer,
    ModernCall,
    Rounds,
    Turn,
    input_request,
    undeclared_in,
)
from mcpgate_proto.hub import Hub
from mcpgate_proto.mcp import codes, content, extensions, meta
from mcpgate_proto.mcp.codes import Fault, FaultKind
from mcpgate_proto.mcp.revisions import Era
from mcpgate_proto.relay.exchange import (
    Ask,
    Caller,
    Carry,
    Client,
    Exchange,
    Members,
    Operation,
    Route,
)
from mcpgate_proto.relay.relay import Relay
from mcpgate_proto.relay.tasks import Handle
from mcpgate_proto.timers import Timer
from mcpgate_proto.wire import jsonrpc, values
from mcpgate_proto.wire.jsonrpc import Raw

__all__ = [
    "LEGACY_METHODS",
    "METHODS",
    "LegacyIds",
    "TaskCall",
    "TaskWatch",
    "declares",
    "handles",
    "legacy_route",
    "route",
]

METHODS = ("tasks/get", "tasks/update", "tasks/cancel")
# Of 2025-11-25; its `tasks/list` is not offered (L22).
LEGACY_METHODS = ("tasks/get", "tasks/result", "tasks/cancel")
LISTEN = "subscriptions/listen"
# A watch that broke off is opened again, with jitter and ever later (G20).
RETRY_FIRST_S = 2.0
RETRY_LAST_S = 60.0
UNKNOWN = Fault(FaultKind.INVALID_PARAMS, "params.taskId names no task of this client")


def declares(turn: Turn) -> bool:
    """Whether the client declared tasks on this very request (N3, C26)."""
    return extensions.TASKS in extensions.declared(turn.told.capabilities)


def route(relay: Relay, turn: Turn) -> Route | Fault:
    """Where a `tasks/*` request goes, in the order of the ladder (A19): method, capability, params."""
    if not relay.has_tasks(turn.client):
        return codes.method_not_found(turn.method)
    if not declares(turn):
        return codes.missing_capability(extensions.TASKS_NEEDED)
    params = values.without(turn.request.params, "_meta")
    found = _opened(relay, turn.client, params)
    if found is None:
        return UNKNOWN
    face = relay.servers[found.server].face(turn.client)
    if not found.session and face is not None and face.era is not Era.MODERN:
        return UNKNOWN
    if turn.method == "tasks/update":
        try:
            jsonrpc.members(params.get("inputResponses", Raw(b"null")))
        except jsonrpc.JsonFault:
            return Fault(FaultKind.INVALID_PARAMS, "params.inputResponses is not an object")
    return Route(found.server, {**params, "taskId": jsonrpc.to_raw(found.id)}, session=found.session)


def _opened(relay: Relay, client: Client, params: Members) -> Handle | None:
    """The task of this client that `params` name, if its server is there."""
    found = relay.tasks.open(client.principal.id, values.text_of(params, "taskId"))
    server = relay.servers.get(found.server) if found is not None else None
    return found if server is not None and server.config.enabled else None


def shown_task(hub: Hub, client: Client, task: Members, session: str) -> Members | Fault:
    """What is inside a task, in the client's form. `session` is empty unless its server is a legacy one."""
    told = dict(task)
    if "result" in told:
        told["result"] = _up_result(told["result"]) if session else inner_result(told["result"])
    if session and "inputRequests" in told:
        asks = _asks_of(values.object_or_empty(told["inputRequests"]))
        undeclared = undeclared_in(client, asks)
        if undeclared is not None:
            return undeclared
        aggregated = not hub.config.transparent
        fitted = {ask.key: content.up_question(ask.method, ask.params, aggregated=aggregated) for ask in asks}
        requests = {ask.key: input_request(ask.method, fitted[ask.key]) for ask in asks}
        told["inputRequests"] = jsonrpc.encode_object(requests)
    return told


def _asks_of(requests: Members) -> list[Ask]:
    asks = []
    for key, raw in requests.items():
        wanted = values.object_or_empty(raw)
        params = values.object_or_empty(wanted.get("params", values.EMPTY))
        asks.append(Ask(key, values.text_of(wanted, "method") or "", params))
    return asks


def _up_result(raw: Raw) -> Raw:
    """The result of a legacy server's task (L6)."""
    return jsonrpc.encode_object(content.up_result("tools/call", values.object_or_empty(raw)))


def inner_result(raw: Raw) -> Raw:
    """The result inside a task, without what its `_meta` says of the other hop (L0.1)."""
    result = values.object_or_empty(raw)
    if "_meta" not in result:
        return raw
    told = values.object_or_empty(result["_meta"])
    kept = meta.end_to_end(told)
    if len(kept) == len(told):
        return raw
    rest = values.without(result, "_meta")
    return jsonrpc.encode_object({**rest, "_meta": jsonrpc.encode_object(kept)} if kept else rest)


class TaskCall(ModernCall):
    """One `tasks/*` request, on its way by `route`."""

    def __init__(self, answerer: Answerer, rounds: Rounds, turn: Turn, route: Route) -> None:
        super().__init__(answerer, rounds, turn)
        self._own = route.params["taskId"]
        self._session = route.session

    def completed(self, result: Members) -> None:
        if self.done:
            return
        if self._turn.method == "tasks/get" and values.text_of(result, "taskId") != jsonrpc.text(self._own):
            self.failed(Fault(FaultKind.INTERNAL, "the server spoke of another task than it was asked for"))
            return
        self.over()
        if "taskId" in result:
            result = {**result, "taskId": self._turn.request.params["taskId"]}
        told = shown_task(self._rounds.hub, self._turn.client, result, self._session)
        if isinstance(told, Fault):
            self._answerer.refuse(self._turn, told, self.server)
        else:
            self._answerer.finish(self._turn, told)

    def failed(self, fault: Fault) -> None:
        if fault.kind is FaultKind.URL_ELICITATION:
            # G5: there are no rounds here in which the client could be asked.
            fault = Fault(FaultKind.INTERNAL, fault.message)
        super().failed(fault)


# ----------------------------------------------------------------------------- tasks of 2025-11-25


def legacy_route(relay: Relay, client: Client, request: jsonrpc.Request) -> Route | Fault:
    """Where a `tasks/*` request of a legacy client goes; there is no such method unless it was declared."""
    if not relay.agrees_on_tasks(client):
        return codes.method_not_found(request.method)
    params = values.without(request.params, "_meta", "task")
    found = _opened(relay, client, params)
    if found is None:
        return UNKNOWN
    face = relay.servers[found.server].face(client)
    if face is not None and face.era is not (Era.LEGACY if found.session else Era.MODERN):
        return UNKNOWN
    return Route(found.server, {**params, "taskId": jsonrpc.to_raw(found.id)}, session=found.session)


class LegacyIds:
    """Task ids in what goes back to a legacy client about one of its calls (L22)."""

    def __init__(self, relay: Relay, server: str, operation: Operation) -> None:
        self._tasks = relay.tasks
        self._server = server
        self._operation = operation

    def _seal(self, id: str) -> str:
        operation = self._operation
        session = operation.made_in or operation.session
        return self._tasks.seal(operation.client.principal.id, self._server, id, session)

    def shown(self, method: str, result: Members) -> Members:
        """A result in the client's form: the task that was made, one that was asked for, what is related."""
        if method in LEGACY_METHODS and "taskId" in result:
            result = _with_id(result, self._seal)
        if method == "tools/call" and "task" in result:
            made = values.object_or_empty(result["task"])
            result = {**result, "task": jsonrpc.encode_object(_with_id(made, self._seal))}
        return self.shown_in(result)

    def shown_in(self, params: Members) -> Members:
        """A server's message: the task that it belongs to."""
        return _with_related(params, self._seal)


def _with_id(members: Members, spell: Callable[[str], str]) -> Members:
    id = values.text_of(members, "taskId")
    return members if id is None else {**members, "taskId": jsonrpc.to_raw(spell(id))}


def _with_related(members: Members, spell: Callable[[str], str]) -> Members:
    told = members.get("_meta")
    if told is None or b"related-task" not in bytes(told):
        return members
    found = values.object_or_empty(told)
    if meta.RELATED_TASK not in found:
        return members
    related = _with_id(values.object_or_empty(found[meta.RELATED_TASK]), spell)
    found = {**found, meta.RELATED_TASK: jsonrpc.encode_object(related)}
    return {**members, "_meta": jsonrpc.encode_object(found)}


# ---------------------------------------------------------------------------------- subscriptions


def handles(relay: Relay, client: Client, wanted: list[Raw]) -> dict[tuple[str, str], dict[str, str]]:
    """(Server, session) -> (its own task id -> the client's form), for the ids that are this client's; others
    are left out, as is fit for what is not honoured (G16)."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for raw in wanted:
        shown = jsonrpc.text(raw)
        handle = relay.tasks.open(client.principal.id, shown)
        if shown is not None and handle is not None and handle.server in relay.servers:
            found.setdefault((handle.server, handle.session), {})[handle.id] = shown
    return found


class TaskWatch:
    """One server's part of a client's listen: a subscription of its own, so that what comes on it can only
    be this client's. `place` is the server, and the session in which tasks of legacy ones live. Implements
    `relay.exchange.Caller` and `Updates`."""

    def __init__(
        self,
        relay: Relay,
        client: Client,
        place: tuple[str, str],
        ids: dict[str, str],
        told: Callable[[str, Members], None],
        settled: Callable[[], None],
    ) -> None:
        self._relay = relay
        self._client = client
        self._place = place
        self._ids = ids
        self._told = told
        self._settled: Callable[[], None] | None = settled
        self._exchange: Exchange | None = None
        self._timer: Timer | None = None
        self._failures = 0
        self._stopped = False
        # The ids that the server notifies of, in the client's form.
        self.honoured: tuple[str, ...] = ()

    def start(self) -> None:
        """Subscribe. Whoever waits for the outcome is told within `startup_wait_s`."""
        hub = self._relay.hub
        self._timer = hub.after(hub.limits.startup_wait_s, "task watch", self._late)
        self._open()

    def _open(self) -> None:
        wanted = jsonrpc.encode_object({"taskIds": jsonrpc.to_raw(list(self._ids))})
        params: Members = {"notifications": wanted}
        operation = Operation(method=LISTEN, params=params, meta={}, client=self._client, updates=self)
        server, session = self._place
        exchange = self._relay.start(operation, Route(server, params, session=session), self)
        if self._stopped:
            exchange.cancel("")
        else:
            self._exchange = exchange

    def stop(self) -> None:
        self._stopped = True
        self._settled = None
        self._disarm()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.cancel("")

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _settle(self) -> None:
        settled, self._settled = self._settled, None
        if settled is not None:
            self._disarm()
            settled()

    def _late(self) -> None:
        """A server that says nothing must not withhold the client's acknowledgement."""
        self._timer = None
        settled = self._settled
        self.stop()
        if settled is not None:
            settled()

    def _again(self) -> None:
        self._timer = None
        if not self._stopped:
            self._open()

    # -- Updates

    def acknowledged(self, agreed: Members) -> None:
        listed = values.items(agreed.get("taskIds", Raw(b"[]"))) or []
        own = [jsonrpc.text(one) for one in listed]
        self._failures = 0
        honoured = [self._ids[id] for id in own if id is not None and id in self._ids]
        self.honoured = tuple(dict.fromkeys(honoured))
        self._settle()

    def updated(self, params: Members) -> None:
        own = values.text_of(params, "taskId")
        shown = self._ids.get(own) if own is not None else None
        if shown is None or shown not in self.honoured or self._stopped:
            return
        told = shown_task(self._relay.hub, self._client, params, self._place[1])
        if not isinstance(told, Fault):  # else it asks for what this client did not declare
            self._told(shown, {**told, "taskId": jsonrpc.to_raw(shown)})

    # -- Caller

    def _ended(self, for_good: bool) -> None:
        self._exchange = None
        if self._stopped:
            return
        if self._settled is not None or for_good or not self.honoured:
            self._settle()
            return
        self._failures += 1
        hub = self._relay.hub
        delay = min(RETRY_FIRST_S * 2 ** min(self._failures, 6), RETRY_LAST_S)
        self._timer = hub.after(hub.entropy.jitter(delay), "task watch again", self._again)

    def completed(self, result: Members) -> None:
        self._ended(False)

    def became_task(self, task: Members) -> None: ...

    def failed(self, fault: Fault) -> None:
        refused = (FaultKind.METHOD_NOT_FOUND, FaultKind.INVALID_PARAMS, FaultKind.MISSING_CAPABILITY)
        self._ended(fault.kind in refused)

    def progressed(self, params: Members) -> None:
        """G17: nothing of the kind belongs on a listen stream."""

    def logged(self, params: Members) -> None:
        """G17."""

    def asked(self, asks: list[Ask], carry: Carry | None) -> None:
        if self._exchange is not None:
            self._exchange.cancel("a subscription asks nothing")

    def withdrawn(self, key: str) -> None: ...

    def moved(self, key: str, to: Caller) -> None: ...

    def congested(self, on: bool) -> None: ...
