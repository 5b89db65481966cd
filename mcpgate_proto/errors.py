"""How the core and the program speak of misuse.

Owns: `LocalProtocolError` (the runner misused the core), `RemoteProtocolError` (a peer did; used inside the
core only) and `ConfigError` (a setting cannot be used).
Must never: let a `RemoteProtocolError` escape from a public method of `Gateway`.
"""

from __future__ import annotations

__all__ = ["ConfigError", "LocalProtocolError", "ProtocolError", "RemoteProtocolError"]


class ProtocolError(Exception):
    """Base of the protocol errors."""


class LocalProtocolError(ProtocolError):
    """The runner broke the contract at the top of `gateway.py`. A bug in the runner, never in a peer."""


class RemoteProtocolError(ProtocolError):
    """A peer broke its protocol. The text is ours (never a third party's) and fit for a log line."""


class ConfigError(ValueError):
    """A setting that cannot be used. `key` is its path (`server.files.command`), `mend` what to do."""

    def __init__(self, key: str, problem: str, mend: str) -> None:
        super().__init__(f"{key}: {problem} ({mend})")
        self.key = key
        self.problem = problem
        self.mend = mend
