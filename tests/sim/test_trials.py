"""A legacy client at a server that says it is modern: whether it is asked for sessions, and what is learned
(F5, F11, F15, C25); and questions that a legacy server puts on its session's own stream (L0.4, L1.13)."""

from __future__ import annotations

from typing import Any

import pytest

from fuzz.sim import http
from fuzz.sim.scene import Scene
from fuzz.sim.servers import HttpConn
from fuzz.sim.talk import Job, Message, result

FORM = {"message": "who?", "requestedSchema": {"type": "object", "properties": {}}}
ALL = {"elicitation": {}}


class Naive(HttpConn):
    """A server of the new era that answers whatever it is sent, a handshake too."""

    get_status = 404

    def _modern(self, message: Message | None) -> None:
        if self._method == "GET":
            self._write(http.head(f"HTTP/1.1 {self.get_status} No", []))
        elif message is not None and message.get("method") == "initialize":
            told = {
                "protocolVersion": "2026-07-28",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "n"},
            }
            self._json(result(message["id"], told))
        else:
            super()._modern(message)


class Strict(Naive):
    get_status = 405


class Mute(Naive):
    """A GET is never answered."""

    def _modern(self, message: Message | None) -> None:
        if self._method != "GET":
            super()._modern(message)


def bridged(kind: type[HttpConn], within: float = 10.0) -> Scene:
    """A legacy client's call at such a server, which comes through."""
    scene = Scene({"one": ("http", ("modern",))})
    scene.net.services["127.0.0.1", 9001] = lambda: scene.only.connection(kind)
    scene.start()
    client = scene.legacy()
    call = scene.done(client.tool("echo"), within=within)
    assert call.text == call.nonce
    assert scene.only.calls[0].talk.modern
    return scene


def asked(scene: Scene) -> list[tuple[str, str | None]]:
    """The handshakes that the server saw, and what it was asked before them."""
    told = [(verb, (message or {}).get("method")) for verb, _, message in scene.only.requests]
    return [one for one in told if one[0] == "GET" or one[1] == "initialize"]


def test_a_server_without_sessions_is_sent_no_handshake() -> None:
    """C25: 405 to a GET. F5: with a modern server one stays modern."""
    scene = bridged(Strict)
    assert asked(scene) == [("GET", None)]
    scene.done(scene.legacy().tool("echo"))
    assert asked(scene) == [("GET", None)], "it was learned for good"
    assert not scene.world.logged("server_down")


@pytest.mark.parametrize("kind", [Naive, Mute])
def test_a_handshake_answered_with_the_new_revision_teaches_as_a_refusal_does(kind: type[HttpConn]) -> None:
    scene = bridged(kind, within=30.0)
    assert asked(scene) == [("GET", None), ("POST", "initialize")]
    [headers] = [
        one for _, one, message in scene.only.requests if (message or {}).get("method") == "initialize"
    ]
    assert headers["mcp-method"] == "initialize", "C15: a server of the new era wants to be told"
    assert not scene.world.logged("server_down")


@pytest.mark.parametrize("transport", ["http", "stdio"])
def test_a_server_of_both_eras_serves_each_client_in_its_own(transport: str) -> None:
    """Though it lists the new one only (G3)."""
    scene = Scene({"one": (transport, ("modern", "legacy"))}).start()
    for client in (scene.legacy(), scene.modern()):
        scene.done(client.tool("echo"))
        assert scene.only.calls[-1].talk.modern is client.modern


def test_a_legacy_server_that_is_known_is_not_asked_twice() -> None:
    scene = Scene({"one": ("http", ("legacy",))}).start()
    scene.done(scene.legacy().tool("echo"))
    named = [
        headers
        for _, headers, message in scene.only.requests
        if (message or {}).get("method") == "initialize"
    ]
    assert named and not any("mcp-method" in one for one in named)


# -- questions on the session's own stream


def on_the_side(told: list[Message]) -> Any:
    """A tool whose question comes on the stream of the session, as servers on the TypeScript SDK send it."""

    def act(job: Job) -> None:
        def answered(reply: Message) -> None:
            told.append(reply)
            job.say(told=reply.get("result"))

        job.talk.ask(job, "elicitation/create", {**FORM, "message": job.nonce}, job.talk.send, answered)

    return act


@pytest.fixture
def told() -> list[Message]:
    return []


@pytest.fixture
def scene(told: list[Message]) -> Scene:
    made = Scene({"one": ("http", ("legacy",))})
    made.only.script("ask_aside", on_the_side(told))
    return made.start()


def test_a_question_on_the_side_is_of_the_only_call(scene: Scene) -> None:
    client = scene.modern(capabilities=ALL)
    call = scene.done(client.tool("ask_aside"))
    assert call.result["structuredContent"]["told"]["content"]["answer"].endswith(call.nonce)
    assert [one["params"]["message"] for one in client.questions] == [call.nonce]
    assert scene.problems() == [] and scene.at_rest() == []


def test_of_two_calls_it_may_be_either_so_it_is_refused(scene: Scene, told: list[Message]) -> None:
    """L1.13: never some other client's."""
    other = scene.modern(capabilities=ALL)
    other.tool("silent")
    scene.until(lambda: scene.only.calls, 10)
    client = scene.modern(capabilities=ALL)
    scene.done(client.tool("ask_aside"))
    assert [one["error"]["code"] for one in told] == [-32602]
    assert client.questions == other.questions == []


def test_after_a_cancellation_it_may_be_of_the_cancelled_call(scene: Scene, told: list[Message]) -> None:
    other = scene.modern(capabilities=ALL)
    given_up = other.tool("silent")
    scene.until(lambda: scene.only.calls, 10)
    other.cancel(given_up)
    scene.run(1.0)
    client = scene.modern(capabilities=ALL)
    scene.done(client.tool("ask_aside"))
    assert [one["error"]["code"] for one in told] == [-32602] and client.questions == []
    scene.run(scene.config.limits.lease_wait_s)
    again = scene.done(client.tool("ask_aside"))
    assert again.result["structuredContent"]["told"]["action"] == "accept"


def test_a_client_of_the_old_era_is_asked_on_the_stream_of_its_call(scene: Scene) -> None:
    """It need not have a stream of its own open."""
    client = scene.legacy(capabilities=ALL)
    call = scene.done(client.tool("ask_aside"))
    assert call.result["structuredContent"]["told"]["action"] == "accept"
    assert len(client.questions) == 1


def test_with_another_client_on_the_session_it_is_of_nobody(scene: Scene, told: list[Message]) -> None:
    first, second = (scene.legacy(capabilities=ALL) for _ in range(2))
    scene.done(first.tool("echo"), second.tool("echo"))
    assert len({id(job.talk) for job in scene.only.calls}) == 1
    scene.done(first.tool("ask_aside"))
    assert [one["error"]["code"] for one in told] == [-32602]
    assert first.questions == second.questions == []


# -- what a server asks too late


@pytest.mark.parametrize("who", ["modern", "legacy"])
@pytest.mark.parametrize("transport", ["unix", "http"])
def test_a_late_question_does_not_reach_the_other_client_of_a_session(transport: str, who: str) -> None:
    """L1.13: the cancelled call's question comes when only another client is known on the channel."""
    scene = Scene({"one": (transport, ("legacy",))}).start()

    def late(job: Job) -> None:
        # The server goes on for a while before it learns of the cancellation.
        scene.world.after(1.0, lambda: job.talk.ask(None, "elicitation/create", FORM, job.talk.send))

    scene.only.script("late", late)
    known = scene.legacy(capabilities=ALL)
    scene.done(known.tool("echo"))
    other: Any = scene.modern(capabilities=ALL) if who == "modern" else scene.legacy(capabilities=ALL)
    call = other.tool("late")
    scene.until(lambda: len(scene.only.calls) == 2, 10)
    assert scene.only.calls[0].talk is scene.only.calls[1].talk, "they share the session"
    if who == "modern":
        other.cancel(call)
    else:
        other.delete()
    scene.run(5.0)
    assert [one["error"]["code"] for _, one in scene.only.replies] == [-32602]
    assert known.questions == other.questions == []
