"""A WebSocket echo server on our own codecs, for outside test suites: `python -m tests.peers.ws_echo PORT`.

Owns: blocking sockets and one thread per connection around `HttpServerCodec`, `check_upgrade` and
`WebSocketCodec`. Must never: mend what the codecs do; what a suite sees is theirs. Bounds are wide by
default, since suites send 16 MiB messages in 64-byte fragments; binary messages are echoed too.

The Autobahn suite: `wstest -m fuzzingclient`, with `ws://127.0.0.1:PORT` as the server's URL.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable

from mcpgate_proto.entropy import SEED_BYTES, Entropy
from mcpgate_proto.limits import Limits
from mcpgate_proto.wire.http1 import HttpServerCodec, Refused, RequestHead
from mcpgate_proto.wire.websocket import Binary, Closed, State, Text, WebSocketCodec, WebSocketEvent
from mcpgate_proto.wire.websocket_handshake import Accept, check_upgrade

READ_BYTES = 65536
CLOSE_TIMEOUT_S = 5.0
LIMITS = Limits()


def new_codec(role: str, *, wide: bool = True) -> WebSocketCodec:
    """A codec for a peer: as wide as suites need, or (`wide=False`) with the gateway's own bounds."""
    entropy = Entropy(os.urandom(SEED_BYTES))
    if not wide:
        return WebSocketCodec(role, entropy=entropy, max_message_bytes=LIMITS.message_bytes)  # type: ignore[arg-type]
    return WebSocketCodec(
        role,  # type: ignore[arg-type]
        entropy=entropy,
        max_message_bytes=64 * 1024 * 1024,
        max_fragments=1 << 21,
        control_frames_per_s=1000,
        binary=True,
    )


def pump(
    sock: socket.socket,
    codec: WebSocketCodec,
    data: bytes,
    handle: Callable[[WebSocketEvent], list[bytes]],
) -> Closed | None:
    """Feed the codec until it says that the connection is over; `data` is what came with the handshake."""
    closed: Closed | None = None
    while True:
        chunks: list[bytes] = []
        for event in codec.receive(data, time.monotonic()) if data else []:
            if isinstance(event, Closed):
                closed = event
            else:
                chunks += handle(event)
        sock.sendall(b"".join(chunks + codec.to_send()))
        if codec.must_close:
            return closed
        if codec.state is not State.OPEN:
            sock.settimeout(CLOSE_TIMEOUT_S)
        data = sock.recv(READ_BYTES)
        if not data:
            for event in codec.receive_eof():
                closed = event if isinstance(event, Closed) else closed
            return closed


def echo(codec: WebSocketCodec) -> Callable[[WebSocketEvent], list[bytes]]:
    """A handler that sends each message back."""

    def handle(event: WebSocketEvent) -> list[bytes]:
        if isinstance(event, Text):
            return codec.send_text(event.data)
        return codec.send_binary(event.data) if isinstance(event, Binary) else []

    return handle


def drain(sock: socket.socket) -> None:
    """Half-close and read what is still coming, so that nothing of ours is lost to a reset."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(CLOSE_TIMEOUT_S)
        while sock.recv(READ_BYTES):
            pass


def _handshake(sock: socket.socket) -> bytes | None:
    """Answer one HTTP request. The first bytes of WebSocket after a 101, None after anything else."""
    http = HttpServerCodec(LIMITS)
    while data := sock.recv(READ_BYTES):
        for event in http.receive(data):
            if isinstance(event, Refused):
                sock.sendall(b"".join(http.respond(event.status, [], event.reason.encode())))
                return None
            if not isinstance(event, RequestHead):
                continue
            verdict = check_upgrade(event)
            if isinstance(verdict, Accept):
                trailing = http.take_trailing()
                sock.sendall(verdict.response)
                return trailing
            answer = http.respond(
                verdict.status, verdict.headers, verdict.reason.encode() + b"\n", close=True
            )
            sock.sendall(b"".join(answer))
            return None
    return None


def serve_connection(sock: socket.socket, *, wide: bool = True) -> None:
    """One connection, from its first byte to its close."""
    with sock, contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        trailing = _handshake(sock)
        if trailing is not None:
            codec = new_codec("server", wide=wide)
            pump(sock, codec, trailing, echo(codec))
        drain(sock)


def serve(listener: socket.socket, *, wide: bool = True) -> None:
    """Accept until the listener is closed."""
    with contextlib.suppress(OSError):
        while True:
            sock, _ = listener.accept()
            threading.Thread(
                target=serve_connection, args=(sock,), kwargs={"wide": wide}, daemon=True
            ).start()


def main() -> None:
    parser = argparse.ArgumentParser(description="WebSocket echo server on mcpgate's codec")
    parser.add_argument("port", type=int, help="port to listen on; 0 picks one, which is printed")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--gateway-bounds", action="store_true", help="the gateway's bounds, and no binary")
    args = parser.parse_args()
    with socket.create_server((args.host, args.port)) as listener:
        print(f"listening on {args.host}:{listener.getsockname()[1]}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            serve(listener, wide=not args.gateway_bounds)


if __name__ == "__main__":
    main()
