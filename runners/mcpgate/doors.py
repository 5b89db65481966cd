"""Where clients come in: listeners, and what happens up to the first byte.

Owns: opening and closing listeners of every kind, accepting with its back-off, the cap on clients, and
the start of TLS.
Must never: accept before the gateway has started, or let one client's trouble close a listener.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import time
from typing import TYPE_CHECKING

from mcpgate import fd, systemd, unix
from mcpgate.tls import ServerContext, TlsStream
from mcpgate_proto import effects as fx
from mcpgate_proto.effects import Address, Peer, Record

if TYPE_CHECKING:
    from mcpgate.body import Body, Channel

__all__ = ["Doors"]

# Clients taken from one listener before other events get their turn.
ACCEPTS_AT_ONCE = 64
BACK_OFF_S = 0.25


class Door:
    """One listener, with a socket for each of its addresses (stdio has none). `holds` are the reasons why
    nobody is let in at the moment."""

    def __init__(self, *socks: socket.socket) -> None:
        self.socks = socks
        # It was made by others, who have it too.
        self.handed = False
        self.path: unix.BoundPath | None = None
        self.tls: ServerContext | None = None
        self.holds: set[str] = {"not started"}


class Doors:
    """All listeners of one body."""

    def __init__(self, body: Body, most_clients: int | None) -> None:
        self._body = body
        self._most = most_clients
        self._full = False
        self._doors: dict[str, Door] = {}
        self._clients: set[int] = set()
        self._started = False
        self._stdio = dict(body.options.stdio)
        self.addresses: dict[str, Address] = {}

    # -- effects

    def listen(self, effect: fx.Listen) -> None:
        body, name = self._body, effect.listener
        try:
            door, address = self._opened(effect)
        except OSError as error:
            reason = body.outcome.listen_failures[name] = fd.reason_of(error)
            return body.note(body.gateway.listen_failed, name, reason)
        self._doors[name] = door
        self.addresses[name] = address
        body.note(body.gateway.listening, name, address)
        if self._started:
            self._release(name, "not started")

    def _opened(self, effect: fx.Listen) -> tuple[Door, Address]:
        if effect.kind == "stdio":
            if effect.listener not in self._stdio:
                self._stdio[effect.listener] = fd.take_stdio()
            return Door(), Address()
        # Files that cannot be read fail the start, not the first client.
        tls = ServerContext(effect.tls, self._body.options.sink) if effect.tls is not None else None
        if effect.fd:
            # Whoever made it removes it.
            door = Door(systemd.take(effect.fd))
            door.handed = True
        elif effect.kind == "unix":
            sock, path = unix.open_listener(effect.path, effect.mode, effect.uid, effect.gid)
            door = Door(sock)
            door.path = path
        else:
            door = Door(*fd.open_listeners(effect))
        door.tls = tls
        return door, fd.address_of(door.socks[0].getsockname())

    def unlisten(self, effect: fx.Unlisten) -> None:
        door = self._doors.pop(effect.listener, None)
        if door is None:
            return
        for sock in door.socks:
            self._body.loop.unwatch(sock.fileno(), False)
            if not door.handed:
                # A thread may still wait for it, and would keep it open for a moment.
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        if door.path is not None:
            door.path.remove()

    def pause(self, effect: fx.PauseAccept) -> None:
        self._hold(effect.listener, "asked")

    def resume(self, effect: fx.ResumeAccept) -> None:
        self._release(effect.listener, "asked")

    def open_all(self) -> None:
        """The gateway has started: clients may come."""
        self._started = True
        for name in list(self._doors):
            self._release(name, "not started")

    # -- who comes in

    def _hold(self, name: str, why: str) -> None:
        door = self._doors.get(name)
        if door is not None:
            if not door.holds:
                for sock in door.socks:
                    self._body.loop.unwatch(sock.fileno(), False)
            door.holds.add(why)

    def _release(self, name: str, why: str) -> None:
        door = self._doors.get(name)
        if door is None or why not in door.holds:
            return
        door.holds.discard(why)
        if door.holds:
            return
        if not door.socks:
            return self._let_stdio_in(name)
        try:
            for sock in door.socks:
                self._body.loop.watch(sock.fileno(), False, functools.partial(self._accept, name, sock))
        except OSError as error:
            self._back_off(name, error)

    def _back_off(self, name: str, error: OSError) -> None:
        """Out of descriptors or memory: waiting clients stay in the kernel's queue for a moment."""
        body = self._body
        self._hold(name, "back-off")
        body.loop.later(BACK_OFF_S, lambda: self._release(name, "back-off"))
        body.tell(body.gateway.accept_failed, name, fd.reason_of(error))

    def _let_stdio_in(self, name: str) -> None:
        if name not in self._stdio:
            return
        from mcpgate.body import Channel

        body = self._body
        stream = fd.StdioStream(*self._stdio.pop(name))
        conn = body.gateway.accepted(time.monotonic(), name, Peer(kind="stdio"))
        body.open(Channel(conn, stream))
        body.turn()

    def _accept(self, name: str, sock: socket.socket) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            door = self._doors.get(name)
            if door is None or sock not in door.socks or door.holds:
                return
            try:
                taken = fd.accept(sock)
            except OSError as error:
                return self._back_off(name, error)
            if taken is None:
                return
            self._welcome(name, door, *taken)

    def _welcome(self, name: str, door: Door, stream: fd.SocketStream, peer: Peer) -> None:
        from mcpgate.body import HANDSHAKE_S, Channel

        body = self._body
        if self._most is not None and len(self._clients) >= self._most:
            if not self._full:
                self._full = True
                body.options.sink(Record("warning", "clients_refused", (("most", self._most),)))
            return stream.close()
        conn = body.gateway.accepted(time.monotonic(), name, peer)
        self._clients.add(conn)
        if door.tls is None:
            channel = Channel(conn, stream)
        else:
            secure = TlsStream(stream, door.tls.session())
            channel = Channel(conn, secure)
            channel.shaking = secure
            body.loop.later(HANDSHAKE_S, lambda: self._too_slow(channel))
        if not body.open(channel):
            # This one is lost; the others need not be.
            self._back_off(name, fd.Unusable("nothing left to watch another client with"))
        body.turn()

    def _too_slow(self, channel: Channel) -> None:
        if channel.shaking is not None:
            self._body.finish(channel, "the TLS handshake took too long", drop=True)
            self._body.turn()

    def gone(self, conn: int) -> None:
        """A connection has been closed; it may have been a client's."""
        self._clients.discard(conn)
        self._full = False

    # -- the end

    def close(self) -> None:
        for name in list(self._doors):
            self.unlisten(fx.Unlisten(name))
        for ends in self._stdio.values():
            for end in ends:
                os.close(end)
        self._stdio.clear()
