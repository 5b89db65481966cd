"""WebSocket, row by row (docs/threats.md, 4), through a whole gateway. Frame by frame it is in tests/wire.

Must never: leave a door of HTTP untried here: an upgrade is a request like any other until its 101.
"""

from __future__ import annotations

import json
import time

import msgspec
import pytest

from fuzz.sim.scene import FAST, Scene
from fuzz.sim.sockets import frame
from mcpgate_proto.limits import Limits
from tests.threats.raw import LEGACY, MASK, MODERN_ERA, Raw, body_of, handshake, scene_of, serves, ws_open

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
CALL = json.dumps(body_of(name="echo", arguments={"nonce": "n"})).encode()


def opened(scene: Scene, *more: tuple[str, str]) -> Raw:
    raw = ws_open(scene, list(more))
    assert raw.interim == [101], raw.statuses
    return raw


def head(opcode: int, length: int, *, final: bool = True, masked: bool = True) -> bytes:
    """A frame header that declares whatever it likes."""
    first = bytes([(128 if final else 0) | opcode])
    mark = 128 if masked else 0
    if length < 126:
        size = bytes([mark | length])
    elif length < 65536:
        size = bytes([mark | 126]) + length.to_bytes(2, "big")
    else:
        size = bytes([mark | 127]) + length.to_bytes(8, "big")
    return first + size + (MASK if masked else b"")


def closed_with(raw: Raw, code: int) -> bool:
    return raw.close_code == code and raw.ended


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://evil.example", 403),
        ("https://evil.example", 403),
        ("null", 403),
        ("http://localhost:8080.evil.example", 403),
        ("http://127.0.0.1:8080@evil.example", 403),
        ("file://", 403),
        ("chrome-extension://abcdef", 403),
        ("", 403),
        ("http://127.0.0.1:8080", 101),
        ("http://localhost:3000", 101),
    ],
)
def test_t4_1_origins(origin: str, status: int) -> None:
    scene = scene_of(MODERN_ERA)
    raw = ws_open(scene, [("Origin", origin)])
    assert (raw.interim or raw.statuses) == [status]
    twice = ws_open(scene, [("Origin", "http://127.0.0.1:8080"), ("Origin", "http://127.0.0.1:8080")])
    assert twice.statuses == [403]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1:1", "0.0.0.0:8080", "localhost.evil.example"])
def test_t4_1_hosts(host: str) -> None:
    assert ws_open(scene_of(MODERN_ERA), [("Host", host)]).statuses == [403]


def test_t4_1_the_upgrade_is_at_one_path_and_only_where_it_is_on() -> None:
    scene = scene_of(MODERN_ERA)
    for path in ("/", "/ws", "/mcp/", "/messages", "/%6dcp"):
        raw = ws_open(scene, path=path)
        assert raw.interim == [] and raw.last.status in (404, 405), path
    off = Scene({"one": ("stdio", MODERN_ERA)}).start()
    assert ws_open(off).statuses == [400]


@pytest.mark.parametrize(
    "key",
    [
        "AAAA",
        "AAAAAAAAAAAAAAAAAAAAAA",
        "A" * 24,
        "A" * 4000,
        "",
        "!!!!!!!!!!!!!!!!!!!!!!==",
        "AAAAAAAAAAAAAAAAAAAAAB==",
    ],
)
def test_t4_2_keys(key: str) -> None:
    scene = scene_of(MODERN_ERA)
    assert ws_open(scene, [("Sec-WebSocket-Key", key)]).statuses == [400]
    two = ws_open(scene, [("Sec-WebSocket-Key", "A" * 22 + "=="), ("Sec-WebSocket-Key", "A" * 22 + "==")])
    assert two.statuses == [400]
    for version in ("12", "14", "13, 8", ""):
        assert ws_open(scene, [("Sec-WebSocket-Version", version)]).statuses == [426]


@pytest.mark.parametrize(
    "value", ["m\u00e7p", "mcp\x01", "mcp,mcp", "a b", "(x)", ",", "x" * 5000, ",".join("abcdefgh" * 9)]
)
def test_t4_3_hostile_subprotocols(value: str) -> None:
    scene = scene_of(MODERN_ERA)
    raw = ws_open(scene, [("Sec-WebSocket-Protocol", value)])
    assert raw.statuses == [400] and raw.interim == [] and serves(scene)


@pytest.mark.parametrize(
    ("offered", "chosen"), [("mcp", "mcp"), ("x, mcp", "mcp"), ("x", None), ("MCP", None), (None, None)]
)
def test_t4_4_subprotocols(offered: str | None, chosen: str | None) -> None:
    scene = scene_of(MODERN_ERA)
    raw = opened(scene, *([("Sec-WebSocket-Protocol", offered)] if offered else []))
    told = bytes(raw.sent_back).lower()
    assert (b"sec-websocket-protocol: mcp" in told) is (chosen is not None)
    assert told.count(b"sec-websocket-protocol") == (chosen is not None)


@pytest.mark.parametrize("length", [2**40, 2**63 - 1, Limits().message_bytes + 1])
def test_t4_5_declared_lengths(length: int) -> None:
    """Refused at its header: nothing of it is waited for or kept."""
    scene = scene_of(MODERN_ERA)
    raw = opened(scene).send(head(TEXT, length))
    assert closed_with(raw, 1009) and serves(scene)


def test_t4_5_fragments_add_up() -> None:
    scene = scene_of(MODERN_ERA, limits=msgspec.structs.replace(FAST, message_bytes=1000))
    raw = opened(scene)
    raw.send(head(TEXT, 600, final=False) + b"x" * 600)
    assert raw.close_code is None
    assert closed_with(raw.send(head(CONTINUATION, 401)), 1009)


def test_t4_6_fragment_floods() -> None:
    scene = scene_of(MODERN_ERA)
    begin = time.process_time()
    raw = opened(scene)
    raw.send(head(TEXT, 0, final=False) + head(CONTINUATION, 0, final=False) * 100_000)
    assert closed_with(raw, 1008) and serves(scene)
    assert time.process_time() - begin < 3


@pytest.mark.parametrize("opcode", [PING, PONG])
def test_t4_7_control_frame_floods(opcode: int) -> None:
    scene = scene_of(MODERN_ERA)
    begin = time.process_time()
    raw = opened(scene)
    raw.send(frame(opcode, b"x" * 100, MASK) * 100_000)
    assert closed_with(raw, 1008) and serves(scene)
    assert time.process_time() - begin < 3
    # Not an answer for each: they are coalesced, and bounded.
    assert len(raw.sent_back) < 20_000


def test_t4_7_pings_at_a_decent_rate() -> None:
    scene = scene_of(MODERN_ERA)
    raw = opened(scene)
    for number in range(300):
        raw.frame(PING, b"%d" % number, wait_s=0.05)
    assert raw.close_code is None and raw.frames[-1] == (PONG, b"299")


@pytest.mark.parametrize(
    "offer", ["permessage-deflate", "permessage-deflate; client_max_window_bits", "x-webkit-deflate-frame"]
)
def test_t4_8_no_compression(offer: str) -> None:
    scene = scene_of(MODERN_ERA)
    raw = opened(scene, ("Sec-WebSocket-Extensions", offer))
    assert b"extensions" not in bytes(raw.sent_back).lower()
    # Whoever compresses all the same has set a reserved bit.
    assert closed_with(raw.send(bytes([0xC1]) + head(TEXT, 3)[1:] + b"abc"), 1002)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (head(TEXT, 2, masked=False) + b"{}", 1002),
        (bytes([0x91]) + head(TEXT, 0)[1:], 1002),
        (bytes([0xA1]) + head(TEXT, 0)[1:], 1002),
        (head(3, 0), 1002),
        (head(11, 0), 1002),
        (head(PING, 126) + b"x" * 126, 1002),
        (head(PING, 0, final=False), 1002),
        (head(CONTINUATION, 0), 1002),
        (head(TEXT, 0, final=False) + head(TEXT, 0), 1002),
        (frame(TEXT, b"\xff\xfe", MASK), 1007),
        (frame(TEXT, b"\xed\xa0\x80", MASK), 1007),
        (frame(CLOSE, b"\x03", MASK), 1002),
        (frame(CLOSE, b"\x03\xed", MASK), 1002),
        (frame(CLOSE, b"\x03\xe8\xff", MASK), 1007),
    ],
)
def test_t4_9_the_protocol_is_kept(data: bytes, code: int) -> None:
    scene = scene_of(MODERN_ERA)
    raw = opened(scene).send(data)
    assert closed_with(raw, code)
    assert serves(scene)


def test_t4_10_binary_messages() -> None:
    scene = scene_of(MODERN_ERA)
    raw = opened(scene).send(frame(BINARY, CALL, MASK))
    assert closed_with(raw, 1003) and scene.only.calls == []


def test_t4_11_one_message_per_text() -> None:
    scene = scene_of(MODERN_ERA)
    raw = opened(scene)
    raw.frame(TEXT, b"{no json")
    raw.frame(TEXT, CALL + CALL)
    raw.frame(TEXT, b"[" + CALL + b"]")
    raw.frame(TEXT, CALL)
    assert [message.get("error", {}).get("code") for message in raw.texts] == [-32700, -32700, -32600, None]
    assert len(scene.only.calls) == 1 and raw.close_code is None
    for _ in range(Limits().ws_malformed):
        raw.frame(TEXT, b"{no json", wait_s=0.05)
    assert closed_with(raw, 1008) and serves(scene)


def test_t4_11_batches_where_the_revision_has_them() -> None:
    scene = scene_of(LEGACY)
    for version, fits in (("2025-03-26", True), ("2025-06-18", False)):
        raw = opened(scene)
        raw.frame(TEXT, handshake(version))
        raw.frame(TEXT, b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
        raw.frame(
            TEXT, b'[{"jsonrpc":"2.0","id":8,"method":"ping"},{"jsonrpc":"2.0","id":9,"method":"ping"}]'
        )
        assert isinstance(raw.texts[-1], list) is fits


def test_t4_12_nothing_of_a_url_is_a_credential() -> None:
    """A token in a URL ends up in logs and histories; here it opens nothing and is written nowhere."""
    scene = scene_of(MODERN_ERA)
    raw = ws_open(scene, path="/mcp?access_token=SECRETSECRET&token=SECRETSECRET")
    assert raw.interim == [101]
    raw.frame(TEXT, CALL)
    assert b"SECRETSECRET" not in raw.sent_back
    assert not any("SECRETSECRET" in str(record.fields) for record in scene.world.records)


def test_t4_13_closing_handshake() -> None:
    scene = scene_of(MODERN_ERA)
    raw = opened(scene)
    raw.frame(TEXT, CALL)
    raw.frame(CLOSE, (1000).to_bytes(2, "big"))
    # RFC 6455 7.1.1: our Close goes back, then the server ends the connection first.
    assert closed_with(raw, 1000) and raw.texts[0]["id"] == 1


def test_t4_13_a_peer_that_never_closes_is_cut() -> None:
    scene = scene_of(MODERN_ERA)
    raw = opened(scene)
    scene.world.feed("shutdown", 0.0)
    scene.run(Limits().close_timeout_s + 1)
    assert raw.close_code == 1001 and raw.ended


def test_t4_13_a_silent_peer_is_cut() -> None:
    """Nobody answers its pings: a connection that is half gone does not stay for ever."""
    scene = scene_of(MODERN_ERA)
    raw = opened(scene)
    scene.run(70.0)
    assert raw.frames[0][0] == PING and closed_with(raw, 1011)
