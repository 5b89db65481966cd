"""`mcpgate login` and `mcpgate logout`, and what `connect` has in common with them.

Owns: the options of a login, who logs in for whom, how a person hears of it.
Must never: show a token, or log in for anybody but the principal that was named.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from mcpgate import __version__
from mcpgate.cli_parts import EXIT_FAILURE, check_text, config_option, fail, login_options, settings_of

if TYPE_CHECKING:
    from mcpgate_proto.config import GatewayConfig, OAuthConfig, ServerConfig
    from mcpgate_proto.effects import Record

__all__ = ["browse_with", "login", "logout", "remote_server"]

# Records that tell how a login ended.
ENDS = {
    "login_done": "logged in",
    "login_unneeded": "no login is needed",
    "login_failed": "the login failed",
    "login_impossible": "nobody can log in there",
}
# Beyond what the gateway itself waits for a person.
PATIENCE_S = 660.0
# Options of a login that are keys of `[server.oauth]` too.
OAUTH_OPTIONS = ("client_id", "client_secret", "client_metadata_url", "issuer", "callback_port")


def remote_server(
    url: str,
    headers: dict[str, str],
    ca_file: str | None,
    era: str,
    options: dict[str, Any] | None = None,
) -> ServerConfig:
    """The server at `url`, with logins unless a header is the credential already; click's exceptions for what
    cannot be used."""
    from mcpgate.settings import SCHEMES, url_problem
    from mcpgate.upstream_auth_settings import plain_http_problem
    from mcpgate_proto.config import ServerConfig

    given = options or {}
    transport = "websocket" if url.startswith(("ws://", "wss://")) else "http"
    if problem := url_problem(url, SCHEMES[transport]):
        raise fail(f"the URL {problem}", "write it as https://host/path, or wss://host/path")
    allow = bool(given.get("allow_plain_http"))
    if not allow and (problem := plain_http_problem(url)):
        raise fail(f"the URL {problem}", "use TLS, or add --allow-plain-http if the network is your own")
    has_own = any(name.lower() == "authorization" for name in headers)
    return ServerConfig(
        name="remote",
        transport=transport,  # type: ignore[arg-type]
        url=url,
        allow_plain_http=allow,
        headers=headers,
        oauth=None if has_own or transport == "websocket" else _oauth(given, url),
        ca_file=ca_file,
        era=era,  # type: ignore[arg-type]
    )


def _oauth(given: dict[str, Any], url: str) -> OAuthConfig:
    """What the options say of a login, judged as `[server.oauth]` in a config is."""
    from mcpgate.expand import Expander
    from mcpgate.tables import Problems, Table
    from mcpgate.upstream_auth_settings import read_oauth

    values = {name: given[name] for name in OAUTH_OPTIONS if given.get(name)}
    for name, value in values.items():
        check_text(_option(name), str(value))
    if "client_secret" in values and not Expander.is_reference(values["client_secret"]):
        raise fail("--client-secret: everybody can see what stands in a command", "write '${env:NAME}'")
    if scopes := given.get("scopes"):
        check_text("--scope", "".join(scopes))
        values["scopes"] = list(scopes)
    problems = Problems("")
    base = Path.cwd()
    server = Table({"oauth": values}, "", problems, Expander(base))
    found = read_oauth(server, "http", url, base)
    for problem in problems.errors:
        raise fail(f"{_option(problem.key.removeprefix('oauth.'))} {problem.problem}", problem.mend)
    assert found is not None
    return found


def _option(name: str) -> str:
    return "--scope" if name.startswith("scopes") else f"--{name.replace('_', '-')}"


def browse_with(no_browser: bool) -> Callable[[str, str], None]:
    from mcpgate.logins import open_browser, show

    return show if no_browser else open_browser


# -- the commands

_principal = click.option(
    "--principal", metavar="ID", help="For whom; the person at this machine if not said."
)


def _server_of(
    where: str, config: Path | None, options: dict[str, Any]
) -> tuple[ServerConfig, GatewayConfig]:
    """The server that is meant, and the config it is in."""
    from mcpgate_proto.config import GatewayConfig

    if "://" in where:
        if config is not None:
            raise fail(
                "both a URL and -c are given", "name the server by its name in the config, or by its URL"
            )
        server = remote_server(where, {}, None, "auto", options)
        return server, GatewayConfig(servers=(server,), transparent=True, version=__version__)
    for name in (*OAUTH_OPTIONS, "scopes", "allow_plain_http"):
        if options.get(name):
            raise fail(f"{_option(name)} is for a URL", f"write it into the config of {where!r}")
    whole = settings_of(config).gateway
    found = next((one for one in whole.servers if one.name == where), None)
    if found is None:
        names = ", ".join(one.name for one in whole.servers)
        raise fail(f"there is no server {where!r} in the config", f"choose one of: {names}; or give a URL")
    if found.oauth is None or found.oauth.grant != "authorization_code":
        raise fail(f"server {where!r} has no logins", "add [server.oauth] to it")
    return found, whole


def _principal_of(server: ServerConfig, told: str | None) -> str:
    from mcpgate_proto.security.principal import LOCAL
    from mcpgate_proto.upstream.credentials import EVERYBODY

    if server.isolation == "shared":
        if told:
            raise fail("--principal: all principals share this server", "leave it out")
        return EVERYBODY
    check_text("--principal", told or "")
    return told or LOCAL.id


@click.command()
@config_option
@_principal
@login_options
@click.argument("server")
def login(server: str, config: Path | None, principal: str | None, **options: Any) -> int:
    """Log in to SERVER, the name of one in the config or a URL.

    The tokens are kept in $XDG_STATE_HOME/mcpgate (~/.local/state/mcpgate), for `serve`, `connect` and all
    else that runs as you. A gateway that is running finds them by itself.
    """
    from mcpgate.logs import escaped

    meant, whole = _server_of(server, config, options)
    whose = _principal_of(meant, principal)
    quiet = msgspec.structs.replace(meant, enabled=False)  # nothing but the login is to be done there
    alone = msgspec.structs.replace(
        whole, servers=(quiet,), listeners=(), attended=True, rules=(), pins="off", pinned=()
    )
    ended = _run(alone, meant.name, whose, browse_with(bool(options.get("no_browser"))))
    if ended is None:
        raise fail("the login did not come to an end", code=EXIT_FAILURE)
    fields = dict(ended.fields)
    told = ENDS[ended.event]
    if ended.event not in ("login_done", "login_unneeded"):
        why = escaped(str(fields.get("reason") or "the log says why"))
        raise fail(f"{told}: {why}", code=EXIT_FAILURE)
    click.echo(f"{server}: {told}" + (f" ({fields['issuer']})" if "issuer" in fields else ""))
    return 0


def _run(
    config: GatewayConfig, server: str, principal: str, browse: Callable[[str, str], None]
) -> Record | None:
    """One gateway for one login; the record that tells how it ended."""
    from mcpgate.control import Control, Options
    from mcpgate.life import new_gateway, run_gateway
    from mcpgate.logs import text_sink

    control = Control()
    ended: list[Record] = []
    log = text_sink()

    def sink(record: Record) -> None:
        if record.event in ENDS:
            ended.append(record)
            control.stop(0.0)
        elif record.level in ("error", "critical") or record.event == "logins_not_stored":
            log(record)

    def ready(addresses: object) -> None:
        control.call(lambda body: body.tell(body.gateway.login, server, principal))
        control.call(lambda body: body.loop.later(PATIENCE_S, lambda: control.stop(0.0)))

    options = Options(sink=sink, control=control, ready=ready, browse=browse, own_process=True)
    run_gateway(new_gateway(config), "asyncio", options)
    return ended[0] if ended else None


@click.command()
@config_option
@_principal
@click.option("--allow-plain-http", is_flag=True, hidden=True)
@click.argument("server")
def logout(server: str, config: Path | None, principal: str | None, **options: Any) -> int:
    """Forget the tokens of SERVER, the name of one in the config or a URL.

    A gateway that is running keeps the token that it has until that expires.
    """
    from mcpgate.fd import reason_of
    from mcpgate.tokens import TokenStore, Unsafe, default_folder
    from mcpgate_proto.upstream.oauth import canonical
    from mcpgate_proto.upstream.token_record import record_name

    meant, _ = _server_of(server, config, options)
    whose = _principal_of(meant, principal)
    name = record_name(whose, canonical(meant.url))
    store = TokenStore(default_folder())
    try:
        if not store.lock(name):
            raise fail("another mcpgate is using the login just now", "try again", code=EXIT_FAILURE)
        known = bool(store.read(name))
        store.write(name, b"")
    except OSError as error:
        told = f"cannot use {store.folder}: {reason_of(error)}"
        if isinstance(error, Unsafe):  # whose text has all that is needed
            told = str(error.strerror)
        raise fail(told, code=EXIT_FAILURE) from None
    finally:
        store.close()
    click.echo(f"{server}: {'logged out' if known else 'there was no login'}")
    return 0
