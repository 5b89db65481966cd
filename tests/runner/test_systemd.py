"""Sockets that the service manager hands over, and what it hears, on every runner (threats.md section 5,
"systemd activation"). A few lines stand in for systemd.

Must never: need systemd, or leave a socket.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mcpgate import systemd
from tests.cli.program import Running, mcpgate, running
from tests.cli.test_cli import call_tool
from tests.runner.fake import PATIENCE_S
from tests.runner.test_process import SERVER, family, text_of

# As systemd does: descriptors from 3 on, and the variables of the process that it becomes.
ACTIVATE = """
import os, sys
numbers = [int(number) for number in sys.argv[1].split(",") if number]
high = [os.dup2(number, 100 + n) for n, number in enumerate(numbers)]
for n, number in enumerate(high):
    os.dup2(number, 3 + n)
    os.close(number)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(numbers)), LISTEN_FDNAMES=sys.argv[2])
os.execv(sys.executable, [sys.executable, "-m", "mcpgate", *sys.argv[3:]])
"""


@contextmanager
def activated(sockets: dict[str, socket.socket], *args: str, **env: str) -> Iterator[Running]:
    fds = tuple(sock.fileno() for sock in sockets.values())
    launch = ("-c", ACTIVATE, ",".join(map(str, fds)), ":".join(sockets))
    with running(*launch, *args, module=False, pass_fds=fds, **env) as gate:
        yield gate


def tcp(host: str = "127.0.0.1") -> socket.socket:
    return socket.create_server((host, 0))


def unix(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., str]:
    (tmp_path / "slow.py").write_text(SERVER)

    def write(runner: str, *listen: str) -> str:
        tables = "".join(f"[[listen]]\n{one}\n" for one in listen)
        path = tmp_path / "mcpgate.toml"
        path.write_text(
            f"[gateway]\nrunner = '{runner}'\nprefix = 'never'\n{tables}[[server]]\nname = 'one'\n"
            f"command = '{sys.executable}'\nargs = ['-I', '-S', '{tmp_path}/slow.py']\n"
            "pass_env = ['LISTEN_FDS', 'LISTEN_PID', 'LISTEN_FDNAMES']\n"
        )
        return str(path)

    return write


@contextmanager
def manager(folder: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    """The address for NOTIFY_SOCKET, and what has been heard next."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(folder / "notify"))
        sock.settimeout(PATIENCE_S)
        yield str(folder / "notify"), lambda: sock.recv(4096).decode()


def test_sockets_by_name(runner: str, config: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "gate.sock"
    with tcp() as web, unix(path) as lines:
        before = os.stat(path)
        listen = 'fd = "web"', 'kind = "unix"\nfd = "lines"'
        with activated({"lines": lines, "web": web}, "serve", "-c", config(runner, *listen)) as gate:
            port = web.getsockname()[1]
            assert gate.url() == f"http://127.0.0.1:{port}/mcp"
            gate.until(str(path))
            assert text_of(call_tool(f"http://127.0.0.1:{port}/mcp", "slow", {})) == "done"
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(PATIENCE_S)
                client.connect(str(path))
                hello = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
                client.sendall(json.dumps(hello).encode() + b"\n")
                assert client.recv(4096)
            # Children get neither the descriptors nor the variables, not even when asked.
            for pid in family(gate):
                names = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
                assert not [name for name in names if name.startswith("socket:")]
                assert b"LISTEN_" not in Path(f"/proc/{pid}/environ").read_bytes()
            assert gate.stop() == 0
        # Whoever made the socket keeps it, as it was.
        after = os.stat(path)
        assert (after.st_ino, after.st_mode, after.st_uid) == (before.st_ino, before.st_mode, before.st_uid)
        assert not (tmp_path / "gate.sock.lock").exists()
        # ... and it takes clients until the next start.
        socket.create_connection(web.getsockname(), PATIENCE_S).close()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_a_reload_keeps_the_socket(config: Callable[..., str]) -> None:
    with tcp() as web:
        with activated({"web": web}, "serve", "-c", config("asyncio", 'fd = "0"')) as gate:
            url = gate.url()
            gate.popen.send_signal(signal.SIGHUP)
            gate.until("reloaded")
            assert not [line for line in gate.seen if "listeners_kept" in line]
            assert text_of(call_tool(url, "slow", {})) == "done"
            assert gate.stop() == 0


@pytest.mark.parametrize(
    ("make", "listen", "said"),
    [
        (lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM), "", "is not a stream socket"),
        (lambda: socket.socket(socket.AF_INET), "", "does not listen"),
        (tcp, 'kind = "unix"\n', "is not a Unix socket"),
        (tcp, "port = 1\n", "does not go with fd"),
        (lambda: tcp("0.0.0.0"), "", "is not a loopback address"),
    ],
)
def test_sockets_that_cannot_be_used(
    config: Callable[..., str], make: Callable[[], socket.socket], listen: str, said: str
) -> None:
    """What the socket is decides, not what the config thinks of it."""
    with (
        make() as sock,
        activated({"web": sock}, "serve", "-c", config("asyncio", f'{listen}fd = "web"')) as gate,
    ):
        gate.until(said)
        assert gate.popen.wait(PATIENCE_S) == 2


def test_an_abstract_socket_is_refused(config: Callable[..., str]) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"\0mcpgate-test-{os.getpid()}")
        sock.listen()
        with activated({"web": sock}, "serve", "-c", config("asyncio", 'fd = "web"')) as gate:
            gate.until("abstract socket")
            assert gate.popen.wait(PATIENCE_S) == 2


def test_a_name_that_was_not_handed_over(config: Callable[..., str]) -> None:
    path = config("asyncio", 'fd = "other"')
    with tcp() as web, activated({"web": web}, "serve", "-c", path) as gate:
        gate.until("no socket 'other' was handed over")
        gate.until("handed over: web")
        assert gate.popen.wait(PATIENCE_S) == 2
    # Without a service manager: `check` is content, a start is not possible.
    assert mcpgate("check", "-c", path)[0] == 0
    code, _, err = mcpgate("serve", "-c", path)
    assert code == 1 and "no socket 'other' was handed over" in err


def test_variables_for_another_process_are_not_ours(config: Callable[..., str]) -> None:
    code, _, err = mcpgate("serve", "-c", config("asyncio", 'fd = "web"'), LISTEN_PID="1", LISTEN_FDS="1")
    assert code == 1 and "no socket 'web' was handed over" in err


# Digits to `str.isdigit`, and no numbers; more of them than `int` takes.
NO_NUMBERS = ("\u00b2", "\u0662", "9" * 5000, "-1", "+1", "1_0", "")


@pytest.mark.parametrize("count", NO_NUMBERS)
def test_a_count_that_is_no_number_hands_nothing_over(monkeypatch: pytest.MonkeyPatch, count: str) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", count)
    # Not the one that remembers.
    assert systemd.handed.__wrapped__() == ()
    assert "LISTEN_FDS" not in os.environ


@pytest.mark.parametrize("place", NO_NUMBERS)
def test_a_place_that_is_no_number(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setattr(systemd, "handed", lambda: (systemd.Handed("web", 3),))
    assert systemd.find(place) is None
    assert systemd.find("0") == systemd.find("web") is not None


# -- what the service manager hears


def test_ready_reloading_and_stopping(runner: str, config: Callable[..., str], tmp_path: Path) -> None:
    with manager(tmp_path) as (address, heard):
        with running("serve", "-c", config(runner, "port = 0"), NOTIFY_SOCKET=address) as gate:
            assert heard() == "READY=1"
            gate.url()
            gate.popen.send_signal(signal.SIGHUP)
            first = heard()
            assert first.startswith("RELOADING=1\nMONOTONIC_USEC=") and first.rpartition("=")[2].isdigit()
            assert heard() == "READY=1"
            gate.until("reloaded")
            assert gate.stop() == 0
            assert heard() == "STOPPING=1"


def test_the_watchdog_is_fed(runner: str, config: Callable[..., str], tmp_path: Path) -> None:
    with manager(tmp_path) as (address, heard):
        env = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "200000"}
        with running("serve", "-c", config(runner, "port = 0"), **env) as gate:
            assert [heard() for _ in range(4)] == ["READY=1", *["WATCHDOG=1"] * 3]
            assert gate.stop() == 0


@pytest.mark.parametrize(
    ("env", "every_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        *(({"WATCHDOG_USEC": text}, None) for text in NO_NUMBERS),
    ],
)
def test_how_often(monkeypatch: pytest.MonkeyPatch, env: dict[str, str], every_s: float | None) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert systemd.watchdog_s() == every_s


@pytest.mark.parametrize("address", ["", "relative", "/nobody/there", "@nobody-there"])
def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    systemd.notify("READY=1")
