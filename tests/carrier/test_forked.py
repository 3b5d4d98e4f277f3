"""A forked child uses nothing that its parent has opened, and leaves all of it to the parent."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from chio_core.client.blocking import BlockingPool
from chio_core.client.client import ChioClient, SyncChioClient
from chio_core.concurrency.loop_thread import LoopThread
from chio_core.settings import ChioSettings
from chio_core.testing import ScriptedSidecar
from chio_sidecar.store.driver import sqlite3
from chio_sidecar.store.sqlite import SqliteReceiptStore
from tests.carrier.stubs import Scripted, echo, in_thread, until
from tests.core.views import View, question
from tests.sidecar.store_conformance import entry
from tests.support import run

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

CHILDREN = 3
ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def child(work: Callable[[], Any]) -> Iterator[Callable[[], Any]]:
    """Run a function in a fork of this process; gives a function that waits for its result."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            result: Any = work()
        except BaseException as exc:  # noqa: BLE001 - the parent reports it
            result = repr(exc)
        os.write(writing, json.dumps(result).encode())
        os._exit(0)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as answer:
            yield lambda: json.loads(answer.read())
    finally:
        os.waitpid(pid, 0)


def in_children(work: Callable[[int], Any]) -> list[Any]:
    """Run a function in some children at once and return what each has returned."""
    with child(lambda: work(0)) as first, child(lambda: work(1)) as second, child(lambda: work(2)) as third:
        return [first(), second(), third()]


def test_a_blocking_pool_shares_no_connection_with_its_parent() -> None:
    with in_thread(Scripted(echo)) as server:
        pool = BlockingPool(server.endpoint, limit=1)

        def calls(number: int) -> bool:
            bodies = [f"{number}-{turn}".encode() for turn in range(50)]
            return [pool.post("/chio/evaluate", body, (), 20).body for body in bodies] == bodies

        assert calls(-1)
        assert in_children(calls) == [True] * CHILDREN
        assert calls(-1)
        assert server.accepted == 1 + CHILDREN  # the parent's own is still good
        pool.close()


def test_a_fork_during_an_exchange_keeps_no_place_in_the_pool() -> None:
    async def waiting(server: Scripted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await server.read(reader) == b"first":
            await asyncio.to_thread(released.read, 1)
        await echo_one(writer)

    async def echo_one(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    reading, writing = os.pipe()
    with (
        os.fdopen(reading, "rb", 0) as released,
        in_thread(Scripted(waiting)) as server,
        ThreadPoolExecutor() as threads,
    ):
        pool = BlockingPool(server.endpoint, limit=1)
        first = threads.submit(pool.post, "/chio/evaluate", b"first", (), 20)
        run(until(lambda: server.requests == [b"first"]))
        with child(lambda: pool.post("/chio/evaluate", b"second", (), 20).status) as found:
            assert found() == 200
        os.write(writing, b"1")
        assert first.result(20).status == 200
        os.close(writing)
        pool.close()


def test_a_client_of_an_event_loop_starts_again_in_a_child() -> None:
    with in_thread(Scripted(echo)) as server:
        client = ChioClient(ChioSettings(sidecar_url=f"http://127.0.0.1:{server.port}"))
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(client.post("/a", b"parent")).body == b"parent"

        def calls(number: int) -> str:
            # The loop too may be inherited: it was made before a server forked.
            return loop.run_until_complete(client.post("/a", b"child")).body.decode()

        assert in_children(calls) == ["child"] * CHILDREN
        assert loop.run_until_complete(client.post("/a", b"parent")).body == b"parent"
        assert server.accepted == 1 + CHILDREN
        loop.run_until_complete(client.aclose())
        loop.close()


def receipts(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("SELECT count(DISTINCT request_id) FROM http_receipts").fetchone()[0])
    finally:
        connection.close()


@pytest.mark.parametrize("threads", [True, False], ids=["threads", "loop"])
def test_an_embedded_sidecar_decides_in_children_and_in_the_parent(threads: bool, tmp_path: Path) -> None:
    path = tmp_path / "receipts.sqlite3"
    settings = ChioSettings(sidecar_url=f"embedded:{path}", receipt_tolerance=10**10)
    client: Any = SyncChioClient(settings) if threads else ChioClient(settings)
    turns = 10

    def calls(number: int) -> int:
        calls = [question(View("GET"), request_id=f"{number}-{turn}") for turn in range(turns)]

        async def in_a_loop() -> list[Any]:
            return [await client.evaluate(one) for one in calls]

        decisions = [client.evaluate(one) for one in calls] if threads else asyncio.run(in_a_loop())
        return sum(decision.allowed for decision in decisions)

    assert calls(-1) == turns
    assert in_children(calls) == [turns] * CHILDREN
    assert calls(-2) == turns
    if threads:
        client.close()
    else:
        run(client.aclose())
    assert receipts(path) == turns * (CHILDREN + 2)


async def test_a_store_that_is_written_during_a_fork_can_be_written_in_the_child(tmp_path: Path) -> None:
    store = SqliteReceiptStore(tmp_path / "r")
    ended = False

    async def write() -> int:
        number = 0
        while not ended:
            await asyncio.gather(*(store.append(entry(f"{number}-{one}")) for one in range(5)))
            number += 1
        return number

    writing = asyncio.ensure_future(write())
    for turn in range(10):
        with child(lambda turn=turn: run(append(store, f"child-{turn}"))) as found:
            assert await asyncio.to_thread(found) == "stored"
    ended = True
    rounds = await writing
    assert len(await store.list(limit=10**6)) == 5 * rounds + 10
    await store.close()


async def append(store: SqliteReceiptStore, name: str) -> str:
    await store.append(entry(name))
    return "stored"


def test_a_loop_of_a_thread_is_started_again_and_the_one_of_the_parent_goes_on() -> None:
    async def closing() -> None: ...

    async def answer() -> int:
        return os.getpid()

    thread = LoopThread("test", closing)

    def call(number: int) -> bool:
        return asyncio.run_coroutine_threadsafe(answer(), thread.loop()).result(20) == os.getpid()

    assert call(-1)
    assert in_children(call) == [True] * CHILDREN
    assert call(-1)
    thread.close()


APP = """
import os
from flask import Flask
from chio_flask import Chio

app = Flask("preloaded")
Chio(app)

@app.get("/<int:number>")
def view(number):
    return {"number": number, "pid": os.getpid()}

assert app.test_client().get("/0").json["number"] == 0  # a request in the master, before it forks
"""


@pytest.mark.parametrize("embedded", [True, False], ids=["embedded", "http"])
def test_workers_of_gunicorn_that_were_preloaded_after_a_request(embedded: bool, tmp_path: Path) -> None:
    (tmp_path / "preloaded.py").write_text(APP)
    with ScriptedSidecar().serving_in_thread() as sidecar, socket.create_server(("127.0.0.1", 0)) as listener:
        listener.set_inheritable(True)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--preload", "-w", "2", "-b", f"fd://{listener.fileno()}",
             "--log-level", "error", "preloaded:app"],
            env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}:{ROOT / 'adapters'}",
                 "CHIO_SIDECAR_URL": f"embedded:{tmp_path}/receipts.sqlite3" if embedded else sidecar.url},
            pass_fds=[listener.fileno()],
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        try:
            with ThreadPoolExecutor(8) as threads, httpx.Client(base_url=address, timeout=20) as client:
                found = list(threads.map(lambda number: client.get(f"/{number}"), range(200)))
        finally:
            server.terminate()
            errors = server.communicate(timeout=20)[1]
    assert [(one.status_code, one.json().get("number")) for one in found] == [(200, one) for one in range(200)], errors
    assert len({one.headers["x-chio-receipt"] for one in found}) == 200
    assert len({one.json()["pid"] for one in found}) == 2
    assert server.returncode == 0, errors
