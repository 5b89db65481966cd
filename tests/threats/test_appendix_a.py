"""JSON, value by value (docs/threats.md, appendix A): through the codec, through a gateway from its clients,
and through a gateway from its servers.

Must never: take a reading of one parser for the truth; where a text is accepted, three have to agree on it.
"""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given

from fuzz.sim.scene import Scene
from fuzz.sim.talk import Job
from mcpgate_proto.wire import jsonrpc
from tests.threats.raw import (
    LEGACY,
    MODERN_ERA,
    Raw,
    Wiretap,
    answering_with,
    ask,
    body_of,
    call_head,
    call_of,
    post,
    serves,
)
from tests.threats.texts import DEEP, INVALID, LIMITS, PARSE, PASS, answer_holding, everyone, holding
from tests.wire import envelopes

# Appendix A: one value each, and what becomes of a message that holds it.
VALUES: list[tuple[str, bytes, int]] = [
    ("case-variant keys", b'{"Method":"x","method":"y"}', PASS),
    ("long-s key", '{"paramſ":1,"params":2}'.encode(), PASS),
    ("int 2**53+1", b"9007199254740993", PASS),
    ("int 2**63", b"9223372036854775808", PASS),
    ("int 2**64", b"18446744073709551616", PASS),
    ("int 400 digits", b"1" * 400, PASS),
    ("int 401 digits", b"1" * 401, INVALID),
    ("int 4300 digits", b"1" * 4300, INVALID),
    ("int 5000 digits", b"1" * 5000, INVALID),
    ("float 1e400", b"1e400", INVALID),
    ("float -1E+400", b"-1E+400", INVALID),
    ("float 1e-400", b"1e-400", PASS),
    ("float 1.0", b"1.0", PASS),
    ("-0", b"-0", PASS),
    ("1E2", b"1E2", PASS),
    ("01 leading zero", b"01", PARSE),
    ("+1", b"+1", PARSE),
    (".5", b".5", PARSE),
    ("1.", b"1.", PARSE),
    ("0x10", b"0x10", PARSE),
    ("NaN", b"NaN", PARSE),
    ("Infinity", b"Infinity", PARSE),
    ("-Infinity", b"-Infinity", PARSE),
    ("nan lower", b"nan", PARSE),
    ("invalid utf8", b'"\xff"', PARSE),
    ("overlong utf8", b'"\xc0\xaf"', PARSE),
    ("surrogate bytes", b'"\xed\xa0\x80"', PARSE),
    ("utf8 beyond U+10FFFF", b'"\xf4\x90\x80\x80"', PARSE),
    ("truncated utf8", b'"\xe2\x82"', PARSE),
    ("lone high surrogate", b'"\\ud800"', PARSE),
    ("lone low surrogate", b'"\\udc00"', PARSE),
    ("swapped pair", b'"\\udc00\\ud800"', PARSE),
    ("lone surrogate in a key", b'{"\\ud800":1}', PARSE),
    ("escaped NUL", b'"x\\u0000y"', PASS),
    ("raw NUL", b'"x\x00y"', PARSE),
    ("raw TAB", b'"x\ty"', PARSE),
    ("raw LF", b'"x\ny"', PARSE),
    ("raw ESC", b'"x\x1b[31m"', PARSE),
    ("escaped ESC", b'"x\\u001b[31m"', PASS),
    ("raw DEL", b'"x\x7fy"', PASS),
    ("U+2028 raw", '"x\u2028y"'.encode(), PASS),
    ("U+0085 raw", '"x\x85y"'.encode(), PASS),
    ("bidi U+202E", '"x\u202ey"'.encode(), PASS),
    ("trailing comma", b"[1,]", PARSE),
    ("trailing garbage", b"1 x", PARSE),
    ("form feed as a blank", b"1\x0c", PARSE),
    ("no-break space as a blank", b"\xc2\xa01", PARSE),
    ("comments", b"/* x */ 1", PARSE),
    ("single quotes", b"'x'", PARSE),
    ("unquoted key", b"{x:1}", PARSE),
    ("bad escape \\x41", b'"\\x41"', PARSE),
    ("escaped slash", b'"\\/"', PASS),
    ("\\u00zz", b'"\\u00zz"', PARSE),
    ("\\U", b'"\\U0041"', PARSE),
    ("depth 40", b"[" * 40 + b"]" * 40, PASS),
    ("depth 100 arrays", b"[" * 100 + b"]" * 100, INVALID),
    ("depth 500", b"[" * 500 + b"]" * 500, INVALID),
    ("depth 1024", b"[" * 1024 + b"]" * 1024, INVALID),
    ("depth 5000", b"[" * 5000 + b"]" * 5000, INVALID),
    ("depth 100k", b"[" * DEEP + b"]" * DEEP, INVALID),
    ("depth 100k objects", b'{"a":' * DEEP + b"1" + b"}" * DEEP, INVALID),
    ("depth 100k open only", b"[" * DEEP, INVALID),
    ("__proto__ key", b'{"__proto__":{"x":1}}', PASS),
    ("emoji surrogate pair", b'"\\ud83d\\ude00"', PASS),
]
IDS = [row[0] for row in VALUES]
ROWS = [row[1:] for row in VALUES]
WHOLE = json.dumps(body_of(name="echo", arguments={})).encode()
# Texts of which each stands for itself.
TEXTS: list[tuple[str, bytes, int]] = [
    ("byte order mark", b"\xef\xbb\xbf" + WHOLE, PARSE),
    ("UTF-16LE", WHOLE.decode().encode("utf-16-le"), PARSE),
    ("UTF-16 with its mark", WHOLE.decode().encode("utf-16"), PARSE),
    ("UTF-32", WHOLE.decode().encode("utf-32"), PARSE),
    ("two documents", WHOLE + WHOLE, PARSE),
    ("trailing NUL", WHOLE + b"\x00", PARSE),
    ("trailing garbage", WHOLE + b"x", PARSE),
    ("empty", b"", PARSE),
    ("blanks only", b"  ", PARSE),
    ("a number", b"1", INVALID),
    ("a string", b'"a"', INVALID),
    ("null", b"null", INVALID),
    ("duplicate method", b'{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}', INVALID),
    ("duplicate by an escape", b'{"jsonrpc":"2.0","id":1,"method":"ping","m\\u0065thod":"x"}', INVALID),
]


def verdict(data: bytes, *, allow_batch: bool = False) -> int:
    [message] = jsonrpc.decode(data, LIMITS, allow_batch=allow_batch)
    return message.code if isinstance(message, jsonrpc.Malformed) else PASS


# -- the codec, and other parsers


@pytest.mark.parametrize(("value", "expected"), ROWS, ids=IDS)
def test_ta_appendix_a_in_the_codec(value: bytes, expected: int) -> None:
    assert verdict(holding(value)) == expected
    assert verdict(answer_holding(value, 1)) == expected


@pytest.mark.parametrize(("data", "expected"), [row[1:] for row in TEXTS], ids=[row[0] for row in TEXTS])
def test_ta_appendix_a_whole_texts(data: bytes, expected: int) -> None:
    assert verdict(data) == expected


def readings(data: bytes) -> list[Any]:
    """What msgspec and the standard library make of it; nothing where they refuse."""

    def refuse(_: str) -> Any:
        raise ValueError

    def finite(text: str) -> float:
        value = float(text)
        if math.isinf(value):
            raise ValueError
        return value

    found: list[Any] = []
    try:
        found.append(msgspec.json.decode(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        value = json.loads(str(data, "utf-8"), parse_constant=refuse, parse_float=finite)
        json.dumps(value, ensure_ascii=False).encode()
        found.append(value)
    except (ValueError, RecursionError):
        pass
    return found


@pytest.mark.parametrize("data", [holding(row[1]) for row in VALUES] + [row[1] for row in TEXTS])
def test_ta_differential(data: bytes) -> None:
    """What passes here, every parser takes, and in the same way; what nobody takes does not pass."""
    found = readings(data)
    [message] = jsonrpc.decode(data, LIMITS)
    if isinstance(message, jsonrpc.Request):
        assert len(found) == 2 and found[0] == found[1]
        ours = {name: msgspec.json.decode(raw) for name, raw in message.params.items()}
        assert (message.method, ours) == (found[0]["method"], found[0].get("params", {}))
    elif not found:
        assert isinstance(message, jsonrpc.Malformed)


@given(envelopes.TEXTS)
def test_ta_differential_of_any_text(text: str) -> None:
    data = holding(text.encode())
    found = readings(data)
    [message] = jsonrpc.decode(data, LIMITS)
    if isinstance(message, jsonrpc.Request):
        assert len(found) == 2 and found[0] == found[1]
        assert {name: msgspec.json.decode(raw) for name, raw in message.params.items()} == found[0]["params"]
    elif not found:
        assert isinstance(message, jsonrpc.Malformed)


# -- through a gateway, from its clients


@pytest.mark.parametrize(("value", "expected"), ROWS, ids=IDS)
def test_ta_appendix_a_from_http_clients(value: bytes, expected: int) -> None:
    scene = everyone()
    scene.run(1.0)
    tap = Wiretap(scene)
    reply = ask(scene, post(holding(value), call_head()))
    if expected:
        assert reply.statuses == [400] and reply.last.json["error"]["code"] == expected
        assert b'"n"' not in tap.written
    else:
        assert reply.statuses == [200] and "result" in reply.last.json
        assert b'"v":' + value in tap.written.replace(b'"v": ', b'"v":')
    assert serves(scene)


@pytest.mark.parametrize(("value", "expected"), ROWS, ids=IDS)
def test_ta_appendix_a_from_pipes(value: bytes, expected: int) -> None:
    scene = everyone()
    scene.run(1.0)
    pipe = Raw(scene, "stdio").send(
        holding(value) + b"\n" + b'{"jsonrpc":"2.0","id":"next","method":"ping"}\n'
    )
    told = {message.get("id"): message for message in pipe.lines}
    assert "result" in told["next"]
    if expected:
        codes = {message["error"]["code"] for message in pipe.lines if "error" in message}
        assert expected in codes and "result" not in told.get(1, {})
    else:
        assert "result" in told[1]


@pytest.mark.parametrize(("data", "expected"), [row[1:] for row in TEXTS], ids=[row[0] for row in TEXTS])
def test_ta_whole_texts_from_clients(data: bytes, expected: int) -> None:
    scene = everyone()
    reply = ask(scene, post(data))
    assert reply.statuses == [400] and reply.last.json["error"]["code"] == expected
    assert serves(scene)


# -- through a gateway, from its servers


def passed_or_refused(scene: Scene, value: bytes, expected: int) -> None:
    """What a call of the tool `raw` comes to, whose result holds `value`."""
    raw = Raw(scene).send(call_of("raw"), 0)
    scene.until(lambda: raw.responses and raw.last.messages, 60.0)
    [message] = raw.last.messages
    if expected:
        assert message["error"] and b"structuredContent" not in raw.last.body
    else:
        assert raw.statuses == [200]
        assert b'"v":' + value in raw.last.body.replace(b'"v": ', b'"v":')


@pytest.mark.parametrize(("value", "expected"), ROWS, ids=IDS)
def test_ta_appendix_a_from_children(value: bytes, expected: int) -> None:
    scene = everyone(eras=MODERN_ERA)
    scene.only.script("raw", lambda job: job.talk.raw(answer_holding(value, job.id) + b"\n"))
    passed_or_refused(scene, value, expected)
    assert serves(scene)


@pytest.mark.parametrize(("value", "expected"), ROWS, ids=IDS)
def test_ta_appendix_a_from_http_servers(value: bytes, expected: int) -> None:
    scene = everyone("http", MODERN_ERA)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"

    def answer(id: Any) -> bytes:
        body = answer_holding(value, id)
        return head % len(body) + body

    kind = answering_with(answer)
    scene.only.script("raw", lambda job: None)
    scene.net.services["127.0.0.1", 9001] = lambda: scene.only.connection(kind)
    passed_or_refused(scene, value, expected)


@pytest.mark.parametrize(("data", "expected"), [row[1:] for row in TEXTS], ids=[row[0] for row in TEXTS])
def test_ta_whole_texts_from_children(data: bytes, expected: int) -> None:
    """Noise on a pipe: noted, skipped, never forwarded; the next message is read."""
    scene = everyone(eras=LEGACY)

    def act(job: Job) -> None:
        job.talk.raw(data + b"\n")
        job.say()

    scene.only.script("raw", act)
    client = scene.legacy()
    call = scene.done(client.tool("raw"))
    assert call.text == call.nonce and scene.problems() == []
