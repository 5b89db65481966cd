"""What must not be seen in a log: taken out of records and texts before anything else is done with them.

Owns: redaction by value (every secret that was read, in the forms in which it travels), by the name of a
field, and by the look of keys and tokens (threats.md section 0 "Logging", I8).
Must never: let more than `EDGE - 1` characters of a secret through at the edge of a text that was cut, or
change a text that holds nothing of the kind.
"""

from __future__ import annotations

import base64
import functools
import json
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import msgspec

from mcpgate.inline import (
    KEY_STARTS,
    KNOWN_KEYS,
    argv_secrets,
    is_harmless,
    is_plain,
    is_secret_name,
    without_scheme,
)
from mcpgate.tables import Problem
from mcpgate_proto.effects import Record, Scalar

if TYPE_CHECKING:
    from mcpgate_proto.config import GatewayConfig

__all__ = ["EDGE", "LEAST_CHARS", "MARK", "Redactor", "secrets_of"]

MARK = "[redacted]"
# A shorter value is part of too many innocent words (threats.md: "known secret value"); settings warn of it.
LEAST_CHARS = 8
# Of a secret that a cut has halved, so many characters are taken for it; fewer may stay.
EDGE = 6
# Secrets of configs before the present one: what was rotated away may still be on its way into the log.
GENERATIONS = 4
# Names of a record's fields that hold a secret. `key` and `token` alone are words of logs and of MCP.
FIELD_NAMES = re.compile(
    r"(?:proxy-)?authorization|(?:set-)?cookie|.*(?:secret|passw(?:or)?d|passphrase|credentials?)"
    r"|.*(?:access|refresh|id|bearer|auth|api|client|session)[_-]?token|.*(?:api|private|access|sealing)[_-]?key",
    re.IGNORECASE,
)
# `Authorization: ...` and `Cookie: ...` to the end of the line, whatever the scheme.
HEADER = re.compile(
    r"""(?i)\b((?:proxy-)?authorization|(?:set-)?cookie)(["']?\s*[:=]\s*["']?)((?:basic|bearer|digest)\s+)?"""
    r"""(?=[^\s"'])[^"'\r\n]+"""
)
# `api_key=...`, `"password": "..."`: what follows at once, or in quotes, or looks like no word. Nothing
# before the word is matched: a pattern that may begin anywhere would cost the square of a long line.
PAIR = re.compile(
    r"""(?i)(secret|passw(?:or)?d|passphrase|token|(?:api|private|access|secret)[_-]?key)"""
    r"""(["']?\s{0,3}[:=]\s{0,3}["']|=|:(?=\S)|:\s{1,3}(?=[^\s0-9]*[0-9])(?=\S{12}))([^\s"',;&)}\]]{6,})"""
)
PAIR_WORDS = ("secret", "passw", "passphrase", "token")
KEY_WORDS = ("api", "private", "access")
# Two schemes that words may follow too ("Basic authentication"): a value has a digit or is long.
SCHEME = re.compile(
    r"(?i)\b(basic|bearer)(\s+)(?!/)(?=[\w.~+/-]*(?:[0-9]|={1,2}(?![\w.~+/=-]))|[\w.~+/-]{20})[\w.~+/-]{8,}=*"
)
USERINFO = re.compile(r"(?<=://)[^\s/@\"'<>]+(?=@)")
# The field of an audit record that is JSON: its members are looked at by their own names.
ARGUMENTS = "arguments"
# In no pattern above, so that nothing is found across two fields.
BETWEEN = "\0\n"
ALPHABETS = (base64.b64encode, base64.urlsafe_b64encode)


def _forms(secret: str) -> Iterable[str]:
    """`secret` as it may stand in a text: itself, its lines, and encoded."""
    yield secret
    for line in secret.splitlines():
        yield line.strip()
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield repr(secret)[1:-1]
    data = secret.encode("utf-8", "surrogatepass")
    for quoted in (quote(data, safe=""), quote(data), quote_plus(data)):
        yield quoted
        yield re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), quoted)
    yield data.hex()
    yield data.hex().upper()
    for encode in ALPHABETS:
        yield encode(data).decode()
        yield encode(data).decode().rstrip("=")
        # Inside a longer text, as in Basic's `user:password`: what does not depend on the neighbours.
        for shift in (0, 1, 2):
            text = encode(b"\0" * shift + data).decode().rstrip("=")
            whole = (shift + len(data)) % 3 == 0
            yield text[(0, 2, 3)[shift] : None if whole else -1]


class Redactor:
    """Knows secrets, and takes them out. May be used from several threads."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._lock = threading.Lock()
        self._past: deque[tuple[str, ...]] = deque(maxlen=GENERATIONS)
        # Longest first: of two that begin alike, the longer is taken.
        self._forms: tuple[str, ...] = ()
        self._blob = ""
        self.learn(secrets)

    def learn(self, secrets: Iterable[str]) -> None:
        """From now on these are taken out, and for a while those that were known before."""
        with self._lock:
            new = tuple(dict.fromkeys(one for secret in secrets for one in _forms(secret)))
            if new in self._past:
                self._past.remove(new)
            self._past.append(new)
            known = {form for forms in self._past for form in forms if _tellable(form)}
            forms = tuple(sorted(known, key=lambda form: (-len(form), form)))
            self._blob = "\n".join(forms)
            self._forms = forms

    def text(self, text: str) -> str:
        """`text` without secrets."""
        return self._by_look(self._by_value(text))

    def _whole(self, text: str) -> str:
        """The same of a text that was not cut."""
        return self._by_look(self._known(text))

    def _by_value(self, text: str) -> str:
        # First, while a part of the cut one has not been taken for one of its lines.
        return self._known(self._at_edges(text))

    def _known(self, text: str) -> str:
        for form in self._forms:
            if form in text:
                text = text.replace(form, MARK)
        return text

    def _at_edges(self, text: str) -> str:
        """The rest of a secret that was cut in two, before or after."""
        if len(text) < EDGE or not self._forms:
            return text
        if text[-EDGE:] in self._blob:
            most = max((_overlap(text, form) for form in self._forms), default=0)
            text = text[: len(text) - most] + MARK if most else text
        if text[:EDGE] in self._blob:
            most = max((_overlap(form, text) for form in self._forms), default=0)
            text = MARK + text[most:] if most else text
        return text

    def _by_look(self, text: str) -> str:
        # Patterns are slow and seldom needed: first the words that each of them begins with.
        if any(start in text for start in KEY_STARTS):
            text = KNOWN_KEYS.sub(lambda match: next(filter(None, match.groups()), "") + MARK, text)
        if "://" in text:
            text = USERINFO.sub(MARK, text)
        low = text.lower()
        if "authorization" in low or "cookie" in low:
            text = HEADER.sub(lambda m: f"{m[1]}{m[2]}{m[3] or ''}{MARK}", text)
        pair = any(word in low for word in PAIR_WORDS)
        if pair or ("key" in low and any(word in low for word in KEY_WORDS)):
            text = PAIR.sub(lambda m: f"{m[1]}{m[2]}{MARK}", text)
        if "basic" in low or "bearer" in low:
            text = SCHEME.sub(rf"\1\2{MARK}", text)
        return text

    def record(self, record: Record) -> Record:
        """`record` without secrets in its event and fields, whatever is written of it."""
        values = [value for _, value in record.fields if isinstance(value, str)]
        # One look at all of it; nearly every record holds nothing.
        joined = BETWEEN.join((record.event, *(name for name, _ in record.fields), *values))
        looked_into = any(_named_secret(field) or field[0] == ARGUMENTS for field in record.fields)
        if not looked_into and not self._suspect(joined, values):
            return record
        fields = tuple((self.text(name), self._field(name, value)) for name, value in record.fields)
        return msgspec.structs.replace(record, event=self.text(record.event), fields=fields)

    def _suspect(self, joined: str, values: list[str]) -> bool:
        for form in self._forms:
            if form in joined:
                return True
        return self._by_look(joined) != joined or any(self._at_edges(text) != text for text in values)

    def _field(self, name: str, value: Scalar) -> Scalar:
        if not isinstance(value, str):
            return value
        if _named_secret((name, value)):
            return MARK
        if name == ARGUMENTS:
            return self._arguments(value)
        return self.text(value)

    def _arguments(self, text: str) -> str:
        """JSON on one line and in ASCII; what is none is a text. Each text in it is looked at without its
        escapes: they would hide a secret, or be halved with it."""
        try:
            told = json.loads(
                text, object_pairs_hook=_without_secrets, parse_int=_Number, parse_float=_Number
            )
        except (ValueError, RecursionError):
            return self.text(text)
        try:
            joined = BETWEEN.join(_texts(told))
            return _rewritten(told, str if self._whole(joined) == joined else self._whole)
        except RecursionError:
            return MARK

    def problem(self, problem: Problem) -> Problem:
        """A problem of a config, whose words may hold what was read."""
        return Problem(*(self.text(part) for part in problem))

    def sink(self, sink: Callable[[Record], None]) -> Callable[[Record], None]:
        """What may be given every record in place of `sink`."""
        return lambda record: sink(self.record(record))


@functools.lru_cache(maxsize=1024)
def _is_secret_field(name: str) -> bool:
    return FIELD_NAMES.fullmatch(name) is not None


def _named_secret(field: tuple[str, Scalar]) -> bool:
    name, value = field
    return isinstance(value, str) and bool(value) and _is_secret_field(name)


class _Number(str):
    """A number of JSON as it was written."""


def _texts(value: Any) -> Iterable[str]:
    """All texts, names and numbers in what was JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        yield from _texts(list(value.values()))
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)


def _rewritten(value: Any, look: Callable[[str], str]) -> str:
    """`value` as JSON, each text as `look` shows it; a number as it was written."""
    if isinstance(value, dict):
        members = (f"{_rewritten(name, look)}:{_rewritten(one, look)}" for name, one in value.items())
        return f"{{{','.join(members)}}}"
    if isinstance(value, list):
        return f"[{','.join(_rewritten(one, look) for one in value)}]"
    if isinstance(value, _Number) and look(value) == value:
        return value
    return json.dumps(look(value) if isinstance(value, str) else value)


def _without_secrets(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object without the values of members that are named like secrets."""
    secret = {name for name, _ in members if _is_secret_field(name) or is_secret_name(name)}
    return {name: MARK if name in secret else value for name, value in members}


def _tellable(form: str) -> bool:
    return len(form) >= LEAST_CHARS and form not in MARK


def _overlap(before: str, after: str) -> int:
    """How long a beginning of `after` ends `before`; 0 for less than `EDGE`."""
    for length in range(min(len(before), len(after)), EDGE - 1, -1):
        if before.endswith(after[:length]):
            return length
    return 0


def secrets_of(config: GatewayConfig) -> list[str]:
    """What a config holds of secrets, by the names of headers, variables and options, wherever they came
    from."""
    found: list[str] = []
    for server in config.servers:
        for name, value in server.headers.items():
            if (is_secret_name(name) and not is_harmless(value)) or not is_plain(value):
                found.append(without_scheme(value))
        for name, value in server.env.items():
            if is_secret_name(name) and not is_harmless(value):
                found.append(value)
        args = list(server.args)
        for number in argv_secrets(args):
            found.append(args[number].partition("=")[2] or args[number])
        if server.oauth is not None:
            found += [server.oauth.client_secret, server.oauth.client_key]
    found += [key.hex() for key in (config.sealing_key, *config.sealing_previous.values())]
    return [secret for secret in dict.fromkeys(found) if secret]


def too_short(secrets: Iterable[str]) -> bool:
    """Some of them cannot be told from other words in a log."""
    return any(0 < len(secret) < LEAST_CHARS for secret in secrets)
