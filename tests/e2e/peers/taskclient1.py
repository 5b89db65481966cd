"""A client on the official SDK before 2.0 that asks for tasks (2025-11-25), driven like `client2.py`.

In: {"n": 1, "do": "task" | "get" | "result" | "cancel" | "call" | "tools", ...}. Owns: the binding of those
commands to that SDK's experimental tasks.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from typing import Any

import anyio
from mcp import ClientSession, McpError, types
from mcp.client.streamable_http import streamablehttp_client
from telling import plain, say

warnings.simplefilter("ignore")


class Driver:
    def __init__(self, told: Any) -> None:
        self.told = told
        self.session: Any = None

    async def elicit(self, context: Any, params: Any) -> Any:
        say(event="elicit", params=plain(params))
        return types.ElicitResult(
            action="accept", content={"answer": f"{self.told.name} answers {params.message}"}
        )

    async def unasked(self, message: Any) -> None:
        if isinstance(message, types.ServerNotification):
            root = message.root
            say(event="notification", method=root.method, params=plain(root.params))

    async def main(self) -> None:
        async with (
            streamablehttp_client(self.told.url) as (read, write, _),
            ClientSession(
                read, write, elicitation_callback=self.elicit, message_handler=self.unasked
            ) as self.session,
        ):
            hello = await self.session.initialize()
            say(event="ready", version=hello.protocolVersion, capabilities=plain(hello.capabilities))
            async with anyio.create_task_group() as tasks:
                while line := await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
                    tasks.start_soon(self.perform, json.loads(line))
                tasks.cancel_scope.cancel()

    async def perform(self, command: dict[str, Any]) -> None:
        try:
            say(n=command["n"], ok=plain(await getattr(self, "do_" + command["do"])(command)))
        except McpError as error:
            say(n=command["n"], error=plain(error.error))
        except Exception as error:
            say(n=command["n"], error={"code": 0, "message": repr(error)})

    async def do_tools(self, command: dict[str, Any]) -> Any:
        return await self.session.list_tools()

    async def do_call(self, command: dict[str, Any]) -> Any:
        return await self.session.call_tool(command["name"], command.get("arguments", {}))

    async def do_task(self, command: dict[str, Any]) -> Any:
        ttl = command.get("ttl", 60_000)
        return await self.session.experimental.call_tool_as_task(
            command["name"], command["arguments"], ttl=ttl
        )

    async def do_get(self, command: dict[str, Any]) -> Any:
        return await self.session.experimental.get_task(command["id"])

    async def do_result(self, command: dict[str, Any]) -> Any:
        return await self.session.experimental.get_task_result(command["id"], types.CallToolResult)

    async def do_cancel(self, command: dict[str, Any]) -> Any:
        return await self.session.experimental.cancel_task(command["id"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--name", default="client")
    anyio.run(Driver(parser.parse_args()).main)
