"""How the clients on an SDK tell their test what happens: a line of JSON each.

Must never: hold anything of an SDK.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

lock = threading.Lock()


def say(**facts: Any) -> None:
    with lock:
        sys.stdout.write(json.dumps(facts) + "\n")
        sys.stdout.flush()


def plain(value: Any) -> Any:
    return value.model_dump(by_alias=True, exclude_none=True, mode="json")
