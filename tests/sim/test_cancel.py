"""Cancellation on virtual time: it reaches exactly the one server concerned, in that server's own way (L15).

Must never: take "some server heard something" for an answer; every server and every other call is looked at.
"""

from __future__ import annotations

import msgspec
import pytest

from fuzz.sim.clients import Call, LegacyPipe, ModernPipe
from fuzz.sim.http_clients import LegacyHttp, ModernHttp
from fuzz.sim.scene import FAST, Scene
from fuzz.sim.servers import ServerModel

LEGACY, MODERN = ("legacy",), ("modern",)
SERVERS = {
    "legacy-stdio": ("stdio", LEGACY),
    "legacy-http": ("http", LEGACY),
    "modern-stdio": ("stdio", MODERN),
    "modern-http": ("http", MODERN),
}
CLIENTS = ("legacy http", "legacy pipe", "modern http", "modern pipe")
AnyClient = LegacyHttp | ModernHttp | LegacyPipe | ModernPipe


def of(scene: Scene, kind: str) -> AnyClient:
    if kind == "legacy http":
        return scene.legacy()
    if kind == "legacy pipe":
        return scene.legacy_pipe()
    return scene.modern() if kind == "modern http" else scene.modern_pipe()


def everyone(**limits: float) -> Scene:
    """One gateway before a server of each kind."""
    return Scene(
        dict(SERVERS), listeners=("http", "stdio"), limits=msgspec.structs.replace(FAST, **limits)
    ).start()


def stopped(server: ServerModel, call: Call) -> list[str]:
    """In which ways the server was told that `call` is not wanted any more."""
    ways = ["notification" for _, _, job in server.cancels if job is not None and job.nonce == call.nonce]
    return ways + ["closed" for job in server.closed_streams if job.nonce == call.nonce]


def busy(scene: Scene, client: AnyClient) -> dict[str, Call]:
    """A call at every server, under way."""
    calls = {}
    for name in SERVERS:
        client.prefix = f"{name}__"
        calls[name] = client.tool("slow", steps=10, every=1.0, token=name)
    scene.until(lambda: all(scene[name].job(call.nonce) for name, call in calls.items()), 30, "the calls")
    return calls


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("kind", CLIENTS)
def test_a_cancelled_call_is_stopped_at_its_server_and_nowhere_else(kind: str, name: str) -> None:
    scene = everyone()
    client = of(scene, kind)
    calls = busy(scene, client)
    other = of(scene, "modern http")
    other.prefix = f"{name}__"
    beside = other.tool("slow", steps=10, every=1.0)
    scene.run(1.0)
    client.cancel(calls[name])
    scene.run(2.0)
    way = "closed" if name == "modern-http" else "notification"
    assert stopped(scene[name], calls[name]) == [way]
    for other_name in SERVERS:
        assert len(scene[other_name].cancels) + len(scene[other_name].closed_streams) == (
            1 if other_name == name else 0
        )
    scene.run(30.0)
    kept = [call for server, call in calls.items() if server != name]
    assert [call.text for call in [*kept, beside]] == [call.nonce for call in [*kept, beside]]
    assert calls[name].answer is None
    assert scene.problems() == []
    assert scene.at_rest() == []


@pytest.mark.parametrize("name", ["legacy-stdio", "legacy-http", "modern-stdio"])
def test_the_cancellation_names_the_servers_own_id_and_the_clients_reason(name: str) -> None:
    scene = everyone()
    client = scene.legacy()
    calls = busy(scene, client)
    client.cancel(calls[name], "too \u00e4 slow")
    scene.run(1.0)
    [(_, id, job)] = scene[name].cancels
    assert job is not None and id == job.id
    assert scene[name].told("notifications/cancelled")[-1]["reason"] == "too \u00e4 slow"


@pytest.mark.parametrize("name", SERVERS)
def test_a_legacy_http_client_that_disconnects_does_not_cancel(name: str) -> None:
    """C32: the work goes on, to its end."""
    scene = everyone()
    client = scene.legacy()
    calls = busy(scene, client)
    for call in calls.values():
        client.vanish(call)
    scene.run(30.0)
    server = scene[name]
    assert server.cancels == [] and server.closed_streams == []
    assert server.answered == 1
    assert scene.at_rest() == []


@pytest.mark.parametrize("name", SERVERS)
def test_a_modern_http_client_that_disconnects_cancels(name: str) -> None:
    """C24: also before anything of the answer was sent."""
    scene = everyone()
    client = scene.modern()
    client.prefix = f"{name}__"
    call = client.tool("silent")
    scene.until(lambda: scene[name].job(call.nonce), 30)
    client.vanish(call)
    scene.run(1.0)
    assert stopped(scene[name], call) == ["closed" if name == "modern-http" else "notification"]
    assert scene.at_rest() == []


@pytest.mark.parametrize("name", SERVERS)
def test_the_end_of_a_pipe_ends_the_calls_of_its_client(name: str) -> None:
    """L15: the end of a legacy pipe is the end of its session; B9 for modern ones."""
    for kind in ("legacy pipe", "modern pipe"):
        scene = everyone(eof_grace_s=0.5)
        client = of(scene, kind)
        assert isinstance(client, LegacyPipe | ModernPipe)
        calls = busy(scene, client)
        client.leave()
        scene.until(lambda scene=scene: scene.world.stopped, 30, "Stopped")  # type: ignore[misc]
        # Told, or its process ended, or its session deleted: however, the work has stopped.
        job = scene[name].job(calls[name].nonce)
        assert job is not None and job.cancelled
        assert scene[name].answered == 0


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("kind", CLIENTS)
def test_a_call_that_times_out_is_cancelled_and_answered(kind: str, name: str) -> None:
    """F7, A14: an error that says whose it is, and the server told as by a cancellation."""
    transport, eras = SERVERS[name]
    scene = Scene(
        {name: (transport, eras), "other": ("stdio", LEGACY)},
        listeners=("http", "stdio"),
        options={name: {"timeout": 4.0}},
    ).start()
    client = of(scene, kind)
    client.prefix = f"{name}__"
    call = client.tool("silent")
    scene.done(call)
    assert 4.0 <= call.took < 6.0
    assert call.error["data"]["origin"] == "gateway"
    scene.run(1.0)
    assert stopped(scene[name], call) == ["closed" if name == "modern-http" else "notification"]
    assert scene["other"].cancels == []


def test_a_posted_cancellation_of_a_modern_client_is_ignored() -> None:
    """C22: ids are not scoped to anyone, so one client could end another's call."""
    scene = Scene({"one": ("stdio", MODERN)}).start()
    mine, other = scene.modern(), scene.modern()
    call = mine.tool("slow", id=7, steps=3, every=0.5)
    scene.run(0.3)
    message = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}
    headers = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "notifications/cancelled")]
    wire = other.post(message, headers, None)
    scene.run(0.3)
    assert wire.status == 202
    assert scene.done(call).text == call.nonce
    assert scene.only.cancels == []


@pytest.mark.parametrize("id", [12345, "1", None, 1.5, True, [1], {}])
def test_a_cancellation_of_what_is_not_under_way_is_ignored(id: object) -> None:
    """G23; and `1` is not `"1"`."""
    scene = Scene({"one": ("stdio", LEGACY)}).start()
    client = scene.legacy()
    call = client.tool("slow", id=1, steps=2, every=0.5)
    scene.run(0.3)
    client.notify("notifications/cancelled", {"requestId": id})
    client.notify("notifications/cancelled", {})
    client.notify("notifications/cancelled")
    assert scene.done(call).text == call.nonce
    assert scene.only.cancels == []


def test_another_session_cannot_cancel_a_call() -> None:
    scene = Scene({"one": ("stdio", LEGACY)}).start()
    mine, other = scene.legacy(), scene.legacy()
    call = mine.tool("slow", id=7, steps=3, every=0.5)
    scene.run(0.3)
    other.notify("notifications/cancelled", {"requestId": 7})
    assert scene.done(call).text == call.nonce


def test_a_cancellation_after_the_answer_reaches_no_server() -> None:
    scene = Scene({"one": ("stdio", LEGACY)}).start()
    client = scene.legacy()
    call = scene.done(client.tool("echo"))
    client.notify("notifications/cancelled", {"requestId": call.id})
    scene.run(5.0)
    assert scene.only.cancels == []


def test_deleting_a_session_cancels_its_calls() -> None:
    scene = everyone()
    client = scene.legacy()
    calls = busy(scene, client)
    client.delete()
    scene.run(2.0)
    for name, call in calls.items():
        assert stopped(scene[name], call) == ["closed" if name == "modern-http" else "notification"], name
        assert call.over, "the response has to end"
    assert scene.at_rest() == []


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_stop_answers_the_calls_that_take_longer_than_the_grace_time(kind: str) -> None:
    """A connection that just ends is a "bad gateway" to the proxy in front, and tells the client nothing."""
    scene = everyone()
    calls = busy(scene, of(scene, kind))
    scene.world.feed("shutdown", 1.0)
    scene.until(lambda: scene.world.stopped, 30, "the end")
    for name, call in calls.items():
        assert call.answer is not None, name
        assert "the call may have been carried out" in call.answer["error"]["message"], name
        assert len(stopped(scene[name], call)) == 1, name
