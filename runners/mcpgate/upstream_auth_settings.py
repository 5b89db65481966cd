"""The keys of `[[server]]` that say how mcpgate shows who it is to a server, and over what.

Owns: `allow_plain_http`, `forward_headers` and `[server.oauth]`: what they mean and what goes together.
Must never: read a secret that is not typed as one, or keep a value that was not checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mcpgate.auth_settings import is_scope
from mcpgate.tables import Table
from mcpgate_proto.config import OAuthConfig
from mcpgate_proto.security.address import is_loopback
from mcpgate_proto.security.egress import parse_url
from mcpgate_proto.security.forward import header_problem

__all__ = ["UPSTREAM_AUTH_KEYS", "UpstreamAuth", "plain_http_problem", "read_oauth", "read_upstream_auth"]

UPSTREAM_AUTH_KEYS = ("allow_plain_http", "forward_headers", "oauth")
GRANTS = ("authorization_code", "client_credentials")
# Transports whose every message is an HTTP request with headers of its own.
PER_REQUEST = ("http", "sse")


@dataclass(frozen=True)
class UpstreamAuth:
    """What the keys of one server say."""

    allow_plain_http: bool = False
    forward_headers: tuple[str, ...] = ()
    oauth: OAuthConfig | None = None


def plain_http_problem(url: str) -> str:
    """Why `url` may not be used without more, or nothing: tokens and calls would go in the clear."""
    parts = urlsplit(url)
    if parts.scheme in ("http", "ws") and not is_loopback(parts.hostname or ""):
        return f"is plain {parts.scheme}, which everybody on the way can read and change"
    return ""


def read_upstream_auth(table: Table, transport: str, url: str, base: Path) -> UpstreamAuth:
    """The keys of one `[[server]]`; what is wrong with them is noted."""
    problems = table.problems
    allow = table.flag("allow_plain_http", False)
    through_socket = transport == "http" and "socket_path" in table.values
    if _is_url(url) and not through_socket and (problem := plain_http_problem(url)):
        if allow:
            problems.warn(table.key("url"), problem, "use TLS")
        else:
            secure = "wss" if url.startswith("ws") else "https"
            mend = f"write {secure}://, or allow_plain_http = true if the network in between is your own"
            problems.error(table.key("url"), problem, mend)
    return UpstreamAuth(allow, _forward_headers(table, transport), read_oauth(table, transport, url, base))


def _is_url(url: str) -> bool:
    try:
        return bool(urlsplit(url).hostname)
    except ValueError:
        return False  # noted already


def _forward_headers(table: Table, transport: str) -> tuple[str, ...]:
    names = table.texts("forward_headers")
    fixed = {str(name).lower() for name in table.values.get("headers") or ()}
    found: list[str] = []
    for number, name in enumerate(names):
        key = f"{table.key('forward_headers')}[{number}]"
        if problem := header_problem(name):
            table.problems.error(key, problem, "remove it; `headers` sends values of your own")
        elif name.lower() in fixed:
            table.problems.error(key, "has a fixed value in `headers`", "keep one of them")
        else:
            found.append(name)
    if found and transport not in PER_REQUEST and "forward_headers" in table.values:
        key = table.key("forward_headers")
        mend = 'write transport = "http", or remove it'
        table.problems.error(key, f"needs a request of its own for each message, not {transport}", mend)
    return tuple(found)


# -- [server.oauth]


def read_oauth(table: Table, transport: str, url: str, base: Path) -> OAuthConfig | None:
    """How tokens for the server at `url` are got; what is wrong with it is noted."""
    table.known.append("oauth")
    values = table.values.get("oauth")
    if values is None:
        return None
    oauth = Table(values, table.key("oauth"), table.problems, table.expander)
    found = OAuthConfig(
        grant=oauth.text("grant", "authorization_code", GRANTS),  # type: ignore[arg-type]
        client_id=oauth.text("client_id"),
        client_secret=oauth.secret("client_secret"),
        client_key=oauth.secret("client_key"),
        client_key_id=oauth.text("client_key_id"),
        client_metadata_url=oauth.text("client_metadata_url"),
        issuer=oauth.text("issuer"),
        token_url=oauth.text("token_url"),
        scopes=oauth.texts("scopes"),
        resource=oauth.text("resource"),
        callback_port=oauth.whole("callback_port", 0, most=65535),
        allow_private=oauth.flag("allow_private", False),
        ca_file=oauth.file("ca_file", base),
    )
    oauth.finish()
    _check_place(table, oauth, transport)
    _check_urls(oauth, found, url)
    _check_together(oauth, found)
    return found


def _check_place(table: Table, oauth: Table, transport: str) -> None:
    if transport not in PER_REQUEST:
        mend = 'write transport = "http", or send a token of your own with `headers`'
        table.problems.error(oauth.path, f"is for http and sse, not for {transport}", mend)
    if "socket_path" in table.values:
        # Its metadata would be looked for at the host of `url`, which is not where the server is.
        table.problems.error(oauth.path, "needs a server with an address, not a socket_path", "remove one")
    fixed: dict[str, Any] = table.values.get("headers") or {}
    if isinstance(fixed, dict) and any(str(name).lower() == "authorization" for name in fixed):
        mend = "keep one of them: either is the whole Authorization header"
        table.problems.error(f"{table.key('headers')}.Authorization", "is set, and oauth would set it", mend)


def _check_urls(oauth: Table, found: OAuthConfig, url: str) -> None:
    # As for what servers name themselves: plain http only where the server itself is on this machine.
    local = _is_url(url) and is_loopback(urlsplit(url).hostname or "")
    for name in ("issuer", "token_url", "client_metadata_url", "resource"):
        value = getattr(found, name)
        allowed = local and name != "client_metadata_url"
        if value and isinstance(problem := parse_url(value, allow_loopback=allowed), str):
            oauth.problems.error(oauth.key(name), problem, "write it as https://host/path")
    if found.client_metadata_url and urlsplit(found.client_metadata_url).path in ("", "/"):
        key, mend = oauth.key("client_metadata_url"), "write the whole URL of the document"
        oauth.problems.error(key, "has no path", mend)
    for number, scope in enumerate(found.scopes):
        if not is_scope(scope):
            key = f"{oauth.key('scopes')}[{number}]"
            oauth.problems.error(key, "is not one scope", 'write each by itself: ["read", "write"]')


def _check_together(oauth: Table, found: OAuthConfig) -> None:
    note = oauth.problems.error
    if found.client_secret and found.client_key:
        note(oauth.key("client_key"), "and client_secret are two proofs of one thing", "keep one of them")
    if (found.client_secret or found.client_key) and not found.client_id and not found.client_metadata_url:
        note(oauth.key("client_id"), "is missing", "write the id that the secret belongs to")
    if found.client_secret and not found.issuer and not found.token_url:
        # The server names the authorization server: it could name its own, and be shown the secret (J14).
        note(oauth.key("issuer"), "is missing", "write whose secret it is: it is shown to nobody else")
    if found.client_id and found.client_metadata_url:
        note(oauth.key("client_metadata_url"), "and client_id are two names of one client", "keep one")
    if found.grant == "client_credentials":
        if not (found.client_secret or found.client_key):
            mend = 'write client_secret = "${env:NAME}", or client_key'
            note(oauth.key("client_secret"), "is missing", mend)
        for name in ("client_metadata_url", "callback_port"):
            if name in oauth.values:
                note(oauth.key(name), "is for grant authorization_code", "remove it")
    elif found.token_url:
        mend = "write issuer instead: its metadata names all the addresses that a login needs"
        note(oauth.key("token_url"), "is for grant client_credentials", mend)
