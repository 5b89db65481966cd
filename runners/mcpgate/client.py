"""A small MCP client, for `mcpgate tools`, `call` and the demo.

Owns: talking to a gateway in this process through its own client face, on a private pair of sockets, once as
a client of the handshake revisions and once as a stateless one.
Must never: reach around that face, or open a port for it.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from mcpgate import __version__
from mcpgate_proto.config import GatewayConfig, ListenConfig
from mcpgate_proto.effects import Address, Record

__all__ = ["CallError", "Face", "absent", "all_tools", "beside", "connected", "find_tool"]

LEGACY = "2025-11-25"
MODERN = "2026-07-28"
PREFIX = "io.modelcontextprotocol/"
INFO = {"name": "mcpgate", "version": __version__}
PAGES = 1000
# The clients wait for nothing more once they have hung up.
GRACE_S = 2.0

Result = TypeVar("Result")


class CallError(Exception):
    """The gateway answered with an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(str(error.get("message", "unknown error")))
        self.code = error.get("code")
        self.data = error.get("data")


class Face:
    """One side of the gateway as a client sees it. `modern` says which era this client speaks."""

    def __init__(self, sock: socket.socket, modern: bool) -> None:
        self.modern = modern
        self._sock = sock
        self._lines = sock.makefile("rb")
        self._last = 0

    def open(self) -> None:
        """The handshake, for the revisions that have one."""
        if not self.modern:
            params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": INFO}
            self.request("initialize", params)
            self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Ask and wait. Raises `CallError` for an error, `ConnectionError` when the gateway is gone."""
        self._last += 1
        if self.modern:
            meta = {"protocolVersion": MODERN, "clientInfo": INFO, "clientCapabilities": {}}
            params = {**params, "_meta": {PREFIX + key: value for key, value in meta.items()}}
        self._send({"jsonrpc": "2.0", "id": self._last, "method": method, "params": params})
        while line := self._lines.readline():
            message = json.loads(line)
            if message.get("id") != self._last or "method" in message:
                self._decline(message)
                continue
            if "error" in message:
                raise CallError(message["error"])
            result: dict[str, Any] = message["result"]
            return result
        raise ConnectionError("the gateway ended the connection")

    def _decline(self, message: dict[str, Any]) -> None:
        """This client declares nothing, so a server has nothing to ask it for."""
        if "method" in message and "id" in message:
            if message["method"] == "ping":
                self._send({"jsonrpc": "2.0", "id": message["id"], "result": {}})
            else:
                error = {"code": -32601, "message": "Method not found"}
                self._send({"jsonrpc": "2.0", "id": message["id"], "error": error})

    def _send(self, message: dict[str, Any]) -> None:
        self._sock.sendall(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    def tools(self) -> list[dict[str, Any]]:
        """All tools, page by page."""
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        for _ in range(PAGES):
            result = self.request("tools/list", {"cursor": cursor} if cursor is not None else {})
            found += result.get("tools", [])
            cursor = result.get("nextCursor")
            if cursor is None:
                break
        return found

    def call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return self.request("tools/call", {"name": name, "arguments": arguments})

    def close(self) -> None:
        self._lines.close()
        self._sock.close()


def require_servers(faces: list[Face]) -> None:
    """Raises `ConnectionError` when no server answers; an empty list would look like no tools."""
    servers = faces[0].request("gateway/list_servers", {}).get("servers", [])
    states = {one["name"]: one["state"] for one in servers if one["enabled"]}
    if states and "connected" not in states.values():
        told = ", ".join(f"{name} is {state}" for name, state in states.items())
        raise ConnectionError(f"no server answers: {told}")


def absent(faces: list[Face]) -> list[tuple[str, str]]:
    """The servers whose tools cannot be among those that are shown, each with its state."""
    servers = faces[0].request("gateway/list_servers", {}).get("servers", [])
    states = [(str(one["name"]), str(one["state"])) for one in servers if one["enabled"]]
    return [(name, state) for name, state in states if state in ("down", "connecting")]


def all_tools(faces: list[Face]) -> list[tuple[dict[str, Any], Face]]:
    """What any era shows, each tool once, with the face that has it."""
    found: dict[str, tuple[dict[str, Any], Face]] = {}
    for face in faces:
        for tool in face.tools():
            found.setdefault(tool["name"], (tool, face))
    if not found:
        require_servers(faces)
    return list(found.values())


def find_tool(faces: list[Face], name: str) -> Face | None:
    """The face that shows `name`."""
    return next((face for tool, face in all_tools(faces) if tool["name"] == name), None)


def beside(
    config: GatewayConfig, work: Callable[[dict[str, Address]], Result], stdio: dict[str, tuple[int, int]]
) -> Result:
    """Run a gateway with `config` and, in a thread, `work` with its addresses; then stop.

    Raises what `work` raises, and `ConnectionError` if the gateway could not start.
    """
    from mcpgate.control import Control, Options
    from mcpgate.life import new_gateway, run_gateway
    from mcpgate.redact import Redactor, secrets_of

    control = Control()
    results: list[Result] = []
    errors: list[BaseException] = []
    workers: list[threading.Thread] = []

    def on_ready(addresses: dict[str, Address]) -> None:
        def do() -> None:
            try:
                results.append(work(addresses))
            except BaseException as error:
                errors.append(error)
            finally:
                control.stop(GRACE_S)

        workers.append(threading.Thread(target=do, daemon=True))
        workers[0].start()

    options = Options(
        sink=Redactor(secrets_of(config)).sink(quiet_sink()),
        control=control,
        ready=on_ready,
        stdio=stdio,
        signals=False,
        grace_s=GRACE_S,
        own_process=True,
    )
    outcome = run_gateway(new_gateway(config), "asyncio", options)
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
    if not results:
        raise ConnectionError(outcome.failure or "the gateway did not start")
    return results[0]


def quiet_sink() -> Callable[[Record], None]:
    """Warnings and worse, for commands whose result is what counts."""
    from mcpgate.logs import text_sink

    sink = text_sink()

    def quiet(record: Record) -> None:
        if record.level not in ("debug", "info", "notice"):
            sink(record)

    return quiet


def connected(config: GatewayConfig, work: Callable[[list[Face]], Result]) -> Result:
    """Run a gateway with `config`, give `work` its faces, and stop. Raises what `work` raises."""
    listeners = tuple(ListenConfig(name=name, kind="stdio") for name in ("legacy", "modern"))
    faces: list[Face] = []
    stdio: dict[str, tuple[int, int]] = {}
    for listener in listeners:
        ours, theirs = socket.socketpair()
        faces.append(Face(ours, modern=listener.name == "modern"))
        # A stream owns a descriptor for each direction.
        stdio[listener.name] = (os.dup(theirs.fileno()), theirs.detach())

    def talk(addresses: dict[str, Address]) -> Result:
        try:
            for face in faces:
                face.open()
            return work(faces)
        finally:
            for face in faces:
                face.close()

    return beside(msgspec.structs.replace(config, listeners=listeners), talk, stdio)
