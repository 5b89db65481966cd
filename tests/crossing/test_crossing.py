"""Every client at every server: what crosses, cell by cell; docs/crossings.md is made from these runs.

Owns: the cells and the table. `python -m tests.crossing.test_crossing` writes the document.
Must never: put a cell into the table that was not executed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from fuzz.sim.scene import Scene
from tests.crossing.features import FEATURES, URI

ROOT = Path(__file__).parents[2]
DOC = ROOT / "docs" / "crossings.md"
ALL = {"elicitation": {}, "sampling": {}, "roots": {}}
CLIENTS = ("legacy HTTP", "legacy stdio", "modern HTTP", "modern stdio")
SERVERS = {
    "legacy stdio": ("stdio", ("legacy",)),
    "legacy HTTP": ("http", ("legacy",)),
    "modern stdio": ("stdio", ("modern",)),
    "modern HTTP": ("http", ("modern",)),
    "dual stdio": ("stdio", ("legacy", "modern")),
    "dual HTTP": ("http", ("legacy", "modern")),
}
HEAD = """# What crosses and what does not

Each row is a client, each column a server; a cell tells which of the features crossed when this very pair was
run, with assertions, by `tests/crossing`. The page is made from those runs (`python -m
tests.crossing.test_crossing`), and a test compares it with them.

Old era: 2024-11-05 to 2025-11-25 ("legacy"). New era: 2026-07-28 ("modern"). A dual server speaks both.

Features: {features}.

| client \\ server | {servers} |
| --- |{lines}
"""
# What no gateway can carry, and what is answered instead (L26, L4, L1).
INSTEAD = (
    ("a server asks outside any call, and the client is modern", "the server gets -32602"),
    ("a server needs what the modern client did not declare", "-32021 with `requiredCapabilities`"),
    ("a modern server asks for a form that the client's revision cannot show", "the server gets `decline`"),
    ("a legacy client answers a modern server's sampling or roots request with an error",
     "the call ends: `isError` for a tool, else -32603"),
    ("a parked call's client never returns", "the server gets a plain no, then the cancellation"),
    ("a parked call's state comes again, changed, or for another request or principal", "-32602, start over"),
    ("a modern client's stream breaks", "that is its cancellation; there is no resumption"),
    ("a legacy client's stream breaks", "the call goes on; `Last-Event-ID` resumes"),
    ("progress of a client, `roots/list_changed` for a modern server", "swallowed"),
)  # fmt: skip


def play(client: str, server: str, feature: str) -> None:
    """One feature in one cell; raises when it did not cross."""
    era, way = client.split()
    listener = "http" if way == "HTTP" else "stdio"
    scene = Scene({"one": SERVERS[server]}, listeners=(listener,))
    scene.only.resources = (URI,)
    scene.only.prompts = ("greet",)
    scene.start()
    made: Any
    if era == "legacy":
        made = scene.legacy(capabilities=ALL) if way == "HTTP" else scene.legacy_pipe(capabilities=ALL)
    else:
        made = scene.modern(capabilities=ALL) if way == "HTTP" else scene.modern_pipe(capabilities=ALL)
    FEATURES[feature](scene, made)
    assert scene.problems() == []


CELLS = [(client, server, feature) for client in CLIENTS for server in SERVERS for feature in FEATURES]


@pytest.mark.parametrize(("client", "server", "feature"), CELLS)
def test_it_crosses(client: str, server: str, feature: str) -> None:
    play(client, server, feature)


def render(results: dict[tuple[str, str, str], bool]) -> str:
    """The document, of what was run; a cell without its run reads `untested`."""
    rows = []
    for client in CLIENTS:
        cells = []
        for server in SERVERS:
            known = [feature for feature in FEATURES if (client, server, feature) in results]
            failed = [feature for feature in known if not results[client, server, feature]]
            if len(known) < len(FEATURES):
                cells.append("untested")
            else:
                cells.append("all" if not failed else "not: " + ", ".join(failed))
        rows.append(f"| {client} | {' | '.join(cells)} |")
    head = HEAD.format(
        features=", ".join(FEATURES), servers=" | ".join(SERVERS), lines=" --- |" * len(SERVERS)
    )
    instead = [f"| {situation} | {answer} |" for situation, answer in INSTEAD]
    tail = ["", "What no gateway can carry, and what is answered instead:", "", "| situation | answer |"]
    return "\n".join([head + rows[0], *rows[1:], *tail, "| --- | --- |", *instead, ""])


def test_the_page_says_what_was_run() -> None:
    assert "untested" not in DOC.read_text("utf-8")
    assert DOC.read_text("utf-8") == render(dict.fromkeys(CELLS, True))


def main() -> None:
    results = {}
    for cell in CELLS:
        try:
            play(*cell)
        except Exception as problem:
            print(*cell, repr(problem)[:200], file=sys.stderr)
            results[cell] = False
        else:
            results[cell] = True
    DOC.write_text(render(results), "utf-8")


if __name__ == "__main__":
    main()
