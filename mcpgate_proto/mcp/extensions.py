"""Extensions: which of them the gateway carries from hop to hop, and between whom.

Owns: the ids that have rules of their own, `carried` (what of a peer's `capabilities.extensions` may be told
to the other hop: L0.2, N1, N2, N9), `merged` (what several servers declare, as one declaration).
Must never: put an extension into a declaration that its peer did not make, or look into its settings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from mcpgate_proto.mcp.revisions import Revision
from mcpgate_proto.wire import jsonrpc, values
from mcpgate_proto.wire.jsonrpc import Raw

__all__ = [
    "MEMBER",
    "TASKS",
    "TASKS_NEEDED",
    "UI",
    "UI_SCHEME",
    "carried",
    "declared",
    "having",
    "merged",
    "of_lists",
    "ui_resource",
]

MEMBER = "extensions"
TASKS = "io.modelcontextprotocol/tasks"
UI = "io.modelcontextprotocol/ui"
UI_SCHEME = "ui://"

# Of one hop only: they tell how this client proves who it is to us (N9).
_HOP_LOCAL = frozenset(
    {
        "io.modelcontextprotocol/oauth-client-credentials",
        "io.modelcontextprotocol/enterprise-managed-authorization",
    }
)
# N1: a key of `_meta` with a mandatory prefix (A16).
_LABEL = r"[A-Za-z](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_ID = re.compile(rf"{_LABEL}(?:\.{_LABEL})*/[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?")
_ID_CHARS = 128
# What a client has to declare for tasks (-32021).
TASKS_NEEDED = jsonrpc.to_raw({MEMBER: {TASKS: {}}})


def declared(capabilities: dict[str, Raw]) -> dict[str, Raw]:
    """The extensions in a capabilities object: id -> settings. Anything malformed is not there."""
    told = capabilities.get(MEMBER)
    if told is None:
        return {}
    found = values.object_or_empty(told)
    return {
        name: settings
        for name, settings in found.items()
        if len(name) <= _ID_CHARS and _ID.fullmatch(name) and bytes(settings)[:1] == b"{"
    }


def carried(capabilities: dict[str, Raw], revision: Revision, *, transparent: bool) -> dict[str, Raw]:
    """Of what a peer of `revision` declares, that which may be told to a peer of the same era; sorted.

    UI is metadata on what is carried anyway (N6); tasks are one where the revision has extensions (L22: never
    at 2025-11-25). What nobody here understands passes only where one server is seen as it is (N2).
    """
    if MEMBER not in capabilities:
        return {}
    kept = {}
    for name, settings in sorted(declared(capabilities).items()):
        if name == TASKS:
            known = revision.extensions
        else:
            known = name == UI or (transparent and name not in _HOP_LOCAL)
        if known:
            kept[name] = settings
    return kept


def having(capabilities: Raw, name: str) -> Raw:
    """A capabilities object in which the extension `name` is declared as well."""
    told = values.object_or_empty(capabilities)
    listed = values.object_or_empty(told.get(MEMBER, values.EMPTY))
    listed.setdefault(name, values.EMPTY)
    return jsonrpc.encode_object({**told, MEMBER: jsonrpc.encode_object(listed)})


def of_lists(capabilities: Raw) -> Raw:
    """The part of a client's capabilities by which a server's lists may vary (N8), as capabilities."""
    if b"extensions" not in bytes(capabilities):
        return values.EMPTY
    listed = declared(values.object_or_empty(capabilities))
    listed.pop(TASKS, None)
    return jsonrpc.encode_object({MEMBER: jsonrpc.encode_object(listed)}) if listed else values.EMPTY


def merged(parts: Iterable[dict[str, Raw]]) -> dict[str, Raw]:
    """What several servers declare, as one declaration: of two settings the first stands (config order)."""
    found: dict[str, Raw] = {}
    for part in parts:
        for name, settings in part.items():
            found.setdefault(name, settings)
    return dict(sorted(found.items()))


def ui_resource(tool: Raw) -> str | None:
    """The `ui://` resource that a tool refers to (N5), in the form of today or the older flat one."""
    if b"ui://" not in bytes(tool):
        return None
    told = values.object_or_empty(values.object_or_empty(tool).get("_meta", values.EMPTY))
    return values.text_of(
        values.object_or_empty(told.get("ui", values.EMPTY)), "resourceUri"
    ) or values.text_of(told, "ui/resourceUri")
