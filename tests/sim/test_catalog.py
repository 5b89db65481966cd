"""Merged lists and where names lead: prefixes, renames, cursors, caching hints, resources, introspection.

Must never: depend on which server answered first.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fuzz.sim.clients import Call
from fuzz.sim.scene import FAST, Scene
from fuzz.sim.talk import Message

LEGACY, MODERN, DUAL = ("legacy",), ("modern",), ("legacy", "modern")
TWO = {"a": ("stdio", LEGACY), "b": ("stdio", MODERN)}


def scene_of(servers: dict[str, tuple[str, tuple[str, ...]]] | None = None, **config: Any) -> Scene:
    return Scene(servers or dict(TWO), listeners=("http", "stdio"), **config)


def up(scene: Scene) -> Scene:
    scene.start()
    scene.run(2.0)
    return scene


def names(call: Call, member: str = "tools", key: str = "name") -> list[str]:
    return [one[key] for one in call.result[member]]


def small(scene: Scene) -> Scene:
    for name, server in scene.servers.items():
        server.tools = ("echo", f"only_{name}")
    return scene


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_lists_are_merged_in_the_order_of_the_config(order: str) -> None:
    scene = small(scene_of({name: TWO[name] for name in order}))
    scene[order[0]].start_delay = 1.0  # it comes last, and is first all the same
    up(scene)
    for client in (scene.legacy(), scene.modern()):
        first, second = order[0], order[1]
        told = names(scene.done(client.request("tools/list")))
        assert told == [
            f"{first}__echo",
            f"{first}__only_{first}",
            f"{second}__echo",
            f"{second}__only_{second}",
        ]


@pytest.mark.parametrize(
    ("prefix", "servers", "prefixed"),
    [("auto", "a", False), ("auto", "ab", True), ("always", "a", True), ("never", "ab", False)],
)
def test_names_are_prefixed_as_configured(prefix: str, servers: str, prefixed: bool) -> None:
    scene = up(small(scene_of({name: TWO[name] for name in servers}, prefix=prefix)))
    client = scene.modern()
    told = names(scene.done(client.request("tools/list")))
    assert ("a__only_a" in told) is prefixed and ("only_a" in told) is not prefixed
    client.prefix = "a__" if prefixed else ""
    scene["a"].script("only_a", lambda job: job.say(name=job.params["name"]))
    assert scene.done(client.tool("only_a")).result["structuredContent"] == {"name": "only_a"}


def test_the_first_in_the_config_owns_a_name_that_both_have() -> None:
    scene = up(small(scene_of(prefix="never")))
    client = scene.modern()
    assert names(scene.done(client.request("tools/list"))) == ["echo", "only_a", "only_b"]
    call = scene.done(client.tool("echo"))
    assert scene["a"].job(call.nonce) and not scene["b"].job(call.nonce)


def test_a_disabled_server_counts_for_prefixes_and_for_nothing_else() -> None:
    """Names do not change when a server is switched off."""
    scene = up(small(scene_of(options={"b": {"enabled": False}})))
    client = scene.modern()
    assert names(scene.done(client.request("tools/list"))) == ["a__echo", "a__only_a"]
    client.prefix = "b__"
    assert scene.done(client.tool("echo")).code == -32602
    assert scene["b"].processes == []


def test_renames_win_and_lead_back_to_the_servers_own_name() -> None:
    rename = {"only_a": "find", "e*o": "say-*"}
    scene = up(small(scene_of(options={"a": {"rename": rename}})))
    for client in (scene.legacy(), scene.modern()):
        told = names(scene.done(client.request("tools/list")))
        assert told == ["say-ch", "find", "b__echo", "b__only_b"]
        call = scene.done(client.tool("say-ch"))
        assert call.text == call.nonce
        job = scene["a"].job(call.nonce)
        assert job is not None and job.params["name"] == "echo"
        client.prefix = "a__"
        assert scene.done(client.tool("echo")).code == -32602, "the old name is gone"


def test_long_names_are_cut_and_still_lead_to_their_tool() -> None:
    long = "x" * 90
    scene = scene_of()
    for server in scene.servers.values():
        server.script(long + "1", lambda job: job.say(one=1))
        server.script(long + "2", lambda job: job.say(two=2))
    up(scene)
    client = scene.modern()
    told = [name for name in names(scene.done(client.request("tools/list"))) if "xxx" in name]
    assert len(set(told)) == 4 and all(len(name) <= 64 for name in told)
    got = [scene.done(client.tool(name)).result["structuredContent"] for name in told]
    assert got == [{"one": 1}, {"two": 2}] * 2


def paged(scene: Scene, client: Any, method: str = "tools/list", member: str = "tools") -> list[str]:
    """All names over all pages."""
    told, cursor = [], None
    for _ in range(50):
        call = scene.done(client.request(method, {"cursor": cursor} if cursor is not None else {}))
        told += names(call, member)
        cursor = call.result.get("nextCursor")
        if cursor is None:
            return told
    raise AssertionError("the pages do not end")


@pytest.mark.parametrize("upstream_pages", [1, 2, 1000])
def test_pages_are_complete_and_in_order(upstream_pages: int) -> None:
    scene = scene_of(page_size=3)
    for server in scene.servers.values():
        server.tools = tuple(f"t{number}" for number in range(7))
        server.page_size = upstream_pages
    up(scene)
    for client in (scene.legacy(), scene.modern()):
        assert paged(scene, client) == [f"{s}__t{number}" for s in "ab" for number in range(7)]


def test_foreign_tampered_and_stale_cursors_are_refused() -> None:
    scene = up(small(scene_of(page_size=1)))
    client, other, local = scene.legacy(), scene.modern(), scene.modern_pipe()
    cursor = scene.done(client.request("tools/list")).result["nextCursor"]

    wrong: Any

    def refused(asker: Any, method: str, told: object) -> bool:
        return scene.done(asker.request(method, {"cursor": told})).code == -32602

    for wrong in (
        cursor[:-1],
        cursor[:20] + ("A" if cursor[20] != "A" else "B") + cursor[21:],
        "2",
        "",
        5,
        {},
    ):
        assert refused(client, "tools/list", wrong), wrong
    assert refused(local, "tools/list", cursor), "another principal's"
    assert refused(client, "prompts/list", cursor), "another list's"
    assert scene.done(client.request("tools/list", {"cursor": cursor})).code is None
    scene["a"].tools = ("echo", "only_a", "new")
    scene["a"].changed("tools")
    scene.run(1.0)
    scene.done(other.request("tools/list"), client.request("tools/list"))
    assert refused(client, "tools/list", cursor), "a list that has changed"


def test_cursors_expire() -> None:
    scene = up(small(scene_of(page_size=1, limits=msgspec.structs.replace(FAST, cursor_ttl_s=100.0))))
    client = scene.legacy()
    cursor = scene.done(client.request("tools/list")).result["nextCursor"]
    scene.run(200.0)
    assert scene.done(client.request("tools/list", {"cursor": cursor})).code == -32602


@pytest.mark.parametrize(
    ("ttls", "scopes", "ttl", "scope"),
    [
        ((9000, 5000), ("public", "public"), (3000, 5000), "public"),
        ((9000, 5000), ("public", "private"), (3000, 5000), "private"),
        ((0, 5000), ("public", "public"), (0, 0), "public"),
    ],
)
def test_caching_hints_are_the_least_of_the_parts(
    ttls: tuple[int, int], scopes: tuple[str, str], ttl: tuple[int, int], scope: str
) -> None:
    """H21: and a list that is told again is older."""
    scene = scene_of({"a": ("stdio", MODERN), "b": ("http", MODERN)})
    for server, its_ttl, its_scope in zip(scene.servers.values(), ttls, scopes, strict=True):
        server.ttl_ms, server.scope = its_ttl, its_scope
    up(scene)
    client = scene.modern()
    first = scene.done(client.request("tools/list")).result
    scene.run(1.0)
    second = scene.done(client.request("tools/list")).result
    assert ttl[0] <= second["ttlMs"] <= first["ttlMs"] <= ttl[1]
    if ttl[1]:
        assert second["ttlMs"] <= first["ttlMs"] - 900
    assert first["cacheScope"] == scope


def test_a_legacy_server_among_them_makes_the_list_uncacheable() -> None:
    """H22: there is no safe default but 0 and private."""
    scene = up(scene_of())
    told = scene.done(scene.modern().request("tools/list")).result
    assert (told["ttlMs"], told["cacheScope"]) == (0, "private")


def test_legacy_clients_see_no_caching_hints() -> None:
    told = up(scene_of({"a": ("stdio", MODERN)}))
    result = told.done(told.legacy().request("tools/list")).result
    assert not {"ttlMs", "cacheScope", "resultType"} & set(result)


# -- resources


def resourceful() -> Scene:
    scene = scene_of({"a": ("stdio", LEGACY), "b": ("stdio", MODERN), "c": ("stdio", LEGACY)})
    scene["a"].resources = ("res://a/1", "res://shared")
    scene["b"].resources = ("res://b/1", "res://shared")
    scene["b"].templates = ("doc://{name}/page",)
    return up(scene)


@pytest.mark.parametrize(
    ("uri", "owner", "own"),
    [
        ("res://a/1", "a", "res://a/1"),
        ("res://b/1", "b", "res://b/1"),
        ("res://shared", "a", "res://shared"),
        ("mcpgate://b/res://shared", "b", "res://shared"),
        ("mcpgate://a/res://a/1", "a", "res://a/1"),
        ("doc://x/page", "b", "doc://x/page"),
    ],
)
def test_a_resource_is_read_from_its_owner(uri: str, owner: str, own: str) -> None:
    """H13: by the lists in config order, by templates, by the prefixed form."""
    scene = resourceful()
    for client in (scene.legacy(), scene.modern()):
        read = scene.done(client.request("resources/read", {"uri": uri}))
        assert read.result["contents"][0]["text"] == f"{owner}:{own}"


@pytest.mark.parametrize(
    "uri", ["res://nobody", "mcpgate://nobody/res://a/1", "mcpgate://c/res://a/1", "doc://x"]
)
def test_a_resource_that_nobody_has_is_not_found(uri: str) -> None:
    """A15: each era has its own code."""
    scene = resourceful()
    old, new = scene.legacy(), scene.modern()
    assert scene.done(old.request("resources/read", {"uri": uri})).code == -32002
    assert scene.done(new.request("resources/read", {"uri": uri})).code == -32602


def test_resources_and_templates_are_listed_once_each() -> None:
    scene = resourceful()
    client = scene.modern()
    listed = scene.done(client.request("resources/list"))
    assert names(listed, "resources", "uri").count("res://shared") == 1
    assert set(names(listed, "resources", "uri")) >= {"res://a/1", "res://b/1", "res://shared"}
    templates = scene.done(client.request("resources/templates/list"))
    assert names(templates, "resourceTemplates", "uriTemplate") == ["doc://{name}/page"]


def test_prompts_and_completions_go_to_their_server() -> None:
    scene = scene_of()
    for server in scene.servers.values():
        server.prompts = ("greet",)
    up(scene)
    for client in (scene.legacy(), scene.modern()):
        assert names(scene.done(client.request("prompts/list")), "prompts") == ["a__greet", "b__greet"]
        got = scene.done(client.request("prompts/get", {"name": "b__greet"}))
        assert got.result["messages"][0]["content"]["text"] == "b:greet"
        ref = {"type": "ref/prompt", "name": "b__greet"}
        params = {"ref": ref, "argument": {"name": "x", "value": "y"}}
        done = scene.done(client.request("completion/complete", params))
        told = done.result["completion"]["values"][0]
        assert told.startswith("b:") and '"greet"' in told, "it knows only its own name"


def test_unknown_names_do_not_hammer_the_servers() -> None:
    """One bounded walk, not one for each guess."""
    scene = up(small(scene_of()))
    client = scene.modern()
    scene.done(client.request("tools/list"))
    scene.done(client.tool("a__nothing"))
    before = scene["a"].seen("tools/list") + scene["b"].seen("tools/list")
    for number in range(40):
        assert scene.done(client.tool(f"a__guess{number}")).code == -32602
    assert scene["a"].seen("tools/list") + scene["b"].seen("tools/list") - before <= 2
    assert scene["b"].seen("tools/list") <= 1


def test_a_tool_that_appeared_unannounced_is_found() -> None:
    scene = scene_of()
    scene["b"].ttl_ms = 0
    up(scene)
    client = scene.modern()
    scene.done(client.request("tools/list"))
    scene["b"].script("fresh", lambda job: job.say(new=True))
    scene.run(6.0)
    client.prefix = "b__"
    assert scene.done(client.tool("fresh")).result["structuredContent"] == {"new": True}


# -- introspection


INTROSPECTION: list[tuple[str, Message]] = [
    ("gateway/list_servers", {}),
    ("gateway/get_server", {"name": "a"}),
    ("gateway/server_status", {"name": "a"}),
    ("gateway/capabilities", {}),
    ("gateway/capabilities", {"name": "b"}),
]


@pytest.mark.parametrize(("method", "params"), INTROSPECTION)
def test_only_local_callers_may_look_inside(method: str, params: Message) -> None:
    scene = up(scene_of())
    for stranger in (scene.legacy(), scene.modern()):
        call = scene.done(stranger.request(method, params))
        assert call.code == -32601, "as if it did not exist"
        assert scene.done(stranger.request("gateway/nothing")).error.keys() == call.error.keys()
    for local in (scene.modern_pipe(), scene.modern(kind="unix"), scene.legacy(kind="unix")):
        assert scene.done(local.request(method, params)).code is None
    assert "gateway/" not in str(scene["a"].heard) + str(scene["b"].heard)


def test_what_local_callers_are_told() -> None:
    secret = {"env": {"TOKEN": "hunter2"}, "args": ("--key", "hunter2"), "metadata": {"team": "x"}}
    scene = up(scene_of(options={"a": secret}))
    local = scene.modern_pipe()
    listed = scene.done(local.request("gateway/list_servers")).result["servers"]
    assert [(one["name"], one["state"]) for one in listed] == [("a", "connected"), ("b", "connected")]
    assert listed[0]["metadata"] == {"team": "x"}
    assert "hunter2" not in str(listed)
    status = scene.done(local.request("gateway/server_status", {"name": "a"})).result
    assert status["pids"] and status["restarts"] == 0
    told = scene.done(local.request("gateway/capabilities")).result["capabilities"]
    assert list(told) == ["a", "b"] and "tools" in told["b"]
    for wrong in ({"name": "nobody"}, {"name": 5}, {}):
        assert scene.done(local.request("gateway/get_server", wrong)).code == -32602
    scene["a"].cannot_start = "gone"
    scene["a"].crash()
    scene.run(0.5)
    status = scene.done(local.request("gateway/server_status", {"name": "a"})).result
    assert status["state"] == "down" and status["pids"] == [], "a dead child is not connected"


def test_the_server_member_is_an_explicit_route_for_local_callers() -> None:
    scene = up(scene_of())
    for local in (scene.modern_pipe(), scene.legacy(kind="unix")):
        params = {"name": "echo", "arguments": {"nonce": f"{local.name}/x"}, "_server": "b"}
        call = scene.done(local.request("tools/call", params))
        assert call.text == f"{local.name}/x"
        job = scene["b"].job(f"{local.name}/x")
        assert job is not None and "_server" not in job.params, "it is not forwarded"
        odd: tuple[Any, ...] = ("nobody", 5, "", None, {})
        for wrong in odd:
            refused = scene.done(local.request("tools/call", {**params, "_server": wrong}))
            assert refused.code == -32602


def test_the_server_member_of_strangers_is_refused_and_never_forwarded() -> None:
    scene = up(scene_of())
    for stranger in (scene.legacy(), scene.modern()):
        for method, params in (
            ("tools/call", {"name": "a__echo", "arguments": {}}),
            ("tools/list", {}),
            ("resources/read", {"uri": "res://x"}),
            ("completion/complete", {"ref": {}}),
        ):
            call = scene.done(stranger.request(method, {**params, "_server": "b"}))
            assert call.code == -32602, method
    assert "_server" not in str(scene["a"].heard) + str(scene["b"].heard)
