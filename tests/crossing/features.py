"""What has to cross between a client and a server of any two eras, each as one asserting scene.

Owns: the list of features, in the order of the documented table. Each takes a scene with one server and one
client and fails unless the feature crossed.
Must never: ask which era it runs in, except to script the model server in its own era, and for what the eras
spell differently.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fuzz.sim.clients import Call, Client
from fuzz.sim.scene import Scene
from fuzz.sim.talk import META, Job, Message, error, note

__all__ = ["FEATURES", "TEMPLATE", "URI", "Feature"]

Feature = Callable[[Scene, Any], None]
URI = "test://one/1"
TEMPLATE = "test://made/{id}"
FORM = {"message": "who?", "requestedSchema": {"type": "object", "properties": {}}}
URL = {"mode": "url", "message": "look", "url": "https://example.org/look?a=1"}
SAMPLE = {"messages": [{"role": "user", "content": {"type": "text", "text": "?"}}], "maxTokens": 5}


def done(scene: Scene, call: Call) -> Call:
    scene.until(lambda: call.settled, 60, "an answer")
    return call.last


def text_of(call: Call) -> str:
    return str(call.last.text)


def notes(client: Client, method: str) -> list[Message]:
    """The params of all notifications of one method that reached the client, on whatever stream."""
    of_calls = [note for call in client.calls for _, note in call.notes]
    told = [note for _, note in client.notes] + of_calls
    return [note.get("params") or {} for note in told if note["method"] == method]


# -- lists, calls, reads


def list_and_call(scene: Scene, client: Client) -> None:
    listed = done(scene, client.request("tools/list")).result["tools"]
    assert "echo" in [one["name"] for one in listed]
    call = done(scene, client.tool("echo", nonce=f"{client.name}/x"))
    assert text_of(call) == f"{client.name}/x"


def structured_content(scene: Scene, client: Client) -> None:
    scene.only.script("measure", lambda job: job.say(value=42))
    assert done(scene, client.tool("measure")).result["structuredContent"] == {"value": 42}


def a_failing_tool(scene: Scene, client: Client) -> None:
    """The server's own words arrive."""
    call = done(scene, client.tool("fail", nonce=f"{client.name}/f"))
    assert f"failed {client.name}/f" in str(call.answer)


def an_unknown_tool(scene: Scene, client: Client) -> None:
    """Of nobody, or of a server that has forgotten it; the others are called as ever."""
    list_and_call(scene, client)
    scene.only.tools = (*scene.only.tools, "forgotten")
    for name in ("no such tool", "forgotten"):
        assert done(scene, client.tool(name)).code == -32602


def prompts(scene: Scene, client: Client) -> None:
    listed = done(scene, client.request("prompts/list")).result["prompts"]
    got = done(scene, client.request("prompts/get", {"name": listed[0]["name"]})).result
    assert got["messages"][0]["content"]["text"] == "one:greet"


def completion(scene: Scene, client: Client) -> None:
    wanted = {"ref": {"type": "ref/prompt", "name": "greet"}, "argument": {"name": "a", "value": "b"}}
    told = done(scene, client.request("completion/complete", wanted)).result["completion"]["values"]
    assert len(told) == 1 and "ref/prompt" in told[0]


def resources(scene: Scene, client: Client) -> None:
    listed = done(scene, client.request("resources/list")).result["resources"]
    assert URI in [one["uri"] for one in listed]
    made = done(scene, client.request("resources/templates/list")).result["resourceTemplates"]
    assert [one["uriTemplate"] for one in made] == [TEMPLATE]
    for uri in (URI, "test://made/7"):
        read = done(scene, client.request("resources/read", {"uri": uri})).result
        assert read["contents"][0] == {"uri": uri, "text": f"one:{uri}"}


def a_missing_resource(scene: Scene, client: Client) -> None:
    """L8: the server knows it no more, and each era has its own code for that."""

    def gone(job: Job) -> None:
        code = -32602 if job.talk.modern else -32002
        job.finish(error(job.id, code, "resource not found", {"uri": job.params["uri"]}))

    scene.only.reader = gone
    call = done(scene, client.request("resources/read", {"uri": URI}))
    assert call.code == (-32602 if client.modern else -32002)
    assert scene.only.seen("resources/read") == 1
    assert call.error["data"]["uri"] == URI


# -- what a call says on its way


def progress(scene: Scene, client: Client) -> None:
    done(scene, client.tool("slow", token="tok"))
    told = notes(client, "notifications/progress")
    values = [one["progress"] for one in told]
    assert values and values == sorted(set(values)) and {one["progressToken"] for one in told} == {"tok"}


def log_messages(scene: Scene, client: Client) -> None:
    """L14: a session has a level, or each request has; what is below it stays away."""

    def chatty(job: Job) -> None:
        wanted = (job.params.get("_meta") or {}).get(META + "logLevel") if job.talk.modern else job.talk.level
        for level in ("debug", "error"):
            if wanted == "debug" or level == wanted == "error":
                job.out(note("notifications/message", {"level": level, "data": f"{level} of {job.nonce}"}))
        job.say()

    scene.only.script("chatty", chatty)
    meta = {META + "logLevel": "error"} if client.modern else None
    if not client.modern:
        done(scene, client.request("logging/setLevel", {"level": "error"}))
    call = done(scene, client.tool("chatty", meta=meta))
    scene.run(1.0)
    told = [one["data"] for one in notes(client, "notifications/message")]
    assert told == [f"error of {call.nonce}"]


def cancellation(scene: Scene, client: Any) -> None:
    call = client.tool("silent")
    scene.until(lambda: scene.only.calls, 30, "the call at the server")
    client.cancel(call)
    scene.run(1.0)
    snapshot = scene.world.snapshot()
    assert (snapshot.calls, snapshot.upstream_calls) == (0, 0)
    assert scene.only.cancels or scene.only.calls[0].cancelled


# -- what a server asks


def asks(*questions: tuple[str, Message]) -> Callable[[Job], None]:
    """A tool that asks the client these, in the era it is called in, and tells what it got."""

    def act(job: Job) -> None:
        if job.talk.modern:
            given = job.params.get("inputResponses")
            if given is None:
                wanted = {
                    f"q{number}": {"method": method, "params": params}
                    for number, (method, params) in enumerate(questions)
                }
                job.want(wanted, "kept")
            else:
                told = [given[f"q{number}"] for number in range(len(questions))]
                job.say(told=told, state=job.params.get("requestState"))
            return
        told_: dict[int, Message] = {}

        def answered(number: int, reply: Message) -> None:
            told_[number] = reply.get("result") or reply
            if len(told_) == len(questions):
                job.say(told=[told_[number] for number in sorted(told_)], state="kept")

        for number, (method, params) in enumerate(questions):
            # What a legacy server cannot leave out (L3).
            extra = {"elicitationId": "e-1"} if params.get("mode") == "url" else {}
            job.ask(method, {**params, **extra}, lambda reply, number=number: answered(number, reply))  # type: ignore[misc]

    return act


def crosses(scene: Scene, client: Client, *questions: tuple[str, Message]) -> None:
    """Each question reaches the client, and the server hears the very answer to it."""
    scene.only.script("probe", asks(*questions))
    call = done(scene, client.tool("probe"))
    assert sorted(one["method"] for one in client.questions) == sorted(method for method, _ in questions)
    heard = call.result["structuredContent"]
    assert heard["state"] == "kept", heard
    for said, (method, params) in zip(heard["told"], questions, strict=True):
        expected = client.answer_to({"method": method, "params": params})
        assert {name: said.get(name) for name in expected} == expected, heard


def elicitation(scene: Scene, client: Client) -> None:
    crosses(scene, client, ("elicitation/create", FORM))


def a_refusal(scene: Scene, client: Client) -> None:
    """L4: a plain no arrives as a plain no."""
    client.answer_to = lambda question: {"action": "decline"}  # type: ignore[method-assign]
    crosses(scene, client, ("elicitation/create", FORM))


def url_elicitation(scene: Scene, client: Client) -> None:
    crosses(scene, client, ("elicitation/create", URL))
    assert client.questions[0]["params"]["url"] == URL["url"]
    # L3: the id is there where a revision has it, and only there.
    assert ("elicitationId" in client.questions[0]["params"]) is not client.modern


def sampling(scene: Scene, client: Client) -> None:
    crosses(scene, client, ("sampling/createMessage", SAMPLE))


def roots(scene: Scene, client: Client) -> None:
    crosses(scene, client, ("roots/list", {}))


def several_questions(scene: Scene, client: Client) -> None:
    """L1.4: at once, each with its own answer."""
    crosses(
        scene, client, ("elicitation/create", FORM), ("sampling/createMessage", SAMPLE), ("roots/list", {})
    )


# -- what servers say unasked


def list_changed(scene: Scene, client: Any) -> None:
    listens(scene, client)
    scene.only.changed("tools")
    scene.run(1.0)
    assert notes(client, "notifications/tools/list_changed")


def a_watched_resource(scene: Scene, client: Any) -> None:
    listens(scene, client)
    scene.only.updated(URI)
    scene.run(1.0)
    assert [one["uri"] for one in notes(client, "notifications/resources/updated")] == [URI]


def listens(scene: Scene, client: Any) -> None:
    if client.modern:
        wanted = {"toolsListChanged": True, "resourceSubscriptions": [URI]}
        client.request("subscriptions/listen", {"notifications": wanted})
    else:
        done(scene, client.request("resources/subscribe", {"uri": URI}))
        done(scene, client.request("tools/list"))
        if hasattr(client, "listen"):
            client.listen()
    scene.run(2.0)


FEATURES: dict[str, Feature] = {
    "list and call": list_and_call,
    "structured content": structured_content,
    "failing tool": a_failing_tool,
    "unknown tool": an_unknown_tool,
    "prompts": prompts,
    "completion": completion,
    "resources": resources,
    "missing resource": a_missing_resource,
    "progress": progress,
    "log messages": log_messages,
    "cancellation": cancellation,
    "elicitation": elicitation,
    "refused elicitation": a_refusal,
    "URL elicitation": url_elicitation,
    "sampling": sampling,
    "roots": roots,
    "several questions": several_questions,
    "list changes": list_changed,
    "watched resource": a_watched_resource,
}
