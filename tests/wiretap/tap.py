"""A gateway whose every message is looked at as it passes its seam.

Owns: `Wiretap` (connections to conversations), `tapped` (a class of gateways with one), `of_recording`.
Must never: change what the gateway is told or does.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from fuzz.sim.http import Headers
from mcpgate import journal
from mcpgate_proto import Gateway, GatewayConfig
from mcpgate_proto.effects import Connect, Effect, Peer, Spawn, Write
from tests.wiretap.hops import Talk, Verdicts
from tests.wiretap.wires import Exchange, Http, Lines, Wire, of_first_bytes

__all__ = ["Wiretap", "of_recording", "tapped"]


class Wiretap:
    """Everything that one gateway says and hears."""

    def __init__(self, config: GatewayConfig, verdicts: Verdicts) -> None:
        self.verdicts = verdicts
        # Legacy sessions over HTTP, by face, place and id; the same for the endpoints of HTTP+SSE.
        self.sessions: dict[tuple[str, str, str | None], Talk] = {}
        self._lines: dict[str, bool] = {}
        self._conns: dict[int, Conn] = {}
        self.configure(config)

    def configure(self, config: GatewayConfig) -> None:
        self._lines = {one.name: one.kind != "http" for one in config.listeners}

    def accepted(self, conn: int, listener: str) -> None:
        self._conns[conn] = Conn(self, "server", listener, lines=self._lines.get(listener, False))

    def effect(self, effect: Effect) -> None:
        if isinstance(effect, Write):
            if (conn := self._conns.get(effect.conn)) is not None:
                conn.feed(True, b"".join(effect.chunks))
        elif isinstance(effect, Spawn):
            self._conns[effect.conn] = Conn(self, "client", " ".join(effect.argv), lines=True)
        elif isinstance(effect, Connect):
            self._conns[effect.conn] = Conn(self, "client", str(effect.address))

    def received(self, conn: int, data: bytes) -> None:
        if (found := self._conns.get(conn)) is not None:
            found.feed(False, data)

    def ended(self, conn: int) -> None:
        if (found := self._conns.get(conn)) is not None and found.wire is not None:
            found.wire.eof(False)

    def closed(self, conn: int) -> None:
        self._conns.pop(conn, None)


class Conn:
    """One connection. `place` is the listener it came in by, or where it leads."""

    def __init__(self, tap: Wiretap, face: str, place: str, *, lines: bool | None = None) -> None:
        self.tap = tap
        self.face = face
        self.place = place
        self.talk = Talk(tap.verdicts, face)
        # What it speaks shows in the first bytes of whoever dialled.
        self.wire: Wire | None = None
        if lines:
            self.wire = Lines(self)
        elif lines is False:
            self.wire = Http(self, we_ask=face == "client")

    def feed(self, ours: bool, data: bytes) -> None:
        if self.wire is None and ours:
            self.wire = Http(self, we_ask=True) if of_first_bytes(data) else Lines(self)
        if self.wire is not None:
            self.wire.feed(ours, data)

    # -- from the wire

    def broken(self, ours: bool, why: str) -> None:
        self.tap.verdicts.fault(self.face, ours, f"what cannot be read ({self.place}): {why}")

    def message(self, ours: bool, data: bytes) -> None:
        self.talk.hear(ours, data)

    def asked(self, exchange: Exchange, ours: bool) -> None:
        """A request decides which conversation its response belongs to."""
        talk = self._talk_of(exchange)
        exchange.place = own = Talk(self.tap.verdicts, self.face, revision=talk.revision)
        own.modern = talk.modern
        posted = exchange.method == "POST" and _is_json(exchange.headers) and exchange.body
        if posted and not _is_registration(exchange.body):
            own.hear(ours, exchange.body, also=talk)
        exchange.place = own, talk

    def _talk_of(self, exchange: Exchange) -> Talk:
        sessions = self.tap.sessions
        found = sessions.get((self.face, self.place, exchange.path))
        if found is None:
            # Without an id: a server that gives none has but one session.
            id = exchange.headers.get("mcp-session-id")
            found = sessions.get((self.face, self.place, id)) if id or self.face == "client" else None
        return found or Talk(self.tap.verdicts, self.face)

    def told(self, exchange: Exchange, ours: bool, data: bytes, event: str) -> None:
        own, talk = exchange.place or (None, None)
        if own is None or talk is None:
            talk = self.talk
            own = Talk(self.tap.verdicts, self.face)
        if event == "endpoint":
            parts = urlsplit(data.decode("utf-8", "replace"))
            path = parts.path + (f"?{parts.query}" if parts.query else "")
            self.tap.sessions[self.face, self.place, path] = talk
        elif event:
            if event == "message":
                own.hear(ours, data, also=talk)
        elif exchange.method in ("POST", "") and _is_json(exchange.answer_headers) and b'"jsonrpc"' in data:
            own.hear(ours, data, also=talk)
        if own.revision is not None and own.shook_hands:
            # A handshake has been answered: its session has a revision, and perhaps a name.
            talk.revision = own.revision
            self.tap.sessions[self.face, self.place, exchange.answer_headers.get("mcp-session-id")] = talk


def _is_registration(body: bytes) -> bool:
    """A client makes itself known to an authorization server (RFC 7591): JSON, and no message."""
    return b'"redirect_uris"' in body and b'"jsonrpc"' not in body


def _is_json(headers: Headers) -> bool:
    return headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


def tapped(verdicts: Verdicts) -> type[Gateway]:
    """Gateways whose messages are judged."""

    class Tapped(Gateway):
        def __init__(self, config: GatewayConfig, *, now: float, wall: float, seed: bytes) -> None:
            self.tap = Wiretap(config, verdicts)
            super().__init__(config, now=now, wall=wall, seed=seed)

        def accepted(self, now: float, listener: str, peer: Peer) -> int:
            conn = super().accepted(now, listener, peer)
            self.tap.accepted(conn, listener)
            return conn

        def received(self, now: float, conn: int, data: bytes) -> None:
            self.tap.received(conn, data)
            super().received(now, conn, data)

        def received_eof(self, now: float, conn: int) -> None:
            self.tap.ended(conn)
            super().received_eof(now, conn)

        def closed(self, now: float, conn: int, reason: str) -> None:
            super().closed(now, conn, reason)
            self.tap.closed(conn)

        def reload(self, now: float, config: GatewayConfig) -> None:
            self.tap.configure(config)
            super().reload(now, config)

        def effects(self) -> list[Effect]:
            found = super().effects()
            for effect in found:
                self.tap.effect(effect)
            return found

    return Tapped


def of_recording(path: str, *peers: str) -> Verdicts:
    """What passed in a run that was recorded; `peers` as `Verdicts` has it. Raises `AssertionError` if its
    replay differs."""
    verdicts = Verdicts(peers)
    report = journal.replay(path, make=tapped(verdicts))
    assert not report.difference, f"the replay of {path} differs: {report.difference}"
    return verdicts
