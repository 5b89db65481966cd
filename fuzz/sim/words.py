"""The dictionary of the gateway's fuzz target: what clients and servers say that is well formed, and how.

Owns: messages with places for the last id and state (`{ID}`, `{STATE}`), a server's faultless answers, and
just enough WebSocket. Must never: decide when anything is said.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha1
from typing import Any

__all__ = ["DONE", "META", "MODERN", "SAID", "TOLD", "Message", "frame", "helpful", "unframe", "upgraded"]

DONE = "tool-done"
MODERN = "2026-07-28"
META = "io.modelcontextprotocol/"

Message = dict[str, Any]


def request(id: Any, method: str, **params: Any) -> Message:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


def stamped(id: Any, method: str, **params: Any) -> Message:
    """A modern request."""
    told = {META + "protocolVersion": MODERN, META + "clientCapabilities": {"elicitation": {}}}
    return request(id, method, **params, _meta={**told, "progressToken": id})


def note(method: str, **params: Any) -> Message:
    return {"jsonrpc": "2.0", "method": method, "params": params}


HELLO = request(
    1,
    "initialize",
    protocolVersion="2025-11-25",
    capabilities={"elicitation": {}, "roots": {}},
    clientInfo={"name": "c", "version": "1"},
)
OLD_HELLO = request(1, "initialize", protocolVersion="2025-03-26", capabilities={}, clientInfo={})
ACCEPTED = {"action": "accept", "content": {}}
# What clients say.
SAID: list[Any] = [
    stamped(7, "tools/call", name="a__echo", arguments={"x": 1}),
    HELLO,
    note("notifications/initialized"),
    request(2, "tools/call", name="a__echo", arguments={}, _meta={"progressToken": "t"}),
    request(3, "tools/list"),
    OLD_HELLO,
    [request(4, "ping"), request(5, "tools/call", name="b__echo", arguments={})],
    stamped("x", "tools/call", name="b__echo", arguments={}),
    stamped(8, "server/discover"),
    stamped(
        0,
        "subscriptions/listen",
        notifications={"toolsListChanged": True, "resourceSubscriptions": ["r://a"]},
    ),
    note("notifications/cancelled", requestId=2),
    note("notifications/cancelled", requestId=7),
    {"jsonrpc": "2.0", "id": 1, "result": ACCEPTED},
    {"jsonrpc": "2.0", "id": 1, "error": {"code": -1, "message": "no"}},
    stamped(
        9,
        "tools/call",
        name="a__echo",
        arguments={"x": 1},
        requestState="{STATE}",
        inputResponses={"1": ACCEPTED},
    ),
    request(6, "resources/subscribe", uri="r://a"),
    stamped(10, "resources/read", uri="r://a"),
    request(11, "gateway/list_servers"),
    request(12, "tools/call", name="echo", arguments={}, _server="b"),
    request(13, "completion/complete", ref={"type": "ref/prompt", "name": "a__p"}, argument={}),
    request(14, "logging/setLevel", level="debug"),
    stamped(15, "tools/list", cursor="{STATE}"),
    request(16, "prompts/get", name="b__p"),
]
# What servers say: to their last request ({ID}), or of themselves.
TEXT = [{"type": "text", "text": DONE}]
TOLD: list[Any] = [
    {"jsonrpc": "2.0", "id": "{ID}", "result": {"content": TEXT, "resultType": "complete"}},
    {"jsonrpc": "2.0", "id": "{ID}", "error": {"code": -32601, "message": "no"}},
    request(1, "elicitation/create", message="?", requestedSchema={"type": "object", "properties": {}}),
    {
        "jsonrpc": "2.0",
        "id": "{ID}",
        "result": {
            "resultType": "input_required",
            "requestState": "s",
            "inputRequests": {"1": {"method": "elicitation/create", "params": {"message": "?"}}},
        },
    },
    {
        "jsonrpc": "2.0",
        "id": "{ID}",
        "error": {"code": -32022, "message": "v", "data": {"supported": [MODERN]}},
    },
    {"jsonrpc": "2.0", "id": "{ID}", "result": {"tools": [], "resources": [], "nextCursor": "x"}},
    note("notifications/progress", progressToken="{ID}", progress=1, total=2),
    note("notifications/tools/list_changed", _meta={META + "subscriptionId": "{ID}"}),
    note("notifications/resources/updated", uri="r://a"),
    note("notifications/message", level="info", data="x"),
    note("notifications/cancelled", requestId=1),
    request(2, "roots/list"),
    request(3, "ping"),
    note(
        "notifications/subscriptions/acknowledged", notifications={}, _meta={META + "subscriptionId": "{ID}"}
    ),
    {"jsonrpc": "2.0", "id": None, "error": {"code": -32000, "message": "x"}},
    {"jsonrpc": "2.0", "id": "{ID}", "result": {"resultType": "odd", "content": TEXT}},
]


def helpful(message: Message) -> Message | None:
    """What a server without faults answers, to everything but a call."""
    method, id = message["method"], message["id"]
    offers = {"tools": {"listChanged": True}, "resources": {"subscribe": True}, "prompts": {}}
    if method == "server/discover":
        result: Message = {
            "supportedVersions": [MODERN],
            "capabilities": offers,
            "ttlMs": 0,
            "cacheScope": "public",
        }
    elif method == "initialize":
        version = message["params"]["protocolVersion"]
        result = {
            "protocolVersion": version,
            "capabilities": offers,
            "serverInfo": {"name": "s", "version": "1"},
        }
    elif method == "tools/list":
        result = {"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]}
    elif method == "resources/list":
        result = {"resources": [{"uri": "r://a", "name": "a"}]}
    elif method == "resources/templates/list":
        result = {"resourceTemplates": []}
    elif method == "prompts/list":
        result = {"prompts": [{"name": "p"}]}
    else:
        return None
    return {"jsonrpc": "2.0", "id": id, "result": {"resultType": "complete", **result}}


def frame(body: bytes, *, masked: bool) -> bytes:
    """A text frame; the mask is zero, so that the fuzzer sees through it."""
    mask = 128 if masked else 0
    size = (
        bytes([mask | len(body)]) if len(body) < 126 else bytes([mask | 126]) + len(body).to_bytes(2, "big")
    )
    return b"\x81" + size + (bytes(4) if masked else b"") + body


def unframe(data: bytearray) -> bytes | None:
    """Take one whole frame from `data`; its payload, unmasked."""
    if len(data) < 2:
        return None
    size, at = data[1] & 127, 2
    if size == 126:
        size, at = int.from_bytes(data[2:4], "big"), 4
    masked = bool(data[1] & 128)
    if len(data) < at + 4 * masked + size:
        return None
    mask = bytes(data[at : at + 4]) if masked else bytes(4)
    at += 4 * masked
    payload = bytes(byte ^ mask[number % 4] for number, byte in enumerate(data[at : at + size]))
    del data[: at + size]
    return payload


def upgraded(key: str) -> bytes:
    """The response to a WebSocket upgrade with this key."""
    digest = sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode(), usedforsecurity=False).digest()
    head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    told = f"Sec-WebSocket-Accept: {b64encode(digest).decode()}\r\nSec-WebSocket-Protocol: mcp\r\n\r\n"
    return (head + told).encode()
