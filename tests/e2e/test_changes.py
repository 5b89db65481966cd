"""What servers say unasked: changes of lists and resources, and logs at the level each client wants."""

from __future__ import annotations

import pytest

from e2e.conftest import World
from e2e.harness import MODERN, PREFIX
from e2e.rawhttp import Http, Session, message, modern

LEGACY_NAMES = ["alpha", "beta", "gamma", "delta"]
MODERN_NAMES = ["alpha", "beta"]


@pytest.mark.parametrize("name", LEGACY_NAMES)
def test_list_changed_legacy(name: str, world: World) -> None:
    """All open sessions hear of it, on the session's own stream; the list then has the new tool."""
    method = "notifications/tools/list_changed"
    http = Http(world.gateway.port)
    sessions = [Session(http) for _ in range(2)]
    for session in sessions:
        session.post(message("tools/list", 1))
    streams = [session.listen() for session in sessions]
    clients = world.clients["legacy"]
    before = [len(client.events("notification", method=method)) for client in clients]
    grown = sessions[0].call(f"{name}__grow", 2)
    for session, stream in zip(sessions, streams, strict=True):
        assert stream.until(method) == {"jsonrpc": "2.0", "method": method}
        listed = session.post(message("tools/list", 3)).message["result"]["tools"]
        assert f"{name}__{grown}" in {tool["name"] for tool in listed}
        stream.close()
        session.delete()
    for client, count in zip(clients, before, strict=True):
        client.event("notification", count=count + 1, method=method)


@pytest.mark.parametrize("name", MODERN_NAMES)
def test_list_changed_modern(name: str, world: World) -> None:
    """Only who listens hears of it."""
    listener, other = world.clients["auto"]
    number = listener.start("listen", want={"tools_list_changed": True})
    assert listener.event("listening", n=number)["honored"] == {"toolsListChanged": True}
    grown = other.call(f"{name}__grow")
    listener.event("change", n=number, kind="ToolsListChanged")
    assert f"{name}__{grown}" in {tool["name"] for tool in listener.do("tools")["tools"]}
    assert not other.events("change")
    listener.cancel(number)
    listener.outcome(number)


@pytest.mark.parametrize("name", LEGACY_NAMES)
def test_resource_subscription_legacy(name: str, world: World) -> None:
    method = "notifications/resources/updated"
    client, other = world.clients["legacy"]
    uri = f"test://{name}/text"
    client.do("subscribe", uri=uri)
    other.call(f"{name}__touch", uri=uri)
    told = client.event("notification", method=method, params={"uri": uri})
    assert told["params"] == {"uri": uri}
    assert not other.events("notification", method=method)


@pytest.mark.parametrize("name", MODERN_NAMES)
def test_resource_subscription_modern(name: str, world: World) -> None:
    listener, other = world.clients["auto"]
    uri = f"test://{name}/text"
    number = listener.start("listen", want={"resource_subscriptions": [uri]})
    assert listener.event("listening", n=number)["honored"] == {"resourceSubscriptions": [uri]}
    other.call(f"{name}__touch", uri=uri)
    assert listener.event("change", n=number, kind="ResourceUpdated")["uri"] == uri
    listener.cancel(number)
    listener.outcome(number)


@pytest.mark.parametrize("number", [7, 0, "", "listen"])
def test_subscription_ids_are_the_clients_own(number: object, world: World) -> None:
    """Every message of a stream carries the id of the request that opened it, whatever its type."""
    http = Http(world.gateway.port)
    wanted = {"toolsListChanged": True, "promptsListChanged": False, "unheardOf": True}
    stream = http.open("POST", *modern("subscriptions/listen", number, notifications=wanted))
    first = stream.next()
    assert first["method"] == "notifications/subscriptions/acknowledged"
    assert first["params"]["notifications"] == {"toolsListChanged": True}
    assert "id" not in first
    world.clients["auto"][1].call("beta__grow")
    change = stream.next()
    assert change["method"] == "notifications/tools/list_changed"
    for told in (first, change):
        assert told["params"]["_meta"][PREFIX + "subscriptionId"] == number
        assert isinstance(told["params"]["_meta"][PREFIX + "subscriptionId"], type(number))
    stream.close()


@pytest.mark.parametrize("name", LEGACY_NAMES)
def test_log_levels_legacy(name: str, world: World) -> None:
    """Two sessions on one server, each with its own level; the third never chose one."""
    http = Http(world.gateway.port)
    wanted = {"warning": ["warning", "error"], "error": ["error"]}
    for level, expected in wanted.items():
        session = Session(http)
        assert session.post(message("logging/setLevel", 1, level=level)).message["result"] == {}
        answer = session.post(message("tools/call", 2, name=f"{name}__log", arguments={}))
        told = [one["params"]["level"] for one in answer.messages if "method" in one]
        assert told == expected
        assert session.post(message("logging/setLevel", 3, level="loud")).error == -32602
        session.delete()


@pytest.mark.parametrize("name", MODERN_NAMES)
def test_log_levels_modern(name: str, world: World) -> None:
    """Each request says what it wants: anna's all, bert's errors; a request that says nothing gets none."""
    everything, errors = world.clients["auto"]
    for client, expected in ((everything, ["debug", "info", "warning", "error"]), (errors, ["error"])):
        before = len(client.events("log"))
        client.call(f"{name}__log")
        client.event("log", count=before + len(expected))
        assert [one["level"] for one in client.events("log")[before:]] == expected
    answer = Http(world.gateway.port).modern("tools/call", name=f"{name}__log", arguments={})
    assert [one.get("method") for one in answer.messages] == [None]


def test_no_session_for_modern_clients(world: World) -> None:
    answer = Http(world.gateway.port).modern("server/discover")
    assert "mcp-session-id" not in answer.headers
    assert answer.message["result"]["supportedVersions"] == [MODERN]
