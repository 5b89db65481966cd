"""Which way leads to a server.

Owns: the making of links by the server's transport, its HTTP connections, the fallback to HTTP+SSE (F13).
Must never: know sessions or eras.
"""

from __future__ import annotations

from mcpgate_proto.config import ServerConfig
from mcpgate_proto.hub import Hub
from mcpgate_proto.upstream.credentials import Credentials
from mcpgate_proto.upstream.http_pool import HttpPool
from mcpgate_proto.upstream.http_sse import SseLink
from mcpgate_proto.upstream.link import Link
from mcpgate_proto.upstream.stream import ChildLink
from mcpgate_proto.upstream.streamable_http import HttpLink

__all__ = ["LinkMaker"]


class LinkMaker:
    """Makes links to one server. Whoever gets one becomes its owner before it is started."""

    def __init__(self, hub: Hub, config: ServerConfig, credentials: Credentials) -> None:
        self._hub = hub
        self._config = config
        self._credentials = credentials
        self._http: HttpPool | None = None
        self.uses_sse = config.transport == "sse"

    def make(self, principal: str | None) -> Link:
        """A link for sessions of `principal`: over HTTP its requests carry that one's tokens."""
        hub, config = self._hub, self._config
        if config.transport == "stdio":
            return ChildLink(hub, config, _NOBODY)
        if config.transport in ("websocket", "unix"):
            # wsproto costs time and memory at start: it is loaded where it is used.
            from mcpgate_proto.upstream.socket import SocketLink

            return SocketLink(hub, config, _NOBODY)
        if self._http is None:
            self._http = HttpPool(hub, config)
        pool = self._credentials.pool(self._http, principal)
        if self.uses_sse:
            return SseLink(hub, config, _NOBODY, pool)
        return HttpLink(hub, config, _NOBODY, pool)

    def fall_back(self, link: Link, status: int) -> bool:
        """F13: where a POST of `initialize` gets 400, 404 or 405, the server may be one of 2024: from now on
        its event stream is tried. True if `link` had not tried it (several may hear of it at one time)."""
        if self._config.transport != "http" or isinstance(link, SseLink) or status not in (400, 404, 405):
            return False
        self.uses_sse = True
        return True

    def fall_forward(self) -> None:
        """It was not one of 2024 either."""
        self.uses_sse = self._config.transport == "sse"

    def renew(self, config: ServerConfig) -> None:
        """Other headers, for links that are there (over HTTP) and for new ones (WebSocket)."""
        self._config = config
        if self._http is not None:
            self._http.headers = tuple(config.headers.items())

    def stop(self) -> None:
        if self._http is not None:
            self._http.stop()


class _Nobody:
    """Owner of a link that is just being handed on."""

    def link_up(self) -> None: ...
    def link_message(self, message: object, origin: int | None) -> None: ...
    def link_lost(self, request: int, loss: object, status: int) -> None: ...
    def link_pressed(self, high: bool) -> None: ...
    def link_down(self, reason: str) -> None: ...


_NOBODY = _Nobody()
