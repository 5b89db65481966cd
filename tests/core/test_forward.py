"""Which headers of a client travel on (J5, J6; threats.md rows 24 and 37)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgate_proto.config import GatewayConfig, ServerConfig
from mcpgate_proto.security.forward import header_problem, names_in, pick

GIVEN = [
    ("host", "gw.example"),
    ("authorization", "Bearer of-the-client"),
    ("x-tenant", "acme"),
    ("x-upstream-url", "https://evil.example"),
    ("traceparent", "00-1-2-01"),
    ("x-tenant", "second"),
    ("x-copy", "it is of-the-client, again"),
    ("x-odd", "a\x01b"),
]


def test_nothing_is_forwarded_unless_it_was_listed() -> None:
    assert pick(GIVEN, ()) == ()
    assert pick(GIVEN, ("x-tenant",)) == (("x-tenant", "acme, second"),)
    assert pick(GIVEN, ("traceparent", "x-missing")) == (("traceparent", "00-1-2-01"),)


@pytest.mark.parametrize("name", ["authorization", "host", "cookie", "mcp-session-id", "x-forwarded-for"])
def test_what_one_hop_owns_stays_there_even_if_listed(name: str) -> None:
    assert pick([(name, "x"), ("x-ok", "y")], (name, "x-ok")) == (("x-ok", "y"),)
    config = GatewayConfig(servers=(ServerConfig(name="a", forward_headers=(name.upper(), "X-Ok")),))
    assert names_in(config) == ("x-ok",)


def test_the_clients_own_credential_never_travels_whatever_it_is_called() -> None:
    assert pick(GIVEN, ("x-copy", "x-tenant")) == (("x-tenant", "acme, second"),)


def test_a_value_with_a_control_character_never_travels() -> None:
    assert pick(GIVEN, ("x-odd",)) == ()


def test_names_of_all_servers() -> None:
    servers = (
        ServerConfig(name="a", forward_headers=("X-A", "x-b")),
        ServerConfig(name="b", forward_headers=("X-B",)),
    )
    assert names_in(GatewayConfig(servers=servers)) == ("x-a", "x-b")


@given(st.lists(st.tuples(st.text(max_size=12), st.text(max_size=12))), st.lists(st.text(max_size=12)))
def test_what_is_picked_was_listed_given_and_is_plain(given: list[tuple[str, str]], names: list[str]) -> None:
    for name, value in pick(given, names):
        assert name in names and not header_problem(name) and value.isprintable() and value.isascii()
