"""What every runner must do with connections, children and the end, on each of its loops.

Owns: the conformance suite of runners. Must never: use the real core; `fake.FakeGateway` scripts the effects.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest

from mcpgate_proto import effects as fx
from mcpgate_proto.effects import Address, Spawn, TlsOptions
from tests.runner.fake import FakeGateway, Harness, alive, gone, open_fds, running, tcp

MB = 1024 * 1024
Body = Callable[[], Coroutine[Any, Any, None]]


@pytest.fixture(params=["asyncio", "trio"])
def go(request: pytest.FixtureRequest) -> Callable[[Body], None]:
    def run(body: Body) -> None:
        anyio.run(body, backend=request.param)

    return run


def echoing(*listens: fx.Listen) -> FakeGateway:
    """What comes in goes out; an end is answered by a close."""
    gateway = FakeGateway(*listens)
    gateway.hooks["received"] = lambda conn, data: gateway.put(fx.Write(conn, [data]))
    gateway.hooks["received_eof"] = lambda conn: gateway.put(fx.Close(conn))
    return gateway


async def dial(harness: Harness, name: str = "tcp") -> anyio.abc.SocketStream:
    address = harness.addresses[name]
    return await anyio.connect_tcp(address.host, address.port)


async def read_all(stream: anyio.abc.ByteReceiveStream) -> bytes:
    parts = []
    async for part in stream:
        parts.append(part)
    return b"".join(parts)


def child(conn: int, code: str, *args: str, env: dict[str, str] | None = None, **more: Any) -> Spawn:
    return Spawn(conn=conn, argv=(sys.executable, "-I", "-S", "-c", code, *args), env=env or {}, **more)


# -- listeners and accepted connections


def test_order_of_the_first_facts(go: Callable[[Body], None]) -> None:
    async def body() -> None:
        gateway = echoing(tcp())
        async with running(gateway) as harness, await dial(harness):
            await gateway.first("accepted")
        assert [fact[0] for fact in gateway.facts[:3]] == ["listening", "started", "accepted"]
        name, address = gateway.all("listening")[0]
        assert (name, address.host) == ("tcp", "127.0.0.1")
        assert address.port

    go(body)


def test_tcp_echo_and_half_close(go: Callable[[Body], None]) -> None:
    async def body() -> None:
        gateway = echoing(tcp())
        async with running(gateway) as harness:
            async with await dial(harness) as client:
                await client.send(b"one ")
                assert await client.receive() == b"one "
                await client.send(b"two")
                await client.send_eof()
                assert await read_all(client) == b"two"
            await gateway.first("closed")
        conn = gateway.all("accepted")[0][2]
        names = [fact[0] for fact in gateway.facts if fact[0] == "closed" or fact[1:2] == (conn,)]
        assert names[-1] == "closed" and names.count("closed") == 1 and names.count("received_eof") == 1
        assert sum(args[1] for args in gateway.all("flushed")) == 7

    go(body)


def test_big_write_in_order_and_close_after_it(go: Callable[[Body], None]) -> None:
    chunks = [bytes([n % 251]) * (n * 37 % 70_000) for n in range(300)]
    whole = b"".join(chunks)

    async def body() -> None:
        gateway = FakeGateway(tcp())
        gateway.hooks["accepted"] = lambda _, peer, conn: gateway.put(fx.Write(conn, chunks), fx.Close(conn))
        async with running(gateway) as harness:
            async with await dial(harness) as client:
                assert await read_all(client) == whole
            await gateway.first("closed")
        assert sum(args[1] for args in gateway.all("flushed")) == len(whole)

    go(body)


def test_a_reader_that_stops_holds_back_only_itself(go: Callable[[Body], None]) -> None:
    async def body() -> None:
        gateway = echoing(tcp())
        async with running(gateway) as harness, await dial(harness) as slow, await dial(harness) as quick:
            await gateway.until(lambda: len(gateway.all("accepted")) == 2)
            conn = gateway.all("accepted")[0][2]
            harness.put(fx.Write(conn, [b"x" * (32 * MB)]))
            for _ in range(20):
                await quick.send(b"ping")
                assert await quick.receive() == b"ping"
            flushed = sum(args[1] for args in gateway.all("flushed") if args[0] == conn)
            assert flushed < 16 * MB
            harness.put(fx.Abort(conn))
            await gateway.until(lambda: gateway.all("closed"))
            assert gateway.all("closed") == [(conn, "aborted")]
            with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
                while True:
                    await slow.receive(MB)

    go(body)


def test_pause_and_resume_reading(go: Callable[[Body], None]) -> None:
    async def body() -> None:
        gateway = FakeGateway(tcp())
        gateway.hooks["accepted"] = lambda _, peer, conn: gateway.put(fx.PauseRead(conn))
        async with running(gateway) as harness:
            async with await dial(harness) as client, await dial(harness) as other:
                await gateway.until(lambda: len(gateway.all("accepted")) == 2)
                conn, second = (args[2] for args in gateway.all("accepted"))
                await client.send(b"held")
                await client.send_eof()
                harness.put(fx.ResumeRead(second))
                await other.send(b"seen")
                await gateway.until(lambda: gateway.data(second))
                assert not gateway.data(conn)
                harness.put(fx.ResumeRead(conn))
                await gateway.first("received_eof")
                assert gateway.data(conn) == b"held"

    go(body)


def test_shutdown_write_then_peer_ends(go: Callable[[Body], None]) -> None:
    async def body() -> None:
        gateway = FakeGateway(tcp())
        gateway.hooks["accepted"] = lambda _, peer, conn: gateway.put(
            fx.Write(conn, [b"bye"]), fx.ShutdownWrite(conn)
        )
        async with running(gateway) as harness:
            async with await dial(harness) as client:
                assert await read_all(client) == b"bye"
                assert not gateway.all("closed")
                await client.send(b"late")
            await gateway.first("closed")
            names = [fact[0] for fact in gateway.facts if fact[0] in ("received", "received_eof", "closed")]
            assert names == ["received", "received_eof", "closed"]

    go(body)


def test_paused_accept_leaves_clients_waiting(go: Callable[[Body], None]) -> None:
    async def body() -> None:
        gateway = echoing(tcp(), tcp("other"))
        async with running(gateway) as harness:
            harness.put(fx.PauseAccept("tcp"))
            async with await dial(harness) as waiting, await dial(harness, "other") as taken:
                await taken.send(b"x")
                assert await taken.receive() == b"x"
                assert [args[0] for args in gateway.all("accepted")] == ["other"]
                harness.put(fx.ResumeAccept("tcp"))
                await waiting.send(b"y")
                assert await waiting.receive() == b"y"
            harness.put(fx.Unlisten("tcp"))
            with pytest.raises(OSError):
                await dial(harness)

    go(body)


def test_out_of_descriptors_backs_off_and_recovers(
    go: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mcpgate import fd

    real, failures = fd.accept, iter([OSError(24, "too many")])

    def accept(listener: socket.socket) -> Any:
        for failure in failures:
            raise failure
        return real(listener)

    monkeypatch.setattr(fd, "accept", accept)

    async def body() -> None:
        gateway = echoing(tcp())
        async with running(gateway) as harness, await dial(harness) as client:
            await client.send(b"x")
            assert await client.receive() == b"x"
        assert gateway.all("accept_failed") == [("tcp", "too many open files")]

    go(body)


def test_a_port_in_use_is_told(go: Callable[[Body], None]) -> None:
    async def body() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            gateway = FakeGateway(fx.Listen(listener="a", kind="tcp", host="127.0.0.1", port=port))
            gateway.hooks["listen_failed"] = lambda *_: gateway.put(fx.Stopped("no listener"))
            from mcpgate.asyncio_ import Options, serve

            outcome = await serve(gateway, Options(signals=False))
        assert outcome.failure == "no listener"
        assert outcome.listen_failures == {"a": "address already in use"}

    go(body)


# -- time


def test_the_timer_fires_at_the_earliest_deadline(go: Callable[[Body], None]) -> None:
    async def body() -> None:
        gateway = FakeGateway()
        gateway.hooks["timed_out"] = lambda: setattr(gateway, "at", None)
        async with running(gateway) as harness:
            harness.alarm(time.monotonic() + 3600)
            due = time.monotonic() + 0.05
            harness.alarm(due)
            await gateway.first("timed_out")
            assert due - 0.02 <= gateway.last_now < due + 5

    go(body)


# -- dialling


def test_connect_echo_and_failure(go: Callable[[Body], None]) -> None:
    async def body() -> None:
        gateway = echoing(tcp())
        async with running(gateway) as harness:
            there = harness.addresses["tcp"]
            harness.put(fx.Connect(1, there))
            await gateway.first("connected")
            harness.put(fx.Write(1, [b"hello"]))
            await gateway.until(lambda: b"hello" in gateway.data(1))
            harness.put(fx.Close(1))
            await gateway.until(lambda: len(gateway.all("closed")) == 2)
            with socket.create_server(("127.0.0.1", 0)) as server:
                port = server.getsockname()[1]
            harness.put(fx.Connect(2, Address(host="127.0.0.1", port=port)))
            assert await gateway.first("connect_failed") == (2, "connection refused")
            harness.put(fx.Connect(3, Address(path="/nonexistent/socket")))
            await gateway.until(lambda: len(gateway.all("connect_failed")) == 2)
            assert gateway.all("connect_failed")[1] == (3, "no such file or directory")

    go(body)


def test_an_aborted_dial_is_closed_once(go: Callable[[Body], None]) -> None:
    async def body() -> None:
        gateway = FakeGateway()
        with socket.socket() as full:
            # A listener whose queue is full: further dials hang.
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            address = Address(host="127.0.0.1", port=full.getsockname()[1])
            async with running(gateway) as harness:
                harness.put(*(fx.Connect(n, address) for n in range(1, 6)))
                harness.put(fx.Abort(5))
                assert await gateway.first("closed") == (5, "aborted")
                assert (5,) not in [args[:1] for args in gateway.all("connected")]

    go(body)


def test_names_are_looked_up(go: Callable[[Body], None]) -> None:
    async def body() -> None:
        gateway = FakeGateway()
        async with running(gateway) as harness:
            harness.put(fx.Resolve(7, "localhost"), fx.Resolve(8, "a..b"))
            lookup, addresses = await gateway.first("resolved")
            assert lookup == 7
            assert {a.host for a in addresses} <= {"127.0.0.1", "::1"} and all(a.port == 0 for a in addresses)
            assert (await gateway.first("resolve_failed"))[0] == 8

    go(body)


# -- children


def test_child_echo_stderr_and_exit(go: Callable[[Body], None]) -> None:
    code = (
        "import os,sys\n"
        "print(sorted(os.environ.items()), os.getcwd(), os.getpgrp() == os.getpid(), file=sys.stderr)\n"
        "for line in sys.stdin: print(line.upper(), end='', flush=True)\n"
        "sys.exit(7)"
    )

    async def body() -> None:
        gateway = FakeGateway()
        async with running(gateway) as harness:
            harness.put(child(1, code, env={"LC_CTYPE": "C.UTF-8", "A": "b"}, cwd="/"))
            conn, peer, tls = await gateway.first("connected")
            assert (conn, peer.kind, tls) == (1, "child", None)
            harness.put(fx.Write(1, [b"one\n", b"two\n"]))
            await gateway.until(lambda: gateway.data(1) == b"ONE\nTWO\n")
            harness.put(fx.ShutdownWrite(1))
            await gateway.first("closed")
            assert gateway.all("exited") == [(1, 7)]
            assert gateway.facts[-1][:2] == ("closed", 1)
            assert len(gateway.all("received_eof")) == 1
            stderr = gateway.data(1, "received_stderr").decode()
            assert stderr == "[('A', 'b'), ('LC_CTYPE', 'C.UTF-8')] / True\n"

    go(body)


def test_a_flood_on_stderr_does_not_block_the_child(go: Callable[[Body], None]) -> None:
    code = "import sys\nsys.stderr.write('e' * 300_000)\nsys.stdout.write('done')"

    async def body() -> None:
        gateway = FakeGateway()
        async with running(gateway) as harness:
            harness.put(child(1, code), fx.PauseRead(1), fx.ResumeRead(1))
            await gateway.first("closed")
            assert gateway.data(1) == b"done"
            assert len(gateway.data(1, "received_stderr")) == 300_000

    go(body)


def test_big_writes_to_a_child_that_reads_late(go: Callable[[Body], None]) -> None:
    code = (
        "import sys\nsys.stdout.write('up'); sys.stdout.flush()\n"
        "n = len(sys.stdin.buffer.read())\nsys.stdout.write(str(n))"
    )

    async def body() -> None:
        gateway = FakeGateway()
        async with running(gateway) as harness:
            harness.put(child(1, code), fx.Write(1, [b"x" * MB] * 5), fx.ShutdownWrite(1))
            await gateway.first("closed")
            assert gateway.data(1) == b"up" + str(5 * MB).encode()
            assert sum(args[1] for args in gateway.all("flushed")) == 5 * MB

    go(body)


def test_terminate_then_kill_reach_the_whole_group(go: Callable[[Body], None]) -> None:
    # The child ignores SIGTERM; its own child does not, and says so by its end.
    code = (
        "import os,signal,sys\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "r, w = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_DFL); os.close(r); os.write(1, b'up'); signal.pause()\n"
        "os.close(w); os.read(r, 1); os.write(1, b' grandchild gone'); signal.pause()"
    )

    async def body() -> None:
        gateway = FakeGateway()
        async with running(gateway) as harness:
            harness.put(child(1, code))
            await gateway.until(lambda: gateway.data(1) == b"up")
            harness.put(fx.Signal(1, "TERMINATE"))
            await gateway.until(lambda: gateway.data(1) == b"up grandchild gone")
            assert not gateway.all("exited")
            harness.put(fx.Signal(1, "KILL"))
            await gateway.first("closed")
            assert gateway.all("exited") == [(1, -9)]

    go(body)


GRANDCHILD = (
    "import os,sys,signal\n"
    "if os.fork() == 0:\n"
    "    if sys.argv[1:] == ['setsid']: os.setsid()\n"
    "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "    os.write(1, b'%d\\n' % os.getpid())\n"
    "    while True: signal.pause()\n"
    "sys.stdin.read()"
)


@pytest.mark.parametrize("how", ["", "setsid"])
def test_what_a_child_leaves_behind_is_ended(go: Callable[[Body], None], how: str) -> None:
    async def body() -> None:
        gateway = FakeGateway()
        async with running(gateway) as harness:
            harness.put(child(1, GRANDCHILD, *([how] if how else [])))
            await gateway.until(lambda: gateway.data(1).endswith(b"\n"))
            left = int(gateway.data(1))
            assert alive(left)
            harness.put(fx.ShutdownWrite(1))
            await gateway.first("closed")
            assert gateway.all("exited") == [(1, 0)]
            await gone(left)

    go(body)


def test_aborted_and_forgotten_children_end(go: Callable[[Body], None]) -> None:
    async def body() -> None:
        gateway = FakeGateway()
        async with running(gateway) as harness:
            harness.put(child(1, GRANDCHILD), child(2, GRANDCHILD))
            await gateway.until(lambda: all(gateway.data(n).endswith(b"\n") for n in (1, 2)))
            pids = [args[1].pid for args in gateway.all("connected")]
            pids += [int(gateway.data(n)) for n in (1, 2)]
            harness.put(fx.Abort(1))
            await gateway.first("closed")
            assert gateway.all("exited") == [(1, -9)]
        # The second was still up when the run ended.
        for pid in pids:
            await gone(pid)

    go(body)


def test_a_child_that_closes_stdout_but_lives(go: Callable[[Body], None]) -> None:
    async def body() -> None:
        gateway = FakeGateway()
        async with running(gateway) as harness:
            harness.put(child(1, "import os,signal\nos.close(1)\nsignal.pause()"))
            await gateway.first("received_eof")
            assert not gateway.all("closed") and not gateway.all("exited")
            harness.put(fx.Signal(1, "TERMINATE"))
            await gateway.first("closed")
            assert gateway.all("exited") == [(1, -15)]

    go(body)


def test_a_child_that_closes_stdin_is_still_read(go: Callable[[Body], None], tmp_path: Path) -> None:
    code = "import os,sys\nos.close(0)\nos.write(1, b'shut ')\nopen(sys.argv[1]).read()\nos.write(1, b'end')"
    fifo = str(tmp_path / "go on")
    os.mkfifo(fifo)

    async def body() -> None:
        gateway = FakeGateway()
        gateway.hooks["received"] = lambda conn, data: gateway.put(fx.Write(conn, [b"to nobody"]))
        async with running(gateway) as harness:
            harness.put(child(1, code, fifo))
            # What can never be sent counts as gone.
            await gateway.first("flushed")
            await anyio.Path(fifo).write_bytes(b"")
            await gateway.first("closed")
            assert gateway.data(1) == b"shut end"

    go(body)


def test_failed_starts_say_why(go: Callable[[Body], None], tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("not a program")

    async def body() -> None:
        gateway = FakeGateway()
        async with running(gateway) as harness:
            harness.put(
                Spawn(conn=1, argv=("/nonexistent/server",), env={}),
                Spawn(conn=2, argv=(str(plain),), env={}),
                Spawn(conn=3, argv=(sys.executable,), env={}, cwd="/nonexistent"),
                Spawn(conn=4, argv=(sys.executable, "a\0b"), env={}),
                Spawn(conn=5, argv=(sys.executable,), env={}, pin="sha256:" + "0" * 64),
            )
            await gateway.until(lambda: len(gateway.all("connect_failed")) == 5)
        reasons = dict(gateway.all("connect_failed"))
        assert reasons[1] == "cannot start /nonexistent/server: no such file or directory"
        assert reasons[2] == f"cannot start {plain}: permission denied"
        assert reasons[3] == "cannot start /nonexistent: no such file or directory"
        assert "NUL byte" in reasons[4]
        assert "is not the pinned file" in reasons[5]
        assert len(gateway.facts) == 6

    go(body)


def test_pin_and_limits(go: Callable[[Body], None], tmp_path: Path) -> None:
    import hashlib

    script = tmp_path / "server"
    script.write_text(
        f"#!{sys.executable} -IS\nimport os,resource as r,sys\n"
        "print(r.getrlimit(r.RLIMIT_NOFILE), r.getrlimit(r.RLIMIT_CPU), dict(os.environ), sys.argv[1:])"
    )
    script.chmod(0o755)
    pin = "sha256:" + hashlib.sha256(script.read_bytes()).hexdigest()

    async def body() -> None:
        gateway = FakeGateway()
        async with running(gateway) as harness:
            limits = fx.ProcessLimits(open_files=64, cpu_seconds=50)
            env = {"LC_CTYPE": "C.UTF-8"}
            harness.put(Spawn(conn=1, argv=(str(script), "x"), env=env, pin=pin, limits=limits))
            await gateway.first("closed")
            assert gateway.data(1) == b"(64, 64) (50, 50) {'LC_CTYPE': 'C.UTF-8'} ['x']\n"

    go(body)


# -- stdio


def test_stdio_over_pipes_stays_blocking(go: Callable[[Body], None]) -> None:
    async def body() -> None:
        gateway = echoing(fx.Listen(listener="io", kind="stdio"))
        (in_read, in_write), (out_read, out_write) = os.pipe(), os.pipe()
        given = (os.dup(in_read), os.dup(out_write))
        async with running(gateway, stdio={"io": given}) as harness:
            data = os.urandom(3 * MB)

            def feed() -> None:
                with open(in_write, "wb", closefd=False) as file:
                    file.write(data)
                os.close(in_write)

            def drain() -> bytes:
                with open(out_read, "rb", closefd=False) as file:
                    return file.read(len(data))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, feed)
                assert await anyio.to_thread.run_sync(drain) == data
            assert os.get_blocking(in_read) and os.get_blocking(out_write)
            await gateway.first("closed")
            assert gateway.all("accepted")[0][1].kind == "stdio"
            assert harness.addresses == {"io": Address()}
        for fd in (in_read, out_read, out_write):
            os.close(fd)

    go(body)


def test_stdio_from_a_file_to_a_file(go: Callable[[Body], None], tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b"line\n" * 100_000)

    async def body() -> None:
        gateway = echoing(fx.Listen(listener="io", kind="stdio"))
        given = (os.open(source, os.O_RDONLY), os.open(target, os.O_WRONLY | os.O_CREAT))
        async with running(gateway, stdio={"io": given}):
            await gateway.first("closed")
        assert target.read_bytes() == source.read_bytes()

    go(body)


def test_stdio_over_one_socket(go: Callable[[Body], None]) -> None:
    async def body() -> None:
        gateway = echoing(fx.Listen(listener="io", kind="stdio"))
        ours, theirs = socket.socketpair()
        given = (os.dup(theirs.fileno()), os.dup(theirs.fileno()))
        theirs.close()
        async with running(gateway, stdio={"io": given}):

            def talk() -> bytes:
                ours.sendall(b"x" * 1000)
                ours.shutdown(socket.SHUT_WR)
                parts = []
                while part := ours.recv(4096):
                    parts.append(part)
                return b"".join(parts)

            assert await anyio.to_thread.run_sync(talk) == b"x" * 1000
        ours.close()

    go(body)


# -- TLS


@pytest.mark.parametrize("size", [5, 3 * MB])
def test_tls_echo(go: Callable[[Body], None], tls_server: Any, size: int) -> None:
    async def body() -> None:
        gateway = FakeGateway()
        async with running(gateway) as harness:
            options = TlsOptions(server_name="server.test", ca_file=tls_server.ca_file)
            harness.put(fx.Connect(1, tls_server.address, options))
            _, peer, facts = await gateway.first("connected")
            assert facts.version in ("TLSv1.2", "TLSv1.3") and peer.address == tls_server.address
            data = os.urandom(size)
            harness.put(fx.Write(1, [data]))
            await gateway.until(lambda: len(gateway.data(1)) == size)
            assert gateway.data(1) == data
            assert sum(args[1] for args in gateway.all("flushed")) == size
            harness.put(fx.Write(1, [b"quit"]))
            await gateway.first("received_eof")
            harness.put(fx.Close(1))
            await gateway.first("closed")

    go(body)


def test_tls_refuses_wrong_names_and_unknown_authorities(go: Callable[[Body], None], tls_server: Any) -> None:
    async def body() -> None:
        gateway = FakeGateway()
        async with running(gateway) as harness:
            wrong = TlsOptions(server_name="other.test", ca_file=tls_server.ca_file)
            harness.put(fx.Connect(1, tls_server.address, wrong))
            harness.put(fx.Connect(2, tls_server.address, TlsOptions(server_name="server.test")))
            missing = TlsOptions(server_name="server.test", ca_file="/nonexistent/ca.pem")
            harness.put(fx.Connect(3, tls_server.address, missing))
            await gateway.until(lambda: len(gateway.all("connect_failed")) == 3)
        reasons = dict(gateway.all("connect_failed"))
        assert reasons[1].startswith("certificate not accepted: Hostname mismatch")
        assert reasons[2].startswith("certificate not accepted: ")
        assert reasons[3] == "no such file or directory"
        assert not gateway.all("connected") and not gateway.all("closed")

    go(body)


# -- the end


def test_stop_event_asks_for_shutdown(go: Callable[[Body], None]) -> None:
    async def body() -> None:
        stop = anyio.Event()
        gateway = FakeGateway(tcp())
        gateway.hooks["shutdown"] = lambda grace_s: gateway.put(fx.Stopped())
        async with running(gateway, stop=stop, grace_s=3.0):
            stop.set()
            await gateway.first("shutdown")
        assert gateway.all("shutdown") == [(3.0,)]

    go(body)


def test_cancelled_run_leaves_nothing(go: Callable[[Body], None]) -> None:
    async def body() -> None:
        from mcpgate.asyncio_ import Options, serve

        before = open_fds()
        gateway = FakeGateway(tcp())
        ready = anyio.Event()
        gateway.hooks["started"] = lambda: gateway.put(child(1, GRANDCHILD))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve, gateway, Options(signals=False, ready=lambda _: ready.set()))
            await ready.wait()
            await gateway.until(lambda: gateway.data(1).endswith(b"\n"))
            tasks.cancel_scope.cancel()
        assert open_fds() == before
        await gone(gateway.all("connected")[0][1].pid)
        await gone(int(gateway.data(1)))

    go(body)
