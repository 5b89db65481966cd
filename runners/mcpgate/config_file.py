"""A config as a file: opened safely, decoded, and judged by who else can read or change it.

Owns: the size limit, the choice between TOML and JSON, what is unsafe about the file.
Must never: know what keys mean, or show a value.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from mcpgate.fd import reason_of
from mcpgate.files import open_checked, read_most
from mcpgate.tables import Problems

__all__ = ["ConfigFile", "read_config"]

CONFIG_BYTES = 4 * 1024 * 1024
OVERRIDE = "or start with --insecure-config"


@dataclass(frozen=True)
class ConfigFile:
    """What was in a config file, and its mode when it was read."""

    path: Path
    values: Any
    mode: int

    @property
    def is_client_file(self) -> bool:
        """It is the list of servers of an MCP client, in JSON."""
        values = self.values
        return isinstance(values, dict) and (
            "mcpServers" in values or isinstance(values.get("servers"), dict)
        )

    def check_mode(self, problems: Problems, *, insecure: bool) -> None:
        """A file that holds secrets (`problems.inline`) is for its owner only.

        A client's own file is only reported: its client made it so.
        """
        if not problems.inline or not self.mode & 0o077:
            return
        problem, mend = "holds secrets, and other users can read it", f"chmod 600 {self.path}"
        if insecure or self.is_client_file:
            problems.warn("", problem, mend)
        else:
            problems.error("", problem, f"{mend}; {OVERRIDE}")


def read_config(path: Path, problems: Problems, *, insecure: bool) -> ConfigFile:
    """The file at `path`. What is wrong with it is noted, and its values are `None` then."""
    try:
        fd, complaints = open_checked(str(path), secret=False)
        for problem, mend in complaints:
            if insecure:
                problems.warn("", problem, mend)
            else:
                # Whoever can change the config can have us run anything.
                problems.error("", problem, f"{mend}; {OVERRIDE}")
        mode = os.fstat(fd).st_mode
        data = read_most(fd, CONFIG_BYTES)
    except OSError as error:
        problems.error("", f"cannot be read: {reason_of(error)}", "correct the path or its permissions")
        return ConfigFile(path, None, 0)
    if problems.errors:
        return ConfigFile(path, None, mode)
    return ConfigFile(path, _decoded(path, data, problems), mode)


def _decoded(path: Path, data: bytes, problems: Problems) -> Any:
    if len(data) > CONFIG_BYTES:
        problems.error("", f"is longer than {CONFIG_BYTES} bytes", "name the config file, not its data")
        return None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problems.error("", f"is not UTF-8 (byte {error.start})", "save it as UTF-8")
        return None
    try:
        if path.suffix == ".json" or (path.suffix != ".toml" and text.lstrip().startswith("{")):
            return msgspec.json.decode(text)
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        mend = "correct the line; texts need quotes"
        if "overwrite" in str(error) or "twice" in str(error):
            mend = "a key stands there twice, or a list of tables without its two brackets: [[server]]"
        problems.error("", f"is not TOML: {error}", mend)
    except (msgspec.DecodeError, RecursionError) as error:
        problems.error("", f"is not JSON: {error}", "correct it; JSON has no comments and no trailing commas")
    except ValueError:
        problems.error("", "holds a number that is too long", "write a shorter one")
    return None
