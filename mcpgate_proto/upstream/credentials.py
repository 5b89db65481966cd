"""How requests to one server prove who sends them.

Owns: one wallet per principal, or one for all where the operator chose so (J17); `CredentialedPool`, which
puts the token on every request and, when it is refused, gets another and sends the request again: a 401 or
403 means that it was not carried out; what clients are told when there is no token.
Must never: relay a challenge to a client (J9), put a token on a request of another principal or to another
origin, or send a request again for any other reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from mcpgate_proto.config import OAuthConfig, ServerConfig
from mcpgate_proto.hub import Hub
from mcpgate_proto.mcp.codes import Fault, FaultKind
from mcpgate_proto.security.principal import LOCAL, Principal
from mcpgate_proto.timers import Timer
from mcpgate_proto.upstream.desk import Desk
from mcpgate_proto.upstream.fetch import Fetcher
from mcpgate_proto.upstream.http_pool import HttpPool, HttpRequest, Origin, Pool, Receiver, Ticket
from mcpgate_proto.upstream.keys import is_personal
from mcpgate_proto.upstream.login_wallet import LoginWallet
from mcpgate_proto.upstream.oauth import challenge_of
from mcpgate_proto.upstream.oauth_discovery import Errand
from mcpgate_proto.upstream.oauth_tokens import Denial
from mcpgate_proto.upstream.wallet import Rejection, ServiceWallet, Wallet
from mcpgate_proto.wire.http1_grammar import Headers

__all__ = ["CredentialedPool", "Credentials"]

# A refused request goes again so often: a new token, and rights added a few times (J15).
TRIES_MOST = 3
# The one wallet of a server that everybody shares.
EVERYBODY = "shared"
# What no shell reads anything into.
_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")


class Credentials:
    """The wallets of one server. `changed` is called when a principal may fare otherwise than before."""

    def __init__(
        self, hub: Hub, config: ServerConfig, fetcher: Fetcher, desk: Desk, changed: Callable[[], None]
    ) -> None:
        self._hub = hub
        self._config = config
        self._fetcher = fetcher
        self._desk = desk
        self._changed = changed
        self._wallets: dict[str, Wallet] = {}
        # The person at this machine has asked for something of this server.
        self._local_asked = False

    def _who(self, principal: str | None) -> str:
        """Whose wallet: nobody in particular means the person at this machine."""
        return (principal or LOCAL.id) if is_personal(self._config) else EVERYBODY

    def wallet(self, principal: str | None) -> Wallet | None:
        """The wallet for sessions of `principal`; None where none is needed."""
        wants = self._config.oauth
        if wants is None:
            return None
        who = self._who(principal)
        found = self._wallets.get(who)
        if found is None:
            self._make_room()
            found = self._wallets[who] = self._made(who, wants)
        return found

    def _made(self, who: str, wants: OAuthConfig) -> Wallet:
        errand = Errand(self._fetcher, self._config, wants)
        if wants.grant == "client_credentials":
            return ServiceWallet(self._hub, errand, self._changed)
        attended = lambda: who == LOCAL.id and self._attended  # noqa: E731
        return LoginWallet(self._hub, errand, self._desk, who, attended, self._changed)

    @property
    def _attended(self) -> bool:
        """A browser may be opened: somebody is there, and it is he who wants something (`connect` and `run`
        serve nobody else)."""
        config = self._hub.config
        return config.attended and (config.transparent or self._local_asked)

    def asked_by(self, principal: Principal) -> None:
        """A client of `principal` wants something of this server."""
        if principal == LOCAL and not self._local_asked:
            self._local_asked = True
            wallet = self._wallets.get(LOCAL.id)
            if wallet is not None and not wallet.working:
                wallet.denied_until = 0.0

    def _make_room(self) -> None:
        if len(self._wallets) >= self._hub.limits.wallets:
            idle = [who for who, one in self._wallets.items() if not one.working]
            if idle:
                del self._wallets[min(idle, key=lambda who: self._wallets[who].used_at)]

    def pool(self, http: HttpPool, principal: str | None) -> Pool:
        """How requests for sessions of `principal` go out."""
        wallet = self.wallet(principal)
        return http if wallet is None else CredentialedPool(self._hub, http, wallet)

    # -- what sessions and calls may expect

    def waits(self, principal: str | None) -> bool:
        """Somebody is logging in; it may take long."""
        wallet = self._wallets.get(self._who(principal))
        return wallet is not None and wallet.pending

    def blocks(self, principal: str | None) -> Fault | None:
        """Why no request of `principal` can be sent now, in words for its clients; None if that is not so."""
        wallet = self._wallets.get(self._who(principal))
        if wallet is None or wallet.usable:
            return None
        if wallet.pending or self._hub.now < wallet.denied_until:
            return self.fault(principal, 401)
        return None

    def fault(self, principal: str | None, status: int) -> Fault:
        """What a client is told when the server refused its request for want of credentials or rights."""
        name = self._config.name
        wallet = self._wallets.get(self._who(principal))
        detail = wallet.reason if wallet is not None else ""
        if isinstance(wallet, LoginWallet):
            if wallet.pending:
                told = f"server '{name}' waits for a login in the browser; call again when that is done"
            else:
                # Somebody copies this into a shell, and a principal's name is of its issuer's making.
                whose = "" if wallet.principal == LOCAL.id else f" --principal {_quoted(wallet.principal)}"
                where = self._config.url if self._hub.config.transparent else name
                told = f"server '{name}' needs a login: mcpgate login {_quoted(where)}{whose}"
        elif status == 403:
            told = f"server '{name}' does not let the gateway do this"
        else:
            told = f"server '{name}' does not accept the gateway's credentials"
        return Fault(FaultKind.UPSTREAM_DOWN, told, code=status, detail=detail)

    def stop(self) -> None:
        for wallet in self._wallets.values():
            wallet.stop()


def _quoted(text: str) -> str:
    """One word of a POSIX shell."""
    if _PLAIN.fullmatch(text):
        return text
    return "'" + text.replace("'", "'\"'\"'") + "'"


class CredentialedPool:
    """An `HttpPool` as the sessions of one principal see it. Implements `http_pool.Pool`."""

    def __init__(self, hub: Hub, http: HttpPool, wallet: Wallet) -> None:
        self.hub = hub
        self.http = http
        self.wallet = wallet

    @property
    def origin(self) -> Origin:
        return self.http.origin

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        return tuple(pair for pair in self.http.headers if pair[0].lower() != "authorization")

    def send(self, receiver: Receiver, request: HttpRequest) -> Attempt:
        attempt = Attempt(self, receiver, request)
        attempt.start()
        return attempt


class Attempt:
    """One request, sent as often as its credentials need. Implements `http_pool.Sent`, and `Receiver` towards
    the pool."""

    def __init__(self, pool: CredentialedPool, receiver: Receiver, request: HttpRequest) -> None:
        self._pool = pool
        self._receiver = receiver
        self._request = request
        self._ticket: Ticket | None = None
        self._token = ""
        self._status = 401
        self._tries = 0
        self._throttled = False
        self._over = False
        self._timer: Timer | None = None

    def start(self) -> None:
        if self._request.farewell:
            self._send(self._pool.wallet.usable)  # it cannot wait
            return
        self._wait()
        self._pool.wallet.get(self._got)

    # -- Sent

    @property
    def sent(self) -> bool:
        return self._ticket is not None and self._ticket.sent

    def abandon(self) -> None:
        self._end()
        if self._ticket is not None:
            self._ticket.abandon()

    def throttle(self, on: bool) -> None:
        self._throttled = on
        if self._ticket is not None:
            self._ticket.throttle(on)

    def _end(self) -> None:
        self._over = True
        self._stop_waiting()

    # -- the token

    def _wait(self) -> None:
        limit_s = self._pool.hub.limits.token_wait_s
        self._timer = self._pool.hub.after(limit_s, "token", self._refused)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _got(self, outcome: str | Denial) -> None:
        if self._over or self._timer is None:
            return
        self._stop_waiting()
        if isinstance(outcome, Denial):
            self._refuse_soon()
        else:
            self._send(outcome)

    def _send(self, token: str) -> None:
        self._token = token
        request = self._request
        if token:
            headers = [*request.headers, ("Authorization", f"Bearer {token}")]
            request = msgspec.structs.replace(request, headers=headers)
        self._ticket = self._pool.http.send(self, request)
        if self._throttled:
            self._ticket.throttle(True)

    def _refuse_soon(self) -> None:
        """Not from within `send`, nor from within an event of the connection that was given up."""
        self._timer = self._pool.hub.after(0.0, "no token", self._refused)

    def _refused(self) -> None:
        """As if the server had answered without a word: its challenge is our business alone (J9)."""
        self._timer = None
        if not self._over:
            self._end()
            self._receiver.response_head(self._status, Headers())
            self._receiver.response_end()

    # -- Receiver

    def response_head(self, status: int, headers: Headers) -> None:
        if self._over:
            return
        if status in (401, 403) and not self._request.farewell:
            challenge = challenge_of(headers.get_all("www-authenticate"))
            if status == 401 or challenge.error == "insufficient_scope":
                self._again(Rejection(self._token, status, challenge))
                return
        self._receiver.response_head(status, headers)

    def _again(self, rejection: Rejection) -> None:
        self._status = rejection.status
        if self._ticket is not None:
            self._ticket.abandon()
            self._ticket = None
        self._tries += 1
        if self._tries > TRIES_MOST:
            self._refuse_soon()
            return
        self._wait()
        self._pool.wallet.rejected(rejection, self._got)

    def response_data(self, data: bytes) -> None:
        if not self._over and self._ticket is not None:
            self._receiver.response_data(data)

    def response_end(self) -> None:
        if not self._over and self._ticket is not None:
            self._end()
            self._receiver.response_end()

    def response_failed(self, sent: bool, reason: str) -> None:
        if not self._over and self._ticket is not None:
            self._end()
            self._receiver.response_failed(sent, reason)
