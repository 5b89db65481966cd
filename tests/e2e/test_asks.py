"""What servers ask of clients: elicitation, sampling and roots, by request (legacy) or by rounds (modern).

Every question goes to the client whose call it belongs to, and to nobody else.
"""

from __future__ import annotations

import json
import queue
import threading
from typing import Any

import pytest

from e2e.conftest import MODES, World
from e2e.harness import SdkClient
from e2e.rawhttp import Http, Session, message, modern

NAMES = {"legacy": ["alpha", "beta", "gamma", "delta"], "auto": ["alpha", "beta"]}
PAIRS = [(mode, name) for mode, names in NAMES.items() for name in names]
FEATURES: dict[str, Any] = {"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}}


def asked(client: SdkClient) -> int:
    """How many questions have reached a client."""
    return sum(len(client.events(kind)) for kind in ("elicit", "sample", "roots"))


@pytest.mark.parametrize(("mode", "name"), PAIRS)
def test_form_elicitation(mode: str, name: str, world: World) -> None:
    client, other = world.clients[mode]
    before = asked(other)
    answer = json.loads(client.call(f"{name}__ask", question=f"{name}, who?"))
    assert answer["action"] == "accept"
    assert answer["content"] == {"value": f"anna answers {client.events('elicit')[-1]['params']['message']}"}
    assert f"{name}, who?" in answer["content"]["value"]
    assert asked(other) == before


@pytest.mark.parametrize(("mode", "name"), PAIRS)
def test_url_elicitation(mode: str, name: str, world: World) -> None:
    client, other = world.clients[mode]
    before = asked(other)
    url = "https://example.org/look?a=1&b=%20#frag"
    assert json.loads(client.call(f"{name}__ask_url", url=url))["action"] == "accept"
    assert client.events("elicit")[-1]["params"]["url"] == url
    assert asked(other) == before


@pytest.mark.parametrize(("mode", "name"), PAIRS)
def test_sampling(mode: str, name: str, world: World) -> None:
    client, other = world.clients[mode]
    before = asked(other)
    answer = json.loads(client.call(f"{name}__sample", prompt="of cats"))
    assert answer["content"]["text"] == "anna thinks of cats"
    assert asked(other) == before


@pytest.mark.parametrize(("mode", "name"), PAIRS)
def test_roots(mode: str, name: str, world: World) -> None:
    client, other = world.clients[mode]
    before = asked(other)
    assert json.loads(client.call(f"{name}__list_roots"))["roots"] == [{"uri": "file:///anna"}]
    assert asked(other) == before


def who_answered(client: SdkClient, number: int) -> str:
    outcome = client.outcome(number, wait_s=10.0)
    assert "ok" in outcome, outcome
    return str(json.loads(outcome["ok"]["content"][0]["text"])["content"]["value"])


@pytest.mark.parametrize(("mode", "name"), PAIRS)
def test_two_clients_are_asked_at_the_same_time(mode: str, name: str, world: World) -> None:
    for question in ("first", "second", "third"):
        arguments = {"question": question}
        started = [
            client.start("call", name=f"{name}__ask", arguments=arguments) for client in world.clients[mode]
        ]
        for client, number, who in zip(world.clients[mode], started, ("anna", "bert"), strict=True):
            value = who_answered(client, number)
            assert value.startswith(f"{who} answers ") and value.endswith(question)


@pytest.mark.parametrize(("mode", "name"), PAIRS)
def test_one_client_is_asked_twice_at_the_same_time(mode: str, name: str, world: World) -> None:
    client = world.clients[mode][0]
    started = [
        client.start("call", name=f"{name}__ask", arguments={"question": question})
        for question in ("left", "right")
    ]
    assert [who_answered(client, number).rpartition(" ")[2] for number in started] == ["left", "right"]


def test_a_client_without_the_feature_is_not_asked(world: World) -> None:
    session = Session(Http(world.gateway.port))
    answer = session.post(message("tools/call", 1, name="delta__ask", arguments={"question": "q"}))
    assert [one.get("method") for one in answer.messages if "method" in one] == []
    last = answer.messages[-1]
    assert "error" in last or last["result"]["isError"], last


# -- equal ids and tokens, which the SDK's clients only have by chance


def ask_of(number: Any, question: str, name: str) -> dict[str, Any]:
    params = {"name": f"{name}__ask", "arguments": {"question": question}, "_meta": {"progressToken": number}}
    return message("tools/call", number, **params)


@pytest.mark.parametrize("name", NAMES["legacy"])
def test_equal_ids_at_the_same_time_legacy(name: str, world: World) -> None:
    """Two sessions, the same request id and progress token, each asked while the other is asked."""
    http = Http(world.gateway.port)
    sessions = [Session(http, capabilities=FEATURES) for _ in range(2)]
    # On one channel the second interactive call waits for the first: both are posted before any is answered.
    streams = [one.stream(ask_of(7, f"question {n}", name)) for n, one in enumerate(sessions)]
    for number, (session, stream) in enumerate(zip(sessions, streams, strict=True)):
        question = stream.until("elicitation/create")
        assert question["params"]["message"].endswith(f"question {number}")
        answer = {"action": "accept", "content": {"value": f"answer {number}"}}
        assert session.post({"jsonrpc": "2.0", "id": question["id"], "result": answer}).status == 202
        text = stream.answer(7)["result"]["content"][0]["text"]
        assert json.loads(text)["content"] == {"value": f"answer {number}"}
        stream.close()


@pytest.mark.parametrize("name", NAMES["legacy"])
@pytest.mark.parametrize("first", [0, 1])
def test_two_questions_to_one_client(name: str, first: int, world: World) -> None:
    """Both are open at once, and each is answered after its like, in either order: no call is forgotten."""
    session = Session(Http(world.gateway.port), capabilities=FEATURES)
    heard: queue.Queue[Any] = queue.Queue()

    def follow(number: int) -> None:
        stream = session.stream(ask_of(number, f"question {number}", name))
        while (found := stream.next()) is not None:
            heard.put(found)
        stream.close()

    readers = [threading.Thread(target=follow, args=(number,)) for number in range(2)]
    for reader in readers:
        reader.start()
    try:
        questions = [heard.get(timeout=10) for _ in range(2)]
        assert [one.get("method") for one in questions] == ["elicitation/create"] * 2
        questions.sort(key=lambda one: str(one["params"]["message"])[-1])
        for number in (first, 1 - first):
            answer = {"action": "accept", "content": {"value": f"answer {number}"}}
            reply = {"jsonrpc": "2.0", "id": questions[number]["id"], "result": answer}
            assert session.post(reply).status == 202
            done = heard.get(timeout=10)
            assert done["id"] == number, done
            assert json.loads(done["result"]["content"][0]["text"])["content"] == answer["content"]
    finally:
        session.delete()
        for number in range(2):
            session.http.post(message("notifications/cancelled", None, requestId=number), session.headers)
        for reader in readers:
            reader.join()


@pytest.mark.parametrize("name", NAMES["legacy"])
def test_equal_tokens_at_the_same_time_legacy(name: str, world: World) -> None:
    http = Http(world.gateway.port)
    sessions = [Session(http) for _ in range(2)]
    params: dict[str, Any] = {"name": f"{name}__steps", "_meta": {"progressToken": 1}}
    counts = (5, 9)
    streams = [
        session.stream(message("tools/call", 1, **params, arguments={"count": count}))
        for session, count in zip(sessions, counts, strict=True)
    ]
    for stream, count in zip(streams, counts, strict=True):
        assert stream.answer(1)["result"]["content"][0]["text"] == f"{count} steps"
        progress = [one["params"] for one in stream.messages if "method" in one]
        assert all(one["progressToken"] == 1 and one["total"] == count for one in progress)
        assert [one["progress"] for one in progress][-1] == count
        stream.close()


@pytest.mark.parametrize("name", NAMES["auto"])
def test_equal_ids_at_the_same_time_modern(name: str, world: World) -> None:
    http = Http(world.gateway.port)
    params: dict[str, Any] = {"name": f"{name}__steps", "_meta": {"progressToken": 1}}
    counts = (5, 9)
    streams = []
    for count in counts:
        streams.append(http.open("POST", *modern("tools/call", 1, **params, arguments={"count": count})))
    for stream, count in zip(streams, counts, strict=True):
        assert stream.answer(1)["result"]["content"][0]["text"] == f"{count} steps"
        progress = [one["params"] for one in stream.messages if "method" in one]
        assert all(one["progressToken"] == 1 and one["total"] == count for one in progress)
        stream.close()


@pytest.mark.parametrize("name", NAMES["auto"])
def test_rounds_of_a_modern_call(name: str, world: World) -> None:
    """The first round ends with the question; the second, with equal ids, brings the answer. In between
    nothing is held, and a state that was tampered with is refused."""
    http = Http(world.gateway.port)
    states = []
    for number in range(2):
        arguments = {"question": f"question {number}"}
        first = http.modern("tools/call", 3, features=FEATURES, name=f"{name}__ask", arguments=arguments)
        result = first.messages[-1]["result"]
        assert result["resultType"] == "input_required" and "ttlMs" not in result
        ((key, question),) = result["inputRequests"].items()
        assert question["method"] == "elicitation/create" and "id" not in question
        states.append((key, result["requestState"], arguments))
    world.gateway.wait_idle(name)
    for number, (key, state, arguments) in enumerate(states):
        answers = {key: {"action": "accept", "content": {"value": f"answer {number}"}}}
        params: dict[str, Any] = {
            "name": f"{name}__ask",
            "arguments": arguments,
            "inputResponses": answers,
        }
        bad = http.modern("tools/call", 3, features=FEATURES, **params, requestState=state[:-4] + "AAAA")
        assert bad.messages[-1]["error"]["code"] == -32602
        good = http.modern("tools/call", 3, features=FEATURES, **params, requestState=state)
        text = good.messages[-1]["result"]["content"][0]["text"]
        assert json.loads(text)["content"] == {"value": f"answer {number}"}


def test_modern_client_without_the_feature(world: World) -> None:
    """The server needs what this client does not have: an error that says which, not a question."""
    answer = Http(world.gateway.port).modern("tools/call", name="beta__ask", arguments={"question": "q"})
    last = answer.messages[-1]
    assert "inputRequests" not in last.get("result", {}), last
    assert last.get("error", {}).get("code") in (-32021, -32603) or last["result"]["isError"], last


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_left(mode: str, world: World) -> None:
    world.clients[mode][0].call("alpha__who")
    world.gateway.wait_idle(*NAMES["legacy"])
