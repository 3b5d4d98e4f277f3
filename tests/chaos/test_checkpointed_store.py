"""A sidecar writes, four readers read and another process checkpoints the write-ahead log all the while (B7).

Each reader finds every row once and in order while it is written, and each response has its row at the end.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from chio_sidecar.store.driver import open_file, sqlite3
from chio_sidecar.store.schema import journal_for
from tests.sidecar.fsck_tools import inspect, select
from tests.sidecar.sidecar_tools import KERNEL, TESTS

READERS = 4
STEP = 100
"""Responses between two checkpoints, and between two reads of each reader."""


class Progress:
    """How many responses there are."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0
        self._ended = False

    def report(self, count: int, *, ended: bool = False) -> None:
        with self._changed:
            self._count, self._ended = count, ended
            self._changed.notify_all()

    def beyond(self, count: int) -> bool:
        """Wait until there are more than `count`; return False if there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._count > count or self._ended)
            return self._count > count


def read(store: Path, progress: Progress) -> int:
    """Walk through the rows as they come, and return their number."""
    last = 0
    with closing(open_file(store, "mode=ro", busy_seconds=30)) as connection:
        while progress.beyond(last):
            rows = connection.execute("SELECT seq FROM http_receipts WHERE seq > ? ORDER BY seq", [last]).fetchall()
            assert [seq for (seq,) in rows] == list(range(last + 1, last + 1 + len(rows)))
            assert rows, "what was sent has to be there for a reader that begins now"
            last += len(rows)
    return last


@pytest.mark.slow
def test_no_row_is_lost_or_hidden_while_another_process_checkpoints_and_others_read(
    tmp_path: Path, full_size: bool
) -> None:
    store, count = tmp_path / "receipts.sqlite3", 1_000_000 if full_size else 2_000
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    writer = subprocess.Popen(
        [sys.executable, str(TESTS / "sidecar" / "busy_sidecar.py"), str(store), "row", str(count), "64"],
        stdout=subprocess.PIPE,
        text=True,
        env=environ,
    )
    assert writer.stdout is not None
    sent = {writer.stdout.readline().strip()}  # the store is complete when the first response is sent
    checkpointer = subprocess.Popen(
        [sys.executable, str(TESTS / "chaos" / "checkpointer.py"), str(store)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environ,
    )
    assert checkpointer.stdin is not None
    progress = Progress()
    with ThreadPoolExecutor(READERS) as threads:
        readers = [threads.submit(read, store, progress) for _ in range(READERS)]
        try:
            for line in writer.stdout:
                sent.add(line.strip())
                if len(sent) % STEP == 0:
                    progress.report(len(sent))
                    print(file=checkpointer.stdin, flush=True)
        finally:
            progress.report(len(sent), ended=True)
            writer.stdout.close()
        found = [reader.result() for reader in readers]
    copied, _ = checkpointer.communicate()
    assert (writer.wait(), checkpointer.returncode) == (0, 0)
    if journal_for(sqlite3.sqlite_version_info) == "wal":
        assert int(copied) > count / STEP / 10, "the checkpointer has to be at work, too"
    assert found == [count] * READERS
    assert {identifier for (identifier,) in select(store, "SELECT id FROM http_receipts")} == sent
    findings, summary = inspect(store, trusted={KERNEL.public_hex})
    assert (findings, summary.rows) == ([], count)
