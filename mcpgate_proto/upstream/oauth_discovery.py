"""Finding out who issues tokens for a server (J11).

    resource metadata     where the challenge says, else at the server's well-known places
    its issuer            the configured one, else the first that the metadata names
    issuer's metadata     at its well-known places, in the fixed order

Owns: `Discovery`, the order of these fetches and what each failure means; `Errand`, how far a fetch for one
server may reach.
Must never: go on with a document that names another resource or issuer, or try elsewhere after one that did.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias
from urllib.parse import urlsplit

import msgspec

from mcpgate_proto.config import OAuthConfig, ServerConfig
from mcpgate_proto.hub import Hub
from mcpgate_proto.security.egress import Kind, Place, kind_of, parse_url
from mcpgate_proto.upstream import oauth
from mcpgate_proto.upstream.fetch import Done, Fetcher, FetchFailed, FetchRequest, FetchResult

__all__ = ["Discovery", "Errand", "Found", "is_absent", "is_local", "reason_of"]


class Found(msgspec.Struct, frozen=True):
    """Who issues tokens, and for what. `scopes` are those that basic use needs; None: nothing says."""

    resource: str
    server: oauth.AuthorizationServer
    scopes: tuple[str, ...] | None = None


def is_local(url: str) -> bool:
    """Whether the server at `url` is on this machine, so that what it names may be too."""
    place = parse_url(url, allow_loopback=True)
    return isinstance(place, Place) and (place.host == "localhost" or kind_of(place.host) is Kind.LOOPBACK)


class Errand:
    """Fetches on behalf of one server."""

    def __init__(self, fetcher: Fetcher, config: ServerConfig, wants: OAuthConfig) -> None:
        self.config = config
        self.wants = wants
        self.local = is_local(config.url)
        self._fetcher = fetcher

    def get(self, url: str, done: Done) -> None:
        self._fetcher.fetch(self._within(FetchRequest(url=url)), done)

    def post(self, url: str, headers: tuple[tuple[str, str], ...], body: bytes, done: Done) -> None:
        self._fetcher.fetch(
            self._within(FetchRequest(method="POST", url=url, headers=headers, body=body)), done
        )

    def _within(self, request: FetchRequest) -> FetchRequest:
        """The server's own origin is where the operator said; all else is what a peer named (K3)."""
        own = oauth.same_origin(request.url, self.config.url)
        return msgspec.structs.replace(
            request,
            allow_loopback=self.local,
            allow_private=own or self.wants.allow_private,
            ca_file=self.config.ca_file if own else self.wants.ca_file,
        )


Step: TypeAlias = Callable[[bytes], bool]


class Discovery:
    """One discovery. `done` gets what was found, or why nothing was: our own text; never from within."""

    def __init__(
        self, hub: Hub, errand: Errand, challenge: oauth.Challenge, done: Callable[[Found | str], None]
    ) -> None:
        self._hub = hub
        self._errand = errand
        self._challenge = challenge
        self._done = done
        self._resource = oauth.canonical(errand.config.url)
        self._scopes: tuple[str, ...] | None = None
        self._urls: list[str] = []

    def start(self) -> None:
        wants = self._errand.wants
        if wants.token_url:
            issuer = wants.issuer or _origin(wants.token_url)
            known = oauth.AuthorizationServer(issuer=issuer, token_endpoint=wants.token_url)
            self._soon(self._found(known))
            return
        urls = oauth.resource_urls(self._errand.config.url, self._challenge)
        if isinstance(urls, str):
            self._soon(urls)
            return
        self._urls = urls
        self._next_resource()

    def _soon(self, result: Found | str) -> None:
        self._hub.after(0.0, "discovery", lambda: self._done(result))

    # -- the resource

    def _next_resource(self) -> None:
        if not self._urls:
            # As 2025-03-26 had it: the server's own root is the authorization server.
            self._metadata_of(self._errand.wants.issuer or _origin(self._errand.config.url))
            return
        self._errand.get(self._urls.pop(0), self._resource_came)

    def _resource_came(self, result: FetchResult) -> None:
        if isinstance(result, FetchFailed) or result.status != 200:
            if not self._challenge.resource_metadata and is_absent(result):
                self._next_resource()
            else:
                self._done(f"its resource metadata cannot be read: {reason_of(result)}")
            return
        server = self._errand.config.url
        read = oauth.read_resource(result.body, server, allow_loopback=self._errand.local)
        if isinstance(read, str):
            self._done(read)
            return
        self._resource = read.resource
        self._scopes = read.scopes
        wanted = self._errand.wants.issuer
        if wanted and wanted not in read.authorization_servers:
            self._done("it names another authorization server than oauth.issuer")
            return
        self._metadata_of(wanted or read.authorization_servers[0])

    # -- the authorization server

    def _metadata_of(self, issuer: str) -> None:
        self._urls = oauth.metadata_urls(issuer)
        self._next_metadata(issuer)

    def _next_metadata(self, issuer: str) -> None:
        if not self._urls:
            self._done("its authorization server has no metadata")
            return
        self._errand.get(self._urls.pop(0), lambda result: self._metadata_came(issuer, result))

    def _metadata_came(self, issuer: str, result: FetchResult) -> None:
        if isinstance(result, FetchFailed) or result.status != 200:
            if is_absent(result):
                self._next_metadata(issuer)
            else:
                self._done(f"the metadata of its authorization server cannot be read: {reason_of(result)}")
            return
        read = oauth.read_metadata(result.body, issuer, allow_loopback=self._errand.local)
        self._done(read if isinstance(read, str) else self._found(read))

    def _found(self, server: oauth.AuthorizationServer) -> Found:
        return Found(self._errand.wants.resource or self._resource, server, self._scopes)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def is_absent(result: FetchResult) -> bool:
    """There is no such document: a plain no, or a page for people. Anything else may be a passing fault,
    after which another place must not be believed."""
    if isinstance(result, FetchFailed):
        return 200 <= result.status < 300
    return 400 <= result.status < 500 and result.status not in (408, 429)


def reason_of(result: FetchResult) -> str:
    """Why there is no document."""
    return result.reason if isinstance(result, FetchFailed) else f"HTTP {result.status}"
