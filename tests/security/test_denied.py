"""What is denied is as good as not there: neither listed nor callable, and nothing is told of it.

In each way in, for clients of both eras and two principals, before anything is sent to a server (threats.md
rows 21, 28, 35, 44).
"""

from __future__ import annotations

import pytest

from fuzz.sim.clients import Call
from fuzz.sim.talk import Message
from tests.security.scenes import (
    ALL_CLIENTS,
    DUAL,
    ERAS,
    GUARDED,
    LEGACY,
    LOCAL,
    MODERN,
    NO_SECRETS,
    STRANGER,
    allow,
    asked,
    clients,
    deny,
    fingerprint,
    listed,
    notify,
    rule,
    stock,
    up,
)

TWO = {"a": ("stdio", LEGACY), "b": ("http", MODERN)}


def requests(thing: str, prefix: str = "a__") -> list[tuple[str, Message]]:
    """Every request that names a thing, for a thing of that name."""
    return [
        ("tools/call", {"name": f"{prefix}{thing}", "arguments": {}}),
        ("prompts/get", {"name": f"{prefix}{thing}"}),
        ("resources/read", {"uri": f"res://{thing}"}),
        ("resources/read", {"uri": f"mcpgate://a/res://{thing}"}),
        ("resources/read", {"uri": f"mcpgate://b/res://{thing}/x"}),
        ("completion/complete", completion({"type": "ref/prompt", "name": f"{prefix}{thing}"})),
        ("completion/complete", completion({"type": "ref/resource", "uri": f"res://{thing}/{{x}}"})),
        ("completion/complete", completion({"type": "ref/resource", "uri": f"res://{thing}"})),
    ]


def completion(ref: Message) -> Message:
    return {"ref": ref, "argument": {"name": "x", "value": ""}}


@pytest.mark.parametrize("who", ALL_CLIENTS)
@pytest.mark.parametrize("warm", [False, True], ids=["at once", "after the lists"])
def test_denied_is_as_unknown(who: str, warm: bool) -> None:
    """Row 35: the list and the call. The first request of all may be the denied one."""
    scene = stock(up(TWO, NO_SECRETS))
    client = clients(scene)[who]
    if warm:
        assert "secret" not in str(listed(scene, client))
    for (method, secret), (_, missing) in zip(requests("secret"), requests("no-one"), strict=True):
        before = len(asked(scene))
        denied = scene.done(client.request(method, secret))
        unknown = scene.done(client.request(method, missing))
        if "mcpgate://" in str(missing):
            # An explicit server is asked for what no rule forbids.
            assert denied.code == (-32602 if client.modern else -32002)
        else:
            assert fingerprint(denied, "secret") == fingerprint(unknown, "no-one"), method
        assert not [one for one in asked(scene)[before:] if "secret" in str(one)], method
    assert scene.world.snapshot().counters["denied"] >= len(requests(""))
    assert scene.problems() == []


@pytest.mark.parametrize("who", ALL_CLIENTS)
def test_what_is_not_denied_works(who: str) -> None:
    scene = stock(up(TWO, NO_SECRETS))
    client = clients(scene)[who]
    found = listed(scene, client)
    assert found["tools"] == ["a__echo", "b__echo"] and found["prompts"] == ["a__hello", "b__hello"]
    assert found["resources"] == ["res://open", "mcpgate://b/res://open"]
    assert found["resourceTemplates"] == ["res://open/{x}", "mcpgate://b/res://open/{x}"]
    assert scene.done(client.tool("a__echo")).code is None
    assert scene.done(client.request("prompts/get", {"name": "b__hello"})).code is None
    for uri in ("res://open", "mcpgate://b/res://open", "res://open/x"):
        assert scene.done(client.request("resources/read", {"uri": uri})).code is None


def test_a_record_says_what_was_denied_to_whom() -> None:
    scene = stock(up(TWO, NO_SECRETS))
    client = scene.modern()
    scene.done(client.tool("a__secret"), client.request("resources/read", {"uri": "res://secret"}))
    told = [dict(record.fields) for record in scene.world.records if record.event == "denied"]
    assert told == [
        {"principal": STRANGER, "server": "a", "tool": "secret", "by": "rules"},
        {"principal": STRANGER, "server": "a", "resource": "res://secret", "by": "rules"},
    ]


# -- two principals over one server


@ERAS
def test_two_principals_over_one_server(eras: tuple[str, ...]) -> None:
    """H3: a list may vary by who asks; what one may use is nothing to the other."""
    only_local = rule(
        except_principals=(LOCAL,), tools=allow("echo"), prompts=allow(), resources=allow("res://open")
    )
    scene = stock(up({"a": ("stdio", eras)}, only_local, prefix="always"))
    for name, client in clients(scene).items():
        local = "local" in name
        found = listed(scene, client)
        assert found["tools"] == (["a__echo", "a__secret"] if local else ["a__echo"])
        assert found["prompts"] == (["a__hello", "a__secret"] if local else [])
        assert found["resources"] == (["res://open", "res://secret"] if local else ["res://open"])
        assert len(found["resourceTemplates"]) == (2 if local else 0)
        assert (scene.done(client.tool("a__secret")).code is None) is local
        assert (scene.done(client.request("resources/read", {"uri": "res://open/x"})).code is None) is local
        assert scene.done(client.tool("a__echo")).code is None


def test_cache_hints_are_private_where_rules_depend_on_who_asks() -> None:
    """H22, H26: a shared cache must not give one principal what another may see."""
    for rules, scope in (
        ((NO_SECRETS,), "public"),
        ((rule(principals=("key:x",), tools=deny("y")),), "private"),
    ):
        scene = stock(up({"b": ("http", MODERN)}, *rules))
        client = scene.modern()
        for method, params in (
            *((name, {}) for name in ("tools/list", "prompts/list", "resources/list")),
            ("resources/read", {"uri": "res://open"}),
        ):
            assert scene.done(client.request(method, params)).result["cacheScope"] == scope, method


@pytest.mark.parametrize("transparent", [False, True])
def test_instructions_of_a_server_that_is_shut_are_not_told(transparent: bool) -> None:
    nothing = {"tools": allow(), "prompts": deny("*"), "resources": allow()}
    servers = {"a": ("stdio", DUAL)} if transparent else {"a": ("stdio", LEGACY), "b": ("stdio", DUAL)}
    scene = up(servers, rule(except_principals=(LOCAL,), servers=("a",), **nothing), transparent=transparent)
    scene.start()
    scene.run(2.0)
    for name, client in clients(scene).items():
        if not client.modern:
            told = scene.done(client.hello).result.get("instructions", "")  # type: ignore[attr-defined]
            assert ("use a well" in told) is ("local" in name), name
            assert ("use b well" in told) is not transparent


# -- renames


def test_renames_by_principal() -> None:
    scene = stock(
        up(
            TWO,
            rule(principals=(LOCAL,), servers=("a",), rename={"echo": "local-echo"}),
            rule(principals=("*",), servers=("a",), rename={"e*": "any-*", "hello": "b__hello"}),
            options={"a": {"rename": {"echo": "server-echo", "secret": "plain"}}},
        )
    )
    for name, client in clients(scene).items():
        found = listed(scene, client)
        first = "local-echo" if "local" in name else "any-cho"
        assert found["tools"] == [first, "plain", "b__echo", "b__secret"]
        # The first in the config has a name that two would have.
        assert found["prompts"] == ["b__hello", "plain", "b__secret"]
        assert scene.done(client.tool(first)).code is None
        for gone in ("a__echo", "server-echo", "local-echo" if "local" not in name else "any-cho"):
            assert scene.done(client.tool(gone)).code == -32602
        got = scene.done(client.request("prompts/get", {"name": "b__hello"})).result
        assert "a:hello" in str(got)


def test_what_is_hidden_takes_its_name_from_nobody() -> None:
    """Row 44: of two servers with a name, the one that may be used has it."""
    scene = stock(up(TWO, rule(servers=("a",), tools=deny("echo")), prefix="never"))
    scene["b"].scripts["echo"] = lambda job: job.say(server="b")
    for client in clients(scene).values():
        assert listed(scene, client)["tools"] == ["secret", "echo"]
        assert scene.done(client.tool("echo")).result["structuredContent"] == {"server": "b"}
    assert scene["a"].told("tools/call") == []


def test_rules_name_things_as_their_server_does() -> None:
    scene = stock(
        up(TWO, rule(tools=deny("a__echo", "shown")), options={"a": {"rename": {"secret": "shown"}}})
    )
    for client in clients(scene).values():
        assert listed(scene, client)["tools"] == ["a__echo", "shown", "b__echo", "b__secret"]


# -- URIs


@pytest.mark.parametrize("who", ALL_CLIENTS)
@pytest.mark.parametrize(
    "uri",
    [
        "res://secret",
        "RES://secret",
        "res://%73ecret",
        "res://open/../secret",
        "res://secret?x=1",
        "mcpgate://a/res://secret",
        "mcpgate://b/res://%73ecret",
        "mcpgate://a/mcpgate://x/res://secret",
        "res://secret/x",
        "res://not-listed-secret-twin/../secret",
    ],
)
def test_no_spelling_of_a_uri_gets_around_a_rule(who: str, uri: str) -> None:
    scene = stock(up({"a": ("stdio", DUAL)}, NO_SECRETS))
    client = clients(scene)[who]
    call = scene.done(client.request("resources/read", {"uri": uri}))
    assert call.code == (-32602 if client.modern else -32002) and call.error["data"] == {"uri": uri}
    assert asked(scene) == []


def test_a_uri_that_no_list_has_is_judged_too() -> None:
    """Links may point at what was never listed (H13)."""
    for server in ({"a": ("stdio", LEGACY)}, {"a": ("http", MODERN)}):
        scene = stock(up(server, rule(resources=deny("res://hidden*"))))
        for client in clients(scene).values():
            before = len(asked(scene))
            assert scene.done(client.request("resources/read", {"uri": "res://hidden/1"})).code is not None
            assert len(asked(scene)) == before
            assert scene.done(client.request("resources/read", {"uri": "res://elsewhere"})).code is not None
            assert len(asked(scene)) == before + 1, "of that the server is asked"


def test_a_template_that_is_not_shown_still_tells_whose_its_resources_are() -> None:
    scene = up(TWO, rule(resources=allow("res://open/*")))
    for server in scene.servers.values():
        server.resources, server.templates = ("res://open/1",), ()
    scene["b"].templates = ("res://{kind}/{x}",)
    scene.start()
    scene.run(2.0)
    for client in clients(scene).values():
        assert listed(scene, client)["resourceTemplates"] == []
        read = scene.done(client.request("resources/read", {"uri": "res://open/2"}))
        assert "b:res://open/2" in str(read.result)
        assert scene.done(client.request("resources/read", {"uri": "res://shut/2"})).code is not None


# -- subscriptions


@ERAS
def test_subscriptions_and_updates(eras: tuple[str, ...]) -> None:
    scene = stock(up({"a": ("stdio", eras)}, NO_SECRETS))
    legacy, modern = scene.legacy(), scene.modern()
    legacy.listen()
    for uri, unknown in (("res://secret", "res://no"), ("mcpgate://a/res://secret", "mcpgate://zz/res://no")):
        denied = scene.done(legacy.request("resources/subscribe", {"uri": uri}))
        assert denied.error == {"code": -32002, "message": "resource not found", "data": {"uri": uri}}
        assert unknown
    wanted = ["res://open", "res://secret", "mcpgate://a/res://secret", "res://secret/x"]
    call = modern.request("subscriptions/listen", {"notifications": {"resourceSubscriptions": wanted}})
    scene.until(lambda: call.notes, 20)
    assert call.notes[0][1]["params"]["notifications"] == {"resourceSubscriptions": ["res://open"]}
    assert scene.done(legacy.request("resources/subscribe", {"uri": "res://open"})).result == {}
    scene.run(1.0)
    assert not [one for one in asked(scene) if "secret" in str(one)]
    # A server may tell of anything; only what may be seen is passed on (H14: also of what lies elsewhere).
    for told in ("res://secret", "res://%73ecret", "res://open/1", "res://secret/deep"):
        for talk in scene.only.talks:
            notify(talk, told)
    scene.run(1.0)
    for notes in (legacy.notes, call.notes):
        uris = [note["params"]["uri"] for _, note in notes if note["method"].endswith("/updated")]
        assert uris and set(uris) == {"res://open/1"}


# -- one server, seen as it is


@ERAS
@pytest.mark.parametrize("transport", ["stdio", "http"])
def test_a_single_server_seen_as_it_is(eras: tuple[str, ...], transport: str) -> None:
    """`run` and `connect`: the server is no judge of names any more where a rule is."""
    scene = stock(up({"a": (transport, eras)}, NO_SECRETS, transparent=True))
    for client in clients(scene).values():
        # At once, before any list was read.
        for (method, secret), (_, missing) in zip(
            requests("secret", ""), requests("no-one", ""), strict=True
        ):
            denied = scene.done(client.request(method, secret))
            assert denied.code in (-32602, -32002), (method, secret)
            unknown = scene.done(client.request(method, missing))
            if "uri" not in str(missing):
                assert fingerprint(denied, "secret") == fingerprint(unknown, "no-one")
        assert "secret" not in str(listed(scene, client))
        assert scene.done(client.tool("echo")).code is None
        assert scene.done(client.request("resources/read", {"uri": "res://open"})).code is None
        assert scene.done(
            client.request("completion/complete", completion({"type": "ref/prompt", "name": "hello"}))
        )
    assert not [one for one in asked(scene) if "secret" in str(one)]


def test_a_single_server_without_rules_is_its_own_judge() -> None:
    scene = stock(up({"a": ("stdio", LEGACY)}, transparent=True))
    scene["a"].scripts["unlisted"] = lambda job: job.say(unlisted=True)
    for client in clients(scene).values():
        assert scene.done(client.tool("unlisted")).result["structuredContent"] == {"unlisted": True}


def test_only_what_is_listed_can_be_called_where_a_rule_is() -> None:
    """A server may fold the case of names: `SECRET` is not denied, and not there."""
    scene = stock(up({"a": ("stdio", LEGACY)}, NO_SECRETS, transparent=True))
    for client in clients(scene).values():
        for name in ("SECRET", "secret.", "unlisted"):
            assert scene.done(client.tool(name)).code == -32602
    assert asked(scene) == []


# -- a server that the client names


@pytest.mark.parametrize("who", ["legacy local", "modern local"])
def test_the_server_member_is_no_way_around(who: str) -> None:
    scene = stock(up(TWO, NO_SECRETS))
    client = clients(scene)[who]
    for name, prefix in (("a", ""), ("b", "")):
        for (method, secret), (_, missing) in zip(
            requests("secret", prefix), requests("no-one", prefix), strict=True
        ):
            denied = scene.done(client.request(method, {**secret, "_server": name}))
            assert denied.code in (-32602, -32002), (method, secret)
            unknown = scene.done(client.request(method, {**missing, "_server": name}))
            if "uri" not in str(missing):
                assert fingerprint(denied, "secret") == fingerprint(unknown, "no-one")
        assert (
            scene.done(client.request("tools/call", {"name": "echo", "arguments": {}, "_server": name})).code
            is None
        )
        read = client.request("resources/read", {"uri": "res://open", "_server": name})
        assert f"{name}:res://open" in str(scene.done(read).result)
    assert not [one for one in asked(scene) if "secret" in str(one)]


# -- what another parser might read


@pytest.mark.parametrize("who", ALL_CLIENTS)
@pytest.mark.parametrize("transparent", [False, True])
def test_row_21_a_member_that_differs_in_case_is_refused(who: str, transparent: bool) -> None:
    """GHSA-4gph-2hhr-5mwg, CVE-2026-27896: a decoder that folds case would call what nobody has judged."""
    scene = stock(up({"a": ("stdio", DUAL)}, NO_SECRETS, transparent=transparent))
    client = clients(scene)[who]
    for method, params in (
        ("tools/call", {"name": "echo", "Name": "secret", "arguments": {}}),
        ("tools/call", {"name": "echo", "arguments": {}, "argument\u017f": {"x": 1}}),
        ("prompts/get", {"name": "hello", "NAME": "secret"}),
        ("resources/read", {"uri": "res://open", "Uri": "res://secret"}),
        ("completion/complete", {**completion({"type": "ref/prompt", "name": "hello"}), "Ref": {}}),
        ("completion/complete", completion({"type": "ref/prompt", "name": "hello", "Name": "secret"})),
        (
            "completion/complete",
            completion({"type": "ref/resource", "uri": "res://open", "URI": "res://secret"}),
        ),
    ):
        call = scene.done(client.request(method, params))
        assert call.code == -32602 and "secret" not in str(call.answer), params
    assert asked(scene) == []


def test_what_was_judged_is_written_anew() -> None:
    """Rule 2: the server gets the name as it was read, not as it was spelled."""
    scene = stock(up({"a": ("stdio", LEGACY)}, NO_SECRETS, transparent=True))
    client = scene.legacy_pipe(listener="unix")
    params = b'{"n\\u0061me":"\\u0065cho","arguments":{}}'
    odd = b'{"jsonrpc":"2.0","id":77,"method":"tools/call","params":' + params + b"}\n"
    client.calls.append(call := Call(client, 77, "tools/call", {}))
    client._open["77"] = [call]
    client.stream.send(odd)
    scene.done(call)
    assert call.code is None
    assert scene["a"].told("tools/call")[0]["name"] == "echo"


# -- arguments


@pytest.mark.parametrize("who", ALL_CLIENTS)
@pytest.mark.parametrize("transparent", [False, True])
def test_row_46_arguments_that_are_not_let(who: str, transparent: bool) -> None:
    scene = up({"a": ("stdio", DUAL)}, GUARDED, transparent=transparent)
    scene["a"].script("run", lambda job: job.say(args=job.args))
    scene.start()
    scene.run(2.0)
    client = clients(scene)[who]
    for path in ("../etc", "-rf", ["ok", "-x"], {"deep": "a/../b"}):
        call = scene.done(client.tool("run", path=path))
        # H5: the tool is no secret, and the model is to read why.
        assert call.result["isError"] is True and "path" in call.result["content"][0]["text"]
        assert scene.done(client.tool("run", Path=path)).result["isError"] is True
    assert asked(scene) == []
    good: Message = {"path": "src/x", "other": ["-x", 1.5, 2**60, None]}
    told = scene.done(client.tool("run", **good)).result["structuredContent"]["args"]
    assert {key: told[key] for key in good} == good
    assert scene.done(client.tool("echo", path="../x")).code is None, "only the tools of the rule"
    counters = scene.world.snapshot().counters
    assert counters["denied"] == 8


# -- tasks


def test_a_call_as_a_task_is_judged_as_any_other() -> None:
    scene = stock(up({"a": ("stdio", LEGACY)}, NO_SECRETS, legacy_tasks=True))
    client = scene.legacy()
    params = {"name": "secret", "arguments": {}, "task": {"ttl": 1000}}
    denied = scene.done(client.request("tools/call", params))
    unknown = scene.done(client.request("tools/call", {**params, "name": "no-one"}))
    assert fingerprint(denied, "secret") == fingerprint(unknown, "no-one")
    modern = scene.modern(capabilities={"extensions": {"io.modelcontextprotocol/tasks": {}}})
    assert scene.done(modern.request("tools/call", {"name": "secret", "arguments": {}})).code == -32602
    assert asked(scene) == []


def test_links_in_results_are_left_as_they_are() -> None:
    """A link is text of the server; what it leads to is judged when it is read."""
    link = {"type": "resource_link", "uri": "res://secret", "name": "x"}
    scene = up({"a": ("stdio", LEGACY)}, NO_SECRETS)
    scene["a"].script("link", lambda job: job.answer({"content": [link]}))
    scene["a"].resources = ("res://secret",)
    scene.start()
    scene.run(2.0)
    client = scene.modern()
    assert scene.done(client.request("tools/call", {"name": "link", "arguments": {}})).result["content"] == [
        link
    ]
    assert scene.done(client.request("resources/read", {"uri": "res://secret"})).code == -32602


def test_the_introspection_for_the_lock_shows_what_the_caller_may_see() -> None:
    scene = stock(up(TWO, NO_SECRETS))
    local, stranger = scene.modern_pipe(listener="unix"), scene.modern()
    scene.done(local.request("tools/list"), local.request("prompts/list"))
    told = scene.done(local.request("gateway/definitions")).result
    assert told["unread"] == [] and "secret" not in str(told)
    assert [(one["server"], one["kind"], one["name"]) for one in told["definitions"]] == [
        ("a", "tools", "echo"),
        ("b", "tools", "echo"),
        ("a", "prompts", "hello"),
        ("b", "prompts", "hello"),
    ]
    assert scene.done(stranger.request("gateway/definitions")).code == -32601
