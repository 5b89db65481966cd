"""What the SDK servers of these tests do, whichever SDK they are built on.

Owns: their tools, resources, prompts and completions as plain data, and the journal in which a server
notes what reached it on the wire. `server1.py` and `server2.py` bind this to one SDK each.
Must never: hold anything of an SDK.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from typing import Any, Protocol

import anyio

LEVELS = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]
STRING = {"type": "string"}
NUMBER = {"type": "integer"}
TOOLS: dict[str, dict[str, Any]] = {
    "echo": {"text": STRING},
    "who": {},
    "big": {"size": NUMBER},
    "steps": {"count": NUMBER},
    "hold": {"key": STRING},
    "flood": {"count": NUMBER, "size": NUMBER},
    "ask": {"question": STRING},
    "ask_url": {"url": STRING},
    "sample": {"prompt": STRING},
    "list_roots": {},
    "log": {},
    "touch": {"uri": STRING},
    "grow": {},
    "crash": {},
    "structured": {},
}


# An error instead of what the SDK would answer, or None.
Refuse = Callable[[dict[str, Any]], "dict[str, Any] | None"]


class Journal:
    """Lines of JSON in a file, one for each thing that reached the server."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "a", buffering=1) if path else None  # noqa: SIM115
        self._lock = threading.Lock()

    def note(self, event: str, **facts: Any) -> None:
        if self._file is not None:
            with self._lock:
                self._file.write(json.dumps({"event": event, "pid": os.getpid(), **facts}) + "\n")

    def tee_stdin(self, refuse: Refuse | None = None) -> None:
        """Note every line of stdin on its way to the SDK; what is refused does not get there."""
        source, out = os.dup(0), os.dup(1)  # the SDK keeps stdout to itself
        reader, writer = os.pipe()
        os.dup2(reader, 0)
        os.close(reader)

        def copy() -> None:
            with os.fdopen(source, "rb") as lines, os.fdopen(writer, "wb", 0) as sink:
                for line in lines:
                    message = json.loads(line)
                    self.note("in", message=message)
                    answer = refuse(message) if refuse is not None else None
                    if answer is None:
                        sink.write(line)
                    else:
                        # One write of a short line does not mix with those of the SDK.
                        os.write(out, json.dumps(answer).encode() + b"\n")
            self.note("eof")

        threading.Thread(target=copy, daemon=True).start()

    def wrap_asgi(self, app: Any) -> Any:
        """Note every request of an HTTP server, and every client that hung up."""

        async def wrapped(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                return
            headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
            body = b""
            if scope["method"] != "POST":
                self.note("http", verb=scope["method"], headers=headers)

            async def noting() -> Any:
                nonlocal body
                event = await receive()
                if event["type"] == "http.request":
                    body += event.get("body", b"")
                    if not event.get("more_body") and scope["method"] == "POST" and body:
                        self.note("in", message=json.loads(body), headers=headers)
                        body = b""
                elif event["type"] == "http.disconnect":
                    self.note("hangup", verb=scope["method"])
                return event

            await app(scope, noting, send)

        return wrapped


class Call(Protocol):
    """One request, as an SDK lets its server see it."""

    modern: bool
    # Modern: what the client answered to an earlier round.
    answers: dict[str, Any]

    async def progress(self, done: float, total: float) -> None: ...
    async def log(self, level: str, data: Any) -> None: ...
    async def elicit(self, message: str, schema: dict[str, Any]) -> dict[str, Any]: ...
    async def elicit_url(self, message: str, url: str) -> dict[str, Any]: ...
    async def sample(self, text: str) -> dict[str, Any]: ...
    async def roots(self) -> dict[str, Any]: ...
    async def updated(self, uri: str) -> None: ...
    async def tools_changed(self) -> None: ...


def text(value: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": value}], "isError": False}


NAME_SCHEMA = {"type": "object", "properties": {"value": {"type": "string"}}, "required": ["value"]}


class Behaviour:
    """One server. `name` tells it from its like."""

    def __init__(self, name: str, journal: Journal) -> None:
        self.name = name
        self.journal = journal
        self.level = "debug"
        self.grown = 0

    # -- lists

    def tools(self) -> list[dict[str, Any]]:
        own = {**TOOLS, **{f"grown{number}": {} for number in range(1, self.grown + 1)}}
        return [
            {
                "name": name,
                "description": f"{name} of {self.name}",
                "inputSchema": {
                    "type": "object",
                    "properties": properties,
                    "$defs": {"kept": {"$anchor": "k"}},
                },
            }
            for name, properties in own.items()
        ]

    def resources(self) -> list[dict[str, Any]]:
        return [{"uri": f"test://{self.name}/text", "name": "text", "mimeType": "text/plain"}]

    def templates(self) -> list[dict[str, Any]]:
        return [{"uriTemplate": f"test://{self.name}/item/{{id}}", "name": "item"}]

    def prompts(self) -> list[dict[str, Any]]:
        return [{"name": "greet", "arguments": [{"name": "whom", "required": True}]}]

    # -- requests

    def read(self, uri: str) -> dict[str, Any] | None:
        if not uri.startswith(f"test://{self.name}/"):
            return None
        return {"contents": [{"uri": uri, "mimeType": "text/plain", "text": f"{self.name} has {uri}"}]}

    def prompt(self, name: str, arguments: dict[str, str]) -> dict[str, Any] | None:
        if name != "greet":
            return None
        said = f"{self.name} greets {arguments.get('whom')}"
        return {"messages": [{"role": "user", "content": {"type": "text", "text": said}}]}

    def complete(self, argument: dict[str, str]) -> dict[str, Any]:
        start = argument["value"]
        found = [word for word in (f"{self.name}-one", f"{self.name}-two") if word.startswith(start)]
        return {"completion": {"values": found, "total": len(found), "hasMore": False}}

    async def call(self, name: str, arguments: dict[str, Any], call: Call) -> dict[str, Any] | None:
        """The result; None for a tool that there is not."""
        if name.startswith("grown"):
            return text(f"{self.name} has grown")
        tool = getattr(self, f"tool_{name}", None)
        return None if tool is None else await tool(call, **arguments)

    # -- tools

    async def tool_echo(self, call: Call, text: str) -> dict[str, Any]:  # noqa: A002
        return {"content": [{"type": "text", "text": text}], "isError": False}

    async def tool_who(self, call: Call) -> dict[str, Any]:
        return text(self.name)

    async def tool_structured(self, call: Call) -> dict[str, Any]:
        return {
            "content": [{"type": "text", "text": '{"answer": 42}'}],
            "structuredContent": {"answer": 42},
            "_meta": {"example.org/kept": [1, 2, 3]},
            "isError": False,
        }

    async def tool_big(self, call: Call, size: int) -> dict[str, Any]:
        return text("x" * size)

    async def tool_steps(self, call: Call, count: int) -> dict[str, Any]:
        for done in range(1, count + 1):
            await call.progress(done, count)
            # Progress is not to be bundled with what follows.
            await anyio.sleep(0.01)
        return text(f"{count} steps")

    async def tool_hold(self, call: Call, key: str) -> dict[str, Any]:
        """Report progress until the file KEY exists."""
        self.journal.note("started", key=key)
        done = 0
        try:
            while not os.path.exists(key):
                done += 1
                await call.progress(done, 1_000_000)
                await anyio.sleep(0.02)
        except anyio.get_cancelled_exc_class():
            self.journal.note("cancelled", key=key)
            raise
        self.journal.note("finished", key=key)
        return text("released")

    async def tool_flood(self, call: Call, count: int, size: int) -> dict[str, Any]:
        """A stream of log messages, each of `size`."""
        data = "y" * size
        for number in range(count):
            await call.log("error", data)
            self.journal.note("flooded", number=number)
        return text("flooded")

    async def tool_ask(self, call: Call, question: str) -> dict[str, Any]:
        return text(json.dumps(await call.elicit(question, NAME_SCHEMA)))

    async def tool_ask_url(self, call: Call, url: str) -> dict[str, Any]:
        return text(json.dumps(await call.elicit_url("please look", url)))

    async def tool_sample(self, call: Call, prompt: str) -> dict[str, Any]:
        return text(json.dumps(await call.sample(prompt)))

    async def tool_list_roots(self, call: Call) -> dict[str, Any]:
        return text(json.dumps(await call.roots()))

    async def tool_log(self, call: Call) -> dict[str, Any]:
        for level in ("debug", "info", "warning", "error"):
            # A modern client says per request what it wants; the SDK keeps to it.
            if call.modern or LEVELS.index(level) >= LEVELS.index(self.level):
                await call.log(level, f"{self.name} at {level}")
        return text(self.level)

    async def tool_touch(self, call: Call, uri: str) -> dict[str, Any]:
        await call.updated(uri)
        return text(uri)

    async def tool_grow(self, call: Call) -> dict[str, Any]:
        self.grown += 1
        await call.tools_changed()
        return text(f"grown{self.grown}")

    async def tool_crash(self, call: Call) -> dict[str, Any]:
        self.journal.note("crashing")
        os._exit(7)


def arguments() -> Any:
    import argparse

    parser = argparse.ArgumentParser()
    parser.add_argument("--name", default="peer")
    parser.add_argument("--http", action="store_true", help="Streamable HTTP on a free port, else stdio")
    parser.add_argument("--journal", default="")
    parser.add_argument("--era", choices=("dual", "modern"), default="dual")
    return parser.parse_args()


async def serve_http(handle: Any, journal: Journal) -> None:
    """Serve an ASGI handler on a free port of this machine, said in one line on stdout."""
    import socket

    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    print(json.dumps({"ready": listener.getsockname()[1]}), flush=True)
    config = uvicorn.Config(
        journal.wrap_asgi(handle), lifespan="off", log_level="warning", timeout_graceful_shutdown=0
    )
    await uvicorn.Server(config).serve(sockets=[listener])
