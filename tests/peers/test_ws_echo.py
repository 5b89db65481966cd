"""The WebSocket peers of this folder, against each other and against the `websockets` library."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcpgate_proto.wire.websocket import Text
from tests.peers import ws_echo_client

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
MESSAGES = [b"", b"{}", "€".encode() * 50, b"x" * 126, b"y" * 70_000, b"z" * (3 << 20)]


def _start(*options: str) -> Iterator[int]:
    command = [sys.executable, "-m", "tests.peers.ws_echo", "0", *options]
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'runners'}"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline().rpartition(":")[2])
        finally:
            process.kill()


@pytest.fixture(scope="module")
def echo_port() -> Iterator[int]:
    yield from _start()


@pytest.fixture(scope="module")
def strict_port() -> Iterator[int]:
    yield from _start("--gateway-bounds")


def _exchange(port: int, messages: list[bytes]) -> tuple[list[bytes], Any]:
    """Send one message after the other and wait for each answer, then close."""
    left = list(messages)
    seen: list[bytes] = []

    def handler(codec: Any) -> Any:
        def handle(event: Any) -> list[bytes]:
            if isinstance(event, Text):
                seen.append(event.data)
                return codec.send_text(left.pop(0)) if left else codec.close(1000, "done")
            return []

        return handle

    closed = ws_echo_client.run(HOST, port, "/", handler, first=left.pop(0))
    return seen, closed


def test_our_client_and_our_server(echo_port: int) -> None:
    seen, closed = _exchange(echo_port, MESSAGES)
    assert seen == MESSAGES
    assert closed is not None and closed.clean and closed.code == 1000


def test_many_connections_at_once(echo_port: int) -> None:
    results: list[list[bytes]] = []
    messages = [[b"%d-%d" % (number, index) for index in range(20)] for number in range(16)]
    threads = [
        threading.Thread(target=lambda mine=mine: results.append(_exchange(echo_port, mine)[0]))
        for mine in messages
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(results) == sorted(messages)


def test_the_library_as_client(echo_port: int) -> None:
    client = pytest.importorskip("websockets.sync.client")
    with client.connect(f"ws://{HOST}:{echo_port}/", subprotocols=["mcp"], max_size=None) as connection:
        assert connection.subprotocol == "mcp"
        for message in [*(message.decode() for message in MESSAGES), b"\x00\xff"]:
            connection.send(message)
            assert connection.recv(timeout=20) == message
        connection.send(["in ", "", "three ", "parts"])
        assert connection.recv(timeout=20) == "in three parts"
        assert connection.ping(b"p").wait(20)
    assert connection.close_code == 1000


def test_the_gateways_bounds(strict_port: int) -> None:
    client = pytest.importorskip("websockets.sync.client")
    exceptions = pytest.importorskip("websockets.exceptions")
    for message, code in ((b"binary", 1003), (["x"] * 1025, 1008), ("x" * ((16 << 20) + 1), 1009)):
        with client.connect(f"ws://{HOST}:{strict_port}/", max_size=None) as connection:
            with pytest.raises(exceptions.ConnectionClosed):
                connection.send(message)
                connection.recv(timeout=20)
        assert connection.close_code == code


def test_what_is_no_handshake_is_refused(echo_port: int) -> None:
    client = pytest.importorskip("websockets.sync.client")
    exceptions = pytest.importorskip("websockets.exceptions")
    with pytest.raises(exceptions.InvalidStatus) as refusal:
        client.connect(f"ws://{HOST}:{echo_port}/", additional_headers={"Sec-WebSocket-Version": "8"})
    assert refusal.value.response.status_code == 400


def test_the_library_as_server_in_the_suites_case_loop() -> None:
    """What `wstest -m fuzzingserver` does, with three cases; the second one breaks the protocol."""
    server = pytest.importorskip("websockets.sync.server")
    exceptions = pytest.importorskip("websockets.exceptions")
    story: list[str] = []

    def handle(connection: Any) -> None:
        url = urllib.parse.urlsplit(connection.request.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        if url.path == "/getCaseCount":
            connection.send("3")
        elif url.path == "/runCase":
            assert query["agent"] == "mcpgate"
            try:
                if query["case"] == "2":
                    connection.socket.sendall(b"\xc1\x00")
                    connection.recv(timeout=20)
                connection.send("case " + query["case"])
                story.append(str(connection.recv(timeout=20)))
            except exceptions.ConnectionClosed as closed:
                story.append(f"closed {closed.rcvd.code}")
        else:
            story.append(url.path)

    with server.serve(handle, HOST, 0) as suite:
        thread = threading.Thread(target=suite.serve_forever)
        thread.start()
        try:
            assert ws_echo_client.run_cases(HOST, suite.socket.getsockname()[1]) == 3
            until = time.monotonic() + 20
            while len(story) < 4 and time.monotonic() < until:
                time.sleep(0.01)
        finally:
            suite.shutdown()
            thread.join()
    assert story == ["case 1", "closed 1002", "case 3", "/updateReports"]


def test_a_server_that_is_none() -> None:
    server = pytest.importorskip("websockets.sync.server")

    def refuse(connection: Any, request: Any) -> Any:
        return connection.respond(401, "no")

    with server.serve(lambda connection: None, HOST, 0, process_request=refuse) as suite:
        thread = threading.Thread(target=suite.serve_forever)
        thread.start()
        try:
            with pytest.raises(ws_echo_client.HandshakeFailed, match="401"):
                ws_echo_client.run(HOST, suite.socket.getsockname()[1], "/")
        finally:
            suite.shutdown()
            thread.join()
