"""Where a browser comes back to after a login: one small page on loopback, for one login.

Owns: the checks of such a request (the same door as everywhere: Host, Origin), the page and its headers, the
time limits of its connection.
Must never: tell a page anything of the gateway, answer with text of a peer, or stay open.
"""

from __future__ import annotations

from collections.abc import Callable

from mcpgate_proto.config import ListenConfig
from mcpgate_proto.effects import Address, Peer, TlsFacts
from mcpgate_proto.hub import Connection, Hub
from mcpgate_proto.security.door import Door
from mcpgate_proto.timers import Timer
from mcpgate_proto.wire import http1_server as http1

__all__ = ["CALLBACK_PATH", "CallbackClient"]

CALLBACK_PATH = "/callback"
# Tells the browser how it went, once.
Respond = Callable[[bool, str], None]
HEADERS = [
    ("Content-Type", "text/html; charset=utf-8"),
    ("Cache-Control", "no-store"),
    # Nothing but its own text: no script, no frame around it, no address in a referrer (threats.md row 32).
    (
        "Content-Security-Policy",
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
]
PAGE = "<!doctype html><html lang=en><meta charset=utf-8><title>mcpgate</title><h1>%s</h1><p>%s</p></html>\n"


class CallbackClient:
    """One connection of a browser. Implements `hub.Handler`."""

    def __init__(self, hub: Hub, bound: Address, answered: Callable[[str, Respond], bool] | None) -> None:
        self._hub = hub
        self._door = Door(ListenConfig(name="login", host=bound.host, port=bound.port), bound)
        self._answered = answered
        self._codec = http1.HttpServerCodec(hub.limits)
        self._conn: Connection | None = None
        self._timer: Timer | None = None
        self._waiting = False

    def attach(self, conn: Connection) -> None:
        self._conn = conn
        # Browsers open connections ahead of need; an idle one must not hold up a shutdown.
        self._timer = self._hub.after(self._hub.limits.close_timeout_s, "callback head", self._late)

    def _late(self) -> None:
        self._timer = None
        if self._conn is not None and not self._waiting:
            self._conn.abort()

    # -- Handler

    def connected(self, peer: Peer, tls: TlsFacts | None) -> None:
        """Accepted, not dialled."""

    def connect_failed(self, reason: str) -> None:
        """Accepted, not dialled."""

    def received_stderr(self, data: bytes) -> None:
        """Not a child."""

    def exited(self, status: int) -> None:
        """Not a child."""

    def pressed(self, high: bool) -> None:
        """One small page."""

    def received(self, data: bytes) -> None:
        for event in self._codec.receive(data):
            if isinstance(event, http1.RequestHead):
                self._asked(event)
            elif isinstance(event, http1.Refused):
                self._page(event.status, "That is not a request.", "")

    def received_eof(self) -> None:
        if not self._waiting and self._conn is not None:
            self._conn.close()

    def closed(self, reason: str) -> None:
        self._conn = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- the request

    def _asked(self, head: http1.RequestHead) -> None:
        host, origin = head.headers.get("host"), head.headers.get("origin")
        if self._door.check_host(host) is not None or self._door.check_origin(origin, host) is not None:
            self._hub.count("door_refused")
            self._page(403, "Not for you.", "")
        elif head.path != CALLBACK_PATH:
            self._page(404, "There is nothing here.", "")
        elif head.method != "GET" or head.has_body:
            self._page(405, "That is not a request.", "")
        else:
            self._waiting = True
            if self._answered is None or not self._answered(head.query, self._respond):
                self._waiting = False
                self._hub.count("login_answers_refused")
                self._page(
                    400, "This is not the login that mcpgate waits for.", "Start it again from mcpgate."
                )

    def _respond(self, well: bool, text: str) -> None:
        self._waiting = False
        if well:
            self._page(200, "You are logged in.", text)
        else:
            self._page(400, "The login did not work.", text)

    def _page(self, status: int, title: str, text: str) -> None:
        if self._conn is None:
            return
        body = (PAGE % (_escaped(title), _escaped(text))).encode()
        self._conn.write(self._codec.respond(status, HEADERS, body, close=True))
        self._conn.close()


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
