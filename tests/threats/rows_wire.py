"""The rows of sections 2, 3 and 4: JSON, HTTP/1.1, WebSocket.

Must never: hold a row of another section.
"""

from __future__ import annotations

from tests.threats.row import (
    BLACK_BOX,
    HTTP,
    JSON,
    SECURITY,
    SERVERS,
    SOCKET,
    THREATS,
    Row,
)

__all__ = ["HTTP_ROWS", "JSON_ROWS", "WEBSOCKET_ROWS"]

CODEC = "wire/jsonrpc.py"
JSON_ROWS = [
    Row(
        "2.1",
        "a member given twice, also by an escape",
        CODEC,
        (
            JSON + "1_duplicate_keys",
            JSON + "1_duplicate_keys_in_metadata",
            JSON + "1_duplicate_keys_that_nobody_reads_pass_as_they_came",
        ),
    ),
    Row(
        "2.2",
        "`Method` beside `method`",
        CODEC,
        (JSON + "2_keys_are_exact", JSON + "2_unknown_members_of_an_envelope_reach_nobody"),
    ),
    Row("2.3", "NaN and Infinity", CODEC, (JSON + "3_not_a_number",)),
    Row("2.4", "1e400", "wire/json_scan.py", (JSON + "4_numbers_beyond_a_double",)),
    Row("2.5", "integers beyond 2^53 and 2^64", CODEC, (JSON + "5_large_integers_keep_their_digits",)),
    Row(
        "2.6",
        "integers of thousands of digits",
        "wire/json_scan.py",
        (JSON + "6_integers_that_are_too_long",),
    ),
    Row(
        "2.7",
        "UTF-16, UTF-32, byte order marks",
        CODEC,
        (JSON + "7_other_encodings", THREATS + "test_appendix_a.py::test_ta_whole_texts_from_clients"),
    ),
    Row("2.8", "surrogates as bytes", CODEC, (JSON + "8_surrogate_bytes",)),
    Row("2.9", "surrogates as escapes", CODEC, (JSON + "9_lone_surrogates",)),
    Row("2.10", "control characters in strings", CODEC, (JSON + "10_raw_control_characters",)),
    Row(
        "2.11",
        "odd characters that are data",
        CODEC + " wire/lines.py",
        (JSON + "11_odd_characters_are_data",),
    ),
    Row(
        "2.12",
        "depth",
        "wire/json_scan.py",
        (JSON + "12_depth", JSON + "12_brackets_in_strings_are_no_depth", BLACK_BOX + "refusals"),
    ),
    Row("2.13", "a million keys", CODEC, (JSON + "13_a_million_keys",)),
    Row(
        "2.14",
        "lax grammar",
        CODEC,
        (JSON + "14_lax_grammar", THREATS + "test_appendix_a.py::test_ta_differential_of_any_text"),
    ),
    Row(
        "2.15", "ids that are neither strings nor integers", CODEC, (JSON + "15_ids_are_strings_or_integers",)
    ),
    Row(
        "2.16",
        "names that look alike",
        "relay/router.py security/hidden.py",
        (JSON + "16_names_are_compared_by_code_point",),
    ),
    Row(
        "2.17",
        "what peers say, in logs",
        "logs.py",
        (
            "tests/cli/test_logs.py::test_a_line_stays_one_harmless_line",
            "tests/cli/test_logs.py::test_values_are_capped_and_quoted",
            BLACK_BOX + "what_was_said_is_in_no_log",
        ),
    ),
    Row("2.18", "NUL in names", "relay/router.py tables.py", (JSON + "18_nul_in_names",)),
    Row("2.19", "long strings", CODEC, (JSON + "19_long_strings", BLACK_BOX + "long_strings")),
]

GRAMMAR = "wire/http1_grammar.py"
CODEC_1_1 = "wire/http1_server.py"
HTTP_ROWS = [
    Row(
        "3.1",
        "Content-Length together with Transfer-Encoding",
        GRAMMAR,
        (HTTP + "1_cl_with_te", BLACK_BOX + "refusals"),
    ),
    Row("3.2", "folded header lines", GRAMMAR, (HTTP + "2_obs_fold",)),
    Row("3.3", "bare LF", GRAMMAR, (HTTP + "3_bare_lf",)),
    Row("3.4", "Content-Length twice", GRAMMAR, (HTTP + "4_repeated_content_length",)),
    Row("3.5", "Transfer-Encoding in HTTP/1.0", GRAMMAR, (HTTP + "5_te_in_http_1_0",)),
    Row("3.6", "other versions", CODEC_1_1, (HTTP + "6_versions",)),
    Row(
        "3.7",
        "targets that are read in two ways",
        CODEC_1_1,
        (HTTP + "7_targets", HTTP + "7_absolute_form_means_the_same_place"),
    ),
    Row("3.8", "hosts that are none", CODEC_1_1 + " security/door.py", (HTTP + "8_hosts",)),
    Row(
        "3.9",
        "control characters in headers",
        GRAMMAR,
        (HTTP + "9_control_characters_in_values", HTTP + "9_tabs_and_names"),
    ),
    Row("3.10", "underscores in names of headers", GRAMMAR, (HTTP + "10_underscores_in_names",)),
    Row("3.11", "methods", CODEC_1_1, (HTTP + "11_methods", HTTP + "11_methods_that_no_route_has")),
    Row("3.12", "large heads", GRAMMAR, (HTTP + "12_head_limits",)),
    Row(
        "3.13",
        "extensions of chunks, and trailers",
        GRAMMAR,
        (HTTP + "13_chunk_extensions_and_trailers", HTTP + "13_trailers_decide_nothing"),
    ),
    Row(
        "3.14",
        "sizes of chunks",
        GRAMMAR,
        (
            HTTP + "14_chunk_sizes_beyond_the_limit",
            HTTP + "14_chunk_sizes_that_are_none",
            HTTP + "14_chunk_terminators",
        ),
    ),
    Row("3.15", "floods of chunks", GRAMMAR, (HTTP + "15_chunk_floods",)),
    Row(
        "3.16",
        "expectations",
        "downstream/http.py",
        (
            HTTP + "16_expectations",
            HTTP + "16_continue_is_said_only_to_what_passed",
            SECURITY + "test_gate.py::test_a_body_is_not_looked_at_before_it_is_known_who_sends_it",
        ),
    ),
    Row(
        "3.17",
        "pipelining",
        CODEC_1_1,
        (HTTP + "17_pipelines_wait_and_are_bounded", HTTP + "17_pipelined_requests_are_answered_in_order"),
    ),
    Row(
        "3.18",
        "slow peers",
        "downstream/http.py",
        (
            HTTP + "18_a_head_that_does_not_come",
            HTTP + "18_a_body_that_trickles",
            HTTP + "18_a_slow_body_that_keeps_the_rate_is_waited_for",
            HTTP + "18_idle_connections",
            HTTP + "18_requests_of_one_connection",
            HTTP + "18_connections_are_capped",
            BLACK_BOX + "slow_peers",
            SECURITY + "test_slow_peers.py::test_together_large_messages_are_bounded_and_small_ones_pass",
        ),
    ),
    Row(
        "3.19",
        "response splitting",
        CODEC_1_1,
        (
            HTTP + "19_no_peer_text_in_response_headers",
            "tests/wire/test_http1_server.py::test_row_response_splitting",
        ),
    ),
    Row(
        "3.20",
        "what h11 refuses by itself",
        GRAMMAR,
        (
            HTTP + "20_what_h11_refuses_stays_refused",
            THREATS + "test_http.py::test_tb_appendix_b_through_a_gateway",
            THREATS + "test_http.py::test_tb_nothing_behind_a_refusal_is_read",
        ),
    ),
    Row(
        "3.21",
        "answers out of turn",
        CODEC_1_1,
        (
            HTTP + "21_answers_out_of_turn_are_never_sent",
            "tests/wire/test_http1_server.py::test_answers_out_of_turn",
        ),
    ),
    Row(
        "3.22",
        "the same from servers",
        "wire/http1_client.py upstream/streamable_http.py",
        (
            SERVERS + "22_bad_responses_of_servers",
            SERVERS + "22_good_responses_of_the_same_making",
            SERVERS + "22_a_second_response_is_nobodys",
            SERVERS + "22_redirects_are_not_followed",
            SERVERS + "22_a_server_that_never_ends_its_head_is_given_up",
        ),
    ),
    Row(
        "3.23",
        "HTTP/2 and upgrades",
        CODEC_1_1,
        (HTTP + "23_upgrades_other_than_websocket_are_ignored", HTTP + "6_versions"),
    ),
]

FRAMES = "wire/websocket.py"
SHAKE = "wire/websocket_handshake.py"
WEBSOCKET_ROWS = [
    Row(
        "4.1",
        "pages of other origins",
        "downstream/http.py",
        (
            SOCKET + "1_origins",
            SOCKET + "1_hosts",
            SOCKET + "1_the_upgrade_is_at_one_path_and_only_where_it_is_on",
        ),
    ),
    Row("4.2", "keys that are none", SHAKE, (SOCKET + "2_keys",)),
    Row("4.3", "subprotocols that are no tokens", SHAKE, (SOCKET + "3_hostile_subprotocols",)),
    Row("4.4", "which subprotocol is chosen", SHAKE, (SOCKET + "4_subprotocols",)),
    Row(
        "4.5",
        "frames that declare more than they may",
        FRAMES,
        (SOCKET + "5_declared_lengths", SOCKET + "5_fragments_add_up", BLACK_BOX + "websocket_floods"),
    ),
    Row("4.6", "floods of fragments", FRAMES, (SOCKET + "6_fragment_floods", BLACK_BOX + "websocket_floods")),
    Row(
        "4.7",
        "floods of pings",
        FRAMES,
        (
            SOCKET + "7_control_frame_floods",
            SOCKET + "7_pings_at_a_decent_rate",
            BLACK_BOX + "websocket_floods",
        ),
    ),
    Row("4.8", "compression bombs", SHAKE, (SOCKET + "8_no_compression",)),
    Row(
        "4.9",
        "masks, reserved bits, opcodes, UTF-8, close codes",
        FRAMES,
        (
            SOCKET + "9_the_protocol_is_kept",
            "tests/wire/test_websocket.py::test_row_masking_reserved_opcodes_control_frames_utf8_close_codes",
        ),
    ),
    Row("4.10", "binary messages", FRAMES, (SOCKET + "10_binary_messages",)),
    Row(
        "4.11",
        "texts that are no message",
        "downstream/websocket.py",
        (
            SOCKET + "11_one_message_per_text",
            SOCKET + "11_batches_where_the_revision_has_them",
            BLACK_BOX + "websocket_bombs",
        ),
    ),
    Row(
        "4.12",
        "credentials before the upgrade, never in the URL",
        "security/gate.py",
        (
            SECURITY + "test_gate.py::test_the_upgrade_is_behind_the_gate",
            SECURITY + "test_gate.py::test_tokens_in_queries_are_never_read",
            SOCKET + "12_nothing_of_a_url_is_a_credential",
        ),
    ),
    Row(
        "4.13",
        "the closing handshake",
        FRAMES,
        (
            SOCKET + "13_closing_handshake",
            SOCKET + "13_a_peer_that_never_closes_is_cut",
            SOCKET + "13_a_silent_peer_is_cut",
        ),
    ),
]
