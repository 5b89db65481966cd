"""The tasks of 2025-11-25 between legacy peers, behind `legacy_tasks` (L22 row 1)."""

from __future__ import annotations

from typing import Any

import pytest

from fuzz.sim.clients import FORM, Call
from fuzz.sim.scene import Scene
from fuzz.sim.talk import META, Job, Message, Talk, error, text
from tests.sim.tasks_model import (
    BOTH,
    STAMP,
    LegacyClient,
    TaskServer,
    Work,
    ask,
    call,
    legacy,
    modern,
    scene_of,
)

RELATED = META + "related-task"
DECLARED: Message = {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}
QUESTION = {"message": "name?", "requestedSchema": {"type": "object", "properties": {}}}


class LegacyTaskTalk(Talk):
    server: LegacyTaskServer

    def _answer(self, job: Job) -> None:
        if job.method == "tools/call" and "task" in job.params:
            job.answer({"task": told(self.server.make(job.nonce))})
        elif job.method.startswith("tasks/"):
            self._task(job)
        else:
            super()._answer(job)

    def _task(self, job: Job) -> None:
        work = self.server.works.get(job.params["taskId"])
        if work is None:
            job.finish(error(job.id, -32602, "no such task"))
        elif job.method == "tasks/get":
            job.answer(told(work))
        elif job.method == "tasks/cancel":
            work.status = "cancelled"
            job.answer(told(work))
        elif work.status == "input_required":
            related = {"_meta": {RELATED: {"taskId": work.id}}}

            def answered(message: Message) -> None:
                self.server.given.append(message)
                self.server.finish(job, work)

            self.ask(job, "elicitation/create", {**QUESTION, **related}, job.out, answered)
        else:
            self.server.waiting[work.id] = job


class LegacyTaskServer(TaskServer):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.extensions = {}
        self.waiting: dict[str, Job] = {}
        self.given: list[Message] = []
        self.declares = True

    @property
    def capabilities(self) -> Message:
        return {**super().capabilities, "tasks": DECLARED} if self.declares else super().capabilities

    def make_talk(self, send: Any, **options: Any) -> Talk:
        return LegacyTaskTalk(self, send, **options)

    def finish(self, job: Job, work: Work) -> None:
        work.status = "completed"
        job.answer({**text(work.nonce), "_meta": {RELATED: {"taskId": work.id}, "x.example/kept": 1}})


def told(work: Work) -> Message:
    return {
        "taskId": work.id,
        "status": work.status,
        "createdAt": STAMP,
        "lastUpdatedAt": STAMP,
        "ttl": 60_000,
        "pollInterval": 1000,
    }


def one(transport: str = "http", **config: Any) -> tuple[Scene, LegacyTaskServer]:
    scene = scene_of({"one": (transport, ("legacy",))}, LegacyTaskServer, **{"legacy_tasks": True, **config})
    scene.start().run(1.0)
    server = scene.only
    assert isinstance(server, LegacyTaskServer)
    return scene, server


def begun(scene: Scene, client: LegacyClient) -> Call:
    made = client.request("tools/call", {"name": "echo", "arguments": {"nonce": "n"}, "task": {"ttl": 1000}})
    scene.until(lambda: made.over, 30)
    return made


@BOTH
@pytest.mark.parametrize("transparent", [True, False])
def test_a_task_passes_through_under_a_sealed_id(transport: str, transparent: bool) -> None:
    scene, server = one(transport, transparent=transparent)
    client = legacy(scene, FORM)
    declared = client.hello.result["capabilities"]["tasks"]
    assert declared == {"cancel": {}, "requests": {"tools": {"call": {}}}}  # no list
    id = begun(scene, client).result["task"]["taskId"]
    assert "one-task" not in id
    assert ask(scene, client, "tasks/get", taskId=id).result["taskId"] == id
    waiting = client.request("tasks/result", {"taskId": id})
    scene.run(100.0)
    assert not waiting.over  # it waits for as long as the task takes
    server.finish(server.waiting[server.work.id], server.work)
    scene.until(lambda: waiting.over, 5)
    assert waiting.text == "n"
    assert waiting.result["_meta"] == {RELATED: {"taskId": id}, "x.example/kept": 1}
    assert ask(scene, client, "tasks/cancel", taskId=id).result["taskId"] == id
    assert all(one["params"]["taskId"] == server.work.id for one in server.asked("tasks/get"))
    assert scene.problems() == [] and scene.at_rest() == []


@BOTH
def test_questions_of_a_task_name_it_in_the_client_s_form(transport: str) -> None:
    """1125 tasks: `related-task` on what belongs to a task, both ways."""
    scene, server = one(transport)
    client = legacy(scene, FORM)
    id = begun(scene, client).result["task"]["taskId"]
    server.work.status = "input_required"
    client.answer_after = None
    waiting = client.request("tasks/result", {"taskId": id})
    scene.until(lambda: client.questions, 10)
    question = client.questions[0]
    assert question["params"]["_meta"] == {RELATED: {"taskId": id}}
    told = {"action": "accept", "content": {}, "_meta": {RELATED: {"taskId": id}}}
    client.reply({"jsonrpc": "2.0", "id": question["id"], "result": told})
    scene.until(lambda: waiting.over, 10)
    assert waiting.text == "n"
    assert server.given[0]["result"].get("_meta", {}).get(RELATED) in (None, {"taskId": server.work.id})


def test_ids_are_good_for_one_principal() -> None:
    scene, server = one("http", listeners=("http", "stdio"))
    id = begun(scene, legacy(scene)).result["task"]["taskId"]
    local = scene.legacy_pipe()
    for method in ("tasks/get", "tasks/result", "tasks/cancel"):
        foreign = local.request(method, {"taskId": id})
        scene.until(lambda foreign=foreign: foreign.over)  # type: ignore[misc]
        assert foreign.code == -32602
    client = legacy(scene)
    for bad in (server.work.id, "", 5, None, id + "A"):
        assert ask(scene, client, "tasks/get", taskId=bad).code == -32602
    assert server.asked("tasks/get") == []
    assert ask(scene, client, "tasks/list").code == -32601


@pytest.mark.parametrize("why", ["off", "older", "undeclared", "modern"])
def test_where_tasks_are_not_carried_the_call_is_an_ordinary_one(why: str) -> None:
    """M, 1125 tasks: a receiver that declares none ignores `task`."""
    scene, server = one("http", legacy_tasks=why != "off")
    if why == "undeclared":
        server.declares = False
        server.crash()
        scene.run(5.0)
    params = {"name": "echo", "arguments": {"nonce": "n"}, "task": {"ttl": 1000}}
    if why == "modern":
        client: Any = modern(scene)
    else:
        client = legacy(scene, version="2025-06-18" if why == "older" else "2025-11-25")
        assert "tasks" not in client.hello.result["capabilities"]
        assert ask(scene, client, "tasks/get", taskId="x").code == -32601
    made = client.request("tools/call", params)
    scene.until(lambda: made.over, 30)
    assert made.text == "n"
    assert server.works == {}
    assert call(scene, client, "echo").text
