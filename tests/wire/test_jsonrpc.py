"""Envelopes: protocol.md A1-A10, A20, A21; threats.md section 2 and appendix A; the traps of msgspec."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest
from envelopes import JSON, LIMITS, TEXTS, code_of, in_result, one
from hypothesis import given
from hypothesis import strategies as st

from mcpgate_proto.errors import RemoteProtocolError
from mcpgate_proto.wire import jsonrpc
from mcpgate_proto.wire.jsonrpc import (
    INVALID_REQUEST,
    PARSE_ERROR,
    ErrorReply,
    JsonFault,
    Malformed,
    Notification,
    Raw,
    Request,
    Result,
    decode,
)

# ------------------------------------------------------------------------------------- valid envelopes

VALID = [
    (b'{"jsonrpc":"2.0","id":1,"method":"ping"}', Request(1, "ping", {})),
    (b'{"jsonrpc":"2.0","id":"1","method":"ping"}', Request("1", "ping", {})),
    (b'{"jsonrpc":"2.0","id":"","method":"ping","params":{}}', Request("", "ping", {})),
    (b'{"jsonrpc":"2.0","id":0,"method":"ping"}', Request(0, "ping", {})),
    (b'{"jsonrpc":"2.0","id":-5,"method":"p"}', Request(-5, "p", {})),
    (b'{"method":"m","params":{"x":1},"id":2,"jsonrpc":"2.0"}', Request(2, "m", {"x": Raw(b"1")})),
    (b' { "jsonrpc" : "2.0" , "id" : 1 , "method" : "ping" } ', Request(1, "ping", {})),
    (b'\r\n{\r\n"jsonrpc":\t"2.0",\n"id":1,"method":"ping"}\n', Request(1, "ping", {})),
    (b'{"jsonrpc":"2.0","id":1,"m\\u0065thod":"ping"}', Request(1, "ping", {})),
    (b'{"jsonrpc":"2\\u002e0","id":1,"method":"ping"}', Request(1, "ping", {})),
    (b'{"jsonrpc":"2.0","id":1,"method":"a","extra":[1]}', Request(1, "a", {})),
    ('{"jsonrpc":"2.0","id":"é","method":"mé"}'.encode(), Request("é", "mé", {})),
    (b'{"jsonrpc":"2.0","id":18446744073709551616,"method":"p"}', Request(2**64, "p", {})),
    (b'{"jsonrpc":"2.0","id":-99999999999999999999,"method":"p"}', Request(-(10**20 - 1), "p", {})),
    (b'{"jsonrpc":"2.0","method":"n"}', Notification("n", {})),
    (b'{"jsonrpc":"2.0","method":"n","params":{"\\u00e9":2}}', Notification("n", {"é": Raw(b"2")})),
    (b'{"jsonrpc":"2.0","id":1,"result":{}}', Result(1, Raw(b"{}"))),
    (b'{"jsonrpc":"2.0","id":1,"result":{"a":[1.0,1e2]}}', Result(1, Raw(b'{"a":[1.0,1e2]}'))),
    (b'{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no"}}', ErrorReply(1, -32601, "no")),
    (b'{"jsonrpc":"2.0","error":{"code":1,"message":""}}', ErrorReply(None, 1, "")),
    (b'{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":""}}', ErrorReply(None, 1, "")),
    (
        b'{"jsonrpc":"2.0","id":1,"error":{"message":"m","x":0,"data":null,"code":1}}',
        ErrorReply(1, 1, "m", Raw(b"null")),
    ),
]


@pytest.mark.parametrize(("data", "expected"), VALID)
def test_valid(data: bytes, expected: object) -> None:
    assert one(data) == expected
    # Unusual layout takes another way through the code and must not matter.
    assert one(json.dumps(json.loads(data), indent=2, ensure_ascii=False).encode()) == one(
        json.dumps(json.loads(data), separators=(",", ":"), ensure_ascii=False).encode()
    )


def test_ids_keep_their_type() -> None:
    assert one(b'{"jsonrpc":"2.0","id":1,"method":"p"}').id == 1
    assert one(b'{"jsonrpc":"2.0","id":"1","method":"p"}').id == "1"
    assert type(one(b'{"jsonrpc":"2.0","id":1,"method":"p"}').id) is int


# ----------------------------------------------------------------------------------- invalid envelopes

INVALID = [
    (b'{"id":1,"method":"p"}', 1),
    (b'{"jsonrpc":"1.0","id":1,"method":"p"}', 1),
    (b'{"jsonrpc":2.0,"id":1,"method":"p"}', 1),
    (b'{"jsonrpc":"2.0","id":null,"method":"p"}', None),
    (b'{"jsonrpc":"2.0","id":true,"method":"p"}', None),
    (b'{"jsonrpc":"2.0","id":1.5,"method":"p"}', None),
    (b'{"jsonrpc":"2.0","id":1.0,"method":"p"}', None),
    (b'{"jsonrpc":"2.0","id":1e2,"method":"p"}', None),
    (b'{"jsonrpc":"2.0","id":1e400,"method":"p"}', None),
    (b'{"jsonrpc":"2.0","id":{},"method":"p"}', None),
    (b'{"jsonrpc":"2.0","id":[],"method":"p"}', None),
    (b'{"jsonrpc":"2.0","id":100000000000000000000,"method":"p"}', None),
    (b'{"jsonrpc":"2.0","id":' + b"1" * 5000 + b',"method":"p"}', None),
    (b'{"jsonrpc":"2.0","id":1}', 1),
    (b'{"jsonrpc":"2.0","id":1,"Method":"p"}', 1),
    ('{"jsonrpc":"2.0","id":1,"method":"p","params":1,"paramſ":{}}'.encode(), 1),
    (b'{"jsonrpc":"2.0","id":7,"method":1}', 7),
    (b'{"jsonrpc":"2.0","id":7,"method":null}', 7),
    (b'{"jsonrpc":"2.0","id":7,"method":"p","params":null}', 7),
    (b'{"jsonrpc":"2.0","id":7,"method":"p","params":[1]}', 7),
    (b'{"jsonrpc":"2.0","method":"p","params":"x"}', None),
    (b'{"jsonrpc":"2.0","id":7,"method":"p","result":{}}', 7),
    (b'{"jsonrpc":"2.0","id":7,"method":"p","error":{"code":1,"message":""}}', 7),
    (b'{"jsonrpc":"2.0","id":7,"result":{},"error":{"code":1,"message":""}}', 7),
    (b'{"jsonrpc":"2.0","result":{}}', None),
    (b'{"jsonrpc":"2.0","id":null,"result":{}}', None),
    (b'{"jsonrpc":"2.0","id":7,"result":[]}', 7),
    (b'{"jsonrpc":"2.0","id":7,"result":null}', 7),
    (b'{"jsonrpc":"2.0","id":7,"error":null}', 7),
    (b'{"jsonrpc":"2.0","id":7,"error":{"code":"1","message":""}}', 7),
    (b'{"jsonrpc":"2.0","id":7,"error":{"code":1.0,"message":""}}', 7),
    (b'{"jsonrpc":"2.0","id":7,"error":{"code":1}}', 7),
    (b'{"jsonrpc":"2.0","id":7,"error":{"code":1,"code":2,"message":""}}', 7),
    (b'{"jsonrpc":"2.0","id":true,"error":{"code":1,"message":""}}', None),
    (b"1", None),
    (b'"a"', None),
    (b"null", None),
    (b"[]", None),
    (b'[{"jsonrpc":"2.0","method":"p"}]', None),
    # Duplicate names at the two levels that are read, plain and by escape.
    (b'{"jsonrpc":"2.0","id":7,"method":"a","method":"b"}', 7),
    (b'{"jsonrpc":"2.0","id":7,"method":"a","m\\u0065thod":"b"}', 7),
    (b'{"jsonrpc":"2.0","id":7,"id":8,"method":"a"}', None),
    (b'{"jsonrpc":"2.0","id":7,"method":"a","x":1,"x":1}', 7),
    (b'{"jsonrpc":"2.0","id":7,"method":"a","params":{"name":"a","name":"b"}}', 7),
    (b'{"jsonrpc":"2.0","id":7,"method":"a","params":{"name":"a","n\\u0061me":"b"}}', 7),
    (b'{"jsonrpc":"2.0","id":7,"method":"a","params":{},"params":{}}', 7),
    (b'{"jsonrpc":"2.0","id":7,"result":{},"result":{}}', 7),
]


@pytest.mark.parametrize(("data", "id"), INVALID)
def test_invalid_request(data: bytes, id: object) -> None:
    message = one(data)
    assert isinstance(message, Malformed)
    assert message.code == INVALID_REQUEST
    assert message.id == id and type(message.id) is type(id)
    spaced = one(data.replace(b",", b" ,\n\t "))
    assert (spaced.code, spaced.id) == (message.code, message.id)


# Appendix A: what no strict parser takes, as a value that stays Raw and as a whole message.
BROKEN_VALUES = [
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"nan",
    b"01",
    b"-01",
    b"+1",
    b".5",
    b"1.",
    b"1.e5",
    b"1e",
    b"1E+",
    b"-",
    b"0x10",
    b"tru",
    b"True",
    b'"\\ud800"',
    b'"\\udc00"',
    b'"\\udc00\\ud800"',
    b'"\\ud800\\u0041"',
    b'"\\ud800\\n"',
    b'{"\\ud800":1}',
    b'[{"x":"\\uDfff"}]',
    b'"\x00"',
    b'"\t"',
    b'"\n"',
    b'"\x1b"',
    b'"\\x41"',
    b'"\\u00zz"',
    b'"\\u12"',
    b'"\\U0041"',
    b"[1,]",
    b'{"b":1,}',
    b'{"b" 1}',
    b"{b:1}",
    b"{'b':1}",
    b"'b'",
    b"1//x\n",
    b"/**/1",
    b"1\x0c",
    b"\xc2\xa01",
    b'"\xff"',
    b'"\xc0\xaf"',
    b'"\xed\xa0\x80"',
    b'"\xf4\x90\x80\x80"',
    b'"\xc3"',
    b'{"\xff":1}',
    b"",
    b"[",
    b'"',
]


@pytest.mark.parametrize("value", BROKEN_VALUES)
def test_broken_json_is_refused_wherever_it_stands(value: bytes) -> None:
    assert code_of(in_result(value)) == PARSE_ERROR
    assert (
        code_of(b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":{"b":[0,' + value + b"]}}}")
        == PARSE_ERROR
    )
    assert (
        code_of(b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"","data":' + value + b"}}")
        == PARSE_ERROR
    )
    with pytest.raises(JsonFault):
        jsonrpc.plain(b'{"a":' + value + b"}")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" \n",
        b"\xef\xbb\xbf" + in_result(b"1"),
        in_result(b"1").decode().encode("utf-16"),
        in_result(b"1").decode().encode("utf-16-le"),
        in_result(b"1").decode().encode("utf-32"),
        in_result(b"1") + in_result(b"1"),
        in_result(b"1") + b"\x00",
        in_result(b"1") + b"x",
    ],
)
def test_not_one_utf8_document(data: bytes) -> None:
    assert code_of(data) == PARSE_ERROR


@pytest.mark.parametrize(
    "value",
    [b"1e308", b"-0", b"1.0", b"1E2", b"9007199254740993", b"18446744073709551616", b"1" * 400, b"1e-400"]
    + [b"1E+00000308", b'"1e400"', b'"\\"1e400"', b'"' + b"1" * 5000 + b'"']
    + [
        b'"\\u0000\\u001b\\/"',
        b'"\x7f"',
        '"\u2028\u0085\u202e"'.encode(),
        b'"\\ud83d\\ude00"',
        b'{"__proto__":{}}',
    ],
)
def test_text_of_legal_values_is_kept(value: bytes) -> None:
    """A21: numbers keep their digits; U+2028 and the like are data."""
    assert one(in_result(value)) == Result(1, Raw(b'{"a":' + value + b"}"))
    pretty = b'{\n "jsonrpc": "2.0",\n "id": 1,\n "result": {\n  "a": ' + value + b"\n }\n}"
    assert one(pretty) == Result(1, Raw(b'{"a":' + value + b"}"))


# ------------------------------------------------------------------------------------- traps of msgspec


def test_trap_optional_raw_takes_only_null() -> None:
    """Hence `Raw = Raw(b"")` for members that may be absent."""

    class Optional(msgspec.Struct):
        a: msgspec.Raw | None = None

    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"a":1}', type=Optional)
    assert one(b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":""}}').data == Raw(b"")


def test_trap_raw_is_not_checked_for_utf8() -> None:
    assert bytes(msgspec.json.decode(b'"\xff"', type=Raw)) == b'"\xff"'
    assert code_of(in_result(b'"\xff"')) == PARSE_ERROR


def test_trap_raw_keeps_newlines() -> None:
    assert b"\n" in bytes(msgspec.json.decode(b'{"a":[1,\n2]}', type=dict[str, Raw])["a"])
    message = one(b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":[1,\r\n2],"b":"\\n"}}')
    assert message.params == {"a": Raw(b"[1,2]"), "b": Raw(b'"\\n"')}
    assert jsonrpc.encode_request(1, "m", {"a": Raw(b"[1,\n2]")}).endswith(b'{"a":[1,2]}}')
    assert jsonrpc.encode_object({"a": Raw(b"[1,\r2]")}) == Raw(b'{"a":[1,2]}')
    assert jsonrpc.members(b'{"a":[1,\n2]}') == {"a": Raw(b"[1,2]")}


def test_trap_format_keeps_number_text() -> None:
    text = b"[1.0,1e2,1E+05,100000000000000000000000000000,-0.00,1e400]"
    assert msgspec.json.format(text.replace(b",", b" ,\n "), indent=-1) == text


def test_trap_deep_nesting_is_a_recursion_error() -> None:
    with pytest.raises(RecursionError):
        msgspec.json.decode(b"[" * 5000 + b"]" * 5000)
    assert code_of(in_result(b"[" * 5000 + b"]" * 5000)) == INVALID_REQUEST


def test_trap_duplicate_names_are_last_wins() -> None:
    assert msgspec.json.decode(b'{"a":1,"a":2}') == {"a": 2}
    with pytest.raises(JsonFault):
        jsonrpc.members(b'{"a":1,"a":2}')


def test_trap_typed_struct_drops_unknown_members() -> None:
    """So unknown members of params stay in a dict, and unknown members of an envelope are noticed."""
    message = one(b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"never":{"heard":"of"}}}')
    assert message.params == {"never": Raw(b'{"heard":"of"}')}


def test_trap_raw_pins_its_buffer() -> None:
    message = one(in_result(b'"' + b"x" * 1000 + b'"'))
    copy = jsonrpc.detach(message.result)
    assert copy == message.result and copy is not message.result


def test_trap_infinity_is_written_as_null_and_never_read() -> None:
    assert msgspec.json.encode(math.inf) == b"null"
    with pytest.raises(JsonFault):
        jsonrpc.plain(b"1e400")


# ------------------------------------------------------------------------------------------- batches


def test_batch() -> None:
    data = b'[{"jsonrpc":"2.0","id":1,"method":"a"}, {"jsonrpc":"2.0","method":"b"},\n1,'
    data += b'{"jsonrpc":"2.0","id":2}]'
    assert jsonrpc.is_batch(data) and jsonrpc.is_batch(b" \n" + data) and not jsonrpc.is_batch(b" {}")
    assert decode(data, LIMITS, allow_batch=True) == [
        Request(1, "a", {}),
        Notification("b", {}),
        Malformed(INVALID_REQUEST, "a message is a JSON object"),
        Malformed(INVALID_REQUEST, "a message has one of method, result and error", 2),
    ]


@pytest.mark.parametrize(
    ("data", "allow", "code"),
    [
        (b"[]", True, INVALID_REQUEST),
        (b"[]", False, INVALID_REQUEST),
        (b"[", True, PARSE_ERROR),
        (b'[{"jsonrpc":"2.0","method":"b"}]', False, INVALID_REQUEST),
        (b"[" + b"1," * 64 + b"1]", True, INVALID_REQUEST),
        (b"[1]x", True, PARSE_ERROR),
    ],
)
def test_bad_batch(data: bytes, allow: bool, code: int) -> None:
    [message] = decode(data, LIMITS, allow_batch=allow)
    assert isinstance(message, Malformed) and message.code == code


def test_batches_do_not_nest() -> None:
    [message] = decode(b"[[]]", LIMITS, allow_batch=True)
    assert isinstance(message, Malformed) and message.code == INVALID_REQUEST


# ------------------------------------------------------------------------------------------- readers


def test_readers() -> None:
    assert jsonrpc.text(Raw(b'"a\\u00e9"')) == "aé"
    for other in (b"1", b"null", b"", b'"', b'"\xff"'):
        assert jsonrpc.text(other) is None
    assert jsonrpc.integer(Raw(b"-12")) == -12 and jsonrpc.integer(b"0") == 0
    for other in (b"1.0", b"1e2", b"true", b'"1"', b"", b"-", b"01", b"1" * 401):
        assert jsonrpc.integer(other) is None
    assert jsonrpc.boolean(Raw(b"true")) is True and jsonrpc.boolean(b"false") is False
    assert jsonrpc.boolean(b"1") is None and jsonrpc.boolean(b"null") is None


def test_plain_is_strict_at_every_level() -> None:
    assert jsonrpc.plain(b'{"a":[{"b":1.5}], "c":12345678901234567890}') == {
        "a": [{"b": 1.5}],
        "c": 12345678901234567890,
    }
    for bad in (
        b'[{"a":[{"b":1,"b":2}]}]',
        b"[1e400]",
        b"[-1e400]",
        b"[" + b"1" * 401 + b"]",
        b"",
        b'"\xff"',
        b"[" * 5000,
    ):
        with pytest.raises(JsonFault):
            jsonrpc.plain(bad)
    assert issubclass(JsonFault, RemoteProtocolError)


@pytest.mark.parametrize(
    "bad", [b"[]", b"1", b"", b'{"a":1', b'{"\\u0061":1,"a":2}', b'{ "a":1, "a":1 }', b'{"\xff":1}']
)
def test_members_refuses(bad: bytes) -> None:
    with pytest.raises(JsonFault):
        jsonrpc.members(bad)


def test_members_takes_odd_layout_and_names() -> None:
    assert jsonrpc.members('{ "é" : 1, "\\n":2,"b":{"x":1,"x":2}}'.encode()) == {
        "é": Raw(b"1"),
        "\n": Raw(b"2"),
        "b": Raw(b'{"x":1,"x":2}'),
    }
    assert jsonrpc.members(b"{}") == {} == jsonrpc.members(b" { } ")


# ------------------------------------------------------------------------------------------- encoding


def test_encode() -> None:
    a = {"a": Raw(b"1"), "gone": Raw(b"")}
    assert jsonrpc.encode_request(1, "m", a) == b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":1}}'
    assert jsonrpc.encode_request("", "m", {}) == b'{"jsonrpc":"2.0","id":"","method":"m"}'
    assert jsonrpc.encode_request(0, "m", {}) == b'{"jsonrpc":"2.0","id":0,"method":"m"}'
    assert jsonrpc.encode_notification("m", a) == b'{"jsonrpc":"2.0","method":"m","params":{"a":1}}'
    assert jsonrpc.encode_result(1, Raw(b"{}")) == b'{"jsonrpc":"2.0","id":1,"result":{}}'
    assert jsonrpc.encode_result("x", a) == b'{"jsonrpc":"2.0","id":"x","result":{"a":1}}'
    assert jsonrpc.encode_error(None, -1, "m") == b'{"jsonrpc":"2.0","error":{"code":-1,"message":"m"}}'
    assert (
        jsonrpc.encode_error(0, 1, "m", Raw(b"[\n]"))
        == b'{"jsonrpc":"2.0","id":0,"error":{"code":1,"message":"m","data":[]}}'
    )
    assert jsonrpc.to_raw({"x": [1, "é\n", Raw(b"1.0")]}) == Raw('{"x":[1,"é\\n",1.0]}'.encode())


IDS = st.integers(-(10**20) + 1, 10**20 - 1) | st.text(max_size=8)
RAWS = JSON.map(lambda value: Raw(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()))
PARAMS = st.dictionaries(st.text(max_size=6), RAWS, max_size=4)
MESSAGES = (
    st.builds(Request, IDS, st.text(max_size=12), PARAMS)
    | st.builds(Notification, st.text(max_size=12), PARAMS)
    | st.builds(Result, IDS, PARAMS.map(jsonrpc.encode_object))
    | st.builds(
        ErrorReply,
        st.none() | IDS,
        st.integers(-(2**70), 2**70),
        st.text(max_size=9),
        RAWS | st.just(Raw(b"")),
    )
)


def encode(message: jsonrpc.Message) -> bytes:
    match message:
        case Request(id, method, params):
            return jsonrpc.encode_request(id, method, params)
        case Notification(method, params):
            return jsonrpc.encode_notification(method, params)
        case Result(id, result):
            return jsonrpc.encode_result(id, result)
        case ErrorReply(id, code, text, data):
            return jsonrpc.encode_error(id, code, text, data)


@given(MESSAGES)
def test_round_trip(message: jsonrpc.Message) -> None:
    line = encode(message)
    assert b"\n" not in line and b"\r" not in line
    assert one(line) == message
    # However a peer lays it out, the same message comes out, and its text is the same line again.
    for indent in (None, 1):
        value = json.loads(line)
        # json prints a float differently; the strategy holds none.
        laid_out = json.dumps(value, indent=indent, ensure_ascii=False).encode()
        again = one(laid_out)
        assert type(again) is type(message)
        assert json.loads(encode(again)) == value
        assert b"\n" not in encode(again)
    escaped = one(json.dumps(json.loads(line)).encode())
    assert json.loads(encode(escaped)) == json.loads(line)


class _Refused(Exception):
    pass


def _strict(text: bytes) -> Any:
    """The reference: the standard library with its laxities taken away."""

    def refuse(_: str) -> Any:
        raise _Refused

    try:
        value = json.loads(
            str(text, "utf-8"), parse_constant=refuse, parse_int=lambda _: 0, parse_float=lambda _: 0
        )
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise _Refused from None
    return value


@given(TEXTS | TEXTS.map(lambda inner: f'"{inner}"') | TEXTS.map(lambda inner: f"[{inner}]"))
def test_what_passes_is_what_a_strict_parser_takes(text: str) -> None:
    value = text.encode()
    try:
        reference = _strict(b'{"a":' + value + b"}")
    except _Refused:
        reference = None
    message = one(in_result(value))
    if reference is None:
        assert isinstance(message, Malformed)
    elif isinstance(message, Result):
        assert _strict(bytes(message.result)) == reference
    else:
        # The fragment closed the object and went on: then a member may be doubled.
        assert message.code == INVALID_REQUEST


@given(st.binary(max_size=80) | TEXTS.map(str.encode))
def test_never_raises(data: bytes) -> None:
    for allow in (False, True):
        messages = decode(data, LIMITS, allow_batch=allow)
        assert messages
    for reader in (jsonrpc.text, jsonrpc.integer, jsonrpc.boolean):
        reader(data)
    for strict in (jsonrpc.members, jsonrpc.plain):
        try:
            strict(data)
        except JsonFault:
            pass
