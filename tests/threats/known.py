"""What the tests of section 1 share: the routes and methods there are, and a scene.

Must never: hold a test.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fuzz.sim.scene import Scene
from tests.threats.raw import (
    DUAL,
    HOST,
    Raw,
    header_lines,
)

__all__ = [
    "EVIL_HOSTS",
    "EVIL_ORIGINS",
    "METHODS",
    "ROOT",
    "ROUTES",
    "SOURCES",
    "asking",
    "scene_of",
    "status_of",
]

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*(ROOT / "mcpgate_proto").rglob("*.py"), *(ROOT / "runners").rglob("*.py")])
EVIL_HOSTS = [
    "evil.example",
    "evil.example:8080",
    "localhost:8080.evil.example",
    "localhost.evil.example",
    "127.0.0.1:1",
]
EVIL_ORIGINS = [
    "http://evil.example",
    "https://127.0.0.1.evil.example",
    "null",
    "http://localhost:9201.evil.example",
]
ROUTES = [
    "/mcp",
    "/sse",
    "/messages",
    "/messages?session=x",
    "/",
    "/other",
    "/metrics",
    "/healthz",
    "/readyz",
]
ROUTES += ["/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"]
METHODS = ["GET", "POST", "DELETE", "OPTIONS", "PUT", "HEAD"]


def scene_of(eras: tuple[str, ...] = DUAL, transport: str = "stdio", **options: Any) -> Scene:
    options.setdefault("sockets", True)
    return Scene({"one": (transport, eras)}, **options).start()


def asking(method: str, path: str, *headers: tuple[str, str], host: str = HOST) -> bytes:
    lines = [("Host", host), ("Accept", "application/json, text/event-stream"), *headers]
    lines += [("Content-Type", "application/json"), ("Content-Length", "2")] if method == "POST" else []
    return f"{method} {path} HTTP/1.1\r\n{header_lines(lines)}\r\n{'{}' if method == 'POST' else ''}".encode()


def status_of(raw: Raw) -> int:
    """Also of a response to HEAD, whose body our reader would wait for."""
    return int(bytes(raw.sent_back).split(b" ", 2)[1])
