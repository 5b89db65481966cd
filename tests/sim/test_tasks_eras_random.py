"""Tasks across the eras under random play: servers of both eras with tasks, clients that take tasks, ask for
them, or know none; crashes, cancellations, notifications and late answers in any order.

Whatever happens, every request gets exactly one answer, the result and questions of every task reach the
client that made it and no other, and nothing is left over.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from fuzz.sim.clients import FORM, Call
from fuzz.sim.scene import Scene
from fuzz.sim.talk import Message
from tests.sim.legacy_tasks_model import LegacyTaskServer, LegacyWork
from tests.sim.tasks_model import (
    TERMINAL,
    WITH_TASKS,
    LegacyClient,
    ModernClient,
    TaskServer,
    Work,
    legacy,
    modern,
    scene_of,
)

SERVERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "a": ("http", ("legacy",)),
    "b": ("stdio", ("legacy",)),
    "c": ("http", ("modern",)),
    "d": ("stdio", ("modern",)),
}
TOOLS = {"a": "must", "b": "must", "c": "task", "d": "task"}


def build(seed: int) -> Scene:
    scene = scene_of(SERVERS, seed=seed, legacy_tasks=True)
    for number, name in enumerate(SERVERS):
        if SERVERS[name][1] == ("legacy",):
            made = scene.servers[name] = LegacyTaskServer(scene.world, name, "legacy")
            if SERVERS[name][0] == "stdio":
                scene.net.programs[f"/bin/{name}"] = made.spawn
            else:
                scene.net.services["127.0.0.1", 9001 + number] = made.connection
    return scene.start()


class Play:
    """One random run."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.scene = build(seed)
        self.scene.run(2.0)
        self.servers: list[TaskServer] = [self.scene[name] for name in SERVERS]  # type: ignore[misc]
        for server in self.servers:
            server.tells_answers = False
            server.interval_ms = self.draw.choice([100, 500, 3000])
            server.forgets_slowly = self.draw.random() < 0.3
            server.streams_answers = self.draw.random() < 0.5
            if isinstance(server, LegacyTaskServer):
                server.making_s = self.draw.choice([0.0, 0.0, 1.0])
        takes: Message = {**WITH_TASKS, **FORM}
        self.takers = [modern(self.scene, takes), modern(self.scene, takes)]
        self.askers = [legacy(self.scene, FORM), legacy(self.scene, FORM)]
        plain = [modern(self.scene, FORM), modern(self.scene), legacy(self.scene, FORM)]
        self.plain: list[Any] = [*plain, legacy(self.scene)]
        for client in (*self.takers, *self.askers, *self.plain):
            client.answer_after = self.draw.choice([0.0, 0.5, 3.0])
            client.on_answer = self.answered
        self.calls: list[Call] = []
        self.streams: list[Call] = []
        # What was made: by whom, its id, and the nonce that its result and questions carry.
        self.made: list[tuple[Any, str, str]] = []
        self.wrong: list[str] = []

    def step(self) -> None:
        act = self.draw.choices(
            [self.call, self.work, self.ask, self.listen, self.cancel, self.crash], [5, 6, 5, 1, 1, 0.4]
        )[0]
        act()
        self.scene.run(self.draw.choice([0.0, 0.01, 0.2, 1.0, 3.0]))

    def crash(self) -> None:
        self.draw.choice(self.servers).crash()

    def call(self) -> None:
        name = self.draw.choice(list(SERVERS))
        client = self.draw.choice([*self.takers, *self.askers, *self.plain])
        nonce = client.fresh()
        params: Message = {"name": f"{name}__{TOOLS[name]}", "arguments": {"nonce": nonce}}
        if client in self.askers:
            params["task"] = {"ttl": 600_000}
            if self.draw.random() < 0.3:
                params["name"] = f"{name}__" + ("may" if name in "ab" else "echo")
        self.calls.append(client.request("tools/call", params))

    def answered(self, call: Call) -> None:
        value = (call.answer or {}).get("result") or {}
        client: Any = call.client
        if value.get("resultType") == "task":
            self.made.append((client, value["taskId"], call.nonce))
        elif "task" in value:
            self.made.append((client, value["task"]["taskId"], call.nonce))
        nonce = self.nonce_of(str(call.params.get("taskId", "")))
        if nonce is None or "taskId" not in call.params:
            return
        told = value.get("result") or value
        if "content" in told and told["content"][0]["text"].partition("|")[0] != nonce:
            self.wrong.append(f"{nonce} was told {told}")
        asked = value.get("inputRequests") or {}
        for one in asked.values():
            if one["params"]["message"] != nonce:
                self.wrong.append(f"{nonce} was asked {one}")
        if asked and isinstance(client, ModernClient):
            keys = self.draw.sample(list(asked), self.draw.randint(1, len(asked)))
            given = {key: client.answer_to(asked[key]) for key in keys}
            params = {"taskId": call.params["taskId"], "inputResponses": given}
            after = self.draw.choice([0.0, 1.0])
            self.scene.world.after(after, lambda: self.calls.append(client.request("tasks/update", params)))

    def nonce_of(self, id: str) -> str | None:
        return next((nonce for _, one, nonce in self.made if one == id), None)

    def work(self) -> None:
        server = self.draw.choice(self.servers)
        going: list[Work] = [one for one in server.works.values() if one.status == "working"]
        if not going:
            return
        work = self.draw.choice(going)
        act = self.draw.random()
        if act < 0.4:
            self.put(work, self.draw.randint(1, 3))
        elif act < 0.7:
            work.complete()
        elif isinstance(work, LegacyWork) and isinstance(server, LegacyTaskServer):
            ends = [
                lambda: work.fail(-5, "x"),
                lambda: work.lose_result("x"),
                work.cancel,
                lambda: server.progress(work, 1),
            ]
            self.draw.choice(ends)()
        if self.draw.random() < 0.5:
            server.notify(work)

    def put(self, work: Work, count: int) -> None:
        if isinstance(work, LegacyWork):
            work.ask(*[work.nonce] * count)
        else:
            work.ask(*(f"{work.id}-{number}" for number in range(count)))
            for one in work.asking.values():
                one["params"] = {**one["params"], "message": work.nonce}

    def ask(self) -> None:
        if not self.made:
            return
        client, id, _ = self.draw.choice(self.made)
        if isinstance(client, ModernClient):
            method = self.draw.choice(["tasks/get"] * 6 + ["tasks/cancel", "tasks/update"])
        else:
            method = self.draw.choice(["tasks/get"] * 3 + ["tasks/result"] * 3 + ["tasks/cancel"])
        params: dict[str, Any] = {"taskId": id}
        if method == "tasks/update":
            params["inputResponses"] = {"x": {"action": "accept"}}
        self.calls.append(client.request(method, params))

    def listen(self) -> None:
        mine = [id for client, id, _ in self.made if client is self.takers[0]]
        if self.streams and self.draw.random() < 0.5:
            stream = self.streams.pop()
            stream.client.cancel(stream)  # type: ignore[attr-defined]
        elif mine:
            wanted = self.draw.sample(mine, min(3, len(mine)))
            params = {"notifications": {"taskIds": wanted}}
            self.streams.append(self.takers[0].request("subscriptions/listen", params))

    def cancel(self) -> None:
        going = [one for one in self.calls if not one.over and not one.cancelled]
        if going:
            made = self.draw.choice(going)
            if isinstance(made.client, (ModernClient, LegacyClient)):
                made.client.cancel(made)

    def end(self) -> None:
        """Everything heals, and every task ends."""
        for _ in range(40):
            for server in self.servers:
                for work in server.works.values():
                    if work.status not in TERMINAL:
                        work.complete()
            self.scene.run(5.0)
        for stream in self.streams:
            stream.client.cancel(stream)  # type: ignore[attr-defined]
        self.scene.run(120.0)

    def heard(self) -> list[str]:
        """What the subscription was told of tasks that are not its client's."""
        mine = {id for client, id, _ in self.made if client is self.takers[0]}
        told = [note["params"] for call in self.takers[0].calls for _, note in call.notes]
        return [str(one) for one in told if "taskId" in one and one["taskId"] not in mine]


@pytest.mark.parametrize("seed", range(30))
def test_random_play_leaves_nothing_behind(seed: int) -> None:
    play = Play(seed)
    for _ in range(90):
        play.step()
    play.end()
    assert [call.nonce or call.method for call in play.calls if not call.settled] == []
    assert play.wrong == [] and play.heard() == []
    assert play.scene.problems() == []
    assert play.scene.at_rest() == []
    assert "defects" not in play.scene.world.snapshot().counters
    # Nothing waits at a server for an answer that nobody will give (L1.9).
    for server in play.servers:
        for work in server.works.values():
            if isinstance(work, LegacyWork) and not work.talk.over:
                assert work.open == {} or work.status in TERMINAL
