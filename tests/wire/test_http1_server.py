"""HTTP/1.1 requests: threats.md section 3 row by row, and its appendix B replayed in every chunking."""

from __future__ import annotations

import time

import h11
import pytest
from appendix_b import APPENDIX_B, chunks, field, get, host, length, post
from hypothesis import given
from hypothesis import strategies as st
from pieces import cut_by, every_cut

from mcpgate_proto.errors import LocalProtocolError
from mcpgate_proto.limits import Limits
from mcpgate_proto.wire.http1 import (
    Aborted,
    Headers,
    HttpServerCodec,
    PeerClosed,
    Phase,
    Refused,
    RequestBody,
    RequestHead,
    ServerEvent,
)

LIMITS = Limits()
Run = tuple[list[ServerEvent], bytes]


def serve(pieces: list[bytes], limits: Limits = LIMITS) -> Run:
    """Answer all that comes in and note events and output."""
    codec = HttpServerCodec(limits)
    events: list[ServerEvent] = []
    sent: list[bytes] = []

    def work(new: list[ServerEvent]) -> None:
        while True:
            events.extend(new)
            if new and isinstance(new[-1], Refused):
                sent.extend(codec.respond(new[-1].status, [], b"no"))
            if codec.phase is not Phase.RESPOND:
                return
            sent.extend(codec.respond(200, [("X-A", "b")], b"ok"))
            new = codec.next()

    for piece in pieces:
        work(codec.receive(piece))
    work(codec.receive_eof())
    return events, b"".join(sent)


def refusals(run: Run) -> list[int]:
    return [event.status for event in run[0] if isinstance(event, Refused)]


@pytest.mark.parametrize(
    ("data", "status"), [row[1:] for row in APPENDIX_B], ids=[row[0] for row in APPENDIX_B]
)
def test_appendix_b(data: bytes, status: int) -> None:
    expected = serve([data])
    assert refusals(expected) == ([status] if status else [])
    assert status or any(isinstance(event, RequestHead) for event in expected[0])
    for pieces in every_cut(data, splits=300 if len(data) < 2000 else 12):
        assert serve(pieces) == expected


# Two of them have no end behind which a request could stand.
ENDED = [row for row in APPENDIX_B if row[0] not in ("HTTP/0.9", "20KB one header, no end")]


@pytest.mark.parametrize(("data", "status"), [row[1:] for row in ENDED], ids=[row[0] for row in ENDED])
def test_appendix_b_with_a_request_behind(data: bytes, status: int) -> None:
    events, sent = serve([data + get(b"/behind")])
    paths = [event.path for event in events if isinstance(event, RequestHead)]
    closing = b"Connection: close" in sent
    assert ("/behind" in paths) == (not closing)
    if status:
        assert closing and sent.startswith(b"HTTP/1.1 %d " % status) and "/behind" not in paths


# ------------------------------------------------------------- threats.md 3, the table of what h11 accepts


def only(data: bytes, limits: Limits = LIMITS) -> ServerEvent:
    return HttpServerCodec(limits).receive(data)[-1]


def status_of(data: bytes, limits: Limits = LIMITS) -> int | None:
    event = only(data, limits)
    return event.status if isinstance(event, Refused) else None


def test_row_content_length_with_transfer_encoding_must_close() -> None:
    codec = HttpServerCodec(LIMITS)
    [refused] = codec.receive(post(b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\nG"))
    assert refused == Refused(400, "both Content-Length and Transfer-Encoding")
    assert b"Connection: close" in b"".join(codec.respond(400, [])) and codec.must_close
    assert codec.receive(get()) == [] and codec.discarded == len(get())


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/mcp", "/mcp", ""),
        (b"/", "/", ""),
        (b"/a/b?x=1&y=%20?/", "/a/b", "x=1&y=%20?/"),
        (b"/?", "/", ""),
        (b"//evil/mcp", "//evil/mcp", ""),
        (b"http://a/mcp?x", "/mcp", "x"),
        (b"HTTPS://A", "/", ""),
        (b"http://a?x", "/", "x"),
    ],
)
def test_row_targets(target: bytes, path: str, query: str) -> None:
    event = only(get(target))
    assert isinstance(event, RequestHead)
    assert (event.target, event.path, event.query) == (target.decode(), path, query)


@pytest.mark.parametrize(
    "target",
    [
        b"http://b/",
        b"http://u@a/",
        b"http://a:80/",
        b"http:///x",
        b"ftp://a/",
        b"a:80",
        b"*",
        b"?x",
        b"/%",
        b"/%1",
        b"/\\",
        b'/"',
    ]
    + [b"/{}", b"/a|b", b"/[x]", b"http://a/x#y", b"http://a#y", b"/x?#", b"/^", b"/`"],
)
def test_row_targets_refused(target: bytes) -> None:
    assert status_of(get(target)) == 400


@pytest.mark.parametrize(
    "value", [b"a", b"a.b-c_d:1", b"127.0.0.1:65535", b"[::1]", b"[::1]:80", b"[::ffff:1.2.3.4]", b" a\t "]
)
def test_row_host(value: bytes) -> None:
    assert status_of(host(value)) is None


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"a b",
        b"a,b",
        b"a@b",
        b"a/",
        b"a:",
        b"a:x",
        b"a:123456",
        b"::1",
        b"[::1",
        b"[::1]x",
        b"[a]:b",
        b"%61",
        b"a?",
        b"a#",
        b":80",
        b"[]",
    ],
)
def test_row_host_refused(value: bytes) -> None:
    assert status_of(host(value)) == 400


@pytest.mark.parametrize("code", [*range(0x20), 0x7F, 0x80, 0xFF])
def test_row_controls_in_values(code: int) -> None:
    assert status_of(field(b"X: a%cb" % code)) == 400


def test_row_methods() -> None:
    for method in (b"POST", b"GET", b"DELETE", b"OPTIONS", b"HEAD", b"PUT", b"PATCH"):
        assert isinstance(only(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n"), RequestHead)
    for method in (b"TRACE", b"CONNECT", b"Post", b"M-SEARCH", b"x" * 100):
        assert status_of(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n") == 501


def test_row_head_limits() -> None:
    limits = Limits(head_bytes=200, head_fields=3, target_bytes=100)
    assert status_of(get(more=b"A: b\r\nA: c\r\n"), limits) is None
    assert status_of(get(more=b"A: b\r\nA: c\r\nA: d\r\n"), limits) == 431
    fits = get(more=b"X: " + b"a" * (200 - len(get()) - 5) + b"\r\n")
    assert len(fits) == 200 and status_of(fits, limits) is None
    assert status_of(fits.replace(b"X: ", b"X:  "), limits) == 431
    assert status_of(get(b"/" + b"a" * 99), limits) is None
    assert status_of(get(b"/" + b"a" * 100), limits) == 414
    # A configuration with room for a longer target than for a head.
    assert status_of(get(b"/" + b"a" * 300), Limits(head_bytes=200)) == 431


def test_row_head_limits_hold_before_the_head_ends() -> None:
    for data, status in ((b"GET /" + b"a" * 9000, 414), (get()[:-2] + b"X: " + b"a" * 17000, 431)):
        assert status_of(data) == status
    for first in (b"\x16", b"\r", b"\n", b" ", b"\x00", b"{"):
        assert status_of(first) == 400
    assert status_of(b"GET / HTTP/1.1\r\nHost: a\n") == 400
    assert status_of(b"SSH-2.0-x\r\n") == 400


def test_row_a_huge_head_costs_little() -> None:
    start = time.process_time()
    assert status_of(post(b"a: b\r\n" * 100_000)) == 431
    assert time.process_time() - start < 0.1


def test_row_chunk_extensions_and_trailers() -> None:
    limits = Limits(chunk_header_bytes=20, head_bytes=100, head_fields=4)
    head = chunks(b"")
    assert len(head) <= 100
    codec = HttpServerCodec(limits)
    events = codec.receive(head + b"2;" + b"x" * 16 + b"\r\n{}\r\n0\r\nHost: evil\r\nX: y\r\n\r\n")
    assert isinstance(events[0], RequestHead) and events[0].headers.get("host") == "a"
    assert events[1] == RequestBody(b"{}") and "x" not in events[0].headers
    assert status_of(head + b"2;" + b"x" * 17 + b"\r\n", limits) == 400
    assert status_of(head + b"2;" + b"x" * 19, limits) == 400
    assert status_of(head + b"0\r\n" + b"X: y\r\n" * 5, limits) == 431
    assert status_of(head + b"0\r\nX: " + b"y" * 100, limits) == 431
    assert status_of(head + b"0\r\nX\r\n\r\n", limits) == 400


def test_row_sizes_are_refused_before_they_are_waited_for() -> None:
    limits = Limits(message_bytes=10)
    assert status_of(length(b"11"), limits) == 413
    assert status_of(post(b"Content-Length: 11\r\n"), limits) == 413
    assert status_of(length(b"10"), limits) is None
    assert status_of(chunks(b"a\r\n"), limits) is None
    assert status_of(chunks(b"b\r\n"), limits) == 413
    assert status_of(chunks(b"6\r\n123456\r\n5\r\n"), limits) == 413
    assert status_of(chunks(b"ffffffffffffffff\r\n"), limits) == 413


def test_row_chunk_count() -> None:
    limits = Limits(body_chunks=3)
    assert only(chunks(b"1\r\nx\r\n" * 3 + b"0\r\n\r\n"), limits) == RequestBody(b"xxx")
    assert status_of(chunks(b"1\r\nx\r\n" * 4), limits) == 413
    start = time.process_time()
    assert status_of(chunks(b"1\r\nx\r\n" * 20_000)) == 413
    assert time.process_time() - start < 1


def test_row_expect() -> None:
    codec = HttpServerCodec(LIMITS)
    [head] = codec.receive(post(b"Expect: 100-Continue\r\nContent-Length: 2\r\n"))
    assert isinstance(head, RequestHead) and head.expects_continue
    assert codec.continue_() == [b"HTTP/1.1 100 Continue\r\n\r\n"]
    assert codec.continue_() == []
    assert codec.receive(b"{}") == [RequestBody(b"{}")]
    # Who has begun to send does not wait; HTTP/1.0 does not know it; no body, nothing to wait for.
    codec = HttpServerCodec(LIMITS)
    codec.receive(post(b"Expect: 100-continue\r\nContent-Length: 2\r\n", b"{"))
    assert codec.continue_() == []
    for data in (
        post(b"Expect: 100-continue\r\nContent-Length: 2\r\n", line=b"POST / HTTP/1.0"),
        get(more=b"Expect: 100-continue\r\n"),
    ):
        codec = HttpServerCodec(LIMITS)
        [head] = codec.receive(data)
        assert isinstance(head, RequestHead) and not head.expects_continue and codec.continue_() == []


def test_row_pipelining_is_held_back_and_bounded() -> None:
    limits = Limits(message_bytes=100, head_bytes=100)
    codec = HttpServerCodec(limits)
    assert len(codec.receive(get(b"/1") + get(b"/2"))) == 1
    assert codec.receive(get(b"/3")) == [] and codec.buffered == len(get(b"/2")) * 2
    codec.respond(200, [])
    for path in ("/2", "/3"):
        [head] = codec.next()
        assert isinstance(head, RequestHead) and head.path == path
        codec.respond(200, [])
    assert codec.next() == [] and codec.buffered == 0 and not codec.must_close
    codec.receive(get())
    codec.receive(b"x" * 201)
    assert codec.buffered == 0 and codec.must_close and codec.discarded == 201
    assert b"Connection: close" in codec.respond(200, [])[0]


def test_row_pipelining_costs_what_it_is_long() -> None:
    codec = HttpServerCodec(LIMITS)
    count = 5000
    start = time.process_time()
    events = codec.receive(get() * count + b"x" * 10**7)
    for _ in range(count - 1):
        codec.respond(200, [])
        events += codec.next()
    assert len(events) == count and time.process_time() - start < 3


def test_row_requests_per_connection() -> None:
    codec = HttpServerCodec(Limits(requests_per_connection=2))
    for last in (False, True):
        codec.receive(get())
        assert (b"Connection: close" in codec.respond(200, [])[0]) == last == codec.must_close


def test_row_response_splitting() -> None:
    for headers in (
        [("X", "a\r\nY: b")],
        [("X\r\nY", "b")],
        [("X", "a\nb")],
        [("X", "\x00")],
        [("X", "é")],
        [("é", "x")],
    ):
        codec = HttpServerCodec(LIMITS)
        codec.receive(get())
        with pytest.raises(LocalProtocolError):
            codec.respond(200, headers)


@pytest.mark.parametrize("name", ["Content-Length", "transfer-encoding", "Connection"])
def test_framing_headers_belong_to_the_codec(name: str) -> None:
    codec = HttpServerCodec(LIMITS)
    codec.receive(get())
    with pytest.raises(LocalProtocolError):
        codec.respond(200, [(name, "1")])


def test_answers_out_of_turn() -> None:
    codec = HttpServerCodec(LIMITS)
    with pytest.raises(LocalProtocolError):
        codec.begin(200, [])
    codec.receive(get())
    for status in (100, 199, 600):
        with pytest.raises(LocalProtocolError):
            HttpServerCodec(LIMITS).respond(status, [])
    with pytest.raises(LocalProtocolError):
        codec.begin(204, [])
    codec.begin(200, [])
    for again in (codec.respond, codec.begin):
        with pytest.raises(LocalProtocolError):
            again(200, [])
    codec = HttpServerCodec(LIMITS)
    codec.receive(get())
    with pytest.raises(LocalProtocolError):
        codec.respond(204, [], b"x")


# --------------------------------------------------------------------------------- requests as they are


def test_request_head() -> None:
    data = post(b"X-One: 1\r\nx-one:  2 \r\nEmpty:\r\nContent-Length: 2\r\n", b"{}", b"POST /mcp?q HTTP/1.1")
    head, body = HttpServerCodec(LIMITS).receive(data)
    assert isinstance(head, RequestHead) and body == RequestBody(b"{}")
    assert (head.method, head.path, head.query, head.version) == ("POST", "/mcp", "q", "1.1")
    assert head.content_length == 2 and head.has_body and not head.upgrade and not head.expects_continue
    headers = head.headers
    assert headers.get("X-ONE") == "1, 2" and headers.get_all("x-one") == ["1", "2"]
    assert headers.get("empty") == "" and headers.get("absent") is None and headers.get_all("absent") == []
    assert "Host" in headers and "absent" not in headers and len(headers) == 5
    assert list(headers)[0] == ("host", "a")
    assert headers == Headers(tuple(headers)) and hash(headers) == hash(Headers(tuple(headers)))
    assert "x-one" in repr(headers)
    assert Headers((("a", "X, ,y"), ("a", "z"))).tokens("A") == ["x", "y", "z"]


def test_bodies() -> None:
    assert HttpServerCodec(LIMITS).receive(post(b"Content-Length: 0\r\n"))[1:] == []
    assert HttpServerCodec(LIMITS).receive(chunks(b"0\r\n\r\n"))[1:] == [RequestBody(b"")]
    codec = HttpServerCodec(LIMITS)
    codec.receive(chunks(b"3\r\nabc\r\n3\r\nd"))
    assert codec.phase is Phase.BODY and codec.body_bytes == 12
    assert codec.receive(b"ef\r\n0\r\n\r\n") == [RequestBody(b"abcdef")]


@pytest.mark.parametrize(
    ("more", "line", "expected"),
    [
        (b"Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n", b"GET / HTTP/1.1", True),
        (b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"GET / HTTP/1.1", False),
        (b"Upgrade: websocket\r\n", b"GET / HTTP/1.1", False),
        (b"Connection: upgrade\r\nUpgrade: websocket\r\n", b"POST / HTTP/1.1", False),
        (b"Connection: upgrade\r\nUpgrade: websocket\r\n", b"GET / HTTP/1.0", False),
        (b"Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n", b"GET / HTTP/1.1", False),
    ],
)
def test_upgrade(more: bytes, line: bytes, expected: bool) -> None:
    codec = HttpServerCodec(LIMITS)
    [head] = codec.receive(post(more, line=line))
    assert isinstance(head, RequestHead) and head.upgrade is expected
    if expected:
        assert codec.receive(b"\x81\x80") == []
        assert codec.take_trailing() == b"\x81\x80" and codec.phase is Phase.CLOSED
        assert codec.receive(b"x") == [] and codec.receive_eof() == [] and codec.respond(400, []) == []


def test_a_declined_upgrade_is_an_ordinary_request() -> None:
    codec = HttpServerCodec(LIMITS)
    codec.receive(get(more=b"Connection: upgrade\r\nUpgrade: websocket\r\n") + get(b"/2"))
    assert codec.respond(403, []) and not codec.must_close
    [head] = codec.next()
    assert isinstance(head, RequestHead) and head.path == "/2"
    codec.respond(200, [])
    with pytest.raises(LocalProtocolError):
        codec.take_trailing()


# ------------------------------------------------------------------------------------------------- eof


def test_eof() -> None:
    for data, expected in (
        (b"", PeerClosed()),
        (b"GET", Aborted()),
        (length(b"3"), Aborted()),
        (chunks(b"2\r\n"), Aborted()),
        (get(), PeerClosed()),
    ):
        codec = HttpServerCodec(LIMITS)
        codec.receive(data)
        assert codec.receive_eof() == [expected]
        assert codec.receive_eof() == []
        if data == get():
            # The peer may have closed one direction only: it gets its answer, and the connection ends.
            assert codec.phase is Phase.RESPOND
            assert b"Connection: close" in codec.respond(200, [])[0]
        assert codec.phase is Phase.CLOSED and codec.must_close


def test_eof_behind_pipelined_requests() -> None:
    codec = HttpServerCodec(LIMITS)
    codec.receive(get(b"/1") + get(b"/2") + b"GE")
    assert codec.receive_eof() == []
    codec.respond(200, [])
    assert len(codec.next()) == 1
    codec.respond(200, [])
    assert codec.next() == [Aborted()] and codec.phase is Phase.CLOSED
    codec = HttpServerCodec(LIMITS)
    codec.receive(get(b"/1") + get(b"/2"))
    codec.receive_eof()
    codec.respond(200, [])
    head, closed = codec.next()
    assert isinstance(head, RequestHead) and closed == PeerClosed()


def test_eof_after_a_refusal() -> None:
    codec = HttpServerCodec(LIMITS)
    codec.receive(b"\x00")
    assert codec.receive_eof() == [PeerClosed()]
    assert codec.respond(400, []) and codec.phase is Phase.CLOSED
    codec = HttpServerCodec(LIMITS)
    codec.receive(b"\x00")
    codec.respond(400, [])
    assert codec.phase is Phase.CLOSING
    codec.receive_eof()
    assert codec.phase is Phase.CLOSED


# ------------------------------------------------------------------------------------------ properties

TOKENS = st.sampled_from(
    [
        b"GET ",
        b"POST ",
        b"/mcp ",
        b"HTTP/1.1\r\n",
        b"Host: a\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"Content-Length: 3\r\n",
        b"abc",
    ]
    + [
        b"Transfer-Encoding: chunked\r\n",
        b"3\r\nabc\r\n",
        b"0\r\n",
        b"0\r\n\r\n",
        b" ",
        b":",
        b"X: y\r\n",
        b"X:\ty \r\n",
        b"\x00",
    ]
    + [
        get(),
        get(),
        post(b"Content-Length: 3\r\n", b"abc"),
        chunks(b"3;x\r\nabc\r\n0\r\n\r\n"),
        b"Expect: 100-continue\r\n",
    ]
    + [b"Connection: close\r\n", get(version=b"1.0"), b"a" * 40, b"Upgrade: websocket\r\n", b"HTTP/1.0\r\n"]
)
SMALL = Limits(
    message_bytes=12, head_bytes=120, head_fields=4, target_bytes=30, chunk_header_bytes=6, body_chunks=2
)


@given(st.lists(TOKENS, max_size=10).map(b"".join), st.lists(st.integers(1, 9), max_size=4), st.booleans())
def test_cuts_do_not_matter(data: bytes, sizes: list[int], small: bool) -> None:
    limits = SMALL if small else LIMITS
    assert serve(cut_by(data, sizes), limits) == serve([data], limits)


@given(st.binary(max_size=60), st.lists(st.integers(1, 9), max_size=4))
def test_never_raises(data: bytes, sizes: list[int]) -> None:
    assert serve(cut_by(data, sizes)) == serve([data])


HEADER = st.tuples(
    st.text(alphabet="abcXYZ-09!~", min_size=1, max_size=8).filter(lambda n: n.lower() not in ("host",)),
    st.text(alphabet=[chr(c) for c in range(33, 127)], max_size=8),
)


@given(
    st.sampled_from(["GET", "POST", "DELETE"]),
    st.lists(HEADER, max_size=5),
    st.binary(max_size=40),
    st.booleans(),
)
def test_what_h11_writes_is_read(
    method: str, headers: list[tuple[str, str]], body: bytes, chunked: bool
) -> None:
    peer = h11.Connection(h11.CLIENT)
    framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(len(body)))
    data = (
        peer.send(h11.Request(method=method, target="/x", headers=[("Host", "a"), *headers, framing])) or b""
    )
    data += (peer.send(h11.Data(data=body)) or b"") + (peer.send(h11.EndOfMessage()) or b"")
    head, *rest = HttpServerCodec(LIMITS).receive(data)
    assert isinstance(head, RequestHead) and head.method == method
    assert list(head.headers)[1:-1] == [(name.lower(), value) for name, value in headers]
    assert rest == ([RequestBody(body)] if chunked or body else [])
