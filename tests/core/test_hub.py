"""The hub's look-ups: one per host, and never more than the limit.

Must never: reach into the hub's tables; what leaves it is what counts.
"""

from __future__ import annotations

from mcpgate_proto.config import GatewayConfig
from mcpgate_proto.effects import Address, Resolve
from mcpgate_proto.hub import Hub
from mcpgate_proto.limits import Limits

FOUND = [Address(host="192.0.2.1")]


def hub(**limits: int) -> Hub:
    config = GatewayConfig(limits=Limits(**limits))  # type: ignore[arg-type]
    return Hub(config, now=0.0, wall=1.7e9, seed=bytes(32))


def test_requests_for_one_host_share_a_look_up() -> None:
    made, answers = hub(), []
    for _ in range(3):
        made.resolve("a.example", lambda found, reason: answers.append(found))
    (effect,) = made.drain()
    assert isinstance(effect, Resolve) and effect.host == "a.example" and answers == []
    made.looked_up(effect.lookup, FOUND, "")
    assert answers == [FOUND] * 3
    made.resolve("a.example", lambda found, reason: answers.append(found))
    assert len(made.drain()) == 1, "an answer is not kept"


def test_look_ups_beyond_the_limit_are_refused_and_not_from_within() -> None:
    made, told = hub(lookups=2), []
    for name in ("a", "b", "c"):
        made.resolve(name, lambda found, reason, name=name: told.append((name, found)))  # type: ignore[misc]
    assert [effect.host for effect in made.drain() if isinstance(effect, Resolve)] == ["a", "b"]
    assert told == []
    for timer in made.timers.due(0.0):
        timer.run()
    assert told == [("c", None)]
