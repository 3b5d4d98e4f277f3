"""A caller that stops waiting stops nothing else: `ConnectionPool` under cancellation (A9)."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
from typing import Any

import pytest
import uvloop

from chio_core.client.connection import Connection
from chio_core.client.pool import ConnectionPool
from chio_core.endpoint import Endpoint
from chio_core.errors import SidecarError
from tests.carrier.stubs import Scripted, echo, open_files, pool_for, until
from tests.stub_sidecar import http_response
from tests.support import QUESTION, StubServer

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter


async def ask(pool: ConnectionPool, body: bytes = b"{}", timeout: float = 20.0) -> bytes:
    return (await pool.post("/chio/evaluate", body, (), timeout)).body


async def hundred_calls_succeed(pool: ConnectionPool, body: bytes = b"{}") -> None:
    for _ in range(10):
        assert len(await asyncio.gather(*(ask(pool, body) for _ in range(10)))) == 10


@pytest.mark.parametrize("ticks", range(15))
@pytest.mark.parametrize("limit", [1, 2])
async def test_a_call_can_be_cancelled_in_any_tick(ticks: int, limit: int) -> None:
    """Before connecting, while connecting, while the request is sent, while the response arrives, and after."""
    async with Scripted(echo).listen() as server, pool_for(server, limit=limit) as pool:
        call = asyncio.ensure_future(ask(pool))
        for _ in range(ticks):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await until(lambda: pool.size == pool.idle)
        assert await ask(pool, b"next") == b"next"
        assert server.accepted <= 1 + (limit > 1)


async def test_a_connection_that_was_served_in_the_tick_of_the_cancellation_goes_to_the_next_in_line() -> None:
    class Tripping(ConnectionPool):
        victim: asyncio.Task[bytes] | None = None

        def _serve(self, connection: Connection) -> None:
            super()._serve(connection)
            if self.victim is not None and b"1" in server.requests:
                self.victim.cancel()  # it has just been handed the connection, and has not run since
                self.victim = None

    server = Scripted(echo)
    async with server.listen():
        pool = Tripping(server.endpoint, limit=1)
        first, second, third = (asyncio.ensure_future(ask(pool, body)) for body in (b"1", b"2", b"3"))
        pool.victim = second
        await asyncio.gather(first, second, third, return_exceptions=True)
        assert (first.result(), second.cancelled(), third.result()) == (b"1", True, b"3")
        assert server.requests == [b"1", b"3"]
        assert (pool.size, pool.idle) == (1, 1)
        await pool.aclose()


async def test_an_abandoned_exchange_ends_by_itself_and_its_connection_is_used_again() -> None:
    answer = asyncio.Event()

    async def waiting(server: Scripted, reader: Reader, writer: Writer) -> None:
        while True:
            body = await server.read(reader)
            await answer.wait()
            writer.write(http_response(body))

    async with Scripted(waiting).listen() as server, pool_for(server, limit=1) as pool:
        call = asyncio.ensure_future(ask(pool, b"abandoned"))
        await until(lambda: len(server.requests) == 1)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert (pool.size, pool.idle) == (1, 0)
        next_call = asyncio.ensure_future(ask(pool, b"next"))
        await asyncio.sleep(0)
        answer.set()
        assert await next_call == b"next"
        assert (server.accepted, server.requests) == (1, [b"abandoned", b"next"])


async def test_an_abandoned_exchange_without_an_answer_gives_its_slot_back_at_its_deadline() -> None:
    async def silent_once(server: Scripted, reader: Reader, writer: Writer) -> None:
        body = await server.read(reader)
        if server.accepted > 1:
            writer.write(http_response(body))
        await reader.read()

    async with Scripted(silent_once).listen() as server, pool_for(server, limit=1) as pool:
        call = asyncio.ensure_future(ask(pool, timeout=0.1))
        await until(lambda: len(server.requests) == 1)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert await ask(pool, b"next", timeout=5) == b"next"


async def test_cancelled_callers_in_line_are_passed_over() -> None:
    async with Scripted(echo).listen() as server, pool_for(server, limit=1) as pool:
        calls = [asyncio.ensure_future(ask(pool, b"%03d" % number)) for number in range(300)]
        await asyncio.sleep(0)
        for number, call in enumerate(calls):
            if number % 3:
                call.cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        kept = [b"%03d" % number for number in range(0, 300, 3)]
        assert [result for result in results if isinstance(result, bytes)] == kept
        assert server.requests == kept


async def test_cancelled_while_the_sidecar_is_down_it_still_finds_it_when_it_is_up() -> None:
    server = Scripted(echo)
    async with server.listen():
        pool = ConnectionPool(server.endpoint, limit=3)
    chance = random.Random(3)
    for _ in range(300):
        calls = [asyncio.ensure_future(ask(pool)) for _ in range(6)]
        for _ in range(chance.randrange(6)):
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    await until(lambda: pool.size == 0)
    async with server.listen(server.port):
        await hundred_calls_succeed(pool)
    await pool.aclose()


async def cancel_by_task(pool: ConnectionPool, chance: random.Random) -> None:
    call = asyncio.ensure_future(ask(pool, QUESTION))
    for _ in range(chance.choice((0, 1, 2, 3, 4, 5, 6, 8, 10, 14))):
        await asyncio.sleep(0)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)


async def cancel_by_timeout(pool: ConnectionPool, chance: random.Random) -> None:
    try:
        async with asyncio.timeout(chance.choice((0, 0, 1e-5, 1e-4, 3e-4, 1e-3, 2e-3, 5e-3))):
            await ask(pool, QUESTION)
    except (TimeoutError, SidecarError):  # the server hangs up, too
        pass


async def cancel_by_deadline(pool: ConnectionPool, chance: random.Random) -> None:
    with contextlib.suppress(SidecarError):
        await ask(pool, QUESTION, chance.choice((0.0, 1e-5, 1e-4, 3e-4, 1e-3, 2e-3, 5e-3)))


@pytest.mark.slow  # 2,000 cancellations of each kind in each loop, 500,000 at full size
@pytest.mark.parametrize("cancel", [cancel_by_task, cancel_by_timeout, cancel_by_deadline])
@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_after_thousands_of_cancellations_a_hundred_of_a_hundred_calls_succeed(
    cancel: Any, new_loop: Any, full_size: bool
) -> None:
    cancels = 500_000 if full_size else 2_000
    uvloop.run(asyncio.sleep(0))  # libuv keeps descriptors from its first loop on
    before = open_files()
    chance = random.Random(cancel.__name__)
    problems: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
        async with StubServer() as server:
            pool = ConnectionPool(Endpoint.parse(server.url), limit=5)

            async def many(number: int) -> None:
                for turn in range(number):
                    await cancel(pool, chance)
                    assert pool.size <= 5
                    if turn % 100 == 50:  # so that connecting is cancelled too, again and again
                        for transport in list(server.open):
                            transport.abort()  # type: ignore[attr-defined]

            await asyncio.gather(*(many(cancels // 20) for _ in range(20)))
            await until(lambda: pool.size == pool.idle)
            await hundred_calls_succeed(pool, QUESTION)
            assert pool.size == pool.idle <= 5
            await pool.aclose()
            assert pool.size == 0
            await until(lambda: not server.open)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
        gc.collect()
    assert problems == []
    assert open_files() <= before
