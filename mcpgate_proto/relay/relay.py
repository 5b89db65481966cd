"""The middle: from what a client asks to the server that answers it.

Owns: the servers in config order, the views, the merged capabilities and instructions, the fan-in of changes,
the live exchanges. Where requests go is decided in `router.py`.
Must never: know a revision's wire, or ask which era a client or server speaks, but for extensions and tasks,
which each era has its own way of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import msgspec

from mcpgate_proto.hub import Hub
from mcpgate_proto.mcp import codes, extensions, meta
from mcpgate_proto.mcp.codes import Fault, FaultKind
from mcpgate_proto.mcp.revisions import REVISIONS, Era
from mcpgate_proto.relay.catalog import Merged, View
from mcpgate_proto.relay.exchange import TOO_MUCH, Caller, Client, Exchange, Members, Operation, Route
from mcpgate_proto.relay.kept_tasks import KeptTasks
from mcpgate_proto.relay.ports import Server, ServerFace
from mcpgate_proto.relay.router import Router
from mcpgate_proto.relay.subscriptions import Interests
from mcpgate_proto.relay.tasks import TaskIds
from mcpgate_proto.security.incidents import Incidents
from mcpgate_proto.security.policy import Policy
from mcpgate_proto.security.rate import Limited, Rates
from mcpgate_proto.timers import Timer
from mcpgate_proto.wire import jsonrpc, values
from mcpgate_proto.wire.jsonrpc import Raw

__all__ = ["Profile", "Relay"]

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
# The lists whose changes clients are told of.
KINDS_TOLD = ("tools", "prompts", "resources")
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
        self.policy = Policy(hub)
        self.router = Router(self)
        self.interests = Interests(hub, self.router.lets_uri)
        self.tasks = TaskIds(hub)
        self.kept_tasks = KeptTasks(hub)
        self.rates = Rates(hub)
        self.incidents = Incidents(hub)
        self.live: dict[Exchange, None] = {}
        # By principal, era, owner, and what is declared: when lists are read, and to legacy servers.
        self._views: dict[tuple[str, str, str, bytes, str], View] = {}
        # Servers that cannot tell of changes: their lists are read again by their ttl.
        self._polling: dict[str, Timer] = {}

    def add(self, server: Server) -> None:
        self.servers[server.name] = server

    def forget_servers(self) -> None:
        """Before the servers of a changed config are added; its rules and pins hold at once."""
        self.policy = Policy(self.hub)
        self.router.forget()
        self.servers.clear()
        for timer in self._polling.values():
            timer.cancel()
        self._polling.clear()
        self._views.clear()

    @property
    def transparent(self) -> Server | None:
        """The one server that clients see as it is (`run`, `connect`)."""
        if self.hub.config.transparent and len(self.servers) == 1:
            return next(iter(self.servers.values()))
        return None

    def view(self, client: Client) -> View:
        owner = client.key if any(s.config.isolation == "session" for s in self.servers.values()) else ""
        told = extensions.of_lists(client.capabilities)
        # A legacy server that has a session with its features may show other things there. What was shown
        # stays known once that session has gone: the next call of it opens another one.
        features = f"{client.revision} {bytes(client.profile).decode()}" if client.features else ""
        key = (client.principal.id, client.era.value, owner, bytes(told), features)
        found = self._views.get(key)
        own = bool(features) and (found is not None or any(s.has_own(client) for s in self.servers.values()))
        if features and not own:
            key = (*key[:4], "")
            found = self._views.get(key)
        if found is not None:
            found.used_at = self.hub.now
        else:
            special = told != values.EMPTY or own
            if special and sum(1 for one in self._views if one[:3] == key[:3]) > VARIANTS:
                return self.view(client.featureless)
            if len(self._views) >= VIEWS:
                oldest = min(self._views, key=lambda one: self._views[one].used_at)
                del self._views[oldest]
            plain = client.featureless if not own else msgspec.structs.replace(client, audience=None)
            plain = msgspec.structs.replace(plain, capabilities=told)
            servers = self.servers
            if told != values.EMPTY:
                servers = {name: cast(Server, Telling(one)) for name, one in servers.items()}
            found = self._views[key] = View(self.hub, plain, servers, self.policy)
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
        if only is not None and face is not None:
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
            shut = self.policy.rules.shuts(client.principal, only.name)
            return Profile(kept, "" if shut else face.instructions[: limits.instructions_bytes])
        told: list[str] = []
        for server in self.servers.values():
            one = server.face(client) if server.config.enabled else None
            shut = self.policy.rules.shuts(client.principal, server.name)
            if one is not None and one.instructions and not shut:
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
            elif face is not None and client.era is Era.MODERN and face.makes_tasks:
                parts.append({extensions.TASKS: values.EMPTY})
        found = extensions.merged(parts)
        return {extensions.MEMBER: jsonrpc.encode_object(found)} if found else {}

    def agrees_on_tasks(self, client: Client) -> bool:
        """Whether this client may ask for tasks as 2025-11-25 has them, of some server."""
        return self._knows_legacy_tasks(client) and self.has_tasks(client)

    def _knows_legacy_tasks(self, client: Client) -> bool:
        return self.hub.config.legacy_tasks and REVISIONS[client.revision].tasks

    def makes_tasks(self, client: Client, server: str) -> Era | None:
        """Where this client may ask for tasks as 2025-11-25 has them: the era of the tasks of `server`."""
        if not self._knows_legacy_tasks(client):
            return None
        known = self.servers.get(server)
        face = known.face(client) if known is not None and known.config.enabled else None
        return face.era if face is not None and face.makes_tasks else None

    def must_know_tools(self, client: Client, server: str) -> bool:
        """Whether a call depends on what the tool's definition says of tasks."""
        face = self.servers[server].face(client)
        return face is not None and face.era is Era.LEGACY and face.makes_tasks

    def _legacy_tasks(self, client: Client) -> Members:
        """The tasks of 2025-11-25 as a member of capabilities; their list is not offered (L22)."""
        if not any(self.makes_tasks(client, name) for name in self.servers):
            return {}
        return {"tasks": jsonrpc.to_raw({"cancel": {}, "requests": {"tools": {"call": {}}}})}

    def carried(self, capabilities: Members, revision: str) -> Members:
        """The extensions in a peer's capabilities that may be told to the other hop."""
        return extensions.carried(capabilities, REVISIONS[revision], transparent=self.transparent is not None)

    def has_tasks(self, client: Client) -> bool:
        """Whether some server makes tasks of calls, of either era's kind, or may do so (G2, L22)."""
        faces = [one.face(client) for one in self.servers.values() if one.config.enabled]
        return any(face is None or face.makes_tasks for face in faces)

    def declares(self, client: Client, capability: str) -> bool:
        """Whether the gateway offers `capability` to this client (G2)."""
        only = self.transparent
        face = only.face(client) if only is not None else None
        return face is None or capability in face.capabilities

    # -- lists

    def merged(self, kind: str, client: Client, done: Callable[[Merged], None]) -> None:
        view = self.view(client)

        def listed(found: Merged) -> None:
            if view.policy is self.policy:
                done(found)
            else:
                self.merged(kind, client, done)  # the rules have changed meanwhile

        view.merged_list(kind, listed)

    # -- exchanges

    def judge_again(self) -> None:
        """After a change of the rules: what no server has been sent yet. (Of the others, `Exchange` asks.)"""
        for exchange in [one for one in self.live if one.is_unsent]:
            exchange.let()

    def watch_again(self, servers: set[str]) -> None:
        """After a change of the config: what clients watch on servers that were made anew; what they may not
        see any more is not watched for them."""
        for interest in self.interests:
            for uri, (name, own) in list(interest.uris.items()):
                if not self.router.lets_uri(interest.client, name, own):
                    del interest.uris[uri]
                    self.unwatch(name, interest.client, own)
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
        operation.needs_task = route.needs_task
        operation.session = route.session
        idle_s = server.config.timeout if server is not None else 0.0
        if operation.method in PATIENT:
            idle_s = self.hub.limits.call_ceiling_s
        exchange = Exchange(self.hub, operation, caller, idle_s, self.live, self.router.withdrawn)
        if server is None:
            exchange.lost(False)  # the config has changed since it was routed
        elif len(self.live) > self.hub.limits.calls:
            self.hub.count("refused_calls")
            exchange.fail(Fault(FaultKind.OVERLOADED, "too many calls are in flight"))
        elif not exchange.weigh(operation.weight):
            exchange.fail(TOO_MUCH)
        elif (limited := self._limited(operation, server)) is not None:
            exchange.fail(codes.rate_limited(limited.retry_after_ms))
        else:
            self.hub.count("calls")
            exchange.server = server.name
            server.place(exchange)
        return exchange

    def _limited(self, operation: Operation, server: Server) -> Limited | None:
        """Whether the principal has as many calls in flight as it may, or has called too often."""
        principal = operation.client.principal
        # Its own are worth counting only where all are more than it may have; this one is among them.
        most = self.rates.most_calls(principal)
        if most and len(self.live) > most:
            mine = sum(1 for one in self.live if one.operation.client.principal.id == principal.id)
            if mine > most:
                return self.rates.too_many_calls(principal)
        return self._called(operation, server)

    def again(self, exchange: Exchange) -> Limited | None:
        """Another round of a call that is held: it counts like one that is made."""
        server = self.servers.get(exchange.server)
        return self._called(exchange.operation, server) if server is not None else None

    def _called(self, operation: Operation, server: Server) -> Limited | None:
        tool = values.text_of(operation.params, "name") if operation.method == "tools/call" else None
        return self.rates.call(operation.client.principal, server.config, tool)

    def replan(self, server: str, operation: Operation, done: Callable[[], None]) -> None:
        """D5: the server saw other headers than its definition of the tool demands: read it again."""
        view = self.view(operation.client)

        def loaded() -> None:
            own = values.text_of(operation.params, "name")
            found = [entry for entry in view.part(server, "tools").entries if entry.own == own]
            operation.plan = found[0].plan if found else None
            operation.needs_task = bool(found) and found[0].needs_task
            done()

        view.load(server, "tools", loaded)

    # -- what servers tell

    def catalog_changed(
        self, server: str, principal: str | None, kind: str, *, outdated: bool = True
    ) -> None:
        for view in self._views.values():
            if not principal or view.client.principal.id == principal:
                view.stale(server, kind, outdated=outdated)
        self.interests.changed(principal, kind)

    def server_up(self, server: str, principal: str | None) -> None:
        """It came (back): its lists may be new to every client (H27)."""
        for kind in KINDS_TOLD:
            told = False
            for view in self._views.values():
                part = view.part(server, kind)
                if part.failed or not part.loaded or part.fresh_until == 0.0:
                    told = True
            if told:
                self.catalog_changed(server, principal, kind, outdated=False)

    def lists_elsewhere(self, server: str, principal: str | None, profile: Raw) -> None:
        for view in self._views.values():
            if view.client.profile == profile and (not principal or view.client.principal.id == principal):
                for kind in KINDS_TOLD:
                    view.stale(server, kind)
        # Not at once: the call that it was opened for comes first.
        self.hub.after(
            self.hub.limits.coalesce_s,
            "lists elsewhere",
            lambda: self._look_there(server, principal, profile),
        )

    def _look_there(self, server: str, principal: str | None, profile: Raw) -> None:
        for interest in self.interests:
            client = interest.client
            if client.profile == profile and (not principal or client.principal.id == principal):
                for kind in KINDS_TOLD:
                    self._compare(self.view(client), self.view(client.featureless), server, kind)

    def _compare(self, view: View, plain: View, server: str, kind: str) -> None:
        """Tell of a list that is another one in the session that it comes from now."""
        seen = view.part(server, kind) if view.part(server, kind).loaded else plain.part(server, kind)
        if view is plain or not seen.loaded:
            return
        before = [entry.raw for entry in seen.entries]

        def loaded() -> None:
            if [entry.raw for entry in view.part(server, kind).entries] != before:
                self.interests.changed(view.client.principal.id, kind)

        view.load(server, kind, loaded)

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
                for kind in KINDS_TOLD:
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
