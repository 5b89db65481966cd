"""The wiretap itself: on every transport, both faces and both eras it sees what passes, and a bad message."""

from __future__ import annotations

from typing import Any

import pytest

from fuzz.sim.scene import Scene
from tests import schemas
from tests.wiretap.hops import LEGACY, MODERN, Talk, Verdicts, complaint, shape
from tests.wiretap.tap import tapped
from tests.wiretap.wires import Events, Http, Lines

CLIENTS = (
    "legacy http",
    "modern http",
    "legacy pipe",
    "modern pipe",
    "legacy unix",
    "modern unix",
    "legacy ws",
    "modern ws",
    "legacy sse",
)
SERVERS = [
    (transport, era)
    for transport in ("stdio", "http", "websocket", "unix", "sse")
    for era in ("legacy", "modern")
    if (transport, era) != ("sse", "modern")
]
PAIRS = [(client, ("stdio", "legacy")) for client in CLIENTS] + [
    ("modern http", server) for server in SERVERS
]


def a_call(client: str, server: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> Verdicts:
    """What was judged of one call of a tool between these two."""
    if told := schemas.missing():
        pytest.skip(told)
    verdicts = Verdicts()
    monkeypatch.setattr("fuzz.sim.world.Gateway", tapped(verdicts))
    era, way = client.split()
    listener = {"pipe": "stdio", "unix": "unix"}.get(way, "http")
    scene = Scene({"one": (server[0], (server[1],))}, listeners=(listener,), sockets=True).start()
    made: Any
    if way == "http":
        made = scene.legacy() if era == "legacy" else scene.modern()
    elif way == "sse":
        made = scene.legacy_sse()
    elif way == "ws":
        made = scene.legacy_ws() if era == "legacy" else scene.modern_ws()
    else:
        made = (scene.legacy_pipe if era == "legacy" else scene.modern_pipe)(listener=listener)
    call = scene.done(made.tool("echo"))
    assert call.text == call.nonce
    return verdicts


def era_of(revision: str) -> str:
    return "modern" if revision == MODERN else "legacy"


@pytest.mark.parametrize(("client", "server"), PAIRS)
def test_both_hops_are_seen(client: str, server: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[str]] = {"server": set(), "client": set()}
    judge = Verdicts.judge

    def noting(self: Verdicts, face: str, ours: bool, options: Any, message: Any) -> None:
        if ours:
            seen[face] |= {era_of(revision) for revision, _ in options}
        judge(self, face, ours, options, message)

    monkeypatch.setattr(Verdicts, "judge", noting)
    verdicts = a_call(client, server, monkeypatch)
    verdicts.check()
    assert client.split()[0] in seen["server"] and server[1] in seen["client"]


@pytest.mark.parametrize(("client", "server"), PAIRS)
@pytest.mark.parametrize("slip", [(b'"tools/call"', b'"tools/cull"'), (b'"content"', b'"cintent"')])
def test_a_bad_message_is_found(
    slip: tuple[bytes, bytes], client: str, server: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first slip is in what goes to the server, the second in what goes to the client."""
    hear = Talk.hear

    def mishearing(self: Talk, ours: bool, data: bytes, also: Talk | None = None) -> None:
        hear(self, ours, data.replace(*slip) if ours else data, also)

    monkeypatch.setattr(Talk, "hear", mishearing)
    verdicts = a_call(client, server, monkeypatch)
    with pytest.raises(AssertionError, match="bad messages"):
        verdicts.check()


def test_what_a_peer_does_is_no_fault_of_the_gateway() -> None:
    if told := schemas.missing():
        pytest.skip(told)
    line = b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {}}'
    for peers, bad in ((), 0), (("client",), 1), (("server",), 0):
        verdicts = Verdicts(peers)
        Talk(verdicts, "server", revision=LEGACY[0]).hear(False, line)
        assert len(verdicts.problems) == bad


def test_an_unknown_method_may_be_passed_on_but_not_made_up() -> None:
    """L25."""
    if told := schemas.missing():
        pytest.skip(told)
    line = b'{"jsonrpc": "2.0", "id": 1, "method": "no/such"}'
    verdicts = Verdicts()
    Talk(verdicts, "client", revision=LEGACY[0]).hear(True, line)
    assert verdicts.problems
    verdicts = Verdicts()
    Talk(verdicts, "server", revision=LEGACY[0]).hear(False, line)
    Talk(verdicts, "client", revision=LEGACY[0]).hear(True, line)
    assert not verdicts.problems


def test_a_method_of_another_revision_is_not_unknown() -> None:
    if told := schemas.missing():
        pytest.skip(told)
    verdicts = Verdicts()
    line = b'{"jsonrpc": "2.0", "id": 1, "method": "logging/setLevel", "params": {"level": "error"}}'
    Talk(verdicts, "server", revision=LEGACY[0]).hear(False, line)
    Talk(verdicts, "client", revision=MODERN).hear(True, line)
    assert verdicts.problems


def test_what_was_right_once_says_nothing_of_another_shape() -> None:
    """The memory of right messages forgets texts, and nothing that a schema looks at."""
    if told := schemas.missing():
        pytest.skip(told)

    def told_level(level: str) -> Any:
        return {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": level, "data": "x"}}

    assert complaint(LEGACY[0], "server", told_level("error"), None) is None
    assert complaint(LEGACY[0], "server", told_level("loud"), None) is not None
    words = frozenset(("text",))
    assert shape({"type": "text", "n": 1, "s": "a"}, words) == shape(
        {"type": "text", "n": 1, "s": "b"}, words
    )
    for other in ({"type": "txt", "n": 1, "s": "a"}, {"type": "text", "n": True, "s": "a"}, {"type": "text"}):
        assert shape(other, words) != shape({"type": "text", "n": 1, "s": "a"}, words)


# -- the wires


class Heard:
    """A `Reading` that notes what it is told."""

    def __init__(self) -> None:
        self.told_: list[Any] = []

    def message(self, ours: bool, data: bytes) -> None:
        self.told_.append((ours, data))

    def asked(self, exchange: Any, ours: bool) -> None:
        self.told_.append((ours, exchange.method, exchange.body))

    def told(self, exchange: Any, ours: bool, data: bytes, event: str) -> None:
        self.told_.append((ours, exchange.method, exchange.status, data, event))

    def broken(self, ours: bool, why: str) -> None:
        self.told_.append((ours, "broken"))


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_lines_in_pieces(step: int) -> None:
    heard = Heard()
    wire = Lines(heard)
    data = b'{"a": 1}\n\n{"b": 2}\n'
    for at in range(0, len(data), step):
        wire.feed(True, data[at : at + step])
        wire.feed(False, data[at : at + step])
    assert sorted(heard.told_) == [
        (False, b'{"a": 1}'),
        (False, b'{"b": 2}'),
        (True, b'{"a": 1}'),
        (True, b'{"b": 2}'),
    ]


@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_event_streams_of_any_kind(end: bytes, step: int) -> None:
    got: list[tuple[str, bytes]] = []
    events = Events(lambda name, data: got.append((name, data)))
    lines = [
        b": hello",
        b"",
        b"event: endpoint",
        b"data: /m",
        b"",
        b"data: a",
        b"data:b",
        b"id: 1",
        b"",
        b"data:",
        b"",
        b"",
    ]
    data = end.join(lines) + b"x"
    for at in range(0, len(data), step):
        events.feed(data[at : at + step])
    assert got == [("endpoint", b"/m"), ("message", b"a\nb")]


@pytest.mark.parametrize("step", [1, 10_000])
def test_http_pairs_requests_with_responses(step: int) -> None:
    heard = Heard()
    wire = Http(heard, we_ask=True)
    asked = b"HEAD / HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}DELETE / HTTP/1.1\r\n\r\n"
    told = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n[\r\n1\r\n]\r\n0\r\n\r\n"
        b"HTTP/1.1 404 Not Found\r\n\r\nthe rest"
    )
    for at in range(0, len(asked), step):
        wire.feed(True, asked[at : at + step])
    for at in range(0, len(told), step):
        wire.feed(False, told[at : at + step])
    wire.eof(False)
    assert heard.told_ == [
        (True, "HEAD", b""),
        (True, "POST", b"{}"),
        (True, "DELETE", b""),
        (False, "POST", 200, b"[]", ""),
        (False, "DELETE", 404, b"the rest", ""),
    ]


def test_http_that_is_none() -> None:
    heard = Heard()
    wire = Http(heard, we_ask=True)
    wire.feed(True, b"GET / HTTP/1.1\r\n\r\n")
    wire.feed(False, b"nonsense\r\n\r\n")
    wire.feed(False, b"HTTP/1.1 200 OK\r\n\r\n")
    assert heard.told_[-1] == (False, "broken")
