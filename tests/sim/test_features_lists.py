"""Lists of servers that show other things to clients with other features (npm's server of everything does).

Owns: whose list a client sees. What lists are in general is in `test_catalog`.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fuzz.sim.clients import FORM, Client
from fuzz.sim.scene import FAST, Scene
from fuzz.sim.talk import Job, Message

ROOTS: Message = {"roots": {}}
SAMPLING: Message = {"sampling": {}}


def scene_of(**config: Any) -> Scene:
    """One legacy server with a tool more for each feature of its client."""
    scene = Scene({"a": ("stdio", ("legacy",))}, listeners=("http",), **config)
    server = scene["a"]

    def show(job: Job) -> None:
        tools = ["echo", *(f"with_{name}" for name in job.talk.declared)]
        job.answer({"tools": [{"name": one, "inputSchema": {"type": "object"}} for one in tools]})

    server.lister = show
    for name in ("elicitation", "roots", "sampling"):
        server.script(f"with_{name}", lambda job: job.say(told=sorted(job.talk.declared)))
    scene.start()
    scene.run(2.0)
    return scene


def shown(scene: Scene, client: Client) -> list[str]:
    listed = scene.done(client.request("tools/list")).result["tools"]
    return [one["name"] for one in listed]


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_calls_of_a_client_with_other_features_take_no_tool_away(era: str) -> None:
    scene = scene_of()
    first, second = (getattr(scene, era)(capabilities=declared) for declared in (FORM, ROOTS))
    scene.done(first.tool("echo"))
    assert shown(scene, first) == ["echo", "with_elicitation"]
    scene.done(second.tool("echo"))
    scene["a"].changed()
    scene.run(1.0)
    assert shown(scene, first) == ["echo", "with_elicitation"]
    assert shown(scene, second) == ["echo", "with_roots"]
    assert scene.done(first.tool("with_elicitation")).result["structuredContent"] == {"told": ["elicitation"]}
    again = getattr(scene, era)(capabilities=FORM)
    assert shown(scene, again) == ["echo", "with_elicitation"]
    assert shown(scene, getattr(scene, era)(capabilities=SAMPLING)) == ["echo"], "nobody's but its own"


def test_a_legacy_client_without_features_is_not_shown_what_its_calls_cannot_reach() -> None:
    scene = scene_of()
    plain, able = scene.legacy(), scene.legacy(capabilities=FORM)
    scene.done(able.tool("echo"))
    scene["a"].changed()
    scene.run(1.0)
    assert shown(scene, plain) == ["echo"]


def test_a_client_is_told_when_its_first_call_shows_it_more() -> None:
    """Also where the server has nothing to say: its tools did not change, the session did."""
    scene = scene_of()
    able, same = scene.legacy(capabilities=FORM), scene.legacy(capabilities=ROOTS)
    for client in (able, same):
        client.listen()
        assert shown(scene, client) == ["echo"]
    scene.done(able.tool("echo"))
    scene.run(1.0)
    told = [note["method"] for _, note in able.notes]
    assert told.count("notifications/tools/list_changed") == 1
    assert shown(scene, able) == ["echo", "with_elicitation"]
    scene.done(scene.legacy(capabilities=FORM).tool("echo"))
    scene.run(1.0)
    assert len(able.notes) == len(told), "nothing is new"


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_what_a_client_was_shown_is_known_when_its_session_has_given_way(era: str) -> None:
    scene = scene_of(limits=msgspec.structs.replace(FAST, upstream_sessions_per_principal=2))
    able = getattr(scene, era)(capabilities=FORM)
    scene.done(able.tool("echo"))
    assert shown(scene, able) == ["echo", "with_elicitation"]
    for declared in (ROOTS, SAMPLING):
        scene.done(getattr(scene, era)(capabilities=declared).tool("echo"))
    assert scene.done(able.tool("with_elicitation")).result["structuredContent"] == {"told": ["elicitation"]}


def test_what_a_client_was_shown_is_known_when_its_session_was_idle() -> None:
    scene = scene_of()
    able = scene.modern(capabilities=FORM)
    scene.done(able.tool("echo"))
    assert shown(scene, able) == ["echo", "with_elicitation"]
    scene.run(3 * FAST.upstream_idle_s)
    assert shown(scene, able) == ["echo", "with_elicitation"]
    assert scene.done(able.tool("with_elicitation")).result["structuredContent"] == {"told": ["elicitation"]}
