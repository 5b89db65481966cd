"""The runners under test, and a certificate authority of the tests' own.

Must never: be reachable from elsewhere, or leave key material outside the test's folder.
"""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mcpgate import asyncio_
from mcpgate.life import run_gateway
from mcpgate_proto.effects import Address
from tests.runner.fake import Harness, Run, running

Start = Callable[..., AbstractContextManager[Harness]]
UVLOOP = asyncio_.uvloop_factory()
if UVLOOP is not None:
    # Its library opens one pipe for the whole process with the first loop.
    UVLOOP().close()
NO_UVLOOP = pytest.mark.skipif(UVLOOP is None, reason="uvloop is not installed")


@dataclass
class Cell:
    """A runner as it is chosen, and the event loop it finds."""

    runner: str
    uvloop: Any = None


CELLS = {
    "asyncio": Cell("asyncio"),
    "uvloop": Cell("asyncio", UVLOOP),
    "trio": Cell("trio"),
    "curio": Cell("curio"),
    "blocking": Cell("blocking"),
}


@pytest.fixture(params=[pytest.param(n, marks=NO_UVLOOP if n == "uvloop" else ()) for n in CELLS])
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a gateway to its end, once on each runner."""
    cell = CELLS[request.param]
    monkeypatch.setattr(asyncio_, "uvloop_factory", lambda: cell.uvloop)
    return lambda gateway, options: run_gateway(gateway, cell.runner, options)


@pytest.fixture
def start(run: Run) -> Start:
    """A run in a thread, once on each runner: a context that ends it and counts what is left."""
    return lambda gateway, **options: running(gateway, run, **options)


@pytest.fixture(params=[name for name in CELLS if name != "uvloop"])
def runner(request: pytest.FixtureRequest) -> str:
    """The name of each runner, for the tests that start the command."""
    return str(request.param)


@dataclass
class TlsServer:
    address: Address
    ca_file: str


@dataclass
class Certificates:
    """Files of one authority: `issue` writes a certificate with its key."""

    folder: Path
    ca_file: str
    issue: Callable[[str, str], str]


def _certificate(
    name: str, issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer_name, issuer_key = issuer or (subject, key)
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    )
    if issuer is None:
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        builder = builder.add_extension(usage, critical=True)
    return builder.sign(issuer_key, hashes.SHA256()), key


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _echo(sock: socket.socket, context: ssl.SSLContext) -> None:
    """Echo; the word `quit` ends it properly. Clients that turn away are expected."""
    with contextlib.suppress(OSError), context.wrap_socket(sock, server_side=True) as tls:
        while data := tls.recv(65536):
            if data == b"quit":
                tls.unwrap()
                return
            tls.sendall(data)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder: Path = tmp_path_factory.mktemp("tls")
    ca, ca_key = _certificate("test authority", None)
    (folder / "ca.pem").write_bytes(ca.public_bytes(serialization.Encoding.PEM))

    def issue(name: str, file: str) -> str:
        leaf, leaf_key = _certificate(name, (ca.subject, ca_key))
        whole = _pem(leaf_key) + leaf.public_bytes(serialization.Encoding.PEM)
        # As renewals are: a new file in the old one's place.
        (folder / "new").write_bytes(whole)
        (folder / "new").rename(folder / file)
        return str(folder / file)

    issue("server.test", "server.pem")
    return Certificates(folder, str(folder / "ca.pem"), issue)


@pytest.fixture(scope="session")
def tls_server(certificates: Certificates) -> Iterator[TlsServer]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.folder / "server.pem")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = server.accept()
                    threading.Thread(target=_echo, args=(sock, context), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        host, port = server.getsockname()
        yield TlsServer(Address(host=host, port=port), certificates.ca_file)
        server.shutdown(socket.SHUT_RDWR)
