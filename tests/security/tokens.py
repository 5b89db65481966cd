"""An issuer of tokens for tests: its keys, its key set, good tokens and bad ones.

Owns: signing with joserfc, and pieces that no library would put together. Must never: be lenient; a test says
what is wrong with a token, and all else of it is right.
"""

from __future__ import annotations

import base64
import functools
import json
import warnings
from typing import Any

from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

__all__ = [
    "AUDIENCE",
    "ISSUER",
    "KEYS",
    "WALL",
    "b64",
    "claims",
    "jwks",
    "public",
    "signed_by_the_library",
    "token",
]

ISSUER = "https://idp.example/realms/main"
AUDIENCE = "https://gw.example/mcp"
WALL = 1_790_000_000.0


@functools.cache
def key(name: str) -> Any:
    """A private key: `rsa`, `rsa2`, `weak`, `p256`, `p384`, `p521`, `ed25519`. Made once: that takes time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name.startswith(("rsa", "weak")):
            return RSAKey.generate_key(1024 if name == "weak" else 2048)
        if name == "ed25519":
            return OKPKey.generate_key("Ed25519")
        return ECKey.generate_key({"p256": "P-256", "p384": "P-384", "p521": "P-521"}[name])  # type: ignore[arg-type]


class _Keys:
    def __getitem__(self, name: str) -> Any:
        return key(name)


KEYS = _Keys()


def public(name: str, **more: Any) -> dict[str, Any]:
    """The public half as a JWK, with a `kid` of its own name."""
    return {**KEYS[name].as_dict(private=False), "kid": name, **more}


def jwks(*keys: dict[str, Any]) -> str:
    return json.dumps({"keys": list(keys)})


def b64(data: bytes | str | dict[str, Any]) -> str:
    if isinstance(data, dict):
        data = json.dumps(data)
    raw = data.encode() if isinstance(data, str) else data
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def claims(**other: Any) -> dict[str, Any]:
    """The claims of a good token; `other` replaces some, None takes one away."""
    found = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "exp": int(WALL) + 600,
        "iat": int(WALL) - 10,
        "scope": "mcp:use",
        **other,
    }
    return {name: value for name, value in found.items() if value is not None}


class _Any(JWSRegistry):
    """Signs with whatever is asked for."""

    def get_alg(self, name: str) -> Any:
        return self.algorithms[name]

    def check_header(self, header: Any) -> None:
        pass


def token(
    told: dict[str, Any] | str | None = None,
    *,
    by: str = "rsa",
    alg: str = "RS256",
    header: dict[str, Any] | str | None = None,
    signing: Any = None,
    **other: Any,
) -> str:
    """A token signed by the key `by`; `other` are claims. `header` is added to `alg`, `kid` and `typ`, or is
    the whole header as text; `told` are the claims as they are, or as text; `signing` another key object."""
    body = claims(**other) if told is None else told
    payload = body if isinstance(body, str) else json.dumps(body)
    if isinstance(header, str):
        head = header
    else:
        parts = {"alg": alg, "kid": by, "typ": "at+jwt", **(header or {})}
        head = json.dumps({name: value for name, value in parts.items() if value is not None})
    text = f"{b64(head)}.{b64(payload)}"
    model = JWSRegistry.algorithms[alg]
    return f"{text}.{b64(model.sign(text.encode(), signing or KEYS[by]))}"


def signed_by_the_library(**other: Any) -> str:
    """The same by the library's own front door, so that `token` is no law to itself."""
    return jws.serialize_compact({"alg": "RS256", "kid": "rsa"}, json.dumps(claims(**other)), KEYS["rsa"])
