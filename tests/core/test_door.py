"""Host and Origin: strict grammars and short lists."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcpgate_proto.config import ListenConfig
from mcpgate_proto.effects import Address
from mcpgate_proto.security.door import (
    Door,
    HostPort,
    Origin,
    host_entry_problem,
    origin_entry_problem,
    parse_host,
    parse_origin,
)


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        ("localhost", HostPort("localhost")),
        ("LocalHost:9201", HostPort("localhost", 9201)),
        ("127.0.0.1:80", HostPort("127.0.0.1", 80)),
        ("[::1]", HostPort("::1")),
        ("[0:0:0:0:0:0:0:1]:65535", HostPort("::1", 65535)),
        ("[2001:DB8::0:1]:1", HostPort("2001:db8::1", 1)),
        ("my-host_1.example.com", HostPort("my-host_1.example.com")),
    ],
)
def test_hosts(value: str, parsed: HostPort) -> None:
    assert parse_host(value) == parsed


BAD_HOSTS = [
    "",
    " ",
    "a b",
    " localhost",
    "localhost ",
    "localhost,evil",
    "a, b",
    "evil@127.0.0.1:80/x",
    "localhost:9201@evil",
    "localhost/",
    "localhost#",
    "localhost?x",
    "localhost\\x",
    "localhost:",
    "localhost:0",
    "localhost:080",
    "localhost:65536",
    "localhost:99999999",
    "localhost:-1",
    "localhost:+1",
    "localhost:1:2",
    "localhost:a",
    ":80",
    "::1",
    "[::1",
    "::1]",
    "[::1]x",
    "[::1]:",
    "[::1%25eth0]",
    "[::1%eth0]",
    "[127.0.0.1]",
    "[]",
    "[::g]",
    "[[::1]]",
    "localhost.",
    ".localhost",
    "a..b",
    "-a",
    "a-",
    "%6cocalhost",
    "local\x00host",
    "localhost\r\n",
    "localhost\n",
    "l\u00f6calhost",
    "\u2460.example",
    "localhost:\u0661",
    "x" * 254,
    "http://localhost",
    "*",
    "*.example.com",
]


@pytest.mark.parametrize("value", BAD_HOSTS)
def test_bad_hosts(value: str) -> None:
    assert parse_host(value) is None
    assert parse_origin(f"http://{value}") is None


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        ("http://localhost:3000", Origin("http", "localhost", 3000)),
        ("HTTPS://Example.com", Origin("https", "example.com", 443)),
        ("http://[::1]", Origin("http", "::1", 80)),
        ("vscode-webview://abc123", Origin("vscode-webview", "abc123", None)),
    ],
)
def test_origins(value: str, parsed: Origin) -> None:
    assert parse_origin(value) == parsed


@pytest.mark.parametrize(
    "value",
    [
        "null",
        "",
        "localhost",
        "http:localhost",
        "http:/localhost",
        "//localhost",
        "://localhost",
        "http://localhost/",
        "http://a http://b",
        "http://user@localhost",
        "h\u00fctp://localhost",
        "1http://x",
        " http://x",
        "file://",
        "http://",
        "javascript:alert(1)",
        "http://localhost:9201/path",
        "http://localhost:9201\x00",
    ],
)
def test_bad_origins(value: str) -> None:
    assert parse_origin(value) is None


def door(
    bound: str = "127.0.0.1", port: int = 9201, *, listen: str = "", **settings: tuple[str, ...]
) -> Door:
    config = ListenConfig(name="main", host=listen or bound, port=port, **settings)  # type: ignore[arg-type]
    return Door(config, Address(host=bound, port=port))


@pytest.mark.parametrize(
    "value",
    ["localhost", "127.0.0.1", "[::1]", "localhost:9201", "127.0.0.1:9201", "[::1]:9201", "LOCALHOST:9201"],
)
def test_loopback_names_pass(value: str) -> None:
    assert door().check_host(value) is None


REFUSED = [
    "evil.example",
    "evil.example:9201",
    "localhost:9202",
    "localhost:80",
    "0.0.0.0",
    "0.0.0.0:9201",
    "[::]:9201",
    "127.0.0.2:9201",
    "127.1",
    "2130706433",
    "0x7f000001",
    "localhost.evil.example",
    "localhost:9201.evil.example",
    "evil-localhost",
    "localhost.",
    "[::ffff:127.0.0.1]:9201",
    "a.localhost",
    "192.168.0.1:9201",
]


@pytest.mark.parametrize("value", [*REFUSED, *BAD_HOSTS, None])
def test_other_hosts_do_not(value: str | None) -> None:
    reason = door().check_host(value)
    assert reason is not None
    assert not value or len(value) < 6 or value not in reason


def test_bound_address_and_lists() -> None:
    lan = door(
        "192.168.0.5", 8080, listen="box.lan", allowed_hosts=("Gate.Example", "other.example:8443", "::2")
    )
    for value in ("192.168.0.5:8080", "box.lan:8080", "gate.example", "gate.example:1", "GATE.example:443"):
        assert lan.check_host(value) is None, value
    for value in ("other.example:8443", "[::2]:7", "localhost:8080"):
        assert lan.check_host(value) is None, value
    for value in (
        "192.168.0.5",
        "192.168.0.5:80",
        "other.example",
        "other.example:8444",
        "x.gate.example",
        "box.lan",
    ):
        assert lan.check_host(value) is not None, value


def test_the_scheme_port_may_be_left_out() -> None:
    assert door("192.168.0.5", 80).check_host("192.168.0.5") is None
    assert door("192.168.0.5", 443).check_host("192.168.0.5") is None
    assert door(port=9201, allowed_hosts=("x.example:443",)).check_host("x.example") is not None


@pytest.mark.parametrize("bound", ["0.0.0.0", "::"])
def test_a_wildcard_is_no_name(bound: str) -> None:
    literal = f"[{bound}]" if ":" in bound else bound
    assert door(bound).check_host(f"{literal}:9201") is not None
    assert door(bound).check_host("localhost:9201") is None
    assert door(bound, allowed_hosts=(literal,)).check_host(f"{literal}:9201") is None


@pytest.mark.parametrize("entry", ["*", "*.example.com", "", "http://x", "a b", "x:0"])
def test_entries_that_do_not_parse_open_nothing(entry: str) -> None:
    assert host_entry_problem(entry) is not None
    assert door(allowed_hosts=(entry,)).check_host("evil.example") is not None


def test_entry_problems() -> None:
    assert host_entry_problem("gate.example:443") is None and host_entry_problem("::1") is None
    assert origin_entry_problem("https://app.example") is None
    assert (
        origin_entry_problem("null") is not None and origin_entry_problem("https://app.example/") is not None
    )


@pytest.mark.parametrize(
    ("origin", "passes"),
    [
        (None, True),
        ("http://localhost:9201", True),
        ("http://localhost:5173", True),
        ("http://localhost", True),
        ("https://127.0.0.1:1234", True),
        ("http://[::1]:9", True),
        ("HTTP://LOCALHOST:9201", True),
        ("null", False),
        ("", False),
        ("http://evil.example", False),
        ("http://localhost:9201.evil.example", False),
        ("http://localhost:9201@evil.example", False),
        ("http://localhost.evil.example", False),
        ("http://evil.example#localhost", False),
        ("http://0.0.0.0:9201", False),
        ("ftp://localhost", False),
        ("chrome-extension://abc", False),
        ("http://localhost, http://evil.example", False),
    ],
)
def test_origins_on_loopback(origin: str | None, passes: bool) -> None:
    reason = door().check_origin(origin, "localhost:9201")
    assert (reason is None) is passes
    assert reason is None or "evil" not in reason


def test_origins_on_other_addresses() -> None:
    lan = door("192.168.0.5", 8080, allowed_hosts=("gate.example",))
    host = "gate.example:8443"
    assert lan.check_origin("https://gate.example:8443", host) is None
    assert lan.check_origin("http://GATE.example:8443", host) is None
    assert lan.check_origin("https://gate.example", "gate.example") is None
    assert lan.check_origin("http://gate.example:80", "gate.example") is None
    for origin in ("https://gate.example", "https://evil.example:8443", "http://localhost:8080", "null"):
        assert lan.check_origin(origin, host) is not None, origin
    # A page on the user's own machine is the same origin only where it came from.
    assert lan.check_origin("http://localhost:8080", "localhost:8080") is None
    assert lan.check_origin("https://gate.example:8443") is not None


def test_listed_origins_are_exact() -> None:
    lan = door(
        "192.168.0.5", 8080, allowed_origins=("https://App.example", "vscode-webview://abc", "null", "*")
    )
    for origin in ("https://app.example", "https://app.example:443", "vscode-webview://abc"):
        assert lan.check_origin(origin) is None, origin
    for origin in ("http://app.example", "https://app.example:8443", "https://x.app.example", "null", "*"):
        assert lan.check_origin(origin) is not None, origin


def test_a_listener_by_name_is_on_loopback_too() -> None:
    assert door("localhost").check_origin("http://localhost:1") is None


def test_unix_socket() -> None:
    config = ListenConfig(name="main")
    unix = Door(config, Address(path="/run/mcpgate.sock"))
    assert unix.check_host("localhost") is None
    assert unix.check_host("evil.example") is not None
    assert unix.check_origin("http://localhost:3000") is None
    assert unix.check_origin("http://evil.example") is not None


@given(st.text(max_size=60))
def test_nothing_raises_and_little_passes(value: str) -> None:
    parsed = parse_host(value)
    if parsed is not None:
        assert not set(parsed.host) & set("@/\\#?, %[]")
        assert parsed.port is None or 1 <= parsed.port <= 65535
    parse_origin(value)
    checked = door()
    if checked.check_host(value) is None:
        assert parsed is not None and parsed.host in ("localhost", "127.0.0.1", "::1")
    if checked.check_origin(value) is None:
        origin = parse_origin(value)
        assert origin is not None and origin.host in ("localhost", "127.0.0.1", "::1")


@given(
    st.sampled_from(["localhost", "127.0.0.1", "[::1]"]),
    st.text(alphabet="@.:/#?evil80921 \\%", min_size=1, max_size=12),
)
@example("localhost", ".evil")
@example("localhost", ".evil:9201")
@example("127.0.0.1", ".evil:9201")
@example("localhost", ":9201")
def test_nothing_can_be_appended_to_a_loopback_name(name: str, tail: str) -> None:
    if door().check_host(name + tail) is None:
        assert tail == ":9201"
    if door().check_origin(f"http://{name}{tail}") is None:
        assert tail[0] == ":" and tail[1:].isdigit()
