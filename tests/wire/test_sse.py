"""Event streams: WHATWG HTML 9.2, protocol.md D13."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pieces import cut_by, every_cut

from mcpgate_proto.errors import LocalProtocolError
from mcpgate_proto.wire.sse import (
    COMMENT,
    SseDecoder,
    SseEvent,
    SseItem,
    SseTooLong,
    encode_event,
    priming_event,
)

LONG = SseTooLong(30)


def event(data: bytes, name: str = "message", id: str | None = None, retry: int | None = None) -> SseEvent:
    return SseEvent(name, data, id, retry, True)


TABLE: list[tuple[bytes, list[SseItem]]] = [
    (b"", []),
    (b"data: x\n\n", [event(b"x")]),
    (b"data:x\n\n", [event(b"x")]),
    (b"data:  x\n\n", [event(b" x")]),
    (b"data: x\r\n\r\n", [event(b"x")]),
    (b"data: x\r\r", [event(b"x")]),
    (b"data: x\r\n\rdata: y\n\r\n", [event(b"x"), event(b"y")]),
    (b"data: a\ndata: b\r\ndata: c\rdata\n\n", [event(b"a\nb\nc\n")]),
    (b"\xef\xbb\xbfdata: x\n\n", [event(b"x")]),
    (b"\xef\xbbdata: x\n\ndata: y\n\n", [event(b"y")]),
    (b"data: y\n\n\xef\xbb\xbfdata: x\n\n", [event(b"y")]),
    (b"\xef\xbb\xbf\xef\xbb\xbfdata: x\n\n", []),
    (COMMENT + b":\n: x\ndata: y\n:z\n\n", [event(b"y")]),
    (b"event: tick\ndata: x\n\ndata: y\n\n", [event(b"x", "tick"), event(b"y")]),
    (b"event: tick\n\ndata: y\n\n", [event(b"y")]),
    (b"event: a\nevent: b\ndata: y\n\n", [event(b"y", "b")]),
    (b"event\ndata: y\n\n", [event(b"y")]),
    (b"id: 7\ndata: y\n\n", [event(b"y", id="7")]),
    (b"id: 7\nid\ndata: y\n\n", [event(b"y", id="")]),
    (b"id: 7\nid: a\x00b\ndata: y\n\n", [event(b"y", id="7")]),
    (b"id: 7\n\n", [SseEvent("message", b"", "7", None, False)]),
    (b"id: 7\nretry: 500\ndata:\n\n", [event(b"", id="7", retry=500)]),
    (b"data\n\n", [event(b"")]),
    (b"retry: 12x\nretry: -1\nretry: \xd9\xa3\nretry: 9999999999\ndata: y\n\n", [event(b"y")]),
    (b"retry: 5\n\n", [SseEvent("message", b"", None, 5, False)]),
    (b"foo: bar\nDATA: x\ndata : x\ndatax: y\n\n", []),
    (b"data: cut off", []),
    (b"data: cut off\n", []),
    (b"\n\n\n\r\r\ndata: y\n\n", [event(b"y")]),
    (b"event: \xff\ndata: \xff\n\n", [event(b"\xff", "\ufffd")]),
    (b"data: " + b"x" * 24 + b"\n\n", [event(b"x" * 24)]),
    (b"data: " + b"x" * 25 + b"\n\ndata: y\n\n", [LONG, event(b"y")]),
    (b"data: " + b"x" * 99 + b"\ndata: z\n\ndata: y\n\n", [LONG, event(b"y")]),
    (b"id: 1\n" + b"data: x\n" * 20 + b"\nid: 2\ndata: y\n\n", [LONG, event(b"y", id="2")]),
    (b": " + b"x" * 99 + b"\n\ndata: y\n\n", [LONG, event(b"y")]),
    (b"id: " + b"x" * 20 + b"\nevent: " + b"x" * 20 + b"\n\n\n", [LONG]),
    (b"x" * 99, [LONG]),
    (b"x" * 99 + b"\r\n\r\n" + b"data: y\n\n", [LONG, event(b"y")]),
]


def run(pieces: list[bytes], size: int = 30) -> tuple[list[SseItem], str]:
    decoder = SseDecoder(size)
    items = []
    for piece in pieces:
        items += decoder.receive(piece)
        assert decoder.buffered <= size + 1
    return items, decoder.last_event_id


@pytest.mark.parametrize(("data", "expected"), TABLE)
def test_table(data: bytes, expected: list[SseItem]) -> None:
    for pieces in every_cut(data):
        assert run(pieces)[0] == expected


@pytest.mark.parametrize(("data", "expected"), TABLE)
def test_trailing_bytes(data: bytes, expected: list[SseItem]) -> None:
    assert run([data + b"\n\ndata: tail"])[0][: len(expected)] == expected


def test_last_event_id() -> None:
    decoder = SseDecoder(100)
    assert decoder.last_event_id == ""
    decoder.receive(b"id: 1\n")
    assert decoder.last_event_id == ""
    decoder.receive(b"data: x\n\ndata: y\n\n")
    assert decoder.last_event_id == "1"
    decoder.receive(b"id: 2\n\n")
    assert decoder.last_event_id == "2"
    decoder.receive(b"id\ndata: z\n\n")
    assert decoder.last_event_id == ""


def test_encode() -> None:
    assert encode_event(b"{}") == b"data: {}\n\n"
    assert (
        encode_event(b"{}", event="message", id="a1", retry_ms=9)
        == b"event: message\nid: a1\nretry: 9\ndata: {}\n\n"
    )
    assert encode_event(b"a\nb\r\nc\rd\n") == b"data: a\ndata: b\ndata: c\ndata: d\ndata: \n\n"
    assert priming_event("7", 100) == b"id: 7\nretry: 100\ndata: \n\n"
    assert priming_event("7") == b"id: 7\ndata: \n\n"
    assert run([COMMENT]) == ([], "")


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "\n"])
def test_what_the_format_cannot_carry(bad: str) -> None:
    with pytest.raises(LocalProtocolError):
        encode_event(b"", event=bad)
    with pytest.raises(LocalProtocolError):
        encode_event(b"", id=bad)


def test_nul_fits_in_a_name_but_not_in_an_id() -> None:
    assert run([encode_event(b"", event="a\0b")])[0] == [event(b"", "a\0b")]
    with pytest.raises(LocalProtocolError):
        encode_event(b"", id="a\0b")


NAMES = st.text(alphabet="abé:. ", min_size=1, max_size=5)


@given(
    st.lists(
        st.tuples(st.binary(max_size=12), NAMES, st.none() | NAMES, st.none() | st.integers(0, 10**9 - 1))
    ),
    st.lists(st.integers(1, 7), max_size=4),
)
def test_round_trip(events: list[tuple[bytes, str, str | None, int | None]], sizes: list[int]) -> None:
    stream = b"".join(
        encode_event(data, event=name, id=id, retry_ms=retry) for data, name, id, retry in events
    )
    items, _ = run(cut_by(stream, sizes), 1000)
    assert items == [
        event(data.replace(b"\r\n", b"\n").replace(b"\r", b"\n"), name, id, retry)
        for data, name, id, retry in events
    ]


PARTS = [
    b"data",
    b":",
    b" ",
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n",
    b"id: 1",
    b"x",
    b"\xef\xbb\xbf",
    b"data: y",
    b"\0",
    b"event: e",
    b"retry: 3",
    b"x" * 20,
]


@given(st.lists(st.sampled_from(PARTS), max_size=20).map(b"".join), st.lists(st.integers(1, 7), max_size=4))
def test_cuts_do_not_matter(data: bytes, sizes: list[int]) -> None:
    assert run(cut_by(data, sizes)) == run([data])


def test_a_long_event_in_small_pieces_takes_linear_time() -> None:
    decoder = SseDecoder(10**7)
    decoder.receive(b"data: ")
    for _ in range(200_000):
        decoder.receive(b"0123456789")
    [item] = decoder.receive(b"\n\n")
    assert isinstance(item, SseEvent) and len(item.data) == 2_000_000
