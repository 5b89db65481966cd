"""`mcpgate demo`: a gateway with two small servers of its own, and calls to copy.

Owns: the demo's config, the calls as data (printed as curl, performed by `--check`), and their results.
Must never: print a call that `--check` does not perform.
"""

from __future__ import annotations

import http.client
import json
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcpgate import __version__
from mcpgate.launch import child_env
from mcpgate_proto.config import GatewayConfig, ListenConfig, ServerConfig
from mcpgate_proto.effects import Address

__all__ = ["check", "demo_config", "lines_to_copy"]

PATH = "/mcp"
LEGACY = "2025-11-25"
MODERN = "2026-07-28"
PREFIX = "io.modelcontextprotocol/"
CLIENT = {"name": "demo", "version": "1.0"}
SESSION = "Mcp-Session-Id"
TIMEOUT_S = 20.0


@dataclass
class Call:
    """One POST: what is sent, and the text that must come back."""

    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)
    text: str = ""

    def curl(self, url: str, *options: str, session: bool = False) -> str:
        """The call as a line for a shell."""
        parts = ["curl -sS", *options, shlex.quote(url)]
        parts += [f"-H {shlex.quote(f'{name}: {value}')}" for name, value in self.all_headers().items()]
        if session:
            parts.append(f'-H "{SESSION}: $SESSION"')
        parts.append(f"-d {shlex.quote(json.dumps(self.body))}")
        return " \\\n    ".join(parts)

    def all_headers(self) -> dict[str, str]:
        accept = "application/json, text/event-stream"
        return {"Content-Type": "application/json", "Accept": accept, **self.headers}


def _tool_call(name: str, arguments: dict[str, Any], **params: Any) -> dict[str, Any]:
    params = {"name": name, "arguments": arguments, **params}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


META = {PREFIX + "protocolVersion": MODERN, PREFIX + "clientInfo": CLIENT, PREFIX + "clientCapabilities": {}}
MODERN_CALL = Call(
    _tool_call("words__reverse", {"text": "yawetag"}, _meta=META),
    {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": "words__reverse"},
    text="gateway",
)
INITIALIZE = Call(
    {
        "jsonrpc": "2.0",
        "id": 0,
        "method": "initialize",
        "params": {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": CLIENT},
    }
)
INITIALIZED = Call(
    {"jsonrpc": "2.0", "method": "notifications/initialized"}, {"MCP-Protocol-Version": LEGACY}
)
LEGACY_CALL = Call(
    _tool_call("sums__add", {"numbers": [1, 2, 39]}), {"MCP-Protocol-Version": LEGACY}, text="42"
)


def demo_config(port: int) -> GatewayConfig:
    """Two servers, one of each era, behind one address."""
    here = Path(__file__).parent
    servers = tuple(
        ServerConfig(
            name=name,
            command=sys.executable,
            args=("-I", "-S", str(here / file)),
            env=child_env(),
        )
        for name, file in (("sums", "demo_legacy.py"), ("words", "demo_modern.py"))
    )
    listener = ListenConfig(name="http", port=port, path=PATH)
    return GatewayConfig(servers=servers, listeners=(listener,), prefix="always", version=__version__)


def lines_to_copy(address: Address) -> str:
    """What a person can try."""
    url = f"http://{address}{PATH}"
    snippet = json.dumps({"mcpServers": {"mcpgate": {"type": "http", "url": url}}})
    # Header names come in any case, and lines of a head end with CR LF.
    take_session = f"| tr -d '\\r' | awk -F': ' 'tolower($1) == \"{SESSION.lower()}\" {{print $2}}')"
    return "\n".join(
        [
            "",
            f"mcpgate demo: two servers behind {url}",
            "  sums   speaks the handshake revisions, up to 2025-11-25   (tools: add, largest)",
            "  words  speaks 2026-07-28, without sessions                (tools: count, reverse)",
            "",
            "Call a tool without a session, as 2026-07-28 has it:",
            "",
            MODERN_CALL.curl(url),
            "",
            "Call a tool in a session, as 2025-11-25 has it:",
            "",
            f"SESSION=$({INITIALIZE.curl(url, '-D - -o /dev/null')} {take_session}",
            INITIALIZED.curl(url, session=True),
            LEGACY_CALL.curl(url, session=True),
            "",
            "Or let a client use it:",
            "",
            f"  {snippet}",
            "",
            "Ctrl-C ends it.",
            "",
        ]
    )


def check(address: Address) -> list[str]:
    """Perform what `lines_to_copy` prints; returns every difference."""
    differences: list[str] = []
    status, _, answer = _post(address, MODERN_CALL)
    differences += _compare(MODERN, status, answer, MODERN_CALL.text)
    status, session, answer = _post(address, INITIALIZE)
    version = (answer.get("result") or {}).get("protocolVersion")
    if status != 200 or version != LEGACY or not session:
        return [*differences, f"{LEGACY} initialize: status {status}, session {bool(session)}, {answer}"]
    status, _, _ = _post(address, INITIALIZED, session)
    if status != 202:
        differences.append(f"{LEGACY} initialized: status {status} instead of 202")
    status, _, answer = _post(address, LEGACY_CALL, session)
    return differences + _compare(LEGACY, status, answer, LEGACY_CALL.text)


def _compare(what: str, status: int, answer: dict[str, Any], text: str) -> list[str]:
    wanted = [{"type": "text", "text": text}]
    result = answer.get("result") or {}
    if status == 200 and result.get("content") == wanted and not result.get("isError"):
        return []
    return [f"{what} tools/call: expected {text!r}, got status {status} and {json.dumps(answer)}"]


def _post(address: Address, call: Call, session: str = "") -> tuple[int, str, dict[str, Any]]:
    """Status, session and message of one POST, whichever of its two forms the answer has."""
    connection = http.client.HTTPConnection(address.host, address.port, timeout=TIMEOUT_S)
    try:
        headers = call.all_headers() | ({SESSION: session} if session else {})
        connection.request("POST", PATH, json.dumps(call.body), headers)
        response = connection.getresponse()
        kind = response.getheader("Content-Type", "")
        text = response.read().decode()
    finally:
        connection.close()
    messages = [text]
    if kind.startswith("text/event-stream"):
        messages = [line[5:] for line in text.splitlines() if line.startswith("data:") and line[5:].strip()]
    answers = [json.loads(message) for message in messages if message.strip()]
    answer: dict[str, Any] = next((a for a in answers if a.get("id") == call.body.get("id")), {})
    return response.status, response.getheader(SESSION) or "", answer
