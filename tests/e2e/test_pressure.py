"""A client that does not read: it holds back what feeds it, nobody else, and is dropped at the bound."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time

from e2e.conftest import MakeGateway, MakePeer
from e2e.harness import PEERS, Gateway
from e2e.rawhttp import JSON, Http, Session, message, modern

MEGABYTE = 1024 * 1024
ROOM = 10 * MEGABYTE


def plain(name: str) -> dict[str, object]:
    return {"name": name, "command": sys.executable, "args": [str(PEERS / "plain.py"), "--name", name]}


class Peak:
    """The most memory a gateway had while this lasted."""

    def __init__(self, gateway: Gateway) -> None:
        self.before = self.most = gateway.resident()
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look, args=(gateway,))

    def _look(self, gateway: Gateway) -> None:
        while not self._over.wait(0.02):
            self.most = max(self.most, gateway.resident())

    def __enter__(self) -> Peak:
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()

    @property
    def growth(self) -> int:
        return self.most - self.before


def encoded(body: object, headers: dict[str, str]) -> bytes:
    data = json.dumps(body).encode()
    lines = [f"{key}: {value}" for key, value in {**JSON, **headers}.items()]
    head = ["POST /mcp HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(data)}", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + data


def warm(http: Http, *names: str) -> None:
    """Memory that the first use takes anyway is taken, with messages of the size to come."""
    for name in names:
        arguments = {"size": MEGABYTE}
        for _ in range(8):
            http.modern("tools/call", name=f"{name}__big", arguments=arguments)
            Session(http).call(f"{name}__big", size=MEGABYTE)


def connection_of(http: Http) -> socket.socket:
    """A client's socket that takes in next to nothing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(30)
    sock.connect(("127.0.0.1", http.port))
    return sock


def wait_for_the_drop(gateway: Gateway, sock: socket.socket) -> None:
    """The gateway gives the client up, says so, and what the client can still read comes to an end."""
    # Nothing taken for too long, or too much waiting for it: either bound will do.
    words = ("peer_stalled", "peer_not_draining")
    gateway.wait_for(lambda: any(word in line for line in gateway.err for word in words), f"one of {words}")
    got = 0
    try:
        while part := sock.recv(65536):
            got += len(part)
    except ConnectionError:
        pass
    assert got < MEGABYTE


def test_results_that_nobody_reads(serve_gateway: MakeGateway) -> None:
    """200 calls with a megabyte of result each, on one connection, and not one byte is read."""
    gateway = serve_gateway([plain("one"), plain("two")], limits={"unsent_stall_s": 3.0})
    http = Http(gateway.port)
    warm(http, "one")
    calls = encoded(*modern("tools/call", 1, name="one__big", arguments={"size": MEGABYTE})) * 200
    sock = connection_of(http)
    with sock, Peak(gateway) as peak:
        threading.Thread(target=_send, args=(sock, calls), daemon=True).start()
        slowest = 0.0
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            for name in ("one", "two"):
                start = time.monotonic()
                answer = http.modern("tools/call", name=f"{name}__who", arguments={})
                slowest = max(slowest, time.monotonic() - start)
                assert answer.messages[-1]["result"]["content"][0]["text"] == name
        assert slowest < 1.0
        wait_for_the_drop(gateway, sock)
        gateway.wait_idle("one", "two")
    assert peak.growth < ROOM, f"{peak.growth / MEGABYTE:.1f} MB"


def _send(sock: socket.socket, data: bytes) -> None:
    try:
        sock.sendall(data)
    except OSError:
        # Dropped, as it should be.
        pass


def test_a_stream_that_nobody_reads(make_peer: MakePeer, serve_gateway: MakeGateway) -> None:
    """One call whose server says 200 MB on the way: the server is held back, then the client is dropped."""
    peer = make_peer("flooder", http=True)
    gateway = serve_gateway([peer, plain("two")], limits={"unsent_stall_s": 3.0})
    http = Http(gateway.port)
    warm(http, "flooder")
    body, headers = modern(
        "tools/call",
        1,
        name="flooder__flood",
        arguments={"count": 200, "size": MEGABYTE},
        _meta={"io.modelcontextprotocol/logLevel": "debug"},
    )
    sock = connection_of(http)
    with sock, Peak(gateway) as peak:
        sock.sendall(encoded(body, headers))
        peer.journal.wait("flooded", number=0)
        for _ in range(20):
            for name in ("flooder", "two"):
                answer = http.modern("tools/call", name=f"{name}__who", arguments={})
                assert answer.messages[-1]["result"]["content"][0]["text"] == name
        wait_for_the_drop(gateway, sock)
        # Dropping a modern client is its cancellation.
        gateway.wait_idle("flooder", "two")
        assert not peer.journal.messages("notifications/cancelled")
    said = len(peer.journal.entries("flooded"))
    assert said < 60, f"the server was let say {said} MB"
    assert peak.growth < ROOM, f"{peak.growth / MEGABYTE:.1f} MB"


def test_a_slow_reader_gets_everything(serve_gateway: MakeGateway) -> None:
    """Held back is not lost: whoever reads on gets every byte."""
    gateway = serve_gateway([plain("one"), plain("two")])
    http = Http(gateway.port)
    session = Session(http)
    count = 20
    calls = encoded(message("tools/call", 1, name="one__big", arguments={"size": MEGABYTE}), session.headers)
    sock = connection_of(http)
    with sock:
        sender = threading.Thread(target=_send, args=(sock, calls * count), daemon=True)
        sender.start()
        assert session.call("two__who") == "two"
        got = 0
        while got < count * MEGABYTE:
            part = sock.recv(1 << 16)
            assert part, f"cut off after {got} bytes"
            got += part.count(b"x")
        sender.join()
