"""The rows of section 0: the security policy.

Must never: hold a row of another section.
"""

from __future__ import annotations

from tests.threats.row import (
    BLACK_BOX,
    CLI,
    JSON,
    POLICY,
    SECURITY,
    SERVERS,
    Row,
)

__all__ = ["POLICY_ROWS"]

# A cap each.
CAPS = tuple(
    f"tests/threats/test_limits.py::test_t0_17_{name}"
    for name in (
        "a_cursor_that_goes_round",
        "a_cursor_that_is_too_long",
        "a_state_of_a_server_that_is_too_large",
        "answers_that_the_calls_wait_for",
        "batches",
        "calls_in_all",
        "cursors_and_states",
        "event_streams_of_2024",
        "idle_sessions_of_others",
        "instructions",
        "lists_of_servers",
        "questions_of_one_call",
        "requests_of_one_session",
        "rounds_of_one_call",
        "servers_connections_of_one_principal",
        "servers_sessions",
        "servers_sessions_of_one_principal",
        "sessions_in_all",
        "sessions_of_all_servers",
        "sessions_of_one_principal",
        "subscriptions",
        "what_a_session_can_replay",
        "what_calls_keep",
        "what_calls_keep_that_wait_for_a_list",
        "what_requests_leave_behind",
        "what_the_gateway_asks_itself",
    )
)
POLICY_ROWS = [
    Row(
        "0.1",
        "reports come in private and are answered within 48 hours",
        "SECURITY.md cli.py",
        (POLICY + "1_reports",),
    ),
    Row(
        "0.2",
        "no secrets in config files",
        "inline.py secret_settings.py",
        (
            SECURITY + "test_inline.py::test_an_inline_secret_is_refused_by_its_key_only",
            SECURITY + "test_inline.py::test_unless_that_is_allowed",
            SECURITY + "test_inline.py::test_what_looks_like_a_secret_elsewhere_is_a_warning",
        ),
    ),
    Row(
        "0.3",
        "config and secret files are their owner's alone",
        "files.py config_file.py",
        (
            SECURITY + "test_files.py::test_modes",
            SECURITY + "test_files.py::test_owners",
            SECURITY + "test_files.py::test_folders",
            SECURITY + "test_files.py::test_links",
            CLI + "test_config_file.py::test_a_config_that_others_can_change_is_refused",
            CLI + "test_secrets.py::test_a_file_that_cannot_be_used",
        ),
    ),
    Row(
        "0.4",
        "secrets come from the environment; one that is missing is an error",
        "expand.py",
        (
            CLI + "test_secrets.py::test_a_variable",
            CLI + "test_secrets.py::test_a_variable_that_is_not_set_is_named_and_exits_2",
        ),
    ),
    Row(
        "0.5",
        "secret managers, and secrets that rotate",
        "secrets.py watch.py",
        (
            CLI + "test_secrets.py::test_a_command_is_opt_in",
            CLI + "test_secrets.py::test_no_shell_reads_its_words",
            CLI + "test_secrets.py::test_a_credential",
            "tests/runner/test_rotation.py::test_a_rotated_file_is_used_by_the_next_request",
            "tests/runner/test_rotation.py::test_a_command_is_asked_again_on_sighup",
        ),
    ),
    Row(
        "0.6",
        "only commands that the operator trusts",
        "launch.py process_settings.py checking.py process.py",
        (
            SECURITY + "test_commands.py::test_strict_commands_are_absolute_or_listed",
            SECURITY + "test_commands.py::test_an_edited_file_is_not_started",
            SECURITY + "test_commands.py::test_what_was_checked_is_what_runs",
            SECURITY + "test_commands.py::test_code_that_nobody_reviews_is_flagged",
        ),
    ),
    Row(
        "0.7",
        "commands by their full path, through folders that nobody else can write",
        "launch.py files.py",
        (
            SECURITY + "test_commands.py::test_a_command_that_others_can_change_is_refused",
            SECURITY + "test_commands.py::test_a_folder_that_others_can_write_to_is_not_searched",
            SECURITY + "test_commands.py::test_the_child_sees_the_safe_path_only",
        ),
    ),
    Row(
        "0.8",
        "children get a chosen environment",
        "launch.py",
        (
            SECURITY + "test_commands.py::test_the_environment_is_an_allow_list",
            CLI + "test_cli.py::test_run_passes_only_what_it_should",
        ),
    ),
    Row(
        "0.9",
        "remote servers over TLS, no redirects",
        "settings.py upstream/http_pool.py",
        (
            POLICY + "9_plain_http",
            POLICY + "9_plain_http_is_a_decision",
            SERVERS + "22_redirects_are_not_followed",
        ),
    ),
    Row(
        "0.10",
        "certificates are verified, always",
        "tls.py",
        (
            "tests/runner/test_tls.py::test_tls_refuses_wrong_names_and_unknown_authorities",
            "tests/runner/test_tls.py::test_no_plain_text_and_no_old_versions",
            POLICY + "10_no_switch_turns_verification_off",
        ),
    ),
    Row(
        "0.11",
        "one gate in front of everything; an empty list lets nobody in",
        "security/gate.py security/keys.py security/jwt.py",
        (
            SECURITY + "test_gate.py::test_every_route_and_method_refuses_alike",
            SECURITY + "test_gate.py::test_required_without_anything_lets_nobody_in",
            SECURITY + "test_keys.py::test_an_unknown_id_costs_what_a_wrong_secret_costs",
            SECURITY + "test_jwt.py::test_alg_none",
            SECURITY + "test_jwt.py::test_the_types_of_other_tokens",
            SECURITY + "test_peers.py::test_subjects",
            BLACK_BOX + "no_token_opens_nothing",
        ),
    ),
    Row(
        "0.12",
        "on loopback unless said otherwise, and then guarded; networks in and out",
        "listen_settings.py auth_settings.py security/address.py",
        (
            POLICY + "12_defaults",
            CLI + "test_auth_settings.py::test_a_refused_start_exits_with_2",
            SECURITY + "test_limited.py::test_networks_are_let_in_or_closed_at_once",
            SECURITY + "test_limited.py::test_who_is_no_proxy_cannot_choose_its_address",
        ),
    ),
    Row(
        "0.13",
        "sockets are their owner's alone",
        "unix.py",
        ("tests/runner/test_unix.py::test_the_mode_is_what_was_asked_for",),
    ),
    Row(
        "0.14",
        "sockets stand where nobody else can put one",
        "unix.py",
        (
            "tests/runner/test_unix.py::test_what_belongs_to_others_is_refused",
            "tests/runner/test_unix.py::test_a_missing_folder_is_made_for_its_owner_only",
            "tests/runner/test_unix.py::test_what_is_refused",
        ),
    ),
    Row(
        "0.15",
        "who is at the other end of a socket",
        "unix.py security/gate.py",
        (
            SECURITY + "test_peers.py::test_who_may_connect",
            "tests/runner/test_unix.py::test_another_user_is_told_apart",
        ),
    ),
    Row(
        "0.16",
        "dependencies are few, watched and audited",
        "pyproject.toml .github/dependabot.yml Makefile",
        (POLICY + "16_dependencies",),
    ),
    Row(
        "0.17",
        "every buffer has its bound",
        "limits.py",
        (BLACK_BOX + "refusals", BLACK_BOX + "slow_peers", POLICY + "17_every_limit_is_used", *CAPS),
    ),
    Row(
        "0.18",
        "whatever comes in is checked: messages, headers, settings",
        "wire/jsonrpc.py wire/http1_grammar.py tables.py",
        (
            JSON + "2_keys_are_exact",
            CLI + "test_settings.py::test_each_problem_names_key_and_mend",
            "tests/core/test_mirror.py::test_verify",
        ),
    ),
    Row(
        "0.19",
        "nothing internal in an answer; an id leads to the log",
        "security/incidents.py",
        (
            SECURITY + "test_error_ids.py::test_a_server_that_dies_in_a_call",
            SECURITY + "test_error_ids.py::test_over_http_a_defect_is_a_500_with_its_id",
        ),
    ),
    Row(
        "0.20",
        "logs are one harmless line each, without secrets",
        "logs.py redact.py",
        (
            CLI + "test_logs.py::test_a_line_stays_one_harmless_line",
            SECURITY + "test_redact.py::test_no_form_of_a_secret_comes_out_of_any_sink",
            SECURITY
            + "test_audit.py::test_nothing_that_was_said_and_nothing_that_proves_anything_is_recorded",
        ),
    ),
    Row(
        "0.21",
        "the deployment checklist",
        "doctor.py doctor_checks.py",
        (CLI + "test_doctor.py::test_verdicts", CLI + "test_doctor.py::test_exit_codes_and_json"),
    ),
    Row(
        "0.22",
        "rates, caps and 429",
        "security/rate.py downstream/pace.py",
        (
            SECURITY + "test_limited.py::test_over_http_it_is_429_with_the_wait_and_the_id_of_the_request",
            SECURITY + "test_limited.py::test_calls_in_flight_are_capped_by_principal",
            SECURITY + "test_limited.py::test_connections_are_capped_by_address_and_make_room_when_they_go",
            SECURITY + "test_rate.py::test_never_more_than_the_burst_and_the_rate_in_any_time",
        ),
    ),
    Row("0.23", "which versions get fixes", "SECURITY.md", (POLICY + "23_supported_versions",)),
]
