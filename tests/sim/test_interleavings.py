"""Rounds, answers, retries, replays, cancellations and deaths in any order, through the whole gateway.

Clients of both eras call tools of servers of both eras that ask and ask again. In the end each request has
exactly one answer, nothing is parked, and no answer of one client has reached a call of another.
Must never: be lenient about who answered: every answer carries the nonce of the call it is meant for.
"""

from __future__ import annotations

import random

import msgspec
import pytest

from fuzz.sim.checkers import Checkers
from fuzz.sim.clients import FORM, Call, LegacyPipe
from fuzz.sim.http_clients import LegacyHttp, ModernHttp
from fuzz.sim.scene import FAST, Scene
from fuzz.sim.streams import Faults
from fuzz.sim.talk import Job, Message, result

ERAS = (("legacy",), ("modern",), ("legacy", "modern"))
LIMITS = msgspec.structs.replace(
    FAST,
    park_ttl_s=20.0,
    lease_wait_s=10.0,
    call_ceiling_s=90.0,
    parked_calls_per_principal=6,
    restart_last_s=5.0,
    rounds_per_call=8,
)
AnyClient = LegacyHttp | ModernHttp | LegacyPipe


def accept(nonce: str) -> Message:
    return {"action": "accept", "content": {"answer": nonce}}


def elicit(nonce: str) -> Message:
    return {"message": nonce, "requestedSchema": {"type": "object", "properties": {}}}


class Quiz:
    """A tool that asks so many questions in so many rounds, and keeps what it was told."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.told: list[tuple[str, str]] = []  # (nonce of the call, nonce in the answer)

    def __call__(self, job: Job) -> None:
        rounds = job.args["rounds"]
        if job.talk.modern:
            self.modern(job, rounds)
        else:
            self.legacy(job, rounds)

    def heard(self, job: Job, reply: Message) -> None:
        answer = (reply.get("content") or {}).get("answer")
        if answer is not None:
            self.told.append((job.nonce, answer))

    def modern(self, job: Job, rounds: int) -> None:
        done = int(str(job.params.get("requestState", "#0")).split("#")[1])
        for reply in (job.params.get("inputResponses") or {}).values():
            self.heard(job, reply)
        if done < rounds:
            asks = {
                f"q{number}": {
                    "method": "elicitation/create",
                    "params": {"mode": "form", **elicit(job.nonce)},
                }
                for number in range(self.draw.randint(1, 2))
            }
            job.want(asks, f"{job.nonce}#{done + 1}")
        else:
            job.say()

    def legacy(self, job: Job, rounds: int) -> None:
        if not rounds or "elicitation" not in job.talk.declared:
            job.later(self.draw.choice((0.0, 0.5)), job.say)
            return
        count = self.draw.randint(1, 2)
        left = [count]

        def got(reply: Message) -> None:
            self.heard(job, reply.get("result") or {})
            left[0] -= 1
            if not left[0] and not job.cancelled and not job.talk.over and not job.done:
                self.legacy(job, rounds - 1)

        for _ in range(count):
            number = job.ask("elicitation/create", elicit(job.nonce), got)
            if self.draw.random() < 0.1:
                job.later(self.draw.uniform(0.1, 5.0), lambda number=number: self.give_up(job, number, got))  # type: ignore[misc]
        if self.draw.random() < 0.1:
            job.later(self.draw.uniform(0.1, 15.0), lambda: None if job.done else job.say())

    def give_up(self, job: Job, number: int, got: object) -> None:
        if not job.done and number in job.talk._asked:
            del job.talk._asked[number]
            job.withdraw(number)
            got({})  # type: ignore[operator]


class Play:
    """One seed: who there is, and what everybody does next."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        servers: dict[str, tuple[str, tuple[str, ...]]] = {
            f"s{number}": (self.draw.choice(("stdio", "http")), self.draw.choice(ERAS))
            for number in range(self.draw.randint(1, 2))
        }
        self.scene = Scene(
            servers,
            seed=seed,
            limits=LIMITS,
            listeners=("http", "stdio"),
            options={name: {"timeout": 12.0} for name in servers},
            prefix="always",
        )
        self.quiz = Quiz(self.draw)
        for server in self.scene.servers.values():
            server.script("quiz", self.quiz)
        self.scene.net.faults = Faults(delay=self.draw.choice(((0.0, 0.0), (0.001, 0.05), (0.01, 0.4))))
        self.checkers = Checkers(self.scene)
        self.checkers.answers_too = False
        self.scene.start()
        self.clients: list[AnyClient] = []
        self.rounds: list[Call] = []  # rounds of modern clients that ended with questions
        self.given_up: dict[str, None] = {}

    def arrive(self) -> None:
        kinds = [self.draw.choice(("legacy", "modern")) for _ in range(self.draw.randint(2, 4))]
        for kind in kinds:
            capabilities = FORM if self.draw.random() < 0.85 else {}
            made = (
                self.scene.legacy(capabilities=capabilities)
                if kind == "legacy"
                else self.scene.modern(capabilities=capabilities)
            )
            self.clients.append(made)
        if self.draw.random() < 0.4:
            self.clients.append(self.scene.legacy_pipe(capabilities=FORM))
        for client in self.clients:
            client.answer_after = None
            client.on_answer = self.answered

    def answered(self, call: Call) -> None:
        told = call.answer or {}
        if (told.get("result") or {}).get("resultType") == "input_required":
            self.rounds.append(call)

    # -- what may happen

    def call(self) -> None:
        client = self.draw.choice(self.clients)
        client.prefix = f"{self.draw.choice(sorted(self.scene.servers))}__"
        id = self.draw.choice((None, None, 1, "a")) if not isinstance(client, LegacyPipe) else None
        client.tool("quiz", id=id, token=self.draw.choice((None, 3)), rounds=self.draw.randint(0, 3))

    def answer(self) -> None:
        """A legacy client answers one of its questions, perhaps twice."""
        asked = [client for client in self.clients if not client.modern and client.questions]
        if asked:
            client = self.draw.choice(asked)
            question = self.draw.choice(client.questions[-6:])
            client.reply(result(question["id"], accept(question["params"]["message"])))

    def retry(self) -> None:
        """A modern client goes on with a round, a fresh one or one that is over, with some of the answers."""
        if not self.rounds:
            return
        call = self.draw.choice(self.rounds[-5:])
        if call.nonce in self.given_up:
            return  # a state that its server holds may be used again; then nothing is cancelled
        wanted = call.answer["result"].get("inputRequests", {})  # type: ignore[index]
        share = self.draw.choice((1.0, 1.0, 1.0, 0.5, 0.0))
        answers = {
            key: accept(one["params"]["message"]) for key, one in wanted.items() if self.draw.random() < share
        }
        changed = {"arguments": {**call.params["arguments"], "rounds": 9}} if self.draw.random() < 0.1 else {}
        made = call.client.retry(call, answers, **changed)
        made.nonce = call.nonce

    def give_up(self) -> None:
        open_calls = [call for client in self.clients for call in client.calls[-8:] if not call.over]
        open_calls = [call for call in open_calls if call.method == "tools/call" and not call.cancelled]
        if open_calls:
            call = self.draw.choice(open_calls)
            client = call.client
            if sum(1 for one in open_calls if one.nonce == call.nonce) > 1:
                return
            self.given_up[call.nonce] = None
            if isinstance(client, LegacyHttp) and (self.draw.random() < 0.5 or call.id in (1, "a")):
                client.vanish(call)
            else:
                client.cancel(call)  # type: ignore[attr-defined]

    def crash(self) -> None:
        self.scene.servers[self.draw.choice(sorted(self.scene.servers))].crash()

    def pause(self) -> None:
        self.scene.run(self.draw.choice((0.01, 0.3, 2.0, 7.0)))

    def go(self) -> None:
        self.arrive()
        acts = [self.call] * 5 + [self.answer] * 5 + [self.retry] * 5 + [self.give_up] + [self.pause] * 4
        for _ in range(140):
            if self.draw.random() < 0.01:
                self.crash()
            self.draw.choice(acts)()
            self.scene.run(self.draw.choice((0.0, 0.02, 0.2)))


def verdict(play: Play) -> None:
    scene = play.scene
    scene.run(LIMITS.call_ceiling_s + LIMITS.park_ttl_s + 20.0)
    play.checkers.finish()
    for nonce, answer in play.quiz.told:
        assert answer == nonce, "an answer has reached another call"
    for client in scene.clients:
        for call in client.calls:
            assert call.answers <= 1
            assert call.over or call.cancelled, f"{call.method} {call.id} of {client.name} hangs"
    assert scene.world.snapshot().parked == 0, "parked for ever"
    assert scene.at_rest() == []


@pytest.mark.parametrize("seed", range(20))
def test_every_request_has_one_answer_and_every_answer_its_owner(seed: int) -> None:
    play = Play(seed)
    play.go()
    verdict(play)


def test_the_seeds_reach_what_they_are_for() -> None:
    """Answers that arrive, rounds that end, retries that are refused, calls that are parked."""
    told = ends = refused = parked = 0
    for seed in range(8):
        play = Play(seed)
        play.go()
        told += len(play.quiz.told)
        ends += len(play.rounds)
        calls = [call for client in play.clients for call in client.calls if "requestState" in call.params]
        refused += sum(1 for call in calls if call.code == -32602)
        parked += play.scene.world.snapshot().counters.get("parked", 0)
    assert told > 30 and ends > 30 and refused > 5 and parked > 10
