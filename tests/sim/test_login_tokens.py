"""Tokens once there was a login: refresh, rejection, scopes, other processes, the end (J3, J15-J17).

Owns: one scenario per rule, on virtual time, against model servers that keep to OAuth 2.1 or break it in one
way. Must never: reach into the gateway.
"""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.sim.login_scene import ISSUER, URL, LoginScene, asked, logged_in, refused

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
