"""A stdio server of both eras on the standard library alone: it starts at once, for tests of all but servers.

Owns: `echo`, `who`, `big`, `steps`, `hold`, `ask`; `--launcher` runs itself as a grandchild, as npx and its
like do. With `--pids FILE` every process notes its id there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from typing import Any

MODERN = "2026-07-28"
PREFIX = "io.modelcontextprotocol/"
LEGACY = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"]
CAPABILITIES = {"tools": {}, "logging": {}}
lock = threading.Lock()


def send(message: dict[str, Any]) -> None:
    with lock:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def schema(**properties: str) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": kind} for name, kind in properties.items()}}


TOOLS = {
    "who": schema(),
    "echo": schema(text="string"),
    "big": schema(size="integer"),
    "steps": schema(count="integer"),
    "hold": schema(key="string"),
    "fail": schema(),
    "region": {
        "type": "object",
        "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
    },
}


def call(name: str, arguments: dict[str, Any], token: Any) -> dict[str, Any]:
    text = ""
    if name == "who":
        text = told.name
    elif name == "echo":
        text = arguments["text"]
    elif name == "region":
        text = str(arguments.get("region"))
    elif name == "big":
        text = "x" * arguments["size"]
    elif name == "steps":
        for done in range(1, arguments["count"] + 1):
            if token is not None:
                send(
                    {
                        "method": "notifications/progress",
                        "params": {"progressToken": token, "progress": done, "total": arguments["count"]},
                    }
                )
        text = f"{arguments['count']} steps"
    elif name == "hold":
        while not os.path.exists(arguments["key"]):
            time.sleep(0.02)
        text = "released"
    result = {"content": [{"type": "text", "text": text}]}
    return {**result, "isError": True} if name == "fail" else result


def answer(message: dict[str, Any]) -> None:
    method, params = message["method"], message.get("params") or {}
    meta = params.get("_meta") or {}
    modern = PREFIX + "protocolVersion" in meta
    if told.era not in ("dual", "modern" if modern else "legacy"):
        send({"id": message["id"], "error": {"code": -32601, "message": "Method not found"}})
        return
    hints: dict[str, Any] = {"resultType": "complete"} if modern else {}
    cached = {**hints, "ttlMs": 60_000, "cacheScope": "public"} if modern else {}
    if method == "initialize":
        version = params["protocolVersion"]
        result = {
            "protocolVersion": version if version in LEGACY else LEGACY[-1],
            "capabilities": CAPABILITIES,
            "serverInfo": {"name": told.name, "version": "1"},
        }
    elif method == "server/discover":
        result = {**cached, "supportedVersions": [MODERN], "capabilities": CAPABILITIES}
    elif method == "tools/list":
        result = {
            **cached,
            "tools": [{"name": name, "description": name, "inputSchema": one} for name, one in TOOLS.items()],
        }
    elif method == "tools/call" and params.get("name") in TOOLS:
        result = {**hints, **call(params["name"], params.get("arguments") or {}, meta.get("progressToken"))}
    elif method in ("ping", "logging/setLevel"):
        result = {}
    elif method == "tools/call":
        send({"id": message["id"], "error": {"code": -32602, "message": "Unknown tool"}})
        return
    else:
        send({"id": message["id"], "error": {"code": -32601, "message": "Method not found"}})
        return
    send({"id": message["id"], "result": result})


def note_pid() -> None:
    if told.pids:
        with open(told.pids, "a") as file:
            file.write(f"{os.getpid()}\n")


parser = argparse.ArgumentParser()
parser.add_argument("--name", default="plain")
parser.add_argument("--era", default="dual", choices=["dual", "legacy", "modern"])
parser.add_argument("--pids", default="")
parser.add_argument("--launcher", action="store_true")
parser.add_argument("--stubborn", action="store_true", help="neither the end of stdin nor SIGTERM ends it")
parser.add_argument("--chatty", action="store_true", help="prints what is no message, on both streams")
told = parser.parse_args()
if told.stubborn:
    import signal

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
note_pid()
if told.launcher:
    rest = [one for one in sys.argv[1:] if one != "--launcher"]
    sys.exit(subprocess.call([sys.executable, __file__, *rest]))
if told.chatty:
    print("a banner, and no message")
    print('{"half": ')
    print("words on stderr \x1b[31m", file=sys.stderr, flush=True)
for line in sys.stdin:
    received = json.loads(line)
    if "method" in received and "id" in received:
        threading.Thread(target=answer, args=(received,), daemon=True).start()
while told.stubborn:
    time.sleep(3600)
