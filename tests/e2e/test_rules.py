"""Rules from end to end: two API keys, one server, and a config that is read again while they are at work."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from e2e.conftest import MakeGateway
from e2e.harness import Gateway
from e2e.rawhttp import Answer, Http, Session, modern
from e2e.test_auth import PLAIN, RUNNERS, Key, keys

__all__ = ["keys"]

RULE = {"except_principals": ["key:ops"], "tools": {"allow": ["who"]}}
RENAME = {"principals": ["key:ops"], "rename": {"echo": "say"}}


class AsKey(Http):
    """Requests with a key."""

    def __init__(self, gateway: Gateway, key: Key) -> None:
        super().__init__(gateway.port)
        self._key = key

    def post(self, body: Any, headers: dict[str, str] | None = None) -> Answer:
        return super().post(body, {**(headers or {}), **self._key.headers})

    def both(self, method: str, session: Session, **params: Any) -> list[dict[str, Any]]:
        """The same asked in both eras: the message of each answer."""
        body, headers = modern(method, **params)
        old = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return [self.post(body, headers).message, session.post(old).message]


def tools(told: dict[str, Any]) -> list[str]:
    return [tool["name"] for tool in told["result"]["tools"]]


@pytest.mark.parametrize("runner", RUNNERS)
def test_two_keys_over_one_server(
    runner: str, serve_gateway: MakeGateway, keys: dict[str, Key], tmp_path: Path
) -> None:
    tables = {"auth.key": [one.table for one in keys.values()]}
    gateway = serve_gateway([PLAIN], "--runner", runner, **tables, rule=[RULE, RENAME])
    ci, ops = (AsKey(gateway, keys[name]) for name in ("ci", "ops"))
    sessions = {one: Session(one) for one in (ci, ops)}
    for told in ci.both("tools/list", sessions[ci]):
        assert tools(told) == ["who"]
    for told in ops.both("tools/list", sessions[ops]):
        assert {"who", "say", "big"} <= set(tools(told)) and "echo" not in tools(told)
    for told in ops.both("tools/call", sessions[ops], name="say", arguments={"text": "hello"}):
        assert told["result"]["content"][0]["text"] == "hello"
    for client, name in ((ci, "echo"), (ci, "say"), (ops, "echo")):
        denied = client.both("tools/call", sessions[client], name=name, arguments={"text": "x"})
        unknown = client.both("tools/call", sessions[client], name="nobody", arguments={"text": "x"})
        assert str(denied).replace(f"tool: {name}", "@") == str(unknown).replace("tool: nobody", "@")
        assert all(told["error"]["code"] == -32602 for told in denied)
    record = gateway.wait_for(lambda: [one for one in gateway.err if " denied " in one], "a record")[0]
    assert "principal=key:ci" in record and "tool=echo" in record and "by=rules" in record

    # The rules change under open sessions.
    config = tmp_path / "mcpgate.toml"
    config.write_text(config.read_text().replace('["key:ops"]', '["key:ci"]'))
    gateway.popen.send_signal(signal.SIGHUP)
    gateway.wait_for(lambda: [one for one in gateway.err if " reloaded " in one], "the reload")
    for told in ci.both("tools/call", sessions[ci], name="say", arguments={"text": "hello"}):
        assert told["result"]["content"][0]["text"] == "hello"
    for told in ops.both("tools/list", sessions[ops]):
        assert tools(told) == ["who"]
    for told in ops.both("tools/call", sessions[ops], name="echo", arguments={"text": "x"}):
        assert told["error"]["code"] == -32602
