"""HTTP/1.1 from servers (docs/threats.md, 3.22), through a whole gateway: what comes back for a call, byte
by byte.

Must never: judge by the error alone; nothing of the answer may reach the client, and the server is usable
again.
"""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest

from fuzz.sim.scene import FAST, Scene
from fuzz.sim.servers import HttpConn
from mcpgate_proto.limits import Limits
from tests.threats.raw import MODERN_ERA, Wiretap, answering_with, ask, call_of, chunk, scene_of

# -- 3.22: servers


def serving(kind: type[HttpConn]) -> Scene:
    """With one server, which has connections of this kind."""
    scene = scene_of(MODERN_ERA, "http")
    scene.net.services["127.0.0.1", 9001] = lambda: scene.only.connection(kind)
    return scene


def http_servers(answer: bytes, *, then_close: bool = False, **limits: Any) -> Scene:
    """A server whose answer to each call is exactly this."""
    scene = scene_of(MODERN_ERA, "http", limits=msgspec.structs.replace(FAST, **limits))
    kind = answering_with(lambda id: answer.replace(b"{ID}", b"%d" % id), then_close=then_close)
    scene.net.services["127.0.0.1", 9001] = lambda: scene.only.connection(kind)
    return scene


def result(text: str = "ok") -> bytes:
    told = {"content": [{"type": "text", "text": text}], "resultType": "complete"}
    return json.dumps({"jsonrpc": "2.0", "id": "{ID}", "result": told}).encode().replace(b'"{ID}"', b"{ID}")


RESULT = result()
# The id has one digit in these tests, so the length is that of the template less two.
LENGTH = b"Content-Length: %d\r\n" % (len(RESULT) - 3)
JSON_TYPE = b"Content-Type: application/json\r\n"
CHUNKS = b"Transfer-Encoding: chunked\r\n"
TEN = (b"HTTP/1.1 102 Processing\r\n\r\n") * 10
BAD_RESPONSES: list[tuple[str, bytes]] = [
    ("CL and TE", b"HTTP/1.1 200 OK\r\n" + JSON_TYPE + LENGTH + CHUNKS + b"\r\n0\r\n\r\n" + RESULT),
    ("two lengths", b"HTTP/1.1 200 OK\r\n" + JSON_TYPE + LENGTH + b"Content-Length: 3\r\n\r\n" + RESULT),
    ("1xx flood", TEN + b"HTTP/1.1 200 OK\r\n" + JSON_TYPE + LENGTH + b"\r\n" + RESULT),
    ("1xx flood without end", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 50_000),
    ("1xx with a body", b"HTTP/1.1 100 Continue\r\nContent-Length: 2\r\n\r\nok"),
    ("101", b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"),
    ("endless head", b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000),
    ("endless fields", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000),
    ("endless status line", b"HTTP/1.1 200 " + b"x" * 1_000_000),
    ("204 with a body", b"HTTP/1.1 204 No Content\r\n" + LENGTH + b"\r\n" + RESULT),
    ("204 with chunks", b"HTTP/1.1 204 No Content\r\n" + CHUNKS + b"\r\n5\r\nhello\r\n0\r\n\r\n"),
    ("gzip", b"HTTP/1.1 200 OK\r\n" + JSON_TYPE + LENGTH + b"Content-Encoding: gzip\r\n\r\n" + RESULT),
    (
        "deflate, identity",
        b"HTTP/1.1 200 OK\r\n" + LENGTH + b"Content-Encoding: deflate, identity\r\n\r\n" + RESULT,
    ),
    ("obs-fold", b"HTTP/1.1 200 OK\r\nX: y\r\n z\r\n" + JSON_TYPE + LENGTH + b"\r\n" + RESULT),
    ("bare LF", (b"HTTP/1.1 200 OK\n" + JSON_TYPE + LENGTH + b"\r\n").replace(b"\r\n", b"\n") + RESULT),
    ("HTTP/2.0", b"HTTP/2.0 200 OK\r\n" + JSON_TYPE + LENGTH + b"\r\n" + RESULT),
    ("HTTP/0.9", RESULT),
    (
        "a length beyond the limit",
        b"HTTP/1.1 200 OK\r\n" + JSON_TYPE + b"Content-Length: 99999999999\r\n\r\n" + RESULT,
    ),
    ("a chunk beyond the limit", b"HTTP/1.1 200 OK\r\n" + JSON_TYPE + CHUNKS + b"\r\nffffffff\r\nx"),
    ("chunk extension", b"HTTP/1.1 200 OK\r\n" + JSON_TYPE + CHUNKS + b"\r\n2;" + b"x" * 100_000),
    ("chunk flood", b"HTTP/1.1 200 OK\r\n" + JSON_TYPE + CHUNKS + b"\r\n" + b"1\r\n \r\n" * 20_000),
    (
        "an event without end",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: " + b"x" * 20_000_000,
    ),
    (
        "lines of an event without end",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        + (b"data: " + b"x" * 1000 + b"\n") * 20_000,
    ),
    (
        "redirect 301",
        b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:9009/mcp\r\nContent-Length: 0\r\n\r\n",
    ),
    ("redirect 302", b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n"),
    ("redirect 307", b"HTTP/1.1 307 Temporary\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n"),
    (
        "redirect 308",
        b"HTTP/1.1 308 Permanent\r\nLocation: https://evil.example/\r\nContent-Length: 0\r\n\r\n",
    ),
    (
        "a 401 with a challenge",
        b'HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer realm="x"\r\nContent-Length: 0\r\n\r\n',
    ),
    ("html", b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\n<html"),
    (
        "somebody else's id",
        b"HTTP/1.1 200 OK\r\n"
        + JSON_TYPE
        + b"Content-Length: 40\r\n\r\n"
        + b'{"jsonrpc":"2.0","id":9999,"result":{}}  ',
    ),
    ("silence", b""),
]


@pytest.mark.parametrize("name", [row[0] for row in BAD_RESPONSES])
def test_t3_22_bad_responses_of_servers(name: str) -> None:
    """Each fails its call at once, and nothing of it reaches the client or costs much."""
    scene = http_servers(dict(BAD_RESPONSES)[name])
    begin = time.process_time()
    client = scene.modern()
    call = scene.done(client.tool("echo"), within=60)
    assert call.answer is not None and "error" in call.answer
    # What breaks the rules is not waited for any longer.
    assert call.took < 1 or name == "silence"
    told = json.dumps(call.answer)
    assert "evil.example" not in told and "Bearer" not in told and len(told) < 2000
    assert {"www-authenticate", "location", "set-cookie"}.isdisjoint(call.headers)
    assert scene.net.dials == {} and scene.problems() == []
    assert time.process_time() - begin < 10
    # The very server is usable again once it behaves, on a new connection.
    scene.run(Limits().http_idle_s + 1)
    scene.net.services["127.0.0.1", 9001] = lambda: scene.only.connection()
    again = scene.done(scene.modern().tool("echo"), within=90)
    assert again.text == again.nonce


def test_t3_22_good_responses_of_the_same_making() -> None:
    head = b"HTTP/1.1 200 OK\r\n" + JSON_TYPE
    for answer in (
        head + b"Transfer-Encoding: chunked\r\n\r\n" + b"{CHUNK}",
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + head + b"{LENGTH}\r\n\r\n" + b"{RESULT}",
        head + b"Content-Encoding: identity\r\nSet-Cookie: a=b\r\n{LENGTH}\r\n\r\n" + b"{RESULT}",
    ):

        def told(id: Any, answer: bytes = answer) -> bytes:
            body = result("fine").replace(b"{ID}", b"%d" % id)
            answer = answer.replace(b"{CHUNK}", chunk(body) + b"0\r\n\r\n")
            answer = answer.replace(b"{LENGTH}", b"Content-Length: %d" % len(body))
            return answer.replace(b"{RESULT}", body)

        scene = serving(answering_with(told))
        reply = ask(scene, call_of())
        assert reply.statuses == [200] and b"fine" in reply.last.body
        # Cookies are off, codings are not asked for.
        assert ask(scene, call_of()).statuses == [200]
        for _, headers, _ in scene.only.requests:
            assert "cookie" not in headers and headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("behind", ["nothing", "a response", "the beginning of one"])
def test_t3_22_a_second_response_is_nobodys(behind: str) -> None:
    """Response smuggling: what comes behind an answer is not the answer to the next request, nor is its end.
    Nothing is sent any more where it came from."""
    head = b"HTTP/1.1 200 OK\r\n" + JSON_TYPE
    parts = {"nothing": 0, "a response": None, "the beginning of one": 10}

    def told(id: Any) -> bytes:
        first, second = (result(text).replace(b"{ID}", b"%d" % id) for text in ("first", "smuggled"))
        one, other = (head + b"Content-Length: %d\r\n\r\n" % len(body) + body for body in (first, second))
        return one + other[: parts[behind]]

    kind = answering_with(told)
    asked: list[HttpConn] = []

    class Counted(kind):  # type: ignore[misc, valid-type]
        def _ended(self) -> None:
            if b"tools/call" in b"".join(self._parts):
                asked.append(self)
            super()._ended()

    scene = serving(Counted)
    for _ in range(3):
        reply = ask(scene, call_of())
        assert b"first" in reply.last.body and b"smuggled" not in reply.last.body
    assert len(asked) == 3 and len(set(map(id, asked))) == (1 if behind == "nothing" else 3)


def test_t3_22_redirects_are_not_followed() -> None:
    scene = http_servers(dict(BAD_RESPONSES)["redirect 301"])
    reached: list[HttpConn] = []

    def other() -> HttpConn | None:
        conn = scene.only.connection()
        if conn is not None:
            reached.append(conn)
        return conn

    scene.net.services["127.0.0.1", 9009] = other
    call = scene.done(scene.modern().tool("echo"), within=60)
    assert "error" in (call.answer or {}) and reached == []


def test_t3_22_a_server_that_never_ends_its_head_is_given_up() -> None:
    scene = http_servers(b"HTTP/1.1 200 OK\r\nX: ")
    call = scene.done(scene.modern().tool("echo"), within=60)
    assert call.took <= 31 and "error" in (call.answer or {})
    scene.run(5.0)
    assert scene.world.snapshot().upstream_calls == 0


def test_the_tap_sees_what_goes_to_servers() -> None:
    """The tests above rely on it."""
    scene = scene_of(MODERN_ERA, "http")
    scene.run(1.0)
    tap = Wiretap(scene)
    ask(scene, call_of(nonce="sentinel"))
    assert b"sentinel" in tap.written
