"""Where logins meet the outside: the store of tokens, the person at the machine, the browser's way back.

Owns: claims on stored records (one at a time for each name, the others in their order), the listeners that
browsers come back to, the URLs that are shown.
Must never: show a URL that `parse_url` refuses (threats.md row 29), or know what a record holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from mcpgate_proto.effects import Address, Browse, Claim, Keep, Listen, Release, Unlisten
from mcpgate_proto.hub import Connection, Hub
from mcpgate_proto.security.egress import Place, parse_url

__all__ = ["Callback", "Desk", "Respond"]

# Tells the browser how it went: well or not, and a line for its reader. Once.
Respond = Callable[[bool, str], None]
LOOPBACK = "127.0.0.1"
BROWSERS_MOST = 16
NAMES_MOST = 64


class Callback:
    """A listener that one browser is to come back to. `answered` gets the query of each request and how to
    answer it; True if that was what was waited for."""

    def __init__(
        self,
        desk: Desk,
        name: str,
        opened: Callable[[Address | None], None],
        answered: Callable[[str, Respond], bool],
    ) -> None:
        self.name = name
        self.address: Address | None = None
        self.opened = opened
        self.answered = answered
        self._desk = desk
        self._browsers: list[Connection] = []

    def lets_in(self, conn: Connection) -> bool:
        """One browser opens a few connections; whoever opens more is none."""
        self._browsers = [one for one in self._browsers if not one.gone]
        if len(self._browsers) >= BROWSERS_MOST:
            return False
        self._browsers.append(conn)
        return True

    def close(self) -> None:
        self._desk.closed(self)

    def abort(self) -> None:
        for conn in self._browsers:
            conn.abort()
        self.close()


class Desk:
    """One per gateway. Whoever claims a record releases it."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        # By name: who holds the record or waits for it, first come first served.
        self._claims: dict[str, deque[Callable[[bytes | None], None]]] = {}
        self._callbacks: dict[str, Callback] = {}
        # Of callbacks there were of late: what is said of one that is closed already is ours too.
        self._names: dict[str, None] = {}

    # -- records

    def claim(self, name: str, done: Callable[[bytes | None], None]) -> None:
        """`done` gets the record (empty: there is none), or None where there is no store; never from
        within. From then on it is the caller's until `release`."""
        queue = self._claims.setdefault(name, deque())
        queue.append(done)
        if len(queue) == 1:
            self._hub.put(Claim(name))

    def claimed(self, name: str, data: bytes | None) -> None:
        """The answer to `Claim`."""
        queue = self._claims.get(name)
        if queue:
            queue[0](data)

    def keep(self, name: str, data: bytes) -> None:
        if name in self._claims:
            self._hub.put(Keep(name, data))

    def release(self, name: str) -> None:
        """Give the record to the next who waits for it."""
        queue = self._claims.get(name)
        if not queue:
            return
        queue.popleft()
        self._hub.put(Release(name))
        if queue:
            self._hub.put(Claim(name))
        else:
            del self._claims[name]

    # -- people

    def browse(self, server: str, url: str) -> bool:
        """Show `url`. False if it may not be shown."""
        if not isinstance(parse_url(url, allow_loopback=True), Place):
            return False
        self._hub.put(Browse(server, url))
        return True

    # -- browsers

    def listen(
        self, port: int, opened: Callable[[Address | None], None], answered: Callable[[str, Respond], bool]
    ) -> Callback:
        """Open a loopback listener; `opened` gets its address, or None if there is none."""
        name = f"login {self._hub.serial()}"
        while any(one.name == name for one in self._hub.config.listeners):
            name = f"login {self._hub.serial()}"
        self._names[name] = None
        if len(self._names) > NAMES_MOST:
            del self._names[next(iter(self._names))]
        made = self._callbacks[name] = Callback(self, name, opened, answered)
        self._hub.put(Listen(listener=name, kind="tcp", host=LOOPBACK, port=port))
        return made

    def owns(self, listener: str) -> bool:
        """The listener is or was a callback."""
        return listener in self._names

    def callback(self, listener: str) -> Callback | None:
        """The callback behind a listener, while it is open."""
        found = self._callbacks.get(listener)
        return found if found is not None and found.address is not None else None

    def listening(self, listener: str, address: Address) -> None:
        callback = self._callbacks.get(listener)
        if callback is not None:
            callback.address = address
            callback.opened(address)

    def listen_failed(self, listener: str, reason: str) -> None:
        callback = self._callbacks.pop(listener, None)
        self._hub.emit("warning", "login_listen_failed", reason=reason)
        if callback is not None:
            callback.opened(None)

    def closed(self, callback: Callback) -> None:
        if self._callbacks.pop(callback.name, None) is not None:
            self._hub.put(Unlisten(callback.name))

    def stop(self) -> None:
        for callback in list(self._callbacks.values()):
            callback.abort()
        claims, self._claims = self._claims, {}
        for name in claims:
            self._hub.put(Release(name))
