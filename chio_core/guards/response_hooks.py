"""Response headers and end-of-request callbacks that guards queue, and the guards that do nothing else.

A guard that only adds a header or measures the time needs no `next`: before the response exists it queues a
`header_change` here, and the driver of each framework applies it to every response, refusals and streams included. That
keeps such guards at microseconds. `RequestId`, `SecurityHeaders` and `Stopwatch` are such guards; they refuse nothing.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from chio_core.errors import ConfigurationError
from chio_core.names import LOGGER, STATE_REQUEST_ID, STATE_RESPONSE_HOOKS
from chio_core.request import GuardRequest
from chio_core.telemetry.notices import log_visibly

log = logging.getLogger(LOGGER)

_BREAK = re.compile(r"[\r\n\0]")

HeaderValue = str | Callable[[], str]
"""A value, or a function that returns it when the head is sent."""

HeaderChange = tuple[str, str, HeaderValue, bool]
"""Name in lower case, name as written, value, and whether it replaces a header of the application."""


def header_change(name: str, value: HeaderValue, *, replace: bool = True) -> HeaderChange:
    """Return the change that adds one header; it can be added to many responses.

    Args:
        replace: replace the application's header of that name; otherwise that one stays and this one is left out.

    Raises:
        ConfigurationError: a line break in name or value.
    """
    if _BREAK.search(name) or (isinstance(value, str) and _BREAK.search(value)):
        raise ConfigurationError(f"header {name!r} contains a line break")
    return name.lower(), name, value, replace


@dataclass(slots=True)
class ResponseHooks:
    """Pending response changes for one request.

    Attributes:
        headers: changes in the order of the guards, outermost first; the last one for a header counts.
        finished: called once with the response's status (None without a response), after the last byte or the failure.
    """

    headers: list[HeaderChange] = field(default_factory=list)
    finished: list[Callable[[int | None], None]] = field(default_factory=list)

    def add_header(self, name: str, value: HeaderValue, *, replace: bool = True) -> None:
        """Add a header to the response; see `header_change`.

        Raises:
            ConfigurationError: a line break in name or value.
        """
        self.headers.append(header_change(name, value, replace=replace))

    def lines(self) -> dict[str, tuple[str, str, bool]]:
        """Return name, value and `replace` of each header to add, by its name in lower case."""
        found: dict[str, tuple[str, str, bool]] = {}
        for lower, name, value, replace in self.headers:
            if replace or lower not in found:
                found[lower] = (name, value if isinstance(value, str) else value(), replace)
        return found

    def apply(self, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return header lines with the changes applied; the others keep their order."""
        lines = self.lines()
        given = {name.lower() for name, _ in pairs}
        kept = [pair for pair in pairs if pair[0].lower() not in lines or not lines[pair[0].lower()][2]]
        return kept + [(name, value) for key, (name, value, replace) in lines.items() if replace or key not in given]

    def finish(self, status: int | None) -> None:
        """Call the callbacks, once; their exceptions are logged."""
        callbacks, self.finished = self.finished, []
        for callback in callbacks:
            call_at_the_end(lambda callback=callback: callback(status))  # type: ignore[misc]


def call_at_the_end(callback: Callable[[], None]) -> None:
    """Call a function at the end of a request. The response is sent: an exception is only logged."""
    try:
        callback()
    except Exception:
        log.exception("chio: a callback at the end of a request failed")


def response_hooks(request: GuardRequest) -> ResponseHooks:
    """Return the pending response changes of a request."""
    found = getattr(request.state, STATE_RESPONSE_HOOKS, None)
    if not isinstance(found, ResponseHooks):
        found = ResponseHooks()
        setattr(request.state, STATE_RESPONSE_HOOKS, found)
    return found


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
