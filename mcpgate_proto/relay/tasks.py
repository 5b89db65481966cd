"""Tasks: ids that only their owner can use, and the reading of a task that is driven for a client.

A server's task id never reaches a client: it gets a sealed one, which names the server and is good for one
principal (N3). Nothing is kept here, so that it outlives a restart and the same task always has the same id.

A client that knows no tasks gets the final result all the same: an upstream face asks for the task until it
has ended (L22). What is to be sent, and what an answer means, is decided here; when, is the face's business.

Owns: `TaskIds`, the steps of a driven task. Must never: hold a task, or open an id for another principal.
"""

from __future__ import annotations

import math

import msgspec

from mcpgate_proto.hub import Hub
from mcpgate_proto.limits import Limits
from mcpgate_proto.mcp import codes
from mcpgate_proto.mcp.codes import Fault, FaultKind
from mcpgate_proto.relay.exchange import Ask, Members, Operation, TaskState
from mcpgate_proto.wire import jsonrpc, values
from mcpgate_proto.wire.jsonrpc import Raw

__all__ = [
    "ID_CHARS",
    "Asked",
    "Finished",
    "Handle",
    "TaskIds",
    "Working",
    "answered",
    "asking",
    "created",
    "expected",
    "following",
    "interval_s",
    "read",
]

PURPOSE = "task"
# A server's id travels in a header, sealed (C15); real ones have 36 characters.
ID_CHARS = 1024


class Handle(msgspec.Struct, frozen=True, array_like=True):
    """What a sealed task id stands for. `session`: where a legacy server's task lives; empty for others."""

    server: str
    id: str
    session: str = ""


class TaskIds:
    """Seals and opens task ids."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def seal(self, principal: str, server: str, id: str, session: str = "") -> str:
        """The id that `principal` is given. It does not expire: when a task ends its server decides."""
        payload = msgspec.msgpack.encode(Handle(server, id, session))
        return self._hub.sealer.seal(PURPOSE, principal, payload, math.inf)

    def open(self, principal: str, token: str | None) -> Handle | None:
        """None for anything that is not a task id of this principal."""
        if token is None or len(token) > self._hub.limits.cursor_bytes:
            return None
        opened = self._hub.sealer.open(PURPOSE, principal, token, self._hub.wall)
        if opened is None:
            return None
        try:
            return msgspec.msgpack.decode(opened, type=Handle)
        except msgspec.MsgspecError:
            return None


# ------------------------------------------------------------------------------------- driven tasks


class Working(msgspec.Struct, frozen=True):
    """Ask again in `wait_s`."""

    wait_s: float


class Asked(msgspec.Struct, frozen=True):
    """The task needs answers of the client."""

    asks: list[Ask]


class Finished(msgspec.Struct, frozen=True):
    """The result of the call that became a task."""

    result: Members


def created(result: Members) -> TaskState | None:
    """The task that a server made of a call; None if it cannot be asked for again."""
    id = values.text_of(result, "taskId")
    return TaskState(id) if id and len(id) <= ID_CHARS else None


def interval_s(task: Members, limits: Limits) -> float:
    """How long to wait before the next `tasks/get`: as the server likes it, within bounds."""
    told = jsonrpc.integer(task["pollIntervalMs"]) if "pollIntervalMs" in task else None
    wait_s = limits.task_poll_s if told is None else min(max(told, 0), 86_400_000) / 1000
    return min(max(wait_s, limits.task_poll_least_s), limits.task_poll_most_s)


def following(operation: Operation, state: TaskState) -> tuple[str, Members]:
    """The next request about a driven task: its answers first, else how it is."""
    params: Members = {"taskId": jsonrpc.to_raw(state.id)}
    if not operation.answers:
        return "tasks/get", params
    return "tasks/update", {**params, "inputResponses": operation.answers}


def answered(operation: Operation, state: TaskState) -> TaskState:
    """The task after its server has taken `operation.answers`: those keys are not asked again."""
    keys = dict.fromkeys((*state.answered, *values.object_or_empty(operation.answers)))
    return TaskState(state.id, answered=tuple(keys))


def expected(answers: Raw, state: TaskState) -> Raw:
    """Of a client's answers those that it was asked for (G10); empty where there are none."""
    given = values.object_or_empty(answers) if answers else {}
    kept = {key: given[key] for key in state.asked if key in given}
    return jsonrpc.encode_object(kept) if kept else Raw(b"")


def asking(state: TaskState, asks: list[Ask]) -> TaskState:
    """The task while the client is being asked."""
    return TaskState(state.id, tuple(ask.key for ask in asks), state.answered)


def read(task: Members, state: TaskState, limits: Limits) -> Working | Asked | Finished | Fault:
    """What the result of `tasks/get` says of a driven task."""
    status = values.text_of(task, "status")
    if values.text_of(task, "taskId") != state.id:
        return Fault(FaultKind.INTERNAL, "the server spoke of another task than the one it was asked for")
    if status == "working":
        return Working(interval_s(task, limits))
    if status == "input_required":
        return _questions(task, state, limits)
    if status == "completed":
        result = values.without(values.object_or_empty(task.get("result", values.EMPTY)), "resultType")
        return Finished(result)
    if status == "failed":
        error = values.object_or_empty(task.get("error", values.EMPTY))
        code = jsonrpc.integer(error["code"]) if "code" in error else None
        told = values.text_of(error, "message") or "the task failed"
        if code is None:
            return Fault(FaultKind.INTERNAL, told)
        return codes.from_modern_error(code, told, error.get("data", Raw(b"")), "", {})
    if status == "cancelled":
        return Fault(FaultKind.INTERNAL, "the server cancelled the task")
    return Fault(FaultKind.INTERNAL, "the server's task has an unknown status")


def _questions(task: Members, state: TaskState, limits: Limits) -> Working | Asked | Fault:
    """Answers take effect late: a key that was answered may still be listed, and is not asked again."""
    asks: list[Ask] = []
    for key, raw in values.object_or_empty(task.get("inputRequests", values.EMPTY)).items():
        if key in state.answered:
            continue
        wanted = values.object_or_empty(raw)
        method = values.text_of(wanted, "method")
        if method is None:
            return Fault(FaultKind.INTERNAL, "the task's inputRequests are malformed")
        asks.append(Ask(key, method, values.object_or_empty(wanted.get("params", values.EMPTY))))
    return Asked(asks) if asks else Working(interval_s(task, limits))
