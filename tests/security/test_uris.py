"""The readings of a URI: what a rule is asked about."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgate_proto.config import Names, RuleConfig
from mcpgate_proto.security.principal import Principal
from mcpgate_proto.security.rules import Rules
from mcpgate_proto.security.uris import spellings

SOMEBODY = Principal("key:a")


def lets(uri: str, *, allow: tuple[str, ...] | None = None, deny: tuple[str, ...] = ()) -> bool:
    rules = Rules((RuleConfig(resources=Names(allow=allow, deny=deny)),))
    return rules.lets(SOMEBODY, "files", "resources", uri)


SAME_FILE = [
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "file:///%65tc/passwd",
    "file:///%2565tc/passwd",
    "file:///etc%2fpasswd",
    "file://localhost/etc/passwd",
    "file:/etc/passwd",
    "file:////etc/passwd",
    "file:///etc//passwd",
    "file:///./etc/passwd",
    "file:///etc/./passwd",
    "file:///data/../etc/passwd",
    "file:///data/%2e%2e/etc/passwd",
    "file:///data/%252e%252e/etc/passwd",
    "file:///data/..%2fetc/passwd",
    "file:///data\\..\\etc\\passwd",
    "file:///data//../etc/passwd",
    "file:///../../etc/passwd",
    "file:///e\ttc/passwd",
    " file:///etc/passwd",
    "file:///etc/passwd?x",
    "file:///etc/passwd#x",
    "file:///etc/passwd?a=1#b",
    "mcpgate://inner/file:///etc/passwd",
    "mcpgate://inner/file:///%65tc/passwd",
    "mcpgate://a/mcpgate://b/file:///etc/passwd",
]


@pytest.mark.parametrize(
    "uri",
    [
        "https://x@internal/s",
        "https:/internal/s",
        "https:internal/s",
        "https:////internal/s",
        "https://internal:443/s",
        "https://internal./s",
        "HTTPS://user:word@INTERNAL.:443/a/../s",
        "file://127.0.0.1/etc/passwd",
        "file://localhost:80/etc/passwd",
    ],
)
def test_a_deny_holds_for_every_authority_that_is_read_as_the_same(uri: str) -> None:
    made = Rules((RuleConfig(resources=Names(deny=("https://internal/*", "file:///etc/*"))),))
    assert not made.lets(Principal("a"), "s", "resources", uri)
    assert made.lets(Principal("a"), "s", "resources", "https://internal.example/s")


@pytest.mark.parametrize("uri", SAME_FILE)
def test_a_deny_holds_for_every_spelling(uri: str) -> None:
    """Rows 21 and 45: a server resolves what a prefix was compared with."""
    assert not lets(uri, deny=("file:///etc/*",))
    assert not lets(uri, deny=("file:///etc/passwd",))
    assert lets(uri, deny=("file:///home/*",))


@pytest.mark.parametrize(
    "uri",
    [
        "file:///data/../etc/passwd",
        "file:///data/..",
        "file:///data/%2e%2e/etc/passwd",
        "file:///data//../etc/passwd",
        "file:///data/x/../../etc/passwd",
        "file:///data\\..\\etc",
        "file:///database",
    ],
)
def test_an_allow_is_not_left_by_dots(uri: str) -> None:
    assert not lets(uri, allow=("file:///data/*",))


@pytest.mark.parametrize(
    ("glob", "uri"),
    [
        ("file:///data/*", "file:///data/a b/c.txt"),
        ("file:///data/*", "file:///data/x/../y"),
        ("file:///my%20docs/*", "file:///my%20docs/a"),
        ("HTTPS://Host.Example/*", "HTTPS://Host.Example/x"),
        ("https://web.example/*", "https://web.example/web/https://other.example/x"),
        ("https://host.example/a?x=*", "https://host.example/a?x=1"),
        ("mcpgate://inner/file:///data/*", "mcpgate://inner/file:///data/x"),
        ("notes://*", "notes://a/b"),
        ("ui://*", "ui://widget/index.html"),
        ("urn:isbn:*", "urn:isbn:1"),
        ("plain", "plain"),
        ("memo://\u00fc/*", "memo://\u00fc/x"),
        ("memo://%C3%BC/*", "memo://%C3%BC/x"),
    ],
)
def test_what_an_operator_writes_as_the_server_does_is_let(glob: str, uri: str) -> None:
    assert lets(uri, allow=(glob,))


def test_a_custom_scheme_has_no_authority_for_many_servers() -> None:
    assert not lets("notes://shared/../private/x", deny=("notes://private/*",))
    assert not lets("notes://shared/../private/x", allow=("notes://shared/*",))
    assert not lets("notes://get?f=/shared/../private", allow=("notes://get?f=/shared/*",))
    assert not lets("notes://get?f=%73ecret", deny=("*secret*",))


def test_an_escaped_star_is_no_star() -> None:
    assert not lets("file:///anything", allow=("file:///%2A",))


def test_what_is_too_long_to_be_judged_is_not_let() -> None:
    long = "file:///data/" + "x" * 20_000
    assert not lets(long, deny=("file:///etc/*",))
    assert Rules((RuleConfig(tools=Names(deny=("x",))),)).lets(SOMEBODY, "files", "resources", long)


@given(st.text(max_size=60))
def test_the_first_reading_is_the_uri_itself(uri: str) -> None:
    found = spellings(uri)
    assert found.sure[0] == uri
    assert len(found.sure) <= 4 and len(found.likely) <= 18


@given(st.text("a./%25e\\:?#", max_size=40))
def test_readings_take_a_time_in_proportion(tail: str) -> None:
    """And no reading that counts holds a dot segment which a server would resolve."""
    for reading in spellings("file:///" + tail).sure[1:]:
        path = reading.partition("?")[0].partition("#")[0]
        assert ".." not in path.split("/")


@pytest.mark.parametrize(
    "text", ["../" * 5000, "%25" * 5000, "/" * 16000, "mcpgate://a/" * 1300, "?" * 16000]
)
def test_no_uri_is_slow(text: str) -> None:
    start = time.process_time()
    spellings("file:///" + text)
    spellings(text)
    assert time.process_time() - start < 0.1
