"""`/healthz`, `/readyz` and `/metrics`: who may read them, what they say, and that every refusal can be seen
in them.

Must never: take a metric for there because its name is in the code; every one is scraped.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from fuzz.sim.scene import FAST, Scene
from mcpgate_proto.config import MonitorConfig, Names, Rate, RateConfig, RuleConfig
from mcpgate_proto.downstream.monitor import MEANINGS, metrics_text
from mcpgate_proto.relay.tally import BOUNDS_S, Tallies
from tests.security.prometheus import Family, parse
from tests.threats.raw import HOST, LEGACY, MODERN_ERA, Raw, Response, ask, body_of, call_of, post, ws_open

ALL = ("health", "ready", "metrics")


def scene_of(
    servers: dict[str, tuple[str, tuple[str, ...]]] | None = None,
    *,
    down: str = "",
    limits: dict[str, Any] | None = None,
    listen: dict[str, Any] | None = None,
    **config: Any,
) -> Scene:
    scene = Scene(
        servers or {"one": ("stdio", LEGACY)},
        listeners=("http", "unix"),
        sockets=True,
        limits=msgspec.structs.replace(FAST, **(limits or {})),
        listen={"monitor": ALL, **(listen or {})},
        **config,
    )
    if down:
        scene[down].up = False
    scene.start()
    scene.run(1.0)
    return scene


def get(scene: Scene, path: str, method: str = "GET") -> Response:
    return ask(scene, f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode(), wait_s=0.01).last


def scrape(scene: Scene) -> dict[str, Family]:
    told = get(scene, "/metrics")
    assert told.status == 200
    assert told.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return parse(told.body)


# -- who may read what


def test_health_is_open_and_says_nothing_else() -> None:
    scene = scene_of(listen={"auth": "required"})
    told = get(scene, "/healthz")
    assert (told.status, told.body) == (200, b"ok\n")
    assert told.headers["cache-control"] == "no-store"
    for method in ("POST", "DELETE", "PUT"):
        assert get(scene, "/healthz", method).status == 405
    strange = ask(scene, b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n")
    assert strange.last.status == 403, "the door is before it"


@pytest.mark.parametrize("path", ["/readyz", "/metrics"])
def test_the_others_are_behind_the_gate(path: str) -> None:
    scene = scene_of(listen={"auth": "required"})
    refused = get(scene, path)
    assert refused.status == 401 and b"one" not in refused.body
    scene = scene_of()
    assert get(scene, path).status == 200
    assert [get(scene, path, method).status for method in ("DELETE", "PUT")] == [405, 405]
    assert ask(scene, post(b"{}", path=path)).last.status == 405


def test_nothing_is_there_unless_it_is_wanted() -> None:
    scene = scene_of(listen={"monitor": ()})
    assert [get(scene, path).status for path in ("/healthz", "/readyz", "/metrics")] == [404] * 3
    scene = scene_of(listen={"monitor": ("ready",)}, monitor=MonitorConfig(ready_path="/is/it"))
    assert [get(scene, path).status for path in ("/healthz", "/is/it", "/metrics")] == [404, 200, 404]


def test_a_reload_moves_the_endpoints() -> None:
    scene = scene_of()
    moved = msgspec.structs.replace(
        scene.config, monitor=MonitorConfig(health_path="/h", ready_path="/r", metrics_path="/m", ready="all")
    )
    scene.world.feed("reload", moved)
    scene.run(1.0)
    assert [get(scene, path).status for path in ("/h", "/r", "/m")] == [200] * 3
    assert [get(scene, path).status for path in ("/healthz", "/readyz", "/metrics")] == [404] * 3
    raw = ws_open(scene)
    assert not raw.ended and not raw.responses


def test_an_endpoint_that_has_moved_while_the_body_of_a_request_came() -> None:
    scene = scene_of()
    slow = Raw(scene).send(f"GET /metrics HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 5\r\n\r\nab".encode())
    scene.world.feed(
        "reload", msgspec.structs.replace(scene.config, monitor=MonitorConfig(metrics_path="/m"))
    )
    assert slow.send(b"cde").statuses == [404]


def test_the_mcp_endpoint_stays_the_one_that_is_upgraded() -> None:
    scene = scene_of()
    assert ws_open(scene).frames == [] and not ws_open(scene).ended
    raw = ws_open(scene, path="/metrics")
    assert raw.last.status == 200


# -- readiness


@pytest.mark.parametrize(("wanted", "status"), [("any", 200), ("all", 503)])
def test_ready_counts_usable_servers(wanted: str, status: int) -> None:
    scene = scene_of(
        {"good": ("stdio", LEGACY), "bad": ("http", LEGACY), "off": ("stdio", LEGACY)},
        down="bad",
        options={"off": {"enabled": False}},
        monitor=MonitorConfig(ready=wanted),  # type: ignore[arg-type]
    )
    told = get(scene, "/readyz")
    assert told.status == status
    assert told.json == {
        "ready": status == 200,
        "servers": {"good": "connected", "bad": "down", "off": "disabled"},
    }


def test_no_usable_server_at_all_is_not_ready() -> None:
    scene = scene_of({"one": ("http", LEGACY)}, down="one")
    assert get(scene, "/readyz").status == 503
    scene.only.up = True
    scene.run(90.0)
    assert get(scene, "/readyz").status == 200


def test_stopping_is_not_ready_though_alive() -> None:
    scene = scene_of()
    raw = Raw(scene)
    client = scene.modern()
    client.tool("slow", steps=20)
    scene.run(0.1)
    scene.world.feed("shutdown", 60.0)
    raw.send(f"GET /readyz HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode(), 0.01)
    assert raw.last.status == 503 and not raw.last.json["ready"]
    raw.send(f"GET /healthz HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode(), 0.01)
    assert raw.last.status == 200


# -- metrics


def test_a_scrape_is_by_the_book_and_tells_what_goes_on() -> None:
    scene = scene_of({"one": ("stdio", LEGACY), "two": ("http", MODERN_ERA)}, version="1.2.3")
    client = scene.modern()
    client.prefix = "one__"
    scene.done(*[client.tool("echo") for _ in range(3)])
    missing = scene.done(client.tool("nothing"))
    assert missing.code is not None
    slow = client.tool("slow", steps=4, every=0.5)
    gone = client.tool("silent")
    scene.run(0.3)
    found = scrape(scene)
    assert found["mcpgate_build_info"].value(version="1.2.3") == 1
    assert found["mcpgate_calls_in_flight"].value() == 2
    assert found["mcpgate_calls_total"].value(server="one", outcome="ok") == 3
    assert found["mcpgate_calls_total"].value(server="two", outcome="ok") == 0
    assert found["mcpgate_server_up"].value(server="two") == 1
    assert found["mcpgate_server_state"].value(server="one", state="connected") == 1
    assert found["mcpgate_server_state"].value(server="one", state="down") == 0
    client.cancel(gone)
    scene.done(slow)
    found = scrape(scene)
    assert found["mcpgate_calls_in_flight"].value() == 0
    assert found["mcpgate_calls_total"].value(server="one", outcome="cancelled") == 1
    took = found["mcpgate_call_duration_seconds"]
    assert took.value("_count", server="one") == 5
    assert took.value("_bucket", server="one", le="1") == 4
    assert took.value("_bucket", server="one", le="5") == 5
    assert 2.0 <= took.value("_sum", server="one") < 5.0


def test_questions_and_failures_are_outcomes_of_their_own() -> None:
    from fuzz.sim.clients import FORM

    scene = scene_of({"one": ("http", MODERN_ERA)}, options={"one": {"timeout": 1.0}})
    client = scene.modern(capabilities=FORM)
    scene.done(client.tool("ask"), client.tool("silent"))
    calls = scrape(scene)["mcpgate_calls_total"]
    assert calls.value(server="one", outcome="input_required") == 1
    assert calls.value(server="one", outcome="ok") == 1
    assert calls.value(server="one", outcome="error") == 1


def test_label_values_are_escaped() -> None:
    scene = scene_of(version='a"b\\c\nd')
    assert scrape(scene)["mcpgate_build_info"].value(version='a"b\\c\nd') == 1


def test_what_callers_say_makes_no_new_series() -> None:
    """Bounded, whatever is called by whomever."""
    scene = scene_of()
    before = {name: len(family.samples) for name, family in scrape(scene).items()}
    for number in range(50):
        scene.net.client_host = f"192.0.2.{number}"
        ask(scene, call_of(f"tool {number}"), wait_s=0.01)
    for name, family in scrape(scene).items():
        assert len(family.samples) == before.get(name, 1), name


def test_without_anybody_to_read_them_calls_are_not_tallied() -> None:
    scene = Scene({"one": ("stdio", LEGACY)}).start()
    assert scene.world.gateway._hub.tally is None


def test_buckets_hold_what_took_no_longer() -> None:
    tallies = Tallies()
    for seconds in (0.0, BOUNDS_S[0], BOUNDS_S[0] + 1e-9, BOUNDS_S[-1], BOUNDS_S[-1] + 1):
        tallies.note("one", "ok", seconds)
    assert tallies.of("one").buckets == [2, 1, *[0] * (len(BOUNDS_S) - 3), 1, 1]


def test_every_meaning_can_be_printed() -> None:
    class Everything:
        servers: list[Any] = []
        counters = dict.fromkeys(MEANINGS, 7)
        stopping = False

        def __getattr__(self, name: str) -> int:
            return 0

    found = parse(metrics_text(Everything(), {}, "1"))
    for name, told in MEANINGS.items():
        shown = "calls_started" if name == "calls" else name
        family = found[f"mcpgate_{shown}_total"]
        assert (family.help, family.value()) == (told, 7)


# -- every refusal

HEADERS = f"Host: {HOST}\r\nContent-Type: application/json\r\n".encode()
BIG = b"x" * 3000


def flood(make: Callable[[Scene], Any], times: int) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        for _ in range(times):
            make(scene)

    return act


def held_calls(scene: Scene) -> None:
    client = scene.modern()
    for _ in range(5):
        client.tool("silent")
    scene.run(0.2)


def slow_head(scene: Scene) -> None:
    Raw(scene).send(b"POST /mcp HTT", 15.0)


def slow_body(scene: Scene) -> None:
    Raw(scene).send(b"POST /mcp HTTP/1.1\r\n" + HEADERS + b"Content-Length: 99\r\n\r\n{", 25.0)


def slow_message(scene: Scene) -> None:
    ws_open(scene).send(b"\x81\xfe\x0f\xff\0\0\0\0" + b"[1,", 25.0)


def much_at_once(scene: Scene) -> None:
    for _ in range(3):
        Raw(scene).send(b"POST /mcp HTTP/1.1\r\n" + HEADERS + b"Content-Length: 9000\r\n\r\n" + BIG, 0.1)


def two_users(scene: Scene) -> None:
    Raw(scene, "unix", "unix other")


def many_requests(scene: Scene) -> None:
    raw = ws_open(scene)
    for number in range(5):
        raw.frame(1, json.dumps(body_of(id=number, name="silent", arguments={})).encode(), 0.01)


def stalled(scene: Scene) -> None:
    raw = Raw(scene)
    raw.stream.read(False)
    raw.stream.send(call_of("big", size=100_000))
    scene.run(40.0)


def greedy(scene: Scene) -> None:
    for _ in range(4):
        raw = Raw(scene)
        raw.stream.read(False)
        raw.stream.send(call_of("big", size=20_000))
    scene.run(1.0)


def from_elsewhere(scene: Scene) -> None:
    scene.net.client_host = "203.0.113.1"
    Raw(scene)
    scene.net.client_host = "127.0.0.1"


ONE = Rate(0.0001, 1)
WRONG = call_of().replace(b"Host:", b"Authorization: Bearer mcpg_x_y\r\nHost:")
Case = tuple[str, Callable[[Scene], Any], dict[str, Any]]
REFUSALS: list[Case] = [
    ("door_refused", lambda s: ask(s, call_of().replace(HOST.encode(), b"evil.example")), {}),
    ("door_refused", lambda s: ask(s, call_of().replace(b"Host:", b"Origin: null\r\nHost:")), {}),
    ("auth_refused", lambda s: ask(s, WRONG), {"listen": {"auth": "required"}}),
    ("peers_refused", two_users, {}),
    ("refused_address", from_elsewhere, {"listen": {"deny_cidrs": ("203.0.113.0/24",)}}),
    ("refused_rate_address", flood(lambda s: ask(s, call_of()), 9), {"rate": {"address": Rate(1, 4)}}),
    ("refused_rate_principal", flood(lambda s: ask(s, call_of()), 9), {"rate": {"principal": Rate(1, 4)}}),
    ("refused_rate_tool", flood(lambda s: ask(s, call_of()), 2), {"rate": {"tool": ONE}}),
    ("refused_rate_server", flood(lambda s: ask(s, call_of()), 2), {"options": {"one": {"rate": ONE}}}),
    ("refused_cap_calls", held_calls, {"rate": {"concurrent_calls": 2}}),
    ("refused_cap_connections", flood(Raw, 4), {"rate": {"connections_per_address": 3}}),
    ("refused_calls", held_calls, {"limits": {"calls": 2}}),
    ("connections_refused", flood(Raw, 6), {"limits": {"connections": 4}}),
    ("sessions_refused", flood(lambda s: s.legacy_http().open(), 3), {"limits": {"sessions": 0}}),
    ("requests_refused", many_requests, {"limits": {"calls_per_session": 2}}),
    ("http_refused", lambda s: ask(s, b"NONSENSE\r\n\r\n"), {}),
    ("http_slow_heads", slow_head, {}),
    ("http_slow_bodies", slow_body, {}),
    ("slow_messages", slow_message, {}),
    ("refused_memory", much_at_once, {"limits": {"unread_all_bytes": 5000, "unread_free_bytes": 1000}}),
    ("malformed_messages", lambda s: ask(s, post(b"{")), {}),
    ("messages_too_long", lambda s: Raw(s, "unix", "unix").send(BIG), {"limits": {"message_bytes": 2000}}),
    ("dropped_stalled", stalled, {}),
    ("dropped_over_budget", greedy, {"limits": {"unsent_all_bytes": 50_000}}),
    ("denied", lambda s: ask(s, call_of()), {"rules": (RuleConfig(tools=Names(deny=("echo",))),)}),
]


@pytest.mark.parametrize(
    ("name", "act", "told"),
    REFUSALS,
    ids=[f"{name}-{number}" for number, (name, _, _) in enumerate(REFUSALS)],
)
def test_every_refusal_is_counted(name: str, act: Callable[[Scene], Any], told: dict[str, Any]) -> None:
    told = dict(told)
    rate = RateConfig(**told.pop("rate", {}))
    scene = scene_of(rate=rate, **told)
    before = scene.world.snapshot().counters.get(name, 0)
    act(scene)
    scene.run(1.0)
    # Scraped from where no limit of this test counts: the counters are the gateway's own.
    counted = scene.world.snapshot()
    found = parse(metrics_text(counted, {}, "1"))[f"mcpgate_{name}_total"]
    assert found.value() >= before + 1
    assert name in MEANINGS and found.help == MEANINGS[name]
