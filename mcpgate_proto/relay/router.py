"""Where a request goes: from the name or URI that a client uses to the server that owns it.

Owns: `Router`, which decides before a face accepts a request: by the lists, the templates, the prefixed
forms, and by what the rules and pins let this client use.
Must never: send on what was not judged in the very form in which it is sent (threats.md row 21); let a denied
thing be told from an unknown one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from mcpgate_proto.mcp import codes, extensions
from mcpgate_proto.mcp.codes import Fault, FaultKind
from mcpgate_proto.relay import names
from mcpgate_proto.relay.catalog import Entry, Look, View
from mcpgate_proto.relay.exchange import Client, Exchange, Members, Route
from mcpgate_proto.wire import jsonrpc, values

if TYPE_CHECKING:
    from mcpgate_proto.relay.relay import Relay

__all__ = ["ROUTED", "Routed", "Router", "thing"]

Routed = Callable[[Route | Fault], None]

NAMED: Final = {"tools/call": "tools", "prompts/get": "prompts"}
BY_URI: Final = ("resources/read",)
REFERRING: Final = ("completion/complete",)
# What a session or a stateless client may call that goes to one server.
ROUTED: Final = (*NAMED, *BY_URI, *REFERRING)
# The members that decide, by method.
_DECIDING: Final = {
    "tools/call": ("name", "arguments"),
    "prompts/get": ("name",),
    "resources/read": ("uri",),
    "completion/complete": ("ref",),
}
_REFERENCE: Final = ("type", "name", "uri")


def thing(method: str, params: Members) -> tuple[str, str]:
    """The kind of what a request is for, and its name or URI; empty where it is for nothing of a kind."""
    if method in NAMED:
        return NAMED[method], values.text_of(params, "name") or ""
    if method in BY_URI:
        return "resources", values.text_of(params, "uri") or ""
    told = _reference(params) if method in REFERRING else None
    return told[1:] if isinstance(told, tuple) else ("", "")


class Router:
    """See the head of this file."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._hub = relay.hub
        # When the list of a server was last read for a name that nobody had: (server, kind).
        self._refreshed: dict[tuple[str, str], float] = {}

    def forget(self) -> None:
        """The config has changed."""
        self._refreshed.clear()

    def resolve(
        self,
        method: str,
        params: Members,
        client: Client,
        done: Routed,
        *,
        plan: bool = False,
        server: str | None = None,
    ) -> None:
        """Where a request goes, or why it cannot. `plan`: the tool's mirrored headers must be known (C17).
        `server`: the client named it (`_server`), and uses the server's own names."""
        fault = self._malformed(method, params)
        kind, name = thing(method, params)
        if fault is not None:
            done(fault)
        elif server is not None:
            self._explicit(server, method, params, client, done)
        elif method in NAMED:
            self._resolve_name(kind, name, params, client, done, plan and method == "tools/call")
        elif method in BY_URI:
            self.resolve_uri(name, client, lambda found: done(_with_uri(found, params)))
        else:
            self._resolve_reference(params, client, done)

    def _malformed(self, method: str, params: Members) -> Fault | None:
        if method not in ROUTED:
            return codes.method_not_found(method)
        told = _invalid("params", params, _DECIDING[method])
        if told is not None:
            return told
        if method in NAMED:
            if values.text_of(params, "name") is None:
                return Fault(FaultKind.INVALID_PARAMS, "params.name is missing or not a string")
            if not values.is_object(params.get("arguments", values.EMPTY)):
                return Fault(FaultKind.INVALID_PARAMS, "params.arguments is not an object")
        elif method in BY_URI and values.text_of(params, "uri") is None:
            return Fault(FaultKind.INVALID_PARAMS, "params.uri is missing or not a string")
        return None

    # -- what is let through

    def lets_uri(self, client: Client, server: str, own: str) -> bool:
        return self._relay.policy.rules.lets(client.principal, server, "resources", own)

    def withdrawn(self, exchange: Exchange) -> Fault | None:
        """For a call that was routed some time ago: the answer if the rules of now do not let it through any
        more."""
        operation, server = exchange.operation, exchange.server
        client = operation.client
        kind, name = thing(operation.method, operation.params)
        if not kind:
            judged = operation.method in REFERRING and self._judges_references(client, server)
            told = _reference(operation.params) if judged else None
            return told if isinstance(told, Fault) else None
        if not self._relay.policy.rules.lets(client.principal, server, kind, name):
            return self._denied(_unknown(kind, operation.shown), client, server, kind, name)
        params = self._judged(operation.params, client, server, name) if kind == "tools" else None
        return params if isinstance(params, Fault) else None

    def _judged(self, params: Members, client: Client, server: str, tool: str) -> Members | Fault:
        """The params of a call, with the arguments written anew where a rule has a say in them."""
        rules = self._relay.policy.rules
        if not rules.judges_arguments(client.principal, server, tool):
            return params
        try:
            arguments = jsonrpc.plain(params.get("arguments", values.EMPTY))
        except jsonrpc.JsonFault as odd:
            return Fault(FaultKind.INVALID_PARAMS, f"params.arguments: {odd}")
        refused = rules.refused_argument(client.principal, server, tool, arguments)
        if refused is not None:
            reason = f"the gateway does not let this value of the argument '{refused[:64]}' through"
            return self._denied(Fault(FaultKind.DENIED, reason), client, server, "tools", tool, "arguments")
        return {**params, "arguments": jsonrpc.to_raw(arguments)} if "arguments" in params else params

    def _denied(
        self, fault: Fault, client: Client, server: str, kind: str, own: str, reason: str = "rules"
    ) -> Fault:
        return self._relay.policy.denied(fault, client.principal, server, kind, own, reason)

    # -- names

    def _resolve_name(
        self, kind: str, name: str, params: Members, client: Client, done: Routed, plan: bool
    ) -> None:
        view = self._relay.view(client)
        entry = view.table(kind).entries.get(name)
        if entry is not None and not view.overtaken(entry.server, kind):
            done(self._to(kind, entry, params, client))
            return
        only = self._relay.transparent
        loose = only is not None and not self._relay.policy.judges(client.principal, only.name, kind)
        if only is not None and kind == "tools":
            plan = plan or self._relay.must_know_tools(client, only.name)
        if only is not None and loose and not (plan and not view.part(only.name, kind).loaded):
            # It is its own judge of names; the list may not have been read, or not have everything.
            done(Route(only.name, params))
            return

        def known() -> Entry | None:
            found = view.table(kind).entries.get(name)
            return None if found is None or view.overtaken(found.server, kind) else found

        def looked() -> None:
            found = known()
            if found is not None:
                done(self._to(kind, found, params, client))
            elif only is not None and loose:
                done(Route(only.name, params))
            else:
                hidden = view.table(kind).hidden.get(name)
                away = self._not_asked(servers, client) or self._away(view, kind, name)
                fault = away or _unknown(kind, name)
                if hidden is not None:
                    reason = view.reason(hidden)
                    fault = self._denied(fault, client, hidden.server, kind, hidden.own, reason)
                done(fault)

        servers = [entry.server] if entry is not None else self._candidates(name)
        again = lambda: self._resolve_name(kind, name, params, client, done, plan)  # noqa: E731
        self._look(view, kind, servers, lambda: known() is not None, looked, again)

    def _not_asked(self, servers: list[str], client: Client) -> Fault | None:
        """A name may be unknown because the server that has it wants a login first."""
        known = [self._relay.servers[one] for one in servers if one in self._relay.servers]
        return next((fault for one in known if (fault := one.refusal(client)) is not None), None)

    def _away(self, view: View, kind: str, name: str) -> Fault | None:
        """A prefixed name may be unknown because its server is not there to say what it has."""
        split = names.split_prefix(name, self._relay.servers)
        if split is None or self._relay.transparent is not None:
            return None
        server = self._relay.servers[split[0]]
        silent = server.config.enabled and not view.part(server.name, kind).loaded
        if not silent or self._relay.policy.rules.shuts(view.client.principal, server.name):
            return None
        return Fault(FaultKind.UPSTREAM_DOWN, f"server '{server.name}' is not available")

    def _to(self, kind: str, entry: Entry, params: Members, client: Client) -> Route | Fault:
        """The route to an entry, under its own name."""
        told = {**params, "name": jsonrpc.to_raw(entry.own)}
        judged = self._judged(told, client, entry.server, entry.own) if kind == "tools" else told
        if isinstance(judged, Fault):
            return judged
        return Route(entry.server, judged, entry.plan, entry.needs_task)

    def _candidates(self, name: str) -> list[str]:
        """The servers that may know a name that the tables do not: by its prefix, else any of them."""
        servers = self._relay.servers
        split = names.split_prefix(name, servers)
        known = [split[0]] if split is not None else list(servers)
        return [one for one in known if servers[one].config.enabled]

    def _look(
        self,
        view: View,
        kind: str,
        servers: list[str],
        found: Callable[[], bool],
        done: Callable[[], None],
        again: Callable[[], None],
    ) -> None:
        """Read lists that are not at hand; one that is fresh is not read again for a mere wrong name, and
        a stale one not more often than `unknown_name_refresh_s`. `again`: the rules changed meanwhile."""
        wanted = []
        for server in servers:
            part = view.part(server, kind)
            last = self._refreshed.get((server, kind))
            due = last is None or self._hub.now - last >= self._hub.limits.unknown_name_refresh_s
            stale = (due and not view.fresh(server, kind)) or view.overtaken(server, kind)
            if not part.loaded or part.loading or stale:
                wanted.append(server)
                self._refreshed[server, kind] = self._hub.now
        if wanted:
            Look(view, kind, wanted, found, lambda: done() if view.policy is self._relay.policy else again())
        else:
            done()

    # -- URIs

    def resolve_uri(self, uri: str, client: Client, done: Routed) -> None:
        """Who owns a URI: by the lists, the templates, the prefixed form (H13)."""
        only = self._relay.transparent
        if only is not None:
            done(self._explicit_uri(only.name, uri, client))
            return
        view = self._relay.view(client)
        found = self._first_let(client, self._owners(view, uri))
        if found is not None:
            done(found)
            return

        def looked() -> None:
            done(
                self._first_let(client, self._owners(view, uri))
                or self._first_let(client, self._only_server_with_resources(view, uri))
                or self._no_resource(view, uri)
            )

        servers = self._enabled()
        known = lambda: self._first_let(client, self._owners(view, uri)) is not None  # noqa: E731
        again = lambda: self.resolve_uri(uri, client, done)  # noqa: E731
        last = looked
        if uri.startswith(extensions.UI_SCHEME):
            last = lambda: self._look(view, "tools", servers, known, looked, again)  # noqa: E731
        more = lambda: self._look(view, "templates", servers, known, last, again)  # noqa: E731
        self._look(view, "resources", servers, known, more, again)

    def _enabled(self) -> list[str]:
        return [name for name, server in self._relay.servers.items() if server.config.enabled]

    def _first_let(self, client: Client, owners: Iterator[tuple[str, str]]) -> Route | None:
        for server, own in owners:
            if self.lets_uri(client, server, own):
                return Route(server, {"uri": jsonrpc.to_raw(own)})
        return None

    def _owners(self, view: View, uri: str) -> Iterator[tuple[str, str]]:
        """The servers that may have `uri`, the likeliest first, each with its own form of it."""
        listed = view.table("resources")
        entry = listed.entries.get(uri) or listed.hidden.get(uri)
        if entry is not None:
            yield entry.server, entry.own
        split = names.split_uri(uri, self._relay.servers)
        if split is not None:
            yield split
        if uri.startswith(extensions.UI_SCHEME):
            # N6: it need not be listed; the tool that refers to it tells whose it is.
            for entry in view.table("tools").entries.values():
                if extensions.ui_resource(entry.raw) == uri:
                    yield entry.server, uri
        # A template that is not shown still tells whose its resources are, and those are judged one by one.
        for entry in view.table("templates").every:
            if entry.template is not None and entry.template.matches(uri):
                yield entry.server, uri

    def _only_server_with_resources(self, view: View, uri: str) -> Iterator[tuple[str, str]]:
        """Links may point at what was never listed (H13): with one candidate there is no doubt."""
        having = []
        for name, server in self._relay.servers.items():
            face = server.face(view.client) if server.config.enabled else None
            if face is not None and "resources" in face.capabilities:
                having.append(name)
        if len(having) == 1:
            yield having[0], uri

    def _no_resource(self, view: View, uri: str) -> Fault:
        for server, own in self._owners(view, uri):
            if not self.lets_uri(view.client, server, own):
                return self._denied(_unknown("resources", uri), view.client, server, "resources", own)
        return _unknown("resources", uri)

    # -- completions

    def _resolve_reference(self, params: Members, client: Client, done: Routed) -> None:
        """`completion/complete` goes to the owner of what it refers to (H17)."""
        only = self._relay.transparent
        if only is not None and not self._judges_references(client, only.name):
            done(Route(only.name, params))
            return
        told = _reference(params)
        if isinstance(told, Fault):
            done(told)
            return
        ref, kind, name = told
        if kind == "prompts":
            routed = lambda found: done(_with_reference(found, params, ref, "name"))  # noqa: E731
            self._resolve_name(kind, name, {"name": ref["name"]}, client, routed, False)
        else:
            self._resolve_template(name, params, ref, client, done)

    def _judges_references(self, client: Client, server: str) -> bool:
        judges = self._relay.policy.judges
        return any(judges(client.principal, server, kind) for kind in ("prompts", "resources"))

    def _resolve_template(
        self, uri: str, params: Members, ref: Members, client: Client, done: Routed
    ) -> None:
        view = self._relay.view(client)

        def looked() -> None:
            entry = view.table("templates").entries.get(uri)
            if entry is not None:
                own = Route(entry.server, {"uri": jsonrpc.to_raw(entry.own)})
                done(_with_reference(own, params, ref, "uri"))
            else:
                self.resolve_uri(uri, client, lambda found: done(_with_reference(found, params, ref, "uri")))

        known = lambda: uri in view.table("templates").entries  # noqa: E731
        again = lambda: self._resolve_template(uri, params, ref, client, done)  # noqa: E731
        self._look(view, "templates", self._enabled(), known, looked, again)

    # -- a server that the client named

    def _explicit(self, server: str, method: str, params: Members, client: Client, done: Routed) -> None:
        known = self._relay.servers.get(server)
        kind, name = thing(method, params)
        if known is None or not known.config.enabled:
            told = f"_server: there is no enabled server '{server[:64]}'"
            done(Fault(FaultKind.INVALID_PARAMS, told))
        elif method in NAMED:
            self._explicit_name(server, kind, name, params, client, done)
        elif method in BY_URI:
            done(_with_uri(self._explicit_uri(server, name, client), params))
        else:
            self._explicit_reference(server, params, client, done)

    def _explicit_name(
        self, server: str, kind: str, name: str, params: Members, client: Client, done: Routed
    ) -> None:
        if not self._relay.policy.judges(client.principal, server, kind):
            done(Route(server, params))
            return
        view = self._relay.view(client)

        def known() -> Entry | None:
            listed = [] if view.overtaken(server, kind) else view.part(server, kind).entries
            return next((entry for entry in listed if entry.own == name), None)

        def looked() -> None:
            found = known()
            if found is not None and view.shows(kind, found):
                done(self._to(kind, found, params, client))
                return
            fault = _unknown(kind, name)
            if found is not None:
                fault = self._denied(fault, client, server, kind, name, view.reason(found))
            done(fault)

        again = lambda: self._explicit_name(server, kind, name, params, client, done)  # noqa: E731
        self._look(view, kind, [server], lambda: known() is not None, looked, again)

    def _explicit_uri(self, server: str, uri: str, client: Client) -> Route | Fault:
        if self.lets_uri(client, server, uri):
            return Route(server, {"uri": jsonrpc.to_raw(uri)})
        return self._denied(_unknown("resources", uri), client, server, "resources", uri)

    def _explicit_reference(self, server: str, params: Members, client: Client, done: Routed) -> None:
        if not self._judges_references(client, server):
            done(Route(server, params))
            return
        told = _reference(params)
        if isinstance(told, Fault):
            done(told)
            return
        ref, kind, name = told
        if kind == "prompts":
            routed = lambda found: done(_with_reference(found, params, ref, "name"))  # noqa: E731
            self._explicit_name(server, kind, name, {"name": ref["name"]}, client, routed)
        else:
            done(_with_reference(self._explicit_uri(server, name, client), params, ref, "uri"))


def _invalid(where: str, members: Members, deciding: tuple[str, ...]) -> Fault | None:
    """A server that folds the case of names would read `Name` for `name`, which nobody has judged (GHSA-4gph-
    2hhr-5mwg, CVE-2026-27896)."""
    for name in members:
        if name not in deciding and (folded := name.casefold()) in deciding:
            return Fault(
                FaultKind.INVALID_PARAMS, f"{where} has a member that is '{folded}' but for its case"
            )
    return None


def _unknown(kind: str, name: str) -> Fault:
    """What is answered for a thing that is not there, or not there for this client."""
    return (
        codes.resource_not_found(name)
        if kind == "resources"
        else codes.unknown_name(kind.removesuffix("s"), name)
    )


def _with_uri(found: Route | Fault, params: Members) -> Route | Fault:
    return found if isinstance(found, Fault) else Route(found.server, {**params, "uri": found.params["uri"]})


def _reference(params: Members) -> tuple[Members, str, str] | Fault:
    """What `params.ref` refers to: its members, the kind, and the name or URI."""
    ref = values.object_or_empty(params.get("ref", values.EMPTY))
    fault = _invalid("params.ref", ref, _REFERENCE)
    if fault is not None:
        return fault
    kind, name, uri = values.text_of(ref, "type"), values.text_of(ref, "name"), values.text_of(ref, "uri")
    if kind == "ref/prompt" and name is not None:
        return ref, "prompts", name
    if kind == "ref/resource" and uri is not None:
        return ref, "resources", uri
    return Fault(FaultKind.INVALID_PARAMS, "params.ref names neither a prompt nor a resource")


def _with_reference(found: Route | Fault, params: Members, ref: Members, member: str) -> Route | Fault:
    if isinstance(found, Fault):
        return found
    own = jsonrpc.encode_object({**ref, member: found.params[member]})
    return Route(found.server, {**params, "ref": own})
