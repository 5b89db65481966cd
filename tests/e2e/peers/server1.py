"""A server on the official SDK before 2.0: the handshake revisions only, on stdio or Streamable HTTP.

Owns: the binding of `behaviour` to that SDK.
"""

from __future__ import annotations

from typing import Any

from behaviour import Behaviour, Journal, arguments
from mcp import types
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.shared.exceptions import McpError
from mcp.shared.message import ServerMessageMetadata
from serving import run, serve


class Call1:
    modern = False

    def __init__(self, server: Server[Any, Any]) -> None:
        context = server.request_context
        self.session = context.session
        self.id = context.request_id
        self.token = context.meta.progressToken if context.meta is not None else None
        self.answers: dict[str, Any] = {}

    async def progress(self, done: float, total: float) -> None:
        if self.token is not None:
            await self.session.send_progress_notification(
                self.token, done, total, related_request_id=str(self.id)
            )

    async def log(self, level: Any, data: Any) -> None:
        await self.session.send_log_message(level, data, "peer", related_request_id=self.id)

    async def elicit(self, message: str, schema: dict[str, Any]) -> dict[str, Any]:
        result = await self.session.elicit_form(message, schema, related_request_id=self.id)
        return result.model_dump(by_alias=True, exclude_none=True, mode="json")

    async def elicit_url(self, message: str, url: str) -> dict[str, Any]:
        result = await self.session.elicit_url(message, url, "e-1", related_request_id=self.id)
        return result.model_dump(by_alias=True, exclude_none=True, mode="json")

    async def sample(self, text: str) -> dict[str, Any]:
        message = {"role": "user", "content": {"type": "text", "text": text}}
        result = await self.session.create_message(
            [types.SamplingMessage.model_validate(message)], max_tokens=10, related_request_id=self.id
        )
        return result.model_dump(by_alias=True, exclude_none=True, mode="json")

    async def roots(self) -> dict[str, Any]:
        # `session.list_roots` would go out on the session's own stream; this goes on the call's.
        result = await self.session.send_request(
            types.ServerRequest(types.ListRootsRequest()),
            types.ListRootsResult,
            metadata=ServerMessageMetadata(related_request_id=self.id),
        )
        return result.model_dump(by_alias=True, exclude_none=True, mode="json")

    async def updated(self, uri: Any) -> None:
        await self.session.send_resource_updated(uri)

    async def tools_changed(self) -> None:
        await self.session.send_tool_list_changed()


def refusal(code: int, message: str) -> McpError:
    return McpError(types.ErrorData(code=code, message=message))


def build(behaviour: Behaviour) -> Server[Any, Any]:
    server: Server[Any, Any] = Server(behaviour.name, version="1", instructions=f"ask {behaviour.name}")

    def handles(request: Any, result: Any) -> Any:
        """Bind a function from a request to the members of its result."""

        def bind(work: Any) -> Any:
            async def handler(asked: Any) -> types.ServerResult:
                return types.ServerResult(result.model_validate(await work(asked)))

            server.request_handlers[request] = handler
            return work

        return bind

    @handles(types.ListToolsRequest, types.ListToolsResult)
    async def tools(asked: Any) -> Any:
        return {"tools": behaviour.tools()}

    @handles(types.CallToolRequest, types.CallToolResult)
    async def call(asked: Any) -> Any:
        found = await behaviour.call(asked.params.name, asked.params.arguments or {}, Call1(server))
        if found is None:
            raise refusal(-32602, f"Unknown tool: {asked.params.name}")
        return found

    @handles(types.ListResourcesRequest, types.ListResourcesResult)
    async def resources(asked: Any) -> Any:
        return {"resources": behaviour.resources()}

    @handles(types.ListResourceTemplatesRequest, types.ListResourceTemplatesResult)
    async def templates(asked: Any) -> Any:
        return {"resourceTemplates": behaviour.templates()}

    @handles(types.ReadResourceRequest, types.ReadResourceResult)
    async def read(asked: Any) -> Any:
        found = behaviour.read(str(asked.params.uri))
        if found is None:
            raise refusal(-32002, "Resource not found")
        return found

    @handles(types.ListPromptsRequest, types.ListPromptsResult)
    async def prompts(asked: Any) -> Any:
        return {"prompts": behaviour.prompts()}

    @handles(types.GetPromptRequest, types.GetPromptResult)
    async def prompt(asked: Any) -> Any:
        found = behaviour.prompt(asked.params.name, asked.params.arguments or {})
        if found is None:
            raise refusal(-32602, "Unknown prompt")
        return found

    @handles(types.CompleteRequest, types.CompleteResult)
    async def complete(asked: Any) -> Any:
        return behaviour.complete(asked.params.argument.model_dump())

    @handles(types.SetLevelRequest, types.EmptyResult)
    async def level(asked: Any) -> Any:
        behaviour.level = asked.params.level
        return {}

    @handles(types.SubscribeRequest, types.EmptyResult)
    async def subscribe(asked: Any) -> Any:
        return {}

    @handles(types.UnsubscribeRequest, types.EmptyResult)
    async def unsubscribe(asked: Any) -> Any:
        return {}

    return server


async def main() -> None:
    told = arguments()
    journal = Journal(told.journal)
    journal.note("born")
    server = build(Behaviour(told.name, journal))
    options = NotificationOptions(tools_changed=True, prompts_changed=True, resources_changed=True)
    capable = server.get_capabilities

    def capabilities(_: Any, experimental: Any) -> Any:
        found = capable(options, experimental)
        # This SDK never says so by itself.
        assert found.resources is not None
        found.resources.subscribe = True
        return found

    server.get_capabilities = capabilities  # type: ignore[method-assign]
    await serve(server, told, journal)


if __name__ == "__main__":
    run(main)
