"""When a changed file counts as changed. Must never: wait; a look is a call."""

from __future__ import annotations

import os
from pathlib import Path

from mcpgate.watch import Watch, signature


def watching(*paths: Path) -> Watch:
    return Watch([(str(path), signature(str(path))) for path in paths])


def test_a_change_counts_once_it_stands_still(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("one")
    watch = watching(path)
    assert not watch.changed()
    path.write_text("")
    assert not watch.changed()
    # Whoever writes has not finished.
    path.write_text("two-two")
    assert not watch.changed()
    assert watch.changed()
    assert [watch.changed() for _ in range(3)] == [False, False, False]


def test_the_same_content_in_another_file_is_a_change(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("one")
    watch = watching(path)
    (tmp_path / "new").write_text("one")
    os.utime(tmp_path / "new", ns=(0, path.stat().st_mtime_ns))
    (tmp_path / "new").replace(path)
    assert [watch.changed() for _ in range(3)] == [False, True, False]
    path.chmod(0o600)
    assert [watch.changed() for _ in range(3)] == [False, True, False]


def test_a_link_that_leads_elsewhere_is_a_change(tmp_path: Path) -> None:
    """As Kubernetes exchanges the content of a volume."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(name)
    (tmp_path / "data").symlink_to("old")
    watch = watching(tmp_path / "data" / "token")
    (tmp_path / "next").symlink_to("new")
    (tmp_path / "next").replace(tmp_path / "data")
    assert [watch.changed() for _ in range(3)] == [False, True, False]


def test_a_file_that_is_gone_or_comes(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("one")
    watch = watching(path)
    path.unlink()
    assert [watch.changed() for _ in range(3)] == [False, True, False]
    path.write_text("two")
    assert [watch.changed() for _ in range(3)] == [False, True, False]


def test_what_was_read_since_is_looked_at_instead(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("1")
    new.write_text("1")
    watch = watching(old)
    watch.follow([(str(new), signature(str(new)))])
    old.write_text("22")
    assert [watch.changed() for _ in range(3)] == [False, False, False]
    # As it looked before it was read: what changes while it is read is a change.
    before = signature(str(new))
    new.write_text("22")
    watch.follow([(str(new), before)])
    assert [watch.changed() for _ in range(3)] == [False, True, False]
