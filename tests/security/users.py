"""Other users for tests that root runs: code as one of them, and folders that they can reach.

Must never: leave files, or change the identity of the process that runs the tests.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
# Numbers that no system has given to anybody.
ALICE, MALLORY, STAFF = 61001, 61002, 61003
AS = "import os, sys; u, g = map(int, sys.argv[1:3]); os.setgroups([g]); os.setgid(g); os.setuid(u); "
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@contextmanager
def shared_folder() -> Iterator[Path]:
    """A folder that other users can pass, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="mcpgate-users-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def public_python() -> tuple[str, str]:
    """An interpreter of this version that other users can run, and the PYTHONPATH that it needs."""
    sources = f"{ROOT}{os.pathsep}{ROOT / 'runners'}"
    packages = os.pathsep.join([sources, *(path for path in sys.path if path.endswith("site-packages"))])
    for python, path in ((sys.executable, sources), ("/usr/bin/python3", packages)):
        code = f"import sys, mcpgate.cli, anyio; assert sys.version_info[:2] == {sys.version_info[:2]}"
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                f"{AS} os.execv(sys.argv[3], sys.argv[3:])",
                f"{ALICE}",
                f"{ALICE}",
                python,
                "-c",
                code,
            ],
            env={"PYTHONPATH": path},
            capture_output=True,
        )
        if done.returncode == 0:
            return python, path
    pytest.skip("other users can read no Python of this version")


def as_user(uid: int, code: str, *args: str, gid: int | None = None) -> Any:
    """What `code` prints as JSON, run as that user with `sys.argv[3:]`. The sources are read before."""
    load = "import mcpgate.files, mcpgate.secrets, mcpgate.launch, grp, pwd, json; "
    done = subprocess.run(
        [sys.executable, "-c", f"{load}{AS}\n{code}", str(uid), str(uid if gid is None else gid), *args],
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
        env={"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'runners'}", "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
