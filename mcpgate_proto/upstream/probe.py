"""Finding out which era a server speaks.

`server/discover` goes first (F11, F12). What comes back, by the rules of F13-F16:

    a DiscoverResult that lists a modern version     modern (and legacy too, if it lists such versions)
    one that lists legacy versions only              legacy (F15)
    -32020, -32021, -32022 (with a modern version)   modern
    any other JSON-RPC error, or no answer in time   legacy
    HTTP 4xx without JSON-RPC, but 401 and 403       legacy
    401, 403, 5xx, TLS, DNS, no connection           nothing learned (D16)
    the process dies of the question                 legacy, on a fresh process

Owns: one probe over one fresh link, handed on afterwards to the session of the era found.
Must never: hinge the fallback on one code.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from mcpgate_proto.hub import Hub
from mcpgate_proto.mcp import codes, meta, mirror
from mcpgate_proto.mcp.codes import Fault
from mcpgate_proto.mcp.revisions import LEGACY_VERSIONS, MODERN, Era
from mcpgate_proto.relay.exchange import Members
from mcpgate_proto.timers import Timer
from mcpgate_proto.upstream.link import Link, Loss, Outgoing
from mcpgate_proto.wire import jsonrpc, values
from mcpgate_proto.wire.jsonrpc import Raw

__all__ = ["Finding", "Probe"]

# Ids of a session begin at 1: a late answer to the probe is dropped by its id (F16).
PROBE_ID = 0
RECOGNISED = (codes.HEADER_MISMATCH, codes.MISSING_CAPABILITY, codes.UNSUPPORTED_VERSION)


class Finding(msgspec.Struct, frozen=True):
    """What a probe learned. `era` None: nothing. `link` is still usable unless None."""

    era: Era | None
    link: Link | None
    reason: str = ""
    # The other era's versions were listed as well.
    both: bool = False
    discovered: Members | None = None


class Probe:
    """One `server/discover` over a link of its own. `done` is called exactly once."""

    def __init__(self, hub: Hub, link: Link, done: Callable[[Finding], None]) -> None:
        self._hub = hub
        self._link = link
        link.owner = self
        self._done: Callable[[Finding], None] | None = done
        self._timer: Timer | None = None
        self._up = False

    def start(self) -> None:
        self._link.start()

    def drop(self) -> None:
        """Nobody wants to know any more."""
        self._done = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._link.stop()

    def link_up(self) -> None:
        self._up = True
        head: Members = {
            meta.PROTOCOL_VERSION: jsonrpc.to_raw(MODERN),
            meta.CLIENT_CAPABILITIES: values.EMPTY,
            meta.CLIENT_INFO: jsonrpc.to_raw({"name": "mcpgate", "version": self._hub.config.version}),
        }
        params = {"_meta": jsonrpc.encode_object(head)}
        headers = mirror.standard_headers("server/discover", params, MODERN)
        message = jsonrpc.encode_request(PROBE_ID, "server/discover", params)
        self._timer = self._hub.after(self._hub.limits.probe_timeout_s, "probe", self._silent)
        self._link.request(Outgoing(PROBE_ID, message, tuple(headers)))

    def _silent(self) -> None:
        self._timer = None
        self._link.abandon(PROBE_ID)
        if self._link.single_channel:
            self._found(Era.LEGACY)
        else:
            self._nothing("it did not answer")  # D16: over HTTP, silence says nothing about the era

    def _found(self, era: Era, *, both: bool = False, discovered: Members | None = None) -> None:
        self._tell(Finding(era, self._link, both=both, discovered=discovered))

    def _nothing(self, reason: str) -> None:
        """Told before the link is stopped, which would look like a server that died of the question."""
        self._tell(Finding(None, None, reason))
        self._link.stop()

    def _tell(self, finding: Finding) -> None:
        done, self._done = self._done, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if done is not None:
            done(finding)

    def link_message(self, message: jsonrpc.Message, origin: int | None) -> None:
        if isinstance(message, jsonrpc.Result) and message.id == PROBE_ID:
            self._result(message)
        elif isinstance(message, jsonrpc.ErrorReply) and message.id in (PROBE_ID, None):
            self._error(message)
        # Anything else before the era is known (a ping, a log) waits for no answer.

    def _result(self, message: jsonrpc.Result) -> None:
        members = values.object_or_empty(message.result)
        listed = [
            jsonrpc.text(one) for one in values.items(members.get("supportedVersions", values.EMPTY)) or []
        ]
        if MODERN in listed:
            both = any(version in LEGACY_VERSIONS for version in listed)
            self._found(Era.MODERN, both=both, discovered=members)
        elif not listed or any(version in LEGACY_VERSIONS for version in listed):
            self._found(Era.LEGACY)
        else:
            self._nothing("it supports no revision that mcpgate speaks")

    def _error(self, message: jsonrpc.ErrorReply) -> None:
        if message.code not in RECOGNISED:
            self._found(Era.LEGACY)
            return
        data = values.object_or_empty(message.data or values.EMPTY)
        listed = [jsonrpc.text(one) for one in values.items(data.get("supported", Raw(b"[]"))) or []]
        if listed and MODERN not in listed:
            if any(version in LEGACY_VERSIONS for version in listed):
                self._found(Era.LEGACY)
                return
            self._nothing("it supports no revision that mcpgate speaks")
            return
        self._found(Era.MODERN)

    def link_lost(self, request: int, loss: Loss, status: int) -> None:
        if loss is Loss.REFUSED and teaches(status):
            self._found(Era.LEGACY)
            return
        unreached = self._link.failure or "it cannot be reached"
        self._nothing(f"it answered HTTP {status}" if loss is Loss.REFUSED else unreached)

    def link_pressed(self, high: bool) -> None:
        """One small request."""

    def link_down(self, reason: str) -> None:
        if not self._up:
            self._tell(Finding(None, None, reason))
        else:
            # The question killed it: a legacy server, asked properly on a fresh process (F; issue of SDKs
            # that leave on an unknown first method).
            self._tell(Finding(Era.LEGACY, None, reason))


def teaches(status: int) -> bool:
    """Whether an HTTP refusal says something about the era; credentials and load do not (D16)."""
    return 400 <= status < 500 and status not in (401, 403, 407, 408, 429)


def refused_modern(fault: Fault) -> bool:
    """Whether an answer to `initialize` is evidence of a modern server (F15)."""
    return fault.code == codes.UNSUPPORTED_VERSION
