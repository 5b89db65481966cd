"""What is known of the eras that a server speaks, and what follows from it.

Owns: which era a client is served in (F), and what a refused handshake teaches (F15, F17). Pure functions
over a table: true, false, or None for not known.
Must never: learn anything from a refusal that is about credentials or load (D16).
"""

from __future__ import annotations

from mcpgate_proto.mcp.codes import Fault, FaultKind
from mcpgate_proto.mcp.revisions import Era
from mcpgate_proto.upstream.probe import refused_modern, teaches

__all__ = ["Eras", "after_refusal", "era_for", "other_than"]

Eras = dict[Era, bool | None]


def other_than(era: Era) -> Era:
    return Era.MODERN if era is Era.LEGACY else Era.LEGACY


def era_for(eras: Eras, wanted: Era) -> Era | None:
    """The era to serve a client of `wanted` in; None while that is not known."""
    other = other_than(wanted)
    if eras[wanted]:
        return wanted
    if eras[wanted] is False:
        return other if eras[other] else None
    # Not known. A server known as modern is asked by a legacy client's first session itself.
    return wanted if eras[other] else None


def after_refusal(eras: Eras, era: Era, fault: Fault, *, auto: bool) -> Eras | None:
    """What is known after a first session of `era` was refused with `fault`; None: nothing new. `auto`: the
    operator did not say which eras there are."""
    if era is Era.LEGACY and eras[Era.LEGACY] is True and eras[Era.MODERN] is False:
        if not refused_modern(fault):
            return None
        # F15: `initialize` answered with -32022 after a probe that took it for legacy: ask again, once.
        return {Era.LEGACY: False if auto else eras[Era.LEGACY], Era.MODERN: True}
    learned = fault.kind not in (FaultKind.UPSTREAM_DOWN, FaultKind.TIMEOUT) or teaches(fault.code)
    if eras[era] is None and eras[other_than(era)] and learned:
        return {**eras, era: False}
    return None
