"""The runner that docs/runners.md shows works, as it stands on the page.

Must never: mend the page's code before running it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from mcpgate.demo import check, demo_config
from mcpgate.life import new_gateway
from tests.cli.program import environment
from tests.runner.fake import PATIENCE_S, Left

PAGE = Path(__file__).parents[2] / "docs" / "runners.md"
MOST_LINES = 80


def the_code() -> str:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    return str(code)


def test_it_is_short_and_stands_on_the_core_alone() -> None:
    code = the_code()
    assert len([line for line in code.splitlines() if line.strip()]) <= MOST_LINES
    imports = "".join(line + "\n" for line in code.splitlines() if re.match(r"import |from ", line))
    assert "mcpgate_proto" in imports and not re.search(r"mcpgate(?!_proto)|anyio|asyncio", imports)


def test_it_carries_both_eras_and_stops() -> None:
    names: dict[str, Any] = {}
    exec(compile(the_code(), str(PAGE), "exec"), names)
    before = Left()
    gateway = new_gateway(demo_config(0))
    runner = names["Runner"](gateway, log=lambda record: None)
    running = threading.Thread(target=runner.run)
    running.start()
    give_up = time.monotonic() + PATIENCE_S
    while not (names := gateway.snapshot().listeners):
        assert time.monotonic() < give_up
        time.sleep(0.01)
    from mcpgate_proto.effects import Address

    host, _, port = names["http"].rpartition(":")
    for _ in range(3):
        assert check(Address(host=host, port=int(port))) == []
    runner.facts.put((gateway.shutdown, 5.0))
    running.join(PATIENCE_S)
    assert not running.is_alive()
    del runner
    # Its accepting thread waits for a client that never comes; all else is gone.
    assert not Left().children - before.children


def test_the_page_has_the_measured_table() -> None:
    rows = re.findall(r"^\| ([a-z ]+) \| [\d.]+ \| \d+ \| \d+ \|$", PAGE.read_text(), re.M)
    assert {"asyncio", "trio", "curio", "blocking"} <= set(rows)
    assert subprocess.run([sys.executable, "-c", "import mcpgate"], env=environment()).returncode == 0
    assert os.path.exists(PAGE.parents[1] / "benchmarks" / "test_bench_runners.py")
