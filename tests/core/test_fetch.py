"""Documents that the gateway fetches: bounded in every way, from addresses that were checked.

Owns: a `Hub` with nothing above it and the network's part by hand. Must never: wait in real time.
"""

from __future__ import annotations

from typing import Any

import pytest

from mcpgate_proto.config import GatewayConfig
from mcpgate_proto.effects import Abort, Address, Connect, Peer, Resolve, Write
from mcpgate_proto.hub import Hub
from mcpgate_proto.limits import Limits
from mcpgate_proto.upstream.fetch import Fetcher, FetchFailed, FetchRequest, FetchResponse, FetchResult

URL = "https://keys.example/jwks"
JSON = "application/json"


class Scene:
    """One fetcher and what it asks of the outside."""

    def __init__(self, **limits: Any) -> None:
        self.hub = Hub(GatewayConfig(limits=Limits(**limits)), now=0.0, wall=1.7e9, seed=bytes(32))
        self.fetcher = Fetcher(self.hub)
        self.results: list[FetchResult] = []
        self.effects: list[Any] = []

    def fetch(self, url: str = URL, **more: Any) -> None:
        before = len(self.results)
        self.fetcher.fetch(FetchRequest(url=url, **more), self.results.append)
        assert len(self.results) == before, "called from within"
        self.pass_time(0.0)

    def pass_time(self, delay_s: float) -> None:
        self.hub.now += delay_s
        for timer in self.hub.timers.due(self.hub.now):
            timer.run()
        self.effects += self.hub.drain()

    def drained(self, kind: type) -> list[Any]:
        self.effects += self.hub.drain()
        found = [one for one in self.effects if type(one) is kind]
        self.effects = [one for one in self.effects if type(one) is not kind]
        return found

    def found(self, *hosts: str) -> None:
        """Answer the one look-up."""
        (lookup,) = self.drained(Resolve)
        self.hub.looked_up(lookup.lookup, [Address(host=host) for host in hosts], "")

    def dials(self) -> list[Connect]:
        return self.drained(Connect)

    def up(self, *hosts: str) -> int:
        """Look-up, dial, and the connection stands."""
        self.found(*hosts or ("8.8.8.8",))
        (dial,) = self.dials()
        self.connect(dial.conn)
        return dial.conn

    def connect(self, conn: int) -> None:
        self.hub.connections[conn].handler.connected(Peer(kind="tcp"), None)

    def sent(self) -> bytes:
        return b"".join(b"".join(one.chunks) for one in self.drained(Write))

    def answer(self, conn: int, data: bytes) -> None:
        self.hub.connections[conn].handler.received(data)

    @property
    def reason(self) -> str:
        (result,) = self.results
        assert isinstance(result, FetchFailed), result
        return result.reason


def response(body: bytes = b"{}", status: str = "200 OK", content_type: str = JSON, extra: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


def test_a_get_and_its_answer() -> None:
    scene = Scene()
    scene.fetch(headers=(("X-Y", "z"),))
    scene.found("8.8.8.8")
    (dial,) = scene.dials()
    assert dial.address == Address(host="8.8.8.8", port=443) and dial.tls.server_name == "keys.example"
    scene.connect(dial.conn)
    request = scene.sent().decode()
    assert request.startswith("GET /jwks HTTP/1.1\r\n")
    for line in ("Host: keys.example", "Accept-Encoding: identity", "Accept: application/json", "X-Y: z"):
        assert f"\r\n{line}\r\n" in request
    scene.answer(dial.conn, response(b'{"keys":[]}'))
    (result,) = scene.results
    assert isinstance(result, FetchResponse) and (result.status, result.body) == (200, b'{"keys":[]}')
    assert [one.conn for one in scene.drained(Abort)] == [dial.conn], "the connection is not kept"
    assert len(scene.hub.timers) == 1, "but for the stall timer of the connection, nothing is left"


def test_a_post_has_its_body() -> None:
    scene = Scene()
    scene.fetch(method="POST", body=b"a=b")
    scene.up()
    assert scene.sent().endswith(b"Content-Length: 3\r\n\r\na=b")


@pytest.mark.parametrize("status", ["301 x", "302 x", "303 x", "307 x", "308 x", "300 x", "304 x"])
def test_a_redirect_is_not_followed(status: str) -> None:
    scene = Scene()
    scene.fetch()
    conn = scene.up()
    scene.sent()
    location = "Location: https://keys.example/other\r\n"
    scene.answer(conn, f"HTTP/1.1 {status}\r\n{location}Content-Length: 0\r\n\r\n".encode())
    assert "redirects are not followed" in scene.reason
    assert not scene.dials() and not scene.drained(Resolve) and not scene.sent()


@pytest.mark.parametrize(
    ("url", "allow"),
    [
        ("http://keys.example/", {}),
        ("http://127.0.0.1/", {}),
        ("https://u@keys.example/", {"allow_loopback": True}),
        ("ftp://keys.example/", {"allow_loopback": True, "allow_private": True}),
        ("http://10.0.0.1/", {"allow_loopback": True, "allow_private": True}),
    ],
)
def test_a_url_that_breaks_the_rules_is_not_even_looked_up(url: str, allow: dict[str, bool]) -> None:
    scene = Scene()
    scene.fetch(url, **allow)
    assert "URL" in scene.reason
    assert not scene.drained(Resolve) and not scene.dials()


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "10.0.0.7", "169.254.169.254", "::1", "::ffff:10.0.0.1", "0.0.0.0"]
)
def test_the_address_that_would_be_dialled_is_what_counts(host: str) -> None:
    """threats.md rows 38 and 40; DNS rebinding: the name is public, its address is not."""
    scene = Scene()
    scene.fetch()
    scene.found(host)
    assert "may not be dialled" in scene.reason and not scene.dials()


def test_of_several_addresses_only_the_permitted_are_dialled() -> None:
    scene = Scene()
    scene.fetch()
    scene.found("169.254.169.254", "8.8.8.8", "10.0.0.1", "1.1.1.1", "127.0.0.1")
    dialled = []
    while dials := scene.dials():
        dialled += [one.address.host for one in dials]
        handler = scene.hub.connections[dials[0].conn].handler
        scene.hub.forget(dials[0].conn)
        handler.connect_failed("refused")
    assert dialled == ["8.8.8.8", "1.1.1.1"]
    assert "cannot connect" in scene.reason


@pytest.mark.parametrize(
    ("url", "allow", "host", "passes"),
    [
        ("https://10.0.0.1/", {}, "", False),
        ("https://10.0.0.1/", {"allow_private": True}, "", True),
        ("https://127.0.0.1/", {"allow_private": True}, "", False),
        ("https://127.0.0.1/", {"allow_loopback": True}, "", True),
        ("http://127.0.0.1/", {"allow_loopback": True}, "", True),
        ("http://localhost/", {"allow_loopback": True}, "127.0.0.1", True),
        # A `localhost` that the resolver sends elsewhere gets nothing in the clear.
        ("http://localhost/", {"allow_loopback": True, "allow_private": True}, "10.0.0.1", False),
        ("http://localhost/", {"allow_loopback": True}, "8.8.8.8", False),
        ("https://169.254.169.254/", {"allow_loopback": True, "allow_private": True}, "", False),
        ("https://[64:ff9b::a9fe:a9fe]/", {"allow_loopback": True, "allow_private": True}, "", False),
    ],
)
def test_what_the_operator_allows(url: str, allow: dict[str, bool], host: str, passes: bool) -> None:
    scene = Scene()
    scene.fetch(url, **allow)
    if host:
        scene.found(host)
    assert bool(scene.dials()) is passes
    if not passes:
        assert "may not be dialled" in scene.reason


@pytest.mark.parametrize("chunked", [True, False])
def test_an_answer_that_is_too_large(chunked: bool) -> None:
    scene = Scene()
    scene.fetch(most_bytes=100)
    conn = scene.up()
    scene.sent()
    if chunked:
        scene.answer(
            conn, b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(3):
            if not scene.results:
                scene.answer(conn, b"32\r\n" + b"x" * 50 + b"\r\n")
    else:
        scene.answer(conn, response(b"x" * 101))
    assert "larger than 100 bytes" in scene.reason
    assert [one.conn for one in scene.drained(Abort)] == [conn]


def test_exactly_as_large_as_it_may_be() -> None:
    scene = Scene()
    scene.fetch(most_bytes=100)
    scene.answer(scene.up(), response(b"x" * 100))
    (result,) = scene.results
    assert isinstance(result, FetchResponse) and len(result.body) == 100


@pytest.mark.parametrize("kind", ["text/html", "application/javascript", "", "text/json"])
def test_a_success_that_is_not_json(kind: str) -> None:
    scene = Scene()
    scene.fetch()
    scene.answer(scene.up(), response(content_type=kind))
    assert "not JSON" in scene.reason


@pytest.mark.parametrize("kind", ["application/json;charset=utf-8", "Application/JWK-Set+JSON"])
def test_kinds_of_json(kind: str) -> None:
    scene = Scene()
    scene.fetch()
    scene.answer(scene.up(), response(content_type=kind))
    assert isinstance(scene.results[0], FetchResponse)


def test_an_error_keeps_its_status_and_headers_but_no_foreign_body() -> None:
    scene = Scene()
    scene.fetch()
    scene.answer(
        scene.up(), response(b"<p>", "401 Unauthorized", "text/html", "WWW-Authenticate: Bearer\r\n")
    )
    (result,) = scene.results
    assert isinstance(result, FetchResponse)
    assert (result.status, result.body) == (401, b"") and result.headers.get("www-authenticate") == "Bearer"


def test_a_coded_body_is_refused() -> None:
    scene = Scene()
    scene.fetch()
    scene.answer(scene.up(), response(extra="Content-Encoding: gzip\r\n"))
    assert "content coding" in scene.reason


@pytest.mark.parametrize("when", ["look-up", "dial", "head", "body"])
def test_it_takes_no_longer_than_it_may(when: str) -> None:
    scene = Scene()
    scene.fetch(timeout_s=5.0)
    if when != "look-up":
        scene.found("8.8.8.8")
        (dial,) = scene.dials()
        if when != "dial":
            scene.connect(dial.conn)
        if when == "body":
            scene.answer(dial.conn, response(b"x" * 50)[:-1])
    scene.pass_time(4.9)
    assert not scene.results
    scene.pass_time(0.2)
    assert "in time" in scene.reason
    if when != "look-up":
        assert scene.drained(Abort)


def test_identical_gets_are_one_and_posts_are_not() -> None:
    scene = Scene()
    for _ in range(3):
        scene.fetch()
    scene.answer(scene.up(), response())
    assert len(scene.results) == 3 and not scene.dials()
    for _ in range(2):
        scene.fetch(method="POST")
    scene.fetch(headers=(("Authorization", "Bearer of-another"),))
    scene.found("8.8.8.8")
    assert len(scene.dials()) == 3


def test_only_so_many_at_one_time_and_only_so_many_wait() -> None:
    scene = Scene(fetches=2, fetches_waiting=3)
    for number in range(6):
        scene.fetch(f"https://8.8.8.8/{number}")
    assert scene.reason == "too many documents are being fetched"
    first, second = scene.dials()
    scene.connect(first.conn)
    scene.answer(first.conn, response())
    scene.pass_time(0.0)
    assert len(scene.dials()) == 1, "one is over, the next begins"
    scene.pass_time(15.0)
    scene.pass_time(0.0)
    assert len(scene.results) == 6 and not scene.dials(), "the wait in the queue counts"


@pytest.mark.parametrize(
    "header", [("X", "a\r\nY: b"), ("X", "\x00"), ("X y", "z"), ("X", "\u00e4"), ("", "z"), ("X:", "z")]
)
def test_a_header_that_would_be_two_is_refused(header: tuple[str, str]) -> None:
    scene = Scene()
    scene.fetch(headers=(header,))
    assert "header" in scene.reason and not scene.drained(Resolve)


def test_stop_ends_everything() -> None:
    scene = Scene(fetches=1)
    scene.fetch("https://8.8.8.8/1")
    scene.fetch("https://8.8.8.8/2")
    (dial,) = scene.dials()
    scene.connect(dial.conn)
    scene.fetcher.stop()
    assert [one.reason for one in scene.results if isinstance(one, FetchFailed)] == ["stopped", "stopped"]
    assert [one.conn for one in scene.drained(Abort)] == [dial.conn] and not scene.dials()
