"""API keys: what passes, what does not, and that nothing can be told apart that must not be.

Must never: look at times; that the work is the same is seen by counting it.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgate_proto.config import KeyConfig
from mcpgate_proto.security.keys import KeyRing, Rejected, hash_problem, hash_secret
from mcpgate_proto.security.principal import Grant, Principal

SECRET = "x9" * 21 + "-"  # 43 characters, as 256 bits have in base64url
HEX = "0123456789abcdef" * 4
SALT = bytes(range(16))
WALL = 1_790_000_000.0


def ring(secret: str = SECRET, expires: float | None = None) -> KeyRing:
    return KeyRing([KeyConfig(id="ci", hash=hash_secret(secret, SALT), expires_wall=expires)])


def test_a_key_is_found_by_its_id_and_opened_by_its_secret() -> None:
    assert ring().check(f"mcpg_ci_{SECRET}", WALL) == Grant(Principal("key:ci"))
    assert ring(HEX).check(f"mcpg_ci_{HEX}", WALL) == Grant(Principal("key:ci"))


def test_the_kept_form_is_a_salted_sha256() -> None:
    kept = hash_secret(SECRET, SALT)
    assert kept == f"sha256:{SALT.hex()}:{hashlib.sha256(SALT + SECRET.encode()).hexdigest()}"
    assert SECRET not in kept and hash_problem(kept) == ""


@pytest.mark.parametrize(
    "text",
    ["", "sha256", f"sha256::{'0' * 64}", f"sha256:{'0' * 32}:{'0' * 63}", f"md5:{'0' * 32}:{'0' * 64}"]
    + [f"sha256:{'0' * 32}:{'G' * 64}", f"sha256:{'0' * 32}:{'0' * 64}\n", f"SHA256:{'0' * 32}:{'0' * 64}"],
)
def test_hashes_that_are_none(text: str) -> None:
    assert hash_problem(text)
    assert isinstance(KeyRing([KeyConfig(id="ci", hash=text)]).check(f"mcpg_ci_{SECRET}", WALL), Rejected)


WRONG = [
    ("another secret", f"mcpg_ci_{SECRET[:-1]}A"),
    ("an unknown id", f"mcpg_xx_{SECRET}"),
    ("an id in other letters", f"mcpg_CI_{SECRET}"),
    ("more behind it", f"mcpg_ci_{SECRET}A"),
    ("less of it", f"mcpg_ci_{SECRET[:-1]}"),
    ("no id", f"mcpg__{SECRET}"),
    ("no secret", "mcpg_ci_"),
    ("no key at all", "mcpg_"),
    ("the hash itself", f"mcpg_ci_{hash_secret(SECRET, SALT)[-64:]}"),
    ("a line feed", f"mcpg_ci_{SECRET}\n"),
    ("another alphabet", f"mcpg_ci_{'ä' * 43}"),
    ("another prefix", f"mcpx_ci_{SECRET}"),
]


@pytest.mark.parametrize("token", [row[1] for row in WRONG], ids=[row[0] for row in WRONG])
def test_wrong_keys(token: str) -> None:
    found = ring().check(token, WALL)
    assert isinstance(found, Rejected) and found.told == "the token is not valid"


@pytest.mark.parametrize("token", [f"mcpg_xx_{SECRET}", f"mcpg_ci_{SECRET[:-1]}A"], ids=["id", "secret"])
def test_an_unknown_id_costs_what_a_wrong_secret_costs(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same answer after the same work: one digest of as many bytes, one comparison of as many."""
    work: list[tuple[str, int, int]] = []
    real_sha, real_compare = hashlib.sha256, hmac.compare_digest

    def sha256(data: bytes = b"") -> Any:
        work.append(("digest", len(data), 0))
        return real_sha(data)

    def compare(one: bytes, other: bytes) -> bool:
        work.append(("compare", len(one), len(other)))
        return real_compare(one, other)

    monkeypatch.setattr(hashlib, "sha256", sha256)
    monkeypatch.setattr(hmac, "compare_digest", compare)
    keys = KeyRing([KeyConfig(id="ci", hash=f"sha256:{SALT.hex()}:{'0' * 64}")])
    assert keys.check(token, WALL) == Rejected("the token is not valid", "no such key")
    assert work == [("digest", 16 + 43, 0), ("compare", 32, 32)]


def test_expiry_is_judged_by_the_time_of_day_and_told_to_the_holder_only() -> None:
    keys = ring(expires=WALL)
    assert keys.check(f"mcpg_ci_{SECRET}", WALL - 0.001) == Grant(Principal("key:ci"), expires_wall=WALL)
    for wall in (WALL, WALL + 1e6, float("nan")):
        told = keys.check(f"mcpg_ci_{SECRET}", wall)
        assert isinstance(told, Rejected) and told.told == "the key has expired"
    told = keys.check(f"mcpg_ci_{SECRET[:-1]}A", WALL + 1)
    assert isinstance(told, Rejected) and told.told == "the token is not valid"


@given(st.text(max_size=200))
def test_no_text_makes_it_raise_or_comes_back(text: str) -> None:
    found = ring().check("mcpg_" + text, WALL)
    assert isinstance(found, Rejected) and found.told == "the token is not valid"
    assert found.why in ("no such key", "not in the form of a key")
