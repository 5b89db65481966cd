"""A real `mcpgate serve`, from outside: every route and method for strangers, and attacks that end in a
clean refusal with a gateway that still serves, and with no more memory than it had.

Must never: look inside the process, but for what the system says of its memory.
"""

from __future__ import annotations

import json
import os
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fuzz.sim.sockets import FrameReader, frame
from tests.cli.program import mcpgate
from tests.threats.known import ROUTES
from tests.threats.peers import META, BlackBox, Line, black_box, call, modern_headers, request

RUNNERS = ["asyncio", "blocking"]
PLACES = ["tcp", "unix"]
# What an attack may cost at its height, above what the gateway needs when it has nothing to do.
MOST_KB = 32 * 1024
MASK = b"\x01\x02\x03\x04"
TEXT, CLOSE, PING = 1, 8, 9
pytestmark = pytest.mark.alone

METHODS = ["GET", "POST", "DELETE", "OPTIONS", "PUT", "PATCH"]
STRANGERS = [
    {"Host": "evil.example"},
    {"Host": "localhost.evil.example:80"},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost.evil.example"},
]


@pytest.fixture(scope="module", params=RUNNERS)
def box(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BlackBox]:
    with black_box(tmp_path_factory.mktemp("box"), request.param) as found:
        assert found.serves("tcp") and found.serves("unix")
        yield found
        assert found.gate.popen.poll() is None, found.gate.seen


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("headers", STRANGERS, ids=lambda headers: "-".join([*headers, *headers.values()]))
def test_strangers_on_every_route_by_every_method(box: BlackBox, headers: dict[str, str], place: str) -> None:
    for path in ROUTES:
        for method in METHODS:
            body = b"{}" if method in ("POST", "PUT", "PATCH") else None
            line = box.ask(request(method, path, headers, body, box.host), place)
            assert line.status == 403, (method, path)
            assert not [name for name in line.headers[-1] if name.startswith("access-control")]
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13", **headers}
    line = box.ask(
        request("GET", "/mcp", {**upgrade, "Sec-WebSocket-Key": "A" * 22 + "=="}, None, box.host), place
    )
    assert line.status == 403


# -- the gate


@pytest.fixture(scope="module", params=RUNNERS)
def gated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BlackBox]:
    """The same with a key, on every listener."""
    code, token, told = mcpgate("key", "new", "--id", "ops")
    assert code == 0
    block = told[told.index("[[auth.key]]") :]
    folder = tmp_path_factory.mktemp("gated")
    with black_box(folder, request.param, block, token.strip(), 'auth = "required"') as found:
        assert found.serves("tcp") and found.serves("unix")
        yield found
        assert found.gate.popen.poll() is None, found.gate.seen


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("", 401),
        ("Bearer mcpg_ops_" + "A" * 43, 401),
        ("Basic b3BzOng=", 401),
        ("Bearer", 400),  # J3: malformed
        ("bearer x y", 400),
    ],
)
def test_no_token_opens_nothing(gated: BlackBox, authorization: str, status: int, place: str) -> None:
    """401 on every route by every method, on the upgrade too, alike for what is there and what is not."""
    given = {"Authorization": authorization} if authorization else {}
    bodies = set()
    for path in ROUTES:
        for method in METHODS:
            body = b"{}" if method in ("POST", "PUT", "PATCH") else None
            line = gated.ask(request(method, path, given, body, gated.host), place)
            assert line.status == status, (method, path, line.status)
            assert line.headers[-1]["www-authenticate"].startswith("Bearer")
            bodies.add(line.bodies[-1])
    assert len(bodies) <= 2
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13", **given}
    line = gated.ask(
        request("GET", "/mcp", {**upgrade, "Sec-WebSocket-Key": "A" * 22 + "=="}, None, gated.host), place
    )
    assert line.status == status
    assert gated.serves(place)


@pytest.mark.parametrize("headers", STRANGERS, ids=lambda headers: "-".join([*headers, *headers.values()]))
def test_a_token_does_not_open_the_door(gated: BlackBox, headers: dict[str, str]) -> None:
    given = {"Authorization": f"Bearer {gated.token}", **headers}
    for path in ("/mcp", "/sse", "/messages", "/other"):
        assert gated.ask(request("POST", path, given, b"{}", gated.host)).status == 403


# -- attacks: what is said, and the status (or WebSocket code) that it ends with


def chunked(host: str, body: bytes) -> bytes:
    head = {
        **modern_headers("tools/call", "count"),
        "Transfer-Encoding": "chunked",
        "Content-Type": "application/json",
    }
    return request("POST", "/mcp", head, None, host) + body


def posted(host: str, body: bytes, **more: str) -> bytes:
    return request("POST", "/mcp", {**modern_headers("tools/call", "count"), **more}, body, host)


def argument(value: bytes) -> bytes:
    params = {"name": "count", "arguments": {"text": "a b c", "more": "HERE"}, "_meta": META}
    told = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    return json.dumps(told).encode().replace(b'"HERE"', value)


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
Bytes = Callable[[str], bytes]
REFUSALS: dict[str, tuple[Bytes, int]] = {
    # smuggling
    "CL and TE": (
        lambda host: posted(host, b"0\r\n\r\n" + SMUGGLED, **{"Transfer-Encoding": "chunked"}),
        400,
    ),
    "two lengths": (
        lambda host: posted(host, b"{}").replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n", 1) + SMUGGLED,
        400,
    ),
    "obs-fold": (lambda host: posted(host, b"{}", X="a\r\n b") + SMUGGLED, 400),
    "bare LF": (lambda host: posted(host, b"{}").replace(b"\r\n", b"\n", 2) + SMUGGLED, 400),
    "chunk terminator": (lambda host: chunked(host, b"2\r\n{}XX0\r\n\r\n") + SMUGGLED, 400),
    "TE: xchunked": (lambda host: posted(host, b"{}", **{"Transfer-Encoding": "xchunked"}) + SMUGGLED, 400),
    "version 1.2": (lambda host: posted(host, b"{}").replace(b"HTTP/1.1", b"HTTP/1.2", 1) + SMUGGLED, 505),
    "two Hosts": (lambda host: posted(host, b"{}").replace(b"\r\n", b"\r\nHost: evil\r\n", 1), 400),
    # bombs
    "deep JSON": (lambda host: posted(host, argument(b"[" * 4_000_000)), 400),
    "deep JSON closed": (
        lambda host: posted(host, argument(b'{"a":' * 1_000_000 + b"1" + b"}" * 1_000_000)),
        400,
    ),
    "brackets in strings": (lambda host: posted(host, argument(b'["",' + b'"[",' * 2_000_000 + b"]")), 400),
    "quotes": (lambda host: posted(host, argument(b'"" ' * 3_000_000)), 400),
    "huge number": (lambda host: posted(host, argument(b"1" * 5_000_000)), 400),
    "many large numbers": (
        lambda host: posted(host, argument(b"[" + b"1e308," * 1_500_000 + b"1e309]")),
        400,
    ),
    "a body that is too large": (lambda host: posted(host, b"x", **{"Content-Length": "16777217"}), 413),
    "chunks that are too large": (lambda host: chunked(host, b"1000001\r\n" + b"x" * 100_000), 413),
    "chunk flood": (lambda host: chunked(host, b"1\r\n \r\n" * 500_000), 413),
    "chunk extension": (lambda host: chunked(host, b"1;" + b"x" * 5_000_000), 400),
    "trailer flood": (lambda host: chunked(host, b"2\r\n{}\r\n0\r\n" + b"X: y\r\n" * 500_000), 431),
    "header flood": (lambda host: request("GET", "/mcp", None, None, host)[:-2] + b"a: b\r\n" * 500_000, 431),
    "endless header": (
        lambda host: request("GET", "/mcp", None, None, host)[:-2] + b"a: " + b"b" * 8_000_000,
        431,
    ),
    "endless target": (lambda host: b"GET /" + b"a" * 8_000_000, 414),
    "no HTTP": (lambda host: b"\x16\x03\x01\x02\x00" + os.urandom(1000), 400),
}


def guarded(box: BlackBox, attack: Callable[[], None], most_kb: int = MOST_KB) -> None:
    """Run an attack; afterwards the gateway serves, and at no time it has taken much more memory."""
    idle = box.memory("VmRSS")
    box.forget()
    attack()
    assert box.recovers("tcp") and box.recovers("unix")
    peak = box.memory("VmHWM") - idle
    print(f"\nPEAK {peak} kB")
    assert peak <= most_kb, f"{peak} kB above {idle} kB"


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(box: BlackBox, name: str) -> None:
    make, status = REFUSALS[name]
    data = make(box.host)

    def attack() -> None:
        line = box.line()
        line.answer(data)
        assert line.statuses == [status], bytes(line.got[:300])
        if line.headers[-1].get("connection") == "close":
            line.to_end(10)
        else:
            # Refused as a message of JSON-RPC: the connection is as good as before.
            assert status == 400 and line.answer(call(box.host)).status == 200
        line.close()

    guarded(box, attack)


@pytest.mark.parametrize("size", [1_000_000, 10_000_000])
def test_long_strings(box: BlackBox, size: int) -> None:
    def attack() -> None:
        line = box.ask(posted(box.host, argument(b'"' + b"x" * size + b'"')))
        assert line.status == 200

    guarded(box, attack)


def test_a_body_of_every_size_at_once(box: BlackBox) -> None:
    """Many large bodies at one time, none of which ends."""

    def attack() -> None:
        lines = [box.line() for _ in range(8)]
        head = posted(box.host, b"", **{"Content-Length": "4000000"})
        for line in lines:
            line.send(head + b"x" * 400_000)
        assert box.serves()
        for line in lines:
            line.close()

    guarded(box, attack)


# -- WebSocket


def upgraded(box: BlackBox) -> Line:
    line = box.line()
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    line.send(request("GET", "/mcp", {**headers, "Sec-WebSocket-Key": "A" * 22 + "=="}, None, box.host))
    line.until(lambda: b"\r\n\r\n" in line.got)
    assert line.got.startswith(b"HTTP/1.1 101 ")
    return line


def close_code(line: Line) -> int:
    found = FrameReader(from_client=False).feed(bytes(line.got.partition(b"\r\n\r\n")[2]))
    return next((int.from_bytes(body[:2], "big") for kind, body in found if kind == CLOSE), 0)


FRAMES: dict[str, tuple[bytes, int]] = {
    "fragment flood": (b"\x01\x80" + MASK + (b"\x00\x80" + MASK) * 500_000, 1008),
    "ping flood": (frame(PING, b"x" * 125, MASK) * 100_000, 1008),
    "a frame of 2^40 bytes": (b"\x81\xff" + (2**40).to_bytes(8, "big") + MASK + b"x" * 1_000_000, 1009),
    "fragments beyond the limit": (
        b"\x01\xff"
        + (9_000_000).to_bytes(8, "big")
        + MASK
        + bytes(9_000_000)
        + b"\x00\xff"
        + (9_000_000).to_bytes(8, "big")
        + MASK,
        1009,
    ),
    "binary": (frame(2, b"x" * 1000, MASK), 1003),
    "compressed": (b"\xc1\x85" + MASK + b"hello", 1002),
    "no mask": (b"\x81\x05hello", 1002),
    "no text": (frame(TEXT, b"\xff\xff", MASK), 1007),
    "noise": (frame(TEXT, b"{", MASK) * 1000, 1008),
}


@pytest.mark.parametrize("name", FRAMES)
def test_websocket_floods(box: BlackBox, name: str) -> None:
    data, code = FRAMES[name]

    def attack() -> None:
        line = upgraded(box).send(data).to_end()
        # Where we could not send it all, the reset may have overtaken the reason.
        assert close_code(line) in ((code, 0) if len(data) > 100_000 else (code,))
        line.close()

    guarded(box, attack)


@pytest.mark.parametrize(
    "value",
    [b"[" * 4_000_000, b"1" * 5_000_000, b'"[",' * 2_000_000, b'"\\ud800"'],
    ids=["deep", "number", "strings", "surrogate"],
)
def test_websocket_bombs(box: BlackBox, value: bytes) -> None:
    """Refused as a message; the connection goes on."""

    def attack() -> None:
        line = upgraded(box)
        line.send(frame(TEXT, argument(value), MASK)).until(lambda: b'"error"' in line.got)
        line.send(frame(TEXT, argument(b"1"), MASK)).until(lambda: b'"result"' in line.got)
        line.close()

    guarded(box, attack)


# -- slow peers


def test_slow_peers(box: BlackBox) -> None:
    """Heads and bodies that never end, event streams that nobody reads, connections that say nothing: each
    has its time, others do not wait for them, and after that time they are gone."""

    def attack() -> None:
        begin = time.monotonic()
        silent = [box.line() for _ in range(20)]
        heads = [box.line().send(request("GET", "/mcp", None, None, box.host)[:40]) for _ in range(20)]
        bodies = [
            box.line().send(posted(box.host, b"", **{"Content-Length": "1000000"}) + b"x") for _ in range(20)
        ]
        streams = [
            box.line().send(request("GET", "/sse", {"Accept": "text/event-stream"}, None, box.host))
            for _ in range(20)
        ]
        unread = [box.line().send(call(box.host) * 200) for _ in range(5)]
        assert box.serves() and box.serves("unix")
        assert time.monotonic() - begin < 8
        for line in silent:
            assert line.to_end(20).statuses == []
        for line in (*heads, *bodies):
            assert line.to_end(25).statuses == [408]
        for line in (*streams, *unread):
            line.close()

    guarded(box, attack)


def test_many_connections(box: BlackBox) -> None:
    def attack() -> None:
        for _ in range(5):
            lines = [box.line() for _ in range(100)]
            for line in lines:
                line.send(b"POST /mcp HTTP/1.1\r\n")
            for line in lines:
                line.close()

    guarded(box, attack)


def test_a_half_closing_client_is_answered(box: BlackBox) -> None:
    """`nc -N`."""
    for place in PLACES:
        line = box.line(place).send(call(box.host))
        line.socket.shutdown(1)
        assert line.to_end(10).status == 200 and b'"result"' in line.bodies[-1]
        line.close()


@pytest.mark.parametrize("runner", RUNNERS)
def test_what_was_said_is_in_no_log(tmp_path: Path, runner: str) -> None:
    """Nothing that a stranger sent is written raw: no control character is in what the gateway has logged,
    where it logs most and tells of every request."""
    more = '[gateway]\nlog_level = "debug"\naudit = "stderr"\n'
    odd = "file:///odd\x1b[31m\nnotice \x9b2J"
    with black_box(tmp_path, runner, more) as box:
        box.ask(request("GET", "/\x1b[31m", None, None, box.host))
        box.ask(request("GET", "/mcp", {"Origin": "http://\x1b]0;evil"}, None, box.host))
        told = {"jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": {"uri": odd, "_meta": META}}
        name = f"=?base64?{b64encode(odd.encode()).decode()}?="
        headers = modern_headers("resources/read", name)
        line = box.ask(request("POST", "/mcp", headers, json.dumps(told).encode(), box.host))
        assert json.loads(line.bodies[-1])["error"]["data"] == {"uri": odd}
        assert box.gate.stop() == 0
        while box.gate.until(""):
            pass
        lines = box.gate.seen
    assert len([line for line in lines if "file:///odd" in line]) == 1
    assert not [char for char in "".join(lines) if not char.isprintable() and char != "\n"]
