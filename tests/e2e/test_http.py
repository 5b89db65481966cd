"""The HTTP face as a black box: statuses, codes, sessions, replay, and what evil input does not break."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.harness import LEGACY, MODERN, PEERS, PREFIX, Gateway
from e2e.rawhttp import JSON, Http, Session, message, modern

PATHS = ["/mcp", "/", "/elsewhere", "/health", "/.well-known/oauth-protected-resource"]
CAPABILITY = PREFIX + "clientCapabilities"
VERSION = PREFIX + "protocolVersion"
REMOVED = ("ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe")


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    argv = [sys.executable, str(PEERS / "plain.py")]
    one = Gateway("run", "--port", "0", "--", *argv)
    yield one
    one.end()


@pytest.fixture
def http(gateway: Gateway) -> Iterator[Http]:
    """The gateway, which serves before and after each test."""
    found = Http(gateway.port)
    yield found
    assert gateway.popen.poll() is None, gateway.story()
    assert found.modern("tools/call", name="who", arguments={}).status == 200


# -- the door


@pytest.mark.parametrize("verb", ["GET", "POST", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "http://127.0.0.1.evil.example:80"},
        {"Host": "evil.example"},
        {"Host": "localhost.evil.example"},
        {"Host": "127.0.0.1@evil.example"},
    ],
    ids=lambda headers: "-".join([*headers, *headers.values()]),
)
def test_strangers_are_refused_on_every_route(
    verb: str, path: str, headers: dict[str, str], http: Http
) -> None:
    body = message("tools/list") if verb == "POST" else None
    answer = http.request(verb, body, headers, path)
    assert answer.status in ((403,) if "Origin" in headers else (400, 403, 421)), answer
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_local_names_are_let_in(host: str, http: Http) -> None:
    local = f"{host}:{http.port}"
    body, headers = modern("tools/list")
    answer = http.post(body, {**headers, "Host": local, "Origin": f"http://{local}"})
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == f"http://{local}"


def test_preflight(http: Http) -> None:
    origin = f"http://localhost:{http.port}"
    wanted = (
        "content-type,mcp-protocol-version,mcp-session-id,mcp-method,mcp-name,authorization,mcp-param-region"
    )
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": wanted,
    }
    answer = http.request("OPTIONS", None, headers)
    assert answer.status in (200, 204)
    assert answer.headers["access-control-allow-origin"] == origin
    allowed = {one.strip().lower() for one in answer.headers["access-control-allow-headers"].split(",")}
    assert set(wanted.split(",")) | {"last-event-id"} <= allowed | {"mcp-param-region"}
    assert "mcp-param-region" in allowed
    assert {"POST", "GET", "DELETE"} <= {
        one.strip() for one in answer.headers["access-control-allow-methods"].split(",")
    }
    body, mirrored = modern("tools/list")
    exposed = http.post(body, {**mirrored, "Origin": origin}).headers["access-control-expose-headers"].lower()
    assert "mcp-session-id" in exposed


def test_paths_and_methods(http: Http) -> None:
    assert http.request("POST", message("ping"), path="/elsewhere").status == 404
    put = http.request("PUT", message("ping"))
    assert put.status == 405 and {"POST", "GET", "DELETE"} <= {
        one.strip() for one in put.headers["allow"].split(",")
    }


def test_content_types(http: Http) -> None:
    body, headers = modern("tools/list")
    assert http.post(body, {**headers, "Content-Type": "text/plain"}).status == 415
    assert http.post(body, {**headers, "Accept": "image/png"}).status == 406
    assert http.post(body, {**headers, "Accept": "*/*"}).status == 200
    assert http.post(body, {**headers, "Content-Type": "application/json; charset=utf-8"}).status == 200


# -- the modern ladder


def changed(headers: dict[str, str], **changes: str | None) -> dict[str, str]:
    """`headers` with some replaced, or left out (None)."""
    named = {key.replace("_", "-").lower(): value for key, value in changes.items()}
    kept = {key: value for key, value in headers.items() if key.lower() not in named}
    return {**kept, **{key: value for key, value in named.items() if value is not None}}


def ladder() -> dict[str, tuple[dict[str, Any], dict[str, str], int, int]]:
    listing, headers = modern("tools/list", "id-1")
    calling, call_headers = modern("tools/call", "id-1", name="who", arguments={})

    def with_meta(**meta: Any) -> dict[str, Any]:
        left = {
            key: value for key, value in {**listing["params"]["_meta"], **meta}.items() if value != "drop"
        }
        return {**listing, "params": {"_meta": left}}

    future = with_meta(**{VERSION: "2099-01-01"})
    gone = {method: modern(method, "id-1") for method in REMOVED}
    opening, opening_headers = modern(
        "initialize", "id-1", protocolVersion=LEGACY, capabilities={}, clientInfo={}
    )
    region, region_headers = modern("tools/call", "id-1", name="region", arguments={"region": "north"})
    return {
        "no meta": ({**listing, "params": {}}, headers, 400, -32602),
        "meta is no object": ({**listing, "params": {"_meta": 5}}, headers, 400, -32602),
        "no version in meta": (with_meta(**{VERSION: "drop"}), headers, 400, -32602),
        "no capabilities": (with_meta(**{CAPABILITY: "drop"}), headers, 400, -32602),
        "no version header": (listing, changed(headers, MCP_Protocol_Version=None), 400, -32020),
        "other version header": (listing, changed(headers, MCP_Protocol_Version="2099-01-01"), 400, -32020),
        "no method header": (listing, changed(headers, Mcp_Method=None), 400, -32020),
        "other method header": (listing, changed(headers, Mcp_Method="tools/call"), 400, -32020),
        "method header in other case": (listing, changed(headers, Mcp_Method="Tools/List"), 400, -32020),
        "no name header": (calling, changed(call_headers, Mcp_Name=None), 400, -32020),
        "other name header": (calling, changed(call_headers, Mcp_Name="echo"), 400, -32020),
        "bad base64 name": (calling, changed(call_headers, Mcp_Name="=?base64?!?="), 400, -32020),
        "unknown version": (future, changed(headers, MCP_Protocol_Version="2099-01-01"), 400, -32022),
        "mismatch outranks version": (future, headers, 400, -32020),
        "unknown method": (*modern("no/such", "id-1"), 404, -32601),
        "modern initialize": (opening, opening_headers, 404, -32601),
        **{f"removed {method}": (*pair, 404, -32601) for method, pair in gone.items()},
        "unknown tool": (*modern("tools/call", "id-1", name="nope", arguments={}), 400, -32602),
        "arguments are no object": (*modern("tools/call", "id-1", name="who", arguments=[1]), 400, -32602),
        "gateway methods": (*modern("gateway/list_servers", "id-1"), 404, -32601),
        "explicit route of a list": (*modern("tools/list", "id-1", _server="plain"), 400, -32602),
        "explicit route of a call": (
            *modern("tools/call", "id-1", name="who", arguments={}, _server="plain"),
            400,
            -32602,
        ),
        "no parameter header": (region, region_headers, 400, -32020),
        "other parameter header": (region, {**region_headers, "Mcp-Param-Region": "south"}, 400, -32020),
        "listen without filter": (*modern("subscriptions/listen", "id-1"), 400, -32602),
    }


@pytest.mark.parametrize("rung", ladder())
def test_the_modern_ladder(rung: str, http: Http) -> None:
    body, headers, status, code = ladder()[rung]
    answer = http.post(body, headers)
    assert (answer.status, answer.error) == (status, code), answer
    assert answer.message["id"] == "id-1"
    assert "mcp-session-id" not in answer.headers
    if code == -32022:
        assert answer.message["error"]["data"] == {"supported": [MODERN], "requested": "2099-01-01"}


def test_headers_that_match(http: Http) -> None:
    body, headers = modern("tools/call", 1, name="region", arguments={"region": "nörth"})
    sentinel = "=?base64?bsO2cnRo?="
    for value in (sentinel,):
        answer = http.post(body, {**headers, "mcp-param-region": value, "Mcp-Name": "=?base64?cmVnaW9u?="})
        assert answer.message["result"]["content"][0]["text"] == "nörth"
    stray = {"Mcp-Session-Id": "made-up", "Last-Event-ID": "7", "Mcp-Param-Other": "x"}
    body, headers = modern("tools/list")
    assert http.post(body, {**headers, **stray}).status == 200


@pytest.mark.parametrize("name", ["Mcp-Method", "Mcp-Name", "MCP-Protocol-Version"])
def test_repeated_routing_headers(name: str, http: Http) -> None:
    body, headers = modern("tools/call", 1, name="who", arguments={})
    data = json.dumps(body).encode()
    lines = ["POST /mcp HTTP/1.1", f"Host: 127.0.0.1:{http.port}", f"Content-Length: {len(data)}"]
    lines += [f"{key}: {value}" for key, value in {**JSON, **headers, "Connection": "close"}.items()]
    lines.append(f"{name}: {headers[name]}")
    answer = http.raw("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
    assert answer.startswith(b"HTTP/1.1 400")


def test_notifications_and_responses(http: Http) -> None:
    note, headers = modern("notifications/cancelled", None, requestId=1)
    accepted = http.post(note, headers)
    assert accepted.status == 202 and accepted.body == b""
    response = {"jsonrpc": "2.0", "id": 1, "result": {}}
    refused = http.post(response, {"MCP-Protocol-Version": MODERN})
    assert (refused.status, refused.error) == (400, -32600)
    batch = http.post([modern("tools/list")[0]], modern("tools/list")[1])
    assert (batch.status, batch.error) == (400, -32600)
    for verb in ("GET", "DELETE"):
        assert http.request(verb, None, {"MCP-Protocol-Version": MODERN}).status == 405


# -- legacy sessions


@pytest.mark.parametrize("revision", ["2025-03-26", "2025-06-18", "2025-11-25"])
def test_a_session_and_its_end(revision: str, http: Http) -> None:
    session = Session(http, revision)
    assert session.result["protocolVersion"] == revision
    assert all(0x21 <= ord(one) <= 0x7E for one in session.id)
    assert session.call("who") == "plain"
    unknown = session.post(message("no/such", 2))
    assert (unknown.status, unknown.error) == (200, -32601)
    late = session.post({"jsonrpc": "2.0", "id": "nobody asked", "result": {}})
    assert late.status == 202
    assert 200 <= session.delete().status < 300
    for answer in (session.post(message("ping", 3)), session.delete(), session.listen()):
        assert answer.status == 404


def test_sessions_that_there_are_not(http: Http) -> None:
    versions = {"MCP-Protocol-Version": LEGACY}
    assert http.post(message("tools/list"), versions).status == 400
    assert http.post(message("tools/list")).status == 400
    assert http.post(message("tools/list"), {**versions, "Mcp-Session-Id": "made-up"}).status == 404
    assert http.request("GET", None, {**versions, "Mcp-Session-Id": "made-up"}).status == 404
    assert http.request("DELETE", None, {**versions, "Mcp-Session-Id": "made-up"}).status == 404
    assert http.request("GET", None, versions).status in (400, 405)
    session = Session(http)
    assert session.post(message("tools/list"), **{"Mcp-Session-Id": session.id[:-2] + "AA"}).status == 404
    assert session.post(message("tools/list"), **{"MCP-Protocol-Version": "1999-01-01"}).status == 400


def test_the_handshake_never_chooses_the_modern_revision(http: Http) -> None:
    params = {"protocolVersion": MODERN, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    opened = http.post(message("initialize", 1, **params))
    assert (opened.status, opened.message["result"]["protocolVersion"]) == (200, LEGACY)


def test_one_stream_of_a_session(http: Http) -> None:
    session = Session(http)
    stream = session.listen()
    assert stream.status == 200 and stream.headers["content-type"].startswith("text/event-stream")
    assert stream.headers["cache-control"] == "no-cache"
    assert session.listen().status == 409
    assert http.request("GET", None, {**session.headers, "Accept": "application/json"}).status in (405, 406)
    stream.close()
    session.delete()


def test_replay(http: Http) -> None:
    """A stream that breaks after its first event goes on, from there, on a GET."""
    session = Session(http)
    params = {"name": "steps", "arguments": {"count": 20}, "_meta": {"progressToken": "t"}}
    stream = session.stream(message("tools/call", 5, **params))
    assert stream.next()["params"]["progress"] == 1
    last = stream.ids[-1]
    stream.close()
    again = session.listen(last)
    assert again.status == 200
    assert again.answer(5)["result"]["content"][0]["text"] == "20 steps"
    progress = [one["params"]["progress"] for one in again.messages if "method" in one]
    assert progress == list(range(2, 21))
    # The stream may begin with an event that only says where it stands.
    assert len(set(again.ids)) == len(again.ids) and again.ids[1:].count(last) == 0
    again.close()
    # Another session's event is no place to go on from.
    stranger = Session(http)
    other = stranger.listen(last)
    stranger.delete()
    assert other.status >= 400 or other.next() is None
    other.close()
    session.delete()


def test_priming_is_for_those_who_know_it(http: Http) -> None:
    """An event with an id and no data comes first in 2025-11-25; older clients would choke on it."""
    params = {"name": "steps", "arguments": {"count": 3}, "_meta": {"progressToken": "t"}}
    for revision, primed in (("2025-11-25", True), ("2025-06-18", False)):
        session = Session(http, revision)
        stream = session.stream(message("tools/call", 5, **params))
        data = stream.response.read()
        events = [one for one in data.replace(b"\r\n", b"\n").split(b"\n\n") if one.strip()]
        first = events[0].split(b"\n")
        empty = not any(line[5:].strip() for line in first if line.startswith(b"data:"))
        assert empty == primed, events[0]
        stream.close()
        session.delete()


def test_batches_are_for_one_revision(http: Http) -> None:
    batch = [message("ping", 1), message("tools/call", 2, name="who", arguments={}),
             message("notifications/roots/list_changed", None)]  # fmt: skip
    session = Session(http, "2025-03-26")
    answers = {one["id"]: one for one in session.post(batch).messages}
    assert answers[1]["result"] == {} and answers[2]["result"]["content"][0]["text"] == "plain"
    assert set(answers) == {1, 2}
    assert session.post([message("notifications/roots/list_changed", None)]).status == 202
    empty = session.post([])
    assert json.loads(empty.body)["error"]["code"] == -32600
    opening = {
        "protocolVersion": "2025-03-26",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    }
    assert http.post([message("initialize", 1, **opening)]).status == 400
    for revision in ("2025-06-18", "2025-11-25"):
        answer = Session(http, revision).post(batch)
        assert (answer.status, answer.error) == (400, -32600)


def test_ids_keep_their_type(http: Http) -> None:
    session = Session(http)
    for number in (0, -1, 2**53, "", "1", 1, "ü"):
        answer = session.post(message("ping", number)).message
        assert answer["id"] == number and isinstance(answer["id"], type(number))
        # One after the other an id may come again.
        assert session.post(message("ping", number)).message["id"] == number


# -- evil input

EVIL_BODIES = {
    "nothing": b"",
    "not JSON": b"{",
    "not UTF-8": b'{"jsonrpc":"2.0","id":1,"method":"\xff"}',
    "NaN": b'{"jsonrpc":"2.0","id":NaN,"method":"ping"}',
    "null id": b'{"jsonrpc":"2.0","id":null,"method":"ping"}',
    "broken id": b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}',
    "true as id": b'{"jsonrpc":"2.0","id":true,"method":"ping"}',
    "two methods": b'{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}',
    "a number": b"7",
    "a text": b'"ping"',
    "empty list": b"[]",
    "no version": b'{"id":1,"method":"ping"}',
    "deep": b'{"jsonrpc":"2.0","id":1,"method":"ping","params":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "long number": b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"n":' + b"9" * 100_000 + b"}}",
    "half a surrogate": b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"s":"\\ud800"}}',
}


@pytest.mark.parametrize("what", EVIL_BODIES)
@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_evil_bodies(what: str, era: str, http: Http) -> None:
    headers = Session(http).headers if era == "legacy" else modern("ping")[1]
    answer = http.post(EVIL_BODIES[what], headers)
    assert answer.status in (200, 400, 404), answer
    if answer.status == 200:
        assert what in ("long number", "half a surrogate") and era == "legacy"
    else:
        assert answer.error in (-32700, -32600, -32602, -32020, -32601)


HEAD = b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nAccept: */*\r\n"
PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
EVIL_WIRE = {
    "two lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 40\r\n\r\n" + PING,
    "length and chunks": HEAD + b"Content-Length: 40\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + PING,
    "negative length": HEAD + b"Content-Length: -1\r\n\r\n" + PING,
    "odd length": HEAD + b"Content-Length: +40\r\n\r\n" + PING,
    "huge length": HEAD + b"Content-Length: 99999999999999\r\n\r\n" + PING,
    "odd coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "bad chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
    "space before colon": HEAD + b"Content-Length : 40\r\n\r\n" + PING,
    "folded header": HEAD + b"X-A: 1\r\n Content-Length: 40\r\n\r\n" + PING,
    "bare line feeds": HEAD.replace(b"\r\n", b"\n") + b"Content-Length: 40\n\n" + PING,
    "zero byte": HEAD + b"X-A: \0\r\nContent-Length: 40\r\n\r\n" + PING,
    "no host": b"POST /mcp HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    "two hosts": HEAD + b"Host: localhost\r\nContent-Length: 40\r\n\r\n" + PING,
    "absolute target": HEAD.replace(b"/mcp", b"http://evil.example/m") + b"Content-Length: 40\r\n\r\n" + PING,
    "long head": HEAD + b"X-A: " + b"a" * 100_000 + b"\r\n\r\n",
    "many headers": HEAD + b"X-A: 1\r\n" * 1000 + b"\r\n",
    "long target": b"GET /" + b"a" * 50_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "not HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /mcp\r\n\r\n",
    "connect": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "upgrade": b"GET /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    "half a head": HEAD,
    "half a body": HEAD + b"Content-Length: 40\r\n\r\n{",
    "nothing": b"",
}  # fmt: skip


@pytest.mark.parametrize("what", EVIL_WIRE)
def test_evil_bytes(what: str, http: Http) -> None:
    """Refused with a status of 4xx or 5xx, or cut off; never understood."""
    try:
        answer = http.raw(EVIL_WIRE[what])
    except ConnectionError:
        return
    assert b"200 OK" not in answer and b'jsonrpc":"2.0","id":1,"result' not in answer
    assert answer == b"" or answer.split(b" ", 2)[1][:1] in (b"4", b"5"), answer[:200]


def test_a_body_that_is_too_long(http: Http) -> None:
    size = 17 * 1024 * 1024
    lines = HEAD + f"Content-Length: {size}\r\nConnection: close\r\n\r\n".encode()
    assert http.raw(lines).startswith(b"HTTP/1.1 413")


def test_many_requests_on_one_connection(http: Http) -> None:
    body, headers = modern("tools/call", 1, name="echo", arguments={"text": "x"})
    data = json.dumps(body).encode()
    lines = [f"{key}: {value}" for key, value in {**JSON, **headers}.items()]
    head = f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(data)}\r\n" + "\r\n".join(lines)
    request = head.encode() + b"\r\n\r\n" + data
    answer = http.raw(
        request * 49 + request.replace(b"Host:", b"Connection: close\r\nHost:"), half_close=False
    )
    assert answer.count(b"HTTP/1.1 200") == 50
