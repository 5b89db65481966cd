"""The official suite as tests: `pytest -m conformance` with MCPGATE_CONFORMANCE set runs it; and the lists of
what may fail, which are kept short."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conformance import run, ways


@pytest.mark.conformance
@pytest.mark.parametrize("way", ways.QUICK, ids=lambda way: way.name)
def test_official_suite(way: ways.Way, tmp_path: Path) -> None:
    if not os.environ.get("MCPGATE_CONFORMANCE"):
        pytest.skip("MCPGATE_CONFORMANCE is not set: `make conformance` runs the suite")
    try:
        suite = run.find_suite()
    except run.Missing as error:
        pytest.skip(str(error))
    if not run.suite_installed():
        pytest.skip("the suite is not installed: `make conformance` installs it")
    verdict = run.check(way, suite, tmp_path)
    assert verdict.good, "\n".join(verdict.lines)


def test_no_failure_is_expected() -> None:
    assert run.expected_failures() == set()


def test_what_cannot_pass_has_a_reason_and_is_of_one_fixture_only() -> None:
    assert [len(fields) for fields in run.listed("cannot-pass.txt")] == [3, 3]
    for era in ways.ERAS:
        for revision in run.WANTED:
            known = run.cannot_pass(era, revision)
            assert len(known) == (2 if (era, revision) == ("legacy", "2026-07-28") else 0)


def row(name: str, *errors: str, scored: bool = True) -> run.Row:
    failures = [{"id": "x", "error": error} for error in errors]
    return {
        "scenario": name,
        "scored": scored,
        "status": "fail" if errors else "pass",
        "failures": failures,
    }


@pytest.mark.parametrize(
    ("rows", "known", "good"),
    [
        ([row("a"), row("b")], {}, True),
        ([row("a"), row("b", "why")], {}, False),
        ([row("a")], {}, False),
        ([row("a"), row("b"), row("c", "why", scored=False)], {}, True),
        ([row("a"), row("b", "why: so")], {"b": "why"}, True),
        # What cannot pass hides nothing else, and comes off the list once it passes.
        ([row("a"), row("b", "another")], {"b": "why"}, False),
        ([row("a"), row("b", "why", "another")], {"b": "why"}, False),
        ([row("a"), row("b")], {"b": "why"}, False),
    ],
)
def test_the_verdict(rows: list[run.Row], known: dict[str, str], good: bool) -> None:
    verdict = run.Verdict("x")
    run.judge(verdict, "revision", rows, 2, known)
    assert verdict.good is good, verdict.lines
