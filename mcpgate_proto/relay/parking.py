"""Calls that wait for a stateless client to come back with answers.

A legacy server asks while its call is open; a modern client is asked by ending its round. Between the two
the call is *parked*: the exchange goes on living here, its server waiting, until the retry takes it up
again (protocol.md L1).

Owns: parked exchanges by id and principal, what was asked and answered so far, an outcome that came while
nobody was there, time to live, caps per principal.
Must never: hand a parked call to another principal, accept the same state twice (L1.6), keep one for ever.
"""

from __future__ import annotations

from collections.abc import Callable

from mcpgate_proto.hub import Hub
from mcpgate_proto.mcp.codes import SAMPLING_REJECTED, Fault, FaultKind, peer
from mcpgate_proto.relay.exchange import TOO_MUCH, Answer, Ask, Caller, Carry, Exchange, Members
from mcpgate_proto.security.principal import Principal
from mcpgate_proto.timers import Timer
from mcpgate_proto.wire.jsonrpc import Raw

__all__ = ["Parked", "Parking"]


class Parked:
    """One parked call. Implements `relay.exchange.Caller` while no client is connected."""

    def __init__(self, hub: Hub, id: str, exchange: Exchange, bound: bytes) -> None:
        self._hub = hub
        self._weight = 0  # of the outcome
        self.id = id
        self.exchange = exchange
        self.bound = bound
        # Which `requestState` is the valid one: each is good for one retry.
        self.round = 0
        self.asked_keys: dict[str, Ask] = {}
        self.answers: dict[str, Answer] = {}
        self.next_asks: list[Ask] = []
        self.outcome: Callable[[Caller], None] | None = None
        self.progress: Members | None = None
        self.timer: Timer | None = None

    @property
    def server(self) -> str:
        return self.exchange.server

    @property
    def principal(self) -> str:
        return self.exchange.operation.client.principal.id

    def keep(self, answers: dict[str, Answer]) -> bool:
        """Answers that came, until they are all there (L1.4). False: there is no room for them."""
        before = sum(len(self.answers[key].result) for key in answers if key in self.answers)
        more = sum(len(one.result) for one in answers.values()) - before
        if not self.exchange.weigh(more):
            self.exchange.weigh(-more)
            return False
        self.answers.update(answers)
        return True

    def missing(self) -> list[Ask]:
        """What the client still has to answer."""
        return [ask for key, ask in self.asked_keys.items() if key not in self.answers]

    # -- Caller

    def progressed(self, params: Members) -> None:
        self.progress = params  # L1.11: only the last one is worth anything

    def logged(self, params: Members) -> None:
        """No stream to send it on (L1.11)."""

    def asked(self, asks: list[Ask], carry: Carry | None) -> None:
        """L1.4: what comes after the round has ended goes into the next one."""
        self.next_asks.extend(asks)

    def withdrawn(self, key: str) -> None:
        """L1.8: the answer, should it come, is ignored."""
        self.asked_keys.pop(key, None)
        self.answers.pop(key, None)
        self.next_asks = [ask for ask in self.next_asks if ask.key != key]

    def moved(self, key: str, to: Caller) -> None:
        """Parked calls have their channel to themselves."""

    def completed(self, result: Members) -> None:
        self._came(sum(map(len, result.values())), lambda caller: caller.completed(result))

    def became_task(self, task: Members) -> None:
        self._came(sum(map(len, task.values())), lambda caller: caller.became_task(task))

    def failed(self, fault: Fault) -> None:
        self._came(len(fault.message) + len(fault.data), lambda caller: caller.failed(fault))

    def _came(self, weight: int, outcome: Callable[[Caller], None]) -> None:
        """L1.7: kept for the retry, until the time is over."""
        self._weight = weight
        self.outcome = outcome
        if not self._hub.keep(self.principal, weight):
            self.forget()
            self.outcome = lambda caller: caller.failed(TOO_MUCH)

    def congested(self, on: bool) -> None:
        """Nothing is being sent."""

    def forget(self) -> None:
        """Nothing is kept any more."""
        self._hub.keep(self.principal, -self._weight)
        self._weight = 0


class Parking:
    """All parked calls."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._all: dict[str, Parked] = {}

    def __len__(self) -> int:
        return len(self._all)

    def park(self, exchange: Exchange, asks: list[Ask], bound: bytes) -> Parked | None:
        """Take over an exchange whose round ends with `asks`. None when there is no room."""
        limits = self._hub.limits
        principal = exchange.operation.client.principal.id
        mine = [one for one in self._all.values() if one.principal == principal]
        there = [one for one in self._all.values() if one.server == exchange.server]
        exclusive = exchange.target is not None and exchange.target.exclusive
        if exchange.operation.made_in:
            exclusive = False  # a call that has become a task has left its channel to others
        most = limits.parked_calls_per_server
        own = [one for one in mine if one.server == exchange.server]
        # One place is for others, whoever parks here.
        full = len(there) >= most or (0 < most - 1 <= len(own) and not self._hub.config.transparent)
        if exclusive and full:
            # The oldest of the same principal gives way; another's is not touched.
            if not own:
                self._hub.count("parking_refused")
                return None
            self._expire(own[0])
            mine.remove(own[0])
        if len(self._all) >= limits.parked_calls or len(mine) >= limits.parked_calls_per_principal:
            self._hub.count("parking_refused")
            return None
        parked = Parked(self._hub, self._hub.entropy.token(128), exchange, bound)
        self._all[parked.id] = parked
        exchange.caller = parked
        exchange.throttle(False)  # nobody reads slowly while nobody is there
        self.ask(parked, asks)
        self._hub.count("parked")
        return parked

    def ask(self, parked: Parked, asks: list[Ask]) -> None:
        """A round ends (again): the client is to answer `asks`."""
        for one in asks:
            parked.asked_keys[one.key] = one
        parked.round += 1
        if parked.timer is not None:
            parked.timer.cancel()
        parked.timer = self._hub.after(
            self._hub.limits.park_ttl_s, "parked call", lambda: self._expire(parked)
        )

    def find(self, id: str, principal: str, bound: bytes, round: int) -> Parked | None:
        """The parked call that a retry means: same principal, same request, and this very round."""
        parked = self._all.get(id)
        if parked is None or parked.principal != principal or parked.bound != bound or parked.round != round:
            return None
        return parked

    def resume(self, parked: Parked, caller: Caller) -> None:
        """Every answer is there: `caller` takes the call up, the server gets its answers (L1.5)."""
        self._drop(parked)
        exchange = parked.exchange
        exchange.caller = caller
        if parked.outcome is not None:
            parked.outcome(caller)
            return
        if parked.progress is not None and exchange.operation.wants_progress:
            caller.progressed(parked.progress)
        for key in list(parked.asked_keys):
            exchange.answer(key, parked.answers[key])
        if parked.next_asks:
            caller.asked(parked.next_asks, None)

    def _drop(self, parked: Parked) -> None:
        self._all.pop(parked.id, None)
        parked.forget()
        if parked.timer is not None:
            parked.timer.cancel()
            parked.timer = None

    def _expire(self, parked: Parked) -> None:
        """L1.9: nobody came back. The server gets a plain no to each question, then the cancellation."""
        self._drop(parked)
        self._hub.count("parked_expired")
        if parked.outcome is not None:
            return
        asks = [*parked.asked_keys.values(), *parked.next_asks]
        for ask in asks if not parked.exchange.operation.made_in else []:
            # A task is cancelled, and that says it (`upstream/legacy_task_book.py`).
            parked.exchange.answer(ask.key, refusal(ask))
        parked.exchange.cancel("the client did not come back with its answers")
        parked.forget()  # an outcome that came from within

    def expel(self, lost: Callable[[Principal], bool]) -> None:
        """End the calls of whoever's credentials are no longer good."""
        for parked in list(self._all.values()):
            if lost(parked.exchange.operation.client.principal):
                self._expire(parked)

    def stop(self) -> None:
        self.expel(lambda principal: True)


def refusal(ask: Ask) -> Answer:
    """The answer of a client that will not answer (L1.9)."""
    if ask.method == "elicitation/create":
        return Answer(Raw(b'{"action":"cancel"}'))
    if ask.method == "sampling/createMessage":
        return Answer(fault=peer(SAMPLING_REJECTED, "the user did not approve the request"))
    return Answer(fault=Fault(FaultKind.INTERNAL, "the client gave no answer"))
