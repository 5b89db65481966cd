"""Takes the checks of docs/threats.md away, one by one, and looks that the row's test fails: `make mutants`.

    python -m tests.threats.mutations [word ...]     all, or those whose kind, row, name or file holds a word

Owns: copies of the tree under a temporary folder, one per processor, and the table of results. Exits with 1
when a mutant survives, when an edit does not fit any more, or when a test fails without any edit. Must
never: touch the tree it is run from.
"""

from __future__ import annotations

import os
import queue
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.threats.mutants import MUTANTS, Mutant
from tests.threats.mutants_caps import CAPPED
from tests.threats.mutants_limits import LIMITED
from tests.threats.mutants_secrets import SECRETS

__all__ = ["ALL", "ROOT", "applied", "main"]

ROOT = Path(__file__).parents[2]
ALL = [*MUTANTS, *LIMITED, *CAPPED, *SECRETS]
# A mutant that hangs has been noticed too; no test here takes a tenth of it.
PATIENCE_S = 120
MEMORY_BYTES = 4 << 30
IGNORED = shutil.ignore_patterns(
    ".*cache*", ".git", ".venv", ".hypothesis", ".benchmarks", "dist", "build", "corpus"
)


class Stale(ValueError):
    """An edit that does not fit: the text is not there, or more than once."""


def applied(mutant: Mutant, text: str) -> str:
    """The file's text without the check. Raises `Stale`."""
    if text.count(mutant.old) != 1 or mutant.old == mutant.new:
        raise Stale(f"{mutant.file}: found {text.count(mutant.old)} times: {mutant.old!r}")
    return text.replace(mutant.old, mutant.new)


class Copy:
    """A tree of its own, in which one file at a time is not as it should be."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "tree"
        shutil.copytree(ROOT, self.root, ignore=IGNORED, symlinks=True)

    def run(self, *tests: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": f".{os.pathsep}runners"}
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "--no-header",
            *tests,
        ]
        return subprocess.run(
            command, cwd=self.root, env=env, capture_output=True, text=True, timeout=PATIENCE_S * len(tests)
        )

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.write_text(text)
        # Two versions of one length within one second look the same to the compiler's cache.
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
            compiled.unlink()

    def judge(self, mutant: Mutant) -> str:
        """What became of it."""
        path = self.root / mutant.file
        whole = path.read_text()
        try:
            self._write(path, applied(mutant, whole))
        except Stale as stale:
            return f"stale: {stale}"
        try:
            done = self.run(mutant.test)
        except subprocess.TimeoutExpired:
            return "killed (hung)"
        finally:
            self._write(path, whole)
        # 1: a test failed. Anything else says that no test was run.
        told = {0: "SURVIVED", 1: "killed"}
        return told.get(done.returncode, f"not run ({done.returncode}): {done.stdout[-200:]}")


def baseline(copies: list[Copy], mutants: list[Mutant]) -> str:
    """Why the tests say nothing: they have to pass while all checks are there."""
    tests = sorted({mutant.test for mutant in mutants})
    shares = [tests[number :: len(copies)] for number in range(len(copies))]
    with ThreadPoolExecutor(len(copies)) as pool:
        runs = list(pool.map(lambda copy, share: copy.run(*share) if share else None, copies, shares))
    return "\n".join(
        (done.stdout + done.stderr)[-3000:] for done in runs if done is not None and done.returncode
    )


def judged(mutants: list[Mutant], copies: list[Copy]) -> list[tuple[Mutant, str]]:
    """Every mutant's fate, in their order; each is told as soon as it is known."""
    free: queue.Queue[Copy] = queue.Queue()
    for copy in copies:
        free.put(copy)

    def one(mutant: Mutant) -> tuple[Mutant, str]:
        copy = free.get()
        try:
            fate = copy.judge(mutant)
        finally:
            free.put(copy)
        test = mutant.test.removeprefix("tests/")
        print(
            f"{mutant.kind:6} {mutant.rows:10} {mutant.name:42} {fate.splitlines()[0]:12} {test}", flush=True
        )
        return mutant, fate

    with ThreadPoolExecutor(len(copies)) as pool:
        return list(pool.map(one, mutants))


def main(words: list[str]) -> int:
    begin = time.monotonic()
    # Without a bound there may be no end: a mutant's test must not take the machine down.
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    mutants = [m for m in ALL if not words or any(word in " ".join(m[:4]) for word in words)]
    with tempfile.TemporaryDirectory(prefix="mcpgate-mutants-") as folder:
        copies = [Copy(Path(folder) / str(number)) for number in range(os.cpu_count() or 1)]
        if problem := baseline(copies, mutants):
            print(f"These tests fail though no check was taken away:\n{problem}")
            return 1
        found = judged(mutants, copies)
    bad = [mutant.name for mutant, fate in found if not fate.startswith("killed")]
    print(f"{len(found)} mutants, {len(found) - len(bad)} killed, {time.monotonic() - begin:.0f} s")
    if bad:
        print("alive: " + ", ".join(bad))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
