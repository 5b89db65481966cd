"""HTTP by hand, for what an SDK's client would never send.

Owns: one exchange at a time on the standard library's client, event streams read as they come, and sessions.
Must never: mend what a test wants broken.
"""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import dataclass, field
from typing import Any

from e2e.harness import LEGACY, META, MODERN, WAIT_S

BOTH = "application/json, text/event-stream"
JSON = {"Content-Type": "application/json", "Accept": BOTH}
NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}


@dataclass
class Answer:
    """A whole response."""

    status: int
    headers: dict[str, str]
    body: bytes
    messages: list[Any] = field(default_factory=list)

    @property
    def message(self) -> Any:
        """The one message of the response."""
        assert len(self.messages) == 1, self
        return self.messages[0]

    @property
    def error(self) -> int:
        """The code of its error."""
        return int(self.message["error"]["code"])


def message(method: str, number: Any = 1, **params: Any) -> dict[str, Any]:
    """A request; a notification if `number` is None."""
    found: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if number is not None:
        found["id"] = number
    if params:
        found["params"] = params
    return found


def modern(
    method: str, number: Any = 1, features: dict[str, Any] | None = None, **params: Any
) -> tuple[dict[str, Any], dict[str, str]]:
    """A modern request and the headers that mirror it."""
    meta = {**META, "io.modelcontextprotocol/clientCapabilities": features or {}, **params.pop("_meta", {})}
    headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": method}
    if method in NAMED:
        headers["Mcp-Name"] = params[NAMED[method]]
    return message(method, number, **params, _meta=meta), headers


class Stream:
    """An event stream, read while it lasts."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self.connection = connection
        self.response = response
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.ids: list[str] = []
        self.messages: list[Any] = []

    def next(self) -> Any:
        """The next message; None at the end. Comments and priming events are passed over."""
        data: list[str] = []
        while line := self.response.readline():
            text = line.decode().rstrip("\r\n")
            if text.startswith("data:"):
                data.append(text[5:].removeprefix(" "))
            elif text.startswith("id:"):
                self.ids.append(text[3:].strip())
            elif not text and "".join(data):
                self.messages.append(json.loads("\n".join(data)))
                return self.messages[-1]
            elif not text:
                data = []
        return None

    def until(self, method: str) -> Any:
        """The next message with this method."""
        while (found := self.next()) is not None:
            if found.get("method") == method:
                return found
        raise AssertionError(f"the stream ended without {method}: {self.messages}")

    def answer(self, number: Any) -> Any:
        """The response to this request."""
        while (found := self.next()) is not None:
            if found.get("id") == number and "method" not in found:
                return found
        raise AssertionError(f"the stream ended without an answer to {number!r}: {self.messages}")

    def close(self) -> None:
        self.response.close()
        self.connection.close()


class Http:
    """Requests to one gateway; a connection for each, so that nothing is shared by accident."""

    def __init__(self, port: int, path: str = "/mcp") -> None:
        self.port = port
        self.path = path

    def open(
        self, verb: str, body: Any = None, headers: dict[str, str] | None = None, path: str | None = None
    ) -> Stream:
        """Send a request; the response is read up to the end of its head."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent = {**(JSON if verb == "POST" else {"Accept": "text/event-stream"}), **(headers or {})}
        connection.request(verb, path or self.path, data, sent)
        return Stream(connection, connection.getresponse())

    def request(
        self, verb: str, body: Any = None, headers: dict[str, str] | None = None, path: str | None = None
    ) -> Answer:
        """Send a request and read the whole response."""
        stream = self.open(verb, body, headers, path)
        try:
            kind = stream.headers.get("content-type", "")
            if kind.startswith("text/event-stream"):
                while stream.next() is not None:
                    pass
                return Answer(stream.status, stream.headers, b"", stream.messages)
            data = stream.response.read()
            found = json.loads(data) if data and kind.startswith("application/json") else []
            return Answer(stream.status, stream.headers, data, found if isinstance(found, list) else [found])
        finally:
            stream.close()

    def post(self, body: Any, headers: dict[str, str] | None = None) -> Answer:
        return self.request("POST", body, headers)

    def modern(self, method: str, number: Any = 1, **params: Any) -> Answer:
        return self.post(*modern(method, number, **params))

    def raw(self, data: bytes, half_close: bool = True) -> bytes:
        """Bytes as they are; all that comes back until the other side closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S) as sock:
            sock.sendall(data)
            if half_close:
                sock.shutdown(socket.SHUT_WR)
            found = b""
            while part := sock.recv(65536):
                found += part
            return found


class Session:
    """A legacy session, opened here."""

    def __init__(
        self,
        http_: Http,
        revision: str = LEGACY,
        capabilities: dict[str, Any] | None = None,
        name: str = "test",
    ) -> None:
        self.http = http_
        self.revision = revision
        params = {
            "protocolVersion": revision,
            "capabilities": capabilities or {},
            "clientInfo": {"name": name, "version": "1"},
        }
        opened = http_.post(message("initialize", "open", **params))
        assert opened.status == 200, opened
        self.result = opened.message["result"]
        self.id = opened.headers["mcp-session-id"]
        self.headers = {"Mcp-Session-Id": self.id, "MCP-Protocol-Version": revision}
        assert self.post(message("notifications/initialized", None)).status == 202

    def post(self, body: Any, **headers: str) -> Answer:
        return self.http.post(body, {**self.headers, **headers})

    def stream(self, body: Any) -> Stream:
        return self.http.open("POST", body, self.headers)

    def listen(self, last: str = "") -> Stream:
        more = {"Last-Event-ID": last} if last else {}
        return self.http.open("GET", None, {**self.headers, **more})

    def delete(self) -> Answer:
        return self.http.request("DELETE", None, self.headers)

    def call(self, name: str, number: Any = 1, **arguments: Any) -> str:
        """Call a tool; the text of its result."""
        answer = self.post(message("tools/call", number, name=name, arguments=arguments))
        return str(answer.messages[-1]["result"]["content"][0]["text"])
