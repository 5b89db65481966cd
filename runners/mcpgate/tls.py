"""TLS, as a state machine between ciphertext and plaintext: the client's side and the server's.

Owns: the trust settings (system or own CA, names verified, TLS 1.2 at least), a listener's certificate and
its renewal, and the handshake's state.
Must never: touch a socket in the state machine, or offer a way to skip verification.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from mcpgate.fd import Chunk, Chunks, SocketStream, Unusable, reason_of
from mcpgate_proto.effects import Record, ServerTls, TlsFacts, TlsOptions

__all__ = ["ServerContext", "TlsSession", "TlsStream", "client_session", "server_context", "tls_reason"]

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


def server_context(options: ServerTls) -> ssl.SSLContext:
    """What a listener speaks. Raises `Unusable`, which names the file that cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    for file in _files(options):
        try:
            with open(file, "rb"):
                pass
        except OSError as error:
            raise Unusable(f"cannot read {file}: {reason_of(error)}") from None
    try:
        # An encrypted key would make OpenSSL ask on the terminal; it gets an empty answer instead.
        context.load_cert_chain(options.cert_file, options.key_file, password="")
    except ssl.SSLError as error:
        reason = error.reason.replace("_", " ").lower() if error.reason else "not PEM"
        raise Unusable(f"cannot use {options.cert_file} with {options.key_file}: {reason}") from None
    if options.client_ca_file is not None:
        try:
            context.load_verify_locations(options.client_ca_file)
        except ssl.SSLError:
            raise Unusable(f"cannot use {options.client_ca_file}: no certificates in PEM") from None
        context.verify_mode = ssl.CERT_REQUIRED if options.require_client else ssl.CERT_OPTIONAL
    elif options.require_client:
        raise Unusable("client certificates are required, but no client CA is named")
    return context


def _files(options: ServerTls) -> list[str]:
    return list(filter(None, (options.cert_file, options.key_file, options.client_ca_file)))


class ServerContext:
    """A listener's context, made anew when its files change; connections that are up keep the old one."""

    # Renewals are looked for at most this often: a flood of clients must not become a flood of stat calls.
    LOOK_EVERY_S = 1.0

    def __init__(self, options: ServerTls, sink: Callable[[Record], None]) -> None:
        self._options = options
        self._sink = sink
        self._seen = self._signature()
        self._looked_at = time.monotonic()
        self._context = server_context(options)

    def _signature(self) -> list[Any]:
        found: list[Any] = []
        for file in _files(self._options):
            try:
                stat = os.stat(file)
                found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino, stat.st_dev))
            except OSError:
                found.append(None)
        return found

    def session(self) -> TlsSession:
        """The server's side of one new connection, with the certificate as it is now."""
        if time.monotonic() - self._looked_at >= self.LOOK_EVERY_S:
            self._look()
        return TlsSession(self._context, server=True)

    def _look(self) -> None:
        self._looked_at = time.monotonic()
        signature = self._signature()
        if signature == self._seen:
            return
        self._seen = signature
        try:
            self._context = server_context(self._options)
        except Unusable as error:
            # Half of a renewal, perhaps: the other file's change is looked at again.
            self._sink(Record("error", "certificate_not_reloaded", (("reason", str(error)),)))
        else:
            self._sink(Record("notice", "certificate_reloaded", (("file", self._options.cert_file),)))


def client_session(options: TlsOptions) -> TlsSession:
    """The client's side of one connection. Raises `OSError` or `ValueError` for unusable options."""
    return TlsSession(_context(options.ca_file), server_name=options.server_name)


class TlsSession:
    """Feed ciphertext, take plaintext, and the other way round. Does no I/O."""

    def __init__(
        self, context: ssl.SSLContext, *, server: bool = False, server_name: str | None = None
    ) -> None:
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=server, server_hostname=server_name)
        self.established = False
        self.ended = False

    @property
    def buffered(self) -> bool:
        """There may be plaintext that has not been read."""
        return bool(self._in.pending or self._tls.pending())

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
        certificate = self._tls.getpeercert() or {}
        return TlsFacts(
            version=self._tls.version() or "",
            cipher=cipher[0] if cipher else "",
            peer_subject=_subject(certificate.get("subject", ())) or None,
        )


SHORT_NAMES = {
    "commonName": "CN",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "domainComponent": "DC",
    "userId": "UID",
}


def _subject(parts: Any) -> str:
    """A verified subject as RFC 4514 writes it. What separates parts is escaped where a value holds it."""
    texts = []
    for relative in reversed(parts):
        pairs = []
        for name, value in relative:
            text = "".join(f"\\{c}" if c in ',+"\\<>;=' else c for c in str(value))
            text = "".join(c if c.isprintable() else f"\\{ord(c) & 0xFF:02x}" for c in text)
            if text[:1] in (" ", "#"):
                text = "\\" + text
            pairs.append(f"{SHORT_NAMES.get(name, name)}={text}")
        texts.append("+".join(pairs))
    return ",".join(texts)


class TlsStream:
    """A `Stream` that speaks TLS over a socket. `write` counts plaintext whose ciphertext has gone out."""

    def __init__(self, below: SocketStream, session: TlsSession) -> None:
        self.below = below
        self.pollable = True
        self.read_fd = self.write_fd = below.read_fd
        self.tls = session
        self._sealed: Chunks = deque()
        self._sealed_plain = 0
        self.ended = False

    @property
    def pending(self) -> bool:
        return bool(self._sealed)

    @property
    def buffered(self) -> bool:
        return self.tls.buffered

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
        # A peer that is gone already is the reader's business.
        with contextlib.suppress(OSError):
            self._send()

    def close(self, *, drop: bool = False) -> None:
        if not drop and self.read_fd >= 0:
            self.tls.seal_end()
            with contextlib.suppress(OSError):
                self._send()
        self.read_fd = self.write_fd = -1
        self.below.close(drop=drop)
