"""mcpgate, the program: everything that touches the world.

Owns: the version and the one call that runs a configured gateway.
Must never: import the event loop, the command line or the core before they are used; `mcpgate version`
and shell completion should not pay for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcpgate.control import Control
    from mcpgate_proto.config import GatewayConfig
    from mcpgate_proto.effects import Address, Record

__all__ = ["__version__", "run"]

__version__ = "0.1.0"


def run(
    config: GatewayConfig,
    *,
    runner: str = "asyncio",
    grace_s: float = 5.0,
    signals: bool = True,
    reload: Callable[[], GatewayConfig | None] | None = None,
    log: Callable[[Record], None] | None = None,
    ready: Callable[[dict[str, Address]], None] | None = None,
    control: Control | None = None,
) -> str | None:
    """Run a gateway with `config` until it is told to stop. Returns `None` then, else why it could not run.

    `runner` is "asyncio", "trio", "curio" or "blocking". SIGINT and SIGTERM stop it: calls in flight have
    `grace_s` to finish; a second signal ends it at once. On SIGHUP it takes over what `reload` returns.
    Outside the main thread there can be no signals: give `signals=False` and a `mcpgate.control.Control`,
    whose `stop` and `reload` may be called from any thread. `log` gets each record, without the secrets in
    `config`; `ready` is called with the bound address of each listener once clients are let in.
    """
    from mcpgate.control import Control, Options
    from mcpgate.life import new_gateway, run_gateway
    from mcpgate.redact import Redactor, secrets_of

    options = Options(
        sink=Redactor(secrets_of(config)).sink(log) if log is not None else lambda record: None,
        control=control or Control(),
        signals=signals,
        grace_s=grace_s,
        reload=reload,
        ready=ready or (lambda addresses: None),
    )
    return run_gateway(new_gateway(config), runner, options).failure
