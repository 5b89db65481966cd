"""A client on a WebSocket (docs/websocket.md): stdio's rules, one message per text frame (B14).

Owns: the framing, the ping timer, how often a client may send what is no message.
Must never: accept an upgrade whose Host and Origin were not checked: that is the HTTP face's part.
"""

from __future__ import annotations

from collections.abc import Callable

from mcpgate_proto.downstream.admission import Lease
from mcpgate_proto.downstream.modern import ModernFace
from mcpgate_proto.downstream.stream import PipeClient
from mcpgate_proto.hub import Connection, Hub
from mcpgate_proto.mcp import codes
from mcpgate_proto.relay.relay import Relay
from mcpgate_proto.security.principal import Grant
from mcpgate_proto.timers import Timer
from mcpgate_proto.wire import jsonrpc
from mcpgate_proto.wire import websocket as ws

__all__ = ["WebSocketClient"]


class WebSocketClient(PipeClient):
    """One connection, from its upgrade on."""

    def __init__(
        self,
        hub: Hub,
        relay: Relay,
        modern: ModernFace,
        grant: Grant,
        gone: Callable[[PipeClient], None],
    ) -> None:
        super().__init__(hub, relay, modern, grant.principal, gone)
        self.is_stdio = False
        limits = hub.limits
        self._codec = ws.WebSocketCodec(
            "server",
            entropy=hub.entropy,
            max_message_bytes=limits.message_bytes,
            max_fragments=limits.ws_fragments,
            control_frames_per_s=limits.ws_control_frames_per_s,
        )
        self._heard_at = hub.now
        self._ping_timer: Timer | None = None
        # J10: a connection ends with the credentials that opened it.
        self._lease: Lease | None = None
        if grant.expires_wall is not None:
            self._lease = Lease(hub, grant.expires_wall, self._expired)

    def attach(self, conn: Connection) -> None:
        super().attach(conn)
        self._arm()

    def _arm(self) -> None:
        self._ping_timer = self.hub.after(self.hub.limits.ws_ping_interval_s, "ws ping", self._ping)

    def _ping(self) -> None:
        limits = self.hub.limits
        self._ping_timer = None
        if self.conn is not None and self.conn.held:
            self._heard_at = self.hub.now
        if self.hub.now - self._heard_at >= limits.ws_ping_interval_s + limits.ws_ping_timeout_s:
            self.hub.count("ws_silent")
            self.finish(1011, "no answer to pings")
            return
        if self.conn is not None:
            self.conn.write(self._codec.ping())
        self._arm()

    def received(self, data: bytes) -> None:
        self._heard_at = self.hub.now
        whole = False
        for event in self._codec.receive(data, self.hub.now):
            if isinstance(event, ws.Text):
                whole = True
                self._line(event.data)
            elif isinstance(event, ws.Closed):
                self._flush()
                self._end()
                return
        if self.malformed > self.hub.limits.ws_malformed:
            self.finish(1008, "too much that is no message")
            return
        if not self._partial.note(self.conn, self._codec.buffered, whole):
            self.finish(1013, "too much is being received")
            return
        self._flush()

    def _flush(self) -> None:
        if self.conn is not None:
            self.conn.write(self._codec.to_send())

    def received_eof(self) -> None:
        """No grace: the end of a WebSocket is the end of its requests (B14)."""
        self._codec.receive_eof()
        self._end()

    def send(self, message: bytes) -> None:
        if self.conn is not None and not self._ended:
            self.conn.write(self._codec.send_text(message))

    def finish(self, code: int, reason: str) -> None:
        if self.conn is not None:
            self.conn.write(self._codec.close(code, reason))
        self._end()

    def broken(self, body: codes.ErrorBody) -> None:
        self.send(jsonrpc.encode_error(None, body.code, body.message, body.data))
        self.finish(1011, body.message)

    def drop(self, reason: str) -> None:
        self.finish(1008, reason)

    def stop(self) -> None:
        self.finish(1001, "mcpgate is stopping")

    def _expired(self) -> None:
        self.hub.count("credentials_expired")
        self.finish(1008, "the credentials have expired")

    def clock(self) -> None:
        if self._lease is not None:
            self._lease.check()

    def expel(self) -> None:
        self.finish(1008, "the credentials are no longer good")

    def _end(self) -> None:
        if self._lease is not None:
            self._lease.cancel()
        if self._ping_timer is not None:
            self._ping_timer.cancel()
            self._ping_timer = None
        super()._end()
