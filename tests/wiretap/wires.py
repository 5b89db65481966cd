"""Bytes of a connection back to messages, both ways, read apart from the gateway's own codecs.

Owns: lines, HTTP/1.1 with JSON and event streams, WebSocket frames, and which of them a connection speaks.
Must never: import `mcpgate_proto.wire`: a slip of both would not be seen. Must never judge a message.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from fuzz.sim.http import Headers, MessageReader
from fuzz.sim.sockets import CLOSE, TEXT, FrameReader

__all__ = ["Exchange", "Http", "Lines", "Reading", "Wire", "of_first_bytes"]


class Reading(Protocol):
    """Who is told what was read. `ours`: the gateway sent it."""

    def message(self, ours: bool, data: bytes) -> None: ...
    def asked(self, exchange: Exchange, ours: bool) -> None:
        """A request of HTTP is whole."""

    def told(self, exchange: Exchange, ours: bool, data: bytes, event: str) -> None:
        """A message in the response; `event` names the kind of event it came as, if it came as one."""

    def broken(self, ours: bool, why: str) -> None:
        """What comes that way from here on cannot be read."""


class Wire(Protocol):
    def feed(self, ours: bool, data: bytes) -> None: ...
    def eof(self, ours: bool) -> None: ...


def of_first_bytes(data: bytes) -> bool:
    """Whether a connection that the gateway has dialled begins as HTTP does."""
    return data.startswith((b"GET ", b"POST ", b"DELETE "))


class Lines:
    """One message a line, both ways."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._data = {True: bytearray(), False: bytearray()}

    def feed(self, ours: bool, data: bytes) -> None:
        self._data[ours] += data
        if b"\n" not in data:
            return
        *lines, rest = bytes(self._data[ours]).split(b"\n")
        self._data[ours] = bytearray(rest)
        for line in lines:
            if line.strip():
                self._reading.message(ours, line)

    def eof(self, ours: bool) -> None:
        pass


class Frames:
    """One message in a text frame. The side that dialled masks."""

    def __init__(self, reading: Reading, *, from_us: bool) -> None:
        self._reading = reading
        self._frames = {ours: FrameReader(from_client=ours is from_us) for ours in (True, False)}
        self._over = {True: False, False: False}

    def feed(self, ours: bool, data: bytes) -> None:
        if self._over[ours]:
            return
        try:
            found = self._frames[ours].feed(data)
        except AssertionError as error:
            self._over[ours] = True
            self._reading.broken(ours, str(error))
            return
        for kind, body in found:
            if kind == TEXT:
                self._reading.message(ours, body)
            elif kind == CLOSE:
                self._over[ours] = True

    def eof(self, ours: bool) -> None:
        pass


class Events:
    """An event stream of any server: every end of line that the format has, and comments."""

    def __init__(self, got: Callable[[str, bytes], None]) -> None:
        self._got = got
        self._data = b""
        self._name = ""
        self._lines: list[bytes] = []

    def feed(self, data: bytes) -> None:
        # A carriage return at the end may be the first half of one end of line.
        held = self._data + data
        kept = b""
        if held.endswith(b"\r"):
            held, kept = held[:-1], b"\r"
        *lines, rest = held.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._data = rest + kept
        for line in lines:
            self._line(line)

    def _line(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            data, kind = b"\n".join(self._lines), self._name
            self._lines, self._name = [], ""
            if data:
                self._got(kind or "message", data)
        elif name == b"data":
            self._lines.append(value)
        elif name == b"event":
            self._name = value.decode("utf-8", "replace")


@dataclass
class Exchange:
    """One request and its response. `place` is for whoever judges: what it knows of this exchange."""

    method: str = ""
    path: str = ""
    headers: Headers = field(default_factory=dict)
    body: bytes = b""
    status: int = 0
    answer_headers: Headers = field(default_factory=dict)
    # The head of its request could be read.
    known: bool = True
    place: Any = None

    @property
    def upgrade(self) -> bool:
        return self.headers.get("upgrade", "").lower() == "websocket"


class Http:
    """Requests from one side, responses from the other, and frames once both have agreed on them."""

    def __init__(self, reading: Reading, *, we_ask: bool) -> None:
        self._reading = reading
        self._we_ask = we_ask
        self._requests = MessageReader(self._request, self._request_body, self._request_ended, requests=True)
        self._answers = MessageReader(self._answer, self._answer_body, self._answer_ended, requests=False)
        self._open: list[Exchange] = []
        self._asking = Exchange()
        self._answering = Exchange(known=False)
        self._parts: list[bytes] = []
        self._told: list[bytes] = []
        self._events: Events | None = None
        self._frames: Frames | None = None
        # What came from the asking side after it wished for frames.
        self._held: bytearray | None = None
        self._broken = {True: False, False: False}

    def feed(self, ours: bool, data: bytes) -> None:
        if self._broken[ours]:
            return
        if self._frames is not None:
            self._frames.feed(ours, data)
        elif ours is self._we_ask and self._held is not None:
            self._held += data
        else:
            self._read(ours, data)

    def _read(self, ours: bool, data: bytes) -> None:
        reader = self._requests if ours is self._we_ask else self._answers
        try:
            reader.feed(data)
        except (AssertionError, ValueError, IndexError) as error:
            self._broken[ours] = True
            self._reading.broken(ours, f"{type(error).__name__}: {error}")

    def eof(self, ours: bool) -> None:
        if ours is not self._we_ask and not self._broken[ours] and self._frames is None:
            self._answers.eof()

    # -- requests

    def _request(self, start: str, headers: Headers) -> None:
        method, path, _ = start.split(" ")
        self._asking = Exchange(method=method, path=path, headers=headers)
        self._parts = []
        self._open.append(self._asking)
        if self._asking.upgrade:
            self._held = self._requests.take()

    def _request_body(self, data: bytes) -> None:
        self._parts.append(data)

    def _request_ended(self) -> None:
        self._asking.body = b"".join(self._parts)
        self._reading.asked(self._asking, self._we_ask)

    # -- responses

    def _answer(self, start: str, headers: Headers) -> None:
        status = int(start.split(" ")[1])
        if status == 101:
            self._upgraded()
            return
        if 100 <= status < 200:
            return
        self._answering = self._open.pop(0) if self._open else Exchange(known=False)
        self._answering.status, self._answering.answer_headers = status, headers
        self._answers.bodiless = self._answering.method == "HEAD"
        self._told = []
        self._events = None
        if self._held is not None:
            held, self._held = self._held, None
            self._read(self._we_ask, bytes(held))
        if headers.get("content-type", "").startswith("text/event-stream"):
            exchange = self._answering
            self._events = Events(
                lambda kind, data: self._reading.told(exchange, not self._we_ask, data, kind)
            )

    def _upgraded(self) -> None:
        rest = self._answers.take()
        held, self._held = self._held or bytearray(), None
        self._frames = Frames(self._reading, from_us=self._we_ask)
        self._frames.feed(not self._we_ask, bytes(rest))
        self._frames.feed(self._we_ask, bytes(held))

    def _answer_body(self, data: bytes) -> None:
        if self._events is not None:
            self._events.feed(data)
        else:
            self._told.append(data)

    def _answer_ended(self) -> None:
        body = b"".join(self._told)
        if self._events is None and body:
            self._reading.told(self._answering, not self._we_ask, body, "")
