"""atheris shim: `python fuzz/fuzz_websocket_handshake.py CORPUS` (PYTHONPATH: the repository)."""

import sys

import atheris

with atheris.instrument_imports(include=["mcpgate_proto", "wsproto", "h11"]):
    from fuzz.targets_websocket import fuzz_websocket_handshake

atheris.Setup(sys.argv, fuzz_websocket_handshake)
atheris.Fuzz()
