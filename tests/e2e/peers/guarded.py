"""A server on the official SDK, 2.x, that wants tokens, with the SDK's own authorization server beside it.

The person who logs in says yes at once: following the address is enough. Owns: the tokens, one line of JSON
on stdout for all that happens to them. Must never: accept a token for another resource.
"""

from __future__ import annotations

import argparse
import json
import secrets
import socket
import time
import warnings
from typing import Any

import anyio
import uvicorn
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import (
    AccessToken,
    AuthorizationCode,
    AuthorizationParams,
    RefreshToken,
    construct_redirect_uri,
)
from mcp.server.auth.settings import AuthSettings, ClientRegistrationOptions
from mcp.server.mcpserver import MCPServer
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken

warnings.simplefilter("ignore")
Client = OAuthClientInformationFull


def say(event: str, **facts: Any) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


class Provider:
    """Everything in memory."""

    def __init__(self, resource: str, life_s: int) -> None:
        self.resource = resource
        self.life_s = life_s
        self.clients: dict[str, Client] = {}
        self.codes: dict[str, AuthorizationCode] = {}
        self.access: dict[str, AccessToken] = {}
        self.refresh: dict[str, RefreshToken] = {}
        self.people = 0

    async def get_client(self, client_id: str) -> Client | None:
        return self.clients.get(client_id)

    async def register_client(self, client_info: Client) -> None:
        assert client_info.client_id is not None
        self.clients[client_info.client_id] = client_info
        say("registered", redirect=[str(one) for one in client_info.redirect_uris or ()])

    async def authorize(self, client: Client, params: AuthorizationParams) -> str:
        code = secrets.token_urlsafe(32)
        self.people += 1
        self.codes[code] = AuthorizationCode(
            code=code,
            scopes=params.scopes or [],
            expires_at=time.time() + 60,
            client_id=client.client_id or "",
            code_challenge=params.code_challenge,
            redirect_uri=params.redirect_uri,
            redirect_uri_provided_explicitly=params.redirect_uri_provided_explicitly,
            resource=params.resource,
            subject=f"person-{self.people}",
        )
        say("authorized", resource=params.resource, subject=f"person-{self.people}")
        return construct_redirect_uri(str(params.redirect_uri), code=code, state=params.state)

    async def load_authorization_code(
        self, client: Client, authorization_code: str
    ) -> AuthorizationCode | None:
        return self.codes.get(authorization_code)

    async def exchange_authorization_code(
        self, client: Client, authorization_code: AuthorizationCode
    ) -> OAuthToken:
        del self.codes[authorization_code.code]
        code = authorization_code
        return self._issue(client, code.scopes, code.resource, code.subject, "code")

    async def load_refresh_token(self, client: Client, refresh_token: str) -> RefreshToken | None:
        found = self.refresh.get(refresh_token)
        if found is None:
            say("refused")
        return found

    async def exchange_refresh_token(
        self, client: Client, refresh_token: RefreshToken, scopes: list[str]
    ) -> OAuthToken:
        del self.refresh[refresh_token.token]
        old = refresh_token
        return self._issue(client, scopes, old.resource, old.subject, "refresh")

    def _issue(
        self, client: Client, scopes: list[str], resource: str | None, subject: str | None, by: str
    ) -> OAuthToken:
        access, refresh = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        more: dict[str, Any] = {"client_id": client.client_id or "", "scopes": scopes, "resource": resource}
        expires = int(time.time() + self.life_s)
        self.access[access] = AccessToken(token=access, expires_at=expires, subject=subject, **more)
        self.refresh[refresh] = RefreshToken(token=refresh, subject=subject, **more)
        say("issued", by=by, resource=resource)
        return OAuthToken(
            access_token=access,
            token_type="Bearer",
            expires_in=self.life_s,
            refresh_token=refresh,
            scope=" ".join(scopes),
        )

    async def load_access_token(self, token: str) -> AccessToken | None:
        found = self.access.get(token)
        return found if found is not None and found.resource == self.resource else None

    async def revoke_token(self, token: AccessToken | RefreshToken) -> None:
        self.access.pop(token.token, None)
        self.refresh.pop(token.token, None)

    async def exchange_identity_assertion(self, client: Client, params: Any) -> OAuthToken:
        raise NotImplementedError


async def main(told: argparse.Namespace) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    base = f"http://127.0.0.1:{listener.getsockname()[1]}"
    provider = Provider(f"{base}/mcp", told.life)
    server = MCPServer(
        "guarded",
        auth_server_provider=provider,
        auth=AuthSettings(
            issuer_url=base,  # type: ignore[arg-type]
            resource_server_url=f"{base}/mcp",  # type: ignore[arg-type]
            client_registration_options=ClientRegistrationOptions(enabled=True),
            validate_token_resource=True,
        ),
    )

    @server.tool()
    def whoami() -> str:
        token = get_access_token()
        return token.subject or "nobody" if token is not None else "nobody"

    @server.tool()
    def revoke() -> str:
        """Every access token is void from now on."""
        provider.access.clear()
        return "done"

    @server.tool()
    def forget() -> str:
        """The same, and all refresh tokens too."""
        provider.access.clear()
        provider.refresh.clear()
        return "done"

    print(json.dumps({"ready": f"{base}/mcp"}), flush=True)
    config = uvicorn.Config(
        server.streamable_http_app(), log_level="warning", timeout_graceful_shutdown=0, lifespan="on"
    )
    await uvicorn.Server(config).serve(sockets=[listener])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--life", type=int, default=3600)
    anyio.run(main, parser.parse_args())
