"""Where mcpgate may be sent: the rules for URLs that come from peers, and for the addresses they lead to.

Owns: the grammar of such URLs (`parse_url`), what kind of place an address is (`kind_of`), and which
addresses may be dialled (`permitted`). Pure functions; the address that is judged is the one that is dialled.
Must never: resolve a name, trust a name for what it resolves to, or put a peer's text into a reason.

A server, or whoever answers for it, names URLs that mcpgate then fetches (metadata, keys, tokens) or shows to
a browser. Without these rules it could have the gateway read what only the gateway's own machine or network
can reach: cloud metadata, admin ports, files (K3, K4; threats.md rows 20, 23, 29, 36, 38, 40).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from enum import Enum
from urllib.parse import urlsplit

import msgspec

from mcpgate_proto.effects import Address
from mcpgate_proto.security.door import parse_host

__all__ = ["PUBLIC", "Kind", "Place", "kind_of", "parse_url", "permitted", "reach", "server_reach"]

# RFC 9110 section 4.1 recommends at least 8000 octets; a URL that people or metadata write is far shorter.
URL_CHARS = 4096
# RFC 3986 without what is not allowed there anyway: no blank, no control character, no quote, no backslash.
_URL = re.compile(r"[!#$%&'()*+,./0-9:;=?@A-Z\[\]_a-z~-]+")
_AUTHORITY = re.compile(r"https?://([^/?#]*)", re.IGNORECASE)


class Kind(Enum):
    """What kind of place an address is."""

    PUBLIC = "public"
    LOOPBACK = "loopback"
    # RFC 1918, RFC 6598, RFC 4193 and the like: other machines of the same owner.
    PRIVATE = "private"
    # Link-local (there clouds keep their metadata and credentials), multicast, unspecified, documentation,
    # reserved, and forms that hide another address: nobody names these in good faith.
    FORBIDDEN = "forbidden"


PUBLIC = (Kind.PUBLIC,)


class Place(msgspec.Struct, frozen=True):
    """A URL that passed the grammar. `target` is path and query; `host` in lower case, without brackets."""

    tls: bool
    host: str
    port: int
    target: str

    @property
    def origin(self) -> tuple[bool, str, int]:
        return (self.tls, self.host, self.port)


# The IANA special-purpose registries (RFC 6890 and its updates), written out: Python's own attributes have
# changed their meaning between patch releases (CVE-2024-4032). The first match counts, so exceptions stand
# before what they are taken from.
_KINDS = [
    (ipaddress.ip_network(network), kind)
    for network, kind in (
        # Metadata services outside of link-local: Alibaba, Azure, Oracle, AWS and Google over IPv6.
        ("100.100.100.200/32", Kind.FORBIDDEN),
        ("168.63.129.16/32", Kind.FORBIDDEN),
        ("192.0.0.0/24", Kind.FORBIDDEN),
        ("fd00:ec2::/32", Kind.FORBIDDEN),
        ("fd20:ce::/32", Kind.FORBIDDEN),
        ("127.0.0.0/8", Kind.LOOPBACK),
        ("::1/128", Kind.LOOPBACK),
        ("10.0.0.0/8", Kind.PRIVATE),
        ("172.16.0.0/12", Kind.PRIVATE),
        ("192.168.0.0/16", Kind.PRIVATE),
        ("100.64.0.0/10", Kind.PRIVATE),
        ("198.18.0.0/15", Kind.PRIVATE),
        ("fc00::/7", Kind.PRIVATE),
        # RFC 8215: which addresses are behind it, only its operator knows.
        ("64:ff9b:1::/48", Kind.PRIVATE),
        ("0.0.0.0/8", Kind.FORBIDDEN),
        ("169.254.0.0/16", Kind.FORBIDDEN),
        ("192.0.2.0/24", Kind.FORBIDDEN),
        ("192.88.99.0/24", Kind.FORBIDDEN),
        ("198.51.100.0/24", Kind.FORBIDDEN),
        ("203.0.113.0/24", Kind.FORBIDDEN),
        ("224.0.0.0/3", Kind.FORBIDDEN),
        ("0.0.0.0/0", Kind.PUBLIC),
        # Teredo, benchmarking, ORCHID; documentation; 6to4, which nobody runs any more (RFC 7526).
        ("2001::/23", Kind.FORBIDDEN),
        ("2001:db8::/32", Kind.FORBIDDEN),
        ("3fff::/20", Kind.FORBIDDEN),
        ("2002::/16", Kind.FORBIDDEN),
        ("2000::/3", Kind.PUBLIC),
    )
]
# An IPv4 address in other clothes is judged as what it is: mapped (RFC 4291), and NAT64 (RFC 6052), which is
# how machines without IPv4 reach all of it.
_DRESSED = (ipaddress.IPv6Network("::ffff:0:0/96"), ipaddress.IPv6Network("64:ff9b::/96"))


def kind_of(host: str) -> Kind:
    """What kind of place the numeric address `host` is. Anything that is no address is forbidden."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return Kind.FORBIDDEN
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return Kind.FORBIDDEN
        if any(address in network for network in _DRESSED):
            address = ipaddress.IPv4Address(address.packed[-4:])
    for network, kind in _KINDS:
        if address.version == network.version and address in network:
            return kind
    return Kind.FORBIDDEN


def permitted(addresses: Iterable[Address], kinds: tuple[Kind, ...]) -> list[Address]:
    """Those of `addresses` that may be dialled, in their order."""
    return [one for one in addresses if kind_of(one.host) in kinds]


def reach(*, tls: bool, allow_loopback: bool, allow_private: bool) -> tuple[Kind, ...]:
    """Which kinds of place a URL may lead to. Without TLS it is loopback or nothing, whatever its name is."""
    if not tls:
        return (Kind.LOOPBACK,) if allow_loopback else ()
    kinds = [Kind.PUBLIC]
    if allow_loopback:
        kinds.append(Kind.LOOPBACK)
    if allow_private:
        kinds.append(Kind.PRIVATE)
    return tuple(kinds)


def server_reach(*, tls: bool, allow_plain_http: bool) -> tuple[Kind, ...]:
    """Where the name of a configured server may lead. Servers on the own network are normal; none is among
    the forbidden, where a name leads only if its owner means harm. Plain http stays on this machine."""
    if tls or allow_plain_http:
        return (Kind.PUBLIC, Kind.LOOPBACK, Kind.PRIVATE)
    return (Kind.LOOPBACK,)


def parse_url(url: str, *, allow_loopback: bool = False) -> Place | str:
    """The place that `url` names, or why it may not be used: a fixed text.

    Passing are `https://host[:port]/...` and, with `allow_loopback`, `http://` to a loopback name or address.
    No user information, no fragment, nothing outside of visible ASCII: what is checked here must be read
    the same by everybody else (K4, threats.md row 29). Where a name leads is judged later, by `permitted`.
    """
    if not url or len(url) > URL_CHARS:
        return "the URL is empty or too long"
    if _URL.fullmatch(url) is None:
        return "the URL holds a character that must not be in one"
    match = _AUTHORITY.match(url)
    if match is None:
        return "the URL is neither https nor http"
    # Its grammar has no place for user information.
    place = parse_host(match[1])
    if place is None:
        return "the URL has user information or no proper host"
    if "#" in url:
        return "the URL has a fragment"
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    if not tls and not (allow_loopback and _is_loopback_name(place.host)):
        return "the URL is not https"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Place(tls, place.host, place.port or (443 if tls else 80), target)


def _is_loopback_name(host: str) -> bool:
    return host == "localhost" or kind_of(host) is Kind.LOOPBACK
