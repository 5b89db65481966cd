"""`mcpgate.lock`: the definitions of tools and prompts that were approved.

Owns: the file's place and form, its reading and writing, and what differs between it and what servers list.
Must never: take an entry whose digest is not that of its definition, or leave a half-written file.

The file stands beside the config and has its name, with `.lock`. It is JSON, in one order, so that it can be
kept under version control and its changes reviewed: each entry has the definition in full, beside its digest.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcpgate.fd import reason_of
from mcpgate.files import Complaint, open_checked, read_most
from mcpgate_proto.config import Pin
from mcpgate_proto.security.pins import PINNED, digest
from mcpgate_proto.wire.jsonrpc import JsonFault, plain

__all__ = ["Approved", "Change", "Key", "Lock", "LockError", "differences", "lock_path", "read", "write"]

FORM = 1
# The largest catalog of all servers together (`limits.catalog_bytes` is for one list).
LOCK_BYTES = 64 * 1024 * 1024
MEND = "restore it, or remove it and run `mcpgate lock`"
# Server, kind, name.
Key = tuple[str, str, str]


class LockError(ValueError):
    """A lock that cannot be used. `mend` says what to do."""

    def __init__(self, problem: str, mend: str = MEND) -> None:
        super().__init__(problem)
        self.problem = problem
        self.mend = mend


@dataclass(frozen=True)
class Approved:
    """One definition: what is pinned of it, and the eras in which its server gives it."""

    part: dict[str, Any]
    eras: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        return digest(self.part)


@dataclass
class Lock:
    """The definitions by server, kind and name: one, or two where the eras of a server differ. A server with
    none at all is in `servers` too."""

    servers: dict[str, None] = field(default_factory=dict)
    entries: dict[Key, list[Approved]] = field(default_factory=dict)

    def add(self, key: Key, part: dict[str, Any], era: str) -> None:
        """Note that `key` is defined so in `era`."""
        self.servers[key[0]] = None
        known = self.entries.setdefault(key, [])
        for number, one in enumerate(known):
            if one.digest == digest(part):
                known[number] = Approved(part, tuple(sorted({*one.eras, era})))
                return
        known.append(Approved(part, (era,)))

    def drop(self, server: str) -> None:
        self.servers.pop(server, None)
        self.entries = {key: one for key, one in self.entries.items() if key[0] != server}

    def take(self, other: Lock, server: str) -> None:
        """Have of `server` what `other` has."""
        self.drop(server)
        if server in other.servers:
            self.servers[server] = None
        self.entries |= {key: list(one) for key, one in other.entries.items() if key[0] == server}

    def pins(self) -> tuple[Pin, ...]:
        """The digests, as the core takes them."""
        return tuple(
            Pin(server=server, kind=kind, name=name, digest=one.digest)  # type: ignore[arg-type]
            for (server, kind, name), known in self.entries.items()
            for one in known
        )


def lock_path(config: Path) -> Path:
    """Where the lock of a config is."""
    return config.with_suffix(".lock")


# -- the file


def write(path: Path, lock: Lock) -> None:
    """Put `lock` in the place of what is at `path`, as a whole. Raises `OSError`."""
    servers: dict[str, Any] = {name: {kind: {} for kind in PINNED} for name in lock.servers}
    for (server, kind, name), known in lock.entries.items():
        servers[server][kind][name] = [
            {"digest": one.digest, "eras": list(one.eras), "definition": one.part}
            for one in sorted(known, key=lambda one: (one.eras, one.digest))
        ]
    # ASCII only: what a text hides from a person's eye is seen in an escape.
    text = json.dumps({"mcpgate_lock": FORM, "servers": servers}, indent=1, sort_keys=True) + "\n"
    # Through a link the file that it leads to is meant.
    path = Path(os.path.realpath(path))
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(fd, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            # It holds no secret, and others may have to read it; nobody else may write it.
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def read(path: Path) -> tuple[Lock, list[Complaint]]:
    """The lock at `path`, and what is unsafe about the file. Raises `LockError`; `FileNotFoundError` if there
    is none."""
    try:
        fd, complaints = open_checked(str(path), secret=False)
        data = read_most(fd, LOCK_BYTES)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise LockError(f"cannot be read: {reason_of(error)}", "correct its permissions") from None
    if len(data) > LOCK_BYTES:
        raise LockError(f"is longer than {LOCK_BYTES} bytes")
    return _decoded(data), complaints


def _decoded(data: bytes) -> Lock:
    try:
        told = plain(data)
    except (JsonFault, RecursionError, UnicodeDecodeError):
        raise LockError("is not JSON, or names something twice") from None
    if not isinstance(told, dict) or told.get("mcpgate_lock") != FORM:
        raise LockError("is not a lock of this version of mcpgate")
    lock = Lock()
    for server, kinds in _members(told.get("servers")):
        lock.servers[server] = None
        for kind, names in _members(kinds):
            if kind not in PINNED:
                raise LockError(f"names a kind of things that is not pinned: {kind[:64]!r}")
            for name, known in _members(names):
                where = f"servers.{server}.{kind}.{name}"[:200]
                lock.entries[server, kind, name] = [_approved(where, name, one) for one in _list(known)]
    return lock


def _approved(where: str, name: str, value: Any) -> Approved:
    part, eras = (
        (value.get(key) for key in ("definition", "eras")) if isinstance(value, dict) else (None, None)
    )
    if not isinstance(part, dict) or not isinstance(eras, list) or not all(isinstance(e, str) for e in eras):
        raise LockError(f"{where} is malformed")
    found = Approved(part, tuple(eras))
    if part.get("name") != name or value.get("digest") != found.digest:
        # A person reads the definition and the gateway compares digests: they must be of one thing.
        raise LockError(f"{where} was changed by hand: its digest is that of another definition")
    return found


def _members(value: Any) -> Iterable[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise LockError("is malformed")
    return value.items()


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise LockError("is malformed")
    return value


# -- what differs


@dataclass(frozen=True)
class Change:
    """One thing that is not as it was approved. `what`: "changed", "new", "missing"."""

    key: Key
    what: str
    before: list[dict[str, Any]]
    after: list[dict[str, Any]]


def differences(approved: Lock, found: Lock) -> list[Change]:
    """What `found` has that was not approved, and what it lacks; for the servers of `found` alone."""
    changes = []
    for key, now in found.entries.items():
        before = approved.entries.get(key)
        if before is None:
            changes.append(Change(key, "new", [], [one.part for one in now]))
        elif {one.digest for one in now} - {one.digest for one in before}:
            changes.append(Change(key, "changed", [one.part for one in before], [one.part for one in now]))
    changes += [
        Change(key, "missing", [one.part for one in before], [])
        for key, before in approved.entries.items()
        if key[0] in found.servers and key not in found.entries
    ]
    return changes
