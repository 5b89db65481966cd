"""Sealed tokens: what opens, and that nothing else does."""

from __future__ import annotations

import math
import re
import subprocess
import sys

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mcpgate_proto.errors import LocalProtocolError
from mcpgate_proto.sealing import Sealer

KEY = bytes(range(32))
OTHER = bytes(range(1, 33))
SEALER = Sealer(KEY)
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@given(st.text(), st.text(), st.binary(), st.floats(allow_nan=False))
def test_round_trip(purpose: str, principal: str, payload: bytes, expires: float) -> None:
    token = SEALER.seal(purpose, principal, payload, expires)
    assert re.fullmatch(r"[A-Za-z0-9._-]+", token)
    assert token == Sealer(KEY).seal(purpose, principal, payload, expires)
    opened = SEALER.open(purpose, principal, token, -math.inf)
    assert opened == (payload if expires > -math.inf else None)


@given(st.data(), st.binary(max_size=40))
def test_any_change_closes_it(data: st.DataObject, payload: bytes) -> None:
    token = SEALER.seal("cursor", "alice", payload, 100.0)
    at = data.draw(st.integers(0, len(token) - 1))
    kind = data.draw(st.sampled_from(["replace", "drop", "insert", "cut"]))
    char = data.draw(st.sampled_from(ALPHABET + "=.+/ \n\u00e9"))
    changed = {
        "replace": token[:at] + char + token[at + 1 :],
        "drop": token[:at] + token[at + 1 :],
        "insert": token[:at] + char + token[at:],
        "cut": token[:at],
    }[kind]
    assume(changed != token)
    assert SEALER.open("cursor", "alice", changed, 0.0) is None


@given(st.text(max_size=60))
def test_anything_at_all_is_answered_with_none(token: str) -> None:
    assert SEALER.open("cursor", "alice", token, 0.0) is None
    assert SEALER.open("cursor", "alice", "0." + token, 0.0) is None


def test_bound_to_purpose_and_principal() -> None:
    token = SEALER.seal("ab", "c", b"payload", 100.0)
    assert SEALER.open("ab", "c", token, 99.9) == b"payload"
    for purpose, principal in (("a", "bc"), ("abc", ""), ("ab", "d"), ("", "abc"), ("ab", ""), ("x", "c")):
        assert SEALER.open(purpose, principal, token, 0.0) is None


@pytest.mark.parametrize(
    ("wall", "opens"), [(99.999, True), (100.0, False), (1e12, False), (math.nan, False)]
)
def test_expiry(wall: float, opens: bool) -> None:
    token = SEALER.seal("p", "alice", b"x", 100.0)
    assert (SEALER.open("p", "alice", token, wall) is not None) is opens


def test_never_expires() -> None:
    assert SEALER.open("p", "a", SEALER.seal("p", "a", b"x", math.inf), 1e300) == b"x"
    with pytest.raises(LocalProtocolError):
        SEALER.seal("p", "a", b"x", math.nan)


def test_rotation() -> None:
    old = Sealer(KEY, key_id="old")
    token = old.seal("p", "alice", b"x", 100.0)
    new = Sealer(OTHER, key_id="new", previous={"old": KEY})
    assert new.open("p", "alice", token, 0.0) == b"x"
    assert new.seal("p", "alice", b"x", 100.0).startswith("new.")
    assert Sealer(OTHER, key_id="new").open("p", "alice", token, 0.0) is None
    # The same id for another key, and another id on the same bytes.
    assert Sealer(OTHER, key_id="old").open("p", "alice", token, 0.0) is None
    both = Sealer(KEY, key_id="b", previous={"old": KEY})
    assert both.open("p", "alice", "b" + token[3:], 0.0) is None


def test_lone_surrogates_do_not_raise() -> None:
    token = SEALER.seal("p", "\ud800", b"x", 100.0)
    assert SEALER.open("p", "\ud800", token, 0.0) == b"x"
    assert SEALER.open("p", "\udc00", token, 0.0) is None
    assert SEALER.open("p", "a", "0.\ud800", 0.0) is None


@pytest.mark.parametrize(
    ("key", "key_id", "previous"),
    [
        (b"x" * 31, "0", {}),
        (KEY, "", {}),
        (KEY, "a.b", {}),
        (KEY, "x" * 17, {}),
        (KEY, "0", {"0": OTHER}),
        (KEY, "0", {"1": b"short"}),
        (KEY, "0", {"\u00e9": OTHER}),
    ],
)
def test_misuse(key: bytes, key_id: str, previous: dict[str, bytes]) -> None:
    with pytest.raises(LocalProtocolError):
        Sealer(key, key_id=key_id, previous=previous)


def test_repr_holds_no_key() -> None:
    assert KEY.hex() not in repr(Sealer(KEY)) and "000102" not in repr(Sealer(KEY))


def test_cryptography_is_imported_when_first_used() -> None:
    program = (
        "import sys; from mcpgate_proto.sealing import Sealer; s = Sealer(bytes(32));"
        "s.open('p', 'a', 'unknown.key', 0.0);"
        "assert not any(name.split('.')[0] == 'cryptography' for name in sys.modules);"
        "s.preload(); assert 'cryptography.hazmat.primitives.ciphers.aead' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": ":".join(sys.path)}, check=True)
