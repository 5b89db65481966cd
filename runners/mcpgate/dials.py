"""Outgoing connections: name lookups, dials, and the client's side of TLS.

Owns: a connection from `Connect` until it is `connected`, after which it is a channel like any other.
Must never: resolve a name that it was not asked for, or tell of a connection before TLS is verified.
"""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

from mcpgate import fd
from mcpgate.tls import TlsStream, client_session
from mcpgate_proto import effects as fx
from mcpgate_proto.effects import Address, Peer, TlsOptions

if TYPE_CHECKING:
    from mcpgate.body import Body

__all__ = ["Dials"]


class Dials:
    """All dials of one body that are not decided yet."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._dials: dict[int, tuple[socket.socket, TlsOptions | None]] = {}

    # -- names

    def resolve(self, effect: fx.Resolve) -> None:
        """The system's resolver only knows how to block, so a thread asks it. It outlives a run that ends
        meanwhile, by the resolver's own time limit at most: there is no way to stop it."""
        body, host, lookup = self._body, effect.host, effect.lookup

        def ask() -> None:
            addresses, reason = _look_up(host)
            if addresses:
                body.options.control.call(lambda _: body.tell(body.gateway.resolved, lookup, addresses))
            else:
                body.options.control.call(lambda _: body.tell(body.gateway.resolve_failed, lookup, reason))

        try:
            threading.Thread(target=ask, name=f"look up {host[:40]}", daemon=True).start()
        except RuntimeError:
            body.note(body.gateway.resolve_failed, lookup, "no thread for the lookup")

    # -- dialling

    def connect(self, effect: fx.Connect) -> None:
        body, conn = self._body, effect.conn
        try:
            sock = fd.start_connect(effect)
        except OSError as error:
            return body.note(body.gateway.connect_failed, conn, fd.reason_of(error))
        self._dials[conn] = (sock, effect.tls)
        try:
            body.loop.watch(sock.fileno(), True, lambda: self._dialled(conn))
        except OSError as error:
            self._failed(conn, error)

    def _dialled(self, conn: int) -> None:
        from mcpgate.body import Channel

        body = self._body
        sock, options = self._dials[conn]
        body.loop.unwatch(sock.fileno(), True)
        try:
            peer = fd.finish_connect(sock)
            if options is None:
                del self._dials[conn]
                body.note(body.gateway.connected, conn, peer, None)
                body.open(Channel(conn, fd.SocketStream(sock)))
                return body.turn()
            stream = TlsStream(fd.SocketStream(sock), client_session(options))
            body.loop.watch(sock.fileno(), False, lambda: self._shaking(conn, stream, peer))
        except (OSError, ValueError) as error:
            self._failed(conn, error)
            return body.turn()
        self._shaking(conn, stream, peer)

    def _shaking(self, conn: int, stream: TlsStream, peer: Peer) -> None:
        from mcpgate.body import Channel

        body = self._body
        try:
            if not stream.handshake():
                return
        except OSError as error:
            self._failed(conn, error)
            return body.turn()
        body.loop.unwatch(stream.read_fd, False)
        del self._dials[conn]
        channel = Channel(conn, stream)
        body.note(body.gateway.connected, conn, peer, stream.tls.facts())
        body.open(channel)
        body.turn()
        body.read_inside(channel)

    def _failed(self, conn: int, error: Exception) -> None:
        from mcpgate.body import reason_of

        sock, _ = self._dials.pop(conn)
        self._forget(sock)
        reason = reason_of(error) if isinstance(error, OSError) else "the TLS settings cannot be used"
        self._body.note(self._body.gateway.connect_failed, conn, reason)

    def _forget(self, sock: socket.socket) -> None:
        for write in (True, False):
            self._body.loop.unwatch(sock.fileno(), write)
        sock.close()

    def drop(self, conn: int) -> None:
        """Give a dial up, if `conn` is one."""
        sock, _ = self._dials.pop(conn, (None, None))
        if sock is not None:
            self._forget(sock)
            self._body.note(self._body.gateway.closed, conn, "aborted")

    def close(self) -> None:
        for conn in list(self._dials):
            self.drop(conn)


def _look_up(host: str) -> tuple[list[Address], str]:
    try:
        infos = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except OSError as error:
        return [], fd.reason_of(error)
    except UnicodeError:
        return [], "not a host name"
    found = dict.fromkeys(str(info[4][0]) for info in infos)
    return [Address(host=address) for address in found], "the name has no address"
