"""The two interfaces of a carrier, and what their implementations share.

A carrier takes the bytes of an evaluate request to the sidecar and returns the raw response. It verifies nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

from chio_core.errors import EvaluationFailed, Overloaded, SidecarError, SidecarTimeout
from chio_core.evaluation.exchange import RawResponse
from chio_core.names import LOGGER

log = logging.getLogger(LOGGER)

MAX_RESPONSE_BYTES = 1024 * 1024
"""Longer responses are refused. A receipt has one to three kilobytes."""

OWN_SHARE: Final = 0.1
"""A timeout is ours, not the sidecar's, if no more than this part of it was left when the request was sent."""

WAITING_SHARE: Final = 0.5
"""Part of a timeout that a call may wait until another one is done with its connection.

The rest is for the exchange. Under overload, calls that wait to the end of their time get connections that they cannot
use any more: the sidecar stores decisions that no caller sees, and hardly any call succeeds.
"""

LOOK_AGAIN: Final = 0.02
"""Seconds that an event loop gets at a deadline to handle what has arrived."""

Pairs = Sequence[tuple[str, str]]


Late = Callable[[], SidecarError]
"""Returns the error for a wait that took too long."""


def no_response() -> SidecarError:
    """The sidecar used its whole time."""
    return SidecarTimeout("Chio sidecar did not answer in time")


def no_connection() -> SidecarError:
    """The pool of connections is full."""
    return Overloaded("all connections to the Chio sidecar were in use (max_connections)")


def held() -> SidecarError:
    """The event loop, or the thread, did not run."""
    return Overloaded("this process was too busy to call the Chio sidecar in time")


def closed() -> SidecarError:
    """The client is closed; that states nothing about the sidecar either."""
    return Overloaded("the Chio client was closed")


class AsyncCarrier(Protocol):
    """Carries one POST at a time for one event loop."""

    async def post(self, path: str, body: bytes, headers: Pairs, timeout: float) -> RawResponse:
        """Send `body` as JSON to `path` and return the response.

        Args:
            timeout: seconds for the whole exchange, waiting for a connection included: at most `WAITING_SHARE` of them
                while all are in use.

        Raises:
            SidecarUnreachable: no connection could be opened.
            SidecarTimeout: the time ran out.
            Overloaded: no connection became free in time, or the time ran out and this process is the reason.
            EvaluationFailed: the connection broke after the request was sent, or the response is not HTTP.
        """
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


class Getter(Protocol):
    """Fetches documents for one event loop; a cancelled caller leaves no connection occupied."""

    async def get(self, path: str, headers: Pairs, timeout: float) -> RawResponse:
        """Return the response to a GET, and follow no redirect; for the rest see `AsyncCarrier.post`."""
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


class Deadline:
    """Calls a function when a time of the event loop has passed and nothing has arrived, unless it is cancelled.

    A loop that runs late finds timers and input at once, and some loops run the timers first. So the function is called
    only after the loop had the time again by which it was late, and what had arrived meanwhile was handled.

    Args:
        loop: the running loop.
        at: a time of `loop.time()`.
        action: the function.

    Attributes:
        at: the argument.
    """

    __slots__ = ("_action", "_late", "_loop", "_timer", "at")

    def __init__(self, loop: asyncio.AbstractEventLoop, at: float, action: Callable[[], object]) -> None:
        self._loop, self.at, self._action = loop, at, action
        self._timer = loop.call_at(at, self._look_again)
        self._late = 0.0

    def cancel(self) -> None:
        """Call nothing any more."""
        self._timer.cancel()

    def was_held(self, timeout: float) -> bool:
        """Return True if the loop was late by half of a timeout, or more."""
        return self._late > max(timeout / 2, 0.1)

    def _look_again(self) -> None:
        self._late = self._loop.time() - self.at
        self._timer = self._loop.call_later(max(self._late, LOOK_AGAIN), self._action)


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

    def late(self) -> SidecarError:
        """Return the error for an exchange that takes too long."""
        return no_response()

    async def exchange(self, path: str, body: bytes | None, headers: Pairs, timeout: float) -> RawResponse:
        """Send one request and return its response; subclasses implement it, and `post` maps its errors.

        Args:
            body: the JSON of a POST; None: a GET, which has none.
        """
        raise NotImplementedError

    async def post(self, path: str, body: bytes, headers: Pairs, timeout: float) -> RawResponse:
        """See `AsyncCarrier.post`."""
        return await self._call(path, body, headers, timeout)

    async def get(self, path: str, headers: Pairs, timeout: float) -> RawResponse:
        """See `Getter.get`."""
        return await self._call(path, None, headers, timeout)

    async def _call(self, path: str, body: bytes | None, headers: Pairs, timeout: float) -> RawResponse:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[RawResponse] = loop.create_future()
        task = loop.create_task(self._run(waiter, path, body, headers, timeout))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        deadline = Deadline(loop, loop.time() + timeout, partial(expire, waiter, self.late))
        try:
            return await waiter  # only the wait ends when this call is cancelled
        except SidecarTimeout:
            if deadline.was_held(timeout):
                raise held() from None
            raise
        finally:
            deadline.cancel()

    async def _run(
        self, waiter: asyncio.Future[RawResponse], path: str, body: bytes | None, headers: Pairs, timeout: float
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


def expire(waiter: asyncio.Future[Any], error: Late) -> None:
    """End a wait with an error; to be called by a `Deadline`."""
    if not waiter.done():
        waiter.set_exception(error())
