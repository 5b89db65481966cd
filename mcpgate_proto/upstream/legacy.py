"""A session with a legacy server (2024-11-05 .. 2025-11-25), over any link.

Owns: the handshake, our answers to its requests, which call a request of the server belongs to, the
session's log level, resource subscriptions.
Must never: put a server's question to a client whose call it may not belong to (L0.4, I2).
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from mcpgate_proto.hub import SEVERITIES, Hub
from mcpgate_proto.mcp import codes, content
from mcpgate_proto.mcp.codes import Fault, FaultKind
from mcpgate_proto.mcp.revisions import LATEST_LEGACY, LEGACY_VERSIONS, REVISIONS, Era
from mcpgate_proto.relay.exchange import Answer, Ask, Audience, Carry, Exchange, Members, Phase
from mcpgate_proto.timers import Timer
from mcpgate_proto.upstream.keys import PoolKey
from mcpgate_proto.upstream.knock import NO_SESSIONS
from mcpgate_proto.upstream.legacy_task_book import related, unrelated
from mcpgate_proto.upstream.legacy_tasks import TaskDesk
from mcpgate_proto.upstream.link import Link, Outgoing
from mcpgate_proto.upstream.session import EMPTY, LIST_CHANGED, RETIRED, Host, UpstreamSession
from mcpgate_proto.wire import jsonrpc, values
from mcpgate_proto.wire.jsonrpc import Raw

__all__ = ["LegacySession"]

# What a server may ask of a client, and the capability that must have been declared (I4).
FEATURES = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}


class Question(msgspec.Struct, frozen=True):
    """A request of the server that a client is answering, or will, if it is of a task: `task` is its id."""

    id: jsonrpc.RequestId
    ask: Ask
    exchange: Exchange | None
    audience: Audience | None
    origin: int | None
    task: str = ""


class LegacySession(UpstreamSession):
    """See the head of this file. `key.profile` is what we declare: never more than the client did (L0.2)."""

    era = Era.LEGACY

    def __init__(self, hub: Hub, host: Host, name: str, key: PoolKey, link: Link) -> None:
        super().__init__(hub, host, name, key, link)
        self.version = key.revision or LATEST_LEGACY
        self._questions: dict[str, Question] = {}
        self._watching: dict[str, list[Callable[[Fault | None], None]]] = {}
        self._quarantine: dict[int, Timer] = {}
        # Until then the server may ask for a call that was cancelled.
        self._given_up_until = hub.now
        self._level: int | None = None
        self._started = False
        self.tasks = TaskDesk(self)

    # -- the handshake

    def link_up(self) -> None:
        if self.host.doubts(Era.LEGACY):
            self.link.knock(self._knocked)
        else:
            self.handshake()

    def _knocked(self, status: int) -> None:
        if self.over:
            return
        if status == NO_SESSIONS:
            self.end("it has no sessions", Fault(FaultKind.UNSUPPORTED, "the server has no sessions"))
        else:
            self.handshake()

    def handshake(self) -> None:
        if self._started:
            return
        self._started = True
        self.link.expect_session()
        params = {
            "protocolVersion": jsonrpc.to_raw(self.version),
            "capabilities": Raw(self.key.profile),
            "clientInfo": jsonrpc.to_raw({"name": "mcpgate", "version": self.hub.config.version}),
        }
        self.request("initialize", params, self._initialized)

    def _initialized(self, answer: Members | Fault) -> None:
        if isinstance(answer, Fault):
            self.end(f"it refused initialize: {answer.message[:200]}", answer)
            return
        version = values.text_of(answer, "protocolVersion")
        if version not in LEGACY_VERSIONS:
            # F3: a counter-offer that we do not support means to disconnect. A server that is known to speak
            # the new era lacks this one, then.
            told = "it answered initialize with no revision that has it"
            self.end(told, Fault(FaultKind.UNSUPPORTED, told))
            return
        self.version = version
        self.capabilities = values.object_or_empty(answer.get("capabilities", EMPTY))
        self.instructions = values.text_of(answer, "instructions") or ""
        self.server_info = jsonrpc.detach(answer.get("serverInfo", EMPTY))
        self.link.speak(version)
        # F1: nothing but pings goes before it; where each message has a connection of its own, it has to have
        # arrived before the next is sent.
        self.link.introduce(jsonrpc.encode_notification("notifications/initialized", {}), self._introduced)

    def _introduced(self) -> None:
        if self.over or self.ready:
            return
        self.link.listen(self._listening)

    def _listening(self) -> None:
        if self.over or self.ready:
            return
        self.ready = self.was_ready = True
        self.host.session_ready(self)

    # -- requests out

    def compose(self, number: int, method: str, params: Members, exchange: Exchange | None) -> Outgoing:
        if exchange is not None:
            params = content.down_params(method, params, REVISIONS[self.version])
            params = self.tasks.augmented(exchange, params)
            self._raise_level(exchange.operation.log_level)
            meta = dict(exchange.operation.meta)
            if exchange.operation.wants_progress:
                meta["progressToken"] = Raw(b"%d" % number)
            if meta:
                params = {**params, "_meta": jsonrpc.encode_object(meta)}
        elif "_meta" in params:
            params = values.without(params, "_meta")  # what a modern server would be told (N8)
        # A server of the new era wants to be told the method (C15), one of the old era does not mind (C43).
        named = method == "initialize" and self.host.doubts(Era.LEGACY)
        headers = (("Mcp-Method", method),) if named else ()
        pinned = method == "tasks/result" and not self.link.single_channel  # answered when the task ends
        message = jsonrpc.encode_request(number, method, params)
        return Outgoing(
            number, message, headers, pinned=pinned, whose=self.whose(exchange), brief=exchange is None
        )

    def _raise_level(self, level: str | None) -> None:
        """The server's level is one for the session: the most verbose that any of its clients wants (L14)."""
        if level is None or "logging" not in self.capabilities or level not in SEVERITIES:
            return
        wanted = SEVERITIES.index(level)
        if self._level is None or wanted < self._level:
            self._level = wanted
            self.request("logging/setLevel", {"level": jsonrpc.to_raw(level)}, lambda answer: None)

    def begin(self, exchange: Exchange) -> None:
        if not self.tasks.takes(exchange):
            super().begin(exchange)
            self.tasks.opened(exchange)

    @property
    def busy(self) -> bool:
        return super().busy or self.tasks.alive

    @property
    def can_go(self) -> bool:
        return not super().busy and not self.tasks.working

    def forget(self, number: int) -> None:
        """The answer to a request of our own is not wanted any more."""
        own = self._own.pop(number, None)
        if own is not None:
            own.timer.cancel()
            if not self.link.unsent(number):
                params = {"requestId": Raw(b"%d" % number)}
                self.link.notify(jsonrpc.encode_notification("notifications/cancelled", params))
            self.link.abandon(number)

    def resume(self, exchange: Exchange, answers: dict[str, Answer], carry: Carry | None) -> None:
        for key, answer in answers.items():
            self.answer(key, answer)

    def answer(self, key: str, answer: Answer) -> None:
        """What the client says to a question of the server."""
        question = self._questions.pop(key, None)
        if question is None or self.over:
            return
        if answer.fault is None:
            answer = self._fitting(question.ask.method, answer)
        if answer.fault is None:
            result = values.object_or_empty(answer.result)
            if question.task:
                result = related(result, question.task)  # 1125 tasks: responses name the task, too
            message = jsonrpc.encode_result(question.id, result if question.task else answer.result)
        else:
            error = codes.to_legacy(answer.fault, REVISIONS[self.version])
            message = jsonrpc.encode_error(question.id, error.code, error.message, error.data)
        self.link.reply(message, question.origin)

    def _fitting(self, method: str, answer: Answer) -> Answer:
        """An answer as a server of this revision can take it (L5)."""
        fitted = content.answer_for_legacy(method, answer.result, REVISIONS[self.version])
        if isinstance(fitted, content.Refused):
            return Answer(fault=fitted.fault) if fitted.result is None else Answer(fitted.result)
        return Answer(fitted)

    def cancel(self, exchange: Exchange, reason: str) -> None:
        """L15: a legacy server is told; its answer, if it comes, is dropped."""
        known = self._ids.get(exchange)
        if known is not None and self.link.unsent(known):
            # A cancellation that overtook its request would not stop it.
            self.drop(exchange)
            self.link.abandon(known)
            return
        if self.tasks.cancelled(exchange):
            self._forget_questions(exchange)
            return
        quarantine = exchange.operation.interactive and self.link.single_channel
        if exchange.operation.interactive:
            self._given_up_until = self.hub.now + self.hub.limits.lease_wait_s
        number = self.drop(exchange, keep_lease=quarantine)
        self._forget_questions(exchange)
        if number is None or self.over:
            return
        if quarantine:
            # The server may still ask for this call; until it has answered, or long enough, what it asks
            # must not reach another client (L0.4).
            wait_s = self.hub.limits.lease_wait_s
            self._quarantine[number] = self.hub.after(wait_s, "lease", lambda: self._unanswered(number))
        params = {"requestId": Raw(b"%d" % number)}
        if reason:
            params["reason"] = jsonrpc.to_raw(reason[:200])
        self.link.notify(jsonrpc.encode_notification("notifications/cancelled", params))
        # Over HTTP the answer stream may still end in good order; not for ever.
        self.hub.after(self.hub.limits.close_timeout_s, "cancelled call", lambda: self.link.abandon(number))

    def _unanswered(self, number: int) -> None:
        """The cancelled call was never answered (nor has it to be: G23), so its questions may still come. The
        channel stays with its client; where clients have no name, it is given up once nothing is on it."""
        if self.lease != "*":
            del self._quarantine[number]
            self.kept_for = self.lease or ""
        elif not self.calls and not self.tasks.alive:
            self.end(RETIRED, None)
        else:
            again_s = self.hub.limits.lease_wait_s
            self._quarantine[number] = self.hub.after(again_s, "lease", lambda: self._unanswered(number))

    def _release(self, number: int) -> None:
        timer = self._quarantine.pop(number, None)
        if timer is not None:
            timer.cancel()
            self.untake()
            self.host.session_freed(self)

    def _pass_on_questions(self, exchange: Exchange) -> None:
        """A call ended with a question open: on a shared channel it was another call's, then, and becomes
        that one's; with none left, the server is told that nobody will answer."""
        for key, question in list(self._questions.items()):
            if question.exchange is not exchange:
                continue
            others = self._calls_of(None) if self.link.single_channel and not question.task else []
            if question.origin is None and others:
                self._questions[key] = msgspec.structs.replace(question, exchange=others[0])
                exchange.hand_over(key, others[0])
            else:
                gone = Fault(FaultKind.INVALID_PARAMS, "the request that this belonged to is over")
                self.answer(key, Answer(fault=gone))

    def _forget_questions(self, exchange: Exchange) -> None:
        """Those of a task stand open until the client waits for it again."""
        for key, question in list(self._questions.items()):
            if question.exchange is not exchange:
                continue
            if question.task and exchange.operation.method == "tasks/result":
                self._questions[key] = msgspec.structs.replace(question, exchange=None)
            else:
                del self._questions[key]

    def adopt(self, exchange: Exchange, task: str) -> None:
        """A call became a task, and its questions the task's; they are still asked if the call goes on."""
        for key, question in list(self._questions.items()):
            if question.exchange is exchange:
                asker = exchange if exchange.phase is not Phase.DONE else None
                self._questions[key] = msgspec.structs.replace(question, exchange=asker, task=task)

    def forget_task(self, task: str) -> None:
        """Nothing that a task has asked is answered any more."""
        for key in self.questions_of(task):
            del self._questions[key]

    def questions_of(self, task: str) -> dict[str, Ask]:
        return {key: one.ask for key, one in self._questions.items() if one.task == task}

    def unasked(self, task: str) -> dict[str, Ask]:
        """The questions of a task that nobody is being asked."""
        return {
            key: one.ask for key, one in self._questions.items() if one.task == task and one.exchange is None
        }

    def hand_out(self, task: str, exchange: Exchange) -> list[Ask]:
        """From now on `exchange` is asked what stood open of a task."""
        asks = self.unasked(task)
        for key in asks:
            self._questions[key] = msgspec.structs.replace(self._questions[key], exchange=exchange)
        return list(asks.values())

    # -- resource subscriptions

    def watch(self, uri: str, done: Callable[[Fault | None], None]) -> None:
        """Subscribe; `upstream/watches.py` counts who wants it."""
        if uri in self._watching:
            self._watching[uri].append(done)
            return
        if uri in self.watches:
            done(None)
            return
        self.watches[uri] = None
        self._watching[uri] = [done]

        def answered(answer: Members | Fault) -> None:
            fault = answer if isinstance(answer, Fault) else None
            if fault is not None:
                self.watches.pop(uri, None)
            for one in self._watching.pop(uri, []):
                one(fault)

        wait_s = self.hub.limits.startup_wait_s  # a client waits for this with its other subscriptions
        self.request("resources/subscribe", {"uri": jsonrpc.to_raw(uri)}, answered, wait_s)

    def unwatch(self, uri: str) -> None:
        if self.watches.pop(uri, self) is None and not self.over:
            self.request("resources/unsubscribe", {"uri": jsonrpc.to_raw(uri)}, lambda answer: None)

    def roots_changed(self) -> None:
        """The client's roots changed (L17); told only where we declared that we would tell."""
        roots = values.object_or_empty(values.object_or_empty(Raw(self.key.profile)).get("roots", EMPTY))
        if self.ready and roots.get("listChanged") == Raw(b"true"):
            self.link.notify(jsonrpc.encode_notification("notifications/roots/list_changed", {}))

    # -- messages in

    def _result(self, number: int, result: Members) -> None:
        self._finish(number, result)

    def _error(self, number: int, message: jsonrpc.ErrorReply) -> None:
        exchange = self.calls.get(number)
        method, params = (exchange.operation.method, exchange.operation.params) if exchange else ("", {})
        fault = codes.from_legacy_error(message.code, message.message, message.data, method, params)
        self._finish(number, fault)

    def _finish(self, number: int, outcome: Members | Fault) -> None:
        if self._own_answer(number, outcome):
            return
        exchange = self.calls.get(number)
        if exchange is None:
            self.hub.count("upstream_late_responses")  # cancelled meanwhile: G23
            self._release(number)
            self.tasks.orphaned(outcome)
            return
        self.drop(exchange)
        if self.tasks.made(number, exchange, outcome):
            return
        self._pass_on_questions(exchange)
        if self.tasks.replans(exchange, outcome):
            return
        self.tasks.noted(exchange, outcome)
        if isinstance(outcome, Fault):
            exchange.fail(outcome)
        else:
            exchange.complete(outcome)

    def _notification(self, message: jsonrpc.Notification, origin: int | None) -> None:
        method, params = message.method, message.params
        if method == "notifications/progress":
            self.progressed(params)
        elif method == "notifications/message":
            self._logged(params, origin)
        elif method in LIST_CHANGED:
            self.host.list_changed(self, LIST_CHANGED[method])
        elif method == "notifications/resources/updated":
            self.host.resource_updated(self, params)
        elif method == "notifications/cancelled":
            self._withdrawn(params)
        elif method == "notifications/tasks/status":
            self.tasks.status_told(params)
        else:
            self.hub.count("upstream_unknown_notifications")

    def pass_progress(self, token: int, value: float, told: Members) -> bool:
        return super().pass_progress(token, value, told) or self.tasks.progressed(token, value, told)

    def _logged(self, params: Members, origin: int | None) -> None:
        exchange = self.log_owner(origin)
        if exchange is not None:
            exchange.log(params)
        elif not self.calls and len(self.users) == 1:
            next(iter(self.users.values())).logged_outside(params)
        else:
            self.hub.count("upstream_stray_logs")

    def _withdrawn(self, params: Members) -> None:
        wanted = params.get("requestId", EMPTY)
        found = [key for key, one in self._questions.items() if values.same_id(one.id, wanted)]
        if not found:
            return
        question = self._questions.pop(found[0])
        if question.exchange is not None:
            question.exchange.withdraw(found[0])
        elif question.audience is not None:
            question.audience.withdrawn_outside(question.ask)

    # -- the server asks

    def _asked(self, message: jsonrpc.Request, origin: int | None) -> None:
        if message.method == "ping":
            self.link.reply(jsonrpc.encode_result(message.id, EMPTY), origin)
            return
        feature = FEATURES.get(message.method)
        if feature is None or feature not in values.object_or_empty(Raw(self.key.profile)):
            self._refuse(message, origin, codes.METHOD_NOT_FOUND, "this client does not offer that")
            return
        key = values.encode_id(message.id)
        if key in self._questions or len(self._questions) >= self.hub.limits.asks_per_call:
            self._refuse(message, origin, codes.INVALID_REQUEST, "too many or repeated requests")
            return
        # L18: the client hosts no tasks; `task` is ignored.
        ask = Ask(key, message.method, values.without(message.params, "task"))
        task = self.tasks.of(message, origin)
        if task is not None:
            asker = self.tasks.asker(task)
            if asker is None or asker is task.driver:
                ask = msgspec.structs.replace(ask, params=unrelated(ask.params))
            self._questions[key] = Question(message.id, ask, asker, None, origin, task.id)
            if asker is not None:
                asker.ask([ask], None)
            else:
                self.tasks.asked(task)
            return
        calls = self._calls_of(origin)
        if origin is None and self.tasks.named(message.params) is not None:
            # A task that is not known, unless it is that of a call whose answer is on the way.
            calls = [exchange for exchange in calls if exchange.operation.made_in]
            ask = msgspec.structs.replace(ask, params=unrelated(ask.params))
        audience = self._sole_audience()
        if len(calls) == 1 or (calls and (audience is None or not audience.reachable)):
            # Of several, one that is not asking yet is likelier; `_pass_on_questions` mends a wrong guess.
            exchange = next((one for one in calls if not one.is_asking), calls[0])
            self._questions[key] = Question(message.id, ask, exchange, None, origin)
            exchange.ask([ask], None)
            return
        if audience is not None:
            # Of no one call, but of one client for certain.
            self._questions[key] = Question(message.id, ask, None, audience, origin)
            for exchange in calls:
                exchange.client_is_asked(True)
            if audience.asked_outside(ask, lambda key, answer: self._answered_outside(key, answer, calls)):
                return
            for exchange in calls:
                exchange.client_is_asked(False)
            del self._questions[key]
        # I2, L1.13: outside a call, or of no certain client. Never some other client's.
        self._refuse(message, origin, codes.INVALID_PARAMS, "no request of the client is open for this")

    def _answered_outside(self, key: str, answer: Answer, calls: list[Exchange]) -> None:
        for exchange in calls:
            exchange.client_is_asked(False)
        self.answer(key, answer)

    def _calls_of(self, origin: int | None) -> list[Exchange]:
        """The calls that a server's request may belong to: by its stream, else those that hold the lease,
        which are all of one client."""
        if origin is not None:
            found = self.calls.get(origin)
            return [found] if found is not None else []
        calls = [exchange for exchange in self.calls.values() if exchange.operation.interactive]
        if self.link.single_channel:
            return calls if self.lease is not None else []
        # Servers on the TypeScript SDK ask on the session's own stream unless told otherwise. It can be of
        # the one call that there is, if nobody else uses the session or gave a call up lately.
        alone = len(calls) == 1 and all(key == calls[0].operation.client.key for key in self.users)
        return calls if alone and self.hub.now >= self._given_up_until else []

    def _sole_audience(self) -> Audience | None:
        """The one client that has ever used this session, and whose calls are the only ones on it."""
        if len(self.users) != 1 or self.strangers:
            return None
        key, audience = next(iter(self.users.items()))
        others = any(exchange.operation.client.key != key for exchange in self.calls.values())
        return None if others else audience

    def _refuse(self, message: jsonrpc.Request, origin: int | None, code: int, reason: str) -> None:
        self.hub.count("upstream_requests_refused")
        self.link.reply(jsonrpc.encode_error(message.id, code, reason), origin)

    def end(self, reason: str, fault: Fault | None) -> None:
        if not self.over:
            tell_of_tasks = self.tasks.close()
            questions, self._questions = self._questions, {}
            super().end(reason, fault)
            tell_of_tasks()
            for timer in self._quarantine.values():
                timer.cancel()
            for question in questions.values():
                if question.audience is not None:
                    question.audience.withdrawn_outside(question.ask)
