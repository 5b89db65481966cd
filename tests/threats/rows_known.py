"""The rows of section 1: what has hit others.

Must never: hold a row of another section.
"""

from __future__ import annotations

from tests.threats.row import (
    BLACK_BOX,
    CLI,
    GATEWAYS,
    HTTP,
    JSON,
    KNOWN,
    POLICY,
    SECURITY,
    SOCKET,
    THREATS,
    Row,
)

__all__ = ["KNOWN_ROWS"]

KNOWN_ROWS = [
    Row(
        "1.1",
        "TypeScript SDK, CVE-2025-66414: DNS rebinding",
        "security/door.py",
        (KNOWN + "1_strange_hosts_on_every_route", BLACK_BOX + "strangers_on_every_route_by_every_method"),
    ),
    Row(
        "1.2",
        "Python SDK, CVE-2025-66416: hosts matched by their beginning",
        "security/door.py",
        (
            KNOWN + "2_nothing_is_matched_by_its_beginning",
            "tests/core/test_door.py::test_nothing_can_be_appended_to_a_loopback_name",
        ),
    ),
    Row(
        "1.3",
        "Go SDK, CVE-2026-34742: one transport was forgotten",
        "downstream/http.py",
        (KNOWN + "3_the_door_is_before_all_routes_and_transports",),
    ),
    Row(
        "1.4",
        "rmcp, CVE-2026-42559: Host not checked",
        "security/door.py",
        (KNOWN + "4_hosts_of_a_name_that_was_rebound",),
    ),
    Row(
        "1.5",
        "Java SDK, CVE-2026-35568: Origin not checked",
        "security/door.py",
        (KNOWN + "5_strange_origins_on_every_route",),
    ),
    Row(
        "1.6",
        "Docker MCP Gateway, CVE-2025-64443: neither door nor gate",
        "security/door.py security/gate.py",
        (
            KNOWN + "1_strange_hosts_on_every_route",
            SECURITY + "test_gate.py::test_every_route_and_method_refuses_alike",
            CLI + "test_auth_settings.py::test_a_refused_start_exits_with_2",
        ),
    ),
    Row(
        "1.7",
        "Python SDK, CVE-2026-59950: WebSocket hijacking",
        "downstream/http.py wire/websocket_handshake.py",
        (KNOWN + "7_websocket_hijacking", SOCKET + "1_origins"),
    ),
    Row(
        "1.8",
        "Python SDK, CVE-2025-53365: a disconnect kills the process",
        "downstream/http.py",
        (KNOWN + "8_clients_that_break_off", BLACK_BOX + "many_connections"),
    ),
    Row(
        "1.9",
        "Python SDK, CVE-2025-53366: a malformed message kills the process",
        "wire/jsonrpc.py",
        (KNOWN + "9_malformed_envelopes",),
    ),
    Row(
        "1.10",
        "Python SDK #2328: bytes that are no UTF-8 kill the process",
        "wire/jsonrpc.py",
        (KNOWN + "10_bytes_that_are_no_text",),
    ),
    Row(
        "1.11",
        "TypeScript SDK, CVE-2026-25536: equal ids of clients cross",
        "relay/exchange.py",
        (KNOWN + "11_same_id_of_many_clients",),
    ),
    Row(
        "1.12",
        "SDKs: equal ids in one session cross",
        "downstream/session.py",
        (
            KNOWN + "12_the_same_id_again_and_again",
            "tests/sim/test_together.py::test_equal_ids_and_tokens_in_flight_in_one_session_never_cross",
        ),
    ),
    Row(
        "1.13",
        "Ruby SDK, CVE-2026-33946: a second GET takes the stream over",
        "downstream/streamable_http.py",
        (
            KNOWN + "13_nobody_takes_over_anothers_stream",
            "tests/sim/test_streams.py::test_a_second_stream_of_a_session_is_refused",
        ),
    ),
    Row(
        "1.14",
        "Python SDK, CVE-2026-52869: a session id is enough",
        "downstream/streamable_http.py",
        (
            KNOWN + "14_a_session_is_its_principals",
            KNOWN + "14_an_event_stream_of_2024_is_its_principals",
            SECURITY + "test_gate.py::test_a_session_of_somebody_else_does_not_exist",
        ),
    ),
    Row(
        "1.15",
        "Python SDK, CVE-2026-52870: tasks of others",
        "relay/tasks.py sealing.py",
        (
            "tests/sim/test_tasks.py::test_ids_are_good_for_one_principal_and_nothing_else_opens",
            "tests/sim/test_tasks_legacy.py::test_ids_are_good_for_one_principal",
        ),
    ),
    Row(
        "1.16",
        "oatpp-mcp, CVE-2025-6515: session ids that can be guessed",
        "entropy.py",
        (KNOWN + "16_session_ids_cannot_be_guessed",),
    ),
    Row(
        "1.17",
        "TypeScript SDK, CVE-2026-0621: expressions made of templates",
        "relay/templates.py",
        (
            KNOWN + "17_templates_take_linear_time",
            KNOWN + "17_no_expression_is_made_of_what_peers_say",
            "tests/core/test_templates.py::test_ten_kilobytes_are_quick",
        ),
    ),
    Row(
        "1.18",
        "Go SDK, CVE-2026-27896: keys that fold",
        "wire/jsonrpc.py",
        (KNOWN + "18_keys_do_not_fold", JSON + "2_keys_are_exact"),
    ),
    Row(
        "1.19",
        "Python SDK #2605: a second handshake",
        "downstream/session.py",
        (KNOWN + "19_a_second_handshake_changes_nothing",),
    ),
    Row(
        "1.20",
        "reference servers: fetch servers that read the own network",
        reason="what a server fetches is its own process's doing: run it in a network of its own. "
        "What passes through here is in the audit stream",
    ),
    Row(
        "1.21",
        "Envoy AI Gateway: judged one name, sent another",
        "relay/router.py wire/jsonrpc.py",
        (
            GATEWAYS + "21_what_was_checked_is_what_is_sent",
            SECURITY + "test_denied.py::test_what_was_judged_is_written_anew",
        ),
    ),
    Row(
        "1.22",
        "agentgateway, CVE-2026-29791: arguments pasted into requests",
        "mcp/mirror.py",
        (
            GATEWAYS + "22_arguments_in_headers",
            "tests/core/test_mirror.py::test_every_text_survives_and_is_safe",
        ),
    ),
    Row(
        "1.23",
        "FastMCP, CVE-2026-32871: URLs joined with what a peer says",
        "upstream/http_sse.py",
        (
            GATEWAYS + "23_an_announced_endpoint_is_of_the_same_origin",
            GATEWAYS + "23_urls_are_not_joined_with_what_peers_say",
        ),
    ),
    Row(
        "1.24",
        "Kuadrant mcp-gateway: a header that opens everything",
        "upstream/streamable_http.py security/forward.py",
        (
            GATEWAYS + "24_headers_of_clients_select_and_prove_nothing",
            GATEWAYS + "24_no_secret_comes_with_the_program",
        ),
    ),
    Row(
        "1.25",
        "MCPHub: the user is taken from the path",
        "security/principal.py",
        (GATEWAYS + "25_paths_make_nobody_somebody", SECURITY + "test_gate.py::test_principals"),
    ),
    Row(
        "1.26",
        "mcp-bridge: open when half configured; processes from requests",
        "auth_settings.py",
        (
            GATEWAYS + "26_requests_do_not_start_processes",
            SECURITY + "test_gate.py::test_required_without_anything_lets_nobody_in",
        ),
    ),
    Row(
        "1.27",
        "Docker MCP Gateway, CVE-2026-55887: metadata becomes options of a command",
        "upstream/stream.py",
        (GATEWAYS + "27_servers_do_not_choose_how_they_are_started",),
    ),
    Row(
        "1.28",
        "nginx-ui, CVE-2026-33032: one route without the gate; empty means everybody",
        "security/gate.py",
        (
            SECURITY + "test_gate.py::test_the_tables_here_have_every_route",
            SECURITY + "test_gate.py::test_every_route_and_method_refuses_alike",
            BLACK_BOX + "no_token_opens_nothing",
        ),
    ),
    Row(
        "1.29",
        "mcp-remote, CVE-2025-6514: a URL of the server's goes to a shell",
        "upstream/oauth_discovery.py security/egress.py",
        (
            "tests/sim/test_logins.py::test_metadata_of_an_authorization_server_that_leads_astray",
            "tests/core/test_egress.py::test_a_url_that_does_not_pass",
        ),
    ),
    Row(
        "1.30",
        "MCP Inspector, CVE-2025-49596: 0.0.0.0 in a browser, a route that spawns",
        "security/door.py",
        (
            GATEWAYS + "30_the_wildcard_is_no_host",
            GATEWAYS + "26_requests_do_not_start_processes",
            "tests/core/test_door.py::test_a_wildcard_is_no_name",
        ),
    ),
    Row(
        "1.31",
        "MCPJam Inspector, CVE-2026-23744: bound to everything",
        "listen_settings.py",
        (POLICY + "12_defaults", GATEWAYS + "26_requests_do_not_start_processes"),
    ),
    Row(
        "1.32",
        "MCP Inspector, CVE-2025-58444: pages made of peers' text",
        "downstream/http.py",
        (GATEWAYS + "32_nothing_is_html", "tests/sim/test_logins.py::test_the_page_that_the_browser_gets"),
    ),
    Row(
        "1.33",
        "LiteLLM and others, CVE-2026-30623: configuration is execution",
        "gateway.py",
        (GATEWAYS + "33_settings_come_from_files_only",),
    ),
    Row(
        "1.34",
        "mcp-gitlab-server: CORS for everybody",
        "downstream/http.py",
        (GATEWAYS + "34_cors_is_never_for_everybody",),
    ),
    Row(
        "1.35",
        "GitHub's agent gateway: a list that only the client keeps; a config others can read",
        "security/rules.py files.py",
        (
            SECURITY + "test_denied.py::test_denied_is_as_unknown",
            SECURITY + "test_denied.py::test_only_what_is_listed_can_be_called_where_a_rule_is",
            SECURITY + "test_files.py::test_modes",
        ),
    ),
    Row(
        "1.36",
        "ContextForge: redirects followed, logs forged, sizes forgotten",
        "upstream/fetch.py logs.py wire/lines.py",
        (
            GATEWAYS + "36_every_kind_of_result_has_its_size_checked",
            "tests/core/test_fetch.py::test_a_redirect_is_not_followed",
            CLI + "test_logs.py::test_a_line_stays_one_harmless_line",
        ),
    ),
    Row(
        "1.37",
        "mcp-atlassian, CVE-2026-27826: a header is the upstream's address",
        "upstream/http_pool.py",
        (GATEWAYS + "37_no_header_is_an_address",),
    ),
    Row(
        "1.38",
        "Azure MCP, CVE-2026-26118: requests to metadata services",
        "security/egress.py upstream/fetch.py",
        (
            "tests/core/test_egress.py::test_only_permitted_addresses_are_left_in_their_order",
            "tests/core/test_fetch.py::test_the_address_that_would_be_dialled_is_what_counts",
        ),
    ),
    Row(
        "1.39",
        "FastMCP, CVE-2026-27124: a proxy of OAuth without consent",
        reason="mcpgate is a resource server to its clients and proxies no authorization; "
        "its own logins use its own client (1.40)",
    ),
    Row(
        "1.40",
        "SDK clients: metadata from anywhere, issuers mixed up, tokens passed on",
        "upstream/oauth_discovery.py security/forward.py",
        (
            GATEWAYS + "40_credentials_of_clients_stay_here",
            "tests/sim/test_logins.py::test_a_challenge_that_names_metadata_of_another_origin",
            "tests/sim/test_logins.py::test_the_issuer_in_the_answer",
            "tests/sim/test_logins.py::test_metadata_of_an_authorization_server_that_leads_astray",
            SECURITY + "test_expiry.py::test_the_token_of_a_client_never_reaches_a_server",
        ),
    ),
    Row(
        "1.41",
        "Cursor, CVE-2025-54136: what was approved is changed later",
        "security/pins.py lockfile.py",
        (
            SECURITY + "test_pins.py::test_row_41_a_changed_definition_is_hidden",
            SECURITY + "test_pins.py::test_a_change_that_was_announced_is_seen_before_the_next_call",
            CLI + "test_lock.py::test_changes_are_shown_and_approved_only_when_asked",
        ),
    ),
    Row(
        "1.42",
        "Cursor, CVE-2025-54135: a tool writes the config",
        "config_file.py files.py",
        (
            GATEWAYS + "42_nothing_writes_the_config",
            CLI + "test_config_file.py::test_a_config_that_others_can_change_is_refused",
            CLI + "test_config_file.py::test_a_reload_refuses_it_as_well",
        ),
    ),
    Row(
        "1.43",
        "hidden instructions in descriptions",
        "security/hidden.py",
        (
            SECURITY + "test_hidden.py::test_what_is_not_seen_is_found",
            SECURITY + "test_hidden.py::test_speaking_past_the_user",
            SECURITY + "test_hidden.py::test_every_text_is_looked_at",
            SECURITY + "test_hidden.py::test_row_43_policies",
        ),
    ),
    Row(
        "1.44",
        "WeKnora, CVE-2026-30856: one tool's name shadows another's",
        "relay/names.py",
        (
            "tests/core/test_names.py::test_prefixed_names_are_never_ambiguous",
            "tests/sim/test_catalog.py::test_the_first_in_the_config_owns_a_name_that_both_have",
        ),
    ),
    Row(
        "1.45",
        "filesystem server, CVE-2025-53109: prefixes of paths and links",
        "files.py unix.py",
        (
            SECURITY + "test_files.py::test_links",
            SECURITY + "test_files.py::test_a_chain_that_nobody_else_can_change",
            "tests/runner/test_tokens.py::test_names_stay_in_the_folder",
            "tests/runner/test_tokens.py::test_symlinks_and_hard_links_are_not_followed",
        ),
    ),
    Row(
        "1.46",
        "mcp-server-git, CVE-2025-68143: arguments that become options",
        "security/rules.py",
        (
            SECURITY + "test_denied.py::test_row_46_arguments_that_are_not_let",
            SECURITY + "test_rules.py::test_row_46_arguments",
        ),
    ),
    Row(
        "1.47",
        "figma MCP, CVE-2025-53967: a shell reads an argument",
        "process.py",
        (GATEWAYS + "47_no_shell_anywhere",),
    ),
    Row(
        "1.48",
        "h11, CVE-2025-43859: the end of a chunk is not checked",
        "wire/http1_grammar.py pyproject.toml",
        (GATEWAYS + "48_the_floor_of_h11", HTTP + "14_chunk_terminators"),
    ),
    Row(
        "1.49",
        "Starlette, CVE-2025-62727: ranges and forms",
        "downstream/http.py",
        (GATEWAYS + "49_no_ranges_and_no_forms",),
    ),
    Row(
        "1.50",
        "Granian, wsproto: a header that is not ASCII",
        "wire/websocket_handshake.py",
        (
            SOCKET + "3_hostile_subprotocols",
            "tests/wire/test_websocket.py::test_no_header_value_makes_check_upgrade_raise",
        ),
    ),
    Row(
        "1.51",
        "ws, CVE-2021-32640: long lists take quadratic time",
        "wire/http1_grammar.py",
        (GATEWAYS + "51_long_lists_in_headers",),
    ),
    Row(
        "1.52",
        "Go, CVE-2023-39326; Falcon, CVE-2023-38697: extensions of chunks, signs of lengths",
        "wire/http1_grammar.py",
        (
            HTTP + "13_chunk_extensions_and_trailers",
            HTTP + "14_chunk_sizes_that_are_none",
            THREATS + "test_http.py::test_tb_appendix_b_through_a_gateway",
        ),
    ),
    Row(
        "1.53",
        "Mesop: a thread for every message",
        "downstream/stream.py blocking.py",
        (
            GATEWAYS + "53_requests_in_flight_are_capped_on_a_connection",
            "tests/runner/test_blocking.py::test_threads_are_kept_and_not_multiplied",
            "tests/runner/test_blocking.py::test_clients_beyond_the_cap_are_refused",
        ),
    ),
]
