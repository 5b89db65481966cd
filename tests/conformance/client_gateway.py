"""A gateway in front of one HTTP server, for the suite's client scenarios: PORT UPSTREAM FOLDER.

Owns: its config. It becomes `mcpgate serve`, recorded in FOLDER.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

port, upstream, folder = sys.argv[1:4]
path = Path(folder) / f"client-{port}.toml"
path.write_text(
    f'[[listen]]\nkind = "http"\nport = {port}\n'
    f'[[server]]\nname = "upstream"\ntransport = "http"\nurl = "{upstream}"\n'
)
record = str(Path(folder) / f"client-{port}.rec")
argv = [sys.executable, "-m", "mcpgate", "serve", "-c", str(path), "--record", record]
os.execv(sys.executable, argv)
