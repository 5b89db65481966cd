"""What a start loads: `mcpgate run` must be up quickly and stay small; the core must stay pure.

Must never: measure time, which depends on the machine.
"""

from __future__ import annotations

import json
import subprocess
import sys

from tests.cli.program import environment

LOADED = "import sys, json; {}; print(json.dumps(sorted(sys.modules)))"


def loaded_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(code)],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    return set(json.loads(done.stdout))


def test_the_core_alone_loads_no_program() -> None:
    found = loaded_by("import mcpgate_proto.gateway")
    assert "mcpgate_proto" in found
    assert not found & {"mcpgate", "anyio", "asyncio", "click", "curio", "rich", "ssl", "subprocess", "trio"}


def test_run_loads_only_what_it_needs() -> None:
    found = loaded_by(
        "import mcpgate.cli, mcpgate.program, mcpgate.settings, mcpgate.clients;"
        "import mcpgate.asyncio_, mcpgate.life;"
        "from mcpgate_proto.config import GatewayConfig;"
        "mcpgate.life.new_gateway(GatewayConfig())"
    )
    assert {"anyio", "click", "mcpgate_proto"} <= found
    assert not found & {
        "rich",
        "cryptography",
        "trio",
        "curio",
        "wsproto",
        "http.client",
        "email",
        "hypothesis",
    }


def test_version_needs_no_loop_and_no_core() -> None:
    found = loaded_by("import mcpgate.cli, mcpgate.show")
    assert not found & {"anyio", "asyncio", "ssl", "rich"}
