"""A small MCP server of the stateless revision 2026-07-28 on stdio, for `mcpgate demo`.

Owns: two tools. Must never: import anything beyond the standard library, or keep anything between requests.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

VERSION = "2026-07-28"
PREFIX = "io.modelcontextprotocol/"
INFO = {"name": "demo-words", "version": "1.0"}
TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
TOOLS = [
    {"name": "count", "description": "Count the words of a text.", "inputSchema": TEXT},
    {"name": "reverse", "description": "A text, backwards.", "inputSchema": TEXT},
]
# How long a client may keep these answers.
CACHE = {"ttlMs": 60_000, "cacheScope": "public"}


class Failure(Exception):
    """An answer that is an error."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data


def require_version(params: dict[str, Any]) -> None:
    """Each request says which revision it speaks; there is no handshake that could have said it before."""
    meta = params.get("_meta")
    version = meta.get(PREFIX + "protocolVersion") if isinstance(meta, dict) else None
    if version is None:
        raise Failure(-32602, f"_meta.{PREFIX}protocolVersion is required")
    if version != VERSION:
        raise unsupported(version)


def unsupported(version: Any) -> Failure:
    return Failure(
        -32022, "Unsupported protocol version", {"supported": [VERSION], "requested": str(version or "")}
    )


def call_tool(params: dict[str, Any]) -> dict[str, Any]:
    tools: dict[str, Callable[[str], str]] = {
        "count": lambda text: str(len(text.split())),
        "reverse": lambda text: text[::-1],
    }
    name = params.get("name")
    if name not in tools:
        raise Failure(-32602, f"Unknown tool: {name}")
    text = (params.get("arguments") or {}).get("text")
    if not isinstance(text, str):
        return {"content": [{"type": "text", "text": "text: give a text"}], "isError": True}
    return {"content": [{"type": "text", "text": tools[name](text)}], "isError": False}


def answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """The result of one request. Raises `Failure`."""
    if method == "initialize":
        raise unsupported(params.get("protocolVersion"))
    require_version(params)
    if method == "server/discover":
        return {"supportedVersions": [VERSION], "capabilities": {"tools": {}}, **CACHE}
    if method == "tools/list":
        return {"tools": TOOLS, **CACHE}
    if method == "tools/call":
        return call_tool(params)
    raise Failure(-32601, "Method not found")


def main() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message or "method" not in message:
            continue
        reply: dict[str, Any] = {"jsonrpc": "2.0", "id": message["id"]}
        try:
            result = answer(message["method"], message.get("params") or {})
            reply["result"] = {"resultType": "complete", **result, "_meta": {PREFIX + "serverInfo": INFO}}
        except Failure as failure:
            reply["error"] = {"code": failure.code, "message": str(failure)}
            if failure.data is not None:
                reply["error"]["data"] = failure.data
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
