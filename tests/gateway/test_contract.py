"""The contract at the top of `gateway.py`, seen from a runner.

Must never: reach into the gateway; everything here is what a runner may do, or must not.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fuzz.sim.scene import Scene
from mcpgate_proto import Gateway, LocalProtocolError
from mcpgate_proto.effects import Address, Emit, Listen, Peer, Stopped

TCP = Peer(kind="tcp", address=Address(host="127.0.0.1", port=5))
SEED = bytes(range(32))


def fresh(listeners: tuple[str, ...] = ("http",)) -> Gateway:
    config = Scene({"one": ("stdio", ("legacy",))}, listeners=listeners).config
    gateway = Gateway(config, now=10.0, wall=1.7e9, seed=SEED)
    gateway.trap_errors = False
    return gateway


def test_the_first_drain_holds_only_listens_and_the_second_is_empty() -> None:
    gateway = fresh(("http", "stdio"))
    assert [type(effect) for effect in gateway.effects()] == [Listen, Listen]
    assert gateway.effects() == []
    assert gateway.deadline() is None


@pytest.mark.parametrize(
    "misuse",
    [
        lambda gateway: gateway.started(9.0),
        lambda gateway: (gateway.started(10.0), gateway.started(10.0)),
        lambda gateway: gateway.listening(10.0, "nobody", Address()),
        lambda gateway: gateway.listen_failed(10.0, "nobody", "in use"),
        lambda gateway: gateway.accepted(10.0, "nobody", TCP),
        lambda gateway: gateway.accepted(10.0, "http", TCP),
        lambda gateway: gateway.accept_failed(10.0, "nobody", "EMFILE"),
        lambda gateway: gateway.flushed(10.0, 1, -1),
    ],
    ids=[
        "time goes back",
        "started twice",
        "listening for nobody",
        "failed for nobody",
        "accepted for nobody",
        "accepted before listening",
        "accept failed for nobody",
        "negative count",
    ],
)
def test_misuse_is_a_local_protocol_error(misuse: Callable[[Gateway], object]) -> None:
    gateway = fresh()
    gateway.effects()
    with pytest.raises(LocalProtocolError):
        misuse(gateway)


def test_a_short_seed_is_a_local_protocol_error() -> None:
    config = Scene({}).config
    with pytest.raises(LocalProtocolError):
        Gateway(config, now=0.0, wall=0.0, seed=b"short")


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "never was"])
def test_late_inputs_are_ignored(gone: bool) -> None:
    gateway = fresh()
    gateway.effects()
    gateway.listening(10.0, "http", Address(host="127.0.0.1", port=8080))
    gateway.started(10.0)
    gateway.effects()
    conn = gateway.accepted(10.0, "http", TCP) if gone else 77
    gateway.closed(10.0, conn, "reset")
    gateway.effects()
    lates: tuple[Callable[[], None], ...] = (
        lambda: gateway.received(10.0, conn, b"POST / HTTP/1.1\r\n\r\n"),
        lambda: gateway.received_eof(10.0, conn),
        lambda: gateway.received_stderr(10.0, conn, b"x\n"),
        lambda: gateway.flushed(10.0, conn, 5),
        lambda: gateway.connected(10.0, conn, TCP),
        lambda: gateway.connect_failed(10.0, conn, "refused"),
        lambda: gateway.exited(10.0, conn, 0),
        lambda: gateway.closed(10.0, conn, "again"),
        lambda: gateway.resolved(10.0, conn, []),
        lambda: gateway.resolve_failed(10.0, conn, "nothing"),
    )
    for late in lates:
        late()
        assert gateway.effects() == []


def test_timed_out_is_harmless_when_early() -> None:
    scene = Scene({"one": ("stdio", ("legacy",))}).start()
    scene.legacy()
    scene.run(1.0)
    for _ in range(5):
        scene.world.feed("timed_out")
    assert scene.world.gateway.effects() == []


def test_a_listener_that_cannot_be_bound_ends_the_gateway_with_its_reason() -> None:
    gateway = fresh()
    gateway.effects()
    gateway.listen_failed(10.0, "http", "address in use")
    gateway.started(10.0)
    left = [effect for effect in gateway.effects() if not isinstance(effect, Emit)]
    assert left == [Stopped("cannot listen (http): address in use")]


def test_connection_ids_rise() -> None:
    scene = Scene({"one": ("stdio", ("legacy",))}).start()
    for _ in range(5):
        client = scene.modern()
        call = client.tool("echo")
        scene.until(lambda c=call: c.settled, 10)  # type: ignore[misc]
        client.leave()
    # The network of the scene asserts it for every id; here only that there were some.
    assert scene.world.facts > 20


def test_two_gateways_do_not_share_anything() -> None:
    """Instances side by side, as tests and embedders make them."""
    first = Scene({"one": ("stdio", ("legacy",))}, seed=3).start()
    second = Scene({"one": ("stdio", ("legacy",))}, seed=3).start()
    for _ in range(3):
        for scene in (first, second):
            client = scene.modern()
            call = client.tool("slow", token=1, steps=2, every=0.5)
            scene.until(lambda c=call: c.settled, 10)  # type: ignore[misc]
    assert first.world.digest() == second.world.digest()
