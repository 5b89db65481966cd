"""The middle: from what a client asks to the server that answers it.

Owns: the servers in config order, the views, the routing of names and URIs (`resolve` decides before a
face accepts), the merged capabilities and instructions, the fan-in of changes, the live exchanges.
Must never: know a revision's wire, or ask which era a client or server speaks, but to keep extensions among
peers of one era.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import msgspec

from mcpgate_proto.hub import Hub
from mcpgate_proto.mcp import codes, extensions, meta
from mcpgate_proto.mcp.codes import Fault, FaultKind
from mcpgate_proto.mcp.revisions import REVISIONS, Era
from mcpgate_proto.relay import names
from mcpgate_proto.relay.catalog import Entry, Merged, View
from mcpgate_proto.relay.exchange import Caller, Client, Exchange, Members, Operation, Route
from mcpgate_proto.relay.ports import Server, ServerFace
from mcpgate_proto.relay.subscriptions import Interests
from mcpgate_proto.relay.tasks import TaskIds
from mcpgate_proto.timers import Timer
from mcpgate_proto.wire import jsonrpc, values
from mcpgate_proto.wire.jsonrpc import Raw

__all__ = ["Profile", "Relay", "Routed"]

Routed = Callable[[Route | Fault], None]

NAMED = {"tools/call": "tools", "prompts/get": "prompts"}
BY_URI = ("resources/read",)
# What a session or a stateless client may call that goes to one server.
ROUTED = (*NAMED, *BY_URI, "completion/complete")
EVERYTHING: dict[str, object] = {
    "completions": {},
    "logging": {},
    "prompts": {"listChanged": True},
    "resources": {"listChanged": True, "subscribe": True},
    "tools": {"listChanged": True},
}
VIEWS = 1024
# So many declarations of one kind of client have lists of their own (N8); others share the plain ones.
VARIANTS = 8
# What a server answers when it has something to say, however late (1125 tasks, L22).
PATIENT = ("tasks/result",)


class Profile(msgspec.Struct, frozen=True):
    """What the gateway declares to a client: capabilities as an encoded object, and instructions."""

    capabilities: dict[str, Raw]
    instructions: str


class Relay:
    """See the head of this file. Implements `relay.ports.ServerListener`."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.servers: dict[str, Server] = {}
        self.interests = Interests(hub)
        self.tasks = TaskIds(hub)
        self.live: dict[Exchange, None] = {}
        # By principal, era, owner, and what is declared when lists are read.
        self._views: dict[tuple[str, str, str, bytes], View] = {}
        self._refreshed: dict[tuple[str, str], float] = {}
        # Servers that cannot tell of changes: their lists are read again by their ttl.
        self._polling: dict[str, Timer] = {}

    def add(self, server: Server) -> None:
        self.servers[server.name] = server

    def forget_servers(self) -> None:
        """Before the servers of a changed config are added."""
        self.servers.clear()
        for timer in self._polling.values():
            timer.cancel()
        self._polling.clear()
        self._views.clear()
        self._refreshed.clear()

    @property
    def transparent(self) -> Server | None:
        """The one server that clients see as it is (`run`, `connect`)."""
        if self.hub.config.transparent and len(self.servers) == 1:
            return next(iter(self.servers.values()))
        return None

    def view(self, client: Client) -> View:
        owner = client.key if any(s.config.isolation == "session" for s in self.servers.values()) else ""
        told = extensions.of_lists(client.capabilities)
        key = (client.principal.id, client.era.value, owner, bytes(told))
        found = self._views.get(key)
        if found is not None:
            found.used_at = self.hub.now
        else:
            if told != values.EMPTY and sum(1 for one in self._views if one[:3] == key[:3]) > VARIANTS:
                return self.view(msgspec.structs.replace(client, capabilities=values.EMPTY))
            if len(self._views) >= VIEWS:
                oldest = min(self._views, key=lambda one: self._views[one].used_at)
                del self._views[oldest]
            plain = msgspec.structs.replace(
                client, capabilities=told, profile=values.EMPTY, features=False, audience=None
            )
            servers = self.servers
            if told != values.EMPTY:
                servers = {name: cast(Server, Telling(one)) for name, one in servers.items()}
            found = self._views[key] = View(self.hub, plain, servers)
        return found

    def client_gone(self, client: Client) -> None:
        """Nothing of a session's own is kept after it."""
        for key in [key for key in self._views if client.key and client.key in key]:
            del self._views[key]
        for server in self.servers.values():
            server.client_gone(client)

    # -- what clients are told of the gateway

    def profile(self, client: Client, done: Callable[[Profile], None]) -> None:
        """Merged capabilities and instructions, once every server is up, down, or too slow to wait for."""
        waiting = [
            server
            for server in self.servers.values()
            if server.config.enabled and server.face(client) is None and server.status().state != "down"
        ]
        left = len(waiting)
        if not left:
            done(self._profile(client))
            return

        def one(face: ServerFace | Fault) -> None:
            nonlocal left
            left -= 1
            if not left:
                done(self._profile(client))

        for server in waiting:
            server.prepare(client, one)  # bounded by startup_wait_s

    def _profile(self, client: Client) -> Profile:
        limits = self.hub.limits
        only = self.transparent
        face = only.face(client) if only is not None else None
        if face is not None:
            kept = {
                name: raw for name, raw in face.capabilities.items() if name not in ("tasks", "extensions")
            }
            for name in ("tools", "prompts", "resources"):
                if name in kept:
                    # Lists may change whenever the server is started again.
                    kept[name] = jsonrpc.encode_object(
                        {**values.object_or_empty(kept[name]), "listChanged": Raw(b"true")}
                    )
            kept |= {**self._extensions(client), **self._legacy_tasks(client)}
            return Profile(kept, face.instructions[: limits.instructions_bytes])
        told: list[str] = []
        for server in self.servers.values():
            one = server.face(client) if server.config.enabled else None
            if one is not None and one.instructions:
                # G4, K13: labelled, bounded; it is the server's text, not ours.
                told.append(f"[{server.name}]\n{one.instructions}")
        text = "\n\n".join(told)[: limits.instructions_bytes]
        # F6: servers come and go, and a legacy client cannot be told of new capabilities.
        everything = {name: jsonrpc.to_raw(value) for name, value in EVERYTHING.items()}
        return Profile({**everything, **self._extensions(client), **self._legacy_tasks(client)}, text)

    def _extensions(self, client: Client) -> Members:
        """What servers of the client's era declare and the gateway carries (N2): a member of capabilities."""
        parts = []
        for server in self.servers.values():
            face = server.face(client) if server.config.enabled else None
            if face is not None and face.era is client.era:
                parts.append(self.carried(face.capabilities, client.revision))
        found = extensions.merged(parts)
        return {extensions.MEMBER: jsonrpc.encode_object(found)} if found else {}

    def makes_tasks(self, client: Client, server: str) -> bool:
        """Whether `server` makes tasks of calls as 2025-11-25 has them, and this client may ask for that."""
        if not self.hub.config.legacy_tasks or not REVISIONS[client.revision].tasks:
            return False
        known = self.servers.get(server)
        face = known.face(client) if known is not None and known.config.enabled else None
        if face is None or face.era is not Era.LEGACY:
            return False
        told = values.object_or_empty(face.capabilities.get("tasks", values.EMPTY))
        requests = values.object_or_empty(told.get("requests", values.EMPTY))
        return "call" in values.object_or_empty(requests.get("tools", values.EMPTY))

    def _legacy_tasks(self, client: Client) -> Members:
        """The tasks of 2025-11-25 as a member of capabilities; their list is not offered (L22)."""
        if not any(self.makes_tasks(client, name) for name in self.servers):
            return {}
        return {"tasks": jsonrpc.to_raw({"cancel": {}, "requests": {"tools": {"call": {}}}})}

    def carried(self, capabilities: Members, revision: str) -> Members:
        """The extensions in a peer's capabilities that may be told to the other hop."""
        return extensions.carried(capabilities, REVISIONS[revision], transparent=self.transparent is not None)

    def has_tasks(self, client: Client) -> bool:
        """Whether a server of this client has tasks as an extension, or may have them (G2)."""
        for server in self.servers.values():
            if not server.config.enabled:
                continue
            face = server.face(client)
            if face is None or (
                face.era is Era.MODERN and extensions.TASKS in extensions.declared(face.capabilities)
            ):
                return True
        return False

    def declares(self, client: Client, capability: str) -> bool:
        """Whether the gateway offers `capability` to this client (G2)."""
        only = self.transparent
        face = only.face(client) if only is not None else None
        return face is None or capability in face.capabilities

    # -- lists

    def merged(self, kind: str, client: Client, done: Callable[[Merged], None]) -> None:
        self.view(client).merged_list(kind, done)

    # -- routing

    def resolve(
        self, method: str, params: Members, client: Client, done: Routed, *, plan: bool = False
    ) -> None:
        """Where a request goes, or why it cannot. `plan`: the tool's mirrored headers must be known (C17)."""
        if method in NAMED:
            name = values.text_of(params, "name")
            if name is None:
                done(Fault(FaultKind.INVALID_PARAMS, "params.name is missing or not a string"))
            elif not values.is_object(params.get("arguments", values.EMPTY)):
                done(Fault(FaultKind.INVALID_PARAMS, "params.arguments is not an object"))
            else:
                self._resolve_name(NAMED[method], name, params, client, done, plan and method == "tools/call")
        elif method in BY_URI:
            uri = values.text_of(params, "uri")
            if uri is None:
                done(Fault(FaultKind.INVALID_PARAMS, "params.uri is missing or not a string"))
            else:
                self.resolve_uri(uri, client, lambda found: done(_with_uri(found, params)))
        elif method == "completion/complete":
            self._resolve_reference(params, client, done)
        else:
            done(codes.method_not_found(method))

    def explicit(self, name: str, params: Members) -> Route | Fault:
        """The `_server` member: the server is named, the params are its own."""
        server = self.servers.get(name)
        if server is None or not server.config.enabled:
            return Fault(FaultKind.INVALID_PARAMS, f"_server: there is no enabled server '{name[:64]}'")
        return Route(name, params)

    def _resolve_name(
        self, kind: str, name: str, params: Members, client: Client, done: Routed, plan: bool
    ) -> None:
        view = self.view(client)
        entry = view.table(kind).entries.get(name)
        if entry is not None:
            done(_to(entry, params))
            return
        only = self.transparent
        if only is not None and not (plan and not view.part(only.name, kind).loaded):
            # It is its own judge of names; the list may not have been read, or not have everything.
            done(Route(only.name, params))
            return

        def looked() -> None:
            found = view.table(kind).entries.get(name)
            if found is not None:
                done(_to(found, params))
            elif only is not None:
                done(Route(only.name, params))
            else:
                done(codes.unknown_name("tool" if kind == "tools" else "prompt", name))

        known = lambda: name in view.table(kind).entries  # noqa: E731
        self._look(view, kind, self._candidates(name), known, looked)

    def _candidates(self, name: str) -> list[str]:
        """The servers that may know a name that the tables do not: by its prefix, else any of them."""
        split = names.split_prefix(name, self.servers)
        known = [split[0]] if split is not None else list(self.servers)
        return [one for one in known if self.servers[one].config.enabled]

    def _look(
        self, view: View, kind: str, servers: list[str], found: Callable[[], bool], done: Callable[[], None]
    ) -> None:
        """Read lists that are not at hand; one that is fresh is not read again for a mere wrong name, and
        a stale one not more often than `unknown_name_refresh_s`."""
        wanted = []
        for server in servers:
            part = view.part(server, kind)
            last = self._refreshed.get((server, kind))
            due = last is None or self.hub.now - last >= self.hub.limits.unknown_name_refresh_s
            if not part.loaded or part.loading or (due and not view.fresh(server, kind)):
                wanted.append(server)
                self._refreshed[server, kind] = self.hub.now
        if wanted:
            Look(view, kind, wanted, found, done)
        else:
            done()

    def resolve_uri(self, uri: str, client: Client, done: Routed) -> None:
        """Who owns a URI: by the lists, the templates, the prefixed form (H13)."""
        only = self.transparent
        if only is not None:
            done(Route(only.name, {"uri": jsonrpc.to_raw(uri)}))
            return
        view = self.view(client)
        found = self._owner(view, uri)
        if found is not None:
            done(found)
            return

        def looked() -> None:
            done(
                self._owner(view, uri)
                or self._only_server_with_resources(view, uri)
                or codes.resource_not_found(uri)
            )

        servers = [name for name, server in self.servers.items() if server.config.enabled]
        known = lambda: self._owner(view, uri) is not None  # noqa: E731
        last = looked
        if uri.startswith(extensions.UI_SCHEME):
            last = lambda: self._look(view, "tools", servers, known, looked)  # noqa: E731
        more = lambda: self._look(view, "templates", servers, known, last)  # noqa: E731
        self._look(view, "resources", servers, known, more)

    def _owner(self, view: View, uri: str) -> Route | None:
        entry = view.table("resources").entries.get(uri)
        if entry is not None:
            return Route(entry.server, {"uri": jsonrpc.to_raw(entry.own)})
        split = names.split_uri(uri, self.servers)
        if split is not None:
            return Route(split[0], {"uri": jsonrpc.to_raw(split[1])})
        if uri.startswith(extensions.UI_SCHEME):
            # N6: it need not be listed; the tool that refers to it tells whose it is.
            for entry in view.table("tools").entries.values():
                if extensions.ui_resource(entry.raw) == uri:
                    return Route(entry.server, {"uri": jsonrpc.to_raw(uri)})
        for entry in view.table("templates").entries.values():
            if entry.template is not None and entry.template.matches(uri):
                return Route(entry.server, {"uri": jsonrpc.to_raw(uri)})
        return None

    def _only_server_with_resources(self, view: View, uri: str) -> Route | None:
        """Links may point at what was never listed (H13): with one candidate there is no doubt."""
        having = []
        for name, server in self.servers.items():
            face = server.face(view.client) if server.config.enabled else None
            if face is not None and "resources" in face.capabilities:
                having.append(name)
        return Route(having[0], {"uri": jsonrpc.to_raw(uri)}) if len(having) == 1 else None

    def _resolve_reference(self, params: Members, client: Client, done: Routed) -> None:
        """`completion/complete` goes to the owner of what it refers to (H17)."""
        ref = values.object_or_empty(params.get("ref", values.EMPTY))
        kind, name, uri = values.text_of(ref, "type"), values.text_of(ref, "name"), values.text_of(ref, "uri")
        only = self.transparent
        if only is not None:
            done(Route(only.name, params))
        elif kind == "ref/prompt" and name is not None:

            def routed(found: Route | Fault) -> None:
                if isinstance(found, Route):
                    own = jsonrpc.encode_object({**ref, "name": found.params["name"]})
                    found = Route(found.server, {**params, "ref": own})
                done(found)

            self._resolve_name("prompts", name, {"name": ref["name"]}, client, routed, False)
        elif kind == "ref/resource" and uri is not None:
            self._resolve_template(uri, params, ref, client, done)
        else:
            done(Fault(FaultKind.INVALID_PARAMS, "params.ref names neither a prompt nor a resource"))

    def _resolve_template(
        self, uri: str, params: Members, ref: Members, client: Client, done: Routed
    ) -> None:
        view = self.view(client)

        def looked() -> None:
            entry = view.table("templates").entries.get(uri)
            if entry is not None:
                own = jsonrpc.encode_object({**ref, "uri": jsonrpc.to_raw(entry.own)})
                done(Route(entry.server, {**params, "ref": own}))
            else:
                self.resolve_uri(uri, client, lambda found: done(_with_reference(found, params, ref)))

        servers = [name for name, server in self.servers.items() if server.config.enabled]
        self._look(view, "templates", servers, lambda: uri in view.table("templates").entries, looked)

    # -- exchanges

    def watch_again(self, servers: set[str]) -> None:
        """After a change of the config: what clients watch on servers that were made anew."""
        for interest in self.interests:
            for name, own in interest.uris.values():
                server = self.servers.get(name) if name in servers else None
                if server is not None:
                    server.watch(interest.client, own, lambda fault: None)

    def unwatch(self, server: str, client: Client, uri: str) -> None:
        """End a watch; the server may have gone from the config meanwhile."""
        known = self.servers.get(server)
        if known is not None:
            known.unwatch(client, uri)

    def start(self, operation: Operation, route: Route, caller: Caller) -> Exchange:
        """Send an operation on its way. Its outcome may come before this returns."""
        server = self.servers.get(route.server)
        operation.params = route.params
        operation.plan = route.plan
        idle_s = server.config.timeout if server is not None else 0.0
        if operation.method in PATIENT:
            idle_s = self.hub.limits.call_ceiling_s
        exchange = Exchange(self.hub, operation, caller, idle_s, self.live)
        if server is None:
            exchange.lost(False)  # the config has changed since it was routed
        elif len(self.live) > self.hub.limits.calls:
            exchange.fail(Fault(FaultKind.OVERLOADED, "too many calls are in flight"))
        else:
            self.hub.count("calls")
            exchange.server = server.name
            server.place(exchange)
        return exchange

    def replan(self, server: str, operation: Operation, done: Callable[[], None]) -> None:
        """D5: the server saw other headers than its definition of the tool demands: read it again."""
        view = self.view(operation.client)

        def loaded() -> None:
            own = values.text_of(operation.params, "name")
            found = [entry for entry in view.part(server, "tools").entries if entry.own == own]
            operation.plan = found[0].plan if found else None
            done()

        view.load(server, "tools", loaded)

    # -- what servers tell

    def catalog_changed(self, server: str, principal: str | None, kind: str) -> None:
        for view in self._views.values():
            if not principal or view.client.principal.id == principal:
                view.stale(server, kind)
        self.interests.changed(principal, kind)

    def server_up(self, server: str, principal: str | None) -> None:
        """It came (back): its lists may be new to every client (H27)."""
        for kind in ("tools", "prompts", "resources"):
            told = False
            for view in self._views.values():
                part = view.part(server, kind)
                if part.failed or not part.loaded or part.fresh_until == 0.0:
                    told = True
            if told:
                self.catalog_changed(server, principal, kind)

    def cannot_notify(self, server: str, principal: str | None) -> None:
        if server not in self._polling:
            self._poll_later(server)

    def _poll_later(self, server: str) -> None:
        """H25: a ttl is no polling interval by itself; jitter, and never faster than `poll_least_s`."""
        ttls = [part.ttl_s for view in self._views.values() for part in view.parts_of(server)]
        wait_s = max(self.hub.limits.poll_least_s, min(ttls, default=0.0))
        jittered = wait_s + self.hub.entropy.jitter(wait_s * 0.25)
        self._polling[server] = self.hub.after(jittered, "poll lists", lambda: self._poll(server))

    def _poll(self, server: str) -> None:
        if server not in self.servers:
            return
        self._poll_later(server)
        for view in self._views.values():
            if self.interests.of(view.client.principal.id):
                for kind in ("tools", "prompts", "resources"):
                    self._poll_one(view, server, kind)

    def _poll_one(self, view: View, server: str, kind: str) -> None:
        before = view.table(kind).version

        def loaded() -> None:
            if view.table(kind).version != before:
                self.interests.changed(view.client.principal.id, kind)

        view.load(server, kind, loaded)

    def resource_updated(self, server: str, principal: str | None, params: Members) -> None:
        self.interests.updated(server, principal, params)


class Telling:
    """A server that is told, when its lists are read, which extensions the client declares (N8)."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def ask(
        self, client: Client, method: str, params: Members, done: Callable[[Members | Fault], None]
    ) -> None:
        told = {**params, "_meta": meta.declaring(client.capabilities)}
        self._server.ask(client, method, told, done)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)


class Look:
    """One look-up over lists that have to be read first: over when it is found, when all have answered, or
    when a client has waited long enough for servers that are slow."""

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


def _to(entry: Entry, params: Members) -> Route:
    return Route(entry.server, {**params, "name": jsonrpc.to_raw(entry.own)}, entry.plan)


def _with_uri(found: Route | Fault, params: Members) -> Route | Fault:
    return found if isinstance(found, Fault) else Route(found.server, {**params, "uri": found.params["uri"]})


def _with_reference(found: Route | Fault, params: Members, ref: Members) -> Route | Fault:
    if isinstance(found, Fault):
        return found
    return Route(found.server, {**params, "ref": jsonrpc.encode_object({**ref, "uri": found.params["uri"]})})
