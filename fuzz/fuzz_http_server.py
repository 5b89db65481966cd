"""atheris shim: `python fuzz/fuzz_http_server.py CORPUS -max_total_time=20` (PYTHONPATH: the repository)."""

import sys

import atheris

with atheris.instrument_imports(include=["mcpgate_proto", "h11"]):
    from fuzz.targets import fuzz_http_server

atheris.Setup(sys.argv, fuzz_http_server)
atheris.Fuzz()
