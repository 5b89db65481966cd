"""What a secret looks like, and that one that stands in a config is refused, reported, and never repeated.

Must never: use a real secret.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mcpgate.inline import argv_secrets, is_harmless, is_plain, is_secret_name, looks_secret
from mcpgate.settings import Settings, SettingsError, load

RANDOM = "aB3dE5fG7hJ9kL1mN3pQ5rS7tU9vW1x"
SERVER = '[[server]]\nname = "a"\ncommand = "/bin/sh"\n'
WEB = '[[server]]\nname = "a"\ntransport = "http"\nurl = "https://a/mcp"\n'

NAMES = [
    *("Authorization", "Proxy-Authorization", "Cookie", "X-Api-Key", "X-API-Token", "api-key", "apikey"),
    *(
        "API_KEY",
        "GITHUB_TOKEN",
        "githubToken",
        "accessToken",
        "client_secret",
        "DB_PASSWORD",
        "passwd",
        "PWD",
    ),
    *(
        "PRIVATE_KEY",
        "SECRET",
        "AWS_SECRET_ACCESS_KEY",
        "GITHUB_PAT",
        "auth",
        "SSH_PASSPHRASE",
        "credentials",
    ),
    *("OPENAI_APIKEY", "MY_KEYS"),
]
NO_NAMES = [
    *(
        "MAX_TOKENS_LIMIT",
        "TOKENIZERS_PARALLELISM",
        "KEYBOARD",
        "MONKEY",
        "PUBLIC_KEY",
        "KEY_FILE",
        "TOKEN_PATH",
    ),
    *(
        "AWS_ACCESS_KEY_ID",
        "SECRET_NAME",
        "HOME",
        "LOG_LEVEL",
        "Accept-Language",
        "X-Request-Id",
        "TOKEN_URL",
    ),
    *("AUTHOR", "", "AUTH_TYPE"),
]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", NO_NAMES)
def test_names_of_other_things(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    "value", ["", " ", "true", "off", "4096", "0.5", "/run/secrets/token", "./key", "~/k"]
)
def test_values_that_any_key_may_hold(value: str) -> None:
    assert is_harmless(value)


@pytest.mark.parametrize(
    "value", ["hunter2", "1234567890123", RANDOM, "/" + RANDOM, "/ab+cd=", "s3cret", "x"]
)
def test_values_that_it_may_not(value: str) -> None:
    assert not is_harmless(value)


@pytest.mark.parametrize(
    "text",
    [
        *(RANDOM, f"--x={RANDOM}", "ghp_" + "a1" * 18, "mcpg_me_" + "a" * 43, "AKIA" + "A1" * 8),
        *("d41d8cd98f00b204e9800998ecf8427e", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln"),
    ],
)
def test_texts_that_look_like_secrets(text: str) -> None:
    assert looks_secret(text)


@pytest.mark.parametrize(
    "text",
    [
        *("https://mcp.example/v1/very/long/path?with=arguments", "/usr/lib/python3/dist-packages/something"),
        *("@modelcontextprotocol/server-filesystem@2025.8.21", "a-server-with-a-long-name-and-words-in-it"),
        *("123e4567-e89b-42d3-a456-426614174000", "", "0" * 64, "THE_QUICK_BROWN_FOX_JUMPS_OVER", "x" * 100),
    ],
)
def test_texts_that_do_not(text: str) -> None:
    assert not looks_secret(text)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        *(
            (v, True)
            for v in ("short", "/opt/server/bin", "localhost", "db.internal", "https://host/mcp", "8080")
        ),
        *((v, False) for v in ("correct horse battery", RANDOM, "https://me:pw@host/", "https://h/?key=1")),
    ],
)
def test_what_a_variable_may_show(value: str, plain: bool) -> None:
    assert is_plain(value) is plain


def test_secrets_on_command_lines() -> None:
    args = ["--token=abc", "--api-key", "k3y", "-password", "x y", "--token-file", "/t", "--max-tokens", "10"]
    assert list(argv_secrets(args)) == [0, 2, 4]
    assert list(argv_secrets(["--token", "--verbose", "--key=/a/b", "--secret"])) == []


# -- in a config


def read(folder: Path, text: str, name: str = "mcpgate.toml", **env: str) -> Settings:
    path = folder / name
    path.write_text(text)
    path.chmod(0o600)
    return load(path, {"PATH": "/usr/bin:/bin", **env})


def problems(folder: Path, text: str, **env: str) -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        read(folder, text, **env)
    return {problem.key: f"{problem.problem} | {problem.mend}" for problem in caught.value.problems}


INLINE = [
    (WEB + 'headers = { Authorization = "Bearer hunter2hunter2" }', "server.a.headers.Authorization"),
    (WEB + 'headers = { "X-Api-Key" = "hunter2hunter2" }', "server.a.headers.X-Api-Key"),
    (WEB + 'headers = { Cookie = "sid=hunter2hunter2" }', "server.a.headers.Cookie"),
    (SERVER + 'env = { API_TOKEN = "hunter2hunter2" }', "server.a.env.API_TOKEN"),
    (SERVER + 'env = { DB_PASSWORD = "hunter2hunter2" }', "server.a.env.DB_PASSWORD"),
    (SERVER + f'[gateway]\nsealing_key = "{"ab" * 32}"', "gateway.sealing_key"),
]


@pytest.mark.parametrize(("text", "key"), INLINE)
def test_an_inline_secret_is_refused_by_its_key_only(tmp_path: Path, text: str, key: str) -> None:
    found = problems(tmp_path, text)
    assert list(found) == [key]
    assert "${env:NAME}" in found[key] and "allow_inline_secrets" in found[key]
    assert "hunter2" not in str(found) and "abab" not in str(found)


@pytest.mark.parametrize(("text", "key"), INLINE)
def test_unless_that_is_allowed(tmp_path: Path, text: str, key: str) -> None:
    if "[gateway]" not in text:
        text += "\n[gateway]"
    settings = read(tmp_path, text.replace("[gateway]", "[gateway]\nallow_inline_secrets = true"))
    assert settings.secrets and not settings.warnings
    # But then nobody else may read the file.
    path = tmp_path / "mcpgate.toml"
    path.chmod(0o644)
    with pytest.raises(SettingsError) as caught:
        load(path, {"PATH": "/usr/bin:/bin"})
    (problem,) = caught.value.problems
    assert (problem.key, problem.problem) == ("", "holds secrets, and other users can read it")
    assert f"chmod 600 {path}" in problem.mend
    assert load(path, {"PATH": "/usr/bin:/bin"}, insecure=True).warnings[-1].problem == problem.problem


def test_references_and_harmless_values_are_no_inline_secrets(tmp_path: Path) -> None:
    text = SERVER + 'env = { API_TOKEN = "${env:T}", MAX_TOKENS = "4096", KEY = "/run/key", X_TOKEN = "" }'
    settings = read(tmp_path, text, T="hunter2hunter2")
    assert settings.secrets == ("hunter2hunter2",) and not settings.warnings
    # A reference beside a literal secret does not hide it.
    text = WEB + f'headers = {{ Authorization = "Bearer {RANDOM}${{env:T}}" }}'
    assert list(problems(tmp_path, text, T="x")) == ["server.a.headers.Authorization"]


def test_what_looks_like_a_secret_elsewhere_is_a_warning(tmp_path: Path) -> None:
    text = SERVER + f'args = ["{RANDOM}"]\nmetadata = {{ note = "{RANDOM}" }}\npin = "sha256:{"0a" * 32}"\n'
    found = {warning.key: str(warning) for warning in read(tmp_path, text).warnings}
    assert sorted(found) == ["server.a.args[0]", "server.a.metadata.note"]
    assert RANDOM not in str(found) and "looks like a secret" in found["server.a.args[0]"]


def test_a_secret_on_a_command_line_is_a_warning(tmp_path: Path) -> None:
    text = SERVER + 'args = ["--token=${env:T}", "--password", "hunter2hunter2", "--port", "80"]'
    found = read(tmp_path, text, T="hunter2hunter2").warnings
    assert [warning.key for warning in found] == ["server.a.args[0]", "server.a.args[2]"]
    assert all("list of processes" in warning.problem for warning in found)
    assert "hunter2" not in str(found)


def test_a_short_secret_is_a_warning(tmp_path: Path) -> None:
    found = read(tmp_path, SERVER + 'env = { API_TOKEN = "${env:T}" }', T="short").warnings
    assert ["fewer than 8 characters" in warning.problem for warning in found] == [True]


def test_a_clients_file_is_only_reported(tmp_path: Path) -> None:
    entry: dict[str, Any] = {
        "command": "/bin/sh",
        "env": {"API_TOKEN": "hunter2hunter2", "OTHER_TOKEN": "${T}", "LEVEL": "debug"},
    }
    path = tmp_path / "claude.json"
    path.write_text(json.dumps({"mcpServers": {"a": entry}}))
    path.chmod(0o644)
    settings = load(path, {"PATH": "/usr/bin:/bin", "T": "hunter4hunter4"})
    found = {warning.key: str(warning) for warning in settings.warnings}
    assert sorted(found) == ["", "mcpServers.a.env.API_TOKEN"]
    assert "chmod 600" in found[""] and "hunter" not in str(found)
    assert set(settings.secrets) == {"hunter2hunter2", "hunter4hunter4"}
    # With references alone it holds no secret, and everybody may read it.
    del entry["env"]["API_TOKEN"]
    path.write_text(json.dumps({"mcpServers": {"a": entry}}))
    assert not load(path, {"PATH": "/usr/bin:/bin", "T": "hunter4hunter4"}).warnings


def test_a_secret_in_the_wrong_place_is_not_repeated(tmp_path: Path) -> None:
    """Whatever else is wrong with a config, its report shows no value that came by a reference."""
    text = (
        WEB.replace('"https://a/mcp"', '"${env:T}"')
        + "\n[gateway]\nlog_level = '${env:T}'\nprefix = '${env:T}'"
    )
    # The short one is not known to the redaction either.
    for value in ("hunter2hunter2hunter2", "hunter2"):
        found = problems(tmp_path, text, T=value)
        assert sorted(found) == ["gateway.log_level", "gateway.prefix", "server.a.url"]
        assert "hunter2" not in str(found)
