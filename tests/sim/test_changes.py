"""Changes: lists and resources, from servers of either era to clients of either, and polling where a server
cannot tell.

Must never: take a notification that came once for one that comes every time; each is counted.
"""

from __future__ import annotations

from typing import Any

import pytest

from fuzz.sim.clients import Call
from fuzz.sim.scene import Scene
from fuzz.sim.talk import META

LEGACY, MODERN = ("legacy",), ("modern",)
CELLS = [(transport, eras) for transport in ("stdio", "http") for eras in (LEGACY, MODERN)]
SERVERS = pytest.mark.parametrize(("transport", "eras"), CELLS, ids=[f"{t}-{e[0]}" for t, e in CELLS])
URI = "res://a"


def up(servers: dict[str, tuple[str, tuple[str, ...]]], **options: Any) -> Scene:
    scene = Scene(servers, **options)
    for server in scene.servers.values():
        server.resources = (URI, URI + "/part", "res://other")
        server.prompts = ("greet",)
    scene.start()
    scene.run(2.0)
    return scene


def methods(notes: list[tuple[float, Any]]) -> list[str]:
    return [note["method"].removeprefix("notifications/") for _, note in notes]


def listening(scene: Scene, **wanted: Any) -> Call:
    client = scene.modern()
    call = client.request("subscriptions/listen", {"notifications": wanted})
    scene.until(lambda: call.notes, 20, "the acknowledgement")
    scene.run(0.5)
    return call


@SERVERS
@pytest.mark.parametrize("kind", ["tools", "prompts", "resources"])
def test_a_change_of_a_list_is_told_once_to_everybody_who_wants_it(
    transport: str, eras: tuple[str, ...], kind: str
) -> None:
    """L12, C31."""
    scene = up({"one": (transport, eras)})
    legacy, deaf = scene.legacy(), scene.legacy()
    legacy.listen()
    scene.done(legacy.request("tools/list"), deaf.request("tools/list"))
    all_kinds = listening(scene, toolsListChanged=True, promptsListChanged=True, resourcesListChanged=True)
    others = [name for name in ("tools", "prompts", "resources") if name != kind]
    not_this = listening(scene, **{f"{name}ListChanged": True for name in others})
    for talk in scene.only.talks:
        if not talk.over:
            talk.changed(kind)
    scene.run(1.0)
    assert methods(legacy.notes) == [f"{kind}/list_changed"]
    assert methods(all_kinds.notes)[1:] == [f"{kind}/list_changed"]
    assert methods(not_this.notes)[1:] == []
    assert scene.problems() == []


def test_several_changes_at_once_are_one_notification() -> None:
    scene = up({"a": ("stdio", LEGACY), "b": ("stdio", LEGACY), "c": ("stdio", MODERN)})
    client = scene.legacy()
    client.listen()
    heard = listening(scene, toolsListChanged=True)
    scene.run(1.0)
    client.notes.clear()
    for _ in range(5):
        for server in scene.servers.values():
            server.changed("tools")
    scene.run(1.0)
    assert methods(client.notes).count("tools/list_changed") == 1
    assert methods(heard.notes).count("tools/list_changed") == 1


def test_after_a_change_the_list_is_new() -> None:
    for eras in (LEGACY, MODERN):
        scene = up({"one": ("stdio", eras)})
        client = scene.legacy()
        client.listen()
        scene.done(client.request("tools/list"))
        scene.only.script("fresh", lambda job: job.say())
        scene.only.changed("tools")
        scene.until(lambda: client.notes, 5)  # noqa: B023
        told = scene.done(client.request("tools/list"))
        assert "fresh" in [one["name"] for one in told.result["tools"]]


@pytest.mark.parametrize("id", [0, "", "x", 7], ids=repr)
def test_the_acknowledgement_comes_first_and_each_notification_names_its_subscription(id: object) -> None:
    """G14, G15: 0 and "" are ids like others; two on one pipe are apart."""
    scene = up({"one": ("stdio", MODERN)}, listeners=("http", "stdio"))
    pipe = scene.modern_pipe()
    wanted = {"notifications": {"toolsListChanged": True, "promptsListChanged": False}}
    pipe.request("subscriptions/listen", wanted, id=id)
    pipe.request("subscriptions/listen", {"notifications": {"promptsListChanged": True}}, id="second")
    scene.run(1.0)
    scene.only.changed("tools")
    scene.run(1.0)
    mine = [note for _, note in pipe.notes if note["params"]["_meta"][META + "subscriptionId"] == id]
    assert [note["method"] for note in mine] == [
        "notifications/subscriptions/acknowledged",
        "notifications/tools/list_changed",
    ]
    assert mine[0]["params"]["notifications"] == {"toolsListChanged": True}, "only what is honoured"
    assert len(pipe.notes) == 3


@SERVERS
def test_updates_of_a_resource_reach_those_who_watch_it(transport: str, eras: tuple[str, ...]) -> None:
    """L11, H14: of a resource, and of what lies below it."""
    scene = up({"one": (transport, eras)})
    watcher, other = scene.legacy(), scene.legacy()
    for client in (watcher, other):
        client.listen()
    heard = listening(scene, resourceSubscriptions=[URI])
    assert heard.notes[0][1]["params"]["notifications"] == {"resourceSubscriptions": [URI]}
    told = scene.done(watcher.request("resources/subscribe", {"uri": URI}))
    assert told.result == {}
    elsewhere = scene.done(other.request("resources/subscribe", {"uri": "res://other"}))
    assert elsewhere.result == {}
    scene.run(1.0)
    scene.only.updated(URI)
    scene.run(1.0)
    for notes in (watcher.notes, heard.notes[1:]):
        assert methods(notes) == ["resources/updated"]
        assert notes[0][1]["params"]["uri"] == URI
    assert methods(other.notes) == []


@SERVERS
def test_a_resource_is_subscribed_to_once_and_until_the_last_has_left(
    transport: str, eras: tuple[str, ...]
) -> None:
    """L11: counted over all clients."""
    scene = up({"one": (transport, eras)})
    first, second = scene.legacy(), scene.legacy()
    scene.done(first.request("resources/subscribe", {"uri": URI}))
    scene.done(second.request("resources/subscribe", {"uri": URI}))
    heard = listening(scene, resourceSubscriptions=[URI])

    def watched() -> bool:
        return any(
            URI in talk.watched
            or any(URI in w.get("resourceSubscriptions", []) for w, _ in talk.listens.values())
            for talk in scene.only.talks
            if not talk.over
        )

    assert watched()
    if eras == LEGACY:
        assert scene.only.told("resources/subscribe").count({"uri": URI}) <= 2
    scene.done(first.request("resources/unsubscribe", {"uri": URI}))
    second.delete()
    scene.run(1.0)
    assert watched(), "one still wants it"
    heard.client.cancel(heard)  # type: ignore[attr-defined]
    scene.run(2.0)
    assert not watched()


def test_a_prefixed_uri_is_told_in_the_form_in_which_it_was_watched() -> None:
    """H13."""
    scene = up({"a": ("stdio", LEGACY), "b": ("stdio", LEGACY)})
    client = scene.legacy()
    client.listen()
    shown = f"mcpgate://b/{URI}"
    scene.done(client.request("resources/subscribe", {"uri": shown}))
    scene["a"].updated(URI)
    scene["b"].updated(URI)
    scene.run(1.0)
    assert [note["params"]["uri"] for _, note in client.notes] == [shown]


@pytest.mark.parametrize("uri", ["res://nobody", "", "not a uri"])
def test_what_nobody_has_cannot_be_watched(uri: str) -> None:
    scene = up({"a": ("stdio", LEGACY), "b": ("stdio", MODERN)})
    assert scene.done(scene.legacy().request("resources/subscribe", {"uri": uri})).code is not None
    heard = listening(scene, resourceSubscriptions=[uri])
    assert heard.notes[0][1]["params"]["notifications"] == {}


def test_a_stream_that_ends_ends_its_subscription_upstream() -> None:
    scene = up({"one": ("http", MODERN)})
    heard = listening(scene, resourceSubscriptions=[URI])
    assert scene.world.snapshot().subscriptions == 1
    heard.client.cancel(heard)  # type: ignore[attr-defined]
    scene.run(2.0)
    snapshot = scene.world.snapshot()
    assert (snapshot.subscriptions, snapshot.interests) == (0, 0)


def test_subscriptions_end_in_good_order_when_the_gateway_stops() -> None:
    """G19: a result, not a broken stream."""
    scene = up({"one": ("stdio", MODERN)})
    heard = listening(scene, toolsListChanged=True)
    scene.world.feed("shutdown", 5.0)
    scene.until(lambda: scene.world.stopped, 30)
    assert heard.result["resultType"] == "complete"


@pytest.mark.parametrize("transport", ["stdio", "http"])
def test_a_server_that_cannot_tell_of_changes_is_polled_with_jitter(transport: str) -> None:
    """H25: by its ttl and never faster than the bound; nobody who asks is told of nothing."""

    def polls(seed: int) -> tuple[list[float], Scene, Call]:
        scene = Scene({"one": (transport, MODERN)}, seed=seed)
        scene.only.refuse_listen = True
        scene.only.ttl_ms = 40_000
        scene.start()
        scene.run(1.0)
        client = scene.modern()
        call = client.request("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
        scene.done(client.request("tools/list"))
        began = scene.world.now
        scene.run(400.0)
        asked = [at for at, message in scene.only.heard if message.get("method") == "tools/list"]
        return [at - began for at in asked if at > began], scene, call

    first, scene, call = polls(1)
    second, _, _ = polls(2)
    assert 4 <= len(first) <= 14
    assert first != second
    gaps = [later - earlier for earlier, later in zip(first, first[1:], strict=False)]
    assert min(gaps) >= 29.0
    assert scene.only.seen("subscriptions/listen") <= 2, "a refusal is not asked for again and again"
    before = len(call.notes)
    scene.only.script("fresh", lambda job: job.say())
    scene.run(100.0)
    assert methods(call.notes[before:]).count("tools/list_changed") >= 1


def test_a_server_that_is_polled_for_nobody_is_left_alone() -> None:
    scene = Scene({"one": ("stdio", MODERN)})
    scene.only.refuse_listen = True
    scene.start()
    scene.run(600.0)
    assert scene.only.seen("tools/list") == 0


@SERVERS
def test_after_a_restart_all_lists_are_said_to_have_changed(transport: str, eras: tuple[str, ...]) -> None:
    """L12: something may have been missed."""
    scene = up({"one": (transport, eras)})
    client = scene.legacy()
    client.listen()
    scene.done(client.tool("echo"))
    scene.run(1.0)
    client.notes.clear()
    scene.only.crash()
    scene.run(20.0)
    scene.done(client.tool("echo"))
    scene.run(1.0)
    told = methods(client.notes)
    if transport == "stdio":
        assert set(told) == {f"{kind}/list_changed" for kind in ("tools", "prompts", "resources")}


def test_nothing_is_told_before_the_handshake_is_over() -> None:
    """F4."""
    scene = up({"one": ("stdio", LEGACY)}, listeners=("stdio",))
    client = scene.legacy_pipe()
    scene.run(0.1)
    client.notes.clear()
    scene.only.changed("tools")
    scene.run(1.0)
    assert methods(client.notes) == ["tools/list_changed"]


@pytest.mark.parametrize("eras", [LEGACY, MODERN], ids=["legacy", "modern"])
def test_log_messages_go_to_the_client_whose_call_they_belong_to(eras: tuple[str, ...]) -> None:
    """L14: from the level up that it wants, and to nobody else."""

    def talkative(job: Any) -> None:
        for level in ("debug", "info", "error"):
            params = {"level": level, "data": job.nonce}
            job.out({"jsonrpc": "2.0", "method": "notifications/message", "params": params})
        job.say()

    scene = up({"one": ("http", eras)})
    scene.only.script("talk", talkative)
    legacy, other, modern = scene.legacy(), scene.legacy(), scene.modern()
    scene.done(legacy.request("logging/setLevel", {"level": "info"}))
    call = scene.done(legacy.tool("talk"))
    assert [note["params"]["level"] for _, note in call.notes] == ["info", "error"]
    plain = scene.done(modern.tool("talk"))
    assert plain.notes == [], "a modern request that names no level gets none"
    asked = scene.done(modern.tool("talk", meta={META + "logLevel": "error"}))
    assert [note["params"]["level"] for _, note in asked.notes] == ["error"]
    assert other.notes == []
