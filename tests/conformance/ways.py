"""The gateways that the suite is run against: which fixture, how it is reached, and what stands beside it.

Owns: the ways of `make conformance` and of `make conformance-all`, the command lines and configs of their
gateways, the processes of each for as long as it is needed.
Must never: judge.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ALL", "HERE", "QUICK", "ROOT", "TASKS", "Way", "environment", "gateway"]

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
PLAIN = ROOT / "tests" / "e2e" / "peers" / "plain.py"
START_S = 30
ERAS = ("legacy", "modern", "dual")


@dataclass(frozen=True)
class Way:
    """`over`: "stdio" (by `mcpgate run`), "http", or "two", where a server of another era stands beside it.
    `era` "tasks": the fixture of the tasks extension, with what `drive_tasks` says."""

    over: str
    era: str
    drive_tasks: bool = True

    @property
    def name(self) -> str:
        return f"{self.era}-{self.over}{'' if self.drive_tasks else '-undriven'}"


QUICK = (Way("stdio", "dual"), Way("two", "dual"))
ALL = tuple(Way(over, era) for era in ERAS for over in ("stdio", "http", "two"))
TASKS = (Way("stdio", "tasks"), Way("stdio", "tasks", drive_tasks=False))


def environment(**more: str) -> dict[str, str]:
    sources = os.pathsep.join([str(ROOT), str(ROOT / "runners")])
    return {**os.environ, "PYTHONPATH": sources, **more}


def fixture(way: Way, suite: Path) -> list[str]:
    if way.era == "tasks":
        return [sys.executable, str(HERE / "tasks_fixture.py")]
    return [sys.executable, str(suite / "everything_stdio.py"), "--era", way.era]


def server(name: str, argv: list[str]) -> str:
    return f'[[server]]\nname = "{name}"\ncommand = {json.dumps(argv[0])}\nargs = {json.dumps(argv[1:])}\n'


def config(way: Way, suite: Path, url: str) -> str:
    """For `mcpgate serve`. With two servers, the fixture's names are mapped back."""
    gate = '[[listen]]\nkind = "http"\nport = 0\n'
    if way.over == "http":
        return f'{gate}[[server]]\nname = "fixture"\ntransport = "http"\nurl = "{url}"\n'
    if way.over == "stdio":
        drive = json.dumps(way.drive_tasks)
        return f"[gateway]\ndrive_tasks = {drive}\n{gate}{server('fixture', fixture(way, suite))}"
    other = "modern" if way.era == "legacy" else "legacy"
    beside = server("beside", [sys.executable, str(PLAIN), "--name", "beside", "--era", other])
    return f'{gate}{server("fixture", fixture(way, suite))}rename = {{ "*" = "*" }}\n{beside}'


@contextmanager
def said(argv: list[str], pattern: str, log: Path) -> Iterator[re.Match[str]]:
    """A process, once it has said `pattern`; all that it says goes to `log`. At the end it is told to
    stop."""
    with open(log, "w") as sink:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(PYTHONHASHSEED="1"),
        )
        assert process.stdout is not None
        pump = None
        try:
            for line in process.stdout:
                sink.write(line)
                sink.flush()
                if found := re.search(pattern, line):
                    break
            else:
                raise RuntimeError(f"it did not start: {' '.join(argv)}: {log.read_text()}")
            pump = subprocess.Popen(["cat"], stdin=process.stdout, stdout=sink)
            yield found
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(START_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if pump is not None:
                pump.wait()
            process.stdout.close()


@contextmanager
def gateway(way: Way, suite: Path, folder: Path) -> Iterator[str]:
    """A gateway while it runs; gives its address. It is recorded in `folder`."""
    record = ["--record", str(folder / f"{way.name}.rec")]
    base = [sys.executable, "-m", "mcpgate"]
    with ExitStack() as stack:
        if way.over == "stdio" and way.drive_tasks:
            argv = [*base, "run", "--port", "0", *record, "--", *fixture(way, suite)]
        else:
            url = ""
            if way.over == "http":
                front = [sys.executable, str(HERE / "http_fixture.py"), *fixture(way, suite)[1:]]
                log = folder / f"{way.name}.fixture.log"
                port = stack.enter_context(said(front, r'"ready": (\d+)', log))[1]
                url = f"http://127.0.0.1:{port}/mcp"
            path = folder / f"{way.name}.toml"
            path.write_text(config(way, suite, url))
            argv = [*base, "serve", "-c", str(path), *record]
        found = stack.enter_context(said(argv, r"listening on (http://\S+)", folder / f"{way.name}.log"))
        yield found[1]
