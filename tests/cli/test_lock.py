"""`mcpgate lock` and `mcpgate check --pins`: what is written, what is shown, what is refused.

Must never: look at anything but files and what the process shows to the outside.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mcpgate.lockfile import Lock, LockError, differences, lock_path, read, write
from mcpgate.settings import load
from tests.cli.program import mcpgate

SERVER = Path(__file__).with_name("defined.py")
READ = {"name": "read", "description": "Reads a file.\nAll of it.", "inputSchema": {"type": "object"}}
GREET = {"name": "greet", "arguments": [{"name": "whom"}]}


class Place:
    """A folder with a config and what its servers define."""

    def __init__(self, folder: Path, *servers: str) -> None:
        self.folder = folder
        self.config = folder / "mcpgate.toml"
        self.lock = folder / "mcpgate.lock"
        self.configure(*servers)
        for name in servers:
            self.define(name, tools=[READ], prompts=[GREET])

    def configure(self, *servers: str, more: str = "") -> None:
        tables = [
            f"[[server]]\nname = {name!r}\ncommand = {sys.executable!r}\n"
            f"args = ['-I', '-S', {str(SERVER)!r}, {str(self.folder / (name + '.json'))!r}]\n"
            for name in servers
        ]
        self.config.write_text(more + "".join(tables))
        self.config.chmod(0o600)

    def define(self, server: str, **told: Any) -> None:
        (self.folder / f"{server}.json").write_text(json.dumps(told))

    def run(self, *args: str) -> tuple[int, str, str]:
        done = mcpgate(*args, cwd=self.folder)
        assert "Traceback" not in done[2]
        return done


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, "a", "b")


def test_the_lock_is_written_and_the_same_again(place: Place) -> None:
    code, out, err = place.run("lock")
    assert (code, err) == (0, "")
    assert "a: 1 tool(s), 1 prompt(s) approved" in out and f"{place.lock}: written" in out
    told = json.loads(place.lock.read_text())
    entry = told["servers"]["a"]["tools"]["read"]
    assert entry == [{"digest": entry[0]["digest"], "eras": ["legacy", "modern"], "definition": READ}], (
        "one definition, the same in both eras"
    )
    assert place.lock.stat().st_mode & 0o777 == 0o644
    before = place.lock.read_bytes()
    code, out, _ = place.run("lock")
    assert code == 0 and "unchanged" in out and place.lock.read_bytes() == before
    assert [one.name for one in place.folder.iterdir() if "lock" in one.name] == ["mcpgate.lock"]
    assert load(place.config).gateway.pins == "report"
    assert len(load(place.config).gateway.pinned) == 4


def test_a_server_whose_eras_differ_has_both_approved(place: Place) -> None:
    place.define("a", tools=[READ], legacy={"tools": [{**READ, "description": "As of old."}]})
    assert place.run("lock")[0] == 0
    entry = json.loads(place.lock.read_text())["servers"]["a"]["tools"]["read"]
    assert [(one["eras"], one["definition"]["description"]) for one in entry] == [
        (["legacy"], "As of old."),
        (["modern"], READ["description"]),
    ]
    assert place.run("check", "--pins")[0] == 0
    place.define("a", tools=[READ], legacy={"tools": [{**READ, "description": "As of yore."}]})
    code, out, _ = place.run("check", "--pins")
    assert code == 1 and "-description: As of old." in out and "+description: As of yore." in out


def test_changes_are_shown_and_approved_only_when_asked(place: Place) -> None:
    assert place.run("lock")[0] == 0
    before = place.lock.read_bytes()
    place.define("a", tools=[{**READ, "description": "Reads a file.\nAnd more."}, {**READ, "name": "new"}])
    code, out, err = place.run("lock")
    assert code == 1 and "mend:" in err and "--accept" in err and place.lock.read_bytes() == before
    lines = out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "changed: tool read of a",
        "new: tool new of a",
        "missing: prompt greet of a",
    ]
    assert "  -    All of it." in lines and "  +    And more." in lines
    assert place.run("check", "--pins")[1].endswith(
        "3 definition(s) differ; `mcpgate lock --accept` approves them\n"
    )
    code, out, _ = place.run("lock", "--accept")
    assert code == 0 and "changed: tool read of a" in out
    code, out, _ = place.run("check", "--pins")
    assert code == 0 and "every definition is as it was approved" in out


def test_one_server_alone(place: Place) -> None:
    assert place.run("lock", "--server", "a")[0] == 0
    assert list(json.loads(place.lock.read_text())["servers"]) == ["a"]
    # Another server takes nothing back, so nobody has to say yes to it.
    assert place.run("lock", "--server", "b")[0] == 0
    assert list(json.loads(place.lock.read_text())["servers"]) == ["a", "b"]
    place.define("a", tools=[])
    place.define("b", tools=[])
    code, out, _ = place.run("lock", "--server", "b", "--accept")
    assert code == 0 and " of a" not in out
    code, out, _ = place.run("check", "--pins")
    assert code == 1 and out.count("missing: ") == 2 and " of b" not in out


def test_a_server_that_left_the_config(place: Place) -> None:
    assert place.run("lock")[0] == 0
    place.configure("a")
    code, out, _ = place.run("lock")
    assert code == 1 and "missing: tool read of b" in out
    assert place.run("lock", "--accept")[0] == 0
    assert list(json.loads(place.lock.read_text())["servers"]) == ["a"]


def test_a_server_that_does_not_answer_changes_nothing(place: Place) -> None:
    assert place.run("lock")[0] == 0
    before = place.lock.read_bytes()
    (place.folder / "b.json").unlink()
    code, _, err = place.run("lock", "--accept")
    assert code == 1 and "no list could be read from: b" in err and "mend:" in err
    assert place.lock.read_bytes() == before
    assert place.run("lock", "--server", "a", "--accept")[0] == 0


def test_what_is_asked_wrongly(place: Place) -> None:
    code, _, err = place.run("check", "--pins")
    assert code == 1 and "write it with `mcpgate lock`" in err
    code, _, err = place.run("lock", "--server", "nobody")
    assert code == 2 and "choose of: a, b" in err and not place.lock.exists()


def test_neither_rules_nor_renames_change_what_is_approved(place: Place) -> None:
    assert place.run("lock")[0] == 0
    before = place.lock.read_bytes()
    more = '[gateway]\npins = "block"\nprefix = "never"\n'
    more += '[[rule]]\ntools = { allow = [] }\nrename = { read = "x" }\n'
    place.configure("a", "b", more=more)
    assert place.run("lock")[0] == 0 and place.lock.read_bytes() == before


def test_a_definition_cannot_steer_the_terminal(place: Place) -> None:
    assert place.run("lock")[0] == 0
    evil = {"name": "read", "description": "\x1b[2K\rReads.\u202e\u200b\U000e0041\x07", "inputSchema": {}}
    place.define(
        "a", tools=[evil, {**READ, "name": "r\u0435ad"}, {**READ, "name": "\u200bread"}], prompts=[GREET]
    )
    code, out, _ = place.run("check", "--pins")
    assert code == 1
    assert not {"\x1b", "\r", "\u202e", "\u200b", "\U000e0041", "\x07"} & set(out)
    assert "\\u001b[2K\\rReads.\\u202e\\u200b\\u{e0041}\\u0007" in out
    assert "looks like read of a" in out and "mixes scripts (latin, cyrillic)" in out
    assert "holds characters that are not seen" in out


def test_what_can_be_read_in_two_ways_is_not_approved(place: Place) -> None:
    place.define("a", tools=[{"name": "odd", "inputSchema": {"properties": {"x": {"description": "@"}}}}])
    code, out, err = place.run("lock")
    assert code == 0 and "the definition of odd can be read in two ways: it cannot be pinned" in err
    assert "a: 0 tool(s), 0 prompt(s) approved" in out


# -- the file


def locked() -> Lock:
    lock = Lock()
    lock.servers["empty"] = None
    lock.add(("a", "tools", "read"), READ, "modern")
    lock.add(("a", "tools", "read"), {**READ, "title": "\u00e9"}, "legacy")
    lock.add(("a", "tools", "read"), READ, "legacy")
    lock.add(("a", "prompts", "greet"), GREET, "legacy")
    return lock


def test_a_lock_comes_back_as_it_was(tmp_path: Path) -> None:
    path = lock_path(tmp_path / "gate.toml")
    assert path.name == "gate.lock"
    write(path, locked())
    assert path.read_bytes().isascii()
    found, complaints = read(path)
    assert complaints == [] and list(found.servers) == ["a", "empty"]
    assert sorted(found.pins(), key=str) == sorted(locked().pins(), key=str)
    assert differences(found, locked()) == [] and differences(locked(), found) == []
    write(path, found)
    assert read(path)[0].pins() == found.pins()


def test_one_and_true_are_not_the_same() -> None:
    lock = Lock()
    lock.add(("a", "tools", "x"), {"name": "x", "inputSchema": {"minimum": 1}}, "modern")
    lock.add(("a", "tools", "x"), {"name": "x", "inputSchema": {"minimum": True}}, "legacy")
    assert len(lock.pins()) == 2


def test_a_link_to_a_lock_stays_one(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    link = tmp_path / "gate.lock"
    link.symlink_to(tmp_path / "kept" / "real.lock")
    write(link, locked())
    assert link.is_symlink() and (tmp_path / "kept" / "real.lock").exists()


def changed(edit: Any) -> bytes:
    folder = json.loads(json.dumps(GOOD))
    edit(folder)
    return json.dumps(folder).encode()


def good() -> Any:
    entry = {"digest": locked().pins()[0].digest, "eras": ["modern"], "definition": READ}
    return {"mcpgate_lock": 1, "servers": {"a": {"tools": {"read": [entry]}, "prompts": {}}}}


GOOD = good()
GOOD_ENTRY = GOOD["servers"]["a"]["tools"]["read"]
BAD: dict[str, bytes] = {
    "not JSON": b"{",
    "not UTF-8": b"\xff",
    "nothing": b"",
    "too deep": b"[" * 100_000,
    "a list": b"[]",
    "another form": changed(lambda one: one.update(mcpgate_lock=2)),
    "named twice": json.dumps(GOOD).encode().replace(b'"servers"', b'"servers": {}, "servers"', 1),
    "no servers": b'{"mcpgate_lock": 1}',
    "servers as a list": b'{"mcpgate_lock": 1, "servers": []}',
    "a kind that is not pinned": changed(lambda one: one["servers"]["a"].update(resources={})),
    "an entry that is no list": changed(lambda one: one["servers"]["a"]["tools"].update(read={})),
    "an entry that is no object": changed(lambda one: one["servers"]["a"]["tools"].update(read=[1])),
    "no definition": changed(lambda one: one["servers"]["a"]["tools"]["read"][0].pop("definition")),
    "no eras": changed(lambda one: one["servers"]["a"]["tools"]["read"][0].pop("eras")),
    "another definition": changed(
        lambda one: one["servers"]["a"]["tools"]["read"][0]["definition"].update(description="evil")
    ),
    "another digest": changed(
        lambda one: one["servers"]["a"]["tools"]["read"][0].update(digest="sha256:" + "0" * 64)
    ),
    "no digest": changed(lambda one: one["servers"]["a"]["tools"]["read"][0].pop("digest")),
    "another name": changed(lambda one: one["servers"]["a"].update(tools={"rm": GOOD_ENTRY})),
}  # fmt: skip


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_a_lock_that_is_not_as_it_was_written_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "gate.lock"
    path.write_bytes(json.dumps(GOOD).encode())
    assert read(path)[0].pins() == locked().pins()[:1]
    path.write_bytes(data)
    with pytest.raises(LockError) as caught:
        read(path)
    assert caught.value.problem and caught.value.mend


def test_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "gate.lock")
    (tmp_path / "gate.lock").mkdir()
    with pytest.raises(LockError):
        read(tmp_path / "gate.lock")
