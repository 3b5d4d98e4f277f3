"""Ten times the load that can be decided (C4): the surplus is refused in time, and the rest succeeds.

Capacity is what the test says: the sidecar's responses take `DELAY`, for a number of connections, or its rate is
limited. The figures that are compared are counts of one run.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from benchmarks.usage import resident_mib
from tests.chaos.processes import Application, running, served
from tests.chaos.world import Log, Sidecar, check
from tests.support import run

DELAY = 0.2
CONNECTIONS = 4
TIMEOUT = 2.0
CAPACITY = CONNECTIONS / DELAY
"""Decisions in a second."""

CLIENTS = round(10 * CAPACITY * TIMEOUT / 2)
"""Each is refused after half of the timeout, and sends again: ten times the capacity."""

GROWTH = 8
"""Most MiB that the second half of the load may add."""


@asynccontextmanager
async def delayed(folder: Path, sidecar: Sidecar) -> AsyncIterator[str]:
    """Stand in front of a sidecar, whose responses arrive later; gives the address."""
    relays: set[asyncio.StreamWriter] = set()

    async def pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter, delay: float) -> None:
        try:
            while data := await source.read(65536):
                await asyncio.sleep(delay)
                target.write(data)
        except ConnectionError:
            pass
        finally:
            target.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relays.add(writer)
        try:
            source, target = await asyncio.open_unix_connection(sidecar.address.removeprefix("unix:"))
            await asyncio.gather(pass_on(reader, target, 0), pass_on(source, writer, DELAY))
        finally:
            relays.discard(writer)

    path = folder / "delayed.sock"
    server = await asyncio.start_unix_server(relay, path)
    try:
        yield f"unix:{path}"
    finally:
        server.close()
        while relays:
            for writer in list(relays):
                writer.close()
            await asyncio.sleep(0)


def surplus_is_refused(log: Log) -> None:
    """Each refusal says that this is overload and when to come again; `fail_open` lets none of it run."""
    for told in log.told.values():
        if told.status != 200:
            assert told.status == 503, told.answer
            assert b"chio_overloaded" in told.answer
            assert b"\r\nretry-after: 1\r\n" in told.answer


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["connections", "rate"])
def test_ten_times_the_load_is_refused_in_time_and_what_is_decided_is_used(
    limit: str, tmp_path: Path, full_size: bool
) -> None:
    enough = 6_000 if full_size else 400
    store = tmp_path / "receipts.sqlite3"

    async def main() -> Log:
        arguments = [] if limit == "connections" else ["--max-evaluations-per-second", str(round(CAPACITY))]
        sidecar = Sidecar(tmp_path, *arguments)
        async with delayed(tmp_path, sidecar) as address:
            options = {"CHIO_FAIL_OPEN": "true", "CHIO_TIMEOUT": str(TIMEOUT)}
            if limit == "connections":
                options["CHIO_MAX_CONNECTIONS"] = str(CONNECTIONS)
            else:
                address = sidecar.address
            application = Application(tmp_path, address, **options)
            async with running(sidecar), served(application) as here:
                async with here.load(CLIENTS) as log:
                    await log.until(lambda: log.refused >= enough / 2, 300)
                    before = [resident_mib(pid) for pid in (application.pid, sidecar.pid)]
                    await log.until(lambda: log.refused >= enough, 300)
                    after = [resident_mib(pid) for pid in (application.pid, sidecar.pid)]
                surplus_is_refused(log)
                succeeded = log.succeeded
                if limit == "connections":
                    for _ in range(3):  # the very next requests are within the capacity again
                        first = log.sent
                        told = await asyncio.gather(*(here.send(first + one) for one in range(CONNECTIONS)))
                        assert [one.status for one in told] == [200] * CONNECTIONS
                    succeeded += 3 * CONNECTIONS
        rows = check(log, store, refusals={503})
        print(f"{limit}: {log.refused} refused, {succeeded} succeeded, {rows} rows, MiB {before} to {after}")
        assert succeeded >= 0.75 * rows, "the sidecar decided for requests that had been given up"
        assert all(late - early < GROWTH for early, late in zip(before, after, strict=True))
        return log

    run(main(), seconds=900)
