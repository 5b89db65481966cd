"""Timers against a list that does the same the slow way."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mcpgate_proto.errors import LocalProtocolError
from mcpgate_proto.timers import HORIZON_S, Timer, Timers


def nothing() -> None: ...


class TimersMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.timers = Timers()
        self.now = 1000.0
        # Every timer there ever was, with its creation order; and the active ones, as the model sees it.
        self.all: list[Timer] = []
        self.active: dict[int, Timer] = {}

    @rule(delay=st.one_of(st.floats(-5, 40), st.floats(0, 100_000), st.sampled_from([0.0, 8.0, 16.0, 24.0])))
    def after(self, delay: float) -> None:
        self.add(self.timers.after(self.now, delay, "after", nothing))

    @rule(deadline=st.floats(900, 1200))
    def at(self, deadline: float) -> None:
        self.add(self.timers.at(deadline, "at", nothing))

    def add(self, timer: Timer) -> None:
        self.active[len(self.all)] = timer
        self.all.append(timer)
        assert timer.active

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.all:
            index = data.draw(st.integers(0, len(self.all) - 1))
            self.all[index].cancel()
            self.active.pop(index, None)

    @rule(step=st.one_of(st.floats(0, 10), st.floats(0, 50_000)))
    def due(self, step: float) -> None:
        self.now += step
        expected = sorted((t.deadline, index) for index, t in self.active.items() if t.deadline <= self.now)
        fired = self.timers.due(self.now)
        assert fired == [self.active.pop(index) for _, index in expected]
        assert not any(timer.active for timer in fired)

    @rule()
    def run_to_next(self) -> None:
        """Whoever wakes at `next_deadline` only reaches the first timer, with one extra step at most."""
        if not self.active:
            return
        first = min(timer.deadline for timer in self.active.values())
        for _ in range(2):
            wake = self.timers.next_deadline()
            assert wake is not None
            self.now = max(self.now, wake)
            if first <= self.now:
                break
            assert self.timers.due(self.now) == []
        assert self.now >= first
        self.due(0.0)

    @invariant()
    def same_as_model(self) -> None:
        assert len(self.timers) == len(self.active)
        deadlines = [timer.deadline for timer in self.active.values()]
        following = self.timers.next_deadline()
        if not deadlines:
            assert following is None and self.timers.next_reason() is None
            return
        assert following is not None
        assert min(deadlines) - 2 * HORIZON_S <= following <= min(deadlines)
        order = min(self.active, key=lambda index: (self.active[index].deadline, index))
        assert self.timers.next_reason() == self.active[order].reason


TestTimers = TimersMachine.TestCase
TestTimers.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_timer_runs_once_and_not_when_cancelled_by_an_earlier_one() -> None:
    timers = Timers()
    ran: list[str] = []
    second: list[Timer] = []

    def first_runs() -> None:
        ran.append("first")
        second[0].cancel()

    timers.after(0.0, 1.0, "first", first_runs)
    second.append(timers.after(0.0, 1.0, "second", lambda: ran.append("second")))
    third = timers.after(0.0, 1.0, "third", lambda: ran.append("third"))
    fired = timers.due(1.0)
    assert [timer.reason for timer in fired] == ["first", "second", "third"]
    for timer in fired:
        timer.run()
    third.run()
    third.cancel()
    assert ran == ["first", "third"]
    assert len(timers) == 0


@pytest.mark.parametrize("deadline", [math.inf, -math.inf, math.nan])
def test_a_deadline_is_finite(deadline: float) -> None:
    with pytest.raises(LocalProtocolError):
        Timers().at(deadline, "never", nothing)
    with pytest.raises(LocalProtocolError):
        Timers().after(deadline, 1.0, "never", nothing)


@pytest.mark.parametrize("delay", [1.0, 3600.0])
def test_cancelled_timers_leave_nothing_behind(delay: float) -> None:
    """An idle clock that is wound a hundred thousand times holds a bounded number of entries."""
    timers = Timers()
    timer = timers.after(0.0, delay, "idle", nothing)
    for count in range(100_000):
        timer.cancel()
        timer = timers.after(count / 1000, delay, "idle", nothing)
    assert len(timers) == 1
    held = len(timers._heap) + sum(map(len, timers._far.values())) + len(timers._keys)
    assert held <= 200


def test_a_cancelled_timer_lets_go_of_its_callback() -> None:
    class Owner:
        def callback(self) -> None: ...

    owner = Owner()
    gone = weakref.ref(owner)
    timer = Timers().after(0.0, 1.0, "kept", owner.callback)
    timer.cancel()
    del owner
    assert gone() is None


@given(st.lists(st.floats(0, 1000), max_size=50))
def test_drained_in_order_by_its_own_deadlines(delays: list[float]) -> None:
    timers = Timers()
    fired: list[tuple[float, int]] = []

    def remember(delay: float, index: int) -> Callable[[], None]:
        return lambda: fired.append((delay, index))

    for index, delay in enumerate(delays):
        timers.after(0.0, delay, "x", remember(delay, index))
    while (wake := timers.next_deadline()) is not None:
        for timer in timers.due(max(0.0, wake)):
            timer.run()
    assert fired == sorted((delay, index) for index, delay in enumerate(delays))


def test_buckets_that_emptied_do_not_count() -> None:
    timers = Timers()
    far = [timers.after(0.0, 100.0 * n, "far", nothing) for n in range(1, 200)]
    for timer in far[:-1]:
        timer.cancel()
    assert timers.next_deadline() == pytest.approx(far[-1].deadline, abs=2 * HORIZON_S)
    assert timers.due(far[-1].deadline - 0.5) == []
    assert timers.next_deadline() == far[-1].deadline
    assert timers.due(far[-1].deadline) == [far[-1]]
    assert "done" in repr(far[-1])
    assert timers.next_deadline() is None
