"""Calls of legacy clients that a server works on.

Owns: one request's way back (progress, logs, questions, its answer) in the client's own revision, and the
conversion of a modern server's questions for it (protocol.md L2-L5).
Must never: send anything after the answer; put a question to a client that did not declare the feature.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mcpgate_proto.downstream import audited
from mcpgate_proto.downstream.live import HINTS
from mcpgate_proto.downstream.outlet import Outlet
from mcpgate_proto.downstream.tasks import LegacyIds
from mcpgate_proto.mcp import content
from mcpgate_proto.mcp.codes import Fault, FaultKind
from mcpgate_proto.relay.exchange import Answer, Ask, Caller, Carry, Exchange, Members
from mcpgate_proto.wire import jsonrpc, values
from mcpgate_proto.wire.jsonrpc import Raw, RequestId

if TYPE_CHECKING:
    from mcpgate_proto.downstream.legacy_tasks import Augmented
    from mcpgate_proto.downstream.session import ClientSession

__all__ = ["LegacyCall"]


class LegacyCall:
    """One request of a legacy client that a server works on. Implements `relay.exchange.Caller`."""

    def __init__(
        self, session: ClientSession, id: RequestId, method: str, outlet: Outlet, token: Raw | None
    ) -> None:
        self.session = session
        self.id = id
        self.method = method
        self.outlet = outlet
        self.exchange: Exchange | None = None
        # Where it goes, once that is known.
        self.server = ""
        self.ids: LegacyIds | None = None
        # The client asked a modern server for a task (L22).
        self.augmented: Augmented | None = None
        self._token = token
        self.done = False
        self._opened: dict[str, int] = {}
        session.serial += 1
        self._reason = f"call {session.serial}"

    def begin(self, exchange: Exchange) -> None:
        self.exchange = exchange
        if not self.done and self.outlet.pressed:
            exchange.throttle(True)

    def cancel(self, reason: str) -> None:
        """G23: no answer is sent; a stream still has to end (G25)."""
        if not self.done:
            if self.exchange is not None:
                self.exchange.cancel(reason)
            self._over()
            self.outlet.finish(None)

    def _over(self) -> None:
        self.done = True
        self.session.calls.pop(self, None)
        self.outlet.hold(self._reason, False)
        for told in self.session.withdraw(lambda question: question.call is not self):
            self.outlet.notify(told)

    def progressed(self, params: Members) -> None:
        if self._token is not None and not self.done:
            self.outlet.notify(
                jsonrpc.encode_notification(
                    "notifications/progress", {"progressToken": self._token, **params}
                )
            )

    def logged(self, params: Members) -> None:
        if not self.done and self.session.wants_log(params):
            self.outlet.notify(jsonrpc.encode_notification("notifications/message", params))

    def asked(self, asks: list[Ask], carry: Carry | None) -> None:
        """A legacy client answers with responses: the round stays open, the questions go on its stream."""
        for ask in asks:
            if self.done:
                return
            if carry is None:
                params = self.ids.shown_in(ask.params) if self.ids is not None else ask.params
                self._ask(ask, params, lambda given, key=ask.key: self.reply(key, given))  # type: ignore[misc]
            else:
                self._ask_across(ask)

    def _ask(self, ask: Ask, params: Members, answer: Callable[[Answer], None]) -> None:
        message = None
        if self.outlet.can_ask:
            message = self.session.question(Ask(ask.key, ask.method, params), answer, self)
        if message is None:
            answer(Answer(fault=Fault(FaultKind.METHOD_NOT_FOUND, "the client does not offer that")))
        else:
            self.outlet.notify(message)

    def _ask_across(self, ask: Ask) -> None:
        """A modern server's question (L2): converted to the client's revision, its answer converted back."""
        session = self.session
        url = values.text_of(ask.params, "url")
        if url is not None and url in self._opened:
            # L3: the user has opened it; the server is not through yet. Wait and tell it so again.
            self._opened[url] += 1
            delay = min(2.0 ** self._opened[url], 30.0)
            accepted = Answer(Raw(b'{"action":"accept"}'))
            session.hub.after(delay, "opened URL", lambda: self.reply(ask.key, accepted))
            return
        fitted = content.down_question(
            ask.method,
            ask.params,
            session.revision,
            session.capabilities,
            session.hub.entropy.token(128),
            aggregated=not session.hub.config.transparent,
        )
        if not isinstance(fitted, content.Refused):
            self._ask(ask, fitted, lambda given: self._reply_across(ask, given))
        elif fitted.result is not None:
            self.reply(ask.key, Answer(fitted.result))
        else:
            assert fitted.fault is not None
            self._reply_across(ask, Answer(fault=fitted.fault))

    def _reply_across(self, ask: Ask, given: Answer) -> None:
        """L4: a modern server can be given results only."""
        if given.fault is None:
            url = values.text_of(ask.params, "url")
            if url is not None and values.text_of(values.object_or_empty(given.result), "action") == "accept":
                self._opened[url] = 0
            self.reply(ask.key, Answer(content.answer_for_modern(ask.method, given.result)))
            return
        told = content.error_answer(ask.method, given.fault)
        if told is not None:
            self.reply(ask.key, Answer(told))
        elif self.exchange is not None and not self.done:
            self.exchange.cancel("the client could not answer the server's question")
            self._cannot_go_on(given.fault)

    def _cannot_go_on(self, fault: Fault) -> None:
        reason = f"the client did not answer the server's question: {fault.message[:200]}"
        if self.method == "tools/call":
            self.completed(content.tool_failure(reason))
        else:
            self.failed(Fault(FaultKind.INTERNAL, reason))

    def reply(self, key: str, answer: Answer) -> None:
        if self.exchange is not None:
            self.exchange.answer(key, answer)

    def withdrawn(self, key: str) -> None:
        for told in self.session.withdraw(lambda question: question.call is not self or question.key != key):
            self.outlet.notify(told)

    def moved(self, key: str, to: Caller) -> None:
        if isinstance(to, LegacyCall):
            self.session.move(key, self, to)

    def completed(self, result: Members) -> None:
        if not self.done:
            self._over()
            audited.completed(self.outlet, result)
            if self.augmented is not None:
                self._finish_task(self.augmented.completed(result))
                return
            fitted = content.down_result(self.method, values.without(result, *HINTS), self.session.revision)
            if self.ids is not None:
                fitted = self.ids.shown(self.method, fitted)
            self.outlet.finish(jsonrpc.encode_result(self.id, fitted))

    def became_task(self, task: Members) -> None:
        if not self.done and self.augmented is not None:
            self._over()
            self._finish_task(self.augmented.became(task))

    def _finish_task(self, told: Members | Fault) -> None:
        if isinstance(told, Fault):
            self.session.refuse(self.id, self.outlet, told, self)
        else:
            self.outlet.finish(jsonrpc.encode_result(self.id, told))

    def failed(self, fault: Fault) -> None:
        if self.done:
            return
        self._over()
        if fault.kind is FaultKind.DENIED and self.method == "tools/call":
            audited.failed(self.outlet, fault, 0)
            self.outlet.finish(jsonrpc.encode_result(self.id, content.tool_failure(fault.message)))
        else:
            self.session.refuse(self.id, self.outlet, fault, self)

    def congested(self, on: bool) -> None:
        if not (self.done and on):
            self.outlet.hold(self._reason, on)
