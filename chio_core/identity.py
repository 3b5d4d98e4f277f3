"""Extractors: from a request view to a CallerIdentity (wire protocol, section 4).

An extractor is a callable that takes a view and returns an identity, or None to let the next one try.
`first_of` composes them; `default_extractor` is the composition that the settings describe.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from chio_core.canonical import sha256_hex
from chio_core.models.request import CallerIdentity
from chio_core.names import STATE_CALLER
from chio_core.request import RequestView

_ESCAPE = re.compile(r"\\(?:([0-3][0-7][0-7])|(.))")

Extractor = Callable[[RequestView], "CallerIdentity | None"]
"""Takes a view; returns the caller's identity, or None."""


def identify(view: RequestView, extractor: Extractor) -> CallerIdentity:
    """Return the caller that a guard has verified (`JwtAuth`), else the extractor's, else the anonymous one."""
    known = getattr(view.state, STATE_CALLER, None)
    return known if isinstance(known, CallerIdentity) else extractor(view) or CallerIdentity.anonymous()


def first_of(*extractors: Extractor) -> Callable[[RequestView], CallerIdentity]:
    """Return an extractor that tries each in turn and ends with the anonymous caller."""

    def extract(view: RequestView) -> CallerIdentity:
        for extractor in extractors:
            if (found := extractor(view)) is not None:
                return found
        return CallerIdentity.anonymous()

    return extract


def default_extractor(
    api_key_header: str = "x-api-key", session_cookie: str = "session"
) -> Callable[[RequestView], CallerIdentity]:
    """Return the usual order: client certificate, bearer token, API key, session cookie, anonymous."""
    order = [("authorization", from_bearer), (api_key_header.lower(), from_api_key(api_key_header))]
    if session_cookie:
        order.append(("cookie", from_cookie(session_cookie)))
    names = frozenset(name for name, _ in order)

    def extract(view: RequestView) -> CallerIdentity:
        if (found := from_client_certificate(view)) is not None:
            return found
        if sent := view.select_headers(names):
            for name, extractor in order:
                if name in sent and (found := extractor(view)) is not None:
                    return found
        return CallerIdentity.anonymous()

    return extract


def from_bearer(view: RequestView) -> CallerIdentity | None:
    """Read `Authorization: Bearer …`: the scheme in any case, the token trimmed, an empty one ignored."""
    values = view.header_values("authorization")
    if not values or values[0][:7].lower() != "bearer ":
        return None
    token = values[0][7:].strip()
    return CallerIdentity.bearer(token) if token else None


def from_api_key(header: str) -> Extractor:
    """Return an extractor for the key in the request header `header`."""
    name = header.lower()

    def extract(view: RequestView) -> CallerIdentity | None:
        values = view.header_values(name)
        return CallerIdentity.api_key(name, values[0]) if values and values[0] else None

    return extract


def from_cookie(name: str) -> Extractor:
    """Return an extractor for the cookie `name`; of several the last counts, as in the frameworks."""

    def extract(view: RequestView) -> CallerIdentity | None:
        value = next(reversed(cookies_of(view, name)), "")
        return CallerIdentity.cookie(name, value) if value else None

    return extract


def from_session(session: Callable[[RequestView], Any], key: str, otherwise: Extractor | None = None) -> Extractor:
    """Return an extractor for the user whose name or number the application keeps in its session when it logs one in.

    The caller is then that user (`CallerIdentity.user`), whatever else of the session changes.

    Args:
        session: returns the session of a request (it has `get`), None without one, or an awaitable of it.
        key: where the session has it.
        otherwise: the extractor for a request without a user; client certificate, bearer token, API key, in this order.
    """
    fallback = otherwise or default_extractor(session_cookie="")

    def user_in(found: Any, view: RequestView) -> CallerIdentity | None:
        value = found.get(key) if found is not None else None
        return fallback(view) if value is None or value == "" else CallerIdentity.user(str(value))

    async def awaited(found: Awaitable[Any], view: RequestView) -> CallerIdentity | None:
        return user_in(await found, view)

    def extract(view: RequestView) -> Any:
        found = session(view)
        return awaited(found, view) if isinstance(found, Awaitable) else user_in(found, view)

    return extract


def cookies_of(view: RequestView, name: str) -> list[str]:
    """Return each value of the cookie `name`, in the order in which they were sent."""
    # SimpleCookie stops at the first malformed pair; frameworks do not. Split and unquote like them, or the sidecar
    # sees the anonymous caller while the application sees a session.
    values = []
    for line in view.header_values("cookie"):
        for pair in line.split(";"):
            key, equals, text = pair.partition("=")
            if not equals or key.strip() != name:
                continue
            value = text.strip()
            if len(value) >= 2 and value[0] == value[-1] == '"':
                # One pass: the standard library takes quadratic time on backslashes before Python 3.11.10 and 3.12.6
                # (CVE-2024-7592).
                value = _ESCAPE.sub(lambda found: chr(int(found[1], 8)) if found[1] else found[2], value[1:-1])
            values.append(value)
    return values


def from_client_certificate(view: RequestView) -> CallerIdentity | None:
    """Read the certificate that the server verified, from the ASGI TLS extension.

    The extension holds `client_cert_name` (an RFC 4514 distinguished name) and `client_cert_chain` (PEM, leaf
    first); `client_cert_error` means that the certificate was not verified. The fingerprint is SHA-256 over the
    leaf's DER.
    """
    # What Django and Flask call a scope names the route too, which takes long to find: they have a way around it.
    stated: Callable[[], Mapping[str, Any]] | None = getattr(view, "tls", None)
    tls = ((view.scope if stated is None else stated()).get("extensions") or {}).get("tls")
    if not isinstance(tls, dict) or tls.get("client_cert_error"):
        return None
    name, chain = tls.get("client_cert_name"), tls.get("client_cert_chain")
    if not name or not chain:
        return None
    leaf = next(iter(chain))
    try:
        from ssl import PEM_cert_to_DER_cert

        fingerprint = sha256_hex(PEM_cert_to_DER_cert(leaf.strip()))
    except (ValueError, AttributeError, TypeError):
        return None
    return CallerIdentity.mtls(str(name), fingerprint)
