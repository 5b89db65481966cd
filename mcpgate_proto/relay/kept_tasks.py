"""Tasks of 2025-11-25 for which the gateway itself answers (L22).

A legacy client that asks for a task must be given one (1125 tasks, Result Retrieval 1), also where a modern
server made none of the call: then its result is kept here. And a task that was cancelled must stay so (Task
Cancellation 3), whatever the modern server, which need not stop, makes of it.

Owns: `KeptTasks`: outcomes by principal, server and the task's id there, their number, size and time to live.
Must never: give one principal's to another, or take room from another for one.
"""

from __future__ import annotations

import msgspec

from mcpgate_proto.hub import Hub
from mcpgate_proto.mcp.codes import Fault
from mcpgate_proto.relay.exchange import Members
from mcpgate_proto.timers import Timer
from mcpgate_proto.wire import jsonrpc

__all__ = ["Kept", "KeptTasks"]

_Key = tuple[str, str, str]


class Kept(msgspec.Struct, frozen=True):
    """A task that has ended, in the form of the extension but for its id, and what it ended with."""

    task: Members
    outcome: Members | Fault
    size: int
    timer: Timer


class KeptTasks:
    """See the head of this file. One per gateway."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._all: dict[_Key, Kept] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._all)

    def keep(
        self, principal: str, server: str, id: str, task: Members, outcome: Members | Fault, ttl_s: float
    ) -> bool:
        """Answer for the task from now on. False where there is no room, though the oldest of the same
        principal give way."""
        key = (principal, server, id)
        self._drop(key)
        if not isinstance(outcome, Fault):
            outcome = {name: jsonrpc.detach(raw) for name, raw in outcome.items()}
        task = {name: jsonrpc.detach(raw) for name, raw in task.items()}
        parts = [*task.values(), *([] if isinstance(outcome, Fault) else outcome.values())]
        size = sum(len(bytes(raw)) for raw in parts)
        limits = self._hub.limits
        mine = [one for one in self._all if one[0] == principal]
        if len(mine) >= limits.kept_tasks_per_principal:
            self._drop(mine.pop(0))
        while self._bytes + size > limits.kept_tasks_bytes or len(self._all) >= limits.kept_tasks:
            if not mine:
                self._hub.count("kept_tasks_refused")
                return False
            self._drop(mine.pop(0))
        timer = self._hub.after(ttl_s, "kept task", lambda: self._drop(key))
        self._all[key] = Kept(task, outcome, size, timer)
        self._bytes += size
        return True

    def find(self, principal: str, server: str, id: str) -> Kept | None:
        return self._all.get((principal, server, id))

    def _drop(self, key: _Key) -> None:
        kept = self._all.pop(key, None)
        if kept is not None:
            self._bytes -= kept.size
            kept.timer.cancel()
