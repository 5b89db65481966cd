"""One operation on its way through the gateway, and the two ports it passes.

An `Exchange` stands between a `Caller` (a downstream face) and a `Target` (an upstream face). It lives
through one or more *rounds*: a round is one request of a client and gets exactly one answer. Faces turn
their own revision into these calls and back; nothing here knows a revision.

            Caller                    Exchange                     Target
    client  ------>  cancel, answer          ------>  begin, resume, cancel  ------>  server
            <------  progressed, asked, ...  <------  progress, ask, complete <------

Owns: the life of an operation, its clock (idle time; progress winds it; stopped while a client is being
asked; an absolute ceiling), progress that only rises, and the gathering of answers.
Must never: hold hop facts (ids, tokens, versions); deliver more than one outcome.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol

import msgspec

from mcpgate_proto.hub import Hub
from mcpgate_proto.mcp.codes import Fault, FaultKind
from mcpgate_proto.mcp.mirror import HeaderPlan
from mcpgate_proto.mcp.revisions import Era
from mcpgate_proto.security.principal import Principal
from mcpgate_proto.timers import Timer
from mcpgate_proto.wire.jsonrpc import Raw

__all__ = [
    "Answer",
    "Ask",
    "Audience",
    "Caller",
    "Carry",
    "Client",
    "Exchange",
    "Operation",
    "Phase",
    "TOO_MUCH",
    "Route",
    "Target",
    "TaskOwner",
    "TaskState",
    "Updates",
]

Members = dict[str, Raw]
TOO_MUCH = Fault(FaultKind.OVERLOADED, "too much is held by calls in flight")


class Ask(msgspec.Struct, frozen=True):
    """One thing that a server wants from the client: elicitation, sampling or roots."""

    key: str
    method: str
    params: Members


class Answer(msgspec.Struct, frozen=True):
    """The client's answer to an `Ask`: a result object, or a fault."""

    result: Raw = Raw(b"")
    fault: Fault | None = None


class TaskState(msgspec.Struct, frozen=True, array_like=True):
    """A task that the gateway drives: the server's id, the keys of its questions that the client was asked,
    and those that were answered already."""

    id: str
    asked: tuple[str, ...] = ()
    answered: tuple[str, ...] = ()


class Carry(msgspec.Struct, frozen=True):
    """The upstream's continuation, held by whoever answers: its exact `requestState`, possibly absent, or
    the task that its answers belong to."""

    state: Raw = Raw(b"")
    task: TaskState | None = None


class Audience(Protocol):
    """A client that can be reached outside a call: one legacy session."""

    key: str

    @property
    def reachable(self) -> bool:
        """A question outside a call would be seen now, not only when the client comes back."""

    def asked_outside(self, ask: Ask, answer: AnswerSink) -> bool:
        """Put `ask` to the client. False if it cannot be reached or did not declare the feature."""

    def withdrawn_outside(self, ask: Ask) -> None: ...
    def logged_outside(self, params: Members) -> None: ...


class AnswerSink(Protocol):
    def __call__(self, key: str, answer: Answer, /) -> None: ...


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, as far as upstream faces need to know to choose and share channels.

    `key` names one client (a legacy session; one connection of a pipe; else empty): requests of the
    same `key` may share an exclusive channel. `capabilities` is what modern servers are told, `profile`
    what legacy ones are (L0.2), both canonical.
    """

    principal: Principal
    era: Era
    revision: str
    capabilities: Raw = Raw(b"{}")
    profile: Raw = Raw(b"{}")
    features: bool = False
    key: str = ""
    audience: Audience | None = None

    @property
    def featureless(self) -> Client:
        """As the catalog session knows it: the same principal and era, nothing declared."""
        none = Raw(b"{}")
        return msgspec.structs.replace(self, capabilities=none, profile=none, features=False, audience=None)


class Updates(Protocol):
    """Who hears what a server says on the stream of a subscription."""

    def acknowledged(self, agreed: Members) -> None: ...
    def updated(self, params: Members) -> None: ...


class TaskOwner(Protocol):
    """A legacy client that asked a legacy server for a task: what it is told of it outside answers (L22)."""

    def changed(self, task: Members) -> None: ...
    def progressed(self, params: Members) -> None: ...


class Operation(msgspec.Struct, kw_only=True):
    """What is asked, free of hop facts. `params` is without `_meta`; `meta` has the end-to-end members."""

    method: str
    params: Members
    meta: Members
    client: Client
    # What the client calls the tool, the prompt or the resource.
    shown: str = ""
    log_level: str | None = None
    wants_progress: bool = False
    # A modern client's retry: the answers, and the upstream's own continuation.
    answers: Raw = Raw(b"")
    carry: Carry | None = None
    # The tool's mirrored headers, where its definition is known; looked up afresh once (D5).
    plan: HeaderPlan | None = None
    replanned: bool = False
    # Sent again once, on a new session, after the server had forgotten the old one (D10).
    replaced: bool = False
    # The client takes a task in place of the result: it said so on this very request (N3).
    takes_task: bool = False
    # The task that is being driven for a client without tasks (L22), and how often in a row its server
    # could not be asked about it.
    task: TaskState | None = None
    losses: int = 0
    # The tasks of legacy servers live in one session: which one this is about, and which one a task was made
    # in of this call. `needs_task`: the tool has to be called as a task.
    session: str = ""
    made_in: str = ""
    needs_task: bool = False
    owner: TaskOwner | None = None
    # A subscription: it has no clock.
    updates: Updates | None = None
    # Headers of the client's request that some server wants forwarded, in lower case.
    forwarded: tuple[tuple[str, str], ...] = ()
    # What the client's request keeps in memory, in bytes.
    weight: int = 0

    @property
    def interactive(self) -> bool:
        """A server may ask the client during this one."""
        return self.method in INTERACTIVE and self.client.features


# Not `tasks/result`: what is asked there names its task, so the channel need not be kept for it.
INTERACTIVE = ("tools/call", "prompts/get", "resources/read")


class Caller(Protocol):
    """The port on the client's side. Called at most once: one of `completed`, `became_task`, `failed` — or
    `asked` with a carry when the client's revision lets the round end there."""

    def progressed(self, params: Members) -> None: ...
    def logged(self, params: Members) -> None: ...
    def asked(self, asks: list[Ask], carry: Carry | None) -> None: ...
    def withdrawn(self, key: str) -> None: ...
    def moved(self, key: str, to: Caller) -> None:
        """The open question `key` turned out to be that of another call, of the same client."""

    def completed(self, result: Members) -> None: ...
    def became_task(self, task: Members) -> None:
        """What the server made of the call, in the form of the extension, with the server's own id."""

    def failed(self, fault: Fault) -> None: ...
    def congested(self, on: bool) -> None: ...


class Target(Protocol):
    """The port on the server's side."""

    @property
    def exclusive(self) -> bool:
        """A call that may lead to questions has the whole channel to itself (L0.4)."""

    def begin(self, exchange: Exchange) -> None: ...
    def resume(self, exchange: Exchange, answers: dict[str, Answer], carry: Carry | None) -> None: ...
    def cancel(self, exchange: Exchange, reason: str) -> None: ...
    def throttle(self, exchange: Exchange, on: bool) -> None: ...
    def unsent(self, exchange: Exchange) -> bool:
        """The server cannot have seen what was last sent for it."""


class Route(msgspec.Struct, frozen=True):
    """Where an operation goes: the server, its own params, and the tool's mirrored headers.

    `needs_task`: the tool has to be called as a task. `session`: where the task lives that this is about, if
    it is a legacy server's.
    """

    server: str
    params: Members
    plan: HeaderPlan | None = None
    needs_task: bool = False
    session: str = ""


class Phase(Enum):
    WAITING = "waiting"  # for a channel to the server
    RUNNING = "running"
    ASKING = "asking"  # the client is being asked: no clock
    DONE = "done"


class Exchange:
    """One operation. See the head of this file."""

    __slots__ = (
        "_answers",
        "_began_at",
        "_ceiling",
        "_clock",
        "_hub",
        "_idle_s",
        "_judge",
        "_live",
        "_open",
        "_progress",
        "_questions",
        "_rounds",
        "_weight",
        "_wound_at",
        "caller",
        "carry",
        "operation",
        "phase",
        "server",
        "target",
        "throttled",
    )

    def __init__(
        self,
        hub: Hub,
        operation: Operation,
        caller: Caller,
        idle_s: float,
        live: dict[Exchange, None],
        judge: Callable[[Exchange], Fault | None],
    ) -> None:
        self._hub = hub
        self._judge = judge  # why it may not go on, if so
        self._live = live  # all exchanges that have no outcome yet
        live[self] = None
        self.operation = operation
        self._weight = 0
        self.caller = caller
        self.target: Target | None = None
        self.server = ""  # where it goes, by its configured name
        self.phase = Phase.WAITING
        self.throttled = False
        self.carry: Carry | None = None
        self._idle_s = idle_s
        self._open: dict[str, None] = {}
        self._answers: dict[str, Answer] = {}
        self._progress: float | None = None
        self._rounds = 0
        self._questions = 0
        self._wound_at = self._began_at = hub.now
        self._clock: Timer | None = None
        self._ceiling: Timer | None = None
        if operation.updates is None:
            self._clock = hub.after(idle_s, "call idle", self._idle)
            self._ceiling = hub.after(hub.limits.call_ceiling_s, "call ceiling", self._expired)

    # -- from downstream

    def cancel(self, reason: str) -> None:
        """The client gives up. The caller hears nothing more."""
        if self.phase is Phase.DONE:
            return
        target = self.target
        self._end("cancelled")
        if target is not None:
            target.cancel(self, reason)

    def answer(self, key: str, answer: Answer) -> None:
        """The client answered what it was asked under `key`; unknown or repeated keys are ignored."""
        if self.phase is not Phase.ASKING or key not in self._open:
            return
        del self._open[key]
        self._answers[key] = answer
        if self.carry is not None and self._open:
            # A modern server gets all answers of a round at once (G8).
            if not self.weigh(len(answer.result)):
                self._give_up(TOO_MUCH)
            return
        answers, self._answers = self._answers, {}
        carry = self.carry
        if not self._open:
            self.phase = Phase.RUNNING
            self.carry = None
            self._wind()
        self._resume(answers, carry)

    def _resume(self, answers: dict[str, Answer], carry: Carry | None) -> None:
        if self.let() and self.target is not None:
            self.target.resume(self, answers, carry)

    def weigh(self, more: int) -> bool:
        """`more` bytes are kept for it until its outcome. False: all calls keep too much together, and this
        is not small."""
        if self.phase is Phase.DONE:
            return True
        self._weight += more
        return self._hub.keep(self.operation.client.principal.id, more)

    def let(self) -> bool:
        """Whether it may go on: the rules may have changed since it was sent. If it may not, it ends here."""
        fault = self._judge(self) if self.phase is not Phase.DONE else None
        if fault is not None:
            self._give_up(fault)
        return self.phase is not Phase.DONE

    def throttle(self, on: bool) -> None:
        """The client's side takes no more for now (true), or again (false)."""
        if self.throttled is on or self.phase is Phase.DONE:
            return
        self.throttled = on
        if not on and self.phase is Phase.RUNNING:
            self._wind()  # the server was kept from answering by our own client
        if self.target is not None:
            self.target.throttle(self, on)

    # -- from upstream

    def bind(self, target: Target) -> None:
        if self.phase is Phase.DONE:
            return
        self.target = target
        self.phase = Phase.RUNNING
        self._wind()
        target.begin(self)

    def progress(self, value: float, params: Members) -> None:
        """Progress winds the clock; only rising values go on (G26, G27)."""
        if self.phase is Phase.DONE:
            return
        self._wind()
        if self._progress is not None and value <= self._progress:
            return
        self._progress = value
        if self.operation.wants_progress:
            self.caller.progressed(params)

    def log(self, params: Members) -> None:
        if self.phase is not Phase.DONE:
            self.caller.logged(params)

    def ask(self, asks: list[Ask], carry: Carry | None) -> None:
        """The server wants something from the client. `carry` None: the upstream call is held live."""
        if self.phase is Phase.DONE:
            return
        limits = self._hub.limits
        self._rounds += 1
        if len(self._open) + len(asks) > limits.asks_per_call or self._rounds > limits.rounds_per_call:
            self._give_up(Fault(FaultKind.OVERLOADED, "the server asked the client too often"))
            return
        for ask in asks:
            self._open[ask.key] = None
        self.phase = Phase.ASKING
        self.carry = carry
        self.caller.asked(asks, carry)
        if carry is not None and not asks and self.phase is Phase.ASKING:
            # A state without questions (load shedding): go on at once (L2.4).
            # With backoff: the server is shedding load (G13).
            delay = min(0.1 * 2.0 ** min(self._rounds, 8), 10.0)
            self._hub.after(self._hub.entropy.jitter(delay), "next round", lambda: self._go_on(carry))

    def _go_on(self, carry: Carry) -> None:
        if self.phase is Phase.ASKING and self.carry is carry:
            self.phase = Phase.RUNNING
            self.carry = None
            self._wind()
            self._resume({}, carry)

    def withdraw(self, key: str) -> None:
        """The server no longer wants the answer under `key`."""
        if self.phase is not Phase.ASKING or key not in self._open:
            return
        del self._open[key]
        if not self._open:
            self.phase = Phase.RUNNING
            self._wind()
        self.caller.withdrawn(key)

    def rest(self, wait_s: float) -> None:
        """The server said when it wants to be asked again: the idle clock counts from then on."""
        if self.phase is not Phase.DONE:
            self._wind()
            self._wound_at += wait_s

    def hand_over(self, key: str, other: Exchange) -> None:
        """The open question `key` belongs to `other` from now on; the client goes on answering it."""
        if key not in self._open or other.phase is Phase.DONE:
            return
        del self._open[key]
        if not self._open and self.phase is Phase.ASKING:
            self.phase = Phase.RUNNING
            self._wind()
        other._open[key] = None
        other.phase = Phase.ASKING
        self.caller.moved(key, other.caller)

    @property
    def is_asking(self) -> bool:
        return self.phase is Phase.ASKING

    @property
    def is_unsent(self) -> bool:
        """It waits for a channel, or on one for a token or a connection. Not while a task is followed: that
        goes on, whatever becomes of the next request about it."""
        if self.phase is not Phase.RUNNING or self.target is None or self.operation.task is not None:
            return self.phase is Phase.WAITING
        return self.target.unsent(self)

    def complete(self, result: Members) -> None:
        if self.phase is not Phase.DONE:
            self._end("ok")
            self.caller.completed(result)

    def complete_with_task(self, task: Members) -> None:
        """The server made a task of it, which only a client that declared tasks is given (N3)."""
        if not self.operation.takes_task:
            self.fail(Fault(FaultKind.INTERNAL, "the server answered with a task that nobody asked for"))
        elif self.phase is not Phase.DONE:
            self._end("ok")
            self.caller.became_task(task)

    def fail(self, fault: Fault) -> None:
        if self.phase is not Phase.DONE:
            self._end("error")
            self.caller.failed(fault)

    def lost(self, maybe_executed: bool, detail: str = "") -> None:
        """The server is gone with the call unanswered; `detail` says why, to the log."""
        told = "the server went away during the call; it may have been carried out"
        told = told if maybe_executed else "the server is not available"
        self.fail(Fault(FaultKind.UPSTREAM_DOWN, told, detail=detail))

    def stop(self) -> None:
        """The gateway stops, and the call has had its time: the caller is answered, the server told."""
        if self.phase is not Phase.DONE and self.operation.updates is None:
            told = "mcpgate is stopping; the call may have been carried out"
            self._give_up(Fault(FaultKind.UPSTREAM_DOWN, told))

    def round_over(self) -> None:
        """The caller has ended its round with the questions: nothing is held here any more."""
        if self.phase is not Phase.DONE:
            self._end("input_required")

    def client_is_asked(self, on: bool) -> None:
        """A client is being asked something that may belong to this call: its clock stands still (F7)."""
        self._questions += 1 if on else -1
        if not on and self.phase is Phase.RUNNING:
            self._wind()

    # -- the clock

    def _wind(self) -> None:
        self._wound_at = self._hub.now
        if self._clock is None and self.operation.updates is None:
            self._clock = self._hub.after(self._idle_s, "call idle", self._idle)

    def _idle(self) -> None:
        """Timers are lazy: one is armed per call, and looks at when the clock was last wound."""
        self._clock = None
        if self.phase is Phase.DONE:
            return
        if self.phase is Phase.ASKING or self._questions or self.throttled:
            return  # answered, or read again: `_wind` arms it again
        due = self._wound_at + self._idle_s
        if self._hub.now < due:
            self._clock = self._hub.at(due, "call idle", self._idle)
            return
        self._hub.count("calls_timed_out")
        self._give_up(Fault(FaultKind.TIMEOUT, f"the server did not answer within {self._idle_s:g} s"))

    def _expired(self) -> None:
        self._ceiling = None
        if self.phase is not Phase.DONE:
            self._hub.count("calls_timed_out")
            self._give_up(Fault(FaultKind.TIMEOUT, "the call took longer than a call may take"))

    def _give_up(self, fault: Fault) -> None:
        target = self.target
        self._end("error")
        if target is not None:
            target.cancel(self, fault.message)
        self.caller.failed(fault)

    def _end(self, outcome: str) -> None:
        self.phase = Phase.DONE
        tally = self._hub.tally
        if tally is not None and self.server and self.operation.updates is None:
            tally(self.server, outcome, self._hub.now - self._began_at)
        self._live.pop(self, None)
        self._hub.keep(self.operation.client.principal.id, -self._weight)
        self._open.clear()
        self._answers.clear()
        for timer in (self._clock, self._ceiling):
            if timer is not None:
                timer.cancel()
        self._clock = self._ceiling = None
