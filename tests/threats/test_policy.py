"""The security policy, row by row (docs/threats.md, 0), where no test elsewhere shows it.

Must never: read a setting in another way than the program does.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mcpgate.settings import Settings, SettingsError, load
from mcpgate_proto.limits import Limits
from tests.cli.program import mcpgate, running
from tests.cli.test_cli import call_tool

ROOT = Path(__file__).parents[2]
SERVER = '[[server]]\nname = "a"\ntransport = "http"\nurl = "https://tools.example/mcp"\n'
RUNNERS = ["asyncio", "trio", "curio", "blocking"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


def loaded(folder: Path, text: str, **env: str) -> Settings:
    path = folder / "mcpgate.toml"
    path.write_text(text)
    path.chmod(0o600)
    return load(path, {"PATH": os.environ["PATH"], "HOME": str(folder), **env})


def problems(folder: Path, text: str, **env: str) -> dict[str, str]:
    """What a config is refused for: key -> problem and mend."""
    with pytest.raises(SettingsError) as refused:
        loaded(folder, text, **env)
    return {one.key: f"{one.problem} / {one.mend}" for one in refused.value.problems}


def test_t0_1_reports() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    assert "private" in text and "48 hours" in text and "public issue" in text
    code, out, _ = mcpgate("version", "--json")
    assert code == 0
    told = json.dumps(json.loads(out)).lower()
    for name in ("mcpgate", "python", "h11", "wsproto", "anyio", "curio", "openssl"):
        assert name in told, name


TOKEN_FILE = SERVER + 'headers = { Authorization = "Bearer ${file:token}" }\n'


def token_file(folder: Path, mode: int) -> Path:
    path = folder / "token"
    path.write_text("sentinel-of-a-secret\n")
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("url", "fits"),
    [
        ("https://tools.example/mcp", True),
        ("http://127.0.0.1:9000/mcp", True),
        ("http://[::1]:9000/mcp", True),
        ("http://localhost:9000/mcp", True),
        ("http://tools.example/mcp", False),
        ("http://10.0.0.1/mcp", False),
        ("http://localhost.evil.example/mcp", False),
        ("http://127.0.0.1.evil.example/mcp", False),
        ("http://0.0.0.0/mcp", False),
        ("http://127.0.0.1@evil.example/mcp", False),
        ("https://user:password@tools.example/mcp", False),
        ("file:///etc/passwd", False),
        ("gopher://tools.example/", False),
        ("javascript:alert(1)", False),
    ],
)
def test_t0_9_plain_http(folder: Path, url: str, fits: bool) -> None:
    text = f'[[server]]\nname = "a"\ntransport = "http"\nurl = "{url}"\n'
    if fits:
        assert loaded(folder, text).gateway.servers[0].url == url
    else:
        assert "server.a.url" in problems(folder, text)


def test_t0_9_plain_http_is_a_decision(folder: Path) -> None:
    text = SERVER.replace("https", "http") + "allow_plain_http = true\n"
    assert loaded(folder, text).gateway.servers[0].url.startswith("http://")


def test_t0_10_no_switch_turns_verification_off(folder: Path) -> None:
    for key in ("tls_verify", "verify", "insecure", "tls_insecure", "verify_hostname"):
        assert f"server.a.{key}" in problems(folder, SERVER + f"{key} = false\n")
    for path in (ROOT / "runners").rglob("*.py"):
        text = path.read_text()
        assert not re.search(r"CERT_NONE|check_hostname\s*=\s*False|_create_unverified", text), path


def test_t0_12_defaults(folder: Path) -> None:
    """Nothing said: loopback only. Said otherwise without a gate in front: refused, with the mend."""
    for table in ("", "[[listen]]\nport = 9201\n"):
        assert [one.host for one in loaded(folder, table + SERVER).gateway.listeners] == ["localhost"]
    for host in ("0.0.0.0", "::", "192.0.2.7", "gw.example"):
        told = problems(folder, f'[[listen]]\nhost = "{host}"\n{SERVER}')
        assert "listen[0].host" in told and "auth" in told["listen[0].host"]
    path = folder / "mcpgate.toml"
    path.write_text(f'[[listen]]\nhost = "0.0.0.0"\n{SERVER}')
    code, _, err = mcpgate("serve", "-c", str(path))
    assert code == 2 and "listen[0].host" in err


def test_t0_16_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert len(project["dependencies"]) <= 10
    assert all(">=" in one for one in project["dependencies"]), "each has a floor"
    watched = (ROOT / ".github" / "dependabot.yml").read_text()
    assert "pip" in watched and "github-actions" in watched
    assert "pip-audit" in (ROOT / "Makefile").read_text()
    jobs = "".join(one.read_text() for one in (ROOT / ".github" / "workflows").glob("*.yml"))
    assert "audit" in jobs


def test_t0_17_every_limit_is_used() -> None:
    """A bound that nothing asks for bounds nothing."""
    sources = [*(ROOT / "mcpgate_proto").rglob("*.py"), *(ROOT / "runners").rglob("*.py")]
    code = "\n".join(path.read_text() for path in sources if path.name != "limits.py")
    for name in Limits.__struct_fields__:
        assert re.search(rf"\.{name}\b", code), name
    for name, value in msgspec.structs.asdict(Limits()).items():
        assert value > 0, name


def test_t0_23_supported_versions() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    version = re.search(
        r'__version__ = "(\d+\.\d+)', (ROOT / "runners" / "mcpgate" / "__init__.py").read_text()
    )
    assert version is not None and f"| {version[1]}.x | yes |" in text


REPORTING = """
import json, os, stat, sys
META = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
def report():
    fds = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            fds[name] = stat.S_IFMT(os.fstat(int(name)).st_mode)
        except OSError:
            pass
    return json.dumps({"fds": fds, "env": sorted(os.environ), "umask": os.umask(0o077)})
for line in sys.stdin:
    message = json.loads(line)
    method, id = message.get("method"), message.get("id")
    if method == "server/discover":
        result = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
    elif method == "tools/list":
        result = {"tools": [{"name": "report", "inputSchema": {"type": "object"}}]}
    elif method == "tools/call":
        result = {"content": [{"type": "text", "text": report()}]}
    else:
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": id, "result": {**result, **META}}), flush=True)
"""


@pytest.mark.parametrize("runner", RUNNERS)
def test_t5_2_descriptors(tmp_path: Path, runner: str) -> None:
    """A child has its three pipes: no listener, no connection, no log file, no other child's pipe."""
    pytest.importorskip(runner if runner in ("trio", "curio") else "asyncio")
    script = tmp_path / "report.py"
    script.write_text(REPORTING)
    args = ("run", "--port", "0", "--runner", runner, "--", sys.executable, "-I", "-S", str(script))
    with running(*args, SECRET_OF_THE_GATEWAY="x") as gate:
        url = gate.url()
        answer: dict[str, Any] = call_tool(url, "report", {})
        told = json.loads(answer["result"]["content"][0]["text"])
    # One more, of the folder that it is reading, which is gone when it looks.
    others = {int(name): kind for name, kind in told["fds"].items() if int(name) > 2}
    assert others == {}, others
    assert all(kind in (stat.S_IFIFO, stat.S_IFSOCK) for kind in told["fds"].values())
    assert "SECRET_OF_THE_GATEWAY" not in told["env"]


def socket_at(folder: Path, path: str) -> str:
    """What a listener and a server are refused for, if they are to use a socket at `path`."""
    listener = problems(folder, f'[[listen]]\nkind = "unix"\nsocket_path = "{path}"\n{SERVER}')
    server = problems(folder, f'[[server]]\nname = "b"\ntransport = "unix"\nsocket_path = "{path}"\n')
    assert listener["listen[0].socket_path"] == server["server.b.socket_path"]
    return listener["listen[0].socket_path"]


def test_t5_22_paths_of_sockets(folder: Path) -> None:
    assert "longer than" in socket_at(folder, "x" * 200)
    loaded(folder, f'[[listen]]\nkind = "unix"\nsocket_path = "s.sock"\n{SERVER}')


@pytest.mark.parametrize(
    ("path", "told"), [("@abstract", "abstract"), ("\\u0000abstract", "NUL"), ("a\\u0000b", "NUL")]
)
def test_t5_23_abstract_sockets(folder: Path, path: str, told: str) -> None:
    assert told in socket_at(folder, path)
