"""The store of logins: modes, owners, symlinks, replacement in one step, locks between processes (J16, J17).

Must never: touch the store of whoever runs the tests.
"""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mcpgate.tokens import TokenStore, Unsafe, default_folder


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return TokenStore(tmp_path / "state" / "mcpgate" / "logins")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_where_it_is() -> None:
    assert default_folder({"XDG_STATE_HOME": "/x/state"}) == Path("/x/state/mcpgate/logins")
    home = Path(os.path.expanduser("~/.local/state/mcpgate/logins"))
    assert default_folder({}) == default_folder({"XDG_STATE_HOME": "relative"}) == home


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_everything_is_the_owners_only_whatever_the_umask(store: TokenStore, mask: int) -> None:
    before = os.umask(mask)
    try:
        assert store.lock("abc-1")
        store.write("abc-1", b"secret")
    finally:
        os.umask(before)
    assert mode(store.folder) == 0o700
    assert {name: mode(store.folder / name) for name in os.listdir(store.folder)} == {
        "abc-1.json": 0o600,
        "abc-1.lock": 0o600,
    }
    assert store.read("abc-1") == b"secret" and store.names() == ["abc-1"]
    store.write("abc-1", b"other")
    assert store.read("abc-1") == b"other"
    store.write("abc-1", b"")
    assert store.read("abc-1") == b"" and store.names() == []
    store.write("abc-1", b"")
    store.close()


def test_what_is_not_there_is_nothing(store: TokenStore) -> None:
    assert store.read("nothing") == b""


@pytest.mark.parametrize("name", ["", "../x", "a/b", "A", "a.b", "x" * 65, "a\n", "\u00e4"])
def test_names_stay_in_the_folder(store: TokenStore, name: str) -> None:
    for act in (store.read, store.lock, lambda one: store.write(one, b"x")):
        with pytest.raises(ValueError, match="no name of a record"):
            act(name)


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o666])
def test_a_record_that_others_can_open_is_not_read(store: TokenStore, bits: int) -> None:
    store.write("a", b"x")
    (store.folder / "a.json").chmod(bits)
    with pytest.raises(Unsafe, match="chmod 600") as caught:
        store.read("a")
    assert f"{bits:04o}" in str(caught.value)


@pytest.mark.parametrize("bits", [0o750, 0o705, 0o770, 0o1777])
def test_a_folder_that_others_can_open_is_not_used(store: TokenStore, bits: int) -> None:
    store.write("a", b"x")
    store.folder.chmod(bits)
    for act in (lambda: store.read("a"), lambda: store.write("a", b"y"), lambda: store.lock("a")):
        with pytest.raises(Unsafe, match="chmod 700"):
            act()
    store.folder.chmod(0o700)
    assert store.read("a") == b"x"


def test_symlinks_and_hard_links_are_not_followed(store: TokenStore, tmp_path: Path) -> None:
    store.write("a", b"x")
    outside = tmp_path / "outside"
    outside.write_bytes(b"planted")
    outside.chmod(0o600)
    (store.folder / "b.json").symlink_to(outside)
    (store.folder / "b.lock").symlink_to(outside)
    for act in (lambda: store.read("b"), lambda: store.lock("b")):
        with pytest.raises(OSError):
            act()
    os.link(outside, store.folder / "c.json")
    with pytest.raises(Unsafe, match="a file of its own"):
        store.read("c")
    os.mkfifo(store.folder / "d.json", 0o600)
    with pytest.raises(Unsafe, match="a file of its own"):
        store.read("d")
    # Writing replaces what is there, and not what it points to.
    store.write("b", b"mine")
    assert outside.read_bytes() == b"planted" and store.read("b") == b"mine"


def test_a_folder_that_is_a_symlink(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to(real)
    with pytest.raises(OSError):
        TokenStore(link).read("a")


def test_files_of_another_user(store: TokenStore) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    store.write("a", b"x")
    os.chown(store.folder / "a.json", 12345, 12345)
    with pytest.raises(Unsafe, match="another user"):
        store.read("a")
    os.chown(store.folder, 12345, 12345)
    with pytest.raises(Unsafe, match="another user"):
        store.write("b", b"x")


def test_what_is_far_too_long_is_no_record(store: TokenStore) -> None:
    store.write("a", b"x" * (1024 * 1024 + 1))
    with pytest.raises(Unsafe, match="no record"):
        store.read("a")


def test_a_write_that_breaks_off_leaves_the_old_record(
    store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("a", b"old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.write("a", b"new")
    assert store.read("a") == b"old"
    monkeypatch.undo()
    store.write("a", b"new")
    assert store.read("a") == b"new" and os.listdir(store.folder) == ["a.json"]


def test_a_lock_is_held_once(store: TokenStore) -> None:
    other = TokenStore(store.folder)
    assert store.lock("a") and not store.lock("a") and not other.lock("a")
    assert other.lock("b")
    store.unlock("a")
    assert other.lock("a") and not store.lock("a")
    other.close()
    assert store.lock("a") and store.lock("b")
    store.close()


def test_the_lock_of_what_is_not_there_leaves_nothing_behind(store: TokenStore) -> None:
    """And a process that waits at the file that was removed does not take that for the lock."""
    assert store.lock("a") and store.lock("b")
    store.write("b", b"x")
    waits = os.open(store.folder / "a.lock", os.O_RDWR)
    store.close()
    assert sorted(os.listdir(store.folder)) == ["b.json", "b.lock"]
    fcntl.flock(waits, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert store.lock("a"), "the lock of a file that is gone keeps nobody out"
    os.close(waits)
    store.close()


def test_many_at_one_lock_take_turns(store: TokenStore) -> None:
    """Threads stand for processes: locks belong to what was opened."""
    inside: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        mine = TokenStore(store.folder)
        for _ in range(20):
            while not mine.lock("a"):
                time.sleep(0.0005)
            inside.append(number)
            most.append(len(inside))
            inside.remove(number)
            mine.unlock("a")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(most) == 120 and max(most) == 1 and os.listdir(store.folder) == []


def test_a_lock_is_held_against_other_processes_and_ends_with_them(store: TokenStore) -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path; from mcpgate.tokens import TokenStore\n"
        "assert TokenStore(Path(sys.argv[1])).lock('a'); print('has it', flush=True); sys.stdin.read()"
    )
    where = [path for path in sys.path if path]
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(store.folder), *where],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None and child.stdout.readline() == b"has it\n"
    try:
        assert not store.lock("a")
    finally:
        child.kill()
        child.communicate()
    assert store.lock("a")
    store.close()
