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
from tests.crossing.features import FEATURES, TEMPLATE, URI
from tests.crossing.instead import INSTEAD

ROOT = Path(__file__).parents[2]
DOC = ROOT / "docs" / "crossings.md"
ALL = {"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}}
TRANSPORTS = {
    "stdio": "stdio",
    "HTTP": "http",
    "HTTP+SSE": "sse",
    "WebSocket": "websocket",
    "Unix socket": "unix",
}
ERAS = {"legacy": ("legacy",), "modern": ("modern",), "dual": ("legacy", "modern")}
# HTTP+SSE is of 2024: modern messages do not travel on it.
CLIENTS = [
    f"{era} {way}"
    for era in ("legacy", "modern")
    for way in TRANSPORTS
    if f"{era} {way}" != "modern HTTP+SSE"
]
SERVERS = [f"{era} {way}" for era in ERAS for way in TRANSPORTS if way != "HTTP+SSE" or era == "legacy"]
HEAD = """# What crosses and what does not

Each row is a server, each column a client; a cell tells which of the features crossed when this very pair
was run, with assertions, by `tests/crossing`. The page is made from those runs (`python -m
tests.crossing.test_crossing`), and a test compares it with them: a cell that was not run reads `untested`,
and fails.

Old era: 2024-11-05 to 2025-11-25 ("legacy"). New era: 2026-07-28 ("modern"). A dual server speaks both.
HTTP is Streamable HTTP; HTTP+SSE, the transport of 2024-11-05, carries the old era only.

Features: {features}.

| server \\ client | {clients} |
| --- |{lines}
"""
Cell = tuple[str, str, str]
CELLS: list[Cell] = [
    (client, server, feature) for client in CLIENTS for server in SERVERS for feature in FEATURES
]
# What was run, and whether it crossed.
RESULTS: dict[Cell, bool] = {}


def scene_of(client: str, server: str) -> tuple[Scene, Any]:
    """One server of this kind with something of everything, and the place where such a client comes in."""
    era, _, way = server.partition(" ")
    listener = {"stdio": "stdio", "Unix socket": "unix"}.get(client.partition(" ")[2], "http")
    scene = Scene({"one": (TRANSPORTS[way], ERAS[era])}, listeners=(listener,), sockets=True)
    scene.only.resources = (URI,)
    scene.only.templates = (TEMPLATE,)
    scene.only.prompts = ("greet",)
    return scene.start(), listener


def client_of(scene: Scene, client: str, listener: str) -> Any:
    era, _, way = client.partition(" ")
    if way == "HTTP":
        return scene.legacy(capabilities=ALL) if era == "legacy" else scene.modern(capabilities=ALL)
    if way == "HTTP+SSE":
        return scene.legacy_sse(capabilities=ALL, version="2025-11-25")
    if way == "WebSocket":
        return scene.legacy_ws(capabilities=ALL) if era == "legacy" else scene.modern_ws(capabilities=ALL)
    make = scene.legacy_pipe if era == "legacy" else scene.modern_pipe
    return make(listener=listener, capabilities=ALL)


def play(cell: Cell) -> None:
    """One feature in one cell; raises when it did not cross."""
    client, server, feature = cell
    RESULTS[cell] = False
    scene, listener = scene_of(client, server)
    FEATURES[feature](scene, client_of(scene, client, listener))
    assert scene.problems() == []
    RESULTS[cell] = True


@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_it_crosses(cell: Cell) -> None:
    play(cell)


@pytest.mark.parametrize("situation", INSTEAD)
def test_what_is_answered_instead(situation: str) -> None:
    INSTEAD[situation][1]()


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("server", ["legacy HTTP", "modern HTTP"])
@pytest.mark.parametrize("client", ["legacy HTTP", "modern HTTP"])
def test_each_feature_can_fail(client: str, server: str, feature: str) -> None:
    """Behind a gateway that reaches no server any more, nothing crosses."""
    scene, listener = scene_of(client, server)
    made = client_of(scene, client, listener)
    scene.only.up = False
    scene.only.crash()
    scene.net.services.clear()
    with pytest.raises((AssertionError, LookupError)):
        FEATURES[feature](scene, made)
        assert scene.problems() == []


def render(results: dict[Cell, bool]) -> str:
    """The document, of what was run; a cell without its run reads `untested`."""
    rows = []
    for server in SERVERS:
        cells = []
        for client in CLIENTS:
            known = [feature for feature in FEATURES if (client, server, feature) in results]
            failed = [feature for feature in known if not results[client, server, feature]]
            if len(known) < len(FEATURES):
                cells.append("untested")
            else:
                cells.append("all" if not failed else "not: " + ", ".join(failed))
        rows.append(f"| {server} | {' | '.join(cells)} |")
    head = HEAD.format(
        features=", ".join(FEATURES), clients=" | ".join(CLIENTS), lines=" --- |" * len(CLIENTS)
    )
    instead = [f"| {situation} | {answer} |" for situation, (answer, _) in INSTEAD.items()]
    tail = [
        "",
        "What no gateway can carry, and what is answered instead, likewise asserted by a run of each:",
        "",
        "| situation | answer |",
    ]
    return "\n".join([head + rows[0], *rows[1:], *tail, "| --- | --- |", *instead, ""])


def play_all() -> dict[Cell, bool]:
    """Every cell that was not run yet; what came of all of them."""
    for cell in CELLS:
        if cell not in RESULTS:
            try:
                play(cell)
            except Exception as problem:
                print(*cell, repr(problem)[:200], file=sys.stderr)
    return RESULTS


def test_the_page_says_what_was_run() -> None:
    page = DOC.read_text("utf-8")
    assert "| untested" not in page and "| not: " not in page
    assert page == render(play_all())


def test_a_cell_that_was_not_run_reads_untested() -> None:
    results = dict.fromkeys(CELLS[1:], True)
    assert render(results).count("| untested |") == 1
    results[CELLS[-1]] = False
    assert f"not: {CELLS[-1][2]}" in render(results)


def main() -> None:
    DOC.write_text(render(play_all()), "utf-8")


if __name__ == "__main__":
    main()
