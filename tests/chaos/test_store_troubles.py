"""The disk is full (B8), or another process holds the store (B9), under load: refusals for as long, then all is well.

The sidecar is a process and is not started again. What was refused did not run, and what ran is in the store.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from chio_sidecar.store.driver import sqlite3
from tests.chaos.world import CLIENTS, Sidecar, check, world
from tests.support import run

AFTERWARDS = 100
"""Requests that succeed when the trouble is over."""

TOKEN = "reads the metrics"

ROOM = 1_000_000
"""Bytes that are free when the load begins: some 100 receipts, with the write-ahead log."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    # This process keeps a descriptor of each store that it has read beside a log (`chio_sidecar/store/driver.py`).
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.slow
def test_a_full_disk_refuses_and_room_lets_the_same_process_go_on(
    small_disk: Path, tmp_path: Path, full_size: bool
) -> None:
    store, ballast = small_disk / "receipts.sqlite3", small_disk / "ballast"
    rounds, refusals = (8, 500) if full_size else (2, 20)

    async def main() -> None:
        async with world(tmp_path, sidecar=Sidecar(tmp_path, store=store)) as here:
            for _ in range(rounds):
                ballast.write_bytes(bytes(free(small_disk) - ROOM))
                async with here.load() as log:
                    enough = log.refused + refusals
                    await log.until(lambda enough=enough: log.refused >= enough)
                ballast.unlink()
                before = log.sent
                async with here.load() as log:
                    enough = log.succeeded + AFTERWARDS
                    await log.until(lambda enough=enough: log.succeeded >= enough)
                assert {told.status for number, told in log.told.items() if number >= before} == {200}
        check(here.log, store, refusals={502, 503})

    run(main(), seconds=300)


def free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_bsize


@contextmanager
def held(store: Path) -> Iterator[None]:
    """Hold the store as another process does that writes: the sidecar's own is another process."""
    with closing(sqlite3.connect(store, isolation_level=None, timeout=30)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


async def waiting(sidecar: Sidecar, count: int) -> None:
    """Return when so many evaluations are under way at the sidecar, by its own account."""
    transport = httpx.AsyncHTTPTransport(uds=sidecar.address.removeprefix("unix:"))
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with asyncio.timeout(60), httpx.AsyncClient(transport=transport, base_url="http://sidecar") as client:
        found = -1
        while found < count:
            page = await client.get("/metrics", headers=headers)
            found = int(float(page.text.partition("\nchio_sidecar_evaluations_pending ")[2].split("\n")[0]))


@pytest.mark.slow
def test_a_held_store_delays_or_refuses_and_nothing_runs_without_its_row(tmp_path: Path, full_size: bool) -> None:
    short, refusals = (200, 10 * CLIENTS) if full_size else (10, CLIENTS)

    async def main() -> None:
        sidecar = Sidecar(tmp_path, CHIO_SIDECAR_CONTROL_TOKEN=TOKEN)
        store = Path(sidecar.store)
        async with world(tmp_path, sidecar=sidecar) as here, here.load() as log:
            for _ in range(short):
                enough = log.succeeded + CLIENTS
                await log.until(lambda enough=enough: log.succeeded >= enough)
                with held(store):
                    await waiting(sidecar, CLIENTS // 2)
        assert log.refused == 0
        check(log, store, refusals=set())
        async with world(tmp_path, timeout=1.0) as here:
            async with here.load() as log:
                with held(store):
                    enough = log.refused + refusals
                    await log.until(lambda: log.refused >= enough)
                enough = log.succeeded + AFTERWARDS
                await log.until(lambda: log.succeeded >= enough)
            before = log.sent
            async with here.load() as log:
                enough = log.succeeded + AFTERWARDS
                await log.until(lambda: log.succeeded >= enough)
            assert {told.status for number, told in log.told.items() if number >= before} == {200}
        assert not re.search(rb"(?i)snapshot|traceback", b"\n".join(here.sidecar.lines))
        check(here.log, store, refusals={502, 503})

    run(main(), seconds=300)
