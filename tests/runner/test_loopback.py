"""A listener on "localhost" is one listener at both loopback addresses (threats.md section 0, Firewall).

Must never: pass where one of the two is left out, but for a machine that has only one.
"""

from __future__ import annotations

import errno
import socket

import pytest

from mcpgate import fd
from mcpgate_proto import effects as fx
from tests.runner.conftest import Start
from tests.runner.fake import echoing

BOTH = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]


def localhost(port: int = 0) -> fx.Listen:
    return fx.Listen(listener="tcp", kind="tcp", host="localhost", port=port)


def close(socks: list[socket.socket]) -> None:
    for sock in socks:
        sock.close()


def test_clients_come_in_at_both_addresses(start: Start) -> None:
    gateway = echoing(localhost())
    with start(gateway) as harness:
        _, address = gateway.first("listening")
        for _, host in BOTH:
            harness.put(fx.PauseAccept("tcp"))
            with socket.create_connection((host, address.port), timeout=10) as client:
                client.sendall(b"there")
                harness.put(fx.ResumeAccept("tcp"))
                assert client.recv(5) == b"there"
        harness.put(fx.Unlisten("tcp"))
        for _, host in BOTH:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((host, address.port), timeout=10)
    assert [name for name, _ in gateway.all("listening")] == ["tcp"]


def test_both_have_one_port() -> None:
    socks = fd.open_listeners(localhost())
    try:
        assert [(one.family, one.getsockname()[0]) for one in socks] == BOTH
        assert len({one.getsockname()[1] for one in socks}) == 1
    finally:
        close(socks)


@pytest.mark.parametrize("missing", BOTH)
@pytest.mark.parametrize("code", [errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT])
def test_one_is_enough_where_the_other_is_turned_off(
    missing: tuple[int, str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = fd._bound

    def without(host: str, port: int) -> socket.socket:
        if host == missing[1]:
            raise OSError(code, "turned off")
        return bound(host, port)

    monkeypatch.setattr(fd, "_bound", without)
    socks = fd.open_listeners(localhost())
    try:
        assert [one.getsockname()[0] for one in socks] == [host for _, host in BOTH if host != missing[1]]
    finally:
        close(socks)


def test_neither_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(host: str, port: int) -> socket.socket:
        raise OSError(errno.EADDRNOTAVAIL, "turned off")

    monkeypatch.setattr(fd, "_bound", nowhere)
    with pytest.raises(fd.Unusable, match="no loopback address"):
        fd.open_listeners(localhost())


def test_a_port_that_somebody_else_has_at_one_of_them_is_refused() -> None:
    """Else clients that prefer the other address would speak with a stranger."""
    stranger = fd._bound("::1", 0)
    port = stranger.getsockname()[1]
    try:
        with pytest.raises(OSError) as raised:
            close(fd.open_listeners(localhost(port)))
        assert raised.value.errno == errno.EADDRINUSE
        # What it had opened meanwhile is closed again.
        fd._bound("127.0.0.1", port).close()
    finally:
        stranger.close()


def test_a_free_port_is_free_at_both(monkeypatch: pytest.MonkeyPatch) -> None:
    bound, asked = fd._bound, []

    def at_first_taken(host: str, port: int) -> socket.socket:
        asked.append(host)
        if asked.count("::1") == 1 and host == "::1":
            raise OSError(errno.EADDRINUSE, "somebody's")
        return bound(host, port)

    monkeypatch.setattr(fd, "_bound", at_first_taken)
    socks = fd.open_listeners(localhost())
    try:
        assert asked == ["127.0.0.1", "::1"] * 2 and len(socks) == 2
    finally:
        close(socks)
