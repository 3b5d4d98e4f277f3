"""The middleware of FastHTTP: the manager that runs its hooks, cookies, cache and repetition with its defaults.

In `FastHTTP` hooks run once for each call, around everything else: what they change is evaluated. Elsewhere, in a
`ChioTransport`, they run once for each hop.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import httpx

from chio_core.errors import ConfigurationError
from chio_core.names import HTTPX_CALL
from chio_core.outbound.extras.cache import Cache
from chio_core.outbound.extras.cookies import CookieJar, DummyCookieJar, Session
from chio_core.outbound.extras.middleware import BaseMiddleware, HookedFlow
from chio_core.outbound.extras.response import HeaderDict, Response
from chio_core.outbound.hop import hop_of
from chio_core.outbound.member import Flow, FlowSteps, MiddlewareChain

__all__ = [
    "BaseMiddleware",
    "CacheMiddleware",
    "CookieJar",
    "DummyCookieJar",
    "MiddlewareChain",
    "MiddlewareManager",
    "RetryMiddleware",
    "SessionMiddleware",
]

IDEMPOTENT = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PUT"})
"""Methods that a server may receive twice (RFC 9110, section 9.2.2)."""


class CacheMiddleware(Cache):
    """`Cache` with the defaults of FastHTTP: an hour, priority 0. In `FastHTTP` it is always inside the decision.

    Args:
        ttl: seconds that a response is kept at most.
        max_size: number of responses.
        cache_methods: methods whose responses are stored; `["GET"]` by default.
        options: see `Cache`.
    """

    __priority__ = 0

    def __init__(
        self, ttl: float = 3600, max_size: int = 100, cache_methods: Collection[str] | None = None, **options: Any
    ) -> None:
        self.ttl = ttl
        self.max_size = max_size
        self.cache_methods = list(cache_methods or ["GET"])
        super().__init__(ttl, max_size, self.cache_methods, **options)

    def get_stats(self) -> dict[str, Any]:
        """Return the number of stored responses, and the options."""
        return {"size": len(self), "max_size": self.max_size, "ttl": self.ttl, "methods": self.cache_methods}


class SessionMiddleware(Session):
    """`Session` with the defaults of FastHTTP: priority -10, and hooks that see the `Cookie` header.

    Args:
        cookies: initial cookies, if there is no `jar`.
        jar: keeps the cookies.
    """

    __priority__ = -10

    def __init__(self, cookies: Mapping[str, str] | None = None, *, jar: CookieJar | None = None) -> None:
        super().__init__(jar if jar is not None else CookieJar(cookies))

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies by name."""
        return dict(self.cookie_jar.items())

    def get_cookies(self) -> dict[str, str]:
        """Return the cookies by name."""
        return self.cookies

    def clear(self) -> None:
        """Remove all cookies."""
        self.cookie_jar.clear()

    async def request(self, method: str, url: str, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Add the jar's cookies for this URL."""
        headers = HeaderDict(kwargs.get("headers") or {})
        cookie = self.cookie_jar.header_for(httpx.URL(url), headers.get("Cookie"))
        if cookie is not None:
            headers["Cookie"] = cookie
        kwargs["headers"] = headers
        return kwargs

    def flow(self, request: Any) -> FlowSteps:
        """Send with cookies; those of a declared call's first hop are what the hooks have left."""
        hop = hop_of(request)
        if HTTPX_CALL not in request.extensions or hop is None or hop.number > 1:
            return (yield from super().flow(request))
        response = yield request
        self.cookie_jar.take_from(response, request)
        return response

    def __repr__(self) -> str:
        return f"<SessionMiddleware cookies={list(self.cookies)}>"


class RetryMiddleware(BaseMiddleware):
    """Repeats a call of `FastHTTP` that fails. Each repetition is evaluated.

    POST and PATCH are not repeated: the upstream may have done what it was asked for.

    Args:
        max_retries: number of repetitions.
        retry_on: statuses that are repeated; 429, 500, 502, 503 and 504 by default.
        backoff_factor: seconds before the first repetition; twice as long before each further one.
        max_delay: most seconds of a pause, also of one that the response asks for by `Retry-After`.
        retry_exceptions: errors that are repeated; those of the network by default.
    """

    __priority__ = 1000

    def __init__(
        self,
        max_retries: int = 3,
        retry_on: Collection[int] | None = None,
        backoff_factor: float = 0.5,
        max_delay: float = 30.0,
        retry_exceptions: tuple[type[Exception], ...] | None = None,
    ) -> None:
        self.max_retries = max_retries
        self.retry_on = set(retry_on or (429, 500, 502, 503, 504))
        self.backoff_factor = backoff_factor
        self.max_delay = max_delay
        self.retry_exceptions = retry_exceptions or (httpx.TransportError,)

    def pause(self, method: str, attempt: int, outcome: httpx.Response | Exception) -> float | None:
        """Return the seconds before the next repetition; None if it is not sent again.

        Args:
            attempt: 0 for the first send.
            outcome: the response or the error.
        """
        if attempt >= self.max_retries or method not in IDEMPOTENT:
            return None
        if isinstance(outcome, Exception):
            again = isinstance(outcome, self.retry_exceptions)
            return min(self.backoff_factor * 2**attempt, self.max_delay) if again else None
        if outcome.status_code not in self.retry_on:
            return None
        wanted = outcome.headers.get("retry-after", "")
        seconds = float(wanted) if wanted.isdecimal() else self.backoff_factor * 2**attempt
        return min(seconds, self.max_delay)


class MiddlewareManager:
    """Runs the hooks of middleware around a call.

    Args:
        middlewares: one middleware, a list or a chain. A class without our base needs the four attributes and hooks.

    Attributes:
        middlewares: the list; what is added to it counts from the next call on, as do changed attributes.
    """

    def __init__(self, middlewares: Sequence[Any] | MiddlewareChain | None = None) -> None:
        self.middlewares: list[Any] = list(middlewares) if middlewares is not None else []

    def active(self, method: str) -> list[Any]:
        """Return what runs for a method, in the order of priorities."""
        return [
            one
            for one in sorted(self.middlewares, key=lambda one: one.__priority__)
            if one.__enabled__
            and (one.__methods__ is None or method.upper() in {name.upper() for name in one.__methods__})
        ]

    async def process_before_request(self, route: Any, config: Mapping[str, Any]) -> dict[str, Any]:
        """Run the request hooks, and return their kwargs.

        Raises:
            ConfigurationError: a hook returned something else.
        """
        kwargs = dict(config)
        kwargs.setdefault("params", route.params)
        for one in self.active(route.method):
            kwargs = await one.request(route.method, route.url, kwargs)
            if not isinstance(kwargs, dict):
                raise ConfigurationError(f"{type(one).__name__}.request() must return kwargs")
        return kwargs

    async def process_after_response(self, response: Response, route: Any, config: Mapping[str, Any]) -> Response:
        """Run the response hooks, innermost first, and return their response.

        Raises:
            ConfigurationError: a hook returned something else.
        """
        for one in reversed(self.active(route.method)):
            response = await one.response(response)
            if not hasattr(response, "status"):
                raise ConfigurationError(f"{type(one).__name__}.response() must return a response")
        return response

    async def process_on_error(self, error: Exception, route: Any, config: Mapping[str, Any]) -> None:
        """Run the error hooks, in the order of priorities."""
        for one in self.active(route.method):
            await one.on_error(error, route, config)


class Hookless(Flow):
    """The flow of a `HookedFlow` whose hooks have run: `FastHTTP` runs them around the call, not around each hop."""

    def __init__(self, member: HookedFlow) -> None:
        self.member = member
        self.name = type(member).__name__
        self.uses: frozenset[str] = getattr(member, "uses", frozenset())

    def flow(self, request: Any) -> FlowSteps:
        """Run the flow, unless the member is switched off."""
        methods = self.member.__methods__
        if not self.member.__enabled__ or (methods is not None and request.method not in map(str.upper, methods)):
            return (yield request)
        return (yield from self.member.flow(request))
