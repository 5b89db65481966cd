"""Logins at servers that want tokens: as which client one goes to an authorization server, and what becomes
of it where that gives no token (J12-J14).

Owns: one scenario per rule, on virtual time, against model servers that keep to OAuth 2.1 or break it in one
way. Must never: reach into the gateway.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from fuzz.sim.logins import AuthServer
from tests.sim.login_scene import ISSUER, OTHER_HOST, LoginScene, asked, logged_in, refused

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
