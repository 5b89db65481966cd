"""Which session with a server is for whom, and which may go.

Owns: pure choices among the sessions of one server, by their keys.
Must never: hand a session that served one principal to another, or a client without features one whose server
was told of another client's (L0.2).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from mcpgate_proto.hub import Hub
from mcpgate_proto.mcp.revisions import Era
from mcpgate_proto.upstream.keys import PoolKey
from mcpgate_proto.upstream.waiting import Session

__all__ = ["dispensable", "fits", "main_of", "own_of", "rivals_of"]


def fits(session: Session, key: PoolKey) -> bool:
    """It has this key, or may get it: started before anybody asked, the first principal that needs it makes
    it its own."""
    mine = session.key
    if mine == key:
        return True
    unasked = mine.principal is None and not (session.ready and session.busy)
    return unasked and msgspec.structs.replace(mine, principal=key.principal, owner=key.owner) == key


def own_of(sessions: Iterable[Session], key: PoolKey) -> Session | None:
    """The session in which a client with features makes its calls: the server may show other things there
    than to others (L0.2)."""
    if key == key.plain:
        return None
    return next((one for one in sessions if one.ready and not one.over and one.key == key), None)


def main_of(sessions: Iterable[Session], key: PoolKey) -> Session | None:
    """The one session in which the calls of a principal are made, where there is just one: many servers keep
    state in their process, and a list from another process would not show it. For the gateway's own requests
    only."""
    if key != key.plain or key.era is not Era.LEGACY or key.principal is None:
        return None
    found = [
        one
        for one in sessions
        if one.ready
        and one.key != one.key.plain
        and one.key.era is key.era
        and one.key.principal == key.principal
        and one.key.owner == key.owner
    ]
    return found[0] if len(found) == 1 else None


def dispensable(sessions: Iterable[Session]) -> Session | None:
    """One that nobody would miss now."""
    return next((one for one in sessions if one.can_go and one.ready and not one.watches), None)


def rivals_of(hub: Hub, sessions: Iterable[Session], key: PoolKey) -> list[Session]:
    """Of which one has to go before there may be one more with this key, none while there is room: its own
    first, and those alone where a principal has as many as it may have. Each server may have one, however
    many the others have."""
    limits, among = hub.limits, list(sessions)
    mine = [one for one in among if key.principal and one.key.principal == key.principal]
    if len(mine) >= limits.upstream_sessions_per_principal and not hub.config.transparent:
        return mine
    room = hub.upstream_sessions < limits.upstream_sessions
    # A server that has none yet has no rivals either.
    if room and len(among) < limits.upstream_sessions_per_server:
        return []
    return [*mine, *(one for one in among if one not in mine)]
