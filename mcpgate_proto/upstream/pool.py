"""One configured server: its sessions, and what is known of it.

Owns: what is known of both eras (probed once, remembered: a launcher starts once); sessions by (server,
principal, capability profile, revision); leases of channels that cannot tell calls apart (L0.4), with a
bounded wait; restart with backoff and jitter; stopping what is idle.
Must never: hand a session that served one principal to another; repeat a call.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec import Raw

from mcpgate_proto.config import ServerConfig
from mcpgate_proto.hub import Hub
from mcpgate_proto.mcp.codes import Fault, FaultKind
from mcpgate_proto.mcp.revisions import Era
from mcpgate_proto.relay.exchange import Client, Exchange, Members, Phase
from mcpgate_proto.relay.ports import ServerFace, ServerListener, ServerStatus
from mcpgate_proto.timers import Timer
from mcpgate_proto.upstream.asked_login import log_in
from mcpgate_proto.upstream.choosing import dispensable, fits, main_of, own_of, rivals_of
from mcpgate_proto.upstream.credentials import Credentials
from mcpgate_proto.upstream.desk import Desk
from mcpgate_proto.upstream.eras import after_refusal, era_for
from mcpgate_proto.upstream.fetch import Fetcher
from mcpgate_proto.upstream.homes import home, leaves_room
from mcpgate_proto.upstream.keys import PoolKey, is_personal, key_for, principal_of
from mcpgate_proto.upstream.legacy import LegacySession
from mcpgate_proto.upstream.link import Link
from mcpgate_proto.upstream.links import LinkMaker
from mcpgate_proto.upstream.modern import ModernSession
from mcpgate_proto.upstream.probe import Finding, Probe
from mcpgate_proto.upstream.session import FORGOTTEN, RETIRED, Done, UpstreamSession
from mcpgate_proto.upstream.supervisor import Supervisor
from mcpgate_proto.upstream.telling import face_of, status_of, stderr_of
from mcpgate_proto.upstream.waiting import Got, Session, Waiter, WaitingRoom
from mcpgate_proto.upstream.watches import Watches

__all__ = ["UpstreamServer"]

IDLE = "it was idle"
EVICTED = "another client needs its place"
DESERTED = "its client is gone"
# Ends that are no failures.
QUIET = (IDLE, RETIRED, EVICTED, DESERTED)


class UpstreamServer:
    """See the head of this file. Implements `relay.ports.Server` and `upstream.session.Host`."""

    def __init__(
        self, hub: Hub, config: ServerConfig, listener: ServerListener, fetcher: Fetcher, desk: Desk
    ) -> None:
        self.hub = hub
        self.config = config
        self.name = config.name
        self.listener = listener
        self.sessions: dict[Session, None] = {}
        self.eras: dict[Era, bool | None] = {Era.LEGACY: None, Era.MODERN: None}
        if config.era != "auto":
            self.eras = {era: era.value == config.era for era in Era}
        elif config.transport == "sse":
            self.eras = {Era.LEGACY: True, Era.MODERN: False}  # there is nothing modern on it (E5, E6)
        # Eras in which a session has been ready once: what was only assumed of the others is asked again.
        self._proven: dict[Era, bool] = {}
        self._waiting = WaitingRoom(hub, self._serve, self._why_not)
        self._probe: Probe | None = None
        self._credentials = Credentials(hub, config, fetcher, desk, self._fares_otherwise)
        # Whose credentials the probe shows.
        self._probing_for: str | None = None
        self._links = LinkMaker(hub, config, self._credentials)
        self._supervisor = Supervisor(hub, config.name, self._again)
        self._watches = Watches()
        # Sessions that somebody watches through: opened again once the server is back.
        self._lost: dict[PoolKey, None] = {}
        self._stopped = not config.enabled
        self._ended = False
        self._warm = False  # keep one session up, so that lists and changes are at hand
        self._sweep: Timer | None = None
        self._health: Timer | None = None

    # -- life

    def start(self) -> None:
        """Bring the server up before anybody asks; a slow launcher then costs nobody time."""
        if not self._stopped:
            self._warm = True
            self._discover_era()
            self._sweep = self.hub.after(self.hub.limits.upstream_idle_s / 4, "idle sweep", self._sweep_idle)
            if self.config.health_s > 0:
                self._health = self.hub.after(self.config.health_s, "health", self._check_health)

    def stop(self) -> None:
        if self._ended:
            return
        self._stopped = self._ended = True
        self._supervisor.stop()
        for timer in (self._sweep, self._health):
            if timer is not None:
                timer.cancel()
        for session in list(self.sessions):
            session.end("mcpgate is stopping", None)
        if self._probe is not None:
            self._probe.drop()
        self._links.stop()
        self._credentials.stop()
        self._waiting.refuse_all(self._down("it was stopped"))

    def renew(self, config: ServerConfig) -> bool:
        """Take over `config` if only headers differ (a token was rotated): the next request carries them, and
        what is under way goes on. False for any other change."""
        if msgspec.structs.replace(self.config, headers=config.headers) != config:
            return False
        self.config = config
        self._links.renew(config)
        return True

    def _down(self, reason: str = "") -> Fault:
        told = reason or self._supervisor.reason or "it is not available"
        self.hub.emit("debug", "server_unavailable", server=self.name, reason=told)
        return Fault(FaultKind.UPSTREAM_DOWN, f"server '{self.name}' is not available", detail=told)

    # -- eras

    def _discover_era(self, client: Client | None = None) -> None:
        """Learn what the server speaks, with the credentials of `client` where each has its own."""
        if self._probe is not None or self._supervisor.waiting or self._stopped:
            return
        principal = principal_of(self.config, client if is_personal(self.config) else None)
        if self._credentials.blocks(principal) is not None:
            return
        if any(self.eras.values()):
            self._warm_up()
            return
        self._probing_for = principal
        self._probe = Probe(self.hub, self._links.make(principal), self._probed)
        self._probe.start()

    def _probed(self, found: Finding) -> None:
        self._probe = None
        if self._stopped or self._proven:
            # Too late: a session has shown meanwhile what the server speaks.
            if found.link is not None:
                found.link.stop()
            self._waiting.pump()
            return
        if found.era is None and self._credentials.blocks(self._probing_for) is not None:
            self._waiting.pump()  # it lives; who has no token hears so, others may try theirs
            return
        if found.era is None:
            self._supervisor.failed(found.reason)
            self._waiting.refuse_all(self._down())
            return
        self._supervisor.recovered()
        if found.era is Era.MODERN:
            self.eras[Era.MODERN] = True
            if found.both:
                self.eras[Era.LEGACY] = True
        else:
            self.eras = {Era.LEGACY: True, Era.MODERN: False}
        self.hub.emit("info", "server_era", server=self.name, era=found.era.value, both=found.both)
        if found.link is not None:
            self._adopt(found)
        else:
            self._warm_up()
        self._waiting.pump()

    def _adopt(self, found: Finding) -> None:
        """The probe's link becomes the first session, so that the server starts once."""
        assert found.link is not None and found.era is not None
        key = msgspec.structs.replace(key_for(self.config, None, found.era), principal=self._probing_for)
        session = self._make(key, found.link)
        if isinstance(session, ModernSession):
            if found.discovered is not None:
                session.discovered(found.discovered)
            else:
                session.link_up()
        else:
            session.handshake()

    def _make(self, key: PoolKey, link: Link) -> Session:
        session: Session
        if key.era is Era.MODERN:
            session = ModernSession(self.hub, self, self.name, key, link)
        else:
            session = LegacySession(self.hub, self, self.name, key, link)
        self.sessions[session] = None
        self.hub.upstream_sessions += 1
        return session

    def _open(self, key: PoolKey) -> Session:
        link = self._links.make(key.principal)
        session = self._make(key, link)
        link.start()
        return session

    def _warm_up(self) -> None:
        """Have one session up without being asked; the first principal that needs it owns it (key None)."""
        lost, self._lost = self._lost, {}
        for key in lost:
            if self.eras[key.era] and not self._stopped:
                self._open(key)
        if self._warm and not self.sessions and not self._stopped:
            era = Era.MODERN if self.eras[Era.MODERN] else Era.LEGACY
            if self.eras[era]:
                self._open(key_for(self.config, None, era))

    # -- who needs a session

    def _acquire(self, waiter: Waiter, wait_s: float) -> None:
        if self._stopped:
            why = "stopping" if self.config.enabled else "disabled"
            waiter.got(Fault(FaultKind.UPSTREAM_DOWN, f"server '{self.name}' is {why}"))
        elif self._serve(waiter):
            return
        elif len(self._waiting) >= self.hub.limits.calls:
            waiter.got(Fault(FaultKind.OVERLOADED, "too many calls are waiting"))
        else:
            self._waiting.add(waiter, wait_s)

    def _acquire_own(self, client: Client, got: Got) -> None:
        """For a request of the gateway's own: in the session of the client's calls, if there is one."""
        its = self._own(client)
        if its is None or self._credentials.blocks(its.key.principal) is not None:
            strict = client.era is Era.LEGACY or client.features
            waiter = Waiter(client.featureless, False, got, lambda: True, own=True, strict=strict)
            self._acquire(waiter, self.hub.limits.startup_wait_s)
        else:
            its.take(client.featureless, False)
            got(its)

    def _why_not(self, waiter: Waiter) -> Fault:
        principal = principal_of(self.config, waiter.client)
        if self._credentials.waits(principal):
            return self._credentials.fault(principal, 401)
        if any(session.ready for session in self.sessions):
            return Fault(FaultKind.OVERLOADED, f"server '{self.name}' is busy with other clients")
        return Fault(FaultKind.UPSTREAM_DOWN, f"server '{self.name}' is still starting")

    def _serve(self, waiter: Waiter) -> bool:
        """Give the waiter its session or its refusal, if that can be done now."""
        client = waiter.client
        principal = principal_of(self.config, client)
        self._credentials.asked_by(client.principal)
        blocked = self._credentials.blocks(principal)
        if blocked is not None:
            if self._credentials.waits(principal):
                self._wait_for_login(waiter)
                return False
            waiter.got(blocked)
            return True
        era = era_for(self.eras, client.era)
        if era is None:
            lacks_both = self.eras[Era.LEGACY] is False and self.eras[Era.MODERN] is False
            if lacks_both or self._supervisor.circuit_open:
                waiter.got(self._down("it speaks no era that mcpgate knows" if lacks_both else ""))
                return True
            self._discover_era(client)
            return False
        key = key_for(self.config, client, era)
        starting = False
        main = main_of(self.sessions, key) if waiter.own and not waiter.strict else None
        if main is not None:
            main.take(client, False)
            waiter.got(main)
            return True
        for session in self.sessions:
            if session.over or not fits(session, key):
                continue
            if not session.ready:
                starting = True
            elif session.available(client, waiter.interactive):
                self._claim(session, key)
                session.take(client, waiter.interactive)
                waiter.got(session)
                return True
        if starting:
            return False
        if self._supervisor.circuit_open:
            waiter.got(self._down())
            return True
        if not self._supervisor.waiting:
            rivals = rivals_of(self.hub, self.sessions, key)
            idle = dispensable(rivals)
            if idle is not None:
                idle.end(EVICTED, None)
            if idle is not None or not rivals:
                self._open(key)
        return False

    def _wait_for_login(self, waiter: Waiter) -> None:
        """People need time; but who asks for lists only should not wait for them if there are others."""
        if not waiter.own or self.hub.config.transparent:
            self._waiting.extend(waiter, self.hub.limits.login_wait_s)

    def _claim(self, session: Session, key: PoolKey) -> None:
        """A session that served nobody yet takes up what its new owner watches."""
        if session.key != key:
            session.key = key
            self._rewatch(session)

    def _rewatch(self, session: UpstreamSession) -> None:
        """B7: a new session is subscribed to what the lost one was, or what another one was until now: each
        update is told once."""
        if session.key == session.key.plain or main_of(self.sessions, session.key.plain) is session:
            for uri in self._watches.of(session.key.principal, session.era):
                session.watch(uri, lambda fault: None)
                for other in list(self.sessions):
                    same = other.era is session.era and other.key.principal == session.key.principal
                    if same and other is not session and other.ready:
                        other.unwatch(uri)

    # -- relay.ports.Server

    def place(self, exchange: Exchange) -> None:
        operation = exchange.operation

        def got(session: Session | Fault) -> None:
            if isinstance(session, Fault):
                exchange.fail(session)
            elif exchange.let() if again else exchange.phase is not Phase.DONE:
                exchange.bind(session)
            elif operation.interactive:
                session.untake()

        # It is sent once more, while rules change; a task is there whatever they say, and is followed.
        again = exchange.target is not None and operation.task is None
        if operation.session:
            got(home(self.sessions, operation.client, operation.session))
            return
        wanted = lambda: exchange.phase is not Phase.DONE  # noqa: E731
        waiter = Waiter(operation.client, operation.interactive, got, wanted, rest=exchange.rest)
        self._acquire(waiter, self.hub.limits.lease_wait_s)

    def _own(self, client: Client) -> Session | None:
        era = era_for(self.eras, client.era)
        if era is None or not client.features:
            return None
        return own_of(self.sessions, key_for(self.config, client, era))

    def has_own(self, client: Client) -> bool:
        return self._own(client) is not None

    def prepare(self, client: Client, done: Callable[[ServerFace | Fault], None]) -> None:
        def got(session: Session | Fault) -> None:
            done(session if isinstance(session, Fault) else face_of(session))

        self._acquire_own(client, got)

    def ask(self, client: Client, method: str, params: Members, done: Done) -> None:
        again = True

        def got(session: Session | Fault) -> None:
            if isinstance(session, Fault):
                done(session)
            else:
                session.request(method, params, lambda answer: answered(session, answer), self.config.timeout)

        def answered(session: Session, answer: Members | Fault) -> None:
            nonlocal again
            if isinstance(answer, Fault) and session.forgotten and again:
                again = False
                self._acquire_own(client, got)
            else:
                done(answer)

        self._acquire_own(client, got)

    def face(self, client: Client) -> ServerFace | None:
        session = self._catalog_session(client)
        return face_of(session) if session is not None else None

    def _catalog_session(self, client: Client) -> Session | None:
        era = era_for(self.eras, client.era)
        if era is None:
            return None
        key = key_for(self.config, client.featureless, era)
        main = self._own(client) or main_of(self.sessions, key)
        if main is not None:
            return main
        for session in self.sessions:
            if session.ready and fits(session, key):
                return session
        return None

    def watch(self, client: Client, uri: str, done: Callable[[Fault | None], None]) -> None:
        def got(session: Session | Fault) -> None:
            if isinstance(session, Fault):
                done(session)
                return
            principal, era = session.key.principal, session.era

            def watched(fault: Fault | None) -> None:
                if fault is not None:
                    self._watches.remove(principal, era, uri)
                done(fault)

            self._watches.add(principal, era, uri)
            session.watch(uri, watched)

        waiter = Waiter(client.featureless, False, got, lambda: True, own=True)
        self._acquire(waiter, self.hub.limits.startup_wait_s)

    def unwatch(self, client: Client, uri: str) -> None:
        era = era_for(self.eras, client.era)
        principal = principal_of(self.config, client)
        if era is None or not self._watches.remove(principal, era, uri):
            return
        for session in list(self.sessions):
            if session.ready and session.era is era and session.key.principal == principal:
                session.unwatch(uri)

    def refusal(self, client: Client) -> Fault | None:
        return self._credentials.blocks(principal_of(self.config, client))

    def roots_changed(self, client: Client) -> None:
        for session in list(self.sessions):
            if client.key in session.users:
                session.roots_changed()

    def client_gone(self, client: Client) -> None:
        for session in list(self.sessions):
            session.leave(client)
            if session.kept_for == client.key:
                session.end(RETIRED, None)
                continue
            if self.config.isolation == "session" and session.key.owner == client.key:
                session.end(DESERTED, None)

    def status(self) -> ServerStatus:
        return status_of(
            self.config,
            self.eras,
            self.sessions,
            self._supervisor,
            probing=self._probe is not None,
            blocked=self._credentials.blocks(None),
        )

    # -- upstream.session.Host

    def session_ready(self, session: UpstreamSession) -> None:
        self.eras[session.era] = True
        self._proven[session.era] = True
        self._supervisor.recovered()
        self.hub.emit("info", "server_ready", server=self.name, era=session.era.value, pid=session.link.pid)
        self._rewatch(session)
        self._waiting.pump()
        self.listener.server_up(self.name, session.key.principal)
        if session.key != session.key.plain:
            self.listener.lists_elsewhere(self.name, session.key.principal, Raw(session.key.profile))

    def session_freed(self, session: UpstreamSession) -> None:
        self._waiting.pump()

    def doubts(self, era: Era) -> bool:
        return self.eras[era] is None

    def refused(self, session: UpstreamSession, status: int) -> Fault | None:
        if status == 401 or (status == 403 and self.config.oauth is not None):
            return self._credentials.fault(session.key.principal, status)
        return None

    def list_changed(self, session: UpstreamSession, kind: str) -> None:
        self.listener.catalog_changed(self.name, session.key.principal, kind)

    def may_hold(self, session: UpstreamSession) -> bool:
        return leaves_room(self.sessions, session, self.hub.limits.task_sessions_per_principal)

    def resource_updated(self, session: UpstreamSession, params: Members) -> None:
        self.listener.resource_updated(self.name, session.key.principal, params)

    def cannot_notify(self, session: UpstreamSession) -> None:
        self.listener.cannot_notify(self.name, session.key.principal)

    def replan(self, exchange: Exchange, done: Callable[[], None]) -> None:
        self.listener.replan(self.name, exchange.operation, done)

    def session_over(self, session: UpstreamSession, reason: str, fault: Fault | None) -> None:
        was_ready = session.was_ready
        if session in self.sessions:
            self.hub.upstream_sessions -= 1
            del self.sessions[session]
        if self._stopped:
            return
        if fault is not None and self._older_transport(session, fault):
            self.hub.emit("info", "server_http_sse", server=self.name)
            if self._warm or self._waiting:
                self._open(session.key)
            return
        if fault is not None and self._trial_failed(session, fault):
            self._warm_up()
            self._waiting.pump()
            # In the other era, for clients who wait for it in this one.
            self.listener.server_up(self.name, None)
            return
        self.hub.emit("notice", "server_session_over", server=self.name, reason=reason, **stderr_of(session))
        if reason == FORGOTTEN and self.hub.now - session.began_at >= 1.0:
            self._open(session.key)  # no failure of the server; its callers go on at once
            return
        if reason in QUIET:
            return
        if not was_ready and self._credentials.blocks(session.key.principal) is not None:
            self._waiting.pump()  # it lives; who has no token hears so
            return
        if not was_ready and not self._proven and self.config.era == "auto":
            # F17: the assumption failed, or nothing was learned at all.
            self.eras = {Era.LEGACY: None, Era.MODERN: None}
        if not was_ready and not self._proven:
            self._links.fall_forward()
        if self._watches.of(session.key.principal, session.era):
            self._lost[session.key] = None
        self._supervisor.failed(reason)
        if was_ready:
            for kind in ("tools", "prompts", "resources"):
                self.listener.catalog_changed(self.name, session.key.principal, kind)
        elif self._supervisor.circuit_open:
            self._waiting.refuse_all(self._down())

    def _older_transport(self, session: UpstreamSession, fault: Fault) -> bool:
        if session.era is not Era.LEGACY or (self._proven and not self._links.uses_sse):
            return False
        return self._links.fall_back(session.link, fault.code)

    def _trial_failed(self, session: UpstreamSession, fault: Fault) -> bool:
        """A first session of an era that was not known: what its refusal teaches."""
        known = after_refusal(self.eras, session.era, fault, auto=self.config.era == "auto")
        if known is None:
            return False
        if self.eras[session.era] is None:
            self.hub.emit("info", "server_lacks_era", server=self.name, era=session.era.value)
        self.eras = known
        return True

    # -- logins

    def _fares_otherwise(self) -> None:
        """Somebody has a token now, or has to log in for one."""
        if self._probe is not None and self._credentials.waits(self._probing_for):
            # The others' question must not wait for him.
            self._probe.drop()
            self._probe = None
        self._again()

    def login(self, principal: str) -> None:
        log_in(self.hub, self.name, self._credentials, self._links, principal)

    # -- restart, health, idleness

    def _again(self) -> None:
        if self._stopped:
            return
        if self._warm or self._waiting or self._lost:
            self._discover_era()
        self._waiting.pump()

    def _check_health(self) -> None:
        """A session that does not answer is over (L10: `ping` for legacy, `server/discover` for modern)."""
        self._health = self.hub.after(self.config.health_s, "health", self._check_health)
        for session in list(self.sessions):
            if session.ready and not session.over:
                session.check_health(min(self.config.health_s, self.config.timeout))

    def _sweep_idle(self) -> None:
        """Stop sessions that nobody has used for long and nobody watches."""
        limits = self.hub.limits
        self._sweep = self.hub.after(limits.upstream_idle_s / 4, "idle sweep", self._sweep_idle)
        for session in list(self.sessions):
            idle = self.hub.now - session.used_at >= limits.upstream_idle_s
            if idle and session.ready and not session.busy and not session.watches and not session.users:
                self._warm = False
                session.end(IDLE, None)
