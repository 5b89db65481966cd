"""mcpgate's protocol core: an MCP gateway as one pure state machine.

Feed `Gateway` with facts (bytes that arrived, time that passed), carry out the effects that it returns.
It does no I/O, reads no clock, draws no randomness. The contract is at the top of `gateway.py`.
"""

from mcpgate_proto.config import (
    AuthConfig,
    GatewayConfig,
    IssuerConfig,
    KeyConfig,
    ListenConfig,
    ServerConfig,
)
from mcpgate_proto.errors import ConfigError, LocalProtocolError, ProtocolError
from mcpgate_proto.gateway import Gateway, Snapshot
from mcpgate_proto.limits import Limits

__all__ = [
    "AuthConfig",
    "ConfigError",
    "Gateway",
    "GatewayConfig",
    "IssuerConfig",
    "KeyConfig",
    "Limits",
    "ListenConfig",
    "LocalProtocolError",
    "ProtocolError",
    "ServerConfig",
    "Snapshot",
]
