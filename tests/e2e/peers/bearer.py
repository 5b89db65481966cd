"""A client on the official SDK, 1.x or 2.x, that authenticates: with a key in a header, or by its own OAuth.

Prints one line of JSON: what it was told, or why it was not let in. Owns: the binding to both SDKs.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from typing import Any

import anyio
from mcp import ClientSession
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client


class Storage:
    """Keeps tokens for as long as the process lives."""

    def __init__(self) -> None:
        self.tokens: Any = None
        self.client: Any = None

    async def get_tokens(self) -> Any:
        return self.tokens

    async def set_tokens(self, tokens: Any) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> Any:
        return self.client

    async def set_client_info(self, info: Any) -> None:
        self.client = info


async def main(told: argparse.Namespace) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {told.key}"} if told.key else {}
    auth = None
    if told.client:
        auth = ClientCredentialsOAuthProvider(
            server_url=told.url, storage=Storage(), client_id=told.client, client_secret="s3cret"
        )
    async with (
        create_mcp_http_client(headers=headers, auth=auth) as http,
        streamable_http_client(told.url, http_client=http) as streams,
        ClientSession(streams[0], streams[1]) as session,
    ):
        await session.initialize()
        tools = await session.list_tools()
        result = await session.call_tool("echo", {"text": "hello"})
        return {"tools": [tool.name for tool in tools.tools], "text": result.content[0].text}


def causes(error: BaseException) -> list[str]:
    """The errors at the ends of groups of errors."""
    if isinstance(error, BaseExceptionGroup):
        return [text for one in error.exceptions for text in causes(one)]
    return [f"{type(error).__name__}: {error}"]


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    parser = argparse.ArgumentParser()
    for name in ("url", "key", "client"):
        parser.add_argument(f"--{name}", default="")
    try:
        print(json.dumps(anyio.run(main, parser.parse_args())))
    except BaseException as error:
        print(json.dumps({"errors": causes(error)}))
        sys.exit(1)
