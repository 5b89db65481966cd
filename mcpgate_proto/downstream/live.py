"""What a transport holds of a modern request that is not answered yet, and words that its parts share.

Owns: `Live`, and the member names of subscriptions and results. Must never: hold state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mcpgate_proto.wire.jsonrpc import Raw

__all__ = ["CHANGES", "COMPLETE", "FEATURES", "HINTS", "INPUT_REQUIRED", "Live", "Track"]

# What a server may ask a client for, and the capability that allows it (I4, G6).
FEATURES = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}
CHANGES = {
    "toolsListChanged": "tools",
    "promptsListChanged": "prompts",
    "resourcesListChanged": "resources",
}
# How long a modern client may keep a result, and for whom (H22).
HINTS = ("ttlMs", "cacheScope")
COMPLETE = Raw(b'"complete"')
INPUT_REQUIRED = Raw(b'"input_required"')


class Live(Protocol):
    """A request under way. A transport ends or slows it."""

    def cancel(self, reason: str) -> None: ...
    def throttle(self, on: bool) -> None:
        """The client takes no more (true), or again (false)."""


Track = Callable[[Live], None]
