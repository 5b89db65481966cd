"""Processes: whatever ends the gateway, its children and theirs end too; and stdout carries messages only."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from e2e.conftest import MakeGateway
from e2e.harness import MCPGATE, PEERS, Gateway, alive, descendants, environment, until
from e2e.rawhttp import Http, Session, modern

PLAIN = [sys.executable, str(PEERS / "plain.py")]
# Ending a stubborn child takes all steps: make them short.
LIMITS = {"stop_wait_s": 0.3, "term_wait_s": 0.3}


def plain(name: str, *flags: str, **more: object) -> dict[str, object]:
    return {"name": name, "command": PLAIN[0], "args": [PLAIN[1], "--name", name, *flags], **more}


def pids_in(file: Path, count: int) -> list[int]:
    """The processes that noted themselves, once there are this many."""

    def found() -> list[int]:
        pids = [int(one) for one in file.read_text().split()] if file.exists() else []
        return pids if len(pids) >= count else []

    return list(until(found, f"{count} processes"))


def by_eof(gateway: Gateway) -> None:
    gateway.close_stdin()


def by_term(gateway: Gateway) -> None:
    gateway.popen.send_signal(signal.SIGTERM)


def by_int(gateway: Gateway) -> None:
    gateway.popen.send_signal(signal.SIGINT)


@pytest.mark.parametrize("flags", [(), ("--launcher", "--stubborn")], ids=["plain", "stubborn launcher"])
@pytest.mark.parametrize(("end", "code"), [(by_eof, 0), (by_term, 0), (by_int, 130)])
def test_no_process_is_left(
    end: Callable[[Gateway], None],
    code: int,
    flags: tuple[str, ...],
    serve_gateway: MakeGateway,
    tmp_path: Path,
) -> None:
    pids = tmp_path / "pids"
    gateway = serve_gateway([plain("one", "--pids", str(pids), *flags), plain("two")], limits=LIMITS)
    # Both eras: a child for each.
    http = Http(gateway.port)
    assert http.modern("tools/call", name="one__who", arguments={}).messages[-1]["result"]["content"]
    assert Session(http).call("one__who") == "one"
    known = pids_in(pids, 4 if "--launcher" in flags else 2)
    below = descendants(gateway.pid)
    assert set(known) <= set(below)
    end(gateway)
    assert gateway.wait() == code
    left = [pid for pid in {*known, *below} if alive(pid)]
    assert left == []


@pytest.mark.parametrize("flags", [(), ("--launcher",)], ids=["child", "grandchild"])
def test_a_killed_gateway_leaves_children_that_end_by_themselves(
    flags: tuple[str, ...], run_gateway: MakeGateway, tmp_path: Path
) -> None:
    """Nothing can be done after SIGKILL, but their stdin ends with the gateway."""
    pids = tmp_path / "pids"
    gateway = run_gateway([*PLAIN, "--pids", str(pids), *flags])
    assert Session(Http(gateway.port)).call("who") == "plain"
    known = pids_in(pids, 1 + len(flags))
    gateway.popen.kill()
    gateway.wait()
    until(lambda: not any(alive(pid) for pid in known), "the end of the children")


def test_a_second_signal_does_not_leave_children(serve_gateway: MakeGateway, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    gateway = serve_gateway([plain("one", "--stubborn", "--pids", str(pids))], limits=LIMITS)
    known = pids_in(pids, 1)
    gateway.popen.send_signal(signal.SIGTERM)
    gateway.popen.send_signal(signal.SIGTERM)
    gateway.wait()
    until(lambda: not any(alive(pid) for pid in known), "the end of the children")


def test_only_messages_on_stdout(serve_gateway: MakeGateway) -> None:
    """Whatever servers print, and whatever is logged at the lowest level."""
    gateway = serve_gateway(
        [plain("one", "--chatty"), plain("two", "--chatty", "--launcher")],
        listen=[{"kind": "stdio"}],
        gateway={"log_level": "debug"},
    )
    tools = gateway.ask("tools/list")["result"]["tools"]
    assert {"one__who", "two__who"} <= {tool["name"] for tool in tools}
    gateway.send(b"this is no message\n")
    gateway.send(b"\n")
    gateway.send(b'{"jsonrpc":"2.0","id":1,"method":\xff}\n')
    assert "result" in gateway.ask("tools/call", name="one__echo", arguments={"text": "still here"})
    gateway.close_stdin()
    assert gateway.wait() == 0
    assert gateway.out and all(json.loads(line)["jsonrpc"] == "2.0" for line in gateway.out)
    logged = "\n".join(gateway.err)
    assert "words on stderr" in logged
    # What a child writes must not steer a terminal.
    assert "\x1b" not in logged


def test_answers_go_out_after_stdin_ends(serve_gateway: MakeGateway) -> None:
    """`printf ... | mcpgate serve`: what was asked before the end is still answered."""
    gateway = serve_gateway([plain("one")], listen=[{"kind": "stdio"}])
    gateway.ask("tools/list")
    gateway.send(modern("tools/list", 99)[0])
    gateway.close_stdin()
    assert gateway.wait() == 0
    assert gateway.answer_to(99) is not None


def test_children_do_not_inherit_secrets_or_descriptors(run_gateway: MakeGateway, tmp_path: Path) -> None:
    """A child's environment is an allow-list plus what it is given; its descriptors are three."""
    pids = tmp_path / "pids"
    gateway = run_gateway(
        [*PLAIN, "--pids", str(pids)],
        "-e",
        "GIVEN=yes",
        "-e",
        "NAMED",
        env={"NAMED": "too", "SECRET_TOKEN": "of the parent"},
    )
    assert Session(Http(gateway.port)).call("who") == "plain"
    for child in pids_in(pids, 1):
        raw = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        env = dict(one.decode().split("=", 1) for one in raw if one)
        assert env["GIVEN"] == "yes" and env["NAMED"] == "too"
        assert not {"SECRET_TOKEN", "PYTHONPATH"} & set(env)
        found = {int(one): os.readlink(f"/proc/{child}/fd/{one}") for one in os.listdir(f"/proc/{child}/fd")}
        # The list of processes is the child's own.
        assert sorted(one for one, what in found.items() if what != str(pids)) == [0, 1, 2]


def test_a_port_that_is_taken(run_gateway: MakeGateway) -> None:
    gateway = run_gateway(PLAIN)
    argv = [*MCPGATE, "run", "--port", str(gateway.port), "--", *PLAIN]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, env=environment())
    assert done.returncode == 1
    assert f"cannot listen on localhost:{gateway.port}" in done.stderr and "--port 0" in done.stderr
