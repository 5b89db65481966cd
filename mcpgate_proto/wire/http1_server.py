"""HTTP/1.1, the server's side of one connection.

Owns: requests out of bytes and responses into bytes, one at a time, with the grammar of `http1_grammar`
in front of h11. The owner keeps the timers (head, body rate, keep-alive; threats.md 3 "nothing about
time") and closes the connection when `must_close` says so.
Must never: give a byte of one message to the parser of another, wait for more than `limits` permit, or
raise for a peer's bytes: `Refused` is an event. `LocalProtocolError` means that the owner answered out
of turn or with headers that HTTP cannot carry.

    HEAD -> BODY -> RESPOND -> HEAD ...    a request, its body, its answer, the next request
      \\______\\________\\____-> CLOSING       refused, answered early, or the last answer of a connection
                                 -> CLOSED  the peer has sent its last byte, or another protocol takes over
"""

from __future__ import annotations

import enum
import re
from http import HTTPStatus
from typing import TypeAlias

import h11
import msgspec

from mcpgate_proto.errors import LocalProtocolError
from mcpgate_proto.limits import Limits
from mcpgate_proto.wire.http1_grammar import (
    REQUEST_FIELD,
    ChunkScanner,
    Fault,
    Framing,
    Head,
    Headers,
    HeadReader,
    framing,
)

__all__ = [
    "Aborted",
    "HttpServerCodec",
    "PeerClosed",
    "Phase",
    "Refused",
    "RequestBody",
    "RequestHead",
    "ServerEvent",
]

# What can be routed at all; which of them a path takes is the owner's business (405).
METHODS = frozenset({"POST", "GET", "DELETE", "OPTIONS", "HEAD", "PUT", "PATCH"})

_PCHAR = rb"(?:[-A-Za-z0-9._~!$&'()*+,;=:@/%s]++|%%[0-9A-Fa-f]{2})*+"
_REQUEST_LINE = re.compile(rb"([-!#$%&'*+.^_`|~0-9A-Za-z]+) ([!-~]+) HTTP/([0-9]\.[0-9])")
# RFC 9112 3.2.1 and RFC 3986 3.3, 3.4: an absolute path, maybe a query, never a fragment.
_ORIGIN_FORM = re.compile(rb"(/" + _PCHAR % b"" + rb")(?:\?(" + _PCHAR % b"?" + rb"))?")
_ABSOLUTE_FORM = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?#]*)(.*)")
# RFC 9110 7.2: uri-host [":" port]. No userinfo, no list, no path. Underscores: container names have them.
_HOST = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
# Set by the codec alone: a second word on framing is how responses are split.
_RESERVED = frozenset({"content-length", "transfer-encoding", "connection"})
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
_BODILESS = frozenset({204, 304})
# What is looked at in one step of bytes that were held back; a head is at most about this long.
SLICE = 16 * 1024
_NOT_HTTP = "not a valid HTTP/1.1 request"


class RequestHead(msgspec.Struct, frozen=True, gc=False):
    """A request whose head is complete and in order.

    `target` is as sent, `path` its path still percent-encoded: match it exactly (threats.md 3). `version`
    is "1.0" or "1.1". `content_length` is None for a chunked body and for none; a `RequestBody` follows
    exactly if `has_body`. `upgrade`: the client asks for WebSocket. `expects_continue`: it waits for
    `HttpServerCodec.continue_` before it sends the body.
    """

    method: str
    target: str
    path: str
    query: str
    version: str
    headers: Headers
    upgrade: bool
    expects_continue: bool
    content_length: int | None
    has_body: bool


class RequestBody(msgspec.Struct, frozen=True, gc=False):
    """The whole body. Trailers are dropped: nothing may be decided on them."""

    data: bytes


class Refused(msgspec.Struct, frozen=True, gc=False):
    """The peer broke the grammar or a limit: answer `status` and close. `reason` is our own text."""

    status: int
    reason: str


class PeerClosed(msgspec.Struct, frozen=True, gc=False):
    """The peer has sent its last byte, between messages. An answer in progress may still be finished."""


class Aborted(msgspec.Struct, frozen=True, gc=False):
    """The peer has sent its last byte in the middle of a message."""


ServerEvent: TypeAlias = RequestHead | RequestBody | Refused | PeerClosed | Aborted


class Phase(enum.Enum):
    """Where a connection stands, for the owner's timers."""

    HEAD = "head"
    BODY = "body"
    RESPOND = "respond"
    CLOSING = "closing"
    CLOSED = "closed"


class HttpServerCodec:
    """One connection. Inputs: `receive`, `receive_eof`, `next`; answers: `continue_`, `respond`, or
    `begin`, `data` ..., `end`, each of which returns the bytes to send.

    Requests are served strictly one after the other: while one is answered, pipelined bytes are held and
    nothing is parsed (stop reading meanwhile; beyond one message's size they are dropped and the
    connection ends). After an answer call `next`. Answering before the body has arrived is permitted:
    the rest of it cannot be told from a next request, so the connection closes.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes + 16 * 1024)
        self._reader = HeadReader(limits, REQUEST_FIELD, self._check_start)
        self._phase = Phase.HEAD
        self._pending = bytearray()
        self._held_most = limits.message_bytes + limits.head_bytes
        self._scanner: ChunkScanner | None = None
        self._body = bytearray()
        self._need = 0
        self._wire_bytes = 0
        self._requests = 0
        self._close = False
        self._eof = False
        # Whether an answer to the current request has begun, and whether it is a stream.
        self._answered = False
        self._streaming = False
        self._may_continue = False
        self._head_only = False
        self._discarded = 0

    # -- getters

    @property
    def phase(self) -> Phase:
        return self._phase

    @property
    def head_started(self) -> bool:
        """Whether bytes of the next head have arrived: from then on the head timeout runs."""
        return self._phase is Phase.HEAD and (self._reader.started or bool(self._pending))

    @property
    def body_bytes(self) -> int:
        """Bytes of the current body that have arrived, as counted on the wire."""
        return self._wire_bytes

    @property
    def discarded(self) -> int:
        """Bytes thrown away in CLOSING; compare with `limits.discard_bytes`."""
        return self._discarded

    @property
    def buffered(self) -> int:
        """Bytes held back while a response is in progress."""
        return len(self._pending)

    @property
    def held(self) -> int:
        """Bytes in memory: of a body that is not complete, and held back."""
        return len(self._body) + len(self._pending)

    @property
    def must_close(self) -> bool:
        """Whether this connection serves no further request: once the answer has gone out, half-close,
        discard up to `limits.discard_bytes`, close."""
        return self._close

    # -- inputs

    def receive(self, data: bytes) -> list[ServerEvent]:
        """Bytes have arrived. At most one request comes out of one call."""
        phase = self._phase
        if phase is Phase.RESPOND:
            self._hold(data)
            return []
        if phase is Phase.CLOSING or phase is Phase.CLOSED:
            self._discarded += len(data)
            return []
        events: list[ServerEvent] = []
        if self._pending:
            self._pending += data
            self._read_pending(events)
        elif data:
            self._drop_or_hold(data[self._read(data, events) :])
        return events

    def receive_eof(self) -> list[ServerEvent]:
        """The peer has sent its last byte."""
        if self._eof or self._phase is Phase.CLOSED:
            return []
        self._eof = True
        return self._after_eof()

    def next(self) -> list[ServerEvent]:
        """The answer is complete: go on with what was held back meanwhile."""
        if self._phase is not Phase.HEAD:
            return []
        events = self.receive(b"")
        return events + self._after_eof() if self._eof else events

    def _after_eof(self) -> list[ServerEvent]:
        """What the end of the stream means here. The caller has checked that it has been seen."""
        if self._phase is Phase.RESPOND:
            if self._pending:
                return []
            self._close = True
            return [PeerClosed()]
        if self._phase is Phase.CLOSED:
            return []
        between = self._phase is Phase.CLOSING or (self._phase is Phase.HEAD and not self.head_started)
        if self._phase is not Phase.CLOSING or (self._answered and not self._streaming):
            self._phase = Phase.CLOSED
        self._close = True
        return [PeerClosed() if between else Aborted()]

    def _hold(self, data: bytes) -> None:
        if self._discarded or len(self._pending) + len(data) > self._held_most:
            # Somebody pipelines more than any message may hold: what comes after is lost, so it ends here.
            self._discarded += len(data) + len(self._pending)
            self._pending.clear()
            self._close = True
        else:
            self._pending += data

    def _drop_or_hold(self, rest: bytes) -> None:
        """Put away what `_read` has left: bytes behind a complete request, or behind a fault."""
        if rest and self._phase is Phase.RESPOND:
            self._hold(rest)
        else:
            self._discarded += len(rest)

    # -- reading

    def _read_pending(self, events: list[ServerEvent]) -> None:
        """Read on in what was held back. In slices, so that a request costs what it is long itself."""
        while self._pending and self._phase in (Phase.HEAD, Phase.BODY):
            taken = self._read(bytes(self._pending[:SLICE]), events)
            del self._pending[:taken]
        if self._phase is Phase.CLOSING:
            self._discarded += len(self._pending)
            self._pending.clear()

    def _read(self, data: bytes, events: list[ServerEvent]) -> int:
        """Read up to the end of a request, or to a fault; how many bytes that took."""
        at = 0
        if self._phase is Phase.HEAD:
            head = self._reader.feed(data)
            if head is None:
                return len(data)
            request = self._open(head) if isinstance(head, Head) else head
            if isinstance(request, Fault):
                events.append(self._refuse(request))
                return len(data)
            rest = self._reader.rest
            self._reader.reset()
            events.append(request)
            self._phase = Phase.BODY if request.has_body else Phase.RESPOND
            at = len(data) - len(rest)
            data = rest
        if data and self._phase is Phase.BODY:
            at += self._read_body(data, events)
        return at

    def _refuse(self, fault: Fault) -> Refused:
        self._phase = Phase.CLOSING
        self._close = True
        self._reader.reset()
        self._body.clear()
        return Refused(fault.status, fault.reason)

    def _check_start(self, line: bytes) -> Fault | None:
        """RFC 9112 3, as soon as the line has ended: who speaks HTTP/0.9 or TLS is not waited for."""
        match = _REQUEST_LINE.fullmatch(line)
        if match is None:
            return Fault(400, "a request line that is not valid")
        if match[3] not in (b"1.1", b"1.0"):
            return Fault(505, "an HTTP version other than 1.0 and 1.1")
        if match[1].decode() not in METHODS:
            return Fault(501, "a method that is not known here")
        target = match[2]
        if len(target) > self._limits.target_bytes:
            return Fault(414, f"the target is longer than {self._limits.target_bytes} bytes")
        if _ORIGIN_FORM.fullmatch(target) is None and _ABSOLUTE_FORM.fullmatch(target) is None:
            return Fault(400, "a target that is neither a path nor an http URL")
        return None

    def _open(self, head: Head) -> RequestHead | Fault:
        """Everything about a head that takes more than one line to judge, then h11's own verdict."""
        match = _REQUEST_LINE.fullmatch(head.start)
        assert match is not None, "_check_start has matched it"
        method, target, version = match[1].decode(), match[2], match[3].decode()
        frame = framing(head.fields, version == "1.1")
        if isinstance(frame, Fault):
            return frame
        headers = Headers.of(head.fields)
        host = headers.get("host")
        if host is None and version == "1.1":
            return Fault(400, "no Host")
        if host is not None and _HOST.fullmatch(host) is None:
            return Fault(400, "not one valid Host")
        parts = _split_target(target, host)
        if isinstance(parts, Fault):
            return parts
        fault = self._unfit(frame.length, headers)
        has_body = frame.chunked or bool(frame.length)
        if fault is None:
            fault = self._ask_h11(head.wire, method.encode(), target, has_body)
        if fault is not None:
            return fault
        self._begin_request(method, version, frame, headers)
        return RequestHead(
            method,
            target.decode(),
            parts[0],
            parts[1],
            version,
            headers,
            not has_body and version == "1.1" and _asks_for_websocket(method, headers),
            self._may_continue,
            frame.length,
            has_body,
        )

    def _unfit(self, length: int | None, headers: Headers) -> Fault | None:
        if length is not None and length > self._limits.message_bytes:
            return Fault(413, f"the body is larger than {self._limits.message_bytes} bytes")
        expect = headers.get("expect")
        if expect is not None and expect.lower() != "100-continue":
            # RFC 9110 10.1.1
            return Fault(417, "an expectation other than 100-continue")
        return None

    def _begin_request(self, method: str, version: str, frame: Framing, headers: Headers) -> None:
        limits = self._limits
        self._requests += 1
        self._scanner = ChunkScanner(limits, limits.message_bytes) if frame.chunked else None
        self._need = frame.length or 0
        self._wire_bytes = 0
        self._body.clear()
        self._head_only = method == "HEAD"
        last = self._requests >= limits.requests_per_connection
        if last or version == "1.0" or "close" in headers.tokens("connection"):
            self._close = True
        # RFC 9110 10.1.1: 1.0 clients do not know interim responses; no body, nothing to wait for.
        has_body = frame.chunked or self._need > 0
        self._may_continue = has_body and version == "1.1" and "expect" in headers

    def _ask_h11(self, wire: bytes, method: bytes, target: bytes, has_body: bool) -> Fault | None:
        """Give h11 the head. It must find the same request in it as we did."""
        try:
            self._h11.receive_data(wire)
            request = self._h11.next_event()
            agreed = (
                isinstance(request, h11.Request) and request.method == method and request.target == target
            )
            if agreed and not has_body:
                agreed = isinstance(self._h11.next_event(), h11.EndOfMessage)
        except h11.RemoteProtocolError:
            agreed = False
        return None if agreed else Fault(400, _NOT_HTTP)

    def _read_body(self, data: bytes, events: list[ServerEvent]) -> int:
        fault: Fault | None = None
        if self._scanner is None:
            taken = min(self._need, len(data))
            self._need -= taken
            ended = not self._need
        else:
            taken = self._scanner.feed(data)
            ended = self._scanner.done
            fault = self._scanner.fault
        self._wire_bytes += taken
        if fault is None:
            fault = self._decode_body(data if taken == len(data) else data[:taken], ended)
        if fault is not None:
            events.append(self._refuse(fault))
        elif ended:
            events.append(RequestBody(bytes(self._body)))
            self._body.clear()
            self._phase = Phase.RESPOND
        return taken

    def _decode_body(self, data: bytes, ended: bool) -> Fault | None:
        """Let h11 take the framing off. It must see the end exactly where we do."""
        complete = False
        try:
            self._h11.receive_data(data)
            while (event := self._h11.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.Data):
                    self._body += event.data
                else:
                    complete = isinstance(event, h11.EndOfMessage)
                    break
        except h11.RemoteProtocolError:
            return Fault(400, _NOT_HTTP)
        return None if complete == ended else Fault(400, _NOT_HTTP)

    # -- answers

    def continue_(self) -> list[bytes]:
        """`100 Continue`, if the client still waits for it. For after the head has passed all checks."""
        if not self._may_continue or self._phase is not Phase.BODY or self._wire_bytes:
            return []
        self._may_continue = False
        return self._send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))

    def respond(
        self, status: int, headers: list[tuple[str, str]], body: bytes = b"", *, close: bool = False
    ) -> list[bytes]:
        """A whole response, with Content-Length. `status` is 200 to 599.

        Before the request is complete, and after `Refused`, it ends the connection. Where the connection
        is already answered and closing, or gone, nothing is sent. Raises `LocalProtocolError` for a
        second answer to one request, for framing headers, and for values that HTTP cannot carry.
        """
        if not self._start_answer(close):
            return []
        fields = list(headers)
        if status not in _BODILESS:
            # RFC 9110 8.6: never in a 204.
            fields.append(("Content-Length", str(len(body))))
        elif body:
            raise LocalProtocolError(f"a {status} response has no body")
        chunks = self._send_head(status, headers, fields)
        if body and not self._head_only:
            chunks += self._send(h11.Data(data=body))
        return chunks + self._finish()

    def begin(self, status: int, headers: list[tuple[str, str]]) -> list[bytes]:
        """The head of a streamed response: chunked on 1.1, ended by closing on 1.0. Then `data`, `end`."""
        if self._phase not in (Phase.RESPOND, Phase.BODY) or status in _BODILESS:
            raise LocalProtocolError("a stream answers a request, and has a body")
        self._start_answer(False)
        self._streaming = True
        return self._send_head(status, headers, list(headers))

    def data(self, chunk: bytes) -> list[bytes]:
        """A piece of a streamed response."""
        if not self._streaming:
            raise LocalProtocolError("no streamed response has begun")
        return self._send(h11.Data(data=chunk)) if chunk and not self._head_only else []

    def end(self) -> list[bytes]:
        """The end of a streamed response."""
        if not self._streaming:
            raise LocalProtocolError("no streamed response has begun")
        self._streaming = False
        return self._finish()

    def take_trailing(self) -> bytes:
        """Hand over to another protocol after an upgrade: what has arrived beyond the request."""
        if self._phase is not Phase.RESPOND or self._answered:
            raise LocalProtocolError("only a complete, unanswered request can be upgraded")
        trailing = bytes(self._pending)
        self._pending.clear()
        self._phase = Phase.CLOSED
        return trailing

    def _start_answer(self, close: bool) -> bool:
        """Whether an answer may begin; settles whether the connection ends with it."""
        if self._answered and self._phase not in (Phase.CLOSING, Phase.CLOSED):
            raise LocalProtocolError("this request has its answer")
        if self._answered or self._phase is Phase.CLOSED:
            return False
        self._answered = True
        if self._phase is not Phase.RESPOND:
            self._phase = Phase.CLOSING
            self._reader.reset()
            self._body.clear()
            self._close = True
        self._close = self._close or close
        return True

    def _send_head(
        self, status: int, given: list[tuple[str, str]], fields: list[tuple[str, str]]
    ) -> list[bytes]:
        for name, _ in given:
            if name.lower() in _RESERVED:
                raise LocalProtocolError("framing headers are set by the codec")
        if not 200 <= status <= 599:
            raise LocalProtocolError("a final status is 200 to 599")
        if self._close:
            fields.append(("Connection", "close"))
        try:
            encoded = [(name.encode("ascii"), value.encode("ascii")) for name, value in fields]
        except UnicodeEncodeError:
            raise LocalProtocolError("header names and values are ASCII") from None
        return self._send_response(status, encoded)

    def _send_response(self, status: int, fields: list[tuple[bytes, bytes]]) -> list[bytes]:
        try:
            response = h11.Response(status_code=status, headers=fields, reason=_REASONS.get(status, b""))
        except h11.LocalProtocolError:
            raise LocalProtocolError("a header that HTTP cannot carry") from None
        return self._send(response)

    def _send(self, event: h11.Event) -> list[bytes]:
        try:
            parts: list[bytes] = self._h11.send_with_data_passthrough(event) or []
        except h11.LocalProtocolError:
            raise LocalProtocolError("the answer does not fit the state of the connection") from None
        if len(parts) < 2 or isinstance(event, h11.Data):
            return parts
        return [b"".join(parts)]

    def _finish(self) -> list[bytes]:
        chunks = self._send(h11.EndOfMessage())
        self._may_continue = False
        self._head_only = False
        if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            self._close = True
        if not self._close:
            self._h11.start_next_cycle()
            self._answered = False
            self._phase = Phase.HEAD
        else:
            self._discarded += len(self._pending)
            self._pending.clear()
            self._phase = Phase.CLOSED if self._eof else Phase.CLOSING
        return chunks


def _asks_for_websocket(method: str, headers: Headers) -> bool:
    """RFC 6455 4.1. Any other upgrade is ignored, h2c above all (threats.md 3)."""
    return (
        method == "GET"
        and "upgrade" in headers.tokens("connection")
        and "websocket" in headers.tokens("upgrade")
    )


def _split_target(target: bytes, host: str | None) -> tuple[str, str] | Fault:
    """Path and query of a target that `_check_start` has let pass.

    RFC 9112 3.2.2 demands that absolute-form is understood. Its authority must be the Host, so that no
    part of the gateway can read another one.
    """
    match = _ORIGIN_FORM.fullmatch(target)
    if match is None:
        whole = _ABSOLUTE_FORM.fullmatch(target)
        if whole is None or host is None or whole[1].decode().lower() != host.lower():
            return Fault(400, "a target whose authority is not the Host")
        rest = whole[2]
        match = _ORIGIN_FORM.fullmatch(rest if rest[:1] == b"/" else b"/" + rest)
        if match is None:
            return Fault(400, "a target that is neither a path nor an http URL")
    return match[1].decode(), (match[2] or b"").decode()
