"""docs/configuration.md names every key there is, and no other.

Must never: keep a list of its own; the structs of the core and the reader of settings are the source.
"""

from __future__ import annotations

import re
from pathlib import Path

from mcpgate.rule_settings import SERVER_KEYS
from mcpgate.settings import load
from mcpgate_proto.config import (
    AuthConfig,
    IssuerConfig,
    KeyConfig,
    ListenConfig,
    MonitorConfig,
    RateConfig,
    RuleConfig,
    ServerConfig,
)
from tests.runner.conftest import Certificates, certificates

__all__ = ["certificates"]

ROOT = Path(__file__).parents[2]
DOC = (ROOT / "docs" / "configuration.md").read_text("utf-8")


def documented(section: str) -> set[str]:
    """The keys in the first column of the table under a heading."""
    part = DOC.split(f"## `{section}`\n", 1)[1].split("\n## ", 1)[0]
    cells = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    return {key for cell in cells for key in re.findall(r"`([a-z_]+)`", cell)}


def asked_for(pattern: str) -> set[str]:
    """The keys that the readers of settings ask their tables for."""
    files = sorted((ROOT / "runners" / "mcpgate").glob("*settings.py"))
    return {key for file in files for key in re.findall(pattern, file.read_text("utf-8"))}


def test_every_key_of_a_server_is_documented() -> None:
    assert documented("[[server]]") == set(ServerConfig.__struct_fields__) | {"pass_env", *SERVER_KEYS}


def test_every_key_of_a_rule_is_documented() -> None:
    assert documented("[[rule]]") == set(RuleConfig.__struct_fields__)


def test_every_key_of_the_gateway_is_documented() -> None:
    read = asked_for(r'gateway\.(?:text|texts|whole|number|flag|secret)\(\s*"([a-z_]+)"')
    assert len(read) > 10 and documented("[gateway]") == read


def test_every_key_of_a_listener_is_documented() -> None:
    spelled = {"tls": {"tls_cert", "tls_key", "tls_client_ca", "tls_require_client"}}
    spelled |= {"socket_uid": {"socket_owner"}, "socket_gid": {"socket_group"}}
    assert documented("[[listen]]") == {
        key for field in ListenConfig.__struct_fields__ for key in spelled.get(field, {field})
    }


def test_every_key_of_rates_and_monitoring_is_documented() -> None:
    assert documented("[rate]") == set(RateConfig.__struct_fields__)
    assert documented("[monitor]") == set(MonitorConfig.__struct_fields__)


def test_every_key_of_authentication_is_documented() -> None:
    spelled = {"keys": "key", "issuers": "issuer", "expires_wall": "expires"}
    tables = {"[auth]": AuthConfig, "[[auth.key]]": KeyConfig, "[[auth.issuer]]": IssuerConfig}
    for section, config in tables.items():
        assert documented(section) == {spelled.get(field, field) for field in config.__struct_fields__}


def test_the_example_of_authentication_can_be_used(tmp_path: Path, certificates: Certificates) -> None:
    part = DOC.split("For example, two keys and one issuer", 1)[1]
    example = part.split("```toml\n", 1)[1].split("```", 1)[0]
    file = Path(certificates.issue("gw.example", "docs.pem"))
    file.chmod(0o600)
    for name in ("/etc/mcpgate/gw.example.pem", "/etc/mcpgate/gw.example.key"):
        example = example.replace(name, str(file))
    config = tmp_path / "mcpgate.toml"
    config.write_text('[[server]]\nname = "a"\ncommand = "/bin/sh"\n' + example)
    config.chmod(0o600)
    gateway = load(config).gateway
    assert [key.id for key in gateway.auth.keys] == ["ci", "nightly"] and len(gateway.auth.issuers) == 1
