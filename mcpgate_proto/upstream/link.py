"""The line between what a session says and how it travels to a server.

Owns: the two protocols `Link` (a way to one server: a child's pipes, or HTTP) and `LinkOwner` (what
speaks over it), `Outgoing`, one request, what its `Loss` means, and the record of a redirect.
Must never: know a revision's messages.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol

import msgspec

from mcpgate_proto.hub import Hub
from mcpgate_proto.wire.jsonrpc import Message

__all__ = ["Link", "LinkOwner", "Loss", "Outgoing", "note_redirect"]


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """One request on its way out. `headers` are the mirrored ones (D2, D3); pipes do not send them."""

    id: int
    message: bytes
    headers: tuple[tuple[str, str], ...] = ()
    # Its answer stream stays open for long (`subscriptions/listen`): it must not starve calls (D15).
    pinned: bool = False
    # Headers of the client's own request; a link sends those that its server's `forward_headers` lists.
    forwarded: tuple[tuple[str, str], ...] = ()
    # The principal whose call it is for; empty for what is everybody's, or asked by the gateway itself.
    whose: str = ""
    # The gateway asks itself, which is answered at once: it must not wait until calls are over.
    brief: bool = False


class Loss(Enum):
    """Why a request can have no answer any more."""

    UNSENT = "unsent"  # the server cannot have acted on it
    BROKEN = "broken"  # it may have
    REFUSED = "refused"  # the server's HTTP said no, without JSON-RPC; `status` tells
    SESSION_GONE = "session gone"  # 404 for our session (D10): not executed


def note_redirect(hub: Hub, server: str, status: int) -> None:
    """A redirect leads to where nobody has checked, with credentials and calls: it is a refusal (row 36)."""
    mend = "redirects are not followed; write the address where the server really is as its url"
    hub.emit("warning", "server_redirects", server=server, status=status, mend=mend)


class LinkOwner(Protocol):
    """What speaks over a link: a prober, then a session."""

    def link_up(self) -> None: ...
    def link_message(self, message: Message, origin: int | None) -> None:
        """`origin`: the request on whose stream it came; None where all share one channel."""

    def link_lost(self, request: int, loss: Loss, status: int) -> None: ...
    def link_pressed(self, high: bool) -> None:
        """The server takes less than it is sent (true), or enough again (false)."""

    def link_down(self, reason: str) -> None:
        """The link is gone, and every request on it. Last call."""


class Link(Protocol):
    """A way to one server, in one era."""

    owner: LinkOwner
    single_channel: bool
    pid: int | None
    last_stderr: list[str]
    failure: str  # why the last request could not be delivered, for the log

    def start(self) -> None: ...
    def request(self, outgoing: Outgoing) -> None: ...
    def notify(self, message: bytes) -> None: ...
    def introduce(self, message: bytes, done: Callable[[], None]) -> None:
        """As `notify`; `done` once nothing that is sent after it can arrive before it."""

    def reply(self, message: bytes, origin: int | None) -> None: ...
    def unsent(self, request: int) -> bool:
        """The server cannot have seen the request yet, and will not once it is abandoned."""

    def abandon(self, request: int) -> None:
        """No answer is wanted: close its stream where it has one of its own (D7)."""

    def throttle(self, request: int, on: bool) -> None: ...
    def congested(self) -> bool:
        """The server takes less than it is sent: those who feed it should be held."""

    def full(self) -> bool:
        """It must not be sent another request."""

    def knock(self, done: Callable[[int], None]) -> None:
        """See `upstream.knock`; 0 where a channel has nothing of the kind. Before anything else is sent."""

    def expect_session(self) -> None:
        """The next answer is an InitializeResult and may bring a session id (C27)."""

    def speak(self, version: str) -> None:
        """From now on a legacy session of this version; HTTP tells it in a header (D11)."""

    def listen(self, done: Callable[[], None]) -> None:
        """Legacy: open the server's own stream, where there is one (D12); `done` once it is open, or will not
        be: what a server says on it before that may be lost."""

    def stop(self) -> None: ...
