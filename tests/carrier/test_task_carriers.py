"""`HttpxCarrier` and `InProcessCarrier`: foreign transports, and the sidecar in this process."""

from __future__ import annotations

import asyncio
import gzip
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from chio_core.client.carrier import MAX_RESPONSE_BYTES, TaskCarrier
from chio_core.client.in_process import InProcessCarrier
from chio_core.client.via_httpx import HttpxCarrier
from chio_core.errors import EvaluationFailed, Overloaded, SidecarError, SidecarTimeout, SidecarUnreachable
from tests.carrier.stubs import open_files
from tests.support import QUESTION, StubServer

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


def over_httpx(handler: Handler) -> HttpxCarrier:
    return HttpxCarrier("http://embedded", Transport(handler))


def in_process(handler: Handler) -> InProcessCarrier:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        url = f"http://embedded{scope['path']}?{scope['query_string'].decode()}".removesuffix("?")
        response = await handler(httpx.Request(scope["method"], url, headers=scope["headers"], content=body))
        await send(
            {"type": "http.response.start", "status": response.status_code, "headers": list(response.headers.raw)}
        )
        for part in (response.content[:1], response.content[1:]):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})

    return InProcessCarrier(app)


both = pytest.mark.parametrize("carrier_for", [over_httpx, in_process])


async def echo(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, headers={"content-type": "application/json"}, content=request.content)


@both
async def test_an_answer_is_given_as_it_came(carrier_for: Callable[[Handler], TaskCarrier]) -> None:
    seen: list[httpx.Request] = []

    async def noting(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return await echo(request)

    carrier = carrier_for(noting)
    answer = await carrier.post("/chio/evaluate?a=%20", b"{}", [("X-Chio-Capability", "t")], 5)
    assert (answer.status, answer.content_type, answer.body) == (200, "application/json", b"{}")
    assert (seen[0].method, str(seen[0].url)) == ("POST", "http://embedded/chio/evaluate?a=%20")
    headers = seen[0].headers
    assert (headers["content-type"], headers["x-chio-capability"]) == ("application/json", "t")
    assert (headers["host"], headers["content-length"]) == ("embedded", "2")
    assert "gzip" not in headers.get("accept-encoding", "")
    await carrier.aclose()


async def test_the_base_url_stands_before_the_path_and_closing_closes_the_transport() -> None:
    transport = Transport(echo)
    carrier = HttpxCarrier("http://sidecar/base", transport)
    await carrier.post("/chio/evaluate", b"{}", (), 5)
    assert str(transport.requests[0].url) == "http://sidecar/base/chio/evaluate"
    await carrier.aclose()
    assert transport.closed


@both
async def test_a_cancelled_caller_leaves_the_exchange_running(carrier_for: Callable[[Handler], TaskCarrier]) -> None:
    go, started, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(request: httpx.Request) -> httpx.Response:
        started.set()
        await go.wait()
        ended.set()
        return httpx.Response(200)

    carrier = carrier_for(slow)
    call = asyncio.ensure_future(carrier.post("/", b"", (), 5))
    await started.wait()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert call.cancelled()
    go.set()
    await carrier.aclose()
    assert ended.is_set()


@pytest.mark.parametrize(("carrier_for", "error"), [(over_httpx, SidecarTimeout), (in_process, Overloaded)])
async def test_the_deadline_ends_the_wait_and_not_the_exchange(
    carrier_for: Callable[[Handler], TaskCarrier], error: type[SidecarError]
) -> None:
    """An embedded sidecar that is late is this process, which is late."""
    go, ended = asyncio.Event(), asyncio.Event()

    async def slow(request: httpx.Request) -> httpx.Response:
        await go.wait()
        ended.set()
        return httpx.Response(200)

    carrier = carrier_for(slow)
    with pytest.raises(error):
        await carrier.post("/", b"", (), 0.3)
    go.set()
    await carrier.aclose()
    assert ended.is_set()


@both
async def test_a_deadline_that_a_held_loop_has_missed_says_nothing_about_the_sidecar(
    carrier_for: Callable[[Handler], TaskCarrier],
) -> None:
    go = asyncio.Event()

    async def slow(request: httpx.Request) -> httpx.Response:
        await go.wait()
        return httpx.Response(200)

    carrier = carrier_for(slow)
    asked = asyncio.ensure_future(carrier.post("/", b"", (), 0.2))
    await asyncio.sleep(0)
    end = time.monotonic() + 0.6
    while time.monotonic() < end:
        pass
    with pytest.raises(Overloaded, match="too busy"):
        await asked
    go.set()
    await carrier.aclose()


async def test_a_failed_connect_is_tried_once_more_with_the_same_bytes() -> None:
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


@pytest.mark.parametrize(
    ("raised", "expected", "attempts"),
    [
        (httpx.ConnectError("x"), SidecarUnreachable, 2),
        (httpx.ConnectTimeout("x"), SidecarUnreachable, 1),
        (httpx.PoolTimeout("x"), Overloaded, 1),
        (httpx.ReadTimeout("x"), SidecarTimeout, 1),
        (httpx.WriteTimeout("x"), SidecarTimeout, 1),
        (httpx.ReadError("x"), EvaluationFailed, 1),
        (httpx.RemoteProtocolError("x"), EvaluationFailed, 1),
        (httpx.UnsupportedProtocol("x"), EvaluationFailed, 1),
        (RuntimeError("a bug of the transport"), EvaluationFailed, 1),
    ],
)
async def test_every_error_has_its_place_in_the_table(
    raised: Exception, expected: type[SidecarError], attempts: int
) -> None:
    async def failing(request: httpx.Request) -> httpx.Response:
        raise raised

    transport = Transport(failing)
    carrier = HttpxCarrier("http://sidecar", transport)
    with pytest.raises(expected):
        await carrier.post("/", b"", (), 5)
    assert len(transport.requests) == attempts
    await carrier.aclose()


@both
async def test_a_bug_on_the_other_side_is_an_evaluation_that_failed(
    carrier_for: Callable[[Handler], TaskCarrier],
) -> None:
    async def failing(request: httpx.Request) -> httpx.Response:
        raise ValueError("a bug of the sidecar")

    carrier = carrier_for(failing)
    with pytest.raises(EvaluationFailed, match="ValueError"):
        await carrier.post("/", b"", (), 5)
    await carrier.aclose()


@pytest.mark.parametrize("messages", [[], [{"type": "http.response.start", "status": 200, "headers": []}]])
async def test_an_application_that_returns_too_early_has_given_no_answer(messages: list[dict[str, Any]]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    carrier = InProcessCarrier(app)
    with pytest.raises(EvaluationFailed, match="no complete response"):
        await carrier.post("/", b"", (), 5)
    await carrier.aclose()


async def test_an_application_in_this_process_hears_of_the_end_only_after_its_answer() -> None:
    after: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(receive(), 0.01)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})
        after.append((await receive())["type"])

    carrier = InProcessCarrier(app)
    assert (await carrier.post("/", b"", (), 5)).status == 204
    assert after == ["http.disconnect"]
    await carrier.aclose()


@both
async def test_too_long_an_answer_is_cut_off(carrier_for: Callable[[Handler], TaskCarrier]) -> None:
    async def long(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=b"x" * (MAX_RESPONSE_BYTES + 1))

    carrier = carrier_for(long)
    with pytest.raises(EvaluationFailed, match="too long"):
        await carrier.post("/", b"", (), 5)
    await carrier.aclose()


async def test_a_compressed_response_is_understood() -> None:
    async def zipped(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-encoding": "gzip"}, content=gzip.compress(b"{}"))

    carrier = HttpxCarrier("http://sidecar", Transport(zipped))
    assert (await carrier.post("/", b"", (), 5)).body == b"{}"
    await carrier.aclose()


@pytest.mark.parametrize("pause", [0.0, 0.0005, 0.003])
async def test_cancelled_calls_do_not_poison_the_pool_of_httpx(pause: float) -> None:
    """httpcore 1.0.9 loses slots when its requests are cancelled while connecting; these never are."""
    before = open_files()
    chance = random.Random(7)
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
    assert open_files() <= before
