"""What is known of the tasks of one session with a legacy server (2025-11-25), and the asking for it.

Owns: `LegacyTask`, and `TaskBook`: the tasks by id, who wants to know how they are (requests that wait, calls
that are driven, subscriptions), the asking at the server's pace and once for all, their time to live.
Must never: decide what becomes a task or who may ask (`legacy_tasks.py` does); ask faster than the server
likes; keep anybody waiting for a task that is gone.

    look ──▶ working, cancelled ─────────────────────────────▶ settle: everybody is told
       │ ──▶ input_required: `tasks/result` brings its questions ──▶ settle, in a moment
       └───▶ completed, failed: `tasks/result` brings the outcome ──▶ settle
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from mcpgate_proto.mcp import codes, meta, task_fields
from mcpgate_proto.mcp.codes import Fault, FaultKind
from mcpgate_proto.relay import tasks
from mcpgate_proto.relay.exchange import Exchange, Members, TaskOwner, TaskState
from mcpgate_proto.relay.parking import refusal
from mcpgate_proto.timers import Timer
from mcpgate_proto.wire import jsonrpc, values

if TYPE_CHECKING:
    from mcpgate_proto.upstream.legacy import LegacySession

__all__ = ["LOST", "ODD", "RESULT", "UNKNOWN", "LegacyTask", "TaskBook", "related", "unrelated"]

RESULT: Final = "tasks/result"
# So often in a row may a task be out of reach for those who do not ask themselves.
LOSSES: Final = 5
_KEPT: Final = ("status", "statusMessage", "createdAt", "lastUpdatedAt", "ttl", "pollInterval")
_OUT_OF_REACH: Final = (FaultKind.TIMEOUT, FaultKind.UPSTREAM_DOWN, FaultKind.OVERLOADED)
UNKNOWN: Final = Fault(FaultKind.INVALID_PARAMS, "params.taskId names no task that the server still has")
ODD: Final = Fault(FaultKind.INTERNAL, "the server's task is malformed, or another than it was asked for")
_EXPIRED: Final = Fault(FaultKind.INVALID_PARAMS, "the task's time to live is over")
LOST: Final = Fault(
    FaultKind.INVALID_PARAMS, "the task is lost: the session of the server in which it lived is over"
)
_PRESSED: Final = Fault(FaultKind.OVERLOADED, "the server does not take more requests for now")


class LegacyTask:
    """One task of the server."""

    __slots__ = (
        "born_at",
        "driver",
        "expires_at",
        "expiry",
        "fresh_until",
        "gone",
        "id",
        "looking",
        "losses",
        "outcome",
        "owner",
        "poll",
        "progress",
        "result",
        "told",
        "token",
        "wait_questions",
        "wait_result",
    )

    def __init__(self, id: str, token: int, born_at: float) -> None:
        self.id = id
        # The id of the call that it was made of, which is its progress token for as long as it lives.
        self.token = token
        self.born_at = born_at
        self.told: Members = {}  # as the server last told of it
        self.gone = False
        # For whom: the call that is answered with its result, or the legacy client that asked for it; neither
        # where a modern client asks how it is when it likes.
        self.driver: Exchange | None = None
        self.owner: TaskOwner | None = None
        self.looking = False  # a `tasks/get` of ours is under way
        self.result = 0  # our `tasks/result` that is under way
        self.outcome: Members | Fault | None = None  # its answer, until it has been told
        self.fresh_until = 0.0
        self.losses = 0
        self.progress: float | None = None
        self.poll: Timer | None = None
        self.wait_questions: Timer | None = None
        self.wait_result: Timer | None = None
        self.expires_at = 0.0
        self.expiry: Timer | None = None

    @property
    def status(self) -> str:
        return values.text_of(self.told, "status") or task_fields.WORKING

    @property
    def over(self) -> bool:
        return self.status in task_fields.TERMINAL

    def calm(self) -> None:
        """Nothing is waited for with a time limit."""
        self.calm_questions()
        for timer in (self.poll, self.wait_result):
            if timer is not None:
                timer.cancel()
        self.poll = self.wait_result = None

    def calm_questions(self) -> None:
        if self.wait_questions is not None:
            self.wait_questions.cancel()
            self.wait_questions = None


class TaskBook:
    """See the head of this file. One per session."""

    def __init__(self, session: LegacySession) -> None:
        self._session = session
        self._hub = session.hub
        self.tasks: dict[str, LegacyTask] = {}
        self.driven: dict[Exchange, LegacyTask] = {}
        # Requests of modern clients that are answered once it is known how their task is.
        self._waiting: dict[Exchange, LegacyTask] = {}
        # Subscriptions: task -> the state that was told of it last.
        self._listens: dict[Exchange, dict[LegacyTask, bytes]] = {}

    def room(self) -> bool:
        """For one task more. Those that have ended give way, the oldest first; nothing else does."""
        most = self._hub.limits.tasks_per_session
        if len(self.tasks) >= most:
            ended = next((one for one in self.tasks.values() if one.over and one.driver is None), None)
            if ended is not None:
                self.drop(ended)
        return len(self.tasks) < most

    def add(self, id: str, token: int, told: Members) -> LegacyTask:
        task = self.tasks[id] = LegacyTask(id, token, self._hub.now)
        self.learn(task, told)
        return task

    def drive(self, task: LegacyTask, call: Exchange) -> None:
        """`call` is answered with what becomes of the task."""
        self._hub.count("tasks_driven")
        task.driver = call
        self.driven[call] = task
        self._later(task)

    # -- who wants to know

    def wait(self, task: LegacyTask, exchange: Exchange) -> None:
        """Answer `exchange` once it is known how the task is."""
        self._waiting[exchange] = task

    def waits_no_more(self, exchange: Exchange) -> bool:
        """False where it did not wait, and heard of no changes."""
        if self._waiting.pop(exchange, None) is not None:
            return True
        return self._listens.pop(exchange, None) is not None

    def _take_waiting(self, task: LegacyTask) -> list[Exchange]:
        waiting = [exchange for exchange, wanted in self._waiting.items() if wanted is task]
        for exchange in waiting:
            del self._waiting[exchange]
        return waiting

    def listen(self, exchange: Exchange, wanted: list[LegacyTask]) -> None:
        """Tell `exchange` of changes. The server need not notify of them, so it is asked as well."""
        self._listens[exchange] = dict.fromkeys(wanted, b"")
        for task in wanted:
            if task.poll is None:
                self._poll_in(task, 0.0)

    def _listened(self, task: LegacyTask) -> bool:
        return any(task in one for one in self._listens.values())

    def wanted(self, task: LegacyTask) -> bool:
        """Somebody waits to hear how it is."""
        return task.driver is not None or task in self._waiting.values() or self._listened(task)

    def _tell(self, task: LegacyTask, told: Members) -> None:
        state = b"\n".join(
            bytes(told[name])
            for name in ("status", "statusMessage", "lastUpdatedAt", "inputRequests")
            if name in told
        )
        for exchange, listened in list(self._listens.items()):
            updates = exchange.operation.updates
            if task in listened and listened[task] != state and updates is not None:
                listened[task] = state
                updates.updated(told)

    # -- what is known

    def learn(self, task: LegacyTask, told: Members) -> bool:
        """False where that is not about this task, or makes no sense."""
        if values.text_of(told, "taskId") != task.id or task_fields.status_of(told) is None:
            return False
        task.told = {name: jsonrpc.detach(told[name]) for name in _KEPT if name in told}
        task.told["taskId"] = jsonrpc.to_raw(task.id)
        task.losses = 0
        self._watch_time(task)
        return True

    def _expires(self, task: LegacyTask) -> float:
        most = self._hub.limits.task_ttl_s
        kept_ms = task_fields.ttl_ms(task.told)
        return task.born_at + (most if kept_ms is None else min(kept_ms / 1000, most))

    def _watch_time(self, task: LegacyTask) -> None:
        """Its time to live may change as long as it lives."""
        due = self._expires(task)
        if task.expiry is not None and task.expires_at != due:
            task.expiry.cancel()
            task.expiry = None
        if task.expiry is None:
            task.expires_at = due
            task.expiry = self._hub.at(due, "task", lambda: self._expired(task))

    def _expired(self, task: LegacyTask) -> None:
        """Its server may have forgotten it; so do we. One that is driven ends with its call. Where it is we
        who hold it no longer, the server is told."""
        if task.driver is not None:
            return
        kept_ms = task_fields.ttl_ms(task.told)
        ours = kept_ms is None or kept_ms / 1000 > self._hub.limits.task_ttl_s
        if ours and not task.over:
            self.give_up(task)
        self._end(task, _EXPIRED)

    def give_up(self, task: LegacyTask) -> None:
        """Nobody waits for it any more, nor will anybody answer it: it is cancelled (G22: by this, not by the
        notification), or where that cannot be its questions get a plain no (L1.9)."""
        if self.can_cancel:
            self.tell_cancelled(task.id)
            return
        for key, ask in self._session.questions_of(task.id).items():
            self._session.answer(key, refusal(ask))

    @property
    def can_cancel(self) -> bool:
        return "cancel" in values.object_or_empty(self._session.capabilities.get("tasks", values.EMPTY))

    def tell_cancelled(self, id: str) -> None:
        """What comes of it nobody waits for."""
        if self.can_cancel and not self._session.over:
            self._session.request("tasks/cancel", {"taskId": jsonrpc.to_raw(id)}, lambda answer: None)

    def _base(self, task: LegacyTask) -> Members:
        most_ms = int(self._hub.limits.task_ttl_s * 1000)
        return task_fields.modern(task.told, most_ms, task_fields.stamp(self._hub.wall))

    def flat(self, task: LegacyTask) -> Members:
        """The task in the form of the extension, while it has not ended: with what it asks for."""
        told = self._base(task)
        asks = self._session.unasked(task.id)
        if asks and not task.over:
            told["status"] = jsonrpc.to_raw("input_required")
            requests = {
                key: {"method": ask.method, "params": jsonrpc.encode_object(ask.params)}
                for key, ask in asks.items()
            }
            told["inputRequests"] = jsonrpc.to_raw(requests)
        elif task.status == "input_required":
            # Nothing that this client could answer: for it the task goes on.
            told["status"] = jsonrpc.to_raw(task_fields.WORKING)
        return told

    def _ended(self, task: LegacyTask, outcome: Members | Fault) -> Members:
        """The task in the form of the extension, with what the call ended with."""
        told = self._base(task)
        if isinstance(outcome, Fault):
            return {**told, "status": jsonrpc.to_raw("failed"), "error": task_fields.error_of(outcome)}
        if task.status == "failed" and "content" not in outcome:
            reason = values.text_of(told, "statusMessage") or "the task failed"
            return {**told, "error": task_fields.error_of(codes.peer(codes.INTERNAL_ERROR, reason))}
        completed = jsonrpc.to_raw("completed")
        return {**told, "status": completed, "result": jsonrpc.encode_object(outcome)}

    # -- asking

    def look(self, task: LegacyTask) -> None:
        """Ask the server how the task is: once, for everybody who wants to know."""
        if task.looking or task.gone:
            return
        if self._session.link.full():
            self._missed(task, _PRESSED)
            return
        task.looking = True
        params = {"taskId": jsonrpc.to_raw(task.id)}
        self._session.request("tasks/get", params, lambda answer: self._looked(task, answer))

    def _looked(self, task: LegacyTask, answer: Members | Fault) -> None:
        task.looking = False
        if task.gone:
            return
        if isinstance(answer, Fault):
            self._missed(task, answer)
        elif not self.learn(task, answer):
            self._end(task, ODD)
        else:
            self.proceed(task)

    def _missed(self, task: LegacyTask, fault: Fault) -> None:
        """It could not be asked about; or the server does not know it any more."""
        if fault.kind is FaultKind.INVALID_PARAMS:
            self._end(task, UNKNOWN)
            return
        for exchange in self._take_waiting(task):
            exchange.fail(fault)
        if not self.wanted(task):
            return
        task.losses += 1
        if task.losses > LOSSES:
            self._end(task, fault)
        else:
            self._later(task)

    def proceed(self, task: LegacyTask) -> None:
        """What follows from the task's status."""
        if task.status in ("completed", "failed"):
            self._fetch(task)
        elif task.status == "input_required" and not self._session.unasked(task.id):
            # Its questions come on `tasks/result`; whoever asked is told in a moment, with or without them.
            if not task.result:
                self._ask_result(task, self._hub.limits.call_ceiling_s)
            if task.wait_questions is None:
                self.settle_in(task, self._hub.limits.task_harvest_s)
        else:
            self._settle(task)

    def settle_in(self, task: LegacyTask, wait_s: float) -> None:
        """Tell everybody how the task is, with the questions that have come until then."""
        if task.wait_questions is not None:
            task.wait_questions.cancel()
        task.wait_questions = self._hub.after(wait_s, "task questions", lambda: self._settle(task))

    def _fetch(self, task: LegacyTask) -> None:
        """It has ended: with what?"""
        task.calm_questions()
        if task.outcome is not None:
            outcome, task.outcome = task.outcome, None
            self._settle(task, outcome)
        elif not self.wanted(task):
            task.calm()  # whoever asks next has it fetched
        elif not task.result:
            self._ask_result(task, None)
        elif task.wait_result is None:
            # The one that is open should be answered now; if it is not, another one is.
            wait_s = self._hub.limits.task_harvest_s
            task.wait_result = self._hub.after(wait_s, "task result", lambda: self._ask_result_again(task))

    def _ask_result_again(self, task: LegacyTask) -> None:
        task.wait_result = None
        if task.result:
            self._session.forget(task.result)
        self._ask_result(task, None)

    def _ask_result(self, task: LegacyTask, wait_s: float | None) -> None:
        params = {"taskId": jsonrpc.to_raw(task.id)}
        session = self._session
        task.result = session.request(RESULT, params, lambda answer: self._resulted(task, answer), wait_s)

    def _resulted(self, task: LegacyTask, answer: Members | Fault) -> None:
        task.result = 0
        if task.gone:
            return
        if isinstance(answer, Fault) and answer.kind in _OUT_OF_REACH:
            if task.over:
                self._missed(task, answer)
            else:
                self._later(task)
        elif self.wanted(task):
            task.outcome = answer
            if task.over:
                self._fetch(task)
            else:
                self.look(task)  # it ended while its questions were waited for

    def _settle(self, task: LegacyTask, outcome: Members | Fault | None = None) -> None:
        """It is known how the task is: tell everybody who wants to know."""
        task.calm()
        told = self.flat(task) if outcome is None else self._ended(task, outcome)
        status = values.text_of(told, "status")
        if status == task_fields.WORKING:
            task.fresh_until = self._hub.now + tasks.interval_s(told, self._hub.limits)
        for exchange in self._take_waiting(task):
            exchange.complete(told if exchange.operation.method == "tasks/get" else {})
        self._tell(task, told)
        if task.driver is not None and status not in (task_fields.WORKING, "input_required"):
            self._deliver(task, task.driver, told, outcome)
        else:
            self._later(task)

    def _deliver(
        self, task: LegacyTask, driver: Exchange, told: Members, outcome: Members | Fault | None
    ) -> None:
        """The call that was driven has its answer."""
        self.drop(task)
        if isinstance(outcome, Fault):
            driver.fail(outcome)
            return
        read = tasks.read(told, TaskState(task.id), self._hub.limits)
        if isinstance(read, tasks.Finished):
            driver.complete(unrelated(read.result))
        else:
            driver.fail(read if isinstance(read, Fault) else ODD)

    def _later(self, task: LegacyTask) -> None:
        """Ask again when the server likes it, if somebody wants to know without asking."""
        driver = task.driver
        if task.gone or task.poll is not None or not (driver or (self._listened(task) and not task.over)):
            return
        limits = self._hub.limits
        wait_s = tasks.interval_s(self._base(task), limits)
        if task.losses:
            wait_s = min(wait_s * 2.0**task.losses, limits.task_poll_most_s)
        if driver is not None:
            driver.rest(wait_s)
        self._poll_in(task, wait_s)

    def _poll_in(self, task: LegacyTask, wait_s: float) -> None:
        task.poll = self._hub.after(wait_s, "task poll", lambda: self._poll(task))

    def _poll(self, task: LegacyTask) -> None:
        task.poll = None
        if task.driver is not None and task.driver.is_asking:
            self._later(task)  # the server waits for the client
        else:
            self.look(task)

    # -- the end

    def _end(self, task: LegacyTask, fault: Fault) -> None:
        """Nothing more will be heard of the task."""
        waiting, driver = self._take_waiting(task), task.driver
        if not task.over:
            self._tell(task, self._ended(task, fault))
        self.drop(task)
        for exchange in waiting:
            exchange.fail(fault)
        if driver is not None:
            reason = f"the server lost the task that it made of the call: {fault.message[:200]}"
            driver.fail(Fault(FaultKind.INTERNAL, reason))

    def drop(self, task: LegacyTask) -> None:
        """Forget the task. Its server has ended or forgotten it, too, or is about to: its questions are not
        answered any more (mcp 1.30 for Python breaks down when a task that has ended gets an answer)."""
        self._forget(task)
        for listened in self._listens.values():
            listened.pop(task, None)
        if task.result:
            self._session.forget(task.result)
            task.result = 0
        self._session.forget_task(task.id)

    def _forget(self, task: LegacyTask) -> None:
        task.gone = True
        self.tasks.pop(task.id, None)
        task.calm()
        if task.expiry is not None:
            task.expiry.cancel()
        if task.driver is not None:
            self.driven.pop(task.driver, None)

    def close(self) -> Callable[[], None]:
        """The session ends. What is returned tells everybody, once the pool has forgotten the session."""
        lost = list(self.tasks.values())
        listens, self._listens = self._listens, {}
        told = {task: self._ended(task, LOST) for task in lost if not task.over}
        waiting = [exchange for task in lost for exchange in self._take_waiting(task)]
        drivers = [task.driver for task in lost if task.driver is not None]
        for task in lost:
            self._forget(task)

        def tell() -> None:
            for driver in drivers:
                driver.lost(True)
            for exchange in waiting:
                exchange.fail(LOST)
            for exchange, listened in listens.items():
                updates = exchange.operation.updates
                for task in listened:
                    if updates is not None and task in told:
                        updates.updated(told[task])
                exchange.fail(LOST)

        return tell


def related(result: Members, task: str) -> Members:
    """A result that says which task it is about."""
    told = values.object_or_empty(result.get("_meta", values.EMPTY))
    about = jsonrpc.to_raw({"taskId": task})
    return {**result, "_meta": jsonrpc.encode_object({**told, meta.RELATED_TASK: about})}


def unrelated(params: Members) -> Members:
    """A server's message without the task that it names: whoever gets it knows no such task."""
    if "_meta" not in params:
        return params
    told = values.without(values.object_or_empty(params["_meta"]), meta.RELATED_TASK)
    return {**params, "_meta": jsonrpc.encode_object(told)} if told else values.without(params, "_meta")
