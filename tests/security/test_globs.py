"""Globs, against an oracle that is slow and plain."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcpgate_proto.security.globs import Glob, any_matches, globs


def oracle(glob: str, text: str) -> bool:
    """By the definition: the set of places in the text that each beginning of the glob can lead to."""
    places = {0}
    for char in glob:
        if char == "*":
            places = {end for place in places for end in range(place, len(text) + 1)}
        else:
            places = {at + 1 for at in places if at < len(text) and char in ("?", text[at])}
    return len(text) in places


@pytest.mark.parametrize(
    ("glob", "text", "fits"),
    [
        ("", "", True),
        ("", "a", False),
        ("*", "", True),
        ("*", "a/b\n", True),
        ("?", "", False),
        ("?", "a", True),
        ("?", "ab", False),
        ("read_*", "read_", True),
        ("read_*", "read_file", True),
        ("read_*", "unread_file", False),
        ("*_file", "read_file", True),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("a*b*c", "abc", True),
        ("a*b*c", "acb", False),
        ("a?c*e?g", "abcdefg", True),
        ("*?*", "", False),
        ("**", "", True),
        # By code point: no case, no equivalence.
        ("Read", "read", False),
        ("\u00e9", "e\u0301", False),
        ("file", "\ufb01le", False),
        # Nothing else is special.
        ("[ab]", "a", False),
        ("[ab]", "[ab]", True),
        ("a.b", "axb", False),
        ("\\*", "\\anything", True),
        ("$", "", False),
        ("a", "a\n", False),
    ],
)
def test_table(glob: str, text: str, fits: bool) -> None:
    assert Glob(glob).matches(text) is fits
    assert oracle(glob, text) is fits


@given(st.text("ab*?", max_size=12), st.text("ab?*", max_size=14))
@example("a*a*a", "aa")
@example("*a?b*", "aab")
def test_agrees_with_the_oracle(glob: str, text: str) -> None:
    assert Glob(glob).matches(text) is oracle(glob, text)


@given(st.text(max_size=20))
def test_a_text_without_stars_fits_itself(text: str) -> None:
    assert Glob(text.replace("*", "?")).matches(text)


@pytest.mark.parametrize(
    "glob", ["*a" * 500 + "b", "*a?" * 300 + "b", "*" + "?" * 1000 + "b", "*?a" * 300 + "*b*c"]
)
def test_time_is_in_proportion_to_the_text(glob: str) -> None:
    """threats.md row 17: what costs others minutes costs this one milliseconds."""
    compiled, text = Glob(glob), "a" * 16_384
    start = time.process_time()
    assert not compiled.matches(text)
    assert time.process_time() - start < 0.5


def test_any_of_none_fits_nothing() -> None:
    assert not any_matches(globs([]), "x") and any_matches(globs(["y", "x"]), "x")
