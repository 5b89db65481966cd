"""Model servers with tasks, and model clients that know them; both check every message that they are sent
against the schema of its revision (L0.5).

Owns: `TaskServer`, the clients, and short words for tests of tasks and extensions. Must never: be lenient.
"""

from __future__ import annotations

from typing import Any

import pytest

from fuzz.sim.clients import Call
from fuzz.sim.http_clients import LegacyHttp, ModernHttp
from fuzz.sim.scene import Scene
from fuzz.sim.servers import ServerModel
from fuzz.sim.talk import META, MODERN, Job, Message, Talk, error, note, result, text
from tests.schemas import check_message

TASKS = "io.modelcontextprotocol/tasks"
UI = "io.modelcontextprotocol/ui"
WITH_TASKS: Message = {"extensions": {TASKS: {}}}
METHODS = ("tasks/get", "tasks/update", "tasks/cancel")
BEYOND = (*METHODS, "task", "notifications/tasks")
STAMP = "2026-08-01T10:00:00Z"
TERMINAL = ("completed", "failed", "cancelled")
QUESTION = {"mode": "form", "message": "name?", "requestedSchema": {"type": "object", "properties": {}}}


def check_task(task: Message) -> None:
    """The shape of a task of the extension (N3)."""
    assert {"taskId", "status", "createdAt", "lastUpdatedAt", "ttlMs"} <= set(task), task
    assert isinstance(task["taskId"], str) and task["ttlMs"] is None or task["ttlMs"] >= 0
    assert isinstance(task.get("pollIntervalMs", 1), int)
    needed = {"completed": "result", "failed": "error", "input_required": "inputRequests"}
    assert task["status"] in ("working", "cancelled", *needed)
    wanted = needed.get(task["status"])
    assert wanted is None or isinstance(task[wanted], dict)


class Work:
    """One task of a model server."""

    def __init__(self, id: str, nonce: str, interval_ms: int) -> None:
        self.id = id
        self.nonce = nonce
        self.status = "working"
        self.asking: dict[str, Message] = {}
        self.given: dict[str, Message] = {}
        self.more: Message = {}
        self.interval_ms = interval_ms
        self.polled: list[float] = []
        self.updates: list[Message] = []
        self.cancels = 0

    @property
    def told(self) -> Message:
        value: Message = {
            "taskId": self.id,
            "status": self.status,
            "createdAt": STAMP,
            "lastUpdatedAt": STAMP,
            "ttlMs": 60_000,
            "pollIntervalMs": self.interval_ms,
            **self.more,
        }
        if self.status == "input_required":
            value["inputRequests"] = self.asking
        return value

    def complete(self, told: str | None = None) -> None:
        self.status = "completed"
        hop = {META + "serverInfo": {"name": "inner", "version": "1"}, "x.example/kept": 1}
        self.more = {"result": {**text(told or self.nonce), "isError": False, "_meta": hop}}

    def ask(self, *keys: str) -> None:
        self.status = "input_required"
        self.asking = {key: {"method": "elicitation/create", "params": QUESTION} for key in keys}


class TaskTalk(Talk):
    """A modern server with the tasks extension; a tool `task` becomes a task where the client takes one."""

    server: TaskServer

    def _answer(self, job: Job) -> None:
        if job.method in METHODS and self.modern:
            self._task(job)
        elif job.method == "subscriptions/listen" and "taskIds" in job.params["notifications"]:
            self._listen_tasks(job)
        else:
            super()._answer(job)

    def _declares(self, job: Job) -> bool:
        told = (job.params.get("_meta") or {}).get(META + "clientCapabilities") or {}
        return TASKS in (told.get("extensions") or {})

    def _lacking(self, job: Job) -> None:
        job.finish(error(job.id, -32021, "needs tasks", {"requiredCapabilities": WITH_TASKS}))

    def _listen_tasks(self, job: Job) -> None:
        if not self._declares(job):
            self._lacking(job)
            return
        ids = [id for id in job.params["notifications"]["taskIds"] if id in self.server.works]
        self.listens[job.id] = ({"taskIds": ids}, job.out)
        params = {"notifications": {"taskIds": ids}, "_meta": {META + "subscriptionId": job.id}}
        job.out(note("notifications/subscriptions/acknowledged", params))

    def _task(self, job: Job) -> None:
        if not self._declares(job):
            self._lacking(job)
            return
        work = self.server.works.get(job.params["taskId"])
        if work is None:
            job.finish(error(job.id, -32602, "no such task"))
        elif job.method == "tasks/get":
            work.polled.append(self.server.world.now)
            job.answer(work.told)
        elif job.method == "tasks/update":
            work.updates.append(job.params["inputResponses"])
            work.given |= job.params["inputResponses"]
            if self.server.forgets_slowly:
                self.server.world.after(3.0, lambda: self._settle(work))
            else:
                self._settle(work)
            job.answer({})
        else:
            work.cancels += 1
            if not self.server.ignores_cancel:
                work.status = work.status if work.status in TERMINAL else "cancelled"
            if self.server.forgets_cancelled:
                del self.server.works[work.id]
            job.answer({})

    def _settle(self, work: Work) -> None:
        work.asking = {key: one for key, one in work.asking.items() if key not in work.given}
        if not work.asking and work.status == "input_required":
            given = sorted(str(one.get("action")) for one in work.given.values())
            work.complete("|".join([work.nonce, *given]) if self.server.tells_answers else None)

    def _tool_task(self, job: Job) -> None:
        self.server.saw.append(job.params)
        if self._declares(job):
            job.finish(result(job.id, {"resultType": "task", **self.server.make(job.nonce).told}))
        elif self.server.insists:
            self._lacking(job)
        else:
            job.answer(text(job.nonce))

    def _tool_rude(self, job: Job) -> None:
        job.finish(result(job.id, {"resultType": "task", **self.server.make(job.nonce).told}))


class TaskServer(ServerModel):
    """See `TaskTalk`. Options are plain attributes."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.works: dict[str, Work] = {}
        self.extensions: Message = {TASKS: {}}
        self.insists = False
        self.tells_answers = True
        self.forgets_slowly = False
        self.ignores_cancel = False
        self.forgets_cancelled = False
        self.interval_ms = 2000
        self.saw: list[Message] = []
        self.tools = (*self.tools, "task", "rude")
        self.got: list[Message] = []
        self.more: dict[str, Message] = {}

    @property
    def capabilities(self) -> Message:
        told = super().capabilities
        return {**told, "extensions": self.extensions} if self.extensions else told

    def items(self, method: str) -> list[Message]:
        return [{**one, **self.more.get(one["name"], {})} for one in super().items(method)]

    def make(self, nonce: str) -> Work:
        made = Work(f"{self.name}-task-{len(self.works) + 1}", nonce, self.interval_ms)
        self.works[made.id] = made
        return made

    @property
    def work(self) -> Work:
        return list(self.works.values())[-1]

    def talk(self, send: Any, **options: Any) -> Talk:
        made = self.make_talk(send, **options)
        self.talks.append(made)
        return made

    def make_talk(self, send: Any, **options: Any) -> Talk:
        return TaskTalk(self, send, **options)

    def check_message(self, talk: Talk, message: Message) -> None:
        super().check_message(talk, message)
        self.got.append(message)
        version = talk.version or (MODERN if "modern" in self.eras else "2025-11-25")
        if message.get("method") == "initialize":
            version = "2025-11-25"
        elif META + "protocolVersion" in str(message.get("params")):
            version = MODERN
        check_message(version, "client", message, extensions=BEYOND)

    def asked(self, method: str) -> list[Message]:
        return [one for one in self.got if one.get("method") == method]

    def notify(self, work: Work) -> None:
        for talk in self.talks:
            for id, (wanted, out) in list(talk.listens.items()):
                if not talk.over and work.id in wanted.get("taskIds", ()):
                    out(note("notifications/tasks", {**work.told, "_meta": {META + "subscriptionId": id}}))


class Checked:
    """What the model clients of these tests check of every message."""

    def answered(self, call: Call, message: Message) -> None:
        told = MODERN if self.modern else self.version  # type: ignore[attr-defined]
        check_message(told, "server", message, request_method=call.method, extensions=BEYOND)
        value = message.get("result") or {}
        if self.modern and (call.method == "tasks/get" or value.get("resultType") == "task"):  # type: ignore[attr-defined]
            if value:
                check_task(value)
        super().answered(call, message)  # type: ignore[misc]

    def stream_message(self, wire: Any, message: Message) -> None:
        told = MODERN if self.modern else self.version  # type: ignore[attr-defined]
        if "method" in message:
            check_message(told, "server", message, extensions=BEYOND)
        if message.get("method") == "notifications/tasks":
            check_task(message["params"])
        super().stream_message(wire, message)  # type: ignore[misc]


class ModernClient(Checked, ModernHttp):
    def send_request(self, call: Call, message: Message) -> None:
        if call.method not in METHODS:
            super().send_request(call, message)
            return
        headers = [("MCP-Protocol-Version", MODERN), ("Mcp-Method", call.method)]
        headers.append(("Mcp-Name", str(call.params.get("taskId"))))
        self.post(message, headers, call)


class LegacyClient(Checked, LegacyHttp):
    pass


def scene_of(
    servers: dict[str, tuple[str, tuple[str, ...]]], model: type[TaskServer] = TaskServer, **config: Any
) -> Scene:
    """A scene whose servers are `TaskServer`s."""
    scene = Scene(servers, **config)
    for number, (name, (transport, eras)) in enumerate(servers.items()):
        made = scene.servers[name] = model(scene.world, name, *eras)
        if transport == "stdio":
            scene.net.programs[f"/bin/{name}"] = made.spawn
        else:
            scene.net.services["127.0.0.1", 9001 + number] = made.connection
    return scene


def one(transport: str = "http", *eras: str, **config: Any) -> tuple[Scene, TaskServer]:
    scene = scene_of({"one": (transport, eras or ("modern",))}, **config).start()
    scene.run(1.0)
    server = scene.only
    assert isinstance(server, TaskServer)
    return scene, server


def modern(scene: Scene, capabilities: Message | None = None, name: str = "") -> ModernClient:
    made = ModernClient(scene.world, name or f"m{len(scene.clients)}", capabilities=capabilities or {})
    scene.clients.append(made)
    return made


def legacy(scene: Scene, capabilities: Message | None = None, version: str = "2025-11-25") -> LegacyClient:
    made = LegacyClient(scene.world, f"l{len(scene.clients)}", capabilities=capabilities or {})
    made.version = version
    scene.clients.append(made)
    made.open()
    scene.until(lambda: made.hello.over, 60, "the handshake")
    scene.run(0.05)
    return made


def ask(scene: Scene, client: ModernClient | LegacyClient, method: str, **params: Any) -> Call:
    call = client.request(method, params)
    scene.until(lambda: call.over, 60, method)
    return call


def call(scene: Scene, client: ModernClient | LegacyClient, name: str, **args: Any) -> Call:
    made = client.tool(name, **args)
    scene.until(lambda: made.settled, 120, name)
    return made


def told_upstream(server: TaskServer, method: str) -> Message:
    meta = server.asked(method)[-1]["params"]["_meta"]
    return meta[META + "clientCapabilities"].get("extensions", {})  # type: ignore[no-any-return]


def listening(scene: Scene, client: ModernClient, *ids: str, **more: Any) -> Call:
    made = client.request("subscriptions/listen", {"notifications": {"taskIds": list(ids), **more}})
    scene.until(lambda: made.notes or made.over, 30, "the acknowledgement")
    return made


def heard(made: Call, method: str = "notifications/tasks") -> list[Message]:
    return [one["params"] for _, one in made.notes if one["method"] == method]


def at_rest(scene: Scene) -> None:
    assert scene.problems() == [] and scene.at_rest() == []


BOTH = pytest.mark.parametrize("transport", ["http", "stdio"])
