"""Secrets by reference (threats.md section 0 "Sensitive data", "Environment variables", "Secrets
management"): where they may come from, what goes wrong, and that no message holds a value.

Must never: depend on programs that are not everywhere.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mcpgate.settings import Settings, SettingsError, load
from tests.cli.program import MODERN_SERVER, environment, mcpgate, running
from tests.cli.test_cli import call_tool

VALUE = "hunter2-hunter2"
WEB = '[[server]]\nname = "a"\ntransport = "http"\nurl = "https://a/mcp"\n'
COMMANDS = "\n[gateway]\nallow_commands = true\n"


def read(folder: Path, reference: str, more: str = "", **env: str) -> Settings:
    path = folder / "mcpgate.toml"
    path.write_text(f"{WEB}headers = {{ Authorization = 'Bearer {reference}' }}\n{more}")
    return load(path, {"PATH": "/usr/bin:/bin", **env})


def header(settings: Settings) -> str:
    return settings.gateway.servers[0].headers["Authorization"]


def problem(folder: Path, reference: str, more: str = "", **env: str) -> str:
    with pytest.raises(SettingsError) as caught:
        read(folder, reference, more, **env)
    (found,) = caught.value.problems
    assert found.key == "server.a.headers.Authorization" and found.mend
    assert VALUE not in str(caught.value)
    return f"{found.problem} | {found.mend}"


def put(path: Path, text: str = VALUE + "\n", mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


# -- the environment


def test_a_variable(tmp_path: Path) -> None:
    settings = read(tmp_path, "${env:TOKEN}", TOKEN=VALUE)
    assert header(settings) == f"Bearer {VALUE}" and settings.secrets == (VALUE,)
    assert settings.secret_files == {} and not settings.warnings


def test_a_variable_that_is_not_set_is_named_and_exits_2(tmp_path: Path) -> None:
    assert "variable NOT_SET is not set" in problem(tmp_path, "${env:NOT_SET}")
    code, out, err = mcpgate("check", "-c", str(tmp_path / "mcpgate.toml"))
    assert code == 2 and "NOT_SET" in err and "server.a.headers.Authorization" in err


# -- files


def test_a_file(tmp_path: Path) -> None:
    path = put(tmp_path / "token")
    settings = read(tmp_path, "${file:token}")
    assert header(settings) == f"Bearer {VALUE}" and settings.secrets == (VALUE,)
    assert list(settings.secret_files) == [str(path)]


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        (VALUE, 0o644, "other users can read {path} (mode 0644) | chmod 600 {path}; or set [gateway] insec"),
        (VALUE, 0o660, "other users can change {path} (mode 0660) | chmod 600 {path}"),
        ("", 0o600, "{path} is empty"),
        ("\n", 0o600, "{path} is empty"),
        (VALUE * 6000, 0o600, "is longer than 65536 bytes"),
        (VALUE + "\0", 0o600, "holds a NUL byte"),
        (VALUE + "\nX: y", 0o600, "has a value with a line break"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, text: str, mode: int, said: str) -> None:
    path = put(tmp_path / "token", text, mode)
    assert said.format(path=path) in problem(tmp_path, "${file:token}")


def test_what_is_no_file(tmp_path: Path) -> None:
    assert "cannot read" in problem(tmp_path, "${file:nowhere}")
    os.mkfifo(tmp_path / "fifo")
    assert "it is not a file" in problem(tmp_path, "${file:fifo}")
    (tmp_path / "token").write_bytes(b"\xff\xfe")
    (tmp_path / "token").chmod(0o600)
    assert "is not UTF-8" in problem(tmp_path, "${file:token}")


def test_an_unsafe_file_can_be_allowed(tmp_path: Path) -> None:
    put(tmp_path / "token", mode=0o644)
    settings = read(tmp_path, "${file:token}", "[gateway]\ninsecure_files = true")
    assert header(settings) == f"Bearer {VALUE}"
    (warning,) = settings.warnings
    assert warning.key == "server.a.headers.Authorization" and "chmod 600" in warning.mend
    config = str(tmp_path / "mcpgate.toml")
    Path(config).write_text(Path(config).read_text().replace("insecure_files = true", ""))
    assert mcpgate("check", "-c", config)[0] == 2
    code, out, err = mcpgate("check", "--insecure-config", "-c", config)
    assert code == 0 and "other users can read" in out and VALUE not in out + err


# -- credentials of systemd


def test_a_credential(tmp_path: Path) -> None:
    folder = tmp_path / "credentials"
    folder.mkdir()
    # systemd grants the right to read by an access control list, which shows as a group's.
    put(folder / "token", mode=0o440)
    settings = read(tmp_path, "${cred:token}", CREDENTIALS_DIRECTORY=str(folder))
    assert header(settings) == f"Bearer {VALUE}" and settings.secrets == (VALUE,)
    told = problem(tmp_path, "${cred:other}", CREDENTIALS_DIRECTORY=str(folder))
    assert "cannot read the credential other" in told and "LoadCredential=other:" in told
    for name in ("../token", "a/b", "", ".."):
        told = problem(tmp_path, f"${{cred:{name}}}", CREDENTIALS_DIRECTORY=str(folder))
        assert "is not the name of a credential" in told
    assert "CREDENTIALS_DIRECTORY is not set" in problem(tmp_path, "${cred:token}")
    assert "CREDENTIALS_DIRECTORY is not set" in problem(tmp_path, "${cred:t}", CREDENTIALS_DIRECTORY="here")


# -- commands


def script(folder: Path, code: str, name: str = "helper") -> Path:
    path = folder / name
    path.write_text(f"#!{sys.executable} -IS\nimport os, sys, time\n{code}\n")
    path.chmod(0o755)
    return path


def test_a_command_is_opt_in(tmp_path: Path) -> None:
    script(tmp_path, f"open('{tmp_path}/ran', 'w'); print('{VALUE}')")
    told = problem(tmp_path, "${cmd:./helper}")
    assert "is not allowed" in told and "allow_commands = true" in told
    assert not (tmp_path / "ran").exists()
    settings = read(tmp_path, "${cmd:./helper}", COMMANDS)
    assert header(settings) == f"Bearer {VALUE}" and settings.secrets == (VALUE,)


def test_no_shell_reads_its_words(tmp_path: Path) -> None:
    script(tmp_path, "print('|'.join(sys.argv[1:]))")
    settings = read(tmp_path, '${cmd:./helper "a b" $HOME ; echo `id` > x &}', COMMANDS)
    assert header(settings) == "Bearer a b|$HOME|;|echo|`id`|>|x|&"
    assert not (tmp_path / "x").exists()


def test_it_gets_a_clean_environment_and_no_input(tmp_path: Path) -> None:
    script(tmp_path, "print(repr(sys.stdin.read()) + repr(sorted(set(os.environ) - {'LC_CTYPE', 'PWD'})))")
    env = {"HOME": "/h", "VAULT_ADDR": "https://v", "AWS_SECRET_ACCESS_KEY": VALUE, "LANG": "C"}
    assert header(read(tmp_path, "${cmd:./helper}", COMMANDS, **env)) == "Bearer ''['HOME', 'LANG', 'PATH']"
    more = COMMANDS + 'command_env = ["VAULT_ADDR", "ABSENT"]'
    assert "'VAULT_ADDR'" in header(read(tmp_path, "${cmd:./helper}", more, **env))


def test_it_does_not_read_what_was_meant_for_the_gateway(tmp_path: Path) -> None:
    script(tmp_path, f"open('{tmp_path}/read', 'w').write(sys.stdin.read()); print('{VALUE}')")
    read(tmp_path, "${cmd:./helper}", COMMANDS)
    assert mcpgate("check", "-c", str(tmp_path / "mcpgate.toml"), given="a message")[0] == 0
    assert (tmp_path / "read").read_text() == ""


def test_it_runs_once_for_each_time_that_settings_are_read(tmp_path: Path) -> None:
    script(tmp_path, f"open('{tmp_path}/ran', 'a').write('x'); print('{VALUE}')")
    read(
        tmp_path,
        "${cmd:./helper}",
        '[[server]]\nname = "b"\ntransport = "http"\nurl = "https://b/mcp"\n'
        "headers = { X-Token = '${cmd:./helper}' }" + COMMANDS,
    )
    assert (tmp_path / "ran").read_text() == "x"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (f"print('{VALUE}'); sys.exit(3)", "ended with status 3"),
        (f"print('{VALUE}', file=sys.stderr); sys.exit(1)", "ended with status 1"),
        (f"print('{VALUE}'); sys.stdout.flush(); os.kill(os.getpid(), 15)", "ended with signal 15"),
        ("", "is empty"),
        (f"print('{VALUE}' * 100000)", "prints more than 65536 bytes"),
        (f"os.write(1, b'{VALUE}\\xff')", "is not UTF-8"),
    ],
)
def test_a_command_that_fails(tmp_path: Path, code: str, said: str) -> None:
    script(tmp_path, code)
    told = problem(tmp_path, "${cmd:./helper --token abc}", COMMANDS)
    assert said in told and f"${{cmd:{tmp_path}/helper ...}}" in told and "abc" not in told


@pytest.mark.parametrize("code", ["exec sleep 60", "exec sleep 60 >&-", "sleep 60; sleep 60"])
def test_a_command_that_takes_too_long_is_ended(tmp_path: Path, code: str) -> None:
    helper = tmp_path / "helper"
    helper.write_text(f"#!/bin/sh\necho $$ > '{tmp_path}/pid'\n{code}\n")
    helper.chmod(0o755)
    began = time.monotonic()
    told = problem(tmp_path, "${cmd:./helper}", COMMANDS + "command_timeout_s = 2")
    assert "took longer than 2 s" in told and "command_timeout_s" in told
    assert time.monotonic() - began < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("${cmd:}", "names no command"),
        ('${cmd:./helper "x}', "a quote that is not closed"),
        ("${cmd:no-such-command}", "no command 'no-such-command' on the PATH"),
        ("${cmd:./nowhere}", "there is no file"),
    ],
)
def test_what_is_no_command(tmp_path: Path, reference: str, said: str) -> None:
    script(tmp_path, "")
    assert said in problem(tmp_path, reference, COMMANDS)


def test_a_command_that_others_can_change_is_not_run(tmp_path: Path) -> None:
    script(tmp_path, f"open('{tmp_path}/ran', 'w'); print('{VALUE}')").chmod(0o777)
    assert "other users can change" in problem(tmp_path, "${cmd:./helper}", COMMANDS)
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_who_looks_for_adopted_processes_leaves_it_alone(tmp_path: Path) -> None:
    """Its end, with the status, is for whoever waits for it: a failure must not look like success."""
    code = (
        "import subprocess, sys, time; from mcpgate import process\n"
        "known, other = (subprocess.Popen(['sh', '-c', 'exit 3']) for _ in 'ab')\n"
        "process.ELSEWHERE.add(known.pid)\n"
        "def ended(child): return open(f'/proc/{child.pid}/stat').read().split()[2] == 'Z'\n"
        "while not (ended(known) and ended(other)): time.sleep(.01)\n"
        "process.reap_adopted(set(), kill=True)\n"
        "print(known.wait(), other.wait())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.stdout == "3 0\n", done.stderr


def test_clients_files_run_no_commands(tmp_path: Path) -> None:
    script(tmp_path, f"open('{tmp_path}/ran', 'w')")
    path = tmp_path / "mcp.json"
    path.write_text('{"mcpServers": {"a": {"command": "/bin/sh", "env": {"TOKEN": "${cmd:./helper}"}}}}')
    with pytest.raises(SettingsError) as caught:
        load(path, {"PATH": "/usr/bin:/bin"})
    assert "is not allowed" in str(caught.value) and not (tmp_path / "ran").exists()


# -- headers


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("X Y", "a", "is not the name of a header"),
        ("Host", "a", "is a header that mcpgate sets itself"),
        ("Content-Length", "1", "is a header that mcpgate sets itself"),
        ("Transfer-Encoding", "chunked", "is a header that mcpgate sets itself"),
        ("X-A", "a\\r\\nX-B: c", "a line break"),
        ("X-A", "\\u00e9", "not ASCII"),
    ],
)
def test_headers_that_a_request_cannot_carry(tmp_path: Path, name: str, value: str, said: str) -> None:
    path = tmp_path / "mcpgate.toml"
    path.write_text(f'{WEB}headers = {{ "{name}" = "{value}" }}')
    with pytest.raises(SettingsError) as caught:
        load(path, {})
    (found,) = caught.value.problems
    assert found.key == f"server.a.headers.{name}" and said in found.problem


# -- what comes out


@pytest.mark.parametrize("log_file", ["", "gate.log"])
def test_a_secret_that_a_server_prints_is_not_in_the_log(tmp_path: Path, log_file: str) -> None:
    """The server writes all that it was given to stderr, and so does a failure of its start."""
    put(tmp_path / "token")
    (tmp_path / "server.py").write_text(
        "import base64, os, runpy, sys\n"
        "token = os.environ['API_TOKEN']\n"
        "print('I got', token, file=sys.stderr)\n"
        "print('x' * 390 + token, file=sys.stderr)\n"
        "print(base64.b64encode(f'user:{token}'.encode()).decode(), sys.argv, file=sys.stderr)\n"
        f"runpy.run_path({MODERN_SERVER!r}, run_name='__main__')\n"
    )
    config = tmp_path / "mcpgate.toml"
    config.write_text(
        f"[gateway]\nlog_level = 'debug'\nlog_file = '{log_file}'\n[[listen]]\nport = 0\n"
        f"[[server]]\nname = 'a'\ncommand = '{sys.executable}'\n"
        "args = ['server.py', '--password', '${file:token}']\n"
        f"cwd = '{tmp_path}'\nenv = {{ API_TOKEN = '${{file:token}}' }}\n"
    )
    with running("serve", "-c", str(config)) as gate:
        assert call_tool(gate.url(), "no such tool", {})["id"] == 1
        assert gate.stop() == 0
        while gate.until(""):
            pass
    text = "".join(gate.seen) + ((tmp_path / log_file).read_text() if log_file else "")
    assert text.count("server_stderr") >= 3 and "I got [redacted]" in text
    assert VALUE not in text and VALUE[:6] not in text and "aHVudGVyMi1odW50ZXIy" not in text


def test_a_recording_warns_and_is_private(tmp_path: Path) -> None:
    put(tmp_path / "token")
    (tmp_path / "mcpgate.toml").write_text(
        f"[[listen]]\nport = 0\n[[server]]\nname = 'a'\ncommand = '{sys.executable}'\n"
        f"args = ['{MODERN_SERVER}']\n"
    )
    (tmp_path / "run").write_text("")
    (tmp_path / "run").chmod(0o666)
    with running("serve", "-c", str(tmp_path / "mcpgate.toml"), "--record", str(tmp_path / "run")) as gate:
        assert "holds secrets" in gate.until("warning: the recording")
        gate.url()
        assert gate.stop() == 0
    assert (tmp_path / "run").stat().st_mode & 0o077 == 0
