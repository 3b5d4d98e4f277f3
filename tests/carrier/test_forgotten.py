"""Owners of threads can be garbage-collected in any thread, whatever locks it holds."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import warnings
from collections.abc import Awaitable, Callable
from concurrent.futures import thread as executors
from pathlib import Path
from typing import Any

import pytest
import uvloop
from asgiref.sync import async_to_sync
from flask import Flask

from chio_core.client.client import ChioClient, SyncChioClient
from chio_core.settings import ChioSettings
from chio_core.testing import ScriptedSidecar
from chio_core.threads.context import Runtime
from chio_core.threads.guards import ChainRunner
from chio_sidecar.store.sqlite import SqliteReceiptStore
from tests.carrier.stubs import Scripted, echo, in_thread, until
from tests.support import run

LONG = 30
"""Seconds after which something hangs."""


class Knot:
    """A cycle, which only the garbage collector frees."""

    def __init__(self, held: Any) -> None:
        self.held, self.me = held, self


def governor(folder: Path) -> Any:
    found = Runtime(ChioSettings(sidecar_url=f"embedded:{folder}/chio.sqlite3"), ChainRunner())
    found.sync_client()
    return found


def store(folder: Path) -> Any:
    found = SqliteReceiptStore(folder / "chio.sqlite3")
    assert asyncio.run(found.health()).writable
    return found


def chio_threads() -> set[threading.Thread]:
    return {one for one in threading.enumerate() if one.name in ("chio-embedded", "chio-receipt-writer")}


def collect_while_executors_are_locked() -> None:
    # A thread that starts work in another one holds this lock and allocates, so the collector may run at that moment.
    with executors._global_shutdown_lock:
        gc.collect()


@pytest.mark.parametrize("make", [governor, store])
def test_collecting_an_owner_of_threads_does_not_wait(make: Callable[[Path], Any], tmp_path: Path) -> None:
    before = chio_threads()
    gc.collect()
    gc.disable()
    try:
        Knot(make(tmp_path))
        started = chio_threads() - before
        collector = threading.Thread(target=collect_while_executors_are_locked, daemon=True)
        collector.start()
        collector.join(LONG)
    finally:
        gc.enable()
    assert started
    assert not collector.is_alive()
    for one in started:
        one.join(LONG)
    assert not any(one.is_alive() for one in started)


def test_a_flask_application_that_is_forgotten_leaves_no_thread(tmp_path: Path) -> None:
    from chio_flask import Chio

    before = chio_threads()
    app = Flask(__name__)
    Chio(app, sidecar_url=f"embedded:{tmp_path}/chio.sqlite3")
    assert app.test_client().get("/").status_code == 404
    started = chio_threads() - before
    assert started
    del app
    gc.collect()
    for one in started:
        one.join(LONG)
    assert not any(one.is_alive() for one in started)


def test_a_pool_that_is_forgotten_closes_its_idle_connections() -> None:
    """An open socket that is collected is a `ResourceWarning`."""
    with ScriptedSidecar().serving_in_thread() as sidecar, warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", ResourceWarning)
        client = SyncChioClient(sidecar.settings(sidecar_url=sidecar.url))
        assert client.verify({}) is False
        del client
        gc.collect()
    assert [str(one.message) for one in seen] == []


async def awaiting(work: Awaitable[Any]) -> Any:
    return await work


async def call(client: ChioClient) -> None:
    assert (await client.post("/a", b"once")).body == b"once"


@pytest.mark.parametrize(
    "run_in_a_loop",
    [asyncio.run, uvloop.run, lambda work: async_to_sync(awaiting)(work)],
    ids=["asyncio", "uvloop", "async_to_sync"],
)
def test_a_loop_that_ends_without_a_lifespan_closes_its_connections(run_in_a_loop: Callable[..., Any]) -> None:
    """The client can be used in the next loop."""
    with in_thread(Scripted(echo)) as server, warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", ResourceWarning)
        client = ChioClient(ChioSettings(sidecar_url=f"http://127.0.0.1:{server.port}"))
        for _ in range(3):
            run_in_a_loop(call(client))
            gc.collect()
            run(until(lambda: not server.writers))
        assert server.accepted == 3
    assert [str(one.message) for one in seen] == []


def test_a_loop_that_shuts_its_generators_down_and_goes_on_can_go_on_calling() -> None:
    async def main() -> None:
        client = ChioClient(ChioSettings(sidecar_url=f"http://127.0.0.1:{server.port}"))
        for _ in range(3):
            await call(client)
            await asyncio.get_running_loop().shutdown_asyncgens()
        await client.aclose()

    with in_thread(Scripted(echo)) as server:
        run(main())


async def test_a_client_that_is_forgotten_closes_the_connections_of_its_loop() -> None:
    async with Scripted(echo).listen() as server:
        client = ChioClient(ChioSettings(sidecar_url=f"http://127.0.0.1:{server.port}"))
        await call(client)
        assert len(server.writers) == 1
        del client
        gc.collect()
        await until(lambda: not server.writers)


SCRIPT = """
import asyncio, sys
from chio_core.client.client import ChioClient, SyncChioClient
from chio_core.concurrency.loop_thread import LoopThread
from chio_core.refusals.response import Downstream
from chio_core.settings import ChioSettings

settings = ChioSettings(sidecar_url=sys.argv[1])
client = SyncChioClient(settings)
assert client.post("/a", b"once").body == b"once"
again = ChioClient(settings)

async def main():
    assert (await again.post("/a", b"once")).body == b"once"

asyncio.run(main())
"""


def test_a_script_that_closes_nothing_ends_without_a_warning() -> None:
    with in_thread(Scripted(echo)) as server:
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error", "-c", SCRIPT, f"http://127.0.0.1:{server.port}"],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (0, "")
