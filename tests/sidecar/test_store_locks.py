"""Reading a store's first bytes drops no lock that SQLite has on the file in the same process."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import warnings
from contextlib import closing
from pathlib import Path

import pytest

from chio_sidecar.doctor.store import check_store
from chio_sidecar.records.file import Header, last_kernel_key
from chio_sidecar.store.driver import open_file
from chio_sidecar.store.schema import connect
from tests.sidecar.control_tools import write_store
from tests.viewer.records import receipt

_WRITE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
try:
    connection.execute("BEGIN IMMEDIATE")
    print("locked it")
except sqlite3.OperationalError as exc:
    print(exc)
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_store(tmp_path / "r.sqlite3", [receipt(1), receipt(2)])


def write_elsewhere(path: Path) -> str:
    """Let another process begin to write, and return what it says."""
    asked = subprocess.run([sys.executable, "-c", _WRITE, path], capture_output=True, text=True, check=True)
    return asked.stdout.strip()


def descriptors(path: Path) -> int:
    """Return the number of descriptors of a file that this process has open."""
    found = path.stat()
    count = 0
    for name in os.listdir("/dev/fd"):
        try:
            opened = os.fstat(int(name))
        except OSError:
            continue  # that of the list itself
        count += (opened.st_dev, opened.st_ino) == (found.st_dev, found.st_ino)
    return count


def test_the_lock_of_a_transaction_outlasts_reads_of_the_header(store: Path) -> None:
    with closing(connect(store, journal="persist", busy_seconds=0)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert Header.read(store).is_sqlite
        assert last_kernel_key(store) is not None
        assert any(check.status == "ok" for check in check_store(store))
        assert write_elsewhere(store) == "database is locked"
        writer.execute("ROLLBACK")
        assert write_elsewhere(store) == "locked it"


def test_the_lock_outlasts_the_close_of_a_second_connection(store: Path) -> None:
    with closing(connect(store, journal="persist", busy_seconds=0)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with closing(open_file(store, "mode=ro", busy_seconds=0)):
            Header.read(store)
        Header.read(store)
        assert write_elsewhere(store) == "database is locked"


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="the system does not list the descriptors of a process")
@pytest.mark.parametrize("end", ["closed", "collected"])
def test_no_descriptor_stays_after_the_last_connection_is(store: Path, end: str) -> None:
    first, last = (open_file(store, "mode=ro", busy_seconds=0) for _ in range(2))
    Header.read(store)
    Header.read(store)
    assert descriptors(store) == 3  # SQLite's two, and one for both reads
    first.close()
    first.close()
    assert descriptors(store) >= 2
    if end == "closed":
        last.close()
    else:
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):
            del last
            gc.collect()
    assert descriptors(store) == 0
    Header.read(store)
    assert descriptors(store) == 0
