"""Vulnerabilities of other gateways, bridges and servers (docs/threats.md, 1, rows 21 to 53), each tried on
this one.

Must never: be content with a refusal where the harm was to somebody else: the bystander is asked too.
"""

from __future__ import annotations

import ast
import json
import re
import signal
import sys
import time
import tomllib
from pathlib import Path

import msgspec
import pytest

from fuzz.sim import http
from fuzz.sim.scene import FAST, Scene
from fuzz.sim.sockets import SseConn
from fuzz.sim.talk import Job
from mcpgate_proto.effects import Spawn
from mcpgate_proto.limits import Limits
from mcpgate_proto.security.forward import header_problem
from tests.cli.program import MODERN_SERVER, running
from tests.cli.test_cli import call_tool
from tests.threats.known import ROOT, ROUTES, SOURCES, asking
from tests.threats.raw import (
    HOST,
    LEGACY,
    MODERN_ERA,
    Raw,
    Wiretap,
    ask,
    body_of,
    call_head,
    call_of,
    header_lines,
    legacy_session,
    post,
    scene_of,
    serves,
    ws_open,
)

# -- rows 21 to 40: gateways


@pytest.mark.parametrize("twin", ["Name", "NAME", "n\u0430me", "name ", "named"])
def test_t1_21_what_was_checked_is_what_is_sent(twin: str) -> None:
    """A member that a careless parser takes for `name` is refused; another one decides nothing and stays what
    it is; given twice, by an escape, it is refused."""
    scene = scene_of(MODERN_ERA)
    scene.run(1.0)
    tap = Wiretap(scene)
    told = body_of(name="echo", arguments={"nonce": "n"})
    told["params"] = {twin: "fail", **told["params"]}
    reply = ask(scene, post(json.dumps(told).encode(), call_head()))
    if twin.casefold() == "name":
        assert reply.statuses == [400] and scene.only.calls == []
        return
    assert reply.statuses == [200] and "result" in reply.last.json
    [job] = scene.only.calls
    assert job.params["name"] == "echo" and job.params[twin] == "fail"
    assert tap.written.count(b'"name":"echo"') == 1
    twice = json.dumps(told).encode().replace(b'"name": "echo"', b'"name": "echo", "n\\u0061me": "fail"')
    assert ask(scene, post(twice, call_head())).statuses == [400]


@pytest.mark.parametrize(
    "value", ["a\r\nX-Injected: 1", "a\nb", "a\x00b", "../../etc", "a b?c=d#e", "é\u2028", "=?base64?x?="]
)
def test_t1_22_arguments_in_headers(value: str) -> None:
    """What a call's name and arguments become in a request to a server: one line each, ASCII, decodable."""
    scene = scene_of(MODERN_ERA, "http")
    schema = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
    scene.only.script(value, lambda job: job.say())
    scene.only.definitions[value] = {"inputSchema": schema}
    client = scene.legacy()
    call = scene.done(client.tool(value, region=value))
    assert call.text == call.nonce
    _, headers, message = next(
        one for one in scene.only.requests if one[2] and one[2]["method"] == "tools/call"
    )
    assert message is not None and message["params"]["name"] == value
    assert "x-injected" not in headers
    for name in ("mcp-name", "mcp-param-region"):
        assert headers[name].isascii() and headers[name].isprintable()


ENDPOINTS = [
    "http://evil.example/m",
    "//evil.example/m",
    "http://127.0.0.1:9001@evil.example/m",
    "http://127.0.0.1:9002/m",
]
ENDPOINTS += [
    "https://127.0.0.1:9001/m",
    "http://u:p@127.0.0.1:9001/m",
    "file:///etc/passwd",
    "/m\x00",
    "/m x",
    "http://[",
]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_t1_23_an_announced_endpoint_is_of_the_same_origin(endpoint: str) -> None:
    """HTTP+SSE has one relative URL of the server's (E3). What becomes of it is judged before it is used."""

    class Announcing(SseConn):
        def _open_stream(self) -> None:
            self._begin_stream()
            self._write(http.chunk(f"event: endpoint\ndata: {endpoint}\n\n".encode()))

    scene = scene_of(LEGACY, "sse")
    scene.net.services["127.0.0.1", 9001] = lambda: scene.only.connection(Announcing)
    scene.net.names["evil.example"] = ["10.9.9.9"]
    dialled: list[str] = []
    scene.world.watchers.append(
        lambda effects: dialled.extend(str(one) for one in effects if "Connect(" in str(one))
    )
    scene.run(10.0)
    assert dialled and all("9001" in one and "127.0.0.1" in one and "tls=None" in one for one in dialled)
    assert scene.only.told("initialize") == []


def test_t1_23_urls_are_not_joined_with_what_peers_say() -> None:
    joining = []
    for path in SOURCES:
        names = {
            node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)
        }
        names |= {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        joining += [path.name] if "urljoin" in names else []
    assert joining == ["http_sse.py"], "the test above is about that one"
    scene = Scene({"one": ("http", MODERN_ERA)})
    uris = ("../../admin", "//evil.example/x", "http://evil.example/x", "/etc/passwd")
    scene.only.resources = uris
    scene.start()
    scene.run(1.0)
    tap = Wiretap(scene)
    client = scene.modern()
    for uri in uris:
        call = scene.done(client.request("resources/read", {"uri": uri}), within=30)
        assert call.result["contents"][0]["uri"] == uri, "it has gone to the server"
    paths = {
        line.split(b" ")[1]
        for line in bytes(tap.written).split(b"\r\n")
        if line.startswith((b"POST ", b"GET "))
    }
    assert paths == {b"/mcp"} and scene.net.dials == {}


INTERNAL = {
    "router-key": "secret-api-key",
    "x-forwarded-for": "127.0.0.1",
    "x-forwarded-host": "evil.example",
    "forwarded": "host=evil.example",
    "x-real-ip": "127.0.0.1",
    "x-original-url": "/admin",
    "x-user": "admin",
    "x-remote-user": "admin",
    "x-mcp-server-url": "http://evil.example/",
    "x-jira-url": "http://169.254.169.254/",
    "cookie": "a=b",
    "mcp-server": "two",
    "x-mcpgate-principal": "local",
    "te": "trailers",
    "proxy-authorization": "Basic eA==",
}


def test_t1_24_headers_of_clients_select_and_prove_nothing() -> None:
    """None of them reaches a server, chooses one, or makes the client somebody else."""
    scene = Scene({"one": ("http", MODERN_ERA), "two": ("http", MODERN_ERA)}).start()
    scene.run(1.0)
    more = header_lines(list(INTERNAL.items())).encode()
    reply = ask(scene, call_of("one__echo", nonce="n").replace(b"Mcp-Name", more + b"Mcp-Name", 1))
    assert reply.statuses == [200]
    assert len(scene["one"].calls) == 1 and scene["two"].calls == []
    for _, headers, _ in scene["one"].requests:
        assert not set(headers) & set(INTERNAL)


def test_t1_24_no_secret_comes_with_the_program() -> None:
    """No literal that looks like a key or password, and no default for one in the settings."""
    pattern = re.compile(
        r"(?i)(?:secret|password|api_?key|token)\w*\s*(?::\s*\w+)?\s*=\s*[\"'][^\"'$\s]{6,}[\"']"
    )
    assert pattern.search('API_KEY: str = "hunter22"') and pattern.search("password = 'hunter22'")
    for path in SOURCES:
        assert not [one for one in pattern.findall(path.read_text()) if "${" not in one], path


def test_t1_25_paths_make_nobody_somebody() -> None:
    scene = scene_of()
    for path in ("/mcp/admin", "/mcp/user/admin", "/admin/mcp", "/mcp?user=admin", "/mcp?_principal=local"):
        told = json.dumps(body_of("gateway/list_servers", modern=False)).encode()
        reply = ask(scene, post(told, legacy_session(scene), path=path))
        # Only local callers may look inside; whatever stands in the query is nobody's business.
        there = path.startswith("/mcp?")
        assert reply.statuses == [200 if there else 404]
        assert reply.last.json["error"]["code"] == (-32601 if there else -32600)


SPAWNING = {
    "command": "/bin/sh",
    "args": ["-c", "touch /tmp/x"],
    "env": {"A": "b"},
    "transport": "stdio",
    "url": "http://x",
}


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_t1_26_requests_do_not_start_processes(kind: str) -> None:
    scene = scene_of(listeners=("http", "stdio"))
    scene.run(1.0)
    before = [(one.argv, one.env) for one in scene.net.spawned]
    session = legacy_session(scene)
    for method in (
        "gateway/add_server",
        "gateway/install",
        "servers/add",
        "bridge",
        "tools/install",
        "gateway/reload",
    ):
        for body in (body_of(method, modern=False, **SPAWNING), body_of(method, server=SPAWNING)):
            reply = ask(scene, post(json.dumps(body).encode(), session if kind == "tcp" else []), kind=kind)
            assert "error" in reply.last.json
    for path in (
        "/bridge",
        "/install",
        "/api/mcp/connect",
        "/servers",
        "/admin",
        "/stdio?command=sh&args=-c",
    ):
        assert ask(scene, asking("POST", path), kind=kind).statuses == [404]
        assert ask(scene, asking("GET", path), kind=kind).statuses == [404]
    client = scene.modern()
    scene.done(client.tool("echo", **SPAWNING))
    assert {argv for argv, _ in before} == {one.argv for one in scene.net.spawned} == {("/bin/one",)}


def test_t1_27_servers_do_not_choose_how_they_are_started() -> None:
    """Whatever a server says of itself, the next start has the arguments of the config."""
    scene = scene_of(LEGACY)
    scene.only.definitions["echo"] = {"_meta": SPAWNING, "annotations": SPAWNING, **SPAWNING}
    client = scene.legacy()
    scene.done(client.tool("echo"))
    scene.only.crash()
    scene.run(30.0)
    scene.done(client.tool("echo"), within=60)
    assert len(scene.net.spawned) > 1
    assert {msgspec.json.encode(msgspec.structs.replace(one, conn=0)) for one in scene.net.spawned} == {
        msgspec.json.encode(Spawn(conn=0, argv=("/bin/one",), env={}))
    }


@pytest.mark.parametrize("host", ["0.0.0.0:8080", "0.0.0.0", "[::]:8080", "[::]"])
def test_t1_30_the_wildcard_is_no_host(host: str) -> None:
    scene = scene_of()
    assert ask(scene, call_of().replace(HOST.encode(), host.encode())).statuses == [403]
    assert ask(scene, asking("GET", "/mcp", ("Origin", f"http://{host}"))).statuses == [403]


def test_t1_32_nothing_is_html() -> None:
    """There is no page that could run what a peer wrote: JSON and event streams only."""
    scene = scene_of()
    text = "<script>alert(1)</script>"
    found = [
        ask(scene, asking(method, path))
        for path in [*ROUTES, "/%3Cscript%3E"]
        for method in ("GET", "POST", "DELETE")
    ]
    found.append(ask(scene, post(json.dumps(body_of(text)).encode())))
    found.append(ask(scene, call_of(text).replace(b"Mcp-Name: <", b"Mcp-Name: x<")))
    for raw in found:
        [response] = raw.responses
        assert response.body and response.headers["content-type"] in ("application/json", "text/event-stream")


def test_t1_33_settings_come_from_files_only() -> None:
    """No method and no route changes what is configured, for anybody."""
    scene = scene_of(listeners=("http", "unix"))
    scene.run(1.0)
    before = scene.world.gateway.snapshot().servers
    pipe = Raw(scene, "unix", "unix")
    for method in (
        "gateway/add_server",
        "gateway/remove_server",
        "gateway/set_config",
        "gateway/reload",
        "config/set",
    ):
        pipe.send(json.dumps(body_of(method, **SPAWNING)).encode() + b"\n")
    assert [line["error"]["code"] for line in pipe.lines] == [-32601] * 5
    assert [one.name for one in scene.world.gateway.snapshot().servers] == [one.name for one in before]


def test_t1_34_cors_is_never_for_everybody() -> None:
    scene = scene_of()
    wanted = [
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "content-type, mcp-param-x"),
    ]
    for path in ROUTES:
        evil = ask(scene, asking("OPTIONS", path, ("Origin", "http://evil.example"), *wanted))
        assert evil.statuses == [403] and not [
            name for name in evil.last.headers if name.startswith("access-control")
        ]
        good = ask(scene, asking("OPTIONS", path, ("Origin", "http://localhost:3000"), *wanted))
        assert good.last.headers["access-control-allow-origin"] == "http://localhost:3000"
        assert "*" not in "".join(
            value for name, value in good.last.headers.items() if name.startswith("access")
        )
        assert "access-control-allow-credentials" not in good.last.headers
    plain = ask(scene, call_of())
    assert not [name for name in plain.last.headers if name.startswith("access-control")]


BIG = "x" * 300_000


@pytest.mark.parametrize("kind", ["tools/call", "resources/read", "prompts/get", "tools/list"])
@pytest.mark.parametrize("transport", ["stdio", "http"])
@pytest.mark.parametrize("message_bytes", [100_000, 1_000_000])
def test_t1_36_every_kind_of_result_has_its_size_checked(
    kind: str, transport: str, message_bytes: int
) -> None:
    scene = Scene(
        {"one": (transport, MODERN_ERA)}, limits=msgspec.structs.replace(FAST, message_bytes=message_bytes)
    )

    def big(job: Job) -> None:
        job.answer({"content": [], "contents": [], "messages": [], "pad": BIG})

    scene.only.script("big", big)
    scene.only.script("talk", big, prompt=True)
    scene.only.resources, scene.only.reader = ("r://a",), big
    if kind == "tools/list":
        scene.only.definitions["echo"] = {"description": BIG}
    scene.start()
    scene.run(1.0)
    client = scene.modern()
    params = {
        "tools/call": {"name": "big"},
        "resources/read": {"uri": "r://a"},
        "prompts/get": {"name": "talk"},
    }
    call = scene.done(client.request(kind, params.get(kind, {})), within=90)
    assert scene.only.seen(kind) >= 1, "it has gone to the server"
    assert call.answer is not None and (BIG in json.dumps(call.answer)) is (message_bytes > len(BIG))


def test_t1_37_no_header_is_an_address() -> None:
    """Besides those of row 24: the only addresses that are dialled are those of the config."""
    scene = scene_of(MODERN_ERA, "http")
    dialled: list[str] = []
    scene.world.watchers.append(
        lambda effects: dialled.extend(str(one) for one in effects if "Connect(" in str(one))
    )
    for name in (
        "X-Upstream-Url",
        "X-Atlassian-Jira-Url",
        "X-Forwarded-Host",
        "X-Rewrite-Url",
        "Referer",
        "Location",
    ):
        more = f"{name}: http://169.254.169.254/latest\r\n".encode()
        assert ask(scene, call_of(nonce="n").replace(b"Mcp-Name", more + b"Mcp-Name", 1)).statuses == [200]
    assert dialled and all("127.0.0.1" in one and "9001" in one for one in dialled)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Authorization", "Bearer sentinel-token"),
        ("X-Auth", "Bearer sentinel-token"),
        ("X-Key", "sentinel-token"),
        # Credentials of their own: the token is no part of them.
        ("Cookie", "session=sentinel-of-a-cookie"),
        ("Proxy-Authorization", "Basic sentinel-of-a-proxy"),
        ("X-Forwarded-Authorization", "Bearer sentinel-of-a-proxy"),
    ],
)
def test_t1_40_credentials_of_clients_stay_here(header: str, value: str) -> None:
    """Whatever an operator lists to be forwarded, the client's own token is not, under no name. What is there
    for credentials cannot be listed at all."""
    assert bool(header_problem(header)) is (header not in ("X-Auth", "X-Key")), "settings refuse it"
    options = {"one": {"forward_headers": (header.lower(), "x-wanted")}}
    scene = Scene({"one": ("http", MODERN_ERA)}, options=options).start()
    scene.run(1.0)
    tap = Wiretap(scene)
    more = f"Authorization: Bearer sentinel-token\r\n{header}: {value}\r\nX-Wanted: yes\r\n".encode()
    if header == "Authorization":
        more = more.partition(b"\r\n")[2]
    assert ask(scene, call_of(nonce="n").replace(b"Mcp-Name", more + b"Mcp-Name", 1)).statuses == [200]
    assert b"sentinel" not in tap.written and b"x-wanted: yes" in tap.written.lower()


# -- rows 41 to 53: content, dependencies


def test_t1_42_nothing_writes_the_config(tmp_path: Path) -> None:
    """A whole life, calls and a reload included: config and folder are as they were. Whoever else writes the
    file has to be its owner."""
    folder = tmp_path / "config"
    folder.mkdir(mode=0o700)
    path = folder / "mcpgate.toml"
    path.write_text(
        f"[[listen]]\nport = 0\n[[server]]\nname = 'a'\ncommand = {sys.executable!r}\n"
        f"args = ['-I', '-S', {MODERN_SERVER!r}]\n"
    )
    path.chmod(0o600)
    before = (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino)
    with running("serve", "-c", str(path)) as gate:
        url = gate.url()
        assert "result" in call_tool(url, "reverse", {"text": "x", "path": str(path)})
        gate.popen.send_signal(signal.SIGHUP)
        gate.until("reloaded")
        assert gate.stop() == 0
    assert (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) == before
    assert [one.name for one in folder.iterdir()] == ["mcpgate.toml"]


def test_t1_47_no_shell_anywhere() -> None:
    """Commands are lists of arguments; nothing is ever given to a shell to read."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword):
                assert node.arg != "shell", path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in {
                    ("os", "system"),
                    ("os", "popen"),
                    ("subprocess", "getoutput"),
                }, path
            if isinstance(node, ast.Name):
                assert node.id not in {"eval", "exec"}, path


def test_t1_48_the_floor_of_h11() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    [floor] = [one for one in wanted if one.startswith("h11")]
    assert tuple(int(part) for part in floor.split(">=")[1].split(".")) >= (0, 16, 0)
    import h11

    assert tuple(int(part) for part in h11.__version__.split(".")[:2]) >= (0, 16)


def test_t1_49_no_ranges_and_no_forms() -> None:
    scene = scene_of()
    ranges = b"Range: bytes=" + b",".join(b"%d-" % at for at in range(2000)) + b"\r\n"
    begin = time.process_time()
    reply = ask(scene, call_of().replace(b"Mcp-Name", ranges + b"Mcp-Name", 1))
    assert reply.statuses == [200] and "content-range" not in reply.last.headers
    assert time.process_time() - begin < 1
    form = call_of().replace(b"application/json\r\n", b"multipart/form-data; boundary=x\r\n", 1)
    assert ask(scene, form).statuses == [415]


def test_t1_51_long_lists_in_headers() -> None:
    scene = scene_of()
    begin = time.process_time()
    for name in (
        "Sec-WebSocket-Protocol",
        "Accept",
        "Connection",
        "Upgrade",
        "Access-Control-Request-Headers",
    ):
        for value in ("x," * 7000, " ," * 7000, "a b" * 5000, ";" * 14_000):
            ask(scene, asking("OPTIONS", "/mcp", ("Origin", "http://localhost"), (name, value)), wait_s=0.05)
            ws_open(scene, [(name, value)])
    assert time.process_time() - begin < 5 and serves(scene)


def test_t1_53_requests_in_flight_are_capped_on_a_connection() -> None:
    limits = msgspec.structs.replace(FAST, calls_per_session=10)
    scene = scene_of(limits=limits)
    socket = ws_open(scene)
    for number in range(30):
        told = body_of(id=number, name="silent", arguments={"nonce": f"n{number}"})
        socket.frame(1, json.dumps(told).encode(), wait_s=0.01)
    scene.run(0.5)
    assert len(scene.only.calls) == 10 and len(socket.texts) == 20
    assert {message["error"]["message"] for message in socket.texts} == {"too many requests are open"}
    assert serves(scene) and Limits().calls_per_session <= 256
