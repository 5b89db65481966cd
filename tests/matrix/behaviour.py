"""A model server of either era, whatever carries its messages: what it does, and what it was told.

Tools: `echo` (both ways, any size), `steps` (reports progress), `hold` (answers when the test says so), `ask`
(a question to the client first: a request of its own if legacy, an incomplete result if modern).
Must never: know the transport or the gateway; forgive what a revision forbids (`problems`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.matrix.talk import LEGACY, MODERN, PREFIX, WAIT_S, Journal, Message

__all__ = ["Heard", "ModelServer", "Reply", "Session"]

STEPS = 3
TOOLS = ("echo", "steps", "hold", "ask")
QUESTION = "which one?"


class Reply(Protocol):
    """The way back for one request: what belongs to it, then its answer (None: there will be none)."""

    def tell(self, message: Message) -> None: ...
    def finish(self, message: Message | None) -> None: ...


@dataclass(frozen=True)
class Heard:
    """`kind`: request, notification or answer; `closed`: the client closed the stream of request `id`;
    `left`: it ended session `session`."""

    kind: str
    session: int
    method: str = ""
    id: Any = None
    params: Message = field(default_factory=dict)


class Session:
    """What one channel (or one `Mcp-Session-Id`) has seen."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.ids: set[Any] = set()
        self.initialized = False
        self.questions = 0
        # What goes on once the client has answered.
        self.waiting: dict[str, Callable[[Message], None]] = {}
        self.held: dict[Any, Reply] = {}


class ModelServer:
    """One server; `session` gives each channel its own state."""

    def __init__(self, era: str) -> None:
        self.era = era
        self.journal = Journal(f"{era} server")
        self.problems: list[str] = []
        # Clear: `notifications/initialized` has come, and is taken note of once this is set.
        self.welcoming = threading.Event()
        self.welcoming.set()
        self._lock = threading.RLock()
        self._sessions: list[Session] = []

    def session(self) -> Session:
        with self._lock:
            self._sessions.append(Session(len(self._sessions) + 1))
            return self._sessions[-1]

    def note(self, *args: Any, **more: Any) -> None:
        self.journal.add(Heard(*args, **more))

    def wrong(self, what: str, message: Any) -> None:
        with self._lock:
            self.problems.append(f"{what}: {str(message)[:300]}")

    def release(self) -> None:
        """Answer every call that `hold` keeps."""
        with self._lock:
            held = [(id, reply) for one in self._sessions for id, reply in one.held.items()]
            for one in self._sessions:
                one.held.clear()
        for id, reply in held:
            reply.finish(self._text(id, "released"))

    def left(self, session: Session) -> None:
        with self._lock:
            session.held.clear()
        self.note("left", session.number)

    def closed(self, session: Session, id: Any) -> None:
        """The client has closed the stream of a request that is not answered yet."""
        with self._lock:
            session.held.pop(id, None)
        self.note("closed", session.number, id=id)

    # -- messages

    def handle(self, session: Session, message: Message, reply: Reply) -> None:
        if message.get("jsonrpc") != "2.0":
            self.wrong("not JSON-RPC 2.0", message)
        method, params, id = message.get("method"), message.get("params", {}), message.get("id")
        if method is None:
            self._answered(session, message, reply)
        elif "id" not in message:
            self.note("notification", session.number, method, params=params)
            self._notified(session, method, params)
            reply.finish(None)
        else:
            with self._lock:
                if id in session.ids:
                    self.wrong("an id came twice", message)
                session.ids.add(id)
            self.note("request", session.number, method, id, params)
            told = self._modern if self.era == "modern" else self._legacy
            told(session, method, id, params, reply)

    def _answered(self, session: Session, message: Message, reply: Reply) -> None:
        self.note("answer", session.number, id=message.get("id"))
        with self._lock:
            go_on = session.waiting.pop(str(message.get("id")), None)
        if self.era == "modern" or go_on is None:
            self.wrong("an answer to nothing", message)
        reply.finish(None)
        if go_on is not None:
            go_on(message)

    def _notified(self, session: Session, method: str, params: Message) -> None:
        if method == "notifications/cancelled":
            with self._lock:
                reply = session.held.pop(params.get("requestId"), None)
            if reply is not None:
                reply.finish(None)  # work stops, nothing more is said
        elif method == "notifications/initialized" and self.era == "legacy":
            self.welcoming.wait(WAIT_S)
            session.initialized = True
        else:
            self.wrong("a notification that nobody sends", method)

    def _legacy(self, session: Session, method: str, id: Any, params: Message, reply: Reply) -> None:
        if method == "server/discover":
            reply.finish(_error(id, -32601, "Method not found"))
        elif method == "initialize":
            told = {"capabilities": {"tools": {}}, "serverInfo": {"name": "model", "version": "1"}}
            reply.finish(_result(id, {"protocolVersion": params.get("protocolVersion", LEGACY), **told}))
        elif not session.initialized:
            self.wrong("a request before initialized", method)
            reply.finish(_error(id, -32600, "not initialized"))
        else:
            self._common(session, method, id, params, reply, {})

    def _modern(self, session: Session, method: str, id: Any, params: Message, reply: Reply) -> None:
        meta = params.get("_meta", {})
        if method == "initialize":
            data = {"supported": [MODERN], "requested": str(params.get("protocolVersion"))}
            reply.finish(_error(id, -32022, "Unsupported protocol version", data))
            return
        if meta.get(PREFIX + "protocolVersion") != MODERN or PREFIX + "clientCapabilities" not in meta:
            self.wrong("a modern request without its metadata", params)
        hints = {"resultType": "complete", "ttlMs": 60_000, "cacheScope": "public"}
        if method == "server/discover":
            told = {"supportedVersions": [MODERN], "capabilities": {"tools": {}}}
            reply.finish(_result(id, {**hints, **told}))
        else:
            self._common(session, method, id, params, reply, hints)

    def _common(
        self, session: Session, method: str, id: Any, params: Message, reply: Reply, hints: Message
    ) -> None:
        if method == "tools/list":
            tools = [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]
            reply.finish(_result(id, {**hints, "tools": tools}))
        elif method == "tools/call" and params.get("name") in TOOLS:
            self._call(session, params["name"], id, params, reply)
        elif method == "ping" and self.era == "legacy":
            reply.finish(_result(id, {}))
        else:
            reply.finish(_error(id, -32601, "Method not found"))

    def _text(self, id: Any, text: str) -> Message:
        kind = {"resultType": "complete"} if self.era == "modern" else {}
        return _result(id, {**kind, "content": [{"type": "text", "text": text}]})

    def _call(self, session: Session, name: str, id: Any, params: Message, reply: Reply) -> None:
        if name == "echo":
            reply.finish(self._text(id, params["arguments"]["text"]))
        elif name == "hold":
            with self._lock:
                session.held[id] = reply
            self.note("held", session.number, id=id)
        elif name == "steps":
            token = params.get("_meta", {}).get("progressToken")
            if token is None:
                self.wrong("progress was not asked for", params)
            for done in range(1, STEPS + 1):
                told = {"progressToken": token, "progress": done, "total": STEPS}
                reply.tell({"jsonrpc": "2.0", "method": "notifications/progress", "params": told})
            reply.finish(self._text(id, f"{STEPS} steps"))
        elif self.era == "modern":
            self._ask_by_result(id, params, reply)
        else:
            self._ask_by_request(session, id, reply)

    # -- questions to the client

    def _ask_by_request(self, session: Session, id: Any, reply: Reply) -> None:
        def go_on(answer: Message) -> None:
            value = answer.get("result", {}).get("content", {}).get("value")
            reply.finish(self._text(id, f"told {value}"))

        with self._lock:
            session.questions += 1
            key = f"question-{session.questions}"
            session.waiting[key] = go_on
        reply.tell({"jsonrpc": "2.0", "id": key, "method": "elicitation/create", "params": _question()})

    def _ask_by_result(self, id: Any, params: Message, reply: Reply) -> None:
        answers = params.get("inputResponses")
        if answers is None:
            asked = {"q": {"method": "elicitation/create", "params": _question()}}
            told = {"resultType": "input_required", "inputRequests": asked, "requestState": "round 1"}
            reply.finish(_result(id, told))
            return
        if params.get("requestState") != "round 1":
            self.wrong("the state did not come back as it was", params)
        value = answers.get("q", {}).get("content", {}).get("value")
        reply.finish(self._text(id, f"told {value}"))


def _question() -> Message:
    schema = {"type": "object", "properties": {"value": {"type": "string"}}, "required": ["value"]}
    return {"message": QUESTION, "requestedSchema": schema}


def _result(id: Any, result: Message) -> Message:
    return {"jsonrpc": "2.0", "id": id, "result": result}


def _error(id: Any, code: int, message: str, data: Any = None) -> Message:
    more = {} if data is None else {"data": data}
    return {"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message, **more}}
