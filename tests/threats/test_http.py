"""HTTP/1.1, row by row (docs/threats.md, 3 and B), through a whole gateway: from its clients and from its
servers.

Must never: judge by a status alone; a refusal also ends its connection, says nothing of what was sent, and
leaves the gateway at work for others. The grammar byte by byte is in tests/wire.
"""

from __future__ import annotations

import json
import time
from typing import Any

import h11
import msgspec
import pytest

from fuzz.sim.scene import FAST, Scene
from mcpgate_proto.limits import Limits
from tests.threats.raw import (
    HOST,
    LEGACY,
    MODERN_ERA,
    Raw,
    ask,
    body_of,
    call_of,
    chunk,
    legacy_session,
    post,
    scene_of,
    serves,
)
from tests.wire.appendix_b import APPENDIX_B

NO_MESSAGE, NO_SESSION, NO_ROUTE = 400, 400, 404
# Where the grammar has nothing against an input: what it means to the gateway.
SERVED = {
    "valid POST CL": [NO_MESSAGE],
    "TE: CHUNKED (case)": [NO_MESSAGE],
    "TE leading tab value": [NO_MESSAGE],
    "no Host (1.0)": [403],
    "target %2e%2e": [NO_ROUTE],
    "target raw ..": [NO_ROUTE],
    "target %00": [NO_ROUTE],
    "chunk ok": [NO_MESSAGE],
    "chunk ext": [NO_MESSAGE],
    "chunk size leading zeros 000002": [NO_MESSAGE],
    "trailers Content-Length/Host": [NO_MESSAGE],
    "pipelined 2 GETs": [NO_ROUTE, NO_ROUTE],
    "Expect 100-continue": [NO_MESSAGE],
    "Upgrade h2c": [405],
    "GET with body CL": [405],
    "POST no CL no TE": [NO_MESSAGE],
    "Connection: close, content-length": [NO_MESSAGE],
    "15KB header": [NO_MESSAGE],
}
HEAD = (
    f"Host: {HOST}\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
    "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: echo\r\n"
).encode()


def own(data: bytes) -> bytes:
    """The input with all that a good request has in the place of its Host."""
    lf = HEAD[:-2] + b"\n"
    return data.replace(b"Host: a\r\n", HEAD).replace(b"Host: a\n", lf)


@pytest.mark.parametrize("name", [row[0] for row in APPENDIX_B])
def test_tb_appendix_b_through_a_gateway(name: str) -> None:
    data, status = {row[0]: (own(row[1]), row[2]) for row in APPENDIX_B}[name]
    scene = scene_of(MODERN_ERA)
    reply = ask(scene, data, wait_s=5.0)
    if status:
        assert reply.statuses == [status] and reply.last.headers["connection"] == "close" and reply.ended
        assert set(reply.last.json) == {"jsonrpc", "error"}
        assert all(ord(char) < 127 for char in reply.last.body.decode())
        assert scene.world.snapshot().counters["http_refused"] == 1
    else:
        assert reply.statuses == SERVED[name]
        assert "http_refused" not in scene.world.snapshot().counters
    assert serves(scene) and scene.problems() == []


def test_tb_nothing_behind_a_refusal_is_read() -> None:
    """Smuggling: whatever stands behind a refused message is nobody's request."""
    behind = call_of(nonce="smuggled")
    for name, data, status in APPENDIX_B:
        if status:
            scene = scene_of(MODERN_ERA)
            scene.run(1.0)
            reply = ask(scene, own(data) + behind)
            assert len(reply.statuses) == 1, name
            assert scene.only.calls == [], name


def refused(data: bytes, status: int, **options: Any) -> Raw:
    scene = scene_of(MODERN_ERA, **options)
    scene.run(1.0)
    reply = ask(scene, data)
    assert reply.statuses == [status] and reply.ended and scene.only.calls == []
    assert serves(scene)
    return reply


BODY = json.dumps(body_of(name="echo", arguments={"nonce": "n"})).encode()


def request(more: bytes, body: bytes = BODY, line: bytes = b"POST /mcp HTTP/1.1\r\n") -> bytes:
    return line + HEAD + more + b"\r\n" + body


def sized(more: bytes = b"", body: bytes = BODY, line: bytes = b"POST /mcp HTTP/1.1\r\n") -> bytes:
    return request(more + b"Content-Length: %d\r\n" % len(body), body, line)


def chunked(*chunks: bytes, more: bytes = b"", last: bytes = b"0\r\n\r\n") -> bytes:
    return request(more + b"Transfer-Encoding: chunked\r\n", b"".join(chunks) + last)


def test_t3_the_requests_of_these_tests_are_good_but_for_what_they_test() -> None:
    scene = scene_of(MODERN_ERA)
    for data in (sized(), chunked(chunk(BODY)), chunked(chunk(BODY[:7]), chunk(BODY[7:], b";a=b"))):
        assert ask(scene, data).statuses == [200]
    assert len(scene.only.calls) == 3


def test_t3_1_cl_with_te() -> None:
    smuggled = b"0\r\n\r\n" + sized()
    for more in (
        b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n" % len(smuggled),
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        b"transfer-encoding:chunked\r\nCONTENT-LENGTH:\t0\r\n",
    ):
        refused(request(more, smuggled), 400)


def test_t3_2_obs_fold() -> None:
    for more in (b"X: a\r\n b\r\n", b"X: a\r\n\tb\r\n", b"X:\r\n \r\n"):
        refused(sized(more), 400)
    refused(request(b"Transfer-Encoding:\r\n chunked\r\n", chunk(BODY) + b"0\r\n\r\n"), 400)
    refused(
        request(b"Content-Length: 0\r\nTransfer-Encoding:\r\n\tchunked\r\n", chunk(BODY) + b"0\r\n\r\n"), 400
    )


def test_t3_3_bare_lf() -> None:
    refused(sized().replace(b"\r\n", b"\n", 1), 400)
    refused(sized(b"X: y\n"), 400)
    refused(sized().replace(b"\r\n\r\n", b"\n\n"), 400)
    refused(sized().replace(b"\r\n\r\n", b"\r\n\n"), 400)
    refused(sized(b"X: y\rZ: z\r\n"), 400)


def test_t3_4_repeated_content_length() -> None:
    size = b"%d" % len(BODY)
    for more in (size + b"\r\nContent-Length: " + size, size + b", " + size, size + b"\r\nContent-Length: 0"):
        refused(request(b"Content-Length: " + more + b"\r\n"), 400)


def test_t3_5_te_in_http_1_0() -> None:
    data = chunked(chunk(BODY)).replace(b"HTTP/1.1", b"HTTP/1.0")
    refused(data, 400)


@pytest.mark.parametrize("version", [b"1.2", b"9.9", b"0.9", b"2.0", b"1.9"])
def test_t3_6_versions(version: bytes) -> None:
    refused(sized().replace(b"HTTP/1.1", b"HTTP/" + version, 1), 505)
    refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"http://evil.example/mcp", 400),
        (b"http://evil@127.0.0.1:8080/mcp", 400),
        (b"ftp://127.0.0.1:8080/mcp", 400),
        (b"*", 400),
        (b"mcp", 400),
        (b"/mcp#x", 400),
        (b"/mcp%zz", 400),
        (b"/mcp\\", 400),
        (b"/mcp%00", 404),
        (b"/%6dcp", 404),
        (b"/x/../mcp", 404),
        (b"/%2e%2e/mcp", 404),
        (b"//mcp", 404),
        (b"/mcp/", 404),
        (b"/MCP", 404),
        (b"/mcp;x", 404),
    ],
)
def test_t3_7_targets(target: bytes, status: int) -> None:
    scene = scene_of(MODERN_ERA)
    scene.run(1.0)
    reply = ask(scene, sized(line=b"POST " + target + b" HTTP/1.1\r\n"))
    assert reply.statuses == [status] and scene.only.calls == []
    assert serves(scene)


def test_t3_7_absolute_form_means_the_same_place() -> None:
    """RFC 9112 3.2.2: it has to be understood; its authority is the Host, which has passed the door."""
    scene = scene_of(MODERN_ERA)
    line = f"POST http://{HOST}/mcp HTTP/1.1\r\n".encode()
    assert ask(scene, sized(line=line)).statuses == [200]
    evil = sized(line=b"POST http://evil.example/mcp HTTP/1.1\r\n").replace(HOST.encode(), b"evil.example")
    assert ask(scene, evil).statuses == [403]
    refused(b"CONNECT 127.0.0.1:8080 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n", 501)


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (b"", 400),
        (b"a, b", 400),
        (b"127.0.0.1:8080, evil.example", 400),
        (b"evil@127.0.0.1:8080/x", 400),
        (b"127.0.0.1:8080/x", 400),
        (b"127.0.0.1:", 400),
        (b"127.0.0.1:8080x", 400),
        (b"[::1", 400),
        (b"localhost:9201@evil.example", 400),
        (b"localhost.evil.example:8080", 403),
        (b"127.0.0.1.evil.example", 403),
        (b"0.0.0.0:8080", 403),
        (b"[::]:8080", 403),
        (b"127.0.0.1:8081", 403),
        (b"2130706433:8080", 403),
        (b"localhost.", 403),
    ],
)
def test_t3_8_hosts(value: bytes, status: int) -> None:
    scene = scene_of(MODERN_ERA)
    scene.run(1.0)
    reply = ask(scene, sized().replace(HOST.encode(), value, 1))
    assert reply.statuses == [status] and scene.only.calls == []
    twice = ask(scene, sized(b"Host: evil.example\r\n"))
    assert twice.statuses == [400] and serves(scene)


# A tab is refused below; ends of lines are rows 2 and 3.
@pytest.mark.parametrize("code", [*range(9), 11, 12, *range(14, 32), *range(0x7F, 0x100, 16)])
def test_t3_9_control_characters_in_values(code: int) -> None:
    refused(sized(b"X: a%cb\r\n" % code), 400)


def test_t3_9_tabs_and_names() -> None:
    refused(sized(b"X: a\tb\r\n"), 400)
    for name in (b"X Y", b"X\x00", b"X\x0b", b"(X)", b"\xc3\xa9", b""):
        refused(sized(name + b": y\r\n"), 400)


def test_t3_10_underscores_in_names() -> None:
    for name in (b"Content_Length", b"X_Y", b"_", b"Mcp_Name"):
        refused(sized(name + b": 9\r\n"), 400)


@pytest.mark.parametrize(
    "method", [b"post", b"Post", b"TRACE", b"CONNECT", b"PROPFIND", b"M-SEARCH", b"X" * 200]
)
def test_t3_11_methods(method: bytes) -> None:
    refused(sized(line=method + b" /mcp HTTP/1.1\r\n"), 501)


@pytest.mark.parametrize("method", [b"PUT", b"PATCH", b"HEAD"])
def test_t3_11_methods_that_no_route_has(method: bytes) -> None:
    scene = scene_of(MODERN_ERA)
    reply = ask(scene, method + b" /mcp HTTP/1.1\r\n" + HEAD + b"\r\n")
    assert reply.sent_back.startswith(b"HTTP/1.1 405 ") and serves(scene)


def test_t3_12_head_limits() -> None:
    begin = time.process_time()
    refused(sized(b"X: " + b"y" * 100_000 + b"\r\n"), 431)
    refused(sized(b"X: y\r\n" * 101), 431)
    refused(sized(b"a: b\r\n" * 100_000), 431)
    refused(sized(b"X: " + b"y" * 20_000)[:-4], 431)
    refused(sized(line=b"POST /" + b"x" * 9000 + b" HTTP/1.1\r\n"), 414)
    assert time.process_time() - begin < 5


def test_t3_13_chunk_extensions_and_trailers() -> None:
    refused(chunked(chunk(BODY, b";" + b"x" * 300)), 400)
    refused(chunked(chunk(BODY, b";a\x01")), 400)
    refused(chunked(chunk(BODY), last=b"0\r\n" + b"X: y\r\n" * 101 + b"\r\n"), 431)
    refused(chunked(chunk(BODY), last=b"0\r\nX: " + b"y" * 17_000 + b"\r\n\r\n"), 431)
    refused(chunked(chunk(BODY), last=b"0\r\nX: a\r\n b\r\n\r\n"), 400)


def test_t3_13_trailers_decide_nothing() -> None:
    scene = scene_of(MODERN_ERA)
    trailers = b"Host: evil.example\r\nContent-Length: 5\r\nMcp-Name: fail\r\nAuthorization: Bearer x"
    reply = ask(scene, chunked(chunk(BODY), last=b"0\r\n" + trailers + b"\r\n\r\n"))
    assert reply.statuses == [200] and [job.params["name"] for job in scene.only.calls] == ["echo"]
    assert ask(scene, chunked(chunk(BODY)).replace(b"Mcp-Name: echo\r\n", b"")).statuses == [400]


@pytest.mark.parametrize("size", [b"f" * 8, b"f" * 16, b"1000001", b"0" * 8 + b"ffffffff"])
def test_t3_14_chunk_sizes_beyond_the_limit(size: bytes) -> None:
    """Refused by what is declared: nobody waits for the bytes."""
    refused(chunked(size + b"\r\nx", last=b""), 413)


@pytest.mark.parametrize(
    "size", [b"f" * 17, b"f" * 20, b"0x2", b"+2", b"-2", b"2_0", b" 2", b"2 ", b"", b"\xb2"]
)
def test_t3_14_chunk_sizes_that_are_none(size: bytes) -> None:
    refused(chunked(size + b"\r\n{}\r\n"), 400)


def test_t3_14_chunk_terminators() -> None:
    for wrong in (b"XX", b"\n0", b"\r\r", b"\n\n"):
        refused(chunked(b"%x\r\n" % len(BODY) + BODY + wrong), 400)


def test_t3_15_chunk_floods() -> None:
    begin = time.process_time()
    refused(chunked(*[chunk(b" ")] * 20_000), 413)
    assert time.process_time() - begin < 5
    scene = scene_of(MODERN_ERA)
    assert ask(scene, chunked(*[chunk(BODY[at : at + 1]) for at in range(len(BODY))])).statuses == [200]


def test_t3_16_expectations() -> None:
    refused(sized(b"Expect: kittens\r\n"), 417)
    refused(sized(b"Expect: 100-continue, kittens\r\n"), 417)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (HOST.encode(), b"evil.example"),
        (b"Mcp-Name: echo\r\n", b"Origin: http://evil.example\r\n"),
        (b"POST /mcp ", b"POST /other "),
        (b"application/json\r\n", b"text/plain\r\n"),
        (b"application/json, text/event-stream", b"image/png"),
        (b"Content-Length: ", b"Content-Length: 9999999"),
    ],
)
def test_t3_16_continue_is_said_only_to_what_passed(old: bytes, new: bytes) -> None:
    head = sized(b"Expect: 100-continue\r\n").split(b"\r\n\r\n")[0] + b"\r\n\r\n"
    scene = scene_of(MODERN_ERA)
    good = ask(scene, head)
    assert good.interim == [100] and good.statuses == []
    assert good.send(BODY).statuses == [200]
    bad = ask(scene, head.replace(old, new, 1))
    assert bad.interim == [] and len(bad.statuses) == 1 and bad.last.status >= 400


def test_t3_17_pipelines_wait_and_are_bounded() -> None:
    scene = scene_of(MODERN_ERA)
    scene.run(1.0)
    raw = Raw(scene)
    raw.send(call_of("silent", nonce="first") + call_of(nonce="second"))
    assert raw.statuses == [] and [job.nonce for job in scene.only.calls] == ["first"]
    assert raw.stream.paused, "a client with a request under way is not read"
    raw.send(b"POST /mcp HTTP/1.1\r\n" * 2_000_000, wait_s=5.0)
    assert raw.stream.unread >= 39_000_000
    assert serves(scene)


def test_t3_17_pipelined_requests_are_answered_in_order() -> None:
    scene = scene_of(MODERN_ERA)
    calls = [call_of("echo", id=number, nonce=f"n{number}", after=0.3 / (number + 1)) for number in range(5)]
    reply = ask(scene, b"".join(calls), wait_s=5.0)
    assert [answer.json["id"] for answer in reply.responses] == list(range(5))


# -- 3.18: time


def test_t3_18_a_head_that_does_not_come() -> None:
    scene = scene_of(MODERN_ERA)
    silent = Raw(scene)
    slow = Raw(scene)
    for at in range(40):
        slow.send(sized()[at : at + 1], wait_s=0.24)
    scene.run(5.0)
    assert slow.statuses == [408] and slow.ended
    assert silent.ended and silent.statuses == []
    assert scene.world.snapshot().connections == 1 and serves(scene)


def test_t3_18_a_body_that_trickles() -> None:
    scene = scene_of(MODERN_ERA)
    raw = Raw(scene)
    raw.send(request(b"Content-Length: 100000\r\n", b""), wait_s=0.1)
    for _ in range(30):
        raw.stream.send(b"x" * 100)
        scene.run(1.0)
    assert raw.statuses == [408] and raw.ended and serves(scene)


def test_t3_18_a_slow_body_that_keeps_the_rate_is_waited_for() -> None:
    scene = scene_of(MODERN_ERA)
    big = json.dumps(body_of(name="echo", arguments={"nonce": "n", "pad": "x" * 60_000})).encode()
    raw = Raw(scene)
    raw.send(request(b"Content-Length: %d\r\n" % len(big), b""), wait_s=0)
    for at in range(0, len(big), 2000):
        raw.send(big[at : at + 2000], wait_s=1.0)
    assert raw.statuses == [200]


def test_t3_18_idle_connections() -> None:
    scene = scene_of(MODERN_ERA)
    raw = ask(scene, sized())
    assert raw.statuses == [200] and not raw.ended
    scene.run(Limits().keep_alive_s - 2)
    assert not raw.ended
    scene.run(3.0)
    assert raw.ended


def test_t3_18_requests_of_one_connection() -> None:
    scene = scene_of(MODERN_ERA, limits=msgspec.structs.replace(FAST, requests_per_connection=3))
    raw = Raw(scene)
    for _ in range(4):
        raw.send(sized())
    assert raw.statuses == [200, 200, 200] and raw.ended
    assert raw.last.headers["connection"] == "close"


def test_t3_18_connections_are_capped() -> None:
    scene = scene_of(MODERN_ERA, limits=msgspec.structs.replace(FAST, connections=5))
    scene.run(1.0)
    kept = [Raw(scene) for _ in range(5)]
    over = Raw(scene)
    scene.run(0.1)
    assert over.ended and not any(raw.ended for raw in kept)
    assert kept[0].send(sized()).statuses == [200]
    scene.run(11.0)
    assert serves(scene)


# -- 3.19 to 3.23


@pytest.mark.parametrize(
    "text", ["a\r\nSet-Cookie: x=y", "a\nb", "a\x00", "\x1b[31m", "é", "a\r\n\r\nHTTP/1.1 200 OK"]
)
def test_t3_19_no_peer_text_in_response_headers(text: str) -> None:
    """Names, versions, ids and origins of clients, and whatever a server says, stay out of our heads."""
    scene = Scene({"one": ("stdio", LEGACY)}, sockets=True).start()
    scene.only.script("odd", lambda job: job.say(headers=text, **{"Mcp-Session-Id": text}))
    told = body_of(
        "initialize", modern=False, protocolVersion=text, capabilities={}, clientInfo={"name": text}
    )
    for body in (json.dumps(told).encode(), json.dumps(body_of(text)).encode()):
        reply = ask(scene, post(body))
        head = bytes(reply.sent_back).split(b"\r\n\r\n")[0]
        assert b"Set-Cookie" not in head and b"\x1b" not in head and len(reply.statuses) == 1
    client = scene.legacy()
    call = scene.done(client.tool("odd"))
    assert set(call.headers) <= {"content-type", "content-length", "mcp-session-id", "cache-control"} | {
        "x-accel-buffering",
        "transfer-encoding",
    }
    assert "\n" not in call.headers.get("mcp-session-id", "")


def refused_by_h11(data: bytes) -> bool:
    peer = h11.Connection(h11.SERVER)
    peer.receive_data(data)
    try:
        while peer.next_event() not in (h11.NEED_DATA, h11.PAUSED):
            pass
    except h11.RemoteProtocolError:
        return True
    return False


def test_t3_20_what_h11_refuses_stays_refused() -> None:
    """Its list, behind our grammar: the whole of it is in appendix B, with the status of each."""
    by_h11 = {name for name, data, _ in APPENDIX_B if refused_by_h11(data)}
    by_us = {name for name, _, status in APPENDIX_B if status}
    assert by_h11 < by_us and len(by_h11) > 40 and len(APPENDIX_B) >= 103
    assert "chunk data wrong terminator (CVE-2025-43859)" in by_us


def test_t3_21_answers_out_of_turn_are_never_sent() -> None:
    """A refusal while a request is answered, and bytes behind an early answer: one answer, then the end."""
    scene = scene_of(MODERN_ERA)
    scene.run(1.0)
    raw = Raw(scene)
    raw.send(call_of("echo", nonce="n", after=1.0) + b"\x00\x00 no HTTP", wait_s=3.0)
    assert raw.statuses == [200, 400] and raw.ended
    early = ask(scene, request(b"Content-Length: 20\r\n", b"x").replace(b"/mcp", b"/other"))
    assert early.statuses == [404]
    early.send(b"GET /mcp HTTP/1.1\r\n\r\n")
    assert early.statuses == [404] and early.ended


def test_t3_23_upgrades_other_than_websocket_are_ignored() -> None:
    scene = scene_of(MODERN_ERA)
    for token in (b"h2c", b"HTTP/2.0", b"TLS/1.0", b"h2c, x"):
        more = (
            b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: " + token + b"\r\nHTTP2-Settings: AAMAAABk\r\n"
        )
        reply = ask(scene, sized(more))
        assert reply.statuses == [200] and reply.interim == []


def test_t3_half_closing_clients_get_their_answers() -> None:
    """`nc -N`: the end of the client's sending side comes right behind its request, in either era."""
    scene = Scene({"one": ("stdio", ("legacy", "modern"))}, listeners=("http", "stdio")).start()
    session = legacy_session(scene)
    for data in (
        call_of("echo", nonce="n", after=1.0),
        post(
            json.dumps(body_of(name="echo", arguments={"nonce": "n", "after": 1.0}, modern=False)).encode(),
            session,
        ),
    ):
        raw = Raw(scene)
        raw.stream.send(data)
        raw.half_close(wait_s=3.0)
        assert raw.statuses == [200] and raw.last.json["result"]["content"][0]["text"] == "n" and raw.ended


def test_t3_half_closing_at_once_does_not_keep_a_call_for_ever() -> None:
    """C24: whether such a client still listens cannot be seen, so it is not waited for long."""
    scene = scene_of(MODERN_ERA)
    scene.run(1.0)
    raw = Raw(scene)
    raw.stream.send(call_of("silent", nonce="n"))
    raw.half_close(wait_s=1.5)
    job = scene.only.job("n")
    assert job is not None and not job.cancelled and not raw.ended
    scene.run(1.0)
    assert job.cancelled and raw.ended and raw.statuses == []


def test_t3_half_closing_later_is_going_away() -> None:
    """C24: the sooner a call is stopped that nobody waits for, the better."""
    scene = scene_of(MODERN_ERA)
    scene.run(1.0)
    raw = Raw(scene)
    raw.send(call_of("silent", nonce="n"), wait_s=0.5)
    assert scene.only.job("n") is not None
    raw.half_close()
    job = scene.only.job("n")
    assert job is not None and job.cancelled and raw.ended and raw.statuses == []
