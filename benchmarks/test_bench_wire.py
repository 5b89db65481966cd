"""What the wire layer costs per message. `pytest benchmarks --benchmark-only`.

Machines differ; the ratios to `json.loads`, taken in the same run, are what to compare.
"""

from __future__ import annotations

import json
import timeit
from collections.abc import Callable
from typing import Any

from mcpgate_proto.limits import Limits
from mcpgate_proto.wire import jsonrpc
from mcpgate_proto.wire.http1 import HttpClientCodec, HttpServerCodec
from mcpgate_proto.wire.lines import LineDecoder, encode_line
from mcpgate_proto.wire.sse import SseDecoder, encode_event

LIMITS = Limits()


def _call(size: int) -> bytes:
    """A tools/call of exactly `size` bytes."""
    head = b'{"jsonrpc":"2.0","id":12,"method":"tools/call","params":{"name":"search","arguments":{"query":"'
    tail = b'","limit":10},"_meta":{"progressToken":"p-1"}}}'
    return head + b"x" * (size - len(head) - len(tail)) + tail


CALL = _call(300)
SPACED = json.dumps(json.loads(CALL)).encode()
TOOLS = json.dumps(
    {
        "jsonrpc": "2.0",
        "id": 1,
        "result": {
            "tools": [
                {
                    "name": f"tool_{number}",
                    "description": 'Looks "something" up [in a list].',
                    "inputSchema": {
                        "type": "object",
                        "properties": {"a": {"type": "string"}, "b": {"type": "integer"}},
                    },
                }
                for number in range(200)
            ]
        },
    },
    separators=(",", ":"),
).encode()

_HEAD = (
    b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: mcp-client/1.0\r\n"
    b"Accept: application/json, text/event-stream\r\nContent-Type: application/json\r\n"
    b"Mcp-Session-Id: 0123456789abcdef0123456789abcdef\r\nContent-Length: %d\r\n\r\n"
)
POST = _HEAD % (551 - len(_HEAD % 300)) + _call(551 - len(_HEAD % 300))


def _ratio(benchmark: Any, subject: Callable[[], object], reference: Callable[[], object]) -> None:
    """Run `subject` under the benchmark and note how it compares with `reference`."""
    number = 2000
    ours = min(timeit.repeat(subject, number=number, repeat=5))
    theirs = min(timeit.repeat(reference, number=number, repeat=5))
    benchmark.extra_info["ratio_to_json_loads"] = round(ours / theirs, 2)
    benchmark(subject)


def test_jsonrpc_decode_300(benchmark: Any) -> None:
    _ratio(benchmark, lambda: jsonrpc.decode(CALL, LIMITS), lambda: json.loads(CALL))


def test_jsonrpc_decode_300_spaced(benchmark: Any) -> None:
    _ratio(benchmark, lambda: jsonrpc.decode(SPACED, LIMITS), lambda: json.loads(SPACED))


def test_jsonrpc_decode_tools_list(benchmark: Any) -> None:
    benchmark(jsonrpc.decode, TOOLS, LIMITS)


def test_jsonrpc_encode_300(benchmark: Any) -> None:
    [message] = jsonrpc.decode(CALL, LIMITS)
    assert isinstance(message, jsonrpc.Request)
    params = message.params
    _ratio(benchmark, lambda: jsonrpc.encode_request(7, "tools/call", params), lambda: json.loads(CALL))


def test_json_loads_300(benchmark: Any) -> None:
    benchmark(json.loads, CALL)


def test_lines(benchmark: Any) -> None:
    line = encode_line(CALL)
    decoder = LineDecoder(LIMITS.message_bytes)
    assert benchmark(decoder.receive, line) == [CALL]


def test_sse_encode(benchmark: Any) -> None:
    benchmark(encode_event, CALL, event="message", id="1")


def test_sse_decode(benchmark: Any) -> None:
    data = encode_event(CALL, event="message", id="1")
    decoder = SseDecoder(LIMITS.sse_event_bytes)
    [event] = benchmark(decoder.receive, data)
    assert event.data == CALL


def test_http_server_post_551(benchmark: Any) -> None:
    assert len(POST) == 551
    codec = HttpServerCodec(Limits(requests_per_connection=10**9))

    def cycle() -> None:
        assert len(codec.receive(POST)) == 2
        codec.respond(200, [("Content-Type", "application/json")], CALL)
        codec.next()

    benchmark(cycle)


def test_http_client_request_response(benchmark: Any) -> None:
    codec = HttpClientCodec(LIMITS)
    response = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 300\r\n\r\n" + CALL
    headers = [
        ("Host", "127.0.0.1:8080"),
        ("Accept", "application/json, text/event-stream"),
        ("Content-Type", "application/json"),
    ]

    def cycle() -> None:
        codec.request("POST", "/mcp", headers, CALL)
        assert len(codec.receive(response)) == 3

    benchmark(cycle)
