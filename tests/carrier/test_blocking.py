"""`BlockingPool`: the carrier of threads."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from chio_core.client.blocking import BlockingPool
from chio_core.endpoint import Endpoint
from chio_core.errors import EvaluationFailed, SidecarTimeout, SidecarUnreachable
from tests.carrier.answers import BROKEN, GARBAGE
from tests.carrier.stubs import Scripted, echo, in_thread, open_files
from tests.support import QUESTION, StubServer, http_answer

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter


@pytest.fixture(autouse=True)
def no_socket_is_left() -> Iterator[None]:
    before = open_files()
    yield
    assert open_files() <= before


def ask(pool: BlockingPool, body: bytes = b"{}", timeout: float = 5.0) -> bytes:
    return pool.post("/chio/evaluate", body, [("x-chio-capability", "a")], timeout).body


def test_a_connection_is_used_again() -> None:
    with in_thread(Scripted(echo)) as server:
        pool = BlockingPool(server.endpoint)
        assert [ask(pool, b"%d" % number) for number in range(20)] == [b"%d" % number for number in range(20)]
        assert server.accepted == 1
        pool.close()


def test_many_threads_share_few_connections_and_nobody_gets_anothers_answer() -> None:
    with in_thread(Scripted(echo)) as server:
        pool = BlockingPool(server.endpoint, limit=4)
        with ThreadPoolExecutor(32) as threads:
            bodies = [b"%d" % number for number in range(1000)]
            assert list(threads.map(lambda body: ask(pool, body), bodies)) == bodies
        assert server.accepted <= 4
        pool.close()


def test_who_finds_no_free_connection_in_time_is_told_so() -> None:
    async def silent(server: Scripted, reader: Reader, writer: Writer) -> None:
        await server.read(reader)
        await reader.read()

    with in_thread(Scripted(silent)) as server:
        pool = BlockingPool(server.endpoint, limit=1)
        with ThreadPoolExecutor(4) as threads:
            errors = [threads.submit(ask, pool, b"{}", 0.2).exception(5) for _ in range(4)]
        assert {type(error) for error in errors} == {SidecarTimeout}
        pool.close()


def test_a_refused_connection_is_reported_after_a_second_attempt() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(SidecarUnreachable, match="cannot connect to the Chio sidecar"):
        ask(BlockingPool(Endpoint.parse(f"http://127.0.0.1:{port}")))


def test_the_one_retry_sends_the_same_bytes_once() -> None:
    class Flaky(BlockingPool):
        attempts = 0

        def _connect(self, deadline: float) -> Any:
            self.attempts += 1
            if self.attempts == 1:
                raise ConnectionRefusedError(111, "Connection refused")
            return super()._connect(deadline)

    with in_thread(Scripted(echo)) as server:
        pool = Flaky(server.endpoint)
        assert ask(pool, b'{"request_id":"one"}') == b'{"request_id":"one"}'
        assert (pool.attempts, server.requests) == (2, [b'{"request_id":"one"}'])
        pool.close()


@pytest.mark.parametrize("data", [data for _, data in BROKEN], ids=[name for name, _ in BROKEN])
def test_an_answer_that_is_broken_is_an_error_and_the_pool_goes_on(data: bytes) -> None:
    async def breaking(server: Scripted, reader: Reader, writer: Writer) -> None:
        while True:
            body = await server.read(reader)
            if server.accepted == 1:
                writer.write(data)
                return
            writer.write(http_answer(body))

    with in_thread(Scripted(breaking)) as server:
        pool = BlockingPool(server.endpoint, limit=1)
        with pytest.raises(EvaluationFailed):
            ask(pool)
        assert ask(pool, b"again") == b"again"
        assert len(server.requests) == 2
        pool.close()


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("together", [True, False], ids=["same packet", "later packet"])
def test_bytes_after_an_answer_never_become_the_answer_to_another_question(garbage: bytes, together: bool) -> None:
    written = threading.Event()

    async def chatty(server: Scripted, reader: Reader, writer: Writer) -> None:
        while True:
            answer = http_answer(await server.read(reader))
            writer.write(answer + garbage if together else answer)
            if not together:
                await writer.drain()
                await asyncio.sleep(0.001)
                writer.write(garbage)
            await writer.drain()
            written.set()

    with in_thread(Scripted(chatty)) as server:
        pool = BlockingPool(server.endpoint, limit=1)
        for number in range(10):
            assert ask(pool, b"%d" % number) == b"%d" % number
            assert written.wait(5)
            written.clear()
        pool.close()


@pytest.mark.parametrize("interim", [b"100 Continue", b"102 Processing", b"103 Early Hints"])
def test_interim_answers_are_passed_over(interim: bytes) -> None:
    async def hinting(server: Scripted, reader: Reader, writer: Writer) -> None:
        while True:
            body = await server.read(reader)
            writer.write(b"HTTP/1.1 %b\r\ncontent-type: text/html\r\nlink: </a>\r\n\r\n" % interim * 3)
            writer.write(http_answer(body))

    with in_thread(Scripted(hinting)) as server:
        pool = BlockingPool(server.endpoint)
        for number in range(5):
            answer = pool.post("/", b"%d" % number, (), 5)
            assert (answer.status, answer.content_type, answer.body) == (200, "application/json", b"%d" % number)
        assert server.accepted == 1
        pool.close()


def test_an_answer_that_drips_is_given_up_at_the_deadline() -> None:
    async def drip(server: Scripted, reader: Reader, writer: Writer) -> None:
        await server.read(reader)
        for byte in http_answer(b"x" * 10_000):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.001)

    with in_thread(Scripted(drip)) as server:
        pool = BlockingPool(server.endpoint)
        with pytest.raises(SidecarTimeout):
            ask(pool, timeout=0.2)
        pool.close()


def test_a_head_that_drips_is_given_up_at_the_deadline() -> None:
    stop = threading.Event()

    async def drip(server: Scripted, reader: Reader, writer: Writer) -> None:
        await server.read(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while not stop.is_set():
            writer.write(b"x-more: a\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    with in_thread(Scripted(drip)) as server:
        pool = BlockingPool(server.endpoint)
        ended: list[BaseException | None] = []
        thread = threading.Thread(target=lambda: ended.append(_error(lambda: ask(pool, timeout=0.2))))
        thread.start()
        thread.join(3)
        in_time = not thread.is_alive()
        stop.set()
        thread.join(20)
        assert in_time
        assert isinstance(ended[0], (SidecarTimeout, EvaluationFailed))
        pool.close()


def _error(function: Callable[[], Any]) -> BaseException | None:
    try:
        function()
    except Exception as exc:  # noqa: BLE001 - the error is what is looked at
        return exc
    return None


def test_a_closed_pool_keeps_no_connection() -> None:
    started, answer = threading.Event(), threading.Event()

    async def waiting(server: Scripted, reader: Reader, writer: Writer) -> None:
        while True:
            body = await server.read(reader)
            started.set()
            await asyncio.to_thread(answer.wait, 10)
            writer.write(http_answer(body))

    with in_thread(Scripted(waiting)) as server:
        pool = BlockingPool(server.endpoint)
        with ThreadPoolExecutor(1) as threads:
            call = threads.submit(ask, pool, b"under way")
            assert started.wait(5)
            pool.close()
            answer.set()
            assert call.result(5) == b"under way"
        assert pool.idle == 0


def test_it_speaks_over_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "chio.sock")
    with in_thread(StubServer(path=path)) as server:
        pool = BlockingPool(Endpoint.parse(f"unix:{path}"), limit=2)
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda _: ask(pool, QUESTION), range(50)))
        assert all(b"receipt" in answer for answer in answers)
        assert server.accepted <= 2
        pool.close()
    with pytest.raises(SidecarUnreachable):
        ask(BlockingPool(Endpoint.parse(f"unix:{tmp_path}/none.sock")))


def test_a_restarted_sidecar_is_found_again() -> None:
    server = StubServer()
    with in_thread(server):
        pool = BlockingPool(Endpoint.parse(server.url))
        assert b"receipt" in ask(pool, QUESTION)
    with pytest.raises(SidecarUnreachable):
        ask(pool, QUESTION)
    with in_thread(StubServer(port=server.port)):
        assert b"receipt" in ask(pool, QUESTION)
    pool.close()
