"""What `ConnectionPool` promises while nobody is cancelled."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from chio_core.client.connection import Connection
from chio_core.client.pool import ConnectionPool
from chio_core.endpoint import Endpoint
from chio_core.errors import EvaluationFailed, SidecarTimeout, SidecarUnreachable
from tests.carrier.answers import BROKEN, GARBAGE
from tests.carrier.stubs import Scripted, echo, open_files, pool_for, until
from tests.support import QUESTION, StubServer, http_answer

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter


async def ask(pool: ConnectionPool, body: bytes = b"{}", timeout: float = 5.0) -> bytes:
    return (await pool.post("/chio/evaluate", body, (), timeout)).body


@pytest.fixture(autouse=True)
def no_socket_is_left() -> Iterator[None]:
    uvloop.run(asyncio.sleep(0))  # libuv keeps descriptors of its own from its first loop on
    before = open_files()
    yield
    assert open_files() <= before


async def test_a_connection_is_used_again() -> None:
    async with Scripted(echo).listen() as server, pool_for(server) as pool:
        for number in range(20):
            assert await ask(pool, b"%d" % number) == b"%d" % number
        assert (server.accepted, pool.size, pool.idle) == (1, 1, 1)


async def test_the_limit_is_respected_and_everybody_is_served() -> None:
    async with Scripted(echo).listen() as server, pool_for(server, limit=3) as pool:
        bodies = [b"%d" % number for number in range(200)]
        sizes: list[int] = []

        async def one(body: bytes) -> bytes:
            answer = await ask(pool, body)
            sizes.append(pool.size)
            return answer

        assert await asyncio.gather(*(one(body) for body in bodies)) == bodies
        assert max(sizes) <= 3
        assert server.accepted == 3
        assert (pool.size, pool.idle) == (3, 3)


async def test_who_waits_first_is_served_first() -> None:
    async with Scripted(echo).listen() as server, pool_for(server, limit=1) as pool:
        await asyncio.gather(*(ask(pool, b"%03d" % number) for number in range(100)))
        assert server.requests == sorted(server.requests)


async def test_a_refused_connection_is_tried_once_more_and_then_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    pool = ConnectionPool(Endpoint.parse(f"http://127.0.0.1:{port}"))
    with pytest.raises(SidecarUnreachable, match="cannot connect to the Chio sidecar"):
        await ask(pool)
    await until(lambda: pool.size == 0)
    async with Scripted(echo).listen(port):
        assert await ask(pool, b"up") == b"up"
    await pool.aclose()


async def test_a_hundred_callers_of_a_closed_port_are_all_told_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    pool = ConnectionPool(Endpoint.parse(f"http://127.0.0.1:{port}"), limit=4)
    results = await asyncio.gather(*(ask(pool, timeout=60) for _ in range(100)), return_exceptions=True)
    assert {type(result) for result in results} == {SidecarUnreachable}
    await until(lambda: pool.size == 0)
    await pool.aclose()


async def test_the_one_retry_sends_the_same_bytes() -> None:
    class FlakyPool(ConnectionPool):
        """Its first attempt to connect goes to a port where nobody listens."""

        attempts = 0

        def __init__(self, port: int) -> None:
            super().__init__(Endpoint.parse(f"http://127.0.0.1:{port}"))

        async def _connect(self) -> None:
            self.attempts += 1
            if self.attempts == 1:
                raise ConnectionRefusedError(111, "Connection refused")
            await super()._connect()

    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    first, server = FlakyPool(port), Scripted(echo)
    async with server.listen(port):
        assert await ask(first, b'{"request_id":"one"}') == b'{"request_id":"one"}'
        assert (first.attempts, server.requests) == (2, [b'{"request_id":"one"}'])
    await first.aclose()


async def test_connecting_takes_no_longer_than_it_may() -> None:
    with socket.socket() as full:  # listens with a queue of one that is full: further SYNs are dropped
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        pool = ConnectionPool(Endpoint.parse(f"http://127.0.0.1:{full.getsockname()[1]}"), connect_timeout=0.05)
        with pytest.raises(SidecarUnreachable, match="connecting took too long"):
            await ask(pool, timeout=5)
        await pool.aclose()
        for filler in fillers:
            filler.close()


async def test_a_sidecar_that_never_answers_is_given_up_and_its_connection_closed() -> None:
    async def silent(server: Scripted, reader: Reader, writer: Writer) -> None:
        await server.read(reader)
        await reader.read()

    async with Scripted(silent).listen() as server, pool_for(server, limit=2) as pool:
        calls = [ask(pool, timeout=0.1) for _ in range(6)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(result) for result in results} == {SidecarTimeout}
        await until(lambda: pool.size == 0)
        assert server.accepted >= 2


async def test_an_answer_that_drips_is_given_up_at_the_deadline() -> None:
    async def drip(server: Scripted, reader: Reader, writer: Writer) -> None:
        await server.read(reader)
        for byte in http_answer(b"x" * 10_000):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.001)

    async with Scripted(drip).listen() as server, pool_for(server) as pool:
        with pytest.raises(SidecarTimeout):
            await ask(pool, timeout=0.1)
        await until(lambda: pool.size == 0)


async def test_an_idle_connection_that_the_server_closed_is_not_used() -> None:
    async with Scripted(echo).listen() as server, pool_for(server) as pool:
        for _ in range(5):
            assert await ask(pool, b"a") == b"a"
            for writer in list(server.writers):
                writer.close()
            await until(lambda: pool.size == 0)
        assert server.accepted == 5


async def test_a_connection_that_was_idle_for_long_is_replaced() -> None:
    async with Scripted(echo).listen() as server, pool_for(server, limit=1, max_idle=0.0) as pool:
        for _ in range(3):
            assert await ask(pool, b"a") == b"a"
        assert server.accepted == 3


async def test_a_server_that_says_close_is_believed() -> None:
    async def closing(server: Scripted, reader: Reader, writer: Writer) -> None:
        writer.write(http_answer(await server.read(reader), extra=b"connection: close\r\n"))
        await reader.read()  # it is the client that closes

    async with Scripted(closing).listen() as server, pool_for(server) as pool:
        assert [await ask(pool, b"%d" % n) for n in range(3)] == [b"0", b"1", b"2"]
        assert server.accepted == 3


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("together", [True, False], ids=["same packet", "later packet"])
async def test_bytes_after_an_answer_never_become_the_answer_to_another_question(
    garbage: bytes, together: bool
) -> None:
    async def chatty(server: Scripted, reader: Reader, writer: Writer) -> None:
        while True:
            answer = http_answer(await server.read(reader))
            if together:
                writer.write(answer + garbage)
            else:
                writer.write(answer)
                await writer.drain()
                await asyncio.sleep(0.001)
                writer.write(garbage)

    async with Scripted(chatty).listen() as server, pool_for(server, limit=1) as pool:
        for number in range(10):
            assert await ask(pool, b"%d" % number) == b"%d" % number
            await until(lambda: pool.idle == 0)


@pytest.mark.parametrize("interim", [b"100 Continue", b"102 Processing", b"103 Early Hints"])
async def test_interim_answers_are_passed_over(interim: bytes) -> None:
    async def hinting(server: Scripted, reader: Reader, writer: Writer) -> None:
        while True:
            body = await server.read(reader)
            writer.write(b"HTTP/1.1 %b\r\ncontent-type: text/html\r\nlink: </a>\r\n\r\n" % interim * 3)
            writer.write(http_answer(body))

    async with Scripted(hinting).listen() as server, pool_for(server) as pool:
        for number in range(5):
            answer = await pool.post("/", b"%d" % number, (), 5)
            assert (answer.status, answer.content_type, answer.body) == (200, "application/json", b"%d" % number)
        assert server.accepted == 1


@pytest.mark.parametrize("data", [data for _, data in BROKEN], ids=[name for name, _ in BROKEN])
async def test_an_answer_that_is_broken_is_an_error_and_the_pool_goes_on(data: bytes) -> None:
    async def breaking(server: Scripted, reader: Reader, writer: Writer) -> None:
        while True:
            body = await server.read(reader)
            if server.accepted == 1:
                writer.write(data)
                return
            writer.write(http_answer(body))

    async with Scripted(breaking).listen() as server, pool_for(server, limit=1) as pool:
        with pytest.raises(EvaluationFailed):
            await ask(pool)
        assert await ask(pool, b"again") == b"again"
        assert len(server.requests) == 2  # a question that was sent is not sent again


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 \r\nContent-Length: 3\r\n\r\nabc",
    ],
)
async def test_an_answer_is_understood_however_it_is_cut(answer: bytes) -> None:
    async def cutting(server: Scripted, reader: Reader, writer: Writer) -> None:
        for cut in range(len(answer)):
            await server.read(reader)
            writer.write(answer[:cut])
            await writer.drain()
            await asyncio.sleep(0)
            writer.write(answer[cut:])

    async with Scripted(cutting).listen() as server, pool_for(server) as pool:
        for _ in range(len(answer)):
            assert await ask(pool) == b"abc"
        assert server.accepted == 1


async def test_a_reset_at_any_byte_of_the_answer_is_an_error(tmp_path: Path) -> None:
    answer = http_answer(b"abc")

    async def cutting(server: Scripted, reader: Reader, writer: Writer) -> None:
        body = await server.read(reader)
        writer.write(answer[: int(body)])

    async with Scripted(cutting).listen() as server, pool_for(server) as pool:
        for cut in range(len(answer)):
            with pytest.raises(EvaluationFailed):
                await ask(pool, b"%d" % cut)
        assert await ask(pool, b"%d" % len(answer)) == b"abc"


async def test_a_pool_that_is_closed_tells_everybody_at_once() -> None:
    async def silent(server: Scripted, reader: Reader, writer: Writer) -> None:
        await server.read(reader)
        await reader.read()

    async with Scripted(silent).listen() as server, pool_for(server, limit=2) as pool:
        calls = [asyncio.ensure_future(ask(pool, timeout=60)) for _ in range(10)]
        await until(lambda: len(server.requests) == 2)
        await pool.aclose()
        async with asyncio.timeout(5):
            results = await asyncio.gather(*calls, return_exceptions=True)
        assert sorted(type(result).__name__ for result in results) == (
            ["EvaluationFailed"] * 2 + ["SidecarUnreachable"] * 8
        )
        with pytest.raises(SidecarUnreachable, match="closed"):
            await ask(pool, timeout=60)


@pytest.mark.parametrize("ticks", range(12))
async def test_closing_while_connecting_leaves_nothing(ticks: int) -> None:
    async with Scripted(echo).listen() as server, pool_for(server, limit=4) as pool:
        calls = [asyncio.ensure_future(ask(pool, b"a", timeout=60)) for _ in range(8)]
        for _ in range(ticks):
            await asyncio.sleep(0)
        await pool.aclose()
        async with asyncio.timeout(5):
            results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(result == b"a" or isinstance(result, Exception) for result in results)


async def test_it_speaks_over_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "chio sidecar.sock")
    async with StubServer(path=path) as server:
        pool = ConnectionPool(Endpoint.parse(f"unix:{path.replace(' ', '%20')}"), limit=2)
        question = QUESTION
        results = await asyncio.gather(*(ask(pool, question) for _ in range(50)))
        assert all(b"receipt" in result for result in results)
        assert (server.accepted, len(server.judge.questions)) == (2, 50)
        await pool.aclose()
    with pytest.raises(SidecarUnreachable):
        await ask(ConnectionPool(Endpoint.parse(f"unix:{tmp_path}/none.sock")), question)


async def test_a_restarted_sidecar_is_found_again() -> None:
    server, question = StubServer(), QUESTION
    async with server:
        pool = ConnectionPool(Endpoint.parse(server.url), limit=4)
        await asyncio.gather(*(ask(pool, question) for _ in range(20)))
    for _ in range(3):
        await until(lambda: pool.idle == 0)
        with pytest.raises(SidecarUnreachable):
            await ask(pool, question)
        async with StubServer(port=server.port):
            results = await asyncio.gather(*(ask(pool, question) for _ in range(20)))
            assert all(b"receipt" in result for result in results)
    await pool.aclose()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_server_that_hangs_up_at_once_costs_no_slot(new_loop: Any) -> None:
    """Whenever the loss of a connection is noticed, before or after its opener went on: the slot is free."""

    async def hang_up(server: Scripted, reader: Reader, writer: Writer) -> None:
        writer.transport.abort()

    async def main() -> None:
        async with Scripted(hang_up).listen() as server, pool_for(server, limit=4) as pool:
            for _ in range(50):
                calls = [ask(pool, timeout=2) for _ in range(8)]
                for result in await asyncio.gather(*calls, return_exceptions=True):
                    assert isinstance(result, (EvaluationFailed, SidecarUnreachable))
            await until(lambda: pool.size == 0)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


async def test_a_connection_lost_before_its_opener_went_on_is_not_counted() -> None:
    """Loops differ in whether they tell the protocol or the opener first; here the protocol is first."""

    class Lost(Connection):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.abort()
            self.connection_lost(None)

    class Hasty(ConnectionPool):
        def _protocol(self) -> Connection:
            return Lost(self._serve, self._gone)

    async with Scripted(echo).listen() as server:
        pool = Hasty(server.endpoint, limit=2)
        with pytest.raises((SidecarUnreachable, EvaluationFailed)):
            await ask(pool, timeout=1)
        await until(lambda: pool.size == 0)
        await pool.aclose()
