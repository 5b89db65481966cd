"""What has to cross between a client and a server of any two eras, each as one asserting scene.

Owns: the list of features, in the order of the documented table. Each takes a scene with one server and one
client and fails unless the feature crossed.
Must never: ask which era it runs in, except to script the model server in its own era.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fuzz.sim.clients import Call, Client
from fuzz.sim.scene import Scene
from fuzz.sim.talk import Job, Message

__all__ = ["FEATURES", "Feature"]

Feature = Callable[[Scene, Any], None]
SCHEMA = {"type": "object", "properties": {}}
URI = "test://one/1"


def done(scene: Scene, call: Call) -> Call:
    scene.until(lambda: call.settled, 60, "an answer")
    return call.last


def text_of(call: Call) -> str:
    return str(call.last.text)


def asks(method: str, params: Message) -> Callable[[Job], None]:
    """A tool that asks the client one thing, in the era it is called in, and tells what it got."""

    def act(job: Job) -> None:
        if job.talk.modern:
            given = (job.params.get("inputResponses") or {}).get("q")
            if given is None:
                job.want({"q": {"method": method, "params": params}}, "kept")
            else:
                job.say(told=sorted(given), state=job.params.get("requestState"))
        else:
            job.ask(method, params, lambda reply: job.say(told=sorted(reply.get("result", {}))))

    return act


def list_and_call(scene: Scene, client: Client) -> None:
    listed = done(scene, client.request("tools/list")).result["tools"]
    assert "echo" in [one["name"] for one in listed]
    call = done(scene, client.tool("echo", nonce=f"{client.name}/x"))
    assert text_of(call).startswith(f"{client.name}/x")


def a_failing_tool(scene: Scene, client: Client) -> None:
    call = done(scene, client.tool("fail"))
    assert call.answer is not None and ("error" in call.answer or call.result.get("isError"))


def an_unknown_tool(scene: Scene, client: Client) -> None:
    assert done(scene, client.tool("no such tool")).code == -32602


def notes(client: Client) -> list[Message]:
    """All notifications that reached the client, on whatever stream."""
    of_calls = [note for call in client.calls for _, note in call.notes]
    return [note for _, note in client.notes] + of_calls


def prompts(scene: Scene, client: Client) -> None:
    listed = done(scene, client.request("prompts/list")).result["prompts"]
    got = done(scene, client.request("prompts/get", {"name": listed[0]["name"]})).result
    assert got["messages"] is not None


def resources(scene: Scene, client: Client) -> None:
    listed = done(scene, client.request("resources/list")).result["resources"]
    assert URI in [one["uri"] for one in listed]
    read = done(scene, client.request("resources/read", {"uri": URI})).result
    assert read["contents"][0]["uri"] == URI


def a_missing_resource(scene: Scene, client: Client) -> None:
    """L8: each era has its own code for it."""
    call = done(scene, client.request("resources/read", {"uri": "test://nowhere"}))
    assert call.code == (-32602 if client.modern else -32002)


def progress(scene: Scene, client: Client) -> None:
    done(scene, client.tool("slow", token="tok"))
    told = [note["params"] for note in notes(client) if note["method"] == "notifications/progress"]
    values = [one["progress"] for one in told]
    assert values and values == sorted(set(values)) and {one["progressToken"] for one in told} == {"tok"}


def cancellation(scene: Scene, client: Any) -> None:
    call = client.tool("silent")
    scene.until(lambda: scene.only.calls, 30, "the call at the server")
    client.cancel(call)
    scene.run(1.0)
    snapshot = scene.world.snapshot()
    assert (snapshot.calls, snapshot.upstream_calls) == (0, 0)
    assert scene.only.cancels or scene.only.calls[0].cancelled


def elicitation(scene: Scene, client: Client) -> None:
    call = done(scene, client.tool("ask", nonce=f"{client.name}/q"))
    assert text_of(call).startswith(f"{client.name}/q|{client.name} says {client.name}/q")


def sampling(scene: Scene, client: Client) -> None:
    params = {"messages": [{"role": "user", "content": {"type": "text", "text": "?"}}], "maxTokens": 5}
    crosses(scene, client, "sampling/createMessage", params)


def roots(scene: Scene, client: Client) -> None:
    crosses(scene, client, "roots/list", {})


def crosses(scene: Scene, client: Client, method: str, params: Message) -> None:
    """The question reaches the client, and its answer the server."""
    scene.only.script("probe", asks(method, params))
    answers_all(client)
    call = done(scene, client.tool("probe"))
    assert [one["method"] for one in client.questions] == [method]
    assert "told" in call.result["structuredContent"], call.result


def answers_all(client: Any) -> None:
    """A legacy model client that answers what it is asked, whatever it is."""
    if client.modern:
        return
    reply = {"role": "assistant", "model": "m", "content": {"type": "text", "text": "!"}, "roots": []}

    def asked(message: Message) -> None:
        client.questions.append(message)
        client.reply({"jsonrpc": "2.0", "id": message["id"], "result": reply})

    client.asked = asked


def list_changed(scene: Scene, client: Any) -> None:
    heard(scene, client, "notifications/tools/list_changed", lambda: scene.only.changed("tools"))


def a_watched_resource(scene: Scene, client: Any) -> None:
    heard(scene, client, "notifications/resources/updated", lambda: scene.only.updated(URI))


def heard(scene: Scene, client: Any, method: str, act: Callable[[], None]) -> None:
    if client.modern:
        wanted = {"toolsListChanged": True, "resourceSubscriptions": [URI]}
        client.request("subscriptions/listen", {"notifications": wanted})
    else:
        done(scene, client.request("resources/subscribe", {"uri": URI}))
        done(scene, client.request("tools/list"))
        if hasattr(client, "listen"):
            client.listen()
    scene.run(2.0)
    act()
    scene.run(1.0)
    assert method in [note["method"] for note in notes(client)], notes(client)


FEATURES: dict[str, Feature] = {
    "list and call": list_and_call,
    "failing tool": a_failing_tool,
    "unknown tool": an_unknown_tool,
    "prompts": prompts,
    "resources": resources,
    "missing resource": a_missing_resource,
    "progress": progress,
    "cancellation": cancellation,
    "elicitation": elicitation,
    "sampling": sampling,
    "roots": roots,
    "list changes": list_changed,
    "watched resource": a_watched_resource,
}
