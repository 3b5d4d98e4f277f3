"""BaseMiddleware: a member as a class with three hooks.

    class Stamp(BaseMiddleware):
        __priority__ = 5

        async def request(self, method, url, kwargs):
            kwargs["headers"]["X-Stamp"] = "1"
            return kwargs

Hooks run once for each hop. `response` sees the head; a hook that wants the body awaits `response.aread()`. The
same class runs on the synchronous transport as long as its hooks do not wait for anything.
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
    """A response of httpx or httpx2 that also answers to `status`.

    Args:
        native: the library's response.

    Attributes:
        native: see above.
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


def native_of(response: Any) -> Any:
    """Return the library's response behind one of ours; anything else as it is."""
    return response.native if isinstance(response, Response) else response


class BaseMiddleware(OutboundMember):
    """Base of members with hooks; each of the three may be left out."""

    _hooks: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        written = [name for name in ("request", "response") if getattr(cls, name) is not getattr(BaseMiddleware, name)]
        cls._hooks = frozenset(written)

    async def request(self, method: str, url: str, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Change a request before it goes further in.

        Args:
            method: in capitals.
            url: the whole URL.
            kwargs: `headers` is the request's own header mapping, to be changed in place or replaced by a mapping that
                is merged into it. `params`, `timeout`, and one of `content`, `data`, `json`, `files` may be added.

        Returns:
            The kwargs.
        """
        return kwargs

    async def response(self, response: Response) -> Any:
        """Look at a response, or return another one."""
        return response

    async def on_error(self, error: Exception, route: Any, config: Mapping[str, Any]) -> None:
        """Be told of an error; it goes on to the caller whatever happens here. Inner members are told first.

        Args:
            error: what was raised further in.
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
            answer = await following(prepared)
        except Exception as error:
            await self._tell(error, request)
            raise
        return self._native(await self.response(Response(answer))) if "response" in self._hooks else answer

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
            answer = following(prepared)
        except Exception as error:
            self._stepped(self._tell(error, request))
            raise
        return self._native(self._stepped(self.response(Response(answer)))) if "response" in self._hooks else answer

    async def _tell(self, error: Exception, request: Any) -> None:
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
        return _rebuilt(request, kwargs)

    def _native(self, response: Any) -> Any:
        native = native_of(response)
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


def _rebuilt(request: Any, kwargs: Mapping[str, Any]) -> Any:
    body = {name: kwargs[name] for name in _BODY if kwargs.get(name) is not None}
    extensions = dict(request.extensions)
    if kwargs.get("timeout") is not None:
        extensions["timeout"] = _timeout(kwargs["timeout"])
    headers = request.headers.copy()
    if body:
        for name in ("content-length", "transfer-encoding", "content-type"):
            if name in headers and (name != "content-type" or "content" not in body):
                del headers[name]
    source = body or {"stream": request.stream}
    url = request.url.copy_merge_params(kwargs["params"]) if kwargs.get("params") else request.url
    rebuilt = type(request)(request.method, url, headers=headers, extensions=extensions, **source)
    if not body and hasattr(request, "_content"):
        rebuilt.read()
    return rebuilt


def _timeout(value: Any) -> dict[str, Any]:
    if hasattr(value, "as_dict"):
        return dict(value.as_dict())
    return dict.fromkeys(("connect", "read", "write", "pool"), value)


TRACE_HEADER: Final = "X-Trace-ID"

_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class BearerAuth(Flow):
    """Sends `Authorization: Bearer …`. A redirect to another origin does not carry it.

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
    """Logs one line out and one line back, also on error. URLs are shown without user, query and fragment.

    Args:
        logger: where to; the logger `chio` by default.
        level: at which level.
    """

    __priority__ = 99

    def __init__(self, logger: logging.Logger | None = None, level: int = logging.INFO) -> None:
        self._log = logger if logger is not None else logging.getLogger(LOGGER)
        self._level = level

    def flow(self, request: Any) -> FlowSteps:
        """Send between two lines."""
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
    """Measures from here to the head of the response. The seconds stand in `response.extensions["chio_seconds"]`.

    Args:
        on_time: called with the request and the seconds, also when the call failed.
    """

    __priority__ = 0

    def __init__(self, on_time: Callable[[Any, float], None] | None = None) -> None:
        self._on_time = on_time

    def flow(self, request: Any) -> FlowSteps:
        """Send between two looks at the clock."""
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
    """Gives each send an `X-Trace-ID` and a W3C `traceparent` (Trace Context, section 3.2).

    Both state the same id. A `traceparent` that the request already has is continued: same trace, new parent; the
    other header is new for each send all the same.

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
    """Counts the calls that got no response, and logs each; the error goes on to the caller.

    Attributes:
        error_count: how many there were.
    """

    __priority__ = 0

    def __init__(self) -> None:
        self.error_count = 0
        self._log = logging.getLogger(LOGGER)

    def flow(self, request: Any) -> FlowSteps:
        """Send, and count what is raised."""
        try:
            return (yield request)
        except Exception as error:
            self.error_count += 1
            route = route_of(request)
            self._log.warning(
                "error #%d: %s: %s %s", self.error_count, type(error).__name__, route.method, shown(request.url)
            )
            raise
