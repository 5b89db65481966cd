"""The audit stream: one record per request of a client, when it has its answer.

Owns: `Audited`, the outlet that stands in front of another one where there is an audit stream, and what faces
tell it of an outcome. Must never: record arguments unasked, results, or what works like a credential (session
ids, cursors, request states); cost anything where there is no audit stream.

    round    principal, address, method, name (of the tool, prompt or resource, as shown), server, outcome,
             duration_ms, bytes_in, bytes_out; for failures code, reason and error_id;
             with `audit_arguments` the JSON of the arguments of a tool or prompt

The outcome is "ok", "input_required" (the round ended with questions), "error", "denied" (by a rule or a
limit) or "cancelled".
"""

from __future__ import annotations

from mcpgate_proto.downstream.outlet import Outlet
from mcpgate_proto.effects import Scalar
from mcpgate_proto.hub import Hub
from mcpgate_proto.mcp.codes import Fault, FaultKind
from mcpgate_proto.relay.exchange import Members
from mcpgate_proto.security.principal import Principal
from mcpgate_proto.wire import jsonrpc, values

__all__ = ["Audited", "asked", "audited", "completed", "failed", "inner", "routed"]

# What the third word of a request is called, where it has one.
NAMES = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "resources/subscribe": "uri",
    "resources/unsubscribe": "uri",
}
WITH_ARGUMENTS = ("tools/call", "prompts/get")
DENIED = (FaultKind.DENIED, FaultKind.RATE_LIMITED)
_RESULT, _ERROR = b',"result":', b',"error":{'


class Audited:
    """One request and its way back. Implements `outlet.Outlet`."""

    __slots__ = (
        "_arguments",
        "_began_at",
        "_fields",
        "_hub",
        "_out",
        "outcome",
        "outlet",
        "reason",
        "server",
    )

    def __init__(
        self,
        hub: Hub,
        outlet: Outlet,
        request: jsonrpc.Request,
        principal: Principal,
        address: str,
        size: int,
    ) -> None:
        self.outlet = outlet
        self.outcome = ""
        self.server = ""
        self.reason: dict[str, Scalar] = {}
        self._hub = hub
        self._began_at = hub.now
        self._out = 0
        self._fields: dict[str, Scalar] = {"principal": principal.id, "address": address}
        self._fields["method"] = request.method
        named = NAMES.get(request.method)
        if named is not None:
            self._fields["name"] = values.text_of(request.params, named) or ""
        self._fields["bytes_in"] = size
        self._arguments = _arguments(hub, request)

    # -- Outlet

    def notify(self, message: bytes) -> None:
        self._out += len(message)
        self.outlet.notify(message)

    def finish(self, message: bytes | None, status: int = 200, retry_after_s: int = 0) -> None:
        self._record(message)
        self.outlet.finish(message, status, retry_after_s)

    def hold(self, reason: str, on: bool) -> None:
        self.outlet.hold(reason, on)

    @property
    def pressed(self) -> bool:
        return self.outlet.pressed

    @property
    def shares_channel(self) -> bool:
        return self.outlet.shares_channel

    @property
    def can_ask(self) -> bool:
        return self.outlet.can_ask

    @property
    def forwarded(self) -> tuple[tuple[str, str], ...]:
        return self.outlet.forwarded

    # -- the record

    def _record(self, message: bytes | None) -> None:
        outcome = self.outcome
        if message is None:
            outcome = "cancelled"
        else:
            self._out += len(message)
            if not outcome:
                outcome = "error" if _is_error(message) else "ok"
        fields = self._fields
        if self.server:
            fields["server"] = self.server
        took_ms = round((self._hub.now - self._began_at) * 1000, 3)
        ending = {"bytes_out": self._out, "duration_ms": took_ms, "outcome": outcome, **self.reason}
        self._hub.audit("round", self._arguments, **fields, **ending)


def _arguments(hub: Hub, request: jsonrpc.Request) -> str | None:
    """As the client wrote them."""
    if not hub.config.audit_arguments or request.method not in WITH_ARGUMENTS:
        return None
    told = bytes(request.params.get("arguments", values.EMPTY))
    if len(told) > hub.limits.audit_arguments_bytes:
        return f"left out: {len(told)} bytes"
    return told.decode("utf-8", "replace")


def audited(
    hub: Hub, outlet: Outlet, request: jsonrpc.Request, principal: Principal, address: str, size: int
) -> Outlet:
    """`outlet`, or where there is an audit stream one that records how the request ends. `size` is that of
    the message, of a batch as a whole."""
    return Audited(hub, outlet, request, principal, address, size) if hub.config.audit else outlet


def inner(outlet: Outlet) -> Outlet:
    """The transport's own outlet."""
    return outlet.outlet if type(outlet) is Audited else outlet


def routed(outlet: Outlet, server: str) -> None:
    """The request goes to `server`."""
    if type(outlet) is Audited:
        outlet.server = server


def asked(outlet: Outlet) -> None:
    """The round ends with questions to the client."""
    if type(outlet) is Audited:
        outlet.outcome = "input_required"


def completed(outlet: Outlet, result: Members) -> None:
    """A tool may report its failure as a result."""
    if type(outlet) is Audited and jsonrpc.boolean(result.get("isError", values.EMPTY)):
        outlet.outcome = "error"
        outlet.reason = {"reason": "tool_error"}


def failed(outlet: Outlet, fault: Fault, code: int) -> None:
    """The answer that follows is an error."""
    if type(outlet) is not Audited:
        return
    outlet.outcome = "denied" if fault.kind in DENIED or fault.denied else "error"
    outlet.reason = {"reason": fault.kind.value, "code": code}
    if fault.error_id:
        outlet.reason["error_id"] = fault.error_id


def _is_error(message: bytes) -> bool:
    """Whether a message as `jsonrpc` encodes it is an error. Neither word can stand in an id, where a quote
    has a backslash in front; nothing but the id comes before them."""
    at = message.find(_RESULT)
    return message.find(_ERROR, 0, at if at >= 0 else len(message)) >= 0
