"""Proving who a client is with its private key (`private_key_jwt`, RFC 7523).

Owns: one signed assertion. Signatures are deterministic (RFC 6979, RFC 8032, PKCS #1 v1.5), so that a run can
be replayed.
Must never: keep the key, or name what is wrong with it in words that are not ours.
"""

from __future__ import annotations

import base64
from typing import Any

import msgspec

__all__ = ["assertion"]

# Authorization servers accept minutes; the token request follows at once.
LIFE_S = 120


def assertion(
    key: str, *, key_id: str, client_id: str, audience: str, serial: str, wall: float
) -> str | None:
    """The assertion for one token request, or None if `key` is no PEM of an RSA, P-256 or Ed25519 key (P-256
    needs OpenSSL 3.2 or later).

    `serial` is a text that was never used before (`jti`), `wall` Unix seconds.
    """
    signer = _signer(key)
    if signer is None:
        return None
    algorithm, sign = signer
    header = {"alg": algorithm, "typ": "JWT"} | ({"kid": key_id} if key_id else {})
    issued = int(wall)
    claims = {
        "iss": client_id,
        "sub": client_id,
        "aud": audience,
        "jti": serial,
        "iat": issued,
        "exp": issued + LIFE_S,
    }
    parts = b".".join(_encoded(msgspec.json.encode(part)) for part in (header, claims))
    return (parts + b"." + _encoded(sign(parts))).decode("ascii")


def _encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _signer(pem: str) -> tuple[str, Any] | None:
    # Loaded where it is used: most runs never sign.
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem.encode("utf-8"), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "EdDSA", key.sign
    if isinstance(key, rsa.RSAPrivateKey):
        return "RS256", lambda data: _sign_rsa(key, data)
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        from cryptography.hazmat.primitives.hashes import SHA256

        try:
            scheme = ec.ECDSA(SHA256(), deterministic_signing=True)
        except (TypeError, UnsupportedAlgorithm):
            return None
        return "ES256", lambda data: _sign_p256(key, scheme, data)
    return None


def _sign_rsa(key: Any, data: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    signature: bytes = key.sign(data, PKCS1v15(), SHA256())
    return signature


def _sign_p256(key: Any, scheme: Any, data: bytes) -> bytes:
    """RFC 7518 section 3.4: the two numbers, one after the other."""
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    r, s = decode_dss_signature(key.sign(data, scheme))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")
