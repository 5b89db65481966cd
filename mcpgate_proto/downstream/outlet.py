"""Where the messages of one request go: a pipe, or the response to an HTTP POST.

Owns: the `Outlet` protocol, and `Batch`, which gathers the answers of a 2025-03-26 batch.
Must never: know methods or revisions.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["Batch", "Outlet"]


class Outlet(Protocol):
    """The way back to the client, for one request."""

    def notify(self, message: bytes) -> None:
        """Send a message that belongs to the request, before its answer."""

    def finish(self, message: bytes | None, status: int = 200, retry_after_s: int = 0) -> None:
        """Send the answer; nothing follows. None: there is none (the client cancelled). `status` and
        `retry_after_s` count where nothing was sent yet and the way is HTTP."""

    def hold(self, reason: str, on: bool) -> None:
        """The server takes less than this client sends: stop reading from the client, where that helps."""

    @property
    def pressed(self) -> bool:
        """The client takes less than it is sent."""

    @property
    def shares_channel(self) -> bool:
        """Other requests use the same way back."""

    @property
    def can_ask(self) -> bool:
        """Questions can reach the client: `notify` is not in vain."""

    @property
    def forwarded(self) -> tuple[tuple[str, str], ...]:
        """Headers of the request itself that the operator lets travel on; only an HTTP POST has any."""


class Batch:
    """Several requests that came as one array over a pipe: their answers go back as one."""

    def __init__(self, outlet: Outlet, count: int) -> None:
        self._outlet = outlet
        self._left = count
        self._answers: list[bytes] = []

    def part(self) -> Outlet:
        return _Part(self, self._outlet)

    def answered(self, message: bytes | None) -> None:
        self._left -= 1
        if message is not None:
            self._answers.append(message)
        if not self._left:
            self._outlet.finish(b"[" + b",".join(self._answers) + b"]" if self._answers else None)


class _Part:
    """One request of a batch."""

    def __init__(self, batch: Batch, outlet: Outlet) -> None:
        self._batch = batch
        self._outlet = outlet

    def notify(self, message: bytes) -> None:
        self._outlet.notify(message)

    def finish(self, message: bytes | None, status: int = 200, retry_after_s: int = 0) -> None:
        self._batch.answered(message)

    def hold(self, reason: str, on: bool) -> None:
        self._outlet.hold(reason, on)

    @property
    def pressed(self) -> bool:
        return self._outlet.pressed

    @property
    def shares_channel(self) -> bool:
        return True

    @property
    def can_ask(self) -> bool:
        return self._outlet.can_ask

    @property
    def forwarded(self) -> tuple[tuple[str, str], ...]:
        return ()
