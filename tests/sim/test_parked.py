"""A modern client at a legacy server: calls that are parked while the client gathers answers (L1).

Must never: retry in a way that the model client would not notice; every retry here is made by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest

from fuzz.sim.clients import FORM, Call
from fuzz.sim.http_clients import ModernHttp
from fuzz.sim.scene import FAST, Scene
from fuzz.sim.talk import Job, Message, error

LEGACY = ("legacy",)
ALL: Message = {"elicitation": {}, "roots": {}, "sampling": {}}
TRANSPORTS = pytest.mark.parametrize("transport", ["stdio", "http"])
SCHEMA = {"type": "object", "properties": {}}


def question(message: str) -> Message:
    return {"message": message, "requestedSchema": SCHEMA}


def quiz(*batches: int, gap: float = 0.0) -> Callable[[Job], None]:
    """Ask so many questions at once, and when all are answered so many more; tell all answers at the end."""

    def act(job: Job) -> None:
        told: list[str] = []
        left = list(batches)

        def ask(params: Message, got: Callable[[Message], None]) -> None:
            job.ask("elicitation/create", params, got)

        def more() -> None:
            if not left:
                job.say(told=told)
                return
            size = left.pop(0)
            missing = [size]

            def got(reply: Message) -> None:
                told.append(reply["result"]["content"]["answer"] if "result" in reply else "error")
                missing[0] -= 1
                if not missing[0]:
                    more()

            for number in range(size):
                job.later(gap * number, partial(ask, question(f"{len(told)}+{number}"), got))

        more()

    return act


def parked(
    scene: Scene, tool: str, capabilities: Message = FORM, **args: Any
) -> tuple[ModernHttp, Call, dict[str, Message]]:
    """A call whose first round has ended with questions: the client, the call, what is asked by key."""
    client = scene.modern(capabilities=capabilities)
    client.answer_after = None
    call = client.tool(tool, **args)
    scene.until(lambda: call.over, 30, "the first round")
    assert call.result["resultType"] == "input_required", call.answer
    return client, call, call.result["inputRequests"]


def accept(value: str) -> Message:
    return {"action": "accept", "content": {"answer": value}}


def one(transport: str = "stdio", **limits: float) -> Scene:
    bounds = msgspec.structs.replace(FAST, **limits)
    scene = Scene({"one": (transport, LEGACY)}, limits=bounds, options={"one": {"timeout": 10.0}}).start()
    scene.run(1.0)
    return scene


@TRANSPORTS
def test_one_round(transport: str) -> None:
    scene = one(transport)
    scene.only.script("quiz", quiz(1))
    client, call, asked = parked(scene, "quiz")
    [(key, request)] = asked.items()
    assert request["method"] == "elicitation/create" and request["params"]["message"] == "0+0"
    assert "jsonrpc" not in request and "id" not in request
    assert scene.world.snapshot().parked == 1
    scene.run(60.0)  # no clock runs meanwhile
    done = scene.done(client.retry(call, {key: accept("blue")}))
    assert done.result["resultType"] == "complete"
    assert done.result["structuredContent"] == {"told": ["blue"]}
    assert done.id != call.id
    assert len(scene.only.calls) == 1, "the call is resumed, not repeated"
    assert scene.world.snapshot().parked == 0
    assert scene.at_rest() == []


@TRANSPORTS
@pytest.mark.parametrize("gap", [0.0, 0.004])
def test_several_questions_at_once_are_one_round(transport: str, gap: float) -> None:
    """L1.4: a small wait gathers what comes together."""
    scene = one(transport)
    scene.only.script("quiz", quiz(3, gap=gap))
    client, call, asked = parked(scene, "quiz")
    assert sorted(one["params"]["message"] for one in asked.values()) == ["0+0", "0+1", "0+2"]
    answers = {key: accept(one["params"]["message"]) for key, one in asked.items()}
    done = scene.done(client.retry(call, answers))
    assert sorted(done.result["structuredContent"]["told"]) == ["0+0", "0+1", "0+2"]


@TRANSPORTS
def test_several_rounds(transport: str) -> None:
    scene = one(transport)
    scene.only.script("quiz", quiz(1, 2, 1))
    client, call, asked = parked(scene, "quiz")
    states = []
    for size in (1, 2, 1):
        assert len(asked) == size
        states.append(call.result["requestState"])
        call = client.retry(call, {key: accept("yes") for key in asked})
        scene.until(lambda call=call: call.over, 10)  # type: ignore[misc]
        asked = call.result.get("inputRequests", {})
    assert call.result["structuredContent"]["told"] == ["yes"] * 4
    assert len(set(states)) == 3, "each state is good for one retry"
    assert len(scene.only.calls) == 1


@TRANSPORTS
def test_a_question_that_comes_after_the_round_goes_into_the_next_one(transport: str) -> None:
    scene = one(transport)
    scene.only.script("quiz", quiz(2, gap=0.5))
    client, call, asked = parked(scene, "quiz")
    assert len(asked) == 1
    scene.run(1.0)
    again = client.retry(call, {key: accept("first") for key in asked})
    scene.until(lambda: again.over, 10)
    [(key, request)] = again.result["inputRequests"].items()
    assert request["params"]["message"] == "0+1" and key not in asked
    done = scene.done(client.retry(again, {key: accept("second")}))
    assert done.result["structuredContent"]["told"] == ["first", "second"]


def test_missing_answers_are_asked_for_again_and_the_others_kept() -> None:
    """G10."""
    scene = one()
    scene.only.script("quiz", quiz(3))
    client, call, asked = parked(scene, "quiz")
    keys = list(asked)
    again = client.retry(call, {keys[0]: accept("a"), "nobody's": accept("x")})
    scene.until(lambda: again.over, 10)
    assert set(again.result["inputRequests"]) == set(keys[1:])
    assert scene.only.replies == [], "the server hears nothing before all is there"
    last = client.retry(again, {keys[1]: accept("b"), keys[2]: accept("c")})
    assert sorted(scene.done(last).result["structuredContent"]["told"]) == ["a", "b", "c"]


def test_what_is_kept_for_missing_answers_is_bounded() -> None:
    """A refused retry changes nothing: its state stays good."""
    scene = one(calls_bytes=300_000, unread_free_bytes=1000)
    scene.only.script("quiz", quiz(3))
    client, call, asked = parked(scene, "quiz")
    first, second, third = asked
    again = client.retry(call, {first: accept("a" * 150_000)})
    scene.until(lambda: again.over, 10)
    refused = scene.done(client.retry(again, {second: accept("b" * 150_000)}))
    assert refused.error["code"] == -32603 and refused.error["message"].startswith("too much")
    shorter = client.retry(again, {first: accept("a"), second: accept("b" * 150_000)})
    scene.until(lambda: shorter.over, 10)
    done = scene.done(client.retry(shorter, {third: accept("c")}))
    assert [len(told) for told in done.result["structuredContent"]["told"]] == [1, 150_000, 1]


@pytest.mark.parametrize("fails", [False, True])
def test_outcomes_that_nobody_fetches_are_bounded(fails: bool) -> None:
    def act(job: Job) -> None:
        big = "x" * 150_000
        job.ask("elicitation/create", question("?"))
        refuse = lambda: job.finish(error(job.id, -1, "no", big))  # noqa: E731
        job.later(1.0, refuse if fails else lambda: job.say(told=[big]))

    scene = one("http", calls_bytes=440_000, unread_free_bytes=1000)
    scene.only.script("hasty", act)
    for _ in range(2):  # nothing of it is left
        waiting = [parked(scene, "hasty") for _ in range(3)]
        scene.run(5.0)
        retries = [client.retry(call, {key: accept("") for key in asked}) for client, call, asked in waiting]
        scene.done(*retries)
        good = -1 if fails else None
        assert [retry.code for retry in retries] == [good, good, -32603]


def test_a_state_is_used_up_also_by_a_retry_with_missing_answers() -> None:
    """L1.6."""
    scene = one()
    scene.only.script("quiz", quiz(2))
    client, call, asked = parked(scene, "quiz")
    first, second = asked
    again = client.retry(call, {first: accept("a")})
    scene.until(lambda: again.over, 10)
    replayed = scene.done(client.retry(call, {first: accept("x"), second: accept("x")}))
    assert replayed.error["code"] == -32602
    assert scene.only.replies == []
    done = scene.done(client.retry(again, {second: accept("b")}))
    assert sorted(done.result["structuredContent"]["told"]) == ["a", "b"]


@pytest.mark.parametrize("answers", [None, {}], ids=["without", "empty"])
def test_a_retry_without_answers_is_asked_again(answers: Message | None) -> None:
    scene = one()
    scene.only.script("quiz", quiz(1))
    client, call, asked = parked(scene, "quiz")
    again = client.retry(call, answers)
    scene.until(lambda: again.over, 10)
    assert set(again.result["inputRequests"]) == set(asked)


@pytest.mark.parametrize("answers", [[], "x", {"k": None}, {"k": 5}, 7])
def test_malformed_answers_are_refused_and_nothing_is_lost(answers: object) -> None:
    scene = one()
    scene.only.script("quiz", quiz(1))
    client, call, asked = parked(scene, "quiz")
    wrong = client.retry(call, answers)  # type: ignore[arg-type]
    scene.until(lambda: wrong.over, 10)
    assert wrong.error["code"] == -32602
    done = scene.done(client.retry(call, {key: accept("ok") for key in asked}))
    assert done.result["structuredContent"]["told"] == ["ok"]


@TRANSPORTS
def test_a_withdrawn_question_needs_no_answer(transport: str) -> None:
    """L1.8: its answer, should it come, is ignored."""

    def act(job: Job) -> None:
        job.ask(
            "elicitation/create", question("kept"), lambda reply: job.say(told=[reply["result"]["action"]])
        )
        number = job.ask("elicitation/create", question("withdrawn"), lambda reply: job.say(told=["WRONG"]))
        job.later(1.0, lambda: job.withdraw(number))

    scene = one(transport)
    scene.only.script("doubt", act)
    client, call, asked = parked(scene, "doubt")
    assert len(asked) == 2
    scene.run(2.0)
    keys = {request["params"]["message"]: key for key, request in asked.items()}
    done = scene.done(client.retry(call, {keys["kept"]: accept("k"), keys["withdrawn"]: accept("w")}))
    assert done.result["structuredContent"]["told"] == ["accept"]
    assert len(scene.only.replies) == 1


def test_when_all_questions_are_withdrawn_the_call_just_goes_on() -> None:
    def act(job: Job) -> None:
        number = job.ask("elicitation/create", question("?"))
        job.later(1.0, lambda: job.withdraw(number))
        job.later(4.0, lambda: job.say(told=[]))

    scene = one()
    scene.only.script("doubt", act)
    client, call, asked = parked(scene, "doubt")
    scene.run(2.0)
    done = scene.done(client.retry(call, {key: accept("late") for key in asked}))
    assert done.result["structuredContent"]["told"] == []
    assert scene.only.replies == []


@TRANSPORTS
@pytest.mark.parametrize("fails", [False, True], ids=["completes", "fails"])
def test_a_server_that_finishes_while_the_call_is_parked(transport: str, fails: bool) -> None:
    """L1.7: the outcome waits for the retry; the answers are of no use any more."""

    def act(job: Job) -> None:
        job.ask("elicitation/create", question("?"))
        told = {"jsonrpc": "2.0", "id": job.id, "error": {"code": 77, "message": "no"}}
        job.later(1.0, lambda: job.finish(told) if fails else job.say(told=["alone"]))

    scene = one(transport)
    scene.only.script("hasty", act)
    client, call, asked = parked(scene, "hasty")
    scene.run(5.0)
    done = scene.done(client.retry(call, {key: accept("late") for key in asked}))
    if fails:
        assert done.error["code"] == 77
    else:
        assert done.result["structuredContent"]["told"] == ["alone"]
    assert all("error" in reply for _, reply in scene.only.replies), "an answer that is of no use was sent"
    assert scene.world.snapshot().parked == 0


@TRANSPORTS
def test_a_client_that_never_comes_back(transport: str) -> None:
    """L1.9: at the end of its time each question gets its refusal, then the call is cancelled."""

    def act(job: Job) -> None:
        job.ask("elicitation/create", question("?"), lambda reply: None)
        job.ask("roots/list", {}, lambda reply: None)
        job.ask("sampling/createMessage", {"messages": [], "maxTokens": 5}, lambda reply: None)

    scene = one(transport, park_ttl_s=30.0)
    scene.only.script("curious", act)
    client, call, asked = parked(scene, "curious", ALL)
    assert len(asked) == 3
    scene.run(25.0)
    assert scene.only.replies == [] and scene.only.cancels == []
    scene.run(10.0)
    replies = [message for _, message in scene.only.replies]
    assert replies[0]["result"] == {"action": "cancel"}
    assert [reply["error"]["code"] for reply in replies[1:]] == [-32603, -1]
    assert [job for _, _, job in scene.only.cancels] == [scene.only.calls[0]]
    last = [message.get("method", "reply") for _, message in scene.only.heard][-4:]
    assert last == ["reply", "reply", "reply", "notifications/cancelled"]
    scene.run(1.0)
    assert scene.world.snapshot().parked == 0 and scene.at_rest() == []
    late = scene.done(client.retry(call, {key: accept("late") for key in asked}))
    assert late.error["code"] == -32602
    assert len(scene.only.calls) == 1, "never silently run again"


def test_a_state_is_good_for_one_retry() -> None:
    """L1.6: a second use would answer twice."""
    scene = one()
    scene.only.script("quiz", quiz(1, 1))
    client, call, asked = parked(scene, "quiz")
    answers = {key: accept("a") for key in asked}
    again = client.retry(call, answers)
    scene.until(lambda: again.over, 10)
    replayed = scene.done(client.retry(call, answers))
    assert replayed.error["code"] == -32602
    assert len(scene.only.replies) == 1
    keys = again.result["inputRequests"]
    done = scene.done(client.retry(again, {key: accept("b") for key in keys}))
    assert done.result["structuredContent"]["told"] == ["a", "b"]
    replayed = scene.done(client.retry(again, {key: accept("b") for key in keys}))
    assert replayed.error["code"] == -32602
    assert len(scene.only.calls) == 1


def test_two_retries_at_one_moment_are_one_retry_and_one_refusal() -> None:
    scene = one()
    scene.only.script("quiz", quiz(1))
    client, call, asked = parked(scene, "quiz")
    answers = {key: accept("a") for key in asked}
    first, second = client.retry(call, answers), client.retry(call, answers)
    scene.until(lambda: first.over and second.over, 10)
    assert sorted([first.code or 0, second.code or 0]) == [-32602, 0]
    assert len(scene.only.replies) == 1


def flipped(state: str) -> list[str]:
    """A sealed state with one character of each of some places changed; and cut, and longer."""
    made = []
    for place in (0, 1, 2, 5, len(state) // 2, len(state) - 2):
        other = "A" if state[place] != "A" else "B"
        made.append(state[:place] + other + state[place + 1 :])
    return [*made, state[:-1], state[:10], state + "A", "", "x", state * 2]


def test_a_state_that_was_tampered_with_is_refused() -> None:
    scene = one()
    scene.only.script("quiz", quiz(1))
    client, call, asked = parked(scene, "quiz")
    answers = {key: accept("a") for key in asked}
    for state in flipped(call.result["requestState"]):
        wrong = client.retry(call, answers, state=state)
        scene.until(lambda wrong=wrong: wrong.over, 10)  # type: ignore[misc]
        assert wrong.error["code"] == -32602, state
    odd: tuple[Any, ...] = (7, None, {}, ["x"])
    for state in odd:
        params = {name: one for name, one in call.params.items() if name != "_meta"}
        wrong = client.request(call.method, {**params, "inputResponses": answers, "requestState": state})
        scene.until(lambda wrong=wrong: wrong.over, 10)  # type: ignore[misc]
        assert wrong.error["code"] == -32602, state
    assert scene.only.replies == [] and len(scene.only.calls) == 1
    done = scene.done(client.retry(call, answers))
    assert done.result["structuredContent"]["told"] == ["a"]


@pytest.mark.parametrize("changed", [{"name": "echo"}, {"arguments": {"nonce": "other"}}, {"arguments": {}}])
def test_a_state_belongs_to_its_request(changed: Message) -> None:
    """G7: the digest of what was asked."""
    scene = one()
    scene.only.script("quiz", quiz(1))
    client, call, asked = parked(scene, "quiz")
    wrong = client.retry(call, {key: accept("a") for key in asked}, **changed)
    scene.until(lambda: wrong.over, 10)
    assert wrong.error["code"] == -32602
    assert scene.only.replies == [] and len(scene.only.calls) == 1


def test_a_state_belongs_to_its_principal() -> None:
    scene = one()
    scene.only.script("quiz", quiz(1))
    client, call, asked = parked(scene, "quiz")
    thief = scene.modern(capabilities=FORM, kind="unix")  # the same user's socket: another principal
    thief.answer_after = None
    params = {name: one for name, one in call.params.items() if name != "_meta"}
    params |= {
        "requestState": call.result["requestState"],
        "inputResponses": {key: accept("x") for key in asked},
    }
    stolen = thief.request(call.method, params)
    scene.until(lambda: stolen.over, 10)
    assert stolen.error["code"] == -32602
    assert scene.only.replies == []


def test_another_client_of_the_same_principal_may_come_back_with_the_state() -> None:
    """Nothing in between is bound to a connection (C26)."""
    scene = one()
    scene.only.script("quiz", quiz(1))
    client, call, asked = parked(scene, "quiz")
    client.leave()
    client.dead = False
    done = scene.done(client.retry(call, {key: accept("a") for key in asked}))
    assert done.result["structuredContent"]["told"] == ["a"]


def test_after_a_restart_the_client_has_to_start_over() -> None:
    """L1.10: another gateway, with the same config."""
    first = one()
    first.only.script("quiz", quiz(1))
    client, call, asked = parked(first, "quiz")
    second = Scene({"one": ("stdio", LEGACY)}, seed=2).start()
    second.only.script("quiz", quiz(1))
    other = second.modern(capabilities=FORM)
    other.answer_after = None
    params = {name: one for name, one in call.params.items() if name != "_meta"}
    params |= {
        "requestState": call.result["requestState"],
        "inputResponses": {key: accept("x") for key in asked},
    }
    late = other.request(call.method, params)
    second.until(lambda: late.over, 10)
    assert late.error["code"] == -32602 and "start" in late.error["message"]
    assert second.only.calls == []


@TRANSPORTS
def test_a_server_that_dies_while_the_call_is_parked_fails_it_at_the_retry(transport: str) -> None:
    scene = one(transport)
    scene.only.script("quiz", quiz(1))
    client, call, asked = parked(scene, "quiz")
    scene.only.crash()
    scene.run(10.0)
    done = scene.done(client.retry(call, {key: accept("a") for key in asked}))
    assert done.error["data"]["origin"] == "gateway"
    assert len(scene.only.calls) == 1
    assert scene.world.snapshot().parked == 0


def test_a_resumed_call_can_be_cancelled() -> None:
    def act(job: Job) -> None:
        job.ask("elicitation/create", question("?"), lambda reply: None)

    scene = one()
    scene.only.script("mute", act)
    client, call, asked = parked(scene, "mute")
    again = client.retry(call, {key: accept("a") for key in asked})
    scene.run(1.0)
    client.cancel(again)
    scene.run(1.0)
    assert [job for _, _, job in scene.only.cancels] == [scene.only.calls[0]]
    assert scene.at_rest() == []


def test_progress_goes_on_with_the_token_of_the_retry() -> None:
    """L1.5, L1.11: and what came meanwhile is told by its last word."""

    def act(job: Job) -> None:
        job.progress(1)
        job.later(1.0, lambda: job.progress(2))
        job.later(2.0, lambda: job.progress(3))

        def got(reply: Message) -> None:
            job.progress(4)
            job.say()

        job.ask("elicitation/create", question("?"), got)

    scene = one()
    scene.only.script("steps", act)
    client, call, asked = parked(scene, "steps", token="first")
    scene.run(5.0)
    again = client.request(
        call.method,
        {
            **{name: one for name, one in call.params.items() if name != "_meta"},
            "requestState": call.result["requestState"],
            "inputResponses": {key: accept("a") for key in asked},
        },
        meta={"progressToken": "second"},
    )
    scene.done(again)
    told = [(note["params"]["progressToken"], note["params"]["progress"]) for _, note in again.notes]
    assert told == [("second", 3), ("second", 4)]
    assert {note["params"]["progressToken"] for _, note in call.notes} <= {"first"}


def test_parked_calls_are_bounded_per_principal() -> None:
    scene = one("http", parked_calls_per_principal=3)
    scene.only.script("quiz", quiz(1))
    kept = [parked(scene, "quiz") for _ in range(3)]
    client = scene.modern(capabilities=FORM)
    client.answer_after = None
    over = client.tool("quiz")
    scene.until(lambda: over.over, 10)
    assert over.error["data"]["origin"] == "gateway"
    scene.run(1.0)
    assert [job for _, _, job in scene.only.cancels] == [scene.only.calls[-1]]
    for mine, call, asked in kept:
        done = scene.done(mine.retry(call, {key: accept("a") for key in asked}))
        assert done.result["structuredContent"]["told"] == ["a"]


def test_the_oldest_parked_call_does_not_give_way_in_vain() -> None:
    scene = one(parked_calls_per_server=3, parked_calls_per_principal=2)
    scene.only.script("ask", lambda job: job.ask("elicitation/create", question("?"), lambda _: job.say()))
    waiting = [parked(scene, "ask") for _ in range(3)]
    retries = [client.retry(call, {key: accept("") for key in asked}) for client, call, asked in waiting]
    assert [scene.done(retry).code for retry in retries] == [-32602, None, None]


def test_no_principal_has_every_place_where_parked_calls_hold_a_session() -> None:
    scene = Scene({"one": ("stdio", LEGACY)}, listeners=("http", "unix"))
    scene.only.script("doubt", lambda job: job.ask("elicitation/create", question("?"), lambda _: job.say()))
    scene.start()
    scene.run(1.0)
    greedy = [parked(scene, "doubt") for _ in range(6)]
    other = scene.modern_pipe(listener="unix", capabilities=FORM)
    assert scene.done(other.tool("doubt")).code is None
    retries = [client.retry(call, {key: accept("") for key in asked}) for client, call, asked in greedy]
    scene.done(*retries)
    assert [one.code for one in retries] == [-32602] * 3 + [None] * 3


@pytest.mark.parametrize("method", ["prompts/get", "resources/read"])
def test_prompts_and_resources_are_parked_likewise(method: str) -> None:
    """L1.12."""

    def act(job: Job) -> None:
        def got(reply: Message) -> None:
            what = {"type": "text", "text": reply["result"]["content"]["answer"]}
            if method == "prompts/get":
                job.answer({"messages": [{"role": "user", "content": what}]})
            else:
                job.answer({"contents": [{"uri": job.params["uri"], "text": what["text"]}]})

        job.ask("elicitation/create", question("?"), got)

    scene = Scene({"one": ("stdio", LEGACY)})
    scene.only.resources = ("res://a",)
    if method == "prompts/get":
        scene.only.script("res://a", act, prompt=True)
    else:
        scene.only.reader = act
    scene.start()
    client = scene.modern(capabilities=FORM)
    client.answer_after = None
    call = client.request(method, {"name": "res://a"} if method == "prompts/get" else {"uri": "res://a"})
    scene.until(lambda: call.over, 10)
    asked = call.result["inputRequests"]
    done = scene.done(client.retry(call, {key: accept("red") for key in asked}))
    assert "red" in str(done.result)


def test_a_question_for_what_was_not_declared_never_reaches_the_client() -> None:
    """L0.2, L1.14."""

    def act(job: Job) -> None:
        job.ask("roots/list", {}, lambda reply: job.say(told=["error" in reply]))

    scene = one()
    scene.only.script("nosy", act)
    call = scene.done(scene.modern(capabilities=FORM).tool("nosy"))
    assert call.result["structuredContent"]["told"] == [True]


def test_a_question_outside_any_call_is_refused() -> None:
    """L1.13, I2."""
    scene = one()
    scene.done(scene.modern(capabilities=FORM).tool("echo"))
    for talk in scene.only.talks:
        talk.ask(None, "elicitation/create", question("?"), talk.send)
    scene.run(2.0)
    assert scene.only.replies and all("error" in reply for _, reply in scene.only.replies)


def test_pings_are_answered_while_a_call_is_parked() -> None:
    """L10."""
    scene = one()
    scene.only.script("quiz", quiz(1))
    parked(scene, "quiz")
    talk = scene.only.calls[0].talk
    talk.ask(None, "ping", {}, talk.send)
    scene.run(0.5)
    assert [reply["result"] for _, reply in scene.only.replies] == [{}]
