"""Requests and answers around a text that is to be tried.

Must never: let another serializer touch that text.
"""

from __future__ import annotations

import json
from typing import Any

from fuzz.sim.scene import Scene
from mcpgate_proto.limits import Limits
from mcpgate_proto.wire import jsonrpc
from tests.threats.raw import DUAL, body_of, scene_of

__all__ = ["DEEP", "INVALID", "LIMITS", "PARSE", "PASS", "answer_holding", "everyone", "holding"]

LIMITS = Limits()
PARSE, INVALID = jsonrpc.PARSE_ERROR, jsonrpc.INVALID_REQUEST
PASS = 0
DEEP = 100_000


def holding(value: bytes) -> bytes:
    """A whole request with this value among its arguments."""
    told = json.dumps(body_of(name="echo", arguments={"nonce": "n", "v": "HERE"})).encode()
    return told.replace(b'"HERE"', value)


def answer_holding(value: bytes, id: Any) -> bytes:
    told = {"content": [{"type": "text", "text": "n"}], "structuredContent": {"v": "HERE"}}
    told = {"resultType": "complete", **told}
    return json.dumps({"jsonrpc": "2.0", "id": id, "result": told}).encode().replace(b'"HERE"', value)


def everyone(transport: str = "stdio", eras: tuple[str, ...] = DUAL) -> Scene:
    return scene_of(eras, transport, listeners=("http", "stdio"))
