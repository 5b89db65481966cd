"""Where an issuer's keys are fetched from: the settings, or what the issuer's own metadata says.

Owns: a fetcher that answers from a table. Must never: reach further than the table says.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from mcpgate_proto.config import IssuerConfig
from mcpgate_proto.upstream.fetch import FetchFailed, FetchRequest, FetchResponse, FetchResult
from mcpgate_proto.upstream.key_sets import fetch_key_set

ISSUER = "https://login.example/realms/tools"
KEYS = "https://login.example/realms/tools/keys"
SET = b'{"keys":[]}'
PLACES = [
    "https://login.example/.well-known/oauth-authorization-server/realms/tools",
    "https://login.example/.well-known/openid-configuration/realms/tools",
    "https://login.example/realms/tools/.well-known/openid-configuration",
]


class Table:
    """In place of `Fetcher`: documents by URL; what is not there is a 404."""

    def __init__(self, documents: dict[str, Any]) -> None:
        self.documents = documents
        self.asked: list[FetchRequest] = []

    def fetch(self, request: FetchRequest, done: Any) -> None:
        self.asked.append(request)
        found = self.documents.get(request.url, 404)
        result: FetchResult
        if isinstance(found, FetchFailed):
            result = found
        elif isinstance(found, int):
            result = FetchResponse(found, "text/html", b"")
        else:
            body = found if isinstance(found, bytes) else json.dumps(found).encode()
            result = FetchResponse(200, "application/json", body)
        done(result)

    @property
    def urls(self) -> list[str]:
        return [one.url for one in self.asked]


def metadata(issuer: str = ISSUER, jwks_uri: Any = KEYS) -> dict[str, Any]:
    return {"issuer": issuer, "jwks_uri": jwks_uri, "token_endpoint": "https://login.example/token"}


def keys_of(table: Table, issuer: str = ISSUER, **more: Any) -> tuple[bytes | None, str]:
    found: list[tuple[bytes | None, str]] = []
    config = IssuerConfig(issuer=issuer, **more)
    fetch_key_set(table, config, lambda body, why: found.append((body, why)))  # type: ignore[arg-type]
    (told,) = found
    return told


def test_the_settings_have_the_first_word() -> None:
    table = Table({KEYS: SET})
    assert keys_of(table, jwks_url=KEYS) == (SET, "")
    assert [(one.url, one.allow_private, one.allow_loopback) for one in table.asked] == [(KEYS, True, False)]


@pytest.mark.parametrize("number", range(3))
def test_the_metadata_is_looked_for_in_the_fixed_order(number: int) -> None:
    table = Table({PLACES[number]: metadata(), KEYS: SET})
    assert keys_of(table) == (SET, "")
    assert table.urls == [*PLACES[: number + 1], KEYS]
    assert all(one.allow_private and not one.allow_loopback for one in table.asked)


def test_nowhere_is_an_error_with_its_mend() -> None:
    told, why = keys_of(table := Table({}))
    assert told is None and "HTTP 404" in why and "jwks_url" in why
    assert table.urls == PLACES


@pytest.mark.parametrize("trouble", [500, 429, FetchFailed("no connection")])
def test_after_a_passing_fault_no_other_place_is_believed(trouble: Any) -> None:
    told, why = keys_of(table := Table({PLACES[0]: trouble, PLACES[1]: metadata(), KEYS: SET}))
    assert told is None and why and table.urls == PLACES[:1]


@pytest.mark.parametrize(
    "document",
    [
        metadata("https://evil.example"),
        metadata(ISSUER + "/"),
        {"jwks_uri": KEYS},
        b"[]",
        b"{",
        b'{"issuer":"https://evil.example","issuer":"'
        + ISSUER.encode()
        + b'","jwks_uri":"'
        + KEYS.encode()
        + b'"}',
    ],
)
def test_the_metadata_of_another_issuer_is_the_end(document: Any) -> None:
    """RFC 8414 section 3.3; threats.md row 40."""
    told, why = keys_of(table := Table({PLACES[0]: document, PLACES[1]: metadata(), KEYS: SET}))
    assert (told, why) == (None, "the issuer's metadata is of another issuer") and table.urls == PLACES[:1]


@pytest.mark.parametrize(
    "uri",
    [
        None,
        5,
        "",
        "keys",
        "file:///etc/passwd",
        "http://login.example/keys",
        "https://a:b@c/",
    ],
)
def test_places_that_no_metadata_may_name(uri: Any) -> None:
    told, why = keys_of(table := Table({PLACES[0]: metadata(jwks_uri=uri), KEYS: SET}))
    assert told is None and "jwks_uri" in why and table.urls == PLACES[:1]


def test_keys_elsewhere_have_to_be_public() -> None:
    """The issuer may be on the own network, since the settings name it; what it names may not be (K3)."""
    for url in ("https://keys.example/set", "https://127.0.0.1/set"):
        table = Table({PLACES[0]: metadata(jwks_uri=url), url: SET})
        assert keys_of(table) == (SET, "")
        assert [one.allow_private for one in table.asked] == [True, False]
        assert not any(one.allow_loopback for one in table.asked)


def test_an_issuer_on_this_machine_has_its_keys_there() -> None:
    local = "http://127.0.0.1:9000"
    place = f"{local}/.well-known/oauth-authorization-server"
    table = Table({place: metadata(local, f"{local}/keys"), f"{local}/keys": SET})
    assert keys_of(table, local) == (SET, "")
    assert [one.allow_loopback for one in table.asked] == [True, True]


def test_keys_that_cannot_be_had() -> None:
    assert keys_of(Table({PLACES[0]: metadata(), KEYS: 503})) == (None, "HTTP 503")
    assert keys_of(Table({KEYS: FetchFailed("no connection")}), jwks_url=KEYS) == (None, "no connection")
