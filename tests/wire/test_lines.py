"""Newline framing: protocol.md B1."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pieces import cut_by, every_cut

from mcpgate_proto.wire.lines import LineDecoder, TooLong, encode_line

LONG = TooLong(8)
TABLE = [
    (b"", []),
    (b"abc\n", [b"abc"]),
    (b"abc\r\n", [b"abc"]),
    (b"a\nb\n\nc\n", [b"a", b"b", b"c"]),
    (b"\n\r\n \n\t \r\n", []),
    (b"a\rb\n", [b"a\rb"]),
    (b"a", [b"a"]),
    (b"a\r", [b"a"]),
    (b"a\nb", [b"a", b"b"]),
    (b"12345678\n", [b"12345678"]),
    (b"12345678\r\n", [b"12345678"]),
    (b"12345678\r", [b"12345678"]),
    (b"123456789\nok\n", [LONG, b"ok"]),
    (b"12345678\r\r\nok\n", [LONG, b"ok"]),
    (b"123456789", [LONG]),
    (b"1234567890123\n1234567890123\nok", [LONG, LONG, b"ok"]),
    (b"ok\n" + b"x" * 50 + b"\n\nok\n", [b"ok", LONG, b"ok"]),
    # Never str.splitlines: these are data.
    (b"a\x0bb\x0cc\x85d\n", [b"a\x0bb\x0cc\x85d"]),
    (b"\xe2\x80\xa8\n", [b"\xe2\x80\xa8"]),
]


def run(pieces: list[bytes], size: int = 8) -> list[bytes | TooLong]:
    decoder = LineDecoder(size)
    lines = [line for piece in pieces for line in decoder.receive(piece)]
    assert decoder.buffered <= size + 1
    return lines + decoder.receive_eof()


@pytest.mark.parametrize(("data", "expected"), TABLE)
def test_table(data: bytes, expected: list[bytes | TooLong]) -> None:
    for pieces in every_cut(data):
        assert run(pieces) == expected


@pytest.mark.parametrize(("data", "expected"), TABLE)
def test_trailing_bytes(data: bytes, expected: list[bytes | TooLong]) -> None:
    assert run([data + b"\ntail"]) == [*expected, b"tail"]


def test_oversize_is_reported_at_once_and_holds_nothing() -> None:
    decoder = LineDecoder(8)
    assert decoder.receive(b"x" * 10) == [LONG]
    assert decoder.buffered == 0
    assert decoder.receive(b"x" * 1000) == [] and decoder.buffered == 0
    assert decoder.receive(b"\nok\n") == [b"ok"]


def test_a_long_line_in_small_pieces_takes_linear_time() -> None:
    start = time.process_time()
    decoder = LineDecoder(10**7)
    for _ in range(200_000):
        decoder.receive(b"0123456789")
    [line] = decoder.receive(b"\n")
    assert isinstance(line, bytes) and len(line) == 2_000_000
    assert time.process_time() - start < 2


@given(
    st.lists(st.sampled_from([b"a", b"bc", b"\r", b"\n", b"\r\n", b" ", b"123456789"]), max_size=12).map(
        b"".join
    ),
    st.lists(st.integers(1, 5), max_size=4),
)
def test_cuts_do_not_matter(data: bytes, sizes: list[int]) -> None:
    assert run(cut_by(data, sizes)) == run([data])


@given(
    st.lists(st.binary(min_size=1, max_size=30).filter(lambda m: not (set(m) & {10, 13}) and not m.isspace()))
)
def test_round_trip(messages: list[bytes]) -> None:
    assert run([b"".join(map(encode_line, messages))], 30) == messages
