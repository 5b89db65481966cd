"""`[[rule]]`, the filters of servers, and pins in a config: their meaning, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mcpgate.lockfile import Lock, lock_path, write
from mcpgate.settings import Settings, SettingsError, load
from mcpgate_proto.config import Names, RuleConfig

SERVERS = "".join(f'[[server]]\nname = "{name}"\ncommand = "cat"\n' for name in ("files", "git"))


def loaded(folder: Path, text: str, **options: Any) -> Settings:
    path = folder / "mcpgate.toml"
    path.write_text(text)
    path.chmod(0o600)
    return load(path, **options)


def problems(folder: Path, text: str) -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        loaded(folder, text)
    assert all(problem.mend for problem in caught.value.problems)
    return {problem.key: problem.problem for problem in caught.value.problems}


def warnings(folder: Path, text: str) -> dict[str, str]:
    return {one.key: f"{one.problem} | {one.mend}" for one in loaded(folder, text).warnings}


def test_rules(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        """
        [[server]]
        name = "files"
        command = "cat"
        tools = { allow = ["read_*"], deny = ["*_all"] }
        resources = { deny = ["file:///etc/*"] }
        [[server]]
        name = "git"
        command = "cat"
        [[rule]]
        principals = ["key:*", "local"]
        except_principals = ["key:admin"]
        servers = ["g*"]
        prompts = { allow = [] }
        rename = { log = "history" }
        [[rule]]
        only_tools = ["git_*"]
        arguments = { path = { deny = ["*..*", "-*"] }, branch = { allow = ["main"] } }
        """,
    )
    assert found.warnings == []
    assert found.gateway.rules == (
        RuleConfig(
            servers=("files",),
            tools=Names(allow=("read_*",), deny=("*_all",)),
            resources=Names(deny=("file:///etc/*",)),
        ),
        RuleConfig(
            principals=("key:*", "local"),
            except_principals=("key:admin",),
            servers=("g*",),
            prompts=Names(allow=()),
            rename={"log": "history"},
        ),
        RuleConfig(
            only_tools=("git_*",),
            arguments={"path": Names(deny=("*..*", "-*")), "branch": Names(allow=("main",))},
        ),
    )
    assert found.gateway.pins == "off" and found.gateway.hidden_text == "report"


WRONG: dict[str, tuple[str, str, str]] = {
    "a server by its name": (
        "[[server]]\nname = 'a'\ncommand = '/bin/cat'\ntools = { alow = ['x'] }\n",
        "server.a.tools.alow",
        "is not a known key",
    ),
    "one table": ("[rule]\ntools = { deny = ['x'] }\n", "rule", "is one table"),
    "nothing said": ("[[rule]]\nservers = ['git']\n", "rule[0]", "says nothing"),
    "an unknown key": ("[[rule]]\ntool = { deny = ['x'] }\n", "rule[0].tool", "is not a known key"),
    "an unknown filter": ("[[rule]]\ntools = { alow = ['x'] }\n", "rule[0].tools.alow", "is not a known key"),
    "an empty filter": ("[[rule]]\ntools = {}\n", "rule[0].tools", "says nothing"),
    "a list for a filter": ("[[rule]]\ntools = ['x']\n", "rule[0].tools", "is a list"),
    "a text for a list": ("[[rule]]\ntools = { allow = 'x' }\n", "rule[0].tools.allow", "is a text"),
    "a number in a list": ("[[rule]]\ntools = { deny = [1] }\n", "rule[0].tools.deny[0]", "is a whole"),
    "nobody": ("[[rule]]\nprincipals = []\ntools = { deny = ['x'] }\n", "rule[0].principals", "is empty"),
    "no server": ("[[rule]]\nservers = []\ntools = { deny = ['x'] }\n", "rule[0].servers", "is empty"),
    "no tools": (
        "[[rule]]\nonly_tools = []\narguments = { a = { deny = ['x'] } }\n",
        "rule[0].only_tools",
        "is empty",
    ),
    "tools of nothing": (
        "[[rule]]\nonly_tools = ['x']\ntools = { deny = ['y'] }\n",
        "rule[0].only_tools",
        "goes with",
    ),
    "arguments as a list": ("[[rule]]\narguments = ['x']\n", "rule[0].arguments", "is a list"),
    "an argument": ("[[rule]]\narguments = { a = { x = 1 } }\n", "rule[0].arguments.a.x", "is not a known"),
    "a mode": ("[gateway]\npins = 'on'\n", "gateway.pins", "'on' is not one of"),
    "hidden text": ("[gateway]\nhidden_text = 'no'\n", "gateway.hidden_text", "'no' is not one of"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "key", "problem"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_said_with_its_key(text: str, key: str, problem: str, tmp_path: Path) -> None:
    assert problems(tmp_path, text + SERVERS)[key].startswith(problem)


def test_what_cannot_be_meant_is_warned_of(tmp_path: Path) -> None:
    found = warnings(
        tmp_path,
        SERVERS
        + """
        [[rule]]
        servers = ["gti", "files"]
        principals = ["alice", "key:bob", "*"]
        except_principals = ["bob@example"]
        tools = { deny = ["files__write", "a__b"] }
        resources = { deny = ["files__x"] }
        """,
    )
    assert set(found) == {
        "rule[0].servers",
        "rule[0].principals",
        "rule[0].except_principals",
        "rule[0].tools",
    }
    assert "'gti' fits no server" in found["rule[0].servers"] and "files, git" in found["rule[0].servers"]
    assert "'alice' fits nobody" in found["rule[0].principals"]
    assert "'write'" in found["rule[0].tools"]


def test_an_allow_that_is_missing_is_not_an_empty_one(tmp_path: Path) -> None:
    """Row 28: an empty list lets nothing through; only its absence lets everything."""
    empty = loaded(tmp_path, SERVERS + "[[rule]]\ntools = { allow = [] }\n").gateway.rules[0].tools
    missing = loaded(tmp_path, SERVERS + "[[rule]]\ntools = { deny = [] }\n").gateway.rules[0].tools
    assert empty == Names(allow=()) and missing == Names(allow=None)


# -- pins


READ = {"name": "read", "description": "Reads."}


def lock_beside(folder: Path) -> Path:
    lock = Lock()
    lock.add(("files", "tools", "read"), READ, "modern")
    path = lock_path(folder / "mcpgate.toml")
    write(path, lock)
    return path


@pytest.mark.parametrize(
    ("told", "mode"), [("", "report"), ("off", "off"), ("report", "report"), ("block", "block")]
)
def test_pins_with_a_lock(told: str, mode: str, tmp_path: Path) -> None:
    lock_beside(tmp_path)
    found = loaded(tmp_path, (f'[gateway]\npins = "{told}"\n' if told else "") + SERVERS)
    assert found.gateway.pins == mode and found.warnings == []
    assert [(pin.server, pin.kind, pin.name) for pin in found.gateway.pinned] == (
        [("files", "tools", "read")] if mode != "off" else []
    )


@pytest.mark.parametrize(
    ("told", "mode"), [("", "off"), ("off", "off"), ("report", "report"), ("block", "block")]
)
def test_pins_without_a_lock(told: str, mode: str, tmp_path: Path) -> None:
    """To block with nothing approved lets nothing through; `mcpgate lock` can still be run."""
    found = loaded(tmp_path, (f'[gateway]\npins = "{told}"\n' if told else "") + SERVERS)
    assert found.gateway.pins == mode and found.gateway.pinned == ()
    assert bool(found.warnings) is (mode != "off")


def test_the_config_of_a_client_can_have_a_lock_too(tmp_path: Path) -> None:
    lock_beside(tmp_path)
    path = tmp_path / "mcpgate.json"
    path.write_text('{"mcpServers": {"files": {"command": "cat"}}}')
    path.chmod(0o600)
    found = load(path)
    assert found.gateway.pins == "report" and len(found.gateway.pinned) == 1


def test_a_lock_that_others_can_change_is_refused(tmp_path: Path) -> None:
    path = lock_beside(tmp_path)
    path.chmod(0o666)
    assert "other users can change" in problems(tmp_path, SERVERS)["gateway.pins"]
    assert loaded(tmp_path, SERVERS, insecure=True).gateway.pins == "report"
    path.chmod(0o644)
    path.write_text("{}")
    assert "not a lock" in problems(tmp_path, SERVERS)["gateway.pins"]
    assert loaded(tmp_path, '[gateway]\npins = "off"\n' + SERVERS).gateway.pins == "off"
