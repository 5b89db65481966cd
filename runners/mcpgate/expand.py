"""References in settings: `${env:NAME}` and `${file:PATH}`.

Owns: their syntax and what they stand for. `$${` is a literal `${`.
Must never: put an empty text in the place of what is missing, show a value in a message, or expand what an
expansion gave.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

__all__ = ["ExpandError", "Expander"]

_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<kind>[A-Za-z_]+):(?P<what>[^}]*)\}")
# What client programs write: `${NAME}` and `${NAME:-default}`.
_CLIENT_REFERENCE = re.compile(
    r"\$\{(?:(?P<kind>[A-Za-z]+):(?P<what>[^}-][^}]*)|(?P<name>\w+)(?::-(?P<default>[^}]*))?)\}"
)
# A secret, not a document.
FILE_BYTES = 64 * 1024


class ExpandError(ValueError):
    """A reference that cannot be resolved. `mend` says what to do."""

    def __init__(self, problem: str, mend: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.mend = mend


class Expander:
    """Resolves references against an environment and a folder."""

    def __init__(self, base: Path, env: Mapping[str, str] | None = None) -> None:
        self._base = base
        self._env = os.environ if env is None else env

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
            value = self._env.get(what)
            if value is None:
                raise ExpandError(
                    f"the environment variable {what} is not set", f"set {what} before the start"
                )
            return value
        if kind == "file":
            return self._read(what)
        if kind == "input":
            raise ExpandError(
                f"${{input:{what}}} asks a person, and nobody is here to answer",
                "put the value into an environment variable and write ${env:NAME}",
            )
        raise ExpandError(
            f"${{{kind}:...}} is not known", "use ${env:NAME} or ${file:PATH}; $${ is a plain ${"
        )

    def _read(self, name: str) -> str:
        path = self._base / os.path.expanduser(name)
        try:
            with open(path, "rb") as file:
                data = file.read(FILE_BYTES + 1)
            text = data.decode("utf-8")
        except OSError as error:
            reason = os.strerror(error.errno).lower() if error.errno else "unreadable"
            raise ExpandError(
                f"cannot read {path}: {reason}", "correct the path or its permissions"
            ) from error
        except UnicodeDecodeError as error:
            raise ExpandError(f"{path} is not UTF-8 text", "write the value as text") from error
        if len(data) > FILE_BYTES:
            raise ExpandError(f"{path} is longer than {FILE_BYTES} bytes", "put only the value into it")
        # Editors and secret stores end files with a newline; a header or token never has one.
        return text.rstrip("\r\n")
