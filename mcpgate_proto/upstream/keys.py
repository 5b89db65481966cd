"""Whom a session with a server serves.

Owns: `PoolKey` and how it follows from a client and the server's isolation.
Must never: let two principals share a key, unless the operator said so (`isolation = "shared"`).
"""

from __future__ import annotations

import msgspec

from mcpgate_proto.config import ServerConfig
from mcpgate_proto.mcp.revisions import LATEST_LEGACY, MODERN, Era
from mcpgate_proto.relay.exchange import Client
from mcpgate_proto.security.principal import LOCAL

__all__ = ["PoolKey", "is_personal", "key_for", "principal_of"]


class PoolKey(msgspec.Struct, frozen=True):
    """(principal, era, capability profile, revision); `owner` is one client where it has the session alone.

    `principal` None: started before anybody asked; the first that needs it makes it its own.
    """

    principal: str | None
    era: Era
    profile: bytes = b"{}"
    revision: str = ""
    owner: str = ""

    @property
    def plain(self) -> PoolKey:
        """The key of the catalog session beside this one."""
        return msgspec.structs.replace(self, profile=b"{}")


def is_personal(config: ServerConfig) -> bool:
    """Each principal shows tokens of its own, so that no session can be handed on."""
    wants = config.oauth
    return wants is not None and wants.grant == "authorization_code" and config.isolation != "shared"


def principal_of(config: ServerConfig, client: Client | None) -> str | None:
    if config.isolation == "shared":
        return ""
    if client is None and is_personal(config):
        return LOCAL.id  # what is started unasked is started for the person at this machine
    return client.principal.id if client is not None else None


def key_for(config: ServerConfig, client: Client | None, era: Era) -> PoolKey:
    """Catalog sessions and clients without features share the empty profile; `client` None: nobody yet."""
    principal = principal_of(config, client)
    owner = client.key if client is not None and config.isolation == "session" else ""
    if era is Era.MODERN:
        return PoolKey(principal, era, b"{}", MODERN, owner)
    if client is None or not client.features or config.isolation == "shared":
        return PoolKey(principal, era, b"{}", LATEST_LEGACY, owner)
    revision = client.revision if client.era is Era.LEGACY else LATEST_LEGACY
    return PoolKey(principal, era, bytes(client.profile), revision, owner)
