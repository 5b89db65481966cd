"""Definitions that were approved, and what to think of others (threats.md row 41, CVE-2025-54136: rug pulls).

Owns: what of a definition is pinned, its digest, and `Pins`, the verdicts on what servers list.
Must never: change a definition, or take one for approved that two parsers could read differently.

Pinned is what a model is told: names, texts and schemas of a tool or prompt, as its server defines it, before
any rename or conversion. Not pinned: `_meta`, icons and what else only clients read; and resources, which are
data. A server may define a thing differently in its two eras, and both may be approved: a definition is the
same if it is among those recorded for its server and name.
"""

from __future__ import annotations

import enum
import hashlib
import json
from typing import Any, Final

from mcpgate_proto.config import Pin
from mcpgate_proto.wire import jsonrpc
from mcpgate_proto.wire.jsonrpc import Raw

__all__ = ["PINNED", "Pins", "Verdict", "digest", "pinned_part"]

# The members that count, of each kind that is pinned.
PINNED: Final = {
    "tools": ("name", "title", "description", "inputSchema", "outputSchema", "annotations"),
    "prompts": ("name", "title", "description", "arguments"),
}
# A reader that folds case must not see what is not pinned (CVE-2026-27896).
_FOLDED: Final = {kind: frozenset(name.casefold() for name in names) for kind, names in PINNED.items()}


class Verdict(enum.Enum):
    SAME = "same"
    CHANGED = "changed"
    # Nothing is recorded of that server under that name.
    NEW = "new"


def pinned_part(kind: str, raw: Raw) -> dict[str, Any] | None:
    """The members of a definition that are pinned, as plain data; absent and null are the same.

    None where some object in it names a member twice, or a number is out of range: it cannot be told what
    another parser would read.
    """
    try:
        told = jsonrpc.plain(raw)
    except jsonrpc.JsonFault:
        return None
    if not isinstance(told, dict):
        return None
    folded = _FOLDED[kind]
    return {name: value for name, value in told.items() if value is not None and name.casefold() in folded}


def digest(part: dict[str, Any]) -> str:
    """`sha256:` and the digest over canonical JSON: members sorted by code point, no blanks, ASCII only."""
    text = json.dumps(part, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return "sha256:" + hashlib.sha256(text.encode("ascii")).hexdigest()


class Pins:
    """The verdicts of one config."""

    def __init__(self, mode: str = "off", pinned: tuple[Pin, ...] = ()) -> None:
        self._on = mode != "off"
        self._blocks = mode == "block"
        self._known: dict[tuple[str, str, str], dict[str, None]] = {}
        for pin in pinned:
            self._known.setdefault((pin.server, pin.kind, pin.name), {})[pin.digest] = None

    def covers(self, kind: str) -> bool:
        """Whether things of `kind` are looked at."""
        return self._on and kind in PINNED

    def blocks(self, kind: str) -> bool:
        """Whether what is not approved is as good as unknown."""
        return self._blocks and kind in PINNED

    def judge(self, server: str, kind: str, own: str, raw: Raw) -> tuple[Verdict, str]:
        """What to think of a definition that `server` lists, and its digest (empty: it has none)."""
        part = pinned_part(kind, raw)
        found = digest(part) if part is not None else ""
        known = self._known.get((server, kind, own))
        if known is None:
            return Verdict.NEW, found
        return (Verdict.SAME if found and found in known else Verdict.CHANGED), found
