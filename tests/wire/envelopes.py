"""Messages around a text, how they are read, and JSON to make them of.

Must never: hold a test.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from mcpgate_proto.limits import Limits
from mcpgate_proto.wire.jsonrpc import Malformed, decode

LIMITS = Limits()

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='[]{}"\\\n aé😀', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(alphabet='ab"[\\é', max_size=3), inner, max_size=4)
    ),
    max_leaves=25,
)
# What texts are put together of that are JSON, or nearly.
PIECES = [
    *("{", "}", "[", "]", ",", ":", '"', '"a"', '"b":', '{"a":1}', '"a":2', "[]"),
    *("1", "-", "0", "e5", "e400", "E+999", ".", "9" * 150, "true", "null", "NaN", " ", "\n"),
    *("\\", "\\u00e9", "\\ud83d", "\\ude00", '"\\ud83d\\ude00"', "\\ud83d\\ude00", "\\ud800", "\\n"),
    *("é", "\x01", "\x7f", "\ufeff"),
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


def one(data: bytes, limits: Limits = LIMITS) -> Any:
    [message] = decode(data, limits)
    return message


def code_of(data: bytes) -> int | None:
    message = one(data)
    return message.code if isinstance(message, Malformed) else None


def in_result(value: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":1,"result":{"a":' + value + b"}}"
