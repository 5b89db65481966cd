"""Reading one table of settings with every problem noted, none raised.

Owns: `Problem`, `Problems` and `Table`: typed reads, unknown keys with a suggestion, expansion of references;
what a path of a URL is.
Must never: stop at the first problem, or repeat a value that may be a secret.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from mcpgate.expand import Expander, ExpandError, Inline
from mcpgate.inline import is_harmless, is_secret_name, looks_secret

__all__ = ["Problem", "Problems", "Table", "labelled", "path_problem", "suggestion"]

_MISSING: Any = object()
_KINDS: dict[type, str] = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    dict: "a table",
    list: "a list",
}
# RFC 3986 section 3.3.
_URL_PATH = re.compile(r"/(?:[-A-Za-z0-9._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*")
_INLINE = "holds a secret as it is, which everybody who reads the config then has"
_INLINE_MEND = "write ${env:NAME} or ${file:/path}, or set [gateway] allow_inline_secrets = true"


class Problem(NamedTuple):
    """One thing wrong: in which file, at which key, what, and how to mend it."""

    file: str
    key: str
    problem: str
    mend: str

    def __str__(self) -> str:
        where = f"{self.file}: {self.key}" if self.key else self.file
        return f"{where}: {self.problem}\n    mend: {self.mend}"


class Problems:
    """Collects what is wrong (`errors`) and what is only odd (`warnings`) in one file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.errors: list[Problem] = []
        self.warnings: list[Problem] = []
        # The keys under which secrets stand as they are.
        self.inline: list[str] = []

    def error(self, key: str, problem: str, mend: str) -> None:
        """The first of a key is told: what comes after may only be its consequence, as that it is missing.
        Of the whole file (no key) all are."""
        if not key or all(one.key != key for one in self.errors):
            self.errors.append(Problem(self.file, key, problem, mend))

    def warn(self, key: str, problem: str, mend: str) -> None:
        self.warnings.append(Problem(self.file, key, problem, mend))


class Table:
    """One table at `path`. Reading a key marks it as known; `finish` reports the others."""

    def __init__(self, values: Any, path: str, problems: Problems, expander: Expander) -> None:
        self.path = path
        self.problems = problems
        self.expander = expander
        self.known: list[str] = []
        self.values: dict[str, Any] = {}
        if isinstance(values, dict):
            self.values = values
        else:
            problems.error(path, f"is {_kind_of(values)}", "make it a table")

    def key(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def _take(self, name: str, kind: type, default: Any) -> Any:
        self.known.append(name)
        value = self.values.get(name, _MISSING)
        if value is _MISSING:
            return default
        # In Python true is a number; in a config it is a slip.
        fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if not fits:
            self.problems.error(self.key(name), f"is {_kind_of(value)}", f"write {_KINDS[kind]}")
            return default
        return value

    def text(self, name: str, default: str = "", choices: Iterable[str] = ()) -> str:
        value = self._take(name, str, None)
        if value is None:
            return default
        told, value = value, self._expanded(self.key(name), value)
        allowed = list(choices)
        if allowed and value not in allowed:
            near = suggestion(value, allowed) if told == value else ""
            self.problems.error(
                self.key(name),
                # What came by a reference may be a secret in the wrong place.
                f"{told!r} is not one of the choices",
                near or f"choose one of: {', '.join(allowed)}",
            )
            return default
        return str(value)

    def file(self, name: str, base: Path) -> str | None:
        """The path of a file, from `base` if it is relative; none if the key is not there."""
        given = self.text(name)
        if not given:
            return None
        full = str(base / os.path.expanduser(given))
        # Unlike the method of `Path`, this raises for no path at all.
        if not os.path.isfile(full):
            self.problems.error(self.key(name), f"there is no file {full}", "correct the path")
        return full

    def flag(self, name: str, default: bool) -> bool:
        return bool(self._take(name, bool, default))

    def number(self, name: str, default: float, *, least: float = 0.0, most: float = 1e9) -> float:
        return self._bounded(name, self._take(name, float, default), default, least, most)

    def whole(self, name: str, default: int, *, least: int = 0, most: int = 2**53) -> int:
        return int(self._bounded(name, self._take(name, int, default), default, least, most))

    def _bounded(self, name: str, value: float, default: float, least: float, most: float) -> float:
        # The comparison is also false for NaN.
        if least <= value <= most:
            return value
        self.problems.error(self.key(name), f"is {value}", f"write a number from {least:g} to {most:g}")
        return default

    def texts(self, name: str) -> tuple[str, ...]:
        value = self._take(name, list, [])
        found = []
        for number, item in enumerate(value):
            where = f"{self.key(name)}[{number}]"
            if isinstance(item, str):
                found.append(self._expanded(where, item))
            else:
                self.problems.error(where, f"is {_kind_of(item)}", "write a text, in quotes")
        return tuple(found)

    def text_map(self, name: str) -> dict[str, str]:
        value = self._take(name, dict, {})
        found = {}
        for key, item in value.items():
            where = f"{self.key(name)}.{key}"
            if isinstance(item, str):
                found[key] = self._expanded(where, item)
            else:
                self.problems.error(where, f"is {_kind_of(item)}", "write a text, in quotes")
        return found

    def each(self, name: str, label: str = "name") -> list[tuple[str, Any]]:
        """(key path, table) of each table in an array of them."""
        self.known.append(name)
        values = self.values.get(name, [])
        key = self.key(name)
        if not isinstance(values, list):
            self.problems.error(key, "is one table", f"write [[{key}]], with two brackets, for each")
        return labelled(key, values, label)

    def secret(self, name: str, default: str = "") -> str:
        """A text that must come by reference, such as `${env:NAME}`, and that no log may show.

        A literal is refused unless `[gateway] allow_inline_secrets` is true.
        """
        value = self._take(name, str, None)
        return default if value is None else self._secret(self.key(name), value)

    def secret_map(self, name: str) -> dict[str, str]:
        """As `text_map`; what has the name of a secret (`Authorization`, `API_KEY`) is read as one."""
        found = {}
        for key, item in self._take(name, dict, {}).items():
            where = f"{self.key(name)}.{key}"
            if not isinstance(item, str):
                self.problems.error(where, f"is {_kind_of(item)}", "write a text, in quotes")
            elif is_secret_name(str(key)) and not is_harmless(item):
                found[key] = self._secret(where, item)
            else:
                found[key] = self._expanded(where, item)
        return found

    def _secret(self, where: str, text: str) -> str:
        value = self._expanded(where, text)
        self.expander.keep_secret(value)
        literal = self.expander.literal(text)
        if value and (not self.expander.is_reference(text) or looks_secret(literal)):
            self.inline(where)
        return value

    def inline(self, where: str) -> None:
        """A secret stands in the config as it is."""
        if self.expander.access.inline is not Inline.JUDGED:
            self.problems.inline.append(where)
        if self.expander.access.inline is Inline.REFUSE:
            self.problems.error(where, _INLINE, _INLINE_MEND)

    def any_map(self, name: str) -> dict[str, Any]:
        return dict(self._take(name, dict, {}))

    def _expanded(self, where: str, text: str) -> str:
        try:
            value = self.expander.expand(text)
            if (plain := self.expander.unread(text)) and self.expander.access.inline is not Inline.JUDGED:
                self.problems.warn(where, f"{plain} is taken as it is", "write ${env:NAME} for a variable")
            value.encode()
            if "\0" not in value:
                return value
            # No path, argument, variable or header can hold one.
            self.problems.error(where, "holds a NUL character", "remove it")
        except UnicodeEncodeError:
            # It comes from a variable, and would have to go into JSON.
            self.problems.error(where, "is not UTF-8", "set the variable to a text in UTF-8")
        except ExpandError as error:
            self.problems.error(where, error.problem, error.mend)
        finally:
            self.take_complaints(where)
        return ""

    def take_complaints(self, where: str) -> None:
        """Warn of what was unsafe about what was just read."""
        for complaint in self.expander.complaints:
            self.problems.warn(where, complaint.problem, complaint.mend)
        self.expander.complaints.clear()

    def finish(self) -> None:
        """Report every key that was never asked for."""
        for name in self.values:
            if name not in self.known:
                near = suggestion(name, self.known)
                mend = near or f"remove it; known here: {', '.join(sorted(set(self.known)))}"
                self.problems.error(self.key(name), "is not a known key", mend)


def labelled(key: str, values: Any, label: str = "name") -> list[tuple[str, Any]]:
    """(key path, table) of each table in an array of them, called by its `label` where it has one."""
    found = []
    for number, value in enumerate(values if isinstance(values, list) else ()):
        own = value.get(label) if isinstance(value, dict) else None
        found.append((f"{key}.{own}" if isinstance(own, str) and own else f"{key}[{number}]", value))
    return found


def path_problem(path: str) -> tuple[str, str] | None:
    """Why no request can be for `path`, and how to mend it."""
    if not path.startswith("/"):
        return "does not begin with a slash", f'write "/{path}"'
    if _URL_PATH.fullmatch(path) is None:
        return (
            "holds what no path of a URL can hold",
            'write it as requests have it, such as "/mcp" or "/a%20b"',
        )
    return None


def suggestion(name: str, known: Iterable[str]) -> str:
    """`did you mean ...?`, or nothing if no known name is near."""
    plain, all_known = name.lower().replace("-", "_"), list(known)
    near = difflib.get_close_matches(plain, all_known, n=1, cutoff=0.6)
    # A beginning (`cpu` for `cpu_seconds`) is less alike than it looks.
    near += [known_name for known_name in all_known if plain and known_name.startswith(plain)]
    return f"did you mean {near[0]!r}?" if near else ""


def _kind_of(value: Any) -> str:
    # bool before int: see `_take`.
    for kind in (bool, str, int, float, dict, list):
        if isinstance(value, kind):
            return _KINDS[kind] if kind is not bool else "true or false"
    return "nothing" if value is None else type(value).__name__
