"""The disk fails under an application with an embedded sidecar, call by call, without a tracer (A3).

No handler runs without its row, also with `fail_open`: an embedded sidecar cannot be unreachable. Afterwards requests
are served again, without a restart, and fsck finds nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.chaos.faulty_disk import COUNT
from tests.sidecar.fsck_tools import inspect, select
from tests.sidecar.sidecar_tools import TESTS
from tests.support import environment

SCRIPT = TESTS / "chaos" / "faulty_disk.py"
HOWS = ("full", "error", "kill")
FEW = {"open": [2], "write": [41], "sync": [6], "truncate": [1]}
"""Which call fails every day; under `make chaos` nearly all do."""

STEPS = {"write": 3}
"""Of the calls that are many, each third fails."""

AT_ONCE = 30
"""Faults for one start of the script."""

Lines = list[list[str]]


def run(folder: Path, faults: list[str]) -> dict[str, Lines]:
    """Return what each fault printed."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), *faults],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        env=environment(PYTHONPATH=os.pathsep.join(sys.path)),
    )
    assert "Traceback" not in done.stderr, done.stderr
    found: dict[str, Lines] = defaultdict(list)
    for line in done.stdout.splitlines():
        fault, *words = line.split(" ")
        found[fault].append(words)
    return found


def check(store: Path, lines: Lines, *, killed: bool) -> None:
    """No handler without its row, no response without it either; the requests after the fault are served."""
    statuses = [words[0] for words in lines if words[0].isdigit()]
    told = {words[1] for words in lines if words[0] == "200"}
    ran = lines.count(["ran"])
    rows = (
        dict(select(store, "SELECT id, json_extract(receipt_json, '$.kernel_key') FROM http_receipts")) if ran else {}
    )
    assert told <= rows.keys()
    assert len(told) <= ran <= len(rows)
    assert set(statuses) <= {"200", "500", "502", "503"}
    if not killed:
        assert len(statuses) == COUNT
        after = lines[lines.index(["met"]) :] if ["met"] in lines else lines
        _, *others = [words[0] for words in after if words[0].isdigit()] or ["200"]
        assert set(others) <= {"200"}, "the request that met the fault may fail, and no other"
    if rows:
        findings, summary = inspect(store, trusted=set(rows.values()))
        assert (findings, summary.rows) == ([], len(rows))
        assert len(set(rows.values())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", FEW)
def test_no_handler_of_an_embedded_sidecar_runs_without_its_row_whichever_call_on_the_disk_fails(
    name: str, tmp_path: Path, full_size: bool
) -> None:
    places, met = FEW[name], True
    while met:
        faults = [f"{name}:{place}:{how}" for place in places for how in HOWS]
        for fault, lines in run(tmp_path, faults).items():
            met = ["met"] in lines
            assert met or full_size, fault
            check(tmp_path / fault / "receipts.sqlite3", lines, killed=fault.endswith("kill") and met)
        last = places[-1]
        places = list(range(last + 1, last + 1 + AT_ONCE, STEPS.get(name, 1)))
        met = met and full_size
