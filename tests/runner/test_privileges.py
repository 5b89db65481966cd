"""Rights: root is refused, warned of, or given up for good before the first client (threats.md section 0,
"not root"; section 5, "core dumps, ptrace", no_new_privs). With real users, on every runner.

Must never: change who runs the tests.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import Running, mcpgate, running
from tests.cli.test_cli import call_tool
from tests.runner.fake import PATIENCE_S, gone
from tests.runner.test_process import SERVER, family, text_of
from tests.security.users import ALICE, MALLORY, needs_root, public_python, shared_folder

pytestmark = needs_root
USER = "nobody"
LAUNCH = """
import os, sys
uid, gid = map(int, sys.argv[1:3])
if uid:
    os.setgroups([gid]); os.setgid(gid); os.setuid(uid)
os.execv(sys.argv[3], sys.argv[3:])
"""
STATUS = ("Uid", "Gid", "Groups", "CapEff", "CapPrm", "NoNewPrivs")


@pytest.fixture
def folder() -> Iterator[Path]:
    with shared_folder() as path:
        (path / "slow.py").write_text(SERVER)
        yield path


def config(folder: Path, runner: str, gateway: str = "", listen: str = "port = 0", server: str = "") -> str:
    path = folder / "mcpgate.toml"
    path.write_text(
        f"[gateway]\nrunner = '{runner}'\nprefix = 'never'\n{gateway}\n[[listen]]\n{listen}\n"
        f"[[server]]\nname = 'one'\ncommand = '/usr/bin/python3'\n"
        f"args = ['-I', '-S', '{folder}/slow.py']\n{server}\n"
    )
    return str(path)


def public(*args: str, uid: int = 0, gid: int = 0, **env: str) -> AbstractContextManager[Running]:
    """The command on a Python that every user can read, started by that user."""
    python, path = public_python()
    launch = ("-c", LAUNCH, str(uid), str(gid), python, "-m", "mcpgate")
    return running(*launch, *args, module=False, PYTHONPATH=path, PATH="/usr/bin:/bin", **env)


def status(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: fields[name].split() for name in STATUS}


def nobody() -> tuple[int, int]:
    import pwd

    found = pwd.getpwnam(USER)
    return found.pw_uid, found.pw_gid


def test_the_user_is_changed_before_any_client_and_for_good(runner: str, folder: Path) -> None:
    uid, gid = nobody()
    with public("serve", "-c", config(folder, runner, f"user = '{USER}'")) as gate:
        url = gate.url()
        assert text_of(call_tool(url, "slow", {})) == "done"
        children = family(gate)
        assert len(children) == 2  # the server and the guard
        for pid in (gate.popen.pid, *children):
            found = status(pid)
            assert found["Uid"] == [str(uid)] * 4 and found["Gid"] == [str(gid)] * 4
            assert set(found["Groups"]) <= {str(gid)}
            assert (found["CapEff"], found["CapPrm"]) == (["0" * 16], ["0" * 16])
        # All threads, too: the blocking runner has one for each connection.
        for task in os.listdir(f"/proc/{gate.popen.pid}/task"):
            assert (
                f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}"
                in Path(f"/proc/{gate.popen.pid}/task/{task}/status").read_text()
            )
        assert not any("runs as root" in line for line in gate.seen)
        # It reads its settings again as that user.
        gate.popen.send_signal(signal.SIGHUP)
        assert "kept=1" in gate.until("reloaded")
        assert gate.stop() == 0
        gone(*children)


def test_the_server_sees_the_users_home(folder: Path) -> None:
    tell = f"import os, json\njson.dump(dict(os.environ), open('{folder}/out/env', 'w'))\n"
    (folder / "slow.py").write_text(tell + SERVER)
    (folder / "out").mkdir()
    os.chown(folder / "out", *nobody())
    with public("serve", "-c", config(folder, "asyncio", f"user = '{USER}'")) as gate:
        assert text_of(call_tool(gate.url(), "slow", {})) == "done"
        assert gate.stop() == 0
    env = json.loads((folder / "out" / "env").read_text())
    assert (env["USER"], env["LOGNAME"]) == (USER, USER) and env["HOME"] != os.path.expanduser("~root")


def test_a_port_that_only_root_can_have_and_a_socket_for_the_user(runner: str, folder: Path) -> None:
    """Listeners are bound first; the Unix socket belongs to whom the gateway becomes."""
    uid, gid = nobody()
    listen = f"socket_path = '{folder}/gate.sock'"
    with public("serve", "-c", config(folder, runner, f"user = '{USER}'", listen)) as gate:
        gate.url()
        found = os.stat(folder / "gate.sock")
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (uid, gid, 0o600)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(folder / "gate.sock"))
        assert gate.stop() == 0
    # What it may not remove any more, the next start replaces.
    with public("serve", "-c", config(folder, runner, f"user = '{USER}'", listen)) as gate:
        gate.url()
        assert gate.stop() == 0


def test_secrets_of_root_shared_with_the_user_are_read_again(folder: Path) -> None:
    _, gid = nobody()
    for name, mode in (("token", 0o640), ("private", 0o600)):
        (folder / name).write_text("token-of-root-1")
        os.chown(folder / name, 0, gid)
        (folder / name).chmod(mode)
    server = "env = { API_TOKEN = '${file:token}' }"
    with public("serve", "-c", config(folder, "asyncio", f"user = '{USER}'", server=server)) as gate:
        gate.url()
        gate.popen.send_signal(signal.SIGHUP)
        assert "kept=1" in gate.until("reloaded")
        assert gate.stop() == 0
    # What only root can read is read once; the reload says why it cannot be again.
    server = "env = { API_TOKEN = '${file:private}' }"
    with public("serve", "-c", config(folder, "asyncio", f"user = '{USER}'", server=server)) as gate:
        gate.url()
        gate.popen.send_signal(signal.SIGHUP)
        assert "permission denied" in gate.until("config_not_reloaded")
        assert gate.stop() == 0


BECOME = """
from mcpgate.privileges import PrivilegeError, become
from mcpgate.process_settings import Account
import mcpgate.privileges as p, os, json, sys
account = Account("alice", 61001, 61001, (61001, 61003), "/home/alice", "/bin/sh")
{before}
try:
    become(account)
    told = "ok"
except PrivilegeError as error:
    told = str(error)
back = []
for call in (os.setuid, os.seteuid, os.setgid, os.setegid):
    try:
        call(0); back.append(call.__name__)
    except OSError: pass
ids = os.getresuid(), os.getresgid(), sorted(os.getgroups())
print(json.dumps([told, *ids, back, os.environ.get("HOME")]))
"""


def become(before: str = "") -> list[Any]:
    python, path = public_python()
    code = BECOME.format(before=before)
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return found


def test_commands_that_start_servers_become_the_user_too(folder: Path) -> None:
    (folder / "out").mkdir()
    os.chown(folder / "out", *nobody())
    tell = f"import os\nwith open('{folder}/out/uids', 'a') as file: print(os.getuid(), file=file)\n"
    (folder / "slow.py").write_text(tell + SERVER)
    place = config(folder, "asyncio", f"user = '{USER}'")
    python, path = public_python()
    env = {"PYTHONPATH": path, "PATH": "/usr/bin:/bin", "HOME": "/root"}

    def run(*args: str) -> tuple[str, str]:
        command = [python, "-m", "mcpgate", *args, "-c", place]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE_S * 2)
        assert done.returncode == 0, done.stderr
        uids = folder / "out" / "uids"
        found = set(uids.read_text().split())
        uids.unlink()
        return ",".join(sorted(found)), done.stderr

    user = str(nobody()[0])
    assert run("tools")[0] == user
    assert run("call", "slow")[0] == user
    found, err = run("lock")  # the lock stands where only root may write
    assert found == "0" and f"not as {USER}" in err
    assert run("check", "--pins")[0] == user


def test_there_is_no_way_back() -> None:
    ids = [ALICE] * 3
    assert become() == ["ok", ids, ids, [ALICE, 61003], [], "/home/alice"]


@pytest.mark.parametrize(
    ("before", "said"),
    [
        # A system whose calls do not do what they say, one at a time.
        ("os.setuid = lambda uid: None", "it did not become alice"),
        ("os.setuid = lambda uid: os.setresuid(uid, uid, 0)", "could become root again"),
        ("os.setgid = lambda gid: None", "with other groups than alice has"),
        (
            "os.setgroups = lambda groups: None; real = os.getgroups; os.getgroups = lambda: [0]",
            "with other groups than alice has",
        ),
        ("p._effective_capabilities = lambda: 1", "with capabilities of root"),
    ],
)
def test_what_did_not_work_is_noticed(before: str, said: str) -> None:
    assert said in become(before)[0]


def test_another_user_cannot_become_anybody() -> None:
    # To the one it is it need not change.
    ids = f"os.setgroups([]); os.setgid({MALLORY}); os.setuid({MALLORY})"
    assert become(ids)[0] == "only root can become alice; start it as root, or as alice"
    ids = f"os.setgroups([]); os.setgid({ALICE}); os.setuid({ALICE})"
    assert become(ids)[0] == "ok"


@pytest.mark.parametrize(
    ("before", "said"),
    [
        # Whoever started it as that user left it something of root's, or of others.
        (f"os.setgroups([]); os.setgid({ALICE}); os.setresuid({ALICE}, {ALICE}, 0)", "become root again"),
        (f"os.setgroups([]); os.setuid({ALICE})", "with other groups than alice has"),
        (
            f"os.setgroups([{MALLORY}]); os.setgid({ALICE}); os.setuid({ALICE})",
            "with other groups than alice has",
        ),
        (
            f"os.setgroups([]); os.setgid({ALICE}); os.setuid({ALICE})\n"
            "p._effective_capabilities = lambda: 1",
            "capabilities",
        ),
    ],
)
def test_who_is_the_user_already_has_no_more_rights_either(before: str, said: str) -> None:
    assert said in become(before)[0]


def test_where_there_is_no_root_there_is_no_way_back() -> None:
    """In a namespace of users without one, the kernel does not even know the number."""
    unknown = "def unknown(number): raise OSError(22, 'Invalid argument')\n"
    calls = "; ".join(f"p.os.{name} = unknown" for name in ("seteuid", "setegid"))
    assert become(unknown + calls)[0] == "ok"


def test_a_start_that_cannot_become_the_user_ends(runner: str, folder: Path) -> None:
    """Before any client and any server, whatever the runner."""
    uid, gid = nobody()
    path = config(folder, runner, "user = 'daemon'")
    with public("serve", "-c", path, uid=uid, gid=gid) as gate:
        gate.until("mcpgate: stopped: only root can become daemon")
        assert gate.popen.wait(PATIENCE_S) == 1
        assert not [line for line in gate.seen if "child_started" in line or "mcpgate: listening" in line]


# -- refused and warned of


@pytest.mark.parametrize(
    ("listen", "args", "code", "said"),
    [
        ("host = '0.0.0.0'\nport = 0\nbehind_proxy = true", (), 2, "--allow-root"),
        ("host = '192.0.2.1'\nport = 0\nbehind_proxy = true", (), 2, "other machines could reach"),
        ("host = '0.0.0.0'\nport = 0\nbehind_proxy = true", ("--allow-root",), 0, "runs as root"),
        ("port = 0", (), 0, "warning: it runs as root, and so does every server that it starts"),
    ],
)
def test_root(folder: Path, listen: str, args: tuple[str, ...], code: int, said: str) -> None:
    path = config(folder, "asyncio", listen=listen)
    if code:
        found, _, err = mcpgate("serve", "-c", path, *args)
        assert found == code and said in err and "[gateway] user" in err
        return
    with running("serve", "-c", path, *args) as gate:
        gate.until(said)
        gate.url()
        assert gate.stop() == 0


def test_run_as_root_beyond_loopback_is_refused_too(folder: Path) -> None:
    args = ("run", "--port", "0", "--host", "0.0.0.0", "--behind-proxy")
    command = ("--", "/usr/bin/python3", "-I", "-S", str(folder / "slow.py"))
    code, _, err = mcpgate(*args, *command)
    assert code == 2 and "--allow-root" in err
    with running(*args, "--allow-root", *command) as gate:
        gate.url()
        assert gate.stop() == 0


@pytest.mark.parametrize(
    ("gateway", "key", "said"),
    [
        ("user = 'no-such-user'", "gateway.user", "there is no user"),
        ("user = 'root'", "gateway.user", "is root itself"),
        ("group = 'nogroup'", "gateway.group", "goes with a user"),
        (f"user = '{USER}'\ngroup = 'no-such-group'", "gateway.group", "there is no group"),
    ],
)
def test_who_cannot_be_become(folder: Path, gateway: str, key: str, said: str) -> None:
    code, _, err = mcpgate("check", "-c", config(folder, "asyncio", gateway))
    assert code == 2 and key in err and said in err


# -- memory and children


def dumpable(pid: int) -> bool:
    """The files of a process that hides its memory belong to root, whoever it runs as."""
    return os.stat(f"/proc/{pid}/environ").st_uid != 0


@pytest.mark.parametrize("secret", [True, False])
def test_memory_is_hidden_once_there_are_secrets(folder: Path, secret: bool) -> None:
    """Run as another user, so that root's files can be told from its own."""
    server = "env = { API_TOKEN = '${env:T}' }" if secret else ""
    path = config(folder, "asyncio", server=server)
    uid, gid = nobody()
    os.chown(path, uid, gid)
    os.chown(folder, uid, gid)
    with public("serve", "-c", path, uid=uid, gid=gid, T="token-of-alice") as gate:
        url = gate.url()
        assert text_of(call_tool(url, "slow", {})) == "done"
        limits = Path(f"/proc/{gate.popen.pid}/limits").read_text()
        core = next(line for line in limits.splitlines() if line.startswith("Max core file size")).split()
        assert dumpable(gate.popen.pid) is not secret
        assert (core[4] == "0") is secret or not secret
        (child,) = [pid for pid in family(gate) if b"slow.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert dumpable(child)
        assert gate.stop() == 0


def test_memory_is_hidden_once_a_reload_brings_the_first_secret(folder: Path) -> None:
    path = config(folder, "asyncio")
    uid, gid = nobody()
    os.chown(path, uid, gid)
    os.chown(folder, uid, gid)
    with public("serve", "-c", path, uid=uid, gid=gid, T="token-of-alice") as gate:
        gate.url()
        assert dumpable(gate.popen.pid)
        config(folder, "asyncio", server="env = { API_TOKEN = '${env:T}' }")
        gate.popen.send_signal(signal.SIGHUP)
        gate.until("reloaded")
        assert not dumpable(gate.popen.pid)
        assert gate.stop() == 0


@pytest.mark.parametrize("wanted", [True, False])
def test_no_new_privileges(runner: str, folder: Path, wanted: bool) -> None:
    gateway = f"no_new_privs = {str(wanted).lower()}"
    with running("serve", "-c", config(folder, runner, gateway)) as gate:
        assert text_of(call_tool(gate.url(), "slow", {})) == "done"
        for pid in (gate.popen.pid, *family(gate)):
            assert status(pid)["NoNewPrivs"] == [str(int(wanted))]
        assert gate.stop() == 0
