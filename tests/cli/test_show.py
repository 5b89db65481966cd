"""What servers say, on a terminal: readable, and harmless for it.

Must never: need a terminal.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import click
import pytest

from mcpgate import cli, client, show
from mcpgate_proto.config import GatewayConfig

# Of ESC (C0), CSI (C1), DEL and a character that turns text round, JSON escapes the first alone.
EVIL = "\x1b[31m\x9b31m\x7f\u202etxt"
STEERS = set("\x1b\x9b\x7f\u202e")
WORD = "größer"


@pytest.mark.parametrize(
    "value",
    [
        {"content": [{"type": "text", "text": f"{WORD}\n{EVIL}"}]},
        {"content": [{"type": "image", "data": WORD, "mimeType": EVIL}]},
        {"content": [], "structuredContent": {WORD: EVIL}},
    ],
)
def test_a_result_does_not_steer_a_terminal(
    value: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for as_json in (False, True):
        show.result(value, as_json)
        out = capsys.readouterr().out
        assert WORD in out and not STEERS & set(out)
        if as_json:
            assert json.loads(out) == value
    show.tools([{"name": EVIL, "description": WORD}], True)
    assert not STEERS & set(capsys.readouterr().out)


def test_an_error_does_not_either(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise client.CallError({"code": -32602, "message": EVIL})

    monkeypatch.setattr(client, "connected", refuse)
    with pytest.raises(click.ClickException) as caught:
        cli._connected(GatewayConfig(), lambda faces: None)
    assert "-32602" in caught.value.message and not STEERS & set(caught.value.message)
