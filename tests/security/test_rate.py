"""Token buckets: what a caller gets in any stretch of time, whatever else goes on (threats.md section 0, Rate
limiting).

Must never: look into a bucket. What was let through, and when, is all that counts.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcpgate_proto.config import OFF, GatewayConfig, ListenConfig, Rate, RateConfig, ServerConfig
from mcpgate_proto.hub import Hub
from mcpgate_proto.limits import Limits
from mcpgate_proto.security.address import Source
from mcpgate_proto.security.principal import ANONYMOUS, LOCAL, Principal
from mcpgate_proto.security.rate import FAILED_AUTHENTICATION, Buckets, Limited, Rates

RATES = st.builds(
    Rate,
    st.one_of(st.sampled_from([0.01, 0.1, 1.0, 3.0, 50.0, 1e4]), st.floats(0.01, 1e5)),
    # Small ones are empty soon.
    st.one_of(st.integers(1, 3), st.integers(1, 200)),
)
# Fine steps, pauses, and bursts at one instant.
STEPS = st.lists(st.one_of(st.just(0.0), st.floats(0, 0.05), st.floats(0, 30)), min_size=1, max_size=300)
STARTS = st.one_of(st.just(0.0), st.floats(0, 1e8))


def moments(start: float, steps: list[float]) -> Iterator[float]:
    now = start
    for step in steps:
        now += step
        yield now


def check_bound(passed: list[float], rate: Rate) -> None:
    """Never more than `burst + per_s * t` within any `t`: enough to look at stretches that begin and end with
    a token. Who comes a microsecond early has waited long enough."""
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            took_s = passed[last] - passed[first] + 2e-6
            assert last - first + 1 <= rate.burst + rate.per_s * took_s + 1e-6


@given(RATES, STARTS, STEPS)
@example(Rate(1.0, 3), 0.0, [0.0] * 10)
@example(Rate(1.0, 3), 1e6, [0.5] * 20)
@settings(deadline=None)
def test_never_more_than_the_burst_and_the_rate_in_any_time(
    rate: Rate, start: float, steps: list[float]
) -> None:
    buckets = Buckets(rate, 10)
    check_bound([now for now in moments(start, steps) if buckets.take("a", now) == 0], rate)


@given(RATES, STARTS, STEPS)
@settings(deadline=None)
def test_a_caller_below_the_rate_is_never_refused(rate: Rate, start: float, steps: list[float]) -> None:
    buckets = Buckets(rate, 10)
    now = start
    for step in steps:
        now += 1 / rate.per_s + step + 2e-6
        assert buckets.take("a", now) == 0


@given(RATES, STARTS)
@settings(deadline=None)
def test_an_empty_bucket_refills_one_by_one_and_is_full_again_when_it_should(
    rate: Rate, start: float
) -> None:
    buckets = Buckets(rate, 10)
    assert [buckets.take("a", start) for _ in range(rate.burst)] == [0] * rate.burst
    wait = buckets.take("a", start)
    interval = math.ceil(1e9 / rate.per_s)
    assert wait == interval
    full = start + rate.burst * interval / 1e9 + 1e-6
    assert [buckets.take("a", full) for _ in range(rate.burst)] == [0] * rate.burst
    assert buckets.take("a", full) > 0


def test_nothing_drifts_in_a_million_requests() -> None:
    """At a third of a token a second, tried ten times a second for a day and a half."""
    buckets = Buckets(Rate(1 / 3, 1), 10)
    passed = sum(buckets.take("a", step / 10) == 0 for step in range(1_000_000))
    # ceil(3e9) nanoseconds apart, exactly.
    assert passed == 33_334


@given(RATES, STARTS, STEPS)
@settings(deadline=None)
def test_retry_after_is_enough_and_less_than_a_second_too_long(
    rate: Rate, start: float, steps: list[float]
) -> None:
    buckets = Buckets(rate, 10)
    for _ in range(rate.burst):
        buckets.take("a", start)
    for now in moments(start, [0.0, *steps]):
        wait = buckets.take("a", now)
        if not wait:
            continue
        told = Limited("rate_address", wait)
        assert told.retry_after_s >= 1
        assert wait <= told.retry_after_s * 1e9 < wait + 1e9
        assert wait <= told.retry_after_ms * 1e6 < wait + 1e6
        for after_s in (told.retry_after_s, told.retry_after_ms / 1000):
            assert copy.deepcopy(buckets).take("a", now + after_s) == 0


@given(
    RATES,
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from([0.0, 0.01, 0.4, 1.0, 5.0])), max_size=400),
)
@settings(deadline=None)
def test_a_full_table_gives_nobody_credit(rate: Rate, most: int, tries: list[tuple[int, float]]) -> None:
    """Ten callers, room for fewer: whichever way they push each other out, the bound holds for each."""
    buckets = Buckets(rate, most)
    passed: dict[int, list[float]] = {}
    now = 0.0
    for caller, step in tries:
        now += step
        if buckets.take(caller, now) == 0:
            passed.setdefault(caller, []).append(now)
        assert len(buckets) <= most
    for times in passed.values():
        check_bound(times, rate)


def test_who_is_in_the_table_is_not_touched_by_a_flood_of_newcomers() -> None:
    buckets = Buckets(Rate(1.0, 10), 100)
    for _ in range(5):
        assert buckets.take("good", 0.0) == 0
    refused = sum(buckets.take(f"bad {number}", 0.0) > 0 for number in range(10_000))
    assert refused == 10_000 - 99 - 10, "those without a bucket of their own share one"
    assert len(buckets) == 100
    assert [buckets.take("good", 0.0) for _ in range(5)] == [0] * 5
    assert buckets.take("good", 0.0) > 0
    # Ten seconds later every bucket is full: as good as none, so there is room.
    assert buckets.take("late", 11.0) == 0
    assert len(buckets) == 1


def test_making_room_forgets_only_those_whose_bucket_is_full() -> None:
    buckets = Buckets(Rate(1.0, 10), 2)
    for _ in range(10):
        assert buckets.take("greedy", 0.0) == 0
    assert buckets.take("modest", 0.0) == 0
    assert buckets.take("third", 5.0) == 0, "in the place of the modest one, which is full again"
    assert len(buckets) == 2
    assert [buckets.take("greedy", 5.0) for _ in range(5)] == [0] * 5
    assert buckets.take("greedy", 5.0) > 0, "five seconds are five tokens"


@given(RATES, st.integers(1, 500))
def test_spilling_empties_a_bucket_and_no_more(rate: Rate, count: int) -> None:
    buckets = Buckets(rate, 10)
    buckets.spill("a", 5.0, count)
    left = max(0, rate.burst - count)
    assert [buckets.take("a", 5.0) for _ in range(left)] == [0] * left
    wait = buckets.take("a", 5.0)
    assert wait == math.ceil(1e9 / rate.per_s)
    buckets.spill("a", 5.0, count)
    assert buckets.take("a", 5.0) == wait


@given(RATES, STARTS, STEPS)
@settings(deadline=None)
def test_the_same_requests_are_judged_the_same(rate: Rate, start: float, steps: list[float]) -> None:
    runs = []
    for _ in range(2):
        buckets = Buckets(rate, 3)
        runs.append([buckets.take(number % 5, now) for number, now in enumerate(moments(start, steps))])
    assert runs[0] == runs[1]


# -- the limits of a gateway

HERE = ListenConfig(name="here")
BEYOND = ListenConfig(name="beyond", host="0.0.0.0", behind_proxy=True)
SERVER = ServerConfig(name="one", command="/bin/one")
ANN, BOB = Principal("key:ann"), Principal("key:bob")
OWN = Source("192.0.2.1", "192.0.2.1", True)
SHARED = Source("10.0.0.1", "10.0.0.1", False)


def rates(listen: ListenConfig = HERE, **told: object) -> tuple[Hub, Rates]:
    config = GatewayConfig(listeners=(listen,), rate=msgspec.convert(told, RateConfig))
    hub = Hub(config, now=0.0, wall=0.0, seed=bytes(32))
    return hub, Rates(hub)


def how_many(take: object, most: int = 5000) -> int:
    """How many pass at one instant."""
    for count in range(most):
        if take() is not None:  # type: ignore[operator]
            return count
    return most


@pytest.mark.parametrize(
    ("listen", "limited"),
    [
        (HERE, False),
        (ListenConfig(name="v6", host="::1"), False),
        (ListenConfig(name="socket", socket_path="/run/x"), False),
        (ListenConfig(name="pipe", kind="stdio"), False),
        (ListenConfig(name="unix", kind="unix", socket_path="/run/x"), False),
        (ListenConfig(name="net", host="192.0.2.7"), True),
        (ListenConfig(name="all", host="0.0.0.0"), True),
        (ListenConfig(name="all6", host="::"), True),
        (ListenConfig(name="name", host="gw.example"), True),
        (ListenConfig(name="proxied", behind_proxy=True), True),
        (ListenConfig(name="proxied socket", socket_path="/run/x", behind_proxy=True), True),
    ],
    ids=lambda one: one.name if isinstance(one, ListenConfig) else "",
)
def test_without_settings_only_gateways_within_reach_of_others_have_limits(
    listen: ListenConfig, limited: bool
) -> None:
    _, found = rates(listen)
    assert (how_many(lambda: found.principal(ANN)) < 5000) is limited
    assert (how_many(lambda: found.address(OWN)) < 5000) is limited
    assert (found.most_calls(ANN) > 0) is limited
    entered = sum(found.enter(OWN) for _ in range(2000))
    assert (entered < 2000) is limited
    assert how_many(lambda: found.call(ANN, SERVER, "echo")) == 5000


def test_by_default_callers_that_cannot_be_told_apart_are_not_limited_as_one() -> None:
    _, found = rates(BEYOND)
    assert how_many(lambda: found.principal(ANONYMOUS)) == 5000
    assert how_many(lambda: found.address(SHARED)) == 5000
    assert found.most_calls(ANONYMOUS) == 0
    assert all(found.enter(SHARED) for _ in range(2000))


def test_what_is_written_down_holds_for_all_but_local_callers() -> None:
    _, found = rates(principal=Rate(1, 5), address=Rate(1, 7), concurrent_calls=3, connections_per_address=2)
    for source in (OWN, SHARED):
        assert how_many(lambda s=source: found.address(s)) == 7  # type: ignore[misc]
        assert [found.enter(source) for _ in range(3)] == [True, True, False]
    assert how_many(lambda: found.address(Source())) == 5000, "a Unix socket has no address"
    for who in (ANN, BOB, ANONYMOUS):
        assert how_many(lambda w=who: found.principal(w)) == 5  # type: ignore[misc]
        assert found.most_calls(who) == 3
    assert how_many(lambda: found.principal(LOCAL)) == 5000
    assert found.most_calls(LOCAL) == 0


def test_off_is_off() -> None:
    _, found = rates(BEYOND, principal=OFF, address=OFF, concurrent_calls=0, connections_per_address=0)
    assert how_many(lambda: found.principal(ANN)) == 5000
    assert how_many(lambda: found.address(OWN)) == 5000
    assert found.most_calls(ANN) == 0
    assert all(found.enter(OWN) for _ in range(2000))


def test_an_address_is_counted_by_its_key_so_by_the_64_of_ipv6() -> None:
    _, found = rates(address=Rate(1, 6))
    near, next_door = (
        Source("2001:db8::1", "2001:db8::/64", True),
        Source("2001:db8::2", "2001:db8::/64", True),
    )
    other = Source("2001:db8:0:1::1", "2001:db8:0:1::/64", True)
    assert how_many(lambda: found.address(near)) == 6
    assert found.address(next_door) is not None
    assert found.address(other) is None


def test_a_failed_authentication_costs_more() -> None:
    hub, found = rates(address=Rate(1, 2 * FAILED_AUTHENTICATION + 2))
    found.failed_authentication(OWN)  # nothing has been counted yet: nothing to take from
    assert found.address(OWN) is None
    found.failed_authentication(OWN)
    assert found.address(OWN) is None
    found.failed_authentication(OWN)
    assert found.address(OWN) is not None
    assert found.address(SHARED) is None


def test_tools_are_limited_by_server_tool_and_principal_and_servers_in_all() -> None:
    server = ServerConfig(name="one", command="/x", rate=Rate(1, 8), tool_rates={"dear": Rate(0.5, 1)})
    other = ServerConfig(name="two", command="/x", tool_rates={"free": OFF})
    hub, found = rates(tool=Rate(1, 3))
    assert how_many(lambda: found.call(ANN, server, "echo")) == 3
    assert how_many(lambda: found.call(LOCAL, server, "echo")) == 3, "local callers too"
    assert how_many(lambda: found.call(ANN, other, "echo")) == 3
    assert found.call(ANN, server, "dear") is None
    refused = found.call(ANN, server, "dear")
    assert refused is not None and refused.what == "rate_tool" and refused.retry_after_s == 2
    assert how_many(lambda: found.call(ANN, other, "free")) == 5000
    # Seven have gone to the server so far: refused calls did not count.
    assert found.call(BOB, server, None) is None
    refused = found.call(BOB, server, None)
    assert refused is not None and refused.what == "rate_server"
    assert hub.counters == {"refused_rate_tool": 4, "refused_rate_server": 1}


def test_connections_that_left_make_room() -> None:
    _, found = rates(connections_per_address=1)
    for _ in range(3):
        assert found.enter(OWN)
        assert not found.enter(OWN)
        found.leave(OWN)
    assert found.enter(SHARED)


def test_a_reload_changes_the_rate() -> None:
    hub, found = rates(principal=Rate(1, 1))
    assert how_many(lambda: found.principal(ANN)) == 1
    hub.config = msgspec.structs.replace(hub.config, rate=RateConfig(principal=Rate(1, 4)))
    assert how_many(lambda: found.principal(ANN)) == 4


def test_a_flood_is_one_record_a_minute_for_each_caller_and_counts_in_full() -> None:
    hub, found = rates(principal=Rate(0.001, 1))
    for step in range(600):
        hub.now = step / 5
        found.principal(ANN)
        found.principal(BOB)
    records = [effect.record for effect in hub.drain()]  # type: ignore[union-attr]
    assert [dict(one.fields).get("principal") for one in records] == ["key:ann", "key:bob"] * 2
    assert [dict(one.fields).get("more", 0) for one in records] == [0, 0, 299, 299]
    assert hub.counters["refused_rate_principal"] == 1198


def test_subjects_of_records_are_bounded() -> None:
    hub, found = rates(principal=Rate(0.001, 1))
    hub.limits = Limits(notice_subjects=10)
    for number in range(100):
        who = Principal(f"key:{number}")
        found.principal(who)
        found.principal(who)
    assert len(hub.drain()) == 10
    assert hub.counters["records_suppressed"] == 90
    hub.now = 61.0
    late = Principal("key:late")
    found.principal(late)
    found.principal(late)
    assert len(hub.drain()) == 1
