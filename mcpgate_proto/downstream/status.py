"""What mcpgate tells local callers about itself: the `gateway/*` methods.

Owns: `gateway/list_servers`, `gateway/get_server`, `gateway/server_status`, `gateway/capabilities`,
`gateway/definitions`, and the `_server` member that names a route. For local callers only (stdio, or a Unix
socket of the same user).
Must never: answer anyone else; show a secret (headers, environment and arguments are not told).
"""

from __future__ import annotations

import msgspec

from mcpgate_proto.mcp import codes
from mcpgate_proto.mcp.codes import Fault, FaultKind
from mcpgate_proto.relay.exchange import Client, Members
from mcpgate_proto.relay.ports import Server
from mcpgate_proto.relay.relay import Relay
from mcpgate_proto.security.pins import PINNED, digest, pinned_part
from mcpgate_proto.wire import jsonrpc, values

__all__ = ["answer", "explicit_server", "without_route"]


def answer(relay: Relay, method: str, params: Members, client: Client) -> Members | Fault:
    """The result of a `gateway/*` method."""
    if not client.principal.local:
        return codes.method_not_found(method)
    if method == "gateway/list_servers":
        listed = [_describe(server) for server in relay.servers.values()]
        return {"servers": jsonrpc.to_raw(listed)}
    if method == "gateway/capabilities":
        return _capabilities(relay, params, client)
    if method == "gateway/definitions":
        return _definitions(relay, client)
    if method not in ("gateway/get_server", "gateway/server_status"):
        return codes.method_not_found(method)
    name = values.text_of(params, "name")
    if name is None:
        return Fault(FaultKind.INVALID_PARAMS, "params.name is missing: the name of a server")
    server = relay.servers.get(name)
    if server is None:
        return _unknown(name)
    told = _describe(server) if method == "gateway/get_server" else _status(server)
    return {key: jsonrpc.to_raw(value) for key, value in told.items()}


def _unknown(name: str) -> Fault:
    return Fault(FaultKind.INVALID_PARAMS, f"there is no server '{name[:64]}'")


def _describe(server: Server) -> dict[str, object]:
    config = server.config
    return {
        "name": server.name,
        "transport": config.transport,
        "enabled": config.enabled,
        "timeout": config.timeout,
        "metadata": config.metadata,
        **{key: value for key, value in _status(server).items() if key in ("state", "eras")},
    }


def _status(server: Server) -> dict[str, object]:
    return msgspec.to_builtins(server.status())  # type: ignore[no-any-return]


def _capabilities(relay: Relay, params: Members, client: Client) -> Members | Fault:
    wanted = values.text_of(params, "name") if "name" in params else None
    if wanted is not None and wanted not in relay.servers:
        return _unknown(wanted)
    if "name" in params and wanted is None:
        return Fault(FaultKind.INVALID_PARAMS, "params.name is not a string")
    told = {}
    for name, server in relay.servers.items():
        face = server.face(client)
        if wanted is None or name == wanted:
            told[name] = (
                jsonrpc.encode_object(face.capabilities) if face is not None else jsonrpc.to_raw(None)
            )
    return {"capabilities": jsonrpc.encode_object(told)}


def _definitions(relay: Relay, client: Client) -> Members:
    """The tools and prompts that this client may see, as their servers define them, as far as their lists
    have been read; and the servers of which a list has not."""
    view = relay.view(client)
    found, unread = [], []
    for kind in PINNED:
        for entry in view.table(kind).every:
            if view.shows(kind, entry):
                told = {"server": entry.server, "kind": kind, "name": entry.own, "era": entry.era.value}
                # Without a digest it can be read in two ways, and whoever reads this has read one of them.
                part = pinned_part(kind, entry.raw)
                told["digest"] = digest(part) if part is not None else ""
                found.append({**told, "definition": entry.raw})
    for name, server in relay.servers.items():
        parts = [view.part(name, kind) for kind in PINNED]
        if server.config.enabled and any(part.failed or not part.loaded for part in parts):
            unread.append(name)
    return {"definitions": jsonrpc.to_raw(found), "unread": jsonrpc.to_raw(unread)}


def without_route(params: Members, client: Client) -> Fault | None:
    """For methods that go to no single server: `_server` is refused where it may not be used at all."""
    found = explicit_server(params, client)
    return found if isinstance(found, Fault) else None


def explicit_server(params: Members, client: Client) -> tuple[str | None, Members] | Fault:
    """The route that `_server` in `params` names, and the params without it; never forwarded."""
    raw = params.get("_server")
    if raw is None:
        return None, params
    name = jsonrpc.text(raw)
    if not client.principal.local or name is None:
        return Fault(FaultKind.INVALID_PARAMS, "_server: not available here")
    return name, values.without(params, "_server")
