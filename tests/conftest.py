"""What all tests share: one reproducible hypothesis profile, and the interpreters of the SDK peers.

Must never: sleep and hope, or reach beyond this machine.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "mcpgate",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("mcpgate")


@pytest.fixture(autouse=True, scope="session")
def logins_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No gateway of a test reads or leaves anything among the logins of whoever runs it."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


def _peer_python(variable: str) -> str:
    value = os.environ.get(variable, "")
    if not value:
        pytest.skip(f"{variable} is not set: `make test` builds the SDK peers and sets it")
    if not Path(value).exists():
        pytest.fail(f"{variable} names {value}, which does not exist: run `make test`")
    return value


@pytest.fixture(scope="session")
def sdk_python() -> str:
    """An interpreter that has the official SDK, 2.3 or later."""
    return _peer_python("MCPGATE_SDK_PYTHON")


@pytest.fixture(scope="session")
def sdk1_python() -> str:
    """An interpreter that has the official SDK before 2.0: it knows legacy revisions only."""
    return _peer_python("MCPGATE_SDK1_PYTHON")
