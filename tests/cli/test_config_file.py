"""The config as a file: whoever can change it can have anything run (threats.md section 0 "Config files
0600", row 42; section 5 "config read").

Must never: leave a file that others can write to.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mcpgate.settings import SettingsError, load
from tests.cli.program import mcpgate
from tests.security.users import MALLORY, STAFF, needs_root, shared_folder

TEXT = '[[server]]\nname = "a"\ncommand = "/bin/sh"\n'


@pytest.fixture
def config() -> Iterator[Path]:
    with shared_folder() as folder:
        path = folder / "inner" / "mcpgate.toml"
        path.parent.mkdir()
        path.write_text(TEXT)
        path.chmod(0o644)
        yield path


def refused(path: Path) -> str:
    with pytest.raises(SettingsError) as caught:
        load(path, {})
    assert all(problem.key == "" and "--insecure-config" in problem.mend for problem in caught.value.problems)
    return str(caught.value)


def become_a_link(path: Path) -> None:
    path.rename(path.with_name("real.toml"))
    path.symlink_to("real.toml")
    os.chown(path, MALLORY, -1, follow_symlinks=False)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "writable": (lambda path: path.chmod(0o646), "other users can change {path} (mode 0646)"),
    "writable by a group": (
        lambda path: (os.chown(path, -1, STAFF), path.chmod(0o664)),
        "other users can change {path} (mode 0664)",
    ),
    "another owner": (lambda path: os.chown(path, MALLORY, -1), "{path} belongs to the user 61002"),
    "folder": (lambda path: path.parent.chmod(0o777), "exchange files in the folder {path.parent}"),
    "folder's owner": (
        lambda path: os.chown(path.parent, MALLORY, -1),
        "the folder {path.parent} belongs to the user 61002",
    ),
    "link": (become_a_link, "{path} is a symlink that is not root's"),
}


@needs_root
@pytest.mark.parametrize("how", CHANGES)
def test_a_config_that_others_can_change_is_refused(config: Path, how: str) -> None:
    assert load(config, {}).gateway.servers
    change, said = CHANGES[how]
    change(config)
    assert said.format(path=config) in refused(config)
    code, _, err = mcpgate("check", "-c", str(config))
    assert code == 2 and said.format(path=config) in err
    # Whoever asks for it gets it, and is told.
    code, out, _ = mcpgate("check", "--insecure-config", "-c", str(config))
    assert code == 0 and f"warning: {config}: " in out and said.format(path=config) in out


@needs_root
def test_a_config_cannot_allow_itself(config: Path) -> None:
    config.write_text(TEXT + "[gateway]\ninsecure_files = true\n")
    config.chmod(0o666)
    assert "other users can change" in refused(config)


def test_nothing_of_a_refused_config_is_read(config: Path) -> None:
    """Not even its references are looked at."""
    reference = f"${{cmd:touch {config.with_name('ran')}}}"
    config.write_text(TEXT + f"[gateway]\nallow_commands = true\nlog_file = '{reference}'")
    config.chmod(0o666)
    assert len(refused(config).splitlines()) == 2
    assert not config.with_name("ran").exists()


def test_a_reload_refuses_it_as_well(config: Path) -> None:
    from mcpgate.service import Rights, Service

    settings = load(config, {})
    service = Service(settings.gateway, settings, Rights())
    records: list[object] = []
    assert service.reload(records.append) is not None and not records
    config.chmod(0o666)
    assert service.reload(records.append) is None
    assert "config_not_reloaded" in str(records) and "other users can change" in str(records)
    assert Service(settings.gateway, settings, Rights(insecure=True)).reload(records.append) is not None


def test_a_config_through_a_pipe(tmp_path: Path) -> None:
    """`-c <(decrypt config)`."""
    import subprocess
    import sys

    from tests.cli.program import environment

    read, write = os.pipe()
    os.write(write, TEXT.encode())
    os.close(write)
    done = subprocess.run(
        [sys.executable, "-m", "mcpgate", "check", "-c", f"/dev/fd/{read}"],
        pass_fds=(read,),
        capture_output=True,
        text=True,
        env=environment(),
    )
    os.close(read)
    assert done.returncode == 0, done.stderr


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "mcpgate.toml")
    with pytest.raises(SettingsError, match="cannot be read"):
        load(tmp_path / "mcpgate.toml", {})
