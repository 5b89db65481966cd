"""What one config lets clients see and use: rules, pins, and the look at texts, read together.

Owns: `Policy`, its verdict on each definition that a server lists, the records of what was kept from whom.
Must never: be changed. A new config has a new one, and what was decided by an old one is decided again.
"""

from __future__ import annotations

from typing import Final

import msgspec

from mcpgate_proto.effects import Scalar
from mcpgate_proto.hub import Hub
from mcpgate_proto.mcp.codes import Fault
from mcpgate_proto.security import hidden
from mcpgate_proto.security.notices import Notices
from mcpgate_proto.security.pins import PINNED, Pins, Verdict
from mcpgate_proto.security.principal import Principal
from mcpgate_proto.security.rules import Rules
from mcpgate_proto.wire.jsonrpc import Raw

__all__ = ["Policy", "Screened"]

# Kinds of a catalog, and what one thing of each is called.
WORDS: Final = {
    "tools": "tool",
    "prompts": "prompt",
    "resources": "resource",
    "templates": "template",
}


class Screened(msgspec.Struct, frozen=True):
    """A definition as it may be shown. `withheld`: why it is shown to nobody, if so ("pins", "text")."""

    raw: Raw
    withheld: str = ""


class Policy:
    """See the head of this file."""

    def __init__(self, hub: Hub) -> None:
        config = hub.config
        self.rules = Rules(config.rules)
        self.pins = Pins(config.pins, config.pinned)
        self._texts = config.hidden_text
        self._hub = hub
        self._notices = Notices(hub)

    def judges(self, principal: Principal, server: str, kind: str) -> bool:
        """Whether anything of `kind` may be kept from `principal`: then only what is listed exists for it."""
        blocks = self.pins.blocks(kind) or (kind in PINNED and self._texts in ("strip", "block"))
        return blocks or self.rules.covers(principal, server, kind)

    def screen(self, server: str, kind: str, own: str, raw: Raw) -> Screened:
        """The verdict on a definition, whoever asks; what is odd about it is recorded."""
        withheld = ""
        if self.pins.covers(kind):
            verdict, digest = self.pins.judge(server, kind, own, raw)
            if verdict is not Verdict.SAME:
                withheld = "pins" if self.pins.blocks(kind) else ""
                event = "pin_new" if verdict is Verdict.NEW else "pin_changed"
                self._tell(event, server, kind, own, digest=digest, blocked=bool(withheld))
        chars = self._hub.limits.description_chars
        if self._texts == "off" or not hidden.may_hide(bytes(raw), chars):
            return Screened(raw, withheld)
        found = hidden.look(kind, raw, chars)
        if found.findings:
            first = found.findings[0]
            strips = self._texts == "strip"
            # A name cannot be cleaned. Resources are data, and can be read unlisted: those are only told of.
            blocked = kind in PINNED and (self._texts == "block" or (strips and hidden.hides(own)))
            self._tell("hidden_text", server, kind, own, where=first.where, what=first.what, blocked=blocked)
            withheld = withheld or ("text" if blocked else "")
            raw = found.stripped if strips else raw
        return Screened(raw, withheld)

    def _tell(self, event: str, server: str, kind: str, own: str, **fields: Scalar) -> None:
        self._hub.count(event)
        told = {"server": server, WORDS[kind]: own, **fields}
        subject = " ".join(str(one)[:100] for one in told.values())
        self._notices.tell("warning", event, subject, **told)

    def denied(
        self, fault: Fault, principal: Principal, server: str, kind: str, own: str, reason: str
    ) -> Fault:
        """`fault`, which the client gets, with a word for the log and the audit on what is behind it."""
        self._hub.count("denied")
        told = {"principal": principal.id, "server": server, WORDS[kind]: own, "by": reason}
        self._notices.tell("notice", "denied", " ".join(told.values()), **told)
        return msgspec.structs.replace(fault, denied=True)
