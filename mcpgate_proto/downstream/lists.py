"""Pages of merged lists, with cursors that only their owner can use.

Owns: the slicing of a merged list and the sealed cursor (H19, H20).
Must never: serve a cursor of another principal, list or version of the list.
"""

from __future__ import annotations

import msgspec

from mcpgate_proto.hub import Hub
from mcpgate_proto.mcp import content
from mcpgate_proto.mcp.codes import Fault, FaultKind
from mcpgate_proto.mcp.revisions import REVISIONS, Era
from mcpgate_proto.relay.catalog import KINDS, Entry, Merged
from mcpgate_proto.relay.exchange import Client, Members
from mcpgate_proto.wire import jsonrpc
from mcpgate_proto.wire.jsonrpc import Raw

__all__ = ["LISTS", "page", "unseal_cursor"]

LISTS = {kind.method: kind.name for kind in KINDS.values()}


class _Cursor(msgspec.Struct, array_like=True):
    kind: str
    version: int
    offset: int


def unseal_cursor(hub: Hub, client: Client, params: Members) -> _Cursor | Fault | None:
    """The cursor in `params`, None when there is none, a fault (-32602) when it is not one of ours."""
    raw = params.get("cursor")
    if raw is None or raw == Raw(b"null"):
        return None
    told = jsonrpc.text(raw)
    bad = Fault(FaultKind.BAD_STATE, "the cursor is not valid (any more); start the list again")
    if told is None or len(told) > hub.limits.cursor_bytes:
        return bad
    payload = hub.sealer.open("cursor", client.principal.id, told, hub.wall)
    if payload is None:
        return bad
    try:
        return msgspec.msgpack.decode(payload, type=_Cursor)
    except msgspec.MsgspecError:
        return bad


def _spell(kind: str, revision: str, raw: Raw, entry: Entry, tasks: bool) -> Raw | None:
    """A definition for a client of `revision` (L5, L20); None leaves it out. `tasks`: those of 2025-11-25 are
    carried."""
    kind_of: content.ItemKind = kind  # type: ignore[assignment]
    target = REVISIONS[revision]
    if target.era is Era.LEGACY:
        found = content.down_item(kind_of, raw, target)
        support = entry.tasks if tasks and target.tasks else ""
        return content.with_support(found, support) if kind == "tools" else found
    return raw if entry.era is Era.MODERN else content.up_item(kind_of, raw)


def page(hub: Hub, client: Client, kind: str, merged: Merged, cursor: _Cursor | None) -> Members | Fault:
    """One page as result members: the items as this client's revision has them, and `nextCursor`."""
    tasks = hub.config.legacy_tasks
    spelled = merged.items.spelled(
        client.revision, lambda raw, entry: _spell(kind, client.revision, raw, entry, tasks)
    )
    offset = 0
    if cursor is not None:
        if cursor.kind != kind or cursor.version != merged.version:
            return Fault(FaultKind.BAD_STATE, "the list has changed; start it again")
        offset = cursor.offset
    size = hub.config.page_size
    items = spelled[offset : offset + size] if offset or len(spelled) > size else spelled
    result = {KINDS[kind].member: Raw(b"[" + b",".join(items) + b"]")}
    if offset + size < len(spelled):
        following = msgspec.msgpack.encode(_Cursor(kind, merged.version, offset + size))
        expires = hub.wall + hub.limits.cursor_ttl_s
        sealed = hub.sealer.seal("cursor", client.principal.id, following, expires)
        result["nextCursor"] = jsonrpc.to_raw(sealed)
    return result
