"""What a service manager gives to its services, and wants to hear of them (sd_listen_fds(3), sd_notify(3)).

Owns: the sockets that the process was started with, and the words to NOTIFY_SOCKET. No library is needed.
Must never: use a descriptor that was not handed over, pass the variables on to children, or fail because
nobody listens.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import socket
import time
from typing import NamedTuple

from mcpgate.fd import Unusable

__all__ = ["Handed", "find", "handed", "notify", "notify_reloading", "take", "watchdog_s"]

FIRST_FD = 3
MOST_FDS = 256
# `str.isdigit` also holds for digits that `int` refuses, and for more of them than it takes.
NUMBER = re.compile(r"[0-9]{1,18}")
FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


class Handed(NamedTuple):
    """A listening socket: its name, and where it is bound. `problem`: why it cannot be used, or nothing."""

    name: str
    fd: int
    host: str = ""
    port: int = 0
    path: str = ""
    problem: str = ""


@functools.cache
def handed() -> tuple[Handed, ...]:
    """The sockets that we were started with. Their variables are removed: they speak of this process only."""
    names = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    pid, count, labels = (os.environ.pop(name, "") for name in names)
    if pid != str(os.getpid()) or NUMBER.fullmatch(count) is None:
        return ()
    named = labels.split(":")
    found = []
    for number in range(min(int(count), MOST_FDS)):
        fd = FIRST_FD + number
        with contextlib.suppress(OSError):
            os.set_inheritable(fd, False)
        found.append(_described(named[number] if number < len(named) else "", fd))
    return tuple(found)


def _described(name: str, fd: int) -> Handed:
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        return Handed(name, fd, problem="is not a socket")
    try:
        if sock.family not in FAMILIES or sock.type != socket.SOCK_STREAM:
            return Handed(name, fd, problem="is not a stream socket of TCP or Unix")
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return Handed(name, fd, problem="does not listen")
        address = sock.getsockname()
    finally:
        sock.detach()
    if sock.family != socket.AF_UNIX:
        return Handed(name, fd, host=address[0], port=address[1])
    if not isinstance(address, str) or not address.startswith("/"):
        return Handed(name, fd, problem="is an abstract socket, which has no permissions")
    return Handed(name, fd, path=address)


def find(name: str) -> Handed | None:
    """The socket of this name (`FileDescriptorName=`, else the name of the socket unit), or by its place."""
    for one in handed():
        if one.name == name:
            return one
    places = handed()
    return places[int(name)] if NUMBER.fullmatch(name) and int(name) < len(places) else None


def take(name: str) -> socket.socket:
    """A socket to accept from, non-blocking. Raises `OSError`."""
    found = find(name)
    if found is None or found.problem:
        raise Unusable(f"no socket {name!r} was handed over that can be used")
    # A copy: what a listener closes at its end may be asked for again.
    sock = socket.socket(fileno=os.dup(found.fd))
    sock.setblocking(False)
    return sock


def notify(text: str) -> None:
    """Tell the service manager, if there is one."""
    name = os.environ.get("NOTIFY_SOCKET", "")
    if not name.startswith(("/", "@")):
        return
    address = "\0" + name[1:] if name.startswith("@") else name
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.sendto(text.encode(), address)


def notify_reloading() -> None:
    notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def watchdog_s() -> float | None:
    """How often to send WATCHDOG=1: twice in the time that systemd waits; `None`: it does not wait."""
    pid, time_us = os.environ.get("WATCHDOG_PID", ""), os.environ.get("WATCHDOG_USEC", "")
    if NUMBER.fullmatch(time_us) is None or int(time_us) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(time_us) / 2_000_000
