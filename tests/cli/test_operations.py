"""Monitoring, audit, rates and networks of the real program, over real sockets, whatever carries them.

Must never: look inside; what a scraper, a client and an auditor see is all there is.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import LEGACY_SERVER, PATIENCE_S, Running, running
from tests.security.prometheus import parse

META = "io.modelcontextprotocol/"
RUNNERS = pytest.mark.parametrize("runner", ["asyncio", "trio", "curio", "blocking"])
CONFIG = """
[gateway]
runner = "{runner}"
audit = "audit.jsonl"

[rate]
principal = {{ per_s = 0.5, burst = 8 }}

[[server]]
name = "demo"
command = "{python}"
args = ["{server}"]

[[listen]]
port = 0
monitor = ["health", "ready", "metrics"]
deny_cidrs = ["127.0.0.2"]

[[listen]]
name = "scrape"
socket_path = "scrape.sock"
monitor = ["metrics"]
"""


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@contextlib.contextmanager
def gateway(folder: Path, runner: str) -> Iterator[tuple[Running, str, int]]:
    config = folder / "mcpgate.toml"
    config.write_text(CONFIG.format(runner=runner, python=sys.executable, server=LEGACY_SERVER))
    config.chmod(0o600)
    folder.chmod(0o700)
    with running("serve", "-c", str(config), cwd=folder) as program:
        host, _, port = program.url().removeprefix("http://").partition("/")[0].partition(":")
        program.until("scrape.sock")
        yield program, host, int(port)


def get(host: str, port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE_S)
    connection.request("GET", path)
    response = connection.getresponse()
    return response.status, response.read()


def call(connection: http.client.HTTPConnection, tool: str, id: int) -> tuple[int, dict[str, str], Any]:
    params: dict[str, Any] = {"name": tool, "arguments": {"numbers": [5771, 4]}}
    params["_meta"] = {META + "protocolVersion": "2026-07-28", META + "clientCapabilities": {}}
    message = {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call",
        "Mcp-Name": tool,
    }
    connection.request("POST", "/mcp", json.dumps(message), headers)
    response = connection.getresponse()
    return response.status, dict(response.getheaders()), json.loads(response.read())


def until(true: Any) -> Any:
    """Look again until it is so; the bound is for machines under load."""
    end = time.monotonic() + PATIENCE_S
    while not (found := true()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


@RUNNERS
def test_what_operators_and_auditors_see(tmp_path: Path, runner: str) -> None:
    with gateway(tmp_path, runner) as (program, host, port):
        assert get(host, port, "/healthz") == (200, b"ok\n")
        assert get(host, port, "/nothing")[0] == 404

        # Networks that may not call are closed at once: maybe before the connect has returned.
        with (
            contextlib.suppress(ConnectionResetError),
            socket.create_connection((host, port), PATIENCE_S, source_address=("127.0.0.2", 0)) as denied,
        ):
            denied.settimeout(PATIENCE_S)
            assert denied.recv(100) == b""

        # Calls until the limit, which says when to come back.
        connection = http.client.HTTPConnection(host, port, timeout=PATIENCE_S)
        answers = [call(connection, "add", id) for id in range(12)]
        assert [status for status, _, _ in answers[:7]] == [200] * 7
        status, headers, body = answers[-1]
        # The id is known if head and body came together.
        assert status == 429 and body.get("id", 11) == 11
        wait_s = int(headers["Retry-After"])
        assert 1 <= wait_s <= 2 and body["error"]["data"]["reason"] == "rate_limited"
        time.sleep(wait_s)
        assert call(connection, "add", 99)[0] == 200

        # The scrape comes over a Unix socket of the own user, whom no rate is for.
        scrape = UnixConnection(tmp_path / "scrape.sock")
        scrape.request("GET", "/metrics")
        found = parse(scrape.getresponse().read())
        passed = sum(one[0] == 200 for one in answers) + 1
        assert found["mcpgate_calls_total"].value(server="demo", outcome="ok") == passed
        assert found["mcpgate_refused_rate_principal_total"].value() == 13 - passed
        assert found["mcpgate_refused_address_total"].value() == 1
        assert found["mcpgate_server_up"].value(server="demo") == 1
        scrape.request("GET", "/readyz")
        assert scrape.getresponse().status == 404, "this listener was told to have metrics only"

        audit = tmp_path / "audit.jsonl"
        lines = [json.loads(line) for line in audit.read_text().splitlines()]
        rounds = [one for one in lines if one["event"] == "round"]
        assert len(rounds) == passed
        first = rounds[0]
        assert (first["principal"], first["address"]) == ("anonymous", "127.0.0.1")
        assert (first["name"], first["server"], first["outcome"]) == ("add", "demo", "ok")
        assert first["time"].endswith("Z") and first["duration_ms"] >= 0
        assert "5771" not in audit.read_text()
        assert stat.S_IMODE(os.stat(audit).st_mode) == 0o600
        program.until("rate_limited")
        assert not any("event" in line and "round" in line for line in program.seen), "not in the log"


def test_the_audit_stream_is_appended_to(tmp_path: Path) -> None:
    audit = tmp_path / "audit.jsonl"
    for lines in (1, 2):
        with gateway(tmp_path, "asyncio") as (program, host, port):
            call(http.client.HTTPConnection(host, port, timeout=PATIENCE_S), "add", 1)
            until(lambda n=lines: audit.read_text().count('"round"') == n)
            program.stop()


def test_an_audit_file_that_cannot_be_written_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl").mkdir()
    config = tmp_path / "mcpgate.toml"
    config.write_text(CONFIG.format(runner="asyncio", python=sys.executable, server=LEGACY_SERVER))
    config.chmod(0o600)
    with running("serve", "-c", str(config), cwd=tmp_path) as program:
        told = program.until("cannot write the audit file")
        assert "correct [gateway] audit" in told
        assert program.popen.wait(PATIENCE_S) == 2
