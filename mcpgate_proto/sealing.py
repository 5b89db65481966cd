"""Sealed tokens: what a client carries for us and can neither read nor change.

Owns: `Sealer`, which turns bytes into a token and back. Must never: raise for a token that is wrong in any
way, say in what way it is wrong, or import `cryptography` before a token is sealed or opened.

The cipher is AES-SIV (RFC 5297): it needs no nonce, so a repeated one cannot hurt it, and the same input
gives the same token, which keeps runs reproducible. Purpose, principal and key id are associated data: a
token of one principal, or for one purpose, does not open for another.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import re
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mcpgate_proto.errors import LocalProtocolError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

__all__ = ["KEY_BYTES", "Sealer"]

# The least that a sealing key may hold: 256 bits.
KEY_BYTES = 32
_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,16}")
# Ties the associated data to this layout: <expiry, 8 bytes><payload>.
_LAYOUT = b"mcpgate seal 1"
_EXPIRY = struct.Struct(">d")


class Sealer:
    """Seals and opens tokens of the form `<key id>.<base64url>`: visible ASCII that needs no URL escapes.

    `key` seals; `previous` (key id -> key) holds older keys that still open, so that keys can be changed
    without losing what clients carry. Each has at least 32 bytes; a key id has 1 to 16 characters of
    `[A-Za-z0-9_-]` and names one key only. Anything else is a `LocalProtocolError`.
    """

    def __init__(self, key: bytes, *, key_id: str = "0", previous: Mapping[str, bytes] | None = None) -> None:
        self._key_id = key_id
        self._keys: dict[str, bytes] = {}
        for name, secret in ((key_id, key), *(previous or {}).items()):
            if _KEY_ID.fullmatch(name) is None:
                raise LocalProtocolError("a key id must be 1 to 16 characters of [A-Za-z0-9_-]")
            if name in self._keys:
                raise LocalProtocolError("two sealing keys have the same key id")
            if len(secret) < KEY_BYTES:
                raise LocalProtocolError(f"a sealing key must have at least {KEY_BYTES} bytes")
            # AES-256-SIV takes 64 bytes; configured keys have what length their owner liked.
            self._keys[name] = hashlib.blake2b(secret, digest_size=64, person=b"mcpgate-seal").digest()
        self._ciphers: dict[str, AESSIV] = {}

    def __repr__(self) -> str:
        return f"<Sealer {self._key_id} of {len(self._keys)}>"

    def preload(self) -> None:
        """Import `cryptography` now, for a runner that is about to give up its rights to the file system."""
        self._cipher(self._key_id)

    def seal(self, purpose: str, principal: str, payload: bytes, expires_wall: float) -> str:
        """A token that opens for `purpose` and `principal` until `expires_wall` (wall clock, seconds).

        The same arguments give the same token. `math.inf` never expires; `LocalProtocolError` for a NaN.
        """
        if math.isnan(expires_wall):
            raise LocalProtocolError("the expiry of a token must be a number")
        sealed = self._cipher(self._key_id).encrypt(
            _EXPIRY.pack(expires_wall) + payload, self._bound(self._key_id, purpose, principal)
        )
        return f"{self._key_id}.{base64.urlsafe_b64encode(sealed).rstrip(b'=').decode('ascii')}"

    def open(self, purpose: str, principal: str, token: str, wall: float) -> bytes | None:
        """The payload of `token`, or None for anything that is wrong with it.

        That is: malformed, altered, of another purpose or principal, under an unknown key, or expired
        (`wall`, in seconds of the wall clock, is not before its expiry). Never raises.
        """
        key_id, dot, text = token.partition(".")
        if not dot or key_id not in self._keys:
            return None
        sealed = _unbase64(text)
        if sealed is None:
            return None
        from cryptography.exceptions import InvalidTag

        try:
            opened = self._cipher(key_id).decrypt(sealed, self._bound(key_id, purpose, principal))
        except (InvalidTag, ValueError):
            return None
        if len(opened) < _EXPIRY.size:
            return None
        # Written so that a NaN on either side counts as expired.
        if not wall < _EXPIRY.unpack_from(opened)[0]:
            return None
        return opened[_EXPIRY.size :]

    @staticmethod
    def _bound(key_id: str, purpose: str, principal: str) -> list[bytes]:
        # S2V (RFC 5297 section 2.4) takes a vector, so no part can run into the next. Lone surrogates, which
        # a name from elsewhere may hold, must not make this raise.
        return [
            _LAYOUT,
            key_id.encode("ascii"),
            purpose.encode("utf-8", "surrogatepass"),
            principal.encode("utf-8", "surrogatepass"),
        ]

    def _cipher(self, key_id: str) -> AESSIV:
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            from cryptography.hazmat.primitives.ciphers.aead import AESSIV

            cipher = self._ciphers[key_id] = AESSIV(self._keys[key_id])
        return cipher


def _unbase64(text: str) -> bytes | None:
    """Decode unpadded URL-safe base64, its one canonical form only: a token has no second spelling."""
    try:
        raw = text.encode("ascii")
        sealed = base64.b64decode(raw + b"=" * (-len(raw) % 4), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        return None
    return sealed if base64.urlsafe_b64encode(sealed).rstrip(b"=") == raw else None
