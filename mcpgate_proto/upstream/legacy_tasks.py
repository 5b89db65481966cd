"""The tasks of one session with a legacy server (2025-11-25), for clients with other tasks, or none (L22).

    client                            what it gets of a tool that has to be called as a task
    modern, declares the extension    a task, for `tasks/get`, `tasks/update`, `tasks/cancel` and listens
    any other                         the result: the task is driven here, its questions are the call's
    legacy, asks for a task itself    the server's own task; only what is said outside requests passes here

A tool that may be called either way is called plainly: that works for all, and costs one round trip.

Such a task lives in the session that made it and dies with it, so everything about it goes to this very
session, by its tag. A server asks what it needs on `tasks/result` and names the task in it: so its questions
never meet a wrong call, however many there are.

Owns: `TaskDesk`: which calls become tasks, requests of modern clients about them, what the server says of
them outside answers. What is known of each is in `legacy_task_book.py`.
Must never: give a task, or a word of one, to anybody but those who hold its sealed id.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from mcpgate_proto.mcp import codes, extensions, meta, task_fields
from mcpgate_proto.mcp.codes import Fault, FaultKind
from mcpgate_proto.mcp.revisions import REVISIONS, Era
from mcpgate_proto.relay import tasks
from mcpgate_proto.relay.exchange import Answer, Exchange, Members, Phase
from mcpgate_proto.upstream.legacy_task_book import ODD, RESULT, UNKNOWN, LegacyTask, TaskBook
from mcpgate_proto.wire import jsonrpc, values
from mcpgate_proto.wire.jsonrpc import Raw

if TYPE_CHECKING:
    from mcpgate_proto.upstream.legacy import LegacySession

__all__ = ["TaskDesk"]

CALL: Final = "tools/call"
TAG_BITS: Final = 64
_OTHER_KIND: Final = Fault(FaultKind.INTERNAL, "the server has no tasks of this kind any more")
_FULL: Final = Fault(FaultKind.OVERLOADED, "the server has too many tasks of this client")


class TaskDesk:
    """See the head of this file. One per session."""

    def __init__(self, session: LegacySession) -> None:
        self._session = session
        self._hub = session.hub
        self._book = TaskBook(session)

    @property
    def alive(self) -> bool:
        """The session must stay, for it has tasks; those that have ended may be asked for yet."""
        return bool(self._book.tasks)

    @property
    def working(self) -> bool:
        """Some of them have not ended."""
        return any(not task.over for task in self._book.tasks.values())

    @property
    def offered(self) -> bool:
        """The server makes tasks of calls in this session."""
        session = self._session
        return REVISIONS[session.version].tasks and task_fields.offered(session.capabilities)

    def _task_of(self, params: Members) -> LegacyTask | None:
        return self._book.tasks.get(values.text_of(params, "taskId") or "")

    def close(self) -> Callable[[], None]:
        """The session ends. What is returned tells everybody, once the pool has forgotten the session."""
        return self._book.close()

    # -- calls

    def takes(self, exchange: Exchange) -> bool:
        """Deal with an operation that is no mere request to this server; false where it is one."""
        operation = exchange.operation
        carry, about = operation.carry, operation.method.startswith("tasks/")
        driven = operation.task is not None or (carry is not None and carry.task is not None)
        here = operation.session != "" and operation.session == self._session.tag
        if driven or ((about or operation.updates is not None) and not here):
            # The server was a modern one when it made the task; the call is not made again (L1.10).
            self._refuse(exchange, _OTHER_KIND)
        elif operation.updates is not None:
            self._listen(exchange)
        elif about and operation.client.era is Era.MODERN:
            self._about(exchange)
        elif self._augments(exchange):
            return self._refused(exchange)
        else:
            return False
        return True

    def _augments(self, exchange: Exchange) -> bool:
        """Whether the call is made as a task: the client said so, or the tool has to be called so."""
        operation = exchange.operation
        wanted = operation.needs_task or "task" in operation.params
        return wanted and operation.method == CALL and self.offered

    def _refused(self, exchange: Exchange) -> bool:
        operation = exchange.operation
        known = "task" in operation.params or operation.takes_task
        if not known and not self._hub.config.drive_tasks:
            self._refuse(exchange, codes.missing_capability(extensions.TASKS_NEEDED))
        elif not self._book.room() or not (self.alive or self._session.host.may_hold(self._session)):
            self._refuse(exchange, _FULL)
        else:
            if not self._session.tag:
                self._session.tag = self._hub.entropy.token(TAG_BITS)
            operation.made_in = self._session.tag
            return False
        return True

    def _refuse(self, exchange: Exchange, fault: Fault) -> None:
        if exchange.operation.interactive:
            self._session.untake()
            self._session.host.session_freed(self._session)
        exchange.fail(fault)

    def augmented(self, exchange: Exchange, params: Members) -> Members:
        """The params of a call, with `task` where the gateway asks for one."""
        if "task" in params or not self._augments(exchange):
            return params
        limits = self._hub.limits
        kept_s = limits.task_ttl_s if exchange.operation.takes_task else limits.call_ceiling_s
        return {**params, "task": jsonrpc.to_raw({"ttl": int(kept_s * 1000)})}

    def made(self, number: int, exchange: Exchange, outcome: Members | Fault) -> bool:
        """A call was answered; true where it became a task, and that has been dealt with."""
        if isinstance(outcome, Fault) or "task" not in outcome or not self._augments(exchange):
            return False
        told = values.object_or_empty(outcome["task"])
        id = values.text_of(told, "taskId")
        unusable = not id or len(id) > tasks.ID_CHARS or id in self._book.tasks
        if unusable or task_fields.status_of(told) is None:
            exchange.fail(ODD)
            return True
        assert id is not None
        task = self._book.add(id, number, told)
        operation = exchange.operation
        if "task" in operation.params:
            task.owner = operation.owner
            exchange.complete(outcome)
        elif operation.takes_task:
            # 1125: it begins `working`; if it is further already, the client is told when it asks.
            begun = {**self._book.flat(task), "status": jsonrpc.to_raw(task_fields.WORKING)}
            exchange.complete_with_task(begun)
        else:
            self._book.drive(task, exchange)
        self._session.adopt(exchange, id)
        return True

    def orphaned(self, outcome: Members | Fault) -> None:
        """A cancelled call became a task after all: nobody will ask for it."""
        if not isinstance(outcome, Fault) and "task" in outcome and self.offered:
            id = values.text_of(values.object_or_empty(outcome["task"]), "taskId")
            if id and id not in self._book.tasks:
                self._book.tell_cancelled(id)

    def replans(self, exchange: Exchange, outcome: Members | Fault) -> bool:
        """-32601 for a call: perhaps the tool has to be called as a task, or must not be, and its definition
        is not at hand or was another one. It was refused, not carried out: it may go again, once."""
        operation = exchange.operation
        if not isinstance(outcome, Fault) or outcome.kind is not FaultKind.METHOD_NOT_FOUND:
            return False
        if operation.method != CALL or operation.replanned or "task" in operation.params or not self.offered:
            return False
        operation.replanned = True
        before = operation.needs_task

        def planned() -> None:
            if exchange.phase is not Phase.RUNNING:
                return
            if operation.needs_task is before:
                exchange.fail(outcome)
            else:
                self._session.host.place(exchange)

        self._session.host.replan(exchange, planned)
        return True

    def cancelled(self, exchange: Exchange) -> bool:
        """The client gives up; false where it is a request like any other."""
        task = self._book.driven.get(exchange)
        if task is None:
            return self._book.waits_no_more(exchange)
        self._book.give_up(task)
        self._book.drop(task)
        return True

    # -- requests of modern clients

    def _about(self, exchange: Exchange) -> None:
        operation = exchange.operation
        task = self._task_of(operation.params)
        if task is None:
            exchange.fail(UNKNOWN)
        elif operation.method == "tasks/update":
            self._update(task, exchange)
        elif operation.method == "tasks/cancel":
            self._cancel(task, exchange)
        elif task.status == task_fields.WORKING and self._hub.now < task.fresh_until:
            # Nobody has to ask faster than the server likes; what it says by itself is known at once.
            exchange.complete(self._book.flat(task))
        else:
            self._book.wait(task, exchange)
            self._book.look(task)

    def _update(self, task: LegacyTask, exchange: Exchange) -> None:
        """Answers to what is open; everything else is ignored, as the extension has it."""
        given = values.object_or_empty(exchange.operation.params.get("inputResponses", values.EMPTY))
        wanted = {key: given[key] for key in self._session.unasked(task.id) if key in given}
        if not all(values.is_object(raw) for raw in wanted.values()):
            told = "params.inputResponses is not an object of objects"
            exchange.fail(Fault(FaultKind.INVALID_PARAMS, told))
            return
        for key, raw in wanted.items():
            self._session.answer(key, Answer(raw))
        exchange.complete({})

    def _cancel(self, task: LegacyTask, exchange: Exchange) -> None:
        """The legacy method refuses what has ended; the extension's is acknowledged all the same."""
        if task.over or not self._book.can_cancel:
            exchange.complete({})
            return
        self._book.wait(task, exchange)

        def answered(answer: Members | Fault) -> None:
            if task.gone or not self._book.waits_no_more(exchange):
                return
            if isinstance(answer, Fault) and answer.kind is FaultKind.INVALID_PARAMS:
                self._book.wait(task, exchange)
                self._book.look(task)  # it has ended, or is not known any more
            elif isinstance(answer, Fault):
                exchange.fail(answer)
            else:
                self._book.learn(task, answer)
                self._session.forget_task(task.id)  # it does not ask any more
                exchange.complete({})
                self._book.proceed(task)

        self._session.request("tasks/cancel", {"taskId": jsonrpc.to_raw(task.id)}, answered)

    def _listen(self, exchange: Exchange) -> None:
        operation = exchange.operation
        wanted = values.object_or_empty(operation.params.get("notifications", values.EMPTY))
        ids = [jsonrpc.text(one) for one in values.items(wanted.get("taskIds", Raw(b"[]"))) or []]
        found = [self._book.tasks[id] for id in ids if id is not None and id in self._book.tasks]
        self._book.listen(exchange, found)
        if operation.updates is not None:
            operation.updates.acknowledged({"taskIds": jsonrpc.to_raw([task.id for task in found])})

    # -- what the server says outside answers

    def of(self, message: jsonrpc.Request, origin: int | None) -> LegacyTask | None:
        """The task that a question belongs to: it names it, or comes on the stream of its `tasks/result`."""
        id = self.named(message.params)
        if id is not None:
            return self._book.tasks.get(id)
        if origin is None:
            return None
        call = self._session.calls.get(origin)
        if call is not None and call.operation.method == RESULT:
            return self._task_of(call.operation.params)
        return next((one for one in self._book.tasks.values() if one.result == origin), None)

    def named(self, params: Members) -> str | None:
        """The task that a message says it belongs to; "" for one that is no id."""
        told = values.object_or_empty(params.get("_meta", values.EMPTY)).get(meta.RELATED_TASK)
        return None if told is None else values.text_of(values.object_or_empty(told), "taskId") or ""

    def asker(self, task: LegacyTask) -> Exchange | None:
        """The operation through which the client can be asked now."""
        if task.driver is not None:
            return task.driver
        for exchange in self._session.calls.values():
            if exchange.operation.method == RESULT and self._task_of(exchange.operation.params) is task:
                return exchange
        return None

    def asked(self, task: LegacyTask) -> None:
        """A question came that nobody can be asked now: it stands in the task, or is asked with the next
        `tasks/result`."""
        if self._book.wanted(task):
            self._book.settle_in(task, self._hub.limits.ask_debounce_s)

    def opened(self, exchange: Exchange) -> None:
        """A legacy client waits for its task: it is asked what stood open."""
        if exchange.operation.method == RESULT:
            task = values.text_of(exchange.operation.params, "taskId") or ""
            asks = self._session.hand_out(task, exchange) if exchange.phase is Phase.RUNNING else []
            if asks:
                exchange.ask(asks, None)

    def status_told(self, params: Members) -> None:
        """`notifications/tasks/status`: to the legacy client whose task it is; subscriptions of modern ones
        and driven calls learn from it at once (L22)."""
        task = self._task_of(params)
        if task is None or not self._book.learn(task, params):
            self._hub.count("upstream_stray_task_status")
            return
        if task.owner is not None:
            task.owner.changed(task.told)
        if self._book.wanted(task):
            self._book.proceed(task)

    def progressed(self, token: int, value: float, params: Members) -> bool:
        """Progress of a call that has become a task. The extension has none: a modern client is not told."""
        task = next((one for one in self._book.tasks.values() if one.token == token), None)
        if task is None:
            return False
        if task.driver is not None:
            task.driver.progress(value, params)
        elif task.owner is not None and not task.over and (task.progress is None or value > task.progress):
            task.progress = value
            task.owner.progressed(params)
        return True

    def noted(self, exchange: Exchange, outcome: Members | Fault) -> None:
        """What a legacy client was told of its task, we know as well."""
        operation = exchange.operation
        if operation.method in ("tasks/get", "tasks/cancel") and not isinstance(outcome, Fault):
            task = self._task_of(operation.params)
            if task is not None:
                self._book.learn(task, outcome)
