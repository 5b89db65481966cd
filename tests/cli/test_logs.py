"""The log: one line per record, whatever a peer put into it.

Must never: let a control character or an unbounded value through.
"""

from __future__ import annotations

import io
import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgate.logs import JSON_VALUE_CHARS, VALUE_CHARS, escaped, json_sink, text_line, text_sink
from mcpgate.redact import Redactor
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


def test_arguments_are_not_cut(tmp_path: Path) -> None:
    """They have a limit of their own, and a part of them would be no JSON."""
    path = tmp_path / "log"
    told = json.dumps({"text": "x" * JSON_VALUE_CHARS * 2})
    json_sink(str(path))(Record("info", "round", (("arguments", told), ("name", "x" * JSON_VALUE_CHARS * 2))))
    line = json.loads(path.read_text())
    assert line["arguments"] == told and len(line["name"]) < JSON_VALUE_CHARS + 30


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        # What is taken out ends before a quote: the backslash before that must not go with it.
        ({"a": 'secret=abcdef"g', "pwd": 1}, {"a": 'secret=[redacted]"g', "pwd": "[redacted]"}),
        ({"a": 'Cookie: a"b', "pwd": [2]}, {"a": 'Cookie: [redacted]"b', "pwd": "[redacted]"}),
        ({"a": "Cookie: a\nafter it"}, {"a": "Cookie: [redacted]\nafter it"}),
        ({"a": '{"password": "hunter22"}'}, {"a": '{"password": "[redacted]"}'}),
        ({"pass": "a", "pass_through": "b"}, {"pass": "[redacted]", "pass_through": "b"}),
        ({"smtpPass": 1, "dbCreds": {}}, {"smtpPass": "[redacted]", "dbCreds": "[redacted]"}),
        ({"a": ['hidden"words1', 1234567890]}, {"a": ["[redacted]", "[redacted]"]}),
        ({'hidden"words1': None, "b": [True, 1.5]}, {"[redacted]": None, "b": [True, 1.5]}),
    ],
)
def test_arguments_stay_json_without_secrets(told: object, shown: object) -> None:
    redactor = Redactor(['hidden"words1', "1234567890"])
    ((_, text),) = redactor.record(Record("info", "round", (("arguments", json.dumps(told)),))).fields
    assert isinstance(text, str) and json.loads(text) == shown


def test_numbers_of_arguments_stay_as_they_were_written() -> None:
    told = '{"a":1e400,"b":1.10,"c":-0.0,"d":' + "9" * 5000 + ',"pwd":"[redacted]"}'
    record = Record("info", "round", (("arguments", told.replace("[redacted]", "short")),))
    assert Redactor().record(record).fields == (("arguments", told),)
