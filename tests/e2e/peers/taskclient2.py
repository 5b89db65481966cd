"""`client2.py` that takes tasks (SEP-2663): what a call has become is told, asked for, answered, and then its
result is that of the call.

Owns: the binding of the extension to the SDK's claims.
"""

from __future__ import annotations

from typing import Any, Literal

import anyio
import client2
import mcp_types as types
from mcp.client.extension import ClientExtension, ResultClaim
from telling import say

TASKS = "io.modelcontextprotocol/tasks"


class Made(types.Result):
    result_type: Literal["task"] = "task"
    task_id: str
    status: str
    ttl_ms: int | None
    poll_interval_ms: int | None = None


class Told(types.Result):
    task_id: str
    status: str
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    input_requests: dict[str, Any] | None = None


class TaskParams(types.RequestParams):
    task_id: str


class UpdateParams(TaskParams):
    input_responses: dict[str, Any]


class Get(types.Request[TaskParams, Literal["tasks/get"]]):
    name_param = "taskId"
    method: Literal["tasks/get"] = "tasks/get"
    params: TaskParams


class Update(types.Request[UpdateParams, Literal["tasks/update"]]):
    name_param = "taskId"
    method: Literal["tasks/update"] = "tasks/update"
    params: UpdateParams


class Cancel(types.Request[TaskParams, Literal["tasks/cancel"]]):
    name_param = "taskId"
    method: Literal["tasks/cancel"] = "tasks/cancel"
    params: TaskParams


class Tasks(ClientExtension):
    identifier = TASKS

    def __init__(self, name: str) -> None:
        self.name = name

    def claims(self) -> Any:
        return [ResultClaim(result_type="task", model=Made, resolve=self.resolve)]

    async def resolve(self, made: Made, context: Any) -> types.CallToolResult:
        say(event="task", id=made.task_id, status=made.status, ttl=made.ttl_ms)
        which = TaskParams(task_id=made.task_id)
        seen: list[str] = []
        while True:
            told = await context.session.send_request(Get(params=which), Told)
            if told.status != (seen[-1] if seen else ""):
                seen.append(told.status)
                say(event="status", status=told.status)
            if told.status == "input_required":
                await self.answer(told, context)
            elif told.status == "completed":
                return types.CallToolResult.model_validate(told.result)
            elif told.status != "working":
                message = (told.error or {}).get("message", told.status)
                text = types.TextContent(type="text", text=f"{told.status}: {message}")
                return types.CallToolResult(content=[text], is_error=True)
            elif context.tool_name.endswith("forever"):
                await context.session.send_request(Cancel(params=which), types.EmptyResult)
            await anyio.sleep((made.poll_interval_ms or 100) / 1000)

    async def answer(self, told: Told, context: Any) -> None:
        given = {}
        for key, asked in (told.input_requests or {}).items():
            say(event="elicit", params=asked["params"])
            content = {"answer": f"{self.name} answers {asked['params']['message']}"}
            given[key] = {"action": "accept", "content": content}
        params = UpdateParams(task_id=told.task_id, input_responses=given)
        await context.session.send_request(Update(params=params), types.EmptyResult)


class Driver(client2.Driver):
    def options(self) -> dict[str, Any]:
        return {**super().options(), "extensions": [Tasks(self.told.name)]}


if __name__ == "__main__":
    client2.run(Driver)
