"""A server on the official SDK, 2.x, on stdio or HTTP: both eras, or with `--era modern` the new one only.

Owns: the binding of `behaviour` to that SDK, and the refusal of handshakes, which the SDK has no switch for.
"""

from __future__ import annotations

import json
import warnings
from typing import Any

import mcp_types as types
from behaviour import Behaviour, Journal, arguments
from mcp import MCPError
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ResourceUpdated, ToolsListChanged
from mcp.shared.message import ServerMessageMetadata
from serving import run, serve

warnings.simplefilter("ignore")
MODERN = "2026-07-28"


def shaped(ctx: Any, result: dict[str, Any], cacheable: bool = True) -> dict[str, Any]:
    """`result` as its revision has it."""
    if ctx.protocol_version != MODERN:
        return result
    hints = {"ttlMs": 60_000, "cacheScope": "public"} if cacheable else {}
    return {"resultType": "complete", **hints, **result}


class NeedInput(Exception):
    """A modern call cannot go on before its client has answered."""


class Call2:
    def __init__(self, ctx: Any, params: Any, bus: InMemorySubscriptionBus) -> None:
        self.ctx = ctx
        self.bus = bus
        self.modern = ctx.protocol_version == MODERN
        raw = ctx.params or {}
        self.answers: dict[str, Any] = dict(raw.get("inputResponses") or {})
        self.state = raw.get("requestState")

    async def progress(self, done: float, total: float) -> None:
        await self.ctx.session.report_progress(done, total)

    async def log(self, level: str, data: Any) -> None:
        await self.ctx.session.send_log_message(level, data, "peer", related_request_id=self.ctx.request_id)

    def _ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The answer of an earlier round; else this round ends with the question."""
        if "it" not in self.answers:
            raise NeedInput({"it": {"method": method, "params": params}})
        if self.state != "state of " + method:
            raise MCPError(-32602, f"requestState came back as {self.state!r}")
        return self.answers["it"]

    async def elicit(self, message: str, schema: dict[str, Any]) -> dict[str, Any]:
        if self.modern:
            params = {"mode": "form", "message": message, "requestedSchema": schema}
            return self._ask("elicitation/create", params)
        result = await self.ctx.session.elicit_form(message, schema, related_request_id=self.ctx.request_id)
        return result.model_dump(by_alias=True, exclude_none=True, mode="json")

    async def elicit_url(self, message: str, url: str) -> dict[str, Any]:
        if self.modern:
            return self._ask("elicitation/create", {"mode": "url", "message": message, "url": url})
        result = await self.ctx.session.elicit_url(
            message, url, "e-1", related_request_id=self.ctx.request_id
        )
        return result.model_dump(by_alias=True, exclude_none=True, mode="json")

    async def sample(self, text: str) -> dict[str, Any]:
        messages = [{"role": "user", "content": {"type": "text", "text": text}}]
        if self.modern:
            return self._ask("sampling/createMessage", {"messages": messages, "maxTokens": 10})
        result = await self.ctx.session.create_message(
            [types.SamplingMessage.model_validate(one) for one in messages],
            max_tokens=10,
            related_request_id=self.ctx.request_id,
        )
        return result.model_dump(by_alias=True, exclude_none=True, mode="json")

    async def roots(self) -> dict[str, Any]:
        if self.modern:
            return self._ask("roots/list", {})
        # `session.list_roots` would go out on the session's own stream; this goes on the call's.
        result = await self.ctx.session.send_request(
            types.ListRootsRequest(),
            types.ListRootsResult,
            metadata=ServerMessageMetadata(related_request_id=self.ctx.request_id),
        )
        return result.model_dump(by_alias=True, exclude_none=True, mode="json")

    async def updated(self, uri: str) -> None:
        await self.bus.publish(ResourceUpdated(uri=uri))
        if not self.modern:
            await self.ctx.session.send_resource_updated(uri)

    async def tools_changed(self) -> None:
        await self.bus.publish(ToolsListChanged())
        if not self.modern:
            await self.ctx.session.send_tool_list_changed()


def build(behaviour: Behaviour) -> Server[Any]:
    bus = InMemorySubscriptionBus()

    async def on_list_tools(ctx: Any, params: Any) -> Any:
        return shaped(ctx, {"tools": behaviour.tools()})

    async def on_call_tool(ctx: Any, params: Any) -> Any:
        call = Call2(ctx, params, bus)
        try:
            result = await behaviour.call(params.name, params.arguments or {}, call)
        except NeedInput as need:
            method = need.args[0]["it"]["method"]
            return {
                "resultType": "input_required",
                "inputRequests": need.args[0],
                "requestState": "state of " + method,
            }
        if result is None:
            raise MCPError(-32602, f"Unknown tool: {params.name}")
        return shaped(ctx, result, cacheable=False)

    async def on_list_resources(ctx: Any, params: Any) -> Any:
        return shaped(ctx, {"resources": behaviour.resources()})

    async def on_list_templates(ctx: Any, params: Any) -> Any:
        return shaped(ctx, {"resourceTemplates": behaviour.templates()})

    async def on_read(ctx: Any, params: Any) -> Any:
        result = behaviour.read(str(params.uri))
        if result is None:
            code = -32602 if ctx.protocol_version == MODERN else -32002
            raise MCPError(code, "Resource not found", {"uri": str(params.uri)})
        return shaped(ctx, result)

    async def on_list_prompts(ctx: Any, params: Any) -> Any:
        return shaped(ctx, {"prompts": behaviour.prompts()})

    async def on_get_prompt(ctx: Any, params: Any) -> Any:
        result = behaviour.prompt(params.name, params.arguments or {})
        if result is None:
            raise MCPError(-32602, "Unknown prompt")
        return shaped(ctx, result, cacheable=False)

    async def on_completion(ctx: Any, params: Any) -> Any:
        return shaped(ctx, behaviour.complete(params.argument.model_dump()), cacheable=False)

    async def on_level(ctx: Any, params: Any) -> Any:
        behaviour.level = params.level
        return {}

    async def on_subscribe(ctx: Any, params: Any) -> Any:
        return {}

    return Server(
        behaviour.name,
        version="2",
        instructions=f"ask {behaviour.name}",
        on_list_tools=on_list_tools,
        on_call_tool=on_call_tool,
        on_list_resources=on_list_resources,
        on_list_resource_templates=on_list_templates,
        on_read_resource=on_read,
        on_list_prompts=on_list_prompts,
        on_get_prompt=on_get_prompt,
        on_completion=on_completion,
        on_set_logging_level=on_level,
        on_subscribe_resource=on_subscribe,
        on_unsubscribe_resource=on_subscribe,
        on_subscriptions_listen=ListenHandler(bus),
    )


def refuse(message: dict[str, Any]) -> dict[str, Any] | None:
    """What a server of the new era says to a handshake."""
    if message.get("method") != "initialize":
        return None
    data = {"supported": [MODERN], "requested": str(message["params"].get("protocolVersion"))}
    error = {"code": -32022, "message": "Unsupported protocol version", "data": data}
    return {"jsonrpc": "2.0", "id": message["id"], "error": error}


def modern_only(handle: Any) -> Any:
    """An ASGI handler that knows no sessions: POST, and that with the new header."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope["headers"])
        if headers.get(b"mcp-protocol-version") == MODERN.encode():
            await handle(scope, receive, send)
            return
        body = b""
        more = scope["method"] == "POST"
        while more:
            event = await receive()
            body += event.get("body", b"")
            more = event.get("more_body", False)
        answer = refuse(json.loads(body)) if body else None
        told = json.dumps(answer).encode() if answer is not None else b""
        kind = [(b"content-type", b"application/json")] if told else []
        status = 400 if scope["method"] == "POST" else 405
        await send({"type": "http.response.start", "status": status, "headers": kind})
        await send({"type": "http.response.body", "body": told})

    return wrapped


async def serve_eras(server: Any, told: Any, journal: Journal) -> None:
    """Both eras, or the new one only."""
    if told.era == "modern":
        await serve(server, told, journal, refuse, modern_only)
    else:
        await serve(server, told, journal)


async def main() -> None:
    told = arguments()
    journal = Journal(told.journal)
    journal.note("born")
    server = build(Behaviour(told.name, journal))
    # Lists change and resources too, and the handshake says so.
    options = NotificationOptions(tools_changed=True, prompts_changed=True, resources_changed=True)
    make = server.create_initialization_options
    server.create_initialization_options = lambda *args, **named: make(options)  # type: ignore[method-assign]
    await serve_eras(server, told, journal)


if __name__ == "__main__":
    run(main)
