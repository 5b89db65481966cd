"""Peers that others have written, at both edges: the `websockets` library, curl, the SDKs' HTTP+SSE, and
npm's server of everything. Each test is skipped where its peer is not to be had, and says so."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcpgate_proto.config import ServerConfig
from tests.matrix.behaviour import TOOLS, ModelServer
from tests.matrix.cells import ALL, RUNNERS, Cell, Gate, cell_running, running
from tests.matrix.clients import ANSWER, ELICITATION
from tests.matrix.servers import ChannelReply, HttpUpstream, Upstream
from tests.matrix.talk import LEGACY, MODERN, PREFIX, WAIT_S

PEERS = Path(__file__).parent / "peers"
MB = 1 << 20
EVERYTHING = "@modelcontextprotocol/server-everything"
INSTALL_S = 120
SDKS = ("sdk_python", "sdk1_python")
runners = pytest.mark.parametrize("runner", RUNNERS)


def some(*others: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Runners with what they are to meet: all with all in the whole matrix, else in turns; these peers are
    slow to start."""
    met = list(itertools.product(*others))
    if os.environ.get("MCPGATE_MATRIX") == "all":
        return [(runner, *one) for runner in RUNNERS for one in met]
    turns = range(max(len(RUNNERS), len(met)))
    return [(RUNNERS[turn % len(RUNNERS)], *met[turn % len(met)]) for turn in turns]


class Foreign(Upstream):
    """A server that is not ours: only where it is, and how it ends."""

    def __init__(self, server: ServerConfig) -> None:
        self.model = ModelServer("legacy")
        self._server = server

    def config(self) -> ServerConfig:
        return self._server

    def stop(self) -> None:
        """Ended by whoever started it."""


@contextlib.contextmanager
def process(argv: list[str], pattern: str, **env: str) -> Iterator[re.Match[str]]:
    """A child, once it has said `pattern` on stdout or stderr."""
    child = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **env}
    )
    assert child.stdout is not None
    limit = threading.Timer(WAIT_S, child.kill)
    limit.start()
    drain: threading.Thread | None = None
    try:
        said = ""
        found = None
        for line in child.stdout:
            said += line
            if found := re.search(pattern, line):
                break
        limit.cancel()
        assert found is not None, f"{argv} ended without {pattern!r}:\n{said}"
        drain = threading.Thread(target=child.stdout.read, daemon=True)
        drain.start()
        yield found
    finally:
        limit.cancel()
        child.kill()
        child.wait()
        if drain is not None:
            drain.join()
        child.stdout.close()
        limit.join()


# -- the websockets library


def cell(runner: str, down: str, era: str) -> Cell:
    return next(one for one in ALL if one == Cell(runner, down, era, "unix", era))


def composed(era: str, id: int, method: str, **params: Any) -> str:
    meta: dict[str, Any] = {"progressToken": id}
    if era == "modern":
        meta[PREFIX + "protocolVersion"] = MODERN
        meta[PREFIX + "clientCapabilities"] = ELICITATION
    params["_meta"] = meta
    return json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params})


@pytest.mark.parametrize("era", ["legacy", "modern"])
@runners
def test_the_websockets_client(runner: str, era: str) -> None:
    library = pytest.importorskip("websockets.sync.client")
    exceptions = pytest.importorskip("websockets.exceptions")
    with cell_running(cell(runner, "websocket", era)) as (gate, upstream):
        url = f"ws://127.0.0.1:{gate.address.port}/mcp"
        with pytest.raises(exceptions.InvalidStatus) as refused:
            library.connect(url, origin="https://evil.example")
        assert refused.value.response.status_code == 403
        with library.connect(url, subprotocols=["mcp"], max_size=4 * MB) as ws:
            assert ws.subprotocol == "mcp"

            def ask(id: int, method: str, **params: Any) -> tuple[list[Any], Any]:
                """What came before the answer, and the answer; questions are answered."""
                ws.send(composed(era, id, method, **params))
                before: list[Any] = []
                while True:
                    message = json.loads(ws.recv(WAIT_S))
                    if "method" not in message:
                        assert message["id"] == id, message
                        return before, message["result"]
                    before.append(message)
                    if "id" in message:
                        ws.send(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": ANSWER}))

            if era == "legacy":
                told = {"capabilities": ELICITATION, "clientInfo": {"name": "w", "version": "1"}}
                ask(1, "initialize", protocolVersion=LEGACY, **told)
                ws.send(json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}))
            else:
                assert MODERN in ask(1, "server/discover")[1]["supportedVersions"]
            assert [one["name"] for one in ask(2, "tools/list")[1]["tools"]] == list(TOOLS)
            before, _ = ask(3, "tools/call", name="steps", arguments={})
            assert [one["params"]["progress"] for one in before] == [1, 2, 3]
            assert {one["params"]["progressToken"] for one in before} == {3}
            text = "x" * MB
            assert (
                ask(4, "tools/call", name="echo", arguments={"text": text})[1]["content"][0]["text"] == text
            )
            before, result = ask(5, "tools/call", name="ask", arguments={})
            if era == "modern":
                assert result["resultType"] == "input_required" and not before
                again = {"inputResponses": dict.fromkeys(result["inputRequests"], ANSWER)}
                again["requestState"] = result["requestState"]
                before, result = ask(6, "tools/call", name="ask", arguments={}, **again)
            assert result["content"][0]["text"] == "told the blue one"
            ws.ping().wait(WAIT_S)
            gate.stop(grace_s=0.0)
            with pytest.raises(exceptions.ConnectionClosedOK) as closed:
                ws.recv(WAIT_S)
            assert closed.value.rcvd.code == 1001
        gate.ended()


class LibraryUpstream(Upstream):
    """The model server behind the library's WebSocket server."""

    def __init__(self, model: ModelServer) -> None:
        library = pytest.importorskip("websockets.sync.server")
        self.model = model
        self.codes: list[int] = []
        self._server = library.serve(self._serve, "127.0.0.1", 0, subprotocols=["mcp"], max_size=4 * MB)
        self.port = self._server.socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def _serve(self, ws: Any) -> None:
        session = self.model.session()
        if ws.subprotocol != "mcp":
            self.model.wrong("the subprotocol", ws.subprotocol)
        reply = ChannelReply(lambda message: ws.send(json.dumps(message)))
        for text in ws:
            self.model.handle(session, json.loads(text), reply)
        self.codes.append(ws.close_code)
        self.model.left(session)

    def config(self) -> ServerConfig:
        return ServerConfig(name="model", transport="websocket", url=f"ws://127.0.0.1:{self.port}/")

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        gc.collect()  # the library leaves its poller to that


def talk_through(gate: Gate, era: str) -> None:
    """What the model client does with a server that has the model's tools."""
    client = gate.client("unix", era)
    client.open()
    names = [one["name"] for one in client.ask("tools/list")["tools"]]
    assert {"echo", "steps", "ask"} <= set(names), names
    assert client.call("echo", text="hello") == "hello"
    id = client.start("steps")
    assert client.answer(id)["result"]["content"][0]["text"] == "3 steps"
    assert client.progress(id) == [1, 2, 3]
    assert client.call("ask") == "told the blue one"
    assert client.call("echo", text="x" * MB) == "x" * MB
    client.leave()
    gate.stop(grace_s=30.0)
    gate.ended()


@pytest.mark.parametrize("era", ["legacy", "modern"])
@runners
def test_the_websockets_server(runner: str, era: str) -> None:
    pytest.importorskip("websockets.sync.server")
    with running(runner, "unix", lambda folder: LibraryUpstream(ModelServer(era))) as (gate, upstream):
        talk_through(gate, era)
    assert isinstance(upstream, LibraryUpstream) and set(upstream.codes) == {1000}


# -- curl


@runners
def test_curl_over_a_unix_socket(runner: str) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    made = lambda folder: HttpUpstream(ModelServer("legacy"), folder)  # noqa: E731
    with running(runner, "http-unix", made) as (gate, upstream):

        def post(body: str, *headers: str) -> tuple[int, dict[str, str], list[Any]]:
            """The status, the headers, and every message of the response, JSON or events."""
            argv = [curl, "-sS", "-i", "-N", "--http1.1", "--max-time", "30", "--data-binary", "@-"]
            argv += ["--unix-socket", gate.listen.socket_path, "http://localhost/mcp"]
            told = ("Content-Type: application/json", "Accept: application/json, text/event-stream")
            for header in (*told, *headers):
                argv += ["-H", header]
            done = subprocess.run(argv, input=body, capture_output=True, text=True, check=True)
            head, _, rest = done.stdout.partition("\n\n")
            lines = head.splitlines()
            found = {line.split(":")[0].lower(): line.partition(": ")[2] for line in lines[1:]}
            if found.get("content-type") == "text/event-stream":
                data = [one[6:] for one in rest.splitlines() if one.startswith("data: ")]
                return int(lines[0].split()[1]), found, [json.loads(one) for one in data if one]
            return int(lines[0].split()[1]), found, [json.loads(rest)] if rest.strip() else []

        modern = f"MCP-Protocol-Version: {MODERN}"
        discover = "Mcp-Method: server/discover"
        status, _, messages = post(composed("modern", 1, "server/discover"), modern, discover)
        assert status == 200 and MODERN in messages[0]["result"]["supportedVersions"]
        body = composed("modern", 2, "tools/call", name="steps", arguments={})
        status, found, messages = post(body, modern, "Mcp-Method: tools/call", "Mcp-Name: steps")
        assert status == 200 and found["content-type"] == "text/event-stream"
        assert [one["params"]["progress"] for one in messages[:-1]] == [1, 2, 3]
        assert messages[-1]["result"]["content"][0]["text"] == "3 steps"
        hello = {"capabilities": {}, "clientInfo": {"name": "curl", "version": "1"}}
        body = composed("legacy", 1, "initialize", protocolVersion=LEGACY, **hello)
        status, found, messages = post(body)
        assert status == 200 and messages[0]["result"]["protocolVersion"] == LEGACY
        session = f"Mcp-Session-Id: {found['mcp-session-id']}"
        status, _, _ = post(json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}), session)
        assert status == 202
        body = composed("legacy", 2, "tools/call", name="echo", arguments={"text": "hello"})
        status, _, messages = post(body, session)
        assert status == 200 and messages[-1]["result"]["content"][0]["text"] == "hello"
        assert post(body, "Origin: https://evil.example")[0] == 403
        gate.stop(grace_s=30.0)
        gate.ended()


# -- the SDKs, over HTTP+SSE


@pytest.mark.parametrize(("runner", "sdk"), some(SDKS))
def test_the_sdk_client_over_http_sse(runner: str, sdk: str, request: pytest.FixtureRequest) -> None:
    python = request.getfixturevalue(sdk)
    with cell_running(cell(runner, "sse", "legacy")) as (gate, upstream):
        url = f"http://127.0.0.1:{gate.address.port}/sse"
        argv = [python, str(PEERS / "sse_client.py"), url]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=2 * WAIT_S)
        assert done.returncode == 0, done.stderr
        seen = json.loads(done.stdout)
        assert seen == {
            "version": LEGACY,
            "tools": list(TOOLS),
            "echo": "hello",
            "steps": "3 steps",
            "ask": "told the blue one",
            "large": MB // 2,
            "progress": [1, 2, 3],
        }
        gate.stop(grace_s=30.0)
        gate.ended()


@pytest.mark.parametrize(("runner", "sdk", "transport"), some(SDKS, ("sse", "http")))
def test_the_sdk_server_over_http_sse(
    runner: str, sdk: str, transport: str, request: pytest.FixtureRequest
) -> None:
    """Named as what it is, and found by falling back from Streamable HTTP (F13)."""
    python = request.getfixturevalue(sdk)
    with process([python, str(PEERS / "sse_server.py")], r'"ready": (\d+)') as said:
        url = f"http://127.0.0.1:{said[1]}/sse"
        server = ServerConfig(name="peer", transport=transport, url=url)  # type: ignore[arg-type]
        with running(runner, "unix", lambda folder: Foreign(server)) as (gate, _):
            talk_through(gate, "legacy")


# -- npm's server of everything


@pytest.fixture(scope="session")
def everything(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of the server, installed for this session."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None or shutil.which("npx") is None:
        pytest.skip("node, npm and npx are not installed")
    folder = tmp_path_factory.mktemp("npm")
    argv = [npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--loglevel=error"]
    argv += ["--prefer-offline", "--fetch-retries=0", "--fetch-timeout=20000", EVERYTHING]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=INSTALL_S, cwd=folder)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm could not install {EVERYTHING} within {INSTALL_S} s")
    if done.returncode:
        pytest.skip(f"npm could not install {EVERYTHING}: {done.stderr.strip()[-200:]}")
    script = folder / "node_modules" / EVERYTHING / "dist" / "index.js"
    return [node, "--require", str(PEERS / "port.cjs"), str(script)]


@pytest.mark.parametrize(("runner", "transport", "era"), some(("stdio", "http", "sse"), ("legacy", "modern")))
def test_the_server_of_everything(runner: str, transport: str, era: str, everything: list[str]) -> None:
    with contextlib.ExitStack() as stack:
        if transport == "stdio":
            server = ServerConfig(name="all", command=everything[0], args=(*everything[1:], "stdio"))
        else:
            word = "streamableHttp" if transport == "http" else "sse"
            said = stack.enter_context(process([*everything, word], r"PORT (\d+)", PORT="0"))
            url = f"http://127.0.0.1:{said[1]}/{'mcp' if transport == 'http' else 'sse'}"
            server = ServerConfig(name="all", transport=transport, url=url)  # type: ignore[arg-type]
        gate, _ = stack.enter_context(running(runner, "unix", lambda folder: Foreign(server)))
        client = gate.client("unix", era)
        client.open()
        names = [one["name"] for one in client.ask("tools/list")["tools"]]
        assert {"echo", "trigger-long-running-operation"} <= set(names), names
        assert client.call("echo", message="hello") == "Echo: hello"
        id = client.start("trigger-long-running-operation", duration=0.3, steps=3)
        assert "result" in client.answer(id)
        assert client.progress(id) == [1, 2, 3]
        assert client.ask("resources/list")["resources"]
        assert client.ask("prompts/list")["prompts"]
        client.leave()
        gate.stop(grace_s=30.0)
        gate.ended()
