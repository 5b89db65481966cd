"""The log: one line per record, whatever a peer put into it.

Must never: let a control character or an unbounded value through.
"""

from __future__ import annotations

import io
import json
import stat
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from mcpgate.logs import VALUE_CHARS, escaped, json_sink, text_line, text_sink
from mcpgate_proto.effects import Record


@given(st.text())
def test_a_line_stays_one_harmless_line(text: str) -> None:
    line = text_line(Record("info", "event", (("value", text),)), 0.0)
    assert line.endswith("\n") and len(line.splitlines()) == 1
    assert all(char.isprintable() or char == " " or ord(char) >= 0xA0 for char in line[:-1])
    assert not set(line) & set("\x1b\u202e\u2066\u200f\ufeff\u2028")


def test_values_are_capped_and_quoted() -> None:
    assert len(escaped("x" * 10_000)) < VALUE_CHARS + 30
    record = Record("warning", "spoke", (("a", "b c"), ("n", 3), ("t", True), ("none", None), ("e", "")))
    assert text_line(record, 0.0).endswith('warning spoke a="b c" n=3 t=true none=null e=""\n')


def test_no_colour_off_a_terminal() -> None:
    out = io.StringIO()
    text_sink(out)(Record("error", "bad"))
    assert "\x1b" not in out.getvalue() and "error   bad" in out.getvalue()
    out.close()
    # A log that nobody can read any more does not stop anything.
    text_sink(io.StringIO())(Record("error", "bad"))


def test_json_lines_for_the_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "log"
    sink = json_sink(str(path))
    sink(Record("info", "one", (("text", "a\nb\x1b"), ("level", "x"))))
    sink(Record("info", "two"))
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert first["text"] == "a\\nb\\u001b" and first["level"] == "info" and first["level_"] == "x"
    assert second["event"] == "two" and second["time"].endswith("Z")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
