"""Extensions across the gateway, on virtual time (N1, N2, N5-N9, L0.2)."""

from __future__ import annotations

from fuzz.sim.scene import Scene
from fuzz.sim.talk import META, Message
from tests.sim.tasks_model import (
    BOTH,
    TASKS,
    UI,
    ModernClient,
    TaskServer,
    ask,
    call,
    legacy,
    modern,
    one,
    scene_of,
    told_upstream,
)

VENDOR = "com.example/thing"
AUTH = "io.modelcontextprotocol/oauth-client-credentials"
HTML: Message = {"mimeTypes": ["text/html;profile=mcp-app"]}
DECLARED: Message = {"extensions": {UI: HTML, VENDOR: {"a": 1}, AUTH: {}}}


@BOTH
def test_one_transparent_server_is_told_of_every_extension_but_those_of_the_hop(transport: str) -> None:
    """N1, N2, N9."""
    scene, server = one(transport, transparent=True, drive_tasks=False)
    client = modern(scene, {**DECLARED, "sampling": {}})
    assert call(scene, client, "echo").text
    assert told_upstream(server, "tools/call") == {UI: HTML, VENDOR: {"a": 1}}
    assert scene.problems() == []


def test_an_aggregate_carries_what_the_gateway_understands() -> None:
    """N2, L0.2: and never more than the client declared."""
    scene, server = one("http", drive_tasks=False)
    assert call(scene, modern(scene, DECLARED), "echo").text
    assert told_upstream(server, "tools/call") == {UI: HTML}
    assert call(scene, modern(scene), "echo").text
    meta = server.asked("tools/call")[-1]["params"]["_meta"]
    assert UI not in str(meta)


def test_malformed_extensions_are_not_there() -> None:
    """A16, N1: an id has a prefix, settings are an object."""
    scene, server = one("http", transparent=True, drive_tasks=False)
    bad: Message = {"extensions": {"noprefix": {}, "a.b/": {}, "x.y/z": 1, UI: [], "é.b/c": {}, "q.r/s": {}}}
    assert call(scene, modern(scene, bad), "echo").text
    assert told_upstream(server, "tools/call") == {"q.r/s": {}}
    for odd in ([], 1, None, "x"):
        assert call(scene, modern(scene, {"extensions": odd}), "echo").text
        assert told_upstream(server, "tools/call") == {}


def discovered(scene: Scene, client: ModernClient) -> Message:
    return ask(scene, client, "server/discover").result["capabilities"]  # type: ignore[no-any-return]


def test_discover_advertises_what_a_modern_server_declares_and_the_gateway_carries() -> None:
    """N2, G2."""
    scene = scene_of({"a": ("http", ("modern",)), "b": ("http", ("modern",)), "c": ("stdio", ("legacy",))})
    a, b, c = (scene[name] for name in "abc")
    assert isinstance(a, TaskServer) and isinstance(b, TaskServer) and isinstance(c, TaskServer)
    a.extensions, b.extensions = {UI: {"from": "a"}, VENDOR: {}}, {UI: {"from": "b"}, TASKS: {}, AUTH: {}}
    c.extensions = {"com.example/legacy": {}, UI: {"from": "c"}}
    scene.start().run(2.0)
    assert discovered(scene, modern(scene))["extensions"] == {TASKS: {}, UI: {"from": "a"}}
    # Legacy peers: the same rule among themselves.
    hello = legacy(scene).hello.result["capabilities"]
    assert hello["extensions"] == {UI: {"from": "c"}}


def test_one_transparent_server_is_shown_with_the_extensions_it_has() -> None:
    scene, server = one("stdio", transparent=True)
    assert discovered(scene, modern(scene))["extensions"] == {TASKS: {}}
    scene = scene_of({"one": ("http", ("modern",))}, transparent=True)
    plain = scene.only
    assert isinstance(plain, TaskServer)
    plain.extensions = {}
    scene.start().run(1.0)
    assert "extensions" not in discovered(scene, modern(scene))


def test_legacy_peers_exchange_extensions_in_the_handshake() -> None:
    """N2; tasks are none of theirs (L22)."""
    scene, server = one("http", "legacy", transparent=True)
    client = legacy(scene, {**DECLARED, "elicitation": {}})
    assert call(scene, client, "echo").text
    told = [one["params"]["capabilities"].get("extensions") for one in server.asked("initialize")]
    assert {UI: HTML, VENDOR: {"a": 1}} in told
    assert "extensions" not in client.hello.result["capabilities"]  # the server declared tasks alone


def test_ui_metadata_stays_as_it_is_and_unlisted_ui_resources_have_an_owner() -> None:
    """N5, N6."""
    scene = scene_of({"a": ("http", ("modern",)), "b": ("stdio", ("legacy",))})
    a, b = scene["a"], scene["b"]
    assert isinstance(a, TaskServer) and isinstance(b, TaskServer)
    ui = {
        "resourceUri": "ui://b/view",
        "visibility": ["app"],
        "x": 1.50,
        "csp": {"connectDomains": ["https://x"]},
    }
    a.resources, b.resources = ("file:///a",), ("file:///b",)
    b.more = {"echo": {"_meta": {"ui": ui}}, "slow": {"_meta": {"ui/resourceUri": "ui://b/old"}}}
    b.templates, a.templates = ("ui://b/v{rest}",), ()
    plain = b.resource
    b.resource = lambda uri: f"b:{uri}" if uri.startswith("ui://b/") else plain(uri)  # type: ignore[method-assign]
    b.templates = ()
    scene.start().run(2.0)
    client = modern(scene, DECLARED)
    for uri in ("ui://b/view", "ui://b/old"):
        assert ask(scene, client, "resources/read", uri=uri).result["contents"][0]["text"] == f"b:{uri}"
    assert ask(scene, client, "resources/read", uri="ui://nobody").code == -32602
    tools = ask(scene, client, "tools/list").result["tools"]
    assert next(tool for tool in tools if tool["name"] == "b__echo")["_meta"] == {"ui": ui}
    assert ask(scene, legacy(scene), "resources/read", uri="ui://b/view").result["contents"][0]["text"]


def test_lists_are_read_with_what_the_client_declares() -> None:
    """N8, H24: settings go on, and each has lists of its own; clients without them share the plain ones."""
    scene = scene_of({"a": ("http", ("modern",)), "b": ("stdio", ("legacy",))})
    a = scene["a"]
    assert isinstance(a, TaskServer)
    a.ttl_ms = 600_000
    scene.start().run(2.0)

    def listed(declared: Message) -> Message:
        seen = len(a.asked("tools/list"))
        assert ask(scene, modern(scene, declared), "tools/list").result["tools"]
        new = a.asked("tools/list")[seen:]
        return {"none": True} if not new else new[0]["params"]["_meta"][META + "clientCapabilities"]

    listed({})
    assert listed({"sampling": {}, "extensions": {VENDOR: {}, "io.modelcontextprotocol/tasks": {}}}) == {
        "none": True
    }
    assert listed({"sampling": {}, **DECLARED}) == {"extensions": {UI: HTML}}
    assert listed(DECLARED) == {"none": True}
    other: Message = {"extensions": {UI: {"mimeTypes": []}}}
    assert listed(other) == other
    for number in range(20):  # bounded
        listed({"extensions": {UI: {"n": number}}})
    assert listed({"extensions": {UI: {"n": 99}}}) == {"none": True}
    assert call(scene, modern(scene, other), "a__echo").text
    assert call(scene, modern(scene, other), "b__echo").text
    assert scene.problems() == []
