"""Event streams of legacy sessions that a client may come back to (`Last-Event-ID`).

Owns: event ids (unique in the session, each naming its stream: C33), a bounded ring of events per
session, the attachment of a stream to at most one response at a time.
Must never: replay another stream's events; grow beyond the session's budget.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from mcpgate_proto.wire import sse

__all__ = ["EventStream", "StreamTable"]

Writer = Callable[[bytes], None]


class StreamTable:
    """The streams of one session. Number 0 is its GET stream."""

    def __init__(self, max_events: int, max_bytes: int, max_streams: int, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self.max_events = max_events
        self._max_bytes = max_bytes
        self._max_streams = max_streams
        self._bytes = 0
        self._next = 1
        self.streams: dict[int, EventStream] = {}
        self.main = EventStream(self, 0)
        self.streams[0] = self.main

    def open(self, now: float) -> EventStream:
        """A stream for one POST. Finished ones go when their time is over, or when there are too many."""
        for stream in list(self.streams.values()):
            if stream.finished_at is None:
                continue
            if now - stream.finished_at < self._ttl_s and len(self.streams) <= self._max_streams:
                break  # the others finished later, more or less
            stream.forget()
        stream = EventStream(self, self._next)
        self._next += 1
        self.streams[stream.number] = stream
        return stream

    def find(self, event_id: str) -> tuple[EventStream, int] | None:
        """The stream and position that a `Last-Event-ID` names; None when it is none of ours."""
        number, _, seq = event_id.partition("-")
        if (
            not (number.isascii() and number.isdigit() and seq.isascii() and seq.isdigit())
            or len(event_id) > 32
        ):
            return None
        stream = self.streams.get(int(number))
        if stream is None or int(seq) > stream.seq:
            return None
        first = stream.kept[0][0] if stream.kept else stream.seq + 1
        # A gap must not look like a whole stream: what is no longer kept cannot be resumed.
        return (stream, int(seq)) if int(seq) >= first - 1 else None

    def add(self, stream: EventStream, seq: int, event: bytes) -> None:
        """Keep an event, as far as the budget goes: finished streams give way, then older events. One that is
        larger than the whole budget is not kept and takes nothing else with it but its own stream's past."""
        if len(event) > self._max_bytes:
            for _, old in stream.kept:
                self._bytes -= len(old)
            stream.kept.clear()
            return
        stream.kept.append((seq, event))
        self._bytes += len(event)
        if self._bytes > self._max_bytes:
            for other in list(self.streams.values()):
                if other.finished and other is not stream:
                    other.forget()  # what is over gives way to what goes on
                if self._bytes <= self._max_bytes:
                    break
        while stream.kept and (len(stream.kept) > self.max_events or self._bytes > self._max_bytes):
            self._bytes -= len(stream.kept.popleft()[1])

    def dropped(self, stream: EventStream) -> None:
        for _, event in stream.kept:
            self._bytes -= len(event)
        stream.kept.clear()
        self.streams.pop(stream.number, None)


class EventStream:
    """One stream: of a POST, or the session's own."""

    __slots__ = (
        "_ended",
        "_table",
        "_writer",
        "delivered",
        "finished_at",
        "kept",
        "number",
        "pressure",
        "seq",
    )

    def __init__(self, table: StreamTable, number: int) -> None:
        self._table = table
        self.number = number
        self.seq = 0
        self.kept: deque[tuple[int, bytes]] = deque()
        self.delivered = 0  # the last position that was handed to a response
        self.finished_at: float | None = None
        # Slows those who feed the stream, whichever response it is on.
        self.pressure: Callable[[bool], None] = lambda high: None
        self._writer: Writer | None = None
        self._ended: Callable[[], None] | None = None

    @property
    def attached(self) -> bool:
        return self._writer is not None

    def prime(self, after: int, retry_ms: int | None = None) -> bytes:
        """C34: an id and empty data, so that the client can come back before the first event. `after` is
        where it stands: naming a later position would lose what lies between."""
        return sse.priming_event(f"{self.number}-{after}", retry_ms)

    def send(self, message: bytes) -> None:
        self.seq += 1
        event = sse.encode_event(message, id=f"{self.number}-{self.seq}")
        self._table.add(self, self.seq, event)
        if self._writer is not None:
            self.delivered = self.seq
            self._writer(event)

    def attach(self, writer: Writer, after: int, ended: Callable[[], None]) -> None:
        """From now on events go to `writer`, first those after position `after`. A response that had the
        stream before is `ended`: each stream has at most one."""
        before = self._ended
        self._writer, self._ended = writer, ended
        if before is not None:
            before()
        for seq, event in list(self.kept):
            if seq > after:
                writer(event)
        self.delivered = self.seq

    def detach(self, writer: Writer) -> None:
        """The response that had the stream is gone; one that took it over meanwhile keeps it."""
        if self._writer == writer:
            self._writer = self._ended = None

    @property
    def finished(self) -> bool:
        return self.finished_at is not None

    def finish(self, now: float) -> None:
        """Nothing follows; what is kept can still be replayed, for a while."""
        self.finished_at = now
        ended = self._ended
        self._writer = self._ended = None
        if ended is not None:
            ended()

    def forget(self) -> None:
        self._table.dropped(self)
