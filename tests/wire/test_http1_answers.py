"""HTTP/1.1 answers: what is sent, as h11 reads it, and what becomes of the connection."""

from __future__ import annotations

import h11
import pytest
from appendix_b import chunks, get, length

from mcpgate_proto.errors import LocalProtocolError
from mcpgate_proto.limits import Limits
from mcpgate_proto.wire.http1 import (
    HttpServerCodec,
    Phase,
    Refused,
    RequestHead,
)

LIMITS = Limits()


def client(method: bytes = b"GET") -> h11.Connection:
    peer = h11.Connection(h11.CLIENT)
    peer.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    peer.send(h11.EndOfMessage())
    return peer


def seen_by_h11(sent: list[bytes], method: bytes = b"GET") -> tuple[int, bytes, bool]:
    peer = client(method)
    peer.receive_data(b"".join(sent))
    response = peer.next_event()
    assert isinstance(response, h11.Response)
    body = b""
    while isinstance(event := peer.next_event(), h11.Data):
        body += event.data
    return response.status_code, body, isinstance(event, h11.EndOfMessage)


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b"x" * 1000), (200, b""), (202, b""), (204, b""), (304, b""), (404, b"no"), (599, b"")],
)
def test_respond(status: int, body: bytes) -> None:
    codec = HttpServerCodec(LIMITS)
    codec.receive(get())
    sent = codec.respond(status, [("Content-Type", "text/plain")], body)
    assert seen_by_h11(sent) == (status, body, True)
    assert codec.phase is Phase.HEAD and not codec.must_close and codec.next() == []
    assert (b"Content-Length" in b"".join(sent)) == (status not in (204, 304))


def test_respond_to_head_request() -> None:
    codec = HttpServerCodec(LIMITS)
    codec.receive(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    sent = codec.respond(200, [], b"xyz")
    assert b"".join(sent).endswith(b"\r\n\r\n") and b"Content-Length: 3" in sent[0]
    assert seen_by_h11(sent, b"HEAD") == (200, b"", True)
    codec.receive(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert seen_by_h11(codec.begin(200, []) + codec.data(b"x") + codec.end(), b"HEAD") == (200, b"", True)
    assert codec.phase is Phase.HEAD


def test_a_head_request_leaves_no_trace() -> None:
    codec = HttpServerCodec(LIMITS)
    codec.receive(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    codec.respond(200, [], b"xyz")
    assert codec.receive(b"\x00") == [Refused(400, "not an HTTP message")]
    assert seen_by_h11(codec.respond(400, [], b"no")) == (400, b"no", True)


def test_stream() -> None:
    codec = HttpServerCodec(LIMITS)
    codec.receive(get())
    sent = codec.begin(200, [("Content-Type", "text/event-stream")])
    chunk = b"x" * 5000
    piece = codec.data(chunk)
    assert any(part is chunk for part in piece), "the data is not copied"
    assert codec.data(b"") == []
    assert seen_by_h11(sent + piece + codec.data(b"y") + codec.end()) == (200, chunk + b"y", True)
    assert codec.phase is Phase.HEAD and not codec.must_close
    with pytest.raises(LocalProtocolError):
        codec.data(b"x")
    with pytest.raises(LocalProtocolError):
        codec.end()


def test_stream_on_http10_ends_with_the_connection() -> None:
    codec = HttpServerCodec(LIMITS)
    codec.receive(get(version=b"1.0"))
    sent = codec.begin(200, []) + codec.data(b"abc") + codec.end()
    assert b"chunked" not in b"".join(sent) and b"".join(sent).endswith(b"\r\n\r\nabc")
    assert codec.must_close and codec.phase is Phase.CLOSING


def test_answering_before_the_body_has_arrived_ends_the_connection() -> None:
    codec = HttpServerCodec(LIMITS)
    [head] = codec.receive(length(b"100")[:-2])
    assert isinstance(head, RequestHead)
    sent = codec.respond(401, [("WWW-Authenticate", "Bearer")], b"no")
    assert b"Connection: close" in b"".join(sent) and codec.must_close and codec.phase is Phase.CLOSING
    assert codec.receive(b"x" * 100 + get()) == [] and codec.discarded == 100 + len(get())
    assert codec.next() == [] and codec.respond(200, []) == []


def test_an_event_that_was_overtaken_by_an_early_answer_does_no_harm() -> None:
    codec = HttpServerCodec(LIMITS)
    head, refused = codec.receive(chunks(b"zz\r\n"))
    assert isinstance(head, RequestHead) and isinstance(refused, Refused)
    assert codec.respond(401, [])
    assert codec.respond(refused.status, []) == []


def test_answering_during_the_head() -> None:
    codec = HttpServerCodec(LIMITS)
    assert not codec.head_started
    codec.receive(b"GET / HT")
    assert codec.head_started
    assert codec.respond(408, [])[0].startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert codec.phase is Phase.CLOSING and not codec.head_started


def test_close_and_reuse() -> None:
    codec = HttpServerCodec(LIMITS)
    codec.receive(get(more=b"Connection: close\r\n"))
    assert b"Connection: close" in codec.respond(200, [])[0] and codec.phase is Phase.CLOSING
    codec = HttpServerCodec(LIMITS)
    codec.receive(get())
    assert b"Connection: close" in codec.respond(200, [], close=True)[0] and codec.must_close
