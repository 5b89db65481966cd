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
from tests.sim.login_scene import AS_HOST, ISSUER, OTHER_HOST, URL, LoginScene, asked, logged_in, refused

ERAS = [("modern",), ("legacy",), ("modern", "legacy")]


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
