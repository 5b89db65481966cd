"""Requests for a WebSocket, right or wrong in one thing, and what is said to them.

Must never: hold a test.
"""

from __future__ import annotations

from typing import Any

from mcpgate_proto.limits import Limits
from mcpgate_proto.wire.http1 import Headers, RequestHead
from mcpgate_proto.wire.websocket_handshake import Accept, Refusal, check_upgrade

SEED = bytes(range(32))
LIMITS = Limits()
KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def request(*extra: tuple[str, str], without: str = "", method: str = "GET", **changes: Any) -> RequestHead:
    fields = [
        ("host", "127.0.0.1:8080"),
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-key", KEY),
        ("sec-websocket-version", "13"),
    ]
    names = {name for name, _ in extra if name.startswith("=")}
    fields = [field for field in fields if field[0] != without and "=" + field[0] not in names]
    fields += [(name.lstrip("="), value) for name, value in extra]
    values = {"version": "1.1", "has_body": False, **changes}
    return RequestHead(
        method=method,
        target="/mcp",
        path="/mcp",
        query="",
        headers=Headers(tuple(fields)),
        upgrade=True,
        expects_continue=False,
        content_length=None,
        **values,
    )


def accepted(head: RequestHead) -> Accept:
    verdict = check_upgrade(head)
    assert isinstance(verdict, Accept), verdict
    return verdict


def refused(head: RequestHead) -> int:
    verdict = check_upgrade(head)
    assert isinstance(verdict, Refusal), verdict
    assert verdict.reason.isascii()
    return verdict.status
