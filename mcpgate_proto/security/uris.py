"""The ways in which a server may read a URI.

Owns: `Spellings`. Must never: be used to say where a request goes: a server gets the URI that it defined, or
the one that the client wrote.

Rules name URIs by globs, and `file:///data/../etc/passwd`, `FILE:///etc/passwd`, `file:///%65tc/passwd` and
`file://localhost/etc/passwd` are one file to many servers (CVE-2025-53109, CVE-2025-68143: a prefix was
compared with a path that was resolved later). So a rule is asked about each of these readings.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote

import msgspec

__all__ = ["Spellings", "spelled_globs", "spellings"]

# `%2565` is `e` for a server that decodes twice; nobody decodes more often.
_DECODINGS: Final = 3
# A gateway behind this one takes its servers' resources in this form as well (H13).
_SCHEME: Final = "mcpgate://"
_NESTED: Final = 4
# What URL parsers leave out (WHATWG URL section 4.4), wherever it stands and at the ends.
_DROPPED: Final = {ord(char): None for char in "\t\n\r"}
_ENDS: Final = "".join(map(chr, range(0x21)))
_DEFAULT_PORTS = {"http": ":80", "https": ":443", "ws": ":80", "wss": ":443", "ftp": ":21"}


class Spellings(msgspec.Struct, frozen=True):
    """`sure` are readings that every allow list has to let through; `likely` count for deny lists only."""

    sure: tuple[str, ...]
    likely: tuple[str, ...]


def spellings(uri: str) -> Spellings:
    """The readings of `uri`: itself first. Takes time in proportion to its length."""
    cleaned = uri.translate(_DROPPED).strip(_ENDS)
    at = min((found for mark in "?#" if (found := cleaned.find(mark)) >= 0), default=len(cleaned))
    rest = cleaned[at:]
    head = _decoded(cleaned[:at]).replace("\\", "/")
    whole = head + _decoded(rest).replace("\\", "/")
    plain, flat = _resolved(head)
    sure = [uri, plain + rest, flat + rest]
    if ".." in rest or "%" in rest:
        sure.append(_resolved(whole)[1])  # some take a path from the query
    likely = [plain, flat, cleaned, whole]
    likely += [_collapsed(one) for one in (plain, flat)]
    likely += _of_the_web(head)
    inner = whole
    for _ in range(_NESTED):
        if not inner.startswith(_SCHEME):
            break
        inner = inner[len(_SCHEME) :].partition("/")[2]
        nested = _resolved(inner)[0]
        likely += [inner, nested, _collapsed(nested)]
    return Spellings(tuple(dict.fromkeys(sure)), tuple(dict.fromkeys(likely)))


def spelled_globs(texts: Iterable[str]) -> list[str]:
    """The globs of a rule on URIs, and what they are in the readings of `spellings`: an operator may have
    written `%20` or `HTTPS://` as the server does."""
    found: dict[str, None] = {}
    for text in texts:
        found[text] = None
        decoded = unquote(text)
        # An escape that stands for a star is no star.
        if decoded.count("*") == text.count("*") and decoded.count("?") == text.count("?"):
            found[_resolved(decoded)[0]] = None
    return list(found)


def _decoded(text: str) -> str:
    for _ in range(_DECODINGS):
        if "%" not in text:
            break
        text = unquote(text)
    return text


def _resolved(uri: str) -> tuple[str, str]:
    """Without dot segments: once with an authority that `..` cannot leave (RFC 3986 section 5.2.4), once as
    if all of it were a path, which is how many servers take URIs of their own schemes."""
    scheme, colon, tail = uri.partition(":")
    if not colon:
        path = _without_dots(uri)
        return path, path
    scheme = scheme.lower() + ":"
    if not tail.startswith("//"):
        path = ("//" if scheme == "file:" else "") + _without_dots(tail)
        return scheme + path, scheme + path
    authority, slash, path = tail[2:].partition("/")
    authority = authority.lower()
    if scheme == "file:" and authority == "localhost":  # RFC 8089 section 2
        authority = ""
    plain = f"{scheme}//{authority}" + _without_dots(slash + path)
    return plain, f"{scheme}//" + _without_dots(authority + slash + path)


def _of_the_web(uri: str) -> list[str]:
    """As URL parsers of browsers read it: any number of slashes, no user, no default port, no last dot; and
    the host of a file is ignored by many (URL standard, sections 4.4 and 4.5)."""
    scheme, colon, tail = uri.partition(":")
    scheme = scheme.lower()
    if scheme == "file" and tail.startswith("//"):
        return ["file://" + _without_dots("/" + tail[2:].partition("/")[2])]
    port = _DEFAULT_PORTS.get(scheme)
    if not colon or port is None:
        return []
    authority, slash, path = tail.lstrip("/").partition("/")
    host = authority.rpartition("@")[2].lower().removesuffix(port).removesuffix(".")
    return [f"{scheme}://{host}" + _without_dots(slash + path)]


def _without_dots(path: str) -> str:
    """As a file system resolves it: where there is a `..`, empty segments are none. It never leads above the
    beginning."""
    if "." not in path:
        return path
    segments = path.split("/")
    if "." not in segments and ".." not in segments:
        return path
    parts: list[str] = []
    for segment in segments:
        if segment == "..":
            if parts:
                parts.pop()
        elif segment not in ("", "."):
            parts.append(segment)
    lead = "/" if path.startswith("/") else ""
    # `/a/..` and `/a/.` name folders, as `/a/` does.
    end = "/" if parts and segments[-1] in ("", ".", "..") else ""
    return lead + "/".join(parts) + end


def _collapsed(uri: str) -> str:
    """Without empty segments: `//` is `/` to file systems."""
    scheme, colon, tail = uri.partition("://")
    if not colon:
        return uri
    lead = "/" if tail.startswith("/") else ""
    end = "/" if len(tail) > 1 and tail.endswith("/") else ""
    return scheme + colon + lead + "/".join(part for part in tail.split("/") if part) + end
