"""What the middle needs of the upstream side, and tells it.

Owns: the protocols between `relay` and `upstream`: a server as the middle sees it, and what the middle
hears of it. Must never: hold behaviour.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec
from msgspec import Raw

from mcpgate_proto.config import ServerConfig
from mcpgate_proto.mcp import extensions, task_fields
from mcpgate_proto.mcp.codes import Fault
from mcpgate_proto.mcp.revisions import Era
from mcpgate_proto.relay.exchange import Client, Exchange, Members, Operation

__all__ = ["Server", "ServerFace", "ServerListener", "ServerStatus"]


class ServerFace(msgspec.Struct, frozen=True):
    """What one session of a server declared."""

    era: Era
    capabilities: Members
    instructions: str
    server_info: bytes

    @property
    def makes_tasks(self) -> bool:
        """It makes tasks of calls: by the extension, or as 2025-11-25 has it."""
        if self.era is Era.MODERN:
            return extensions.TASKS in extensions.declared(self.capabilities)
        return task_fields.offered(self.capabilities)


class ServerStatus(msgspec.Struct, frozen=True):
    """The real state of a server, for people: `state` is "connected", "connecting", "idle", "down",
    "disabled"."""

    name: str
    transport: str
    state: str
    enabled: bool
    eras: dict[str, bool | None]
    sessions: int
    calls: int
    restarts: int
    reason: str
    pids: list[int]


class Server(Protocol):
    """One configured server."""

    name: str
    config: ServerConfig

    def has_own(self, client: Client) -> bool:
        """Whether there is a session with the features of `client`, of a legacy server."""

    def prepare(self, client: Client, done: Callable[[ServerFace | Fault], None]) -> None:
        """Have a session of `client`'s era ready; `done` gets what it declares."""

    def place(self, exchange: Exchange) -> None:
        """Find a session for the exchange and bind it, now or later; or fail it."""

    def ask(
        self, client: Client, method: str, params: Members, done: Callable[[Members | Fault], None]
    ) -> None:
        """A request of the gateway's own: in the session of the client's calls if a legacy server has one for
        its features, else over the catalog session of its principal."""

    def watch(self, client: Client, uri: str, done: Callable[[Fault | None], None]) -> None: ...
    def unwatch(self, client: Client, uri: str) -> None: ...
    def face(self, client: Client) -> ServerFace | None:
        """What the catalog session of this client's principal declared, if there is one ready."""

    def refusal(self, client: Client) -> Fault | None:
        """Why it cannot be asked anything for this client now, if that is for want of a login."""

    def roots_changed(self, client: Client) -> None: ...
    def client_gone(self, client: Client) -> None: ...
    def status(self) -> ServerStatus: ...


class ServerListener(Protocol):
    """What the middle hears. `principal` None: of no certain principal, so of all."""

    def catalog_changed(self, server: str, principal: str | None, kind: str) -> None: ...
    def server_up(self, server: str, principal: str | None) -> None: ...
    def lists_elsewhere(self, server: str, principal: str | None, profile: Raw) -> None:
        """Clients of this profile have a session of their own now, and their lists come from it."""

    def resource_updated(self, server: str, principal: str | None, params: Members) -> None: ...
    def cannot_notify(self, server: str, principal: str | None) -> None: ...
    def replan(self, server: str, operation: Operation, done: Callable[[], None]) -> None:
        """Look the mirrored headers of the operation's tool up again."""
