"""What is told of a server: to people, to the relay, to the log.

Owns: `ServerStatus` and `ServerFace` as they follow from sessions, and the last words of a child.
Must never: change anything.
"""

from __future__ import annotations

from collections.abc import Iterable

from mcpgate_proto.config import ServerConfig
from mcpgate_proto.mcp.codes import Fault
from mcpgate_proto.mcp.revisions import Era
from mcpgate_proto.relay.ports import ServerFace, ServerStatus
from mcpgate_proto.upstream.session import UpstreamSession
from mcpgate_proto.upstream.supervisor import Supervisor

__all__ = ["face_of", "status_of", "stderr_of"]


def status_of(
    config: ServerConfig,
    eras: dict[Era, bool | None],
    sessions: Iterable[UpstreamSession],
    supervisor: Supervisor,
    *,
    probing: bool,
    blocked: Fault | None,
) -> ServerStatus:
    """The real state of one server. `blocked`: why nothing can be sent for the person at this machine."""
    sessions = list(sessions)
    ready = [session for session in sessions if session.ready]
    reason = ""
    if not config.enabled:
        state = "disabled"
    elif ready:
        state = "connected"
    elif supervisor.failures:
        state, reason = "down", supervisor.reason
    elif blocked is not None:
        state, reason = "down", blocked.message
    elif sessions or probing:
        state = "connecting"
    else:
        state = "idle"
    return ServerStatus(
        name=config.name,
        transport=config.transport,
        state=state,
        enabled=config.enabled,
        eras={era.value: eras[era] for era in Era},
        sessions=len(ready),
        calls=sum(len(session.calls) for session in sessions),
        restarts=supervisor.restarts,
        reason=reason,
        pids=[session.link.pid for session in ready if session.link.pid is not None],
    )


def face_of(session: UpstreamSession) -> ServerFace:
    return ServerFace(session.era, session.capabilities, session.instructions, bytes(session.server_info))


def stderr_of(session: UpstreamSession) -> dict[str, str]:
    """A server that fails usually said why: its last lines go into the log, never to a client."""
    lines = session.link.last_stderr[-3:]
    return {"stderr": " | ".join(lines)} if lines else {}
