"""atheris shim: `python fuzz/fuzz_websocket.py CORPUS -max_total_time=20` (PYTHONPATH: the repository)."""

import sys

import atheris

with atheris.instrument_imports(include=["mcpgate_proto", "wsproto", "h11"]):
    from fuzz.targets_websocket import fuzz_websocket

atheris.Setup(sys.argv, fuzz_websocket)
atheris.Fuzz()
