"""Shown names: prefixes, cuts and renames."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgate_proto.relay.names import (
    prefixed_uri,
    server_name_problem,
    shown_name,
    split_prefix,
    split_uri,
)


@pytest.mark.parametrize("name", ["a", "A-b.c_d", "x" * 32, "0", "a_b", "-", "."])
def test_good_server_names(name: str) -> None:
    assert server_name_problem(name) is None


@pytest.mark.parametrize(
    "name", ["", "x" * 33, "a__b", "_a", "a_", "_", "__", "a b", "a/b", "\u00e9", "a\n", "a:b", "a\u0660"]
)
def test_bad_server_names(name: str) -> None:
    assert server_name_problem(name) is not None


@pytest.mark.parametrize(
    ("own", "prefixed", "rename", "shown"),
    [
        ("read", True, {}, "fs__read"),
        ("read", False, {}, "read"),
        ("_x", True, {}, "fs___x"),
        ("read", True, {"read": "get"}, "get"),
        ("read", False, {"other": "get"}, "read"),
        ("read_file", True, {"read_*": "fs_*"}, "fs_file"),
        ("read_", True, {"read_*": "fs_*"}, "fs_"),
        ("read_file", True, {"*": "my-*"}, "my-read_file"),
        ("a-x-b", True, {"a-*-b": "*"}, "x"),
        ("ab", True, {"a*b": "<*>"}, "<>"),
        ("aba", True, {"ab*ba": "never-*"}, "fs__aba"),
        # Exact entries come before patterns; patterns go in their order.
        ("read", True, {"*": "p-*", "read": "exact"}, "exact"),
        ("read", True, {"r*": "1-*", "re*": "2-*"}, "1-ead"),
        # A star on one side only, or two of them, is no pattern.
        ("read", True, {"r*": "fixed"}, "fs__read"),
        ("read", True, {"r*d*": "x*"}, "fs__read"),
        ("a*b", True, {"a*b": "star"}, "star"),
        # What an operator wrote is never cut.
        ("read", True, {"read": "y" * 200}, "y" * 200),
        # What is not prefixed is not cut either.
        ("z" * 200, False, {}, "z" * 200),
    ],
)
def test_shown_name(own: str, prefixed: bool, rename: dict[str, str], shown: str) -> None:
    assert shown_name("fs", own, prefixed=prefixed, rename=rename, chars=64) == shown


def test_cut_names_are_stable_and_apart() -> None:
    long = "x" * 100
    shown = shown_name("fs", long, prefixed=True, rename={}, chars=64)
    assert shown == "fs__" + "x" * 49 + "_041128ced6"
    assert shown.startswith("fs__xxx") and len(shown) == 64
    others = {shown_name("fs", long + str(n), prefixed=True, rename={}, chars=64) for n in range(500)}
    assert len(others) == 500 and shown not in others
    exact = "x" * 60
    assert shown_name("fs", exact, prefixed=True, rename={}, chars=64) == "fs__" + exact


server_names = st.from_regex(r"[A-Za-z0-9.-][A-Za-z0-9_.-]{0,8}", fullmatch=True).filter(
    lambda name: server_name_problem(name) is None
)


@given(server_names, server_names, st.text(min_size=1), st.text(min_size=1))
def test_prefixed_names_are_never_ambiguous(one: str, two: str, own: str, other: str) -> None:
    first = shown_name(one, own, prefixed=True, rename={}, chars=10_000)
    second = shown_name(two, other, prefixed=True, rename={}, chars=10_000)
    assert (first == second) is ((one, own) == (two, other))
    assert split_prefix(first, [one, two]) == (one, own)
    assert split_uri(prefixed_uri(one, own), [one, two]) == (one, own)


@pytest.mark.parametrize("shown", ["", "read", "fs", "fs__", "__read", "other__read", "fs_read", "FS__read"])
def test_split_prefix_of_what_has_none(shown: str) -> None:
    assert split_prefix(shown, {"fs"}) is None


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "file:///a",
        "mcpgate://",
        "mcpgate://fs",
        "mcpgate://fs/",
        "mcpgate:///a",
        "MCPGATE://fs/a",
        "mcpgate://x/a",
    ],
)
def test_split_uri_of_what_is_not_prefixed(uri: str) -> None:
    assert split_uri(uri, {"fs"}) is None


def test_prefixed_uri() -> None:
    assert prefixed_uri("fs", "file:///a?b#c") == "mcpgate://fs/file:///a?b#c"
    assert split_uri("mcpgate://fs/file:///a?b#c", {"fs"}) == ("fs", "file:///a?b#c")
    nested = prefixed_uri("fs", prefixed_uri("fs", "x:y"))
    assert split_uri(nested, {"fs"}) == ("fs", "mcpgate://fs/x:y")


@given(
    st.lists(
        st.tuples(server_names, st.lists(st.text(max_size=30), unique=True, max_size=5)),
        unique_by=lambda pair: pair[0],
        max_size=4,
    ),
    st.integers(48, 80),
)
def test_no_two_prefixed_names_are_alike(servers: list[tuple[str, list[str]]], chars: int) -> None:
    pairs = [(server, own) for server, names in servers for own in names]
    shown = [shown_name(*pair, prefixed=True, rename={}, chars=chars) for pair in pairs]
    assert len(set(shown)) == len(pairs)


def test_the_same_under_any_hash_seed() -> None:
    program = (
        "from mcpgate_proto.relay.names import shown_name;"
        "print(shown_name('a', 'x' * 90, prefixed=True, rename={}, chars=64))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert len(told) == 1
