"""Which revision a message belongs to, and whether it is a message of that revision (L0.5).

Owns: conversations (`Talk`: a pipe, a WebSocket, a legacy session, one modern POST), the revision each of
them has agreed on, the requests that are open in them, the verdict on each message.
Must never: hold a peer's message against the gateway: only what the gateway sends has to be right.
"""

from __future__ import annotations

import json
from collections.abc import Set
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from tests import schemas

__all__ = ["LEGACY", "MODERN", "Message", "Talk", "Verdicts", "complaint", "modern_version"]

Message = dict[str, Any]
MODERN = "2026-07-28"
LEGACY = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
PREFIX = "io.modelcontextprotocol/"
# What no schema of the core has: the extension for tasks (N3).
TASKS = ("tasks/get", "tasks/update", "tasks/cancel", "notifications/tasks", "task")
# Clients may use an id again, even one that is open.
MOST_OPEN = 8


def modern_version(message: Any) -> bool:
    """Whether a call carries the metadata of the new era, of whatever version."""
    params = message.get("params") if isinstance(message, dict) else None
    meta = params.get("_meta") if isinstance(params, dict) else None
    return isinstance(meta, dict) and PREFIX + "protocolVersion" in meta


def key(id: Any) -> str:
    return json.dumps(id)


# What a message may be: its revision, and for an answer the method of its request.
Options = list[tuple[str, str | None]]


@cache
def _methods() -> frozenset[str]:
    """Every method of every revision."""
    return frozenset(
        kind["properties"]["method"]["const"]
        for revision in (*LEGACY, MODERN)
        for kind in schemas.validator(revision).definitions.values()
        if "const" in kind.get("properties", {}).get("method", {})
    )


@cache
def _words(revision: str) -> frozenset[str]:
    """The strings that the schema of a revision tells from others."""
    found: set[str] = set()

    def look(schema: Any) -> None:
        if isinstance(schema, dict):
            told = [schema["const"]] if "const" in schema else schema.get("enum", ())
            found.update(one for one in told if isinstance(one, str))
            for part in schema.values():
                look(part)
        elif isinstance(schema, list):
            for part in schema:
                look(part)

    look(schemas.validator(revision).definitions)
    return frozenset(found)


def shape(value: Any, words: frozenset[str]) -> Any:
    """What is left of a value when all is taken away that no schema looks at: the text of its strings."""
    if isinstance(value, str):
        return value if value in words else ""
    if isinstance(value, dict):
        return tuple((name, shape(part, words)) for name, part in value.items())
    if isinstance(value, list):
        # Lists of equals are long.
        return ("list", *dict.fromkeys(shape(part, words) for part in value))
    return type(value), value


@dataclass
class Verdicts:
    """What came of it all. `peers`: the sides whose messages are judged beside the gateway's own, because
    they are known to behave."""

    peers: tuple[str, ...] = ()
    problems: list[str] = field(default_factory=list)
    # Methods that peers used and no revision has: some are passed on (L25), and none makes a bad message.
    foreign: set[str] = field(default_factory=set)
    # (who sent it, revision) -> messages that were found right
    held: dict[tuple[str, str], int] = field(default_factory=dict)

    def concerns(self, face: str, ours: bool) -> bool:
        """Whether what was sent there is to be right: `face` is what the gateway is on that hop."""
        return ours or OTHER[face] in self.peers

    def judge(self, face: str, ours: bool, options: Options, message: Message) -> None:
        """`message` has to be right as one of `options`."""
        if not self.concerns(face, ours) or schemas.missing() is not None:
            return
        if "error" in message and message.get("id") is None and not (ours and "id" in message):
            # A7: what could not be read has no id. Schemas before 2025-11-25 forget that; some peers say
            # null.
            message = {name: part for name, part in message.items() if name != "id"}
            options = [(LEGACY[0], None), (MODERN, None)]
        side = face if ours else OTHER[face]
        told = []
        for revision, method in options:
            error = complaint(revision, side, message, method, self.foreign)
            if error is None:
                about = "gateway" if ours else side, revision
                self.held[about] = self.held.get(about, 0) + 1
                return
            told.append(f"{error} (as an answer to {method})" if method else error)
        self.fault(face, ours, f"{json.dumps(message)[:700]}: {'; '.join(told)}")

    def fault(self, face: str, ours: bool, what: str) -> None:
        if self.concerns(face, ours):
            self.problems.append(f"{'the gateway, as a ' + face if ours else 'a ' + OTHER[face]} sent {what}")

    def heard(self, method: str) -> None:
        if schemas.missing() is None and method not in _methods():
            self.foreign.add(method)

    def check(self) -> None:
        """Raises `AssertionError` with what should not have been sent."""
        found = self.problems
        assert not found, f"{len(found)} bad messages (L0.5):\n" + "\n".join(found[:5])


# Shapes of messages that were found right.
_right: set[Any] = set()


def complaint(
    revision: str, side: str, message: Message, method: str | None, foreign: Set[str] = frozenset()
) -> str | None:
    """What is wrong with a message; None if nothing is. `foreign`: methods that are nobody's business."""
    about = revision, side, method, shape(message, _words(revision)), message.get("method")
    if about in _right:
        return None
    try:
        schemas.check_message(revision, side, message, request_method=method, extensions=(*TASKS, *foreign))
    except AssertionError as error:
        return str(error)
    _right.add(about)
    return None


OTHER = {"client": "server", "server": "client"}


class Talk:
    """One conversation, in which ids mean one thing. `face` is what the gateway is in it."""

    def __init__(self, verdicts: Verdicts, face: str, *, revision: str | None = None) -> None:
        self.verdicts = verdicts
        self.face = face
        # Of a legacy handshake; None before it and in the new era.
        self.revision = revision
        self.modern = revision == MODERN
        # (asked by the gateway, id) -> the requests with this id that may be open
        self.asked: dict[tuple[bool, str], Options] = {}

    @property
    def shook_hands(self) -> bool:
        return any(method == "initialize" for options in self.asked.values() for _, method in options)

    def possible(self) -> tuple[str, ...]:
        """The revisions that a message which names none may be of."""
        found = [MODERN] if self.modern else []
        if self.revision is not None and self.revision != MODERN:
            found.insert(0, self.revision)
        return tuple(found) or (*LEGACY, MODERN)

    def hear(self, ours: bool, data: bytes, also: Talk | None = None) -> None:
        """A message, or a batch of them. `also`: where its request may be open too."""
        try:
            told = json.loads(data)
        except (ValueError, RecursionError):
            # A server may let slip what is no message (B7); it is not judged by that.
            if ours:
                self.verdicts.fault(self.face, ours, f"what is no JSON: {data[:300]!r}")
            return
        for message in told if isinstance(told, list) else [told]:
            if isinstance(message, dict):
                self.take(ours, message, also)
            else:
                self.verdicts.fault(self.face, ours, f"what is no message: {message!r:.300}")

    def take(self, ours: bool, message: Message, also: Talk | None = None) -> None:
        if "method" in message:
            self._call(ours, message, also)
        else:
            self._answer(ours, message, also)

    def _call(self, ours: bool, message: Message, also: Talk | None) -> None:
        revisions = self._revisions(message)
        method = message["method"] if isinstance(message["method"], str) else None
        if method is not None and not ours:
            self.verdicts.heard(method)
        if "id" in message:
            for talk in (self, also) if also is not None else (self,):
                options = talk.asked.setdefault((ours, key(message["id"])), [])
                options += [(revision, method) for revision in revisions]
                del options[:-MOST_OPEN]
        options = [(revision, None) for revision in revisions]
        self.verdicts.judge(self.face, ours, options, message)

    def _revisions(self, message: Message) -> tuple[str, ...]:
        params = message.get("params")
        meta = params.get("_meta") if isinstance(params, dict) else None
        if modern_version(message) or message["method"] == "server/discover":
            self.modern = True
            return (MODERN,)
        if isinstance(meta, dict) and PREFIX + "subscriptionId" in meta:
            return (MODERN,)
        if message["method"] == "initialize" and isinstance(params, dict):
            wanted = params.get("protocolVersion")
            return (wanted,) if wanted in LEGACY else (*LEGACY, MODERN)
        return self.possible()

    def _answer(self, ours: bool, message: Message, also: Talk | None) -> None:
        place = not ours, key(message.get("id"))
        options = list(self.asked.get(place) or (also.asked.get(place) if also is not None else None) or ())
        result = message.get("result")
        if isinstance(result, dict) and any(method == "initialize" for _, method in options):
            version = result.get("protocolVersion")
            if version in LEGACY:
                options.append((version, "initialize"))
                for talk in (self, also) if also is not None else (self,):
                    talk.revision = version
        # What cannot be read has no id, and no revision: any will do for the error.
        options = options or [(revision, None) for revision in self.possible()]
        self.verdicts.judge(self.face, ours, options, message)
