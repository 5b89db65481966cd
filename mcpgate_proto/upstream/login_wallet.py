"""The token of one principal who logs in with a browser, for one server.

    stored?    read under a lock that all gateways of this machine share: whoever is first does the work,
               and the others find its result
    refresh    where there is a refresh token, once for all who wait
    login      only for somebody who is at this machine, or asked for it by `Gateway.login`

Owns: `LoginWallet`, the order of these, and what is stored.
Must never: hold the lock longer than one renewal or login takes; open a browser because a remote client
asked.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from mcpgate_proto.hub import Hub
from mcpgate_proto.timers import Timer
from mcpgate_proto.upstream import oauth
from mcpgate_proto.upstream.desk import Desk
from mcpgate_proto.upstream.oauth_discovery import Discovery, Errand, Found
from mcpgate_proto.upstream.oauth_login import NOBODY, Granted, Login, impossible
from mcpgate_proto.upstream.oauth_tokens import Denial, configured
from mcpgate_proto.upstream.token_record import Entry, Record, encode_record, read_record, record_name
from mcpgate_proto.upstream.wallet import Got, Held, Rejection, Wallet, first_scopes

__all__ = ["LoginWallet"]

# Another process that holds the lock for longer than a refresh takes is logging in.
CLAIM_PATIENCE_S = 2.0
# OpenID Connect Core section 11: the scope that refresh tokens are asked for with.
OFFLINE = "offline_access"
# How soon it is looked again whether somebody has logged in meanwhile with `mcpgate login`.
LOOK_AGAIN_S = 1.0


class LoginWallet(Wallet):
    """`attended`: a browser may be opened for this principal without being asked."""

    def __init__(
        self,
        hub: Hub,
        errand: Errand,
        desk: Desk,
        principal: str,
        attended: Callable[[], bool],
        changed: Callable[[], None],
    ) -> None:
        super().__init__(hub, errand, changed)
        self.principal = principal
        self.server = oauth.canonical(errand.config.url)
        self.forced = False
        self._desk = desk
        self._attended = attended
        self._name = record_name(principal, self.server)
        self._record = Record(principal, self.server)
        self._rejection: Rejection | None = None
        # The last challenge: where the server's metadata is. None: it has never asked for a login.
        self._challenge: oauth.Challenge | None = None
        self._found: Found | None = None
        self._login: Login | None = None
        self._login_again_at = 0.0
        self._patience: Timer | None = None
        self._locked = False

    def get(self, got: Got) -> None:
        if self.forced and not self.working:
            got("")  # so that the server says what it wants
        else:
            super().get(got)

    def due(self, held: Held) -> bool:
        """Without a refresh token there is nothing to be done before the token has expired."""
        return super().due(held) if self._record.current.refresh else self.expired

    def force(self) -> None:
        """Whatever is stored, log in with the next request."""
        self.forced = True
        self.held = None
        self.denied_until = 0.0

    # -- the lock and the record

    def obtain(self, rejection: Rejection | None) -> None:
        self._rejection = rejection
        self._found = None
        if rejection is not None:
            self._challenge = rejection.challenge
            if rejection.status == 403 and not self.step_up(rejection.challenge):
                self.settle(Denial("it wants rights that were asked for and not given"))
                return
        self._patience = self.hub.after(CLAIM_PATIENCE_S, "claim", self._late)
        self._desk.claim(self._name, self._claimed)

    def _late(self) -> None:
        self._patience = None
        self.tell_pending()

    def _claimed(self, data: bytes | None) -> None:
        self._locked = True
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if not self.working:
            self._unlock()
            return
        if data is not None:
            self._record = read_record(data, self.principal, self.server)
        entry = self._record.current
        if not self.requested:
            self.requested = entry.scopes
        if self._is_news(entry):
            self.take(oauth.Token(entry.access, self._left_s(entry)))
            self._release(entry.access)
        elif entry.refresh and not self.forced and (self._rejection is None or self._rejection.status == 401):
            self._discover(self._refresh)
        elif self._rejection is None and self._challenge is None and not self.forced:
            # Nothing is known of it: it will say so if it wants a token.
            self.open = True
            self._release("")
        else:
            self._want_login()

    def _is_news(self, entry: Entry) -> bool:
        """Somebody has put a token there that this wallet has not tried."""
        left = self._left_s(entry)
        if not entry.access or self.forced or (left is not None and left <= 0):
            return False
        mine = self.held.access if self.held is not None else None
        refused = self._rejection.access if self._rejection is not None else None
        return entry.access not in (mine, refused)

    def _left_s(self, entry: Entry) -> float | None:
        """How long the stored token is good for, by the time of day; None: nobody said."""
        return entry.expires_wall - self.hub.wall if entry.expires_wall else None

    def _release(self, outcome: str | Denial) -> None:
        self._unlock()
        self.forced = False
        self.settle(outcome)

    def _unlock(self) -> None:
        if self._locked:
            self._locked = False
            self._desk.release(self._name)

    def _refuse(self, denial: Denial, for_s: float | None = None) -> None:
        self._unlock()
        self.forced = False
        self.deny(denial, for_s)

    def _keep(self, issuer: str, client: oauth.Registration, token: oauth.Token, refresh: str) -> None:
        self.take(token)
        expires = self.hub.wall + token.expires_in_s if token.expires_in_s is not None else 0.0
        scopes = token.scopes if token.scopes is not None else self.requested
        entry = Entry(client, token.access, token.refresh or refresh, expires, scopes)
        self._write(issuer, entry)

    def _write(self, issuer: str, entry: Entry) -> None:
        self._record = self._record.with_entry(issuer, entry)
        self._desk.keep(self._name, encode_record(self._record))

    # -- where the authorization server is

    def _discover(self, then: Callable[[Found], None]) -> None:
        if self._found is not None:
            then(self._found)
            return

        def discovered(found: Found | str) -> None:
            if not self.working:
                self._unlock()
            elif isinstance(found, str):
                self._log("login_impossible", found)
                self._refuse(Denial(found))
            else:
                self._found = found
                then(found)

        challenge = self._challenge or oauth.Challenge()
        Discovery(self.hub, self.errand, challenge, discovered).start()

    def _log(self, event: str, reason: str) -> None:
        self.hub.emit(
            "warning", event, server=self.errand.config.name, principal=self.principal, reason=reason
        )

    # -- refresh

    def _refresh(self, found: Found) -> None:
        """J16: with the client and at the issuer that the refresh token is of, and nowhere else."""
        entry = self._record.current
        client = configured(self.errand.wants, found.server) or entry.client
        if found.server.issuer != self._record.issuer or client is None:
            self._want_login()
            return

        def got(result: oauth.Token | Denial) -> None:
            if not self.working:
                self._unlock()
            elif isinstance(result, oauth.Token):
                self.hub.count("tokens_refreshed")
                self._keep(found.server.issuer, client, result, entry.refresh)
                self._release(result.access)
            elif result.final:
                self._forget(found.server.issuer, entry, client, result)
                self._want_login()
            else:
                self._log("refresh_failed", result.reason)
                self._refuse(result)

        self.tokens.by_refresh(found, client, entry.refresh, got)

    def _forget(self, issuer: str, entry: Entry, client: oauth.Registration, denial: Denial) -> None:
        """The refresh token is no longer good; nor, perhaps, is the client."""
        self._log("refresh_refused", denial.reason)
        kept = None if denial.code == "invalid_client" else entry.client
        left = msgspec.structs.replace(entry, refresh="", access="", expires_wall=0.0, client=kept)
        self._write(issuer, left)
        self.held = None

    def _forget_client(self, issuer: str) -> None:
        """An authorization server that does not know the client shows an error to the person, not to us."""
        entry = self._record.entries.get(issuer)
        if entry is not None and entry.client is not None:
            self._write(issuer, msgspec.structs.replace(entry, client=None))

    # -- login

    def _want_login(self) -> None:
        if not self.forced and not self._attended():
            self._refuse(Denial(""), LOOK_AGAIN_S)
        elif not self.forced and self.hub.now < self._login_again_at:
            self._refuse(Denial(self.reason or "the last login failed"), LOOK_AGAIN_S)
        else:
            self.tell_pending()
            self._discover(self._begin_login)

    def _begin_login(self, found: Found) -> None:
        reason = impossible(found)
        if reason:
            self._log("login_impossible", reason)
            self._login_again_at = self.hub.now + self.hub.limits.login_again_s
            self._refuse(Denial(reason, True))
            return
        entry = self._record.entries.get(found.server.issuer, Entry())
        known = entry.client
        if known is not None and known.secret_expires_wall and known.secret_expires_wall <= self.hub.wall:
            known = None
        if self.forced:
            known = None  # whoever asks for a login himself may do so because the client is no longer good
        self.requested = self._scopes(found)
        self._login = Login(
            self.hub,
            self._desk,
            self.tokens,
            found,
            server=self.errand.config.name,
            wants=self.errand.wants,
            scopes=self.requested,
            known=known,
            done=lambda result: self._logged_in(found, result),
        )
        self._login.start()

    def _scopes(self, found: Found) -> tuple[str, ...]:
        """What is needed now and what was asked for before (J15). `offline_access`, for refresh tokens, where
        the authorization server has it, and only there; never alone, where none are named."""
        challenge = self._challenge or oauth.Challenge()
        basic = first_scopes(self.errand, challenge, found)
        scopes = [one for one in dict.fromkeys((*self.requested, *basic)) if one != OFFLINE]
        if scopes and OFFLINE in found.server.scopes:
            scopes.append(OFFLINE)
        return tuple(scopes)

    def _logged_in(self, found: Found, result: Granted | Denial) -> None:
        self._login = None
        if not self.working:
            self._unlock()
        elif isinstance(result, Denial):
            self._login_again_at = self.hub.now + self.hub.limits.login_again_s
            if result.code in ("invalid_client", NOBODY):
                self._forget_client(found.server.issuer)
            self._refuse(result)
        else:
            name, issuer = self.errand.config.name, found.server.issuer
            self.hub.emit("notice", "login_done", server=name, principal=self.principal, issuer=issuer)
            self._keep(issuer, result.client, result.token, "")
            self._release(result.token.access)

    def stop(self) -> None:
        super().stop()
        if self._patience is not None:
            self._patience.cancel()
        login, self._login = self._login, None
        if login is not None:
            login.stop()
        self._unlock()
