"""Fetching an issuer's public keys, for `security/jwks.py`, which decides when.

Owns: what such a request may reach. Must never: take a URL from anywhere but the settings.
"""

from __future__ import annotations

from collections.abc import Callable

from mcpgate_proto.config import IssuerConfig
from mcpgate_proto.upstream.fetch import Fetcher, FetchFailed, FetchRequest, FetchResult
from mcpgate_proto.upstream.oauth_discovery import is_local

__all__ = ["fetch_key_set"]


def fetch_key_set(fetcher: Fetcher, issuer: IssuerConfig, done: Callable[[bytes | None, str], None]) -> None:
    """`done` gets the document, or None and why there is none; once, and never from within."""

    def fetched(result: FetchResult) -> None:
        if isinstance(result, FetchFailed):
            done(None, result.reason)
        elif result.status != 200:
            done(None, f"HTTP {result.status}")
        else:
            done(result.body, "")

    # The operator has written it down: an issuer on the own network is normal, one on this machine only where
    # the URL says so, not where its name happens to lead here.
    url = issuer.jwks_url
    request = FetchRequest(url=url, allow_loopback=is_local(url), allow_private=True, ca_file=issuer.ca_file)
    fetcher.fetch(request, fetched)
