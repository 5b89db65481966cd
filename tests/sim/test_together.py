"""Many clients and many calls at one time: ids, tokens and questions of one never meet those of another.

Must never: use ids that differ by chance; here they are equal on purpose.
"""

from __future__ import annotations

import msgspec
import pytest

from fuzz.sim.checkers import Checkers
from fuzz.sim.clients import FORM, Call
from fuzz.sim.scene import Scene

LEGACY, MODERN, DUAL = ("legacy",), ("modern",), ("legacy", "modern")
CELLS = [(transport, eras) for transport in ("stdio", "http") for eras in (LEGACY, MODERN, DUAL)]
NAMES = [f"{transport}-{'+'.join(eras)}" for transport, eras in CELLS]


def tokens(call: Call) -> set[object]:
    notes = [note for _, note in call.notes if note["method"] == "notifications/progress"]
    assert all(note["params"]["message"] == call.nonce for note in notes), "somebody else's progress"
    return {note["params"]["progressToken"] for note in notes}


@pytest.mark.parametrize(("transport", "eras"), CELLS, ids=NAMES)
def test_equal_ids_and_tokens_in_flight_in_one_session_never_cross(
    transport: str, eras: tuple[str, ...]
) -> None:
    scene = Scene({"one": (transport, eras)}).start()
    Checkers(scene)
    client = scene.legacy()
    calls = [client.tool("slow", id=5, token="t", steps=3, every=0.2 + 0.1 * n) for n in range(6)]
    scene.done(*calls)
    assert [call.text for call in calls] == [call.nonce for call in calls]
    assert all(tokens(call) == {"t"} for call in calls)
    again = scene.done(client.tool("echo", id=5))
    assert again.text == again.nonce, "and an id can be used again"
    assert scene.problems() == []


@pytest.mark.parametrize("pipe", ["legacy", "modern"])
def test_equal_ids_in_flight_on_a_pipe_get_an_answer_each(pipe: str) -> None:
    scene = Scene({"one": ("stdio", DUAL)}, listeners=("stdio",)).start()
    client = scene.legacy_pipe() if pipe == "legacy" else scene.modern_pipe()
    calls = [client.tool("echo", id="same") for _ in range(5)]
    scene.done(*calls)
    texts = sorted(call.answer["result"]["content"][0]["text"] for call in calls if call.answer)
    assert texts == sorted(call.nonce for call in calls)


@pytest.mark.parametrize(("transport", "eras"), CELLS, ids=NAMES)
def test_clients_with_equal_ids_tokens_and_questions_each_get_their_own(
    transport: str, eras: tuple[str, ...]
) -> None:
    scene = Scene({"one": (transport, eras)}, listeners=("http", "stdio")).start()
    Checkers(scene)
    clients = [
        scene.legacy(capabilities=FORM),
        scene.legacy(capabilities=FORM),
        scene.modern(capabilities=FORM),
        scene.modern(capabilities=FORM),
        scene.legacy_pipe(capabilities=FORM),
    ]
    calls = []
    for client in clients:
        client.answer_after = 0.3
        calls.append(client.tool("slow", id=1000, token=7, steps=4, every=0.25))
        calls.append(client.tool("ask", id=1001, token=7))
    scene.done(*calls, within=90)
    for client in clients:
        mine = [call for call in calls if call.client is client]
        assert mine[0].text == mine[0].nonce
        assert mine[1].text == f"{mine[1].nonce}|{client.name} says {mine[1].nonce}"
    assert scene.problems() == []
    scene.run(1.0)
    assert scene.at_rest() == []


def test_a_servers_ids_are_its_own_hops_and_never_repeat() -> None:
    """A4, A5: what a client sends as an id or a token reaches no server."""
    scene = Scene({"one": ("stdio", LEGACY)}).start()
    scene.run(1.0)
    client = scene.legacy()
    for id in ("x", 0, -5, 2**60, "1"):
        scene.done(client.tool("slow", id=id, token=f"secret {id}", steps=1, every=0.1))
    ids = [message["id"] for _, message in scene.only.heard if "method" in message and "id" in message]
    assert len(ids) == len(set(ids)) and all(type(id) is int for id in ids)
    assert "secret" not in str(scene.only.heard)


@pytest.mark.parametrize("id", [0, -1, 2**53 - 1, "", "0", "1", "\u2028\u00e4\U0001f600"], ids=repr)
def test_an_id_comes_back_as_it_was(id: object) -> None:
    """A2: with its type."""
    scene = Scene({"one": ("stdio", DUAL)}).start()
    for client in (scene.legacy(), scene.modern()):
        call = scene.done(client.tool("echo", id=id))
        assert call.answer is not None
        assert call.answer["id"] == id and type(call.answer["id"]) is type(id)


@pytest.mark.parametrize("eras", [LEGACY, MODERN], ids=["legacy", "modern"])
def test_the_work_of_one_principal_never_shares_a_channel_with_anothers(eras: tuple[str, ...]) -> None:
    scene = Scene({"one": ("stdio", eras)}, listeners=("http", "stdio")).start()
    Checkers(scene)
    local, remote = scene.modern_pipe(), scene.modern()
    calls = []
    for _ in range(3):
        calls += [local.tool("echo"), remote.tool("echo")]
        scene.run(0.5)
    scene.done(*calls)
    processes = {
        client.name: {id(job.talk) for job in scene.only.calls if job.nonce.startswith(client.name + "/")}
        for client in (local, remote)
    }
    assert not processes[local.name] & processes[remote.name]


def test_what_a_server_says_of_other_calls_reaches_nobody() -> None:
    """Progress of nobody's token, answers to nobody's id, cancellations of what it was asked."""
    scene = Scene({"one": ("stdio", DUAL)}).start()
    clients = [scene.legacy(), scene.modern()]
    waiting = [client.tool("slow", token=999_999, steps=4, every=0.5) for client in clients]
    scene.run(0.2)
    calls = [client.tool(tool) for client in clients for tool in ("wrong", "stray", "twice", "garbage")]
    scene.done(*waiting, *calls)
    assert [call.text for call in [*waiting, *calls]] == [call.nonce for call in [*waiting, *calls]]
    assert all(tokens(call) == {999_999} for call in waiting)
    assert scene.problems() == []


def test_many_calls_at_once_are_bounded_and_each_has_its_answer() -> None:
    limits = msgspec.structs.replace(Scene({}).config.limits, calls=40)
    scene = Scene({"one": ("stdio", MODERN)}, limits=limits).start()
    clients = [scene.modern() for _ in range(60)]
    scene.done(clients[0].tool("echo"))
    calls = [client.tool("slow", steps=2, every=0.5) for client in clients]
    scene.done(*calls)
    refused = [call for call in calls if call.code is not None]
    assert len(refused) == 20
    assert all(call.text == call.nonce for call in calls if call not in refused)
