"""Outcomes that the gateway keeps itself: whose they are, for how long, and how much room they have (L22)."""

from __future__ import annotations

from mcpgate_proto import GatewayConfig, Limits
from mcpgate_proto.hub import Hub
from mcpgate_proto.mcp.codes import Fault, FaultKind
from mcpgate_proto.relay.kept_tasks import KeptTasks
from mcpgate_proto.wire import jsonrpc
from mcpgate_proto.wire.jsonrpc import Raw

GONE = Fault(FaultKind.CANCELLED, "cancelled")


def shelf(**limits: int) -> tuple[Hub, KeptTasks]:
    hub = Hub(GatewayConfig(limits=Limits(**limits)), now=0.0, wall=1e9, seed=bytes(32))  # type: ignore[arg-type]
    return hub, KeptTasks(hub)


def sized(size: int) -> dict[str, Raw]:
    return {"x": jsonrpc.to_raw("x" * (size - 2))}


def test_an_outcome_is_its_principal_s_alone() -> None:
    _, kept = shelf()
    assert kept.keep("alice", "one", "t", {}, sized(10), 60.0)
    found = kept.find("alice", "one", "t")
    assert found is not None and found.outcome == sized(10)
    for other in (("bob", "one", "t"), ("alice", "two", "t"), ("alice", "one", "u")):
        assert kept.find(*other) is None


def test_it_is_kept_for_its_time() -> None:
    hub, kept = shelf()
    kept.keep("alice", "one", "t", {}, GONE, 60.0)
    assert hub.timers.due(59.0) == []
    assert kept.find("alice", "one", "t") is not None
    for timer in hub.timers.due(61.0):
        timer.run()
    assert kept.find("alice", "one", "t") is None and len(kept) == 0


def test_the_oldest_of_the_same_principal_gives_way_and_nobody_else_s() -> None:
    _, kept = shelf(kept_tasks_per_principal=2, kept_tasks=3)
    assert kept.keep("bob", "one", "b", {}, GONE, 60.0)
    for id in ("1", "2", "3"):
        assert kept.keep("alice", "one", id, {}, GONE, 60.0)
    assert [kept.find("alice", "one", id) is not None for id in ("1", "2", "3")] == [False, True, True]
    assert not kept.keep("carol", "one", "c", {}, GONE, 60.0)  # there is no room, and none of hers
    assert kept.keep("bob", "one", "b2", {}, GONE, 60.0)
    assert kept.find("bob", "one", "b") is None and len(kept) == 3


def test_bytes_are_counted_and_given_back() -> None:
    _, kept = shelf(kept_tasks_bytes=100)
    assert kept.keep("alice", "one", "1", sized(40), sized(40), 60.0)
    assert not kept.keep("bob", "one", "b", {}, sized(30), 60.0)
    assert kept.keep("alice", "one", "1", {}, sized(60), 60.0)  # the same task anew
    assert kept.keep("bob", "one", "b", {}, sized(30), 60.0)
    assert kept.keep("alice", "one", "2", {}, sized(70), 60.0)
    assert kept.find("alice", "one", "1") is None
    assert not kept.keep("alice", "one", "3", {}, sized(101), 60.0)
    assert kept.find("bob", "one", "b") is not None
