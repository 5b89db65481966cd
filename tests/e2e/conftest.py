"""Fixtures of the end-to-end tests: a world of peers for the whole session, and factories for single tests.

Must never: let a process outlive the fixture that started it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from e2e.harness import LEGACY, MCPGATE, MODERN, Gateway, Peer, Process, SdkClient, environment, toml
from tests.wiretap.tap import of_recording

Owned = list[Process]
MakePeer = Callable[..., Peer]
MakeGateway = Callable[..., Gateway]
MakeClient = Callable[..., SdkClient]
MODES = {"legacy": LEGACY, "auto": MODERN}
FEATURES = "elicit,sample,roots"


def end_all(processes: Owned) -> None:
    """The last one started is ended first."""
    for process in reversed(processes):
        process.end()


@dataclass
class World:
    """One gateway, four servers, and clients of both eras, shared by the tests that leave them whole."""

    peers: dict[str, Peer]
    gateway: Gateway
    # By mode; two of each.
    clients: dict[str, list[SdkClient]]
    owned: Owned = field(default_factory=list)


def judge(folder: Path) -> None:
    """Every gateway that was recorded in `folder` has sent what its hops' revisions have (L0.5), and its
    replay comes to the same. So have the servers, all of which behave; some tests are rude clients."""
    for path in sorted(folder.glob("*.rec")):
        # One that was killed may not have come to write anything.
        if path.stat().st_size:
            of_recording(str(path), "server").check()


@pytest.fixture(scope="session", autouse=True)
def recordings_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For gateways that outlive their first test."""
    folder = tmp_path_factory.mktemp("recordings")
    os.environ["MCPGATE_RECORDINGS"] = str(folder)
    yield
    del os.environ["MCPGATE_RECORDINGS"]
    judge(folder)


@pytest.fixture(autouse=True)
def recordings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("recordings")
    monkeypatch.setenv("MCPGATE_RECORDINGS", str(folder))
    yield
    judge(folder)


def write_config(folder: Path, servers: list[Any], listen: list[dict[str, Any]] | None, tables: Any) -> Path:
    listeners = listen or [{"kind": "http", "port": 0}, {"kind": "stdio", "name": "control"}]
    config = {
        **tables,
        "listen": listeners,
        "server": [one.config() if isinstance(one, Peer) else one for one in servers],
    }
    path = folder / "mcpgate.toml"
    path.write_text(toml(config))
    return path


@pytest.fixture(scope="session")
def world(sdk_python: str, sdk1_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """alpha and beta speak both eras, gamma and delta legacy ones; beta and delta are on HTTP."""
    folder = tmp_path_factory.mktemp("world")
    kinds = {"alpha": (2, False), "beta": (2, True), "gamma": (1, False), "delta": (1, True)}
    owned: Owned = []
    try:
        peers = {}
        for name, (sdk, http) in kinds.items():
            peer = Peer(sdk_python if sdk == 2 else sdk1_python, f"server{sdk}.py", name, folder, http)
            owned += [peer.process] if peer.process is not None else []
            peers[name] = peer
        gateway = Gateway("serve", "-c", str(write_config(folder, list(peers.values()), None, {})))
        owned.append(gateway)
        clients: dict[str, list[SdkClient]] = {mode: [] for mode in MODES}
        for mode in MODES:
            for name in ("anna", "bert"):
                options = {"url": gateway.url, "mode": mode, "name": name, "features": FEATURES}
                if mode == "auto":
                    # A modern client says with each request which logs it wants.
                    options["log_level"] = {"anna": "debug", "bert": "error"}[name]
                clients[mode].append(SdkClient(sdk_python, **options))
                owned.append(clients[mode][-1])
        for client in (one for mode in MODES for one in clients[mode]):
            # Its answer shows that the session is open: until then nobody tells it of changes (F4).
            client.do("tools")
        yield World(peers, gateway, clients, owned)
    finally:
        end_all(owned)


@pytest.fixture
def owned() -> Iterator[Owned]:
    """Processes of this test."""
    processes: Owned = []
    yield processes
    end_all(processes)


@pytest.fixture
def make_peer(request: pytest.FixtureRequest, tmp_path: Path, owned: Owned) -> MakePeer:
    """A server on the SDK. `sdk` 2 speaks both eras, 1 only legacy ones."""

    def make(name: str = "solo", *, sdk: int = 2, http: bool = False) -> Peer:
        python = request.getfixturevalue("sdk_python" if sdk == 2 else "sdk1_python")
        peer = Peer(python, f"server{sdk}.py", name, tmp_path, http)
        if peer.process is not None:
            owned.append(peer.process)
        return peer

    return make


@pytest.fixture
def run_gateway(owned: Owned) -> MakeGateway:
    """`mcpgate run` in front of one stdio command."""

    def run(argv: list[str], *options: str, env: dict[str, str] | None = None) -> Gateway:
        gateway = Gateway("run", "--port", "0", *options, "--", *argv, env=env)
        owned.append(gateway)
        return gateway

    return run


@pytest.fixture
def serve_gateway(owned: Owned, tmp_path: Path) -> MakeGateway:
    """`mcpgate serve` with these servers, an HTTP listener and (for status) a stdio one."""

    def serve(
        servers: list[Peer | dict[str, Any]],
        *options: str,
        listen: list[dict[str, Any]] | None = None,
        **tables: Any,
    ) -> Gateway:
        path = write_config(tmp_path, servers, listen, tables)
        only_stdio = listen is not None and all(one["kind"] == "stdio" for one in listen)
        gateway = Gateway("serve", "-c", str(path), *options, stdio=only_stdio)
        owned.append(gateway)
        return gateway

    return serve


@pytest.fixture
def make_client(sdk_python: str, owned: Owned) -> MakeClient:
    """A client on the SDK, at an address or (with `command`) in front of `mcpgate COMMAND...`."""

    def make(gateway: Gateway | None = None, command: list[str] | None = None, **options: str) -> SdkClient:
        if gateway is not None:
            options["url"] = gateway.url
        if command is not None:
            options["stdio"] = json.dumps([*MCPGATE, *command])
            options["env"] = json.dumps(environment())
        client = SdkClient(sdk_python, **options)
        owned.append(client)
        return client

    return make
