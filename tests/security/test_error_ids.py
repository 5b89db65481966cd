"""What goes wrong inside is told by a fixed text and an `errorId`; the log has the rest under the same id
(threats.md section 0, Error handling without information disclosure).

Must never: look for known leaks only; whatever a client is sent is searched for what is ours.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from fuzz.sim.clients import Call
from fuzz.sim.http_clients import Wire
from fuzz.sim.scene import FAST, Scene
from mcpgate_proto.downstream.http import HttpClient
from mcpgate_proto.downstream.modern import ModernFace
from mcpgate_proto.hub import Hub
from mcpgate_proto.limits import Limits
from mcpgate_proto.mcp.codes import Fault, FaultKind
from mcpgate_proto.security.incidents import Incidents
from tests.threats.raw import DUAL, LEGACY, Raw, ask, call_of, serves, ws_open

KINDS = pytest.mark.parametrize("kind", ["legacy", "modern"])
# What is ours alone: paths, addresses, processes, what they said.
INNER = (
    "/bin/",
    "127.0.0.1:90",
    "9001",
    "exited",
    "exit",
    "status",
    "HTTP ",
    "refused by",
    "stderr",
    "Traceback",
)
STDERR = b"panic at /home/operator/secret.py: password=hunter2\n"


def client_of(scene: Scene, kind: str) -> Any:
    return scene.legacy() if kind == "legacy" else scene.modern()


def recorded(scene: Scene, call: Call) -> dict[str, Any]:
    """The record that the id of an error leads to."""
    known = call.error["data"]["errorId"]
    found = [one for one in scene.world.logged("failed") if one["error_id"] == known]
    assert len(found) == 1, "one id, one record"
    return found[0]


def told_nothing(call: Call) -> None:
    text = json.dumps(call.last.answer)
    for word in INNER:
        assert word not in text, f"{word!r} in {text}"
    assert "hunter2" not in text


@KINDS
@pytest.mark.parametrize("transport", ["stdio", "http", "websocket", "unix", "sse"])
def test_a_server_that_dies_in_a_call(kind: str, transport: str) -> None:
    scene = Scene({"one": (transport, LEGACY)}, limits=FAST).start()
    scene.run(1.0)
    client = client_of(scene, kind)
    call = client.tool("silent")
    scene.until(lambda: scene.only.job(call.nonce), 10)
    if transport == "stdio":
        for conn, stream in list(scene.net.streams.items()):
            if stream.child:
                scene.world.feed("received_stderr", conn, STDERR)
    scene.only.crash()
    scene.done(call)
    told_nothing(call)
    assert call.error["data"]["reason"] == "upstream_down"
    found = recorded(scene, call)
    assert (found["server"], found["method"]) == ("one", "tools/call")


@KINDS
@pytest.mark.parametrize("transport", ["stdio", "http", "websocket", "unix"])
def test_a_server_that_is_down(kind: str, transport: str) -> None:
    """Its clients are told that it is; why, only the log."""
    scene = Scene({"one": (transport, LEGACY)}, limits=FAST, transparent=True)
    scene.only.up = False
    scene.net.programs["/bin/one"] = lambda spawn: "exit 127: /bin/one: no such file"
    scene.start()
    scene.run(20.0)
    calls = [client.tool("echo") for client in (client_of(scene, kind), client_of(scene, kind))]
    scene.done(*calls)
    for call in calls:
        told_nothing(call)
    assert recorded(scene, calls[0])["detail"]
    assert calls[0].error["data"]["errorId"] == calls[1].error["data"]["errorId"], "one incident"


@KINDS
def test_the_status_of_a_servers_answer_is_not_the_clients(kind: str) -> None:
    from tests.threats.raw import answering_with

    conn = answering_with(lambda id: b"HTTP/1.1 503 Down\r\nX-Host: db-7\r\nContent-Length: 6\r\n\r\nat /db")
    scene = Scene({"one": ("http", LEGACY)}, limits=FAST)
    scene.net.services["127.0.0.1", 9001] = lambda: scene.only.connection(conn)
    scene.start()
    scene.run(1.0)
    call = scene.done(client_of(scene, kind).tool("echo"))
    told_nothing(call)
    assert "503" not in json.dumps(call.answer) and "db" not in json.dumps(call.answer)
    assert recorded(scene, call)["detail"] == "HTTP 503"


def test_a_subscription_that_a_server_takes_to_its_grave() -> None:
    scene = Scene({"one": ("stdio", LEGACY)}, limits=FAST)
    scene.only.resources = ("file:///a",)
    scene.start()
    scene.run(1.0)
    client = scene.legacy()
    scene.done(client.request("resources/list", {}))
    call = client.request("resources/subscribe", {"uri": "file:///a"})
    scene.until(lambda: scene.world.gateway._hub.connections and client.wires[0].busy, 1)
    scene.only.crash()
    scene.done(call)
    told_nothing(call)
    assert call.error["message"] == "the server is not available"
    assert recorded(scene, call)["detail"]


@KINDS
def test_a_peers_own_error_is_content_and_passes(kind: str) -> None:
    """It is what the server wants its client to know."""
    scene = Scene({"one": ("stdio", DUAL)}, limits=FAST).start()

    def fail(job: Any) -> None:
        error = {"code": 77, "message": "no such row in /data/x.db", "data": {"row": 5}}
        job.finish({"jsonrpc": "2.0", "id": job.id, "error": error})

    scene.only.script("sick", fail)
    call = scene.done(client_of(scene, kind).tool("sick"))
    assert call.error == {"code": 77, "message": "no such row in /data/x.db", "data": {"row": 5}}
    assert scene.world.logged("failed") == []


# -- incidents


def hub(**limits: Any) -> Hub:
    from mcpgate_proto.config import GatewayConfig

    config = GatewayConfig(limits=Limits(**limits))
    return Hub(config, now=0.0, wall=0.0, seed=bytes(32))


DOWN = Fault(FaultKind.UPSTREAM_DOWN, "the server is not available", detail="exit status 3")


def test_one_trouble_is_one_incident_for_a_minute() -> None:
    at = hub()
    incidents = Incidents(at)
    ids = []
    for step in range(600):
        at.now = step / 5
        ids.append(incidents.account(DOWN, "tools/call", "one").error_id)
    assert len(set(ids)) == 2 and ids[0] == ids[299] != ids[300]
    records = [dict(effect.record.fields) for effect in at.drain()]  # type: ignore[union-attr]
    assert [one["error_id"] for one in records] == [ids[0], ids[300]]
    assert records[0] == {
        "error_id": ids[0],
        "kind": "upstream_down",
        "method": "tools/call",
        "message": "the server is not available",
        "server": "one",
        "detail": "exit status 3",
    }


@pytest.mark.parametrize("other", ["detail", "method", "server"])
def test_another_trouble_is_another_incident(other: str) -> None:
    incidents = Incidents(hub())
    fault = Fault(DOWN.kind, DOWN.message, detail="another") if other == "detail" else DOWN
    method = "prompts/get" if other == "method" else "tools/call"
    server = "two" if other == "server" else "one"
    first = incidents.account(DOWN, "tools/call", "one")
    assert incidents.account(fault, method, server).error_id != first.error_id


def test_what_explains_itself_has_no_id() -> None:
    incidents = Incidents(hub())
    internal = {FaultKind.INTERNAL, FaultKind.TIMEOUT, FaultKind.UPSTREAM_DOWN}
    for kind in FaultKind:
        fault = incidents.account(Fault(kind, "m"), "x")
        assert bool(fault.error_id) is (kind in internal)
        assert incidents.account(fault, "x") is fault or not fault.error_id


def test_incidents_are_bounded() -> None:
    at = hub(notice_subjects=10)
    incidents = Incidents(at)
    for number in range(1000):
        incidents.account(DOWN, f"method {number}")
    assert len(incidents._open) == 10


def test_ids_are_the_same_in_every_run_and_not_to_be_guessed() -> None:
    first, second = (Incidents(hub()).account(DOWN, "x").error_id for _ in range(2))
    assert first == second and len(first) == 12


# -- defects


class Boom(Exception):
    pass


def break_it(monkeypatch: pytest.MonkeyPatch, where: type, name: str) -> None:
    def boom(*args: Any, **options: Any) -> None:
        raise Boom("at /home/operator: hunter2")

    monkeypatch.setattr(where, name, boom)


def trapped(scene: Scene) -> None:
    """As in production: a defect costs the connection that it shows on."""
    scene.world.gateway.trap_errors = True


def defect(scene: Scene) -> dict[str, Any]:
    (found,) = scene.world.logged("defect")
    return found


def test_over_http_a_defect_is_a_500_with_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene({"one": ("stdio", DUAL)}).start()
    scene.run(1.0)
    trapped(scene)
    with monkeypatch.context() as patch:
        break_it(patch, ModernFace, "handle")
        raw = ask(scene, call_of())
    assert raw.last.status == 500 and raw.ended
    data = {"origin": "gateway", "reason": "internal", "errorId": defect(scene)["error_id"]}
    assert raw.last.json["error"] == {"code": -32603, "message": "internal error", "data": data}
    assert defect(scene)["kind"] == "Boom" and "boom" in defect(scene)["where"]
    assert b"hunter2" not in bytes(raw.sent_back)
    assert scene.world.snapshot().counters["defects"] == 1
    assert serves(scene)


@pytest.mark.parametrize("transport", ["unix", "websocket"])
def test_on_sockets_a_defect_is_an_error_and_the_end(monkeypatch: pytest.MonkeyPatch, transport: str) -> None:
    scene = Scene({"one": ("stdio", DUAL)}, listeners=("http", "unix"), sockets=True).start()
    scene.run(1.0)
    trapped(scene)
    body = call_of().partition(b"\r\n\r\n")[2]
    raw = Raw(scene, "unix", "unix") if transport == "unix" else ws_open(scene)
    with monkeypatch.context() as patch:
        break_it(patch, ModernFace, "handle")
        raw.send(body + b"\n") if transport == "unix" else raw.frame(1, body)
    messages = raw.lines if transport == "unix" else raw.texts
    assert messages[-1]["error"]["data"]["errorId"] == defect(scene)["error_id"]
    assert transport == "unix" or raw.close_code == 1011
    assert raw.ended and serves(scene)


def test_a_defect_behind_a_stream_that_has_begun_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene({"one": ("stdio", LEGACY)}).start()
    scene.run(1.0)
    trapped(scene)
    client = scene.legacy()
    client.listen()
    scene.run(0.5)
    (wire,) = [wire for wire in client.wires if wire.busy]
    stream: Wire = wire
    with monkeypatch.context() as patch:
        break_it(patch, HttpClient, "_after_input")
        stream.stream.send(b"x")
        scene.run(0.5)
    assert stream.dead
    assert len(scene.world.logged("defect")) >= 1
    assert serves(scene)


def test_a_defect_in_telling_of_a_defect_still_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene({"one": ("stdio", DUAL)}).start()
    scene.run(1.0)
    trapped(scene)
    with monkeypatch.context() as patch:
        break_it(patch, ModernFace, "handle")
        break_it(patch, HttpClient, "broken")
        raw = ask(scene, call_of())
    assert raw.ended and raw.sent_back == b""
    assert scene.world.snapshot().counters["defects"] == 2
    assert serves(scene)


def test_calls_that_a_defect_left_behind_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene({"one": ("stdio", LEGACY)}, options={"one": {"timeout": 60.0}}).start()
    scene.run(1.0)
    trapped(scene)
    raw = Raw(scene)
    raw.send(call_of("silent"))
    assert scene.world.snapshot().calls == 1
    with monkeypatch.context() as patch:
        break_it(patch, HttpClient, "_after_input")
        raw.send(b"POST")
    scene.run(1.0)
    assert raw.ended
    assert scene.world.snapshot().calls == 0
