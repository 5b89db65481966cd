"""The bodies of the fuzz targets for WebSocket; the rest is in `targets.py`, whose oracle holds here too.

Owns: what must hold for any input. Must never: raise for an input, unless a promise is broken. Beyond the
one sentence (nothing raises, cuts do not matter): where no bound is met, bare wsproto reads the same.
"""

from __future__ import annotations

from typing import Any, Literal

import wsproto.events as ws
from wsproto.connection import CLIENT, SERVER, Connection

from fuzz.targets import LIMITS, cut
from mcpgate_proto.entropy import Entropy
from mcpgate_proto.wire.http1 import Failed, HttpServerCodec, Phase, RequestHead, ResponseHead
from mcpgate_proto.wire.websocket import Binary, Closed, Pong, State, Text, WebSocketCodec
from mcpgate_proto.wire.websocket_handshake import (
    Accept,
    UpgradeReader,
    check_response,
    check_upgrade,
    upgrade_request,
)

SEED = bytes(32)
MESSAGE_BYTES = 400
FRAGMENTS = 6
CONTROL_FRAMES = 20

Role = Literal["client", "server"]


def fuzz_websocket(data: bytes) -> None:
    data, pieces = cut(data)
    for role in ("server", "client"):
        for closing in (False, True):
            whole = _talk(role, [data], closing)  # type: ignore[arg-type]
            assert whole == _talk(role, pieces, closing)  # type: ignore[arg-type]
        _check_peer_reads(role, _talk(role, [data], False)[1])  # type: ignore[arg-type]
        _compare(role, data)  # type: ignore[arg-type]


def _talk(role: Role, parts: list[bytes], closing: bool) -> tuple[list[Any], bytes]:
    """Read all, then echo all texts: where they stand among the pongs is up to when the owner sends them."""
    codec = WebSocketCodec(
        role,
        entropy=Entropy(SEED),
        max_message_bytes=MESSAGE_BYTES,
        max_fragments=FRAGMENTS,
        control_frames_per_s=CONTROL_FRAMES,
    )
    sent = codec.close(1001, "going") if closing else codec.ping(b"p")
    events: list[Any] = []
    for part in parts:
        for event in codec.receive(part, 7.0):
            assert not events or not isinstance(events[-1], Closed), "nothing follows Closed"
            events.append(event)
            if isinstance(event, Text):
                assert len(event.data) <= MESSAGE_BYTES
                str(event.data, "utf-8")
        assert codec.buffered <= MESSAGE_BYTES
    for event in events:
        if isinstance(event, Text):
            sent += codec.send_text(event.data)
    sent += codec.to_send()
    sent += codec.send_text(b"late")
    events += codec.receive_eof()
    assert codec.state is State.CLOSED
    assert isinstance(events[-1], Closed)
    assert codec.receive(b"\x81\x00", 8.0) == codec.receive_eof() == codec.to_send() == codec.close() == []
    return events, b"".join(sent)


def _check_peer_reads(role: Role, sent: bytes) -> None:
    """What we wrote is WebSocket to the other role of bare wsproto."""
    peer = Connection(CLIENT if role == "server" else SERVER)
    peer.receive_data(sent)
    for event in peer.events():
        if isinstance(event, ws.CloseConnection):
            assert peer.state.name == "REMOTE_CLOSING", event


def _compare(role: Role, data: bytes) -> None:
    """Without bounds, our scanner changes nothing but how early a fault is seen."""
    ours: list[tuple[str, Any]] = []
    codec = WebSocketCodec(
        role,
        entropy=Entropy(SEED),
        max_message_bytes=1 << 63,
        max_fragments=1 << 40,
        control_frames_per_s=1 << 40,
        binary=True,
    )
    for event in codec.receive(data, 0.0):
        match event:
            case Text(message) | Binary(message):
                ours.append(("message", message))
            case Pong(payload):
                ours.append(("pong", payload))
            case Closed(code, _, _):
                ours.append(("closed", code))
    theirs = _bare(role, data)
    if ours and ours[-1] == ("closed", 1002) and not (theirs and theirs[-1][0] == "closed"):
        ours.pop()
    assert ours == theirs, (ours, theirs)


def _bare(role: Role, data: bytes) -> list[tuple[str, Any]]:
    connection = Connection(CLIENT if role == "client" else SERVER)
    connection.receive_data(data)
    story: list[tuple[str, Any]] = []
    message = b""
    for event in connection.events():
        if isinstance(event, (ws.TextMessage, ws.BytesMessage)):
            message += event.data.encode() if isinstance(event, ws.TextMessage) else bytes(event.data)
            if event.message_finished:
                story.append(("message", message))
                message = b""
        elif isinstance(event, ws.Pong):
            story.append(("pong", bytes(event.payload)))
        elif isinstance(event, ws.CloseConnection):
            story.append(("closed", int(event.code)))
    return story


def fuzz_websocket_handshake(data: bytes) -> None:
    data, pieces = cut(data)
    assert _answer([data]) == _answer(pieces)
    assert _open([data]) == _open(pieces)


def _answer(parts: list[bytes]) -> list[Any]:
    """A server that upgrades whoever may be upgraded."""
    http = HttpServerCodec(LIMITS)
    for at, part in enumerate(parts):
        for event in http.receive(part):
            if not isinstance(event, RequestHead):
                return [event]
            verdict = check_upgrade(event)
            if not isinstance(verdict, Accept):
                if http.phase is Phase.RESPOND:
                    http.respond(verdict.status, verdict.headers, verdict.reason.encode(), close=True)
                return [event, verdict]
            assert event.upgrade
            assert verdict.response.isascii() and verdict.response.count(b"\r\n\r\n") == 1
            reader = UpgradeReader(LIMITS)
            head = reader.receive(verdict.response)
            assert isinstance(head, ResponseHead) and reader.rest == b""
            assert check_response(head, event.headers.get("sec-websocket-key") or "") is None
            return [event, verdict, http.take_trailing() + b"".join(parts[at + 1 :])]
    return []


def _open(parts: list[bytes]) -> list[Any]:
    """A client that reads the answer to its handshake."""
    _, key = upgrade_request("/mcp", "a", Entropy(SEED))
    reader = UpgradeReader(LIMITS)
    for at, part in enumerate(parts):
        head = reader.receive(part)
        if isinstance(head, Failed):
            assert reader.receive(b"x") is reader.receive_eof() is None
            return [head]
        if head is not None:
            return [head, check_response(head, key), reader.rest + b"".join(parts[at + 1 :])]
    return [reader.receive_eof()]


TARGETS = {"websocket": fuzz_websocket, "websocket_handshake": fuzz_websocket_handshake}
