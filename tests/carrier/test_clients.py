"""`ChioClient` over its carriers: loops, restarts, the retry, and a thousand clients at once."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import uvloop

from chio_asgi.middleware import ChioASGIMiddleware
from chio_asgi.view import ASGIGuardRequest
from chio_core.client.client import ChioClient, SyncChioClient
from chio_core.evaluation.exchange import EvaluateCall, prepare
from chio_core.evaluation.precheck import Presented
from chio_core.identity import default_extractor
from tests.carrier.stubs import in_thread, open_files
from tests.support import Judge, StubServer, call, http_scope, run, settings


def question(number: int = 0) -> EvaluateCall:
    view = ASGIGuardRequest(http_scope("GET", f"/pets/{number}"))
    caller = default_extractor()(view)
    return prepare(
        view, settings(), request_id=f"request-{number}", now=time.time(), caller=caller, presented=Presented()
    )


def test_a_client_follows_its_caller_from_loop_to_loop() -> None:
    before = open_files()
    with in_thread(StubServer()) as server:
        client = ChioClient(settings(sidecar_url=server.url))

        async def three() -> None:
            for number in range(3):
                assert (await client.evaluate(question(number))).allowed
            await client.aclose()

        for _ in range(4):
            run(three())
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(three())
    assert open_files() <= before + 2  # libuv keeps two


def test_two_loops_at_once_share_a_client_without_losing_sockets() -> None:
    with in_thread(StubServer()) as server:
        client = ChioClient(settings(sidecar_url=server.url))
        turns = 100
        barrier = threading.Barrier(2)

        async def many() -> None:
            for number in range(turns):
                await asyncio.to_thread(barrier.wait, 20)  # so that the loops really take turns
                assert (await client.evaluate(question(number))).allowed
            await client.aclose()

        with ThreadPoolExecutor(2) as threads:
            for result in [threads.submit(run, many()) for _ in range(2)]:
                result.result(60)
        assert server.accepted <= 4


def test_closing_in_another_loop_harms_no_connection() -> None:
    with in_thread(StubServer()) as server:
        client = ChioClient(settings(sidecar_url=server.url))
        loop = asyncio.new_event_loop()
        try:
            assert loop.run_until_complete(client.evaluate(question())).allowed
            run(client.aclose())
            assert loop.run_until_complete(client.evaluate(question())).allowed
            loop.run_until_complete(client.aclose())
        finally:
            loop.close()
        run(client.aclose())


async def test_the_retry_after_a_refused_connection_keeps_the_request_id() -> None:
    judge = Judge()
    failures = 1

    class Refusing(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            nonlocal failures
            if failures:
                failures -= 1
                raise httpx.ConnectError("refused")
            body = judge.answer(request.content, dict(request.headers))
            return httpx.Response(200, headers={"content-type": "application/json"}, content=body)

    client = ChioClient(settings(), transport=Refusing())
    decision = await client.evaluate(question(7))
    assert decision.allowed
    assert [asked["request_id"] for asked in judge.questions] == ["request-7"]
    await client.aclose()


async def test_an_error_inside_the_transport_is_a_decision_to_refuse() -> None:
    class Broken(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            raise KeyError("a bug that is not ours")

    client = ChioClient(settings(), transport=Broken())
    decision = await client.evaluate(question())
    assert decision.denial is not None
    assert decision.denial.status == 502
    await client.aclose()


def test_a_sidecar_that_restarts_is_found_again_by_both_clients() -> None:
    server = StubServer()
    with in_thread(server):
        options = settings(sidecar_url=server.url)
        sync = SyncChioClient(options)
        loop = asyncio.new_event_loop()
        client = ChioClient(options)
        assert sync.evaluate(question()).allowed
        assert loop.run_until_complete(client.evaluate(question())).allowed
    for found in (sync.evaluate(question()), loop.run_until_complete(client.evaluate(question()))):
        assert found.denial is not None
        # The kept connection was cut: that is noticed before the request is sent, or during the exchange.
        assert found.denial.status in (502, 503)
    with in_thread(StubServer(port=server.port)):
        assert sync.evaluate(question()).allowed
        assert loop.run_until_complete(client.evaluate(question())).allowed
        sync.close()
        loop.run_until_complete(client.aclose())
    loop.close()


@pytest.mark.slow  # two requests of each client, four at full size
@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_thousand_clients_at_once_are_all_served_again_and_again(new_loop: Any, full_size: bool) -> None:
    turns = 4 if full_size else 2
    statuses: dict[int, int] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    async def main() -> None:
        async with StubServer() as server:
            client = ChioClient(settings(sidecar_url=server.url, timeout=60.0))
            governed = ChioASGIMiddleware(app, client=client)

            async def one(number: int) -> None:
                for turn in range(turns):
                    reply = await call(governed, "GET", f"/{number}/{turn}")
                    assert reply.receipt is not None
                    statuses[reply.status] = statuses.get(reply.status, 0) + 1

            await asyncio.gather(*(one(number) for number in range(1000)))
            assert server.accepted <= client.settings.max_connections
            assert len(server.judge.questions) == 1000 * turns
            await client.aclose()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
    gc.collect()
    assert statuses == {200: 1000 * turns}


def test_a_thousand_calls_from_threads_are_all_served() -> None:
    with in_thread(StubServer()) as server, SyncChioClient(settings(sidecar_url=server.url, timeout=60.0)) as client:
        with ThreadPoolExecutor(100) as threads:
            decisions = list(threads.map(lambda number: client.evaluate(question(number)), range(1000)))
        assert all(decision.allowed for decision in decisions)
        assert server.accepted <= client.settings.max_connections
