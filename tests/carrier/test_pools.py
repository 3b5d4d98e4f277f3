"""Both pools of connections, `ConnectionPool` and `BlockingPool`, while no caller is cancelled."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from chio_core.client.blocking import BlockingPool
from chio_core.client.connection import Connection
from chio_core.client.pool import ConnectionPool
from chio_core.endpoint import Endpoint
from chio_core.errors import EvaluationFailed, Overloaded, SidecarTimeout, SidecarUnreachable
from tests.carrier.stubs import LARGE, Scripted, Threads, echo, hashed, open_files, pool_for, until
from tests.stub_sidecar import http_response, split_request
from tests.support import QUESTION, StubServer

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter

both = pytest.mark.parametrize("new_pool", [ConnectionPool, Threads], ids=["loop", "threads"])

GARBAGE: list[bytes] = [b"x", b"HTTP/1.1 200 OK\r\n\r\n", http_response(b"stray"), b"\r\n\r\nHTTP", b"\0" * 100]
"""Bytes that must not follow a response."""

BROKEN: list[tuple[str, bytes]] = [
    ("no HTTP", b"SSH-2.0-OpenSSH\r\n"),
    ("a switch of protocols", b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n"),
    ("two lengths", b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxy"),
    ("a bad length", b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"),
    ("a bad chunk", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"),
    ("HTTP/2", b"HTTP/2 200\r\n\r\n"),
    ("nothing", b""),
    ("half a head", b"HTTP/1.1 200 OK\r\ncontent-le"),
    ("half a body", b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"),
    ("half a chunk", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab"),
    ("a body without an end", b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{}"),
    ("too much", b"HTTP/1.1 200 OK\r\ncontent-length: 2000000\r\n\r\n" + b"x" * 2_000_000),
]
"""Invalid responses."""


async def ask(pool: Any, body: bytes = b"{}", timeout: float = 5.0) -> bytes:
    return bytes((await pool.post("/chio/evaluate", body, (), timeout)).body)


def closed_port() -> Endpoint:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return Endpoint.parse(f"http://127.0.0.1:{closed.getsockname()[1]}")


async def silent(server: Scripted, reader: Reader, writer: Writer) -> None:
    await server.read(reader)
    await reader.read()


@pytest.fixture(autouse=True)
def no_socket_is_left() -> Iterator[None]:
    uvloop.run(asyncio.sleep(0))  # libuv keeps descriptors from its first loop on
    before = open_files()
    yield
    assert open_files() <= before


@both
async def test_a_connection_is_used_again(new_pool: Any) -> None:
    async with Scripted(echo).listen() as server, pool_for(server, new_pool) as pool:
        for number in range(20):
            assert await ask(pool, b"%d" % number) == b"%d" % number
        assert (server.accepted, pool.size, pool.idle) == (1, 1, 1)


@both
async def test_a_request_that_is_larger_than_the_send_buffer_is_sent_whole(new_pool: Any) -> None:
    async with Scripted(hashed).listen() as server, pool_for(server, new_pool) as pool:
        for _ in range(2):  # over a new connection, and over one that was idle
            assert await ask(pool, LARGE, timeout=60) == hashlib.sha256(LARGE).hexdigest().encode()
        assert server.accepted == 1


@both
async def test_a_sidecar_that_stops_reading_is_given_up_at_the_deadline(new_pool: Any) -> None:
    async def deaf(server: Scripted, reader: Reader, writer: Writer) -> None:
        await asyncio.Event().wait()

    async with Scripted(deaf).listen() as server, pool_for(server, new_pool) as pool:
        with pytest.raises(SidecarTimeout):
            await ask(pool, LARGE, timeout=0.2)
        await until(lambda: pool.size == 0)


@both
async def test_the_limit_is_respected_and_each_caller_gets_its_own_response(new_pool: Any) -> None:
    async with Scripted(echo).listen() as server, pool_for(server, new_pool, limit=3) as pool:
        bodies = [b"%d" % number for number in range(1000)]
        assert await asyncio.gather(*(ask(pool, body) for body in bodies)) == bodies
        assert server.accepted == pool.size == pool.idle <= 3


async def test_the_pool_of_a_loop_never_has_more_connections_than_its_limit() -> None:
    async with Scripted(echo).listen() as server, pool_for(server, limit=3) as pool:
        sizes: list[int] = []

        async def one() -> None:
            await ask(pool)
            sizes.append(pool.size)

        await asyncio.gather(*(one() for _ in range(200)))
        assert (max(sizes), server.accepted, pool.size, pool.idle) == (3, 3, 3, 3)


async def test_who_waits_first_is_served_first() -> None:
    async with Scripted(echo).listen() as server, pool_for(server, limit=1) as pool:
        await asyncio.gather(*(ask(pool, b"%03d" % number) for number in range(100)))
        assert server.requests == sorted(server.requests)


@both
async def test_a_refused_connection_is_reported_after_a_second_attempt(new_pool: Any) -> None:
    end = closed_port()
    pool = new_pool(end)
    with pytest.raises(SidecarUnreachable, match="cannot connect to the Chio sidecar"):
        await ask(pool)
    await until(lambda: pool.size == 0)
    async with Scripted(echo).listen(end.port):
        assert await ask(pool, b"up") == b"up"
    await pool.aclose()


async def test_a_hundred_callers_of_a_closed_port_all_fail_at_once() -> None:
    pool = ConnectionPool(closed_port(), limit=4)
    results = await asyncio.gather(*(ask(pool, timeout=60) for _ in range(100)), return_exceptions=True)
    assert {type(result) for result in results} == {SidecarUnreachable}
    await until(lambda: pool.size == 0)
    await pool.aclose()


@both
async def test_the_one_retry_sends_the_same_bytes_once(new_pool: Any) -> None:
    attempts: list[int] = []

    def attempt() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise ConnectionRefusedError(111, "Connection refused")

    class FlakyPool(ConnectionPool):
        async def _connect(self) -> None:
            attempt()
            await super()._connect()

    class FlakyBlockingPool(BlockingPool):
        def _connect(self, deadline: float) -> Any:
            attempt()
            return super()._connect(deadline)

    async with Scripted(echo).listen() as server:
        end = server.endpoint
        pool = FlakyPool(end) if new_pool is ConnectionPool else Threads(end, pool_type=FlakyBlockingPool)
        assert await ask(pool, b'{"request_id":"one"}') == b'{"request_id":"one"}'
        assert (len(attempts), server.requests) == (2, [b'{"request_id":"one"}'])
        await pool.aclose()


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


@both
async def test_a_silent_sidecar_is_given_up_at_the_deadline_and_its_connection_closed(new_pool: Any) -> None:
    async with Scripted(silent).listen() as server, pool_for(server, new_pool, limit=2) as pool:
        calls = [ask(pool, timeout=0.5) for _ in range(6)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        # The calls that had to wait for a connection say nothing about the sidecar.
        assert sorted(type(result).__name__ for result in results) == ["Overloaded"] * 4 + ["SidecarTimeout"] * 2
        await until(lambda: pool.size == 0)
        assert server.accepted >= 2


@both
async def test_a_caller_without_a_free_connection_in_time_learns_that_the_pool_is_full(new_pool: Any) -> None:
    async with Scripted(silent).listen() as server, pool_for(server, new_pool, limit=1) as pool:
        first = asyncio.ensure_future(ask(pool, timeout=0.3))
        await until(lambda: len(server.requests) == 1)
        with pytest.raises(Overloaded, match="all connections to the Chio sidecar were in use"):
            await ask(pool, timeout=0.05)
        assert isinstance((await asyncio.gather(first, return_exceptions=True))[0], SidecarTimeout)
        assert len(server.requests) == 1


@both
async def test_who_waits_for_a_connection_is_refused_while_the_one_that_has_it_still_has_time(new_pool: Any) -> None:
    refused = asyncio.Event()

    async def later(server: Scripted, reader: Reader, writer: Writer) -> None:
        body = await server.read(reader)
        await refused.wait()
        writer.write(http_response(body))

    async with Scripted(later).listen() as server, pool_for(server, new_pool, limit=1) as pool:
        first = asyncio.ensure_future(ask(pool, b"first", timeout=1.0))
        await until(lambda: len(server.requests) == 1)
        with pytest.raises(Overloaded):
            await ask(pool, b"second", timeout=1.0)
        refused.set()
        assert await first == b"first"
        assert server.requests == [b"first"]


@both
async def test_an_exchange_with_less_time_than_the_one_before_ends_at_its_own_deadline(new_pool: Any) -> None:
    async def silent_at_last(server: Scripted, reader: Reader, writer: Writer) -> None:
        while (body := await server.read(reader)) != b"last":
            writer.write(http_response(body))
        await reader.read()

    async with Scripted(silent_at_last).listen() as server, pool_for(server, new_pool, limit=1) as pool:
        assert await ask(pool, b"first", timeout=600) == b"first"
        async with asyncio.timeout(60):
            with pytest.raises(SidecarTimeout):
                await ask(pool, b"last", timeout=0.1)
        assert server.accepted == 1


@both
async def test_the_deadline_of_an_exchange_that_is_over_ends_no_later_one(new_pool: Any) -> None:
    over = asyncio.Event()

    async def last_takes_longer(server: Scripted, reader: Reader, writer: Writer) -> None:
        while body := await server.read(reader):
            if body == b"last":
                await over.wait()
            writer.write(http_response(body))

    async with Scripted(last_takes_longer).listen() as server, pool_for(server, new_pool, limit=1) as pool:
        assert await ask(pool, b"first", timeout=5) == b"first"
        assert await ask(pool, b"second", timeout=0.2) == b"second"
        end = time.monotonic() + 0.4
        last = asyncio.ensure_future(ask(pool, b"last", timeout=60))
        await until(lambda: time.monotonic() > end)
        over.set()
        assert await last == b"last"
        assert (server.accepted, server.requests) == (1, [b"first", b"second", b"last"])


@both
@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n"])
async def test_a_response_that_drips_is_given_up_at_the_deadline(new_pool: Any, head: bytes) -> None:
    async def drip(server: Scripted, reader: Reader, writer: Writer) -> None:
        await server.read(reader)
        writer.write(head)
        while True:
            writer.write(b"x-more: a\r\n")
            await writer.drain()
            await asyncio.sleep(0.005)

    async with Scripted(drip).listen() as server, pool_for(server, new_pool) as pool:
        async with asyncio.timeout(3):
            with pytest.raises(SidecarTimeout):
                await ask(pool, timeout=0.5)
        await until(lambda: pool.size == 0)


@both
async def test_an_idle_connection_that_the_server_closed_is_not_used(new_pool: Any) -> None:
    async with Scripted(echo).listen() as server, pool_for(server, new_pool) as pool:
        for _ in range(5):
            assert await ask(pool, b"a") == b"a"
            for writer in list(server.writers):
                writer.close()
            await until(lambda: not server.writers)
            if new_pool is ConnectionPool:
                await until(lambda: pool.size == 0)
        assert server.accepted == 5


async def test_a_connection_that_was_idle_for_long_is_replaced() -> None:
    async with Scripted(echo).listen() as server, pool_for(server, limit=1, max_idle=0.0) as pool:
        for _ in range(3):
            assert await ask(pool, b"a") == b"a"
        assert server.accepted == 3


@both
async def test_a_server_that_announces_the_close_is_not_used_again(new_pool: Any) -> None:
    async def closing(server: Scripted, reader: Reader, writer: Writer) -> None:
        writer.write(http_response(await server.read(reader), extra=b"connection: close\r\n"))
        await reader.read()  # the client closes

    async with Scripted(closing).listen() as server, pool_for(server, new_pool) as pool:
        assert [await ask(pool, b"%d" % n) for n in range(3)] == [b"0", b"1", b"2"]
        assert server.accepted == 3


@both
@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("together", [True, False], ids=["same packet", "later packet"])
async def test_bytes_after_a_response_never_become_the_next_response(
    new_pool: Any, garbage: bytes, together: bool
) -> None:
    written = asyncio.Event()

    async def chatty(server: Scripted, reader: Reader, writer: Writer) -> None:
        while True:
            response = http_response(await server.read(reader))
            writer.write(response + garbage if together else response)
            if not together:
                await writer.drain()
                await asyncio.sleep(0.001)
                writer.write(garbage)
            await writer.drain()
            written.set()

    async with Scripted(chatty).listen() as server, pool_for(server, new_pool, limit=1) as pool:
        for number in range(10):
            assert await ask(pool, b"%d" % number) == b"%d" % number
            await written.wait()
            written.clear()
            if new_pool is ConnectionPool:
                await until(lambda: pool.idle == 0)


@both
@pytest.mark.parametrize("interim", [b"100 Continue", b"102 Processing", b"103 Early Hints"])
async def test_interim_responses_are_skipped(new_pool: Any, interim: bytes) -> None:
    async def hinting(server: Scripted, reader: Reader, writer: Writer) -> None:
        while True:
            body = await server.read(reader)
            writer.write(b"HTTP/1.1 %b\r\ncontent-type: text/html\r\nlink: </a>\r\n\r\n" % interim * 3)
            writer.write(http_response(body))

    async with Scripted(hinting).listen() as server, pool_for(server, new_pool) as pool:
        for number in range(5):
            found = await pool.post("/", b"%d" % number, (), 5)
            assert (found.status, found.content_type, found.body) == (200, "application/json", b"%d" % number)
        assert server.accepted == 1


@both
@pytest.mark.parametrize("data", [data for _, data in BROKEN], ids=[name for name, _ in BROKEN])
async def test_an_invalid_response_is_an_error_and_the_pool_continues(new_pool: Any, data: bytes) -> None:
    async def breaking(server: Scripted, reader: Reader, writer: Writer) -> None:
        while True:
            body = await server.read(reader)
            if server.accepted == 1:
                writer.write(data)
                return
            writer.write(http_response(body))

    async with Scripted(breaking).listen() as server, pool_for(server, new_pool, limit=1) as pool:
        with pytest.raises(EvaluationFailed):
            await ask(pool)
        assert await ask(pool, b"again") == b"again"
        assert len(server.requests) == 2  # a request that was sent is never sent again


@both
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 \r\nContent-Length: 3\r\n\r\nabc",
    ],
)
async def test_a_response_is_understood_however_it_is_cut(new_pool: Any, answer: bytes) -> None:
    async def cutting(server: Scripted, reader: Reader, writer: Writer) -> None:
        for cut in range(len(answer)):
            await server.read(reader)
            writer.write(answer[:cut])
            await writer.drain()
            await asyncio.sleep(0)
            writer.write(answer[cut:])

    async with Scripted(cutting).listen() as server, pool_for(server, new_pool) as pool:
        for _ in range(len(answer)):
            assert await ask(pool) == b"abc"
        assert server.accepted == 1


@both
async def test_a_reset_at_any_byte_of_the_response_is_an_error(new_pool: Any) -> None:
    answer = http_response(b"abc")

    async def cutting(server: Scripted, reader: Reader, writer: Writer) -> None:
        body = await server.read(reader)
        writer.write(answer[: int(body)])

    async with Scripted(cutting).listen() as server, pool_for(server, new_pool) as pool:
        for cut in range(len(answer)):
            with pytest.raises(EvaluationFailed):
                await ask(pool, b"%d" % cut)
        assert await ask(pool, b"%d" % len(answer)) == b"abc"


async def test_a_pool_that_is_closed_ends_all_calls_at_once() -> None:
    async with Scripted(silent).listen() as server, pool_for(server, limit=2) as pool:
        calls = [asyncio.ensure_future(ask(pool, timeout=60)) for _ in range(10)]
        await until(lambda: len(server.requests) == 2)
        await pool.aclose()
        async with asyncio.timeout(5):
            results = await asyncio.gather(*calls, return_exceptions=True)
        assert sorted(type(result).__name__ for result in results) == (["EvaluationFailed"] * 2 + ["Overloaded"] * 8)
        with pytest.raises(Overloaded, match="closed"):
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


async def test_a_closed_blocking_pool_finishes_its_exchange_and_keeps_no_connection() -> None:
    release = asyncio.Event()

    async def waiting(server: Scripted, reader: Reader, writer: Writer) -> None:
        body = await server.read(reader)
        await release.wait()
        writer.write(http_response(body))

    async with Scripted(waiting).listen() as server:
        pool = Threads(server.endpoint)
        call = asyncio.ensure_future(ask(pool, b"under way"))
        await until(lambda: len(server.requests) == 1)
        pool.blocking.close()
        release.set()
        assert await call == b"under way"
        assert pool.idle == 0
        await pool.aclose()


@both
async def test_it_speaks_over_a_unix_socket(new_pool: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "chio sidecar.sock")
    async with StubServer(path=path) as server:
        pool = new_pool(Endpoint.parse(f"unix:{path.replace(' ', '%20')}"), limit=2)
        results = await asyncio.gather(*(ask(pool, QUESTION) for _ in range(50)))
        assert all(b"receipt" in result for result in results)
        assert len(server.judge.questions) == 50
        assert server.accepted == pool.size <= 2
        await pool.aclose()
    pool = new_pool(Endpoint.parse(f"unix:{tmp_path}/none.sock"))
    with pytest.raises(SidecarUnreachable):
        await ask(pool, QUESTION)
    await pool.aclose()


@both
async def test_a_restarted_sidecar_is_found_again(new_pool: Any) -> None:
    server = StubServer()
    async with server:
        pool = new_pool(Endpoint.parse(server.url), limit=4)
        await asyncio.gather(*(ask(pool, QUESTION) for _ in range(20)))
    for _ in range(3):
        if new_pool is ConnectionPool:
            await until(lambda: pool.idle == 0)
        with pytest.raises(SidecarUnreachable):
            await ask(pool, QUESTION)
        async with StubServer(port=server.port):
            results = await asyncio.gather(*(ask(pool, QUESTION) for _ in range(20)))
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


class Late:
    """A server in a thread of its own, and a caller that is held until the response is there and its time is over."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.asked, self.answered = threading.Event(), threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = Endpoint.parse(f"http://127.0.0.1:{self.listener.getsockname()[1]}")
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self.listener.accept()
        with connection:
            data = b""
            while split_request(data) is None:
                data += connection.recv(65536)
            self.asked.set()
            connection.sendall(http_response(b"in time"))
            self.answered.set()
            connection.recv(1)

    def hold(self, event: threading.Event) -> None:
        assert event.wait(20)
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            pass

    def __enter__(self) -> Late:
        return self

    def __exit__(self, *exc: object) -> None:
        self._thread.join()
        self.listener.close()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_response_that_came_while_the_loop_was_held_counts(new_loop: Any) -> None:
    async def main() -> None:
        with Late(0.2) as server:
            pool = ConnectionPool(server.endpoint)
            asked = asyncio.ensure_future(ask(pool, timeout=0.1))
            await until(server.asked.is_set)
            server.hold(server.answered)
            assert await asked == b"in time"
            await pool.aclose()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("ticks", range(6))
def test_a_connection_that_was_opened_while_the_loop_was_held_counts(ticks: int, new_loop: Any) -> None:
    async def main() -> None:
        async with Scripted(echo).listen() as server, pool_for(server, connect_timeout=0.1) as pool:
            asked = asyncio.ensure_future(ask(pool, b"in time", timeout=20))
            for _ in range(ticks):
                await asyncio.sleep(0)
            end = time.monotonic() + 0.3
            while time.monotonic() < end:
                pass
            assert await asked == b"in time"

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_sidecar_that_a_held_loop_has_left_no_time_for_is_not_late(new_loop: Any) -> None:
    """`fail_open` must not apply: the loop is held from before the request is sent until its time is nearly over."""

    async def main() -> None:
        async with Scripted(silent).listen() as server, pool_for(server) as pool:
            asked = asyncio.ensure_future(ask(pool, timeout=0.5))
            await asyncio.sleep(0)
            end = time.monotonic() + 0.48
            while time.monotonic() < end:
                pass
            with pytest.raises(Overloaded, match="too busy"):
                await asked

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


def test_a_response_that_came_while_the_thread_was_held_counts() -> None:
    def hold(*_: object) -> None:
        server.hold(server.answered)

    before = signal.signal(signal.SIGUSR1, hold)
    try:
        with Late(0.2) as server:
            pool = BlockingPool(server.endpoint)
            main = threading.get_ident()
            interrupt = threading.Thread(
                target=lambda: (server.asked.wait(20), signal.pthread_kill(main, signal.SIGUSR1))
            )
            interrupt.start()
            assert pool.post("/chio/evaluate", b"{}", (), 0.1).body == b"in time"
            interrupt.join()
            pool.close()
    finally:
        signal.signal(signal.SIGUSR1, before)


async def test_a_caller_whose_connection_is_not_opened_in_time_finds_no_sidecar() -> None:
    """The kernel queues connections of a listener that accepts none, up to its backlog; further ones are not opened."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        filling = [socket.socket() for _ in range(8)]
        for one in filling:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        pool = ConnectionPool(Endpoint.parse(f"http://127.0.0.1:{listener.getsockname()[1]}"), connect_timeout=10)
        with pytest.raises(SidecarUnreachable, match="connecting took too long"):
            await ask(pool, timeout=1.0)
        await pool.aclose()
        for one in filling:
            one.close()


@pytest.mark.parametrize("timeout", [0.0, -1.0])
def test_a_thread_whose_time_is_up_does_not_wait_for_a_connection(timeout: float) -> None:
    pool = BlockingPool(Endpoint.parse("http://127.0.0.1:9"), limit=0)
    with pytest.raises(Overloaded, match="were in use"):
        pool.post("/chio/evaluate", b"{}", (), timeout)
