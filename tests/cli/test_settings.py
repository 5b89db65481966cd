"""Settings: what good files mean, and that every problem of a bad one is reported with key and mend.

Must never: depend on what is installed here, or on the environment of whoever runs the tests.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mcpgate.settings import DEFAULT_PORT, SettingsError, config_places, find_config, load
from mcpgate_proto.effects import ServerTls
from mcpgate_proto.limits import Limits
from tests.runner.conftest import Certificates


@pytest.fixture
def bin_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("server", "npx"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def env(bin_dir: Path) -> dict[str, str]:
    return {"PATH": str(bin_dir), "HOME": "/home/x", "LC_ALL": "C", "AWS_SECRET": "s", "TOKEN": "t0ken-t0ken"}


def write(folder: Path, text: str, name: str = "mcpgate.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def problems(folder: Path, text: str, env: dict[str, str], name: str = "mcpgate.toml") -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        load(write(folder, text, name), env)
    found = {problem.key: f"{problem.problem} | {problem.mend}" for problem in caught.value.problems}
    assert all(problem.file == str(folder / name) and problem.mend for problem in caught.value.problems)
    return found


def test_a_whole_config(tmp_path: Path, env: dict[str, str], bin_dir: Path) -> None:
    (tmp_path / "secret").write_text("from file\n")
    (tmp_path / "secret").chmod(0o600)
    settings = load(
        write(
            tmp_path,
            """
            [gateway]
            log_level = "debug"
            log_file = "gate.log"
            prefix = "always"
            page_size = 50
            name_chars = 128
            startup_wait_s = 2
            runner = "trio"
            [limits]
            connections = 12
            head_timeout_s = 3
            [[listen]]
            host = "::1"
            port = 0
            path = "/x"
            allowed_hosts = ["gate.example"]
            allowed_origins = ["https://app.example"]
            [[listen]]
            kind = "stdio"
            [[listen]]
            transport = "http"
            name = "wide"
            host = "0.0.0.0"
            port = 9000
            behind_proxy = true
            [[server]]
            name = "files"
            command = "server"
            args = ["--token", "${env:TOKEN}", "$${plain}"]
            env = { KEY = "${file:secret}" }
            pass_env = ["TOKEN", "ABSENT"]
            timeout = 5
            metadata = { team = "a" }
            era = "legacy"
            rename = { a = "b" }
            isolation = "shared"
            cwd = "bin"
            pin = "sha256:%s"
            process_limits = { open_files = 64 }
            [[server]]
            name = "web"
            transport = "http"
            url = "https://mcp.example/mcp"
            headers = { Authorization = "Bearer ${env:TOKEN}" }
            enabled = false
            """
            % ("AB" * 32),
        ),
        env,
    )
    config = settings.gateway
    assert (config.log_level, config.prefix, config.page_size, config.name_chars) == (
        "debug",
        "always",
        50,
        128,
    )
    assert (settings.runner, settings.log_file) == ("trio", str(tmp_path / "gate.log"))
    assert config.limits.connections == 12 and config.limits.head_timeout_s == 3.0
    assert config.limits.startup_wait_s == 2.0
    files, web = config.servers
    assert files.command == str(bin_dir / "server")
    assert files.args == ("--token", "t0ken-t0ken", "${plain}")
    assert files.env == {
        "HOME": "/home/x",
        "LC_ALL": "C",
        "PATH": str(bin_dir),
        "TOKEN": "t0ken-t0ken",
        "KEY": "from file",
    }
    assert (files.timeout, files.era, files.isolation, files.rename) == (5.0, "legacy", "shared", {"a": "b"})
    assert files.cwd == str(bin_dir) and files.pin == "sha256:" + "ab" * 32
    assert files.process_limits is not None and files.process_limits.open_files == 64
    assert (web.headers, web.enabled, web.env) == ({"Authorization": "Bearer t0ken-t0ken"}, False, {})
    first, second, third = config.listeners
    assert (first.name, first.host, first.port, first.path) == ("http", "::1", 0, "/x")
    assert (second.name, second.kind) == ("stdio-2", "stdio")
    assert (third.name, third.behind_proxy) == ("wide", True)
    # What is on a command line, everybody can see.
    assert [w.key for w in settings.warnings] == ["server.files.args[1]"]


def test_defaults(tmp_path: Path, env: dict[str, str]) -> None:
    config = load(write(tmp_path, '[[server]]\nname = "a"\ncommand = "server"'), env).gateway
    (listener,) = config.listeners
    assert (listener.host, listener.port, listener.path) == ("localhost", DEFAULT_PORT, "/mcp")
    assert config.limits == Limits() and config.prefix == "auto" and not config.transparent
    assert config.servers[0].timeout == 30.0 and "AWS_SECRET" not in config.servers[0].env


SERVER = '[[server]]\nname = "a"\ncommand = "server"\n'

BAD = [
    ("gatway = 1\n" + SERVER, "gatway", "did you mean 'gateway'?"),
    ("[gateway]\nlog_levle = 'info'\n" + SERVER, "gateway.log_levle", "did you mean 'log_level'?"),
    ("[gateway]\nlog_level = 'warn'\n" + SERVER, "gateway.log_level", "did you mean 'warning'?"),
    ("[gateway]\npage_size = 0\n" + SERVER, "gateway.page_size", "write a number from 1 to 10000"),
    (
        "[gateway]\npage_size = true\n" + SERVER,
        "gateway.page_size",
        "true or false | write a whole number",
    ),
    ("[gateway]\nstartup_wait_s = nan\n" + SERVER, "gateway.startup_wait_s", "is nan"),
    ("gateway = 3\n" + SERVER, "gateway", "make it a table"),
    ("[limits]\nconnection = 3\n" + SERVER, "limits.connection", "did you mean 'connections'?"),
    ("[limits]\nconnections = 0\n" + SERVER, "limits.connections", "write a number from 1"),
    ("[server]\nname = 'a'", "server", "write [[server]]"),
    ("", "server", "no server is configured"),
    ("[[server]]\ncommand = 'server'", "server[0].name", "is missing"),
    ("[[server]]\nname = 'a__b'\ncommand = 'server'", "server.a__b.name", "must not contain '__'"),
    (SERVER + SERVER, "server.a.name", "another server"),
    (SERVER + "comand = 'x'", "server.a.comand", "did you mean 'command'?"),
    (SERVER + "transport = 'htp'", "server.a.transport", "did you mean 'http'?"),
    (SERVER + "url = 'https://x'", "server.a.url", 'transport = "http"'),
    (SERVER + "timeout = 0", "server.a.timeout", "write a number from 0.001"),
    (SERVER + "args = 'x'", "server.a.args", "write a list"),
    (SERVER + "args = [1]", "server.a.args[0]", "write a text, in quotes"),
    (SERVER + "env = { A = 1 }", "server.a.env.A", "write a text, in quotes"),
    (SERVER + "args = ['${env:NOPE}']", "server.a.args[0]", "the environment variable NOPE is not set"),
    (SERVER + "args = ['${file:nope}']", "server.a.args[0]", "no such file"),
    (SERVER + "args = ['${vault:x}']", "server.a.args[0]", "is not known"),
    (SERVER + "pin = 'abc'", "server.a.pin", "sha256sum"),
    (SERVER + "cwd = 'nowhere'", "server.a.cwd", "there is no folder"),
    (SERVER + "process_limits = { cpu = 1 }", "server.a.process_limits.cpu", "did you mean 'cpu_seconds'?"),
    ("[[server]]\nname = 'a'\ncommand = 'nope'", "server.a.command", "no command 'nope' on the PATH"),
    ("[[server]]\nname = 'a'\ncommand = './nope'", "server.a.command", "there is no file"),
    ("[[server]]\nname = 'a'\ncommand = 'mcpgate.toml'", "server.a.command", "no command"),
    ("[[server]]\nname = 'a'\ncommand = './mcpgate.toml'", "server.a.command", "is not executable"),
    ("[[server]]\nname = 'a'\ntransport = 'http'", "server.a.url", "is missing"),
    ("[[server]]\nname = 'a'\ntransport = 'http'\nurl = 'ftp://x'", "server.a.url", "is not an http"),
    ("[[server]]\nname = 'a'\ntransport = 'http'\nurl = 'https://u:p@x'", "server.a.url", "password"),
    ("[[server]]\nname = 'a'\ntransport = 'unix'", "server.a.socket_path", "is missing"),
    ("[[server]]\nname='a'\ntransport='unix'\nsocket_path='@x'", "server.a.socket_path", "no permissions"),
    (
        "[[server]]\nname='a'\ntransport='unix'\nsocket_path='s'\nurl='ws://x'",
        "server.a.url",
        "means nothing",
    ),
    ("[[server]]\nname='a'\ntransport='websocket'\nurl='https://x'", "server.a.url", "wss://host/path"),
    ("[[server]]\nname='a'\ntransport='websocket'", "server.a.url", "is missing"),
    (
        "[[server]]\nname='a'\ntransport='http'\nurl='https://x'\nca_file='x.pem'",
        "server.a.ca_file",
        "there is no file",
    ),
    ("[gateway]\nrunner = 'gevent'\n" + SERVER, "gateway.runner", "asyncio, trio, curio, blocking"),
    (
        SERVER + "[[listen]]\nkind='unix'\nport=1\nsocket_path='s'",
        "listen[0].port",
        "means nothing for kind unix",
    ),
    (SERVER + "[[listen]]\nkind='stdio'\nsocket_path='s'", "listen[0].socket_path", "kind stdio"),
    (SERVER + "[[listen]]\nallowed_hosts=['gw','*.gw']", "listen[0].allowed_hosts[1]", "without patterns"),
    (SERVER + "[[listen]]\nallowed_origins=['http://a','a.b']", "listen[0].allowed_origins[1]", "scheme://"),
    (SERVER + "[[listen]]\nkind='unix'", "listen[0].socket_path", "XDG_RUNTIME_DIR is not set"),
    (SERVER + "[[listen]]\nkind='unix'\nsocket_path='@x'", "listen[0].socket_path", "no permissions"),
    (SERVER + "[[listen]]\nsocket_path='%s'" % ("x" * 108), "listen[0].socket_path", "longer than the 107"),
    (SERVER + "[[listen]]\nport=1\nsocket_path='s'", "listen[0].port", "not with a socket_path"),
    (SERVER + "[[listen]]\nsocket_path='s'\nsocket_mode=660", "listen[0].socket_mode", "0o660"),
    (SERVER + "[[listen]]\nsocket_path='s'\nsocket_mode='abc'", "listen[0].socket_mode", "0o660"),
    (SERVER + "[[listen]]\nsocket_path='s'\nsocket_mode='0060'", "listen[0].socket_mode", "0o660"),
    (
        SERVER + "[[listen]]\nsocket_path='s'\n[[listen]]\nname='b'\nsocket_path='s'",
        "listen.b.socket_path",
        "another listener's",
    ),
    (SERVER + "[[listen]]\nsse=true\nsse_path='sse'", "listen[0].sse_path", 'write "/sse"'),
    (SERVER + "[[listen]]\ntls_cert='c.pem'", "listen[0].tls_key", "is missing"),
    (SERVER + "[[listen]]\ntls_cert='c.pem'\ntls_key='k.pem'", "listen[0].tls_cert", "cannot read"),
    (
        SERVER + "[[listen]]\ntls_cert='c'\ntls_key='k'\ntls_require_client=true",
        "listen[0].tls_require_client",
        "needs a tls_client_ca",
    ),
    (SERVER + "[[listen]]\nhost = '0.0.0.0'", "listen[0].host", "`mcpgate key new`"),
    (SERVER + "[[listen]]\npath = 'mcp'", "listen[0].path", 'write "/mcp"'),
    (SERVER + "[[listen]]\npath = '/m cp'", "listen[0].path", "no path of a URL"),
    (
        SERVER + "[[listen]]\nsse = true\nmessages_path = '/a?b'",
        "listen[0].messages_path",
        "no path of a URL",
    ),
    (SERVER + "[[listen]]\nport = 70000", "listen[0].port", "65535"),
    (SERVER + "[[listen]]\nname='a'\n[[listen]]\nname='a'", "listen.a.name", "another listener too"),
    (SERVER + "[[listen]]\nkind='stdio'\n[[listen]]\nkind='stdio'", "listen[1]", "there is one stdin"),
    ("[[server]\n", "", "is not TOML"),
    (SERVER + "[server]\nname = 'b'", "", "without its two brackets"),
    (SERVER + "[[listen]]\nport = 1\nport = 2", "", "stands there twice"),
    ("zzzz = 1\n" + SERVER, "zzzz", "limits, listen, monitor, rate, rule, server"),
]


@pytest.mark.parametrize(("text", "key", "said"), BAD)
def test_each_problem_names_key_and_mend(
    tmp_path: Path, env: dict[str, str], text: str, key: str, said: str
) -> None:
    found = problems(tmp_path, text, env)
    assert list(found) == [key]
    assert said in found[key]


def test_a_variable_as_shells_write_it_is_plain_text_and_told(tmp_path: Path, env: dict[str, str]) -> None:
    text = '[[server]]\nname = "a"\ncommand = "server"\nargs = ["${HOME}/x", "$${HOME}", "${env:HOME}"]'
    settings = load(write(tmp_path, text), env)
    assert settings.gateway.servers[0].args == ("${HOME}/x", "${HOME}", "/home/x")
    told = {warning.key: warning.problem for warning in settings.warnings}
    assert told == {"server.a.args[0]": "${HOME} is taken as it is"}


@pytest.mark.parametrize(
    "own", ['[auth]\nresource = "https://a.example"', "[gateway]", "[[listen]]\nport = 1"]
)
def test_what_a_clients_list_would_hide_is_told(tmp_path: Path, env: dict[str, str], own: str) -> None:
    """`[servers.x]` is a client's spelling: with it, keys and rules of ours would not apply, unseen."""
    found = problems(tmp_path, f'{own}\n[servers.a]\ncommand = "server"\n', env)
    assert list(found) == [own.strip("[]").split("]")[0]]
    assert "would be ignored" in next(iter(found.values()))


HTTP = '[[server]]\nname = "a"\ntransport = "http"\nurl = "https://a.example"\n'
# Longer than any path.
LONG = "a" * 5000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = " + "1" * 5000, "too long"),
        ('[[server]]\nname = "a"\ncommand = "server"\ncwd = "a\\u0000b"', "NUL"),
        (
            '[[server]]\nname = "a"\ntransport = "http"\nurl = "https://a.example"\n'
            'headers = {A = "${file:a\\u0000b}"}',
            "",
        ),
        (f'[[server]]\nname = "a"\ncommand = "./{LONG}"', "there is no file"),
        (f'[[server]]\nname = "a"\ncommand = "/{LONG}/b"', "there is no file"),
        (f'[[server]]\nname = "a"\ncommand = "server"\ncwd = "{LONG}"', "there is no folder"),
        (HTTP + f'ca_file = "{LONG}"', "there is no file"),
        (HTTP + f'[server.oauth]\nca_file = "{LONG}"', "there is no file"),
        (HTTP + f'[auth]\n[[auth.issuer]]\nissuer = "x"\nca_file = "{LONG}"', "there is no file"),
        (HTTP + '[[listen]]\nsocket_path = "s"\nallow_uids = ["a\\u0000b"]', "is nobody here"),
        (HTTP + '[[listen]]\nsocket_path = "s"\nallow_gids = ["a\\u0000b"]', "is nobody here"),
        (HTTP + '[[listen]]\nsocket_path = "s"\nallow_uids = ["\u00b2"]', "is nobody here"),
        (HTTP + '[[listen]]\nsocket_path = "s"\nallow_uids = [4294967295]', "is nobody here"),
        (HTTP + '[[listen]]\nsocket_path = "s"\nsocket_owner = "a\\u0000b"', "NUL"),
        (HTTP + '[[listen]]\nsocket_path = "s"\nsocket_owner = "\u00b2"', "there is no user"),
        (HTTP + '[[listen]]\nsocket_path = "s"\nsocket_group = "4294967295"', "there is no group"),
        (HTTP + '[[listen]]\nsocket_path = "s"\nsocket_group = "' + "9" * 5000 + '"', "there is no group"),
        (HTTP + '[gateway]\nuser = "a\\u0000b"', "NUL"),
        (HTTP + '[gateway]\nuser = "\u00b2"', "there is no user"),
        (HTTP + '[gateway]\nuser = "' + "9" * 5000 + '"', "there is no user"),
        (HTTP + '[gateway]\nuser = "nobody"\ngroup = "\u00b2"', "there is no group"),
        (HTTP + '[gateway]\nuser = "nobody"\ngroup = "99999999999999999999"', "there is no group"),
        ('[[server]]\nname = "a"\ncommand = "server"\nenv = { "A=B" = "c" }', "not the name of a variable"),
        ('[[server]]\nname = "a"\ncommand = "server"\nenv = { "" = "c" }', "not the name of a variable"),
        ('[[server]]\nname = "a"\ncommand = "server"\nenv = { "A\\u0000" = "c" }', "the name of a variable"),
        (HTTP.replace("a.example", "a.example/\u00a0"), "holds what no URL can hold"),
    ],
)
def test_odd_values_are_problems_and_no_tracebacks(
    tmp_path: Path, env: dict[str, str], text: str, said: str
) -> None:
    assert said in "".join(problems(tmp_path, text, env).values())


def test_a_variable_that_is_no_text_is_a_problem(tmp_path: Path, env: dict[str, str]) -> None:
    text = HTTP + 'rename = { a = "${env:ODD}" }\n[server.oauth]\nclient_id = "x${env:ODD}"'
    found = problems(tmp_path, text, env | {"ODD": "\udcff"})
    assert sorted(found) == ["server.a.oauth.client_id", "server.a.rename.a"]
    assert all("is not UTF-8" in told for told in found.values())


def test_sockets_and_other_transports(tmp_path: Path, env: dict[str, str]) -> None:
    text = (
        SERVER
        + """
        health_s = 5
        [[server]]
        name = "ws"
        transport = "websocket"
        url = "wss://mcp.example/ws"
        headers = { A = "b" }
        [[server]]
        name = "sock"
        transport = "unix"
        socket_path = "server.sock"
        [[server]]
        name = "old"
        transport = "sse"
        url = "https://mcp.example/sse"
        [[listen]]
        kind = "unix"
        socket_mode = "0660"
        [[listen]]
        name = "local"
        socket_path = "http.sock"
        websocket = true
        sse = true
        sse_path = "/events"
        messages_path = "/post"
        socket_mode = 0o666
    """
    )
    settings = load(write(tmp_path, text), env | {"XDG_RUNTIME_DIR": "/run/user/7"})
    _, ws, sock, old = settings.gateway.servers
    assert (ws.transport, ws.url, ws.headers) == ("websocket", "wss://mcp.example/ws", {"A": "b"})
    assert (sock.transport, sock.socket_path) == ("unix", str(tmp_path / "server.sock"))
    assert (old.transport, settings.gateway.servers[0].health_s) == ("sse", 5.0)
    first, second = settings.gateway.listeners
    assert (first.kind, first.socket_path) == ("unix", "/run/user/7/mcpgate/unix.sock")
    assert (first.socket_mode, second.socket_mode) == (0o660, 0o666)
    assert (second.websocket, second.sse, second.sse_path, second.messages_path) == (
        True,
        True,
        "/events",
        "/post",
    )
    assert [w.key for w in settings.warnings] == ["listen[0].socket_mode", "listen.local.socket_mode"]


def test_tls_listeners(tmp_path: Path, env: dict[str, str], certificates: Certificates) -> None:
    file = certificates.issue("server.test", "settings.pem")
    text = f"""
        [[listen]]
        host = "0.0.0.0"
        tls_cert = "{file}"
        tls_key = "{file}"
        tls_client_ca = "{certificates.ca_file}"
        tls_require_client = true
    """
    Path(file).chmod(0o644)
    assert list(problems(tmp_path, SERVER + text, env)) == ["listen[0].tls_key"]
    settings = load(write(tmp_path, SERVER + text), env, insecure=True)
    (listener,) = settings.gateway.listeners
    assert listener.tls == ServerTls(
        cert_file=file, key_file=file, client_ca_file=certificates.ca_file, require_client=True
    )
    assert [w.key for w in settings.warnings] == ["listen[0].tls_key"]
    Path(file).chmod(0o600)
    # Encryption alone asks nobody who they are.
    bare = text.replace("tls_require_client = true", "").replace("tls_client_ca", "# tls_client_ca")
    assert list(problems(tmp_path, SERVER + bare, env)) == ["listen[0].host"]


def test_every_problem_is_reported_at_once_and_no_secret(tmp_path: Path, env: dict[str, str]) -> None:
    text = SERVER + "args = ['${env:NOPE}']\nfoo = 'hunter2'\ntimeout = 'soon'\n[gateway]\nprefix = 'x'"
    found = problems(tmp_path, text, env)
    assert sorted(found) == ["gateway.prefix", "server.a.args[0]", "server.a.foo", "server.a.timeout"]
    assert "hunter2" not in str(found)


def test_client_files(tmp_path: Path, env: dict[str, str], bin_dir: Path) -> None:
    text = json.dumps(
        {
            "globalShortcut": "x",
            "mcpServers": {
                "My Files!": {
                    "command": "server",
                    "args": ["${TOKEN}", "${NONE:-d}", "$x"],
                    "alwaysAllow": [],
                },
                "web": {"type": "streamable-http", "url": "https://a/mcp", "headers": {"X": "${env:TOKEN}"}},
                "old": {"type": "sse", "url": "https://a/sse", "disabled": True},
                "bare": {"url": "https://b/mcp"},
                "my files": {"command": "npx", "env": {"N": 1}, "envFile": "${workspaceFolder}/.env"},
            },
        }
    )
    settings = load(write(tmp_path, text, "claude.json"), env)
    servers = settings.gateway.servers
    assert [server.name for server in servers] == ["My-Files", "web", "old", "bare", "my-files"]
    assert servers[0].args == ("t0ken-t0ken", "d", "$x") and servers[0].command == str(bin_dir / "server")
    assert [server.transport for server in servers] == ["stdio", "http", "sse", "http", "stdio"]
    assert (
        servers[1].headers == {"X": "t0ken-t0ken"} and not servers[2].enabled and servers[4].env["N"] == "1"
    )
    said = {warning.key: warning.mend for warning in settings.warnings}
    assert "'My-Files'" in said["mcpServers.My Files!"]
    assert "in env" in said["mcpServers.my files.envFile"], "its variables would be missing without a word"


def test_vs_code_file_and_its_inputs(tmp_path: Path, env: dict[str, str]) -> None:
    entry = {"type": "stdio", "command": "server", "args": ["${input:key}"]}
    text = json.dumps({"inputs": [{"id": "key"}], "servers": {"a": entry}})
    found = problems(tmp_path, text, env, "mcp.json")
    assert "asks a person" in found["servers.a.args[0]"]
    found = problems(
        tmp_path, '{"mcpServers": {"a": {"command": "server", "type": "pipe"}}}', env, "mcp.json"
    )
    assert list(found) == ["mcpServers.a.type"]
    assert "is not JSON" in problems(tmp_path, "{", env, "mcp.json")[""]


def test_where_a_config_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "xdg"
    here.mkdir()
    (there / "mcpgate").mkdir(parents=True)
    monkeypatch.chdir(here)
    env = {"XDG_CONFIG_HOME": str(there)}
    with pytest.raises(SettingsError) as caught:
        find_config(env)
    places = config_places(env)
    assert all(str(place) in str(caught.value) for place in places)
    write(there / "mcpgate", "")
    assert find_config(env) == there / "mcpgate" / "mcpgate.toml"
    write(here, "")
    assert find_config(env) == here / "mcpgate.toml"
    assert config_places({})[1] == Path(os.path.expanduser("~/.config/mcpgate/mcpgate.toml"))


def test_files_that_cannot_be_read(tmp_path: Path, env: dict[str, str]) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(SettingsError, match="cannot be read"):
            load(path, env)
    (tmp_path / "latin.toml").write_bytes(b"# \xe9")
    with pytest.raises(SettingsError, match="is not UTF-8"):
        load(tmp_path / "latin.toml", env)
