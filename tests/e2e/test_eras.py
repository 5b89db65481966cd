"""The official SDKs across the eras: its client in either mode, at a server that knows one era only, over
pipes and over HTTP on either side.

Owns: the table of cells and features. Old servers are built on the SDK before 2.0; new ones on 2.x, with the
handshake refused as a server would that never knew it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from e2e.conftest import FEATURES, Owned, end_all, write_config
from e2e.harness import LEGACY, MCPGATE, MODERN, PREFIX, Gateway, Peer, SdkClient, environment

SERVERS = {"old_pipe": (1, False), "old_http": (1, True), "new_pipe": (2, False), "new_http": (2, True)}
DOWN = ("HTTP", "stdio")
MODES = {"legacy": "legacy", "modern": "auto"}


@dataclass
class Eras:
    """Servers of one era behind gateways, one gateway for each kind of client: what changes in a process is
    seen by whoever is served from that process."""

    pythons: dict[int, str]
    make_folder: Callable[[str], Path]
    owned: Owned = field(default_factory=list)
    # Over HTTP all gateways share the servers.
    shared: dict[str, Peer] = field(default_factory=dict)
    peers: dict[tuple[str, str], dict[str, Peer]] = field(default_factory=dict)
    clients: dict[tuple[str, str], SdkClient] = field(default_factory=dict)
    urls: dict[str, str] = field(default_factory=dict)

    def peer(self, name: str, folder: Path) -> Peer:
        sdk, http = SERVERS[name]
        flags = ["--era", "modern"] if sdk == 2 else []
        made = Peer(self.pythons[sdk], f"server{sdk}.py", name, folder, http, *flags)
        if made.process is not None:
            self.owned.append(made.process)
        return made

    def client(self, mode: str, **options: str) -> SdkClient:
        made = SdkClient(self.pythons[2], mode=MODES[mode], name="anna", **options)
        self.owned.append(made)
        return made

    def begin(self, mode: str, down: str) -> None:
        """A gateway with its servers, and a client that offers everything."""
        folder = self.make_folder(f"{mode}-{down}")
        own = {name: self.peer(name, folder) for name, (_, http) in SERVERS.items() if not http}
        peers = self.peers[mode, down] = {**self.shared, **own}
        if down == "HTTP":
            config = write_config(folder, list(peers.values()), None, {})
            gateway = Gateway("serve", "-c", str(config))
            self.owned.append(gateway)
            self.urls[mode] = gateway.url
            self.clients[mode, down] = self.client(mode, url=gateway.url, features=FEATURES)
            return
        config = write_config(folder, list(peers.values()), [{"kind": "stdio"}], {})
        command = json.dumps([*MCPGATE, "serve", "-c", str(config)])
        self.clients[mode, down] = self.client(
            mode, stdio=command, env=json.dumps(environment()), features=FEATURES
        )

    def poor(self, mode: str) -> SdkClient:
        """A client that offers nothing; it comes last."""
        if (mode, "poor") not in self.clients:
            self.clients[mode, "poor"] = self.client(mode, url=self.urls[mode])
        return self.clients[mode, "poor"]


@dataclass(frozen=True)
class Cell:
    mode: str
    down: str
    server: str

    @property
    def crossed(self) -> bool:
        return (self.mode == "legacy") is self.server.startswith("new")

    def __str__(self) -> str:
        return f"{self.mode}-{self.down}-{self.server}"


CELLS = [Cell(mode, down, server) for mode in MODES for down in DOWN for server in SERVERS]


@pytest.fixture(scope="module")
def eras(sdk_python: str, sdk1_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Eras]:
    found = Eras({1: sdk1_python, 2: sdk_python}, tmp_path_factory.mktemp)
    try:
        folder = tmp_path_factory.mktemp("shared")
        found.shared = {name: found.peer(name, folder) for name, (_, http) in SERVERS.items() if http}
        for mode in MODES:
            for down in DOWN:
                found.begin(mode, down)
        yield found
    finally:
        end_all(found.owned)


@pytest.fixture(params=CELLS, ids=str)
def cell(request: pytest.FixtureRequest) -> Cell:
    found: Cell = request.param
    return found


@pytest.fixture
def client(cell: Cell, eras: Eras) -> SdkClient:
    return eras.clients[cell.mode, cell.down]


def test_each_side_speaks_its_own_era(cell: Cell, client: SdkClient, eras: Eras) -> None:
    assert client.ready["version"] == {"legacy": LEGACY, "modern": MODERN}[cell.mode]
    said = f"{cell} says hello"
    assert client.call(f"{cell.server}__echo", text=said) == said
    journal = eras.peers[cell.mode, cell.down][cell.server].journal
    [call] = [one for one in journal.messages("tools/call") if one["params"]["arguments"] == {"text": said}]
    version = call["params"].get("_meta", {}).get(PREFIX + "protocolVersion")
    assert version == (MODERN if cell.server.startswith("new") else None)


def test_elicitation(cell: Cell, client: SdkClient) -> None:
    answer = json.loads(client.call(f"{cell.server}__ask", question=f"{cell}?"))
    assert answer == {"action": "accept", "content": {"value": f"anna answers {client_question(client)}"}}
    assert client_question(client).endswith(f"{cell}?")


def client_question(client: SdkClient) -> str:
    return str(client.events("elicit")[-1]["params"]["message"])


def test_url_elicitation(cell: Cell, client: SdkClient) -> None:
    url = f"https://example.org/look?cell={cell}&b=%20#frag"
    assert json.loads(client.call(f"{cell.server}__ask_url", url=url))["action"] == "accept"
    asked = client.events("elicit")[-1]["params"]
    assert asked["url"] == url
    # L3: minted for one era, taken away for the other.
    assert ("elicitationId" in asked) is (cell.mode == "legacy")


def test_sampling(cell: Cell, client: SdkClient) -> None:
    answer = json.loads(client.call(f"{cell.server}__sample", prompt=f"of {cell}"))
    assert answer["content"]["text"] == f"anna thinks of {cell}"


def test_roots(cell: Cell, client: SdkClient) -> None:
    assert json.loads(client.call(f"{cell.server}__list_roots"))["roots"] == [{"uri": "file:///anna"}]


def test_progress(cell: Cell, client: SdkClient) -> None:
    number = client.start("call", name=f"{cell.server}__steps", arguments={"count": 5}, progress=True)
    assert client.outcome(number)["ok"]["content"][0]["text"] == "5 steps"
    reported = client.events("progress", n=number)
    assert [one["done"] for one in reported] == [1, 2, 3, 4, 5]
    assert {one["total"] for one in reported} == {5}


def listening(client: SdkClient, mode: str, uri: str) -> Callable[[str], dict[str, Any]]:
    """Listen as the era has it; gives what is heard of a kind from now on."""
    if mode == "legacy":
        client.do("subscribe", uri=uri)
        client.do("tools")
        methods = {"list": "notifications/tools/list_changed", "resource": "notifications/resources/updated"}
        before = {kind: len(client.events("notification", method=method)) for kind, method in methods.items()}
        return lambda kind: client.event("notification", count=before[kind] + 1, method=methods[kind])
    number = client.start("listen", want={"tools_list_changed": True, "resource_subscriptions": [uri]})
    client.event("listening", n=number)
    kinds = {"list": "ToolsListChanged", "resource": "ResourceUpdated"}
    return lambda kind: client.event("change", n=number, kind=kinds[kind])


def test_subscriptions_and_list_changes(cell: Cell, client: SdkClient) -> None:
    uri = f"test://{cell.server}/text"
    heard = listening(client, cell.mode, uri)
    client.call(f"{cell.server}__touch", uri=uri)
    told = heard("resource")
    assert (told["params"] if cell.mode == "legacy" else told)["uri"] == uri
    grown = client.call(f"{cell.server}__grow")
    heard("list")
    assert f"{cell.server}__{grown}" in {tool["name"] for tool in client.do("tools")["tools"]}


def test_cancellation(cell: Cell, client: SdkClient, eras: Eras, tmp_path: Path) -> None:
    key = str(tmp_path / "never")
    journal = eras.peers[cell.mode, cell.down][cell.server].journal
    number = client.start("call", name=f"{cell.server}__hold", arguments={"key": key}, progress=True)
    journal.wait("started", key=key)
    client.event("progress", n=number)
    client.cancel(number)
    assert client.outcome(number).get("cancelled")
    journal.wait("cancelled", key=key)
    assert not journal.entries("finished", key=key)
    assert client.call(f"{cell.server}__who") == cell.server


# -- what cannot be bridged (L26)


ASKING: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "ask": ({"question": "q"}, {"elicitation": {}}),
    "ask_url": ({"url": "https://example.org"}, {"elicitation": {"url": {}}}),
    "sample": ({"prompt": "p"}, {"sampling": {}}),
    "list_roots": ({}, {"roots": {}}),
}


@pytest.mark.parametrize("tool", ASKING)
@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("mode", MODES)
def test_a_client_that_offers_nothing_is_not_asked(mode: str, server: str, tool: str, eras: Eras) -> None:
    client = eras.poor(mode)
    arguments, needed = ASKING[tool]
    outcome = client.outcome(client.start("call", name=f"{server}__{tool}", arguments=arguments))
    assert not [kind for kind in ("elicit", "sample", "roots") if client.events(kind)]
    if server.startswith("old"):
        # The server was told at the handshake; it asked all the same, and fails the call with what it heard.
        assert outcome["error"]["code"] == -32601, outcome
    elif mode == "modern":
        assert outcome["error"]["code"] == -32021, outcome
        assert outcome["error"]["data"]["requiredCapabilities"] == needed
    elif tool.startswith("ask"):
        # L4: what cannot be put to somebody is cancelled, and the server goes on from there.
        assert json.loads(outcome["ok"]["content"][0]["text"]) == {"action": "cancel"}
    else:
        assert outcome["ok"]["isError"], outcome
        assert "".join(needed) in outcome["ok"]["content"][0]["text"]


@pytest.mark.parametrize(
    ("do", "params"), [("subscribe", {"uri": "test://x"}), ("level", {"level": "error"})]
)
def test_methods_of_the_old_era_are_none_of_the_new(do: str, params: dict[str, str], eras: Eras) -> None:
    client = eras.clients["modern", "HTTP"]
    assert client.outcome(client.start(do, **params))["error"]["code"] == -32601
