"""The opening handshake of WebSocket (RFC 6455 4), both roles.

Owns: the server's verdict on a `RequestHead` that asks for WebSocket, the client's request, and its reading
of the answer. Must never: decide who may come in (Host, Origin and credentials are checked before, and a
101 ends all checking), agree to an extension, or raise for a peer's header values.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from typing import TypeAlias

import h11
import msgspec

from mcpgate_proto.entropy import Entropy
from mcpgate_proto.errors import LocalProtocolError
from mcpgate_proto.limits import Limits
from mcpgate_proto.wire.http1_client import INTERIM_MOST, Failed, ResponseHead
from mcpgate_proto.wire.http1_grammar import RESPONSE_FIELD, Fault, Headers, HeadReader
from mcpgate_proto.wire.http1_server import RequestHead

__all__ = [
    "SUBPROTOCOL",
    "Accept",
    "Refusal",
    "UpgradeReader",
    "UpgradeVerdict",
    "check_response",
    "check_upgrade",
    "upgrade_request",
]

# B14: our binding of MCP to WebSocket.
SUBPROTOCOL = "mcp"
# RFC 6455 1.3
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# The canonical base64 of exactly 16 bytes (RFC 6455 4.2.1 item 5): the last digit has four bits to spare.
_KEY = re.compile(r"[A-Za-z0-9+/]{21}[AQgw]==")
# RFC 9110 5.6.2
_TOKEN = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]++")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [\t -~\x80-\xff]*)?")
# One value of the handshake. A token that rides in a subprotocol (threats.md 4, auth) may be a long one.
VALUE_CHARS = 4096
# RFC 9110 5.6.1 lets a list have empty members; nobody offers more protocols than this.
PROTOCOLS_MOST = 32
_RESERVED = frozenset({"host", "upgrade", "connection", "content-length", "transfer-encoding"})


class Accept(msgspec.Struct, frozen=True, gc=False):
    """Write `response` and go on with a `WebSocketCodec`. `subprotocol` is `mcp`, or None if not offered."""

    response: bytes
    subprotocol: str | None


class Refusal(msgspec.Struct, frozen=True):
    """Answer with `status` and `headers`. `reason` is our own text."""

    status: int
    headers: list[tuple[str, str]]
    reason: str


UpgradeVerdict: TypeAlias = Accept | Refusal


# -- the server's side


def check_upgrade(head: RequestHead) -> UpgradeVerdict:
    """RFC 6455 4.2.1, for a request that has passed all other checks.

    Clients that offer other subprotocols only, or none, are accepted without one.
    """
    headers = head.headers
    if head.method != "GET":
        return Refusal(405, [("Allow", "GET")], "WebSocket begins with a GET")
    if head.version != "1.1" or head.has_body:
        return _bad("WebSocket begins with an HTTP/1.1 request without a body")
    if "host" not in headers:
        return _bad("no Host")
    if "websocket" not in headers.tokens("upgrade") or "upgrade" not in headers.tokens("connection"):
        return _bad("not a request to upgrade to WebSocket")
    for name, value in headers:
        if name.startswith("sec-websocket-") and not _fits(value):
            return _bad("a WebSocket header that is not plain ASCII, or too long")
    versions = headers.get_all("sec-websocket-version")
    if len(versions) > 1:
        # RFC 6455 11.3.5
        return _bad("more than one Sec-WebSocket-Version")
    if versions != ["13"]:
        # RFC 6455 4.2.2 item 4, 4.4; RFC 9110 15.5.22
        headers_426 = [("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
        return Refusal(426, headers_426, "a WebSocket version other than 13")
    keys = headers.get_all("sec-websocket-key")
    if len(keys) != 1 or _KEY.fullmatch(keys[0]) is None:
        return _bad("no valid Sec-WebSocket-Key")
    offered = _protocols(headers.get("sec-websocket-protocol"))
    if offered is None:
        return _bad("no valid Sec-WebSocket-Protocol")
    chosen = SUBPROTOCOL if SUBPROTOCOL in offered else None
    return Accept(_switching(keys[0], chosen), chosen)


def _bad(reason: str) -> Refusal:
    return Refusal(400, [], reason)


def _fits(value: str) -> bool:
    return len(value) <= VALUE_CHARS and value.isascii() and value.isprintable()


def _protocols(value: str | None) -> list[str] | None:
    """The subprotocols of a list, case kept; None unless they are distinct tokens (RFC 6455 4.1 item 10)."""
    if value is None:
        return []
    parts = value.split(",") if len(value) <= VALUE_CHARS else []
    names = [part for part in [part.strip(" \t") for part in parts] if part]
    if not 0 < len(names) <= PROTOCOLS_MOST or len(set(names)) < len(names):
        return None
    return names if all(_TOKEN.fullmatch(name) for name in names) else None


def _switching(key: str, subprotocol: str | None) -> bytes:
    """RFC 6455 4.2.2 item 5. No Sec-WebSocket-Extensions: none is ever agreed to."""
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {_accept_for(key)}",
    ]
    if subprotocol is not None:
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def _accept_for(key: str) -> str:
    """RFC 6455 4.2.2 item 5.4. SHA-1 shows that the peer has read the key, it protects nothing."""
    digest = hashlib.sha1(key.encode("ascii") + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode("ascii")


# -- the client's side


def upgrade_request(
    target: str, host: str, entropy: Entropy, extra_headers: Sequence[tuple[str, str]] = ()
) -> tuple[bytes, str]:
    """The bytes of the opening request (RFC 6455 4.1), and its key for `check_response`.

    Raises `LocalProtocolError` for what HTTP cannot carry and for extra headers that the handshake sets.
    """
    for name, _ in extra_headers:
        if name.lower() in _RESERVED or name.lower().startswith("sec-websocket-"):
            raise LocalProtocolError("the headers of the handshake are set by the codec")
    key = base64.b64encode(entropy.bytes(16)).decode("ascii")
    fields = [
        ("Host", host),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", key),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Protocol", SUBPROTOCOL),
        *extra_headers,
    ]
    try:
        request = h11.Request(
            method=b"GET",
            target=target.encode("ascii"),
            headers=[(name.encode("ascii"), value.encode("ascii")) for name, value in fields],
        )
    except (UnicodeEncodeError, h11.LocalProtocolError):
        raise LocalProtocolError("a handshake that HTTP cannot carry") from None
    return h11.Connection(h11.CLIENT).send(request) or b"", key


def check_response(head: ResponseHead, key: str) -> str | None:
    """What is wrong with the answer to `upgrade_request` (RFC 6455 4.1, the last list), or None."""
    headers = head.headers
    if head.status != 101:
        return f"the server answered {head.status} where 101 would be WebSocket"
    if "transfer-encoding" in headers or headers.get("content-length") not in (None, "0"):
        # RFC 9110 8.6, RFC 9112 6.1: what would be body, what frames?
        return "a 101 response with a body"
    if headers.tokens("upgrade") != ["websocket"] or "upgrade" not in headers.tokens("connection"):
        return "the server upgrades to something else"
    if headers.get("sec-websocket-accept") != _accept_for(key):
        return "not the answer to this handshake"
    if headers.tokens("sec-websocket-extensions"):
        return "an extension that was not asked for"
    if headers.get("sec-websocket-protocol") not in (None, SUBPROTOCOL):
        return "a subprotocol that was not asked for"
    return None


class UpgradeReader:
    """Reads the answer to `upgrade_request`: interim responses are passed over, a head ends it.

    A 101 is followed by frames: `rest` is what has arrived of them. With any other status the connection
    serves for nothing more.
    """

    __slots__ = ("_interim", "_over", "_reader", "rest")

    def __init__(self, limits: Limits) -> None:
        self._reader = HeadReader(limits, RESPONSE_FIELD, _check_start)
        self._interim = 0
        self._over = False
        self.rest = b""

    def receive(self, data: bytes) -> ResponseHead | Failed | None:
        """Bytes have arrived. None: the head goes on, or it was handed out before."""
        while data and not self._over:
            head = self._reader.feed(data)
            if head is None:
                return None
            if isinstance(head, Fault):
                return self._fail(head.reason)
            data = self._reader.rest
            self._reader.reset()
            match = _STATUS_LINE.fullmatch(head.start)
            assert match is not None, "_check_start has matched it"
            status = int(match[2])
            if status >= 200 or status == 101:
                if status == 101 and match[1] == b"0":
                    return self._fail("an upgrade of HTTP/1.0")
                self._over = True
                self.rest = data
                return ResponseHead(status, Headers.of(head.fields))
            self._interim += 1
            if self._interim > INTERIM_MOST:
                return self._fail("too many interim responses")
        return None

    def receive_eof(self) -> Failed | None:
        """The server has sent its last byte."""
        return None if self._over else self._fail("the connection ended before the response did")

    def _fail(self, reason: str) -> Failed:
        self._over = True
        self._reader.reset()
        return Failed(reason)


def _check_start(line: bytes) -> Fault | None:
    """RFC 9112 4. The status of the fault means nothing on this side."""
    return None if _STATUS_LINE.fullmatch(line) else Fault(502, "a status line that is not valid")
