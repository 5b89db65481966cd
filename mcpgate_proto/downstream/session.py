"""A legacy client's session: from `initialize` to its end, over any transport.

Owns: what the client declared, its calls in flight, the questions put to it, its log level, its
subscriptions, and the dispatch of its messages. A transport gives each request an `Outlet`, and the
session a channel for what belongs to no call.
Must never: cross two requests that have the same id (each has an outlet of its own); take a session's
existence for authentication (C39).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from mcpgate_proto.downstream import audited, lists, status, tasks
from mcpgate_proto.downstream.calls import LegacyCall
from mcpgate_proto.downstream.legacy_tasks import Augmented, Owner, TaskRequest
from mcpgate_proto.downstream.live import FEATURES
from mcpgate_proto.downstream.outlet import Outlet
from mcpgate_proto.downstream.tasks import LegacyIds
from mcpgate_proto.hub import SEVERITIES, Hub
from mcpgate_proto.mcp import codes, extensions, meta
from mcpgate_proto.mcp.codes import Fault, FaultKind
from mcpgate_proto.mcp.revisions import REVISIONS, Era, Revision, negotiate
from mcpgate_proto.relay.catalog import Merged
from mcpgate_proto.relay.exchange import (
    TOO_MUCH,
    Answer,
    AnswerSink,
    Ask,
    Client,
    Members,
    Operation,
    Route,
)
from mcpgate_proto.relay.relay import Profile, Relay
from mcpgate_proto.relay.router import ROUTED, thing
from mcpgate_proto.relay.subscriptions import Interest
from mcpgate_proto.security.principal import Principal
from mcpgate_proto.wire import jsonrpc, values
from mcpgate_proto.wire.jsonrpc import Raw, RequestId

__all__ = ["Channel", "ClientSession"]


class Channel(Protocol):
    """Where messages of no call go: the pipe, or the session's GET stream (C31)."""

    @property
    def reachable(self) -> bool: ...
    def send(self, message: bytes) -> None: ...


class Question(msgspec.Struct, frozen=True):
    """A request of a server that this client is answering."""

    key: str
    answer: Callable[[Answer], None]
    call: LegacyCall | None
    ask: Ask


class ClientSession:
    """One legacy client. See the head of this file. Implements `relay.exchange.Audience`."""

    def __init__(self, hub: Hub, relay: Relay, id: str, principal: Principal, channel: Channel) -> None:
        self.hub = hub
        self.relay = relay
        self.id = id
        self.key = f"session {id}"
        self.principal = principal
        self.channel = channel
        self.revision: Revision = REVISIONS[negotiate("")]
        self.capabilities: Members = {}
        self.client = Client(
            principal=principal, era=Era.LEGACY, revision=self.revision.version, key=self.key
        )
        self.initialized = False
        self.over = False
        self.used_at = self.began_at = hub.now
        self.log_level: int | None = None
        self.calls: dict[LegacyCall, None] = {}
        self._questions: dict[int, Question] = {}
        # The capabilities that the client was told of.
        self._declared: tuple[str, ...] = ()
        # Lists and subscriptions that are being answered; and of the latter, which are still wanted.
        self._pending = 0
        self._subscribing: dict[str, bool] = {}
        self._next_question = 1
        self.serial = 0
        self.interest = Interest(
            self.client, ("tools", "prompts", "resources"), self._list_changed, self._updated
        )

    # -- the handshake

    def initialize(self, request: jsonrpc.Request, outlet: Outlet) -> None:
        """F2: the same version if it is one of ours, else our newest legacy one; never an error."""
        params = request.params
        asked = values.text_of(params, "protocolVersion")
        if asked is None:
            self.refuse(
                request.id, outlet, Fault(FaultKind.INVALID_PARAMS, "params.protocolVersion is missing")
            )
            return
        self.revision = REVISIONS[negotiate(asked)]
        declared = values.object_or_empty(params.get("capabilities", values.EMPTY))
        known = [name for name in sorted(declared) if name in FEATURES.values()]
        self.capabilities = {name: jsonrpc.detach(declared[name]) for name in known}
        kept = dict(self.capabilities)
        if not self.revision.elicitation:
            kept.pop("elicitation", None)
        profile = dict(kept)
        carried = self.relay.carried(declared, self.revision.version)
        if carried:
            profile[extensions.MEMBER] = jsonrpc.encode_object(carried)  # N2: among legacy peers
        self.client = Client(
            principal=self.principal,
            era=Era.LEGACY,
            revision=self.revision.version,
            capabilities=jsonrpc.detach(jsonrpc.encode_object(_for_modern(kept))),
            profile=jsonrpc.detach(jsonrpc.encode_object(profile)),
            features=bool(profile),
            key=self.key,
            audience=self,
        )
        self.interest.client = self.client
        self.relay.interests.add(self.interest)
        id = request.id  # nothing else of it is kept
        self.relay.profile(self.client, lambda profile: self._welcome(id, outlet, profile))

    def _welcome(self, id: RequestId, outlet: Outlet, profile: Profile) -> None:
        self._declared = tuple(profile.capabilities)
        result: Members = {
            "protocolVersion": jsonrpc.to_raw(self.revision.version),
            "capabilities": jsonrpc.encode_object(profile.capabilities),
            "serverInfo": jsonrpc.to_raw({"name": "mcpgate", "version": self.hub.config.version}),
        }
        if profile.instructions:
            result["instructions"] = jsonrpc.to_raw(profile.instructions)
        outlet.finish(jsonrpc.encode_result(id, result))

    # -- messages of the client

    def handle(self, message: jsonrpc.Message, outlet: Outlet | None) -> None:
        """One message; `outlet` for requests."""
        self.used_at = self.hub.now
        if isinstance(message, jsonrpc.Request):
            assert outlet is not None
            self._request(message, outlet)
        elif isinstance(message, jsonrpc.Notification):
            self._notification(message)
        elif isinstance(message, jsonrpc.Result):
            self._answered(message.id, Answer(jsonrpc.detach(message.result)))
        else:
            fault = codes.peer(message.code, message.message, message.data)
            self._answered(message.id, Answer(fault=fault))

    def refuse(self, id: RequestId, outlet: Outlet, fault: Fault, call: LegacyCall | None = None) -> None:
        method, server = (call.method, call.server) if call is not None else ("", "")
        fault = self.relay.incidents.account(fault, method, server)
        body = codes.to_legacy(fault, self.revision, elicitation_url=self.has_url_elicitation)
        audited.failed(outlet, fault, body.code)
        outlet.finish(jsonrpc.encode_error(id, body.code, body.message, body.data))

    @property
    def has_url_elicitation(self) -> bool:
        return "url" in values.object_or_empty(self.capabilities.get("elicitation", values.EMPTY))

    def _request(self, request: jsonrpc.Request, outlet: Outlet) -> None:
        method, id = request.method, request.id
        told = status.without_route(request.params, self.client) if method not in ROUTED else None
        if isinstance(told, Fault):
            self.refuse(id, outlet, told)
        elif method == "ping":
            outlet.finish(jsonrpc.encode_result(id, values.EMPTY))
        elif method == "initialize":
            # A second handshake changes nothing (threats.md row 19).
            outlet.finish(
                jsonrpc.encode_error(id, codes.INVALID_REQUEST, "the session is initialized already")
            )
        elif len(self.calls) + self._pending >= self.hub.limits.calls_per_session:
            self.refuse(id, outlet, Fault(FaultKind.OVERLOADED, "too many requests are open in this session"))
        elif method in lists.LISTS:
            self._list(request, outlet)
        elif method in ROUTED:
            self._call(request, outlet)
        elif method == "logging/setLevel":
            self._set_level(request, outlet)
        elif method in ("resources/subscribe", "resources/unsubscribe"):
            self._subscribe(request, outlet)
        elif method.startswith("gateway/"):
            self._gateway(request, outlet)
        elif method in tasks.LEGACY_METHODS:
            self._task(request, outlet)
        else:
            self._unknown(request, outlet)

    def _task(self, request: jsonrpc.Request, outlet: Outlet) -> None:
        found = tasks.legacy_route(self.relay, self.client, request)
        if isinstance(found, Fault):
            self.refuse(request.id, outlet, found)
        elif found.session:
            self._start(request, self._accept(request, outlet), found)
        else:
            asked = TaskRequest(self, request, outlet, _token(request), found)
            self.calls[asked] = None
            asked.start()

    def _gateway(self, request: jsonrpc.Request, outlet: Outlet) -> None:
        told = status.answer(self.relay, request.method, request.params, self.client)
        if isinstance(told, Fault):
            self.refuse(request.id, outlet, told)
        else:
            outlet.finish(jsonrpc.encode_result(request.id, told))

    def _unknown(self, request: jsonrpc.Request, outlet: Outlet) -> None:
        """L25: one server, seen as it is, is its own judge of methods; elsewhere there is no such method."""
        only = self.relay.transparent
        face = only.face(self.client) if only is not None else None
        if face is not None and face.era is Era.LEGACY and not request.method.startswith("tasks/"):
            assert only is not None
            call = self._accept(request, outlet)
            self._start(request, call, Route(only.name, values.without(request.params, "_meta")))
        else:
            self.refuse(request.id, outlet, codes.method_not_found(request.method))

    def _list(self, request: jsonrpc.Request, outlet: Outlet) -> None:
        kind, id = lists.LISTS[request.method], request.id
        cursor = lists.unseal_cursor(self.hub, self.client, request.params)
        if isinstance(cursor, Fault):
            self.refuse(id, outlet, cursor)
            return

        self._pending += 1

        def listed(merged: Merged) -> None:  # keeps nothing of the request, which may be large
            self._pending -= 1
            found = lists.page(self.hub, self.client, kind, merged, cursor)
            if isinstance(found, Fault):
                self.refuse(id, outlet, found)
            else:
                outlet.finish(jsonrpc.encode_result(id, found))

        self.relay.merged(kind, self.client, listed)

    def _set_level(self, request: jsonrpc.Request, outlet: Outlet) -> None:
        """Kept here and told to servers with the calls that follow (L14)."""
        level = values.text_of(request.params, "level")
        if level not in SEVERITIES:
            self.refuse(
                request.id,
                outlet,
                Fault(FaultKind.INVALID_PARAMS, f"params.level is none of {', '.join(SEVERITIES)}"),
            )
            return
        self.log_level = SEVERITIES.index(level)
        outlet.finish(jsonrpc.encode_result(request.id, values.EMPTY))

    def _subscribe(self, request: jsonrpc.Request, outlet: Outlet) -> None:
        id, uri = request.id, values.text_of(request.params, "uri")
        if uri is None:
            self.refuse(id, outlet, Fault(FaultKind.INVALID_PARAMS, "params.uri is missing or not a string"))
            return
        if request.method == "resources/unsubscribe":
            if uri in self._subscribing:
                self._subscribing[uri] = False
            self._unwatch(uri)
            outlet.finish(jsonrpc.encode_result(id, values.EMPTY))
            return
        if len(self.interest.uris) + len(self._subscribing) >= self.hub.limits.subscriptions_per_session:
            self.refuse(id, outlet, Fault(FaultKind.OVERLOADED, "too many subscriptions in this session"))
            return

        self._pending += 1
        self._subscribing[uri] = True

        def watched(found: Route, fault: Fault | None) -> None:
            self._pending -= 1
            wanted = self._subscribing.pop(uri, False)
            if fault is not None:
                self.refuse(id, outlet, fault)
                return
            own = values.text_of(found.params, "uri") or uri
            let = self.relay.router.lets_uri(self.client, found.server, own)  # rules may have changed
            if self.over or not wanted or not let or uri in self.interest.uris:
                self.relay.unwatch(found.server, self.client, own)  # one too many
            else:
                self.interest.uris[uri] = (found.server, own)
            if not let:
                self.refuse(id, outlet, codes.resource_not_found(uri))
                return
            outlet.finish(jsonrpc.encode_result(id, values.EMPTY))

        def routed(found: Route | Fault) -> None:
            server = self.relay.servers.get(found.server) if isinstance(found, Route) else None
            if isinstance(found, Fault) or server is None:
                self._pending -= 1
                self._subscribing.pop(uri, None)
                fault = found if isinstance(found, Fault) else codes.resource_not_found(uri)
                self.refuse(id, outlet, fault)
            else:
                own = values.text_of(found.params, "uri") or uri
                server.watch(self.client, own, lambda fault: watched(found, fault))

        self.relay.router.resolve_uri(uri, self.client, routed)

    def _unwatch(self, uri: str) -> None:
        held = self.interest.uris.pop(uri, None)
        if held is not None:
            self.relay.unwatch(held[0], self.client, held[1])

    # -- calls

    def _call(self, request: jsonrpc.Request, outlet: Outlet) -> None:
        """Route first; then the call is accepted."""
        params = values.without(request.params, "_meta")
        explicit = status.explicit_server(params, self.client)
        if isinstance(explicit, Fault):
            self.refuse(request.id, outlet, explicit)
            return
        self._route(request, self._accept(request, outlet), explicit)

    def _route(
        self,
        request: jsonrpc.Request,
        call: LegacyCall,
        explicit: tuple[str | None, Members],
        prepared: bool = False,
    ) -> None:
        name, params = explicit
        asks = "task" in params and self.relay.agrees_on_tasks(self.client)
        weight = request.weight
        room = self.hub.keep(self.principal.id, weight)

        def again() -> None:
            self.hub.keep(self.principal.id, -weight)
            self._route(request, call, explicit, True)

        def routed(found: Route | Fault) -> None:
            server = self.relay.servers.get(found.server) if isinstance(found, Route) else None
            if asks and not prepared and server is not None and server.face(self.client) is None:
                # What becomes of it depends on the server, which is just being started, say; and meanwhile
                # the rules may change.
                server.prepare(self.client, lambda face: again())
                return
            self.hub.keep(self.principal.id, -weight)
            if isinstance(found, Fault):
                call.failed(found)
            else:
                self._start(request, call, found)

        if room:
            self.relay.router.resolve(request.method, params, self.client, routed, server=name)
        else:
            routed(TOO_MUCH)

    def _accept(self, request: jsonrpc.Request, outlet: Outlet) -> LegacyCall:
        """From here on the request can be cancelled, also while it is still being routed."""
        call = LegacyCall(self, request.id, request.method, outlet, _token(request))
        self.calls[call] = None
        return call

    def _start(self, request: jsonrpc.Request, call: LegacyCall, route: Route) -> None:
        if call.done:
            return
        hop = values.object_or_empty(request.params.get("_meta", values.EMPTY))
        params = route.params
        era = self.relay.makes_tasks(self.client, route.server) if "task" in params else None
        if era is not None and not values.is_object(params["task"]):
            call.failed(Fault(FaultKind.INVALID_PARAMS, "params.task is not an object"))
            return
        if "task" in params and era is not Era.LEGACY:
            # 1125 tasks: ignored where none were agreed; modern servers decide for themselves (L22).
            route = msgspec.structs.replace(route, params=values.without(params, "task"))
            if era is Era.MODERN and request.method == "tools/call":
                call.augmented = Augmented(self, route.server, params["task"])
        call.server = route.server
        audited.routed(call.outlet, route.server)
        operation = Operation(
            method=request.method,
            params=route.params,
            meta=meta.end_to_end(hop),
            client=self.client,
            shown=thing(request.method, request.params)[1],
            log_level=SEVERITIES[self.log_level] if self.log_level is not None else None,
            wants_progress="progressToken" in hop,
            forwarded=call.outlet.forwarded,
            takes_task=call.augmented is not None,
            weight=request.weight,
        )
        call.ids = LegacyIds(self.relay, route.server, operation)
        if era is Era.LEGACY:
            operation.owner = Owner(self, route.server, operation, _token(request))
        call.begin(self.relay.start(operation, route, call))

    def _notification(self, message: jsonrpc.Notification) -> None:
        method = message.method
        if method == "notifications/initialized":
            self.initialized = True
        elif method == "notifications/cancelled":
            self._cancelled(message.params)
        elif method == "notifications/roots/list_changed":
            for server in self.relay.servers.values():
                server.roots_changed(self.client)
        # Progress of a client on a server's question, and what is unknown: nothing to do (L13, L25).

    def _cancelled(self, params: Members) -> None:
        """Unknown, late and malformed ones are ignored (G23). Of equal ids, the oldest call is meant."""
        wanted = params.get("requestId")
        reason = values.text_of(params, "reason") or ""
        for call in self.calls:
            if wanted is not None and values.same_id(call.id, wanted):
                call.cancel(reason)
                return

    # -- questions to the client

    def question(self, ask: Ask, answer: Callable[[Answer], None], call: LegacyCall | None) -> bytes | None:
        """Note a question and return the request to send; None if the client cannot be asked that."""
        feature = FEATURES.get(ask.method)
        declared = values.object_or_empty(self.client.capabilities)
        if feature is None or feature not in declared or self.over:
            return None
        number = self._next_question
        self._next_question += 1
        self._questions[number] = Question(ask.key, answer, call, ask)
        return jsonrpc.encode_request(number, ask.method, ask.params)

    def _answered(self, id: RequestId | None, answer: Answer) -> None:
        """C37: an answer to an unknown question is dropped."""
        question = self._questions.pop(id, None) if isinstance(id, int) else None
        if question is not None:
            question.answer(answer)

    def move(self, key: str, before: LegacyCall, after: LegacyCall) -> None:
        """A question that is open at the client belongs to another of its calls."""
        for number, question in self._questions.items():
            if question.call is before and question.key == key:
                reply = lambda given: after.reply(key, given)  # noqa: E731
                self._questions[number] = msgspec.structs.replace(question, call=after, answer=reply)

    def withdraw(self, keep: Callable[[Question], bool]) -> list[bytes]:
        """Drop questions; the messages tell the client of it (legal in legacy: L2.5)."""
        told = []
        for number, question in list(self._questions.items()):
            if not keep(question):
                del self._questions[number]
                params = {"requestId": Raw(b"%d" % number)}
                told.append(jsonrpc.encode_notification("notifications/cancelled", params))
        return told

    # -- outside a call (Audience)

    @property
    def reachable(self) -> bool:
        return self.channel.reachable and not self.over

    def asked_outside(self, ask: Ask, answer: AnswerSink) -> bool:
        message = self.question(ask, lambda given: answer(ask.key, given), None)
        if message is None:
            return False
        self.channel.send(message)
        return True

    def withdrawn_outside(self, ask: Ask) -> None:
        for told in self.withdraw(lambda question: question.ask is not ask):
            self.channel.send(told)

    def logged_outside(self, params: Members) -> None:
        if self.initialized and self.wants_log(params):
            self.channel.send(jsonrpc.encode_notification("notifications/message", params))

    def wants_log(self, params: Members) -> bool:
        """At or above the level the client has set; before it sets one the server chooses (H18)."""
        level = values.text_of(params, "level")
        return self.log_level is None or (level in SEVERITIES and SEVERITIES.index(level) >= self.log_level)

    def _list_changed(self, kind: str) -> None:
        if self.initialized and kind in self._declared:  # F4, F5: nothing before that, nothing else
            self.channel.send(jsonrpc.encode_notification(f"notifications/{kind}/list_changed", {}))

    def _updated(self, params: Members) -> None:
        if self.initialized:
            self.channel.send(jsonrpc.encode_notification("notifications/resources/updated", params))

    # -- the end

    def end(self, reason: str) -> None:
        """DELETE, end of the pipe, expiry: everything of it stops."""
        if self.over:
            return
        self.over = True
        lived_s = round(self.hub.now - self.began_at, 3)
        self.hub.audit("session_over", principal=self.principal.id, reason=reason, duration_s=lived_s)
        for call in list(self.calls):
            call.cancel(reason)
        questions, self._questions = self._questions, {}
        for question in questions.values():
            # Asked outside a call: the server must not wait for what nobody will answer.
            question.answer(Answer(fault=Fault(FaultKind.INTERNAL, "the client is gone")))
        self.relay.interests.remove(self.interest)
        for uri in list(self.interest.uris):
            self._unwatch(uri)
        self.relay.client_gone(self.client)


def _for_modern(kept: Members) -> Members:
    """L2.1: what a modern server is told of a legacy client's features."""
    return {**kept, "roots": values.EMPTY} if "roots" in kept else kept


def _token(request: jsonrpc.Request) -> Raw | None:
    """The progress token of a request, to be kept."""
    token = values.object_or_empty(request.params.get("_meta", values.EMPTY)).get("progressToken")
    return jsonrpc.detach(token) if token is not None else None
