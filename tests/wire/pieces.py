"""Ways to cut a byte string, so that a decoder can be shown the same input in many chunkings."""

from __future__ import annotations

from collections.abc import Iterator


def every_cut(data: bytes, *, splits: int = 300) -> Iterator[list[bytes]]:
    """Whole, byte by byte, in threes, and cut in two at every place (of the first `splits`)."""
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    yield [data[i : i + 3] for i in range(0, len(data), 3)]
    for at in range(1, min(len(data), splits)):
        yield [data[:at], data[at:]]


def cut_by(data: bytes, sizes: list[int]) -> list[bytes]:
    """Cut into pieces of the given sizes, over and over; a size of 0 counts as 1."""
    pieces = []
    at = index = 0
    while at < len(data):
        step = max(1, sizes[index % len(sizes)]) if sizes else len(data)
        pieces.append(data[at : at + step])
        at += step
        index += 1
    return pieces
