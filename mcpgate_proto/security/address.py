"""Where callers come from: addresses, networks, and what a proxy in front says of them.

Owns: the reading of addresses (of the socket, of `Forwarded` and `X-Forwarded-For`), `Networks`, and
`Addresses`, the policy of one listener: who may connect, whose word on other addresses counts.
Must never: believe a header of anybody but a trusted proxy; compare addresses as text; let one caller pass as
many by way of the 2**64 addresses of its network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Protocol, TypeAlias

import msgspec

from mcpgate_proto.config import ListenConfig
from mcpgate_proto.effects import Peer
from mcpgate_proto.errors import LocalProtocolError

__all__ = ["UNIX", "Addresses", "Networks", "Source", "is_loopback", "network_problem", "parse_ip"]

Ip: TypeAlias = IPv4Address | IPv6Address

# The entry of `trusted_proxies` that stands for whoever may connect to a Unix socket.
UNIX = "unix"
# Proxies one behind the other; what stands further left was written by clients.
HOPS = 32
_PORT = re.compile(r":[0-9]{1,5}")


class HeaderFields(Protocol):
    """The headers of a request, as far as they are needed here."""

    def get_all(self, name: str) -> list[str]: ...


class Source(msgspec.Struct, frozen=True, gc=False):
    """Where a request comes from. `text` is for records; `key` is what is counted by: an IPv4 address, or the
    /64 of an IPv6 one (RFC 6177: a site has at least that). Both are empty where there is no address.

    `own`: it is the caller's own address, not that of a proxy that many come through. `proxy`, of a
    connection: it is one of ours, so each request tells its own source.
    """

    text: str = ""
    key: str = ""
    own: bool = False
    proxy: bool = False


NOWHERE = Source()


def parse_ip(text: str) -> Ip | None:
    """An address without port, brackets or name; a zone is dropped, an IPv4 address in IPv6 form (RFC 4291
    section 2.5.5.2) becomes IPv4. None for anything else."""
    text, percent, zone = text.partition("%")
    if percent and not zone:
        return None
    try:
        found = ip_address(text)
    except ValueError:
        return None
    if isinstance(found, IPv6Address):
        return found.ipv4_mapped or found
    return None if percent else found


def is_loopback(host: str) -> bool:
    """`host`, a name or an address, can only be reached from this machine."""
    found = parse_ip(host.strip("[]"))
    return host == "localhost" if found is None else found.is_loopback


def network_problem(entry: str) -> str:
    """What is wrong with an entry of a list of networks, or nothing."""
    try:
        _network(entry)
        return ""
    except ValueError:
        pass
    try:
        ip_network(entry, strict=False)
    except ValueError:
        return "is neither a network, such as 10.0.0.0/8 or 2001:db8::/32, nor an address"
    return "has bits set beyond its prefix"


def _network(entry: str) -> tuple[int, int, int]:
    """(version, first address, mask). Raises `ValueError`."""
    found = ip_network(entry)
    mapped = found.network_address.ipv4_mapped if isinstance(found, IPv6Network) else None
    if mapped is not None and found.prefixlen >= 96:
        found = ip_network(f"{mapped}/{found.prefixlen - 96}")
    return found.version, int(found.network_address), int(found.netmask)


class Networks:
    """A list of networks. Raises `LocalProtocolError` for an entry that is none: a list of the operator must
    not be shorter than it looks."""

    __slots__ = ("_all",)

    def __init__(self, entries: Iterable[str]) -> None:
        try:
            self._all = [_network(entry) for entry in entries]
        except ValueError:
            raise LocalProtocolError("an entry of a list of networks is none") from None

    def __bool__(self) -> bool:
        return bool(self._all)

    def __contains__(self, ip: Ip) -> bool:
        version, number = ip.version, int(ip)
        return any(number & mask == first and version == one for one, first, mask in self._all)


class Addresses:
    """The policy of one listener. See `ListenConfig` for what its lists mean."""

    __slots__ = ("_allow", "_deny", "_forwarded", "_proxy", "_proxies", "_unix")

    def __init__(self, listen: ListenConfig) -> None:
        self._allow = Networks(listen.allow_cidrs)
        self._deny = Networks(listen.deny_cidrs)
        self._unix = UNIX in listen.trusted_proxies
        self._proxies = Networks(entry for entry in listen.trusted_proxies if entry != UNIX)
        self._proxy = listen.behind_proxy
        self._forwarded = listen.forwarded_header

    def connecting(self, peer: Peer) -> Source | None:
        """Who connects, by the socket alone; None: it may not. A trusted proxy may: its requests are judged
        one by one."""
        ip = self._ip(peer)
        if ip is None:
            return Source(proxy=self._unix)
        if ip in self._proxies:
            return Source(str(ip), proxy=True)
        return self._source(ip, not self._proxy) if self._admits(ip) else None

    def requesting(self, peer: Peer, headers: HeaderFields) -> Source | None:
        """Who sends a request through `peer`, a proxy of ours; None: it may not."""
        ip = self._ip(peer)
        told = self._told(headers)
        found = ip if told is None else told
        if found is None:
            return None if self._allow else NOWHERE  # who may be anybody is on no list
        return self._source(found, told is not None) if self._admits(found) else None

    @staticmethod
    def _ip(peer: Peer) -> Ip | None:
        return parse_ip(peer.address.host) if peer.kind == "tcp" and peer.address is not None else None

    def _admits(self, ip: Ip) -> bool:
        return ip not in self._deny and (not self._allow or ip in self._allow)

    @staticmethod
    def _source(ip: Ip, own: bool) -> Source:
        text = str(ip)
        if ip.version == 4:
            return Source(text, text, own)
        return Source(text, str(IPv6Address(int(ip) >> 64 << 64)) + "/64", own)

    def _told(self, headers: HeaderFields) -> Ip | None:
        """The last address in the header that is not a proxy of ours: whoever wrote it is one. None where
        the proxy says nothing that can be read."""
        fields = ",".join(headers.get_all(self._forwarded))
        hops = _forwarded_for(fields) if self._forwarded == "forwarded" else fields.split(",")
        found: Ip | None = None
        for hop in reversed(hops[-HOPS:]):
            ip = _node(hop.strip())
            if ip is None:
                return found
            found = ip
            if ip not in self._proxies:
                return found
        return found


def _node(text: str) -> Ip | None:
    """RFC 7239 section 6, and what proxies write in `X-Forwarded-For`: an address, maybe with a port."""
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        fits = bracket and (not port or _PORT.fullmatch(port))
        found = parse_ip(host) if fits else None
        return found if ":" in host else None
    if text.count(":") == 1:
        text, _, port = text.partition(":")
        if _PORT.fullmatch(f":{port}") is None:
            return None
    return parse_ip(text)


def _forwarded_for(value: str) -> list[str]:
    """The `for` of each element of a `Forwarded` field (RFC 7239 section 4), "" where it has none or two.

    Cut at every comma, within quotes too: what the last proxy wrote stands behind the last one, and nothing
    that a client puts before it can reach that far. No address has a comma in it.
    """
    found = []
    for element in value.split(","):
        told = []
        for pair in element.split(";"):
            name, _, given = pair.partition("=")
            if name.strip().lower() == "for":
                told.append(given.strip())
        one = told[0] if len(told) == 1 else ""
        quoted = len(one) > 1 and one[0] == one[-1] == '"'
        found.append(one[1:-1] if quoted else one)
    return found
