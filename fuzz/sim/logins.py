"""What logins need of the world: an authorization server, a browser with a person, a store that several
gateways share, and a server that wants tokens.

Owns: these models, written apart from the gateway's own OAuth; each can be made to misbehave.
Must never: be lenient: a request that breaks a rule of OAuth 2.1 or of MCP is noted in `problems`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlencode, urlsplit

from fuzz.sim import http
from fuzz.sim.servers import HttpConn, ServerModel
from fuzz.sim.streams import Stream
from mcpgate_proto import effects as fx

if TYPE_CHECKING:
    from fuzz.sim.world import World

__all__ = ["AuthServer", "Browser", "Guard", "Issued", "Store"]

Json = dict[str, Any]


@dataclass
class Issued:
    """One access token and what it is good for."""

    access: str
    client: str
    resource: str
    scopes: tuple[str, ...]
    until: float
    refresh: str = ""
    subject: str = ""


@dataclass
class _Grant:
    """A code that was given out."""

    client: str
    redirect_uri: str
    challenge: str
    resource: str
    scopes: tuple[str, ...]
    subject: str


class AuthServer:
    """One authorization server, at `address`. Misbehaviour by plain attributes; `metadata` overrides members
    of its document (None: left out)."""

    def __init__(self, world: World, issuer: str, address: str) -> None:
        self.world = world
        self.issuer = issuer
        parts = urlsplit(issuer)
        self.path = parts.path.rstrip("/")
        self.base = f"{parts.scheme}://{parts.netloc}"
        port = parts.port or (443 if parts.scheme == "https" else 80)
        world.net.services[address, port] = lambda: _AuthConn(self)
        if parts.hostname and not parts.hostname.replace(".", "").isdigit():
            world.net.names[parts.hostname] = [address]
        self.metadata: Json = {}
        self.documents: list[str] | None = None  # paths of metadata that exist; None: RFC 8414's
        self.answers: dict[str, Callable[[Json], tuple[str, Json] | bytes]] = {}  # by path: token, register
        self.silent: dict[str, None] = {}  # paths that are never answered
        self.life_s: float | None = 3600.0
        self.refreshes = True
        self.rotates = True
        self.iss: str | None = "own"  # what the redirect carries
        self.state: str | None = None  # in place of the right one
        self.denies = ""
        self.grants_only: tuple[str, ...] | None = None
        self.clients: dict[str, Json] = {}
        self.tokens: dict[str, Issued] = {}
        self.refresh: dict[str, Issued] = {}
        self.spent: dict[str, None] = {}  # refresh tokens that were good once
        self.codes: dict[str, _Grant] = {}
        self.requests: list[tuple[str, str, Json]] = []  # method, path, form or document
        self.problems: list[str] = []
        self._serial = 0

    # -- what it knows

    def known(self, id: str, secret: str = "", **more: Any) -> None:
        """A client that somebody registered by hand."""
        self.clients[id] = {"client_secret": secret, **more}

    def asked(self, path: str) -> list[Json]:
        return [form for _, asked, form in self.requests if asked == path]

    def serial(self, what: str) -> str:
        self._serial += 1
        return f"{what}-{self._serial}-{urlsplit(self.issuer).hostname}"

    def document(self) -> Json:
        base = f"{self.base}{self.path}"
        told: Json = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{base}/authorize",
            "token_endpoint": f"{base}/token",
            "registration_endpoint": f"{base}/register",
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none", "client_secret_basic", "client_secret_post"],
            "authorization_response_iss_parameter_supported": True,
        } | self.metadata
        return {name: value for name, value in told.items() if value is not None}

    # -- the browser's side

    def authorize(self, url: str, subject: str) -> str:
        """A person with a browser follows `url` and agrees (or not): where the browser is sent."""
        asked = dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))
        self.requests.append(("GET", "/authorize", asked))
        for name in ("client_id", "redirect_uri", "state", "code_challenge", "resource"):
            if not asked.get(name):
                self.problems.append(f"authorization request without {name}")
        if asked.get("code_challenge_method") != "S256" or asked.get("response_type") != "code":
            self.problems.append("authorization request without PKCE S256 or response_type code")
        if len(asked.get("state", "")) < 22:
            self.problems.append("a state that can be guessed")
        client = self.clients.get(asked.get("client_id", ""))
        if client is None and not asked.get("client_id", "").startswith("https://"):
            self.problems.append("authorization request of an unknown client")
        if client is not None and "redirect_uris" in client:
            if asked["redirect_uri"] not in client["redirect_uris"]:
                self.problems.append("redirect_uri was not registered")
        answer: Json = {"state": asked["state"] if self.state is None else self.state}
        if self.iss is not None:
            answer["iss"] = self.issuer if self.iss == "own" else self.iss
        if self.denies:
            answer["error"] = self.denies
            answer["error_description"] = "<script>alert(1)</script>"
        else:
            code = answer["code"] = self.serial("code")
            scopes = tuple(asked.get("scope", "").split())
            self.codes[code] = _Grant(
                asked["client_id"],
                asked["redirect_uri"],
                asked["code_challenge"],
                asked["resource"],
                scopes,
                subject,
            )
        return f"{asked['redirect_uri']}?{urlencode(answer)}"

    # -- its endpoints

    def answer(
        self, method: str, target: str, headers: http.Headers, body: bytes
    ) -> tuple[str, Json] | bytes:
        parts = urlsplit(target)
        path = parts.path
        if path in (self.documents if self.documents is not None else self._documents()):
            self.requests.append((method, path, {}))
            own = self.answers.get("metadata")
            return own({}) if own is not None else ("200 OK", self.document())
        own_path = path.removeprefix(self.path)
        if own_path == "/token" and method == "POST":
            form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
            self.requests.append((method, own_path, form))
            own = self.answers.get("token")
            return own(form) if own is not None else self._token(form, headers)
        if own_path == "/register" and method == "POST":
            document = json.loads(body)
            self.requests.append((method, own_path, document))
            own = self.answers.get("register")
            return own(document) if own is not None else self._register(document)
        self.requests.append((method, path, {}))
        return "404 Not Found", {}

    def _documents(self) -> list[str]:
        return [f"/.well-known/oauth-authorization-server{self.path}"]

    def _register(self, asked: Json) -> tuple[str, Json]:
        if asked.get("application_type") != "native" or not asked.get("redirect_uris"):
            self.problems.append("registration that is not native or has no redirect_uris")
        id = self.serial("client")
        told: Json = {"client_id": id, "token_endpoint_auth_method": asked["token_endpoint_auth_method"]}
        if told["token_endpoint_auth_method"] != "none":
            told["client_secret"] = self.serial("secret")
        self.clients[id] = {**asked, **told}
        return "201 Created", told

    def _client_of(self, form: Json, headers: http.Headers) -> str | None:
        """Who the client is, if it has proved it."""
        told = headers.get("authorization", "")
        if told.startswith("Basic "):
            id, _, secret = base64.b64decode(told[6:]).decode().partition(":")
            id, secret = unquote(id), unquote(secret)
            method = "client_secret_basic"
        else:
            id, secret = form.get("client_id", ""), form.get("client_secret", "")
            method = "client_secret_post" if secret else "none"
        client = self.clients.get(id)
        if client is None:
            return id if id.startswith("https://") and not secret else None
        wanted = client.get("token_endpoint_auth_method", method if client.get("client_secret") else "none")
        return id if client.get("client_secret", "") == secret and method == wanted else None

    def _token(self, form: Json, headers: http.Headers) -> tuple[str, Json]:
        client = self._client_of(form, headers)
        if client is None:
            return "401 Unauthorized", {"error": "invalid_client"}
        if not form.get("resource"):
            self.problems.append("token request without resource")
        kind = form.get("grant_type")
        if kind == "authorization_code":
            return self._by_code(form, client)
        if kind == "refresh_token":
            return self._by_refresh(form, client)
        if kind == "client_credentials" and self.clients[client].get("client_secret"):
            return self._issue(
                client, form["resource"], tuple(form.get("scope", "").split()), "service", False
            )
        return "400 Bad Request", {"error": "unsupported_grant_type"}

    def _by_code(self, form: Json, client: str) -> tuple[str, Json]:
        grant = self.codes.pop(form.get("code", ""), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if grant is None or grant.client != client or grant.challenge != challenge:
            self.problems.append("a code that is not good, or not this client's, or without its verifier")
            return "400 Bad Request", {"error": "invalid_grant"}
        if grant.redirect_uri != form.get("redirect_uri") or grant.resource != form.get("resource"):
            self.problems.append("redirect_uri or resource is not that of the authorization request")
            return "400 Bad Request", {"error": "invalid_grant"}
        return self._issue(client, grant.resource, grant.scopes, grant.subject, self.refreshes)

    def _by_refresh(self, form: Json, client: str) -> tuple[str, Json]:
        told = form.get("refresh_token", "")
        if told in self.spent:
            self.problems.append("a refresh token that was used up")
        old = self.refresh.get(told)
        if old is None or old.client != client:
            return "400 Bad Request", {"error": "invalid_grant"}
        if self.rotates:
            del self.refresh[told]
            self.spent[told] = None
        if form.get("resource") != old.resource:
            self.problems.append("refresh for another resource")
        return self._issue(client, old.resource, old.scopes, old.subject, self.rotates)

    def _issue(
        self, client: str, resource: str, scopes: tuple[str, ...], subject: str, refresh: bool
    ) -> tuple[str, Json]:
        if self.grants_only is not None:
            scopes = tuple(one for one in scopes if one in self.grants_only)
        lasts = self.life_s if self.life_s is not None else 1e12
        made = Issued(self.serial("token"), client, resource, scopes, self.world.now + lasts, subject=subject)
        self.tokens[made.access] = made
        told: Json = {"access_token": made.access, "token_type": "Bearer", "scope": " ".join(scopes)}
        if self.life_s is not None:
            told["expires_in"] = self.life_s
        if refresh:
            told["refresh_token"] = made.refresh = self.serial("refresh")
            self.refresh[made.refresh] = made
        return "200 OK", told

    def revoke(self) -> None:
        """Every access token is void from now on."""
        self.tokens.clear()


class _Peer:
    """What the network calls of a connection with HTTP on it, which `_reader` reads."""

    stream: Stream
    _reader: http.MessageReader

    def opened(self) -> None:
        pass

    def data(self, data: bytes) -> None:
        self._reader.feed(data)

    def eof(self) -> None:
        self.stream.close()

    def gone(self) -> None:
        pass


class _AuthConn(_Peer):
    """One connection to it."""

    def __init__(self, server: AuthServer) -> None:
        self._server = server
        self._reader = http.MessageReader(self._opened, self._body, self._ended, requests=True)
        self._start = ""
        self._headers: http.Headers = {}
        self._parts: list[bytes] = []

    def _opened(self, start: str, headers: http.Headers) -> None:
        self._start, self._headers, self._parts = start, headers, []

    def _body(self, data: bytes) -> None:
        self._parts.append(data)

    def _ended(self) -> None:
        method, target = self._start.split(" ")[:2]
        if urlsplit(target).path.removeprefix(self._server.path) in self._server.silent:
            return
        answer = self._server.answer(method, target, self._headers, b"".join(self._parts))
        if isinstance(answer, bytes):
            self.stream.send(answer)
            return
        status, told = answer
        headers = [("Content-Type", "application/json")]
        self.stream.send(http.head(f"HTTP/1.1 {status}", headers, json.dumps(told).encode()))


# -- the server that wants tokens


@dataclass
class Guard:
    """What a server wants of its clients. `needs`: the scopes of each method, "" for all others."""

    model: ServerModel
    auth: list[AuthServer]
    url: str
    challenge: str = "Bearer"
    named: bool = True  # the challenge names the metadata, where there is any
    needs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    metadata: Json = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    tells_scope: bool = True
    refused: int = 0
    seen: list[str] = field(default_factory=list)
    # Method by method: as whom it was called.
    subjects: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.paths:
            self.paths = [f"/.well-known/oauth-protected-resource{urlsplit(self.url).path.rstrip('/')}"]

    def place(self, host: str, port: int) -> None:
        self.model.world.net.services[host, port] = lambda: _GuardedConn(self)

    def document(self) -> Json:
        told: Json = {
            "resource": self.url,
            "authorization_servers": [one.issuer for one in self.auth],
        } | self.metadata
        return {name: value for name, value in told.items() if value is not None}

    def judge(self, headers: http.Headers, method: str) -> tuple[str, str] | None:
        """Why not, as status and challenge."""
        told = headers.get("authorization", "")
        token = told.removeprefix("Bearer ")
        if told and not told.startswith("Bearer "):
            self.problems.append("a credential that is no bearer token")
        if token:
            self.seen.append(token)
        parts = urlsplit(self.url)
        place = f', resource_metadata="{parts.scheme}://{parts.netloc}{self.paths[0]}"' if self.named else ""
        needs = self.needs.get(method, self.needs.get("", ()))
        wanted = f', scope="{" ".join(needs)}"' if needs and self.tells_scope else ""
        for auth in self.auth:
            issued = auth.tokens.get(token)
            if issued is None or issued.until <= self.model.world.now:
                continue
            if issued.resource.rstrip("/") not in (self.url.rstrip("/"), self.url.removesuffix("/mcp")):
                self.problems.append(f"a token for {issued.resource}")
            if not set(needs) <= set(issued.scopes):
                return "403 Forbidden", f'{self.challenge} error="insufficient_scope"{wanted}{place}'
            self.subjects.append((method, issued.subject))
            return None
        return "401 Unauthorized", f"{self.challenge} realm=mcp{wanted}{place}"


class _GuardedConn(HttpConn):
    def __init__(self, guard: Guard) -> None:
        super().__init__(guard.model)
        self._guard = guard

    def _ended(self) -> None:
        guard = self._guard
        if self._method == "GET" and self._path.startswith("/.well-known/"):
            found = self._path in guard.paths
            body = json.dumps(guard.document()).encode() if found else b""
            headers = [("Content-Type", "application/json")]
            self._write(http.head(f"HTTP/1.1 {'200 OK' if found else '404 Not Found'}", headers, body))
            return
        body = b"".join(self._parts)
        message = json.loads(body) if body else {}
        no = guard.judge(self._headers, message.get("method", self._method))
        if no is None:
            super()._ended()
            return
        guard.refused += 1
        status, challenge = no
        self._write(http.head(f"HTTP/1.1 {status}", [("WWW-Authenticate", challenge)], b""))


# -- the person, and the disk


class Browser:
    """Follows what is shown to it, after `delay_s`, as `subject`; None: nobody looks."""

    def __init__(self, world: World, *auth: AuthServer) -> None:
        self.world = world
        self.auth = list(auth)
        self.subject: str | None = "ada"
        self.delay_s = 5.0
        self.shown: list[str] = []
        self.pages: list[_Page] = []

    def show(self, effect: fx.Browse) -> None:
        self.shown.append(effect.url)
        if self.subject is not None:
            self.world.after(self.delay_s, lambda: self.follow(effect.url))

    def follow(self, url: str) -> None:
        server = next(one for one in self.auth if url.startswith(f"{one.base}{one.path}/authorize?"))
        self.visit(server.authorize(url, self.subject or "nobody"))

    def visit(self, url: str, **headers: str) -> _Page:
        """Open a page of the gateway."""
        parts = urlsplit(url)
        page = _Page(f"{parts.path}?{parts.query}", headers.pop("host", parts.netloc), headers)
        self.pages.append(page)
        net = self.world.net
        page.connected = net.connect(net.ports.get(parts.port or 0, ""), page)
        return page


class _Page(_Peer):
    """One request of the browser and what it got."""

    def __init__(self, target: str, host: str, headers: dict[str, str]) -> None:
        self.connected = False
        self.status = 0
        self.headers: http.Headers = {}
        self.text = ""
        self._request = [("Host", host), *headers.items()]
        self._target = target
        self._reader = http.MessageReader(self._opened, self._body, lambda: None, requests=False)

    def opened(self) -> None:
        self.stream.send(http.head(f"GET {self._target} HTTP/1.1", self._request, None))

    def _opened(self, start: str, headers: http.Headers) -> None:
        self.status, self.headers = int(start.split(" ")[1]), headers

    def _body(self, data: bytes) -> None:
        self.text += data.decode()


class Store:
    """Records on disk, and their locks, which other processes may hold."""

    def __init__(self, world: World, records: dict[str, bytes] | None = None) -> None:
        self.world = world
        self.records: dict[str, bytes] = {} if records is None else records
        self.works = True
        # Names that another process has locked; "*" stands for all.
        self.held_elsewhere: dict[str, None] = {}
        self._waiting: dict[str, None] = {}
        self._mine: dict[str, None] = {}
        self.log: list[str] = []

    def perform(self, effect: fx.Effect, browser: Browser | None = None) -> None:
        if isinstance(effect, fx.Browse):
            if browser is not None:
                browser.show(effect)
        elif isinstance(effect, fx.Claim):
            assert effect.name not in self._waiting and effect.name not in self._mine, "claimed twice"
            self._waiting[effect.name] = None
            self._offer(effect.name)
        elif isinstance(effect, fx.Keep):
            assert effect.name in self._mine, "kept without a claim"
            self.log.append("keep")
            self.records[effect.name] = effect.data
        elif isinstance(effect, fx.Release):
            if self._waiting.pop(effect.name, self) is self:
                assert effect.name in self._mine, "released without a claim"
                del self._mine[effect.name]

    def _offer(self, name: str) -> None:
        def answer() -> None:
            if name not in self._waiting or self._elsewhere(name):
                return
            del self._waiting[name]
            self._mine[name] = None
            self.world.feed("claimed", name, self.records.get(name, b"") if self.works else None)

        self.world.after(0.001, answer)

    def _elsewhere(self, name: str) -> bool:
        return name in self.held_elsewhere or "*" in self.held_elsewhere

    def let_go(self) -> None:
        """The other process is done."""
        self.held_elsewhere.clear()
        for name in list(self._waiting):
            self._offer(name)

    @property
    def locked(self) -> list[str]:
        return list(self._mine)
