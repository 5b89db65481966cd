"""WebSocket once it is open: RFC 6455, protocol.md B14, threats.md 4."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pieces import cut_by, every_cut
from upgrades import KEY, LIMITS, SEED, accepted, refused, request

from fuzz.targets_websocket import TARGETS
from mcpgate_proto.entropy import Entropy
from mcpgate_proto.errors import LocalProtocolError
from mcpgate_proto.wire.http1 import Headers, HttpServerCodec, RequestHead, ResponseHead
from mcpgate_proto.wire.websocket import (
    Binary,
    Closed,
    Pong,
    State,
    Text,
    WebSocketCodec,
    WebSocketEvent,
    _mask,
)
from mcpgate_proto.wire.websocket_handshake import (
    UpgradeReader,
    check_response,
    check_upgrade,
    upgrade_request,
)

MASK = b"\x37\xfa\x21\x3d"
CORPUS = Path(__file__).parents[2] / "fuzz" / "corpus"


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bool = True,
    declared: int | None = None,
    form: int = 0,
) -> bytes:
    """One frame, right or wrong: `declared` is another length, `form` 126 or 127 forces a longer one."""
    length = len(payload) if declared is None else declared
    form = form or (length if length < 126 else 126 if length < 65536 else 127)
    data = bytes([(0x80 if fin else 0) | rsv | opcode, form])
    data += struct.pack("!H", length) if form == 126 else struct.pack("!Q", length) if form == 127 else b""
    return _mask(data + payload, MASK) if mask else data + payload


def close_frame(code: int, reason: bytes = b"", *, mask: bool = True) -> bytes:
    return frame(8, struct.pack("!H", code) + reason, mask=mask)


def codec(role: str = "server", **options: Any) -> WebSocketCodec:
    options = {"max_message_bytes": 200, "max_fragments": 4, "control_frames_per_s": 30, **options}
    return WebSocketCodec(role, entropy=Entropy(SEED), **options)  # type: ignore[arg-type]


def run(pieces: list[bytes], role: str = "server", **options: Any) -> tuple[list[WebSocketEvent], bytes]:
    """The events, and what is sent when all has been read."""
    subject = codec(role, **options)
    events: list[WebSocketEvent] = []
    for piece in pieces:
        events += subject.receive(piece, 1.0)
        assert subject.buffered <= 200 or "max_message_bytes" in options
    return events, b"".join(subject.to_send())


def pong(payload: bytes) -> bytes:
    return frame(10, payload, mask=False)


def failed(code: int, reason: str) -> tuple[list[WebSocketEvent], bytes]:
    return [Closed(code, reason, False)], close_frame(code, reason.encode(), mask=False)


RESERVED_BIT = failed(1002, "a reserved bit is set")
RESERVED_OPCODE = failed(1002, "an opcode that is reserved")
NOT_VALID = failed(1002, "a frame that is not valid")
NOT_SHORTEST = failed(1002, "a length that is not in its shortest form")
NOT_UTF8 = failed(1007, "text that is not UTF-8")
TOO_BIG = failed(1009, "a message of more than 200 bytes")
IN_FRAGMENTS = failed(1002, "a control frame in fragments")
LONG_CONTROL = failed(1002, "a control frame of more than 125 bytes")
NESTED = failed(1002, "a message within a message")
NOTHING = failed(1002, "a continuation of nothing")
FRAGMENTS = failed(1008, "a message of more than 4 fragments")
EURO = "€".encode()

TABLE: list[tuple[bytes, tuple[list[WebSocketEvent], bytes]]] = [
    (b"", ([], b"")),
    (frame(1, b"{}"), ([Text(b"{}")], b"")),
    (frame(1), ([Text(b"")], b"")),
    (frame(1, b"x" * 200), ([Text(b"x" * 200)], b"")),
    (frame(1, b"a") + frame(1, EURO), ([Text(b"a"), Text(EURO)], b"")),
    # 5.4: fragments, cut within a character, with control frames between
    (frame(1, EURO[:1], fin=False) + frame(0, EURO[1:]), ([Text(EURO)], b"")),
    (frame(1, fin=False) + frame(0, fin=False) + frame(0, b"a"), ([Text(b"a")], b"")),
    (frame(1, b"a", fin=False) + frame(0, fin=False) + frame(0), ([Text(b"a")], b"")),
    (frame(1, b"a", fin=False) + frame(9, b"p") + frame(0, b"b"), ([Text(b"ab")], pong(b"p"))),
    (frame(1, b"a" * 100, fin=False) + frame(0, b"b" * 100), ([Text(b"a" * 100 + b"b" * 100)], b"")),
    # 5.5.2, 5.5.3
    (frame(9), ([], pong(b""))),
    (frame(9, b"x" * 125) + frame(9, b"y"), ([], pong(b"x" * 125) + pong(b"y"))),
    (frame(10, b"z"), ([Pong(b"z")], b"")),
    # 5.5.1, 7.1.5
    (frame(8) + frame(1, b"late"), ([Closed(1005, "", True)], frame(8, mask=False))),
    (close_frame(1000), ([Closed(1000, "", True)], close_frame(1000, mask=False))),
    (close_frame(4999, EURO), ([Closed(4999, "€", True)], close_frame(4999, mask=False))),
    (
        frame(9, b"p") + close_frame(1001),
        ([Closed(1001, "", True)], pong(b"p") + close_frame(1001, mask=False)),
    ),
    (frame(1, b"a", fin=False) + frame(8), ([Closed(1005, "", True)], frame(8, mask=False))),
    (frame(8, b"\x03"), NOT_VALID),
    (close_frame(1000, b"\xff"), NOT_UTF8),
    *[(close_frame(code), NOT_VALID) for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)],
    # 5.2
    (frame(1, b"a", rsv=0x40), RESERVED_BIT),
    (frame(9, b"a", rsv=0x20), RESERVED_BIT),
    (frame(8, b"a", rsv=0x10), RESERVED_BIT),
    *[(frame(opcode), RESERVED_OPCODE) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)],
    (b"\xf3", RESERVED_BIT),
    (frame(1, b"a", form=126), NOT_SHORTEST),
    (frame(1, b"a" * 126, form=127), NOT_SHORTEST),
    (frame(1, declared=1 << 63), NOT_SHORTEST),
    (frame(1, b"a", mask=False), failed(1002, "a frame without a mask")),
    # 5.5
    (frame(9, fin=False), IN_FRAGMENTS),
    (frame(8, fin=False), IN_FRAGMENTS),
    (frame(9, b"x" * 126), LONG_CONTROL),
    (frame(8, declared=1 << 40, form=127), LONG_CONTROL),
    # 5.4
    (frame(0, b"a"), NOTHING),
    (frame(1, b"a") + frame(0, b"a"), ([Text(b"a"), *NOTHING[0]], NOTHING[1])),
    (frame(1, b"a", fin=False) + frame(1, b"b"), NESTED),
    (frame(1, b"a", fin=False) + frame(2, b"b"), NESTED),
    # 8.1
    (frame(1, b"a\xff" + b"b" * 50), NOT_UTF8),
    (frame(1, EURO[:2]), NOT_UTF8),
    (frame(1, EURO[:2], fin=False) + frame(0), NOT_UTF8),
    (frame(1, b"\xed\xa0\x80"), NOT_UTF8),
    (
        frame(1, b"\xed\xa0", fin=False) + frame(9, b"p") + frame(0, b"\x80"),
        (NOT_UTF8[0], pong(b"p") + NOT_UTF8[1]),
    ),
    # B14, bounds
    (frame(2, b"a"), failed(1003, "a binary message")),
    (frame(2, b"a", rsv=0x40), RESERVED_BIT),
    (frame(1, declared=201), TOO_BIG),
    (frame(1, b"a", fin=False) + frame(0, declared=200), TOO_BIG),
    (frame(1, b"a") + frame(1, b"b" * 200), ([Text(b"a"), Text(b"b" * 200)], b"")),
    (frame(1, fin=False) + frame(0, fin=False) * 2 + frame(0, b"x"), ([Text(b"x")], b"")),
    (frame(1, fin=False) + frame(0, fin=False) * 4, FRAGMENTS),
    ((frame(1, b"x", fin=False) + frame(0)) * 9, ([Text(b"x")] * 9, b"")),
]


@pytest.mark.parametrize(("data", "expected"), TABLE)
def test_table(data: bytes, expected: tuple[list[WebSocketEvent], bytes]) -> None:
    for pieces in every_cut(data):
        assert run(pieces) == expected


def test_the_client_refuses_masks_and_masks_itself() -> None:
    assert run([frame(1, b"a")], "client")[0] == [Closed(1002, "a masked frame", False)]
    assert run([frame(1, b"a", mask=False)], "client")[0] == [Text(b"a")]
    subject = codec("client")
    first, second = subject.send_text(b"abc") + subject.send_text(b"abc")
    entropy = Entropy(SEED)
    assert [first[2:6], second[2:6]] == [entropy.bytes(4), entropy.bytes(4)]
    assert first == _mask(frame(1, b"abc", mask=False), first[2:6])
    assert run([first + second])[0] == [Text(b"abc")] * 2


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 125, 126, 127, 65535, 65536, 1 << 20])
@pytest.mark.parametrize("role", ["client", "server"])
def test_every_form_of_length(role: str, size: int) -> None:
    data = (b"0123456789" * (size // 10 + 1))[:size]
    other = "server" if role == "client" else "client"
    sent = codec(role).send_text(data)
    assert run(sent, other, max_message_bytes=1 << 20) == ([Text(data)], b"")


def test_the_same_seed_gives_the_same_bytes() -> None:
    def story() -> list[bytes]:
        subject = codec("client")
        subject.receive(frame(9, b"p", mask=False), 0.0)
        return subject.send_text(b"x") + subject.ping(b"y") + subject.close(1000, "bye")

    assert story() == story()


# -- sending


def test_local_misuse_is_told() -> None:
    subject = codec()
    for bad in (999, 1004, 1005, 1006, 1014, 1015, 1016, 2999, 5000, -1):
        with pytest.raises(LocalProtocolError):
            subject.close(bad)
    with pytest.raises(LocalProtocolError):
        subject.ping(b"x" * 126)
    with pytest.raises(LocalProtocolError):
        subject.send_text(b"\xff")
    assert subject.state is State.OPEN


def test_a_close_reason_is_cut_between_characters() -> None:
    assert codec().close(1001, "x" + "€" * 99) == [close_frame(1001, b"x" + EURO * 40, mask=False)]
    assert codec().close(1001, "a\ud800") == [close_frame(1001, b"a?", mask=False)]


def test_pongs_that_wait_go_ahead_of_what_is_sent() -> None:
    subject = codec()
    assert subject.receive(frame(9, b"p"), 0.0) == []
    assert subject.send_text(b"x") == [pong(b"p"), frame(1, b"x", mask=False)]
    assert subject.to_send() == []


def test_what_came_before_a_fault_can_still_be_answered() -> None:
    subject = codec()
    events = subject.receive(frame(1, b"a") + frame(3), 0.0)
    assert [type(event) for event in events] == [Text, Closed]
    assert subject.state is State.CLOSED
    assert subject.send_text(b"b") == [frame(1, b"b", mask=False)]
    assert subject.to_send() == [RESERVED_OPCODE[1]]
    assert subject.send_text(b"c") == subject.ping() == subject.close() == subject.to_send() == []


# -- closing


def test_we_close_and_the_peer_answers() -> None:
    server, client = codec("server"), codec("client")
    chunks = server.close(1001, "restart")
    assert server.state is State.CLOSING and not server.must_close
    assert server.send_text(b"x") == server.ping() == server.close() == []
    assert client.receive(b"".join(chunks), 0.0) == [Closed(1001, "restart", True)]
    # 7.1.1: the client lets the server go first.
    assert client.state is State.CLOSED and not client.must_close
    # What the client had sent before it knew is still read; pings are not answered any more.
    assert server.receive(frame(1, b"late") + frame(9, b"p"), 0.0) == [Text(b"late")]
    assert server.receive(b"".join(client.to_send()), 0.0) == [Closed(1001, "", True)]
    assert server.state is State.CLOSED and server.must_close and server.to_send() == []
    assert client.receive_eof() == []


def test_both_close_at_once() -> None:
    server, client = codec("server"), codec("client")
    from_server, from_client = server.close(1001), client.close(1000)
    assert server.receive(b"".join(from_client), 0.0) == [Closed(1000, "", True)]
    assert client.receive(b"".join(from_server), 0.0) == [Closed(1001, "", True)]
    assert server.to_send() == client.to_send() == []


def test_a_fault_while_closing_is_not_told_twice() -> None:
    subject = codec()
    assert subject.close()
    assert subject.receive(frame(3), 0.0) == RESERVED_OPCODE[0]
    assert subject.to_send() == [] and subject.must_close


def test_the_end_without_a_close() -> None:
    gone = [Closed(1006, "the connection ended without a close", False)]
    for prepare in (lambda subject: None, lambda subject: subject.close()):
        subject = codec("client")
        subject.receive(frame(9, b"p", mask=False), 0.0)
        prepare(subject)
        assert subject.receive_eof() == gone
        assert subject.must_close
        assert subject.receive_eof() == subject.to_send() == subject.send_text(b"x") == []


def test_a_client_closes_itself_after_a_fault() -> None:
    subject = codec("client")
    subject.receive(frame(3, mask=False), 0.0)
    assert subject.must_close


# -- the rows of threats.md 4


def test_row_frame_that_declares_2_to_the_40() -> None:
    data = frame(1, declared=1 << 40)[:10]
    for pieces in every_cut(data):
        events, sent = run(pieces, max_message_bytes=16 << 20)
        assert events == [Closed(1009, "a message of more than 16777216 bytes", False)]
        assert sent[2:4] == struct.pack("!H", 1009)


def test_row_100_000_empty_continuations() -> None:
    began = time.perf_counter()
    events, sent = run([frame(1, fin=False) + frame(0, fin=False) * 100_000], max_fragments=1024)
    assert events == [Closed(1008, "a message of more than 1024 fragments", False)]
    assert sent[2:4] == struct.pack("!H", 1008)
    assert time.perf_counter() - began < 2.0


def test_row_100_000_pings() -> None:
    began = time.perf_counter()
    events, sent = run([frame(9, b"x") * 100_000], control_frames_per_s=100)
    assert events == [Closed(1008, "more than 100 control frames in a second", False)]
    assert sent.startswith(pong(b"x") * 100 + b"\x88")
    assert time.perf_counter() - began < 2.0
    assert run([frame(10) * 31])[0] == [Pong(b"")] * 30 + [
        Closed(1008, "more than 30 control frames in a second", False)
    ]


def test_row_pings_budget_is_refilled_and_bounded() -> None:
    subject = codec(control_frames_per_s=10)
    assert subject.receive(frame(10) * 10, 100.0) == [Pong(b"")] * 10
    assert subject.receive(frame(10) * 5, 100.5) == [Pong(b"")] * 5
    assert subject.receive(frame(10) * 10, 1000.0) == [Pong(b"")] * 10
    assert subject.receive(frame(10), 1000.0)[0] == Closed(
        1008, "more than 10 control frames in a second", False
    )


def test_row_pongs_are_coalesced() -> None:
    # For an owner that does not drain: no more of them than one second's budget, the newest last.
    subject = codec(control_frames_per_s=10)
    for number in range(50):
        assert subject.receive(frame(9, b"%d" % number), float(number)) == []
    assert subject.to_send() == [pong(b"%d" % number) for number in [*range(9), 49]]
    assert subject.to_send() == []


def test_row_permessage_deflate() -> None:
    offer = ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits")
    assert b"xtension" not in accepted(request(offer)).response
    assert run([frame(1, b"\xf2\x48\x05\x00", rsv=0x40)]) == RESERVED_BIT
    assert b"xtension" not in upgrade_request("/", "a", Entropy(SEED))[0]
    assert refused(request(("sec-websocket-extensions", "é"))) == 400
    assert refused(request(("sec-websocket-extensions", "x" * 5000))) == 400


def test_row_masking_reserved_opcodes_control_frames_utf8_close_codes() -> None:
    """In `TABLE`, each at every cut."""
    codes = {event.code for _, (events, _) in TABLE for event in events if isinstance(event, Closed)}
    assert codes >= {1000, 1002, 1003, 1005, 1007, 1008, 1009}


def test_row_binary_messages() -> None:
    # At the first byte, before any length.
    assert run([b"\x82"]) == failed(1003, "a binary message")
    assert run([frame(2, b"\xff", fin=False) + frame(0, b"\x00")], binary=True) == (
        [Binary(b"\xff\x00")],
        b"",
    )
    assert codec().send_binary(b"\xff") == [frame(2, b"\xff", mask=False)]


def test_row_one_message_of_json_per_text() -> None:
    # JSON is not this layer's: bytes are handed out as they came, and the connection stays open (-32700).
    subject = codec()
    assert subject.receive(frame(1, b"{}\n{}") + frame(1, b"\xef\xbb\xbf{"), 0.0) == [
        Text(b"{}\n{}"),
        Text(b"\xef\xbb\xbf{"),
    ]
    assert subject.state is State.OPEN and subject.to_send() == []


def test_row_close_handshake() -> None:
    # 7.1.1: the server closes first, at once; the client waits for it, the owner's close timer runs.
    server, client = codec("server"), codec("client")
    assert server.receive(b"".join(client.close(1000)), 0.0) == [Closed(1000, "", True)]
    assert server.must_close
    assert client.receive(b"".join(server.to_send()), 0.0) == [Closed(1000, "", True)]
    assert not client.must_close


# -- properties


FRAMES = st.builds(
    frame,
    st.sampled_from([0, 1, 1, 1, 0, 8, 9, 10, 2, 3]),
    st.one_of(st.binary(max_size=12), st.text(max_size=60).map(str.encode)),
    fin=st.booleans(),
    rsv=st.sampled_from([0, 0, 0, 0, 0, 0x40]),
    mask=st.sampled_from([True] * 9 + [False]),
)
STREAMS = st.one_of(st.binary(max_size=200), st.lists(FRAMES, max_size=12).map(b"".join))
SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=5)


@given(STREAMS, SIZES, st.sampled_from(["server", "client"]))
def test_cuts_mean_nothing_and_nothing_raises(data: bytes, sizes: list[int], role: str) -> None:
    assert run([data], role) == run(cut_by(data, sizes), role)
    TARGETS["websocket"](b"\x03\x07" + data)


@given(st.lists(st.tuples(st.sampled_from(["key", "version", "protocol", "extensions"]), st.text())))
def test_no_header_value_makes_check_upgrade_raise(fields: list[tuple[str, str]]) -> None:
    check_upgrade(request(*[(f"=sec-websocket-{name}", value) for name, value in fields]))
    check_response(ResponseHead(101, Headers(tuple((f"sec-websocket-{n}", v) for n, v in fields))), KEY)


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["client", "server"]), st.sampled_from(["text", "text", "ping"]), st.text(max_size=40)
    ),
    max_size=20,
)


@given(ACTIONS, SIZES, st.sampled_from(["client", "server"]))
def test_round_trip(actions: list[tuple[str, str, str]], sizes: list[int], closer: str) -> None:
    codecs = {role: codec(role, control_frames_per_s=1000) for role in ("client", "server")}
    other = {"client": "server", "server": "client"}
    got: dict[str, list[WebSocketEvent]] = {"client": [], "server": []}
    want: dict[str, list[WebSocketEvent]] = {"client": [], "server": []}

    def carry(sender: str, chunks: list[bytes]) -> None:
        for piece in cut_by(b"".join(chunks), sizes):
            got[other[sender]] += codecs[other[sender]].receive(piece, 0.0)
        answers = codecs[other[sender]].to_send()
        if answers:
            carry(other[sender], answers)

    for role, what, text in actions:
        if what == "text":
            want[other[role]].append(Text(text.encode()))
            carry(role, codecs[role].send_text(text.encode()))
        else:
            payload = text.encode()[:125]
            want[role].append(Pong(payload))
            carry(role, codecs[role].ping(payload))
    carry(closer, codecs[closer].close(1001, "bye"))
    want[other[closer]].append(Closed(1001, "bye", True))
    want[closer].append(Closed(1001, "", True))
    assert got == want
    assert all(subject.state is State.CLOSED for subject in codecs.values())


def test_the_operating_system_is_asked_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(size: int) -> bytes:
        raise AssertionError("os.urandom was called")

    monkeypatch.setattr(os, "urandom", forbidden)
    upgrade_request("/", "a", Entropy(SEED))
    subject = codec("client")
    subject.receive(frame(9, b"p", mask=False), 0.0)
    assert subject.send_text(b"x") and subject.ping() and subject.close()


def test_a_large_message_byte_counts_stay_linear() -> None:
    data = b"x" * (4 << 20)
    wire = b"".join(codec("client").send_text(data))
    began = time.perf_counter()
    events, _ = run(cut_by(wire, [65536]), max_message_bytes=len(data))
    assert events == [Text(data)]
    assert time.perf_counter() - began < 2.0


# -- the kept fuzz inputs

SEEDS = [path for name in TARGETS for path in sorted((CORPUS / name).iterdir())]


@pytest.mark.parametrize("path", SEEDS, ids=[f"{path.parent.name}-{path.name}" for path in SEEDS])
def test_replay(path: Path) -> None:
    target = TARGETS[path.parent.name]
    data = path.read_bytes()
    target(data)
    for choice in range(12):
        target(bytes([choice, choice * 7]) + data[2:])
    for size in range(0, len(data), 1 + len(data) // 60):
        target(data[:size])


# -- the `websockets` library, its sans-IO layer


def test_interop_websockets_as_client() -> None:
    pytest.importorskip("websockets")
    from websockets.client import ClientProtocol
    from websockets.frames import Opcode
    from websockets.protocol import State as TheirState
    from websockets.typing import Subprotocol
    from websockets.uri import parse_uri

    peer = ClientProtocol(parse_uri("ws://localhost:1/mcp"), subprotocols=[Subprotocol("mcp")])
    peer.send_request(peer.connect())
    http = HttpServerCodec(LIMITS)
    [head] = http.receive(b"".join(peer.data_to_send()))
    assert isinstance(head, RequestHead)
    verdict = accepted(head)
    peer.receive_data(verdict.response)
    peer.events_received()
    assert peer.state is TheirState.OPEN and peer.subprotocol == "mcp"
    ours = codec()
    assert ours.receive(http.take_trailing(), 0.0) == []
    peer.send_text(EURO, fin=False)
    peer.send_ping(b"p")
    peer.send_continuation(b"!", fin=True)
    assert ours.receive(b"".join(peer.data_to_send()), 0.0) == [Text(EURO + b"!")]
    peer.receive_data(b"".join(ours.send_text(b"x" * 70_000) + ours.ping(b"q")))
    seen = [(event.opcode, bytes(event.data)) for event in peer.events_received()]  # type: ignore[union-attr]
    assert seen == [(Opcode.PONG, b"p"), (Opcode.TEXT, b"x" * 70_000), (Opcode.PING, b"q")]
    assert ours.receive(b"".join(peer.data_to_send()), 0.0) == [Pong(b"q")]
    peer.send_close(1000, "done")
    assert ours.receive(b"".join(peer.data_to_send()), 0.0) == [Closed(1000, "done", True)]
    peer.receive_data(b"".join(ours.to_send()))
    peer.receive_eof()
    assert peer.state is TheirState.CLOSED and peer.close_code == 1000


def test_interop_websockets_as_server() -> None:
    pytest.importorskip("websockets")
    from websockets.server import ServerProtocol
    from websockets.typing import Subprotocol

    wire, key = upgrade_request("/mcp", "localhost", Entropy(SEED))
    peer = ServerProtocol(subprotocols=[Subprotocol("mcp")], max_size=100)
    peer.receive_data(wire)
    [request_seen] = peer.events_received()
    peer.send_response(peer.accept(request_seen))  # type: ignore[arg-type]
    peer.send_text(b"first")
    reader = UpgradeReader(LIMITS)
    head = reader.receive(b"".join(peer.data_to_send()))
    assert isinstance(head, ResponseHead) and check_response(head, key) is None
    ours = codec("client")
    assert ours.receive(reader.rest, 0.0) == [Text(b"first")]
    peer.receive_data(b"".join(ours.send_text(EURO) + ours.ping(b"q")))
    assert [bytes(event.data) for event in peer.events_received()] == [EURO, b"q"]  # type: ignore[union-attr]
    assert ours.receive(b"".join(peer.data_to_send()), 0.0) == [Pong(b"q")]
    peer.receive_data(b"".join(ours.send_text(b"x" * 101)))
    [closed] = ours.receive(b"".join(peer.data_to_send()), 0.0)
    assert isinstance(closed, Closed) and closed.code == 1009 and closed.clean
    assert not ours.must_close
    # It has failed the connection and reads nothing more, our answer among it.
    assert [frame[0] for frame in ours.to_send()] == [0x88]
