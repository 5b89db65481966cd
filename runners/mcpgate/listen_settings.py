"""`[[listen]]` tables: where clients come in.

Owns: what the keys of a listener mean, which of them go together, and the first look at its files.
Must never: open a listener, or accept a setting that would let in everybody unasked.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcpgate.auth_settings import AUTH_KEYS, check_reach, read_listener_auth
from mcpgate.fd import UNIX_PATH_BYTES, Unusable
from mcpgate.monitor_settings import read_listener_monitor
from mcpgate.place_settings import check_key, read_place
from mcpgate.rate_settings import NETWORK_KEYS, read_networks
from mcpgate.tables import Problems, Table, path_problem
from mcpgate_proto.config import AuthConfig, ListenConfig
from mcpgate_proto.effects import ServerTls
from mcpgate_proto.security.door import host_entry_problem, origin_entry_problem

__all__ = ["DEFAULT_PORT", "absolute", "default_listener", "read_listener", "socket_problem"]

DEFAULT_PORT = 8080
KINDS = ("http", "stdio", "unix")
TLS_KEYS = ("tls_cert", "tls_key", "tls_client_ca", "tls_require_client")
# Keys that say something to other kinds only: most likely `kind` itself is wrong.
HTTP_KEYS = (
    *("host", "port", "path", "websocket", "sse", "sse_path", "messages_path", *TLS_KEYS),
    *("allowed_hosts", "allowed_origins", "behind_proxy", "monitor", *NETWORK_KEYS),
)
SOCKET_KEYS = ("socket_path", "socket_mode", "socket_owner", "socket_group")
OUT_OF_PLACE = {
    "stdio": (*HTTP_KEYS, *SOCKET_KEYS, *AUTH_KEYS),
    "unix": (*HTTP_KEYS, "client_subjects"),
    "http": (),
}


def default_listener() -> ListenConfig:
    return ListenConfig(name="http", port=DEFAULT_PORT)


def absolute(base: Path, name: str) -> str:
    return os.path.abspath(base / os.path.expanduser(name))


def socket_problem(path: str) -> str:
    """Why no socket can be at `path`, or nothing."""
    if path.startswith("@") or "\0" in path:
        return "is an abstract socket, which has no permissions"
    if len(os.fsencode(path)) > UNIX_PATH_BYTES:
        return f"is longer than the {UNIX_PATH_BYTES} bytes that the path of a socket can have"
    return ""


def read_listener(
    table: Table, problems: Problems, number: int, base: Path, env: Mapping[str, str], auth: AuthConfig
) -> ListenConfig:
    """One listener; what is wrong with it is noted. `auth`: with what clients can authenticate."""
    # Both words are in use for it.
    kind = table.text("kind" if "kind" in table.values else "transport", "http", KINDS)
    table.known += ["kind"]
    name = table.text("name") or (kind if number == 0 else f"{kind}-{number + 1}")
    listener = ListenConfig(
        name=name,
        kind=kind,  # type: ignore[arg-type]
        host=table.text("host", "localhost"),
        port=table.whole("port", DEFAULT_PORT, most=65_535),
        socket_path=_socket_path(table, problems, kind, name, base, env),
        socket_mode=_mode(table, problems),
        path=table.text("path", "/mcp"),
        websocket=table.flag("websocket", False),
        sse=table.flag("sse", False),
        sse_path=table.text("sse_path", "/sse"),
        messages_path=table.text("messages_path", "/messages"),
        tls=_tls(table, problems, base),
        allowed_hosts=table.texts("allowed_hosts"),
        allowed_origins=table.texts("allowed_origins"),
        behind_proxy=table.flag("behind_proxy", False),
        **read_listener_auth(table, problems),
    )
    listener = read_listener_monitor(table, read_networks(table, read_place(table, listener)))
    table.finish()
    _check(table, problems, listener)
    check_reach(table, problems, listener, auth)
    return listener


def _check(table: Table, problems: Problems, listener: ListenConfig) -> None:
    """What goes together."""
    for key in OUT_OF_PLACE[listener.kind]:
        if key in table.values:
            problems.error(
                table.key(key),
                f"means nothing for kind {listener.kind}",
                'write kind = "http", or remove the key',
            )
    paths = {"path": listener.path}
    if listener.sse:
        paths |= {"sse_path": listener.sse_path, "messages_path": listener.messages_path}
    for key, path in paths.items():
        if problem := path_problem(path):
            problems.error(table.key(key), *problem)
        elif list(paths.values()).count(path) > 1:
            problems.error(table.key(key), "is the path of something else too", "give each its own")
    for number, entry in enumerate(listener.allowed_hosts):
        if must := host_entry_problem(entry):
            problems.error(f"{table.key('allowed_hosts')}[{number}]", "lets nobody in", f"it {must}")
    for number, entry in enumerate(listener.allowed_origins):
        if must := origin_entry_problem(entry):
            problems.error(f"{table.key('allowed_origins')}[{number}]", "lets nobody in", f"it {must}")
    if listener.kind == "http" and listener.socket_path:
        for key in ("host", "port"):
            if key in table.values:
                problems.error(table.key(key), "goes with an address, not with a socket_path", "keep one")


# -- sockets


def _socket_path(
    table: Table, problems: Problems, kind: str, name: str, base: Path, env: Mapping[str, str]
) -> str:
    given = table.text("socket_path")
    if not given:
        if kind != "unix" or "fd" in table.values:
            return ""
        runtime = env.get("XDG_RUNTIME_DIR", "")
        if not os.path.isabs(runtime):
            problems.error(
                table.key("socket_path"),
                "is missing, and XDG_RUNTIME_DIR is not set",
                'write socket_path = "/path/of/the.sock"',
            )
            return ""
        # The folder is made when the listener is opened, for its owner only.
        given = os.path.join(runtime, "mcpgate", f"{name}.sock")
    full = given if given.startswith(("@", "\0")) else absolute(base, given)
    if problem := socket_problem(full):
        problems.error(table.key("socket_path"), problem, "name a file with a shorter path")
    return full


def _mode(table: Table, problems: Problems) -> int:
    """`0o660`, or the text "0660" for those who think of chmod."""
    key = table.key("socket_mode")
    value: Any = table.values.get("socket_mode", 0o600)
    if isinstance(value, str):
        table.known.append("socket_mode")
        try:
            mode = int(value, 8)
        except ValueError:
            mode = -1
    else:
        mode = table.whole("socket_mode", 0o600)
    if not 0 <= mode <= 0o777 or mode & 0o600 != 0o600:
        # 660 without its prefix is 1224 in octal.
        problems.error(key, "is not the mode of a socket", "write it in octal, as 0o600 or 0o660")
        return 0o600
    if mode & 0o002:
        problems.warn(key, "every user of this machine may connect", "write 0o600, or 0o660 for a group")
    return mode


# -- TLS


def _tls(table: Table, problems: Problems, base: Path) -> ServerTls | None:
    certificate, key = table.text("tls_cert"), table.text("tls_key")
    authority = table.text("tls_client_ca")
    require = table.flag("tls_require_client", False)
    if not any(name in table.values for name in TLS_KEYS):
        return None
    for name, value in (("tls_cert", certificate), ("tls_key", key)):
        if not value:
            problems.error(table.key(name), "is missing", f'write {name} = "file.pem"; TLS needs both')
    if require and not authority:
        mend = 'write tls_client_ca = "ca.pem": whose certificates are accepted'
        problems.error(table.key("tls_require_client"), "needs a tls_client_ca", mend)
    if not (certificate and key) or (require and not authority):
        return None
    tls = ServerTls(
        cert_file=absolute(base, certificate),
        key_file=absolute(base, key),
        client_ca_file=absolute(base, authority) if authority else None,
        require_client=require,
    )
    _check_files(table, problems, tls)
    return tls


def _check_files(table: Table, problems: Problems, tls: ServerTls) -> None:
    from mcpgate.tls import server_context

    try:
        server_context(tls)
    except Unusable as error:
        problems.error(table.key("tls_cert"), str(error), "name a certificate chain and its key, in PEM")
        return
    check_key(table, "tls_key", tls.key_file)
