"""Just enough HTTP/1.1 and event streams for model peers, written apart from the gateway's own.

Owns: incremental readers of requests, responses and event streams, and their encoders.
Must never: be lenient; a gateway that sends something odd has to be noticed.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Event", "EventReader", "MessageReader", "chunk", "event", "head"]

Headers = dict[str, str]


class MessageReader:
    """Reads requests or responses one after the other. `opened` gets the start line and the headers."""

    def __init__(
        self,
        opened: Callable[[str, Headers], None],
        body: Callable[[bytes], None],
        ended: Callable[[], None],
        *,
        requests: bool,
    ) -> None:
        self._opened = opened
        self._body = body
        self._ended = ended
        self._requests = requests
        self._data = bytearray()
        # What is expected: "head", "length", "chunk", "trailer", "until eof".
        self._state = "head"
        self._need = 0
        self.bodiless = False

    @property
    def between(self) -> bool:
        return self._state == "head" and not self._data

    def feed(self, data: bytes) -> None:
        self._data += data
        while self._step():
            pass

    def eof(self) -> bool:
        """The end of the stream. False when it came in the middle of a message."""
        if self._state == "until eof":
            self._state = "head"
            self._ended()
            return True
        return self.between

    def take(self) -> bytearray:
        """What has come after the head that was just read: from here on it is not HTTP."""
        rest, self._data = self._data, bytearray()
        return rest

    def _step(self) -> bool:
        if self._state == "head":
            return self._head()
        if self._state == "chunk":
            return self._chunk()
        if self._state == "trailer":
            return self._line() is not None and self._finish()
        if self._state == "until eof":
            data = bytes(self._data)
            self._data.clear()
            if data:
                self._body(data)
            return False
        return self._length()

    def _length(self) -> bool:
        if not self._data and self._need:
            return False
        data = bytes(self._data[: self._need])
        del self._data[: len(data)]
        self._need -= len(data)
        if data:
            self._body(data)
        return self._finish() if not self._need else False

    def _finish(self) -> bool:
        self._state = "head"
        self._ended()
        return bool(self._data)

    def _line(self) -> bytes | None:
        at = self._data.find(b"\r\n")
        if at < 0:
            return None
        line = bytes(self._data[:at])
        del self._data[: at + 2]
        return line

    def _chunk(self) -> bool:
        at = self._data.find(b"\r\n")
        if at < 0:
            return False
        size = int(self._data[:at], 16)
        if size == 0:
            del self._data[: at + 2]
            self._state = "trailer"
            return True
        if len(self._data) < at + 2 + size + 2:
            return False
        data = bytes(self._data[at + 2 : at + 2 + size])
        assert self._data[at + 2 + size : at + 4 + size] == b"\r\n", "a chunk without its end"
        del self._data[: at + 4 + size]
        self._body(data)
        return True

    def _head(self) -> bool:
        at = self._data.find(b"\r\n\r\n")
        if at < 0:
            return False
        lines = bytes(self._data[:at]).decode("latin-1").split("\r\n")
        del self._data[: at + 4]
        headers: Headers = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            assert colon and name == name.strip(), f"a malformed header line: {line!r}"
            assert name.lower() not in headers or name.lower() == "vary", f"a repeated header: {name}"
            headers[name.lower()] = value.strip()
        start = lines[0]
        status = 0 if self._requests else int(start.split(" ")[1])
        self._opened(start, headers)
        if 100 <= status < 200:
            return True
        if status in (204, 304) or self.bodiless:
            return self._finish()
        if headers.get("transfer-encoding", "").lower() == "chunked":
            self._state = "chunk"
        elif "content-length" in headers:
            self._need = int(headers["content-length"])
            self._state = "length"
            return True
        elif self._requests:
            return self._finish()
        else:
            self._state = "until eof"
        return True


class Event:
    """One event of a stream, or a comment (`data` None)."""

    def __init__(self, data: bytes | None, id: str | None, retry: int | None, name: str = "") -> None:
        self.name = name
        self.data = data
        self.id = id
        self.retry = retry


class EventReader:
    """An event stream, as far as servers here and mcpgate write it: LF or CRLF, whole lines."""

    def __init__(self, got: Callable[[Event], None]) -> None:
        self._got = got
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        self._data += data
        while (at := self._data.find(b"\n\n")) >= 0:
            block = bytes(self._data[:at])
            del self._data[: at + 2]
            self._block(block)

    def _block(self, block: bytes) -> None:
        lines: list[bytes] = []
        id: str | None = None
        retry: int | None = None
        kind = ""
        comment = True
        for line in block.split(b"\n"):
            if line.startswith(b":"):
                continue
            comment = False
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data":
                lines.append(value)
            elif name == b"id":
                id = value.decode()
            elif name == b"event":
                kind = value.decode()
            elif name == b"retry":
                retry = int(value)
        self._got(Event(None if comment else b"\n".join(lines), id, retry, kind))


def head(start: str, headers: list[tuple[str, str]], body: bytes | None = b"") -> bytes:
    """A head, and its body with Content-Length unless None."""
    lines = [start, *(f"{name}: {value}" for name, value in headers)]
    if body is not None and not start.endswith((" 204 No Content", " 202 Accepted")):
        lines.append(f"Content-Length: {len(body)}")
    elif body is not None and " 202 " in start:
        lines.append("Content-Length: 0")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b"")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(data: bytes, id: str | None = None) -> bytes:
    return (f"id: {id}\n".encode() if id else b"") + b"data: " + data + b"\n\n"
