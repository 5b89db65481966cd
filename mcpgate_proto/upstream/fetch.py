"""Documents that mcpgate itself fetches over HTTP: keys, metadata, tokens.

Owns: `Fetcher`, one bounded request each: in size, in time, in number; whose URL and dialled address have
passed `security/egress.py`. Identical GETs that are under way are one.
Must never: follow a redirect, reuse a connection, dial an address that was not checked, or call back from
within.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from typing import Literal, TypeAlias

import msgspec

from mcpgate_proto.effects import Address, TlsOptions
from mcpgate_proto.hub import Hub
from mcpgate_proto.security.egress import Place, parse_url, permitted, reach
from mcpgate_proto.upstream.http_pool import (
    HttpConnection,
    HttpRequest,
    Origin,
    Ticket,
    base_headers,
    is_numeric,
)
from mcpgate_proto.wire.http1_grammar import Headers

__all__ = ["FetchFailed", "FetchRequest", "FetchResponse", "FetchResult", "Fetcher"]

_FIELD_NAME = re.compile(r"[!#$%&'*+.^`|~0-9A-Za-z-]+")
_FIELD_VALUE = re.compile(r"[ -~]*")


class FetchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request. `most_bytes` and `timeout_s` 0: as `limits.fetch_bytes` and `limits.fetch_timeout_s` say.

    `allow_loopback`: the place may be on this machine, then over plain http too. `allow_private`: it may be
    on the own network. Both are the operator's word, never a peer's.
    """

    method: Literal["GET", "POST"] = "GET"
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    most_bytes: int = 0
    timeout_s: float = 0.0
    allow_loopback: bool = False
    allow_private: bool = False
    ca_file: str | None = None


class FetchResponse(msgspec.Struct, frozen=True):
    """A whole response. The body is JSON by its content type, or empty (a success that is not JSON fails)."""

    status: int
    headers: Headers
    body: bytes


class FetchFailed(msgspec.Struct, frozen=True):
    """There is no response that may be used. `reason` is our own text, for the log; `status` that of a
    response which was refused for what it is, else 0."""

    reason: str
    status: int = 0


FetchResult: TypeAlias = FetchResponse | FetchFailed
Done: TypeAlias = Callable[[FetchResult], None]


class Fetcher:
    """Fetches for the whole gateway."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._running: dict[_Fetch, None] = {}
        self._waiting: deque[_Fetch] = deque()

    def fetch(self, request: FetchRequest, done: Done) -> None:
        """Fetch; `done` gets the response or why there is none, once, and never from within this call."""
        hub = self._hub
        if request.method == "GET":
            for other in (*self._running, *self._waiting):
                if other.request == request:
                    other.dones.append(done)
                    return
        place = parse_url(request.url, allow_loopback=request.allow_loopback)
        problem = place if isinstance(place, str) else _unfit(request)
        if not problem and len(self._waiting) >= hub.limits.fetches_waiting:
            problem = "too many documents are being fetched"
        if problem or isinstance(place, str):
            failed = FetchFailed(problem)
            hub.count("fetches_refused")
            hub.after(0.0, "fetch refused", lambda: done(failed))
            return
        self._waiting.append(_Fetch(self, hub, request, place, done))
        self._pump()

    def _pump(self) -> None:
        while self._waiting and len(self._running) < self._hub.limits.fetches:
            one = self._waiting.popleft()
            self._running[one] = None
            one.start()

    def over(self, fetch: _Fetch) -> None:
        self._running.pop(fetch, None)
        if fetch in self._waiting:
            self._waiting.remove(fetch)
        self._pump()

    def stop(self) -> None:
        """Give everything up; who waits hears it."""
        waiting, self._waiting = self._waiting, deque()
        for one in (*waiting, *list(self._running)):
            one.fail("stopped")


def _unfit(request: FetchRequest) -> str:
    for name, value in request.headers:
        if _FIELD_NAME.fullmatch(name) is None or _FIELD_VALUE.fullmatch(value) is None:
            return "a header that HTTP cannot carry"
    return ""


class _Fetch:
    """One request under way. Implements `http_pool.Owner` and `http_pool.Receiver`."""

    def __init__(self, fetcher: Fetcher, hub: Hub, request: FetchRequest, place: Place, done: Done) -> None:
        self.hub = hub
        self.request = request
        self.dones = [done]
        self.tls = TlsOptions(server_name=place.host, ca_file=request.ca_file) if place.tls else None
        self._fetcher = fetcher
        self._place = place
        self._most = request.most_bytes or hub.limits.fetch_bytes
        self._status = 0
        self._headers = Headers()
        self._wanted = False
        self._body: list[bytes] = []
        self._size = 0
        self._over = False
        origin = Origin(place.tls, place.host, place.port, place.target)
        headers = [*base_headers(hub, origin), *request.headers]
        if not any(name.lower() == "accept" for name, _ in headers):
            headers.append(("Accept", "application/json"))
        sent = HttpRequest(request.method, place.target, headers, request.body, pinned=True)
        self._ticket = Ticket(self, self, sent)
        # The time in the queue counts: who asked waits for it too.
        wait_s = request.timeout_s or hub.limits.fetch_timeout_s
        self._timer = hub.after(wait_s, "fetch", lambda: self.fail("no answer in time"))

    def start(self) -> None:
        host = self._place.host
        if is_numeric(host):
            # Never from within: a refusal of the address would call back at once.
            self.hub.after(0.0, "fetch", lambda: self._resolved([Address(host=host)], ""))
        else:
            self.hub.resolve(host, self._resolved)

    def _resolved(self, found: list[Address] | None, reason: str) -> None:
        if self._over:
            return
        if not found:
            return self.fail(f"cannot find its host: {reason or 'no address'}")
        asked = self.request
        kinds = reach(
            tls=self._place.tls, allow_loopback=asked.allow_loopback, allow_private=asked.allow_private
        )
        allowed = permitted(found, kinds)
        if not allowed:
            self.hub.count("fetches_refused")
            return self.fail("its host leads to an address that may not be dialled")
        port = self._place.port
        HttpConnection(self, self._ticket, [Address(host=one.host, port=port) for one in allowed])

    # -- Owner

    def freed(self, connection: HttpConnection) -> None:
        """It was for this one request."""

    def abandoned(self, ticket: Ticket) -> None:
        if ticket.connection is not None and ticket.connection.ticket is ticket:
            ticket.connection.close()

    # -- Receiver

    def response_head(self, status: int, headers: Headers) -> None:
        if 300 <= status < 400:
            # A redirect leads to where nobody has checked; with a secret in the body, out of the house.
            return self.fail(f"HTTP {status}: redirects are not followed", status)
        self._status = status
        self._headers = headers
        media = headers.media_type
        self._wanted = media == "application/json" or (
            media.startswith("application/") and media.endswith("+json")
        )
        if not self._wanted and 200 <= status < 300 and status != 204:
            self.fail(f"HTTP {status} with a content type that is not JSON", status)

    def response_data(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._most:
            return self.fail(f"its answer is larger than {self._most} bytes")
        if self._wanted:
            self._body.append(data)

    def response_end(self) -> None:
        self._finish(FetchResponse(self._status, self._headers, b"".join(self._body)))

    def response_failed(self, sent: bool, reason: str) -> None:
        self._finish(FetchFailed(reason))

    # -- the end

    def fail(self, reason: str, status: int = 0) -> None:
        self._ticket.abandon()
        self._finish(FetchFailed(reason, status))

    def _finish(self, result: FetchResult) -> None:
        if self._over:
            return
        self._over = True
        self._timer.cancel()
        self._fetcher.over(self)
        for done in self.dones:
            done(result)
