"""Where callers come from: the address of the socket, or what a trusted proxy says; never what anybody else
writes (threats.md section 0, Firewall rules).

Must never: hold an address that is somebody's: only those for documentation (RFC 5737, RFC 3849) and private
ones.
"""

from __future__ import annotations

import pytest

from mcpgate_proto.config import ListenConfig
from mcpgate_proto.effects import Address, Peer
from mcpgate_proto.errors import LocalProtocolError
from mcpgate_proto.security.address import (
    Addresses,
    Networks,
    Source,
    is_loopback,
    network_problem,
    parse_ip,
)
from mcpgate_proto.wire.http1_grammar import Headers

PROXIES = ("10.0.0.0/8", "2001:db8:ffff::/48")
CLIENT = "192.0.2.33"
XFF = "x-forwarded-for"


def tcp(host: str) -> Peer:
    return Peer(kind="tcp", address=Address(host=host, port=40_000))


def fields(*pairs: tuple[str, str]) -> Headers:
    return Headers(tuple(pairs))


def asks(found: Addresses, peer: Peer, headers: Headers) -> Source | None:
    """As a transport asks: once for the connection, and where that is a proxy's, for each request."""
    came_from = found.connecting(peer)
    assert came_from is not None
    return found.requesting(peer, headers) if came_from.proxy else came_from


def policy(**told: object) -> Addresses:
    return Addresses(ListenConfig(name="in", **told))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8::0:1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:C000:0201", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::1", "::1"),
        ("192.0.2.1%eth0", None),
        ("fe80::1%", None),
        ("192.0.2.01", None),
        ("192.0.2", None),
        ("0xc0000201", None),
        ("3221225985", None),
        ("192.0.2.1 ", None),
        ("[::1]", None),
        ("localhost", None),
        ("١٩٢.0.2.1", None),
        ("", None),
    ],
)
def test_addresses_are_read_strictly_and_in_one_form(text: str, found: str | None) -> None:
    told = parse_ip(text)
    assert (None if told is None else str(told)) == found


@pytest.mark.parametrize(
    ("entry", "inside", "outside"),
    [
        ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
        ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
        ("2001:db8::/32", "2001:db8:1::1", "2001:db9::1"),
        ("::ffff:192.0.2.0/120", "192.0.2.9", "192.0.3.9"),
        ("::ffff:192.0.2.7", "::ffff:192.0.2.7", "192.0.2.8"),
        ("0.0.0.0/0", "192.0.2.1", "2001:db8::1"),
        ("::/0", "2001:db8::1", "192.0.2.1"),
    ],
)
def test_networks_hold_what_they_should(entry: str, inside: str, outside: str) -> None:
    networks = Networks([entry])
    for text, within in ((inside, True), (outside, False)):
        ip = parse_ip(text)
        assert ip is not None and (ip in networks) is within


@pytest.mark.parametrize("entry", ["192.0.2.1/24", "2001:db8::1/32"])
def test_bits_beyond_the_prefix_are_a_slip(entry: str) -> None:
    assert "beyond" in network_problem(entry)
    with pytest.raises(LocalProtocolError):
        Networks([entry])


@pytest.mark.parametrize("entry", ["", "all", "192.0.2.0/33", "192.0.2.0/-1", "gw.example", "1.2.3.4/0/0"])
def test_what_is_no_network_is_refused_not_dropped(entry: str) -> None:
    """A list that is shorter than it looks denies less than it says."""
    assert "neither a network" in network_problem(entry)
    with pytest.raises(LocalProtocolError):
        policy(deny_cidrs=("192.0.2.0/24", entry))


def test_good_entries_have_no_problem() -> None:
    assert [network_problem(entry) for entry in (*PROXIES, "192.0.2.1", "::1")] == [""] * 4


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("localhost.example", False),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("127.0.0.1.example", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("allow", "deny", "host", "let_in"),
    [
        ((), (), CLIENT, True),
        (("192.0.2.0/24",), (), CLIENT, True),
        (("192.0.2.0/24",), (), "198.51.100.1", False),
        (("192.0.2.0/24",), (), "::ffff:192.0.2.33", True),
        (("192.0.2.0/24",), (), "2001:db8::1", False),
        ((), ("192.0.2.0/24",), CLIENT, False),
        ((), ("192.0.2.0/24",), "::ffff:192.0.2.33", False),
        ((), ("192.0.2.0/24",), "198.51.100.1", True),
        (("192.0.2.0/24",), ("192.0.2.33",), CLIENT, False),
        (("192.0.2.0/24",), ("192.0.2.33",), "192.0.2.34", True),
        (("fe80::/10",), (), "fe80::1%eth0", True),
    ],
)
def test_who_may_connect(allow: tuple[str, ...], deny: tuple[str, ...], host: str, let_in: bool) -> None:
    found = policy(allow_cidrs=allow, deny_cidrs=deny).connecting(tcp(host))
    assert (found is not None) is let_in


@pytest.mark.parametrize(
    ("host", "key"),
    [
        (CLIENT, CLIENT),
        ("::ffff:192.0.2.33", CLIENT),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_callers_are_counted_by_ipv4_address_or_by_64(host: str, key: str) -> None:
    told = policy(trusted_proxies=PROXIES).requesting(tcp("10.0.0.1"), fields((XFF, host.partition("%")[0])))
    for found in (policy().connecting(tcp(host)), told):
        assert found is not None and found.key == key and found.own


@pytest.mark.parametrize("peer", [Peer(kind="unix", uid=1), Peer(kind="stdio"), Peer(kind="tcp")])
def test_who_has_no_address_is_nowhere_and_may_come_in(peer: Peer) -> None:
    nowhere = policy(allow_cidrs=("192.0.2.0/24",)).connecting(peer)
    assert nowhere is not None and not nowhere.key and not nowhere.text and not nowhere.proxy


# (peer, header value, whose address it is in the end)
TOLD = {
    "one proxy": ("10.0.0.1", CLIENT, CLIENT),
    "two proxies": ("10.0.0.1", f"{CLIENT}, 10.1.1.1", CLIENT),
    "spoofed to the left": ("10.0.0.1", f"203.0.113.9, {CLIENT}", CLIENT),
    "spoofed with a proxy's address": ("10.0.0.1", f"10.9.9.9, {CLIENT}", CLIENT),
    "spoofed behind two proxies": ("10.0.0.1", f"203.0.113.9, {CLIENT}, 10.1.1.1", CLIENT),
    "garbage to the left": ("10.0.0.1", f'"); DROP, \\, {CLIENT}', CLIENT),
    "with a port": ("10.0.0.1", f"{CLIENT}:5000", CLIENT),
    "IPv6": ("10.0.0.1", "2001:db8::9", "2001:db8::9"),
    "IPv6 in brackets": ("10.0.0.1", "[2001:db8::9]", "2001:db8::9"),
    "IPv6 with a port": ("10.0.0.1", "[2001:db8::9]:443", "2001:db8::9"),
    "IPv4 in IPv6": ("10.0.0.1", f"::ffff:{CLIENT}", CLIENT),
    "a proxy over IPv6": ("2001:db8:ffff::1", CLIENT, CLIENT),
    "a proxy as IPv4 in IPv6": ("::ffff:10.0.0.1", CLIENT, CLIENT),
    "only proxies": ("10.0.0.1", "10.2.2.2, 10.1.1.1", "10.2.2.2"),
    "garbage before a proxy": ("10.0.0.1", "unknown, 10.1.1.1", "10.1.1.1"),
    "more hops than are looked at": ("10.0.0.1", f"{CLIENT}" + ", 10.1.1.1" * 50, "10.1.1.1"),
    # Nothing that can be read: the proxy itself.
    "empty": ("10.0.0.1", "", "10.0.0.1"),
    "a name": ("10.0.0.1", "client.example", "10.0.0.1"),
    "empty at the end": ("10.0.0.1", f"{CLIENT},", "10.0.0.1"),
    "a port too long": ("10.0.0.1", f"{CLIENT}:123456", "10.0.0.1"),
    "a bracket left open": ("10.0.0.1", "[2001:db8::9", "10.0.0.1"),
    "IPv4 in brackets": ("10.0.0.1", f"[{CLIENT}]", "10.0.0.1"),
    # Not from a proxy of ours: the header is nothing.
    "from the client itself": ("198.51.100.7", CLIENT, "198.51.100.7"),
    "from loopback": ("127.0.0.1", CLIENT, "127.0.0.1"),
    "from a network next to it": ("11.0.0.1", CLIENT, "11.0.0.1"),
}


@pytest.mark.parametrize(("peer", "value", "whose"), TOLD.values(), ids=TOLD)
def test_x_forwarded_for_counts_from_the_right_and_from_trusted_proxies_only(
    peer: str, value: str, whose: str
) -> None:
    found = asks(policy(trusted_proxies=PROXIES), tcp(peer), fields((XFF, value)))
    assert found is not None and found.text == whose
    said_nothing = whose == "10.0.0.1"
    assert found.own is not said_nothing


def test_several_fields_are_one_list() -> None:
    """RFC 9110 section 5.3: a proxy may add a field of its own in place of a longer value."""
    told = fields((XFF, "203.0.113.9"), ("host", "x"), (XFF, CLIENT), (XFF, "10.1.1.1"))
    found = policy(trusted_proxies=PROXIES).requesting(tcp("10.0.0.1"), told)
    assert found is not None and found.text == CLIENT


FORWARDED = {
    "plain": (f"for={CLIENT}", CLIENT),
    "with more": (f"for={CLIENT};proto=https;by=10.0.0.1;host=gw", CLIENT),
    "case and blanks": (f" Proto=https ; FOR = {CLIENT} ", CLIENT),
    "quoted": (f'for="{CLIENT}:5000"', CLIENT),
    "IPv6": ('for="[2001:db8::9]:4711"', "2001:db8::9"),
    "two proxies": (f"for={CLIENT}, for=10.1.1.1", CLIENT),
    "spoofed": (f"for=203.0.113.9, for={CLIENT}", CLIENT),
    "a quote left open by the client": (f'for="203.0.113.9, for={CLIENT}', CLIENT),
    "a comma in quotes": (f'for="203.0.113.9, for=10.1.1.1", for={CLIENT}', CLIENT),
    "a backslash at the end": (f"for=203.0.113.9\\, for={CLIENT}", CLIENT),
    "unknown": ("for=unknown", "10.0.0.1"),
    "hidden": ("for=_SEVKISEK", "10.0.0.1"),
    "no for": ("proto=https", "10.0.0.1"),
    "two for": (f"for={CLIENT};for=203.0.113.9", "10.0.0.1"),
    "an address without its name": (CLIENT, "10.0.0.1"),
    "empty": ("", "10.0.0.1"),
}


@pytest.mark.parametrize(("value", "whose"), FORWARDED.values(), ids=FORWARDED)
def test_forwarded(value: str, whose: str) -> None:
    found = policy(trusted_proxies=PROXIES, forwarded_header="forwarded")
    told = asks(found, tcp("10.0.0.1"), fields(("forwarded", value)))
    assert told is not None and told.text == whose
    ignored = asks(found, tcp("198.51.100.7"), fields(("forwarded", value)))
    assert ignored is not None and ignored.text == "198.51.100.7"


@pytest.mark.parametrize(
    ("header", "other"), [("x-forwarded-for", "forwarded"), ("forwarded", "x-forwarded-for")]
)
def test_the_header_that_the_proxy_does_not_write_is_the_clients_own(header: str, other: str) -> None:
    """A proxy that writes one passes the other through as it came."""
    spelled = {"x-forwarded-for": "{}", "forwarded": "for={}"}
    told = fields((other, spelled[other].format("203.0.113.9")), (header, spelled[header].format(CLIENT)))
    found = asks(policy(trusted_proxies=PROXIES, forwarded_header=header), tcp("10.0.0.1"), told)
    assert found is not None and found.text == CLIENT


@pytest.mark.parametrize(
    ("allow", "deny", "value", "let_in"),
    [
        (("192.0.2.0/24",), (), CLIENT, True),
        (("192.0.2.0/24",), (), "203.0.113.9", False),
        (("192.0.2.0/24",), (), "192.0.2.1, 203.0.113.9", False),
        # The proxy itself is on no list of clients, whatever it says.
        (("192.0.2.0/24",), (), "", False),
        ((), ("192.0.2.33",), CLIENT, False),
        ((), ("192.0.2.33",), f"203.0.113.9, {CLIENT}", False),
        ((), ("192.0.2.33",), "192.0.2.34", True),
    ],
)
def test_behind_a_trusted_proxy_the_lists_are_about_clients(
    allow: tuple[str, ...], deny: tuple[str, ...], value: str, let_in: bool
) -> None:
    found = policy(allow_cidrs=allow, deny_cidrs=deny, trusted_proxies=PROXIES)
    assert found.connecting(tcp("10.0.0.1")) is not None, "the proxy is let in and judged by request"
    assert (found.requesting(tcp("10.0.0.1"), fields((XFF, value))) is not None) is let_in


def test_a_proxy_on_a_unix_socket_is_trusted_if_that_is_said() -> None:
    unix, told = Peer(kind="unix", uid=33), fields((XFF, f"203.0.113.9, {CLIENT}"))
    trusting = policy(trusted_proxies=("unix",), deny_cidrs=("198.51.100.0/24",))
    found = trusting.requesting(unix, told)
    assert found is not None and found.text == CLIENT and found.own
    assert trusting.requesting(unix, fields((XFF, "198.51.100.1"))) is None
    silent = trusting.requesting(unix, fields())
    assert silent is not None and not silent.text
    came_from = trusting.connecting(unix)
    assert came_from is not None and came_from.proxy
    ignored = asks(policy(trusted_proxies=PROXIES), unix, told)
    assert ignored is not None and not ignored.text


@pytest.mark.parametrize("told", [[], [(XFF, "unknown")], [(XFF, "10.0.0.1, unix:")]])
def test_behind_a_proxy_on_a_unix_socket_nobody_in_particular_is_on_no_list(
    told: list[tuple[str, str]],
) -> None:
    unix = Peer(kind="unix", uid=33)
    assert (
        policy(trusted_proxies=("unix",), allow_cidrs=("10.0.0.0/8",)).requesting(unix, fields(*told)) is None
    )


def test_a_proxys_own_address_is_no_callers() -> None:
    """All its clients would be counted as one."""
    for found in (
        policy(trusted_proxies=PROXIES).connecting(tcp("10.0.0.1")),
        policy(behind_proxy=True).connecting(tcp("10.0.0.1")),
        asks(policy(behind_proxy=True), tcp("10.0.0.1"), fields((XFF, CLIENT))),
    ):
        assert found is not None and found.text == "10.0.0.1" and not found.own
