"""The two interfaces of a carrier, and what their implementations share.

A carrier takes the bytes of an evaluate request to the sidecar and returns the raw response. It verifies nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final, Protocol

from chio_core.errors import EvaluationFailed, SidecarError, SidecarTimeout
from chio_core.evaluation.exchange import RawResponse
from chio_core.names import LOGGER

log = logging.getLogger(LOGGER)

MAX_RESPONSE_BYTES = 1024 * 1024
"""Longer responses are refused. A receipt has one to three kilobytes."""

NO_RESPONSE: Final = "Chio sidecar did not answer in time"
"""Message of a `SidecarTimeout`."""

Pairs = Sequence[tuple[str, str]]


class AsyncCarrier(Protocol):
    """Carries one POST at a time for one event loop."""

    async def post(self, path: str, body: bytes, headers: Pairs, timeout: float) -> RawResponse:
        """Send `body` as JSON to `path` and return the response.

        Args:
            timeout: seconds for the whole exchange, waiting for a connection included.

        Raises:
            SidecarUnreachable: no connection could be opened.
            SidecarTimeout: the time ran out.
            EvaluationFailed: the connection broke after the request was sent, or the response is not HTTP.
        """
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


class BlockingCarrier(Protocol):
    """The same interface for threads."""

    def post(self, path: str, body: bytes, headers: Pairs, timeout: float) -> RawResponse:
        """See `AsyncCarrier.post`."""
        ...

    def close(self) -> None:
        """Close all connections."""
        ...


class TaskCarrier:
    """Base of the `AsyncCarrier`s that run each exchange as a separate task.

    The caller only waits for the task: a cancelled caller must not cancel the exchange. In httpcore that can leave a
    slot of the pool occupied for ever (encode/httpcore #1093), in an embedded sidecar a decision half made.

    Args:
        patience: seconds that `aclose` waits for running exchanges before it cancels them. Some transports know no
            timeout, and an exchange without a caller must not delay the end of the application.
    """

    def __init__(self, patience: float = 5.0) -> None:
        self._patience = patience
        self._running: set[asyncio.Task[None]] = set()

    async def exchange(self, path: str, body: bytes, headers: Pairs, timeout: float) -> RawResponse:
        """Send one request and return its response; subclasses implement it, and `post` maps its errors."""
        raise NotImplementedError

    async def post(self, path: str, body: bytes, headers: Pairs, timeout: float) -> RawResponse:
        """See `AsyncCarrier.post`."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[RawResponse] = loop.create_future()
        task = loop.create_task(self._run(waiter, path, body, headers, timeout))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        timer = loop.call_later(timeout, expire, waiter, NO_RESPONSE)
        try:
            return await waiter  # only the wait ends when this call is cancelled
        finally:
            timer.cancel()

    async def _run(
        self, waiter: asyncio.Future[RawResponse], path: str, body: bytes, headers: Pairs, timeout: float
    ) -> None:
        try:
            response = await self.exchange(path, body, headers, timeout)
        except asyncio.CancelledError:
            waiter.cancel()
            raise
        except Exception as exc:
            error = exc
            if not isinstance(exc, SidecarError):
                # A foreign transport, or the sidecar in this process: a bug there is an exchange that failed.
                log.exception("chio: the transport to the sidecar failed")
                error = EvaluationFailed(f"the exchange with the Chio sidecar broke: {type(exc).__name__}")
            if not waiter.done():
                waiter.set_exception(error)
        else:
            if not waiter.done():
                waiter.set_result(response)

    async def aclose(self) -> None:
        """Wait for the running exchanges, at most `patience` seconds, and cancel the others."""
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=self._patience)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)


def expire(waiter: asyncio.Future[Any], message: str) -> None:
    """End a wait with a `SidecarTimeout`; to be called by a timer."""
    if not waiter.done():
        waiter.set_exception(SidecarTimeout(message))
