"""The command as a person uses it: results, exit codes, errors with their mend.

Must never: look at anything but what the process shows to the outside.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.cli.program import LEGACY_SERVER, MODERN_SERVER, mcpgate, running

PYTHON = sys.executable
URL = "https://127.0.0.1:1/"
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


def config(folder: Path, *, more: str = "", name: str = "mcpgate.toml") -> Path:
    path = folder / name
    servers = "".join(
        f"[[server]]\nname = {name!r}\ncommand = {PYTHON!r}\nargs = ['-I', '-S', {file!r}]\n"
        for name, file in (("sums", LEGACY_SERVER), ("words", MODERN_SERVER))
    )
    path.write_text(more + servers)
    return path


def call_tool(url: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """One stateless call over HTTP; the JSON answer."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    params = {"name": name, "arguments": arguments, "_meta": META}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call",
        "Mcp-Name": name,
    }
    connection.request("POST", parts.path, json.dumps(body), headers)
    answer: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    return answer


# -- about


def test_help_names_every_command() -> None:
    code, out, _ = mcpgate("--help")
    assert code == 0
    for command in ("serve", "run", "connect", "demo", "tools", "call", "check", "version"):
        assert re.search(rf"^  {command} ", out, re.M), command
        assert mcpgate(command, "-h")[0] == 0
    assert mcpgate("server", "--help")[0] == 0


def test_version() -> None:
    code, out, _ = mcpgate("version", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"mcpgate", "h11", "msgspec", "anyio", "openssl"} <= set(found)
    code, out, _ = mcpgate("version")
    assert code == 0 and f"mcpgate       {found['mcpgate']}" in out
    assert mcpgate("--version")[1] == f"mcpgate {found['mcpgate']}\n"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["run"], "Missing argument"),
        (["run", "--port", "x", "--", "y"], "'x' is not a valid integer"),
        (["run", "--", "no-such-program"], "no command 'no-such-program' on the PATH"),
        (["run", "--host", "0.0.0.0", "--", PYTHON], "use `mcpgate serve` with [auth] and TLS"),
        (["run", "--path", "mcp", "--", PYTHON], 'write "/mcp"'),
        (["connect", "example.com/mcp"], "is not an http or https URL"),
        (["connect", "https://x", "-H", "secret"], "has no colon"),
        (["connect", "https://x", "-H", "A: ${env:NO_SUCH}"], "NO_SUCH is not set"),
        (["call", "x", "["], "are not JSON"),
        (["call", "x", "[]"], "not a JSON object"),
        (["tools", "-c", "a", "--url", "http://x"], "name one place to look"),
        (["check", "-c", "/nonexistent.toml"], "cannot be read"),
        # What is no UTF-8 is in no URL and in no login, and a shell passes it on all the same.
        (["login", "https://127.0.0.1:1/\udcff"], "the URL holds what no URL can hold"),
        (["logout", "https://127.0.0.1:1/\udcff"], "the URL holds what no URL can hold"),
        (["connect", "https://127.0.0.1:1/a b"], "the URL holds what no URL can hold"),
        (["tools", "--url", "https://127.0.0.1:1/\x01"], "the URL holds what no URL can hold"),
        (["login", URL, "--principal", "\udcff"], "--principal is not UTF-8"),
        (["logout", URL, "--principal", "\udcff"], "--principal is not UTF-8"),
        (["login", URL, "--client-id", "\udcff"], "--client-id is not UTF-8"),
        (["connect", URL, "--scope", "\udcff"], "--scope is not UTF-8"),
        # As in a config: a secret is shown to nobody but to whom it belongs.
        (["login", URL, "--client-id", "c", "--client-secret", "s"], "everybody can see what stands in a"),
        (["login", URL, "--client-id", "c", "--client-secret", "${env:HOME}"], "--issuer is missing"),
        (["login", URL, "--issuer", "https://h", "--client-secret", "${env:HOME}"], "--client-id is missing"),
        (["login", URL, "--client-id", "c", "--client-secret", "${env:NO_SUCH}"], "NO_SUCH is not set"),
        (["login", URL, "--client-metadata-url", "https://h"], "--client-metadata-url has no path"),
        (["login", "docs", "--issuer", "https://h"], "--issuer is for a URL"),
        (["login", "docs", "--scope", "read"], "--scope is for a URL"),
        (["connect", URL, "--scope", "a b"], "--scope is not one scope"),
        (["call", "\udcff", "--url", URL], "NAME is not UTF-8"),
        (["call", "x", '"\udcff"', "--url", URL], "JSON is not UTF-8"),
        (["run", "--record", "record", "--", PYTHON, "\udcff"], "a recording cannot hold"),
        (["run", "--path", "/\udcff", "--", PYTHON], "--path holds what no path of a URL can hold"),
        (["run", "-e", "=x", "--", PYTHON], "a variable without a name"),
        (["run", "--", "./" + "a" * 5000], "there is no file"),
        (["check", "-c", "a" * 5000], "file name too long"),
        (["check", "-c", "/"], "it is not a file"),
    ],
)
def test_usage_errors_exit_2_and_say_what_to_do(args: list[str], said: str, tmp_path: Path) -> None:
    code, out, err = mcpgate(*args, cwd=tmp_path, XDG_CONFIG_HOME=str(tmp_path))
    assert (code, out) == (2, "")
    assert said in err and "Traceback" not in err


def test_a_place_that_cannot_be_is_no_config(tmp_path: Path) -> None:
    code, _, err = mcpgate("check", cwd=tmp_path, XDG_CONFIG_HOME="/" + "a" * 5000)
    assert code == 2 and "there is no config" in err and "Traceback" not in err


def test_logins_that_cannot_be_kept_name_their_folder(tmp_path: Path) -> None:
    code, _, err = mcpgate("logout", URL, XDG_STATE_HOME="/" + "a" * 5000)
    assert code == 1 and "a/mcpgate/logins: file name too long" in err
    (tmp_path / "mcpgate" / "logins").mkdir(parents=True, mode=0o755)
    code, _, err = mcpgate("logout", URL, XDG_STATE_HOME=str(tmp_path))
    assert code == 1 and "is open to other users" in err and "chmod 700" in err


def test_serve_says_where_it_looked(tmp_path: Path) -> None:
    code, _, err = mcpgate("serve", cwd=tmp_path, XDG_CONFIG_HOME=str(tmp_path / "xdg"))
    assert code == 2
    assert str(tmp_path / "mcpgate.toml") in err and str(tmp_path / "xdg/mcpgate/mcpgate.toml") in err


def test_check(tmp_path: Path) -> None:
    path = config(tmp_path)
    code, out, _ = mcpgate("check", cwd=tmp_path)
    assert code == 0 and f"{path}: good; 2 server(s), 2 enabled, 0 warning(s)" in out
    path.write_text(path.read_text() + "colour = 1\n[gatway]\n")
    code, _, err = mcpgate("check", "-c", str(path))
    assert code == 2
    assert f"{path}: server.words.colour: is not a known key" in err
    assert f"{path}: gatway" in err and "did you mean 'gateway'?" in err
    path.write_text(f"[[server]]\nname = 'a'\ncommand = {PYTHON!r}\nargs = ['-c', 'pass']")
    code, out, _ = mcpgate("check", "-c", str(path))
    assert code == 0 and "gateway.prefix" in out and "code on the command line" in out


# -- looking and calling


def test_tools_and_call_in_both_eras(tmp_path: Path) -> None:
    path = str(config(tmp_path))
    code, out, err = mcpgate("tools", "-c", path)
    assert code == 0, err
    names = {line.split("\t")[0] for line in out.splitlines()}
    assert names == {"sums__add", "sums__largest", "words__count", "words__reverse"}
    code, out, _ = mcpgate("tools", "-c", path, "--json")
    assert {tool["name"] for tool in json.loads(out)} == names
    assert mcpgate("call", "-c", path, "sums__add", '{"numbers": [1, 2]}')[:2] == (0, "3\n")
    assert mcpgate("call", "-c", path, "words__reverse", '{"text": "abc"}')[:2] == (0, "cba\n")
    code, out, _ = mcpgate("call", "-c", path, "words__count", "{}")
    assert (code, out) == (1, "text: give a text\n")
    code, out, err = mcpgate("call", "-c", path, "words__nope", "{}")
    assert (code, out) == (1, "") and "-32602" in err


# -- running


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)], ids=["TERM", "INT"])
def test_run_serves_and_stops(number: int, code: int) -> None:
    with running("run", "--port", "0", "--", PYTHON, "-I", "-S", MODERN_SERVER) as gate:
        url = gate.url()
        assert call_tool(url, "reverse", {"text": "abc"})["result"]["content"][0]["text"] == "cba"
        assert gate.stop(number) == code
        assert gate.popen.stdout and gate.popen.stdout.read() == ""


def test_run_passes_only_what_it_should(tmp_path: Path) -> None:
    script = tmp_path / "show.py"
    script.write_text("import os,sys\nprint('names', *sorted(os.environ), file=sys.stderr)\nsys.stdin.read()")
    args = ("run", "--port", "0", "--log-level", "debug", "-e", "GIVEN", "-e", "MADE=1", "--", PYTHON)
    with running(*args, "-I", str(script), GIVEN="x", SECRET="y") as gate:
        names = gate.until("names ")
    assert "GIVEN" in names and "MADE" in names and "PATH" in names
    assert "SECRET" not in names and "PYTHONPATH" not in names


def test_a_port_in_use_fails_with_its_mend() -> None:
    with running("run", "--port", "0", "--", PYTHON, "-I", "-S", MODERN_SERVER) as gate:
        port = str(urlsplit(gate.url()).port)
        code, _, err = mcpgate("run", "--port", port, "--", PYTHON, "-I", "-S", MODERN_SERVER)
        assert code == 1
        assert f"cannot listen on localhost:{port}: address already in use" in err and "--port 0" in err


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    script = tmp_path / "stubborn.py"
    script.write_text(
        "import signal,sys\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('stubborn', file=sys.stderr, flush=True)\nwhile True: signal.pause()"
    )
    with running("run", "--port", "0", "--", PYTHON, "-I", str(script)) as gate:
        pid = int(re.search(r"pid=(\d+)", gate.until("child_started"))[1])  # type: ignore[index]
        gate.until("stubborn")
        gate.popen.send_signal(signal.SIGINT)
        gate.until("stopping")
        assert gate.stop(signal.SIGINT) == 130
        assert not os.path.exists(f"/proc/{pid}")


def test_serve_and_reload(tmp_path: Path) -> None:
    log = tmp_path / "gate.jsonl"
    path = config(tmp_path, more=f"[gateway]\nlog_file = {str(log)!r}\n")
    with running("serve", "-c", str(path), "--port", "0") as gate:
        url = gate.url()
        answer = call_tool(url, "words__reverse", {"text": "abc"})
        assert answer["result"]["content"][0]["text"] == "cba"
        assert gate.stop() == 0
    assert all(json.loads(line)["time"].endswith("Z") for line in log.read_text().splitlines())


def test_a_bad_config_on_reload_leaves_the_old_one(tmp_path: Path) -> None:
    path = config(tmp_path, more="[[listen]]\nport = 0\n")
    with running("serve", "-c", str(path)) as gate:
        url = gate.url()
        good = path.read_text()
        path.write_text("nonsense")
        gate.popen.send_signal(signal.SIGHUP)
        gate.until("config_not_reloaded")
        assert "result" in call_tool(url, "words__reverse", {"text": "abc"})
        path.write_text(good)
        gate.popen.send_signal(signal.SIGHUP)
        assert "result" in call_tool(url, "words__reverse", {"text": "abc"})
        assert gate.stop() == 0


def test_connect_puts_nothing_but_messages_on_stdout() -> None:
    with running("run", "--port", "0", "--", PYTHON, "-I", "-S", MODERN_SERVER) as gate:
        url = gate.url()
        lines = [
            {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}},
            {
                "jsonrpc": "2.0",
                "id": "two",
                "method": "tools/call",
                "params": {"name": "reverse", "arguments": {"text": "abc"}, "_meta": META},
            },
        ]
        given = "".join(json.dumps(line) + "\n" for line in lines)
        code, out, err = mcpgate("connect", url, given=given)
        answers = {answer["id"]: answer["result"] for answer in map(json.loads, out.splitlines())}
        assert code == 0, err
        assert [tool["name"] for tool in answers[1]["tools"]] == ["count", "reverse"]
        assert answers["two"]["content"][0]["text"] == "cba"
        code, out, err = mcpgate("call", "--url", url, "reverse", '{"text": "xyz"}')
        assert (code, out) == (0, "zyx\n"), err


def test_demo_check() -> None:
    code, out, err = mcpgate("demo", "--check")
    assert (code, err) == (0, "")
    assert "both eras" in out


def test_demo_prints_calls_that_a_shell_can_run(tmp_path: Path) -> None:
    with running("demo", "--port", "0") as gate:
        gate.until("server_ready")
        gate.until("server_ready")
        assert gate.popen.stdout
        lines = []
        for line in gate.popen.stdout:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        text = "".join(lines)
        assert '{"mcpServers": {"mcpgate": {"type": "http", "url": "http://127.0.0.1:' in text
        assert text.count("curl -sS") == 4 and "Mcp-Name: words__reverse" in text


def test_record_and_replay(tmp_path: Path) -> None:
    file = tmp_path / "run.rec"
    args = ("run", "--port", "0", "--record", str(file), "--", PYTHON, "-I", "-S", MODERN_SERVER)
    with running(*args) as gate:
        call_tool(gate.url(), "reverse", {"text": "abc"})
        assert gate.stop() == 0
    assert file.stat().st_mode & 0o777 == 0o600
    code, out, err = mcpgate("replay", "--guard", str(file), PYTHONHASHSEED="4242")
    assert code == 0, err
    assert "all equal" in out
    data = file.read_bytes()
    # Another answer of the child: the effects must differ from those recorded.
    file.write_bytes(data.replace(b"cba", b"xba", 1))
    code, _, err = mcpgate("replay", str(file))
    assert code == 1 and "differ" in err
    file.write_bytes(b"nonsense")
    assert mcpgate("replay", str(file))[0] == 2
