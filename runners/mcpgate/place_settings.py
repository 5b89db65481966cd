"""`[[listen]]` keys about sockets that others made, and about whom sockets and keys belong to.

Owns: `fd`, `socket_owner`, `socket_group`, and the check of the file behind `tls_key`.
Must never: open or change a socket.
"""

from __future__ import annotations

import os

import msgspec

from mcpgate import systemd
from mcpgate.accounts import group_id, user_id
from mcpgate.fd import reason_of
from mcpgate.files import Complaint, open_key
from mcpgate.tables import Table
from mcpgate_proto.config import ListenConfig

__all__ = ["check_key", "read_place"]


def read_place(table: Table, listener: ListenConfig) -> ListenConfig:
    """`listener` with the address of the socket that it was given, and the owner of the one that it makes."""
    listener = msgspec.structs.replace(
        listener,
        socket_uid=_id(table, "socket_owner"),
        socket_gid=_id(table, "socket_group"),
    )
    name = table.text("fd")
    if "fd" not in table.values:
        for key in ("socket_owner", "socket_group"):
            if key in table.values and not listener.socket_path:
                table.problems.error(table.key(key), "goes with a socket_path", "remove it")
        return listener
    for key in ("host", "port", "socket_path", "socket_mode", "socket_owner", "socket_group"):
        if key in table.values:
            mend = "remove it: who made the socket decided that"
            table.problems.error(table.key(key), "does not go with fd", mend)
    if listener.kind == "stdio":
        table.problems.error(table.key("fd"), "means nothing for kind stdio", "remove it")
    found = systemd.find(name)
    if not systemd.handed():
        # So for `mcpgate check`; a start fails when the listener is opened.
        table.problems.warn(table.key("fd"), "no socket was handed over", "start it by its socket unit")
        return msgspec.structs.replace(listener, fd=name, socket_path="")
    if found is None:
        names = ", ".join(one.name or str(number) for number, one in enumerate(systemd.handed())) or "none"
        mend = f"start it by the unit's socket, or correct FileDescriptorName= (handed over: {names})"
        table.problems.error(table.key("fd"), f"no socket {name!r} was handed over", mend)
        return listener
    problem = found.problem
    if not problem and listener.kind == "unix" and not found.path:
        problem = "is not a Unix socket"
    if problem:
        table.problems.error(table.key("fd"), f"the socket {name!r} {problem}", "correct the socket unit")
    host, port = found.host or listener.host, found.port or listener.port
    return msgspec.structs.replace(listener, fd=name, host=host, port=port, socket_path=found.path)


def check_key(table: Table, name: str, path: str) -> None:
    """The file of a private key is for its owner; root may share one of its own with a group."""
    try:
        fd, complaints = open_key(path, table.expander.access.trust)
        os.close(fd)
    except OSError as error:
        complaints = [Complaint(f"cannot read {path}: {reason_of(error)}", "correct the path")]
    for problem, mend in complaints:
        if table.expander.access.insecure:
            table.problems.warn(table.key(name), problem, mend)
        else:
            mend = f"{mend}; or set [gateway] insecure_files = true"
            table.problems.error(table.key(name), problem, mend)


def _id(table: Table, key: str) -> int:
    given = table.text(key)
    if not given:
        return -1
    what, look_up = ("user", user_id) if key == "socket_owner" else ("group", group_id)
    found = look_up(given)
    if found is None:
        table.problems.error(table.key(key), f"there is no {what} {given!r}", f"name a {what} of this system")
        return -1
    return found
