"""The deployment checklist: what each check says of a machine and a config that it is handed."""

from __future__ import annotations

import dataclasses
import datetime
import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from mcpgate import doctor, doctor_checks
from mcpgate.doctor_checks import Facts, Finding, Verdict
from mcpgate.privileges import unreadable
from mcpgate.process_settings import Account, ProcessSettings
from mcpgate.settings import Settings
from mcpgate.tables import Problem
from mcpgate_proto.config import GatewayConfig, ListenConfig, Pin, Rate, RateConfig, ServerConfig
from mcpgate_proto.effects import ServerTls

UNSAID = RateConfig()
TLS = ServerTls(cert_file="c.pem", key_file="k.pem")
GOOD = {"h11": "0.16.0", "cryptography": "45.0", "wsproto": "1.2"}


def facts(
    *listeners: ListenConfig,
    servers: tuple[ServerConfig, ...] = (),
    rate: RateConfig = UNSAID,
    **more: object,
) -> Facts:
    config = GatewayConfig(servers=servers, listeners=listeners, rate=rate)
    settings = Settings(config, Path("mcpgate.toml"))
    given: dict[str, object] = {"settings": settings, "versions": GOOD, **more}
    return Facts(**given)  # type: ignore[arg-type]


def with_settings(*listeners: ListenConfig, **more: object) -> Facts:
    settings = Settings(GatewayConfig(listeners=listeners), Path("mcpgate.toml"))
    return Facts(settings=replace(settings, **more), versions=GOOD)  # type: ignore[arg-type]


def http(host: str = "127.0.0.1", **more: object) -> ListenConfig:
    return ListenConfig(name="http", host=host, **more)  # type: ignore[arg-type]


def verdicts(found: Facts, check: str) -> list[str]:
    return [one.verdict.value for one in doctor.examine(found) if one.check == check]


@pytest.mark.parametrize(
    ("check", "given", "expected"),
    [
        ("bind", facts(http()), ["pass"]),
        ("bind", facts(http("0.0.0.0", tls=TLS)), ["warn"]),
        ("bind", facts(http("192.0.2.1", behind_proxy=True)), ["warn"]),
        ("bind", facts(ListenConfig(name="s", socket_path="/tmp/x.sock")), ["pass"]),
        ("tls", facts(http()), []),
        ("tls", facts(http("0.0.0.0", tls=TLS)), ["pass"]),
        ("tls", facts(http("0.0.0.0", behind_proxy=True)), ["warn"]),
        ("tls", facts(http("0.0.0.0")), ["fail"]),
        ("auth", facts(http()), ["pass"]),
        ("auth", facts(http("0.0.0.0", behind_proxy=True)), ["warn"]),
        ("auth", facts(http("0.0.0.0", tls=TLS, auth="required")), ["pass"]),
        ("auth", facts(ListenConfig(name="s", socket_path="/tmp/x.sock")), []),
        ("permissions", facts(), ["pass"]),
        ("permissions", with_settings(processes=ProcessSettings(insecure=True)), ["fail"]),
        ("secrets", facts(), ["pass"]),
        ("secrets", with_settings(inline_secrets=True), ["warn"]),
        ("rates", facts(http()), []),
        ("rates", facts(http(behind_proxy=True)), ["pass"]),
        ("rates", facts(http(behind_proxy=True), rate=RateConfig(address=Rate(0, 0))), ["warn"]),
        ("monitoring", facts(http()), []),
        ("monitoring", facts(http(behind_proxy=True)), ["warn"]),
        ("monitoring", facts(http(behind_proxy=True, monitor=("health", "metrics"))), ["pass"]),
        ("audit", facts(http(behind_proxy=True)), ["warn"]),
        ("audit", with_settings(http(behind_proxy=True), audit="stderr"), ["pass"]),
        ("user", facts(http()), ["pass"]),
        ("user", facts(http(), uid=0), ["warn"]),
        ("user", facts(http("0.0.0.0", tls=TLS), uid=0), ["fail"]),
        ("python", facts(python=(3, 11, 9), today=datetime.date(2026, 1, 1)), ["pass"]),
        ("python", facts(python=(3, 11, 9), today=datetime.date(2027, 9, 1)), ["warn"]),
        ("python", facts(python=(3, 11, 9), today=datetime.date(2028, 1, 1)), ["fail"]),
        ("python", facts(python=(3, 99, 0)), ["warn"]),
        ("libraries", facts(), ["pass"]),
        ("libraries", facts(versions={**GOOD, "h11": "0.14.0"}), ["fail"]),
        ("libraries", facts(versions={**GOOD, "cryptography": "44.0.0"}), ["fail"]),
        ("libraries", facts(versions={**GOOD, "h11": ""}), ["fail"]),
        ("libraries", facts(versions={**GOOD, "h11": "1.0rc1"}), ["pass"]),
        ("libraries", facts(openssl=(1, 1, 1, 0, 0)), ["fail"]),
        ("files", facts(open_files=65536), ["pass"]),
        ("files", facts(open_files=256), ["warn"]),
        ("processes", facts(), ["pass"]),
        ("processes", facts(system="Darwin"), ["warn"]),
        ("servers", facts(servers=(ServerConfig(name="a", command="/usr/bin/cat"),)), ["pass"]),
        ("servers", facts(servers=(ServerConfig(name="a", command="/usr/bin/npx", args=("x",)),)), ["warn"]),
    ],
)
def test_verdicts(check: str, given: Facts, expected: list[str]) -> None:
    assert verdicts(given, check) == expected


def test_a_python_that_the_user_cannot_read_is_found_before_the_start() -> None:
    account = Account("mcpgate", 999, 999, (999,), "/", "/bin/sh")
    given = replace(with_settings(http(), processes=ProcessSettings(account=account)), uid=0)
    assert verdicts(given, "user") == ["pass"]
    assert verdicts(replace(given, unreadable="/root/lib/os.py"), "user") == ["fail"]


def test_what_another_user_could_read(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "os.py"
    file.parent.mkdir()
    file.touch()
    file.chmod(0o755)
    file.parent.chmod(0o755)
    mine = file.stat()
    nobody = Account("nobody", 65533, 65533, (65533,), "/", "/bin/sh")
    group = replace(nobody, groups=(65533, mine.st_gid))
    owner = replace(nobody, uid=mine.st_uid)
    for place, mode, readers in (
        (file, 0o600, [owner]),
        (file, 0o640, [owner, group]),
        (file, 0o604, [owner, nobody]),  # a group that may not is not everybody
        (file.parent, 0o710, [owner, group]),
        (file.parent, 0o744, [owner]),
    ):
        before = place.stat().st_mode
        place.chmod(mode)
        found = [one for one in (owner, group, nobody) if not unreadable(one, [str(file)], tmp_path)]
        assert found == readers, oct(mode)
        place.chmod(before)
    assert unreadable(owner, [str(tmp_path / "missing")]) == str(tmp_path / "missing")


@pytest.mark.parametrize(
    ("mode", "servers", "verdict"),
    [
        ("off", ("a",), "warn"),
        ("report", (), "warn"),
        ("report", ("a",), "pass"),
        ("block", (), "pass"),
    ],
)
def test_pins(mode: str, servers: tuple[str, ...], verdict: str) -> None:
    pins = tuple(Pin(server=one, kind="tools", name="x", digest="sha256:0") for one in servers)
    given = facts(servers=(ServerConfig(name="a", command="/usr/bin/cat"),))
    assert given.settings is not None
    config = msgspec.structs.replace(given.settings.gateway, pins=mode, pinned=pins)
    changed = dataclasses.replace(given.settings, gateway=config)
    assert verdicts(dataclasses.replace(given, settings=changed), "pins") == [verdict]


def test_a_folder_that_others_can_write_is_no_place_for_a_socket(tmp_path: Path) -> None:
    listener = ListenConfig(name="unix", kind="unix", socket_path=str(tmp_path / "x.sock"))
    own = facts(listener, uid=tmp_path.stat().st_uid)
    assert verdicts(own, "sockets") == ["pass"]
    tmp_path.chmod(0o777)
    assert verdicts(own, "sockets") == ["fail"]
    tmp_path.chmod(0o1777)
    assert verdicts(own, "sockets") == ["pass"]


@pytest.mark.parametrize(
    ("name", "said"), [("file/x.sock", "is not a folder"), ("file/x/x.sock", "not a directory")]
)
def test_where_no_socket_can_be(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    listener = ListenConfig(name="unix", kind="unix", socket_path=str(tmp_path / name))
    (found,) = [one for one in doctor.examine(facts(listener)) if one.check == "sockets"]
    assert found.verdict is Verdict.FAIL and said in found.found and found.mend


def test_a_config_that_cannot_be_used_fails_with_its_mends() -> None:
    found = Facts(
        problems=(Problem("f.toml", "gateway.x", "is not a known key", "remove it"),), versions=GOOD
    )
    assert Finding(
        "config", Verdict.FAIL, "f.toml: gateway.x: is not a known key", "remove it"
    ) in doctor.examine(found)


def test_everything_that_is_not_good_has_a_mend() -> None:
    worst = facts(http("0.0.0.0"), uid=0, system="Darwin", open_files=1, versions={}, python=(3, 9, 0))
    for finding in doctor.examine(worst):
        assert (finding.verdict is Verdict.PASS) == (not finding.mend), finding


@pytest.mark.parametrize(
    ("text", "code", "strict_code"),
    [
        ('prefix = "always"\n', 0, 0),
        ("", 0, 1),  # one server without a prefix: advice, no failure
        ("x = 1\n", 1, 1),
    ],
)
def test_exit_codes_and_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, code: int, strict_code: int
) -> None:
    path = tmp_path / "mcpgate.toml"
    path.write_text(f'[gateway]\n{text}[[server]]\nname = "a"\ncommand = "/bin/cat"\n')
    path.chmod(0o600)
    only = (doctor_checks.config_reads, doctor_checks.advised)
    monkeypatch.setattr(doctor, "CHECKS", only)
    runner = CliRunner()
    plain = runner.invoke(doctor.doctor, ["-c", str(path), "--json"], standalone_mode=False)
    assert plain.return_value == code, plain.output
    assert {"check", "verdict", "found", "mend"} == set(json.loads(plain.stdout)[0])
    strict = runner.invoke(doctor.doctor, ["-c", str(path), "--strict"], standalone_mode=False)
    assert strict.return_value == strict_code, strict.output
