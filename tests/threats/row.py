"""One threat, as a row of the table, and the short names of the files that its tests are in.

Owns: `Row`. Must never: hold a row.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "BLACK_BOX",
    "GATEWAYS",
    "SERVERS",
    "CLI",
    "HTTP",
    "JSON",
    "KNOWN",
    "POLICY",
    "PROCESSES",
    "SECURITY",
    "SOCKET",
    "THREATS",
    "Row",
]

THREATS = "tests/threats/"
SECURITY = "tests/security/"
CLI = "tests/cli/"
KNOWN = THREATS + "test_known.py::test_t1_"
GATEWAYS = THREATS + "test_known_gateways.py::test_t1_"
SERVERS = THREATS + "test_http_servers.py::test_t3_"
JSON = THREATS + "test_json.py::test_t2_"
HTTP = THREATS + "test_http.py::test_t3_"
SOCKET = THREATS + "test_websocket.py::test_t4_"
PROCESSES = THREATS + "test_processes.py::test_t5_"
POLICY = THREATS + "test_policy.py::test_t0_"
BLACK_BOX = THREATS + "test_blackbox.py::test_"


class Row(NamedTuple):
    """`id` is `section.number`; `about` what could go wrong, or the policy; `feature` the files that answer
    it; `tests` are `file::function`. Where nothing is to be answered here, `reason` says why."""

    id: str
    about: str
    feature: str = ""
    tests: tuple[str, ...] = ()
    reason: str = ""
