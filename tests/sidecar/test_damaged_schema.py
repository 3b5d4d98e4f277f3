"""A store with a damaged schema, which SQLite quotes in an error that is not UTF-8, and with a damaged receipt."""

from __future__ import annotations

from pathlib import Path

import pytest

from chio_core.errors import ConfigurationError
from chio_sidecar.doctor.store import check_store
from chio_sidecar.embedded import open_embedded
from chio_sidecar.records.archive import ReceiptFilter
from chio_sidecar.records.listing import ReceiptWindow
from chio_sidecar.records.reader import ReceiptReader
from tests.sidecar.control_tools import CommandLine
from tests.sidecar.fsck_tools import tamper
from tests.viewer.records import fill, receipt

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
