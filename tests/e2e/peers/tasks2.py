"""A server on the official SDK, 2.x, with the tasks extension (SEP-2663), on stdio or Streamable HTTP.

One tool, `work`: with the extension declared it becomes a task, else it is answered at once. Arguments:
`text` is the result; with `question` the client is asked first; `fail` is "tool" or "raise"; `forever` never
ends.
Owns: the binding of that to the SDK's extensions. Must never: serve tasks in a revision before 2026-07-28.
"""

from __future__ import annotations

import uuid
from typing import Any

import mcp_types as types
from behaviour import Journal, arguments
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError
from server2 import serve_eras
from serving import run

TASKS = "io.modelcontextprotocol/tasks"
MODERN = frozenset({"2026-07-28"})
STAMP = "2026-08-01T10:00:00Z"
FORM = {"type": "object", "properties": {"answer": {"type": "string"}}}


class TaskParams(types.RequestParams):
    task_id: str


class UpdateParams(TaskParams):
    input_responses: dict[str, Any]


class Work:
    """One task, as far as its arguments say."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.id = str(uuid.uuid4())
        self.told = told
        self.answer = ""
        self.polled = 0
        self.cancelled = False

    def status(self) -> dict[str, Any]:
        self.polled += 1
        if self.cancelled:
            return {"status": "cancelled"}
        if "forever" in self.told or self.polled < 3:
            return {"status": "working", "statusMessage": f"poll {self.polled}"}
        if "question" in self.told and not self.answer:
            params = {"mode": "form", "message": self.told["question"], "requestedSchema": FORM}
            return {
                "status": "input_required",
                "inputRequests": {"q": {"method": "elicitation/create", "params": params}},
            }
        if self.told.get("fail") == "raise":
            return {"status": "failed", "error": {"code": -5, "message": "it broke"}}
        wrong = self.told.get("fail") == "tool"
        text = self.told.get("text", "") + self.answer
        result = {"content": [{"type": "text", "text": text}], "isError": wrong}
        return {"status": "completed", "result": result}

    def shape(self, more: dict[str, Any]) -> dict[str, Any]:
        base = {"taskId": self.id, "createdAt": STAMP, "lastUpdatedAt": STAMP, "ttlMs": 60_000}
        return {**base, "pollIntervalMs": 50, **more}


class Tasks(Extension):
    identifier = TASKS

    def __init__(self, journal: Journal) -> None:
        self.works: dict[str, Work] = {}
        self.journal = journal

    def methods(self) -> Any:
        bound = {"get": TaskParams, "update": UpdateParams, "cancel": TaskParams}
        return [
            MethodBinding(f"tasks/{name}", params, getattr(self, name), protocol_versions=MODERN)
            for name, params in bound.items()
        ]

    async def intercept_tool_call(self, params: Any, ctx: Any, call_next: Any) -> Any:
        meta = ctx.meta or {}
        declared = dict(meta).get("io.modelcontextprotocol/clientCapabilities") or {}
        takes = TASKS in (declared.get("extensions") or {})
        self.journal.note("call", tool=params.name, takes=takes)
        if not takes:
            return await call_next(ctx)
        made = Work(params.arguments or {})
        self.works[made.id] = made
        return made.shape({"resultType": "task", "status": "working"})

    def find(self, params: Any) -> Work:
        found = self.works.get(params.task_id)
        if found is None:
            raise MCPError(-32602, "no such task")
        return found

    async def get(self, ctx: Any, params: Any) -> Any:
        found = self.find(params)
        return found.shape({"resultType": "complete", **found.status()})

    async def update(self, ctx: Any, params: Any) -> Any:
        found = self.find(params)
        given = params.input_responses.get("q")
        if given is not None:
            found.answer = f"|{given['action']} {given.get('content')}"
        self.journal.note("update", given=params.input_responses)
        return {"resultType": "complete"}

    async def cancel(self, ctx: Any, params: Any) -> Any:
        self.find(params).cancelled = True
        self.journal.note("cancel")
        return {"resultType": "complete"}


async def main() -> None:
    told = arguments()
    journal = Journal(told.journal)
    server = MCPServer(told.name, version="1", extensions=[Tasks(journal)])

    @server.tool(structured_output=False)
    def work(text: str = "", question: str = "", fail: str = "") -> str:
        return text

    await serve_eras(server._lowlevel_server, told, journal)


if __name__ == "__main__":
    run(main)
