"""The sessions in which tasks of legacy servers live (L22).

Owns: the way from a task's tag to its session, and how many sessions the tasks of one principal may hold.
Must never: give a task of one session to another, however alike they are.
"""

from __future__ import annotations

from collections.abc import Iterable

from mcpgate_proto.mcp.codes import Fault
from mcpgate_proto.relay.exchange import Client
from mcpgate_proto.upstream.legacy_task_book import LOST
from mcpgate_proto.upstream.session import UpstreamSession
from mcpgate_proto.upstream.waiting import Session

__all__ = ["home", "leaves_room"]


def home(sessions: Iterable[Session], client: Client, tag: str) -> Session | Fault:
    """The session that `tag` names, if it is still there and not another client's own."""
    for session in sessions:
        if session.ready and session.tag == tag and session.key.owner in ("", client.key):
            session.take(client, False)
            return session
    return LOST


def leaves_room(sessions: Iterable[Session], session: UpstreamSession, most: int) -> bool:
    """Whether `session` may be held by tasks too: its principal's hold fewer than `most` others."""
    mine = [one for one in sessions if one.tag and one.key.principal == session.key.principal]
    return sum(1 for one in mine if one is not session and not one.can_go) < most
