"""The audit stream: one record for each request of a client, whatever became of it; for each refused
credential; for the end of each session (threats.md section 0, Logging; docs/operations.md).

Must never: find an argument, a result, or anything that works like a credential in it.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from fuzz.sim.clients import FORM
from fuzz.sim.scene import FAST, Scene
from fuzz.sim.talk import Job
from mcpgate_proto.config import Names, Rate, RateConfig, RuleConfig
from mcpgate_proto.effects import Record
from tests.threats.raw import (
    DUAL,
    LEGACY,
    MODERN_ERA,
    Raw,
    ask,
    body_of,
    call_of,
    legacy_session,
    post,
    ws_open,
)

SECRET = "hunter2-the-argument"
KINDS = pytest.mark.parametrize("kind", ["legacy", "modern"])


def scene_of(eras: tuple[str, ...] = DUAL, *, audit: bool = True, **options: Any) -> Scene:
    listen = options.pop("listen", {})
    server = options.pop("server", {})
    scene = Scene(
        {"one": ("stdio", eras)},
        listeners=("http", "unix"),
        sockets=True,
        options={"one": server},
        audit=audit,
        listen=listen,
        **options,
    ).start()
    scene.run(1.0)
    return scene


def audit(scene: Scene) -> list[Record]:
    return [one for one in scene.world.records if one.stream == "audit"]


def rounds(scene: Scene, method: str = "tools/call") -> list[dict[str, Any]]:
    found = [dict(one.fields) for one in audit(scene) if one.event == "round"]
    return [one for one in found if one["method"] == method]


def client_of(scene: Scene, kind: str, **options: Any) -> Any:
    return scene.legacy(**options) if kind == "legacy" else scene.modern(**options)


@KINDS
def test_a_call_is_one_record_of_who_what_where_and_how_it_went(kind: str) -> None:
    scene = scene_of(server={"rename": {"echo": "say"}})
    scene.net.client_host = "192.0.2.77"
    client = client_of(scene, kind)
    call = scene.done(client.tool("say", secret=SECRET))
    assert call.text == call.nonce
    (told,) = rounds(scene)
    sent = len(json.dumps({"jsonrpc": "2.0", "id": call.id, "method": call.method, "params": call.params}))
    assert told == {
        "principal": "anonymous",
        "address": "192.0.2.77",
        "method": "tools/call",
        "name": "say",
        "bytes_in": sent,
        "server": "one",
        "bytes_out": told["bytes_out"],
        "duration_ms": told["duration_ms"],
        "outcome": "ok",
    }
    assert 0 < told["duration_ms"] < 500
    answer = json.dumps(call.answer, separators=(",", ":"))
    assert told["bytes_out"] == len(answer.encode())
    assert [one.level for one in audit(scene)] == ["info"] * len(audit(scene))


@KINDS
def test_a_tool_that_reports_its_failure_has_failed(kind: str) -> None:
    scene = scene_of()

    def fail(job: Job) -> None:
        job.answer({"content": [{"type": "text", "text": job.nonce}], "isError": True})

    scene.only.script("sick", fail)
    scene.done(client_of(scene, kind).tool("sick"))
    (told,) = rounds(scene)
    assert (told["outcome"], told["reason"], told["server"]) == ("error", "tool_error", "one")


@KINDS
def test_an_error_has_its_code_and_the_id_that_the_client_was_given(kind: str) -> None:
    scene = scene_of(server={"timeout": 1.0})
    client = client_of(scene, kind)
    late = scene.done(client.tool("silent"))
    unknown = scene.done(client.request("nobody/knows", {}))
    (told,) = rounds(scene)
    assert (told["outcome"], told["reason"], told["code"], told["server"]) == (
        "error",
        "timeout",
        -32603,
        "one",
    )
    assert told["error_id"] == late.error["data"]["errorId"]
    assert 1000 <= told["duration_ms"] < 1500
    (told,) = rounds(scene, "nobody/knows")
    assert (told["outcome"], told["code"]) == ("error", unknown.code)


@KINDS
@pytest.mark.parametrize("why", ["rules", "rate"])
def test_denied_is_told_from_failed_though_the_client_cannot(kind: str, why: str) -> None:
    rules = (RuleConfig(tools=Names(deny=("echo",))),) if why == "rules" else ()
    rate = RateConfig(tool=Rate(0.001, 1)) if why == "rate" else RateConfig()
    scene = scene_of(rules=rules, rate=rate)
    client = client_of(scene, kind)
    if why == "rate":
        scene.done(client.tool("echo"))
    scene.done(client.tool("echo"))
    told = rounds(scene)[-1]
    assert told["outcome"] == "denied"
    assert told["reason"] == ("unknown_name" if why == "rules" else "rate_limited")
    assert told["name"] == "echo"


@KINDS
@pytest.mark.parametrize("how", ["cancel", "leave"])
def test_a_cancelled_call_is_recorded_when_it_is_cancelled(kind: str, how: str) -> None:
    scene = scene_of()
    client = client_of(scene, kind)
    call = client.tool("silent")
    scene.run(2.0)
    assert rounds(scene) == []
    if how == "cancel":
        client.cancel(call)
    elif kind == "modern":
        client.leave()
    else:
        client.delete()
    scene.run(1.0)
    (told,) = rounds(scene)
    assert (told["outcome"], told["server"]) == ("cancelled", "one")
    assert 2000 <= told["duration_ms"] < 3100


@pytest.mark.parametrize("eras", [LEGACY, MODERN_ERA], ids=["parked", "upstream's state"])
def test_a_round_that_ends_with_questions_is_a_round(eras: tuple[str, ...]) -> None:
    scene = scene_of(eras)
    client = scene.modern(capabilities=FORM)
    scene.done(client.tool("ask"))
    first, second = rounds(scene)
    assert [first["outcome"], second["outcome"]] == ["input_required", "ok"]
    assert first["server"] == second["server"] == "one"


def test_a_legacy_clients_questions_are_inside_its_one_round() -> None:
    scene = scene_of(MODERN_ERA)
    client = scene.legacy(capabilities=FORM)
    client.answer_after = 3.0
    call = scene.done(client.tool("ask"))
    (told,) = rounds(scene)
    assert told["outcome"] == "ok" and told["duration_ms"] > 3000
    assert told["bytes_out"] > len(json.dumps(call.answer, separators=(",", ":"))), "the question counts"


@pytest.mark.parametrize("way", ["legacy ws", "modern ws", "legacy sse", "legacy unix", "modern unix"])
def test_every_transport_is_recorded(way: str) -> None:
    scene = scene_of()
    scene.net.client_host = "192.0.2.77"
    kind, transport = way.split()
    options = {"listener": "unix"} if transport == "unix" else {}
    maker = f"{kind}_{'pipe' if transport == 'unix' else transport}"
    client = getattr(scene, maker)(**options)
    scene.done(client.tool("echo"), client.request("tools/list", {}))
    (told,) = rounds(scene)
    assert (told["outcome"], told["server"], told["name"]) == ("ok", "one", "echo")
    assert told["principal"] == ("local" if transport == "unix" else "anonymous")
    assert told["address"] == ("" if transport == "unix" else "192.0.2.77")
    assert told["bytes_in"] > 50 and told["bytes_out"] > 50
    assert len(rounds(scene, "tools/list")) == 1
    assert len(rounds(scene, "initialize")) == (kind == "legacy")


def test_each_request_of_a_batch_has_its_record() -> None:
    scene = scene_of()
    headers = legacy_session(scene, "2025-03-26")
    parts = [body_of(id=1, modern=False, name="echo", arguments={}), body_of("ping", id=2, modern=False)]
    parts.append(body_of(id=3, modern=False, name="nothing", arguments={}))
    ask(scene, post(json.dumps(parts).encode(), headers))
    assert [(one["name"], one["outcome"]) for one in rounds(scene)] == [("nothing", "error"), ("echo", "ok")]
    assert [one["outcome"] for one in rounds(scene, "ping")] == ["ok"]


def test_what_names_prompts_and_resources_is_recorded_too() -> None:
    scene = scene_of()
    scene.only.resources = ("file:///a",)
    client = scene.modern()
    scene.done(
        client.request("resources/read", {"uri": "file:///a"}), client.request("prompts/get", {"name": "p"})
    )
    assert [one["name"] for one in rounds(scene, "resources/read")] == ["file:///a"]
    assert [one["name"] for one in rounds(scene, "prompts/get")] == ["p"]


def test_the_end_of_a_session_is_recorded_with_its_reason() -> None:
    scene = scene_of()
    client = scene.legacy()
    scene.run(10.0)
    client.delete()
    pipe = scene.legacy_pipe(listener="unix")
    scene.run(5.0)
    pipe.leave()
    pipe.stream.close()
    scene.run(1.0)
    over = [dict(one.fields) for one in audit(scene) if one.event == "session_over"]
    assert [(one["principal"], one["reason"]) for one in over] == [
        ("anonymous", "the client ended its session"),
        ("local", "the client is gone"),
    ]
    assert 10 <= over[0]["duration_s"] < 11 and 5 <= over[1]["duration_s"] < 6


def test_a_request_that_never_got_so_far_as_a_call_is_an_error() -> None:
    scene = scene_of()
    wrong = call_of().replace(b"Mcp-Name: echo", b"Mcp-Name: other")
    raw = ask(scene, wrong)
    assert raw.last.json["error"]["code"] == -32020
    old = call_of().replace(b"2026-07-28", b"2027-01-01")
    assert ask(scene, old).last.json["error"]["code"] == -32022
    assert [one["outcome"] for one in rounds(scene)] == ["error", "error"]


def test_a_refused_credential_is_recorded_with_its_address() -> None:
    scene = scene_of(listen={"auth": "required"})
    scene.net.client_host = "192.0.2.77"
    ask(scene, call_of())
    ask(scene, call_of().replace(b"Host:", f"Authorization: Bearer mcpg_x_{SECRET}\r\nHost:".encode()))
    refused = [dict(one.fields) for one in audit(scene) if one.event == "auth_refused"]
    assert [(one["address"], one["status"]) for one in refused] == [("192.0.2.77", 401)] * 2
    assert refused[0]["reason"] != refused[1]["reason"]
    assert SECRET not in repr(audit(scene))


def test_nothing_that_was_said_and_nothing_that_proves_anything_is_recorded() -> None:
    scene = scene_of(LEGACY)
    legacy, modern = scene.legacy(), scene.modern(capabilities=FORM)
    scene.done(legacy.tool("echo", secret=SECRET), modern.tool("ask", secret=SECRET))
    legacy.delete()
    raw = ws_open(scene)
    raw.frame(1, json.dumps(body_of(name="echo", arguments={"secret": SECRET})).encode())
    told = repr(audit(scene))
    states = [call.params["requestState"] for call in modern.calls if "requestState" in call.params]
    assert states and legacy.session
    for hidden in (SECRET, legacy.session, *states):
        assert hidden not in told


def test_texts_of_peers_are_cut() -> None:
    scene = scene_of()
    scene.done(scene.legacy().tool("n" * 100_000))
    (told,) = rounds(scene)
    assert len(told["name"]) == 400


@KINDS
def test_arguments_are_recorded_where_that_was_asked_for(kind: str) -> None:
    scene = scene_of(audit_arguments=True)
    client = client_of(scene, kind)
    call = scene.done(client.tool("echo", secret=SECRET))
    most = scene.config.limits.audit_arguments_bytes
    scene.done(client.tool("echo", long="x" * most))
    scene.done(client.request("tools/list", {}))
    short, long = rounds(scene)
    assert json.loads(short["arguments"]) == call.params["arguments"] and SECRET in short["arguments"]
    assert re.fullmatch(rf"left out: {most // 100}[0-9]+ bytes", long["arguments"])
    assert all("arguments" not in one for one in rounds(scene, "tools/list"))


@KINDS
def test_without_an_audit_stream_there_is_nothing_of_it(kind: str) -> None:
    scene = scene_of(audit=False)
    client = client_of(scene, kind)
    scene.done(client.tool("echo"))
    if kind == "legacy":
        client.delete()
    scene.run(1.0)
    assert audit(scene) == []


def test_the_audit_stream_knows_no_log_level() -> None:
    scene = Scene({"one": ("stdio", LEGACY)}, limits=FAST, audit=True)
    assert scene.config.audit
    scene.world.gateway._hub._least = 7
    scene.start()
    scene.run(1.0)
    scene.done(scene.modern().tool("echo"))
    assert len(rounds(scene)) == 1
    assert [one for one in scene.world.records if one.stream == "log" and one.level == "info"] == []


def test_a_slow_stream_still_slows_its_call() -> None:
    """The outlet in front must not hide whose stream it is."""
    scene = scene_of(LEGACY)
    headers = legacy_session(scene, "2025-11-25")
    message = body_of(
        id=1, modern=False, name="slow", arguments={"nonce": "c9/1", "steps": 400, "every": 0.01}
    )
    message["params"]["_meta"] = {"progressToken": "t"}
    raw = Raw(scene)
    raw.stream.read(False)
    raw.stream.send(post(json.dumps(message).encode(), headers))
    scene.run(1.0)
    calls = list(scene.world.gateway._relay.live)
    assert len(calls) == 1
    (reply,) = [client.reply for client in scene.world.gateway._clients if client.reply is not None]
    reply.client_pressed(True)
    assert calls[0].throttled
