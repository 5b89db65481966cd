"""Which file runs, and who else could have had a say in that (threats.md section 0 "Command validation",
"Path safety", section 5 "PATH hijack").

Must never: run anything but scripts of its own.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcpgate import process
from mcpgate.checking import advice
from mcpgate.launch import PLAIN_PATH, beside, child_env, safe_path
from mcpgate.process import Child, SpawnError
from mcpgate.settings import Settings, SettingsError, load
from mcpgate_proto.config import GatewayConfig, ServerConfig
from mcpgate_proto.effects import Spawn
from tests.cli.program import MODERN_SERVER, mcpgate, running
from tests.cli.test_cli import call_tool
from tests.security.users import MALLORY, needs_root, shared_folder


@pytest.fixture
def folder() -> Iterator[Path]:
    with shared_folder() as path:
        yield path


def program(path: Path, text: str = "#!/bin/sh\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def read(folder: Path, server: str, gateway: str = "", insecure: bool = False, **env: str) -> Settings:
    path = folder / "mcpgate.toml"
    path.write_text(f'[gateway]\n{gateway}\n[[server]]\nname = "a"\n{server}\n')
    return load(path, {"PATH": "/usr/bin:/bin", **env}, insecure=insecure)


def problem(folder: Path, server: str, gateway: str = "", **env: str) -> str:
    with pytest.raises(SettingsError) as caught:
        read(folder, server, gateway, **env)
    (found,) = caught.value.problems
    assert found.key == "server.a.command" and found.mend
    return f"{found.problem} | {found.mend}"


# -- where it is looked for


def test_a_folder_that_others_can_write_to_is_not_searched(folder: Path) -> None:
    """The attacker's `npx` comes first on the PATH."""
    good, evil = program(folder / "good" / "npx"), program(folder / "evil" / "npx")
    evil.parent.chmod(0o777)
    path = f"{evil.parent}:relative:.::{good.parent}"
    settings = read(folder, 'command = "npx"', PATH=path)
    (server,) = settings.gateway.servers
    assert server.command == str(good)
    # Neither does what it starts look there.
    assert server.env["PATH"] == str(good.parent)
    good.unlink()
    said = f"{evil} is not used: other users can exchange files in the folder {evil.parent}"
    assert said in problem(folder, 'command = "npx"', PATH=path)


def test_a_path_with_nothing_safe_is_the_plain_one(folder: Path) -> None:
    (folder / "open").mkdir()
    (folder / "open").chmod(0o777)
    for path in (None, "", "relative:.", str(folder / "open")):
        assert safe_path(path) == PLAIN_PATH
    assert safe_path("/usr/bin:/usr/bin:/bin") == "/usr/bin:/bin"


def test_the_path_can_be_fixed(folder: Path) -> None:
    inner = program(folder / "inner" / "tool")
    settings = read(folder, 'command = "tool"', f'path = ["{inner.parent}", "/bin"]', PATH="/elsewhere")
    (server,) = settings.gateway.servers
    assert (server.command, server.env["PATH"]) == (str(inner), f"{inner.parent}:/bin")
    inner.parent.chmod(0o777)
    with pytest.raises(SettingsError) as caught:
        read(folder, 'command = "/bin/sh"', f'path = ["{inner.parent}", "bin"]')
    assert [one.key for one in caught.value.problems] == ["gateway.path[0]", "gateway.path[1]"]


def test_what_lies_beside_the_command_is_found_first(folder: Path) -> None:
    npx = program(folder / "node" / "npx")
    (server,) = read(folder, f'command = "{npx}"').gateway.servers
    assert server.env["PATH"] == f"{npx.parent}:/usr/bin:/bin"
    assert beside("/usr/bin/npx", "/bin:/usr/bin") == "/bin:/usr/bin"
    # What the config says of PATH is the last word.
    (server,) = read(folder, f'command = "{npx}"\nenv = {{ PATH = "/bin" }}').gateway.servers
    assert server.env["PATH"] == "/bin"


def test_the_environment_is_an_allow_list() -> None:
    outer = {
        "HOME": "/h",
        "LC_ALL": "C",
        "AWS_SECRET_ACCESS_KEY": "x",
        "LISTEN_FDS": "1",
        "NOTIFY_SOCKET": "/n",
    }
    assert sorted(child_env(outer=outer)) == ["HOME", "LC_ALL", "PATH"]
    assert child_env(["AWS_SECRET_ACCESS_KEY"], {"A": "b"}, outer)["AWS_SECRET_ACCESS_KEY"] == "x"


# -- who could change it


@pytest.mark.parametrize("how", ["command = '{path}'", "command = './bin/server'", "command = 'server'"])
def test_a_command_that_others_can_change_is_refused(folder: Path, how: str) -> None:
    path = program(folder / "bin" / "server")
    how, env = how.format(path=path), {"PATH": str(path.parent)}
    assert read(folder, how, **env).gateway.servers[0].command == str(path)
    path.chmod(0o777)
    told = problem(folder, how, **env)
    assert f"other users can change {path}" in told and f"chmod go-w {path}" in told
    assert "insecure_files = true" in told
    for settings in (read(folder, how, "insecure_files = true", **env), read(folder, how, "", True, **env)):
        assert settings.gateway.servers[0].command == str(path)
        assert f"other users can change {path}" in str(settings.warnings)
    # A server that is switched off starts nothing.
    assert "other users can change" in str(read(folder, f"{how}\nenabled = false", **env).warnings)


@needs_root
def test_a_command_of_another_user_is_refused(folder: Path) -> None:
    path = program(folder / "bin" / "server")
    os.chown(path.parent, MALLORY, -1)
    assert "belongs to the user 61002" in problem(folder, f'command = "{path}"')


def test_run_refuses_it_too(folder: Path) -> None:
    path = program(folder / "bin" / "server")
    path.chmod(0o777)
    code, _, err = mcpgate("run", "--port", "0", "--", str(path))
    assert code == 2 and f"other users can change {path}" in err and "--insecure-config" in err


# -- strict


@pytest.mark.parametrize(
    ("command", "allowed", "good"),
    [
        ("server", "", False),
        ("./bin/server", "", False),
        ("{path}", "", True),
        ("server", '"server"', True),
        ("server", '"{path}"', True),
        ("server", '"other"', False),
    ],
)
def test_strict_commands_are_absolute_or_listed(folder: Path, command: str, allowed: str, good: bool) -> None:
    path = program(folder / "bin" / "server")
    line = f"command = '{command.format(path=path)}'"
    gateway = f"strict_commands = true\nallowed_commands = [{allowed.format(path=path)}]"
    env = {"PATH": str(path.parent)}
    if good:
        assert read(folder, line, gateway, **env).gateway.servers[0].command == str(path)
    else:
        told = problem(folder, line, gateway, **env)
        assert "strict_commands" in told and f"write '{path}'" in told and "allowed_commands" in told
    assert read(folder, line, **env).gateway.servers[0].command == str(path)


# -- the pin


def pinned(path: Path, *args: str) -> Spawn:
    pin = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    return Spawn(conn=1, argv=(str(path), *args), env={}, pin=pin)


def said(child: Child) -> bytes:
    child.popen.wait(20)
    data = b""
    os.set_blocking(child.stream.read_fd, True)
    while part := os.read(child.stream.read_fd, 4096):
        data += part
    child.close()
    return data


def test_an_edited_file_is_not_started(tmp_path: Path) -> None:
    path = program(tmp_path / "server", "#!/bin/sh\necho good\n")
    effect = pinned(path)
    assert said(process.spawn(effect)) == b"good\n"
    path.write_text("#!/bin/sh\necho evil\n")
    with pytest.raises(SpawnError, match="is not the pinned file"):
        process.spawn(effect)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("kind", ["script", "binary"])
def test_what_was_checked_is_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Another file takes its place after the check and before the start."""
    path = tmp_path / "server"
    if kind == "script":
        program(path, "#!/bin/sh\necho good\n")
        effect = pinned(path)
    else:
        path.write_bytes(Path("/bin/sh").resolve().read_bytes())
        path.chmod(0o755)
        effect = pinned(path, "-c", "echo good")
    evil = program(tmp_path / "evil", "#!/bin/sh\necho evil\n")
    popen = subprocess.Popen

    def late(*args: object, **kwargs: object) -> object:
        evil.replace(path)
        return popen(*args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(process.subprocess, "Popen", late)
    assert said(process.spawn(effect)) == b"good\n"
    assert path.read_text().endswith("evil\n")


# -- what `check` says


def warnings(command: str, *args: str) -> list[str]:
    server = ServerConfig(name="a", command=command, args=args)
    config = GatewayConfig(servers=(server,), prefix="always")
    found = advice(Settings(config, Path("/nowhere/mcpgate.toml")))
    return [one.key.rpartition(".")[2] for one in found if one.key.startswith("server.a.")]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("/usr/bin/npx -y package", ["command"]),
        ("/usr/bin/npx -y @scope/package@latest", ["command"]),
        ("/usr/bin/npx -y @scope/package@1.2.3", []),
        ("/usr/bin/npx --package=a@1.0.0 b", []),
        ("/usr/bin/uvx package", ["command"]),
        ("/usr/bin/uvx package==1.2", []),
        ("/usr/bin/uvx --from git+https://x package", ["command"]),
        ("/usr/bin/python3.12 -Ic code", ["args"]),
        ("/usr/bin/python3 -W ignore -c code", ["args"]),
        ("/usr/bin/python3 server.py -c file", []),
        ("/usr/bin/python3 -m server -c file", []),
        ("/bin/bash -lc code", ["args"]),
        ("/bin/bash -e script.sh", []),
        ("/usr/bin/node --eval=code", ["args"]),
        ("/usr/bin/node -e code", ["args"]),
        ("/usr/bin/deno eval code", ["args"]),
        ("/opt/server -c file", []),
    ],
)
def test_code_that_nobody_reviews_is_flagged(line: str, found: list[str]) -> None:
    command, *args = line.split()
    assert warnings(command, *args) == found


# -- all of it, in a real run


def test_the_child_sees_the_safe_path_only(tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    evil.mkdir()
    evil.chmod(0o777)
    tell = tmp_path / "tell.py"
    tell.write_text(
        f"import os, runpy\nprint(os.environ['PATH'], file=open({str(tmp_path / 'path')!r}, 'w'))\n"
        f"runpy.run_path({MODERN_SERVER!r}, run_name='__main__')\n"
    )
    with running("run", "--port", "0", "--", sys.executable, str(tell), PATH=f"{evil}:/usr/bin:/bin") as gate:
        assert call_tool(gate.url(), "no such tool", {})["id"] == 1
        assert gate.stop() == 0
    folders = (tmp_path / "path").read_text().strip().split(":")
    assert str(evil) not in folders and folders[-2:] == ["/usr/bin", "/bin"]
