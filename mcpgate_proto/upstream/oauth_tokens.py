"""Requests to a token endpoint and to a registration endpoint.

Owns: their forms and bodies, how a client proves who it is (RFC 6749 section 2.3, RFC 7523), and what the
answers mean.
Must never: send a secret to an endpoint of another issuer than the one it belongs to; the caller brings both
from one `Found`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TypeAlias
from urllib.parse import quote, urlencode

import msgspec

from mcpgate_proto.config import OAuthConfig
from mcpgate_proto.hub import Hub
from mcpgate_proto.upstream import oauth
from mcpgate_proto.upstream.fetch import FetchFailed, FetchResult
from mcpgate_proto.upstream.oauth_discovery import Errand, Found

__all__ = ["Denial", "Tokens", "configured"]

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
METHODS = ("none", "client_secret_basic", "client_secret_post")


class Denial(msgspec.Struct, frozen=True):
    """There is no token. `final`: the authorization server said so (`code` tells how), and asking again with
    the same proof is in vain."""

    reason: str
    final: bool = False
    code: str = ""


Got: TypeAlias = Callable[["oauth.Token | Denial"], None]


def configured(wants: OAuthConfig, server: oauth.AuthorizationServer) -> oauth.Registration | None:
    """The client that the operator registered, as it proves itself to `server`; or its own metadata document,
    where `server` takes such (J14)."""
    if wants.client_id:
        return oauth.Registration(wants.client_id, wants.client_secret, _method(wants, server))
    if wants.client_metadata_url and server.takes_metadata_documents:
        method = "private_key_jwt" if wants.client_key else "none"
        return oauth.Registration(wants.client_metadata_url, "", method)
    return None


def _method(wants: OAuthConfig, server: oauth.AuthorizationServer) -> str:
    if wants.client_key:
        return "private_key_jwt"
    if not wants.client_secret:
        return "none"
    offered = server.auth_methods
    only_post = "client_secret_post" in offered and "client_secret_basic" not in offered
    return "client_secret_post" if only_post else "client_secret_basic"


class Tokens:
    """Token requests for one server."""

    def __init__(self, hub: Hub, errand: Errand) -> None:
        self._hub = hub
        self._errand = errand

    # -- the three grants

    def by_code(
        self, found: Found, client: oauth.Registration, request: oauth.Authorization, code: str, got: Got
    ) -> None:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": request.redirect_uri,
            "code_verifier": request.verifier,
        }
        self._ask(found, client, form, got)

    def by_refresh(self, found: Found, client: oauth.Registration, refresh: str, got: Got) -> None:
        self._ask(found, client, {"grant_type": "refresh_token", "refresh_token": refresh}, got)

    def by_own(self, found: Found, client: oauth.Registration, scopes: tuple[str, ...], got: Got) -> None:
        form = {"grant_type": "client_credentials"}
        if scopes:
            form["scope"] = " ".join(scopes)
        self._ask(found, client, form, got)

    def _ask(self, found: Found, client: oauth.Registration, form: dict[str, str], got: Got) -> None:
        form["resource"] = found.resource  # J12: whether or not anybody reads it
        headers = [("Content-Type", "application/x-www-form-urlencoded"), ("Accept", "application/json")]
        if client.method == "client_secret_basic":
            pair = f"{quote(client.client_id, safe='')}:{quote(client.client_secret, safe='')}"
            headers.append(("Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}"))
        # With Basic it need not be there (RFC 6749 section 2.3.1), but the official SDK's server wants it.
        form["client_id"] = client.client_id
        if client.method == "client_secret_post":
            form["client_secret"] = client.client_secret
        elif client.method == "private_key_jwt":
            proof = self._assertion(found, client)
            if proof is None:
                denial = Denial("oauth.client_key is no private key that can be used", True)
                self._hub.after(0.0, "no assertion", lambda: got(denial))
                return
            form |= {"client_assertion_type": ASSERTION_TYPE, "client_assertion": proof}
        body = urlencode(form).encode("ascii")
        url = found.server.token_endpoint
        self._errand.post(url, tuple(headers), body, lambda result: got(_read(result)))

    def _assertion(self, found: Found, client: oauth.Registration) -> str | None:
        # Loaded where it is used.
        from mcpgate_proto.upstream.client_assertion import assertion

        wants = self._errand.wants
        return assertion(
            wants.client_key,
            key_id=wants.client_key_id,
            client_id=client.client_id,
            # RFC 7523 section 3 lets either be the audience; the issuer cannot be another server's endpoint.
            audience=found.server.issuer,
            serial=self._hub.entropy.token(128),
            wall=self._hub.wall,
        )

    # -- registration

    def register(
        self,
        found: Found,
        redirect_uri: str,
        scopes: tuple[str, ...],
        done: Callable[[oauth.Registration | Denial], None],
    ) -> None:
        """Dynamic registration (RFC 7591); `found` has a registration endpoint."""
        method = next((one for one in METHODS if one in found.server.auth_methods), "none")
        body = oauth.registration_body(redirect_uri, scopes, method, self._hub.config.version)

        def answered(result: FetchResult) -> None:
            if isinstance(result, FetchFailed) or result.status not in (200, 201):
                done(_refusal(result, "the registration"))
                return
            read = oauth.read_registration(result.body, redirect_uri, method)
            if isinstance(read, str):
                done(Denial(read, True))
            elif read.method not in METHODS or (read.method != "none" and not read.client_secret):
                done(
                    Denial("the registration gave a client that has to prove itself in an unknown way", True)
                )
            else:
                done(read)

        headers = (("Content-Type", "application/json"), ("Accept", "application/json"))
        self._errand.post(found.server.registration_endpoint, headers, body, answered)


def _read(result: FetchResult) -> oauth.Token | Denial:
    if isinstance(result, FetchFailed) or result.status != 200:
        return _refusal(result, "the token endpoint")
    read = oauth.read_token(result.body)
    return Denial(read, True) if isinstance(read, str) else read


def _refusal(result: FetchResult, what: str) -> Denial:
    if isinstance(result, FetchFailed):
        return Denial(f"{what} cannot be used: {result.reason}", 200 <= result.status < 400)
    code = oauth.error_of(result.body)
    final = 400 <= result.status < 500 and result.status not in (408, 429)
    return Denial(f"{what} answered HTTP {result.status}{f' {code}' if code else ''}", final, code)
