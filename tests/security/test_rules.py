"""Rules as pure decisions: who may use what, under which name, with which arguments."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgate_proto.config import Names, RuleConfig
from mcpgate_proto.security.globs import any_matches, globs
from mcpgate_proto.security.principal import LOCAL, Principal
from mcpgate_proto.security.rules import KEPT, Rules

ALICE, BOB = Principal("key:alice"), Principal("jwt:https://idp.example#bob")


def rules(*told: RuleConfig) -> Rules:
    return Rules(tuple(told))


def allow(*names: str) -> Names:
    return Names(allow=names)


def deny(*names: str) -> Names:
    return Names(deny=names)


R = RuleConfig
# The rules, who asks, the server, the tool, and whether it is let.
TABLE: list[tuple[str, tuple[RuleConfig, ...], Principal, str, str, bool]] = [
    ("no rule", (), ALICE, "files", "read", True),
    ("a rule on another kind", (R(prompts=allow()),), ALICE, "files", "read", True),
    ("allowed", (R(tools=allow("read*")),), ALICE, "files", "read_x", True),
    ("not allowed", (R(tools=allow("read*")),), ALICE, "files", "write", False),
    ("an empty allow lets nothing through", (R(tools=allow()),), ALICE, "files", "read", False),
    ("denied", (R(tools=deny("write*")),), ALICE, "files", "write", False),
    ("not denied", (R(tools=deny("write*")),), ALICE, "files", "read", True),
    ("nothing denied", (R(tools=deny()),), ALICE, "files", "read", True),
    ("deny beats allow", (R(tools=Names(allow=("*",), deny=("x",))),), ALICE, "f", "x", False),
    ("and in another rule", (R(tools=deny("x")), R(tools=allow("x"))), ALICE, "f", "x", False),
    ("whatever the order", (R(tools=allow("x")), R(tools=deny("x"))), ALICE, "f", "x", False),
    ("every rule has to let it", (R(tools=allow("a*")), R(tools=allow("*b"))), ALICE, "f", "ab", True),
    ("one does not", (R(tools=allow("a*")), R(tools=allow("*b"))), ALICE, "f", "a", False),
    ("for another principal", (R(principals=("key:bob",), tools=allow()),), ALICE, "f", "x", True),
    ("for this one", (R(principals=("key:*",), tools=allow()),), ALICE, "f", "x", False),
    ("for all but this one", (R(except_principals=("key:alice",), tools=allow()),), ALICE, "f", "x", True),
    ("for all but another", (R(except_principals=("key:alice",), tools=allow()),), BOB, "f", "x", False),
    ("nobody is not everybody", (R(principals=(), tools=allow()),), ALICE, "f", "x", True),
    ("an issuer", (R(principals=("jwt:https://idp.example#*",), tools=deny("x")),), BOB, "f", "x", False),
    ("local callers too", (R(tools=deny("x")),), LOCAL, "f", "x", False),
    ("on another server", (R(servers=("git*",), tools=deny("x")),), ALICE, "files", "x", True),
    ("on this server", (R(servers=("git*",), tools=deny("x")),), ALICE, "github", "x", False),
    ("case counts", (R(tools=deny("Write")),), ALICE, "f", "write", True),
    ("equivalent is not equal", (R(tools=allow("caf\u00e9")),), ALICE, "f", "cafe\u0301", False),
    ("a tool is no path", (R(tools=deny("a/b")),), ALICE, "f", "x/../a/b", True),
    ("too long to be judged", (R(tools=deny("x")),), ALICE, "f", "y" * 20_000, False),
]


@pytest.mark.parametrize(
    ("told", "who", "server", "name", "let"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE]
)
def test_table(told: tuple[RuleConfig, ...], who: Principal, server: str, name: str, let: bool) -> None:
    made = rules(*told)
    assert made.lets(who, server, "tools", name) is let
    assert made.lets(who, server, "tools", name) is let, "also when it is remembered"


@pytest.mark.parametrize("kind", ["tools", "prompts", "resources"])
def test_each_kind_is_judged_by_its_own_filter(kind: str) -> None:
    made = rules(R(**{kind: deny("x:*")}))  # type: ignore[arg-type]
    for other in ("tools", "prompts", "resources"):
        assert made.lets(ALICE, "s", other, "x:y") is (other != kind)
        assert made.covers(ALICE, "s", other) is (other == kind)
    assert made.lets(ALICE, "s", "templates", "x:{y}") is (kind != "resources")


def test_the_identity_alone_decides() -> None:
    """`local` is a right of its own (equality of principals has it), and no way around a rule."""
    made = rules(R(principals=("key:alice",), tools=deny("x")))
    assert not made.lets(Principal("key:alice", True), "s", "tools", "x")


@pytest.mark.parametrize(
    ("told", "personal"),
    [
        ((), False),
        ((R(tools=deny("x")),), False),
        ((R(servers=("a",), tools=deny("x")),), False),
        ((R(principals=("key:a",), tools=deny("x")),), True),
        ((R(principals=("key:a",), rename={"a": "b"}),), True),
        ((R(tools=deny("x")), R(except_principals=("local",), prompts=deny("x"))), True),
    ],
)
def test_rules_are_personal_if_two_principals_may_see_different_things(
    told: tuple[RuleConfig, ...], personal: bool
) -> None:
    assert rules(*told).personal is personal


@pytest.mark.parametrize(
    ("told", "shut"),
    [
        ((), False),
        ((R(tools=allow(), prompts=allow()),), False),
        ((R(tools=allow(), prompts=allow(), resources=allow()),), True),
        ((R(tools=deny("*")), R(prompts=deny("x", "*"), resources=allow())), True),
        ((R(principals=("key:bob",), tools=allow(), prompts=allow(), resources=allow()),), False),
    ],
)
def test_a_server_is_shut_if_nothing_of_it_is_let(told: tuple[RuleConfig, ...], shut: bool) -> None:
    assert rules(*told).shuts(ALICE, "s") is shut


def test_renames_apply_in_the_order_of_the_rules() -> None:
    made = rules(
        R(principals=("key:bob",), rename={"a": "bobs"}),
        R(servers=("s",), rename={"a": "one"}),
        R(rename={"a": "two"}),
    )
    assert list(made.renames(ALICE, "s")) == [{"a": "one"}, {"a": "two"}]
    assert list(made.renames(ALICE, "t")) == [{"a": "two"}]
    assert list(rules().renames(ALICE, "s")) == []


PATHS = R(servers=("git",), only_tools=("git_*",), arguments={"path": Names(deny=("*..*", "-*"))})
ARGUMENTS: list[tuple[str, dict[str, Any], bool]] = [
    ("nothing", {}, True),
    ("good", {"path": "a/b"}, True),
    ("another argument", {"note": "--x"}, True),
    ("a flag", {"path": "--output=/etc/x"}, False),
    ("a way up", {"path": "a/../../b"}, False),
    ("in a list", {"path": ["a", "-b"]}, False),
    ("deep inside", {"path": {"x": [{"y": "../z"}]}}, False),
    ("a negative number", {"path": -1}, False),
    ("a number", {"path": 1}, True),
    ("another spelling of the name", {"Path": "../x"}, False),
    ("the long s of CVE-2026-27896", {"path\u017f": "../x"}, True),
    ("an upper-case name", {"PATH": "-x"}, False),
]


@pytest.mark.parametrize(
    ("arguments", "let"), [row[1:] for row in ARGUMENTS], ids=[row[0] for row in ARGUMENTS]
)
def test_row_46_arguments(arguments: dict[str, Any], let: bool) -> None:
    """CVE-2025-68143 ff.: operators can refuse `..` and leading dashes, tool by tool."""
    made = rules(PATHS)
    refused = made.refused_argument(ALICE, "git", "git_log", arguments)
    assert (refused is None) is let
    assert refused is None or refused in arguments
    assert made.refused_argument(ALICE, "git", "other", arguments) is None
    assert made.refused_argument(ALICE, "svn", "git_log", arguments) is None


def test_arguments_may_be_allowed_only() -> None:
    made = rules(R(arguments={"branch": Names(allow=("main", "dev/*"))}))
    for value, let in (("main", True), ("dev/x", True), ("master", False), (None, False), (True, False)):
        assert (made.refused_argument(ALICE, "git", "push", {"branch": value}) is None) is let
    assert made.judges_arguments(ALICE, "git", "push") and not rules().judges_arguments(ALICE, "git", "push")
    assert made.covers(ALICE, "git", "tools"), "an unlisted name must not get around it"


@pytest.mark.parametrize("value", [1, 1.0, 1e0, 10e-1])
def test_a_number_is_judged_however_it_is_spelled(value: float) -> None:
    made = rules(R(arguments={"n": Names(deny=("1",))}))
    assert made.refused_argument(ALICE, "git", "push", {"n": value}) == "n"
    assert made.refused_argument(ALICE, "git", "push", {"n": 2.0}) is None


def test_names_of_arguments_that_differ_in_case_are_both_judged() -> None:
    made = rules(R(arguments={"path": Names(deny=("/etc/*",)), "Path": Names(deny=("/x",))}))
    for value in ("/etc/passwd", "/x"):
        assert made.refused_argument(ALICE, "git", "push", {"path": value}) == "path"


def test_principals_without_number_do_not_fill_memory() -> None:
    made = rules(R(tools=deny("x")))
    for number in range(KEPT * 3):
        assert not made.lets(Principal(f"jwt:i#{number}"), "s", "tools", "x")
    assert len(made._policies) <= KEPT


# -- against the definition, plainly

NAMES = st.sampled_from(["", "a", "b", "ab", "ba", "abc", "A"])
GLOBS = st.lists(st.sampled_from(["*", "a", "b", "a*", "*b", "?", "??", "A*", "x"]), max_size=3).map(tuple)
FILTERS = st.builds(lambda a, d: Names(allow=a, deny=d), st.none() | GLOBS, GLOBS)
RULES = st.lists(
    st.builds(
        RuleConfig,
        principals=GLOBS,
        except_principals=st.just(()) | GLOBS,
        servers=st.just(("*",)) | GLOBS,
        tools=st.none() | FILTERS,
        prompts=st.none() | FILTERS,
    ),
    max_size=4,
).map(tuple)


def fits(texts: tuple[str, ...], name: str) -> bool:
    return any_matches(globs(texts), name)


@given(RULES, NAMES, NAMES, NAMES)
def test_agrees_with_the_definition(told: tuple[RuleConfig, ...], who: str, server: str, name: str) -> None:
    applying = [
        one
        for one in told
        if fits(one.principals, who) and not fits(one.except_principals, who) and fits(one.servers, server)
    ]
    let = all(
        (one.tools.allow is None or fits(one.tools.allow, name)) and not fits(one.tools.deny, name)
        for one in applying
        if one.tools is not None
    )
    made = Rules(told)
    assert made.lets(Principal(who), server, "tools", name) is let
    assert Rules(told[::-1]).lets(Principal(who), server, "tools", name) is let, "the order does not matter"
    if not made.covers(Principal(who), server, "tools"):
        assert let


@given(RULES, RULES, NAMES, NAMES, NAMES)
def test_more_rules_let_less(
    some: tuple[RuleConfig, ...], more: tuple[RuleConfig, ...], who: str, server: str, name: str
) -> None:
    if Rules(some + more).lets(Principal(who), server, "tools", name):
        assert Rules(some).lets(Principal(who), server, "tools", name)
