"""Vulnerabilities of other SDKs, gateways and bridges (docs/threats.md, 1), each tried on this one.

Must never: be content with a refusal where the harm was to somebody else: the bystander is asked too.
"""

from __future__ import annotations

import ast
import json
import re
import time
from typing import Any

import pytest

from fuzz.sim.checkers import Checkers
from tests.threats.known import EVIL_HOSTS, EVIL_ORIGINS, METHODS, ROOT, ROUTES, asking, status_of
from tests.threats.raw import (
    HOST,
    LEGACY,
    Raw,
    ask,
    body_of,
    call_head,
    call_of,
    legacy_session,
    post,
    scene_of,
    serves,
    ws_open,
)

# -- rows 1 to 7: pages in browsers


@pytest.mark.parametrize("path", ROUTES)
def test_t1_1_strange_hosts_on_every_route(path: str) -> None:
    scene = scene_of()
    for method in METHODS:
        for host in EVIL_HOSTS:
            raw = ask(scene, asking(method, path, host=host), wait_s=0.1)
            # One of them is no host at all.
            assert status_of(raw) == (400 if ":8080." in host else 403), (method, path, host)
            assert b"access-control" not in bytes(raw.sent_back).lower()


@pytest.mark.parametrize(
    "value",
    ["localhost:9201@evil.example", "localhost:8080@evil.example", "localhost:*", "*", "localhost:8080 "],
)
def test_t1_2_nothing_is_matched_by_its_beginning(value: str) -> None:
    scene = scene_of()
    expected = 404 if value.strip() == "localhost:8080" else 400
    assert ask(scene, asking("GET", "/other", host=value)).statuses == [expected]
    for origin in (
        "http://localhost:9201.evil.example",
        "http://localhost:9201@evil.example",
        "http://localhost:",
    ):
        assert ask(scene, asking("GET", "/other", ("Origin", origin))).statuses == [403]


def test_t1_3_the_door_is_before_all_routes_and_transports() -> None:
    """One code path: even what does not exist is only told to those who may knock."""
    scene = scene_of()
    for path in ("/mcp", "/sse", "/messages", "/nothing"):
        evil = ask(scene, asking("POST", path, ("Origin", "http://evil.example")))
        assert evil.statuses == [403] and evil.last.json["error"]["message"].startswith("the Origin")
    assert scene.world.snapshot().counters["door_refused"] == 4


def test_t1_4_hosts_of_a_name_that_was_rebound() -> None:
    """The page's own name, with the right port, for an address that is ours."""
    scene = scene_of()
    raw = ask(scene, call_of(nonce="n").replace(HOST.encode(), b"rebound.example:8080"))
    assert raw.statuses == [403] and scene.only.calls == []


@pytest.mark.parametrize("path", ROUTES)
def test_t1_5_strange_origins_on_every_route(path: str) -> None:
    scene = scene_of()
    for method in METHODS:
        for origin in EVIL_ORIGINS:
            raw = ask(scene, asking(method, path, ("Origin", origin)), wait_s=0.1)
            assert status_of(raw) == 403, (method, path, origin)
            assert b"access-control" not in bytes(raw.sent_back).lower()


def test_t1_7_websocket_hijacking() -> None:
    scene = scene_of()
    for more in (("Origin", "http://evil.example"), ("Host", "evil.example")):
        raw = ws_open(scene, [more])
        assert raw.interim == [] and raw.statuses == [403]


# -- rows 8 to 20: SDKs


def test_t1_8_clients_that_break_off() -> None:
    scene = scene_of()
    for at in range(40):
        raw = Raw(scene)
        raw.stream.send(call_of("slow", nonce=f"n{at}"))
        scene.run(0.05)
        raw.stream.close() if at % 2 else raw.stream.reset()
    for at in range(200):
        raw = Raw(scene)
        raw.stream.send(call_of("slow", nonce=f"m{at}")[: at * 3])
        scene.run(0.001 * (at % 7))
        raw.stream.reset()
    scene.run(40.0)
    assert serves(scene) and scene.problems() == []
    scene.run(80.0)
    assert scene.at_rest() == [] and scene.world.snapshot().clients == 0


ENVELOPES: list[Any] = [
    {},
    [],
    None,
    1,
    "x",
    {"jsonrpc": "2.0"},
    {"jsonrpc": "1.0", "id": 1, "method": "ping"},
    {"jsonrpc": "2.0", "id": None, "method": "ping"},
    {"jsonrpc": "2.0", "id": {}, "method": "ping"},
    {"jsonrpc": "2.0", "id": 1, "method": 1},
    {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []},
    {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": "x"},
    {"jsonrpc": "2.0", "id": 1, "result": {}, "error": {}},
    {"jsonrpc": "2.0", "id": 1, "error": {"code": "x", "message": 1}},
    {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": 7, "arguments": []}},
    {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": {}}},
    {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"_meta": 5}},
]


@pytest.mark.parametrize("envelope", ENVELOPES, ids=range(len(ENVELOPES)))
def test_t1_9_malformed_envelopes(envelope: Any) -> None:
    scene = scene_of(listeners=("http", "stdio"))
    data = json.dumps(envelope).encode()
    for more in ([], legacy_session(scene), [("MCP-Protocol-Version", "2026-07-28")]):
        reply = ask(scene, post(data, more))
        assert len(reply.statuses) == 1 and "error" in reply.last.json
    pipe = Raw(scene, "stdio").send(data + b"\n")
    assert [set(line) & {"error", "result"} for line in pipe.lines] == [{"error"}]
    socket = ws_open(scene).frame(1, data)
    assert "error" in socket.texts[0]
    assert serves(scene)


def test_t1_10_bytes_that_are_no_text() -> None:
    scene = scene_of(listeners=("http", "stdio"))
    pipe = Raw(scene, "stdio")
    pipe.send(
        b"\xff\xfe\xfa\n"
        + b'{"jsonrpc":"2.0","id":1,"method":"\xc3\x28"}\n'
        + b'{"jsonrpc":"2.0","id":2,"method":"ping"}\n'
    )
    assert [line.get("error", {}).get("code") for line in pipe.lines] == [-32700, -32700, None]


@pytest.mark.parametrize("kind", ["modern", "legacy", "modern_ws", "legacy_ws", "legacy_sse"])
def test_t1_11_same_id_of_many_clients(kind: str) -> None:
    scene = scene_of()
    Checkers(scene)
    clients = [getattr(scene, kind)() for _ in range(40)]
    calls = [client.tool("echo", id=7, after=0.5) for client in clients]
    scene.done(*calls)
    assert [call.text for call in calls] == [call.nonce for call in calls]
    assert [call.id for call in calls] == [7] * 40 and scene.problems() == []


def test_t1_12_the_same_id_again_and_again() -> None:
    """A client that numbers every request 1, one after the other and at once: each has its own answer."""
    scene = scene_of()
    for client in (scene.legacy(), scene.modern()):
        for _ in range(3):
            call = scene.done(client.tool("echo", id=1))
            assert call.text == call.nonce
        calls = [client.tool("echo", id=1, after=0.3) for _ in range(6)]
        scene.done(*calls)
        assert [call.text for call in calls] == [call.nonce for call in calls]
    assert scene.problems() == []


def test_t1_13_nobody_takes_over_anothers_stream() -> None:
    scene = scene_of()
    client = scene.legacy()
    client.listen()
    scene.run(0.2)
    assert client.session is not None
    thief = asking("GET", "/mcp", ("Mcp-Session-Id", client.session), ("MCP-Protocol-Version", "2025-11-25"))
    assert ask(scene, thief).statuses == [409]
    # The same port over a Unix socket is another principal, for whom there is no such session.
    assert ask(scene, thief, kind="unix").statuses == [404]
    scene.only.changed("tools")
    scene.run(1.0)
    assert [note["method"] for _, note in client.notes] == ["notifications/tools/list_changed"]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_t1_14_a_session_is_its_principals(method: str) -> None:
    """404, as for an id that never was."""
    scene = scene_of()
    headers = legacy_session(scene)
    told = json.dumps(body_of("ping", modern=False)).encode()
    own = post(told, headers) if method == "POST" else asking(method, "/mcp", *headers)
    never = own.replace(headers[0][1].encode(), b"A" * len(headers[0][1]))
    stolen, unknown = ask(scene, own, kind="unix"), ask(scene, never, kind="unix")
    assert stolen.statuses == unknown.statuses == [404] and stolen.last.body == unknown.last.body
    assert ask(scene, own).statuses == [{"GET": 200, "POST": 200, "DELETE": 204}[method]]


def test_t1_14_an_event_stream_of_2024_is_its_principals() -> None:
    scene = scene_of()
    client = scene.legacy_sse()
    told = json.dumps(body_of("ping", modern=False)).encode()
    assert ask(scene, post(told, path=client.endpoint), kind="unix").statuses == [404]
    assert ask(scene, post(told, path=client.endpoint)).statuses == [202]


def test_t1_16_session_ids_cannot_be_guessed() -> None:
    """192 bits each, from the seed of the process and nothing else."""
    found: list[str] = []
    for seed in (1, 2):
        scene = scene_of(seed=seed)
        found += [legacy_session(scene)[0][1] for _ in range(20)]
        found.append(scene.legacy_sse().endpoint.partition("session=")[2])
    assert len(set(found)) == len(found)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{32,}", one) for one in found)
    # Two that follow each other share no more than chance gives.
    for one, next_one in zip(found, found[1:], strict=False):
        assert sum(a == b for a, b in zip(one, next_one, strict=False)) < 12


def test_t1_17_templates_take_linear_time() -> None:
    scene = scene_of(LEGACY)
    scene.only.templates = ("x://{/id*}{/id*}{/id*}", "x://{a}{b}{c}{d}", "x://{+path}/{+path}/{+path}")
    scene.run(1.0)
    client = scene.modern()
    for uri in ("x://" + "/" * 10_000, "x://" + "a" * 10_000, "y://" + "/a" * 5000):
        begin = time.process_time()
        scene.done(client.request("resources/read", {"uri": uri}), within=90)
        assert time.process_time() - begin < 0.5
    assert scene.only.seen("resources/templates/list") == 1 and scene.only.seen("resources/read") == 3


def test_t1_17_no_expression_is_made_of_what_peers_say() -> None:
    """Every pattern of the core is compiled when its module is."""
    compiled = {"compile", "match", "search", "fullmatch", "sub", "findall", "split", "finditer"}
    for path in sorted((ROOT / "mcpgate_proto").rglob("*.py")):
        tree = ast.parse(path.read_text())
        inside = [
            node for top in ast.walk(tree) if isinstance(top, ast.FunctionDef) for node in ast.walk(top)
        ]
        for node in inside:
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in compiled
            ):
                if isinstance(node.func.value, ast.Name) and node.func.value.id == "re":
                    fixed = node.args and isinstance(node.args[0], ast.Constant | ast.Name)
                    if isinstance(node.args[0], ast.Name):
                        fixed = node.args[0].id.isupper()
                    assert fixed, f"{path.name}:{node.lineno} makes an expression when it runs"


@pytest.mark.parametrize("name", ["Method", "METHOD", "paramſ", "Params"])
def test_t1_18_keys_do_not_fold(name: str) -> None:
    scene = scene_of()
    body = json.dumps(body_of(name="echo", arguments={"nonce": "n"})).encode()
    twin = json.dumps(name, ensure_ascii=False).encode()
    for old in (b'"method"', b'"params"'):
        assert ask(scene, post(body.replace(old, twin), call_head())).statuses == [400]
    assert scene.only.calls == []


def test_t1_19_a_second_handshake_changes_nothing() -> None:
    scene = scene_of(LEGACY)
    client = scene.legacy(capabilities={"elicitation": {}})
    again = client.request(
        "initialize",
        {"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}},
    )
    scene.done(again)
    assert again.code == -32600
    call = scene.done(client.tool("ask"))
    assert call.text == f"{call.nonce}|{client.name} says {call.nonce}", "it can still be asked"
