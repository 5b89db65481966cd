"""Text in definitions that a person does not see and a model reads (tool poisoning, threats.md row 43).

Owns: which characters are not seen, the words by which hidden instructions are known, what is found in a
definition, and the definition without such characters.
Must never: take time out of proportion to the text, or be the only defence: pins show every change.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from mcpgate_proto.security.pins import PINNED
from mcpgate_proto.wire import jsonrpc
from mcpgate_proto.wire.jsonrpc import Raw

__all__ = ["Finding", "Looked", "findings", "hides", "is_hidden", "look", "may_hide"]

# Not seen by what they are: control, format, surrogates, private use, unassigned, separators of lines.
_CATEGORIES: Final = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
# Letters and marks that are drawn as nothing.
_BLANK: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
_LAYOUT: Final = frozenset("\t\n\r")
# Part of emoji and of Persian and Indic words; anything can be spelled with the two alone.
_JOINERS: Final = frozenset("\u200c\u200d")
# How a definition speaks to a model and past the person (Invariant Labs, April 2025).
_ADDRESSING: Final = re.compile(
    r"<\s*/?\s*(?:important|system|system-reminder|instructions?|secret|hidden)\s*>"
    r"|\b(?:ignore|disregard|forget)\s(?:all\s|any\s)?(?:the\s)?(?:previous|prior|earlier|above)\s"
    r"|\bdo\s?n[o']t\s(?:tell|mention|inform|notify|show|reveal)\b[^.\n]{0,40}\buser\b",
    re.IGNORECASE,
)
# Characters of one definition that are looked through.
_TOTAL: Final = 256 * 1024
# By which a text is looked through at all: what may stand for, or belong to, any of the above.
_MARKS: Final = re.compile(
    rb"<|\\[ubf]|\x7f|ignore|disregard|forget|tell|mention|inform|notify|show|reveal", re.IGNORECASE
)
# What a model reads of each kind.
_READ: Final = {
    **PINNED,
    **dict.fromkeys(("resources", "templates"), ("uri", "name", "title", "description")),
}


class Finding(msgspec.Struct, frozen=True):
    """What was found, and where: the path of a member, such as `inputSchema.properties.x.description`."""

    where: str
    what: str


def is_hidden(char: str) -> bool:
    """Whether a person does not see `char`. Line breaks and tabs are layout."""
    if char < "\x7f":
        return char < " " and char not in _LAYOUT
    code = ord(char)
    if unicodedata.category(char) in _CATEGORIES or char in _BLANK:
        return True
    # Variation selectors beyond the two of emoji: bytes are smuggled in runs of them.
    return 0xFE00 <= code <= 0xFE0D or 0xE0100 <= code <= 0xE01EF


def _hidden_at(text: str) -> Iterator[int]:
    """Where the hidden characters of a text are. A joiner between two letters of other scripts, or between
    two pictures, is part of a word."""
    if text.isascii() and text.isprintable():
        return
    for at, char in enumerate(text):
        if not is_hidden(char):
            continue
        if char in _JOINERS and 0 < at < len(text) - 1:
            around = text[at - 1] + text[at + 1]
            if not any(one.isascii() or is_hidden(one) for one in around):
                continue
        yield at


def hides(text: str) -> bool:
    """Whether a text has characters that are not seen."""
    return any(True for _ in _hidden_at(text))


def _without_hidden(text: str) -> str:
    hidden = dict.fromkeys(_hidden_at(text))
    return "".join(char for at, char in enumerate(text) if at not in hidden) if hidden else text


class Looked(msgspec.Struct, frozen=True):
    """What was found in a definition, and the definition without the characters that are not seen."""

    findings: list[Finding]
    stripped: Raw


def look(kind: str, raw: Raw, chars: int) -> Looked:
    """Look through the texts of a definition of `kind` (as in a catalog)."""
    try:
        told = jsonrpc.plain(raw)
    except jsonrpc.JsonFault:
        return Looked([Finding("", "can be read in two ways: a member is given twice")], raw)
    part = {name: told[name] for name in _READ[kind] if name in told} if isinstance(told, dict) else {}
    found = findings(part, chars)
    if not any(hides(text) for _, text in _texts(part)):
        return Looked(found, raw)
    # Only in texts: a name, or a value that a schema compares with, would be another one without them.
    return Looked(found, jsonrpc.to_raw({**told, **_stripped(part)}))


def _stripped(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _without_hidden(one)
            if name in ("title", "description") and isinstance(one, str)
            else _stripped(one)
            for name, one in value.items()
        }
    return [_stripped(one) for one in value] if isinstance(value, list) else value


def may_hide(data: bytes, chars: int) -> bool:
    """A quick look at the JSON text of a definition: false for most, true for each that has findings."""
    return not data.isascii() or len(data) > chars or _MARKS.search(data) is not None


def findings(part: dict[str, Any], chars: int) -> list[Finding]:
    """What is odd about a definition, each kind once per text; `chars`: the longest text that is not."""
    found = []
    left = _TOTAL
    for where, whole in _texts(part):
        text = whole[:chars]
        left -= len(text)
        if left < 0:
            found.append(Finding("", "has more text than anybody would read"))
            break
        for at in _hidden_at(text):
            found.append(Finding(where, f"holds a character that is not seen (U+{ord(text[at]):04X})"))
            break
        if _ADDRESSING.search(text):
            found.append(Finding(where, "speaks to the model past the user"))
        if len(whole) > chars:
            found.append(Finding(where, f"is longer than {chars} characters"))
    return found


def _texts(value: Any) -> Iterator[tuple[str, str]]:
    """Every text in a definition, names of members included, with the path to it."""
    left: list[tuple[str, Any]] = [("", value)]
    while left:
        where, one = left.pop()
        if isinstance(one, str):
            yield where, one
        elif isinstance(one, dict):
            for name, inner in reversed(one.items()):
                path = f"{where}.{name}"[:200] if where else name[:200]
                left.append((path, inner))
                left.append((path, name))
        elif isinstance(one, list):
            left += [(f"{where}[{n}]"[:200], inner) for n, inner in reversed(list(enumerate(one)))]
