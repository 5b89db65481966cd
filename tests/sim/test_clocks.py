"""The clocks of a call: idle time, progress, the pause while a client is asked, the absolute ceiling.

Must never: allow more than a second of slack on virtual time.
"""

from __future__ import annotations

import msgspec
import pytest

from fuzz.sim.clients import FORM
from fuzz.sim.scene import FAST, Scene
from fuzz.sim.talk import Job

LEGACY, MODERN = ("legacy",), ("modern",)
ERAS = pytest.mark.parametrize("eras", [LEGACY, MODERN], ids=["legacy", "modern"])
CLIENTS = pytest.mark.parametrize("kind", ["legacy", "modern"])


def one(eras: tuple[str, ...], timeout: float = 5.0, transport: str = "stdio", **limits: float) -> Scene:
    bounds = msgspec.structs.replace(FAST, **limits)
    made = Scene({"one": (transport, eras)}, limits=bounds, options={"one": {"timeout": timeout}}).start()
    made.run(1.0)
    return made


@ERAS
@CLIENTS
@pytest.mark.parametrize("transport", ["stdio", "http"])
def test_a_silent_call_ends_after_its_idle_time(eras: tuple[str, ...], kind: str, transport: str) -> None:
    scene = one(eras, transport=transport)
    client = scene.legacy() if kind == "legacy" else scene.modern()
    call = scene.done(client.tool("silent"))
    assert 5.0 <= call.took < 5.5
    known = call.error["data"].pop("errorId")
    assert call.error["data"] == {"origin": "gateway", "reason": "timeout"}
    assert [told["server"] for told in scene.world.logged("failed") if told["error_id"] == known] == ["one"]
    assert scene.world.snapshot().counters["calls_timed_out"] == 1
    scene.run(1.0)
    assert scene.at_rest() == []
    again = scene.done(client.tool("echo"))
    assert again.text == again.nonce, "the server itself is not given up"


@ERAS
@CLIENTS
def test_progress_winds_the_clock(eras: tuple[str, ...], kind: str) -> None:
    scene = one(eras)
    client = scene.legacy() if kind == "legacy" else scene.modern()
    call = scene.done(client.tool("slow", token="t", steps=8, every=3.0), within=60)
    assert call.text == call.nonce
    assert call.took > 20


@ERAS
def test_progress_that_nobody_asked_for_winds_no_clock(eras: tuple[str, ...]) -> None:
    """Without a token there is none to report by."""
    scene = one(eras)
    call = scene.done(scene.modern().tool("slow", steps=8, every=3.0), within=60)
    assert 5.0 <= call.took < 5.5


def test_somebody_elses_progress_winds_no_clock() -> None:
    scene = one(MODERN)
    client = scene.modern()
    busy = client.tool("slow", token="t", steps=10, every=1.0)
    call = scene.done(client.tool("silent", token="t"))
    assert 5.0 <= call.took < 5.5
    assert scene.done(busy).text == busy.nonce


@ERAS
@CLIENTS
def test_the_clock_stands_still_while_the_client_is_asked(eras: tuple[str, ...], kind: str) -> None:
    scene = one(eras)
    client = scene.legacy(capabilities=FORM) if kind == "legacy" else scene.modern(capabilities=FORM)
    client.answer_after = 40.0
    call = scene.done(client.tool("ask"), within=120)
    assert call.text == f"{call.nonce}|{client.name} says {call.nonce}"
    assert call.took > 39


@CLIENTS
def test_after_the_answer_the_clock_goes_on(kind: str) -> None:
    def ask(job: Job) -> None:
        job.ask(
            "elicitation/create",
            {"message": job.nonce, "requestedSchema": {"type": "object", "properties": {}}},
            lambda _: None,
        )

    scene = one(LEGACY)
    scene.only.script("mute", ask)
    client = scene.legacy(capabilities=FORM) if kind == "legacy" else scene.modern(capabilities=FORM)
    client.answer_after = 20.0
    call = scene.done(client.tool("mute"), within=120)
    assert call.last.code is not None
    assert 25.0 <= call.took < 26.0


@ERAS
@CLIENTS
def test_no_progress_lifts_the_ceiling(eras: tuple[str, ...], kind: str) -> None:
    scene = one(eras, call_ceiling_s=30.0)
    client = scene.legacy() if kind == "legacy" else scene.modern()
    call = scene.done(client.tool("slow", token="t", steps=100, every=1.0), within=60)
    assert 30.0 <= call.took < 30.5
    assert call.error["data"]["reason"] == "timeout"
    scene.run(1.0)
    assert scene.at_rest() == []


def test_the_ceiling_holds_while_a_client_is_asked() -> None:
    scene = one(LEGACY, call_ceiling_s=30.0)
    client = scene.legacy(capabilities=FORM)
    client.answer_after = None
    call = scene.done(client.tool("ask"), within=60)
    assert 30.0 <= call.took < 30.5
    assert scene.only.cancels


@ERAS
def test_progress_only_rises(eras: tuple[str, ...]) -> None:
    """G27: whatever the server says."""

    def wild(job: Job) -> None:
        for value in (1, 5, 5, 3, -1, 7, 6.5, 7.5):
            job.progress(value)
        job.say()

    scene = one(eras)
    scene.only.script("wild", wild)
    for client in (scene.legacy(), scene.modern()):
        call = scene.done(client.tool("wild", token="t"))
        assert [note["params"]["progress"] for _, note in call.notes] == [1, 5, 7, 7.5]


def test_a_listen_has_no_clock() -> None:
    scene = one(MODERN, call_ceiling_s=30.0)
    client = scene.modern()
    heard = client.request("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
    scene.run(300.0)
    assert not heard.over
    scene.only.changed("tools")
    scene.run(1.0)
    assert heard.notes[-1][1]["method"] == "notifications/tools/list_changed"


def test_each_server_has_its_own_timeout() -> None:
    scene = Scene(
        {"quick": ("stdio", LEGACY), "patient": ("stdio", LEGACY)},
        options={"quick": {"timeout": 3.0}, "patient": {"timeout": 20.0}},
    ).start()
    scene.run(1.0)
    client = scene.modern()
    calls = []
    for name in ("quick", "patient"):
        client.prefix = f"{name}__"
        calls.append(client.tool("silent"))
    scene.done(*calls)
    assert [round(call.took) for call in calls] == [3, 20]
