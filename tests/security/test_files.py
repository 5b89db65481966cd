"""Owners, modes, folders and links of the files that decide what runs and what is sent (threats.md section 0
"Config files 0600", "File ownership"; section 5 "config read").

Must never: ask a path twice where the code under test may not.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from mcpgate import files
from mcpgate.files import (
    Trust,
    chain_complaint,
    open_checked,
    open_key,
    open_private,
    open_to_others,
    read_most,
)
from tests.security.users import ALICE, MALLORY, STAFF, as_user, needs_root, shared_folder

SECRET = """
from mcpgate.files import open_checked
try:
    fd, found = open_checked(sys.argv[3], secret=True)
    print(json.dumps([os.read(fd, 99).decode(), [one.problem for one in found]]))
except OSError as error:
    print(json.dumps(["", error.strerror]))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with shared_folder() as path:
        yield path


def put(path: Path, mode: int = 0o600, uid: int = -1, gid: int = -1) -> Path:
    path.write_text("s3cret")
    os.chown(path, uid, gid)
    path.chmod(mode)
    return path


def complaints(path: Path, secret: bool = True, trust: Trust | None = None) -> str:
    fd, found = open_checked(str(path), secret=secret, trust=trust or Trust())
    assert read_most(fd, 100) == b"s3cret"
    assert all(one.mend for one in found)
    return "; ".join(f"{one.problem} -> {one.mend}" for one in found)


@pytest.mark.parametrize(
    ("mode", "as_secret", "as_config"),
    [
        (0o600, "", ""),
        (0o400, "", ""),
        (0o640, "can read", ""),
        (0o644, "can read", ""),
        (0o604, "can read", ""),
        (0o610, "can read", ""),
        (0o666, "can change", "can change"),
        (0o602, "can change", "can change"),
    ],
)
def test_modes(folder: Path, mode: int, as_secret: str, as_config: str) -> None:
    path = put(folder / "file", mode)
    for secret, expected in ((True, as_secret), (False, as_config)):
        found = complaints(path, secret)
        assert expected in found and bool(found) == bool(expected)
        if expected:
            assert ("chmod 600" if secret else "chmod go-w") in found and f"mode {mode:04o}" in found


@needs_root
def test_owners(folder: Path) -> None:
    path = put(folder / "file", 0o600, MALLORY)
    for secret in (True, False):
        assert "belongs to the user 61002 -> chown it to root or root" in complaints(path, secret)
    # The account that the gateway is going to be may own what it reads.
    assert complaints(path, trust=Trust((MALLORY,))) == ""


@needs_root
def test_a_group_of_others_that_may_write(folder: Path) -> None:
    assert "can change" in complaints(put(folder / "a", 0o660, gid=STAFF), secret=False)
    # Root's own group has nobody else in it.
    assert complaints(put(folder / "b", 0o660, gid=0), secret=False) == ""


@needs_root
@pytest.mark.parametrize(
    ("uid", "gid", "mode", "reader", "groups", "expected"),
    [
        (0, STAFF, 0o640, ALICE, STAFF, ""),
        (0, STAFF, 0o440, ALICE, STAFF, ""),
        (0, STAFF, 0o644, ALICE, STAFF, "other users can read"),
        (0, STAFF, 0o660, ALICE, STAFF, "other users can change"),
        (ALICE, STAFF, 0o640, ALICE, STAFF, "other users can read"),
        (ALICE, ALICE, 0o600, ALICE, ALICE, ""),
        (MALLORY, STAFF, 0o640, ALICE, STAFF, "belongs to the user 61002"),
        (0, STAFF, 0o640, ALICE, ALICE, None),
    ],
)
def test_what_is_roots_and_shared_by_group(
    folder: Path, uid: int, gid: int, mode: int, reader: int, groups: int, expected: str | None
) -> None:
    """There is no other way for the gateway's user to read what is root's."""
    path = put(folder / "file", mode, uid, gid)
    text, found = as_user(reader, SECRET, str(path), gid=groups)
    if expected is None:
        assert (text, found) == ("", os.strerror(errno.EACCES))
    else:
        assert text == "s3cret" and expected in "".join(found) and bool(found) == bool(expected)


@needs_root
def test_keys_of_certificates(folder: Path) -> None:
    path = str(put(folder / "key.pem", 0o640, gid=STAFF))
    for opened, expected in ((open_key(path), False), (open_checked(path, secret=True), True)):
        os.close(opened[0])
        assert bool(opened[1]) is expected
    for mode, gid in ((0o644, STAFF), (0o660, STAFF), (0o640, 0)):
        fd, found = open_key(str(put(folder / "key.pem", mode, gid=gid)))
        os.close(fd)
        assert found


@pytest.mark.parametrize(
    ("gid", "members", "primary", "alone"),
    [
        (500, [], [], True),
        (500, ["me"], ["me"], True),
        (500, ["root"], [], True),
        (500, ["mallory"], [], False),
        (500, [], ["mallory"], False),
        (500, ["me", "gone"], [], False),
        (999, [], [], False),
        (0, ["mallory"], [], True),
    ],
)
def test_groups_of_one(
    monkeypatch: pytest.MonkeyPatch, gid: int, members: list[str], primary: list[str], alone: bool
) -> None:
    """Many systems give each user a group, and let it write: that is nobody else."""
    import grp
    import pwd

    def group(number: int) -> SimpleNamespace:
        if number == 999:
            raise KeyError(number)
        return SimpleNamespace(gr_mem=members)

    uids = {"root": 0, "me": os.geteuid(), "mallory": MALLORY}
    users = [
        SimpleNamespace(pw_name=name, pw_uid=uid, pw_gid=500 if name in primary else 1)
        for name, uid in uids.items()
    ]
    monkeypatch.setattr(grp, "getgrgid", group)
    monkeypatch.setattr(pwd, "getpwall", lambda: users)
    found = os.stat_result((stat.S_IFREG | 0o660, 1, 1, 1, os.geteuid(), gid, 0, 0, 0, 0))
    files._nobody_else_in.cache_clear()
    assert open_to_others(found) is not alone
    files._nobody_else_in.cache_clear()


@pytest.mark.parametrize(
    ("mode", "said"),
    [(0o755, ""), (0o700, ""), (0o1777, ""), (0o777, "can exchange files"), (0o757, "can exchange files")],
)
def test_folders(folder: Path, mode: int, said: str) -> None:
    inner = folder / "inner"
    inner.mkdir()
    inner.chmod(mode)
    found = complaints(put(inner / "file"))
    assert said in found and bool(found) == bool(said)


@needs_root
def test_folders_of_others(folder: Path) -> None:
    inner = folder / "inner"
    inner.mkdir()
    path = put(inner / "file")
    os.chown(inner, MALLORY, -1)
    assert f"the folder {inner} belongs to the user 61002" in complaints(path)
    os.chown(inner, 0, STAFF)
    inner.chmod(0o775)
    assert "can exchange files" in complaints(path)


@needs_root
def test_links(folder: Path) -> None:
    """A link that is root's is followed, as Kubernetes lays out its volumes; another user's is not."""
    data = folder / "..2026_01_01"
    data.mkdir()
    put(data / "token")
    (folder / "..data").symlink_to("..2026_01_01")
    (folder / "token").symlink_to("..data/token")
    assert complaints(folder / "token") == ""
    (folder / "far").symlink_to(folder / "token")
    assert complaints(folder / "far") == ""
    os.chown(folder / "far", MALLORY, -1, follow_symlinks=False)
    assert (
        f"{folder}/far is a symlink that is not root's -> name the file itself: {data}/token"
        in complaints(folder / "far")
    )
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    with pytest.raises(OSError) as caught:
        open_checked(str(folder / "a"), secret=True)
    assert caught.value.errno == errno.ELOOP


def test_what_is_no_file(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    for path in (folder, folder / "fifo", Path("/dev/null")):
        # It must not wait for a writer either.
        with pytest.raises(OSError, match="not a file|Is a directory"):
            open_checked(str(path), secret=True)


def test_what_was_handed_over_is_read(folder: Path) -> None:
    """`-c <(decrypt config)`: whoever started us chose it."""
    read, write = os.pipe()
    os.write(write, b"s3cret")
    os.close(write)
    fd, found = open_checked(f"/dev/fd/{read}", secret=True)
    assert read_most(fd, 100) == b"s3cret" and not found
    os.close(read)


# -- commands


@needs_root
def test_a_chain_that_nobody_else_can_change(folder: Path) -> None:
    def chain(path: Path, trust: Trust | None = None) -> str:
        found = chain_complaint(str(path), trust or Trust())
        return "" if found is None else found.problem

    safe = folder / "safe"
    (safe / "bin").mkdir(parents=True)
    server = put(safe / "bin" / "server", 0o755)
    assert chain(server) == "" and chain(Path("/bin/sh")) == ""
    changes: list[tuple[Callable[[], None], str]] = [
        (lambda: server.chmod(0o777), f"other users can change {server}"),
        (lambda: os.chown(server, MALLORY, -1), f"{server} belongs to the user 61002"),
        (lambda: (safe / "bin").chmod(0o777), f"other users can exchange files in the folder {safe}/bin"),
        (lambda: os.chown(safe, MALLORY, -1), f"the folder {safe} belongs to the user 61002"),
        (lambda: safe.chmod(0o777), f"other users can exchange files in the folder {safe}"),
    ]
    for change, said in changes:
        change()
        assert said in chain(server)
        # Through a link in a safe place it is no safer.
        (folder / "link").symlink_to("safe/bin/server")
        assert said in chain(folder / "link")
        (folder / "link").unlink()
        for path, mode in ((server, 0o755), (safe, 0o755), (safe / "bin", 0o755)):
            os.chown(path, 0, 0)
            path.chmod(mode)
    assert chain(server) == ""
    os.chown(server, MALLORY, -1)
    assert chain(server, Trust((MALLORY,))) == ""
    # Up, and across a link of somebody else's.
    os.chown(server, 0, -1)
    (folder / "link").symlink_to("safe/../safe/bin/server")
    assert chain(folder / "link") == ""
    os.chown(folder / "link", MALLORY, -1, follow_symlinks=False)
    assert chain(folder / "link") == f"{folder}/link belongs to the user 61002"


# -- files of our own


@pytest.mark.parametrize(
    ("mode", "then"), [(None, 0o600), (0o644, 0o640), (0o666, 0o640), (0o640, 0o640), (0o600, 0o600)]
)
def test_our_own_files_are_private(folder: Path, mode: int | None, then: int) -> None:
    path = folder / "log"
    umask = os.umask(0)
    try:
        if mode is not None:
            put(path, mode)
        os.close(open_private(str(path), os.O_APPEND))
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == then
    assert path.read_text() == ("" if mode is None else "s3cret")


def test_our_own_files_are_not_elsewhere(folder: Path) -> None:
    put(folder / "victim", 0o644)
    (folder / "log").symlink_to("victim")
    with pytest.raises(OSError):
        open_private(str(folder / "log"), os.O_TRUNC)
    assert (folder / "victim").read_text() == "s3cret"
    for device in ("/dev/null", "/dev/stderr"):
        before = os.stat(device).st_mode
        os.close(open_private(device, os.O_APPEND))
        assert os.stat(device).st_mode == before


@needs_root
def test_a_log_of_another_user_is_not_ours(folder: Path) -> None:
    put(folder / "log", 0o666, MALLORY)
    with pytest.raises(OSError, match="belongs to the user 61002"):
        open_private(str(folder / "log"), os.O_APPEND)
    assert stat.S_IMODE((folder / "log").stat().st_mode) == 0o666
