"""docs/upstream-auth.md and the table of `[server.oauth]` say what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mcpgate.settings import load
from mcpgate_proto.config import OAuthConfig
from mcpgate_proto.limits import Limits
from mcpgate_proto.upstream.oauth_login import CALLBACK_PATH

ROOT = Path(__file__).parents[2]
DOC = (ROOT / "docs" / "upstream-auth.md").read_text("utf-8")
KEYS = (ROOT / "docs" / "configuration.md").read_text("utf-8")


def test_every_key_is_documented() -> None:
    part = KEYS.split("## `[server.oauth]`\n", 1)[1].split("\n## ", 1)[0]
    cells = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    found = {key for cell in cells for key in re.findall(r"`([a-z_]+)`", cell)}
    assert found == set(OAuthConfig.__struct_fields__)


def examples(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", DOC, re.DOTALL)


@pytest.mark.parametrize("number", range(3))
def test_every_example_can_be_used(number: int, tmp_path: Path) -> None:
    found = examples("toml")
    assert len(found) == 3
    secret = tmp_path / "secret"
    secret.write_text("s3cr3t")
    secret.chmod(0o600)
    config = tmp_path / "mcpgate.toml"
    config.write_text(found[number].replace("/run/secrets/search", str(secret)))
    config.chmod(0o600)
    (server,) = load(config, {"BILLING_SECRET": "s3cr3t"}).gateway.servers
    assert server.oauth is not None or server.headers


def test_the_metadata_document_fits() -> None:
    (found,) = examples("json")
    document = json.loads(found)
    (port,) = re.findall(r"`callback_port = (\d+)`", DOC)
    assert document["redirect_uris"] == [f"http://127.0.0.1:{port}{CALLBACK_PATH}"]


def test_the_limits_that_it_names() -> None:
    told = dict(re.findall(r"([\w ]+) \(`limits\.(\w+)`\)", DOC))
    named = {name: words for words, name in told.items()}
    limits = Limits()
    assert named["fetch_bytes"].endswith(f"{limits.fetch_bytes // 1024} KiB")
    assert named["fetch_timeout_s"].endswith(f"{limits.fetch_timeout_s:.0f} seconds")
    assert named["login_wait_s"].endswith(f"{limits.login_wait_s:.0f} seconds")
    assert limits.login_timeout_s == 600 and "ten minutes" in DOC


def test_the_words_of_the_log_are_those_of_the_code() -> None:
    source = "".join(
        path.read_text("utf-8")
        for folder in ("mcpgate_proto/upstream", "runners/mcpgate")
        for path in sorted((ROOT / folder).glob("*.py"))
    )
    rows = re.findall(r"^\| `([^`]+)` \|", DOC.split("## Where it does not work", 1)[1], re.MULTILINE)
    assert len(rows) >= 6
    for words in rows:
        assert words in source, words
