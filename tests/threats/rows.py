"""The threats that mcpgate answers, one row each: by which feature, and which test shows it.

Owns: the table behind docs/threats.md. Comments in the code that say "threats.md row 34" mean `1.34`;
"threats.md 3" is the section. Must never: name a test that does not exist, or lose a row; `test_rows.py`
sees to both.
"""

from __future__ import annotations

from tests.threats.row import Row
from tests.threats.rows_known import KNOWN_ROWS
from tests.threats.rows_policy import POLICY_ROWS
from tests.threats.rows_processes import PROCESS_ROWS
from tests.threats.rows_wire import HTTP_ROWS, JSON_ROWS, WEBSOCKET_ROWS

__all__ = ["ROWS", "SECTIONS", "Row"]

# The number of rows of each section: none can vanish unseen.
SECTIONS: dict[str, tuple[str, int]] = {
    "0": ("The security policy", 23),
    "1": ("What has hit other SDKs, gateways and bridges", 53),
    "2": ("JSON", 19),
    "3": ("HTTP/1.1", 23),
    "4": ("WebSocket", 13),
    "5": ("Processes, files, Unix sockets", 27),
}

ROWS: list[Row] = [*POLICY_ROWS, *KNOWN_ROWS, *JSON_ROWS, *HTTP_ROWS, *WEBSOCKET_ROWS, *PROCESS_ROWS]
