"""Who may knock: the `Host` and `Origin` headers of whatever comes in over HTTP.

Owns: their strict grammars and `Door`, the policy of one listener. Must never: compare a prefix or a suffix
of unparsed text, resolve a name, or put a peer's text into a reason.

A page in a browser can make requests to a local port (DNS rebinding, cross-site WebSockets). Its requests
carry the name it was loaded from in `Host` or in `Origin`, so both are compared with short lists, on every
route and for every method (C2; threats.md 1a rows 1-7).
"""

from __future__ import annotations

import ipaddress
import re

import msgspec

from mcpgate_proto.config import ListenConfig
from mcpgate_proto.effects import Address
from mcpgate_proto.security.address import is_loopback

__all__ = [
    "Door",
    "HostPort",
    "Origin",
    "host_entry_problem",
    "origin_entry_problem",
    "parse_host",
    "parse_origin",
]

# RFC 9110 section 7.2, cut down to names that exist: letters, digits, `-`, `_`, dots between. No percent
# escapes, no user information, no list.
_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*")
_BRACKETED = re.compile(r"\[([0-9a-f:.]{2,45})\](?::(.*))?", re.DOTALL)
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,31}")
# A DNS name has at most 253 characters (RFC 1035 section 2.3.4), then a colon and a port.
_HOST_CHARS = 253
_HOST_PORT_CHARS = _HOST_CHARS + 6

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_DEFAULT_PORTS = {"http": 80, "https": 443}


class HostPort(msgspec.Struct, frozen=True):
    """A parsed `Host`: in lower case, an IPv6 address in its short form and without brackets."""

    host: str
    port: int | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


class Origin(msgspec.Struct, frozen=True):
    """A parsed `Origin` (RFC 6454 section 6.2). `port` is filled in for http and https."""

    scheme: str
    host: str
    port: int | None = None


def parse_host(value: str) -> HostPort | None:
    """Parse `host` or `host:port`; None for anything else.

    Refused are: the empty text, user information, lists, paths, blanks, control characters, percent escapes,
    a trailing dot, an empty or padded port, an IPv6 address without brackets or with a zone.
    """
    if not value.isascii() or len(value) > _HOST_PORT_CHARS:
        return None
    value = value.lower()
    if value.startswith("["):
        match = _BRACKETED.fullmatch(value)
        if match is None:
            return None
        try:
            host = str(ipaddress.IPv6Address(match[1]))
        except ValueError:
            return None
        port = match[2]
    else:
        host, colon, rest = value.partition(":")
        port = rest if colon else None
        if len(host) > _HOST_CHARS or _NAME.fullmatch(host) is None:
            return None
    if port is None:
        return HostPort(host)
    if _PORT.fullmatch(port) is None or int(port) > 65535:
        return None
    return HostPort(host, int(port))


def parse_origin(value: str) -> Origin | None:
    """Parse `scheme://host[:port]`, and nothing after it; None for anything else, `null` among it."""
    scheme, separator, rest = value.partition("://")
    if not separator or not scheme.isascii():
        return None
    scheme = scheme.lower()
    if _SCHEME.fullmatch(scheme) is None:
        return None
    place = parse_host(rest)
    if place is None:
        return None
    port = place.port if place.port is not None else _DEFAULT_PORTS.get(scheme)
    return Origin(scheme, place.host, port)


def host_entry_problem(entry: str) -> str | None:
    """What is wrong with an entry of `allowed_hosts`, or None. For checks of the settings."""
    return None if _host_entry(entry) is not None else "must be host or host:port, without patterns"


def origin_entry_problem(entry: str) -> str | None:
    """What is wrong with an entry of `allowed_origins`, or None. For checks of the settings."""
    return None if parse_origin(entry) is not None else "must be scheme://host or scheme://host:port"


def _host_entry(entry: str) -> HostPort | None:
    # People write a bare IPv6 address in a setting, where no port can follow it.
    return parse_host(entry) or parse_host(f"[{entry}]")


class Door:
    """The names under which one listener may be addressed, and the origins that may call it.

    `bound` is where it listens in fact. An entry of the settings that does not parse opens nothing.
    """

    __slots__ = ("_hosts", "_local", "_origins", "_port")

    def __init__(self, listen: ListenConfig, bound: Address) -> None:
        self._port = bound.port
        # (host, port); None for any port.
        self._hosts: set[tuple[str, int | None]] = set()
        # A browser cannot reach a Unix socket at all.
        self._local = bool(bound.path) or is_loopback(bound.host)
        for entry in listen.allowed_hosts:
            place = _host_entry(entry)
            if place is not None:
                self._hosts.add((place.host, place.port))
        # What the operator bound may be used as a name, but 0.0.0.0 and :: are no place to go to: browsers
        # take them for this machine (threats.md row 30). Listed explicitly they pass, above.
        for name in (bound.host, listen.host):
            own = _host_entry(name) if name else None
            if own is not None and own.port is None and not _is_wildcard(own.host):
                self._hosts.add((own.host, bound.port))
        self._origins = {origin for origin in map(parse_origin, listen.allowed_origins) if origin is not None}

    def check_host(self, value: str | None) -> str | None:
        """None when the `Host` header may pass, else the reason, a fixed text.

        Passing are: loopback names with the bound port or none, the bound address with its port, and what
        `allowed_hosts` lists (without a port there: any port).
        """
        if value is None:
            return "the Host header is missing"
        place = parse_host(value)
        if place is None:
            return "the Host header is malformed"
        return None if self._host_allowed(place) else "the Host header names a host that is not served here"

    def check_origin(self, value: str | None, host: str | None = None) -> str | None:
        """None when the `Origin` header may pass, else the reason, a fixed text.

        `host` is the `Host` of the same request, already accepted. Passing are: no Origin at all (then it is
        no browser), the same origin as `host` over http or https, any loopback origin when the listener
        itself is on loopback, and what `allowed_origins` lists, exactly. `null` never passes.
        """
        if value is None:
            return None
        origin = parse_origin(value)
        if origin is None:
            return "the Origin header is malformed"
        if origin in self._origins:
            return None
        if origin.scheme in _DEFAULT_PORTS:
            if self._local and origin.host in _LOOPBACK:
                return None
            if host is not None and self._same(origin, host):
                return None
        return "the Origin header names an origin that may not call"

    def _host_allowed(self, place: HostPort) -> bool:
        if (place.host, None) in self._hosts or (place.host, place.port) in self._hosts:
            return True
        if place.host in _LOOPBACK and place.port in (None, self._port):
            return True
        # Clients leave the port out where it is the one of the scheme.
        return place.port is None and any((place.host, port) in self._hosts for port in self._implied())

    def _implied(self) -> tuple[int, ...]:
        return (self._port,) if self._port in _DEFAULT_PORTS.values() else ()

    @staticmethod
    def _same(origin: Origin, host: str) -> bool:
        place = parse_host(host)
        if place is None or place.host != origin.host:
            return False
        return origin.port == (place.port if place.port is not None else _DEFAULT_PORTS[origin.scheme])


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
