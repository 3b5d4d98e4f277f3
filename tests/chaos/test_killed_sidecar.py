"""The sidecar is killed under load, again and again (A1).

Whatever the kills hit, afterwards three sets are compared: what the handler was allowed to do and what the
clients were told is in the store, each receipt of it verifies, and no refused request reached the handler.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.world import Log, check, world
from tests.support import run

BETWEEN_KILLS = 100
"""Requests that succeed before the next kill."""


async def load(folder: Path, kills: int) -> Log:
    async with world(folder) as here, here.load() as log:
        for _ in range(kills):
            enough = log.succeeded + BETWEEN_KILLS
            await log.until(lambda enough=enough: log.succeeded >= enough)
            await here.sidecar.end()  # while it answers: the clients do not know
            here.up.clear()
            await here.sidecar.start()
            here.up.set()
        enough = log.succeeded + BETWEEN_KILLS
        await log.until(lambda: log.succeeded >= enough)
    return log


@pytest.mark.slow
def test_nothing_that_was_allowed_is_missing_from_the_store(tmp_path: Path, full_size: bool) -> None:
    kills = 50 if full_size else 5
    log = run(load(tmp_path, kills), seconds=60 + 10 * kills)
    check(log, tmp_path / "receipts.sqlite3", refusals={502, 503})
    assert log.succeeded >= BETWEEN_KILLS * (kills + 1)
