"""BaseMiddleware: a member as a class with three hooks; and the members that are ready to use.

    class Stamp(BaseMiddleware):
        __priority__ = 5

        async def request(self, method, url, kwargs):
            kwargs["headers"]["X-Stamp"] = "1"
            return kwargs

Hooks run once for each hop. `response` runs when the head has arrived; a hook that needs the body awaits
`response.aread()`. The same class runs on the synchronous transport if its hooks do not wait for anything.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from chio_core.errors import ConfigurationError
from chio_core.names import HTTPX_CALL, HTTPX_SECONDS, LOGGER, TRACEPARENT
from chio_core.outbound.extras.response import HeaderDict, LiveHeaders, Response
from chio_core.outbound.hop import config_of, route_of, shown
from chio_core.outbound.member import AsyncNext, Flow, FlowSteps, OutboundMember, SyncNext
from chio_core.telemetry.notices import is_visible, log_visibly

log = logging.getLogger(LOGGER)

_BODY = ("content", "data", "json", "files")
_CHANGES = frozenset({"params", "timeout", *_BODY})
UNCHANGEABLE: Final = frozenset({"auth", "cookies", "extensions", "follow_redirects"})
"""Options of the library that a hook cannot set."""

_OF_THE_LIBRARY = frozenset({
    "accept", "accept-encoding", "connection", "content-length", "content-type", "host", "transfer-encoding",
    "user-agent",
})  # fmt: skip


class BaseMiddleware(OutboundMember):
    """Base of members with hooks, all of them optional. They count as they are at each call: they may be set later."""

    __priority__ = 0

    async def request(self, method: str, url: str, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Change a request before the inner members see it.

        Args:
            method: in upper case.
            url: the whole URL; in `FastHTTP` the declared one, without params.
            kwargs: `headers` is a mapping of the request's headers by names in any case, with the operators of a
                dictionary: change or replace it. `params`, `timeout`, and one of `content`, `data`, `json`, `files` may
                be added. A hook may keep its members there.

        Returns:
            The kwargs.
        """
        return kwargs

    async def response(self, response: Response) -> Any:
        """Return the given response, or another one."""
        return response

    async def on_error(self, error: Exception, route: Any, config: Mapping[str, Any]) -> None:
        """Handle the notice of an error; the caller always gets the error.

        The hooks of inner members run first; in `FastHTTP`, in the order of priorities.

        Args:
            error: the exception of an inner member, the transport or the handler; in `FastHTTP` also a
                `FastHTTPBadStatusError` for a status of 400 and above.
            route: has `.method` and `.url`.
            config: the options of the call.
        """

    def has_hook(self, name: str) -> bool:
        """Return True if a hook is overridden, by the class or on the instance."""
        return name in vars(self) or getattr(type(self), name) is not getattr(BaseMiddleware, name)

    async def __call__(self, request: Any, following: AsyncNext) -> Any:
        """Run the hooks around an asynchronous send."""
        prepared = request
        if self.has_hook("request"):
            kwargs = {"headers": LiveHeaders(request.headers)}
            changed = await self.request(request.method, str(request.url), kwargs)
            prepared = self._applied(request, changed)
        try:
            response = await following(prepared)
            if not self.has_hook("response"):
                return response
            if HTTPX_CALL in request.extensions:  # a declared call reads the whole body anyway
                await response.aread()
            return self._native(await self.response(Response.of(response)), request)
        except Exception as error:
            await self._report(error, request)
            raise

    def sync(self, request: Any, following: SyncNext) -> Any:
        """Run the hooks around a synchronous send.

        Raises:
            ConfigurationError: a hook waits for something.
        """
        prepared = request
        if self.has_hook("request"):
            kwargs = {"headers": LiveHeaders(request.headers)}
            changed = self._stepped(self.request(request.method, str(request.url), kwargs))
            prepared = self._applied(request, changed)
        try:
            response = following(prepared)
            if not self.has_hook("response"):
                return response
            return self._native(self._stepped(self.response(Response.of(response))), request)
        except Exception as error:
            self._stepped(self._report(error, request))
            raise

    async def _report(self, error: Exception, request: Any) -> None:
        try:
            await self.on_error(error, route_of(request), config_of(request))
        except Exception:
            log.exception("chio: on_error of %s failed; the first error is raised", type(self).__name__)

    def _applied(self, request: Any, kwargs: Any) -> Any:
        if not isinstance(kwargs, dict):
            raise ConfigurationError(f"{type(self).__name__}.request() must return kwargs")
        if not UNCHANGEABLE.isdisjoint(kwargs):
            unknown = sorted(UNCHANGEABLE & kwargs.keys())
            raise ConfigurationError(
                f"{type(self).__name__}.request() gave {unknown[0]!r}, which cannot be changed here"
            )

        # What the hook has removed goes, apart from what the library adds to every request.
        wanted = kwargs.get("headers")
        if wanted is not None and not (isinstance(wanted, LiveHeaders) and wanted.native is request.headers):
            wanted = HeaderDict(wanted)
            for name in [name for name in request.headers if name not in wanted and name not in _OF_THE_LIBRARY]:
                del request.headers[name]
            for name, value in wanted.items():
                if request.headers.get(name) != value:
                    request.headers[name] = value
        if _CHANGES.isdisjoint(kwargs):
            return request

        # The library makes the new body and its headers, so those of the old body go.
        extensions, headers = dict(request.extensions), request.headers.copy()
        if (timeout := kwargs.get("timeout")) is not None:
            names = ("connect", "read", "write", "pool")
            extensions["timeout"] = timeout.as_dict() if hasattr(timeout, "as_dict") else dict.fromkeys(names, timeout)
        body = {name: kwargs[name] for name in _BODY if kwargs.get(name) is not None}
        if body:
            described = {"content-length", "transfer-encoding", *(() if "content" in body else ("content-type",))}
            for name in described & headers.keys():
                del headers[name]
        url = request.url.copy_merge_params(kwargs["params"]) if kwargs.get("params") else request.url
        source = body or {"stream": request.stream}
        rebuilt = type(request)(request.method, url, headers=headers, extensions=extensions, **source)
        if not body and hasattr(request, "_content"):
            rebuilt.read()
        return rebuilt

    def _native(self, response: Any, request: Any) -> Any:
        native = response.to_native(request) if isinstance(response, Response) else response
        if not hasattr(native, "status_code"):
            raise ConfigurationError(f"{type(self).__name__}.response() must return a response")
        return native

    def _stepped(self, steps: Any) -> Any:
        try:
            steps.send(None)
        except StopIteration as done:
            return done.value
        steps.close()
        raise ConfigurationError(f"a hook of {type(self).__name__} waits for something; use an asynchronous client")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} return_type={self.__return_type__}>"


class HookedFlow(Flow, BaseMiddleware):
    """A `Flow` whose subclasses may have hooks too; they run around it."""

    def _has_hooks(self) -> bool:
        return self.has_hook("request") or self.has_hook("response") or self.has_hook("on_error")

    async def __call__(self, request: Any, following: AsyncNext) -> Any:
        """Run the hooks, and the flow inside of them."""
        if not self._has_hooks():
            return await Flow.__call__(self, request, following)
        return await BaseMiddleware.__call__(self, request, lambda changed: Flow.__call__(self, changed, following))

    def sync(self, request: Any, following: SyncNext) -> Any:
        """Do the same for a synchronous send."""
        if not self._has_hooks():
            return Flow.sync(self, request, following)
        return BaseMiddleware.sync(self, request, lambda changed: Flow.sync(self, changed, following))


TRACE_HEADER: Final = "X-Trace-ID"
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class BearerAuth(Flow):
    """Sends `Authorization: Bearer …`, except to another origin after a redirect.

    Args:
        token: the token, or a function from the request to it.
    """

    __priority__ = 0

    def __init__(self, token: str | Callable[[Any], str]) -> None:
        self._token = token

    def flow(self, request: Any) -> FlowSteps:
        """Set the header and send."""
        token = self._token(request) if callable(self._token) else self._token
        request.headers["Authorization"] = f"Bearer {token}"
        return (yield request)


class Logging(Flow):
    """Logs one line for the request and one for the response or error. URLs are without user, query and fragment.

    If no logging is set up, lines of INFO and above go to standard error.

    Args:
        logger: the logger; `chio` by default.
        level: the level of both lines.
    """

    __priority__ = 99

    def __init__(self, logger: logging.Logger | None = None, level: int = logging.INFO) -> None:
        self._log = logger if logger is not None else logging.getLogger(LOGGER)
        self._level = level

    def flow(self, request: Any) -> FlowSteps:
        """Log, send, log."""
        if not is_visible(self._log, self._level):
            return (yield request)
        url = shown(request.url)
        log_visibly(self._log, self._level, "→ %s %s", request.method, url)
        try:
            response = yield request
        except Exception as error:
            log_visibly(self._log, self._level, "✗ %s %s %s", type(error).__name__, request.method, url)
            raise
        log_visibly(self._log, self._level, "← %s %s %s", response.status_code, request.method, url)
        return response


class Timing(Flow):
    """Measures the time to the head of the response, in `response.extensions["chio_seconds"]`.

    Args:
        on_time: called with the request and the seconds, also if the call fails.
    """

    __priority__ = 0

    def __init__(self, on_time: Callable[[Any, float], None] | None = None) -> None:
        self._on_time = on_time

    def flow(self, request: Any) -> FlowSteps:
        """Send, and measure the time."""
        start = time.perf_counter()
        try:
            response = yield request
        finally:
            seconds = time.perf_counter() - start
            if self._on_time is not None:
                self._on_time(request, seconds)
        response.extensions[HTTPX_SECONDS] = seconds
        return response


class TraceId(Flow):
    """Adds an `X-Trace-ID` and a W3C `traceparent` to each send (Trace Context, section 3.2).

    Both state the same id, unless the request has a `traceparent`: that one is continued, with the same trace id and a
    new parent, while `X-Trace-ID` is new for each send.

    Args:
        header: name of the first header.
    """

    __priority__ = 0

    def __init__(self, header: str = TRACE_HEADER) -> None:
        self._header = header

    def flow(self, request: Any) -> FlowSteps:
        """Set both headers and send."""
        random = os.urandom(24).hex()
        trace_id, flags = random[:32], "01"
        if TRACEPARENT in request.headers and _TRACEPARENT.fullmatch(given := request.headers[TRACEPARENT]):
            trace_id, flags = given[3:35], given[53:55]
        request.headers[self._header] = random[:32]
        request.headers[TRACEPARENT] = f"00-{trace_id}-{random[32:]}-{flags}"
        return (yield request)


class ErrorTracking(Flow):
    """Counts and logs the calls without a response; the caller gets the error.

    Attributes:
        error_count: number of such calls.
    """

    __priority__ = 0

    def __init__(self) -> None:
        self.error_count = 0
        self._log = logging.getLogger(LOGGER)

    def flow(self, request: Any) -> FlowSteps:
        """Send, and count an error."""
        try:
            return (yield request)
        except Exception as error:
            self.error_count += 1
            route = route_of(request)
            self._log.warning(
                "error #%d: %s: %s %s", self.error_count, type(error).__name__, route.method, shown(request.url)
            )
            raise
