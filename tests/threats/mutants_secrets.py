"""More of `mutants.py`: what must not come out.

Owns: as there. Must never: as there.
"""

from __future__ import annotations

from tests.threats.mutants import (
    SECURITY,
    Mutant,
)

__all__ = ["SECRETS"]

PROCESS = "tests/threats/test_processes.py::test_t5_"
FILES = "runners/mcpgate/files.py"

SECRETS: list[Mutant] = [
    # -- secrets
    Mutant(
        "secret",
        "0.2",
        "secrets that stand in a config",
        "runners/mcpgate/secret_settings.py",
        "inline=Inline.ALLOW if inline else Inline.REFUSE,",
        "inline=Inline.ALLOW,",
        SECURITY + "test_inline.py::test_an_inline_secret_is_refused_by_its_key_only",
    ),
    Mutant(
        "secret",
        "0.3 5.25",
        "files of others",
        FILES,
        "    if not trust.owner(found.st_uid):\n        return [Complaint(",
        "    if False:\n        return [Complaint(",
        SECURITY + "test_files.py::test_owners",
    ),
    Mutant(
        "secret",
        "0.3 5.25",
        "files that others can read",
        FILES,
        "if privacy is not Privacy.NONE and mode & 0o077:",
        "if False:",
        SECURITY + "test_files.py::test_modes",
    ),
    Mutant(
        "secret",
        "0.3 5.25",
        "files that others can write",
        FILES,
        '    if open_to_others(found):\n        return [Complaint(f"other users can change',
        '    if False:\n        return [Complaint(f"other users can change',
        SECURITY + "test_files.py::test_modes",
    ),
    Mutant(
        "secret",
        "0.3",
        "folders that others can write",
        FILES,
        "if open_to_others(found) and not found.st_mode & stat.S_ISVTX:",
        "if False:",
        SECURITY + "test_files.py::test_folders",
    ),
    Mutant(
        "secret",
        "0.4",
        "missing variables are empty",
        "runners/mcpgate/expand.py",
        '        if value is None:\n            raise ExpandError(f"the environment',
        '        if value is None:\n            return ""\n            raise ExpandError(f"the environment',
        "tests/cli/test_secrets.py::test_a_variable_that_is_not_set_is_named_and_exits_2",
    ),
    Mutant(
        "secret",
        "0.5",
        "commands unasked",
        "runners/mcpgate/expand.py",
        "if not access.commands:",
        "if False:",
        "tests/cli/test_secrets.py::test_a_command_is_opt_in",
    ),
    Mutant(
        "secret",
        "0.8 5.1",
        "the whole environment",
        "runners/mcpgate/launch.py",
        "if k in wanted or k.startswith(ALLOWED_PREFIX)}",
        "}",
        SECURITY + "test_commands.py::test_the_environment_is_an_allow_list",
    ),
    Mutant(
        "secret",
        "0.20",
        "secrets in logs by value",
        "runners/mcpgate/redact.py",
        "        for form in self._forms:\n            if form in text:",
        "        for form in ():\n            if form in text:",
        SECURITY + "test_redact.py::test_any_secret_in_any_form",
    ),
    Mutant(
        "secret",
        "0.20",
        "secrets in logs by name",
        "runners/mcpgate/redact.py",
        "        if _named_secret((name, value)):\n            return MARK\n",
        "",
        SECURITY + "test_redact.py::test_fields_by_name",
    ),
    Mutant(
        "secret",
        "0.19",
        "secrets in recorded arguments by name",
        "runners/mcpgate/redact.py",
        "MARK if name in secret else value",
        "value",
        SECURITY + "test_redact.py::test_arguments_are_looked_into",
    ),
    Mutant(
        "secret",
        "0.20 2.17",
        "control characters in logs",
        "runners/mcpgate/logs.py",
        "    return text.translate(_UNSAFE)",
        "    return text",
        "tests/cli/test_logs.py::test_a_line_stays_one_harmless_line",
    ),
    Mutant(
        "secret",
        "0.19 5.14",
        "what a child said reaches clients",
        "mcpgate_proto/upstream/pool.py",
        'is not available", detail=told)',
        'is not available: {told}", detail=told)',
        PROCESS + "14_exit_before_the_first_answer",
    ),
    Mutant(
        "secret",
        "0.13 5.17",
        "sockets for everybody",
        "runners/mcpgate/unix.py",
        "os.chmod(name, mode, dir_fd=folder)",
        "os.chmod(name, 0o777, dir_fd=folder)",
        "tests/runner/test_unix.py::test_the_mode_is_what_was_asked_for",
    ),
]
