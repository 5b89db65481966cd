"""JSON, row by row (docs/threats.md, 2), through a whole gateway.

Must never: judge by the refusal alone; what is refused has not reached a server.
"""

from __future__ import annotations

import json
import time
from base64 import b64encode

import pytest

from fuzz.sim.scene import Scene
from tests.threats.raw import (
    LEGACY,
    MODERN_ERA,
    Raw,
    Wiretap,
    ask,
    body_of,
    call_head,
    call_of,
    legacy_session,
    post,
    serves,
    ws_open,
)
from tests.threats.texts import INVALID, LIMITS, PARSE, PASS, everyone, holding

# -- section 2, row by row


def refused(scene: Scene, body: bytes) -> int:
    """The code with which a POST of a modern client is refused, 0 if it is not."""
    reply = ask(scene, post(body, call_head()))
    if "error" not in reply.last.json:
        return PASS
    assert reply.statuses == [400]
    return int(reply.last.json["error"]["code"])


GOOD = json.dumps(body_of(name="echo", arguments={"nonce": "n"}), separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"method":', b'"method":"ping","method":'),
        (b'"method":', b'"m\\u0065thod":"ping","method":'),
        (b'"id":1', b'"id":1,"id":2'),
        (b'"name":"echo"', b'"name":"fail","name":"echo"'),
        (b'"name":"echo"', b'"n\\u0061me":"fail","name":"echo"'),
        (b'"params":', b'"params":{},"params":'),
        (b'"arguments":', b'"arguments":{},"arguments":'),
        (b'"_meta":{', b'"_meta":{},"_meta":{'),
    ],
)
def test_t2_1_duplicate_keys(old: bytes, new: bytes) -> None:
    scene = everyone()
    scene.run(1.0)
    tap = Wiretap(scene)
    assert refused(scene, GOOD.replace(old, new)) == INVALID
    assert b"tools/call" not in tap.written and refused(scene, GOOD) == PASS


def test_t2_1_duplicate_keys_in_metadata() -> None:
    """A level that a decision is made on, two below the top."""
    scene = everyone()
    version = b'"io.modelcontextprotocol/protocolVersion":'
    assert refused(scene, GOOD.replace(version, version + b'"2025-11-25",' + version)) != PASS


def test_t2_1_duplicate_keys_that_nobody_reads_pass_as_they_came() -> None:
    """Rule 2: what no decision is made on is not parsed, so it is not re-written either."""
    scene = everyone()
    scene.run(1.0)
    tap = Wiretap(scene)
    assert refused(scene, GOOD.replace(b'"nonce":"n"', b'"nonce":"n","x":{"a":1,"a":2}')) == PASS
    assert b'"x":{"a":1,"a":2}' in tap.written


@pytest.mark.parametrize("name", ["Method", "METHOD", "Params", "paramſ", "Id", "JSONRPC", "Result", "erroR"])
def test_t2_2_keys_are_exact(name: str) -> None:
    scene = everyone()
    scene.run(1.0)
    tap = Wiretap(scene)
    twin = json.dumps(name, ensure_ascii=False).encode() + b':"tools/list",'
    assert refused(scene, GOOD.replace(b'"method":', twin + b'"method":')) == INVALID
    alone = GOOD.replace(b'"method":', json.dumps("Method").encode() + b":")
    assert refused(scene, alone) == INVALID
    assert b"tools/call" not in tap.written


def test_t2_2_unknown_members_of_an_envelope_reach_nobody() -> None:
    scene = everyone()
    scene.run(1.0)
    tap = Wiretap(scene)
    assert refused(scene, GOOD.replace(b'"method":', b'"sentinel":{"method":"x"},"method":')) == PASS
    assert b"tools/call" in tap.written and b"sentinel" not in tap.written


@pytest.mark.parametrize("text", [b"NaN", b"Infinity", b"-Infinity", b"nan", b"inf"])
def test_t2_3_not_a_number(text: bytes) -> None:
    scene = everyone()
    assert refused(scene, holding(text)) == PARSE
    assert refused(scene, GOOD.replace(b'"id":1', b'"id":' + text)) == PARSE


@pytest.mark.parametrize("text", [b"1e400", b"-1e309", b"1E+99999", b"1" * 200 + b"e200"])
def test_t2_4_numbers_beyond_a_double(text: bytes) -> None:
    scene = everyone()
    scene.run(1.0)
    tap = Wiretap(scene)
    for place in (b'"nonce":"n"', b'"id":1', b'"params":{'):
        new = {b'"nonce":"n"': b'"nonce":%b', b'"id":1': b'"id":%b', b'"params":{': b'"params":{"x":[%b],'}[
            place
        ]
        assert refused(scene, GOOD.replace(place, new.replace(b"%b", text))) == INVALID
    assert b"tools/call" not in tap.written
    assert refused(scene, holding(b'"1e400"')) == PASS


@pytest.mark.parametrize("id", [2**53, 2**53 + 1, -(2**53) - 1, 2**63, 2**64, 10**20 - 1, 0, -1])
def test_t2_5_large_integers_keep_their_digits(id: int) -> None:
    scene = everyone()
    reply = ask(scene, call_of(id=id, nonce="n", v=id))
    assert reply.last.json["id"] == id and str(id).encode() in reply.last.body
    assert scene.only.calls[-1].args["v"] == id


@pytest.mark.parametrize("digits", [401, 4300, 4301, 100_000])
def test_t2_6_integers_that_are_too_long(digits: int) -> None:
    scene = everyone()
    assert refused(scene, holding(b"1" * digits)) == INVALID
    assert refused(scene, GOOD.replace(b'"id":1', b'"id":' + b"1" * digits)) == INVALID
    assert refused(scene, GOOD.replace(b'"id":1', b'"id":' + b"1" * 21)) == INVALID
    assert refused(scene, holding(b"1" * 400)) == PASS


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-8-sig"])
def test_t2_7_other_encodings(coding: str) -> None:
    scene = everyone()
    assert refused(scene, GOOD.decode().encode(coding)) == PARSE


def test_t2_8_surrogate_bytes() -> None:
    scene = everyone()
    for text in (b'"\xed\xa0\x80"', b'"\xed\xa0\x80\xed\xb0\x80"', b'{"\xed\xbf\xbf":1}'):
        assert refused(scene, holding(text)) == PARSE


@pytest.mark.parametrize(
    "text", [b'"\\ud800"', b'"\\uDFFF"', b'"\\udc00\\ud800"', b'{"\\ud800":1}', b'"\\ud83d\\n"']
)
def test_t2_9_lone_surrogates(text: bytes) -> None:
    """Refused when read: no later write to anybody can fail on them."""
    scene = everyone()
    assert refused(scene, holding(text)) == PARSE
    assert refused(scene, GOOD.replace(b'"id":1', b'"id":' + text)) in (PARSE, INVALID)
    assert refused(scene, GOOD.replace(b'"name":"echo"', b'"name":' + text)) in (PARSE, INVALID)


@pytest.mark.parametrize("code", range(0x20))
def test_t2_10_raw_control_characters(code: int) -> None:
    scene = everyone()
    assert refused(scene, holding(b'"a%cb"' % code)) == PARSE


@pytest.mark.parametrize(
    "text", ["\\u0000", "\\u001b[2J", "\u202e", "\u2028", "\u2029", "\x85", "\x7f", "\u200b"]
)
def test_t2_11_odd_characters_are_data(text: str) -> None:
    """They pass unchanged both ways, and no framing takes them for the end of a line."""
    scene = Scene({"one": ("stdio", LEGACY)}, listeners=("http", "stdio")).start()
    scene.run(1.0)
    tap = Wiretap(scene)
    value = f'"{text}"'.encode()
    told = json.loads(f'"{text}"')
    assert refused(scene, holding(value)) == PASS
    assert value in tap.written and scene.only.calls[-1].args["v"] == told
    pipe = Raw(scene, "stdio").send(holding(b'"x"').replace(b'"nonce": "n"', b'"nonce": ' + value) + b"\n")
    [answer] = pipe.lines
    assert answer["result"]["content"][0]["text"] == told


@pytest.mark.parametrize("depth", [65, 100, 1024, 100_000, 1_000_000])
def test_t2_12_depth(depth: int) -> None:
    scene = everyone()
    begin = time.process_time()
    for text in (b"[" * depth + b"]" * depth, b"[" * depth, b'{"a":' * depth + b"1" + b"}" * depth):
        assert refused(scene, holding(text)) == INVALID
    assert time.process_time() - begin < 5
    assert refused(scene, holding(b"[" * 61 + b"]" * 61)) == PASS


def test_t2_12_brackets_in_strings_are_no_depth() -> None:
    scene = everyone()
    assert refused(scene, holding(b'"' + b"[{" * 5000 + b'\\"[["')) == PASS


def test_t2_13_a_million_keys() -> None:
    """Bounded by the size of a message; what no rule reads is not taken apart."""
    scene = everyone()
    scene.run(1.0)
    keys = b"{" + b",".join(b'"%d":0' % number for number in range(1_000_000)) + b"}"
    begin = time.process_time()
    assert refused(scene, holding(keys)) == PASS
    # Most of it is the model server's own parser.
    assert time.process_time() - begin < 10
    over = holding(b'"' + b"x" * LIMITS.message_bytes + b'"')
    reply = ask(scene, post(over))
    assert reply.statuses == [413] and reply.ended


@pytest.mark.parametrize(
    "text",
    [
        b"01",
        b"1.",
        b"+1",
        b".5",
        b"1e",
        b"0x1",
        b"/*x*/1",
        b"1//x",
        b"[1,]",
        b'{"a":1,}',
        b"{a:1}",
        b"'a'",
        b"True",
        b"1\x00",
    ],
)
def test_t2_14_lax_grammar(text: bytes) -> None:
    scene = everyone()
    assert refused(scene, holding(text)) == PARSE
    assert refused(scene, GOOD + GOOD) == PARSE and refused(scene, GOOD + b"\x00") == PARSE


@pytest.mark.parametrize("id", ["null", "true", "false", "1.5", "1.0", "1e2", "1e400", "{}", "[]", '{"a":1}'])
@pytest.mark.parametrize("era", ["modern", "legacy", "pipe", "websocket", "sse"])
def test_t2_15_ids_are_strings_or_integers(id: str, era: str) -> None:
    """Whatever else an `id` is: an error, never a notification's silence, and nothing goes to a server."""
    scene = everyone()
    scene.run(1.0)
    message = GOOD.replace(b'"id":1', b'"id":' + id.encode())
    if era in ("modern", "legacy"):
        more = legacy_session(scene) if era == "legacy" else []
        tap = Wiretap(scene)
        reply = ask(scene, post(message, more))
        assert reply.statuses == [400]
        [told] = reply.last.messages
    elif era == "pipe":
        tap = Wiretap(scene)
        [told] = Raw(scene, "stdio").send(message + b"\n").lines
    elif era == "websocket":
        socket = ws_open(scene)
        tap = Wiretap(scene)
        [told] = socket.frame(1, message).texts
    else:
        client = scene.legacy_sse()
        tap = Wiretap(scene)
        reply = ask(scene, post(message, path=client.endpoint))
        assert reply.statuses == [400]
        [told] = reply.last.messages
    assert told["error"]["code"] == INVALID and told.get("id") is None
    assert b"tools/call" not in tap.written


def test_t2_16_names_are_compared_by_code_point() -> None:
    """No case folding, no normalisation: a twin that looks the same is another name."""
    scene = Scene({"one": ("stdio", MODERN_ERA)}).start()
    for name in ("kelvin", "strasse", "\u00e9clair"):
        scene.only.script(name, lambda job: job.say())
    client = scene.modern()
    for name in ("KELVIN", "\u212aelvin", "stra\u00dfe", "e\u0301clair", "kelvin\u200b", "kelvin "):
        params = {"name": name, "arguments": {"nonce": "x"}}
        body = json.dumps(body_of(**params)).encode()
        sent = "=?base64?" + b64encode(name.encode()).decode() + "?="
        reply = ask(scene, post(body, call_head(sent)))
        assert "error" in reply.last.json, name
    assert scene.only.calls == []
    assert scene.done(client.tool("kelvin")).text


def test_t2_18_nul_in_names() -> None:
    """Nobody opens, spawns or looks up a name with a NUL in it; it is just an unknown one."""
    scene = Scene({"one": ("stdio", LEGACY)}, listeners=("http", "stdio")).start()
    scene.run(1.0)
    pipe = Raw(scene, "stdio")
    for method, member in (("tools/call", "name"), ("prompts/get", "name"), ("resources/read", "uri")):
        pipe.send(json.dumps(body_of(method, **{member: "a\x00b"})).encode() + b"\n")
    assert [("error" in line) for line in pipe.lines] == [True] * 3
    assert serves(scene)


@pytest.mark.parametrize("size", [1_000_000, 10_000_000])
def test_t2_19_long_strings(size: int) -> None:
    """The cap is on messages, not on fields."""
    scene = everyone()
    scene.run(1.0)
    value = b'"' + b"x" * size + b'"'
    begin = time.process_time()
    assert refused(scene, holding(value)) == PASS
    assert time.process_time() - begin < 5
    assert len(scene.only.calls[-1].args["v"]) == size
