"""atheris shim: `python fuzz/fuzz_gateway.py CORPUS -max_total_time=20` (PYTHONPATH: the repository)."""

import sys

import atheris

with atheris.instrument_imports(include=["mcpgate_proto", "h11", "wsproto"]):
    from fuzz.gateway_target import fuzz_gateway

atheris.Setup(sys.argv, fuzz_gateway)
atheris.Fuzz()
