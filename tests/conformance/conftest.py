"""The marker of the tests that need node and the official suite."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "conformance: needs node and the official suite; see run.py")
