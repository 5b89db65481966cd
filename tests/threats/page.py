"""docs/threats.md, made of `rows.py`: `python -m tests.threats.page` writes it.

Must never: hold a row of its own.
"""

from __future__ import annotations

from pathlib import Path

from tests.threats.rows import ROWS, SECTIONS, Row

__all__ = ["PAGE", "render"]

PAGE = Path(__file__).parents[2] / "docs" / "threats.md"
HEAD = """# Threats, what answers them, and the tests that show it

Written by `python -m tests.threats.page` from `tests/threats/rows.py`; a test compares the two, looks that
every test named here exists, and counts the rows. `make mutants` takes the checks away one by one and looks
that a test fails.

The first number of a row is its section. Comments in the code that say "threats.md row 34" mean row 1.34.
Files without a folder are in `runners/mcpgate/`, others in `mcpgate_proto/`. The results for single inputs
(appendices A and B) are in `tests/threats/test_appendix_a.py` and `tests/wire/appendix_b.py`.
"""


def _tests(row: Row) -> str:
    """Each file once, with its functions."""
    files: dict[str, list[str]] = {}
    for test in row.tests:
        file, _, name = test.partition("::")
        files.setdefault(file.removeprefix("tests/"), []).append(name)
    return "; ".join(f"{file}: " + ", ".join(f"`{name}`" for name in names) for file, names in files.items())


def _line(row: Row) -> str:
    if row.reason:
        return f"| {row.id} | {row.about} | not answered here | {row.reason} |"
    feature = ", ".join(f"`{part}`" for part in row.feature.split())
    return f"| {row.id} | {row.about} | {feature} | {_tests(row)} |"


def render() -> str:
    parts = [HEAD]
    for section, (title, _) in SECTIONS.items():
        lines = [_line(row) for row in ROWS if row.id.partition(".")[0] == section]
        parts.append(
            f"## {section}. {title}\n\n| row | threat or policy | answered by | shown by |\n"
            "| --- | --- | --- | --- |\n"
        )
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts).replace("|\n\n| ", "|\n| ")


if __name__ == "__main__":
    PAGE.write_text(render())
