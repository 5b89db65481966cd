"""Tasks between real SDKs: those of 2025-11-25 (mcp 1.x, experimental) and the extension (mcp 2.x), in every
pair (L22)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from e2e.conftest import MakeClient, MakeGateway, Owned
from e2e.harness import Gateway, Peer, SdkClient

MakeTasks = Callable[..., Peer]
TASKS = "io.modelcontextprotocol/tasks"
BOTH = pytest.mark.parametrize("http", [True, False], ids=["http", "stdio"])


@pytest.fixture
def make_server(request: pytest.FixtureRequest, tmp_path: Path, owned: Owned) -> MakeTasks:
    def make(sdk: int, http: bool, *flags: str) -> Peer:
        python = request.getfixturevalue("sdk_python" if sdk == 2 else "sdk1_python")
        peer = Peer(python, f"tasks{sdk}.py", "one", tmp_path, http, *flags)
        if peer.process is not None:
            owned.append(peer.process)
        return peer

    return make


@pytest.fixture
def taker(sdk_python: str, owned: Owned) -> Callable[[Gateway], SdkClient]:
    """A modern client that takes tasks."""

    def make(gateway: Gateway) -> SdkClient:
        client = SdkClient(
            sdk_python, "taskclient2.py", url=gateway.url, mode="auto", name="anna", features="elicit"
        )
        owned.append(client)
        return client

    return make


@pytest.fixture
def asker(sdk1_python: str, owned: Owned) -> Callable[[Gateway], SdkClient]:
    """A legacy client that asks for tasks."""

    def make(gateway: Gateway) -> SdkClient:
        client = SdkClient(sdk1_python, "taskclient1.py", url=gateway.url, name="anna")
        owned.append(client)
        return client

    return make


def text_of(result: dict[str, Any]) -> str:
    return str(result["content"][0]["text"])


def called(peer: Peer, tool: str) -> list[dict[str, Any]]:
    return [one for one in peer.journal.entries("call") if one["tool"] == tool]


# -- a modern client that takes tasks


@BOTH
def test_taker_and_legacy_server(
    http: bool, make_server: MakeTasks, serve_gateway: MakeGateway, taker: Callable[[Gateway], SdkClient]
) -> None:
    """L22 row 5."""
    peer = make_server(1, http)
    client = taker(serve_gateway([peer]))
    assert client.ready["capabilities"]["extensions"] == {TASKS: {}}
    arguments = {"text": "done", "question": "who?", "steps": 3}
    result = client.do("call", name="must", arguments=arguments)
    assert text_of(result) == "done|accept {'answer': 'anna answers who?'}"
    assert client.event("task")["status"] == "working"
    statuses = [one["status"] for one in client.events("status")]
    assert "input_required" in statuses and statuses[-1] == "completed"
    own = peer.journal.wait("task")["id"]
    assert own not in "\n".join(client.out)
    assert [one["task"] for one in called(peer, "must")] == [True]
    wrong = client.do("call", name="must", arguments={"text": "x", "fail": "raise"})
    assert wrong["isError"] and text_of(wrong) == "failed: it broke"
    for name in ("may", "echo"):
        assert client.call(name, text="plain") == "plain"
        assert [one["task"] for one in called(peer, name)] == [False]


@BOTH
def test_taker_and_modern_server(
    http: bool, make_server: MakeTasks, serve_gateway: MakeGateway, taker: Callable[[Gateway], SdkClient]
) -> None:
    """L22 row 2."""
    peer = make_server(2, http)
    client = taker(serve_gateway([peer]))
    result = client.do("call", name="work", arguments={"text": "done", "question": "who?"})
    assert text_of(result) == "done|accept {'answer': 'anna answers who?'}"
    assert client.events("status")[-1]["status"] == "completed"
    wrong = client.do("call", name="work", arguments={"fail": "raise"})
    assert wrong["isError"] and text_of(wrong) == "failed: it broke"
    assert [one["takes"] for one in called(peer, "work")] == [True, True]


# -- clients that know no tasks, or not those of their server


@BOTH
@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_others_get_the_result_of_a_legacy_server(
    http: bool, mode: str, make_server: MakeTasks, serve_gateway: MakeGateway, make_client: MakeClient
) -> None:
    """L22 row 5: driven; the question is that of the call."""
    peer = make_server(1, http)
    client = make_client(serve_gateway([peer]), mode=mode, name="anna", features="elicit")
    result = client.do("call", name="must", arguments={"text": "done", "question": "who?", "steps": 2})
    assert text_of(result).startswith("done|accept ")
    assert client.events("elicit")[0]["params"]["message"] == "who?"
    assert [one["task"] for one in called(peer, "must")] == [True]
    outcome = client.outcome(client.start("call", name="must", arguments={"fail": "raise"}))
    assert outcome["error"]["message"] == "it broke"
    wrong = client.outcome(client.start("call", name="must", arguments={"text": "no", "fail": "tool"}))
    assert wrong["ok"]["isError"] and text_of(wrong["ok"]) == "no"
    assert client.call("may", text="plain") == "plain"


@BOTH
@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_others_get_the_result_of_a_modern_server(
    http: bool, mode: str, make_server: MakeTasks, serve_gateway: MakeGateway, make_client: MakeClient
) -> None:
    """L22 rows 3 and 4."""
    peer = make_server(2, http, "--era", "modern")
    client = make_client(serve_gateway([peer]), mode=mode, name="anna", features="elicit")
    result = client.do("call", name="work", arguments={"text": "done", "question": "who?"})
    assert text_of(result) == "done|accept {'value': 'anna answers who?'}"
    assert [one["takes"] for one in called(peer, "work")] == [True]


# -- a legacy client that asks for tasks


@BOTH
def test_asker_and_legacy_server(
    http: bool, make_server: MakeTasks, serve_gateway: MakeGateway, asker: Callable[[Gateway], SdkClient]
) -> None:
    """L22 row 1."""
    peer = make_server(1, http)
    client = asker(serve_gateway([peer], gateway={"legacy_tasks": True}))
    assert client.ready["capabilities"]["tasks"]["requests"] == {"tools": {"call": {}}}
    arguments = {"text": "done", "question": "who?", "steps": 3}
    made = client.do("task", name="must", arguments=arguments)["task"]
    assert made["status"] == "working" and made["taskId"] != peer.journal.wait("task")["id"]
    result = client.do("result", id=made["taskId"])
    assert text_of(result) == "done|accept {'answer': 'anna answers who?'}"
    assert client.do("get", id=made["taskId"])["status"] == "completed"
    told = [one["params"] for one in client.events("notification", method="notifications/tasks/status")]
    assert told and {one["taskId"] for one in told} == {made["taskId"]}
    ended = client.outcome(client.start("cancel", id=made["taskId"]))
    assert ended["error"]["code"] == -32602
    long = client.do("task", name="may", arguments={"forever": True})["task"]["taskId"]
    assert client.do("cancel", id=long)["status"] == "cancelled"


@BOTH
def test_asker_and_modern_server(
    http: bool, make_server: MakeTasks, serve_gateway: MakeGateway, asker: Callable[[Gateway], SdkClient]
) -> None:
    """L22 row 4, with `task`."""
    peer = make_server(2, http, "--era", "modern")
    client = asker(serve_gateway([peer], gateway={"legacy_tasks": True}))
    (tool,) = client.do("tools")["tools"]
    assert tool["execution"] == {"taskSupport": "optional"}
    made = client.do("task", name="work", arguments={"text": "done", "question": "who?"})["task"]
    assert (made["status"], made["ttl"], made["pollInterval"]) == ("working", 60_000, 50)
    result = client.do("result", id=made["taskId"])
    assert text_of(result) == "done|accept {'answer': 'anna answers who?'}"
    assert client.do("get", id=made["taskId"])["status"] == "completed"
    wrong = client.do("task", name="work", arguments={"fail": "raise"})["task"]["taskId"]
    outcome = client.outcome(client.start("result", id=wrong))
    assert outcome["error"] == {"code": -5, "message": "it broke"}
    assert client.do("get", id=wrong)["status"] == "failed"
    long = client.do("task", name="work", arguments={"forever": True})["task"]["taskId"]
    waiting = client.start("result", id=long)
    assert client.do("cancel", id=long)["status"] == "cancelled"
    assert "error" in client.outcome(waiting)
    assert peer.journal.wait("cancel")


@BOTH
def test_asker_gets_a_task_where_the_server_makes_none(
    http: bool,
    make_server: MakeTasks,
    make_peer: Callable[..., Peer],
    serve_gateway: MakeGateway,
    asker: Callable[[Gateway], SdkClient],
) -> None:
    """1125, Result Retrieval 1, and 1: what no tasks were agreed for is answered plainly."""
    peer = make_server(1, http)
    plain = make_peer("plain", sdk=1, http=http)
    client = asker(serve_gateway([peer, plain], gateway={"legacy_tasks": True}))
    assert text_of(client.do("call", name="plain__echo", arguments={"text": "x"})) == "x"
    assert text_of(client.do("call", name="one__may", arguments={"text": "x"})) == "x"
    # A tool that must be a task is driven where the client does not ask for one.
    assert text_of(client.do("call", name="one__must", arguments={"text": "x"})) == "x"
