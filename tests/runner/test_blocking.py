"""What only the blocking runner has: its cap on clients, and its threads.

Must never: repeat what every runner has.
"""

from __future__ import annotations

import socket
import threading

from mcpgate import blocking
from mcpgate_proto import effects as fx
from mcpgate_proto.effects import Address
from tests.cli.test_imports import loaded_by
from tests.runner.fake import dial, echoing, running, tcp


def test_clients_beyond_the_cap_are_refused() -> None:
    gateway = echoing(tcp())
    with running(gateway, lambda gate, options: blocking.serve(gate, options, most_clients=3)) as harness:
        clients = [dial(harness) for _ in range(3)]
        for client in clients:
            client.sendall(b"x")
            assert client.recv(9) == b"x"
        for _ in range(2):
            with dial(harness) as refused:
                try:
                    assert refused.recv(9) == b""
                except ConnectionResetError:
                    pass
        assert len(gateway.all("accepted")) == 3
        assert [(r.event, r.fields) for r in harness.records] == [("clients_refused", (("most", 3),))]
        # What the gateway itself dials is not counted.
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = Address(host="127.0.0.1", port=server.getsockname()[1])
            harness.put(*(fx.Connect(n, address) for n in range(5)))
            gateway.until(lambda: len(gateway.all("connected")) == 5)
            harness.put(*(fx.Abort(n) for n in range(5)))
            gateway.until(lambda: len(gateway.all("closed")) == 5)
        clients.pop().close()
        gateway.until(lambda: len(gateway.all("closed")) == 6)
        with dial(harness) as late:
            late.sendall(b"y")
            assert late.recv(9) == b"y"
        for client in clients:
            client.close()


def test_threads_are_kept_and_not_multiplied() -> None:
    gateway = echoing(tcp())
    with running(gateway, blocking.run_blocking) as harness:
        with dial(harness) as client:
            client.sendall(b"x")
            client.recv(9)
            conn = gateway.first("accepted")[2]
            before = threading.active_count()
            for _ in range(20):
                harness.put(fx.PauseRead(conn), fx.ResumeRead(conn))
            assert threading.active_count() == before


def test_it_loads_no_event_loop() -> None:
    found = loaded_by(
        "import mcpgate.blocking, mcpgate.life; from mcpgate_proto.config import GatewayConfig;"
        "mcpgate.life.new_gateway(GatewayConfig())"
    )
    assert "mcpgate.blocking" in found
    assert not found & {"anyio", "asyncio", "trio", "curio", "uvloop", "click", "rich"}
