"""Which resources of a server are watched, by whom, and on which session.

Owns: counts per (principal, era, URI), so that several clients are one subscription and a new session is
subscribed to what the lost one was (B7, L11).
Must never: let one principal's watch keep another's alive.
"""

from __future__ import annotations

from mcpgate_proto.mcp.revisions import Era

__all__ = ["Watches"]


class Watches:
    """Counts of watches; the first of a URI subscribes, the last unsubscribes."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str | None, Era], dict[str, int]] = {}

    def add(self, principal: str | None, era: Era, uri: str) -> None:
        uris = self._counts.setdefault((principal, era), {})
        uris[uri] = uris.get(uri, 0) + 1

    def remove(self, principal: str | None, era: Era, uri: str) -> bool:
        """One watch less; true when it was the last."""
        uris = self._counts.get((principal, era), {})
        left = uris.get(uri, 0) - 1
        if left > 0:
            uris[uri] = left
            return False
        known = uris.pop(uri, None) is not None
        if not uris:
            self._counts.pop((principal, era), None)
        return known

    def of(self, principal: str | None, era: Era) -> list[str]:
        return list(self._counts.get((principal, era), {}))
