"""An application of several processes is ended by SIGTERM or reloaded under load, and started again (C7).

Every request that ran has its receipt in the store and its client has the response; no process leaves a warning.
"""

from __future__ import annotations

import re
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path

import pytest

from tests.chaos.processes import LIMIT, Application, running, served
from tests.chaos.world import Log, Sidecar, check
from tests.support import run

BETWEEN = 50
"""Requests that succeed before the next end."""

ENDED_BY_US = {0, -15}
UNCLEAN = re.compile(r"Warning|Traceback|Exception ignored|ERROR")


def clean(application: Application) -> None:
    """No line of a process says that something is wrong, but for uvicorn's own socket, which it leaves to the exit."""
    listener = f"proto=0, laddr=('127.0.0.1', {application.port})>"
    unclean = [line for line in application.output if UNCLEAN.search(line) and listener not in line]
    assert not unclean, "".join(application.output)


def everything_answered(log: Log) -> None:
    """A client whose connection was closed before its request was read has no response; it may send it again."""
    lost = {number for number, told in log.told.items() if told.status == 0}
    assert not lost & log.handled.keys()
    assert {told.status for told in log.told.values()} <= {0, 200}


@pytest.mark.slow
def test_workers_that_are_ended_under_load_lose_nothing(tmp_path: Path, full_size: bool) -> None:
    workers, ends = (4, 20) if full_size else (2, 1)
    for where in ("embedded", "sidecar") if full_size else ("embedded",):
        folder = tmp_path / where
        folder.mkdir()
        store, sidecar = folder / "receipts.sqlite3", Sidecar(folder)
        url = f"embedded:{store}" if where == "embedded" else sidecar.address
        application = Application(folder, url, "--workers", str(workers))
        beside = nullcontext() if where == "embedded" else running(sidecar)
        log = run(ended(application, beside, workers, ends), seconds=LIMIT + LIMIT * ends)
        clean(application)
        everything_answered(log)
        rows = check(log, store, refusals={0})
        print(f"{where}: {log.succeeded} succeeded, {log.refused} without a response, {rows} rows")


async def ended(application: Application, beside: AbstractAsyncContextManager[object], workers: int, ends: int) -> Log:
    """End all workers so often while clients send requests, each time when each worker has run some."""
    async with beside, served(application) as here, here.load() as log:
        for number in range(1, ends + 1):
            enough, processes = log.succeeded + BETWEEN, number * workers
            await log.until(
                lambda enough=enough, processes=processes: (
                    log.succeeded >= enough and len(application.pids()) >= processes
                ),
                LIMIT,
            )
            assert await application.end() in ENDED_BY_US
            if number < ends:
                await application.start()
        application.close()  # else the clients would wait for another start
    return log


@pytest.mark.slow
def test_an_application_that_is_reloaded_under_load_loses_nothing(tmp_path: Path, full_size: bool) -> None:
    reloads = 50 if full_size else 1
    watched, store = tmp_path / "watched", tmp_path / "receipts.sqlite3"
    watched.mkdir()

    async def main() -> Log:
        sidecar = Sidecar(tmp_path)
        application = Application(tmp_path, sidecar.address, "--reload", "--reload-dir", str(watched))
        async with running(sidecar), served(application) as here:
            async with here.load() as log:
                for number in range(reloads + 1):
                    enough = log.succeeded + BETWEEN
                    await log.until(
                        lambda enough=enough, number=number: (
                            log.succeeded >= enough and len(application.pids()) > number
                        ),
                        LIMIT,
                    )
                    if number < reloads:
                        (watched / "changed.py").write_text(f"changes = {number}\n")
            assert await application.end() in ENDED_BY_US
        clean(application)
        return log

    log = run(main(), seconds=LIMIT + LIMIT * reloads)
    everything_answered(log)
    rows = check(log, store, refusals={0})
    print(f"{reloads} reloads: {log.succeeded} succeeded, {log.refused} without a response, {rows} rows")
