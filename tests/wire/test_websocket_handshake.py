"""The handshake of WebSocket: RFC 6455 4, protocol.md B14, threats.md 4."""

from __future__ import annotations

import pytest
from pieces import cut_by, every_cut
from upgrades import KEY, LIMITS, SEED, accepted, refused, request

from mcpgate_proto.config import ListenConfig
from mcpgate_proto.effects import Address
from mcpgate_proto.entropy import Entropy
from mcpgate_proto.errors import LocalProtocolError
from mcpgate_proto.security.door import Door
from mcpgate_proto.wire.http1 import Failed, Headers, HttpServerCodec, RequestHead, ResponseHead
from mcpgate_proto.wire.websocket_handshake import (
    Refusal,
    UpgradeReader,
    check_response,
    check_upgrade,
    upgrade_request,
)

# -- the rows of threats.md 4


def test_row_origin() -> None:
    # Door decides, on the same head, before anything is accepted; the handshake itself writes nothing.
    door = Door(ListenConfig(name="l"), Address(host="127.0.0.1", port=8080))
    wire = (
        f"GET /mcp HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nOrigin: https://evil.example\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
    http = HttpServerCodec(LIMITS)
    [head] = http.receive(wire.encode() + b"\x81\x85\0\0\0\0early")
    assert isinstance(head, RequestHead) and head.upgrade
    assert door.check_origin(head.headers.get("origin"), head.headers.get("host")) is not None
    assert b"".join(http.respond(403, [])).startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize(
    "key",
    [
        "",
        "AAAA",
        "AAA=",
        KEY[:-1],
        KEY + "=",
        KEY[:-2] + "AA",
        KEY[:-3] + "h==",
        " " * 24,
        "é" * 24,
        KEY + ", " + KEY,
    ],
)
def test_row_key_of_other_than_16_bytes(key: str) -> None:
    assert refused(request(("=sec-websocket-key", key))) == 400
    assert refused(request(without="sec-websocket-key")) == 400
    assert refused(request(("sec-websocket-key", KEY))) == 400


@pytest.mark.parametrize(
    "value", ["mcpé", "\x80", "mcp\x00", "a b", "a;b", "mcp, mcp", "", ",,", "x" * 5000, "\U0001f600"]
)
def test_row_subprotocol_that_is_not_ascii_or_no_token(value: str) -> None:
    assert refused(request(("sec-websocket-protocol", value))) == 400


def test_too_many_subprotocols() -> None:
    assert refused(request(("sec-websocket-protocol", ",".join(f"p{n}" for n in range(99))))) == 400


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ([], None),
        (["mcp"], "mcp"),
        (["x, mcp , y"], "mcp"),
        (["x", "mcp"], "mcp"),
        ([",mcp,"], "mcp"),
        (["other"], None),
        (["MCP"], None),
        (["mcp2, xmcp, mcp.v1"], None),
    ],
)
def test_row_subprotocol(offered: list[str], chosen: str | None) -> None:
    verdict = accepted(request(*[("sec-websocket-protocol", value) for value in offered]))
    assert verdict.subprotocol == chosen
    assert (b"\r\nSec-WebSocket-Protocol: mcp\r\n" in verdict.response) == (chosen is not None)
    assert verdict.response.count(b"Sec-WebSocket-Protocol") == (chosen is not None)


def test_row_auth_before_101() -> None:
    # A token in a subprotocol is for the owner to read; it is never sent back.
    verdict = accepted(
        request(("sec-websocket-protocol", "bearer.c2VjcmV0, mcp"), ("authorization", "Bearer x"))
    )
    assert verdict.subprotocol == "mcp"
    assert b"c2VjcmV0" not in verdict.response


# -- the handshake


def test_the_answer_of_the_rfc() -> None:
    # RFC 6455 1.3
    assert accepted(request()).response == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (request(method="POST"), 405),
        (request(version="1.0"), 400),
        (request(has_body=True), 400),
        (request(without="host"), 400),
        (request(without="upgrade"), 400),
        (request(("=upgrade", "h2c")), 400),
        (request(without="connection"), 400),
        (request(("=connection", "keep-alive, upgraded")), 400),
        (request(without="sec-websocket-version"), 426),
        (request(("=sec-websocket-version", "8")), 426),
        (request(("=sec-websocket-version", "13, 8")), 426),
        (request(("=sec-websocket-version", "013")), 426),
        (request(("=sec-websocket-version", "13é")), 400),
        (request(("sec-websocket-version", "13")), 400),
        (request(("sec-websocket-anything", "\x7f")), 400),
    ],
)
def test_refusals(head: RequestHead, status: int) -> None:
    assert refused(head) == status


def test_a_refused_version_is_answered_with_ours() -> None:
    verdict = check_upgrade(request(("=sec-websocket-version", "7")))
    assert isinstance(verdict, Refusal)
    assert ("Sec-WebSocket-Version", "13") in verdict.headers
    http = HttpServerCodec(LIMITS)
    http.receive(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"\r\nSec-WebSocket-Version: 13\r\n" in b"".join(http.respond(verdict.status, verdict.headers))


def test_spelling_that_varies_is_accepted() -> None:
    accepted(request(("=upgrade", "h2c, WebSocket"), ("=connection", "keep-alive, UPGRADE")))


def answer(key: str, *extra: tuple[str, str], status: int = 101, without: str = "") -> ResponseHead:
    verdict = accepted(request(("=sec-websocket-key", key), ("sec-websocket-protocol", "mcp")))
    head = UpgradeReader(LIMITS).receive(verdict.response)
    assert isinstance(head, ResponseHead)
    fields = tuple((name, value) for name, value in head.headers if name != without)
    return ResponseHead(status, Headers(fields + extra))


def test_the_client_accepts_a_right_answer() -> None:
    _, key = upgrade_request("/mcp", "a", Entropy(SEED))
    assert check_response(answer(key), key) is None
    assert check_response(answer(key, without="sec-websocket-protocol"), key) is None
    assert check_response(answer(key, ("content-length", "0")), key) is None


@pytest.mark.parametrize(
    "head",
    [
        answer(KEY, status=200),
        answer(KEY, status=401),
        answer(KEY, without="upgrade"),
        answer(KEY, without="connection"),
        answer(KEY, without="sec-websocket-accept"),
        answer(KEY, ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")),
        answer(KEY, ("upgrade", "h2c")),
        answer(KEY, ("sec-websocket-extensions", "permessage-deflate")),
        answer(KEY, ("sec-websocket-protocol", "mcp")),
        answer(KEY, ("sec-websocket-protocol", "chat"), without="sec-websocket-protocol"),
        answer(KEY, ("transfer-encoding", "chunked")),
        answer(KEY, ("content-length", "2")),
    ],
)
def test_the_client_refuses_wrong_answers(head: ResponseHead) -> None:
    problem = check_response(head, KEY)
    assert problem is not None and problem.isascii()


def test_the_answer_to_another_handshake() -> None:
    assert check_response(answer("A" * 22 + "=="), KEY) == "not the answer to this handshake"


def test_the_request() -> None:
    wire, key = upgrade_request("/mcp?x=1", "h:8", Entropy(SEED), [("Authorization", "Bearer t")])
    http = HttpServerCodec(LIMITS)
    [head] = http.receive(wire)
    assert isinstance(head, RequestHead) and head.upgrade and head.target == "/mcp?x=1"
    assert head.headers.get("host") == "h:8" and head.headers.get("authorization") == "Bearer t"
    assert head.headers.get("sec-websocket-key") == key
    assert accepted(head).subprotocol == "mcp"
    assert upgrade_request("/", "a", Entropy(SEED))[1] == upgrade_request("/", "a", Entropy(SEED))[1]


@pytest.mark.parametrize(
    ("target", "host", "extra"),
    [
        ("/\r\nX: y", "a", []),
        ("/é", "a", []),
        ("/ x", "a", []),
        ("/", "a\r\nX: y", []),
        ("/", "é", []),
        ("/", "a", [("X", "a\nb")]),
        ("/", "a", [("X y", "a")]),
        ("/", "a", [("Host", "b")]),
        ("/", "a", [("connection", "close")]),
        ("/", "a", [("Sec-WebSocket-Protocol", "x")]),
    ],
)
def test_requests_that_http_cannot_carry(target: str, host: str, extra: list[tuple[str, str]]) -> None:
    with pytest.raises(LocalProtocolError):
        upgrade_request(target, host, Entropy(SEED), extra)


def read_answer(pieces: list[bytes]) -> tuple[ResponseHead | Failed | None, bytes]:
    reader = UpgradeReader(LIMITS)
    for at, piece in enumerate(pieces):
        head = reader.receive(piece)
        if head is not None:
            assert reader.receive(b"HTTP/1.1") is reader.receive_eof() is None
            return head, reader.rest + b"".join(pieces[at + 1 :])
    return reader.receive_eof(), b""


def test_the_reader_at_every_cut() -> None:
    wire = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + accepted(request()).response + b"\x81\x01a"
    for pieces in every_cut(wire):
        head, rest = read_answer(pieces)
        assert isinstance(head, ResponseHead) and head.status == 101 and rest == b"\x81\x01a"


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"HTTP/1.1 101 X\r\n",
        b"HTTP/1.0 101 X\r\n\r\n",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 101 X\r\nA: b\x00\r\n\r\n",
        b"HTTP/1.1 101 X\r\nA: " + b"b" * 20_000,
        b"HTTP/1.1 100 X\r\n\r\n" * 9,
    ],
)
def test_answers_that_cannot_be_read(wire: bytes) -> None:
    for pieces in ([wire], cut_by(wire, [7, 1])):
        head, _ = read_answer(pieces)
        assert isinstance(head, Failed) and head.reason.isascii()


def test_other_statuses_are_handed_out() -> None:
    head, _ = read_answer([b"HTTP/1.0 401 No\r\nWWW-Authenticate: Bearer\r\n\r\n"])
    assert isinstance(head, ResponseHead) and head.headers.get("www-authenticate") == "Bearer"
    assert check_response(head, KEY) == "the server answered 401 where 101 would be WebSocket"
