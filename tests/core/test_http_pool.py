"""Who of many gets the next connection to a server, and what it costs to decide that.

Owns: an `HttpPool` with nothing around it. Must never: measure time; what is done is counted.
"""

from __future__ import annotations

from mcpgate_proto.config import GatewayConfig, ServerConfig
from mcpgate_proto.effects import Connect, Peer
from mcpgate_proto.hub import Hub
from mcpgate_proto.limits import Limits
from mcpgate_proto.upstream.http_pool import HttpPool, HttpRequest, Ticket
from mcpgate_proto.wire.http1_grammar import Headers


class Principal(str):
    """Counts how often a request of its is looked at."""

    looks = 0

    def __hash__(self) -> int:
        Principal.looks += 1
        return super().__hash__()


class Silent:
    """Nobody listens."""

    def response_head(self, status: int, headers: Headers) -> None: ...
    def response_data(self, data: bytes) -> None: ...
    def response_end(self) -> None: ...
    def response_failed(self, sent: bool, reason: str) -> None: ...


class Scene:
    def __init__(self, most: int, each: int) -> None:
        limits = Limits(http_connections_per_server=most, http_connections_per_principal=each)
        self.hub = Hub(GatewayConfig(limits=limits), now=0.0, wall=1.7e9, seed=bytes(32))
        self.pool = HttpPool(self.hub, ServerConfig(name="a", transport="http", url="http://192.0.2.1/mcp"))

    def send(self, whose: str = "", *, pinned: bool = False) -> Ticket:
        request = HttpRequest("POST", "/mcp", [], pinned=pinned, whose=whose)
        return self.pool.send(Silent(), request)

    def dials(self) -> int:
        return sum(isinstance(one, Connect) for one in self.hub.drain())

    def steps(self, whose: str) -> int:
        """How much one more request is to think about."""
        before = Principal.looks
        self.send(whose)
        return Principal.looks - before


def test_thousands_that_wait_cost_the_next_one_nothing() -> None:
    scene = Scene(most=8, each=6)
    many, other = Principal("many"), Principal("other")
    waiting = [scene.send(many) for _ in range(2000)]
    assert scene.dials() == 6
    assert scene.steps(many) < 50 and scene.steps(other) < 50
    for ticket in waiting[1000:]:
        ticket.abandon()
    assert scene.steps(many) < 50 and scene.steps(other) < 50


def test_the_first_of_those_who_may_goes_first() -> None:
    scene = Scene(most=4, each=3)
    running = [scene.send("a") for _ in range(3)]
    later = scene.send("a")
    assert scene.dials() == 3 and later.connection is None
    own, last = scene.send(), scene.send("b")
    assert own.connection is not None and last.connection is None, "room for one more"
    running[0].abandon()
    assert later.connection is not None and last.connection is None
    stream = scene.send("b", pinned=True)
    assert stream.connection is not None, "streams are apart"
    own.abandon()
    assert last.connection is not None


def test_who_gives_up_while_it_waits_takes_no_connection() -> None:
    scene = Scene(most=1, each=1)
    first, second, third = (scene.send("a") for _ in range(3))
    second.abandon()
    first.abandon()
    assert scene.dials() == 2 and second.connection is None and third.connection is not None


def test_who_waits_hears_of_the_end_and_who_says_farewell_still_goes() -> None:
    scene = Scene(most=1, each=1)
    scene.send("a")
    waiting = scene.send("a")
    farewell = scene.pool.send(Silent(), HttpRequest("DELETE", "/mcp", [], farewell=True))
    scene.pool.stop()
    assert waiting.done and waiting.connection is None
    assert farewell.connection is not None


def test_the_connections_for_what_calls_wait_for_are_not_taken_by_calls() -> None:
    scene = Scene(most=1, each=1)
    scene.send("a")
    for _ in range(12):  # one after the other
        asked = scene.pool.send(Silent(), HttpRequest("POST", "/mcp", [("Host", "a")], brief=True))
        assert asked.connection is not None
        if not asked.sent:
            asked.connection.connected(Peer(kind="tcp"), None)
        asked.connection.received(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert asked.done
    assert scene.dials() == 2, "used again"
    assert scene.send("b").connection is None
