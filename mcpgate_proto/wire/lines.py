"""Newline framing: one message per line, as stdio, Unix sockets and TCP carry MCP (protocol.md B1).

Owns: cutting a byte stream into lines, bounded and in linear time. Must never: look into a line, hold
more than one line of the permitted size, or raise for what a peer sends.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

__all__ = ["Line", "LineDecoder", "TooLong", "encode_line"]


class TooLong(msgspec.Struct, frozen=True, gc=False):
    """A line above the permitted size was met; it is dropped up to its newline. `size` is the bound."""

    size: int


Line: TypeAlias = bytes | TooLong


def encode_line(message: bytes) -> bytes:
    """Frame one message. It must hold no newline itself, as everything that `jsonrpc` returns."""
    return message + b"\n"


class LineDecoder:
    """Cuts a stream at `\\n`. A `\\r` before it is dropped, blank lines are skipped (B1).

    The same stream gives the same lines, however it is cut into pieces: an oversize line is reported at
    the first byte too many, once, and reading resumes after its newline.
    """

    __slots__ = ("_dropping", "_held", "_max")

    def __init__(self, max_bytes: int) -> None:
        self._max = max_bytes
        self._held = bytearray()
        self._dropping = False

    @property
    def buffered(self) -> int:
        """Bytes of the line that has not ended yet."""
        return len(self._held)

    def receive(self, data: bytes) -> list[Line]:
        """Take what arrived and return the lines that it completes."""
        parts = data.split(b"\n")
        last = len(parts) - 1
        lines: list[Line] = []
        if last:
            if self._dropping:
                self._dropping = False
            elif self._held:
                # Only the new bytes were searched; what is held is joined once, here.
                self._held += parts[0]
                self._add(bytes(self._held), lines)
            else:
                self._add(parts[0], lines)
            self._held.clear()
            for index in range(1, last):
                self._add(parts[index], lines)
        if parts[last] and not self._dropping:
            self._hold(parts[last], lines)
        return lines

    def receive_eof(self) -> list[Line]:
        """The stream has ended. A last line without its newline counts."""
        lines: list[Line] = []
        self._add(bytes(self._held), lines)
        self._held.clear()
        self._dropping = False
        return lines

    def _add(self, line: bytes, lines: list[Line]) -> None:
        if line[-1:] == b"\r":
            line = line[:-1]
        if len(line) > self._max:
            lines.append(TooLong(self._max))
        elif line and not line.isspace():
            lines.append(line)

    def _hold(self, part: bytes, lines: list[Line]) -> None:
        size = len(self._held) + len(part)
        # One byte more is not too much if it may be the `\r` of the line's end.
        if size > self._max and (size > self._max + 1 or part[-1:] != b"\r"):
            lines.append(TooLong(self._max))
            self._held.clear()
            self._dropping = True
        else:
            self._held += part
