"""The gate: who a request or a connection comes from, before anything is told of what is behind it.

Owns: `Authenticator`, the keys and issuers of the whole gateway and those who wait for an issuer's keys; and
`Gate`, the rule of one listener. What a verdict is: a `Grant`, a `Refusal`, or `Pending`.
Must never: read a token anywhere but in the one Authorization header (J6), let anybody in for want of a
setting, say in an answer why exactly a token was refused, or call back from within.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import TypeAlias

import msgspec

from mcpgate_proto.config import AuthConfig, ListenConfig
from mcpgate_proto.effects import Peer, TlsFacts
from mcpgate_proto.hub import Hub
from mcpgate_proto.security import jwt
from mcpgate_proto.security.globs import any_matches, globs
from mcpgate_proto.security.jwks import FetchKeys, Jwk, KeySource, Missing
from mcpgate_proto.security.keys import PREFIX, KeyRing, Rejected
from mcpgate_proto.security.notices import Notices
from mcpgate_proto.security.principal import ANONYMOUS, LOCAL, Grant, Principal
from mcpgate_proto.security.resource import Challenges
from mcpgate_proto.wire.http1_grammar import Headers

__all__ = ["Authenticator", "Gate", "Pending", "Refusal", "Verdict", "Waiter", "requires"]

# RFC 6750 section 2.1: b64token.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_ESCAPED = re.compile(r"\\([0-9A-Fa-f]{2}|.)", re.DOTALL)
# Private-use characters cannot be in a subject (they arrive escaped), so they can stand for escaped ones.
_PRIVATE = 0xE000
RETRY_AFTER = ("Retry-After", "5")


class Refusal(msgspec.Struct, frozen=True):
    """Nobody comes in: the response to give. `why` is for the log; empty: nothing was presented at all."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...] = ()
    why: str = ""


class Pending(msgspec.Struct, frozen=True):
    """It is not known yet: the keys of the issuer `key` are being fetched."""

    key: str


Verdict: TypeAlias = Grant | Refusal | Pending
# Late (true): the keys did not come in time.
Again: TypeAlias = Callable[[bool], None]


class Waiter:
    """Somebody who waits for keys. `cancel` it when they are gone."""

    def __init__(self, table: dict[Waiter, None], hub: Hub, key: str, again: Again) -> None:
        self.key = key
        self._table = table
        self._again = again
        self._timer = hub.after(hub.limits.auth_wait_s, "authentication", lambda: self.wake(True))
        table[self] = None

    def cancel(self) -> None:
        self._table.pop(self, None)
        self._timer.cancel()

    def wake(self, late: bool) -> None:
        if self in self._table:
            self.cancel()
            self._again(late)


class Proof(msgspec.Struct, frozen=True):
    """That a token is good, for as long as its issuer has the key that signed it."""

    grant: Grant
    source: KeySource
    kid: str | None
    algorithm: str
    key: Jwk

    def holds(self, wall: float) -> bool:
        keys = self.source.find(self.kid, self.algorithm)
        known = not isinstance(keys, Missing) and any(one is self.key for one in keys)
        return known and self.grant.expires_wall is not None and wall < self.grant.expires_wall


class Authenticator:
    """Keys and issuers, for all listeners."""

    def __init__(self, hub: Hub, fetch: FetchKeys) -> None:
        self._hub = hub
        self._fetch = fetch
        self._verifier = jwt.Verifier()
        self.notices = Notices(hub)
        self._waiting: dict[Waiter, None] = {}
        # By the digest of the token; tokens themselves are not kept.
        self._proofs: dict[bytes, Proof] = {}
        self._sources: dict[str, KeySource] = {}
        self._load(hub.config.auth)

    def _load(self, config: AuthConfig) -> None:
        kept = {name: one for name, one in self._sources.items() if one.issuer in config.issuers}
        for name, one in self._sources.items():
            if name not in kept:
                one.retire()
        self.config = config
        self._proofs.clear()
        self._ring = KeyRing(config.keys)
        self._sources = {}
        for issuer in config.issuers:
            self._sources[issuer.issuer] = kept.get(issuer.issuer) or KeySource(
                self._hub, issuer, self._fetch, self._settled
            )
        self.challenges = Challenges(config)
        if config.issuers:
            self._verifier.preload()

    def start(self) -> None:
        for source in self._sources.values():
            source.start()

    def reload(self, config: AuthConfig) -> Callable[[Principal], bool]:
        """Take over another config; tells whose credentials are no longer good, or no longer the same."""
        before = self.config
        if config == before:
            return lambda principal: False
        keys = [f"key:{one.id}" for one in before.keys if one not in config.keys]
        issuers = [f"jwt:{one.issuer}#" for one in before.issuers if one not in config.issuers]
        if config.resource != before.resource:  # the audience
            issuers = [f"jwt:{one.issuer}#" for one in before.issuers]
        self._load(config)
        self.start()
        return lambda principal: principal.id in keys or principal.id.startswith(tuple(issuers))

    def bearer(self, token: str) -> Verdict:
        """Whose token this is."""
        if token.startswith(PREFIX):
            found = self._ring.check(token, self._hub.wall)
        else:
            verdict = self._jwt(token)
            if not isinstance(verdict, Rejected):
                return verdict
            found = verdict
        return self.refused(found) if isinstance(found, Rejected) else found

    def refused(self, rejected: Rejected) -> Refusal:
        challenge = self.challenges.bearer("invalid_token", rejected.told)
        return Refusal(401, rejected.told, (challenge,), rejected.why)

    def _jwt(self, text: str) -> Verdict | Rejected:
        """A client sends the same token with each request: what was found holds while its key is good."""
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        proof = self._proofs.get(digest)
        if proof is not None and proof.holds(self._hub.wall):
            return proof.grant
        verdict, proof = self._verify(text)
        self._proofs.pop(digest, None)
        if proof is not None:
            if len(self._proofs) >= self._hub.limits.tokens_kept:
                del self._proofs[next(iter(self._proofs))]
            self._proofs[digest] = proof
        return verdict

    def _verify(self, text: str) -> tuple[Verdict | Rejected, Proof | None]:
        hub = self._hub
        token = jwt.parse_token(text, hub.limits)
        if isinstance(token, Rejected):
            return token, None
        source = self._sources.get(token.issuer)
        if source is None:
            return Rejected(jwt.INVALID, "an issuer that is not configured"), None
        issuer = source.issuer
        if token.algorithm not in issuer.algorithms:
            return Rejected(jwt.INVALID, "an algorithm that is not allowed"), None
        keys = source.find(token.kid, token.algorithm)
        if keys is Missing.PENDING:
            return Pending(token.issuer), None
        if isinstance(keys, Missing):
            return _later(keys.value), None
        key = next((key for key in keys if self._verifier.signed(token, key)), None)
        if key is None:
            why = "signed by none of the issuer's keys" if keys else "an unknown key"
            return Rejected(jwt.INVALID, why), None
        audience = issuer.audience or (self.config.resource,)
        granted = jwt.check_claims(token, issuer, audience, hub.wall, hub.limits)
        if isinstance(granted, Grant) and not set(issuer.scopes) <= set(granted.scopes):
            # J4: the whole set that is needed, in one challenge.
            challenge = self.challenges.bearer("insufficient_scope", "", issuer.scopes)
            why = f"{granted.principal.id} lacks a scope"
            return Refusal(403, "the token lacks a scope", (challenge,), why), None
        proof = (
            Proof(granted, source, token.kid, token.algorithm, key) if isinstance(granted, Grant) else None
        )
        return granted, proof

    # -- waiting

    def wait(self, pending: Pending, again: Again) -> Waiter | Refusal:
        """Be called again once the keys are there, or are late; a refusal when too many wait."""
        if len(self._waiting) >= self._hub.limits.auth_waiting:
            return _later("too many requests wait for keys")
        return Waiter(self._waiting, self._hub, pending.key, again)

    def late(self) -> Refusal:
        return _later("the keys did not come in time")

    def _settled(self, issuer: str) -> None:
        for waiter in list(self._waiting):
            if waiter.key == issuer:
                waiter.wake(False)


def _later(why: str) -> Refusal:
    return Refusal(503, "the token cannot be checked now; try again", (RETRY_AFTER,), why)


def requires(listen: ListenConfig, auth: AuthConfig) -> bool:
    """Whether whoever comes in through this listener has to present something."""
    if listen.kind != "http" or listen.auth == "none":
        return False  # stdio is whoever started us; on a Unix socket the kernel says who it is
    if listen.auth == "required":
        return True
    certificates = listen.tls is not None and listen.tls.client_ca_file is not None
    return not listen.socket_path and bool(auth.keys or auth.issuers or certificates)


class Gate:
    """The one gate of a listener, before anything is routed."""

    def __init__(self, hub: Hub, listen: ListenConfig, authenticator: Authenticator) -> None:
        self.authenticator = authenticator
        # It can be reached from elsewhere: whatever is reloaded, nobody comes in without credentials.
        self.exposed = False
        self._hub = hub
        self._listen = listen
        subjects = listen.client_subjects
        self._subjects = None if subjects is None else globs(map(_plain_subject, subjects))

    @property
    def required(self) -> bool:
        return self.exposed or requires(self._listen, self.authenticator.config)

    def turns_away(self, peer: Peer) -> bool:
        """Whether a connection is closed before a byte of it is read: on a Unix socket the kernel says who it
        is. The own user may come in, and whom the listener lists."""
        listen = self._listen
        if peer.kind != "unix" or peer.same_user or listen.auth == "none":
            return False
        groups = (peer.gid, *peer.groups)
        if peer.uid in listen.allow_uids or any(group in listen.allow_gids for group in groups):
            return False
        self._hub.count("peers_refused")
        told = {"listener": listen.name, "uid": peer.uid, "gid": peer.gid, "pid": peer.pid}
        self.authenticator.notices.tell("warning", "peer_refused", f"{listen.name} {peer.uid}", **told)
        return True

    def by_peer(self, peer: Peer) -> Grant:
        """Who a connection is as far as the operating system knows."""
        if peer.kind == "stdio" or (peer.kind == "unix" and peer.same_user):
            return Grant(LOCAL)
        if peer.kind == "unix" and peer.uid is not None:
            return Grant(Principal(f"unix:{peer.uid}"))
        return Grant(ANONYMOUS)

    def judge(self, peer: Peer, tls: TlsFacts | None, headers: Headers, where: str) -> Verdict:
        """Who sends a request with these headers. `where` it comes from is for the log."""
        if not self.required:
            return self.by_peer(peer)
        verdict = self._judge(tls, headers)
        if isinstance(verdict, Refusal):
            self._hub.count("auth_refused")
            if verdict.why:
                self._tell(verdict, where)
        return verdict

    def _tell(self, refusal: Refusal, where: str) -> None:
        """A record of credentials that did not pass."""
        self.authenticator.notices.tell(
            "notice",
            "auth_refused",
            f"{where} {refusal.why}",
            listener=self._listen.name,
            address=where,
            status=refusal.status,
            reason=refusal.why,
        )

    def _judge(self, tls: TlsFacts | None, headers: Headers) -> Verdict:
        subject = self._certificate(tls)
        if subject is not None and not self._listed(subject):
            return Refusal(403, "this certificate may not call", (), f"certificate {subject} is not listed")
        values = headers.get_all("authorization")
        if not values:
            if subject is not None:
                return Grant(Principal(f"cert:{subject}"))
            challenge = self.authenticator.challenges.bearer()
            return Refusal(401, "authentication is required", (challenge,))
        scheme, _, token = values[0].partition(" ")
        token = token.strip(" ")
        if len(values) == 1 and scheme.lower() != "bearer":
            return self.authenticator.refused(Rejected("only bearer tokens are taken", "another scheme"))
        if len(values) > 1 or _TOKEN.fullmatch(token) is None:
            challenge = self.authenticator.challenges.bearer("invalid_request", "")
            told = "the Authorization header is malformed"
            return Refusal(400, told, (challenge,), "malformed credentials")
        if len(token) > self._hub.limits.token_bytes:
            return self.authenticator.refused(Rejected(jwt.INVALID, "a token that is too long"))
        return self.authenticator.bearer(token)

    def _certificate(self, tls: TlsFacts | None) -> str | None:
        """The subject of the client's certificate, which the TLS handshake has verified. Without a name in it
        it is nobody's."""
        asked = self._listen.tls is not None and self._listen.tls.client_ca_file is not None
        return (tls.peer_subject or None) if tls is not None and asked else None

    def _listed(self, subject: str) -> bool:
        return self._subjects is None or any_matches(self._subjects, _plain_subject(subject))

    def keeps_out(self, principal: Principal) -> bool:
        """After a reload: whoever came in without credentials, where they are required now."""
        return self.required and principal == ANONYMOUS


def _plain_subject(text: str) -> str:
    """A subject (RFC 4514), or a glob on one, with one character in the place of each escaped one: an escaped
    comma inside of a name must not look like the end of it."""

    def one(match: re.Match[str]) -> str:
        code = int(match[1], 16) if len(match[1]) == 2 else ord(match[1]) % 256
        return chr(_PRIVATE + code)

    return _ESCAPED.sub(one, text)
