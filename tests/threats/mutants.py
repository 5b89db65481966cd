"""The checks that are taken away one at a time by `mutations.py`, each with the test that has to notice.

Owns: names, edits, tests. An edit is (file, what stands there once, what stands there instead).
Must never: hold an edit that changes something else than the check it names.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["MUTANTS", "Mutant"]

KNOWN = "tests/threats/test_known.py::test_t1_"
GATEWAYS = "tests/threats/test_known_gateways.py::test_t1_"
SERVERS = "tests/threats/test_http_servers.py::test_t3_"
JSON = "tests/threats/test_json.py::test_t2_"
HTTP = "tests/threats/test_http.py::test_t3_"
SOCKET = "tests/threats/test_websocket.py::test_t4_"
POLICY = "tests/threats/test_policy.py::test_t0_"
SECURITY = "tests/security/"
DOOR = "mcpgate_proto/security/door.py"
GATE = "mcpgate_proto/security/gate.py"
JWT = "mcpgate_proto/security/jwt.py"
RATE = "mcpgate_proto/security/rate.py"
LIMITS = "mcpgate_proto/limits.py"
CODEC = "mcpgate_proto/wire/jsonrpc.py"
GRAMMAR = "mcpgate_proto/wire/http1_grammar.py"
SERVER = "mcpgate_proto/wire/http1_server.py"
CLIENT = "mcpgate_proto/wire/http1_client.py"
FRONT = "mcpgate_proto/downstream/http.py"
STREAMS = "mcpgate_proto/downstream/streamable_http.py"
FRAMES = "mcpgate_proto/wire/websocket.py"
SHAKE = "mcpgate_proto/wire/websocket_handshake.py"


class Mutant(NamedTuple):
    """`kind` is door, auth, limit or secret; `rows` are those of docs/threats.md that the check answers."""

    kind: str
    rows: str
    name: str
    file: str
    old: str
    new: str
    test: str


MUTANTS: list[Mutant] = [
    # -- door
    Mutant(
        "door",
        "1.1 1.4",
        "any Host",
        DOOR,
        "return None if self._host_allowed(place) else",
        "return None if place else",
        KNOWN + "4_hosts_of_a_name_that_was_rebound",
    ),
    Mutant(
        "door",
        "1.5",
        "any Origin",
        DOOR,
        'return "the Origin header names an origin that may not call"',
        "return None",
        KNOWN + "5_strange_origins_on_every_route[/mcp]",
    ),
    Mutant(
        "door",
        "1.2",
        "hosts by their beginning",
        DOOR,
        "if place.host in _LOOPBACK and",
        "if place.host.startswith(tuple(_LOOPBACK)) and",
        "tests/core/test_door.py::test_nothing_can_be_appended_to_a_loopback_name",
    ),
    Mutant(
        "door",
        "1.2",
        "origins by their beginning",
        DOOR,
        "if self._local and origin.host in _LOOPBACK:",
        "if self._local and origin.host.startswith(tuple(_LOOPBACK)):",
        "tests/core/test_door.py::test_nothing_can_be_appended_to_a_loopback_name",
    ),
    # The first layer of the same: what only begins as a name does not come as far as the lists.
    Mutant(
        "door",
        "1.2",
        "texts that begin as a host",
        DOOR,
        "_NAME.fullmatch(host) is None",
        "_NAME.match(host) is None",
        "tests/core/test_door.py::test_bad_hosts",
    ),
    Mutant(
        "door",
        "1.30",
        "the wildcard as a name",
        DOOR,
        " and not _is_wildcard(own.host)",
        "",
        "tests/core/test_door.py::test_a_wildcard_is_no_name",
    ),
    Mutant("door", "4.1", "two Origins", FRONT, "if len(origins) > 1:", "if False:", SOCKET + "1_origins"),
    Mutant(
        "door",
        "1.3",
        "the door behind the routes",
        FRONT,
        "wrong = self._knock(head)",
        "wrong = self._knock(head) if head.path in self._routes else None",
        KNOWN + "3_the_door_is_before_all_routes_and_transports",
    ),
    Mutant(
        "door",
        "1.34",
        "CORS for everybody",
        "mcpgate_proto/downstream/http_headers.py",
        '("Access-Control-Allow-Origin", origin)',
        '("Access-Control-Allow-Origin", "*")',
        GATEWAYS + "34_cors_is_never_for_everybody",
    ),
    Mutant(
        "door",
        "3.7",
        "authority and Host may differ",
        SERVER,
        "whole[1].decode().lower() != host.lower()",
        "False",
        HTTP + "7_targets",
    ),
    Mutant(
        "door",
        "3.8",
        "any text as Host",
        SERVER,
        "if host is not None and _HOST.fullmatch(host) is None:",
        "if False:",
        HTTP + "8_hosts",
    ),
    Mutant(
        "door",
        "0.12 1.31",
        "bound to everything",
        "runners/mcpgate/listen_settings.py",
        'host=table.text("host", "localhost")',
        'host=table.text("host", "0.0.0.0")',
        POLICY + "12_defaults",
    ),
    Mutant(
        "door",
        "0.12 1.31",
        "bound to everything unasked",
        "mcpgate_proto/config.py",
        'host: str = "localhost"',
        'host: str = "0.0.0.0"',
        POLICY + "12_defaults",
    ),
    Mutant(
        "door",
        "0.12",
        "open beyond loopback",
        "runners/mcpgate/auth_settings.py",
        '    elif not requires(listener, auth):\n        problems.error(table.key("host"), *OPEN)',
        "    elif False:\n        pass",
        POLICY + "12_defaults",
    ),
    Mutant(
        "door",
        "0.12",
        "keys beyond loopback without TLS",
        "runners/mcpgate/auth_settings.py",
        '    elif listener.tls is None:\n        problems.error(table.key("host"), *PLAIN)',
        "    elif False:\n        pass",
        "tests/cli/test_auth_settings.py::test_each_problem_names_key_and_mend",
    ),
    Mutant(
        "door",
        "0.12",
        "every network",
        "mcpgate_proto/security/address.py",
        "return ip not in self._deny and (not self._allow or ip in self._allow)",
        "return True",
        SECURITY + "test_limited.py::test_networks_are_let_in_or_closed_at_once",
    ),
    Mutant(
        "door",
        "0.12",
        "anybody's word on addresses",
        "mcpgate_proto/downstream/pace.py",
        "if not came_from.proxy:",
        "if False:",
        SECURITY + "test_limited.py::test_who_is_no_proxy_cannot_choose_its_address",
    ),
    Mutant(
        "door",
        "0.15 5.21",
        "every user of the machine",
        GATE,
        "        return True\n\n    def by_peer",
        "        return False\n\n    def by_peer",
        SECURITY + "test_peers.py::test_who_may_connect",
    ),
    # -- auth
    Mutant(
        "auth",
        "0.11 1.28",
        "no gate",
        FRONT,
        "verdict = self.gate.judge(self._peer, tls, head.headers, self.source.text)",
        "verdict = self.gate.by_peer(self._peer)",
        SECURITY + "test_gate.py::test_every_route_and_method_refuses_alike",
    ),
    Mutant(
        "auth",
        "4.12",
        "no gate for upgrades",
        FRONT,
        "verdict = self.gate.judge(self._peer, tls, head.headers, self.source.text)",
        "verdict = self.gate.by_peer(self._peer) if head.upgrade else "
        "self.gate.judge(self._peer, tls, head.headers, self.source.text)",
        SECURITY + "test_gate.py::test_the_upgrade_is_behind_the_gate",
    ),
    Mutant(
        "auth",
        "0.11",
        "any secret opens a key",
        "mcpgate_proto/security/keys.py",
        "        if not same:\n",
        "        if not same and id not in self._keys:\n",
        SECURITY + "test_keys.py::test_wrong_keys",
    ),
    Mutant(
        "auth",
        "0.11",
        "keys for ever",
        "mcpgate_proto/security/keys.py",
        "if key.expires_wall is not None and not wall < key.expires_wall:",
        "if False:",
        SECURITY + "test_keys.py::test_expiry_is_judged_by_the_time_of_day_and_told_to_the_holder_only",
    ),
    Mutant(
        "auth",
        "0.11",
        "signatures are not checked",
        JWT,
        "# whatever a library makes of a token, it is not signed\n            return False",
        "# whatever a library makes of a token, it is signed\n            return True",
        SECURITY + "test_jwt.py::test_another_key",
    ),
    Mutant(
        "auth",
        "0.11",
        "every algorithm",
        GATE,
        "if token.algorithm not in issuer.algorithms:",
        "if False:",
        SECURITY + "test_jwt.py::test_every_algorithm_passes_where_it_is_allowed_and_nowhere_else",
    ),
    Mutant(
        "auth",
        "0.11",
        "any issuer's claim",
        JWT,
        'if claims.get("iss") != issuer.issuer:',
        "if False:",
        # The gate looks the issuer up by this very claim: a second layer, so asked alone.
        SECURITY + "test_jwt.py::test_the_claims_name_the_issuer_whose_keys_were_taken",
    ),
    Mutant(
        "auth",
        "0.11",
        "any audience",
        JWT,
        "or not any(one in audience for one in audiences):",
        "or False:",
        SECURITY + "test_jwt.py::test_claims_that_do_not_pass",
    ),
    Mutant(
        "auth",
        "0.11",
        "tokens for ever",
        JWT,
        "if not wall < expires:",
        "if False:",
        SECURITY + "test_jwt.py::test_expiry_with_its_leeway",
    ),
    Mutant(
        "auth",
        "0.11",
        "tokens of the future",
        JWT,
        'elif not all(_date(claims.get(name, 0)) <= wall + limits.token_leeway_s for name in ("nbf", '
        '"iat")):',
        "elif False:",
        SECURITY + "test_jwt.py::test_claims_that_do_not_pass",
    ),
    Mutant(
        "auth",
        "0.11",
        "tokens of any type",
        JWT,
        "if kind is None or kind.lower() not in _TYPES:",
        "if False:",
        SECURITY + "test_jwt.py::test_the_types_of_other_tokens",
    ),
    Mutant(
        "auth",
        "0.11",
        "tokens without a scope",
        GATE,
        "if isinstance(granted, Grant) and not set(issuer.scopes) <= set(granted.scopes):",
        "if False:",
        SECURITY + "test_jwt.py::test_a_scope_that_is_missing",
    ),
    Mutant(
        "auth",
        "0.11",
        "any certificate",
        GATE,
        "if subject is not None and not self._listed(subject):",
        "if False:",
        SECURITY + "test_peers.py::test_subjects",
    ),
    Mutant(
        "auth",
        "0.11",
        "an empty list lets everybody in",
        GATE,
        'if listen.auth == "required":\n        return True',
        'if listen.auth == "required":\n        return bool(auth.keys or auth.issuers)',
        SECURITY + "test_gate.py::test_required_without_anything_lets_nobody_in",
    ),
    Mutant(
        "auth",
        "1.14",
        "anybody's session",
        STREAMS,
        "found.session.principal == principal else None",
        "principal else None",
        KNOWN + "14_a_session_is_its_principals",
    ),
    Mutant(
        "auth",
        "1.14",
        "anybody's event stream",
        "mcpgate_proto/downstream/http_sse.py",
        " or stream.session.principal != http.principal",
        "",
        KNOWN + "14_an_event_stream_of_2024_is_its_principals",
    ),
    Mutant(
        "auth",
        "1.13",
        "a second stream",
        STREAMS,
        "elif stream.attached:",
        "elif False:",
        KNOWN + "13_nobody_takes_over_anothers_stream",
    ),
    Mutant(
        "auth",
        "1.15",
        "anybody's sealed ids",
        "mcpgate_proto/sealing.py",
        'principal.encode("utf-8", "surrogatepass")',
        'b""',
        "tests/core/test_sealing.py::test_bound_to_purpose_and_principal",
    ),
    Mutant(
        "auth",
        "1.16",
        "short session ids",
        STREAMS,
        "self._hub.entropy.token(192)",
        "self._hub.entropy.token(64)",
        KNOWN + "16_session_ids_cannot_be_guessed",
    ),
    Mutant(
        "auth",
        "1.40",
        "the client's token passes on",
        "mcpgate_proto/security/forward.py",
        '"authorization cookie',
        '"cookie',
        GATEWAYS + "40_credentials_of_clients_stay_here[Authorization-Bearer sentinel-token]",
    ),
    Mutant(
        "auth",
        "1.40",
        "the client's cookies pass on",
        "mcpgate_proto/security/forward.py",
        "cookie cookie2",
        "cookie2",
        GATEWAYS + "40_credentials_of_clients_stay_here",
    ),
    Mutant(
        "auth",
        "1.40",
        "the client's token under another name",
        "mcpgate_proto/security/forward.py",
        "if any(secret and secret in value for secret in secrets):",
        "if False:",
        GATEWAYS + "40_credentials_of_clients_stay_here[X-Key-sentinel-token]",
    ),
    Mutant(
        "auth",
        "1.35 0.11",
        "rules without effect",
        "mcpgate_proto/security/rules.py",
        "return all(one.lets(name) for one in filters)",
        "return True",
        SECURITY + "test_denied.py::test_denied_is_as_unknown",
    ),
    Mutant(
        "auth",
        "1.35",
        "an empty allow lets all through",
        "mcpgate_proto/security/rules.py",
        "if self.allow is not None and not any_matches(self.allow, one):",
        "if self.allow and not any_matches(self.allow, one):",
        SECURITY + "test_rules.py::test_table",
    ),
    Mutant(
        "auth",
        "1.46",
        "any argument",
        "mcpgate_proto/security/rules.py",
        "                    return name\n        return None",
        "                    pass\n        return None",
        SECURITY + "test_denied.py::test_row_46_arguments_that_are_not_let",
    ),
    Mutant(
        "auth",
        "1.38",
        "any address is dialled",
        "mcpgate_proto/upstream/fetch.py",
        "allowed = permitted(found, kinds)",
        "allowed = list(found)",
        "tests/core/test_fetch.py::test_the_address_that_would_be_dialled_is_what_counts",
    ),
    Mutant(
        "auth",
        "1.29",
        "any scheme",
        "mcpgate_proto/security/egress.py",
        "if not tls and not (allow_loopback and _is_loopback_name(place.host)):",
        "if False:",
        "tests/core/test_egress.py::test_plain_http_only_to_loopback_and_only_where_allowed",
    ),
    Mutant(
        "auth",
        "1.23",
        "an endpoint of any origin",
        "mcpgate_proto/upstream/http_sse.py",
        "if not same or parts.username is not None or not plain:",
        "if False:",
        GATEWAYS + "23_an_announced_endpoint_is_of_the_same_origin",
    ),
    Mutant(
        "auth",
        "0.9",
        "plain http",
        "runners/mcpgate/upstream_auth_settings.py",
        'if parts.scheme in ("http", "ws") and not is_loopback(parts.hostname or ""):',
        "if False:",
        POLICY + "9_plain_http",
    ),
    Mutant(
        "auth",
        "0.10",
        "any certificate of a server",
        "runners/mcpgate/tls.py",
        "context = ssl.create_default_context(cafile=ca_file)",
        "context = ssl._create_unverified_context()",
        "tests/runner/test_tls.py::test_tls_refuses_wrong_names_and_unknown_authorities",
    ),
]
