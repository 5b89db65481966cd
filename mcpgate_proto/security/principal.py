"""Who is asking.

Owns: `Principal`, the identity that sessions, cursors, subscriptions and upstream sessions are bound to.
Must never: hold a token or a key.
"""

from __future__ import annotations

import msgspec

__all__ = ["LOCAL", "Principal"]


class Principal(msgspec.Struct, frozen=True):
    """`id` is the identity after authentication; `local` allows what only local callers may do.

    "Local" means stdio, or a Unix socket with the same user. A TCP client is not local, loopback or not.
    """

    id: str
    local: bool = False


LOCAL = Principal("local", True)
# A TCP client of a listener without authentication: all of them are one principal.
ANONYMOUS = Principal("anonymous", False)
