"""What may be seen and called, by whom.

Owns: `Rules`, the compiled `[[rule]]` tables: what a principal is let at each server, and under which names.
Must never: know how a thing is reached, fold the case of a name, or let through what no rule could judge.

How rules are read together. A rule applies to a principal and a server. A thing is shown and can be called
if every rule that applies lets it: for each rule that says something of its kind, some glob of `allow` fits
it (or there is no `allow`), and no glob of `deny` does. So an empty `allow` lets nothing through
(CVE-2026-33032), a `deny` cannot be undone by another rule, and the order does not matter. Things are named
as their server names them, before any prefix or rename. Of the renames that fit a name, the first in the
order of the rules counts.

A URI is judged in every form in which its server may read it (`uris.py`): each has to be let through.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from mcpgate_proto.config import Names, RuleConfig
from mcpgate_proto.security.globs import Glob, any_matches, globs
from mcpgate_proto.security.principal import Principal
from mcpgate_proto.security.uris import Spellings, spelled_globs, spellings

__all__ = ["Rules"]

# Longer names and URIs are let through only where nobody asked for a judgement (RFC 9110 section 4.1 asks for
# 8000 octets; the same bound as in relay/templates.py).
JUDGED_CHARS: Final = 16 * 1024
# Compiled decisions that are kept; beyond it they are made anew. There are principals without number.
KEPT: Final = 1024
# Kinds of a catalog, and by which filter each is judged.
_FILTER: Final = {
    "tools": "tools",
    "prompts": "prompts",
    "resources": "resources",
    "templates": "resources",
}


class _Filter(msgspec.Struct, frozen=True):
    """A compiled `Names`."""

    allow: tuple[Glob, ...] | None
    deny: tuple[Glob, ...]

    def lets(self, name: Spellings) -> bool:
        for one in name.sure:
            if self.allow is not None and not any_matches(self.allow, one):
                return False
            if any_matches(self.deny, one):
                return False
        return not any(any_matches(self.deny, one) for one in name.likely)

    @property
    def shut(self) -> bool:
        return self.allow == () or any(glob.text == "*" for glob in self.deny)


class _Arguments(msgspec.Struct, frozen=True):
    """What the arguments of some tools may be; their names in the form that compares (`_folded`)."""

    tools: tuple[Glob, ...]
    filters: dict[str, _Filter]


class _Policy(msgspec.Struct, frozen=True):
    """All that applies to one principal at one server."""

    filters: dict[str, tuple[_Filter, ...]]
    renames: tuple[Mapping[str, str], ...]
    arguments: tuple[_Arguments, ...]


class _Rule:
    """One compiled rule."""

    def __init__(self, config: RuleConfig) -> None:
        self.principals = globs(config.principals)
        self.excepted = globs(config.except_principals)
        self.servers = globs(config.servers)
        told = {"tools": config.tools, "prompts": config.prompts, "resources": config.resources}
        self.filters = {
            kind: _filter(names, uris=kind == "resources")
            for kind, names in told.items()
            if names is not None
        }
        self.rename = config.rename
        # Apart, since two names may be the same in the form that compares.
        self.arguments = tuple(
            _Arguments(globs(config.only_tools), {_folded(name): _filter(names)})
            for name, names in config.arguments.items()
        )

    def applies(self, principal: str, server: str) -> bool:
        return (
            any_matches(self.principals, principal)
            and not any_matches(self.excepted, principal)
            and any_matches(self.servers, server)
        )


class Rules:
    """The decisions of all rules. Immutable, but for what it remembers of decisions made."""

    def __init__(self, rules: tuple[RuleConfig, ...] = ()) -> None:
        self._rules = [_Rule(one) for one in rules]
        # Whether two principals may see different things (design.md, "Names and lists").
        self.personal = any(one.principals != ("*",) or one.except_principals for one in rules)
        self._policies: dict[tuple[str, str], _Policy] = {}

    def _policy(self, principal: Principal, server: str) -> _Policy:
        key = (principal.id, server)
        found = self._policies.get(key)
        if found is None:
            if len(self._policies) >= KEPT:
                self._policies.clear()
            applying = [rule for rule in self._rules if rule.applies(*key)]
            found = self._policies[key] = _Policy(
                {
                    kind: tuple(rule.filters[kind] for rule in applying if kind in rule.filters)
                    for kind in ("tools", "prompts", "resources")
                },
                tuple(rule.rename for rule in applying if rule.rename),
                tuple(one for rule in applying for one in rule.arguments),
            )
        return found

    def covers(self, principal: Principal, server: str, kind: str) -> bool:
        """Whether any rule has a say in what `principal` may do with things of `kind` there."""
        if not self._rules:
            return False
        policy = self._policy(principal, server)
        return bool(policy.filters[_FILTER[kind]]) or (kind == "tools" and bool(policy.arguments))

    def lets(self, principal: Principal, server: str, kind: str, own: str) -> bool:
        """Whether `principal` may see and use `own`, the server's own name or URI of it.

        `kind` is one of tools, prompts, resources, templates; a template is judged by its own text.
        """
        if not self._rules:
            return True
        filters = self._policy(principal, server).filters[_FILTER[kind]]
        if not filters:
            return True
        if len(own) > JUDGED_CHARS:
            return False
        name = spellings(own) if kind == "resources" else Spellings((own,), ())
        return all(one.lets(name) for one in filters)

    def shuts(self, principal: Principal, server: str) -> bool:
        """Whether nothing at all of `server` is let through: then its instructions are not told either."""
        if not self._rules:
            return False
        policy = self._policy(principal, server)
        return all(any(one.shut for one in filters) for filters in policy.filters.values())

    def renames(self, principal: Principal, server: str) -> tuple[Mapping[str, str], ...]:
        """The renames that apply, in the order of the rules."""
        return self._policy(principal, server).renames if self._rules else ()

    # -- arguments (threats.md row 46)

    def judges_arguments(self, principal: Principal, server: str, tool: str) -> bool:
        """Whether the arguments of a call have to be looked at."""
        return any(True for _ in self._argument_filters(principal, server, tool))

    def refused_argument(
        self, principal: Principal, server: str, tool: str, arguments: Mapping[str, Any]
    ) -> str | None:
        """The name of an argument whose value is not let through, or None. `arguments` as plain data."""
        for filters in self._argument_filters(principal, server, tool):
            for name, value in arguments.items():
                # A server that folds case must not read what no rule has seen (threats.md rows 18, 21).
                found = filters.get(_folded(name))
                if found is not None and not all(found.lets(_spelled(text)) for text in _texts(value)):
                    return name
        return None

    def _argument_filters(self, principal: Principal, server: str, tool: str) -> Iterator[dict[str, _Filter]]:
        if self._rules:
            for one in self._policy(principal, server).arguments:
                if len(tool) <= JUDGED_CHARS and any_matches(one.tools, tool):
                    yield one.filters


def _filter(names: Names, *, uris: bool = False) -> _Filter:
    allow, deny = names.allow, names.deny
    if uris:
        allow = None if allow is None else tuple(spelled_globs(allow))
        deny = tuple(spelled_globs(deny))
    return _Filter(None if allow is None else globs(allow), globs(deny))


def _folded(name: str) -> str:
    return name.casefold()


def _spelled(text: str) -> Spellings:
    return Spellings((text,), ())


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value, and every other scalar as JSON spells it; names of members are not values."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            left.extend(one.values())
        elif isinstance(one, list):
            left.extend(one)
        else:
            # 1.0 and 1e0 are 1 to most readers.
            yield json.dumps(int(one) if isinstance(one, float) and one.is_integer() else one)
