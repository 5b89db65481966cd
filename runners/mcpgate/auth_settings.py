"""`[auth]`: the keys and issuers whose tokens are taken; and what a listener says about who may come in.

Owns: the meaning of these keys, and the refusal to stand open to a network. Must never: read a key in the
clear, or accept settings under which nobody, or everybody, would come in unasked.
"""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mcpgate.accounts import MOST_ID, group_id, user_id
from mcpgate.tables import Problems, Table
from mcpgate_proto.config import AuthConfig, IssuerConfig, KeyConfig, ListenConfig
from mcpgate_proto.limits import Limits
from mcpgate_proto.security.address import is_loopback
from mcpgate_proto.security.egress import parse_url
from mcpgate_proto.security.gate import requires
from mcpgate_proto.security.jwks import ALGORITHMS, parse_jwks
from mcpgate_proto.security.keys import KEY_ID, hash_problem

__all__ = ["AUTH_KEYS", "check_reach", "is_networked", "is_scope", "read_auth", "read_listener_auth"]

NEW_KEY = "run `mcpgate key new` and paste what it prints"
# Of a listener; those of sockets and of certificates mean something there only.
AUTH_KEYS = ("auth", "allow_uids", "allow_gids", "client_subjects")
SCOPE = re.compile(r"[!#-\[\]-~]+")  # RFC 6749 section 3.3
OPEN = (
    "is not a loopback address, and nobody would be asked who they are: everybody could use your servers",
    'add an [[auth.key]] (`mcpgate key new`) and TLS, or write host = "localhost", or behind_proxy = true '
    "where a proxy in front authenticates",
)
NONE = (
    "lets everybody in, and the host is not a loopback address",
    'remove it, or write host = "localhost", or behind_proxy = true where a proxy in front authenticates',
)
PLAIN = (
    "is not a loopback address, and without TLS everybody on the way can read tokens and use them",
    'write tls_cert and tls_key, or host = "localhost", or behind_proxy = true where a proxy has TLS',
)


def read_auth(root: Table, problems: Problems, base: Path) -> AuthConfig:
    """The `[auth]` table of a config; what is wrong with it is noted."""
    if "auth" not in root.values:
        return AuthConfig()
    table = Table(root.values["auth"], "auth", problems, root.expander)
    reader = _Reader(table, problems, base)
    config = AuthConfig(
        resource=table.text("resource"),
        keys=tuple(map(reader.key, reader.each("key", "id"))),
        issuers=tuple(map(reader.issuer, reader.each("issuer", "issuer"))),
    )
    table.finish()
    reader.check(config)
    return config


class _Reader:
    def __init__(self, table: Table, problems: Problems, base: Path) -> None:
        self.table = table
        self.problems = problems
        self.base = base

    def each(self, name: str, label: str) -> list[Table]:
        """The tables of `[[auth.<name>]]`, called by their `label` where they have one."""
        table = self.table
        return [Table(value, path, self.problems, table.expander) for path, value in table.each(name, label)]

    def key(self, table: Table) -> KeyConfig:
        id, kept = table.text("id"), table.text("hash")
        if KEY_ID.fullmatch(id) is None:
            self.problems.error(table.key("id"), "is not 1 to 32 letters, digits and dashes", NEW_KEY)
        if kept.startswith("mcpg_"):
            self.problems.error(table.key("hash"), "is a key, not the hash of one", "run `mcpgate key hash`")
        elif problem := hash_problem(kept):
            self.problems.error(table.key("hash"), problem, NEW_KEY)
        expires = self.moment(table, "expires")
        if expires is not None and expires < time.time():
            self.problems.warn(table.key("expires"), "is over: the key opens nothing", "remove the key")
        found = KeyConfig(id=id, name=table.text("name"), hash=kept, expires_wall=expires)
        table.finish()
        return found

    def moment(self, table: Table, name: str) -> float | None:
        """A date and time of TOML, or a text of one; None if there is none."""
        table.known.append(name)
        value = table.values.get(name)
        if value is None:
            return None
        try:
            told = datetime.datetime.fromisoformat(value) if isinstance(value, str) else value
            if isinstance(told, datetime.datetime) and told.tzinfo is not None:
                return told.timestamp()
        except (ValueError, OverflowError):
            pass
        mend = "write it as 2027-01-31T00:00:00Z"
        self.problems.error(table.key(name), "is not a date and time with its zone", mend)
        return None

    def issuer(self, table: Table) -> IssuerConfig:
        name, url, text = table.text("issuer"), table.text("jwks_url"), table.text("jwks")
        _check_url(self.problems, table.key("issuer"), name)
        if url and text:
            self.problems.error(table.key("jwks_url"), "and jwks are both given", "keep one")
        elif url:
            place = parse_url(url, allow_loopback=True)
            if isinstance(place, str):
                told = place.removeprefix("the URL ")
                self.problems.error(table.key("jwks_url"), told, "write it as https://host/path")
        elif text:
            keys = parse_jwks(text.encode(), Limits().jwks_keys)
            if isinstance(keys, str):
                self.problems.error(
                    table.key("jwks"), f"cannot be used: {keys}", "write a JWK set (RFC 7517)"
                )
        algorithms = table.texts("algorithms")
        for algorithm in algorithms:
            if algorithm not in ALGORITHMS:
                mend = f"choose from: {', '.join(ALGORITHMS)}"
                self.problems.error(table.key("algorithms"), f"{algorithm!r} is not accepted", mend)
        if "algorithms" in table.values and not algorithms:
            self.problems.error(table.key("algorithms"), "allows none", "leave it out for the usual ones")
        scopes = table.texts("scopes")
        if not all(map(is_scope, scopes)):
            self.problems.error(
                table.key("scopes"), "holds what is no scope", 'write each as "name", no blanks'
            )
        found = IssuerConfig(
            issuer=name,
            jwks_url=url,
            jwks=text,
            audience=self.some(table, "audience"),
            algorithms=algorithms or IssuerConfig(issuer="").algorithms,
            scopes=scopes,
            ca_file=table.file("ca_file", self.base),
        )
        table.finish()
        return found

    def some(self, table: Table, name: str) -> tuple[str, ...]:
        """A list of texts, or one text."""
        if isinstance(table.values.get(name), str):
            return (table.text(name),)
        return table.texts(name)

    def check(self, config: AuthConfig) -> None:
        """What goes together."""
        note = self.problems.error
        if (
            not config.keys
            and not config.issuers
            and not any(p.key.startswith("auth") for p in self.problems.errors)
        ):
            note("auth", "has neither a key nor an issuer: nobody could come in", NEW_KEY)
        for key in config.keys:
            if sum(one.id == key.id for one in config.keys) > 1:
                note(f"auth.key.{key.id}", "is there twice", "give each key its own id")
                break
        for issuer in config.issuers:
            if sum(one.issuer == issuer.issuer for one in config.issuers) > 1:
                note(f"auth.issuer.{issuer.issuer}", "is there twice", "write one table for each issuer")
                break
        if config.resource:
            _check_url(self.problems, "auth.resource", config.resource)
        elif config.issuers:
            # It is the audience of tokens, and where clients find the metadata.
            mend = 'write resource = "https://host/mcp", the URL that clients use'
            note("auth.resource", "is missing; tokens are issued for it", mend)


def _check_url(problems: Problems, key: str, url: str) -> None:
    """RFC 8414 section 2, RFC 9728 section 1.2: https, without query or fragment. Loopback may be plain."""
    place = parse_url(url, allow_loopback=True)
    problem = place.removeprefix("the URL ") if isinstance(place, str) else ""
    if not problem and urlsplit(url).query:
        problem = "has a query"
    if problem:
        problems.error(key, problem, "write it as https://host/path")


def is_scope(text: str) -> bool:
    """It is one scope of a token."""
    return SCOPE.fullmatch(text) is not None


# -- listeners


def read_listener_auth(table: Table, problems: Problems) -> dict[str, Any]:
    """The fields of a `ListenConfig` that say who may come in."""
    return {
        "auth": table.text("auth", "auto", ("auto", "required", "none")),
        "allow_uids": _ids(table, problems, "allow_uids", user_id),
        "allow_gids": _ids(table, problems, "allow_gids", group_id),
        "client_subjects": table.texts("client_subjects") if "client_subjects" in table.values else None,
    }


def _ids(
    table: Table, problems: Problems, name: str, look_up: Callable[[str], int | None]
) -> tuple[int, ...]:
    """Numbers, or names of users or groups of this machine."""
    table.known.append(name)
    values = table.values.get(name, [])
    if not isinstance(values, list):
        values = [values]
    found = []
    for value in values:
        number = look_up(value) if isinstance(value, str) else value
        if isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= MOST_ID:
            found.append(number)
        else:
            mend = "write numbers, or names that this machine knows, in a list"
            problems.error(table.key(name), f"{value!r} is nobody here", mend)
    return tuple(found)


def is_networked(listener: ListenConfig) -> bool:
    """Other machines can reach it, not only a proxy's clients."""
    return listener.kind == "http" and not listener.socket_path and not is_loopback(listener.host)


def check_reach(table: Table, problems: Problems, listener: ListenConfig, auth: AuthConfig) -> None:
    """Who could come in through `listener`."""
    unix = bool(listener.socket_path)
    can = bool(auth.keys or auth.issuers or (listener.tls is not None and listener.tls.client_ca_file))
    if listener.auth == "required" and listener.kind == "unix":
        mend = "remove it: who connects is known, and allow_uids says who may"
        problems.error(table.key("auth"), "asks for a token, and messages on a Unix socket carry none", mend)
    elif listener.auth == "required" and not can:
        problems.error(table.key("auth"), "asks for what nobody can have: there is no [auth]", NEW_KEY)
    for key in ("allow_uids", "allow_gids"):
        if key in table.values and not unix:
            problems.error(table.key(key), "needs a Unix socket", "write socket_path, or remove the key")
    if listener.client_subjects is not None:
        if listener.tls is None or listener.tls.client_ca_file is None:
            mend = "write tls_client_ca, or remove the key"
            problems.error(table.key("client_subjects"), "needs client certificates", mend)
        elif not listener.client_subjects:
            mend = 'list subjects, such as "CN=ci,*", or remove the key'
            problems.warn(table.key("client_subjects"), "is empty: no certificate is let in", mend)
    group = unix and listener.socket_mode & 0o070 and not listener.socket_mode & 0o002
    if group and listener.auth != "none" and not listener.allow_uids and not listener.allow_gids:
        mend = "write allow_uids or allow_gids"
        problems.warn(table.key("socket_mode"), "lets a group connect, which is then turned away", mend)
    if not is_networked(listener) or listener.behind_proxy:
        return
    if listener.auth == "none":
        problems.error(table.key("auth"), *NONE)
    elif not requires(listener, auth):
        problems.error(table.key("host"), *OPEN)
    elif listener.tls is None:
        problems.error(table.key("host"), *PLAIN)
