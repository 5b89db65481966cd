"""API keys: `mcpg_<id>_<secret>`.

Owns: their form, the form in which they are kept (a salted SHA-256: the secret has 256 random bits, so there
is nothing to slow down for a guesser), and `KeyRing`, which tells whose key was presented.
Must never: keep a secret, compare one in a time that depends on it, or treat an unknown id otherwise than a
wrong secret.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable

import msgspec

from mcpgate_proto.config import KeyConfig
from mcpgate_proto.security.principal import Grant, Principal

__all__ = [
    "KEY_ID",
    "PREFIX",
    "SALT_BYTES",
    "SECRET_BYTES",
    "KeyRing",
    "Rejected",
    "hash_problem",
    "hash_secret",
    "split_key",
]

# Fixed, so that scanners find keys that got into a repository.
PREFIX = "mcpg_"
KEY_ID = re.compile(r"[A-Za-z0-9-]{1,32}")
SECRET_BYTES = 32
SALT_BYTES = 16
# 256 bits are 43 characters in base64url and 64 in hexadecimal.
_KEY = re.compile(r"mcpg_([A-Za-z0-9-]{1,32})_([A-Za-z0-9_-]{43,128})")
_HASH = re.compile(r"sha256:([0-9a-f]{32,128}):([0-9a-f]{64})")


class Rejected(msgspec.Struct, frozen=True):
    """Credentials that do not pass. `told` is for the peer and fixed, `why` for the log and ours too."""

    told: str
    why: str


class _Key(msgspec.Struct, frozen=True):
    salt: bytes
    digest: bytes
    expires_wall: float | None


# Stands for every id that there is not: its digest is nobody's, so nothing hashes to it.
_NOBODY = _Key(bytes(SALT_BYTES), bytes(32), None)
_WRONG = "the token is not valid"


def split_key(text: str) -> tuple[str, str] | None:
    """The id and the secret of a key, or None for what is no key."""
    match = _KEY.fullmatch(text)
    return (match[1], match[2]) if match is not None else None


def hash_secret(secret: str, salt: bytes) -> str:
    """How the secret of a key is kept: `sha256:<salt>:<digest>`."""
    return f"sha256:{salt.hex()}:{_digest(secret, salt).hex()}"


def hash_problem(text: str) -> str:
    """What is wrong with a kept hash, or nothing. For checks of the settings."""
    return "" if _HASH.fullmatch(text) else "is not the hash of a key"


def _digest(secret: str, salt: bytes) -> bytes:
    return hashlib.sha256(salt + secret.encode("utf-8")).digest()


class KeyRing:
    """The configured keys. An entry whose hash does not parse opens nothing."""

    def __init__(self, keys: Iterable[KeyConfig]) -> None:
        self._keys: dict[str, _Key] = {}
        for one in keys:
            match = _HASH.fullmatch(one.hash)
            if match is not None:
                salt, digest = bytes.fromhex(match[1]), bytes.fromhex(match[2])
                self._keys[one.id] = _Key(salt, digest, one.expires_wall)

    def check(self, token: str, wall: float) -> Grant | Rejected:
        """Whose key `token` is, at the time of day `wall`."""
        found = split_key(token)
        if found is None:
            return Rejected(_WRONG, "not in the form of a key")
        id, secret = found
        key = self._keys.get(id, _NOBODY)
        same = hmac.compare_digest(_digest(secret, key.salt), key.digest)
        if not same:
            return Rejected(_WRONG, "no such key")
        # Only who holds the key learns that it has expired. A NaN counts as expired.
        if key.expires_wall is not None and not wall < key.expires_wall:
            return Rejected("the key has expired", f"key {id} has expired")
        return Grant(Principal(f"key:{id}"), expires_wall=key.expires_wall)
