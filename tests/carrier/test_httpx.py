"""`HttpxCarrier`: other people's transports, and the sidecar in this process."""

from __future__ import annotations

import asyncio
import gzip
import random
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from chio_core.client.carrier import MAX_ANSWER_BYTES
from chio_core.client.via_httpx import HttpxCarrier
from chio_core.errors import EvaluationFailed, SidecarError, SidecarTimeout, SidecarUnreachable
from tests.carrier.stubs import open_files
from tests.support import QUESTION, StubServer, run

Handler = Callable[[httpx.Request], Awaitable[httpx.Response]]


class Transport(httpx.AsyncBaseTransport):
    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.requests: list[httpx.Request] = []
        self.closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return await self._handler(request)

    async def aclose(self) -> None:
        self.closed = True


async def echo(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, headers={"content-type": "application/json"}, content=request.content)


def test_an_answer_is_given_as_it_came() -> None:
    async def main() -> None:
        transport = Transport(echo)
        carrier = HttpxCarrier("http://sidecar/base", transport)
        answer = await carrier.post("/chio/evaluate", b"{}", [("x-chio-capability", "t")], 5)
        assert (answer.status, answer.content_type, answer.body) == (200, "application/json", b"{}")
        sent = transport.requests[0]
        assert str(sent.url) == "http://sidecar/base/chio/evaluate"
        assert (sent.headers["content-type"], sent.headers["x-chio-capability"]) == ("application/json", "t")
        assert "gzip" not in sent.headers["accept-encoding"]
        await carrier.aclose()
        assert transport.closed

    run(main())


def test_whoever_waits_can_be_cancelled_and_the_exchange_goes_on() -> None:
    async def main() -> None:
        go, ended = asyncio.Event(), asyncio.Event()

        async def slow(request: httpx.Request) -> httpx.Response:
            await go.wait()
            ended.set()
            return httpx.Response(200)

        carrier = HttpxCarrier("http://sidecar", Transport(slow))
        call = asyncio.ensure_future(carrier.post("/", b"", (), 5))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert call.cancelled()
        go.set()
        await carrier.aclose()
        assert ended.is_set()

    run(main())


def test_the_deadline_ends_the_wait_and_not_the_exchange() -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def slow(request: httpx.Request) -> httpx.Response:
            await go.wait()
            return httpx.Response(200)

        carrier = HttpxCarrier("http://sidecar", Transport(slow))
        with pytest.raises(SidecarTimeout):
            await carrier.post("/", b"", (), 0.01)
        go.set()
        await carrier.aclose()

    run(main())


def test_a_failed_connect_is_tried_once_more_with_the_same_bytes() -> None:
    async def main() -> None:
        attempts: list[bytes] = []

        async def flaky(request: httpx.Request) -> httpx.Response:
            attempts.append(request.content)
            if len(attempts) == 1:
                raise httpx.ConnectError("refused")
            return await echo(request)

        carrier = HttpxCarrier("http://sidecar", Transport(flaky))
        assert (await carrier.post("/", b'{"request_id":"1"}', (), 5)).status == 200
        assert attempts == [b'{"request_id":"1"}'] * 2
        await carrier.aclose()

    run(main())


@pytest.mark.parametrize(
    ("raised", "expected", "attempts"),
    [
        (httpx.ConnectError("x"), SidecarUnreachable, 2),
        (httpx.ConnectTimeout("x"), SidecarUnreachable, 1),
        (httpx.PoolTimeout("x"), SidecarUnreachable, 1),
        (httpx.ReadTimeout("x"), SidecarTimeout, 1),
        (httpx.WriteTimeout("x"), SidecarTimeout, 1),
        (httpx.ReadError("x"), EvaluationFailed, 1),
        (httpx.RemoteProtocolError("x"), EvaluationFailed, 1),
        (httpx.UnsupportedProtocol("x"), EvaluationFailed, 1),
        (RuntimeError("a bug of the transport"), EvaluationFailed, 1),
    ],
)
def test_every_error_has_its_place_in_the_table(raised: Exception, expected: type[SidecarError], attempts: int) -> None:
    async def main() -> None:
        async def failing(request: httpx.Request) -> httpx.Response:
            raise raised

        transport = Transport(failing)
        carrier = HttpxCarrier("http://sidecar", transport)
        with pytest.raises(expected):
            await carrier.post("/", b"", (), 5)
        assert len(transport.requests) == attempts
        await carrier.aclose()

    run(main())


def test_an_application_that_fails_is_an_answer_that_failed() -> None:
    """The sidecar in this process is an ASGI application; its errors are not ours."""

    async def main() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            raise ValueError("a bug of the sidecar")

        carrier = HttpxCarrier("http://embedded", httpx.ASGITransport(app=app))
        with pytest.raises(EvaluationFailed):
            await carrier.post("/", b"", (), 5)
        await carrier.aclose()

    run(main())


def test_too_long_an_answer_is_cut_off() -> None:
    async def main() -> None:
        async def long(request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, content=b"x" * (MAX_ANSWER_BYTES + 1))

        carrier = HttpxCarrier("http://sidecar", Transport(long))
        with pytest.raises(EvaluationFailed, match="too long"):
            await carrier.post("/", b"", (), 5)
        await carrier.aclose()

    run(main())


def test_an_answer_that_was_compressed_unasked_is_understood() -> None:
    async def main() -> None:
        async def zipped(request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, headers={"content-encoding": "gzip"}, content=gzip.compress(b"{}"))

        carrier = HttpxCarrier("http://sidecar", Transport(zipped))
        assert (await carrier.post("/", b"", (), 5)).body == b"{}"
        await carrier.aclose()

    run(main())


@pytest.mark.parametrize("pause", [0.0, 0.0005, 0.003])
def test_cancelled_calls_do_not_poison_the_pool_of_httpx(pause: float) -> None:
    """httpcore 1.0.9 loses slots when its requests are cancelled while connecting; ours never are."""
    before = open_files()
    chance = random.Random(7)

    async def main() -> None:
        async with StubServer() as server:
            limits = httpx.Limits(max_connections=5, max_keepalive_connections=5)
            carrier = HttpxCarrier(server.url, httpx.AsyncHTTPTransport(limits=limits))

            async def one() -> None:
                call = asyncio.ensure_future(carrier.post("/chio/evaluate", QUESTION, (), 10))
                await asyncio.sleep(pause * chance.random())
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)

            for _ in range(10):
                await asyncio.gather(*(one() for _ in range(16)))
            for _ in range(10):
                assert (await carrier.post("/chio/evaluate", QUESTION, (), 10)).status == 200
            await carrier.aclose()

    run(main())
    assert open_files() <= before
