"""atheris shim: `python fuzz/fuzz_sse.py CORPUS -max_total_time=20` (PYTHONPATH: the repository)."""

import sys

import atheris

with atheris.instrument_imports(include=["mcpgate_proto", "h11"]):
    from fuzz.targets import fuzz_sse

atheris.Setup(sys.argv, fuzz_sse)
atheris.Fuzz()
