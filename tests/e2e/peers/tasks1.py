"""A server on the official SDK before 2.0 with its tasks of 2025-11-25, on stdio or Streamable HTTP.

Tools: `must` has to be called as a task, `may` can be, `echo` cannot. Arguments: `text` is the result; with
`question` the client is asked first; `steps` makes so many notifications of the task's status; `fail` is
"tool" (an `isError` result) or "raise".
Owns: the binding of those tools to that SDK's experimental tasks.
"""

from __future__ import annotations

import warnings
from typing import Any

import anyio
from behaviour import Journal, arguments
from mcp import types
from mcp.server.lowlevel import Server
from serving import run, serve

warnings.simplefilter("ignore")
SUPPORT: dict[str, Any] = {"must": "required", "may": "optional", "echo": None}
SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}}


def outcome(text: str, wrong: bool = False) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)], isError=wrong)


def build(name: str, journal: Journal) -> Server[Any, Any]:
    server: Server[Any, Any] = Server(name, version="1")
    server.experimental.enable_tasks()

    def tool(one: str) -> types.Tool:
        execution = types.ToolExecution(taskSupport=SUPPORT[one]) if SUPPORT[one] else None
        return types.Tool(name=one, inputSchema={"type": "object"}, execution=execution)

    async def tools(asked: Any) -> types.ServerResult:
        return types.ServerResult(types.ListToolsResult(tools=[tool(one) for one in SUPPORT]))

    async def call(asked: Any) -> types.ServerResult:
        told, experimental = asked.params.arguments or {}, server.request_context.experimental
        journal.note("call", tool=asked.params.name, task=experimental.is_task)
        experimental.validate_task_mode(SUPPORT[asked.params.name])
        if not experimental.is_task:
            return types.ServerResult(outcome(told.get("text", "")))

        async def work(task: Any) -> types.CallToolResult:
            journal.note("task", id=task.task_id)
            text = told.get("text", "")
            for step in range(told.get("steps", 0)):
                await task.update_status(f"step {step}")
                await anyio.sleep(0.05)
            if "question" in told:
                answer = await task.elicit(told["question"], SCHEMA)
                text += f"|{answer.action} {answer.content}"
            while "forever" in told and not task.is_cancelled:
                await anyio.sleep(0.05)
            if told.get("fail") == "raise":
                raise ValueError("it broke")
            return outcome(text, told.get("fail") == "tool")

        return types.ServerResult(await experimental.run_task(work))

    server.request_handlers[types.ListToolsRequest] = tools
    server.request_handlers[types.CallToolRequest] = call
    return server


async def main() -> None:
    told = arguments()
    journal = Journal(told.journal)
    server = build(told.name, journal)
    await serve(server, told, journal)


if __name__ == "__main__":
    run(main)
