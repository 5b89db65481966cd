"""Every runner carries out what logins need: records with their locks, late listeners, addresses to show."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from mcpgate import logins
from mcpgate.tokens import TokenStore
from mcpgate_proto import effects as fx
from tests.runner.fake import FakeGateway, Run, dial, read_all, running, tcp

URL = "https://as.example/authorize?state=x"


def test_a_record_is_claimed_kept_and_claimed_again(run: Run, tmp_path: Path) -> None:
    gateway = FakeGateway(tcp())
    with running(gateway, run, tokens=tmp_path / "logins") as harness:
        harness.put(fx.Claim("abc"))
        gateway.until(lambda: gateway.all("claimed") == [("abc", b"")])
        harness.put(fx.Keep("abc", b"one"), fx.Release("abc"))
        harness.put(fx.Claim("abc"))
        gateway.until(lambda: gateway.all("claimed")[1:] == [("abc", b"one")])
        harness.put(fx.Keep("abc", b""), fx.Release("abc"))
        harness.put(fx.Claim("abc"))
        gateway.until(lambda: gateway.all("claimed")[2:] == [("abc", b"")])
    assert not harness.records, harness.records


def test_it_waits_for_another_process_and_goes_on_meanwhile(run: Run, tmp_path: Path) -> None:
    other = TokenStore(tmp_path / "logins")
    assert other.lock("abc")
    gateway = FakeGateway(tcp())
    with running(gateway, run, tokens=tmp_path / "logins") as harness:
        harness.put(fx.Claim("abc"), fx.Claim("def"), fx.Claim("ghi"))
        gateway.until(lambda: len(gateway.all("claimed")) == 2)
        assert sorted(name for name, _ in gateway.all("claimed")) == ["def", "ghi"]
        with dial(harness):
            gateway.first("accepted")
        other.write("abc", b"theirs")
        other.close()
        gateway.until(lambda: gateway.all("claimed")[2:] == [("abc", b"theirs")])


def test_a_claim_that_is_given_up_is_not_answered(run: Run, tmp_path: Path) -> None:
    other = TokenStore(tmp_path / "logins")
    assert other.lock("abc")
    gateway = FakeGateway(tcp())
    with running(gateway, run, tokens=tmp_path / "logins") as harness:
        harness.put(fx.Claim("abc"))
        harness.put(fx.Release("abc"))
        other.close()
        assert other.lock("abc")
        other.close()
        harness.put(fx.Claim("def"))
        gateway.until(lambda: gateway.all("claimed"))
    assert gateway.all("claimed") == [("def", b"")]


def test_the_end_of_a_run_lets_every_lock_go(run: Run, tmp_path: Path) -> None:
    gateway = FakeGateway(tcp())
    with running(gateway, run, tokens=tmp_path / "logins") as harness:
        harness.put(fx.Claim("abc"))
        gateway.until(lambda: gateway.all("claimed"))
    store = TokenStore(tmp_path / "logins")
    assert store.lock("abc")
    store.close()


def test_without_a_store_that_is_safe_there_is_none(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "logins"
    folder.mkdir()
    folder.chmod(0o755)
    gateway = FakeGateway(tcp())
    with running(gateway, run, tokens=folder) as harness:
        harness.put(fx.Claim("abc"))
        gateway.until(lambda: gateway.all("claimed") == [("abc", None)])
        harness.put(fx.Keep("abc", b"secret"), fx.Release("abc"), fx.Claim("abc"))
        gateway.until(lambda: len(gateway.all("claimed")) == 2)
    (record,) = harness.records
    assert record.event == "logins_not_stored" and "chmod 700" in str(record.fields)
    assert os.listdir(folder) == []


def test_a_listener_can_be_opened_and_closed_while_it_runs(run: Run) -> None:
    gateway = FakeGateway(tcp())
    gateway.hooks["received"] = lambda conn, data: gateway.put(fx.Write(conn, [data]), fx.Close(conn))
    with running(gateway, run) as harness:
        harness.put(tcp("late"))
        gateway.until(lambda: any(name == "late" for name, _ in gateway.all("listening")))
        harness.addresses = dict(gateway.all("listening"))  # type: ignore[arg-type]
        with dial(harness, "late") as sock:
            sock.sendall(b"hello")
            assert read_all(sock) == b"hello"
        harness.put(fx.Unlisten("late"))
        with pytest.raises(ConnectionRefusedError):
            dial(harness, "late")
        harness.put(tcp("taken", port=harness.addresses["tcp"].port))
        gateway.until(lambda: gateway.all("listen_failed"))


def test_an_address_is_shown_to_whoever_was_named(run: Run) -> None:
    shown: list[tuple[str, str]] = []
    gateway = FakeGateway(tcp())
    with running(gateway, run, browse=lambda server, url: shown.append((server, url))) as harness:
        harness.put(fx.Browse("s1", URL))
    assert shown == [("s1", URL)]


def test_unless_somebody_says_otherwise_it_is_written_to_stderr(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = FakeGateway(tcp())
    with running(gateway, run) as harness:
        harness.put(fx.Browse("s1", URL))
    out, err = capsys.readouterr()
    assert out == "" and err == f"mcpgate: server 's1' wants you to log in: {URL}\n"


@pytest.mark.parametrize(
    ("platform", "env", "opens"),
    [
        ("linux", {}, False),
        ("linux", {"TERM": "xterm"}, False),
        ("linux", {"DISPLAY": ":0"}, True),
        ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, True),
        ("linux", {"BROWSER": "firefox"}, True),
        ("darwin", {}, True),
    ],
)
def test_a_browser_in_the_terminal_is_none(
    monkeypatch: pytest.MonkeyPatch, platform: str, env: dict[str, str], opens: bool
) -> None:
    """It would read the protocol's stdin."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert (logins._opener() is not None) is opens


def test_the_browser_gets_the_address_and_nothing_waits_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As one argument, without a shell (threats.md row 29)."""
    seen = tmp_path / "seen"
    script = tmp_path / "browser"
    script.write_text(f'#!/bin/sh\nprintf "%s|" "$@" > {seen}.new && mv {seen}.new {seen}\n')
    script.chmod(0o700)
    monkeypatch.setenv("BROWSER", f"{script} %s")
    url = "https://as.example/a?x=$(id)&y=`id`;z='1'"
    logins.open_browser("s1", url)
    for thread in threading.enumerate():
        if thread.name == "browser":
            thread.join(20)
    assert seen.read_text() == f"{url}|"
    assert url in capfd.readouterr().err
