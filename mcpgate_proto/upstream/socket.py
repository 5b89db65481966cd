"""A server at the end of a socket: newline-framed on a Unix socket, or a WebSocket.

Owns: the dial, the WebSocket handshake and its ping timer, the messages of one shared channel.
Must never: resume or repeat anything: the end of the socket is the end of the session (B14).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mcpgate_proto.config import ServerConfig
from mcpgate_proto.effects import Address, Peer, TlsFacts, TlsOptions
from mcpgate_proto.hub import Hub
from mcpgate_proto.security.egress import permitted, server_reach
from mcpgate_proto.timers import Timer
from mcpgate_proto.upstream.channel import ChannelLink
from mcpgate_proto.upstream.http_pool import GivenUp, Origin, is_numeric
from mcpgate_proto.upstream.link import LinkOwner
from mcpgate_proto.wire import http1_client, jsonrpc, lines
from mcpgate_proto.wire import websocket as ws
from mcpgate_proto.wire import websocket_handshake as handshake

__all__ = ["SocketLink"]


class Framing(Protocol):
    """How messages stand on the socket."""

    def receive(self, data: bytes, now: float) -> tuple[list[bytes], str | None]:
        """Whole messages, and why the connection has to end, if it has."""

    def wrap(self, message: bytes) -> list[bytes]: ...
    def pending(self) -> list[bytes]:
        """Bytes that the framing itself has to send."""

    def farewell(self) -> list[bytes]: ...
    def ping(self) -> list[bytes]: ...


class LineFraming:
    """B13: stdio's framing, on any byte stream."""

    def __init__(self, hub: Hub) -> None:
        self._lines = lines.LineDecoder(hub.limits.message_bytes)

    def receive(self, data: bytes, now: float) -> tuple[list[bytes], str | None]:
        messages: list[bytes] = []
        for line in self._lines.receive(data):
            if isinstance(line, lines.TooLong):
                return messages, "it sent a message larger than limits.message_bytes"
            messages.append(line)
        return messages, None

    def wrap(self, message: bytes) -> list[bytes]:
        return [message, b"\n"]

    def pending(self) -> list[bytes]:
        return []

    def farewell(self) -> list[bytes]:
        return []

    def ping(self) -> list[bytes]:
        return []


class WebSocketFraming:
    """B14: one message per text frame."""

    def __init__(self, hub: Hub) -> None:
        limits = hub.limits
        self._codec = ws.WebSocketCodec(
            "client",
            entropy=hub.entropy,
            max_message_bytes=limits.message_bytes,
            max_fragments=limits.ws_fragments,
            control_frames_per_s=limits.ws_control_frames_per_s,
        )

    def receive(self, data: bytes, now: float) -> tuple[list[bytes], str | None]:
        messages: list[bytes] = []
        for event in self._codec.receive(data, now):
            if isinstance(event, ws.Text):
                messages.append(event.data)
            elif isinstance(event, ws.Closed):
                return messages, f"it closed the WebSocket ({event.code})"
        return messages, None

    def wrap(self, message: bytes) -> list[bytes]:
        return self._codec.send_text(message)

    def pending(self) -> list[bytes]:
        return self._codec.to_send()

    def farewell(self) -> list[bytes]:
        return self._codec.close(1000, "")

    def ping(self) -> list[bytes]:
        return self._codec.ping()


class SocketLink(ChannelLink):
    """One connection to one server. Implements `upstream.link.Link` and `hub.Handler`."""

    def __init__(self, hub: Hub, config: ServerConfig, owner: LinkOwner) -> None:
        super().__init__()
        self._hub = hub
        self._config = config
        self.owner = owner
        self._origin = Origin.parse(config.url) if config.transport == "websocket" else None
        self._addresses: list[Address] = []
        self._upgrade: handshake.UpgradeReader | None = None
        self._key = ""
        self._framing: Framing | None = None
        self._timer: Timer | None = None
        self._heard_at = 0.0
        self._gone = False

    # -- the dial

    def start(self) -> None:
        origin = self._origin
        if origin is None:
            self._dial([Address(path=self._config.socket_path)])
        elif is_numeric(origin.host):
            self._dial([Address(host=origin.host, port=origin.port)])
        else:
            self._hub.resolve(origin.host, self._resolved)

    def _resolved(self, found: list[Address] | None, reason: str) -> None:
        if self._gone or self._origin is None:
            return
        if found:
            reach = server_reach(tls=self._origin.tls, allow_plain_http=self._config.allow_plain_http)
            found = permitted(found, reach)
            reason = "" if found else "it leads to an address that may not be dialled"
        if not found:
            self._down(f"cannot find {self._origin.host}: {reason or 'no address'}")
            return
        self._dial([Address(host=one.host, port=self._origin.port) for one in found])

    def _dial(self, addresses: list[Address]) -> None:
        self._addresses = addresses
        self._next_address()

    def _next_address(self) -> None:
        tls = None
        if self._origin is not None and self._origin.tls:
            tls = TlsOptions(server_name=self._origin.host, ca_file=self._config.ca_file)
        self._conn = self._hub.dial(self, self._addresses.pop(0), tls)
        self._arm(self._hub.limits.dial_timeout_s, "dial", self._dial_late)

    def _dial_late(self) -> None:
        if self._conn is not None:
            # What the runner still says of this dial must not be taken for the next one's.
            self._conn.handler = GivenUp()
            self._conn.abort()
        self.connect_failed("no answer")

    def _arm(self, delay_s: float, reason: str, callback: Callable[[], None]) -> None:
        self._disarm()
        self._timer = self._hub.after(delay_s, reason, callback)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def connect_failed(self, reason: str) -> None:
        self._conn = None
        self._disarm()
        if self._gone:
            return
        if self._addresses:
            self._next_address()
        else:
            self._down(f"cannot connect: {reason}")

    def connected(self, peer: Peer, tls: TlsFacts | None) -> None:
        self._disarm()
        if self._gone or self._conn is None:
            if self._conn is not None:
                self._conn.abort()
            return
        origin = self._origin
        if origin is None:
            self._framing = LineFraming(self._hub)
            self.owner.link_up()
            return
        extra = tuple(self._config.headers.items())
        target, host = origin.target, origin.authority
        data, self._key = handshake.upgrade_request(target, host, self._hub.entropy, extra)
        self._upgrade = handshake.UpgradeReader(self._hub.limits)
        self._conn.write([data])
        self._arm(
            self._hub.limits.dial_timeout_s, "upgrade", lambda: self._down("it did not upgrade in time")
        )

    def _upgraded(self, data: bytes) -> bytes | None:
        """The rest after the 101, or None while (or because) there is none."""
        assert self._upgrade is not None
        head = self._upgrade.receive(data)
        if head is None:
            return None
        self._disarm()
        if isinstance(head, http1_client.Failed):
            self._down(f"its answer to the upgrade is not HTTP: {head.reason}")
            return None
        wrong = handshake.check_response(head, self._key)
        if wrong is not None:
            self._down(f"it refused the upgrade (HTTP {head.status}): {wrong}")
            return None
        rest = self._upgrade.rest
        self._upgrade = None
        self._framing = WebSocketFraming(self._hub)
        self._heard_at = self._hub.now
        self._arm(self._hub.limits.ws_ping_interval_s, "ws ping", self._ping)
        self.owner.link_up()
        return rest

    def _ping(self) -> None:
        limits = self._hub.limits
        if self._conn is not None and self._conn.held:
            self._heard_at = self._hub.now
        if self._hub.now - self._heard_at >= limits.ws_ping_interval_s + limits.ws_ping_timeout_s:
            self._down("it does not answer pings")
            return
        if self._framing is not None and self._conn is not None:
            self._conn.write(self._framing.ping())
        self._arm(limits.ws_ping_interval_s, "ws ping", self._ping)

    # -- Handler

    def received(self, data: bytes) -> None:
        if self._gone:
            return
        self._heard_at = self._hub.now
        if self._upgrade is not None:
            rest = self._upgraded(data)
            if not rest:
                return
            data = rest
        if self._framing is None:
            return
        messages, over = self._framing.receive(data, self._hub.now)
        for message in messages:
            self._message(message)
        self._flush()
        if over is not None:
            self._down(over)

    def _flush(self) -> None:
        if self._framing is not None and self._conn is not None:
            self._conn.write(self._framing.pending())

    def _message(self, data: bytes) -> None:
        for message in jsonrpc.decode(data, self._hub.limits, allow_batch=True):
            if isinstance(message, jsonrpc.Malformed):
                self._hub.count("upstream_garbage_messages")
                continue
            if isinstance(message, jsonrpc.Result | jsonrpc.ErrorReply) and isinstance(message.id, int):
                self._open.done(message.id)
            if not self._gone:
                self.owner.link_message(message, None)

    def received_eof(self) -> None:
        self._down("it closed the connection")

    def received_stderr(self, data: bytes) -> None:
        """Not a child."""

    def exited(self, status: int) -> None:
        """Not a child."""

    def pressed(self, high: bool) -> None:
        self.owner.link_pressed(high)

    def closed(self, reason: str) -> None:
        self._conn = None
        self._down(reason or "the connection was lost")

    # -- Link

    def notify(self, message: bytes) -> None:
        if self._framing is not None and self._conn is not None and not self._gone:
            self._conn.write(self._framing.wrap(message))

    def stop(self) -> None:
        self._down("stopped")

    def _down(self, reason: str) -> None:
        if self._gone:
            return
        self._gone = True
        self._disarm()
        self._open.clear()
        conn = self._conn
        if conn is not None:
            if self._framing is not None:
                conn.write(self._framing.farewell())
                conn.close()
            else:
                conn.abort()
        self.owner.link_down(reason)
