"""Refusals of those who come too often, or from where nobody may: what they are told on each transport, what
it costs others, and that they are told so at all (threats.md section 0, Rate limiting and Firewall rules).

Must never: wait in real time.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from fuzz.sim.clients import FORM
from fuzz.sim.scene import FAST, Scene
from mcpgate_proto.config import Rate, RateConfig
from mcpgate_proto.security.rate import FAILED_AUTHENTICATION
from tests.threats.raw import (
    DUAL,
    HOST,
    LEGACY,
    MODERN_ERA,
    Raw,
    ask,
    body_of,
    call_of,
    legacy_session,
    post,
    serves,
    ws_open,
)

GET = f"GET /mcp HTTP/1.1\r\nHost: {HOST}\r\nAccept: text/event-stream\r\n\r\n".encode()


def scene_of(
    *,
    eras: tuple[str, ...] = DUAL,
    rate: dict[str, Any] | None = None,
    server: dict[str, Any] | None = None,
    limits: dict[str, Any] | None = None,
    listeners: tuple[str, ...] = ("http", "unix", "unix-2000"),
    **listen: Any,
) -> Scene:
    scene = Scene(
        {"one": ("stdio", eras)},
        listeners=listeners,
        sockets=True,
        options={"one": server or {}},
        limits=msgspec.structs.replace(FAST, **(limits or {})),
        rate=RateConfig(**(rate or {})),
        listen=listen,
    ).start()
    scene.run(1.0)
    return scene


def count(scene: Scene, name: str) -> int:
    return scene.world.snapshot().counters.get(name, 0)


def limited(answer: Any) -> int:
    """The wait that an error of this kind tells of, in milliseconds."""
    error = answer["error"]
    assert error["code"] == -32603 and error["data"]["reason"] == "rate_limited"
    assert error["data"]["origin"] == "gateway"
    return int(error["data"]["retryAfterMs"])


# -- over HTTP


@pytest.mark.parametrize("what", ["address", "principal"])
def test_over_http_it_is_429_with_the_wait_and_the_id_of_the_request(what: str) -> None:
    scene = scene_of(rate={what: Rate(0.5, 3)})
    raw = Raw(scene)
    for number in range(3):
        raw.send(call_of(id=number), 0.0)
    scene.run(0.5)
    assert raw.statuses == [200, 200, 200]
    raw.send(call_of(id="mine"))
    assert raw.last.status == 429
    assert raw.last.json["id"] == "mine"
    assert 1000 < limited(raw.last.json) <= 2000
    assert raw.last.headers["retry-after"] == "2"
    assert count(scene, f"refused_rate_{what}") == 1
    scene.run(2.0)
    assert raw.send(call_of(id=9)).last.status == 200, "the connection stays, and the wait was enough"


def test_a_body_that_has_not_come_yet_is_not_waited_for() -> None:
    """The error is about the POST all the same; its id is not known."""
    scene = scene_of(rate={"principal": Rate(0.5, 1)})
    raw = Raw(scene).send(call_of())
    head, _, body = call_of().partition(b"\r\n\r\n")
    raw.send(head + b"\r\n\r\n")
    assert raw.last.status == 429 and "id" not in raw.last.json
    assert raw.last.headers["connection"] == "close"
    raw.send(body)
    assert len(raw.responses) == 2


def test_what_has_no_body_is_counted_too() -> None:
    scene = scene_of(rate={"principal": Rate(0.5, 2)})
    raw = Raw(scene).send(GET).send(GET)
    assert raw.statuses == [400, 400]
    assert raw.send(GET).last.status == 429
    raw.send(f"DELETE /mcp HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
    assert raw.last.status == 429 and raw.last.headers["retry-after"] == "1"


def test_refused_requests_use_nothing_up() -> None:
    scene = scene_of(rate={"address": Rate(1, 1)})
    raw = Raw(scene).send(call_of(), 0.0)
    for _ in range(100):
        raw.send(call_of(), 0.0)
    scene.run(1.0)
    assert raw.send(call_of()).last.status == 200
    assert raw.statuses.count(200) == 2


def test_addresses_do_not_pay_for_each_other() -> None:
    scene = scene_of(rate={"address": Rate(0.01, 2)})
    for host, statuses in (("192.0.2.1", [200, 200, 429]), ("2001:db8::1", [200, 200, 429])):
        scene.net.client_host = host
        assert [ask(scene, call_of()).last.status for _ in range(3)] == statuses
    scene.net.client_host = "2001:db8::ffff"
    assert ask(scene, call_of()).last.status == 429, "the same /64"
    scene.net.client_host = "192.0.2.2"
    assert ask(scene, call_of()).last.status == 200


def test_a_batch_counts_by_message() -> None:
    """2025-03-26: the first was paid with the POST, of the others each costs."""
    scene = scene_of(rate={"principal": Rate(0.01, 5)})
    headers = legacy_session(scene, "2025-03-26")  # initialize, initialized: two
    parts = [body_of(id=number, modern=False, name="echo", arguments={}) for number in range(4)]
    parts.insert(1, {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"})
    raw = ask(scene, post(json.dumps(parts).encode(), headers))
    assert raw.last.status == 200
    answers = {one["id"]: one for message in raw.last.messages for one in _flat(message)}
    assert [("error" in answers[number]) for number in range(4)] == [False, False, True, True]
    assert limited(answers[2]) > 1000
    assert count(scene, "refused_rate_principal") == 2


def _flat(message: Any) -> list[Any]:
    return message if isinstance(message, list) else [message]


def test_http_sse_of_2024_counts_the_post_and_tells_over_http() -> None:
    scene = scene_of(rate={"principal": Rate(0.5, 4)})
    client = scene.legacy_sse()  # the stream, initialize, initialized
    done = scene.done(client.tool("echo"))
    assert done.text == done.nonce
    raw = ask(scene, post(b"{}", path="/messages?session=none"))
    assert raw.last.status == 429


# -- over sockets


@pytest.mark.parametrize("kind", ["unix", "websocket"])
def test_on_sockets_it_is_an_error_with_the_id(kind: str) -> None:
    scene = scene_of(rate={"principal": Rate(0.05, 3)})
    if kind == "unix":
        raw = Raw(scene, "unix-2000", "unix other")
        say = lambda message: raw.send(json.dumps(message).encode() + b"\n")  # noqa: E731
        heard = lambda: raw.lines  # noqa: E731
        more = 3
    else:
        raw = ws_open(scene)  # the upgrade is a request, too
        say = lambda message: raw.frame(1, json.dumps(message).encode())  # noqa: E731
        heard = lambda: raw.texts  # noqa: E731
        more = 2
    for number in range(more):
        say(body_of(id=number, name="echo", arguments={}))
    assert all("result" in one for one in heard()) and len(heard()) == more
    say(body_of(id="over", name="echo", arguments={}))
    assert heard()[-1]["id"] == "over" and 18_000 < limited(heard()[-1]) <= 20_000
    say({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"})
    scene.run(1.0)  # for as long nothing is read
    assert len(heard()) == more + 1, "a notification is dropped and not answered (A3)"
    assert count(scene, "refused_rate_principal") == 2
    scene.run(20.0)
    say(body_of(id="later", name="echo", arguments={}))
    assert heard()[-1]["id"] == "later" and "result" in heard()[-1]


def test_a_flood_on_a_socket_is_not_read_faster_than_it_is_refused() -> None:
    scene = scene_of(rate={"principal": Rate(10, 10)})
    raw = ws_open(scene)
    stream = raw.stream
    raw.frame(1, json.dumps(body_of(id=0, method="ping")).encode() * 1, 0.0)
    for number in range(300):
        raw.frame(1, json.dumps(body_of(id=number, name="echo", arguments={})).encode(), 0.0)
    scene.run(0.05)
    assert stream.pauses >= 1
    scene.run(60.0)
    assert len(raw.texts) == 301, "each was answered in the end, refused or not"
    assert serves(scene)


def test_the_local_caller_is_not_limited_by_principal() -> None:
    scene = scene_of(rate={"principal": Rate(0.01, 1), "concurrent_calls": 1})
    client = scene.modern_pipe(listener="unix")
    calls = [client.tool("slow", steps=2) for _ in range(20)]
    scene.done(*calls)
    assert all(call.code is None for call in calls)


def test_answers_and_cancellations_pass_over_the_limit() -> None:
    """What a server was asked for by way of us is never lost for want of a token."""
    scene = scene_of(eras=LEGACY, rate={"principal": Rate(0.0001, 4)})
    client = scene.legacy_ws(capabilities=FORM)  # the upgrade, initialize, initialized
    client.answer_after = 0.5
    call = client.tool("ask")
    scene.done(call)
    assert call.text == f"{call.nonce}|{client.name} says {call.nonce}"
    refused = client.tool("echo")
    scene.done(refused)
    assert refused.code == -32603


# -- tools and servers


@pytest.mark.parametrize("kind", ["legacy", "modern"])
def test_a_tools_rate_is_of_one_tool_and_says_when(kind: str) -> None:
    scene = scene_of(rate={"tool": Rate(0.5, 2)})
    client = scene.legacy() if kind == "legacy" else scene.modern()
    first, second, third = client.tool("echo"), client.tool("echo"), client.tool("echo")
    other = client.tool("big", size=10)
    scene.done(first, second, third, other)
    assert first.code is None and second.code is None and other.code is None
    assert 1000 < limited({"error": third.error}) <= 2000
    # C36: a legacy client takes any other status for the end of its connection.
    assert third.status == (200 if kind == "legacy" else 429)
    assert third.headers.get("retry-after") == (None if kind == "legacy" else "2")
    assert count(scene, "refused_rate_tool") == 1
    assert "errorId" not in third.error["data"]
    scene.run(2.0)
    assert scene.done(client.tool("echo")).code is None
    assert scene.problems() == []


def test_own_rates_of_servers_and_tools() -> None:
    scene = scene_of(server={"rate": Rate(0.01, 5), "tool_rates": {"echo": Rate(0.01, 1)}})
    client, other = scene.modern(), scene.modern_pipe(listener="unix")
    assert scene.done(client.tool("echo")).code is None
    assert scene.done(client.tool("echo")).code == -32603
    assert scene.done(other.tool("echo")).code is None, "another principal"
    for _ in range(3):
        assert scene.done(client.tool("big", size=1)).code is None
    refused = scene.done(other.tool("big", size=1))
    assert limited({"error": refused.error}) > 60_000
    assert count(scene, "refused_rate_server") == 1 and count(scene, "refused_rate_tool") == 1
    assert scene.done(client.request("tools/list", {})).code is None, "lists are no calls"


@pytest.mark.parametrize("eras", [LEGACY, MODERN_ERA], ids=["parked", "upstream's state"])
def test_a_retry_counts_like_a_call_and_its_state_outlives_a_refusal(eras: tuple[str, ...]) -> None:
    scene = scene_of(eras=eras, rate={"tool": Rate(0.2, 1)})
    client = scene.modern(capabilities=FORM)
    client.answer_after = None
    call = scene.done(client.tool("ask"))
    assert call.result["resultType"] == "input_required"
    wanted = call.result["inputRequests"]
    answers = {key: client.answer_to(one) for key, one in wanted.items()}
    refused = scene.done(client.retry(call, answers))
    assert limited({"error": refused.error}) > 1000
    scene.run(6.0)
    again = scene.done(client.retry(call, answers))
    assert again.text == f"{call.nonce}|{client.name} says {call.nonce}"


def test_calls_in_flight_are_capped_by_principal() -> None:
    scene = scene_of(rate={"concurrent_calls": 3})
    client = scene.modern()
    held = [client.tool("silent") for _ in range(3)]
    scene.run(0.5)
    refused = scene.done(client.tool("echo"))
    assert limited({"error": refused.error}) <= 1001 and refused.status == 429
    assert count(scene, "refused_cap_calls") == 1
    local = scene.modern_pipe(listener="unix")
    assert scene.done(local.tool("echo")).code is None
    client.cancel(held[0])
    scene.run(0.5)
    assert scene.done(client.tool("echo")).code is None


def test_connections_are_capped_by_address_and_make_room_when_they_go() -> None:
    scene = scene_of(rate={"connections_per_address": 2})
    first, second = Raw(scene), Raw(scene)
    third = Raw(scene)
    scene.run(0.1)
    assert third.ended and not first.ended and not second.ended
    assert count(scene, "refused_cap_connections") == 1
    scene.net.client_host = "192.0.2.9"
    assert ask(scene, call_of()).last.status == 200
    scene.net.client_host = "127.0.0.1"
    first.stream.close()
    scene.run(0.1)
    assert ask(scene, call_of()).last.status == 200
    upgraded = ws_open(scene)
    assert upgraded.ended, "a WebSocket counts on after its upgrade: two are open again"


# -- the order of checks


def test_the_address_is_counted_after_the_door_and_before_everything_else() -> None:
    scene = scene_of(rate={"address": Rate(0.01, 1), "principal": Rate(0.01, 1)})
    strange = call_of().replace(HOST.encode(), b"evil.example")
    assert [ask(scene, strange).last.status for _ in range(5)] == [403] * 5
    assert ask(scene, call_of()).last.status == 200, "those cost nothing"
    for request in (
        call_of(),
        post(b"", path="/nowhere"),
        f"PUT /mcp HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode(),
        f"OPTIONS /mcp HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode(),
    ):
        assert ask(scene, request).last.status == 429
    assert ask(scene, strange).last.status == 403
    assert count(scene, "refused_rate_principal") == 0


def test_the_principal_is_counted_after_path_and_method_and_before_the_rest() -> None:
    scene = scene_of(rate={"principal": Rate(0.01, 1)})
    assert ask(scene, post(b"{}", path="/nowhere")).last.status == 404
    assert ask(scene, f"PUT /mcp HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()).last.status == 405
    assert ask(scene, call_of()).last.status == 200
    assert (
        ask(scene, call_of().replace(b"application/json\r\nAccept", b"text/plain\r\nAccept")).last.status
        == 429
    )
    assert ask(scene, post(b"not JSON")).last.status == 429


# -- by address


def test_networks_are_let_in_or_closed_at_once() -> None:
    scene = scene_of(allow_cidrs=("192.0.2.0/24", "127.0.0.1"), deny_cidrs=("192.0.2.66",))
    for host, let_in in (
        ("192.0.2.1", True),
        ("::ffff:192.0.2.1", True),
        ("192.0.2.66", False),
        ("203.0.113.1", False),
        ("2001:db8::1", False),
    ):
        scene.net.client_host = host
        raw = Raw(scene)
        scene.run(0.1)
        assert raw.ended is not let_in, host
        assert raw.sent_back == b""
    assert count(scene, "refused_address") == 3
    told = scene.world.logged("address_refused")
    assert [one["address"] for one in told] == ["192.0.2.66", "203.0.113.1", "2001:db8::1"]
    scene.net.client_host = "127.0.0.1"
    assert serves(scene)


def test_a_flood_from_a_denied_network_is_one_record() -> None:
    scene = scene_of(deny_cidrs=("203.0.113.0/24",))
    scene.net.client_host = "203.0.113.1"
    for _ in range(200):
        Raw(scene)
    assert count(scene, "refused_address") == 200
    assert len(scene.world.logged("address_refused")) == 1


def test_the_record_of_a_refused_host_or_origin_names_it() -> None:
    """Most often it is a proxy or a setting, and nothing else tells the operator which name to allow."""
    scene = scene_of()
    for host in ("gw.example:9841", "gw.example:9842", "[2001:db8::1]:80"):
        ask(scene, call_of().replace(HOST.encode(), host.encode()))
    ask(scene, call_of().replace(b"Host:", b"Origin: https://app.example\r\nHost:"))
    told = scene.world.logged("door_refused")
    assert [(one.get("host"), one.get("origin")) for one in told] == [
        ("gw.example:9841", None),  # the next two are the same to the log: a caller cannot fill it
        (HOST, "https://app.example:443"),
    ]
    assert {one["listener"] for one in told} == {"http"} and all(one["address"] for one in told)
    assert count(scene, "door_refused") == 4


def forwarded(value: str) -> bytes:
    return call_of().replace(b"Host:", f"X-Forwarded-For: {value}\r\nHost:".encode())


def test_behind_a_trusted_proxy_clients_are_told_apart_by_what_it_says() -> None:
    scene = scene_of(
        rate={"address": Rate(0.01, 2)},
        trusted_proxies=("10.0.0.0/8",),
        deny_cidrs=("203.0.113.0/24",),
        allowed_hosts=("127.0.0.1",),
    )
    scene.net.client_host = "10.0.0.1"
    raw = Raw(scene)
    for client, statuses in (("192.0.2.1", [200, 200, 429]), ("192.0.2.2", [200, 200, 429])):
        for status in statuses:
            assert raw.send(forwarded(f"198.51.100.7, {client}")).last.status == status
    assert raw.send(forwarded("192.0.2.3, 203.0.113.5")).last.status == 403
    assert raw.last.json["error"]["message"] == "this address may not call"
    assert not raw.ended, "the connection is the proxy's, and carries others"
    assert raw.send(forwarded("192.0.2.4")).last.status == 200


def test_who_is_no_proxy_cannot_choose_its_address() -> None:
    scene = scene_of(rate={"address": Rate(0.01, 2)}, trusted_proxies=("10.0.0.0/8",))
    scene.net.client_host = "198.51.100.7"
    raw = Raw(scene)
    sent = [raw.send(forwarded(f"192.0.2.{number}")).last.status for number in range(4)]
    assert sent == [200, 200, 429, 429]


@pytest.mark.parametrize(("proxies", "refused"), [(("10.0.0.0/8",), 0), ((), 4)])
def test_a_proxys_connections_are_not_capped_as_one_clients(proxies: tuple[str, ...], refused: int) -> None:
    scene = scene_of(rate={"connections_per_address": 1}, trusted_proxies=proxies)
    scene.net.client_host = "10.0.0.1"
    raws = [Raw(scene) for _ in range(5)]
    scene.run(0.1)
    assert sum(raw.ended for raw in raws) == refused


# -- failed authentication


def test_wrong_credentials_cost_more_than_requests() -> None:
    scene = scene_of(rate={"address": Rate(0.01, 3 * (FAILED_AUTHENTICATION + 1))}, auth="required")
    wrong = call_of().replace(b"Host:", b"Authorization: Bearer mcpg_x_y\r\nHost:")
    statuses = [ask(scene, wrong).last.status for _ in range(4)]
    assert statuses == [401, 401, 401, 429]
    scene.net.client_host = "192.0.2.5"
    plain = [ask(scene, call_of()).last.status for _ in range(20)]
    assert plain == [401] * 20, "asking what is needed is no attempt"
