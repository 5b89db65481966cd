"""Every kept schedule of the gateway's fuzz target is replayed, whole and spoiled, without a fuzzer.

Must never: need atheris.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.gateway_target import COUNTS, fuzz_gateway

CORPUS = Path(__file__).parents[2] / "fuzz" / "corpus" / "gateway"
FILES = sorted(CORPUS.iterdir())


def counts(data: bytes) -> dict[str, int]:
    COUNTS.clear()
    fuzz_gateway(data)
    return dict(COUNTS)


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_replay(path: Path) -> None:
    data = path.read_bytes()
    fuzz_gateway(data)
    for choice in range(16):  # other servers, otherwise helpful
        fuzz_gateway(bytes([choice, choice]) + data[2:])
    for place in range(2, len(data), 3):
        fuzz_gateway(data[:place] + bytes([data[place] ^ 129]) + data[place + 1 :])
        fuzz_gateway(data[:place] + data[place + 3 :])


def test_schedules_reach_what_matters() -> None:
    """A target that never completes a call tests little."""
    seen: dict[str, int] = {}
    completing = 0
    for path in FILES:
        found = counts(path.read_bytes())
        completing += "completed" in found
        for name, number in found.items():
            seen[name] = seen.get(name, 0) + number
    assert completing >= 12
    assert seen["states"] >= 2 and seen["sessions"] >= 3 and seen["websockets"] >= 1


@pytest.mark.parametrize("name", ["modern_http_to_child", "legacy_http_to_child", "parked", "rounds"])
def test_the_way_of_a_call_is_complete(name: str) -> None:
    assert counts((CORPUS / name).read_bytes())["completed"] == 1


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\x00\x00", bytes(600), b"\xff" * 600, bytes(range(256)) * 2]
)
def test_odd_inputs(data: bytes) -> None:
    fuzz_gateway(data)
