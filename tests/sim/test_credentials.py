"""Whose token goes where: client credentials, principals of their own, shared servers, `Gateway.login`.

Owns: scenarios on virtual time; the random ones run against models that know which token is whose.
Must never: reach into the gateway.
"""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.sim.http_clients import ModernHttp
from mcpgate_proto.config import AuthConfig, KeyConfig
from mcpgate_proto.security.keys import hash_secret
from mcpgate_proto.upstream.oauth import Registration
from mcpgate_proto.upstream.token_record import Entry, Record, encode_record, read_record, record_name
from tests.sim.login_scene import ISSUER, URL, LoginScene

SERVICE: dict[str, Any] = {"grant": "client_credentials", "client_id": "gate", "client_secret": "s3cr3t"}


def service(**more: Any) -> LoginScene:
    """A gateway with client credentials; its client is anonymous, over HTTP."""
    wants = {**SERVICE, **more.pop("oauth", {})}
    scene = LoginScene(oauth=wants, attended=False, transparent=False, listeners=("http",), **more)
    scene.auth.known("gate", "s3cr3t")
    return scene


# -- client credentials


@pytest.mark.parametrize("named", [True, False])
def test_a_token_is_fetched_when_it_is_needed_and_only_once(named: bool) -> None:
    scene = service()
    scene.guard.named = named
    scene.start()
    client = scene.http()
    calls = [client.tool("echo") for _ in range(4)]
    scene.done(*calls)
    assert all(call.result is not None for call in calls)
    (form,) = scene.auth.asked("/token")
    assert (form["grant_type"], form["resource"]) == ("client_credentials", URL)
    assert "client_secret" not in form, "client_secret_basic is used where it is offered"
    assert scene.guard.refused == 0 and not scene.browser.shown
    assert not scene.store.records, "it is kept in memory only"
    scene.sound()


def test_metadata_that_only_the_challenge_names() -> None:
    scene = service()
    scene.guard.paths = ["/.well-known/oauth-protected-resource/elsewhere"]
    scene.auth.metadata = {}
    scene.start()
    assert scene.done(scene.http().tool("echo")).result is not None
    assert len(scene.auth.asked("/token")) == 1
    scene.sound()


def test_a_token_url_spares_the_discovery() -> None:
    scene = service(oauth={"token_url": f"{ISSUER}/token", "scopes": ("a", "b")})
    scene.start()
    assert scene.done(scene.http().tool("echo")).result is not None
    assert [path for _, path, _ in scene.auth.requests] == ["/token"]
    assert scene.auth.asked("/token")[0]["scope"] == "a b"


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_how_the_client_proves_itself(method: str) -> None:
    scene = service()
    scene.auth.metadata = {"token_endpoint_auth_methods_supported": [method]}
    scene.auth.known("gate", "s3cr3t", token_endpoint_auth_method=method)
    scene.start()
    assert scene.done(scene.http().tool("echo")).result is not None


def test_a_private_key_in_place_of_a_secret() -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    scene = service(oauth={"client_secret": "", "client_key": pem, "client_key_id": "k1"})
    scene.auth.answers["token"] = lambda form: scene.auth._issue(
        "gate", form["resource"], (), "service", False
    )
    scene.start()
    assert scene.done(scene.http().tool("echo")).result is not None
    (form,) = scene.auth.asked("/token")
    assert form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    head, body, signature = form["client_assertion"].split(".")
    decoded = [json.loads(base64.urlsafe_b64decode(part + "==")) for part in (head, body)]
    assert decoded[0] == {"alg": "EdDSA", "typ": "JWT", "kid": "k1"}
    claims = decoded[1]
    assert (claims["iss"], claims["sub"], claims["aud"]) == ("gate", "gate", ISSUER)
    assert 0 < claims["exp"] - claims["iat"] <= 300 and abs(claims["iat"] - scene.world.wall) < 5
    key.public_key().verify(base64.urlsafe_b64decode(signature + "=="), f"{head}.{body}".encode())


@pytest.mark.parametrize("grant", ["client_credentials", "authorization_code"])
def test_a_key_that_is_none(grant: str) -> None:
    wants = {"grant": grant, "client_id": "gate", "client_key": "-----BEGIN NONSENSE-----"}
    scene = LoginScene(oauth=wants)
    scene.auth.known("gate")
    scene.start()
    call = scene.done(scene.pipe().tool("echo"))
    assert call.error is not None and "NONSENSE" not in json.dumps(call.answer)


def test_a_token_is_renewed_before_it_expires_and_after_a_401() -> None:
    scene = service()
    scene.auth.life_s = 400.0
    scene.start()
    client = scene.http()
    for _ in range(10):
        assert scene.done(client.tool("echo")).result is not None
        scene.run(100.0)
    assert scene.guard.refused == 0 and 2 <= len(scene.auth.asked("/token")) <= 4
    before = len(scene.auth.asked("/token"))
    scene.auth.revoke()
    calls = [client.tool("echo") for _ in range(5)]
    scene.done(*calls)
    assert all(call.result is not None for call in calls)
    assert len(scene.auth.asked("/token")) == before + 1
    scene.sound()


@pytest.mark.parametrize("grant", ["client_credentials", "authorization_code"])
def test_a_token_that_is_good_is_used_while_it_cannot_be_renewed(grant: str) -> None:
    """An authorization server that is down does no harm before the token expires, and is left in peace."""
    scene = service() if grant == "client_credentials" else LoginScene()
    scene.start()
    client = scene.http() if grant == "client_credentials" else scene.pipe()
    assert scene.done(client.tool("echo")).result is not None
    scene.run(scene.auth.life_s - scene.config.limits.token_margin_s + 1)
    scene.auth.answers["token"] = lambda form: ("503 Service Unavailable", {})
    before = len(scene.auth.asked("/token"))
    for _ in range(20):
        call = scene.done(client.tool("echo"))
        assert call.result is not None, call.answer
        scene.run(0.5)
    assert before < len(scene.auth.asked("/token")) <= before + 4
    del scene.auth.answers["token"]
    scene.run(60.0)
    assert scene.done(client.tool("echo")).result is not None
    scene.sound()


def test_more_scopes_are_asked_for_once() -> None:
    scene = service()
    scene.guard.needs = {"": ("read",), "tools/call": ("write",)}
    scene.guard.metadata = {"scopes_supported": ["read"]}
    scene.start()
    client = scene.http()
    assert scene.done(client.tool("echo")).result is not None
    assert [form["scope"] for form in scene.auth.asked("/token")] == ["read", "read write"]
    scene.auth.grants_only = ("read",)
    scene.guard.needs["tools/call"] = ("admin",)
    for _ in range(3):
        call = scene.done(client.tool("echo"))
        assert "does not let the gateway" in call.error["message"]
    assert len(scene.auth.asked("/token")) == 3


@pytest.mark.parametrize(
    "answer",
    [
        ("401 Unauthorized", {"error": "invalid_client", "error_description": "secret s3cr3t is wrong"}),
        ("500 x", {}),
        b"HTTP/1.1 302 Found\r\nLocation: https://evil.example/\r\nContent-Length: 0\r\n\r\n",
        b"",
    ],
)
def test_no_token_no_storm(answer: Any) -> None:
    """J9: the client hears that the gateway has no credentials, and nobody is asked over and over."""
    scene = service()
    if answer:
        scene.auth.answers["token"] = lambda form: answer
    else:
        scene.auth.silent["/token"] = None
    scene.start()
    client = scene.http()
    for _ in range(20):
        call = scene.done(client.tool("echo"))
        told = json.dumps(call.answer)
        assert call.error is not None and "s3cr3t" not in told and "Bearer" not in told
        assert "invalid_client" not in told and "evil" not in told
        scene.run(1.0)
    assert bool(answer) <= len(scene.auth.asked("/token")) <= 12
    assert not any("s3cr3t" in repr(record) for record in scene.world.records)


def test_a_server_that_refuses_every_token_is_not_pestered() -> None:
    scene = service()
    scene.guard.judge = lambda headers, method: ("401 Unauthorized", "Bearer")  # type: ignore[method-assign]
    scene.start()
    client = scene.http()
    for _ in range(10):
        call = scene.done(client.tool("echo"))
        assert "does not accept the gateway's credentials" in call.error["message"]
    assert len(scene.auth.asked("/token")) <= 2


def test_a_401_of_a_server_without_oauth_is_not_relayed() -> None:
    """J9: neither its status nor its challenge reaches the client."""
    scene = LoginScene(attended=False, transparent=False, listeners=("http",), era="modern")
    scene = _without_oauth(scene)
    scene.start()
    client = scene.http()
    call = scene.done(client.tool("echo"))
    assert call.error is not None and "resource_metadata" not in json.dumps(call.answer)
    for wire in client.wires:
        assert wire.status != 401 and "www-authenticate" not in wire.headers


def _without_oauth(scene: LoginScene) -> LoginScene:
    import msgspec

    servers = tuple(msgspec.structs.replace(one, oauth=None) for one in scene.config.servers)
    return scene.remade(msgspec.structs.replace(scene.config, servers=servers))


# -- principals

KEYS = {"ann": "a" * 43, "bob": "b" * 43}


class Person(ModernHttp):
    """A client with a key."""

    key = ""

    def post(self, message: Any, headers: list[tuple[str, str]], call: Any) -> Any:
        return super().post(message, [*headers, ("Authorization", f"Bearer {self.key}")], call)


def keyed(**more: Any) -> LoginScene:
    """`serve` with two people behind keys of their own, whose logins are stored."""
    configs = tuple(KeyConfig(id=name, hash=hash_secret(secret, bytes(16))) for name, secret in KEYS.items())
    auth = AuthConfig(resource="https://gw.example/mcp", keys=configs)
    scene = LoginScene(attended=False, transparent=False, listeners=("http",), auth=auth, **more)
    for name in KEYS:
        grant(scene, f"key:{name}", name)
    return scene


def person(scene: LoginScene, name: str) -> Person:
    client = Person(scene.world, name)
    client.key = f"mcpg_{name}_{KEYS[name]}"
    return client


def grant(scene: LoginScene, principal: str, subject: str, url: str = URL, number: int = 0) -> None:
    """What `mcpgate login --principal` would have stored."""
    auth = scene.auth
    id = auth.serial("client")
    auth.known(id)
    _, told = auth._issue(id, url, (), subject, True)
    until = scene.world.wall + (auth.life_s or 0)
    entry = Entry(Registration(id), told["access_token"], told["refresh_token"], until)
    record = Record(principal, url).with_entry(auth.issuer, entry)
    scene.store.records[record_name(principal, url)] = encode_record(record)


def test_each_principal_has_its_own_token() -> None:
    """J17: never one user's token for another."""
    scene = keyed().start()
    ann, bob = person(scene, "ann"), person(scene, "bob")
    for client in (ann, bob, ann):
        assert scene.done(client.tool("echo")).result is not None
    whose = {subject: job for job, subject in zip(scene.model.calls, _subjects(scene), strict=True)}
    assert set(whose) == {"ann", "bob"}
    for job, subject in zip(scene.model.calls, _subjects(scene), strict=True):
        assert job.nonce.startswith((ann if subject == "ann" else bob).name)
    assert not scene.browser.shown
    scene.sound()


def _subjects(scene: LoginScene) -> list[str]:
    return [subject for method, subject in scene.guard.subjects if method == "tools/call"]


def test_a_principal_without_a_login_is_told_how_to_get_one() -> None:
    scene = keyed()
    del scene.store.records[record_name("key:bob", URL)]
    scene.start()
    ann, bob = person(scene, "ann"), person(scene, "bob")
    told = scene.done(bob.tool("echo")).error["message"]
    assert "mcpgate login s1 --principal key:bob" in told
    assert scene.done(ann.tool("echo")).result is not None, "others are not kept waiting by that"
    before = len(scene.guard.seen) + scene.guard.refused
    for _ in range(5):
        assert "mcpgate login" in scene.done(bob.tool("echo")).error["message"]
    assert len(scene.guard.seen) + scene.guard.refused <= before + 2, "the server is not asked each time"
    # Somebody logs in for him meanwhile.
    grant(scene, "key:bob", "bob")
    scene.run(2.0)
    assert scene.done(bob.tool("echo")).result is not None
    assert not scene.browser.shown and set(_subjects(scene)) == {"ann", "bob"}
    scene.sound()


def test_a_remote_client_never_opens_a_browser() -> None:
    """Also not where somebody is at the machine: it is not he who asked."""
    scene = LoginScene(attended=True, transparent=False, listeners=("http", "stdio"))
    scene.start()
    scene.run(10.0)
    told = scene.done(scene.http().tool("echo")).error["message"]
    assert "mcpgate login s1 --principal anonymous" in told and not scene.browser.shown


def test_a_local_client_of_an_attended_gateway_logs_in() -> None:
    scene = LoginScene(attended=True, transparent=False, listeners=("stdio",))
    scene.browser.delay_s = 20.0
    scene.start()
    client = scene.pipe()
    told = scene.done(client.tool("echo")).error["message"]
    assert "waits for a login in the browser" in told, "lists of other servers are not held up"
    scene.until(lambda: scene.logged("server_ready"))
    assert scene.done(client.tool("echo")).result is not None
    assert len(scene.browser.shown) == 1
    scene.sound()


def test_an_unattended_gateway_tells_even_a_local_client_what_to_do() -> None:
    scene = LoginScene(attended=False)
    scene.start()
    told = scene.done(scene.pipe().tool("echo")).error["message"]
    assert told.endswith(f"mcpgate login {URL}") and not scene.browser.shown


def test_the_command_in_a_fault_can_be_copied_into_a_shell() -> None:
    """A principal's name is of its issuer's making."""
    import shlex

    from mcpgate_proto.hub import Hub
    from mcpgate_proto.upstream.credentials import Credentials
    from mcpgate_proto.upstream.desk import Desk
    from mcpgate_proto.upstream.fetch import Fetcher

    scene = LoginScene(attended=False, transparent=False)
    hub = Hub(scene.config, now=0.0, wall=0.0, seed=bytes(32))
    made = Credentials(hub, scene.config.servers[0], Fetcher(hub), Desk(hub), lambda: None)
    evil = "jwt:https://as.example#x'; rm -rf ~ #$(id)\n"
    made.wallet(evil)
    command = made.fault(evil, 401).message.split(": ", 1)[1]
    assert shlex.split(command) == ["mcpgate", "login", "s1", "--principal", evil]


def test_a_shared_server_has_one_login_for_all() -> None:
    scene = keyed(isolation="shared")
    scene.store.records.clear()
    grant(scene, "shared", "team")
    scene.start()
    for name in KEYS:
        assert scene.done(person(scene, name).tool("echo")).result is not None
    assert set(_subjects(scene)) == {"team"}
    scene.sound()


def test_tokens_go_to_their_own_server_only() -> None:
    """Two servers of one issuer: a token for one is never shown to the other (J16)."""
    scene = LoginScene(servers=2, transparent=False)
    scene.start()
    client = scene.pipe()
    client.request("tools/list")
    scene.until(lambda: len(scene.logged("server_ready")) == 2)
    for name in ("s1", "s2"):
        client.prefix = f"{name}__"
        assert scene.done(client.tool("echo")).result is not None
    first, second = scene.guards
    assert first.seen and second.seen and not set(first.seen) & set(second.seen)
    assert len(scene.store.records) == 2
    scene.sound()


# -- Gateway.login


@pytest.mark.parametrize("stored", [True, False])
def test_login_by_command_stores_tokens_for_the_principal_that_was_named(stored: bool) -> None:
    scene = LoginScene(attended=True, listeners=(), enabled=False)
    if stored:
        grant(scene, "key:ann", "old")
    scene.start()
    scene.world.feed("login", "s1", "key:ann")
    scene.until(lambda: scene.logged("login_done"))
    assert len(scene.browser.shown) == 1
    record = read_record(scene.store.records[record_name("key:ann", URL)], "key:ann", URL)
    assert scene.auth.tokens[record.current.access].subject == "ada"
    assert not scene.model.calls and len(scene.store.records) == 1
    scene.sound()
    scene.world.feed("shutdown", 0.0)
    scene.run(30.0)
    assert scene.world.stopped


def test_whatever_a_stored_record_says_somebody_can_log_in() -> None:
    odd = Registration("gate", redirect_uri="http://127.0.0.1:99999/callback")
    record = encode_record(Record("local", URL, ISSUER, {ISSUER: Entry(odd)}))
    scene = LoginScene(records={record_name("local", URL): record}).start()
    assert scene.done(scene.pipe().tool("echo")).result is not None
    assert len(scene.browser.shown) == 1
    scene.sound()


def test_login_where_none_is_wanted() -> None:
    scene = LoginScene(listeners=(), enabled=False)
    scene.guard.judge = lambda headers, method: None  # type: ignore[method-assign]
    scene.start()
    scene.world.feed("login", "s1", "local")
    scene.until(lambda: scene.logged("login_unneeded"))
    assert not scene.browser.shown


@pytest.mark.parametrize("what", ["denied", "metadata", "down"])
def test_login_that_fails_says_so(what: str) -> None:
    scene = LoginScene(listeners=(), enabled=False)
    if what == "denied":
        scene.auth.denies = "access_denied"
    elif what == "metadata":
        scene.auth.metadata = {"code_challenge_methods_supported": None}
    else:
        scene.world.net.services.clear()
    scene.start()
    scene.world.feed("login", "s1", "local")
    scene.until(lambda: scene.logged("login_failed") or scene.logged("login_impossible"), 120)


def test_login_without_oauth() -> None:
    scene = _without_oauth(LoginScene(listeners=(), enabled=False)).start()
    scene.world.feed("login", "s1", "local")
    assert "no oauth" in scene.logged("login_failed")[0]["reason"]


# -- at random


@settings(max_examples=60)
@given(st.data())
def test_whatever_happens_tokens_stay_with_their_principal_and_server(data: st.DataObject) -> None:
    """Calls of two people on two servers, while tokens expire, are revoked, rotate, and issuers go away.

    Nobody's token is shown for somebody else or elsewhere; refresh tokens are used once; nothing hangs.
    """
    scene = keyed(servers=2, seed=data.draw(st.integers(0, 1000)))
    scene.auth.life_s = data.draw(st.sampled_from([30.0, 120.0, 3600.0]))
    scene.store.records.clear()
    urls = [one.url for one in scene.config.servers]
    for name in KEYS:
        for url in urls:
            grant(scene, f"key:{name}", name, url)
    scene.start()
    people = {name: person(scene, name) for name in KEYS}
    calls = []
    for _ in range(data.draw(st.integers(3, 12))):
        step = data.draw(
            st.sampled_from(["call", "call", "call", "run", "revoke", "down", "up", "lock", "free"])
        )
        if step == "call":
            name, server = data.draw(st.sampled_from([*KEYS])), data.draw(st.sampled_from(["s1", "s2"]))
            people[name].prefix = f"{server}__"
            calls.append((name, server, people[name].tool("echo")))
        elif step == "run":
            scene.run(data.draw(st.sampled_from([0.001, 0.01, 1.0, 40.0])))
        elif step == "revoke":
            scene.auth.revoke()
        elif step == "down":
            scene.auth.answers["token"] = lambda form: ("503 x", {})
        elif step == "up":
            scene.auth.answers.clear()
        elif step == "lock":
            scene.store.held_elsewhere["*"] = None
        else:
            scene.store.let_go()
    scene.auth.answers.clear()
    scene.store.let_go()
    scene.until(lambda: all(call.settled for _, _, call in calls), 200, "answers")
    for guard, model in zip(scene.guards, scene.models, strict=True):
        assert not guard.problems
        subjects = [subject for method, subject in guard.subjects if method == "tools/call"]
        assert len(subjects) == len(model.calls)
        for job, subject in zip(model.calls, subjects, strict=True):
            assert job.nonce.startswith(people[subject].name), "a call with somebody else's token"
    assert not scene.auth.problems, "a refresh token that was used up came again, or worse"
    assert not scene.browser.shown and not scene.store.locked
    # Whatever happened, it works again.
    scene.run(65.0)
    for name in KEYS:
        record = read_record(scene.store.records[record_name(f"key:{name}", urls[0])], f"key:{name}", urls[0])
        if record.current.refresh in scene.auth.refresh:
            people[name].prefix = "s1__"
            assert scene.done(people[name].tool("echo")).result is not None


def test_urls_in_the_fault_are_ours() -> None:
    """The words for a client hold nothing that a server or an authorization server said."""
    scene = LoginScene()
    scene.auth.denies = "access_denied"
    scene.start()
    told = scene.done(scene.pipe().tool("echo")).error["message"]
    assert (
        "access_denied" not in told
        and parse_qs(urlsplit(scene.browser.shown[0]).query)["state"][0] not in told
    )
