"""A client on the official SDK, 2.x, that a test drives over stdin and stdout with lines of JSON.

In: {"n": 1, "do": "call", ...}; out: {"n": 1, "ok": ...} or {"n": 1, "error": {...}}, and {"event": ...} for
whatever comes unasked. The first line out is {"event": "ready", ...}.
Owns: the binding of those commands to the SDK.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from typing import Any

import anyio
import anyio.from_thread
import mcp_types as types
from mcp import Client, MCPError, StdioServerParameters
from telling import plain, say

warnings.simplefilter("ignore")


class Driver:
    def __init__(self, told: Any) -> None:
        self.told = told
        self.scopes: dict[int, anyio.CancelScope] = {}
        self.client: Any = None

    # -- what servers ask

    async def elicit(self, context: Any, params: Any) -> Any:
        say(event="elicit", params=plain(params))
        if getattr(params, "mode", "form") == "url":
            return types.ElicitResult(action="accept")
        value = f"{self.told.name} answers {params.message}"
        return types.ElicitResult(action="accept", content={"value": value})

    async def sample(self, context: Any, params: Any) -> Any:
        say(event="sample", params=plain(params))
        said = f"{self.told.name} thinks {params.messages[0].content.text}"
        return types.CreateMessageResult(
            role="assistant", model="m", content=types.TextContent(type="text", text=said)
        )

    async def roots(self, context: Any) -> Any:
        say(event="roots")
        return types.ListRootsResult.model_validate({"roots": [{"uri": f"file:///{self.told.name}"}]})

    async def log(self, params: Any) -> None:
        # A long text would only slow the pipe down.
        data = params.data if len(str(params.data)) < 1000 else "long"
        say(event="log", level=params.level, data=data)

    async def unasked(self, message: Any) -> None:
        method = getattr(message, "method", None)
        if isinstance(method, str):
            say(event="notification", method=method, params=plain(message).get("params"))

    # -- commands

    def options(self) -> dict[str, Any]:
        features = {
            "elicit": ("elicitation_callback", self.elicit),
            "sample": ("sampling_callback", self.sample),
            "roots": ("list_roots_callback", self.roots),
        }
        wanted = [one for one in self.told.features.split(",") if one]
        found = dict(features[one] for one in wanted)
        found["log_level"] = self.told.log_level or None
        return found

    async def main(self) -> None:
        told = self.told
        server: Any = told.url
        if told.stdio:
            command, *rest = json.loads(told.stdio)
            server = StdioServerParameters(command=command, args=rest, env=json.loads(told.env))
        options = self.options()
        async with Client(
            server,
            mode=told.mode,
            logging_callback=self.log,
            message_handler=self.unasked,
            client_info=types.Implementation(name=told.name, version="1"),
            cache=None,
            **options,
        ) as self.client:
            say(
                event="ready",
                version=self.client.protocol_version,
                info=plain(self.client.server_info) if self.client.server_info else None,
                capabilities=plain(self.client.server_capabilities),
                instructions=self.client.instructions,
            )
            async with anyio.create_task_group() as tasks:
                while line := await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
                    command = json.loads(line)
                    if command["do"] == "cancel":
                        self.scopes[command["of"]].cancel()
                    else:
                        # The scope exists before the next command is read.
                        self.scopes[command["n"]] = anyio.CancelScope()
                        tasks.start_soon(self.perform, command)
                tasks.cancel_scope.cancel()

    async def perform(self, command: dict[str, Any]) -> None:
        number = command["n"]
        with self.scopes[number] as scope:
            try:
                say(n=number, ok=await getattr(self, "do_" + command["do"])(command))
            except MCPError as error:
                say(n=number, error=plain(error.error))
            except Exception as error:
                say(n=number, error={"code": 0, "message": repr(error)})
        if scope.cancel_called:
            say(n=number, cancelled=True)

    async def do_call(self, command: dict[str, Any]) -> Any:
        async def progress(done: float, total: float | None, message: str | None) -> None:
            say(event="progress", n=command["n"], done=done, total=total)

        result = plain(
            await self.client.call_tool(
                command["name"],
                command.get("arguments", {}),
                progress_callback=progress if command.get("progress") else None,
            )
        )
        for content in result["content"]:
            if len(content.get("text", "")) > 100_000:
                content["length"], content["text"] = len(content["text"]), ""
        return result

    async def do_tools(self, command: dict[str, Any]) -> Any:
        return plain(await self.client.list_tools())

    async def do_resources(self, command: dict[str, Any]) -> Any:
        return plain(await self.client.list_resources())

    async def do_templates(self, command: dict[str, Any]) -> Any:
        return plain(await self.client.list_resource_templates())

    async def do_prompts(self, command: dict[str, Any]) -> Any:
        return plain(await self.client.list_prompts())

    async def do_read(self, command: dict[str, Any]) -> Any:
        return plain(await self.client.read_resource(command["uri"]))

    async def do_prompt(self, command: dict[str, Any]) -> Any:
        return plain(await self.client.get_prompt(command["name"], command.get("arguments", {})))

    async def do_complete(self, command: dict[str, Any]) -> Any:
        reference: Any = (
            types.PromptReference(type="ref/prompt", name=command["prompt"])
            if "prompt" in command
            else types.ResourceTemplateReference(type="ref/resource", uri=command["template"])
        )
        return plain(await self.client.complete(reference, command["argument"]))

    async def do_level(self, command: dict[str, Any]) -> Any:
        return plain(await self.client.set_logging_level(command["level"]))

    async def do_subscribe(self, command: dict[str, Any]) -> Any:
        return plain(await self.client.subscribe_resource(command["uri"]))

    async def do_listen(self, command: dict[str, Any]) -> Any:
        async with self.client.listen(**command["want"]) as subscription:
            say(event="listening", n=command["n"], honored=plain(subscription.honored))
            async for happened in subscription:
                facts = {key: str(value) for key, value in vars(happened).items()}
                say(event="change", n=command["n"], kind=type(happened).__name__, **facts)
        return "over"


def run(driver: type[Driver]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", default="")
    parser.add_argument("--stdio", default="", help="argv of a server, in JSON")
    parser.add_argument("--env", default="null")
    parser.add_argument("--mode", default="legacy")
    parser.add_argument("--name", default="client")
    parser.add_argument("--features", default="")
    parser.add_argument("--log-level", default="")
    anyio.run(driver(parser.parse_args()).main)


if __name__ == "__main__":
    run(Driver)
