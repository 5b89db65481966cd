"""How a run ends, on every runner: stops, failures, and nothing left behind.

Must never: ask which runner it is.
"""

from __future__ import annotations

import errno
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mcpgate import process
from mcpgate.control import Control, Options
from mcpgate_proto import effects as fx
from mcpgate_proto.effects import Address
from tests.runner.conftest import Start
from tests.runner.fake import PATIENCE_S, FakeGateway, Harness, Left, Run, child, dial, echoing, gone, tcp
from tests.runner.test_children import GRANDCHILD


def test_stopping_from_another_thread(start: Start) -> None:
    gateway = FakeGateway(tcp())
    gateway.hooks["shutdown"] = lambda grace_s: gateway.put(fx.Stopped())
    with start(gateway) as harness:
        harness.control.stop(3.0)
        gateway.first("shutdown")
        harness.join()
    assert gateway.all("shutdown") == [(3.0,)]
    # Nobody is there to hear it any more.
    harness.control.stop()


def test_what_is_asked_before_the_run_begins(run: Run) -> None:
    control, before = Control(), Left()
    control.stop(1.0)
    gateway = FakeGateway(tcp())
    gateway.hooks["shutdown"] = lambda grace_s: gateway.put(fx.Stopped("asked"))
    assert run(gateway, Options(signals=False, control=control)).failure == "asked"
    before.check()


def test_reload_from_another_thread(start: Start) -> None:
    from mcpgate_proto.config import GatewayConfig

    gateway = FakeGateway(tcp())
    with start(gateway) as harness:
        harness.control.reload(GatewayConfig(page_size=7))
        assert gateway.first("reload")[0].page_size == 7


def test_a_start_that_fails_leaves_nothing(run: Run) -> None:
    before = Left()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        gateway = FakeGateway(tcp("a"), fx.Listen(listener="b", kind="tcp", host="127.0.0.1", port=port))
        gateway.hooks["listen_failed"] = lambda *_: gateway.put(fx.Stopped("no listener"))
        ready: list[Any] = []
        outcome = run(gateway, Options(signals=False, ready=ready.append))
    assert outcome.failure == "no listener" and not ready
    assert outcome.listen_failures == {"b": "address already in use"}
    before.check()


def test_a_defect_ends_the_run_and_leaves_nothing(run: Run) -> None:
    def fail(conn: int, data: bytes) -> None:
        raise ZeroDivisionError("a defect of ours")

    before = Left()
    gateway = FakeGateway(tcp())
    gateway.hooks["received"] = fail
    gateway.hooks["started"] = lambda: gateway.put(child(1, GRANDCHILD), fx.PauseRead(1))
    harness = Harness(gateway, run)
    harness.thread.start()
    harness.ready.wait(PATIENCE_S)
    pid = gateway.first("connected")[1].pid
    with dial(harness) as client:
        client.sendall(b"x")
        with pytest.raises(ZeroDivisionError):
            harness.join()
    before.check()
    gone(pid)


def test_a_run_that_ends_in_the_middle_of_everything(start: Start) -> None:
    gateway = FakeGateway(tcp())
    gateway.hooks["accepted"] = lambda _, peer, conn: gateway.put(fx.Write(conn, [b"x" * 10_000_000]))
    with start(gateway) as harness:
        harness.held += [dial(harness) for _ in range(20)]
        harness.put(*(child(n, GRANDCHILD) for n in range(1, 4)))
        harness.put(*(fx.Connect(10 + n, harness.addresses["tcp"]) for n in range(5)))
        harness.put(fx.Connect(20, Address(host="192.0.2.1", port=9)), fx.Resolve(1, "localhost"))
        harness.alarm(time.monotonic() + 3600)
        gateway.until(lambda: len(gateway.all("accepted")) == 25)
        gateway.until(lambda: all(gateway.data(n).endswith(b"\n") for n in range(1, 4)))
        pids = [int(gateway.data(n)) for n in range(1, 4)]
    gone(*pids)


def test_connections_come_and_go(start: Start) -> None:
    gateway = echoing(tcp())
    with start(gateway) as harness:
        threads = threading.active_count()

        def talk() -> None:
            for _ in range(25):
                with dial(harness) as client:
                    client.sendall(b"ping")
                    assert client.recv(9) == b"ping"

        talkers = [threading.Thread(target=talk) for _ in range(8)]
        for one in talkers:
            one.start()
        for one in talkers:
            one.join()
        gateway.until(lambda: len(gateway.all("closed")) == 200)
        assert threading.active_count() < threads + 40
    assert len({args[2] for args in gateway.all("accepted")}) == 200


# -- descriptors run out


@pytest.fixture
def limits() -> Iterator[tuple[Callable[[int], None], Callable[[], None]]]:
    """Two functions: let only so many more descriptors be opened; let there be plenty again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def few(more: int) -> None:
        with socket.socket() as probe:
            resource.setrlimit(resource.RLIMIT_NOFILE, (probe.fileno() + more, hard))

    def plenty() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    yield few, plenty
    plenty()


def test_out_of_descriptors_nothing_dies(start: Start, limits: Any) -> None:
    few, plenty = limits
    gateway = echoing(tcp())
    with start(gateway) as harness:
        steady = dial(harness)
        steady.sendall(b"a")
        assert steady.recv(9) == b"a"
        address = harness.addresses["tcp"]
        clients = [socket.socket() for _ in range(10)]
        few(4)
        for client in clients:
            client.connect((address.host, address.port))
        gateway.first("accept_failed")
        harness.put(child(1, ""), fx.Connect(2, address))
        gateway.until(lambda: len(gateway.all("connect_failed")) + len(gateway.all("closed")) >= 2)
        steady.sendall(b"b")
        assert steady.recv(9) == b"b"
        plenty()
        for client in clients:
            client.close()
        with dial(harness) as late:
            late.sendall(b"c")
            assert late.recv(9) == b"c"
        steady.close()
    assert gateway.all("accept_failed")[0] == ("tcp", "too many open files")


def test_out_of_processes_is_a_failed_start(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*args: Any, **named: Any) -> None:
        raise OSError(errno.EAGAIN, "no more")

    gateway = FakeGateway(tcp())
    with start(gateway) as harness:
        monkeypatch.setattr(process.subprocess, "Popen", none_left)
        harness.put(child(1, ""))
        assert "resource temporarily unavailable" in gateway.first("connect_failed")[1]


def test_a_broken_pipe_of_a_connection_is_no_quiet_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line takes one for the end of its own stdout; a gateway must not end without a word."""
    from mcpgate import life, program
    from mcpgate_proto.config import GatewayConfig

    def broken(*given: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(life, "run_gateway", broken)
    with pytest.raises(RuntimeError, match="defect"):
        program.run_plan(program.Plan(GatewayConfig()))
