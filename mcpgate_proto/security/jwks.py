"""The public keys of a token issuer: read from a JWK set, kept, fetched again when it is time.

Owns: which keys of a set are used (`parse_jwks`), which of them fit a token, and when a set is fetched: at
the start, when it is old, and for a `kid` that it does not have, each bounded in rate. While a fetch fails,
the last keys stay, up to `limits.jwks_stale_s`.
Must never: use a key for another algorithm than its own, hold a private or symmetric key, or fetch from a
place that a token names.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import msgspec

from mcpgate_proto.config import IssuerConfig
from mcpgate_proto.hub import Hub
from mcpgate_proto.wire import jsonrpc, values
from mcpgate_proto.wire.json_scan import deeper_than

__all__ = ["ALGORITHMS", "FetchKeys", "Jwk", "KeySource", "Missing", "parse_jwks", "strict_object"]

# RFC 7518 section 3.1, RFC 8037, RFC 9864: algorithm -> the kind of key it takes. No `none`, and nothing
# symmetric: with HS256 whoever knows the public key could sign (RFC 8725 section 2.1).
ALGORITHMS = {
    "RS256": "RSA",
    "RS384": "RSA",
    "RS512": "RSA",
    "PS256": "RSA",
    "PS384": "RSA",
    "PS512": "RSA",
    "ES256": "P-256",
    "ES384": "P-384",
    "ES512": "P-521",
    "EdDSA": "Ed25519",
    "Ed25519": "Ed25519",
}
# Members that make up a public key, by `kty`. Nothing else of an entry gets to the library.
_MEMBERS = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
_CURVES = ("P-256", "P-384", "P-521", "Ed25519")
# RSA: RFC 7518 section 3.3 asks for 2048 bits; beyond 8192 a signature costs milliseconds.
_RSA_LEAST, _RSA_MOST = 2048, 8192
JSON_DEPTH = 16
# Of keys that a token without `kid` could mean, this many are tried.
TRIES = 4

# Fetches a set; `done` gets it, or None and why there is none, once and never from within.
FetchKeys = Callable[[IssuerConfig, Callable[[bytes | None, str], None]], None]


class Jwk(msgspec.Struct, frozen=True):
    """One usable key. `kind` as in `ALGORITHMS`; `alg` None: any that takes this kind."""

    kid: str | None
    alg: str | None
    kind: str
    key: Any


class Missing(Enum):
    """Why there is no key."""

    PENDING = "the keys are being fetched"
    UNAVAILABLE = "there are no keys of this issuer yet"


def strict_object(data: bytes) -> dict[str, jsonrpc.Raw] | None:
    """The members of a JSON object, or None: also for what is given twice, nested deeply or no UTF-8."""
    try:
        str(data, "utf-8")
        if deeper_than(data, JSON_DEPTH):
            return None
        return jsonrpc.members(data)
    except (UnicodeDecodeError, jsonrpc.JsonFault):
        return None


def parse_jwks(data: bytes, most: int) -> list[Jwk] | str:
    """The usable keys of a JWK set, or why there is none. Others are passed over (RFC 7517 section 5)."""
    found = strict_object(data)
    entries = values.items(found["keys"]) if found is not None and "keys" in found else None
    if entries is None:
        return "not a JWK set"
    if len(entries) > most:
        return f"more than {most} keys"
    keys = [key for key in map(_usable, entries) if key is not None]
    return keys or "no key in it can be used for signatures"


def _usable(entry: jsonrpc.Raw) -> Jwk | None:
    members = strict_object(bytes(entry))
    if members is None:
        return None
    kty = values.text_of(members, "kty") or ""
    use = values.text_of(members, "use")
    operations = values.items(members.get("key_ops", jsonrpc.Raw(b"null")))
    if kty not in _MEMBERS or use not in (None, "sig"):
        return None
    if operations is not None and b'"verify"' not in [bytes(one) for one in operations]:
        return None
    public = {name: values.text_of(members, name) or "" for name in _MEMBERS[kty]}
    kind = public.get("crv", "RSA")
    if (kty != "RSA" and kind not in _CURVES) or not _sized(public.get("n")):
        return None
    try:
        from joserfc.jwk import import_key

        key = import_key({"kty": kty, **public})
    except Exception:  # whatever a library makes of a bad key, it is no key
        return None
    return Jwk(values.text_of(members, "kid"), values.text_of(members, "alg"), kind, key)


def _sized(modulus: str | None) -> bool:
    """Whether an RSA modulus in base64url has a size that is accepted; true for other keys."""
    return modulus is None or _RSA_LEAST - 8 < len(modulus.lstrip("A")) * 6 < _RSA_MOST + 8


class KeySource:
    """The keys of one issuer."""

    def __init__(
        self, hub: Hub, issuer: IssuerConfig, fetch: FetchKeys, settled: Callable[[str], None]
    ) -> None:
        self.issuer = issuer
        self._hub = hub
        self._fetch = fetch
        # Called when a fetch has ended, well or not: for those who wait.
        self._settled = settled
        self._keys: list[Jwk] = []
        self._fetching = False
        self._asked_at: float | None = None
        self._got_at = hub.now
        self._failures = 0
        self._retired = False
        if issuer.jwks:
            self._take(issuer.jwks.encode("utf-8", "replace"))

    def start(self) -> None:
        """Fetch before anybody asks."""
        if not self.issuer.jwks:
            self._refresh()

    def retire(self) -> None:
        """The issuer is no longer configured: what is still fetched comes too late."""
        self._retired = True

    def find(self, kid: str | None, algorithm: str) -> list[Jwk] | Missing:
        """The keys that a token with this `kid` and algorithm may be signed with; none: it is of no use."""
        age_s = self._hub.now - self._got_at
        if not self.issuer.jwks and age_s > self._hub.limits.jwks_stale_s:
            self._keys = []
        found = self._fitting(kid, algorithm)
        if found:
            if not self.issuer.jwks and age_s > self._hub.limits.jwks_refresh_s:
                self._refresh()  # the old ones are good meanwhile
            return found
        if not self.issuer.jwks:
            self._refresh()
            if self._fetching:
                return Missing.PENDING
            if not self._keys:
                return Missing.UNAVAILABLE
        return []

    def _fitting(self, kid: str | None, algorithm: str) -> list[Jwk]:
        # An algorithm that is not in the table has no key, whatever the settings say.
        kind = ALGORITHMS.get(algorithm)
        return [
            one
            for one in self._keys
            if one.kind == kind and one.alg in (None, algorithm) and (kid is None or one.kid == kid)
        ][:TRIES]

    def _refresh(self) -> None:
        """Fetch, if nobody does and it is not too early for that."""
        hub = self._hub
        pause_s = hub.limits.jwks_cooldown_s
        if self._failures:
            pause_s = min(pause_s, 2.0 ** min(self._failures, 16))
        early = self._asked_at is not None and hub.now - self._asked_at < pause_s
        if self._fetching or early:
            return
        self._fetching = True
        self._asked_at = hub.now
        self._fetch(self.issuer, self._fetched)

    def _fetched(self, data: bytes | None, reason: str) -> None:
        self._fetching = False
        if self._retired:
            return
        if data is not None:
            reason = self._take(data)
        if reason:
            self._failures += 1
            self._hub.count("jwks_failed")
            self._hub.emit("warning", "jwks_failed", issuer=self.issuer.issuer, reason=reason)
        self._settled(self.issuer.issuer)

    def _take(self, data: bytes) -> str:
        """Use this set from now on; why not, if it cannot be used: then the last one stays."""
        found = parse_jwks(data, self._hub.limits.jwks_keys)
        if isinstance(found, str):
            return found
        self._keys = found
        self._got_at = self._hub.now
        self._failures = 0
        return ""
