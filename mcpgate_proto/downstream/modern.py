"""Modern clients (2026-07-28): every request stands alone.

Owns: the part of the ladder that needs no HTTP (`_meta`, revision, method, routing, capability), calls
and their rounds, `server/discover`, `subscriptions/listen`. A transport gives each request an `Outlet`.
Must never: remember anything of a client between two requests (C26); ask a client by request (C23).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b

import msgspec

from mcpgate_proto.downstream import lists, status
from mcpgate_proto.downstream.outlet import Outlet
from mcpgate_proto.hub import SEVERITIES, Hub
from mcpgate_proto.mcp import codes, meta, mirror
from mcpgate_proto.mcp.codes import Fault, FaultKind
from mcpgate_proto.mcp.revisions import MODERN_VERSIONS, Era
from mcpgate_proto.relay.catalog import Merged
from mcpgate_proto.relay.exchange import Answer, Ask, Carry, Client, Exchange, Members, Operation, Route
from mcpgate_proto.relay.relay import ROUTED, Profile, Relay
from mcpgate_proto.relay.subscriptions import Interest
from mcpgate_proto.security.principal import Principal
from mcpgate_proto.wire import jsonrpc, values
from mcpgate_proto.wire.jsonrpc import Raw

__all__ = ["Live", "ModernFace"]

FEATURES = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}
CHANGES = {"toolsListChanged": "tools", "promptsListChanged": "prompts", "resourcesListChanged": "resources"}
COMPLETE = Raw(b'"complete"')
INPUT_REQUIRED = Raw(b'"input_required"')
DISCOVER_TTL_MS = 60_000
CACHEABLE = ("resources/read",)
# What a modern client may be told of (G2); `logging` counts though setLevel is gone.
CAPABILITIES = ("completions", "experimental", "logging", "prompts", "resources", "tools")
NEEDS = {"tools/list": "tools", "tools/call": "tools", "prompts/list": "prompts", "prompts/get": "prompts",
         "resources/list": "resources", "resources/templates/list": "resources", "resources/read": "resources",
         "completion/complete": "completions"}  # fmt: skip


class State(msgspec.Struct, array_like=True):
    """What travels sealed in `requestState`: the upstream's own state, and what it was issued for (G7)."""

    bound: bytes
    state: bytes


class Live:
    """One modern request that is not answered yet: what a transport needs in order to end it."""

    def cancel(self, reason: str) -> None:
        raise NotImplementedError

    def throttle(self, on: bool) -> None:
        """The client takes no more (true), or again (false)."""


Track = Callable[[Live], None]


class ModernFace:
    """Answers modern requests. One per gateway; it keeps nothing between requests."""

    def __init__(self, hub: Hub, relay: Relay) -> None:
        self.hub = hub
        self.relay = relay
        self.listening: dict[Listening, None] = {}

    # -- the ladder (A19), from the point where the envelope is known to be a request

    def handle(
        self,
        request: jsonrpc.Request,
        outlet: Outlet,
        principal: Principal,
        track: Track,
        headers: Iterable[tuple[str, str]] | None = None,
    ) -> None:
        """Answer one request. `headers` of its POST, lower-case names; None where there are none.
        `track` gets the handle of what stays open, with the request it belongs to."""
        told = meta.read(request.params)
        if isinstance(told, str):
            self._error(request, outlet, codes.INVALID_PARAMS, told)
            return
        if headers is not None:
            headers = list(headers)
            wrong = mirror.check_standard(headers, request.method, request.params, told.version)
            if wrong is not None:
                self._error(request, outlet, codes.HEADER_MISMATCH, wrong)
                return
        if told.version not in MODERN_VERSIONS:
            data = {"supported": list(MODERN_VERSIONS), "requested": told.version}
            self._error(
                request,
                outlet,
                codes.UNSUPPORTED_VERSION,
                "unsupported protocol version",
                jsonrpc.to_raw(data),
            )
            return
        client = self._client(told, principal)
        params = values.without(request.params, "_meta")
        method = request.method
        if method == "server/discover":
            self.relay.profile(client, lambda profile: self._discovered(request, outlet, profile))
        elif method in NEEDS and not self.relay.declares(client, NEEDS[method]):
            self.refuse(request, outlet, codes.method_not_found(method))
        elif method in lists.LISTS:
            self._list(request, outlet, client)
        elif method in ROUTED:
            self._call(request, params, told, outlet, client, track, headers)
        elif method == "subscriptions/listen":
            self._listen(request, params, outlet, client, track)
        elif method.startswith("gateway/"):
            self._gateway(request, params, outlet, client)
        else:
            self._unknown(request, params, told, outlet, client, track)

    def _client(self, told: meta.RequestMeta, principal: Principal) -> Client:
        declared = told.capabilities
        features = any(name in declared for name in FEATURES.values())
        capabilities = jsonrpc.encode_object({name: declared[name] for name in sorted(declared)})
        return Client(
            principal=principal,
            era=Era.MODERN,
            revision=told.version,
            capabilities=jsonrpc.detach(capabilities),
            features=features,
        )

    # -- answers

    def finish(self, request: jsonrpc.Request, outlet: Outlet, result: Members, kind: Raw = COMPLETE) -> None:
        """A25: every result has its type; S: every result names who answers (F8)."""
        kept = meta.end_to_end(values.object_or_empty(result["_meta"])) if "_meta" in result else {}
        kept[meta.SERVER_INFO] = jsonrpc.to_raw({"name": "mcpgate", "version": self.hub.config.version})
        told = {**result, "resultType": kind, "_meta": jsonrpc.encode_object(kept)}
        outlet.finish(jsonrpc.encode_result(request.id, told))

    def _error(
        self, request: jsonrpc.Request, outlet: Outlet, code: int, message: str, data: Raw | None = None
    ) -> None:
        outlet.finish(jsonrpc.encode_error(request.id, code, message, data), codes.http_status(code))

    def refuse(self, request: jsonrpc.Request, outlet: Outlet, fault: Fault) -> None:
        body = codes.to_modern(fault)
        outlet.finish(jsonrpc.encode_error(request.id, body.code, body.message, body.data), body.http_status)

    def _discovered(self, request: jsonrpc.Request, outlet: Outlet, profile: Profile) -> None:
        declared = {name: raw for name, raw in profile.capabilities.items() if name in CAPABILITIES}
        result: Members = {
            "supportedVersions": jsonrpc.to_raw(list(MODERN_VERSIONS)),
            "capabilities": jsonrpc.encode_object(declared),
            "ttlMs": jsonrpc.to_raw(DISCOVER_TTL_MS),
            "cacheScope": jsonrpc.to_raw("private"),
        }
        if profile.instructions:
            result["instructions"] = jsonrpc.to_raw(profile.instructions)
        self.finish(request, outlet, result)

    def _list(self, request: jsonrpc.Request, outlet: Outlet, client: Client) -> None:
        kind = lists.LISTS[request.method]
        cursor = lists.unseal_cursor(self.hub, client, request.params)
        if isinstance(cursor, Fault):
            self.refuse(request, outlet, cursor)
            return

        def listed(merged: Merged) -> None:
            found = lists.page(self.hub, client, kind, merged, cursor)
            if isinstance(found, Fault):
                self.refuse(request, outlet, found)
                return
            found["ttlMs"] = jsonrpc.to_raw(merged.ttl_ms)
            found["cacheScope"] = jsonrpc.to_raw("private" if merged.private else "public")
            self.finish(request, outlet, found)

        self.relay.merged(kind, client, listed)

    def _gateway(self, request: jsonrpc.Request, params: Members, outlet: Outlet, client: Client) -> None:
        told = status.answer(self.relay, request.method, params, client)
        if isinstance(told, Fault):
            self.refuse(request, outlet, told)
        else:
            self.finish(request, outlet, told)

    def _unknown(
        self,
        request: jsonrpc.Request,
        params: Members,
        told: meta.RequestMeta,
        outlet: Outlet,
        client: Client,
        track: Track,
    ) -> None:
        """L25: passed through where one modern server is seen as it is; else 404 (C12)."""
        only = self.relay.transparent
        face = only.face(client) if only is not None else None
        if only is not None and face is not None and face.era is Era.MODERN and request.method not in REMOVED:
            self._start(request, Route(only.name, params), told, outlet, client, track, None, Raw(b""))
        else:
            self.refuse(request, outlet, codes.method_not_found(request.method))

    # -- calls

    def _call(
        self,
        request: jsonrpc.Request,
        params: Members,
        told: meta.RequestMeta,
        outlet: Outlet,
        client: Client,
        track: Track,
        headers: Iterable[tuple[str, str]] | None,
    ) -> None:
        explicit = status.explicit_server(params, client)
        if isinstance(explicit, Fault):
            self.refuse(request, outlet, explicit)
            return
        name, params = explicit
        continued = self._continued(request.method, params, client)
        if isinstance(continued, Fault):
            self.refuse(request, outlet, continued)
            return
        carry, answers = continued
        params = values.without(params, "inputResponses", "requestState")

        def routed(found: Route | Fault) -> None:
            if isinstance(found, Fault):
                self.refuse(request, outlet, found)
                return
            if headers is not None and found.plan is not None:
                wrong = mirror.verify(found.plan, headers, params.get("arguments", values.EMPTY))
                if wrong is not None:
                    self._error(request, outlet, codes.HEADER_MISMATCH, wrong)
                    return
            self._start(request, found, told, outlet, client, track, carry, answers)

        if name is not None:
            routed(self.relay.explicit(name, params))
        else:
            self.relay.resolve(request.method, params, client, routed, plan=headers is not None)

    def _continued(self, method: str, params: Members, client: Client) -> tuple[Carry | None, Raw] | Fault:
        """The MRTR members of a retry (G7, G10): the upstream's own state, and the answers."""
        answers = params.get("inputResponses", Raw(b""))
        if answers:
            try:
                for answer in jsonrpc.members(answers).values():
                    jsonrpc.members(answer)
            except jsonrpc.JsonFault:
                return Fault(FaultKind.INVALID_PARAMS, "params.inputResponses is not an object of objects")
        told = params.get("requestState")
        if told is None:
            return (Carry() if answers else None), answers
        text = jsonrpc.text(told)
        opened = (
            self.hub.sealer.open("request-state", client.principal.id, text, self.hub.wall) if text else None
        )
        bad = Fault(
            FaultKind.BAD_STATE, "params.requestState is not valid here (any more); start the call over"
        )
        if opened is None:
            return bad
        try:
            state = msgspec.msgpack.decode(opened, type=State)
        except msgspec.MsgspecError:
            return bad
        if state.bound != _bound(method, params):
            return bad
        return Carry(Raw(state.state)), answers

    def sealed(self, method: str, params: Members, client: Client, carry: Carry) -> Raw | None:
        """The `requestState` for the client. None where the upstream gave none: none is invented (G9)."""
        if not carry.state:
            return None
        payload = msgspec.msgpack.encode(State(_bound(method, params), bytes(carry.state)))
        expires = self.hub.wall + self.hub.limits.request_state_ttl_s
        return jsonrpc.to_raw(self.hub.sealer.seal("request-state", client.principal.id, payload, expires))

    def _start(
        self,
        request: jsonrpc.Request,
        route: Route,
        told: meta.RequestMeta,
        outlet: Outlet,
        client: Client,
        track: Track,
        carry: Carry | None,
        answers: Raw,
    ) -> None:
        level = jsonrpc.text(told.log_level) if told.log_level is not None else None
        if told.log_level is not None and level not in SEVERITIES:
            self._error(request, outlet, codes.INVALID_PARAMS, f"_meta.{meta.LOG_LEVEL} is not a log level")
            return
        token = jsonrpc.detach(told.progress_token) if told.progress_token is not None else None
        call = ModernCall(self, request, outlet, client, token, level)
        operation = Operation(
            method=request.method,
            params=route.params,
            meta=told.rest,
            client=client,
            log_level=level,
            wants_progress=token is not None,
            answers=answers,
            carry=carry,
        )
        track(call)
        call.begin(self.relay.start(operation, route, call))

    # -- subscriptions

    def _listen(
        self, request: jsonrpc.Request, params: Members, outlet: Outlet, client: Client, track: Track
    ) -> None:
        if "notifications" not in params:
            self._error(request, outlet, codes.INVALID_PARAMS, "params.notifications is missing")
            return
        try:
            wanted = jsonrpc.members(params["notifications"])
        except jsonrpc.JsonFault:
            self._error(request, outlet, codes.INVALID_PARAMS, "params.notifications is not an object")
            return
        uris = [
            jsonrpc.text(one) for one in values.items(wanted.get("resourceSubscriptions", Raw(b"[]"))) or []
        ]
        if len(uris) > self.hub.limits.subscriptions_per_session:
            self.refuse(
                request, outlet, Fault(FaultKind.OVERLOADED, "too many resources for one subscription")
            )
            return
        kinds = tuple(kind for name, kind in CHANGES.items() if wanted.get(name) == Raw(b"true"))
        kinds = tuple(kind for kind in kinds if self.relay.declares(client, kind))
        listening = Listening(self, request, outlet, client, kinds)
        track(listening)
        listening.watch([uri for uri in uris if uri is not None])

    def stop(self) -> None:
        """The gateway ends: every subscription gets its result (G19)."""
        for listening in list(self.listening):
            listening.end()


# C12: methods that modern removed; no server gets them from a modern client, however it may answer.
REMOVED = ("initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe",
           "tasks/result", "tasks/list", "sampling/createMessage", "elicitation/create", "roots/list")  # fmt: skip


def _bound(method: str, params: Members) -> bytes:
    """What a `requestState` was issued for: the method and the name or URI."""
    target = params.get("name") or params.get("uri") or values.EMPTY
    return blake2b(method.encode() + b"\x00" + bytes(target), digest_size=16).digest()


class ModernCall(Live):
    """One round of a modern client's call. Implements `relay.exchange.Caller`."""

    def __init__(
        self,
        face: ModernFace,
        request: jsonrpc.Request,
        outlet: Outlet,
        client: Client,
        token: Raw | None,
        level: str | None,
    ) -> None:
        self._face = face
        self._request = request
        # The params were slices of the request's buffer; the routing members are all that is needed later.
        self._bound: Members = {
            name: request.params[name] for name in ("name", "uri") if name in request.params
        }
        self._outlet = outlet
        self._client = client
        self._token = token
        self._level = SEVERITIES.index(level) if level is not None else None
        self._exchange: Exchange | None = None
        self._done = False

    def begin(self, exchange: Exchange) -> None:
        self._exchange = exchange
        if not self._done and self._outlet.pressed:
            exchange.throttle(True)

    # -- from the transport

    def cancel(self, reason: str) -> None:
        """C24: stop work, send nothing more."""
        if not self._done:
            self._over()
            if self._exchange is not None:
                self._exchange.cancel(reason)
            self._outlet.finish(None)

    def throttle(self, on: bool) -> None:
        if self._exchange is not None:
            self._exchange.throttle(on)

    def _over(self) -> None:
        self._done = True
        self._outlet.hold("server is slow", False)

    # -- Caller

    def progressed(self, params: Members) -> None:
        if self._token is not None and not self._done:
            told = {"progressToken": self._token, **params}
            self._outlet.notify(jsonrpc.encode_notification("notifications/progress", told))

    def logged(self, params: Members) -> None:
        """H18: only for a request that named a level, and only from that level up."""
        level = values.text_of(params, "level")
        if self._done or self._level is None or level not in SEVERITIES:
            return
        if SEVERITIES.index(level) >= self._level:
            self._outlet.notify(jsonrpc.encode_notification("notifications/message", params))

    def asked(self, asks: list[Ask], carry: Carry | None) -> None:
        """The round ends with the questions: the exchange is dropped, all that is needed travels sealed."""
        exchange = self._exchange
        if self._done or exchange is None:
            return
        if carry is None:
            # The call is held live by a legacy server; parking it belongs to the crossing of the eras.
            for ask in asks:
                refusal = Fault(FaultKind.INVALID_PARAMS, "the client cannot be asked during this call")
                exchange.answer(ask.key, Answer(fault=refusal))
            return
        missing = self._undeclared(asks)
        exchange.round_over()
        self._over()
        if missing is not None:
            self._face.refuse(self._request, self._outlet, missing)
            return
        result: Members = {}
        if asks:
            wanted = {
                ask.key: jsonrpc.encode_object(
                    {"method": jsonrpc.to_raw(ask.method), "params": jsonrpc.encode_object(ask.params)}
                )
                for ask in asks
            }
            result["inputRequests"] = jsonrpc.encode_object(wanted)
        state = self._face.sealed(self._request.method, self._bound, self._client, carry)
        if state is not None:
            result["requestState"] = state
        self._face.finish(self._request, self._outlet, result, INPUT_REQUIRED)

    def _undeclared(self, asks: list[Ask]) -> Fault | None:
        """G6: only what the client declared in this very request."""
        declared = values.object_or_empty(self._client.capabilities)
        for ask in asks:
            feature = FEATURES.get(ask.method)
            if feature is None:
                return Fault(FaultKind.INTERNAL, "the server asked for something unknown")
            if feature not in declared:
                return codes.missing_capability(jsonrpc.to_raw({feature: {}}))
        return None

    def withdrawn(self, key: str) -> None:
        """A round that ended with its questions cannot be taken back."""

    def completed(self, result: Members) -> None:
        if not self._done:
            self._over()
            if self._request.method in CACHEABLE:
                # H21, H22: a server of the other era gives no hints; there is no safe default but these.
                result = {"ttlMs": Raw(b"0"), "cacheScope": Raw(b'"private"'), **result}
            self._face.finish(self._request, self._outlet, result)

    def failed(self, fault: Fault) -> None:
        if not self._done:
            self._over()
            self._face.refuse(self._request, self._outlet, fault)

    def congested(self, on: bool) -> None:
        if not (self._done and on):
            self._outlet.hold("server is slow", on)


class Listening(Live):
    """One `subscriptions/listen`: its acknowledgement first, then changes, its result at the end."""

    def __init__(
        self,
        face: ModernFace,
        request: jsonrpc.Request,
        outlet: Outlet,
        client: Client,
        kinds: tuple[str, ...],
    ) -> None:
        self._face = face
        self._request = request
        self._outlet = outlet
        self._client = client
        # G15: the id of the listen request on this hop, with its JSON type; 0 and "" are fine.
        self._meta = jsonrpc.encode_object({meta.SUBSCRIPTION_ID: jsonrpc.to_raw(request.id)})
        self._interest = Interest(client, kinds, self._list_changed, self._updated)
        self._left = 0
        self._acknowledged = False
        self._done = False
        self._slow = False
        face.listening[self] = None

    def watch(self, uris: list[str]) -> None:
        """Subscribe to each resource where its owner can; the acknowledgement lists those that worked."""
        self._left = len(uris)
        if not uris:
            self._acknowledge()
        for uri in uris:
            self._face.relay.resolve_uri(uri, self._client, lambda found, uri=uri: self._routed(uri, found))  # type: ignore[misc]

    def _routed(self, uri: str, found: Route | Fault) -> None:
        if isinstance(found, Fault):
            self._settled()
            return
        own = values.text_of(found.params, "uri") or uri
        server = self._face.relay.servers[found.server]

        def watched(fault: Fault | None) -> None:
            if fault is None:
                if self._done:
                    server.unwatch(self._client, own)
                else:
                    self._interest.uris[uri] = (found.server, own)
            self._settled()

        server.watch(self._client, own, watched)

    def _settled(self) -> None:
        self._left -= 1
        if not self._left and not self._done:
            self._acknowledge()

    def _acknowledge(self) -> None:
        """G16: only what is honoured; no `false`."""
        self._acknowledged = True
        self._face.relay.interests.add(self._interest)
        agreed: dict[str, object] = {
            name: True for name, kind in CHANGES.items() if kind in self._interest.kinds
        }
        if self._interest.uris:
            agreed["resourceSubscriptions"] = list(self._interest.uris)
        self._send("notifications/subscriptions/acknowledged", {"notifications": jsonrpc.to_raw(agreed)})

    def _send(self, method: str, params: Members) -> None:
        if not self._done:
            self._outlet.notify(jsonrpc.encode_notification(method, {**params, "_meta": self._meta}))

    def _list_changed(self, kind: str) -> None:
        if not self._slow:
            self._send(f"notifications/{kind}/list_changed", {})

    def _updated(self, params: Members) -> None:
        if not self._slow:
            self._send("notifications/resources/updated", values.without(params, "_meta"))

    def throttle(self, on: bool) -> None:
        """A client that does not read misses changes; when it reads again it looks afresh."""
        was, self._slow = self._slow, on
        if was and not on:
            for kind in self._interest.kinds:
                self._list_changed(kind)

    def _close(self) -> None:
        self._done = True
        self._face.listening.pop(self, None)
        self._face.relay.interests.remove(self._interest)
        held, self._interest.uris = self._interest.uris, {}
        for server, own in held.values():
            self._face.relay.servers[server].unwatch(self._client, own)

    def cancel(self, reason: str) -> None:
        if not self._done:
            self._close()
            self._outlet.finish(None)

    def end(self) -> None:
        if not self._done:
            self._close()
            told: Members = {"resultType": COMPLETE, "_meta": self._meta}
            self._outlet.finish(jsonrpc.encode_result(self._request.id, told))
