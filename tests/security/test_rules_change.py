"""Rules that change while clients are at work: what holds at once, and for what is under way.

A call that a server works on goes on; nothing more is sent for it that the rules of now do not let through.
"""

from __future__ import annotations

import msgspec
import pytest

from fuzz.sim.clients import Call, Client
from fuzz.sim.scene import FAST, Scene
from fuzz.sim.talk import Job, Message
from mcpgate_proto.config import RuleConfig
from tests.security.scenes import (
    ALL_CLIENTS,
    DUAL,
    ERAS,
    GUARDED,
    LEGACY,
    MODERN,
    NO_SECRETS,
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


def reload(scene: Scene, *rules: RuleConfig) -> None:
    scene.config = msgspec.structs.replace(scene.config, rules=rules)
    scene.world.feed("reload", scene.config)


@ERAS
def test_a_reload_holds_for_live_sessions_at_once(eras: tuple[str, ...]) -> None:
    scene = stock(up({"a": ("stdio", eras)}))
    found = clients(scene)
    found["legacy stranger"].listen()  # type: ignore[attr-defined]
    kinds = {"toolsListChanged": True, "promptsListChanged": True, "resourcesListChanged": True}
    heard = found["modern stranger"].request(
        "subscriptions/listen",
        {"notifications": {**kinds, "resourceSubscriptions": ["res://secret", "res://open"]}},
    )
    subscribed = found["legacy stranger"].request("resources/subscribe", {"uri": "res://secret"})
    scene.done(subscribed)
    scene.until(lambda: heard.notes, 20)
    for client in found.values():
        assert "secret" in str(listed(scene, client))
        assert scene.done(client.tool("secret")).code is None
    scene.run(1.0)
    processes = len(scene["a"].processes)
    reload(scene, NO_SECRETS)
    for client in found.values():
        call = client.tool("secret")
        assert scene.done(call).code == -32602
        assert "secret" not in str(listed(scene, client))
    scene.run(1.0)
    for notes in (found["legacy stranger"].notes, heard.notes):
        changed = [note["method"].split("/")[1] for _, note in notes if "list_changed" in note["method"]]
        assert changed == ["tools", "prompts", "resources"], "H27: each once"
    assert len(scene["a"].processes) == processes, "the server has nothing to do with it"
    # What is not to be seen any more is not watched for them either.
    for talk in scene["a"].talks:
        notify(talk, "res://secret")
    scene.run(1.0)
    assert "updated" not in str(heard.notes) + str(found["legacy stranger"].notes)
    if eras == LEGACY:
        assert all("res://secret" not in talk.watched for talk in scene["a"].talks if not talk.over)
    reload(scene)
    for client in found.values():
        assert scene.done(client.tool("secret")).code is None


@pytest.mark.parametrize("who", ALL_CLIENTS)
@pytest.mark.parametrize("transparent", [False, True])
def test_a_request_that_waits_for_a_list_is_judged_by_the_rules_of_now(who: str, transparent: bool) -> None:
    harmless = rule(tools=deny("other"))
    scene = up({"a": ("stdio", DUAL)}, harmless, transparent=transparent)
    scene["a"].tools = ("echo", "secret")
    scene["a"].scripts["secret"] = lambda job: job.say()
    scene["a"].delays = {"tools/list": 2.0}
    scene.start()
    scene.run(1.0)
    client = clients(scene)[who]
    call, told = client.tool("secret"), client.request("tools/list")
    scene.run(1.0)
    assert not call.over and not told.over
    reload(scene, NO_SECRETS)
    assert scene.done(call).code == -32602
    assert [one["name"] for one in scene.done(told).result["tools"]] == ["echo"]
    assert asked(scene) == []


@pytest.mark.parametrize("who", ALL_CLIENTS)
@pytest.mark.parametrize("task", [{}, {"task": {"ttl": 1000}}], ids=["", "as a task"])
def test_a_call_that_waits_for_its_server_is_judged_by_the_rules_of_now(who: str, task: Message) -> None:
    scene = up({"a": ("stdio", DUAL)}, transparent=True, legacy_tasks=True)
    scene["a"].tools = ("run", "secret")
    for name in scene["a"].tools:
        scene["a"].scripts[name] = lambda job: job.say()
    scene.start()
    client = clients(scene)[who]
    scene["a"].delays = {"initialize": 5.0, "server/discover": 5.0}
    scene["a"].crash()
    scene.run(0.5)
    secret = client.request("tools/call", {"name": "secret", "arguments": {}, **task})
    run = client.request("tools/call", {"name": "run", "arguments": {"path": "../x"}, **task})
    scene.run(0.5)
    assert not secret.over and not run.over and asked(scene) == []
    reload(scene, NO_SECRETS, GUARDED)
    assert scene.done(secret).code == -32602
    assert scene.done(run).result["isError"]
    assert asked(scene) == []


@pytest.mark.parametrize("who", ALL_CLIENTS)
@pytest.mark.parametrize(
    "ref",
    [{"type": "ref/prompt", "name": "secret"}, {"type": "ref/resource", "uri": "res://secret"}],
    ids=["prompt", "resource"],
)
def test_a_completion_that_waits_for_its_server_is_judged_by_the_rules_of_now(who: str, ref: Message) -> None:
    scene = stock(up({"a": ("stdio", DUAL)}))
    client = clients(scene)[who]
    listed(scene, client)
    scene["a"].delays = {"initialize": 5.0, "server/discover": 5.0}
    scene["a"].crash()
    scene.run(0.5)
    for one in ({"type": "ref/resource", "uri": "res://open"}, ref):
        # The first waits for the lists, and so does what comes later no more.
        call = client.request("completion/complete", {"ref": one, "argument": {"name": "x", "value": ""}})
    scene.run(0.5)
    assert not call.over
    reload(scene, NO_SECRETS)
    assert scene.done(call).code in (-32602, -32002)
    scene.run(10.0)
    assert "secret" not in str(asked(scene))


@pytest.mark.parametrize("who", ALL_CLIENTS)
def test_a_call_that_is_sent_again_is_judged_by_the_rules_of_now(who: str) -> None:
    """D10: its server had forgotten the session, and has just been asked for another one."""
    scene = stock(up({"a": ("http", LEGACY)}))
    client = clients(scene)[who]
    scene.done(client.tool("secret"))
    scene.run(2.0)
    scene["a"].forgets, scene["a"].delays = {"tools/call": None}, {"initialize": 5.0}
    call = client.tool("secret")
    scene.run(1.0)
    scene["a"].forgets = {}
    assert not call.over
    reload(scene, NO_SECRETS)
    assert scene.done(call).code == -32602
    assert len(scene["a"].calls) == 1


def test_a_call_with_other_headers_is_judged_by_the_rules_of_now() -> None:
    """D5: its server wants headers that the list tells of, which is read once more."""
    scene = stock(up({"a": ("http", MODERN)}))
    odd = {"code": -32020, "message": "other headers"}
    scene["a"].scripts["secret"] = lambda job: job.finish({"jsonrpc": "2.0", "id": job.id, "error": odd})
    client = scene.modern()
    listed(scene, client)
    scene["a"].delays = {"tools/list": 2.0}
    call = client.tool("secret")
    scene.run(1.0)
    assert not call.over and len(scene["a"].calls) == 1
    reload(scene, NO_SECRETS)
    assert scene.done(call).code == -32602
    assert len(scene["a"].calls) == 1


@ERAS
def test_a_call_that_waits_for_a_connection_is_judged_by_the_rules_of_now(eras: tuple[str, ...]) -> None:
    limits = msgspec.structs.replace(FAST, http_connections_per_server=1)
    scene = stock(up({"a": ("http", eras)}, limits=limits))
    client = scene.modern()
    listed(scene, client)
    first = client.tool("echo", after=3.0)
    call = client.tool("secret")
    scene.run(1.0)
    assert not call.over and len(scene["a"].calls) == 1
    reload(scene, NO_SECRETS)
    assert scene.done(call).code == -32602
    assert scene.done(first).code is None and len(scene["a"].calls) == 1


@ERAS
def test_what_is_being_subscribed_to_is_judged_by_the_rules_of_now(eras: tuple[str, ...]) -> None:
    scene = stock(up({"a": ("stdio", eras)}))
    legacy, modern = scene.legacy(), scene.modern()
    listed(scene, legacy), listed(scene, modern)
    scene["a"].delays = {"resources/subscribe": 2.0, "subscriptions/listen": 2.0}
    call = legacy.request("resources/subscribe", {"uri": "res://secret"})
    wanted = {"resourceSubscriptions": ["res://secret", "res://open"]}
    heard = modern.request("subscriptions/listen", {"notifications": wanted})
    scene.run(0.5)
    assert not call.over and not heard.notes
    reload(scene, NO_SECRETS)
    assert scene.done(call).code == -32002
    scene.until(lambda: heard.notes, 20)
    assert "res://open" in str(heard.notes) and "secret" not in str(heard.notes)
    scene.run(10.0)
    if eras == LEGACY:
        assert all("res://secret" not in talk.watched for talk in scene["a"].talks if not talk.over)


def ask(job: Job) -> None:
    question = {"message": job.nonce, "requestedSchema": {"type": "object", "properties": {}}}
    if job.talk.modern:
        job.want({"q": {"method": "elicitation/create", "params": question}}, "state")
    else:
        job.ask("elicitation/create", question, lambda reply: job.say())


def test_a_parked_call_is_not_taken_up_against_the_rules_of_now() -> None:
    scene = up({"a": ("stdio", LEGACY)})
    scene["a"].script("secret", ask)
    scene.start()
    scene.run(2.0)
    client = scene.modern(capabilities={"elicitation": {"form": {}}})
    client.answer_after = None
    call = client.tool("secret")
    scene.until(lambda: call.answer, 20)
    assert call.result["resultType"] == "input_required"
    reload(scene, NO_SECRETS)
    answers = {key: {"action": "accept", "content": {}} for key in call.result["inputRequests"]}
    retry = scene.done(client.retry(call, answers))
    unknown = scene.done(client.tool("no-one"))
    assert fingerprint(retry, "secret") == fingerprint(unknown, "no-one")
    assert scene["a"].replies == []


def test_a_parked_call_is_not_taken_up_with_arguments_that_are_not_let_now() -> None:
    scene = up({"a": ("stdio", LEGACY)})
    scene["a"].script("run", ask)
    scene.start()
    scene.run(2.0)
    client = scene.modern(capabilities={"elicitation": {"form": {}}})
    client.answer_after = None
    call = client.tool("run", path="../x")
    scene.until(lambda: call.answer, 20)
    answers = {key: {"action": "accept", "content": {}} for key in call.result["inputRequests"]}
    reload(scene, GUARDED)
    retry = scene.done(client.retry(call, answers))
    fresh = scene.done(client.tool("run", path="../x"))
    assert fresh.result["isError"] and fingerprint(retry) == fingerprint(fresh)
    assert scene["a"].replies == []


def test_a_round_of_a_modern_server_is_not_continued_against_the_rules_of_now() -> None:
    scene = up({"a": ("http", MODERN)})
    scene.start()
    scene.run(2.0)
    client = scene.modern(capabilities={"elicitation": {"form": {}}})
    client.answer_after = None
    call = client.tool("ask")
    scene.until(lambda: call.answer, 20)
    reload(scene, rule(tools=deny("ask")))
    heard = len(asked(scene))
    assert scene.done(client.retry(call, {"q": {"action": "accept", "content": {}}})).code == -32602
    assert len(asked(scene)) == heard


@ERAS
@pytest.mark.parametrize("who", ["legacy", "modern"])
def test_what_a_client_is_asked_is_not_answered_against_the_rules_of_now(
    eras: tuple[str, ...], who: str
) -> None:
    """Also where the rules change first, and the server asks then."""
    scene = up({"a": ("http", eras)})
    for name, after in (("secret", 0.0), ("run", 2.0)):
        scene["a"].script(name, lambda job, after=after: job.later(after, lambda: ask(job)))  # type: ignore[misc]
    scene.start()
    scene.run(2.0)
    client = getattr(scene, who)(capabilities={"elicitation": {"form": {}}})
    client.answer_after = 5.0
    secret, run = client.tool("secret"), client.tool("run", path="../x")
    scene.run(1.0)
    assert len(client.questions) == 1
    reload(scene, NO_SECRETS, GUARDED)
    assert scene.done(secret).last.error["code"] == -32602
    assert scene.done(run).result["isError"]
    assert len(client.questions) == 2 and scene["a"].replies == [] and len(scene["a"].calls) == 2


def open_url(job: Job) -> None:
    url = {"mode": "url", "url": "https://x.example/", "message": "open", "elicitationId": "1"}
    refusal = {"code": -32042, "message": "open the URL", "data": {"elicitations": [url]}}
    job.finish({"jsonrpc": "2.0", "id": job.id, "error": refusal})


def opened_twice(scene: Scene, client: Client, call: Call) -> Call:
    """L3: the user has opened a URL, the server asked once more and gets time."""
    for _ in range(2):
        scene.until(lambda: call.answer, 20)  # noqa: B023
        call = client.retry(call, {key: {"action": "accept"} for key in call.result["inputRequests"]})
    scene.run(0.5)
    assert not call.over and len(scene["a"].calls) == 2
    return call


def test_a_call_that_is_made_again_later_is_judged_when_it_is_made() -> None:
    scene = up({"a": ("stdio", LEGACY)})
    scene["a"].script("secret", open_url)
    scene.start()
    scene.run(2.0)
    client = scene.modern(capabilities={"elicitation": {"url": {}}})
    client.answer_after = None
    call = opened_twice(scene, client, client.tool("secret"))
    reload(scene, NO_SECRETS)
    assert scene.done(call).code == -32602
    assert len(scene["a"].calls) == 2


def test_what_arguments_it_is_made_again_with_later_is_judged_then_as_well() -> None:
    scene = up({"a": ("stdio", LEGACY)})
    scene["a"].script("run", open_url)
    scene.start()
    scene.run(2.0)
    client = scene.modern(capabilities={"elicitation": {"url": {}}})
    client.answer_after = None
    call = opened_twice(scene, client, client.tool("run", path="../x"))
    reload(scene, GUARDED)
    assert scene.done(call).result["isError"]
    assert len(scene["a"].calls) == 2
