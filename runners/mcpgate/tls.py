"""TLS for outgoing connections, as a state machine between ciphertext and plaintext.

Owns: the trust settings (system or own CA, names verified, TLS 1.2 at least) and the handshake's state.
Must never: touch a socket in the state machine, or offer a way to skip verification.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import ssl
from collections import deque

from mcpgate.fd import Chunk, Chunks, SocketStream
from mcpgate_proto.effects import TlsFacts, TlsOptions

__all__ = ["TlsClient", "TlsStream", "tls_reason"]

# Plaintext sealed at a time: what is sealed but unsent is the only part that backpressure cannot see.
SEAL_BYTES = 64 * 1024


@functools.lru_cache(maxsize=16)
def _context(ca_file: str | None) -> ssl.SSLContext:
    """Loading the system's CA bundle takes tens of milliseconds, so contexts are kept."""
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def tls_reason(error: ssl.SSLError) -> str:
    """Why TLS failed, in words an operator can act on."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message or 'verification failed'}"
    reason = (error.reason or type(error).__name__).replace("_", " ").lower()
    return f"TLS failed: {reason}"


class TlsClient:
    """Feed ciphertext, take plaintext, and the other way round. Does no I/O."""

    def __init__(self, options: TlsOptions) -> None:
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        context = _context(options.ca_file)
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=options.server_name)
        self.established = False
        self.ended = False

    def handshake(self) -> bool:
        """Go on with the handshake; true once it is done. Raises `ssl.SSLError`."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self.established = True
        return True

    def feed(self, ciphertext: bytes) -> None:
        if ciphertext:
            self._in.write(ciphertext)
        else:
            self._in.write_eof()

    def read(self) -> bytes | None:
        """All plaintext that is there: `None` if none yet, `b""` after the peer's proper end."""
        parts: list[bytes] = []
        while True:
            try:
                part = self._tls.read(SEAL_BYTES)
            except ssl.SSLWantReadError:
                return b"".join(parts) or None
            except ssl.SSLZeroReturnError:
                part = b""
            if not part:
                self.ended = True
                return b"".join(parts)
            parts.append(part)

    def seal(self, plaintext: Chunk) -> None:
        self._tls.write(plaintext)

    def seal_end(self) -> None:
        """Say that no more will be sent. The peer's own end is not waited for."""
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()

    def ciphertext(self) -> bytes:
        return self._out.read()

    def facts(self) -> TlsFacts:
        cipher = self._tls.cipher()
        return TlsFacts(version=self._tls.version() or "", cipher=cipher[0] if cipher else "")


class TlsStream:
    """A `Stream` that speaks TLS over a socket. `write` counts plaintext whose ciphertext has gone out."""

    def __init__(self, below: SocketStream, options: TlsOptions) -> None:
        self.below = below
        self.pollable = True
        self.read_fd = self.write_fd = below.read_fd
        self.tls = TlsClient(options)
        self._sealed: Chunks = deque()
        self._sealed_plain = 0
        self.ended = False

    @property
    def pending(self) -> bool:
        return bool(self._sealed)

    def handshake(self) -> bool:
        """One step of the handshake after the socket became readable, or to begin. Raises `OSError`."""
        if data := self.below.read():
            self.tls.feed(data)
        elif data is not None:
            raise ConnectionResetError(errno.ECONNRESET, "closed during the handshake")
        try:
            return self.tls.handshake()
        finally:
            # Also after a failure: the alert tells the peer why.
            self._send()

    def read(self) -> bytes | None:
        data = self.below.read()
        if data is not None:
            # An end of the socket without an end in TLS is an `ssl.SSLEOFError`: it may be a truncation.
            self.tls.feed(data)
        plain = self.tls.read()
        self.ended = self.tls.ended
        # Reading may have produced something to send (a key update).
        self._send()
        return plain

    def _send(self) -> bool:
        """Send what is sealed; true when all of it is out."""
        if data := self.tls.ciphertext():
            self._sealed.append(data)
        if self._sealed:
            self.below.write(self._sealed)
        return not self._sealed

    def write(self, chunks: Chunks) -> int:
        total = 0
        while self._send():
            total += self._sealed_plain
            self._sealed_plain = 0
            if not chunks:
                break
            chunk = chunks.popleft()
            if len(chunk) > SEAL_BYTES:
                view = memoryview(chunk)
                chunks.appendleft(view[SEAL_BYTES:])
                chunk = view[:SEAL_BYTES]
            self.tls.seal(chunk)
            self._sealed_plain = len(chunk)
        return total

    def shutdown_write(self) -> None:
        self.tls.seal_end()
        self._send()

    def close(self, *, drop: bool = False) -> None:
        if not drop and self.read_fd >= 0:
            self.tls.seal_end()
            with contextlib.suppress(OSError):
                self._send()
        self.read_fd = self.write_fd = -1
        self.below.close(drop=drop)
