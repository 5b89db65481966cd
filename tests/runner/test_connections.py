"""What every runner must do with listeners and connections.

Must never: use the real core, or ask which runner it is.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mcpgate_proto import effects as fx
from mcpgate_proto.effects import Address
from tests.runner.conftest import Start
from tests.runner.fake import MB, FakeGateway, dial, echoing, read_all, tcp

# -- listeners and accepted connections


def test_order_of_the_first_facts(start: Start) -> None:
    gateway = echoing(tcp())
    with start(gateway) as harness, dial(harness):
        gateway.first("accepted")
    assert [fact[0] for fact in gateway.facts[:3]] == ["listening", "started", "accepted"]
    name, address = gateway.all("listening")[0]
    assert (name, address.host) == ("tcp", "127.0.0.1")
    assert address.port


def test_tcp_echo_and_half_close(start: Start) -> None:
    gateway = echoing(tcp())
    with start(gateway) as harness:
        with dial(harness) as client:
            client.sendall(b"one ")
            assert client.recv(65536) == b"one "
            client.sendall(b"two")
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b"two"
        gateway.first("closed")
    conn = gateway.all("accepted")[0][2]
    names = [fact[0] for fact in gateway.facts if fact[0] == "closed" or fact[1:2] == (conn,)]
    assert names[-1] == "closed" and names.count("closed") == 1 and names.count("received_eof") == 1
    assert sum(args[1] for args in gateway.all("flushed")) == 7


def test_big_write_in_order_and_close_after_it(start: Start) -> None:
    chunks = [bytes([n % 251]) * (n * 37 % 70_000) for n in range(300)]
    whole = b"".join(chunks)

    gateway = FakeGateway(tcp())
    gateway.hooks["accepted"] = lambda _, peer, conn: gateway.put(fx.Write(conn, chunks), fx.Close(conn))
    with start(gateway) as harness:
        with dial(harness) as client:
            assert read_all(client) == whole
        gateway.first("closed")
    assert sum(args[1] for args in gateway.all("flushed")) == len(whole)


def test_a_reader_that_stops_holds_back_only_itself(start: Start) -> None:
    gateway = echoing(tcp())
    with start(gateway) as harness, dial(harness) as slow, dial(harness) as quick:
        gateway.until(lambda: len(gateway.all("accepted")) == 2)
        conn = gateway.all("accepted")[0][2]
        harness.put(fx.Write(conn, [b"x" * (32 * MB)]))
        for _ in range(20):
            quick.sendall(b"ping")
            assert quick.recv(65536) == b"ping"
        flushed = sum(args[1] for args in gateway.all("flushed") if args[0] == conn)
        assert flushed < 16 * MB
        harness.put(fx.Abort(conn))
        gateway.until(lambda: gateway.all("closed"))
        assert gateway.all("closed") == [(conn, "aborted")]
        with pytest.raises(ConnectionResetError):
            read_all(slow)


def test_pause_and_resume_reading(start: Start) -> None:
    gateway = FakeGateway(tcp())
    gateway.hooks["accepted"] = lambda _, peer, conn: gateway.put(fx.PauseRead(conn))
    with start(gateway) as harness:
        with dial(harness) as client, dial(harness) as other:
            gateway.until(lambda: len(gateway.all("accepted")) == 2)
            conn, second = (args[2] for args in gateway.all("accepted"))
            client.sendall(b"held")
            client.shutdown(socket.SHUT_WR)
            harness.put(fx.ResumeRead(second))
            other.sendall(b"seen")
            gateway.until(lambda: gateway.data(second))
            assert not gateway.data(conn)
            harness.put(fx.ResumeRead(conn))
            gateway.first("received_eof")
            assert gateway.data(conn) == b"held"


def test_shutdown_write_then_peer_ends(start: Start) -> None:
    gateway = FakeGateway(tcp())
    gateway.hooks["accepted"] = lambda _, peer, conn: gateway.put(
        fx.Write(conn, [b"bye"]), fx.ShutdownWrite(conn)
    )
    with start(gateway) as harness:
        with dial(harness) as client:
            assert read_all(client) == b"bye"
            assert not gateway.all("closed")
            client.sendall(b"late")
        gateway.first("closed")
        names = [fact[0] for fact in gateway.facts if fact[0] in ("received", "received_eof", "closed")]
        assert names == ["received", "received_eof", "closed"]


def test_paused_accept_leaves_clients_waiting(start: Start) -> None:
    gateway = echoing(tcp(), tcp("other"))
    with start(gateway) as harness:
        harness.put(fx.PauseAccept("tcp"))
        with dial(harness) as waiting, dial(harness, "other") as taken:
            taken.sendall(b"x")
            assert taken.recv(65536) == b"x"
            assert [args[0] for args in gateway.all("accepted")] == ["other"]
            harness.put(fx.ResumeAccept("tcp"))
            waiting.sendall(b"y")
            assert waiting.recv(65536) == b"y"
        harness.put(fx.Unlisten("tcp"))
        with pytest.raises(OSError):
            dial(harness)


def test_out_of_descriptors_backs_off_and_recovers(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    from mcpgate import fd

    real, failures = fd.accept, iter([OSError(24, "too many")])

    def accept(listener: socket.socket) -> Any:
        for failure in failures:
            raise failure
        return real(listener)

    monkeypatch.setattr(fd, "accept", accept)

    gateway = echoing(tcp())
    with start(gateway) as harness, dial(harness) as client:
        client.sendall(b"x")
        assert client.recv(65536) == b"x"
    assert gateway.all("accept_failed") == [("tcp", "too many open files")]


# -- time


def test_the_timer_fires_at_the_earliest_deadline(start: Start) -> None:
    gateway = FakeGateway()
    gateway.hooks["timed_out"] = lambda: setattr(gateway, "at", None)
    with start(gateway) as harness:
        harness.alarm(time.monotonic() + 3600)
        due = time.monotonic() + 0.05
        harness.alarm(due)
        gateway.first("timed_out")
        assert due - 0.02 <= gateway.last_now < due + 5


# -- dialling


def test_connect_echo_and_failure(start: Start) -> None:
    gateway = echoing(tcp())
    with start(gateway) as harness:
        there = harness.addresses["tcp"]
        harness.put(fx.Connect(1, there))
        gateway.first("connected")
        harness.put(fx.Write(1, [b"hello"]))
        gateway.until(lambda: b"hello" in gateway.data(1))
        harness.put(fx.Close(1))
        gateway.until(lambda: len(gateway.all("closed")) == 2)
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        harness.put(fx.Connect(2, Address(host="127.0.0.1", port=port)))
        assert gateway.first("connect_failed") == (2, "connection refused")
        harness.put(fx.Connect(3, Address(path="/nonexistent/socket")))
        gateway.until(lambda: len(gateway.all("connect_failed")) == 2)
        assert gateway.all("connect_failed")[1] == (3, "no such file or directory")


def test_an_aborted_dial_is_closed_once(start: Start) -> None:
    gateway = FakeGateway()
    with socket.socket() as full:
        # A listener whose queue is full: further dials hang.
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = Address(host="127.0.0.1", port=full.getsockname()[1])
        with start(gateway) as harness:
            harness.put(*(fx.Connect(n, address) for n in range(1, 6)))
            harness.put(fx.Abort(5))
            assert gateway.first("closed") == (5, "aborted")
            assert (5,) not in [args[:1] for args in gateway.all("connected")]


def test_what_the_runner_refuses_to_dial(start: Start) -> None:
    gateway = FakeGateway()
    with start(gateway) as harness:
        harness.put(fx.Connect(1, Address(path="/" + "x" * 107)), fx.Connect(2, Address(path="\0abstract")))
        gateway.until(lambda: len(gateway.all("connect_failed")) == 2)
    reasons = dict(gateway.all("connect_failed"))
    assert reasons[1] == "the path of the socket is longer than 107 bytes"
    assert "abstract" in reasons[2]


def test_names_are_looked_up(start: Start) -> None:
    gateway = FakeGateway()
    with start(gateway) as harness:
        harness.put(fx.Resolve(7, "localhost"), fx.Resolve(8, "a..b"))
        lookup, addresses = gateway.first("resolved")
        assert lookup == 7
        assert {a.host for a in addresses} <= {"127.0.0.1", "::1"} and all(a.port == 0 for a in addresses)
        assert (gateway.first("resolve_failed"))[0] == 8


# -- stdio


def test_stdio_over_pipes_stays_blocking(start: Start) -> None:
    gateway = echoing(fx.Listen(listener="io", kind="stdio"))
    (in_read, in_write), (out_read, out_write) = os.pipe(), os.pipe()
    given = (os.dup(in_read), os.dup(out_write))
    with start(gateway, stdio={"io": given}) as harness:
        data = os.urandom(3 * MB)

        def feed() -> None:
            with open(in_write, "wb", closefd=False) as file:
                file.write(data)
            os.close(in_write)

        def drain() -> bytes:
            with open(out_read, "rb", closefd=False) as file:
                return file.read(len(data))

        feeding = threading.Thread(target=feed)
        feeding.start()
        assert drain() == data
        feeding.join()
        assert os.get_blocking(in_read) and os.get_blocking(out_write)
        gateway.first("closed")
        assert gateway.all("accepted")[0][1].kind == "stdio"
        assert harness.addresses == {"io": Address()}
    for fd in (in_read, out_read, out_write):
        os.close(fd)


def test_stdio_from_a_file_to_a_file(start: Start, tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b"line\n" * 100_000)

    gateway = echoing(fx.Listen(listener="io", kind="stdio"))
    given = (os.open(source, os.O_RDONLY), os.open(target, os.O_WRONLY | os.O_CREAT))
    with start(gateway, stdio={"io": given}):
        gateway.first("closed")
    assert target.read_bytes() == source.read_bytes()


def test_stdio_over_one_socket(start: Start) -> None:
    gateway = echoing(fx.Listen(listener="io", kind="stdio"))
    ours, theirs = socket.socketpair()
    given = (os.dup(theirs.fileno()), os.dup(theirs.fileno()))
    theirs.close()
    with start(gateway, stdio={"io": given}):
        ours.sendall(b"x" * 1000)
        ours.shutdown(socket.SHUT_WR)
        assert read_all(ours) == b"x" * 1000
    ours.close()
