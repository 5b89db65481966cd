"""TLS on both sides, on every runner.

Must never: use the real core, or ask which runner it is.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from mcpgate_proto import effects as fx
from mcpgate_proto.effects import TlsOptions
from tests.runner.conftest import Start
from tests.runner.fake import MB, FakeGateway


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
