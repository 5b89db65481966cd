"""docs/configuration.md names every key there is, and no other.

Must never: keep a list of its own; the structs of the core and the reader of settings are the source.
"""

from __future__ import annotations

import re
from pathlib import Path

from mcpgate_proto.config import ServerConfig

ROOT = Path(__file__).parents[2]
DOC = (ROOT / "docs" / "configuration.md").read_text("utf-8")


def documented(section: str) -> set[str]:
    """The keys in the first column of the table under a heading."""
    part = DOC.split(f"## `{section}`\n", 1)[1].split("\n## ", 1)[0]
    cells = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    return {key for cell in cells for key in re.findall(r"`([a-z_]+)`", cell)}


def asked_for(file: str, pattern: str) -> set[str]:
    """The keys that the reader of settings asks its tables for."""
    source = (ROOT / "runners" / "mcpgate" / file).read_text("utf-8")
    return set(re.findall(pattern, source))


def test_every_key_of_a_server_is_documented() -> None:
    assert documented("[[server]]") == set(ServerConfig.__struct_fields__) | {"pass_env"}


def test_every_key_of_the_gateway_is_documented() -> None:
    read = asked_for("settings.py", r'gateway\.(?:text|whole|number|flag)\(\s*"([a-z_]+)"')
    assert read and documented("[gateway]") == read


def test_every_key_of_a_listener_is_documented() -> None:
    read = asked_for("listen_settings.py", r'table\.(?:text|whole|number|flag|texts|mode)\(\s*"([a-z_]+)"')
    assert read
    assert read - documented("[[listen]]") <= {"kind", "transport", "name"}
    elsewhere = {"kind", "name", "socket_path", "socket_mode"}
    tls = {"tls_cert", "tls_key", "tls_client_ca", "tls_require_client"}
    assert documented("[[listen]]") - read <= elsewhere | tls
