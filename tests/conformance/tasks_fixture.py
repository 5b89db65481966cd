"""A stdio server with the tasks extension, on the standard library, for the suite's unscored task scenarios.

Owns: the tools that those scenarios name. Only 2026-07-28, only what they need.
"""

from __future__ import annotations

import datetime
import json
import sys
import time
import uuid
from typing import Any

PREFIX = "io.modelcontextprotocol/"
TASKS = PREFIX + "tasks"
MODERN = "2026-07-28"
NEEDED = {"requiredCapabilities": {"extensions": {TASKS: {}}}}
Message = dict[str, Any]
tasks: dict[str, Message] = {}


class Refused(Exception):
    """`code`, `message`, `data` of an error."""


def send(message: Message) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def text(value: str, **more: Any) -> Message:
    return {"content": [{"type": "text", "text": value}], **more}


def question(message: str) -> Message:
    properties = {"name": {"type": "string"}, "confirm": {"type": "boolean"}}
    schema = {"type": "object", "properties": properties}
    params = {"mode": "form", "message": message, "requestedSchema": schema}
    return {"method": "elicitation/create", "params": params}


def key() -> str:
    return f"key-{uuid.uuid4().hex[:6]}"


def make(**facts: Any) -> Message:
    told = now()
    task = {"id": str(uuid.uuid4()), "created": told, "updated": told, "asks": {}, "given": {}, **facts}
    tasks[task["id"]] = task
    return task


def shown(task: Message) -> Message:
    """A task as `tasks/get` tells it."""
    told: Message = {
        "taskId": task["id"],
        "createdAt": task["created"],
        "lastUpdatedAt": task["updated"],
        "ttlMs": 300_000,
        "pollIntervalMs": 500,
    }
    pending = {name: ask for name, ask in task["asks"].items() if name not in task["given"]}
    if task.get("cancelled"):
        return {**told, "status": "cancelled"}
    if pending:
        return {**told, "status": "input_required", "inputRequests": pending}
    if time.time() < task.get("until", 0.0):
        return {**told, "status": "working"}
    if "error" in task:
        return {**told, "status": "failed", "error": task["error"]}
    return {**told, "status": "completed", "result": task["result"]}


def begun(params: Message) -> Message:
    """The task that a call becomes."""
    name, arguments = params["name"], params.get("arguments") or {}
    if name == "slow_compute":
        seconds = arguments.get("seconds", 0)
        done = text(f"computed {arguments.get('label')}", isError=False)
        return make(until=time.time() + seconds, result=done)
    soon = time.time() + 0.2
    if name == "failing_job":
        return make(until=soon, result=text("it failed", isError=True))
    if name == "protocol_error_job":
        return make(until=soon, error={"code": -32603, "message": "boom"})
    if name == "confirm_delete":
        return make(asks={key(): question("Delete?")}, result=text("deleted", isError=False))
    if name == "multi_input":
        return make(
            asks={key(): question("One?"), key(): question("Two?")}, result=text("both", isError=False)
        )
    given = ((params.get("inputResponses") or {}).get("user_name") or {}).get("content") or {}
    return make(until=soon, result=text(f"Hello, {given.get('name')}!", isError=False))


TOOLS = (
    "greet",
    "slow_compute",
    "failing_job",
    "protocol_error_job",
    "confirm_delete",
    "multi_input",
    "test_tool_with_task",
)


def call(params: Message, capable: bool) -> Message:
    name, arguments = params.get("name"), params.get("arguments") or {}
    if name not in TOOLS:
        raise Refused(-32602, "unknown tool", None)
    if name == "greet":
        return text(f"Hello, {arguments.get('name', 'you')}!")
    if not capable:
        if name == "slow_compute" and arguments.get("seconds", 0) <= 0:
            return text("done")
        raise Refused(-32021, "it needs the tasks extension", NEEDED)
    if name == "test_tool_with_task" and not params.get("inputResponses"):
        asked = {"user_name": question("Name?")}
        return {"resultType": "input_required", "inputRequests": asked, "requestState": "st-1"}
    told = shown(begun(params))
    kept = {name: part for name, part in told.items() if name not in ("inputRequests", "result", "error")}
    return {**kept, "resultType": "task", "status": "working"}


def of_task(method: str, params: Message) -> Message:
    task = tasks.get(params.get("taskId", ""))
    if task is None:
        raise Refused(-32602, "unknown task", None)
    if method == "tasks/get":
        return shown(task)
    if method == "tasks/update":
        task["given"] |= {name: one for name, one in params["inputResponses"].items() if name in task["asks"]}
        task["updated"] = now()
    elif shown(task)["status"] in ("working", "input_required"):
        task["cancelled"] = True
    return {}


def answer(message: Message) -> Message | None:
    method, params = message["method"], message.get("params") or {}
    meta = params.get("_meta") or {}
    capable = TASKS in ((meta.get(PREFIX + "clientCapabilities") or {}).get("extensions") or {})
    cached = {"ttlMs": 1000, "cacheScope": "public"}
    if PREFIX + "protocolVersion" not in meta:
        raise Refused(-32601, "method not found", None)
    if method == "server/discover":
        capabilities = {"tools": {}, "extensions": {TASKS: {}}}
        return {"supportedVersions": [MODERN], "capabilities": capabilities, **cached}
    if method == "tools/list":
        return {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS], **cached}
    if method == "tools/call":
        return call(params, capable)
    if method == "subscriptions/listen":
        known = [id for id in params["notifications"].get("taskIds", []) if id in tasks]
        told = {
            "notifications": {"taskIds": known} if known else {},
            "_meta": {PREFIX + "subscriptionId": message["id"]},
        }
        send({"method": "notifications/subscriptions/acknowledged", "params": told})
        return None
    if method in ("tasks/get", "tasks/update", "tasks/cancel"):
        if not capable:
            raise Refused(-32021, "it needs the tasks extension", NEEDED)
        return of_task(method, params)
    raise Refused(-32601, "method not found", None)


for line in sys.stdin:
    received = json.loads(line)
    if "id" not in received or "method" not in received:
        continue
    try:
        result = answer(received)
    except Refused as refused:
        code, said, data = refused.args
        error = {"code": code, "message": said} | ({"data": data} if data is not None else {})
        send({"id": received["id"], "error": error})
    else:
        if result is not None:
            send({"id": received["id"], "result": {"resultType": "complete", **result}})
