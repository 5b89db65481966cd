"""The published revisions of MCP, and what each of them has.

Owns: one table, `REVISIONS`; every "if this revision" of the gateway reads from it. Must never: hold
behaviour beyond `negotiate`, or name a revision that is not published.
"""

from __future__ import annotations

import enum

import msgspec

__all__ = [
    "LATEST_LEGACY",
    "LEGACY_VERSIONS",
    "MODERN",
    "MODERN_VERSIONS",
    "REVISIONS",
    "Era",
    "Revision",
    "negotiate",
]


class Era(enum.Enum):
    """LEGACY begins with the `initialize` handshake; MODERN is stateless."""

    LEGACY = "legacy"
    MODERN = "modern"


class Revision(msgspec.Struct, frozen=True, kw_only=True):
    """One revision: its version string, its era and what it has.

    What most legacy revisions have defaults to true, what came later to false.
    """

    version: str
    era: Era = Era.LEGACY

    # -- transport
    # Receiving JSON-RPC arrays is mandatory (A9); only 2025-03-26 has them.
    batches: bool = False
    # Streamable HTTP exists; before it there was HTTP+SSE (E1).
    streamable_http: bool = True
    # `Mcp-Session-Id`, the GET stream, DELETE and `Last-Event-ID` on it (C27-C33; gone in modern, C25).
    http_sessions: bool = True
    # `MCP-Protocol-Version` goes on every request after the handshake (C35, C10).
    version_header: bool = False
    # A stream begins with an event that has an id and empty data (C34).
    priming_events: bool = False
    # `Mcp-Method`, `Mcp-Name` and `Mcp-Param-*` mirror the body (C15-C17).
    mirrored_headers: bool = False
    # An error reply whose id could not be read may go without one in the schema (A7).
    idless_errors: bool = False

    # -- shape of the conversation
    # Server requests travel as requests of their own (I1); modern has `input_required` results instead.
    server_requests: bool = True
    # `notifications/roots/list_changed` and `roots.listChanged` (I3).
    roots_list_changed: bool = True
    # `ping` and `logging/setLevel` and `resources/subscribe` exist (C12 lists what modern removed).
    session_methods: bool = True
    # Every result has `resultType` (A25).
    result_type: bool = False
    # `ttlMs` and `cacheScope` on lists, reads and discovery (H21).
    cache_hints: bool = False
    # Capabilities, identity and log level travel in each request's `_meta` (F8, H18).
    request_meta: bool = False
    # `capabilities.extensions` is part of the schema (N1).
    extensions: bool = False

    # -- features
    # `message` in progress notifications (L5).
    progress_message: bool = False
    # The `completions` server capability (H17); 2024-11-05 has the method without it.
    completions_capability: bool = False
    # `context.arguments` in `completion/complete` (H17).
    completion_context: bool = False
    # Audio content blocks (L5).
    audio: bool = False
    # `resource_link` content blocks (L5).
    resource_links: bool = False
    # `structuredContent` and `outputSchema`, objects only (L5, H7).
    structured_content: bool = False
    # `structuredContent` of any JSON type, any root of `outputSchema` (L5).
    structured_any: bool = False
    # `elicitation/create`, the form kind (I6).
    elicitation: bool = False
    # Multi-select, titled options, defaults for strings and numbers in forms (I6).
    elicitation_rich: bool = False
    # The `mode` field and the URL kind (I6).
    elicitation_url: bool = False
    # `elicitationId`, `notifications/elicitation/complete` and error -32042 (I6, A15).
    elicitation_ids: bool = False
    # Tools, tool choice and content arrays in sampling (L5, I11).
    sampling_tools: bool = False
    # Tasks in the core protocol, with `execution.taskSupport` (L22); modern has an extension for them.
    tasks: bool = False
    # A tool's complaint about bad arguments is an `isError` result and no protocol error (H5).
    argument_faults_in_result: bool = False


_TABLE = (
    Revision(version="2024-11-05", streamable_http=False, http_sessions=False),
    Revision(
        version="2025-03-26",
        batches=True,
        progress_message=True,
        completions_capability=True,
        audio=True,
    ),
    Revision(
        version="2025-06-18",
        version_header=True,
        progress_message=True,
        completions_capability=True,
        completion_context=True,
        audio=True,
        resource_links=True,
        structured_content=True,
        elicitation=True,
    ),
    Revision(
        version="2025-11-25",
        version_header=True,
        priming_events=True,
        idless_errors=True,
        progress_message=True,
        completions_capability=True,
        completion_context=True,
        audio=True,
        resource_links=True,
        structured_content=True,
        elicitation=True,
        elicitation_rich=True,
        elicitation_url=True,
        elicitation_ids=True,
        sampling_tools=True,
        tasks=True,
        argument_faults_in_result=True,
    ),
    Revision(
        version="2026-07-28",
        era=Era.MODERN,
        http_sessions=False,
        version_header=True,
        mirrored_headers=True,
        idless_errors=True,
        server_requests=False,
        roots_list_changed=False,
        session_methods=False,
        result_type=True,
        cache_hints=True,
        request_meta=True,
        extensions=True,
        progress_message=True,
        completions_capability=True,
        completion_context=True,
        audio=True,
        resource_links=True,
        structured_content=True,
        structured_any=True,
        elicitation=True,
        elicitation_rich=True,
        elicitation_url=True,
        sampling_tools=True,
        argument_faults_in_result=True,
    ),
)

# Oldest first.
REVISIONS: dict[str, Revision] = {revision.version: revision for revision in _TABLE}

# What a handshake offers first (F1), and what it falls back to (F2, C42).
LATEST_LEGACY = "2025-11-25"
# What a stateless request names.
MODERN = "2026-07-28"

# Newest first, as they are offered.
LEGACY_VERSIONS: tuple[str, ...] = tuple(r.version for r in reversed(_TABLE) if r.era is Era.LEGACY)
MODERN_VERSIONS: tuple[str, ...] = tuple(r.version for r in reversed(_TABLE) if r.era is Era.MODERN)


def negotiate(asked: str) -> str:
    """The version with which to answer an `initialize` that asks for `asked`.

    A legacy version is confirmed; anything else, a modern one too, gets the newest legacy one: the handshake
    cannot select a stateless revision, and an unknown version is no error (F2, C42).
    """
    return asked if asked in LEGACY_VERSIONS else LATEST_LEGACY
