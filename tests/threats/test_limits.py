"""The caps of `Limits`, each reached from outside, through a gateway (docs/threats.md, row 0.17).

Must never: reach into the gateway; what is over the cap has to be told to whoever asked, and to nobody else.
"""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import msgspec
import pytest

from fuzz.sim.clients import Call
from fuzz.sim.scene import FAST, Scene
from fuzz.sim.talk import MODERN, Job, Talk
from tests.threats.raw import (
    DUAL,
    HOST,
    LEGACY,
    MODERN_ERA,
    Raw,
    ask,
    body_of,
    handshake,
    legacy_session,
    post,
    scene_of,
    serves,
)


def capped(eras: tuple[str, ...] = DUAL, **limits: Any) -> Scene:
    return scene_of(eras, listeners=("http", "stdio"), limits=msgspec.structs.replace(FAST, **limits))


def overloaded(call: Call) -> bool:
    """Refused for being too many, and told so."""
    error = (call.answer or {}).get("error", {})
    return error.get("code") == -32603 and error["message"].startswith("too m")


def test_t0_17_sessions_of_one_principal() -> None:
    """Idle ones give way, busy ones do not; the sessions of others are not touched."""
    scene = capped(sessions_per_principal=3)
    other = Raw(scene, kind="unix")
    assert other.send(post(handshake())).statuses == [200]
    busy = [scene.legacy() for _ in range(3)]
    calls = [client.tool("silent") for client in busy]
    scene.until(lambda: len(scene.only.calls) == 3, 30)
    refused = ask(scene, post(handshake()))
    assert refused.statuses == [503] and refused.last.headers["retry-after"]
    busy[0].cancel(calls[0])
    scene.run(1.0)
    assert ask(scene, post(handshake())).statuses == [200]
    headers = [("Mcp-Session-Id", other.last.headers["mcp-session-id"])]
    ping = json.dumps(body_of("ping", modern=False)).encode()
    assert ask(scene, post(ping, headers), kind="unix").statuses == [200]


def test_t0_17_sessions_in_all() -> None:
    scene = capped(sessions=2)
    for client in [scene.legacy() for _ in range(2)]:
        client.listen()
    scene.run(0.5)
    assert ask(scene, post(handshake()), kind="unix").statuses == [503]


def test_t0_17_event_streams_of_2024() -> None:
    scene = capped(sessions_per_principal=2)
    opening = f"GET /sse HTTP/1.1\r\nHost: {HOST}\r\nAccept: text/event-stream\r\n\r\n".encode()
    streams = [ask(scene, opening) for _ in range(3)]
    assert [raw.statuses for raw in streams] == [[200], [200], [503]]


def test_t0_17_calls_in_all() -> None:
    scene = capped(MODERN_ERA, calls=4)
    clients = [scene.modern() for _ in range(6)]
    calls = [client.tool("echo", after=5.0) for client in clients]
    scene.run(1.0)
    refused = [call for call in calls if call.answer is not None]
    assert len(refused) == 2 and all(overloaded(call) for call in refused)
    scene.done(*calls)
    assert sum("result" in (call.answer or {}) for call in calls) == 4


@pytest.mark.parametrize("eras", [LEGACY, MODERN_ERA], ids=["legacy", "modern"])
@pytest.mark.parametrize("kind", ["legacy", "modern", "legacy_pipe"])
def test_t0_17_what_calls_keep(eras: tuple[str, ...], kind: str) -> None:
    """However long a server works on them, large requests are kept up to a bound; small ones always pass, and
    nobody takes all of it."""
    scene = capped(eras, calls_bytes=400_000, unread_free_bytes=8_000)
    other = scene.legacy() if kind == "legacy_pipe" else scene.legacy_pipe()
    clients = [getattr(scene, kind)() for _ in range(5)]
    for _ in range(2):  # nothing of it is left
        calls = [client.tool("echo", after=5.0, pad="x" * 90_000) for client in clients]
        small = clients[4].tool("echo", after=5.0, pad="x" * 1000)
        scene.run(1.0)
        refused = [call for call in calls if call.over]
        assert len(refused) == 2 and all(overloaded(call) for call in refused)
        assert scene.done(other.tool("echo", pad="x" * 90_000)).took < 1.0
        scene.done(small, *calls)
        assert small.code is None and sum(call.code is None for call in calls) == 3


@pytest.mark.parametrize("kind", ["legacy", "modern"])
def test_t0_17_what_calls_keep_that_wait_for_a_list(kind: str) -> None:
    limits = msgspec.structs.replace(FAST, calls_bytes=400_000, unread_free_bytes=8_000)
    scene = scene_of(LEGACY, limits=limits)
    scene.only.delays = {"tools/list": 2.0}
    clients = [getattr(scene, kind)() for _ in range(5)]
    calls = [client.tool("echo", pad="x" * 90_000) for client in clients]
    scene.run(0.5)
    assert [call.over for call in calls] == [False] * 3 + [True] * 2
    assert all(overloaded(call) for call in calls[3:])
    scene.done(*calls)
    assert [call.code for call in calls[:3]] == [None] * 3


@pytest.mark.parametrize("kind", ["session", "pipe"])
def test_t0_17_requests_of_one_session(kind: str) -> None:
    scene = capped(LEGACY, calls_per_session=4)
    client = scene.legacy() if kind == "session" else scene.legacy_pipe()
    calls = [client.tool("echo", after=5.0) for _ in range(7)]
    scene.run(1.0)
    assert len(scene.only.calls) == 4
    assert [overloaded(call) for call in calls] == [False] * 4 + [True] * 3
    assert serves(scene)


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_t0_17_subscriptions(era: str) -> None:
    scene = capped(DUAL, subscriptions_per_session=3)
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
    assert overloaded(call)


def test_t0_17_questions_of_one_call() -> None:
    scene = capped(LEGACY, asks_per_call=3)

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
    scene = capped(MODERN_ERA, rounds_per_call=4)
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


@pytest.mark.parametrize("eras", [LEGACY, MODERN_ERA])
def test_t0_17_a_cursor_that_goes_round(monkeypatch: pytest.MonkeyPatch, eras: tuple[str, ...]) -> None:
    """Every page names itself as the next one: what it shows is shown once, and it is not asked for ever."""

    def round_and_round(talk: Talk, job: Job) -> None:
        job.answer({"tools": items, "nextCursor": "again", "ttlMs": 0, "cacheScope": "private"})

    monkeypatch.setattr(Talk, "_list", round_and_round)
    scene = capped(eras)
    items = scene.only.items("tools/list")[:3]
    call = scene.done(scene.modern().request("tools/list"))
    assert [one["name"] for one in call.result["tools"]] == [one["name"] for one in items]
    assert scene.only.seen("tools/list") == 2


@pytest.mark.parametrize(("most", "status"), [(4096, 200), (20, 400)])
def test_t0_17_a_cursor_that_is_too_long(most: int, status: int) -> None:
    """Not looked at, be it one of ours."""
    limits = msgspec.structs.replace(FAST, cursor_bytes=most)
    scene = scene_of(MODERN_ERA, limits=limits, page_size=1)
    scene.run(1.0)
    told = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/list")]
    first = ask(scene, post(json.dumps(body_of("tools/list")).encode(), told)).last.json["result"]
    assert len(first["tools"]) == 1 and len(first["nextCursor"]) > 20
    body = json.dumps(body_of("tools/list", cursor=first["nextCursor"])).encode()
    reply = ask(scene, post(body, told))
    assert reply.statuses == [status]
    assert status == 200 or reply.last.json["error"]["code"] == -32602


@pytest.mark.parametrize("size", [50, 5_000, 100_000])
def test_t0_17_cursors_and_states(size: int) -> None:
    scene = capped(MODERN_ERA)
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
    scene = capped(MODERN_ERA)
    scene.only.script("heavy", lambda job: job.want({}, "x" * 200_000))
    call = scene.done(scene.modern().tool("heavy"))
    assert "error" in (call.answer or {})


@pytest.mark.parametrize(("transparent", "told"), [(False, "[one]\nuse "), (True, "use one we")])
def test_t0_17_instructions(transparent: bool, told: str) -> None:
    """Cut, of a server that is seen as it is and of one that is named."""
    limits = msgspec.structs.replace(FAST, instructions_bytes=10)
    scene = scene_of(LEGACY, limits=limits, transparent=transparent)
    assert scene.legacy().hello.result["instructions"] == told


def test_t0_17_batches() -> None:
    scene = capped(LEGACY, batch_messages=5)
    session = legacy_session(scene, "2025-03-26")
    pings = [body_of("ping", number, modern=False) for number in range(6)]
    assert ask(scene, post(json.dumps(pings[:5]).encode(), session)).statuses == [200]
    over = ask(scene, post(json.dumps(pings).encode(), session))
    [told] = over.last.json
    assert told["error"] == {"code": -32600, "message": "a batch may hold 5 messages"}


@pytest.mark.parametrize(("events", "status"), [(100, 200), (10, 404)])
def test_t0_17_what_a_session_can_replay(events: int, status: int) -> None:
    """A stream that nobody reads keeps a bounded number of events for whoever comes back; who comes too late
    is told so, and gets no part of them."""
    scene = capped(LEGACY, replay_events=events)
    client = scene.legacy()
    call = client.tool("slow", token="t", steps=60, every=0.1)
    scene.until(lambda: len(call.notes) >= 2, 30)
    first = call.event_ids[0]
    client.vanish(call)
    before = len(call.notes)
    scene.run(20.0)
    resumed = client.listen(first, call=call)
    scene.run(2.0)
    assert resumed.status == status
    if status == 200:
        assert call.text == call.nonce and len(call.notes) >= 60
    else:
        assert len(call.notes) == before


def test_t0_17_servers_sessions() -> None:
    """Sessions with one server are capped, however many clients are being asked something in one each: the
    others wait, and are told."""
    scene = capped(LEGACY, upstream_sessions_per_server=3)
    calls = []
    for _ in range(6):
        client = scene.legacy(capabilities={"elicitation": {}})
        client.answer_after = None
        calls.append(client.tool("ask"))
    scene.run(60.0)
    assert len([process for process in scene.only.processes if process.alive]) == len(scene.only.calls) == 3
    assert [call.code for call in calls if call.over] == [-32603] * 3


def test_t0_17_sessions_of_all_servers() -> None:
    """They are capped together, but each server has one: none is left without because of the others."""
    limits = msgspec.structs.replace(FAST, upstream_sessions=3, upstream_idle_s=20.0)
    names = [f"s{number}" for number in range(5)]
    scene = Scene(dict.fromkeys(names, ("stdio", LEGACY)), limits=limits, listeners=("http",)).start()

    def alive() -> int:
        return sum(process.alive for name in names for process in scene.servers[name].processes)

    scene.run(60.0)
    assert alive() == 0, "they were idle"
    for name in names:
        assert scene.done(scene.legacy().tool(f"{name}__echo")).code is None
    # The first takes the place of the idle session; the second finds none.
    for _ in range(2):
        scene.legacy(capabilities={"elicitation": {}}).tool("s0__echo", after=15.0)
    scene.run(5.0)
    assert alive() == 5 and len(scene.servers["s0"].calls) == 1 + 1


@pytest.mark.parametrize("eras", [LEGACY, MODERN_ERA], ids=["legacy", "modern"])
def test_t0_17_servers_connections_of_one_principal(eras: tuple[str, ...]) -> None:
    """However many calls one principal has with a slow server, others find a connection at once."""
    limits = msgspec.structs.replace(FAST, http_connections_per_principal=4)
    scene = scene_of(eras, "http", listeners=("http", "stdio"), limits=limits)
    scene.run(1.0)
    calls = [scene.modern().tool("echo", after=8.0) for _ in range(6)]
    scene.run(2.0)
    assert len(scene.only.calls) == 4
    other = scene.legacy_pipe(listener="stdio")
    assert scene.done(other.tool("echo")).took < 1.0
    scene.done(*calls)
    assert [call.code for call in calls] == [None] * 6


@pytest.mark.parametrize("limit", ["http_connections_per_principal", "http_connections_per_server"])
@pytest.mark.parametrize("eras", [LEGACY, MODERN_ERA], ids=["legacy", "modern"])
def test_t0_17_what_the_gateway_asks_itself(eras: tuple[str, ...], limit: str) -> None:
    """Or a server whose calls are slow would be taken for one that does not answer health checks."""
    limits = msgspec.structs.replace(FAST, **{limit: 4})
    options = {"one": {"health_s": 2.0, "timeout": 30.0}}
    scene = scene_of(eras, "http", limits=limits, options=options)
    scene.run(1.0)
    calls = [scene.modern().tool("echo", after=12.0) for _ in range(4)]
    scene.done(*calls)
    assert [call.code for call in calls] == [None] * 4


def test_t0_17_answers_that_the_calls_wait_for() -> None:
    """They do not wait for a connection that only the end of such a call would free."""
    scene = scene_of(LEGACY, "http", limits=msgspec.structs.replace(FAST, http_connections_per_server=4))
    clients = [scene.legacy(capabilities={"elicitation": {}}) for _ in range(4)]
    scene.done(*(client.tool("echo") for client in clients))
    calls = [client.tool("ask") for client in clients]
    scene.done(*calls)
    assert [call.code for call in calls] == [None] * 4 and max(call.took for call in calls) < 5.0


def test_t0_17_servers_sessions_of_one_principal() -> None:
    """However many calls of one principal each need a session of their own, others find one at once."""
    scene = capped(LEGACY, upstream_sessions_per_principal=3)
    clients = [scene.modern(capabilities={"elicitation": {}}) for _ in range(6)]
    calls = [client.tool("echo", after=12.0) for client in clients]
    scene.run(5.0)
    assert len(scene.only.calls) == 3
    other = scene.legacy_pipe(listener="stdio", capabilities={"elicitation": {}})
    assert scene.done(other.tool("echo")).took < 1.0
    scene.done(*calls)
    assert [call.code for call in calls] == [None] * 6


def test_t0_17_idle_sessions_of_others() -> None:
    scene = capped(LEGACY, upstream_sessions_per_server=3)
    other = scene.legacy_pipe(listener="stdio")
    scene.done(other.tool("echo"))
    theirs = scene.only.calls[-1].talk
    for declared in ({}, {"elicitation": {}}, {"roots": {}}):
        assert scene.done(scene.modern(capabilities=declared).tool("echo")).code is None
    scene.done(other.tool("echo"))
    assert scene.only.calls[-1].talk is theirs


@pytest.mark.parametrize(
    "method", ["tools/list", "subscriptions/listen", "a legacy tools/list", "initialize"]
)
def test_t0_17_what_requests_leave_behind(method: str) -> None:
    """Lists that are waited for, streams that stay open: however large the requests were."""
    scene = scene_of(DUAL)
    scene.only.delays = {"tools/list": 5.0}
    headers = [("MCP-Protocol-Version", MODERN), ("Mcp-Method", method)]
    modern = method != "initialize" and not method.startswith("a legacy ")
    if method == "initialize":
        headers = []
    elif not modern:
        method, headers = "tools/list", legacy_session(scene)
    params = {"notifications": {"toolsListChanged": True}, "pad": "x" * 500_000}
    told = {"capabilities": {"roots": {}, "pad": "x" * 500_000}, "protocolVersion": "2025-11-25"}
    data = post(json.dumps(body_of(method, modern=modern, **params, **told)).encode(), headers)
    tracemalloc.start()
    kept = [Raw(scene).send(data, 0.1) for _ in range(10)]
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 2_000_000
    assert not any(b'"tools":[' in one.sent_back for one in kept), "all are waited for"
