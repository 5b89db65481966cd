"""Logins at servers that want tokens: discovery, registration, the browser, refresh, step-up (J9, J11-J17).

Owns: one scenario per rule, on virtual time, against model servers that keep to OAuth 2.1 or break it in one
way. Must never: reach into the gateway.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from fuzz.sim import http
from fuzz.sim.clients import LegacyPipe
from fuzz.sim.logins import AuthServer, Guard
from tests.sim.login_scene import AS_HOST, ISSUER, OTHER_HOST, URL, LoginScene

ERAS = [("modern",), ("legacy",), ("modern", "legacy")]


def asked(scene: LoginScene) -> dict[str, str]:
    """The one authorization request."""
    (url,) = scene.browser.shown
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def logged_in(scene: LoginScene) -> LoginScene:
    """A call comes through, after one login."""
    scene.start()
    call = scene.done(scene.pipe().tool("echo"))
    assert call.result is not None, call.answer
    assert len(scene.browser.shown) == 1 and len(scene.logged("login_done")) == 1
    scene.sound()
    return scene


def refused(scene: LoginScene, reason: str = "") -> dict[str, Any]:
    """A call fails, in words of our own; the log has `reason`."""
    call = scene.done(scene.pipe().tool("echo"))
    assert call.error is not None, call.answer
    told = call.error["message"]
    assert "s1" in told and "Bearer" not in told and "as.example" not in told, told
    said = [dict(record.fields).get("reason", "") for record in scene.world.records]
    assert any(reason in str(one) for one in said), said
    return call.error


# -- the way that works


@pytest.mark.parametrize("eras", ERAS)
def test_a_call_waits_for_the_login_and_goes_through(eras: tuple[str, ...]) -> None:
    scene = logged_in(LoginScene(eras=eras))
    assert [page.status for page in scene.browser.pages] == [200]
    assert {subject for _, subject in scene.guard.subjects} == {"ada"}
    asking = asked(scene)
    assert asking["resource"] == URL and asking["code_challenge_method"] == "S256"
    (form,) = scene.auth.asked("/token")
    assert form["resource"] == URL and form["grant_type"] == "authorization_code"
    assert all(token in scene.auth.tokens for token in scene.guard.seen), "only tokens of its own issuer"


def test_a_legacy_client_waits_for_the_login_in_its_handshake() -> None:
    scene = LoginScene(eras=("legacy",)).start()
    client = LegacyPipe(scene.world, "c1")
    client.open()
    scene.until(lambda: client.hello.over, 60, "the handshake")
    assert scene.world.elapsed > 5.0
    assert "tools" in client.hello.answer["result"]["capabilities"]
    assert scene.done(client.tool("echo")).result is not None
    scene.sound()


def test_the_page_that_the_browser_gets() -> None:
    """threats.md row 32: nothing but its own text, and nothing may run in it."""
    scene = logged_in(LoginScene())
    (page,) = scene.browser.pages
    assert "You are logged in." in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert page.headers["cache-control"] == "no-store" and page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["x-content-type-options"] == "nosniff" and "connection" in page.headers


def test_several_calls_are_one_login() -> None:
    scene = LoginScene().start()
    client = scene.pipe()
    calls = [client.tool("echo") for _ in range(5)]
    scene.done(*calls)
    assert all(call.result is not None for call in calls)
    assert len(scene.browser.shown) == 1 and len(scene.auth.asked("/token")) == 1
    scene.sound()


def test_what_was_stored_is_used_by_the_next_run() -> None:
    first = logged_in(LoginScene())
    second = LoginScene(records=first.store.records)
    second.auth.tokens, second.auth.refresh, second.auth.clients = (
        first.auth.tokens,
        first.auth.refresh,
        first.auth.clients,
    )
    second.start()
    assert second.done(second.pipe().tool("echo")).result is not None
    assert not second.browser.shown and second.guard.refused == 0
    second.sound()


def test_a_stored_token_that_has_expired_is_refreshed() -> None:
    first = logged_in(LoginScene())
    (name,) = first.store.records
    record = json.loads(first.store.records[name])
    record["entries"][ISSUER]["expires_wall"] = 1.0
    second = LoginScene(records={name: json.dumps(record).encode()})
    second.auth.refresh, second.auth.clients = first.auth.refresh, first.auth.clients
    second.start()
    assert second.done(second.pipe().tool("echo")).result is not None
    assert not second.browser.shown
    assert [form["grant_type"] for form in second.auth.asked("/token")] == ["refresh_token"]
    kept = json.loads(second.store.records[name])["entries"][ISSUER]
    assert kept["access"] in second.auth.tokens and kept["refresh"] in second.auth.refresh
    second.sound()


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("principal", "key:eve"),
        ("server", "https://other.example/mcp"),
        ("format", 2),
        ("issuer", "https://other.example"),
        (None, b"{"),
        (None, b"[" * 100_000),
        (None, b"\xff\xfe"),
        ("access", "two words"),
        ("access", "a\r\nX-Admin: yes"),
        ("access", "\u00e4"),
    ],
)
def test_a_record_of_somebody_else_or_a_damaged_one_is_not_used(change: str | None, value: Any) -> None:
    """J17: whatever the file's name says, what it holds is for one principal and one server."""
    first = logged_in(LoginScene())
    (name,) = first.store.records
    data = value
    if change is not None:
        record = json.loads(first.store.records[name])
        place = record["entries"][ISSUER] if change == "access" else record
        place[change] = value
        data = json.dumps(record).encode()
    second = LoginScene(records={name: data})
    second.auth.tokens, second.auth.clients = first.auth.tokens, first.auth.clients
    second.start()
    assert second.done(second.pipe().tool("echo")).result is not None
    assert len(second.browser.shown) == 1, "it had to log in"


# -- discovery (J11)


@pytest.mark.parametrize(
    ("url", "issuer", "prm", "documents"),
    [
        (URL, ISSUER, "", None),
        (URL, ISSUER, "/.well-known/oauth-protected-resource", None),
        (URL, ISSUER, "", ["/.well-known/openid-configuration"]),
        (URL, f"{ISSUER}/tenant", "", ["/.well-known/oauth-authorization-server/tenant"]),
        (URL, f"{ISSUER}/tenant", "", ["/.well-known/openid-configuration/tenant"]),
        (URL, f"{ISSUER}/tenant", "", ["/tenant/.well-known/openid-configuration"]),
        ("https://mcp.example/a/b/", ISSUER, "/.well-known/oauth-protected-resource/a/b", None),
        ("https://mcp.example/", ISSUER, "/.well-known/oauth-protected-resource", None),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_metadata_is_found_where_it_may_be(
    url: str, issuer: str, prm: str, documents: list[str] | None, named: bool
) -> None:
    scene = LoginScene(url=url, issuer=issuer)
    scene.auth.documents = documents
    scene.guard.named = named
    scene.guard.url = url if url != "https://mcp.example/" else "https://mcp.example"
    if prm:
        scene.guard.paths = [prm]
    logged_in(scene)


def test_the_order_in_which_metadata_is_looked_for() -> None:
    scene = LoginScene(issuer=f"{ISSUER}/t")
    scene.auth.documents = []
    scene.start()
    refused(scene, "no metadata")
    tried = [path for method, path, _ in scene.auth.requests if ".well-known" in path]
    assert tried[:3] == [
        "/.well-known/oauth-authorization-server/t",
        "/.well-known/openid-configuration/t",
        "/t/.well-known/openid-configuration",
    ]


def test_a_server_of_2025_03_26_is_its_own_authorization_server() -> None:
    scene = LoginScene(url="https://as.example/mcp")
    scene.world.net.names["as.example"] = [AS_HOST]
    guard, auth = scene.guard, scene.auth
    guard.named, guard.paths = False, ["/nowhere"]
    services = scene.world.net.services
    services[AS_HOST, 443] = lambda: _Both(guard, auth)
    logged_in(scene)


class _Both:
    """One origin that is server and authorization server."""

    def __init__(self, guard: Guard, auth: AuthServer) -> None:
        from fuzz.sim.logins import _AuthConn, _GuardedConn

        self._parts = {True: _AuthConn(auth), False: _GuardedConn(guard)}
        self.stream: Any = None

    def opened(self) -> None:
        for part in self._parts.values():
            part.stream = self.stream

    def data(self, data: bytes) -> None:
        target = data.split(b" ")[1]
        mine = target.startswith(
            (b"/.well-known/oauth-authorization-server", b"/.well-known/openid", b"/token", b"/register")
        )
        self._parts[mine].data(data)

    def eof(self) -> None:
        self.stream.close()

    def gone(self) -> None:
        pass


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ({"resource": "https://mcp.example/other"}, "another resource"),
        ({"resource": "https://evil.example/mcp"}, "another resource"),
        ({"resource": "https://mcp.example:444/mcp"}, "another resource"),
        ({"resource": "http://mcp.example/mcp"}, "another resource"),
        ({"resource": "https://mcp.example/mc"}, "another resource"),
        ({"resource": None}, "another resource"),
        ({"resource": ["https://mcp.example/mcp"]}, "another resource"),
        ({"authorization_servers": []}, "no usable authorization server"),
        ({"authorization_servers": None}, "no usable authorization server"),
        ({"authorization_servers": ["javascript:alert(1)"]}, "no usable authorization server"),
        ({"authorization_servers": ["http://as.example"]}, "no usable authorization server"),
        ({"authorization_servers": ["https://u:p@as.example"]}, "no usable authorization server"),
        ({"authorization_servers": ["https://as.example#x"]}, "no usable authorization server"),
        ({"authorization_servers": ["http://127.0.0.1:9"]}, "no usable authorization server"),
        ({"authorization_servers": ["https://169.254.169.254"]}, "may not be dialled"),
        ({"authorization_servers": ["https://10.0.0.1"]}, "may not be dialled"),
        ({"authorization_servers": ["https://127.0.0.1"]}, "may not be dialled"),
        ({"authorization_servers": ["https://[::ffff:10.0.0.1]"]}, "may not be dialled"),
        ({"authorization_servers": ["https://inner.example"]}, "may not be dialled"),
    ],
)
def test_resource_metadata_that_leads_astray(what: dict[str, Any], reason: str) -> None:
    """threats.md rows 29, 38, 40; K3."""
    scene = LoginScene()
    scene.world.net.names["inner.example"] = ["10.0.0.1"]
    scene.guard.metadata = what
    scene.start()
    refused(scene, reason)
    assert not scene.browser.shown and not scene.auth.asked("/register")


@pytest.mark.parametrize(
    "place",
    [
        "https://evil.example/prm",
        "http://mcp.example/.well-known/oauth-protected-resource",
        "https://mcp.example:444/prm",
        "https://mcp.example@evil.example/prm",
        "javascript:alert(1)",
        "/relative",
    ],
)
def test_a_challenge_that_names_metadata_of_another_origin(place: str) -> None:
    """threats.md row 40: `resource_metadata` is not fetched from elsewhere."""
    scene = LoginScene()
    scene.world.net.names["evil.example"] = [OTHER_HOST]
    scene.guard.named = False
    scene.guard.challenge = f'Bearer resource_metadata="{place}",'
    scene.start()
    refused(scene, "another origin")
    assert not scene.browser.shown and "evil.example" not in repr(scene.auth.requests)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ({"issuer": "https://honest.example"}, "of another issuer"),
        ({"issuer": f"{ISSUER}/"}, "of another issuer"),
        ({"issuer": "https://AS.example"}, "of another issuer"),
        ({"issuer": f"{ISSUER}:443"}, "of another issuer"),
        ({"issuer": None}, "of another issuer"),
        ({"code_challenge_methods_supported": None}, "PKCE"),
        ({"code_challenge_methods_supported": ["plain"]}, "PKCE"),
        ({"code_challenge_methods_supported": "S256"}, "PKCE"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "neither https nor http"),
        ({"authorization_endpoint": "file:///etc/passwd"}, "neither https nor http"),
        ({"authorization_endpoint": "http://as.example/authorize"}, "is not https"),
        ({"authorization_endpoint": "https://u@as.example/authorize"}, "user information"),
        ({"authorization_endpoint": 'https://as.example/a"$(id)'}, "a character"),
        ({"authorization_endpoint": "https://as.example/a\nb"}, "a character"),
        ({"authorization_endpoint": None}, "no authorization_endpoint"),
        ({"token_endpoint": None}, "no token_endpoint"),
        ({"token_endpoint": "http://as.example/token"}, "is not https"),
        ({"registration_endpoint": "https://x y/"}, "a character"),
        ({"registration_endpoint": None}, "registers nobody"),
    ],
)
def test_metadata_of_an_authorization_server_that_leads_astray(what: dict[str, Any], reason: str) -> None:
    """J11, J13, K4; threats.md rows 29 and 40."""
    scene = LoginScene()
    scene.auth.metadata = what
    scene.start()
    refused(scene, reason)
    assert not scene.browser.shown and not scene.auth.asked("/token")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: https://as.example/x\r\nContent-Length: 0\r\n\r\n", "redirects"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", "HTTP 500"),
        (http.head("HTTP/1.1 200 OK", [("Content-Type", "application/json")], b"x" * 300_000), "larger than"),
        (
            http.head("HTTP/1.1 200 OK", [("Content-Type", "application/json")], b"[" * 200_000),
            "another issuer",
        ),
        (http.head("HTTP/1.1 200 OK", [("Content-Type", "application/json")], b"[1]"), "another issuer"),
        (b"SSH-2.0-x\r\n", "a status line that is not valid"),
    ],
)
def test_metadata_that_is_no_document(answer: bytes, reason: str) -> None:
    scene = LoginScene()
    scene.auth.answers["metadata"] = lambda form: answer
    scene.start()
    refused(scene, reason)
    assert not scene.browser.shown


def test_an_authorization_server_that_never_answers() -> None:
    scene = LoginScene()
    scene.auth.silent["/.well-known/oauth-authorization-server"] = None
    scene.start()
    refused(scene, "in time")
    assert not scene.browser.shown


def test_the_configured_issuer_must_be_the_one_that_the_server_names() -> None:
    refused(LoginScene(oauth={"issuer": "https://mine.example"}).start(), "another authorization server")
    logged_in(LoginScene(oauth={"issuer": ISSUER}))


@pytest.mark.parametrize("allow", [True, False])
def test_an_authorization_server_on_the_own_network(allow: bool) -> None:
    scene = LoginScene(oauth={"allow_private": allow})
    scene.world.net.names["as.example"] = ["10.1.1.1"]
    scene.world.net.services["10.1.1.1", 443] = scene.world.net.services[AS_HOST, 443]
    if allow:
        logged_in(scene)
    else:
        refused(scene.start(), "may not be dialled")


def test_everything_on_this_machine_over_plain_http() -> None:
    logged_in(LoginScene(url="http://127.0.0.1:9001/mcp", issuer="http://127.0.0.1:9002"))


# -- the browser's answer (J13)


@pytest.mark.parametrize(
    ("iss", "tells", "works"),
    [
        ("own", True, True),
        ("own", None, True),
        (None, None, True),
        (None, False, True),
        (None, True, False),
        ("https://evil.example", True, False),
        ("https://evil.example", None, False),
        (f"{ISSUER}/", None, False),
        ("https://AS.EXAMPLE", True, False),
        ("", True, False),
    ],
)
@pytest.mark.parametrize("denies", ["", "access_denied"])
def test_the_issuer_in_the_answer(iss: str | None, tells: bool | None, works: bool, denies: str) -> None:
    """RFC 9207, all rows of the table, for errors too."""
    scene = LoginScene()
    scene.auth.iss, scene.auth.denies = iss, denies
    scene.auth.metadata = {"authorization_response_iss_parameter_supported": tells}
    if works and not denies:
        logged_in(scene)
        return
    scene.start()
    refused(scene, "access_denied" if works else "")
    assert not scene.auth.asked("/token"), "a code of another issuer must not be sent on"
    (failed,) = scene.logged("login_failed")
    assert ("access_denied" in failed["reason"]) is works
    (page,) = scene.browser.pages
    assert page.status == 400 and "script" not in page.text and "denied" not in page.text


@pytest.mark.parametrize("state", ["", "guess", "x" * 43])
def test_an_answer_with_another_state_is_none(state: str) -> None:
    scene = LoginScene(limits={"login_timeout_s": 60.0})
    scene.auth.state = state
    scene.start()
    refused(scene)
    assert not scene.auth.asked("/token")
    (page,) = scene.browser.pages
    assert page.status == 400 and "not the login" in page.text
    # The real one still comes through.
    scene.auth.state = None
    scene.browser.follow(scene.browser.shown[0])
    assert scene.done(scene.pipe().tool("echo")).result is not None


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/callback", {"host": "evil.example"}, 403),
        ("/callback", {"host": "127.0.0.1:1"}, 403),
        ("/callback", {"origin": "https://evil.example"}, 403),
        ("/", {}, 404),
        ("/favicon.ico", {}, 404),
        ("/callback/", {}, 404),
        ("/mcp", {}, 404),
    ],
)
def test_who_else_knocks_at_the_callback(path: str, headers: dict[str, str], status: int) -> None:
    scene = LoginScene()
    scene.browser.subject = None
    scene.start()
    scene.pipe().tool("echo")
    url = scene.until(lambda: scene.browser.shown)[0]
    redirect = parse_qs(urlsplit(url).query)["redirect_uri"][0]
    state = parse_qs(urlsplit(url).query)["state"][0]
    place = redirect.removesuffix("/callback") + path
    page = scene.browser.visit(f"{place}?code=x&state={state}&iss={ISSUER}", **headers)
    scene.run(1.0)
    assert page.status == status and not scene.auth.asked("/token")


def test_an_answer_is_good_once() -> None:
    scene = LoginScene()
    scene.browser.subject = None
    scene.auth.silent["/token"] = None
    scene.start()
    scene.pipe().tool("echo")
    url = scene.until(lambda: scene.browser.shown)[0]
    scene.browser.subject = "ada"
    place = scene.auth.authorize(url, "ada")
    scene.browser.visit(place)
    scene.run(1.0)
    again = scene.browser.visit(place)
    scene.run(1.0)
    assert again.status == 400 and scene.browser.pages[0].status == 0, "the first still waits for its token"


def test_a_parameter_that_is_given_twice() -> None:
    scene = LoginScene()
    scene.browser.subject = None
    scene.start()
    scene.pipe().tool("echo")
    url = scene.until(lambda: scene.browser.shown)[0]
    place = scene.auth.authorize(url, "ada")
    scene.browser.visit(f"{place}&code=other")
    scene.browser.visit(f"{place}&{'&'.join('a' for _ in range(100))}")
    scene.run(1.0)
    assert [page.status for page in scene.browser.pages] == [400, 400] and not scene.auth.asked("/token")


# -- registration (J14)


def test_a_configured_client_is_used_and_nobody_is_registered() -> None:
    scene = LoginScene(oauth={"client_id": "mine", "client_secret": "s3cret/ +"})
    scene.auth.known("mine", "s3cret/ +")
    logged_in(scene)
    assert not scene.auth.asked("/register") and asked(scene)["client_id"] == "mine"


@pytest.mark.parametrize("takes", [True, False])
def test_a_client_metadata_document(takes: bool) -> None:
    document = "https://team.example/mcpgate.json"
    scene = LoginScene(oauth={"client_metadata_url": document})
    scene.auth.metadata = {"client_id_metadata_document_supported": takes}
    logged_in(scene)
    assert (asked(scene)["client_id"] == document) is takes
    assert len(scene.auth.asked("/register")) == (0 if takes else 1)


@pytest.mark.parametrize("method", ["none", "client_secret_basic", "client_secret_post"])
def test_how_a_registered_client_proves_itself(method: str) -> None:
    scene = LoginScene()
    scene.auth.metadata = {"token_endpoint_auth_methods_supported": [method]}
    logged_in(scene)
    (document,) = scene.auth.asked("/register")
    assert document["application_type"] == "native" and document["token_endpoint_auth_method"] == method
    assert document["grant_types"] == ["authorization_code", "refresh_token"]


def test_a_client_is_registered_once() -> None:
    scene = logged_in(LoginScene())
    scene.auth.revoke()
    scene.auth.refresh.clear()
    assert scene.done(scene.pipe().tool("echo")).result is not None
    assert len(scene.browser.shown) == 2 and len(scene.auth.asked("/register")) == 1
    first, second = [parse_qs(urlsplit(url).query) for url in scene.browser.shown]
    assert first["redirect_uri"] == second["redirect_uri"] and first["state"] != second["state"]
    assert first["code_challenge"] != second["code_challenge"]
    scene.sound()


def test_where_its_port_is_taken_a_client_is_registered_anew() -> None:
    scene = logged_in(LoginScene())
    scene.auth.revoke()
    scene.auth.refresh.clear()
    scene.world.net.taken[urlsplit(asked(scene)["redirect_uri"]).port or 0] = None
    assert scene.done(scene.pipe().tool("echo")).result is not None
    assert len(scene.auth.asked("/register")) == 2
    scene.sound()


def test_a_configured_port_is_not_replaced() -> None:
    scene = LoginScene(oauth={"client_id": "mine", "callback_port": 33333})
    scene.auth.known("mine")
    logged_in(scene)
    assert asked(scene)["redirect_uri"] == "http://127.0.0.1:33333/callback"
    other = LoginScene(oauth={"callback_port": 33333})
    other.world.net.taken[33333] = None
    refused(other.start(), "no port")


def test_credentials_of_one_issuer_are_not_shown_to_another() -> None:
    """The server has moved to another authorization server (SEP-2352)."""
    scene = logged_in(LoginScene())
    other = AuthServer(scene.world, "https://other.example", OTHER_HOST)
    scene.browser.auth.append(other)
    scene.guard.auth = [other]
    assert scene.done(scene.pipe().tool("echo")).result is not None
    old = {*scene.auth.clients, *scene.auth.tokens, *scene.auth.refresh}
    told = json.dumps([form for _, _, form in other.requests])
    assert not other.problems and not any(secret in told for secret in old)
    assert len(other.asked("/register")) == 1
    record = json.loads(next(iter(scene.store.records.values())))
    assert record["issuer"] == "https://other.example" and set(record["entries"]) == {ISSUER, other.issuer}


def test_a_client_that_the_issuer_forgot_is_registered_again() -> None:
    scene = logged_in(LoginScene())
    scene.auth.revoke()
    scene.auth.clients.clear()
    assert scene.done(scene.pipe().tool("echo")).result is not None
    assert len(scene.auth.asked("/register")) == 2
    scene.sound()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (("400 Bad Request", {"error": "invalid_redirect_uri"}), "invalid_redirect_uri"),
        (("400 Bad Request", {"error": "\u202eevil"}), "answered HTTP 400"),
        (("201 Created", {}), "no usable client_id"),
        (("201 Created", {"client_id": "a\nb"}), "no usable client_id"),
        (("201 Created", {"client_id": "a", "token_endpoint_auth_method": "tls_client_auth"}), "unknown way"),
        (("500 x", {}), "HTTP 500"),
        (b"HTTP/1.1 307 x\r\nLocation: https://evil.example/\r\nContent-Length: 0\r\n\r\n", "redirects"),
    ],
)
def test_a_registration_that_fails(answer: Any, reason: str) -> None:
    scene = LoginScene()
    scene.auth.answers["register"] = lambda document: answer
    scene.start()
    refused(scene, reason)
    assert not scene.browser.shown


# -- the token endpoint


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (("400 Bad Request", {"error": "invalid_grant", "error_description": "<b>"}), "invalid_grant"),
        (("200 OK", {}), "no usable token"),
        (("200 OK", {"access_token": "a b", "token_type": "Bearer"}), "no usable token"),
        (("200 OK", {"access_token": "a\r\nX: y", "token_type": "Bearer"}), "no usable token"),
        (("200 OK", {"access_token": "x" * 9000, "token_type": "Bearer"}), "no usable token"),
        (("200 OK", {"access_token": "a", "token_type": "mac"}), "no bearer token"),
        (("200 OK", {"access_token": "a"}), "no bearer token"),
        (("200 OK", {"access_token": ["a"], "token_type": "Bearer"}), "no usable token"),
        (b"HTTP/1.1 302 Found\r\nLocation: https://evil.example/\r\nContent-Length: 0\r\n\r\n", "redirects"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\n<>", "not JSON"),
    ],
)
def test_a_token_endpoint_that_gives_no_token(answer: Any, reason: str) -> None:
    scene = LoginScene()
    scene.auth.answers["token"] = lambda form: answer
    scene.start()
    refused(scene, reason)
    assert scene.browser.pages[0].status == 400
    assert "evil.example" not in repr(scene.auth.requests)
    assert not scene.guard.seen, "nothing was sent as a token"


def test_after_a_login_that_failed_no_browser_opens_for_a_while() -> None:
    scene = LoginScene()
    scene.auth.denies = "access_denied"
    scene.start()
    refused(scene, "access_denied")
    for _ in range(3):
        refused(scene)
        scene.run(14.0)
    assert len(scene.browser.shown) == 1
    scene.auth.denies = ""
    scene.run(60.0)
    assert scene.done(scene.pipe().tool("echo")).result is not None
    assert len(scene.browser.shown) == 2


@pytest.mark.parametrize("tells", [True, False])
def test_a_client_that_the_issuer_forgot_is_not_used_for_ever(tells: bool) -> None:
    """It says so at the token endpoint; or shows an error to the browser, and nobody ever comes back."""
    scene = logged_in(LoginScene(limits={"login_timeout_s": 30.0, "login_again_s": 5.0}))
    scene.auth.revoke()
    scene.auth.refresh.clear()
    if tells:
        scene.auth.answers["token"] = lambda form: ("401 Unauthorized", {"error": "invalid_client"})
    else:
        scene.browser.subject = None
    refused(scene)
    scene.run(60.0)
    scene.auth.answers.clear()
    scene.browser.subject = "ada"
    assert scene.done(scene.pipe().tool("echo")).result is not None
    first, *_, last = [parse_qs(urlsplit(url).query)["client_id"][0] for url in scene.browser.shown]
    assert first != last


def test_nobody_logs_in() -> None:
    """The call waits, bounded, and hears what it waits for; the login goes on for a while."""
    scene = LoginScene()
    scene.browser.subject = None
    scene.start()
    begun = scene.world.elapsed
    error = refused(scene)
    assert 40.0 <= scene.world.elapsed - begun <= 90.0
    assert "waits for a login in the browser" in error["message"]
    scene.browser.subject = "late"
    scene.browser.follow(scene.browser.shown[0])
    assert scene.done(scene.pipe().tool("echo")).result is not None
    assert len(scene.browser.shown) == 1
    scene.sound()


def test_a_login_ends_after_ten_minutes() -> None:
    scene = LoginScene()
    scene.browser.subject = None
    scene.start()
    refused(scene)
    scene.run(600.0)
    assert "in time" in scene.logged("login_failed")[0]["reason"]
    scene.sound()


# -- refresh and rejection (J16)


def test_a_token_is_refreshed_before_it_expires() -> None:
    scene = LoginScene()
    scene.auth.life_s = 600.0
    logged_in(scene)
    client = scene.pipe()
    for _ in range(20):
        scene.run(100.0)
        assert scene.done(client.tool("echo")).result is not None
    assert scene.guard.refused == 1, "the very first request only"
    assert len(scene.browser.shown) == 1
    kinds = [form["grant_type"] for form in scene.auth.asked("/token")]
    assert kinds[0] == "authorization_code" and set(kinds[1:]) == {"refresh_token"} and 3 <= len(kinds) <= 6
    scene.sound()


def test_after_a_401_one_refresh_and_the_call_goes_again() -> None:
    scene = logged_in(LoginScene())
    scene.auth.revoke()
    client = scene.pipe()
    calls = [client.tool("echo") for _ in range(4)]
    scene.done(*calls)
    assert all(call.result is not None for call in calls)
    assert len(scene.auth.asked("/token")) == 2 and len(scene.browser.shown) == 1
    made = [job.nonce for job in scene.model.calls]
    assert len(set(made)) == len(made), "no call was made twice"
    scene.sound()


def test_a_refresh_token_that_is_gone_leads_to_a_login() -> None:
    scene = logged_in(LoginScene())
    scene.auth.revoke()
    scene.auth.refresh.clear()
    assert scene.done(scene.pipe().tool("echo")).result is not None
    assert len(scene.browser.shown) == 2
    scene.sound()


def test_an_issuer_that_gives_no_refresh_token() -> None:
    scene = LoginScene()
    scene.auth.refreshes = False
    scene.auth.life_s = 300.0
    logged_in(scene)
    scene.run(400.0)
    assert scene.done(scene.pipe().tool("echo")).result is not None
    assert len(scene.browser.shown) == 2
    scene.sound()


def test_a_refresh_token_that_stays_good_is_kept() -> None:
    scene = LoginScene()
    scene.auth.rotates = False
    logged_in(scene)
    for _ in range(2):
        scene.auth.revoke()
        assert scene.done(scene.pipe().tool("echo")).result is not None
    assert len(scene.browser.shown) == 1
    scene.sound()


def test_while_the_issuer_is_down_a_token_that_is_good_is_used() -> None:
    scene = LoginScene()
    scene.auth.life_s = 600.0
    logged_in(scene)
    scene.auth.answers["token"] = lambda form: ("503 x", {})
    scene.run(545.0)  # due, and not expired
    assert scene.done(scene.pipe().tool("echo")).result is not None
    del scene.auth.answers["token"]
    scene.run(30.0)
    assert scene.done(scene.pipe().tool("echo")).result is not None
    assert len(scene.browser.shown) == 1
    scene.sound()


def test_a_server_that_refuses_every_token() -> None:
    scene = LoginScene()
    judge = scene.guard.judge
    scene.guard.judge = lambda headers, method: ("401 Unauthorized", "Bearer")  # type: ignore[method-assign]
    scene.guard.named = False
    scene.start()
    refused(scene)
    assert len(scene.browser.shown) <= 2
    tried = len(scene.guard.seen)
    scene.run(5.0)
    assert len(scene.guard.seen) == tried, "and nothing goes on by itself"
    scene.guard.judge = judge  # type: ignore[method-assign]


# -- scopes (J3, J15)


@pytest.mark.parametrize(
    ("configured", "challenged", "supported", "offline", "wanted"),
    [
        ((), (), None, False, ""),
        ((), ("read",), None, False, "read"),
        ((), ("read",), ["read", "write"], False, "read"),
        ((), (), ["read", "write"], False, "read write"),
        (("mine",), ("read",), ["write"], False, "mine"),
        ((), ("read",), None, True, "read offline_access"),
        ((), (), None, True, ""),
        ((), (), [], False, ""),
    ],
)
def test_which_scopes_are_asked_for(
    configured: tuple[str, ...],
    challenged: tuple[str, ...],
    supported: list[str] | None,
    offline: bool,
    wanted: str,
) -> None:
    scene = LoginScene(oauth={"scopes": configured})
    scene.guard.needs = {"": challenged}
    scene.guard.metadata = {"scopes_supported": supported}
    if offline:
        scene.auth.metadata = {"scopes_supported": ["read", "offline_access"]}
    scene.start()
    scene.pipe().tool("echo")
    scene.until(lambda: scene.browser.shown)
    assert asked(scene).get("scope", "") == wanted


def test_more_rights_are_asked_for_when_a_call_needs_them() -> None:
    scene = LoginScene()
    scene.guard.needs = {"": ("read",), "tools/call": ("write",)}
    scene.start()
    client = scene.pipe()
    assert scene.done(client.tool("echo")).result is not None
    scopes = [parse_qs(urlsplit(url).query)["scope"][0] for url in scene.browser.shown]
    assert scopes == ["read", "read write"], "what was granted is not lost"
    assert scene.done(client.tool("echo")).result is not None
    assert len(scene.browser.shown) == 2
    scene.sound()


def test_while_more_rights_are_asked_for_other_calls_go_on() -> None:
    scene = LoginScene()
    scene.guard.needs = {"": ("read",), "tools/call": ("write",)}
    scene.start()
    client = scene.pipe()
    scene.done(client.request("tools/list"))
    scene.browser.delay_s = 15.0
    slow = client.tool("echo")
    scene.run(1.0)
    other = client.request("prompts/list")
    scene.run(2.0)
    assert other.settled and not slow.settled
    assert scene.done(slow).result is not None


def test_rights_that_are_never_given_are_not_asked_for_again() -> None:
    scene = LoginScene()
    scene.guard.needs = {"": ("read",), "tools/call": ("admin",)}
    scene.auth.grants_only = ("read",)
    scene.start()
    client = scene.pipe()
    for _ in range(3):
        call = scene.done(client.tool("echo"))
        assert call.error is not None and "insufficient" not in call.error["message"]
    assert len(scene.browser.shown) == 2
    assert scene.done(client.request("tools/list")).result is not None, "what it may do it still does"


# -- several processes


def test_another_process_that_logs_in_first() -> None:
    """It holds the lock; what it stores is what this one uses."""
    first = logged_in(LoginScene())
    scene = LoginScene()
    scene.auth.tokens = first.auth.tokens
    scene.store.held_elsewhere["*"] = None
    scene.start()
    call = scene.pipe().tool("echo")
    scene.run(20.0)
    assert not call.settled and not scene.browser.shown
    scene.store.records.update(first.store.records)
    scene.store.let_go()
    scene.done(call)
    assert call.result is not None and not scene.browser.shown
    scene.sound()


def test_another_process_that_refreshed_first() -> None:
    """Refresh tokens are good once: two processes must not use the same one."""
    scene = logged_in(LoginScene())
    (name,) = scene.store.records
    record = json.loads(scene.store.records[name])
    entry = record["entries"][ISSUER]
    scene.auth.revoke()
    status, told = scene.auth._by_refresh(
        {"refresh_token": entry["refresh"], "resource": URL}, entry["client"]["client_id"]
    )
    assert status == "200 OK"
    entry |= {"access": told["access_token"], "refresh": told["refresh_token"]}
    scene.store.records[name] = json.dumps(record).encode()
    assert scene.done(scene.pipe().tool("echo")).result is not None
    assert len(scene.auth.asked("/token")) == 1 and len(scene.browser.shown) == 1
    scene.sound()


def test_without_a_store_tokens_live_as_long_as_the_process() -> None:
    scene = LoginScene()
    scene.store.works = False
    logged_in(scene)
    scene.auth.revoke()
    assert scene.done(scene.pipe().tool("echo")).result is not None
    assert len(scene.browser.shown) == 1


# -- shutdown


@pytest.mark.parametrize("when", ["discovery", "browser", "token"])
def test_a_shutdown_in_the_middle_of_a_login(when: str) -> None:
    scene = LoginScene()
    scene.browser.subject = None if when == "browser" else "ada"
    if when == "discovery":
        scene.auth.silent["/.well-known/oauth-authorization-server"] = None
    if when == "token":
        scene.auth.silent["/token"] = None
    scene.start()
    scene.pipe().tool("echo")
    scene.run(7.0)
    scene.world.feed("shutdown", 0.0)
    scene.run(30.0)
    assert scene.world.stopped and not scene.store.locked
    assert not [name for name in scene.world.net.listens if name.startswith("login")]
