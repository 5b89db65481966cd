"""What goes to servers over HTTP besides the calls: forwarded headers; and where no request goes at all."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fuzz.sim.http_clients import LegacyHttp, ModernHttp
from fuzz.sim.scene import Scene
from mcpgate_proto.config import ServerConfig


class WithHeaders:
    """Sends headers of its own with every request."""

    more: list[tuple[str, str]] = []

    def post(self, message: Any, headers: list[tuple[str, str]], call: Any) -> Any:
        return super().post(message, [*headers, *self.more], call)  # type: ignore[misc]


class Modern(WithHeaders, ModernHttp):
    pass


class Legacy(WithHeaders, LegacyHttp):
    pass


def calls_seen(scene: Scene, name: str) -> list[dict[str, str]]:
    """The headers of the calls of tools that a server got."""
    return [
        headers
        for _, headers, message in scene[name].requests
        if message is not None and message.get("method") == "tools/call"
    ]


@pytest.mark.parametrize(
    ("transport", "eras"), [("http", ("modern",)), ("http", ("legacy",)), ("sse", ("legacy",))]
)
@pytest.mark.parametrize("kind", [Modern, Legacy])
def test_listed_headers_go_to_the_server_that_listed_them(kind: Any, eras: Any, transport: str) -> None:
    options = {"a": {"forward_headers": ("X-Tenant", "X-Trace")}, "b": {"forward_headers": ("X-Trace",)}}
    servers = dict.fromkeys(("a", "b", "c"), (transport, eras))
    scene = Scene(servers, options=options, prefix="always").start()
    client = kind(scene.world, "c1")
    secret = "Bearer token-of-the-client"
    client.more = [("X-Tenant", "acme"), ("X-Trace", "t-1"), ("X-Upstream-Url", "http://evil")]
    client.more += [("Authorization", secret), ("Cookie", "s=1")]
    if kind is Legacy:
        client.open()
        scene.until(lambda: client.hello.over)
    for name in ("a", "b", "c"):
        client.prefix = f"{name}__"
        assert scene.done(client.tool("echo")).result is not None
    wanted = {"a": {"x-tenant": "acme", "x-trace": "t-1"}, "b": {"x-trace": "t-1"}, "c": {}}
    for name, expected in wanted.items():
        (seen,) = calls_seen(scene, name)
        assert {key: value for key, value in seen.items() if key.startswith("x-")} == expected
    for model in scene.servers.values():
        for _, headers, _ in model.requests:
            assert "cookie" not in headers and "authorization" not in headers
            assert secret not in headers.values() and "x-upstream-url" not in headers


def test_headers_are_of_the_request_that_carries_the_call() -> None:
    """Sessions with a server are shared by requests; what one of them says is not said for the next."""
    scene = Scene({"a": ("http", ("modern",))}, options={"a": {"forward_headers": ("X-Tenant",)}}).start()
    client = Modern(scene.world, "c1")
    for tenant in ("acme", "", "other"):
        client.more = [("X-Tenant", tenant)] if tenant else []
        assert scene.done(client.tool("echo")).result is not None
    assert [seen.get("x-tenant", "") for seen in calls_seen(scene, "a")] == ["acme", "", "other"]


@pytest.mark.parametrize("transport", ["http", "sse"])
def test_a_redirect_is_not_followed_and_the_log_says_so(transport: str) -> None:
    """threats.md row 36."""
    scene = Scene({"a": (transport, ("legacy",))})
    asked: list[bytes] = []
    scene.net.services["127.0.0.1", 9001] = lambda: Redirecting(asked)
    scene.start()
    scene.run(5.0)
    records = scene.world.logged("server_redirects")
    assert records and records[0]["status"] == 307 and "not followed" in records[0]["mend"]
    assert all(b"/elsewhere" not in data for data in asked)
    assert not [one for one in scene.world.records if "evil.example" in repr(one)]


class Redirecting:
    """Sends everybody elsewhere."""

    stream: Any

    def __init__(self, asked: list[bytes]) -> None:
        self._asked = asked

    def opened(self) -> None:
        pass

    def data(self, data: bytes) -> None:
        self._asked.append(data)
        told = b"HTTP/1.1 307 x\r\nLocation: http://evil.example/elsewhere\r\nContent-Length: 0\r\n\r\n"
        self.stream.send(told)

    def eof(self) -> None:
        self.stream.close()

    def gone(self) -> None:
        pass


@pytest.mark.parametrize("transport", ["http", "sse", "websocket"])
@pytest.mark.parametrize(
    ("addresses", "allow", "dialled"),
    [
        (["127.0.0.1"], False, True),
        (["10.0.0.1", "127.0.0.1"], False, True),
        (["169.254.169.254"], True, False),
        (["fe80::1"], True, False),
        (["0.0.0.0"], True, False),
        (["8.8.8.8"], False, False),
        (["10.0.0.9"], False, False),
        (["169.254.169.254", "127.0.0.1"], True, True),
    ],
)
def test_where_the_name_of_a_server_may_lead(
    transport: str, addresses: list[str], allow: bool, dialled: bool
) -> None:
    """threats.md row 38: never to link-local or metadata; plain http only to this machine unless allowed."""
    options = {"a": {"allow_plain_http": allow}}
    scene = Scene({"a": (transport, ("legacy",))}, host="server.example", options=options)
    scene.net.names["server.example"] = addresses
    tried: list[str] = []
    connect = scene.net._connect
    scene.net._connect = lambda effect: (tried.append(effect.address.host), connect(effect))  # type: ignore
    scene.start()
    scene.run(3.0)
    assert bool(tried) is dialled
    allowed = {"127.0.0.1"} | ({"10.0.0.1", "8.8.8.8", "10.0.0.9"} if allow else set())
    assert set(tried) <= allowed
    if not dialled:
        assert any("may not be dialled" in repr(one) for one in scene.world.records)


def test_an_address_that_the_operator_wrote_is_meant() -> None:
    config = ServerConfig(name="a", transport="http", url="http://169.254.1.1:9001/mcp")
    scene = Scene({"a": ("http", ("legacy",))}, options={})
    scene.config = msgspec.structs.replace(scene.config, servers=(config,))
    from fuzz.sim.world import World

    world = World(scene.config)
    world.start()
    world.run(1.0)
    assert world.counts.get("dial refused")
