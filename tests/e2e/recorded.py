"""The `mcpgate` command, each gateway of which is recorded in the folder that MCPGATE_RECORDINGS names.

Owns: nothing of a gateway: it puts the recorder of `--record` where the commands make theirs, so that no test
can forget it. Must never: change what the command does.
"""

from __future__ import annotations

import atexit
import itertools
import os
import sys
from pathlib import Path
from typing import Any

from mcpgate import __version__, life
from mcpgate.journal import Recorder
from mcpgate_proto.config import GatewayConfig

numbers = itertools.count(1)


def new_gateway(config: GatewayConfig, *, seed: bytes | None = None) -> Any:
    path = Path(os.environ["MCPGATE_RECORDINGS"]) / f"{os.getpid()}-{next(numbers)}.rec"
    recorder = Recorder.start(config, str(path), version=__version__)
    atexit.register(recorder.close)
    return recorder


if __name__ == "__main__":
    from mcpgate.cli import main

    life.new_gateway = new_gateway
    # As `python -m mcpgate` has it: no folder of this file's on the path.
    del sys.path[0]
    main()
