"""Settings that change while the gateway runs.

Owns: what the files of secrets looked like when they were read, when one has changed for good, and reading
the settings again beside the loop.
Must never: wait in the loop, or hand on settings that were not checked.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from mcpgate_proto.config import GatewayConfig

if TYPE_CHECKING:
    from mcpgate.body import Body

__all__ = ["Reloader", "Signature", "Watch", "signature"]

Signature = tuple[int, ...] | None


def signature(path: str) -> Signature:
    """Changes when the content may have: also when a link on the way leads elsewhere, as with Kubernetes."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # the latter for a path with a NUL, which is told of elsewhere
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev, found.st_mode, found.st_uid


class Watch:
    """Looks at files from time to time. May be told of others from any thread."""

    EVERY_S = 1.0

    def __init__(self, seen: Iterable[tuple[str, Signature]] = ()) -> None:
        self._seen = dict(seen)
        self._moving: dict[str, Signature] = {}

    def follow(self, seen: Iterable[tuple[str, Signature]]) -> None:
        """Settings were read again: these are the files now, as they looked before they were read."""
        self._seen, self._moving = dict(seen), {}

    def changed(self) -> bool:
        """A file has changed and has stood still since the last look: whoever writes it has finished."""
        found = {path: now for path, was in self._seen.items() if (now := signature(path)) != was}
        whole = bool(found) and found == self._moving
        self._moving = found
        if whole:
            # Once for each change, also when the new content is of no use.
            self._seen |= found
            self._moving = {}
        return whole


class Reloader:
    """Reads the settings again for one body: in a thread, since files and commands may be slow."""

    def __init__(self, body: Body, load: Callable[[], GatewayConfig | None]) -> None:
        self._body = body
        self._load = load
        self._busy = False
        self._again = False

    def ask(self) -> None:
        """Read them, once more if they are being read: what was asked for after a change sees that change."""
        if self._busy:
            self._again = True
            return
        self._busy = True
        try:
            threading.Thread(target=self._read, name="reload", daemon=True).start()
        except RuntimeError:
            self._read()

    def _read(self) -> None:
        try:
            config = self._load()
        except BaseException as error:
            failure = error
            self._body.options.control.call(lambda _: self._fail(failure))
        else:
            self._body.options.control.call(lambda _: self._done(config))

    def _fail(self, error: BaseException) -> None:
        raise error

    def _done(self, config: GatewayConfig | None) -> None:
        self._busy = False
        body = self._body
        if config is not None and not body.done:
            body.tell(body.gateway.reload, config)
        if self._again:
            self._again = False
            self.ask()
