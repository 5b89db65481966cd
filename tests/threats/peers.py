"""A real gateway as a black box: its process, its memory, and connections that say anything to it.

Owns: one `mcpgate serve` with HTTP, HTTP+SSE and WebSocket on TCP and HTTP on a Unix socket in front of one
small server; sockets that send while they read. Must never: sleep and hope; every wait is for an event and
has an end.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fuzz.sim import http
from tests.cli.program import MODERN_SERVER, Running, running

__all__ = ["MODERN", "BlackBox", "Line", "black_box", "call", "modern_headers", "request"]

MODERN = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}
WAIT_S = 30.0


def modern_headers(method: str, name: str = "") -> dict[str, str]:
    mirrored = {"MCP-Protocol-Version": MODERN, "Mcp-Method": method}
    return {**mirrored, "Mcp-Name": name} if name else mirrored


def request(
    verb: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None, host: str = ""
) -> bytes:
    """One request as bytes; `headers` in the place of those of the same name."""
    lines = {"Host": host, "Accept": "application/json, text/event-stream"}
    if body is not None:
        lines |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    lines |= headers or {}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return f"{verb} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + (body or b"")


def call(host: str, words: str = "a b c", token: str = "", **more: Any) -> bytes:
    """A modern call of the server's tool that counts words."""
    params = {"name": "count", "arguments": {"text": words, **more}, "_meta": META}
    told = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    headers = modern_headers("tools/call", "count")
    if token:
        headers["Authorization"] = f"Bearer {token}"
    return request("POST", "/mcp", headers, json.dumps(told).encode(), host)


class Line:
    """A connection. `got` is all that came, `statuses` and `bodies` what it means as HTTP; `ended`: the
    gateway has closed it, or reset it."""

    def __init__(self, place: tuple[str, int] | str) -> None:
        family = socket.AF_UNIX if isinstance(place, str) else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.connect(place)
        self.socket.setblocking(False)
        self.got = bytearray()
        self.ended = False
        self.statuses: list[int] = []
        self.headers: list[http.Headers] = []
        self.bodies: list[bytes] = []
        self.whole = 0
        self._reader = http.MessageReader(self._opened, self._body, self._whole, requests=False)

    def _opened(self, start: str, headers: http.Headers) -> None:
        if not start.split(" ")[1].startswith("1"):
            self.statuses.append(int(start.split(" ")[1]))
            self.headers.append(headers)
            self.bodies.append(b"")

    def _body(self, data: bytes) -> None:
        self.bodies[-1] += data

    def _whole(self) -> None:
        self.whole = len(self.statuses)

    def send(self, data: bytes, wait_s: float = WAIT_S) -> Line:
        """Send all that is taken, reading meanwhile; what a refusal keeps from being sent is dropped."""
        rest = memoryview(data)
        give_up = time.monotonic() + wait_s
        while rest and not self.ended:
            readable, writable, _ = select.select([self.socket], [self.socket], [], 1.0)
            if readable:
                self._read()
            if writable and not self.ended:
                try:
                    rest = rest[self.socket.send(rest[: 1 << 18]) :]
                except (BrokenPipeError, ConnectionResetError):
                    return self
            assert time.monotonic() < give_up, f"not taken in {wait_s:g} s; {bytes(self.got[-200:])!r}"
        return self

    def until(self, true: Callable[[], Any], wait_s: float = WAIT_S) -> Line:
        """Read until `true`, or the connection's end."""
        give_up = time.monotonic() + wait_s
        while not self.ended and not true():
            if select.select([self.socket], [], [], 0.2)[0]:
                self._read()
            assert time.monotonic() < give_up, f"not in {wait_s:g} s; {bytes(self.got[-200:])!r}"
        return self

    def answer(self, data: bytes = b"", wait_s: float = WAIT_S) -> Line:
        """Send, and wait for one more whole response."""
        before = self.whole
        return self.send(data, wait_s).until(lambda: self.whole > before, wait_s)

    def to_end(self, wait_s: float = WAIT_S) -> Line:
        return self.until(lambda: False, wait_s)

    def _read(self) -> None:
        try:
            data = self.socket.recv(1 << 18)
        except ConnectionResetError:
            data = b""
        except BlockingIOError:
            return
        self.got += data
        self.ended = self.ended or not data
        if data and not self.got.startswith(b"HTTP/1.1 101"):
            self._reader.feed(data)

    def close(self) -> None:
        self.socket.close()

    @property
    def status(self) -> int:
        return self.statuses[-1] if self.statuses else 0


class BlackBox:
    """The process, and where it listens."""

    def __init__(self, gate: Running, port: int, path: str, token: str = "") -> None:
        self.gate = gate
        self.port = port
        self.path = path
        self.token = token

    @property
    def places(self) -> dict[str, tuple[str, int] | str]:
        return {"tcp": ("127.0.0.1", self.port), "unix": self.path}

    # A name that is good on either place.
    host = "localhost"

    def line(self, place: str = "tcp") -> Line:
        return Line(self.places[place])

    def ask(self, data: bytes, place: str = "tcp", wait_s: float = WAIT_S) -> Line:
        """One response, on a connection of its own."""
        line = self.line(place).answer(data, wait_s)
        line.close()
        return line

    def serves(self, place: str = "tcp") -> bool:
        """Whether a normal call still works, within a normal time."""
        line = self.ask(call(self.host, token=self.token), place, wait_s=10)
        return line.status == 200 and b'"result"' in line.bodies[-1]

    def recovers(self, place: str = "tcp", within_s: float = 5.0) -> bool:
        """The same, but for connections that find no room while others are still being taken down."""
        give_up = time.monotonic() + within_s
        while not self.serves(place):
            if time.monotonic() > give_up:
                return False
        return True

    def memory(self, what: str) -> int:
        """Kilobytes of `VmRSS` now, or of `VmHWM`, the most since the last `forget`."""
        for text in Path(f"/proc/{self.gate.popen.pid}/status").read_text().splitlines():
            if text.startswith(what + ":"):
                return int(text.split()[1])
        raise AssertionError(f"no {what}")

    def forget(self) -> None:
        """From now on `VmHWM` begins anew."""
        Path(f"/proc/{self.gate.popen.pid}/clear_refs").write_text("5")


CONFIG = """
[[listen]]
kind = "http"
port = 0
{listener}
sse = true
websocket = true

[[listen]]
name = "socket"
kind = "http"
socket_path = "{path}"
{listener}
sse = true
websocket = true

[[server]]
name = "words"
command = "{python}"
args = ["-I", "-S", "{server}"]
"""


@contextmanager
def black_box(
    folder: Path, runner: str, more: str = "", token: str = "", listener: str = ""
) -> Iterator[BlackBox]:
    """`more` goes in front of the config, `listener` into each listener."""
    path = str(folder / "s.sock")
    config = folder / "mcpgate.toml"
    config.write_text(
        more + CONFIG.format(path=path, listener=listener, python=sys.executable, server=MODERN_SERVER)
    )
    config.chmod(0o600)
    with running("serve", "-c", str(config), "--runner", runner, cwd=folder) as gate:
        port = 0
        for _ in range(2):
            told = gate.until("listening on").split()[-1]
            if "127.0.0.1" in told:
                port = int(told.rpartition(":")[2].split("/")[0])
        yield BlackBox(gate, port, path, token)
