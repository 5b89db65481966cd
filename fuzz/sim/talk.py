"""What a model server says, free of transport: both eras, a handful of tools, and ways to misbehave.

Owns: the conversation on one channel (a process, a legacy HTTP session, one modern POST), the jobs that
run on it, and the record of what it saw, which checkers read.
Must never: know how its bytes travel.

Tools: echo, slow (progress), ask (elicitation: a request, or an `input_required` round), big, fail, and the
ill-behaved silent, twice, wrong, die, garbage, stray. A script may add its own (`ServerModel.script`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fuzz.sim.world import Event

if TYPE_CHECKING:
    from fuzz.sim.servers import ServerModel

__all__ = ["META", "MODERN", "Job", "Message", "Talk", "error", "result"]

Message = dict[str, Any]
Out = Callable[[Message], None]
Then = Callable[[Message], None]

MODERN = "2026-07-28"
META = "io.modelcontextprotocol/"
TOOLS = ("echo", "slow", "ask", "big", "fail", "silent", "twice", "wrong", "die", "garbage", "stray")


def result(id: Any, value: Any) -> Message:
    return {"jsonrpc": "2.0", "id": id, "result": value}


def error(id: Any, code: int, message: str, data: Any = None) -> Message:
    body: Message = {"code": code, "message": message}
    if data is not None:
        body["data"] = data
    return {"jsonrpc": "2.0", "id": id, "error": body}


def text(value: str) -> Message:
    return {"content": [{"type": "text", "text": value}]}


class Job:
    """One request that a server works on."""

    def __init__(self, talk: Talk, message: Message, out: Out) -> None:
        self.talk = talk
        self.id = message["id"]
        self.method: str = message["method"]
        self.params: Message = message.get("params") or {}
        self.out = out
        self.done = False
        self.cancelled = False
        self.token = (self.params.get("_meta") or {}).get("progressToken")
        self.args: Message = self.params.get("arguments") or {}
        self.nonce: str = self.args.get("nonce", "")
        self.timers: list[Event] = []

    def later(self, delay_s: float, act: Callable[[], None]) -> None:
        def run() -> None:
            if not self.cancelled and not self.talk.over:
                act()

        self.timers.append(self.talk.server.world.after(delay_s, run))

    def answer(self, value: Message) -> None:
        if self.talk.modern:
            value = {"resultType": "complete", **value}
        self.finish(result(self.id, value))

    def say(self, **extra: Any) -> None:
        """The nonce as the result's text, and `extra` as its structured content."""
        self.answer({**text(self.nonce), "structuredContent": extra})

    def ask(self, method: str, params: Message, then: Then | None = None) -> int:
        """A request of a legacy server during this call; `then` gets the response, also a late one."""
        return self.talk.ask(self, method, params, self.out, then)

    def withdraw(self, number: int) -> None:
        """A question of this call is not asked any more."""
        self.out(note("notifications/cancelled", {"requestId": number}))

    def want(self, asks: Message, state: str | None = None) -> None:
        """End the round of a modern call with questions, a state, or both."""
        value: Message = {"resultType": "input_required"}
        if asks:
            value["inputRequests"] = asks
        if state is not None:
            value["requestState"] = state
        self.finish(result(self.id, value))

    def progress(self, value: float) -> None:
        self.out(note("notifications/progress", {"progressToken": self.token, "progress": value}))

    def finish(self, message: Message) -> None:
        self.done = True
        self.talk.live.pop(self.id, None)
        self.out(message)
        self.talk.server.finished(self)

    def stop(self) -> None:
        self.cancelled = True
        self.talk.live.pop(self.id, None)
        for timer in self.timers:
            timer.cancel()


class Talk:
    """One conversation. `send` is the channel for what belongs to no request."""

    def __init__(self, server: ServerModel, send: Out, *, pinned: str | None = None) -> None:
        self.server = server
        self.send = send
        self.era: str | None = pinned
        self.over = False
        self.live: dict[Any, Job] = {}
        self.declared: Message = {}
        self.version = ""
        self.principals: dict[str, None] = {}
        self.cancels: list[Any] = []
        self.listens: dict[Any, tuple[Message, Out]] = {}
        self.watched: dict[str, None] = {}
        self.level: str | None = None
        self.seen: list[str] = []
        self._asked: dict[int, tuple[Job | None, Then | None]] = {}
        self._next = 1
        self.on_end: Callable[[], None] = lambda: None
        self.raw: Callable[[bytes], None] = lambda data: None

    @property
    def modern(self) -> bool:
        return self.era == "modern"

    def end(self) -> None:
        """The channel is gone."""
        if self.over:
            return
        for job in list(self.live.values()):
            job.stop()
        self.over = True
        self.listens.clear()

    # -- in

    def message(self, message: Message, out: Out | None = None) -> None:
        """One message of the gateway. `out`: the way for what belongs to it."""
        self.server.check_message(self, message)
        out = out or self.send
        if "method" not in message:
            self._reply(message)
        elif "id" in message:
            self.seen.append(message["method"])
            self._request(message, out)
        else:
            self.seen.append(message["method"])
            self._notification(message)

    def _choose_era(self, message: Message) -> None:
        """SDK servers lock a pipe to the era of its first message."""
        if self.era is None:
            meta = (message.get("params") or {}).get("_meta") or {}
            asked = "modern" if META + "protocolVersion" in meta else "legacy"
            if asked in self.server.eras:
                self.era = asked

    def _request(self, message: Message, out: Out) -> None:
        self._choose_era(message)
        method = message["method"]
        meta = (message.get("params") or {}).get("_meta") or {}
        modern = META + "protocolVersion" in meta
        if (self.era or self.server.eras[0]) != ("modern" if modern else "legacy"):
            self._wrong_era(message, out)
            return
        job = Job(self, message, out)
        self.server.began(self, job)
        self.live[job.id] = job
        server = self.server
        if modern:
            self.declared = meta.get(META + "clientCapabilities") or {}
        if method in server.mute:
            return
        delay = server.delays.get(method, server.world.uniform(server.delay))
        job.later(delay, lambda: self._answer(job))

    def _wrong_era(self, message: Message, out: Out) -> None:
        if message["method"] == "initialize" and self.server.names_versions:
            out(
                error(message["id"], -32022, "unsupported version", {"supported": [MODERN], "requested": "?"})
            )
        else:
            out(error(message["id"], -32601, "method not found"))

    def _answer(self, job: Job) -> None:
        handler = {
            "initialize": self._initialize,
            "server/discover": self._discover,
            "ping": lambda job: job.answer({}),
            "tools/call": self._call,
            "resources/read": self._read,
            "prompts/get": self._prompt,
            "logging/setLevel": self._level,
            "resources/subscribe": self._subscribe,
            "resources/unsubscribe": self._subscribe,
            "subscriptions/listen": self._listen,
            "completion/complete": self._complete,
        }.get(job.method)
        if handler is not None:
            handler(job)
        elif job.method in LISTS:
            self._list(job)
        else:
            job.finish(error(job.id, -32601, "method not found"))

    def _initialize(self, job: Job) -> None:
        self.version = job.params["protocolVersion"]
        self.declared = job.params.get("capabilities") or {}
        job.answer(
            {
                "protocolVersion": self.version,
                "capabilities": self.server.capabilities,
                "serverInfo": {"name": self.server.name, "version": "1"},
                "instructions": f"use {self.server.name} well",
            }
        )

    def _discover(self, job: Job) -> None:
        job.answer(
            {
                "supportedVersions": [MODERN],
                "capabilities": self.server.capabilities,
                "ttlMs": 60_000,
                "cacheScope": "public",
                "_meta": {META + "serverInfo": {"name": self.server.name, "version": "1"}},
            }
        )

    def _list(self, job: Job) -> None:
        if self.server.lister is not None:
            self.server.lister(job)
            return
        member, items = LISTS[job.method], self.server.items(job.method)
        at = int(job.params.get("cursor") or 0)
        size = self.server.page_size
        value: Message = {member: items[at : at + size]}
        if at + size < len(items):
            value["nextCursor"] = str(at + size)
        if self.modern:
            value |= {"ttlMs": self.server.ttl_ms, "cacheScope": self.server.scope}
        job.answer(value)

    def _read(self, job: Job) -> None:
        if self.server.reader is not None:
            self.server.reader(job)
            return
        uri = job.params["uri"]
        body = self.server.resource(uri)
        if body is None:
            code = -32602 if self.modern else -32002
            job.finish(error(job.id, code, "resource not found", {"uri": uri}))
            return
        value: Message = {"contents": [{"uri": uri, "text": body}]}
        if self.modern:
            value |= {"ttlMs": 1000, "cacheScope": "public"}
        job.answer(value)

    def _prompt(self, job: Job) -> None:
        if job.params["name"] in self.server.scripts:
            self.server.scripts[job.params["name"]](job)
            return
        told = f"{self.server.name}:{job.params['name']}"
        job.answer({"messages": [{"role": "user", "content": {"type": "text", "text": told}}]})

    def _complete(self, job: Job) -> None:
        if self.server.completer is not None:
            self.server.completer(job)
            return
        job.answer({"completion": {"values": [f"{self.server.name}:{json.dumps(job.params['ref'])}"]}})

    def _level(self, job: Job) -> None:
        self.level = job.params["level"]
        job.answer({})

    def _subscribe(self, job: Job) -> None:
        if job.method == "resources/subscribe":
            self.watched[job.params["uri"]] = None
        else:
            self.watched.pop(job.params["uri"], None)
        job.answer({})

    def _listen(self, job: Job) -> None:
        if self.server.refuse_listen:
            job.finish(error(job.id, -32601, "method not found"))
            return
        wanted = job.params["notifications"]
        self.listens[job.id] = (wanted, job.out)
        params = {"notifications": wanted, "_meta": {META + "subscriptionId": job.id}}
        job.out(note("notifications/subscriptions/acknowledged", params))

    def _notification(self, message: Message) -> None:
        if message["method"] == "notifications/cancelled":
            id = message["params"]["requestId"]
            self.cancels.append(id)
            self.listens.pop(id, None)
            job = self.live.get(id)
            self.server.cancelled(self, id, job)
            if job is not None:
                job.stop()

    def _reply(self, message: Message) -> None:
        """The client's answer to a question of ours."""
        self.server.replies.append((self.server.world.now, message))
        job, then = self._asked.pop(message["id"], (None, None))
        if then is not None:
            then(message)
            return
        if job is None or job.cancelled or self.over:
            return
        if "error" in message:
            job.answer(text(f"{job.nonce}|refused"))
        else:
            told = (message["result"].get("content") or {}).get("answer", "")
            job.answer(text(f"{job.nonce}|{told}"))

    # -- out

    def changed(self, kind: str) -> None:
        """Tell that a list changed, where somebody listens."""
        if not self.modern:
            self.send(note(f"notifications/{kind}/list_changed", {}))
            return
        for id, (wanted, out) in list(self.listens.items()):
            if wanted.get(f"{kind}ListChanged"):
                out(note(f"notifications/{kind}/list_changed", {"_meta": {META + "subscriptionId": id}}))

    def updated(self, uri: str) -> None:
        if not self.modern:
            if uri in self.watched:
                self.send(note("notifications/resources/updated", {"uri": uri}))
            return
        for id, (wanted, out) in list(self.listens.items()):
            if uri in wanted.get("resourceSubscriptions", []):
                params = {"uri": uri, "_meta": {META + "subscriptionId": id}}
                out(note("notifications/resources/updated", params))

    def ask(self, job: Job | None, method: str, params: Message, out: Out, then: Then | None = None) -> int:
        """A request of our own to the client."""
        number = self._next
        self._next += 1
        self._asked[number] = (job, then)
        out({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        return number

    # -- tools

    def _call(self, job: Job) -> None:
        script = self.server.scripts.get(job.params["name"])
        if script is not None:
            script(job)
        else:
            getattr(self, "_tool_" + job.params["name"], self._unknown_tool)(job)

    def _unknown_tool(self, job: Job) -> None:
        job.finish(error(job.id, -32602, f"unknown tool {job.params['name']}"))

    def _tool_echo(self, job: Job) -> None:
        job.later(job.args.get("after", 0.0), lambda: job.answer(text(job.nonce)))

    def _tool_slow(self, job: Job) -> None:
        steps, every = job.args.get("steps", 3), job.args.get("every", 1.0)

        def step(number: int) -> None:
            if number > steps:
                job.answer(text(job.nonce))
                return
            if job.token is not None:
                params = {"progressToken": job.token, "progress": number, "message": job.nonce}
                job.out(note("notifications/progress", params))
            job.later(every, lambda: step(number + 1))

        job.later(every, lambda: step(1))

    def _tool_big(self, job: Job) -> None:
        job.answer(
            {"content": [{"type": "text", "text": job.nonce}], "pad": "x" * job.args.get("size", 100_000)}
        )

    def _tool_fail(self, job: Job) -> None:
        job.finish(error(job.id, -32050, f"failed {job.nonce}", {"nonce": job.nonce}))

    def _tool_silent(self, job: Job) -> None:
        """Never answers."""

    def _tool_twice(self, job: Job) -> None:
        job.answer(text(job.nonce))
        job.out(result(job.id, text("again")))

    def _tool_wrong(self, job: Job) -> None:
        for id in (999_999, str(job.id), None):
            job.out(result(id, text("of nobody")))
        job.answer(text(job.nonce))

    def _tool_die(self, job: Job) -> None:
        self.on_end()

    def _tool_garbage(self, job: Job) -> None:
        for line in (
            b"Traceback (most recent call last):\n",
            b"{]\n",
            b"\xff\xfe\n",
            b"[]\n",
            b"\n",
            b"null\n",
        ):
            self.raw(line)
        job.answer(text(job.nonce))

    def _tool_stray(self, job: Job) -> None:
        """Speaks of calls that are not its own, and then answers."""
        job.out(note("notifications/progress", {"progressToken": 999_999, "progress": 1}))
        job.out(note("notifications/cancelled", {"requestId": job.id}))
        job.out(note("notifications/nothing", {}))
        job.answer(text(job.nonce))

    def _tool_ask(self, job: Job) -> None:
        question = {"message": job.nonce, "requestedSchema": {"type": "object", "properties": {}}}
        if not self.modern:
            if "elicitation" not in self.declared:
                job.answer(text(f"{job.nonce}|cannot ask"))
                return
            self.ask(job, "elicitation/create", question, job.out)
            return
        state = f"state of {job.nonce} \u00e4"
        given = (job.params.get("inputResponses") or {}).get("q")
        if given is None:
            wanted = {"q": {"method": "elicitation/create", "params": {"mode": "form", **question}}}
            value = {"resultType": "input_required", "inputRequests": wanted, "requestState": state}
            job.finish(result(job.id, value))
            return
        told = (given.get("content") or {}).get("answer", "")
        kept = "" if job.params.get("requestState") == state else "|lost its state"
        job.answer(text(f"{job.nonce}|{told}{kept}"))


LISTS = {
    "tools/list": "tools",
    "prompts/list": "prompts",
    "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
}


def note(method: str, params: Message) -> Message:
    return {"jsonrpc": "2.0", "method": method, "params": params}
