"""Tokens, one fault each: nothing but a good one passes (J5).

Must never: sign a token otherwise than an issuer would, where its signature is not the fault.
"""

from __future__ import annotations

import hmac
import json
import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpgate_proto.config import AuthConfig, GatewayConfig, IssuerConfig
from mcpgate_proto.hub import Hub
from mcpgate_proto.limits import Limits
from mcpgate_proto.security.gate import Authenticator, Pending, Refusal, Verdict
from mcpgate_proto.security.jwks import ALGORITHMS, parse_jwks
from mcpgate_proto.security.jwt import Token, check_claims, parse_token
from mcpgate_proto.security.keys import Rejected
from mcpgate_proto.security.principal import Grant, Principal
from tests.security.tokens import (
    AUDIENCE,
    ISSUER,
    KEYS,
    WALL,
    b64,
    claims,
    jwks,
    public,
    signed_by_the_library,
    token,
)

ALL = tuple(ALGORITHMS)


def judge(text: str, keys: str | None = None, wall: float = WALL, **options: Any) -> Verdict:
    """What an authenticator with one issuer says of a token."""
    told = keys if keys is not None else jwks(public("rsa"), public("p256"), public("ed25519"))
    issuer = IssuerConfig(issuer=ISSUER, jwks=told, **options)
    auth = AuthConfig(resource=AUDIENCE, issuers=(issuer,))
    hub = Hub(GatewayConfig(auth=auth), now=5.0, wall=wall, seed=bytes(32))
    return Authenticator(hub, _never).bearer(text)


def _never(issuer: Any, done: Any) -> None:
    raise AssertionError("the keys stand in the settings, and are fetched all the same")


def why(text: str, keys: str | None = None, **options: Any) -> str:
    """Why a token is refused, as the log has it; the answer says no more than that it is not valid."""
    found = judge(text, keys, **options)
    assert isinstance(found, Refusal) and found.status == 401, found
    assert found.reason == "the token is not valid"
    (challenge,) = found.headers
    assert challenge[0] == "WWW-Authenticate" and 'error="invalid_token"' in challenge[1]
    return found.why


def test_a_good_token() -> None:
    granted = Grant(Principal(f"jwt:{ISSUER}#alice"), ("mcp:use",), WALL + 600 + Limits().token_leeway_s)
    assert judge(token()) == granted
    assert judge(signed_by_the_library()) == granted


@pytest.mark.parametrize(
    ("by", "alg"),
    [("rsa", alg) for alg in ALL if alg[:2] in ("RS", "PS")]
    + [("p256", "ES256"), ("p384", "ES384"), ("p521", "ES512"), ("ed25519", "EdDSA"), ("ed25519", "Ed25519")],
)
def test_every_algorithm_passes_where_it_is_allowed_and_nowhere_else(by: str, alg: str) -> None:
    keys = jwks(public(by))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of the library, on stderr
        assert isinstance(judge(token(by=by, alg=alg), keys, algorithms=ALL), Grant)
    others = tuple(one for one in ALL if one != alg)
    assert why(token(by=by, alg=alg), keys, algorithms=others) == "an algorithm that is not allowed"


def test_by_default_the_usual_algorithms_are_allowed() -> None:
    assert IssuerConfig(issuer="").algorithms == ("RS256", "ES256", "EdDSA", "Ed25519")
    assert set(IssuerConfig(issuer="").algorithms) <= set(ALGORITHMS)
    assert not {"none", "HS256", "HS384", "HS512"} & set(ALGORITHMS)


# -- the signature


def _hs256_with(secret: bytes) -> str:
    text = f"{b64({'alg': 'HS256', 'kid': 'rsa'})}.{b64(claims())}"
    return f"{text}.{b64(hmac.digest(secret, text.encode(), 'sha256'))}"


def test_alg_none() -> None:
    for alg in ("none", "None", "NONE", "nOnE", ""):
        head = b64({"alg": alg, "kid": "rsa"})
        for signature in ("", "AA"):
            text = f"{head}.{b64(claims())}.{signature}"
            assert why(text) in ("an algorithm that is not allowed", "not in the form of a signed token")


def test_hs256_with_the_public_key_as_its_secret() -> None:
    """RFC 8725 section 2.1. Also where an operator could be brought to list the algorithm."""
    key = KEYS["rsa"]
    for secret in (key.as_pem(private=False), key.as_der(private=False), json.dumps(public("rsa")).encode()):
        text = _hs256_with(secret)
        assert why(text) == "an algorithm that is not allowed"
        assert why(text, algorithms=("HS256",)) == "an unknown key"


def test_a_symmetric_key_in_the_set_is_none() -> None:
    entry = {"kty": "oct", "k": b64(b"k" * 32), "kid": "rsa", "alg": "HS256"}
    assert parse_jwks(jwks(entry).encode(), 9) == "no key in it can be used for signatures"


def test_another_key() -> None:
    assert why(token(by="rsa2", header={"kid": "rsa"})) == "signed by none of the issuer's keys"


@pytest.mark.parametrize("name", ["jwk", "jku", "x5u", "x5c"])
def test_keys_that_a_token_brings_along_are_not_looked_at(name: str) -> None:
    brought: dict[str, Any] = {
        "jwk": public("rsa2"),
        "jku": "https://evil.example/jwks",
        "x5u": "https://evil.example/cert",
        "x5c": [b64(b"certificate")],
    }
    forged = token(by="rsa2", header={"kid": "rsa", name: brought[name]})
    assert why(forged) == "signed by none of the issuer's keys"
    # A good token may have them: they say nothing.
    assert isinstance(judge(token(header={name: brought[name]})), Grant)


def test_what_is_not_covered_by_the_signature_is_noticed() -> None:
    head, body, signature = token().split(".")
    other = b64(claims(sub="root"))
    assert why(f"{head}.{other}.{signature}") == "signed by none of the issuer's keys"
    assert (
        why(f"{b64({'alg': 'RS256', 'kid': 'rsa'})}.{body}.{signature}")
        == "signed by none of the issuer's keys"
    )
    flipped = signature[:-2] + ("AA" if signature[-2:] != "AA" else "BB")
    assert why(f"{head}.{body}.{flipped}") == "signed by none of the issuer's keys"
    assert why(f"{head}.{body}.{signature[:-4]}") == "signed by none of the issuer's keys"


def test_an_algorithm_of_another_kind_than_the_key() -> None:
    """ES256 named, but the `kid` is that of an RSA key: there is no such key."""
    text = token(by="p256", alg="ES256", header={"kid": "rsa"})
    assert why(text, jwks(public("rsa"))) == "an unknown key"


def test_a_key_for_one_algorithm_is_used_for_no_other() -> None:
    assert isinstance(judge(token(), jwks(public("rsa", alg="RS256"))), Grant)
    assert why(token(), jwks(public("rsa", alg="PS256"))) == "an unknown key"


@pytest.mark.parametrize(
    "more",
    [{"use": "enc"}, {"key_ops": ["encrypt"]}, {"key_ops": []}, {"n": "AQAB"}, {"e": "!"}, {"kty": "EC"}],
    ids=["use", "key_ops", "no key_ops", "short", "no number", "another type"],
)
def test_keys_that_are_not_for_signatures(more: dict[str, Any]) -> None:
    entry = {**public("rsa"), **more}
    assert parse_jwks(jwks(entry).encode(), 9) == "no key in it can be used for signatures"
    # One that cannot be used takes nothing from the others.
    assert isinstance(judge(token(), jwks(entry, public("rsa"))), Grant)


def test_weak_rsa_keys_are_none() -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        told = parse_jwks(jwks(public("weak")).encode(), 9)
    assert told == "no key in it can be used for signatures"
    assert not heard, "the library was not even asked"


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"keys": {}}', '{"keys": []}', '{"keys": [1, null]}', '{"keys": [], "keys": []}', "x"]
    + ['{"keys":' + "[" * 40 + "]" * 40 + "}"],
)
def test_key_sets_that_are_none(text: str) -> None:
    assert isinstance(parse_jwks(text.encode(), 9), str)


def test_a_key_set_is_bounded() -> None:
    many = jwks(*[public("rsa")] * 10)
    assert parse_jwks(many.encode(), 9) == "more than 9 keys"
    assert isinstance(parse_jwks(many.encode(), 10), list)


# -- which key


def test_kid_chooses() -> None:
    keys = jwks(public("rsa2"), public("rsa"))
    assert isinstance(judge(token(), keys), Grant)
    assert why(token(by="rsa", header={"kid": "rsa2"}), keys) == "signed by none of the issuer's keys"
    assert why(token(header={"kid": "another"}), keys) == "an unknown key"


def test_without_kid_the_keys_that_fit_are_tried() -> None:
    keys = jwks(public("rsa2"), public("p256"), public("rsa"))
    assert isinstance(judge(token(header={"kid": None}), keys), Grant)
    others = jwks(*[public("rsa2", kid=str(n)) for n in range(4)], public("rsa"))
    assert why(token(header={"kid": None}), others) == "signed by none of the issuer's keys", "four are tried"


# -- the form


GOOD = token()
HEAD, BODY, SIGNATURE = GOOD.split(".")
DEEP = b64('{"a":' + "[" * 30 + "]" * 30 + "}")

FORMS = [
    ("empty", ""),
    ("a word", "secret"),
    ("two parts", f"{HEAD}.{BODY}"),
    ("four parts", f"{GOOD}.{SIGNATURE}"),
    ("an extra dot before", f".{GOOD}"),
    ("an extra dot behind", f"{GOOD}."),
    ("dots inside", f"{HEAD}..{BODY}.{SIGNATURE}"),
    ("five parts, as encrypted tokens have", f"{HEAD}.{BODY}.{SIGNATURE}.AA.AA"),
    ("padding", f"{HEAD}=.{BODY}.{SIGNATURE}"),
    ("the other base64", f"{HEAD}.{BODY}.{SIGNATURE[:-1]}+"),
    ("a blank", f"{HEAD}.{BODY} .{SIGNATURE}"),
    ("a line feed", f"{GOOD}\n"),
    ("letters that look alike", GOOD.replace("e", "е", 1)),
    ("not JSON", f"{b64('nothing')}.{BODY}.{SIGNATURE}"),
    ("no object", f"{b64('[1]')}.{BODY}.{SIGNATURE}"),
    ("no UTF-8", f"{HEAD}.{b64(bytes([0x7B, 0xFF, 0x7D]))}.{SIGNATURE}"),
    ("JSON and more", f"{b64('{} {}')}.{BODY}.{SIGNATURE}"),
    ("nested too deeply", f"{HEAD}.{DEEP}.{SIGNATURE}"),
    ("no alg", f"{b64({'kid': 'rsa'})}.{BODY}.{SIGNATURE}"),
    ("alg is no text", f"{b64({'alg': ['RS256'], 'kid': 'rsa'})}.{BODY}.{SIGNATURE}"),
    ("kid is no text", token(header={"kid": 7})),
    ("kid is null", token(header='{"alg":"RS256","kid":null}')),
    ("alg twice", token(header='{"alg":"none","alg":"RS256","kid":"rsa"}')),
    ("alg twice, by an escape", token(header='{"alg":"none","\\u0061lg":"RS256","kid":"rsa"}')),
    ("a claim twice", token(json.dumps(claims())[:-1] + ',"sub":"root"}')),
    ("crit", token(header={"crit": ["exp"], "exp": 1})),
    ("crit, empty", token(header={"crit": []})),
    ("b64", token(header={"b64": False})),
    ("a logout token", token(header={"typ": "logout+jwt"})),
    ("a DPoP proof", token(header={"typ": "dpop+jwt"})),
    ("typ is no text", token(header={"typ": 1})),
]


@pytest.mark.parametrize("text", [row[1] for row in FORMS], ids=[row[0] for row in FORMS])
def test_malformed_tokens(text: str) -> None:
    assert why(text)


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt", None])
def test_the_types_of_access_tokens(typ: str | None) -> None:
    assert isinstance(judge(token(header={"typ": typ})), Grant)


@pytest.mark.parametrize("typ", ["logout+jwt", "dpop+jwt", "id+jwt", "at", "at+jwt ", "", 1, ["JWT"], {}])
def test_the_types_of_other_tokens(typ: Any) -> None:
    """RFC 8725 section 3.11: what an issuer signed for another use opens nothing here."""
    assert why(token(header={"typ": typ})) == "a token of another type"


def test_header_parameters_that_are_not_known_are_ignored() -> None:
    assert isinstance(judge(token(header={"nonce": "x", "x": {"y": 1}, "pi.atm": "z" * 900})), Grant)


def test_a_token_has_a_largest_size() -> None:
    most = Limits().token_bytes
    fits = token(filler="x" * (most * 3 // 4 - 1000))
    assert most - 1000 < len(fits) <= most and isinstance(judge(fits), Grant)
    assert why(token(filler="x" * most)) == "not in the form of a signed token"


# -- the claims

LEEWAY = Limits().token_leeway_s
# The log says what the provider has to put there, the answer does not.
NOT_OURS = f"aud names none of: {AUDIENCE}"
TOO_EARLY = "nbf or iat is in the future by the clock here, or no date"
NOT_VALID = [
    ("another issuer", {"iss": "https://evil.example"}, "an issuer that is not configured"),
    ("the issuer with a slash", {"iss": ISSUER + "/"}, "an issuer that is not configured"),
    ("the issuer in a list", {"iss": [ISSUER]}, "no issuer"),
    ("no issuer", {"iss": None}, "no issuer"),
    ("another audience", {"aud": "https://other.example/mcp"}, NOT_OURS),
    ("a longer audience", {"aud": AUDIENCE + "/x"}, NOT_OURS),
    ("a part of the audience", {"aud": AUDIENCE[:-1]}, NOT_OURS),
    ("other audiences", {"aud": ["https://other.example", "account"]}, NOT_OURS),
    ("no audience", {"aud": None}, NOT_OURS),
    ("an empty audience", {"aud": []}, NOT_OURS),
    ("an audience of numbers", {"aud": [1, AUDIENCE]}, NOT_OURS),
    ("an audience in an object", {"aud": {AUDIENCE: True}}, NOT_OURS),
    ("no exp", {"exp": None}, "exp is not as it must be"),
    ("exp is a text", {"exp": str(int(WALL) + 600)}, "exp is not as it must be"),
    ("exp is true", {"exp": True}, "exp is not as it must be"),
    ("not yet", {"nbf": WALL + LEEWAY + 2}, TOO_EARLY),
    ("nbf is a text", {"nbf": "0"}, TOO_EARLY),
    ("issued in the future", {"iat": WALL + LEEWAY + 2}, TOO_EARLY),
    ("no subject", {"sub": None}, "sub is not as it must be"),
    ("an empty subject", {"sub": ""}, "sub is not as it must be"),
    ("a subject that is a number", {"sub": 7}, "sub is not as it must be"),
    ("a long subject", {"sub": "x" * 257}, "sub is not as it must be"),
    ("a subject with a line feed", {"sub": "a\nb"}, "sub is not as it must be"),
    ("a subject that turns the text", {"sub": "a\u202eb"}, "sub is not as it must be"),
    ("a scope that is a number", {"scope": 1}, "scope is not as it must be"),
    ("scopes that are numbers", {"scope": None, "scp": [1]}, "scope is not as it must be"),
    ("bound to a key", {"cnf": {"jkt": "x"}}, "a token that is bound to a key"),
]


@pytest.mark.parametrize(("other", "told"), [row[1:] for row in NOT_VALID], ids=[row[0] for row in NOT_VALID])
def test_claims_that_do_not_pass(other: dict[str, Any], told: str) -> None:
    assert why(token(**other)) == told


def test_the_claims_name_the_issuer_whose_keys_were_taken() -> None:
    """The keys are found by `iss`, so a token never comes as far as this with another one. Whoever calls
    `check_claims` does not have to know that."""
    for issuer in (ISSUER, "https://other.example"):
        read = parse_token(token(iss=issuer), Limits())
        assert isinstance(read, Token)
        told = check_claims(read, IssuerConfig(issuer=ISSUER), (AUDIENCE,), WALL, Limits())
        if issuer == ISSUER:
            assert isinstance(told, Grant)
        else:
            assert isinstance(told, Rejected) and told.why == "iss is not as it must be"


VALID = [
    ("several audiences", {"aud": ["account", AUDIENCE]}),
    ("nbf within the leeway", {"nbf": WALL + LEEWAY - 2}),
    ("iat within the leeway", {"iat": WALL + LEEWAY - 2}),
    ("no iat", {"iat": None}),
    ("a fraction", {"exp": WALL + 0.5}),
    ("a far exp", {"exp": 10**400}),
    ("a subject of many alphabets", {"sub": "Åsa Ωmega 山田"}),
]


@pytest.mark.parametrize("other", [row[1] for row in VALID], ids=[row[0] for row in VALID])
def test_claims_that_pass(other: dict[str, Any]) -> None:
    assert isinstance(judge(token(**other)), Grant)


def test_expiry_with_its_leeway() -> None:
    text = token(exp=int(WALL))
    assert isinstance(judge(text, wall=WALL + LEEWAY - 1), Grant)
    ancient = token(exp=-(10**400))
    for wall, late in ((WALL + LEEWAY, text), (WALL + 1e9, text), (WALL, ancient)):
        told = judge(late, wall=wall)
        assert isinstance(told, Refusal) and told.status == 401 and told.reason == "the token has expired"
        assert 'error_description="the token has expired"' in told.headers[0][1]


def test_without_a_clock_nothing_passes() -> None:
    assert why(token(), wall=float("nan"))


def test_an_expired_token_of_somebody_else_is_not_told_that() -> None:
    assert why(token(exp=1, aud="https://other.example")) == NOT_OURS


@pytest.mark.parametrize("name", sorted(claims()) + ["nbf"])
def test_a_claim_of_null(name: str) -> None:
    told = judge(token(json.dumps({**claims(), name: None})))
    assert isinstance(told, Refusal) and told.status == 401


def test_an_audience_of_its_own() -> None:
    assert why(token(), audience=("api://mcp", "mcp")) == "aud names none of: api://mcp, mcp"
    assert isinstance(judge(token(aud="api://mcp"), audience=("api://mcp", "other")), Grant)


@pytest.mark.parametrize(
    ("told", "scopes"),
    [
        ({"scope": "a b  a"}, ("a", "b")),
        ({"scope": None, "scp": ["a", "b"]}, ("a", "b")),
        ({"scope": None, "scp": "a b"}, ("a", "b")),
        ({"scope": None}, ()),
    ],
)
def test_scopes(told: dict[str, Any], scopes: tuple[str, ...]) -> None:
    found = judge(token(**told))
    assert isinstance(found, Grant) and found.scopes == scopes


def test_a_scope_that_is_missing() -> None:
    """J4: 403, with all scopes that are needed in one challenge."""
    needed = ("mcp:use", "mcp:call")
    found = judge(token(scope="mcp:use"), scopes=needed)
    metadata = "https://gw.example/.well-known/oauth-protected-resource/mcp"
    told = f'Bearer resource_metadata="{metadata}", scope="mcp:use mcp:call", error="insufficient_scope"'
    assert isinstance(found, Refusal)
    assert (found.status, found.headers) == (403, (("WWW-Authenticate", told),))
    assert isinstance(judge(token(scope="mcp:call x mcp:use"), scopes=needed), Grant)
    # A scope is a word, not the beginning of one.
    assert isinstance(judge(token(scope="mcp:use2 mcp:call"), scopes=needed), Refusal)


def test_issuers_do_not_share_keys() -> None:
    """A token of one issuer, signed by another's key."""
    issuers = (
        IssuerConfig(issuer=ISSUER, jwks=jwks(public("rsa"))),
        IssuerConfig(issuer="https://other.example", jwks=jwks(public("rsa2"))),
    )
    auth = AuthConfig(resource=AUDIENCE, issuers=issuers)
    hub = Hub(GatewayConfig(auth=auth), now=5.0, wall=WALL, seed=bytes(32))
    authenticator = Authenticator(hub, _never)
    assert isinstance(authenticator.bearer(token()), Grant)
    assert isinstance(authenticator.bearer(token(by="rsa2", iss="https://other.example")), Grant)
    forged = authenticator.bearer(token(by="rsa2", iss=ISSUER, header={"kid": "rsa2"}))
    assert isinstance(forged, Refusal) and forged.why == "an unknown key"


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=80), st.text(max_size=80), st.text(max_size=80))
def test_no_text_makes_it_raise_or_comes_back(head: str, body: str, signature: str) -> None:
    for text in (f"{head}.{body}.{signature}", f"{b64(head.encode('utf-8', 'replace'))}.{BODY}.{SIGNATURE}"):
        found = judge(text)
        assert isinstance(found, Refusal) and found.reason == "the token is not valid"
        assert not isinstance(found, Pending)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(sorted(claims())),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
            ),
            max_leaves=5,
        ),
    )
)
def test_signed_claims_of_any_shape(odd: dict[str, Any]) -> None:
    """An issuer may write what it likes; nothing of it raises, and only the right claims pass."""
    told = {**claims(), **odd}
    found = judge(token(json.dumps(told)))
    if isinstance(found, Grant):
        assert told["iss"] == ISSUER and told["sub"]
        assert AUDIENCE in (told["aud"] if isinstance(told["aud"], list) else [told["aud"]])
        assert told["exp"] > WALL - LEEWAY - 1


def test_what_is_read_is_not_believed() -> None:
    """Reading alone grants nothing: no signature is looked at yet."""
    found = parse_token(f"{HEAD}.{BODY}.AA", Limits())
    assert found.issuer == ISSUER  # type: ignore[union-attr]
    assert why(f"{HEAD}.{BODY}.AA") == "signed by none of the issuer's keys"
