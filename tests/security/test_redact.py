"""Redaction (threats.md section 0 "Logging", I8): a secret that was read never comes out of any sink, in none
of the forms in which it travels, and what is no secret stays readable.

Must never: use a real secret, or ask how redaction is done.
"""

from __future__ import annotations

import base64
import io
import json
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgate.logs import json_sink, text_sink
from mcpgate.redact import EDGE, GENERATIONS, LEAST_CHARS, MARK, Redactor, secrets_of
from mcpgate.tables import Problem
from mcpgate_proto.config import GatewayConfig, ServerConfig
from mcpgate_proto.effects import Record

# No word of a log or of these tests, and in every alphabet that secrets come in.
SENTINEL = "S3nt1nel/value+with=odd?chars&more"

FORMS: dict[str, Callable[[str], str]] = {
    "as it is": lambda secret: secret,
    "bearer": lambda secret: f"Authorization: Bearer {secret}",
    "json": lambda secret: json.dumps({"x": secret}),
    "json as it is": lambda secret: json.dumps({"x": secret}, ensure_ascii=False),
    "repr": lambda secret: repr([secret]),
    "percent": lambda secret: f"https://host/?q={quote(secret, safe='')}&y=1",
    "percent, lower": lambda secret: re.sub("%..", lambda code: code[0].lower(), quote(secret, safe="")),
    "form": lambda secret: f"a=1&b={quote_plus(secret)}",
    "base64": lambda secret: base64.b64encode(secret.encode()).decode(),
    "base64url": lambda secret: base64.urlsafe_b64encode(secret.encode()).decode().rstrip("="),
    "basic": lambda secret: "Basic " + base64.b64encode(f"user:{secret}".encode()).decode(),
    "basic, shifted": lambda secret: "got " + base64.b64encode(f"me:{secret}!".encode()).decode(),
    "hex": lambda secret: secret.encode().hex(),
    "in words": lambda secret: f"the server said {secret}, and left",
}


def traces(secret: str) -> list[str]:
    """What must be nowhere: the secret, and so much of its codes as cannot be chance."""
    data = secret.encode()
    inner = [base64.b64encode(b"\0" * n + data)[4 + (n > 0) * 4 : -4].decode() for n in range(3)]
    found = [secret, quote(secret, safe=""), data.hex(), *inner]
    return [one for one in found if len(one) >= LEAST_CHARS]


def outputs(redactor: Redactor, text: str) -> list[str]:
    """`text` through every way out: both logs, in a value, a name and the event, and a config's problem."""
    record = Record("info", f"event {text}", (("value", text), (f"n{text}", 1), ("other", "kept")))
    lines = io.StringIO()
    redactor.sink(text_sink(lines))(record)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        redactor.sink(json_sink(str(path)))(record)
        written = path.read_text()
    problem = redactor.problem(Problem("f.toml", "key", f"bad {text}", "mend it"))
    return [lines.getvalue(), written, str(problem), redactor.text(text)]


@pytest.mark.parametrize("form", FORMS)
def test_no_form_of_a_secret_comes_out_of_any_sink(form: str) -> None:
    for out in outputs(Redactor([SENTINEL]), FORMS[form](SENTINEL)):
        assert not [one for one in traces(SENTINEL) if one in out]
        assert MARK in out


# Nothing begins as these do by chance.
secrets = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=6, max_size=48)
tokens = st.text(st.sampled_from("abcXYZ0189-_.~+/="), min_size=6, max_size=80)
some_secret = st.one_of(tokens, secrets).map(lambda text: f"Zq7x{text}|")


@given(secret=some_secret, form=st.sampled_from(sorted(FORMS)), around=st.text(max_size=20))
def test_any_secret_in_any_form(secret: str, form: str, around: str) -> None:
    text = around + FORMS[form](secret) + around
    redactor = Redactor([secret])
    record = redactor.record(Record("info", "event", (("value", text),)))
    for out in (redactor.text(text), str(record.fields[0][1])):
        pieces = out.split(MARK)
        assert not [one for one in traces(secret) if any(one in piece for piece in pieces)]


@given(secret=some_secret, at=st.integers(0, 1000), before=st.sampled_from(["", "said ", "x" * 300]))
def test_a_cut_leaves_no_recognisable_part(secret: str, at: int, before: str) -> None:
    """The core cuts fields at 400 characters, lines of stderr at 4 KiB: a secret may stand on the edge."""
    redactor = Redactor([secret])
    cut = 1 + at % (len(secret) - 1)
    head = redactor.text(f"{before}{secret[:cut]}").replace(MARK, "")
    tail = redactor.text(f"{secret[-cut:]} and more").replace(MARK, "")
    for length in range(EDGE, cut + 1):
        assert not head.endswith(secret[:length])
        assert not tail.startswith(secret[-length:])


@given(
    st.lists(
        st.sampled_from(
            "the server files answered after 12.5 ms with status 200 tool read_file token tokens key secret "
            "bearer basic authentication https://mcp.example/mcp?page=2 /usr/bin/python3 {} [redact] 1.2.3 "
            "key=a.b.c principal=key:alice error_id=1f2e3d password cookie authorization pid=4711".split()
        ),
        max_size=30,
    ).map(" ".join)
)
def test_what_is_no_secret_stays_readable(text: str) -> None:
    redactor = Redactor([SENTINEL, "another-secret-value"])
    assert redactor.text(text) == text
    record = Record("info", "server_stderr", (("line", text), ("server", "files"), ("count", 3)))
    assert redactor.record(record) is record


LOOKS = [
    ("Authorization: Bearer abcdef0123456789", f"Authorization: Bearer {MARK}"),
    ("authorization=Basic dXNlcjpwYXNz", f"authorization=Basic {MARK}"),
    ('{"Authorization": "Bearer abc"}', '{"Authorization": "Bearer ' + MARK + '"}'),
    ("Cookie: a=b; c=d", f"Cookie: {MARK}"),
    ("Set-Cookie: sid=1", f"Set-Cookie: {MARK}"),
    ("X-Api-Key: abcdef012345", f"X-Api-Key: {MARK}"),
    ("api_key=abcdefgh&x=1", f"api_key={MARK}&x=1"),
    ('{"password": "hunter2!"}', '{"password": "' + MARK + '"}'),
    ("client_secret='abcdefgh'", f"client_secret='{MARK}'"),
    ("--token=abcdefgh", f"--token={MARK}"),
    ("access_token=abcdefgh", f"access_token={MARK}"),
    ("mcpg_alice_" + "A" * 43, f"mcpg_alice_{MARK}"),
    ("eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", MARK),
    ("x eyJhbGciOiJSUzI1NiJ9.eyJzdWIi", f"x {MARK}"),
    ("ghp_" + "a1" * 18, f"ghp_{MARK}"),
    ("sk-" + "a1" * 18, f"sk-{MARK}"),
    ("AKIA" + "A1" * 8, f"AKIA{MARK}"),
    ("postgres://me:pw@db/x", f"postgres://{MARK}@db/x"),
    ("bearer abcdef012345", f"bearer {MARK}"),
    ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", MARK),
    ("Basic authentication required", None),
    ("Bearer tokens are not taken here", None),
    ("missing token: please log in", None),
    ("progress token: 12345", None),
    ("key=server.a.headers.Authorization", None),
    ("max_tokens: 4096", None),
    ("https://host/path?x=1", None),
]


@pytest.mark.parametrize(("text", "expected"), LOOKS)
def test_what_looks_like_a_secret(text: str, expected: str | None) -> None:
    assert Redactor().text(text) == (text if expected is None else expected)


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("authorization", True),
        ("Authorization", True),
        ("client_secret", True),
        ("api_key", True),
        ("apikey", True),
        ("access_token", True),
        ("password", True),
        ("cookie", True),
        ("key", False),
        ("token", False),
        ("server", False),
        ("error_id", False),
    ],
)
def test_fields_by_name(name: str, hidden: bool) -> None:
    (field,) = Redactor().record(Record("info", "e", ((name, "short"),))).fields
    assert field == (name, MARK if hidden else "short")
    # A number or nothing tells nothing.
    assert Redactor().record(Record("info", "e", ((name, 5),))).fields == ((name, 5),)


def test_an_audit_record_stays_one() -> None:
    record = Record("info", "call", (("who", SENTINEL),), "audit")
    found = Redactor([SENTINEL]).record(record)
    assert (found.stream, found.fields) == ("audit", (("who", MARK),))


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ('{"path": "a.txt",\n "n": 12345678901234567890}', '{"path":"a.txt","n":12345678901234567890}'),
        ('{"password": 1}', '{"password":"[redacted]"}'),
        ('{"a": [{"apiToken": {"deep": "x"}, "b": 1}]}', '{"a":[{"apiToken":"[redacted]","b":1}]}'),
        ('{"pass\\u0077ord": "x"}', '{"password":"[redacted]"}'),
        (f'{{"path": "/of/{SENTINEL}/x"}}', '{"path":"/of/[redacted]/x"}'),
        ('{"text": "\u202e\u00e9"}', '{"text":"\\u202e\\u00e9"}'),
        ("left out: 9999 bytes", "left out: 9999 bytes"),
        ("[" * 5000, "[" * 5000),
    ],
)
def test_arguments_are_looked_into(told: str, shown: str) -> None:
    """Only in the field that is JSON by its name; the same in any other is a text."""
    (field,) = Redactor([SENTINEL]).record(Record("info", "round", (("arguments", told),), "audit")).fields
    assert field == ("arguments", shown)


def test_lines_of_a_secret_of_many_lines() -> None:
    key = (
        "-----BEGIN X KEY-----\n"
        + "MIIEvQIBADANBgkqhkiG9w0BAQEF\nAASCBKcwggSjAgEAAoIBAQC7VJTU\n"
        + "-----END X-----"
    )
    redactor = Redactor([key])
    assert redactor.text("line MIIEvQIBADANBgkqhkiG9w0BAQEF end") == f"line {MARK} end"
    assert redactor.text(f"all: {key}.") == f"all: {MARK}."


def test_short_values_are_left_alone() -> None:
    redactor = Redactor(["abc", "x" * (LEAST_CHARS - 1)])
    assert redactor.text("abc xxxxxxx") == "abc xxxxxxx"
    assert Redactor(["x" * LEAST_CHARS]).text("x" * LEAST_CHARS) == MARK


def test_the_longer_of_two_that_begin_alike() -> None:
    assert Redactor(["secret-one", "secret-one-and-more"]).text("a secret-one-and-more b") == f"a {MARK} b"


def test_what_was_rotated_away_is_known_for_a_while() -> None:
    redactor = Redactor(["generation-0-value"])
    for number in range(1, GENERATIONS):
        redactor.learn([f"generation-{number}-value"])
    assert redactor.text("generation-0-value") == MARK
    # Reading the same again is no new generation.
    for _ in range(10):
        redactor.learn([f"generation-{GENERATIONS - 1}-value"])
    assert redactor.text("generation-0-value") == MARK
    redactor.learn(["generation-9-value"])
    assert redactor.text("generation-0-value") != MARK
    assert redactor.text("generation-9-value") == MARK


def test_the_secrets_of_a_config() -> None:
    server = ServerConfig(
        name="a",
        headers={
            "Authorization": "Bearer header-secret",
            "Accept-Language": "en",
            "X-Odd": "oddLooking99Value",
        },
        env={"API_KEY": "env-secret", "HOME": "/root", "MAX_TOKENS": "4096"},
        args=("--token=argument-secret", "--password", "next-secret", "--port", "8080"),
    )
    found = secrets_of(GatewayConfig(servers=(server,), sealing_key=b"\1" * 32))
    assert found == [
        *("header-secret", "oddLooking99Value", "env-secret", "argument-secret", "next-secret"),
        "01" * 32,
    ]


@pytest.mark.parametrize(
    "part", ["eyJ-", "a_", "secret", "://", "bearer ", "authorization", "password =", "-----BEGIN ", "token:"]
)
def test_no_line_takes_long(part: str) -> None:
    """Lines come from servers: a pattern that looks back and forth would hold up everybody."""
    line = part * (8192 // len(part))
    redactor = Redactor([SENTINEL])
    began = time.process_time()
    redactor.text(line)
    assert time.process_time() - began < 1.0
