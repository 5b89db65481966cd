"""Random rules over random servers: what is listed is what can be called, in both eras, for every principal.

The oracle decides by the definition of a rule and with a glob matcher of its own. Must never: ask `Rules`.
"""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.sim.clients import Call, Client
from fuzz.sim.scene import Scene
from mcpgate_proto.config import Names, RuleConfig
from tests.security.scenes import DUAL, LEGACY, LOCAL, MODERN, STRANGER, clients, fingerprint, up
from tests.security.test_globs import oracle

OWN = ("echo", "secret", "Secret", "s-1", "a__echo")
UNKNOWN = "no-such-thing"
KINDS = ("tools", "prompts", "resources")
GLOBS = st.lists(
    st.sampled_from(["*", "e*", "*cho", "s?1", "secret", "S*", "res://s*", "??"]), max_size=2
).map(tuple)
FILTERS = st.none() | st.builds(lambda a, d: Names(allow=a, deny=d), st.none() | GLOBS, GLOBS)
RULES = st.lists(
    st.builds(
        RuleConfig,
        principals=st.sampled_from([("*",), (STRANGER,), (LOCAL,), ("l*", "key:*")]),
        except_principals=st.sampled_from([(), (STRANGER,), ("local",)]),
        servers=st.sampled_from([("*",), ("a",), ("b",), ("?",)]),
        tools=FILTERS,
        prompts=FILTERS,
        resources=FILTERS,
        rename=st.sampled_from([{}, {}, {"echo": "shown"}, {"s*": "x-*"}, {"secret": "b__echo"}]),
    ),
    max_size=3,
).map(tuple)


def let(rules: tuple[RuleConfig, ...], who: str, server: str, kind: str, own: str) -> bool:
    """By the definition."""

    def fits(globs: tuple[str, ...], text: str) -> bool:
        return any(oracle(glob, text) for glob in globs)

    for one in rules:
        names: Names | None = getattr(one, kind)
        applies = (
            fits(one.principals, who) and not fits(one.except_principals, who) and fits(one.servers, server)
        )
        if not applies or names is None:
            continue
        if names.allow is not None and not fits(names.allow, own):
            return False
        if fits(names.deny, own):
            return False
    return True


def stocked(
    servers: dict[str, tuple[str, tuple[str, ...]]], rules: tuple[RuleConfig, ...], prefix: str
) -> Scene:
    transparent = prefix == "transparent" and len(servers) == 1
    scene = up(servers, *rules, prefix="auto" if prefix == "transparent" else prefix, transparent=transparent)
    for server in scene.servers.values():
        server.tools = server.prompts = OWN
        server.resources = tuple(f"res://{one}" for one in OWN[:3])
        for name in OWN:
            # A prompt answers as a tool would, which tells as much.
            server.scripts[name] = lambda job: job.say()
    scene.start()
    scene.run(2.0)
    return scene


class Reached:
    """What servers are asked for from now on: (server, kind, own)."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._seen = {name: len(server.heard) for name, server in scene.servers.items()}

    def __call__(self) -> list[tuple[str, str, str]]:
        found = []
        for name, server in self._scene.servers.items():
            for _, message in server.heard[self._seen[name] :]:
                kind = KIND_OF.get(message.get("method", ""))
                if kind is not None:
                    params = message["params"]
                    found.append((name, kind, params.get("name") or params["uri"]))
        return found


METHODS = {
    "tools": ("tools/list", "tools", "name", "tools/call"),
    "prompts": ("prompts/list", "prompts", "name", "prompts/get"),
    "resources": ("resources/list", "resources", "uri", "resources/read"),
}


KIND_OF = {told[3]: kind for kind, told in METHODS.items()}


def use(scene: Scene, client: Client, kind: str, name: str) -> Call:
    member = "uri" if kind == "resources" else "name"
    return scene.done(client.request(METHODS[kind][3], {member: name}))


def candidates(shown: list[str], kind: str, servers: list[str]) -> list[str]:
    """Every name that a client could think of."""
    if kind == "resources":
        own = [f"res://{one}" for one in OWN[:3]]
        return list(dict.fromkeys([*shown, *own, *(f"mcpgate://{s}/{one}" for s in servers for one in own)]))
    prefixed = [f"{server}__{one}" for server in servers for one in OWN]
    return list(dict.fromkeys([*shown, *OWN, *prefixed, "shown", "x-1", "x-ecret"]))


CONFIGS = st.tuples(
    st.sampled_from(["auto", "always", "never", "transparent"]),
    st.sampled_from(
        [
            {"a": ("stdio", LEGACY)},
            {"a": ("http", MODERN)},
            {"a": ("stdio", DUAL), "b": ("http", MODERN)},
            {"a": ("stdio", MODERN), "b": ("stdio", LEGACY)},
        ]
    ),
    RULES,
    st.booleans(),
)
SETTINGS = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@SETTINGS
@given(CONFIGS)
def test_what_is_listed_is_what_can_be_used(
    config: tuple[str, dict[str, tuple[str, tuple[str, ...]]], tuple[RuleConfig, ...], bool],
) -> None:
    prefix, servers, rules, early = config
    scene = stocked(servers, rules, prefix)
    for label, client in clients(scene).items():
        who = LOCAL if "local" in label else STRANGER
        for kind, (lister, member, key, _) in METHODS.items():
            if not any(getattr(one, kind) is not None for one in rules):
                continue  # nothing is denied, and a single server is its own judge
            # Before any list was read: the first answer must be like the last.
            unknown = use(scene, client, kind, UNKNOWN) if early else None
            shown = [one[key] for one in scene.done(client.request(lister)).result[member]]
            for name in candidates(shown, kind, list(servers)):
                reached = Reached(scene)
                call = use(scene, client, kind, name)
                if name in shown:
                    assert call.code is None and len(reached()) == 1, (label, kind, name)
                # Whatever was reached is let by the definition; nothing else has left the gateway.
                for server, of, own in reached():
                    assert of == kind and let(rules, who, server, kind, own), (label, kind, name, own)
                if not reached():
                    assert call.code in (-32602, -32002)
                    other = unknown or use(scene, client, kind, UNKNOWN)
                    assert same(call, name, other, UNKNOWN), (label, kind, name)
            # All that may be used is shown, but for what lost its name to another.
            if prefix in ("auto", "always") and not any(one.rename for one in rules):
                every = OWN if kind != "resources" else [f"res://{one}" for one in OWN[:3]]
                expected = sum(let(rules, who, server, kind, own) for server in servers for own in every)
                assert len(shown) == expected, (label, kind, shown)
    assert scene.problems() == []


def same(one: Call, name: str, other: Call, unknown: str) -> bool:
    """They differ in the name alone. Of a URI that no rule forbids a server may have been asked."""
    first, second = fingerprint(one, name), fingerprint(other, unknown)
    return first == second or "resource not found" in first[1] + second[1]
