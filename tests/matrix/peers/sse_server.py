"""A server on the official SDK, 1.x or 2.x, over HTTP+SSE: the tools of the model server, `hold` excepted.

Says its port in one line on stdout.
"""

from __future__ import annotations

import json
import socket
from typing import Any

import anyio
import uvicorn
from pydantic import BaseModel

try:
    from mcp.server.mcpserver import Context
    from mcp.server.mcpserver import MCPServer as Server
except ImportError:
    from mcp.server.fastmcp import Context
    from mcp.server.fastmcp import FastMCP as Server

app: Any = Server("peer")


class Wanted(BaseModel):
    value: str


@app.tool()
async def echo(text: str) -> str:
    return text


@app.tool()
async def steps(context: Context) -> str:  # type: ignore[type-arg]
    for done in (1, 2, 3):
        await context.report_progress(done, 3)
    return "3 steps"


@app.tool()
async def ask(context: Context) -> str:  # type: ignore[type-arg]
    result: Any = await context.elicit("which one?", Wanted)
    return f"told {result.data.value}"


async def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    print(json.dumps({"ready": listener.getsockname()[1]}), flush=True)
    config = uvicorn.Config(app.sse_app(), lifespan="off", log_level="warning", timeout_graceful_shutdown=0)
    await uvicorn.Server(config).serve(sockets=[listener])


anyio.run(main)
