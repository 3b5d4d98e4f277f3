"""A hundred requests at once to a sidecar that is slow in every way (C3): other routes are served, each request ends.

The requests are those of an application in an event loop and of one under threads.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest
from flask import Flask
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from chio_asgi import ChioASGIMiddleware
from chio_flask import Chio
from tests.carrier.stubs import Scripted, until
from tests.faces.wsgi import call as wsgi_call
from tests.faces.wsgi import environ
from tests.stub_sidecar import PUBLIC_KEY, http_response
from tests.support import Judge, call, settings

AT_ONCE = 100
CONNECTIONS = 64
"""The default of `max_connections`; the other requests wait for one."""

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"

SLOW = [(b"", b""), (b"HTTP/1.1 200 O", b"K"), (HEAD + b"x: ", b"a"), (HEAD + b"content-length: 90000\r\n\r\n{", b" ")]
"""How responses start, and what then comes again and again: nothing, or more of a status line, a header or a body."""

Send = Callable[[str], Awaitable[int]]


class SlowSidecar:
    """A sidecar that is slow in one way of several on each connection.

    Attributes:
        good: set: it responds as it should, also to requests that have got nothing so far.
    """

    def __init__(self, ways: Sequence[tuple[bytes, bytes]]) -> None:
        self.good = asyncio.Event()
        self.server = Scripted(self._handle)
        self._ways = itertools.cycle(ways)
        self._judge = Judge()

    async def _handle(self, server: Scripted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        start, drip = next(self._ways)
        while True:
            body = await server.read(reader)
            if not self.good.is_set():
                writer.write(start)
                while drip and not writer.is_closing():
                    writer.write(drip)
                    await writer.drain()
                    await asyncio.sleep(0.02)
                await self.good.wait()
            writer.write(http_response(self._judge.answer(body, {})))


@asynccontextmanager
async def in_a_loop(ran: list[str], **options: Any) -> AsyncIterator[Send]:
    async def handler(request: Request) -> PlainTextResponse:
        ran.append(request.url.path)
        return PlainTextResponse("")

    app = ChioASGIMiddleware(Starlette(routes=[Route("/{rest}", handler)]), config=settings(**options))

    async def send(path: str) -> int:
        return (await call(app, "GET", path)).status

    yield send
    await app.client.aclose()


@asynccontextmanager
async def under_threads(ran: list[str], **options: Any) -> AsyncIterator[Send]:
    app = Flask("slow")
    app.add_url_rule("/<rest>", "handler", lambda rest: str(ran.append(f"/{rest}")))
    chio = {"trusted_kernel_keys": [PUBLIC_KEY], **options}
    Chio(app, **chio)
    with ThreadPoolExecutor(AT_ONCE + 5) as threads:

        async def send(path: str) -> int:
            loop = asyncio.get_running_loop()
            return (await loop.run_in_executor(threads, wsgi_call, app.wsgi_app, environ("GET", path))).status

        yield send


applications = pytest.mark.parametrize("application", [in_a_loop, under_threads])


@applications
async def test_other_routes_are_served_while_a_hundred_requests_wait_for_the_sidecar(application: Any) -> None:
    ran: list[str] = []
    sidecar = SlowSidecar([(b"", b"")])
    async with sidecar.server.listen() as server:
        options = {"sidecar_url": f"http://127.0.0.1:{server.port}", "timeout": 60.0, "exclude_paths": ["/free"]}
        async with application(ran, **options) as send:
            waiting = [asyncio.ensure_future(send("/governed")) for _ in range(AT_ONCE)]
            await until(lambda: len(server.requests) == CONNECTIONS, 20)
            assert [await send("/free") for _ in range(20)] == [200] * 20
            assert ran == ["/free"] * 20
            assert not any(one.done() for one in waiting)
            sidecar.good.set()
            assert await asyncio.gather(*waiting) == [200] * AT_ONCE
    assert ran.count("/governed") == AT_ONCE


@applications
async def test_each_of_a_hundred_requests_ends_at_its_deadline_and_the_next_hundred_succeed(application: Any) -> None:
    ran: list[str] = []
    sidecar = SlowSidecar(SLOW)
    async with sidecar.server.listen() as server:
        options = {"sidecar_url": f"http://127.0.0.1:{server.port}", "timeout": 2.0, "exclude_paths": ["/free"]}
        async with application(ran, **options) as send:
            assert await asyncio.gather(*(send("/governed") for _ in range(AT_ONCE))) == [503] * AT_ONCE
            assert ran == []
            sidecar.good.set()
            for _ in range(10):
                assert await asyncio.gather(*(send("/governed") for _ in range(10))) == [200] * 10
