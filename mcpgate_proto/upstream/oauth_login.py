"""One login with a browser: authorization code with PKCE, back to a loopback listener (RFC 8252).

    listen     where the browser comes back to
    register   configured, kept from before, or dynamic (J14)
    browse     the URL is shown; from here on it takes a person
    answer     state and issuer are checked (J13), the code is changed into tokens

Owns: this one attempt, its time limit, the page that the browser sees in the end.
Must never: accept an answer that does not carry its state, or send a code to another issuer's endpoint.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from mcpgate_proto.config import OAuthConfig
from mcpgate_proto.effects import Address
from mcpgate_proto.hub import Hub
from mcpgate_proto.security.egress import Place, parse_url
from mcpgate_proto.timers import Timer
from mcpgate_proto.upstream import oauth
from mcpgate_proto.upstream.desk import Callback, Desk, Respond
from mcpgate_proto.upstream.oauth_discovery import Found
from mcpgate_proto.upstream.oauth_tokens import Denial, Tokens, configured

__all__ = ["CALLBACK_PATH", "NOBODY", "Granted", "Login", "impossible"]

CALLBACK_PATH = "/callback"
# The `code` of a denial: there was no answer at all.
NOBODY = "nobody"


class Granted(msgspec.Struct, frozen=True):
    """A login that worked: as which client, and what came of it."""

    client: oauth.Registration
    token: oauth.Token


def impossible(found: Found) -> str:
    """Why nobody can log in there, or nothing (J13: without PKCE it is refused)."""
    if not found.server.authorization_endpoint:
        return "its authorization server has no authorization_endpoint"
    if not found.server.pkce:
        return "its authorization server does not say that it supports PKCE with S256"
    return ""


class Login:
    """`done` gets what came of it, once and not from within; `known` is a client that was registered with
    this issuer before."""

    def __init__(
        self,
        hub: Hub,
        desk: Desk,
        tokens: Tokens,
        found: Found,
        *,
        server: str,
        wants: OAuthConfig,
        scopes: tuple[str, ...],
        known: oauth.Registration | None,
        done: Callable[[Granted | Denial], None],
    ) -> None:
        self._hub = hub
        self._desk = desk
        self._tokens = tokens
        self._found = found
        self._server = server
        self._wants = wants
        self._scopes = scopes
        self._known = known
        self._done: Callable[[Granted | Denial], None] | None = done
        self._callback: Callback | None = None
        self._client = oauth.Registration("")
        self._request: oauth.Authorization | None = None
        self._respond: Respond | None = None
        self._timer: Timer | None = None

    def start(self) -> None:
        self._timer = self._hub.after(self._hub.limits.login_timeout_s, "login", self._late)
        self._listen(self._wants.callback_port or self._port_before())

    def _late(self) -> None:
        self._timer = None
        self._fail(Denial("nobody logged in in time", code=NOBODY))

    def _port_before(self) -> int:
        """Not every authorization server lets the port differ, as RFC 8252 section 7.3 wants it. 0: any."""
        place = parse_url(self._known.redirect_uri, allow_loopback=True) if self._known is not None else None
        return place.port if isinstance(place, Place) else 0

    # -- listen

    def _listen(self, port: int) -> None:
        self._callback = self._desk.listen(port, lambda address: self._opened(port, address), self._answered)

    def _opened(self, port: int, address: Address | None) -> None:
        if self._done is None:
            return
        if address is not None:
            self._register(f"http://{address.host}:{address.port}{CALLBACK_PATH}")
            return
        self._callback = None
        if port and not self._wants.callback_port:
            self._listen(0)
        else:
            self._fail(Denial("there is no port for the browser to come back to"))

    # -- register

    def _register(self, redirect_uri: str) -> None:
        server = self._found.server
        client = configured(self._wants, server)
        known = self._known
        if client is None and known is not None and known.redirect_uri == redirect_uri:
            client = known
        if client is not None:
            self._browse(msgspec.structs.replace(client, redirect_uri=redirect_uri))
        elif server.registration_endpoint:
            self._tokens.register(self._found, redirect_uri, self._scopes, self._registered)
        else:
            self._fail(Denial("its authorization server registers nobody: set oauth.client_id", True))

    def _registered(self, result: oauth.Registration | Denial) -> None:
        if self._done is None:
            return
        if isinstance(result, Denial):
            self._fail(result)
        else:
            self._browse(result)

    # -- browse

    def _browse(self, client: oauth.Registration) -> None:
        server = self._found.server
        self._client = client
        self._request = oauth.Authorization(
            issuer=server.issuer,
            tells_iss=server.tells_iss,
            state=self._hub.entropy.token(256),
            # RFC 7636 section 4.1: 43 to 128 characters.
            verifier=self._hub.entropy.token(384),
            redirect_uri=client.redirect_uri,
        )
        url = oauth.authorization_url(
            server,
            self._request,
            client_id=client.client_id,
            resource=self._found.resource,
            scopes=self._scopes,
        )
        self._hub.emit("notice", "login_wanted", server=self._server, issuer=server.issuer)
        if not self._desk.browse(self._server, url):
            self._fail(Denial("its authorization server's URL cannot be shown", True))

    # -- answer

    def _answered(self, query: str, respond: Respond) -> bool:
        """The browser came back. False: that was not the answer to this request."""
        request = self._request
        if request is None or self._done is None:
            return False
        read = oauth.read_callback(query, request)
        if read is None:
            return False
        # One answer, whatever it says: a code is good once.
        self._request = None
        self._respond = respond
        if isinstance(read, oauth.Refused):
            self._fail(Denial(read.reason, True))
        else:
            self._tokens.by_code(self._found, self._client, request, read, self._got)
        return True

    def _got(self, result: oauth.Token | Denial) -> None:
        if self._done is None:
            return
        if isinstance(result, Denial):
            self._fail(result)
        else:
            self._finish(Granted(self._client, result), True, "You may close this page.")

    # -- the end

    def _fail(self, denial: Denial) -> None:
        self._hub.emit("warning", "login_failed", server=self._server, reason=denial.reason)
        self._finish(denial, False, "mcpgate's log says why.")

    def _finish(self, result: Granted | Denial, well: bool, told: str) -> None:
        done, self._done = self._done, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._respond is not None:
            self._respond(well, told)
        if self._callback is not None:
            self._callback.close()
        if done is not None:
            done(result)

    def stop(self) -> None:
        """Give up; nobody is told."""
        self._done = None
        self._finish(Denial("stopped"), False, "mcpgate has stopped.")
