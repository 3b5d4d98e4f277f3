"""Servers that misbehave in one way each, and what is watched for leaks."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from chio_core.client.blocking import BlockingPool
from chio_core.client.pool import ConnectionPool
from chio_core.endpoint import Endpoint
from chio_core.evaluation.exchange import RawResponse
from tests.stub_sidecar import http_response, split_request


class Scripted:
    """A server that runs `handler` for each connection.

    Args:
        tls: what to speak TLS with.

    Attributes:
        requests: bodies in the order in which they came.
        accepted: connections so far.
    """

    def __init__(
        self,
        handler: Callable[[Scripted, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._handler = handler
        self._tls = tls
        self.requests: list[bytes] = []
        self.accepted = 0
        self.port = 0
        self.writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint.parse(f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}")

    async def read(self, reader: asyncio.StreamReader) -> bytes:
        """Read one request; an empty end of stream is a ConnectionError."""
        data = b""
        while (found := split_request(data)) is None:
            more = await reader.read(65536)
            if not more:
                raise ConnectionResetError
            data += more
        self.requests.append(found[2])
        return found[2]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self.writers.add(writer)
        try:
            await self._handler(self, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.writers.discard(writer)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: writer.close())  # also of a task that was cancelled before its first step

    @asynccontextmanager
    async def listen(self, port: int = 0) -> AsyncIterator[Scripted]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", port, backlog=1024, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for _ in range(5):  # a connection that was accepted just now gets its task in one of the next ticks
                for task in list(self._tasks):
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
                await asyncio.sleep(0)
            await server.wait_closed()


class Threads:
    """A `BlockingPool` with the interface of `ConnectionPool`: each exchange runs in a thread.

    Args:
        endpoint, options: see `BlockingPool`.
        pool_type: the class of the pool.
    """

    def __init__(self, endpoint: Endpoint, *, pool_type: type[BlockingPool] = BlockingPool, **options: Any) -> None:
        self.blocking = pool_type(endpoint, **options)
        self._threads = ThreadPoolExecutor(32)

    @property
    def idle(self) -> int:
        return self.blocking.idle

    size = idle

    async def post(self, *arguments: Any) -> RawResponse:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.blocking.post, *arguments)

    async def aclose(self) -> None:
        self.blocking.close()
        self._threads.shutdown()


@asynccontextmanager
async def pool_for(server: Scripted, new_pool: Any = ConnectionPool, **options: float) -> AsyncIterator[Any]:
    """Make a pool, and check that it leaves nothing behind."""
    pool = new_pool(server.endpoint, **options)
    try:
        yield pool
    finally:
        await pool.aclose()
        assert (pool.size, pool.idle) == (0, 0)


def open_files() -> int:
    """Descriptors of this process, sockets among them."""
    return len(os.listdir("/proc/self/fd"))


async def echo(server: Scripted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each request with its own body."""
    while True:
        writer.write(http_response(await server.read(reader)))


LARGE = random.Random(1).randbytes(8 * 1024 * 1024)
"""A body that no send buffer takes at once."""


async def hashed(server: Scripted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each request with the hash of its body."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        body = await reader.readexactly(length)
        writer.write(http_response(hashlib.sha256(body).hexdigest().encode()))


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Let the loop run until a condition holds; it fails after `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the loop's own steps are what is waited for
            await asyncio.sleep(0)


@contextmanager
def in_thread(server: Any) -> Iterator[Any]:
    """Run a server of this folder, or a `StubServer`, in a loop of another thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    manager = server.listen() if isinstance(server, Scripted) else server

    def in_loop(step: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(step, loop).result(20)

    try:
        in_loop(manager.__aenter__())
        yield server
    finally:
        in_loop(manager.__aexit__(None, None, None))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
