"""Globs of operators against names of peers.

Owns: `Glob`. Must never: build a regular expression (threats.md row 17), fold case, or take more than time in
proportion to the text.

`*` stands for any text, also none and also one with slashes; `?` for one character. Nothing else is special,
and nothing can be escaped: for a real `*` or `?`, write `?`. Text is compared by code point.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Glob", "any_matches", "globs"]


class Glob:
    """One compiled glob."""

    __slots__ = ("_head", "_inner", "_least", "_parts", "_tail", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        parts = [_Part(part) for part in text.split("*")]
        self._parts = len(parts)
        self._head = parts[0]
        self._tail = parts[-1]
        self._inner = tuple(part for part in parts[1:-1] if part.size)
        self._least = sum(part.size for part in parts)

    def matches(self, text: str) -> bool:
        """Whether the glob fits all of `text`."""
        if self._parts == 1:
            return len(text) == self._head.size and self._head.at(text, 0)
        end = len(text) - self._tail.size
        if len(text) < self._least or not self._head.at(text, 0) or not self._tail.at(text, end):
            return False
        # The first place where a part fits is as good as any: the parts after it have the most room.
        start = self._head.size
        for part in self._inner:
            start = part.find(text, start, end)
            if start < 0:
                return False
        return True

    def __repr__(self) -> str:
        return f"<Glob {self.text!r}>"


class _Part:
    """A piece of a glob between two stars, of a fixed length."""

    __slots__ = ("_masks", "_plain", "_wild", "size", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.size = len(text)
        self._plain = "?" not in text
        # One bit per character of the piece: those that a `?` takes, and those that each character takes.
        self._wild = sum(1 << n for n, char in enumerate(text) if char == "?")
        self._masks: dict[str, int] = {}
        if not self._plain:
            for n, char in enumerate(text):
                self._masks[char] = self._masks.get(char, self._wild) | 1 << n

    def at(self, text: str, start: int) -> bool:
        if self._plain:
            return text.startswith(self.text, start)
        if start < 0 or len(text) - start < self.size:
            return False
        return all(char in ("?", text[start + n]) for n, char in enumerate(self.text))

    def find(self, text: str, start: int, end: int) -> int:
        """Where the first place ends at which the piece fits into `text[start:end]`; -1: nowhere."""
        if self._plain:
            found = text.find(self.text, start, end)
            return -1 if found < 0 else found + self.size
        # Shift-and: bit n is set where the first n + 1 characters fit up to here.
        last = 1 << self.size - 1
        state = 0
        masks, wild = self._masks, self._wild
        for at in range(start, end):
            state = (state << 1 | 1) & masks.get(text[at], wild)
            if state & last:
                return at + 1
        return -1


def globs(texts: Iterable[str]) -> tuple[Glob, ...]:
    """Compile each."""
    return tuple(Glob(text) for text in texts)


def any_matches(compiled: Iterable[Glob], text: str) -> bool:
    """Whether one of them fits."""
    return any(glob.matches(text) for glob in compiled)
