"""The generator: reproducible, independent of how it is read, and never the same twice."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgate_proto.entropy import Entropy
from mcpgate_proto.errors import LocalProtocolError

SEED = bytes(range(32))


@given(st.lists(st.integers(0, 200), max_size=20))
def test_the_stream_does_not_depend_on_the_pieces(pieces: list[int]) -> None:
    whole = Entropy(SEED).bytes(sum(pieces))
    reader = Entropy(SEED)
    assert b"".join(reader.bytes(n) for n in pieces) == whole
    assert len(whole) == sum(pieces)


def test_seeds_and_purposes_are_apart() -> None:
    assert Entropy(SEED).bytes(64) != Entropy(SEED[::-1]).bytes(64)
    assert Entropy(SEED).bytes(64) != Entropy(SEED + b"x").bytes(64)
    entropy = Entropy(SEED)
    keys = {entropy.derive(purpose) for purpose in ("a", "b", "sealing", "")}
    assert len(keys) == 4 and all(len(key) == 32 for key in keys)
    entropy.bytes(1000)
    assert entropy.derive("a") == Entropy(SEED).derive("a")
    assert entropy.derive("a") not in Entropy(SEED).bytes(4096)


@pytest.mark.parametrize("seed", [b"", b"x" * 31])
def test_a_short_seed_is_misuse(seed: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        Entropy(seed)


def test_misuse() -> None:
    with pytest.raises(LocalProtocolError):
        Entropy(SEED).bytes(-1)
    with pytest.raises(LocalProtocolError):
        Entropy(SEED).token(0)


def test_tokens() -> None:
    entropy = Entropy(SEED)
    tokens = {entropy.token() for _ in range(2000)}
    assert len(tokens) == 2000
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{22}", token) for token in tokens)
    assert len(entropy.token(256)) == 43
    assert len(entropy.token(1)) == 2


def test_uniform_and_jitter() -> None:
    entropy = Entropy(SEED)
    drawn = [entropy.uniform() for _ in range(4000)]
    assert all(0.0 <= value < 1.0 for value in drawn)
    assert 0.48 < sum(drawn) / len(drawn) < 0.52
    delays = [entropy.jitter(10.0) for _ in range(1000)]
    assert all(5.0 < delay <= 10.0 for delay in delays)
    assert min(delays) < 5.2 and max(delays) > 9.8
    assert entropy.jitter(10.0, 0.0) == 10.0


def test_the_same_under_any_hash_seed() -> None:
    program = (
        "import hashlib; from mcpgate_proto.entropy import Entropy; e = Entropy(bytes(range(32)));"
        "print(hashlib.sha256(e.bytes(10_000) + e.derive('x') + e.token().encode()).hexdigest())"
    )
    expected = Entropy(SEED)
    digest = hashlib.sha256(
        expected.bytes(10_000) + expected.derive("x") + expected.token().encode()
    ).hexdigest()
    for hash_seed in ("0", "4242"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == digest
