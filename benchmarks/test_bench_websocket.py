"""What WebSocket costs per message of 300 bytes, against the sans-IO layer of `websockets` (its C masking
included, where it has that). `pytest benchmarks --benchmark-only`.

Machines differ; `ratio_to_websockets`, taken in the same run, is what to compare.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable
from typing import Any

import pytest

from mcpgate_proto.entropy import Entropy
from mcpgate_proto.wire.websocket import Text, WebSocketCodec

pytest.importorskip("websockets")

from websockets.protocol import CLIENT, SERVER, Protocol  # noqa: E402

MESSAGE = b'{"jsonrpc":"2.0","id":12,"method":"tools/call","params":{"query":"'.ljust(297, b"x") + b'"}}'
MESSAGE_BYTES = 16 * 1024 * 1024


def _ours(role: str) -> WebSocketCodec:
    return WebSocketCodec(role, entropy=Entropy(bytes(32)), max_message_bytes=MESSAGE_BYTES)  # type: ignore[arg-type]


def _theirs(role: str) -> Protocol:
    return Protocol(CLIENT if role == "client" else SERVER, max_size=MESSAGE_BYTES)


def _compare(benchmark: Any, subject: Callable[[], object], reference: Callable[[], object]) -> None:
    number = 3000
    ours, theirs = [], []
    for _ in range(7):
        ours.append(timeit.timeit(subject, number=number))
        theirs.append(timeit.timeit(reference, number=number))
    benchmark.extra_info["ratio_to_websockets"] = round(min(ours) / min(theirs), 2)
    benchmark.extra_info["websockets_us"] = round(min(theirs) / number * 1e6, 2)
    benchmark(subject)


@pytest.mark.parametrize("role", ["server", "client"])
def test_receive_300(benchmark: Any, role: str) -> None:
    [wire] = _ours("client" if role == "server" else "server").send_text(MESSAGE)
    codec, peer = _ours(role), _theirs(role)

    def theirs() -> None:
        peer.receive_data(wire)
        [frame] = peer.events_received()
        # Their events are frames; ours are checked text.
        str(frame.data, "utf-8")  # type: ignore[union-attr]

    assert codec.receive(wire, 0.0) == [Text(MESSAGE)]
    _compare(benchmark, lambda: codec.receive(wire, 0.0), theirs)


@pytest.mark.parametrize("role", ["server", "client"])
def test_send_300(benchmark: Any, role: str) -> None:
    codec, peer = _ours(role), _theirs(role)

    def theirs() -> None:
        peer.send_text(MESSAGE)
        assert peer.data_to_send()

    _compare(benchmark, lambda: codec.send_text(MESSAGE), theirs)


@pytest.mark.parametrize("role", ["server", "client"])
def test_receive_and_send_300(benchmark: Any, role: str) -> None:
    [wire] = _ours("client" if role == "server" else "server").send_text(MESSAGE)
    codec, peer = _ours(role), _theirs(role)

    def ours() -> None:
        for event in codec.receive(wire, 0.0):
            assert type(event) is Text
            codec.send_text(event.data)
        codec.to_send()

    def theirs() -> None:
        peer.receive_data(wire)
        for frame in peer.events_received():
            str(frame.data, "utf-8")  # type: ignore[union-attr]
            peer.send_text(frame.data)  # type: ignore[union-attr]
        peer.data_to_send()

    _compare(benchmark, ours, theirs)
