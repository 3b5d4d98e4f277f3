"""Several processes on one store, processes that die, and what reaches the disk before a response."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path

import pytest

from chio_core.receipts import verify_receipt
from chio_sidecar.store.driver import sqlite3
from chio_sidecar.store.schema import connect, prepare
from chio_sidecar.store.sqlite import SqliteReceiptStore
from tests import prefork
from tests.sidecar.fsck_tools import inspect
from tests.sidecar.sidecar_tools import KERNEL, TESTS
from tests.support import run

DEADLINE = 120


def start(store: Path, name: str, count: int) -> prefork.Process:
    program = "tests.sidecar.busy_sidecar"
    return prefork.Process(program, [store, name, count, 8], stdout=subprocess.PIPE, env=os.environ)


def stored(path: Path) -> dict[str, dict[str, object]]:
    """Return all receipts by id, after the store was opened again; every signature and the chain are good."""

    async def read() -> dict[str, dict[str, object]]:
        store = SqliteReceiptStore(path)
        try:
            rows = await store.list(limit=1_000_000)
        finally:
            await store.close()
        return {row.receipt_id: json.loads(row.receipt_json) for row in rows}

    receipts = run(read())
    for receipt in receipts.values():
        verify_receipt(receipt, trusted_keys=[KERNEL.public_hex])
    assert inspect(path)[0] == []
    return receipts


def test_a_process_that_is_killed_loses_no_receipt_that_it_sent(tmp_path: Path) -> None:
    path, acknowledged = tmp_path / "r.sqlite3", set()
    for number in range(5):
        process = start(path, f"run-{number}", 100_000)
        with process.stdout as answers:
            for _ in range(150 + 37 * number):
                acknowledged.add(answers.readline().strip())
            process.send_signal(signal.SIGKILL)
            acknowledged.update(line.strip() for line in answers if line.endswith("\n"))
        process.wait(timeout=DEADLINE)
        assert acknowledged <= stored(path).keys()
    assert len(acknowledged) > 1000


def test_two_processes_write_to_one_store(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite3"
    processes = [start(path, name, 400) for name in ("one", "two")]
    acknowledged = set()
    for process in processes:
        answers, _ = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0
        acknowledged.update(answers.split())
    assert len(acknowledged) == 800
    assert stored(path).keys() == acknowledged


def test_a_store_that_another_process_makes_in_the_same_moment_is_opened_when_it_is_done(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite3"
    prepare(path, journal="persist", busy_seconds=DEADLINE)
    with closing(sqlite3.connect(path, isolation_level=None)) as other, ThreadPoolExecutor(1) as thread:
        other.execute("BEGIN IMMEDIATE")
        opened = thread.submit(connect, path, journal="wal", busy_seconds=DEADLINE)
        wait([opened], timeout=0.2)  # an error would come at once
        other.execute("COMMIT")
        opened.result().close()


STRACE = shutil.which("strace")
CALL = re.compile(r"(?P<name>\w+)\((?P<fd>\d+)<(?P<path>[^>]*)>")


@pytest.mark.skipif(STRACE is None, reason="strace is not installed")
def test_a_row_is_synced_to_the_disk_before_its_response(tmp_path: Path) -> None:
    path, trace = tmp_path / "r.sqlite3", tmp_path / "trace"
    assert STRACE is not None
    options = ("-f", "--seccomp-bpf", "-y", "-qq", "-e", "trace=pwrite64,fdatasync,fsync,write", "-o", str(trace))
    done = subprocess.run(
        [STRACE, *options, sys.executable, "-m", "tests.sidecar.busy_sidecar", str(path), "traced", "1000", "1"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=os.environ | {"PYTHONPATH": str(TESTS.parent)},
        check=False,
    )
    if done.returncode != 0 and not done.stdout:
        pytest.skip("strace may not trace here")
    assert len(done.stdout.split()) == 1000
    assert syncs_before_answers(trace.read_text(errors="replace"), path) == ["synced"] * 1000


def syncs_before_answers(trace: str, path: Path) -> list[str]:
    """Return for each response whether the file was written since the last one, and everything written is synced."""
    found: list[str] = []
    dirty: set[str] = set()
    written = False
    for line in _finished_calls(trace):
        call = CALL.search(line)
        if call is None:
            continue
        name, file = call["name"], call["path"]
        if name == "write" and call["fd"] == "1":
            found.append("synced" if written and not dirty else f"written: {written}, not synced: {dirty}")
            written = False
        elif name == "pwrite64" and file.startswith(str(path)) and not file.endswith("-shm"):  # SQLite makes that anew
            dirty.add(file)
            written = written or file in (str(path), f"{path}-wal")
        elif line.endswith("= 0"):
            dirty.discard(file)
    return found


def _finished_calls(trace: str) -> list[str]:
    # The trace splits a call that another thread interrupts into two halves.
    halves: dict[str, str] = {}
    lines = []
    for line in trace.splitlines():
        process, _, text = line.partition(" ")
        if text.endswith("<unfinished ...>"):
            halves[process] = text.removesuffix("<unfinished ...>").rstrip()
        elif "resumed>" in text:
            lines.append(halves.pop(process, "") + text.partition("resumed>")[2])
        else:
            lines.append(text)
    return lines
