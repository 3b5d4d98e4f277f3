"""The sidecar's clock is moved while requests flow (B5): what is outside of the tolerance never runs, and says why.

libfaketime moves the clock of the sidecar's process alone; the application and the clients keep the real time.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.world import CLIENTS, Log, Sidecar, check, world
from tests.sidecar.fsck_tools import select
from tests.support import run

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)

INSIDE = ("+0", "+50", "-50", "+20")
OUTSIDE = ("+3600", "-3600", "+100", "-100", "@2038-01-19 03:14:07", "@2106-02-07 06:28:15", "@1999-12-31 23:59:59")
"""The tolerance is 60 seconds."""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed")]


def test_a_clock_that_is_moved_under_load_refuses_outside_of_the_tolerance_and_nothing_else(
    tmp_path: Path, full_size: bool
) -> None:
    shift, many = tmp_path / "shift", 10 if full_size else 1
    shift.write_text("+0\n")
    environ = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(shift),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    moves = [move for outside in OUTSIDE for inside in INSIDE for move in (inside, outside)]
    if not full_size:
        moves = ["+0", "+3600", "-50", "-3600", "+50", "@2106-02-07 06:28:15", "+0"]
    wanted: dict[int, int] = {}

    async def main() -> Log:
        async with world(tmp_path, sidecar=Sidecar(tmp_path, **environ), timeout=15.0) as here, here.load() as log:
            for move in moves:
                shift.write_text(f"{move}\n")
                first = log.sent  # what was sent before may have either time
                last = first + CLIENTS * many
                await log.until(lambda first=first, last=last: log.told.keys() >= set(range(first, last)))
                wanted.update(dict.fromkeys(range(first, last), 200 if move in INSIDE else 502))
        found = {number: here.log.told[number].status for number in wanted}
        assert found == wanted
        assert all(b"chio_invalid_receipt" in told.answer for told in here.log.told.values() if told.status == 502)
        return here.log

    log = run(main(), seconds=600)
    store = tmp_path / "receipts.sqlite3"
    check(log, store, refusals={502})
    rows = select(store, "SELECT seq FROM http_receipts ORDER BY rowid")
    assert [seq for (seq,) in rows] == list(range(1, len(rows) + 1))
