"""The documents of OAuth as an MCP client reads and writes them. Pure functions.

Owns: challenges (RFC 6750, RFC 9728), protected resource metadata, authorization server metadata (RFC 8414,
OpenID Connect Discovery) and where each is looked for (J11), the authorization request and its response
(RFC 7636, RFC 8707, RFC 9207: J12, J13), dynamic registration (RFC 7591), token responses.
Must never: take a document for that of another issuer or resource, compare by anything but exact equality
where the rules say so, or put a peer's text into a reason.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TypeAlias
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec

from mcpgate_proto.security.egress import Place, parse_url

__all__ = [
    "Authorization",
    "AuthorizationServer",
    "Challenge",
    "Registration",
    "ResourceMetadata",
    "Token",
    "authorization_url",
    "canonical",
    "challenge_of",
    "code_challenge",
    "error_of",
    "is_token",
    "metadata_urls",
    "read_callback",
    "read_metadata",
    "read_registration",
    "read_resource",
    "read_token",
    "registration_body",
    "resource_urls",
    "same_origin",
    "scopes_of",
]

# RFC 6749 appendix A.12: visible ASCII. In a header it must also hold no blank (RFC 6750 section 2.1); JWTs
# of large providers reach 4 KiB, heads end at 16.
_TOKEN = re.compile(r"[!-~]{1,8192}")
_SCOPE = re.compile(r"[!#-\[\]-~]{1,256}")
# RFC 9110 section 11.2: `name=token` or `name="text"`.
_PARAMETER = re.compile(
    r'([A-Za-z0-9_-]{1,64})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([!#$%&\'*+.^_`|~0-9A-Za-z/:=-]+))'
)
SCOPES_MOST = 64
LIST_MOST = 64
TEXT_MOST = 2048
# The codes of RFC 6749 section 4.1.2.1 and 5.2 and its companions; only these are ever repeated.
_ERRORS = frozenset(
    "access_denied invalid_client invalid_client_metadata invalid_grant invalid_redirect_uri invalid_request "
    "invalid_scope invalid_target server_error temporarily_unavailable unauthorized_client "
    "unsupported_grant_type unsupported_response_type insufficient_scope invalid_token login_required "
    "interaction_required consent_required".split()
)


class Challenge(msgspec.Struct, frozen=True):
    """What a refusal of a server says in `WWW-Authenticate: Bearer`; empty where it says nothing."""

    resource_metadata: str = ""
    scopes: tuple[str, ...] = ()
    error: str = ""


class ResourceMetadata(msgspec.Struct, frozen=True):
    """RFC 9728: for which resource tokens are, who issues them, and which scopes basic use needs."""

    resource: str
    authorization_servers: tuple[str, ...]
    # None: it says nothing of scopes.
    scopes: tuple[str, ...] | None = None


class AuthorizationServer(msgspec.Struct, frozen=True):
    """RFC 8414, as far as it is used; every URL has passed `parse_url`."""

    issuer: str
    token_endpoint: str
    authorization_endpoint: str = ""
    registration_endpoint: str = ""
    pkce: bool = False
    auth_methods: tuple[str, ...] = ("client_secret_basic",)
    scopes: tuple[str, ...] = ()
    tells_iss: bool = False
    takes_metadata_documents: bool = False


class Registration(msgspec.Struct, frozen=True):
    """Who we are to one authorization server. `method` is how that is proved at the token endpoint."""

    client_id: str
    client_secret: str = ""
    method: str = "none"
    redirect_uri: str = ""
    # Unix seconds after which `client_secret` is no longer good; 0: never.
    secret_expires_wall: float = 0.0


class Token(msgspec.Struct, frozen=True):
    """One access token. `scopes` None: as asked for."""

    access: str
    expires_in_s: float | None = None
    refresh: str = ""
    scopes: tuple[str, ...] | None = None


class Authorization(msgspec.Struct, frozen=True):
    """One authorization request, as its response has to match it."""

    issuer: str
    tells_iss: bool
    state: str
    verifier: str
    redirect_uri: str


# -- small things


def scopes_of(text: str) -> tuple[str, ...]:
    """The scopes in a blank-separated list (RFC 6749 section 3.3), each once, without what is no scope."""
    found = [scope for scope in text.split(" ") if _SCOPE.fullmatch(scope)]
    return tuple(dict.fromkeys(found))[:SCOPES_MOST]


def canonical(url: str) -> str:
    """The canonical URI of the server at `url` (J12): scheme and host in lower case, no fragment, no trailing
    slash after the host alone."""
    parts = urlsplit(url)
    authority = parts.netloc.lower()
    default = ":443" if parts.scheme == "https" else ":80"
    path = "" if parts.path == "/" and not parts.query else parts.path
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{authority.removesuffix(default)}{path}{query}"


def same_origin(url: str, other: str) -> bool:
    """Both are proper URLs of one scheme, host and port."""
    first, second = parse_url(url, allow_loopback=True), parse_url(other, allow_loopback=True)
    return isinstance(first, Place) and isinstance(second, Place) and first.origin == second.origin


def code_challenge(verifier: str) -> str:
    """RFC 7636 section 4.2, S256."""
    digest = hashlib.sha256(verifier.encode("ascii")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


Json: TypeAlias = dict[str, object]


def _object(body: bytes) -> Json:
    """The members of a JSON object; nothing for anything else. Depth is the parser's own bound."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(document: Json, name: str) -> str:
    value = document.get(name)
    return value if isinstance(value, str) and len(value) <= TEXT_MOST else ""


def _texts(document: Json, name: str) -> tuple[str, ...] | None:
    value = document.get(name)
    if not isinstance(value, list):
        return None
    return tuple(one for one in value[:LIST_MOST] if isinstance(one, str) and len(one) <= TEXT_MOST)


# -- challenges and resource metadata


def challenge_of(values: list[str]) -> Challenge:
    """The `Bearer` challenge among the values of `WWW-Authenticate`; an empty one if there is none."""
    for value in values:
        at = re.search(r"(?:^|[ \t,])bearer(?=[ \t]|$)", value, re.IGNORECASE)
        if at is None:
            continue
        found: dict[str, str] = {}
        for match in _PARAMETER.finditer(value, at.end()):
            quoted, plain = match[2], match[3]
            text = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
            found.setdefault(match[1].lower(), text)
        error = found.get("error", "")
        return Challenge(
            found.get("resource_metadata", ""),
            scopes_of(found.get("scope", "")),
            error if error in _ERRORS else "",
        )
    return Challenge()


def resource_urls(server: str, challenge: Challenge) -> list[str] | str:
    """Where the metadata of the server's resource may be, in order (J11); or why it cannot be looked for.

    A document that the challenge names must be of the server's own origin (threats.md row 40).
    """
    if challenge.resource_metadata:
        if not same_origin(challenge.resource_metadata, server):
            return "its resource_metadata is of another origin"
        return [challenge.resource_metadata]
    parts = urlsplit(server)
    root = f"{parts.scheme}://{parts.netloc}/.well-known/oauth-protected-resource"
    path = parts.path.rstrip("/")
    return [f"{root}{path}", root] if path else [root]


def read_resource(body: bytes, server: str, *, allow_loopback: bool) -> ResourceMetadata | str:
    """A protected resource metadata document for the server at `server`, or why it may not be used."""
    document = _object(body)
    resource = _text(document, "resource")
    if not _covers(resource, server):
        return "its resource metadata is for another resource"
    issuers = [
        one
        for one in _texts(document, "authorization_servers") or ()
        # RFC 8414 section 2: an issuer has no query.
        if isinstance(parse_url(one, allow_loopback=allow_loopback), Place) and "?" not in one
    ]
    if not issuers:
        return "its resource metadata names no usable authorization server"
    scopes = _texts(document, "scopes_supported")
    return ResourceMetadata(
        resource, tuple(issuers), scopes_of(" ".join(scopes)) if scopes is not None else None
    )


def _covers(resource: str, server: str) -> bool:
    """`resource` is the server, or a part of its own origin that the server's path is in."""
    if not same_origin(resource, server):
        return False
    whole, part = urlsplit(canonical(server)), urlsplit(canonical(resource))
    if part.query and part.query != whole.query:
        return False
    prefix = part.path.rstrip("/")
    return whole.path.rstrip("/") == prefix or whole.path.startswith(f"{prefix}/")


# -- authorization server metadata


def metadata_urls(issuer: str) -> list[str]:
    """Where the metadata of `issuer` may be, in the fixed order (J11)."""
    parts = urlsplit(issuer)
    root = f"{parts.scheme}://{parts.netloc}"
    path = parts.path.rstrip("/")
    found = [
        f"{root}/.well-known/{name}{path}" for name in ("oauth-authorization-server", "openid-configuration")
    ]
    if path:
        found.append(f"{root}{path}/.well-known/openid-configuration")
    return found


def read_metadata(body: bytes, issuer: str, *, allow_loopback: bool) -> AuthorizationServer | str:
    """The metadata document of `issuer`, or why it may not be used (J11, threats.md row 40).

    The issuer in the document must be the very text that was asked for: a document of another issuer would
    have us send codes and secrets to the wrong place (mix-up).
    """
    document = _object(body)
    if document.get("issuer") != issuer:
        return "the metadata of its authorization server is of another issuer"
    urls = {}
    for name in ("authorization_endpoint", "token_endpoint", "registration_endpoint"):
        url = urls[name] = _text(document, name)
        if url and isinstance(problem := parse_url(url, allow_loopback=allow_loopback), str):
            return f"the {name} of its authorization server cannot be used: {problem}"
    if not urls["token_endpoint"]:
        return "its authorization server names no token_endpoint"
    methods = _texts(document, "token_endpoint_auth_methods_supported")
    return AuthorizationServer(
        issuer=issuer,
        token_endpoint=urls["token_endpoint"],
        authorization_endpoint=urls["authorization_endpoint"],
        registration_endpoint=urls["registration_endpoint"],
        pkce="S256" in (_texts(document, "code_challenge_methods_supported") or ()),
        # RFC 8414 section 2: what it means to say nothing.
        auth_methods=methods if methods is not None else ("client_secret_basic",),
        scopes=_texts(document, "scopes_supported") or (),
        tells_iss=document.get("authorization_response_iss_parameter_supported") is True,
        takes_metadata_documents=document.get("client_id_metadata_document_supported") is True,
    )


# -- the authorization request and its response


def authorization_url(
    server: AuthorizationServer,
    request: Authorization,
    *,
    client_id: str,
    resource: str,
    scopes: tuple[str, ...],
) -> str:
    """The URL for the browser. What the endpoint's own query says is kept (RFC 6749 section 3.1)."""
    parts = urlsplit(server.authorization_endpoint)
    ours = [
        ("response_type", "code"),
        ("client_id", client_id),
        ("redirect_uri", request.redirect_uri),
        ("state", request.state),
        ("code_challenge", code_challenge(request.verifier)),
        ("code_challenge_method", "S256"),
        ("resource", resource),
    ]
    if scopes:
        ours.append(("scope", " ".join(scopes)))
    if "offline_access" in scopes:
        # OpenID Connect Core section 11: without consent asked for, the scope is ignored.
        ours.append(("prompt", "consent"))
    names = {name for name, _ in ours}
    kept = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] not in names]
    query = urlencode([*kept, *ours])
    return f"{parts.scheme}://{parts.netloc}{parts.path or '/'}?{query}"


class Refused(msgspec.Struct, frozen=True):
    """A response to our request that is no success. `reason` is our own text."""

    reason: str


def read_callback(query: str, request: Authorization) -> str | Refused | None:
    """The code in an authorization response; why there is none; or None: it is not the response to `request`,
    which is still open then.

    J13: the state first, then the issuer, also for errors, whose text is never shown.
    """
    pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=32) if query.count("&") < 32 else []
    found = dict(pairs)
    # One that is given twice is read differently by others.
    if len(found) != len(pairs) or not _equal(found.get("state", ""), request.state):
        return None
    issuer = found.get("iss")
    if issuer is None and request.tells_iss:
        return Refused("the authorization server left out its iss")
    if issuer is not None and issuer != request.issuer:
        return Refused("the answer is of another authorization server")
    if "error" in found:
        code = found["error"]
        return Refused(f"the authorization server refused: {code if code in _ERRORS else 'unknown error'}")
    code = found.get("code", "")
    if _TOKEN.fullmatch(code) is None:
        return Refused("the authorization server sent no code")
    return code


def _equal(given: str, kept: str) -> bool:
    import hmac

    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), kept.encode("ascii"))


# -- registration


def registration_body(redirect_uri: str, scopes: tuple[str, ...], method: str, version: str) -> bytes:
    """RFC 7591, for a native application (J14: `application_type` is required)."""
    document: Json = {
        "client_name": "mcpgate",
        "redirect_uris": [redirect_uri],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": method,
        "application_type": "native",
        "software_id": "mcpgate",
        "software_version": version,
    }
    if scopes:
        document["scope"] = " ".join(scopes)
    return msgspec.json.encode(document)


def read_registration(body: bytes, redirect_uri: str, method: str) -> Registration | str:
    """What a registration endpoint answered."""
    document = _object(body)
    client_id, secret = _text(document, "client_id"), _text(document, "client_secret")
    told = _text(document, "token_endpoint_auth_method") or (method if secret or method == "none" else "none")
    if not client_id or not _plain(client_id) or not _plain(secret):
        return "the registration gave no usable client_id"
    expires = document.get("client_secret_expires_at")
    until = float(expires) if isinstance(expires, int | float) and 0 < expires < 1e12 and secret else 0.0
    return Registration(client_id, secret, told, redirect_uri, until)


def _plain(text: str) -> bool:
    return all(" " <= char <= "~" for char in text)


# -- tokens


def is_token(text: str) -> bool:
    """`text` can be sent as a token."""
    return _TOKEN.fullmatch(text) is not None


def read_token(body: bytes) -> Token | str:
    """The answer of a token endpoint, or why it holds no usable token (RFC 6749 section 5.1)."""
    document = _object(body)
    access = document.get("access_token")
    if not isinstance(access, str) or _TOKEN.fullmatch(access) is None:
        return "the token endpoint gave no usable token"
    if _text(document, "token_type").lower() != "bearer":
        return "the token endpoint gave a token that is no bearer token"
    refresh = document.get("refresh_token")
    told = document.get("expires_in")
    # Some write it as a text. What is no sensible time is no time.
    if isinstance(told, str) and told.isascii() and told.isdigit() and len(told) < 12:
        told = int(told)
    lasts = float(told) if isinstance(told, int | float) and 0 <= told < 1e10 else None
    scope = document.get("scope")
    return Token(
        access,
        lasts,
        refresh if isinstance(refresh, str) and _TOKEN.fullmatch(refresh) else "",
        scopes_of(scope) if isinstance(scope, str) else None,
    )


def error_of(body: bytes) -> str:
    """The error code in the answer of a token or registration endpoint, if it is one that there is."""
    code = _text(_object(body), "error")
    return code if code in _ERRORS else ""
