"""Logins over real sockets: the official SDK's server and authorization server, a scripted browser, files.

Must never: reach beyond this machine, or touch the logins of whoever runs the tests.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.harness import MCPGATE, META, PEERS, Gateway, Process, environment, until
from e2e.rawhttp import Http, modern

# Follows the address, with redirects, as a browser does; what it saw goes into a file.
BROWSER = """#!{python}
import sys, urllib.request
with open({log!r}, "a") as log:
    log.write(sys.argv[1] + "\\n")
if {follows!r}:
    page = urllib.request.urlopen(sys.argv[1], timeout=20)
    with open({log!r} + ".page", "w") as file:
        file.write(page.read().decode())
"""
RUNNERS = ("asyncio", "trio", "curio", "blocking")


class Guarded(Process):
    """`peers/guarded.py`."""

    def __init__(self, python: str, *args: str) -> None:
        super().__init__([python, str(PEERS / "guarded.py"), *args])
        self.url: str = self.wait_for(lambda: self.facts("ready"), "ready line")[0]["ready"]

    @property
    def issuer(self) -> str:
        return self.url.removesuffix("/mcp")

    def facts(self, event: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.out if line.startswith("{")]
        return [one for one in found if one.get("event") == event or event in one]


class Home:
    """Where one user's logins are, and a browser that follows what it is shown."""

    def __init__(self, folder: Path, *, follows: bool = True) -> None:
        self.state = folder / "state"
        self.log = folder / "browser.log"
        script = folder / "browser"
        script.write_text(BROWSER.format(python=sys.executable, log=str(self.log), follows=follows))
        script.chmod(0o700)
        self.env = {"XDG_STATE_HOME": str(self.state), "BROWSER": f"{script} %s"}

    @property
    def shown(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    @property
    def records(self) -> list[Path]:
        return sorted((self.state / "mcpgate" / "logins").glob("*.json"))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def guarded(sdk_python: str, owned: list[Process]) -> Iterator[Callable[..., Guarded]]:
    def make(*args: str) -> Guarded:
        server = Guarded(sdk_python, *args)
        owned.append(server)
        return server

    yield make


def connect(owned: list[Process], home: Home, url: str, *args: str) -> Gateway:
    gateway = Gateway("connect", url, *args, stdio=True, env=home.env)
    owned.append(gateway)
    return gateway


def tool(gateway: Gateway, name: str) -> str:
    """What a tool says."""
    answer = gateway.ask("tools/call", name=name, arguments={}, wait_s=60.0)
    assert "result" in answer, answer
    return str(answer["result"]["content"][0]["text"])


@pytest.mark.parametrize("runner", RUNNERS)
def test_connect_logs_in_and_keeps_it(
    runner: str, guarded: Callable[..., Guarded], owned: list[Process], home: Home
) -> None:
    server = guarded()
    gateway = connect(owned, home, server.url, "--runner", runner)
    assert tool(gateway, "whoami") == "person-1"
    (url,) = home.shown
    assert url in "\n".join(gateway.err), "it is printed as well, for who has no browser"
    until(lambda: Path(f"{home.log}.page").exists(), "the page")
    assert "You are logged in." in Path(f"{home.log}.page").read_text()
    (record,) = home.records
    for path, mode in ((record, 0o600), (record.parent, 0o700)):
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert [one["by"] for one in server.facts("issued")] == ["code"]
    assert {one["resource"] for one in server.facts("issued")} == {server.url}
    gateway.close_stdin()
    assert gateway.wait() == 0
    secrets = json.loads(record.read_text())["entries"]
    said = "\n".join(gateway.err)
    for entry in secrets.values():
        assert entry["access"] not in said and entry["refresh"] not in said

    again = connect(owned, home, server.url, "--runner", runner)
    assert tool(again, "whoami") == "person-1"
    assert len(home.shown) == 1 and len(server.facts("issued")) == 1


def test_tokens_that_are_void_are_refreshed_and_lost_ones_mean_a_login(
    guarded: Callable[..., Guarded], owned: list[Process], home: Home
) -> None:
    server = guarded()
    gateway = connect(owned, home, server.url)
    assert tool(gateway, "revoke") == "done"
    assert tool(gateway, "whoami") == "person-1"
    assert [one["by"] for one in server.facts("issued")] == ["code", "refresh"]
    assert tool(gateway, "forget") == "done"
    assert tool(gateway, "whoami") == "person-2"
    assert len(home.shown) == 2 and len(server.facts("registered")) == 1


def test_several_processes_share_one_login(
    guarded: Callable[..., Guarded], owned: list[Process], home: Home
) -> None:
    server = guarded()
    gateways = [connect(owned, home, server.url) for _ in range(3)]
    numbers = []
    for number, gateway in enumerate(gateways):
        params = {"name": "whoami", "arguments": {}, "_meta": META}
        gateway.send({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params})
        numbers.append(number)
    for number, gateway in zip(numbers, gateways, strict=True):
        answer = gateway.wait_for(lambda g=gateway, n=number: g.answer_to(n), "answer", 60.0)
        assert answer["result"]["content"][0]["text"] == "person-1"
    assert len(home.shown) == 1 and len(server.facts("authorized")) == 1 and len(home.records) == 1
    # All hold the same refresh token, which is good once.
    assert tool(gateways[0], "revoke") == "done"
    assert [tool(gateway, "whoami") for gateway in gateways] == ["person-1"] * 3
    assert len(server.facts("authorized")) == 1 and not server.facts("refused")


def test_serve_uses_the_login_that_was_made_for_its_principal(
    guarded: Callable[..., Guarded], owned: list[Process], home: Home, tmp_path: Path
) -> None:
    server = guarded()
    config = tmp_path / "mcpgate.toml"
    config.write_text(
        f'[[server]]\nname = "far"\ntransport = "http"\nurl = "{server.url}"\n[server.oauth]\n'
        "[[listen]]\nport = 0\n"
    )
    config.chmod(0o600)
    gateway = Gateway("serve", "-c", str(config), env=home.env)
    owned.append(gateway)
    told = over_http(gateway)
    assert "mcpgate login far --principal anonymous" in told["error"]["message"]
    assert not home.shown, "a remote client opens no browser"
    done = command(home, "login", "far", "-c", str(config), "--principal", "anonymous")
    assert done == (0, f"far: logged in ({server.issuer})")
    found = until(lambda: over_http(gateway).get("result"), "the login")
    assert found["content"][0]["text"] == "person-1"
    assert command(home, "logout", "far", "-c", str(config), "--principal", "anonymous")[0] == 0
    assert not home.records


def over_http(gateway: Gateway) -> dict[str, Any]:
    """The answer to a call of `whoami`."""
    body, headers = modern("tools/call", name="whoami", arguments={})
    return dict(Http(gateway.port, gateway.path).post(body, headers).message)


def command(home: Home, *args: str) -> tuple[int, str]:
    """Exit code and last line of a command."""
    process = Process([*MCPGATE, *args], env=environment(**home.env))
    try:
        code = process.wait(60.0)
        lines = process.out if code == 0 else process.err
        return code, lines[-1] if lines else ""
    finally:
        process.end()


def test_login_and_logout_by_url(guarded: Callable[..., Guarded], owned: list[Process], home: Home) -> None:
    server = guarded()
    assert command(home, "login", server.url) == (0, f"{server.url}: logged in ({server.issuer})")
    assert len(home.records) == 1
    gateway = connect(owned, home, server.url)
    assert tool(gateway, "whoami") == "person-1" and len(home.shown) == 1
    assert command(home, "logout", server.url) == (0, f"{server.url}: logged out")
    assert not home.records
    assert command(home, "logout", server.url) == (0, f"{server.url}: there was no login")
    assert command(home, "login", server.url) == (0, f"{server.url}: logged in ({server.issuer})")
    assert len(home.shown) == 2


def test_login_where_nobody_answers(home: Home) -> None:
    code, told = command(home, "login", "http://127.0.0.1:1/mcp")
    assert code == 1 and "the login failed" in told


def test_without_a_browser_the_address_is_only_printed(
    guarded: Callable[..., Guarded], owned: list[Process], home: Home
) -> None:
    import urllib.request

    server = guarded()
    gateway = connect(owned, home, server.url, "--no-browser")
    number = 7
    params = {"name": "whoami", "arguments": {}, "_meta": META}
    gateway.send({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params})
    line = gateway.wait_for(
        lambda: [one for one in gateway.err if "wants you to log in" in one], "the address"
    )
    assert not home.shown
    with urllib.request.urlopen(line[0].split()[-1], timeout=20) as page:
        assert page.status == 200
    answer = gateway.wait_for(lambda: gateway.answer_to(number), "answer", 60.0)
    assert answer["result"]["content"][0]["text"] == "person-1"


def test_a_store_that_others_can_read_is_not_used(
    guarded: Callable[..., Guarded], owned: list[Process], home: Home
) -> None:
    server = guarded()
    folder = home.state / "mcpgate" / "logins"
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    gateway = connect(owned, home, server.url)
    assert tool(gateway, "whoami") == "person-1"
    assert "chmod 700" in "\n".join(gateway.err) and os.listdir(folder) == []
