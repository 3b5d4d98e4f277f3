"""Memory, files and tasks of the application and of its sidecar, as processes, after many requests (C2).

After a warm-up neither process grows with the number of requests, websockets and clients that leave.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.burst import Client
from benchmarks.usage import resident_mib
from tests.chaos.processes import LIMIT, Application, running, served
from tests.chaos.world import Sidecar
from tests.support import run

AT_ONCE = 32
"""Clients, and the most connections between the two processes."""

HANDSHAKE = (
    b"GET /talk/%d HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
SPOKEN = b"\x81\x02ok\x88\x02\x03\xe8"
"""The text frame "ok" and the server's close frame (RFC 6455, section 5.2)."""
CLOSE = b"\x88\x80\0\0\0\0"

Load = Callable[[int, Iterator[int]], Awaitable[None]]


async def requests(port: int, numbers: Iterator[int]) -> None:
    """Send these requests over one connection."""
    client = Client(port, LIMIT)
    for number in numbers:
        assert await client.get(f"/work/{number}") == "200"
    client.close()


async def websockets(port: int, numbers: Iterator[int]) -> None:
    """Open a websocket for each number, until the server says its word and closes."""
    for number in numbers:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HANDSHAKE % number)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        assert await reader.readexactly(len(SPOKEN)) == SPOKEN
        writer.write(CLOSE)
        assert await reader.read() == b""
        writer.close()


async def leavers(port: int, numbers: Iterator[int]) -> None:
    """Leave in the middle of a body, or before the response."""
    for number in numbers:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        if number % 2:
            writer.write(b"POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nhalf")
        else:
            writer.write(b"GET /work/%d HTTP/1.1\r\nhost: a\r\n\r\n" % number)
        await writer.drain()
        writer.close()


class State:
    """What the two processes hold."""

    def __init__(self, application: Application, sidecar: Sidecar) -> None:
        self._pids = application.pid, sidecar.pid
        self._port = application.port

    def mib(self) -> list[float]:
        return [resident_mib(pid) for pid in self._pids]

    def files(self) -> list[int]:
        return [len(os.listdir(f"/proc/{pid}/fd")) for pid in self._pids]

    async def settled(self, files: list[int], tasks: int) -> None:
        """Return when there are no more open files and tasks than these; connections between the two may stay open."""
        async with asyncio.timeout(LIMIT):
            while await self.tasks() > tasks or any(
                now > before + AT_ONCE for now, before in zip(self.files(), files, strict=True)
            ):
                pass

    async def tasks(self) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(b"GET /tasks HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return int(answer.rpartition(b"\r\n")[2])


@pytest.mark.slow
def test_neither_process_grows_with_the_number_of_requests(tmp_path: Path, full_size: bool) -> None:
    counts: dict[Load, int] = {requests: 800, websockets: 100, leavers: 100}
    warm_up, most = {requests: 200, websockets: 50, leavers: 50}, 6.0
    if full_size:
        counts = {requests: 100_000, websockets: 10_000, leavers: 10_000}
        warm_up, most = {requests: 10_000, websockets: 1_000, leavers: 1_000}, 8.0
    numbers = itertools.count()

    async def load(port: int, part: Load, count: int) -> None:
        shared = itertools.islice(numbers, count)
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(part(port, shared))

    async def main() -> None:
        sidecar = Sidecar(tmp_path)
        application = Application(tmp_path, sidecar.address, CHIO_MAX_CONNECTIONS=str(AT_ONCE))
        async with running(sidecar), served(application) as here:
            state = State(application, sidecar)
            for part, count in warm_up.items():
                await load(here.port, part, count)
            files, tasks, before = state.files(), await state.tasks(), state.mib()
            for part, count in counts.items():
                for _ in range(10):
                    await load(here.port, part, count // 10)
                    print(part.__name__, [f"{mib:.1f}" for mib in state.mib()])
            await state.settled(files, tasks)
            grown = [after - mib for after, mib in zip(state.mib(), before, strict=True)]
            print(f"grown by {grown} MiB from {before}; open files {files}, tasks {tasks}")
            assert max(grown) < most

    run(main(), seconds=7200)
