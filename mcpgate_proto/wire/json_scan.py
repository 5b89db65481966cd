"""What is looked for in a whole JSON text without parsing it: its depth, and numbers that nobody can hold.

Owns: two scans over the bytes, linear in time, with no more memory than a few copies of the text.
Must never: raise, judge the grammar (a parser does, with better words), or look at more than a quick glance
tells where that is enough.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import accumulate, chain
from math import isinf

import msgspec

__all__ = ["NUMBER_DIGITS", "deeper_than", "holds_large_number"]

# Beyond this a number is not data but an attack on int(): conversion is quadratic in the digits.
NUMBER_DIGITS = 400

_SLICE = 1 << 16
# Up to this size a text is looked at as a whole, which is quicker; beyond it in slices, which need no memory.
_WHOLE = 1 << 20
_NO_BACKSLASH = re.compile(rb"[^\\]")
_skip = msgspec.json.Decoder(msgspec.Raw).decode


def _outside_strings(data: bytes, drop: bytes = b"") -> Iterator[bytes]:
    """The text without its strings and the bytes to `drop`, in pieces. In slices: a text of quotes would else
    become a list of a hundred times its size."""
    start = inside = 0
    while start < len(data):
        # No slice ends between a backslash and what it escapes.
        found = _NO_BACKSLASH.search(data, min(start + _SLICE, len(data)) - 1)
        end = found.end() if found else len(data)
        piece = data[start:end]
        start = end
        if b"\\" in piece:
            # Inside strings only: first the escaped backslashes, then the escaped quotes, fall away.
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
        # A quote directly followed by a quote encloses nothing, on whichever side of a string it stands.
        parts = piece.translate(None, drop).replace(b'""', b"").split(b'"')
        yield b"".join(parts[inside::2])
        inside ^= len(parts) - 1 & 1


# Everything but quotes and brackets; both kinds of bracket as one; as steps up and down.
_NOT_STRUCTURE = bytes(sorted(set(range(256)) - set(b'"[]{}')))
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_STEPS = bytes.maketrans(b"[]{}", b"\x01\xff\x01\xff")


def deeper_than(data: bytes, depth: int) -> bool:
    """Whether brackets outside strings nest deeper than `depth`. Linear, and exact for valid JSON.

    In a text that is broken somewhere it finds at least the depth that a parser reaches before it stops.
    """
    if data.count(b"{") + data.count(b"[") <= depth:
        return False
    pieces = _outside_strings(data, _NOT_STRUCTURE)
    if len(data) > _WHOLE:
        return _peak(pieces, depth) > depth
    marks = b"".join(pieces).translate(_ONE_KIND)
    # Leaf containers are one level. Dropping them all is cheap while it takes away a good part.
    while marks.count(b"[") > depth:
        if depth < 0:
            return True
        bare = marks.replace(b"[]", b"")
        if len(bare) * 8 > len(marks) * 7:
            return _peak([marks], depth) > depth
        marks = bare
        depth -= 1
    return False


def _peak(pieces: Iterable[bytes], enough: int) -> int:
    """The greatest number of brackets that are open at once; stops counting some way beyond `enough`."""
    level = peak = 0
    for piece in pieces:
        steps = memoryview(piece.translate(_STEPS)).cast("b")
        for start in range(0, len(steps), _SLICE):
            levels = list(accumulate(steps[start : start + _SLICE], initial=level))
            level = levels[-1]
            peak = max(peak, max(levels))
            if peak > enough:
                return peak
    return peak


# Every digit becomes a zero, the letters and the sign of an exponent an `e`, and all else a blank.
_SHAPES = (
    bytes(48 if chr(code).isdecimal() else 101 if code in b"eE+" else 32 for code in range(128)) + b" " * 128
)
# Neither fewer digits than this nor an exponent of two reaches 1.8e308, nor do both together.
_DIGITS_SAFE = 200
_MANY_DIGITS = b"0" * _DIGITS_SAFE
_TOO_MANY_DIGITS = b"0" * (NUMBER_DIGITS + 1)
# The whole token, what is in front of its point, its fraction, its exponent.
_NUMBER = re.compile(rb"(([0-9]++)(\.[0-9]++)?+(?:[eE]([+-]?+[0-9]++))?+)")
_NUMBER_BYTES = b"0123456789.eE+-"
# A number of permitted digits: in front of its point, behind it, in its exponent.
_TOKEN_MOST = 3 * NUMBER_DIGITS + 4
# Below 10 to this power everything fits. So few different numbers beyond it are data (the largest double is a
# usual default); with more of them, each would cost a slow conversion.
_POWER_SAFE = 308
_NEAR_THE_END = 256


def _may_hold_large_number(data: bytes) -> bool:
    """A quick look, strings and all: false for nearly every text, true for each that holds one."""
    shapes = data.translate(_SHAPES)
    if b"e000" in shapes and (b"0e000" in shapes or b"0ee000" in shapes):
        return True
    # Of so many digits in a row, two that are half as far apart are looked at first.
    return len(data) >= _DIGITS_SAFE and b"00" in shapes[:: _DIGITS_SAFE // 2] and _MANY_DIGITS in shapes


def holds_large_number(data: bytes) -> bool:
    """Whether a number is beyond a double (`1e400`) or has more than `NUMBER_DIGITS` digits in a row.

    One parser reads infinity where another one stops; and both are passed on as text. Linear, in slices.
    Where the text is not JSON the answer is false: a parser says so with better words.
    """
    if len(data) <= _SLICE:
        suspect = _may_hold_large_number(data)
    else:
        steps = range(0, len(data), _SLICE)
        suspect = any(_may_hold_large_number(data[at : at + _SLICE + _DIGITS_SAFE]) for at in steps)
    return suspect and _beyond(_outside_strings(data)) and _is_json(data)


def _beyond(pieces: Iterator[bytes]) -> bool:
    """The exact look at what is outside of strings. True also where it only may be, if the text is broken."""
    near: set[bytes] = set()
    rest = b""
    for piece in chain(pieces, (b" ",)):
        text = rest + piece
        # A number that goes on in the next piece is looked at there.
        rest = text[len(text.rstrip(_NUMBER_BYTES)) :]
        if len(rest) > _TOKEN_MOST:
            return True
        text = text[: len(text) - len(rest)]
        if not _may_hold_large_number(text):
            continue
        if _TOO_MANY_DIGITS in text.translate(_SHAPES):
            return True
        for token, whole, part, power in _NUMBER.findall(text):
            if (part or power) and len(whole) + int(power or b"0") > _POWER_SAFE and token not in near:
                if isinf(float(token)) or len(near) == _NEAR_THE_END:
                    return True
                near.add(token)
    return False


def _is_json(data: bytes) -> bool:
    try:
        _skip(data)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
