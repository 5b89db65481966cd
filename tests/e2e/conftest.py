"""Fixtures of the end-to-end tests: factories whose products are ended with the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.harness import Gateway, Peer, Process, SdkClient, toml

Owned = list[Process]
MakePeer = Callable[..., Peer]
MakeGateway = Callable[..., Gateway]
MakeClient = Callable[..., SdkClient]


@pytest.fixture
def owned() -> Iterator[Owned]:
    """Processes of this test; the last one started is ended first."""
    processes: Owned = []
    yield processes
    for process in reversed(processes):
        process.end()


@pytest.fixture
def make_peer(request: pytest.FixtureRequest, tmp_path: Path, owned: Owned) -> MakePeer:
    """A server on the SDK. `sdk` 2 speaks both eras, 1 only legacy ones."""

    def make(name: str = "alpha", *, sdk: int = 2, http: bool = False) -> Peer:
        python = request.getfixturevalue("sdk_python" if sdk == 2 else "sdk1_python")
        peer = Peer(python, f"server{sdk}.py", name, tmp_path, http)
        if peer.process is not None:
            owned.append(peer.process)
        return peer

    return make


@pytest.fixture
def run_gateway(owned: Owned) -> MakeGateway:
    """`mcpgate run` in front of one stdio peer."""

    def run(peer: Peer, *options: str) -> Gateway:
        gateway = Gateway("run", "--port", "0", *options, "--", *peer.argv)
        owned.append(gateway)
        return gateway

    return run


@pytest.fixture
def serve_gateway(owned: Owned, tmp_path: Path) -> MakeGateway:
    """`mcpgate serve` with these servers, an HTTP listener and (for status) a stdio one."""

    def serve(
        servers: list[Peer | dict[str, Any]],
        *,
        options: tuple[str, ...] = (),
        listen: list[dict[str, Any]] | None = None,
        **tables: Any,
    ) -> Gateway:
        listeners = listen or [{"kind": "http", "port": 0}, {"kind": "stdio", "name": "control"}]
        config = {
            **tables,
            "listen": listeners,
            "server": [one.config() if isinstance(one, Peer) else one for one in servers],
        }
        path = tmp_path / "mcpgate.toml"
        path.write_text(toml(config))
        only_stdio = all(one["kind"] == "stdio" for one in listeners)
        gateway = Gateway("serve", "-c", str(path), *options, stdio=only_stdio)
        owned.append(gateway)
        return gateway

    return serve


@pytest.fixture
def make_client(sdk_python: str, owned: Owned) -> MakeClient:
    """A client on the SDK, at the gateway's address or (with `stdio`) in front of a command."""

    def make(gateway: Gateway | str = "", **options: str) -> SdkClient:
        url = gateway.url if isinstance(gateway, Gateway) else gateway
        client = SdkClient(sdk_python, **({"url": url} if url else {}), **options)
        owned.append(client)
        return client

    return make
