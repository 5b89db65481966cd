"""One gate before everything: each route and method, with every kind of credentials (threats.md section 0
Authentication, rows 6, 14, 15, 24, 25, 26, 28, 40).

Must never: list the routes by hand without noticing a new one; the listener is asked what it has.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from mcpgate_proto import Gateway, GatewayConfig, ListenConfig
from mcpgate_proto.config import AuthConfig, IssuerConfig
from mcpgate_proto.effects import Address, Peer, ServerTls, Stopped
from mcpgate_proto.limits import Limits
from tests.security.porch import CI, KEY, OPS, Headers, Porch, bearer, configured, initialize, modern
from tests.security.tokens import AUDIENCE, ISSUER, WALL, jwks, public, token

METHODS = ("GET", "POST", "DELETE", "OPTIONS", "HEAD", "PUT", "PATCH")
ROUTES = ("/mcp", "/sse", "/messages")
METADATA = ("/.well-known/oauth-protected-resource/mcp", "/.well-known/oauth-protected-resource")
NOWHERE = (
    "/",
    "/mcp/",
    "/MCP",
    "/nothing",
    "/healthz",
    "/metrics",
    "/.well-known/oauth-authorization-server",
)
EVERYWHERE = (*ROUTES, "/messages?session=x", "/mcp?access_token=x", *NOWHERE)
UPGRADE = [
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Protocol", "mcp"),
]
ISSUERS = (IssuerConfig(issuer=ISSUER, jwks=jwks(public("rsa")), scopes=("mcp:use",)),)
TLS = ServerTls(cert_file="/c.pem", key_file="/k.pem")
FULL = AuthConfig(resource=AUDIENCE, keys=configured(), issuers=ISSUERS)


def porch(auth: AuthConfig = FULL, **listen: Any) -> Porch:
    return Porch(auth, websocket=True, sse=True, **listen)


def body_for(method: str) -> bytes | None:
    return initialize() if method in ("POST", "PUT", "PATCH") else None


def test_the_tables_here_have_every_route() -> None:
    (listener,) = porch().gateway._listeners.values()
    assert tuple(listener.routes) == ROUTES
    assert tuple(listener.open_routes) == METADATA
    (bare,) = Porch(AuthConfig(keys=configured())).gateway._listeners.values()
    assert tuple(bare.routes) == ("/mcp",) and not bare.open_routes


def test_a_token_that_is_too_long_is_not_looked_at() -> None:
    """Not even one that is good otherwise: no digest of it is made, and no signature is checked."""
    most = Limits().token_bytes
    for text in (token(filler="x" * most), KEY["ci"] + "x" * most, "x" * (most + 1)):
        visited = porch()
        assert visited.ask("POST", "/mcp", bearer(text), initialize()).status == 401
        assert [one["reason"] for one in visited.logged("auth_refused")] == ["a token that is too long"]
    visited = porch()
    fits = token(filler="x" * (most * 3 // 4 - 1000))
    assert visited.ask("POST", "/mcp", bearer(fits), initialize()).status == 200


BAD: list[tuple[str, Headers, int]] = [
    ("nothing", [], 401),
    ("an unknown key", bearer("mcpg_zz_" + "c" * 43), 401),
    ("a wrong secret", bearer(KEY["ci"][:-1] + "x"), 401),
    ("a key in a query only", [], 401),
    ("a word", bearer("letmein"), 401),
    ("an expired token", bearer(token(exp=1)), 401),
    ("a token for others", bearer(token(aud="https://other.example")), 401),
    ("a token without a signature", bearer(token().rsplit(".", 1)[0] + "."), 401),
    ("another scheme", [("Authorization", "Basic Y2k6Y2k=")], 401),
    ("the bare key", [("Authorization", KEY["ci"])], 401),
    ("a token without its scope", bearer(token(scope="other")), 403),
    ("two headers", CI + CI, 400),
    ("a good one and a bad one", CI + bearer("x"), 400),
    ("two in one", [("Authorization", f"Bearer {KEY['ci']}, Bearer {KEY['ci']}")], 400),
    ("no token", [("Authorization", "Bearer")], 400),
    ("an empty token", [("Authorization", "Bearer ")], 400),
    ("a blank inside", bearer("a b"), 400),
    ("padding inside", bearer("a=b"), 400),
    ("too long", bearer("x" * 9000), 401),
    ("in another header", [("X-Api-Key", KEY["ci"]), ("Cookie", f"token={KEY['ci']}")], 401),
    ("as a name", [("X-Forwarded-User", "ci"), ("Remote-User", "ci"), ("X-Remote-User", "admin")], 401),
    ("an internal header", [("Router-Key", "secret-api-key"), ("X-Mcpgate-Principal", "local")], 401),
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("headers", "status"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_every_route_and_method_refuses_alike(method: str, headers: Headers, status: int) -> None:
    """Rows 6, 24, 25, 26, 28: nothing of what there is can be told apart, not even by its absence."""
    visited = porch()
    told: dict[tuple[Any, ...], list[str]] = {}
    for path in EVERYWHERE:
        answer = visited.ask(method, path, headers, body_for(method))
        told.setdefault((answer.status, answer.body, answer.headers.get("www-authenticate")), []).append(path)
    assert len(told) == 1, told
    ((found, body, challenge),) = told
    assert found == status
    assert challenge is not None and challenge.startswith("Bearer ")
    assert method == "HEAD" or json.loads(body)["error"]["code"] == -32600
    assert visited.gateway.snapshot().sessions == 0


def test_the_upgrade_is_behind_the_gate() -> None:
    visited = porch()
    for headers, status in ([], 401), (bearer("x"), 401), (CI + CI, 400), (bearer(token(scope="x")), 403):
        answer = visited.ask("GET", "/mcp", [*UPGRADE, *headers])
        assert answer.status == status and "www-authenticate" in answer.headers
    for headers in CI, bearer(token()):
        assert visited.ask("GET", "/mcp", [*UPGRADE, *headers]).status == 101
    assert visited.ask("GET", "/sse", [*UPGRADE, *CI]).status != 101


@pytest.mark.parametrize("headers", [CI, bearer(token()), [("authorization", f"bEARER  {KEY['ci']}")]])
def test_good_credentials_come_to_the_routes(headers: Headers) -> None:
    """401 comes before 404 and 405, and with credentials they are told as ever."""
    visited = porch()
    assert visited.ask("POST", "/mcp", headers, initialize()).status == 200
    assert visited.ask("GET", "/sse", [*headers, ("Accept", "text/event-stream")]).status == 200
    assert visited.ask("POST", "/messages?session=x", headers, initialize()).status == 404
    assert visited.ask("GET", "/nothing", headers).status == 404
    assert visited.ask("PUT", "/mcp", headers, b"{}").status == 405
    assert visited.ask("OPTIONS", "/mcp", headers).status == 204
    assert visited.ask("OPTIONS", "/nothing", headers).status == 404
    mirrored, body = modern("server/discover")
    assert visited.ask("POST", "/mcp", [*headers, *mirrored], body).status == 200


def test_the_door_comes_before_the_gate() -> None:
    visited = porch()
    for headers in ([], CI):
        assert visited.ask("GET", "/mcp", [("Origin", "https://evil.example"), *headers]).status == 403
    refused = visited.ask("GET", "/mcp", [("Origin", "https://evil.example")])
    assert "www-authenticate" not in refused.headers


# -- what is open


def test_a_preflight_needs_no_credentials_and_other_options_do() -> None:
    visited = porch()
    origin = ("Origin", "http://localhost:3000")
    for path in EVERYWHERE:
        asked = [origin, ("Access-Control-Request-Method", "POST")]
        assert visited.ask("OPTIONS", path, asked).status == 204
    assert visited.ask("OPTIONS", "/mcp", [("Access-Control-Request-Method", "POST")]).status == 401
    plain = visited.ask("OPTIONS", "/mcp", [origin])
    assert plain.status == 401
    # C8: a page has to be able to read why.
    assert plain.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert "WWW-Authenticate" in plain.headers["access-control-expose-headers"]


def test_protected_resource_metadata() -> None:
    """J2: with an issuer, at both places, for everybody; nothing but GET."""
    visited = porch()
    for path in METADATA:
        answer = visited.ask("GET", path)
        assert answer.status == 200 and answer.headers["content-type"] == "application/json"
        assert answer.message == {
            "resource": AUDIENCE,
            "authorization_servers": [ISSUER],
            "bearer_methods_supported": ["header"],
            "resource_name": "mcpgate",
            "scopes_supported": ["mcp:use"],
        }
        assert visited.ask("HEAD", path).status == 200
        for method in ("POST", "DELETE", "PUT", "PATCH", "OPTIONS"):
            refused = visited.ask(method, path, [], body_for(method))
            assert refused.status == 405 and refused.headers["allow"] == "GET, HEAD"
        assert visited.ask("GET", path, [("Origin", "https://evil.example")]).status == 403
        assert visited.ask("GET", path + "/x").status == 401
    assert visited.ask("GET", METADATA[0], bearer("nonsense")).status == 200


def test_without_an_issuer_there_is_no_metadata_and_no_word_of_it() -> None:
    visited = porch(AuthConfig(resource=AUDIENCE, keys=configured()))
    for path in METADATA:
        assert visited.ask("GET", path).status == 401
        assert visited.ask("GET", path, CI).status == 404
    assert visited.ask("GET", "/mcp").headers["www-authenticate"] == 'Bearer realm="mcpgate"'


@pytest.mark.parametrize(
    ("resource", "paths"),
    [
        ("https://gw.example", ["/.well-known/oauth-protected-resource"]),
        ("https://gw.example/", ["/.well-known/oauth-protected-resource"]),
        ("https://gw.example:8443/a/b", ["/.well-known/oauth-protected-resource/a/b", METADATA[1]]),
    ],
)
def test_where_the_metadata_is(resource: str, paths: list[str]) -> None:
    visited = porch(AuthConfig(resource=resource, issuers=ISSUERS))
    origin = resource.removesuffix("/").removesuffix("/a/b")
    for path in paths:
        assert visited.ask("GET", path).message["resource"] == resource
    challenge = visited.ask("GET", "/mcp").headers["www-authenticate"]
    assert challenge == f'Bearer resource_metadata="{origin}{paths[0]}", scope="mcp:use"'


def test_challenges() -> None:
    """J3, J4."""
    visited = porch()
    url = f'resource_metadata="https://gw.example{METADATA[0]}"'
    scope = 'scope="mcp:use"'

    def challenge(headers: Headers) -> str:
        return visited.ask("GET", "/mcp", headers).headers["www-authenticate"]

    wrong = 'error="invalid_token", error_description="the token is not valid"'
    late = 'error="invalid_token", error_description="the token has expired"'
    assert challenge([]) == f"Bearer {url}, {scope}"
    assert challenge(bearer("x")) == f"Bearer {url}, {scope}, {wrong}"
    assert challenge(bearer(token(exp=1))) == f"Bearer {url}, {scope}, {late}"
    assert challenge(CI + CI) == f'Bearer {url}, {scope}, error="invalid_request"'
    assert challenge(bearer(token(scope="x"))) == f'Bearer {url}, {scope}, error="insufficient_scope"'


def test_nothing_that_was_presented_comes_back_or_into_the_log() -> None:
    visited = porch()
    for secret in (KEY["ci"][:-1] + "x", "hunter2hunter2", token(aud="https://other.example"), token(exp=1)):
        answer = visited.ask("GET", "/mcp", bearer(secret))
        assert answer.message["error"]["message"] in ("the token is not valid", "the token has expired")
        heard = answer.body.decode() + repr(answer.headers) + repr(visited.records)
        assert secret not in heard and secret.split(".")[-1] not in heard
    assert len(visited.logged("auth_refused")) == 4
    assert {one["reason"] for one in visited.logged("auth_refused")} == {
        "no such key",
        "not in the form of a signed token",
        f"aud names none of: {AUDIENCE}",
        "expired, of alice",
    }


def test_refusals_are_counted_and_do_not_fill_the_log() -> None:
    visited = porch()
    for _ in range(50):
        visited.ask("GET", "/mcp", bearer("x"))
        visited.ask("GET", "/mcp")
    assert visited.gateway.snapshot().counters["auth_refused"] == 100
    assert len(visited.logged("auth_refused")) == 1


# -- whose things


def test_a_session_of_somebody_else_does_not_exist() -> None:
    """Row 14, C28: POST, GET and DELETE with the id of another's session."""
    visited = porch()
    id = visited.session(CI)
    named = [("Mcp-Session-Id", id)]
    ping = json.dumps({"jsonrpc": "2.0", "id": 2, "method": "ping"}).encode()
    events = ("Accept", "text/event-stream")
    for headers in (OPS, bearer(token())):
        unknown = [("Mcp-Session-Id", "x" * len(id))]
        for method, body in (("POST", ping), ("GET", None), ("DELETE", None)):
            more = [] if body else [events]
            answer = visited.ask(method, "/mcp", [*named, *more, *headers], body)
            other = visited.ask(method, "/mcp", [*unknown, *more, *headers], body)
            assert (answer.status, answer.body) == (404, other.body)
        resumed = visited.ask("GET", "/mcp", [*named, events, ("Last-Event-ID", "0-0"), *headers])
        assert resumed.status == 404
    assert visited.ask("POST", "/mcp", named, ping).status == 401
    assert visited.ask("POST", "/mcp", [*named, *CI], ping).status == 200
    assert visited.ask("GET", "/mcp", [*named, events, *CI]).status == 200


def test_the_stream_of_somebody_else_takes_no_messages() -> None:
    """Row 14, for HTTP+SSE: the endpoint that a stream names is good for its own principal only."""
    visited = porch()
    stream = visited.visit()
    opened = stream.ask("GET", "/sse", [("Accept", "text/event-stream"), *CI])
    path = opened.body.decode().split("data: ")[1].strip()
    assert path.startswith("/messages?session=")
    for headers, status in (OPS, 404), (bearer(token()), 404), ([], 401), (bearer("x"), 401):
        assert visited.ask("POST", path, headers, initialize()).status == status
        assert visited.ask("POST", "/messages?session=" + "x" * 32, headers, initialize()).status == status
    assert opened.body.count(b"event:") == 1, "nothing came of it"
    assert visited.ask("POST", path, CI, initialize()).status == 202
    assert b'"serverInfo"' in opened.body


def test_one_connection_may_carry_requests_of_several() -> None:
    """Each request is judged by itself (J6); a proxy shares its connections."""
    visited = porch()
    visitor = visited.visit()
    ids = []
    for headers in (CI, OPS):
        answer = visitor.ask("POST", "/mcp", headers, initialize())
        ids.append(answer.headers["mcp-session-id"])
    assert visitor.ask("GET", "/mcp").status == 401
    assert visitor.ask("DELETE", "/mcp", [("Mcp-Session-Id", ids[0]), *OPS]).status == 404
    assert visitor.ask("DELETE", "/mcp", [("Mcp-Session-Id", ids[0]), *CI]).status == 204
    assert visitor.ask("DELETE", "/mcp", [("Mcp-Session-Id", ids[1]), *OPS]).status == 204


def test_principals() -> None:
    """Two issuers and a key may all have an `alice`: they are three."""
    issuers = (*ISSUERS, IssuerConfig(issuer="https://other.example", jwks=jwks(public("rsa2"))))
    visited = porch(AuthConfig(resource=AUDIENCE, keys=configured(), issuers=issuers))
    other = bearer(token(by="rsa2", iss="https://other.example"))
    id = visited.session(bearer(token()))
    named = [("Mcp-Session-Id", id)]
    assert visited.ask("DELETE", "/mcp", [*named, *other]).status == 404
    assert visited.ask("DELETE", "/mcp", [*named, *bearer(token(sub="Alice"))]).status == 404
    assert visited.ask("DELETE", "/mcp", [*named, *bearer(token(exp=9**11))]).status == 204


def test_tokens_in_queries_are_never_read() -> None:
    """J6, for every name that anybody uses."""
    visited = porch()
    for name in ("access_token", "token", "api_key", "key", "authorization", "bearer"):
        for path in ROUTES:
            assert visited.ask("POST", f"{path}?{name}={KEY['ci']}", [], initialize()).status == 401


def test_a_body_is_not_looked_at_before_it_is_known_who_sends_it() -> None:
    """J10: not its type, its size, its JSON."""
    visited = porch()
    for body in (b"not json", b"[" * 100_000, b""):
        answer = visited.ask("POST", "/mcp", [("Content-Type", "text/plain")], body)
        assert answer.status == 401
    assert "malformed_messages" not in visited.gateway.snapshot().counters
    visitor = visited.visit()
    head = (
        "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nContent-Length: 999999\r\nExpect: 100-continue\r\n\r\n"
    )
    visitor.send(head.encode())
    assert visitor.last().status == 401 and b"100 Continue" not in visitor.raw


# -- modes of a listener


def test_auto_is_open_on_loopback_while_there_is_nothing_to_authenticate_with() -> None:
    visited = porch(AuthConfig())
    assert visited.ask("POST", "/mcp", [], initialize()).status == 200
    # What is not asked for is not looked at.
    assert visited.ask("POST", "/mcp", bearer("nonsense"), initialize()).status == 200


def test_none_is_open_though_there_are_keys() -> None:
    visited = porch(mode="none")
    assert visited.ask("POST", "/mcp", [], initialize()).status == 200
    assert visited.ask("POST", "/mcp", bearer("nonsense"), initialize()).status == 200


def test_required_without_anything_lets_nobody_in() -> None:
    visited = porch(AuthConfig(), mode="required")
    for headers in ([], CI, bearer(token())):
        assert visited.ask("POST", "/mcp", headers, initialize()).status == 401


# -- where a listener is in fact


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "2001:db8::1"])
@pytest.mark.parametrize(
    ("options", "auth", "failure"),
    [
        ({}, AuthConfig(), "nobody is asked who they are"),
        ({"auth": "none"}, FULL, "nobody is asked who they are"),
        ({"tls": TLS}, AuthConfig(), "nobody is asked who they are"),
        ({}, FULL, "without TLS"),
        ({"auth": "required"}, AuthConfig(), "without TLS"),
        ({"tls": TLS}, FULL, ""),
        ({"tls": msgspec.structs.replace(TLS, client_ca_file="/ca")}, AuthConfig(), ""),
        ({"behind_proxy": True}, AuthConfig(), ""),
        ({"behind_proxy": True, "auth": "none"}, FULL, ""),
    ],
)
def test_beyond_loopback_it_does_not_start(
    host: str, options: dict[str, Any], auth: AuthConfig, failure: str
) -> None:
    """threats.md section 0, Firewall rules: whatever the settings called it, the bound address counts."""
    listener = ListenConfig(name="in", host="localhost", **options)
    gateway = Gateway(GatewayConfig(listeners=(listener,), auth=auth), now=1.0, wall=WALL, seed=bytes(32))
    gateway.trap_errors = False
    gateway.effects()
    gateway.listening(1.0, "in", Address(host=host, port=8080))
    gateway.started(1.0)
    stopped = [one.failure or "" for one in gateway.effects() if isinstance(one, Stopped)]
    if failure:
        assert len(stopped) == 1 and failure in stopped[0]
    else:
        assert not stopped and gateway.accepted(1.0, "in", Peer(kind="tcp", address=Address(host=host)))


def test_a_reload_does_not_open_what_others_can_reach() -> None:
    visited = Porch(AuthConfig(keys=configured()), tls=TLS)
    (listener,) = visited.gateway._listeners.values()
    assert listener.exposure(Address(host="192.0.2.1", port=8080)) == ""
    visited.reload(AuthConfig())
    for headers in ([], CI):
        assert visited.ask("POST", "/mcp", headers, initialize()).status == 401
