"""Servers that talk nonsense about tasks: whatever they say, nothing breaks, and each request is answered."""

from __future__ import annotations

import random
from typing import Any

import pytest

from fuzz.sim.clients import FORM, Call
from fuzz.sim.http_clients import ModernHttp
from fuzz.sim.scene import Scene
from fuzz.sim.talk import MODERN, Job, Message, Talk, error, note, result
from tests.sim.legacy_tasks_model import QUESTION, RELATED, LegacyTaskServer, LegacyTaskTalk
from tests.sim.tasks_model import STAMP, WITH_TASKS, TaskServer, TaskTalk, scene_of
from tests.wiretap.hops import Verdicts

ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    10**30,
    10**399,
    "",
    "x",
    "\ud7ff",
    "y" * 5000,
    [],
    {},
    [{}],
    {"a": 1},
]
STATUSES = ["working", "input_required", "completed", "failed", "cancelled", "strange", None, 7]


class Nonsense:
    """Draws what such a server says."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.ids = ["t1", "t2", "t3"]

    def task(self) -> Any:
        if self.draw.random() < 0.1:
            return self.draw.choice(ODD)
        told: Message = {
            "taskId": self.draw.choice([*self.ids, *self.ids, 5, None, ""]),
            "status": self.draw.choice(STATUSES),
            "createdAt": self.draw.choice([STAMP, STAMP, 5, None]),
            "lastUpdatedAt": self.draw.choice([STAMP, STAMP, {}]),
        }
        for name in ("ttl", "pollInterval", "ttlMs", "pollIntervalMs", "statusMessage", "result", "error"):
            if self.draw.random() < 0.4:
                told[name] = self.draw.choice(ODD)
        if self.draw.random() < 0.5:
            asked = {
                "method": self.draw.choice(["elicitation/create", "roots/list", "x", 5]),
                "params": QUESTION,
            }
            told["inputRequests"] = {"k": self.draw.choice([asked, asked, *ODD])}
        return told

    def value(self) -> Any:
        return self.draw.choice(
            [self.task(), {"task": self.task()}, {"content": []}, {}, {"resultType": "task"}]
        )

    def params(self) -> Any:
        meta = {RELATED: self.draw.choice([{"taskId": self.draw.choice(self.ids)}, *ODD])}
        return {**QUESTION, "_meta": self.draw.choice([meta, meta, {}])}


class OddTalk(Talk):
    """Answers whatever is about tasks at random, and speaks unasked."""

    def _answer(self, job: Job) -> None:
        server: Any = self.server
        if job.method == "tools/call" or job.method.startswith("tasks/"):
            self.babble(job)
            job.later(server.nonsense.draw.choice([0.0, 0.5, 5.0]), lambda: self.reply_to(job))
        else:
            super()._answer(job)

    def reply_to(self, job: Job) -> None:
        nonsense = self.server.nonsense  # type: ignore[attr-defined]
        act = nonsense.draw.random()
        if act < 0.1:
            return  # nothing at all
        if act < 0.25:
            job.finish(error(job.id, nonsense.draw.choice([-32602, -32601, -32603, -5]), "no"))
            return
        value = nonsense.value()
        if isinstance(value, dict) and self.modern and nonsense.draw.random() < 0.8:
            kind = "task" if job.method == "tools/call" else "complete"
            value = {"resultType": kind, **value}
        job.finish(result(job.id, value))

    def babble(self, job: Job) -> None:
        nonsense = self.server.nonsense  # type: ignore[attr-defined]
        for out in (job.out, self.send):
            act = nonsense.draw.randrange(6)
            told = nonsense.task()
            params = told if isinstance(told, dict) else {}
            if act == 0:
                out(note("notifications/tasks/status", params))
            elif act == 1 and not self.modern:
                self.ask(job, "elicitation/create", nonsense.params(), out, lambda message: None)
            elif act == 2:
                number = nonsense.draw.choice([1, 2, "x", None])
                out(note("notifications/cancelled", {"requestId": number}))
            elif act == 3:
                token = nonsense.draw.choice([job.token, job.id, 1, "x"])
                out(note("notifications/progress", {"progressToken": token, "progress": 1}))
            elif act == 4:
                out(note("notifications/tasks", params))


class OddLegacy(LegacyTaskServer):
    nonsense: Nonsense

    def make_talk(self, send: Any, **options: Any) -> Talk:
        return type("Odd", (OddTalk, LegacyTaskTalk), {"_answer": OddTalk._answer})(self, send, **options)  # type: ignore[no-any-return]


class OddModern(TaskServer):
    nonsense: Nonsense

    def make_talk(self, send: Any, **options: Any) -> Talk:
        return type("Odd", (OddTalk, TaskTalk), {"_answer": OddTalk._answer})(self, send, **options)  # type: ignore[no-any-return]


class Taker(ModernHttp):
    """Names the task in a header (C15); no more is checked of what it gets."""

    def send_request(self, call: Call, message: Message) -> None:
        if not call.method.startswith("tasks/"):
            super().send_request(call, message)
            return
        name = ("Mcp-Name", str(call.params["taskId"]))
        headers = [("MCP-Protocol-Version", MODERN), ("Mcp-Method", call.method), name]
        self.post(message, headers, call)


def play(seed: int, era: str, transport: str) -> tuple[Scene, list[Call]]:
    kind = OddLegacy if era == "legacy" else OddModern
    scene = scene_of(
        {"one": (transport, (era,))}, kind, seed=seed, legacy_tasks=True, options={"one": {"timeout": 8.0}}
    )
    server: Any = scene.only
    server.nonsense = nonsense = Nonsense(seed)
    scene.start().run(1.0)
    takes = Taker(scene.world, "taker", capabilities={**WITH_TASKS, **FORM})
    scene.clients.append(takes)
    clients: list[Any] = [takes, scene.modern(capabilities=FORM), scene.legacy(capabilities=FORM)]
    clients.append(scene.legacy(capabilities=FORM))
    calls: list[Call] = []
    ids: list[tuple[Any, str]] = []

    def seen(call: Call) -> None:
        value = (call.answer or {}).get("result")
        told = value.get("task", value) if isinstance(value, dict) else None
        if isinstance(told, dict) and isinstance(told.get("taskId"), str) and call.method == "tools/call":
            ids.append((call.client, told["taskId"]))

    for client in clients:
        client.on_answer = seen
        client._check_nonce = lambda call, message: None  # there are none
        client._own_question = lambda params: None
    for _ in range(60):
        client = nonsense.draw.choice(clients)
        if ids and nonsense.draw.random() < 0.5:
            client, id = nonsense.draw.choice(ids)
            methods = ["tasks/get", "tasks/cancel", "tasks/update" if client is takes else "tasks/result"]
            method = nonsense.draw.choice(methods)
            params = {
                "taskId": id,
                "inputResponses": {"k": nonsense.draw.choice(ODD), "1": {"action": "decline"}},
            }
            calls.append(client.request(method, params))
        elif ids and client is takes and nonsense.draw.random() < 0.2:
            wanted = {"notifications": {"taskIds": [id for _, id in ids[:3]]}}
            stream = takes.request("subscriptions/listen", wanted)
            scene.run(3.0)
            takes.cancel(stream)
        else:
            name = "task" if era == "modern" else nonsense.draw.choice(["must", "may"])
            params = {"name": name, "arguments": {"nonce": client.fresh()}}
            if client is clients[3]:
                params["task"] = nonsense.draw.choice([{"ttl": 60_000}, *ODD])
            calls.append(client.request("tools/call", params))
        scene.run(nonsense.draw.choice([0.0, 0.1, 1.0, 4.0]))
    return scene, calls


@pytest.mark.parametrize("transport", ["http", "stdio"])
@pytest.mark.parametrize("era", ["legacy", "modern"])
@pytest.mark.parametrize("seed", range(8))
def test_nonsense_is_answered(seed: int, era: str, transport: str, messages_are_judged: Verdicts) -> None:
    scene, calls = play(seed, era, transport)
    for client in scene.clients:
        client.answer_after = 0.0
    # A legacy client's `tasks/result` may wait for an hour (1125: until the task has ended).
    scene.run(4000.0)
    assert [call.method for call in calls if not call.settled] == []
    assert scene.at_rest() == []
    assert "defects" not in scene.world.snapshot().counters
    # What a server puts into a result is its own affair; all else that the gateway sends is right (L0.5).
    found = messages_are_judged.problems
    found[:] = [one for one in found if "(as an answer to t" not in one]
