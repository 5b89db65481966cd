"""What model clients and servers have in common: a record of what happened, byte streams, messages on them.

Owns: `Journal`, on which every wait of the matrix is a wait for an event; `Ends` (a socket or a pair of
pipes, read by one thread); `Conversation` (messages in lines or in WebSocket frames).
Must never: mend what the gateway sends; sleep; leave a thread or a descriptor behind once it has ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from mcpgate_proto.entropy import SEED_BYTES, Entropy
from mcpgate_proto.limits import Limits
from mcpgate_proto.wire.lines import LineDecoder, TooLong
from mcpgate_proto.wire.websocket import Closed, Text, WebSocketCodec

__all__ = [
    "LEGACY",
    "LIMITS",
    "MODERN",
    "PREFIX",
    "WAIT_S",
    "Conversation",
    "Ends",
    "Framing",
    "Journal",
    "LineFraming",
    "Message",
    "WebSocketFraming",
    "begin",
]

Message = dict[str, Any]
LEGACY = "2025-11-25"
MODERN = "2026-07-28"
PREFIX = "io.modelcontextprotocol/"
LIMITS = Limits()
# Long enough for a busy machine; nothing waits that long when all is well.
WAIT_S = 30.0
READ_BYTES = 1 << 18


class Journal:
    """Things that happened, in their order."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._items: list[Any] = []
        self._news = threading.Condition()

    def add(self, item: Any) -> None:
        with self._news:
            self._items.append(item)
            self._news.notify_all()

    def __len__(self) -> int:
        return len(self._items)

    def all(self, found: Callable[[Any], bool], after: int = 0) -> list[Any]:
        with self._news:
            return [item for item in self._items[after:] if found(item)]

    def first(self, found: Callable[[Any], bool], what: str, after: int = 0) -> Any:
        """The first item from position `after` on that is `found`; waits for it."""
        give_up = time.monotonic() + WAIT_S
        with self._news:
            while True:
                for item in self._items[after:]:
                    if found(item):
                        return item
                left = give_up - time.monotonic()
                if left <= 0:
                    story = "\n".join(str(item)[:300] for item in self._items[-20:])
                    raise AssertionError(f"{self.name}: waited in vain for {what}; what happened:\n{story}")
                self._news.wait(left)


def begin(work: Callable[[], None], name: str) -> threading.Thread:
    thread = threading.Thread(target=work, name=f"matrix {name}", daemon=True)
    thread.start()
    return thread


class Ends:
    """A byte stream: one socket, or the two pipes of stdio. One thread reads it and closes it at the end;
    any other may write, half-close, `leave` (in good order) or `vanish` (as a killed process does)."""

    def __init__(self, sock: socket.socket | None = None, pipes: tuple[int, int] | None = None) -> None:
        self._sock = sock
        self._pipes = list(pipes) if pipes is not None else []
        self._wake = os.pipe()
        self._lock = threading.Lock()
        self._rude = False
        self._over = False
        self._silent = False
        fd = sock.fileno() if sock is not None else self._pipes[0]
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._poll.register(self._wake[0], select.POLLIN)
        self._fd = fd

    def read(self) -> bytes:
        """The next bytes; nothing at the end of the stream, or once told to leave."""
        while True:
            ready = dict(self._poll.poll())
            if self._wake[0] in ready:
                return b""
            with contextlib.suppress(OSError):
                return os.read(self._fd, READ_BYTES)
            return b""

    def write(self, data: bytes) -> bool:
        """Whether the other side could take it."""
        with self._lock:
            if self._over or self._silent:
                return False
            try:
                if self._sock is not None:
                    self._sock.sendall(data)
                else:
                    view = memoryview(data)
                    while view:
                        view = view[os.write(self._pipes[1], view) :]
            except OSError:
                return False
        return True

    def half_close(self) -> None:
        """Nothing more will be written."""
        with self._lock:
            if self._over or self._silent:
                return
            self._silent = True
            if self._sock is not None:
                with contextlib.suppress(OSError):
                    self._sock.shutdown(socket.SHUT_WR)
            else:
                os.close(self._pipes.pop())

    def leave(self) -> None:
        """The reading thread stops and closes."""
        self.half_close()
        self._stop()

    def vanish(self) -> None:
        """As if the process had been killed: unread data, if any, answers with a reset."""
        self._rude = True
        self._stop()

    def _stop(self) -> None:
        with self._lock:
            if not self._over:
                os.write(self._wake[1], b"\0")

    def close(self) -> None:
        """For the reading thread, when it has done."""
        with self._lock:
            if self._over:
                return
            self._over = True
            if self._sock is not None:
                if self._rude and self._sock.family == socket.AF_INET:
                    linger = struct.pack("ii", 1, 0)
                    self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self._sock.close()
            for fd in (*self._pipes, *self._wake):
                os.close(fd)


class Framing(Protocol):
    """How messages stand on a byte stream."""

    def receive(self, data: bytes) -> list[bytes]: ...
    def wrap(self, message: bytes) -> bytes: ...
    def pending(self) -> bytes: ...
    def farewell(self) -> bytes: ...
    @property
    def goodbye(self) -> str:
        """How the other side ended, where the framing has words for it."""


class LineFraming:
    goodbye = ""

    def __init__(self) -> None:
        self._lines = LineDecoder(LIMITS.message_bytes)

    def receive(self, data: bytes) -> list[bytes]:
        found = self._lines.receive(data)
        assert not any(isinstance(line, TooLong) for line in found)
        return [line for line in found if isinstance(line, bytes)]

    def wrap(self, message: bytes) -> bytes:
        return message + b"\n"

    def pending(self) -> bytes:
        return b""

    def farewell(self) -> bytes:
        return b""


class WebSocketFraming:
    def __init__(self, role: Any) -> None:
        entropy = Entropy(os.urandom(SEED_BYTES))
        self._codec = WebSocketCodec(role, entropy=entropy, max_message_bytes=LIMITS.message_bytes)
        self.goodbye = ""

    def receive(self, data: bytes) -> list[bytes]:
        messages = []
        for event in self._codec.receive(data, time.monotonic()):
            if isinstance(event, Text):
                messages.append(event.data)
            elif isinstance(event, Closed):
                self.goodbye = str(event.code)
        return messages

    def wrap(self, message: bytes) -> bytes:
        return b"".join(self._codec.send_text(message))

    def pending(self) -> bytes:
        return b"".join(self._codec.to_send())

    def farewell(self) -> bytes:
        return b"".join(self._codec.close(1000, ""))


class Conversation:
    """Messages both ways on one stream. `heard` gets each message, `ended` the end, once."""

    def __init__(
        self, ends: Ends, framing: Framing, heard: Callable[[Message], None], ended: Callable[[str], None]
    ) -> None:
        self._ends = ends
        self._framing = framing
        self._heard = heard
        self._ended = ended
        # A codec has one state for both directions.
        self._lock = threading.Lock()

    def run(self, first: bytes = b"") -> None:
        """Read until the end; `first` has come already."""
        data = first
        try:
            while data or (data := self._ends.read()):
                with self._lock:
                    messages = self._framing.receive(data)
                    answer = self._framing.pending()
                    if answer:
                        self._ends.write(answer)
                for message in messages:
                    self._heard(json.loads(message))
                if self._framing.goodbye:
                    break
                data = b""
        finally:
            self._ends.close()
            self._ended(self._framing.goodbye)

    def send(self, message: Message) -> None:
        with self._lock:
            self._ends.write(self._framing.wrap(json.dumps(message).encode()))

    def leave(self) -> None:
        """Say goodbye as the framing has it, and go."""
        with self._lock:
            self._ends.write(self._framing.farewell())
        self._ends.leave()

    def half_close(self) -> None:
        self._ends.half_close()

    def vanish(self) -> None:
        self._ends.vanish()
