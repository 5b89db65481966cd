"""The mutants fit the code they change and name tests that are there. Whether those tests notice is `make
mutants`.

Must never: run a mutant; that takes minutes.
"""

from __future__ import annotations

import ast

import pytest

from tests.threats.mutants import Mutant
from tests.threats.mutations import ALL, ROOT, applied
from tests.threats.rows import ROWS
from tests.threats.test_rows import functions


@pytest.mark.parametrize("mutant", ALL, ids=[mutant.name for mutant in ALL])
def test_each_mutant_fits(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text()
    ast.parse(applied(mutant, text))
    file, _, name = mutant.test.partition("::")
    assert name.partition("[")[0] in functions(file)
    assert mutant.kind in ("door", "auth", "limit", "secret")
    assert set(mutant.rows.split()) <= {row.id for row in ROWS}


def test_no_two_are_called_the_same() -> None:
    names = [mutant.name for mutant in ALL]
    assert len(set(names)) == len(names)


def test_each_kind_of_row_has_its_mutants() -> None:
    """The rows about the door, about who may come in, about how much, and about secrets."""
    covered = {row for mutant in ALL for row in mutant.rows.split()}
    wanted = {
        "0.2",
        "0.3",
        "0.4",
        "0.8",
        "0.9",
        "0.10",
        "0.11",
        "0.12",
        "0.13",
        "0.15",
        "0.17",
        "0.20",
        "0.22",
    }
    wanted |= {
        "1.1",
        "1.2",
        "1.3",
        "1.4",
        "1.5",
        "1.13",
        "1.14",
        "1.15",
        "1.16",
        "1.28",
        "1.30",
        "1.31",
        "1.34",
        "1.35",
    }
    wanted |= {
        "1.38",
        "1.40",
        "2.12",
        "3.12",
        "3.14",
        "3.15",
        "3.17",
        "3.18",
        "4.1",
        "4.5",
        "4.6",
        "4.7",
        "4.12",
    }
    assert not wanted - covered
