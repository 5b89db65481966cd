"""Model clients: what all share, and those on a pipe; http_clients.py has the others.

Owns: requests with their ids, nonces and answers (`Call`), the answers to servers' questions, cancellation,
and the record that checkers read.
Must never: accept in silence what a gateway must not send: every such thing goes to `problems`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fuzz.sim import http
from fuzz.sim.streams import Stream
from fuzz.sim.talk import META, MODERN, Message, error, result

if TYPE_CHECKING:
    from fuzz.sim.http_clients import Wire
    from fuzz.sim.world import World

__all__ = ["FORM", "Call", "Client", "LegacyPipe", "ModernPipe", "PipeClient", "forsake", "key"]

FORM: Message = {"elicitation": {}}


class Call:
    """One request of a client, and all that came back for it."""

    def __init__(self, client: Client, id: Any, method: str, params: Message) -> None:
        self.client = client
        self.id = id
        self.method = method
        self.params = params
        self.nonce: str = (params.get("arguments") or {}).get("nonce", "")
        self.sent_at = client.world.now
        self.answered_at = 0.0
        self.answer: Message | None = None
        self.answers = 0
        self.status = 0
        self.headers: http.Headers = {}
        self.notes: list[tuple[float, Message]] = []
        self.comments: list[float] = []
        self.event_ids: list[str] = []
        self.closed = False  # its connection ended without an answer
        self.cancelled = False
        self.cancel_seen = False  # the gateway has been told of it
        self.next: Call | None = None  # the retry of an `input_required` round
        self.retrying = False  # that retry is still to come
        self.wire: Wire | None = None

    @property
    def over(self) -> bool:
        return self.answer is not None or self.closed

    @property
    def last(self) -> Call:
        return self if self.next is None else self.next.last

    @property
    def settled(self) -> bool:
        """Answered for good, or known to stay without an answer."""
        last = self.last
        return (last.over and not last.retrying) or last.cancelled

    @property
    def text(self) -> str:
        """The text of a tool's result."""
        assert self.last.answer is not None, f"no answer to {self.method} {self.nonce}"
        return str(self.last.answer["result"]["content"][0]["text"])

    @property
    def result(self) -> Message:
        assert self.last.answer is not None, f"no answer to {self.method} {self.nonce}"
        return self.last.answer["result"]  # type: ignore[no-any-return]

    @property
    def error(self) -> Message:
        assert self.last.answer is not None, f"no answer to {self.method} {self.nonce}"
        return self.last.answer["error"]  # type: ignore[no-any-return]

    @property
    def code(self) -> int | None:
        answer = self.last.answer
        return answer["error"]["code"] if answer is not None and "error" in answer else None

    @property
    def took(self) -> float:
        return self.last.answered_at - self.sent_at


def forsake(open: dict[Any, list[Call]]) -> None:
    """Their connection is gone: no answer will come for these."""
    for waiting in open.values():
        for call in waiting:
            call.closed = True
    open.clear()


class Client:
    """What all model clients share."""

    modern = False
    version = ""  # what a handshake asks for
    principal = "anonymous"

    def __init__(self, world: World, name: str, *, capabilities: Message | None = None) -> None:
        self.world = world
        self.name = name
        self.capabilities = capabilities if capabilities is not None else {}
        self.calls: list[Call] = []
        self.notes: list[tuple[float, Message]] = []
        self.questions: list[Message] = []
        self.problems: list[str] = []
        self.answer_after: float | None = 0.0  # None: never answers a question
        self.prefix = ""
        self.dead = False
        self._next = 1
        self._nonces = 0
        self.on_answer: Callable[[Call], None] = lambda call: None

    # -- requests

    def fresh(self) -> str:
        self._nonces += 1
        return f"{self.name}/{self._nonces}"

    def tool(
        self, name: str, *, id: Any = None, token: Any = None, meta: Message | None = None, **args: Any
    ) -> Call:
        """Call a tool with a nonce of this client's."""
        args.setdefault("nonce", self.fresh())
        params: Message = {"name": self.prefix + name, "arguments": args}
        if token is not None:
            meta = {**(meta or {}), "progressToken": token}
        return self.request("tools/call", params, id=id, meta=meta)

    def request(
        self, method: str, params: Message | None = None, *, id: Any = None, meta: Message | None = None
    ) -> Call:
        if id is None:
            id = self._next
            self._next += 1
        params = dict(params or {})
        meta = {**self.base_meta(), **(meta or {})}
        if meta:
            params["_meta"] = meta
        call = Call(self, id, method, params)
        self.calls.append(call)
        self.send_request(call, {"jsonrpc": "2.0", "id": id, "method": method, "params": params})
        return call

    def base_meta(self) -> Message:
        if not self.modern:
            return {}
        return {
            META + "protocolVersion": MODERN,
            META + "clientCapabilities": self.capabilities,
            META + "clientInfo": {"name": self.name, "version": "1"},
        }

    def introduce(self) -> Call:
        """The handshake of a client that has one."""
        params = {
            "protocolVersion": self.version,
            "capabilities": self.capabilities,
            "clientInfo": {"name": self.name, "version": "1"},
        }
        return self.request("initialize", params)

    def send_request(self, call: Call, message: Message) -> None:
        raise NotImplementedError

    def reply(self, message: Message) -> None:
        raise NotImplementedError

    # -- answers

    def answered(self, call: Call, message: Message) -> None:
        call.answers += 1
        if call.answers > 1:
            self.problem(f"a second answer to {call.method} {call.id} {call.nonce} (I1)")
            return
        if call.cancelled and call.cancel_seen and not self._may_cross(call):
            self.problem(f"an answer to {call.nonce} after its cancellation (I6)")
        call.answer = message
        call.answered_at = self.world.now
        self.world.say(f"{self.name} has the answer to {call.method} {call.nonce}")
        self._check_nonce(call, message)
        value = message.get("result")
        if self.modern and isinstance(value, dict) and value.get("resultType") == "input_required":
            self._input_required(call, value)
        self.on_answer(call)

    def _may_cross(self, call: Call) -> bool:
        """Whether an answer was on its way already when the cancellation arrived."""
        return True

    def _check_nonce(self, call: Call, message: Message) -> None:
        if not call.nonce or "result" not in message or "content" not in message["result"]:
            return
        told = str(message["result"]["content"][0]["text"])
        nonce, _, answer = told.partition("|")
        if nonce != call.nonce:
            self.problem(f"asked for {call.nonce}, was given {told!r} (I2)")
        elif answer not in ("", "cannot ask", "refused", f"{self.name} says {nonce}"):
            self.problem(f"asked for {call.nonce}, but somebody else answered the question: {told!r} (I2)")

    def problem(self, told: str) -> None:
        self.problems.append(f"{self.world.elapsed:.3f} {self.name}: {told}")

    def _input_required(self, call: Call, value: Message) -> None:
        wanted = value.get("inputRequests") or {}
        for request in wanted.values():
            self.questions.append(request)
            self._own_question(request["params"])
        if self.answer_after is None:
            return
        params = {
            name: one
            for name, one in call.params.items()
            if name not in ("_meta", "requestState", "inputResponses")
        }
        if wanted:
            params["inputResponses"] = {key: self.answer_to(one) for key, one in wanted.items()}
        if "requestState" in value:
            params["requestState"] = value["requestState"]

        call.retrying = True

        def retry() -> None:
            call.retrying = False
            if not self.dead:
                call.next = self.request(call.method, params)

        self.world.after(self.answer_after, retry)

    def retry(self, call: Call, answers: Message | None, *, state: Any = ..., **changed: Any) -> Call:
        """Go on with an `input_required` round by hand; `changed` replaces members of the params."""
        assert call.answer is not None
        told = call.answer["result"]
        params = {name: one for name, one in call.params.items() if name != "_meta"}
        params.pop("requestState", None)
        params.pop("inputResponses", None)
        if answers is not None:
            params["inputResponses"] = answers
        if state is ...:
            state = told.get("requestState")
        if state is not None:
            params["requestState"] = state
        return self.request(call.method, {**params, **changed})

    def _own_question(self, params: Message) -> None:
        nonce = str(params.get("message", ""))
        if "/" in nonce and not nonce.startswith(self.name + "/"):
            self.problem(f"was asked {nonce}, which is not its own (I2)")

    def answer_to(self, question: Message) -> Message:
        """What it says to a question, in whatever era it was asked."""
        if question["method"] == "roots/list":
            return {"roots": [{"uri": f"file:///{self.name}"}]}
        if question["method"] == "sampling/createMessage":
            said = {"type": "text", "text": f"{self.name} thinks"}
            return {"role": "assistant", "model": "m", "content": said}
        params = question["params"]
        if params.get("mode") == "url":
            return {"action": "accept"}
        return {"action": "accept", "content": {"answer": f"{self.name} says {params.get('message', '')}"}}

    def asked(self, message: Message) -> None:
        """A server asks, by request (legacy)."""
        if self.modern:
            self.problem(f"a modern client was sent a request: {message['method']}")
            return
        if message["method"] == "ping":
            self.reply(result(message["id"], {}))
            return
        self.questions.append(message)
        self._own_question(message.get("params") or {})
        if self.answer_after is None:
            return

        def answer() -> None:
            if self.dead:
                return
            feature = message["method"].partition("/")[0]
            if feature in self.capabilities:
                self.reply(result(message["id"], self.answer_to(message)))
            else:
                self.reply(error(message["id"], -32601, "not offered"))

        self.world.after(self.answer_after, answer)


class PipeClient(Client):
    """Over one stream, newline-framed: the gateway's own pipes, or a Unix socket."""

    stream: Stream
    principal = "local"

    def __init__(
        self, world: World, name: str, listener: str = "stdio", *, capabilities: Message | None = None
    ) -> None:
        super().__init__(world, name, capabilities=capabilities)
        self.listener = listener
        self._data = bytearray()
        self._open: dict[Any, list[Call]] = {}
        self.got_at = 0

    def open(self) -> PipeClient:
        self._start()
        return self

    def _start(self) -> None:
        kind = "unix" if self.listener.startswith("unix") else "stdio"
        if not self.world.net.connect(self.listener, self, kind):
            self.dead = True

    def encode(self, message: Message) -> bytes:
        return json.dumps(message).encode() + b"\n"

    def opened(self) -> None:
        pass

    def send_request(self, call: Call, message: Message) -> None:
        self._open.setdefault(key(call.id), []).append(call)
        self.send(message)

    def send(self, message: Message, then: Callable[[], None] | None = None) -> None:
        if not self.dead:
            self.stream.send(self.encode(message), then)

    def reply(self, message: Message) -> None:
        self.send(message)

    def data(self, data: bytes) -> None:
        self._data += data
        while (at := self._data.find(b"\n")) >= 0:
            line = bytes(self._data[:at])
            del self._data[: at + 1]
            self.got_at += at + 1
            told = json.loads(line)
            for message in told if isinstance(told, list) else [told]:
                self._message(message)

    def _message(self, message: Message) -> None:
        if "method" in message:
            if "id" in message:
                self.asked(message)
            else:
                self.notes.append((self.world.now, message))
            return
        waiting = self._open.get(key(message.get("id")))
        if not waiting:
            self.problem(f"an answer to nothing that was asked: {message} (I1)")
            return
        self.answered(waiting.pop(0), message)

    def cancel(self, call: Call, reason: str = "changed my mind") -> None:
        call.cancelled = True

        def seen() -> None:
            call.cancel_seen = True
            call.cancel_mark = self.stream.out_bytes  # type: ignore[attr-defined]

        params = {"requestId": call.id, "reason": reason}
        self.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}, seen)

    def _may_cross(self, call: Call) -> bool:
        return self.got_at <= call.cancel_mark  # type: ignore[attr-defined,no-any-return]

    def eof(self) -> None:
        self._lost()

    def gone(self) -> None:
        self._lost()

    def _lost(self) -> None:
        self.dead = True
        forsake(self._open)

    def leave(self) -> None:
        """Close stdin, as clients do."""
        self.stream.send_eof()


class LegacyPipe(PipeClient):
    version = "2025-11-25"

    def open(self) -> LegacyPipe:
        super().open()
        self.hello = self.initialize()
        return self

    def initialize(self) -> Call:
        call = self.introduce()
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return call


class ModernPipe(PipeClient):
    modern = True

    def open(self) -> ModernPipe:
        super().open()
        return self


def key(id: Any) -> str:
    return json.dumps(id)
