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
from typing import Any, ClassVar, Final

from chio_core.errors import ConfigurationError
from chio_core.names import HTTPX_SECONDS, LOGGER, TRACEPARENT
from chio_core.outbound.hop import config_of, route_of, shown
from chio_core.outbound.member import AsyncNext, Flow, FlowSteps, OutboundMember, SyncNext

log = logging.getLogger(LOGGER)

_BODY = ("content", "data", "json", "files")
_KNOWN = frozenset({"headers", "params", "timeout", *_BODY})


class Response:
    """A response of httpx or httpx2 with one more name, `status`.

    Attributes:
        native: the library's response.
    """

    __slots__ = ("native",)

    native: Any

    def __init__(self, native: Any) -> None:
        object.__setattr__(self, "native", native)

    @property
    def status(self) -> int:
        """The status code."""
        return int(self.native.status_code)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.native, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.native, "status_code" if name == "status" else name, value)

    def __repr__(self) -> str:
        return f"<Response {self.status}>"


class BaseMiddleware(OutboundMember):
    """Base of members with hooks, all of them optional."""

    _hooks: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        written = [name for name in ("request", "response") if getattr(cls, name) is not getattr(BaseMiddleware, name)]
        cls._hooks = frozenset(written)

    async def request(self, method: str, url: str, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Change a request before the inner members see it.

        Args:
            method: in upper case.
            url: the whole URL.
            kwargs: `headers` is the request's header mapping: change it in place, or replace it by a mapping that is
                merged into it. `params`, `timeout`, and one of `content`, `data`, `json`, `files` may be added.

        Returns:
            The kwargs.
        """
        return kwargs

    async def response(self, response: Response) -> Any:
        """Return the given response, or another one."""
        return response

    async def on_error(self, error: Exception, route: Any, config: Mapping[str, Any]) -> None:
        """Handle the notice of an error. The hooks of inner members run first; the caller always gets the error.

        Args:
            error: the exception of an inner member or of the transport.
            route: has `.method` and `.url`.
            config: the options of the call.
        """

    async def __call__(self, request: Any, following: AsyncNext) -> Any:
        """Run the hooks around an asynchronous send."""
        prepared = request
        if "request" in self._hooks:
            kwargs = {"headers": request.headers}
            changed = self.request(request.method, str(request.url), kwargs)
            prepared = self._applied(request, await changed)
        try:
            response = await following(prepared)
        except Exception as error:
            await self._report(error, request)
            raise
        return self._native(await self.response(Response(response))) if "response" in self._hooks else response

    def sync(self, request: Any, following: SyncNext) -> Any:
        """Run the hooks around a synchronous send.

        Raises:
            ConfigurationError: a hook waits for something.
        """
        prepared = request
        if "request" in self._hooks:
            kwargs = {"headers": request.headers}
            changed = self._stepped(self.request(request.method, str(request.url), kwargs))
            prepared = self._applied(request, changed)
        try:
            response = following(prepared)
        except Exception as error:
            self._stepped(self._report(error, request))
            raise
        if "response" not in self._hooks:
            return response
        return self._native(self._stepped(self.response(Response(response))))

    async def _report(self, error: Exception, request: Any) -> None:
        try:
            await self.on_error(error, route_of(request), config_of(request))
        except Exception:
            log.exception("chio: on_error of %s failed; the first error is raised", type(self).__name__)

    def _applied(self, request: Any, kwargs: Any) -> Any:
        if not isinstance(kwargs, dict):
            raise ConfigurationError(f"{type(self).__name__}.request() must return kwargs")
        headers = kwargs.get("headers")
        if headers is not request.headers and headers:
            request.headers.update(headers)
        if len(kwargs) == 1 and "headers" in kwargs:
            return request
        if unknown := sorted(kwargs.keys() - _KNOWN):
            raise ConfigurationError(
                f"{type(self).__name__}.request() gave {unknown[0]!r}, which cannot be changed here"
            )

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

    def _native(self, response: Any) -> Any:
        native = response.native if isinstance(response, Response) else response
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
        if not self._log.isEnabledFor(self._level):
            return (yield request)
        url = shown(request.url)
        self._log.log(self._level, "→ %s %s", request.method, url)
        try:
            response = yield request
        except Exception as error:
            self._log.log(self._level, "✗ %s %s %s", type(error).__name__, request.method, url)
            raise
        self._log.log(self._level, "← %s %s %s", response.status_code, request.method, url)
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
