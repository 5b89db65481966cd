"""The table of revisions, against the rules that it was read from."""

from __future__ import annotations

import pytest

from mcpgate_proto.mcp.revisions import (
    LATEST_LEGACY,
    LEGACY_VERSIONS,
    MODERN,
    MODERN_VERSIONS,
    REVISIONS,
    Era,
    negotiate,
)

ALL = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"]

# Field -> the first and the last revision that has it.
SPANS = {
    "batches": ("2025-03-26", "2025-03-26"),
    "streamable_http": ("2025-03-26", "2026-07-28"),
    "http_sessions": ("2025-03-26", "2025-11-25"),
    "version_header": ("2025-06-18", "2026-07-28"),
    "priming_events": ("2025-11-25", "2025-11-25"),
    "mirrored_headers": ("2026-07-28", "2026-07-28"),
    "idless_errors": ("2025-11-25", "2026-07-28"),
    "server_requests": ("2024-11-05", "2025-11-25"),
    "roots_list_changed": ("2024-11-05", "2025-11-25"),
    "session_methods": ("2024-11-05", "2025-11-25"),
    "result_type": ("2026-07-28", "2026-07-28"),
    "cache_hints": ("2026-07-28", "2026-07-28"),
    "request_meta": ("2026-07-28", "2026-07-28"),
    "extensions": ("2026-07-28", "2026-07-28"),
    "progress_message": ("2025-03-26", "2026-07-28"),
    "completions_capability": ("2025-03-26", "2026-07-28"),
    "completion_context": ("2025-06-18", "2026-07-28"),
    "audio": ("2025-03-26", "2026-07-28"),
    "resource_links": ("2025-06-18", "2026-07-28"),
    "structured_content": ("2025-06-18", "2026-07-28"),
    "structured_any": ("2026-07-28", "2026-07-28"),
    "elicitation": ("2025-06-18", "2026-07-28"),
    "elicitation_rich": ("2025-11-25", "2026-07-28"),
    "elicitation_url": ("2025-11-25", "2026-07-28"),
    "elicitation_ids": ("2025-11-25", "2025-11-25"),
    "sampling_tools": ("2025-11-25", "2026-07-28"),
    "tasks": ("2025-11-25", "2025-11-25"),
    "argument_faults_in_result": ("2025-11-25", "2026-07-28"),
}


def test_order_and_names() -> None:
    assert list(REVISIONS) == ALL
    assert all(REVISIONS[version].version == version for version in ALL)
    assert LEGACY_VERSIONS == tuple(reversed(ALL[:4])) and LEGACY_VERSIONS[0] == LATEST_LEGACY
    assert MODERN_VERSIONS == (MODERN,)
    assert {version: revision.era for version, revision in REVISIONS.items()} == {
        version: Era.MODERN if version == MODERN else Era.LEGACY for version in ALL
    }


@pytest.mark.parametrize("version", ALL)
def test_every_field_by_its_span(version: str) -> None:
    revision = REVISIONS[version]
    assert {*revision.__struct_fields__} == {*SPANS, "version", "era"}
    for field, (first, last) in SPANS.items():
        assert getattr(revision, field) is (first <= version <= last), field


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        *((version, version) for version in ALL[:4]),
        # C42: the handshake cannot select a stateless revision.
        ("2026-07-28", "2025-11-25"),
        ("2099-01-01", "2025-11-25"),
        ("2024-10-07", "2025-11-25"),
        ("", "2025-11-25"),
        ("2025-06-18 ", "2025-11-25"),
    ],
)
def test_negotiate(asked: str, given: str) -> None:
    assert negotiate(asked) == given
