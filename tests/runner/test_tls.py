"""TLS on both sides, on every runner.

Must never: use the real core, or ask which runner it is.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
from pathlib import Path
from typing import Any

import pytest

from mcpgate.control import Options
from mcpgate_proto import effects as fx
from mcpgate_proto.effects import TlsOptions
from tests.runner.conftest import Certificates, Start
from tests.runner.fake import MB, FakeGateway, Harness, Left, Run, dial, echoing, read_all, tcp


@pytest.mark.parametrize("size", [5, 3 * MB])
def test_tls_echo(start: Start, tls_server: Any, size: int) -> None:
    gateway = FakeGateway()
    with start(gateway) as harness:
        options = TlsOptions(server_name="server.test", ca_file=tls_server.ca_file)
        harness.put(fx.Connect(1, tls_server.address, options))
        _, peer, facts = gateway.first("connected")
        assert facts.version in ("TLSv1.2", "TLSv1.3") and peer.address == tls_server.address
        data = os.urandom(size)
        harness.put(fx.Write(1, [data]))
        gateway.until(lambda: len(gateway.data(1)) == size)
        assert gateway.data(1) == data
        assert sum(args[1] for args in gateway.all("flushed")) == size
        harness.put(fx.Write(1, [b"quit"]))
        gateway.first("received_eof")
        harness.put(fx.Close(1))
        gateway.first("closed")


def test_tls_refuses_wrong_names_and_unknown_authorities(start: Start, tls_server: Any) -> None:
    gateway = FakeGateway()
    with start(gateway) as harness:
        wrong = TlsOptions(server_name="other.test", ca_file=tls_server.ca_file)
        harness.put(fx.Connect(1, tls_server.address, wrong))
        harness.put(fx.Connect(2, tls_server.address, TlsOptions(server_name="server.test")))
        missing = TlsOptions(server_name="server.test", ca_file="/nonexistent/ca.pem")
        harness.put(fx.Connect(3, tls_server.address, missing))
        gateway.until(lambda: len(gateway.all("connect_failed")) == 3)
    reasons = dict(gateway.all("connect_failed"))
    assert reasons[1].startswith("certificate not accepted: Hostname mismatch")
    assert reasons[2].startswith("certificate not accepted: ")
    assert reasons[3] == "no such file or directory"
    assert not gateway.all("connected") and not gateway.all("closed")


# -- listeners


def tls_listener(certificates: Certificates, file: str = "server.pem", **more: Any) -> fx.Listen:
    path = str(certificates.folder / file)
    return tcp(tls=fx.ServerTls(cert_file=path, key_file=path, **more))


def client(
    harness: Harness, certificates: Certificates, own: str = "", name: str = "server.test"
) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=certificates.ca_file)
    if own:
        context.load_cert_chain(own)
    return context.wrap_socket(dial(harness), server_hostname=name)


@pytest.mark.parametrize("size", [5, 3 * MB])
def test_a_tls_listener_echoes(start: Start, certificates: Certificates, size: int) -> None:
    gateway = echoing(tls_listener(certificates))
    data = os.urandom(size)
    with start(gateway) as harness, client(harness, certificates) as sock:
        # One thread: an SSL object may not be read and written at once.
        for start_at in range(0, size, MB // 4):
            piece = data[start_at : start_at + MB // 4]
            sock.sendall(piece)
            parts: list[bytes] = []
            while sum(map(len, parts)) < len(piece):
                parts.append(sock.recv(MB))
            assert b"".join(parts) == piece
        gateway.until(lambda: sum(args[1] for args in gateway.all("flushed")) == size)
        sock.unwrap().close()
        gateway.first("closed")
    names = [fact[0] for fact in gateway.facts if fact[0] in ("accepted", "secured", "received")]
    assert names[:3] == ["accepted", "secured", "received"]
    _, facts = gateway.all("secured")[0]
    assert facts.version == "TLSv1.3" and facts.cipher and facts.peer_subject is None


def test_a_first_message_in_the_handshakes_last_packet(start: Start, certificates: Certificates) -> None:
    gateway = echoing(tls_listener(certificates))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context(cafile=certificates.ca_file)
    tls = context.wrap_bio(incoming, outgoing, server_hostname="server.test")
    with start(gateway) as harness, dial(harness) as sock:
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        sock.sendall(outgoing.read())
        while True:
            incoming.write(sock.recv(MB))
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                pass
        tls.write(b"at once")
        sock.sendall(outgoing.read())
        conn = gateway.first("accepted")[2]
        gateway.until(lambda: gateway.data(conn) == b"at once")


def test_an_end_for_a_client_that_is_gone(start: Start, certificates: Certificates) -> None:
    """The end of TLS is something to send: that nobody is there to take it must not end the runner."""
    gateway = echoing(tls_listener(certificates))
    with start(gateway) as harness:
        sock = client(harness, certificates)
        (conn, _) = gateway.first("secured")
        harness.put(fx.PauseRead(conn))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        # The kernel has taken the reset when this one is through.
        with client(harness, certificates) as other:
            other.sendall(b"there")
            assert other.recv(5) == b"there"
            harness.put(fx.ShutdownWrite(conn))
            other.sendall(b"still")
            assert other.recv(5) == b"still"
        harness.put(fx.Close(conn))
        gateway.until(lambda: conn in {args[0] for args in gateway.all("closed")})


def test_client_certificates(start: Start, certificates: Certificates) -> None:
    own = certificates.issue("client, the first", "client.pem")
    optional = tls_listener(certificates, client_ca_file=certificates.ca_file)
    gateway = echoing(optional)
    with start(gateway) as harness:
        with client(harness, certificates, own) as sock:
            sock.sendall(b"x")
            assert sock.recv(9) == b"x"
        with client(harness, certificates) as sock:
            sock.sendall(b"y")
            assert sock.recv(9) == b"y"
    subjects = [facts.peer_subject for _, facts in gateway.all("secured")]
    assert subjects == ["CN=client\\, the first", None]
    required = tls_listener(certificates, client_ca_file=certificates.ca_file, require_client=True)
    gateway = echoing(required)
    with start(gateway) as harness:
        with client(harness, certificates) as sock, pytest.raises(OSError):
            # In TLS 1.3 the client hears of it with its first read.
            sock.recv(9)
        assert "peer did not return a certificate" in gateway.first("closed")[1]
        with client(harness, certificates, own) as sock:
            sock.sendall(b"z")
            assert sock.recv(9) == b"z"
    assert len(gateway.all("secured")) == 1


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_no_plain_text_and_no_old_versions(start: Start, certificates: Certificates) -> None:
    gateway = echoing(tls_listener(certificates))
    with start(gateway) as harness:
        with dial(harness) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert b"HTTP" not in read_all(sock)
        with dial(harness) as sock:
            sock.close()
        gateway.until(lambda: len(gateway.all("closed")) == 2)
        reasons = [reason for _, reason in gateway.all("closed")]
        assert reasons[0] == "TLS failed: http request" and reasons[1] == "connection reset by peer"
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.load_verify_locations(certificates.ca_file)
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        with dial(harness) as plain, pytest.raises(OSError):
            old.wrap_socket(plain, server_hostname="server.test")
    assert not gateway.all("secured") and not gateway.all("received")


def test_a_handshake_has_its_time(
    start: Start, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcpgate.body.HANDSHAKE_S", 0.1)
    gateway = echoing(tls_listener(certificates))
    with start(gateway) as harness, dial(harness):
        assert gateway.first("closed")[1] == "the TLS handshake took too long"


def test_the_core_may_end_a_handshake(start: Start, certificates: Certificates) -> None:
    gateway = echoing(tls_listener(certificates))
    ends = iter([fx.Close, fx.Abort])
    gateway.hooks["accepted"] = lambda _, peer, conn: gateway.put(fx.Write(conn, [b"x"]), next(ends)(conn))
    with start(gateway) as harness:
        for _ in range(2):
            # An abort may reach the client before it knows that it is connected.
            with contextlib.suppress(ConnectionResetError):
                dial(harness).close()
        gateway.until(lambda: len(gateway.all("closed")) == 2)
    assert sorted(reason for _, reason in gateway.all("closed")) == ["aborted", "closed"]


def test_renewed_certificates_are_taken_over(
    start: Start, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcpgate.tls.ServerContext.LOOK_EVERY_S", 0.0)
    path = Path(certificates.issue("server.test", "renewed.pem"))
    gateway = echoing(tls_listener(certificates, "renewed.pem"))
    with start(gateway) as harness, client(harness, certificates) as early:
        first = early.getpeercert()
        good = path.read_bytes()
        path.write_bytes(good[:200])
        with client(harness, certificates) as sock:
            assert sock.getpeercert() == first
        certificates.issue("server.test", "renewed.pem")
        with client(harness, certificates) as sock:
            assert sock.getpeercert() != first
        early.sendall(b"still here")
        assert early.recv(99) == b"still here"
    events = [record.event for record in harness.records]
    assert events == ["certificate_not_reloaded", "certificate_reloaded"]


def test_unusable_files_fail_the_start(run: Run, certificates: Certificates, tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("nonsense")
    good = str(certificates.folder / "server.pem")
    cases = {
        ("/nonexistent.pem", good, None): "cannot read /nonexistent.pem: no such file or directory",
        (str(tmp_path / "bad.pem"), good, None): f"cannot use {tmp_path}/bad.pem with {good}: ",
        (good, good, str(tmp_path / "bad.pem")): f"cannot use {tmp_path}/bad.pem: no certificates in PEM",
    }
    for (cert, key, authority), said in cases.items():
        tls = fx.ServerTls(cert_file=cert, key_file=key, client_ca_file=authority)
        gateway = FakeGateway(tcp(tls=tls))
        gateway.hooks["listen_failed"] = lambda *_, gateway=gateway: gateway.put(fx.Stopped("no"))
        before = Left()
        outcome = run(gateway, Options(signals=False))
        assert outcome.failure == "no" and outcome.listen_failures["tcp"].startswith(said)
        before.check()
