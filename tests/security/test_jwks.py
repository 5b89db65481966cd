"""Where an issuer's keys come from, and when: on virtual time, with a model of the issuer.

Must never: know how the source keeps its books; what counts is what is fetched and who gets in.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mcpgate_proto.config import AuthConfig, GatewayConfig, IssuerConfig
from mcpgate_proto.hub import Hub
from mcpgate_proto.limits import Limits
from mcpgate_proto.security.gate import Authenticator, Pending, Refusal, Verdict, Waiter
from mcpgate_proto.security.jwks import Jwk
from mcpgate_proto.security.jwt import Token, Verifier
from mcpgate_proto.security.principal import Grant, Principal
from tests.security.tokens import AUDIENCE, ISSUER, WALL, jwks, public, token

URL = "https://idp.example/keys"
LIMITS = Limits(auth_waiting=8)
# Good for as long as any of these tests lasts.
FAR = int(WALL) + 10**9


@functools.cache
def signed(by: str) -> str:
    return token(by=by, exp=FAR)


class Scene:
    """An authenticator, a clock, and an issuer whose answers are given by hand."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        issuer = IssuerConfig(issuer=ISSUER, jwks_url=URL)
        auth = AuthConfig(resource=AUDIENCE, issuers=(issuer,))
        self.hub = Hub(GatewayConfig(auth=auth, limits=limits), now=0.0, wall=WALL, seed=bytes(32))
        # The moments at which something was fetched, and the answers that are owed.
        self.asked: list[float] = []
        self.open: list[Callable[[bytes | None, str], None]] = []
        self.auth = Authenticator(self.hub, self._fetch)

    def _fetch(self, issuer: IssuerConfig, done: Callable[[bytes | None, str], None]) -> None:
        assert issuer.jwks_url == URL
        self.asked.append(self.hub.now)
        self.open.append(done)

    def answer(self, *keys: str) -> None:
        """The issuer answers what is owed with these keys."""
        self._answer(jwks(*map(public, keys)).encode(), "")

    def fail(self) -> None:
        self._answer(None, "connection refused")

    def garble(self) -> None:
        self._answer(b'{"keys": []}', "")

    def _answer(self, data: bytes | None, reason: str) -> None:
        owed, self.open = self.open, []
        for done in owed:
            done(data, reason)

    def run(self, seconds: float) -> None:
        self.hub.now += seconds
        for timer in self.hub.timers.due(self.hub.now):
            timer.run()

    def bearer(self, by: str = "rsa") -> Verdict:
        return self.auth.bearer(signed(by))

    def wait(self, by: str = "rsa") -> list[Verdict | bool]:
        """Wait as a request does: the list gets the verdict once it is there, or True when it is late."""
        heard: list[Verdict | bool] = []
        pending = self.bearer(by)
        assert isinstance(pending, Pending)
        waiter = self.auth.wait(pending, lambda late: heard.append(late or self.bearer(by)))
        assert isinstance(waiter, Waiter)
        return heard


def test_keys_are_fetched_at_the_start_and_requests_wait_for_them() -> None:
    scene = Scene()
    assert scene.asked == []
    scene.auth.start()
    assert scene.asked == [0.0]
    first, second = scene.wait(), scene.wait()
    assert len(scene.asked) == 1, "one fetch for all"
    scene.answer("rsa")
    assert isinstance(first[0], Grant) and isinstance(second[0], Grant)
    assert isinstance(scene.bearer(), Grant) and len(scene.asked) == 1


def test_others_pass_while_one_waits() -> None:
    scene = Scene()
    scene.auth.start()
    scene.answer("rsa")
    scene.run(60)
    waiting = scene.wait("rsa2")
    assert isinstance(scene.bearer("rsa"), Grant)
    scene.answer("rsa", "rsa2")
    assert isinstance(waiting[0], Grant)


def test_who_waits_too_long_hears_that_it_is_late() -> None:
    scene = Scene()
    scene.auth.start()
    waiting = scene.wait()
    scene.run(LIMITS.auth_wait_s - 0.01)
    assert waiting == []
    scene.run(0.02)
    assert waiting == [True]
    late = scene.auth.late()
    assert late.status == 503 and ("Retry-After", "5") in late.headers
    scene.answer("rsa")
    assert waiting == [True], "once"


def test_too_many_do_not_wait() -> None:
    scene = Scene()
    scene.auth.start()
    for _ in range(LIMITS.auth_waiting):
        scene.wait()
    pending = scene.bearer()
    assert isinstance(pending, Pending)
    told = scene.auth.wait(pending, lambda late: pytest.fail("nobody waits"))
    assert isinstance(told, Refusal) and told.status == 503
    scene.answer("rsa")
    assert isinstance(scene.bearer(), Grant)


def test_who_is_gone_is_not_called() -> None:
    scene = Scene()
    scene.auth.start()
    pending = scene.bearer()
    assert isinstance(pending, Pending)
    waiter = scene.auth.wait(pending, lambda late: pytest.fail("it was cancelled"))
    assert isinstance(waiter, Waiter)
    waiter.cancel()
    scene.answer("rsa")
    scene.run(60)


def test_an_unknown_kid_asks_again_but_not_often() -> None:
    scene = Scene()
    scene.auth.start()
    scene.answer("rsa")
    # Just fetched: whoever invents key ids cannot make us fetch.
    for _ in range(50):
        told = scene.bearer("rsa2")
        assert isinstance(told, Refusal) and told.status == 401
    assert len(scene.asked) == 1
    scene.run(LIMITS.jwks_cooldown_s)
    waiting = scene.wait("rsa2")
    assert len(scene.asked) == 2
    scene.answer("rsa")
    told = waiting[0]
    assert isinstance(told, Refusal) and told.status == 401, (
        "still unknown, and nothing goes round in circles"
    )
    scene.run(LIMITS.jwks_cooldown_s - 1)
    assert isinstance(scene.bearer("rsa2"), Refusal) and len(scene.asked) == 2


def test_a_key_that_is_withdrawn_opens_nothing_after_the_next_fetch() -> None:
    scene = Scene()
    scene.auth.start()
    scene.answer("rsa")
    scene.run(LIMITS.jwks_refresh_s + 1)
    assert isinstance(scene.bearer("rsa"), Grant), "the old keys are good while the new ones come"
    assert len(scene.asked) == 2
    scene.answer("rsa2")
    assert isinstance(scene.bearer("rsa2"), Grant)
    told = scene.bearer("rsa")
    assert isinstance(told, Refusal) and told.status == 401


@pytest.mark.parametrize("how", ["fail", "garble"])
def test_old_keys_stay_while_the_issuer_is_away_but_not_for_ever(how: str) -> None:
    scene = Scene()
    scene.auth.start()
    scene.answer("rsa")
    while scene.hub.now <= LIMITS.jwks_stale_s - 700:
        scene.run(600)
        assert isinstance(scene.bearer("rsa"), Grant)
        getattr(scene, how)()
    scene.run(1400)
    scene.bearer("rsa")
    getattr(scene, how)()
    told = scene.bearer("rsa")
    assert isinstance(told, Refusal) and told.status == 503, (
        "nobody can tell; that is no verdict on the token"
    )
    scene.run(60)
    scene.bearer("rsa")
    scene.answer("rsa")
    assert isinstance(scene.bearer("rsa"), Grant)


def test_an_issuer_that_does_not_answer_at_the_start_is_asked_again_soon_then_less_often() -> None:
    scene = Scene()
    scene.auth.start()
    for _ in range(2000):
        scene.fail()
        told = scene.bearer()
        assert isinstance(told, Refusal | Pending)
        if isinstance(told, Refusal):
            assert told.status == 503
        scene.run(0.1)
    gaps = [after - before for before, after in zip(scene.asked, scene.asked[1:], strict=False)]
    assert 1.9 < gaps[0] < 2.2 and 3.9 < gaps[1] < 4.2
    assert (
        all(gap <= LIMITS.jwks_cooldown_s + 0.2 for gap in gaps) and gaps[-1] > LIMITS.jwks_cooldown_s - 0.2
    )
    scene.run(60)
    scene.bearer()
    scene.answer("rsa")
    assert isinstance(scene.bearer(), Grant)


def test_an_issuer_that_is_no_longer_configured() -> None:
    scene = Scene()
    scene.auth.start()
    waiting = scene.wait()
    scene.auth.reload(AuthConfig(resource=AUDIENCE))
    scene.answer("rsa")
    assert isinstance(scene.bearer(), Refusal)
    scene.run(60)
    assert waiting == [True]


def test_a_reload_keeps_the_keys_of_what_did_not_change() -> None:
    scene = Scene()
    scene.auth.start()
    scene.answer("rsa")
    before = scene.auth.config
    other = IssuerConfig(issuer="https://other.example", jwks=jwks(public("rsa2")))
    lost = scene.auth.reload(AuthConfig(resource=AUDIENCE, issuers=(*before.issuers, other)))
    granted = scene.bearer()
    assert isinstance(granted, Grant) and not lost(granted.principal)
    assert len(scene.asked) == 1


# -- a token that comes again


def test_a_signature_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()
    scene.auth.start()
    scene.answer("rsa")
    checked: list[str] = []
    real = Verifier.signed

    def signed_once(self: Verifier, told: Token, key: Jwk) -> bool:
        checked.append(told.text)
        return real(self, told, key)

    monkeypatch.setattr(Verifier, "signed", signed_once)
    verdicts = [scene.bearer() for _ in range(5)]
    assert len(checked) == 1 and len(set(map(repr, verdicts))) == 1 and isinstance(verdicts[0], Grant)
    # Another token of the same holder, and one with another signature, are looked at themselves.
    assert isinstance(scene.auth.bearer(token(exp=FAR, jti="2")), Grant)
    assert isinstance(scene.auth.bearer(signed("rsa")[:-4] + "AAAA"), Refusal)
    assert len(checked) == 3


def test_what_was_found_once_ends_with_the_token() -> None:
    scene = Scene()
    scene.auth.start()
    scene.answer("rsa")
    text = token(exp=int(WALL) + 60)
    assert isinstance(scene.auth.bearer(text), Grant)
    scene.run(60 + LIMITS.token_leeway_s - 1)
    assert isinstance(scene.auth.bearer(text), Grant)
    scene.run(1)
    told = scene.auth.bearer(text)
    assert isinstance(told, Refusal) and told.reason == "the token has expired"


def test_a_refusal_is_not_remembered() -> None:
    scene = Scene()
    scene.auth.start()
    scene.answer("rsa")
    early = token(exp=FAR, nbf=int(WALL) + 100)
    assert isinstance(scene.auth.bearer(early), Refusal)
    scene.run(100)
    assert isinstance(scene.auth.bearer(early), Grant)


def test_what_is_remembered_is_bounded() -> None:
    scene = Scene(msgspec.structs.replace(LIMITS, tokens_kept=3))
    scene.auth.start()
    scene.answer("rsa")
    texts = [token(exp=FAR, jti=str(n)) for n in range(5)]
    for _ in range(3):
        assert all(isinstance(scene.auth.bearer(text), Grant) for text in texts)
    assert len(scene.auth._proofs) == 3


def test_a_reload_forgets_what_was_found() -> None:
    """The same issuer and keys, but now a scope is needed."""
    scene = Scene()
    scene.auth.start()
    scene.answer("rsa")
    assert isinstance(scene.bearer(), Grant)
    (issuer,) = scene.auth.config.issuers
    strict = msgspec.structs.replace(issuer, scopes=("other",), jwks=jwks(public("rsa")), jwks_url="")
    lost = scene.auth.reload(AuthConfig(resource=AUDIENCE, issuers=(strict,)))
    told = scene.bearer()
    assert isinstance(told, Refusal) and told.status == 403
    assert lost(Principal(f"jwt:{ISSUER}#alice")) and not lost(Principal("key:ci"))


class Issuer(RuleBasedStateMachine):
    """Keys that change, an issuer that comes and goes, tokens of old, new and invented keys."""

    def __init__(self) -> None:
        super().__init__()
        self.scene = Scene()
        self.scene.auth.start()
        self.published = ["rsa"]
        # What the gateway has last been given, and when.
        self.given: list[str] = []
        self.given_at = 0.0
        self.waiting: list[tuple[float, list[Any]]] = []

    @rule(seconds=st.sampled_from([0.5, 3.0, 29.0, 31.0, 400.0, 700.0, 40_000.0]))
    def time_goes_on(self, seconds: float) -> None:
        self.scene.run(seconds)

    @rule(keys=st.sampled_from([["rsa"], ["rsa2"], ["rsa", "rsa2"], ["p256"]]))
    def the_issuer_publishes(self, keys: list[str]) -> None:
        self.published = keys

    @rule()
    def it_answers(self) -> None:
        if self.scene.open:
            self.given, self.given_at = self.published, self.scene.hub.now
        self.scene.answer(*self.published)

    @rule(how=st.sampled_from(["fail", "garble"]))
    def it_does_not_answer(self, how: str) -> None:
        getattr(self.scene, how)()

    @rule(by=st.sampled_from(["rsa", "rsa2"]))
    def somebody_comes(self, by: str) -> None:
        verdict = self.scene.bearer(by)
        fresh = self.scene.hub.now - self.given_at <= LIMITS.jwks_stale_s
        if by in self.given and fresh:
            assert isinstance(verdict, Grant), "a key that was given is good until another set is given"
        else:
            assert not isinstance(verdict, Grant), "only keys that were given open"
        if isinstance(verdict, Pending):
            assert self.scene.open, "nobody waits for what is not fetched"
            heard: list[Any] = []
            waiter = self.scene.auth.wait(verdict, heard.append)
            if isinstance(waiter, Waiter):
                self.waiting.append((self.scene.hub.now, heard))
            else:
                assert sum(1 for _, one in self.waiting if not one) >= LIMITS.auth_waiting

    @invariant()
    def one_fetch_at_a_time_and_not_too_often(self) -> None:
        assert len(self.scene.open) <= 1
        asked = self.scene.asked
        gaps = [after - before for before, after in zip(asked, asked[1:], strict=False)]
        assert all(gap >= 2.0 for gap in gaps)
        assert sum(gap < LIMITS.jwks_cooldown_s for gap in gaps) <= self.scene.hub.counters.get(
            "jwks_failed", 0
        )

    @invariant()
    def everybody_is_called_once_and_in_time(self) -> None:
        for since, heard in self.waiting:
            assert len(heard) <= 1
            if self.scene.hub.now > since + LIMITS.auth_wait_s:
                assert heard
        if not self.scene.open:
            assert all(heard for _, heard in self.waiting)


Issuer.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestIssuer = Issuer.TestCase
