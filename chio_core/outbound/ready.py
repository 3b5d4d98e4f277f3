"""The members that most callers want: BearerAuth, Logging, Timing, TraceId, ErrorTracking."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable
from typing import Any, Final

from chio_core.names import LOGGER, TRACEPARENT
from chio_core.outbound.hop import route_of, shown
from chio_core.outbound.member import Flow, FlowSteps

SECONDS: Final = "chio_seconds"
"""Where `Timing` leaves the duration in a response's `extensions`."""

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
        response.extensions[SECONDS] = seconds
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
