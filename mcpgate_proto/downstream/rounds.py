"""Calls of modern clients, and the rounds in which they are made (MRTR).

A round is one request. It ends with a result, an error, or with questions (`input_required`) and a sealed
`requestState`, in which everything travels that the retry needs:

    upstream   the upstream's own state, byte for byte (G8, G9); nothing is held here
    parked     which parked call the retry means, and which of its rounds (L1)
    again      the call is made afresh once the user has opened the URLs that a server asked for (L3)
    task       the task that a server made of the call, whose questions these are (L22); the server keeps it

Owns: `ModernCall`, the sealing and opening of `requestState`, the binding of a state to its request (G7).
Must never: accept a state of another principal or request, or one of a parked call twice (L1.6).
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Literal, Protocol

import msgspec

from mcpgate_proto.downstream import audited
from mcpgate_proto.downstream.live import FEATURES, HINTS, INPUT_REQUIRED, Track
from mcpgate_proto.downstream.outlet import Outlet
from mcpgate_proto.hub import SEVERITIES, Hub
from mcpgate_proto.mcp import codes, content, extensions
from mcpgate_proto.mcp.codes import Fault, FaultKind
from mcpgate_proto.mcp.meta import RequestMeta
from mcpgate_proto.relay.exchange import Ask, Caller, Carry, Client, Exchange, Members, TaskState
from mcpgate_proto.relay.parking import Parked, Parking
from mcpgate_proto.relay.tasks import TaskIds
from mcpgate_proto.timers import Timer
from mcpgate_proto.wire import jsonrpc, values
from mcpgate_proto.wire.jsonrpc import Raw

__all__ = [
    "TOO_LATE",
    "Answerer",
    "Continuation",
    "ModernCall",
    "Rounds",
    "Turn",
    "input_request",
    "undeclared_in",
]

CACHEABLE = ("resources/read",)
TASK = Raw(b'"task"')
Kept = Literal["upstream", "parked", "again", "task"]
TOO_LATE = Fault(FaultKind.BAD_STATE, "params.requestState is not valid here (any more); start the call over")


class Turn(msgspec.Struct, frozen=True):
    """One modern request in hand: what it says of itself, who asks, and the way back."""

    request: jsonrpc.Request
    told: RequestMeta
    client: Client
    outlet: Outlet
    track: Track
    # Of its POST, lower-case names; None where there are none.
    headers: list[tuple[str, str]] | None

    @property
    def method(self) -> str:
        return self.request.method

    def light(self) -> Turn:
        """What its answer needs, where that is long in coming: the request may be large."""
        told = RequestMeta(self.told.version, {}, None, None, {})
        bare = jsonrpc.Request(self.request.id, self.method, {})
        return msgspec.structs.replace(self, request=bare, told=told, headers=None)


class State(msgspec.Struct, array_like=True):
    """What is sealed in a `requestState`. `bound` is a digest of the request it was issued for."""

    kind: Kept
    bound: bytes
    payload: bytes
    round: int
    server: str = ""


class Continuation(msgspec.Struct, frozen=True):
    """What a request continues: nothing, an upstream's round, a parked call, or a call to be made afresh."""

    carry: Carry | None = None
    answers: Raw = Raw(b"")
    parked: Parked | None = None
    attempt: int = 0
    declined: bool = False
    # The server that the state came from; it goes to no other (L1.3, G8).
    server: str = ""


class Answerer(Protocol):
    """How a modern result or error is written."""

    def finish(self, turn: Turn, result: Members, kind: Raw = ...) -> None: ...
    def refuse(self, turn: Turn, fault: Fault, server: str = ...) -> None: ...


class Rounds:
    """Seals and opens `requestState`."""

    def __init__(self, hub: Hub, parking: Parking, tasks: TaskIds) -> None:
        self.hub = hub
        self.parking = parking
        self.tasks = tasks

    def open(self, turn: Turn) -> Continuation | Fault:
        """What the MRTR members of a request mean (G7, G10)."""
        params = turn.request.params
        answers = params.get("inputResponses", Raw(b""))
        given: Members = {}
        actions: list[str | None] = []
        if answers:
            try:
                given = jsonrpc.members(answers)
                actions = [values.text_of(jsonrpc.members(answer), "action") for answer in given.values()]
            except jsonrpc.JsonFault:
                return Fault(FaultKind.INVALID_PARAMS, "params.inputResponses is not an object of objects")
        told = params.get("requestState")
        if told is None:
            return Continuation(Carry() if answers else None, answers)
        state = self._unseal(turn, told)
        if state is None:
            return TOO_LATE
        if state.kind == "upstream":
            return Continuation(Carry(Raw(state.payload)), answers, server=state.server)
        if state.kind == "task":
            task = _task_state(state.payload)
            return Continuation(Carry(task=task), answers, server=state.server) if task else TOO_LATE
        if state.kind == "again":
            # Every URL that was asked for needs its own yes.
            agreed = len(actions) >= int(state.payload) and all(action == "accept" for action in actions)
            return Continuation(attempt=state.round, declined=not agreed)
        principal = turn.client.principal.id
        parked = self.parking.find(state.payload.decode(), principal, state.bound, state.round)
        if parked is None:
            self.hub.count("parked_not_found")
            return TOO_LATE
        return Continuation(answers=answers, parked=parked)

    def _unseal(self, turn: Turn, told: Raw) -> State | None:
        text = jsonrpc.text(told)
        if not text or len(text) > 2 * self.hub.limits.request_state_bytes:  # sealed and base64 of it
            return None
        opened = self.hub.sealer.open("request-state", turn.client.principal.id, text, self.hub.wall)
        if opened is None:
            return None
        try:
            state = msgspec.msgpack.decode(opened, type=State)
        except msgspec.MsgspecError:
            return None
        return state if state.bound == bound(turn.request) else None

    def seal(self, turn: Turn, kind: Kept, payload: bytes, round: int, server: str = "") -> Raw:
        sealed = msgspec.msgpack.encode(State(kind, bound(turn.request), payload, round, server))
        ttl_s = self.hub.limits.park_ttl_s if kind == "parked" else self.hub.limits.request_state_ttl_s
        principal = turn.client.principal.id
        return jsonrpc.to_raw(self.hub.sealer.seal("request-state", principal, sealed, self.hub.wall + ttl_s))

    def converted(self, ask: Ask) -> Ask:
        """A legacy server's question as a modern client is asked it (L1.3, I12)."""
        aggregated = not self.hub.config.transparent
        return Ask(ask.key, ask.method, content.up_question(ask.method, ask.params, aggregated=aggregated))

    def questions(self, asks: list[Ask], state: Raw | None) -> Members:
        """The members of an `input_required` result."""
        result: Members = {}
        if asks:
            wanted = {ask.key: input_request(ask.method, ask.params) for ask in asks}
            result["inputRequests"] = jsonrpc.encode_object(wanted)
        if state is not None:
            result["requestState"] = state
        return result


def _task_state(payload: bytes) -> TaskState | None:
    try:
        return msgspec.msgpack.decode(payload, type=TaskState)
    except msgspec.MsgspecError:
        return None


def input_request(method: str, params: Members) -> Raw:
    """One of the questions in a result."""
    return jsonrpc.encode_object({"method": jsonrpc.to_raw(method), "params": jsonrpc.encode_object(params)})


def bound(request: jsonrpc.Request) -> bytes:
    """What a `requestState` is issued for: the method, the name or URI, the arguments — however the client
    writes them the second time, the same values give the same digest."""
    params = request.params
    target = params.get("name") or params.get("uri") or values.EMPTY
    try:
        arguments = msgspec.json.encode(jsonrpc.plain(params.get("arguments", values.EMPTY)), order="sorted")
    except jsonrpc.JsonFault:
        arguments = b"?"
    return blake2b(b"\x00".join((request.method.encode(), bytes(target), arguments)), digest_size=16).digest()


def undeclared_in(client: Client, asks: list[Ask]) -> Fault | None:
    """G6: only what the client declared in this very request may be asked."""
    declared = values.object_or_empty(client.capabilities)
    for ask in asks:
        if ask.method not in FEATURES:
            return Fault(FaultKind.INTERNAL, "the server asked for something unknown")
        missing = content.lacking(ask.method, ask.params, declared)
        if missing is not None:
            return codes.missing_capability(missing)
    return None


class ModernCall:
    """One round of a modern client's call. Implements `relay.exchange.Caller` and `Live`."""

    def __init__(self, answerer: Answerer, rounds: Rounds, turn: Turn, attempt: int = 0) -> None:
        told = turn.told
        self._answerer = answerer
        self._rounds = rounds
        self._turn = turn
        self._attempt = attempt
        level = jsonrpc.text(told.log_level) if told.log_level is not None else None
        self._level = SEVERITIES.index(level) if level in SEVERITIES else None
        self._exchange: Exchange | None = None
        # Where it goes, once that is known.
        self.server = ""
        self.done = False
        self._asks: list[Ask] = []
        self._debounce: Timer | None = None

    def begin(self, exchange: Exchange) -> None:
        self._exchange = exchange
        if not self.done:
            exchange.throttle(self._turn.outlet.pressed)

    # -- from the transport

    def cancel(self, reason: str) -> None:
        """C24: stop work, send nothing more."""
        if not self.done:
            self.over()
            if self._exchange is not None:
                self._exchange.cancel(reason)
            self._turn.outlet.finish(None)

    def throttle(self, on: bool) -> None:
        if self._exchange is not None:
            self._exchange.throttle(on)

    def over(self) -> None:
        """Nothing more is to be done for this round; its answer is the caller's business."""
        self.done = True
        if self._debounce is not None:
            self._debounce.cancel()
            self._debounce = None
        self._turn.outlet.hold("server is slow", False)

    # -- Caller

    def progressed(self, params: Members) -> None:
        token = self._turn.told.progress_token
        if token is not None and not self.done:
            told = {"progressToken": token, **params}
            self._turn.outlet.notify(jsonrpc.encode_notification("notifications/progress", told))

    def logged(self, params: Members) -> None:
        """H18: only for a request that named a level, and only from that level up."""
        level = values.text_of(params, "level")
        if self.done or self._level is None or level not in SEVERITIES:
            return
        if SEVERITIES.index(level) >= self._level:
            self._turn.outlet.notify(jsonrpc.encode_notification("notifications/message", params))

    def asked(self, asks: list[Ask], carry: Carry | None) -> None:
        """The round ends with the questions. Where the upstream keeps nothing, neither do we; a call that
        is held live is parked, after a moment in which more questions may come (L1.4)."""
        if self.done or self._exchange is None:
            return
        if carry is None:
            self._asks.extend(asks)
            if self._debounce is None:
                wait_s = self._rounds.hub.limits.ask_debounce_s
                self._debounce = self._rounds.hub.after(wait_s, "questions", self._park)
            return
        if carry.task is not None and undeclared_in(self._turn.client, asks) is not None:
            self._exchange.cancel("the client did not declare what the task asks for")
        if len(bytes(carry.state)) > self._rounds.hub.limits.request_state_bytes:
            told = "the server's requestState is too large to be carried"
            self._exchange.fail(Fault(FaultKind.INTERNAL, told))
            return
        server = self._exchange.server
        self._exchange.round_over()
        # None where the upstream gave none: a state is never invented (G9).
        kept = bytes(carry.state)
        state = self._rounds.seal(self._turn, "upstream", kept, 0, server) if kept else None
        if carry.task is not None:
            state = self._rounds.seal(self._turn, "task", msgspec.msgpack.encode(carry.task), 0, server)
        self._end_round(asks, state)

    def _end_round(self, asks: list[Ask], state: Raw | None) -> None:
        self.over()
        missing = undeclared_in(self._turn.client, asks)
        if missing is not None:
            self._answerer.refuse(self._turn, missing)
        else:
            self._answerer.finish(self._turn, self._rounds.questions(asks, state), INPUT_REQUIRED)

    def _park(self) -> None:
        self._debounce = None
        exchange = self._exchange
        if self.done or exchange is None or not self._asks:
            return
        asks, self._asks = self._asks, []
        missing = undeclared_in(self._turn.client, asks)
        if missing is not None:
            # L1.14: cannot happen with a server that keeps to what was declared.
            self.over()
            exchange.cancel("the client did not declare what the server asks for")
            self._answerer.refuse(self._turn, missing)
            return
        asks = [self._rounds.converted(ask) for ask in asks]
        parked = self._rounds.parking.park(exchange, asks, bound(self._turn.request))
        if parked is None:
            self.over()
            exchange.cancel("too many calls wait for answers")
            self._answerer.refuse(self._turn, Fault(FaultKind.OVERLOADED, "too many calls wait for answers"))
            return
        self._end_round(asks, self._rounds.seal(self._turn, "parked", parked.id.encode(), parked.round))

    def withdrawn(self, key: str) -> None:
        self._asks = [ask for ask in self._asks if ask.key != key]

    def moved(self, key: str, to: Caller) -> None:
        """Calls of stateless clients have their channel to themselves."""

    def became_task(self, task: Members) -> None:
        """N3: the server made a task of the call; the client gets an id that only it can use."""
        if self.done or self._exchange is None:
            return
        self.over()
        if not self._declares(extensions.TASKS_NEEDED):
            # A retry that declares less than the call did: never a task to such (N3).
            self._answerer.refuse(self._turn, codes.missing_capability(extensions.TASKS_NEEDED))
            return
        own = values.text_of(task, "taskId") or ""
        session = self._exchange.operation.made_in
        shown = self._rounds.tasks.seal(self._turn.client.principal.id, self._exchange.server, own, session)
        self._answerer.finish(self._turn, {**task, "taskId": jsonrpc.to_raw(shown)}, TASK)

    def completed(self, result: Members) -> None:
        if not self.done:
            self.over()
            audited.completed(self._turn.outlet, result)
            fitted = content.up_result(self._turn.method, result)
            if self._turn.method in CACHEABLE:
                # H21, H22: a legacy server gives no hints, and there is no safe default but these.
                hints: Members = {name: result[name] for name in HINTS if name in result}
                fitted = {**fitted, "ttlMs": Raw(b"0"), "cacheScope": Raw(b'"private"'), **hints}
            self._answerer.finish(self._turn, fitted)

    def failed(self, fault: Fault) -> None:
        if self.done:
            return
        self.over()
        if fault.kind is FaultKind.URL_ELICITATION and self._ask_to_open(fault):
            return
        if fault.kind is FaultKind.DENIED and self._turn.method == "tools/call":
            audited.failed(self._turn.outlet, fault, 0)
            self._answerer.finish(self._turn, content.tool_failure(fault.message))
            return
        if fault.kind is FaultKind.MISSING_CAPABILITY and self._declares(fault.data):
            # L8: the client has it; it is the gateway that could not carry it.
            fault = Fault(FaultKind.INTERNAL, "the server needs what cannot be carried to it")
        self._answerer.refuse(self._turn, fault, self.server)

    def _declares(self, required: Raw) -> bool:
        declared = self._turn.told.capabilities
        needed = values.object_or_empty(required)
        listed = extensions.declared(declared)
        more = all(name in listed for name in extensions.declared(needed))
        return more and content.declares(declared, values.without(needed, "extensions"))

    def _ask_to_open(self, fault: Fault) -> bool:
        """L3: the URLs of a -32042 become questions; the call is made again once they are answered."""
        declared = values.object_or_empty(self._turn.client.capabilities)
        modes = values.object_or_empty(declared.get("elicitation", values.EMPTY))
        attempt = self._attempt + 1
        if "url" not in modes or attempt > self._rounds.hub.limits.rounds_per_call:
            return False
        listed = values.items(values.object_or_empty(fault.data).get("elicitations", Raw(b"[]"))) or []
        asks = []
        for number, raw in enumerate(listed[: self._rounds.hub.limits.asks_per_call]):
            ask = Ask(f"url-{number}", "elicitation/create", values.object_or_empty(raw))
            asks.append(self._rounds.converted(ask))
        if not asks:
            return False
        result = self._rounds.questions(
            asks, self._rounds.seal(self._turn, "again", b"%d" % len(asks), attempt)
        )
        self._answerer.finish(self._turn, result, INPUT_REQUIRED)
        return True

    def congested(self, on: bool) -> None:
        if not (self.done and on):
            self._turn.outlet.hold("server is slow", on)
