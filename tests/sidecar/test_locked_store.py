"""A store that another process holds: every reader says so, and none of them calls it damaged or incomplete."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from chio_core.errors import ConfigurationError
from chio_sidecar.doctor.store import check_store
from chio_sidecar.embedded import open_embedded
from chio_sidecar.records.archive import ReceiptFilter
from chio_sidecar.records.fsck import Inspection
from chio_sidecar.records.listing import ReceiptWindow
from chio_sidecar.records.reader import ReceiptReader
from chio_sidecar.store.driver import sqlite3, trouble
from chio_sidecar.store.sqlite import SqliteReceiptStore
from tests.sidecar.control_tools import CommandLine, write_store
from tests.sidecar.fsck_tools import tamper
from tests.viewer.records import fill, receipt

ROWS = 1_200
BUSY = 0.05  # seconds


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_store(tmp_path / "r.sqlite3", map(receipt, range(1, ROWS + 1)))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the file as another process does that writes for long."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


def test_a_store_that_is_locked_in_the_middle_of_a_check_has_no_findings_about_the_rest(store: Path) -> None:
    tamper(store, "UPDATE http_receipts SET created_at = '2026' WHERE seq = 1")
    with closing(Inspection(store, busy_seconds=BUSY)) as inspection:
        findings = inspection.findings()
        assert next(findings).row == 1
        with locked(store):
            assert list(findings) == []
    summary = inspection.summary
    assert 1 < summary.rows < ROWS
    assert summary.unfinished == (
        f"rows after row {summary.rows}: database is locked; another process holds it; try again, or stop that process"
    )
    assert (summary.findings, summary.head) == (1, None)
    with closing(Inspection(store)) as inspection:
        assert len(list(inspection.findings())) == 1
    assert (inspection.summary.rows, inspection.summary.unfinished) == (ROWS, None)


CALLS: dict[str, Callable[[Path], object]] = {
    "reader": lambda path: ReceiptReader(path, busy_seconds=BUSY),
    "fsck": lambda path: Inspection(path, busy_seconds=BUSY),
    "store": lambda path: SqliteReceiptStore(path, busy_seconds=BUSY),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_locked_store_is_called_locked_by_every_reader(name: str, store: Path) -> None:
    with locked(store), pytest.raises(ConfigurationError) as caught:
        CALLS[name](store)
    assert "database is locked; another process holds it; try again" in caught.value.message
    assert all(word not in caught.value.message for word in ("damaged", "name the sidecar's file", "backup"))


def test_a_reader_whose_store_is_locked_between_two_windows_says_so(store: Path) -> None:
    with ReceiptReader(store, busy_seconds=BUSY) as reader, locked(store), pytest.raises(ConfigurationError) as caught:
        list(reader.rows(ReceiptFilter()))
    assert "another process holds it" in caught.value.message


def test_the_doctor_does_not_conclude_from_a_locked_store_that_there_never_was_a_key(store: Path) -> None:
    with locked(store):
        checks = {check.name: check for check in check_store(store, busy_seconds=BUSY)}
    assert "locked" in checks["store"].text
    assert "another process holds it" in str(checks["store"].remedy)
    assert (checks["key"].status, "the store may have receipts" in checks["key"].text) == ("fail", True)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_BUSY | 2 << 8, "busy"),  # SQLITE_BUSY_SNAPSHOT, an extended code
        (sqlite3.SQLITE_IOERR | 1 << 8, "machine"),  # SQLITE_IOERR_READ
        (sqlite3.SQLITE_FULL, "machine"),
        (sqlite3.SQLITE_CORRUPT | 3 << 8, "content"),  # SQLITE_CORRUPT_INDEX
        (sqlite3.SQLITE_NOTADB, "content"),
    ],
)
def test_only_damage_is_a_statement_about_the_content(code: int, kind: str) -> None:
    exc = sqlite3.DatabaseError("a message that names neither")
    exc.sqlite_errorcode = code
    assert trouble(exc).kind == kind


# A store with a damaged schema, which SQLite quotes in an error that is not UTF-8, and with a damaged receipt


MESSAGE = "its schema is damaged"


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    path = fill(tmp_path / "s.sqlite3", [receipt(1)])
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE http_receipts", b"CREATE \xfcABLE http_receipts"))
    return path


def test_every_reader_reports_it_in_one_sentence(damaged: Path) -> None:
    with pytest.raises(ConfigurationError, match=MESSAGE):
        ReceiptWindow(damaged).newest()
    with pytest.raises(ConfigurationError, match=MESSAGE):
        ReceiptReader(damaged, option="--receipt-store")
    with pytest.raises(ConfigurationError, match=MESSAGE):
        open_embedded(str(damaged))
    assert any(check.status == "fail" and MESSAGE in check.text for check in check_store(damaged))


@pytest.mark.parametrize("command", [["receipt", "diff"], ["explain", "receipt-00001"]], ids=["diff", "explain"])
def test_commands_end_with_that_sentence(command: list[str], damaged: Path, cli: CommandLine) -> None:
    assert MESSAGE in cli.fails(*command, "--receipt-store", damaged)


def test_a_receipt_that_is_not_utf8_is_reported_with_its_row(tmp_path: Path, cli: CommandLine) -> None:
    path = fill(tmp_path / "s.sqlite3", [receipt(1), receipt(2)])
    tamper(path, "UPDATE http_receipts SET receipt_json = CAST(x'7bff7d' AS TEXT) WHERE seq = 2")
    assert f"row 2 of {path} (--receipt-store) is damaged" in cli.fails("receipt", "list", "--receipt-store", path)
    assert [row.get("damaged", False) for row in ReceiptWindow(path).list(ReceiptFilter()).rows] == [True, False]
