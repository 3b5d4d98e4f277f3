"""RequestId, SecurityHeaders and Stopwatch: guards that refuse nothing, and add headers to every response."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from chio_core.errors import ConfigurationError
from chio_core.guards.response_hooks import header_change, response_hooks
from chio_core.names import LOGGER, STATE_REQUEST_ID
from chio_core.request import GuardRequest
from chio_core.telemetry.notices import log_visibly

log = logging.getLogger(LOGGER)

API_HEADERS: Mapping[str, str] = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Strict-Transport-Security": "max-age=31536000",
}
"""Headers for an API that serves no pages; use a `secure.Secure` for pages."""

_WELL_FORMED = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")


class RequestId:
    """Sets one id for a request, on `request.state.request_id` and on the response.

    The id is for correlation only: the caller never chooses the id of the evaluation, to which the receipt is bound.

    Args:
        header: request and response header.
        trust_incoming: use the caller's id if it is well-formed (1 to 128 of `A-Z a-z 0-9 . _ -`).
        priority: place in the chain.
    """

    name = "request_id"
    provides = frozenset({"request_id"})
    waits = False

    def __init__(self, header: str = "X-Request-ID", *, trust_incoming: bool = True, priority: int = -95) -> None:
        self.priority = priority
        self.enabled = True
        self._header = header
        self._trust = trust_incoming

    async def __call__(self, request: GuardRequest) -> None:
        """Set the id; never refuses."""
        given = request.headers.get(self._header.lower(), "") if self._trust else ""
        value = given if _WELL_FORMED.match(given) else str(uuid.uuid4())
        setattr(request.state, STATE_REQUEST_ID, value)
        response_hooks(request).add_header(self._header, value)


class SecurityHeaders:
    """Puts security headers on every response, refusals and errors too.

    Args:
        policy: a `secure.Secure` (presets, content security policies, validation), or a mapping of headers;
            `API_HEADERS` if left out.
        replace: replace headers that the application has set.
        priority: place in the chain.

    Raises:
        ConfigurationError: another type, or a line break in a header.
    """

    name = "security_headers"
    waits = False

    def __init__(self, policy: Any = None, *, replace: bool = True, priority: int = -90) -> None:
        self.priority = priority
        self.enabled = True
        lines = API_HEADERS if policy is None else getattr(policy, "headers", policy)
        if not isinstance(lines, Mapping):
            raise ConfigurationError("SecurityHeaders takes a secure.Secure or a mapping of header names to values")
        self._headers = [
            header_change(str(name), str(value), replace=replace) for name, value in lines.items() if value
        ]

    async def __call__(self, request: GuardRequest) -> None:
        """Queue the headers; never refuses."""
        response_hooks(request).headers.extend(self._headers)


class Stopwatch:
    """Measures the time of each request.

    Args:
        server_timing: add `Server-Timing: app;dur=…` (milliseconds until the head) to the response.
        on_time: called with method, path, status (None without a response) and seconds. Without it the four are
            logged (INFO), or written to standard error if no logging is set up.
        priority: place in the chain; outermost by default.
    """

    name = "stopwatch"
    waits = False

    def __init__(
        self,
        *,
        server_timing: bool = False,
        on_time: Callable[[str, str, int | None, float], None] | None = None,
        priority: int = -100,
    ) -> None:
        self.priority = priority
        self.enabled = True
        self._server_timing = server_timing
        self._on_time = on_time or _log_time

    async def __call__(self, request: GuardRequest) -> None:
        """Start the clock; never refuses."""
        start = time.perf_counter()
        method, path, report = request.method, request.url_path, self._on_time
        hooks = response_hooks(request)
        hooks.finished.append(lambda status: report(method, path, status, time.perf_counter() - start))
        if self._server_timing:
            hooks.add_header("Server-Timing", lambda: f"app;dur={(time.perf_counter() - start) * 1000:.1f}")


def _log_time(method: str, path: str, status: int | None, seconds: float) -> None:
    log_visibly(log, logging.INFO, "chio: %s %r answered %s in %.1f ms", method, path, status, seconds * 1000)
