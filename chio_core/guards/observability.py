"""RequestId: one id for the logs of this request, taken from the caller or made, and returned."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable

from chio_core.guards.response_hooks import response_hooks
from chio_core.names import LOGGER, STATE_REQUEST_ID
from chio_core.request import GuardRequest

_GOOD = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")


class RequestId:
    """Puts an id on `request.state.request_id` and on the answer.

    It is for correlation only: the id of the evaluation, which a receipt is bound to, is never the caller's choice.

    Args:
        header: request and response header.
        trust_incoming: take the caller's id if it is well-formed (1 to 128 of `A-Z a-z 0-9 . _ -`).
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
        """Note the id; never refuses."""
        given = request.headers.get(self._header.lower(), "") if self._trust else ""
        value = given if _GOOD.match(given) else str(uuid.uuid4())
        setattr(request.state, STATE_REQUEST_ID, value)
        response_hooks(request).add_header(self._header, value)


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
        wishes = response_hooks(request)
        wishes.finished.append(lambda status: report(method, path, status, time.perf_counter() - start))
        if self._server_timing:
            wishes.add_header("Server-Timing", lambda: f"app;dur={(time.perf_counter() - start) * 1000:.1f}")


def _write(method: str, path: str, status: int | None, seconds: float) -> None:
    log.info("chio: %s %r answered %s in %.1f ms", method, path, status, seconds * 1000)
