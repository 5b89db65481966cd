"""`[auth]`, and who may come in through a listener: what the keys mean, and what is refused at the start.

Must never: depend on the users of this machine beyond root.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mcpgate.settings import SettingsError, load
from mcpgate.tables import Problem
from mcpgate_proto.config import AuthConfig, IssuerConfig, KeyConfig
from mcpgate_proto.security.keys import KeyRing, hash_secret
from mcpgate_proto.security.principal import Grant
from tests.cli.program import LEGACY_SERVER, environment, mcpgate, running
from tests.runner.conftest import Certificates
from tests.security.tokens import ISSUER, jwks, public

HASH = hash_secret("x" * 43, b"s" * 16)
SERVER = '[[server]]\nname = "a"\ncommand = "/bin/sh"\n'
KEY = f'[[auth.key]]\nid = "ci"\nhash = "{HASH}"\n'
ISSUED = f'[[auth.issuer]]\nissuer = "{ISSUER}"\njwks_url = "https://idp.example/keys"\n'
RESOURCE = '[auth]\nresource = "https://gw.example/mcp"\n'
WIDE = '[[listen]]\nhost = "0.0.0.0"\n'


def read(folder: Path, text: str) -> AuthConfig:
    return load(write(folder, text)).gateway.auth


def write(folder: Path, text: str) -> Path:
    path = folder / "mcpgate.toml"
    path.write_text(SERVER + text)
    path.chmod(0o600)
    return path


def problems(folder: Path, text: str) -> list[Problem]:
    with pytest.raises(SettingsError) as caught:
        load(write(folder, text))
    assert all(problem.mend for problem in caught.value.problems)
    return caught.value.problems


def test_a_whole_table(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text(jwks(public("rsa")))
    (tmp_path / "keys.json").chmod(0o600)
    (tmp_path / "ca.pem").write_text("")
    text = f"""
        {RESOURCE}
        [[auth.key]]
        id = "ci"
        name = "the CI"
        hash = "{HASH}"
        expires = 2099-01-31T00:00:00Z
        [[auth.key]]
        id = "ops"
        hash = "{HASH}"
        expires = "2099-01-31T01:00:00+01:00"
        [[auth.issuer]]
        issuer = "{ISSUER}"
        jwks_url = "https://idp.example/keys"
        audience = "api://mcp"
        algorithms = ["ES384"]
        scopes = ["mcp:use", "mcp:call"]
        ca_file = "ca.pem"
        [[auth.issuer]]
        issuer = "https://other.example"
        jwks = "${{file:keys.json}}"
        audience = ["a", "b"]
    """
    when = 4_073_500_800.0
    assert read(tmp_path, text) == AuthConfig(
        resource="https://gw.example/mcp",
        keys=(
            KeyConfig(id="ci", name="the CI", hash=HASH, expires_wall=when),
            KeyConfig(id="ops", hash=HASH, expires_wall=when),
        ),
        issuers=(
            IssuerConfig(
                issuer=ISSUER,
                jwks_url="https://idp.example/keys",
                audience=("api://mcp",),
                algorithms=("ES384",),
                scopes=("mcp:use", "mcp:call"),
                ca_file=str(tmp_path / "ca.pem"),
            ),
            IssuerConfig(issuer="https://other.example", jwks=jwks(public("rsa")), audience=("a", "b")),
        ),
    )
    assert read(tmp_path, "") == AuthConfig()


def key(line: str) -> str:
    return f'[[auth.key]]\nid = "ci"\nhash = "{HASH}"\n{line}\n'


def issuer(*lines: str, name: str = ISSUER) -> str:
    return RESOURCE + f'[[auth.issuer]]\nissuer = "{name}"\n' + "\n".join(lines) + "\n"


URL = 'jwks_url = "https://idp.example/keys"'
PATH = f"auth.issuer.{ISSUER}"
BAD = [
    ("[auth]", "auth", "nobody could come in"),
    (RESOURCE, "auth", "nobody could come in"),
    ("[auth]\nkey = []\nissuer = []", "auth", "nobody could come in"),
    ('[auth]\ntoken = "x"', "auth.token", "known"),
    ("[auth.key]", "auth.key", "two brackets"),
    ("[[auth.key]]", "auth.key[0].id", "mcpgate key new"),
    ("[[auth.key]]", "auth.key[0].hash", "mcpgate key new"),
    ('[[auth.key]]\nid = "a_b"\nhash = ""', "auth.key.a_b.id", "letters"),
    (f'[[auth.key]]\nid = "ci"\nhash = "{HASH[:-1]}"', "auth.key.ci.hash", "not the hash"),
    ('[[auth.key]]\nid = "ci"\nhash = "mcpg_ci_x"', "auth.key.ci.hash", "mcpgate key hash"),
    (KEY + KEY, "auth.key.ci", "twice"),
    (key('expires = "soon"'), "auth.key.ci.expires", "2027-01-31T00:00:00Z"),
    (key("expires = 2099-01-31"), "auth.key.ci.expires", "zone"),
    (key("expires = 2099-01-31T00:00:00"), "auth.key.ci.expires", "zone"),
    (key("expires = 90"), "auth.key.ci.expires", "zone"),
    (key("secret = 'x'"), "auth.key.ci.secret", "known"),
    (ISSUED, "auth.resource", "is missing"),
    ('[auth]\nresource = "http://gw.example/mcp"\n' + ISSUED, "auth.resource", "not https"),
    ('[auth]\nresource = "https://gw.example/mcp#x"\n' + ISSUED, "auth.resource", "fragment"),
    ('[auth]\nresource = "https://gw.example/mcp?x=1"\n' + ISSUED, "auth.resource", "query"),
    ('[auth]\nresource = "gw.example/mcp"\n' + ISSUED, "auth.resource", "neither https nor http"),
    (issuer(URL, name="http://idp.example"), "auth.issuer.http://idp.example.issuer", "not https"),
    (issuer(URL, "jwks = 'x'"), f"{PATH}.jwks_url", "both given"),
    (issuer('jwks_url = "http://idp.example/keys"'), f"{PATH}.jwks_url", "not https"),
    (issuer('jwks_url = "https://a:b@idp.example/keys"'), f"{PATH}.jwks_url", "user information"),
    (issuer('jwks_url = "file:///etc/passwd"'), f"{PATH}.jwks_url", "neither https nor http"),
    (issuer("jwks = '{\"keys\": []}'"), f"{PATH}.jwks", "no key in it"),
    (issuer(URL, 'algorithms = ["HS256"]'), f"{PATH}.algorithms", "'HS256' is not accepted"),
    (issuer(URL, 'algorithms = ["none"]'), f"{PATH}.algorithms", "'none' is not accepted"),
    (issuer(URL, "algorithms = []"), f"{PATH}.algorithms", "allows none"),
    (issuer(URL, 'scopes = ["a b"]'), f"{PATH}.scopes", "no scope"),
    (issuer(URL, "scopes = ['a\"b']"), f"{PATH}.scopes", "no scope"),
    (issuer(URL, 'ca_file = "none.pem"'), f"{PATH}.ca_file", "no file"),
    (RESOURCE + ISSUED + ISSUED, PATH, "twice"),
    # listeners
    ('[[listen]]\nauth = "maybe"', "listen[0].auth", "choose one of"),
    ('[[listen]]\nauth = "required"', "listen[0].auth", "nobody can have"),
    (KEY + '[[listen]]\nkind = "stdio"\nauth = "none"', "listen[0].auth", "means nothing for kind stdio"),
    (KEY + '[[listen]]\nkind = "unix"\nsocket_path = "s"\nauth = "required"', "listen[0].auth", "carry none"),
    ("[[listen]]\nallow_uids = [0]", "listen[0].allow_uids", "needs a Unix socket"),
    ("[[listen]]\nallow_gids = [0]", "listen[0].allow_gids", "needs a Unix socket"),
    ('[[listen]]\nsocket_path = "s"\nallow_uids = ["no such user"]', "listen[0].allow_uids", "nobody here"),
    ('[[listen]]\nsocket_path = "s"\nallow_gids = [-1]', "listen[0].allow_gids", "nobody here"),
    ('[[listen]]\nsocket_path = "s"\nallow_gids = [true]', "listen[0].allow_gids", "nobody here"),
    ('[[listen]]\nclient_subjects = ["CN=a"]', "listen[0].client_subjects", "needs client certificates"),
    # threats.md section 0, Firewall rules
    (WIDE, "listen[0].host", "everybody could use your servers"),
    (WIDE + 'auth = "auto"', "listen[0].host", "everybody could use your servers"),
    (WIDE + 'auth = "none"', "listen[0].auth", "lets everybody in"),
    (KEY + WIDE, "listen[0].host", "without TLS"),
    (KEY + WIDE + 'auth = "none"', "listen[0].auth", "lets everybody in"),
    (KEY + '[[listen]]\nhost = "::"', "listen[0].host", "without TLS"),
    (KEY + '[[listen]]\nhost = ""', "listen[0].host", "without TLS"),
    (KEY + '[[listen]]\nhost = "gw.example"', "listen[0].host", "without TLS"),
]


@pytest.mark.parametrize(("text", "where", "told"), BAD, ids=[f"{row[1]}: {row[2]}" for row in BAD])
def test_each_problem_names_key_and_mend(tmp_path: Path, text: str, where: str, told: str) -> None:
    found = problems(tmp_path, text)
    assert any(one.key == where and told in f"{one.problem} | {one.mend}" for one in found), found


def test_beyond_loopback_with_keys_and_tls(tmp_path: Path, certificates: Certificates) -> None:
    file = certificates.issue("server.test", "auth.pem")
    Path(file).chmod(0o600)
    tls = WIDE + f'tls_cert = "{file}"\ntls_key = "{file}"\n'
    mutual = tls + f'tls_client_ca = "{certificates.ca_file}"\n'
    for text in (KEY + tls, RESOURCE + ISSUED + tls, mutual, mutual + 'client_subjects = ["CN=ci,*"]'):
        load(write(tmp_path, text))
    (found,) = problems(tmp_path, tls)
    assert found.key == "listen[0].host"
    for text in (KEY + tls, mutual, mutual + "tls_require_client = true\n"):
        (found,) = problems(tmp_path, text + 'auth = "none"')
        assert found.key == "listen[0].auth"
    warnings = load(write(tmp_path, mutual + "client_subjects = []")).warnings
    assert [one.key for one in warnings] == ["listen[0].client_subjects"]


@pytest.mark.parametrize("mode", ["auto", "none", "required"])
def test_behind_a_proxy_it_is_the_proxys_business(tmp_path: Path, mode: str) -> None:
    load(write(tmp_path, KEY + WIDE + f'behind_proxy = true\nauth = "{mode}"'))
    if mode != "required":
        load(write(tmp_path, WIDE + f'behind_proxy = true\nauth = "{mode}"'))


def test_a_refused_start_exits_with_2(tmp_path: Path) -> None:
    code, out, err = mcpgate("serve", "-c", str(write(tmp_path, WIDE)))
    assert code == 2 and not out
    assert "listen[0].host" in err and "mcpgate key new" in err


def test_who_may_connect_to_a_socket(tmp_path: Path) -> None:
    text = '[[listen]]\nsocket_path = "s"\nsocket_mode = "0660"\nallow_uids = [33, "root"]\nallow_gids = 7\n'
    settings = load(write(tmp_path, text))
    (listener,) = settings.gateway.listeners
    assert (listener.allow_uids, listener.allow_gids, settings.warnings) == ((33, 0), (7,), [])
    settings = load(write(tmp_path, '[[listen]]\nsocket_path = "s"\nsocket_mode = "0660"\n'))
    assert [one.key for one in settings.warnings] == ["listen[0].socket_mode"]


def test_a_key_that_is_over_is_a_warning_and_its_hash_is_no_secret(tmp_path: Path) -> None:
    assert load(write(tmp_path, KEY)).warnings == []
    (found,) = load(write(tmp_path, key("expires = 2020-01-01T00:00:00Z"))).warnings
    assert found.key == "auth.key.ci.expires"


# -- mcpgate key


def test_a_new_key_opens_what_its_block_says(tmp_path: Path) -> None:
    code, out, err = mcpgate("key", "new", "--name", 'the "CI"', "--expires", "90d")
    assert code == 0
    key = out.removesuffix("\n")
    block = err  # what is no TOML in it is a comment
    assert key not in err and key.split("_", 2)[2] not in block
    config = read(tmp_path, block)
    assert config.keys[0].name == 'the "CI"' and config.keys[0].expires_wall is not None
    assert isinstance(KeyRing(config.keys).check(key, config.keys[0].expires_wall - 90 * 86400), Grant)
    assert isinstance(KeyRing(config.keys).check(key, config.keys[0].expires_wall - 1), Grant)
    # 256 bits, and never the same.
    again = mcpgate("key", "new")[1]
    assert len(key.split("_", 2)[2]) == 43 and again != out


def test_a_key_is_hashed_from_stdin(tmp_path: Path) -> None:
    key = mcpgate("key", "new", "--id", "ops-2")[1]
    code, out, err = mcpgate("key", "hash", "--name", "ops", given=key)
    assert code == 0 and not err
    table = tomllib.loads(out)["auth"]["key"][0]
    assert (table["id"], table["name"]) == ("ops-2", "ops")
    assert isinstance(KeyRing(read(tmp_path, out).keys).check(key.strip(), 0.0), Grant)
    # Salted anew each time.
    assert mcpgate("key", "hash", given=key)[1] != mcpgate("key", "hash", given=key)[1]


@pytest.mark.parametrize("wrong", [("--expires", "90"), ("--expire", "90d"), ("--id", "a b"), ("x",)])
def test_a_key_that_is_not_made_leaves_the_config_whole(wrong: tuple[str, ...]) -> None:
    """`2>> mcpgate.toml` is how it is used."""
    code, out, err = mcpgate("key", "new", *wrong)
    assert (code, out) == (2, "")
    assert tomllib.loads(err) == {} and wrong[0] in err and "no key was made" in err


@pytest.mark.parametrize("place", ["/dev/full", ""])
def test_a_key_that_nobody_can_see_is_not_made(place: str) -> None:
    stdout = f">{place}" if place else ">&-"
    line = f'exec "$0" -m mcpgate key new {stdout}'
    argv = ["/bin/sh", "-c", line, sys.executable]
    done = subprocess.run(argv, stderr=subprocess.PIPE, text=True, timeout=30, env=environment())
    assert done.returncode == 2 and tomllib.loads(done.stderr) == {} and "no key was made" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "given", "told"),
    [
        (["new", "--id", "a_b"], "", "letters, digits and dashes"),
        (["new", "--expires", "soon"], "", "such as 90d"),
        (["new", "--expires", "0d"], "", "such as 90d"),
        (["new", "--expires", "99999y"], "", "calendar"),
        (["new", "--name", "a\nb"], "", "control characters"),
        (["hash"], "hunter2\n", "stdin holds no key"),
    ],
)
def test_bad_usage(arguments: list[str], given: str, told: str) -> None:
    code, out, err = mcpgate("key", *arguments, given=given)
    assert code == 2 and not out and told in err and "hunter2" not in err


@pytest.mark.parametrize("given", [b"\xff\xfe\n", b"mcpg_ci_\xff\n", b"x" * 100_000])
def test_what_is_no_text_is_no_key(given: bytes) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mcpgate", "key", "hash"],
        input=given,
        capture_output=True,
        env=environment(PYTHONIOENCODING="utf-8:strict"),
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"stdin holds no key" in done.stderr and b"Traceback" not in done.stderr


def test_without_stdin_there_is_no_key() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f"exec {sys.executable} -m mcpgate key hash <&-"],
        capture_output=True,
        env=environment(),
    )
    assert done.returncode == 2 and b"stdin holds no key" in done.stderr


def test_run_with_a_key_file(tmp_path: Path) -> None:
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    file = tmp_path / "key"
    file.write_text(mcpgate("key", "new")[1])
    file.chmod(0o644)
    command = ["run", "--port", "0", "--auth-key-file", str(file), "--", "python3", LEGACY_SERVER]
    code, _, err = mcpgate(*command)
    assert code == 2 and "chmod 600" in err
    file.chmod(0o600)
    with running(*command) as program:
        url = program.url()
        with pytest.raises(HTTPError) as caught:
            urlopen(url)
        assert caught.value.code == 401
        caught.value.close()
        credentials = {"Authorization": f"Bearer {file.read_text().strip()}"}
        with pytest.raises(HTTPError) as caught:
            urlopen(Request(url, headers=credentials))
        assert caught.value.code == 400, "let in, and told that the session is missing"
        caught.value.close()
        program.stop()
    file.write_text("hunter2")
    code, _, err = mcpgate(*command)
    assert code == 2 and "holds no key" in err and "hunter2" not in err
