"""The fixture that makes every simulated gateway of a folder a tapped one, asked for or not.

Owns: nothing else. A `conftest.py` imports it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.wiretap.hops import Verdicts
from tests.wiretap.tap import tapped

__all__ = ["messages_are_judged"]


@pytest.fixture(autouse=True)
def messages_are_judged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Verdicts]:
    """Whatever the gateway sends on either hop is held against the schema of that hop's revision (L0.5)."""
    verdicts = Verdicts()
    monkeypatch.setattr("fuzz.sim.world.Gateway", tapped(verdicts))
    yield verdicts
    verdicts.check()
