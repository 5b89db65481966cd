"""Where log records go: readable lines on stderr, or JSON lines in a file.

Owns: escaping (a peer's text must not steer a terminal or forge a line), length caps, colour, the file.
Must never: write to stdout, raise into the runner, or wait for a slow reader longer than the kernel makes it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TextIO

from mcpgate.files import open_private
from mcpgate_proto.effects import Record, Scalar

__all__ = ["STDERR", "audit_sink", "escaped", "json_sink", "text_line", "text_sink", "with_audit"]

# In place of the name of a file.
STDERR = "stderr"
# A line is for a person: more than this of one value hides the rest.
VALUE_CHARS = 500
JSON_VALUE_CHARS = 4000
# The arguments of a call, which have a limit of their own ([limits] audit_arguments_bytes): a part of a JSON
# text would be none.
UNCUT = "arguments"
COLOURS = {
    "debug": "2",
    "notice": "36",
    "warning": "33",
    "error": "31",
    "critical": "1;31",
    "alert": "1;31",
    "emergency": "1;31",
}


def _unsafe() -> dict[int, str]:
    """Control characters (C0, DEL, C1), and those that reorder or hide what a terminal shows."""
    codes = [*range(0x20), *range(0x7F, 0xA0), 0x061C, 0x200B, *range(0x200E, 0x2010)]
    codes += [*range(0x2028, 0x202F), *range(0x2060, 0x2070), 0xFEFF, *range(0xD800, 0xE000)]
    table = {code: f"\\u{code:04x}" for code in codes}
    table |= {0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t"}
    return table


_UNSAFE = _unsafe()


def escaped(text: str, most: int = VALUE_CHARS) -> str:
    """`text` on one line, harmless for a terminal, and not longer than `most` and a bit."""
    cut = len(text) - most
    if cut > 0:
        return text[:most].translate(_UNSAFE) + f"... ({cut} more)"
    return text.translate(_UNSAFE)


def _shown(value: Scalar) -> str:
    if isinstance(value, str):
        text = escaped(value)
        return f'"{text}"' if not text or any(c in text for c in ' "=') else text
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def text_line(record: Record, wall: float, *, colour: bool = False) -> str:
    """One record as a person reads it: time, level, event, fields."""
    clock = time.strftime("%H:%M:%S", time.localtime(wall))
    fields = "".join(f" {name}={_shown(value)}" for name, value in record.fields)
    level = f"{record.level:<7}"
    if colour and (code := COLOURS.get(record.level)):
        level = f"\x1b[{code}m{level}\x1b[0m"
    return f"{clock} {level} {escaped(record.event)}{fields}\n"


def text_sink(stream: TextIO | None = None) -> Callable[[Record], None]:
    """Readable lines; coloured only on a terminal, and not when NO_COLOR is set."""
    out = stream or sys.stderr
    colour = out.isatty() and not os.environ.get("NO_COLOR")

    def sink(record: Record) -> None:
        try:
            out.write(text_line(record, time.time(), colour=colour))
            out.flush()
        except (OSError, ValueError):
            # Nobody reads the log any more; the gateway goes on.
            pass

    return sink


def with_audit(log: Callable[[Record], None], audit: Callable[[Record], None]) -> Callable[[Record], None]:
    """Each record to its stream's sink."""
    return lambda record: (audit if record.stream == "audit" else log)(record)


def json_sink(path: str) -> Callable[[Record], None]:
    """JSON lines appended to `path`, which only its owner may read. Raises `OSError`."""
    return _json_lines(open_private(path, os.O_APPEND))


def audit_sink(place: str) -> Callable[[Record], None]:
    """JSON lines to stderr or appended to a file. Raises `OSError`."""
    return _json_lines(sys.stderr.fileno()) if place == STDERR else json_sink(place)


def _json_lines(fd: int) -> Callable[[Record], None]:
    """JSON lines written to the descriptor `fd`, each with one write."""
    import msgspec

    encode = msgspec.json.encode

    def sink(record: Record) -> None:
        wall = time.time()
        clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(wall)) + f".{int(wall % 1 * 1000):03d}Z"
        line: dict[str, Scalar] = {"time": clock, "level": record.level, "event": escaped(record.event)}
        for name, value in record.fields:
            if isinstance(value, str):
                value = escaped(value, len(value) if name == UNCUT else JSON_VALUE_CHARS)
            line[name if name not in line else f"{name}_"] = value
        try:
            os.write(fd, encode(line) + b"\n")
        except OSError:
            # A full disk must not stop the gateway.
            pass

    return sink
