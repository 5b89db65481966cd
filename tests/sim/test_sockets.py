"""WebSocket, HTTP+SSE and Unix sockets on either side: the same calls as over everything else.

Must never: know how the bytes look; the model peers have their own codecs.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fuzz.sim.checkers import Checkers
from fuzz.sim.clients import FORM
from fuzz.sim.scene import AnyClient, Scene

LEGACY, MODERN, DUAL = ("legacy",), ("modern",), ("legacy", "modern")
SERVERS = [(t, e) for t in ("websocket", "unix") for e in (LEGACY, MODERN, DUAL)] + [("sse", LEGACY)]
NAMES = [f"{t}-{'+'.join(e)}" for t, e in SERVERS]
CLIENTS = ("legacy ws", "modern ws", "legacy sse", "legacy unix", "modern unix", "modern http", "legacy http")


def client_of(scene: Scene, kind: str) -> AnyClient:
    makers: dict[str, Callable[..., AnyClient]] = {
        "legacy ws": scene.legacy_ws,
        "modern ws": scene.modern_ws,
        "legacy sse": scene.legacy_sse,
        "legacy unix": lambda **options: scene.legacy_pipe(listener="unix", **options),
        "modern unix": lambda **options: scene.modern_pipe(listener="unix", **options),
        "modern http": scene.modern,
        "legacy http": scene.legacy,
    }
    return makers[kind](capabilities=FORM)


@pytest.mark.parametrize(("transport", "eras"), SERVERS, ids=NAMES)
@pytest.mark.parametrize("kind", CLIENTS)
def test_calls_progress_questions_and_large_results_pass(
    kind: str, transport: str, eras: tuple[str, ...]
) -> None:
    scene = Scene({"one": (transport, eras)}, listeners=("http", "unix"), sockets=True).start()
    Checkers(scene)
    client, other = client_of(scene, kind), scene.modern()
    client.answer_after = 0.2
    echo, big, ask = client.tool("echo"), client.tool("big", size=200_000), client.tool("ask")
    slow, beside = client.tool("slow", token="t", steps=3, every=0.2), other.tool("slow", steps=2)
    scene.done(echo, big, ask, slow, beside, within=90)
    assert [call.text for call in (echo, big, slow, beside)] == [c.nonce for c in (echo, big, slow, beside)]
    assert ask.text == f"{ask.nonce}|{client.name} says {ask.nonce}"
    assert len(big.result["pad"]) == 200_000
    gone = client.tool("silent")
    scene.until(lambda: scene.only.job(gone.nonce), 10)
    client.cancel(gone)
    scene.run(2.0)
    job = scene.only.job(gone.nonce)
    assert job is not None and job.cancelled
    assert scene.problems() == []
    client.leave()
    scene.run(40.0)
    assert scene.at_rest() == []


@pytest.mark.parametrize(("transport", "eras"), SERVERS, ids=NAMES)
def test_a_connection_that_breaks_fails_its_calls_and_is_made_anew(
    transport: str, eras: tuple[str, ...]
) -> None:
    scene = Scene({"one": (transport, eras)}).start()
    scene.run(1.0)
    client = scene.modern()
    call = client.tool("slow", steps=20)
    scene.until(lambda: scene.only.job(call.nonce), 10)
    scene.only.crash()
    scene.done(call, within=1.0)
    assert call.error["data"]["origin"] == "gateway"
    again = scene.done(client.tool("echo"))
    assert again.text == again.nonce


@pytest.mark.parametrize("kind", ["legacy ws", "modern ws", "legacy sse", "legacy unix", "modern unix"])
def test_the_end_of_the_connection_ends_what_hangs_on_it(kind: str) -> None:
    """B14, E5: close is the end of the session, and the cancellation of what is under way."""
    scene = Scene({"one": ("stdio", DUAL)}, listeners=("http", "unix"), sockets=True).start()
    scene.run(1.0)
    client = client_of(scene, kind)
    call = client.tool("silent")
    scene.until(lambda: scene.only.job(call.nonce), 10)
    client.leave()
    if "unix" in kind:
        client.stream.close()  # type: ignore[union-attr]
    scene.run(5.0)
    job = scene.only.job(call.nonce)
    assert job is not None and job.cancelled
    assert scene.at_rest() == [] and scene.world.snapshot().clients == 0


@pytest.mark.parametrize("transport", ["websocket", "unix", "sse"])
def test_a_socket_that_is_not_there_breaks_only_itself(transport: str) -> None:
    scene = Scene({"sick": (transport, LEGACY), "well": ("unix", MODERN)})
    scene["sick"].up = False
    scene.start()
    client = scene.modern()
    client.prefix = "well__"
    scene.run(30.0)
    assert scene.done(client.tool("echo")).took < 0.5
    scene["sick"].up = True
    scene.run(90.0)
    client.prefix = "sick__"
    call = scene.done(client.tool("echo"))
    assert call.text == call.nonce
