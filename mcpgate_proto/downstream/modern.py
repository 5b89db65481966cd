"""Modern clients (2026-07-28): every request stands alone.

Owns: the part of the ladder that needs no HTTP (A19: `_meta`, headers against body, revision, method,
routing, capability), `server/discover`, lists, the start of calls and of subscriptions. A transport gives
each request an `Outlet`.
Must never: remember anything of a client between two requests (C26); ask a client by request (C23).
"""

from __future__ import annotations

from collections.abc import Iterable

from mcpgate_proto.downstream import audited, lists, status, tasks
from mcpgate_proto.downstream.listening import Listening
from mcpgate_proto.downstream.live import CHANGES, COMPLETE, FEATURES, INPUT_REQUIRED, Track
from mcpgate_proto.downstream.outlet import Outlet
from mcpgate_proto.downstream.rounds import TOO_LATE, Continuation, ModernCall, Rounds, Turn, undeclared_in
from mcpgate_proto.hub import SEVERITIES, Hub
from mcpgate_proto.mcp import codes, content, extensions, meta, mirror
from mcpgate_proto.mcp.codes import Fault, FaultKind
from mcpgate_proto.mcp.revisions import MODERN_VERSIONS, Era
from mcpgate_proto.relay.catalog import Merged
from mcpgate_proto.relay.exchange import TOO_MUCH, Answer, Client, Members, Operation, Route
from mcpgate_proto.relay.parking import Parking
from mcpgate_proto.relay.relay import Profile, Relay
from mcpgate_proto.relay.router import ROUTED, thing
from mcpgate_proto.security.principal import Principal
from mcpgate_proto.wire import jsonrpc, values
from mcpgate_proto.wire.jsonrpc import Raw

__all__ = ["ModernFace"]

DISCOVER_TTL_MS = 60_000
# What a modern client may be told of (G2); `logging` counts though setLevel is gone.
CAPABILITIES = ("completions", "experimental", "extensions", "logging", "prompts", "resources", "tools")
NEEDS = {
    "tools/list": "tools",
    "tools/call": "tools",
    "prompts/list": "prompts",
    "prompts/get": "prompts",
    "resources/list": "resources",
    "resources/templates/list": "resources",
    "resources/read": "resources",
    "completion/complete": "completions",
}
# C12: methods that modern removed; no server gets them from a modern client, however it may answer.
REMOVED = (
    "initialize",
    "ping",
    "logging/setLevel",
    "resources/subscribe",
    "resources/unsubscribe",
    "tasks/result",
    "tasks/list",
    "sampling/createMessage",
    "elicitation/create",
    "roots/list",
)


class ModernFace:
    """Answers modern requests. One per gateway. Implements `rounds.Answerer`."""

    def __init__(self, hub: Hub, relay: Relay) -> None:
        self.hub = hub
        self.relay = relay
        self.listening: dict[Listening, None] = {}
        self.parking = Parking(hub)
        self._rounds = Rounds(hub, self.parking, relay.tasks)

    # -- the ladder, from the point where the envelope is known to be a request

    def handle(
        self,
        request: jsonrpc.Request,
        outlet: Outlet,
        principal: Principal,
        track: Track,
        headers: Iterable[tuple[str, str]] | None = None,
    ) -> None:
        """Answer one request. `headers` of its POST, lower-case names; None where there are none. `track`
        gets the handle of what stays open."""
        told = meta.read(request.params)
        if isinstance(told, str):
            _error(request, outlet, codes.INVALID_PARAMS, told)
            return
        if headers is not None:
            headers = list(headers)
            wrong = mirror.check_standard(headers, request.method, request.params, told.version)
            if wrong is not None:
                _error(request, outlet, codes.HEADER_MISMATCH, wrong)
                return
        if told.version not in MODERN_VERSIONS:
            data = jsonrpc.to_raw({"supported": list(MODERN_VERSIONS), "requested": told.version})
            _error(request, outlet, codes.UNSUPPORTED_VERSION, "unsupported protocol version", data)
            return
        client = _client(told, principal, self.relay.carried(told.capabilities, told.version))
        self._dispatch(Turn(request, told, client, outlet, track, headers))

    def _dispatch(self, turn: Turn) -> None:
        method = turn.method
        told = status.without_route(turn.request.params, turn.client) if method not in ROUTED else None
        if isinstance(told, Fault):
            self.refuse(turn, told)
        elif method == "server/discover":
            rest = turn.light()
            self.relay.profile(turn.client, lambda profile: self._discovered(rest, profile))
        elif method in NEEDS and not self.relay.declares(turn.client, NEEDS[method]):
            self.refuse(turn, codes.method_not_found(method))
        elif method in lists.LISTS:
            self._list(turn)
        elif method in ROUTED:
            self._call(turn)
        elif method == "subscriptions/listen":
            self._listen(turn)
        elif method in tasks.METHODS:
            self._task(turn)
        elif method.startswith("gateway/"):
            self._gateway(turn)
        else:
            self._unknown(turn)

    # -- answers

    def finish(self, turn: Turn, result: Members, kind: Raw = COMPLETE) -> None:
        """A25: every result has its type; S: every result names who answers (F8)."""
        if kind is INPUT_REQUIRED:
            audited.asked(turn.outlet)
        kept = meta.end_to_end(values.object_or_empty(result["_meta"])) if "_meta" in result else {}
        if turn.method == "resources/read" and "cacheScope" in result and self.relay.policy.rules.personal:
            # H22: what one principal may read, a cache must not give to another.
            result = {**result, "cacheScope": Raw(b'"private"')}
        kept[meta.SERVER_INFO] = jsonrpc.to_raw({"name": "mcpgate", "version": self.hub.config.version})
        told = {**result, "resultType": kind, "_meta": jsonrpc.encode_object(kept)}
        turn.outlet.finish(jsonrpc.encode_result(turn.request.id, told))

    def refuse(self, turn: Turn, fault: Fault, server: str = "") -> None:
        fault = self.relay.incidents.account(fault, turn.method, server)
        body = codes.to_modern(fault)
        audited.failed(turn.outlet, fault, body.code)
        message = jsonrpc.encode_error(turn.request.id, body.code, body.message, body.data)
        turn.outlet.finish(message, body.http_status, body.retry_after_s)

    def _discovered(self, turn: Turn, profile: Profile) -> None:
        declared = {name: raw for name, raw in profile.capabilities.items() if name in CAPABILITIES}
        result: Members = {
            "supportedVersions": jsonrpc.to_raw(list(MODERN_VERSIONS)),
            "capabilities": jsonrpc.encode_object(declared),
            "ttlMs": jsonrpc.to_raw(DISCOVER_TTL_MS),
            "cacheScope": jsonrpc.to_raw("private"),
        }
        if profile.instructions:
            result["instructions"] = jsonrpc.to_raw(profile.instructions)
        self.finish(turn, result)

    def _list(self, turn: Turn) -> None:
        kind = lists.LISTS[turn.method]
        cursor = lists.unseal_cursor(self.hub, turn.client, turn.request.params)
        if isinstance(cursor, Fault):
            self.refuse(turn, cursor)
            return
        turn = turn.light()

        def listed(merged: Merged) -> None:
            found = lists.page(self.hub, turn.client, kind, merged, cursor)
            if isinstance(found, Fault):
                self.refuse(turn, found)
                return
            found["ttlMs"] = jsonrpc.to_raw(merged.ttl_ms)
            found["cacheScope"] = jsonrpc.to_raw("private" if merged.private else "public")
            self.finish(turn, found)

        self.relay.merged(kind, turn.client, listed)

    def _gateway(self, turn: Turn) -> None:
        told = status.answer(self.relay, turn.method, turn.request.params, turn.client)
        if isinstance(told, Fault):
            self.refuse(turn, told)
        else:
            self.finish(turn, told)

    def _unknown(self, turn: Turn) -> None:
        """L25: passed through where one modern server is seen as it is; else 404 (C12)."""
        only = self.relay.transparent
        face = only.face(turn.client) if only is not None else None
        if only is not None and face is not None and face.era is Era.MODERN and turn.method not in REMOVED:
            call = ModernCall(self, self._rounds, turn)
            turn.track(call)
            self._start(
                turn, call, Route(only.name, values.without(turn.request.params, "_meta")), Continuation()
            )
        else:
            self.refuse(turn, codes.method_not_found(turn.method))

    # -- calls

    def _call(self, turn: Turn) -> None:
        explicit = status.explicit_server(values.without(turn.request.params, "_meta"), turn.client)
        if isinstance(explicit, Fault):
            self.refuse(turn, explicit)
            return
        level = turn.told.log_level
        if level is not None and jsonrpc.text(level) not in SEVERITIES:
            self.refuse(turn, Fault(FaultKind.INVALID_PARAMS, f"_meta.{meta.LOG_LEVEL} is not a log level"))
            return
        continued = self._rounds.open(turn)
        if isinstance(continued, Fault):
            self.refuse(turn, continued)
        elif continued.parked is not None:
            self._resume(turn, continued)
        elif continued.declined:
            self._declined(turn)
        else:
            self._route(turn, explicit, continued)

    def _route(self, turn: Turn, explicit: tuple[str | None, Members], continued: Continuation) -> None:
        name, params = explicit
        # `task` is of 2025-11-25 and means nothing here (L22).
        params = values.without(params, "inputResponses", "requestState", "task")
        call = ModernCall(self, self._rounds, turn, continued.attempt)
        turn.track(call)  # from here on it can be cancelled, also while it is still being routed
        whose, weight = turn.client.principal.id, turn.request.weight
        room = self.hub.keep(whose, weight)

        def routed(found: Route | Fault) -> None:
            self.hub.keep(whose, -weight)
            if isinstance(found, Fault):
                call.failed(found)
                return
            if call.done:
                return
            if continued.server and continued.server != found.server:
                call.failed(TOO_LATE)
                return
            if turn.headers is not None and found.plan is not None:
                wrong = mirror.verify(found.plan, turn.headers, params.get("arguments", values.EMPTY))
                if wrong is not None:
                    call.over()
                    _error(turn.request, turn.outlet, codes.HEADER_MISMATCH, wrong)
                    return
            self._start(turn, call, found, continued)

        def resolve() -> None:
            plan = turn.headers is not None
            self.relay.router.resolve(turn.method, params, turn.client, routed, plan=plan, server=name)

        if not room:
            routed(TOO_MUCH)
        elif continued.attempt > 1:
            # L3: the user has opened the URLs, and the server asked again: it gets time to notice.
            self.hub.after(min(2.0**continued.attempt, 30.0), "opened URL", resolve)
        else:
            resolve()

    def _start(self, turn: Turn, call: ModernCall, route: Route, continued: Continuation) -> None:
        call.server = route.server
        audited.routed(turn.outlet, route.server)
        level = turn.told.log_level
        operation = Operation(
            method=turn.method,
            params=route.params,
            meta=turn.told.rest,
            client=turn.client,
            shown=thing(turn.method, turn.request.params)[1],
            log_level=jsonrpc.text(level) if level is not None else None,
            wants_progress=turn.told.progress_token is not None,
            answers=continued.answers,
            carry=continued.carry,
            forwarded=turn.outlet.forwarded,
            weight=turn.request.weight,
        )
        if turn.method == "tools/call" and tasks.declares(turn):
            operation.takes_task = True
        call.begin(self.relay.start(operation, route, call))

    def _task(self, turn: Turn) -> None:
        found = tasks.route(self.relay, turn)
        if isinstance(found, Fault):
            self.refuse(turn, found)
            return
        call = tasks.TaskCall(self, self._rounds, turn, found)
        turn.track(call)
        self._start(turn, call, found, Continuation())

    def _resume(self, turn: Turn, continued: Continuation) -> None:
        """A retry of a parked call (L1.5): its answers go to the server once they are all there."""
        parked = continued.parked
        assert parked is not None
        audited.routed(turn.outlet, parked.server)
        limited = self.relay.again(parked.exchange)
        if limited is not None:  # its state stays good
            self.refuse(turn, codes.rate_limited(limited.retry_after_ms), parked.server)
            return
        given = values.object_or_empty(continued.answers or values.EMPTY)
        wanted = [key for key in parked.asked_keys if key in given]  # unknown keys are ignored (G10)
        answers = {key: Answer(jsonrpc.detach(content.bare_answer(given[key]))) for key in wanted}
        if not parked.keep(answers):  # its state stays good here, too
            self.refuse(turn, TOO_MUCH, parked.server)
            return
        missing = parked.missing()
        if missing and parked.outcome is None:
            # G10: ask again for what is missing, keep what came (L1.4); only what this request declares (G6).
            undeclared = undeclared_in(turn.client, missing)
            if undeclared is not None or parked.round >= self.hub.limits.rounds_per_call:
                too_often = Fault(FaultKind.BAD_STATE, "the questions were not answered; start the call over")
                self.refuse(turn, undeclared or too_often)
                return
            self.parking.ask(parked, [])
            state = self._rounds.seal(turn, "parked", parked.id.encode(), parked.round)
            self.finish(turn, self._rounds.questions(missing, state), INPUT_REQUIRED)
            return
        operation = parked.exchange.operation
        operation.wants_progress = turn.told.progress_token is not None
        call = ModernCall(self, self._rounds, turn)
        call.server = parked.server
        turn.track(call)
        call.begin(parked.exchange)
        self.parking.resume(parked, call)

    def _declined(self, turn: Turn) -> None:
        """L3, L4: the user would not open the URL that the server needs."""
        told = "the user declined to open the URL that the server asked for"
        if turn.method == "tools/call":
            self.finish(turn, content.tool_failure(told))
        else:
            self.refuse(turn, Fault(FaultKind.DENIED, told))

    # -- subscriptions

    def _listen(self, turn: Turn) -> None:
        params = turn.request.params
        try:
            wanted = jsonrpc.members(params.get("notifications", Raw(b"null")))
        except jsonrpc.JsonFault:
            self.refuse(turn, Fault(FaultKind.INVALID_PARAMS, "params.notifications is not an object"))
            return
        listed = values.items(wanted.get("resourceSubscriptions", Raw(b"[]"))) or []
        asked = values.items(wanted["taskIds"]) or [] if "taskIds" in wanted else []
        if "taskIds" in wanted and not tasks.declares(turn):
            self.refuse(turn, codes.missing_capability(extensions.TASKS_NEEDED))  # G21
            return
        if len(listed) + len(asked) > self.hub.limits.subscriptions_per_session:
            self.refuse(turn, Fault(FaultKind.OVERLOADED, "too much for one subscription"))
            return
        kinds = [kind for name, kind in CHANGES.items() if wanted.get(name) == Raw(b"true")]
        kinds = [kind for kind in kinds if self.relay.declares(turn.client, kind)]
        client, outlet = turn.client, turn.outlet
        listening = Listening(self.relay, self.listening, turn.request, outlet, client, tuple(kinds))
        turn.track(listening)
        uris = [jsonrpc.text(one) for one in listed]
        told = tasks.handles(self.relay, client, asked)
        listening.watch([uri for uri in uris if uri is not None], told)

    def stop(self) -> None:
        """The gateway ends: every subscription gets its result (G19), parked calls are given up."""
        for listening in list(self.listening):
            listening.end()
        self.parking.stop()


def _client(told: meta.RequestMeta, principal: Principal, carried: Members) -> Client:
    """The client as this one request declares it (C26), with the extensions that go on (N2)."""
    declared = told.capabilities
    if extensions.MEMBER in declared:
        declared = values.without(declared, extensions.MEMBER)
        if carried:
            declared[extensions.MEMBER] = jsonrpc.encode_object(carried)
    capabilities = jsonrpc.encode_object({name: declared[name] for name in sorted(declared)})
    # L0.2, L17: towards a legacy server only what is carried; roots without listChanged.
    features = {name: declared[name] for name in sorted(declared) if name in FEATURES.values()}
    if "roots" in features:
        features["roots"] = values.EMPTY
    return Client(
        principal=principal,
        era=Era.MODERN,
        revision=told.version,
        capabilities=jsonrpc.detach(capabilities),
        profile=jsonrpc.detach(jsonrpc.encode_object(features)),
        features=bool(features),
    )


def _error(
    request: jsonrpc.Request, outlet: Outlet, code: int, message: str, data: Raw | None = None
) -> None:
    outlet.finish(jsonrpc.encode_error(request.id, code, message, data), codes.http_status(code))
