"""Which URLs and addresses mcpgate lets itself be sent to (K3, K4; threats.md rows 20, 23, 29, 36, 38, 40).

Owns: the tables of what passes and what does not. Must never: resolve a name.
"""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgate_proto.effects import Address
from mcpgate_proto.security.egress import (
    PUBLIC,
    Kind,
    Place,
    kind_of,
    parse_url,
    permitted,
    reach,
    server_reach,
)

ADDRESSES = {
    Kind.PUBLIC: ["8.8.8.8", "1.1.1.1", "192.1.0.1", "172.32.0.1", "172.15.255.255", "2606:4700::1111"]
    # An IPv4 address in IPv6 clothes is what it is.
    + ["::ffff:8.8.8.8", "64:ff9b::808:808", "100.128.0.1", "223.255.255.255"],
    Kind.LOOPBACK: ["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"],
    Kind.PRIVATE: ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.0.1", "100.64.0.1", "198.18.0.1"]
    + ["fc00::1", "fd12:3456::1", "::ffff:10.1.2.3", "64:ff9b::a01:203", "64:ff9b:1::1"],
    Kind.FORBIDDEN: [
        # Metadata services: AWS, Azure, Google; AWS ECS; Alibaba; Oracle; AWS and Google over IPv6.
        *("169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
        *("fd00:ec2::254", "fd20:ce::254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"),
        *("169.254.0.1", "fe80::1", "fe80::1%eth0", "2606:4700::1%eth0"),
        *("0.0.0.0", "0.1.2.3", "::", "255.255.255.255", "240.0.0.1"),
        *("224.0.0.1", "239.255.255.250", "ff02::1"),
        *("192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"),
        # 6to4 and Teredo lead wherever their inside says; so does the compatible form.
        *("2002:7f00:1::", "2002:a9fe:a9fe::1", "2001::1", "::127.0.0.1", "::a00:1", "192.88.99.1"),
        *("fec0::1", "100::1", "5f00::1", "4000::1"),
        # No addresses: another parser may read something into them.
        *("", "localhost", "2130706433", "0x7f.1", "127.1", "0177.0.0.1", "127.0.0.1 ", "example.com"),
    ],
}


@pytest.mark.parametrize(("kind", "host"), [(kind, host) for kind, all in ADDRESSES.items() for host in all])
def test_kind_of_an_address(kind: Kind, host: str) -> None:
    assert kind_of(host) is kind


@given(st.ip_addresses())
def test_every_address_has_one_kind_and_what_python_calls_special_is_not_public(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    kind = kind_of(str(address))
    if kind is Kind.PUBLIC and not str(address).startswith(("64:ff9b::", "::ffff:")):
        assert not (address.is_loopback or address.is_link_local or address.is_multicast)
        assert not (address.is_unspecified or address.is_reserved or address.is_private)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_alike_in_all_clothes(address: ipaddress.IPv4Address) -> None:
    plain = kind_of(str(address))
    for network in ("::ffff:0:0", "64:ff9b::"):
        dressed = ipaddress.IPv6Address(int(ipaddress.IPv6Address(network)) + int(address))
        assert kind_of(str(dressed)) is plain


def test_only_permitted_addresses_are_left_in_their_order() -> None:
    found = [
        Address(host=host) for host in ("10.0.0.1", "8.8.8.8", "127.0.0.1", "169.254.169.254", "1.1.1.1")
    ]
    assert [one.host for one in permitted(found, PUBLIC)] == ["8.8.8.8", "1.1.1.1"]
    for tls, plain in ((True, False), (False, True)):
        configured = server_reach(tls=tls, allow_plain_http=plain)
        assert [one.host for one in permitted(found, configured)] == [
            "10.0.0.1",
            "8.8.8.8",
            "127.0.0.1",
            "1.1.1.1",
        ]
    plain_only = server_reach(tls=False, allow_plain_http=False)
    assert [one.host for one in permitted(found, plain_only)] == ["127.0.0.1"]
    assert permitted(found, ()) == []


@pytest.mark.parametrize(
    ("tls", "loopback", "private", "kinds"),
    [
        (True, False, False, (Kind.PUBLIC,)),
        (True, True, False, (Kind.PUBLIC, Kind.LOOPBACK)),
        (True, False, True, (Kind.PUBLIC, Kind.PRIVATE)),
        (True, True, True, (Kind.PUBLIC, Kind.LOOPBACK, Kind.PRIVATE)),
        (False, True, True, (Kind.LOOPBACK,)),  # `localhost` that leads elsewhere is not plain http's place
        (False, False, True, ()),
    ],
)
def test_how_far_a_url_reaches(tls: bool, loopback: bool, private: bool, kinds: tuple[Kind, ...]) -> None:
    assert reach(tls=tls, allow_loopback=loopback, allow_private=private) == kinds


GOOD = {
    "https://a.example": Place(True, "a.example", 443, "/"),
    "HTTPS://A.example:8443/x/y?z=1&w": Place(True, "a.example", 8443, "/x/y?z=1&w"),
    "https://[2606:4700::1]:444/": Place(True, "2606:4700::1", 444, "/"),
    "https://a.example?x=1": Place(True, "a.example", 443, "/?x=1"),
    "https://10.0.0.1/": Place(True, "10.0.0.1", 443, "/"),
    "https://a.example/%2e%2e/x": Place(True, "a.example", 443, "/%2e%2e/x"),
}
LOOPBACK = {
    "http://127.0.0.1:9000/x": Place(False, "127.0.0.1", 9000, "/x"),
    "http://localhost/": Place(False, "localhost", 80, "/"),
    "http://[::1]:1/": Place(False, "::1", 1, "/"),
}
BAD = [
    *("", "a.example", "/path", "//a.example/", "https:", "https://", "https:///x", "https:/a.example"),
    *("ftp://a.example/", "javascript:alert(1)", "file:///etc/passwd", "data:text/html,x", "ws://a.example/"),
    "http://a.example/",
    "http://127.0.0.1.evil.example/",
    "http://localhost.evil.example/",
    # User information, as in mcp-remote's and IBM's bugs: what another parser takes for the host.
    *("https://user@a.example/", "https://a.example:443@evil.example/", "https://:@a.example/"),
    *("https://a.example\\@evil.example/", "https://a.example%40evil.example/", "https://a.example%00/"),
    *("https://a.example/\r\nX: y", "https://a.example/ x", "https://a.example/\t", "\nhttps://a.example/"),
    *(
        "https://a.example/\x00",
        "https://a.example/\u202e",
        "https://\u00e4.example/",
        "https://a.example/`id`",
    ),
    *('https://a.example/"', "https://a.example/<x>", "https://a.example/a|b", "https://a.example/$(x)^"),
    *("https://a.example/#frag", "https://a.example#@evil.example/", "https://a.example:0/"),
    *("https://a.example:99999/", "https://a.example:/", "https://a.example:80x/", "https://a..example/"),
    *("https://a.example./", "https://[::1/", "https://::1/", "https://[fe80::1%25eth0]/", "https://[]/"),
    "https://a.example/" + "x" * 5000,
]


@pytest.mark.parametrize("url", GOOD)
def test_a_url_that_passes(url: str) -> None:
    assert parse_url(url) == parse_url(url, allow_loopback=True) == GOOD[url]


@pytest.mark.parametrize("url", LOOPBACK)
def test_plain_http_only_to_loopback_and_only_where_allowed(url: str) -> None:
    assert parse_url(url, allow_loopback=True) == LOOPBACK[url]
    assert isinstance(parse_url(url), str)


@pytest.mark.parametrize("url", BAD)
def test_a_url_that_does_not_pass(url: str) -> None:
    for allow in (True, False):
        reason = parse_url(url, allow_loopback=allow)
        assert isinstance(reason, str) and "evil" not in reason


@given(st.text(max_size=40), st.booleans())
def test_no_text_raises_and_what_passes_holds_nothing_odd(text: str, allow: bool) -> None:
    for url in (text, f"https://{text}", f"https://a.example/{text}"):
        place = parse_url(url, allow_loopback=allow)
        if isinstance(place, Place):
            assert place.host and 0 < place.port < 65536
            assert all("!" <= char <= "~" for char in place.target) and place.target.startswith("/")
