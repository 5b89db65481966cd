"""A run as a service: whose rights it has, which secrets it knows, and what the service manager hears.

Owns: the refusal to start as root for other machines, what is done once listeners are bound, reading the
settings again, and the order of all that.
Must never: know what the gateway does with its settings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcpgate import systemd
from mcpgate.privileges import become, forbid_new_privileges, hide_memory, root_problem
from mcpgate.process_settings import ProcessSettings
from mcpgate.redact import Redactor, secrets_of
from mcpgate.watch import Watch
from mcpgate_proto.config import GatewayConfig
from mcpgate_proto.effects import Record

if TYPE_CHECKING:
    from mcpgate.body import Body
    from mcpgate.settings import Settings

__all__ = ["Rights", "Service"]

ROOT_MEND = "write [gateway] user, or start it as a user of its own"


@dataclass(frozen=True)
class Rights:
    """What whoever starts it lets pass."""

    # Serve other machines as root.
    root: bool = False
    # Use files that others can read or change.
    insecure: bool = False


class Service:
    """One run of the program. `settings` are those of a config file, if there is one."""

    def __init__(self, config: GatewayConfig, settings: Settings | None, rights: Rights) -> None:
        self._config = config
        self._settings = settings
        self._rights = rights
        self._processes = settings.processes if settings is not None else ProcessSettings()
        secrets = settings.secrets if settings is not None else ()
        self._secrets = (*secrets, *secrets_of(config))
        self.redactor = Redactor(self._secrets)
        self._watch = Watch(settings.secret_files.items() if settings is not None else ())

    # -- before

    def root_refusal(self) -> str:
        """Why it must not start, with the mend, or nothing."""
        problem, exposed = self._root_problem()
        mend = f"\n    mend: {ROOT_MEND}, or add --allow-root"
        return problem + mend if exposed and not self._rights.root else ""

    def root_warning(self) -> str:
        problem, _ = self._root_problem()
        return f"warning: {problem}\n    mend: {ROOT_MEND}" if problem else ""

    def _root_problem(self) -> tuple[str, bool]:
        return root_problem(self._config.listeners, self._processes.account)

    # -- while it runs

    def bound(self) -> None:
        """Listeners are bound: give up what is not needed any more. Raises `PrivilegeError`."""
        if self._processes.account is not None:
            become(self._processes.account)
        _hide(self._config, self._secrets)
        if self._processes.no_new_privs:
            forbid_new_privileges()

    def ready(self) -> None:
        systemd.notify("READY=1")

    def stopping(self) -> None:
        systemd.notify("STOPPING=1")

    @property
    def chores(self) -> tuple[tuple[float, Callable[[Body], None]], ...]:
        chores: list[tuple[float, Callable[[Body], None]]] = []
        if self._settings is not None:
            chores.append((Watch.EVERY_S, self._look))
        if (every_s := systemd.watchdog_s()) is not None:
            chores.append((every_s, lambda body: systemd.notify("WATCHDOG=1")))
        return tuple(chores)

    def _look(self, body: Body) -> None:
        if self._watch.changed():
            body.reload()

    def reload(self, sink: Callable[[Record], None]) -> GatewayConfig | None:
        """The settings read again; a bad file leaves the old ones and says why. Runs in a thread."""
        from mcpgate.settings import SettingsError, load

        assert self._settings is not None and self._settings.path is not None
        systemd.notify_reloading()
        try:
            settings = load(self._settings.path, insecure=self._rights.insecure)
        except SettingsError as error:
            for problem in error.problems:
                fields = (("file", problem.file), ("key", problem.key), ("problem", problem.problem))
                sink(Record("error", "config_not_reloaded", fields))
            return None
        finally:
            systemd.notify("READY=1")
        secrets = (*settings.secrets, *secrets_of(settings.gateway))
        self.redactor.learn(secrets)
        _hide(settings.gateway, secrets)
        self._watch.follow(settings.secret_files.items())
        return settings.gateway


def _hide(config: GatewayConfig, secrets: tuple[str, ...]) -> None:
    """Hide the memory, if there is something in it to hide: the keys of certificates among it."""
    if secrets or any(listener.tls is not None for listener in config.listeners):
        hide_memory()
