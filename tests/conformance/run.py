"""The official MCP conformance suite through the gateway: `make conformance`, `make conformance-all`.

The quick set runs each revision's frozen server scenarios against the fixture of both eras, alone and with a
second server beside it. With `--all`: the fixture of each era over stdio, over HTTP and beside a server of
another era; the client scenarios with the gateway as the client, its own client in the same era and in the
other one; and, reported but not judged, the scenarios of the tasks extension. Every run is recorded: its
replay in another process must have equal effects, and what the gateway sent must be of the hop's revision.

The suite's scripts are found in the folder that MCPGATE_CONFORMANCE names, else beside the clone, in
`shared/conformance`. Without them, or without node, there is nothing to run, and the exit code is 0.

Owns: finding and preparing the suite, running it, and the verdict.
Must never: leave a scenario out, or run one again because it failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # As pytest has it.
    root = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(root / "tests"), str(root), str(root / "runners")]

from conformance.ways import ALL, HERE, QUICK, ROOT, TASKS, Way, environment, gateway
from tests.wiretap.tap import of_recording

# Scored scenarios of each frozen set; the client's without those of authorization.
WANTED = {"2025-11-25": 30, "2026-07-28": 37}
WANTED_OF_CLIENT = {"2025-11-25": 4, "2026-07-28": 7}
FRONTS = {"2025-11-25": ("same", "auto"), "2026-07-28": ("same", "legacy")}
# It measures times: nothing runs beside it.
ALONE = "sse-retry"
JOBS = 2
SUITE_S = 600
Row = dict[str, Any]


class Missing(Exception):
    """What the suite needs is not here."""


@dataclass
class Verdict:
    """What came out for one way of running the gateway."""

    name: str
    good: bool = True
    lines: list[str] = field(default_factory=list)

    def say(self, text: str, good: bool = True) -> None:
        self.lines.append(f"{'' if good else 'FAILED '}{self.name}: {text}".rstrip())
        self.good = self.good and good


# -- the suite


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


def cache() -> Path:
    return Path(os.environ.get("CONF", Path.home() / ".cache" / "mcp-conformance"))


def suite_installed() -> bool:
    package = cache() / "npm/node_modules/@modelcontextprotocol/conformance/dist/index.js"
    return Path(os.environ.get("CONFORMANCE_JS", package)).is_file()


def install(folder: Path) -> None:
    """What the suite's own setup does: packages from npm and PyPI."""
    print("installing the suite ...", flush=True)
    subprocess.run(["sh", str(folder / "setup.sh")], check=True, timeout=SUITE_S)


def listed(name: str) -> Iterator[list[str]]:
    """The fields of each line of a list beside this file."""
    for line in (HERE / name).read_text("utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            yield [part.strip() for part in line.split(" | ")]


def expected_failures() -> set[str]:
    return {fields[0] for fields in listed("expected-failures.txt")}


def cannot_pass(era: str, revision: str) -> dict[str, str]:
    """Scenario -> its complaint, for what the fixture itself makes impossible."""
    if (era, revision) != ("legacy", "2026-07-28"):
        return {}
    return {fields[0]: fields[1] for fields in listed("cannot-pass.txt")}


def rows_of(argv: list[str], **env: str) -> tuple[list[Row], Row]:
    """What the suite said of each scenario, and its summary."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=SUITE_S, env=environment(**env))
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines or "summary" not in lines[-1]:
        raise RuntimeError(f"the suite did not finish: {done.stdout[-500:]} {done.stderr[-500:]}")
    return lines[:-1], lines[-1]["summary"]


# -- verdicts


def judge(verdict: Verdict, what: str, rows: list[Row], wanted: int, known: dict[str, str]) -> None:
    """`known`: scenarios that cannot pass, each of which has to fail with its very complaint."""
    scored = [row for row in rows if row["scored"]]
    passed = [row["scenario"] for row in scored if row["status"] == "pass"]
    failed = {row["scenario"]: row for row in scored if row["status"] != "pass"}
    told = []
    good = len(scored) == wanted
    if not good:
        told.append(f"(scored {len(scored)} of {wanted})")
    for name, complaint in known.items():
        found = failed.pop(name, None)
        complaints = [str(one["error"]) for one in found["failures"]] if found is not None else []
        if len(complaints) != 1 or not complaints[0].startswith(complaint):
            told.append(f"{name} was to fail with {complaint!r}: {complaints or 'it passes'}")
            good = False
    for name in sorted(expected_failures() & failed.keys()):
        del failed[name]
    told += [f"{name}: {json.dumps(row['failures'])[:300]}" for name, row in failed.items()]
    cannot = f", {len(known)} cannot pass" if known else ""
    verdict.say(f"{what}: {len(passed)}/{wanted}{cannot} {'; '.join(told)}", good and not failed)
    report(verdict, what, [row for row in rows if not row["scored"]])


def report(verdict: Verdict, what: str, rows: list[Row]) -> None:
    """Unscored scenarios: told, not judged."""
    if rows:
        told = [f"{row['scenario']} {row['status']}" for row in rows]
        verdict.say(f"{what}: not scored: {', '.join(told)}")
        for row in rows:
            if row["status"] == "fail":
                why = "; ".join(str(one["error"]) for one in row["failures"])
                verdict.say(f"  {row['scenario']}: {why[:400]}")


def examine(verdict: Verdict, record: Path) -> None:
    """Replay a recording in a process of its own, with another hash seed and with tripwires; and judge each
    message of it (L0.5)."""
    done = subprocess.run(
        [sys.executable, "-m", "mcpgate", "replay", "--guard", str(record)],
        capture_output=True,
        text=True,
        timeout=SUITE_S,
        env=environment(PYTHONHASHSEED="4242"),
    )
    said = (done.stdout or done.stderr).strip().splitlines()
    told = said[-1].replace(f"{record}: ", "") if said else f"exit {done.returncode}"
    verdict.say(f"replay: {told}", done.returncode == 0)
    found = of_recording(str(record))
    bad = "; ".join(found.problems[:3])
    verdict.say(f"{sum(found.held.values())} messages of the gateway judged {bad}", not found.problems)


def check(way: Way, suite: Path, folder: Path) -> Verdict:
    """The server scenarios, one way."""
    verdict = Verdict(way.name)
    runner = [sys.executable, str(suite / "run_server.py"), "--batch", "90", "--no-ext"]
    with gateway(way, suite, folder) as url:
        for revision, wanted in WANTED.items():
            out = str(folder / f"{way.name}-{revision}")
            rows, _ = rows_of([*runner, "--url", url, "--spec", revision, "--out", out])
            judge(verdict, revision, rows, wanted, cannot_pass(way.era, revision))
    examine(verdict, folder / f"{way.name}.rec")
    return verdict


def check_tasks(way: Way, suite: Path, folder: Path) -> Verdict:
    """The scenarios of the tasks extension, which are not scored."""
    verdict = Verdict(way.name)
    runner = [sys.executable, str(suite / "run_server.py"), "--only", "^tasks-", "--timeout", "15"]
    with gateway(way, suite, folder) as url:
        argv = [*runner, "--url", url, "--spec", "2026-07-28", "--out", str(folder / way.name)]
        report(verdict, "2026-07-28", rows_of(argv)[0])
    examine(verdict, folder / f"{way.name}.rec")
    return verdict


def client_rows(suite: Path, folder: Path, revision: str, front: str, only: str) -> list[Row]:
    argv = [sys.executable, str(suite / "run_client.py"), "--spec", revision, "--only", only]
    python = cache() / "venvs" / "mcp" / "bin" / "python"
    own = Path(tempfile.mkdtemp(prefix=f"client-{revision}-{front}-", dir=folder))
    command = f"{sys.executable} {HERE / 'client_gateway.py'} {{port}} {{upstream}} {own}"
    rows, _ = rows_of([*argv, "--py", str(python), "--out", str(own)], GATEWAY_CMD=command, FRONT_MODE=front)
    return rows


def check_client(suite: Path, folder: Path, revision: str, front: str, alone: list[Row]) -> Verdict:
    """The client scenarios with the gateway as client, its own client in mode `front`."""
    verdict = Verdict(f"client-{'same' if front == 'same' else 'crossed'}")
    rows = client_rows(suite, folder, revision, front, f"^(?!{ALONE})")
    judge(verdict, revision, [*rows, *alone], WANTED_OF_CLIENT[revision], {})
    for record in sorted(folder.glob(f"client-{revision}-{front}-*/*.rec")):
        found = of_recording(str(record))
        if found.problems:
            verdict.say("; ".join(found.problems[:3]), False)
    return verdict


# -- the command


def work(suite: Path, folder: Path, everything: bool) -> Iterator[Verdict]:
    """All verdicts, as they come."""
    jobs: list[Callable[[], Verdict]] = []
    for way in ALL if everything else QUICK:
        jobs.append(lambda way=way: check(way, suite, folder))  # type: ignore[misc]
    if everything:
        for way in TASKS:
            jobs.append(lambda way=way: check_tasks(way, suite, folder))  # type: ignore[misc]
        for revision, fronts in FRONTS.items():
            for front in fronts:
                alone = client_rows(suite, folder, revision, front, f"^{ALONE}$")
                jobs.append(
                    lambda revision=revision, front=front, alone=alone: check_client(  # type: ignore[misc]
                        suite, folder, revision, front, alone
                    )
                )
    with ThreadPoolExecutor(JOBS) as pool:
        for done in as_completed([pool.submit(job) for job in jobs]):
            yield done.result()


def main() -> int:
    parser = argparse.ArgumentParser(prog="run.py", description="the official suite through the gateway")
    parser.add_argument("--all", action="store_true", help="every era, transport and client scenario")
    everything = parser.parse_args().all
    try:
        suite = find_suite()
    except Missing as error:
        print(f"conformance skipped: {error}")
        return 0
    if not suite_installed():
        install(suite)
    begun = time.monotonic()
    good = True
    # A recording holds all that was said: it does not outlive the run.
    with tempfile.TemporaryDirectory(prefix="mcpgate-conformance-") as folder:
        for verdict in work(suite, Path(folder), everything):
            print("\n".join(verdict.lines), flush=True)
            good = good and verdict.good
            if not verdict.good:
                for log in sorted(Path(folder).glob(f"{verdict.name}*.log")):
                    print(log.read_text()[-4000:], file=sys.stderr)
    print(f"conformance: {'all is well' if good else 'FAILED'} ({time.monotonic() - begun:.0f} s)")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
