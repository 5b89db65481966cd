"""The commands as a person runs them: what they print, and their exit codes."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from e2e.conftest import MakeGateway
from e2e.harness import MCPGATE, PEERS, descendants, environment, toml

PLAIN = [sys.executable, str(PEERS / "plain.py")]


def mcpgate(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    home = {"HOME": str(cwd), "XDG_CONFIG_HOME": str(cwd / "xdg")}
    return subprocess.run(
        [*MCPGATE, *args],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        env=environment(**home, **env),
    )


def server(name: str, *flags: str) -> dict[str, object]:
    return {"name": name, "command": PLAIN[0], "args": [PLAIN[1], "--name", name, *flags]}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "mcpgate.toml"
    path.write_text(toml({"server": [server("old", "--era", "legacy"), server("new", "--era", "modern")]}))
    return path


def test_demo_check(tmp_path: Path) -> None:
    done = mcpgate("demo", "--check", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "both eras" in done.stdout


def test_tools_of_both_eras(config: Path) -> None:
    done = mcpgate("tools", "--json", cwd=config.parent)
    assert done.returncode == 0, done.stderr
    names = [tool["name"] for tool in json.loads(done.stdout)]
    assert {"old__who", "new__who"} <= set(names) and len(names) == len(set(names))
    shown = mcpgate("tools", cwd=config.parent)
    assert shown.returncode == 0 and "old__who" in shown.stdout and "new__echo" in shown.stdout


def test_tools_names_the_servers_that_are_missing(tmp_path: Path) -> None:
    """A list that is short for no visible reason would look like all there is."""
    mute = {"name": "mute", "command": sys.executable, "args": ["-c", "import time; time.sleep(60)"]}
    gone = {"name": "gone", "transport": "http", "url": "http://127.0.0.1:1/mcp"}
    servers = [server("old", "--era", "legacy"), mute, gone]
    text = toml({"gateway": {"startup_wait_s": 1.0}, "server": servers})
    (tmp_path / "mcpgate.toml").write_text(text)
    done = mcpgate("tools", cwd=tmp_path)
    assert done.returncode == 0 and "old__who" in done.stdout
    assert "server 'mute' is connecting; its tools are not listed" in done.stderr
    assert "server 'gone' is down; its tools are not listed" in done.stderr
    assert "server 'old'" not in done.stderr


@pytest.mark.parametrize("name", ["old", "new"])
def test_call(name: str, config: Path) -> None:
    done = mcpgate("call", f"{name}__echo", '{"text": "hello"}', "-c", str(config), cwd=config.parent)
    assert (done.returncode, done.stdout.strip()) == (0, "hello"), done.stderr
    done = mcpgate("call", f"{name}__echo", '{"text": "hello"}', "--json", cwd=config.parent)
    assert json.loads(done.stdout)["content"] == [{"type": "text", "text": "hello"}]


def test_call_that_fails(config: Path) -> None:
    done = mcpgate("call", "old__fail", cwd=config.parent)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    done = mcpgate("call", "no_such_tool", cwd=config.parent)
    assert done.returncode == 1 and "-32602" in done.stderr and done.stdout == ""
    for arguments in ("{not json", "[1]"):
        done = mcpgate("call", "old__echo", arguments, cwd=config.parent)
        assert done.returncode == 2 and "mend:" in done.stderr


def test_tools_and_call_of_an_address(run_gateway: MakeGateway, tmp_path: Path) -> None:
    gateway = run_gateway(PLAIN)
    done = mcpgate("tools", "--url", gateway.url, "--json", cwd=tmp_path)
    assert {"who", "echo"} <= {tool["name"] for tool in json.loads(done.stdout)}, done.stderr
    done = mcpgate("call", "who", "--url", gateway.url, cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "plain"), done.stderr


def test_an_address_where_nobody_is(tmp_path: Path) -> None:
    """Said at once: nothing is gained by trying again for half a minute."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for command in (["tools"], ["call", "who"]):
        start = time.monotonic()
        done = mcpgate(*command, "--url", f"http://127.0.0.1:{port}/mcp", cwd=tmp_path)
        assert done.returncode == 1, done
        assert "Traceback" not in done.stderr and "refused" in done.stderr.lower()
        assert time.monotonic() - start < 10.0


def test_no_config(tmp_path: Path) -> None:
    for command in ("serve", "check", "tools"):
        done = mcpgate(command, cwd=tmp_path)
        assert done.returncode == 2
        assert str(tmp_path / "mcpgate.toml") in done.stderr
        assert str(tmp_path / "xdg" / "mcpgate" / "mcpgate.toml") in done.stderr


def test_check(config: Path) -> None:
    done = mcpgate("check", cwd=config.parent)
    assert done.returncode == 0 and "good" in done.stdout, done.stderr


BAD = {
    "unknown key": ('[[server]]\nname = "a"\ncomand = "cat"\n', "did you mean 'command'?"),
    "unknown table": ('[gatway]\n[[server]]\nname = "a"\ncommand = "cat"\n', "gatway"),
    "no such command": ('[[server]]\nname = "a"\ncommand = "no-such-command-here"\n', "no-such-command-here"),
    "two of a name": ('[[server]]\nname = "a"\ncommand = "cat"\n' * 2, "name"),
    "separator in a name": ('[[server]]\nname = "a__b"\ncommand = "cat"\n', "a__b"),
    "open to everybody": ('[[server]]\nname = "a"\ncommand = "cat"\n[[listen]]\nhost = "0.0.0.0"\n', "host"),
    "no server": ("[gateway]\n", "server"),
    "not TOML": ("[[server]\n", "TOML"),
    "wrong kind": ('[[server]]\nname = "a"\ncommand = "cat"\ntimeout = "long"\n', "timeout"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_check_of_a_bad_config(what: str, tmp_path: Path) -> None:
    text, clue = BAD[what]
    path = tmp_path / "mcpgate.toml"
    path.write_text(text)
    for command in ("check", "serve"):
        done = mcpgate(command, "-c", str(path), cwd=tmp_path)
        assert done.returncode == 2, done
        assert clue in done.stderr and str(path) in done.stderr and "mend:" in done.stderr
        assert "Traceback" not in done.stderr and done.stdout == ""


def test_check_finds_every_problem_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mcpgate.toml"
    path.write_text('[[server]]\nname = "a"\ncomand = "cat"\ntimeout = "x"\n[gateway]\nlog_levl = "info"\n')
    done = mcpgate("check", "-c", str(path), cwd=tmp_path)
    assert done.returncode == 2
    assert all(key in done.stderr for key in ("comand", "timeout", "log_levl"))


def test_a_clients_own_list_of_servers(tmp_path: Path) -> None:
    path = tmp_path / "claude.json"
    path.write_text(json.dumps({"mcpServers": {"mine": {"command": PLAIN[0], "args": PLAIN[1:]}}}))
    assert mcpgate("check", "-c", str(path), cwd=tmp_path).returncode == 0
    done = mcpgate("call", "who", "-c", str(path), cwd=tmp_path)
    assert done.stdout.strip() == "plain", done.stderr


def test_serve_reports_a_wrong_command_line(tmp_path: Path) -> None:
    assert mcpgate("run", cwd=tmp_path).returncode == 2
    assert mcpgate("run", "--", "no-such-command-here", cwd=tmp_path).returncode == 2
    assert mcpgate("connect", "ftp://example.org", cwd=tmp_path).returncode == 2
    assert mcpgate("run", "--host", "0.0.0.0", "--", *PLAIN, cwd=tmp_path).returncode == 2


def test_versions(tmp_path: Path) -> None:
    found = json.loads(mcpgate("version", "--json", cwd=tmp_path).stdout)
    assert {"mcpgate", "python", "h11", "msgspec"} <= set(found)


def test_introspection(serve_gateway: MakeGateway) -> None:
    """`gateway/*` over stdio tells the real state: a server that is down is not connected."""
    dead = {"name": "dead", "command": sys.executable, "args": ["-c", "raise SystemExit(3)"]}
    gateway = serve_gateway([server("one"), dead, {**server("off"), "enabled": False}])
    listed = gateway.ask("gateway/list_servers")["result"]["servers"]
    assert [one["name"] for one in listed] == ["one", "dead", "off"]
    assert gateway.ask("tools/call", name="one__who", arguments={})["result"]["content"][0]["text"] == "one"
    assert gateway.status("one")["state"] == "connected"
    assert set(gateway.status("one")["pids"]) <= set(descendants(gateway.pid))
    assert gateway.status("dead")["state"] in ("down", "connecting")
    assert gateway.status("off")["state"] == "disabled"
    assert gateway.ask("gateway/get_server", name="one")["result"]["transport"] == "stdio"
    assert gateway.ask("gateway/get_server", name="nobody")["error"]["code"] == -32602
    assert "one" in gateway.ask("gateway/capabilities")["result"]["capabilities"]
    # An explicit route, which is not passed on.
    routed = gateway.ask("tools/call", name="who", arguments={}, _server="one")
    assert routed["result"]["content"][0]["text"] == "one"
    assert gateway.ask("tools/call", name="who", arguments={}, _server="nobody")["error"]["code"] == -32602


def test_help_of_every_command(tmp_path: Path) -> None:
    listing = mcpgate("--help", cwd=tmp_path)
    assert listing.returncode == 0
    for command in ("serve", "server", "run", "connect", "demo", "tools", "call", "check", "version"):
        assert mcpgate(command, "--help", cwd=tmp_path).returncode == 0
