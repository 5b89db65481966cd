"""The official SDK's client through the gateway to the official SDK's servers, each era in its own way."""

from __future__ import annotations

import json
import sys

import pytest

from e2e.conftest import MakeClient, MakeGateway, MakePeer
from e2e.harness import LEGACY, MODERN, SdkClient, environment

MODES = {"legacy": LEGACY, "auto": MODERN}


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
def test_run_is_transparent(
    mode: str, make_peer: MakePeer, run_gateway: MakeGateway, make_client: MakeClient
) -> None:
    client = make_client(run_gateway(make_peer()), mode=mode)
    assert client.ready["version"] == MODES[mode]
    assert client.ready["instructions"] == "ask alpha"
    assert set(client.ready["capabilities"]) >= {"tools", "resources", "prompts", "completions"}
    use_everything(client, "alpha")


@pytest.mark.parametrize("mode", MODES)
def test_serve_joins_servers(
    mode: str, make_peer: MakePeer, serve_gateway: MakeGateway, make_client: MakeClient
) -> None:
    """Dual-era on stdio, dual-era on HTTP, and a legacy one: a client sees those of its own era."""
    peers = [make_peer("alpha"), make_peer("beta", http=True), make_peer("gamma", sdk=1)]
    client = make_client(serve_gateway(peers), mode=mode)
    assert client.ready["version"] == MODES[mode]
    names = ["alpha", "beta", "gamma"] if mode == "legacy" else ["alpha", "beta"]
    for name in names:
        use_everything(client, name, name + "__")
    listed = [tool["name"] for tool in client.do("tools")["tools"]]
    assert [one for one in listed if one.endswith("__who")] == [f"{name}__who" for name in names]


@pytest.mark.parametrize("sdk", [1, 2])
@pytest.mark.parametrize("http", [False, True], ids=["stdio", "http"])
def test_legacy_client_with_each_server(
    sdk: int, http: bool, make_peer: MakePeer, serve_gateway: MakeGateway, make_client: MakeClient
) -> None:
    peer = make_peer("solo", sdk=sdk, http=http)
    client = make_client(serve_gateway([peer]), mode="legacy")
    use_everything(client, "solo")
    opened = peer.journal.messages("initialize")
    assert len(opened) >= 1
    assert all(one["params"]["protocolVersion"] == LEGACY for one in opened)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("http", [False, True], ids=["stdio", "http"])
def test_each_client_meets_its_own_era(
    mode: str, http: bool, make_peer: MakePeer, serve_gateway: MakeGateway, make_client: MakeClient
) -> None:
    peer = make_peer("solo", http=http)
    client = make_client(serve_gateway([peer]), mode=mode)
    assert client.call("echo", text="hello") == "hello"
    (call,) = peer.journal.messages("tools/call")
    assert ("io.modelcontextprotocol/protocolVersion" in call["params"].get("_meta", {})) == (mode == "auto")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sdk", [1, 2])
def test_connect_speaks_stdio(mode: str, sdk: int, make_peer: MakePeer, make_client: MakeClient) -> None:
    """A client that starts `mcpgate connect URL` as its server."""
    if sdk == 1 and mode == "auto":
        pytest.skip("the SDK's client tries the modern era first: see test_auto_client_falls_back")
    peer = make_peer("remote", sdk=sdk, http=True)
    argv = [sys.executable, "-m", "mcpgate", "connect", peer.url]
    client = make_client(stdio=json.dumps(argv), env=json.dumps(environment()), mode=mode)
    assert client.ready["version"] == MODES[mode]
    use_everything(client, "remote")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("http", [False, True], ids=["stdio", "http"])
def test_five_megabytes(
    mode: str, http: bool, make_peer: MakePeer, serve_gateway: MakeGateway, make_client: MakeClient
) -> None:
    client = make_client(serve_gateway([make_peer("solo", http=http)]), mode=mode)
    size = 5 * 1024 * 1024
    result = client.do("call", name="big", arguments={"size": size})
    assert result["content"][0]["length"] == size


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("http", [False, True], ids=["stdio", "http"])
def test_a_long_call_with_progress(
    mode: str, http: bool, make_peer: MakePeer, serve_gateway: MakeGateway, make_client: MakeClient
) -> None:
    """Progress winds up the clock of a call, which takes longer than the server's `timeout` in all."""
    peer = make_peer("solo", http=http)
    gateway = serve_gateway([peer.config(timeout=1.0)])
    client = make_client(gateway, mode=mode)
    number = client.start("call", name="steps", arguments={"count": 150}, progress=True)
    assert client.outcome(number)["ok"]["content"][0]["text"] == "150 steps"
    reported = [one["done"] for one in client.events("progress", n=number)]
    assert reported == sorted(set(reported)) and reported[-1] == 150
    assert len(reported) > 100
