"""A server of both eras on the standard library, whose definitions are read from a file for each list.

`defined.py FILE`: FILE holds {"tools": [...], "prompts": [...], "legacy": {...}}: whole definitions; what
stands under "legacy" takes the place of the others for clients of the old era. A description "@" is sent
twice, with two values.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

MODERN = "2026-07-28"
VERSION = "io.modelcontextprotocol/protocolVersion"


def answer(message: dict[str, Any]) -> dict[str, Any]:
    method, params = message["method"], message.get("params") or {}
    modern = VERSION in (params.get("_meta") or {})
    told = json.loads(Path(sys.argv[1]).read_text())
    told = told if modern else {**told, **told.get("legacy", {})}
    hints = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"} if modern else {}
    capabilities = {"tools": {}, "prompts": {}}
    if method == "initialize":
        info = {"name": "defined", "version": "1"}
        version = params["protocolVersion"]
        return {"result": {"protocolVersion": version, "capabilities": capabilities, "serverInfo": info}}
    if method == "server/discover":
        return {"result": {**hints, "supportedVersions": [MODERN], "capabilities": capabilities}}
    if method in ("tools/list", "prompts/list"):
        kind = method.partition("/")[0]
        return {"result": {**hints, kind: told.get(kind, [])}}
    if method == "ping":
        return {"result": {}}
    return {"error": {"code": -32601, "message": "Method not found"}}


for line in sys.stdin:
    received = json.loads(line)
    if "method" in received and "id" in received:
        told = json.dumps({"jsonrpc": "2.0", "id": received["id"], **answer(received)})
        print(told.replace('"description": "@"', '"description": "good", "description": "evil"'), flush=True)
