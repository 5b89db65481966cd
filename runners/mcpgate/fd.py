"""Byte streams over descriptors, the same for every runner.

Owns: reading, writing, half-closing and closing sockets, pipes and the process's own stdin and stdout;
opening listeners; the first step of a dial.
Must never: wait (every call returns at once), know what the bytes mean, or set O_NONBLOCK on a descriptor
that was inherited: its other holders share that flag.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import stat
import struct
import sys
from collections import deque
from typing import Protocol, TypeAlias

from mcpgate_proto.effects import Address, Connect, Listen, Peer

__all__ = [
    "UNIX_PATH_BYTES",
    "PipeStream",
    "SocketStream",
    "StdioStream",
    "Stream",
    "Unusable",
    "accept",
    "address_of",
    "check_unix_path",
    "finish_connect",
    "open_listeners",
    "peer_of",
    "reason_of",
    "start_connect",
    "take_stdio",
]

READ_BYTES = 64 * 1024
# What one sendmsg or writev takes: IOV_MAX is 1024 on Linux and macOS, and more than this gains nothing.
CHUNKS_AT_ONCE = 64
# A pipe that poll calls writable takes this much without blocking (POSIX says at least 512; Linux has 4096).
PIECE_BYTES = select.PIPE_BUF
BACKLOG = 512
LOOPBACK = ("127.0.0.1", "::1")
FREE_PORT_ATTEMPTS = 8
# What bind and socket say where IPv6, or IPv4, is turned off.
NO_SUCH_ADDRESS = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
# struct ucred (unix(7)): pid, uid, gid. Unsigned ids: -1 stands for "none that this namespace knows".
CREDENTIALS = struct.Struct("iII")
SOL_LOCAL, LOCAL_PEERCRED, LOCAL_PEERPID = 0, 1, 2
XUCRED = struct.Struct("IIh2x16I")
# socket(7) of Linux 4.13; Python has no name for it. getsockopt of Python gives 1024 bytes at most.
SO_PEERGROUPS, GROUPS_BYTES = 59, 1024
# sun_path holds this much and a NUL byte.
UNIX_PATH_BYTES = 107 if sys.platform == "linux" else 103
# Errors of accept that concern one client and say nothing about the listener (accept(2)).
TRANSIENT_ACCEPT = frozenset(
    {
        errno.ECONNABORTED,
        errno.EINTR,
        errno.ENETDOWN,
        errno.EPROTO,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ENETUNREACH,
        errno.EPERM,
    }
)

# What is left of a chunk after a partial write is a view: copying the rest each time would be quadratic.
Chunk: TypeAlias = bytes | memoryview
Chunks: TypeAlias = deque[Chunk]


class Unusable(OSError):
    """What was asked for cannot be used, for a reason that is ours; its text is for people."""


class Stream(Protocol):
    """One byte stream. A descriptor is -1 once it is closed."""

    read_fd: int
    write_fd: int
    # False: the kernel cannot tell when it is ready (a regular file); it always is.
    pollable: bool
    # What `read` gave last was the end of the stream too (only TLS can know).
    ended: bool

    def read(self) -> bytes | None:
        """What is there; `None` if nothing is yet, `b""` at the end. Raises `OSError`."""

    def write(self, chunks: Chunks) -> int:
        """Send from the left of `chunks`, taking away what went out. Returns its count of bytes."""

    @property
    def pending(self) -> bool:
        """More is to be sent than what `write` was given (only TLS has such)."""

    @property
    def buffered(self) -> bool:
        """There may be more to read than the descriptor tells of (only TLS has such)."""

    def shutdown_write(self) -> None: ...
    def close(self, *, drop: bool = False) -> None: ...


def _taken(chunks: Chunks, count: int) -> None:
    """Remove the first `count` bytes."""
    while count:
        first = chunks[0]
        if len(first) > count:
            chunks[0] = memoryview(first)[count:]
            return
        count -= len(first)
        chunks.popleft()


def _front(chunks: Chunks) -> list[Chunk]:
    if len(chunks) <= CHUNKS_AT_ONCE:
        return list(chunks)
    return [chunks[i] for i in range(CHUNKS_AT_ONCE)]


class SocketStream:
    """A connected, non-blocking socket of our own."""

    __slots__ = ("pollable", "read_fd", "sock", "write_fd")

    pending = False
    ended = False
    buffered = False

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.pollable = True
        self.read_fd = self.write_fd = sock.fileno()

    def read(self) -> bytes | None:
        try:
            return self.sock.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return None

    def write(self, chunks: Chunks) -> int:
        total = 0
        while chunks:
            try:
                count = self.sock.sendmsg(_front(chunks))
            except (BlockingIOError, InterruptedError):
                break
            total += count
            _taken(chunks, count)
        return total

    def shutdown_write(self) -> None:
        # A peer that is gone already is the reader's business.
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def close(self, *, drop: bool = False) -> None:
        if drop and self.read_fd >= 0:
            # Free what the kernel still holds for a peer that takes nothing.
            with contextlib.suppress(OSError):
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.read_fd = self.write_fd = -1
        self.sock.close()


class PipeStream:
    """A child's stdout to read and its stdin to write: our ends, non-blocking."""

    __slots__ = ("pollable", "read_fd", "write_fd")

    pending = False
    ended = False
    buffered = False

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.pollable = True
        self.read_fd = read_fd
        self.write_fd = write_fd
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)

    def read(self) -> bytes | None:
        try:
            return os.read(self.read_fd, READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return None

    def write(self, chunks: Chunks) -> int:
        total = 0
        while chunks:
            try:
                count = os.writev(self.write_fd, _front(chunks))
            except (BlockingIOError, InterruptedError):
                break
            total += count
            _taken(chunks, count)
        return total

    def shutdown_write(self) -> None:
        fd, self.write_fd = self.write_fd, -1
        if fd >= 0:
            os.close(fd)

    def close(self, *, drop: bool = False) -> None:
        self.shutdown_write()
        fd, self.read_fd = self.read_fd, -1
        if fd >= 0:
            os.close(fd)


class StdioStream:
    """Inherited descriptors: they stay blocking, so each call asks first whether it would block."""

    __slots__ = ("_readable", "_socket", "_writable", "pollable", "read_fd", "write_fd", "write_pollable")

    pending = False
    ended = False
    buffered = False

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.read_fd = read_fd
        self.write_fd = write_fd
        self.pollable = _pollable(read_fd)
        self.write_pollable = _pollable(write_fd)
        self._readable = select.poll()
        self._readable.register(read_fd, select.POLLIN)
        self._writable = select.poll()
        self._writable.register(write_fd, select.POLLOUT)
        # A socket may take less than a piece when poll calls it writable; only it can be asked not to wait.
        self._socket = stat.S_ISSOCK(os.fstat(write_fd).st_mode)

    def read(self) -> bytes | None:
        if self.pollable and not self._readable.poll(0):
            return None
        return os.read(self.read_fd, READ_BYTES)

    def write(self, chunks: Chunks) -> int:
        total = 0
        while chunks:
            if self.write_pollable and not self._writable.poll(0):
                break
            try:
                count = self._write_piece(chunks[0])
            except (BlockingIOError, InterruptedError):
                break
            total += count
            _taken(chunks, count)
        return total

    def _write_piece(self, chunk: Chunk) -> int:
        if not self._socket:
            return os.write(self.write_fd, memoryview(chunk)[:PIECE_BYTES] if self.write_pollable else chunk)
        with socket.socket(fileno=os.dup(self.write_fd)) as sock:
            return sock.send(chunk, socket.MSG_DONTWAIT)

    def shutdown_write(self) -> None:
        fd, self.write_fd = self.write_fd, -1
        if fd < 0:
            return
        if self._socket:
            # One socket may serve as both stdin and stdout: closing our copy would not tell the peer.
            with socket.socket(fileno=os.dup(fd)) as sock:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_WR)
        os.close(fd)

    def close(self, *, drop: bool = False) -> None:
        self.shutdown_write()
        fd, self.read_fd = self.read_fd, -1
        if fd >= 0:
            os.close(fd)


def _pollable(fd: int) -> bool:
    """Pipes, sockets and terminals tell when they are ready; files and `/dev/null` cannot be asked."""
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)


def take_stdio() -> tuple[int, int]:
    """Move stdin and stdout to private descriptors, so that no stray print or read can touch the stream.

    What is printed from now on goes to stderr; what reads stdin finds its end.
    """
    sys.stdout.flush()
    # Below 3, a later dup2 of somebody else could hit them.
    read_fd = _dup_high(0)
    write_fd = _dup_high(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    if null:
        os.close(null)
    os.dup2(2, 1)
    return read_fd, write_fd


def _dup_high(fd: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def reason_of(error: OSError) -> str:
    """A short text in words that are the operating system's, without paths or numbers."""
    if isinstance(error, socket.gaierror):
        return "name not known" if error.errno != socket.EAI_AGAIN else "name lookup failed for now"
    if isinstance(error, Unusable):
        return str(error)
    if error.errno is None:
        return type(error).__name__
    return os.strerror(error.errno).lower()


def address_of(sockaddr: object) -> Address:
    """An `Address` from what getsockname, getpeername or accept gave."""
    if isinstance(sockaddr, tuple) and len(sockaddr) >= 2:
        return Address(host=str(sockaddr[0]), port=int(sockaddr[1]))
    return Address(path=sockaddr if isinstance(sockaddr, str) else "")


def open_listeners(effect: Listen) -> list[socket.socket]:
    """Bind and listen, non-blocking. "localhost" is both loopback addresses, on one port, as far as this
    machine has them (RFC 6761 section 6.3); `::` takes IPv4 as well. Raises `OSError`."""
    if effect.host != "localhost":
        return [_bound(effect.host, effect.port)]
    attempts = 1 if effect.port else FREE_PORT_ATTEMPTS
    while True:
        attempts -= 1
        try:
            return _bound_to_loopback(effect.port)
        except OSError as error:
            # A port that is free at one address may be somebody else's at the other.
            if not attempts or error.errno != errno.EADDRINUSE:
                raise


def _bound_to_loopback(port: int) -> list[socket.socket]:
    opened: list[socket.socket] = []
    with contextlib.ExitStack() as undo:
        for host in LOOPBACK:
            try:
                sock = undo.enter_context(_bound(host, port))
            except OSError as error:
                if error.errno not in NO_SUCH_ADDRESS:
                    raise
            else:
                opened.append(sock)
                port = sock.getsockname()[1]
        if not opened:
            raise Unusable("this machine has no loopback address")
        undo.pop_all()
    return opened


def _bound(host: str, port: int) -> socket.socket:
    infos = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, proto, _, sockaddr = infos[0]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setblocking(False)
        # A port in TIME_WAIT may be bound again; one that somebody listens on may not.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if sockaddr[0] == "::" else 1)
        sock.bind(sockaddr)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def accept(listener: socket.socket) -> tuple[SocketStream, Peer] | None:
    """One client, or `None` if none waits. Raises `OSError` only when the listener itself is in trouble."""
    while True:
        try:
            sock, sockaddr = listener.accept()
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno in TRANSIENT_ACCEPT:
                continue
            raise
        sock.setblocking(False)
        no_delay(sock)
        return SocketStream(sock), peer_of(sock, sockaddr)


def peer_of(sock: socket.socket, sockaddr: object) -> Peer:
    """Who is at the other end; for a Unix socket the kernel says which user that is."""
    if sock.family != socket.AF_UNIX:
        return Peer(kind="tcp", address=address_of(sockaddr))
    uid, gid, pid, groups = _credentials(sock)
    same = uid is not None and uid == os.geteuid()
    address = address_of(sockaddr)
    return Peer(kind="unix", address=address, uid=uid, gid=gid, groups=groups, pid=pid, same_user=same)


def _credentials(sock: socket.socket) -> tuple[int | None, int | None, int | None, tuple[int, ...]]:
    """uid, gid, pid and further groups of the peer when it connected; `None` for what the system does not
    tell, and no groups if there are too many."""
    try:
        if hasattr(socket, "SO_PEERCRED"):
            pid, uid, gid = CREDENTIALS.unpack(
                sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
            )
            return uid, gid, pid, _groups(sock)
        if sys.platform == "darwin":
            # struct xucred: version, uid, count of groups, groups.
            data = sock.getsockopt(SOL_LOCAL, LOCAL_PEERCRED, XUCRED.size)
            version, uid, count, *groups = XUCRED.unpack_from(data)
            (pid,) = struct.unpack("i", sock.getsockopt(SOL_LOCAL, LOCAL_PEERPID, 4))
            if version == 0:
                return uid, groups[0] if count > 0 else None, pid, tuple(groups[:count])
    except (OSError, struct.error):
        pass
    return None, None, None, ()


def _groups(sock: socket.socket) -> tuple[int, ...]:
    if sys.platform != "linux":
        return ()
    try:
        data = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, GROUPS_BYTES)
    except OSError:
        return ()
    return struct.unpack(f"{len(data) // 4}I", data)


def no_delay(sock: socket.socket) -> None:
    """Small messages go out at once; the runner already joins what belongs together."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def check_unix_path(path: str) -> None:
    """Raises `OSError` in words that help, where the system's own would not."""
    if "\0" in path:
        raise Unusable("an abstract socket has no permissions; name a file")
    if len(os.fsencode(path)) > UNIX_PATH_BYTES:
        raise Unusable(f"the path of the socket is longer than {UNIX_PATH_BYTES} bytes")


def start_connect(effect: Connect) -> socket.socket:
    """Begin to dial. The socket becomes writable when it is decided. Raises `OSError`."""
    address = effect.address
    if address.path:
        check_unix_path(address.path)
        family = socket.AF_UNIX
    else:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        no_delay(sock)
        error = sock.connect_ex(address.path or (address.host, address.port))
        if error not in (0, errno.EINPROGRESS):
            raise OSError(error, os.strerror(error))
    except BaseException:
        sock.close()
        raise
    return sock


def finish_connect(sock: socket.socket) -> Peer:
    """Who was reached. Raises `OSError` if nobody was."""
    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))
    return peer_of(sock, sock.getpeername())
