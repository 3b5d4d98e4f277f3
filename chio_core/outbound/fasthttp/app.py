"""FastHTTP: declares calls, and runs them."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import httpx

from chio_core.errors import ConfigurationError
from chio_core.names import LOGGER
from chio_core.outbound.extras.calls import Handler, Outcome, Outcomes, split_options
from chio_core.outbound.extras.cookies import CookieJar, DummyCookieJar, Session, no_cookies
from chio_core.outbound.extras.middleware import BaseMiddleware, HookedFlow
from chio_core.outbound.fasthttp.middleware import Hookless, MiddlewareChain, MiddlewareManager, SessionMiddleware
from chio_core.outbound.fasthttp.routing import METHODS, EventHooks, Route, RouteDeclaring, Router, whole_url
from chio_core.outbound.fasthttp.send import Sender
from chio_core.outbound.transport import Borrowed, ChioTransport

_KEPT = {
    "description": "", "docs_base_url": "", "startup_uuid_version": "v4", "title": "FastHTTP API", "version": "1.0.0",
}  # fmt: skip
_OPTIONS = frozenset(inspect.signature(httpx.AsyncClient).parameters)


class FastHTTP(RouteDeclaring):
    """Declares calls and runs them.

    Args:
        debug: log more, results included, which may hold secrets.
        middleware: one, a list or a chain. Hooks (`BaseMiddleware`) run once around each call. Members of a
            `ChioTransport`, such as `GovernOutbound`, run inside of them for each hop.
        cookie_jar: keeps cookies from run to run.
        security: True refuses addresses of this machine and of private networks. By default the sidecar decides which
            upstreams may be called.
        raise_for_status: `run` raises a `FastHTTPBadStatusError` for a status of 400 and above.
        lifespan: an asynchronous context manager around each run; it is called with the application.
        secret_key: signs each request by HMAC-SHA256, in the headers X-Signature, X-Timestamp and X-Nonce.
        generate_startup_uuid: make an id that is sent as `X-Request-ID`.
        base_url: of relative URLs.
        concurrency: most calls at the same time; no limit by default.
        transport: the sending transport. Its connections are closed after each run if it is one of httpx.
        options: `get_request={"headers": …, "timeout": …}` of all GETs, and likewise for other methods; further options
            of `httpx.AsyncClient`, such as `proxy`, `http2`, `verify`, `follow_redirects`. `title`, `version`,
            `description`, `docs_base_url` and `startup_uuid_version` are kept, without an effect.

    Attributes:
        routes: the declared calls.
        middleware_manager: the hooks.

    Raises:
        ConfigurationError: an option would pass the members by, or the members' order cannot work.
        TypeError: an option does not exist.
    """

    def __init__(
        self,
        *,
        debug: bool = False,
        middleware: Any = None,
        cookie_jar: CookieJar | None = None,
        security: bool | None = None,
        raise_for_status: bool = False,
        lifespan: Callable[[FastHTTP], AbstractAsyncContextManager[Any]] | None = None,
        secret_key: bytes | None = None,
        generate_startup_uuid: bool = False,
        base_url: str | None = None,
        concurrency: int | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        **options: Any,
    ) -> None:
        for name, default in _KEPT.items():
            setattr(self, name, options.pop(name, default))
        configs = {method: options.pop(f"{method.lower()}_request", None) for method in METHODS}
        self.request_configs = {method: dict(config or {}) for method, config in configs.items()}
        if unknown := sorted(options.keys() - _OPTIONS):
            raise TypeError(f"FastHTTP has no option {unknown[0]}")
        own, options = split_options(options, given=transport is not None)
        self.logger = _logger(debug=debug)
        self.routes: list[Route] = []
        self.event_hooks = EventHooks()
        self.lifespan = lifespan
        self.proxy = own.get("proxy")
        self.http2_enabled = bool(own.get("http2"))
        self.base_url = base_url
        self.cookie_jar = cookie_jar
        self.raise_for_status = raise_for_status
        self.security_enabled = bool(security)
        self.resolves = transport is None and self.proxy is None
        self.secret_key = secret_key
        self.startup_uuid = str(uuid.uuid4()) if generate_startup_uuid else None
        self.concurrency = concurrency
        self._transport = transport
        self._transport_options = own
        self._client_options = {"timeout": 30.0, **options}

        self.middleware_manager = MiddlewareManager()
        self._chain = MiddlewareChain()
        if cookie_jar is not None and not isinstance(cookie_jar, DummyCookieJar):
            self._place(SessionMiddleware(jar=cookie_jar), {})
        for one, place in _given(middleware):
            self._place(one, place)
        self._chain.freeze()

    def _place(self, one: Any, place: Mapping[str, Any]) -> None:
        """Give one of the middleware to the manager of hooks, to the chain of the transport, or to both."""
        if isinstance(one, HookedFlow):
            # Whatever its priority among the hooks: nothing is served from a cache before the decision.
            priority = one.__priority__ if isinstance(one, Session) else max(10, one.__priority__)
            self._chain.add(Hookless(one), **{"priority": priority, **place})
        elif callable(one) and not (isinstance(one, BaseMiddleware) and type(one).__call__ is BaseMiddleware.__call__):
            self._chain.add(one, **place)
            return
        if not all(hasattr(one, name) for name in ("request", "response", "on_error", "__priority__")):
            raise ConfigurationError(f"{type(one).__name__} is no middleware; derive it from BaseMiddleware")
        self.middleware_manager.middlewares.append(one)

    def add(self, route: Route) -> None:
        """Keep a declared call."""
        route.url = whole_url(route.url, self.base_url)
        self.routes.append(route)

    def include_router(self, router: Router, **place: Any) -> None:
        """Add the calls of a router; see `Router.build_routes` for the arguments."""
        place["base_url"] = place["base_url"] if place.get("base_url") is not None else self.base_url
        self.routes += router.build_routes(**place)
        self.event_hooks.merge(router.event_hooks)

    def on_request(self, func: Handler) -> Handler:
        """Call `func(route, config)` before each request."""
        return self.event_hooks.on_request(func)

    def on_response(self, func: Handler) -> Handler:
        """Call `func(response)` for each response below 400."""
        return self.event_hooks.on_response(func)

    def on_error(self, func: Handler) -> Handler:
        """Call `func(error, route)` for each error."""
        return self.event_hooks.on_error(func)

    def run(self, tags: Collection[str] | None = None) -> Outcomes:
        """Make the calls that have one of these tags, at the same time, in a new event loop; all calls without tags.

        Raises:
            ConfigurationError: an event loop is running in this thread, or `tags` is one text.
            Exception: the first error of a request hook, or under `raise_for_status`; the other calls have ended.
        """
        if isinstance(tags, str):
            raise ConfigurationError(f"tags is a list of texts; write [{tags!r}]")
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            routes = [route for route in self.routes if not tags or not set(tags).isdisjoint(route.tags)]
            if not routes:
                self.logger.warning("there is no call to make")
                return Outcomes([])
            return asyncio.run(self._run(routes))
        raise ConfigurationError("an event loop is running here; use Calls, and await its run()")

    async def _run(self, routes: list[Route]) -> Outcomes:
        for one in self.middleware_manager.middlewares:
            if isinstance(one, Session):
                one.cookie_jar.bind([httpx.URL(route.url) for route in routes])
        inner = self._transport or httpx.AsyncHTTPTransport(**self._transport_options)
        transport = ChioTransport(Borrowed(inner), self._chain)
        client = httpx.AsyncClient(transport=transport, cookies=no_cookies(), **self._client_options)
        sender = Sender(self, client)
        limit = asyncio.Semaphore(self.concurrency) if self.concurrency else nullcontext()
        lifespan = self.lifespan(self) if self.lifespan is not None else nullcontext()

        async def call(route: Route) -> Outcome:
            async with limit:
                start = time.perf_counter()
                outcome = await sender.outcome(route)
            line = (route.method, route.url, outcome.response.status if outcome.response is not None else "-")
            took = (time.perf_counter() - start) * 1000
            if outcome.error is None:
                self.logger.info("%s %s %s %.0f ms", *line, took)
                self.logger.debug("%s: %s", route.name, outcome.value)
            else:
                self.logger.error("%s %s %s %.0f ms %s: %s", *line, took, type(outcome.error).__name__, outcome.error)
            return outcome

        try:
            async with lifespan, client, asyncio.TaskGroup() as group:
                tasks = [group.create_task(call(route)) for route in routes]
        finally:
            if isinstance(inner, httpx.AsyncHTTPTransport):
                await inner.aclose()  # its connections belong to this loop, which ends
        outcomes = Outcomes([task.result() for task in tasks])
        for error in outcomes.errors:
            if any(error is raised for raised in sender.raised):
                raise error
        return outcomes


def _given(middleware: Any) -> list[tuple[Any, dict[str, Any]]]:
    """Return each of the middleware, with the place that a chain has for it."""
    if middleware is None:
        return []
    if isinstance(middleware, MiddlewareChain):
        middleware.freeze()
        return middleware.given()
    if isinstance(middleware, (list, tuple)):
        return [pair for one in middleware for pair in _given(one)]
    return [(middleware, {})]


class _Printing(logging.Handler):
    """Writes lines to the standard output as it is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stdout.write(f"{self.format(record)}\n")


def _logger(*, debug: bool) -> logging.Logger:
    """Return the logger of calls. It prints by itself only if the application has set no logging up."""
    logger = logging.getLogger(f"{LOGGER}.fasthttp")
    if not logger.hasHandlers():
        logger.addHandler(_Printing())
        logger.setLevel(logging.INFO)
    if debug:
        logger.setLevel(logging.DEBUG)
    return logger
