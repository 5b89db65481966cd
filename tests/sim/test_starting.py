"""Servers that start slowly, fail, die, hang, forget, or are not needed any more.

Must never: depend on the length of a jitter, only on its bounds.
"""

from __future__ import annotations

import msgspec
import pytest

from fuzz.sim.clients import FORM, Call
from fuzz.sim.scene import FAST, Scene
from mcpgate_proto.config import Names, RuleConfig
from mcpgate_proto.effects import Spawn
from mcpgate_proto.limits import Limits

LEGACY, MODERN, DUAL = ("legacy",), ("modern",), ("legacy", "modern")


def limits(**changed: float) -> Limits:
    return msgspec.structs.replace(FAST, **changed)


def names(call: Call) -> list[str]:
    return [one["name"] for one in call.result["tools"]]


def up(scene: Scene) -> Scene:
    """Started, with its servers up before anybody asks."""
    scene.start()
    scene.run(2.0)
    return scene


@pytest.mark.parametrize("eras", [LEGACY, MODERN], ids=["legacy", "modern"])
def test_the_first_list_does_not_wait_for_a_slow_server_longer_than_it_must(eras: tuple[str, ...]) -> None:
    patient = limits(probe_timeout_s=30.0)
    scene = Scene({"slow": ("stdio", eras), "quick": ("stdio", eras)}, limits=patient)
    scene["slow"].start_delay = 12.0
    scene.start()
    legacy, modern = scene.legacy(), scene.modern()
    legacy.listen()
    heard = modern.request("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
    call, same = legacy.request("tools/list"), modern.request("tools/list")
    scene.done(call, same)
    assert legacy.hello.took <= FAST.startup_wait_s + 0.5
    assert call.took <= FAST.startup_wait_s + 0.5
    assert names(call) and all(name.startswith("quick__") for name in names(call))
    assert same.result["ttlMs"] == 0, "a server is missing, so the list may not be kept"
    scene.run(30.0)
    scene["slow"].start_delay = 0.0  # whatever else is started of it is quick
    told = [note["method"] for _, note in legacy.notes]
    assert told.count("notifications/tools/list_changed") >= 1
    assert "notifications/tools/list_changed" in [note["method"] for _, note in heard.notes]
    again = scene.done(legacy.request("tools/list"))
    assert any(name.startswith("slow__") for name in names(again))
    assert again.took < 0.5


def test_a_call_to_a_server_that_is_still_starting_waits_for_it() -> None:
    scene = Scene({"one": ("stdio", LEGACY)})
    scene.only.start_delay = 3.0
    scene.start()
    call = scene.modern().tool("echo")
    assert scene.done(call).text == call.nonce
    assert 2.9 < call.took < 5.0


@pytest.mark.parametrize("fate", ["cannot start", "dies at start", "says nothing", "refuses dials"])
def test_a_dead_server_breaks_only_itself(fate: str) -> None:
    scene = Scene(
        {"sick": ("http" if fate == "refuses dials" else "stdio", LEGACY), "well": ("stdio", LEGACY)},
        limits=limits(),
        listeners=("http", "stdio"),
    )
    sick = scene["sick"]
    sick.cannot_start = "no such file" if fate == "cannot start" else ""
    sick.dies_at_start = fate == "dies at start"
    sick.up = False
    if fate == "says nothing":
        sick.mute = dict.fromkeys(("initialize", "server/discover"))
    scene.start()
    client, local = scene.legacy(), scene.modern_pipe()
    listed = scene.done(client.request("tools/list"))
    assert names(listed) and all(name.startswith("well__") for name in names(listed))
    client.prefix = "well__"
    assert scene.done(client.tool("echo")).took < 0.5
    scene.run(200.0)
    client.prefix = "sick__"
    lost = scene.done(client.tool("echo"))
    assert lost.code == -32602 or lost.error["data"]["origin"] == "gateway"
    assert lost.took <= FAST.startup_wait_s + 0.5
    told = scene.done(local.request("gateway/list_servers")).result["servers"]
    assert [(one["name"], one["state"]) for one in told] == [("sick", "down"), ("well", "connected")]
    client.prefix = "well__"
    assert scene.done(client.tool("echo")).took < 0.5


def test_a_server_that_keeps_dying_is_restarted_with_backoff_and_jitter() -> None:
    def starts(seed: int) -> list[float]:
        scene = Scene({"one": ("stdio", LEGACY)}, seed=seed, limits=limits(restart_last_s=8.0))
        scene.only.dies_at_start = True
        at: list[float] = []
        scene.world.watchers.append(
            lambda effects: at.extend(scene.world.now for one in effects if isinstance(one, Spawn))
        )
        scene.start()
        scene.run(120.0)
        return at

    first, second = starts(1), starts(2)
    assert first != second, "no jitter: many gateways would come back at one moment"
    # The probe that found it dead costs one more process, for a server that a probe kills.
    gaps = [gap for gap in (b - a for a, b in zip(first, first[1:], strict=False)) if gap > 0.1]
    assert gaps[0] < 1.5
    assert all(gap < 8.0 * 1.5 + 1.0 for gap in gaps)
    assert 10 < len(first) < 60
    assert min(gaps[6:]) > 3.0, "it is not left alone for long enough"


def test_a_server_that_comes_back_is_used_again() -> None:
    scene = Scene({"one": ("stdio", LEGACY)})
    scene.only.dies_at_start = True
    scene.start()
    scene.run(30.0)
    scene.only.dies_at_start = False
    client = scene.modern()
    scene.run(61.0)
    call = scene.done(client.tool("echo"))
    assert call.text == call.nonce and call.took < 0.5


@pytest.mark.parametrize("transport", ["stdio", "http"])
@pytest.mark.parametrize("eras", [LEGACY, MODERN], ids=["legacy", "modern"])
def test_a_server_that_dies_during_calls_fails_them_at_once(eras: tuple[str, ...], transport: str) -> None:
    """B7, A14; and the next call is served again."""
    scene = up(Scene({"one": (transport, eras)}))
    clients = [scene.legacy(), scene.modern()]
    calls = [client.tool("slow", steps=20) for client in clients]
    scene.until(lambda: all(scene.only.job(call.nonce) for call in calls), 10)
    scene.only.crash()
    began = scene.world.now
    scene.done(*calls)
    assert scene.world.now - began < 0.5
    for call in calls:
        assert call.error["data"]["origin"] == "gateway"
    assert len({call.nonce for call in scene.only.calls}) == len(scene.only.calls), "a call was repeated"
    again = scene.done(clients[0].tool("echo"))
    assert again.text == again.nonce and again.took < 3.0


@pytest.mark.parametrize("transport", ["stdio", "http"])
@pytest.mark.parametrize("eras", [LEGACY, MODERN], ids=["legacy", "modern"])
def test_a_session_that_does_not_answer_health_checks_is_replaced(
    eras: tuple[str, ...], transport: str
) -> None:
    """L10."""
    scene = Scene({"one": (transport, eras)}, options={"one": {"health_s": 5.0, "timeout": 4.0}}).start()
    scene.done(scene.modern().tool("echo"))
    probe = "ping" if eras == LEGACY else "server/discover"
    scene.run(21.0)
    assert scene.only.seen(probe) >= 4
    before = len(scene.world.logged("server_ready"))
    scene.only.mute[probe] = None
    scene.run(10.0)
    assert len(scene.world.logged("server_session_over")) >= 1
    scene.only.mute.clear()
    # The session that was begun while the server was mute is given up first.
    scene.until(lambda: len(scene.world.logged("server_ready")) > before, 60)
    call = scene.done(scene.modern().tool("echo"))
    assert call.text == call.nonce


def test_no_health_checks_unless_asked_for() -> None:
    scene = Scene({"one": ("stdio", LEGACY)}).start()
    scene.run(120.0)
    assert scene.only.seen("ping") == 0


def test_a_forgotten_session_is_made_anew_and_the_refused_call_goes_again_once() -> None:
    """D10: the call that met the 404 was not carried out; what else was under way may have been."""
    scene = up(Scene({"one": ("http", LEGACY)}))
    client, other = scene.legacy(), scene.legacy()
    under_way = other.tool("slow", steps=20)
    scene.until(lambda: scene.only.job(under_way.nonce), 10)
    handshakes = scene.only.seen("initialize")
    scene.only.sessions.clear()  # it answers the stream that is open, but knows the session no more
    call = scene.done(client.tool("echo"))
    assert call.text == call.nonce
    assert [job.nonce for job in scene.only.calls].count(call.nonce) == 1
    assert scene.only.seen("initialize") == handshakes + 1
    scene.run(1.0)
    assert under_way.code is not None and under_way.error["data"]["origin"] == "gateway"
    assert [job.nonce for job in scene.only.calls].count(under_way.nonce) == 1, "it was carried out twice"


def test_a_server_that_forgets_every_session_fails_the_call_instead_of_looping() -> None:
    scene = up(Scene({"one": ("http", LEGACY)}))
    client = scene.legacy()
    scene.done(client.tool("echo"))
    before = scene.only.seen("initialize")
    scene.only.forgets["tools/call"] = None
    tried = len([message for _, _, message in scene.only.requests if message])
    call = scene.done(client.tool("echo"))
    assert call.code is not None
    scene.run(30.0)
    told = [message for _, _, message in scene.only.requests if message][tried:]
    assert [message["method"] for message in told].count("tools/call") == 2
    assert scene.only.seen("initialize") - before <= 4


def test_idle_sessions_children_and_connections_are_reaped() -> None:
    scene = Scene(
        {"pipe": ("stdio", LEGACY), "net": ("http", LEGACY)},
        limits=limits(session_idle_s=100.0, upstream_idle_s=60.0, keep_alive_s=20.0),
    ).start()
    client = scene.legacy()
    for name in ("pipe", "net"):
        client.prefix = f"{name}__"
        scene.done(client.tool("echo"))
    assert scene.world.snapshot().sessions == 1
    scene.run(30.0)
    assert all(wire.dead for wire in client.wires), "idle connections of clients are closed"
    assert scene.world.snapshot().sessions == 1, "but a session outlives them"
    scene.run(400.0)
    snapshot = scene.world.snapshot()
    assert (snapshot.sessions, snapshot.connections, snapshot.clients) == (0, 0, 0)
    assert all(not process.alive for process in scene["pipe"].processes)
    assert scene["net"].sessions == {}, "D10: deleted when done"
    late = scene.done(client.tool("echo"))
    assert late.status == 404
    fresh = scene.modern()
    fresh.prefix = "pipe__"
    call = scene.done(fresh.tool("echo"))
    assert call.text == call.nonce, "and what is needed again is started again"


def test_upstream_sessions_of_idle_profiles_are_reaped_and_those_in_use_stay() -> None:
    scene = Scene({"one": ("stdio", LEGACY)}, limits=limits(upstream_idle_s=40.0)).start()
    scene.run(1.0)
    asking, plain = scene.modern(capabilities=FORM), scene.modern()
    scene.done(asking.tool("ask"), plain.tool("echo"))
    assert sum(process.alive for process in scene.only.processes) == 2
    for _ in range(20):
        scene.done(plain.tool("echo"))
        scene.run(5.0)
    assert sum(process.alive for process in scene.only.processes) == 1


@pytest.mark.parametrize("ignores", [(), ("eof",), ("eof", "term")], ids=["polite", "deaf", "stubborn"])
def test_children_are_stopped_step_by_step(ignores: tuple[str, ...]) -> None:
    """B5: stdin closed, wait, TERM, wait, KILL."""
    bounds = limits(stop_wait_s=3.0, term_wait_s=2.0)
    scene = Scene({"one": ("stdio", LEGACY)}, limits=bounds).start()
    scene.only.ignores_eof = "eof" in ignores
    scene.only.ignores_term = "term" in ignores
    scene.run(1.0)
    assert [process.alive for process in scene.only.processes] == [True]
    began = scene.world.now
    scene.world.feed("shutdown", 0.0)
    scene.until(lambda: scene.world.stopped, 60, "Stopped")
    told = [(round(at - began, 2), which) for at, _, which in scene.net.signals]
    # The last KILL is for what the child has left behind in its group.
    steps = [(3.0, "TERMINATE"), (5.0, "KILL")][: len(ignores)]
    assert told[: len(steps)] == steps
    assert {which for _, which in told[len(steps) :]} <= {"KILL"}
    assert not scene.only.processes[0].alive


def test_a_graceful_shutdown_lets_calls_finish() -> None:
    scene = Scene({"one": ("stdio", LEGACY), "two": ("http", MODERN)}).start()
    clients = [scene.legacy(), scene.modern()]
    calls = []
    for client in clients:
        for name in ("one", "two"):
            client.prefix = f"{name}__"
            calls.append(client.tool("slow", steps=4, every=1.0))
    scene.until(lambda: all(scene["one"].job(c.nonce) or scene["two"].job(c.nonce) for c in calls), 10)
    began = scene.world.now
    scene.world.feed("shutdown", 25.0)
    assert "http" not in scene.net.listens, "no new clients"
    scene.until(lambda: scene.world.stopped, 60, "Stopped")
    assert [call.text for call in calls] == [call.nonce for call in calls]
    assert scene.world.now - began < 8.0
    assert scene.world.failure is None


def test_a_graceful_shutdown_does_not_wait_longer_than_its_grace() -> None:
    scene = Scene({"one": ("stdio", LEGACY)}).start()
    call = scene.legacy().tool("silent")
    scene.run(1.0)
    began = scene.world.now
    scene.world.feed("shutdown", 3.0)
    scene.until(lambda: scene.world.stopped, 60, "Stopped")
    assert 3.0 <= scene.world.now - began < 10.0
    assert call.over


def test_a_second_shutdown_ends_everything_at_once() -> None:
    scene = Scene({"one": ("stdio", LEGACY)}).start()
    scene.only.ignores_eof = scene.only.ignores_term = True
    call = scene.legacy().tool("silent")
    scene.run(1.0)
    began = scene.world.now
    scene.world.feed("shutdown", 100.0)
    scene.world.feed("shutdown", 0.0)
    scene.until(lambda: scene.world.stopped, 60, "Stopped")
    assert scene.world.now - began < 2.0
    assert call.over


@pytest.mark.parametrize("eras", [LEGACY, MODERN, DUAL], ids=["legacy", "modern", "dual"])
def test_a_launcher_starts_once_for_one_era(eras: tuple[str, ...]) -> None:
    """Probed eras are remembered, and the probe's process becomes the first session."""
    scene = up(Scene({"one": ("stdio", eras)}))
    clients = [scene.modern() for _ in range(3)]
    scene.done(*[client.tool("echo") for client in clients])
    scene.run(30.0)
    assert len(scene.net.spawned) <= 2
    if eras != DUAL:
        assert sum(process.alive for process in scene.only.processes) == 1


@pytest.mark.parametrize("kind", ["legacy", "modern"])
def test_a_name_of_a_server_that_is_not_there_is_not_called_unknown(kind: str) -> None:
    """What it has nobody knows yet: the caller is told which server it is, not that there is no such tool."""
    scene = Scene({"sick": ("stdio", DUAL), "well": ("stdio", DUAL)}, limits=FAST)
    scene["sick"].cannot_start = "no such file"
    client = getattr(up(scene), kind)()
    for method, name in (("tools/call", "sick__echo"), ("prompts/get", "sick__hello")):
        call = scene.done(client.request(method, {"name": name, "arguments": {}}))
        assert (call.code, call.error["message"]) == (-32603, "server 'sick' is not available")
        assert call.error["data"]["reason"] == "upstream_down"
    for name in ("well__nothing", "nobody__echo", "echo"):
        call = scene.done(client.request("tools/call", {"name": name, "arguments": {}}))
        assert (call.code, call.error["message"]) == (-32602, f"unknown tool: {name}")


def test_a_server_that_is_not_there_and_not_for_the_caller_is_unknown() -> None:
    none = Names(allow=())
    rule = RuleConfig(servers=("sick",), tools=none, prompts=none, resources=none)
    scene = Scene({"sick": ("stdio", DUAL), "well": ("stdio", DUAL)}, limits=FAST, rules=(rule,))
    scene["sick"].cannot_start = "no such file"
    call = scene.done(up(scene).modern().request("tools/call", {"name": "sick__echo", "arguments": {}}))
    assert call.error["message"] == "unknown tool: sick__echo"
