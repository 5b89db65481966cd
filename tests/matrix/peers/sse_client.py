"""A client on the official SDK, 1.x or 2.x, over HTTP+SSE: what it sees is one line of JSON on stdout."""

from __future__ import annotations

import json
import sys
from typing import Any

import anyio
from mcp import ClientSession, types
from mcp.client.sse import sse_client


async def answer(context: Any, params: Any) -> Any:
    return types.ElicitResult(action="accept", content={"value": "the blue one"})


async def main() -> None:
    progress: list[float] = []

    async def told(done: float, total: float | None, message: str | None) -> None:
        progress.append(done)

    async with sse_client(sys.argv[1]) as (read, write):
        async with ClientSession(read, write, elicitation_callback=answer) as session:
            hello: Any = await session.initialize()

            async def call(tool: str, **arguments: Any) -> Any:
                result: Any = await session.call_tool(tool, arguments, progress_callback=told)
                return result.content[0].text

            tools = await session.list_tools()
            seen = {
                "version": hello.model_dump(by_alias=True)["protocolVersion"],
                "tools": [tool.name for tool in tools.tools],
                "echo": await call("echo", text="hello"),
                "steps": await call("steps"),
                "ask": await call("ask"),
                # The 2.x client takes events of up to 1 MiB.
                "large": len(await call("echo", text="x" * (1 << 19))),
            }
            print(json.dumps({**seen, "progress": progress}), flush=True)


try:
    anyio.run(main)
except* anyio.BrokenResourceError:
    pass  # the 2.x client, when a notification comes while it closes
