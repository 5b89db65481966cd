"""Every kept fuzz input is replayed, without a fuzzer."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.targets import TARGETS

CORPUS = Path(__file__).parents[2] / "fuzz" / "corpus"
FILES = [path for name in TARGETS for path in sorted((CORPUS / name).iterdir())]


@pytest.mark.parametrize("path", FILES, ids=[f"{path.parent.name}-{path.name}" for path in FILES])
def test_replay(path: Path) -> None:
    target = TARGETS[path.parent.name]
    data = path.read_bytes()
    target(data)
    # Other cuts of the same input, and what is left of it when it is cut off.
    for choice in range(12):
        target(bytes([choice, choice * 7]) + data[2:])
    for size in range(0, len(data), 1 + len(data) // 60):
        target(data[:size])


def test_every_target_has_seeds() -> None:
    assert {path.parent.name for path in FILES} == set(TARGETS)
