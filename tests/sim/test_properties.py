"""`Exchange` and parking alone, under any order of what their two sides may do.

Must never: allow a second outcome, an answer that was not asked for, or anything after the end.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mcpgate_proto import GatewayConfig, Limits
from mcpgate_proto.hub import Hub
from mcpgate_proto.mcp.codes import Fault, FaultKind
from mcpgate_proto.mcp.revisions import Era
from mcpgate_proto.relay.exchange import Answer, Ask, Carry, Client, Exchange, Operation, Phase
from mcpgate_proto.relay.parking import Parked, Parking
from mcpgate_proto.security.principal import ANONYMOUS, LOCAL
from mcpgate_proto.wire.jsonrpc import Raw

LIMITS = Limits(
    call_ceiling_s=200.0, park_ttl_s=50.0, asks_per_call=6, rounds_per_call=8, parked_calls_per_principal=3
)
IDLE_S = 10.0
METHODS = ("elicitation/create", "sampling/createMessage", "roots/list")
FAULT = Fault(FaultKind.INTERNAL, "x")
STEPS = settings(max_examples=80, stateful_step_count=40)


def let(exchange: Exchange) -> None:
    """The rules let everything through."""


class Front:
    """A caller that allows one outcome, and nothing after it."""

    def __init__(self, modern: bool) -> None:
        self.modern = modern
        self.exchange: Exchange | None = None
        self.outcomes: list[str] = []
        self.given_up = False
        self.asked_keys: dict[str, None] = {}
        self.values: list[Any] = []

    def live(self) -> None:
        assert not self.outcomes and not self.given_up, "something came after the end"

    def progressed(self, params: Any) -> None:
        self.live()
        self.values.append(params["n"])
        assert self.values == sorted(set(self.values)), "progress that does not rise"

    def logged(self, params: Any) -> None:
        self.live()

    def asked(self, asks: list[Ask], carry: Carry | None) -> None:
        self.live()
        for ask in asks:
            self.asked_keys[ask.key] = None
        if carry is not None and self.modern:
            self.outcomes.append("questions")
            assert self.exchange is not None
            self.exchange.round_over()

    def withdrawn(self, key: str) -> None:
        self.live()
        del self.asked_keys[key]

    def moved(self, key: str, to: Any) -> None: ...

    def completed(self, result: Any) -> None:
        self.live()
        self.outcomes.append("result")

    def failed(self, fault: Fault) -> None:
        self.live()
        self.outcomes.append(fault.kind.value)

    def congested(self, on: bool) -> None: ...


class Back:
    """A target that hears each answer once, and one cancellation at most."""

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0
        self.open: dict[str, None] = {}
        self.resumed: list[dict[str, Answer]] = []

    def begin(self, exchange: Exchange) -> None:
        self.begun += 1

    def resume(self, exchange: Exchange, answers: dict[str, Answer], carry: Carry | None) -> None:
        assert not self.cancelled, "an answer after the cancellation"
        for key in answers:
            assert key in self.open, "an answer to what is not asked (any more)"
            del self.open[key]
        self.resumed.append(answers)

    def cancel(self, exchange: Exchange, reason: str) -> None:
        assert self.begun and not self.cancelled
        self.cancelled += 1

    exclusive = False

    def throttle(self, exchange: Exchange, on: bool) -> None: ...
    def unsent(self, exchange: Exchange) -> bool:
        return False


def hub_of() -> Hub:
    return Hub(GatewayConfig(limits=LIMITS), now=0.0, wall=1.7e9, seed=bytes(32))


def operation(local: bool) -> Operation:
    principal = LOCAL if local else ANONYMOUS
    client = Client(principal=principal, era=Era.MODERN, revision="2026-07-28", features=True)
    return Operation(method="tools/call", params={}, meta={}, client=client, wants_progress=True)


def pass_time(hub: Hub, seconds: float) -> None:
    until = hub.now + seconds
    while (deadline := hub.timers.next_deadline()) is not None and deadline <= until:
        hub.now = max(hub.now, deadline)
        for timer in hub.timers.due(hub.now):
            timer.run()
    hub.now = until


class ExchangeMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.hub = hub_of()
        self.live: dict[Exchange, None] = {}
        self.back = Back()
        self.front = Front(False)
        self.number = 0
        self.exchange = Exchange(self.hub, operation(False), self.front, IDLE_S, self.live, let)
        self.front.exchange = self.exchange

    @rule()
    @precondition(lambda self: self.exchange.phase is Phase.WAITING)
    def bind(self) -> None:
        self.exchange.bind(self.back)

    @rule()
    @precondition(lambda self: self.exchange.phase is Phase.WAITING)
    def be_modern(self) -> None:
        self.front.modern = True

    @rule(count=st.integers(0, 3), state=st.booleans())
    @precondition(lambda self: self.back.begun and not self.back.cancelled)
    def ask(self, count: int, state: bool) -> None:
        if self.exchange.phase is Phase.ASKING and self.exchange.carry is not None:
            return  # a modern server has ended its request, and says no more
        if state and (self.back.open or (not count and self.exchange.phase is Phase.ASKING)):
            return
        if not state and not count:
            return
        asks = []
        for _ in range(count):
            self.number += 1
            asks.append(Ask(f"k{self.number}", METHODS[self.number % 3], {}))
        if self.exchange.phase is not Phase.DONE:
            self.back.open.update((ask.key, None) for ask in asks)
        self.exchange.ask(asks, Carry(Raw(b'"s"')) if state else None)

    @rule(which=st.integers(0, 12))
    def answer(self, which: int) -> None:
        keys = [*self.front.asked_keys, "nobody's"]
        self.exchange.answer(keys[which % len(keys)], Answer(Raw(b"{}")))

    @rule(which=st.integers(0, 5))
    @precondition(lambda self: self.back.open and self.exchange.carry is None)
    def withdraw(self, which: int) -> None:
        key = list(self.back.open)[which % len(self.back.open)]
        del self.back.open[key]
        self.exchange.withdraw(key)

    @rule(value=st.integers(-2, 9))
    def progress(self, value: int) -> None:
        self.exchange.progress(value, {"n": value})  # type: ignore[dict-item]

    @rule(on=st.booleans())
    def throttle(self, on: bool) -> None:
        self.exchange.throttle(on)

    @rule()
    def log(self) -> None:
        self.exchange.log({})

    @rule()
    def complete(self) -> None:
        self.exchange.complete({})

    @rule()
    def fail(self) -> None:
        self.exchange.fail(FAULT)

    @rule(executed=st.booleans())
    def lose(self, executed: bool) -> None:
        self.exchange.lost(executed)

    @rule()
    def cancel(self) -> None:
        if not self.front.outcomes:
            self.front.given_up = True
        self.exchange.cancel("no")

    @rule(seconds=st.sampled_from((0.1, 3.0, IDLE_S - 0.1, IDLE_S + 0.1, 90.0)))
    def wait(self, seconds: float) -> None:
        pass_time(self.hub, seconds)

    @invariant()
    def the_end_is_the_end(self) -> None:
        ended = self.exchange.phase is Phase.DONE
        assert ended is (bool(self.front.outcomes) or self.front.given_up)
        assert ended is (self.exchange not in self.live)
        assert len(self.front.outcomes) <= 1
        if ended:
            assert len(self.hub.timers) == 0, "a timer outlives its call"
        else:
            assert self.exchange.phase is not Phase.ASKING or self.exchange._open, "asks for nothing"

    @invariant()
    def a_call_that_was_given_up_is_cancelled_at_its_server(self) -> None:
        given_up = self.front.given_up or bool({"timeout", "overloaded"} & set(self.front.outcomes))
        assert bool(self.back.cancelled) is (given_up and self.back.begun > 0)

    def teardown(self) -> None:
        pass_time(self.hub, LIMITS.call_ceiling_s + 1.0)
        assert self.exchange.phase is Phase.DONE, "it never ends"
        assert self.live == {}


class Case:
    """One call that gets parked, as its server and its client see it."""

    def __init__(self, exchange: Exchange, back: Back, front: Front, local: bool, bound: bytes) -> None:
        self.exchange = exchange
        self.back = back
        self.front: Front = front
        self.local = local
        self.bound = bound
        self.parked: Parked | None = None
        self.states: list[int] = []

    @property
    def over(self) -> bool:
        return self.exchange.phase is Phase.DONE


class ParkingMachine(RuleBasedStateMachine):
    """The face's part (a round that ends, a retry) is played as `downstream/modern.py` does."""

    def __init__(self) -> None:
        super().__init__()
        self.hub = hub_of()
        self.live: dict[Exchange, None] = {}
        self.parking = Parking(self.hub)
        self.cases: list[Case] = []
        self.number = 0

    def some(self, which: int) -> Case:
        return self.cases[which % len(self.cases)]

    def asks(self, case: Case, count: int) -> list[Ask]:
        made = []
        for _ in range(count):
            self.number += 1
            made.append(Ask(f"k{self.number}", METHODS[self.number % 3], {}))
            case.back.open[made[-1].key] = None
        return made

    @rule(local=st.booleans(), bound=st.sampled_from((b"a", b"b")), count=st.integers(1, 3))
    @precondition(lambda self: len(self.cases) < 8)
    def call(self, local: bool, bound: bytes, count: int) -> None:
        front, back = Front(True), Back()
        exchange = Exchange(self.hub, operation(local), front, IDLE_S, self.live, let)
        front.exchange = exchange
        case = Case(exchange, back, front, local, bound)
        self.cases.append(case)
        exchange.bind(back)
        asks = self.asks(case, count)
        exchange.ask(asks, None)
        self.park(case, asks)

    def park(self, case: Case, asks: list[Ask]) -> None:
        case.parked = self.parking.park(case.exchange, asks, case.bound)
        if case.parked is None:
            mine = [one for one in self.cases if one.parked is not None and one.local is case.local]
            assert len(mine) >= LIMITS.parked_calls_per_principal, "refused though there was room"
            case.front.given_up = True
            case.exchange.cancel("full")
        else:
            case.states.append(case.parked.round)
            case.front.outcomes.append("questions")

    @rule(
        which=st.integers(0, 7),
        local=st.booleans(),
        bound=st.sampled_from((b"a", b"b")),
        old=st.integers(0, 2),
    )
    @precondition(lambda self: any(case.parked for case in self.cases))
    def try_a_state(self, which: int, local: bool, bound: bytes, old: int) -> None:
        """Any principal, any request, any round: only the right ones together find it."""
        case = self.some(which)
        if case.parked is None:
            return
        round = case.states[-1 - min(old, len(case.states) - 1)]
        right = local is case.local and bound == case.bound and round == case.states[-1]
        principal = (LOCAL if local else ANONYMOUS).id
        found = self.parking.find(case.parked.id, principal, bound, round)
        assert (found is case.parked) if right else (found is None)

    @rule(which=st.integers(0, 7), keep=st.integers(0, 7))
    @precondition(lambda self: any(case.parked for case in self.cases))
    def retry(self, which: int, keep: int) -> None:
        case = self.some(which)
        parked = case.parked
        if parked is None:
            return
        for number, key in enumerate(parked.asked_keys):
            if keep & (1 << number % 3):
                parked.answers[key] = Answer(Raw(b"{}"))
        if parked.missing() and parked.outcome is None:
            self.parking.ask(parked, [])
            case.states.append(parked.round)
            return
        case.parked = None
        front = case.front = Front(True)
        front.exchange = case.exchange
        self.parking.resume(parked, front)
        if case.exchange.phase is Phase.ASKING:
            asks = [Ask(key, METHODS[0], {}) for key in front.asked_keys]
            assert asks, "it is asking, and nobody is asked"
            self.park(case, asks)

    @rule(which=st.integers(0, 7), count=st.integers(1, 2))
    @precondition(lambda self: self.cases)
    def ask_more(self, which: int, count: int) -> None:
        case = self.some(which)
        if case.over:
            return
        asks = self.asks(case, count)
        case.exchange.ask(asks, None)
        if case.parked is None and not case.over:
            self.park(case, asks)

    @rule(which=st.integers(0, 7), key=st.integers(0, 5))
    @precondition(lambda self: self.cases)
    def withdraw(self, which: int, key: int) -> None:
        case = self.some(which)
        if case.back.open:
            name = list(case.back.open)[key % len(case.back.open)]
            del case.back.open[name]
            case.exchange.withdraw(name)

    @rule(which=st.integers(0, 7), how=st.sampled_from(("complete", "fail", "lost")))
    @precondition(lambda self: self.cases)
    def end(self, which: int, how: str) -> None:
        case = self.some(which)
        if how == "complete":
            case.exchange.complete({})
        elif how == "fail":
            case.exchange.fail(FAULT)
        else:
            case.exchange.lost(True)

    @rule(seconds=st.sampled_from((0.1, 5.0, 20.0, LIMITS.park_ttl_s + 1)))
    def wait(self, seconds: float) -> None:
        pass_time(self.hub, seconds)
        for case in self.cases:
            if case.parked is not None and self.parking._all.get(case.parked.id) is not case.parked:
                case.parked = None  # its time was over

    @invariant()
    def what_is_parked_is_what_we_think(self) -> None:
        kept = [case for case in self.cases if case.parked is not None]
        assert len(self.parking) == len(kept)
        for local in (True, False):
            mine = sum(1 for case in kept if case.local is local)
            assert mine <= LIMITS.parked_calls_per_principal

    @invariant()
    def each_round_has_at_most_one_outcome(self) -> None:
        for case in self.cases:
            assert len(case.front.outcomes) <= 1

    def teardown(self) -> None:
        pass_time(self.hub, LIMITS.park_ttl_s + LIMITS.call_ceiling_s + 1.0)
        assert len(self.parking) == 0, "parked for ever"
        assert self.live == {} and len(self.hub.timers) == 0
        for case in self.cases:
            assert case.exchange.phase is Phase.DONE


ExchangeMachine.TestCase.settings = STEPS
ParkingMachine.TestCase.settings = STEPS
TestExchange = ExchangeMachine.TestCase
TestParking = ParkingMachine.TestCase


def test_a_call_that_was_given_up_is_not_counted_again_when_its_round_ends() -> None:
    hub, front, live = Hub(GatewayConfig(), now=0.0, wall=0.0, seed=bytes(32)), Front(False), {}
    told: list[str] = []
    hub.tally = lambda server, outcome, seconds: told.append(outcome)
    exchange = Exchange(hub, operation(False), front, IDLE_S, live, let)
    exchange.server = "a"
    exchange.cancel("no")
    exchange.round_over()
    assert told == ["cancelled"]
