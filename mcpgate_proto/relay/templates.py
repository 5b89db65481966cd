"""Does a URI belong to a resource template?

Owns: `Template`, a matcher for URI templates (RFC 6570) that walks the URI once. Must never: build a regular
expression from what a peer sent, or take more than time proportional to the URI (threats.md row 17).

The question is only which server to ask, so values are not extracted, and where servers are looser than the
RFC the matcher is, too: a server that was asked in vain says "not found", one that was never asked cannot.
So a simple `{x}` takes any text without `/`, `?` and `#`, percent-encoded or not; query parameters may come
in any order; a prefix such as `{x:3}` does not limit the length.

How: the template becomes a chain of states. From each, one character may lead to the next state or stay where
it is, and some states reach others without a character. The set of states that are reachable is one integer,
a bit per state, so that one character costs a few operations on integers and no backtracking.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

__all__ = ["MAX_TEMPLATE_CHARS", "MAX_URI_CHARS", "Template"]

MAX_TEMPLATE_CHARS: Final = 2048
# RFC 9110 section 4.1 asks for 8000 octets.
MAX_URI_CHARS: Final = 16 * 1024
# Expressions and variables of one template; real ones have a handful.
MAX_EXPRESSIONS: Final = 16
MAX_VARIABLES: Final = 32

_OPERATORS = "+#./;?&"
# RFC 6570 section 2.3, and `-`, which servers use all the same. Modifiers: section 2.4.
_VARIABLE = re.compile(r"((?:[A-Za-z0-9_.-]|%[0-9A-Fa-f]{2})+)(\*|:[1-9][0-9]{0,3})?")

# Character classes: the bit that a class has in `_classes`, and what it leaves out.
_EXCLUDED: Final = ("", "/?#", "&#", ";/?#")
_ANY, _SEGMENT, _QUERY, _PARAMETER = range(4)


class Template:
    """A compiled URI template. Compare, hash and keep it by its text."""

    __slots__ = ("_accept", "_closure", "_jumps", "_literals", "_loops", "_start", "text")

    def __init__(self, text: str, states: _States) -> None:
        self.text = text
        self._literals = states.literals
        self._loops = tuple(states.loops)
        self._closure = states.closure()
        # The states that reach others without a character.
        self._jumps = sum(1 << state for state in self._closure)
        self._start = self._closed(1)
        self._accept = 1 << states.last

    @classmethod
    def compile(cls, text: str) -> Template | None:
        """Compile `text`; None when it is no template of RFC 6570, or larger than any real one."""
        if len(text) > MAX_TEMPLATE_CHARS:
            return None
        states = _States()
        budget = MAX_VARIABLES
        expressions = 0
        rest = text
        while rest:
            literal, brace, rest = rest.partition("{")
            if "}" in literal:
                return None
            states.literal(literal)
            if not brace:
                break
            body, brace, rest = rest.partition("}")
            variables = _variables(body)
            if not brace or variables is None:
                return None
            budget -= len(variables)
            expressions += 1
            if budget < 0 or expressions > MAX_EXPRESSIONS:
                return None
            _BUILD.get(body[0], _simple)(states, body[0], variables)
        return cls(text, states)

    def matches(self, uri: str) -> bool:
        """Whether `uri` may be an expansion of the template. Longer ones than 16 KiB never are."""
        if len(uri) > MAX_URI_CHARS:
            return False
        steps: dict[str, tuple[int, int]] = {}
        # Which states jump is mostly the same from one character to the next.
        reached: dict[int, int] = {}
        current = self._start
        jumps = self._jumps
        for char in uri:
            step = steps.get(char)
            if step is None:
                step = steps[char] = (self._literals.get(char, 0), self._staying(char))
            current = (current & step[0]) << 1 | current & step[1]
            jumping = current & jumps
            if jumping:
                more = reached.get(jumping)
                if more is None:
                    more = reached[jumping] = self._closed(jumping)
                current |= more
            elif not current:
                return False
        return bool(current & self._accept)

    def _staying(self, char: str) -> int:
        """The states in which `char` may be taken without going on."""
        mask = 0
        for excluded, loops in zip(_EXCLUDED, self._loops, strict=True):
            if char not in excluded:
                mask |= loops
        return mask

    def _closed(self, current: int) -> int:
        """`current` and all that it reaches without a character."""
        left = current & self._jumps
        while left:
            lowest = left & -left
            current |= self._closure[lowest.bit_length() - 1]
            left ^= lowest
        return current

    def __repr__(self) -> str:
        return f"<Template {self.text!r}>"


class _States:
    """States under construction. `last` is the newest; a literal character leads from it to a new one."""

    def __init__(self) -> None:
        self.last = 0
        self.literals: dict[str, int] = {}
        self.loops = [0] * len(_EXCLUDED)
        self._reach: dict[int, list[int]] = {}

    def literal(self, text: str) -> None:
        for char in text:
            self.literals[char] = self.literals.get(char, 0) | 1 << self.last
            self.last += 1

    def fresh(self, *sources: int) -> int:
        """A new state, reached from `sources` without a character; nothing else leads to it yet."""
        self.last += 1
        for source in sources:
            self.jump(source, self.last)
        return self.last

    def jump(self, source: int, target: int) -> None:
        self._reach.setdefault(source, []).append(target)

    def loop(self, kind: int) -> None:
        """Any number of characters of class `kind`, here."""
        self.loops[kind] |= 1 << self.last

    def closure(self) -> dict[int, int]:
        """For each state with jumps: all states it reaches by jumps alone, as bits."""
        found: dict[int, int] = {}
        for source in self._reach:
            seen = 0
            stack = [source]
            while stack:
                for target in self._reach.get(stack.pop(), ()):
                    if not seen >> target & 1:
                        seen |= 1 << target
                        stack.append(target)
            found[source] = seen
        return found


def _variables(body: str) -> list[tuple[str, bool]] | None:
    """The (name, exploded) variables of an expression; None when it is malformed."""
    if body[:1] and body[0] in _OPERATORS:
        body = body[1:]
    found = []
    for spec in body.split(",", MAX_VARIABLES):
        match = _VARIABLE.fullmatch(spec)
        if match is None:
            return None
        found.append((match[1], match[2] == "*"))
    return found


_Variables = list[tuple[str, bool]]


def _simple(states: _States, _operator: str, _variables: _Variables) -> None:
    """`{x}`, `{x,y}`, `{x*}`: text of one segment; its commas are of the class."""
    states.fresh(states.last)
    states.loop(_SEGMENT)


def _reserved(states: _States, _operator: str, _variables: _Variables) -> None:
    """`{+x}`: any text."""
    states.fresh(states.last)
    states.loop(_ANY)


def _fragment(states: _States, _operator: str, _variables: _Variables) -> None:
    """`{#x}`: nothing, or `#` and any text."""
    before = states.last
    states.fresh(before)
    states.literal("#")
    states.loop(_ANY)
    states.fresh(before, states.last)


def _parts(states: _States, operator: str, variables: _Variables) -> None:
    """`{/x,y}` and `{.x}`: for each variable nothing or one part; an exploded one has any number of parts."""
    for _, exploded in variables:
        before = states.last
        head = states.fresh(before)
        states.literal(operator)
        states.loop(_SEGMENT)
        if exploded:
            states.jump(states.last, head)
        states.fresh(before, states.last)


def _named(states: _States, operator: str, variables: _Variables) -> None:
    """`{?x,y}`, `{&x,y}`, `{;x,y}`: nothing, or `name=value` pairs with separators, in any order."""
    separator, kind = (";", _PARAMETER) if operator == ";" else ("&", _QUERY)
    before = states.last
    states.fresh(before)
    states.literal(operator)
    pair = states.last
    ends = [before]
    for name, exploded in variables:
        states.fresh(pair)
        if exploded:
            # A list repeats the name, a mapping brings names of its own (section 3.2.1).
            states.loop(kind)
        else:
            states.literal(name)
            named = states.last
            states.literal("=")
            states.loop(kind)
            # An empty value has no `=` after `;` (section 3.2.7).
            if operator == ";":
                states.jump(named, states.last + 1)
        ends.append(states.fresh(states.last))
        states.literal(separator)
        states.jump(states.last, pair)
    states.fresh(*ends)


_BUILD: dict[str, Callable[[_States, str, _Variables], None]] = {
    "+": _reserved,
    "#": _fragment,
    ".": _parts,
    "/": _parts,
    ";": _named,
    "?": _named,
    "&": _named,
}
