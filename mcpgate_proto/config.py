"""Typed settings of the core.

Owns: `GatewayConfig` and its parts, and the checks that need no file and no network (`problems`).
Must never: read a file or the environment. Secrets and commands arrive here resolved.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from mcpgate_proto.effects import ProcessLimits, ServerTls
from mcpgate_proto.limits import Limits

__all__ = ["GatewayConfig", "ListenConfig", "ServerConfig"]

SEPARATOR = "__"


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One upstream server. For `stdio`, `command` is an absolute path and `env` the whole environment."""

    name: str
    # `http` falls back to `sse` (HTTP+SSE of 2024-11-05) where the server has nothing newer.
    transport: Literal["stdio", "http", "sse", "websocket", "unix"] = "stdio"
    enabled: bool = True
    command: str = ""
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    cwd: str | None = None
    pin: str | None = None
    process_limits: ProcessLimits | None = None
    url: str = ""
    headers: dict[str, str] = {}
    ca_file: str | None = None
    socket_path: str = ""
    # The idle clock of a call, in seconds; progress winds it up again.
    timeout: float = 30.0
    # Seconds between health checks of a ready session; 0 means none.
    health_s: float = 0.0
    metadata: dict[str, Any] = {}
    era: Literal["auto", "legacy", "modern"] = "auto"
    # Own name -> shown name, for tools and prompts; one `*` on both sides stands for any text.
    rename: dict[str, str] = {}
    isolation: Literal["principal", "session", "shared"] = "principal"


class ListenConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One place where clients come in.

    `stdio`: the process's own pipes. `unix`: newline-framed messages on a Unix socket at `socket_path`.
    `http`: Streamable HTTP at `path`, on `host` and `port`, or on a Unix socket where `socket_path` is set;
    with `websocket`, upgrades at the same path; with `sse`, HTTP+SSE of 2024-11-05 beside it.
    """

    name: str
    kind: Literal["stdio", "http", "unix"] = "http"
    host: str = "127.0.0.1"
    port: int = 0
    socket_path: str = ""
    socket_mode: int = 0o600
    path: str = "/mcp"
    websocket: bool = False
    sse: bool = False
    sse_path: str = "/sse"
    messages_path: str = "/messages"
    tls: ServerTls | None = None
    # Names besides loopback and the bound address that `Host` may carry, and origins that may call.
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    behind_proxy: bool = False


class GatewayConfig(msgspec.Struct, frozen=True, kw_only=True):
    """All that a `Gateway` needs to know.

    `transparent`: one server, shown as if the client spoke to it directly (`run`, `connect`).
    """

    servers: tuple[ServerConfig, ...] = ()
    listeners: tuple[ListenConfig, ...] = ()
    limits: Limits = Limits()
    log_level: Literal["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"] = (
        "info"
    )
    transparent: bool = False
    prefix: Literal["auto", "always", "never"] = "auto"
    name_chars: int = 64
    page_size: int = 1000
    # 32 bytes that replicas share, so that one opens what another sealed; none: from the seed of the process.
    # `sealing_previous`: older keys by id, which still open.
    sealing_key: bytes = b""
    sealing_key_id: str = "0"
    sealing_previous: dict[str, bytes] = {}
    # A modern server's task is polled here for a client that knows none (L22).
    drive_tasks: bool = True
    # The tasks of 2025-11-25 are carried between peers that both have them (L22).
    legacy_tasks: bool = False
    version: str = "0"
