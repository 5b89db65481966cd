"""The rows of section 5: processes, files, sockets.

Must never: hold a row of another section.
"""

from __future__ import annotations

from tests.threats.row import (
    CLI,
    PROCESSES,
    SECURITY,
    THREATS,
    Row,
)

__all__ = ["PROCESS_ROWS"]

R = "tests/runner/"
PROCESS_ROWS = [
    Row(
        "5.1",
        "children inherit the environment",
        "launch.py",
        (
            SECURITY + "test_commands.py::test_the_environment_is_an_allow_list",
            CLI + "test_cli.py::test_run_passes_only_what_it_should",
        ),
    ),
    Row(
        "5.2",
        "children inherit descriptors",
        "process.py",
        (THREATS + "test_policy.py::test_t5_2_descriptors",),
    ),
    Row(
        "5.3",
        "grandchildren outlive a signal",
        "process.py",
        (R + "test_children.py::test_terminate_then_kill_reach_the_whole_group",),
    ),
    Row(
        "5.4",
        "grandchildren leave the group",
        "process.py children.py",
        (R + "test_children.py::test_what_a_child_leaves_behind_is_ended",),
    ),
    Row(
        "5.5",
        "children outlive a gateway that is killed",
        "process.py",
        (R + "test_process.py::test_a_killed_gateway_takes_all_with_it",),
    ),
    Row(
        "5.6",
        "zombies",
        "process.py",
        (
            R + "test_children.py::test_child_echo_stderr_and_exit",
            R + "test_children.py::test_what_a_child_leaves_behind_is_ended",
        ),
    ),
    Row(
        "5.7",
        "step by step: end of input, SIGTERM, SIGKILL",
        "upstream/stream.py",
        ("tests/sim/test_starting.py::test_children_are_stopped_step_by_step",),
    ),
    Row(
        "5.8",
        "stderr that nobody reads",
        "children.py",
        (R + "test_children.py::test_a_flood_on_stderr_does_not_block_the_child",),
    ),
    Row(
        "5.9",
        "lines without end",
        "wire/lines.py",
        (
            PROCESSES + "9_a_line_without_end",
            "tests/wire/test_lines.py::test_oversize_is_reported_at_once_and_holds_nothing",
        ),
    ),
    Row(
        "5.10",
        "banners and stray prints on stdout",
        "upstream/stream.py",
        (
            PROCESSES + "10_stdout_pollution",
            PROCESSES + "10_a_server_that_never_speaks_mcp_fails_its_start",
            PROCESSES + "10_answers_to_nothing_reach_nobody",
        ),
    ),
    Row(
        "5.11",
        "writes to a child that is gone",
        "upstream/stream.py",
        (
            PROCESSES + "11_a_write_to_a_child_that_is_gone",
            R + "test_children.py::test_aborted_and_forgotten_children_end",
        ),
    ),
    Row(
        "5.12",
        "a child that does not read",
        "hub.py",
        (
            "tests/sim/test_pressure.py::test_a_server_that_does_not_read_is_not_sent_without_end",
            R + "test_children.py::test_big_writes_to_a_child_that_reads_late",
        ),
    ),
    Row(
        "5.13",
        "a child that closes its output and lives",
        "upstream/stream.py",
        (
            PROCESSES + "13_a_child_that_closes_its_output_is_dead",
            R + "test_children.py::test_a_child_that_closes_stdout_but_lives",
        ),
    ),
    Row(
        "5.14",
        "a child that ends before it answers",
        "upstream/stream.py",
        (PROCESSES + "14_exit_before_the_first_answer", R + "test_children.py::test_failed_starts_say_why"),
    ),
    Row(
        "5.15",
        "another program of the same name earlier in PATH",
        "launch.py",
        (
            SECURITY + "test_commands.py::test_a_folder_that_others_can_write_to_is_not_searched",
            SECURITY + "test_commands.py::test_the_path_can_be_fixed",
            SECURITY + "test_commands.py::test_the_child_sees_the_safe_path_only",
        ),
    ),
    Row(
        "5.16",
        "restarts without pause",
        "upstream/supervisor.py",
        (
            PROCESSES + "16_restarts_back_off",
            "tests/sim/test_starting.py::test_a_server_that_keeps_dying_is_restarted_with_backoff_and_jitter",
        ),
    ),
    Row(
        "5.17", "the mode of a socket", "unix.py", (R + "test_unix.py::test_the_mode_is_what_was_asked_for",)
    ),
    Row(
        "5.18",
        "a socket that was left behind",
        "unix.py",
        (R + "test_unix.py::test_a_socket_left_behind_is_replaced_and_one_in_use_is_not",),
    ),
    Row("5.19", "a link where the socket should be", "unix.py", (R + "test_unix.py::test_what_is_refused",)),
    Row(
        "5.20",
        "another's socket is removed at the end",
        "unix.py",
        (R + "test_unix.py::test_only_our_own_socket_is_removed_at_the_end",),
    ),
    Row(
        "5.21",
        "who is at the other end",
        "unix.py",
        (R + "test_unix.py::test_echo_and_who_it_is", SECURITY + "test_peers.py::test_who_may_connect"),
    ),
    Row(
        "5.22",
        "paths that no socket can have",
        "listen_settings.py",
        (THREATS + "test_policy.py::test_t5_22_paths_of_sockets",),
    ),
    Row(
        "5.23",
        "abstract sockets",
        "listen_settings.py",
        (THREATS + "test_policy.py::test_t5_23_abstract_sockets",),
    ),
    Row(
        "5.24",
        "sockets that systemd hands over",
        "systemd.py",
        (
            R + "test_systemd.py::test_sockets_by_name",
            R + "test_systemd.py::test_sockets_that_cannot_be_used",
            R + "test_systemd.py::test_variables_for_another_process_are_not_ours",
            R + "test_systemd.py::test_ready_reloading_and_stopping",
            R + "test_systemd.py::test_the_watchdog_is_fed",
        ),
    ),
    Row(
        "5.25",
        "config files that others can write or read",
        "files.py config_file.py",
        (
            CLI + "test_config_file.py::test_a_config_that_others_can_change_is_refused",
            SECURITY + "test_files.py::test_modes",
            SECURITY + "test_files.py::test_links",
            SECURITY + "test_files.py::test_folders",
        ),
    ),
    Row(
        "5.26",
        "core dumps and debuggers",
        "privileges.py",
        (R + "test_privileges.py::test_memory_is_hidden_once_there_are_secrets",),
    ),
    Row(
        "5.27", "children that take everything", "process.py", (R + "test_children.py::test_pin_and_limits",)
    ),
]
