"""Records of what peers can cause as often as they like: one per subject and interval.

Owns: `Notices`, which tells a thing once, and then how often it came since. Must never: let a peer fill the
log, or its subjects fill memory.
"""

from __future__ import annotations

from mcpgate_proto.effects import Scalar
from mcpgate_proto.hub import Hub

__all__ = ["Notices"]


class Notices:
    """`limits.notice_s` is the interval, `limits.notice_subjects` how many subjects are told apart."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        # Subject -> (when it was told, how often it came since).
        self._told: dict[str, tuple[float, int]] = {}
        self._forgot_at = hub.now

    def tell(self, level: str, event: str, subject: str, **fields: Scalar) -> None:
        """Record `event`, unless `subject` was told within the interval: then it counts, and the next record
        about it says how many (`more`)."""
        hub = self._hub
        subject = f"{event} {subject}"[:400]
        at, more = self._told.get(subject, (None, 0))
        if at is not None and hub.now < at + hub.limits.notice_s:
            self._told[subject] = (at, more + 1)
            return
        if at is None and len(self._told) >= hub.limits.notice_subjects and not self._forget():
            hub.count("records_suppressed")
            return
        self._told[subject] = (hub.now, 0)
        if more:
            fields["more"] = more
        hub.emit(level, event, **fields)

    def _forget(self) -> bool:
        """Drop subjects whose interval is over; looked for once a second. Whether there is room now."""
        hub = self._hub
        if hub.now < self._forgot_at + 1.0:
            return False
        self._forgot_at = hub.now
        self._told = {key: one for key, one in self._told.items() if hub.now < one[0] + hub.limits.notice_s}
        return len(self._told) < hub.limits.notice_subjects
