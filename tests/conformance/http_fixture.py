"""The suite's stdio fixture behind Streamable HTTP, on the standard library: an upstream that is not mcpgate.

    http_fixture.py PATH_OF_THE_STDIO_FIXTURE --era dual|legacy|modern

Prints {"ready": PORT}. Owns: sessions of the old era (each with a fixture of its own), mirrored headers and
statuses of the new one, JSON or an event stream for each POST.
Must never: import mcpgate, or change what the fixture says.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import select
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MODERN = "2026-07-28"
PREFIX = "io.modelcontextprotocol/"
NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
# C12, C14: the statuses of the new era; all else is 200.
STATUSES = {-32601: 404, -32020: 400, -32021: 400, -32022: 400}
Message = dict[str, Any]

source, _, era = sys.argv[1:4]
# The fixture without its loop over stdin.
CODE = compile(Path(source).read_text().partition("\nfor line in sys.stdin:")[0], source, "exec")
here = threading.local()
sessions: dict[str, Message] = {}
numbers = itertools.count(1)
# Streams of `subscriptions/listen`, by the id that every message on them carries.
listens: dict[str, Reply] = {}


def fixture() -> Message:
    """Another fixture, whose messages go where the thread that sends them is at work."""
    made: Message = {"__name__": "fixture"}
    exec(CODE, made)
    made["send"] = send
    return made


def send(message: Message) -> None:
    meta = (message.get("params") or {}).get("_meta") or {}
    found = listens.get(json.dumps(meta.get(PREFIX + "subscriptionId")))
    (found or here.reply).send({"jsonrpc": "2.0", **message})


class Reply:
    """The response to one POST: JSON if the answer is all there is, else an event stream."""

    def __init__(self, handler: Handler, id: Any, headers: dict[str, str], modern: bool) -> None:
        self.handler = handler
        self.id = id
        self.headers = headers
        self.modern = modern
        self.begun = False
        self.lock = threading.Lock()

    def send(self, message: Message) -> None:
        final = "method" not in message and message.get("id") == self.id
        with self.lock, contextlib.suppress(OSError):
            if final and not self.begun:
                code = message.get("error", {}).get("code")
                self.handler.tell(STATUSES.get(code, 200) if self.modern else 200, message, self.headers)
                return
            if not self.begun:
                self.begun = True
                more = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
                self.handler.head(200, {**more, **self.headers})
            event = b"data: " + json.dumps(message).encode() + b"\n\n"
            self.handler.wfile.write(b"%x\r\n%s\r\n" % (len(event), event) + (b"0\r\n\r\n" if final else b""))

    def stay(self) -> None:
        """Until the client goes."""
        select.select([self.handler.connection], [], [])
        self.handler.close_connection = True


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body go out in different writes.
    disable_nagle_algorithm = True

    def log_message(self, *args: Any) -> None:
        pass

    def head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def tell(
        self, status: int, message: Message | None = None, headers: dict[str, str] | None = None
    ) -> None:
        body = json.dumps(message).encode() if message is not None else b""
        kind = {"Content-Type": "application/json"} if body else {}
        self.head(status, {**kind, **(headers or {}), "Content-Length": str(len(body))})
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.tell(405)

    def do_DELETE(self) -> None:
        known = sessions.pop(self.headers.get("Mcp-Session-Id", ""), None)
        self.tell(204 if known is not None else 404)

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        meta = (message.get("params") or {}).get("_meta") or {}
        modern = PREFIX + "protocolVersion" in meta
        if modern and era != "legacy":
            self.new_era(message)
        elif era == "modern":
            self.tell(400, self.refusal(message))
        else:
            self.old_era(message)

    def refusal(self, message: Message) -> Message:
        """What the fixture says to a message without the metadata of the new era."""
        told: list[Message] = []
        here.reply = type("Reply", (), {"send": staticmethod(told.append)})
        modern["serve"](modern["Ctx"](message))
        return told[0]

    def new_era(self, message: Message) -> None:
        if "id" not in message:
            self.tell(202)
            return
        params = message["params"]
        expected = {"Mcp-Method": message["method"]}
        if message["method"] in NAMED:
            expected["Mcp-Name"] = params[NAMED[message["method"]]]
        wrong = [name for name, value in expected.items() if self.headers.get(name) != value]
        if wrong or self.headers.get("MCP-Protocol-Version") != params["_meta"][PREFIX + "protocolVersion"]:
            error = {"code": -32020, "message": f"headers differ from the body: {wrong}"}
            self.tell(400, {"jsonrpc": "2.0", "id": message["id"], "error": error})
            return
        here.reply = reply = Reply(self, message["id"], {}, True)
        if message["method"] != "subscriptions/listen":
            modern["serve"](modern["Ctx"](message))
            return
        listens[json.dumps(message["id"])] = reply
        modern["serve"](modern["Ctx"](message))
        reply.stay()
        modern["subs"].pop(message["id"], None)
        listens.pop(json.dumps(message["id"]), None)

    def old_era(self, message: Message) -> None:
        id = self.headers.get("Mcp-Session-Id")
        if id is None:
            if message.get("method") != "initialize":
                self.tell(400)
                return
            id = f"session-{next(numbers)}"
            sessions[id] = fixture()
            here.reply = Reply(self, message["id"], {"Mcp-Session-Id": id}, False)
            sessions[id]["serve"](sessions[id]["Ctx"](message))
            return
        session = sessions.get(id)
        if session is None:
            self.tell(404)
        elif "method" not in message:
            waiting = session["pending"].pop(message["id"], None)
            if waiting is not None:
                waiting.put(message)
            self.tell(202)
        elif "id" not in message:
            self.tell(202)
        else:
            here.reply = Reply(self, message["id"], {}, False)
            session["serve"](session["Ctx"](message))


modern = fixture()
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
print(json.dumps({"ready": server.server_address[1]}), flush=True)
server.serve_forever()
