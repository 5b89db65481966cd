"""How a run ends, on every runner: stops, failures, kills, and nothing left behind.

Must never: ask which runner it is.
"""

from __future__ import annotations

from mcpgate_proto import effects as fx
from tests.runner.conftest import Start
from tests.runner.fake import FakeGateway, child, gone, open_fds, tcp


def test_stop_event_asks_for_shutdown(start: Start) -> None:
    stop = anyio.Event()
    gateway = FakeGateway(tcp())
    gateway.hooks["shutdown"] = lambda grace_s: gateway.put(fx.Stopped())
    with start(gateway, stop=stop, grace_s=3.0):
        stop.set()
        gateway.first("shutdown")
    assert gateway.all("shutdown") == [(3.0,)]


def test_cancelled_run_leaves_nothing(start: Start) -> None:
    from mcpgate.asyncio_ import Options, serve

    before = open_fds()
    gateway = FakeGateway(tcp())
    ready = anyio.Event()
    gateway.hooks["started"] = lambda: gateway.put(child(1, GRANDCHILD))
    with anyio.create_task_group() as tasks:
        tasks.start_soon(serve, gateway, Options(signals=False, ready=lambda _: ready.set()))
        ready.wait()
        gateway.until(lambda: gateway.data(1).endswith(b"\n"))
        tasks.cancel_scope.cancel()
    assert open_fds() == before
    gone(gateway.all("connected")[0][1].pid)
    gone(int(gateway.data(1)))
