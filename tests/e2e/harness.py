"""Processes of the end-to-end tests: gateways, and peers built on the official SDK.

Owns: starting them, waiting for what they say, reading their journals, and ending each one that was started.
Must never: sleep and hope. Every wait is for an event, and ends in an error that shows what did happen.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PEERS = Path(__file__).resolve().parent / "peers"
# `mcpgate`, recorded: what passes on both hops of every gateway is judged when its test is over.
MCPGATE = [sys.executable, str(Path(__file__).resolve().parent / "recorded.py")]
# Long enough for a busy machine; nothing waits that long when all is well.
WAIT_S = 30.0
LEGACY = "2025-11-25"
MODERN = "2026-07-28"
PREFIX = "io.modelcontextprotocol/"
META = {
    PREFIX + "protocolVersion": MODERN,
    PREFIX + "clientInfo": {"name": "test", "version": "1"},
    PREFIX + "clientCapabilities": {},
}


def until(found: Callable[[], Any], what: str, wait_s: float = WAIT_S) -> Any:
    """The first true value of `found`, for things that are seen by looking only (files, `/proc`)."""
    end = time.monotonic() + wait_s
    while not (value := found()):
        if time.monotonic() > end:
            raise AssertionError(f"waited {wait_s:g} s in vain for {what}")
        time.sleep(0.01)
    return value


def environment(**more: str) -> dict[str, str]:
    """The environment of a gateway: this one, with the sources on the path."""
    paths = [str(ROOT), str(ROOT / "runners")]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "COV"))}
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", **more}


class Process:
    """A child whose output is read as it comes."""

    def __init__(self, argv: list[str], env: dict[str, str] | None = None, cwd: Path | None = None) -> None:
        self.argv = argv
        self.out: list[str] = []
        self.err: list[str] = []
        self._news = threading.Condition()
        self.popen = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, cwd=cwd
        )
        self.pid = self.popen.pid
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            for stream, lines in ((self.popen.stdout, self.out), (self.popen.stderr, self.err))
        ]
        self._open = len(self._readers)
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any, lines: list[str]) -> None:
        for raw in stream:
            with self._news:
                lines.append(raw.decode(errors="replace").rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._open -= 1
            self._news.notify_all()

    def wait_for(self, found: Callable[[], Any], what: str, wait_s: float = WAIT_S) -> Any:
        """The first true value of `found`, asked again whenever there is new output."""
        end = time.monotonic() + wait_s
        with self._news:
            while not (value := found()):
                left = end - time.monotonic()
                if left <= 0 or not self._open:
                    raise AssertionError(f"no {what} within {wait_s:g} s\n{self.story()}")
                self._news.wait(left)
        return value

    def story(self) -> str:
        def tail(lines: list[str]) -> str:
            return "\n".join(line[:400] for line in lines[-30:])

        state = f"exit code {self.popen.poll()}"
        command = " ".join(self.argv)[:300]
        return f"{command}\n-- {state}\n-- stdout\n{tail(self.out)}\n-- stderr\n{tail(self.err)}"

    def send(self, message: Any) -> None:
        assert self.popen.stdin is not None
        data = message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n"
        self.popen.stdin.write(data)
        self.popen.stdin.flush()

    def close_stdin(self) -> None:
        assert self.popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.popen.stdin.close()

    def wait(self, wait_s: float = WAIT_S) -> int:
        """The exit code, once all output is read too."""
        code = self.popen.wait(wait_s)
        for reader in self._readers:
            reader.join(wait_s)
        return code

    def end(self) -> None:
        """Whatever it does, it is gone after this."""
        if self.popen.poll() is None:
            with contextlib.suppress(OSError):
                self.popen.terminate()
            try:
                self.popen.wait(WAIT_S)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        self.close_stdin()
        for reader in self._readers:
            reader.join(1.0)
        for stream in (self.popen.stdout, self.popen.stderr):
            if stream is not None and not any(reader.is_alive() for reader in self._readers):
                stream.close()


class Gateway(Process):
    """`mcpgate` with an HTTP listener, a stdio listener, or both."""

    def __init__(self, *args: str, stdio: bool = False, env: dict[str, str] | None = None) -> None:
        super().__init__([*MCPGATE, *args], env=environment(**(env or {})))
        self._last = 0
        self.port = 0
        if stdio:
            self.wait_for(lambda: "speaking MCP" in "\n".join(self.err), "ready line")
        else:
            found = self.wait_for(
                lambda: re.search(r"listening on http://[^:]+:(\d+)(/\S*)", "\n".join(self.err)), "ready line"
            )
            self.port = int(found[1])
            self.path = found[2]
            self.url = f"http://127.0.0.1:{self.port}{self.path}"

    def ask(self, method: str, wait_s: float = WAIT_S, **params: Any) -> dict[str, Any]:
        """One modern request through the gateway's stdio face."""
        self._last += 1
        number = f"control-{self._last}"
        self.send({"jsonrpc": "2.0", "id": number, "method": method, "params": {**params, "_meta": META}})
        return dict(self.wait_for(lambda: self.answer_to(number), f"answer to {method}", wait_s))

    def answer_to(self, number: Any) -> dict[str, Any] | None:
        for line in self.out:
            message = json.loads(line)
            if message.get("id") == number and "method" not in message:
                return dict(message)
        return None

    def status(self, server: str) -> dict[str, Any]:
        return dict(self.ask("gateway/server_status", name=server)["result"])

    def wait_idle(self, *servers: str) -> None:
        """No call is in flight at any of `servers`."""
        for server in servers:
            until(lambda server=server: self.status(server)["calls"] == 0, f"no calls at {server}")  # type: ignore[misc]

    def resident(self) -> int:
        """Resident memory, in bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    def stop(self, sig: int = signal.SIGTERM) -> int:
        self.popen.send_signal(sig)
        return self.wait()


class SdkClient(Process):
    """A client on the official SDK: `peers/client2.py`, or another script with the same commands."""

    def __init__(self, python: str, script: str = "client2.py", **options: str) -> None:
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        super().__init__([python, str(PEERS / script), *flags])
        self._last = 0

    @functools.cached_property
    def ready(self) -> dict[str, Any]:
        """What it learned of the server when it connected."""
        return self.event("ready")

    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out]

    def event(self, event: str, count: int = 1, wait_s: float = WAIT_S, **facts: Any) -> dict[str, Any]:
        """The `count`-th event of this kind with these facts."""
        found = self.wait_for(
            lambda: self.events(event, **facts)[count - 1 : count],
            f"event {event} {facts}, number {count}",
            wait_s,
        )
        return dict(found[0])

    def events(self, event: str, **facts: Any) -> list[dict[str, Any]]:
        return [
            one
            for one in self.messages()
            if one.get("event") == event and all(one.get(key) == value for key, value in facts.items())
        ]

    def start(self, do: str, **arguments: Any) -> int:
        self._last += 1
        self.send({"n": self._last, "do": do, **arguments})
        return self._last

    def outcome(self, number: int, wait_s: float = WAIT_S) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            return next((m for m in self.messages() if m.get("n") == number and "event" not in m), None)

        return dict(self.wait_for(found, f"outcome of command {number}", wait_s))

    def do(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Perform a command; its result."""
        outcome = self.outcome(self.start(do, **arguments))
        assert "ok" in outcome, f"{do} {arguments}: {outcome}"
        return dict(outcome["ok"] or {})

    def call(self, name: str, /, **arguments: Any) -> str:
        """Call a tool; the text of its result."""
        return str(self.do("call", name=name, arguments=arguments)["content"][0]["text"])

    def cancel(self, number: int) -> None:
        self.send({"do": "cancel", "of": number})


class JournalFile:
    """What a peer server noted."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self, event: str = "", **facts: Any) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        lines = self.path.read_text().splitlines(keepends=True)
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return [
            one
            for one in found
            if (not event or one["event"] == event)
            and all(one.get(key) == value for key, value in facts.items())
        ]

    def wait(self, event: str, wait_s: float = WAIT_S, **facts: Any) -> dict[str, Any]:
        found = until(lambda: self.entries(event, **facts), f"{event} {facts} in {self.path.name}", wait_s)
        return dict(found[0])

    def messages(self, method: str) -> list[dict[str, Any]]:
        """What arrived with this method."""
        return [dict(one["message"]) for one in self.entries("in") if one["message"].get("method") == method]


class Peer:
    """An SDK server: how to start it, and its journal. With `http` it is started here."""

    def __init__(self, python: str, script: str, name: str, folder: Path, http: bool, *flags: str) -> None:
        self.name = name
        self.journal = JournalFile(folder / f"{name}.journal")
        self.argv = [python, str(PEERS / script), "--name", name, "--journal", str(self.journal.path), *flags]
        self.process: Process | None = None
        if http:
            self.process = Process([*self.argv, "--http"])

    @functools.cached_property
    def url(self) -> str:
        """Its address; nothing for one on stdio."""
        process = self.process
        if process is None:
            return ""
        ready = process.wait_for(lambda: process.out[:1], "ready line")
        return f"http://127.0.0.1:{json.loads(ready[0])['ready']}/mcp"

    def config(self, **more: Any) -> dict[str, Any]:
        """Its `[[server]]` table."""
        if self.url:
            return {"name": self.name, "transport": "http", "url": self.url, **more}
        return {"name": self.name, "command": self.argv[0], "args": self.argv[1:], **more}


def toml(config: dict[str, Any]) -> str:
    """`config` in the syntax of a config file."""

    def value(one: Any) -> str:
        if isinstance(one, dict):
            return "{" + ", ".join(f"{json.dumps(key)} = {value(item)}" for key, item in one.items()) + "}"
        if isinstance(one, list):
            return "[" + ", ".join(value(item) for item in one) + "]"
        return json.dumps(one)

    lines: list[str] = []
    for name, part in config.items():
        for table in part if isinstance(part, list) else [part]:
            lines.append(f"[[{name}]]" if isinstance(part, list) else f"[{name}]")
            lines += [f"{key} = {value(item)}" for key, item in table.items()]
    return "\n".join(lines) + "\n"


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, as `/proc` has them."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])

    def below(top: int) -> Iterator[int]:
        for child, parent in parents.items():
            if parent == top:
                yield child
                yield from below(child)

    return list(below(pid))


def alive(pid: int) -> bool:
    """It runs, and is no zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
