"""The table of threats is whole: no row without its test or its reason, no test that is not there.

Must never: take a name in a table for a test; the file is read.
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

from tests.threats.page import PAGE, render
from tests.threats.rows import ROWS, SECTIONS, Row

ROOT = Path(__file__).parents[2]


@functools.cache
def functions(file: str) -> frozenset[str]:
    """The test functions of a file, as pytest collects them by their names."""
    tree = ast.parse((ROOT / file).read_text())
    found = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            found += [f"{node.name}::{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)]
    return frozenset(name for name in found if name.rpartition("::")[2].startswith("test"))


def test_no_row_is_lost() -> None:
    for section, (_, count) in SECTIONS.items():
        ids = [row.id for row in ROWS if row.id.partition(".")[0] == section]
        assert ids == [f"{section}.{number}" for number in range(1, count + 1)]
    assert sum(count for _, count in SECTIONS.values()) == len(ROWS) == 158


@pytest.mark.parametrize("row", ROWS, ids=[row.id for row in ROWS])
def test_each_row_has_a_test_or_a_reason(row: Row) -> None:
    assert bool(row.tests) != bool(row.reason), "one of the two"
    assert row.about and bool(row.feature) == bool(row.tests)
    assert len(row.reason) > 40 or not row.reason
    for test in row.tests:
        file, _, name = test.partition("::")
        assert re.fullmatch(r"tests/[a-z0-9_/]+\.py", file), test
        assert Path(file).name.startswith("test_") and name in functions(file), test


@pytest.mark.parametrize("row", ROWS, ids=[row.id for row in ROWS])
def test_each_feature_is_there(row: Row) -> None:
    for part in row.feature.split():
        places = [ROOT / part, ROOT / "mcpgate_proto" / part, ROOT / "runners" / "mcpgate" / part]
        assert any(place.exists() for place in places), part


def test_each_test_of_a_row_is_named_after_it() -> None:
    """A test here that is called after a row is in the table, and of that row."""
    named = {test: row.id for row in ROWS for test in row.tests}
    strays = []
    for file in sorted(Path(__file__).parent.glob("test_*.py")):
        for name in sorted(functions(f"tests/threats/{file.name}")):
            match = re.match(r"test_t(\d)_(\d+)_", name)
            if match is not None and f"tests/threats/{file.name}::{name}" not in named:
                strays.append(f"{file.name}::{name}")
    assert strays == []


def test_the_page_is_made_of_the_rows() -> None:
    assert PAGE.read_text() == render(), "python -m tests.threats.page"
