"""What owns threads can be forgotten anywhere: the garbage collector comes in any thread, whatever that holds."""

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
    """What is only freed by the garbage collector."""

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


def threads_of_ours() -> set[threading.Thread]:
    return {one for one in threading.enumerate() if one.name in ("chio-embedded", "chio-receipt-writer")}


def collect_while_nobody_can_use_executors() -> None:
    # Whoever starts work in another thread holds this lock, and allocates, so the collector may come right there.
    with executors._global_shutdown_lock:
        gc.collect()


@pytest.mark.parametrize("make", [governor, store])
def test_collecting_what_owns_threads_waits_for_nobody(make: Callable[[Path], Any], tmp_path: Path) -> None:
    before = threads_of_ours()
    gc.collect()
    gc.disable()
    try:
        Knot(make(tmp_path))
        started = threads_of_ours() - before
        collector = threading.Thread(target=collect_while_nobody_can_use_executors, daemon=True)
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

    before = threads_of_ours()
    app = Flask(__name__)
    Chio(app, sidecar_url=f"embedded:{tmp_path}/chio.sqlite3")
    assert app.test_client().get("/").status_code == 404
    started = threads_of_ours() - before
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
