"""Rounds of modern servers: with modern clients nothing is held in between (MRTR), for legacy ones the
gateway asks on the call's stream and goes on by itself (L2).

Must never: look for a held call where none may be; the tests count calls, streams and parked ones.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from fuzz.sim.clients import FORM, Call, LegacyPipe
from fuzz.sim.http_clients import LegacyHttp, ModernHttp
from fuzz.sim.scene import FAST, Scene
from fuzz.sim.talk import Job, Message, error, result

MODERN = ("modern",)
ALL: Message = {"elicitation": {}, "roots": {}, "sampling": {}}
TRANSPORTS = pytest.mark.parametrize("transport", ["stdio", "http"])
LEGACIES = pytest.mark.parametrize("kind", ["http", "pipe"])
STATE = 'opaque "state" \u00e4\u2028 {"a":1}'


def elicit(message: str) -> Message:
    params = {"mode": "form", "message": message, "requestedSchema": {"type": "object", "properties": {}}}
    return {"method": "elicitation/create", "params": params}


def accept(value: str) -> Message:
    return {"action": "accept", "content": {"answer": value}}


def rounds(*asks: Message, state: str | None = STATE) -> Callable[[Job], None]:
    """Ask these maps of questions, one round each; then tell what was given and which states came back."""

    def act(job: Job) -> None:
        given = job.params.get("inputResponses")
        number = int(job.params["requestState"].split("#")[1]) if "requestState" in job.params else 0
        if state is None and given is not None:
            number = len(asks)
        if number < len(asks):
            job.want(asks[number], None if state is None else f"{state}#{number + 1}")
        else:
            job.say(given=given, state=job.params.get("requestState"))

    return act


def one(transport: str = "stdio", **limits: float) -> Scene:
    bounds = msgspec.structs.replace(FAST, **limits)
    scene = Scene(
        {"one": (transport, MODERN)},
        limits=bounds,
        options={"one": {"timeout": 10.0}},
        listeners=("http", "stdio"),
    ).start()
    scene.run(1.0)
    return scene


def asked(scene: Scene, tool: str, capabilities: Message = FORM) -> tuple[ModernHttp, Call]:
    client = scene.modern(capabilities=capabilities)
    client.answer_after = None
    call = client.tool(tool)
    scene.until(lambda: call.over, 20)
    return client, call


def legacy(scene: Scene, kind: str, capabilities: Message = FORM) -> LegacyHttp | LegacyPipe:
    client = (
        scene.legacy(capabilities=capabilities)
        if kind == "http"
        else scene.legacy_pipe(capabilities=capabilities)
    )
    client.answer_after = None
    return client


# -- modern clients


@TRANSPORTS
def test_a_round_trip_holds_nothing_and_gives_the_state_back_as_it_was(transport: str) -> None:
    scene = one(transport)
    scene.only.script("quiz", rounds({"k \u00e4": elicit("?")}))
    client, call = asked(scene, "quiz")
    assert call.result["inputRequests"] == {"k \u00e4": elicit("?")}
    assert STATE not in call.result["requestState"], "the server's state is sealed"
    snapshot = scene.world.snapshot()
    assert (snapshot.calls, snapshot.upstream_calls, snapshot.parked, snapshot.streams) == (0, 0, 0, 0)
    scene.run(600.0)
    done = scene.done(client.retry(call, {"k \u00e4": accept("blue")}))
    assert done.result["structuredContent"] == {"given": {"k \u00e4": accept("blue")}, "state": f"{STATE}#1"}
    assert len(scene.only.calls) == 2


def test_a_restart_of_the_server_in_between_does_no_harm() -> None:
    scene = one()
    scene.only.script("quiz", rounds({"k": elicit("?")}))
    client, call = asked(scene, "quiz")
    scene.only.crash()
    scene.run(10.0)
    done = scene.done(client.retry(call, {"k": accept("x")}))
    assert done.result["structuredContent"]["state"] == f"{STATE}#1"


def test_the_same_state_may_be_used_again() -> None:
    """Only parked calls make it single-use; here the server decides."""
    scene = one()
    scene.only.script("quiz", rounds({"k": elicit("?")}))
    client, call = asked(scene, "quiz")
    for value in ("first", "second"):
        done = scene.done(client.retry(call, {"k": accept(value)}))
        assert done.result["structuredContent"]["given"] == {"k": accept(value)}


def test_a_state_that_was_not_given_is_not_invented() -> None:
    """G8, G9."""
    scene = one()
    scene.only.script("quiz", rounds({"k": elicit("?")}, state=None))
    client, call = asked(scene, "quiz")
    assert "requestState" not in call.result
    done = scene.done(client.retry(call, {"k": accept("x")}))
    assert done.result["structuredContent"] == {"given": {"k": accept("x")}, "state": None}


def test_a_state_without_questions_passes() -> None:
    scene = one()
    scene.only.script("shed", rounds({}))
    client, call = asked(scene, "shed")
    assert "inputRequests" not in call.result
    done = scene.done(client.retry(call, None))
    assert done.result["structuredContent"]["state"] == f"{STATE}#1"


def test_a_tampered_state_is_refused_before_any_server_sees_it() -> None:
    scene = one()
    scene.only.script("quiz", rounds({"k": elicit("?")}))
    client, call = asked(scene, "quiz")
    state = call.result["requestState"]
    for wrong_state in (state[:-1], state[:30] + "A" + state[31:], "x", STATE, f"{STATE}#1", ""):
        wrong = scene.done(client.retry(call, {"k": accept("x")}, state=wrong_state))
        assert wrong.error["code"] == -32602
    for changed in ({"name": "echo"}, {"arguments": {"nonce": "x"}}):
        wrong = scene.done(client.retry(call, {"k": accept("x")}, **changed))
        assert wrong.error["code"] == -32602
    thief = scene.modern(capabilities=FORM, kind="unix")
    thief.answer_after = None
    params = {name: value for name, value in call.params.items() if name != "_meta"}
    stolen = scene.done(thief.request(call.method, {**params, "requestState": state}))
    assert stolen.error["code"] == -32602
    assert len(scene.only.calls) == 1


def test_equal_arguments_written_otherwise_are_the_same_request() -> None:
    """G7: the digest is of values."""
    scene = one()
    scene.only.script("quiz", rounds({"k": elicit("?")}))
    client = scene.modern(capabilities=FORM)
    client.answer_after = None
    call = client.tool("quiz", a=1, b={"x": 1, "y": 2})
    scene.until(lambda: call.over, 10)
    turned = {"b": {"y": 2, "x": 1}, "nonce": call.nonce, "a": 1}
    done = scene.done(client.retry(call, {"k": accept("x")}, arguments=turned))
    assert done.code is None


def test_a_state_expires() -> None:
    scene = one(request_state_ttl_s=300.0)
    scene.only.script("quiz", rounds({"k": elicit("?")}))
    client, call = asked(scene, "quiz")
    scene.run(290.0)
    assert scene.done(client.retry(call, {"k": accept("x")})).code is None
    scene.run(120.0)
    late = scene.done(client.retry(call, {"k": accept("x")}))
    assert late.error["code"] == -32602


def test_questions_that_were_not_declared_are_not_put() -> None:
    """G6: only what this very request declared."""
    scene = one()
    scene.only.script("quiz", rounds({"k": {"method": "roots/list", "params": {}}}))
    client, call = asked(scene, "quiz")
    assert call.error["code"] == -32021
    assert call.error["data"]["requiredCapabilities"] == {"roots": {}}
    assert call.status == 400


# -- legacy clients


@TRANSPORTS
@LEGACIES
def test_a_legacy_client_is_asked_on_the_stream_of_its_call(transport: str, kind: str) -> None:
    scene = one(transport)
    scene.only.script("quiz", rounds({"a": elicit("A?"), "b": elicit("B?")}, {"c": elicit("C?")}))
    client = legacy(scene, kind)
    call = client.tool("quiz")
    scene.until(lambda: len(client.questions) == 2, 10, "both at once")
    assert [one["method"] for one in client.questions] == ["elicitation/create"] * 2
    assert len({one["id"] for one in client.questions}) == 2
    scene.run(30.0)  # nobody's clock runs
    first, second = client.questions
    client.reply(result(second["id"], accept(second["params"]["message"])))
    scene.run(1.0)
    assert len(scene.only.calls) == 1, "a modern server gets all answers of a round at once"
    client.reply(result(first["id"], accept(first["params"]["message"])))
    scene.until(lambda: len(client.questions) == 3, 10, "the second round")
    given = scene.only.calls[1].params
    assert given["inputResponses"] == {"a": accept("A?"), "b": accept("B?")}
    assert given["requestState"] == f"{STATE}#1"
    client.reply(result(client.questions[2]["id"], accept("C")))
    scene.done(call)
    assert call.result["structuredContent"] == {"given": {"c": accept("C")}, "state": f"{STATE}#2"}
    same = [{k: v for k, v in job.params.items() if k in ("name", "arguments")} for job in scene.only.calls]
    assert same[0] == same[1] == same[2]
    assert len({job.id for job in scene.only.calls}) == 3 or transport == "http"
    assert scene.problems() == [] and scene.at_rest() == []


@LEGACIES
def test_members_of_a_new_era_do_not_reach_a_legacy_client(kind: str) -> None:
    """L2.2, L6: no resultType, no keys of ours; an id of its own."""
    scene = one()
    scene.only.script("quiz", rounds({"a": elicit("A?")}))
    client = legacy(scene, kind)
    call = client.tool("quiz")
    scene.until(lambda: client.questions, 10)
    question = client.questions[0]
    assert set(question) == {"jsonrpc", "id", "method", "params"}
    client.reply(result(question["id"], accept("x")))
    scene.done(call)
    assert "resultType" not in call.result and "inputRequests" not in call.result


@LEGACIES
@pytest.mark.parametrize("action", ["decline", "cancel"])
def test_a_no_of_the_user_is_an_answer(kind: str, action: str) -> None:
    """L4."""
    scene = one()
    scene.only.script("quiz", rounds({"a": elicit("A?")}))
    client = legacy(scene, kind)
    call = client.tool("quiz")
    scene.until(lambda: client.questions, 10)
    client.reply(result(client.questions[0]["id"], {"action": action}))
    scene.done(call)
    assert call.result["structuredContent"]["given"] == {"a": {"action": action}}


@LEGACIES
def test_an_error_instead_of_an_elicitation_is_a_cancel(kind: str) -> None:
    """L4: errors cannot be expressed in inputResponses."""
    scene = one()
    scene.only.script("quiz", rounds({"a": elicit("A?")}))
    client = legacy(scene, kind)
    call = client.tool("quiz")
    scene.until(lambda: client.questions, 10)
    client.reply(error(client.questions[0]["id"], -32603, "no window"))
    scene.done(call)
    assert call.result["structuredContent"]["given"] == {"a": {"action": "cancel"}}


@LEGACIES
@pytest.mark.parametrize("wanted", ["sampling/createMessage", "roots/list"])
def test_an_error_instead_of_a_sample_or_roots_ends_the_call(kind: str, wanted: str) -> None:
    """L4: no retry; a tool's failure is a result."""
    params = {"messages": [], "maxTokens": 5} if "sampling" in wanted else {}
    scene = one()
    scene.only.script("quiz", rounds({"a": {"method": wanted, "params": params}, "b": elicit("B?")}))
    client = legacy(scene, kind, ALL)
    call = client.tool("quiz")
    scene.until(lambda: len(client.questions) == 2, 10)
    mine = next(one for one in client.questions if one["method"] == wanted)
    client.reply(error(mine["id"], -1, "rejected"))
    scene.done(call)
    assert call.result["isError"] is True
    scene.run(5.0)
    assert len(scene.only.calls) == 1
    assert scene.at_rest() == []


def cancelled_by_us(client: LegacyHttp | LegacyPipe, call: Call) -> list[object]:
    """The questions that the gateway has taken back, by id."""
    notes = [note for _, note in [*client.notes, *call.notes]]
    return [note["params"]["requestId"] for note in notes if note["method"] == "notifications/cancelled"]


@LEGACIES
@TRANSPORTS
def test_a_cancellation_in_the_middle_takes_the_question_back(kind: str, transport: str) -> None:
    """L2.5: and there is nothing to cancel upstream."""
    scene = one(transport)
    scene.only.script("quiz", rounds({"a": elicit("A?")}))
    client = legacy(scene, kind)
    call = client.tool("quiz")
    scene.until(lambda: client.questions, 10)
    client.cancel(call)
    scene.run(1.0)
    assert cancelled_by_us(client, call) == [one["id"] for one in client.questions]
    assert scene.only.cancels == [] and scene.only.closed_streams == []
    for question in client.questions:
        client.reply(result(question["id"], accept("late")))
    scene.run(5.0)
    assert len(scene.only.calls) == 1
    assert scene.at_rest() == []


@LEGACIES
def test_the_rounds_of_a_call_are_bounded(kind: str) -> None:
    """L2.4."""
    scene = one(rounds_per_call=4)
    scene.only.script("endless", lambda job: job.want({"a": elicit("again?")}, "s"))
    client = legacy(scene, kind)
    client.answer_after = 0.0
    call = scene.done(client.tool("endless"))
    assert call.error["data"]["origin"] == "gateway"
    assert len(scene.only.calls) <= 5
    assert scene.at_rest() == []


@LEGACIES
def test_a_state_alone_is_given_back_at_once_and_not_for_ever(kind: str) -> None:
    """L2.4, G13."""
    scene = one(rounds_per_call=6)
    scene.only.script("shed", rounds({}, {}))
    scene.only.script("endless", lambda job: job.want({}, "s"))
    client = legacy(scene, kind)
    call = scene.done(client.tool("shed"))
    assert call.result["structuredContent"]["state"] == f"{STATE}#2"
    lost = scene.done(client.tool("endless"))
    assert lost.error["data"]["origin"] == "gateway"


@LEGACIES
def test_a_client_that_declared_nothing_is_not_asked(kind: str) -> None:
    scene = one()
    scene.only.script("quiz", rounds({"a": elicit("A?")}))
    client = legacy(scene, kind, {})
    call = scene.done(client.tool("quiz"))
    assert client.questions == []
    assert scene.only.calls[0].params["_meta"]["io.modelcontextprotocol/clientCapabilities"] == {}
    assert call.over


def test_what_a_legacy_client_declared_is_declared_on_each_request() -> None:
    """L2.1."""
    scene = one()
    client = scene.legacy(capabilities={"roots": {"listChanged": True}, "sampling": {}, "elicitation": {}})
    scene.done(client.tool("echo"))
    declared = scene.only.calls[0].params["_meta"]["io.modelcontextprotocol/clientCapabilities"]
    assert declared["roots"] == {} and "sampling" in declared and "elicitation" in declared


def test_a_client_that_disconnects_in_the_middle_finds_the_question_again() -> None:
    """L2.6, C32: by GET and Last-Event-ID."""
    scene = one()
    scene.only.script("quiz", rounds({"a": elicit("A?")}))
    client = legacy(scene, "http")
    assert isinstance(client, LegacyHttp)
    call = client.tool("quiz")
    scene.until(lambda: client.questions, 10)
    primed = call.event_ids[0]
    client.vanish(call)
    scene.run(5.0)
    client.questions.clear()
    client.listen(primed, call=call)
    scene.until(lambda: client.questions, 10, "the question again")
    client.reply(result(client.questions[0]["id"], accept("x")))
    scene.until(lambda: call.answer, 10)
    assert call.result["structuredContent"]["given"] == {"a": accept("x")}


@LEGACIES
def test_malformed_questions_of_a_server_fail_the_call(kind: str) -> None:
    wrong: list[Callable[[Job], None]] = [
        lambda job: job.want({"a": 5}, "s"),
        lambda job: job.want({"a": {"params": {}}}, "s"),
        lambda job: job.want({}, None),
        lambda job: job.finish(result(job.id, {"resultType": "input_required", "inputRequests": []})),
        lambda job: job.finish(result(job.id, {"resultType": "something"})),
    ]
    scene = one()
    for number, act in enumerate(wrong):
        scene.only.script(f"wrong{number}", act)
    client = legacy(scene, kind)
    for number in range(len(wrong)):
        call = scene.done(client.tool(f"wrong{number}"))
        assert call.code is not None and call.took < 1.0
    assert scene.at_rest() == []
