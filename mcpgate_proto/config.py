"""Typed settings of the core.

Owns: `GatewayConfig` and its parts. Must never: read a file or the environment. Secrets and commands arrive
here resolved.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from mcpgate_proto.effects import ProcessLimits, ServerTls
from mcpgate_proto.limits import Limits

__all__ = [
    "AuthConfig",
    "OFF",
    "GatewayConfig",
    "IssuerConfig",
    "KeyConfig",
    "ListenConfig",
    "MonitorConfig",
    "Names",
    "OAuthConfig",
    "Pin",
    "Rate",
    "RateConfig",
    "RuleConfig",
    "ServerConfig",
]


class Rate(msgspec.Struct, frozen=True):
    """At most `per_s` a second over time, and `burst` at once. `per_s` 0: no limit."""

    per_s: float
    burst: int


OFF = Rate(0.0, 0)


class RateConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How much callers may ask for; `security/rate.py` has the defaults that None stands for.

    `principal`: messages of one principal. `address`: HTTP requests from one address. `tool`: calls of one
    tool by one principal. `concurrent_calls`: of one principal. `connections_per_address`: open at one time.
    A cap of 0 is none.
    """

    principal: Rate | None = None
    address: Rate | None = None
    tool: Rate | None = None
    concurrent_calls: int | None = None
    connections_per_address: int | None = None


class MonitorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where listeners that have them answer about the gateway itself. `ready`: how many of the enabled
    servers have to be usable."""

    health_path: str = "/healthz"
    ready_path: str = "/readyz"
    metrics_path: str = "/metrics"
    ready: Literal["any", "all"] = "any"


class OAuthConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How mcpgate gets tokens for a server (docs/upstream-auth.md).

    `authorization_code`: somebody logs in with a browser, for each principal apart; `client_credentials`: one
    token of the gateway's own for everybody. `client_key` is the PEM of a private key, used in place of
    `client_secret` (RFC 7523). `issuer` names the authorization server; without it the server does.
    `token_url` spares the discovery, for client credentials. `resource` (RFC 8707) is the server's own by
    default. `callback_port`: where the browser comes back to; 0: any free port.
    """

    grant: Literal["authorization_code", "client_credentials"] = "authorization_code"
    client_id: str = ""
    client_secret: str = ""
    client_key: str = ""
    client_key_id: str = ""
    client_metadata_url: str = ""
    issuer: str = ""
    token_url: str = ""
    scopes: tuple[str, ...] = ()
    resource: str = ""
    callback_port: int = 0
    # The authorization server may be on the own network; who may sign its certificate, if not the usual ones.
    allow_private: bool = False
    ca_file: str | None = None


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
    # Plain http and ws leave the machine only if this is set.
    allow_plain_http: bool = False
    headers: dict[str, str] = {}
    # Headers of a client's own request that go on to this server, over HTTP (security/forward.py).
    forward_headers: tuple[str, ...] = ()
    oauth: OAuthConfig | None = None
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
    # Calls that go to this server, of all clients together; and own names of tools with a rate of their own.
    rate: Rate | None = None
    tool_rates: dict[str, Rate] = {}


class KeyConfig(msgspec.Struct, frozen=True, kw_only=True):
    """An API key `mcpg_<id>_<secret>`. `hash` is `sha256:<salt>:<digest>`, both in hexadecimal; the key
    itself is known to its holder only. `expires_wall`: Unix seconds."""

    id: str
    name: str = ""
    hash: str
    expires_wall: float | None = None


class IssuerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Whose JSON web tokens are accepted. Its keys come from `jwks_url`, or stand in `jwks` (RFC 7517); with
    neither, the issuer's metadata says where they are (RFC 8414).

    `audience`: one of these must be in `aud`; none: the `resource` of `AuthConfig`. `scopes`: what a token
    needs.
    """

    issuer: str
    jwks_url: str = ""
    jwks: str = ""
    audience: tuple[str, ...] = ()
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA", "Ed25519")
    scopes: tuple[str, ...] = ()
    ca_file: str | None = None


class AuthConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Who may come in with a token. `resource` is the URL under which clients know us (RFC 8707)."""

    resource: str = ""
    keys: tuple[KeyConfig, ...] = ()
    issuers: tuple[IssuerConfig, ...] = ()


class ListenConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One place where clients come in.

    `stdio`: the process's own pipes. `unix`: newline-framed messages on a Unix socket at `socket_path`.
    `http`: Streamable HTTP at `path`, on `host` and `port`, or on a Unix socket where `socket_path` is set;
    with `websocket`, upgrades at the same path; with `sse`, HTTP+SSE of 2024-11-05 beside it.
    """

    name: str
    kind: Literal["stdio", "http", "unix"] = "http"
    # "localhost": both loopback addresses.
    host: str = "localhost"
    port: int = 0
    socket_path: str = ""
    socket_mode: int = 0o600
    # Whom the socket is to belong to; -1: as it is made.
    socket_uid: int = -1
    socket_gid: int = -1
    # The name of a socket that the process was started with; host and port, or socket_path, are its own.
    fd: str = ""
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
    # "auto": required as soon as there is anything to authenticate with; a Unix socket knows its peer.
    auth: Literal["auto", "required", "none"] = "auto"
    # Unix sockets: who may connect besides the gateway's own user.
    allow_uids: tuple[int, ...] = ()
    allow_gids: tuple[int, ...] = ()
    # Globs on the subject of a client's certificate. None: any that the CA has signed; empty: nobody.
    client_subjects: tuple[str, ...] | None = None
    # Networks that may connect (none named: all) and that may not, over TCP; the latter win.
    allow_cidrs: tuple[str, ...] = ()
    deny_cidrs: tuple[str, ...] = ()
    # Networks of proxies, or "unix" for whoever connects to the socket: from these alone, and from this
    # header, the address of a client is taken.
    trusted_proxies: tuple[str, ...] = ()
    forwarded_header: Literal["x-forwarded-for", "forwarded"] = "x-forwarded-for"
    # What else is answered here, at the paths of `MonitorConfig`.
    monitor: tuple[Literal["health", "ready", "metrics"], ...] = ()


class Names(msgspec.Struct, frozen=True, kw_only=True):
    """Which names (or URIs, or values) are let through: what some glob of `allow` fits, or everything where
    `allow` is None; but never what a glob of `deny` fits. An empty `allow` lets nothing through."""

    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()


class RuleConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What may be called, by whom. `security/rules.py` says how rules are read together.

    A rule applies to principals that a glob of `principals` fits and none of `except_principals`, and to
    servers that a glob of `servers` fits. A kind that is None is left as it is.
    """

    principals: tuple[str, ...] = ("*",)
    except_principals: tuple[str, ...] = ()
    servers: tuple[str, ...] = ("*",)
    tools: Names | None = None
    prompts: Names | None = None
    # Resources and templates, by the server's own URIs.
    resources: Names | None = None
    # Own name -> shown name, for tools and prompts; as in `ServerConfig.rename`, before which it counts.
    rename: dict[str, str] = {}
    # Argument name -> the values it may have, for the tools that a glob of `only_tools` fits.
    arguments: dict[str, Names] = {}
    only_tools: tuple[str, ...] = ("*",)


class Pin(msgspec.Struct, frozen=True, kw_only=True):
    """A definition that was approved: `digest` as `security.pins.digest` gives it."""

    server: str
    kind: Literal["tools", "prompts"]
    name: str
    digest: str


class GatewayConfig(msgspec.Struct, frozen=True, kw_only=True):
    """All that a `Gateway` needs to know.

    `transparent`: one server, shown as if the client spoke to it directly (`run`, `connect`).
    """

    servers: tuple[ServerConfig, ...] = ()
    listeners: tuple[ListenConfig, ...] = ()
    auth: AuthConfig = AuthConfig()
    limits: Limits = Limits()
    rate: RateConfig = RateConfig()
    monitor: MonitorConfig = MonitorConfig()
    # Whether there are records of the audit stream, and whether they hold the arguments of calls.
    audit: bool = False
    audit_arguments: bool = False
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
    rules: tuple[RuleConfig, ...] = ()
    # Definitions that are not among `pinned` are let through unseen, reported, or treated as unknown.
    pins: Literal["off", "report", "block"] = "off"
    pinned: tuple[Pin, ...] = ()
    # Definitions with text that people do not see and models read: let be, reported, cleaned of the
    # characters that are not seen, or treated as unknown.
    hidden_text: Literal["off", "report", "strip", "block"] = "report"
    # Somebody is there to log in with a browser when a server asks a local client for it.
    attended: bool = False
    version: str = "0"
