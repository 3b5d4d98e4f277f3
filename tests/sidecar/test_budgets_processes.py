"""Two processes on one store: what one spends or uses, the other cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.sidecar.approval_tools import approved
from tests.sidecar.sidecar_tools import TESTS, sidecar

SCRIPT = TESTS / "sidecar" / "spending_sidecar.py"
DEADLINE = 60


async def test_two_processes_spend_no_more_than_one_budget_and_use_one_approval_once(tmp_path: Path) -> None:
    path = tmp_path / "receipts.sqlite3"
    async with sidecar(tmp_path, store_path=path) as app:
        approval_id = await approved(app)
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(path), name, "250", "300", approval_id],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(TESTS.parent)},
        )
        for name in ("one", "two")
    ]
    counts = [process.communicate(timeout=DEADLINE)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    spent, used = (sum(int(count[place]) for count in counts) for place in (0, 1))
    assert (spent, used) == (300, 1)
