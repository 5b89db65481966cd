"""The documents of OAuth, and what is read from them: pure functions, with the odd cases as tables."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcpgate_proto.config import GatewayConfig
from mcpgate_proto.effects import Browse
from mcpgate_proto.hub import Hub
from mcpgate_proto.upstream import oauth
from mcpgate_proto.upstream.desk import Desk
from mcpgate_proto.upstream.token_record import Entry, Record, encode_record, read_record, record_name

SERVER = "https://mcp.example/a/mcp"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], oauth.Challenge()),
        (["Basic realm=x"], oauth.Challenge()),
        (["Bearer"], oauth.Challenge()),
        (["bearer scope=read"], oauth.Challenge(scopes=("read",))),
        (
            ['Bearer error="insufficient_scope", scope="a b a", resource_metadata="https://m/x"'],
            oauth.Challenge("https://m/x", ("a", "b"), "insufficient_scope"),
        ),
        (["Basic realm=x, Bearer scope=read"], oauth.Challenge(scopes=("read",))),
        (["Negotiate", 'Bearer scope="read"'], oauth.Challenge(scopes=("read",))),
        (['Bearer realm="a \\" scope=evil", scope="read"'], oauth.Challenge(scopes=("read",))),
        (['Bearer scope="first", scope="second"'], oauth.Challenge(scopes=("first",))),
        (['Bearer error="<script>"'], oauth.Challenge()),
        (['Bearer scope="a\\"b c"'], oauth.Challenge(scopes=("c",))),
        (["BearerX scope=read"], oauth.Challenge()),
    ],
)
def test_challenges(values: list[str], expected: oauth.Challenge) -> None:
    assert oauth.challenge_of(values) == expected


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("https://MCP.Example/mcp", "https://mcp.example/mcp"),
        ("https://mcp.example/", "https://mcp.example"),
        ("https://mcp.example", "https://mcp.example"),
        ("https://mcp.example:443/x", "https://mcp.example/x"),
        ("https://mcp.example:8443/x/", "https://mcp.example:8443/x/"),
        ("http://127.0.0.1:80/mcp?a=b", "http://127.0.0.1/mcp?a=b"),
        ("https://[::1]:443/x", "https://[::1]/x"),
    ],
)
def test_the_canonical_uri_of_a_server(url: str, canonical: str) -> None:
    """J12."""
    assert oauth.canonical(url) == canonical


@pytest.mark.parametrize(
    ("server", "challenge", "expected"),
    [
        (
            SERVER,
            "",
            ["/.well-known/oauth-protected-resource/a/mcp", "/.well-known/oauth-protected-resource"],
        ),
        ("https://mcp.example/", "", ["/.well-known/oauth-protected-resource"]),
        (SERVER, "https://mcp.example/prm", ["/prm"]),
        (SERVER, "https://MCP.example:443/prm", "MCP.example:443"),
    ],
)
def test_where_resource_metadata_is(server: str, challenge: str, expected: Any) -> None:
    found = oauth.resource_urls(server, oauth.Challenge(challenge))
    assert isinstance(found, list)
    if isinstance(expected, str):
        assert found == [challenge]
    else:
        assert found == [f"https://mcp.example{path}" for path in expected]


@pytest.mark.parametrize(
    ("scopes", "offline"), [((), False), (("read",), False), (("read", "offline_access"), True)]
)
def test_the_authorization_url(scopes: tuple[str, ...], offline: bool) -> None:
    from urllib.parse import parse_qsl, urlsplit

    server = oauth.AuthorizationServer(
        issuer="https://as.example",
        token_endpoint="https://as.example/token",
        authorization_endpoint="https://as.example/authorize?tenant=t&client_id=evil&state=",
    )
    request = oauth.Authorization(
        "https://as.example", True, "s/+ &=", "v" * 43, "http://127.0.0.1:1/callback"
    )
    url = oauth.authorization_url(server, request, client_id="c&x=y", resource=SERVER, scopes=scopes)
    pairs = parse_qsl(urlsplit(url).query)
    asked = dict(pairs)
    assert len(asked) == len(pairs) and asked["tenant"] == "t", (
        "the endpoint's own query is kept, ours counts"
    )
    assert (asked["client_id"], asked["state"], asked["resource"]) == ("c&x=y", "s/+ &=", SERVER)
    assert asked["code_challenge"] == oauth.code_challenge("v" * 43) and "v" * 43 not in url
    assert asked.get("scope", "") == " ".join(scopes) and (asked.get("prompt") == "consent") is offline


def test_the_code_challenge_of_the_rfc() -> None:
    """RFC 7636 appendix B."""
    verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    assert oauth.code_challenge(verifier) == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


@pytest.mark.parametrize(
    ("expires", "seconds"),
    [
        (3600, 3600.0),
        ("3600", 3600.0),
        (0, 0.0),
        (12.5, 12.5),
        (-1, None),
        (1e300, None),
        ("soon", None),
        (None, None),
        ([], None),
        (True, 1.0),
    ],
)
def test_how_long_a_token_lasts(expires: Any, seconds: float | None) -> None:
    import msgspec

    told = {"access_token": "a", "token_type": "bearer", "expires_in": expires}
    read = oauth.read_token(msgspec.json.encode(told))
    assert isinstance(read, oauth.Token) and read.expires_in_s == seconds


@given(st.binary(max_size=200))
@example(b'{"principal":"\xff"}')
def test_no_document_raises(data: bytes) -> None:
    for read in (
        oauth.read_token(data),
        oauth.read_registration(data, "http://127.0.0.1:1/callback", "none"),
        oauth.read_metadata(data, "https://as.example", allow_loopback=False),
        oauth.read_resource(data, SERVER, allow_loopback=False),
    ):
        assert isinstance(read, str)
    oauth.error_of(data)
    read_record(data, "local", SERVER)


@given(st.text(max_size=200))
def test_no_header_or_query_raises(text: str) -> None:
    oauth.challenge_of([text, f"Bearer {text}", f'Bearer scope="{text}"'])
    request = oauth.Authorization(
        "https://as.example", True, "state", "v" * 43, "http://127.0.0.1:1/callback"
    )
    for query in (text, f"state=state&{text}", f"code=x&state={text}"):
        oauth.read_callback(query, request)
    oauth.same_origin(text, SERVER)
    oauth.same_origin(f"https://{text}", SERVER)


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "http://as.example/", "https://u@as.example/", "https://a/\n", "file:///x"]
)
def test_the_desk_shows_nothing_but_addresses_that_pass(url: str) -> None:
    """threats.md row 29: the last check before somebody's browser."""
    hub = Hub(GatewayConfig(), now=0.0, wall=0.0, seed=bytes(32))
    desk = Desk(hub)
    assert not desk.browse("s1", url) and not hub.drain()
    assert desk.browse("s1", "https://as.example/authorize?x=y")
    assert hub.drain() == [Browse("s1", "https://as.example/authorize?x=y")]


def test_a_record_is_its_own_and_remembers_a_few_issuers() -> None:
    record = Record("local", SERVER)
    for number in range(6):
        record = record.with_entry(f"https://as{number}.example", Entry(access=f"t{number}"))
    assert len(record.entries) == 4 and record.current.access == "t5"
    data = encode_record(record)
    assert read_record(data, "local", SERVER) == record
    for principal, server in (("key:x", SERVER), ("local", f"{SERVER}/"), ("", "")):
        assert read_record(data, principal, server) == Record(principal, server)
    names = {record_name(one, two) for one in ("local", "key:a", "a") for two in (SERVER, "x", "")}
    assert len(names) == 9 and all(len(name) == 40 for name in names)
