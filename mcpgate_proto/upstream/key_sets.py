"""Fetching an issuer's public keys, for `security/jwks.py`, which decides when.

    jwks_url              as the settings have it; left out:
    issuer's metadata     at its well-known places, in the fixed order (RFC 8414 section 3, OpenID Connect
                          Discovery section 4), each time anew: what it names may change
    jwks_uri              as that document has it

Owns: what such requests may reach. Must never: take a URL from a token, or go on with the metadata of another
issuer.
"""

from __future__ import annotations

from collections.abc import Callable

from mcpgate_proto.config import IssuerConfig
from mcpgate_proto.security.egress import parse_url
from mcpgate_proto.security.jwks import strict_object
from mcpgate_proto.upstream.fetch import Fetcher, FetchFailed, FetchRequest, FetchResult
from mcpgate_proto.upstream.oauth import metadata_urls, same_origin
from mcpgate_proto.upstream.oauth_discovery import is_absent, is_local, reason_of
from mcpgate_proto.wire import values

__all__ = ["fetch_key_set"]

Got = Callable[[bytes | None, str], None]


def fetch_key_set(fetcher: Fetcher, issuer: IssuerConfig, done: Got) -> None:
    """`done` gets the document, or None and why there is none; once, and never from within."""
    if issuer.jwks_url:
        _fetch_keys(fetcher, issuer, issuer.jwks_url, done)
    else:
        _look_up(fetcher, issuer, metadata_urls(issuer.issuer), done)


def _look_up(fetcher: Fetcher, issuer: IssuerConfig, urls: list[str], done: Got) -> None:
    def came(result: FetchResult) -> None:
        if isinstance(result, FetchFailed) or result.status != 200:
            if len(urls) > 1 and is_absent(result):
                _look_up(fetcher, issuer, urls[1:], done)
            else:
                done(
                    None,
                    f"the issuer's metadata cannot be read: {reason_of(result)}; jwks_url can name the keys",
                )
            return
        found = strict_object(result.body)
        url = values.text_of(found, "jwks_uri") if found is not None else None
        if found is None or values.text_of(found, "issuer") != issuer.issuer:
            # RFC 8414 section 3.3: it must be the very text that was asked for.
            done(None, "the issuer's metadata is of another issuer")
        elif url is None or isinstance(parse_url(url, allow_loopback=is_local(issuer.issuer)), str):
            done(None, "the issuer's metadata names no jwks_uri that may be used; jwks_url can name the keys")
        else:
            _fetch_keys(fetcher, issuer, url, done)

    fetcher.fetch(_request(issuer, urls[0], issuer.issuer), came)


def _fetch_keys(fetcher: Fetcher, issuer: IssuerConfig, url: str, done: Got) -> None:
    def came(result: FetchResult) -> None:
        if isinstance(result, FetchFailed) or result.status != 200:
            done(None, reason_of(result))
        else:
            done(result.body, "")

    fetcher.fetch(_request(issuer, url, issuer.jwks_url or issuer.issuer), came)


def _request(issuer: IssuerConfig, url: str, written: str) -> FetchRequest:
    """`written` is what the operator has written down: an issuer on the own network is normal, one on this
    machine only where the URL says so, not where its name happens to lead here. What its metadata names
    elsewhere has to be public (K3)."""
    return FetchRequest(
        url=url,
        allow_loopback=is_local(written),
        allow_private=same_origin(url, written),
        ca_file=issuer.ca_file,
    )
