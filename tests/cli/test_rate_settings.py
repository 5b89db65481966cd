"""`[rate]`, `[monitor]`, the networks and endpoints of listeners, `audit`: what they mean and what is wrong
with bad ones.

Must never: start a gateway.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from mcpgate.settings import Settings, SettingsError, load
from mcpgate_proto.config import OFF, ListenConfig, MonitorConfig, Rate, RateConfig

BASE = '[[server]]\nname = "one"\nurl = "https://one.example/mcp"\ntransport = "http"\n'


def read(folder: Path, text: str) -> Settings:
    path = folder / "mcpgate.toml"
    path.write_text(text)
    path.chmod(0o600)
    return load(path, {"HOME": "/home/x", "PATH": "/usr/bin:/bin"})


def problems(folder: Path, text: str) -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        read(folder, text)
    assert all(problem.mend for problem in caught.value.problems)
    return {problem.key: problem.problem for problem in caught.value.problems}


def test_nothing_written_is_nothing_set(tmp_path: Path) -> None:
    found = read(tmp_path, BASE).gateway
    assert found.rate == RateConfig() and found.monitor == MonitorConfig() and not found.audit
    assert found.servers[0].rate is None and found.servers[0].tool_rates == {}
    assert found.listeners[0] == ListenConfig(name="http", port=8080)


def test_everything_written(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        """
        [gateway]
        audit = "audit.jsonl"
        audit_arguments = true
        [rate]
        principal = { per_s = 50, burst = 100 }
        address = "off"
        tool = { per_s = 0.5 }
        concurrent_calls = 0
        connections_per_address = 20
        [monitor]
        health_path = "/up"
        ready = "all"
        [[server]]
        name = "one"
        transport = "http"
        url = "https://one.example/mcp"
        rate = { per_s = 10, burst = 1 }
        tool_rates = { dear = { per_s = 0.1, burst = 2 }, "odd name" = "off" }
        [[listen]]
        allow_cidrs = ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"]
        deny_cidrs = ["10.6.6.6"]
        trusted_proxies = ["10.0.0.0/24"]
        forwarded_header = "forwarded"
        monitor = ["metrics", "health"]
        [[listen]]
        socket_path = "x.sock"
        trusted_proxies = ["unix"]
        deny_cidrs = ["203.0.113.0/24"]
        """,
    )
    gateway = settings.gateway
    assert gateway.rate == RateConfig(
        principal=Rate(50.0, 100),
        address=OFF,
        tool=Rate(0.5, 1),
        concurrent_calls=0,
        connections_per_address=20,
    )
    assert gateway.monitor == MonitorConfig(health_path="/up", ready="all")
    (server,) = gateway.servers
    assert server.rate == Rate(10.0, 1)
    assert server.tool_rates == {"dear": Rate(0.1, 2), "odd name": OFF}
    first, second = gateway.listeners
    assert first.allow_cidrs == ("10.0.0.0/8", "192.0.2.7", "2001:db8::/32")
    assert (first.deny_cidrs, first.trusted_proxies) == (("10.6.6.6",), ("10.0.0.0/24",))
    assert first.forwarded_header == "forwarded" and first.monitor == ("health", "metrics")
    assert second.trusted_proxies == ("unix",)
    assert gateway.audit and gateway.audit_arguments and settings.audit == str(tmp_path / "audit.jsonl")


def test_the_audit_stream_may_go_to_stderr(tmp_path: Path) -> None:
    settings = read(tmp_path, BASE + '[gateway]\naudit = "stderr"\n')
    assert settings.gateway.audit and settings.audit == "stderr"


BAD = [
    ("[gateway]\naudit_arguments = true", "gateway.audit_arguments", "means nothing without audit"),
    ("[rate]\nprincipal = 50", "rate.principal", "is no rate"),
    ('[rate]\nprincipal = "fast"', "rate.principal", "is no rate"),
    ("[rate]\nprincipal = { burst = 5 }", "rate.principal.per_s", "is missing"),
    ("[rate]\nprincipal = { per_s = 0 }", "rate.principal.per_s", "is 0"),
    ("[rate]\nprincipal = { per_s = -1 }", "rate.principal.per_s", "is -1"),
    ("[rate]\nprincipal = { per_s = nan }", "rate.principal.per_s", "is nan"),
    ("[rate]\nprincipal = { per_s = inf }", "rate.principal.per_s", "is inf"),
    ('[rate]\nprincipal = { per_s = "5" }', "rate.principal.per_s", "is a text"),
    ("[rate]\nprincipal = { per_s = 5, burst = 0 }", "rate.principal.burst", "is 0"),
    ("[rate]\nprincipal = { per_s = 5, brust = 9 }", "rate.principal.brust", "is not a known key"),
    ("[rate]\nprincipals = { per_s = 5 }", "rate.principals", "is not a known key"),
    ("[rate]\nconcurrent_calls = -1", "rate.concurrent_calls", "is -1"),
    ("[rate]\nconnections_per_address = true", "rate.connections_per_address", "is true or false"),
    ("rate = 5", "rate", "is a whole number"),
    ('[monitor]\nready = "most"', "monitor.ready", "'most' is not one of the choices"),
    ('[monitor]\nhealth_path = "up"', "monitor.health_path", "does not begin with a slash"),
    ('[monitor]\npath = "/x"', "monitor.path", "is not a known key"),
    (
        '[monitor]\nhealth_path = "/mcp"\n[[listen]]\nmonitor = ["health"]',
        "monitor.health_path",
        "is the path of something else too",
    ),
    (
        '[monitor]\nready_path = "/metrics"\n[[listen]]\nmonitor = ["ready", "metrics"]',
        "monitor.ready_path",
        "is the path of something else too",
    ),
    (
        '[monitor]\nmetrics_path = "/sse"\n[[listen]]\nsse = true\nmonitor = ["metrics"]',
        "monitor.metrics_path",
        "is the path of something else too",
    ),
    ('[[listen]]\nmonitor = ["metrcs"]', "listen[0].monitor[0]", "'metrcs' is nothing to be told"),
    ("[[listen]]\nmonitor = true", "listen[0].monitor", "is true or false"),
    (
        '[[listen]]\nallow_cidrs = ["10.0.0.1/8"]',
        "listen[0].allow_cidrs[0]",
        "has bits set beyond its prefix",
    ),
    ('[[listen]]\ndeny_cidrs = ["::/0", "evil"]', "listen[0].deny_cidrs[1]", "is neither a network"),
    (
        '[[listen]]\ntrusted_proxies = ["proxy.example"]',
        "listen[0].trusted_proxies[0]",
        "is neither a network",
    ),
    ('[[listen]]\nallow_cidrs = ["unix"]', "listen[0].allow_cidrs[0]", "is neither a network"),
    (
        '[[listen]]\nforwarded_header = "forwarded"',
        "listen[0].forwarded_header",
        "is read from trusted proxies only",
    ),
    (
        '[[listen]]\ntrusted_proxies = ["::1"]\nforwarded_header = "x-real-ip"',
        "listen[0].forwarded_header",
        "'x-real-ip' is not one of the choices",
    ),
    (
        '[[listen]]\nsocket_path = "x.sock"\nallow_cidrs = ["10.0.0.0/8"]',
        "listen[0].allow_cidrs",
        "means nothing on a Unix socket",
    ),
    (
        '[[listen]]\nkind = "unix"\nsocket_path = "x"\nmonitor = ["health"]',
        "listen[0].monitor",
        "means nothing",
    ),
    ('[[listen]]\nkind = "stdio"\ndeny_cidrs = ["::/0"]', "listen[0].deny_cidrs", "means nothing"),
]


@pytest.mark.parametrize(("text", "key", "problem"), BAD, ids=[text.replace("\n", " ") for text, _, _ in BAD])
def test_what_is_wrong_is_named_with_its_key(tmp_path: Path, text: str, key: str, problem: str) -> None:
    found = problems(tmp_path, f"{text}\n{BASE}")
    assert problem in found[key]


def test_rates_of_servers_are_checked_too(tmp_path: Path) -> None:
    found = problems(tmp_path, BASE + 'rate = 5\ntool_rates = { a = "b", c = { per_s = 0 } }\n')
    assert set(found) == {"server.one.rate", "server.one.tool_rates.a", "server.one.tool_rates.c.per_s"}
