"""The gate as a black box: real sockets, official SDK clients, tokens of a small authorization server here.

Must never: reach beyond this machine; that the issuer is on loopback stands in each config.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from e2e.conftest import MakeGateway
from e2e.harness import PEERS, WAIT_S, Gateway, environment, until
from e2e.rawhttp import Http, Session, message
from tests.runner.conftest import Certificates, certificates
from tests.security.tokens import KEYS, jwks, public, token

__all__ = ["certificates"]

RUNNERS = ("asyncio", "blocking", "trio", "curio")
PLAIN = {"name": "plain", "command": sys.executable, "args": [str(PEERS / "plain.py")]}
LISTEN = {"kind": "http", "port": 0, "sse": True, "websocket": True}
METADATA = "/.well-known/oauth-protected-resource"


class Key:
    """A key, made by the command, and its table."""

    def __init__(self, id: str) -> None:
        command = [sys.executable, "-m", "mcpgate", "key", "new", "--id", id]
        made = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=WAIT_S)
        assert made.returncode == 0, made.stderr
        self.text = made.stdout.strip()
        found = re.search(r'hash = "([^"]+)"', made.stderr)
        assert found is not None
        self.table = {"id": id, "hash": found[1]}
        self.headers = {"Authorization": f"Bearer {self.text}"}


@pytest.fixture(scope="module")
def keys() -> dict[str, Key]:
    return {id: Key(id) for id in ("ci", "ops")}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Issuer:
    """An authorization server: metadata, keys, and tokens for whoever asks with the one client's secret."""

    def __init__(self) -> None:
        # Made now, in one thread.
        self.keys = [name for name in ("rsa", "rsa2") if KEYS[name]][:1]
        self.seen: list[tuple[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.seen.append(("GET", self.path))
                if self.path == "/keys":
                    self._say(200, json.loads(jwks(*map(public, outer.keys))))
                elif self.path.startswith("/.well-known/oauth-authorization-server"):
                    self._say(200, outer.metadata())
                else:
                    self._say(404, {})

            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                outer.seen.append(("POST", form.get("resource", [""])[0]))
                granted = outer.token(aud=form["resource"][0], scope=form.get("scope", ["mcp:use"])[0])
                self._say(200, {"access_token": granted, "token_type": "Bearer", "expires_in": 600})

            def _say(self, status: int, told: Any) -> None:
                body = json.dumps(told).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def metadata(self) -> dict[str, Any]:
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/keys",
            "response_types_supported": ["code"],
            "grant_types_supported": ["client_credentials"],
            "code_challenge_methods_supported": ["S256"],
        }

    def token(self, by: str = "rsa", **claims: Any) -> str:
        now = int(time.time())
        return token(by=by, **{"iss": self.url, "iat": now, "exp": now + 600, **claims})

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    found = Issuer()
    yield found
    found.close()


def sdk(python: str, url: str, **options: str) -> dict[str, Any]:
    flags = [f"--{name}={value}" for name, value in options.items()]
    command = [python, str(PEERS / "bearer.py"), f"--url={url}", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S)
    assert done.stdout, done.stderr
    return dict(json.loads(done.stdout))


# -- keys


@pytest.mark.parametrize("runner", RUNNERS)
def test_sdk_clients_with_a_key(
    runner: str, serve_gateway: MakeGateway, keys: dict[str, Key], sdk_python: str, sdk1_python: str
) -> None:
    gateway = serve_gateway(
        [PLAIN], "--runner", runner, listen=[LISTEN], **{"auth.key": [one.table for one in keys.values()]}
    )
    for python in (sdk_python, sdk1_python):
        found = sdk(python, gateway.url, key=keys["ci"].text)
        assert found["text"] == "hello" and "echo" in found["tools"]
        refused = sdk(python, gateway.url, key=keys["ci"].text[:-1] + "-")
        assert "errors" in refused, refused
    # Whatever was said, no key has got into the log.
    heard = "\n".join(gateway.err)
    assert all(one.text.rsplit("_", 1)[1] not in heard for one in keys.values())


def curl(url: str, *options: str) -> tuple[int, str]:
    command = ["curl", "-s", "-m", "10", "-i", "-o", "-", *options, url]
    done = subprocess.run(command, capture_output=True, timeout=WAIT_S)
    head = done.stdout.decode(errors="replace")
    return int(head.split(" ")[1]), head


@pytest.mark.parametrize("runner", ["asyncio", "blocking"])
def test_every_route_with_curl(runner: str, serve_gateway: MakeGateway, keys: dict[str, Key]) -> None:
    """threats.md rows 6 and 28: no token, 401 everywhere; the same for a wrong one."""
    gateway = serve_gateway([PLAIN], "--runner", runner, listen=[LISTEN], **{"auth.key": [keys["ci"].table]})
    base = f"http://127.0.0.1:{gateway.port}"
    upgrade = ["-H", "Upgrade: websocket", "-H", "Connection: Upgrade", "-H", "Sec-WebSocket-Version: 13"]
    upgrade += ["-H", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "-H", "Sec-WebSocket-Protocol: mcp"]
    wrong = ["-H", f"Authorization: Bearer {keys['ops'].text}"]
    post = ["-H", "Content-Type: application/json", "-d", json.dumps(message("ping"))]
    for path in (
        "/mcp",
        "/sse",
        "/messages",
        "/messages?session=x",
        "/",
        "/nothing",
        "/healthz",
        "/metrics",
        METADATA,
    ):
        for more in ([], wrong):
            for method in (["-X", "GET"], ["-X", "DELETE"], ["-X", "OPTIONS"], ["-X", "PUT"], post, upgrade):
                status, head = curl(base + path, *method, *more)
                assert status == 401 and "WWW-Authenticate: Bearer " in head, (path, method, head)
    status, _ = curl(base + f"/mcp?access_token={keys['ci'].text}", *post)
    assert status == 401
    preflight = [
        "-X",
        "OPTIONS",
        "-H",
        "Origin: http://localhost",
        "-H",
        "Access-Control-Request-Method: POST",
    ]
    assert curl(base + "/mcp", *preflight)[0] == 204
    good = ["-H", keys["ci"].headers["Authorization"].join(["Authorization: ", ""])]
    assert curl(base + "/mcp", *upgrade, *good, "-m", "1")[0] == 101
    assert curl(base + "/nothing", *good)[0] == 404


class Bearing(Http):
    """Requests of one holder."""

    def __init__(self, gateway: Gateway, credentials: dict[str, str]) -> None:
        super().__init__(gateway.port)
        self.credentials = credentials

    def open(self, verb: str, body: Any = None, headers: Any = None, path: str | None = None) -> Any:
        return super().open(verb, body, {**(headers or {}), **self.credentials}, path)


def test_a_session_of_another_principal_is_404(serve_gateway: MakeGateway, keys: dict[str, Key]) -> None:
    """threats.md row 14."""
    gateway = serve_gateway([PLAIN], listen=[LISTEN], **{"auth.key": [one.table for one in keys.values()]})
    ci, ops = (Bearing(gateway, keys[id].headers) for id in ("ci", "ops"))
    session = Session(ci)
    assert session.call("echo", text="mine") == "mine"
    stolen = {**session.headers}
    assert ops.request("POST", message("ping"), stolen).status == 404
    assert ops.request("GET", None, stolen).status == 404
    assert ops.request("DELETE", None, stolen).status == 404
    assert Http(gateway.port).request("POST", message("ping"), stolen).status == 401
    stream = ci.open("GET", None, None, "/sse")
    path = stream.response.readline() and stream.response.readline().decode().removeprefix("data: ").strip()
    assert path.startswith("/messages?session=")
    assert ops.request("POST", message("ping"), None, path).status == 404
    assert ci.request("POST", message("ping"), None, path).status == 202
    stream.close()
    assert session.delete().status == 204


@pytest.mark.parametrize("runner", ["asyncio", "blocking"])
def test_a_key_that_is_taken_away_ends_its_streams(
    runner: str, serve_gateway: MakeGateway, keys: dict[str, Key], tmp_path: Path
) -> None:
    gateway = serve_gateway(
        [PLAIN], "--runner", runner, listen=[LISTEN], **{"auth.key": [one.table for one in keys.values()]}
    )
    ci, ops = (Bearing(gateway, keys[id].headers) for id in ("ci", "ops"))
    sessions = Session(ci), Session(ops)
    streams = [session.listen() for session in sessions]
    config = tmp_path / "mcpgate.toml"
    text = config.read_text()
    start = text.index("[[auth.key]]")
    config.write_text(text[:start] + text[text.index("[[auth.key]]", start + 1) :])
    gateway.popen.send_signal(signal.SIGHUP)
    assert streams[0].next() is None, "the stream ends"
    gateway.wait_for(lambda: any(" reloaded" in line for line in gateway.err), "reload")
    assert ci.post(message("ping")).status == 401
    assert sessions[1].post(message("ping")).status == 200
    for stream in streams:
        stream.close()


# -- tokens


def issued(issuer: Issuer, port: int, **more: Any) -> dict[str, Any]:
    return {
        "auth": {"resource": f"http://127.0.0.1:{port}/mcp"},
        # Its metadata says where its keys are.
        "auth.issuer": [{"issuer": issuer.url, **more}],
    }


@pytest.mark.parametrize("runner", ["asyncio", "blocking"])
def test_sdk_clients_find_their_way_by_themselves(
    runner: str, serve_gateway: MakeGateway, issuer: Issuer, sdk_python: str, sdk1_python: str
) -> None:
    """From the 401 over the metadata to the authorization server and back with a token (J2, J3)."""
    port = free_port()
    gateway = serve_gateway(
        [PLAIN],
        "--runner",
        runner,
        listen=[{**LISTEN, "port": port}],
        **issued(issuer, port, scopes=["mcp:use"]),
    )
    for python in (sdk_python, sdk1_python):
        del issuer.seen[:]
        found = sdk(python, gateway.url, client="ci")
        assert found.get("text") == "hello", found
        assert ("POST", gateway.url) in issuer.seen, "the token was asked for this resource"


@pytest.mark.parametrize("runner", ["asyncio", "blocking"])
def test_tokens_of_an_issuer(runner: str, serve_gateway: MakeGateway, issuer: Issuer) -> None:
    port = free_port()
    gateway = serve_gateway(
        [PLAIN],
        "--runner",
        runner,
        listen=[{**LISTEN, "port": port}],
        **issued(issuer, port, scopes=["mcp:use"]),
    )
    url = gateway.url

    def ask(text: str) -> Any:
        found = Bearing(gateway, {"Authorization": f"Bearer {text}"})
        return found.modern("tools/call", name="who", arguments={})

    assert ask(issuer.token(aud=url)).status == 200
    now = int(time.time())
    for bad in (
        issuer.token(aud="https://other.example/mcp"),
        issuer.token(aud=url, iss="https://evil.example"),
        issuer.token(aud=url, exp=now - 3600),
        issuer.token(aud=url, nbf=now + 3600),
        issuer.token(by="rsa2", aud=url, header={"kid": "rsa"}),
        issuer.token(aud=url)[:-4] + "AAAA",
    ):
        answer = ask(bad)
        assert answer.status == 401 and 'error="invalid_token"' in answer.headers["www-authenticate"]
        assert (
            f'resource_metadata="http://127.0.0.1:{port}{METADATA}/mcp"' in answer.headers["www-authenticate"]
        )
    answer = ask(issuer.token(aud=url, scope="other"))
    assert answer.status == 403 and 'error="insufficient_scope"' in answer.headers["www-authenticate"]
    for path in (METADATA, f"{METADATA}/mcp"):
        document = Http(port).request("GET", None, None, path).message
        assert (document["resource"], document["authorization_servers"]) == (url, [issuer.url])
    # Many with keys that there are not: the issuer is not asked each time.
    before = issuer.seen.count(("GET", "/keys"))
    for _ in range(20):
        assert ask(issuer.token(by="rsa2", aud=url)).status == 401
    assert issuer.seen.count(("GET", "/keys")) <= before + 1


def test_a_stream_ends_with_its_token(serve_gateway: MakeGateway, issuer: Issuer) -> None:
    """J10, in real time: a token with a second left beyond the leeway, which is none here."""
    port = free_port()
    gateway = serve_gateway(
        [PLAIN], listen=[{**LISTEN, "port": port}], limits={"token_leeway_s": 0}, **issued(issuer, port)
    )
    short = Bearing(
        gateway, {"Authorization": f"Bearer {issuer.token(aud=gateway.url, exp=int(time.time()) + 3)}"}
    )
    session = Session(short)
    stream = session.listen()
    assert stream.next() is None, "it ended by itself"
    stream.close()
    assert session.post(message("ping")).status == 401
    again = Bearing(gateway, {"Authorization": f"Bearer {issuer.token(aud=gateway.url)}"})
    assert again.request("POST", message("ping"), session.headers).status == 200


# -- certificates, and sockets


@pytest.mark.parametrize("runner", ["asyncio", "blocking"])
def test_mutual_tls(runner: str, serve_gateway: MakeGateway, certificates: Certificates) -> None:
    server = certificates.issue("localhost", "auth-server.pem")
    os.chmod(server, 0o600)
    port = free_port()
    listener = {**LISTEN, "port": port, "tls_cert": server, "tls_key": server}
    listener |= {"tls_client_ca": certificates.ca_file, "client_subjects": ["CN=good*"]}
    gateway = serve_gateway(
        [PLAIN], "--runner", runner, listen=[listener, {"kind": "http", "port": 0, "name": "plain"}]
    )

    def status(name: str | None) -> int:
        context = ssl.create_default_context(cafile=certificates.ca_file)
        if name is not None:
            context.load_cert_chain(certificates.issue(name, f"client-{name}.pem"))
        connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=WAIT_S)
        try:
            headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
            connection.request("POST", "/mcp", json.dumps(message("ping")), headers)
            return connection.getresponse().status
        finally:
            connection.close()

    # 400: let in, and told that a session begins with initialize.
    assert status("good one") == 400
    assert status("bad one") == 403
    assert status(None) == 401
    assert gateway.stop() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can come as somebody else")
@pytest.mark.parametrize("runner", RUNNERS)
def test_unix_sockets_know_their_peers(runner: str, serve_gateway: MakeGateway, tmp_path: Path) -> None:
    """threats.md section 0, File ownership: another user gets a closed connection and a record."""
    folder = Path("/tmp") / f"mcpgate-{os.getpid()}-{runner}"
    folder.mkdir()
    try:
        lines, web = str(folder / "lines"), str(folder / "web")
        listen = [
            {"kind": "http", "port": 0},
            {
                "kind": "unix",
                "name": "lines",
                "socket_path": lines,
                "socket_mode": "0666",
                "allow_uids": [12345],
            },
            {"kind": "http", "name": "web", "socket_path": web, "socket_mode": "0666", "allow_gids": [54321]},
        ]
        gateway = serve_gateway([PLAIN], "--runner", runner, listen=listen)
        ping = json.dumps(message("ping")).encode() + b"\n"
        get = b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

        def hear(path: str, data: bytes, uid: int, gid: int, groups: list[int]) -> bytes:
            """What a process of this user hears."""
            code = (
                "import os, socket, sys\n"
                f"os.setgroups({groups}); os.setgid({gid}); os.setuid({uid})\n"
                f"sock = socket.socket(socket.AF_UNIX); sock.connect({path!r})\n"
                "try:\n"
                f"    sock.sendall({data!r})\n"
                "    while part := sock.recv(65536):\n"
                "        sys.stdout.buffer.write(part)\n"
                "        if part.endswith(b'\\n'): break\n"
                "except OSError: pass\n"
            )
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=WAIT_S)
            assert done.returncode == 0, done.stderr
            return done.stdout

        assert b'"result"' in hear(lines, ping, 0, 0, [])
        assert b'"result"' in hear(lines, ping, 12345, 12345, [])
        assert hear(lines, ping, 12346, 12346, [54321]) == b""
        assert hear(web, get, 12345, 12345, []) == b""
        assert b" 404 " in hear(web, get, 12345, 54321, [])
        assert b" 404 " in hear(web, get, 12345, 12345, [7, 54321]), "a group of several"
        refused = until(
            lambda: [line for line in gateway.err if "peer_refused" in line][1:2] or None, "the second record"
        )
        assert "uid=12345" in refused[0]
    finally:
        for one in folder.iterdir():
            one.unlink()
        folder.rmdir()
