"""The caps of `Limits`, each reached from outside, through a gateway (docs/threats.md, row 0.17).

Must never: reach into the gateway; what is over the cap has to be told to whoever asked, and to nobody else.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from fuzz.sim.scene import FAST, Scene
from fuzz.sim.talk import Job
from tests.threats.raw import (
    DUAL,
    HOST,
    LEGACY,
    MODERN_ERA,
    Raw,
    ask,
    body_of,
    legacy_session,
    post,
    serves,
)


def scene_of(eras: tuple[str, ...] = DUAL, transport: str = "stdio", **limits: Any) -> Scene:
    options = {"listeners": ("http", "stdio"), "sockets": True}
    return Scene(
        {"one": (transport, eras)}, limits=msgspec.structs.replace(FAST, **limits), **options
    ).start()  # type: ignore[arg-type]


def overloaded(message: dict[str, Any]) -> bool:
    return "error" in message and message["error"].get("data", {}).get("reason") in ("overloaded", None)


def test_t0_17_sessions_of_one_principal() -> None:
    """Idle ones give way, busy ones do not; the sessions of others are not touched."""
    scene = scene_of(sessions_per_principal=3)
    other = Raw(scene, kind="unix")
    told = json.dumps(
        body_of("initialize", modern=False, protocolVersion="2025-11-25", capabilities={}, clientInfo={})
    )
    assert other.send(post(told.encode())).statuses == [200]
    busy = [scene.legacy() for _ in range(3)]
    calls = [client.tool("silent") for client in busy]
    scene.until(lambda: len(scene.only.calls) == 3, 30)
    refused = ask(scene, post(told.encode()))
    assert refused.statuses == [503] and refused.last.headers["retry-after"]
    busy[0].cancel(calls[0])
    scene.run(1.0)
    assert ask(scene, post(told.encode())).statuses == [200]
    headers = [("Mcp-Session-Id", other.last.headers["mcp-session-id"])]
    ping = json.dumps(body_of("ping", modern=False)).encode()
    assert ask(scene, post(ping, headers), kind="unix").statuses == [200]


def test_t0_17_sessions_in_all() -> None:
    scene = scene_of(sessions=2)
    for client in [scene.legacy() for _ in range(2)]:
        client.listen()
    scene.run(0.5)
    told = json.dumps(
        body_of("initialize", modern=False, protocolVersion="2025-11-25", capabilities={}, clientInfo={})
    )
    assert ask(scene, post(told.encode()), kind="unix").statuses == [503]


def test_t0_17_event_streams_of_2024() -> None:
    scene = scene_of(sessions_per_principal=2)
    opening = f"GET /sse HTTP/1.1\r\nHost: {HOST}\r\nAccept: text/event-stream\r\n\r\n".encode()
    streams = [ask(scene, opening) for _ in range(3)]
    assert [raw.statuses for raw in streams] == [[200], [200], [503]]


def test_t0_17_calls_in_all() -> None:
    scene = scene_of(MODERN_ERA, calls=4)
    clients = [scene.modern() for _ in range(6)]
    calls = [client.tool("echo", after=5.0) for client in clients]
    scene.run(1.0)
    refused = [call for call in calls if call.answer is not None]
    assert len(refused) == 2 and all(overloaded(call.answer or {}) for call in refused)
    scene.done(*calls)
    assert sum("result" in (call.answer or {}) for call in calls) == 4


@pytest.mark.parametrize("kind", ["session", "pipe"])
def test_t0_17_requests_of_one_session(kind: str) -> None:
    scene = scene_of(LEGACY, calls_per_session=4)
    client = scene.legacy() if kind == "session" else scene.legacy_pipe()
    calls = [client.tool("echo", after=5.0) for _ in range(7)]
    scene.run(1.0)
    assert len(scene.only.calls) == 4
    assert [overloaded(call.answer or {}) for call in calls] == [False] * 4 + [True] * 3
    assert serves(scene)


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_t0_17_subscriptions(era: str) -> None:
    scene = scene_of(DUAL, subscriptions_per_session=3)
    scene.only.resources = tuple(f"r://{number}" for number in range(6))
    scene.run(1.0)
    if era == "legacy":
        client = scene.legacy()
        calls = [client.request("resources/subscribe", {"uri": uri}) for uri in scene.only.resources]
        scene.done(*calls)
        assert [("error" in (call.answer or {})) for call in calls] == [False] * 3 + [True] * 3
        return
    wanted = {"resourceSubscriptions": list(scene.only.resources)}
    call = scene.modern().request("subscriptions/listen", {"notifications": wanted})
    scene.done(call)
    assert overloaded(call.answer or {})


def test_t0_17_questions_of_one_call() -> None:
    scene = scene_of(LEGACY, asks_per_call=3)

    def act(job: Job) -> None:
        schema = {"type": "object", "properties": {"answer": {"type": "string"}}}
        for _ in range(10):
            job.ask("elicitation/create", {"message": job.nonce, "requestedSchema": schema})
        job.later(1.0, job.say)

    scene.only.script("nosy", act)
    client = scene.legacy(capabilities={"elicitation": {}})
    client.answer_after = None
    call = client.tool("nosy")
    scene.run(5.0)
    assert len(client.questions) <= 3 and call.over
    assert sum("error" in message for _, message in scene.only.replies) >= 7


def test_t0_17_rounds_of_one_call() -> None:
    scene = scene_of(MODERN_ERA, rounds_per_call=4)
    scene.only.script("again", lambda job: job.want({}, "state"))
    call = scene.done(scene.legacy().tool("again"), within=300)
    assert "error" in (call.answer or {}) and len(scene.only.calls) <= 6


@pytest.mark.parametrize(
    ("limits", "most"),
    [({"catalog_pages": 3}, 4 * 5), ({"catalog_items": 12}, 12), ({"catalog_bytes": 600}, 14)],
    ids=["pages", "items", "bytes"],
)
@pytest.mark.parametrize("eras", [LEGACY, MODERN_ERA])
def test_t0_17_lists_of_servers(eras: tuple[str, ...], limits: dict[str, int], most: int) -> None:
    """A server that goes on for ever with pages: what fits is shown."""
    scene = Scene({"one": ("stdio", eras)}, limits=msgspec.structs.replace(FAST, **limits))
    scene.only.page_size = 5
    scene.only.tools = tuple(f"t{number}" for number in range(500))
    scene.start()
    call = scene.done(scene.modern().request("tools/list"))
    assert 0 < len(call.result["tools"]) <= most
    assert scene.only.seen("tools/list") <= 20


def test_t0_17_a_cursor_that_goes_round() -> None:
    """Every page names itself as the next one."""
    scene = scene_of(MODERN_ERA)
    scene.only.page_size = 1
    items = scene.only.items("tools/list")
    scene.only.items = lambda method: items * 1000 if method == "tools/list" else []  # type: ignore[method-assign]
    call = scene.done(scene.modern().request("tools/list"), within=120)
    assert len(call.result["tools"]) <= len(items)


@pytest.mark.parametrize("size", [5_000, 100_000])
def test_t0_17_cursors_and_states(size: int) -> None:
    scene = scene_of(MODERN_ERA)
    for params in ({"cursor": "x" * size}, {"cursor": size}, {"cursor": {"a": 1}}):
        body = json.dumps(body_of("tools/list", **params)).encode()
        reply = ask(scene, post(body, [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/list")]))
        assert reply.last.json["error"]["code"] == -32602
    client = scene.modern()
    call = client.request(
        "tools/call", {"name": "echo", "arguments": {"nonce": "n"}, "requestState": "x" * size * 3}
    )
    scene.done(call)
    assert call.code == -32602 and scene.only.calls == []


def test_t0_17_a_state_of_a_server_that_is_too_large() -> None:
    scene = scene_of(MODERN_ERA)
    scene.only.script("heavy", lambda job: job.want({}, "x" * 200_000))
    call = scene.done(scene.modern().tool("heavy"))
    assert "error" in (call.answer or {})


def test_t0_17_instructions() -> None:
    scene = scene_of(LEGACY, instructions_bytes=20)
    client = scene.legacy()
    assert len(client.hello.result.get("instructions", "")) <= 20


def test_t0_17_batches() -> None:
    scene = scene_of(LEGACY, batch_messages=5)
    session = legacy_session(scene, "2025-03-26")
    pings = [body_of("ping", number, modern=False) for number in range(6)]
    assert ask(scene, post(json.dumps(pings[:5]).encode(), session)).statuses == [200]
    over = ask(scene, post(json.dumps(pings).encode(), session))
    assert (
        over.last.json[0]["error"]["code"] == -32600
        if isinstance(over.last.json, list)
        else over.statuses == [400]
    )


def test_t0_17_what_a_session_can_replay() -> None:
    """A stream that nobody reads keeps a bounded number of events for whoever comes back."""
    scene = scene_of(LEGACY, replay_events=10)
    client = scene.legacy()
    call = client.tool("slow", token="t", steps=60, every=0.1)
    scene.until(lambda: len(call.notes) >= 2, 30)
    first = call.event_ids[0]
    client.vanish(call)
    scene.run(20.0)
    resumed = client.listen(first, call=call)
    scene.run(2.0)
    assert resumed.status == 404 or len(call.notes) <= 15


def test_t0_17_servers_sessions() -> None:
    """Sessions with one server are capped, however many kinds of clients there are."""
    scene = scene_of(LEGACY, upstream_sessions_per_server=3)
    for number in range(10):
        client = scene.legacy(
            capabilities={"experimental": {f"x{number}": {}}, "elicitation": {}, "roots": {}}
        )
        client.tool("ask")
    scene.run(60.0)
    assert len([process for process in scene.only.processes if process.alive]) <= 4
