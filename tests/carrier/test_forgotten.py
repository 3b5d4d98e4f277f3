"""Owners of threads can be garbage-collected in any thread, whatever locks it holds."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import thread as executors
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from chio_core.client.client import SyncChioClient
from chio_core.settings import ChioSettings
from chio_core.testing import ScriptedSidecar
from chio_core.threads.context import Runtime
from chio_core.threads.guards import ChainRunner
from chio_sidecar.store.sqlite import SqliteReceiptStore

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
