"""A WebSocket echo client on our own codecs: `python -m tests.peers.ws_echo_client ws://127.0.0.1:9001`.

Owns: blocking sockets around `upgrade_request`, `UpgradeReader`, `check_response` and `WebSocketCodec`, and
the case loop of the Autobahn suite (`wstest -m fuzzingserver`): getCaseCount, runCase, updateReports.
Must never: mend what the codecs do; what a suite sees is theirs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import urllib.parse
from collections.abc import Callable

from mcpgate_proto.entropy import SEED_BYTES, Entropy
from mcpgate_proto.wire.http1 import Failed
from mcpgate_proto.wire.websocket import Closed, Text, WebSocketCodec, WebSocketEvent
from mcpgate_proto.wire.websocket_handshake import UpgradeReader, check_response, upgrade_request
from tests.peers.ws_echo import LIMITS, READ_BYTES, drain, echo, new_codec, pump

AGENT = "mcpgate"
TIMEOUT_S = 60.0


class HandshakeFailed(Exception):
    """The server did not become a WebSocket peer."""


def open_connection(host: str, port: int, target: str) -> tuple[socket.socket, bytes]:
    """Connect and shake hands. The socket, and what has arrived after the 101."""
    request, key = upgrade_request(target, f"{host}:{port}", Entropy(os.urandom(SEED_BYTES)))
    sock = socket.create_connection((host, port), timeout=TIMEOUT_S)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(request)
        reader = UpgradeReader(LIMITS)
        while True:
            data = sock.recv(READ_BYTES)
            head = reader.receive(data) if data else reader.receive_eof()
            if isinstance(head, Failed):
                raise HandshakeFailed(head.reason)
            if head is not None:
                break
        problem = check_response(head, key)
        if problem is not None:
            raise HandshakeFailed(problem)
    except BaseException:
        sock.close()
        raise
    return sock, reader.rest


def run(
    host: str,
    port: int,
    target: str,
    handler: Callable[[WebSocketCodec], Callable[[WebSocketEvent], list[bytes]]] = echo,
    *,
    first: bytes | None = None,
    wide: bool = True,
) -> Closed | None:
    """One connection from its handshake to its close; `first` is sent as a message to begin with."""
    sock, trailing = open_connection(host, port, target)
    with sock:
        codec = new_codec("client", wide=wide)
        if first is not None:
            sock.sendall(b"".join(codec.send_text(first)))
        closed = None
        with contextlib.suppress(OSError):
            closed = pump(sock, codec, trailing, handler(codec))
        drain(sock)
    return closed


def ask(host: str, port: int, target: str) -> bytes:
    """The first message that the server sends."""
    seen: list[bytes] = []

    def handler(codec: WebSocketCodec) -> Callable[[WebSocketEvent], list[bytes]]:
        def handle(event: WebSocketEvent) -> list[bytes]:
            if isinstance(event, Text):
                seen.append(event.data)
                return codec.close()
            return []

        return handle

    run(host, port, target, handler)
    return seen[0] if seen else b""


def run_cases(host: str, port: int, agent: str = AGENT) -> int:
    """Every case that the suite has for us; how many those were."""
    count = int(ask(host, port, "/getCaseCount"))
    for case in range(1, count + 1):
        run(host, port, f"/runCase?case={case}&agent={agent}")
    run(host, port, f"/updateReports?agent={agent}")
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description="WebSocket echo client on mcpgate's codec")
    parser.add_argument("url", help="where the suite listens: ws://host:port")
    parser.add_argument("--agent", default=AGENT)
    args = parser.parse_args()
    url = urllib.parse.urlsplit(args.url)
    print(f"{run_cases(url.hostname or '127.0.0.1', url.port or 80, args.agent)} cases", flush=True)


if __name__ == "__main__":
    main()
