"""`fail_open` with an embedded sidecar: what was not decided in time is not decided afterwards either."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chio_core.client.client import ChioClient, SyncChioClient
from chio_core.client.in_process import busy_seconds_for
from chio_core.settings import ChioSettings
from chio_sidecar.store.driver import sqlite3
from tests.core.views import View, question


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the store as another process would that writes for long."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def receipts(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("SELECT count(*) FROM http_receipts").fetchone()[0])
    finally:
        connection.close()


def settings_for(path: Path) -> ChioSettings:
    return ChioSettings(sidecar_url=f"embedded:{path}", fail_open=True, timeout=2.0)


async def test_a_held_store_refuses_before_the_client_gives_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "receipts.sqlite3"
    async with ChioClient(settings_for(path)) as client:
        client.open()
        with held(path):
            decision = await client.evaluate(question(View("POST")))
    assert decision.passthrough is None
    assert decision.denial is not None
    assert decision.denial.status == 502
    assert "receipt store is locked by another process" in caplog.text  # the reason is in the log
    assert receipts(path) == 0


def test_the_same_for_threads(tmp_path: Path) -> None:
    path = tmp_path / "receipts.sqlite3"
    with SyncChioClient(settings_for(path)) as client, held(path):
        decision = client.evaluate(question(View("POST")))
    assert decision.passthrough is None
    assert receipts(path) == 0


@pytest.mark.parametrize("fail_open", [True, False])
def test_the_store_gives_up_before_the_client_which_is_told_the_reason(fail_open: bool) -> None:
    assert busy_seconds_for(ChioSettings(timeout=2.0, fail_open=fail_open)) == 1.6
