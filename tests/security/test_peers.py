"""Who comes by a Unix socket or with a certificate (threats.md section 0, File ownership and Authentication).

Must never: ask the operating system; what it says arrives as `Peer` and `TlsFacts`.
"""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest

from mcpgate_proto import Gateway, GatewayConfig, ListenConfig
from mcpgate_proto import effects as fx
from mcpgate_proto.config import AuthConfig
from mcpgate_proto.effects import Address, Peer, ServerTls, TlsFacts
from mcpgate_proto.limits import Limits
from tests.security.porch import CI, OPS, Porch, bearer, configured, initialize
from tests.security.tokens import WALL

LIMITS = Limits()
Mode = Literal["auto", "required", "none"]
SELF = Peer(kind="unix", uid=1000, gid=1000, pid=7, same_user=True)
WEB = Peer(kind="unix", uid=33, gid=33, pid=8)
MEMBER = Peer(kind="unix", uid=1001, gid=1001, groups=(27, 2000), pid=9)
ROOT = Peer(kind="unix", uid=0, gid=0, pid=1)
UNKNOWN = Peer(kind="unix")
EVERYBODY = {"self": SELF, "web": WEB, "member": MEMBER, "root": ROOT, "unknown": UNKNOWN}

# What a listener says -> whom it lets in, and as whom.
ALLOWED: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({}, {"self": "local"}),
    ({"allow_uids": (33,)}, {"self": "local", "web": "unix:33"}),
    ({"allow_uids": (0, 33)}, {"self": "local", "web": "unix:33", "root": "unix:0"}),
    ({"allow_gids": (33,)}, {"self": "local", "web": "unix:33"}),
    ({"allow_gids": (2000,)}, {"self": "local", "member": "unix:1001"}),
    ({"allow_uids": (1000,), "allow_gids": (1000,)}, {"self": "local"}),
    (
        {"auth": "none"},
        {"self": "local", "web": "unix:33", "member": "unix:1001", "root": "unix:0", "unknown": "anonymous"},
    ),
]


def listening(kind: str, limits: Limits = LIMITS, **options: Any) -> Gateway:
    listener = ListenConfig(name="in", kind=kind, socket_path="/run/s", **options)  # type: ignore[arg-type]
    config = GatewayConfig(listeners=(listener,), limits=limits, log_level="debug")
    gateway = Gateway(config, now=1.0, wall=WALL, seed=bytes(32))
    gateway.trap_errors = False
    gateway.effects()
    gateway.listening(1.0, "in", Address(path="/run/s"))
    gateway.started(1.0)
    gateway.effects()
    return gateway


@pytest.mark.parametrize("kind", ["unix", "http"])
@pytest.mark.parametrize(("options", "inside"), ALLOWED, ids=[str(row[0]) for row in ALLOWED])
def test_who_may_connect(kind: str, options: dict[str, Any], inside: dict[str, str]) -> None:
    """Others are closed before a byte of theirs is read, with a record of who it was."""
    for name, peer in EVERYBODY.items():
        gateway = listening(kind, **options)
        conn = gateway.accepted(1.0, "in", peer)
        effects = gateway.effects()
        records = [
            one.record for one in effects if isinstance(one, fx.Emit) and one.record.event == "peer_refused"
        ]
        if name in inside:
            assert not any(isinstance(one, fx.Abort | fx.Close) for one in effects) and not records
            (client,) = gateway._clients
            assert client.principal.id == inside[name] and client.principal.local == (name == "self")
            continue
        assert fx.Abort(conn) in effects
        (record,) = records
        assert record.level == "warning"
        assert dict(record.fields) == {"listener": "in", "uid": peer.uid, "gid": peer.gid, "pid": peer.pid}
        assert gateway.snapshot().counters["peers_refused"] == 1 and gateway.snapshot().clients == 0
        # What such a peer had already sent leads to nothing.
        gateway.received(1.0, conn, b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n')
        gateway.received(1.0, conn, b"GET /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n")
        gateway.received_eof(1.0, conn)
        assert [one for one in gateway.effects() if isinstance(one, fx.Write)] == []
        gateway.closed(1.0, conn, "aborted")
        assert gateway.snapshot().connections == 0
        # Nobody who is turned away ends the gateway for the others.
        assert not any(isinstance(one, fx.Unlisten | fx.Stopped) for one in gateway.effects())
        assert gateway.accepted(1.0, "in", SELF) and gateway.snapshot().clients == 1


def test_too_many_on_a_unix_socket_do_not_end_the_gateway() -> None:
    gateway = listening("unix", limits=Limits(connections=1))
    gateway.accepted(1.0, "in", SELF)
    conn = gateway.accepted(1.0, "in", SELF)
    assert fx.Abort(conn) in gateway.effects()
    gateway.closed(1.0, conn, "aborted")
    assert not any(isinstance(one, fx.Unlisten | fx.Stopped) for one in gateway.effects())


def test_on_a_socket_the_kernels_word_is_enough_and_required_asks_for_more() -> None:
    keys = AuthConfig(keys=configured())
    auto = Porch(keys, socket_path="/run/s", allow_uids=(33,))
    assert auto.visit(WEB).ask("POST", "/mcp", [], initialize()).status == 200
    # It is not looked at, so it can neither help nor hurt.
    assert auto.visit(WEB).ask("POST", "/mcp", bearer("nonsense"), initialize()).status == 200
    required = Porch(keys, mode="required", socket_path="/run/s", allow_uids=(33,))
    assert required.visit(WEB).ask("POST", "/mcp", [], initialize()).status == 401
    assert required.visit(SELF).ask("POST", "/mcp", [], initialize()).status == 401
    answer = required.visit(WEB).ask("POST", "/mcp", CI, initialize())
    assert answer.status == 200
    named = [("Mcp-Session-Id", answer.headers["mcp-session-id"])]
    assert required.visit(WEB).ask("DELETE", "/mcp", [*named, *OPS]).status == 404
    assert required.visit(SELF).ask("DELETE", "/mcp", [*named, *CI]).status == 204, "whoever holds the key"
    assert required.visit(MEMBER).closed


def test_who_holds_a_key_is_not_local() -> None:
    """On a shared socket a proxy of our own user brings the keys of others."""
    required = Porch(AuthConfig(keys=configured()), mode="required", socket_path="/run/s")
    body = json.dumps({"jsonrpc": "2.0", "id": 2, "method": "gateway/list_servers"}).encode()
    visitor = required.visit(SELF)
    session = visitor.ask("POST", "/mcp", CI, initialize()).headers["mcp-session-id"]
    told = visitor.ask("POST", "/mcp", [("Mcp-Session-Id", session), *CI], body)
    assert "error" in told.message
    auto = Porch(AuthConfig(keys=configured()), socket_path="/run/s")
    visitor = auto.visit(SELF)
    session = visitor.ask("POST", "/mcp", [], initialize()).headers["mcp-session-id"]
    assert visitor.ask("POST", "/mcp", [("Mcp-Session-Id", session)], body).message["result"]["servers"] == []


def test_users_do_not_share_sessions() -> None:
    visited = Porch(AuthConfig(), socket_path="/run/s", allow_uids=(33, 1001))
    answer = visited.visit(WEB).ask("POST", "/mcp", [], initialize())
    named = [("Mcp-Session-Id", answer.headers["mcp-session-id"])]
    for peer in (MEMBER, SELF):
        assert visited.visit(peer).ask("DELETE", "/mcp", named).status == 404
    assert visited.visit(WEB).ask("DELETE", "/mcp", named).status == 204


# -- certificates


def secured(subject: str | None) -> TlsFacts:
    return TlsFacts(version="TLSv1.3", cipher="x", peer_subject=subject)


def behind_tls(
    auth: AuthConfig | None = None, mode: Mode = "auto", ca: str | None = "/ca.pem", **listen: Any
) -> Porch:
    tls = ServerTls(cert_file="/c.pem", key_file="/k.pem", client_ca_file=ca)
    return Porch(auth or AuthConfig(), mode=mode, tls=tls, **listen)


def status(visited: Porch, subject: str | None, headers: Any = ()) -> int:
    return visited.visit(tls=secured(subject)).ask("POST", "/mcp", list(headers), initialize()).status


def test_a_certificate_is_an_identity() -> None:
    visited = behind_tls()
    assert status(visited, "CN=alice") == 200
    assert status(visited, None) == 401
    assert status(visited, "") == 401
    answer = visited.visit(tls=secured("CN=alice")).ask("POST", "/mcp", [], initialize())
    (session, *_) = visited.gateway._sessions._all.values()
    assert session.session.principal.id == "cert:CN=alice" and not session.session.principal.local
    named = [("Mcp-Session-Id", answer.headers["mcp-session-id"])]
    assert visited.visit(tls=secured("CN=bob")).ask("DELETE", "/mcp", named).status == 404
    assert visited.visit(tls=secured("CN=alice")).ask("DELETE", "/mcp", named).status == 204


def test_a_subject_that_nobody_has_verified_is_none() -> None:
    """Without a client CA there is nobody who has signed it."""
    visited = behind_tls(AuthConfig(keys=configured()), ca=None)
    assert status(visited, "CN=alice") == 401
    assert status(visited, "CN=alice", CI) == 200


def test_a_token_beside_a_certificate() -> None:
    """What is presented is judged: a bad token is not made good by a certificate."""
    visited = behind_tls(AuthConfig(keys=configured()))
    assert status(visited, "CN=alice", CI) == 200
    assert status(visited, None, CI) == 200
    assert status(visited, "CN=alice", bearer("nonsense")) == 401
    answer = visited.visit(tls=secured("CN=alice")).ask("POST", "/mcp", CI, initialize())
    found = [one.session.principal.id for one in visited.gateway._sessions._all.values()]
    assert answer.status == 200 and found[-1] == "key:ci"


def test_none_asks_for_no_certificate() -> None:
    assert status(behind_tls(mode="none"), None) == 200


SUBJECTS = [
    (None, {"CN=ci,O=Acme": 200, "CN=x": 200}),
    ((), {"CN=ci,O=Acme": 403, "": 401}),
    (("CN=ci,O=Acme",), {"CN=ci,O=Acme": 200, "CN=ci,O=Acme,C=DE": 403, "CN=ci": 403, "cn=ci,o=acme": 403}),
    (
        ("*,O=Acme",),
        {"CN=ci,O=Acme": 200, "CN=ci,O=Acme2": 403, "CN=ci\\,O=Acme": 403, "CN=ci\\2cO=Acme": 403},
    ),
    (("CN=ci-*,O=Acme",), {"CN=ci-7,O=Acme": 200, "CN=ci-7\\,x,O=Acme": 200, "CN=cd-7,O=Acme": 403}),
    (("CN=a\\,b", "CN=c"), {"CN=a\\,b": 200, "CN=a,b": 403, "CN=c": 200, "CN=a\\2cb": 200}),
    (("CN=?",), {"CN=a": 200, "CN=ab": 403, "CN=\\,": 200}),
]


@pytest.mark.parametrize(("listed", "told"), SUBJECTS, ids=[str(row[0]) for row in SUBJECTS])
def test_subjects(listed: tuple[str, ...] | None, told: dict[str, int]) -> None:
    """Nothing listed: any that the CA has signed; an empty list: none (CVE-2026-33032). An escaped comma in a
    name does not look like its end."""
    visited = behind_tls(AuthConfig(keys=configured()), client_subjects=listed)
    for subject, code in told.items():
        assert status(visited, subject) == code, subject
        # A certificate that is not listed is not made good by a token either.
        assert status(visited, subject, CI) == (403 if code == 403 else 200)
