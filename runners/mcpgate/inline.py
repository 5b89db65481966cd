"""What a secret looks like: by the name of the key that holds it, and by itself.

Owns: the names of secret-typed keys, the look of keys and tokens, and the search for both in a config.
Must never: put a value into a finding.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

__all__ = [
    "KEY_STARTS",
    "KNOWN_KEYS",
    "argv_secrets",
    "is_harmless",
    "is_plain",
    "is_secret_name",
    "looks_secret",
    "suspects",
    "without_scheme",
]

# Parts of a name that make its value a secret.
SECRET_PART = re.compile(
    r"token|secret|passw(?:or)?d|passphrase|credential|authorization|cookie|bearer|keys?$|^(?:pwd?|pat|auth)$"
)
# The same where the name ends so; elsewhere it is another word (`pass_through`).
SECRET_END = frozenset("cred creds jwt otp pass passcode".split())
# Words that end like a key, or begin like a token, and are none.
NO_SECRET = re.compile(r"^(?:tokeniz\w*|(?:mon|don|tur|hot|whis|jo|koc?)keys?)$")
# ... and words that say that the value only tells of a secret: where it is, or how long it may be.
ABOUT = frozenset(
    "alg algorithm count dir endpoint expires expiry field file folder format header id length limit max min "
    "name path prefix public scope scopes size ttl type uri url version".split()
)
# What only a person can type as a password and nobody needs to hide: switches and numbers.
SWITCH = re.compile(r"(?i:true|false|yes|no|on|off|none|null|auto|\d{1,9}(?:\.\d+)?)\Z")
# Base64 may begin with a slash too, but hardly goes on without any of these.
PATH = re.compile(r"(?:~|\.{1,2})?/[^+=]*\Z")
# Keys as their issuers write them. The first group of some is public, and stays.
KNOWN_KEYS = re.compile(
    r"\b(mcpg_[A-Za-z0-9-]+_)[A-Za-z0-9_-]{8,}"
    r"|(?<![\w-])eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)*"
    r"|\b(gh[opsur]_)[A-Za-z0-9]{16,}|\b(github_pat_)[A-Za-z0-9_]{16,}"
    r"|\b(sk-)[A-Za-z0-9_-]{16,}|\b(xox[a-z]-)[A-Za-z0-9-]{10,}|\b(glpat-)[A-Za-z0-9_-]{16,}"
    r"|\b(A(?:KIA|SIA))[0-9A-Z]{16}\b|\b(AIza)[A-Za-z0-9_-]{30,}|\b(hv[sbr]\.)[A-Za-z0-9_-]{20,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*(?:-----END [A-Z ]*PRIVATE KEY-----)?"
)
# One of these is in every text that it matches.
KEY_STARTS = (
    *("mcpg_", "eyJ", "ghp_", "gho_", "ghs_", "ghu_", "ghr_", "github_pat_", "sk-", "xox", "glpat-"),
    *("AKIA", "ASIA", "AIza", "hvs.", "hvb.", "hvr.", "PRIVATE KEY-----"),
)
UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\Z")
RUN = re.compile(r"[A-Za-z0-9+_-]{24,}={0,2}")
# Below this much per character it is a word or a name. detect-secrets uses 4.5 for longer texts.
LEAST_BITS = 4.0
LEAST_HEX_BITS = 3.0
# Keys whose values are random and no secret: digests and identifiers.
RANDOM_KEYS = frozenset("digest fingerprint hash id kid pin pin_sha256 sha256 thumbprint".split())
# Before a header's secret; it is no part of it.
SCHEME = re.compile(r"(?i)\A(?:basic|bearer|token)\s+(?=\S)")
# `--token=x`, `--api-key x`; a single dash is used for long names too.
OPTION = re.compile(r"--?([A-Za-z][\w.-]*)(?:=(.*))?\Z", re.DOTALL)


def _words(name: str) -> list[str]:
    """`githubApiToken` and `GITHUB_API_TOKEN` are three words."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return re.findall(r"[a-z0-9]+", spaced.lower())


def is_secret_name(name: str) -> bool:
    """A header, variable or field of this name holds a secret."""
    words = _words(name)
    if not words or words[-1] in ABOUT or "public" in words:
        return False
    return words[-1] in SECRET_END or any(
        SECRET_PART.search(word) and not NO_SECRET.match(word) for word in words
    )


def is_harmless(value: str) -> bool:
    """What a secret-typed key may hold as it is: nothing, a switch, a number, or where the secret is."""
    if not value.strip() or SWITCH.match(value):
        return True
    return bool(PATH.match(value)) and not looks_secret(value)


def without_scheme(value: str) -> str:
    """The secret in the value of a header."""
    return SCHEME.sub("", value)


def is_plain(value: str) -> bool:
    """The value of a variable that may be seen in a log: a path, a host, an address without credentials."""
    if len(value) < 8 or is_harmless(value):
        return True
    if looks_secret(value):
        return False
    if "://" in value:
        try:
            parts = urlsplit(value)
            return parts.password is None and parts.username is None and not parts.query
        except ValueError:
            return False
    return value == "localhost" or bool(re.fullmatch(r"[a-z0-9-]+(?:\.[a-z0-9-]+)+", value))


def looks_secret(text: str) -> bool:
    """Some part of `text` is a key or token by its look: issued as such, or too random for anything else."""
    if any(start in text for start in KEY_STARTS) and KNOWN_KEYS.search(text):
        return True
    return any(_random(run) for run in RUN.findall(text))


def _random(run: str) -> bool:
    if UUID.match(run):
        return False
    if re.fullmatch(r"[0-9a-fA-F]+", run):
        return len(run) >= 32 and _bits(run) >= LEAST_HEX_BITS
    kinds = sum(bool(re.search(kind, run)) for kind in ("[0-9]", "[a-z]", "[A-Z]"))
    return kinds == 3 and _bits(run) >= LEAST_BITS


def _bits(text: str) -> float:
    """Shannon's entropy per character."""
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())


def suspects(values: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(key path, text) of each text in a config that looks like a secret, whatever its key."""
    if isinstance(values, dict):
        for name, value in values.items():
            if str(name) not in RANDOM_KEYS:
                yield from suspects(value, f"{path}.{name}" if path else str(name))
    elif isinstance(values, list):
        for number, value in enumerate(values):
            label = value.get("name") if isinstance(value, dict) else None
            named = isinstance(label, str) and label
            yield from suspects(value, f"{path}.{label}" if named else f"{path}[{number}]")
    elif isinstance(values, str) and looks_secret(values):
        yield path, values


def argv_secrets(args: list[str]) -> Iterator[int]:
    """The numbers of the arguments that give a secret on the command line."""
    for number, arg in enumerate(args):
        match = OPTION.match(arg)
        if match is None or not is_secret_name(match[1]):
            continue
        if match[2] is not None:
            if not is_harmless(match[2]):
                yield number
        elif number + 1 < len(args) and not args[number + 1].startswith("-"):
            if not is_harmless(args[number + 1]):
                yield number + 1
