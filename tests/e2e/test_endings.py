"""How calls end early: cancelled, left by a client that is gone, or cut off by a server that died."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from e2e.conftest import MODES, MakeClient, MakeGateway, MakePeer, World
from e2e.harness import alive, until
from mcpgate import journal as recording
from mcpgate_proto.gateway import Gateway as Core
from mcpgate_proto.gateway import Snapshot

NAMES = ["alpha", "beta", "gamma", "delta"]
CANCELLED = "notifications/cancelled"
# Row by row of the protocol's table of cancellations: by what a server is told of it.
TOLD = {
    ("legacy", "alpha"): "message",
    ("legacy", "beta"): "message",
    ("legacy", "gamma"): "message",
    ("legacy", "delta"): "message",
    ("auto", "alpha"): "message",
    ("auto", "beta"): "hangup",
    ("auto", "gamma"): "message",
    ("auto", "delta"): "message",
}


@pytest.mark.parametrize(("mode", "name"), TOLD)
def test_a_cancelled_call(mode: str, name: str, world: World, tmp_path: Path) -> None:
    """Its server is told in the way of its era and transport, once; the other servers of nothing."""
    client = world.clients[mode][0]
    key = str(tmp_path / "never")
    journals = {other: world.peers[other].journal for other in NAMES}
    before = {other: len(one.messages(CANCELLED)) for other, one in journals.items()}
    number = client.start("call", name=f"{name}__hold", arguments={"key": key}, progress=True)
    client.event("progress", n=number)
    (request,) = [
        one for one in journals[name].messages("tools/call") if one["params"]["arguments"] == {"key": key}
    ]
    client.cancel(number)
    assert client.outcome(number) == {"n": number, "cancelled": True}
    journals[name].wait("cancelled", key=key)
    world.gateway.wait_idle(*NAMES)
    for other, one in journals.items():
        told = one.messages(CANCELLED)[before[other] :]
        if other == name and TOLD[mode, name] == "message":
            assert [cancel["params"]["requestId"] for cancel in told] == [request["id"]]
        else:
            assert told == [], other
    # The channel is as good as before.
    assert client.call(f"{name}__echo", text="again") == "again"


def test_nothing_is_left_of_a_recorded_run(
    make_peer: MakePeer, serve_gateway: MakeGateway, make_client: MakeClient, tmp_path: Path
) -> None:
    """The snapshot after calls, cancels and a listen is back to zero; it is taken from a replay."""
    file = tmp_path / "run.rec"
    gateway = serve_gateway([make_peer("alpha"), make_peer("beta", http=True)], "--record", str(file))
    clients = {mode: make_client(gateway, mode=mode) for mode in MODES}
    for name in ("alpha", "beta"):
        for mode, client in clients.items():
            assert client.call(f"{name}__who") == name
            number = client.start("call", name=f"{name}__hold", arguments={"key": "/nowhere"}, progress=True)
            client.event("progress", n=number)
            client.cancel(number)
            client.outcome(number)
            if mode == "auto":
                number = client.start("listen", want={"tools_list_changed": True})
                client.event("listening", n=number)
                client.cancel(number)
                client.outcome(number)
    for client in clients.values():
        client.close_stdin()
        assert client.wait() == 0
    gateway.wait_idle("alpha", "beta")
    # The clients' sessions and streams are over; only the stdio listener's own connection is left.
    assert gateway.stop() == 0
    last: list[Snapshot] = []

    class Watched(Core):
        def shutdown(self, now: float, grace_s: float) -> None:
            last.append(self.snapshot())
            super().shutdown(now, grace_s)

    report = recording.replay(str(file), guard=True, make=Watched)
    assert report.difference == "" and report.inputs > 50
    snapshot = last[0]
    assert snapshot.calls == snapshot.upstream_calls == 0
    assert snapshot.streams == snapshot.subscriptions == snapshot.unsent == 0
    assert snapshot.sessions == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_legacy_client_that_vanishes(
    name: str, world: World, make_client: MakeClient, tmp_path: Path
) -> None:
    """Not a cancellation: the call goes on to its end."""
    client = make_client(world.gateway, mode="legacy")
    gate = tmp_path / "gate"
    number = client.start("call", name=f"{name}__hold", arguments={"key": str(gate)}, progress=True)
    client.event("progress", n=number)
    before = len(world.peers[name].journal.messages(CANCELLED))
    client.popen.send_signal(signal.SIGKILL)
    client.wait()
    # Something passes through the gateway after the loss: it has seen it.
    assert world.clients["legacy"][0].call(f"{name}__who") == name
    gate.touch()
    world.peers[name].journal.wait("finished", key=str(gate))
    assert not world.peers[name].journal.entries("cancelled", key=str(gate))
    assert len(world.peers[name].journal.messages(CANCELLED)) == before
    world.gateway.wait_idle(*NAMES)


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_a_modern_client_that_vanishes(
    name: str, world: World, make_client: MakeClient, tmp_path: Path
) -> None:
    """The end of its stream is the cancellation."""
    client = make_client(world.gateway, mode="auto")
    key = str(tmp_path / "never")
    number = client.start("call", name=f"{name}__hold", arguments={"key": key}, progress=True)
    client.event("progress", n=number)
    client.popen.send_signal(signal.SIGKILL)
    client.wait()
    world.peers[name].journal.wait("cancelled", key=key)
    world.gateway.wait_idle(*NAMES)


@pytest.mark.parametrize("mode", MODES)
def test_a_child_that_is_killed(
    mode: str, make_peer: MakePeer, serve_gateway: MakeGateway, make_client: MakeClient, world: World
) -> None:
    """A clear error at once, nobody else is hurt, and the next call finds it running again."""
    peer, other = make_peer("alpha"), world.peers["beta"]
    gateway = serve_gateway([peer, other])
    client = make_client(gateway, mode=mode)
    number = client.start("call", name="alpha__hold", arguments={"key": "/nowhere"}, progress=True)
    bystander = client.start("call", name="beta__steps", arguments={"count": 50}, progress=True)
    client.event("progress", n=number)
    client.event("progress", n=bystander)
    (started,) = peer.journal.entries("started")
    killed = time.monotonic()
    os.kill(started["pid"], signal.SIGKILL)
    outcome = client.outcome(number)
    assert time.monotonic() - killed < 1.0
    assert outcome["error"]["code"] == -32603
    assert "alpha" in outcome["error"]["message"] or "server" in outcome["error"]["message"]
    assert outcome["error"]["data"]["origin"] == "gateway"
    assert client.outcome(bystander)["ok"]["content"][0]["text"] == "50 steps"
    until(lambda: not alive(started["pid"]), "the end of the child")
    assert client.call("alpha__who") == "alpha"
    status = gateway.status("alpha")
    assert status["state"] == "connected" and started["pid"] not in status["pids"]
    assert status["restarts"] >= 1


def test_a_child_that_exits_by_itself(
    make_peer: MakePeer, serve_gateway: MakeGateway, make_client: MakeClient
) -> None:
    gateway = serve_gateway([make_peer("alpha")])
    client = make_client(gateway, mode="legacy")
    outcome = client.outcome(client.start("call", name="crash"))
    assert outcome["error"]["data"]["origin"] == "gateway"
    assert client.call("who") == "alpha"


@pytest.mark.parametrize("mode", MODES)
def test_a_server_that_stays_silent(
    mode: str, make_peer: MakePeer, serve_gateway: MakeGateway, make_client: MakeClient
) -> None:
    """Without progress the call's clock runs out: an error downstream, a cancel upstream."""
    peer = make_peer("alpha")
    gateway = serve_gateway([peer.config(timeout=0.5)])
    client = make_client(gateway, mode=mode)
    outcome = client.outcome(client.start("call", name="hold", arguments={"key": "/nowhere"}))
    told = outcome["error"]["data"]
    assert len(told.pop("errorId")) >= 8 and told == {"origin": "gateway", "reason": "timeout"}
    peer.journal.wait("cancelled", key="/nowhere")
    gateway.wait_idle("alpha")
