"""What no gateway can carry, and what is answered instead (L26, L4, L1): each row of the page as a scene.

Owns: the second table of docs/crossings.md. Must never: name an answer that its scene does not assert.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from fuzz.sim.clients import Call
from fuzz.sim.scene import FAST, Scene
from fuzz.sim.talk import META, Job, Message, error, result
from tests.crossing.features import FORM, SAMPLE, done

__all__ = ["INSTEAD"]

ALL: Message = {"elicitation": {}, "sampling": {}, "roots": {}}
MULTI = {
    "message": "which?",
    "requestedSchema": {
        "type": "object",
        "properties": {"one": {"type": "array", "items": {"type": "string", "enum": ["a", "b"]}}},
    },
}


def scene_of(*eras: str, transport: str = "stdio", **limits: float) -> Scene:
    bounds = msgspec.structs.replace(FAST, **limits)
    return Scene({"one": (transport, eras)}, limits=bounds, listeners=("http", "stdio")).start()


def asks(method: str, params: Message) -> Callable[[Job], None]:
    """A tool that asks one thing, and tells the very answer."""

    def act(job: Job) -> None:
        given = (job.params.get("inputResponses") or {}).get("q")
        if not job.talk.modern:
            job.ask(method, params, lambda reply: job.say(told=reply))
        elif given is None:
            job.want({"q": {"method": method, "params": params}}, "s")
        else:
            job.say(told=given)

    return act


def first_round(scene: Scene, tool: str, **options: Any) -> tuple[Any, Call]:
    """A modern client that was asked, and has not answered."""
    client = scene.modern(capabilities=ALL, **options)
    client.answer_after = None
    call = done(scene, client.tool(tool))
    assert call.result["resultType"] == "input_required"
    return client, call


def answers(call: Call) -> Message:
    return {key: {"action": "accept", "content": {}} for key in call.result["inputRequests"]}


def outside_any_call() -> None:
    scene = scene_of("legacy")
    done(scene, scene.modern(capabilities=ALL).tool("echo"))
    [talk] = [talk for talk in scene.only.talks if "elicitation" in talk.declared]
    talk.ask(None, "elicitation/create", FORM, talk.send)
    scene.run(2.0)
    assert [reply["error"]["code"] for _, reply in scene.only.replies] == [-32602]


def in_a_method_without_rounds() -> None:
    def act(job: Job) -> None:
        job.ask("roots/list", {}, told.append)
        job.later(1.0, lambda: job.answer({"completion": {"values": ["done"]}}))

    told: list[Message] = []
    scene = scene_of("legacy")
    scene.only.prompts = ("greet",)
    scene.only.completer = act
    client = scene.modern(capabilities=ALL)
    wanted = {"ref": {"type": "ref/prompt", "name": "greet"}, "argument": {"name": "a", "value": "b"}}
    call = done(scene, client.request("completion/complete", wanted))
    assert call.result["completion"]["values"] == ["done"]
    assert [one["error"]["code"] for one in told] == [-32602]


def not_declared() -> None:
    scene = scene_of("modern")
    scene.only.script("probe", asks("roots/list", {}))
    call = done(scene, scene.modern(capabilities={}).tool("probe"))
    assert call.code == -32021 and call.error["data"]["requiredCapabilities"] == {"roots": {}}
    assert call.status == 400


def not_declared_by_a_legacy_client() -> None:
    scene = scene_of("modern")
    scene.only.script("probe", asks("roots/list", {}))
    client = scene.legacy(capabilities={})
    call = done(scene, client.tool("probe"))
    assert client.questions == []
    assert call.result["isError"] and "roots" in call.result["content"][0]["text"]


def of_the_old_era_only() -> None:
    client = scene_of("legacy").modern()
    for method in ("ping", "logging/setLevel", "resources/subscribe"):
        params = {"level": "error", "uri": "test://one"}
        call = client.request(method, params)
        client.world.until(lambda call=call: call.over, 10)  # type: ignore[misc]
        assert (call.status, call.code) == (404, -32601), method


def a_form_of_a_later_revision() -> None:
    scene = scene_of("modern")
    scene.only.script("probe", asks("elicitation/create", MULTI))
    client = scene.legacy(capabilities=ALL, version="2025-06-18")
    call = done(scene, client.tool("probe"))
    assert client.questions == [] and call.result["structuredContent"]["told"] == {"action": "decline"}


def an_error_for_an_answer() -> None:
    scene = scene_of("modern")
    for method, params in (("sampling/createMessage", SAMPLE), ("roots/list", {})):
        scene.only.script(method, asks(method, params))
        scene.only.script(f"say {method}", asks(method, params), prompt=True)
    client = scene.legacy(capabilities=ALL)
    client.asked = lambda question: client.reply(error(question["id"], -1, "no"))  # type: ignore[method-assign]
    for method in ("sampling/createMessage", "roots/list"):
        assert done(scene, client.tool(method)).result["isError"] is True
        assert done(scene, client.request("prompts/get", {"name": f"say {method}"})).code == -32603


def never_comes_back() -> None:
    scene = scene_of("legacy", park_ttl_s=30.0)
    scene.only.script("probe", asks("elicitation/create", FORM))
    first_round(scene, "probe")
    scene.run(40.0)
    assert [reply["result"] for _, reply in scene.only.replies] == [{"action": "cancel"}]
    assert [id for _, id, _ in scene.only.cancels] == [scene.only.calls[0].id]
    assert scene.world.snapshot().parked == 0


def the_state_is_not_the_one() -> None:
    def refused(call: Call) -> None:
        assert done(scene, call).code == -32602

    scene = scene_of("legacy")
    scene.only.script("probe", asks("elicitation/create", FORM))
    client, call = first_round(scene, "probe")
    state = call.result["requestState"]
    params = {name: one for name, one in call.params.items() if name != "_meta"}
    thief = scene.modern(capabilities=ALL, kind="unix")  # on another kind of socket: another principal
    thief.answer_after = None
    refused(client.retry(call, answers(call), state=state[:-2] + ("AA" if state[-2:] != "AA" else "BB")))
    refused(client.retry(call, answers(call), arguments={"nonce": "other"}))
    refused(thief.request(call.method, {**params, "inputResponses": answers(call), "requestState": state}))
    assert done(scene, client.retry(call, answers(call))).result["resultType"] == "complete"
    refused(client.retry(call, answers(call)))
    assert len(scene.only.calls) == 1 and len(scene.only.replies) == 1


def a_modern_stream_breaks() -> None:
    for transport in ("stdio", "http"):
        scene = scene_of("modern", transport=transport)
        client = scene.modern()
        call = client.tool("silent")
        scene.until(lambda scene=scene: scene.only.calls, 30)  # type: ignore[misc]
        client.vanish(call)
        scene.run(1.0)
        assert scene.only.calls[0].cancelled and scene.world.snapshot().calls == 0


def a_legacy_stream_breaks() -> None:
    scene = scene_of("modern")
    client = scene.legacy()
    call = client.tool("slow", token="t", steps=3, every=1.0)
    scene.until(lambda: call.notes, 20)
    last = call.event_ids[-1]
    client.vanish(call)
    scene.run(10.0)
    assert scene.only.answered == 1 and not scene.only.cancels
    client.listen(last, call=call)
    scene.until(lambda: call.answer, 10)
    assert call.text == call.nonce and call.answers == 1


def swallowed() -> None:
    scene = scene_of("modern")
    client = scene.legacy(capabilities={"roots": {"listChanged": True}})
    done(scene, client.tool("echo"))
    client.notify("notifications/roots/list_changed")
    client.notify("notifications/progress", {"progressToken": 1, "progress": 1})
    scene.run(2.0)
    heard = [message["method"] for _, message in scene.only.heard if "id" not in message]
    assert not [method for method in heard if "roots" in method or "progress" in method]
    declared = scene.only.calls[0].params["_meta"][META + "clientCapabilities"]
    assert declared["roots"] == {}


def the_end_of_an_url() -> None:
    """`elicitation/complete` has no form in the new era."""

    def act(job: Job) -> None:
        params = {"mode": "url", "message": "look", "url": "https://example.org", "elicitationId": "e-1"}
        job.ask("elicitation/create", params, lambda reply: finish(job))

    def finish(job: Job) -> None:
        told = {"jsonrpc": "2.0", "method": "notifications/elicitation/complete"}
        job.out({**told, "params": {"elicitationId": "e-1"}})
        job.later(1.0, job.say)

    scene = scene_of("legacy")
    scene.only.script("probe", act)
    client = scene.modern(capabilities={"elicitation": {"form": {}, "url": {}}})
    call = done(scene, client.tool("probe"))
    assert call.result["resultType"] == "complete" and not call.notes and not client.notes


def a_server_call_from_a_modern_client() -> None:
    scene = scene_of("legacy")
    client = scene.modern()
    wire = client.post(result(1, {}), [("MCP-Protocol-Version", "2026-07-28")], None)
    scene.run(1.0)
    assert wire.status == 400


INSTEAD: dict[str, tuple[str, Callable[[], None]]] = {
    "a server asks outside any call, and the client is modern": ("the server gets -32602", outside_any_call),
    "a server asks during a request that has no rounds, such as completion, and the client is modern": (
        "the server gets -32602, the request goes on",
        in_a_method_without_rounds,
    ),
    "a server needs what the modern client did not declare": (
        "-32021 with `requiredCapabilities`",
        not_declared,
    ),
    "a modern server needs what the legacy client did not declare": (
        "the client is not asked; the call fails and names the capability",
        not_declared_by_a_legacy_client,
    ),
    "a modern client calls a method of the old era": ("404, -32601", of_the_old_era_only),
    "a modern client sends a response": ("400", a_server_call_from_a_modern_client),
    "a modern server asks for a form that the client's revision cannot show": (
        "the server gets `decline`",
        a_form_of_a_later_revision,
    ),
    "a legacy client answers a modern server's sampling or roots request with an error": (
        "the call ends: `isError` for a tool, else -32603",
        an_error_for_an_answer,
    ),
    "a parked call's client never returns": (
        "the server gets a plain no, then the cancellation",
        never_comes_back,
    ),
    "a parked call's state comes again, changed, or for another request or principal": (
        "-32602, start over",
        the_state_is_not_the_one,
    ),
    "a modern client's stream breaks": (
        "that is its cancellation; there is no resumption",
        a_modern_stream_breaks,
    ),
    "a legacy client's stream breaks": ("the call goes on; `Last-Event-ID` resumes", a_legacy_stream_breaks),
    "progress of a client, `roots/list_changed` for a modern server": ("swallowed", swallowed),
    "`elicitation/complete` of a legacy server, and the client is modern": ("swallowed", the_end_of_an_url),
}
