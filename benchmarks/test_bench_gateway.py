"""What one whole tools/call costs in the core: from the client's bytes to the bytes of its answer, through
every layer and both effect queues, the server's side played by canned bytes. `pytest benchmarks
--benchmark-only`.

Each is compared, in the same run, with the bare codec work of the same messages: reading the two that come
in, writing the two that go out. The ratio is what everything between the codecs costs.
"""

from __future__ import annotations

import json
import re
import timeit
from collections.abc import Callable
from typing import Any

import pytest

from mcpgate_proto import Gateway, GatewayConfig, Limits, ListenConfig, ServerConfig
from mcpgate_proto.effects import Address, Connect, Peer, Spawn, Write
from mcpgate_proto.wire import jsonrpc
from mcpgate_proto.wire.http1 import HttpClientCodec, HttpServerCodec
from mcpgate_proto.wire.lines import LineDecoder, encode_line

META = "io.modelcontextprotocol/"
MODERN = "2026-07-28"
ARGUMENTS = {"query": "x" * 150, "limit": 10}
RESULT = {"content": [{"type": "text", "text": "y" * 250}], "isError": False}
TCP = Peer(kind="tcp", address=Address(host="127.0.0.1", port=5))
BOUNDS = Limits(requests_per_connection=10**9)
Message = dict[str, Any]


def compact(message: Any) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def request(id: Any, method: str, modern: bool, **params: Any) -> Message:
    if modern:
        params["_meta"] = {META + "protocolVersion": MODERN, META + "clientCapabilities": {}}
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


def post(body: bytes, *headers: str) -> bytes:
    lines = [
        "POST /mcp HTTP/1.1",
        "Host: 127.0.0.1:8080",
        "User-Agent: mcp-client/1.0",
        "Accept: application/json, text/event-stream",
        "Content-Type: application/json",
        *headers,
        f"Content-Length: {len(body)}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def http_answer(body: bytes) -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )


def answer(method: str, id: int, modern: bool) -> Message:
    stamp: Message = {"resultType": "complete"} if modern else {}
    results: dict[str, Message] = {
        "server/discover": {"supportedVersions": [MODERN], "capabilities": {"tools": {}}, **HINTS},
        "initialize": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {}},
        "tools/list": {"tools": [{"name": "search", "inputSchema": {"type": "object"}}], **HINTS},
        "tools/call": RESULT,
    }
    return {"jsonrpc": "2.0", "id": id, "result": {**stamp, **results[method]}}


HINTS = {"ttlMs": 86_400_000, "cacheScope": "public"}
NUMBERED = re.compile(rb'"id":(\d+),"method":"([a-z/]+)"')


class Bench:
    """A gateway with one client and one server, up and warm. `call` is one whole tools/call."""

    def __init__(self, downstream: str, upstream: str, modern: bool) -> None:
        self.downstream, self.upstream, self.modern = downstream, upstream, modern
        place: Message = {"command": "/bin/one"} if upstream == "stdio" else {"url": "http://127.0.0.1:9/mcp"}
        era = "modern" if modern else "legacy"
        server = ServerConfig(name="one", transport=upstream, era=era, **place)  # type: ignore[arg-type]
        listener = ListenConfig(name="in", kind=downstream)  # type: ignore[arg-type]
        config = GatewayConfig(servers=(server,), listeners=(listener,), limits=BOUNDS, log_level="error")
        self.gateway = Gateway(config, now=1.0, wall=1.7e9, seed=bytes(32))
        self.gateway.trap_errors = False
        self.gateway.effects()
        self.tails: dict[str, bytes] = {}
        self.now = 1.0
        self.gateway.listening(self.now, "in", Address(host="127.0.0.1", port=8080))
        self.gateway.started(self.now)
        self.run()
        self.client = self.gateway.accepted(
            self.now, "in", TCP if downstream == "http" else Peer(kind="stdio")
        )
        self.answered = b""
        self.session = ""
        self.run()
        self.greet()
        self.said = self.tool_call()
        self.call()

    def greet(self) -> None:
        if not self.modern:
            hello = request(
                0,
                "initialize",
                False,
                protocolVersion="2025-11-25",
                capabilities={},
                clientInfo={"name": "c", "version": "1"},
            )
            self.send(self.spell(hello))
            found = re.search(rb"Mcp-Session-Id: (\S+)", self.answered)
            self.session = found.group(1).decode() if found else ""
            self.send(self.spell({"jsonrpc": "2.0", "method": "notifications/initialized"}))

    def spell(self, message: Message) -> bytes:
        body = compact(message)
        if self.downstream != "http":
            return body + b"\n"
        if self.modern:
            return post(body, f"MCP-Protocol-Version: {MODERN}", "Mcp-Method: tools/call", "Mcp-Name: search")
        named = ("MCP-Protocol-Version: 2025-11-25", f"Mcp-Session-Id: {self.session}")
        return post(body, *(named if self.session else ()))

    def tool_call(self) -> bytes:
        return self.spell(request(7, "tools/call", self.modern, name="search", arguments=ARGUMENTS))

    def send(self, data: bytes) -> None:
        self.gateway.received(self.now, self.client, data)
        self.run()

    def run(self) -> None:
        """Carry out what is asked until nothing more is; time stands still but for timers that are due."""
        for _ in range(50):
            effects = self.gateway.effects()
            for effect in effects:
                if isinstance(effect, Spawn | Connect):
                    kind = Peer(kind="child", pid=2) if isinstance(effect, Spawn) else TCP
                    self.gateway.connected(self.now, effect.conn, kind)
                elif isinstance(effect, Write):
                    self.written(effect)
            deadline = self.gateway.deadline()
            if not effects and (deadline is None or deadline > self.now):
                return
            if deadline is not None and deadline <= self.now:
                self.gateway.timed_out(self.now)

    def written(self, effect: Write) -> None:
        data = b"".join(effect.chunks)
        self.gateway.flushed(self.now, effect.conn, len(data))
        if effect.conn == getattr(self, "client", None):
            self.answered = data
            return
        for id, method in NUMBERED.findall(data):
            if method != b"subscriptions/listen":
                self.gateway.received(self.now, effect.conn, self.server(int(id), method.decode()))
        if b"notifications/initialized" in data and self.upstream == "http":
            self.gateway.received(
                self.now, effect.conn, b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
            )

    def server(self, id: int, method: str) -> bytes:
        tail = self.tails.get(method)
        if tail is None:
            # Made once: what the server's own encoder costs is not ours.
            tail = self.tails[method] = compact(answer(method, 0, self.modern)).partition(b'"id":0')[2]
        body = b'{"jsonrpc":"2.0","id":%d' % id + tail
        return body + b"\n" if self.upstream == "stdio" else http_answer(body)

    def call(self) -> None:
        """One call, whole; nothing of it is left afterwards."""
        self.send(self.said)
        assert b"yyyyyyyy" in self.answered, self.answered

    # -- the bare codec work

    def codecs(self) -> Callable[[], object]:
        """Read what the client says and what the server answers; write both onwards."""
        question = compact(request(7, "tools/call", self.modern, name="search", arguments=ARGUMENTS))
        reply = compact(answer("tools/call", 7, self.modern))
        told = jsonrpc.decode(question, BOUNDS)[0]
        assert isinstance(told, jsonrpc.Request)
        params = told.params
        inward = http_inward(self.said, reply) if self.downstream == "http" else lines(self.said, reply)
        outward = (
            http_outward(question, http_answer(reply))
            if self.upstream == "http"
            else lines(reply + b"\n", question)
        )

        def work() -> None:
            inward()
            jsonrpc.decode(question, BOUNDS)
            jsonrpc.encode_request(7, "tools/call", params)
            outward()
            given = jsonrpc.decode(reply, BOUNDS)[0]
            jsonrpc.encode_result(7, jsonrpc.members(given.result))  # type: ignore[union-attr]

        return work


def http_inward(said: bytes, reply: bytes) -> Callable[[], object]:
    codec = HttpServerCodec(BOUNDS)

    def cycle() -> None:
        assert len(codec.receive(said)) == 2
        codec.respond(200, [("Content-Type", "application/json")], reply)
        codec.next()

    return cycle


def http_outward(question: bytes, came: bytes) -> Callable[[], object]:
    codec = HttpClientCodec(BOUNDS)
    headers = [("Host", "127.0.0.1:9"), ("Content-Type", "application/json"), ("Accept", "application/json")]

    def cycle() -> None:
        codec.request("POST", "/mcp", headers, question)
        assert len(codec.receive(came)) == 3

    return cycle


def lines(came: bytes, goes: bytes) -> Callable[[], object]:
    decoder = LineDecoder(BOUNDS.message_bytes)

    def cycle() -> None:
        assert len(decoder.receive(came)) == 1
        encode_line(goes)

    return cycle


CELLS = [
    ("modern HTTP to stdio", "http", "stdio", True),
    ("legacy HTTP to stdio", "http", "stdio", False),
    ("stdio to stdio", "stdio", "stdio", True),
    ("stdio to HTTP", "stdio", "http", True),
]


@pytest.mark.parametrize(
    ("downstream", "upstream", "modern"), [cell[1:] for cell in CELLS], ids=[cell[0] for cell in CELLS]
)
def test_one_tools_call(benchmark: Any, downstream: str, upstream: str, modern: bool) -> None:
    bench = Bench(downstream, upstream, modern)
    bare = bench.codecs()
    number = 200
    times = [(timeit.timeit(bench.call, number=number), timeit.timeit(bare, number=number)) for _ in range(8)]
    whole, codecs = (min(column) / number for column in zip(*times, strict=True))
    benchmark.extra_info["codecs_us"] = round(codecs * 1e6, 1)
    benchmark.extra_info["ratio_to_codecs"] = round(whole / codecs, 2)
    benchmark(bench.call)
    assert bench.gateway.snapshot().calls == 0
