"""Tasks under random play: cancelled calls, crashing servers, answers and notifications in any order.

Whatever happens, every call gets exactly one answer, of its own client, and nothing is left over.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from fuzz.sim.clients import FORM, Call
from fuzz.sim.scene import Scene
from tests.sim.tasks_model import WITH_TASKS, LegacyClient, ModernClient, TaskServer, legacy, modern, scene_of

SERVERS = {"a": ("http", ("modern",)), "b": ("stdio", ("modern",)), "c": ("http", ("modern", "legacy"))}


class Play:
    """One random run."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.scene: Scene = scene_of(SERVERS, seed=seed).start()
        self.scene.run(2.0)
        self.servers = [self.scene[name] for name in SERVERS]
        for server in self.servers:
            assert isinstance(server, TaskServer)
            server.tells_answers = False
            server.interval_ms = self.draw.choice([100, 500, 3000])
            server.forgets_slowly = self.draw.random() < 0.3
        self.clients: list[Any] = [
            modern(self.scene, {**WITH_TASKS, **FORM}),
            modern(self.scene, FORM),
            modern(self.scene, FORM),
            legacy(self.scene, FORM),
            legacy(self.scene, FORM),
        ]
        for client in self.clients:
            client.answer_after = self.draw.choice([0.0, 0.5, 3.0])
        self.calls: list[Call] = []
        self.streams: list[Call] = []
        self.made: list[tuple[ModernClient, str]] = []

    def server(self) -> TaskServer:
        found = self.draw.choice(self.servers)
        assert isinstance(found, TaskServer)
        return found

    def step(self) -> None:
        act = self.draw.choice(
            [
                self.call,
                self.call,
                self.call,
                self.work,
                self.work,
                self.work,
                self.cancel,
                self.ask,
                self.listen,
            ]
        )
        act()
        if self.draw.random() < 0.04:
            self.server().crash()
        self.scene.run(self.draw.choice([0.0, 0.01, 0.2, 1.0, 3.0]))

    def call(self) -> None:
        client = self.draw.choice(self.clients)
        made = client.tool(f"{self.server().name}__task")
        self.calls.append(made)
        if client is self.clients[0]:
            made.client.on_answer = self.answered

    def answered(self, call: Call) -> None:
        value = (call.answer or {}).get("result") or {}
        if value.get("resultType") == "task":
            self.made.append((call.client, value["taskId"]))  # type: ignore[arg-type]

    def work(self) -> None:
        open = [one for one in self.server().works.values() if one.status == "working"]
        if open:
            work = self.draw.choice(open)
            if self.draw.random() < 0.4:
                work.ask(*(f"{work.id}-{number}" for number in range(self.draw.randint(1, 3))))
                work.asking = {
                    key: {**one, "params": {**one["params"], "message": work.nonce}}
                    for key, one in work.asking.items()
                }
            else:
                work.complete()
            for server in self.servers:
                assert isinstance(server, TaskServer)
                server.notify(work)

    def ask(self) -> None:
        if self.made:
            client, id = self.draw.choice(self.made)
            method = self.draw.choice(["tasks/get", "tasks/get", "tasks/cancel", "tasks/update"])
            params: dict[str, Any] = {"taskId": id}
            if method == "tasks/update":
                params["inputResponses"] = {"x": {"action": "accept"}}
            self.calls.append(client.request(method, params))

    def listen(self) -> None:
        if self.streams and self.draw.random() < 0.5:
            stream = self.streams.pop()
            stream.client.cancel(stream)  # type: ignore[attr-defined]
        elif self.made:
            client = self.made[0][0]
            ids = [id for _, id in self.draw.sample(self.made, min(3, len(self.made)))]
            self.streams.append(client.request("subscriptions/listen", {"notifications": {"taskIds": ids}}))

    def cancel(self) -> None:
        open = [one for one in self.calls if not one.over and not one.cancelled]
        if open:
            made = self.draw.choice(open)
            if isinstance(made.client, (ModernClient, LegacyClient)):
                made.client.cancel(made)

    def end(self) -> None:
        """Everything heals, and every task ends."""
        for _ in range(40):
            for server in self.servers:
                assert isinstance(server, TaskServer)
                for work in server.works.values():
                    if work.status == "working":
                        work.complete()
            self.scene.run(5.0)
        for stream in self.streams:
            stream.client.cancel(stream)  # type: ignore[attr-defined]
        self.scene.run(5.0)


@pytest.mark.parametrize("seed", range(25))
def test_random_play_leaves_nothing_behind(seed: int) -> None:
    play = Play(seed)
    for _ in range(80):
        play.step()
    play.end()
    assert [call.nonce or call.method for call in play.calls if not call.settled] == []
    assert play.scene.problems() == []
    assert play.scene.at_rest() == []
    assert "defects" not in play.scene.world.snapshot().counters
