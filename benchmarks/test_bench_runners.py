"""What each runner costs: a gateway as a process, HTTP in front, one stdio child behind it.

`pytest benchmarks/test_bench_runners.py --benchmark-only` for one runner after the other;
`python benchmarks/test_bench_runners.py` measures them side by side, in turns, and prints the table of
docs/runners.md. Machines differ; compare the rows of one run.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[1]
SERVER = ROOT / "runners" / "mcpgate" / "demo_modern.py"
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": "2026-07-28",
    "Mcp-Method": "tools/call",
    "Mcp-Name": "reverse",
}
PARAMS = {"name": "reverse", "arguments": {"text": "abc"}, "_meta": META}
BODY = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": PARAMS})
HAS_UVLOOP = importlib.util.find_spec("uvloop") is not None
# Name of the row -> runner, and what is run before the command.
ROWS = {
    "asyncio": ("asyncio", "sys.modules['uvloop'] = None"),
    "asyncio with uvloop": ("asyncio", ""),
    "trio": ("trio", ""),
    "curio": ("curio", ""),
    "blocking": ("blocking", ""),
}
ROUNDS, CALLS = 15, 200


class Gate:
    """A running gateway and one kept connection to it."""

    def __init__(self, popen: subprocess.Popen[str], url: str) -> None:
        self.popen = popen
        parts = urlsplit(url)
        self.path = parts.path
        self.connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)

    def call(self) -> None:
        self.connection.request("POST", self.path, BODY, HEADERS)
        answer = json.loads(self.connection.getresponse().read())
        assert answer["result"]["content"][0]["text"] == "cba"

    def rss_mb(self) -> float:
        """Resident memory of the gateway alone, without its server."""
        text = Path(f"/proc/{self.popen.pid}/status").read_text()
        (line,) = (line for line in text.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) / 1024

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.popen.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def gate(row: str) -> Iterator[Gate]:
    runner, before = ROWS[row]
    code = f"import sys; {before or 0}; from mcpgate.cli import main; main()"
    command = ["run", "--port", "0", "--runner", runner, "--", sys.executable, "-I", "-S", str(SERVER)]
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'runners'}"}
    with subprocess.Popen(
        [sys.executable, "-c", code, *command], stderr=subprocess.PIPE, text=True, env=env
    ) as popen:
        try:
            assert popen.stderr
            url = next(line for line in popen.stderr if "listening on" in line).split()[-1]
            found = Gate(popen, url)
            for _ in range(50):
                found.call()
            yield found
        finally:
            popen.terminate()


@pytest.mark.parametrize("row", ROWS)
def test_a_call_through_each_runner(benchmark: Any, row: str) -> None:
    if "uvloop" in row and not HAS_UVLOOP:
        pytest.skip("uvloop is not installed")
    with gate(row) as one:
        benchmark.extra_info["idle_rss_mb"] = round(one.rss_mb(), 1)
        benchmark(one.call)


def _round(call: Callable[[], None]) -> float:
    began = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - began) / CALLS * 1e6


def main() -> None:
    """All rows in turns, so that what disturbs the machine disturbs all alike."""
    rows = [row for row in ROWS if HAS_UVLOOP or "uvloop" not in row]
    with contextlib.ExitStack() as stack:
        gates = {row: stack.enter_context(gate(row)) for row in rows}
        rss = {row: one.rss_mb() for row, one in gates.items()}
        cpu = {row: one.cpu_s() for row, one in gates.items()}
        times: dict[str, list[float]] = {row: [] for row in rows}
        for _ in range(ROUNDS):
            for row, one in gates.items():
                times[row].append(_round(one.call))
        print("| runner | idle memory, MB | time per call, µs | of that, gateway's CPU, µs |")
        print("| --- | ---: | ---: | ---: |")
        for row, one in gates.items():
            used = (one.cpu_s() - cpu[row]) / (ROUNDS * CALLS) * 1e6
            print(f"| {row} | {rss[row]:.1f} | {statistics.median(times[row]):.0f} | {used:.0f} |")


if __name__ == "__main__":
    main()
