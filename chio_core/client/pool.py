"""The pool of connections behind the asynchronous client: at most `limit`, opened on demand, first come first served.

An opening connection belongs to no caller: a caller without a connection waits in line, and each new connection serves
the head of the line. So a caller that is cancelled during an opening leaves an idle connection behind, not a lost slot.
`size` counts connections that are open or being opened; after every step it is at most `limit`, and no caller waits
while there is an idle connection or a free slot.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncGenerator, Coroutine
from functools import partial
from typing import Any

from chio_core.client.carrier import (
    OWN_SHARE,
    WAITING_SHARE,
    Deadline,
    Late,
    Pairs,
    closed,
    expire,
    held,
    no_connection,
    no_response,
)
from chio_core.client.connection import Connection, request_head
from chio_core.concurrency.loop_thread import at_loop_end
from chio_core.endpoint import Endpoint
from chio_core.errors import SidecarError, SidecarUnreachable
from chio_core.evaluation.exchange import RawResponse

MAX_IDLE_SECONDS = 30.0


class ConnectionPool:
    """An `AsyncCarrier` over keep-alive HTTP/1.1, for `http://`, `https://` and `unix:` URLs.

    Args:
        endpoint: where the sidecar listens.
        limit: most connections at a time.
        connect_timeout: seconds to open one.
        max_idle: seconds after which an unused connection is not used again.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        limit: int = 64,
        connect_timeout: float = 2.0,
        max_idle: float = MAX_IDLE_SECONDS,
    ) -> None:
        self._endpoint = endpoint
        self._limit = limit
        self._connect_timeout = connect_timeout
        self._max_idle = max_idle
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._openers: set[asyncio.Task[None]] = set()
        self._line: deque[asyncio.Future[Connection]] = deque()
        self._tls: ssl.SSLContext | None = None
        self._ending: AsyncGenerator[None] | None = None
        self._closing = False
        self._count = 0  # connections that were ever open

    @property
    def size(self) -> int:
        """Number of connections that are open or being opened."""
        return len(self._open) + len(self._openers)

    @property
    def idle(self) -> int:
        """Number of idle connections."""
        return sum(connection.usable for connection in self._idle)

    def post(self, path: str, body: bytes, headers: Pairs, timeout: float) -> Coroutine[Any, Any, RawResponse]:
        """See `AsyncCarrier.post`. A failed attempt to connect is repeated once."""
        return self._call(request_head(self._endpoint, path, len(body), headers) + body, timeout)

    def get(self, path: str, headers: Pairs, timeout: float) -> Coroutine[Any, Any, RawResponse]:
        """See `Getter.get`. A failed attempt to connect is repeated once."""
        return self._call(request_head(self._endpoint, path, None, headers), timeout)

    async def _call(self, data: bytes, timeout: float) -> RawResponse:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        try:
            owner = await self._send(loop, data, deadline, timeout)
        except SidecarUnreachable:
            owner = await self._send(loop, data, deadline, timeout)
        return await owner

    async def aclose(self) -> None:
        """Close everything; running exchanges end with an error."""
        self._closing = True
        if self._ending is not None:
            await self._ending.aclose()
        await self._close_all()

    def abandon(self) -> None:
        """Close the connections in the pool's loop, without waiting."""
        for connection in list(self._open):
            connection.abort()

    async def _close_all(self) -> None:
        openers = list(self._openers)
        for opener in openers:
            opener.cancel()
        for connection in list(self._open):
            connection.abort()
        await asyncio.gather(*openers, return_exceptions=True)
        while self._line:
            self._fail_next(closed())
        await asyncio.sleep(0)  # lets the transports report that they are closed

    async def _send(
        self, loop: asyncio.AbstractEventLoop, data: bytes, deadline: float, timeout: float
    ) -> asyncio.Future[RawResponse]:
        late: Late = no_response
        connection = self._take_idle(loop.time())
        if connection is None:
            connection, queued = await self._stand_in_line(loop, deadline, timeout)
            # Who waited behind others, or for a loop that did not run, has left the sidecar less than its time.
            if queued:
                late = no_connection
            elif deadline - loop.time() < timeout * OWN_SHARE:
                late = held
        return connection.exchange(data, deadline, loop, late)

    def _take_idle(self, now: float) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.usable:
                continue
            if now - connection.idle_since < self._max_idle:
                return connection
            connection.abort()
        if self._closing:
            raise closed()
        return None

    async def _stand_in_line(
        self, loop: asyncio.AbstractEventLoop, deadline: float, timeout: float
    ) -> tuple[Connection, bool]:
        """Return a connection, and whether the caller had to wait until others were done with theirs."""
        waiter: asyncio.Future[Connection] = loop.create_future()
        self._line.append(waiter)
        self._open_for_line()
        queued = self.size >= self._limit and len(self._line) > len(self._openers)
        before = self._count - len(self._open)

        def error() -> SidecarError:
            if end.was_held(timeout):
                return held()
            if queued and self._count > before:  # connections were open meanwhile, but not for this caller
                return no_connection()
            return SidecarUnreachable("cannot connect to the Chio sidecar: connecting took too long")

        # What would be served too late for a response must not take a connection from those that would not.
        latest = max(loop.time(), deadline - timeout * (1 - WAITING_SHARE)) if queued else deadline
        end = Deadline(loop, latest, partial(expire, waiter, error))
        try:
            return await waiter, queued
        except asyncio.CancelledError:
            # The connection may have been handed over in the same tick: it goes to the next in line.
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._serve(waiter.result())
            raise
        finally:
            end.cancel()

    def _open_for_line(self) -> None:
        if self.size >= self._limit:
            return
        wanting = sum(not waiter.done() for waiter in self._line)
        while len(self._openers) < wanting and self.size < self._limit and not self._closing:
            opener = asyncio.ensure_future(self._connect())
            self._openers.add(opener)
            opener.add_done_callback(self._opened)

    def _opened(self, opener: asyncio.Task[None]) -> None:
        self._openers.discard(opener)
        error = None if opener.cancelled() else opener.exception()
        if error is not None:
            reason = self._endpoint.reason(error)
            self._fail_next(SidecarUnreachable(f"cannot connect to the Chio sidecar: {reason}"))
        self._open_for_line()

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        end = self._endpoint
        if self._ending is None:
            self._ending = await at_loop_end(self._close_all)
        async with asyncio.timeout(None) as limit:
            deadline = Deadline(loop, loop.time() + self._connect_timeout, lambda: limit.reschedule(loop.time()))
            try:
                if end.socket_path is not None:
                    _, connection = await loop.create_unix_connection(self._protocol, end.socket_path)
                else:
                    if end.tls and self._tls is None:
                        self._tls = ssl.create_default_context()
                    _, connection = await loop.create_connection(self._protocol, end.host, end.port, ssl=self._tls)
            finally:
                deadline.cancel()
        if connection.closed:  # lost before this task resumed; `_gone` was called already
            raise ConnectionResetError("the sidecar hung up")
        self._openers.discard(asyncio.current_task())  # it is counted as open from here on
        self._open.add(connection)
        self._count += 1
        self._serve(connection)

    def _protocol(self) -> Connection:
        return Connection(self._serve, self._gone)

    def _serve(self, connection: Connection) -> None:
        if not connection.usable:
            return
        while self._line:
            waiter = self._line.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)

    def _fail_next(self, error: SidecarError) -> None:
        while self._line:
            waiter = self._line.popleft()
            if not waiter.done():
                waiter.set_exception(error)
                return

    def _gone(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if self._line:
            self._open_for_line()
