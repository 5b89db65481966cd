"""Every runner between every transport and every transport: the same conversation, the same ends.

`make test` runs a pairwise choice, `make matrix` (MCPGATE_MATRIX=all) every cell, and writes docs/matrix.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.matrix import cells
from tests.matrix.behaviour import STEPS, TOOLS, Heard, ModelServer
from tests.matrix.cells import ALL, RUNNERS, TRANSPORTS, Cell, Gate, cell_running, running, until
from tests.matrix.clients import ELICITATION, ModelClient
from tests.matrix.servers import SERVERS, HttpUnixUpstream, Upstream

MB = 1 << 20
PAGE = Path(__file__).parents[2] / "docs" / "matrix.md"
MARK = "<!-- below: written by `make matrix` -->\n"
CHOSEN = cells.chosen()
# What is written to the table: the steps that failed, by cell.
RESULTS: dict[Cell, str] = {}


class Steps:
    """The step that a cell is at, which the table names if it fails there."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._earlier = RESULTS.setdefault(cell, "")

    def at(self, step: str) -> None:
        RESULTS[self._cell] = self._earlier or step

    def done(self) -> None:
        RESULTS[self._cell] = self._earlier


@pytest.fixture(params=CHOSEN, ids=[cell.id for cell in CHOSEN])
def cell(request: pytest.FixtureRequest) -> Cell:
    found: Cell = request.param
    return found


@pytest.fixture
def steps(cell: Cell) -> Iterator[Steps]:
    yield Steps(cell)


def heard(model: ModelServer, kind: str, method: str = "", after: int = 0) -> Any:
    return model.journal.first(
        lambda item: item.kind == kind and item.method == method, f"{kind} {method}", after
    )


def held(model: ModelServer, after: int) -> Heard:
    """The call that the server keeps since position `after` of its journal."""
    found: Heard = heard(model, "held", after=after)
    return found


def hold(client: ModelClient, model: ModelServer) -> tuple[int, Heard]:
    """A call that the server has and does not answer."""
    at = len(model.journal)
    return client.start("hold"), held(model, at)


def cancels(model: ModelServer, call: Heard, after: int) -> list[str]:
    """How the server was told that `call` is cancelled: by message, by the end of its stream or session."""
    told = model.journal.all(
        lambda item: (
            (item.method == "notifications/cancelled" and item.params.get("requestId") == call.id)
            or (item.kind == "closed" and item.id == call.id)
            or item.kind == "left"
        ),
        after,
    )
    kinds = {"closed": "closed", "left": "session ended", "notification": "message"}
    return [kinds[item.kind] for item in told if item.session == call.session]


def expected(cell: Cell) -> str:
    """L15: a modern server on HTTP sees its stream closed, every other is sent a notification."""
    return "closed" if (cell.up, cell.up_era) == ("http", "modern") else "message"


def test_conversation(cell: Cell, steps: Steps) -> None:
    steps.at("start")
    with cell_running(cell) as (gate, upstream):
        model: ModelServer = upstream.model
        client: ModelClient = gate.client(cell.down, cell.down_era)
        steps.at("initialize or discover")
        opened = client.open()
        assert "tools" in opened["capabilities"], opened
        steps.at("list")
        assert [tool["name"] for tool in client.ask("tools/list")["tools"]] == list(TOOLS)
        steps.at("call")
        assert client.call("echo", text="hello") == "hello"
        steps.at("progress")
        id = client.start("steps")
        assert client.answer(id)["result"]["content"][0]["text"] == f"{STEPS} steps"
        assert client.progress(id) == [1, 2, 3]
        steps.at("cancel")
        at = len(model.journal)
        id, call = hold(client, model)
        client.wire.cancel(id)
        until(lambda: cancels(model, call, at), "the cancellation")
        assert client.call("echo", text="still there") == "still there"
        assert cancels(model, call, at) == [expected(cell)]
        assert client.answers(id) == 0
        steps.at("question of the server")
        assert client.call("ask") == "told the blue one"
        assert client.questions() == (cell.down_era == "legacy")
        steps.at("large message both ways")
        text = "\N{SNOWMAN}" * 1000 + "x" * (2 * MB)
        assert client.call("echo", text=text) == text
        steps.at("the server dies")
        dead_server(gate, upstream, client)
        steps.at("orderly stop")
        orderly_stop(gate, model, client)
        steps.at("nothing is left")
    steps.done()


def dead_server(gate: Gate, upstream: Upstream, client: ModelClient) -> None:
    """The call in flight fails with a clear error, and so do others while it is dead; then all is well."""
    model = upstream.model
    id, _ = hold(client, model)
    upstream.die()
    for answer in (client.answer(id), client.answer(client.start("echo", text="anybody?"))):
        error = answer["error"]
        assert error["code"] == -32603, error
        told = {name: one for name, one in error["data"].items() if name != "errorId"}
        assert told == {"origin": "gateway", "reason": "upstream_down"}, error
        assert "server" in error["message"], error
    upstream.revive()
    # It is tried again after a pause, and each of its sessions may find out by itself that it is gone.
    until(lambda: "result" in client.answer(client.start("echo", text="again")), "the server's return")
    until(lambda: "result" in client.answer(client.start("ask", ELICITATION)), "the server's return")
    assert client.call("ask") == "told the blue one"


def orderly_stop(gate: Gate, model: ModelServer, client: ModelClient) -> None:
    """A call in flight is answered, the client's connection ends properly, the run returns."""
    id, _ = hold(client, model)
    gate.stop(grace_s=30.0)
    model.release()
    assert client.answer(id)["result"]["content"][0]["text"] == "released"
    gate.ended()
    if client.wire.goodbye is not None:
        assert client.goodbye() == client.wire.goodbye
    client.join()
    assert not gate.log("critical", "error"), gate.log("critical", "error")


def test_vanished_client(cell: Cell, steps: Steps) -> None:
    """Its calls are cancelled where its end says so, and nobody else notices."""
    steps.at("a client vanishes")
    with cell_running(cell) as (gate, upstream):
        model: ModelServer = upstream.model
        client: ModelClient = gate.client(cell.down, cell.down_era)
        client.open()
        at = len(model.journal)
        _, call = hold(client, model)
        client.vanish()
        if client.wire.vanishing_cancels:
            until(lambda: cancels(model, call, at), "the cancellation")
        if gate.listen.kind == "stdio":
            gate.ended()  # its only client is gone
            # The server's session ends with it. Over HTTP the two come on different connections, or the end
            # alone, which says the same.
            told = cancels(model, call, at)
            assert told[0] == expected(cell) or "session ended" in told, told
        else:
            other = gate.client(cell.down, cell.down_era)
            other.open()
            assert other.call("echo", text="me too") == "me too"
            told = cancels(model, call, at)
            model.release()
            other.leave()
            gate.stop(grace_s=30.0)
            gate.ended()
            assert told == ([expected(cell)] if client.wire.vanishing_cancels else [])
    steps.done()


@pytest.mark.parametrize("era", ["legacy", "modern"])
@pytest.mark.parametrize("runner", RUNNERS)
def test_http_on_unix_sockets(runner: str, era: str) -> None:
    """Streamable HTTP, with a Unix socket in the place of TCP on both faces."""
    with running(runner, "http-unix", lambda folder: HttpUnixUpstream(ModelServer(era), folder)) as (
        gate,
        up,
    ):
        client = gate.client("http", era)
        client.open()
        assert client.call("ask") == "told the blue one"
        assert client.call("echo", text="x" * MB) == "x" * MB
        dead_server(gate, up, client)
        orderly_stop(gate, up.model, client)


@pytest.mark.parametrize("up", ["http", "sse"])
def test_nothing_overtakes_initialized(up: str) -> None:
    """F1: where each message has a connection of its own, the first request waits until the server has taken
    `notifications/initialized`."""
    model = ModelServer("legacy")
    model.welcoming.clear()
    ready = lambda record: record.event == "server_ready"  # noqa: E731
    with running("asyncio", "unix", lambda folder: SERVERS[up](model, folder)) as (gate, _):
        heard(model, "notification", "notifications/initialized")
        gate.settle()
        early = gate.records.all(ready)
        model.welcoming.set()
        assert not early
        gate.records.first(ready, "the server to be ready")


# -- the choice and the table


def test_the_choice_is_pairwise() -> None:
    """Every runner with every face on both sides, every transport with every transport."""
    mine = set(CHOSEN)
    for down in cells.FACES:
        assert {one.runner for one in mine if (one.down, one.down_era) == down} == set(RUNNERS)
        assert {one.runner for one in mine if (one.up, one.up_era) == down} == set(RUNNERS)
    assert {(one.down, one.up) for one in mine} == {(a, b) for a in TRANSPORTS for b in TRANSPORTS}


def test_the_page_lists_every_cell() -> None:
    """The committed table is whole, and of a run in which everything held. It is written here, once every
    cell has been run."""
    if set(RESULTS) == set(ALL):
        PAGE.write_text(PAGE.read_text().partition(MARK)[0] + MARK + "\n" + cells.table(RESULTS))
    assert PAGE.read_text().partition(MARK)[2] == "\n" + cells.table(dict.fromkeys(ALL, ""))
