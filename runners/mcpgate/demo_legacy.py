"""A small MCP server of the handshake revisions (to 2025-11-25) on stdio, for `mcpgate demo`.

Owns: two tools and a prompt.
Must never: import anything beyond the standard library, or know newer revisions: it stands for the many
servers that do not.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
NUMBERS = {"type": "array", "items": {"type": "number"}, "description": "The numbers"}
TOOLS = [
    {
        "name": "add",
        "description": "Add numbers.",
        "inputSchema": {"type": "object", "properties": {"numbers": NUMBERS}, "required": ["numbers"]},
    },
    {
        "name": "largest",
        "description": "The largest of some numbers.",
        "inputSchema": {"type": "object", "properties": {"numbers": NUMBERS}, "required": ["numbers"]},
    },
]
PROMPTS = [
    {
        "name": "check_sum",
        "description": "Ask for a sum to be checked.",
        "arguments": [{"name": "sum", "description": "Such as 2 + 2 = 5", "required": True}],
    }
]


class Failure(Exception):
    """An answer that is an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def call_tool(params: dict[str, Any]) -> dict[str, Any]:
    tools: dict[str, Callable[[list[float]], float]] = {"add": sum, "largest": max}
    name = params.get("name")
    if name not in tools:
        raise Failure(-32602, f"Unknown tool: {name}")
    numbers = (params.get("arguments") or {}).get("numbers")
    if not isinstance(numbers, list) or not numbers or not all(isinstance(n, int | float) for n in numbers):
        return {"content": [{"type": "text", "text": "numbers: give some numbers"}], "isError": True}
    return {"content": [{"type": "text", "text": str(tools[name](numbers))}], "isError": False}


def get_prompt(params: dict[str, Any]) -> dict[str, Any]:
    if params.get("name") != "check_sum":
        raise Failure(-32602, f"Unknown prompt: {params.get('name')}")
    text = f"Is this right? {(params.get('arguments') or {}).get('sum', '')}"
    return {"messages": [{"role": "user", "content": {"type": "text", "text": text}}]}


def answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """The result of one request. Raises `Failure`."""
    if method == "initialize":
        asked = params.get("protocolVersion")
        return {
            "protocolVersion": asked if asked in VERSIONS else VERSIONS[-1],
            "capabilities": {"tools": {}, "prompts": {}},
            "serverInfo": {"name": "demo-sums", "version": "1.0"},
        }
    if method == "ping":
        return {}
    if method == "tools/list":
        return {"tools": TOOLS}
    if method == "tools/call":
        return call_tool(params)
    if method == "prompts/list":
        return {"prompts": PROMPTS}
    if method == "prompts/get":
        return get_prompt(params)
    raise Failure(-32601, "Method not found")


def main() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message or "method" not in message:
            continue
        reply: dict[str, Any] = {"jsonrpc": "2.0", "id": message["id"]}
        try:
            reply["result"] = answer(message["method"], message.get("params") or {})
        except Failure as failure:
            reply["error"] = {"code": failure.code, "message": str(failure)}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
