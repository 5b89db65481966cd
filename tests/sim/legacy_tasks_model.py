"""A model server of 2025-11-25 with tasks, as strict as the text: tasks live in the session that made them, a
tool that has to be called as a task is not called otherwise, answers to a task's questions name the task.

Owns: `LegacyTaskServer` and its tasks, and short words for tests. Must never: be lenient.
"""

from __future__ import annotations

from typing import Any

from fuzz.sim.clients import FORM, Call
from fuzz.sim.scene import Scene
from fuzz.sim.talk import META, Job, Message, Talk, error, note, text
from tests.sim.tasks_model import (
    STAMP,
    TASKS,
    TERMINAL,
    WITH_TASKS,
    LegacyClient,
    ModernClient,
    TaskServer,
    Work,
    ask,
    modern,
    scene_of,
)

RELATED = META + "related-task"
DECLARED: Message = {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}
QUESTION: Message = {"message": "name?", "requestedSchema": {"type": "object", "properties": {}}}
# What the gateway declares for the extension, and what a legacy client is told of it.
EXTENDED: Message = {"extensions": {TASKS: {}}}
AGREED: Message = {"cancel": {}, "requests": {"tools": {"call": {}}}}
# A modern client that takes tasks, and can be asked.
TAKES: Message = {**WITH_TASKS, **FORM}
SUPPORT = {"must": "required", "may": "optional", "never": "forbidden"}


class LegacyWork(Work):
    """One task. `outcome` is a result, or an error's members (`{"code": ...}`)."""

    def __init__(self, id: str, job: Job, interval_ms: int) -> None:
        super().__init__(id, job.nonce, interval_ms)
        self.talk = job.talk
        self.token = job.token
        self.asked_ttl: Any = (job.params.get("task") or {}).get("ttl")
        self.ttl: int | None = 3_600_000
        self.message: str | None = None
        self.updated = 0
        self.outcome: Message = {}
        # Questions that were not put yet, those that are open, and what was answered.
        self.queue: list[tuple[str, Message]] = []
        self.open: dict[int, Message] = {}
        self.replies: list[Message] = []
        self.waiting: list[Job] = []
        self.results = 0

    @property
    def told(self) -> Message:
        value: Message = {
            "taskId": self.id,
            "status": self.status,
            "createdAt": STAMP,
            "lastUpdatedAt": STAMP.replace("00Z", f"{self.updated % 60:02}Z"),
            "ttl": self.ttl,
            "pollInterval": self.interval_ms,
            **self.more,
        }
        if self.message is not None:
            value["statusMessage"] = self.message
        return value

    def move(self, status: str) -> None:
        self.status = status
        self.updated += 1

    def complete(self, told: str | None = None) -> None:
        self._end("completed", {**text(told or self.nonce), "isError": False, "_meta": {"x.example/kept": 1}})

    def fail_tool(self, told: str = "no luck") -> None:
        self._end("failed", {**text(told), "isError": True})

    def fail(self, code: int, message: str) -> None:
        self._end("failed", {"code": code, "message": message})

    def lose_result(self, message: str) -> None:
        """As the Python SDK does it when a task's work raises: there is a message and no result."""
        self.message = message
        self._end("failed", {})

    def _end(self, status: str, outcome: Message) -> None:
        if self.status in TERMINAL:
            return
        self.move(status)
        self.outcome = outcome
        waiting, self.waiting = self.waiting, []
        for job in waiting:
            self.deliver(job)

    def deliver(self, job: Job) -> None:
        if job.done or job.cancelled:
            return
        self.results += 1
        if "code" in self.outcome:
            job.finish({"jsonrpc": "2.0", "id": job.id, "error": self.outcome})
            return
        meta = {**self.outcome.get("_meta", {}), RELATED: {"taskId": self.id}}
        job.answer({**self.outcome, "_meta": meta})

    def cancel(self) -> None:
        self._end("cancelled", {"code": -32603, "message": "cancelled"})

    def ask(self, *keys: str) -> None:
        """Questions; each is put on `tasks/result`, now or when that comes."""
        self.put(*(("elicitation/create", {**QUESTION, "message": key}) for key in keys))

    def put(self, *questions: tuple[str, Message]) -> None:
        self.move("input_required")
        self.queue.extend(questions)
        waiting = [job for job in self.waiting if not job.cancelled and not job.talk.over]
        if waiting:
            self.flush(waiting[-1])

    def flush(self, job: Job) -> None:
        queue, self.queue = self.queue, []
        for method, params in queue:
            told = {**params, "_meta": {RELATED: {"taskId": self.id}}}
            number = self.talk.ask(job, method, told, job.out, self.replied)
            self.open[number] = told

    def replied(self, message: Message) -> None:
        self.open.pop(message["id"], None)
        self.replies.append(message)
        if not self.queue and not self.open and self.status == "input_required":
            self.move("working")


class LegacyTaskTalk(Talk):
    server: LegacyTaskServer

    def _answer(self, job: Job) -> None:
        if job.method == "tools/call":
            self._called(job)
        elif job.method.startswith("tasks/"):
            self._task(job)
        else:
            super()._answer(job)

    def _called(self, job: Job) -> None:
        server, name = self.server, job.params["name"]
        if server.refuses:
            job.finish(error(job.id, -32601, f"{name} cannot be called so"))
            return
        support = server.support.get(name, "optional" if name in server.loose else "forbidden")
        task = "task" in job.params and "tasks" in server.capabilities
        if (support == "required" and not task) or (support == "forbidden" and task):
            job.finish(error(job.id, -32601, f"{name} cannot be called so"))
        elif task:
            made = server.make_of(job)
            job.later(server.making_s, lambda: job.answer({"task": made.told}))
        elif name in server.support:
            job.answer(text(job.nonce))
        else:
            super()._call(job)

    def _task(self, job: Job) -> None:
        work = self.server.works.get(job.params["taskId"])
        if self.server.unwell is not None:
            job.finish(error(job.id, self.server.unwell, "not well"))
        elif work is None or work.talk is not self:
            job.finish(error(job.id, -32602, "no such task"))
        elif job.method == "tasks/get":
            work.polled.append(self.server.world.now)
            job.answer(work.told)
        elif job.method == "tasks/cancel":
            work.cancels += 1
            if work.status in TERMINAL:
                job.finish(error(job.id, -32602, f"it is {work.status} already"))
            else:
                work.cancel()
                job.answer(work.told)
        elif job.method == "tasks/result":
            if work.status in TERMINAL:
                work.deliver(job)
            else:
                work.waiting.append(job)
                work.flush(job)
        else:
            job.finish(error(job.id, -32601, "method not found"))


class LegacyTaskServer(TaskServer):
    """See `LegacyTaskTalk`. Options are plain attributes; `loose` are tools that may be called either way,
    though their definitions do not say so."""

    works: dict[str, LegacyWork]  # type: ignore[assignment]

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.extensions = {}
        self.support: dict[str, str] = dict(SUPPORT)
        self.loose: tuple[str, ...] = ("echo", "ask")
        self.tools = (*self.tools, *SUPPORT)
        self.declares: Message | None = DECLARED
        self.unwell: int | None = None  # the code of what it answers to all about tasks
        self.making_s = 0.0
        self.refuses = False  # every call, as if its tool had to be called otherwise
        self.interval_ms = 1000

    @property
    def capabilities(self) -> Message:
        told = super().capabilities
        return told if self.declares is None else {**told, "tasks": self.declares}

    def items(self, method: str) -> list[Message]:
        found = super().items(method)
        for one in found:
            if one.get("name") in self.support:
                one["execution"] = {"taskSupport": self.support[one["name"]]}
        return found

    def make_talk(self, send: Any, **options: Any) -> Talk:
        return LegacyTaskTalk(self, send, **options)

    def make_of(self, job: Job) -> LegacyWork:
        made = LegacyWork(f"{self.name}-task-{len(self.works) + 1}", job, self.interval_ms)
        self.works[made.id] = made
        return made

    @property
    def work(self) -> LegacyWork:
        return list(self.works.values())[-1]

    def notify(self, work: LegacyWork) -> None:  # type: ignore[override]
        if not work.talk.over:
            work.talk.send(note("notifications/tasks/status", work.told))

    def progress(self, work: LegacyWork, value: float) -> None:
        if not work.talk.over and work.token is not None:
            params = {"progressToken": work.token, "progress": value, "message": work.nonce}
            work.talk.send(note("notifications/progress", params))

    def check_message(self, talk: Talk, message: Message) -> None:
        super().check_message(talk, message)
        if "result" not in message:
            return
        for work in self.works.values():
            if work.talk is talk and message["id"] in work.open:
                told = (message["result"].get("_meta") or {}).get(RELATED)
                if told != {"taskId": work.id}:
                    self.problems.append(f"an answer to a question of {work.id} names {told} (1125 tasks)")


def one(transport: str = "http", **config: Any) -> tuple[Scene, LegacyTaskServer]:
    """A scene with one such server, up and listed."""
    scene = scene_of({"one": (transport, ("legacy",))}, LegacyTaskServer, **config)
    scene.start().run(1.0)
    server = scene.only
    assert isinstance(server, LegacyTaskServer)
    return scene, server


def begun(scene: Scene, client: LegacyClient | ModernClient, name: str = "must", **more: Any) -> Call:
    """A call that becomes a task."""
    made = client.request("tools/call", {"name": name, "arguments": {"nonce": client.fresh()}, **more})
    scene.until(lambda: made.over, 30, f"the task of {name}")
    return made


def opened(
    transport: str = "http", capabilities: Message | None = None, **config: Any
) -> tuple[Scene, LegacyTaskServer, ModernClient, str]:
    """A scene, and a task of one modern client."""
    scene, server = one(transport, **config)
    client = modern(scene, TAKES if capabilities is None else capabilities)
    client.prefix = "" if len(scene.servers) == 1 else "one__"
    return scene, server, client, str(begun(scene, client).result["taskId"])


def get(scene: Scene, client: ModernClient, id: str) -> Message:
    """How the task is, asked when the server likes it."""
    scene.run(1.5)
    return ask(scene, client, "tasks/get", taskId=id).result
