"""What the tests of section 1 share: the routes and methods there are, and who is not let in.

Must never: hold a test.
"""

from __future__ import annotations

from pathlib import Path

from tests.threats.raw import HOST, Raw, header_lines

__all__ = [
    "EVIL_HOSTS",
    "EVIL_ORIGINS",
    "METHODS",
    "ROOT",
    "ROUTES",
    "SOURCES",
    "asking",
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
ROUTES += ["/favicon.ico"]
METHODS = ["GET", "POST", "DELETE", "OPTIONS", "PUT", "HEAD"]


def asking(method: str, path: str, *headers: tuple[str, str], host: str = HOST) -> bytes:
    lines = [("Host", host), ("Accept", "application/json, text/event-stream"), *headers]
    lines += [("Content-Type", "application/json"), ("Content-Length", "2")] if method == "POST" else []
    return f"{method} {path} HTTP/1.1\r\n{header_lines(lines)}\r\n{'{}' if method == 'POST' else ''}".encode()


def status_of(raw: Raw) -> int:
    """Also of a response to HEAD, whose body our reader would wait for."""
    return int(bytes(raw.sent_back).split(b" ", 2)[1])
