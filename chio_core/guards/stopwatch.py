"""Stopwatch: how long a request took, to its last byte; logged for successes, refusals, failures and streams."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from chio_core.names import LOGGER
from chio_core.guards.response_hooks import outgoing
from chio_core.request import GuardRequest

log = logging.getLogger(LOGGER)


class Stopwatch:
    """Measures each request by itself; overlapping requests do not mix.

    Args:
        server_timing: put `Server-Timing: app;dur=…` (milliseconds until the head) on the answer.
        on_time: called with method, path, status (None when nothing was answered) and seconds, instead of the log.
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
        self._on_time = on_time or _write

    async def __call__(self, request: GuardRequest) -> None:
        """Start the clock; never refuses."""
        start = time.perf_counter()
        method, path, report = request.method, request.url_path, self._on_time
        wishes = outgoing(request)
        wishes.finished.append(lambda status: report(method, path, status, time.perf_counter() - start))
        if self._server_timing:
            wishes.add_header("Server-Timing", lambda: f"app;dur={(time.perf_counter() - start) * 1000:.1f}")


def _write(method: str, path: str, status: int | None, seconds: float) -> None:
    log.info("chio: %s %r answered %s in %.1f ms", method, path, status, seconds * 1000)
