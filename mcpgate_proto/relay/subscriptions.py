"""Who wants to hear of which changes.

Owns: interests of clients in list changes and resources, their fan-out, coalescing of list changes
(several servers' changes at one time make one notification), watched resources per server.
Must never: tell one principal of another's resources; filter updates by equality of URIs alone (H14).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mcpgate_proto.hub import Hub
from mcpgate_proto.relay import names
from mcpgate_proto.relay.exchange import Client, Members
from mcpgate_proto.timers import Timer
from mcpgate_proto.wire import jsonrpc, values

__all__ = ["Interest", "Interests"]


class Interest:
    """What one session or one listen stream wants to hear. `kinds` of tools, prompts, resources."""

    def __init__(
        self,
        client: Client,
        kinds: tuple[str, ...],
        list_changed: Callable[[str], None],
        updated: Callable[[Members], None],
    ) -> None:
        self.client = client
        self.kinds = kinds
        self.list_changed = list_changed
        self.updated = updated
        # Watched URI -> (server, the URI there).
        self.uris: dict[str, tuple[str, str]] = {}
        self.pending: dict[str, None] = {}
        self.timer: Timer | None = None


class Interests:
    def __init__(self, hub: Hub, lets: Callable[[Client, str, str], bool]) -> None:
        """`lets(client, server, uri)`: whether a client may hear of a server's resource."""
        self._hub = hub
        self._lets = lets
        self._all: dict[Interest, None] = {}

    def add(self, interest: Interest) -> None:
        self._all[interest] = None

    def remove(self, interest: Interest) -> None:
        self._all.pop(interest, None)
        if interest.timer is not None:
            interest.timer.cancel()
            interest.timer = None

    def __iter__(self) -> Iterator[Interest]:
        return iter(list(self._all))

    def __len__(self) -> int:
        return len(self._all)

    def of(self, principal: str) -> bool:
        """Whether anybody of this principal wants to hear of changes."""
        return any(interest.client.principal.id == principal for interest in self._all)

    def changed(self, principal: str | None, kind: str) -> None:
        for interest in self._all:
            if kind in interest.kinds and _meant(interest, principal):
                interest.pending[kind] = None
                if interest.timer is None:
                    self._arm(interest)

    def _arm(self, interest: Interest) -> None:
        interest.timer = self._hub.after(
            self._hub.limits.coalesce_s, "list changed", lambda: self._tell(interest)
        )

    def _tell(self, interest: Interest) -> None:
        interest.timer = None
        pending, interest.pending = interest.pending, {}
        for kind in pending:
            interest.list_changed(kind)

    def updated(self, server: str, principal: str | None, params: Members) -> None:
        """A resource of `server` changed: told to those who watch it, or a resource above it (H14)."""
        uri = values.text_of(params, "uri")
        if uri is None:
            return
        near: list[tuple[Interest, str]] = []
        far: list[tuple[Interest, str]] = []
        for interest in self._all:
            if not _meant(interest, principal) or not interest.uris:
                continue
            if not self._lets(interest.client, server, uri):
                continue
            watched = {own: shown for shown, (owner, own) in interest.uris.items() if owner == server}
            if any(uri == own or uri.startswith(own.rstrip("/") + "/") for own in watched):
                near.append((interest, _shown(uri, server, watched)))
            elif watched:
                far.append((interest, _shown(uri, server, watched)))
        # What is a sub-resource of what is the server's business: where nothing matches, all who watch
        # something there are told.
        for interest, shown in near or far:
            interest.updated({**params, "uri": jsonrpc.to_raw(shown)})


def _shown(uri: str, server: str, watched: dict[str, str]) -> str:
    """A server's URI in the form that the client subscribed in (H13): prefixed where that was."""
    if uri in watched:
        return watched[uri]
    prefixed = any(own != shown for own, shown in watched.items())
    return names.prefixed_uri(server, uri) if prefixed else uri


def _meant(interest: Interest, principal: str | None) -> bool:
    """`None` and "" are sessions of no one principal: everybody's."""
    return not principal or interest.client.principal.id == principal
