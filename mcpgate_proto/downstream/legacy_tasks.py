"""Tasks of legacy clients (2025-11-25) that live on modern servers, and what is told of those on legacy ones
outside answers (L22). Behind `legacy_tasks`.

    client                    server (the extension)
    tools/call with `task`    tools/call, tasks declared. It makes a task: its id, sealed, is the client's.
                              It makes none: the result is kept here, as a task that has ended.
    tasks/get                 tasks/get
    tasks/result              tasks/get, at the server's pace, until the task has ended. What it asks for in
                              between is put to the client, and answered with tasks/update.
    tasks/cancel              tasks/cancel; and the task is cancelled from then on, whatever becomes of it

Owns: `Augmented` (the call), `TaskRequest` (the rest), `Owner` (status and progress of a legacy server's
task). Must never: cancel a task because nobody waits for its result any more; ask the same question twice at
one time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from mcpgate_proto.downstream import audited
from mcpgate_proto.downstream.calls import LegacyCall
from mcpgate_proto.downstream.live import HINTS
from mcpgate_proto.downstream.outlet import Outlet
from mcpgate_proto.mcp import content, meta, task_fields
from mcpgate_proto.mcp.codes import Fault, FaultKind
from mcpgate_proto.relay.exchange import Answer, Ask, Carry, Exchange, Members, Operation, Route, TaskState
from mcpgate_proto.relay.kept_tasks import Kept
from mcpgate_proto.wire import jsonrpc, values
from mcpgate_proto.wire.jsonrpc import Raw

if TYPE_CHECKING:
    from mcpgate_proto.downstream.session import ClientSession

__all__ = ["Augmented", "Owner", "TaskRequest"]

RESULT: Final = "tasks/result"
_CANCELLED: Final = Fault(FaultKind.CANCELLED, "the task was cancelled")
_NO_ROOM: Final = Fault(
    FaultKind.OVERLOADED, "the call was carried out, but there is no room to keep its result"
)
_FAILED: Final = Raw(b'{"isError":true}')


class Owner:
    """The client that asked a legacy server for a task. Implements `relay.exchange.TaskOwner`."""

    def __init__(self, session: ClientSession, server: str, operation: Operation, token: Raw | None) -> None:
        self._session = session
        self._server = server
        self._operation = operation
        self._token = token

    def changed(self, task: Members) -> None:
        """1125 tasks: it need not be told, and so is not where nobody listens."""
        session = self._session
        own = values.text_of(task, "taskId") or ""
        shown = session.relay.tasks.seal(session.principal.id, self._server, own, self._operation.made_in)
        told = {**task, "taskId": jsonrpc.to_raw(shown)}
        now = task_fields.stamp(session.hub.wall)
        self._send("notifications/tasks/status", task_fields.tidy(told, now))

    def progressed(self, params: Members) -> None:
        """The token of the call is good for as long as its task (G26)."""
        if self._token is not None:
            self._send("notifications/progress", {"progressToken": self._token, **params})

    def _send(self, method: str, params: Members) -> None:
        session = self._session
        if session.initialized and session.reachable:
            session.channel.send(jsonrpc.encode_notification(method, params))


class Augmented:
    """A call with `task` that goes to a modern server: what the client is answered. `task` is that member."""

    def __init__(self, session: ClientSession, server: str, task: Raw) -> None:
        self._session = session
        self._server = server
        self._ttl_s = _kept_s(session, task_fields.ttl_ms(values.object_or_empty(task)))

    def became(self, task: Members) -> Members:
        """The result of the call, a task of the server's. Whatever it is by now, it begins `working`."""
        session = self._session
        own = values.text_of(task, "taskId") or ""
        shown = session.relay.tasks.seal(session.principal.id, self._server, own)
        begun = {**task, "taskId": jsonrpc.to_raw(shown), "status": jsonrpc.to_raw(task_fields.WORKING)}
        now = task_fields.stamp(session.hub.wall)
        return {"task": jsonrpc.encode_object(task_fields.legacy(begun, now))}

    def completed(self, result: Members) -> Members | Fault:
        """The result of the call where the server made no task of it: one that has ended, of our own."""
        session = self._session
        id = session.hub.entropy.token(128)
        now = jsonrpc.to_raw(task_fields.stamp(session.hub.wall))
        task: Members = {
            "status": jsonrpc.to_raw("completed"),
            "createdAt": now,
            "lastUpdatedAt": now,
            "ttlMs": jsonrpc.to_raw(int(self._ttl_s * 1000)),
            "pollIntervalMs": jsonrpc.to_raw(int(session.hub.limits.task_poll_least_s * 1000)),
        }
        if jsonrpc.boolean(result.get("isError", values.EMPTY)):
            task["result"] = _FAILED
        kept = session.relay.kept_tasks
        if not kept.keep(session.principal.id, self._server, id, task, result, self._ttl_s):
            return _NO_ROOM
        return self.became({**values.without(task, "result"), "taskId": jsonrpc.to_raw(id)})


class TaskRequest(LegacyCall):
    """A `tasks/*` request of a legacy client about a task of a modern server, on its way by `route`."""

    def __init__(
        self,
        session: ClientSession,
        request: jsonrpc.Request,
        outlet: Outlet,
        token: Raw | None,
        route: Route,
    ) -> None:
        super().__init__(session, request.id, request.method, outlet, token)
        self.server = route.server
        self._own = values.text_of(route.params, "taskId") or ""
        self._shown = jsonrpc.detach(request.params["taskId"])
        self._meta = meta.end_to_end(values.object_or_empty(request.params.get("_meta", values.EMPTY)))
        self._weight = request.weight
        # Of `tasks/cancel`: how the task was before, and whether the server was asked to cancel it.
        self._before: Members | None = None
        self._asked_to_cancel = False
        # Of `tasks/result`: earlier requests for the same, and the questions that the client is asked.
        self._others: list[TaskRequest] = []
        self._asking: dict[str, Ask] = {}
        audited.routed(outlet, route.server)

    def start(self) -> None:
        """The latest request for a result is the one that the client is asked on; all get the result."""
        session = self.session
        kept = session.relay.kept_tasks.find(session.principal.id, self.server, self._own)
        if kept is not None:
            self._answer_for(kept)
        elif self.method != RESULT:
            self._send("tasks/get")
        else:
            earlier = next((one for one in session.calls if self._is_same(one)), None)
            if isinstance(earlier, TaskRequest):
                self._take_over(earlier)
            else:
                self._send(RESULT, TaskState(self._own))

    def _is_same(self, other: LegacyCall) -> bool:
        return (
            isinstance(other, TaskRequest)
            and other is not self
            and other.method == RESULT
            and other.exchange is not None
            and (other.server, other._own) == (self.server, self._own)
        )

    def _send(self, method: str, task: TaskState | None = None) -> None:
        """A request to the server; with `task` it is asked again until the task has ended."""
        session = self.session
        operation = Operation(
            method=method,
            params={},
            meta=self._meta,
            client=session.client,
            task=task,
            weight=self._weight,
        )
        route = Route(self.server, {"taskId": jsonrpc.to_raw(self._own)})
        self.begin(session.relay.start(operation, route, self))

    # -- Caller

    def completed(self, result: Members) -> None:
        if self.done:
            return
        status = task_fields.status_of(result)
        if self.method == RESULT:
            self._ended(result)
        elif self._asked_to_cancel and self._before is not None and "status" not in result:
            self._send("tasks/get")  # that was the acknowledgement
        elif values.text_of(result, "taskId") != self._own or status is None:
            self.failed(Fault(FaultKind.INTERNAL, "the server spoke of another task than it was asked for"))
        elif self.method == "tasks/get":
            self._told(result)
        elif self._asked_to_cancel:
            self._was_cancelled(result)
        elif status in task_fields.TERMINAL:
            self.failed(_too_late(status))
        else:
            self._before = {name: jsonrpc.detach(raw) for name, raw in result.items()}
            self._asked_to_cancel = True
            self._send("tasks/cancel")

    def failed(self, fault: Fault) -> None:
        if self._asked_to_cancel and self._before is not None and fault.kind is FaultKind.INVALID_PARAMS:
            self._was_cancelled(self._before)  # the server has forgotten it at once
            return
        others, self._others = self._others, []
        super().failed(fault)
        for one in others:
            one.failed(fault)

    def _told(self, task: Members) -> None:
        """The task as this client knows it."""
        told = {**task, "taskId": self._shown}
        super().completed(task_fields.legacy(told, task_fields.stamp(self.session.hub.wall)))

    def _ended(self, result: Members) -> None:
        """What the call itself would have been answered, and of which task it is (1125)."""
        others, self._others = self._others, []
        revision = self.session.revision
        told = content.down_result("tools/call", values.without(result, *HINTS), revision)
        super().completed(_with_related(told, self._shown))
        for one in others:
            if not one.done:
                one._ended(result)

    def _was_cancelled(self, task: Members) -> None:
        """From now on the task is cancelled, though its server may go on with it; unless it had ended."""
        if task_fields.status_of(task) not in task_fields.TERMINAL:
            rest = values.without(task, "taskId", "inputRequests")
            told = {**rest, "status": jsonrpc.to_raw("cancelled")}
            ttl_s = _kept_s(self.session, task_fields.kept_ms(told))
            kept, principal = self.session.relay.kept_tasks, self.session.principal.id
            if kept.keep(principal, self.server, self._own, told, _CANCELLED, ttl_s):
                task = told
        self._told(task)

    def _answer_for(self, kept: Kept) -> None:
        if self.method == "tasks/get":
            self._told(kept.task)
        elif self.method != RESULT:
            self.failed(_too_late(values.text_of(kept.task, "status") or ""))
        elif isinstance(kept.outcome, Fault):
            self.failed(kept.outcome)
        else:
            self._ended(kept.outcome)

    # -- questions of a task whose result is waited for

    def asked(self, asks: list[Ask], carry: Carry | None) -> None:
        self._asking |= {ask.key: ask for ask in asks}
        super().asked(asks, carry)

    def _ask(self, ask: Ask, params: Members, answer: Callable[[Answer], None]) -> None:
        super()._ask(ask, _with_related(params, self._shown), answer)

    def reply(self, key: str, answer: Answer) -> None:
        self._asking.pop(key, None)
        super().reply(key, answer)

    def _lead(self, exchange: Exchange, asks: dict[str, Ask]) -> None:
        exchange.caller = self
        self.begin(exchange)
        if asks:
            self.asked(list(asks.values()), exchange.carry)

    def _hand_over(self) -> tuple[Exchange | None, dict[str, Ask]]:
        """Somebody else waits in this one's place; the client need not answer here any more."""
        exchange, self.exchange = self.exchange, None
        asks, self._asking = self._asking, {}
        for told in self.session.withdraw(lambda question: question.call is not self):
            self.outlet.notify(told)
        return exchange, asks

    def _take_over(self, earlier: TaskRequest) -> None:
        exchange, asks = earlier._hand_over()
        self._others, earlier._others = [earlier, *earlier._others], []
        self._meta = {}  # what the first one said was sent; nothing is kept that is not weighed
        if exchange is not None:
            self._lead(exchange, asks)

    def cancel(self, reason: str) -> None:
        """Whoever waits for the same goes on waiting."""
        heirs = [one for one in self._others if not one.done]
        if not self.done and heirs:
            exchange, asks = self._hand_over()
            heirs[0]._others = heirs[1:]
            if exchange is not None:
                heirs[0]._lead(exchange, asks)
        super().cancel(reason)


def _kept_s(session: ClientSession, ttl_ms: int | None) -> float:
    """How long what the gateway answers for itself is kept, where so much is asked for."""
    most_s = session.hub.limits.kept_task_ttl_s
    return most_s if ttl_ms is None else min(ttl_ms / 1000, most_s)


def _too_late(status: str) -> Fault:
    """1125 tasks, Task Cancellation 1."""
    return Fault(FaultKind.INVALID_PARAMS, f"the task has ended already ({status})")


def _with_related(params: Members, shown: Raw) -> Members:
    told = values.object_or_empty(params.get("_meta", values.EMPTY))
    about = jsonrpc.encode_object({"taskId": shown})
    return {**params, "_meta": jsonrpc.encode_object({**told, meta.RELATED_TASK: about})}
