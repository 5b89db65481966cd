"""The checks of `mcpgate doctor`, each a function from facts to findings.

Owns: what is looked at, and the words and mends. The facts are gathered in one place, so that a check is
pure and its words can be tested for any machine.
Must never: repeat a secret, or call something good that was not looked at.
"""

from __future__ import annotations

import datetime
import os
import platform
import resource
import ssl
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import NamedTuple

from mcpgate.auth_settings import is_networked
from mcpgate.cli_parts import is_insecure
from mcpgate.fd import reason_of
from mcpgate.files import open_to_others
from mcpgate.privileges import unreadable
from mcpgate.settings import Settings, SettingsError, find_config, load
from mcpgate.tables import Problem
from mcpgate_proto.config import ListenConfig
from mcpgate_proto.security.gate import requires
from mcpgate_proto.security.rate import is_exposed

__all__ = ["CHECKS", "Facts", "Finding", "Verdict"]

# When security fixes end (PEP 664, 693, 719, 745).
PYTHON_ENDS = {
    (3, 11): datetime.date(2027, 10, 31),
    (3, 12): datetime.date(2028, 10, 31),
    (3, 13): datetime.date(2029, 10, 31),
    (3, 14): datetime.date(2030, 10, 31),
}
SOON = datetime.timedelta(days=180)
# Below these, known holes: h11 CVE-2025-43859; cryptography's bundled OpenSSL, CVE-2024-12797.
LEAST_VERSIONS = {"h11": (0, 16, 0), "cryptography": (44, 0, 1)}
# Descriptors beyond those of connections: listeners, children (three each), files.
SPARE_FILES = 256


class Verdict(Enum):
    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"


class Finding(NamedTuple):
    """One line: which check, its verdict, what was found, and how to mend it."""

    check: str
    verdict: Verdict
    found: str
    mend: str = ""


def passed(check: str, found: str) -> Finding:
    return Finding(check, Verdict.PASS, found)


def warned(check: str, found: str, mend: str) -> Finding:
    return Finding(check, Verdict.WARN, found, mend)


def failed(check: str, found: str, mend: str) -> Finding:
    return Finding(check, Verdict.FAIL, found, mend)


@dataclass(frozen=True)
class Facts:
    """All that the checks look at. `settings` is None when the config cannot be used."""

    settings: Settings | None = None
    problems: tuple[Problem, ...] = ()
    uid: int = 1000
    system: str = "Linux"
    python: tuple[int, int, int] = (3, 13, 0)
    today: datetime.date = datetime.date(2026, 1, 1)
    versions: dict[str, str] = field(default_factory=dict)
    openssl: tuple[int, ...] = (3, 0, 0)
    open_files: int = 65536
    # A file of Python or mcpgate that [gateway] user could not read.
    unreadable: str = ""

    @classmethod
    def gather(cls, config: Path | None) -> Facts:
        """Look at this machine, and read the config at `config` or in the usual places."""
        settings, problems = None, []
        try:
            settings = load(config or find_config(), insecure=is_insecure())
        except SettingsError as error:
            problems = error.problems
        account = settings.processes.account if settings is not None else None
        versions = {}
        for name in (*LEAST_VERSIONS, "wsproto", "anyio", "msgspec", "joserfc"):
            try:
                versions[name] = version_of(name)
            except PackageNotFoundError:
                versions[name] = ""
        return cls(
            settings=settings,
            problems=tuple(problems),
            uid=os.geteuid(),
            system=platform.system(),
            python=sys.version_info[:3],
            today=datetime.date.today(),
            versions=versions,
            openssl=ssl.OPENSSL_VERSION_INFO,
            open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            unreadable=unreadable(account) if account is not None else "",
        )

    @property
    def listeners(self) -> tuple[ListenConfig, ...]:
        return self.settings.gateway.listeners if self.settings is not None else ()

    @property
    def exposed(self) -> list[ListenConfig]:
        """The listeners that other machines can reach."""
        return list(filter(is_networked, self.listeners))

    @property
    def serves_others(self) -> bool:
        """Whether callers come from beyond this machine, if only through a proxy."""
        return any(is_exposed(one) for one in self.listeners)


Check = Callable[[Facts], Iterator[Finding]]


def config_reads(facts: Facts) -> Iterator[Finding]:
    for problem in facts.problems:
        where = f"{problem.file}: {problem.key}" if problem.key else problem.file
        yield failed("config", f"{where}: {problem.problem}", problem.mend)
    if facts.settings is not None:
        servers = facts.settings.gateway.servers
        yield passed("config", f"{facts.settings.path} is good; {len(servers)} server(s)")
        for warning in facts.settings.warnings:
            yield warned("config", f"{warning.key}: {warning.problem}", warning.mend)


def bind_address(facts: Facts) -> Iterator[Finding]:
    exposed = facts.exposed
    for one in exposed:
        if one.behind_proxy:
            yield warned(
                "bind",
                f"listener {one.name}: {one.host} can be reached by other machines, not only by the proxy",
                "let a firewall admit the proxy alone, or listen on a loopback address or a Unix socket",
            )
        else:
            yield warned(
                "bind",
                f"listener {one.name}: {one.host} can be reached by other machines",
                "let a firewall admit those who need it, and set allow_cidrs",
            )
    if facts.listeners and not exposed:
        yield passed("bind", "no other machine can reach a listener")


def transport_security(facts: Facts) -> Iterator[Finding]:
    for one in facts.exposed:
        if one.tls is not None:
            yield passed("tls", f"listener {one.name} has TLS")
        elif one.behind_proxy:
            yield warned(
                "tls",
                f"listener {one.name}: between the proxy and here everybody on the way can read",
                "use a loopback address or a Unix socket, or set tls_cert and tls_key",
            )
        else:
            yield failed("tls", f"listener {one.name} has no TLS", "set tls_cert and tls_key")


def authentication(facts: Facts) -> Iterator[Finding]:
    if facts.settings is None:
        return
    auth = facts.settings.gateway.auth
    for one in facts.listeners:
        if one.kind != "http":
            continue
        if requires(one, auth):
            yield passed("auth", f"listener {one.name} asks who calls")
        elif is_exposed(one):
            mend = "add [[auth.key]] or [[auth.issuer]]; the proxy's word alone is as good as the way from it"
            yield warned("auth", f"listener {one.name} leaves it to the proxy who may call", mend)
        elif not one.socket_path:
            yield passed("auth", f"{one.name}: programs of this machine may call, web pages may not")


def permissions(facts: Facts) -> Iterator[Finding]:
    if facts.settings is None:
        return
    if facts.settings.processes.insecure:
        found = "who else can read or change the files in use is not looked at"
        yield failed("permissions", found, "remove insecure_files and --insecure-config")
    else:
        yield passed("permissions", "no other user can change the config, its files or the commands")


def inline_secrets(facts: Facts) -> Iterator[Finding]:
    if facts.settings is None:
        return
    count = len(facts.settings.secrets)
    if facts.settings.inline_secrets:
        mend = "write ${env:NAME} or ${file:/path} for each, and remove allow_inline_secrets"
        yield warned("secrets", "secrets may stand in the config as they are", mend)
    else:
        yield passed("secrets", f"{count} secret(s), none of them in the config itself")


def rates(facts: Facts) -> Iterator[Finding]:
    if facts.settings is None or not facts.serves_others:
        return
    told = facts.settings.gateway.rate
    off = [name for name in ("address", "principal") if (rate := getattr(told, name)) and not rate.per_s]
    if off:
        yield warned("rates", f"no limit for each {' and each '.join(off)}", "remove the 0 in [rate]")
    else:
        yield passed("rates", "requests of each address and each principal are limited")


def monitoring(facts: Facts) -> Iterator[Finding]:
    if facts.settings is None or not facts.serves_others:
        return
    kinds = {kind for one in facts.listeners for kind in one.monitor}
    missing = [kind for kind in ("health", "metrics") if kind not in kinds]
    if missing:
        mend = 'write monitor = ["health", "ready", "metrics"] for a listener'
        yield warned("monitoring", f"nobody can look at {' and '.join(missing)}", mend)
    else:
        yield passed("monitoring", "health and metrics can be looked at")
    if facts.settings.audit:
        yield passed("audit", f"who called what is recorded to {facts.settings.audit}")
    else:
        yield warned("audit", "who called what is not recorded", 'set [gateway] audit = "audit.jsonl"')


def not_root(facts: Facts) -> Iterator[Finding]:
    account = facts.settings.processes.account if facts.settings is not None else None
    if facts.uid:
        yield passed("user", f"not root (uid {facts.uid})")
    elif account is not None and facts.unreadable:
        mend = "install Python and mcpgate where every user can read them, not under /root"
        yield failed("user", f"{account.name} cannot read {facts.unreadable}", mend)
    elif account is not None:
        yield passed("user", f"root until its listeners are bound, then {account.name}")
    elif facts.exposed:
        yield failed(
            "user",
            "root, and other machines can reach it",
            "run it as a user of its own, or set [gateway] user",
        )
    else:
        yield warned(
            "user", "root: servers that it starts can do anything here", "run it as a user of its own"
        )


def python_is_current(facts: Facts) -> Iterator[Finding]:
    text = ".".join(map(str, facts.python))
    end = PYTHON_ENDS.get(facts.python[:2])
    if end is None:
        yield warned(
            "python", f"{text} is not known here", "see whether this version still gets security fixes"
        )
    elif facts.today > end:
        yield failed("python", f"{text} gets no security fixes since {end}", "install a newer Python")
    elif facts.today > end - SOON:
        yield warned("python", f"{text} gets security fixes only until {end}", "install a newer Python")
    else:
        yield passed("python", f"{text} gets security fixes until {end}")


def libraries(facts: Facts) -> Iterator[Finding]:
    good = True
    for name, least in LEAST_VERSIONS.items():
        found = facts.versions.get(name, "")
        if _numbers(found) < least:
            good = False
            wanted = ".".join(map(str, least))
            yield failed(
                "libraries",
                f"{name} {found or 'is missing'} has known holes",
                f"install {name} {wanted} or later",
            )
    if facts.openssl < (3, 0):
        good = False
        text = ".".join(map(str, facts.openssl[:3]))
        yield failed(
            "libraries", f"OpenSSL {text} gets no security fixes", "install a Python built with OpenSSL 3"
        )
    if good:
        yield passed(
            "libraries", "no version with a known hole, as of this release; `pip-audit` knows newer ones"
        )


def _numbers(text: str) -> tuple[int, ...]:
    parts = []
    for part in text.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        parts.append(int(digits))
    return tuple(parts)


def advised(facts: Facts) -> Iterator[Finding]:
    """What `mcpgate check` advises: servers whose code or traffic others can change, among it."""
    if facts.settings is None:
        return
    from mcpgate.checking import advice

    found = advice(facts.settings)
    for one in found:
        check = "servers" if one.key.startswith("server.") else "config"
        yield warned(check, f"{one.key}: {one.problem}", one.mend)
    if not any(one.key.startswith("server.") for one in found):
        yield passed("servers", "no command fetches or inlines what it runs")


def pinned(facts: Facts) -> Iterator[Finding]:
    """Whether a server that changes what its tools say of themselves is noticed."""
    if facts.settings is None:
        return
    gateway = facts.settings.gateway
    mend = "approve the definitions with `mcpgate lock`"
    names = {pin.server for pin in gateway.pinned}
    loose = [one.name for one in gateway.servers if one.enabled and one.name not in names]
    if gateway.pins == "off":
        yield warned("pins", "servers can change what their tools say of themselves, unnoticed", mend)
    elif loose and gateway.pins == "report":
        yield warned("pins", f"nothing is approved of {', '.join(loose)}", mend)
    else:
        yield passed("pins", f"definitions that were not approved: {gateway.pins}")


def sockets(facts: Facts) -> Iterator[Finding]:
    for one in facts.listeners:
        if not one.socket_path:
            continue
        folder = os.path.dirname(one.socket_path)
        try:
            found = os.stat(folder)
        except FileNotFoundError:
            yield passed("sockets", f"{folder} does not exist yet; it is made for its owner only")
            continue
        except OSError as error:
            yield failed("sockets", f"cannot look at {folder}: {reason_of(error)}", "correct socket_path")
            continue
        if not stat.S_ISDIR(found.st_mode):
            yield failed("sockets", f"{folder} is not a folder", "correct socket_path")
            continue
        shared = open_to_others(found) and not found.st_mode & stat.S_ISVTX
        if shared or found.st_uid not in (0, facts.uid):
            yield failed(
                "sockets", f"others can replace sockets in {folder}", f"chmod go-w {folder}, and own it"
            )
        else:
            yield passed("sockets", f"{one.socket_path} with mode {one.socket_mode:o}")


def open_files(facts: Facts) -> Iterator[Finding]:
    if facts.settings is None:
        return
    wanted = facts.settings.gateway.limits.connections + SPARE_FILES
    if facts.open_files < wanted:
        mend = f"raise it (ulimit -n {wanted}, LimitNOFILE={wanted}), or lower [limits] connections"
        yield warned("files", f"{facts.open_files} open files are allowed; {wanted} may be needed", mend)
    else:
        yield passed("files", f"{facts.open_files} open files are allowed")


def processes(facts: Facts) -> Iterator[Finding]:
    if facts.system == "Linux":
        yield passed("processes", "children end with the gateway, also when it is killed")
        return
    mend = "run it under a supervisor that ends the whole process group (launchd does)"
    missing = "no parent-death signal, no subreaper, no pidfd"
    yield warned("processes", f"{facts.system} has {missing}: a killed gateway may leave children", mend)


CHECKS: tuple[Check, ...] = (
    config_reads,
    permissions,
    inline_secrets,
    bind_address,
    transport_security,
    authentication,
    rates,
    not_root,
    sockets,
    advised,
    pinned,
    monitoring,
    python_is_current,
    libraries,
    open_files,
    processes,
)
