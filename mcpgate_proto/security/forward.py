"""Which headers of a client's request may travel on to a server.

Owns: the names that never do, and the picking of those that an operator listed (`forward_headers`).
Must never: let through what one hop owns, or the credential that the client showed us (J5, J6; threats.md
row 37: no header of a client chooses where a request goes).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from mcpgate_proto.config import GatewayConfig

__all__ = ["header_problem", "names_in", "pick"]

# RFC 9110 section 5.6.2, without the underscore that some gateways take for a hyphen (threats.md 3).
_NAME = re.compile(r"[!#$%&'*+.^`|~0-9a-z-]+")
_VALUE = re.compile(r"[ -~]*")
# What the connection, its framing and its content are; who asks, from where, with which rights; what MCP
# itself says in headers. All of it is said anew on the next hop, or not at all.
_OWNED = frozenset(
    "host connection keep-alive te trailer transfer-encoding upgrade expect via date user-agent "
    "authorization cookie cookie2 set-cookie www-authenticate authentication-info "
    "origin referer forwarded x-real-ip last-event-id range".split()
)
_OWNED_FAMILIES = (
    *("accept", "content-", "access-control-", "if-", "mcp-", "proxy-", "sec-", "x-forwarded-"),
    "x-original-",
)


def header_problem(name: str) -> str:
    """Why the header `name` must not be forwarded, or nothing."""
    plain = name.lower()
    if _NAME.fullmatch(plain) is None:
        return "is not the name of a header"
    if plain in _OWNED or plain.startswith(_OWNED_FAMILIES):
        return "belongs to one hop, or says who asks; it is never forwarded"
    return ""


def names_in(config: GatewayConfig) -> tuple[str, ...]:
    """What any server of `config` wants forwarded, in lower case."""
    names = [name.lower() for server in config.servers for name in server.forward_headers]
    return tuple(dict.fromkeys(name for name in names if not header_problem(name)))


def pick(headers: Iterable[tuple[str, str]], names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """The headers with these names (lower case, as `headers` has them), each once, with a plain value.

    A value that repeats the client's own credential is left out, under whatever name it comes.
    """
    found: dict[str, str] = {}
    wanted = frozenset(names)
    if not wanted:
        return ()
    given = list(headers)
    secrets = [value.split(" ")[-1] for name, value in given if name == "authorization"]
    for name, value in given:
        if name not in wanted or header_problem(name) or _VALUE.fullmatch(value) is None:
            continue
        if any(secret and secret in value for secret in secrets):
            continue
        # RFC 9110 section 5.3: a field given more than once is one list.
        found[name] = f"{found[name]}, {value}" if name in found else value
    return tuple(found.items())
