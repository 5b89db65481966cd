"""Runs inside somebody else's loop: they can be cancelled, and leave nothing then."""

from __future__ import annotations

import sys
from typing import Any

import anyio
import pytest

import mcpgate
from mcpgate import asyncio_, curio_
from mcpgate.control import Control, Options
from mcpgate.life import run_gateway
from mcpgate_proto.config import GatewayConfig
from tests.runner.fake import FakeGateway, Left, child, gone, tcp
from tests.runner.test_children import GRANDCHILD


def with_a_child() -> FakeGateway:
    gateway = FakeGateway(tcp())
    gateway.hooks["started"] = lambda: gateway.put(child(1, GRANDCHILD))
    return gateway


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_cancelled_in_anyio(backend: str) -> None:
    gateway = with_a_child()

    async def body() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(asyncio_.serve, gateway, Options(signals=False))
            while not gateway.data(1).endswith(b"\n"):
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()

    before = Left()
    anyio.run(body, backend=backend)
    before.check()
    gone(gateway.all("connected")[0][1].pid, int(gateway.data(1)))


def test_cancelled_in_curio() -> None:
    gateway = with_a_child()

    async def body() -> None:
        task = await curio_.curio.spawn(curio_.serve, gateway, Options(signals=False))
        while not gateway.data(1).endswith(b"\n"):
            await curio_.curio.sleep(0.01)
        await task.cancel()

    before = Left()
    curio_.curio.run(body)
    before.check()
    gone(gateway.all("connected")[0][1].pid, int(gateway.data(1)))


def test_the_help_for_curios_import_is_gone() -> None:
    import multiprocessing.connection
    import ssl

    assert curio_.curio is sys.modules["curio"]
    assert hasattr(ssl, "wrap_socket") == (sys.version_info < (3, 12))
    assert hasattr(multiprocessing.connection, "CHALLENGE") == (sys.version_info < (3, 12))


def test_run_in_code(runner: str) -> None:
    control = Control()
    seen: list[Any] = []
    before = Left()

    def ready(addresses: Any) -> None:
        seen.append(addresses)
        control.stop(0.0)

    config = GatewayConfig(listeners=(mcpgate_listener(),))
    failure = mcpgate.run(config, runner=runner, signals=False, control=control, ready=ready, log=seen.append)
    assert failure is None
    assert seen[0].event == "listening" and any("http" in one for one in seen if isinstance(one, dict))
    before.check()


def mcpgate_listener() -> Any:
    from mcpgate_proto.config import ListenConfig

    return ListenConfig(name="http")


def test_a_runner_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="choose one of: asyncio, trio, curio, blocking"):
        run_gateway(None, "gevent", Options())
    monkeypatch.delitem(sys.modules, "mcpgate.curio_", raising=False)
    monkeypatch.setitem(sys.modules, "curio", None)
    with pytest.raises(ImportError, match="pip install curio"):
        run_gateway(None, "curio", Options())
