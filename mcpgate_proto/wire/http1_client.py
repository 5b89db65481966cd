"""HTTP/1.1, the client's side of one connection.

Owns: one request at a time out, its response in, with the grammar of `http1_grammar` in front of h11 and
the same limits as towards clients (threats.md 3, "for upstream"). Must never: follow a redirect, keep a
cookie, undo a content coding, read on after a fault, or raise for a peer's bytes: `Failed` is an event.
`LocalProtocolError` means that the owner sent out of turn or something that HTTP cannot carry.

    IDLE -> HEAD -> BODY -> IDLE ...   and from each to FAILED
"""

from __future__ import annotations

import enum
import re
from typing import TypeAlias

import h11
import msgspec

from mcpgate_proto.errors import LocalProtocolError
from mcpgate_proto.limits import Limits
from mcpgate_proto.wire.http1_grammar import (
    RESPONSE_FIELD,
    ChunkScanner,
    Fault,
    Framing,
    Head,
    Headers,
    HeadReader,
    framing,
)

__all__ = ["ClientEvent", "Failed", "HttpClientCodec", "ResponseData", "ResponseEnd", "ResponseHead"]

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [\t -~\x80-\xff]*)?")
# Interim responses before the final one: 100, 102 and 103 make sense once or twice, a flood never does.
INTERIM_MOST = 8
_RESERVED = frozenset({"content-length", "transfer-encoding", "connection", "expect", "upgrade"})
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_NOT_HTTP = "not a valid HTTP/1.1 response"


class ResponseHead(msgspec.Struct, frozen=True, gc=False):
    """The head of a final response (200 to 599)."""

    status: int
    headers: Headers


class ResponseData(msgspec.Struct, frozen=True, gc=False):
    """A piece of the body, as it arrived; where it is cut means nothing."""

    data: bytes


class ResponseEnd(msgspec.Struct, frozen=True, gc=False):
    """The response is complete."""


class Failed(msgspec.Struct, frozen=True, gc=False):
    """The response broke the grammar or a limit, or ended in its middle. Close. `reason` is our own text."""

    reason: str


ClientEvent: TypeAlias = ResponseHead | ResponseData | ResponseEnd | Failed


class _State(enum.Enum):
    IDLE = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()
    FAILED = enum.auto()


class HttpClientCodec:
    """One connection to a server. `request`, then `receive` until `ResponseEnd` or `Failed`.

    Bodies are bounded by `limits.message_bytes`, except event streams, which are bounded per chunk and
    event. After `Failed` the codec is inert. `reusable` says whether a next request may go out here.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=limits.head_bytes + 16 * 1024)
        self._reader = HeadReader(limits, RESPONSE_FIELD, _check_start)
        self._state = _State.IDLE
        self._keep = True
        self._method = ""
        self._interim = 0
        self._scanner: ChunkScanner | None = None
        # Bytes of the body still to come by Content-Length; None: until the connection ends.
        self._need: int | None = 0
        # Bytes of the body that are still permitted; None for event streams.
        self._room: int | None = 0
        # Whether h11 has seen the end of the response.
        self._ended = False

    @property
    def idle(self) -> bool:
        """Whether no request is in flight. Not so after a failure."""
        return self._state is _State.IDLE

    @property
    def reusable(self) -> bool:
        """Whether a request may be sent: idle, and both sides keep the connection (RFC 9112 9.3)."""
        return self._keep and self._state is _State.IDLE

    # -- requests

    def request(
        self, method: str, target: str, headers: list[tuple[str, str]], body: bytes = b""
    ) -> list[bytes]:
        """The bytes of one whole request. `headers` must hold Host; framing headers are set here.

        `Accept-Encoding: identity` is added: coded bodies are not undone. Raises `LocalProtocolError`
        unless `reusable`, and for what HTTP cannot carry.
        """
        if not self.reusable:
            raise LocalProtocolError("this connection takes no request now")
        fields = list(headers)
        names = {name.lower() for name, _ in headers}
        if names & _RESERVED:
            raise LocalProtocolError("framing headers are set by the codec")
        if "accept-encoding" not in names:
            fields.append(("Accept-Encoding", "identity"))
        if body or method in _WITH_BODY:
            fields.append(("Content-Length", str(len(body))))
        try:
            request = h11.Request(
                method=method.encode("ascii"),
                target=target.encode("ascii"),
                headers=[(name.encode("ascii"), value.encode("ascii")) for name, value in fields],
            )
        except (UnicodeEncodeError, h11.LocalProtocolError):
            raise LocalProtocolError("a request that HTTP cannot carry") from None
        chunks = [self._h11.send(request) or b""]
        if body:
            chunks += self._h11.send_with_data_passthrough(h11.Data(data=body)) or ()
        self._h11.send(h11.EndOfMessage())
        self._method = method
        self._interim = 0
        self._state = _State.HEAD
        return chunks

    # -- inputs

    def receive(self, data: bytes) -> list[ClientEvent]:
        """Bytes have arrived."""
        events: list[ClientEvent] = []
        while data and self._state is _State.HEAD:
            head = self._reader.feed(data)
            if head is None:
                return events
            if isinstance(head, Fault):
                self._fail(head.reason, events)
                return events
            data = self._reader.rest
            self._reader.reset()
            self._open(head, events)
        if data and self._state is _State.BODY:
            data = self._read_body(data, events)
        if data and self._state is _State.IDLE:
            # RFC 9112 9.2: nobody asked for this, so no next response could be told from it.
            self._keep = False
        return events

    def receive_eof(self) -> list[ClientEvent]:
        """The server has sent its last byte."""
        self._keep = False
        events: list[ClientEvent] = []
        if self._state is _State.BODY and self._scanner is None and self._need is None:
            # RFC 9112 6.3: without length or chunks the end of the connection is the end of the body.
            if self._decode(b"", events):
                self._complete(events)
        elif self._state in (_State.HEAD, _State.BODY):
            self._fail("the connection ended before the response did", events)
        return events

    def _fail(self, reason: str, events: list[ClientEvent]) -> None:
        self._state = _State.FAILED
        self._keep = False
        self._reader.reset()
        events.append(Failed(reason))

    def _open(self, head: Head, events: list[ClientEvent]) -> None:
        match = _STATUS_LINE.fullmatch(head.start)
        assert match is not None, "_check_start has matched it"
        status = int(match[2])
        frame = framing(head.fields, match[1] == b"1")
        if isinstance(frame, Fault):
            return self._fail(frame.reason, events)
        if status < 200:
            self._interim += 1
            fault = _interim_fault(status, frame, self._interim)
            if fault is None and not self._ask_h11(head.wire, h11.InformationalResponse, status):
                fault = _NOT_HTTP
            return self._fail(fault, events) if fault is not None else None
        headers = Headers.of(head.fields)
        fault = self._unfit(status, frame, headers)
        if fault is None and not self._ask_h11(head.wire, h11.Response, status):
            fault = _NOT_HTTP
        if fault is not None:
            return self._fail(fault, events)
        if match[1] == b"0" or "close" in headers.tokens("connection"):
            self._keep = False
        events.append(ResponseHead(status, headers))
        self._begin_body(status, frame, headers, events)

    def _unfit(self, status: int, frame: Framing, headers: Headers) -> str | None:
        if status == 204 and (frame.chunked or frame.length):
            return "a 204 response with a body"
        codings = [coding for coding in headers.tokens("content-encoding") if coding != "identity"]
        if codings:
            return "a content coding that was not asked for"
        if self._bodiless(status) or _is_stream(headers) or not frame.length:
            return None
        if frame.length > self._limits.message_bytes:
            return f"the body is larger than {self._limits.message_bytes} bytes"
        return None

    def _bodiless(self, status: int) -> bool:
        # RFC 9112 6.3: whatever their framing fields say.
        return status in (204, 304) or self._method == "HEAD"

    def _begin_body(self, status: int, frame: Framing, headers: Headers, events: list[ClientEvent]) -> None:
        self._state = _State.BODY
        self._scanner = None
        self._need = 0 if self._bodiless(status) else frame.length
        self._room = None if _is_stream(headers) else self._limits.message_bytes
        if frame.chunked and not self._bodiless(status):
            self._scanner = ChunkScanner(self._limits, self._limits.message_bytes, endless=self._room is None)
        elif self._need == 0:
            self._ended = isinstance(self._h11.next_event(), h11.EndOfMessage)
            self._complete(events)

    def _ask_h11(self, wire: bytes, kind: type[h11.Event], status: int) -> bool:
        """Give h11 the head. It must find the same response in it as we did."""
        try:
            self._h11.receive_data(wire)
            event = self._h11.next_event()
        except h11.RemoteProtocolError:
            return False
        found = isinstance(event, (h11.InformationalResponse, h11.Response)) and event.status_code == status
        return found and isinstance(event, kind)

    def _read_body(self, data: bytes, events: list[ClientEvent]) -> bytes:
        """Take the body's part of `data` and return the rest."""
        fault: str | None = None
        taken = len(data)
        ended = False
        if self._scanner is not None:
            taken = self._scanner.feed(data)
            ended = self._scanner.done
            fault = self._scanner.fault.reason if self._scanner.fault is not None else None
        elif self._need is not None:
            taken = min(taken, self._need)
            self._need -= taken
            ended = not self._need
        elif self._room is not None:
            taken = min(taken, self._room)
            self._room -= taken
            if taken < len(data):
                fault = f"the body is larger than {self._limits.message_bytes} bytes"
        # An empty piece would tell h11 that the connection has ended.
        if taken and not self._decode(data if taken == len(data) else data[:taken], events):
            return b""
        if fault is not None:
            self._fail(fault, events)
        elif ended:
            self._complete(events)
        return data[taken:]

    def _decode(self, data: bytes, events: list[ClientEvent]) -> bool:
        """Let h11 take the framing off; whether it agrees so far. `b""` tells it of the stream's end."""
        self._ended = False
        try:
            self._h11.receive_data(data)
            while (event := self._h11.next_event()) is not h11.NEED_DATA:
                if not isinstance(event, h11.Data):
                    self._ended = isinstance(event, h11.EndOfMessage)
                    break
                events.append(ResponseData(bytes(event.data)))
        except h11.RemoteProtocolError:
            self._fail(_NOT_HTTP, events)
            return False
        return True

    def _complete(self, events: list[ClientEvent]) -> None:
        if not self._ended:
            return self._fail(_NOT_HTTP, events)
        events.append(ResponseEnd())
        self._state = _State.IDLE
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
        else:
            self._keep = False


def _check_start(line: bytes) -> Fault | None:
    """RFC 9112 4. The status of the fault means nothing on this side."""
    return None if _STATUS_LINE.fullmatch(line) else Fault(502, "a status line that is not valid")


def _interim_fault(status: int, frame: Framing, count: int) -> str | None:
    if status == 101:
        return "an upgrade that was not asked for"
    if frame.chunked or frame.length is not None:
        # RFC 9110 8.6, RFC 9112 6.1
        return "an interim response with a body"
    return "too many interim responses" if count > INTERIM_MOST else None


def _is_stream(headers: Headers) -> bool:
    return headers.media_type == "text/event-stream"
