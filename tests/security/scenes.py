"""Scenes with rules: clients of two principals and both eras in front of model servers.

Owns: the four clients, and what of an answer may depend on the name that was asked for.
"""

from __future__ import annotations

import json
from typing import Any

from fuzz.sim.clients import Call, Client
from fuzz.sim.scene import Scene
from mcpgate_proto.config import Names, RuleConfig

__all__ = ["DUAL", "LEGACY", "MODERN", "allow", "clients", "deny", "fingerprint", "rule", "up"]

LEGACY, MODERN, DUAL = ("legacy",), ("modern",), ("legacy", "modern")
# Who comes in over TCP, and who over a Unix socket of the gateway's own user.
STRANGER, LOCAL = "anonymous", "local"


def allow(*names: str) -> Names:
    return Names(allow=names)


def deny(*names: str) -> Names:
    return Names(deny=names)


def rule(**told: Any) -> RuleConfig:
    return RuleConfig(**told)


def up(servers: dict[str, tuple[str, tuple[str, ...]]], *rules: RuleConfig, **options: Any) -> Scene:
    """A scene that is not started yet: its servers want their tools first."""
    return Scene(servers, rules=rules, listeners=("http", "unix"), **options)


def clients(scene: Scene) -> dict[str, Client]:
    """One of each principal and era; modern ones over HTTP and over a pipe."""
    return {
        "legacy stranger": scene.legacy(),
        "modern stranger": scene.modern(),
        "legacy local": scene.legacy_pipe(listener="unix"),
        "modern local": scene.modern_pipe(listener="unix"),
    }


def fingerprint(call: Call, *names: str) -> tuple[int, str]:
    """The status and the whole answer, with its id and every one of `names` left out."""
    assert call.answer is not None, f"no answer to {call.method} {call.params}"
    told = json.dumps({**call.answer, "id": None}, sort_keys=True)
    for name in names:
        told = told.replace(json.dumps(name)[1:-1], "@")
    return call.status, told
