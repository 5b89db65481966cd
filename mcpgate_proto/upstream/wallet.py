"""The token that is shown to one server on behalf of one principal, or of the gateway itself.

Owns: `Wallet`: the token in use, who waits for a new one (several requests are one renewal), for how long a
refusal is believed; and `ServiceWallet`, which gets tokens with the client credentials grant.
Must never: give a token to another server or principal than it was issued for (J16, J17), renew a token more
than once for one refusal, or step up to the same scopes twice (J15).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from mcpgate_proto.hub import Hub
from mcpgate_proto.upstream import oauth
from mcpgate_proto.upstream.oauth_discovery import Discovery, Errand, Found
from mcpgate_proto.upstream.oauth_tokens import Denial, Tokens, configured

__all__ = ["Got", "Held", "Rejection", "ServiceWallet", "Wallet"]

# The token to send (empty: none is known to be needed), or why there is none.
Got: TypeAlias = Callable[["str | Denial"], None]

# For so long a refusal is believed: a final one, and one that may pass.
FINAL_S = 30.0
PASSING_S = 5.0
# A new token that is refused within this time was refused for what it is, not for its age.
FRESH_S = 5.0
STEPS_MOST = 4


class Held(msgspec.Struct, frozen=True):
    """A token in use. `expires_at`: on the clock of `Hub.now`; None: nobody said."""

    access: str
    got_at: float
    expires_at: float | None = None


class Rejection(msgspec.Struct, frozen=True):
    """A server refused a request with this token (empty: it had none)."""

    access: str
    status: int
    challenge: oauth.Challenge


class Waiting(msgspec.Struct, frozen=True):
    """Somebody who waits for the renewal under way; `rejected` is the token that did not do."""

    got: Got
    rejected: str | None


class Wallet:
    """See the head of this file. `changed` is called when requests may fare otherwise than before."""

    def __init__(self, hub: Hub, errand: Errand, changed: Callable[[], None]) -> None:
        self.hub = hub
        self.errand = errand
        self.tokens = Tokens(hub, errand)
        self.held: Held | None = None
        # Why there is no token, and until when that is believed without asking again.
        self.reason = ""
        self.denied_until = 0.0
        # Somebody has to act before there can be a token.
        self.pending = False
        # It has not asked for a token yet, and there is none: requests go without, and nobody is bothered.
        self.open = False
        self.requested: tuple[str, ...] = ()
        self.used_at = hub.now
        self._changed = changed
        self._queue: list[Waiting] = []
        self.working = False
        self._spoilt = False
        self._steps: set[frozenset[str]] = set()

    # -- for requests

    def get(self, got: Got) -> None:
        """Call `got` with the token to send: at once if it is there."""
        self.used_at = self.hub.now
        held = self.held
        if held is not None and not self._spoilt and not self.due(held):
            got(held.access)
        elif self.working:
            self._queue.append(Waiting(got, None))
        elif self.open:
            got("")
        elif self.hub.now < self.denied_until:
            got(self.usable or Denial(self.reason))  # due, but good for a while yet
        else:
            self._begin(Waiting(got, None), None)

    def rejected(self, rejection: Rejection, got: Got) -> None:
        """A request was refused; `got` gets another token, or why there is none."""
        held = self.held
        if held is not None and held.access != rejection.access and not self._spoilt:
            got(held.access)
            return
        waiting = Waiting(got, rejection.access)
        if rejection.status == 401:
            self._spoilt = True
        if self.working:
            self._queue.append(waiting)
        elif self.hub.now < self.denied_until:
            got(Denial(self.reason))
        else:
            self._begin(waiting, rejection)

    def due(self, held: Held) -> bool:
        """It is time for another token."""
        if held.expires_at is None:
            return False
        lasts = held.expires_at - held.got_at
        return self.hub.now >= held.expires_at - min(self.hub.limits.token_margin_s, lasts / 4)

    @property
    def usable(self) -> str:
        """A token that is there and was not refused, or nothing."""
        return self.held.access if self.held is not None and not self._spoilt and not self.expired else ""

    @property
    def expired(self) -> bool:
        held = self.held
        return held is None or (held.expires_at is not None and self.hub.now >= held.expires_at)

    # -- the work

    def _begin(self, waiting: Waiting, rejection: Rejection | None) -> None:
        self.working = True
        self.open = False
        self._queue.append(waiting)
        self.obtain(rejection)

    def obtain(self, rejection: Rejection | None) -> None:
        """Get a token, and call `settle` in the end; not from within, unless nothing has to be waited for."""
        raise NotImplementedError

    def take(self, token: oauth.Token) -> None:
        """A new token is in use."""
        now = self.hub.now
        expires_at = now + token.expires_in_s if token.expires_in_s is not None else None
        self.held = Held(token.access, now, expires_at)
        self._spoilt = False
        self.reason = ""
        self.denied_until = 0.0

    def deny(self, denial: Denial, for_s: float | None = None) -> None:
        """There is no token, and there will be none for a while."""
        self.reason = denial.reason
        wait_s = for_s if for_s is not None else FINAL_S if denial.final else PASSING_S
        self.denied_until = self.hub.now + wait_s
        self.settle(denial)

    def settle(self, outcome: str | Denial) -> None:
        """The work is over. Who did not object to the token that is there goes on with it."""
        self.working = False
        self.pending = False
        queue, self._queue = self._queue, []
        usable = self.usable
        for one in queue:
            if isinstance(outcome, Denial) and usable and one.rejected != usable:
                one.got(usable)
            else:
                one.got(outcome)
        self._changed()

    def tell_pending(self) -> None:
        """It may take long: whoever can wait elsewhere should."""
        if self.working and not self.pending:
            self.pending = True
            self._changed()

    def step_up(self, challenge: oauth.Challenge) -> bool:
        """J15: ask for what was asked for before and what is missing now. False if that is nothing new."""
        wanted = tuple(dict.fromkeys((*self.requested, *challenge.scopes)))
        asked = frozenset(wanted)
        if asked in self._steps or asked == frozenset(self.requested) or len(self._steps) >= STEPS_MOST:
            return False
        self._steps.add(asked)
        self.requested = wanted
        return True

    def stop(self) -> None:
        """The gateway stops: nobody waits any longer."""
        self._queue.clear()
        self.working = False


def first_scopes(errand: Errand, challenge: oauth.Challenge, found: Found) -> tuple[str, ...]:
    """J3, scope selection: what the operator says, else the challenge, else what the resource needs."""
    return errand.wants.scopes or challenge.scopes or found.scopes or ()


class ServiceWallet(Wallet):
    """One token of the gateway's own for everybody (`client_credentials`), as the operator chose."""

    def __init__(self, hub: Hub, errand: Errand, changed: Callable[[], None]) -> None:
        super().__init__(hub, errand, changed)
        self._found: Found | None = None
        self._challenge: oauth.Challenge | None = None

    def obtain(self, rejection: Rejection | None) -> None:
        held = self.held
        if rejection is not None:
            self._challenge = rejection.challenge
            fresh = held is not None and self.hub.now - held.got_at < FRESH_S
            if rejection.status == 403 and not self.step_up(rejection.challenge):
                self.settle(Denial("it wants rights that its authorization server does not give"))
                return
            if rejection.status == 401 and fresh:
                self.deny(Denial("it does not accept the token that was issued for it", True))
                return
        # After a refusal the server may have moved to another authorization server (J14).
        if self._found is not None and (rejection is None or rejection.status == 403):
            self._ask(self._found)
        else:
            challenge = self._challenge or oauth.Challenge()
            Discovery(self.hub, self.errand, challenge, self._discovered).start()

    def _discovered(self, found: Found | str) -> None:
        if not self.working:
            return
        if isinstance(found, Found):
            self._found = found
            self._ask(found)
        elif self._challenge is None:
            # The server has not said yet where to look: it does when it refuses.
            self.open = True
            self.settle("")
        else:
            self.deny(Denial(found))

    def _ask(self, found: Found) -> None:
        client = configured(self.errand.wants, found.server)
        if client is None:
            self.deny(Denial("oauth.client_id is not set", True))
            return
        if not self.requested:
            self.requested = first_scopes(self.errand, self._challenge or oauth.Challenge(), found)
        self.tokens.by_own(found, client, self.requested, self._got)

    def _got(self, result: oauth.Token | Denial) -> None:
        if not self.working:
            return
        if isinstance(result, Denial):
            name = self.errand.config.name
            self.hub.emit("warning", "token_refused", server=name, reason=result.reason)
            self.deny(result)
        else:
            self.take(result)
            self.settle(result.access)
