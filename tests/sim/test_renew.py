"""A reload that changes nothing but the headers of a server (a rotated token): the next request carries them,
and nothing that is under way or open ends.

Must never: look inside the gateway; what it writes to the server is enough.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fuzz.sim.scene import Scene
from tests.threats.raw import Wiretap

OLD, NEW = "Bearer the-old-token", "Bearer the-new-token"
WAYS = [("http", ("modern",)), ("http", ("legacy",)), ("sse", ("legacy",)), ("websocket", ("modern",))]
SLOW = {"steps": 20, "every": 0.1}


def change(scene: Scene, **fields: Any) -> None:
    (server,) = scene.config.servers
    scene.config = msgspec.structs.replace(scene.config, servers=(msgspec.structs.replace(server, **fields),))
    scene.world.feed("reload", scene.config)


@pytest.mark.parametrize(("transport", "eras"), WAYS, ids=lambda way: way if isinstance(way, str) else way[0])
def test_new_headers_end_nothing(transport: str, eras: tuple[str, ...]) -> None:
    options = {"one": {"headers": {"Authorization": OLD}}}
    scene = Scene({"one": (transport, eras)}, options=options).start()
    before = Wiretap(scene)
    client = scene.modern() if eras == ("modern",) else scene.legacy()
    assert scene.done(client.tool("echo", text="a")).code is None
    sessions, connections = scene.world.snapshot().servers[0].sessions, len(scene["one"].processes)
    slow = client.tool("slow", nonce="n", **SLOW)
    scene.run(0.5)
    assert not slow.settled and OLD.encode() in before.written
    change(scene, headers={"Authorization": NEW})
    after = Wiretap(scene)
    assert scene.done(client.tool("echo", text="b")).code is None
    assert scene.done(slow).code is None
    assert scene.world.snapshot().servers[0].sessions == sessions
    assert len(scene["one"].processes) == connections
    # Of a WebSocket the headers went with the upgrade; the next connection has the new ones.
    if transport == "websocket":
        assert after.written and b"Bearer" not in after.written
        scene["one"].crash()
        scene.run(5.0)
        assert scene.done(client.tool("echo", text="c")).code is None
    assert NEW.encode() in after.written and OLD.encode() not in after.written
    assert not scene.problems()


@pytest.mark.parametrize(
    "fields", [{"timeout": 7.0}, {"url": "http://127.0.0.1:9001/other"}, {"enabled": False}]
)
def test_any_other_change_is_a_new_server(fields: dict[str, Any]) -> None:
    scene = Scene({"one": ("http", ("modern",))}).start()
    client = scene.modern()
    assert scene.done(client.tool("echo", text="a")).code is None
    slow = client.tool("slow", nonce="n", **SLOW)
    scene.run(0.5)
    change(scene, headers={"X-A": "b"}, **fields)
    assert scene.done(slow).code is not None


def test_a_server_over_a_pipe_has_no_headers() -> None:
    """What changes for a process can only be had by another process."""
    scene = Scene({"one": ("stdio", ("modern",))}).start()
    client = scene.modern()
    assert scene.done(client.tool("echo", text="a")).code is None
    change(scene, env={"API_TOKEN": "x"})
    scene.run(1.0)
    assert scene.done(client.tool("echo", text="a")).code is None
    assert len(scene["one"].processes) > 1
