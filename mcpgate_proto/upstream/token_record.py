"""What is kept of a login between runs.

Owns: the form of one record (JSON): whose it is, for which server, and per issuer the client and its tokens
(J14, J17). Must never: be used for another principal or server than it was made for, whatever a file says.
"""

from __future__ import annotations

import hashlib

import msgspec

from mcpgate_proto.upstream.oauth import Registration, is_token

__all__ = ["Entry", "Record", "encode_record", "read_record", "record_name"]

# Issuers of one server that are remembered; a server changes its issuer rarely.
ENTRIES = 4
FORMAT = 1


class Entry(msgspec.Struct, frozen=True):
    """What one issuer gave. `expires_wall` 0: it did not say."""

    client: Registration | None = None
    access: str = ""
    refresh: str = ""
    expires_wall: float = 0.0
    scopes: tuple[str, ...] = ()


class Record(msgspec.Struct, frozen=True):
    """One principal's logins at one server. `issuer` is the one whose token is in use."""

    principal: str
    server: str
    issuer: str = ""
    entries: dict[str, Entry] = {}
    format: int = FORMAT

    @property
    def current(self) -> Entry:
        return self.entries.get(self.issuer, Entry())

    def with_entry(self, issuer: str, entry: Entry) -> Record:
        """The record with `entry` for `issuer`, which becomes the one in use."""
        rest = {name: one for name, one in self.entries.items() if name != issuer}
        while len(rest) >= ENTRIES:
            del rest[next(iter(rest))]
        return msgspec.structs.replace(self, issuer=issuer, entries={**rest, issuer: entry})


def record_name(principal: str, server: str) -> str:
    """The name under which the record is kept: nothing of it can be read from outside."""
    told = msgspec.json.encode([principal, server])
    return hashlib.blake2b(told, digest_size=20, person=b"mcpgate-login").hexdigest()


def read_record(data: bytes, principal: str, server: str) -> Record:
    """The record in `data`; an empty one where there is none for this principal and server."""
    empty = Record(principal, server)
    try:
        found = msgspec.json.decode(data, type=Record)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return empty
    mine = (found.format, found.principal, found.server) == (FORMAT, principal, server)
    tokens = [token for one in found.entries.values() for token in (one.access, one.refresh) if token]
    return found if mine and all(is_token(token) for token in tokens) else empty


def encode_record(record: Record) -> bytes:
    return msgspec.json.encode(record)
