"""Who is asking.

Owns: `Principal`, the identity that sessions, cursors, subscriptions and upstream sessions are bound to, and
`Grant`, what one request was let in with. Ids: `local`, `anonymous`, `key:<id>`, `jwt:<issuer>#<sub>`,
`unix:<uid>`, `cert:<subject>`; no two kinds can have the same id.
Must never: hold a token or a key.
"""

from __future__ import annotations

import msgspec

__all__ = ["ANONYMOUS", "LOCAL", "Grant", "Principal"]


class Principal(msgspec.Struct, frozen=True):
    """`id` is the identity after authentication; `local` allows what only local callers may do.

    "Local" means stdio, or a Unix socket with the same user. A TCP client is not local, loopback or not.
    """

    id: str
    local: bool = False


LOCAL = Principal("local", True)
# A TCP client of a listener without authentication: all of them are one principal.
ANONYMOUS = Principal("anonymous", False)


class Grant(msgspec.Struct, frozen=True):
    """What a request came in with: who it is, the scopes of its token, and when that ends (wall clock, Unix
    seconds; None: not by itself)."""

    principal: Principal
    scopes: tuple[str, ...] = ()
    expires_wall: float | None = None
