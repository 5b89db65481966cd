"""The merged tools, prompts, resources and templates, as one kind of client sees them.

A `View` belongs to one principal and era (and to one session where a server is isolated by session). It
holds a `Part` per server and kind: that server's own list, walked once over all pages and kept until the
server says that it changed or until its ttl. Tables over the parts answer "who owns this name" in O(1).

Owns: loading and keeping parts, the tables, the encoded merged lists.
Must never: let the order in which servers start decide anything (config order does); hold a peer's buffer.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from mcpgate_proto.hub import Hub
from mcpgate_proto.mcp import mirror, task_fields
from mcpgate_proto.mcp.codes import Fault
from mcpgate_proto.mcp.revisions import Era
from mcpgate_proto.relay import names, templates
from mcpgate_proto.relay.exchange import Client, Members
from mcpgate_proto.relay.ports import Server, ServerFace
from mcpgate_proto.security.policy import Policy
from mcpgate_proto.wire import jsonrpc, values
from mcpgate_proto.wire.jsonrpc import Raw

__all__ = ["KINDS", "Entry", "Kind", "Look", "Merged", "View"]


class Kind(msgspec.Struct, frozen=True):
    """One kind of primitive: how it is listed, and which member identifies it."""

    name: str
    method: str
    member: str
    identity: str
    capability: str


KINDS = {
    kind.name: kind
    for kind in (
        Kind("tools", "tools/list", "tools", "name", "tools"),
        Kind("prompts", "prompts/list", "prompts", "name", "prompts"),
        Kind("resources", "resources/list", "resources", "uri", "resources"),
        Kind("templates", "resources/templates/list", "resourceTemplates", "uriTemplate", "resources"),
    )
}
# How long the list of a legacy server that does not announce changes is taken as it is (H22: no hint exists).
SILENT_TTL_S = 60.0
# No list is worth keeping longer unseen, whatever a server says.
TTL_MOST_MS = 24 * 3600 * 1000


class Entry(msgspec.Struct, frozen=True):
    """One primitive of one server: `own` is its name or URI there, `plan` its mirrored headers."""

    server: str
    own: str
    raw: Raw
    era: Era
    plan: mirror.HeaderPlan | None = None
    template: templates.Template | None = None
    # Why it is shown to nobody, if so.
    withheld: str = ""
    # Of a tool whose server makes tasks of calls: "required" (2025-11-25), "optional"; else "" (L22).
    tasks: str = ""

    @property
    def needs_task(self) -> bool:
        return self.tasks == "required"


class Part:
    """One server's list of one kind."""

    __slots__ = (
        "entries",
        "failed",
        "fresh_until",
        "listed_at",
        "loaded",
        "loading",
        "outdated",
        "private",
        "ttl_s",
        "waiters",
    )

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.loaded = False  # once: the entries route, fresh or not
        self.failed = False
        self.loading = False
        self.outdated = False  # it changed while it was being read
        self.listed_at = 0.0
        self.fresh_until = 0.0
        self.ttl_s = 0.0
        self.private = True
        self.waiters: list[Callable[[], None]] = []


class Items:
    """The definitions of one merged list, and how each kind of client is shown them."""

    __slots__ = ("_spelled", "pairs")

    def __init__(self, pairs: list[tuple[Raw, Entry]]) -> None:
        # Each as it is named to clients, and as its server told of it.
        self.pairs = pairs
        self._spelled: dict[str, list[Raw]] = {}

    def spelled(self, revision: str, spell: Callable[[Raw, Entry], Raw | None]) -> list[Raw]:
        """The definitions as clients of `revision` see them; `spell` gives None to leave one out."""
        found = self._spelled.get(revision)
        if found is None:
            made = [spell(raw, entry) for raw, entry in self.pairs]
            found = self._spelled[revision] = [raw for raw in made if raw is not None]
        return found


class Merged(msgspec.Struct, frozen=True):
    """One merged list: encoded items, and the caching hints of the whole (H22)."""

    items: Items
    ttl_ms: int
    private: bool
    # Changes when the list does: a cursor into an older one is refused.
    version: int


class Table(msgspec.Struct, frozen=True):
    entries: dict[str, Entry]
    items: Items
    version: int
    # What rules or pins keep from this client, by the name it would have: for the log, never for an answer.
    hidden: dict[str, Entry]
    # Both, in the order of the config and of each server.
    every: list[Entry]


class View:
    """The catalog of one kind of client. See the head of this file."""

    def __init__(self, hub: Hub, client: Client, servers: dict[str, Server], policy: Policy) -> None:
        self.hub = hub
        self.client = client
        self.policy = policy
        self._servers = servers
        self._parts: dict[tuple[str, str], Part] = {}
        self._tables: dict[str, Table] = {}
        self.used_at = hub.now

    # -- parts

    def part(self, server: str, kind: str) -> Part:
        found = self._parts.get((server, kind))
        if found is None:
            found = self._parts[server, kind] = Part()
        return found

    def parts_of(self, server: str) -> list[Part]:
        return [part for (name, _), part in self._parts.items() if name == server and part.loaded]

    def stale(self, server: str, kind: str, *, outdated: bool = True) -> None:
        """The server says that this list changed; it is read again when somebody asks for it. `outdated`:
        what is being read just now may be older than that."""
        for name in ("resources", "templates") if kind == "resources" else (kind,):
            part = self._parts.get((server, name))
            if part is not None:
                part.fresh_until = 0.0
                part.outdated = part.outdated or (outdated and part.loading)

    def fresh(self, server: str, kind: str) -> bool:
        part = self._parts.get((server, kind))
        return part is not None and part.loaded and self.hub.now < part.fresh_until

    def overtaken(self, server: str, kind: str) -> bool:
        """Whether the definitions at hand must not be relied on: pins block, and the server has said that
        they changed."""
        part = self._parts.get((server, kind))
        return self.policy.pins.blocks(kind) and part is not None and part.loaded and part.fresh_until == 0.0

    def load(self, server: str, kind: str, done: Callable[[], None]) -> None:
        """Have the part read again; `done` is called once it is, or has failed."""
        if server not in self._servers:
            done()  # the config has changed since the caller looked
            return
        part = self.part(server, kind)
        part.waiters.append(done)
        if part.loading:
            return
        part.loading = True
        part.outdated = False
        Walk(self, self._servers[server], KINDS[kind], part)

    def loaded(self, server: Server, kind: Kind, part: Part, outcome: Walked | Fault) -> None:
        part.loading = False
        if isinstance(outcome, Fault):
            part.failed = True
            told = outcome.detail or outcome.message
            self.hub.emit("debug", "catalog_failed", server=server.name, kind=kind.name, reason=told)
        else:
            before = [entry.raw for entry in part.entries]
            part.failed = False
            part.loaded = True
            part.entries = outcome.entries
            part.ttl_s = outcome.ttl_s
            part.private = outcome.private
            part.listed_at = self.hub.now
            part.fresh_until = 0.0 if part.outdated else self.hub.now + outcome.keep_s
            if [entry.raw for entry in part.entries] != before:
                self._tables.pop(kind.name, None)
        waiters, part.waiters = part.waiters, []
        for waiter in waiters:
            waiter()

    # -- tables

    def table(self, kind: str) -> Table:
        found = self._tables.get(kind)
        if found is None:
            found = self._tables[kind] = self._build(KINDS[kind])
        return found

    def shows(self, kind: str, entry: Entry) -> bool:
        """Whether this client may see the entry."""
        rules = self.policy.rules
        return not entry.withheld and rules.lets(self.client.principal, entry.server, kind, entry.own)

    def reason(self, entry: Entry) -> str:
        """Why it may not, for the log."""
        return entry.withheld or "rules"

    def _build(self, kind: Kind) -> Table:
        entries: dict[str, Entry] = {}
        hidden: dict[str, Entry] = {}
        every: list[Entry] = []
        pairs: list[tuple[Raw, Entry]] = []
        version = self.hub.serial()
        for server in self._servers.values():
            part = self._parts.get((server.name, kind.name))
            if part is None:
                continue
            every += part.entries
            for entry in part.entries:
                name = self._shown(server, kind, entry.own)
                if not self.shows(kind.name, entry):
                    hidden.setdefault(name, entry)  # it takes its name from nobody
                    continue
                if name in entries:
                    if kind.identity == "name":
                        self.hub.count("catalog_collisions")
                        continue
                    # Config order decides who owns a URI; the other one is readable in its prefixed form.
                    name = names.prefixed_uri(server.name, entry.own)
                    if name in entries:
                        continue
                entries[name] = entry
                pairs.append((_renamed(entry.raw, kind.identity, entry.own, name), entry))
        return Table(entries, Items(pairs), version, hidden, every)

    def _shown(self, server: Server, kind: Kind, own: str) -> str:
        if kind.identity != "name":
            return own
        for rename in self.policy.rules.renames(self.client.principal, server.name):
            found = names.renamed(own, rename)
            if found is not None:
                return found
        config = self.hub.config
        many = len(config.servers) > 1
        prefixed = not config.transparent and (
            config.prefix == "always" or (config.prefix == "auto" and many)
        )
        return names.shown_name(
            server.name, own, prefixed=prefixed, rename=server.config.rename, chars=config.name_chars
        )

    # -- merged lists

    def merged_list(self, kind: str, done: Callable[[Merged], None]) -> None:
        """The merged list, as soon as every server has answered or the wait for slow ones is over."""
        self.used_at = self.hub.now
        stale = [
            name
            for name, server in self._servers.items()
            if server.config.enabled and not self.fresh(name, kind)
        ]
        if stale:
            Look(self, kind, stale, lambda: False, lambda: done(self.merged(kind)))
        else:
            done(self.merged(kind))

    def merged(self, kind: str) -> Merged:
        table = self.table(kind)
        ttl_s: float | None = None
        private = self.policy.rules.personal
        for name, server in self._servers.items():
            if not server.config.enabled:
                continue
            part = self.part(name, kind)
            if not part.loaded or part.failed:
                ttl_s = 0.0
                private = True
                continue
            left = max(0.0, part.ttl_s - (self.hub.now - part.listed_at))  # H24: the ttl has aged
            ttl_s = left if ttl_s is None else min(ttl_s, left)
            private = private or part.private
        return Merged(table.items, int((ttl_s or 0.0) * 1000), private, table.version)


class Look:
    """One wait for lists that are read first: over when it is `found`, when all servers have answered, or
    when a client has waited long enough for those that are slow."""

    def __init__(
        self, view: View, kind: str, servers: list[str], found: Callable[[], bool], done: Callable[[], None]
    ) -> None:
        self._left = len(servers)
        self._found = found
        self._done: Callable[[], None] | None = done
        self._timer = view.hub.after(view.hub.limits.startup_wait_s, "look-up", self._finish)
        for server in servers:
            view.load(server, kind, self._one)

    def _one(self) -> None:
        self._left -= 1
        if self._done is not None and (not self._left or self._found()):
            self._finish()

    def _finish(self) -> None:
        done, self._done = self._done, None
        self._timer.cancel()
        if done is not None:
            done()


class Walked(msgspec.Struct, frozen=True):
    entries: list[Entry]
    ttl_s: float
    keep_s: float
    private: bool


class Walk:
    """Reads one list of one server over all its pages (bounded; a repeated cursor stops)."""

    def __init__(self, view: View, server: Server, kind: Kind, part: Part) -> None:
        self._view = view
        self._server = server
        self._kind = kind
        self._part = part
        self._entries: list[Entry] = []
        self._bytes = 0
        self._seen: dict[str, None] = {}
        self._cursors: dict[bytes, None] = {}
        self._ttl_s: float | None = None
        self._private = False
        self._declared: Members = {}
        self._era = Era.LEGACY
        self._makes_tasks = False
        server.prepare(view.client, self._ready)

    def _ready(self, face: ServerFace | Fault) -> None:
        if isinstance(face, Fault):
            self._view.loaded(self._server, self._kind, self._part, face)
            return
        self._era = face.era
        self._makes_tasks = face.makes_tasks
        declared = face.capabilities.get(self._kind.capability)
        if declared is None:
            # Nothing of the kind: an empty list that stays so for this session of the server.
            self._view.loaded(self._server, self._kind, self._part, Walked([], 0.0, float("inf"), False))
            return
        self._declared = values.object_or_empty(declared)
        self._next({})

    def _next(self, params: Members) -> None:
        self._server.ask(self._view.client, self._kind.method, params, self._page)

    def _page(self, answer: Members | Fault) -> None:
        limits = self._view.hub.limits
        if isinstance(answer, Fault):
            self._view.loaded(self._server, self._kind, self._part, answer)
            return
        for raw in values.items(answer.get(self._kind.member, Raw(b"[]"))) or []:
            self._add(raw)
        self._hints(answer)
        cursor = answer.get("nextCursor")
        # H19: only presence counts; "" is a cursor.
        more = cursor is not None and cursor != Raw(b"null") and bytes(cursor) not in self._cursors
        within = len(self._entries) < limits.catalog_items and self._bytes < limits.catalog_bytes
        if more and len(self._cursors) < limits.catalog_pages and within:
            assert cursor is not None
            self._cursors[bytes(cursor)] = None
            self._next({"cursor": jsonrpc.detach(cursor)})
            return
        self._finish()

    def _hints(self, answer: Members) -> None:
        ttl_ms = jsonrpc.integer(answer["ttlMs"]) if "ttlMs" in answer else None
        ttl_s = min(max(0, ttl_ms or 0), TTL_MOST_MS) / 1000
        self._ttl_s = ttl_s if self._ttl_s is None else min(self._ttl_s, ttl_s)
        if values.text_of(answer, "cacheScope") != "public":
            self._private = True

    def _add(self, raw: Raw) -> None:
        """One definition, detached from the peer's buffer. A broken one is left out and named."""
        kind = self._kind
        try:
            own = values.text_of(jsonrpc.members(raw), kind.identity)
        except jsonrpc.JsonFault:
            own = None
        limits = self._view.hub.limits
        self._bytes += len(bytes(raw))
        full = len(self._entries) >= limits.catalog_items or self._bytes > limits.catalog_bytes
        if own is None or own in self._seen or full:
            self._view.hub.count("catalog_items_dropped")
            return
        plan = None
        if kind.name == "tools":
            compiled = mirror.compile_plan(values.object_or_empty(raw).get("inputSchema", values.EMPTY))
            if isinstance(compiled, mirror.PlanFault):
                if self._era is Era.MODERN:
                    # D4, H9: over HTTP such a tool has to go, and is never shown again on an HTTP face.
                    self._view.hub.emit(
                        "warning",
                        "tool_dropped",
                        server=self._server.name,
                        tool=own[:128],
                        reason=compiled.reason,
                    )
                    return
            else:
                plan = compiled
        template = templates.Template.compile(own) if kind.name == "templates" else None
        self._seen[own] = None
        screened = self._view.policy.screen(self._server.name, kind.name, own, raw)
        shown, withheld = jsonrpc.detach(screened.raw), screened.withheld
        tasks = self._tasks(raw) if kind.name == "tools" and self._makes_tasks else ""
        self._entries.append(Entry(self._server.name, own, shown, self._era, plan, template, withheld, tasks))

    def _tasks(self, tool: Raw) -> str:
        """Whether calls of it become tasks: with the extension the server decides as it likes."""
        told = task_fields.support(tool) if self._era is Era.LEGACY else "optional"
        return "" if told == "forbidden" else told

    def _finish(self) -> None:
        ttl_s = self._ttl_s or 0.0
        if self._era is Era.MODERN:
            keep_s = ttl_s
        elif self._declared.get("listChanged") == Raw(b"true"):
            keep_s = float("inf")
        else:
            keep_s = SILENT_TTL_S
        walked = Walked(self._entries, ttl_s, keep_s, self._private)
        self._view.loaded(self._server, self._kind, self._part, walked)


def _renamed(raw: Raw, identity: str, own: str, shown: str) -> Raw:
    """The definition under the name it is shown by: written out again from the parsed members (rule 2)."""
    if own == shown:
        return raw
    members = jsonrpc.members(raw)
    members[identity] = jsonrpc.to_raw(shown)
    return jsonrpc.encode_object(members)
