"""The core touches nothing of the world: by its imports, and while it runs.

Must never: be satisfied with a list of good intentions; a process in which the world is gone has to do.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "mcpgate_proto"
FILES = sorted(CORE.rglob("*.py"))

# What the standard library may give: pure functions and types.
STANDARD = {
    "__future__",
    "base64",
    "binascii",
    "builtins",
    "collections",
    "enum",
    "hashlib",
    "hmac",
    "heapq",
    "http",
    "ipaddress",
    "itertools",
    "json",
    "math",
    "re",
    "struct",
    "types",
    "typing",
    "unicodedata",
    "urllib",
}
THIRD = {"h11", "msgspec", "cryptography", "wsproto", "joserfc"}
WORLD = (
    "socket",
    "ssl",
    "asyncio",
    "threading",
    "subprocess",
    "selectors",
    "time",
    "random",
    "secrets",
    "logging",
)


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(CORE)) for path in FILES])
def test_imports_only_what_is_pure(path: Path) -> None:
    for name in _imports(path):
        assert name.split(".")[0] in STANDARD | THIRD | {"mcpgate_proto"}, f"{path} imports {name}"
        assert not name.startswith("urllib") or name == "urllib.parse"


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(CORE)) for path in FILES])
def test_no_set_is_iterated(path: Path) -> None:
    """Sets of strings have another order in every process."""
    for node in ast.walk(ast.parse(path.read_text())):
        looped = []
        if isinstance(node, ast.For | ast.comprehension):
            looped.append(node.iter)
        for one in looped:
            made = (
                isinstance(one, ast.Call)
                and isinstance(one.func, ast.Name)
                and one.func.id in ("set", "frozenset")
            )
            assert not made and not isinstance(one, ast.Set | ast.SetComp), f"{path}:{one.lineno}"


WITHOUT_THE_WORLD = f"""
import sys
import h11, msgspec, msgspec.json, msgspec.msgpack, wsproto, cryptography.hazmat.primitives.ciphers.aead
for name in {WORLD!r}:
    sys.modules[name] = None
import mcpgate_proto.gateway
print("imported")
"""


def _python(code: str, **env: str) -> str:
    told = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'runners'}", **env},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.returncode == 0, told.stderr
    return told.stdout


def test_the_core_is_imported_where_there_is_no_world() -> None:
    assert _python(WITHOUT_THE_WORLD) == "imported\n"


TRIPWIRES = """
import asyncio, builtins, datetime, os, random, secrets, socket, subprocess, sys, threading, time
from fuzz.sim import world
from fuzz.sim.swarm import Run

armed = False
def trip(name, real):
    def touched(*args, **named):
        if armed:
            raise RuntimeError("the core called " + name)
        return real(*args, **named)
    return touched

# Built lazily on first use; they are part of the libraries, not of a run.
import mcpgate_proto.sealing
for module, names in {
    time: "time monotonic perf_counter time_ns monotonic_ns sleep", os: "urandom open read write getpid",
    random: "random getrandbits", secrets: "token_bytes", socket: "socket", threading: "Thread",
    subprocess: "Popen", builtins: "open print input",
}.items():
    for name in names.split():
        setattr(module, name, trip(module.__name__ + "." + name, getattr(module, name)))

class NoClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        raise RuntimeError("the core called datetime.now")
datetime.datetime = NoClock

def guard(gateway):
    global armed
    class Guarded:
        trap_errors = False
        def __getattr__(self, name):
            real = getattr(gateway, name)
            if not callable(real):
                return real
            def call(*args, **named):
                global armed
                armed = True
                try:
                    return real(*args, **named)
                finally:
                    armed = False
            return call
    return Guarded()

for seed in (4, 6):
    run = Run(seed, tolerate=("I1", "I2", "I4", "I6"))
    run.world.gateway = guard(run.world.gateway)
    print(seed, run.go().digest)
"""


def test_no_call_of_the_core_looks_at_a_clock_or_draws_or_opens() -> None:
    first = _python(TRIPWIRES, PYTHONHASHSEED="7")
    assert first.count("\n") == 2
    assert first == _python(TRIPWIRES, PYTHONHASHSEED="99")
