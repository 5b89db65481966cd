"""HTTP/1.1 responses: the limits of threats.md section 3 in the other direction."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pieces import cut_by, every_cut

from mcpgate_proto.errors import LocalProtocolError
from mcpgate_proto.limits import Limits
from mcpgate_proto.wire.http1 import (
    ClientEvent,
    Failed,
    Headers,
    HttpClientCodec,
    HttpServerCodec,
    RequestBody,
    ResponseData,
    ResponseEnd,
    ResponseHead,
)

LIMITS = Limits()
HOST = [("Host", "a")]
# (status, body, how it ended, whether the connection can be used again before the server closes it)
Outcome = tuple[int | None, bytes, str, bool]


def fetch(pieces: list[bytes], limits: Limits = LIMITS, method: str = "POST") -> Outcome:
    codec = HttpClientCodec(limits)
    codec.request(method, "/mcp", HOST)
    events: list[ClientEvent] = []
    for piece in pieces:
        events += codec.receive(piece)
    reusable = codec.reusable
    events += codec.receive_eof()
    assert not codec.reusable
    return (*told(events), reusable)


def told(events: list[ClientEvent]) -> tuple[int | None, bytes, str]:
    """The story of one response; checks that its events come in order."""
    status, body, end = None, b"", ""
    for event in events:
        assert not end
        if isinstance(event, ResponseHead):
            assert status is None
            status = event.status
        elif isinstance(event, ResponseData):
            assert status is not None and event.data
            body += event.data
        else:
            end = event.reason if isinstance(event, Failed) else "end"
    return status, body, end


def response(
    more: bytes = b"", body: bytes = b"", status: bytes = b"200 OK", version: bytes = b"1.1"
) -> bytes:
    return b"HTTP/" + version + b" " + status + b"\r\n" + more + b"\r\n" + body


def length(value: bytes, body: bytes = b"ok", **kw: bytes) -> bytes:
    return response(b"Content-Length: " + value + b"\r\n", body, **kw)


CHUNKED = b"Transfer-Encoding: chunked\r\n"
CUT = "the connection ended before the response did"
LONG = "the body is larger than 16777216 bytes"
TABLE: list[tuple[str, bytes, Outcome]] = [
    ("length", length(b"2"), (200, b"ok", "end", True)),
    ("zero length", length(b"0", b""), (200, b"", "end", True)),
    ("no reason", length(b"2", status=b"200"), (200, b"ok", "end", True)),
    ("strange reason", length(b"2", status=b"299 \xe9\tx"), (299, b"ok", "end", True)),
    ("chunked", response(CHUNKED, b"2\r\nok\r\n1;x=y\r\n!\r\n0\r\nX: y\r\n\r\n"), (200, b"ok!", "end", True)),
    ("until close", response(b"", b"ok"), (200, b"ok", "end", False)),
    ("until close, empty", response(), (200, b"", "end", False)),
    ("HTTP/1.0", length(b"2", version=b"1.0"), (200, b"ok", "end", False)),
    ("Connection: close", length(b"2\r\nConnection: x, Close"), (200, b"ok", "end", False)),
    (
        "interim",
        response(status=b"100 Continue") + response(b"Link: x\r\n", status=b"103 x") + length(b"2"),
        (200, b"ok", "end", True),
    ),
    ("204", response(status=b"204 No Content"), (204, b"", "end", True)),
    ("204 with length 0", length(b"0", b"", status=b"204 x"), (204, b"", "end", True)),
    ("304 with length", length(b"7", b"", status=b"304 x"), (304, b"", "end", True)),
    ("identity", length(b"2\r\nContent-Encoding: identity"), (200, b"ok", "end", True)),
    ("obs-text and tab in a value", length(b"2\r\nX: \xff\ty"), (200, b"ok", "end", True)),
    ("underscore in a name", length(b"2\r\nX_Y: z"), (200, b"ok", "end", True)),
    ("more than asked for", length(b"2", b"okX"), (200, b"ok", "end", False)),
    ("204 with a body", response(status=b"204 x") + b"x", (204, b"", "end", False)),
    ("304 with a body", length(b"1", b"x", status=b"304 x"), (304, b"", "end", False)),
    ("nothing", b"", (None, b"", CUT, False)),
    ("head cut", b"HTTP/1.1 200 OK\r\n", (None, b"", CUT, False)),
    ("length cut", length(b"3"), (200, b"ok", CUT, False)),
    ("chunk cut", response(CHUNKED, b"3\r\nok"), (200, b"ok", CUT, False)),
    ("chunks cut", response(CHUNKED, b"2\r\nok\r\n"), (200, b"ok", CUT, False)),
    ("trailers cut", response(CHUNKED, b"2\r\nok\r\n0\r\n"), (200, b"ok", CUT, False)),
    (
        "CL+TE",
        response(CHUNKED + b"Content-Length: 2\r\n", b"0\r\n\r\n"),
        (None, b"", "both Content-Length and Transfer-Encoding", False),
    ),
    ("two CL", length(b"2\r\nContent-Length: 2"), (None, b"", "not one valid Content-Length", False)),
    ("CL list", length(b"2, 2"), (None, b"", "not one valid Content-Length", False)),
    ("CL sign", length(b"+2"), (None, b"", "not one valid Content-Length", False)),
    ("CL huge", length(b"9" * 20), (None, b"", LONG, False)),
    (
        "TE gzip",
        response(b"Transfer-Encoding: gzip, chunked\r\n"),
        (None, b"", "a transfer coding other than chunked", False),
    ),
    ("TE on 1.0", response(CHUNKED, version=b"1.0"), (None, b"", "Transfer-Encoding in HTTP/1.0", False)),
    ("obs-fold", length(b"2\r\nX: y\r\n z"), (None, b"", "a folded header line", False)),
    (
        "bare LF",
        length(b"2").replace(b"\r\n", b"\n"),
        (None, b"", "a line of the head ends without CR", False),
    ),
    ("bare LF in a field", length(b"2\nX: y"), (None, b"", "a line of the head ends without CR", False)),
    ("control", length(b"2\r\nX: \x1b[31m"), (None, b"", "a header value with control characters", False)),
    ("no colon", length(b"2\r\nX"), (None, b"", "a header line without a colon", False)),
    ("space before colon", length(b"2\r\nX : y"), (None, b"", "a header name that is not a token", False)),
    (
        "many fields",
        length(b"2\r\n" + b"A: b\r\n" * 100 + b"C: d"),
        (None, b"", "the head has more than 100 fields", False),
    ),
    (
        "large head",
        length(b"2\r\nX: " + b"y" * 17000),
        (None, b"", "the head is larger than 16384 bytes", False),
    ),
    (
        "endless head",
        response(b"X: " + b"y" * 17000)[:-4],
        (None, b"", "the head is larger than 16384 bytes", False),
    ),
    ("endless status line", b"HTTP/1.1 200 " + b"x" * 9000, (None, b"", "the start line is too long", False)),
    ("not HTTP", b"\x15\x03\x03\x00\x02\x02\x46", (None, b"", "not an HTTP message", False)),
    ("HTTP/2.0", length(b"2", version=b"2.0"), (None, b"", "a status line that is not valid", False)),
    ("status 600", length(b"2", status=b"600 x"), (None, b"", "a status line that is not valid", False)),
    ("status 20", length(b"2", status=b"20 x"), (None, b"", "a status line that is not valid", False)),
    ("SSH", b"SSH-2.0-x\r\n", (None, b"", "a status line that is not valid", False)),
    ("1xx flood", response(status=b"102 x") * 9, (None, b"", "too many interim responses", False)),
    ("1xx with a body", length(b"2", status=b"100 x"), (None, b"", "an interim response with a body", False)),
    (
        "101",
        response(b"Connection: upgrade\r\nUpgrade: x\r\n", status=b"101 x"),
        (None, b"", "an upgrade that was not asked for", False),
    ),
    ("204 with CL", length(b"2", status=b"204 x"), (None, b"", "a 204 response with a body", False)),
    (
        "204 with TE",
        response(CHUNKED, b"0\r\n\r\n", status=b"204 x"),
        (None, b"", "a 204 response with a body", False),
    ),
    (
        "gzip",
        length(b"2\r\nContent-Encoding: gzip"),
        (None, b"", "a content coding that was not asked for", False),
    ),
    (
        "chunk size",
        response(CHUNKED, b"2\r\nok\r\n-1\r\n"),
        (200, b"ok", "a chunk header that is not valid", False),
    ),
    (
        "chunk end",
        response(CHUNKED, b"2\r\nokXX"),
        (200, b"ok", "a chunk that does not end where its size says", False),
    ),
    ("chunk too large", response(CHUNKED, b"2\r\nok\r\nfffffff\r\nx"), (200, b"ok", LONG, False)),
    (
        "chunk extension",
        response(CHUNKED, b"2\r\nok\r\n2;" + b"x" * 300),
        (200, b"ok", "a chunk header that is too long", False),
    ),
]


@pytest.mark.parametrize(("data", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_table(data: bytes, expected: Outcome) -> None:
    for pieces in every_cut(data, splits=200 if len(data) < 2000 else 12):
        assert fetch(pieces) == expected


# Where the end of the connection ended it, a tail would be part of the response.
ENDED = [row for row in TABLE if row[2][3] or row[2][2] not in (CUT, "end")]


@pytest.mark.parametrize(("data", "expected"), [row[1:] for row in ENDED], ids=[row[0] for row in ENDED])
def test_trailing_bytes_end_the_connection(data: bytes, expected: Outcome) -> None:
    assert fetch([data + b"HTTP/1.1 200 OK\r\n\r\n"]) == (*expected[:3], False)


def test_head_responses_have_no_body() -> None:
    assert fetch([length(b"2", b"")], method="HEAD") == (200, b"", "end", True)
    assert fetch([response(CHUNKED)], method="HEAD") == (200, b"", "end", True)


def test_body_limits() -> None:
    limits = Limits(message_bytes=4, body_chunks=2)
    long = "the body is larger than 4 bytes"
    cases = [
        (length(b"4", b"abcd"), (200, b"abcd", "end", True)),
        (length(b"5", b"abcde"), (None, b"", long, False)),
        (response(b"", b"abcd"), (200, b"abcd", "end", False)),
        (response(b"", b"abcde"), (200, b"abcd", long, False)),
        (response(CHUNKED, b"2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n"), (200, b"abcd", "end", True)),
        (response(CHUNKED, b"2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n"), (200, b"ab", long, False)),
        (
            response(CHUNKED, b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n"),
            (200, b"ab", "the body has more than 2 chunks", False),
        ),
    ]
    for data, expected in cases:
        for pieces in every_cut(data):
            assert fetch(pieces, limits) == expected


def test_event_streams_may_go_on_for_ever() -> None:
    limits = Limits(message_bytes=4, body_chunks=2)
    stream = b"Content-Type: Text/Event-Stream; charset=utf-8\r\n"
    assert fetch([response(stream + CHUNKED, b"4\r\nabcd\r\n" * 9 + b"0\r\n\r\n")], limits) == (
        200,
        b"abcd" * 9,
        "end",
        True,
    )
    assert fetch([response(stream, b"abcd" * 9)], limits) == (200, b"abcd" * 9, "end", False)
    assert (
        fetch([response(stream + CHUNKED, b"5\r\nabcde\r\n")], limits)[2] == "the body is larger than 4 bytes"
    )


def test_event_stream_data_arrives_at_once() -> None:
    codec = HttpClientCodec(LIMITS)
    codec.request("GET", "/", HOST)
    [head] = codec.receive(response(b"Content-Type: text/event-stream\r\n" + CHUNKED))
    assert head == ResponseHead(
        200, Headers((("content-type", "text/event-stream"), ("transfer-encoding", "chunked")))
    )
    assert codec.receive(b"9\r\ndata: x\n\n\r\n") == [ResponseData(b"data: x\n\n")]
    assert not codec.idle and not codec.reusable


def test_request() -> None:
    codec = HttpClientCodec(LIMITS)
    assert codec.idle and codec.reusable
    body = b"{}" * 1000
    sent = codec.request("POST", "/mcp?x", [("Host", "a:1"), ("X-A", "b")], body)
    assert sent == [
        b"POST /mcp?x HTTP/1.1\r\nHost: a:1\r\nX-A: b\r\n"
        b"Accept-Encoding: identity\r\nContent-Length: 2000\r\n\r\n",
        body,
    ]
    assert sent[1] is body, "the body is not copied"
    assert not codec.idle and not codec.reusable
    with pytest.raises(LocalProtocolError):
        codec.request("GET", "/", HOST, b"")
    assert told(codec.receive(length(b"2"))) == (200, b"ok", "end")
    assert codec.reusable
    [sent_get] = codec.request("GET", "/", [*HOST, ("accept-encoding", "identity")], b"")
    assert sent_get == b"GET / HTTP/1.1\r\nHost: a\r\naccept-encoding: identity\r\n\r\n"
    codec.receive(length(b"2"))
    [sent_post] = codec.request("POST", "/", HOST)
    assert b"Content-Length: 0\r\n" in sent_post


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("GET", "/", []),
        ("GET", "/", [("Host", "a"), ("Host", "b")]),
        ("GET", "/", [("Host", "a"), ("X", "a\r\nY: b")]),
        ("GET", "/", [("Host", "a"), ("X Y", "a")]),
        ("GET", "/", [("Host", "a"), ("X", "é")]),
        ("GET", "/", [("Host", "a"), ("Content-Length", "0")]),
        ("GET", "/", [("Host", "a"), ("Transfer-Encoding", "chunked")]),
        ("GET", "/", [("Host", "a"), ("Connection", "close")]),
        ("GET", "/a b", HOST),
        ("GET", "/\r\n", HOST),
        ("GET", "", HOST),
        ("G T", "/", HOST),
    ],
)
def test_requests_that_cannot_be_sent(method: str, target: str, headers: list[tuple[str, str]]) -> None:
    codec = HttpClientCodec(LIMITS)
    with pytest.raises(LocalProtocolError):
        codec.request(method, target, headers, b"")


def test_unsolicited_bytes() -> None:
    codec = HttpClientCodec(LIMITS)
    assert codec.receive(b"") == [] and codec.reusable
    assert codec.receive(b"HTTP/1.1 408 x\r\n\r\n") == []
    assert codec.idle and not codec.reusable
    with pytest.raises(LocalProtocolError):
        codec.request("GET", "/", HOST)
    codec = HttpClientCodec(LIMITS)
    assert codec.receive_eof() == [] and codec.idle and not codec.reusable


def test_inert_after_a_failure() -> None:
    codec = HttpClientCodec(LIMITS)
    codec.request("GET", "/", HOST)
    [failed] = codec.receive(b"\x00" + length(b"2"))
    assert failed == Failed("not an HTTP message")
    assert codec.receive(length(b"2")) == [] and codec.receive_eof() == []
    assert not codec.idle and not codec.reusable


# ------------------------------------------------------------------------------------------ properties

TOKENS = st.sampled_from(
    [
        b"HTTP/1.1 ",
        b"200 OK\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"Content-Length: 3\r\n",
        b"abc",
        CHUNKED,
        b"3\r\nabc\r\n",
        b"0\r\n\r\n",
    ]
    + [
        b"X: y\r\n",
        b" ",
        b"\x00",
        b"\xff",
        length(b"3", b"abc"),
        response(CHUNKED, b"3\r\nabc\r\n"),
        response(status=b"100 x"),
    ]
    + [
        response(),
        b"Connection: close\r\n",
        b"Content-Type: text/event-stream\r\n",
        response(status=b"204 x"),
        b"HTTP/1.1 200 OK\r\n",
    ]
)
SMALL = Limits(
    message_bytes=8, head_bytes=100, head_fields=3, target_bytes=40, chunk_header_bytes=6, body_chunks=2
)


@given(st.lists(TOKENS, max_size=9).map(b"".join), st.lists(st.integers(1, 9), max_size=4), st.booleans())
def test_cuts_do_not_matter(data: bytes, sizes: list[int], small: bool) -> None:
    limits = SMALL if small else LIMITS
    assert fetch(cut_by(data, sizes), limits) == fetch([data], limits)


@given(st.binary(max_size=60), st.lists(st.integers(1, 9), max_size=4))
def test_never_raises(data: bytes, sizes: list[int]) -> None:
    data = b"HTTP/1.1 200 OK\r\n" + data
    assert fetch(cut_by(data, sizes)) == fetch([data])


@given(st.lists(st.binary(max_size=20), max_size=4), st.sampled_from(["chunked", "length", "close"]))
def test_what_h11_writes_is_read(pieces: list[bytes], framing: str) -> None:
    peer = h11.Connection(h11.SERVER)
    peer.receive_data(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    peer.next_event()
    body = b"".join(pieces)
    headers = [("Content-Length", str(len(body)))] if framing == "length" else []
    if framing == "close":
        peer = h11.Connection(h11.SERVER)
        peer.receive_data(b"GET / HTTP/1.0\r\n\r\n")
        peer.next_event()
    data = peer.send(h11.Response(status_code=200, headers=headers)) or b""
    for piece in pieces:
        data += peer.send(h11.Data(data=piece)) or b""
    data += peer.send(h11.EndOfMessage()) or b""
    status, read, end, reusable = fetch([data], method="GET")
    assert (status, read, end, reusable) == (200, body, "end", framing != "close")


@given(st.binary(max_size=50), st.binary(max_size=50), st.booleans(), st.lists(st.integers(1, 9), max_size=3))
def test_client_and_server_understand_each_other(
    question: bytes, answer: bytes, stream: bool, sizes: list[int]
) -> None:
    client, server = HttpClientCodec(LIMITS), HttpServerCodec(LIMITS)
    for _ in range(3):
        asked = []
        for piece in cut_by(b"".join(client.request("POST", "/mcp", HOST, question)), sizes):
            asked += server.receive(piece)
        assert asked[1:] == ([RequestBody(question)] if question else [])
        if stream:
            sent = server.begin(200, []) + server.data(answer) + server.end()
        else:
            sent = server.respond(200, [], answer)
        heard: list[ClientEvent] = []
        for piece in cut_by(b"".join(sent), sizes):
            heard += client.receive(piece)
        assert told(heard) == (200, answer, "end") and isinstance(heard[-1], ResponseEnd)
        assert server.next() == [] and client.reusable
