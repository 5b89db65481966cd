"""Any chunking of the same input at one instant gives the same bytes per connection."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.sim import http
from fuzz.sim.scene import Scene
from fuzz.sim.talk import META, MODERN

LEGACY_HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-03-26",
        "capabilities": {},
        "clientInfo": {"name": "x", "version": "1"},
    },
}
READY = {"jsonrpc": "2.0", "method": "notifications/initialized"}
MODERN_META = {META + "protocolVersion": MODERN, META + "clientCapabilities": {}}


def call(id: Any, name: str, meta: dict[str, Any] | None = None, **args: Any) -> dict[str, Any]:
    params: dict[str, Any] = {"name": name, "arguments": {"nonce": f"n{id}", **args}}
    if meta:
        params["_meta"] = meta
    return {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}


def line(message: Any) -> bytes:
    return json.dumps(message).encode() + b"\n"


def post(message: Any, *headers: tuple[str, str]) -> bytes:
    base = [("Host", "127.0.0.1:8080"), ("Content-Type", "application/json"), *headers]
    return http.head("POST /mcp HTTP/1.1", base, json.dumps(message).encode())


def modern_post(id: int, name: str) -> bytes:
    headers = [("MCP-Protocol-Version", MODERN), ("Mcp-Method", "tools/call"), ("Mcp-Name", name)]
    return post(call(id, name, MODERN_META), *headers)


PIPE = [
    line(LEGACY_HELLO),
    line(READY),
    line([call(2, "echo"), call(3, "fail"), READY]),
    line(call(4, "slow", {"progressToken": 9}, steps=2, every=0.0)),
    b"garbage\n",
    b'{"jsonrpc":"2.0","id":5,"method":"ping"}\r\n',
    line(call(2, "big", size=3000)),
    line(call("six", "echo", MODERN_META)),
    line({"jsonrpc": "2.0", "id": 7, "method": "tools/list"}),
    b'{"jsonrpc":"2.0","id":8,"id":8,"method":"ping"}\n',
]
HTTP = [
    modern_post(1, "echo"),
    modern_post(2, "big"),
    post(LEGACY_HELLO),
    modern_post(3, "fail"),
    http.head("GET /nowhere HTTP/1.1", [("Host", "127.0.0.1:8080")]),
    http.head("GET /mcp HTTP/1.1", [("Host", "evil.example")]),
    post({"jsonrpc": "1.0"}),
    modern_post(4, "slow"),
]


class Tap:
    """A peer that keeps every byte."""

    def __init__(self) -> None:
        self.got = bytearray()

    def opened(self) -> None: ...
    def data(self, data: bytes) -> None:
        self.got += data

    def eof(self) -> None: ...
    def gone(self) -> None: ...


def play(kind: str, data: bytes, cuts: list[int]) -> bytes:
    """What comes back when `data` arrives in pieces, all at one instant, and then time goes on."""
    listener = "stdio" if kind == "pipe" else "http"
    scene = Scene({"one": ("stdio", ("legacy", "modern"))}, listeners=(listener,)).start()
    scene.run(1.0)
    tap: Any = Tap()
    scene.net.connect(listener, tap, "stdio" if kind == "pipe" else "tcp")
    at = 0
    for cut in [*cuts, len(data)]:
        piece = data[at : at + cut]
        at += len(piece)
        if piece:
            scene.world.feed("received", tap.stream.conn, piece)
    scene.run(40.0)
    return bytes(tap.got)


WHOLE = {kind: play(kind, b"".join(parts), []) for kind, parts in (("pipe", PIPE), ("http", HTTP))}


def test_the_whole_input_is_answered() -> None:
    """Otherwise the property would hold of nothing."""
    assert WHOLE["pipe"].count(b'"id":') >= 8
    assert WHOLE["http"].count(b"HTTP/1.1 ") == len(HTTP)


@settings(max_examples=60)
@given(cuts=st.lists(st.integers(1, 700), max_size=60))
def test_a_pipe_does_not_feel_how_its_input_is_cut(cuts: list[int]) -> None:
    assert play("pipe", b"".join(PIPE), cuts) == WHOLE["pipe"]


@settings(max_examples=60)
@given(cuts=st.lists(st.integers(1, 700), max_size=60))
def test_http_does_not_feel_how_its_input_is_cut(cuts: list[int]) -> None:
    assert play("http", b"".join(HTTP), cuts) == WHOLE["http"]


def test_byte_by_byte() -> None:
    for kind, parts in (("pipe", PIPE), ("http", HTTP)):
        data = b"".join(parts)
        assert play(kind, data, [1] * len(data)) == WHOLE[kind]
