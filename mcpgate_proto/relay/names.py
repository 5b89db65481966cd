"""Names that a client sees, and the server's own names behind them.

Owns: the prefix of tools and prompts, their renames, and the prefixed form of URIs.
Must never: depend on the order in which servers started, or undo a cut or renamed name by taking it apart
(H2): only the tables of the catalog know what it stands for.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping

__all__ = [
    "SEPARATOR",
    "prefixed_uri",
    "renamed",
    "server_name_problem",
    "shown_name",
    "split_prefix",
    "split_uri",
]

# Characters of it are fit for every client (H1), and two of them do not occur in a server's name.
SEPARATOR = "__"
SCHEME = "mcpgate://"
_SERVER_NAME = re.compile(r"[A-Za-z0-9_.-]{1,32}")
# Hex digits that close a name which was cut.
_DIGEST_CHARS = 10


def server_name_problem(name: str) -> str | None:
    """What is wrong with a server's configured name, or None.

    1 to 32 characters of `[A-Za-z0-9_.-]` (H1's set), no `__` inside and no `_` at either end. So the first
    `__` of a shown name is always the separator: `a__b` + `c` and `a` + `b__c` cannot both come to be.
    """
    if _SERVER_NAME.fullmatch(name) is None:
        return "must be 1 to 32 characters of letters, digits, '_', '.' and '-'"
    if SEPARATOR in name:
        return "must not contain '__', which separates it from the names of its tools"
    if name.startswith("_") or name.endswith("_"):
        return "must not begin or end with '_'"
    return None


def shown_name(server: str, own: str, *, prefixed: bool, rename: Mapping[str, str], chars: int) -> str:
    """The name under which a client sees `own`, a tool or prompt of `server`.

    `rename` (own -> shown) wins, as it is: first an exact entry, then the first pattern that fits, in the
    order of the mapping. A pattern has one `*` on both sides, which stands for any text. Otherwise the name
    is prefixed if `prefixed`, and then cut to `chars` characters, closed with a stable digest.
    """
    found = renamed(own, rename)
    if found is not None:
        return found
    if not prefixed:
        return own
    full = f"{server}{SEPARATOR}{own}"
    if len(full) <= chars:
        return full
    digest = hashlib.blake2b(
        full.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_CHARS // 2
    ).hexdigest()
    return f"{full[: max(0, chars - 1 - _DIGEST_CHARS)]}_{digest}"


def renamed(own: str, rename: Mapping[str, str]) -> str | None:
    """The name that `rename` gives to `own`, as `shown_name` says; None where it has none for it."""
    exact = rename.get(own)
    if exact is not None and "*" not in own:
        return exact
    for pattern, shown in rename.items():
        if pattern.count("*") != 1 or shown.count("*") != 1:
            continue
        head, _, tail = pattern.partition("*")
        if len(own) >= len(head) + len(tail) and own.startswith(head) and own.endswith(tail):
            return shown.replace("*", own[len(head) : len(own) - len(tail)])
    # A tool may really be called `a*b`, and an entry for it be written so.
    return exact


def split_prefix(shown: str, servers: Collection[str]) -> tuple[str, str] | None:
    """The server and the rest of a prefixed name, or None when no server of that name exists.

    For a name that the table does not know yet; the rest may be a cut name.
    """
    server, separator, rest = shown.partition(SEPARATOR)
    return (server, rest) if separator and rest and server in servers else None


def prefixed_uri(server: str, uri: str) -> str:
    """`mcpgate://<server>/<uri>`: under this form a resource of any server can be read (H13)."""
    return f"{SCHEME}{server}/{uri}"


def split_uri(uri: str, servers: Collection[str]) -> tuple[str, str] | None:
    """The server and its own URI out of a prefixed one; None for any other URI."""
    if not uri.startswith(SCHEME):
        return None
    server, slash, own = uri[len(SCHEME) :].partition("/")
    return (server, own) if slash and own and server in servers else None
