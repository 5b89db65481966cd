"""What is looked for before a text is parsed: numbers that nobody can hold, size and depth (threats.md 2)."""

from __future__ import annotations

import json
import math
import time
import tracemalloc
from typing import Any

import pytest
from envelopes import JSON, LIMITS, code_of, in_result, one
from hypothesis import given
from hypothesis import strategies as st

from mcpgate_proto.limits import Limits
from mcpgate_proto.wire.json_scan import deeper_than
from mcpgate_proto.wire.jsonrpc import (
    INVALID_REQUEST,
    PARSE_ERROR,
    Malformed,
    Request,
    Result,
    decode,
)

# ---------------------------------------------------------------------------- numbers that nobody can hold

TOO_LARGE = [
    *(b"1e400", b"-1e400", b"1E+309", b"1e0000309", b"17.9e308", b"0.9e310", b"1e" + b"9" * 399),
    *(b"1" * 401, b"0." + b"1" * 401, b"1e-" + b"1" * 401, b"1" * 200 + b"e110", b"1" * 5000),
]


@pytest.mark.parametrize("value", TOO_LARGE, ids=lambda value: value[:12].decode())
@pytest.mark.parametrize(
    "around", [b"%b", b"[0,%b]", b'{"b":[1e5,{"c":%b}]}', b'"e100 \\"",\n"d":%b', b'"",\r"d": %b\t']
)
def test_numbers_that_nobody_can_hold_are_refused_wherever_they_stand(value: bytes, around: bytes) -> None:
    data = around.replace(b"%b", value)
    refused = Malformed(INVALID_REQUEST, "a number is out of range", 1)
    assert one(in_result(data)) == refused
    assert one(b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":' + data + b"}}") == refused
    assert (
        one(b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"","data":{"a":' + data + b"}}}") == refused
    )
    assert one(b'{"jsonrpc":"2.0","method":"m","params":{"a":' + data + b"}}").id is None


def test_a_batch_with_such_a_number_is_refused_as_a_whole() -> None:
    batch = b"[" + in_result(b"1") + b"," + in_result(b"1e400") + b"]"
    assert decode(batch, LIMITS, allow_batch=True) == [Malformed(INVALID_REQUEST, "a number is out of range")]


def test_broken_json_stays_broken_json() -> None:
    for value in (b"1e400,", b"01e400", b"1.1.1e400", b"1e400 1"):
        assert code_of(in_result(value)) == PARSE_ERROR


@pytest.mark.parametrize("place", [0, 65_530, 65_536, 131_080])
def test_a_large_number_at_a_slices_edge(place: int) -> None:
    numbers = b"1e250," * (place // 6) + b" " * (place % 6)
    assert one(in_result(b"[" + numbers + b"1e300]")).id == 1
    assert isinstance(one(in_result(b"[" + numbers + b"1e300]")), Result)
    assert code_of(in_result(b"[" + numbers + b"1e309]")) == INVALID_REQUEST
    quotes = b'"","",' * (place // 6)
    assert code_of(in_result(b"[" + quotes + b'"1e300",1e309]')) == INVALID_REQUEST
    assert isinstance(one(in_result(b"[" + quotes + b'"1e309",1e300]')), Result)


@given(st.integers(0, 420), st.integers(0, 420), st.integers(-420, 420), st.booleans())
def test_a_number_passes_exactly_if_a_double_holds_it(whole: int, part: int, power: int, plain: bool) -> None:
    text = "7" * (whole + 1) + ("." + "3" * part if part else "") + ("" if plain else f"e{power}")
    fits = math.isfinite(float(text)) or (plain and not part)
    expected = fits and whole < 400 and part <= 400
    assert isinstance(one(in_result(text.encode())), Result) is expected


def test_scans_need_no_more_memory_than_a_few_copies() -> None:
    for data in (b'"[' * 10**6, b'["",' * 10**6, b'{"a":[' + b'"",1e300,' * 10**5 + b"0]}"):
        tracemalloc.start()
        try:
            decode(data, LIMITS)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 4 * len(data) + 4_000_000, f"{peak} for {len(data)}"


# ------------------------------------------------------------------------------------- size and depth


def test_size() -> None:
    limits = Limits(message_bytes=60)
    data = b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":"'
    data += b"x" * (60 - len(data) - 3) + b'"}}'
    assert isinstance(one(data, limits), Request)
    assert one(data + b" ", limits).code == INVALID_REQUEST


@pytest.mark.parametrize("depth", [3, 4, 20, 64])
@pytest.mark.parametrize("filler", [b"", b'"]]]]",', b'"\\"]]",', b'"\\\\",', b'"[[[[{{{{",', b'"\\\\\\"[",'])
def test_depth_is_exact(depth: int, filler: bytes) -> None:
    # The envelope and the result are two levels; the arrays in the result are the others.
    limits = Limits(json_depth=depth)
    value = b"[" * (depth - 2) + filler + b"0" + b"]" * (depth - 2)
    assert isinstance(one(in_result(value), limits), Result)
    message = one(in_result(b"[" + value + b"]"), limits)
    assert isinstance(message, Malformed) and message.code == INVALID_REQUEST


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


@given(JSON, st.integers(1, 8), st.booleans())
def test_depth_scan_equals_recursive_depth(value: Any, limit: int, ascii: bool) -> None:
    data = json.dumps(value, ensure_ascii=ascii).encode()
    assert deeper_than(data, limit) == (depth_of(value) > limit)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 10**6,
        b"[" + b"[]," * 10**5 * 3 + b"[]]",
        b'["' + b'\\"' * 10**6,
        b'{"a":' + b'"[' * 10**6,
        b'"\\' * 10**6,
    ]
    + [b"[" + b"1e308," * 10**5 * 3 + b"1]", b"[" + b"1e99,1e100," * 10**5 + b"1]"]
    + [b"[" + b",".join(b"1.%de308" % n for n in range(10**5)) + b"]", b"[" + b"1" * 390 + b"e1]" * 10**4]
    + [b"1e250," * 10**5 * 3, b"1" * 10**6, b"1.1" * 10**6, b'"1e250"' * 10**5 * 3, b"e999" * 10**6]
    + [b"[[[[[[[[" * 10**5, (b"[" * 60 + b"]" * 60 + b",") * 5000, b'""' * 10**6, b"\\" * 10**6 + b"[" * 100],
)
def test_hostile_texts_take_linear_time(data: bytes) -> None:
    start = time.process_time()
    assert one(data, Limits()).code in (PARSE_ERROR, INVALID_REQUEST)
    one(in_result(data), Limits())
    assert time.process_time() - start < 1.5
