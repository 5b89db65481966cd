"""A task as 2025-11-25 has it, and as the extension of 2026-07-28 has it (L22).

Owns: the two forms of a task, field by field and status by status, and time stamps for tasks of our own.
Must never: pass on a member that neither form has, or a value that the other form's schema refuses.

    2025-11-25     extension         remark
    ttl            ttlMs             null: for ever
    pollInterval   pollIntervalMs
    {"task": {}}   flat              in the result of the call that became a task
    failed         completed         where the result of the call is there and says `isError`
    failed         failed + error    where the call ended with a JSON-RPC error
    completed      completed + result
    input_required input_required + inputRequests
"""

from __future__ import annotations

from typing import Final

from mcpgate_proto.mcp import codes
from mcpgate_proto.mcp.codes import Fault
from mcpgate_proto.wire import jsonrpc, values
from mcpgate_proto.wire.jsonrpc import Raw

__all__ = [
    "TERMINAL",
    "WORKING",
    "error_of",
    "interval_ms",
    "kept_ms",
    "legacy",
    "modern",
    "offered",
    "stamp",
    "status_of",
    "support",
    "tidy",
    "ttl_ms",
]

Members = dict[str, Raw]

WORKING: Final = "working"
TERMINAL: Final = ("completed", "failed", "cancelled")
_STATUSES: Final = (WORKING, "input_required", *TERMINAL)
_TEXTS: Final = ("createdAt", "lastUpdatedAt")
_NULL: Final = Raw(b"null")
# What every JSON reader can hold (A21), and no float overflows on.
_SAFE_INTEGER: Final = 2**53 - 1
# A message is read by people and models; it is text of a server that nobody vouches for (K13).
_MESSAGE_CHARS: Final = 4096


def status_of(task: Members) -> str | None:
    """The status, None for one that no form has."""
    told = values.text_of(task, "status")
    return told if told in _STATUSES else None


def support(tool: Raw) -> str:
    """`execution.taskSupport` of a tool: "required", "optional", or "forbidden", which is the default."""
    if b"taskSupport" not in bytes(tool):
        return "forbidden"
    execution = values.object_or_empty(tool).get("execution", values.EMPTY)
    told = values.text_of(values.object_or_empty(execution), "taskSupport")
    return told if told in ("required", "optional") else "forbidden"


def offered(capabilities: Members) -> bool:
    """Whether a legacy server declares that it makes tasks of tool calls."""
    told = values.object_or_empty(capabilities.get("tasks", values.EMPTY))
    requests = values.object_or_empty(told.get("requests", values.EMPTY))
    return "call" in values.object_or_empty(requests.get("tools", values.EMPTY))


def _count(task: Members, name: str) -> int | None:
    told = jsonrpc.integer(task[name]) if name in task else None
    return min(told, _SAFE_INTEGER) if told is not None and told >= 0 else None


def ttl_ms(task: Members) -> int | None:
    """How long a legacy task is kept from its creation on, in milliseconds; None: not limited."""
    return _count(task, "ttl")


def kept_ms(task: Members) -> int | None:
    """How long a task of the extension is kept, likewise."""
    return _count(task, "ttlMs")


def interval_ms(task: Members) -> int | None:
    """How often a legacy server likes to be asked, in milliseconds; None: it does not say."""
    return _count(task, "pollInterval")


def _common(task: Members, status: str, now: str) -> Members:
    told: Members = {"taskId": task["taskId"], "status": jsonrpc.to_raw(status)}
    message = values.text_of(task, "statusMessage")
    if message is not None:
        told["statusMessage"] = jsonrpc.to_raw(message[:_MESSAGE_CHARS])
    for name in _TEXTS:
        told[name] = task[name] if values.text_of(task, name) is not None else jsonrpc.to_raw(now)
    return told


def modern(task: Members, ttl_most_ms: int, now: str) -> Members:
    """A legacy task, with a `taskId` and a known status, in the form of the extension, without what its
    status asks for beyond that (`result`, `error`, `inputRequests`). It is not kept longer than
    `ttl_most_ms`; `now` stands where a date is missing."""
    told = _common(task, values.text_of(task, "status") or WORKING, now)
    kept = ttl_ms(task)
    told["ttlMs"] = jsonrpc.to_raw(ttl_most_ms if kept is None else min(kept, ttl_most_ms))
    interval = interval_ms(task)
    if interval is not None:
        told["pollIntervalMs"] = jsonrpc.to_raw(interval)
    return told


def tidy(task: Members, now: str) -> Members:
    """A legacy task, with a `taskId` and a known status, in its own form, and nothing else."""
    return _legacy(task, values.text_of(task, "status") or WORKING, now, "ttl", "pollInterval")


def legacy(task: Members, now: str) -> Members:
    """A task of the extension, with a `taskId` and a known status, in the form of 2025-11-25."""
    status = values.text_of(task, "status") or WORKING
    if status == "completed" and _is_error(task.get("result", values.EMPTY)):
        status = "failed"
    told = _legacy(task, status, now, "ttlMs", "pollIntervalMs")
    if status == "failed" and "statusMessage" not in told:
        reason = values.text_of(values.object_or_empty(task.get("error", values.EMPTY)), "message")
        told["statusMessage"] = jsonrpc.to_raw((reason or "the tool reported an error")[:_MESSAGE_CHARS])
    return told


def _legacy(task: Members, status: str, now: str, ttl: str, interval: str) -> Members:
    told = _common(task, status, now)
    kept = _count(task, ttl)
    told["ttl"] = _NULL if kept is None else jsonrpc.to_raw(kept)
    pace = _count(task, interval)
    if pace is not None:
        told["pollInterval"] = jsonrpc.to_raw(pace)
    return told


def _is_error(result: Raw) -> bool:
    return jsonrpc.boolean(values.object_or_empty(result).get("isError", Raw(b"false"))) is True


def error_of(fault: Fault) -> Raw:
    """The `error` of a failed task of the extension."""
    body = codes.to_modern(fault)
    told: Members = {"code": jsonrpc.to_raw(body.code), "message": jsonrpc.to_raw(body.message)}
    if bytes(body.data):
        told["data"] = body.data
    return jsonrpc.encode_object(told)


def stamp(wall: float) -> str:
    """`wall` (Unix seconds) as ISO 8601 in UTC, to the second (Howard Hinnant, "chrono-Compatible Low-Level
    Date Algorithms", civil_from_days)."""
    days, second = divmod(int(wall), 86_400)
    era, of_era = divmod(days + 719_468, 146_097)
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    day = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * day + 2) // 153
    date = day - (153 * month + 2) // 5 + 1
    month += 3 if month < 10 else -9
    year += era * 400 + (month <= 2)
    hour, rest = divmod(second, 3600)
    return f"{year:04}-{month:02}-{date:02}T{hour:02}:{rest // 60:02}:{rest % 60:02}Z"
