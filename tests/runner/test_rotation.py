"""A secret that changes while the gateway runs, on every runner (threats.md section 0, "Secrets management":
rotate a token file; the next upstream request uses it).

Must never: hold a call longer than the test takes, or ask which runner it is.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import Running, running
from tests.cli.test_cli import call_tool
from tests.runner.fake import PATIENCE_S, gone
from tests.runner.test_process import family

META = {"resultType": "complete", "ttlMs": 60_000, "cacheScope": "private"}


class Upstream(ThreadingHTTPServer):
    """A modern server that notes with which token it is called. The tool `hold` answers when it is let go."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.calls: list[tuple[str, str]] = []
        self.held = threading.Event()
        self.let_go = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/mcp"

    def tokens(self, tool: str) -> list[str]:
        return [token for name, token in self.calls if name == tool]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Upstream

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        method, answer = message["method"], {"jsonrpc": "2.0", "id": message.get("id")}
        if method == "server/discover":
            answer["result"] = {
                "supportedVersions": ["2026-07-28"],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "up", "version": "1"},
                **META,
            }
        elif method == "tools/list":
            tools = [{"name": name, "inputSchema": {"type": "object"}} for name in ("say", "hold")]
            answer["result"] = {"tools": tools, **META}
        elif method == "tools/call":
            tool, token = message["params"]["name"], self.headers.get("Authorization", "")
            self.server.calls.append((tool, token))
            if tool == "hold":
                self.server.held.set()
                assert self.server.let_go.wait(PATIENCE_S)
            answer["result"] = {"content": [{"type": "text", "text": token}], **META}
        else:
            answer["error"] = {"code": -32601, "message": "no"}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield server
        server.let_go.set()
        server.shutdown()


def put(path: Path, text: str, mode: int = 0o600) -> None:
    """Exchange a file as secret stores do."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    new.chmod(mode)
    new.replace(path)


def say(url: str, tool: str = "up__say") -> str:
    answer = call_tool(url, tool, {})
    return str(answer["result"]["content"][0]["text"])


@contextmanager
def gateway(
    runner: str, upstream: Upstream, folder: Path, reference: str, more: str = ""
) -> Iterator[Running]:
    config = folder / "mcpgate.toml"
    config.write_text(
        f"[gateway]\nrunner = '{runner}'\nprefix = 'always'\nlog_level = 'debug'\n{more}\n"
        f"[[listen]]\nport = 0\n[[server]]\nname = 'up'\ntransport = 'http'\nurl = '{upstream.url}'\n"
        f"headers = {{ Authorization = 'Bearer {reference}' }}\n"
    )
    with running("serve", "-c", str(config)) as gate:
        yield gate
        assert gate.stop() == 0
        while gate.until(""):
            pass
    everything = "".join(gate.seen)
    assert "token-of-" not in everything


def test_a_rotated_file_is_used_by_the_next_request(runner: str, upstream: Upstream, tmp_path: Path) -> None:
    """The session stays, and a call that is under way is answered."""
    token = tmp_path / "token"
    put(token, "token-of-monday\n")
    with gateway(runner, upstream, tmp_path, "${file:token}") as gate:
        url = gate.url()
        assert say(url) == "Bearer token-of-monday"
        answers: list[str] = []
        calling = threading.Thread(target=lambda: answers.append(say(url, "up__hold")))
        calling.start()
        assert upstream.held.wait(PATIENCE_S)
        put(token, "token-of-tuesday\n")
        line = gate.until("reloaded")
        assert "servers=1 kept=1" in line
        assert say(url) == "Bearer token-of-tuesday"
        upstream.let_go.set()
        calling.join(PATIENCE_S)
        assert answers == ["Bearer token-of-monday"]
    assert upstream.tokens("hold") == ["Bearer token-of-monday"]


@pytest.mark.parametrize("runner", ["asyncio", "blocking"])
def test_a_file_of_no_use_leaves_the_old_one(runner: str, upstream: Upstream, tmp_path: Path) -> None:
    token = tmp_path / "token"
    put(token, "token-of-monday\n")
    with gateway(runner, upstream, tmp_path, "${file:token}") as gate:
        url = gate.url()
        assert say(url) == "Bearer token-of-monday"
        for text, mode, problem in (("", 0o600, "is empty"), ("token-of-tuesday", 0o644, "can read")):
            put(token, text, mode)
            line = gate.until("config_not_reloaded")
            assert problem in line and "server.up.headers.Authorization" in line
            assert say(url) == "Bearer token-of-monday"
        put(token, "token-of-wednesday")
        gate.until("reloaded")
        assert say(url) == "Bearer token-of-wednesday"


@pytest.mark.parametrize("runner", ["asyncio", "blocking"])
def test_a_command_is_asked_again_on_sighup(runner: str, upstream: Upstream, tmp_path: Path) -> None:
    """It takes its time in a thread of its own: meanwhile the gateway answers."""
    fifo, token = tmp_path / "go on", tmp_path / "token"
    put(token, "token-of-monday\n")
    helper = tmp_path / "helper"
    helper.write_text(f"#!/bin/sh\n[ -p '{fifo}' ] && read -r line < '{fifo}'\ncat '{token}'\n")
    helper.chmod(0o755)
    more = "allow_commands = true\ncommand_timeout_s = 30"
    with gateway(runner, upstream, tmp_path, "${cmd:./helper}", more) as gate:
        url = gate.url()
        assert say(url) == "Bearer token-of-monday"
        put(token, "token-of-tuesday\n")
        os.mkfifo(fifo)
        gate.popen.send_signal(signal.SIGHUP)
        assert say(url) == "Bearer token-of-monday"
        with open(fifo, "w") as file:
            file.write("go\n")
        gate.until("reloaded")
        assert say(url) == "Bearer token-of-tuesday"


def test_a_command_that_is_still_asked_ends_with_the_gateway(upstream: Upstream, tmp_path: Path) -> None:
    helper, pids = tmp_path / "helper", tmp_path / "pids"
    helper.write_text(f"#!/bin/sh\n[ -e '{pids}' ] && sleep 600\necho $$ >> '{pids}'\necho token-of-monday\n")
    helper.chmod(0o755)
    more = "allow_commands = true\ncommand_timeout_s = 100"
    with gateway("asyncio", upstream, tmp_path, "${cmd:./helper}", more) as gate:
        url = gate.url()
        gate.popen.send_signal(signal.SIGHUP)
        before = {gate.popen.pid}
        while not (asked := {pid for pid in family(gate) - before if b"helper" in command_of(pid)}):
            assert say(url) == "Bearer token-of-monday"
        gone_with = asked | {pid for pid in family(gate) if b"sleep" in command_of(pid)}
    gone(*gone_with)


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
