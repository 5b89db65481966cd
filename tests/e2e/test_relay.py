"""The official SDK's client through the gateway to the official SDK's servers, each era in its own way."""

from __future__ import annotations

import pytest

from e2e.conftest import MODES, MakeClient, MakeGateway, MakePeer, World
from e2e.harness import LEGACY, PREFIX, SdkClient

NAMES = ["alpha", "beta", "gamma", "delta"]
DUAL = ["alpha", "beta"]


def use_everything(client: SdkClient, name: str, prefix: str = "") -> None:
    """Each feature of one server, through `client`."""
    tools = client.do("tools")["tools"]
    own = [tool for tool in tools if tool["description"].endswith(f" of {name}")]
    assert {tool["name"] for tool in own} >= {prefix + "echo", prefix + "big"}
    # A schema passes as it is.
    assert all(tool["inputSchema"]["$defs"] == {"kept": {"$anchor": "k"}} for tool in own)
    assert client.call(prefix + "who") == name
    assert client.call(prefix + "echo", text="grüße \U0001f30d") == "grüße \U0001f30d"
    result = client.do("call", name=prefix + "structured")
    assert result["structuredContent"] == {"answer": 42}
    assert result["_meta"]["example.org/kept"] == [1, 2, 3]
    uri = f"test://{name}/text"
    assert uri in {one["uri"] for one in client.do("resources")["resources"]}
    assert client.do("read", uri=uri)["contents"][0]["text"] == f"{name} has {uri}"
    template = f"test://{name}/item/{{id}}"
    assert template in {one["uriTemplate"] for one in client.do("templates")["resourceTemplates"]}
    item = f"test://{name}/item/7"
    assert client.do("read", uri=item)["contents"][0]["text"] == f"{name} has {item}"
    assert prefix + "greet" in {one["name"] for one in client.do("prompts")["prompts"]}
    prompt = client.do("prompt", name=prefix + "greet", arguments={"whom": "you"})
    assert prompt["messages"][0]["content"]["text"] == f"{name} greets you"
    argument = {"name": "whom", "value": name + "-t"}
    completion = client.do("complete", prompt=prefix + "greet", argument=argument)["completion"]
    assert completion["values"] == [f"{name}-two"]
    argument = {"name": "id", "value": ""}
    completion = client.do("complete", template=template, argument=argument)["completion"]
    assert completion["values"] == [f"{name}-one", f"{name}-two"]
    outcome = client.outcome(client.start("call", name=prefix + "no_such_tool"))
    assert outcome["error"]["code"] == -32602


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_every_feature(mode: str, name: str, world: World) -> None:
    client = world.clients[mode][0]
    assert client.ready["version"] == MODES[mode]
    use_everything(client, name, name + "__")


@pytest.mark.parametrize("mode", MODES)
def test_joined_lists_are_in_the_order_of_the_config(mode: str, world: World) -> None:
    client = world.clients[mode][0]
    assert set(client.ready["capabilities"]) >= {"tools", "resources", "prompts", "completions"}
    for kind, members in (("tools", "who"), ("prompts", "greet")):
        listed = [one["name"] for one in client.do(kind)[kind]]
        assert [one for one in listed if one.endswith("__" + members)] == [f"{n}__{members}" for n in NAMES]
    uris = [one["uri"] for one in client.do("resources")["resources"]]
    assert [one for one in uris if one.startswith("test://")] == [f"test://{name}/text" for name in NAMES]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", DUAL)
def test_each_client_meets_a_dual_server_in_its_own_era(mode: str, name: str, world: World) -> None:
    said = f"{mode} says hello"
    world.clients[mode][0].call(f"{name}__echo", text=said)
    journal = world.peers[name].journal
    (call,) = [one for one in journal.messages("tools/call") if one["params"]["arguments"] == {"text": said}]
    version = call["params"].get("_meta", {}).get(PREFIX + "protocolVersion")
    assert version == (None if mode == "legacy" else MODES[mode])


def test_legacy_sessions_are_opened_in_the_newest_legacy_revision(world: World) -> None:
    for name in NAMES:
        world.clients["legacy"][0].call(f"{name}__who")
        opened = world.peers[name].journal.messages("initialize")
        assert opened and all(one["params"]["protocolVersion"] == LEGACY for one in opened)


@pytest.mark.parametrize("mode", MODES)
def test_run_is_transparent(
    mode: str, make_peer: MakePeer, run_gateway: MakeGateway, make_client: MakeClient
) -> None:
    client = make_client(run_gateway(make_peer().argv), mode=mode)
    assert client.ready["version"] == MODES[mode]
    assert client.ready["instructions"] == "ask solo"
    use_everything(client, "solo")


@pytest.mark.parametrize("mode", MODES)
def test_connect_speaks_stdio(mode: str, world: World, make_client: MakeClient) -> None:
    """A client that starts `mcpgate connect URL` as its server."""
    client = make_client(command=["connect", world.peers["beta"].url], mode=mode)
    assert client.ready["version"] == MODES[mode]
    use_everything(client, "beta")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_five_megabytes(mode: str, name: str, world: World) -> None:
    size = 5 * 1024 * 1024
    result = world.clients[mode][0].do("call", name=f"{name}__big", arguments={"size": size})
    assert result["content"][0]["length"] == size


def test_a_long_call_with_progress(world: World) -> None:
    """All at once: each client of each era at each of its servers."""
    calls = [
        (client, client.start("call", name=f"{name}__steps", arguments={"count": 100}, progress=True))
        for mode, clients in world.clients.items()
        for client in clients
        for name in (NAMES if mode == "legacy" else DUAL)
    ]
    for client, number in calls:
        assert client.outcome(number)["ok"]["content"][0]["text"] == "100 steps"
        reported = [one["done"] for one in client.events("progress", n=number)]
        assert reported == sorted(set(reported)) and reported[-1] == 100
        assert len(reported) > 50


def test_progress_winds_up_the_clock_of_a_call(
    make_peer: MakePeer, serve_gateway: MakeGateway, make_client: MakeClient
) -> None:
    """A call that takes longer than the server's `timeout` in all, but is never silent that long."""
    gateway = serve_gateway([make_peer().config(timeout=0.5)])
    client = make_client(gateway, mode="auto")
    number = client.start("call", name="steps", arguments={"count": 100}, progress=True)
    assert client.outcome(number)["ok"]["content"][0]["text"] == "100 steps"
