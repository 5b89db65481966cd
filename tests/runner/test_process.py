"""The command as a process on every runner: signals, reload, a kill, and descriptors that run out.

Must never: leave a process behind, or ask which runner it is.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.cli.program import Running, running
from tests.cli.test_cli import call_tool
from tests.runner.fake import PATIENCE_S, gone, processes

PYTHON = sys.executable
SERVER = """
import json, os, signal, subprocess, sys, time
META = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
stubborn = "stubborn" in sys.argv
if stubborn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    subprocess.Popen(["sleep", "600"])
for line in sys.stdin:
    message = json.loads(line)
    method, id = message.get("method"), message.get("id")
    if id is None:
        continue
    if method == "server/discover":
        result = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}},
                  "serverInfo": {"name": "slow", "version": "1"}, **META}
    elif method == "tools/list":
        result = {"tools": [{"name": "slow", "inputSchema": {"type": "object"}}], **META}
    elif method == "tools/call":
        print("a call has come", file=sys.stderr, flush=True)
        time.sleep(message["params"]["arguments"].get("seconds", 0))
        result = {"content": [{"type": "text", "text": "done"}], **META}
    else:
        error = {"code": -32601, "message": "no"}
        print(json.dumps({"jsonrpc": "2.0", "id": id, "error": error}), flush=True)
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": id, "result": result}), flush=True)
while stubborn:
    signal.pause()
"""


@pytest.fixture
def server(tmp_path: Path) -> str:
    path = tmp_path / "slow.py"
    path.write_text(SERVER)
    return str(path)


def serving(runner: str, *server: str) -> Any:
    return running("run", "--port", "0", "--runner", runner, "--", PYTHON, "-I", "-S", *server)


def text_of(answer: dict[str, Any]) -> Any:
    return answer.get("result", {}).get("content", [{}])[0].get("text")


def family(gate: Running) -> set[int]:
    """Everything that descends from the gateway now."""
    table = processes()
    found = {gate.popen.pid}
    while more := {pid for pid, (parent, _) in table.items() if parent in found} - found:
        found |= more
    return found - {gate.popen.pid}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)], ids=["TERM", "INT"])
def test_calls_in_flight_finish(runner: str, server: str, number: int, code: int) -> None:
    with serving(runner, server) as gate:
        url = gate.url()
        assert text_of(call_tool(url, "slow", {})) == "done"
        gate.until("a call has come")
        pids = family(gate)
        assert pids
        answers: list[Any] = []
        calling = threading.Thread(target=lambda: answers.append(call_tool(url, "slow", {"seconds": 0.7})))
        calling.start()
        gate.until("a call has come")
        gate.popen.send_signal(number)
        gate.until("stopping")
        with pytest.raises(OSError):
            call_tool(url, "slow", {})
        calling.join(PATIENCE_S)
        assert [text_of(answer) for answer in answers] == ["done"]
        assert gate.popen.wait(PATIENCE_S) == code
        gone(*pids)


def test_a_second_signal_ends_at_once(runner: str, server: str) -> None:
    with serving(runner, server, "stubborn") as gate:
        url = gate.url()
        assert text_of(call_tool(url, "slow", {})) == "done"
        pids = family(gate)
        assert len(pids) >= 3
        gate.popen.send_signal(signal.SIGINT)
        gate.until("stopping")
        began = time.monotonic()
        assert gate.stop(signal.SIGINT) == 130
        assert time.monotonic() - began < 3
        gone(*pids)


def test_a_killed_gateway_takes_all_with_it(runner: str, server: str) -> None:
    with serving(runner, server, "stubborn") as gate:
        url = gate.url()
        assert text_of(call_tool(url, "slow", {})) == "done"
        pids = family(gate)
        # The server, its two children (one in a session of its own), and the guard.
        assert len(pids) == 4
        assert gate.stop(signal.SIGKILL) == -signal.SIGKILL
        gone(*pids)


def test_reload_on_sighup(runner: str, server: str, tmp_path: Path) -> None:
    config = tmp_path / "mcpgate.toml"

    def write(*names: str) -> None:
        servers = "".join(
            f"[[server]]\nname = '{name}'\ncommand = '{PYTHON}'\nargs = ['-I', '-S', '{server}']\n"
            for name in names
        )
        head = f"[gateway]\nrunner = '{runner}'\nprefix = 'always'\n[[listen]]\nport = 0\n"
        config.write_text(head + servers)

    write("one", "two")
    with running("serve", "-c", str(config)) as gate:
        url = gate.url()
        assert text_of(call_tool(url, "one__slow", {})) == "done"
        config.write_text("nonsense")
        gate.popen.send_signal(signal.SIGHUP)
        gate.until("config_not_reloaded")
        assert text_of(call_tool(url, "one__slow", {})) == "done"
        write("one", "three")
        gate.popen.send_signal(signal.SIGHUP)
        gate.until("reloaded")
        assert text_of(call_tool(url, "three__slow", {})) == "done"
        assert text_of(call_tool(url, "one__slow", {})) == "done"
        # What did not change was not started again.
        started = [line for line in gate.seen if "child_started" in line and "=one " in line]
        pids = {int(pid) for pid in re.findall(r"pid=(\d+)", "".join(started))}
        assert pids & family(gate)
        assert gate.stop() == 0


def test_few_descriptors_many_clients(runner: str, server: str) -> None:
    command = ["-m", "mcpgate", "run", "--port", "0", "--runner", runner, "--", PYTHON, "-I", "-S", server]
    limited = "import os,resource,sys; resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48)); "
    limited += "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    with running("-c", limited, *command, module=False) as gate:
        url = gate.url()
        assert text_of(call_tool(url, "slow", {})) == "done"
        port = urlsplit(url).port or 0
        clients = [socket.create_connection(("127.0.0.1", port), PATIENCE_S) for _ in range(60)]
        gate.until("accept_failed")
        for client in clients:
            client.close()
        assert text_of(call_tool(url, "slow", {})) == "done"
        assert gate.stop() == 0


def test_http_on_a_unix_socket(runner: str, server: str, tmp_path: Path) -> None:
    config = tmp_path / "mcpgate.toml"
    config.write_text(
        f"[gateway]\nrunner = '{runner}'\n[[listen]]\nsocket_path = 'gate.sock'\n"
        f"[[server]]\nname = 'one'\ncommand = '{PYTHON}'\nargs = ['-I', '-S', '{server}']\n"
    )
    with running("serve", "-c", str(config)) as gate:
        assert gate.url() == f"http+unix:{tmp_path}/gate.sock:/mcp"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE_S)
            sock.connect(str(tmp_path / "gate.sock"))
            sock.sendall(b"GET /mcp HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert sock.recv(65536).startswith(b"HTTP/1.1 4")
        assert gate.stop() == 0
    assert not (tmp_path / "gate.sock").exists() and not (tmp_path / "gate.sock.lock").exists()


def test_lines_on_a_unix_socket(runner: str, server: str, tmp_path: Path) -> None:
    config = tmp_path / "mcpgate.toml"
    config.write_text(
        f"[gateway]\nrunner = '{runner}'\n[[listen]]\nkind = 'unix'\nsocket_path = 'gate.sock'\n"
        f"[[server]]\nname = 'one'\ncommand = '{PYTHON}'\nargs = ['-I', '-S', '{server}']\n"
    )
    params = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    }
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
    with running("serve", "-c", str(config)) as gate:
        assert gate.url() == f"unix:{tmp_path}/gate.sock"
        for _ in range(2):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(PATIENCE_S)
                sock.connect(str(tmp_path / "gate.sock"))
                sock.sendall(json.dumps(hello).encode() + b"\n")
                with sock.makefile("rb") as lines:
                    assert json.loads(lines.readline())["result"]["protocolVersion"] == "2025-11-25"
        assert gate.stop() == 0
    assert os.path.exists(config)
