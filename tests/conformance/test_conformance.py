"""The official suite as tests: `pytest -m conformance` with MCPGATE_CONFORMANCE set runs it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conformance import run


@pytest.mark.conformance
@pytest.mark.parametrize("way", run.WAYS)
def test_official_suite(way: str, tmp_path: Path) -> None:
    if not os.environ.get("MCPGATE_CONFORMANCE"):
        pytest.skip("MCPGATE_CONFORMANCE is not set: `make conformance` runs the suite")
    try:
        suite = run.find_suite()
    except run.Missing as error:
        pytest.skip(str(error))
    if not run.suite_installed():
        pytest.skip("the suite is not installed: `make conformance` installs it")
    verdict = run.check(way, suite, tmp_path)
    assert verdict.good, "\n".join(verdict.lines())
