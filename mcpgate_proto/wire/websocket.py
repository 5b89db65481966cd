"""WebSocket (RFC 6455) after the handshake, both roles: one JSON-RPC message per text message (B14).

Owns: whole messages out of bytes and frames out of messages, with a frame scanner of ours in front of
wsproto: the scanner sets the bounds that wsproto lacks (threats.md 4), wsproto stays the authority on what
passes (but for messages that arrive in one piece, see `_take_whole`). The owner keeps the timers (ping,
close), puts one codec behind one accepted handshake (`websocket_handshake`) and closes the connection when
`must_close` says so.
Must never: negotiate an extension, hold more than one message of the permitted size, draw a mask from
anywhere but `entropy` (a client-role wsproto connection asks the operating system, so it only reads here),
or raise for a peer's bytes: `Closed` is an event. `LocalProtocolError` means that the owner sent something
that WebSocket cannot carry.

    OPEN -> CLOSING   we have sent Close and wait for the peer's; its messages are still handed out
       \\________\\__-> CLOSED   the peer has sent Close, broke the protocol, or is gone; the rest is dropped

Every check is bound to the byte that decides it, so that a fault is the same however the input was cut.
"""

from __future__ import annotations

import enum
from typing import Literal, TypeAlias

import msgspec
import wsproto.events as ws
from wsproto.connection import CLIENT, SERVER, Connection, ConnectionState
from wsproto.frame_protocol import CloseReason

from mcpgate_proto.entropy import Entropy
from mcpgate_proto.errors import LocalProtocolError

__all__ = [
    "ABNORMAL",
    "NO_STATUS",
    "Binary",
    "Closed",
    "Pong",
    "State",
    "Text",
    "WebSocketCodec",
    "WebSocketEvent",
]

# RFC 6455 7.4.1. The last two are never on the wire: no code was given, no Close was given.
NORMAL = 1000
PROTOCOL_ERROR = 1002
UNSUPPORTED = 1003
BAD_TEXT = 1007
POLICY = 1008
TOO_BIG = 1009
NO_STATUS = 1005
ABNORMAL = 1006

# RFC 6455 5.2: two bytes, at most eight of length, four of mask.
_HEADER_MOST = 14
# RFC 6455 5.5
_CONTROL_MOST = 125
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
_REFUSED = {
    PROTOCOL_ERROR: "a frame that is not valid",
    BAD_TEXT: "text that is not UTF-8",
}


class Text(msgspec.Struct, frozen=True, gc=False):
    """One whole text message: valid UTF-8, within the bounds."""

    data: bytes


class Binary(msgspec.Struct, frozen=True, gc=False):
    """One whole binary message. Only where the codec was told to take them."""

    data: bytes


class Pong(msgspec.Struct, frozen=True, gc=False):
    """A pong, asked for or not (RFC 6455 5.5.3): compare `payload` with that of the ping."""

    payload: bytes


class Closed(msgspec.Struct, frozen=True, gc=False):
    """The last event: nothing more is read or sent, except what `to_send` still holds.

    `clean`: the peer has sent Close, with `code` (1005: none given) and `reason`, which is its own text.
    Else it broke the protocol or a bound, `code` is what we closed with and `reason` is ours; or it is gone
    without a Close (1006).
    """

    code: int
    reason: str
    clean: bool


WebSocketEvent: TypeAlias = Text | Binary | Pong | Closed


class State(enum.Enum):
    """Where a connection stands, for the owner's timers."""

    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class _Fault(msgspec.Struct, frozen=True, gc=False):
    """A breach of the protocol or of a bound: the code to close with, and our words for it."""

    code: int
    reason: str


class _Frame(msgspec.Struct, frozen=True, gc=False):
    """A complete frame header: `size` is its own, `length` that of the payload."""

    size: int
    opcode: int
    final: bool
    length: int


class WebSocketCodec:
    """One connection. Inputs: `receive`, `receive_eof`. Outputs: `send_text`, `ping`, `close`, each of which
    returns the bytes to send, and `to_send`, to be drained after each input and what its events led to: only
    there our answer to a Close or to a fault goes out, so that what came before it can still be answered.
    Pongs that are due go ahead of whatever is returned. However an input is cut, its events and our answers
    to it are the same, in the same order; only what the owner sends of its own may come to stand between.

    `max_message_bytes` bounds a message, by the lengths that its frames declare; `max_fragments` the frames
    of one message; `control_frames_per_s` pings and pongs, with one second's worth at once. `binary` lets
    binary messages pass, for outside test suites: MCP is text, and they are refused with 1003.
    """

    def __init__(
        self,
        role: Literal["client", "server"],
        *,
        entropy: Entropy,
        max_message_bytes: int,
        max_fragments: int = 1024,
        control_frames_per_s: int = 100,
        binary: bool = False,
    ) -> None:
        self._client = role == "client"
        self._entropy = entropy
        self._max_message = max_message_bytes
        self._max_fragments = max_fragments
        self._rate = control_frames_per_s
        self._binary = binary
        # One reads, in our role; the other one writes, unmasked.
        self._in = Connection(CLIENT if self._client else SERVER)
        self._out = Connection(SERVER)
        self._state = State.OPEN
        self._clean = False
        # What has arrived of a frame's header, and what is still to come of its payload.
        self._head = b""
        self._left = 0
        # The message in progress: declared bytes, frames, and the bytes that have arrived.
        self._unfinished = False
        self._declared = 0
        self._fragments = 0
        self._message = bytearray()
        self._credit = float(control_frames_per_s)
        self._credited = 0.0
        self._pongs: list[bytes] = []
        # Whether our Close has not been handed out; and the one that is due.
        self._sending = True
        self._due: ws.CloseConnection | None = None

    # -- getters

    @property
    def state(self) -> State:
        return self._state

    @property
    def buffered(self) -> int:
        """Bytes of the message that has not ended yet."""
        return len(self._message)

    @property
    def must_close(self) -> bool:
        """Whether to close the connection, once `to_send` has gone out.

        RFC 6455 7.1.1: after a clean close the server goes first and the client waits for it, a while.
        """
        return self._state is State.CLOSED and not (self._client and self._clean)

    # -- inputs

    def receive(self, data: bytes, now: float) -> list[WebSocketEvent]:
        """Bytes have arrived. `now` (monotonic seconds) is for the budget of control frames only."""
        events: list[WebSocketEvent] = []
        at, end = 0, len(data)
        while at < end and self._state is not State.CLOSED:
            if self._left:
                take = min(self._left, end - at)
                piece = data[at : at + take]
                self._left -= take
            else:
                known = len(self._head)
                head = self._head + data[at : at + _HEADER_MOST - known]
                frame = self._judge(head)
                if frame is None:
                    self._head = head
                    break
                admitted = frame if isinstance(frame, _Fault) else self._admit(frame, now)
                if isinstance(admitted, _Fault):
                    self._fail(admitted, events)
                    break
                self._head = b""
                at += admitted.size - known
                take = min(admitted.length, end - at)
                if take == admitted.length and admitted.opcode == _TEXT and admitted.final:
                    self._take_whole(head[: admitted.size], data[at : at + take], events)
                    at += take
                    continue
                piece = head[: admitted.size] + data[at : at + take]
                self._left = admitted.length - take
            at += take
            self._decode(piece, events)
        return events

    def receive_eof(self) -> list[WebSocketEvent]:
        """The peer has sent its last byte."""
        if self._state is State.CLOSED:
            return []
        self._finish(clean=False)
        self._sending = False
        self._pongs.clear()
        # RFC 6455 7.1.5
        return [Closed(ABNORMAL, "the connection ended without a close", False)]

    # -- outputs

    def to_send(self) -> list[bytes]:
        """What is due after an input: pongs, the answer to a Close, the Close that follows a fault."""
        chunks = self._due_pongs()
        if self._due is not None:
            chunks.append(self._encode(self._due))
            self._due = None
            self._sending = False
        return chunks

    def send_text(self, data: bytes) -> list[bytes]:
        """One text message in one frame. Nothing, once our Close has gone out (RFC 6455 5.5.1).

        Raises `LocalProtocolError` for bytes that are not UTF-8.
        """
        try:
            text = str(data, "utf-8")
        except UnicodeDecodeError:
            # RFC 6455 8.1: the peer would have to fail the connection.
            raise LocalProtocolError("a text message is UTF-8") from None
        return self._send(ws.TextMessage(data=text))

    def send_binary(self, data: bytes) -> list[bytes]:
        """One binary message in one frame, for outside test suites; else as `send_text`."""
        return self._send(ws.BytesMessage(data=data))

    def ping(self, payload: bytes = b"") -> list[bytes]:
        """A ping; its `Pong` has the same payload. Nothing, once our Close has gone out.

        Raises `LocalProtocolError` for more than 125 bytes.
        """
        if len(payload) > _CONTROL_MOST:
            raise LocalProtocolError(f"a ping carries at most {_CONTROL_MOST} bytes")
        return self._send(ws.Ping(payload=payload))

    def close(self, code: int = NORMAL, reason: str = "") -> list[bytes]:
        """Begin to close. `Closed` comes when the peer answers. Nothing, unless the state is OPEN.

        `reason` is cut to what fits. Raises `LocalProtocolError` for a code that must not be sent
        (RFC 6455 7.4).
        """
        if not (1000 <= code <= 1003 or 1007 <= code <= 1013 or 3000 <= code <= 4999):
            raise LocalProtocolError("not a code that a Close may carry")
        if self._state is not State.OPEN:
            return []
        self._state = State.CLOSING
        # Text that cannot be encoded (a lone surrogate) must not keep a connection open.
        reason = reason.encode("utf-8", "replace").decode("utf-8")
        self._due = ws.CloseConnection(code=code, reason=reason)
        return self.to_send()

    def _send(self, event: ws.Event) -> list[bytes]:
        if not self._sending:
            return []
        if not self._pongs:
            return [self._encode(event)]
        return [*self._due_pongs(), self._encode(event)]

    def _due_pongs(self) -> list[bytes]:
        chunks = [self._encode(ws.Pong(payload=payload)) for payload in self._pongs]
        self._pongs.clear()
        return chunks

    def _encode(self, event: ws.Event) -> bytes:
        frame = self._out.send(event)
        return _mask(frame, self._entropy.bytes(4)) if self._client else frame

    # -- reading

    def _judge(self, head: bytes) -> _Frame | _Fault | None:
        """RFC 6455 5.2, as far as the bytes of `head` tell; None: not all of the header is here.

        What is refused here in wsproto's place is refused at an earlier byte, never differently.
        """
        first = head[0]
        opcode = first & 0x0F
        fault = self._judge_first(first, opcode)
        if fault is not None or len(head) < 2:
            return fault
        length = head[1] & 0x7F
        # RFC 6455 5.1: a client masks each frame, a server none.
        masked = head[1] >= 0x80
        if masked is self._client:
            return _Fault(PROTOCOL_ERROR, "a masked frame" if masked else "a frame without a mask")
        if opcode >= _CLOSE and length > _CONTROL_MOST:
            # RFC 6455 5.5
            return _Fault(PROTOCOL_ERROR, f"a control frame of more than {_CONTROL_MOST} bytes")
        size = 2
        if length >= 126:
            size = 4 if length == 126 else 10
            if len(head) < size:
                return None
            least = 126 if length == 126 else 0x10000
            length = int.from_bytes(head[2:size], "big")
            if length < least or length >= 1 << 63:
                # RFC 6455 5.2: the fewest bytes that hold it, and the top bit is zero.
                return _Fault(PROTOCOL_ERROR, "a length that is not in its shortest form")
        before = self._declared if opcode == _CONTINUATION else 0
        if opcode < _CLOSE and before + length > self._max_message:
            # RFC 6455 10.4. Told by the declared length: nothing of it is waited for.
            return _Fault(TOO_BIG, f"a message of more than {self._max_message} bytes")
        if masked:
            size += 4
        return _Frame(size, opcode, first >= 0x80, length) if len(head) >= size else None

    def _judge_first(self, first: int, opcode: int) -> _Fault | None:
        if first & 0x70:
            # RFC 6455 5.2: no extension was negotiated that gives them a meaning.
            return _Fault(PROTOCOL_ERROR, "a reserved bit is set")
        if opcode >= _CLOSE:
            if opcode > _PONG:
                return _Fault(PROTOCOL_ERROR, "an opcode that is reserved")
            # RFC 6455 5.5
            return None if first >= 0x80 else _Fault(PROTOCOL_ERROR, "a control frame in fragments")
        if opcode > _BINARY:
            return _Fault(PROTOCOL_ERROR, "an opcode that is reserved")
        if (opcode == _CONTINUATION) is not self._unfinished:
            # RFC 6455 5.4: the fragments of one message are not interleaved with another's.
            return _Fault(
                PROTOCOL_ERROR,
                "a message within a message" if self._unfinished else "a continuation of nothing",
            )
        if opcode == _BINARY and not self._binary:
            return _Fault(UNSUPPORTED, "a binary message")
        if opcode == _CONTINUATION and self._fragments >= self._max_fragments:
            return _Fault(POLICY, f"a message of more than {self._max_fragments} fragments")
        return None

    def _admit(self, frame: _Frame, now: float) -> _Frame | _Fault:
        """A frame begins: count it."""
        if frame.opcode < _CLOSE:
            if frame.opcode != _CONTINUATION:
                self._declared = 0
                self._fragments = 0
            self._declared += frame.length
            self._fragments += 1
            self._unfinished = not frame.final
        elif frame.opcode != _CLOSE:
            self._credit += max(0.0, now - self._credited) * self._rate
            self._credit = min(self._credit, float(self._rate))
            self._credited = now
            if self._credit < 1.0:
                return _Fault(POLICY, f"more than {self._rate} control frames in a second")
            self._credit -= 1.0
        return frame

    def _take_whole(self, head: bytes, payload: bytes, events: list[WebSocketEvent]) -> None:
        """A message in one frame that is all here, as nearly all are: past wsproto, which stands between two
        frames before and after. A fuzz target holds this against it."""
        if not self._client:
            payload = _cover(payload, head[-4:])
        try:
            str(payload, "utf-8")
        except UnicodeDecodeError:
            self._fail(_Fault(BAD_TEXT, _REFUSED[BAD_TEXT]), events)
        else:
            events.append(Text(payload))

    def _decode(self, piece: bytes, events: list[WebSocketEvent]) -> None:
        """Let wsproto read a piece of one frame: take off the mask, check UTF-8 and the Close payload."""
        self._in.receive_data(piece)
        for event in self._in.events():
            kind = type(event)
            if isinstance(event, (ws.TextMessage, ws.BytesMessage)):
                # What was text is UTF-8 again: memory is counted in bytes, not in Python's characters.
                data = event.data.encode() if isinstance(event, ws.TextMessage) else bytes(event.data)
                if self._message or not event.message_finished:
                    self._message += data
                if event.message_finished:
                    data = bytes(self._message) if self._message else data
                    self._message.clear()
                    events.append(Text(data) if kind is ws.TextMessage else Binary(data))
            elif isinstance(event, ws.Ping):
                self._answer_ping(bytes(event.payload))
            elif isinstance(event, ws.Pong):
                events.append(Pong(bytes(event.payload)))
            else:
                assert isinstance(event, ws.CloseConnection), "wsproto knows no other event after a handshake"
                self._on_close(event, events)
                return

    def _answer_ping(self, payload: bytes) -> None:
        if self._state is not State.OPEN:
            # RFC 6455 1.4: nothing follows our Close.
            return
        if len(self._pongs) >= self._rate:
            # RFC 6455 5.5.3 permits to answer the newest only. What one second's budget lets pass is answered
            # one by one, so that this happens to those alone who do not drain us.
            self._pongs[-1] = payload
        else:
            self._pongs.append(payload)

    def _on_close(self, event: ws.CloseConnection, events: list[WebSocketEvent]) -> None:
        """The peer's Close, or wsproto's verdict: it reports both in the same way, but its state tells."""
        code = int(event.code)
        if self._in.state is not ConnectionState.REMOTE_CLOSING:
            self._fail(_Fault(code, _REFUSED.get(code, _REFUSED[PROTOCOL_ERROR])), events)
            return
        if self._state is State.OPEN:
            # RFC 6455 5.5.1: one Close in answer, typically with the same code. Given none, none is given.
            self._due = ws.CloseConnection(code=CloseReason.NO_STATUS_RCVD if code == NO_STATUS else code)
        self._finish(clean=True)
        events.append(Closed(code, event.reason or "", True))

    def _fail(self, fault: _Fault, events: list[WebSocketEvent]) -> None:
        """RFC 6455 7.1.7: say why, unless Close was sent before, and read nothing more."""
        if self._state is State.OPEN:
            self._due = ws.CloseConnection(code=fault.code, reason=fault.reason)
        self._finish(clean=False)
        events.append(Closed(fault.code, fault.reason, False))

    def _finish(self, *, clean: bool) -> None:
        self._state = State.CLOSED
        self._clean = clean
        self._message = bytearray()
        self._head = b""


def _cover(payload: bytes, key: bytes) -> bytes:
    """RFC 6455 5.3: put a mask on or take it off. As one number, which CPython does in a few passes in C."""
    count = len(payload)
    pattern = int.from_bytes((key * (count // 4 + 1))[:count], "little")
    return (int.from_bytes(payload, "little") ^ pattern).to_bytes(count, "little")


def _mask(frame: bytes, key: bytes) -> bytes:
    """An unmasked frame with `key` put into its header and over its payload."""
    size = {126: 4, 127: 10}.get(frame[1], 2)
    head = frame[:1] + bytes((frame[1] | 0x80,)) + frame[2:size]
    return b"".join((head, key, _cover(frame[size:], key)))
