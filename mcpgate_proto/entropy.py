"""Unpredictable values from one seed.

Owns: `Entropy`, a keyed BLAKE2b counter generator, and the subkeys derived from the same seed.
Must never: draw from the operating system or from a clock. The runner brings the seed, so that a recorded
run can be replayed byte for byte.
"""

from __future__ import annotations

import base64
import builtins
import hashlib

from mcpgate_proto.errors import LocalProtocolError

__all__ = ["SEED_BYTES", "Entropy"]

# The least that a seed may hold: 256 bits.
SEED_BYTES = 32
_BLOCK = 64


class Entropy:
    """A deterministic stream of unpredictable bytes: BLAKE2b (RFC 7693), keyed with the seed, over a counter.

    `seed` is at least 32 bytes, fresh per process outside of replay; `LocalProtocolError` when it is shorter.
    Subkeys (`derive`) depend on the seed alone, not on what was drawn before.
    """

    __slots__ = ("_counter", "_key", "_rest")

    def __init__(self, seed: builtins.bytes) -> None:
        if len(seed) < SEED_BYTES:
            raise LocalProtocolError(f"the seed must have at least {SEED_BYTES} bytes")
        # A BLAKE2b key has at most 64 bytes, a seed may have more.
        self._key = hashlib.blake2b(seed, digest_size=_BLOCK, person=b"mcpgate-seed").digest()
        self._counter = 0
        self._rest = b""

    def bytes(self, n: int) -> builtins.bytes:
        """The next `n` bytes of the stream. Raises `LocalProtocolError` when `n` is below zero."""
        if n < 0:
            raise LocalProtocolError("cannot draw a negative count of bytes")
        parts = [self._rest]
        have = len(self._rest)
        while have < n:
            counter = self._counter.to_bytes(16, "little")
            parts.append(
                hashlib.blake2b(counter, digest_size=_BLOCK, key=self._key, person=b"mcpgate-stream").digest()
            )
            self._counter += 1
            have += _BLOCK
        stream = b"".join(parts)
        self._rest = stream[n:]
        return stream[:n]

    def token(self, bits: int = 128) -> str:
        """Text of at least `bits` random bits: URL-safe base64 (RFC 4648 section 5) without padding.

        Visible ASCII, so fit for a session id (C27). Raises `LocalProtocolError` when `bits` is below one.
        """
        if bits < 1:
            raise LocalProtocolError("a token needs at least one bit")
        return base64.urlsafe_b64encode(self.bytes((bits + 7) // 8)).rstrip(b"=").decode("ascii")

    def uniform(self) -> float:
        """A number in [0, 1), one of 2**53 that are equally likely."""
        return (int.from_bytes(self.bytes(8), "little") >> 11) * 2.0**-53

    def jitter(self, base_s: float, spread: float = 0.5) -> float:
        """A time in (base_s * (1 - spread), base_s]: never longer than `base_s`, so that a cap stays a cap.

        `spread` is the part of `base_s` that is left to chance, from 0 (none) to 1.
        """
        return base_s * (1.0 - spread * self.uniform())

    def derive(self, purpose: str) -> builtins.bytes:
        """A key of 32 bytes for `purpose`: the same for the same seed, unrelated for other purposes."""
        return hashlib.blake2b(
            purpose.encode("utf-8"), digest_size=32, key=self._key, person=b"mcpgate-derive"
        ).digest()
