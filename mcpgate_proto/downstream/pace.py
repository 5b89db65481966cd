"""Who may knock at one listener at all, by address, and what is answered to those who come too often.

Owns: `Pace`, the addresses of one listener and the limits of the gateway as its transports need them, the
spelling of refusals, and the record of a `Host` or `Origin` that is not served. Must never: keep anybody
waiting for an answer; refuse what only we have asked for, the answer to a question of a server.
"""

from __future__ import annotations

from mcpgate_proto.config import ListenConfig
from mcpgate_proto.effects import Peer
from mcpgate_proto.hub import Hub
from mcpgate_proto.mcp import codes
from mcpgate_proto.security.address import Addresses, Source
from mcpgate_proto.security.door import HostPort, parse_host, parse_origin
from mcpgate_proto.security.rate import Limited, Rates
from mcpgate_proto.wire import jsonrpc
from mcpgate_proto.wire.http1_grammar import Headers

__all__ = ["DENIED", "Pace", "passes", "refused", "refused_body"]

DENIED = "this address may not call"
# Over the limit too: they end work, and begin a session that is there already.
ALWAYS = ("notifications/cancelled", "notifications/initialized")
# A larger body is not read for the sake of its id.
ID_BYTES = 16 * 1024


class Pace:
    """One listener."""

    def __init__(self, hub: Hub, rates: Rates, listen: ListenConfig) -> None:
        self.rates = rates
        self._hub = hub
        self._name = listen.name
        self._addresses = Addresses(listen)

    def connecting(self, peer: Peer) -> Source | None:
        """Where a connection comes from; None: it may not, or there are too many from there. Else
        `rates.leave` follows when it is gone."""
        source = self._addresses.connecting(peer)
        if source is None:
            self._denied(peer)
        elif self.rates.enter(source):
            return source
        return None

    def requesting(self, came_from: Source, peer: Peer, headers: Headers) -> Source | None:
        """Where a request comes from, on a connection from `came_from`; None: it may not."""
        if not came_from.proxy:
            return came_from
        source = self._addresses.requesting(peer, headers)
        if source is None:
            self._denied(peer)
        return source

    def unknown(self, source: Source, wrong: str, headers: Headers) -> None:
        """`Host` or `Origin` are not served here, which most often is a proxy or a setting: the record names
        them, as far as they have the form of one."""
        self._hub.count("door_refused")
        place, origin = parse_host(headers.get("host") or ""), parse_origin(headers.get("origin") or "")
        told = {"listener": self._name, "address": source.text, "reason": wrong}
        if place is not None:
            told["host"] = str(place)
        if origin is not None:
            told["origin"] = f"{origin.scheme}://{HostPort(origin.host, origin.port)}"
        self.rates.notices.tell("notice", "door_refused", f"{self._name} {source.text} {wrong}", **told)

    def _denied(self, peer: Peer) -> None:
        host = peer.address.host if peer.address is not None else peer.kind
        self._hub.count("refused_address")
        told = {"listener": self._name, "address": host}
        self.rates.notices.tell("warning", "address_refused", f"{self._name} {host}", **told)


def refused_body(limited: Limited, body: bytes, hub: Hub) -> bytes:
    """The answer to a refused POST: about its request, where that can be read (A8)."""
    known = None
    if body and len(body) <= ID_BYTES:
        message = jsonrpc.decode(body, hub.limits)[0]
        known = message.id if isinstance(message, jsonrpc.Request) else None
    return _error(limited, known)


def refused(limited: Limited, message: jsonrpc.Message | jsonrpc.Malformed) -> bytes | None:
    """The answer to a message that came too soon; None where there is none, and it is dropped."""
    if isinstance(message, jsonrpc.Request | jsonrpc.Malformed):
        return _error(limited, message.id)
    return None


def passes(message: jsonrpc.Message | jsonrpc.Malformed) -> bool:
    """What is let through though its sender is over the limit."""
    if isinstance(message, jsonrpc.Notification):
        return message.method in ALWAYS
    return isinstance(message, jsonrpc.Result | jsonrpc.ErrorReply)


def _error(limited: Limited, id: jsonrpc.RequestId | None) -> bytes:
    body = codes.to_modern(codes.rate_limited(limited.retry_after_ms))
    return jsonrpc.encode_error(id, body.code, body.message, body.data)
