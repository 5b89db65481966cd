"""JSON web tokens (RFC 7519), as bearer tokens of OAuth 2.0 (RFC 9068, J5).

Owns: the strict reading of a compact token before anything in it is believed, the check of its signature by
joserfc, and the check of its claims (our own: what libraries make of odd ones changes with their versions).
Must never: accept what is not signed, choose an algorithm or a key by what a token brings along (`jwk`,
`jku`, `x5c`), raise for a token, or let a third party's text out.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from typing import Any

import msgspec

from mcpgate_proto.config import IssuerConfig
from mcpgate_proto.limits import Limits
from mcpgate_proto.security.jwks import ALGORITHMS, Jwk, strict_object
from mcpgate_proto.security.keys import Rejected
from mcpgate_proto.security.principal import Grant, Principal
from mcpgate_proto.wire import jsonrpc, values

__all__ = ["Token", "Verifier", "check_claims", "parse_token"]

_PART = r"[A-Za-z0-9_-]+"
_COMPACT = re.compile(rf"({_PART})\.({_PART})\.({_PART})")
# RFC 9068 section 2.1, and what most issuers still write. Tokens of other kinds (logout, DPoP proofs) have
# types of their own for this very reason (RFC 8725 section 3.11).
_TYPES = ("jwt", "at+jwt", "application/at+jwt")
# The identity goes into keys of tables and into logs.
SUBJECT_CHARS = 256
SCOPES = 256
_CLAIMS = ("iss", "aud", "exp", "nbf", "iat", "sub", "scope", "scp")
# An `exp` beyond this (some 30 000 years) is no date.
FAR = 1e12
INVALID = "the token is not valid"


class Token(msgspec.Struct, frozen=True):
    """A token that is well-formed, and nothing more: nothing of it is true yet."""

    text: str
    algorithm: str
    kid: str | None
    issuer: str
    claims: dict[str, jsonrpc.Raw]


def parse_token(token: str, limits: Limits) -> Token | Rejected:
    """Read a compact token without believing it."""
    match = _COMPACT.fullmatch(token) if len(token) <= limits.token_bytes else None
    if match is None:
        return _rejected("not in the form of a signed token")
    header, claims = _part(match[1]), _part(match[2])
    if header is None or claims is None:
        return _rejected("a header or claims that are no strict JSON object")
    algorithm, kid = values.text_of(header, "alg"), values.text_of(header, "kid")
    kind = values.text_of(header, "typ") if "typ" in header else "jwt"
    if kind is None or kind.lower() not in _TYPES:
        return _rejected("a token of another type")
    if "crit" in header or "b64" in header or algorithm is None or ("kid" in header and kid is None):
        # RFC 7515 section 4.1.11: what is critical must be understood, and none of it is here.
        return _rejected("a header that is not supported")
    issuer = values.text_of(claims, "iss")
    if issuer is None:
        return _rejected("no issuer")
    return Token(token, algorithm, kid, issuer, claims)


def _part(text: str) -> dict[str, jsonrpc.Raw] | None:
    try:
        return strict_object(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, ValueError):
        return None


def _rejected(why: str) -> Rejected:
    return Rejected(INVALID, why)


class Verifier:
    """Checks signatures."""

    def __init__(self) -> None:
        self._registries: dict[str, Any] = {}

    def preload(self) -> None:
        """Import the library now: a fifth of a second that the first token should not cost everybody."""
        for algorithm in ALGORITHMS:
            self._registry(algorithm)

    def signed(self, token: Token, key: Jwk) -> bool:
        """Whether `key` made the signature. The key fits the algorithm, which was allowed."""
        from joserfc.jws import deserialize_compact

        try:
            deserialize_compact(token.text, key.key, registry=self._registry(token.algorithm))
        except Exception:  # whatever a library makes of a token, it is not signed
            return False
        return True

    def _registry(self, algorithm: str) -> Any:
        found = self._registries.get(algorithm)
        if found is None:
            found = self._registries[algorithm] = _registry(algorithm)
        return found


def _registry(algorithm: str) -> Any:
    """What joserfc may use: this one algorithm. Sizes were checked, and header parameters that are not known
    are ignored (RFC 7515 section 4)."""
    from joserfc.errors import UnsupportedAlgorithmError
    from joserfc.jws import JWSRegistry

    class Registry(JWSRegistry):
        max_header_length = max_payload_length = max_signature_length = 1 << 20

        def get_alg(self, name: str) -> Any:
            # The library's own would write a warning about EdDSA to stderr.
            if name != algorithm:
                raise UnsupportedAlgorithmError
            return self.algorithms[name]

    return Registry(algorithms=[algorithm], strict_check_header=False)


def check_claims(
    token: Token, issuer: IssuerConfig, audience: tuple[str, ...], wall: float, limits: Limits
) -> Grant | Rejected:
    """What a token whose signature is right lets its bearer do, at the time of day `wall` (Unix seconds)."""
    claims = {name: _plain(token.claims[name]) for name in _CLAIMS if name in token.claims}
    if "cnf" in token.claims:
        # RFC 9449 section 7.1, RFC 8705: it is bound to a key, and whoever only holds it is not its owner.
        return _rejected("a token that is bound to a key")
    told, subject, expires = claims.get("aud"), claims.get("sub"), _date(claims.get("exp"))
    audiences = told if isinstance(told, list) else [told]
    wrong = ""
    if claims.get("iss") != issuer.issuer:
        wrong = "iss"
    elif not all(isinstance(one, str) for one in audiences) or not any(one in audience for one in audiences):
        # Ours, not theirs: what the provider has to be told, or `audience` has to say.
        return _rejected(f"aud names none of: {', '.join(audience)}")
    elif math.isnan(expires):
        wrong = "exp"
    # Both may be left out, but not be nonsense: no NaN is less than anything.
    elif not all(_date(claims.get(name, 0)) <= wall + limits.token_leeway_s for name in ("nbf", "iat")):
        return _rejected("nbf or iat is in the future by the clock here, or no date")
    elif not isinstance(subject, str) or not 0 < len(subject) <= SUBJECT_CHARS or not subject.isprintable():
        wrong = "sub"
    scopes = _scopes(claims)
    if wrong or scopes is None:
        return _rejected(f"{wrong or 'scope'} is not as it must be")
    expires += limits.token_leeway_s
    if not wall < expires:
        return Rejected("the token has expired", f"expired, of {subject}")
    return Grant(Principal(f"jwt:{issuer.issuer}#{subject}"), scopes, expires)


def _plain(raw: jsonrpc.Raw) -> Any:
    """A claim as plain data; what cannot be read is as wrong as any other text."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _date(value: Any) -> float:
    """A NumericDate (RFC 7519 section 2); NaN for anything else, also for true, which Python calls 1."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return float(max(-FAR, min(value, FAR)))


def _scopes(claims: dict[str, Any]) -> tuple[str, ...] | None:
    """`scope`, a text (RFC 9068 section 2.2.3), or `scp`, a list or a text, as some issuers have it."""
    told = claims.get("scope", claims.get("scp", ""))
    found = told.split(" ") if isinstance(told, str) else told
    if not isinstance(found, list) or len(found) > SCOPES or not all(isinstance(one, str) for one in found):
        return None
    return tuple(dict.fromkeys(one for one in found if one))
