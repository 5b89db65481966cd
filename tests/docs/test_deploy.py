"""The examples of docs/deploy.md can be used as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

from mcpgate.settings import load

DOC = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text("utf-8")


def test_the_example_of_a_proxy(tmp_path: Path) -> None:
    part = DOC.split("### Behind a proxy\n", 1)[1]
    (example,) = re.findall(r"```toml\n(.*?)```", part, re.DOTALL)
    config = tmp_path / "mcpgate.toml"
    config.write_text('[[server]]\nname = "a"\ncommand = "/bin/sh"\n' + example)
    config.chmod(0o600)
    (listener,) = load(config).gateway.listeners
    assert f"proxy_pass http://{listener.host}:{listener.port};" in part
    assert listener.behind_proxy and listener.trusted_proxies
    assert all(f"server_name {name};" in part for name in listener.allowed_hosts)
