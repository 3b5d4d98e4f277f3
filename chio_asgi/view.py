"""ASGIGuardRequest: the view of a request over an ASGI scope, and its session.

Decisions are made about the scope as it was when the view was made, never about a URL made from the Host header: the
client chooses that value (CVE-2026-48710).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote

from chio_asgi.body import Body, Incoming
from chio_asgi.types import Receive, Scope
from chio_core import identity
from chio_core.canonical import sha256_hex
from chio_core.errors import ConfigurationError
from chio_core.evaluation.body_limits import NO_LIMITS, BodyLimits
from chio_core.request import HeaderLines, RequestView


class ScopeState:
    """Attribute access to `scope["state"]`, which Starlette presents as `request.state`."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__ = values

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


class ASGIGuardRequest:
    """A `chio_core.GuardRequest` for one ASGI request or websocket handshake.

    Args:
        scope: the ASGI scope; the method of a websocket handshake is GET.
        receive: only for `body()`.

    Attributes:
        scope: the ASGI scope itself.
        method: the method as it was sent.
        url_path: decoded path, mount prefix included.
        route_path: the path that the outermost router matches, without the server's root path.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive | None = None,
        limits: BodyLimits = NO_LIMITS,
    ) -> None:
        # A Starlette request is a mapping too, so it would pass for a scope without a body.
        self._native: Any = None
        if not isinstance(scope, dict) and isinstance(found := getattr(scope, "scope", None), dict):
            self._native, scope = scope, found
        self.scope: dict[str, Any] = scope  # type: ignore[assignment]
        self._incoming = None if receive is None else Incoming(receive, limits)
        self._body: Body | None = None
        self._lines: HeaderLines | None = None
        self._state: ScopeState | None = None
        self._sealed = False
        self.method: str = scope.get("method", "GET")
        self.path: str = scope["path"]
        self.url_path: str = self.path
        self.route_path = route_path(scope)
        self._query: bytes = scope.get("query_string", b"")

    @property
    def url_scheme(self) -> str:
        """`http`, `https`, `ws` or `wss`."""
        return str(self.scope.get("scheme", "http"))

    @property
    def url_full(self) -> str:
        """The whole URL; its host is that of the Host header, else the server's address."""
        return self.url_replace_scheme(self.url_scheme)

    def url_replace_scheme(self, scheme: str) -> str:
        """Return the whole URL with another scheme."""
        path = quote(self.url_path, safe="/:@!$&'()*+,;=~-._", errors="replace")
        query = f"?{self.query_string}" if self._query else ""
        host, port = self.scope.get("server") or ("localhost", None)
        claimed = self.header_values("host")
        authority = claimed[0] if claimed else f"{host}:{port}" if port else host
        return f"{scheme}://{authority}{path}{query}"

    @property
    def client_host(self) -> str | None:
        """Address of the peer; None for a Unix socket, or if the server does not state it."""
        client = self.scope.get("client")
        return client[0] if client else None

    @property
    def headers(self) -> Mapping[str, str]:
        """Request headers, case-insensitive."""
        return self._header_lines()

    def header_values(self, name: str) -> Sequence[str]:
        """Return each line of the header `name`."""
        lines = self._lines if self._lines is not None else self._header_lines()
        return lines.by_name.get(name.lower(), ())

    def repeated_headers(self) -> Collection[str]:
        """Return the names, in lower case, of headers that occur in more than one line."""
        lines = self._lines if self._lines is not None else self._header_lines()
        return lines.repeated

    def select_headers(self, names: Collection[str]) -> Mapping[str, Sequence[str]]:
        """Return the lines of those headers in `names` (lower case) that the request has."""
        lines = self._lines if self._lines is not None else self._header_lines()
        return lines.select(names)

    @property
    def query_string(self) -> str:
        """The raw query."""
        return self._query.decode("latin-1")

    @property
    def query_params(self) -> Mapping[str, str]:
        """Decoded query; of duplicates the last counts. The token parameter is part of it."""
        return dict(parse_qsl(self.query_string, keep_blank_values=True))

    async def body(self) -> bytes:
        """Return the whole body; the application must then be called with `replay()`."""
        if self._native is not None and hasattr(self._native, "body"):
            return bytes(await self._native.body())
        if self._body is None and self._incoming is None:
            return b""
        return await (await self.read_body()).read()

    async def read_body_prefix(self, max_bytes: int) -> bytes:
        """Return at most `max_bytes` from the body's start; no further messages are received.

        Raises:
            RequestRefused: 408, they did not arrive in time.
        """
        if self._native is not None:
            return (await self.body())[:max_bytes]
        if max_bytes <= 0 or self._incoming is None:
            return b""
        if self._body is not None:
            return await self._body.prefix(max_bytes)
        return await self._incoming.peek(max_bytes)

    def lift_limits(self) -> None:
        """Read the body whatever its size and however long it takes; what would have refused it is noted with it."""
        if self._incoming is not None:
            self._incoming.lift()

    async def read_body(self) -> Body:
        """Read the body to its end, once; see `chio_asgi.body.Incoming.read`.

        Raises:
            RequestRefused: see there.
            RuntimeError: the view was made without `receive`.
        """
        if self._body is None:
            if self._incoming is None:
                raise RuntimeError("this view was made without `receive`")
            lines = self.header_values("content-length")
            self._body = await self._incoming.read(lines[0] if lines else None)
        return self._body

    def replace_body(self, data: bytes) -> None:
        """Replace the body for the sidecar and the handler; possible until the decision.

        Raises:
            ConfigurationError: the body is already part of the decision.
        """
        if self._sealed:
            raise ConfigurationError("the body was part of the decision and cannot be replaced after it")
        self.close()
        self._body = Body(data, None, len(data), sha256_hex(data) if data else None)
        headers = self.scope.get("headers", ())
        self.scope["headers"] = [pair for pair in headers if pair[0].lower() != b"transfer-encoding"]
        self.set_header("content-length", str(len(data)))

    def set_header(self, name: str, value: str) -> None:
        """Replace all lines of a request header by one, for the sidecar and the handler."""
        lower = name.lower().encode("latin-1")
        kept = [pair for pair in self.scope.get("headers", ()) if pair[0].lower() != lower]
        self.scope["headers"] = [*kept, (lower, value.encode("latin-1"))]
        self._lines = None

    def seal(self) -> None:
        """Make the body final: from now on it is part of the decision."""
        self._sealed = True

    def replay(self) -> Receive:
        """Return the `receive` for the application: the body first if it was read, then the server's messages.

        Raises:
            RuntimeError: the view was made without `receive`.
        """
        if self._incoming is None:
            raise RuntimeError("this view was made without `receive`")
        rest = self._incoming.rest()
        return rest if self._body is None else self._body.replay(rest)

    @property
    def body_was_read(self) -> bool:
        """True if the body was read to its end, or there can be none."""
        return self._incoming is None or self._body is not None

    @property
    def has_body(self) -> bool:
        """False for a websocket handshake."""
        return self._incoming is not None

    def close(self) -> None:
        """Remove the body's file, if there is one."""
        if self._body is not None:
            self._body.close()

    @property
    def state(self) -> ScopeState:
        """The request's state; the same values as Starlette's `request.state`."""
        values = self.scope.setdefault("state", {})
        if self._state is None or self._state.__dict__ is not values:
            self._state = ScopeState(values)
        return self._state

    def _header_lines(self) -> HeaderLines:
        if self._lines is None:
            pairs = self.scope.get("headers", ())
            self._lines = HeaderLines([(name.decode("latin-1"), value.decode("latin-1")) for name, value in pairs])
        return self._lines


def route_path(scope: Scope) -> str:
    """Return the path as the outermost router matches it.

    Servers and proxies prepend `root_path`, which the router removes. In a mounted application the mount's prefix stays
    part of the path, so that the receipts of two mounted applications always differ.
    """
    path: str = scope["path"]
    root: str = scope.get("app_root_path", scope.get("root_path", "")) or ""
    if not root or not path.startswith(root):
        return path
    rest = path[len(root) :]
    return rest if rest[:1] in ("", "/") else path


__all__ = ["ASGIGuardRequest", "ScopeState", "route_path"]


def session_of(view: RequestView) -> Any:
    """Return the session of a request.

    Raises:
        ConfigurationError: no session middleware is outside Chio.
    """
    session = view.scope.get("session")
    if session is None:
        raise ConfigurationError(
            "no session was read before Chio: add SessionMiddleware after Chio, so that it is outside"
        )
    return session


from_session = partial(identity.from_session, session_of)
"""Return an extractor for the user in a session, `from_session("user_id")`; see `chio_core.identity.from_session`."""
