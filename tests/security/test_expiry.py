"""What lives longer than a request ends with the credentials that opened it (J10), on virtual time.

Must never: wait in real time, or reach for a timer; the clock goes on and what is open is looked at.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable

import msgspec
import pytest

from fuzz.sim.http_clients import ModernHttp, Wire
from fuzz.sim.scene import Scene
from mcpgate_proto.config import AuthConfig, IssuerConfig
from mcpgate_proto.effects import Address
from mcpgate_proto.limits import Limits
from tests.security.porch import (
    CI,
    KEY,
    OPS,
    Headers,
    Porch,
    Visitor,
    bearer,
    configured,
    initialize,
    modern,
    request,
)
from tests.security.test_gate import UPGRADE
from tests.security.tokens import AUDIENCE, ISSUER, WALL, jwks, public, token

LEEWAY = Limits().token_leeway_s
ISSUERS = (IssuerConfig(issuer=ISSUER, jwks=jwks(public("rsa"))),)
EVENTS = ("Accept", "text/event-stream")


def porch(**expires: float) -> Porch:
    auth = AuthConfig(resource=AUDIENCE, keys=configured("ci", "ops", **expires), issuers=ISSUERS)
    return Porch(auth, websocket=True, sse=True)


def get_stream(visited: Porch, headers: Headers) -> Visitor:
    id = visited.session(headers)
    visitor = visited.visit()
    visitor.ask("GET", "/mcp", [("Mcp-Session-Id", id), EVENTS, *headers])
    return visitor


def sse_stream(visited: Porch, headers: Headers) -> Visitor:
    visitor = visited.visit()
    visitor.ask("GET", "/sse", [EVENTS, *headers])
    return visitor


def subscription(visited: Porch, headers: Headers) -> Visitor:
    visitor = visited.visit()
    mirrored, body = modern("subscriptions/listen", notifications={"toolsListChanged": True})
    visitor.post("/mcp", [*mirrored, *headers], body)
    assert b"acknowledged" in visitor.last().body
    return visitor


def socket(visited: Porch, headers: Headers) -> Visitor:
    visitor = visited.visit()
    assert visitor.ask("GET", "/mcp", [*UPGRADE, *headers]).status == 101
    return visitor


OPENED: list[Callable[[Porch, Headers], Visitor]] = [get_stream, sse_stream, subscription, socket]


def is_open(visitor: Visitor) -> bool:
    if visitor.answers[-1].status == 101:
        return not visitor.closed
    assert visitor.answers[-1].status == 200
    return not visitor.last().ended and not visitor.closed


@pytest.mark.parametrize("opened", OPENED)
@pytest.mark.parametrize("kind", ["key", "token"])
def test_long_lived_streams_end_on_time(opened: Callable[[Porch, Headers], Visitor], kind: str) -> None:
    visited = porch(ci=WALL + 600 + LEEWAY)
    headers = CI if kind == "key" else bearer(token(exp=int(WALL) + 600))
    visitor, other = opened(visited, headers), opened(visited, OPS)
    visited.run(600 + LEEWAY - 1)
    assert is_open(visitor)
    visited.run(2)
    assert not is_open(visitor) and is_open(other)
    assert visited.gateway.snapshot().counters["credentials_expired"] == 1
    refused = visited.ask("POST", "/mcp", headers, initialize())
    assert refused.status == 401 and b"has expired" in refused.body
    visited.run(300)
    assert visited.gateway.snapshot().counters["credentials_expired"] == 1


@pytest.mark.parametrize("opened", OPENED)
def test_a_clock_that_is_set_forward_ends_them_too(opened: Callable[[Porch, Headers], Visitor]) -> None:
    visited = porch(ci=WALL + 7200)
    visitor, other = opened(visited, CI), opened(visited, OPS)
    visited.set_clock(7000)
    assert is_open(visitor)
    visited.set_clock(300)
    assert not is_open(visitor) and is_open(other)


@pytest.mark.parametrize("opened", OPENED)
def test_a_clock_that_is_set_back_gives_them_the_time(opened: Callable[[Porch, Headers], Visitor]) -> None:
    visited = porch(ci=WALL + 30)
    visitor = opened(visited, CI)
    visited.set_clock(-3600)
    visited.run(31)
    assert is_open(visitor), "the timer fired, and the time of day was not there yet"
    visited.set_clock(3600)
    assert not is_open(visitor)


def test_between_two_words_on_the_time_of_day_it_goes_on() -> None:
    """The clock is told each minute; a token that ends in between ends in between."""
    visited = porch(ci=WALL + 10.5)
    assert visited.ask("POST", "/mcp", CI, initialize()).status == 200
    visited.run(10)
    assert visited.ask("POST", "/mcp", CI, initialize()).status == 200
    visited.run(1)
    assert visited.ask("POST", "/mcp", CI, initialize()).status == 401


def test_how_each_of_them_ends() -> None:
    visited = porch(ci=WALL + 60)
    get, sse, listen, ws = (opened(visited, CI) for opened in OPENED)
    visited.run(61)
    # A whole response, on a connection that goes on.
    assert get.last().ended and not get.closed
    assert sse.last().ended
    # G19: a subscription ends with its result.
    assert listen.last().ended and b'"resultType":"complete"' in listen.last().body
    # RFC 6455 section 7.4.1: policy violation.
    assert struct.pack("!H", 1008) + b"the credentials have expired" in ws.raw and ws.closed


def test_the_session_outlives_the_token_and_takes_the_next_one() -> None:
    visited = porch()
    first, second = bearer(token(exp=int(WALL) + 60)), bearer(token(exp=int(WALL) + 6000))
    visitor = get_stream(visited, first)
    (name,) = visited.gateway._sessions._all
    visited.run(60 + LEEWAY + 1)
    assert not is_open(visitor)
    named = ("Mcp-Session-Id", name)
    assert visited.ask("GET", "/mcp", [named, EVENTS, *first]).status == 401
    assert visited.ask("GET", "/mcp", [named, EVENTS, *second]).status == 200


def test_an_sse_session_ends_with_its_stream() -> None:
    visited = porch(ci=WALL + 60)
    sse_stream(visited, CI)
    assert visited.gateway.snapshot().sessions == 1
    visited.run(61)
    assert visited.gateway.snapshot().sessions == 0


def test_timers_go_with_what_they_were_for() -> None:
    visited = porch(ci=WALL + 10**6)
    for opened in OPENED:
        opened(visited, CI)
    for visitor in list(visited.visitors.values()):
        visitor.leave()
    # One sweeps the session that is left.
    assert visited.gateway.snapshot().timers == 1


# -- a reload


@pytest.mark.parametrize("opened", OPENED)
@pytest.mark.parametrize("how", ["removed", "changed"])
def test_a_key_that_is_gone_ends_what_it_opened(
    opened: Callable[[Porch, Headers], Visitor], how: str
) -> None:
    visited = porch()
    visitor, other = opened(visited, CI), opened(visited, OPS)
    sessions = visited.gateway.snapshot().sessions
    kept = configured("ops")
    if how == "changed":
        (ci,) = configured("ci")
        kept = (*kept, msgspec.structs.replace(ci, hash=ci.hash[:-1] + ("0" if ci.hash[-1] != "0" else "1")))
    visited.reload(AuthConfig(resource=AUDIENCE, keys=kept, issuers=ISSUERS))
    assert not is_open(visitor) and is_open(other)
    assert visited.gateway.snapshot().sessions <= sessions // 2 + sessions % 2
    assert visited.ask("POST", "/mcp", CI, initialize()).status == 401
    assert visited.ask("POST", "/mcp", OPS, initialize()).status == 200


@pytest.mark.parametrize("opened", OPENED)
def test_an_issuer_that_is_gone_ends_what_its_tokens_opened(
    opened: Callable[[Porch, Headers], Visitor],
) -> None:
    visited = porch()
    visitor, other = opened(visited, bearer(token(exp=10**10))), opened(visited, CI)
    visited.reload(AuthConfig(resource=AUDIENCE, keys=configured()))
    assert not is_open(visitor) and is_open(other)
    assert visited.ask("GET", "/.well-known/oauth-protected-resource").status == 401


def test_a_session_of_a_key_that_is_gone_is_gone_though_nothing_is_open() -> None:
    visited = porch()
    id = visited.session(CI)
    visited.reload(AuthConfig(resource=AUDIENCE, keys=configured("ops"), issuers=ISSUERS))
    assert visited.gateway.snapshot().sessions == 0
    visited.reload(AuthConfig(resource=AUDIENCE, keys=configured(), issuers=ISSUERS))
    assert visited.ask("DELETE", "/mcp", [("Mcp-Session-Id", id), *CI]).status == 404


@pytest.mark.parametrize("opened", OPENED)
def test_who_came_in_before_there_were_keys_is_out_when_there_are(
    opened: Callable[[Porch, Headers], Visitor],
) -> None:
    visited = Porch(AuthConfig(), websocket=True, sse=True)
    visitor = opened(visited, [])
    assert is_open(visitor)
    visited.reload(AuthConfig(keys=configured()))
    assert not is_open(visitor) and visited.gateway.snapshot().sessions == 0
    assert visited.ask("POST", "/mcp", [], initialize()).status == 401


@pytest.mark.parametrize("opened", OPENED)
def test_a_reload_of_the_same_ends_nothing(opened: Callable[[Porch, Headers], Visitor]) -> None:
    visited = porch()
    visitors = [opened(visited, headers) for headers in (CI, bearer(token(exp=10**10)))]
    sessions = visited.gateway.snapshot().sessions
    visited.reload(AuthConfig(resource=AUDIENCE, keys=configured(), issuers=ISSUERS))
    assert all(map(is_open, visitors)) and visited.gateway.snapshot().sessions == sessions


# -- the wait for keys, at the door

URL = "http://127.0.0.1:9900/keys"


def fetching(**limits: float) -> Porch:
    issuer = IssuerConfig(issuer=ISSUER, jwks_url=URL)
    auth = AuthConfig(resource=AUDIENCE, keys=configured(), issuers=(issuer,))
    visited = Porch(auth, config={"limits": Limits(**limits)}, websocket=True, sse=True)  # type: ignore[arg-type]
    visited.served = lambda path: jwks(public("rsa")).encode()
    return visited


def late_keys(**limits: float) -> Porch:
    """The first set has none of the keys that are asked for, and what is asked next is stalled."""
    visited = fetching(**limits)
    visited.stalls = True
    return visited


def test_keys_come_over_the_gateways_own_client() -> None:
    visited = fetching()
    visited.run(0.1)
    assert visited.ask("POST", "/mcp", bearer(token()), initialize()).status == 200
    assert visited.fetched == ["/keys"]


@pytest.mark.parametrize("cut", [None, 40, -5])
def test_a_request_waits_whole_or_in_pieces(cut: int | None) -> None:
    """Its body may come along, or while it waits; others pass; nobody is read further meanwhile."""
    visited = late_keys()
    visited.run(0.1)
    head = "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nContent-Type: application/json\r\n"
    lines = head + f"Content-Length: {len(initialize())}\r\nAuthorization: Bearer {token()}\r\n\r\n"
    data = lines.encode() + initialize()
    visitor = visited.visit()
    if cut is None:
        visitor.send(data)
    else:
        visitor.send(data[:cut])
        visitor.send(data[cut:])
    assert not visitor.answers and visitor.conn in visited.paused
    assert visited.ask("POST", "/mcp", CI, initialize()).status == 200
    visited.serve_now()
    assert visitor.last().status == 200 and visitor.conn not in visited.paused
    assert visitor.ask("GET", "/nothing", CI).status == 404, "the connection goes on"


def test_pipelined_requests_wait_in_their_order() -> None:
    visited = late_keys()
    visited.run(0.1)
    visitor = visited.visit()
    one = request("GET", "/nothing", bearer(token()), None)
    visitor.send(one + request("GET", "/mcp", [], None) + one)
    assert not visitor.answers
    visited.serve_now()
    visited.run(0.1)
    assert [answer.status for answer in visitor.answers] == [404, 401, 404]


def test_an_upgrade_waits() -> None:
    visited = late_keys()
    visited.run(0.1)
    visitor = visited.visit()
    assert visitor.ask("GET", "/mcp", [*UPGRADE, *bearer(token())]).status == 0
    visited.serve_now()
    assert visitor.last().status == 101


def test_who_waits_too_long_gets_503_and_the_connection_goes_on() -> None:
    visited = late_keys()
    visited.run(0.1)
    visitor = visited.visit()
    assert visitor.ask("POST", "/mcp", bearer(token()), initialize()).status == 0
    visited.run(Limits().auth_wait_s + 0.1)
    assert visitor.last().status == 503 and visitor.last().headers["retry-after"] == "5"
    assert visitor.ask("POST", "/mcp", CI, initialize()).status == 200
    visited.serve_now()
    assert [answer.status for answer in visitor.answers] == [503, 200]


def test_too_many_that_wait_get_503_at_once() -> None:
    visited = late_keys(auth_waiting=3)
    visited.run(0.1)
    waiting = [visited.visit() for _ in range(3)]
    for visitor in waiting:
        assert visitor.ask("GET", "/nothing", bearer(token())).status == 0
    assert visited.ask("GET", "/nothing", bearer(token())).status == 503
    assert visited.ask("GET", "/nothing", CI).status == 404
    visited.serve_now()
    assert [visitor.last().status for visitor in waiting] == [404] * 3
    assert visited.ask("GET", "/nothing", bearer(token())).status == 404


def test_who_is_gone_while_waiting_leaves_room() -> None:
    visited = late_keys(auth_waiting=1)
    visited.run(0.1)
    visitor = visited.visit()
    visitor.ask("GET", "/nothing", bearer(token()))
    visitor.leave()
    visitor = visited.visit()
    assert visitor.ask("GET", "/nothing", bearer(token())).status == 0
    visitor.eof()
    visited.serve_now()
    assert visitor.last().status == 404, "one that has only ended its sending side still gets its answer"


def test_a_request_that_breaks_off_while_it_waits() -> None:
    visited = late_keys(auth_waiting=1)
    visited.run(0.1)
    visitor = visited.visit()
    visitor.send(b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nContent-Type: application/json\r\n")
    visitor.send(f"Authorization: Bearer {token()}\r\nContent-Length: 100\r\n\r\nhalf".encode())
    visitor.eof()
    assert visitor.closed
    assert visited.ask("GET", "/nothing", bearer(token())).status == 0, "there is room again"
    visited.serve_now()


def test_the_gateway_stops_while_somebody_waits() -> None:
    visited = late_keys()
    visited.run(0.1)
    visitor = visited.visit()
    visitor.ask("GET", "/nothing", bearer(token()))
    visited.feed("shutdown", 0.0)
    assert visitor.closed


def test_an_issuer_on_this_machine_by_its_name_only_is_not_asked() -> None:
    """Its URL does not say loopback; that its name leads there makes it a way in (row 40, K3)."""
    issuer = IssuerConfig(issuer=ISSUER, jwks_url="https://idp.example/keys")
    visited = Porch(AuthConfig(resource=AUDIENCE, issuers=(issuer,)))
    (lookup,) = visited.gateway._hub._lookups
    visited.feed("resolved", lookup, [Address(host="127.0.0.1"), Address(host="169.254.169.254")])
    visited.run(0.1)
    assert visited.fetched == [] and visited.logged("jwks_failed")
    assert visited.ask("GET", "/mcp", bearer(token())).status == 503


# -- what goes on behind the gate


def test_the_token_of_a_client_never_reaches_a_server() -> None:
    """J5, J6, K2: with a call that goes all the way."""

    class Keyed(Wire):
        def send(self, method, headers, body, call, path="/mcp"):  # type: ignore[no-untyped-def]
            super().send(method, [*headers, *CI], body, call, path)

    class Client(ModernHttp):
        def wire(self) -> Wire:
            made = Keyed(self)
            self.wires.append(made)
            return made

    for era in ("legacy", "modern"):
        scene = Scene({"one": ("http", (era,))}, auth=AuthConfig(keys=configured())).start()
        client = Client(scene.world, "c")
        client.principal = "key:ci"
        assert "content" in json.dumps(scene.done(client.tool("echo", token="t")).result)
        heard = repr(scene.only.requests).lower()
        assert "mcp" in heard and "authorization" not in heard and KEY["ci"] not in heard


def _begun(visited: Porch, key: Headers) -> tuple[Visitor, bytes]:
    """A request that was let in and whose body is still coming; and what is missing of it."""
    whole = request("POST", "/mcp", [("Content-Type", "application/json"), *key], initialize())
    visitor = visited.visit()
    visitor.send(whole[:-20])
    return visitor, whole[-20:]


@pytest.mark.parametrize("named", [True, False], ids=["its key is gone", "anonymous before"])
def test_a_body_that_still_comes_when_its_credentials_go(named: bool) -> None:
    visited = Porch(AuthConfig(keys=configured("ci", "ops")) if named else AuthConfig())
    visitor, _rest = _begun(visited, CI if named else [])
    visited.reload(AuthConfig(keys=configured("ops")))
    assert visitor.closed and visited.gateway.snapshot().sessions == 0


@pytest.mark.parametrize(("wait_s", "status"), [(3.0, 200), (9.0, 401)])
def test_a_body_that_ends_when_its_credentials_have_expired(wait_s: float, status: int) -> None:
    visited = Porch(AuthConfig(keys=configured("ci", ci=WALL + 5)))
    visitor, rest = _begun(visited, CI)
    visited.run(wait_s)
    visitor.send(rest)
    assert visitor.last().status == status


def test_a_socket_whose_first_frame_came_with_the_upgrade_is_read_on() -> None:
    visited = late_keys()
    visited.run(0.1)
    visitor = visited.visit()
    ping = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
    frame = bytes([0x81, 0x80 | len(ping)]) + bytes(4) + ping
    visitor.send(request("GET", "/mcp", [*UPGRADE, *bearer(token(exp=WALL + 10**7))], None) + frame)
    visited.serve_now()
    visited.run(0.1)
    assert visitor.last().status == 101 and visitor.conn not in visited.paused
