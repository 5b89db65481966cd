"""One configured listener: where it is bound, and what is behind it.

Owns: the tables of its routes, and which of them need no credentials. Must never: accept anybody.
"""

from __future__ import annotations

from mcpgate_proto.config import ListenConfig, MonitorConfig
from mcpgate_proto.downstream.http import Endpoint, Open
from mcpgate_proto.downstream.http_sse import SseMessages, SseOpen
from mcpgate_proto.downstream.metadata import ResourceMetadata
from mcpgate_proto.downstream.monitor import Health
from mcpgate_proto.downstream.pace import Pace
from mcpgate_proto.effects import Address, Listen
from mcpgate_proto.hub import Hub
from mcpgate_proto.relay.relay import Relay
from mcpgate_proto.security.address import is_loopback
from mcpgate_proto.security.door import Door
from mcpgate_proto.security.gate import Gate

__all__ = ["Listener"]


class Listener:
    """The rules and the routes of one listener."""

    def __init__(self, config: ListenConfig, gate: Gate, pace: Pace) -> None:
        self.config = config
        self.gate = gate
        self.pace = pace
        self.address: Address | None = None
        self.door: Door | None = None
        # The MCP endpoint is the first.
        self.routes: dict[str, Endpoint] = {}
        # What is answered without credentials, at the listener's own risk.
        self.open_routes: dict[str, Open] = {}
        self.sse: SseOpen | None = None
        self.failed = False

    def effect(self) -> Listen:
        """What is to be opened."""
        config = self.config
        if config.kind == "stdio":
            return Listen(listener=config.name, kind="stdio")
        if config.socket_path:
            return Listen(
                listener=config.name,
                kind="unix",
                path=config.socket_path,
                mode=config.socket_mode,
                uid=config.socket_uid,
                gid=config.socket_gid,
                fd=config.fd,
                tls=config.tls,
            )
        host, port = config.host, config.port
        return Listen(listener=config.name, kind="tcp", host=host, port=port, fd=config.fd, tls=config.tls)

    def exposure(self, address: Address) -> str:
        """Why nobody may be let in where it is bound in fact, or nothing. Settings were checked for this; but
        where a name or a handed-over socket led, only the address tells (threats.md section 0, Firewall).
        """
        config = self.config
        if config.kind != "http" or config.behind_proxy or address.path or is_loopback(address.host):
            return ""
        if not self.gate.required:
            return "it can be reached from beyond this machine, and nobody is asked who they are"
        self.gate.exposed = True
        return "" if config.tls is not None else "it can be reached from beyond this machine, without TLS"

    def bound(self, address: Address, endpoint: Endpoint, hub: Hub, relay: Relay) -> None:
        """It is open. `endpoint` is behind its path."""
        config = self.config
        self.address = address
        self.door = Door(config, address)
        self.routes = {config.path: endpoint}
        if config.sse:
            self.sse = SseOpen(hub, relay, config.messages_path)
            self.routes[config.sse_path] = self.sse
            self.routes[config.messages_path] = SseMessages(self.sse)
        self.open(hub.config.monitor)

    def open(self, monitor: MonitorConfig) -> None:
        """What is answered without credentials. In place: connections hold on to the table."""
        authenticator = self.gate.authenticator
        self.open_routes.clear()
        for path in authenticator.challenges.paths:
            self.open_routes[path] = ResourceMetadata(authenticator)
        if "health" in self.config.monitor:
            self.open_routes[monitor.health_path] = Health()
