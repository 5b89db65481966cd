"""References in settings: `${env:NAME}`, `${file:PATH}`, `${cmd:COMMAND}` and `${cred:NAME}`.

Owns: their syntax, what is done with their values, and the list of what was read, so that it can be watched.
`$${` is a literal `${`.
Must never: put an empty text in the place of what is missing, show a value in a message, or expand what an
expansion gave.
"""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mcpgate import secrets
from mcpgate.files import Complaint, Trust
from mcpgate.inline import is_plain, is_secret_name, without_scheme
from mcpgate.secrets import ExpandError
from mcpgate.watch import Signature, signature

__all__ = ["Access", "ExpandError", "Expander", "Inline"]

_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<kind>[A-Za-z_]+):(?P<what>[^}]*)\}")
# What client programs write: `${NAME}` and `${NAME:-default}`.
_CLIENT_REFERENCE = re.compile(
    r"\$\{(?:(?P<kind>[A-Za-z]+):(?P<what>[^}-][^}]*)|(?P<name>\w+)(?::-(?P<default>[^}]*))?)\}"
)
# The same in our own settings, where it is nothing but its characters.
_SHELL_REFERENCE = re.compile(r"(?<!\$)\$\{[A-Za-z_]\w*\}")


class Inline(enum.Enum):
    """What is done with a secret that stands in a config as it is."""

    REFUSE = "refuse"
    ALLOW = "allow"
    # `clients.py` has judged it: here its references are resolved already, and look like literals.
    JUDGED = "judged"


@dataclass(frozen=True)
class Access:
    """What references may do, as `[gateway]` says."""

    inline: Inline = Inline.REFUSE
    # Files and commands that other users can read or change cost a warning only.
    insecure: bool = False
    commands: bool = False
    # The whole environment of such a command.
    command_env: Mapping[str, str] | None = None
    command_timeout_s: float = 10.0
    trust: Trust = Trust()


class Expander:
    """Resolves references against an environment and a folder."""

    def __init__(self, base: Path, env: Mapping[str, str] | None = None) -> None:
        self._base = base
        self._env = os.environ if env is None else env
        self.access = Access()
        # Every secret seen, for the redaction of logs.
        self.secrets: list[str] = []
        # Every file read, and what it looked like before.
        self.files: dict[str, Signature] = {}
        # What is unsafe about what was read, until somebody takes it away.
        self.complaints: list[Complaint] = []
        self._printed: dict[str, str] = {}

    @staticmethod
    def literal(text: str) -> str:
        """The parts of `text` that stand in the config as they are."""
        return _REFERENCE.sub(lambda match: "${" if match["kind"] is None else "", text)

    @staticmethod
    def is_reference(text: str) -> bool:
        """Whether any part of `text` comes from elsewhere."""
        return any(match["kind"] is not None for match in _REFERENCE.finditer(text))

    @staticmethod
    def is_client_reference(text: str) -> bool:
        """The same for the spelling that client programs use."""
        return _CLIENT_REFERENCE.search(text) is not None

    @staticmethod
    def unread(text: str) -> str:
        """What is written like a variable elsewhere and is plain text here: `${NAME}`; or nothing."""
        found = _SHELL_REFERENCE.search(text)
        return found[0] if found is not None else ""

    def keep_secret(self, value: str) -> None:
        """`value` must not be seen in any log; of a header, what follows the scheme."""
        value = without_scheme(value)
        if value and value not in self.secrets:
            self.secrets.append(value)

    def expand(self, text: str) -> str:
        """`text` with every reference resolved. Raises `ExpandError`."""
        return _REFERENCE.sub(self._one, text) if "${" in text else text

    def expand_client(self, text: str) -> str:
        """The same for the spelling that client programs use."""
        return _CLIENT_REFERENCE.sub(self._one_client, text) if "${" in text else text

    def _one(self, match: re.Match[str]) -> str:
        if match["kind"] is None:
            return "${"
        return self._resolve(match["kind"], match["what"])

    def _one_client(self, match: re.Match[str]) -> str:
        if match["kind"] is not None:
            return self._resolve(match["kind"], match["what"])
        name, default = match["name"], match["default"]
        if default is not None:
            return self._env.get(name) or default
        return self._resolve("env", name)

    def _resolve(self, kind: str, what: str) -> str:
        if kind == "env":
            value = self._variable(what)
            if is_secret_name(what) or not is_plain(value):
                self.keep_secret(value)
            return value
        if kind == "file":
            value = self._file(what)
        elif kind == "cred":
            value = secrets.credential(what, self._env)
        elif kind == "cmd":
            value = self._command(what)
        elif kind == "input":
            raise ExpandError(
                f"${{input:{what}}} asks a person, and nobody is here to answer",
                "put the value into an environment variable and write ${env:NAME}",
            )
        else:
            mend = "use ${env:NAME}, ${file:PATH}, ${cmd:COMMAND} or ${cred:NAME}; $${ is a plain ${"
            raise ExpandError(f"${{{kind}:...}} is not known", mend)
        self.keep_secret(value)
        return value

    def _variable(self, name: str) -> str:
        value = self._env.get(name)
        if value is None:
            raise ExpandError(f"the environment variable {name} is not set", f"set {name} before the start")
        return value

    def _file(self, name: str) -> str:
        path = str(self._base / os.path.expanduser(name))
        self.files.setdefault(path, signature(path))
        value, complaints = secrets.file_text(path, self.access.trust)
        self._complain(complaints)
        return value

    def _command(self, text: str) -> str:
        access = self.access
        if not access.commands:
            mend = "set [gateway] allow_commands = true if the config is to run commands"
            raise ExpandError("${cmd:...} is not allowed", mend)
        if text not in self._printed:
            env = access.command_env if access.command_env is not None else self._env
            argv, complaints = secrets.command_line(text, env, self._base, access.trust)
            self._complain(complaints)
            self._printed[text] = secrets.command_output(argv, env, access.command_timeout_s)
        return self._printed[text]

    def _complain(self, complaints: list[Complaint]) -> None:
        if complaints and not self.access.insecure:
            first = complaints[0]
            raise ExpandError(first.problem, f"{first.mend}; or set [gateway] insecure_files = true")
        self.complaints += complaints
