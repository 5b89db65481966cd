"""What clients carry for us, and what is held for them, belongs to the holder of one key (threats.md row 15).

Must never: let the holders differ in anything but their keys: same listener, same address, same client.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fuzz.sim.clients import FORM, Call
from fuzz.sim.http_clients import LegacyHttp, ModernHttp, Wire
from fuzz.sim.scene import Scene
from mcpgate_proto.config import AuthConfig
from tests.security.porch import KEY, bearer, configured


class Keyed(Wire):
    """A connection whose every request carries the key of its client."""

    def send(
        self, method: str, headers: Any, body: bytes | None, call: Call | None, path: str = "/mcp"
    ) -> None:
        super().send(method, [*headers, *bearer(KEY[self.client.holder])], body, call, path)  # type: ignore[attr-defined]


class Holder:
    """Mixed into a client: `holder` names its key."""

    holder = ""

    def wire(self) -> Wire:
        made = Keyed(self)  # type: ignore[arg-type]
        self.wires = [wire for wire in self.wires if not wire.dead] + [made]  # type: ignore[has-type]
        return made


class Modern(Holder, ModernHttp):
    """A modern client with a key."""


class Legacy(Holder, LegacyHttp):
    """A legacy client with a key."""


def scene_of(era: str, **config: Any) -> Scene:
    auth = AuthConfig(keys=configured())
    return Scene({"one": ("http", (era,))}, auth=auth, **config).start()


def client(scene: Scene, holder: str, kind: type[Any] = Modern, **options: Any) -> Any:
    made = kind(scene.world, f"{holder}{len(scene.clients)}", **options)
    made.holder, made.principal = holder, f"key:{holder}"
    scene.clients.append(made)
    if kind is Legacy:
        made.open()
        scene.until(lambda: made.hello.over, 60, "the handshake")
        scene.run(0.1)
    return made


@pytest.mark.parametrize("kind", [Modern, Legacy])
def test_cursors(kind: type[Any]) -> None:
    scene = scene_of("legacy", page_size=1)
    mine, also_mine, other = (client(scene, holder, kind) for holder in ("ci", "ci", "ops"))
    cursor = scene.done(mine.request("tools/list")).result["nextCursor"]
    assert scene.done(other.request("tools/list", {"cursor": cursor})).code == -32602
    assert scene.done(also_mine.request("tools/list", {"cursor": cursor})).code is None


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_request_states(era: str) -> None:
    """Of a parked call, and of one that is held nowhere but in the state."""
    scene = scene_of(era)
    mine, other = (client(scene, holder, capabilities=FORM) for holder in ("ci", "ops"))
    for one in (mine, other):
        one.answer_after = None
    call = mine.tool("ask")
    scene.until(lambda: call.over, 20)
    assert call.result["resultType"] == "input_required", call.answer
    params = {name: one for name, one in call.params.items() if name != "_meta"}
    answers = {key: {"action": "accept", "content": {"answer": "x"}} for key in call.result["inputRequests"]}
    params |= {"requestState": call.result["requestState"], "inputResponses": answers}
    stolen = other.request(call.method, params)
    scene.until(lambda: stolen.over, 20)
    assert stolen.code == -32602
    again = mine.request(call.method, params)
    scene.until(lambda: again.over, 20)
    assert again.code is None and again.result.get("resultType") != "input_required"


def test_a_call_that_is_held_for_a_removed_key_ends() -> None:
    scene = scene_of("legacy")
    mine, other = (client(scene, holder, capabilities=FORM) for holder in ("ci", "ops"))
    for one in (mine, other):
        one.answer_after = None
    calls = [one.tool("ask") for one in (mine, other)]
    scene.until(lambda: all(call.over for call in calls), 20)
    assert scene.world.snapshot().parked == 2
    scene.config = msgspec.structs.replace(scene.config, auth=AuthConfig(keys=configured("ops")))
    scene.world.feed("reload", scene.config)
    scene.run(1.0)
    snapshot = scene.world.snapshot()
    assert (snapshot.parked, snapshot.calls) == (1, 1)


def test_a_reload_ends_nothing_that_is_held_for_a_pipe() -> None:
    scene = Scene({"one": ("stdio", ("legacy",))}, listeners=("unix",)).start()
    mine = scene.modern_pipe(listener="unix", capabilities=FORM)
    mine.answer_after = None
    call = mine.tool("ask")
    scene.until(lambda: call.over, 20)
    scene.world.feed("reload", scene.config)
    scene.run(1.0)
    assert scene.world.snapshot().parked == 1


def test_sessions_with_servers_are_not_shared() -> None:
    """Two holders of keys are two principals, so a server never has both in one session."""
    scene = scene_of("legacy")
    for holder in ("ci", "ops", "ci"):
        scene.done(client(scene, holder, Legacy).tool("echo"))
    whose = {}
    for _, headers, message in scene.only.requests:
        if message is not None and message.get("method") == "tools/call":
            whose.setdefault(headers["mcp-session-id"], set()).add(
                message["params"]["arguments"]["nonce"][:2]
            )
    assert len(whose) == 2 and sorted(map(sorted, whose.values())) == [["ci"], ["op"]]
    assert not scene.problems()
