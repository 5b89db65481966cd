"""mcpgate, the program: everything that touches the world.

Owns: the version and the one call that runs a configured gateway.
Must never: import the event loop, the command line or the core before they are used; `mcpgate version`
and shell completion should not pay for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcpgate_proto.config import GatewayConfig

__all__ = ["__version__", "run"]

__version__ = "0.1.0"


def run(config: GatewayConfig, *, backend: str = "asyncio") -> str | None:
    """Run a gateway with `config` until it is told to stop (SIGINT, SIGTERM).

    `backend` is "asyncio" or "trio". Returns `None` after a clean stop, else why it could not run.
    """
    import anyio

    from mcpgate.asyncio_ import new_gateway, serve

    async def main() -> str | None:
        return (await serve(new_gateway(config))).failure

    return anyio.run(main, backend=backend)
