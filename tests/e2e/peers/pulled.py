"""A server on the official SDK, 1.x or 2.x, whose definitions are read from a file at each start.

`pulled.py FILE`: FILE holds a JSON object, name of a tool or prompt -> its description; prompts begin with
`p-`.
Must never: be started by anything but a gateway on stdio.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

try:
    from mcp.server import MCPServer as Server
except ImportError:
    from mcp.server.fastmcp import FastMCP as Server


def main() -> None:
    server: Any = Server("pulled")
    for name, description in json.loads(Path(sys.argv[1]).read_text()).items():

        def say(text: str = "", name: str = name) -> str:
            return f"{name}: {text}"

        if name.startswith("p-"):
            server.prompt(name=name, description=description)(lambda text="": f"prompt {text}")
        else:
            server.tool(name=name, description=description)(lambda text="", say=say: say(text))
    server.run()


main()
