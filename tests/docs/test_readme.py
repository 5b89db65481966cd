"""The README's example of the core runs as it stands there.

Owns: the check of documented code. Must never: repair an example while reading it.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)


def test_the_embedding_example_runs() -> None:
    found = examples()
    assert found
    for source in found:
        exec(compile(source, "README.md", "exec"), {})
