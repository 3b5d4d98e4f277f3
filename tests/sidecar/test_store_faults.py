"""The disk fails under a sidecar, call by call: no response without its row, and no row that fsck objects to (A3).

strace lets the n-th call of a thread on the store, its journal or its folder fail, or kills the process there.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.sidecar.fsck_tools import inspect, select
from tests.sidecar.sidecar_tools import TESTS, decision, sidecar
from tests.support import run

STRACE = shutil.which("strace")
SCRIPT = TESTS / "sidecar" / "faulty_sidecar.py"
CALLS = ("fdatasync", "pwrite64", "openat", "ftruncate")
FAULTS = ("error=EIO", "error=ENOSPC", "signal=SIGKILL")
COUNT = 4
"""Evaluations of one run."""

REFUSED = 3
DEADLINE = 120
FEW = {"fdatasync": 3, "pwrite64": 41, "openat": 5}
"""Which call fails every day; under `make chaos` nearly all do."""

STEPS = {"pwrite64": 3}
"""Of the calls that are many, each third fails."""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(STRACE is None, reason="strace is not installed")]


class Run:
    """One process with one fault, ended.

    Args:
        folder: where its store is; the folder is there and empty.
        fault: `-e` of strace, for example `inject=openat:error=EIO:when=2`.
    """

    def __init__(self, folder: Path, fault: str | None = None) -> None:
        self.store = folder / "receipts.sqlite3"
        self._trace = folder.with_suffix(".trace")
        done = subprocess.run(
            self._command(fault),
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
            env=os.environ | {"PYTHONPATH": str(TESTS.parent)},
        )
        self.status, self.errors = done.returncode, done.stderr
        self.answers = [line.split(" ", 1) for line in done.stdout.splitlines()]

    def _command(self, fault: str | None) -> list[str]:
        paths = (self.store, f"{self.store}-journal", self.store.parent)
        options = [f"-P{path}" for path in paths] + [f"-etrace={','.join(CALLS)}", f"-o{self._trace}"]
        options += [] if fault is None else [f"-e{fault}"]
        program = [sys.executable, str(SCRIPT), str(self.store), str(COUNT)]
        return [str(STRACE), "-f", "--seccomp-bpf", "-qq", *options, *program]

    @property
    def injected(self) -> bool:
        """The fault met a call."""
        return "(INJECTED)" in self._trace.read_text(errors="replace") or self.status == -signal.SIGKILL

    @property
    def acknowledged(self) -> set[str]:
        """The ids of the receipts that were sent."""
        return {text for status, text in self.answers if status == "200"}

    def calls(self) -> dict[str, int]:
        """Return how many calls of each name the busiest thread made."""
        found = Counter(re.findall(r"(?m)^(\d+) +(\w+)\(", self._trace.read_text(errors="replace")))
        return {name: max((many for (_, one), many in found.items() if one == name), default=0) for name in CALLS}


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("usual")
    found = Run(folder)
    if not found.answers:
        pytest.skip(f"strace may not trace here: {found.errors.strip()[:200]}")
    assert [status for status, _ in found.answers] == ["200"] * (COUNT + 2) + ["health"]
    return found


def faults(name: str, usual: Run, full_size: bool) -> list[str]:
    """Return what fails: nearly each call in each way, or one."""
    many = usual.calls()[name]
    places = range(1, many + 1, STEPS.get(name, 1)) if full_size else [min(FEW.get(name, 1), many)]
    return [f"inject={name}:{fault}:when={n}" for n in places if n for fault in FAULTS]


@pytest.mark.parametrize("name", CALLS)
def test_no_call_on_the_disk_that_fails_leaves_a_response_without_its_row(
    name: str, usual: Run, tmp_path: Path, full_size: bool
) -> None:
    wanted = faults(name, usual, full_size)
    if not wanted:
        pytest.skip(f"a sidecar does not call {name} with the journal of this SQLite version")
    met = 0
    for number, fault in enumerate(wanted):
        folder = tmp_path / str(number)
        folder.mkdir()
        done = Run(folder, fault)
        met += done.injected
        check_answers(done, fault)
        check_store(done, fault)
        shutil.rmtree(folder)
    assert met > len(wanted) // 2


def test_a_commit_that_fails_is_answered_with_an_error_and_the_next_one_is_stored(usual: Run, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    writes = usual.calls()["pwrite64"]
    done = Run(folder, f"inject=pwrite64:error=ENOSPC:when={writes // 4}")
    statuses = [status for status, _ in done.answers]
    assert "500" in statuses
    assert statuses[-3:] == ["200", "200", "health"]


def check_answers(done: Run, fault: str) -> None:
    """What failed was refused, and afterwards the sidecar stores again, or its health says that it cannot."""
    assert done.status in {0, REFUSED, -signal.SIGKILL}, (fault, done.errors)
    assert "Traceback" not in done.errors, (fault, done.errors)
    statuses = [status for status, _ in done.answers]
    assert all(status in {"200", "health", "refused"} or status.startswith("5") for status in statuses), fault
    if done.status == 0:
        assert statuses[-3:] == ["200", "200", "health"] or done.answers[-1] == ["health", "503"], fault


def check_store(done: Run, fault: str) -> None:
    """After a restart every receipt that was sent is there, new ones are stored, and fsck finds nothing."""

    async def restart() -> None:
        async with sidecar(done.store.parent, store_path=done.store) as app:
            await decision(app, request_id="after the restart")

    run(restart())
    findings, summary = inspect(done.store)
    assert findings == [], fault
    assert summary.rows >= 1
    stored = {str(name) for (name,) in select(done.store, "SELECT id FROM http_receipts")}
    assert done.acknowledged <= stored, fault
