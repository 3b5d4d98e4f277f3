"""Where a request carries its capability, if not in its header: a cookie, the session, or as a function says.

A caller sends a header on purpose, and a wrong one refuses the request. A browser sends cookies by itself, also after a
logout, and with a request that another site has made it send. So a token out of a cookie, a session or a function
counts only if it has not expired and is the caller's, and for an unsafe method only if the request comes from the
application's own pages. Otherwise the request is evaluated without a token, as with the header as the only source. It
replaces no CSRF protection of a framework: a thief of the cookies themselves can state any origin.
"""

from __future__ import annotations

import logging
import time
from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlsplit

from chio_core.capabilities.scope import is_of_another
from chio_core.capabilities.tokens import parse_capability
from chio_core.errors import ConfigurationError, InvalidDocument
from chio_core.evaluation.governed import Carried, Steps
from chio_core.evaluation.precheck import MAX_HEADER_BYTES
from chio_core.identity import cookies_of, from_client_certificate
from chio_core.models.request import SAFE_METHODS, CallerIdentity
from chio_core.names import LOGGER
from chio_core.refusals.response import RequestRefused, misconfigured
from chio_core.request import RequestView
from chio_core.settings import ChioSettings

log = logging.getLogger(LOGGER)

SESSION_KEY: Final = "chio_capability"
"""Key of the token in a session, unless `session:KEY` names another."""

CapabilityFunction = Callable[[RequestView], "str | Awaitable[str | None] | None"]
"""Takes the view of a request; returns the text of its token, or None."""

SessionOf = Callable[[RequestView], Any]
"""Takes the view of a request; returns its session (it has `get`), None without one, or an awaitable of it."""


def source_of(
    settings: ChioSettings, function: CapabilityFunction | None = None, session: SessionOf | None = None
) -> CapabilityFunction | None:
    """Return the function that reads the token of a request that has no header; None where the header is all.

    Args:
        settings: `capability_source` says where the token is.
        function: the application's own; it replaces that setting.
        session: how the framework reads a session; None: it has none.

    Raises:
        ConfigurationError: both a function and the setting are given, or the framework has no sessions.
    """
    kind, _, name = settings.capability_source.partition(":")
    if function is not None:
        if kind != "header":
            raise ConfigurationError("give either capability_source or the function capability, not both")
        return function
    if kind == "cookie":
        return lambda view: _from_cookie(view, name)
    if kind == "session":
        if session is None:
            raise ConfigurationError("capability_source is session, and there are no sessions here; name a cookie")
        return _from_session(session, name or SESSION_KEY)
    return None


def read_carried(source: CapabilityFunction, view: RequestView, caller: CallerIdentity) -> Steps[Carried]:
    """Read the token that a request carries beside its header; one that does not count is as good as none.

    Raises:
        RequestRefused: 500, logged: the application has no sessions, or its function returned no text or is `async def`
            in a thread.
    """
    try:
        found: Any = source(view)
        if isinstance(found, Awaitable):
            waits = found
            found = yield waits
            if found is waits:
                getattr(found, "close", bool)()
                raise ConfigurationError("the function capability is async def, and requests run in threads: use def")
        if found is not None and not isinstance(found, str):
            kind = type(found).__name__
            raise ConfigurationError(f"the function capability returns a token's text (to_header()), not {kind}")
    except ConfigurationError as exc:
        log.error("chio: the capability of a request cannot be read: %s", exc.message)
        raise RequestRefused(misconfigured()) from None
    if not found or not found.strip():
        return Carried()
    text = _decoded(found.strip())
    reason = _why_not(text, caller) or _why_cross_site(view)
    if reason is not None:
        log.info("chio: the capability that %s carries is not used: %s", view.route_path, reason)
        return Carried()
    return Carried(text)


def _why_not(text: str, caller: CallerIdentity) -> str | None:
    """Return why a token is left out: presented, it would have every request of this browser refused, a login too."""
    try:
        token = parse_capability(text) if text.isascii() and text.isprintable() else None
    except InvalidDocument:
        token = None
    if token is None or len(text) > MAX_HEADER_BYTES:
        return "it is no capability"
    if token.expires_at <= time.time():
        return "it has expired"
    return "it is bound to another holder" if is_of_another(token, caller) else None


def _why_cross_site(view: RequestView) -> str | None:
    """Return a reason for an unsafe request, or a websocket handshake, that a browser may send for another site.

    A browser states `Sec-Fetch-Site` over https, and `Origin` with each unsafe request and each handshake; a page
    cannot change either. A request that states neither does not count: its sender can present the token in the header.
    One without cookie, client certificate and password has nothing that a browser adds by itself.
    """
    if view.method in SAFE_METHODS and view.scope.get("type") != "websocket":
        return None
    # A request of another site can only use credentials that the browser sends by itself.
    is_ambient = (
        bool(view.header_values("cookie"))
        or from_client_certificate(view) is not None
        or any(not text.strip().lower().startswith("bearer ") for text in view.header_values("authorization"))
    )
    if not is_ambient:
        return None
    site = [text.strip() for text in view.header_values("sec-fetch-site")]
    own = site in (["same-origin"], ["none"])
    if not site:
        origin, host = view.header_values("origin"), view.header_values("host")
        own = len(origin) == len(host) == 1 and _is_of(origin[0], host[0])
    return None if own else "Sec-Fetch-Site or Origin do not state a page of this origin"


def _is_of(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin.strip())
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc) and parts.netloc.lower() == host.strip().lower()


def _from_cookie(view: RequestView, name: str) -> str | None:
    values = set(cookies_of(view, name))
    # A sibling domain can add one; which of them counts would depend on the reader.
    return min(values) if len(values) == 1 else None


def _from_session(session: SessionOf, key: str) -> CapabilityFunction:
    def text_in(found: Any) -> str | None:
        value = found.get(key) if found is not None else None
        return value if isinstance(value, str) else None

    async def awaited(found: Awaitable[Any]) -> str | None:
        return text_in(await found)

    def read(view: RequestView) -> str | Awaitable[str | None] | None:
        found = session(view)
        return awaited(found) if isinstance(found, Awaitable) else text_in(found)

    return read


def _decoded(text: str) -> str:
    """Return the JSON text of a token that may be written in base64url (`CapabilityToken.to_cookie`)."""
    if text.startswith("{"):
        return text
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii")
    except ValueError:
        return text  # the sidecar refuses what is no token
