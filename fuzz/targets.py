"""The bodies of the fuzz targets for the wire layer: plain functions over bytes.

Owns: what must hold for any input. Must never: raise for an input, unless a promise is broken. The oracle
is one sentence: no peer input makes a public method raise, and how the input is cut does not matter.
The first bytes of an input choose its cuts, so that a fuzzer can vary both.
"""

from __future__ import annotations

import json
from typing import Any

import h11

from mcpgate_proto.limits import Limits
from mcpgate_proto.wire import jsonrpc
from mcpgate_proto.wire.http1 import (
    Failed,
    HttpClientCodec,
    HttpServerCodec,
    Phase,
    Refused,
    ResponseData,
    ResponseEnd,
    ResponseHead,
)
from mcpgate_proto.wire.jsonrpc import ErrorReply, Malformed, Notification, Request, Result
from mcpgate_proto.wire.lines import LineDecoder, TooLong
from mcpgate_proto.wire.sse import SseDecoder, SseEvent, encode_event

# Small, so that an input of a few hundred bytes reaches every bound.
LIMITS = Limits(
    message_bytes=400,
    json_depth=6,
    batch_messages=4,
    head_bytes=300,
    head_fields=8,
    target_bytes=60,
    chunk_header_bytes=12,
    body_chunks=6,
    requests_per_connection=4,
)


def cut(data: bytes) -> tuple[bytes, list[bytes]]:
    """An input without its first two bytes, whole and in the pieces that they ask for."""
    first, second, data = data[:1], data[1:2], data[2:]
    sizes = (1 + (first[0] if first else 0) % 17, 1 + (second[0] if second else 0) % 41)
    pieces = []
    at = 0
    while at < len(data):
        step = sizes[len(pieces) % 2]
        pieces.append(data[at : at + step])
        at += step
    return data, pieces


def fuzz_jsonrpc(data: bytes) -> None:
    for batch in (False, True):
        for message in jsonrpc.decode(data, LIMITS, allow_batch=batch):
            if isinstance(message, Malformed):
                assert message.code in (jsonrpc.PARSE_ERROR, jsonrpc.INVALID_REQUEST)
                assert message.reason.isascii()
            else:
                _check_message(message)
    for reader in (jsonrpc.text, jsonrpc.integer, jsonrpc.boolean):
        reader(data)
    for strict in (jsonrpc.members, jsonrpc.plain):
        try:
            strict(data)
        except jsonrpc.JsonFault:
            pass


def _check_message(message: jsonrpc.Message) -> None:
    """What was accepted can be sent: one line of strict JSON, which reads as the same message."""
    match message:
        case Request(id, method, params):
            line = jsonrpc.encode_request(id, method, params)
        case Notification(method, params):
            line = jsonrpc.encode_notification(method, params)
        case Result(id, result):
            line = jsonrpc.encode_result(id, result)
        case ErrorReply(id, code, text, extra):
            line = jsonrpc.encode_error(id, code, text, extra)
    assert b"\n" not in line and b"\r" not in line
    # Escapes may have become shorter, but never the other way; room for members that were left out.
    again = jsonrpc.decode(line, Limits())
    assert again == [message], again
    value = json.loads(str(line, "utf-8"), parse_constant=_refuse, parse_int=str, parse_float=str)
    json.dumps(value, ensure_ascii=False).encode()


def _refuse(name: str) -> Any:
    raise AssertionError(f"{name} was let through")


def fuzz_lines(data: bytes) -> None:
    data, pieces = cut(data)
    seen = []
    for parts in ([data], pieces):
        decoder = LineDecoder(20)
        lines = [line for part in parts for line in decoder.receive(part)]
        assert decoder.buffered <= 21
        lines += decoder.receive_eof()
        seen.append(lines)
    assert seen[0] == seen[1]
    for line in seen[0]:
        assert isinstance(line, TooLong) or (0 < len(line) <= 20 and b"\n" not in line)


def fuzz_sse(data: bytes) -> None:
    data, pieces = cut(data)
    seen = []
    for parts in ([data], pieces):
        decoder = SseDecoder(40)
        items = [item for part in parts for item in decoder.receive(part)]
        assert decoder.buffered <= 41
        seen.append((items, decoder.last_event_id))
    assert seen[0] == seen[1]
    for item in seen[0][0]:
        if isinstance(item, SseEvent) and item.has_data:
            again = encode_event(item.data, event=item.event, id=item.id, retry_ms=item.retry_ms)
            assert SseDecoder(1000).receive(again) == [item]


def fuzz_http_server(data: bytes) -> None:
    data, pieces = cut(data)
    whole = _serve([data])
    assert whole == _serve(pieces)
    _peer_reads(whole[1])


def _serve(parts: list[bytes]) -> tuple[list[Any], bytes]:
    """Answer everything, in turn with a body and with a stream."""
    codec = HttpServerCodec(LIMITS)
    events: list[Any] = []
    sent: list[bytes] = []
    inputs = [lambda part=part: codec.receive(part) for part in parts]
    for take in [*inputs, codec.receive_eof]:
        new = take()
        while True:
            events += new
            if new and isinstance(new[-1], Refused):
                sent += codec.respond(new[-1].status, [], b"refused")
            if codec.phase is not Phase.RESPOND:
                break
            if len(events) % 2:
                sent += codec.respond(200, [("X-A", "b")], b"ok")
            else:
                sent += codec.begin(200, []) + codec.data(b"ok") + codec.end()
            new = codec.next()
        assert codec.buffered <= LIMITS.message_bytes + LIMITS.head_bytes
    refused = [event for event in events if isinstance(event, Refused)]
    assert len(refused) <= 1 and (not refused or codec.must_close)
    return events, b"".join(sent)


def _peer_reads(sent: bytes) -> None:
    """The first answer that we wrote is HTTP to h11."""
    if sent:
        peer = h11.Connection(h11.CLIENT)
        peer.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
        peer.send(h11.EndOfMessage())
        peer.receive_data(sent)
        assert isinstance(peer.next_event(), h11.Response)


def fuzz_http_client(data: bytes) -> None:
    data, pieces = cut(data)
    for method in ("POST", "HEAD"):
        assert _fetch([data], method) == _fetch(pieces, method)


def _fetch(parts: list[bytes], method: str) -> list[Any]:
    """The story of one response, with adjacent pieces of its body joined."""
    codec = HttpClientCodec(LIMITS)
    codec.request(method, "/", [("Host", "a")], b"" if method == "HEAD" else b"{}")
    story: list[Any] = []
    inputs = [lambda part=part: codec.receive(part) for part in parts]
    for take in [*inputs, codec.receive_eof]:
        for event in take():
            assert not story or not isinstance(story[-1], (ResponseEnd, Failed)), "nothing follows the end"
            if isinstance(event, ResponseData) and isinstance(story[-1], ResponseData):
                event = ResponseData(story.pop().data + event.data)
            assert isinstance(event, (ResponseHead, Failed)) or story
            story.append(event)
    assert not codec.reusable
    assert isinstance(story[-1], (ResponseEnd, Failed))
    return story


TARGETS = {
    "jsonrpc": fuzz_jsonrpc,
    "lines": fuzz_lines,
    "sse": fuzz_sse,
    "http_server": fuzz_http_server,
    "http_client": fuzz_http_client,
}
