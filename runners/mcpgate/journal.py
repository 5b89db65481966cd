"""Recording of a run, and its exact replay.

Owns: the file's format (msgpack frames: one header, then inputs and digests of the effects they caused) and
the tripwires that show that the core touches neither clock nor randomness nor files.
Must never: change what the gateway sees or does. A recording holds everything that was said, and the seed:
it is readable by its owner only.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib
import os
import pkgutil
import random
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import msgspec

from mcpgate.files import open_private
from mcpgate_proto.config import GatewayConfig
from mcpgate_proto.effects import Address, Effect, Peer, TlsFacts

__all__ = ["Header", "Recorder", "Report", "replay", "tripwires"]

FORMAT = 1
LENGTH = struct.Struct("<I")
# A frame longer than this is a damaged file, not a message.
FRAME_BYTES = 1 << 30

# The arguments of each input after `now`, to make them what they were.
INPUTS: dict[str, tuple[Any, ...]] = {
    "started": (),
    "clock": (float,),
    "listening": (str, Address),
    "listen_failed": (str, str),
    "accepted": (str, Peer),
    "accept_failed": (str, str),
    "secured": (int, TlsFacts),
    "resolved": (int, list[Address]),
    "resolve_failed": (int, str),
    "claimed": (str, bytes | None),
    "login": (str, str),
    "connected": (int, Peer, TlsFacts | None),
    "connect_failed": (int, str),
    "received": (int, bytes),
    "received_eof": (int,),
    "received_stderr": (int, bytes),
    "flushed": (int, int),
    "exited": (int, int),
    "closed": (int, str),
    "timed_out": (),
    "reload": (GatewayConfig,),
    "shutdown": (float,),
}


class Header(msgspec.Struct, frozen=True):
    """What a gateway was made of."""

    format: int
    version: str
    config: GatewayConfig
    now: float
    wall: float
    seed: bytes


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """One input, or (`name` is empty) the digest and count of the effects that were drained."""

    name: str
    now: float
    args: list[msgspec.Raw] = []
    digest: bytes = b""
    count: int = 0


def digest_of(effects: list[Effect]) -> bytes:
    """Equal for equal effects in equal order, and only for them."""
    encoder = msgspec.msgpack.Encoder()
    state = hashlib.blake2b(digest_size=16)
    for effect in effects:
        state.update(encoder.encode((type(effect).__name__, effect)))
    return state.digest()


class Recorder:
    """Stands in for a `Gateway` and writes down what passes."""

    def __init__(self, gateway: Any, file: BinaryIO, header: Header) -> None:
        self._gateway = gateway
        self._file = file
        self._encoder = msgspec.msgpack.Encoder()
        self._put(header)

    @classmethod
    def start(cls, config: GatewayConfig, path: str, *, version: str) -> Recorder:
        """Make a gateway and record it from the first moment. Raises `OSError`."""
        from mcpgate_proto.gateway import Gateway

        fd = open_private(path, os.O_TRUNC, 0o600)
        now, wall, seed = time.monotonic(), time.time(), os.urandom(32)
        header = Header(FORMAT, version, config, now, wall, seed)
        return cls(Gateway(config, now=now, wall=wall, seed=seed), os.fdopen(fd, "wb"), header)

    def _put(self, frame: Header | Frame) -> None:
        data = self._encoder.encode(frame)
        self._file.write(LENGTH.pack(len(data)) + data)

    def __getattr__(self, name: str) -> Any:
        if name not in INPUTS:
            return getattr(self._gateway, name)
        method = getattr(self._gateway, name)
        encode = self._encoder.encode

        def call(now: float, *args: Any) -> Any:
            self._put(Frame(name, now, [msgspec.Raw(encode(arg)) for arg in args]))
            return method(now, *args)

        # The next use finds it without coming here.
        self.__dict__[name] = call
        return call

    def effects(self) -> list[Effect]:
        effects: list[Effect] = self._gateway.effects()
        if effects:
            self._put(Frame("", 0.0, [], digest_of(effects), len(effects)))
        return effects

    def deadline(self) -> float | None:
        deadline: float | None = self._gateway.deadline()
        return deadline

    def close(self) -> None:
        self._file.close()


@dataclass
class Report:
    """What a replay found. `difference` is empty when everything was equal."""

    inputs: int = 0
    effects: int = 0
    difference: str = ""


def _frames(file: BinaryIO) -> Iterator[bytes]:
    while head := file.read(LENGTH.size):
        if len(head) < LENGTH.size:
            return
        (length,) = LENGTH.unpack(head)
        if length > FRAME_BYTES:
            raise ValueError("the recording is damaged")
        data = file.read(length)
        # A run that was killed leaves a torn last frame.
        if len(data) == length:
            yield data


def replay(path: str, *, guard: bool = False, make: Callable[..., Any] | None = None) -> Report:
    """Feed a recording to a fresh gateway and compare effects. `guard`: with `tripwires` in each core call.

    Raises `ValueError` for a file that is no recording, `OSError` for one that cannot be read.
    """
    report = Report()
    with open(path, "rb") as file:
        frames = _frames(file)
        try:
            header = msgspec.msgpack.decode(next(frames, b""), type=Header)
        except msgspec.MsgspecError as error:
            raise ValueError("the file does not begin as a recording does") from error
        if header.format != FORMAT:
            raise ValueError(f"the recording has format {header.format}; this version reads {FORMAT}")
        decoder = msgspec.msgpack.Decoder(Frame)
        # Frames are read and decoded outside the tripwires, which cover the core's own calls only.
        player = _Player(header, guard, make)
        for data in frames:
            player.step(decoder.decode(data), report)
            if report.difference:
                break
    return report


class _Player:
    def __init__(self, header: Header, guard: bool, make: Callable[..., Any] | None) -> None:
        if make is None:
            from mcpgate_proto.gateway import Gateway

            make = Gateway
        if guard:
            _import_all()
        self._guard = guard
        self._gateway = self._call(make, header.config, now=header.now, wall=header.wall, seed=header.seed)

    def _call(self, method: Callable[..., Any], *args: Any, **named: Any) -> Any:
        if not self._guard:
            return method(*args, **named)
        with tripwires():
            return method(*args, **named)

    def step(self, frame: Frame, report: Report) -> None:
        if not frame.name:
            effects = self._call(self._gateway.effects)
            report.effects += len(effects)
            if len(effects) != frame.count or digest_of(effects) != frame.digest:
                kinds = ", ".join(type(effect).__name__ for effect in effects[:8])
                report.difference = (
                    f"after input {report.inputs}: {frame.count} effects were recorded, "
                    f"{len(effects)} came now ({kinds}) and they differ"
                )
            return
        report.inputs += 1
        kinds_of = INPUTS.get(frame.name)
        if kinds_of is None or len(frame.args) > len(kinds_of):
            raise ValueError(f"the recording holds an unknown input, {frame.name!r}")
        pairs = zip(frame.args, kinds_of, strict=False)
        args = [msgspec.msgpack.decode(raw, type=kind) for raw, kind in pairs]
        self._call(getattr(self._gateway, frame.name), frame.now, *args)


def _import_all() -> None:
    """Modules that the core loads late are loaded now: an import reads files, and that is no fault."""
    import mcpgate_proto

    for module in pkgutil.walk_packages(mcpgate_proto.__path__, "mcpgate_proto."):
        importlib.import_module(module.name)
    importlib.import_module("cryptography.hazmat.primitives.ciphers.aead")
    importlib.import_module("joserfc.jwt")


def _tripped(name: str) -> Callable[..., Any]:
    def trip(*args: Any, **named: Any) -> Any:
        raise AssertionError(f"the core called {name}")

    return trip


def _wires() -> list[tuple[Any, str, Any]]:
    clocks = "time time_ns monotonic monotonic_ns perf_counter perf_counter_ns gmtime localtime sleep".split()
    wires: list[tuple[Any, str, Any]] = [(time, name, _tripped(f"time.{name}")) for name in clocks]
    wires += [(os, name, _tripped(f"os.{name}")) for name in ("urandom", "getrandom") if hasattr(os, name)]
    wires += [(random, "_urandom", _tripped("os.urandom")), (random, "random", _tripped("random.random"))]
    wires.append((builtins, "open", _tripped("open")))
    return wires


@contextmanager
def tripwires() -> Iterator[None]:
    """While this lasts, clocks, randomness and files raise `AssertionError`."""
    import datetime

    class NoClock(datetime.datetime):
        now = _tripped("datetime.now")
        utcnow = _tripped("datetime.utcnow")
        today = _tripped("datetime.today")

    wires = [*_wires(), (datetime, "datetime", NoClock)]
    saved = [(place, name, getattr(place, name)) for place, name, _ in wires]
    try:
        for place, name, trip in wires:
            setattr(place, name, trip)
        yield
    finally:
        for place, name, value in saved:
            setattr(place, name, value)
