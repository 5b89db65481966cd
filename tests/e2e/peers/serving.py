"""How the servers on an SDK run, whichever it is: on Streamable HTTP, or on stdio with every line noted.

Owns: those two ways, and the exit code of one that was interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from behaviour import Journal, Refuse, serve_http
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager


async def serve(
    server: Any,
    told: Any,
    journal: Journal,
    refuse: Refuse | None = None,
    wrap: Callable[[Any], Any] = lambda handle: handle,
) -> None:
    """A low-level server, as `told` has it. `refuse` and `wrap` stand before it on stdio and on HTTP."""
    if told.http:
        manager = StreamableHTTPSessionManager(app=server)
        async with manager.run():
            await serve_http(wrap(manager.handle_request), journal)
        return
    journal.tee_stdin(refuse)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


def run(main: Callable[[], Awaitable[None]]) -> None:
    try:
        anyio.run(main)
    except KeyboardInterrupt:
        sys.exit(130)
