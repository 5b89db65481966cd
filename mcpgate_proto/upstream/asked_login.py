"""A login that somebody asked for by command (`mcpgate login`).

Owns: one question to the server, so that it says what it wants, and the record of how that went where the
wallet itself has nothing to tell. Must never: use what is stored.
"""

from __future__ import annotations

from mcpgate_proto.hub import Hub
from mcpgate_proto.upstream.credentials import Credentials
from mcpgate_proto.upstream.links import LinkMaker
from mcpgate_proto.upstream.login_wallet import LoginWallet
from mcpgate_proto.upstream.probe import Finding, Probe

__all__ = ["log_in"]


def log_in(hub: Hub, server: str, credentials: Credentials, links: LinkMaker, principal: str) -> None:
    """Have somebody log in for `principal`; one of the records `login_*` tells how it went."""
    wallet = credentials.wallet(principal)

    def told(found: Finding) -> None:
        if found.link is not None:
            found.link.stop()
        if isinstance(wallet, LoginWallet) and (wallet.working or not wallet.forced):
            return  # the wallet tells
        event = "login_unneeded" if found.era is not None else "login_failed"
        reason = found.reason or "the server did not ask for one"
        hub.emit("notice", event, server=server, principal=principal, reason=reason)

    if isinstance(wallet, LoginWallet):
        wallet.force()
        Probe(hub, links.make(principal), told).start()
    else:
        told(Finding(None, None, "it has no oauth with the grant authorization_code"))
