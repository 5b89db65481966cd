"""Tool definitions, as another revision can take them.

Owns: `outputSchema`, `execution` and the roots of schemas (protocol.md L5, L20), in lists of tools and in
sampling requests. Must never: normalise a schema beyond what the other revision's own schema demands (A24).
"""

from __future__ import annotations

from mcpgate_proto.mcp.content_blocks import Members, is_object
from mcpgate_proto.mcp.revisions import Revision
from mcpgate_proto.wire import jsonrpc, values
from mcpgate_proto.wire.jsonrpc import Raw

__all__ = ["down_tool", "up_tool", "with_support"]

# The schemas that say the same as `true` and `false`, for revisions that want an object here.
_ANYTHING = Raw(b"{}")
_NOTHING = Raw(b'{"not":{}}')


def down_tool(raw: Raw, revision: Revision) -> Raw:
    """A tool for a legacy peer of `revision`; the same object if nothing has to change."""
    tool = values.object_or_empty(raw)
    kept = tool
    output = tool.get("outputSchema")
    if output is not None and not (revision.structured_content and _is_object_schema(output)):
        kept = values.without(kept, "outputSchema")
    for name in ("inputSchema", "outputSchema"):
        schema = kept.get(name)
        if schema is not None:
            legacy = _object_properties(schema)
            if legacy is not schema:
                kept = {**kept, name: legacy}
    return raw if kept is tool else jsonrpc.encode_object(kept)


def up_tool(raw: Raw) -> Raw | None:
    """A legacy server's tool for a modern peer, None if its `inputSchema` is not that of an object (L20)."""
    tool = values.object_or_empty(raw)
    schema = tool.get("inputSchema")
    if schema is None or not _is_object_schema(schema):
        return None
    # Tasks are an extension there, and no tool declares them (L22).
    return jsonrpc.encode_object(values.without(tool, "execution")) if "execution" in tool else raw


def with_support(raw: Raw, support: str) -> Raw:
    """A tool for a legacy client, with the `execution.taskSupport` that holds on this hop ("" for none): the
    server's own means nothing to a client with whom no tasks were agreed (L22)."""
    if not support and b"execution" not in bytes(raw):
        return raw
    tool = values.object_or_empty(raw)
    execution = values.object_or_empty(tool.get("execution", values.EMPTY))
    if values.text_of(execution, "taskSupport") == (support or None):
        return raw
    execution.pop("taskSupport", None)
    if support:
        execution["taskSupport"] = jsonrpc.to_raw(support)
    rest = values.without(tool, "execution")
    if execution:
        rest["execution"] = jsonrpc.encode_object(execution)
    return jsonrpc.encode_object(rest)


def _is_object_schema(schema: Raw) -> bool:
    return values.text_of(values.object_or_empty(schema), "type") == "object"


def _object_properties(schema: Raw) -> Raw:
    """The schema with `true` and `false` under `properties` written as objects, as legacy schemas demand."""
    data = bytes(schema)
    if b"true" not in data and b"false" not in data:  # literals have no other spelling
        return schema
    members = values.object_or_empty(schema)
    raw = members.get("properties")
    if raw is None or not is_object(raw):
        return schema
    properties = values.object_or_empty(raw)
    told: Members = {name: _as_object(value) for name, value in properties.items()}
    if all(told[name] is value for name, value in properties.items()):
        return schema
    return jsonrpc.encode_object({**members, "properties": jsonrpc.encode_object(told)})


def _as_object(schema: Raw) -> Raw:
    value = jsonrpc.boolean(schema)
    return schema if value is None else _ANYTHING if value else _NOTHING
