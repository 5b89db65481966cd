"""docs/rules.md: its examples are configs that can be used, and decide as the tables below them say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mcpgate.settings import load
from mcpgate_proto.security.hidden import findings
from mcpgate_proto.security.pins import PINNED
from mcpgate_proto.security.principal import Principal
from mcpgate_proto.security.rules import Rules

DOC = (Path(__file__).parents[2] / "docs" / "rules.md").read_text("utf-8")
PARTS = re.split(r"^##+ ", DOC, flags=re.MULTILINE)
EXAMPLES = [part for part in PARTS if part.startswith("Example")]
ROW = re.compile(r"^\| `([^`]+)` \| `([^`]+)` \| (\w+) \| `([^`]+)` \| (let|denied) \|$", re.MULTILINE)


def rules_of(text: str, folder: Path) -> Rules:
    config = folder / "mcpgate.toml"
    told = text.split("```toml\n", 1)[1].split("```", 1)[0]
    told = re.sub(r'"/usr/bin/[a-z-]+"', '"/bin/sh"', told)
    if "[[server]]" not in told:
        told += '[[server]]\nname = "github"\ncommand = "/bin/sh"\n'
    config.write_text(told)
    config.chmod(0o600)
    settings = load(config)
    assert settings.warnings == []
    return Rules(settings.gateway.rules)


@pytest.mark.parametrize("example", EXAMPLES, ids=[one.partition("\n")[0] for one in EXAMPLES])
def test_examples_decide_as_their_tables_say(example: str, tmp_path: Path) -> None:
    rules = rules_of(example, tmp_path)
    rows = ROW.findall(example)
    assert rows or "arguments" in example
    assert len(rows) == sum(line.startswith("| `") for line in example.splitlines())
    for who, server, kind, thing, verdict in rows:
        assert rules.lets(Principal(who), server, kind, thing) is (verdict == "let"), (who, kind, thing)


def test_the_first_rule_can_be_used(tmp_path: Path) -> None:
    rules = rules_of(DOC.split("## Rules\n", 1)[1], tmp_path)
    who = Principal("key:ci-1")
    assert rules.lets(who, "github", "tools", "read_x") and not rules.lets(who, "github", "prompts", "x")
    assert rules.lets(Principal("key:ci-admin"), "github", "prompts", "x")
    assert [dict(one) for one in rules.renames(who, "github")] == [{"read_file": "read"}]


def test_the_example_of_arguments(tmp_path: Path) -> None:
    rules = rules_of(next(one for one in EXAMPLES if "arguments" in one), tmp_path)
    for arguments, refused in (
        ({"path": "src", "branch": "dev/x"}, None),
        ({"path": "../x"}, "path"),
        ({"branch": "--force"}, "branch"),
    ):
        assert rules.refused_argument(Principal("local"), "git", "git_log", arguments) == refused


def test_what_is_pinned_is_named() -> None:
    for names in PINNED.values():
        assert all(f"`{name}`" in DOC for name in names)


def test_the_tricks_that_are_named_are_found() -> None:
    for trick in ("<IMPORTANT>", "do not tell the user"):
        assert trick in DOC and findings({"description": trick}, 1000)
