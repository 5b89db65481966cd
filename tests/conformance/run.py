"""The official MCP conformance suite through the gateway; run by `make conformance`.

Each revision's frozen set of server scenarios runs against a gateway in front of the suite's fixture: once by
`mcpgate run`, once by `mcpgate serve` with a second server beside it and the fixture's names mapped back.
Every run is recorded, and its replay in another process must have equal effects.

The suite's scripts are found in the folder that MCPGATE_CONFORMANCE names, else beside the clone, in
`shared/conformance`. Without them, or without node, there is nothing to run, and the exit code is 0.

Owns: finding and preparing the suite, the gateways it runs against, and the verdict.
Must never: leave a scenario out.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Scored server scenarios of each frozen set.
WANTED = {"2025-11-25": 30, "2026-07-28": 37}
WAYS = ("run", "serve")
START_S = 30
SUITE_S = 600


class Missing(Exception):
    """What the suite needs is not here."""


@dataclass
class Verdict:
    """What came out for one way of running the gateway."""

    way: str
    # revision -> (passed, names of those that did not)
    passed: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    replay: str = ""
    replayed: bool = False

    @property
    def good(self) -> bool:
        return self.replayed and all(self.passed.get(one, (0, []))[0] == all_ for one, all_ in WANTED.items())

    def lines(self) -> list[str]:
        found = [
            f"{self.way}: {revision}: {passed}/{WANTED[revision]} {' '.join(failed)}".rstrip()
            for revision, (passed, failed) in self.passed.items()
        ]
        return [*found, f"{self.way}: replay: {self.replay}"]


def find_suite() -> Path:
    """The folder of the suite's scripts, ready for use. Raises `Missing`."""
    folder = Path(os.environ.get("MCPGATE_CONFORMANCE") or ROOT.parent / "shared" / "conformance")
    if not (folder / "run_server.py").is_file():
        raise Missing(
            f"there are no conformance scripts in {folder}; set MCPGATE_CONFORMANCE to their folder"
        )
    if shutil.which(os.environ.get("NODE", "node")) is None:
        raise Missing("node is not on the PATH")
    return folder


def suite_installed() -> bool:
    cache = Path(os.environ.get("CONF", Path.home() / ".cache" / "mcp-conformance"))
    package = cache / "npm/node_modules/@modelcontextprotocol/conformance/dist/index.js"
    return Path(os.environ.get("CONFORMANCE_JS", package)).is_file()


def install(folder: Path) -> None:
    """What the suite's own setup does: packages from npm and PyPI."""
    print("installing the suite ...", flush=True)
    subprocess.run(["sh", str(folder / "setup.sh")], check=True, timeout=SUITE_S)


def environment(**more: str) -> dict[str, str]:
    sources = os.pathsep.join([str(ROOT), str(ROOT / "runners")])
    return {**os.environ, "PYTHONPATH": sources, **more}


def gateway_argv(way: str, suite: Path, folder: Path) -> list[str]:
    """The command line of a gateway in front of the suite's fixture."""
    record = ["--record", str(folder / f"{way}.rec")]
    fixture = [sys.executable, str(suite / "everything_stdio.py"), "--era", "dual"]
    base = [sys.executable, "-m", "mcpgate", way]
    if way == "run":
        return [*base, "--port", "0", *record, "--", *fixture]
    beside = [sys.executable, str(ROOT / "tests" / "e2e" / "peers" / "plain.py"), "--name", "beside"]
    config = folder / "mcpgate.toml"
    config.write_text(
        f"""\
[[listen]]
kind = "http"
port = 0

[[server]]
name = "fixture"
command = {json.dumps(fixture[0])}
args = {json.dumps(fixture[1:])}
rename = {{ "*" = "*" }}

[[server]]
name = "beside"
command = {json.dumps(beside[0])}
args = {json.dumps(beside[1:])}
"""
    )
    return [*base, "-c", str(config), *record]


@contextmanager
def gateway(argv: list[str], log: Path) -> Iterator[str]:
    """A gateway while it runs; gives its address. At the end it is told to stop, and must."""
    with open(log, "w") as sink:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(PYTHONHASHSEED="1"),
        )
        assert process.stderr is not None
        pump = None
        try:
            for line in process.stderr:
                sink.write(line)
                sink.flush()
                if found := re.search(r"listening on (http://\S+)", line):
                    break
            else:
                raise RuntimeError(f"the gateway did not start: {log.read_text()}")
            # Its log goes to the file from here on.
            pump = subprocess.Popen(["cat"], stdin=process.stderr, stdout=sink)
            yield found[1]
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(START_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if pump is not None:
                pump.wait()
            process.stderr.close()


def run_suite(suite: Path, url: str, revision: str, out: Path) -> tuple[int, list[str]]:
    """How many scored scenarios passed, and the names of the others."""
    argv = [sys.executable, str(suite / "run_server.py"), "--url", url, "--spec", revision]
    done = subprocess.run(
        [*argv, "--batch", "90", "--no-ext", "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=SUITE_S,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines or "summary" not in lines[-1]:
        raise RuntimeError(f"the suite did not finish: {done.stdout[-500:]} {done.stderr[-500:]}")
    summary = lines[-1]["summary"]
    failed = list(summary["failed"])
    if summary["scored_total"] != WANTED[revision]:
        failed.append(f"(scored {summary['scored_total']} of {WANTED[revision]})")
    return int(summary["scored_pass"]), failed


def replay(record: Path) -> tuple[bool, str]:
    """Replay a recording in a process of its own, with another hash seed and with tripwires."""
    done = subprocess.run(
        [sys.executable, "-m", "mcpgate", "replay", "--guard", str(record)],
        capture_output=True,
        text=True,
        timeout=SUITE_S,
        env=environment(PYTHONHASHSEED="4242"),
    )
    said = (done.stdout or done.stderr).strip().splitlines()
    return done.returncode == 0, said[-1].replace(f"{record}: ", "") if said else f"exit {done.returncode}"


def check(way: str, suite: Path, folder: Path) -> Verdict:
    """Everything about one way of running the gateway."""
    verdict = Verdict(way)
    with gateway(gateway_argv(way, suite, folder), folder / f"{way}.log") as url:
        for revision in WANTED:
            verdict.passed[revision] = run_suite(suite, url, revision, folder / f"{way}-{revision}")
    verdict.replayed, verdict.replay = replay(folder / f"{way}.rec")
    return verdict


def main(ways: list[str]) -> int:
    try:
        suite = find_suite()
    except Missing as error:
        print(f"conformance skipped: {error}")
        return 0
    if not suite_installed():
        install(suite)
    good = True
    # A recording holds all that was said: it does not outlive the run.
    with tempfile.TemporaryDirectory(prefix="mcpgate-conformance-") as folder:
        for way in ways or WAYS:
            verdict = check(way, suite, Path(folder))
            print("\n".join(verdict.lines()), flush=True)
            good = good and verdict.good
            if not verdict.good:
                print((Path(folder) / f"{way}.log").read_text()[-4000:], file=sys.stderr)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
