"""What the core asks the outside to do.

Owns: the effect types that `Gateway.effects` returns, and the facts about peers that inputs carry.
Must never: hold behaviour. These are plain values; a runner matches on their type.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

__all__ = [
    "Abort",
    "Address",
    "Browse",
    "Claim",
    "Close",
    "Connect",
    "Effect",
    "Emit",
    "Keep",
    "Listen",
    "PauseAccept",
    "PauseRead",
    "Peer",
    "ProcessLimits",
    "Record",
    "Release",
    "Resolve",
    "ResumeAccept",
    "ResumeRead",
    "ServerTls",
    "ShutdownWrite",
    "Signal",
    "Spawn",
    "Stopped",
    "TlsFacts",
    "TlsOptions",
    "Unlisten",
    "Write",
]

ConnectionId: TypeAlias = int
Scalar: TypeAlias = str | int | float | bool | None


class Value(msgspec.Struct, frozen=True, gc=False):
    """Base of all effects and facts: immutable, compared by value, never tracked by the collector."""


class Address(Value, frozen=True, gc=False, kw_only=True):
    """Where to connect: a numeric `host` with `port`, or a Unix socket `path`. Never a name to look up."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Peer(Value, frozen=True, gc=False, kw_only=True):
    """Who is at the other end of a connection, as the operating system says.

    `kind` is "stdio", "tcp", "unix" or "child"; `uid`, `gid`, `groups` (where the system tells them) and
    `pid` are known for Unix sockets only; `same_user` is true for a Unix peer that runs as our own user.
    """

    kind: Literal["stdio", "tcp", "unix", "child"]
    address: Address | None = None
    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] = ()
    pid: int | None = None
    same_user: bool = False


class TlsOptions(Value, frozen=True, gc=False, kw_only=True):
    """How to secure an outgoing connection: the name to verify and, if any, an own CA file."""

    server_name: str
    ca_file: str | None = None


class TlsFacts(Value, frozen=True, gc=False, kw_only=True):
    """What a finished TLS handshake established."""

    version: str
    cipher: str
    peer_subject: str | None = None


class ServerTls(Value, frozen=True, gc=False, kw_only=True):
    """How a listener secures connections. `client_ca_file`: whose client certificates are accepted;
    `require_client`: a client without one is refused. The files are read again when they change."""

    cert_file: str
    key_file: str
    client_ca_file: str | None = None
    require_client: bool = False


class ProcessLimits(Value, frozen=True, gc=False, kw_only=True):
    """Resource limits for a child; `None` leaves the inherited limit."""

    memory_bytes: int | None = None
    open_files: int | None = None
    cpu_seconds: int | None = None


class Record(Value, frozen=True, gc=False):
    """One record of the log, or of the audit stream: who did what. `level` is an RFC 5424 severity name as
    MCP uses it."""

    level: str
    event: str
    fields: tuple[tuple[str, Scalar], ...] = ()
    stream: Literal["log", "audit"] = "log"


class Listen(Value, frozen=True, gc=False, kw_only=True):
    """Open a listener. Answer with `Gateway.listening` or `Gateway.listen_failed`.

    `kind` "stdio" means the process's own stdin and stdout: accept once. "tcp" has `host` and `port`, where
    "localhost" is both loopback addresses, as far as there are two, on one port. "unix" has a `path`, created
    with `mode` and given to `uid` and `gid` (-1: left as it is). With `fd`, a socket of that name was handed
    to the process at its start: it is used, never made or removed. With `tls`, each accepted connection is
    followed by `Gateway.secured` before any of its bytes.
    """

    listener: str
    kind: Literal["stdio", "tcp", "unix"]
    host: str = ""
    port: int = 0
    path: str = ""
    mode: int = 0o600
    uid: int = -1
    gid: int = -1
    fd: str = ""
    tls: ServerTls | None = None


class Unlisten(Value, frozen=True, gc=False):
    listener: str


class PauseAccept(Value, frozen=True, gc=False):
    listener: str


class ResumeAccept(Value, frozen=True, gc=False):
    listener: str


class Write(Value, frozen=True, gc=False):
    """Send `chunks` in order. At most one `Write` per connection and drain."""

    conn: ConnectionId
    chunks: list[bytes]


class ShutdownWrite(Value, frozen=True, gc=False):
    """Half-close: after what is written has gone out, no more is sent. For a child: close its stdin."""

    conn: ConnectionId


class Close(Value, frozen=True, gc=False):
    """Close after what is written has gone out; then call `Gateway.closed`."""

    conn: ConnectionId


class Abort(Value, frozen=True, gc=False):
    """Close at once and drop what is queued; then call `Gateway.closed`."""

    conn: ConnectionId


class PauseRead(Value, frozen=True, gc=False):
    conn: ConnectionId


class ResumeRead(Value, frozen=True, gc=False):
    conn: ConnectionId


class Resolve(Value, frozen=True, gc=False):
    """Look `host` up. Answer with `Gateway.resolved` or `Gateway.resolve_failed`."""

    lookup: int
    host: str


class Connect(Value, frozen=True, gc=False):
    """Dial `address`. Answer with `Gateway.connected` or `Gateway.connect_failed`."""

    conn: ConnectionId
    address: Address
    tls: TlsOptions | None = None


class Spawn(Value, frozen=True, gc=False, kw_only=True):
    """Start a child in a process group of its own; its stdin and stdout are the connection.

    `env` is the whole environment of the child. Answer with `Gateway.connected` or
    `Gateway.connect_failed`; what it writes to stderr goes to `Gateway.received_stderr`.
    """

    conn: ConnectionId
    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str | None = None
    pin: str | None = None
    limits: ProcessLimits | None = None


class Signal(Value, frozen=True, gc=False):
    """Send SIGTERM or SIGKILL to the whole process group of a child."""

    conn: ConnectionId
    which: Literal["TERMINATE", "KILL"]


class Emit(Value, frozen=True, gc=False):
    record: Record


class Browse(Value, frozen=True, gc=False):
    """Show `url` to whoever is at this machine, best in a browser: they are to log in to `server`. It has
    been checked: https, or http to loopback, visible ASCII, no user information. There is no answer."""

    server: str
    url: str


class Claim(Value, frozen=True, gc=False):
    """Lock the record `name` against other gateways on this machine, waiting for them as long as it takes,
    and read it. Answer with `Gateway.claimed`. The lock lasts until `Release`. A name is 1 to 64 of a-z, 0-9
    and -."""

    name: str


class Keep(Value, frozen=True, gc=False):
    """Store `data` under a name that is claimed, in place of what was there; empty: remove it."""

    name: str
    data: bytes


class Release(Value, frozen=True, gc=False):
    """Unlock the record `name`; before `claimed`: it is no longer wanted, and `claimed` does not follow."""

    name: str


class Stopped(Value, frozen=True, gc=False):
    """The gateway has nothing left to do: the runner may return. `failure` names why it could not run."""

    failure: str | None = None


Effect: TypeAlias = (
    Listen
    | Unlisten
    | PauseAccept
    | ResumeAccept
    | Write
    | ShutdownWrite
    | Close
    | Abort
    | PauseRead
    | ResumeRead
    | Resolve
    | Connect
    | Spawn
    | Signal
    | Emit
    | Browse
    | Claim
    | Keep
    | Release
    | Stopped
)
