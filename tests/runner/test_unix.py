"""Unix sockets, on every runner: who may come in, and what is never removed.

Must never: ask which runner it is.
"""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mcpgate.control import Options
from mcpgate_proto import effects as fx
from mcpgate_proto.effects import Address
from tests.runner.conftest import Start
from tests.runner.fake import MB, FakeGateway, Left, Run, dial, echoing, read_all


def unix(path: Path | str, **more: Any) -> fx.Listen:
    return fx.Listen(listener="unix", kind="unix", path=str(path), **more)


def refusal(run: Run, path: Path | str) -> str:
    """Why a run with a listener at `path` does not start; nothing of it is left."""
    gateway = FakeGateway(unix(path))
    gateway.hooks["listen_failed"] = lambda *_: gateway.put(fx.Stopped("no listener"))
    before = Left()
    outcome = run(gateway, Options(signals=False))
    before.check()
    assert outcome.failure == "no listener"
    return outcome.listen_failures["unix"]


def test_echo_and_who_it_is(start: Start, tmp_path: Path) -> None:
    gateway = echoing(unix(tmp_path / "s"))
    data = os.urandom(MB)
    with start(gateway) as harness:
        assert harness.addresses == {"unix": Address(path=str(tmp_path / "s"))}
        with dial(harness, "unix") as client:
            client.sendall(data[:9])
            assert client.recv(99) == data[:9]
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b""
        gateway.first("closed")
    peer = gateway.all("accepted")[0][1]
    assert (peer.kind, peer.uid, peer.gid, peer.pid) == ("unix", os.geteuid(), os.getegid(), os.getpid())
    assert peer.same_user
    assert os.listdir(tmp_path) == []


def test_another_user_is_told_apart(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = echoing(unix(tmp_path / "s"))
    with start(gateway) as harness:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        with dial(harness, "unix"):
            assert not gateway.first("accepted")[1].same_user


def test_dialling_one(start: Start, tmp_path: Path) -> None:
    gateway = echoing(unix(tmp_path / "s"))
    with start(gateway) as harness:
        harness.put(fx.Connect(1, Address(path=str(tmp_path / "s"))))
        _, peer, tls = gateway.first("connected")
        assert (peer.kind, peer.uid, peer.same_user, tls) == ("unix", os.geteuid(), True, None)
        harness.put(fx.Write(1, [b"hello"]))
        gateway.until(lambda: gateway.data(1).startswith(b"hello"))


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_the_mode_is_what_was_asked_for(start: Start, tmp_path: Path, umask: int) -> None:
    earlier = os.umask(umask)
    try:
        for mode in (0o600, 0o660):
            with start(FakeGateway(unix(tmp_path / "s", mode=mode))):
                assert stat.S_IMODE(os.stat(tmp_path / "s").st_mode) == mode
    finally:
        os.umask(earlier)


def test_a_missing_folder_is_made_for_its_owner_only(start: Start, run: Run, tmp_path: Path) -> None:
    with start(FakeGateway(unix(tmp_path / "new" / "s"))):
        assert stat.S_IMODE(os.stat(tmp_path / "new").st_mode) == 0o700
    assert refusal(run, tmp_path / "far" / "away" / "s") == f"there is no folder {tmp_path}/far/away"


def test_what_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to("nowhere")
    assert refusal(run, tmp_path / "file") == f"{tmp_path}/file is a file, not a socket"
    assert refusal(run, tmp_path / "link") == f"{tmp_path}/link is a symlink"
    assert (tmp_path / "file").read_text() == "precious" and (tmp_path / "link").is_symlink()
    (tmp_path / "x.lock").symlink_to("file")
    assert refusal(run, tmp_path / "x") == f"{tmp_path}/x.lock is a symlink"
    assert "longer than 107 bytes" in refusal(run, "/tmp/" + "x" * 107)
    assert "abstract" in refusal(run, "\0name")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    assert "can be written by everybody" in refusal(run, tmp_path / "open" / "s")
    (tmp_path / "open").chmod(0o1777)
    assert not os.listdir(tmp_path / "open")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_belongs_to_others_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 12345, 12345)
    assert "belongs to another user" in refusal(run, tmp_path / "theirs" / "s")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
    os.chown(tmp_path / "s", 12345, 12345)
    assert refusal(run, tmp_path / "s") == f"{tmp_path}/s is a socket of another user"
    os.close(os.open(tmp_path / "y.lock", os.O_CREAT))
    os.chown(tmp_path / "y.lock", 12345, 12345)
    assert refusal(run, tmp_path / "y") == f"{tmp_path}/y.lock belongs to somebody else"


def test_a_socket_left_behind_is_replaced_and_one_in_use_is_not(
    start: Start, run: Run, tmp_path: Path
) -> None:
    path = str(tmp_path / "s")
    leave = "import socket,sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])"
    subprocess.run([sys.executable, "-c", leave, path], check=True)
    assert stat.S_ISSOCK(os.stat(path).st_mode)
    with start(echoing(unix(path))) as harness:
        with dial(harness, "unix") as client:
            client.sendall(b"x")
            assert client.recv(9) == b"x"
        assert refusal(run, path) == "address already in use"
        with dial(harness, "unix") as client:
            client.sendall(b"y")
            assert client.recv(9) == b"y"
    # Somebody's socket without our lock.
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()
        assert refusal(run, path) == "address already in use"
        assert stat.S_ISSOCK(os.stat(path).st_mode)


def test_only_our_own_socket_is_removed_at_the_end(start: Start, tmp_path: Path) -> None:
    with start(FakeGateway(unix(tmp_path / "s"))):
        (tmp_path / "s").unlink()
        (tmp_path / "s").write_text("somebody else's")
    assert (tmp_path / "s").read_text() == "somebody else's"
    (tmp_path / "s").unlink()
    with start(FakeGateway(unix(tmp_path / "s"))) as harness:
        harness.put(fx.Unlisten("unix"))
        assert os.listdir(tmp_path) == []
