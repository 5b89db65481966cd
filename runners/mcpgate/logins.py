"""What logins need of the machine: the store of tokens, and somebody who is shown an address.

Owns: the carrying out of `Claim`, `Keep`, `Release` and `Browse`, for every runner.
Must never: hold the run up for a lock that another process has, or open anything but the address it was
given.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from mcpgate.tokens import TokenStore, default_folder
from mcpgate_proto import effects as fx
from mcpgate_proto.effects import Record

if TYPE_CHECKING:
    from mcpgate.body import Body

__all__ = ["Logins", "open_browser", "show"]

# How often a lock that another process has is tried again: somebody logs in there, or it is about to end.
TRY_AGAIN_S = 0.25


class Logins:
    """For one body."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._store = TokenStore(body.options.tokens or default_folder())
        # Records that are waited for.
        self._waiting: dict[str, None] = {}
        self._told: dict[str, None] = {}

    def claim(self, effect: fx.Claim) -> None:
        self._waiting[effect.name] = None
        self._try(effect.name)

    def _try(self, name: str) -> None:
        body = self._body
        if name not in self._waiting or body.done:
            return
        try:
            if not self._store.lock(name):
                body.loop.later(TRY_AGAIN_S, lambda: self._again(name))
                return
            data: bytes | None = self._store.read(name)
        except OSError as error:
            self._failed(error)
            data = None
        del self._waiting[name]
        body.note(body.gateway.claimed, name, data)

    def _again(self, name: str) -> None:
        self._try(name)
        self._body.turn()

    def keep(self, effect: fx.Keep) -> None:
        try:
            self._store.write(effect.name, effect.data)
        except OSError as error:
            self._failed(error)

    def release(self, effect: fx.Release) -> None:
        if self._waiting.pop(effect.name, self) is self:
            self._store.unlock(effect.name)

    def _failed(self, error: OSError) -> None:
        """Tokens then live as long as the process; once for each reason."""
        reason = error.strerror or "failed"
        if reason not in self._told:
            self._told[reason] = None
            self._body.options.sink(Record("warning", "logins_not_stored", (("reason", reason),)))

    def browse(self, effect: fx.Browse) -> None:
        (self._body.options.browse or show)(effect.server, effect.url)

    def close(self) -> None:
        self._waiting.clear()
        self._store.close()


def show(server: str, url: str) -> None:
    """Write the address where whoever started us can see it; stdout may belong to the protocol."""
    print(f"mcpgate: server '{server}' wants you to log in: {url}", file=sys.stderr, flush=True)


def open_browser(server: str, url: str) -> None:
    """`show`, and open a browser if there is one with a window of its own."""
    show(server, url)
    opener = _opener()
    if opener is not None:
        threading.Thread(target=opener, args=(url,), name="browser", daemon=True).start()


def _opener() -> Callable[[str], object] | None:
    """How to open a browser. One that runs in the terminal would take our stdin, so there it is none."""
    if sys.platform == "darwin":
        return lambda url: subprocess.run(
            ["/usr/bin/open", url], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False
        )
    if os.environ.get("BROWSER") or os.environ.get("WAYLAND_DISPLAY") or os.environ.get("DISPLAY"):
        import webbrowser

        return webbrowser.open
    return None
