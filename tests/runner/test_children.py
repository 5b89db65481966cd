"""What every runner must do with children.

Must never: use the real core, or ask which runner it is.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from mcpgate_proto import effects as fx
from mcpgate_proto.effects import Spawn
from tests.runner.conftest import Start
from tests.runner.fake import MB, FakeGateway, alive, child, gone


def test_child_echo_stderr_and_exit(start: Start) -> None:
    code = (
        "import os,sys\n"
        "print(sorted(os.environ.items()), os.getcwd(), os.getpgrp() == os.getpid(), file=sys.stderr)\n"
        "for line in sys.stdin: print(line.upper(), end='', flush=True)\n"
        "sys.exit(7)"
    )

    gateway = FakeGateway()
    with start(gateway) as harness:
        harness.put(child(1, code, env={"LC_CTYPE": "C.UTF-8", "A": "b"}, cwd="/"))
        conn, peer, tls = gateway.first("connected")
        assert (conn, peer.kind, tls) == (1, "child", None)
        harness.put(fx.Write(1, [b"one\n", b"two\n"]))
        gateway.until(lambda: gateway.data(1) == b"ONE\nTWO\n")
        harness.put(fx.ShutdownWrite(1))
        gateway.first("closed")
        assert gateway.all("exited") == [(1, 7)]
        assert gateway.facts[-1][:2] == ("closed", 1)
        assert len(gateway.all("received_eof")) == 1
        stderr = gateway.data(1, "received_stderr").decode()
        assert stderr == "[('A', 'b'), ('LC_CTYPE', 'C.UTF-8')] / True\n"


def test_a_flood_on_stderr_does_not_block_the_child(start: Start) -> None:
    code = "import sys\nsys.stderr.write('e' * 300_000)\nsys.stdout.write('done')"

    gateway = FakeGateway()
    with start(gateway) as harness:
        harness.put(child(1, code), fx.PauseRead(1), fx.ResumeRead(1))
        gateway.first("closed")
        assert gateway.data(1) == b"done"
        assert len(gateway.data(1, "received_stderr")) == 300_000


def test_big_writes_to_a_child_that_reads_late(start: Start) -> None:
    code = (
        "import sys\nsys.stdout.write('up'); sys.stdout.flush()\n"
        "n = len(sys.stdin.buffer.read())\nsys.stdout.write(str(n))"
    )

    gateway = FakeGateway()
    with start(gateway) as harness:
        harness.put(child(1, code), fx.Write(1, [b"x" * MB] * 5), fx.ShutdownWrite(1))
        gateway.first("closed")
        assert gateway.data(1) == b"up" + str(5 * MB).encode()
        assert sum(args[1] for args in gateway.all("flushed")) == 5 * MB


def test_terminate_then_kill_reach_the_whole_group(start: Start) -> None:
    # The child ignores SIGTERM; its own child does not, and says so by its end.
    code = (
        "import os,signal,sys\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "r, w = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_DFL); os.close(r); os.write(1, b'up'); signal.pause()\n"
        "os.close(w); os.read(r, 1); os.write(1, b' grandchild gone'); signal.pause()"
    )

    gateway = FakeGateway()
    with start(gateway) as harness:
        harness.put(child(1, code))
        gateway.until(lambda: gateway.data(1) == b"up")
        harness.put(fx.Signal(1, "TERMINATE"))
        gateway.until(lambda: gateway.data(1) == b"up grandchild gone")
        assert not gateway.all("exited")
        harness.put(fx.Signal(1, "KILL"))
        gateway.first("closed")
        assert gateway.all("exited") == [(1, -9)]


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
def test_what_a_child_leaves_behind_is_ended(start: Start, how: str) -> None:
    gateway = FakeGateway()
    with start(gateway) as harness:
        harness.put(child(1, GRANDCHILD, *([how] if how else [])))
        gateway.until(lambda: gateway.data(1).endswith(b"\n"))
        left = int(gateway.data(1))
        assert alive(left)
        harness.put(fx.ShutdownWrite(1))
        gateway.first("closed")
        assert gateway.all("exited") == [(1, 0)]
        gone(left)


def test_aborted_and_forgotten_children_end(start: Start) -> None:
    gateway = FakeGateway()
    with start(gateway) as harness:
        harness.put(child(1, GRANDCHILD), child(2, GRANDCHILD))
        gateway.until(lambda: all(gateway.data(n).endswith(b"\n") for n in (1, 2)))
        pids = [args[1].pid for args in gateway.all("connected")]
        pids += [int(gateway.data(n)) for n in (1, 2)]
        harness.put(fx.Abort(1))
        gateway.first("closed")
        assert gateway.all("exited") == [(1, -9)]
    # The second was still up when the run ended.
    for pid in pids:
        gone(pid)


def test_a_child_that_closes_stdout_but_lives(start: Start) -> None:
    gateway = FakeGateway()
    with start(gateway) as harness:
        harness.put(child(1, "import os,signal\nos.close(1)\nsignal.pause()"))
        gateway.first("received_eof")
        assert not gateway.all("closed") and not gateway.all("exited")
        harness.put(fx.Signal(1, "TERMINATE"))
        gateway.first("closed")
        assert gateway.all("exited") == [(1, -15)]


def test_a_child_that_closes_stdin_is_still_read(start: Start, tmp_path: Path) -> None:
    code = "import os,sys\nos.close(0)\nos.write(1, b'shut ')\nopen(sys.argv[1]).read()\nos.write(1, b'end')"
    fifo = str(tmp_path / "go on")
    os.mkfifo(fifo)

    gateway = FakeGateway()
    gateway.hooks["received"] = lambda conn, data: gateway.put(fx.Write(conn, [b"to nobody"]))
    with start(gateway) as harness:
        harness.put(child(1, code, fifo))
        # What can never be sent counts as gone.
        gateway.first("flushed")
        Path(fifo).write_bytes(b"")
        gateway.first("closed")
        assert gateway.data(1) == b"shut end"


def test_failed_starts_say_why(start: Start, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("not a program")

    gateway = FakeGateway()
    with start(gateway) as harness:
        harness.put(
            Spawn(conn=1, argv=("/nonexistent/server",), env={}),
            Spawn(conn=2, argv=(str(plain),), env={}),
            Spawn(conn=3, argv=(sys.executable,), env={}, cwd="/nonexistent"),
            Spawn(conn=4, argv=(sys.executable, "a\0b"), env={}),
            Spawn(conn=5, argv=(sys.executable,), env={}, pin="sha256:" + "0" * 64),
        )
        gateway.until(lambda: len(gateway.all("connect_failed")) == 5)
    reasons = dict(gateway.all("connect_failed"))
    assert reasons[1] == "cannot start /nonexistent/server: no such file or directory"
    assert reasons[2] == f"cannot start {plain}: permission denied"
    assert reasons[3] == "cannot start /nonexistent: no such file or directory"
    assert "NUL byte" in reasons[4]
    assert "is not the pinned file" in reasons[5]
    assert len(gateway.facts) == 6


def test_pin_and_limits(start: Start, tmp_path: Path) -> None:
    import hashlib

    script = tmp_path / "server"
    script.write_text(
        f"#!{sys.executable} -IS\nimport os,resource as r,sys\n"
        "print(r.getrlimit(r.RLIMIT_NOFILE), r.getrlimit(r.RLIMIT_CPU), dict(os.environ), sys.argv[1:])"
    )
    script.chmod(0o755)
    pin = "sha256:" + hashlib.sha256(script.read_bytes()).hexdigest()

    gateway = FakeGateway()
    with start(gateway) as harness:
        limits = fx.ProcessLimits(open_files=64, cpu_seconds=50)
        env = {"LC_CTYPE": "C.UTF-8"}
        harness.put(Spawn(conn=1, argv=(str(script), "x"), env=env, pin=pin, limits=limits))
        gateway.first("closed")
        assert gateway.data(1) == b"(64, 64) (50, 50) {'LC_CTYPE': 'C.UTF-8'} ['x']\n"
