"""How mcpgate shows who it is to servers: the keys, what goes together, and what is refused with a mend."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcpgate.settings import Settings, SettingsError, load
from mcpgate_proto.config import OAuthConfig, ServerConfig

HTTP = '[[server]]\nname = "a"\ntransport = "http"\nurl = "https://mcp.example/mcp"\n'
OAUTH = f"{HTTP}[server.oauth]\n"
SERVICE = f'{OAUTH}grant = "client_credentials"\nclient_id = "gate"\n'
ENV = {"SECRET": "s3cr3t", "PEM": "-----BEGIN PRIVATE KEY-----"}


def read(folder: Path, text: str) -> Settings:
    path = folder / "mcpgate.toml"
    path.write_text(text)
    path.chmod(0o600)
    return load(path, ENV)


def server(folder: Path, text: str) -> ServerConfig:
    (found,) = read(folder, text).gateway.servers
    return found


def test_the_least_that_makes_a_login(tmp_path: Path) -> None:
    assert server(tmp_path, OAUTH).oauth == OAuthConfig()
    assert server(tmp_path, HTTP).oauth is None


def test_every_key(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("x")
    found = server(
        tmp_path,
        OAUTH
        + 'client_id = "c"\nclient_secret = "${env:SECRET}"\nissuer = "https://as.example/t"\n'
        + 'scopes = ["read", "write"]\nresource = "https://mcp.example"\ncallback_port = 33418\n'
        + 'allow_private = true\nca_file = "ca.pem"\n',
    )
    assert found.oauth == OAuthConfig(
        client_id="c",
        client_secret="s3cr3t",
        issuer="https://as.example/t",
        scopes=("read", "write"),
        resource="https://mcp.example",
        callback_port=33418,
        allow_private=True,
        ca_file=str(tmp_path / "ca.pem"),
    )


def test_client_credentials(tmp_path: Path) -> None:
    text = f'{SERVICE}client_secret = "${{env:SECRET}}"\ntoken_url = "https://as.example/token"\n'
    found = server(tmp_path, text).oauth
    assert found is not None
    assert (found.grant, found.client_secret, found.token_url) == (
        "client_credentials",
        "s3cr3t",
        "https://as.example/token",
    )
    keyed = server(tmp_path, f'{SERVICE}client_key = "${{env:PEM}}"\nclient_key_id = "k"\n').oauth
    assert keyed is not None and keyed.client_key == ENV["PEM"]


@pytest.mark.parametrize(
    ("url", "more", "works"),
    [
        ("https://mcp.example/mcp", "", True),
        ("http://127.0.0.1:9/mcp", "", True),
        ("http://localhost/mcp", "", True),
        ("http://[::1]:9/mcp", "", True),
        ("http://mcp.example/mcp", "", False),
        ("http://10.0.0.1/mcp", "", False),
        ("http://127.0.0.1.evil.example/mcp", "", False),
        ("http://0.0.0.0:9/mcp", "", False),
        ("http://mcp.example/mcp", "allow_plain_http = true", True),
        ("http://mcp.example/mcp", "allow_plain_http = false", False),
        ("http://mcp.example/mcp", 'socket_path = "/run/x.sock"', True),
    ],
)
def test_plain_http_stays_on_this_machine(tmp_path: Path, url: str, more: str, works: bool) -> None:
    """threats.md section 0, HTTPS URLs for remote."""
    text = f'[[server]]\nname = "a"\ntransport = "http"\nurl = "{url}"\n{more}\n'
    if works:
        settings = read(tmp_path, text)
        assert bool(settings.warnings) is ("allow_plain_http = true" in more), "it is said each time"
        return
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, text)
    (problem,) = caught.value.problems
    assert problem.key == "server.a.url" and "plain http" in problem.problem
    assert "https://" in problem.mend and "allow_plain_http" in problem.mend


def test_plain_websockets_too(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="plain ws") as caught:
        read(tmp_path, '[[server]]\nname = "a"\ntransport = "websocket"\nurl = "ws://mcp.example/"\n')
    assert "wss://" in caught.value.problems[0].mend


def test_forwarded_headers(tmp_path: Path) -> None:
    found = server(tmp_path, f'{HTTP}forward_headers = ["X-Tenant", "traceparent", "X-Api-Version"]\n')
    assert found.forward_headers == ("X-Tenant", "traceparent", "X-Api-Version")
    assert server(tmp_path, HTTP).forward_headers == ()


OWNED = (
    "Host Connection Keep-Alive TE Trailer Transfer-Encoding Upgrade Expect Via Authorization Cookie "
    "Proxy-Authorization Proxy-X Content-Type Content-Length content-md5 Accept Accept-Encoding "
    "Origin Referer Forwarded X-Forwarded-For X-Forwarded-Anything X-Real-IP MCP-Protocol-Version "
    "Mcp-Session-Id Mcp-Method Mcp-Param-x Last-Event-ID Sec-Fetch-Site If-Match "
    "Access-Control-Request-Method User-Agent Date"
).split()


@pytest.mark.parametrize(
    "name", [*OWNED, *(name.upper() for name in OWNED), "", "X Y", "X:", "X\\u00e4", "a_b"]
)
def test_headers_that_are_never_forwarded(tmp_path: Path, name: str) -> None:
    """J5, J6; threats.md row 37."""
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, f'{HTTP}forward_headers = ["X-Ok", "{name}"]\n')
    (problem,) = caught.value.problems
    assert problem.key == "server.a.forward_headers[1]" and "headers" in problem.mend


BAD = [
    (
        f'{HTTP}headers = {{ X-A = "1" }}\nforward_headers = ["x-a"]',
        "server.a.forward_headers[0]",
        "fixed value",
    ),
    (
        '[[server]]\nname="a"\ntransport="websocket"\nurl="wss://x"\nforward_headers = ["X-A"]',
        "server.a.forward_headers",
        "not websocket",
    ),
    (f"{OAUTH}grant = 'password'", "server.a.oauth.grant", "authorization_code, client_credentials"),
    (f"{OAUTH}client = 'x'", "server.a.oauth.client", "did you mean"),
    (f"{OAUTH}client_id = 'c'\nclient_secret = 'literal-s3cr3t'", "server.a.oauth.client_secret", "secret"),
    (f"{OAUTH}client_secret = '${{env:SECRET}}'", "server.a.oauth.client_id", "is missing"),
    (
        f"{OAUTH}client_id='c'\nclient_secret='${{env:SECRET}}'\nclient_key='${{env:PEM}}'",
        "server.a.oauth.client_key",
        "keep one",
    ),
    (
        f"{OAUTH}client_id='c'\nclient_metadata_url='https://x.example/c.json'",
        "server.a.oauth.client_metadata_url",
        "keep one",
    ),
    (f"{OAUTH}client_metadata_url='https://x.example/'", "server.a.oauth.client_metadata_url", "has no path"),
    (f"{OAUTH}client_metadata_url='http://x.example/c'", "server.a.oauth.client_metadata_url", "not https"),
    (f"{OAUTH}issuer='http://as.example'", "server.a.oauth.issuer", "not https"),
    (f"{OAUTH}issuer='https://u:p@as.example'", "server.a.oauth.issuer", "user information"),
    (f"{OAUTH}issuer='javascript:alert(1)'", "server.a.oauth.issuer", "neither https nor http"),
    (f"{OAUTH}issuer='http://127.0.0.1:9'", "server.a.oauth.issuer", "not https"),
    (f"{OAUTH}resource='mcp'", "server.a.oauth.resource", "https://host/path"),
    (f"{OAUTH}token_url='https://as.example/token'", "server.a.oauth.token_url", "write issuer"),
    (f"{OAUTH}scopes=['a b']", "server.a.oauth.scopes[0]", "one scope"),
    (f"{OAUTH}scopes='a'", "server.a.oauth.scopes", "write a list"),
    (f"{OAUTH}callback_port=70000", "server.a.oauth.callback_port", "65535"),
    (f"{OAUTH}ca_file='nope.pem'", "server.a.oauth.ca_file", "there is no file"),
    (SERVICE, "server.a.oauth.client_secret", "is missing"),
    (f"{SERVICE}client_secret='${{env:SECRET}}'", "server.a.oauth.issuer", "shown to nobody else"),
    (
        f"{SERVICE}client_secret='${{env:SECRET}}'\ncallback_port=1",
        "server.a.oauth.callback_port",
        "remove it",
    ),
    (f"{HTTP}oauth = 'yes'", "server.a.oauth", "make it a table"),
    (
        '[[server]]\nname="a"\ntransport="websocket"\nurl="wss://x"\n[server.oauth]',
        "server.a.oauth",
        "for http and sse",
    ),
    ('[[server]]\nname="a"\ncommand="sh"\n[server.oauth]', "server.a.oauth", "transport"),
    (OAUTH.replace("[server.", 'socket_path = "/run/x.sock"\n[server.', 1), "server.a.oauth", "an address"),
    (
        f"{HTTP}headers = {{ Authorization = '${{env:SECRET}}' }}\n[server.oauth]",
        "server.a.headers.Authorization",
        "oauth would set it",
    ),
]


@pytest.mark.parametrize(("text", "key", "said"), BAD)
def test_each_problem_names_key_and_mend(tmp_path: Path, text: str, key: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, text)
    told = {problem.key: f"{problem.problem} | {problem.mend}" for problem in caught.value.problems}
    assert key in told and said in told[key], told
    assert "s3cr3t" not in str(caught.value)


def test_a_local_server_may_have_a_local_issuer(tmp_path: Path) -> None:
    text = (
        OAUTH.replace("https://mcp.example", "http://127.0.0.1:9001") + "issuer = 'http://127.0.0.1:9002'\n"
    )
    found = server(tmp_path, text).oauth
    assert found is not None and found.issuer == "http://127.0.0.1:9002"
