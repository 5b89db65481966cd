"""Scenes with rules: clients of two principals and both eras in front of model servers.

Owns: the four clients, servers with a secret of each kind and the rule that hides it, what servers were asked
for, and what of an answer may depend on the name that was asked for.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from fuzz.sim.clients import Call, Client
from fuzz.sim.scene import Scene
from fuzz.sim.talk import META, Message
from mcpgate_proto.config import Names, RuleConfig

__all__ = [
    "ALL_CLIENTS",
    "DUAL",
    "ERAS",
    "GUARDED",
    "LEGACY",
    "MODERN",
    "NO_SECRETS",
    "allow",
    "asked",
    "clients",
    "deny",
    "fingerprint",
    "listed",
    "notify",
    "rule",
    "stock",
    "up",
]

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


ERAS = pytest.mark.parametrize("eras", [LEGACY, MODERN, DUAL], ids=["legacy", "modern", "dual"])
ALL_CLIENTS = ["legacy stranger", "modern stranger", "legacy local", "modern local"]


def stock(scene: Scene) -> Scene:
    """Two of each kind on every server, one of them secret."""
    for server in scene.servers.values():
        server.tools = ("echo", "secret")
        server.scripts["secret"] = lambda job: job.say(secret=True)
        server.prompts = ("hello", "secret")
        server.resources = ("res://open", "res://secret")
        server.templates = ("res://open/{x}", "res://secret/{x}")
    scene.start()
    scene.run(2.0)
    return scene


NO_SECRETS = rule(tools=deny("secret"), prompts=deny("secret"), resources=deny("res://secret*"))
REACHING = ("tools/call", "prompts/get", "resources/read", "completion/complete", "resources/subscribe")


def asked(scene: Scene, method: str | None = None) -> list[Message]:
    """What servers were asked for that goes to one thing."""
    return [
        {"server": server.name, "method": message["method"], **(message.get("params") or {})}
        for server in scene.servers.values()
        for _, message in server.heard
        if message.get("method") in ((method,) if method else REACHING)
        or (message.get("method") == "subscriptions/listen" and "resourceSubscriptions" in str(message))
    ]


def listed(scene: Scene, client: Client) -> dict[str, list[str]]:
    found = {}
    for method, member, key in (
        ("tools/list", "tools", "name"),
        ("prompts/list", "prompts", "name"),
        ("resources/list", "resources", "uri"),
        ("resources/templates/list", "resourceTemplates", "uriTemplate"),
    ):
        found[member] = [one[key] for one in scene.done(client.request(method)).result[member]]
    return found


GUARDED = rule(only_tools=("run*",), arguments={"path": Names(deny=("*..*", "-*"))})


def notify(talk: Any, uri: str) -> None:
    if talk.over:
        return
    if not talk.modern:
        talk.send({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": uri}})
    for id, (_, out) in list(talk.listens.items()):
        params = {"uri": uri, "_meta": {META + "subscriptionId": id}}
        out({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": params})
