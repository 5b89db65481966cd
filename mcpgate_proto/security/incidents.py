"""What went wrong inside, told to the outside by a number only.

Owns: `Incidents`, which gives a failure of ours its `error_id` and the log its record: the client's answer
has a fixed message and the id, the record under the same id has the rest (threats.md section 0, Error
handling).
Must never: put a detail into an answer; fill the log when one thing fails for everybody, over and over.
"""

from __future__ import annotations

import msgspec

from mcpgate_proto.effects import Scalar
from mcpgate_proto.hub import Hub
from mcpgate_proto.mcp.codes import Fault, FaultKind

__all__ = ["Incidents"]

# Kinds that have a cause which the client is not told. The others say all there is to say.
INTERNAL = (FaultKind.INTERNAL, FaultKind.TIMEOUT, FaultKind.UPSTREAM_DOWN)
# 72 bits: ids are looked for, not guessed.
ID_BITS = 72


class Incidents:
    """The same failure within `limits.notice_s` is one incident with one id: a server that is down fails a
    thousand calls and makes one record. At most `limits.notice_subjects` are remembered."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._open: dict[tuple[str, ...], tuple[float, str]] = {}

    def account(self, fault: Fault, method: str, server: str = "") -> Fault:
        """`fault` as a client may see it: with an id, if it has a cause that is told to the log only."""
        if fault.kind not in INTERNAL or fault.error_id:
            return fault
        key = (fault.kind.value, fault.message, fault.detail, method, server)
        told: dict[str, Scalar] = {"kind": fault.kind.value, "method": method, "message": fault.message}
        if server:
            told["server"] = server
        if fault.detail:
            told["detail"] = fault.detail
        return msgspec.structs.replace(fault, error_id=self.report("warning", "failed", key, **told))

    def report(self, level: str, event: str, key: tuple[str, ...], **fields: Scalar) -> str:
        """Record something under a new id, or find the id that it was recorded under."""
        hub = self._hub
        key = (event, *(one[:400] for one in key))
        known = self._open.get(key)
        if known is not None and hub.now < known[0] + hub.limits.notice_s:
            return known[1]
        error_id = hub.entropy.token(ID_BITS)
        if known is None and len(self._open) >= hub.limits.notice_subjects:
            # The oldest is forgotten: at worst its next occurrence is recorded once more.
            del self._open[next(iter(self._open))]
        self._open.pop(key, None)
        self._open[key] = (hub.now, error_id)
        hub.emit(level, event, error_id=error_id, **fields)
        return error_id
