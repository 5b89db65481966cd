"""Server-sent events: the event-stream format of WHATWG HTML section 9.2, written and read.

Owns: encoding of events and an incremental decoder (protocol.md D13). Must never: know what an event
means, hold more than one event of the permitted size, or raise for what a peer sends.
"""

from __future__ import annotations

import re
from typing import TypeAlias

import msgspec

from mcpgate_proto.errors import LocalProtocolError

__all__ = ["COMMENT", "SseDecoder", "SseEvent", "SseItem", "SseTooLong", "encode_event", "priming_event"]

# WHATWG HTML 9.2.7: a line that starts with a colon is ignored, and keeps proxies from hanging up.
COMMENT = b": keep-alive\n\n"

_BREAK = re.compile(rb"\r\n|\r|\n")
# 9.2.6: line ends part fields, and an id with NUL is ignored.
_UNFIT_NAME = re.compile("[\r\n]")
_UNFIT_ID = re.compile("[\r\n\0]")
# A reconnection time above a day is a mistake or a trick; nine digits of milliseconds are eleven days.
_RETRY_DIGITS = 9
_BOM = b"\xef\xbb\xbf"


class SseEvent(msgspec.Struct, frozen=True, gc=False):
    """One event.

    `event` is its name ("message" where none was given); `id` the id that it carried itself, None without
    one; `retry_ms` the reconnection time in milliseconds. `has_data` tells an event with a `data` field,
    be it empty, from one without: a priming event has an id and no or empty data.
    """

    event: str
    data: bytes
    id: str | None
    retry_ms: int | None
    has_data: bool


class SseTooLong(msgspec.Struct, frozen=True, gc=False):
    """An event above the permitted size was met; it is dropped up to its blank line. `size` is the bound."""

    size: int


SseItem: TypeAlias = SseEvent | SseTooLong


def encode_event(
    data: bytes, *, event: str | None = None, id: str | None = None, retry_ms: int | None = None
) -> bytes:
    """One event. `data` may hold line breaks: each line becomes a `data` field of its own.

    Raises `LocalProtocolError` if `event` or `id` hold a line break, or `id` a NUL: no format for those.
    """
    head = ""
    if event is not None:
        head = f"event: {_fit(event, _UNFIT_NAME)}\n"
    if id is not None:
        head += f"id: {_fit(id, _UNFIT_ID)}\n"
    if retry_ms is not None:
        head += f"retry: {retry_ms}\n"
    if b"\n" in data or b"\r" in data:
        data = b"\ndata: ".join(_BREAK.split(data))
    return b"%sdata: %s\n\n" % (head.encode(), data)


def priming_event(id: str, retry_ms: int | None = None) -> bytes:
    """An event with an id and empty data, so that a client can resume before the first message."""
    return encode_event(b"", id=id, retry_ms=retry_ms)


def _fit(value: str, unfit: re.Pattern[str]) -> str:
    if unfit.search(value):
        raise LocalProtocolError("an event's name or id that the format cannot carry")
    return value


class SseDecoder:
    """Reads an event stream in pieces of any size.

    Lines end with LF, CR or CRLF; a byte order mark at the start, comments and unknown fields are
    ignored; an event that the stream's end cuts off is dropped (9.2.6). The bound `max_event_bytes` holds
    for an event's fields together with the line being read. The same stream gives the same events,
    however it is cut.
    """

    __slots__ = (
        "_after_cr",
        "_data",
        "_dropping",
        "_event",
        "_has_data",
        "_id",
        "_last_id",
        "_line",
        "_max",
        "_retry",
        "_start",
    )

    def __init__(self, max_event_bytes: int) -> None:
        self._max = max_event_bytes
        # The first bytes of the stream until it is clear whether they are a byte order mark.
        self._start: bytes | None = b""
        self._after_cr = False
        self._line = bytearray()
        self._data = bytearray()
        self._has_data = False
        self._event = ""
        self._id: str | None = None
        self._retry: int | None = None
        self._last_id = ""
        self._dropping = False

    @property
    def last_event_id(self) -> str:
        """The id of the latest event that had one: what `Last-Event-ID` should say. Empty at first."""
        return self._last_id

    @property
    def buffered(self) -> int:
        """Bytes of the event that has not ended yet."""
        return len(self._line) + len(self._data) + len(self._event) + len(self._id or "")

    def receive(self, data: bytes) -> list[SseItem]:
        """Take what arrived and return the events that it completes."""
        items: list[SseItem] = []
        if self._start is not None:
            data = self._start + data
            if len(data) < 3 and _BOM.startswith(data):
                self._start = data
                return items
            self._start = None
            data = data.removeprefix(_BOM)
        if not data:
            return items
        if self._after_cr and data[:1] == b"\n":
            data = data[1:]
            self._after_cr = False
            if not data:
                return items
        self._after_cr = data[-1:] == b"\r"
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        self._lines(data.split(b"\n"), items)
        return items

    def _lines(self, parts: list[bytes], items: list[SseItem]) -> None:
        last = len(parts) - 1
        for index in range(last):
            line = parts[index]
            if self._line:
                self._line += line
                line = bytes(self._line)
                self._line.clear()
            if line:
                self._field(line, items)
            else:
                self._dispatch(items)
        rest = parts[last]
        if rest and self._fits(len(rest), items):
            self._line += rest

    def _fits(self, more: int, items: list[SseItem]) -> bool:
        """Whether `more` bytes of a line still fit; reports the event once if they do not."""
        if self._dropping:
            # A line counts as begun, so that its end is not taken for a blank line.
            self._line[:] = b":"
            return False
        if self.buffered + more <= self._max:
            return True
        items.append(SseTooLong(self._max))
        self._reset()
        self._dropping = True
        self._line[:] = b":"
        return False

    def _field(self, line: bytes, items: list[SseItem]) -> None:
        """One line (9.2.6): `name: value`, where one space after the colon is not part of the value."""
        if not self._fits(len(line), items):
            self._line.clear()
            return
        name, _, value = line.partition(b":")
        if value[:1] == b" ":
            value = value[1:]
        if name == b"data":
            if self._has_data:
                self._data += b"\n"
            self._data += value
            self._has_data = True
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")
        elif name == b"id":
            if b"\0" not in value:
                self._id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit() and len(value) <= _RETRY_DIGITS:
            self._retry = int(value)

    def _dispatch(self, items: list[SseItem]) -> None:
        if self._id is not None:
            self._last_id = self._id
        if self._has_data or self._id is not None or self._retry is not None:
            items.append(
                SseEvent(self._event or "message", bytes(self._data), self._id, self._retry, self._has_data)
            )
        self._reset()
        self._dropping = False

    def _reset(self) -> None:
        self._data.clear()
        self._has_data = False
        self._event = ""
        self._id = None
        self._retry = None
