"""What a client declared is looked at down to the modes: forms, URLs, tools in sampling (I3, I4, L3, L8)."""

from __future__ import annotations

from typing import Any

import pytest

from fuzz.sim.scene import Scene
from fuzz.sim.talk import Job, Message, error

SCHEMA = {"type": "object", "properties": {}}
FORM = {"mode": "form", "message": "?", "requestedSchema": SCHEMA}
URL = {"mode": "url", "message": "?", "url": "https://example.org"}
SAMPLE = {"messages": [{"role": "user", "content": {"type": "text", "text": "?"}}], "maxTokens": 5}
TOOLS = {**SAMPLE, "tools": [{"name": "t", "inputSchema": {"type": "object"}}]}
ELICIT, SAMPLING = "elicitation/create", "sampling/createMessage"
# What a client declares, what it is asked, and what it lacks for that.
CASES: list[tuple[Message, str, Message, Message | None]] = [
    ({"elicitation": {}}, ELICIT, FORM, None),
    ({"elicitation": {"form": {}}}, ELICIT, FORM, None),
    ({"elicitation": {"url": {}}}, ELICIT, FORM, {"elicitation": {"form": {}}}),
    ({"elicitation": {}}, ELICIT, URL, {"elicitation": {"url": {}}}),
    ({"elicitation": {"form": {}}}, ELICIT, URL, {"elicitation": {"url": {}}}),
    ({"elicitation": {"form": {}, "url": {}}}, ELICIT, URL, None),
    ({"roots": {}}, ELICIT, URL, {"elicitation": {"url": {}}}),
    ({"roots": {}}, ELICIT, FORM, {"elicitation": {}}),
    ({"sampling": {}}, SAMPLING, SAMPLE, None),
    ({"sampling": {}}, SAMPLING, TOOLS, {"sampling": {"tools": {}}}),
    ({"sampling": {"tools": {}}}, SAMPLING, TOOLS, None),
    ({"elicitation": {}}, "roots/list", {}, {"roots": {}}),
]


@pytest.mark.parametrize("era", ["legacy", "modern"])
@pytest.mark.parametrize(("declared", "method", "params", "lacks"), CASES)
def test_a_modern_client_is_asked_only_what_it_declared(
    declared: Message, method: str, params: Message, lacks: Message | None, era: str
) -> None:
    """G6; a legacy server that asks all the same is refused (I4), or its call is given up (L1.14)."""

    def act(job: Job) -> None:
        if job.talk.modern:
            job.want({"q": {"method": method, "params": params}}, "s")
        else:
            extra = {"elicitationId": "e"} if params.get("mode") == "url" else {}
            job.ask(method, {**params, **extra}, lambda reply: job.say(told=reply))

    scene = Scene({"one": ("http", (era,))}).start()
    scene.only.script("nosy", act)
    client = scene.modern(capabilities=declared)
    client.answer_after = None
    call = scene.done(client.tool("nosy"))
    if lacks is None:
        assert call.result["resultType"] == "input_required"
        return
    assert client.questions == []
    if call.code is None:
        assert call.result["structuredContent"]["told"]["error"]["code"] == -32601
    else:
        assert call.code == -32021 and call.error["data"]["requiredCapabilities"] == lacks
    assert call.code is not None or era == "legacy"


@pytest.mark.parametrize(
    ("declared", "needed", "code"),
    [
        ({"elicitation": {}}, {"elicitation": {"url": {}}}, -32021),
        ({}, {"elicitation": {}}, -32021),
        ({"sampling": {}}, {"sampling": {"tools": {}}}, -32021),
        # The client has it: it is the gateway that could not carry it.
        ({"elicitation": {}}, {"elicitation": {"form": {}}}, -32603),
        ({"elicitation": {"url": {}}}, {"elicitation": {"url": {}}}, -32603),
    ],
)
def test_whose_fault_it_is_that_a_server_lacks_something(declared: Any, needed: Any, code: int) -> None:
    """L8."""

    def act(job: Job) -> None:
        job.finish(error(job.id, -32021, "needed", {"requiredCapabilities": needed}))

    scene = Scene({"one": ("http", ("modern",))}).start()
    scene.only.script("proud", act)
    call = scene.done(scene.modern(capabilities=declared).tool("proud"))
    assert call.code == code
    if code == -32021:
        assert call.error["data"]["requiredCapabilities"] == needed
