"""The strict grammar of HTTP/1.1 that stands in front of h11, for both roles.

Owns: how a message head, a chunked body and the fields that frame a message may look (RFC 9112, with the
refusals of threats.md 3), and `Headers`, the read access to fields. What passes here is given to h11,
which stays the authority. Must never: accept what RFC 9112 forbids, keep more than one head of the
permitted size, scan a byte twice, or raise for a peer's bytes: faults are returned.

Every check is bound to the byte that decides it, so that a fault is the same however the input was cut.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TypeAlias

import msgspec

from mcpgate_proto.limits import Limits

__all__ = [
    "REQUEST_FIELD",
    "RESPONSE_FIELD",
    "ChunkScanner",
    "Fault",
    "Head",
    "HeadReader",
    "Headers",
    "framing",
]

# RFC 9110 5.6.2. Without the underscore in requests: `Content_Length` becomes `Content-Length` behind
# some gateways (threats.md 3).
_TOKEN_NO_UNDERSCORE = rb"[-!#$%&'*+.^`|~0-9A-Za-z]++"
_TOKEN = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]++"
# A tab is whitespace around a value, not part of one; obs-text is refused from clients.
REQUEST_FIELD = re.compile(b"(%s):[ \t]*+([ -~]*+)[ \t]*+\r\n" % _TOKEN_NO_UNDERSCORE)
# Servers do send tabs and Latin-1 in values (RFC 9110 5.5); controls are refused from them too.
RESPONSE_FIELD = re.compile(b"(%s):[ \t]*+([\t -~\x80-\xff]*+)\r\n" % _TOKEN)

_BLOCKS = {
    REQUEST_FIELD: re.compile(b"(?:%s)*+\r\n" % REQUEST_FIELD.pattern),
    RESPONSE_FIELD: re.compile(b"(?:%s)*+\r\n" % RESPONSE_FIELD.pattern),
}
_FIRST_BYTE = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]")

# RFC 9112 7.1. h11 reads up to 20 digits; 16 already hold every size that a machine can.
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*+;[\t -~]*+)?\r\n")
_LENGTH = re.compile(rb"[0-9]{1,20}")

# What the start line may hold besides its target: a method, two spaces, a version.
START_LINE_SLACK = 64
FIELD_FAULT = 400


class Fault(msgspec.Struct, frozen=True, gc=False):
    """A breach of the grammar or of a limit: the status that a server answers, and our words for it."""

    status: int
    reason: str


Pairs: TypeAlias = list[tuple[bytes, bytes]]


class Headers:
    """Header or response fields: names without regard to case, values without the whitespace around (C9).

    Iterating gives (name in lower case, value) in the order of arrival.
    """

    __slots__ = ("_fields",)

    def __init__(self, fields: tuple[tuple[str, str], ...] = ()) -> None:
        """`fields` are (name in lower case, value without outer whitespace)."""
        self._fields = fields

    @classmethod
    def of(cls, pairs: Pairs) -> Headers:
        """From the matches of a field pattern."""
        return cls(
            tuple([(name.lower().decode(), value.strip(b" \t").decode("latin-1")) for name, value in pairs])
        )

    def get(self, name: str) -> str | None:
        """The value, or None. A field given more than once is joined by ", " (RFC 9110 5.3).

        So whoever expects one value sees a list, and fails, where another parser would pick one of two.
        """
        name = name.lower()
        values = [value for key, value in self._fields if key == name]
        return None if not values else values[0] if len(values) == 1 else ", ".join(values)

    def get_all(self, name: str) -> list[str]:
        """Every value given under this name, in order."""
        name = name.lower()
        return [value for key, value in self._fields if key == name]

    def tokens(self, name: str) -> list[str]:
        """The members of a comma-separated list, in lower case, empty ones dropped (RFC 9110 5.6.1)."""
        value = self.get(name)
        if value is None:
            return []
        return [part for part in [part.strip(" \t").lower() for part in value.split(",")] if part]

    @property
    def media_type(self) -> str:
        """The `Content-Type` in lower case, without its parameters; empty where there is none."""
        return (self.get("content-type") or "").partition(";")[0].strip().lower()

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and any(key == name.lower() for key, _ in self._fields)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self._fields == other._fields

    def __hash__(self) -> int:
        return hash(self._fields)

    def __repr__(self) -> str:
        return f"Headers({self._fields!r})"


class Head(msgspec.Struct, frozen=True):
    """A complete head: its wire bytes with the empty line, its start line without CRLF, its fields."""

    wire: bytes
    start: bytes
    fields: Pairs


class HeadReader:
    """Collects one message head and checks its lines as they end.

    `field` is the pattern of the role; `check_start` judges the start line (without CRLF) as soon as it
    has ended. One reader serves one head: `reset` makes it ready for the next.
    """

    __slots__ = (
        "_block",
        "_buffer",
        "_cap",
        "_check_start",
        "_field",
        "_limits",
        "_line",
        "_longest",
        "_pairs",
        "_start",
        "rest",
    )

    def __init__(
        self, limits: Limits, field: re.Pattern[bytes], check_start: Callable[[bytes], Fault | None]
    ) -> None:
        self._limits = limits
        self._check_start = check_start
        self._cap = limits.head_bytes
        self._longest = limits.target_bytes + START_LINE_SLACK
        self._field = field
        self._block = _BLOCKS[field]
        self._buffer = bytearray()
        self.reset()

    def reset(self) -> None:
        self._buffer.clear()
        self._line = 0
        self._start: bytes | None = None
        self._pairs: Pairs = []
        self.rest = b""

    @property
    def started(self) -> bool:
        """Whether any byte of this head has arrived."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> Head | Fault | None:
        """Take bytes; None means that the head goes on. After a head, `rest` is what follows it."""
        if not self._buffer:
            head = self._at_once(data)
            if head is not None:
                return head
        seen = len(self._buffer)
        self._buffer += data
        if _FIRST_BYTE.match(self._buffer) is None and self._buffer:
            return Fault(400, "not an HTTP message")
        return self._walk(seen)

    def _at_once(self, data: bytes) -> Head | Fault | None:
        """The usual case: the whole head in one piece and nothing wrong with its fields."""
        end = data.find(b"\r\n\r\n") + 4
        if end < 4 or end > self._cap:
            return None
        begin = data.find(b"\n") + 1
        if begin > self._longest or data[begin - 2 : begin - 1] != b"\r" or not _FIRST_BYTE.match(data):
            return None
        block = self._block.match(data, begin)
        if block is None or block.end() != end:
            return None
        pairs: Pairs = self._field.findall(data, begin, end)
        if len(pairs) > self._limits.head_fields:
            return None
        start = data[: begin - 2]
        fault = self._check_start(start)
        if fault is not None:
            return fault
        self.rest = data[end:]
        return Head(data[:end], start, pairs)

    def _walk(self, seen: int) -> Head | Fault | None:
        buffer = self._buffer
        while (at := buffer.find(b"\n", seen)) >= 0:
            seen = at + 1
            line = bytes(buffer[self._line : seen])
            self._line = seen
            fault = self._take(line, seen)
            if fault is not None:
                return fault
            if line == b"\r\n":
                self.rest = bytes(buffer[seen:])
                return Head(bytes(buffer[:seen]), self._start or b"", self._pairs)
        return self._oversize(len(buffer))

    def _oversize(self, size: int) -> Fault | None:
        """Whether a head of this size so far, or a start line that ends here, is too long."""
        if self._start is None and size > self._longest and self._longest <= self._cap:
            return Fault(414, "the start line is too long")
        return Fault(431, f"the head is larger than {self._cap} bytes") if size > self._cap else None

    def _take(self, line: bytes, end: int) -> Fault | None:
        fault = self._oversize(end)
        if fault is not None:
            return fault
        if line[-2:] != b"\r\n":
            return Fault(FIELD_FAULT, "a line of the head ends without CR")
        if self._start is None:
            self._start = line[:-2]
            return self._check_start(self._start)
        if line == b"\r\n":
            return None
        match = self._field.fullmatch(line)
        if match is None:
            return Fault(FIELD_FAULT, field_fault(line))
        self._pairs.append((match[1], match[2]))
        if len(self._pairs) > self._limits.head_fields:
            return Fault(431, f"the head has more than {self._limits.head_fields} fields")
        return None


def field_fault(line: bytes) -> str:
    """What is wrong with a field line, in words that hold nothing of it."""
    if line[:1] in (b" ", b"\t"):
        return "a folded header line"
    name, colon, _ = line.partition(b":")
    if not colon:
        return "a header line without a colon"
    if re.fullmatch(_TOKEN, name) is None:
        return "a header name that is not a token"
    return "a header name with an underscore" if b"_" in name else "a header value with control characters"


class Framing(msgspec.Struct, frozen=True, gc=False):
    """How a body is delimited: `length` bytes, or chunks, or neither."""

    length: int | None
    chunked: bool


def framing(pairs: Pairs, http11: bool) -> Framing | Fault:
    """The framing fields of a message (RFC 9112 6); what two parsers could read differently is refused."""
    lengths: list[bytes] = []
    codings: list[bytes] = []
    for name, value in pairs:
        size = len(name)
        if size == 14 and name.lower() == b"content-length":
            lengths.append(value.strip(b" \t"))
        elif size == 17 and name.lower() == b"transfer-encoding":
            codings.append(value.strip(b" \t"))
    if codings:
        if lengths:
            # RFC 9112 6.1: a sign of request smuggling.
            return Fault(400, "both Content-Length and Transfer-Encoding")
        if not http11:
            return Fault(400, "Transfer-Encoding in HTTP/1.0")
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            return Fault(501, "a transfer coding other than chunked")
        return Framing(None, True)
    if not lengths:
        return Framing(None, False)
    if len(lengths) > 1 or _LENGTH.fullmatch(lengths[0]) is None:
        return Fault(400, "not one valid Content-Length")
    return Framing(int(lengths[0]), False)


class ChunkScanner:
    """Walks the framing of a chunked body (RFC 9112 7.1) ahead of h11, without keeping its data.

    It knows the end of the body, so that h11 is never given a byte of the next message; it refuses sizes
    beyond `max_bytes` before they are waited for, endless chunk extensions, and more than
    `limits.body_chunks` chunks (unless `endless`, for event streams, where `max_bytes` bounds each chunk).
    """

    __slots__ = (
        "_chunks",
        "_endless",
        "_fields",
        "_limits",
        "_line",
        "_max",
        "_need",
        "_state",
        "_total",
        "_trailer",
        "fault",
    )

    # What comes next: a chunk's size line, its data, the CRLF after it, a trailer line; or all is read.
    _SIZE, _DATA, _CRLF, _TRAILER, _DONE = range(5)

    def __init__(self, limits: Limits, max_bytes: int, *, endless: bool = False) -> None:
        self._limits = limits
        self._max = max_bytes
        self._endless = endless
        self._state = self._SIZE
        self._line = bytearray()
        self._need = 0
        self._total = 0
        self._chunks = 0
        self._fields = 0
        self._trailer = 0
        # What is wrong with the first byte that `feed` did not accept.
        self.fault: Fault | None = None

    @property
    def done(self) -> bool:
        """Whether the whole body, trailers included, has been read."""
        return self._state == self._DONE

    def feed(self, data: bytes) -> int:
        """How many bytes of `data` belong to this body and are in order; afterwards look at `fault`."""
        at = 0
        size = len(data)
        while at < size and self._state != self._DONE:
            if self._state == self._DATA:
                step = min(self._need, size - at)
                self._need -= step
                at += step
                if not self._need:
                    self._state = self._CRLF
                continue
            end = data.find(b"\n", at) + 1
            self._line += data[at : end or size]
            self.fault = self._check_line(bool(end))
            if self.fault is not None:
                return at
            at = end or size
        return at

    def _check_line(self, ended: bool) -> Fault | None:
        if self._state == self._CRLF:
            return self._crlf()
        return self._size_line(ended) if self._state == self._SIZE else self._trailer_line(ended)

    def _crlf(self) -> Fault | None:
        # CVE-2025-43859: the two bytes after a chunk are a CRLF, not just any two.
        if not b"\r\n".startswith(self._line[:2]) or len(self._line) > 2:
            return Fault(400, "a chunk that does not end where its size says")
        if len(self._line) == 2:
            self._line.clear()
            self._state = self._SIZE
        return None

    def _size_line(self, ended: bool) -> Fault | None:
        if len(self._line) > self._limits.chunk_header_bytes:
            return Fault(400, "a chunk header that is too long")
        if not ended:
            return None
        match = _CHUNK_LINE.fullmatch(bytes(self._line))
        if match is None:
            return Fault(400, "a chunk header that is not valid")
        need = int(match[1], 16)
        self._line.clear()
        if not need:
            self._state = self._TRAILER
            return None
        self._chunks += 1
        self._total = need if self._endless else self._total + need
        if self._total > self._max:
            return Fault(413, f"the body is larger than {self._max} bytes")
        if self._chunks > self._limits.body_chunks and not self._endless:
            return Fault(413, f"the body has more than {self._limits.body_chunks} chunks")
        self._need = need
        self._state = self._DATA
        return None

    def _trailer_line(self, ended: bool) -> Fault | None:
        """Trailers are checked like a head and then ignored: nothing may be decided on them."""
        if self._trailer + len(self._line) > self._limits.head_bytes:
            return Fault(431, "the trailers are too long")
        if not ended:
            return None
        line = bytes(self._line)
        self._line.clear()
        self._trailer += len(line)
        if line == b"\r\n":
            self._state = self._DONE
            return None
        self._fields += 1
        if self._fields > self._limits.head_fields:
            return Fault(431, "the trailers have too many fields")
        return None if REQUEST_FIELD.fullmatch(line) else Fault(400, "a trailer that is not valid")
