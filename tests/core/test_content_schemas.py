"""The oracle itself: what it takes and what it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import schemas
from tests.schemas import check, check_message

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


def test_the_published_examples_are_valid() -> None:
    schemas.validator("2026-07-28")
    found = sorted((schemas.folder() / "2026-07-28" / "examples").glob("*/*.json"))
    if not found:
        pytest.skip("no examples next to the schema of 2026-07-28")
    for path in found:
        check("2026-07-28", path.parent.name, json.loads(path.read_text("utf-8")))


def request(method: str, params: Any = None) -> dict[str, Any]:
    told = {"jsonrpc": "2.0", "id": 1, "method": method}
    return told if params is None else {**told, "params": params}


def result(value: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "result": value}


CONTENT = {"content": [{"type": "text", "text": "x"}]}
GOOD: list[tuple[str, str, Any, str | None]] = [
    ("2024-11-05", "client", request("ping"), None),
    ("2024-11-05", "server", result({}), "ping"),
    ("2025-11-25", "client", {"jsonrpc": "2.0", "method": "notifications/initialized"}, None),
    ("2025-06-18", "server", request("roots/list"), None),
    ("2025-06-18", "client", result({"roots": []}), "roots/list"),
    ("2025-11-25", "server", result(CONTENT), "tools/call"),
    ("2025-11-25", "server", {"jsonrpc": "2.0", "error": {"code": 1, "message": "m"}}, None),
    ("2026-07-28", "client", request("tools/list", {"_meta": META}), None),
    ("2026-07-28", "server", result({**CONTENT, "resultType": "complete"}), "tools/call"),
    (
        "2026-07-28",
        "server",
        result({"resultType": "input_required", "inputRequests": {"k": {"method": "roots/list"}}}),
        "tools/call",
    ),
    (
        "2026-07-28",
        "client",
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}},
        None,
    ),
]
BAD: list[tuple[str, str, Any, str | None, str]] = [
    ("2025-06-18", "server", {"jsonrpc": "2.0", "error": {"code": 1, "message": "m"}}, None, "'id'"),
    ("2025-11-25", "client", request("roots/list"), None, "no request roots/list from the client"),
    (
        "2025-11-25",
        "server",
        result({"content": [{"type": "text"}]}),
        "tools/call",
        r"\$.result.content\[0\]",
    ),
    ("2025-11-25", "server", result({"structuredContent": 1, **CONTENT}), "tools/call", "structuredContent"),
    ("2026-07-28", "client", request("tools/list", {}), None, "_meta"),
    ("2026-07-28", "client", request("ping", {"_meta": META}), None, "no request ping"),
    ("2026-07-28", "server", request("roots/list"), None, "no request roots/list from the server"),
    ("2026-07-28", "server", result(CONTENT), "tools/call", "resultType"),
    ("2026-07-28", "server", result({"resultType": "odd"}), "tools/call", "resultType odd"),
    ("2026-07-28", "server", result({"resultType": "input_required"}), "tools/call", "without"),
    (
        "2026-07-28",
        "server",
        result({"resultType": "input_required", "requestState": "x"}),
        "tools/list",
        "input_required for tools/list",
    ),
    ("2026-07-28", "client", result({"resultType": "complete"}), "roots/list", "no result of roots/list"),
]


@pytest.mark.parametrize(("revision", "direction", "message", "method"), GOOD)
def test_what_may_be_sent_is_taken(revision: str, direction: str, message: Any, method: str | None) -> None:
    check_message(revision, direction, message, request_method=method)


@pytest.mark.parametrize(("revision", "direction", "message", "method", "told"), BAD)
def test_what_may_not_be_sent_is_named(
    revision: str, direction: str, message: Any, method: str | None, told: str
) -> None:
    with pytest.raises(AssertionError, match=told):
        check_message(revision, direction, message, request_method=method)


def test_extensions_are_taken_where_they_are_named() -> None:
    message = request("tasks/get", {"taskId": "t"})
    check_message("2026-07-28", "client", message, extensions=("tasks/get",))
    check_message(
        "2026-07-28",
        "server",
        result({"resultType": "task"}),
        request_method="tools/call",
        extensions=("task",),
    )
    with pytest.raises(AssertionError):
        check_message("2026-07-28", "client", message)


def test_without_schemas_tests_are_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MCPGATE_SCHEMAS", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match="MCPGATE_SCHEMAS"):
        check("2025-11-25", "Tool", {})
